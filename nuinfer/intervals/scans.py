r"""Conditional minima along one parameter or over two: what profiles, contours, MINOS and limits are made of.

A point starts from its neighbour's parameters, moved along the regression of the others on what is scanned: with the
inverse covariance P of the best fit, by :math:`-P_{nn}^{-1} P_{ns} (s - s_0)`.  At a conditional maximum
:math:`dt/ds = \partial(-2\log L)/\partial s`, so that every point gives the slope as well as the value.  Where a
neighbour's parameters are lower, the point is minimised again from them.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import stats

from ..errors import NotConverged
from ..likelihood.costs import NegativeDensity
from .fits import Fit, Point, Problem, check_names

__all__ = ["Branch", "Scan", "level", "slopes_at"]

Floats = NDArray[np.float64]

logger = logging.getLogger("nuinfer")

_SCANS = 3  # again where the scan finds a lower minimum than the fits did
_JUMP = 1e-3  # in t: a neighbour's parameters that are lower by more belong to another minimum


def level(cl: float, parameters: int = 1) -> float:
    """The quantile of chi2 with so many degrees of freedom.

    >>> round(level(0.95), 4), round(level(0.68, 2), 4)
    (3.8415, 2.2789)

    Raises
    ------
    ValueError
        for ``cl`` not between 0 and 1.
    """
    if not 0 < cl < 1:
        raise ValueError(f"cl: expected a confidence level between 0 and 1, such as 0.95, found {cl}")
    return float(stats.chi2.ppf(cl, parameters))


@dataclass
class Branch:
    """One discrete hypothesis and phase: what is held, its own best fit and metric."""

    held: dict[str, float]
    fit: Fit
    metric: Floats


class Scan:
    """Conditional minima of a problem along the parameters scanned."""

    def __init__(
        self, problem: Problem, scanned: tuple[str, ...], fixed: Mapping[str, float] | None, tolerance: float
    ) -> None:
        check_names(problem.names, scanned, "scan")
        self.fixed = dict(fixed or {})
        for name in scanned:
            if name in self.fixed or name in problem.discrete:
                kind = "fixed" if name in self.fixed else "discrete"
                raise ValueError(f"{name!r} is {kind} and scanned at once; take it out of one of them")
        self.problem, self.scanned, self.tolerance = problem, scanned, tolerance

    def fit_branches(self, start: Mapping[str, float] | None) -> None:
        """Find the minimum of every branch; see `Problem.each` for those that have none."""

        def one(held: dict[str, float], turn: dict[str, float]) -> Branch:
            found = self.problem.fit({**(start or {}), **turn}, fixed={**self.fixed, **held}, tolerance=self.tolerance)
            return Branch(held, found, self.problem.metric(found))

        self.branches = self.problem.each(self.problem.branches(self.fixed), one)
        self._distinct()

    def _distinct(self) -> None:
        """Leave out branches that ended in the minimum of an earlier one."""
        kept: list[Branch] = []
        for branch in self.branches:
            if not any(self._same(branch, other) for other in kept):
                kept.append(branch)
        self.branches = kept

    def _same(self, one: Branch, other: Branch) -> bool:
        widths = dict(zip(self.problem.names, self.problem.widths(one.metric).tolist(), strict=True))
        near = [abs(one.fit.values[n] - other.fit.values[n]) <= 0.1 * widths[n] for n in one.fit.free]
        return one.held == other.held and all(near) and abs(one.fit.minimum - other.fit.minimum) < _JUMP

    @property
    def best(self) -> Fit:
        """The lowest of the branches' fits."""
        return min((branch.fit for branch in self.branches), key=lambda one: one.minimum)

    def settled(self, run: Callable[[Branch], list[Point]]) -> list[list[Point]]:
        """The points that ``run(branch)`` finds on every branch, again until none is below the best fit."""
        for _ in range(_SCANS):
            found = self._of_all(run)
            if not self._lower([point for points in found for point in points]):
                break
        return found

    def _of_all(self, run: Callable[[Branch], list[Point]]) -> list[list[Point]]:
        """A branch that fails at a point is left out with a warning; the lowest one may not."""
        found: list[list[Point]] = []
        kept: list[Branch] = []
        best = self.best
        for branch in self.branches:
            try:
                found.append(run(branch))
            except (NotConverged, NegativeDensity) as error:
                if branch.fit is best:
                    raise
                self._tell_left_out(branch, error)
            else:
                kept.append(branch)
        self.branches = kept
        return found

    def _tell_left_out(self, branch: Branch, error: Exception) -> None:
        where = ", ".join(f"{name} = {value:.4g}" for name, value in branch.fit.values.items())
        logger.warning("scan of %s: the minimum at %s, %.3g above the lowest, is left out, as it does not last over "
                       "the grid: %s", " and ".join(self.scanned), where,
                       branch.fit.minimum - self.best.minimum, error)  # fmt: skip

    def at(self, branch: Branch, values: Mapping[str, float], near: Point | None = None) -> Point:
        """The conditional minimum with the scanned parameters at these values."""
        origin = near.values if near is not None else branch.fit.values
        start = self._regressed(branch, origin, values)
        held = {**self.fixed, **branch.held, **values}
        try:
            return self.problem.minimum(start, fixed=held, metric=branch.metric, tolerance=self.tolerance)
        except NegativeDensity:  # the regression led out of the domain; where it came from may do
            start = {**origin, **held}
            return self.problem.minimum(start, fixed=held, metric=branch.metric, tolerance=self.tolerance)

    def _regressed(self, branch: Branch, origin: Mapping[str, float], values: Mapping[str, float]) -> dict[str, float]:
        """The others moved by -P_nn^-1 P_ns (s - s_0), P the metric, s what is scanned; inside the limits."""
        names = self.problem.names
        s = [names.index(name) for name in values]
        n = [i for i, name in enumerate(names) if i not in s and name not in branch.fit.fixed]
        moved = np.array([origin[name] for name in names])
        away = np.array(list(values.values())) - moved[s]
        if n:
            moved[n] -= np.linalg.solve(branch.metric[np.ix_(n, n)], branch.metric[np.ix_(n, s)] @ away)
        limits = np.array([self.problem.limits[name] for name in names])
        found = dict(zip(names, np.clip(moved, limits[:, 0], limits[:, 1]).tolist(), strict=True))
        return {**found, **values}

    def slopes(self, point: Point) -> dict[str, float]:
        """dt/ds of what is scanned, at a conditional minimum."""
        widths = self.problem.widths(self.branches[0].metric)
        return dict(zip(self.scanned, slopes_at(self.problem, point.values, self.scanned, widths), strict=True))

    # -- one parameter

    def grid(self, name: str, given: ArrayLike | None, points: int, threshold: float) -> Floats:
        """The grid (N,) of a parameter, ascending."""
        if given is not None:
            return self._given(name, given)
        if points < 4:
            raise ValueError(f"scan of {name}: expected at least 4 points, found {points}")
        if name in self.problem.periodic:
            return np.linspace(*self.problem.periodic[name], points)
        ends = [self.reach(branch, name, side, threshold) for branch in self.branches for side in (-1, 1)]
        return np.linspace(min(ends), max(ends), points)

    def _given(self, name: str, given: ArrayLike) -> Floats:
        found = np.unique(np.asarray(given, np.float64).ravel())
        if len(found) < 4:
            raise ValueError(f"scan of {name}: expected at least 4 different values, found {len(found)}")
        for value in (found[0], found[-1]):
            self.problem.check_inside({name: float(value)}, "grid")
        return found

    def reach(self, branch: Branch, name: str, side: int, threshold: float) -> float:
        """How far to scan: about where t comes to the threshold, or the limit."""
        zero, limit = branch.fit.values[name], self.problem.limits[name][(side + 1) // 2]
        step = self.first_step(branch, name) * math.sqrt(threshold)
        floor = self.best.minimum
        reached = zero
        for _ in range(6):
            x = _inside(zero + side * step, limit, side)
            try:
                rise = self.at(branch, {name: x}).value - floor
            except (NegativeDensity, NotConverged):  # beyond the domain of the model
                step /= 2
                continue
            reached = x
            if rise <= 1.5 * threshold and (x == limit or rise >= 0.9 * threshold):
                break
            step = abs(x - zero) * min(max(math.sqrt(1.1 * threshold / max(rise, 1e-3)), 0.25), 4.0)
        return reached

    def first_step(self, branch: Branch, name: str) -> float:
        """The error of a parameter; where it is at its limit, the way along which -2 log L rises by about 1."""
        return float(self.problem.widths(branch.metric)[self.problem.names.index(name)])

    def line(self, branch: Branch, name: str, grid: Floats) -> list[Point]:
        """Conditional minima along a grid, from the best fit outwards, then where a neighbour's is lower."""
        first = int(np.argmin(np.abs(grid - branch.fit.values[name])))
        found: dict[int, Point] = {first: self.at(branch, {name: float(grid[first])})}
        for i, before in _outwards(first, len(grid)):
            found[i] = self.at(branch, {name: float(grid[i])}, found[before])
        line = [found[i] for i in range(len(grid))]
        for i, beside in _backwards(len(grid)):
            line[i] = self.lower_of(branch, {name: float(grid[i])}, line[i], line[beside])
        return line

    # -- crossings

    def crossing(self, name: str, side: int, cl: float) -> tuple[float, bool]:
        """Where t crosses the level next to the minimum, and whether it does before the limit."""
        branch, threshold, limit = self.branches[0], level(cl), self.problem.limits[name][(side + 1) // 2]
        value = branch.fit.values[name]
        if abs(value - limit) <= 1e-9 * branch.fit.errors[name]:
            return limit, False
        x = self._rough_crossing(branch, name, side, cl)
        if x == limit and self.at(branch, {name: x}).value - branch.fit.minimum < threshold:
            return limit, False
        return self.refined(branch, name, x, threshold), True

    def _rough_crossing(self, branch: Branch, name: str, side: int, cl: float) -> float:
        limit = self.problem.limits[name][(side + 1) // 2]
        if name in branch.fit.at_limit:  # no minimum from which MINOS could start
            return self.reach(branch, name, side, level(cl))
        found = self.problem.minos(branch.fit, branch.metric, name, cl, side)
        if found.lower_minimum:
            raise NotConverged(f"MINOS of {name}: it found a minimum below that of the fit; take profile(), and its "
                               f"best as start=")  # fmt: skip
        if found.at_limit:
            return limit
        if not found.valid:
            raise NotConverged(f"MINOS of {name}: no crossing found {'below' if side < 0 else 'above'}; take profile() "
                               f"with a grid, or limits=")  # fmt: skip
        return _inside(found.u, limit, side)

    def refined(self, branch: Branch, name: str, x: float, threshold: float) -> float:
        """The crossing near x, by Newton's steps on the profiled likelihood, to 1e-6 of its distance."""
        zero, floor = branch.fit.values[name], branch.fit.minimum
        for _ in range(8):
            point = self.at(branch, {name: x})
            slope = self.slopes(point)[name]
            step = (threshold - (point.value - floor)) / slope
            step = float(np.clip(step, -0.5 * abs(x - zero), abs(x - zero)))
            low, high = self.problem.limits[name]
            x = min(max(x + step, low), high)
            if abs(step) <= 1e-6 * abs(x - zero):
                return x
        raise NotConverged(f"crossing of {name}: no convergence near {x:.6g}; take profile() with a fine grid")

    # -- two parameters

    def rectangle(self, branch: Branch, axes: Sequence[Floats]) -> list[Point]:
        """Conditional minima over a grid of two, spreading from the best fit; infinite outside of the domain.

        The second of the two runs fastest.
        """
        first = tuple(int(np.argmin(np.abs(axis - branch.fit.values[name])))
                      for axis, name in zip(axes, self.scanned, strict=True))  # fmt: skip
        shape = (len(axes[0]), len(axes[1]))
        found: dict[tuple[int, int], Point] = {}
        for place, before in _spreading((first[0], first[1]), shape):
            near = found.get(before)
            near = near if near is not None and math.isfinite(near.value) else None
            found[place] = self._at_or_outside(branch, self._values(axes, place), near)
        for place in reversed(list(found)):
            for beside in _beside(place, shape):
                found[place] = self.lower_of(branch, self._values(axes, place), found[place], found[beside])
        return [found[place] for place in sorted(found)]

    def _at_or_outside(self, branch: Branch, values: Mapping[str, float], near: Point | None) -> Point:
        """The conditional minimum, infinite where every start is outside of the model's domain."""
        try:
            return self.at(branch, values, near)
        except NegativeDensity:
            return Point({**branch.fit.values, **values}, math.inf)

    def _values(self, axes: Sequence[Floats], place: tuple[int, int]) -> dict[str, float]:
        return {name: float(axis[i]) for name, axis, i in zip(self.scanned, axes, place, strict=True)}

    # -- lower minima

    def lower_of(self, branch: Branch, values: Mapping[str, float], point: Point, neighbour: Point) -> Point:
        """The point, or the minimum that the neighbour's parameters lead to, where that is lower."""
        if math.isinf(point.value + neighbour.value) or not self.apart(branch, point, neighbour):
            return point
        try:
            there = self.problem.value({**neighbour.values, **values})
        except NegativeDensity:
            return point
        if not there < point.value - _JUMP:
            return point
        return min(point, self.at(branch, values, neighbour), key=lambda one: one.value)

    def apart(self, branch: Branch, point: Point, neighbour: Point) -> bool:
        """Whether the others differ from the neighbour's by over half a sigma more than the regression says."""
        names = self.problem.names
        expected = self._regressed(branch, neighbour.values, {name: point.values[name] for name in self.scanned})
        n = [i for i, name in enumerate(names) if name not in self.scanned and name not in branch.fit.fixed]
        away = np.array([point.values[names[i]] - expected[names[i]] for i in n])
        return bool(away @ branch.metric[np.ix_(n, n)] @ away > 0.25)

    def _lower(self, points: Sequence[Point]) -> bool:
        """Whether a point is below the best fit; the branch is then fitted again from there."""
        lowest = min(points, key=lambda one: one.value)
        if lowest.value >= self.best.minimum - _JUMP:
            return False
        self._fit_from(lowest)
        return True

    def _fit_from(self, point: Point) -> None:
        held = {name: point.values[name] for name in self.problem.discrete if name not in self.fixed}
        found = self.problem.fit(point.values, fixed={**self.fixed, **held}, tolerance=self.tolerance,
                                 metric=self.branches[0].metric)  # fmt: skip
        self.branches.append(Branch(held, found, self.problem.metric(found)))
        self._distinct()


def slopes_at(problem: Problem, values: Mapping[str, float], names: Sequence[str], widths: Floats) -> Floats:
    """d(-2 log L)/d name (S,), by differences where the cost has no gradient; NaN where it is not finite.

    ``widths`` (T,) of all parameters say how far apart the differences may be.
    """
    args = tuple(values[name] for name in problem.names)
    if problem.cost.has_grad:
        found = np.asarray(problem.cost._grad(args), np.float64) / float(problem.cost.errordef)
        return np.array([found[problem.names.index(name)] for name in names])
    steps = [1e-4 * float(widths[problem.names.index(name)]) for name in names]
    return np.array([_difference(problem, values, name, step) for name, step in zip(names, steps, strict=True)])


def _difference(problem: Problem, values: Mapping[str, float], name: str, step: float) -> float:
    low, high = problem.limits[name]
    a, b = max(values[name] - step, low), min(values[name] + step, high)
    return (problem.value({**values, name: b}) - problem.value({**values, name: a})) / (b - a)


def _inside(x: float, limit: float, side: int) -> float:
    return min(x, limit) if side > 0 else max(x, limit)


def _outwards(first: int, count: int) -> Iterator[tuple[int, int]]:
    """Places with the neighbour they start from, from the first up, then down."""
    for i in range(first + 1, count):
        yield i, i - 1
    for i in range(first - 1, -1, -1):
        yield i, i + 1


def _backwards(count: int) -> Iterator[tuple[int, int]]:
    for i in range(count - 2, -1, -1):
        yield i, i + 1
    for i in range(1, count):
        yield i, i - 1


def _spreading(first: tuple[int, int], shape: tuple[int, int]) -> Iterator[tuple[tuple[int, int], tuple[int, int]]]:
    """All places, each after a neighbour that it starts from, nearest to the first one first."""
    places = sorted(np.ndindex(shape), key=lambda p: abs(p[0] - first[0]) + abs(p[1] - first[1]))
    for i, j in places:
        nearer = (i + int(np.sign(first[0] - i)), j) if i != first[0] else (i, j + int(np.sign(first[1] - j)))
        yield (i, j), nearer


def _beside(place: tuple[int, int], shape: tuple[int, int]) -> list[tuple[int, int]]:
    around = [(place[0] + i, place[1] + j) for i, j in ((-1, 0), (1, 0), (0, -1), (0, 1))]
    return [(i, j) for i, j in around if 0 <= i < shape[0] and 0 <= j < shape[1]]
