r"""p-values, standard deviations, and counting experiments.

One-sided throughout: :math:`p = 1 - \Phi(Z)`, so that Z = 5 is :math:`p = 2.87 \times 10^{-7}`.  Tails are kept as
logarithms, :math:`\ln p`, wherever p itself could be too small for a floating-point number (below 1e-308, Z = 37.5).

What to use when, for n events where b were expected:

- b is known: `log_poisson_p`, `counting_z` (exact), `asymptotic_z` (large counts, or the median that is expected,
  with n = s + b).
- b is known up to :math:`b \pm \sigma`: `asymptotic_z` with ``sigma``.
- b comes from m events of a region tau times as large: `log_on_off_p`, `on_off_z` (exact), `li_ma_z` (large counts).

A p-value of a count is discrete, and so is never uniform: ``ties="mid"`` gives an event that is as extreme as the
observed one half of its probability, ``ties="random"`` a random share, with which p is uniform.

Sources: Cowan, Cranmer, Gross, Vitells, arXiv 1007.1727; Cousins, Linnemann, Tucker, arXiv physics/0702156; Li and Ma,
Astrophys. J. 272 (1983) 317.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import special

from ..errors import check_finite

__all__ = [
    "asymptotic_z",
    "counting_z",
    "li_ma_z",
    "log_chi2_p",
    "log_on_off_p",
    "log_p_of_z",
    "log_poisson_p",
    "on_off_p",
    "on_off_z",
    "p_of_z",
    "poisson_p",
    "z_of_log_p",
    "z_of_p",
]

Floats = NDArray[np.float64]
Tail = Literal["excess", "deficit"]
Ties = Literal["full", "mid", "random"]

_LARGE = 5e4  # above, scipy's incomplete gamma functions stop before they are there
_TINY = 1e-280  # below, a sum of a few more terms could have lost digits to subnormal numbers


# -- p and Z -----------------------------------------------------------------------------------------------------------


def z_of_p(p: ArrayLike) -> Floats:
    r""":math:`Z = \Phi^{-1}(1 - p)` of p-values (*), exact down to the smallest number.

    p = 0 is Z = inf, p = 1 is -inf.

    Raises
    ------
    ValueError
        for a p outside [0, 1].

    >>> z_of_p([0.1, 2.866515718791939e-07, 1e-300]).round(6).tolist()
    [1.281552, 5.0, 37.047096]
    """
    found = np.asarray(p, np.float64)
    if not ((found >= 0) & (found <= 1)).all():
        raise ValueError(f"p: expected p-values in [0, 1], found {found[~((found >= 0) & (found <= 1))][0]}")
    return np.asarray(-special.ndtri(found))


def p_of_z(z: ArrayLike) -> Floats:
    r""":math:`p = 1 - \Phi(Z)` (*).

    >>> f"{p_of_z(5.0):.3e}"
    '2.867e-07'
    """
    return np.asarray(special.ndtr(-np.asarray(z, np.float64)))


def z_of_log_p(log_p: ArrayLike) -> Floats:
    r"""Z of :math:`\ln p` (*), also where p is too small to be a number.

    Raises
    ------
    ValueError
        for a logarithm above 0, or NaN.

    >>> z_of_log_p(-5000.0).round(3).item()
    99.945
    """
    found = np.asarray(log_p, np.float64)
    if not (found <= 0).all():
        raise ValueError(f"log_p: expected logarithms of p-values, up to 0, found {found[~(found <= 0)][0]}")
    # near p = 1 the quantile of the complement keeps the digits
    low = special.ndtri_exp(np.minimum(found, -0.5))
    return np.asarray(np.where(found < -0.5, -low, special.ndtri(-np.expm1(np.maximum(found, -0.5)))))


def log_p_of_z(z: ArrayLike) -> Floats:
    r""":math:`\ln(1 - \Phi(Z))` (*).

    >>> log_p_of_z(100.0).round(3).item()
    -5005.524
    """
    return np.asarray(special.log_ndtr(-np.asarray(z, np.float64)))


def log_chi2_p(t: ArrayLike, dof: ArrayLike) -> Floats:
    r""":math:`\ln P(\chi^2_k > t)` (*), also where it is too small to be a number.

    Raises
    ------
    ValueError
        for t below 0, degrees of freedom that are not positive, or numbers that are not finite.

    >>> log_chi2_p(5000.0, 2).item()
    -2500.0
    """
    k = _expectation("dof", dof)
    if not (k > 0).all():
        raise ValueError("dof: expected degrees of freedom above 0, found 0")
    x, a = np.broadcast_arrays(_expectation("t", t) / 2, k / 2)
    with np.errstate(divide="ignore"):
        p = np.asarray(special.gammaincc(a, x))
        log_p = np.asarray(np.log(p))
    far = p < _TINY
    if far.any():
        x, a = x[far], a[far]
        terms = _series(lambda k: (a - k) / x, x.shape)  # of half-integer a asymptotic, k stays far below x
        log_p[far] = special.xlogy(a - 1, x) - x - special.gammaln(a) + np.log(terms)
    return log_p


# -- counts where the expectation is known -----------------------------------------------------------------------------


def poisson_p(
    observed: ArrayLike, expected: ArrayLike, *, tail: Tail = "excess", ties: Ties = "full", seed: int | None = None
) -> Floats:
    r"""The p-value of Poisson counts: :math:`P(N \ge n | b)` of an excess, :math:`P(N \le n | b)` of a deficit.

    Parameters
    ----------
    observed, expected:
        n, whole numbers, and b from 0 (*), of shapes that go together.
    ties:
        How much of P(N = n) counts: all of it (``"full"``: P(p < a) is at most a), half of it (``"mid"``), or a uniform
        share (``"random"``, with ``seed``: p is exactly uniform).

    Raises
    ------
    ValueError
        for counts that are not whole or below 0, expectations below 0, numbers that are not finite, or random ties
        without a seed.

    >>> poisson_p([0, 3, 10], 3.0).round(6).tolist()
    [1.0, 0.57681, 0.001102]
    >>> poisson_p(3, 3.0, tail="deficit").round(6).item()
    0.647232
    """
    if ties == "full":
        return np.asarray(np.exp(log_poisson_p(observed, expected, tail=tail)))
    n, b = _counts("observed", observed), _expectation("expected", expected)
    at = np.exp(special.xlogy(n, b) - b - special.gammaln(n + 1))
    return np.asarray(np.clip(np.exp(_log_poisson(n, b, tail)) - _share(ties, at.shape, seed) * at, 0.0, 1.0))


def log_poisson_p(observed: ArrayLike, expected: ArrayLike, *, tail: Tail = "excess") -> Floats:
    r"""The logarithm of `poisson_p`, for any number of standard deviations.

    :math:`\ln P(N \ge n)` is the regularised incomplete gamma function, and where that is no longer a number

    .. math:: \ln P(N = n) + \ln \Big(1 + \frac{b}{n + 1} + \frac{b^2}{(n + 1)(n + 2)} + \dots\Big).

    Raises
    ------
    ValueError
        as `poisson_p`.

    >>> log_poisson_p([6, 1000], [3.0, 3.0]).round(4).tolist()
    [-2.4779, -4816.5129]
    """
    return _log_poisson(_counts("observed", observed), _expectation("expected", expected), tail)


def counting_z(observed: ArrayLike, expected: ArrayLike, *, tail: Tail = "excess") -> Floats:
    r"""The exact significance of counts (*), Z of `log_poisson_p`; the sign is that of excess over expectation.

    A count of 0 is no excess at all: p = 1 and Z = -inf; likewise Z is +inf where events are observed and 0 expected.

    Raises
    ------
    ValueError
        as `poisson_p`.

    >>> counting_z(25, 10.0).round(4).item()
    3.9058
    """
    z = z_of_log_p(log_poisson_p(observed, expected, tail=tail))
    return np.asarray(z if tail == "excess" else -z)


def asymptotic_z(observed: ArrayLike, expected: ArrayLike, *, sigma: ArrayLike | None = None) -> Floats:
    r"""The significance (*) by the likelihood ratio, negative for a deficit.

    .. math:: Z = \pm\sqrt{2 \big(n \ln (n / b) - (n - b)\big)}

    which for n = s + b is :math:`\sqrt{2((s + b) \ln(1 + s/b) - s)}`, the median of what is expected of a signal s.

    Parameters
    ----------
    observed, expected:
        n from 0, not necessarily whole, and b above 0.
    sigma:
        Standard deviation of b (absolute), from 0.  b is then profiled, as if measured in
        :math:`m = (b/\sigma)^2` events of a region :math:`\tau = b/\sigma^2` times as large: `li_ma_z` with these.

    Raises
    ------
    ValueError
        for n below 0, b not above 0, sigma below 0, or numbers that are not finite.

    >>> asymptotic_z(25, 10.0).round(4).item()
    3.9767
    >>> asymptotic_z(25, 10.0, sigma=3.0).round(4).item()
    2.6543
    """
    n, b = _expectation("observed", observed), _expectation("expected", expected)
    if not (b > 0).all():
        raise ValueError("expected: expected expectations above 0, found 0; use counting_z, or merge bins")
    if sigma is None:
        return np.asarray(np.sign(n - b) * np.sqrt(2 * np.maximum(special.rel_entr(n, b) - (n - b), 0.0)))
    n, b, s = np.broadcast_arrays(n, b, _expectation("sigma", sigma))
    with np.errstate(divide="ignore", over="ignore"):
        tau = b / np.square(s)
    known = ~(np.isfinite(tau) & np.isfinite(b * tau))
    tau = np.where(known, 1.0, tau)
    return np.asarray(np.where(known, asymptotic_z(n, b), _li_ma(n, b * tau, 1 / tau)))


# -- counts where the expectation comes from another region ------------------------------------------------------------


def on_off_p(on: ArrayLike, off: ArrayLike, tau: ArrayLike, *, ties: Ties = "full", seed: int | None = None) -> Floats:
    r"""The exact p-value of n events "on" source where the background made m in a region tau times as large.

    Given n + m, n is binomial with :math:`1/(1 + \tau)` whatever the background's rate is, and
    :math:`p = P(N \ge n) = I_{1/(1+\tau)}(n, m + 1)`, a regularised incomplete beta function; its Z is known as
    :math:`Z_{Bi}` (arXiv physics/0702156, equation 14).

    Parameters
    ----------
    on, off:
        n and m, whole numbers (*).
    tau:
        Exposure off over exposure on, above 0.
    ties:
        As of `poisson_p`.

    Raises
    ------
    ValueError
        for counts that are not whole or below 0, a tau that is not above 0, numbers that are not finite, or random ties
        without a seed.

    >>> on_off_p(140, 100, 1.2).round(9).item()
    4.1856e-05
    """
    n, m = np.broadcast_arrays(_counts("on", on), _counts("off", off))
    x = 1 / (1 + _ratio("tau", tau))
    p = np.exp(_log_binomial(n, m, x))
    if ties == "full":
        return np.asarray(p)
    log_at = -special.betaln(n + 1, m + 1) - np.log(n + m + 1) + n * np.log(x) + m * np.log1p(-x)
    return np.asarray(np.clip(p - _share(ties, log_at.shape, seed) * np.exp(log_at), 0.0, 1.0))


def log_on_off_p(on: ArrayLike, off: ArrayLike, tau: ArrayLike) -> Floats:
    """The logarithm of `on_off_p`, for any number of standard deviations.

    Raises
    ------
    ValueError
        as `on_off_p`.

    >>> log_on_off_p(5000, 10, 1.0).round(2).item()
    -3402.59
    """
    n, m = np.broadcast_arrays(_counts("on", on), _counts("off", off))
    return _log_binomial(n, m, 1 / (1 + _ratio("tau", tau)))


def on_off_z(on: ArrayLike, off: ArrayLike, tau: ArrayLike) -> Floats:
    """The exact significance (*) of `on_off_p`; -inf where nothing is on.

    Raises
    ------
    ValueError
        as `on_off_p`.

    >>> on_off_z([4, 200], [5, 10], [5.0, 0.1]).round(2).tolist()  # columns of table 1 of physics/0702156
    [1.66, 2.2]
    """
    return z_of_log_p(log_on_off_p(on, off, tau))


def li_ma_z(on: ArrayLike, off: ArrayLike, alpha: ArrayLike) -> Floats:
    r"""The significance (*) of Li and Ma, equation 17, negative for a deficit.

    .. math::
        Z = \pm\sqrt{2} \Big[n \ln\frac{1 + \alpha}{\alpha} \frac{n}{n + m}
        + m \ln (1 + \alpha) \frac{m}{n + m}\Big]^{1/2}

    the likelihood ratio with the background's rate profiled; alpha is the exposure on over off,
    :math:`1/\tau`.  The counts n (on) and m (off) need not be whole.

    Raises
    ------
    ValueError
        for counts below 0, an alpha that is not above 0, or numbers that are not finite.

    >>> li_ma_z(140, 100, 1 / 1.2).round(3).item()
    3.998
    """
    return _li_ma(_expectation("on", on), _expectation("off", off), _ratio("alpha", alpha))


def _li_ma(n: Floats, m: Floats, alpha: Floats) -> Floats:
    on = alpha * (n + m) / (1 + alpha)  # expected without a signal
    # the sum of both expectations is n + m: their Poisson deviances add up to equation 17
    deviance = special.rel_entr(n, on) - (n - on) + special.rel_entr(m, on / alpha) - (m - on / alpha)
    return np.asarray(np.sign(n - on) * np.sqrt(2 * np.maximum(deviance, 0.0)))


# -- tails -------------------------------------------------------------------------------------------------------------


def _log_poisson(n: Floats, b: Floats, tail: Tail) -> Floats:
    """log P(N >= n) or log P(N <= n), of checked arrays."""
    if tail not in ("excess", "deficit"):
        raise ValueError(f"tail: expected 'excess' or 'deficit', found {tail!r}")
    n, b = np.broadcast_arrays(n, b)
    excess = tail == "excess"
    with np.errstate(divide="ignore"):
        p = special.pdtrc(n - 1, b) if excess else special.pdtr(n, b)
        p = np.where(n == 0, 1.0, p) if excess else p
        log_p = np.asarray(np.log(p))
    large = (np.minimum(n, b) > _LARGE) & (np.abs(n - b) > 4 * np.sqrt(b)) & ((n > b) == excess) & (b > 0)
    if large.any():
        log_p[large] = _log_large(n[large] + (0 if excess else 1), b[large])
    far = (p < _TINY) & (b > 0) & ~large
    if far.any():
        n, b = n[far], b[far]
        at = special.xlogy(n, b) - b - special.gammaln(n + 1)
        terms = (lambda k: b / (n + k)) if excess else (lambda k: np.maximum(n - k + 1, 0.0) / b)
        log_p[far] = at + np.log(_series(terms, n.shape))
    return log_p


def _log_large(a: Floats, b: Floats) -> Floats:
    r"""The log of the smaller of the regularised incomplete gamma functions P(a, b) and Q(a, b), far from a = b.

    scipy 1.17's are cut off after 2,000 terms here.  Temme's expansion (DLMF 8.12.3 to 8.12.10), with
    :math:`\lambda = b/a` and :math:`\eta^2/2 = \lambda - 1 - \ln\lambda`, to the second term, at a rest of 1/a^2.
    """
    off = (b - a) / a
    eta = np.sign(off) * np.sqrt(2 * (off - np.log1p(off)))
    first = 1 / off - 1 / eta
    second = 1 / eta**3 - 1 / off**3 - 1 / off**2 - 1 / (12 * off)
    z = np.abs(eta) * np.sqrt(a)
    main = special.log_ndtr(-z)
    term = np.exp(-0.5 * z**2 - main) / np.sqrt(2 * np.pi * a) * (first + second / a)
    return np.asarray(main + np.log1p(np.sign(off) * term))


def _log_binomial(n: Floats, m: Floats, x: Floats) -> Floats:
    """log P(N >= n) for N of n + m trials with probability x, of checked arrays."""
    n, m, x = np.broadcast_arrays(n, m, x)
    with np.errstate(divide="ignore"):
        p = np.where(n == 0, 1.0, special.betainc(np.maximum(n, 1.0), m + 1, x))
        log_p = np.asarray(np.log(p))
    far = p < _TINY
    if far.any():
        n, m, x = n[far], m[far], x[far]
        at = n * np.log(x) + (m + 1) * np.log1p(-x) - np.log(n) - special.betaln(n, m + 1)
        log_p[far] = at + np.log(_series(lambda k: x * (n + m + k) / (n + k), n.shape))
    return log_p


def _series(ratio: Callable[[int], Floats], shape: tuple[int, ...]) -> Floats:
    """1 + r(1) + r(1) r(2) + ...; in tails this far out the ratios are below 1 and fall, or tend to one below 1."""
    term, total, k = np.ones(shape), np.ones(shape), 0
    while (np.abs(term) > 1e-17 * total).any():
        k += 1
        term = term * ratio(k)
        total = total + term
    return total


# -- input -------------------------------------------------------------------------------------------------------------


def _counts(what: str, given: ArrayLike) -> Floats:
    found = _expectation(what, given)
    if not (found == np.floor(found)).all():
        raise ValueError(f"{what}: expected whole numbers of events, found {found[found != np.floor(found)][0]:g}; an "
                         "exact p-value is of counts, asymptotic_z and li_ma_z take any number")  # fmt: skip
    return found


def _expectation(what: str, given: ArrayLike) -> Floats:
    found = np.asarray(given, np.float64)
    check_finite(what, found.reshape(-1))
    if (found < 0).any():
        raise ValueError(f"{what}: expected numbers from 0, found {found.min():g}")
    return found


def _ratio(what: str, given: ArrayLike) -> Floats:
    found = _expectation(what, given)
    if not (found > 0).all():
        raise ValueError(f"{what}: expected a ratio of exposures above 0, found 0")
    return found


def _share(ties: Ties, shape: tuple[int, ...], seed: int | None) -> Floats:
    """How much of P(N = n) does not count."""
    if ties == "mid":
        return np.full(shape, 0.5)
    if ties != "random":
        raise ValueError(f"ties: expected 'full', 'mid' or 'random', found {ties!r}")
    if seed is None:
        raise ValueError("ties='random' draws random numbers: expected seed=, found None")
    return np.random.default_rng(seed).random(shape)
