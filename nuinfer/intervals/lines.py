r"""Lines on which a profiled likelihood of two parameters is at a level.

With the others at their conditional maximum :math:`\partial t/\partial s = \partial(-2\log L)/\partial s` for both
parameters s = (a, b) that are held (the envelope theorem), so that a minimisation at a point gives t with its slope g.
A point near the line goes onto the level l by Newton's steps on :math:`\sqrt t`, which are exact for a parabola:

.. math:: s \leftarrow s + \frac{2 \sqrt t\, (\sqrt l - \sqrt t)}{g^T C g}\, C g,

C the covariance of the two.  Between two points the line is a cubic through both, along the tangents that the slopes
give, in coordinates in which the line of a parabola is a circle; where it misses the level half-way, there is another
point, and so on.
"""

from __future__ import annotations

import itertools
import logging
import math
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np
from contourpy import contour_generator
from numpy.typing import NDArray
from scipy.interpolate import RectBivariateSpline

from ..errors import NotConverged
from ..likelihood.costs import NegativeDensity
from .fits import Point
from .scans import Branch, Scan, slopes_at

__all__ = ["Surfaces", "Tracer"]

Floats = NDArray[np.float64]

logger = logging.getLogger("nuinfer")

_CLOSE = 3e-6  # of t: how far from its level a point of a line may be
_SMOOTH = 1e-5  # of t: a cubic that misses the level by less half-way misses it by a 16th of that in its halves
_RIVAL = 1.0  # of t: by how much a branch may be above the lowest one in the splines and still be the lowest
_SPACING = 0.32  # of the radius: 20 points around a circle
_COUNT = (8, 120)  # points of a line before any are added
_HALVINGS = 5
_STEPS = 16  # of Newton
_FAR = 0.1  # steps of the grid, from the splines' line to the true one: the splines may then show others, or too many


class Vertex(NamedTuple):
    """A point s (2,) of a line, the slope (2,) of t, and by how much t missed the level where the search began."""

    at: Floats
    slope: Floats
    missed: float


class Arc:
    """The cubic between two points of a line: for a circle it is right to the sixth power of the angle.

    ``root`` (2, 2) is that of the covariance, in units of which the line of a parabola is a circle.
    """

    def __init__(self, one: Vertex, two: Vertex, root: Floats) -> None:
        self.origin, self.root = one.at, root
        self.chord = np.asarray(np.linalg.solve(root, two.at - one.at), np.float64)
        first, second = (self._tangent(vertex.slope) for vertex in (one, two))
        # the tangents' length with which a Bezier curve is the arc: 4/3 tan(angle/4) r is a third of it
        length = 2 * math.hypot(*self.chord) / (1 + math.sqrt(max(0.0, 1 + float(first @ second)) / 2))
        straight = not np.isfinite([first, second]).all()
        self.first, self.second = (self.chord, self.chord) if straight else (length * first, length * second)

    def _tangent(self, slope: Floats) -> Floats:
        """The unit vector (2,) along the line, in the sense of the chord."""
        white = self.root.T @ slope
        along = np.array([-white[1], white[0]]) / (math.hypot(*white) or math.nan)
        return np.asarray(along if along @ self.chord >= 0 else -along)

    def __call__(self, x: float) -> Floats:
        """A point, x from 0 to 1."""
        ends = (3 - 2 * x) * x**2 * self.chord
        return np.asarray(
            self.origin + self.root @ (ends + x * (1 - x) ** 2 * self.first - x**2 * (1 - x) * self.second)
        )

    def askew(self, middle: Vertex) -> float:
        """By how much t would be missed between, as the tangent half-way is not that of the line."""
        along = 1.5 * self.chord - 0.25 * (self.first + self.second)
        across = abs(float(self.root.T @ middle.slope @ along)) / (math.hypot(*along) or math.nan)
        # a cubic with a slope of 1 too much at one of its ends is off by 4/27 of its length
        return across * math.hypot(*self.chord) / 2 * 4 / 27


class Surfaces:
    """Splines through t of every branch (Br, A, B) over the axes (A,) and (B,)."""

    def __init__(self, axes: tuple[Floats, Floats], t: Floats) -> None:
        self.axes = axes
        self.splines = [RectBivariateSpline(*axes, continued(plane)) for plane in t]
        self.ends = np.array([[axis[0], axis[-1]] for axis in axes])
        self.spacing = np.array([np.ptp(axis) / (len(axis) - 1) for axis in axes])

    def __call__(self, x: Floats, y: Floats) -> Floats:
        """All branches at points (*,): (Br, *)."""
        return np.array([spline.ev(x, y) for spline in self.splines])

    def lines(self, threshold: float) -> list[Floats]:
        """The lines (M, 2) on which the lowest spline is at a threshold."""
        fine = [_refined(axis) for axis in self.axes]
        t = np.min([spline(*fine) for spline in self.splines], axis=0)
        found = contour_generator(fine[0], fine[1], t.T).lines(threshold)
        return [self._moved_onto(np.asarray(line, np.float64), threshold) for line in found]

    def _moved_onto(self, line: Floats, threshold: float) -> Floats:
        """Points of a piecewise linear line, each moved along the gradient onto the splines' own."""
        where, edge = np.arange(len(line)), (line[:, :, None] == self.ends).any(2)
        for _ in range(3):
            t = self(*line.T)
            lowest = t.argmin(0)
            slope = np.array([[spline.ev(*line.T, dx=1), spline.ev(*line.T, dy=1)] for spline in self.splines])
            # in units of the grid, where neither axis dominates
            g = np.where(edge, 0.0, slope[lowest, :, where] * self.spacing)
            step = (threshold - t[lowest, where])[:, None] * g / np.maximum((g**2).sum(1), 1e-300)[:, None]
            line = self.inside(line + np.clip(step, -0.25, 0.25) * self.spacing)
        return line

    def inside(self, at: Floats) -> Floats:
        """Points (*, 2) brought into the rectangle."""
        return np.asarray(np.clip(at, *self.ends.T))


def continued(t: Floats) -> Floats:
    """T (A, B) continued smoothly to where it is infinite, so that a spline does not ring."""
    t = np.where(np.isfinite(t), t, np.nan)
    while np.isnan(t).any():
        wide = np.pad(t, 3, constant_values=np.nan)
        guesses = []
        for di, dj in ((0, 1), (0, -1), (1, 0), (-1, 0)):
            one, two, three = (np.roll(wide, (k * di, k * dj), (0, 1))[3:-3, 3:-3] for k in (1, 2, 3))
            guesses.append(np.where(np.isnan(three), one, 3 * one - 3 * two + three))
        best = np.fmax.reduce(guesses)
        t = np.where(np.isnan(t), best, t)
    return t


def _refined(axis: Floats) -> Floats:
    """The axis with seven more points between any two."""
    return np.interp(np.arange(8 * (len(axis) - 1) + 1) / 8, np.arange(len(axis)), axis)


class Tracer:
    """The lines of a scan over a rectangle, with the likelihood minimised at every point.

    Parameters
    ----------
    scan:
        Of two parameters.
    axes:
        Of the rectangle.
    planes:
        For every branch the conditional minima, place by place.
    """

    def __init__(self, scan: Scan, axes: tuple[Floats, Floats], planes: Sequence[Sequence[Point]]) -> None:
        self.scan, self.planes, self.shape = scan, planes, (len(axes[0]), len(axes[1]))
        best = min(scan.branches, key=lambda branch: branch.fit.minimum)
        self.floor, names = best.fit.minimum, scan.problem.names
        t = np.array([[point.value for point in plane] for plane in planes]).reshape(-1, *self.shape) - self.floor
        self.surfaces = Surfaces(axes, t)
        place = [names.index(name) for name in scan.scanned]
        self.covariance = np.linalg.inv(best.metric)[np.ix_(place, place)]
        self.root, self.widths = np.linalg.cholesky(self.covariance), scan.problem.widths(best.metric)
        self.others = [self._others(branch, plane) for branch, plane in zip(scan.branches, planes, strict=False)]

    def _others(self, branch: Branch, plane: Sequence[Point]) -> dict[str, RectBivariateSpline]:
        """Splines through the profiled parameters of a branch."""
        free = [name for name in self.scan.problem.names if name not in (*self.scan.scanned, *branch.fit.fixed)]
        tables = {name: np.array([point.values[name] for point in plane]).reshape(self.shape) for name in free}
        return {name: RectBivariateSpline(*self.surfaces.axes, table) for name, table in tables.items()}

    def lines(self, threshold: float) -> tuple[Floats, ...]:
        """The lines (M, 2) on which t is at a threshold."""
        found: list[Floats] = []
        for line in self.surfaces.lines(threshold):
            closed, at = bool(np.array_equal(line[0], line[-1])), self._spaced(line, threshold)
            vertices = self._vertices(at, closed, threshold)
            found += [self._drawn(piece, threshold) for piece in _pieces(vertices, closed)]
        return tuple(found)

    def _spaced(self, line: Floats, threshold: float) -> Floats:
        """Points of a line at equal distances, in units of the covariance; its ends are kept."""
        white = np.linalg.solve(self.root, line.T).T
        along = np.concatenate([[0], np.cumsum(np.hypot(*np.diff(white, axis=0).T))])
        count = int(np.clip(along[-1] / (_SPACING * math.sqrt(threshold)), *_COUNT))
        return np.stack([np.interp(np.linspace(0, along[-1], count + 1), along, x) for x in line.T], 1)

    def _vertices(self, line: Floats, closed: bool, threshold: float) -> list[Vertex | None]:
        """The points on the level; None for those that are outside of the domain, or not to be brought there."""
        if closed:
            found = [self.onto(at, threshold) for at in line[:-1]]
            found.append(found[0])
        else:
            ends = [self._end(at, threshold) for at in line[[0, -1]]]
            found = [ends[0], *(self.onto(at, threshold) for at in line[1:-1]), ends[1]]
        self._tell(line, found, threshold)
        return found

    def _tell(self, line: Floats, found: Sequence[Vertex | None], threshold: float) -> None:
        """Warn of points that are lost, and of a grid on which the splines are far from the likelihood."""
        names, moved = " and ".join(self.scan.scanned), [
            float(np.abs((vertex.at - at) / self.surfaces.spacing).max())
            for at, vertex in zip(line, found, strict=True) if vertex is not None
        ]  # fmt: skip
        if len(moved) < len(found):
            logger.warning("contour of %s: %d of %d points of a line are outside of the model's domain, or do not come "
                           "onto t = %.4g; it is open there", names, len(found) - len(moved), len(found),
                           threshold)  # fmt: skip
        if max(moved, default=0.0) > _FAR:
            logger.warning("contour of %s: a line at t = %.4g was %.2g steps of the grid from where the grid shows it; "
                           "other pieces may be missing, or one be there twice: take more points", names, threshold,
                           max(moved))  # fmt: skip

    def _end(self, at: Floats, threshold: float) -> Vertex | None:
        """The end of an open line: along the edge of the rectangle, or off it where the line turns before."""
        held = np.isin(np.arange(2), np.abs(at[:, None] - self.surfaces.ends).min(1).argmin())
        held &= (at[:, None] == self.surfaces.ends).any(1)
        return self.onto(at, threshold, held) or self.onto(at, threshold)

    def _drawn(self, vertices: Sequence[Vertex], threshold: float) -> Floats:
        """The line through the points, with more between them."""
        found = [vertices[0].at]
        for one, two in itertools.pairwise(vertices):
            found += [*self._between(one, two, threshold), two.at]
        return np.array(found)

    def _between(
        self, one: Vertex, two: Vertex, threshold: float, halvings: int = _HALVINGS, trusted: bool = False
    ) -> Iterator[Floats]:
        """More points between two: of the cubic where it is the line, and that over twice the way nearly was."""
        arc = Arc(one, two, self.root)
        middle = self.onto(arc(0.5), threshold)
        if middle is None:
            return
        missed = max(middle.missed, arc.askew(middle))
        for place, pair in enumerate(((one, middle), (middle, two))):
            if place:
                yield middle.at
            if trusted and missed < _SMOOTH:
                half = Arc(*pair, self.root)
                yield from (self.surfaces.inside(half(x)) for x in (0.25, 0.5, 0.75))
            elif halvings:
                yield from self._between(*pair, threshold, halvings - 1, missed < 100 * _SMOOTH)

    # -- one point

    def onto(self, start: Floats, threshold: float, held: NDArray[np.bool_] | None = None) -> Vertex | None:
        """The point on the level from near by; None outside of the domain, or where it is not found.

        ``held`` (2,) are the parameters that stay.
        """
        at, before, missed = self.surfaces.inside(start), None, None
        for _ in range(_STEPS):
            point = self.lowest(at)
            if point is None:
                if before is None:
                    return None
                at = (at + before) / 2
                continue
            slope = slopes_at(self.scan.problem, point.values, self.scan.scanned, self.widths)
            t = point.value - self.floor
            missed = abs(t - threshold) if missed is None else missed
            if abs(t - threshold) < _CLOSE:
                return Vertex(at, slope, missed)
            before, at = at, self._stepped(at, t, slope, threshold, held)
        return None

    def _stepped(self, at: Floats, t: float, slope: Floats, threshold: float, held: NDArray[np.bool_] | None) -> Floats:
        """Newton's step on the root of t, no longer than half a radius, along the edge where it would leave."""
        stays = np.zeros(2, bool) if held is None else held.copy()
        way = np.sign(threshold - t) * slope
        stays |= ((at == self.surfaces.ends[:, 0]) & (way < 0)) | ((at == self.surfaces.ends[:, 1]) & (way > 0))
        g = np.where(stays, 0.0, slope)
        direction = np.where(stays, 0.0, self.covariance @ g)
        size = float(g @ direction)
        if not size > 0:
            return at
        root = math.sqrt(max(t, 1e-3 * threshold))
        length = 2 * root * (math.sqrt(threshold) - math.sqrt(max(t, 0.0))) / size
        most = 0.5 * math.sqrt(threshold / size)
        return self.surfaces.inside(at + float(np.clip(length, -most, most)) * direction)

    def lowest(self, at: Floats) -> Point | None:
        """The lowest conditional minimum of those branches that may have it; None outside of the domain."""
        rough = self.surfaces(*at)
        found = [self._minimum(k, at) for k in np.flatnonzero(rough <= rough.min() + _RIVAL).tolist()]
        return min((point for point in found if point is not None), key=lambda point: point.value, default=None)

    def _minimum(self, k: int, at: Floats) -> Point | None:
        """The conditional minimum of a branch, from the splines, or a neighbour where those jump."""
        branch, values = self.scan.branches[k], dict(zip(self.scan.scanned, at.tolist(), strict=True))
        corners = [point for point in self._corners(k, at) if math.isfinite(point.value)]
        others = {name: float(spline.ev(*at)) for name, spline in self.others[k].items()}
        near = Point({**branch.fit.values, **others, **values}, math.inf)
        if corners and all(self.scan.apart(branch, near, corner) for corner in corners):
            near = min(corners, key=lambda point: point.value)
        try:
            point = self.scan.at(branch, values, near)
        except (NegativeDensity, NotConverged):
            return None
        for corner in corners:
            point = self.scan.lower_of(branch, values, point, corner)
        return point

    def _corners(self, k: int, at: Floats) -> list[Point]:
        """The points of the grid around a place."""
        i, j = (min(int(np.searchsorted(axis, x, "right")) - 1, len(axis) - 2)
                for axis, x in zip(self.surfaces.axes, at.tolist(), strict=True))  # fmt: skip
        return [self.planes[k][(i + di) * self.shape[1] + j + dj] for di in (0, 1) for dj in (0, 1)]


def _pieces(vertices: Sequence[Vertex | None], closed: bool) -> list[list[Vertex]]:
    """What hangs together, of two points at least; a closed line that is broken begins after the break."""
    if closed and None in vertices:
        gap = vertices.index(None)
        vertices = [*vertices[gap:-1], *vertices[:gap]]
    runs = [[v for v in run if v is not None] for found, run in itertools.groupby(vertices, lambda v: v is not None)
            if found]  # fmt: skip
    return [run for run in runs if len(run) > 1]
