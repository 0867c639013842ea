"""Constraints against scipy's densities, their samples against their own distribution, and their errors."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from scipy import stats

from nuinfer.likelihood import LogNormal, NegativeDensity, Normal, Poisson
from nuinfer.likelihood.constraints import Constraint

V = np.array([[4.0, 1.2], [1.2, 1.0]])
CASES: dict[str, tuple[Constraint, list[float], Callable[[Any], float]]] = {
    "normal": (Normal("a", 0.4, 2.0), [1.3], lambda t: stats.norm(t[0], 2.0).logpdf(0.4)),
    "correlated": (
        Normal(["a", "b"], [0.4, -0.2], covariance=V),
        [1.3, 0.7],
        lambda t: stats.multivariate_normal(t, V).logpdf([0.4, -0.2]),
    ),
    # a lognormal variable of median alpha; scipy's density of its logarithm
    "log-normal": (LogNormal("f", 1.1, 1.3), [0.8], lambda t: stats.norm(np.log(t[0] / 1.1), np.log(1.3)).logpdf(0)),
    "poisson": (Poisson("g", 7, scale=10.0), [0.9], lambda t: stats.poisson(10.0 * t[0]).logpmf(7)),
    "poisson, none seen": (Poisson("g", 0, scale=2.0), [0.9], lambda t: stats.poisson(2.0 * t[0]).logpmf(0)),
}  # fmt: skip


@pytest.mark.parametrize("case", CASES)
def test_is_minus_two_log_likelihood(case: str) -> None:
    """Differences between two points equal those of scipy's log densities; the minimum is 0, at the centre."""
    constraint, at, log_density = CASES[case]
    other = [0.5 * v + 0.3 for v in at]
    assert constraint(*at) - constraint(*other) == pytest.approx(-2 * (log_density(at) - log_density(other)), abs=1e-10)
    if all(v != 0 for v in constraint.observed):
        assert constraint.at(constraint.centre) == pytest.approx(0.0, abs=1e-12)
        assert np.abs(constraint.grad(*constraint.centre.values())).max() < 1e-12


@pytest.mark.parametrize("case", CASES)
def test_gradient_is_the_finite_difference(case: str) -> None:
    constraint, at, _ = CASES[case]
    for k, value in enumerate(at):
        up, down = list(at), list(at)
        up[k], down[k] = value + 1e-5, value - 1e-5
        slope = (constraint(*up) - constraint(*down)) / 2e-5
        assert constraint.grad(*at)[k] == pytest.approx(slope, rel=1e-6, abs=1e-7)


@pytest.mark.parametrize("case", ["normal", "correlated", "log-normal", "poisson"])
def test_asimov_has_its_minimum_where_it_was_made(case: str) -> None:
    constraint, at, _ = CASES[case]
    values = dict(zip(constraint.names, at, strict=True))
    found = constraint.asimov(values)
    assert found.at(values) == pytest.approx(0.0, abs=1e-12)
    assert np.abs(found.grad(*at)).max() < 1e-12
    assert constraint.at(values) > 1e-3  # and not the constraint it was made of


def test_width_is_where_it_has_risen_by_one() -> None:
    assert Normal("a", 0.4, 2.0)(0.4 + 2.0) == pytest.approx(1.0)
    assert Normal(["a", "b"], [0, 0], covariance=V).width == pytest.approx({"a": 2.0, "b": 1.0})
    # to first order, at a factor near 1 and at a large count
    small = LogNormal("f", 1.1, 1.001)
    assert small(1.1 + small.width["f"]) == pytest.approx(1.0, rel=2e-3)
    many = Poisson("g", 1_000_000, scale=2e6)
    assert many(0.5 + many.width["g"]) == pytest.approx(1.0, rel=2e-3)
    assert Poisson("g", 0, scale=4.0).width == {"g": 0.25}


def test_samples_have_the_distribution_of_the_observable() -> None:
    """Kolmogorov-Smirnov at 1e-4 for the continuous ones, mean and variance within 4 sigma for the counts."""
    rng, n = np.random.default_rng(5), 4000

    def drawn(constraint: Constraint, **values: float) -> np.ndarray[Any, Any]:
        return np.array([constraint.sample(values, rng).observed for _ in range(n)])

    assert stats.kstest(drawn(Normal("a", 0.0, 2.0), a=1.5)[:, 0], stats.norm(1.5, 2.0).cdf).pvalue > 1e-4
    assert stats.kstest(np.log(drawn(LogNormal("f", kappa=1.3), f=0.8)[:, 0]),
                        stats.norm(math.log(0.8), math.log(1.3)).cdf).pvalue > 1e-4  # fmt: skip
    pair = drawn(Normal(["a", "b"], covariance=V), a=1.0, b=-1.0)
    white = np.linalg.solve(np.linalg.cholesky(V), (pair - [1.0, -1.0]).T)
    assert all(stats.kstest(row, stats.norm.cdf).pvalue > 1e-4 for row in white)
    assert abs(float(np.mean(white[0] * white[1]))) < 4 / math.sqrt(n)
    counts = drawn(Poisson("g", 5, scale=10.0), g=0.7)[:, 0]
    assert abs(counts.mean() - 7.0) < 4 * math.sqrt(7.0 / n)
    assert abs(counts.var(ddof=1) - 7.0) < 4 * math.sqrt((2 * 49 + 7) / n)
    assert np.array_equal(counts, np.round(counts))


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: Normal("a", sigma=0.0), "positive sigma"),
        (lambda: Normal("a", sigma=1.0, covariance=[[1.0]]), "not both"),
        (lambda: Normal(["a", "b"], covariance=[[1.0, 1.0], [1.0, 1.0]]), "positive definite covariance, found the"),
        (lambda: Normal(["a", "b"], covariance=[[1.0, 0.2], [0.0, 1.0]]), "symmetric"),
        (lambda: Normal(["a", "b"], covariance=np.eye(3)), r"expected a covariance \(2, 2\)"),
        (lambda: Normal(["a", "a"]), "expected different parameters"),
        (lambda: Normal(["a", "b"], [1.0, 2.0, 3.0]), "expected 2 observed values, found 3"),
        (lambda: Normal("a", np.nan), "observed"),
        (lambda: LogNormal("f", kappa=1.0), "above 1"),
        (lambda: LogNormal("f", -1.0), "positive observed factor"),
        (lambda: Poisson("g", -1, scale=1.0), "count from 0"),
        (lambda: Poisson("g", 1, scale=0.0), "positive scale"),
    ],
)
def test_bad_constraints_are_refused(make: Callable[[], Constraint], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        make()


@pytest.mark.parametrize("constraint", [LogNormal("f"), Poisson("f", 3, scale=3.0)], ids=["log-normal", "poisson"])
def test_factors_at_zero_are_named(constraint: Constraint) -> None:
    with pytest.raises(NegativeDensity, match=r"of f: expected a positive factor, found 0; give it a lower limit"):
        constraint(0.0)
    assert constraint._parameters == {"f": (0.0, np.inf)}


def test_names_without_a_value_are_named() -> None:
    with pytest.raises(KeyError, match="jes"):
        Normal("jes").at({"jer": 0.0})


def test_one_sigma_for_several_is_not_several_sigmas() -> None:
    with pytest.raises(ValueError, match=r"expected one sigma, found \[1, 2\]; for several give"):
        Normal(["a", "b"], sigma=[1, 2])  # type: ignore[arg-type]
