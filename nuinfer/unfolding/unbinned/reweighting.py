r"""OmniFold: unfolding by two density ratios, alternated.

The simulation's events i have truth t_i, reco x_i (where ``pass_reco``) and weight w_i; nu_i multiplies it, at first 1.
Iteration k:

1. *reco*: the ratio of the data (signal part) to the simulation at present, r(x) = D(x) / S_k(x), gives each
   reconstructed event the weight omega_i = nu_i r(x_i).
2. *truth*: nu_i <- E[omega | t_i], the ratio of the simulation weighted by w omega to that weighted by w.

The second step is fitted on one sample that carries both weights, not on two copies of it: an event counts with both of
its weights at the same point, so that what cancels between them makes no noise.

**Misses** (``pass_reco`` false) have no omega.  ``"conditional"``: step 2 uses reconstructed events, and misses get the
function nu(t) that they teach, E[omega | t]; this is D'Agostini's update with its division by the efficiency.
``"prior"``: misses enter step 2 with their weight of the iteration before, which slows convergence where the efficiency
is low, and keeps the reco rate from being the data's before convergence.

**Background and fakes.**  Background events enter step 1 as data with negative weight.  Fakes (``pass_truth`` false) do
too with ``"subtract"``, which keeps their absolute yield; with ``"scale"`` the data are weighted by the simulation's
purity p(x) = S_0 / (S_0 + F_0), learned, which keeps their fraction at each x.

**Rate.**  Ratios are absolute: after each step the weights are normalised so that the reconstructed signal's sum is
that of the data's signal part (with ``misses="prior"``: that of omega and the misses).

Sources: Andreassen, Komiske, Metodiev, Nachman, Thaler, arXiv 1911.09107 (method), arXiv 2105.04448 (misses and fakes);
D'Agostini, Nucl. Instrum. Meth. A 362 (1995) 487 (iterative Bayes, its binned limit).
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, cast

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import special

from ... import ensemble, losses
from ...ensemble import Fitted
from ...events import Events, flag, positive_total
from ...features import Features, Inputs
from ...nets import MLP, DeepSet, Network, Transformer
from ...resample import Resample
from ...train import Training
from ...trees import Trees
from ..samples import Rows, check_factors, check_signal, key_of, mean_one, reconstructed, warn_of_shared_keys
from .result import Iteration, Unfolded

__all__ = ["omnifold"]

_log = logging.getLogger("nuinfer")

Floats = NDArray[np.float64]
Keys = NDArray[np.int64]

#: Training of one step: a short schedule run to its end.  Stopping early, or going back to an epoch before the learning
#: rate has fallen, costs more accuracy of the weights than it saves (docs/performance.md).
TRAINING = Training(epochs=16, batch=1024, learning_rate=3e-3)


@dataclass(frozen=True)
class _Sample:
    """The tables of an unfolding.

    ``observed`` has the rows of data, background (negative) and, to subtract them, fakes (negative).  Weights are
    without the multiplicities of bootstraps, which are the loop's.
    """

    simulation: Events
    rows: Rows  # of the simulation
    observed: Inputs
    observed_weight: Floats
    observed_key: Keys
    reco: Inputs  # of the signal rows
    fake_reco: Inputs
    truth_inputs: Inputs
    key: Keys  # of the simulation
    data: int  # so many rows of ``observed`` are data,
    background: int  # so many behind them background; the rest are fakes

    @property
    def subtracted(self) -> bool:
        """Whether fakes are rows of ``observed``."""
        return len(self.observed_weight) > self.data + self.background


@dataclass(frozen=True)
class _Weights:
    """Weights (rows,), or (networks, rows) where each network has its own: of the simulation, and of ``observed``."""

    simulation: Floats
    observed: Floats

    @classmethod
    def of(cls, sample: _Sample, factors: Floats | None, others: Floats | None) -> _Weights:
        own, observed = sample.simulation.weight, sample.observed_weight
        if factors is None and others is None:
            return cls(own, observed)
        networks = len(factors if factors is not None else cast(Floats, others))
        found = np.tile(observed, (networks, 1))
        if others is not None:
            found[:, sample.data : sample.data + sample.background] *= others
        if factors is None:
            return cls(own, found)
        if sample.subtracted:
            found[:, sample.data + sample.background :] *= factors[:, sample.rows.fakes]
        return cls(own * factors, found)


@dataclass(frozen=True)
class _Fit:
    """The settings of every fit, and the fit itself."""

    network: Network | Trees
    loss: losses.Loss
    training: Training
    resample: Resample
    device: str
    checkpoint: Path | None
    progress: bool

    def __call__(
        self,
        label: str,
        inputs: Inputs,
        weights: tuple[Floats, Floats],
        key: Keys,
        features: Features,
        warm: Fitted | None,
    ) -> Fitted:
        path = self.checkpoint / f"{label.replace(' ', '-')}.safetensors" if self.checkpoint else None
        network = self.network
        if isinstance(network, DeepSet | Transformer) and not features.clouds:
            network = network.head  # what is left of it without clouds
        return ensemble.fit(
            inputs, weights, key, self.resample, shape=features.shape, network=network, loss=self.loss,
            training=self.training, device=self.device, checkpoint=path, warm=warm, label=label, progress=self.progress,
        )  # fmt: skip


def omnifold(
    data: Events,
    simulation: Events,
    *,
    reco: Features | Sequence[str],
    truth: Features | Sequence[str],
    background: Events | None = None,
    misses: Literal["conditional", "prior"] = "conditional",
    fakes: Literal["subtract", "scale"] = "subtract",
    iterations: int = 3,
    members: int = 1,
    bootstrap: int = 0,
    universes: ArrayLike | None = None,
    background_universes: ArrayLike | None = None,
    group: str | None = None,
    network: Network | Trees = MLP(),  # noqa: B008 - a frozen spec
    loss: losses.RatioLoss = "bce",
    validation: float = 0.0,
    training: Training = TRAINING,
    seed: int,
    device: str = "cpu",
    checkpoint: str | Path | None = None,
    progress: bool = True,
) -> Unfolded:
    """Unfold ``data`` with the detector that ``simulation`` went through.

    Parameters
    ----------
    data:
        Measured events with the reco columns; weights of any sign.  Where it has a column ``pass_reco``, the others
        are left out.
    simulation:
        Events with truth and reco columns, and boolean columns ``pass_reco``, ``pass_truth`` where there are misses or
        fakes.  A miss needs no finite reco columns, a fake no truth ones.
    reco, truth:
        What the networks of the two steps see: flat columns, or `Features` with clouds.
    background:
        Events with the reco columns whose sum of weights is what is expected in the data; subtracted.
    misses, fakes:
        See the module.
    iterations:
        How often the two steps alternate: more is less bias towards the simulation, and more noise.
    members:
        Replicas with their own initial weights, batches and validation split.  Their mean is the answer, its method
        variance theirs over K.
    bootstrap:
        So many further replicas, each on its own Poisson bootstrap of data, background and simulation: the statistical
        covariance.  All of them train together with the members.  Multiplicities are hashes of ids, so that data,
        background and simulation need ids of their own (those that are not given are).
    universes, background_universes:
        Factors (events, bootstrap) of the weights of simulation and background, a column a replica: systematics that
        change weights alone, thrown together with the statistics and trained in the same batch.
    group:
        Integer column whose equal values (detector throws of one true event) stay together in splits and bootstraps.
        Data and background without it go by their ids.
    network, loss, validation, training, device, progress:
        As in `fit_ratio`; networks start each iteration from the one before.  Of a ``DeepSet`` or ``Transformer``, a
        side without clouds uses the ``head``.
    seed:
        The same seed gives the same weights, to the bit, at a fixed number of threads.
    checkpoint:
        A folder; a run that was stopped continues from it and gives the same numbers.

    Returns
    -------
    Unfolded
        ``weights`` (members, events) that multiply ``simulation.weight``; 1 for events that pass neither selection.

    Raises
    ------
    ValueError
        for empty samples, totals that are not positive (of the simulation, or of the data after subtraction), columns
        that are not finite where their flag is true; universes of another shape, negative or not finite;
        ``KeyError``, ``TypeError`` for columns missing or of another kind.

    Examples
    --------
    >>> import numpy as np
    >>> rng = np.random.default_rng(1)
    >>> t, nature = rng.normal(0.2, 0.9, 4000), rng.normal(0, 1, 4000)
    >>> simulation = Events({"t": t, "x": t + rng.normal(0, 0.5, 4000)})
    >>> data = Events({"x": nature + rng.normal(0, 0.5, 4000)})
    >>> result = omnifold(data, simulation, reco=["x"], truth=["t"], iterations=2, seed=1, progress=False,
    ...                   network=MLP(width=16, depth=2), training=Training(epochs=8, batch=256))
    >>> bool(abs(np.average(t, weights=result.weights[0])) < 0.1)
    True
    """
    reco, truth = Features.of(reco), Features.of(truth)
    _check(misses, fakes, iterations, members, bootstrap)
    sample = _tables(data, simulation, background, reco, truth, fakes, group)
    if bootstrap:
        warn_of_shared_keys(data, background, simulation, group)
    resample = Resample(
        seed=seed, members=members + bootstrap, validation=validation, bootstrap=bootstrap > 0, plain=members
    )
    folder = Path(checkpoint) if checkpoint is not None else None
    fit = _Fit(network, losses.by_name(loss), training, resample, device, folder, progress)
    factors = _factors("universes", universes, len(simulation), members, bootstrap)
    others = _factors("background_universes", background_universes, sample.background, members, bootstrap)
    own = _Weights.of(sample, factors, others)
    observed = own.observed
    if fakes == "scale" and len(sample.rows.fakes):
        observed = observed * _purity(sample, own, fit, reco)
    run = _Run(sample, own, fit, reco, truth, observed, misses, fakes)
    steps = [run.iterate(number) for number in range(iterations)]
    replicas = run.replicas(factors)
    settings = {
        "misses": misses, "fakes": fakes, "iterations": iterations, "reco": reco.to_json(), "truth": truth.to_json(),
        "network": ensemble.spec_of(network),
    }  # fmt: skip
    return Unfolded(simulation, run.full_weights(0, members), replicas, tuple(steps), seed, group, settings)


class _Run:
    """The weights of all networks as they go through the iterations."""

    def __init__(
        self, sample: _Sample, weights: _Weights, fit: _Fit, reco: Features, truth: Features, observed: Floats,
        misses: str, fakes: str,
    ) -> None:  # fmt: skip
        self.sample, self.fit, self.misses, self.fakes = sample, fit, misses, fakes
        self.reco, self.truth = reco, truth
        networks = fit.resample.members
        self.observed = observed  # (rows,), or (networks, rows) where each network has its own
        self.weight = weights.simulation  # (events,), or (networks, events) as well
        self.nu = np.ones((networks, len(sample.simulation)))
        self.fake_nu = np.ones((networks, len(sample.rows.fakes)))
        times = [fit.resample.bootstrapped(k, sample.key) for k in range(networks)]
        self.signal_times = np.stack([t[sample.rows.signal] for t in times])
        self.fake_times = np.stack([t[sample.rows.fakes] for t in times])
        observed_times = np.stack([fit.resample.bootstrapped(k, sample.observed_key) for k in range(networks)])
        self.target = (observed * observed_times).sum(1)  # the data's signal part (networks,)
        self.fake_target = (weights.observed * observed_times).sum(1) - self.target  # and their scaled fakes
        check_signal(self.target)
        self.step1: Fitted | None = None
        self.step2: Fitted | None = None
        # places of the signal rows among the truth rows
        self.in_truth = np.searchsorted(sample.rows.truth, sample.rows.signal)
        self.reco_inputs = Inputs.concat([sample.observed, sample.reco])
        self.reco_key = np.concatenate([sample.observed_key, sample.key[sample.rows.signal]])
        # the rows that teach the second step, their places among the truth rows, and how often each network counts them
        conditional = misses == "conditional"
        self.rows = sample.rows.signal if conditional else sample.rows.truth
        self.taught = self.in_truth if conditional else np.arange(len(sample.rows.truth))
        self.times = self.signal_times if conditional else np.stack([t[sample.rows.truth] for t in times])
        everything = len(self.taught) == len(sample.rows.truth)
        self.taught_inputs = sample.truth_inputs if everything else sample.truth_inputs.select(self.taught)

    def iterate(self, number: int) -> Iteration:
        """One iteration of all networks."""
        plain, truth = self.fit.resample.plain, self.sample.rows.truth
        before = self.nu[:plain, truth]
        step1, omega = self._reco_step(number)
        step2 = self._truth_step(number, omega)
        after, own = self.nu[:plain, truth], self.sample.simulation.weight[truth]
        moved = np.sqrt(np.mean(np.log(after / before) ** 2, axis=1))
        size = (after @ own) ** 2 / ((after * own) ** 2).sum(1)
        return Iteration(self.full_weights(0, plain), moved, size, step1.history, step2.history)

    def _reco_step(self, number: int) -> tuple[Fitted, Floats]:
        """The fit, and omega (networks, signal): nu r(x), normalised to the data's signal part."""
        sample = self.sample
        present = self.weight[..., sample.rows.signal] * self.nu[:, sample.rows.signal]
        none = np.zeros((*self.observed.shape[:-1], len(sample.rows.signal)))
        one = mean_one(np.concatenate([self.observed, none], -1))
        zero = mean_one(np.concatenate([np.zeros((len(present), len(sample.observed))), present], 1))
        label = f"iteration {number + 1} reco"
        self.step1 = step1 = self.fit(label, self.reco_inputs, (one, zero), self.reco_key, self.reco, self.step1)
        omega = self.nu[:, sample.rows.signal] * np.exp(step1.log(sample.reco))
        if number == 0 and self.fakes == "scale" and len(sample.rows.fakes):
            self._scale_fakes(step1)
        total = (self.weight[..., sample.rows.signal] * self.signal_times * omega).sum(1)
        return step1, omega * (self.target / total)[:, None]

    def _truth_step(self, number: int, omega: Floats) -> Fitted:
        """nu <- E[omega | t] on all rows with truth."""
        sample, label = self.sample, f"iteration {number + 1} truth"
        pulled = omega
        if self.misses == "prior":
            pulled = self.nu[:, sample.rows.truth]
            pulled[:, self.in_truth] = omega
        own = self.weight[..., self.rows]
        weights = mean_one(own * pulled), mean_one(own)
        key = sample.key[self.rows]
        self.step2 = step2 = self.fit(label, self.taught_inputs, weights, key, self.truth, self.step2)
        found = np.exp(step2.log(sample.truth_inputs))
        # the rate of the pulled weights, on the rows that taught them
        counted = own * self.times
        rate = (counted * pulled).sum(1) / (counted * found[:, self.taught]).sum(1)
        self.nu[:, sample.rows.truth] = found * rate[:, None]
        return step2

    def _scale_fakes(self, step1: Fitted) -> None:
        """Fakes follow the data at their reco value: D(x) / S_0(x), which the first reco step has learned."""
        own = self.weight[..., self.sample.rows.fakes] * self.fake_times
        shape = np.exp(step1.log(self.sample.fake_reco))
        self.fake_nu = shape * (self.fake_target / (own * shape).sum(1))[:, None]

    def full_weights(self, start: int, stop: int) -> Floats:
        """Weights (stop - start, events) of all rows of the simulation, for these networks."""
        full = self.nu[start:stop].copy()
        full[:, self.sample.rows.fakes] = self.fake_nu[start:stop]
        return full

    def replicas(self, factors: Floats | None) -> Floats:
        """`full_weights` of the replicas, with their multiplicities and their factors (networks, events)."""
        resample = self.fit.resample
        found = self.full_weights(resample.plain, resample.members)
        for network, replica in enumerate(found, resample.plain):
            replica *= resample.bootstrapped(network, self.sample.key)
            if factors is not None:
                replica *= factors[network]
        return found


def _tables(
    data: Events, simulation: Events, background: Events | None, reco: Features, truth: Features, fakes: str,
    group: str | None,
) -> _Sample:  # fmt: skip
    rows, data, key = Rows.of(simulation), reconstructed(data), simulation.key(group)
    positive_total("data", data.weight)
    reco_inputs = reco.tensors(simulation, where=flag(simulation, "pass_reco"))
    parts, others = [(reco.tensors(data), data.weight, key_of(data, group))], 0
    if background is not None and len(background):
        background = reconstructed(background)
        parts.append((reco.tensors(background), -background.weight, key_of(background, group)))
        others = len(background)
    if fakes == "subtract" and len(rows.fakes):
        parts.append((reco_inputs.select(rows.fakes), -simulation.weight[rows.fakes], key[rows.fakes]))
    return _Sample(
        simulation, rows,
        Inputs.concat([part for part, _, _ in parts]), np.concatenate([w for _, w, _ in parts]),
        np.concatenate([k for _, _, k in parts]), reco_inputs.select(rows.signal), reco_inputs.select(rows.fakes),
        truth.tensors(simulation, where=flag(simulation, "pass_truth")).select(rows.truth), key, len(data), others,
    )  # fmt: skip


def _factors(what: str, given: ArrayLike | None, events: int, members: int, replicas: int) -> Floats | None:
    """Factors (networks, events) of the weights, 1 for the members."""
    if given is None:
        return None
    found = np.asarray(given, np.float64)
    if found.shape != (events, replicas) or not replicas:
        raise ValueError(f"{what}: expected factors (events, bootstrap) = ({events}, {replicas}), found shape "
                         f"{found.shape}; give bootstrap= as many as universes")  # fmt: skip
    check_factors(what, found, "factors")
    return np.concatenate([np.ones((members, events)), found.T])


def _purity(sample: _Sample, weights: _Weights, fit: _Fit, reco: Features) -> Floats:
    """The simulation's signal fraction p(x) at each observed row (networks, rows), by a ratio of signal to fakes."""
    weight = weights.simulation
    rows = np.concatenate([sample.rows.signal, sample.rows.fakes])
    is_signal = np.arange(len(rows)) < len(sample.rows.signal)
    one, zero = np.where(is_signal, weight[..., rows], 0.0), np.where(is_signal, 0.0, weight[..., rows])
    positive_total("fakes", sample.simulation.weight[sample.rows.fakes])
    inputs = Inputs.concat([sample.reco, sample.fake_reco])
    fitted = fit("purity", inputs, (mean_one(one), mean_one(zero)), sample.key[rows], reco, None)
    times = np.stack([fit.resample.bootstrapped(k, sample.key[rows]) for k in range(fit.resample.members)])
    odds = np.log((times * one).sum(1) / (times * zero).sum(1))
    return np.asarray(special.expit(fitted.log(sample.observed) + odds[:, None]))


def _check(misses: str, fakes: str, iterations: int, members: int, bootstrap: int) -> None:
    if misses not in ("conditional", "prior"):
        raise ValueError(f"misses: expected 'conditional' or 'prior', found {misses!r}")
    if fakes not in ("subtract", "scale"):
        raise ValueError(f"fakes: expected 'subtract' or 'scale', found {fakes!r}")
    counts: tuple[object, ...] = iterations, members, bootstrap
    whole = all(isinstance(n, int | np.integer) for n in counts)
    if not whole or iterations < 1 or members < 1 or bootstrap < 0:
        raise ValueError(f"expected whole numbers, iterations and members of at least 1 and bootstrap of at least 0, "
                         f"found {iterations}, {members} and {bootstrap}")  # fmt: skip
