r"""The profiled likelihood over two parameters, and its contours.

t(a, b) is that of `nuinfer.intervals.profiles` with two parameters held; regions are :math:`t \le \chi^2_2(cl)`, with
two degrees of freedom: 2.279 for 68% and 5.991 for 95%.  The scan of a rectangle also finds regions that do not hang
together.  Between the points t is a cubic spline, right to 1e-3 of t at the default spacing for twenty counts and
better for more.  The lines begin as the spline's own; then the likelihood is minimised at their points, which are moved
onto the level (`nuinfer.intervals.lines`): they are exact to 1e-5 of t on any grid that is fine enough to show them.

Source: James, Statistical Methods in Experimental Physics (2006), chapter 9.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from iminuit.cost import Cost
from numpy.typing import ArrayLike, NDArray

from .. import store
from .fits import Limits, Problem
from .lines import Surfaces, Tracer
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
    lines:
        The lines (M, 2) around them, by level; see `curves`.
    """

    names: tuple[str, str]
    x: Floats
    y: Floats
    surfaces: Floats
    best: dict[str, float]
    minimum: float
    fixed: dict[str, float]
    cls: tuple[float, ...]
    lines: dict[float, tuple[Floats, ...]]

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
        return np.asarray(self._surfaces()(x, y).min(0))

    def curves(self, cl: float) -> tuple[Floats, ...]:
        """The lines (M, 2) on which t is at its threshold; closed ones end where they begin, others at the edge.

        Those of ``cls`` are on it to 1e-5, whatever the grid; those of another level are the splines' own.
        """
        return self.lines[cl] if cl in self.lines else tuple(self._surfaces().lines(level(cl, 2)))

    def _surfaces(self) -> Surfaces:
        return Surfaces((self.x, self.y), self.surfaces)

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write one file; `Contour.load` reads it."""
        spec = {name: getattr(self, name) for name in ("names", "best", "minimum", "fixed", "cls")}
        spec["pieces"] = [len(self.lines[cl]) for cl in self.cls]
        lines = {f"line.{i}.{k}": line for i, cl in enumerate(self.cls) for k, line in enumerate(self.lines[cl])}
        store.save(path, "contour", spec, {"x": self.x, "y": self.y, "surfaces": self.surfaces, **lines})

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
        # files of before the lines were traced have none of them
        counts = zip(spec["cls"], spec.pop("pieces", ()), strict=False)
        lines = {cl: tuple(arrays.pop(f"line.{i}.{k}") for k in range(n)) for i, (cl, n) in enumerate(counts)}
        return cls(**{**spec, **arrays, "names": (a, b), "cls": tuple(spec["cls"]), "lines": lines})

    def __repr__(self) -> str:
        at = ", ".join(f"{name} = {self.best[name]:.5g}" for name in self.names)
        shown = ", ".join(f"{cl:.0%}: t <= {t:.4g}" for cl, t in self.levels.items())
        return f"Contour({at}; {shown}, chi2 with 2 degrees of freedom; {len(self.x)} x {len(self.y)} points)"


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
    found = scan.settled(lambda branch: scan.rectangle(branch, axes))
    tracer, best = Tracer(scan, (axes[0], axes[1]), found), scan.best
    t = np.array([[point.value for point in plane] for plane in found]) - best.minimum
    return Contour((a, b), axes[0], axes[1], t.reshape(-1, len(axes[0]), len(axes[1])), best.values, best.minimum,
                   scan.fixed, tuple(cls), {cl: tracer.lines(level(cl, 2)) for cl in cls})  # fmt: skip
