r"""How often intervals contain the truth, by pseudo-experiments at true points.

An interval that inverts a test contains the truth just where :math:`t \le c` at the truth, so that no interval needs
to be built to count it: one test at the truth is enough, for the asymptotic critical values of a profile likelihood and
for those of toys alike.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from concurrent.futures import Executor
from dataclasses import dataclass
from typing import Any, Literal, Protocol

import numpy as np
from iminuit.cost import Cost
from numpy.typing import NDArray

from .. import store
from .fits import names_of
from .likelihood_ratio import LikelihoodRatio, Limits, Ordering, check_same
from .scans import level
from .toys import Estimate, Toy, asymptotic, fraction, rows_of, throw, try_sampling, with_metric

__all__ = ["Coverage", "Critical", "coverage"]

Floats = NDArray[np.float64]

_ARRAYS = (
    "covered", "covered_error", "bias", "bias_error", "pull_mean", "pull_width", "pull_error", "failed",
)  # fmt: skip


class Critical(Protocol):
    """Whatever knows critical values: `Neyman`, `CriticalValues`."""

    def at(self, theta: Mapping[str, float], cl: float) -> Any:
        """The critical value of the test statistic at theta."""


@dataclass(frozen=True, eq=False)
class Coverage:
    """How often intervals contain the truth, at P true points with T toys each; made by `coverage`.

    Attributes
    ----------
    truths:
        (P,) by parameter.
    interest:
        The parameters of interest.
    cls:
        Confidence levels (L,).
    covered:
        The fraction of toys whose interval contains the truth (P, L), and ``covered_error`` its binomial error.
    bias:
        Mean of best fit - truth, and ``bias_error``, each (P, K) for K parameters of interest.
    pull_mean, pull_width:
        Of (best fit - truth) / error (P, K), the error from the Hessian, without the toys that have none (at a limit);
        with ``pull_error``, the error of the width.
    failed:
        (P,): toys whose fit failed; they count as not covered, and are left out of bias and pulls.
    toys:
        T.
    """

    truths: dict[str, Floats]
    interest: tuple[str, ...]
    cls: tuple[float, ...]
    covered: Floats
    covered_error: Floats
    bias: Floats
    bias_error: Floats
    pull_mean: Floats
    pull_width: Floats
    pull_error: Floats
    failed: NDArray[np.int64]
    toys: int

    def away(self) -> Floats:
        """(covered - cl) in binomial standard deviations of cl (P, L)."""
        cl = np.array(self.cls)
        return np.asarray((self.covered - cl) / np.sqrt(cl * (1 - cl) / self.toys))

    def __repr__(self) -> str:
        worst = float(np.abs(self.away()).max())
        names, levels = ", ".join(self.interest), ", ".join(f"{cl:g}" for cl in self.cls)
        return (f"Coverage({names} at {len(self.covered)} points, {self.toys} toys each; farthest from {levels}: "
                f"{worst:.1f} binomial deviations)")  # fmt: skip

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write everything to one file."""
        spec = {"parameters": list(self.truths), "interest": list(self.interest), "cls": list(self.cls),
                "toys": self.toys}  # fmt: skip
        arrays = {name: getattr(self, name) for name in _ARRAYS}
        store.save(path, "coverage", spec, arrays | {f"truths.{name}": v for name, v in self.truths.items()})

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> Coverage:
        """Read what `save` wrote."""
        spec, arrays = store.load(path, "coverage")
        truths = {name: arrays[f"truths.{name}"] for name in spec["parameters"]}
        found: dict[str, Any] = {name: arrays[name] for name in _ARRAYS}
        return cls(truths, tuple(spec["interest"]), tuple(spec["cls"]), toys=spec["toys"], **found)

    def __str__(self) -> str:
        names = "  ".join(self.interest)
        lines = [f"{names}: " + "  ".join(f"{100 * cl:g}%" for cl in self.cls) + "  bias  pull width  failed"]
        for i in range(len(self.covered)):
            at = "  ".join(f"{self.truths[name][i]:.4g}" for name in self.interest)
            cover = "  ".join(f"{100 * c:.1f} +- {100 * e:.1f}" for c, e in zip(self.covered[i], self.covered_error[i],
                                                                               strict=True))  # fmt: skip
            bias = "  ".join(f"{b:+.3g} +- {e:.2g}" for b, e in zip(self.bias[i], self.bias_error[i], strict=True))
            width = "  ".join(f"{w:.3f}" for w in self.pull_width[i])
            lines.append(f"{at}: {cover}  {bias}  {width}  {self.failed[i]}")
        return "\n".join(lines)


def coverage(
    cost: Cost,
    truths: Mapping[str, float] | Sequence[Mapping[str, float]],
    *,
    interest: Sequence[str],
    toys: int,
    seed: int,
    cls: Sequence[float] = (0.68, 0.95),
    intervals: Literal["profile"] | Critical = "profile",
    ordering: Ordering = "two-sided",
    limits: Mapping[str, Limits] | None = None,
    periodic: Mapping[str, tuple[float, float]] | None = None,
    discrete: Mapping[str, Sequence[float]] | None = None,
    starts: Sequence[Mapping[str, float]] = (),
    most_failed: float = 0.01,
    executor: Executor | None = None,
    checkpoint: str | os.PathLike[str] | None = None,
    chunk: int | None = None,
    progress: bool = True,
) -> Coverage:
    """Coverage, bias and pulls at true points.

    Parameters
    ----------
    cost:
        A sum of costs of `nuinfer.likelihood` that can draw data; its own data are not used.
    truths:
        All parameters by name, at one point or several.
    interest:
        The parameters whose interval, or region, is meant; the others are profiled.
    toys:
        Pseudo-experiments at each point.
    intervals:
        "profile": t below the chi2 quantile; or a `Neyman` or `CriticalValues`, made with the same options as here.
        One of a statistic of your own is refused, as the toys here are tested by the likelihood ratio: for those see
        `local_coverage`, which takes functions too.
    ordering, limits, periodic, discrete, starts:
        See `LikelihoodRatio`.
    most_failed, executor, checkpoint, chunk, progress:
        See `neyman`.

    Raises
    ------
    KeyError, TypeError, ValueError
        for unknown parameters or ones without a value, costs that cannot draw data, confidence levels outside (0, 1),
        ``intervals`` of another test statistic.
    NotConverged
        where the fits of more than ``most_failed`` of the toys fail.

    Examples
    --------
    >>> from nuinfer.likelihood import Normal
    >>> found = coverage(Normal("mu", 0.0), {"mu": 2.0}, interest=["mu"], toys=200, seed=1, progress=False)
    >>> print(found)
    mu: 68%  95%  bias  pull width  failed
    2: 70.5 +- 3.2  95.5 +- 1.5  -0.0498 +- 0.07  0.991  0
    """
    points = [truths] if isinstance(truths, Mapping) else list(truths)
    if not points:
        raise ValueError("truths: expected at least one point, found none")
    for cl in cls:
        level(cl)
    test = LikelihoodRatio(interest=tuple(interest), ordering=ordering, limits=limits or {}, periodic=periodic or {},
                           discrete=discrete or {}, starts=tuple(starts))  # fmt: skip
    test.check(cost)
    rows = rows_of(cost, points)
    limit = _limits(intervals, points, test, cls)
    trial = try_sampling(cost, points[0], seed)
    test = with_metric(test, trial, points[0])
    found = throw(
        Toy(cost, names_of(cost), test, test.interest, errors=True), np.repeat(rows, toys, 0), trial, seed=seed,
        executor=executor, checkpoint=checkpoint, chunk=chunk, name="coverage", most_failed=most_failed,
        progress=progress,
    )  # fmt: skip
    truth = {name: rows[:, i] for i, name in enumerate(names_of(cost))}
    return _counted(truth, test, tuple(cls), found, limit, toys)


def _limits(
    intervals: Literal["profile"] | Critical, points: Sequence[Mapping[str, float]], test: LikelihoodRatio,
    cls: Sequence[float],
) -> Floats:  # fmt: skip
    """Critical values (P, L)."""
    if isinstance(intervals, str):
        if intervals != "profile":
            raise ValueError(f"intervals: expected 'profile', a Neyman or CriticalValues, found {intervals!r}")
        one = [asymptotic(cl, len(test.interest), test.ordering) for cl in cls]
        return np.tile(one, (len(points), 1))
    if hasattr(intervals, "statistic"):
        check_same(intervals.statistic, test, "intervals")
    return np.array([[float(intervals.at(point, cl)) for cl in cls] for point in points])


def _counted(
    truths: dict[str, Floats], test: LikelihoodRatio, cls: tuple[float, ...], found: Mapping[str, NDArray[Any]],
    limit: Floats, toys: int,
) -> Coverage:  # fmt: skip
    t = found["t"].reshape(-1, toys)
    each = [fraction(t <= limit[:, k, None]) for k in range(len(cls))]
    covered = Estimate(np.stack([e.value for e in each], 1), np.stack([e.error for e in each], 1))
    best, errors = (found[name].reshape(*t.shape, -1) for name in ("best", "errors"))
    true = np.stack([truths[name] for name in test.interest], -1)[:, None]
    away = _shortest(best - true, test)
    pull = np.where(errors > 0, away / np.where(errors > 0, errors, 1.0), np.nan)
    (bias, spread, count), (pulled, width, used) = _moments(away), _moments(pull)
    return Coverage(
        truths, test.interest, cls, covered.value, covered.error, bias, spread / np.sqrt(np.maximum(count, 1)), pulled,
        width, width / np.sqrt(2 * np.maximum(used - 1, 1)), np.isinf(t).sum(1), toys,
    )  # fmt: skip


def _moments(values: Floats) -> tuple[Floats, Floats, NDArray[np.int64]]:
    """Mean, standard deviation and number (P, K) of what is not NaN in (P, T, K); NaN where too few are."""
    known = np.isfinite(values)
    count = known.sum(1)
    mean = np.where(known, values, 0.0).sum(1) / np.where(count > 0, count, np.nan)
    square = np.where(known, (values - mean[:, None]) ** 2, 0.0).sum(1)
    return mean, np.sqrt(square / np.where(count > 1, count - 1, np.nan)), count


def _shortest(away: Floats, test: LikelihoodRatio) -> Floats:
    """Differences (P, T, K), around the circle on the shorter side."""
    found = away.copy()
    for k, name in enumerate(test.interest):
        if name in test.periodic:
            low, high = test.periodic[name]
            found[..., k] = (away[..., k] + (high - low) / 2) % (high - low) - (high - low) / 2
    return found
