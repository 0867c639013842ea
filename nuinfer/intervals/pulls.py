r"""Which nuisance parameters matter: pulls, constraints, impacts, and the uncertainty by groups.

For a nuisance of auxiliary centre o and width w, fitted as :math:`\hat\alpha \pm \sigma`:

- pull :math:`(\hat\alpha - o)/w` and constraint :math:`\sigma/w`,
- post-fit impact: how far :math:`\hat\mu` moves when the nuisance is held at :math:`\hat\alpha \pm \sigma`, all others
  fitted again,
- pre-fit impact: the same at :math:`\hat\alpha \pm w`.

A comparison of two models, `TwoPoint`, has no width that anybody measured.  A fit that shrinks it has found that the
data prefer a point on the line between two models, not that the truth is near it, so that its impact is that of the
whole difference: how far :math:`\hat\mu` moves with the nuisance held at 0 (model A) and at 1 (model B).

A group's uncertainty is the quadratic difference between the total and that with the group held at its best values.
Held at the best values nothing moves, so that it follows from the inverse covariance alone.  Groups that are correlated
after the fit do not add up to the total.

Sources: ATLAS, arXiv 2412.01600, section 6; Ghosh, Nachman, arXiv 2109.08159.
"""

from __future__ import annotations

import math
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from iminuit.cost import Cost
from numpy.typing import NDArray

from .. import store
from ..likelihood.constraints import TwoPoint
from .fits import Fit, Limits, Problem, check_names
from .scans import Scan

__all__ = ["Impacts", "impacts"]

Floats = NDArray[np.float64]

_ARRAYS = ("fitted", "errors", "pulls", "constraints", "postfit", "prefit")


@dataclass(frozen=True, eq=False)
class Impacts:
    """Pulls, constraints and impacts of all other parameters on one, the largest impact first.

    Attributes
    ----------
    name, value, error:
        The parameter of interest, its best value and its error from the Hessian.
    parameters:
        (K,), sorted by the size of the impact.
    fitted, errors:
        (K,), at the minimum.
    pulls, constraints:
        (K,), NaN for a free parameter.
    postfit, prefit:
        (K, 2), the shift of ``value`` with the parameter held down and up; for a comparison of two models held at A
        and at B, in both.  ``prefit`` is NaN for a free parameter.
    free:
        The parameters without a constraint.
    two_points:
        The comparisons of two models, with the models' names.
    groups:
        The uncertainty of each group.
    statistical:
        The error with all constrained parameters held.
    """

    name: str
    value: float
    error: float
    parameters: tuple[str, ...]
    fitted: Floats
    errors: Floats
    pulls: Floats
    constraints: Floats
    postfit: Floats
    prefit: Floats
    free: tuple[str, ...]
    two_points: dict[str, tuple[str, str]]
    groups: dict[str, float]
    statistical: float

    @property
    def sizes(self) -> Floats:
        """The larger of the two post-fit shifts (K,)."""
        return np.asarray(np.abs(self.postfit).max(1))

    def report(self) -> str:
        """The table in words, with what may not be concluded from it."""
        rows = [self._row(i) for i in range(len(self.parameters))]
        total = f"{self.name} = {self.value:.5g} +- {self.error:.3g} (statistical {self.statistical:.3g})"
        groups = [f"  group {name}: {value:.3g}" for name, value in self.groups.items()]
        return "\n".join([total, *groups, *rows, *(self._caution(name) for name in self.two_points)])

    def _row(self, i: int) -> str:
        name, (down, up) = self.parameters[i], self.postfit[i]
        if name in self.two_points:
            a, b = self.two_points[name]
            return f"  {name}: two-point comparison, impact {down:+.3g} at {a}, {up:+.3g} at {b}"
        if name in self.free:
            return f"  {name}: free, {self.fitted[i]:.4g} +- {self.errors[i]:.3g}, impact {down:+.3g} {up:+.3g}"
        before = "{:+.3g} {:+.3g}".format(*self.prefit[i])
        return (f"  {name}: pull {self.pulls[i]:+.2f}, constraint {self.constraints[i]:.2f}, impact {down:+.3g} "
                f"{up:+.3g} (pre-fit {before})")  # fmt: skip

    def _caution(self, name: str) -> str:
        i, (a, b) = self.parameters.index(name), self.two_points[name]
        shift = abs(self.postfit[i, 1] - self.postfit[i, 0])
        return (
            f"  {name} compares two models, {a} and {b}: its fitted width, {self.constraints[i]:.2f} of the assumed "
            f"one, is not a reduction of an uncertainty, and the error of {self.name} above contains it as if it "
            f"were. Quote the whole difference, {shift:.3g} (arXiv 2109.08159)."
        )

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write one file; `Impacts.load` reads it."""
        rest = ("name", "value", "error", "parameters", "free", "two_points", "groups", "statistical")
        spec = {name: getattr(self, name) for name in rest}
        store.save(path, "impacts", spec, {name: getattr(self, name) for name in _ARRAYS})

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> Impacts:
        """What `save` wrote.

        Raises
        ------
        FileNotFoundError, CorruptFile, ValueError
            as `nuinfer.store.load`.
        """
        spec, arrays = store.load(path, "impacts")
        pairs = {name: (a, b) for name, (a, b) in spec.pop("two_points").items()}
        names: dict[str, Any] = {key: tuple(spec.pop(key)) for key in ("parameters", "free")}
        return cls(**{**spec, **arrays, **names, "two_points": pairs})

    def __repr__(self) -> str:
        return f"Impacts on {self.report()}"


def impacts(
    cost: Cost,
    name: str,
    *,
    groups: Mapping[str, Sequence[str]] | None = None,
    start: Mapping[str, float] | None = None,
    fixed: Mapping[str, float] | None = None,
    limits: Limits | None = None,
    tolerance: float = 1e-6,
) -> Impacts:
    """Pulls, constraints and impacts on a parameter.

    Parameters
    ----------
    name:
        The parameter of interest.
    groups:
        Names of groups with their parameters, for their parts of the uncertainty.
    start, fixed, limits, tolerance:
        As in `fit`.  A value that an impact asks for is brought inside the limits.  A constraint that holds ``name``
        itself counts as data: it gives the other parameters in it no pull.

    Raises
    ------
    KeyError, ValueError
        for unknown parameters, ``name`` fixed or in a group, a parameter of interest at its limit.
    NotConverged, NegativeDensity
        as `fit`.

    Examples
    --------
    >>> from nuinfer.likelihood import Normal
    >>> measured = Normal(["mu", "a"], [1.0, 0.0], covariance=[[0.25, 0.3], [0.3, 1.0]])
    >>> impacts(measured + Normal("a"), "mu", groups={"theory": ["a"]})
    Impacts on mu = 1 +- 0.453 (statistical 0.4)
      group theory: 0.212
      a: pull +0.00, constraint 0.71, impact -0.212 +0.212 (pre-fit -0.3 +0.3)
    """
    scan = Scan(Problem(cost, limits=limits), (name,), fixed, tolerance)
    scan.fit_branches(start)
    best = scan.best
    if name in best.at_limit:
        raise ValueError(f"impacts on {name!r}: it is at its limit, {best.values[name]:g}, where shifts say nothing; "
                         f"take profile() with and without fixed=")  # fmt: skip
    others = [other for other in best.free if other != name]
    rows = [_row(scan, best, name, other) for other in others]
    rows.sort(key=lambda row: -np.abs(row.postfit).max())
    names = tuple(row.name for row in rows)
    constrained = [other for other in names if auxiliary(scan.problem, other, name)[1] < math.inf]
    models = _two_points(scan.problem)
    return Impacts(
        name=name,
        value=best.values[name],
        error=best.errors[name],
        parameters=names,
        fitted=np.array([best.values[other] for other in names]),
        errors=np.array([best.errors[other] for other in names]),
        pulls=np.array([row.pull for row in rows]),
        constraints=np.array([row.constraint for row in rows]),
        postfit=np.array([row.postfit for row in rows]).reshape(-1, 2),
        prefit=np.array([row.prefit for row in rows]).reshape(-1, 2),
        free=tuple(other for other in names if other not in constrained),
        two_points={other: models[other] for other in names if other in models},
        groups={label: _share(scan, best, name, members) for label, members in (groups or {}).items()},
        statistical=_held(scan, best, name, constrained),
    )


class _Row(NamedTuple):
    """What is found for one parameter; ``postfit`` and ``prefit`` are (2,)."""

    name: str
    pull: float
    constraint: float
    postfit: Floats
    prefit: Floats


def _row(scan: Scan, best: Fit, name: str, other: str) -> _Row:
    value, error = best.values[other], best.errors[other]
    centre, width = auxiliary(scan.problem, other, name)
    known = width < math.inf
    pull, constraint = ((value - centre) / width, error / width) if known else (math.nan, math.nan)
    if other in _two_points(scan.problem):
        both = _shifts(scan, best, name, other, (0.0, 1.0))
        return _Row(other, pull, constraint, both, both)
    postfit = _shifts(scan, best, name, other, (value - error, value + error))
    prefit = _shifts(scan, best, name, other, (value - width, value + width)) if known else np.full(2, math.nan)
    return _Row(other, pull, constraint, postfit, prefit)


def _shifts(scan: Scan, best: Fit, name: str, other: str, ends: tuple[float, float]) -> Floats:
    """How far the parameter of interest moves with another held at two values, inside its limits."""
    held = np.clip(ends, *scan.problem.limits[other]).tolist()
    return np.array([scan.at(scan.branches[0], {other: x}).values[name] - best.values[name] for x in held])


def auxiliary(problem: Problem, name: str, interest: str) -> tuple[float, float]:
    """Centre and width of all constraints on a parameter together; width infinite where there is none.

    A constraint of the parameter of interest itself is a measurement of it, not an auxiliary one of the others.
    """
    known = [c for other, c in problem.constraints if other == name and interest not in c.names]
    found = [(c.centre[name], c.width[name]) for c in known]
    if not found:
        return 0.0, math.inf
    precision = sum(width**-2 for _, width in found)
    return sum(centre * width**-2 for centre, width in found) / precision, precision**-0.5


def _two_points(problem: Problem) -> dict[str, tuple[str, str]]:
    return {name: c.models for name, c in problem.constraints if isinstance(c, TwoPoint)}


def _share(scan: Scan, best: Fit, name: str, members: Sequence[str]) -> float:
    """The quadratic difference between the error and that with the members held."""
    check_names(scan.problem.names, members, "groups")
    if name in members:
        raise ValueError(f"groups: {name!r} is the parameter of interest; leave it out")
    return math.sqrt(max(best.errors[name] ** 2 - _held(scan, best, name, members) ** 2, 0.0))


def _held(scan: Scan, best: Fit, name: str, members: Sequence[str]) -> float:
    """The error of the parameter of interest with the members held at their best values."""
    names = scan.problem.names
    rest = [i for i, other in enumerate(names) if other in best.free and other not in members]
    known = scan.branches[0].metric[np.ix_(rest, rest)]
    return float(math.sqrt(np.linalg.inv(known)[rest.index(names.index(name)), rest.index(names.index(name))]))
