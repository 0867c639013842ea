"""The result of an unfolding: weights on the simulation's events, and what follows from them."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from ... import store
from ...events import Events, flag
from ...train import History
from ..binning import Binning, BinningLike, filled
from ..samples import FromData, check_iteration
from ..spectrum import Spectrum, of_replicas

if TYPE_CHECKING:
    import hist

    from ...features import Features
    from ...nets import Network
    from ...train import Training
    from ...trees import Trees
    from ..checks import Checks, Thresholds

__all__ = ["Iteration", "Unfolded"]

Floats = NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class Iteration:
    """One iteration: weights (members, events), and how they moved.

    Attributes
    ----------
    weights:
        Like `Unfolded.weights`, after this iteration.
    movement:
        Root mean square of log(weight / weight before) over the events of the truth, for each member (K,).
    effective_size:
        Of the weighted events of the truth, for each member (K,).
    reco_history, truth_history:
        Training histories of the two steps, None for trees.
    """

    weights: Floats
    movement: Floats
    effective_size: Floats
    reco_history: History | None
    truth_history: History | None


@dataclass(frozen=True, eq=False)
class Unfolded(FromData):
    """Weights that turn the simulation into what the data say; made by `omnifold`.

    Attributes
    ----------
    simulation:
        The events that the weights belong to.
    weights:
        (members, events), absolute: they multiply ``simulation.weight``, and summed over ``pass_reco`` they give the
        background-subtracted data.
    replicas:
        (replicas, events): the same for bootstrap replicas of data and simulation, the simulation's multiplicities
        included.
    iterations:
        What happened in each.
    seen:
        The data and the background, for `check`: in memory alone, and None for what was loaded or changed.  It and
        the methods that go with it are `nuinfer.unfolding.samples.FromData`'s.
    """

    simulation: Events
    weights: Floats
    replicas: Floats
    iterations: tuple[Iteration, ...]
    seed: int
    group: str | None = None
    settings: dict[str, Any] = field(default_factory=dict)

    def spectrum(self, bins: BinningLike, *, iteration: int | None = None, reconstructed: bool = False) -> Spectrum:
        """The unfolded spectrum of one or more columns of the simulation, in bins of their true values.

        Parameters
        ----------
        bins:
            Edges by column, ``{"p": [0, 1, 2]}``, or a `Binning`.
        iteration:
            Number from 0 of the iteration; the last by default, and the only one that has replicas.
        reconstructed:
            Only truth that is reconstructed too: not corrected for the efficiency.

        Raises
        ------
        ValueError
            for edges that do not rise, or an observable that is not finite for an event of the truth.
        """
        binning = Binning.of(bins)
        where = flag(self.simulation, "pass_truth")
        if reconstructed:
            where = where & flag(self.simulation, "pass_reco")
        index = binning.index(self.simulation, where)
        weights, replicas = self._at(iteration)
        members, spread = (self._fill(w, index, binning.size) for w in (weights, replicas))
        return of_replicas(binning, members, spread, corrected=not reconstructed, settings=self.settings)

    def _fill(self, weights: Floats, index: NDArray[np.int64], size: int) -> Floats:
        """Histograms (K, B) of the weighted events."""
        rows = [filled(index, w * self.simulation.weight, size)[0] for w in weights]
        return np.array(rows, np.float64).reshape(len(weights), size)

    def _at(self, iteration: int | None) -> tuple[Floats, Floats]:
        """Weights and replicas after an iteration."""
        if iteration is None:
            return self.weights, self.replicas
        return self.iterations[check_iteration(iteration, len(self.iterations))].weights, self.replicas[:0]

    def hist(self, bins: BinningLike) -> hist.Hist[Any]:
        """`spectrum` as ``hist.Hist`` with ``Weight`` storage."""
        return self.spectrum(bins).hist()

    def check(
        self,
        *,
        truth: BinningLike,
        reco: BinningLike,
        features: Features | list[str] | None = None,
        closed: Unfolded | None = None,
        pseudo_data: Mapping[str, tuple[Unfolded, ArrayLike]] | None = None,
        pseudo_experiments: tuple[Sequence[Unfolded | Spectrum], ArrayLike] | None = None,
        priors: Mapping[str, Unfolded] | None = None,
        network: Network | Trees | None = None,
        training: Training | None = None,
        seed: int = 0,
        data: Events | None = None,
        background: Events | None = None,
        thresholds: Thresholds | None = None,
    ) -> Checks:
        """All checks of `nuinfer.unfolding.check_events`, with what this was unfolded from.

        Parameters
        ----------
        truth, reco, closed, pseudo_data, pseudo_experiments, priors, network, training, seed, thresholds:
            As there.
        features:
            Of the two-sample test; None for what the reco step saw.
        data, background:
            As they were unfolded, of a result that was loaded or changed.

        Raises
        ------
        ValueError
            without data or features where the result does not know them, and as the checks.
        """
        from ...features import Features
        from ..checks import Thresholds, check_events

        known, data, background = self._known(data, background)
        if features is None and "reco" not in self.settings:
            raise ValueError("check: expected features= of the two-sample test, as the settings have no 'reco'")
        return check_events(
            known, data, background=background, truth=truth, reco=reco,
            features=Features.from_json(self.settings["reco"]) if features is None else features, closed=closed,
            pseudo_data=pseudo_data, pseudo_experiments=pseudo_experiments, priors=priors, network=network,
            training=training, seed=seed, group=self.group, thresholds=thresholds or Thresholds(),
        )  # fmt: skip

    def __repr__(self) -> str:
        moves = ", ".join(f"{step.movement.mean():.3g}" for step in self.iterations)
        total = float((self.weights.mean(0) * self.simulation.weight)[flag(self.simulation, "pass_truth")].sum())
        return (
            f"Unfolded({len(self.weights)} members, {len(self.replicas)} replicas, {self.weights.shape[1]} events; "
            f"truth yield {total:.6g}; movement per iteration {moves}{self._away()})"
        )

    def _away(self) -> str:
        share = self.settings.get("outside", 0.0)
        return f"; {share:.2g} of the data outside the simulation" if share else ""

    # -- files ---------------------------------------------------------------------------------------------------------

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write weights, replicas and iterations to one safetensors file; the simulation stays where it is."""
        store.save(path, "unfolded", *self.saved())

    @classmethod
    def load(cls, path: str | os.PathLike[str], simulation: Events) -> Unfolded:
        """Read what `save` wrote, for the same simulation, in the same order.

        Raises
        ------
        CorruptFile
            for a damaged file; ``ValueError`` for a simulation with other ids or weights.
        """
        return cls.of_saved(*store.load(path, "unfolded"), simulation, path)

    def saved(self) -> tuple[dict[str, Any], dict[str, NDArray[Any]]]:
        """The JSON and the arrays that a file holds."""
        arrays: dict[str, NDArray[Any]] = {
            "weights": self.weights, "replicas": self.replicas, "id": self.simulation.id,
            "own": self.simulation.weight,
        }  # fmt: skip
        for i, step in enumerate(self.iterations):
            arrays |= {f"{i}.{n}": getattr(step, n) for n in ("weights", "movement", "effective_size")}
            for name in ("reco_history", "truth_history"):
                history: History | None = getattr(step, name)
                arrays |= store.under(f"{i}.{name}.", history.arrays()) if history else {}
        spec = {"iterations": len(self.iterations), "seed": self.seed, "group": self.group, "settings": self.settings}
        return spec, arrays

    @classmethod
    def of_saved(
        cls, spec: Mapping[str, Any], arrays: Mapping[str, NDArray[Any]], simulation: Events,
        path: str | os.PathLike[str],
    ) -> Unfolded:  # fmt: skip
        """The inverse of `saved`; ``path`` is for the words of an error."""
        for name, own in (("id", simulation.id), ("own", simulation.weight)):
            if not np.array_equal(arrays[name], own):
                raise ValueError(
                    f"{path}: expected the simulation that was unfolded ({len(arrays[name])} events), found other "
                    f"{'ids' if name == 'id' else 'weights'} ({len(own)} events); give the same events, in their order"
                )
        steps = tuple(_saved_iteration(arrays, i) for i in range(spec["iterations"]))
        return cls(
            simulation, arrays["weights"], arrays["replicas"], steps, spec["seed"], spec["group"], spec["settings"]
        )


def _saved_iteration(arrays: Mapping[str, NDArray[Any]], i: int) -> Iteration:
    histories = []
    for name in ("reco_history", "truth_history"):
        found = store.within(f"{i}.{name}.", arrays)
        histories.append(History.of_arrays(found) if found else None)
    return Iteration(arrays[f"{i}.weights"], arrays[f"{i}.movement"], arrays[f"{i}.effective_size"], *histories)
