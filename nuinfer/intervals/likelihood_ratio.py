r"""The profiled likelihood ratio of one experiment, fast enough for many.

.. math:: t(\mu) = -2 \log \frac{L(\mu, \hat{\hat\alpha}(\mu))}{L(\hat\mu, \hat\alpha)}

with :math:`\hat\mu` inside its physical limits: the ordering of Feldman and Cousins.  For upper limits,
:math:`\tilde q_\mu` is t where :math:`\hat\mu \le \mu` and 0 elsewhere.  Both fits minimise over the values of discrete
parameters (a mass ordering) as well, and start in all quarters of the circle of a periodic one: the branches of `fit`.

The fits start from the parameters that a toy was drawn at.  That at fixed :math:`\mu` comes first, and the global one
starts from where it ended, so that t is not negative by more than MIGRAD's tolerance.

Sources: Feldman, Cousins, arXiv physics/9711021; Cowan, Cranmer, Gross, Vitells, arXiv 1007.1727, section 2.5.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Literal

import numpy as np
from iminuit.cost import Cost
from numpy.typing import NDArray

from ..errors import NotConverged, closest
from .fits import Problem, names_of

__all__ = ["Comparison", "LikelihoodRatio", "Minimum", "Ordering"]

Ordering = Literal["two-sided", "one-sided"]
Limits = tuple[float | None, float | None]

_TOLERANCE = 1e-5  # of -2 log L at a minimum: a 300th of a sigma
_SLACK = 1e-3  # a t more negative than this is a failed fit, not a matter of tolerance


@dataclass(frozen=True)
class Minimum:
    """The least -2 log L, where it is, and the parameters' errors from the Hessian where they were asked for."""

    value: float
    values: dict[str, float]
    errors: dict[str, float] = field(default_factory=dict)


@dataclass(frozen=True)
class Comparison:
    """A test statistic, with the fit at fixed parameters of interest and the global one."""

    t: float
    fixed: Minimum
    best: Minimum


@dataclass(frozen=True, kw_only=True, eq=False)
class LikelihoodRatio:
    """The test statistic t(theta, cost) of parameters of interest, all others profiled.

    Parameters
    ----------
    interest:
        The parameters of interest.
    ordering:
        "two-sided" (Feldman-Cousins), or "one-sided" (q~ of upper limits, for one parameter of interest).
    limits:
        (lower, upper) of parameters, None for none, within those that the cost itself has.
    periodic:
        (lower, upper) of parameters whose two ends are the same point.
    discrete:
        The values that a parameter can have.
    starts:
        More points from which the global fit is to start, where there are several minima (an octant, say): named
        parameters, the others as in the first start.
    metric:
        The inverse covariance (T, T) of all parameters in data like these, with which fits take few steps; see
        `prepared`.

    Examples
    --------
    >>> from nuinfer.likelihood import Normal
    >>> statistic = LikelihoodRatio(interest=("mu",), limits={"mu": (0.0, None)})
    >>> round(statistic({"mu": 2.0}, Normal("mu", -1.0)), 3)  # 9 of the value -1 itself, less 1 of the best, 0
    8.0

    Raises
    ------
    ValueError
        for no parameters of interest, periodic ones with limits, or one-sided ordering of several.
    """

    interest: tuple[str, ...]
    ordering: Ordering = "two-sided"
    limits: Mapping[str, Limits] = field(default_factory=dict)
    periodic: Mapping[str, tuple[float, float]] = field(default_factory=dict)
    discrete: Mapping[str, Sequence[float]] = field(default_factory=dict)
    starts: Sequence[Mapping[str, float]] = ()
    metric: NDArray[np.float64] | None = None

    def __post_init__(self) -> None:
        object.__setattr__(self, "interest", tuple(self.interest))
        if not self.interest or len(set(self.interest)) < len(self.interest):
            raise ValueError(f"expected different parameters of interest, at least one, found {self.interest}")
        if self.ordering not in ("two-sided", "one-sided"):
            raise ValueError(f"ordering: expected 'two-sided' or 'one-sided', found {self.ordering!r}")
        first = self.interest[0]
        if self.ordering == "one-sided" and (len(self.interest) > 1 or first in {**self.periodic, **self.discrete}):
            raise ValueError(f"ordering: 'one-sided' is for one parameter that is neither periodic nor discrete, found "
                             f"{', '.join(self.interest)}; use 'two-sided'")  # fmt: skip
        for name, (low, high) in self.periodic.items():
            if not low < high or name in self.limits:
                raise ValueError(f"periodic {name!r}: expected lower < upper and no limits, found {(low, high)}")
        for name, values in self.discrete.items():
            if not len(values):
                raise ValueError(f"discrete {name!r}: expected at least one value, found none")

    def check(self, cost: Cost) -> None:
        """Raise ``KeyError`` with the closest names where an option names a parameter that the cost has not."""
        names = names_of(cost)
        started = [name for start in self.starts for name in start]
        for name in (*self.interest, *self.limits, *self.periodic, *self.discrete, *started):
            if name not in names:
                raise KeyError(f"no parameter {name!r}; {closest(name, names)}")

    def __call__(self, theta: Mapping[str, float], cost: Cost) -> float:
        """t at the parameters of interest in theta; its other values are where the fits start.

        Raises
        ------
        NotConverged, NegativeDensity
            where no start of a fit succeeds.
        """
        return self.tested(theta, cost).t

    def tested(self, theta: Mapping[str, float], cost: Cost, *, errors: bool = False) -> Comparison:
        """`__call__` with the two fits, the global one with its errors if asked for."""
        fixed = self.profiled(theta, cost)
        best = self.best(fixed.values, cost, errors=errors)
        t = fixed.value - best.value
        if t < -_SLACK:
            raise NotConverged(f"the global fit ended {-t:.3g} above the one at fixed {', '.join(self.interest)}; give "
                               f"it more starts")  # fmt: skip
        above = self.ordering == "one-sided" and best.values[self.interest[0]] > theta[self.interest[0]]
        return Comparison(0.0 if above else max(t, 0.0), fixed, best)

    def profiled(self, theta: Mapping[str, float], cost: Cost) -> Minimum:
        """The minimum at the parameters of interest in theta, over all others."""
        return self._least(cost, theta, {name: float(theta[name]) for name in self.interest}, False)

    def best(self, theta: Mapping[str, float], cost: Cost, *, errors: bool = False) -> Minimum:
        """The global minimum, sought from theta."""
        return self._least(cost, theta, {}, errors)

    def prepared(
        self, cost: Cost, start: Mapping[str, float] | None = None
    ) -> tuple[LikelihoodRatio, dict[str, float]]:
        """The same with the metric of these data, and their best fit."""
        problem = self._problem(cost)
        found = problem.best(start)
        near = replace(self, metric=problem.metric(found))
        return near, near.best(found.values, cost).values

    def _problem(self, cost: Cost) -> Problem:
        return Problem(cost, limits=self.limits, discrete=self.discrete, periodic=self.periodic)

    def _least(self, cost: Cost, theta: Mapping[str, float], fixed: dict[str, float], errors: bool) -> Minimum:
        problem = self._problem(cost)
        # of prepared statistics the fit of the data has warned: a warning from each of many toys would be a flood
        grade = logging.WARNING if self.metric is None else logging.DEBUG
        found = problem.each(
            self._branches(problem, theta, fixed), lambda held, start: self._minimum(problem, start, held), grade=grade
        )
        least = min(found, key=lambda minimum: minimum.value)
        return replace(least, errors=self._errors(problem, least.values, fixed)) if errors else least

    def _branches(
        self, problem: Problem, theta: Mapping[str, float], fixed: dict[str, float]
    ) -> Iterator[tuple[dict[str, float], dict[str, float]]]:
        """What to hold and where to start: the quarters of circles, theta, and the user's own starts."""
        branches = problem.branches(fixed)
        yield from (({**fixed, **held}, {**theta, **turn}) for held, turn in branches if turn)
        for values in dict.fromkeys(tuple(held.items()) for held, _ in branches):
            held = {**fixed, **dict(values)}
            yield held, dict(theta)
            for more in self.starts:
                if any(name not in held for name in more):
                    yield held, {**theta, **more}

    def _minimum(self, problem: Problem, start: Mapping[str, float], held: Mapping[str, float]) -> Minimum:
        at = {name: held.get(name, start[name]) for name in problem.names}
        metric = np.diag(problem.steps(at) ** -2.0) if self.metric is None else self.metric
        found = problem.minimum(at, fixed=held, metric=metric, tolerance=_TOLERANCE)
        return Minimum(float(found.value), dict(found.values))

    def _errors(self, problem: Problem, values: Mapping[str, float], fixed: Mapping[str, float]) -> dict[str, float]:
        """Standard deviations of what is free."""
        widths = problem.steps(values) if self.metric is None else problem.widths(self.metric)
        return _errors(problem, values, [*fixed, *problem.discrete], widths)

    def to_json(self) -> dict[str, Any]:
        """The form in which results save it."""
        return {
            "interest": list(self.interest), "ordering": self.ordering,
            "limits": {name: list(pair) for name, pair in self.limits.items()},
            "periodic": {name: list(pair) for name, pair in self.periodic.items()},
            "discrete": {name: [float(v) for v in values] for name, values in self.discrete.items()},
            "starts": [dict(start) for start in self.starts],
        }  # fmt: skip

    @classmethod
    def from_json(cls, spec: Mapping[str, Any]) -> LikelihoodRatio:
        """The inverse of `to_json`."""
        return cls(
            interest=tuple(spec["interest"]), ordering=spec["ordering"],
            limits={name: (pair[0], pair[1]) for name, pair in spec["limits"].items()},
            periodic={name: (pair[0], pair[1]) for name, pair in spec["periodic"].items()},
            discrete=spec["discrete"], starts=spec["starts"],
        )  # fmt: skip


def check_same(found: LikelihoodRatio | None, tested: LikelihoodRatio | None, what: str) -> None:
    """Refuse critical values ``found`` of another statistic than that of the toys; None is one of the user's own.

    Raises
    ------
    ValueError
        which names the options that differ.
    """
    if (found is None) != (tested is None):
        own, ratio = ("critical values", "toys") if found is None else ("toys", "critical values")
        raise ValueError(f"{what}: the {own} are of a statistic of your own, the {ratio} of a likelihood ratio; take "
                         f"both from one, or `local_coverage` with toys of `throw_toys(..., statistic=)`")  # fmt: skip
    if found is None or tested is None:
        return
    one, other = _options(found), _options(tested)
    differ = [name for name in one if one[name] != other[name]]
    if differ:
        said = "; ".join(f"{name} {one[name]} and {other[name]}" for name in differ)
        raise ValueError(f"{what}: expected critical values of the statistic that the toys have, found different "
                         f"{said}; pass the same options to both")  # fmt: skip


def _options(test: LikelihoodRatio) -> dict[str, Any]:
    """`LikelihoodRatio.to_json` with parameters in order, and no limit in one form."""
    spec = test.to_json()
    ends = {name: [None if v is None or math.isinf(v) else v for v in pair] for name, pair in spec["limits"].items()}
    limits = {name: pair for name, pair in ends.items() if pair != [None, None]}
    return {**spec, "interest": sorted(spec["interest"]), "limits": limits}


def _errors(
    problem: Problem, values: Mapping[str, float], held: Sequence[str], widths: NDArray[np.float64]
) -> dict[str, float]:
    """Standard deviations of the free parameters from differences of gradients; NaN where a limit is in the way."""
    steps = dict(zip(problem.names, (0.02 * widths).tolist(), strict=True))
    room = {n: problem.limits[n][0] <= values[n] - steps[n] and values[n] + steps[n] <= problem.limits[n][1]
            for n in problem.names}  # fmt: skip
    free = [n for n in problem.names if n not in held and room[n]]
    at = [problem.names.index(n) for n in free]
    hessian = np.empty((len(free), len(free)))
    for i, name in enumerate(free):
        up, down = ({**values, name: values[name] + sign * steps[name]} for sign in (1, -1))
        ends = [np.asarray(problem.cost.grad(*(v[n] for n in problem.names)))[at] for v in (up, down)]
        hessian[i] = (ends[0] - ends[1]) / (2 * steps[name])
    try:
        covariance = 2 * np.linalg.inv((hessian + hessian.T) / 2)
    except np.linalg.LinAlgError:
        return {}
    with np.errstate(invalid="ignore"):  # a saddle has no width
        return dict(zip(free, np.sqrt(np.diag(covariance)).tolist(), strict=True))
