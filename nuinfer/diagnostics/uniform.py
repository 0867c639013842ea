r"""Are ranks uniform?  Tests and bands for ranks r of 0 .. L, with weights.

- a chi-squared of their histogram, `nuinfer.metrics.rank_uniformity`;
- their empirical distribution function (ECDF) against a band that holds all of it with a given probability: at each
  point a central binomial interval, of a level such that a share 1 - alpha of simulated uniform ranks stays inside
  everywhere (Säilynoja, Bürkner, Vehtari, arXiv:2103.10522, section 2.2);
- their first two moments, as the mean and the width of a pull.

Weights that depend on the rank, as those of a proposal may, change the variance of a sum: it is taken from the sum of
:math:`w^2` over the simulations, and the band from normal multipliers of each one's contribution.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray
from scipy import linalg, optimize, special, stats

from .. import metrics
from ..records import Record

__all__ = ["Band", "Pull"]

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]

_REPLICAS = 4000
_LEAST, _ENOUGH = 10, 50  # effective simulations for a verdict at all, and for one that nothing is wrong


@dataclass(frozen=True, eq=False)
class Band:
    """The ECDF of ranks and the band that holds it everywhere with probability ``level``, were they uniform.

    ``at``, ``value``, ``low``, ``high`` (K,): the share ``at`` of all ranks that lie below a point, which is also what
    is expected, the share found, and the band.  ``p_value``: how often uniform ranks leave a band that just touches.
    """

    level: float
    at: Floats
    value: Floats
    low: Floats
    high: Floats
    p_value: float


@dataclass(frozen=True)
class Pull(Record):
    """Mean and width of (truth - posterior mean) / posterior standard deviation, from ranks.

    Exact for Gaussian posteriors, where calibrated ones have 0 and 1; a width of 1.4 says that the posterior is 1.4
    times too narrow, a mean of 0.5 that it lies half a standard deviation too low.
    """

    _KIND = "pull"

    mean: float
    mean_error: float
    width: float
    width_error: float


def equal(weight: Floats) -> bool:
    """Whether all weights are the same."""
    return bool(np.ptp(weight) <= 1e-12 * np.abs(weight).max())


def verdict(p_value: float, size: float, right: str, wrong: str) -> str:
    """What a p-value of so many effective simulations says.

    Of N ranks the width of a pull is known to about 1/sqrt(N): 50 tell a posterior that is 1.4 times too narrow from a
    right one, fewer pass it.  Below 10 the p-values of weighted simulations are none.
    """
    if p_value <= 0.01 and size >= _LEAST:
        return wrong
    return right if size >= _ENOUGH else f"too few simulations to decide, {_ENOUGH} are the least"


def chi2_p(rank: Ints, draws: int, weight: Floats, bins: int | None = None) -> float:
    """The p-value of the ranks' histogram, of as many bins as there are simulations for, or of ``bins``."""
    if equal(weight):
        return metrics.rank_uniformity(rank, draws, bins=bins)
    size = float(metrics.effective_size(weight))
    bins = metrics._rank_bins(draws + 1, size / 20, bins)  # the variance comes from the same events: fuller bins
    inside = (rank * bins // (draws + 1))[:, None] == np.arange(bins)
    parts = weight[:, None] * (inside - 1 / bins)
    value = parts.sum(0) @ linalg.pinvh(parts.T @ parts) @ parts.sum(0)
    return float(special.chdtrc(bins - 1, value))


def points(draws: int, most: int = 100) -> Floats:
    """Shares k/K, K at most ``most`` and a divisor of draws + 1, at which an ECDF of ranks is exact."""
    count = max(b for b in range(1, most + 1) if (draws + 1) % b == 0)
    return np.arange(1, max(count, 2)) / count


def band(rank: Ints, draws: int, weight: Floats, level: float = 0.95) -> Band:
    """The ECDF of ranks (N,) with its band."""
    if not 0 < level < 1:
        raise ValueError(f"level: expected a probability between 0 and 1, found {level}")
    at = points(draws)
    if len(at) < min(9, draws):
        raise ValueError(f"draws: expected a number whose successor has divisors, such as 99, 199 or 999, found {draws}"
                         f", which leaves {len(at)} points of the distribution function")  # fmt: skip
    below = rank[:, None] < at * (draws + 1) - 1e-9
    return (_binomial if equal(weight) else _weighted)(below, at, weight, level)


def _binomial(below: NDArray[np.bool_], at: Floats, weight: Floats, level: float) -> Band:
    n, found = len(below), below.sum(0)
    least = _uniform_tails(n, len(at) + 1)
    gamma = float(np.quantile(least, 1 - level))
    low, high = stats.binom.ppf(gamma, n, at), stats.binom.isf(gamma, n, at)
    return Band(level, at, found / n, low / n, high / n, _p_value(-float(_tails(found, n, at).min()), -least))


@lru_cache(maxsize=32)
def _uniform_tails(n: int, bins: int) -> Floats:
    """The smallest tail probability of all points, (S,), in simulations of n ranks: a table of (n, bins) alone."""
    counts = np.random.default_rng([n, bins]).multinomial(n, np.full(bins, 1 / bins), size=_REPLICAS)
    at = np.arange(1, bins) / bins
    table = _tails(np.arange(n + 1)[:, None], n, at)  # counts repeat
    least = table[np.cumsum(counts, 1)[:, :-1], np.arange(bins - 1)].min(1)
    least.flags.writeable = False
    return np.asarray(least)


def _tails(counts: Ints, n: int, at: Floats) -> Floats:
    """The smaller of P(k <= count) and P(k >= count) for binomial numbers k of n: (*, K)."""
    below, above = special.bdtr(counts, n, at), special.bdtrc(counts - 1, n, at)
    return np.asarray(np.minimum(below, np.where(counts > 0, above, 1.0)))


def _weighted(below: NDArray[np.bool_], at: Floats, weight: Floats, level: float) -> Band:
    parts = weight[:, None] * (below - at) / weight.sum()
    # of few simulations beyond a point the sum of squares knows little: not less than for weights without a rank
    plain = at * (1 - at) * np.sum(weight**2) / weight.sum() ** 2
    sd = np.sqrt(np.maximum((parts**2).sum(0), plain))
    rng = np.random.default_rng(len(parts))
    wild = np.abs(rng.normal(size=(_REPLICAS // 4, len(parts))) @ parts / sd).max(1)
    found = parts.sum(0)
    reach = float(np.quantile(wild, level)) * sd
    return Band(level, at, at + found, at - reach, at + reach, _p_value(float(np.abs(found / sd).max()), wild))


def _p_value(found: float, replicas: Floats) -> float:
    """The share of values at least as large, the found one among them."""
    return float((1 + np.count_nonzero(replicas >= found)) / (1 + len(replicas)))


def pull(rank: Ints, draws: int, weight: Floats) -> Pull:
    r"""The pull behind ranks.

    With F the posterior's distribution function at the truth, r/L and r(r - 1)/(L(L - 1)) estimate F and :math:`F^2`
    without bias.  For a pull :math:`\sim N(m, s^2)`, with :math:`h = m/\sqrt{1 + s^2}` and Owen's T,
    :math:`\langle F \rangle = \Phi(h)` and :math:`\langle F^2 \rangle = \Phi(h) - 2 T(h, 1/\sqrt{1 + 2 s^2})`.
    """
    first = rank / draws
    each = np.stack([first, first * (rank - 1) / max(draws - 1, 1)], 1)
    share = weight / weight.sum()
    mean = share @ each
    off = share[:, None] * (each - mean)
    steps = 1e-4 * np.eye(2)
    slopes = np.stack([(_gaussian(mean + e) - _gaussian(mean - e)) / 2e-4 for e in steps], 1)
    found, errors = _gaussian(mean), np.sqrt(np.diag(slopes @ (off.T @ off) @ slopes.T))
    return Pull(float(found[0]), float(errors[0]), float(found[1]), float(errors[1]))


def _gaussian(moments: Floats) -> Floats:
    """Mean and width of the Gaussian pull with the moments <F>, <F^2>; an infinite width where it would have to be."""
    first = float(np.clip(moments[0], 1e-6, 1 - 1e-6))
    h = float(special.ndtri(first))
    # a = 1/sqrt(1 + 2 s^2) runs from 0 (infinitely wide) to 1 (no width)
    wanted = (first - float(moments[1])) / 2
    if wanted >= special.owens_t(h, 1.0):
        return np.array([h, 0.0])
    a = float(optimize.brentq(lambda a: special.owens_t(h, a) - wanted, 0.0, 1.0)) if wanted > 0 else 0.0
    a = max(a, 1e-4)
    width = np.sqrt((1 / a**2 - 1) / 2)
    return np.array([h * np.sqrt(1 + width**2), width])
