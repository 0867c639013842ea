r"""Numbers that judge an answer: pure functions of arrays, with weights of any sign and with their uncertainties.

What to use when:

- Is a density ratio calibrated?  `reliability`: predicted against observed class fractions.
- Can two weighted samples be told apart?  `roc_auc` (all thresholds) or `two_sample_accuracy` (the classifier
  two-sample test; Lopez-Paz, Oquab, arXiv:1610.06545), on scores of events that the classifier was *not* trained on.
- Do two binned spectra agree?  `chi2` with a covariance (times `hartlap` where that covariance comes from replicas, and
  then with the p-value of `hotelling`), `triangular_discriminator` without one.
- Is a posterior calibrated?  `ranks` and `rank_uniformity` (simulation-based calibration; Talts, Betancourt, Simpson,
  Vehtari, Gelman, arXiv:1804.06788).
- How much is a weighted sample worth?  `effective_size`; its moments: `weighted_mean`, `weighted_covariance`.

Shapes: ``*`` stands for batch dimensions, such as ensemble members; N events, B bins, K replicas, D columns.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import linalg, special

from .errors import check_finite

__all__ = [
    "Reliability",
    "Score",
    "chi2",
    "effective_size",
    "hartlap",
    "hotelling",
    "mid_distribution",
    "rank_uniformity",
    "ranks",
    "reliability",
    "replica_covariance",
    "roc_auc",
    "triangular_discriminator",
    "triangular_expectation",
    "two_sample_accuracy",
    "weighted_covariance",
    "weighted_mean",
    "weighted_ranks",
]

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]


class Reliability(NamedTuple):
    """Predicted and observed fractions of the numerator class in bins of the log ratio; see `reliability`.

    ``edges`` (B + 1,) in log ratio; ``predicted``, ``observed``, ``uncertainty`` (B,), the last that of observed minus
    predicted; ``size`` (B,) the effective number of events.  Bins without weight hold NaN.
    """

    edges: Floats
    predicted: Floats
    observed: Floats
    uncertainty: Floats
    size: Floats

    @property
    def pulls(self) -> Floats:
        """(observed - predicted) / uncertainty (B,): standard normal for an exact ratio, NaN in empty bins."""
        return (self.observed - self.predicted) / self.uncertainty


class Score(NamedTuple):
    """A two-sample score: its value (0.5 = indistinguishable) and its standard deviation were both samples alike."""

    value: float
    null_sd: float

    @property
    def z(self) -> float:
        """(value - 0.5) / null_sd: standard normal where the samples are alike, large where they can be told apart."""
        # scores that are all tied leave 0.5 and no spread, both up to rounding
        return (self.value - 0.5) / self.null_sd if self.null_sd > 1e-12 else 0.0


# -- weighted samples --------------------------------------------------------------------------------------------------


def effective_size(weight: ArrayLike) -> Floats:
    r"""Kish's effective sample size :math:`(\sum_i w_i)^2 / \sum_i w_i^2`: (\*, N) -> (\*); 0 where all weights are 0.

    >>> effective_size([[1, 1, 1, 1], [1, 1, 1, -1], [0, 0, 0, 0]]).tolist()
    [4.0, 1.0, 0.0]
    """
    w = np.asarray(weight, np.float64)
    square = np.einsum("...i,...i->...", w, w)
    return np.asarray(np.divide(w.sum(-1) ** 2, square, out=np.zeros_like(square), where=square > 0))


def weighted_mean(values: ArrayLike, weight: ArrayLike | None = None) -> Floats:
    r"""The mean :math:`\sum_i w_i x_i / \sum_i w_i`: values (N, D), weight (\*, N) -> (\*, D).

    Values (N,) count as one column.  Several rows of weights (members) are done at once.

    Raises
    ------
    ValueError
        where a total weight is not positive, or the lengths differ.

    >>> weighted_mean([[0.0], [1.0]], [[1, 1], [3, -1]]).ravel().tolist()
    [0.5, -0.5]
    """
    x, w = _values_and_weights(values, weight)
    return np.asarray((w @ x) / w.sum(-1)[..., None])


def weighted_covariance(values: ArrayLike, weight: ArrayLike | None = None) -> Floats:
    r"""The unbiased covariance of weighted values: values (N, D), weight (\*, N) -> (\*, D, D).

    .. math:: C = \frac{\sum_i w_i (x_i - \bar x)(x_i - \bar x)^T}{\sum_i w_i \,(1 - 1/n)}, \qquad
              n = \frac{(\sum_i w_i)^2}{\sum_i w_i^2}

    which is ``numpy.cov(values.T, aweights=weight)``, and holds for signed weights too.

    Raises
    ------
    ValueError
        where a total weight is not positive, or the effective size n is not above 1.

    >>> weighted_covariance([1.0, 2.0, 3.0]).round(12).tolist()
    [[1.0]]
    """
    x, w = _values_and_weights(values, weight)
    size = effective_size(w)
    if (size <= 1).any():
        raise ValueError(f"covariance: expected an effective sample size above 1, found {size.min():.3g}; add events")
    x = x - x.mean(0)  # near zero first: the difference of large numbers below would lose digits
    mean = weighted_mean(x, w)
    second = np.einsum("...n,ni,nj->...ij", w, x, x, optimize=True) / w.sum(-1)[..., None, None]
    spread = second - mean[..., :, None] * mean[..., None, :]
    return np.asarray(spread / (1 - 1 / size)[..., None, None])


def _values_and_weights(values: ArrayLike, weight: ArrayLike | None) -> tuple[Floats, Floats]:
    x = np.asarray(values, np.float64)
    x = x[:, None] if x.ndim == 1 else x
    if x.ndim != 2:
        raise ValueError(f"values: expected shape (N, D) or (N,), found {x.shape}")
    w = np.ones(len(x)) if weight is None else np.asarray(weight, np.float64)
    if w.ndim == 0 or w.shape[-1] != len(x):
        raise ValueError(f"weight: expected shape (*, {len(x)}) for values {x.shape}, found {w.shape}")
    check_finite("values", x)
    _positive("weight", w.sum(-1))
    return x, w


def _positive(what: str, total: Floats) -> None:
    if not (total > 0).all():  # not (<= 0): NaN must fail as well
        raise ValueError(f"{what}: expected a positive total, found {float(np.min(total)):g}")


# -- binned spectra ----------------------------------------------------------------------------------------------------


def replica_covariance(replicas: ArrayLike) -> Floats:
    r"""The covariance of bin contents over K replicas, divided by K - 1: (K, B) -> (B, B).

    The replicas are, for example, the spectra of Poisson bootstraps (`Events.bootstrap`).  With K - 1 < B the result
    is singular, and its inverse is biased at any K: see `hartlap`.

    Raises
    ------
    ValueError
        for fewer than 2 replicas or contents that are not finite.

    >>> replica_covariance([[1.0, 2.0], [3.0, 2.0]]).tolist()
    [[2.0, 0.0], [0.0, 0.0]]
    """
    contents = np.asarray(replicas, np.float64)
    if contents.ndim != 2 or len(contents) < 2:
        raise ValueError(f"replicas: expected shape (K, B) with K >= 2, found {contents.shape}")
    check_finite("replicas", contents)
    deviation = contents - contents.mean(0)
    return np.asarray(deviation.T @ deviation / (len(contents) - 1))


def hartlap(n_replicas: int, n_bins: int) -> float:
    r"""The factor :math:`(n - p - 2)/(n - 1)` that unbiases the inverse of a covariance from n replicas in p bins.

    The inverse of a covariance estimated from n Gaussian replicas is too large by (n - 1)/(n - p - 2) on average.
    Multiply the inverse (or chi2) by this factor.
    Source: Hartlap, Simon, Schneider, astro-ph/0608064, eq. 17.

    Raises
    ------
    ValueError
        when n <= p + 2: then the mean of the inverse does not exist.

    >>> hartlap(103, 10)
    0.8921568627450981
    """
    if n_bins < 1 or n_replicas <= n_bins + 2:
        raise ValueError(
            f"Hartlap factor: expected more than bins + 2 = {n_bins + 2} replicas, found {n_replicas}; "
            f"make more replicas (10 per bin are a fair number) or merge bins"
        )
    return (n_replicas - n_bins - 2) / (n_replicas - 1)


def hotelling(value: float, n_replicas: int, n_bins: int) -> float:
    r"""The p-value of a chi-squared :math:`T^2 = d^T C^{-1} d` whose covariance is that of n replicas in p bins.

    :math:`T^2 (n - p) / (p (n - 1))` follows Fisher's F(p, n - p); T^2 is *without* `hartlap`'s factor.
    Source: Hotelling, Ann. Math. Stat. 2 (1931) 360.

    Raises
    ------
    ValueError
        for no more replicas than bins: then the covariance has no inverse.

    >>> round(hotelling(6.0, 10**7, 3), 4), round(hotelling(6.0, 10, 3), 4)  # of chi-squared: 0.1116
    (0.1116, 0.2832)
    """
    if n_bins < 1 or n_replicas <= n_bins:
        raise ValueError(f"Hotelling's T^2: expected more replicas than bins, found {n_replicas} for {n_bins}")
    free = n_replicas - n_bins
    return float(special.fdtrc(n_bins, free, value * free / (n_bins * (n_replicas - 1))))


def chi2(difference: ArrayLike, covariance: ArrayLike, *, n_replicas: int | None = None) -> Floats:
    r"""Chi-squared :math:`d^T C^{-1} d` by a Cholesky factor: difference (\*, B), covariance (B, B) -> (\*).

    ``n_replicas`` is the number of replicas that the covariance was estimated from, where it was: the result is then
    multiplied by `hartlap`'s factor, so that its expectation is B for the true model.

    Raises
    ------
    ValueError
        for a covariance that is not symmetric or not positive definite (the bins without variance are named).

    >>> round(float(chi2([1.0, 2.0], [[1.0, 0.0], [0.0, 4.0]])), 12)
    2.0
    """
    d, c = np.asarray(difference, np.float64), np.asarray(covariance, np.float64)
    if d.ndim == 0 or c.shape != (d.shape[-1],) * 2:
        raise ValueError(f"chi2: expected a covariance (B, B) for differences (*, B), found {c.shape} for {d.shape}")
    check_finite("difference", d.reshape(-1, d.shape[-1]))
    standard = linalg.solve_triangular(_cholesky(c), d.reshape(-1, d.shape[-1]).T, lower=True)
    factor = 1.0 if n_replicas is None else hartlap(n_replicas, d.shape[-1])
    return np.asarray(factor * (standard**2).sum(0).reshape(d.shape[:-1]))


def _cholesky(covariance: Floats) -> Floats:
    """The lower Cholesky factor (B, B), or ``ValueError`` where the covariance is not positive definite."""
    check_finite("covariance", covariance)
    scale = np.sqrt(np.abs(np.diag(covariance)))
    if not np.allclose(covariance, covariance.T, rtol=1e-8, atol=0):
        raise ValueError("covariance: expected a symmetric matrix, found one that is not")
    flat = np.flatnonzero(np.diag(covariance) <= 0)
    if flat.size:
        raise ValueError(f"singular covariance: no variance in bins {flat.tolist()}; merge them or leave them out")
    values = linalg.eigvalsh(covariance / np.outer(scale, scale))
    bad = int((values <= len(values) * np.finfo(np.float64).eps * values[-1]).sum())
    if bad:
        raise ValueError(
            f"singular covariance: {bad} of {len(values)} eigenvalues are not positive (of the correlations: smallest "
            f"{values[0]:.2g}); merge bins, leave one out where the total is fixed, or make more replicas than bins"
        )
    return np.asarray(linalg.cholesky(covariance, lower=True))


def triangular_discriminator(p: ArrayLike, q: ArrayLike) -> Floats:
    r"""Vincze-Le Cam divergence of two binned spectra, each first normalised to 1: (\*, B), (\*, B) -> (\*).

    .. math:: \Delta(p, q) = \frac12 \sum_b \frac{(p_b - q_b)^2}{p_b + q_b}

    from 0 (equal) to 1 (disjoint); bins that are empty in both contribute 0.  The literature often quotes
    :math:`10^3 \Delta`.  Statistics alone gives :math:`\sum_b 1/(4N) = (B - 1)/(4N)` on average for a sample of
    effective size N against its exact density (the -1 is the normalisation): see `triangular_expectation`.
    Source: Topsoe, IEEE Trans. Inf. Theory 46 (2000) 1602; its use for unfolding: Andreassen et al.,
    arXiv:1911.09107.

    Raises
    ------
    ValueError
        where a total, or the sum p + q of a bin that is not empty in both, is not positive.

    >>> triangular_discriminator([1, 3], [3, 1]).item(), triangular_discriminator([1, 0, 0], [0, 2, 0]).item()
    (0.25, 1.0)
    """
    first, second = _normalised("p", p), _normalised("q", q)
    if first.shape[-1] != second.shape[-1]:
        raise ValueError(f"expected the same bins in both spectra, found {first.shape[-1]} and {second.shape[-1]}")
    total, square = first + second, (first - second) ** 2
    wrong = (total <= 0) & (square > 0) | (total < 0)
    if wrong.any():
        at = np.flatnonzero(wrong.reshape(-1, total.shape[-1]).any(0))[:5].tolist()
        raise ValueError(f"expected p + q > 0 in each bin, found {int(wrong.sum())} bins where it is not, first {at}; "
                         f"merge bins until their net weight is positive")  # fmt: skip
    return np.asarray(0.5 * np.divide(square, total, out=np.zeros_like(total), where=total > 0).sum(-1))


def _normalised(what: str, contents: ArrayLike) -> Floats:
    values = np.asarray(contents, np.float64)
    if values.ndim == 0:
        raise ValueError(f"{what}: expected bin contents (*, B), found one number")
    total = values.sum(-1, keepdims=True)
    _positive(what, total)
    return np.asarray(values / total)


def triangular_expectation(n_bins: int, n_p: float, n_q: float = np.inf) -> tuple[float, float]:
    r"""Mean and standard deviation of `triangular_discriminator` for two samples of one density.

    .. math:: \langle\Delta\rangle = \frac{B-1}{4}\left(\frac1{N_p} + \frac1{N_q}\right), \qquad
              \sigma = \frac{\sqrt{2(B-1)}}{4}\left(\frac1{N_p} + \frac1{N_q}\right)

    for B filled bins and effective sizes N of the events *in* the bins (infinite for exact probabilities):
    4 Delta / (1/N_p + 1/N_q) is a chi-squared of B - 1 degrees of freedom once every bin has some ten events.

    >>> triangular_expectation(51, 1000)
    (0.0125, 0.0025)
    """
    unit = (1 / n_p + 1 / n_q) / 4
    return (n_bins - 1) * unit, float(np.sqrt(2 * (n_bins - 1)) * unit)


# -- two-sample scores -------------------------------------------------------------------------------------------------


def reliability(
    log_numerator: ArrayLike,
    log_denominator: ArrayLike,
    *,
    weight_numerator: ArrayLike | None = None,
    weight_denominator: ArrayLike | None = None,
    bins: int | ArrayLike = 10,
) -> Reliability:
    r"""The reliability curve of a log density ratio: predicted against observed fractions of the numerator class.

    With s = r/(1 + r) for each event, y = 1 in the numerator and 0 in the denominator, and each class's weights divided
    by their total, a bin of log r holds

    .. math:: \mathrm{predicted} = \frac{\sum w s}{\sum w}, \quad \mathrm{observed} = \frac{\sum w y}{\sum w}, \quad
              \sigma^2 = \frac{\kappa_1 \sum w s (1 - s)^2 + \kappa_0 \sum w (1 - s) s^2}{(\sum w)^2}

    with kappa = sum w^2 / sum w of each class.  An exact ratio has observed = predicted within sigma in every bin, with
    signed weights too.

    Parameters
    ----------
    log_numerator, log_denominator:
        log p1(x)/p0(x) of the events of each class (N1,), (N0,).
    bins:
        A number of bins, equally filled in abs(w) s (1 - s), which is where events can disagree with the ratio (fewer
        where values are tied), or edges in log r, the outermost of which should take in everything: events outside are
        an error.

    Raises
    ------
    ValueError
        for values that are not finite, a class without positive total weight, or events outside the edges.

    >>> rng = np.random.default_rng(1)
    >>> curve = reliability(2 * rng.normal(1, 1, 20000), 2 * rng.normal(-1, 1, 20000), bins=5)
    >>> bool((abs(curve.pulls) < 3).all()), curve.predicted.round(2).tolist()
    (True, [0.07, 0.31, 0.5, 0.69, 0.93])
    """
    s1, w1 = _scores("numerator", log_numerator, weight_numerator)
    s0, w0 = _scores("denominator", log_denominator, weight_denominator)
    score, weight = np.concatenate([s1, s0]), np.concatenate([w1, w0])
    label = np.repeat([1.0, 0.0], [len(s1), len(s0)])
    predicted = special.expit(score)
    edges = _log_edges(score, np.abs(weight) * predicted * (1 - predicted), bins)
    inside = np.clip(np.searchsorted(edges, score, side="right") - 1, 0, len(edges) - 2)

    def binned(values: Floats) -> Floats:
        return np.bincount(inside, values, minlength=len(edges) - 1).astype(np.float64)

    total, square = binned(weight), binned(weight**2)
    with np.errstate(divide="ignore", invalid="ignore"):  # bins without weight are NaN, as the docstring says
        found = binned((weight * (label - predicted)) ** 2)
        spread = np.sqrt(_binned_variance(weight, label, predicted, binned, found)) / np.abs(total)
        curve = binned(weight * predicted) / total, binned(weight * label) / total, spread, total**2 / square
    return Reliability(edges, *(np.where(total == 0, np.nan, part) for part in curve))


def _log_edges(score: Floats, size: Floats, bins: int | ArrayLike) -> Floats:
    """Edges in log ratio: those given, or ``bins`` equally filled ones from the smallest to the largest score."""
    if isinstance(bins, (int, np.integer)):
        if bins < 1:
            raise ValueError(f"bins: expected at least 1, found {bins}")
        size = size if size.any() else np.ones_like(size)  # every event is certain
        order = np.argsort(score, kind="stable")
        share = np.cumsum(size[order]) / size.sum()
        inner = score[order[np.searchsorted(share, np.arange(1, bins) / bins)]]
        edges = np.unique(np.concatenate([[score.min()], inner, [score.max()]]))
        return edges if len(edges) > 1 else edges + np.array([-0.5, 0.5])
    edges = np.asarray(bins, np.float64)
    if edges.ndim != 1 or len(edges) < 2 or (np.diff(edges) <= 0).any():
        raise ValueError("bins: expected a number or at least 2 rising edges")
    outside = int(((score < edges[0]) | (score > edges[-1])).sum())
    if outside:
        raise ValueError(
            f"bins: expected edges around all log ratios, found {outside} of {len(score)} outside "
            f"[{edges[0]:g}, {edges[-1]:g}]; they run from {score.min():g} to {score.max():g}"
        )
    return edges


def _binned_variance(
    weight: Floats, label: Floats, s: Floats, binned: Callable[[Floats], Floats], empirical: Floats
) -> Floats:
    """Of sum w (y - s) in each bin, for an exact ratio: both classes tell how many of either to expect.

    An estimate from the events found knows nothing of a class of which a bin has none.  With kappa_c = sum w^2 / sum w
    of class c, the events of both classes estimate int p_1 (1 - s)^2 kappa_1 + int p_0 s^2 kappa_0.  kappa is that of
    the bin's own events and, of few, that of the whole class.
    """
    parts = []
    for y, share in ((1.0, s * (1 - s) ** 2), (0.0, (1 - s) * s**2)):
        own = np.where(label == y, weight, 0.0)
        whole = np.sum(own**2) / np.sum(own)
        few = 10 * whole  # ten events of the class
        kappa = (binned(own**2) + whole * few) / (np.maximum(binned(own), 0) + few)
        parts.append(kappa * binned(weight * share))
    # signed weights may leave a bin's sum negative by chance
    pooled = parts[0] + parts[1]
    return np.where(pooled > 0, pooled, empirical)


def roc_auc(
    score_numerator: ArrayLike,
    score_denominator: ArrayLike,
    *,
    weight_numerator: ArrayLike | None = None,
    weight_denominator: ArrayLike | None = None,
) -> Score:
    r"""The area under the ROC curve with weights: P(score of a numerator event > that of a denominator event).

    .. math:: A = \sum_{ij} w_i v_j \left(1[s_i > u_j] + \tfrac12 1[s_i = u_j]\right) \Big/ \sum_i w_i \sum_j v_j

    exact with ties and with signed weights; 0.5 = indistinguishable.  Were both weighted densities the same, with
    (mid-)distribution function F of the scores, its variance is to order 1/N

    .. math:: \sum_i \hat w_i^2 (F(s_i) - \tfrac12)^2 + \sum_j \hat v_j^2 (F(u_j) - \tfrac12)^2

    (weights divided by their totals; 1/12 (1/n_1 + 1/n_0) for weights that do not depend on the score), F taken from
    both samples.  Source: Hanley, McNeil, Radiology 143 (1982) 29; DeLong et al., Biometrics 44 (1988) 837.

    Scores are any increasing function of the log ratio, of events that the classifier was not trained on.

    Raises
    ------
    ValueError
        for scores that are not finite or a class without positive total weight.

    >>> roc_auc([2.0, 3.0], [1.0, 2.0]).value
    0.875
    """
    s1, w1 = _scores("numerator", score_numerator, weight_numerator)
    s0, w0 = _scores("denominator", score_denominator, weight_denominator)
    below1, below0 = mid_distribution(s1, s0, w0), mid_distribution(s0, s1, w1)
    share1 = (below1 + mid_distribution(s1, s1, w1)) / 2
    share0 = (below0 + mid_distribution(s0, s0, w0)) / 2
    variance = np.sum((w1 * (share1 - 0.5)) ** 2) + np.sum((w0 * (share0 - 0.5)) ** 2)
    return Score(float(w1 @ below1), float(np.sqrt(variance)))


def mid_distribution(at: Floats, score: Floats, weight: Floats) -> Floats:
    """The weight of ``score`` (M,) below each value of ``at`` (N,), plus half of that exactly there.

    >>> mid_distribution(np.array([1.0, 2.0]), np.array([1.0, 1.5]), np.array([0.5, 0.5])).tolist()
    [0.25, 1.0]
    """
    order = np.argsort(score, kind="stable")
    total = np.concatenate([[0.0], np.cumsum(weight[order])])
    found = np.searchsorted(score[order], at, side="left"), np.searchsorted(score[order], at, side="right")
    return np.asarray((total[found[0]] + total[found[1]]) / 2)


def two_sample_accuracy(
    log_numerator: ArrayLike,
    log_denominator: ArrayLike,
    *,
    weight_numerator: ArrayLike | None = None,
    weight_denominator: ArrayLike | None = None,
) -> Score:
    r"""The classifier two-sample test's score (C2ST): the balanced accuracy of the cut log r > 0, with weights.

    .. math:: a = \tfrac12 \left(\sum_i \hat w_i h(s_i) + \sum_j \hat v_j (1 - h(u_j))\right), \quad
              h = 1, \tfrac12, 0 \text{ for } s >, =, < 0

    0.5 = indistinguishable, 1 = separable.  Were both samples of one density, its variance is
    :math:`\tfrac14 [\sum \hat w^2 (h - \bar h)^2 + \sum \hat v^2 (h - \bar h)^2]`, a bar being the mean over both:
    1/(4 N) for N events of weight 1 in total, evenly shared and evenly classified.
    Source: Lopez-Paz, Oquab, arXiv:1610.06545.

    The log ratios must be of events that the classifier was not trained on.

    Raises
    ------
    ValueError
        for log ratios that are not finite or a class without positive total weight.

    >>> two_sample_accuracy([1.0, 2.0, -1.0, 3.0], [-1.0, -2.0, 0.0, 4.0]).value
    0.6875
    """
    s1, w1 = _scores("numerator", log_numerator, weight_numerator)
    s0, w0 = _scores("denominator", log_denominator, weight_denominator)
    h1, h0 = (np.sign(s1) + 1) / 2, (np.sign(s0) + 1) / 2
    found = float(w1 @ h1), float(w0 @ h0)
    mean = sum(found) / 2
    variance = (np.sum((w1 * (h1 - mean)) ** 2) + np.sum((w0 * (h0 - mean)) ** 2)) / 4
    return Score(0.5 + (found[0] - found[1]) / 2, float(np.sqrt(variance)))


def _scores(what: str, score: ArrayLike, weight: ArrayLike | None) -> tuple[Floats, Floats]:
    """Finite scores (N,) and weights that sum to 1 (N,)."""
    s = np.asarray(score, np.float64)
    w = np.ones(s.shape) if weight is None else np.asarray(weight, np.float64)
    if s.ndim != 1 or w.shape != s.shape:
        raise ValueError(f"{what}: expected scores (N,) and weights (N,), found shapes {s.shape} and {w.shape}")
    check_finite(f"{what} scores", s)
    check_finite(f"{what} weights", w)
    _positive(f"{what} weights", w.sum())
    return s, w / w.sum()


# -- calibration of posteriors -----------------------------------------------------------------------------------------


def ranks(draws: ArrayLike, truth: ArrayLike, *, seed: int) -> Ints:
    r"""Simulation-based calibration's ranks: how many of L posterior draws lie below the truth, 0 .. L.

    draws (\*, L), truth (\*) -> (\*) int64.  Draws that equal the truth count as below with a rank drawn evenly among
    the tied places (``seed``), so that discrete parameters have uniform ranks too.

    Raises
    ------
    ValueError
        for shapes that do not fit or values that are not finite.

    >>> ranks([[0.1, 0.4, 0.9], [1.0, 2.0, 3.0]], [0.5, 0.0], seed=1).tolist()
    [2, 0]
    """
    d, t = _draws(draws, truth)
    tied = (d == t[..., None]).sum(-1)
    return np.asarray((d < t[..., None]).sum(-1) + np.random.default_rng(seed).integers(0, tied, endpoint=True))


def weighted_ranks(draws: ArrayLike, truth: ArrayLike, weight: ArrayLike) -> Floats:
    r"""The share of the weight of the posterior draws that lies below the truth (ties: half): in [0, 1].

    draws (\*, L), truth (\*), weight (\*, L) -> (\*).  For draws with importance weights; uniform on [0, 1] as L grows.

    Raises
    ------
    ValueError
        for shapes that do not fit, values that are not finite, or a total weight that is not positive.

    >>> weighted_ranks([[0.1, 0.4, 0.9]], [0.5], [[1.0, 1.0, 2.0]]).tolist()
    [0.5]
    """
    d, t = _draws(draws, truth)
    w = np.broadcast_to(np.asarray(weight, np.float64), d.shape)
    _positive("weight", w.sum(-1))
    below = (np.sign(t[..., None] - d) + 1) / 2
    return np.asarray((w * below).sum(-1) / w.sum(-1))


def _draws(draws: ArrayLike, truth: ArrayLike) -> tuple[Floats, Floats]:
    d, t = np.asarray(draws, np.float64), np.asarray(truth, np.float64)
    if d.ndim == 0 or d.shape[:-1] != t.shape:
        raise ValueError(f"expected draws (*, L) and truth (*), found {d.shape} and {t.shape}")
    check_finite("draws", d.ravel())
    check_finite("truth", t.ravel())
    return d, t


def rank_uniformity(
    rank: ArrayLike, n_draws: int, *, bins: int | None = None, weight: ArrayLike | None = None
) -> float:
    r"""The p-value of the hypothesis that ranks (N,) are uniform on 0 .. L: a chi-squared of their histogram.

    .. math:: \chi^2 = \sum_b \left(n_b - \tfrac{W}{B}\right)^2 \Big/ \tfrac{\sum w^2}{B}, \qquad
              n_b = \sum_{i \in b} w_i, \quad W = \sum w

    of B - 1 degrees of freedom; ``weight`` (N,) are weights of the N trials that do not depend on the rank.

    ``bins`` must divide L + 1 (else unequal bins fake a slope); left out, it is the largest divisor that leaves an
    effective 5 trials per bin.  A p-value says that something is wrong, the histogram says what.

    Raises
    ------
    ValueError
        for ranks outside 0 .. L, bins that do not divide L + 1, or too few trials for two bins.

    >>> rank_uniformity(np.arange(100), 99)
    1.0
    """
    r = np.asarray(rank)
    if r.ndim != 1 or r.dtype.kind not in "iu" or not r.size or r.min() < 0 or r.max() > n_draws:
        raise ValueError(f"ranks: expected integers (N,) in 0 .. {n_draws}, found {r.dtype} of shape {r.shape}"
                         + (f" from {r.min()} to {r.max()}" if r.size else ""))  # fmt: skip
    w = np.ones(r.shape) if weight is None else np.asarray(weight, np.float64)
    _positive("weight", w.sum())
    b = _rank_bins(n_draws + 1, float(effective_size(w)), bins)
    content = np.bincount(r * b // (n_draws + 1), w, minlength=b)
    value = np.sum((content - w.sum() / b) ** 2) / (np.sum(w**2) / b)
    return float(special.chdtrc(b - 1, value))


def _rank_bins(places: int, size: float, bins: int | None) -> int:
    if bins is not None:
        if bins < 2 or places % bins:
            raise ValueError(f"bins: expected a number from 2 that divides draws + 1 = {places}, found {bins}")
        return bins
    fitting = [b for b in range(2, places + 1) if places % b == 0 and size / b >= 5]
    if not fitting:
        raise ValueError(
            f"ranks: expected a divisor of draws + 1 = {places} that leaves 5 trials per bin, found none for an "
            f"effective {size:.3g} trials; use more trials, or a number of draws such as 99"
        )
    return fitting[-1]
