"""The result of an unfolding: weights on the simulation's events, and what follows from them."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from .. import hashing, metrics, store
from ..errors import check_finite
from ..events import Events
from ..train import History

if TYPE_CHECKING:
    import hist

__all__ = ["Iteration", "Spectrum", "Unfolded"]

Floats = NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class Spectrum:
    """An unfolded spectrum of B bins, in events.

    Attributes
    ----------
    edges:
        Bin edges, one array a dimension; arrays below are flattened in C order.
    values:
        Mean of the members (B,).
    statistical:
        Covariance (B, B) over the bootstrap replicas of data and simulation, NaN without replicas.  A replica is one
        network, so that it holds the method's noise of one network too.
    method:
        Covariance (B, B) of the members' mean: that of the members over K, NaN for one member.
    members, replicas:
        The spectra themselves, (K, B) and (R, B).
    """

    names: tuple[str, ...]
    edges: tuple[Floats, ...]
    values: Floats
    statistical: Floats
    method: Floats
    members: Floats
    replicas: Floats

    @property
    def covariance(self) -> Floats:
        """Statistical plus method covariance (B, B); a part that is unknown (NaN) is left out."""
        parts = [part for part in (self.statistical, self.method) if not np.isnan(part).any()]
        if not parts:
            raise ValueError("no covariance without replicas: unfold with bootstrap=R replicas, or members=K > 1 for "
                             "the method's part alone")  # fmt: skip
        return np.asarray(sum(parts))

    def hist(self) -> hist.Hist[Any]:
        """The same as ``hist.Hist`` with ``Weight`` storage, the variances being the covariance's diagonal."""
        import hist as histlib

        axes = [histlib.axis.Variable(e, name=n) for n, e in zip(self.names, self.edges, strict=True)]
        filled: hist.Hist[Any] = histlib.Hist(*axes, storage=histlib.storage.Weight())
        shape = tuple(len(e) - 1 for e in self.edges)
        view: Any = filled.view()
        view["value"] = self.values.reshape(shape)
        view["variance"] = np.diag(self.covariance).reshape(shape)
        return filled


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
class Unfolded:
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
    """

    simulation: Events
    weights: Floats
    replicas: Floats
    iterations: tuple[Iteration, ...]
    seed: int
    group: str | None = None
    settings: dict[str, Any] = field(default_factory=dict)

    def spectrum(self, observable: str | Sequence[str], bins: Any, *, iteration: int | None = None) -> Spectrum:
        """The unfolded spectrum of one or more columns of the simulation, in bins of their true values.

        Parameters
        ----------
        observable:
            A column, or several for a spectrum in as many dimensions.
        bins:
            Edges (B + 1,), or one array of edges a column.
        iteration:
            Number from 0 of the iteration; the last by default, and the only one that has replicas.

        Raises
        ------
        ValueError
            for edges that do not rise, or an observable that is not finite for an event of the truth.
        """
        names, edges = _axes(observable, bins)
        weights, replicas = self._at(iteration)
        rows = np.flatnonzero(flag(self.simulation, "pass_truth"))
        values = [self.simulation.flat(name)[rows] for name in names]
        for name, column in zip(names, values, strict=True):
            check_finite(f"column {name!r}", column, rows)
        index, size = _bin_numbers(values, edges)
        members, spread = (_fill(w, self.simulation.weight, rows, index, size) for w in (weights, replicas))
        unknown = np.full((size, size), np.nan)
        statistical = metrics.replica_covariance(spread) if len(spread) > 1 else unknown
        method = metrics.replica_covariance(members) / len(members) if len(members) > 1 else unknown
        return Spectrum(names, edges, members.mean(0), statistical, method, members, spread)

    def _at(self, iteration: int | None) -> tuple[Floats, Floats]:
        """Weights and replicas after an iteration."""
        if iteration is None:
            return self.weights, self.replicas
        if not 0 <= iteration < len(self.iterations):
            raise ValueError(f"iteration: expected a number from 0 to {len(self.iterations) - 1}, found {iteration}")
        return self.iterations[iteration].weights, self.replicas[:0]

    def hist(self, observable: str | Sequence[str], bins: Any) -> hist.Hist[Any]:
        """`spectrum` as ``hist.Hist`` with ``Weight`` storage."""
        return self.spectrum(observable, bins).hist()

    def bootstrap_times(self, replica: int, events: Events) -> NDArray[np.uint8]:
        """How often a replica counted each of ``events`` (N,): data, background or simulation.

        They are told by their ids, or by ``group`` where they have that column.
        """
        key = events.key(self.group if self.group in events else None)
        return hashing.poisson(key, self.seed, "bootstrap", replica)

    def __repr__(self) -> str:
        moves = ", ".join(f"{step.movement.mean():.3g}" for step in self.iterations)
        total = float((self.weights.mean(0) * self.simulation.weight)[flag(self.simulation, "pass_truth")].sum())
        return (
            f"Unfolded({len(self.weights)} members, {len(self.replicas)} replicas, {self.weights.shape[1]} events; "
            f"truth yield {total:.6g}; movement per iteration {moves})"
        )

    # -- files ---------------------------------------------------------------------------------------------------------

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write weights, replicas and iterations to one safetensors file; the simulation stays where it is."""
        arrays: dict[str, NDArray[Any]] = {
            "weights": self.weights, "replicas": self.replicas, "id": self.simulation.id,
            "own": self.simulation.weight,
        }  # fmt: skip
        for i, step in enumerate(self.iterations):
            arrays |= {f"{i}.{n}": getattr(step, n) for n in ("weights", "movement", "effective_size")}
            for name in ("reco_history", "truth_history"):
                history: History | None = getattr(step, name)
                arrays |= {f"{i}.{name}.{n}": a for n, a in history.arrays().items()} if history else {}
        spec = {"iterations": len(self.iterations), "seed": self.seed, "group": self.group, "settings": self.settings}
        store.save(path, "unfolded", spec, arrays)

    @classmethod
    def load(cls, path: str | os.PathLike[str], simulation: Events) -> Unfolded:
        """Read what `save` wrote, for the same simulation, in the same order.

        Raises
        ------
        CorruptFile
            for a damaged file; ``ValueError`` for a simulation with other ids or weights.
        """
        spec, arrays = store.load(path, "unfolded")
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


def _saved_iteration(arrays: dict[str, NDArray[Any]], i: int) -> Iteration:
    histories = []
    for name in ("reco_history", "truth_history"):
        prefix = f"{i}.{name}."
        found = {n.removeprefix(prefix): a for n, a in arrays.items() if n.startswith(prefix)}
        histories.append(History.of_arrays(found) if found else None)
    return Iteration(arrays[f"{i}.weights"], arrays[f"{i}.movement"], arrays[f"{i}.effective_size"], *histories)


def flag(events: Events, name: str) -> NDArray[np.bool_]:
    """The boolean column ``name`` (N,), all true where there is none; ``TypeError`` for another type."""
    if name not in events:
        return np.ones(len(events), np.bool_)
    column = events.flat(name)
    if column.dtype != np.bool_:
        raise TypeError(f"column {name!r}: expected booleans, found {column.dtype}; compare first, as in x > 0")
    return column


def _axes(observable: str | Sequence[str], bins: Any) -> tuple[tuple[str, ...], tuple[Floats, ...]]:
    """Names and checked edges, one each a dimension."""
    names = (observable,) if isinstance(observable, str) else tuple(observable)
    each = (bins,) if isinstance(observable, str) else tuple(bins)
    if not names or len(names) != len(each):
        raise ValueError(f"bins: expected edges for each of {len(names)} observables, found {len(each)}")
    return names, tuple(_edges(name, edges) for name, edges in zip(names, each, strict=True))


def _edges(name: str, bins: ArrayLike) -> Floats:
    edges = np.asarray(bins, np.float64)
    if edges.ndim != 1 or len(edges) < 2 or not (np.diff(edges) > 0).all():
        raise ValueError(f"bins of {name!r}: expected rising edges (B + 1,), found {bins!r}")
    return edges


def _bin_numbers(values: Sequence[NDArray[Any]], edges: Sequence[Floats]) -> tuple[NDArray[np.int64], int]:
    """The flattened bin number of each event, ``size`` for those outside, and ``size``, the number of bins.

    The last bin holds its upper edge, as numpy's do.
    """
    shape = tuple(len(e) - 1 for e in edges)
    size, index, inside = int(np.prod(shape)), np.zeros(len(values[0]), np.int64), np.ones(len(values[0]), np.bool_)
    for column, e, count in zip(values, edges, shape, strict=True):
        place = np.searchsorted(e, column, side="right") - 1
        place[column == e[-1]] = count - 1
        inside &= (place >= 0) & (place < count)
        index = index * count + np.clip(place, 0, count - 1)
    return np.where(inside, index, size), size


def _fill(weights: Floats, own: Floats, rows: NDArray[np.int64], index: NDArray[np.int64], size: int) -> Floats:
    """Histograms (K, B) of the weighted rows."""
    filled = [np.bincount(index, w[rows] * own[rows], minlength=size + 1)[:size] for w in weights]
    return np.array(filled, np.float64).reshape(len(weights), size)
