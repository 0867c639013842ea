r"""Significances, limits and intervals from the likelihood ratio in large samples, without toys.

With :math:`t_\mu = -2\log\lambda(\mu)` profiled, :math:`\hat\mu` kept from the boundary :math:`\mu_0` (0) on, and
:math:`q_A(\mu) = (\mu - \mu_0)^2/\sigma^2` the value of :math:`t_\mu` on the Asimov data of :math:`\mu_0`,

- discovery: :math:`q_0 = t_{\mu_0}` where :math:`\hat\mu > \mu_0`, else 0; :math:`Z = \sqrt{q_0}` and
  :math:`p = 1 - \Phi(Z)`,
- upper limits: :math:`\tilde q_\mu = t_\mu` where :math:`\hat\mu \le \mu`, else 0; with
  :math:`z = \sqrt{\tilde q} - \sqrt{q_A}` for :math:`\tilde q \le q_A`, else :math:`(\tilde q - q_A)/2\sqrt{q_A}`,

  .. math:: CL_{s+b} = 1 - \Phi(z + \sqrt{q_A}), \quad CL_b = 1 - \Phi(z), \quad CL_s = CL_{s+b}/CL_b,

- intervals with a boundary: :math:`p_\mu = 2(1 - \Phi(\sqrt{t}))` for :math:`t \le q_A`, else
  :math:`2 - \Phi(\sqrt t) - \Phi\big((t + q_A)/2\sqrt{q_A}\big)`, which goes over from two-sided to upper limits by
  itself.

The Asimov data of a mixture are its weighted reference, so that nothing is binned; their nuisances are those that fit
the data best at :math:`\mu_0`.  Few events, or more than one boundary, need toys (`nuinfer.intervals.neyman`).

Sources: Cowan, Cranmer, Gross, Vitells, arXiv 1007.1727, sections 2 to 4; Read, J. Phys. G 28 (2002) 2693.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Literal

import numpy as np
from iminuit.cost import Cost
from numpy.typing import ArrayLike, NDArray
from scipy import optimize, stats

from ..errors import NotConverged
from ..likelihood.costs import asimov as asimov_data
from ..records import Record
from .fits import Limits, Point, Problem
from .scans import Scan, level

__all__ = [
    "BoundedInterval",
    "Discovery",
    "LimitCurve",
    "UpperLimit",
    "bounded_interval",
    "discovery",
    "limit_curve",
    "upper_limit",
]

Floats = NDArray[np.float64]
_BANDS = np.array([-2.0, -1.0, 0.0, 1.0, 2.0])


@dataclass(frozen=True, eq=False)
class Discovery(Record):
    """How improbable the data are without a signal.

    Attributes
    ----------
    name, null:
        The parameter and its value without a signal.
    best:
        Its best value.
    q0, z, p:
        The test statistic, the one-sided significance in sigma and the p-value.
    alternative:
        The value that the expectation is for, NaN for none.
    expected:
        (5,), the significance expected there at -2, -1, 0, 1, 2 sigma; the third is the median.
    """

    _KIND = "discovery"

    name: str
    null: float
    best: float
    q0: float
    z: float
    p: float
    alternative: float
    expected: Floats

    def __repr__(self) -> str:
        more = "" if math.isnan(self.alternative) else (
            f"; expected at {self.alternative:g}: Z = {self.expected[2]:.3f}, "
            f"[{self.expected[1]:.3f}, {self.expected[3]:.3f}]")  # fmt: skip
        return (
            f"Discovery({self.name} = {self.best:.5g} against {self.null:g}: Z = {self.z:.3f}, p = {self.p:.3g}{more})"
        )


def discovery(
    cost: Cost,
    name: str,
    *,
    null: float = 0.0,
    alternative: float | None = 1.0,
    start: Mapping[str, float] | None = None,
    fixed: Mapping[str, float] | None = None,
    limits: Limits | None = None,
    tolerance: float = 1e-6,
) -> Discovery:
    """The significance of a signal, observed and expected.

    Parameters
    ----------
    name, null:
        The parameter and its value without a signal, from which it goes up.
    alternative:
        The value to give the expectation for: from the Asimov data with the nuisances that fit the data best there.
        None for no expectation, as costs that cannot make Asimov data need it.
    start, fixed, limits, tolerance:
        As in `fit`.

    Raises
    ------
    KeyError, ValueError, NotConverged, NegativeDensity
        as `fit`; for an alternative that is not above the null.
    TypeError
        for a cost that cannot make Asimov data.

    Examples
    --------
    >>> from nuinfer.likelihood import Normal
    >>> discovery(Normal("mu", 1.2, sigma=0.4), "mu")
    Discovery(mu = 1.2 against 0: Z = 3.000, p = 0.00135; expected at 1: Z = 2.500, [1.500, 3.500])
    """
    if alternative is not None and not alternative > null:
        raise ValueError(f"alternative: expected a value above the null, {null:g}, found {alternative:g}")
    options = _Options(name, null, fixed, limits, tolerance)
    observed = _Tested(cost, options, start)
    q0 = observed.t(null) if observed.best > null else 0.0
    z, expected = math.sqrt(q0), np.full(5, math.nan)
    if alternative is not None:
        there = observed.at(alternative).values
        median = math.sqrt(_Tested(asimov_data(cost, there), options, there).t(null))
        expected = np.maximum(median + _BANDS, 0.0)
    shown = math.nan if alternative is None else float(alternative)
    return Discovery(name, float(null), observed.best, q0, z, float(stats.norm.sf(z)), shown, expected)


@dataclass(frozen=True, eq=False)
class UpperLimit(Record):
    """A limit on a signal.

    Attributes
    ----------
    name, cl, method:
        The parameter, the confidence level, and "cls" or "clsb".
    best:
        The best value.
    observed:
        The limit.
    expected:
        (5,), the limits expected without a signal at -2, -1, 0, 1, 2 sigma; the third is the median.
    """

    _KIND = "upper limit"

    name: str
    cl: float
    method: str
    best: float
    observed: float
    expected: Floats

    def __repr__(self) -> str:
        low, _, median, _, high = self.expected
        expected = f"expected {median:.5g}, 2 sigma [{low:.5g}, {high:.5g}]"
        return f"UpperLimit({self.name} < {self.observed:.5g} at {self.cl:.0%} by {self.method}; {expected})"


def upper_limit(
    cost: Cost,
    name: str,
    *,
    cl: float = 0.95,
    method: Literal["cls", "clsb"] = "cls",
    null: float = 0.0,
    start: Mapping[str, float] | None = None,
    fixed: Mapping[str, float] | None = None,
    limits: Limits | None = None,
    tolerance: float = 1e-6,
) -> UpperLimit:
    """The upper limit on a signal, observed and expected, in large samples.

    Parameters
    ----------
    name, null:
        The parameter and its value without a signal: its lower boundary here, also where ``limits`` allow less.
    cl:
        Confidence level.
    method:
        "cls" divides by the probability without a signal, so that no insensitive experiment excludes; "clsb" does not,
        and excludes everything in one of 1/(1 - cl) experiments without a signal.
    start, fixed, limits, tolerance:
        As in `fit`.

    Raises
    ------
    KeyError, ValueError, NotConverged, NegativeDensity
        as `fit`; for ``cl`` not between 0 and 1, a limit that lies beyond the parameter's own upper limit.
    TypeError
        for a cost that cannot make Asimov data.

    Examples
    --------
    >>> from nuinfer.likelihood import Normal
    >>> upper_limit(Normal("mu", 0.0, sigma=1.0), "mu")
    UpperLimit(mu < 1.96 at 95% by cls; expected 1.96, 2 sigma [1.0518, 3.656])
    """
    _check_limit(cl, method)
    return _limit(_Pair(cost, _Options(name, null, fixed, limits, tolerance), start), cl, method)


def _check_limit(cl: float, method: str) -> None:
    level(cl)
    if method not in ("cls", "clsb"):
        raise ValueError(f"method: expected 'cls' or 'clsb', found {method!r}")


def _limit(pair: _Pair, cl: float, method: str) -> UpperLimit:
    def confidence(x: float) -> float:
        return _confidence(method, pair.root(x), pair.z(x))

    best, null = pair.observed.best, pair.observed.null
    # below the best value q~ is 0 and the confidence above 1/2: only levels below that are crossed there
    observed = pair.crossing(confidence, 1 - cl, best if confidence(best) > 1 - cl else null)
    bands = []
    for n in _BANDS.tolist():
        # without a signal sqrt(q~) - sqrt(q_A) is a standard normal: an excess of n sigma is one of -n
        band = partial(_expected_confidence, method, pair, -n)
        bands.append(pair.crossing(band, 1 - cl, null))
    return UpperLimit(pair.observed.name, cl, method, best, observed, np.array(bands))


def _confidence(method: str, root: float, z: float) -> float:
    """CL_s or CL_s+b for sqrt(q_A) and z."""
    above = float(stats.norm.logsf(z + root))
    # of logarithms: far down both underflow
    return math.exp(above - float(stats.norm.logsf(z)) if method == "cls" else above)


def _expected_confidence(method: str, pair: _Pair, z: float, x: float) -> float:
    """As of data; where the excess is of more than x, q~ is 0 as it is in those."""
    root = pair.root(x)
    return _confidence(method, root, max(z, -root))


@dataclass(frozen=True, eq=False)
class LimitCurve(Record):
    """How far each value of a signal is excluded: CL_s, or CL_s+b, over the parameter.

    Attributes
    ----------
    limit:
        The `UpperLimit`: where the curves are at 1 - cl.
    values:
        (N,), of the parameter, from its value without a signal on.
    observed:
        (N,), the confidence of the data at each value; at that without a signal nothing can be told apart, and it is 1
        for CL_s, 1/2 for CL_s+b.
    expected:
        (N, 5), those of data without a signal with an excess of -2, -1, 0, 1, 2 sigma; the third is the median.  As for
        ``observed``, CL_s+b is 1/2 at values below the excess.
    """

    _KIND = "limit curve"

    limit: UpperLimit
    values: Floats
    observed: Floats
    expected: Floats

    def __repr__(self) -> str:
        return f"LimitCurve({len(self.values)} values from {self.values[0]:g} to {self.values[-1]:.5g}; {self.limit})"


def limit_curve(
    cost: Cost,
    name: str,
    values: ArrayLike | None = None,
    *,
    points: int = 40,
    cl: float = 0.95,
    method: Literal["cls", "clsb"] = "cls",
    null: float = 0.0,
    start: Mapping[str, float] | None = None,
    fixed: Mapping[str, float] | None = None,
    limits: Limits | None = None,
    tolerance: float = 1e-6,
) -> LimitCurve:
    """CL_s over a signal, observed and expected, with the limit that follows.

    Parameters
    ----------
    name, cl, method, null, start, fixed, limits, tolerance:
        As in `upper_limit`.
    values:
        Of the parameter (N,), rising, from ``null`` on; by default ``points`` of them from there to a little beyond the
        largest limit.

    Raises
    ------
    KeyError, ValueError, NotConverged, NegativeDensity, TypeError
        as `upper_limit`; for fewer than two values, or values that do not rise from ``null`` on.

    Examples
    --------
    >>> from nuinfer.likelihood import Normal
    >>> found = limit_curve(Normal("mu", 0.0, sigma=1.0), "mu", [0.0, 1.0, 1.959964])
    >>> found.observed.round(4).tolist()  # 2 (1 - Phi(mu)): half of the experiments without a signal are like this one
    [1.0, 0.3173, 0.05]
    """
    _check_limit(cl, method)
    pair = _Pair(cost, _Options(name, null, fixed, limits, tolerance), start)
    limit = _limit(pair, cl, method)
    grid = _curve_values(values, points, pair, max(limit.observed, float(limit.expected[-1])))
    observed = [_confidence(method, pair.root(x), pair.z(x)) for x in grid.tolist()]
    expected = [[_expected_confidence(method, pair, -n, x) for n in _BANDS.tolist()] for x in grid.tolist()]
    return LimitCurve(limit, grid, np.array(observed), np.array(expected))


def _curve_values(values: ArrayLike | None, points: int, pair: _Pair, largest: float) -> Floats:
    null, high = pair.observed.null, pair.observed.scan.problem.limits[pair.observed.name][1]
    if values is None:
        if points < 2:
            raise ValueError(f"points: expected at least 2, found {points}")
        return np.linspace(null, min(null + 1.1 * (largest - null), high), points)
    grid = np.asarray(values, np.float64)
    if grid.ndim != 1 or len(grid) < 2 or not (np.diff(grid) > 0).all() or not null <= grid[0] <= grid[-1] <= high:
        raise ValueError(f"values: expected at least 2 rising numbers from {null:g} to {high:g}, found "
                         f"{np.array2string(grid, threshold=6, precision=4)}")  # fmt: skip
    return grid


@dataclass(frozen=True, eq=False)
class BoundedInterval(Record):
    """An interval of a parameter with a physical boundary.

    Attributes
    ----------
    name, cl, boundary:
        The parameter, the confidence level and its least value.
    best, low, high:
        The best value and the ends; ``low`` is the boundary where that is not excluded.
    """

    _KIND = "bounded interval"

    name: str
    cl: float
    boundary: float
    best: float
    low: float
    high: float

    def __repr__(self) -> str:
        return (f"BoundedInterval({self.name} = {self.best:.5g}, [{self.low:.5g}, {self.high:.5g}] at {self.cl:.0%}, "
                f"from {self.boundary:g} on)")  # fmt: skip


def bounded_interval(
    cost: Cost,
    name: str,
    *,
    cl: float = 0.95,
    boundary: float = 0.0,
    start: Mapping[str, float] | None = None,
    fixed: Mapping[str, float] | None = None,
    limits: Limits | None = None,
    tolerance: float = 1e-6,
) -> BoundedInterval:
    r"""All values that :math:`\tilde t_\mu` does not exclude: two-sided far from the boundary, an upper limit at it.

    For a normal measurement this is the interval of Feldman and Cousins, exactly.

    Parameters
    ----------
    name, boundary:
        The parameter and its least physical value.
    cl, start, fixed, limits, tolerance:
        As in `upper_limit`.

    Raises
    ------
    KeyError, ValueError, NotConverged, NegativeDensity, TypeError
        as `upper_limit`.

    Examples
    --------
    >>> from nuinfer.likelihood import Normal
    >>> bounded_interval(Normal("mu", 0.5, sigma=1.0), "mu", cl=0.9)  # table X of physics/9711021: 0.00 to 2.14
    BoundedInterval(mu = 0.5, [0, 2.1449] at 90%, from 0 on)
    """
    level(cl)
    pair = _Pair(cost, _Options(name, boundary, fixed, limits, tolerance), start)

    def p(x: float) -> float:
        return _bounded_p(pair.observed.t(x), pair.root(x))

    best, low = pair.observed.best, float(boundary)
    if p(boundary) < 1 - cl:
        low = float(
            optimize.brentq(lambda x: p(x) - (1 - cl), boundary, best, xtol=1e-6 * (best - boundary), rtol=1e-6)
        )
    return BoundedInterval(name, cl, float(boundary), best, low, pair.crossing(p, 1 - cl, best))


def _bounded_p(t: float, root: float) -> float:
    """1 - F of t~ for sqrt(q_A)."""
    if t <= root**2:
        return float(2 * stats.norm.sf(math.sqrt(t)))
    far = math.inf if root == 0 else (t + root**2) / (2 * root)
    return float(stats.norm.sf(math.sqrt(t)) + stats.norm.sf(far))


# -- the test statistics -----------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Options:
    name: str
    null: float
    fixed: Mapping[str, float] | None
    limits: Limits | None
    tolerance: float


class _Tested:
    """t of one data set, the parameter kept from the null on; each value is fitted once, from the nearest one."""

    def __init__(self, cost: Cost, options: _Options, start: Mapping[str, float] | None) -> None:
        self.name, self.null = options.name, float(options.null)
        problem = Problem(cost, limits=options.limits)
        self.scan = Scan(problem, (self.name,), options.fixed, options.tolerance)
        low, high = problem.limits[self.name]
        if not low <= self.null < high:
            raise ValueError(f"{self.name!r}: expected a boundary within its limits, from {low:g} to {high:g}, found "
                             f"{self.null:g}")  # fmt: skip
        problem.limits[self.name] = (self.null, high)
        if start is not None and self.name in start:
            start = {**start, self.name: max(float(start[self.name]), self.null)}
        self.scan.fit_branches(start)
        self.known: dict[float, Point] = {}

    @property
    def best(self) -> float:
        return self.scan.best.values[self.name]

    def at(self, x: float) -> Point:
        if x not in self.known:
            near = min(self.known, key=lambda other: abs(other - x), default=None)
            if near is not None and abs(near - x) > abs(self.best - x):
                near = None
            found = self.scan.at(self.scan.branches[0], {self.name: x}, None if near is None else self.known[near])
            self.known[x] = found
        return self.known[x]

    def t(self, x: float) -> float:
        """-2 log lambda, 0 where rounding would make it negative."""
        return max(self.at(x).value - self.scan.best.minimum, 0.0)


class _Pair:
    """The data and the Asimov data without a signal."""

    def __init__(self, cost: Cost, options: _Options, start: Mapping[str, float] | None) -> None:
        self.observed = _Tested(cost, options, start)
        without = self.observed.at(self.observed.null).values
        self.asimov = _Tested(asimov_data(cost, without), options, without)

    def z(self, x: float) -> float:
        """Z of q~ of the data."""
        if x == self.observed.null:  # q~ and q_A are differences of equal numbers, whose rounding has any ratio
            return 0.0
        q, root = (self.observed.t(x) if self.observed.best <= x else 0.0), self.root(x)
        if q <= root**2 or root == 0:
            return math.sqrt(q) - root
        return (q - root**2) / (2 * root)

    def root(self, x: float) -> float:
        """sqrt(q_A)."""
        return 0.0 if x == self.observed.null else math.sqrt(self.asimov.t(x))

    def crossing(self, falling: Callable[[float], float], threshold: float, low: float) -> float:
        """Where a function that falls from ``low`` on comes to the threshold; ``low`` itself where it is not above."""
        if falling(low) <= threshold:
            return low
        high = self._beyond(falling, threshold, low)
        return float(optimize.brentq(lambda x: falling(x) - threshold, low, high, xtol=1e-6 * (high - low), rtol=1e-6))

    def _beyond(self, falling: Callable[[float], float], threshold: float, low: float) -> float:
        """A place where the function is below the threshold."""
        scan, name = self.observed.scan, self.observed.name
        step, limit, x = scan.first_step(scan.branches[0], name), scan.problem.limits[name][1], low
        for _ in range(40):
            x = min(x + step, limit)
            if falling(x) < threshold:
                return x
            if x == limit:
                raise ValueError(f"{name!r}: no crossing below its upper limit, {limit:g}; raise limits=")
            step *= 2
        raise NotConverged(f"{name!r}: no crossing up to {x:g}; the data do not limit it")
