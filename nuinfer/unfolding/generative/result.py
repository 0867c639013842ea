"""The result of a generative unfolding: measured events with draws of their truth, and what follows from them."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING, Any, cast

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import special

from ... import ensemble, store
from ...density.flow_density import Density
from ...diagnostics import SBC, sbc
from ...events import Events, flag
from ...features import Features
from ...nets import Network
from ...train import History
from ..binning import Binning, BinningLike, filled
from ..samples import FromData, check_iteration
from ..spectrum import Spectrum, of_replicas
from .truth_functions import TruthFunction

if TYPE_CHECKING:
    from ..checks import Checks, Thresholds

__all__ = ["GenerativeIteration", "GenerativeUnfolding"]

Floats = NDArray[np.float64]
Keys = NDArray[np.int64]


@dataclass(frozen=True, eq=False)
class GenerativeIteration:
    """One iteration of K members, with M draws for each of R measured events.

    Attributes
    ----------
    density:
        q(t | x), with the truth of the iteration before as prior: the simulation's own in the first.
    prior:
        What made that prior of the simulation's; None in the first.
    truth:
        The draws (K, R, M, D).
    efficiency:
        Of each draw (K, R, M).
    movement:
        Root mean square of the change of log nu, over the simulation's reconstructed truth, from the prior of the
        iteration before to this one's (K,); 0 in the first.
    ratio_history:
        Of the classifier that made the prior; None in the first.  That of the density is ``density.history``.
    """

    density: Density
    prior: TruthFunction | None
    truth: Floats
    efficiency: Floats
    movement: Floats
    ratio_history: History | None


@dataclass(frozen=True, eq=False)
class GenerativeUnfolding(FromData):
    """Draws of the truth for each measured event; made by `generative_unfolding`.

    The R measured events are those of the data and, with negative weights, of background and fakes to subtract.

    Attributes
    ----------
    id:
        Of the measured events (R,).
    weights:
        Their signed weights (K, R) for each member; those of data multiplied by the purity with ``fakes="scale"``.
    iterations:
        What happened in each; the last is the answer.
    replica_truth, replica_efficiency, replica_weights:
        The same for bootstrap replicas, (B, R, M, D), (B, R, M), (B, R), multiplicities included.
    efficiency_of:
        The log odds of being reconstructed, as a function of the truth; None where nothing was missed.
    outside:
        The share of the data that lies outside the simulation's range in a flat reco column.
    seen:
        The data and the background, for `check`: in memory alone, and None for what was loaded or changed.  It and
        the methods that go with it are `nuinfer.unfolding.samples.FromData`'s.
    """

    id: Keys
    weights: Floats
    iterations: tuple[GenerativeIteration, ...]
    replica_truth: Floats
    replica_efficiency: Floats
    replica_weights: Floats
    efficiency_of: TruthFunction | None
    outside: float
    seed: int
    group: str | None = None
    settings: dict[str, Any] = field(default_factory=dict)

    @property
    def columns(self) -> tuple[str, ...]:
        """The D columns of the truth."""
        return self.density.columns

    @property
    def density(self) -> Density:
        """q(truth | reco) of the last iteration, the mean of its members."""
        return self.iterations[-1].density

    @cached_property
    def history(self) -> tuple[History, ...]:
        """Of the densities, one an iteration; those of classifiers are in ``iterations``."""
        return tuple(step.density.history for step in self.iterations)

    def _at(self, iteration: int | None) -> GenerativeIteration:
        if iteration is None:
            return self.iterations[-1]
        return self.iterations[check_iteration(iteration, len(self.iterations))]

    # -- unfolded events

    def events(self, *, iteration: int | None = None, reconstructed: bool = False) -> Events:
        """Unfolded events: the truth columns, M draws of each member for each measured event.

        Weights are the measured event's, over M, K and the draw's efficiency.  Draws have the id of their measured
        event, so that splits and bootstraps keep them together.

        Parameters
        ----------
        iteration:
            Number from 0 of the iteration; the last by default.
        reconstructed:
            Without the efficiency: truth that was reconstructed, whose weights sum to the data's signal.
        """
        step = self._at(iteration)
        weight = _draw_weights(self.weights, step.efficiency, reconstructed) / len(self.weights)
        return Events(
            self._columns(step.truth), weight=weight.reshape(-1),
            id=np.broadcast_to(self.id[None, :, None], weight.shape).reshape(-1),
        )  # fmt: skip

    def _columns(self, truth: Floats) -> dict[str, Floats]:
        flat = truth.reshape(-1, truth.shape[-1])
        return {name: np.ascontiguousarray(flat[:, i]) for i, name in enumerate(self.columns)}

    def spectrum(self, bins: BinningLike, *, iteration: int | None = None, reconstructed: bool = False) -> Spectrum:
        """The unfolded spectrum of one or more truth columns.

        Parameters
        ----------
        bins:
            Edges by column, ``{"p": [0, 1, 2]}``, or a `Binning`.
        iteration, reconstructed:
            As in `events`; replicas, and with them a statistical covariance, are of the last iteration alone.

        Raises
        ------
        KeyError
            for a column that is none of the truth's; ``ValueError`` for edges that do not rise.
        """
        binning, step = Binning.of(bins), self._at(iteration)
        members = self._fill(binning, step.truth, _draw_weights(self.weights, step.efficiency, reconstructed))
        none = iteration is not None
        truth, own = (self.replica_truth[:0] if none else self.replica_truth), self.replica_weights
        replicas = self._fill(binning, truth, _draw_weights(own, self.replica_efficiency, reconstructed))
        return of_replicas(binning, members, replicas, corrected=not reconstructed, settings=self.settings)

    def _fill(self, binning: Binning, truth: Floats, weight: Floats) -> Floats:
        """Histograms (K, B) of draws (K, R, M, D) with weights (K, R, M)."""
        unknown = [name for name in binning.names if name not in self.columns]
        if unknown:
            raise KeyError(f"bins: expected columns of the truth, {', '.join(self.columns)}, found {unknown[0]!r}; "
                           f"others follow from events(), or are unfolded by naming them in truth=")  # fmt: skip
        rows = [
            filled(binning.index(self._columns(t)), w.reshape(-1), binning.size)[0]
            for t, w in zip(truth, weight, strict=False)
        ]
        return np.array(rows, np.float64).reshape(len(truth), binning.size)

    # -- event by event

    def posterior(self, events: Events, *, draws: int = 100, iteration: int | None = None, seed: int = 0) -> Floats:
        """Draws (N, draws, D) of the truth of each of N measured events, were it signal.

        Raises
        ------
        ValueError
            for fewer than one draw; ``KeyError``, ``TypeError`` for events without the reco columns.
        """
        return self._at(iteration).density.draws(draws, events, seed=seed)

    def efficiency(self, events: Events) -> Floats:
        """The learned efficiency (N,) at the truth of events, the mean of the members."""
        if self.efficiency_of is None:
            return np.ones(len(events))
        return np.asarray(special.expit(self.efficiency_of.log(self._truth(events))).mean(0))

    def prior(self, events: Events, *, iteration: int | None = None) -> Floats:
        """nu (N,) at the truth of events: what made the simulation's truth the prior of an iteration's density."""
        found = self._at(iteration).prior
        if found is None:
            return np.ones(len(events))
        return np.asarray(np.exp(found.log(self._truth(events))).mean(0))

    def _truth(self, events: Events) -> Floats:
        return self.density.targets.read(events)

    def calibration(
        self, events: Events, *, draws: int = 99, iteration: int | None = None, density: bool | None = None,
        seed: int = 0,
    ) -> SBC:  # fmt: skip
        """Ranks of the truth of simulated events among posterior draws, and whether they are uniform.

        Events count with their weight times `prior`, since that is the truth that the density has as prior.  A p-value
        below 0.01 says that the density does not describe the simulation; whether the simulation describes the
        detector it cannot say.

        Parameters
        ----------
        events:
            Simulated events with truth and reco columns, others than those of the training.  Misses and fakes are
            left out.
        draws:
            Posterior draws of each; one more should have many divisors.
        density:
            Whether the rank of log q is looked at too; None for a flow, but not for ``FlowMatching``, where it is slow.

        Raises
        ------
        ValueError, KeyError
            as `nuinfer.diagnostics.sbc`.
        """
        both = events.select(flag(events, "pass_reco") & flag(events, "pass_truth"))
        own = self._at(iteration).density
        condition = cast(Features, own.condition)
        seen = both.keep([*self.columns, *condition.columns]).with_weight(
            both.weight * self.prior(both, iteration=iteration)
        )
        wanted = own.stack.quick if density is None else density
        return sbc(_Sampler(own, condition), seen, draws=draws, density=wanted, seed=seed)

    def check(
        self,
        *,
        truth: BinningLike,
        reco: BinningLike,
        simulation: Events | None = None,
        closed: tuple[GenerativeUnfolding, ArrayLike] | None = None,
        pseudo_data: Mapping[str, tuple[GenerativeUnfolding, ArrayLike]] | None = None,
        pseudo_experiments: tuple[Sequence[GenerativeUnfolding | Spectrum], ArrayLike] | None = None,
        priors: Mapping[str, GenerativeUnfolding] | None = None,
        seed: int = 0,
        thresholds: Thresholds | None = None,
    ) -> Checks:
        """All checks of `nuinfer.unfolding.checks.check_draws`, with its arguments."""
        from ..checks import Thresholds, check_draws

        return check_draws(
            self, truth=truth, reco=reco, simulation=simulation, closed=closed, pseudo_data=pseudo_data,
            pseudo_experiments=pseudo_experiments, priors=priors, seed=seed,
            thresholds=thresholds or Thresholds(),
        )  # fmt: skip

    def __repr__(self) -> str:
        rows, total = len(self.id), float(self.weights.mean(0).sum())
        corrected = float(_draw_weights(self.weights, self.iterations[-1].efficiency, False).sum() / len(self.weights))
        moves = ", ".join(f"{step.movement.mean():.3g}" for step in self.iterations[1:])
        return (
            f"GenerativeUnfolding({', '.join(self.columns)}; {len(self.weights)} members, "
            f"{len(self.replica_weights)} replicas, {self.iterations[-1].truth.shape[2]} draws for each of {rows} "
            f"events; signal {total:.6g}, truth yield {corrected:.6g}; {self.outside:.2g} of the data outside the "
            f"simulation; movement of the prior {moves or 'none'})"
        )

    # -- files

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write everything to one safetensors file, atomically."""
        arrays: dict[str, NDArray[Any]] = {
            "id": self.id, "weights": self.weights, "replica_truth": self.replica_truth,
            "replica_efficiency": self.replica_efficiency, "replica_weights": self.replica_weights,
        }  # fmt: skip
        if self.efficiency_of is not None:
            arrays |= store.under("efficiency.", self.efficiency_of.arrays())
        steps = []
        for i, step in enumerate(self.iterations):
            spec, own = _saved_iteration(step)
            steps.append(spec)
            arrays |= store.under(f"{i}.", own)
        spec = {
            "iterations": steps, "efficiency": self.efficiency_of is not None, "outside": self.outside,
            "seed": self.seed, "group": self.group, "settings": self.settings,
        }  # fmt: skip
        store.save(path, "generative", spec, arrays)

    @classmethod
    def load(cls, path: str | os.PathLike[str], *, module: Any = None, classifier: Any = None) -> GenerativeUnfolding:
        """Read what `save` wrote; ``module`` and ``classifier`` make embedding and classifier that were a user's own.

        Raises
        ------
        CorruptFile
            for a file that is damaged; ``ValueError`` for one of another kind; ``FileNotFoundError`` for none.
        """
        spec, arrays = store.load(path, "generative")
        network = cast(Network, ensemble.network_of(spec["settings"]["classifier"], classifier))
        steps = tuple(
            _loaded_iteration(own, store.within(f"{i}.", arrays), network, module)
            for i, own in enumerate(spec["iterations"])
        )
        targets = steps[0].density.targets
        found = store.within("efficiency.", arrays)
        efficiency = TruthFunction.of_arrays(targets, network, found) if spec["efficiency"] else None
        return cls(
            arrays["id"], arrays["weights"], steps, arrays["replica_truth"], arrays["replica_efficiency"],
            arrays["replica_weights"], efficiency, spec["outside"], spec["seed"], spec["group"], spec["settings"],
        )  # fmt: skip


@dataclass(frozen=True)
class _Sampler:
    """A density as diagnostics ask for one."""

    density: Density
    features: Features

    @property
    def names(self) -> tuple[str, ...]:
        return self.density.columns

    def draws(self, n: int, observations: Events, *, seed: int = 0) -> Floats:
        return self.density.draws(n, observations, seed=seed)

    def log_probs(self, theta: ArrayLike, observations: Events) -> Floats:
        return self.density.log_probs(theta, observations)


def _draw_weights(weights: Floats, efficiency: Floats, reconstructed: bool) -> Floats:
    """Weights (K, R, M) of draws, from those of the measured events (K, R)."""
    shared = weights[:, :, None] / efficiency.shape[2]
    return np.broadcast_to(shared, efficiency.shape) if reconstructed else shared / efficiency


def _saved_iteration(step: GenerativeIteration) -> tuple[dict[str, Any], dict[str, NDArray[Any]]]:
    spec, arrays = step.density.saved()
    found = {"truth": step.truth, "efficiency": step.efficiency, "movement": step.movement}
    found |= store.under("density.", arrays)
    found |= store.under("prior.", step.prior.arrays()) if step.prior is not None else {}
    found |= store.under("ratio.", step.ratio_history.arrays()) if step.ratio_history is not None else {}
    return {"density": spec}, found


def _loaded_iteration(
    spec: Mapping[str, Any], arrays: Mapping[str, NDArray[Any]], network: Network, module: Any
) -> GenerativeIteration:
    density = Density.of_saved(spec["density"], store.within("density.", arrays), module=module)
    prior, ratio = store.within("prior.", arrays), store.within("ratio.", arrays)
    return GenerativeIteration(
        density, TruthFunction.of_arrays(density.targets, network, prior) if prior else None, arrays["truth"],
        arrays["efficiency"], arrays["movement"], History.of_arrays(ratio) if ratio else None,
    )  # fmt: skip
