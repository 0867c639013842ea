r"""The profiled likelihood over two parameters, and its contours.

t(a, b) is that of `nuinfer.intervals.profiles` with two parameters held; regions are :math:`t \le \chi^2_2(cl)`, with
two degrees of freedom: 2.279 for 68% and 5.991 for 95%.  The scan of a rectangle also finds regions that do not hang
together.  Between the points t is a cubic spline, right to 1e-3 of t at the default spacing for twenty counts and
better for more, and the lines are moved onto its level.

Source: James, Statistical Methods in Experimental Physics (2006), chapter 9.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from iminuit.cost import Cost
from numpy.typing import ArrayLike, NDArray
from scipy.interpolate import RectBivariateSpline

from .. import store
from .fits import Limits, Problem
from .scans import Scan, level

__all__ = ["Contour", "contour"]

Floats = NDArray[np.float64]
Discrete = Mapping[str, Sequence[float]]
Periodic = Mapping[str, tuple[float, float]]


@dataclass(frozen=True, eq=False)
class Contour:
    r"""t over a rectangle of two parameters.

    Attributes
    ----------
    names:
        The two scanned.
    x, y:
        Their grids (A,) and (B,), ascending.
    surfaces:
        t of every branch (Br, A, B), infinite outside of the model's domain.
    best:
        All parameters at the global minimum.
    minimum:
        -2 log L there.
    fixed:
        What was held.
    cls:
        The levels asked for: regions are :math:`t \le \chi^2_2(cl)`, with two degrees of freedom.
    """

    names: tuple[str, str]
    x: Floats
    y: Floats
    surfaces: Floats
    best: dict[str, float]
    minimum: float
    fixed: dict[str, float]
    cls: tuple[float, ...]

    @property
    def values(self) -> Floats:
        """t (A, B), the lowest of the branches."""
        return np.asarray(self.surfaces.min(0))

    @property
    def levels(self) -> dict[float, float]:
        """The thresholds on t."""
        return {cl: level(cl, 2) for cl in self.cls}

    def __call__(self, x: ArrayLike, y: ArrayLike) -> Floats:
        """T at points x, y (*,) within the rectangle, by cubic splines.

        Raises
        ------
        ValueError
            for points outside of it.
        """
        x, y = np.broadcast_arrays(np.asarray(x, np.float64), np.asarray(y, np.float64))
        for name, at, axis in zip(self.names, (x, y), (self.x, self.y), strict=True):
            if at.size and not (axis[0] <= at.min() and at.max() <= axis[-1]):
                raise ValueError(f"contour: expected {name} from {axis[0]:g} to {axis[-1]:g}, found {at.min():g} to "
                                 f"{at.max():g}; give contour() a grid= that reaches further")  # fmt: skip
        return np.asarray(np.min([spline.ev(x, y) for spline in self._splines()], axis=0))

    def curves(self, cl: float) -> tuple[Floats, ...]:
        """The lines (M, 2) on which t is at its threshold; closed ones end where they begin, others at the edge."""
        from contourpy import contour_generator

        threshold, fine = level(cl, 2), [_refined(axis) for axis in (self.x, self.y)]
        t = np.min([spline(*fine) for spline in self._splines()], axis=0)
        lines = contour_generator(fine[0], fine[1], t.T).lines(threshold)
        return tuple(self._moved_onto(np.asarray(line, np.float64), threshold) for line in lines)

    def _moved_onto(self, line: Floats, threshold: float) -> Floats:
        """Points of a piecewise linear line, each moved along the gradient onto the splines' own."""
        splines, where = self._splines(), np.arange(len(line))
        for _ in range(3):
            t = np.array([spline.ev(*line.T) for spline in splines])
            lowest = t.argmin(0)
            slope = np.array([[spline.ev(*line.T, dx=1), spline.ev(*line.T, dy=1)] for spline in splines])
            g = slope[lowest, :, where] * self._spacing  # in units of the grid, where neither axis dominates
            step = (threshold - t[lowest, where])[:, None] * g / np.maximum((g**2).sum(1), 1e-300)[:, None]
            line = line + np.clip(step, -0.25, 0.25) * self._spacing
            line = np.clip(line, [self.x[0], self.y[0]], [self.x[-1], self.y[-1]])
        return line

    @property
    def _spacing(self) -> Floats:
        return np.array([np.ptp(self.x) / (len(self.x) - 1), np.ptp(self.y) / (len(self.y) - 1)])

    def _splines(self) -> list[RectBivariateSpline]:
        return [RectBivariateSpline(self.x, self.y, _continued(t)) for t in self.surfaces]

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write one file; `Contour.load` reads it."""
        spec = {name: getattr(self, name) for name in ("names", "best", "minimum", "fixed", "cls")}
        store.save(path, "contour", spec, {name: getattr(self, name) for name in ("x", "y", "surfaces")})

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> Contour:
        """What `save` wrote.

        Raises
        ------
        FileNotFoundError, CorruptFile, ValueError
            as `nuinfer.store.load`.
        """
        spec, arrays = store.load(path, "contour")
        a, b = spec.pop("names")
        return cls(**{**spec, **arrays, "names": (a, b), "cls": tuple(spec["cls"])})

    def __repr__(self) -> str:
        at = ", ".join(f"{name} = {self.best[name]:.5g}" for name in self.names)
        shown = ", ".join(f"{cl:.0%}: t <= {t:.4g}" for cl, t in self.levels.items())
        return f"Contour({at}; {shown}, chi2 with 2 degrees of freedom; {len(self.x)} x {len(self.y)} points)"


def _continued(t: Floats) -> Floats:
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


def contour(
    cost: Cost,
    a: str,
    b: str,
    *,
    cls: Sequence[float] = (0.68, 0.95),
    grid: tuple[ArrayLike, ArrayLike] | None = None,
    points: int = 21,
    start: Mapping[str, float] | None = None,
    fixed: Mapping[str, float] | None = None,
    limits: Limits | None = None,
    discrete: Discrete | None = None,
    periodic: Periodic | None = None,
    tolerance: float = 1e-6,
) -> Contour:
    """T over a rectangle of two parameters, all others profiled; disconnected regions are found inside it.

    Parameters
    ----------
    cls:
        Levels of confidence.
    grid:
        Values of a (A,) and of b (B,), at least 4 each.  Without it, ``points`` values of each around the largest
        region, over the whole period, or to the limits.
    start, fixed, limits, discrete, periodic, tolerance:
        As in `fit`.

    Raises
    ------
    KeyError, ValueError
        as `profile`; for the same parameter twice; for no level, or one not between 0 and 1.
    NotConverged, NegativeDensity
        as `fit`.
    """
    if a == b:
        raise ValueError(f"contour: expected two parameters, found {a!r} twice")
    if not len(cls):
        raise ValueError("contour: expected at least one confidence level in cls=, such as (0.68, 0.95), found none")
    threshold = max(level(cl, 2) for cl in cls)
    scan = Scan(Problem(cost, limits=limits, discrete=discrete, periodic=periodic), (a, b), fixed, tolerance)
    scan.fit_branches(start)
    given = (None, None) if grid is None else grid
    axes = [scan.grid(name, axis, points, 1.2 * threshold) for name, axis in zip((a, b), given, strict=True)]
    for _ in range(3):
        found = [scan.rectangle(branch, axes) for branch in scan.branches]
        if not scan.lower([point for plane in found for point in plane.values()]):
            break
    shape = (len(axes[0]), len(axes[1]))
    t = np.array([[plane[place].value for place in np.ndindex(shape)] for plane in found]).reshape(-1, *shape)
    best = scan.best
    return Contour((a, b), axes[0], axes[1], t - best.minimum, best.values, best.minimum, scan.fixed, tuple(cls))
