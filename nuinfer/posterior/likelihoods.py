r"""Neural likelihoods: ``fit_likelihood`` -> `Likelihood`, a density q(x | theta) of one observation or of its events.

**One row, one observation.**  The likelihood of an observation x is q(x | theta).

**Events that are independent of each other** (``events="hits"``, the name of their cloud).  q(x | theta) is the
density of a *single* event, whatever the number of events in an observation, and

.. math:: \log L(\theta) = \sum_e w_e \log q(x_e \mid \theta) + \Big(\sum_e w_e\Big) \log \mu(\theta) - \mu(\theta)

with weights w_e of the events (1 of data), and the number expected, mu(theta): a function, or learned from the number
of events in each simulation; without it the last two terms are left out, and the likelihood is that of the shapes.

**The rate.**  `fit_rate` minimises the Poisson loss, sum_i w_i [mu(theta_i) - n_i log mu(theta_i)].  With mu = c e^f
that is `nuinfer.losses.mlc` of the two densities of theta in which a simulation counts n_i times, and once.

Sources: Papamakarios, Sterratt, Murray, arXiv 1805.07226 (neural likelihoods); Barlow, Nucl. Instrum. Methods A 297
(1990) 496 (extended likelihood).
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple, cast

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from torch import Tensor

from .. import losses, store
from ..density import NSF, Density, fit_density
from ..density.columns import Bounds
from ..density.flows import Flow
from ..errors import check_finite
from ..events import Events, Ragged, positive_total
from ..features import Batch, Features
from ..nets import MLP, Network
from ..ratio.learned import Answer, Learned, Options, Rows, learn
from ..ratio.parameters import names_of
from ..resample import Resample
from ..train import Training
from .base import Theta, one, theta_of, thetas_of
from .priors import Inside, Prior, PriorLike
from .samplers import LogDensity, SampledPosterior, Sampler, Sampling, Slice

__all__ = ["FittedRate", "Likelihood", "LikelihoodPosterior", "fit_likelihood", "fit_rate"]

Floats = NDArray[np.float64]

#: theta (B, P) in float64, the parameters in the order of the likelihood's names -> events expected (B,).
Rate = Callable[[Tensor], Tensor]

_PIECE = 1 << 14  # pairs of an event and a point in one evaluation
_EXPERIMENT = "its experiment"


# -- the sum over events -----------------------------------------------------------------------------------------------


class Terms(NamedTuple):
    """N observations as E terms of a log likelihood: ``rows``, each of the observation ``owner`` with a ``weight``."""

    rows: Events
    owner: Tensor
    weight: Tensor
    observations: int

    @classmethod
    def of(cls, observations: Events, columns: Sequence[str], events: str | None) -> Terms:
        """One term an observation, or one for each entry of its cloud ``events``."""
        if not isinstance(observations, Events):
            raise TypeError(f"observations: expected Events, one row each, found {type(observations).__name__}")
        if events is None:
            n = len(observations)
            return cls(observations, torch.arange(n), torch.ones(n, dtype=torch.float64), n)
        table, owner = opened(observations, columns, events, "observation")
        used = table.weight != 0  # what does not count need not have a density
        table, owner = (table, owner) if used.all() else (table.select(used), owner[used])
        return cls(table, torch.from_numpy(owner), torch.tensor(table.weight), len(observations))

    def totals(self, each: Callable[[Tensor, Tensor], Tensor], theta: Tensor) -> Tensor:
        """Sums (N, C) over the terms of ``each(rows (B,), theta (B, P)) -> (B,)`` at theta (N, C, P)."""
        if not len(self.owner):
            return 0 * theta.sum(-1)  # HMC asks for a slope
        total = torch.zeros(theta.shape[:2], dtype=torch.float64)
        step = max(1, _PIECE // theta.shape[1])
        for start in range(0, len(self.owner), step):
            part = slice(start, start + step)
            at = theta[self.owner[part]]
            rows = torch.arange(start, start + len(at)).repeat_interleave(at.shape[1])
            logs = each(rows, at.reshape(-1, at.shape[2])).view(at.shape[:2])
            total = total.index_add(0, self.owner[part], logs * self.weight[part, None])
        return total

    def extended(self, rate: Rate, theta: Tensor) -> Tensor:
        """W log mu(theta) - mu(theta), (N, C), W the weight of an observation's events."""
        mu = rate(theta.reshape(-1, theta.shape[2]))
        if tuple(mu.shape) != (theta.shape[0] * theta.shape[1],):
            raise ValueError(f"rate: expected ({theta.shape[0] * theta.shape[1]},) for as many points, found "
                             f"{tuple(mu.shape)}")  # fmt: skip
        bad = ~(mu.isfinite() & (mu >= 0))
        if bad.any():
            at = theta.detach().reshape(-1, theta.shape[2])[bad][0].tolist()
            raise ValueError(f"rate: expected numbers from 0, found {float(mu[bad][0]):g} at {at}")
        total = torch.zeros(self.observations, dtype=torch.float64).index_add(0, self.owner, self.weight)
        mu = mu.double().view(theta.shape[:2])
        found: Tensor = torch.special.xlogy(total[:, None], mu) - mu
        return found


def opened(experiments: Events, columns: Sequence[str], cloud: str, what: str) -> tuple[Events, NDArray[np.int64]]:
    """The entries of a cloud as events (E,) with flat ``columns``, and the row (E,) that each is of.

    The weight of an entry is that of the ragged column ``cloud.weight`` where there is one; the rest of a row's columns
    go along.
    """
    names = [f"{cloud}.{name}" for name in columns]
    if any(name in experiments and not isinstance(experiments[name], Ragged) for name in names):
        raise TypeError(f"{what}: expected the events of each row as a cloud {cloud!r}, found flat columns; "
                        f"nuinfer.posterior.as_experiments makes them of a table")  # fmt: skip
    parts = [experiments.ragged(name) for name in names]
    if any(not np.array_equal(part.offsets, parts[0].offsets) for part in parts):
        raise ValueError(f"{what}: expected fields of equal lengths in the cloud {cloud!r}, found others")
    owner = np.repeat(np.arange(len(experiments)), parts[0].counts)
    weight = np.ones(len(owner))
    if f"{cloud}.weight" in experiments:
        own = experiments.ragged(f"{cloud}.weight")
        check_finite(f"{what}: column '{cloud}.weight'", own.values)
        weight = np.asarray(own.values, np.float64)
        if len(weight) != len(owner):
            raise ValueError(f"{what}: expected one weight for each event of the cloud {cloud!r}, found {len(weight)} "
                             f"for {len(owner)}")  # fmt: skip
    flat = {name: part.values for name, part in zip(columns, parts, strict=True)}
    return Events(flat, weight=weight), owner


def counts_of(experiments: Events, cloud: str) -> Floats:
    """The number of events (N,) in each row's cloud, or the sum of their weights."""
    fields = [name for name in experiments if name.startswith(f"{cloud}.")]
    if not fields:
        raise KeyError(f"events: no columns of a cloud {cloud!r}, such as {cloud + '.x'!r}")
    if f"{cloud}.weight" in fields:
        own = experiments.ragged(f"{cloud}.weight")
        owner = np.repeat(np.arange(len(experiments)), own.counts)
        return np.bincount(owner, own.values, minlength=len(experiments)).astype(np.float64)
    return experiments.ragged(fields[0]).counts.astype(np.float64)


# -- the rate ----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, eq=False)
class FittedRate(Answer):
    """The expected number of events as a function of theta; made by `fit_rate`.

    Attributes
    ----------
    scales:
        The mean number of events in each network's training rows (K,).
    """

    _KIND = "rate"

    scales: Floats = field(default_factory=lambda: np.ones(1))

    @property
    def names(self) -> tuple[str, ...]:
        """Of the P parameters."""
        return self.features.flat

    def __call__(self, theta: Tensor) -> Tensor:
        """mu (B,) of theta (B, P), differentiable; the mean of the networks."""
        f = self.learned.model.tensor(Batch(theta.float()[None]))
        scales = torch.from_numpy(np.asarray(self.scales, np.float64))
        return (scales[:, None] * torch.exp(f.double())).mean(0)

    def expected(self, theta: Theta) -> Floats:
        """mu (M,) of M points (M, P), or of events or a mapping with the parameters' columns."""
        with torch.no_grad():
            return np.asarray(self(torch.from_numpy(np.ascontiguousarray(theta_of(theta, self.names)))).numpy())

    def _saved(self) -> tuple[dict[str, Any], dict[str, NDArray[Any]]]:
        return {}, {"scales": self.scales}

    @classmethod
    def _loaded(cls, learned: Learned, spec: Mapping[str, Any], arrays: dict[str, NDArray[Any]]) -> FittedRate:
        return cls(learned, arrays["scales"])

    def __repr__(self) -> str:
        return f"FittedRate({self.learned})"


def fit_rate(
    simulations: Events,
    theta: Sequence[str],
    *,
    events: str,
    network: Network = MLP(width=32, depth=2),  # noqa: B008 - a frozen spec
    members: int = 1,
    validation: float = 0.1,
    training: Training = Training(epochs=40, batch=256),  # noqa: B008 - a frozen spec
    seed: int,
    device: str = "cpu",
    progress: bool = True,
) -> FittedRate:
    """Learn the expected number of events mu(theta) from simulated experiments, one a row.

    Parameters
    ----------
    simulations:
        Rows with theta and a cloud of events.
    events:
        Name of that cloud, whose lengths, or sums of ``events.weight``, are the numbers n_i.
    network, members, validation, training, seed, device, progress:
        As in `nuinfer.ratio.fit_parametrised_ratio`.

    Raises
    ------
    ValueError
        for sums of weights below 0, or no events at all.
    KeyError, TypeError
        for columns that are missing or of the wrong kind.
    """
    names = names_of(theta)
    n = counts_of(simulations, events)
    if (n < 0).any():
        raise ValueError(f"events: expected numbers from 0, found {n.min():g} at row {int(n.argmin())}; a mean number "
                         f"of events is positive")  # fmt: skip
    weight = simulations.weight
    positive_total("events in the simulations", weight * n)
    rows = Rows(Features(names).tensors(simulations), (weight * n, weight), simulations.id)
    resample = Resample(seed=seed, members=members, validation=validation)
    options = Options(network, resample, training, None, device, None, progress)
    learned = learn(rows, Features(names), options, losses.mlc, label="rate", classes=("events", "simulations"))
    return FittedRate(learned, np.array([_mean(n, weight, rows.key, resample, k) for k in range(members)]))


def _mean(n: Floats, weight: Floats, key: NDArray[np.int64], resample: Resample, network: int) -> float:
    """The mean number of events in a network's training rows, by which its classes were divided."""
    own = weight * resample.times(network, key, held_out=False)
    return float(own @ n / own.sum())


# -- the likelihood ----------------------------------------------------------------------------------------------------


@dataclass(frozen=True, eq=False)
class Likelihood:
    """q(x | theta) of an observation, or of each of its events; made by `fit_likelihood`.

    Attributes
    ----------
    density:
        The flow, with its columns, bounds, members and history.  With folds all of their flows are averaged, also for
        events of the training: an observation is none of them, and its id says nothing.
    events:
        The cloud whose entries are independent events, None where an observation is one row.
    rate:
        The number of events expected, a function of theta; None for the shapes alone.
    """

    density: Density
    events: str | None = None
    rate: Rate | None = None

    @property
    def names(self) -> tuple[str, ...]:
        """Of the P parameters."""
        return cast(Features, self.density.condition).flat

    def log_likelihood(self, theta: Theta, observation: Events) -> Floats:
        """log L (M,) at M points of theta, (M, P), or events or a mapping with the parameters' columns.

        Raises
        ------
        ValueError, KeyError, TypeError
            for theta of another shape, more than one observation, or one without the columns of the density.
        """
        return np.asarray(self.log_likelihoods(theta_of(theta, self.names)[None], one(observation))[0])

    def log_likelihoods(self, theta: ArrayLike, observations: Events) -> Floats:
        """log L (N, M) of N observations at points (N, M, P) each."""
        values = thetas_of(theta, self.names, len(observations))
        with torch.no_grad():
            return np.asarray(self.of(observations)(torch.from_numpy(np.ascontiguousarray(values))).numpy())

    def of(self, observations: Events) -> LogDensity:
        """theta (N, C, P) -> log L (N, C) in torch, differentiable, of N observations."""
        terms = Terms.of(observations, self.density.columns, self.events)
        read = self.density.targets.read(terms.rows)[:, np.argsort(self.density.targets.order)]
        y = torch.from_numpy(np.ascontiguousarray(read))

        def log_likelihood(theta: Tensor) -> Tensor:
            found = terms.totals(lambda rows, at: self.density.tensor(y[rows], at), theta)
            return found if self.rate is None else found + terms.extended(self.rate, theta)

        return log_likelihood

    def posterior(
        self,
        prior: PriorLike,
        *,
        sampler: Sampler = Slice(),  # noqa: B008 - a frozen spec
        allow_unconverged: bool = False,
    ) -> LikelihoodPosterior:
        """The posterior prior x likelihood, drawn from by Markov chains.

        Parameters
        ----------
        prior:
            Of the same parameters, in any order.
        sampler, allow_unconverged:
            See `nuinfer.posterior.samplers`.

        Raises
        ------
        ValueError
            for a prior of other parameters.
        """
        found = Prior.of(prior)
        if set(found.names) != set(self.names):
            raise ValueError(f"prior: expected the parameters {', '.join(self.names)}, found {', '.join(found.names)}")
        return LikelihoodPosterior(found, self, sampler, allow_unconverged)

    def __repr__(self) -> str:
        rate = "" if self.rate is None else f", rate {self.rate!r}"
        what = "" if self.events is None else f" of each event in {self.events!r}"
        return f"Likelihood(q({', '.join(self.density.columns)} | {', '.join(self.names)}){what}{rate})"

    # -- files ---------------------------------------------------------------------------------------------------------

    def saved(self) -> tuple[dict[str, Any], dict[str, NDArray[Any]]]:
        """The JSON and the arrays that a file holds."""
        spec, arrays = self.density.saved()
        rate, more = saved_rate(self.rate)
        return {"density": spec, "events": self.events, "rate": rate}, {**store.under("density:", arrays), **more}

    @classmethod
    def of_saved(cls, spec: Mapping[str, Any], arrays: Mapping[str, NDArray[Any]], *, rate: Rate | None) -> Likelihood:
        """The inverse of `saved`."""
        density = Density.of_saved(spec["density"], store.within("density:", arrays))
        return cls(density, spec["events"], loaded_rate(spec["rate"], arrays, rate))

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write everything to one safetensors file, atomically; of a rate that is a user's function only the place."""
        store.save(path, "likelihood", *self.saved())

    @classmethod
    def load(cls, path: str | os.PathLike[str], *, rate: Rate | None = None) -> Likelihood:
        """Read what `save` wrote; ``rate`` is given again where it was a function of the user's.

        Raises
        ------
        CorruptFile
            for a file that is damaged; ``ValueError`` for one of another kind or without its rate;
            ``FileNotFoundError`` for none.
        """
        spec, arrays = store.load(path, "likelihood")
        return cls.of_saved(spec, arrays, rate=rate)


@dataclass(frozen=True, eq=False)
class LikelihoodPosterior(SampledPosterior):
    """prior x likelihood; made by `Likelihood.posterior`."""

    prior: Prior
    likelihood: Likelihood
    sampler: Sampler = field(default_factory=Slice)
    allow_unconverged: bool = False

    @property
    def features(self) -> Features | None:
        """The columns of an observation; None where it is a cloud of events, whose weights may be another."""
        return Features(self.likelihood.density.columns) if self.likelihood.events is None else None

    def likelihood_of(self, observations: Events) -> LogDensity:
        """theta (N, C, P), in the prior's order, -> log L (N, C)."""
        return reordered(self.likelihood.of(observations), self.prior.names, self.likelihood.names)

    def __repr__(self) -> str:
        return f"LikelihoodPosterior({self.prior!r}, {self.likelihood!r}, {self.sampler!r})"

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write everything to one safetensors file, atomically."""
        spec, arrays = self.likelihood.saved()
        store.save(path, "likelihood posterior", {"likelihood": spec, **self.sampling.to_json()}, arrays)

    @classmethod
    def load(
        cls, path: str | os.PathLike[str], *, rate: Rate | None = None, prior: PriorLike | None = None,
        inside: Inside | None = None,
    ) -> LikelihoodPosterior:  # fmt: skip
        """Read what `save` wrote; a rate, prior or condition ``inside`` of one that was a user's is given again.

        Raises
        ------
        CorruptFile
            for a file that is damaged; ``ValueError`` for one of another kind, or what has to be given again;
            ``FileNotFoundError`` for none.
        """
        spec, arrays = store.load(path, "likelihood posterior")
        found = Likelihood.of_saved(spec["likelihood"], arrays, rate=rate)
        rest = Sampling.from_json(spec, prior, inside)
        return cls(rest.prior, found, rest.sampler, rest.allow_unconverged)


def reordered(log_density: LogDensity, given: Sequence[str], wanted: Sequence[str]) -> LogDensity:
    """The same for theta in the order ``given``."""
    if tuple(given) == tuple(wanted):
        return log_density
    order = [list(given).index(name) for name in wanted]
    return lambda theta: log_density(theta[..., order])


def saved_rate(rate: Rate | None) -> tuple[dict[str, Any] | None, dict[str, NDArray[Any]]]:
    """The JSON and the arrays of a rate; of a user's function only that there is one."""
    if rate is None:
        return None, {}
    if not isinstance(rate, FittedRate):
        return {"fitted": False}, {}
    arrays = {**rate.learned.arrays(), "scales": rate.scales}
    return {"fitted": True, **rate.learned.spec()}, store.under("rate:", arrays)


def loaded_rate(spec: Mapping[str, Any] | None, arrays: Mapping[str, NDArray[Any]], given: Rate | None) -> Rate | None:
    """The inverse of `saved_rate`; ``ValueError`` where the function is missing, or given beside a fitted one."""
    user = spec is not None and not spec["fitted"]
    if (user and given is None) or (spec is None and given is not None):
        wanted = "the function that was not saved" if user else "none"
        raise ValueError(f"rate: expected {wanted}, found {given!r}")
    if spec is None or given is not None:  # a rate whose network was the user's own is given again too
        return given
    own = store.within("rate:", arrays)
    return FittedRate(Learned.of(spec, own, None), own["scales"])


def fit_likelihood(
    simulations: Events,
    theta: Sequence[str],
    columns: Sequence[str],
    *,
    events: str | None = None,
    rate: Rate | None = None,
    bounds: Mapping[str, Bounds] | None = None,
    discrete: Sequence[str] = (),
    network: Flow = NSF(),  # noqa: B008 - a frozen spec
    members: int = 1,
    folds: int = 1,
    validation: float = 0.1,
    bootstrap: bool = False,
    group: str | None = None,
    training: Training = Training(epochs=50, batch=256),  # noqa: B008 - a frozen spec
    seed: int = 0,
    device: str = "cpu",
    checkpoint: str | Path | None = None,
    cache: str | Path | None = None,
    progress: bool = True,
) -> Likelihood:
    """Learn the likelihood q(x | theta) from simulations.

    Parameters
    ----------
    simulations:
        One row a simulated experiment, or, with ``events``, one row an event at its theta; theta from any distribution
        that covers the region of interest.  Weights of any sign.
    theta:
        Names of the P parameters.
    columns:
        The flat columns x.
    events:
        The cloud of an observation whose entries are independent events: its column ``x`` is there ``events.x``, and
        weights, where events have any, are ``events.weight``.  Simulations may have the same form, one experiment a
        row, and are then opened; the events of an experiment stay together in splits and bootstraps.
    rate:
        The number of events expected: a function of theta (B, P), in torch and in the order of ``theta``, -> (B,);
        `fit_rate` learns one.
    bounds, discrete, network, members, folds, validation, bootstrap, group, training, seed, device, checkpoint, \
cache, progress:
        As in `nuinfer.density.fit_density`.

    Raises
    ------
    ValueError
        for a rate without ``events``, a column that is both parameter and observable, or as `fit_density`.
    KeyError, TypeError
        for columns that are missing or of the wrong kind.

    Examples
    --------
    >>> from nuinfer.density import MAF
    >>> from nuinfer.simulators import LinearGaussian
    >>> problem = LinearGaussian([[1.0]], noise=0.25)  # theta ~ N(0, 1), x = theta + N(0, 0.25)
    >>> likelihood = fit_likelihood(
    ...     problem.simulate(4000, 1), ["theta0"], ["x0"], network=MAF(transforms=1, width=16, depth=1), seed=1,
    ...     training=Training(epochs=10, batch=128, learning_rate=0.01), progress=False)
    >>> log_l = likelihood.log_likelihood([[0.0], [1.0]], Events({"x0": [1.0]}))  # exact: it rises by 2
    >>> bool(abs(log_l[1] - log_l[0] - 2.0) < 0.3)
    True
    """
    names = names_of(theta)
    if rate is not None and events is None:
        raise ValueError("rate: expected events=, the cloud whose length it is the mean of, found none")
    if rate is not None and not callable(rate):
        raise TypeError(f"rate: expected a function of theta (B, P) -> (B,), found {type(rate).__name__}; fit_rate "
                        f"learns one")  # fmt: skip
    if isinstance(columns, str) or not columns:
        raise ValueError(f"columns: expected a list of at least one column of x, found {columns!r}")
    check_rate(rate, names)
    table, group = as_table(simulations, names, columns, events, group)
    density = fit_density(
        table, columns, condition=list(names), bounds=bounds, discrete=discrete, network=network, members=members,
        folds=folds, validation=validation, bootstrap=bootstrap, group=group, training=training, seed=seed,
        device=device, checkpoint=checkpoint, cache=cache, progress=progress,
    )  # fmt: skip
    return Likelihood(density, events, rate)


def check_rate(rate: Rate | None, names: Sequence[str]) -> None:
    """Raise ``ValueError`` where a fitted rate is a function of other parameters, or of these in another order."""
    if isinstance(rate, FittedRate) and rate.names != tuple(names):
        raise ValueError(f"rate: expected a function of {', '.join(names)}, in this order, found one of "
                         f"{', '.join(rate.names)}; fit_rate(simulations, {list(names)}, ...) makes it")  # fmt: skip


def as_table(
    simulations: Events, theta: Sequence[str], columns: Sequence[str], events: str | None, group: str | None
) -> tuple[Events, str | None]:
    """The rows that are trained on, and the column that keeps some of them together.

    Simulated experiments that have a cloud ``events`` become their events, each with its experiment's theta and weight.
    """
    if events is None or f"{events}.{columns[0]}" not in simulations:
        return simulations, group
    table, owner = opened(simulations, columns, events, "simulations")
    if _EXPERIMENT in simulations or _EXPERIMENT in theta:
        raise ValueError(f"simulations: expected no column {_EXPERIMENT!r}, which says here to which experiment an "
                         f"event belongs; rename it")  # fmt: skip
    experiment = simulations.key(group)[owner]
    more = {name: simulations.flat(name)[owner] for name in theta}
    return table.with_columns({**more, _EXPERIMENT: experiment}).with_weight(
        table.weight * simulations.weight[owner]
    ), _EXPERIMENT
