r"""Pseudo-experiments under a test statistic: what `neyman`, `coverage` and `learn_critical_values` have in common.

A toy is drawn at one row of parameters, data and global observables both, and tested at that row.  One whose fit fails
is never left out: its t is infinite, so that critical values can only grow, and it counts as not covered.
"""

from __future__ import annotations

import hashlib
import logging
import math
import os
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Executor
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from iminuit.cost import Cost
from numpy.typing import NDArray

from .. import tasks
from ..errors import NotConverged
from ..likelihood.costs import NegativeDensity, named, sample
from .fits import names_of
from .likelihood_ratio import LikelihoodRatio, Ordering
from .scans import level

__all__ = ["Estimate", "Statistic", "Toy", "asymptotic", "throw"]

_log = logging.getLogger("nuinfer")

Floats = NDArray[np.float64]
Statistic = Callable[[Mapping[str, float], Any], float]


class Estimate(NamedTuple):
    """A number, or an array of them, with its standard error."""

    value: Floats
    error: Floats


def fraction(hits: NDArray[np.bool_]) -> Estimate:
    """The fraction of hits (P, T) -> (P,), with its binomial error, which is not 0 where all or none are hits."""
    count = hits.shape[1]
    found = hits.mean(1)
    held = np.clip(found, 0.5 / count, 1 - 0.5 / count)
    return Estimate(found, np.sqrt(held * (1 - held) / count))


def asymptotic(cl: float, parameters: int, ordering: Ordering = "two-sided") -> float:
    """The quantile of the asymptotic distribution of t: chi2, with half of it at 0 for the one-sided ordering.

    >>> round(asymptotic(0.95, 1), 2), round(asymptotic(0.95, 1, "one-sided"), 2)
    (3.84, 2.71)
    """
    quantile = level(cl, parameters)
    if ordering == "one-sided":
        return level(2 * cl - 1) if cl > 0.5 else 0.0
    return quantile


def rows_of(cost: Cost, truths: Sequence[Mapping[str, float]]) -> Floats:
    """Parameters (P, D) in the order of the cost; ``KeyError`` for one without a value."""
    return np.array([[named(truth, name) for name in names_of(cost)] for truth in truths], np.float64)


def try_sampling(cost: Cost, truth: Mapping[str, float], seed: int) -> Cost:
    """One toy: what cannot draw data says so here, not in a worker."""
    return sample(cost, truth, np.random.default_rng(np.random.SeedSequence(seed)))


def t_of(test: LikelihoodRatio | Statistic, theta: Mapping[str, float], data: Any) -> float:
    """The test statistic, infinite where the fits fail."""
    try:
        return float(test(theta, data))
    except (NotConverged, NegativeDensity):
        return math.inf


def with_metric(test: LikelihoodRatio, toy: Cost, truth: Mapping[str, float]) -> LikelihoodRatio:
    """The test with the metric of one toy, which all others are like; without one where its fit fails."""
    try:
        return test.prepared(toy, truth)[0]
    except (NotConverged, NegativeDensity):
        return test


@dataclass(frozen=True, eq=False)
class Toy:
    """What a worker does: draw a pseudo-experiment at a row of parameters, and test it there."""

    cost: Cost
    names: tuple[str, ...]
    test: LikelihoodRatio | Statistic
    interest: tuple[str, ...]
    errors: bool = False

    def __call__(self, task: Floats, rng: np.random.Generator) -> dict[str, Any]:
        """t, and the best fits and errors (K,) of the parameters of interest."""
        theta = dict(zip(self.names, np.asarray(task).tolist(), strict=True))
        toy = sample(self.cost, theta, rng)
        nothing = np.full(len(self.interest), np.nan)
        if not isinstance(self.test, LikelihoodRatio):
            return {"t": t_of(self.test, theta, toy), "best": nothing, "errors": nothing}
        try:
            found = self.test.tested(theta, toy, errors=self.errors)
        except (NotConverged, NegativeDensity):
            return {"t": math.inf, "best": nothing, "errors": nothing}
        best = np.array([found.best.values[name] for name in self.interest])
        errors = np.array([found.best.errors.get(name, np.nan) for name in self.interest]) if self.errors else nothing
        return {"t": found.t, "best": best, "errors": errors}


def throw(
    toy: Toy,
    rows: Floats,
    trial: Cost,
    *,
    seed: int,
    executor: Executor | None,
    checkpoint: str | os.PathLike[str] | None,
    chunk: int | None,
    name: str,
    most_failed: float,
    progress: bool,
) -> dict[str, NDArray[Any]]:
    """t (N,), best fits and errors (N, K) of toys at rows of parameters (N, D); ``trial``: of `try_sampling`."""
    label = name
    if checkpoint is not None:
        # at mu = 0 the model of the signal does not show
        places = [dict(zip(toy.names, row.tolist(), strict=True)) for row in rows[[0, len(rows) // 2, -1]]]
        label = f"{name} {label_of(toy.test, toy.cost, trial, places)}"
    found = tasks.run(
        toy, list(rows), seed=seed, executor=executor, checkpoint=checkpoint, chunk=chunk, name=label,
        progress=progress,
    ).stacked()  # fmt: skip
    t = found["t"]
    if np.isnan(t).any():
        raise ValueError(f"test statistic: expected numbers, found {int(np.isnan(t).sum())} NaN in {len(t)} toys")
    check_failed(t, most_failed)
    return found


def label_of(
    test: LikelihoodRatio | Statistic, model: Any, trial: Any, places: Sequence[Mapping[str, float]]
) -> str:  # fmt: skip
    """What a checkpoint is compared by, besides the parameters of its toys: the statistic, and numbers of the model.

    They are values and slopes of the model's cost and of a trial toy, and the toy's t, at some places: another sigma,
    yield or generator changes them.  Slopes, since a Gaussian's value and t at the truth are the same for any sigma.
    """
    own = getattr(test, "__qualname__", type(test).__qualname__)
    said = [repr(test.to_json()) if isinstance(test, LikelihoodRatio) else str(own)]
    costs = [cost for cost in (model, trial) if isinstance(cost, Cost)]
    said += [f"{round(x, 6) + 0.0:.6g}" for cost in costs for theta in places for x in _numbers(cost, theta)]
    # as exact as the fits are; + 0.0 since -0 is 0
    said += [f"{round(t_of(test, theta, trial), 3) + 0.0:.6g}" for theta in places]
    return hashlib.blake2b(" ".join(said).encode(), digest_size=6).hexdigest()


def _numbers(cost: Cost, theta: Mapping[str, float]) -> list[float]:
    """-2 log L and its slopes; nothing outside of the model's domain."""
    at = [theta[name] for name in names_of(cost)]
    try:
        return [float(cost(*at)), *(np.asarray(cost.grad(*at)).tolist() if cost.has_grad else [])]
    except NegativeDensity:
        return []


def check_failed(t: NDArray[Any], most: float) -> None:
    failed = int(np.isinf(t).sum())
    said = f"the fits of {failed} of {len(t)} toys failed"
    if failed > most * len(t):
        raise NotConverged(f"{said}, more than most_failed={most:g} of them; give limits within which the model is "
                           f"positive, or starts near its minima, or raise most_failed: they count as t = infinity, "
                           f"which widens the intervals")  # fmt: skip
    if failed:
        _log.warning("%s; they count as t = infinity, which can only widen the intervals", said)
