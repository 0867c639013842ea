"""The two steps of an OmniFold iteration, for all networks at once; see `nuinfer.unfolding.unbinned.reweighting`."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, cast

import numpy as np
from numpy.typing import NDArray

from ... import ensemble, losses, metrics
from ...ensemble import Fitted, Heads
from ...events import Events, flag, positive_total
from ...features import Features, Inputs
from ...last_layer import LastLayer
from ...nets import DeepSet, Network, Transformer
from ...resample import Resample, mean_one
from ...train import Training
from ...trees import Trees
from ..samples import Rows, check_signal, key_of, purity, ranges_of, reconstructed, share_outside
from .result import Iteration

__all__ = ["PILOTS", "Fit", "Refit", "Run", "Sample", "SampleWeights", "purity_of", "tables"]

Floats = NDArray[np.float64]
Keys = NDArray[np.int64]
#: Replicas that are trained where the others fit last layers alone.
PILOTS = 2
#: What fits give: trained networks, or last layers of others.
Answer = Fitted | Heads


@dataclass(frozen=True)
class Sample:
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
    outside: float  # the share of the data outside the range of everything that is simulated

    @property
    def subtracted(self) -> bool:
        """Whether fakes are rows of ``observed``."""
        return len(self.observed_weight) > self.data + self.background


@dataclass(frozen=True)
class SampleWeights:
    """Weights (rows,), or (networks, rows) where each network has its own: of the simulation, and of ``observed``."""

    simulation: Floats
    observed: Floats

    @classmethod
    def of(cls, sample: Sample, factors: Floats | None, others: Floats | None) -> SampleWeights:
        """With factors (networks, rows) of the simulation and of the background, None for 1."""
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
class Fit:
    """The settings of every fit, and the fit itself; ``layers`` keeps what `Refit` needs of each, by label."""

    network: Network | Trees
    loss: losses.Loss
    training: Training
    resample: Resample
    device: str
    checkpoint: str | Path | None
    progress: bool
    layers: dict[str, LastLayer] | None = None

    def __call__(
        self,
        label: str,
        inputs: Inputs,
        weights: tuple[Floats, Floats],
        key: Keys,
        features: Features,
        warm: Answer | None,
    ) -> Answer:
        """The log ratio of the first to the second weights, starting from ``warm``."""
        path = Path(self.checkpoint) / f"{label.replace(' ', '-')}.safetensors" if self.checkpoint else None
        network = self.network
        if isinstance(network, DeepSet | Transformer) and not features.clouds:
            network = network.head  # what is left of it without clouds
        found = ensemble.fit(
            inputs, weights, key, self.resample, shape=features.shape, network=network, loss=self.loss,
            training=self.training, device=self.device, checkpoint=path,
            warm=warm if isinstance(warm, Fitted) else None, label=label, progress=self.progress,
        )  # fmt: skip
        if self.layers is not None and isinstance(found.model, ensemble.Ensemble):
            members, counted = self.resample.plain, self.counted(weights, key)
            self.layers[label] = LastLayer.of(found.model, inputs, counted, self.loss, members=members)
        return found

    def piloted(self) -> Fit:
        """The members and a few replicas, which keep the last layers for all others."""
        return replace(self, resample=self.resample.with_fewer(PILOTS), layers={})

    def counted(self, weights: tuple[Floats, Floats], key: Keys) -> tuple[Floats, Floats]:
        """The weights (networks, rows) with multiplicities."""
        times = self.resample.counts(key)
        return weights[0] * times, weights[1] * times


@dataclass(frozen=True)
class Refit(Fit):
    """In place of `Fit`, for networks with the hidden layers of members that a run before has trained.

    ``own`` says whose each network has.
    """

    own: tuple[int, ...] = ()

    @classmethod
    def of(cls, fit: Fit, resample: Resample, first: int = 0) -> Refit:
        """For the networks of ``resample``, which take turns at the members from number ``first`` on."""
        own = tuple((first + k) % fit.resample.plain for k in range(resample.networks))
        known = {name: getattr(fit, name) for name in ("network", "loss", "training", "device", "layers")}
        return cls(resample=resample, checkpoint=None, progress=False, own=own, **known)

    def __call__(
        self,
        label: str,
        inputs: Inputs,
        weights: tuple[Floats, Floats],
        key: Keys,
        features: Features,
        warm: Answer | None,
    ) -> Answer:
        """The log ratio of the first to the second weights, by a last layer of its own."""
        layer = cast(dict[str, LastLayer], self.layers)[label]
        return layer.refit(inputs, self.counted(weights, key), self.own)


class Run:
    """The weights of all networks as they go through the iterations."""

    def __init__(
        self, sample: Sample, weights: SampleWeights, fit: Fit, reco: Features, truth: Features, observed: Floats,
        misses: str, fakes: str,
    ) -> None:  # fmt: skip
        self.sample, self.fit, self.misses, self.fakes = sample, fit, misses, fakes
        self.reco, self.truth = reco, truth
        networks = fit.resample.networks
        self.observed = observed  # (rows,), or (networks, rows) where each network has its own
        self.weight = weights.simulation  # (events,), or (networks, events) as well
        self.nu = np.ones((networks, len(sample.simulation)))
        self.fake_nu = np.ones((networks, len(sample.rows.fakes)))
        times, observed_times = fit.resample.counts(sample.key), fit.resample.counts(sample.observed_key)
        self.signal_times, self.fake_times = times[:, sample.rows.signal], times[:, sample.rows.fakes]
        self.target = (observed * observed_times).sum(1)  # the data's signal part (networks,)
        self.fake_target = (weights.observed * observed_times).sum(1) - self.target  # and their scaled fakes
        check_signal(self.target)
        self.step1: Answer | None = None
        self.step2: Answer | None = None
        # places of the signal rows among the truth rows
        self.in_truth = np.searchsorted(sample.rows.truth, sample.rows.signal)
        self.reco_inputs = Inputs.concat([sample.observed, sample.reco])
        self.reco_key = np.concatenate([sample.observed_key, sample.key[sample.rows.signal]])
        # the rows that teach the second step, their places among the truth rows, and how often each network counts them
        conditional = misses == "conditional"
        self.rows = sample.rows.signal if conditional else sample.rows.truth
        self.taught = self.in_truth if conditional else np.arange(len(sample.rows.truth))
        self.times = self.signal_times if conditional else times[:, sample.rows.truth]
        everything = len(self.taught) == len(sample.rows.truth)
        self.taught_inputs = sample.truth_inputs if everything else sample.truth_inputs.select(self.taught)

    @property
    def present(self) -> Floats:
        """Weights (networks, signal) of the simulation as it is now, without multiplicities."""
        return np.asarray(self.weight[..., self.sample.rows.signal] * self.nu[:, self.sample.rows.signal])

    def iterate(self, number: int) -> Iteration:
        """One iteration of all networks."""
        plain, truth = self.fit.resample.plain, self.sample.rows.truth
        before = self.nu[:plain, truth]
        step1, omega = self.reco_step(number)
        step2 = self.truth_step(number, omega)
        after, own = self.nu[:plain, truth], self.sample.simulation.weight[truth]
        moved = np.sqrt(np.mean(np.log(after / before) ** 2, axis=1))
        size = metrics.effective_size(after * own)
        return Iteration(self.full_weights(0, plain), moved, size, step1.history, step2.history)

    def reco_step(self, number: int) -> tuple[Answer, Floats]:
        """The fit, and omega (networks, signal): nu r(x), normalised to the data's signal part."""
        sample, present = self.sample, self.present
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

    def truth_step(self, number: int, omega: Floats) -> Answer:
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

    def _scale_fakes(self, step1: Answer) -> None:
        """Fakes follow the data at their reco value: D(x) / S_0(x), which the first reco step has learned."""
        own = self.weight[..., self.sample.rows.fakes] * self.fake_times
        shape = np.exp(step1.log(self.sample.fake_reco))
        self.fake_nu = shape * (self.fake_target / (own * shape).sum(1))[:, None]

    def full_weights(self, start: int, stop: int) -> Floats:
        """Weights (stop - start, events) of all rows of the simulation, for these networks."""
        full = self.nu[start:stop].copy()
        full[:, self.sample.rows.fakes] = self.fake_nu[start:stop]
        return full

    def settings(self, iterations: int) -> dict[str, Any]:
        """What a result is saved with."""
        return {
            "misses": self.misses, "fakes": self.fakes, "iterations": iterations, "reco": self.reco.to_json(),
            "truth": self.truth.to_json(), "network": ensemble.spec_of(self.fit.network),
            "outside": self.sample.outside,
        }  # fmt: skip

    def replicas(self, factors: Floats | None) -> Floats:
        """`full_weights` of the replicas, with their multiplicities and their factors (networks, events)."""
        resample = self.fit.resample
        found = self.full_weights(resample.plain, resample.members)
        for network, replica in enumerate(found, resample.plain):
            replica *= resample.bootstrapped(network, self.sample.key)
            if factors is not None:
                replica *= factors[network]
        return found


def tables(
    data: Events, simulation: Events, background: Events | None, reco: Features, truth: Features, fakes: str,
    group: str | None, outside: float,
) -> Sample:  # fmt: skip
    """The tables, checked; errors as `omnifold`."""
    rows, data, key = Rows.of(simulation), reconstructed(data), simulation.key(group)
    positive_total("data", data.weight)
    reco_inputs = reco.tensors(simulation, where=flag(simulation, "pass_reco"))
    parts, others = [(reco.tensors(data), data.weight, key_of(data, group))], 0
    simulated = [(simulation, np.concatenate([rows.signal, rows.fakes]))]
    if background is not None and len(background):
        background = reconstructed(background)
        simulated.append((background, np.arange(len(background))))
        parts.append((reco.tensors(background), -background.weight, key_of(background, group)))
        others = len(background)
    if fakes == "subtract" and len(rows.fakes):
        parts.append((reco_inputs.select(rows.fakes), -simulation.weight[rows.fakes], key[rows.fakes]))
    away = share_outside(data, ranges_of(reco.flat, *simulated), outside, of="everything that is simulated",
                         why="no event can be weighted to them")  # fmt: skip
    return Sample(
        simulation, rows,
        Inputs.concat([part for part, _, _ in parts]), np.concatenate([w for _, w, _ in parts]),
        np.concatenate([k for _, _, k in parts]), reco_inputs.select(rows.signal), reco_inputs.select(rows.fakes),
        truth.tensors(simulation, where=flag(simulation, "pass_truth")).select(rows.truth), key, len(data), others,
        away,
    )  # fmt: skip


def purity_of(sample: Sample, weights: SampleWeights, fit: Fit, reco: Features) -> Floats:
    """p(x) at each observed row (networks, rows): see `nuinfer.unfolding.samples.purity`."""
    inputs = Inputs.concat([sample.reco, sample.fake_reco])

    def fitted(pair: tuple[Floats, Floats], key: Keys, training: Training) -> Answer:
        return replace(fit, training=training)("purity", inputs, pair, key, reco, None)

    return purity(fitted, sample.rows, weights.simulation, sample.key, sample.observed, fit.resample, fit.training)
