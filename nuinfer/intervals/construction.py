r"""The Neyman construction by pseudo-experiments: intervals that cover where no asymptotic formula holds.

At each point :math:`\mu` of a grid over the parameters of interest, toys are drawn, data and global observables both,
with the nuisances :math:`\hat{\hat\alpha}(\mu)` that the observed data prefer there (the profile construction) or given
ones.  Each is fitted twice, for the test statistic t (`LikelihoodRatio`).  The critical value of n toys is an order
statistic,

.. math:: c(\mu) = t_{(k)}, \quad k = \lceil \mathrm{cl}\,(n+1) \rceil, \qquad
          p(\mu) = \frac{1 + \#\{t_i \ge t_\text{obs}\}}{n + 1},

so that :math:`t_\text{obs} \le c` just where :math:`p > 1 - \mathrm{cl}`, and the probability of :math:`t \le c` over
toys and data together is at least cl for every n.  The set of accepted points covers at the points and nuisances of the
toys; `coverage` looks elsewhere.

What to use when: the profile's crossing of a chi2 quantile where counts are large and the parameters far from their
limits; `neyman` for small counts, physical limits, periodic and discrete parameters; `learn_critical_values` where the
critical values depend on the nuisances, or there are too many points for toys at each.

Sources: Neyman, Phil. Trans. A 236 (1937) 333; Feldman, Cousins, arXiv physics/9711021; for the nuisances Chuang, Lai,
Statistica Sinica 10 (2000) 1; for the p-value Davison, Hinkley, Bootstrap methods and their application, section 4.2.
"""

from __future__ import annotations

import itertools
import math
import os
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Executor
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

import numpy as np
from iminuit.cost import Cost
from numpy.typing import ArrayLike, NDArray

from .. import store
from ..errors import check_finite, closest
from ..likelihood.costs import named
from .fits import Problem, names_of
from .likelihood_ratio import LikelihoodRatio, Limits, Ordering
from .scans import level
from .toys import Estimate, Statistic, Toy, asymptotic, fraction, rows_of, throw, try_sampling

__all__ = ["Neyman", "neyman"]

Floats = NDArray[np.float64]
Bools = NDArray[np.bool_]
Nuisances = Literal["profiled"] | Mapping[str, float] | Callable[[Mapping[str, float]], Mapping[str, float]]
_Path = str | os.PathLike[str]

_TIE = 1e-7  # two fits of the same outcome may differ by so much: for counts, ties have probability


class Quantile(NamedTuple):
    """Critical values with the 68% interval of their sampling error, from the order statistics of the toys."""

    value: Floats
    low: Floats
    high: Floats


@dataclass(frozen=True, eq=False)
class Neyman:
    """A Neyman construction on P points of a grid, T toys at each; made by `neyman`.

    Attributes
    ----------
    grid:
        The axes: values by parameter of interest; points are their product, the last axis running fastest.
    truths:
        (P,) by parameter: what the toys of each point were drawn at.
    observed:
        t of the data (P,).
    toys:
        t of the toys (P, T); infinite for a toy whose fit failed, which can only widen the intervals.
    best:
        (P, T, K): the toys' best fits of the parameters of interest; NaN for a statistic of the user's own.
    best_fit:
        The best fit of the data, by parameter.
    statistic:
        The `LikelihoodRatio`, None for the user's own.
    bounds:
        The limits of the parameters of interest, by name.
    """

    grid: dict[str, Floats]
    truths: dict[str, Floats]
    observed: Floats
    toys: Floats
    best: Floats
    best_fit: dict[str, float]
    statistic: LikelihoodRatio | None
    bounds: dict[str, tuple[float, float]]

    @property
    def interest(self) -> tuple[str, ...]:
        """The parameters of interest."""
        return tuple(self.grid)

    @property
    def shape(self) -> tuple[int, ...]:
        """The lengths of the axes, for ``reshape``."""
        return tuple(len(axis) for axis in self.grid.values())

    @property
    def failed(self) -> NDArray[np.int64]:
        """Toys whose fit failed (P,)."""
        return np.asarray(np.isinf(self.toys).sum(1))

    def critical(self, cl: float) -> Quantile:
        """The critical values (P,) at a confidence level.

        Raises
        ------
        ValueError
            for cl outside (0, 1), or too few toys for it.
        """
        count = self.toys.shape[1]
        ranks = _ranks(cl, count)
        ordered = np.sort(self.toys, axis=1)
        return Quantile(*(ordered[:, rank - 1] for rank in ranks))

    def at(self, theta: Mapping[str, float], cl: float) -> float:
        """The critical value at parameters of interest inside the grid, linear between its points.

        Next to a point with too many failed toys for a critical value it is infinite.
        """
        place = [named(theta, name) for name in self.grid]
        for name, value in zip(self.grid, place, strict=True):
            axis = self.grid[name]
            if not axis[0] <= value <= axis[-1]:
                raise ValueError(f"{name}: expected a value on the grid, from {axis[0]:g} to {axis[-1]:g}, found "
                                 f"{value:g}")  # fmt: skip
        table = self.critical(cl).value.reshape(self.shape)
        ends = [_neighbours(axis, value) for axis, value in zip(self.grid.values(), place, strict=True)]
        corners = [zip(*corner, strict=True) for corner in itertools.product(*ends)]
        return float(sum(math.prod(shares) * table[at] for at, shares in corners))

    def p_values(self) -> Estimate:
        """The p-value of the data at each point (P,), with its binomial error."""
        count = self.toys.shape[1]
        above = (self.toys >= _lowered(self.observed)[:, None]).sum(1)
        p = (1 + above) / (count + 1)
        return Estimate(p, np.sqrt(p * (1 - p) / (count + 1)))

    def accepted(self, cl: float) -> Bools:
        """The points (P,) of the confidence set, t <= c: where p > 1 - cl."""
        return np.asarray(_lowered(self.observed) <= self.critical(cl).value)

    def interval(self, cl: float) -> Floats:
        """The confidence set of one parameter as intervals (n, 2), from low to high; there may be several, or none.

        Between points t - c is taken as linear.  A set that reaches the end of the grid ends there if that is the
        parameter's limit, and at infinity otherwise.  Where the grid goes all around a circle, a set across its two
        ends is one interval, whose upper end is one period higher.  For a discrete parameter the accepted values v are
        (v, v).

        Raises
        ------
        ValueError
            for two parameters of interest: see `accepted`.
        """
        name = self._one()
        axis, excess = self.grid[name], _lowered(self.observed) - self.critical(cl).value
        return parts_of(axis, excess, name, self.statistic, self.bounds[name])

    def belt(self, cl: float) -> Floats:
        """The confidence belt (P, 2): the range of best fits of one parameter among the accepted toys of each point."""
        self._one()
        if np.isnan(self.best).any(axis=(1, 2)).all():
            raise ValueError("belt: expected best fits of the toys, which a statistic of your own does not have")
        kept = (self.toys <= self.critical(cl).value[:, None]) & np.isfinite(self.best[..., 0])
        low = np.where(kept, self.best[..., 0], np.inf).min(1)
        return np.stack([low, np.where(kept, self.best[..., 0], -np.inf).max(1)], 1)

    def coverage(self, cl: float) -> Estimate:
        """How often the *asymptotic* interval, t <= the chi2 quantile, covers each point (P,), with binomial errors."""
        limit = asymptotic(cl, len(self.grid), self.statistic.ordering if self.statistic else "two-sided")
        return fraction(self.toys <= limit)

    def _one(self) -> str:
        if len(self.grid) != 1:
            raise ValueError(f"expected one parameter of interest, found {', '.join(self.grid)}; accepted(cl)."
                             f"reshape(shape) is the region of several")  # fmt: skip
        return self.interest[0]

    def __repr__(self) -> str:
        size = " x ".join(map(str, self.shape))
        kind = self.statistic.ordering if self.statistic else "own statistic"
        lost = int(self.failed.sum())
        return (f"Neyman({', '.join(self.grid)}: {size} points, {self.toys.shape[1]} toys each, {kind}; {lost} of "
                f"{self.toys.size} toys without a fit)")  # fmt: skip

    # -- files ---------------------------------------------------------------------------------------------------------

    def save(self, path: _Path) -> None:
        """Write everything to one file; a statistic of the user's own is not kept."""
        spec = {
            "interest": list(self.grid), "parameters": list(self.truths), "best_fit": self.best_fit,
            "statistic": self.statistic.to_json() if self.statistic else None,
        }  # fmt: skip
        arrays = {"observed": self.observed, "toys": self.toys, "best": self.best}
        arrays |= {"bounds": np.array([self.bounds[name] for name in self.grid])}
        arrays |= {f"grid.{name}": axis for name, axis in self.grid.items()}
        store.save(path, "neyman", spec, arrays | {f"truths.{name}": v for name, v in self.truths.items()})

    @classmethod
    def load(cls, path: _Path) -> Neyman:
        """Read what `save` wrote."""
        spec, arrays = store.load(path, "neyman")
        pairs = zip(spec["interest"], arrays["bounds"].tolist(), strict=True)
        return cls(
            {name: arrays[f"grid.{name}"] for name in spec["interest"]},
            {name: arrays[f"truths.{name}"] for name in spec["parameters"]},
            arrays["observed"], arrays["toys"], arrays["best"], spec["best_fit"],
            LikelihoodRatio.from_json(spec["statistic"]) if spec["statistic"] else None,
            {name: (low, high) for name, (low, high) in pairs},
        )  # fmt: skip


def neyman(
    cost: Cost,
    grid: Mapping[str, ArrayLike],
    *,
    toys: int,
    seed: int,
    nuisances: Nuisances = "profiled",
    cls: Sequence[float] = (0.68, 0.95),
    ordering: Ordering = "two-sided",
    statistic: Statistic | None = None,
    limits: Mapping[str, Limits] | None = None,
    periodic: Mapping[str, tuple[float, float]] | None = None,
    discrete: Mapping[str, Sequence[float]] | None = None,
    starts: Sequence[Mapping[str, float]] = (),
    start: Mapping[str, float] | None = None,
    most_failed: float = 0.01,
    executor: Executor | None = None,
    checkpoint: _Path | None = None,
    chunk: int | None = None,
    progress: bool = True,
) -> Neyman:
    """Critical values, p-values and confidence sets by pseudo-experiments.

    Parameters
    ----------
    cost:
        Data and model: any sum of costs of `nuinfer.likelihood` that can draw data (mixtures with ``generate=``).
    grid:
        Values of one or more parameters of interest, rising; the points are their product.
    toys:
        Pseudo-experiments at each point.
    seed:
        Toy i has random numbers of its own, whatever the executor.
    nuisances:
        Where the toys are drawn: "profiled" at the nuisances that the data prefer at each point, values by name, or a
        function of a point's parameters of interest that gives them.
    cls:
        Confidence levels that the toys have to serve; others can be asked for later.
    ordering, limits, periodic, discrete, starts:
        See `LikelihoodRatio`.
    statistic:
        ``statistic(theta, cost)`` in the place of the likelihood ratio: large where the cost's data disagree with the
        parameters of interest in theta, which also holds the nuisances of the toys.
    start:
        Where the fit of the data starts.
    most_failed:
        The fraction of toys, of all, whose fit may fail.  They are counted, and taken as t = infinity.
    executor, checkpoint, chunk, progress:
        See `nuinfer.tasks.run`.

    Raises
    ------
    KeyError
        for parameters that the cost has not (the closest are named), nuisances without a value.
    ValueError
        for a grid outside the limits, or fewer toys than the confidence levels need.
    TypeError
        for costs that cannot draw data.
    NotConverged
        where a fit of the data fails, or those of more than ``most_failed`` of the toys.

    Examples
    --------
    A Gaussian with its mean not below 0, one value seen at 0.  Feldman and Cousins have 1.64 as its upper limit at 90%.

    >>> import nuinfer as nu
    >>> built = neyman(nu.likelihood.Normal("mu", 0.0), {"mu": [0.0, 1.0, 2.2]}, limits={"mu": (0.0, None)},
    ...                toys=100, cls=(0.9,), seed=1, progress=False)
    >>> built
    Neyman(mu: 3 points, 100 toys each, two-sided; 0 of 300 toys without a fit)
    >>> built.accepted(0.9).tolist()
    [True, True, False]
    """
    if not grid:
        raise ValueError("grid: expected at least one parameter of interest, found none")
    test = _statistic(statistic, tuple(grid), ordering, limits, periodic, discrete, starts)
    axes, bounds = _checked_grid(cost, grid, test, dict(limits or {}))
    for cl in cls:
        _ranks(cl, toys)
    fitter = test if isinstance(test, LikelihoodRatio) else LikelihoodRatio(
        interest=tuple(grid), limits=limits or {}, periodic=periodic or {}, discrete=discrete or {})  # fmt: skip
    fitter.check(cost)
    fitter, best = fitter.prepared(cost, start)
    test = fitter if isinstance(test, LikelihoodRatio) else test
    truths = _truths(cost, axes, nuisances, fitter, best)
    observed = np.array([test(truth, cost) for truth in truths], np.float64)
    check_finite("test statistic of the data", observed)
    trial = try_sampling(cost, truths[-1], seed)
    thrown = throw(
        Toy(cost, names_of(cost), test, tuple(grid)), np.repeat(rows_of(cost, truths), toys, 0), trial, seed=seed,
        executor=executor, checkpoint=checkpoint, chunk=chunk, name="neyman", most_failed=most_failed,
        progress=progress,
    )  # fmt: skip
    shape = (len(truths), toys)
    return Neyman(
        axes, {name: np.array([truth[name] for truth in truths]) for name in names_of(cost)}, observed,
        thrown["t"].reshape(shape), thrown["best"].reshape(*shape, -1), best,
        test if isinstance(test, LikelihoodRatio) else None, bounds,
    )  # fmt: skip


# -- arguments ---------------------------------------------------------------------------------------------------------


def _statistic(
    own: Statistic | None,
    interest: tuple[str, ...],
    ordering: Ordering,
    limits: Mapping[str, Limits] | None,
    periodic: Mapping[str, tuple[float, float]] | None,
    discrete: Mapping[str, Sequence[float]] | None,
    starts: Sequence[Mapping[str, float]],
) -> LikelihoodRatio | Statistic:
    if own is not None and (ordering != "two-sided" or starts):
        raise ValueError("statistic: ordering and starts belong to the likelihood ratio; build them into your own")
    if own is not None:
        return own
    return LikelihoodRatio(interest=interest, ordering=ordering, limits=limits or {}, periodic=periodic or {},
                           discrete=discrete or {}, starts=tuple(starts))  # fmt: skip


def _checked_grid(
    cost: Cost, grid: Mapping[str, ArrayLike], test: Any, limits: dict[str, Limits]
) -> tuple[dict[str, Floats], dict[str, tuple[float, float]]]:
    names = names_of(cost)
    for name in (*grid, *limits):
        if name not in names:
            raise KeyError(f"no parameter {name!r}; {closest(name, names)}")
    bounds, axes = Problem(cost, limits=limits).limits, {}
    for name, values in grid.items():
        axis = np.array(values, np.float64)
        if axis.ndim != 1 or not len(axis) or (np.diff(axis) <= 0).any():
            raise ValueError(f"grid {name!r}: expected rising values (n,), found an array {axis.shape}: {axis}")
        check_finite(f"grid {name!r}", axis)
        check_within(name, axis, bounds[name])
        axes[name] = axis
        _check_special(name, axis, test)
    return axes, {name: bounds[name] for name in axes}


def check_within(name: str, axis: Floats, limits: tuple[float, float]) -> None:
    """Refuse a grid beyond the limits."""
    low, high = limits
    if axis[0] < low or axis[-1] > high:
        raise ValueError(f"grid {name!r}: expected values within the limits {low:g} to {high:g}, found {axis[0]:g} to "
                         f"{axis[-1]:g}")  # fmt: skip


def _check_special(name: str, axis: Floats, test: Any) -> None:
    if not isinstance(test, LikelihoodRatio):
        return
    allowed = test.discrete.get(name)
    if allowed is not None and not np.isin(axis, np.asarray(allowed, np.float64)).all():
        raise ValueError(f"grid {name!r}: expected some of the discrete values {list(allowed)}, found {axis.tolist()}")
    low, high = test.periodic.get(name, (-math.inf, math.inf))
    if axis[0] < low or axis[-1] > high:
        raise ValueError(f"grid {name!r}: expected values within one period, {low:g} to {high:g}, found {axis[0]:g} to "
                         f"{axis[-1]:g}")  # fmt: skip


def _ranks(cl: float, count: int) -> tuple[int, int, int]:
    """The rank of the critical value among the toys, and those of its 68% interval."""
    level(cl)
    if isinstance(count, bool) or not isinstance(count, int | np.integer):
        raise TypeError(f"toys: expected a whole number, found {count!r}")
    rank, spread = _rank(cl, int(count)), math.sqrt(count * cl * (1 - cl))
    if rank + spread > count:
        raise ValueError(f"toys: expected at least {_least(cl)} for a critical value at {cl:g} and its error, found "
                         f"{count}")  # fmt: skip
    return rank, max(int(rank - spread), 1), min(math.ceil(rank + spread), int(count))


def _rank(cl: float, count: int) -> int:
    return math.ceil(cl * (count + 1) - 1e-9)  # 0.9 x 10 is 9, however it is rounded


def _least(cl: float) -> int:
    """The fewest toys for which the upper end of the critical value's error is still one of them."""
    count = max(int(cl / (1 - cl)), 1)
    while _rank(cl, count) + math.sqrt(count * cl * (1 - cl)) > count:
        count += 1
    return count


def _lowered(t: Floats) -> Floats:
    return np.asarray(t - _TIE * np.maximum(np.abs(t), 1.0))


# -- where the toys are drawn ------------------------------------------------------------------------------------------


def _truths(
    cost: Cost, axes: dict[str, Floats], nuisances: Nuisances, fitter: LikelihoodRatio, best: dict[str, float]
) -> list[dict[str, float]]:
    """All parameters at each point."""
    points = np.stack(np.meshgrid(*axes.values(), indexing="ij"), -1).reshape(-1, len(axes))
    found, near = [], best
    for row in points:
        point = dict(zip(axes, row.tolist(), strict=True))
        if nuisances == "profiled":
            near = fitter.profiled({**near, **point}, cost).values
            found.append({**near, **point})
        else:
            given = nuisances(point) if callable(nuisances) else nuisances
            found.append(_completed(cost, point, given))
    return found


def _completed(cost: Cost, point: dict[str, float], given: Any) -> dict[str, float]:
    names = names_of(cost)
    if not isinstance(given, Mapping):
        raise TypeError(f"nuisances: expected 'profiled', values by name or a function of them, found {given!r}")
    for name in given:
        if name not in names:
            raise KeyError(f"nuisances: no parameter {name!r}; {closest(name, names)}")
    return {name: point[name] if name in point else named(given, name) for name in names}


# -- one axis ----------------------------------------------------------------------------------------------------------


def _neighbours(axis: Floats, value: float) -> list[tuple[int, float]]:
    """The points about a value with their shares, those without a share left out: 0 times infinity is not a number."""
    if len(axis) == 1:
        return [(0, 1.0)]
    low = min(int(np.searchsorted(axis, value, side="right")) - 1, len(axis) - 2)
    share = float((value - axis[low]) / (axis[low + 1] - axis[low]))
    return [(i, weight) for i, weight in ((low, 1 - share), (low + 1, share)) if weight > 0]


def parts_of(
    axis: Floats, excess: Floats, name: str, statistic: LikelihoodRatio | None, bounds: tuple[float, float]
) -> Floats:  # fmt: skip
    """Where ``excess`` (n,), t - c, is not above 0, as intervals (m, 2): see `Neyman.interval`."""
    if statistic is not None and name in statistic.discrete:
        kept = axis[excess <= 0]
        return np.stack([kept, kept], 1)
    found = segments(axis, excess)
    if statistic is not None and name in statistic.periodic:
        return _joined(found, axis, statistic.periodic[name])
    low, high = bounds
    found[found[:, 0] == axis[0], 0] = axis[0] if axis[0] == low else -math.inf
    found[found[:, 1] == axis[-1], 1] = axis[-1] if axis[-1] == high else math.inf
    return found


def segments(axis: Floats, excess: Floats) -> Floats:
    """Where ``excess`` (n,) <= 0 between points of ``axis`` (n,), as intervals (m, 2) of linear crossings."""
    inside = np.concatenate([[False], excess <= 0, [False]])
    first = np.flatnonzero(inside[1:] & ~inside[:-1])
    last = np.flatnonzero(inside[:-1] & ~inside[1:]) - 1
    ends = [(_crossing(axis, excess, a, a - 1), _crossing(axis, excess, b, b + 1))
            for a, b in zip(first.tolist(), last.tolist(), strict=True)]  # fmt: skip
    return np.array(ends, np.float64).reshape(-1, 2)


def _crossing(axis: Floats, excess: Floats, inner: int, outer: int) -> float:
    if not 0 <= outer < len(axis):
        return float(axis[inner])
    if not np.isfinite(excess[inner]):
        return float(axis[outer])  # every toy failed there: all that can be said is that it may belong
    share = -excess[inner] / (excess[outer] - excess[inner])
    return float(axis[inner] + share * (axis[outer] - axis[inner]))


def _joined(found: Floats, axis: Floats, period: tuple[float, float]) -> Floats:
    """Intervals on a circle: one that ends where the circle closes goes on at its start."""
    length = period[1] - period[0]
    gap = length - (axis[-1] - axis[0])
    closed = len(axis) > 1 and gap <= 1.5 * float(np.diff(axis).max())
    if not closed or not len(found) or found[0, 0] != axis[0] or found[-1, 1] != axis[-1]:
        return found
    if len(found) == 1:
        return np.array([[period[0], period[1]]])
    across = [found[-1, 0], found[0, 1] + length]
    return np.concatenate([found[1:-1], [across]])
