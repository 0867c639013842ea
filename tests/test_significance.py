"""p-values, standard deviations and counting experiments, against sums in many digits and published numbers."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import mpmath
import numpy as np
import pytest
from scipy import stats

from nuinfer.anomaly.significance import (
    asymptotic_z,
    counting_z,
    li_ma_z,
    log_chi2_p,
    log_on_off_p,
    log_p_of_z,
    log_poisson_p,
    on_off_p,
    on_off_z,
    p_of_z,
    poisson_p,
    z_of_log_p,
    z_of_p,
)

# the columns with whole numbers of table 1 of Cousins, Linnemann, Tucker, physics/0702156: n_on, n_off, tau, Z_Bi
TABLE = np.array([
    [4, 5, 5.0, 1.66],
    [50, 55, 2.0, 2.93],
    [67, 15, 0.5, 2.89],
    [200, 10, 0.1, 2.20],
    [523, 2327, 5.99, 5.93],
    [498426, 493434, 1.0, 5.01],
    [2119449, 23650096, 11.21, 6.40],
])  # fmt: skip


def log_tail(n: int, b: float, tail: str) -> float:
    """log P(N >= n) or P(N <= n) of a Poisson number, in 50 digits, without a cancellation."""
    if n == 0:
        return 0.0 if tail == "excess" else -b
    with mpmath.workdps(50):
        low = (0, mpmath.mpf(b)) if tail == "excess" else (mpmath.mpf(b), mpmath.inf)
        return float(mpmath.log(mpmath.gammainc(n + (tail == "deficit"), *low, regularized=True)))


# -- p and Z -----------------------------------------------------------------------------------------------------------


def test_p_and_z_are_inverse_far_into_the_tails() -> None:
    z = np.linspace(-8, 37, 91)
    assert z_of_p(p_of_z(z)[z > -5]) == pytest.approx(z[z > -5], abs=1e-9)
    assert z_of_log_p(log_p_of_z(z)[z > -5]) == pytest.approx(z[z > -5], abs=1e-9)
    far = np.array([40.0, 100.0, 1000.0])
    assert z_of_log_p(log_p_of_z(far)) == pytest.approx(far, rel=1e-12)


def test_five_sigma_is_what_everybody_quotes() -> None:
    assert p_of_z(5.0) == pytest.approx(2.866515718791939e-7, rel=1e-12)  # one-sided: the two-sided one is 5.7e-7
    with mpmath.workdps(40):
        assert float(mpmath.ncdf(-z_of_p(1e-300).item())) == pytest.approx(1e-300, rel=1e-10)


def test_certain_and_impossible() -> None:
    assert z_of_p([0.0, 1.0]).tolist() == [np.inf, -np.inf]
    assert z_of_log_p([-np.inf, 0.0]).tolist() == [np.inf, -np.inf]


# -- counts ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("tail", ["excess", "deficit"])
@pytest.mark.parametrize("b", [0.01, 3.0, 100.5, 4e4, 1e6])
def test_poisson_tails_are_exact_at_any_distance(tail: Any, b: float) -> None:
    """At 1e6, five standard deviations off, the incomplete gamma function of scipy is wrong by 5e-6."""
    side = 1 if tail == "excess" else -1
    counts = [int(max(b + side * z * np.sqrt(b), 0)) for z in (0, 1, 3, 4.2, 5, 8, 20, 39, 60)]
    counts += [int(b) + 500] if tail == "excess" else [0]
    found = log_poisson_p(counts, b, tail=tail)
    for n, log_p in zip(counts, found, strict=True):
        assert log_p == pytest.approx(log_tail(n, b, tail), rel=1e-10, abs=1e-9)


def test_tails_of_a_chi2_stay_numbers() -> None:
    """Of two and four degrees of freedom in closed form, and where the two ways meet."""
    t = np.array([0.0, 3.0, 50.0, 1200.0, 1400.0, 4000.0, 1e6])
    np.testing.assert_allclose(log_chi2_p(t, 2), -t / 2, rtol=1e-13)
    np.testing.assert_allclose(log_chi2_p(t, 4), np.log1p(t / 2) - t / 2, rtol=1e-13, atol=1e-15)
    for dof in (1.0, 3.7, 13.0, 60.0):
        exact = [float(mpmath.log(mpmath.gammainc(dof / 2, x / 2, mpmath.inf, regularized=True))) for x in t[1:]]
        np.testing.assert_allclose(log_chi2_p(t[1:], dof), exact, rtol=1e-12)
    with pytest.raises(ValueError, match="t: expected numbers from 0"):
        log_chi2_p(-1.0, 3)
    with pytest.raises(ValueError, match="dof: expected degrees of freedom above 0, found 0"):
        log_chi2_p(1.0, [3, 0])


def test_tails_of_a_count_overlap_in_it() -> None:
    n, b = np.arange(40)[:, None], np.array([0.5, 4.0, 17.3])
    both = poisson_p(n, b) + poisson_p(n, b, tail="deficit")
    assert both == pytest.approx(1 + stats.poisson.pmf(n, b), abs=1e-12)


def test_the_asymptotic_formula_is_that_of_the_design_and_the_exact_one_is_not() -> None:
    s, b = 15.0, 10.0
    assert asymptotic_z(s + b, b) == pytest.approx(np.sqrt(2 * ((s + b) * np.log(1 + s / b) - s)), rel=1e-12)
    assert counting_z(25, 10.0) == pytest.approx(stats.norm.isf(stats.poisson.sf(24, 10.0)), rel=1e-10)
    assert abs(counting_z(25, 10.0) - asymptotic_z(25, 10.0)) > 0.05
    assert abs(asymptotic_z(25, 10.0) - s / np.sqrt(b)) > 0.5  # s / sqrt(b), the naive one
    assert counting_z(10500, 1e4) == pytest.approx(asymptotic_z(10499.5, 1e4), abs=0.002)  # they meet at large counts


def test_signs_of_deficits() -> None:
    assert asymptotic_z(5, 10.0) < 0 < asymptotic_z(15, 10.0)
    assert counting_z(2, 10.0, tail="deficit") == pytest.approx(-stats.norm.isf(stats.poisson.cdf(2, 10.0)))
    assert li_ma_z(10, 100, 0.2) < 0 < li_ma_z(30, 100, 0.2)
    assert counting_z(0, 3.0) == -np.inf


def test_an_uncertain_expectation_is_a_region_beside_it() -> None:
    """The profile likelihood ratio of n and m = b^2 / sigma^2 in closed form, by b and sigma."""
    n, b, s = np.array([[25.0], [13.0], [4.0]]), 10.0, np.array([0.3, 3.0, 30.0])
    inside = n * np.log(n * (b + s**2) / (b**2 + n * s**2)) - b**2 / s**2 * np.log1p(s**2 * (n - b) / (b * (b + s**2)))
    assert asymptotic_z(n, b, sigma=s) == pytest.approx(np.sign(n - b) * np.sqrt(2 * inside), rel=1e-9)
    assert asymptotic_z(25, b, sigma=0.0) == asymptotic_z(25, b)
    assert asymptotic_z(25, b, sigma=1e-200) == asymptotic_z(25, b)
    assert asymptotic_z(25, b, sigma=3.0) < asymptotic_z(25, b) - 1


# -- on and off --------------------------------------------------------------------------------------------------------


def test_published_significances() -> None:
    on, off, tau, exact = TABLE.T
    assert on_off_z(on, off, tau) == pytest.approx(exact, abs=0.0051)
    assert np.abs(li_ma_z(on, off, 1 / tau) - exact).max() > 0.15  # of few events they differ


def test_li_and_ma_as_they_wrote_it() -> None:
    n, m, alpha = np.array([140.0, 33.0, 5.0]), np.array([100.0, 200.0, 3.0]), np.array([0.8, 0.1, 1.0])
    inside = n * np.log((1 + alpha) / alpha * n / (n + m)) + m * np.log((1 + alpha) * m / (n + m))
    assert li_ma_z(n, m, alpha) == pytest.approx(np.sqrt(2 * inside), rel=1e-10)
    assert li_ma_z([7, 0], [0, 7], 0.5) == pytest.approx([np.sqrt(2 * 7 * np.log(3)), -np.sqrt(2 * 7 * np.log(1.5))])


def test_on_off_is_binomial_and_far_tails_stay_numbers() -> None:
    n, m, tau = np.arange(1, 30)[:, None], np.arange(12), 2.5
    assert on_off_p(n, m, tau) == pytest.approx(stats.binom.sf(n - 1, n + m, 1 / 3.5), rel=1e-10)
    with mpmath.workdps(50):
        x, a, b = 1 / mpmath.mpf(2), 5000, 11
        exact = float(mpmath.log(mpmath.betainc(a, b, 0, x, regularized=True)))
    assert log_on_off_p(5000, 10, 1.0) == pytest.approx(exact, rel=1e-12)
    assert on_off_z(5000, 10, 1.0) > 80


def test_much_off_is_a_known_expectation() -> None:
    assert on_off_p(20, 10 * 10**7, 1e7) == pytest.approx(poisson_p(20, 10.0), rel=1e-5)


# -- uniformity --------------------------------------------------------------------------------------------------------


def test_random_ties_make_p_uniform_and_full_ones_do_not() -> None:
    """20,000 counts; the KS distance of the discrete p-value at b = 3 is the largest P(N = n), 0.22, not 0.01."""
    n = np.random.default_rng(1).poisson(3.0, 20_000)
    assert stats.kstest(poisson_p(n, 3.0, ties="random", seed=2), "uniform").pvalue > 0.01
    assert stats.kstest(poisson_p(n, 3.0, ties="random", tail="deficit", seed=2), "uniform").pvalue > 0.01
    assert stats.kstest(poisson_p(n, 3.0), "uniform").statistic > 0.15
    # a mid-p has mean 1/2 at any b, with a variance of at most 1/12
    assert poisson_p(n, 3.0, ties="mid").mean() == pytest.approx(0.5, abs=4 * np.sqrt(1 / 12 / 20_000))
    assert abs(poisson_p(n, 3.0).mean() - 0.5) > 0.05


def test_random_ties_of_on_off_whatever_the_rate_is() -> None:
    rng = np.random.default_rng(3)
    rate = rng.uniform(0.5, 20, 20_000)
    on, off = rng.poisson(rate), rng.poisson(2 * rate)
    assert stats.kstest(on_off_p(on, off, 2.0, ties="random", seed=1), "uniform").pvalue > 0.01
    # as if the background were known to be off / tau, the tails are too small
    known = poisson_p(on, np.maximum(off, 0.5) / 2, ties="random", seed=1)
    assert stats.kstest(known, "uniform").pvalue < 1e-10


def test_seeds() -> None:
    one, again, other = (poisson_p([3, 4, 5], 3.0, ties="random", seed=s) for s in (1, 1, 2))
    assert (one == again).all()
    assert (one != other).all()


# -- bad input ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        (lambda: z_of_p(1.5), r"expected p-values in \[0, 1\], found 1.5"),
        (lambda: z_of_p(np.nan), "expected p-values"),
        (lambda: z_of_log_p(0.1), "up to 0, found 0.1"),
        (lambda: poisson_p(2.5, 3.0), "expected whole numbers of events, found 2.5"),
        (lambda: poisson_p(-1, 3.0), "observed: expected numbers from 0, found -1"),
        (lambda: poisson_p(1, -3.0), "expected: expected numbers from 0, found -3"),
        (lambda: poisson_p(1, np.inf), "expected finite values"),
        (lambda: poisson_p(1, 1.0, tail="both"), "expected 'excess' or 'deficit'"),
        (lambda: poisson_p(1, 1.0, ties="random"), "expected seed=, found None"),
        (lambda: poisson_p(1, 1.0, ties="some"), "expected 'full', 'mid' or 'random'"),
        (lambda: asymptotic_z(1, 0.0), "expectations above 0, found 0"),
        (lambda: asymptotic_z(1, 1.0, sigma=-1.0), "sigma: expected numbers from 0"),
        (lambda: on_off_p(1, 1, 0.0), "tau: expected a ratio of exposures above 0"),
        (lambda: li_ma_z(1, 1, 0.0), "alpha: expected a ratio of exposures above 0"),
    ],
)  # fmt: skip
def test_bad_input_is_named(wrong: Callable[[], Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        wrong()
