r"""Truncated sequential estimation for one observation: ``fit_truncated`` -> `TruncatedPosterior`.

Simulations from all over the prior are wasted on an observation whose posterior is narrow.  Each round simulates theta
only where the last posterior is not negligible at the observation x_o,

.. math:: T_{r+1} = T_r \cap \{\theta : q_r(\theta \mid x_o) \ge t_r\}, \qquad
          P_{q_r}(q_r < t_r) = \epsilon,

and the next flow is trained on the simulations of all rounds that lie inside.  These follow the prior there, so that
there is nothing to correct for, and q(theta | x_o) is the posterior but for the fraction epsilon that was cut off each
time.  It is right near x_o, and nowhere else.

**Draws of the truncated prior** are draws of the prior that lie inside, as long as some percent do.  When fewer do,
theta is drawn evenly in the box around the region, again by rejection, and the simulations carry the prior's density as
a weight.

Sources: Deistler, Goncalves, Macke, arXiv 2210.04815 (truncated proposals); Miller, Cole, Forre, Louppe, Weniger, arXiv
2107.01214 (truncation, for ratios).
"""

from __future__ import annotations

import logging
import math
import os
from collections.abc import Sequence
from concurrent.futures import Executor
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray

from .. import hashing, store
from ..density import NSF, Density
from ..density.flows import Flow
from ..events import Events, Ragged
from ..features import Features
from ..nets import Network, Standardise
from ..ratio.parameters import column_values
from ..train import History, Training
from .base import Posterior, one
from .neural import NeuralPosterior, fit_posterior
from .priors import Inside, Prior, PriorLike, Truncated
from .simulation import Errors, Form, Simulations, Simulator, simulate
from .simulation import decoded as _decoded
from .simulation import encoded as _encoded

__all__ = ["Region", "Round", "TruncatedPosterior", "fit_truncated"]

_log = logging.getLogger("nuinfer")

Floats = NDArray[np.float64]
Mask = NDArray[np.bool_]

_DRAWS, _MOST_DRAWS = 10_000, 200_000  # of a posterior, for the threshold and the box; more for a small epsilon
_BELOW = 5  # of them below the threshold
_SLACK = 1e-9  # of a log density in double precision
_PILOT = 4000  # draws that tell how much of a distribution is inside
_ENOUGH = 0.03  # inside, for the prior to be drawn from
_LEAST = 1e-3  # inside, for the box to be drawn from
_MARGIN = 0.05  # of the box on each side, in units of its width


@dataclass(frozen=True, eq=False)
class Region:
    """Where a posterior is not negligible at an observation: log q >= ``threshold``, within a box ``low``, ``high``."""

    density: Density
    observation: Events
    threshold: float
    low: Floats
    high: Floats

    @classmethod
    def of(cls, posterior: NeuralPosterior, observation: Events, epsilon: float, seed: int) -> Region:
        """The region that holds 1 - epsilon of the posterior's draws."""
        draws = posterior.draws(_draws_for(epsilon), observation, seed=seed)[0]
        logs = _log_q(posterior.density, draws, observation)
        threshold = float(np.quantile(logs, epsilon)) - _SLACK
        held = draws[logs >= threshold]
        edge = _MARGIN * np.ptp(held, axis=0)
        bounds = [(-np.inf if a is None else a, np.inf if b is None else b) for a, b in posterior.prior.bounds]
        low, high = np.array(bounds).T
        return cls(
            posterior.density, observation, threshold, np.maximum(held.min(0) - edge, low),
            np.minimum(held.max(0) + edge, high),
        )  # fmt: skip

    def contains(self, theta: Floats) -> Mask:
        """Which points (n, P) lie inside (n,)."""
        inside = np.asarray(((theta >= self.low) & (theta <= self.high)).all(1))
        if inside.any():
            inside[inside] = self.log_q(theta[inside]) >= self.threshold
        return inside

    def log_q(self, theta: Floats) -> Floats:
        """The log density of points (n, P), the same whatever other points are asked about (n,)."""
        return _log_q(self.density, theta, self.observation)


@dataclass(frozen=True, eq=False)
class _Double(Density):
    """A density with the same weights that works in double precision.

    In float32 the log density of a point depends, in its last digits, on the other points of its batch, and those at a
    region's edge would lie inside once and outside the next time.
    """

    def _scales(self, dtype: torch.dtype) -> Standardise:
        return super()._scales(torch.float64)


def _log_q(density: Density, theta: Floats, observation: Events) -> Floats:
    """Log densities (n,) of points (n, P) at one observation, to double precision."""
    parts = {part.name: getattr(density, part.name) for part in fields(Density)}
    parts["model"] = replace(density.model, state={name: x.double() for name, x in density.model.state.items()})
    return np.asarray(_Double(**parts).log_probs(theta[None], observation)[0])


def _draws_for(epsilon: float) -> int:
    """Draws that resolve the quantile of a fraction epsilon."""
    return max(_DRAWS, math.ceil(round(_BELOW / epsilon, 3)))


@dataclass(frozen=True)
class Round:
    """What one round did.

    Attributes
    ----------
    simulations, failures:
        New ones.
    inside:
        Simulations of all rounds inside the region: what the flow was trained on.
    effective:
        Their effective number, (sum w)^2 / sum w^2.
    volume, volume_error:
        The prior's content of the region.
    acceptance:
        The fraction of draws that lay inside, of the prior or of a box.
    boxed:
        Whether it was a box.
    """

    simulations: int
    failures: int
    inside: int
    effective: float
    volume: float
    volume_error: float
    acceptance: float
    boxed: bool

    def __str__(self) -> str:
        how = "in a box" if self.boxed else "of the prior"
        failed = f", {self.failures} failed" if self.failures else ""
        return (f"{self.simulations} simulations{failed}, trained on {self.inside} (effective {self.effective:.0f}); "
                f"region {self.volume:.3g} +- {self.volume_error:.1g} of the prior, acceptance {self.acceptance:.2g} "
                f"{how}")  # fmt: skip


@dataclass(frozen=True, eq=False)
class TruncatedPosterior(Posterior):
    """The posterior at one observation; made by `fit_truncated`.

    Attributes
    ----------
    prior:
        The whole prior.
    posterior:
        The last round's flow, whose prior is the truncated one.
    observation:
        The only one that it is for.
    regions:
        By which the prior was truncated, one fewer than rounds.
    rounds:
        What each round did.
    """

    prior: Prior
    posterior: NeuralPosterior
    observation: Events
    regions: tuple[Region, ...]
    rounds: tuple[Round, ...]

    @property
    def features(self) -> Features:
        """The columns x of the observation."""
        return self.posterior.features

    @property
    def history(self) -> History:
        """Risks per epoch and network of the last round."""
        return self.posterior.history

    def draws(self, n: int, observations: Events, *, seed: int = 0) -> Floats:
        """``n`` draws (N, n, P) of theta for N times the observation.

        Raises
        ------
        ValueError
            for another observation: there the truncated prior has cut off more than a fraction epsilon.
        """
        self._check(observations)
        return self.posterior.draws(n, observations, seed=seed)

    def log_probs(self, theta: ArrayLike, observations: Events) -> Floats:
        """Log densities (N, M) of points (N, M, P) for N times the observation; -inf outside the truncated prior."""
        self._check(observations)
        return self.posterior.log_probs(theta, observations)

    def _check(self, observations: Events) -> None:
        for name in self.features.columns:
            other = [row for row in range(len(observations)) if not _same(observations, row, self.observation, name)]
            if other:
                raise ValueError(f"observations: expected the one that the prior was truncated for, found another "
                                 f"{name!r} in row {other[0]}; fit_posterior makes a posterior for all")  # fmt: skip

    def __repr__(self) -> str:
        lines = [f"TruncatedPosterior({self.posterior!r} at one observation)"]
        return "\n".join(lines + [f"  round {i + 1}: {found}" for i, found in enumerate(self.rounds)])

    # -- files ---------------------------------------------------------------------------------------------------------

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write everything, the flows of all rounds, to one safetensors file, atomically."""
        densities = [*(region.density for region in self.regions), self.posterior.density]
        specs, arrays = [], store.under("observation:", _encoded(self.observation))
        for i, density in enumerate(densities):
            spec, own = density.saved()
            specs.append(spec)
            arrays |= store.under(f"{i}:", own)
        for i, region in enumerate(self.regions):
            arrays |= {f"region {i}": np.stack([region.low, region.high])}
        spec = {
            "prior": self.prior.to_json(), "densities": specs, "rounds": [asdict(found) for found in self.rounds],
            "thresholds": [region.threshold for region in self.regions],
        }  # fmt: skip
        store.save(path, "truncated posterior", spec, arrays)

    @classmethod
    def load(
        cls, path: str | os.PathLike[str], *, module: Any = None, prior: PriorLike | None = None,
        inside: Inside | None = None,
    ) -> TruncatedPosterior:  # fmt: skip
        """Read what `save` wrote; ``module``, ``prior`` and ``inside`` as in `NeuralPosterior.load`.

        Raises
        ------
        CorruptFile
            for a file that is damaged; ``ValueError`` for one of another kind, or what has to be given again;
            ``FileNotFoundError`` for none.
        """
        spec, arrays = store.load(path, "truncated posterior")
        observation = _decoded(store.within("observation:", arrays))
        densities = [
            Density.of_saved(own, store.within(f"{i}:", arrays), module=module)
            for i, own in enumerate(spec["densities"])
        ]
        found = Prior.from_json(spec["prior"], distribution=prior, inside=inside)
        regions = tuple(
            Region(density, observation, threshold, *arrays[f"region {i}"])
            for i, (density, threshold) in enumerate(zip(densities, spec["thresholds"], strict=False))
        )
        rounds = tuple(Round(**own) for own in spec["rounds"])
        last = NeuralPosterior(
            _Support(found, regions).prior(rounds[-1].volume, rounds[-1].volume_error), densities[-1]
        )
        return cls(found, last, observation, regions, rounds)


def _same(events: Events, row: int, other: Events, name: str) -> bool:
    """Whether a column of a row is that of the single row of ``other``."""
    mine, theirs = events.keep([name]).select([row])[name], other[name]
    if isinstance(mine, Ragged) and isinstance(theirs, Ragged):
        return bool(np.array_equal(mine.values, theirs.values))
    return not isinstance(mine, Ragged) and bool(mine[0] == theirs[0])


# -- the truncated prior -----------------------------------------------------------------------------------------------


class _Drawing(NamedTuple):
    """What theta is drawn from, the prior's content of the region with its error, and whether it is a box."""

    source: Prior
    volume: float
    error: float
    acceptance: float
    boxed: bool


class _Support(NamedTuple):
    """A prior and the regions that all hold."""

    base: Prior
    regions: tuple[Region, ...]

    def contains(self, theta: Floats) -> Mask:
        """Which points (n, P) lie in all regions; the last and smallest is asked first."""
        inside = self.base.contains(theta)
        for region in reversed(self.regions):
            inside[inside] = region.contains(theta[inside])
        return inside

    def prior(self, volume: float, error: float) -> Prior:
        """The truncated prior with its content, for its density; `drawing` has what to draw from."""
        if not self.regions:
            return self.base
        b = self.base
        return Truncated(b.names, b.bounds, b.blocks, b, self.contains, volume, error, 1e-300)

    def drawing(self, seed: int) -> _Drawing:
        """The prior, or a box around the last region, cut down to what is inside."""
        if not self.regions:
            return _Drawing(self.base, 1.0, 0.0, 1.0, False)
        share = float(self.contains(self.base.sample(_PILOT, seed=seed)).mean())
        error = math.sqrt(share * (1 - share) / _PILOT)
        if share >= _ENOUGH:
            return _Drawing(self.base.restricted(self.contains, seed=seed, floor=_LEAST), share, error, share, False)
        last = self.regions[-1]
        sides = zip(self.base.names, zip(last.low.tolist(), last.high.tolist(), strict=True), strict=True)
        box = Prior.of(dict(sides))
        theta = box.sample(_PILOT, seed=seed)
        inside = self.contains(theta)
        content = np.where(inside, np.exp(self.base.log_prob(theta) - box.log_prob(theta)), 0.0)
        _check_share(float(inside.mean()))
        source = box.restricted(self.contains, seed=seed, floor=_LEAST / 2)
        volume, spread = float(content.mean()), float(content.std() / math.sqrt(_PILOT))
        return _Drawing(source, volume, spread, float(inside.mean()), True)


def _check_share(share: float) -> None:
    if share < _LEAST:
        raise ValueError(f"truncated prior: expected some of the box around the region to lie inside, found "
                         f"{share:.2g} of {_PILOT} draws; it is too curved, or has too many dimensions: use "
                         f"fewer rounds, a larger epsilon, or fit_posterior with more simulations")  # fmt: skip


# -- the rounds --------------------------------------------------------------------------------------------------------


class _Budget(NamedTuple):
    """How theta is simulated."""

    simulator: Simulator
    prior: Prior
    vectorised: bool | int
    form: Form
    columns: Sequence[str] | None
    errors: Errors
    executor: Executor | None
    cache: str | os.PathLike[str] | None
    progress: bool

    def simulate(self, drawing: _Drawing, n: int, seed: int, number: int) -> Simulations:
        """``n`` simulations of the truncated prior; those of a box have the prior's density as a weight."""
        folder = None if self.cache is None else Path(self.cache) / f"round{number}"
        return simulate(
            self.simulator, self.prior if drawing.boxed else drawing.source, n, seed=seed, vectorised=self.vectorised,
            theta=self.form, columns=self.columns, proposal=drawing.source if drawing.boxed else None,
            executor=self.executor, cache=folder, errors=self.errors, progress=self.progress,
        )  # fmt: skip


def fit_truncated(
    simulator: Simulator,
    prior: PriorLike,
    observation: Events,
    features: Features | list[str],
    *,
    rounds: int = 4,
    simulations: int = 1000,
    epsilon: float = 1e-4,
    vectorised: bool | int = True,
    theta: Form = "array",
    columns: Sequence[str] | None = None,
    errors: Errors = "raise",
    executor: Executor | None = None,
    cache: str | os.PathLike[str] | None = None,
    network: Flow = NSF(),  # noqa: B008 - a frozen spec
    embedding: Network | None = None,
    summaries: int = 16,
    members: int = 5,
    validation: float = 0.1,
    training: Training | None = None,
    seed: int,
    device: str = "cpu",
    progress: bool = True,
) -> TruncatedPosterior:
    """Learn the posterior of one observation, with simulations where it is.

    Parameters
    ----------
    simulator, vectorised, theta, columns, errors, executor:
        As in `nuinfer.posterior.simulate`.
    prior:
        See `Prior.of`.
    observation:
        One row with the columns of ``features``.
    features:
        The columns x of what the simulator gives.
    rounds, simulations:
        How often the prior is truncated and the flow trained, with so many new simulations each.
    epsilon:
        The fraction of each posterior that is cut off; the last answer lacks about (rounds - 1) times this.  At least
        2.5e-5, which takes 200,000 draws of the posterior in each round.
    cache:
        A folder for finished simulations, from which a killed run goes on.
    network, embedding, summaries, members, validation, training, device, progress:
        As in `nuinfer.posterior.fit_posterior`.

    Raises
    ------
    ValueError
        for rounds, simulations or epsilon out of range, a region too small for rejection, or as `fit_posterior`.
    TaskError
        where simulations fail.
    KeyError, TypeError
        for columns that are missing or of the wrong kind.

    Examples
    --------
    >>> def scatter(theta, rng):
    ...     return theta + 0.1 * rng.normal(size=theta.shape)
    >>> posterior = fit_truncated(
    ...     scatter, {"a": (-10.0, 10.0)}, Events({"x0": [1.0]}), ["x0"], rounds=2, simulations=500, members=1,
    ...     network=NSF(transforms=1, width=16), epsilon=1e-3, seed=1, progress=False,
    ...     training=Training(epochs=40, batch=64, learning_rate=0.01))
    >>> draws = posterior.sample(2000, Events({"x0": [1.0]}), seed=1)["a"]  # exact: N(1, 0.1^2)
    >>> bool(abs(draws.mean() - 1.0) < 0.05), bool(posterior.rounds[1].volume < 0.5)
    (True, True)
    """
    found, seen = Prior.of(prior), Features.of(features)
    _check(rounds, simulations, epsilon)
    observation = one(observation).keep(seen.columns)
    seen.check(observation)
    budget = _Budget(simulator, found, vectorised, theta, columns, errors, executor, cache, progress)
    parts: list[Events] = []
    history: list[Round] = []
    support = _Support(found, ())
    for number in range(rounds):
        drawing = support.drawing(_seed(seed, "region", number))
        made = budget.simulate(drawing, simulations, _seed(seed, "simulations", number), number)
        parts.append(made.events)
        used = _inside(parts, support)
        posterior = fit_posterior(
            used, support.prior(drawing.volume, drawing.error), seen, network=network, embedding=embedding,
            summaries=summaries, members=members, validation=validation, training=training,
            seed=_seed(seed, "flow", number), device=device, progress=progress,
        )  # fmt: skip
        history.append(Round(simulations, len(made.failures), len(used), used.effective_size, *drawing[1:]))
        _log.info("round %d: %s", number + 1, history[-1])
        if number + 1 < rounds:
            region = Region.of(posterior, observation, epsilon, _seed(seed, "draws", number))
            support = _Support(found, (*support.regions, region))
    return TruncatedPosterior(found, posterior, observation, support.regions, tuple(history))


def _check(rounds: int, simulations: int, epsilon: float) -> None:
    for what, value in (("rounds", rounds), ("simulations", simulations)):
        if not isinstance(value, int | np.integer) or value < 1:
            raise ValueError(f"{what}: expected a whole number of at least 1, found {value!r}")
    if not 0 < epsilon < 0.5:
        raise ValueError(f"epsilon: expected a fraction between 0 and 0.5, found {epsilon!r}")
    needed = _draws_for(epsilon)
    if needed > _MOST_DRAWS:
        raise ValueError(f"epsilon: expected at least {_BELOW / _MOST_DRAWS:g}, found {epsilon:g}, whose quantile "
                         f"takes {needed:,} draws of each posterior, more than {_MOST_DRAWS:,}; a larger one loses no "
                         f"more than itself, or use fit_posterior, which cuts off nothing")  # fmt: skip


def _seed(seed: int, what: str, number: int) -> int:
    return hashing.salt(seed, "truncated", what, number) % (1 << 31)


def _inside(parts: Sequence[Events], support: _Support) -> Events:
    """The simulations of all rounds inside the region, each round's with a total weight of its effective number.

    Each round's weighted simulations follow the prior inside, so that their relative totals are free.
    """
    kept = []
    for events in parts:
        own = events.select(support.contains(column_values("simulations", events, support.base.names)))
        if len(own) and own.sum_weights > 0:
            kept.append(own.scaled_to(own.effective_size))
    return Events.concat(kept)
