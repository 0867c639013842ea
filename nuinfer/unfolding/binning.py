"""Bins of one or more columns, numbered 0 to B - 1: grids, and slices each of which has edges of its own.

A `Binning` is a tree: the edges of one column, and for each of its bins, or for all of them at once, the binning of the
next column.  A grid has one inner binning for all; where each outer bin has its own, as cross-sections in momentum and
angle need where statistics run out, bins are numbered slice by slice.

>>> grid = Binning.of({"p": [0, 1, 2], "cos": [-1, 0, 1]})
>>> grid.size, grid.index({"p": [0.5, 1.5, 3.0], "cos": [0.5, -0.5, 0.0]})
(4, array([ 1,  2, -1]))
>>> slices = Binning("cos", [-1, 0, 1], [Binning("p", [0, 2]), Binning("p", [0, 0.5, 1, 2])])
>>> slices.size, slices.index({"p": [0.7, 0.7], "cos": [-0.5, 0.5]}), slices.widths
(4, array([0, 2]), array([2. , 0.5, 0.5, 1. ]))
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from ..errors import check_finite
from ..events import Events

__all__ = ["Binning", "BinningLike"]

Floats = NDArray[np.float64]
Rows = NDArray[np.int64]


@dataclass(frozen=True, eq=False, init=False)
class Binning:
    """Bins of a column, and inside each of them those of the next.

    Attributes
    ----------
    name, edges:
        A column and its edges (n + 1,), which rise; the first and last may be infinite.  A bin holds its lower edge,
        the last one its upper edge too, as numpy's do.
    inner:
        None, one binning for all n bins, or n of them, of the same columns in the same order.
    """

    name: str
    edges: Floats
    inner: tuple[Binning, ...] | None

    def __init__(self, name: str, edges: ArrayLike, inner: Binning | Sequence[Binning] | None = None) -> None:
        found = np.array(edges, np.float64)
        if found.ndim != 1 or len(found) < 2 or not (np.diff(found) > 0).all():
            raise ValueError(f"bins of {name!r}: expected rising edges (B + 1,), found {edges!r}")
        found.flags.writeable = False
        bins = len(found) - 1
        each = None if inner is None else (inner,) * bins if isinstance(inner, Binning) else tuple(inner)
        if each is not None:
            _check_inner(name, bins, each)
        for key, value in (("name", name), ("edges", found), ("inner", each)):
            object.__setattr__(self, key, value)

    @classmethod
    def of(cls, bins: BinningLike) -> Binning:
        """A binning from itself, or a grid from edges by column.

        Raises
        ------
        ValueError
            for no columns, or edges that do not rise; ``TypeError`` for anything else.
        """
        if isinstance(bins, Binning):
            return bins
        if not isinstance(bins, Mapping):
            raise TypeError(f"bins: expected a Binning or edges by column, {{'p': [0, 1, 2]}}, found "
                            f"{type(bins).__name__}")  # fmt: skip
        if not bins:
            raise ValueError("bins: expected edges of at least one column, found none")
        inner: Binning | None = None
        for name, edges in reversed(list(bins.items())):
            inner = cls(name, edges, inner)
        assert inner is not None
        return inner

    # -- what there is

    @cached_property
    def size(self) -> int:
        """The number of bins B."""
        return len(self.edges) - 1 if self.inner is None else sum(b.size for b in self.inner)

    @cached_property
    def names(self) -> tuple[str, ...]:
        """The columns (D,), from the outermost."""
        return (self.name, *(self.inner[0].names if self.inner else ()))

    @cached_property
    def cells(self) -> Floats:
        """Lower and upper edge (B, D, 2) of each bin in each column."""
        own = np.stack([self.edges[:-1], self.edges[1:]], 1)
        if self.inner is None:
            return own[:, None]
        outer = np.repeat(own, [b.size for b in self.inner], 0)
        return np.concatenate([outer[:, None], np.concatenate([b.cells for b in self.inner])], 1)

    @property
    def widths(self) -> Floats:
        """The volume (B,) of each bin, the product of its sides."""
        return np.asarray(np.diff(self.cells, axis=2)[..., 0].prod(1))

    @cached_property
    def grid(self) -> tuple[Floats, ...] | None:
        """The edges, one array a column, where the bins are a grid in C order; else None."""
        if self.inner is None:
            return (self.edges,)
        below = self.inner[0].grid
        same = all(b is self.inner[0] or same_bins(b, self.inner[0]) for b in self.inner)
        return (self.edges, *below) if same and below is not None else None

    @property
    def shape(self) -> tuple[int, ...]:
        """Bins by column where the bins are a grid, else (B,)."""
        return (self.size,) if self.grid is None else tuple(len(e) - 1 for e in self.grid)

    def label(self, index: int) -> str:
        """What a bin is, as in '0.5 <= p < 1, -1 <= cos < 0'."""
        cell = self.cells[index]
        return ", ".join(f"{low:g} <= {name} < {high:g}" for name, (low, high) in zip(self.names, cell, strict=True))

    def check_same(self, what: str, other: Binning) -> None:
        """Raise ``ValueError`` where ``other``, named ``what``, has other bins."""
        if not same_bins(self, other):
            raise ValueError(f"{what}: expected the bins {self!r}, found {other!r} or other edges")

    # -- what falls where

    def index(self, columns: Events | Mapping[str, ArrayLike], where: NDArray[np.bool_] | None = None) -> Rows:
        """The bin number (N,) of each event, -1 for those outside.

        ``where`` (N,) tells the events that have these columns; the others get -1, whatever the columns hold.

        Raises
        ------
        ValueError
            for values that are not finite (count and first rows); ``KeyError`` for a missing column.
        """
        found = {name: _column(columns, name) for name in self.names}
        total = len(next(iter(found.values())))
        rows = np.arange(total) if where is None else np.flatnonzero(where)
        picked = {name: values if where is None else values[rows] for name, values in found.items()}
        for name, values in picked.items():
            check_finite(f"column {name!r}", values, rows)
        if where is None:
            return self._place(picked)
        index = np.full(total, -1)
        index[rows] = self._place(picked)
        return index

    def _place(self, columns: Mapping[str, NDArray[Any]]) -> Rows:
        column = columns[self.name]
        place = np.searchsorted(self.edges, column, side="right") - 1
        place[column == self.edges[-1]] = len(self.edges) - 2
        place[place == len(self.edges) - 1] = -1
        if self.inner is None:
            return np.asarray(place)
        if all(b is self.inner[0] for b in self.inner):
            inner = self.inner[0]._place(columns)
            return np.where((place < 0) | (inner < 0), -1, place * self.inner[0].size + inner)
        found, start = np.full(len(column), -1), 0
        for k, b in enumerate(self.inner):
            rows = np.flatnonzero(place == k)
            inner = b._place({name: values[rows] for name, values in columns.items()})
            found[rows] = np.where(inner < 0, -1, start + inner)
            start += b.size
        return found

    def fill(self, events: Events, weight: ArrayLike | None = None) -> tuple[Floats, Floats]:
        """Sums (B,) of weights and of squared weights of the events in each bin; those outside are left out."""
        index = self.index(events)
        return filled(index, events.weight if weight is None else np.asarray(weight, np.float64), self.size)

    # -- smoothness

    def differences(self, order: int = 2) -> Floats:
        """Matrix (C, B) of finite differences of ``order`` 0 to 3 between neighbours along each column.

        Along a column, neighbours are bins in a row of a grid or of a slice; slices with edges of their own have
        neighbours inside a slice only.  Differences are of bin contents, with no regard to widths.
        """
        if order not in (0, 1, 2, 3):
            raise ValueError(f"differences: expected an order from 0 to 3, found {order}")
        if order == 0:
            return np.eye(self.size)
        stencil = {1: [-1.0, 1.0], 2: [1.0, -2.0, 1.0], 3: [-1.0, 3.0, -3.0, 1.0]}[order]
        rows = []
        for line in self._lines():
            for start in range(len(line) - order):
                row = np.zeros(self.size)
                row[line[start : start + order + 1]] = stencil
                rows.append(row)
        return np.array(rows).reshape(len(rows), self.size)

    def _lines(self) -> list[Rows]:
        """Rows of neighbouring bins, along each column."""
        if self.grid is None:
            assert self.inner is not None
            sizes = np.cumsum([0, *(b.size for b in self.inner)])
            return [line + start for b, start in zip(self.inner, sizes, strict=False) for line in b._lines()]
        numbers = np.arange(self.size).reshape(self.shape)
        return [
            line
            for axis in range(numbers.ndim)
            for line in np.moveaxis(numbers, axis, -1).reshape(-1, self.shape[axis])
        ]

    # -- files

    def to_json(self) -> dict[str, Any]:
        """The form in which it is saved."""
        same = self.inner is not None and all(b is self.inner[0] for b in self.inner)
        inner = None if self.inner is None else [b.to_json() for b in (self.inner[:1] if same else self.inner)]
        return {"name": self.name, "edges": [_number(e) for e in self.edges], "inner": inner, "same": same}

    @classmethod
    def from_json(cls, spec: Mapping[str, Any]) -> Binning:
        """The inverse of `to_json`."""
        inner = None if spec["inner"] is None else [cls.from_json(b) for b in spec["inner"]]
        edges = [float(e) for e in spec["edges"]]
        return cls(spec["name"], edges, inner[0] if inner and spec["same"] else inner)

    def __repr__(self) -> str:
        kind = " x ".join(map(str, self.shape)) if self.grid is not None else f"{len(self.edges) - 1} slices"
        return f"Binning({', '.join(self.names)}: {kind}, {self.size} bins)"


BinningLike = Binning | Mapping[str, ArrayLike]


def same_bins(one: Binning, other: Binning) -> bool:
    """Whether two binnings have the same columns and edges."""
    return one.names == other.names and one.size == other.size and np.array_equal(one.cells, other.cells)


def filled(index: Rows, weight: Floats, size: int) -> tuple[Floats, Floats]:
    """Sums (B,) of weights (N,) and of their squares by bin number (N,); -1 is left out."""
    return tuple(np.bincount(index + 1, w, minlength=size + 1)[1:] for w in (weight, weight**2))  # type: ignore[return-value]


def _check_inner(name: str, bins: int, inner: tuple[Binning, ...]) -> None:
    if len(inner) != bins:
        raise ValueError(f"bins of {name!r}: expected {bins} inner binnings, one a bin, found {len(inner)}")
    names = {b.names for b in inner}
    if len(names) > 1:
        raise ValueError(f"bins of {name!r}: expected the same columns in each, found {sorted(names)}")
    if name in inner[0].names:
        raise ValueError(f"bins of {name!r}: expected each column once, found it twice")


def _column(columns: Events | Mapping[str, ArrayLike], name: str) -> NDArray[Any]:
    if isinstance(columns, Events):
        return columns.flat(name)
    return np.asarray(columns[name], np.float64)


def _number(edge: float) -> float | str:
    """JSON has no infinity."""
    return float(edge) if np.isfinite(edge) else str(edge)
