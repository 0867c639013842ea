r"""The maximum of a likelihood, by iminuit, with gradients, and its covariance.

A cost is F = -2 log L (iminuit's errordef 1; other costs are brought to it); the covariance is

.. math:: V = 2 H^{-1}, \qquad H = \frac{\partial^2 F}{\partial\theta\, \partial\theta'} ,

over the parameters that are not fixed.  How the minimum is found: `nuinfer.intervals.minima`.
"""

from __future__ import annotations

import itertools
import logging
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple, TypeVar

import numpy as np
from iminuit.cost import Cost, CostSum
from numpy.typing import NDArray

from ..errors import NotConverged, closest
from ..likelihood.constraints import Constraint
from ..likelihood.costs import NegativeDensity
from ..records import Record
from .minima import Crossing, Solved, Surface, minos_crossing, solve, solve_near

__all__ = ["Calls", "Fit", "Point", "Problem", "fit"]

Floats = NDArray[np.float64]
Limits = Mapping[str, tuple[float | None, float | None]]

Found = TypeVar("Found")

logger = logging.getLogger("nuinfer")


_PHASES = 4  # starts around the circle of a periodic parameter
_TOUCHING = 1e-4  # steps from a limit
_RISE = (0.1, 10.0)  # of -2 log L over the scale of a parameter at its limit: about one sigma


class Calls(NamedTuple):
    """How often a fit asked for the value and the gradient; both at one point are one pass over the events."""

    value: int
    gradient: int


@dataclass(frozen=True, eq=False)
class Fit(Record):
    """The parameters at the minimum, with their covariance.

    Attributes
    ----------
    names:
        (T,), in the order of the cost's arguments.
    values, errors:
        By name; the error is 0 for a fixed parameter, and near 0 for one at its limit.
    covariance:
        (T, T), twice the inverse Hessian of -2 log L.
    minimum:
        -2 log L there.
    fixed:
        The parameters held, with their values.
    at_limit:
        The parameters that end at a limit: the others' errors are those with it held there; use a profile.
    edm:
        Estimated distance to the minimum, in units of -2 log L.
    valid:
        Whether it converged; False only where that was allowed.
    calls:
        Of value and gradient.
    """

    _KIND = "fit"

    names: tuple[str, ...]
    values: dict[str, float]
    errors: dict[str, float]
    covariance: Floats
    minimum: float
    fixed: dict[str, float]
    at_limit: tuple[str, ...]
    edm: float
    valid: bool
    calls: Calls

    @property
    def free(self) -> tuple[str, ...]:
        """The parameters that were not fixed."""
        return tuple(name for name in self.names if name not in self.fixed)

    def others(self, *names: str) -> dict[str, float]:
        """The values of all parameters but these: ``fixed=`` of a fit with statistical errors only."""
        check_names(self.names, names, "others")
        return {name: value for name, value in self.values.items() if name not in names}

    @property
    def correlation(self) -> Floats:
        """(T, T); 0 beside the diagonal for a fixed parameter."""
        width = np.sqrt(np.diag(self.covariance))
        scale = np.where(width > 0, width, 1.0)
        return np.asarray(self.covariance / np.outer(scale, scale) + np.diag((width == 0).astype(float)))

    def __repr__(self) -> str:
        width = max(map(len, self.names))
        rows = [f"  {name:<{width}}  {self._row(name)}" for name in self.names]
        state = "" if self.valid else "NOT CONVERGED; "
        return "\n".join([f"Fit({state}-2 log L = {self.minimum:.6g}; {self.calls.gradient} gradients)", *rows])

    def _row(self, name: str) -> str:
        if name in self.fixed:
            return f"{self.values[name]:>12.6g}  fixed"
        note = "  at its limit" if name in self.at_limit else ""
        return f"{self.values[name]:>12.6g} +- {self.errors[name]:.3g}{note}"


class Point(NamedTuple):
    """A minimum without its covariance: the parameters by name, and -2 log L."""

    values: dict[str, float]
    value: float


def fit(
    cost: Cost,
    start: Mapping[str, float] | None = None,
    *,
    fixed: Mapping[str, float] | None = None,
    limits: Limits | None = None,
    discrete: Mapping[str, Sequence[float]] | None = None,
    periodic: Mapping[str, tuple[float, float]] | None = None,
    allow_unconverged: bool = False,
    tolerance: float = 1e-6,
) -> Fit:
    """The minimum of a cost, or of a sum of costs.

    Parameters
    ----------
    cost:
        Of `nuinfer.likelihood`, of iminuit, or a sum of such.
    start:
        Values to start from, of some or all parameters.  Otherwise a constraint's centre, 1 for a coefficient's
        parameters and factors of bins, 0 for the rest, moved inside the limits.
    fixed:
        Parameters to hold, and where.
    limits:
        (lower, upper), None for none; within those that the cost itself has.
    discrete:
        Parameters that take few values, such as ``{"ordering": (-1, 1)}``: each is tried, the lowest minimum is kept.
        One without a fit is left out with a warning in the log, unless none is left.
    periodic:
        Parameters on a circle with the ends of one period, such as ``{"delta": (0, 2 * math.pi)}``: the fit starts in
        each of its quarters.  Their limits fall away; results lie within the period.
    allow_unconverged:
        Log a warning where the fit does not converge, and return what was reached.
    tolerance:
        The greatest edm, in units of -2 log L: the distance from the minimum is its square root, in sigma.

    Returns
    -------
    Fit

    Raises
    ------
    NotConverged
        where no start converges; it says what to try.
    NegativeDensity
        where the start itself is outside of the model's domain, for every discrete value.
    KeyError, ValueError
        for unknown parameters, values outside of the limits, limits that exclude each other.

    Examples
    --------
    >>> from nuinfer.likelihood import Normal
    >>> two = Normal("a", 1.0, 0.3) + Normal(["a", "b"], [2.0, 0.0], covariance=[[0.16, 0.1], [0.1, 0.25]])
    >>> found = fit(two)
    >>> round(found.values["a"], 6), round(found.errors["a"], 6)
    (1.36, 0.24)
    """
    problem = Problem(cost, limits=limits, discrete=discrete, periodic=periodic)
    return problem.best(start, fixed=fixed, allow_unconverged=allow_unconverged, tolerance=tolerance)


# -- the problem -------------------------------------------------------------------------------------------------------


class Problem:
    """A cost with its limits, to be minimised again and again: what scans use.

    Parameters
    ----------
    cost, limits, discrete, periodic:
        As in `fit`.
    """

    def __init__(
        self,
        cost: Cost,
        *,
        limits: Limits | None = None,
        discrete: Mapping[str, Sequence[float]] | None = None,
        periodic: Mapping[str, tuple[float, float]] | None = None,
    ) -> None:
        self.cost = cost
        self.names = names_of(cost)
        self.limits = _limits(cost, self.names, limits or {})
        self.constraints = constraints(cost)
        self.discrete = _discrete(self.names, discrete or {})
        self.periodic = _periodic(self.names, periodic or {})
        self.limits.update(dict.fromkeys(self.periodic, (-math.inf, math.inf)))

    def branches(self, fixed: Iterable[str]) -> list[tuple[dict[str, float], dict[str, float]]]:
        """What to hold and where to start, for every discrete value and every quarter of a period."""
        held = [[(name, value) for value in values] for name, values in self.discrete.items() if name not in fixed]
        turns = [[(name, low + k * (high - low) / _PHASES) for k in range(_PHASES)]
                 for name, (low, high) in self.periodic.items() if name not in fixed]  # fmt: skip
        return [(dict(h), dict(t)) for h in itertools.product(*held) for t in itertools.product(*turns)]

    def each(
        self,
        branches: Iterable[tuple[dict[str, float], dict[str, float]]],
        run: Callable[[dict[str, float], dict[str, float]], Found],
        *,
        grade: int = logging.WARNING,
    ) -> list[Found]:
        """What ``run(held, start)`` finds on every branch, without those on which it fails.

        A hypothesis that no start has fitted is told to the log, at a ``grade``.

        Raises
        ------
        NotConverged, NegativeDensity
            the first of them, where every branch fails.
        """
        found: list[Found] = []
        kept: set[tuple[tuple[str, float], ...]] = set()
        failed: list[tuple[tuple[tuple[str, float], ...], Exception]] = []
        for held, start in branches:
            hypothesis = tuple((name, held[name]) for name in self.discrete if name in held)
            try:
                found.append(run(held, start))
            except (NotConverged, NegativeDensity) as error:
                failed.append((hypothesis, error))
            else:
                kept.add(hypothesis)
        if not found:
            raise failed[0][1]
        # one warning for each hypothesis, whatever the number of phases it was tried at
        for hypothesis, why in {lost: why for lost, why in failed if lost not in kept}.items():
            at = ", ".join(f"{name} = {value:g}" for name, value in hypothesis)
            logger.log(grade, "no fit with %s, which is left out: %s", at, why)
        return found

    def best(
        self,
        start: Mapping[str, float] | None = None,
        *,
        fixed: Mapping[str, float] | None = None,
        allow_unconverged: bool = False,
        tolerance: float = 1e-6,
    ) -> Fit:
        """The lowest of the fits of all branches."""

        def one(held: dict[str, float], turn: dict[str, float]) -> Fit:
            return self.fit({**(start or {}), **turn}, fixed={**(fixed or {}), **held}, tolerance=tolerance,
                            allow_unconverged=allow_unconverged)  # fmt: skip

        return min(self.each(self.branches(fixed or {}), one), key=lambda found: found.minimum)

    def fit(
        self,
        start: Mapping[str, float] | None = None,
        *,
        fixed: Mapping[str, float] | None = None,
        allow_unconverged: bool = False,
        tolerance: float = 1e-6,
        metric: Floats | None = None,
    ) -> Fit:
        """The fit of one branch: no discrete value is chosen and no period gone round.

        Parameters
        ----------
        metric:
            As in `minimum`: the widths to look for.
        """
        surface = self._surface(start, fixed, metric)
        u = surface.inner(surface.template[surface.free])
        if len(u):
            solved = solve(surface, u, tolerance)
        else:
            solved = Solved(u, surface.value(u), np.empty((0, 0)), 0.0, True)
        if not solved.valid:
            self._complain(surface, solved, tolerance, allow_unconverged)
        return self._fitted(surface, solved)

    def minimum(
        self,
        start: Mapping[str, float],
        *,
        fixed: Mapping[str, float] | None = None,
        metric: Floats | None = None,
        tolerance: float = 1e-6,
    ) -> Point:
        """The minimum without errors, from a start near it.

        Parameters
        ----------
        metric:
            (T, T), the inverse covariance of all parameters as in `Problem.metric`; with it few calls are needed, and
            the parameters may have any units.

        Raises
        ------
        NotConverged
            where neither this nor a whole `fit` converges.
        """
        surface = self._surface(start, fixed, metric)
        u = surface.inner(surface.template[surface.free])
        if not len(u):
            return Point(self._named(surface, u), surface.value(u))
        if metric is not None:
            factor = surface.factor(u, metric[np.ix_(surface.free, surface.free)])
            found = solve_near(surface, u, factor, tolerance)
            if found is not None:
                return Point(self._named(surface, found[0]), found[1])
        whole = self.fit(start, fixed=fixed, tolerance=tolerance, metric=metric)
        return Point(whole.values, whole.minimum)

    def minos(self, found: Fit, metric: Floats, name: str, cl: float, side: int) -> Crossing:
        """MINOS from a fit, below (-1) or above (+1): where -2 log L crosses, in the parameter itself."""
        surface = self._surface(found.values, found.fixed, metric, straight=name)
        u = surface.inner(surface.template[surface.free])
        slope = np.maximum(np.abs(surface.jacobian(u)), 0.1)
        precision = metric[np.ix_(surface.free, surface.free)] * np.outer(slope, slope)
        place = int(np.flatnonzero(surface.free).tolist().index(self.names.index(name)))
        return minos_crossing(surface, u, np.linalg.inv(precision), place, self.limits[name], cl, side)

    def metric(self, found: Fit) -> Floats:
        """The inverse covariance (T, T) of a fit; without correlations for what was fixed or ended at a limit.

        There the width is a first guess, or the way along which -2 log L rises by about 1.
        """
        names = [name for name in found.free if name not in found.at_limit and found.errors[name] > 0]
        known = [self.names.index(name) for name in names]
        steps = self.steps(found.values)
        for name in found.at_limit:
            steps[self.names.index(name)] = self._rise(found, name, float(steps[self.names.index(name)]))
        precision = np.diag(1 / steps**2)
        if known:
            precision[np.ix_(known, known)] = np.linalg.inv(found.covariance[np.ix_(known, known)])
        return precision

    def _rise(self, found: Fit, name: str, step: float) -> float:
        """How far into the allowed side -2 log L rises by about 1, all others held; ``step`` where it never does."""
        low, high = self.limits[name]
        value = found.values[name]
        inwards = 1 if value - low < high - value else -1
        tried, before = step, 1.0
        for _ in range(40):
            rise = self._risen(found, {name: value + inwards * tried})
            factor = 4.0 if rise < _RISE[0] else 0.25 if rise > _RISE[1] else 1.0
            # the second: it jumps from too little to too much
            if factor == 1 or factor * before == 1 or factor * tried > (high - low) / 4:
                return tried
            tried, before = factor * tried, factor
        return step

    def _risen(self, found: Fit, moved: Mapping[str, float]) -> float:
        """-2 log L above its minimum, infinite outside of the model's domain."""
        try:
            rise = self.value({**found.values, **moved}) - found.minimum
        except NegativeDensity:
            return math.inf
        return rise if math.isfinite(rise) else math.inf

    def value(self, values: Mapping[str, float]) -> float:
        """-2 log L at named parameters; raises `NegativeDensity`."""
        return float(self.cost._value(tuple(values[name] for name in self.names))) / float(self.cost.errordef)

    def start(self, given: Mapping[str, float] | None = None) -> dict[str, float]:
        """A value for every parameter: those given, then constraints' centres, 1 for coefficients, 0."""
        check_names(self.names, given or {}, "start")
        centres = {name: c.centre[name] for name, c in reversed(self.constraints)}
        models = [_model(part) for part in _items(self.cost)]
        interest = {name for m in models for name in (*getattr(m, "interest", ()), *getattr(m, "gammas", ()))}
        chosen = {name: centres.get(name, float(name in interest)) for name in self.names}
        within = {name: min(max(value, self.limits[name][0]), self.limits[name][1]) for name, value in chosen.items()}
        return {**within, **{name: float(value) for name, value in (given or {}).items()}}

    def check_inside(self, values: Mapping[str, float], what: str) -> None:
        """Refuse values outside of the limits, or not finite."""
        for name, value in values.items():
            low, high = self.limits[name]
            if not (low <= value <= high and math.isfinite(value)):
                raise ValueError(f"{what}: expected {name!r} from {low:g} to {high:g}, found {value:g}")

    def steps(self, values: Mapping[str, float]) -> Floats:
        """First guesses of the widths (T,): of the constraint, or a tenth of the value or of 1."""
        widths = {name: c.width[name] for name, c in reversed(self.constraints)}
        guesses = np.array([widths.get(name, 0.1 * max(abs(values[name]), 1.0)) for name in self.names])
        return self._within(guesses)

    def _first_steps(self, at: Mapping[str, float]) -> Floats:
        """`steps`, but no longer than the way from a start to its limit, so that it stays where it was given.

        What is much nearer to the limit is at it: its distance is chance.
        """
        steps = self.steps(at)
        ends = np.array([self.limits[name] for name in self.names])
        away = np.abs(np.array([at[name] for name in self.names])[:, None] - ends).min(1)
        return np.where((away < steps) & (away > _TOUCHING * steps), away, steps)

    def widths(self, metric: Floats) -> Floats:
        """The widths (T,) of a metric (T, T)."""
        return self._within(np.sqrt(np.diag(np.linalg.inv(metric))))

    def _within(self, widths: Floats) -> Floats:
        """Widths (T,), at most a quarter of the way between two limits."""
        spans = np.array([self.limits[name][1] - self.limits[name][0] for name in self.names])
        return np.asarray(np.minimum(widths, spans / 4))

    def _surface(
        self,
        start: Mapping[str, float] | None,
        fixed: Mapping[str, float] | None,
        metric: Floats | None = None,
        straight: str | None = None,
    ) -> Surface:
        """The free parameters, with a metric's widths or first guesses; ``straight`` is left without its limits."""
        held = dict(fixed or {})
        check_names(self.names, held, "fixed")
        at = {**self.start(start), **held}
        self.check_inside(held, "fixed")
        self.check_inside(at, "start")
        free = np.array([name not in held for name in self.names], bool)
        pairs = [(-math.inf, math.inf) if name == straight else self.limits[name] for name in self.names]
        limits = np.array(pairs, np.float64).reshape(-1, 2)
        steps = self._first_steps(at) if metric is None else self.widths(metric)
        return Surface(self.cost, np.array([at[name] for name in self.names], np.float64), free, limits, steps)

    def _named(self, surface: Surface, u: Floats) -> dict[str, float]:
        found = dict(zip(self.names, surface.full(u).tolist(), strict=True))
        turned = {name: low + (found[name] - low) % (high - low) for name, (low, high) in self.periodic.items()}
        return {**found, **{name: value for name, value in turned.items() if surface.free[self.names.index(name)]}}

    def _fitted(self, surface: Surface, solved: Solved) -> Fit:
        values, free = self._named(surface, solved.u), np.flatnonzero(surface.free)
        covariance = np.zeros((len(self.names), len(self.names)))
        covariance[np.ix_(free, free)] = _covariance(surface, solved)
        return Fit(
            names=self.names,
            values=values,
            errors=dict(zip(self.names, np.sqrt(np.diag(covariance)).tolist(), strict=True)),
            covariance=covariance,
            minimum=solved.value,
            fixed={name: values[name] for name, is_free in zip(self.names, surface.free, strict=True) if not is_free},
            at_limit=tuple(self.names[i] for i in free[_at_limit(surface, solved)]),
            edm=solved.edm,
            valid=solved.valid,
            calls=Calls(surface.counter["value"], surface.counter["gradient"]),
        )

    def _complain(self, surface: Surface, solved: Solved, tolerance: float, allowed: bool) -> None:
        at = ", ".join(f"{name} = {value:.4g}" for name, value in self._named(surface, solved.u).items())
        why = f"the estimated distance to the minimum is {solved.edm:.3g}, expected below {tolerance:.3g}"
        if not solved.positive:
            flat = np.array(self.names)[surface.free][_flattest(surface, solved)]
            why = f"the likelihood is flat, or bends the wrong way, along {str(flat)!r}"
        message = (f"the fit did not converge: {why}, at {at}; try other values in start=, limits=, a constraint for "
                   f"what the data do not determine, fixed=, or allow_unconverged=True")  # fmt: skip
        if not allowed:
            raise NotConverged(message)
        logger.warning("%s", message)


def _covariance(surface: Surface, solved: Solved) -> Floats:
    """2 H^-1 in the parameters themselves; NaN where the Hessian is not positive definite."""
    slope = surface.jacobian(solved.u)
    if not solved.positive:
        return np.full((len(slope), len(slope)), np.nan)
    found = 2 * np.linalg.inv(solved.hessian) * np.outer(slope, slope)
    return np.asarray((found + found.T) / 2)


def _at_limit(surface: Surface, solved: Solved) -> NDArray[np.bool_]:
    """Whether each free parameter lies at a limit: nearer to it than a hundredth of its error."""
    x = surface.outer(solved.u)
    width = np.sqrt(np.diag(_covariance(surface, solved)))
    return np.asarray(np.minimum(x - surface.low, surface.high - x) <= 0.01 * np.nan_to_num(width))


def _flattest(surface: Surface, solved: Solved) -> int:
    """The free parameter that dominates the direction of the least curvature."""
    hessian = solved.hessian * np.outer(surface.steps, surface.steps)
    if not np.isfinite(hessian).all():
        return int(np.argmin(np.isfinite(np.diag(hessian))))
    return int(np.argmax(np.abs(np.linalg.eigh(hessian)[1][:, 0])))


# -- what a cost says of itself ----------------------------------------------------------------------------------------


def names_of(cost: Cost) -> tuple[str, ...]:
    """The parameters of any iminuit cost, in order."""
    if not isinstance(cost, Cost):
        raise TypeError(f"expected a cost of nuinfer.likelihood or iminuit.cost, found {type(cost).__name__}")
    return tuple(cost._parameters)


def check_names(names: Iterable[str], given: Iterable[str], what: str) -> None:
    """``KeyError`` with the closest names for one that is not a parameter."""
    known = tuple(names)
    for name in given:
        if name not in known:
            raise KeyError(f"{what}: no parameter {name!r}; {closest(name, known)}")


def constraints(cost: Cost) -> list[tuple[str, Constraint]]:
    """Each constrained parameter with its constraint, in the order of the sum."""
    items = _items(cost)
    # binned mixtures hold the factors of their bins themselves
    inner = [constraint for part in items for constraint in getattr(part, "constraints", ())]
    found = [*(part for part in items if isinstance(part, Constraint)), *inner]
    return [(name, part) for part in found for name in part.names]


def _items(cost: Cost) -> tuple[Cost, ...]:
    return tuple(cost) if isinstance(cost, CostSum) else (cost,)


def _model(part: Cost) -> object:
    return getattr(part, "mixture", part)


def _limits(cost: Cost, names: tuple[str, ...], given: Limits) -> dict[str, tuple[float, float]]:
    """The intersection of what every part of the cost and the caller allow."""
    check_names(names, given, "limits")
    found: dict[str, tuple[float, float]] = dict.fromkeys(names, (-math.inf, math.inf))
    own = [(name, pair) for part in _items(cost) for name, pair in part._parameters.items() if pair is not None]
    for name, pair in [*own, *given.items()]:
        low, high = (-math.inf if pair[0] is None else pair[0]), (math.inf if pair[1] is None else pair[1])
        found[name] = (max(found[name][0], float(low)), min(found[name][1], float(high)))
        if not found[name][0] < found[name][1]:
            raise ValueError(f"limits of {name!r}: expected lower < upper, found {found[name]}")
    return found


def _discrete(names: tuple[str, ...], given: Mapping[str, Sequence[float]]) -> dict[str, tuple[float, ...]]:
    check_names(names, given, "discrete")
    for name, values in given.items():
        if not len(values):
            raise ValueError(f"discrete: expected at least one value of {name!r}, found none")
    return {name: tuple(float(v) for v in values) for name, values in given.items()}


def _periodic(names: tuple[str, ...], given: Mapping[str, tuple[float, float]]) -> dict[str, tuple[float, float]]:
    check_names(names, given, "periodic")
    for name, (low, high) in given.items():
        if not (math.isfinite(low) and low < high < math.inf):
            raise ValueError(f"periodic: expected the two ends of a period of {name!r}, found {low} and {high}")
    return {name: (float(low), float(high)) for name, (low, high) in given.items()}
