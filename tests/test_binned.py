"""`nuinfer.likelihood.Binned` against scipy's Poisson, numpy's matrices, and the pull form of a covariance."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import cloudpickle
import hist
import numpy as np
import pytest
import torch
from iminuit import Minuit
from numpy.typing import NDArray
from scipy import optimize, stats
from torch import Tensor

from nuinfer.likelihood import Binned, NegativeDensity, Normal

Floats = NDArray[np.float64]
SIGNAL = np.array([3.0, 12.0, 6.0, 0.5])
BACKGROUND = np.array([20.0, 15.0, 8.0, 1.5])
COUNTS = np.array([25.0, 21.0, 17.0, 0.0])
NAMES = ("mu", "slope")
TILT = np.array([-0.3, -0.1, 0.1, 0.3])
A = np.array([[2.0, 1.0, 0.5, 0.1], [-1.0, 0.5, 1.0, 0.2]]).T  # two systematics
C = A @ A.T


def by_hand(mu: float, slope: float) -> Floats:
    return np.asarray(mu * SIGNAL + BACKGROUND * np.exp(slope * TILT))


def predict(theta: Tensor) -> Tensor:
    signal, background, tilt = (torch.from_numpy(part) for part in (SIGNAL, BACKGROUND, TILT))
    return theta[0] * signal + background * torch.exp(theta[1] * tilt)


def cnp_variance(n: Floats, mean: Floats) -> Floats:
    return np.array([3 / (1 / a + 2 / b) if a else b / 2 for a, b in zip(n, mean, strict=True)])


def costs() -> dict[str, Binned]:
    """Every statistic with every option."""

    def make(*args: Any, **options: Any) -> Binned:
        return Binned(predict, COUNTS, *args, parameters=NAMES, **options)

    return {
        "poisson": make(),
        "cnp": make("cnp"),
        "cnp, covariance": make("cnp", covariance=C),
        "cnp, frozen": make("cnp", covariance=C, frozen_at={"mu": 0.7, "slope": 0.2}),
        "cnp, fractional": make("cnp", covariance=C / 400, fractional=True),
        "cnp, fractional, frozen": make("cnp", covariance=C / 400, fractional=True, frozen_at={"mu": 1, "slope": 0}),
        "gaussian": make("gaussian", covariance=C, variance=COUNTS + 2.0),
        "gaussian, variances": make("gaussian", variance=COUNTS + 2.0),
        "gaussian, fractional": make("gaussian", covariance=C / 400, fractional=True, variance=COUNTS + 2.0),
    }


def exact(case: str, mu: float, slope: float) -> float:
    """The same, in numpy and scipy."""
    mean = by_hand(mu, slope)
    if case == "poisson":
        best = stats.poisson(np.where(COUNTS > 0, COUNTS, 1e-300)).logpmf(COUNTS)
        return float(-2 * (stats.poisson(mean).logpmf(COUNTS) - best).sum())
    frozen = {"cnp, frozen": by_hand(0.7, 0.2), "cnp, fractional, frozen": by_hand(1, 0)}.get(case, mean)
    statistical = cnp_variance(COUNTS, frozen) if case.startswith("cnp") else COUNTS + 2.0
    systematic = C if case in ("cnp, covariance", "cnp, frozen", "gaussian") else np.zeros((4, 4))
    if "fractional" in case:
        systematic = C / 400 * np.outer(frozen, frozen)
    away = COUNTS - mean
    return float(away @ np.linalg.solve(systematic + np.diag(statistical), away))


POINTS = [(1.0, 0.0), (0.4, -0.8), (1.7, 0.5)]
CASES = sorted(costs())


@pytest.mark.parametrize("case", CASES)
def test_value_is_the_statistic_written_out(case: str) -> None:
    cost = costs()[case]
    for mu, slope in POINTS:
        assert cost(mu, slope) == pytest.approx(exact(case, mu, slope), abs=1e-10)
    # and every option changes the value
    others = [exact(other, *POINTS[1]) for other in CASES if other != case]
    assert min(abs(cost(*POINTS[1]) - other) for other in others) > 1e-3


@pytest.mark.parametrize("case", CASES)
def test_gradient_is_the_finite_difference(case: str) -> None:
    cost = costs()[case]
    for at in POINTS:
        slopes = optimize.approx_fprime(np.array(at), lambda t: exact(case, *t), 1e-6)
        assert cost.grad(*at) == pytest.approx(slopes, rel=1e-4, abs=1e-4)


def test_an_empty_bin_is_exact() -> None:
    """At n = 0 the Poisson and the CNP terms are 2 mu; a bin that expects and sees nothing adds nothing."""
    for statistic in ("poisson", "cnp"):
        cost = Binned(lambda t: 2.5 * t, [0.0], statistic, parameters=["a"])
        assert cost(0.7) == pytest.approx(3.5, abs=1e-12)
        assert cost.grad(0.7)[0] == pytest.approx(5.0, abs=1e-12)
    both = Binned(lambda t: t * torch.tensor([2.0, 0.0]), [2.0, 0.0], parameters=["a"])
    assert both(1.0) == pytest.approx(0.0, abs=1e-12)
    assert both.grad(1.0)[0] == pytest.approx(0.0, abs=1e-12)


def test_counting_experiment_has_its_closed_form_significance() -> None:
    """Asimov data of s + b: Z^2 = 2 [(s + b) log(1 + s/b) - s]."""
    s, b = 10.0, 25.0
    cost = Binned(lambda t: t * s + b, [0.0], parameters=["mu"], limits={"mu": (0, None)}).asimov({"mu": 1.0})
    fit = Minuit(cost, mu=0.3).migrad()
    z = math.sqrt(cost(0.0) - cost(fit.values["mu"]))
    assert fit.values["mu"] == pytest.approx(1.0, abs=1e-4)
    assert z == pytest.approx(math.sqrt(2 * ((s + b) * math.log(1 + s / b) - s)), abs=1e-6)
    assert abs(z - s / math.sqrt(b)) > 0.1  # not the naive one


@pytest.mark.parametrize("case", ["cnp, frozen", "gaussian"])
def test_covariance_is_the_pull_form_of_linear_systematics(case: str) -> None:
    """min over alpha of |n - mu - A alpha|^2 / D + alpha^2 is the covariance form at every theta, to rounding."""
    statistical = cnp_variance(COUNTS, by_hand(0.7, 0.2)) if case.startswith("cnp") else COUNTS + 2.0
    cost = costs()[case]
    away = torch.from_numpy(A)
    pulls = Binned(
        lambda t: predict(t[:2]) + away @ t[2:], COUNTS, "gaussian", parameters=[*NAMES, "a", "b"], variance=statistical
    ) + Normal(["a", "b"])  # fmt: skip
    for at in POINTS:
        weighted = A.T / statistical
        best = np.linalg.solve(np.eye(2) + weighted @ A, weighted @ (COUNTS - by_hand(*at)))
        assert pulls(*at, *best) == pytest.approx(cost(*at), abs=1e-10)
        assert pulls.grad(*at, *best)[2:] == pytest.approx([0, 0], abs=1e-10)
        assert pulls.grad(*at, *best)[:2] == pytest.approx(cost.grad(*at), abs=1e-9)  # Danskin's theorem
        assert pulls(*at, 0, 0) > cost(*at) + 0.05  # without the systematics it is another number


def test_fits_of_both_forms_agree() -> None:
    away = torch.from_numpy(A)
    pulls = Binned(
        lambda t: predict(t[:2]) + away @ t[2:], COUNTS, "gaussian", parameters=[*NAMES, "a", "b"],
        variance=COUNTS + 2.0,
    ) + Normal(["a", "b"])  # fmt: skip
    one, two = Minuit(costs()["gaussian"], 1, 0).migrad(), Minuit(pulls, 1, 0, 0, 0).migrad()
    assert one.valid
    assert two.valid
    assert one.values["mu"] == pytest.approx(two.values["mu"], abs=1e-3 * one.errors["mu"])
    assert one.errors["mu"] == pytest.approx(two.errors["mu"], rel=1e-2)


@pytest.mark.parametrize("case", CASES)
def test_asimov_has_its_minimum_where_it_was_made(case: str) -> None:
    values = {"mu": 1.3, "slope": -0.4}
    found = costs()[case].asimov(values)
    assert found.expected(values) == pytest.approx(by_hand(1.3, -0.4), abs=1e-12)
    assert found.at(values) == pytest.approx(0.0, abs=1e-12)
    assert np.abs(found.grad(1.3, -0.4)).max() < 1e-9
    assert costs()[case].at(values) > 0.1


def test_samples_have_the_distribution_of_the_data() -> None:
    """Means within 4.5 sigma and covariances within 4.5 sigma of their own errors, over 800 pseudo-experiments."""
    values, n, rng = {"mu": 1.0, "slope": 0.0}, 800, np.random.default_rng(4)
    mean = by_hand(1.0, 0.0)
    expected = {
        "poisson": np.diag(mean),
        "cnp, covariance": C + np.diag(mean),
        "cnp, fractional": C / 400 * np.outer(mean, mean) + np.diag(mean),
        "gaussian": C + np.diag(COUNTS + 2.0),
        "gaussian, variances": np.diag(COUNTS + 2.0),
    }
    for case, v in expected.items():
        cost = costs()[case]
        drawn = np.array([cost.sample(values, rng).data.values for _ in range(n)])
        assert np.abs((drawn.mean(0) - mean) / np.sqrt(np.diag(v) / n)).max() < 4.5
        # the variance of a sample covariance, with the fourth cumulant of a Poisson's on the diagonal
        error = np.sqrt((np.outer(np.diag(v), np.diag(v)) + v**2 + np.diag(mean) * (case[0] != "g")) / n)
        assert np.abs((np.cov(drawn.T) - v) / error).max() < 4.5
        assert (case[0] == "g") != bool(np.array_equal(drawn, np.round(drawn)))


def test_pulls_of_toys_are_standard_normal() -> None:
    """Frozen covariance and a linear model: the estimate is exactly normal with the covariance of its Hessian."""
    rng = np.random.default_rng(9)
    cost = Binned(lambda t: t * torch.from_numpy(SIGNAL) + 10, COUNTS, "gaussian", parameters=["mu"],
                  covariance=C + np.diag([9.0, 16.0, 9.0, 4.0]))  # fmt: skip
    fits = [Minuit(cost.sample({"mu": 1.0}, rng), 0.5).migrad() for _ in range(120)]
    pulls = np.array([(fit.values["mu"] - 1.0) / fit.errors["mu"] for fit in fits])
    assert stats.kstest(pulls, stats.norm.cdf).pvalue > 1e-4
    assert stats.kstest(2 * pulls, stats.norm.cdf).pvalue < 1e-4


def test_histograms_bring_contents_variances_and_axes() -> None:
    edges = np.array([0.0, 1.0, 2.0, 4.0])
    data = hist.Hist(hist.axis.Variable(edges, name="x"), storage=hist.storage.Weight())
    data.fill([0.5, 0.6, 1.5, 3.0, 9.0], weight=[1.0, 2.0, 1.5, 2.0, 1.0])
    flat = lambda t: t * torch.tensor([3.0, 1.5, 2.0])  # noqa: E731
    cost = Binned(flat, data, "gaussian", parameters=["a"], variance=data.variances())
    assert cost.data.values.tolist() == [3.0, 1.5, 2.0]
    assert cost(2.0) == pytest.approx(9 / 5 + 1.5**2 / 1.5**2 + 4 / 4)
    other = hist.Hist(hist.axis.Variable(edges * 1.1, name="x"), storage=hist.storage.Double())
    with pytest.raises(ValueError, match="expected the bins of axis 0 to be 3 from 0 to 4"):
        cost.with_data(other)
    square = Binned(lambda t: t * torch.ones(2, 2), np.ones((2, 2)), parameters=["a"])
    assert square.expected({"a": 3.0}).tolist() == [[3.0, 3.0], [3.0, 3.0]]


def test_costs_add_share_parameters_and_travel() -> None:
    cost = costs()["cnp, covariance"]
    total = cost + costs()["poisson"] + Normal("slope", sigma=0.5)
    assert total(1.1, 0.3) == pytest.approx(cost(1.1, 0.3) + costs()["poisson"](1.1, 0.3) + 0.36)
    assert total.ndata == 4 + 4 + 1
    assert repr(cost) == "Binned(4 bins, cnp; mu, slope)"
    assert cloudpickle.loads(cloudpickle.dumps(cost))(1.1, 0.3) == cost(1.1, 0.3)


def test_a_covariance_of_low_rank_serves_where_counts_mend_it() -> None:
    """Systematics alone are often singular; with the statistical part the sum is not."""
    assert np.linalg.matrix_rank(C) == 2
    assert costs()["cnp, covariance"](1.0, 0.0) > 0
    with pytest.raises(ValueError, match=r"expected a positive definite matrix, found the eigenvalue .* add the"):
        Binned(predict, COUNTS, "gaussian", parameters=NAMES, covariance=C)


BAD: dict[str, tuple[Callable[[], Any], type[Exception], str]] = {
    "covariance with poisson": (
        lambda: Binned(predict, COUNTS, parameters=NAMES, covariance=C), ValueError,
        "a Poisson likelihood has no covariance; use statistic='cnp', or make the systematics"),
    "statistic": (lambda: Binned(predict, COUNTS, "chi2", parameters=NAMES),  # type: ignore[arg-type]
                  ValueError, "expected statistic to be one of poisson, cnp, gaussian, found 'chi2'"),
    "negative": (lambda: Binned(predict, [1, -2, 3, -1], parameters=NAMES), ValueError,
                 "data: expected contents from 0, found 2 negative, first -2 in bin 1"),
    "nan": (lambda: Binned(predict, [1, 2, np.nan, 0], parameters=NAMES), ValueError, "data: expected finite values"),
    "no bins": (lambda: Binned(predict, [], parameters=NAMES), ValueError, "data: expected bin contents"),
    "lengths": (lambda: Binned(predict, [1, 2, 3], parameters=NAMES)(1, 0), ValueError,
                r"predict: expected 3 bins, as the data have, found \(4,\)"),
    "not a tensor": (lambda: Binned(lambda t: COUNTS, COUNTS, parameters=NAMES)(1, 0),  # type: ignore[arg-type,return-value]
                     TypeError, "predict: expected a tensor of bin contents, found ndarray"),
    "covariance shape": (lambda: Binned(predict, COUNTS, "cnp", parameters=NAMES, covariance=np.eye(3)), ValueError,
                         r"covariance: expected \(4, 4\), the number of bins, found \(3, 3\)"),
    "not symmetric": (
        lambda: Binned(predict, COUNTS, "cnp", parameters=NAMES, covariance=C + np.tri(4)), ValueError,
        "expected a symmetric matrix, found elements that differ by 1"),
    "not positive": (lambda: Binned(predict, COUNTS, "cnp", parameters=NAMES, covariance=-np.eye(4)), ValueError,
                     "expected no negative eigenvalue, found -1"),
    "covariance nan": (lambda: Binned(predict, COUNTS, "cnp", parameters=NAMES, covariance=np.full((4, 4), np.nan)),
                       ValueError, "covariance: expected finite"),
    "variance": (lambda: Binned(predict, COUNTS, "gaussian", parameters=NAMES, variance=[1, 2, 3]), ValueError,
                 "data: expected 4 variances, one per bin, found 3"),
    "variance zero": (lambda: Binned(predict, COUNTS, "gaussian", parameters=NAMES, variance=[1, 2, 3, 0]), ValueError,
                      "expected positive variances, found 0 in bin 3"),
    "variance below zero": (lambda: Binned(predict, COUNTS, "gaussian", parameters=NAMES, variance=[1, 2, 3, -1]),
                            ValueError, "data: expected variances from 0, found -1 in bin 3"),
    "no variance": (lambda: Binned(predict, COUNTS, "gaussian", parameters=NAMES), ValueError,
                    "expects a covariance, or variance=, such as"),
    "variance of counts": (lambda: Binned(predict, COUNTS, parameters=NAMES, variance=COUNTS), ValueError,
                           "'poisson' takes its variances from the counts"),
    "fractional": (lambda: Binned(predict, COUNTS, "cnp", parameters=NAMES, fractional=True), ValueError,
                   "fractional=True expects a covariance"),
    "frozen": (lambda: Binned(predict, COUNTS, parameters=NAMES, frozen_at={"mu": 1}), ValueError,
               "frozen_at= is for covariances that depend on the prediction"),
    "frozen without value": (lambda: Binned(predict, COUNTS, "cnp", parameters=NAMES, frozen_at={"mu": 1}), KeyError,
                             "no value for the parameter 'slope'"),
    "names twice": (lambda: Binned(predict, COUNTS, parameters=["mu", "mu"]), ValueError, "expected different names"),
    "one string": (lambda: Binned(predict, COUNTS, parameters="mu"), ValueError, "expected different names"),
    "limits": (lambda: Binned(predict, COUNTS, parameters=NAMES, limits={"slop": (0, 1)}), KeyError,
               "no parameter 'slop'; closest: 'slope'"),
}  # fmt: skip


@pytest.mark.parametrize("case", BAD)
def test_bad_input_is_refused(case: str) -> None:
    make, kind, words = BAD[case]
    with pytest.raises(kind, match=words):
        make()


@pytest.mark.parametrize("case", ["poisson", "cnp"])
def test_predictions_below_zero_are_named(case: str) -> None:
    words = r"not positive in 2 of 4 bins, lowest in bin 1: -9, at mu = -2, slope = 0; limit the parameters"
    with pytest.raises(NegativeDensity, match=words):
        costs()[case](-2.0, 0.0)
    with pytest.raises(NegativeDensity, match="nan"):
        costs()[case](math.nan, 0.0)
    assert math.isfinite(costs()["gaussian"](-2.0, 0.0))  # the normal approximation has no such boundary


def test_a_thrown_expectation_below_zero_is_refused() -> None:
    wide = Binned(predict, COUNTS, "cnp", parameters=NAMES, covariance=np.eye(4) * 1e4)
    with pytest.raises(ValueError, match=r"the covariance threw a negative expectation, .* at mu = 1, slope = 0"):
        wide.sample({"mu": 1.0, "slope": 0.0}, np.random.default_rng(1))
