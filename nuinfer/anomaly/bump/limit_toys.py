r"""Upper limits by toys: the distributions of :math:`\tilde q_S` are counted, not assumed.

At each of some sizes S toys are drawn with the signal, at S and the nuisances that fit the data best there, and once
without, at those that fit best at 0; in both everything that is measured fluctuates, the auxiliary measurements too.
Of those with at least the :math:`\tilde q_S` of the data,

.. math:: CL_s(S) = \frac{P(\tilde q \ge \tilde q_S | S)}{P(\tilde q \ge \tilde q_S | 0)} ,

and for the limits expected at N sigma :math:`\tilde q_S` is the quantile of the toys without a signal which
:math:`\Phi(N)` of them reach.  What :math:`\Phi^{-1}(CL_s)` differs from its value in large samples is fitted by a
line in ln S around where CL_s is 1 - cl; the errors are the spread of what 50 bootstrap samples of all toys give.
Where that is at -2 sigma, one of 900 toys with the signal is beyond: take 20,000 if that band matters.

Fits of toys that do not converge count against an exclusion: as beyond with a signal, as not beyond without.

Source: Cowan, Cranmer, Gross, Vitells, arXiv 1007.1727; Read, J. Phys. G 28 (2002) 2693.
"""

from __future__ import annotations

import logging
import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import interpolate, special

from ...errors import NotConverged
from .hypotheses import Measured, YieldTest
from .likelihoods import BumpLikelihood
from .limits import BANDS, BumpLimits, asymptotic_limits, checked_limits, log_cls, made_limits

__all__ = ["toy_limits"]

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]

_log = logging.getLogger("nuinfer")
_SAMPLES = 50  # of the bootstrap
_TIE = 1e-6  # in q~, as fits end so near to their minima
_LOCAL = 0.5  # sigma of CL_s, over which the line is fitted
_EXTENSIONS = 4


def toy_limits(
    likelihood: BumpLikelihood,
    masses: ArrayLike,
    *,
    toys: int = 2000,
    seed: int,
    points: int = 10,
    cl: float = 0.95,
    exposure: ArrayLike = 1.0,
    exposure_error: ArrayLike = 0.0,
    spurious: ArrayLike = 0.0,
) -> BumpLimits:
    """CL_s limits at each mass, observed and expected, by toys: right for few events also.

    Parameters
    ----------
    likelihood, masses, cl, exposure, exposure_error, spurious:
        As in `yield_limits`.
    toys:
        Per hypothesis, at least 100; 500 for bands of 2 sigma, of which that of a deficit is still rough.
    seed:
        Of the toys.
    points:
        Sizes at which toys are made, at least 4; more follow where the limits are not between them.

    Returns
    -------
    BumpLimits
        With errors; NaN, and a warning in the log, where too few toys are beyond to tell: of bands, and of data far
        below the background.

    Raises
    ------
    NotConverged, ValueError
        as `yield_limits`; for fewer toys or points.

    Examples
    --------
    >>> from nuinfer.anomaly.bump import BumpLikelihood, Exponential, GaussianPeak
    >>> contents = [60, 44, 33, 28, 17, 13, 9, 8]
    >>> peak = GaussianPeak(sigma=1.0)
    >>> likelihood = BumpLikelihood.binned(contents, Exponential(1), peak, edges=np.arange(9.0))
    >>> found = toy_limits(likelihood, [4.0], toys=500, seed=1)
    >>> found.expected[0, 1] < found.expected[0, 2] < found.expected[0, 3], found.errors[0] > 0
    (np.True_, np.True_)
    """
    at, own = checked_limits(likelihood, masses, cl, exposure, exposure_error, spurious)
    if toys < 100 or points < 4:
        raise ValueError(f"toys, points: expected at least 100 and 4, found {toys} and {points}")
    best, found, failed = np.empty(len(at)), np.empty((len(at), 2, 6)), 0
    for k, (mass, (_, relative, spread)) in enumerate(zip(at.tolist(), own.T.tolist(), strict=True)):
        test = YieldTest(likelihood, mass, relative, spread)
        best[k], observed, expected = asymptotic_limits(test, cl)
        rng = np.random.default_rng(np.random.SeedSequence(seed, spawn_key=(k,)))
        search = _Search(test, toys, rng, 1 - cl)
        found[k] = search.limits(np.append(observed, expected), points)
        failed += search.failed
    if failed:
        _log.warning("%d fits of toys failed; they count against an exclusion", failed)
    return made_limits(likelihood, at, own, cl, "toys", best, found[:, 0, 0], found[:, 0, 1:], found[:, 1],
                       (toys, failed, seed))  # fmt: skip


@dataclass(frozen=True, eq=False)
class _Toys:
    """q~ at one size: of the data, of toys with the signal and without, both rising, and which toys these are."""

    size: float
    observed: float
    root: float  # of q_A
    signal: Floats
    none: Floats
    order_signal: Ints
    order_none: Ints


class _Search:
    """Toys at one mass, at as many sizes as it takes."""

    def __init__(self, test: YieldTest, toys: int, rng: np.random.Generator, alpha: float) -> None:
        self.test, self.toys, self.rng, self.alpha = test, toys, rng, alpha
        self.data: Measured = test.data
        self.none = test.draw(test.hypothesis(self.data, 0.0), toys, rng)
        self.best_of_none = test.best(self.none)
        self.asimov = test.asimov(test.hypothesis(self.data, 0.0))
        self.known: list[_Toys] = []
        self.failed = 0
        # of the bootstrap, the first has each toy once
        self.weights = np.vstack([np.ones(toys), rng.multinomial(toys, np.full(toys, 1 / toys), _SAMPLES)])

    def limits(self, near: Floats, points: int) -> Floats:
        """(2, 6): observed, then expected; and their errors.  ``near`` are asymptotic ones."""
        wanted = np.isfinite(near)
        if not wanted.any():
            return np.array([np.full(6, np.inf), np.zeros(6)])
        low, high = 0.5 * near[wanted].min(), 1.5 * near[wanted].max()
        for size in np.geomspace(low, high, points).tolist():
            self.add(size)
        ratio = max((high / low) ** (1 / (points - 1)), 1.2)
        found = self.crossings()
        for _ in range(_EXTENSIONS):
            lost = np.isnan(found[0]) & wanted
            if not lost.any():
                break
            above = (self.curves()[0][0, lost, -1] > special.ndtri(self.alpha)).any()
            self.add(self.known[-1].size * ratio if above else self.known[0].size / ratio)
            found = self.crossings()
        lost = np.isnan(found[0])
        if (lost & wanted).any():
            what = "limits" if lost[0] and wanted[0] else "bands"
            _log.warning("mass %g: %d toys are too few for all of the %s; those not known are NaN", self.test.mass,
                         self.toys, what)  # fmt: skip
        values = np.where(lost, np.where(wanted, np.nan, np.inf), found[0])
        return np.array([values, np.where(lost, np.nan, _spread(found[1:]))])

    def add(self, size: float) -> None:
        """Toys at another size."""
        test, sizes = self.test, np.full(self.toys, size)
        drawn = test.draw(test.hypothesis(self.data, size), self.toys, self.rng)
        q = test.statistic(drawn, test.best(drawn), sizes)
        none = test.statistic(self.none, self.best_of_none, sizes)
        both = self.data.with_others(self.asimov)
        seen, expected = test.statistic(both, test.best(both), sizes[:2]).tolist()
        if math.isnan(seen) or math.isnan(expected):
            raise NotConverged(f"the fit of the data at mass {test.mass:g} with a size of {size:.4g} did not converge")
        self.failed += int(np.isnan(q).sum() + np.isnan(none).sum())
        q, none = np.where(np.isnan(q), np.inf, q), np.where(np.isnan(none), 0.0, none)
        order = np.argsort(none, kind="stable")
        found = _Toys(size, seen, math.sqrt(expected), np.sort(q), none[order], self.rng.permutation(self.toys), order)
        self.known = sorted([*self.known, found], key=lambda toys: toys.size)

    # -- CL_s

    def curves(self) -> tuple[Floats, Floats]:
        """Phi^-1(CL_s) of R bootstrap samples (R, 6, G), and in large samples (6, G)."""
        y = np.stack([self._cls(toys) for toys in self.known], -1)
        return y, np.stack([_in_large_samples(toys) for toys in self.known], -1)

    def _cls(self, toys: _Toys) -> Floats:
        """Phi^-1(CL_s) (R, 6)."""
        signal, none = _tails(self.weights[:, toys.order_signal]), _tails(self.weights[:, toys.order_none])
        q = np.empty((len(none), 6))
        q[:, 0] = toys.observed
        for k, share in enumerate(special.ndtr(BANDS).tolist(), 1):
            # the last one at or beyond which that share still is
            last = (none[:, :-1] >= share - 1e-12).sum(1) - 1
            q[:, k] = toys.none[np.maximum(last, 0)]
        rows = np.arange(len(none))[:, None]
        p_signal = signal[rows, np.searchsorted(toys.signal, q - _TIE)]
        p_none = none[rows, np.searchsorted(toys.none, q - _TIE)]
        least = 0.5 / self.toys  # none beyond is less than one
        cls = np.maximum(p_signal, least) / np.maximum(p_none, least)
        return np.asarray(special.ndtri(np.minimum(cls, 1 - least)))

    def crossings(self) -> Floats:
        """Where (R, 6) the curves cross 1 - cl; NaN for nowhere."""
        y, large = self.curves()
        x = np.log([toys.size for toys in self.known])
        aim = float(special.ndtri(self.alpha))
        return np.stack([_crossing(x, y[:, k], large[k], aim) for k in range(6)], 1)


def _tails(weights: Floats) -> Floats:
    """The share (R, T + 1) at or beyond each place of a rising list."""
    total = np.cumsum(weights[:, ::-1], 1)[:, ::-1]
    return np.concatenate([total, np.zeros((len(weights), 1))], 1) / total[:, :1]


def _in_large_samples(toys: _Toys) -> Floats:
    """Phi^-1(CL_s) (6,) of the data, and as it is expected."""
    observed = log_cls(toys.observed, toys.root)
    expected = special.log_ndtr(np.minimum(BANDS - toys.root, 0.0)) - special.log_ndtr(np.minimum(BANDS, toys.root))
    return np.asarray(special.ndtri(np.exp(np.clip(np.append(observed, expected), -700.0, -1e-9))))


def _crossing(x: Floats, y: Floats, large: Floats, aim: float) -> Floats:
    r"""Where falling curves y (R, G) at x = log S (G,) are at ``aim``, as S (R,); ``large`` (G,) is about their form.

    Weights fall with the distance from there, and with the variance :math:`CL_s / \phi(y)^2` up to a factor.
    """
    if not y[0].min() < aim:
        return np.full(len(y), math.nan)
    shape = interpolate.PchipInterpolator(x, large)
    fine = np.linspace(x[0], x[-1], 1001)
    near = large
    for _ in range(2):  # around the crossing in large samples, then around that of the toys
        weight = np.exp(-0.5 * ((near - aim) / _LOCAL) ** 2 - near**2 - special.log_ndtr(near)) + 1e-9
        columns = np.stack([np.ones_like(x), x - np.average(x, weights=weight)])
        factor = np.sqrt(weight)
        line = ((y - large) * factor) @ np.linalg.pinv(columns * factor, rcond=1e-6)
        near = large + line[0] @ columns
    at = np.stack([np.ones_like(fine), fine - np.average(x, weights=weight)])
    return np.array([_first_zero(fine, row) for row in shape(fine) - aim + line @ at])


def _spread(found: Floats) -> Floats:
    """Standard deviation (K,) of bootstrap samples (R, K), of those with a crossing."""
    known = np.isfinite(found)
    if known.sum(0).min() < 2:
        return np.full(found.shape[1], math.nan)
    return np.asarray(np.where(known, found, 0.0).std(0, ddof=1, where=known))


def _first_zero(x: Floats, y: Floats) -> float:
    """exp(x) where y first falls through 0."""
    below = np.flatnonzero(y <= 0)
    if not len(below) or below[0] == 0:
        return math.nan
    k = int(below[0])
    return math.exp(x[k - 1] + (x[k] - x[k - 1]) * y[k - 1] / (y[k - 1] - y[k]))
