r"""Minima of costs with limits, by MIGRAD in coordinates of unit width.

Free parameters with limits are mapped to unbounded u, as Minuit does.  MIGRAD then sees

.. math:: y = L^{-1}(u - u_0), \qquad L L^T = 2 H^{-1}, \qquad H = \partial^2 F / \partial u\, \partial u',

in which F = -2 log L has width 1 in every direction, so that few steps are needed.  H is a difference of gradients: T
of them at the start, 2 T at the minimum, instead of the T^2/2 values of HESSE.  Convergence is judged there by the
estimated distance to the minimum, edm :math:`= \tfrac12 g^T H^{-1} g`, in units of F: 1e-6 is a thousandth of a sigma.

Sources: James, Roos, Comput. Phys. Commun. 10 (1975) 343; iminuit, doi 10.5281/zenodo.3949207.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from iminuit import Minuit
from iminuit.cost import Cost
from numpy.typing import NDArray

from ..likelihood.costs import NegativeDensity

__all__ = ["Crossing", "Solved", "Surface", "minos_crossing", "solve", "solve_near"]

Floats = NDArray[np.float64]

_STEP = 0.01  # sigma, of the differences of gradients: the error of H is about 1e-5 for ten events, less for more
_NARROW = 32.0  # of the Hessian in y, 2 where the widths are right: a quarter of the width
_LEARNT = (1e-5, 1e5)  # of MIGRAD's covariance in y, 1 where the widths are right: beyond it is not to be trusted
_NEAR = 0.005  # widths: over so short a way the Hessian stays as it is, to 1e-3 for thirty events
_BLIND = 1e4  # of the rough Hessian, 2 where the guesses are right: over 70 times too wide
_FAR = 1e8  # widths: beyond, a line search has run away
_ROUNDS = 4  # of MIGRAD from one start, each with the Hessian where the last one ended
_INSIDE = 0.3  # steps: where a start lies that was given at a limit, at which dx/du vanishes


class Surface:
    """F over the free parameters (T,), in coordinates u without limits, and how often it was asked.

    With one limit x is a hyperbola in u, with two a sine; far from the limits dx/du = 1.

    Parameters
    ----------
    at:
        All parameters; those that are not ``free`` stay there.
    free:
        A mask of all parameters.
    limits:
        Of all parameters, (., 2).
    steps:
        First guesses of all widths.
    counter:
        A surface whose count goes on.
    """

    def __init__(
        self,
        cost: Cost,
        at: Floats,
        free: NDArray[np.bool_],
        limits: Floats,
        steps: Floats,
        counter: Surface | None = None,
    ) -> None:
        self.cost, self.template, self.free = cost, at, free
        self.low, self.high, self.steps = limits[free, 0], limits[free, 1], steps[free]
        below, above = np.isfinite(self.low), np.isfinite(self.high)
        self.one, self.two = below != above, below & above
        self.sign = np.where(below, 1.0, -1.0)[self.one]  # from the limit into the allowed side
        self.edge = np.where(below, self.low, self.high)[self.one]
        self.half = (self.high - self.low)[self.two] / 2
        self.scale = 1 / float(cost.errordef)
        self.counter: Counter[str] = Counter() if counter is None else counter.counter

    def value(self, u: Floats) -> float:
        """F; raises `NegativeDensity`."""
        self.counter["value"] += 1
        return float(self.cost._value(tuple(self.full(u).tolist()))) * self.scale

    def gradient(self, u: Floats) -> Floats:
        """dF/du (T,); raises `NegativeDensity`."""
        self.counter["gradient"] += 1
        found = np.asarray(self.cost._grad(tuple(self.full(u).tolist())), np.float64)[self.free]
        return found * self.scale * self.jacobian(u)

    def full(self, u: Floats) -> Floats:
        """All parameters, those that are not free included."""
        found = self.template.copy()
        found[self.free] = self.outer(u)
        return found

    def outer(self, u: Floats) -> Floats:
        """x of u."""
        x, s = u.copy(), self.steps[self.one]
        x[self.one] = self.edge + self.sign * s * (np.hypot(1, u[self.one] / s) - 1)
        x[self.two] = self.low[self.two] + self.half * (1 + np.sin(u[self.two] / self.half))
        return np.clip(x, self.low, self.high)

    def inner(self, x: Floats) -> Floats:
        """u of x; a value at a limit is moved inside, since dx/du = 0 there."""
        u, s = x.copy(), self.steps[self.one]
        away = self.sign * (x[self.one] - self.edge) / s
        u[self.one] = s * np.maximum(np.sqrt(away * (away + 2)), _INSIDE)
        most = self.half * math.pi / 2 - np.minimum(_INSIDE * self.steps[self.two], self.half / 2)
        angle = np.arcsin(np.clip((x[self.two] - self.low[self.two]) / self.half - 1, -1, 1))
        u[self.two] = np.clip(self.half * angle, -most, most)
        return u

    def at_edges(self, x: Floats) -> Floats:
        """U of x without moving anything inside; exactly at a limit dx/du is 0."""
        u, s = x.copy(), self.steps[self.one]
        away = self.sign * (x[self.one] - self.edge) / s
        u[self.one] = s * np.sqrt(away * (away + 2))
        u[self.two] = self.half * np.arcsin(np.clip((x[self.two] - self.low[self.two]) / self.half - 1, -1, 1))
        return u

    def holding(self, held: NDArray[np.bool_], x: Floats) -> Surface:
        """The same with some of the free parameters held at x."""
        places = np.flatnonzero(self.free)
        at, free = self.template.copy(), self.free.copy()
        at[places[held]], free[places[held]] = x[held], False
        limits = np.full((len(at), 2), [-math.inf, math.inf])
        limits[places], steps = np.stack([self.low, self.high], 1), np.ones(len(at))
        steps[places] = self.steps
        return Surface(self.cost, at, free, limits, steps, self)

    def jacobian(self, u: Floats) -> Floats:
        """dx/du (T,)."""
        found, bent = np.ones(len(u)), u[self.one] / self.steps[self.one]
        found[self.one] = self.sign * bent / np.hypot(1, bent)
        found[self.two] = np.cos(u[self.two] / self.half)
        return found

    def factor(self, u: Floats, precision: Floats) -> Floats:
        """L (T, T) of an inverse covariance (T, T) in x."""
        slope = self.jacobian(u)
        slope = np.where(slope < 0, -1, 1) * np.maximum(np.abs(slope), 0.1)
        return _root(2 * precision * np.outer(slope, slope))


@dataclass(frozen=True, eq=False)
class Solved:
    """A point u (T,), its F, the Hessian in u (T, T) and the distance to the minimum."""

    u: Floats
    value: float
    hessian: Floats
    edm: float
    valid: bool

    @property
    def positive(self) -> bool:
        """Whether the Hessian is positive definite."""
        return _is_positive(self.hessian)


class _Whitened:
    """F - F(origin) over y, u = origin + L y, defined everywhere.

    Outside of the model's domain it is a bowl about the best point found, so that line searches turn back.
    """

    def __init__(self, surface: Surface, origin: Floats, factor: Floats) -> None:
        self.surface, self.origin, self.factor = surface, origin, factor
        self.zero, self.lowest, self.lowest_at = surface.value(origin), 0.0, np.zeros(len(origin))
        if not math.isfinite(self.zero):
            raise NegativeDensity(f"the cost is {self.zero} at {surface.full(origin).tolist()}, where the fit starts; "
                                  f"give another start=")  # fmt: skip

    def u(self, y: Floats) -> Floats:
        return np.asarray(self.origin + self.factor @ y)

    def inside(self, y: Floats) -> float:
        """F - F(origin), NaN outside of the domain and absurdly far away."""
        if not np.abs(y).max() < _FAR:
            return math.nan
        try:
            return self.surface.value(self.u(y)) - self.zero
        except NegativeDensity:
            return math.nan

    def value(self, y: Floats) -> float:
        y = np.array(y, np.float64)
        found = self.inside(y)
        if not math.isfinite(found):
            return self.lowest + 4 * (1 + float(np.sum((y - self.lowest_at) ** 2)))
        if found < self.lowest:
            self.lowest, self.lowest_at = found, y
        return found

    def gradient(self, y: Floats) -> Floats:
        y = np.array(y, np.float64)
        found = self.slope(y)
        return found if np.isfinite(found).all() else 8 * (y - self.lowest_at)

    def slope(self, y: Floats) -> Floats:
        """dF/dy, NaN outside of the domain."""
        if not self.surface.cost.has_grad:
            # y has unit width: these differences are wrong by 1e-6 of it
            sides = np.eye(len(y)) * 1e-3
            return np.array([(self.inside(y + side) - self.inside(y - side)) / 2e-3 for side in sides])
        if not np.abs(y).max() < _FAR:
            return np.full(len(y), math.nan)
        try:
            return np.asarray(self.factor.T @ self.surface.gradient(self.u(y)))
        except NegativeDensity:
            return np.full(len(y), math.nan)

    def hessian(self, y: Floats) -> Floats:
        """d2F/dy2 by central differences; steps that leave the domain are shortened."""
        rows = np.array([self._bend(y, side) for side in np.eye(len(y))])
        return np.asarray((rows + rows.T) / 2)

    def _bend(self, y: Floats, side: Floats) -> Floats:
        for h in (_STEP, _STEP / 10, _STEP / 100):
            found = (self.slope(y + h * side) - self.slope(y - h * side)) / (2 * h)
            if np.isfinite(found).all():
                break
        return found

    def rough(self) -> Floats:
        """d2F/dy2 at the origin by one-sided differences: enough for a metric, at half the cost."""
        here = self.slope(np.zeros(len(self.origin)))
        rows = np.array([self._one_sided(here, side) for side in np.eye(len(here))])
        return np.asarray((rows + rows.T) / 2)

    def _one_sided(self, here: Floats, side: Floats) -> Floats:
        for h in (0.1, -0.1, 0.01, -0.01, 1e-3, -1e-3):
            found = (self.slope(h * side) - here) / h
            if np.isfinite(found).all():
                return np.asarray(found)
        return 2 * side


def _is_positive(hessian: Floats) -> bool:
    diagonal = np.diag(hessian)
    if not np.isfinite(hessian).all() or not (diagonal > 0).all():
        return False
    scaled = hessian / np.sqrt(np.outer(diagonal, diagonal))
    return not len(diagonal) or float(np.linalg.eigvalsh(scaled)[0]) > 1e-10


def _root(hessian: Floats) -> Floats:
    """L with L L^T = 2 H^-1; eigenvalues that are not positive, in units of the diagonal, count as 1."""
    scale = np.sqrt(np.maximum(np.abs(np.diag(hessian)), 1e-300))
    values, vectors = np.linalg.eigh(hessian / np.outer(scale, scale))
    values = np.where(values > 1e-6, values, 1.0)
    return np.asarray(math.sqrt(2) * vectors / np.sqrt(values) / scale[:, None])


# -- from afar ---------------------------------------------------------------------------------------------------------


def solve(surface: Surface, u: Floats, tolerance: float) -> Solved:
    """The first converged minimum over several starts, or else the lowest point found.

    Raises
    ------
    NegativeDensity
        where the first start is outside of the domain.
    """
    failed: list[Solved] = []
    for start in _starts(surface, u):
        try:
            found = _from(surface, start, tolerance)
        except NegativeDensity:
            if not failed:
                raise
            continue
        if found.valid:
            return found
        failed.append(found)
    return min(failed, key=lambda one: one.value)


def _starts(surface: Surface, u: Floats) -> Iterator[Floats]:
    """The start, where the simplex leads from it, and points half a step to either side."""
    yield u
    space = _Whitened(surface, u, np.diag(surface.steps))
    simplex = _minuit(space, 1e-3).simplex()
    yield space.u(np.array(simplex.values))
    signs = np.where(np.arange(len(u)) % 2, 1.0, -1.0)
    for side in (0.5, -0.5):
        yield u + side * signs * surface.steps


def _from(surface: Surface, u: Floats, tolerance: float) -> Solved:
    factor, reach = _first_factor(surface, u), 1.0
    known: Solved | None = None
    for _ in range(_ROUNDS):
        space = _Whitened(surface, u, factor)
        y, _, learnt = _migrad(space, tolerance)
        again = None if known is None else _again(space, y, known, tolerance)
        found = again or _judged(_nearer(_Whitened(surface, space.u(y), factor @ learnt)), tolerance)
        if not found.valid:
            found = _at_limits(surface, found, tolerance) or found
        if found.valid or not np.isfinite(found.hessian).all():
            break
        # where the line search found nothing better the step was far too long
        reach = 0.1 * reach if found.value >= space.zero else 1.0
        u, factor = found.u, reach * _root(found.hessian)
        known = found if found.positive and reach == 1 else None
    return found


def _nearer(space: _Whitened) -> _Whitened:
    """Newton's steps in the metric that MIGRAD has learnt: the Hessian after them is that of the minimum itself."""
    y, _ = _newton(space, np.zeros(len(space.origin)), 2 * np.eye(len(space.origin)), 1e-6)
    return _Whitened(space.surface, space.u(y), space.factor)


def _again(space: _Whitened, y: Floats, known: Solved, tolerance: float) -> Solved | None:
    """The minimum a hair from where the Hessian is known, in coordinates in which that is 2; None where it is not."""
    y, edm = _newton(space, y, 2 * np.eye(len(y)), tolerance)
    if edm > tolerance or np.abs(y).max() > _NEAR:
        return None
    return Solved(space.u(y), space.inside(y) + space.zero, known.hessian, edm, True)


def _first_factor(surface: Surface, u: Floats) -> Floats:
    """L of a rough Hessian; again where F is so much narrower than the first guesses that its differences saw afar."""
    factor = np.diag(surface.steps)
    for _ in range(4):
        rough = _Whitened(surface, u, factor).rough()
        factor = factor @ _root(rough)
        if np.abs(np.diag(rough)).max() < _BLIND:
            break
    return factor


def _at_limits(surface: Surface, found: Solved, tolerance: float) -> Solved | None:
    """The minimum with what is next to its limits held there, as F may have a cusp there, like that of sqrt(mu) at 0.

    None where nothing is, or where F falls from the limits inwards.
    """
    x = surface.outer(found.u)
    ends = np.where(x - surface.low < surface.high - x, surface.low, surface.high)
    held = np.abs(x - ends) <= 1e-3 * surface.steps
    if not held.any() or held.all():
        return None if not held.any() else _corner(surface, ends)
    inner = surface.holding(held, ends)
    rest = _from(inner, inner.inner(x[~held]), tolerance)
    u = surface.at_edges(np.where(held, ends, x))
    u[~held] = rest.u
    if not rest.valid or not _rises(surface, u, held):
        return None
    hessian = np.diag(2 / surface.steps**2)
    hessian[np.ix_(~held, ~held)] = rest.hessian
    return Solved(u, rest.value, hessian, rest.edm, True)


def _corner(surface: Surface, ends: Floats) -> Solved | None:
    u = surface.at_edges(ends)
    if not _rises(surface, u, np.ones(len(u), bool)):
        return None
    return Solved(u, surface.value(u), np.diag(2 / surface.steps**2), 0.0, True)


def _rises(surface: Surface, u: Floats, held: NDArray[np.bool_]) -> bool:
    """Whether F rises from the limits inwards, parameter by parameter."""
    zero = surface.value(u)
    inwards = np.where(u > 0, -1.0, 1.0) * surface.steps
    sides = [np.where(np.arange(len(u)) == i, inwards * size, 0) for i in np.flatnonzero(held) for size in (1e-3, 0.03)]
    return all(surface.value(u + side) >= zero for side in sides)


def _judged(space: _Whitened, tolerance: float) -> Solved:
    """The origin improved by Newton's steps with its own Hessian, and whether it is the minimum."""
    space, hessian = _measured(space)
    y = np.zeros(len(hessian))
    back = np.linalg.inv(space.factor)
    outer = back.T @ hessian @ back
    if not _is_positive(hessian):
        return Solved(space.u(y), space.zero, outer, math.inf, False)
    y, edm = _newton(space, y, hessian, tolerance)
    if edm <= tolerance and float(y @ hessian @ y) / 2 > _NEAR**2:  # the Hessian is that of another point
        return _judged(_Whitened(space.surface, space.u(y), space.factor), tolerance)
    return Solved(space.u(y), space.inside(y) + space.zero, outer, edm, edm <= tolerance)


def _measured(space: _Whitened) -> tuple[_Whitened, Floats]:
    """The Hessian at the origin, in a metric of about the right widths: differences over much wider ones see afar."""
    y = np.zeros(len(space.origin))
    hessian = space.hessian(y)
    for _ in range(3):
        if not _is_positive(hessian) or np.linalg.eigvalsh(hessian)[-1] < _NARROW:
            break
        space = _Whitened(space.surface, space.origin, space.factor @ _root(hessian))
        hessian = space.hessian(y)
    return space, hessian


def _newton(space: _Whitened, y: Floats, hessian: Floats, tolerance: float) -> tuple[Floats, float]:
    """Steps as long as they bring y nearer, at most three; and the distance left."""
    slope = space.slope(y)
    for _ in range(3):
        step = -np.linalg.solve(hessian, slope)
        edm = float(-step @ slope) / 2
        if edm < 1e-3 * tolerance:
            break
        there = space.slope(y + step)
        left = float(there @ np.linalg.solve(hessian, there)) / 2
        if not left < edm:  # NaN included
            break
        y, slope, edm = y + step, there, left
    return y, edm


# -- from near by ------------------------------------------------------------------------------------------------------


def solve_near(surface: Surface, u: Floats, factor: Floats, tolerance: float) -> tuple[Floats, float] | None:
    """The minimum u and F from a start near it with a metric L (T, T) that fits; None where that does not converge."""
    space = _Whitened(surface, u, factor)
    y = _descended(space, tolerance)
    if y is None:
        y, trusted, _ = _migrad(space, tolerance)
        y, edm = _newton(space, y, np.eye(len(y)) * 2, tolerance)
        if edm > tolerance * (1 if trusted else 0.01):
            return None
    return space.u(y), space.inside(y) + space.zero


def _descended(space: _Whitened, tolerance: float) -> Floats | None:
    """Quasi-Newton steps of full length, as few passes as there can be; None unless they lead straight down."""
    y, value, inverse = np.zeros(len(space.origin)), 0.0, np.eye(len(space.origin)) / 2
    slope = space.slope(y)
    for _ in range(8):
        step = -inverse @ slope
        if float(-step @ slope) / 2 <= 0.1 * tolerance:
            return y
        there = space.inside(y + step)
        if not there <= value + 1e-4:  # more than the rounding of a large sum; NaN included
            return None
        y, value, before = y + step, there, slope
        slope = space.slope(y)
        inverse = _updated(inverse, step, slope - before)
    return None


def _updated(inverse: Floats, step: Floats, bend: Floats) -> Floats:
    """The BFGS formula for H^-1; as it was where the curvature along the step is not positive (NaN included)."""
    along = float(step @ bend)
    if not along > 0:
        return inverse
    left = np.eye(len(step)) - np.outer(step, bend) / along
    return np.asarray(left @ inverse @ left.T + np.outer(step, step) / along)


def _minuit(space: _Whitened, tolerance: float) -> Minuit:
    count = len(space.origin)
    flat = np.full(count, 2.0)  # F = y^2 to first approximation: MIGRAD need not look for second derivatives
    found = Minuit(space.value, np.zeros(count), grad=space.gradient, g2=lambda y: flat)
    found.errordef, found.strategy, found.tol = 1, 0, tolerance / 0.002
    found.errors = np.ones(count)
    return found


def _migrad(space: _Whitened, tolerance: float) -> tuple[Floats, bool, Floats]:
    """Where MIGRAD ends, whether it is content with that, and the root (T, T) of the covariance that it learnt."""
    run = _minuit(space, tolerance)
    run.migrad(ncall=50 + 10 * len(space.origin), iterate=1, use_simplex=False)
    found = np.array(run.values)
    if math.isfinite(space.inside(found)):
        return found, bool(run.valid), _learnt(run)
    return space.lowest_at, False, np.eye(len(found))


def _learnt(run: Minuit) -> Floats:
    """The root of MIGRAD's covariance; the unit matrix, with which it began, where it has no good one."""
    unit = np.eye(len(run.values))
    if run.covariance is None:
        return unit
    learnt = np.asarray(run.covariance, np.float64)
    if not np.isfinite(learnt).all():
        return unit
    least, largest = np.linalg.eigvalsh(learnt)[[0, -1]].tolist()
    return np.asarray(np.linalg.cholesky(learnt)) if _LEARNT[0] < least and largest < _LEARNT[1] else unit


# -- MINOS -------------------------------------------------------------------------------------------------------------


class Crossing(NamedTuple):
    """Where MINOS ends on one side: u of the parameter, whether it stopped at a limit, and whether to believe it."""

    u: float
    at_limit: bool
    valid: bool
    lower_minimum: bool


def minos_crossing(
    surface: Surface, u: Floats, covariance: Floats, place: int, bounds: tuple[float, float], cl: float, side: int
) -> Crossing:
    """MINOS for one parameter, in coordinates of which the first is that parameter and the others are its residuals.

    ``u`` (T,) is the minimum, ``covariance`` (T, T) is in u, ``bounds`` are those of the parameter in u.
    """
    order = np.r_[place, np.delete(np.arange(len(u)), place)]
    factor = np.empty_like(covariance)
    factor[order] = np.linalg.cholesky(covariance[np.ix_(order, order)])  # the first y moves all, the others not it
    space, width = _Whitened(surface, u, factor), factor[place, 0]
    run = _minuit(space, 1e-6)
    run.limits["x0"] = tuple((bound - u[place]) / width for bound in bounds)
    run.migrad()
    if not run.valid:
        return Crossing(float(u[place]), False, False, False)
    run.minos("x0", cl=cl)
    found, zero = run.merrors["x0"], u[place] + width * run.values["x0"]
    if side < 0:
        end, limit, valid, new = found.lower, found.at_lower_limit, found.lower_valid, found.lower_new_min
    else:
        end, limit, valid, new = found.upper, found.at_upper_limit, found.upper_valid, found.upper_new_min
    return Crossing(float(zero + width * end), bool(limit), bool(valid), bool(new))
