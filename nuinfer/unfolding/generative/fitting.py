r"""Generative unfolding: draws of the truth for each measured event, from a density learned on the simulation.

The simulation's events i with truth t_i and reco x_i have weights w_i, which nu(t_i) multiplies, at first 1.
Iteration k:

1. *density*: q_k(t | x), fitted to the simulation's events with both, under w nu: by Bayes' theorem the posterior with
   the reconstructed truth g_k(t) of the simulation at present as prior.
2. *draws*: t ~ q_k(. | x_j) for each measured event j.  With the weight of j they are distributed as

   .. math:: g_{k+1}(t) = \int q_k(t \mid x)\, D(x)\, dx, \qquad \int g_{k+1} = \int D

   with D(x) the data's signal: iterative Bayes (D'Agostini), without bins.
3. *prior removal*: the ratio of the draws to the reconstructed truth of the simulation, nu(t) = g_{k+1}(t) / g_0(t), by
   a classifier, makes the prior of the next iteration; left out after the last.

Densities and classifiers start each iteration from the one before.  All ratios are to the simulation as it was given,
so that errors of classifiers do not multiply.

**Background and fakes.**  Step 2 is linear in D.  Background events, and with ``fakes="subtract"`` the simulation's
fakes (``pass_truth`` false), are events of negative weight among the measured ones, and get draws like them: what is
true of expectations is true of theirs, at any x, with no purity to learn.  The price is that unfolded events have
weights of both signs.  With ``"scale"`` the weights of the data are multiplied by the simulation's purity p(x) =
S_0 / (S_0 + F_0), learned, which keeps the fraction of fakes at each x rather than their yield.

**Acceptance.**  Draws are truth that was reconstructed.  Their weights are divided by the efficiency eps(t), the
probability that a classifier of reconstructed against missed events learns on all truth of the simulation; it is the
detector's, and the same in all iterations.

**Rate.**  The draws' weights before the acceptance sum to the data's signal exactly, in each replica too.

Sources: Bellagente, Butter, Kasieczka, Plehn, Rousselot, Winterhalder, Ardizzone, Koethe, arXiv 2006.06685 (conditional
networks); Backes, Butter, Dunford, Malaescu, arXiv 2212.08674 (iterations); D'Agostini, Nucl. Instrum. Meth. A 362
(1995) 487 (iterative Bayes, its binned limit).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal, cast

import numpy as np
import torch
from numpy.typing import NDArray
from scipy import special
from torch import Tensor

from ... import ensemble, hashing, losses, nets
from ...density import flows
from ...density.columns import Bounds, Columns
from ...density.flow_density import Density
from ...density.flows import NSF, Flow
from ...density.rows import TrainingRows
from ...ensemble import Ensemble, Fitted, fit_networks
from ...events import Events, flag, positive_total
from ...features import Features, Inputs
from ...nets import MLP, DeepSet, Network, Transformer
from ...resample import Resample, mean_one
from ...train import Draw, Drawn, History, Training, digest
from ..measured import check_fakes
from ..samples import (
    Rows,
    check_counts,
    check_signal,
    key_of,
    purity,
    ranges_of,
    reconstructed,
    share_outside,
    warn_of_shared_keys,
)
from .result import GenerativeIteration, GenerativeUnfolding
from .truth_functions import TruthFunction, classifier_of, standardised

__all__ = ["generative_unfolding"]

Floats = NDArray[np.float64]
Keys = NDArray[np.int64]

#: Of the density: a short schedule, run to its end in each iteration.
TRAINING = Training(epochs=20, batch=512, learning_rate=3e-3)
#: Of the classifiers of the truth, likewise.
CLASSIFIER_TRAINING = Training(epochs=20, batch=512, learning_rate=3e-3)
#: Of the efficiency, which is learned once, and in the tails of few events: some 600 steps at 5,000 events.
EFFICIENCY_TRAINING = Training(epochs=60, batch=512, learning_rate=3e-3)


def generative_unfolding(
    data: Events,
    simulation: Events,
    *,
    reco: Features | Sequence[str],
    truth: Sequence[str],
    background: Events | None = None,
    fakes: Literal["subtract", "scale"] = "subtract",
    iterations: int = 3,
    draws: int = 4,
    members: int = 1,
    bootstrap: int = 0,
    outside: float = 0.05,
    bounds: Mapping[str, Bounds] | None = None,
    group: str | None = None,
    network: Flow = NSF(),  # noqa: B008 - a frozen spec
    embedding: Network | None = None,
    summaries: int = 16,
    classifier: Network = MLP(),  # noqa: B008 - a frozen spec
    validation: float = 0.0,
    training: Training = TRAINING,
    classifier_training: Training = CLASSIFIER_TRAINING,
    efficiency_training: Training = EFFICIENCY_TRAINING,
    seed: int,
    device: str = "cpu",
    checkpoint: str | Path | None = None,
    progress: bool = True,
) -> GenerativeUnfolding:
    """Unfold ``data`` by draws of the truth given what was measured.

    Parameters
    ----------
    data:
        Measured events with the reco columns; weights of any sign.  Where it has a column ``pass_reco``, the others
        are left out.
    simulation:
        Events with truth and reco columns, and boolean columns ``pass_reco``, ``pass_truth`` where there are misses or
        fakes.  A miss needs no finite reco columns, a fake no truth ones.
    reco:
        What the density is conditioned on: flat columns, or `Features` with clouds.
    truth:
        The columns that are unfolded, jointly; flat and continuous.
    background:
        Events with the reco columns whose sum of weights is what is expected in the data; subtracted.
    fakes:
        See the module.
    iterations:
        How many densities are trained, each with the truth that the one before has found as prior.
    draws:
        Of the truth, for each measured event.
    members:
        Replicas with their own initial weights and batches.  Their mean is the answer, its method variance theirs
        over K.
    bootstrap:
        So many further replicas, each on its own Poisson bootstrap of data, background and simulation.  All train
        together with the members.  Each holds its draws, 8 (D + 1) bytes for each draw of each measured event.
    outside:
        The largest share of the data that may lie outside the simulation's range in a flat reco column, where no
        density was learned.
    bounds:
        Of truth columns, as in `nuinfer.density.fit_density`.
    group:
        Integer column whose equal values (detector throws of one true event) stay together in bootstraps.
    network, embedding, summaries:
        Of the density and of what sums up the reco columns, as in `nuinfer.density.fit_density`; ``FlowMatching`` for
        more than ten truth columns.
    classifier:
        Of the truth, for prior removal and efficiency.  Of a ``DeepSet`` or ``Transformer`` its head is used.
    validation, device:
        As in `nuinfer.fit_ratio`.
    training, classifier_training, efficiency_training:
        Of the density, of the classifiers, and of that of the efficiency, for which 20 epochs of 5,000 events are too
        few.
    seed:
        The same seed gives the same draws, to the bit, at a fixed number of threads.
    checkpoint:
        A folder; a run that was stopped continues from it and gives the same numbers.

    Raises
    ------
    ValueError
        for empty samples, totals that are not positive (of the simulation, or of the data after subtraction), columns
        that are not finite where their flag is true, or too much data outside the simulation; ``KeyError``,
        ``TypeError`` for columns missing or of another kind.

    Examples
    --------
    >>> from nuinfer.simulators import GaussianUnfolding
    >>> toy = GaussianUnfolding()  # truth N(0, 1), simulation N(0.2, 0.9^2), smearing 0.5
    >>> result = generative_unfolding(
    ...     toy.data(4000, 1), toy.simulation(4000, 1), reco=["x0"], truth=["t0"], iterations=2, seed=1,
    ...     network=NSF(transforms=1, width=16), classifier=MLP(width=16, depth=2),
    ...     training=Training(epochs=8, batch=128, learning_rate=0.01), progress=False)
    >>> bool(abs(result.events()["t0"].mean() - toy.unfolded(2).mean[0]) < 0.1)
    True
    >>> result.posterior(toy.data(3, 2), draws=50).shape
    (3, 50, 1)
    """
    given, wanted = Features.of(reco), Features.of(truth)
    _check_truth(wanted)
    _check(fakes, iterations=iterations, draws=draws, members=members, bootstrap=bootstrap)
    if bootstrap:
        warn_of_shared_keys(data, background, simulation, group)
    sample = _tables(data, simulation, background, given, wanted, fakes, group)
    away = _outside(sample, given, outside)
    resample = Resample.with_replicas(seed=seed, members=members, replicas=bootstrap, validation=validation)
    both = sample.simulation.select(sample.rows.signal)
    rows = TrainingRows.of(both, wanted.flat, condition=given, bounds=bounds or {}, network=network,
                           embedding=embedding, summaries=summaries, key=sample.key[sample.rows.signal],
                           seed=seed)  # fmt: skip
    classifier = classifier.head if isinstance(classifier, DeepSet | Transformer) else classifier
    folder = Path(checkpoint) if checkpoint is not None else None
    fit = _Fit(classifier, training, classifier_training, efficiency_training, resample, device, folder, progress)
    run = _Run(sample, rows, fit, draws, fakes)
    steps = [run.iterate(number, last=number == iterations - 1) for number in range(iterations)]
    settings = {"fakes": fakes, "iterations": iterations, "reco": given.to_json(), "truth": wanted.to_json(),
                "network": flows.to_json(network), "classifier": ensemble.spec_of(classifier)}  # fmt: skip
    return run.result(members, tuple(steps), away, seed, group, settings).with_data(data, background)


def _check_truth(truth: Features) -> None:
    if truth.clouds:
        raise ValueError(f"truth: expected flat columns, found the clouds {[name for name, _ in truth.clouds]}; "
                         f"omnifold unfolds events with clouds of truth")  # fmt: skip


@dataclass(frozen=True)
class _Sample:
    """The tables of an unfolding.

    ``observed`` has the reco columns of data, background (negative) and, to subtract them, fakes (negative), without
    the multiplicities of bootstraps; ``data`` tells how many of its rows are data.
    """

    simulation: Events
    rows: Rows  # of the simulation
    observed: Events
    data: int
    observed_key: Keys
    key: Keys  # of the simulation


@dataclass(frozen=True)
class _Fit:
    """The settings of every fit."""

    classifier: Network
    training: Training
    classifier_training: Training
    efficiency_training: Training
    resample: Resample
    device: str
    checkpoint: Path | None
    progress: bool

    def options(self, label: str) -> dict[str, Any]:
        """What all fits are given."""
        path = self.checkpoint / f"{label.replace(' ', '-')}.safetensors" if self.checkpoint else None
        return {"device": self.device, "checkpoint": path, "label": label, "progress": self.progress}

    def density(self, label: str, rows: TrainingRows, weights: Floats, warm: Fitted | None) -> Fitted:
        """Densities on rows with weights (networks, N)."""
        return rows.fit(self.resample, training=self.training, weights=weights, warm=warm, **self.options(label))

    def of_truth(
        self, label: str, inputs: Inputs, weights: tuple[Floats, Floats], key: Keys, targets: Columns,
        draw: _Draws | None = None, warm: Fitted | None = None, training: Training | None = None,
    ) -> Fitted:  # fmt: skip
        """Log ratios of two truths; ``training`` in the place of that of the classifiers."""
        drawn = len(targets.parts) if draw is not None else 0
        return fit_networks(
            inputs, (mean_one(weights[0]), mean_one(weights[1])), key, self.resample,
            stack=classifier_of(self.classifier, targets), loss=losses.bce, draw=draw, drawn=drawn, warm=warm,
            training=training or self.classifier_training, **self.options(label),
        )  # fmt: skip


class _Draws(Draw):
    """The truth of the rows of a classifier: draws (networks, R, M, D), then the simulation's (S, D); standardised.

    A measured event has one of its draws in each epoch, the next one in the next.
    """

    def __init__(self, draws: Tensor, simulated: Tensor) -> None:
        self.draws, self.simulated = draws, simulated

    def __call__(self, rows: Tensor, networks: Keys, epoch: int | None) -> Drawn:
        """Columns (S, K, B, D)."""
        many, turn = self.draws.shape[1], (epoch or 0) % self.draws.shape[2]
        found = self.simulated[(rows - many).clamp_min(0)]
        for k, network in enumerate(networks):
            own, measured = rows[:, k], rows[:, k] < many
            found[:, k][measured] = self.draws[int(network), own[measured], turn]
        return Drawn(found)

    def describe(self) -> str:
        """A digest of the draws."""
        return f"draws of the truth {digest(self.draws, self.simulated)}"


class _Run:
    """The state of all networks as they go through the iterations."""

    def __init__(self, sample: _Sample, rows: TrainingRows, fit: _Fit, draws: int, fakes: str) -> None:
        self.sample, self.rows, self.fit, self.count = sample, rows, fit, draws
        networks, resample = fit.resample.members, fit.resample
        self.networks, self.plain = networks, resample.plain
        self.own = sample.simulation.weight[sample.rows.signal]
        self.truth = rows.targets.read(sample.simulation.select(sample.rows.signal))  # (S, D)
        observed = np.broadcast_to(sample.observed.weight, (networks, len(sample.observed)))
        if fakes == "scale" and len(sample.rows.fakes):
            observed = observed * _purity(sample, fit, rows)
        self.observed = np.ascontiguousarray(observed)  # (networks, R)
        self.observed_times, self.signal_times = resample.counts(sample.observed_key), resample.counts(rows.key)
        self.target = (self.observed * self.observed_times).sum(1)  # the data's signal (networks,)
        check_signal(self.target)
        self.efficiency = _efficiency(sample, rows.targets, fit)
        self.nu = np.ones((networks, len(self.own)))
        self.fitted: Fitted | None = None
        self.ratio: Fitted | None = None
        self.prior: TruthFunction | None = None
        self.drawn = np.empty((networks, 0, draws, len(rows.targets.parts)))
        self.moved = np.zeros(networks)

    def iterate(self, number: int, *, last: bool) -> GenerativeIteration:
        """One iteration of all networks, and unless it is the last the prior of the next."""
        label, plain, resample = f"iteration {number + 1}", self.plain, self.fit.resample
        self.fitted = self.fit.density(f"{label} density", self.rows, self.own * self.nu, self.fitted)
        self.drawn = np.stack([self._draw(number, k) for k in range(self.networks)])
        seen = np.stack([self._efficiency_at(k, self.drawn[k]) for k in range(plain)])
        members = Resample(seed=resample.seed, members=plain, validation=resample.validation)
        step = GenerativeIteration(
            _density(self.rows, self.fitted, 0, plain, members, float(self.own.sum())),
            None if self.prior is None else self.prior.part(0, plain), self.drawn[:plain], seen, self.moved[:plain],
            None if self.ratio is None else _columns_of(self.ratio.history, 0, plain),
        )  # fmt: skip
        if not last:
            self._remove_prior(label)
        return step

    def _draw(self, number: int, k: int) -> Floats:
        """Draws (R, M, D) of one network."""
        fitted, seed = cast(Fitted, self.fitted), self.fit.resample.seed
        single = _density(self.rows, fitted, k, k + 1, Resample(seed=seed), 1.0)
        # replicas share their random numbers: a bootstrap repeats events with their draws, whose noise then counts once
        own = min(k, self.plain)
        return single.draws(self.count, self.sample.observed, seed=hashing.salt(seed, "generative", number, own) >> 1)

    def _efficiency_at(self, k: int, truth: Floats) -> Floats:
        """The efficiency (R, M) by one network at draws (R, M, D)."""
        if self.efficiency is None:
            return np.ones(truth.shape[:2])
        logs = self.efficiency.part(k, k + 1).log(truth.reshape(-1, truth.shape[-1]))
        return np.asarray(special.expit(logs).reshape(truth.shape[:2]))

    def _remove_prior(self, label: str) -> None:
        """nu <- g / g_0 on the simulation's reconstructed truth."""
        targets, size = self.rows.targets, len(self.sample.observed)
        points = standardised(targets, self.drawn.reshape(-1, self.drawn.shape[-1])).flat.view(self.drawn.shape)
        simulated = standardised(targets, self.truth)
        count, one = len(self.own), self.observed
        weights = (
            np.concatenate([one, np.zeros((len(one), count))], 1), np.concatenate([np.zeros(size), self.own])
        )  # fmt: skip
        inputs = Inputs(torch.empty(size + count, 0, dtype=torch.float32))
        key = np.concatenate([self.sample.observed_key, self.rows.key])
        self.ratio = ratio = self.fit.of_truth(
            f"{label} prior", inputs, weights, key, targets, _Draws(points, simulated.flat), self.ratio
        )
        logs = ratio.log(simulated)
        total = (self.own * self.signal_times * np.exp(logs)).sum(1)
        self.prior = TruthFunction(targets, cast(Ensemble, ratio.model), np.log(self.target / total))
        after = np.exp(logs) * (self.target / total)[:, None]
        self.moved = np.sqrt(np.mean(np.log(after / self.nu) ** 2, axis=1))
        self.nu = after

    def result(
        self, members: int, steps: tuple[GenerativeIteration, ...], away: float, seed: int, group: str | None,
        settings: dict[str, Any],
    ) -> GenerativeUnfolding:  # fmt: skip
        """What the iterations gave."""
        efficiency = None if self.efficiency is None else self.efficiency.part(0, members)
        return GenerativeUnfolding(self.sample.observed.id, self.observed[:members], steps, *self.replicas(),
                                   efficiency, away, seed, group, settings)  # fmt: skip

    def replicas(self) -> tuple[Floats, Floats, Floats]:
        """Draws, efficiencies and weights of the bootstrap replicas, after the last iteration."""
        truth, which = self.drawn[self.plain :], range(self.plain, self.networks)
        seen = [self._efficiency_at(k, self.drawn[k]) for k in which]
        weights = (self.observed * self.observed_times)[self.plain :]
        return truth, np.array(seen, np.float64).reshape(truth.shape[:3]), weights


def _density(rows: TrainingRows, fitted: Fitted, start: int, stop: int, resample: Resample, total: float) -> Density:
    """The density of the networks from ``start`` to ``stop``."""
    model = cast(Ensemble, fitted.model).part(start, stop)
    return Density(*rows.parts, model, resample, total, _columns_of(fitted.history, start, stop))


def _columns_of(history: History | None, start: int, stop: int) -> History:
    """The history of the networks from ``start`` to ``stop``."""
    own = cast(History, history)
    part = slice(start, stop)
    return replace(own, train=own.train[:, part], validation=own.validation[:, part], best_epoch=own.best_epoch[part])


def _tables(
    data: Events, simulation: Events, background: Events | None, reco: Features, truth: Features, fakes: str,
    group: str | None,
) -> _Sample:  # fmt: skip
    rows, key, data = Rows.of(simulation), simulation.key(group), reconstructed(data)
    reco.check(simulation, flag(simulation, "pass_reco"))
    truth.check(simulation, flag(simulation, "pass_truth"))
    positive_total("data", data.weight)
    parts = [(data, data.weight, key_of(data, group))]
    if background is not None and len(background):
        background = reconstructed(background)
        parts.append((background, -background.weight, key_of(background, group)))
    if fakes == "subtract" and len(rows.fakes):
        parts.append((simulation.select(rows.fakes), -simulation.weight[rows.fakes], key[rows.fakes]))
    for events, _, _ in parts:
        reco.check(events)
    observed = Events.concat([events.keep(reco.columns).with_weight(w) for events, w, _ in parts])
    keys = np.concatenate([k for _, _, k in parts])
    return _Sample(simulation, rows, observed, len(data), keys, key)


def _outside(sample: _Sample, reco: Features, limit: float) -> float:
    """The share of the data's absolute weight outside the range of the simulation's signal in a flat column."""
    data = sample.observed.select(slice(0, sample.data))
    ranges = ranges_of(reco.flat, (sample.simulation, sample.rows.signal))
    return share_outside(data, ranges, limit, of="the simulation's events with truth and reco",
                         why="no density is learned there")  # fmt: skip


def _efficiency(sample: _Sample, targets: Columns, fit: _Fit) -> TruthFunction | None:
    """The log odds of being reconstructed, learned on all truth; None where nothing is missed."""
    rows = sample.rows.truth
    weight, seen = sample.simulation.weight[rows], flag(sample.simulation, "pass_reco")[rows]
    if not np.any(weight[~seen]):
        return None
    events = sample.simulation.select(rows)
    values = targets.read(events)
    targets.fitted(values, events.weight, fit.resample.seed)  # refuses what lies outside the bounds
    one, zero = np.where(seen, weight, 0.0), np.where(seen, 0.0, weight)
    positive_total("simulation (events with truth that are not reconstructed)", zero)
    key, resample = sample.key[rows], fit.resample
    fitted = fit.of_truth("efficiency", standardised(targets, values), (one, zero), key, targets,
                          training=fit.efficiency_training)  # fmt: skip
    times = resample.counts(key)
    return TruthFunction(targets, cast(Ensemble, fitted.model), np.log((times @ one) / (times @ zero)))


def _purity(sample: _Sample, fit: _Fit, columns: TrainingRows) -> Floats:
    """p(x) at each measured event (networks, R): see `nuinfer.unfolding.samples.purity`."""
    rows, reco = sample.rows, cast(Features, columns.condition)
    network = cast(Network, columns.embedding) if reco.clouds else fit.classifier
    inputs = reco.tensors(sample.simulation.select(np.concatenate([rows.signal, rows.fakes])))

    def fitted(pair: tuple[Floats, Floats], key: Keys, training: Training) -> Fitted:
        return fit_networks(inputs, pair, key, fit.resample, stack=nets.stack(network, reco.shape), loss=losses.bce,
                            training=training, **fit.options("purity"))  # fmt: skip

    return purity(fitted, rows, sample.simulation.weight, sample.key, reco.tensors(sample.observed), fit.resample,
                  fit.classifier_training)  # fmt: skip


def _check(fakes: str, bootstrap: int, **counts: int) -> None:
    check_fakes(fakes)
    check_counts(bootstrap=bootstrap, least=0)
    check_counts(**counts)
