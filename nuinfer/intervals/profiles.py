r"""Profiled likelihoods along a parameter, and the intervals they give.

.. math:: t(\mu) = -2 \log \frac{L(\mu, \hat{\hat\alpha}(\mu))}{L(\hat\mu, \hat\alpha)}

with all other parameters at their conditional maximum.  In large samples t of k parameters is distributed as chi2 with
k degrees of freedom at the true point (Wilks), so that :math:`t \le \chi^2_k(cl)` is a region of confidence cl; near a
physical boundary or with few events that fails, and `nuinfer.intervals.neyman` replaces the quantile by toys.

Each point of a scan gives the slope of t as well as its value (`nuinfer.intervals.scans`), so that cubic Hermite
interpolation between points 0.2 sigma apart is right to about 1e-5 in t, and crossings to 1e-5 sigma.

Discrete hypotheses (a mass ordering) and the quarters of a periodic parameter's circle are *branches*, each with a
curve of its own; t is the lowest of them.

Sources: Wilks, Ann. Math. Statist. 9 (1938) 60; James, Statistical Methods in Experimental Physics (2006), chapter 9.
"""

from __future__ import annotations

import math
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from iminuit.cost import Cost
from numpy.typing import ArrayLike, NDArray
from scipy.interpolate import CubicHermiteSpline

from .. import store
from ..records import Record
from .fits import Limits, Problem, check_names
from .scans import Scan, level

__all__ = ["Minos", "Profile", "Regions", "merged", "minos", "profile"]

Floats = NDArray[np.float64]
Regions = tuple[tuple[float, float], ...]
Discrete = Mapping[str, Sequence[float]]
Periodic = Mapping[str, tuple[float, float]]


# -- one parameter -----------------------------------------------------------------------------------------------------


@dataclass(frozen=True, eq=False)
class Profile:
    """t along one parameter.

    Attributes
    ----------
    name:
        What is scanned.
    grid:
        (N,), ascending.
    curves, slopes:
        t and dt/d name of every branch, (B, N).
    parameters:
        (B, N, T): all parameters at each point, in the order of ``names``.
    names:
        (T,).
    best:
        All parameters at the global minimum.
    minimum:
        -2 log L there, where t = 0.
    fixed:
        What was held.
    limits:
        The physical limits of what is scanned.
    period:
        The ends of its period, or None.
    """

    name: str
    grid: Floats
    curves: Floats
    slopes: Floats
    parameters: Floats
    names: tuple[str, ...]
    best: dict[str, float]
    minimum: float
    fixed: dict[str, float]
    limits: tuple[float, float]
    period: tuple[float, float] | None

    @property
    def values(self) -> Floats:
        """t (N,), the lowest of the branches."""
        return np.asarray(self.curves.min(0))

    def others(self) -> dict[str, Floats]:
        """The profiled parameters (N,) by name."""
        lowest = self.curves.argmin(0)
        at = self.parameters[lowest, np.arange(len(self.grid))]
        return {name: at[:, i] for i, name in enumerate(self.names) if name != self.name}

    def __call__(self, x: ArrayLike) -> Floats:
        """T at any x (*,) within the grid, interpolated."""
        x = np.asarray(x, np.float64)
        if x.size and not (self.grid[0] <= x.min() and x.max() <= self.grid[-1]):
            raise ValueError(f"profile of {self.name}: expected values from {self.grid[0]:g} to {self.grid[-1]:g}, "
                             f"found {x.min():g} to {x.max():g}")  # fmt: skip
        return np.asarray(np.min([spline(x) for spline in self._splines()], axis=0))

    def interval(self, cl: float = 0.68) -> Regions:
        r"""The parts of the grid with :math:`t \le \chi^2_1(cl)`, as (lower, upper), ascending.

        An end is infinite where the scan stops before t crosses; at a physical limit it is the limit.  On a circle a
        part may begin before the end of the period and stop after it: its upper end is then beyond the period.

        Raises
        ------
        ValueError
            for ``cl`` not between 0 and 1.
        """
        return self.below(level(cl))

    def below(self, threshold: float) -> Regions:
        """As `interval`, for any threshold on t."""
        found = merged([part for spline in self._splines() for part in _below(spline, threshold)])
        if self._whole_period() and len(found) > 1 and found[0][0] == self.grid[0] and found[-1][1] == self.grid[-1]:
            (_, high), (low, _) = found[0], found[-1]
            return (*found[1:-1], (low, high + self.grid[-1] - self.grid[0]))
        return tuple((self._end(low), self._end(high)) for low, high in found)

    def _whole_period(self) -> bool:
        return self.period is not None and math.isclose(self.grid[-1] - self.grid[0], self.period[1] - self.period[0])

    def _end(self, x: float) -> float:
        if x in (self.grid[0], self.grid[-1]) and x not in self.limits and not self._whole_period():
            return -math.inf if x == self.grid[0] else math.inf
        return x

    def _splines(self) -> list[CubicHermiteSpline]:
        return [CubicHermiteSpline(self.grid, t, s) for t, s in zip(self.curves, self.slopes, strict=True)]

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write one file; `Profile.load` reads it."""
        arrays = {name: getattr(self, name) for name in ("grid", "curves", "slopes", "parameters")}
        rest = ("name", "names", "best", "minimum", "fixed", "period")
        spec = {name: getattr(self, name) for name in rest}
        store.save(path, "profile", spec, {**arrays, "limits": np.array(self.limits)})

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> Profile:
        """What `save` wrote.

        Raises
        ------
        FileNotFoundError, CorruptFile, ValueError
            as `nuinfer.store.load`.
        """
        spec, arrays = store.load(path, "profile")
        low, high = arrays.pop("limits").tolist()
        period = None if spec["period"] is None else (spec["period"][0], spec["period"][1])
        return cls(**{**spec, **arrays, "limits": (low, high), "period": period, "names": tuple(spec["names"])})

    def __repr__(self) -> str:
        shown = ", ".join(f"{cl:.0%}: {_shown(self.interval(cl))}" for cl in (0.68, 0.95))
        return f"Profile({self.name} = {self.best[self.name]:.5g}; {shown}; {len(self.grid)} points)"


def _shown(regions: Regions) -> str:
    return " or ".join(f"[{low:.4g}, {high:.4g}]" for low, high in regions) or "nowhere"


def _below(spline: CubicHermiteSpline, threshold: float) -> list[tuple[float, float]]:
    """The parts of a spline's range at or below a threshold."""
    x = spline.x
    roots = np.asarray(spline.solve(threshold, extrapolate=False))
    edges = np.unique(np.concatenate([x[[0, -1]], roots[np.isfinite(roots)]]))
    inside = spline((edges[1:] + edges[:-1]) / 2) <= threshold
    return [(float(a), float(b)) for a, b, low in zip(edges[:-1], edges[1:], inside, strict=True) if low]


def merged(parts: Sequence[tuple[float, float]]) -> Regions:
    """The union of closed intervals, ascending."""
    found: list[tuple[float, float]] = []
    for low, high in sorted(parts):
        if found and low <= found[-1][1]:
            found[-1] = (found[-1][0], max(found[-1][1], high))
        else:
            found.append((low, high))
    return tuple(found)


def profile(
    cost: Cost,
    name: str,
    grid: ArrayLike | None = None,
    *,
    points: int = 31,
    span: float = 3.0,
    start: Mapping[str, float] | None = None,
    fixed: Mapping[str, float] | None = None,
    limits: Limits | None = None,
    discrete: Discrete | None = None,
    periodic: Periodic | None = None,
    tolerance: float = 1e-6,
) -> Profile:
    """T along one parameter, all others profiled.

    Parameters
    ----------
    grid:
        Values (N,), at least 4, in any order.  Without it, ``points`` values over the whole period, or to where t
        reaches ``span`` squared on both sides, or to the limits.
    start, fixed, limits, discrete, periodic, tolerance:
        As in `fit`.  With ``fixed=found.others(name)`` of a fit, the curve without systematic uncertainties.

    Raises
    ------
    KeyError, ValueError
        for unknown parameters, one that is fixed or discrete and scanned at once, a grid outside of the limits.
    NotConverged, NegativeDensity
        as `fit`.

    Examples
    --------
    >>> from nuinfer.likelihood import Normal
    >>> cost = Normal("mu", 1.0, 0.3) + Normal(["mu", "a"], [2.0, 0.0], covariance=[[0.16, 0.1], [0.1, 0.25]])
    >>> found = profile(cost, "mu")
    >>> [(round(low, 4), round(high, 4)) for low, high in found.interval(0.95)]
    [(0.8896, 1.8304)]
    """
    scan = Scan(Problem(cost, limits=limits, discrete=discrete, periodic=periodic), (name,), fixed, tolerance)
    scan.fit_branches(start)
    at = scan.grid(name, grid, points, span**2)
    lines = scan.settled(lambda branch: scan.line(branch, name, at))
    problem, best = scan.problem, scan.best
    curves = np.array([[point.value for point in line] for line in lines])
    parameters = np.array([[[point.values[n] for n in problem.names] for point in line] for line in lines])
    slopes = np.array([[scan.slopes(point)[name] for point in line] for line in lines])
    return Profile(name, at, curves - best.minimum, _mended(at, curves, slopes), parameters, problem.names, best.values,
                   best.minimum, scan.fixed, problem.limits[name], problem.periodic.get(name))  # fmt: skip


def _mended(grid: Floats, curves: Floats, slopes: Floats) -> Floats:
    """Slopes that are not finite, as that of sqrt(mu) at 0, from the parabola through the neighbouring points."""
    numeric = np.array([np.gradient(curve, grid, edge_order=2) for curve in curves])
    return np.where(np.isfinite(slopes), slopes, numeric)


# -- MINOS -------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, eq=False)
class Minos(Record):
    """Errors down and up from the crossings of the profiled likelihood.

    Attributes
    ----------
    names:
        (K,).
    values:
        (K,), at the minimum.
    down, up:
        (K,), not negative; to the limit where t does not cross before it.
    crossed:
        (K, 2), whether t crosses below and above.
    cl:
        The level: chi2 with one degree of freedom.
    """

    _KIND = "minos"

    names: tuple[str, ...]
    values: Floats
    down: Floats
    up: Floats
    crossed: NDArray[np.bool_]
    cl: float

    def interval(self, name: str) -> tuple[float, float]:
        """(value - down, value + up)."""
        check_names(self.names, [name], "minos")
        i = self.names.index(name)
        return float(self.values[i] - self.down[i]), float(self.values[i] + self.up[i])

    def __repr__(self) -> str:
        width = max(map(len, self.names))
        rows = [f"  {name:<{width}}  {self.values[i]:>12.6g} -{self.down[i]:.3g} +{self.up[i]:.3g}{self._note(i)}"
                for i, name in enumerate(self.names)]  # fmt: skip
        return "\n".join([f"Minos({self.cl:.4g})", *rows])

    def _note(self, i: int) -> str:
        sides = [side for side, crossed in zip(("below", "above"), self.crossed[i], strict=True) if not crossed]
        return f"  no crossing {' or '.join(sides)}" if sides else ""


def minos(
    cost: Cost,
    names: str | Sequence[str],
    *,
    cl: float = 0.68,
    start: Mapping[str, float] | None = None,
    fixed: Mapping[str, float] | None = None,
    limits: Limits | None = None,
    tolerance: float = 1e-6,
) -> Minos:
    """Errors of parameters by iminuit's MINOS, its crossings then refined to 1e-4 sigma.

    MINOS finds the crossings next to the minimum; where there may be others, take `profile`.

    Parameters
    ----------
    names:
        One parameter or several.
    start, fixed, limits, tolerance:
        As in `fit`.

    Raises
    ------
    NotConverged
        where MINOS fails, or finds a lower minimum.
    KeyError, ValueError
        for unknown parameters, one that is fixed, ``cl`` not between 0 and 1.
    """
    names = (names,) if isinstance(names, str) else tuple(names)
    level(cl)
    problem = Problem(cost, limits=limits)
    found: list[list[tuple[float, bool]]] = []
    for name in names:
        scan = Scan(problem, (name,), fixed, tolerance)
        if not found:
            scan.fit_branches(start)
            branches = scan.branches
        scan.branches = branches
        found.append([scan.crossing(name, side, cl) for side in (-1, 1)])
    values = np.array([branches[0].fit.values[name] for name in names])
    ends = np.array([[end for end, _ in pair] for pair in found])
    crossed = np.array([[reached for _, reached in pair] for pair in found])
    return Minos(names, values, values - ends[:, 0], ends[:, 1] - values, crossed, cl)
