r"""Neural posterior estimation: ``fit_posterior`` -> `NeuralPosterior`, amortised over all observations.

Simulations are pairs (theta_i, x_i) with theta drawn from the prior and x from the simulator at it.  The conditional
flow q(theta | x) that maximises

.. math:: \sum_i w_i \log q(\theta_i \mid x_i)

is the posterior p(theta | x) for every x at once, as far as the flow can follow it and the simulations reach.  Where
theta was drawn from a proposal the weights carry prior over proposal.  A network that sums up x (``embedding``) is
trained together with the flow.

Parameters between bounds go through the transforms of `nuinfer.density.columns`, so that no mass lies outside the
prior's box.  The answer of an ensemble is the mean of its members' densities.

Sources: Papamakarios, Murray, arXiv 1605.06376; Lueckmann et al., arXiv 1711.01861; Greenberg, Nonnenmacher, Macke,
arXiv 1905.07488 (neural posteriors); Radev et al., arXiv 2003.06281 (learned summaries); Hermans et al., arXiv
2110.06581 (ensembles are better calibrated than their members).
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray
from torch import Tensor

from .. import hashing, store
from ..density import NSF, Density, fit_density
from ..density.flows import Flow
from ..events import Events
from ..features import Batch, Features
from ..nets import Network, Scaling
from ..ratio.parameters import column_values
from ..train import History, Training
from .base import Posterior, thetas_of
from .priors import Inside, Prior, PriorLike, Truncated
from .simulation import Simulations, check_covered

__all__ = ["NeuralPosterior", "fit_posterior"]

Floats = NDArray[np.float64]

_MOST = 1000  # rounds of rejection


@dataclass(frozen=True, eq=False)
class NeuralPosterior(Posterior):
    """An amortised q(theta | x); made by `fit_posterior`.

    Attributes
    ----------
    prior:
        Names, support and density of theta before x is seen.
    density:
        The conditional flow, with its columns, members and history (`nuinfer.density.Density`).
    """

    prior: Prior
    density: Density

    @property
    def features(self) -> Features:
        """The columns x of an observation."""
        assert self.density.condition is not None
        return self.density.condition

    @property
    def history(self) -> History:
        """Risks per epoch and network."""
        return self.density.history

    def draws(self, n: int, observations: Events, *, seed: int = 0) -> Floats:
        """``n`` draws (N, n, P) of theta for each of N observations, each of a member drawn at random.

        Those outside of the support of a prior that is no box, such as a truncated one, are drawn again.

        Raises
        ------
        ValueError
            for n below 1, columns that are not finite, or hardly any draw inside a truncated prior.
        KeyError, TypeError
            for observations without the columns of `features`.
        """
        theta = self.density.draws(n, observations, seed=seed)
        return self._inside(theta, observations, seed) if self._cut else theta

    def log_probs(self, theta: ArrayLike, observations: Events) -> Floats:
        """Log densities (N, M) of points (N, M, P) for each of N observations; -inf outside the prior.

        With a prior that is no box, that of the flow inside, not divided by the mass that lies there.
        """
        values = thetas_of(theta, self.names, len(observations))
        logs = self.density.log_probs(values, observations)
        return np.where(self.prior.contains(values), logs, -np.inf) if self._cut else logs

    @property
    def _cut(self) -> bool:
        """Whether the prior's support may be less than its box: truncated, or of a distribution not known here."""
        return isinstance(self.prior, Truncated) or not all(block.known for block in self.prior.blocks)

    def tensor(self, theta: Tensor, x: Batch | Tensor) -> Tensor:
        """Log density (B,) of theta (B, P) at x, in torch, differentiable in both; see `Density.tensor`."""
        return self.density.tensor(theta, x)

    def summaries(self, observations: Events) -> Floats:
        """What the first flow is given (N, S) for N observations: its embedding's outputs, or the scaled columns."""
        found: Floats = self.density.contexts(observations)[0].T.double().numpy()
        return found

    def _inside(self, theta: Floats, observations: Events, seed: int) -> Floats:
        """The same draws, those outside the prior drawn again."""
        for turn in range(1, _MOST):
            bad = ~self.prior.contains(theta)
            rows, places = np.nonzero(bad)
            if not len(rows):
                return theta
            own = np.unique(rows)
            most = int(bad.sum(1).max())
            again = self.density.draws(most, observations.select(own), seed=hashing.salt(seed, "again", turn) >> 1)
            count = np.cumsum(bad, 1)[rows, places] - 1
            theta[rows, places] = again[np.searchsorted(own, rows), count]
        lost = int((~self.prior.contains(theta)).sum())
        raise ValueError(f"draws: expected all inside the truncated prior, found {lost} of {theta[..., 0].size} "
                         f"outside after {_MOST} rounds; is the observation far from the simulations?")  # fmt: skip

    def __repr__(self) -> str:
        r = self.density.resample
        return (f"NeuralPosterior(p({', '.join(self.names)} | {', '.join(self.features.columns)}); "
                f"{self.density.network!r}, {r.members} member{'s' if r.members > 1 else ''})")  # fmt: skip

    # -- files

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write everything to one safetensors file, atomically."""
        spec, arrays = self.density.saved()
        store.save(path, "posterior", {"prior": self.prior.to_json(), "density": spec}, arrays)

    @classmethod
    def load(
        cls, path: str | os.PathLike[str], *, module: Any = None, prior: PriorLike | None = None,
        inside: Inside | None = None,
    ) -> NeuralPosterior:  # fmt: skip
        """Read what `save` wrote.

        ``module`` makes the embedding where it was a user's own; ``prior`` is given again where it has a distribution
        that no file holds, ``inside`` where it was truncated.

        Raises
        ------
        CorruptFile
            for a file that is damaged; ``ValueError`` for one of another kind, or what has to be given again;
            ``FileNotFoundError`` for none.
        """
        spec, arrays = store.load(path, "posterior")
        found = Prior.from_json(spec["prior"], distribution=prior, inside=inside)
        return cls(found, Density.of_saved(spec["density"], arrays, module=module))


def fit_posterior(
    simulations: Events,
    prior: PriorLike,
    features: Features | list[str],
    *,
    proposal: PriorLike | None = None,
    network: Flow = NSF(),  # noqa: B008 - a frozen spec
    embedding: Network | None = None,
    summaries: int = 16,
    scaling: Scaling = "ranks",
    members: int = 5,
    folds: int = 1,
    validation: float = 0.1,
    bootstrap: bool = False,
    group: str | None = None,
    training: Training | None = None,
    seed: int = 0,
    device: str = "cpu",
    checkpoint: str | Path | None = None,
    cache: str | Path | None = None,
    progress: bool = True,
) -> NeuralPosterior:
    """Learn the posterior p(theta | x) from simulations.

    Parameters
    ----------
    simulations:
        One row a simulated experiment: theta in the prior's columns, the observation in those of ``features``.
        Weights of any sign with a positive sum.  An experiment of many events has them as a cloud
        (`nuinfer.posterior.as_experiments`), whose length carries the rate.
    prior:
        ``{"a": (0, 1), "b": Normal(0.0, 1.0)}``, a `Prior`, or see `Prior.of`.
    features:
        The columns x, flat ones and clouds.
    proposal:
        What theta was drawn from, where that is not the prior: the weights are multiplied by prior over proposal.
    scaling:
        As in `nuinfer.density.fit_density`; "ranks" are safe where columns of x have heavy tails.
    training:
        None for `schedule` of the number of simulations.
    network, embedding, summaries, members, folds, validation, bootstrap, group, seed:
        As in `nuinfer.density.fit_density`.
    device, checkpoint, cache, progress:
        As in `nuinfer.density.fit_density`.

    Raises
    ------
    ValueError
        for simulations outside the prior's support (count and first rows), columns that are not finite or constant,
        an improper prior, a total weight that is not positive.
    KeyError, TypeError
        for columns that are missing or of the wrong kind.

    Examples
    --------
    >>> from nuinfer.simulators import LinearGaussian
    >>> from torch.distributions import Normal
    >>> problem = LinearGaussian([[1.0]], noise=0.25)  # theta ~ N(0, 1), x = theta + N(0, 0.25)
    >>> posterior = fit_posterior(
    ...     problem.simulate(4000, 1), {"theta0": Normal(0.0, 1.0)}, ["x0"], network=NSF(transforms=1, width=16),
    ...     members=2, training=Training(epochs=10, batch=128, learning_rate=0.01), seed=1, progress=False)
    >>> draws = posterior.sample(2000, Events({"x0": [1.0]}), seed=1)["theta0"]  # exact: N(0.8, 0.2)
    >>> bool(abs(draws.mean() - 0.8) < 0.1), bool(abs(draws.var() - 0.2) < 0.05)
    (True, True)
    """
    found = Prior.of(prior)
    training = training or schedule(len(simulations), bool(validation))
    simulations = _weighted(simulations, found, None if proposal is None else Prior.of(proposal))
    density = fit_density(
        simulations, found.names, condition=features, bounds=dict(zip(found.names, found.bounds, strict=True)),
        network=network, embedding=embedding, summaries=summaries, scaling=scaling, members=members, folds=folds,
        validation=validation, bootstrap=bootstrap, group=group, training=training, seed=seed, device=device,
        checkpoint=checkpoint, cache=cache, progress=progress,
    )  # fmt: skip
    return NeuralPosterior(found, density)


def schedule(simulations: int, validation: bool = True) -> Training:
    """How a posterior is trained from so many simulations, unless the user says otherwise.

    Small samples take small batches, whose noise keeps a network from learning them by heart; the weights are averaged
    over five epochs, which makes up for it.  A network that five epochs did not improve on held-out rows cools down
    from its best weights over ten more.  Chosen by log q of other simulations on the tasks of ``benchmarks/sbibm.py``.

    >>> schedule(10_000).batch, schedule(1_000_000).epochs
    (128, 10)
    """
    batch = 32 if simulations < 3_000 else 128 if simulations < 30_000 else 256
    epochs = max(10, min(100, 5_000_000 // max(simulations, 1)))
    stopping = {"patience": 5, "cooldown": 10} if validation else {}
    return Training(epochs=epochs, batch=batch, learning_rate=1e-2, average=min(5.0, epochs / 10), **stopping)


def _weighted(simulations: Events, prior: Prior, proposal: Prior | None) -> Events:
    """The simulations, checked to lie inside the prior, with weights that make their theta follow it."""
    if not isinstance(simulations, Events):
        hint = "; give its .events" if isinstance(simulations, Simulations) else ""
        raise TypeError(f"simulations: expected Events, found {type(simulations).__name__}{hint}")
    theta = column_values("simulations", simulations, prior.names)
    refuse_outside(theta, prior)
    if proposal is None:
        return simulations
    if set(proposal.names) != set(prior.names):
        raise ValueError(f"proposal: expected the parameters of the prior, {', '.join(prior.names)}, found "
                         f"{', '.join(proposal.names)}")  # fmt: skip
    order = [prior.names.index(name) for name in proposal.names]
    log_proposal = proposal.log_prob(theta[:, order])
    bad = np.flatnonzero(~np.isfinite(log_proposal))
    if len(bad):
        raise ValueError(f"proposal: expected simulations inside its support, found {len(bad)} of {len(theta)} "
                         f"outside, first at rows {bad[:5].tolist()}; was theta drawn from it?")  # fmt: skip
    factor = np.exp(prior.log_prob(theta) - log_proposal)
    check_covered(factor)
    return simulations.with_weight(simulations.weight * factor)


def refuse_outside(theta: Floats, prior: Prior) -> None:
    """Raise ``ValueError`` where points (N, P) lie outside the prior's support, with count and first rows."""
    bad = np.flatnonzero(~prior.contains(theta))
    if len(bad):
        shown = "; ".join(f"row {i}: {_point(prior.names, theta[i])}" for i in bad[:3])
        raise ValueError(f"simulations: expected theta inside the prior, {prior!r}; found {len(bad)} of {len(theta)} "
                         f"outside ({shown}); select those inside, or give the prior that theta was drawn "
                         f"from")  # fmt: skip


def _point(names: Sequence[str], theta: Floats) -> str:
    return ", ".join(f"{name} = {value:g}" for name, value in zip(names, theta, strict=True))
