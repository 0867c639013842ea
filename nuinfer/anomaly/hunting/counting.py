r"""From scores to p-values: thresholds, spectra of what is selected, the background's fit, and the count in the window.

**Thresholds** are set fold by fold, so that a stated fraction of the fold's sideband events passes: the k-th highest
score of n, k the nearest integer to :math:`\epsilon n`.  Events of equal score, as trees give, are put in a random but
fixed order by their ids, so that k pass exactly.  That k is fixed, and no Poisson number, costs nothing: until the k-th
sideband event is passed, the signal region's count is a negative binomial one, with the same p-value as that of an
on/off experiment.

**The count** n in the signal region is compared with the integral :math:`b \pm \sigma_b` of a smooth function, fitted
to the selected events outside of it: an on/off experiment with :math:`m = (b / \sigma_b)^2` events in a region
:math:`\tau = b / \sigma_b^2` times as large, :math:`p = I_{1/(1 + \tau)}(n, m + 1)`.

**Crossed folds** choose where the others fluctuate upwards.  For a classifier that has nothing but fluctuations to
learn from, and any number of folds, the covariances between the folds add
:math:`\kappa = \varphi(z_\epsilon)^2 / \epsilon` times the variance of n - b, with :math:`\Phi(-z_\epsilon) = \epsilon`
and :math:`\varphi` the normal density: 0.40 at an efficiency of 0.3, 0.31 at 0.1, 0.07 at 0.01.  `crossed_error` has
that in :math:`\sigma_b`.  (Two folds with fluctuations a and b of many cells: the first gains
:math:`\sum a\,1[b > t]`, the second :math:`\sum b\,1[a > t]`, whose covariance is the square of
:math:`\mathrm{E}[a\,1[a > t]] = \varphi(t)` a cell.)

Sources: Collins, Howe, Nachman, arXiv 1902.02634; Cousins, Linnemann, Tucker, arXiv physics/0702156.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import special

from ...errors import NotConverged
from ..bump.fits import fit_bump
from ..bump.likelihoods import BumpLikelihood
from ..bump.shapes import BackgroundShape
from ..regions import Interval, Window
from ..significance import asymptotic_z

__all__ = ["Counted", "count_window", "crossed_error", "excess_p", "passed", "spectrum_edges", "thresholds_of"]

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]
Mask = NDArray[np.bool_]


@dataclass(frozen=True, eq=False)
class Cuts:
    """Thresholds (E, F) and, for scores equal to them, the least tie number (E, F) that passes."""

    score: Floats
    tie: Floats


def thresholds_of(
    name: str, score: Floats, tie: Floats, fold: NDArray[np.int16], sideband: Mask, efficiencies: Floats, folds: int,
    fewest: int,
) -> Cuts:  # fmt: skip
    """Thresholds by fold on sideband events.

    Parameters
    ----------
    name:
        Of the window, for messages.
    score, tie, fold, sideband:
        (N,); a score that is NaN is one of a fold without networks.
    efficiencies:
        (E,), in (0, 1].
    fewest:
        Of sideband events that pass, over all folds.

    Raises
    ------
    ValueError
        where an efficiency leaves fewer, or none in a fold.
    """
    cuts = Cuts(np.full((len(efficiencies), folds), -np.inf), np.zeros((len(efficiencies), folds)))
    use = sideband & np.isfinite(score)
    orders = [_descending(score, tie, np.flatnonzero(use & (fold == k))) for k in range(folds)]
    for e, efficiency in enumerate(efficiencies):
        counts = passing_of(name, [len(order) for order in orders], float(efficiency), fewest)
        for k, order in enumerate(orders):
            if efficiency < 1 and len(order):
                last = order[counts[k] - 1]
                cuts.score[e, k], cuts.tie[e, k] = score[last], tie[last]
    return cuts


def passing_of(name: str, events: Sequence[int], efficiency: float, fewest: int) -> list[int]:
    """How many of each fold's sideband events are to pass; raises as `thresholds_of`."""
    counts = [round(efficiency * n) for n in events]
    if sum(counts) < fewest or any(n and not k for n, k in zip(events, counts, strict=True)):
        raise ValueError(f"{name}: expected at least {fewest} sideband events, and one in each fold, to pass an "
                         f"efficiency of {efficiency:g}, found {sum(events)} sideband events, of which {sum(counts)} "
                         f"would; leave the efficiency out, or take wider sidebands or fewer folds")  # fmt: skip
    return counts


def _descending(score: Floats, tie: Floats, rows: Ints) -> Ints:
    return np.asarray(rows[np.lexsort((tie[rows], score[rows]))[::-1]])


def passed(cuts: Cuts, score: Floats, tie: Floats, fold: NDArray[np.int16]) -> NDArray[np.int16]:
    """How many of the efficiencies (which fall) each event passes (N,)."""
    level = np.zeros(len(score), np.int16)
    seen = np.isfinite(score)
    for at, least in zip(cuts.score, cuts.tie, strict=True):
        own, tied = at[fold], least[fold]
        level += seen & ((score > own) | ((score == own) & (tie >= tied)))
    return level


def spectrum_edges(range: Interval, windows: Sequence[Window], bins: int) -> Floats:
    """Edges of ``bins`` equal bins, and at the borders of all signal regions; those next to a border give way to it."""
    low, high = range
    edges = np.linspace(low, high, bins + 1)
    borders = np.unique([end for window in windows for end in window.signal])
    borders = borders[(borders > low) & (borders < high)]
    near = np.abs(edges[:, None] - borders).min(1, initial=np.inf) < 0.25 * (high - low) / bins
    near[[0, -1]] = False
    return np.unique(np.concatenate([edges[~near], borders]))


@dataclass(frozen=True, eq=False)
class Counted:
    """A window's count at one efficiency; arrays (B,) are of the spectrum's bins.

    ``status`` is empty, or says why there is no p-value.
    """

    observed: float
    expected: float
    error: float
    p: float
    z: float
    gof: float
    counts: Floats
    background: Floats
    band: Floats
    status: str


def count_window(
    mass: Floats, edges: Floats, window: Window, background: BackgroundShape, *, crossed: float | None = None
) -> Counted:  # fmt: skip
    """Fit the selected events (N,) outside of the signal region, and count those in it.

    ``crossed`` is the efficiency where folds are crossed, None where they are not: see `crossed_error`.  A fit that
    fails, or that ends at a limit, leaves p and z NaN, and is named in ``status``.
    """
    counts = np.histogram(mass, edges)[0].astype(np.float64)
    low, high = window.signal
    middle = 0.5 * (edges[1:] + edges[:-1])
    inside = (middle > low) & (middle < high)
    observed, nothing = float(counts[inside].sum()), np.full(len(counts), np.nan)
    try:
        likelihood = BumpLikelihood.binned(counts, background, edges=edges).excluding(low, high)
        fit = fit_bump(likelihood)
    except (NotConverged, ValueError) as failure:
        return Counted(observed, *(math.nan,) * 5, counts, nothing, nothing, f"no fit: {failure}")
    if fit.at_limit:
        status = f"the fit of the background is at a limit of {', '.join(fit.at_limit)}"
        return Counted(observed, *(math.nan,) * 4, fit.p, counts, fit.background, nothing, status)
    theta = np.array(list(fit.values.values()))
    slope = likelihood.background.integral_slopes(likelihood.bins[inside], theta, max(likelihood.order, 8)).sum(0)
    expected = float(fit.background[inside].sum())
    error = math.sqrt(max(float(slope @ fit.covariance @ slope), 1e-12 * expected**2))
    if crossed is not None:
        error = crossed_error(expected, error, crossed)
    p, z = float(excess_p(observed, expected, error)), float(asymptotic_z(observed, expected, sigma=error))
    return Counted(observed, expected, error, p, z, fit.p, counts, fit.background, fit.band, "")


def crossed_error(expected: float, error: float, efficiency: float) -> float:
    r"""The standard deviation of b with that which crossed folds add: :math:`\sigma_b^2 + \kappa (b + \sigma_b^2)`.

    >>> round(crossed_error(100.0, 0.0, 0.1) / 10, 3)   # of Poisson's deviation
    0.555
    """
    if efficiency >= 1:
        return error
    z = -special.ndtri(efficiency)
    kappa = math.exp(-z * z) / (2 * math.pi * efficiency)
    return math.sqrt(error**2 + kappa * (expected + error**2))


def excess_p(
    observed: ArrayLike, expected: ArrayLike, error: ArrayLike, *, ties: Literal["full", "random"] = "full",
    seed: int | None = None,
) -> Floats:  # fmt: skip
    r"""P(N >= n) of counts (*) where :math:`b \pm \sigma_b` are expected: see the module.

    With ``ties="random"`` a random share of P(N = n) counts, and p is uniform where nothing but background is there.

    >>> excess_p(25, 10.0, 2.0).round(6).item()
    0.001114
    """
    n, b, sigma = (np.asarray(v, np.float64) for v in (observed, expected, error))
    m, x = (b / sigma) ** 2, 1 / (1 + b / sigma**2)
    p = np.where(n > 0, special.betainc(np.maximum(n, 1e-300), m + 1, x), 1.0)
    if ties == "full":
        return np.asarray(p)
    share = np.random.default_rng(np.random.SeedSequence(seed)).random(np.shape(p))
    return np.asarray(p - share * (p - special.betainc(n + 1, m + 1, x)))
