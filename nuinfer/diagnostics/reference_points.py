r"""TARP: the truth is as far from a reference point as the posterior's draws are.

Choose a reference point, without a look at the truth.  The share of the posterior's draws that are nearer to it than
the truth is uniform on (0, 1) over simulations, for the exact posterior.  If this holds for all choices of points that
depend on x, the posterior *is* exact (theorem 3 of the paper); no densities are needed.

The choice decides what is seen.  With points that do not depend on x the prior in place of the posterior passes.  The
default here is, for each simulation, the theta of a simulation with nearly the same x: a rough draw from the true
posterior at x, wherever that lies, and near it where one x leaves several answers.  "Nearly the same" is in terms of a
few numbers that say of theta what can be said by regression: E[theta | x] and E[theta^2 | x], by ridge regression on
the ranks of the columns of x (of clouds: the number, means and standard deviations of entries) and their squares, as in
semi-automatic approximate Bayesian computation (Fearnhead, Prangle, arXiv:1004.1112).  The simulations are cut in
three, and each part is regressed and searched for neighbours in the next, so that a point never depends on the truth
that it is compared with.  Distances are in units of what the regression leaves of each parameter, which is about the
posterior's width: in units of the prior's, those of the worst parameter would hide all others.  In these units all
points are then moved by 1 in one direction, which ``seed`` draws: seen from points on all sides of the posterior, a
shift of it would average away.  Another seed looks from another side.

Source: Lemos, Coogan, Hezaveh, Perreault-Levasseur, arXiv:2302.03026.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import linalg, special, stats
from scipy.spatial import cKDTree

from .. import metrics
from ..errors import check_finite
from ..events import Events
from ..records import Record
from .credible_regions import covered
from .samplers import Sampler, drawn, moments_of, observations_of, truths
from .uniform import band, verdict

__all__ = ["TARP", "tarp"]

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]
#: Points (N, P), or a function of the N observations that gives them.
References = ArrayLike | Callable[[Events], ArrayLike]

_BOOTSTRAPS = 200
_LEAST = 20  # simulations: six in each part


@dataclass(frozen=True, eq=False)
class TARP(Record):
    """Made by `tarp`.

    Attributes
    ----------
    levels, coverage:
        Credibility (A,) and the expected coverage found, which is equal to it for an exact posterior.
    error:
        Standard deviation of the coverage (A,) over bootstraps of the simulations.
    ranks, draws, weight:
        How many of the draws are nearer to the reference than the truth (N,), of how many; the simulations' weights.
    p_value:
        That the coverage is right at all levels, by the ECDF of the ranks.
    size:
        The effective number of simulations.
    """

    _KIND = "tarp"

    levels: Floats
    coverage: Floats
    error: Floats
    ranks: Ints
    draws: int
    weight: Floats
    p_value: float
    size: float

    @property
    def area(self) -> float:
        """The area between coverage and credibility, coverage above counted positive, at levels above 1/2."""
        upper = self.levels >= 0.5
        return float(np.trapezoid((self.coverage - self.levels)[upper], self.levels[upper]))

    def __str__(self) -> str:
        worst = int(np.argmax(np.abs(self.coverage - self.levels)))
        said = verdict(self.p_value, self.size, "on the diagonal", "off the diagonal: this is not the posterior")
        return (f"TARP, {self.size:.0f} effective simulations: p = {self.p_value:.2g}, {said}; largest deviation "
                f"{self.coverage[worst] - self.levels[worst]:+.3f} +- {self.error[worst]:.3f} at credibility "
                f"{self.levels[worst]:.2f}")  # fmt: skip


def tarp(
    posterior: Sampler,
    simulations: Events,
    *,
    references: References | None = None,
    draws: int = 99,
    seed: int = 0,
) -> TARP:
    """Expected coverage by distances to reference points, which needs draws alone.

    Parameters
    ----------
    posterior, simulations:
        As of `sbc`.
    references:
        Points (N, P), or a function of the observations that gives them.  They must not depend on the true theta, and
        should depend on x, or the prior passes.  None chooses them as this module's text says.
    draws:
        L, a simulation; L + 1 should have many divisors.

    Raises
    ------
    KeyError
        for simulations without a parameter's column.
    ValueError
        for values that are not finite, references of another shape, or fewer than 20 simulations.
    """
    theta, observations = truths(posterior, simulations), observations_of(posterior, simulations)
    if len(theta) < _LEAST:
        raise ValueError(f"simulations: expected at least {_LEAST}, from which reference points are chosen, found "
                         f"{len(theta)}")  # fmt: skip
    points, scale = _neighbours(theta, observations, seed)
    if references is not None:
        given = references(observations) if callable(references) else references
        points = np.asarray(given, np.float64)
        if points.shape != theta.shape:
            raise ValueError(f"references: expected points of shape {theta.shape}, found {points.shape}")
        check_finite("references", points)
    found = drawn(posterior, draws, observations, seed)
    far = (((found - points[:, None]) / scale[:, None]) ** 2).sum(-1)
    own = (((theta - points) / scale) ** 2).sum(-1)
    return _judged(metrics.ranks(far, own, seed=seed), draws, simulations.weight, seed)


def _judged(ranks: Ints, draws: int, weight: Floats, seed: int) -> TARP:
    levels = np.linspace(0, 1, 101)
    inside = covered(ranks, draws, np.zeros_like(levels), levels)
    share = weight / weight.sum()
    times = np.random.default_rng([seed, 2]).poisson(1.0, (_BOOTSTRAPS, len(ranks))) * share
    replicas = times @ inside / times.sum(1, keepdims=True)
    p_value = band(ranks, draws, weight).p_value
    size = float(metrics.effective_size(weight))
    return TARP(levels, share @ inside, replicas.std(0, ddof=1), ranks, draws, weight, p_value, size)


# -- reference points that depend on x ---------------------------------------------------------------------------------


def _neighbours(theta: Floats, observations: Events, seed: int) -> tuple[Floats, Floats]:
    """For each simulation a point near the theta of another with nearly the same x, and a scale of theta, (N, P)."""
    x = _scores(moments_of(observations)[1])
    rng = np.random.default_rng([seed, 3])
    # three parts, each referring to the next: with two, neighbours would refer to each other, and their ranks be alike
    part = rng.permutation(len(x)) % 3
    direction = rng.normal(size=theta.shape[1])
    direction /= linalg.norm(direction)
    points, scale = np.empty_like(theta), np.empty_like(theta)
    for number in range(3):
        mine, other = part == number, part == (number + 1) % 3
        predict, left = _regression(x[other], theta[other])
        nearest = cKDTree(predict(x[other])).query(predict(x[mine]))[1]
        points[mine], scale[mine] = theta[other][nearest] + left * direction, left
    return points, scale


def _scores(columns: Floats) -> Floats:
    """Normal scores of the ranks of each column, and their squares; constant columns are left out."""
    check_finite("observations", columns)
    columns = columns[:, np.ptp(columns, axis=0) > 0]
    scores = special.ndtri((stats.rankdata(columns, axis=0) - 0.5) / len(columns))
    return np.concatenate([np.ones((len(columns), 1)), scores, scores**2], 1)


def _regression(x: Floats, theta: Floats) -> tuple[Callable[[Floats], Floats], Floats]:
    """A function of x (N, F) that predicts theta and theta^2, in units of their residuals; those of theta (P,)."""
    spread = np.where(np.ptp(theta, axis=0) > 0, theta.std(0), 1.0)
    standard = (theta - theta.mean(0)) / spread
    wanted = np.concatenate([standard, standard**2], 1)
    # coefficients of variance 1/F, noise of at most 1: as many columns as simulations do no harm
    ridge = x.shape[1] * np.eye(x.shape[1])
    weights = linalg.solve(x.T @ x + ridge, x.T @ wanted, assume_a="pos")
    left = np.sqrt(np.mean((wanted - x @ weights) ** 2, 0))
    left = np.where(left > 0, left, 1.0)
    return lambda other: np.asarray(other @ weights / left), np.asarray(left[: theta.shape[1]] * spread)
