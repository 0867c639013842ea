"""Metrics against naive loops, scipy and scikit-learn, and against what statistics says of them."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from scipy import stats

from nuinfer import metrics

RNG = np.random.default_rng


def signed(n: int, seed: int) -> np.ndarray:
    """Weights of both signs with a positive total."""
    rng = RNG(seed)
    return rng.exponential(1.0, n) * np.where(rng.random(n) < 0.2, -1, 1)


# -- weighted samples --------------------------------------------------------------------------------------------------


def test_effective_size_counts_equal_events_and_discounts_cancelling_ones() -> None:
    w = np.stack([np.ones(10), np.r_[np.ones(6), -np.ones(4)], np.r_[3.0, np.zeros(9)], np.zeros(10)])
    assert metrics.effective_size(w).tolist() == [10.0, 0.4, 1.0, 0.0]
    assert metrics.effective_size(w[None]).shape == (1, 4)


def test_mean_and_covariance_equal_naive_loops_for_each_member() -> None:
    x, w = RNG(1).normal(size=(40, 3)), np.stack([signed(40, 2), signed(40, 3)])
    mean, covariance = metrics.weighted_mean(x, w), metrics.weighted_covariance(x, w)
    assert mean.shape == (2, 3)
    assert covariance.shape == (2, 3, 3)
    for k in range(2):
        total, square = sum(w[k]), sum(w[k] ** 2)
        m = sum(w[k][i] * x[i] for i in range(40)) / total
        c = sum(w[k][i] * np.outer(x[i] - m, x[i] - m) for i in range(40)) / (total - square / total)
        np.testing.assert_allclose(mean[k], m, rtol=1e-12)
        np.testing.assert_allclose(covariance[k], c, rtol=1e-11, atol=1e-13)


def test_covariance_equals_numpy_and_keeps_its_digits_far_from_zero() -> None:
    x, w = RNG(4).normal(size=(50, 2)), RNG(5).random(50)
    np.testing.assert_allclose(metrics.weighted_covariance(x, w), np.cov(x.T, aweights=w), rtol=1e-12)
    np.testing.assert_allclose(metrics.weighted_covariance(x + 1e6), np.cov(x.T), rtol=1e-8)


def test_covariance_is_unbiased_where_division_by_the_total_is_not() -> None:
    x, w = RNG(6).normal(size=(5000, 6)), RNG(7).random(6) + 0.2
    found = np.array([metrics.weighted_covariance(row, w)[0, 0] for row in x])
    error = found.std() / np.sqrt(len(found))
    assert abs(found.mean() - 1) < 4 * error
    assert abs(found.mean() * (1 - 1 / metrics.effective_size(w)) - 1) > 10 * error


def test_weighted_moments_refuse_bad_input() -> None:
    with pytest.raises(ValueError, match=r"weight: expected shape \(\*, 3\)"):
        metrics.weighted_mean([1.0, 2.0, 3.0], [1.0, 1.0])
    with pytest.raises(ValueError, match="expected a positive total, found -1"):
        metrics.weighted_mean([1.0, 2.0], [1.0, -2.0])
    with pytest.raises(ValueError, match="1 of 2 not finite"):
        metrics.weighted_mean([1.0, np.nan])
    with pytest.raises(ValueError, match="effective sample size above 1"):
        metrics.weighted_covariance([1.0, 2.0], [1.0, 0.0])


# -- binned spectra ----------------------------------------------------------------------------------------------------


def test_replica_covariance_equals_numpy() -> None:
    replicas = RNG(1).normal(size=(12, 4))
    np.testing.assert_allclose(metrics.replica_covariance(replicas), np.cov(replicas.T), rtol=1e-12)
    with pytest.raises(ValueError, match="K >= 2"):
        metrics.replica_covariance(replicas[:1])


def test_replica_covariance_of_poisson_bootstraps_is_that_of_the_counts() -> None:
    content = np.array([400, 100])
    weight = RNG(2).poisson(1.0, size=(2000, 500))
    replicas = np.stack([weight[:, :400].sum(1), weight[:, 400:].sum(1)], axis=1)
    found = metrics.replica_covariance(replicas)
    # a variance from K Gaussian replicas has the relative error sqrt(2 / (K - 1))
    np.testing.assert_allclose(np.diag(found), content, rtol=4 * np.sqrt(2 / 1999))
    assert abs(found[0, 1]) < 4 * np.sqrt(400 * 100 / 1999)


def test_chi2_equals_the_inverse() -> None:
    a, d = RNG(1).normal(size=(5, 5)), RNG(2).normal(size=(3, 2, 5))
    covariance = a @ a.T + np.diag([1, 1e6, 1, 1, 1e-3])
    expected = np.einsum("abi,ij,abj->ab", d, np.linalg.inv(covariance), d)
    np.testing.assert_allclose(metrics.chi2(d, covariance), expected, rtol=1e-9)
    np.testing.assert_allclose(metrics.chi2(d, covariance, n_replicas=20), expected * (20 - 5 - 2) / 19, rtol=1e-9)


def test_hartlap_makes_the_mean_chi2_right_and_without_it_is_wrong() -> None:
    bins, replicas, toys = 8, 24, 4000
    rng = RNG(3)
    plain = np.empty(toys)
    for i in range(toys):
        covariance = metrics.replica_covariance(rng.normal(size=(replicas, bins)))
        plain[i] = metrics.chi2(rng.normal(size=bins), covariance)
    corrected = plain * metrics.hartlap(replicas, bins)
    assert abs(corrected.mean() - bins) < 4 * corrected.std() / np.sqrt(toys)
    assert plain.mean() - bins > 20 * plain.std() / np.sqrt(toys)


def test_hartlap_refuses_too_few_replicas() -> None:
    assert metrics.hartlap(13, 10) == pytest.approx(1 / 12)
    with pytest.raises(ValueError, match=r"more than bins \+ 2 = 12 replicas, found 12"):
        metrics.hartlap(12, 10)


def test_chi2_names_what_is_singular() -> None:
    with pytest.raises(ValueError, match=r"no variance in bins \[1\]"):
        metrics.chi2([1.0, 1.0], [[1.0, 0.0], [0.0, 0.0]])
    with pytest.raises(ValueError, match="singular covariance: 1 of 2 eigenvalues"):
        metrics.chi2([1.0, 1.0], [[1.0, -1.0], [-1.0, 1.0]])
    fewer = metrics.replica_covariance(RNG(1).normal(size=(4, 6)))
    with pytest.raises(ValueError, match="singular covariance: 3 of 6 eigenvalues"):
        metrics.chi2(np.ones(6), fewer)
    with pytest.raises(ValueError, match="symmetric"):
        metrics.chi2([1.0, 1.0], [[1.0, 0.5], [0.0, 1.0]])
    with pytest.raises(ValueError, match=r"covariance \(B, B\)"):
        metrics.chi2([1.0, 1.0, 1.0], np.eye(2))


def test_triangular_discriminator_equals_a_naive_loop() -> None:
    p, q = RNG(1).random((4, 6)), RNG(2).random((4, 6))
    p[:, 2] = q[:, 2] = 0
    for k in range(4):
        a, b = p[k] / p[k].sum(), q[k] / q[k].sum()
        naive = sum((x - y) ** 2 / (x + y) / 2 for x, y in zip(a, b, strict=True) if x + y)
        assert metrics.triangular_discriminator(p, q)[k] == pytest.approx(naive, rel=1e-13)
    assert metrics.triangular_discriminator(p, q[0]).shape == (4,)
    assert metrics.triangular_discriminator(p[0], 7 * p[0]) < 1e-30


@pytest.mark.parametrize("exact", [True, False])
def test_triangular_discriminator_of_one_density_is_as_expected(exact: bool) -> None:
    probability = np.linspace(1, 3, 30) / np.linspace(1, 3, 30).sum()
    rng, toys, n = RNG(4), 2000, 3000
    p = rng.multinomial(n, probability, size=toys)
    q = probability if exact else rng.multinomial(2 * n, probability, size=toys)
    found = metrics.triangular_discriminator(p, q)
    mean, sd = metrics.triangular_expectation(30, n) if exact else metrics.triangular_expectation(30, n, 2 * n)
    # corrections to the mean are of relative order 1/(events per bin), under 1%: half a sigma of this test
    assert abs(found.mean() - mean) < 4 * sd / np.sqrt(toys)
    assert abs(found.std() / sd - 1) < 4 * 1.3 / np.sqrt(2 * toys)  # chi2 of 29 has an excess kurtosis of 0.4
    other = metrics.triangular_discriminator(p, probability[::-1])
    assert (other > mean + 10 * sd).all()


def test_triangular_discriminator_refuses_net_negative_bins() -> None:
    with pytest.raises(ValueError, match=r"found 1 bins where it is not, first \[1\]"):
        metrics.triangular_discriminator([3.0, -1.0], [2.0, 0.5])
    with pytest.raises(ValueError, match="p: expected a positive total"):
        metrics.triangular_discriminator([0.0, 0.0], [1.0, 1.0])
    with pytest.raises(ValueError, match="same bins"):
        metrics.triangular_discriminator([1.0, 1.0], [1.0, 1.0, 1.0])


# -- two-sample scores -------------------------------------------------------------------------------------------------


def naive_auc(s1, w1, s0, w0) -> float:
    pairs = sum(
        a * b * ((x > y) + 0.5 * (x == y)) for x, a in zip(s1, w1, strict=True) for y, b in zip(s0, w0, strict=True)
    )
    return pairs / (sum(w1) * sum(w0))


def test_auc_equals_a_naive_loop_with_ties_and_signed_weights() -> None:
    s1, s0 = RNG(1).integers(0, 8, 60), RNG(2).integers(-2, 6, 50)
    w1, w0 = signed(60, 3), signed(50, 4)
    found = metrics.roc_auc(s1, s0, weight_numerator=w1, weight_denominator=w0)
    assert found.value == pytest.approx(naive_auc(s1, w1, s0, w0), rel=1e-12)


def test_auc_equals_scikit_learn() -> None:
    from sklearn.metrics import roc_auc_score

    s, y, w = RNG(1).normal(size=300).round(1), RNG(2).integers(0, 2, 300), RNG(3).random(300)
    one = y == 1
    found = metrics.roc_auc(s[one], s[~one], weight_numerator=w[one], weight_denominator=w[~one])
    assert found.value == pytest.approx(roc_auc_score(y, s, sample_weight=w), rel=1e-12)


def test_auc_of_two_gaussians_is_exact() -> None:
    n = 40000
    found = metrics.roc_auc(RNG(1).normal(1, 1, n), RNG(2).normal(-1, 1, n)).value
    assert abs(found - stats.norm.cdf(np.sqrt(2))) < 4 * 0.5 / np.sqrt(n)


def test_null_sd_of_the_auc_is_that_of_wilcoxon() -> None:
    n1, n0 = 300, 500
    rng = RNG(1)
    found = [metrics.roc_auc(rng.normal(size=n1), rng.normal(size=n0)).null_sd for _ in range(200)]
    error = np.std(found) / np.sqrt(200)
    # an estimate of order 1/N: its own corrections are of relative order 1/n1
    assert abs(np.mean(found) - np.sqrt((n1 + n0 + 1) / (12 * n1 * n0))) < 4 * error + np.mean(found) / n1


def null_samples(kind: str, rng: np.random.Generator) -> tuple:
    """Scores and weights of two samples whose weighted densities are the same."""
    s1, s0 = rng.normal(size=400), rng.normal(size=600)
    w1, w0 = np.ones(400), np.ones(600)
    if kind == "tied":
        s1, s0 = s1.round(), s0.round()
    if kind == "signed":
        w0 = np.where(rng.random(600) < 0.2, -1, 1) * rng.exponential(1.0, 600)
    if kind == "reweighted":  # from N(0.7, 1) to N(0, 1): the weights follow the score
        s0 = s0 + 0.7
        w0 = np.exp(-(s0**2 - (s0 - 0.7) ** 2) / 2)
    return s1, s0, w1, w0


@pytest.mark.parametrize("kind", ["plain", "tied", "signed", "reweighted"])
@pytest.mark.parametrize("score", [metrics.roc_auc, metrics.two_sample_accuracy])
def test_null_z_is_standard_normal(kind: str, score) -> None:
    rng, toys = RNG(11), 400
    z = np.empty(toys)
    for i in range(toys):
        s1, s0, w1, w0 = null_samples(kind, rng)
        z[i] = score(s1, s0, weight_numerator=w1, weight_denominator=w0).z
    assert abs(z.mean()) < 4 / np.sqrt(toys)
    assert abs(z.std() - 1) < 4 / np.sqrt(2 * toys) + 0.03  # 0.03: weights of a finite sample as their own variance
    s1, s0, w1, w0 = null_samples(kind, rng)
    assert score(s1 + 1, s0, weight_numerator=w1, weight_denominator=w0).z > 6


def test_accuracy_equals_a_naive_loop_and_the_exact_value() -> None:
    s1, s0, w1, w0 = [1, 0, -1], [-2, 3, 0, -1], [1, 2, 0.5], [1, -0.5, 1, 2]
    found = metrics.two_sample_accuracy(s1, s0, weight_numerator=w1, weight_denominator=w0).value
    assert found == pytest.approx(((1 + 0.5 * 2) / 3.5 + (1 + 0.5 * 1 + 2) / 3.5) / 2)
    n = 40000
    exact = metrics.two_sample_accuracy(2 * RNG(1).normal(1, 1, n), 2 * RNG(2).normal(-1, 1, n)).value
    assert abs(exact - stats.norm.cdf(1)) < 4 * 0.5 / np.sqrt(2 * n)


def test_constant_scores_tell_nothing_apart() -> None:
    for score in (metrics.roc_auc, metrics.two_sample_accuracy):
        found = score(np.zeros(10), np.zeros(5))
        assert found.value == pytest.approx(0.5)
        assert found.null_sd == pytest.approx(0.0, abs=1e-15)
        assert found.z == 0.0


def test_scores_refuse_bad_input() -> None:
    with pytest.raises(ValueError, match="numerator scores: expected finite values, found 1 of 2"):
        metrics.roc_auc([np.inf, 1.0], [1.0])
    with pytest.raises(ValueError, match="denominator weights: expected a positive total"):
        metrics.two_sample_accuracy([1.0], [1.0], weight_denominator=[-1.0])
    with pytest.raises(ValueError, match=r"denominator: expected scores \(N,\)"):
        metrics.roc_auc([1.0], [1.0], weight_denominator=[1.0, 1.0])


# -- reliability -------------------------------------------------------------------------------------------------------


def ratio_sample(n: int, seed: int, negative: float = 0.0) -> tuple:
    """x of N(+1, 1) and N(-1, 1), with signs that leave the densities alone."""
    rng = RNG(seed)
    x1, x0 = rng.normal(1, 1, n), rng.normal(-1, 1, n)
    w1, w0 = (np.where(rng.random(n) < negative, -1, 1) / (1 - 2 * negative) for _ in range(2))
    return x1, x0, w1, w0


def test_reliability_equals_a_naive_loop() -> None:
    x1, x0, w1, w0 = ratio_sample(200, 1, negative=0.1)
    edges = np.array([-20.0, -1.0, 0.0, 2.0, 20.0])
    curve = metrics.reliability(2 * x1, 2 * x0, weight_numerator=w1, weight_denominator=w0, bins=edges)
    rows = [(2 * x, w / w1.sum(), 1.0) for x, w in zip(x1, w1, strict=True)]
    rows += [(2 * x, w / w0.sum(), 0.0) for x, w in zip(x0, w0, strict=True)]
    for b in range(4):
        inside = [(s, w, y) for s, w, y in rows if edges[b] <= s < edges[b + 1]]
        total = sum(w for _, w, _ in inside)
        assert curve.observed[b] == pytest.approx(sum(w * y for _, w, y in inside) / total)
        assert curve.predicted[b] == pytest.approx(sum(w / (1 + np.exp(-s)) for s, w, _ in inside) / total)
        variance = 0.0
        for label in (1.0, 0.0):
            whole = sum(w**2 for _, w, y in rows if y == label) / sum(w for _, w, y in rows if y == label)
            own = [w for _, w, y in inside if y == label]
            kappa = (sum(w**2 for w in own) + 10 * whole**2) / (max(sum(own), 0) + 10 * whole)
            for score, w, _ in inside:
                probability = 1 / (1 + np.exp(-score))
                chance = probability if label else 1 - probability
                variance += kappa * w * chance * (label - probability) ** 2
        assert curve.uncertainty[b] == pytest.approx(np.sqrt(variance) / abs(total))
        assert curve.size[b] == pytest.approx(total**2 / sum(w**2 for _, w, _ in inside))


@pytest.mark.parametrize("negative", [0.0, 0.2])
def test_an_exact_ratio_is_reliable_and_a_wrong_one_is_not(negative: float) -> None:
    toys, bins = 60, 10
    chi2 = {slope: np.empty(toys) for slope in (2.0, 1.6, 2.4)}
    for i in range(toys):
        x1, x0, w1, w0 = ratio_sample(4000, 100 + i, negative)
        for slope, values in chi2.items():
            curve = metrics.reliability(slope * x1, slope * x0, weight_numerator=w1, weight_denominator=w0, bins=bins)
            values[i] = np.sum(curve.pulls**2)
    # normalising each class to 1 fixes up to one combination of the bins: between 9 and 10 degrees of freedom
    error = 4 * np.sqrt(2 * bins / toys)
    assert bins - 1 - error < chi2[2.0].mean() < bins + error
    assert chi2[1.6].mean() > 2 * bins
    assert chi2[2.4].mean() > 2 * bins


def few(x: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Weights that depend on x and keep the density: one event in e^x counts e^x."""
    size = np.exp(x).clip(1, 5)
    return np.where(rng.random(len(x)) < 1 / size, size, 0.0)


@pytest.mark.parametrize(
    ("mean", "counts", "weight"),
    [
        (2.5, (1000, 1000), lambda x, rng: np.ones(len(x))),  # a few events of the other class are all there is
        (1.0, (500, 8000), lambda x, rng: np.ones(len(x))),
        (2.0, (2000, 2000), few),
        (1.0, (2000, 2000), lambda x, rng: (rng.random(len(x)) < 0.05).astype(float)),
    ],
)
def test_pulls_of_an_exact_ratio_are_no_larger_than_their_errors(mean: float, counts: Any, weight: Any) -> None:
    """Strong classifiers, unequal and weighted samples: 60 toys; an overconfident ratio is told from the exact one."""
    rng, pulls, wrong = RNG(3), [], []
    for _ in range(60):
        x1, x0 = rng.normal(mean, 1, counts[0]), rng.normal(-mean, 1, counts[1])
        w1, w0 = weight(x1, rng), weight(x0, rng)
        for slope, found in ((1.0, pulls), (1.5, wrong)):
            curve = metrics.reliability(
                2 * mean * slope * x1, 2 * mean * slope * x0, weight_numerator=w1, weight_denominator=w0
            )
            found.append(curve.pulls[np.isfinite(curve.pulls)])
    every = np.concatenate(pulls)
    assert np.mean(every**2) < 1 + 4 * np.sqrt(2 / len(every))
    assert np.mean(np.abs(every) > 4) < 0.01
    assert np.mean(np.concatenate(wrong) ** 2) > 1.5


def test_reliability_bins() -> None:
    x1, x0, _, _ = ratio_sample(5000, 5)
    curve = metrics.reliability(2 * x1, 2 * x0, bins=20)
    score = np.concatenate([2 * x1, 2 * x0])
    share = 1 / (2 + 2 * np.cosh(score))  # s (1 - s)
    filled = np.histogram(score, curve.edges, weights=share)[0]
    np.testing.assert_allclose(filled, share.sum() / 20, atol=0.5)  # two events' worth
    tied = metrics.reliability(np.zeros(5), np.zeros(6), bins=10)
    assert (len(tied.observed), tied.predicted[0], tied.observed[0]) == (1, 0.5, pytest.approx(0.5))
    empty = metrics.reliability([0.5], [0.6], bins=[0.0, 1.0, 2.0])
    assert np.isnan(empty.observed[1])
    assert np.isnan(empty.uncertainty[1])
    with pytest.raises(ValueError, match="found 1 of 2 outside"):
        metrics.reliability([0.5], [3.0], bins=[0.0, 1.0])
    with pytest.raises(ValueError, match="rising edges"):
        metrics.reliability([0.5], [3.0], bins=[1.0, 0.0])
    with pytest.raises(ValueError, match="at least 1"):
        metrics.reliability([0.5], [3.0], bins=0)


# -- ranks -------------------------------------------------------------------------------------------------------------


def test_ranks_equal_a_naive_loop() -> None:
    draws, truth = RNG(1).normal(size=(3, 4, 9)), RNG(2).normal(size=(3, 4))
    found = metrics.ranks(draws, truth, seed=1)
    weighted = metrics.weighted_ranks(draws, truth, np.ones(9))
    for i in range(3):
        for j in range(4):
            assert found[i, j] == sum(d < truth[i, j] for d in draws[i, j])
            assert weighted[i, j] == pytest.approx(found[i, j] / 9)
    with pytest.raises(ValueError, match=r"draws \(\*, L\) and truth \(\*\)"):
        metrics.ranks(draws, truth[0], seed=1)


def test_tied_ranks_of_a_discrete_posterior_are_uniform() -> None:
    rng = RNG(3)
    draws, truth = rng.integers(0, 3, (4000, 19)), rng.integers(0, 3, 4000)
    found = metrics.ranks(draws, truth, seed=5)
    np.testing.assert_array_equal(found, metrics.ranks(draws, truth, seed=5))
    assert metrics.rank_uniformity(found, 19) > 1e-4
    assert metrics.rank_uniformity((draws < truth[:, None]).sum(1), 19) < 1e-10


def test_uniformity_is_uniform_for_exact_posteriors_and_zero_for_wrong_ones() -> None:
    rng, toys, n = RNG(6), 300, 500
    p = np.empty(toys)
    for i in range(toys):
        mean, weight = rng.normal(size=n), rng.exponential(1.0, n) * (i % 2) + (1 - i % 2)
        truth, draws = mean + rng.normal(size=n), mean[:, None] + rng.normal(size=(n, 19))
        p[i] = metrics.rank_uniformity(metrics.ranks(draws, truth, seed=1), 19, bins=10, weight=weight)
    assert stats.kstest(p, "uniform").pvalue > 1e-4
    narrow = metrics.ranks(mean[:, None] + 0.7 * rng.normal(size=(n, 19)), truth, seed=1)
    assert metrics.rank_uniformity(narrow, 19) < 1e-6


def test_uniformity_equals_scipy() -> None:
    rank = RNG(7).integers(0, 20, 400)
    expected = stats.chisquare(np.bincount(rank, minlength=20)).pvalue
    assert metrics.rank_uniformity(rank, 19) == pytest.approx(expected, rel=1e-10)


def test_weighted_ranks_undo_a_wrong_proposal() -> None:
    rng, n = RNG(8), 3000
    truth, draws = rng.normal(size=n), 0.5 + 1.2 * rng.normal(size=(n, 400))
    weight = np.exp(stats.norm.logpdf(draws) - stats.norm.logpdf(draws, 0.5, 1.2))
    assert stats.kstest(metrics.weighted_ranks(draws, truth, weight), "uniform").pvalue > 1e-4
    assert stats.kstest(metrics.weighted_ranks(draws, truth, np.ones(400)), "uniform").pvalue < 1e-10


def test_uniformity_refuses_bad_input() -> None:
    with pytest.raises(ValueError, match=r"integers \(N,\) in 0 .. 9"):
        metrics.rank_uniformity([0, 10], 9)
    with pytest.raises(ValueError, match="divides draws \\+ 1 = 10, found 3"):
        metrics.rank_uniformity([0, 9], 9, bins=3)
    with pytest.raises(ValueError, match="leaves 5 trials per bin"):
        metrics.rank_uniformity(np.zeros(100, int), 100)


def test_hotelling_is_the_p_value_of_a_chi2_with_the_covariance_of_replicas() -> None:
    """Uniform over toys of 12 replicas in 4 bins, where the chi-squared's own p-value is far too small."""
    rng = np.random.default_rng(5)
    found = [
        float(metrics.chi2(rng.normal(size=4), metrics.replica_covariance(rng.normal(size=(12, 4)))))
        for _ in range(600)
    ]
    assert stats.kstest([metrics.hotelling(value, 12, 4) for value in found], "uniform").pvalue > 1e-3
    assert stats.kstest(stats.chi2.sf(found, 4), "uniform").pvalue < 1e-9
    assert metrics.hotelling(9.0, 10**8, 4) == pytest.approx(stats.chi2.sf(9.0, 4), rel=1e-6)
    for replicas in (4, 3):
        with pytest.raises(ValueError, match=f"expected more replicas than bins, found {replicas} for 4"):
            metrics.hotelling(1.0, replicas, 4)
