r"""The columns of a density as a flow sees them: unbounded, continuous, and standardised.

A column v becomes t, and log q(v) = log q(t) + log abs(dt/dv), by its bounds:

===============  ====================================  ==============================================
bounds           t before it is standardised           log abs(dt/dv)
===============  ====================================  ==============================================
none             v                                     0
(low, None)      log(v - low)                          -t
(None, high)     -log(high - v)                        t
(low, high)      Phi^-1((v - low) / (high - low))      t^2 / 2 + log(2 pi) / 2 - log(high - low)
===============  ====================================  ==============================================

so that no mass lies outside.  With the probit Phi^-1, rather than a logit, a flat density between two bounds becomes a
normal one exactly, and a density that is finite at a bound has the tail of a normal, which is what flows are made for.

A *discrete* column of integers n becomes v = n + u with u uniform on (0, 1), drawn anew each epoch (uniform
dequantisation); the density of v then integrates over the cell (n, n + 1) to the probability of n:

.. math:: P(n) = \int_0^1 q(n + u)\, du

by Gauss-Legendre quadrature, 16 points for one discrete column, 8 x 8 for two, and 128 points of a lattice for more:
the probabilities sum to 1 within about 1e-3, since splines have corners.
Its bounds are the first and the last integer.

Sources: Theis, van den Oord, Bethge, arXiv 1511.01844 (uniform dequantisation); Niederreiter, Random Number Generation
and Quasi-Monte Carlo Methods (1992), chapter 5 (lattices).
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any, cast

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from .. import hashing
from ..errors import check_finite, missing
from ..events import Events
from ..train import Draw, Drawn, digest

Floats = NDArray[np.float64]
Bounds = tuple[float | None, float | None]

_HELD = "held out"
_HALF_LOG_2PI = 0.5 * math.log(2 * math.pi)


@dataclass(frozen=True)
class Column:
    """One column: bounds, None for none, whether it is discrete, and mean and scale of t."""

    name: str
    low: float | None = None
    high: float | None = None
    discrete: bool = False
    mean: float = 0.0
    scale: float = 1.0

    @property
    def edges(self) -> Bounds:
        """The bounds of v."""
        return self.low, (self.high + 1 if self.discrete and self.high is not None else self.high)

    def forward(self, v: Tensor) -> tuple[Tensor, Tensor]:
        """Standardised t, and log abs(dt/dv), of v inside the bounds."""
        t, slope = self._unbounded(v)
        return (t - self.mean) / self.scale, slope - math.log(self.scale)

    def _unbounded(self, v: Tensor) -> tuple[Tensor, Tensor]:
        low, high = self.edges
        if low is None and high is None:
            return v, torch.zeros_like(v)
        if low is not None and high is not None:
            t = _probit(v - low, high - v)
            return t, 0.5 * t.square() + (_HALF_LOG_2PI - math.log(high - low))
        if low is not None:
            t = torch.log(v - low)
            return t, -t
        t = -torch.log(cast(float, high) - v)
        return t, t

    def inverse(self, standard: Tensor) -> Tensor:
        """The column's value of standardised t; an integer where it is discrete."""
        t, (low, high) = standard * self.scale + self.mean, self.edges
        if low is not None and high is not None:
            small = (high - low) * torch.special.ndtr(-t.abs())
            v = torch.where(t < 0, low + small, high - small)
        elif low is not None:
            v = low + torch.exp(t)
        else:
            v = t if high is None else high - torch.exp(-t)
        # rounding may reach a bound, where there is no density
        least = None if low is None else math.nextafter(low, math.inf)
        most = None if high is None else math.nextafter(high, -math.inf)
        v = v if least is None and most is None else v.clamp(least, most)
        return torch.floor(v) if self.discrete else v

    def inside(self, v: Tensor) -> Tensor:
        """Whether v, or the integer, lies inside the bounds."""
        low, high = -math.inf if self.low is None else self.low, math.inf if self.high is None else self.high
        return (v >= low) & (v <= high) if self.discrete else (v > low) & (v < high)

    def read(self, events: Events) -> Floats:
        """The column (N,) of events, checked to be finite, and whole where it is discrete."""
        return self.checked(events.flat(self.name))

    def checked(self, values: NDArray[Any]) -> Floats:
        """Values (N,), checked in the same way."""
        check_finite(f"column {self.name!r}", values)
        found = np.asarray(values, np.float64)
        if self.discrete:
            refuse(found != np.round(found), f"discrete column {self.name!r}: expected integers", found,
                   "leave it out of discrete=, or round it")  # fmt: skip
        return found

    def fitted(self, values: Floats, weight: Floats, seed: int) -> Column:
        """The same with mean and scale of t under the weights abs(w); values outside the bounds are refused."""
        among = f"[{self.low}, {self.high}]" if self.discrete else f"({self.low}, {self.high})"
        refuse(~self.inside(torch.from_numpy(values)).numpy(), f"column {self.name!r}: expected values in {among}",
               values, "select the events, or give other bounds")  # fmt: skip
        noise = _noise(np.arange(len(values)), seed, self.name) if self.discrete else 0.0
        w, v = np.abs(weight) / np.abs(weight).sum(), values + noise
        t = replace(self, mean=0.0, scale=1.0).forward(torch.from_numpy(v))[0].numpy()
        mean = float(t[0] + w @ (t - t[0]))  # t may vary little beside its size, as a time stamp does
        variance = float(w @ (t - mean) ** 2)
        if not variance or np.ptp(t) == 0:
            raise ValueError(f"column {self.name!r}: expected values that vary, found {values[:1].tolist()} throughout;"
                             f" a constant has no density, leave it out")  # fmt: skip
        return replace(self, mean=mean, scale=math.sqrt(variance))


def refuse(bad: NDArray[np.bool_], expected: str, values: Floats, advice: str) -> None:
    """Raise ``ValueError`` with the count and the first rows that are ``bad`` (N,)."""
    rows = np.flatnonzero(bad)[:5]
    if len(rows):
        found = ", ".join(f"{values[i]:g}" for i in rows)
        raise ValueError(f"{expected}, found {np.count_nonzero(bad)} of {len(values)} others, first at rows "
                         f"{', '.join(map(str, rows))} ({found}); {advice}")  # fmt: skip


def _probit(a: Tensor, b: Tensor) -> Tensor:
    """Phi^-1(a / (a + b)) of positive a and b, precise at both ends."""
    less = torch.special.ndtri(torch.minimum(a, b) / (a + b))
    return torch.where(a < b, less, -less)


def _noise(rows: NDArray[np.int64], *labels: object) -> Floats:
    """Uniform numbers strictly between 0 and 1."""
    return hashing.uniform(rows, "dequantise", *labels) + 2.0**-54


@dataclass(frozen=True)
class Columns:
    """The D columns of y: ``names`` in the user's order, ``parts`` in that of the flow, the discrete ones last."""

    names: tuple[str, ...]
    parts: tuple[Column, ...]

    @classmethod
    def of(cls, names: Sequence[str], bounds: Mapping[str, Bounds], discrete: Sequence[str]) -> Columns:
        """Not yet standardised columns; raises for names that do not fit and bounds that are none."""
        for what, given in (("columns", names), ("discrete", discrete)):
            if isinstance(given, str):
                raise TypeError(f"{what}: expected a list of names, found the single string {given!r}")
        if not names or len(set(names)) < len(names):
            raise ValueError(f"columns: expected at least one name, and each once, found {list(names)}")
        for what, known in (("bounds", tuple(bounds)), ("discrete", tuple(discrete))):
            unknown = [name for name in known if name not in names]
            if unknown:
                raise KeyError(f"{what}: {missing('column', unknown[0], names).args[0]}")
        parts = [_column(name, bounds.get(name, (None, None)), name in discrete) for name in names]
        return cls(tuple(names), tuple(sorted(parts, key=lambda part: part.discrete)))

    @property
    def discrete(self) -> tuple[Column, ...]:
        """The discrete ones."""
        return tuple(part for part in self.parts if part.discrete)

    @property
    def order(self) -> list[int]:
        """Where the flow's columns are among the user's."""
        return [self.names.index(part.name) for part in self.parts]

    def read(self, events: Events) -> Floats:
        """The checked columns (N, D) in the flow's order."""
        return np.stack([part.read(events) for part in self.parts], 1)

    def checked(self, values: Floats) -> Floats:
        """Values (N, D) in the user's order, checked, in that of the flow."""
        return np.stack([part.checked(values[:, i]) for part, i in zip(self.parts, self.order, strict=True)], 1)

    def fitted(self, values: Floats, weight: Floats, seed: int) -> Columns:
        """With mean and scale of each."""
        parts = zip(self.parts, values.T, strict=True)
        return replace(self, parts=tuple(part.fitted(np.ascontiguousarray(v), weight, seed) for part, v in parts))

    def inside(self, y: Tensor) -> Tensor:
        """Which rows of y (B, D) lie inside all bounds (B,)."""
        return torch.stack([part.inside(v) for part, v in zip(self.parts, y.unbind(-1), strict=True)]).all(0)

    def forward(self, v: Tensor) -> tuple[Tensor, Tensor]:
        """Standardised t (B, D) and log abs(det dt/dv) (B,) of v (B, D), the discrete ones with their noise."""
        pairs = [part.forward(x) for part, x in zip(self.parts, v.unbind(-1), strict=True)]
        return torch.stack([t for t, _ in pairs], -1), torch.stack([slope for _, slope in pairs]).sum(0)

    def inverse(self, t: Tensor) -> dict[str, Floats]:
        """Named values of standardised t (B, D), in the user's order."""
        found = {part.name: part.inverse(x).numpy() for part, x in zip(self.parts, t.unbind(-1), strict=True)}
        return {name: found[name] for name in self.names}

    def middle(self) -> Tensor:
        """A point (D,) inside the bounds."""
        return torch.stack([part.inverse(torch.zeros((), dtype=torch.float64)) for part in self.parts])

    def nodes(self) -> tuple[Tensor, Tensor]:
        """Points (M, D) to add to y, and the logs (M,) of their weights, that integrate over the discrete cells."""
        u, weight = _quadrature(len(self.discrete))
        still = np.zeros((len(u), len(self.parts) - u.shape[1]))
        return torch.from_numpy(np.concatenate([still, u], 1)), torch.from_numpy(np.log(weight))

    def to_json(self) -> dict[str, Any]:
        """The form in which they are saved."""
        return {"names": list(self.names), "parts": [asdict(part) for part in self.parts]}

    @classmethod
    def from_json(cls, spec: Mapping[str, Any]) -> Columns:
        """The inverse of `to_json`."""
        return cls(tuple(spec["names"]), tuple(Column(**part) for part in spec["parts"]))


def _column(name: str, bounds: Bounds, discrete: bool) -> Column:
    if isinstance(bounds, str) or not hasattr(bounds, "__len__") or len(bounds) != 2:
        raise ValueError(f"bounds of {name!r}: expected a pair (low, high), None for no bound, found {bounds!r}")
    low, high = (None if b is None or math.isinf(b) else float(b) for b in bounds)
    if any(b is not None and math.isnan(b) for b in (low, high)):
        raise ValueError(f"bounds of {name!r}: expected numbers or None, found {bounds!r}")
    if discrete and any(b is not None and b != round(b) for b in (low, high)):
        raise ValueError(f"bounds of {name!r}: expected the first and the last integer, found {bounds!r}")
    if low is not None and high is not None and not (low < high or (discrete and low == high)):
        raise ValueError(f"bounds of {name!r}: expected low < high, found {bounds!r}")
    return Column(name, low, high, discrete)


def _quadrature(dimensions: int) -> tuple[Floats, Floats]:
    """Points (M, d) in the unit cube and weights (M,) that sum to 1."""
    if dimensions > 2:
        # additive recurrence: multiples of the powers of the root of x^(d + 1) = x + 1
        root = float(next(r.real for r in np.roots([1.0, *[0.0] * (dimensions - 1), -1.0, -1.0]) if r.real > 1))
        step = root ** -np.arange(1.0, dimensions + 1)
        return (0.5 + np.arange(1, 129)[:, None] * step) % 1.0, np.full(128, 1 / 128)
    x, w = np.polynomial.legendre.leggauss(16 if dimensions == 1 else 8)
    grid = np.meshgrid(*[(x + 1) / 2] * dimensions, indexing="ij")
    weights = np.meshgrid(*[w / 2] * dimensions, indexing="ij")
    if not dimensions:
        return np.zeros((1, 0)), np.ones(1)
    return np.stack([g.ravel() for g in grid], 1), cast(Floats, np.prod([g.ravel() for g in weights], 0))


class Dequantise(Draw):
    """The discrete columns of the rows of a step, with the noise of (row, network, epoch), standardised.

    Parameters
    ----------
    columns:
        Their names, bounds and scales.
    values:
        Their integers (N, d), in the flow's order.
    seed:
        Of the noise.
    """

    def __init__(self, columns: Sequence[Column], values: Floats, seed: int) -> None:
        self.columns, self.values, self.seed = tuple(columns), np.ascontiguousarray(values.T), seed

    def __call__(self, rows: Tensor, networks: NDArray[np.int64], epoch: int | None) -> Drawn:
        """Standardised columns (S, K, B, d)."""
        found = np.empty((*rows.shape, len(self.columns)))
        for j, (column, values) in enumerate(zip(self.columns, self.values, strict=True)):
            for k, network in enumerate(networks):
                own = rows[:, k].numpy()
                labels = (self.seed, column.name, int(network), _HELD if epoch is None else epoch)
                found[:, k, :, j] = values[own] + _noise(own.reshape(-1), *labels).reshape(own.shape)
            found[..., j] = column.forward(torch.from_numpy(found[..., j]))[0].numpy()
        return Drawn(torch.from_numpy(found.astype(np.float32)))

    def describe(self) -> str:
        """A digest of the integers."""
        return f"dequantised {self.columns} {digest(torch.from_numpy(self.values))}"
