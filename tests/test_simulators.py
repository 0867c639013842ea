"""The exact answers of the simulators against numerical integration, brute force and large samples."""

from __future__ import annotations

import itertools
from dataclasses import replace

import numpy as np
import pytest
from numpy.typing import ArrayLike
from scipy import integrate, optimize, stats

from nuinfer.events import Events
from nuinfer.metrics import weighted_covariance, weighted_mean
from nuinfer.simulators import (
    CloudRatio,
    Gaussian,
    GaussianRatio,
    GaussianUnfolding,
    LinearGaussian,
    LinearResponse,
    bayes_step,
)

TOY = GaussianUnfolding()
FULL = GaussianUnfolding.with_detector()
PLANE = GaussianUnfolding(
    truth=Gaussian([0.0, 0.3], [[1.0, 0.4], [0.4, 0.8]]),
    prior=Gaussian([0.2, 0.0], [[0.8, -0.1], [-0.1, 0.9]]),
    smearing=[[0.25, 0.1], [0.1, 0.36]],
    efficiency=Gaussian.peak(0.8, [1.0, 0.0], [[4.0, 1.0], [1.0, 3.0]]),
    fake_density=Gaussian([-1.0, 1.0], 0.3, total=0.2),
    background_density=Gaussian([1.0, -1.0], 0.4, total=0.1),
    rate=1.2,
)


def off(found: ArrayLike, expected: ArrayLike, error: ArrayLike) -> float:
    """The largest distance of ``found`` from ``expected``, in standard errors."""
    return float(np.max(np.abs(np.asarray(found) - np.asarray(expected)) / np.asarray(error)))


def moments_off(values: np.ndarray, density: Gaussian) -> float:
    """That of mean and covariance of a sample of weight 1 from a normal density's."""
    n, c = len(values), density.covariance
    mean = off(values.mean(0), density.mean, np.sqrt(np.diag(c) / n))
    return max(mean, off(np.cov(values.T).reshape(c.shape), c, np.sqrt((np.outer(np.diag(c), np.diag(c)) + c**2) / n)))


def columns(events: Events, name: str, dim: int) -> np.ndarray:
    return np.stack([events[f"{name}{i}"] for i in range(dim)], axis=1)


# -- Gaussian ----------------------------------------------------------------------------------------------------------


def test_gaussian_density_equals_scipy() -> None:
    g = Gaussian([0.5, -1.0], [[1.0, 0.3], [0.3, 2.0]], total=3.0)
    x = np.random.default_rng(1).normal(size=(4, 5, 2))
    np.testing.assert_allclose(g.density(x), 3 * stats.multivariate_normal(g.mean, g.covariance).pdf(x), rtol=1e-12)
    assert g.height == pytest.approx(3 * stats.multivariate_normal(g.mean, g.covariance).pdf(g.mean))
    line = Gaussian(1.0, 4.0)
    np.testing.assert_allclose(line.density([0.0, 1.0]), stats.norm.pdf([0.0, 1.0], 1.0, 2.0), rtol=1e-12)
    np.testing.assert_allclose(line.density([[0.0], [1.0]]), line.density([0.0, 1.0]))
    assert Gaussian.peak(0.9, 1.0, 4.0).density([1.0, 3.0]) == pytest.approx([0.9, 0.9 * np.exp(-0.5)])


def test_gaussian_products_quotients_and_convolutions_are_pointwise() -> None:
    a = Gaussian([0.5, -1.0], [[1.0, 0.3], [0.3, 2.0]], total=3.0)
    b = Gaussian([1.0, 1.0], [[2.0, -0.5], [-0.5, 3.0]], total=0.5)
    x = np.random.default_rng(1).normal(size=(20, 2))
    np.testing.assert_allclose(a.times(b).density(x), a.density(x) * b.density(x), rtol=1e-10)
    np.testing.assert_allclose(a.over(b).density(x), a.density(x) / b.density(x), rtol=1e-10)
    line, noise = Gaussian(0.5, 1.0, total=2.0), 0.3
    folded = integrate.quad(lambda t: line.density([t])[0] * stats.norm.pdf(1.1, t, np.sqrt(noise)), -10, 10)[0]
    assert line.smeared([[noise]]).density([1.1])[0] == pytest.approx(folded, rel=1e-8)
    with pytest.raises(ValueError, match="grows without bound"):
        b.over(a)


def test_gaussian_bins_equal_integrals() -> None:
    edges = [np.linspace(-2, 2, 5), np.array([-1.0, 0.5, np.inf])]
    flat = Gaussian([0.2, 0.0], np.diag([1.0, 0.5]))
    tilted = Gaussian([0.2, 0.0], [[1.0, 0.4], [0.4, 0.5]])
    for g in (flat, tilted):
        found = g.bin_probabilities(edges)
        assert found.shape == (4, 2)
        exact = integrate.dblquad(lambda y, x, g=g: g.density(np.array([x, y])), -1, 0, -1, 0.5)[0]
        assert found[1, 0] == pytest.approx(exact, abs=1e-9)
    np.testing.assert_allclose(
        tilted.bin_probabilities([np.linspace(-9, 9, 37), [-9.0, 0.5]]).sum(), stats.norm.cdf(0.5 / np.sqrt(0.5))
    )
    np.testing.assert_allclose(Gaussian(1.0, 4.0).bin_probabilities([1.0, 3.0]), stats.norm.cdf(1) - 0.5)


def test_gaussian_samples() -> None:
    g = Gaussian([0.5, -1.0], [[1.0, 0.6], [0.6, 2.0]], total=7.0)
    assert moments_off(g.sample(50000, 1), g) < 4
    assert not g.mean.flags.writeable


def test_gaussian_refuses_bad_input() -> None:
    with pytest.raises(ValueError, match=r"mean \(D,\) and covariance \(D, D\)"):
        Gaussian([0.0, 1.0], [1.0, 1.0])
    with pytest.raises(ValueError, match="positive definite matrix, found an eigenvalue -1"):
        Gaussian([0.0, 1.0], [[1.0, 2.0], [2.0, 1.0]])
    with pytest.raises(ValueError, match="symmetric"):
        Gaussian([0.0, 1.0], [[1.0, 0.2], [0.0, 1.0]])
    with pytest.raises(ValueError, match="positive total, found 0"):
        Gaussian(0.0, 1.0, total=0)
    with pytest.raises(ValueError, match=r"points of shape \(\*, 2\)"):
        Gaussian([0.0, 1.0]).density([1.0, 2.0, 3.0])
    with pytest.raises(ValueError, match="rising bin edges"):
        Gaussian(0.0).bin_probabilities([1.0, 0.0])
    with pytest.raises(ValueError, match="expected D <= 2, found 3"):
        Gaussian(np.zeros(3), np.eye(3) + 0.1).bin_probabilities([[0.0, 1.0]] * 3)


# -- GaussianRatio and CloudRatio --------------------------------------------------------------------------------------


def test_default_ratio_is_2x_and_others_are_the_quotient() -> None:
    x = np.linspace(-3, 3, 7)
    np.testing.assert_allclose(GaussianRatio().log_ratio(x), 2 * x, atol=1e-12)
    p1, p0 = Gaussian([1.0, 0.0], [[1.0, 0.3], [0.3, 1.0]], total=5.0), Gaussian([0.0, 0.0], 2.0)
    problem = GaussianRatio(p1=p1, p0=p0)
    events = problem.numerator(50, seed=1)
    at = columns(events, "x", 2)
    expected = stats.multivariate_normal(p1.mean, p1.covariance).logpdf(at)
    expected = expected - stats.multivariate_normal(p0.mean, p0.covariance).logpdf(at)
    np.testing.assert_allclose(problem.log_ratio(events), expected, atol=1e-10)
    np.testing.assert_allclose(problem.log_ratio(at), expected, atol=1e-10)


def test_signed_and_spread_weights_leave_the_weighted_density_alone() -> None:
    problem = GaussianRatio(negative=0.4, spread=0.5)
    n = 200000
    events = problem.numerator(n, seed=2)
    x, w = events["x0"], events.weight
    for moment in (np.ones(n), x, x**2, np.exp(-x)):
        expected = {0: 1.0, 1: 1.0, 2: 2.0, 3: np.exp(-0.5)}[[1.0, x[0], x[0] ** 2, np.exp(-x[0])].index(moment[0])]
        assert off((w * moment).mean(), expected, (w * moment).std() / np.sqrt(n)) < 4
    assert abs(np.mean(np.abs(w)) - 1) > 0.1  # the test would fail on |w|
    share = np.mean(w[np.abs(x) < 0.1] < 0)
    assert abs(share - 0.2) < 4 * np.sqrt(0.16 / np.sum(np.abs(x) < 0.1)) + 0.001
    np.testing.assert_allclose(problem.flip_probability([0.0]), 0.2)


def test_spread_does_not_depend_on_x() -> None:
    events = GaussianRatio(spread=0.7).denominator(100000, seed=3)
    w = events.weight
    assert off(w.mean(), 1, 0.7 / np.sqrt(len(w))) < 4
    assert abs(w.std() / 0.7 - 1) < 0.05
    assert off(np.corrcoef(w, events["x0"])[0, 1], 0, 1 / np.sqrt(len(w))) < 4


@pytest.mark.parametrize(
    "problem", [CloudRatio(), CloudRatio(size1=4.0, size0=3.0), CloudRatio(size0=5, size1=5, fixed=True)]
)
def test_cloud_ratio_integrates_to_one(problem: CloudRatio) -> None:
    n = 20000
    numerator, denominator = problem.numerator(n, seed=1), problem.denominator(n, seed=1)
    ratio = np.exp(problem.log_ratio(denominator))
    assert off(ratio.mean(), 1, ratio.std() / np.sqrt(n)) < 4
    inverse = np.exp(-problem.log_ratio(numerator))
    assert off(inverse.mean(), 1, inverse.std() / np.sqrt(n)) < 4
    # reweighting moves the mean size and the mean sum of the particles to the numerator's
    for observable, expected in ((numerator["hits.x0"].counts, problem.size1), (sums(numerator), None)):
        target = observable.mean() if expected is None else expected
        source = denominator["hits.x0"].counts if expected is not None else sums(denominator)
        moved = ratio * (source - target)
        assert off(moved.mean(), 0, np.hypot(moved.std(), observable.std()) / np.sqrt(n) + 1e-12) < 4
    assert abs(sums(denominator).mean() - sums(numerator).mean()) > 0.5


def sums(events: Events) -> np.ndarray:
    column = events["hits.x0"]
    return np.array([column.values[a:b].sum() for a, b in zip(column.offsets[:-1], column.offsets[1:], strict=True)])


def test_cloud_ratio_equals_a_naive_loop_and_knows_empty_events() -> None:
    problem = CloudRatio(size1=1.0, size0=1.5)
    events = problem.numerator(40, seed=4)
    hits = events["hits.x0"]
    assert (hits.counts == 0).any()
    for i, found in enumerate(problem.log_ratio(events)):
        inside = hits.values[hits.offsets[i] : hits.offsets[i + 1]]
        each = stats.norm.logpdf(inside, 0.2).sum() - stats.norm.logpdf(inside, -0.2).sum()
        number = stats.poisson.logpmf(len(inside), 1.0) - stats.poisson.logpmf(len(inside), 1.5)
        assert found == pytest.approx(each + number, abs=1e-12)


def test_ratios_refuse_bad_input() -> None:
    with pytest.raises(ValueError, match=r"probability in \[0, 0.5\), found 0.5"):
        GaussianRatio(negative=0.5)
    with pytest.raises(ValueError, match="one dimension, found 1 and 2"):
        GaussianRatio(p0=Gaussian([0.0, 0.0]))
    with pytest.raises(ValueError, match="spread"):
        GaussianRatio(spread=-1.0)
    with pytest.raises(ValueError, match="seed: expected an integer from 0"):
        GaussianRatio().numerator(10, seed=-1)
    with pytest.raises(ValueError, match="whole number of events"):
        GaussianRatio().numerator(1.5, seed=1)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="fixed sizes: expected one whole number"):
        CloudRatio(size1=4.0, size0=3.0, fixed=True)
    with pytest.raises(KeyError, match="no column 'x0'"):
        GaussianRatio().log_ratio(Events({"y": [1.0]}))


# -- GaussianUnfolding: the exact recursion ----------------------------------------------------------------------------


def test_default_recursion_is_the_scalar_formula() -> None:
    m, v = 0.2, 0.81
    for state in TOY.recursion(4):
        np.testing.assert_allclose([state.mean[0], state.covariance[0, 0], state.total], [m, v, 1.0], rtol=1e-12)
        k = v / (v + 0.25)
        m, v = m + k * (0 - m), (1 - k) * v + k**2 * (1 + 0.25)
    assert abs(TOY.recursion(200)[200].covariance[0, 0] - 1) < 1e-4


def binned(toy: GaussianUnfolding, iterations: int, misses: str, *, ignore: str = "", step: float = 0.02) -> np.ndarray:
    """Brute-force iterative Bayes in bins, 1 dimension: total, reco total, mean, variance of eps n, mean of n.

    Written from the physics: expected bin contents of data, fakes and background, and a response of cdf differences.
    ``ignore`` leaves one ingredient out, as a wrong unfolding would.
    """
    edges = np.arange(-7, 7.5, step)
    t, reco = (edges[1:] + edges[:-1]) / 2, np.arange(-9, 9.5, step)
    response = np.diff(stats.norm.cdf(reco[:, None], t, np.sqrt(toy.response.noise[0, 0])), axis=0)
    eps = np.ones(len(t)) if toy.efficiency is None else toy.efficiency.density(t)
    n = np.diff(stats.norm.cdf(edges, toy.prior.mean[0], toy.prior.sd[0]))
    true = toy.rate * np.diff(stats.norm.cdf(edges, toy.truth.mean[0], toy.truth.sd[0]))
    signal, simulated = response @ (eps * true), response @ (eps * n)
    fakes, background = np.zeros(len(signal)), np.zeros(len(signal))
    if toy.fake_density is not None:
        g = toy.fake_density
        fakes = g.total * simulated.sum() * np.diff(stats.norm.cdf(reco, g.mean[0], g.sd[0]))
    if toy.background_density is not None:
        g = toy.background_density
        background = g.total * signal.sum() * np.diff(stats.norm.cdf(reco, g.mean[0], g.sd[0]))
    fraction = fakes / (fakes + simulated)
    if toy.data_fakes == "absolute":
        data = signal + fakes + background
        subtracted = data - (ignore != "background") * background - (ignore != "fakes") * fakes
    else:
        data = signal / (1 - fraction) + background
        subtracted = (data - (ignore != "background") * background) * (1 - (ignore != "fakes") * fraction)
    if ignore == "rate":
        subtracted = subtracted * simulated.sum() / subtracted.sum()
    if ignore == "misses":  # only reconstructed events are unfolded, and taken for all
        n, eps = n * eps / np.sum(n * eps), np.ones(len(t))
    history = []
    for k in range(iterations + 1):
        g = eps * n
        mean = t @ g / g.sum()
        history.append([n.sum(), g.sum(), mean, (t - mean) ** 2 @ g / g.sum(), t @ n / n.sum()])
        if k < iterations:
            factor = response.T @ (subtracted / (response @ g))
            n = n * (factor if misses == "conditional" else eps * factor + 1 - eps)
    return np.array(history)


def exact(toy: GaussianUnfolding, iterations: int) -> np.ndarray:
    rows = []
    for k in range(iterations + 1):
        truth, seen = toy.unfolded(k), toy.reconstructed(k)
        rows.append([truth.total, seen.total, seen.mean[0], seen.covariance[0, 0], truth.mean[0]])
    return np.array(rows)


PROPORTIONAL = GaussianUnfolding.with_detector(data_fakes="proportional")


@pytest.mark.parametrize("toy", [TOY, FULL, PROPORTIONAL], ids=["plain", "full", "proportional"])
def test_recursion_equals_binned_iterative_bayes(toy: GaussianUnfolding) -> None:
    answer = exact(toy, 4)
    np.testing.assert_allclose(binned(toy, 4, "conditional"), answer, atol=1e-4)
    np.testing.assert_allclose(answer[1:, 1], toy.reco_data().total, rtol=1e-12)  # the reco rate is the data's
    assert np.abs(answer[0] - answer[3]).max() > 0.1


@pytest.mark.parametrize("toy", [FULL, PROPORTIONAL], ids=["absolute", "proportional"])
@pytest.mark.parametrize("ignore", ["misses", "fakes", "background", "rate"])
def test_binned_iterative_bayes_that_ignores_something_is_elsewhere(toy: GaussianUnfolding, ignore: str) -> None:
    assert np.abs(binned(toy, 3, "conditional", ignore=ignore) - exact(toy, 3))[3].max() > 0.05


def test_prior_misses_equal_binned_iterative_bayes_and_differ_from_conditional_ones() -> None:
    brute = binned(FULL, 4, "prior")
    grid = FULL.on_grid(4, misses="prior")
    mean = np.array([grid.moments(k)[0][0] for k in range(5)])
    seen_mean = grid.reconstructed @ grid.axes[0] / grid.reconstructed.sum(1)
    found = np.stack([grid.totals, grid.reconstructed_totals, seen_mean, mean], axis=1)
    np.testing.assert_allclose(found, brute[:, [0, 1, 2, 4]], atol=1e-4)
    assert np.abs(brute - binned(FULL, 4, "conditional"))[1].max() > 0.02
    # the rate of reconstructed events is not the data's after one iteration, and is in the end
    assert abs(grid.reconstructed_totals[1] / FULL.reco_data().total - 1) > 0.02
    late = FULL.on_grid(200, misses="prior")
    assert late.reconstructed_totals[-1] == pytest.approx(FULL.reco_data().total, rel=1e-3)


def test_prior_misses_after_one_iteration_are_three_gaussians() -> None:
    grid = FULL.on_grid(1, misses="prior")
    t, (before, after) = grid.axes[0], FULL.recursion(1)
    np.testing.assert_allclose(grid.truth[1], FULL.prior.density(t) - before.density(t) + after.density(t), atol=1e-10)


@pytest.mark.parametrize("toy", [TOY, FULL, PLANE], ids=["plain", "full", "plane"])
def test_grid_equals_recursion_where_both_hold(toy: GaussianUnfolding) -> None:
    grid = toy.on_grid(3, misses="conditional")
    for k in range(4):
        mean, covariance = grid.moments(k)
        truth = toy.unfolded(k)
        np.testing.assert_allclose(mean, truth.mean, atol=1e-6)
        np.testing.assert_allclose(covariance, truth.covariance, atol=1e-6)
        assert grid.totals[k] == pytest.approx(truth.total, rel=1e-6)
        assert grid.reconstructed_totals[k] == pytest.approx(toy.reconstructed(k).total, rel=1e-6)


def test_recursion_in_two_dimensions_equals_brute_force_with_scipy() -> None:
    """The same iteration as sums over points, every density from scipy and not from the library."""
    side, reach = np.linspace(-6.5, 7, 46), np.linspace(-8, 8.5, 52)
    t = np.stack(np.meshgrid(side, side, indexing="ij"), -1).reshape(-1, 2)
    x = np.stack(np.meshgrid(reach, reach, indexing="ij"), -1).reshape(-1, 2)
    dt, dx = (side[1] - side[0]) ** 2, (reach[1] - reach[0]) ** 2
    inverse = np.linalg.inv([[4.0, 1.0], [1.0, 3.0]])
    eps = 0.8 * np.exp(-0.5 * np.einsum("ni,ij,nj->n", t - [1.0, 0.0], inverse, t - [1.0, 0.0]))
    kernel = stats.multivariate_normal([0, 0], PLANE.response.noise).pdf((x[:, None] - t).reshape(-1, 2))
    kernel = kernel.reshape(len(x), len(t))
    n = stats.multivariate_normal(PLANE.prior.mean, PLANE.prior.covariance).pdf(t)
    true = 1.2 * stats.multivariate_normal(PLANE.truth.mean, PLANE.truth.covariance).pdf(t)
    data = kernel @ (eps * true) * dt
    for k in range(4):
        g = eps * n
        mean = g @ t / g.sum()
        covariance = np.einsum("n,ni,nj->ij", g, t - mean, t - mean) / g.sum()
        state = PLANE.recursion(k)[k]
        np.testing.assert_allclose(state.mean, mean, atol=1e-5)
        np.testing.assert_allclose(state.covariance, covariance, atol=1e-5)
        np.testing.assert_allclose(state.total, g.sum() * dt, rtol=1e-5)
        np.testing.assert_allclose(PLANE.unfolded(k).total, n.sum() * dt, rtol=1e-5)
        n = n * (kernel.T @ (data / (kernel @ g * dt)) * dx)


def test_bayes_step_with_a_general_response_equals_integration() -> None:
    """x = 1.3 t - 0.4 + N(0, 0.5), data N(0.6, 1.5): the average posterior, by quadrature."""
    prior, data = Gaussian(0.2, 0.8), Gaussian(0.6, 1.5, total=2.0)
    response = LinearResponse(np.array([[1.3]]), np.array([-0.4]), np.array([[0.5]]))
    t, x = np.linspace(-8, 8, 801), np.linspace(-11, 11, 1001)
    joint = stats.norm.pdf(x[:, None], 1.3 * t - 0.4, np.sqrt(0.5)) * prior.density(t)
    answer = (joint / joint.sum(1, keepdims=True)).T @ data.density(x)
    answer /= answer.sum()
    state = bayes_step(prior, data, response)
    assert state.mean[0] == pytest.approx(answer @ t, abs=1e-8)
    assert state.covariance[0, 0] == pytest.approx(answer @ t**2 - (answer @ t) ** 2, abs=1e-8)
    assert state.total == 2.0


def test_the_truth_is_the_fixed_point() -> None:
    for toy in (TOY, FULL, PLANE):
        late = toy.unfolded(3000)
        np.testing.assert_allclose(late.mean, toy.truth.mean, atol=2e-3)
        np.testing.assert_allclose(late.covariance, toy.truth.covariance, atol=2e-3)
        assert late.total == pytest.approx(toy.rate, rel=2e-3)
        assert toy.unfolded().total == pytest.approx(toy.rate)
    same = GaussianUnfolding(truth=TOY.prior, efficiency=FULL.efficiency)
    assert repr(same.unfolded(5)) == repr(same.unfolded(0))
    np.testing.assert_allclose(same.weight_at([-1.0, 0.0, 1.0], 3), 1.0, rtol=1e-12)


def test_densities_weights_and_bins_agree() -> None:
    edges = np.linspace(-3, 3, 13)
    for iteration in (0, 3, None):
        found = FULL.bin_probabilities(edges, iteration)
        density = [
            integrate.quad(lambda t, k=iteration: FULL.exact_truth_density([t], k)[0], a, b)[0]
            for a, b in itertools.pairwise(edges)
        ]
        np.testing.assert_allclose(found, density, atol=1e-9)
    t = np.linspace(-2, 2, 5)
    np.testing.assert_allclose(FULL.weight_at(t, 3) * FULL.prior.density(t), FULL.unfolded(3).density(t), rtol=1e-10)
    plane = PLANE.bin_probabilities([edges, edges], 2)
    assert plane.shape == (12, 12)
    assert 0.97 < plane.sum() < 1


def test_posterior_equals_integration() -> None:
    for iteration in (0, 2):
        mean, covariance = FULL.posterior([0.7], iteration=iteration)
        t = np.linspace(-8, 8, 4001)
        p = FULL.unfolded(iteration).density(t) * FULL.efficiency_at(t) * stats.norm.pdf(0.7, t, 0.5)
        p /= p.sum()
        assert mean[0, 0] == pytest.approx(p @ t, abs=1e-8)
        assert covariance[0, 0] == pytest.approx(p @ t**2 - (p @ t) ** 2, abs=1e-8)
    mean, covariance = TOY.posterior([1.0])
    k = 0.81 / 1.06
    assert (mean[0, 0], covariance[0, 0]) == pytest.approx((0.2 + k * 0.8, (1 - k) * 0.81))


# -- GaussianUnfolding: samples ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("toy", [TOY, FULL, PROPORTIONAL, PLANE], ids=["plain", "full", "proportional", "plane"])
def test_samples_have_the_stated_rates_and_moments(toy: GaussianUnfolding) -> None:
    n = 40000
    simulation, data = toy.simulation(n, seed=1), toy.data(n, seed=1, keep_truth=True)
    true, seen = simulation["pass_truth"], simulation["pass_reco"]
    assert true.sum() == n
    assert np.isnan(columns(simulation, "x", toy.dim)[~seen]).all()
    assert np.isnan(columns(simulation, "t", toy.dim)[~true]).all()
    both = simulation.select(true & seen)
    assert off(len(both) / n, toy.recursion(0)[0].total, 0.5 / np.sqrt(n)) < 4
    assert moments_off(columns(simulation.select(true), "t", toy.dim), toy.prior) < 4
    assert moments_off(columns(both, "t", toy.dim), toy.recursion(0)[0]) < 4
    assert moments_off(columns(both, "x", toy.dim), toy.reco_simulation()) < 4
    smeared_by = columns(both, "x", toy.dim) - columns(both, "t", toy.dim)
    assert moments_off(smeared_by, Gaussian(np.zeros(toy.dim), toy.smearing)) < 4
    signal = data.select(data["pass_truth"])
    assert off(len(signal) / n, toy.reco_data().total, 0.5 / np.sqrt(n)) < 4
    assert moments_off(columns(signal, "x", toy.dim), toy.reco_data()) < 4
    assert moments_off(columns(signal, "t", toy.dim), toy.reconstructed()) < 4
    assert toy.data(n, seed=1).columns == tuple(f"x{i}" for i in range(toy.dim))


@pytest.mark.parametrize("toy", [FULL, PROPORTIONAL, PLANE], ids=["full", "proportional", "plane"])
def test_fakes_and_background_have_the_stated_yields(toy: GaussianUnfolding) -> None:
    n = 40000
    simulation, data = toy.simulation(n, seed=1), toy.data(n, seed=1, keep_truth=True)
    fakes = simulation.select(~simulation["pass_truth"])
    background = toy.background(n, seed=1, oversample=2.0)
    assert fakes["pass_reco"].all()
    assert len(fakes) == round(n * toy.fake_density.total * toy.recursion(0)[0].total)
    assert moments_off(columns(fakes, "x", toy.dim), toy.fake_density) < 4
    assert moments_off(columns(background, "x", toy.dim), toy.background_density) < 4
    assert background.sum_weights == pytest.approx(n * toy.background_density.total * toy.reco_data().total)
    assert len(background) == pytest.approx(2 * background.sum_weights, abs=1)
    # signal without truth in the data: fakes and background, whose mean is that of the mixture
    extra = columns(data.select(~data["pass_truth"]), "x", toy.dim)
    parts = [toy.reco_data_fakes(), toy.reco_background()]
    assert len(extra) == pytest.approx(n * sum(p.total for p in parts), abs=1.5)
    expected = sum(p.total * p.mean for p in parts) / sum(p.total for p in parts)
    spread = np.sqrt(sum(p.total * p.sd**2 for p in parts) / sum(p.total for p in parts))
    assert off(extra.mean(0), expected, spread / np.sqrt(len(extra)) * 1.01 + 1 / len(extra)) < 4


def test_proportional_fakes_are_the_simulations_fraction_at_each_reco_value() -> None:
    x = np.linspace(-3, 3, 7)
    fakes, signal = PROPORTIONAL.reco_data_fakes().density(x), PROPORTIONAL.reco_data().density(x)
    np.testing.assert_allclose(fakes / (fakes + signal), PROPORTIONAL.fake_fraction(x), rtol=1e-9)
    fakes = FULL.reco_data_fakes().density(x)
    assert np.abs(fakes / (fakes + signal) - FULL.fake_fraction(x)).max() > 0.02


def test_exact_weights_unfold_the_sample() -> None:
    """The weights of iteration 3 on simulated events: reco rate and moments of the data, and all true events."""
    n = 100000
    simulation = FULL.simulation(n, seed=3)
    events = simulation.select(simulation["pass_truth"])
    t, seen, w = events["t0"], events["pass_reco"], FULL.weight_at(events, 3)
    for rows, answer in ((seen, FULL.recursion(3)[3]), (np.ones(n, bool), FULL.unfolded(3))):
        part = np.where(rows, w, 0.0)
        assert off(part.mean(), answer.total, part.std() / np.sqrt(n)) < 4
        moved = part * (t - answer.mean)
        assert off(moved.mean(), 0, moved.std() / np.sqrt(n)) < 4
        square = part * ((t - answer.mean) ** 2 - answer.covariance[0, 0])
        assert off(square.mean(), 0, square.std() / np.sqrt(n)) < 4
    assert abs(w.mean() - seen.mean()) > 0.1


def test_signed_simulation_has_the_same_weighted_density() -> None:
    toy = GaussianUnfolding(negative=0.2)
    events = toy.simulation(40000, seed=5)
    w = events.weight
    assert set(np.round(np.unique(w), 12)) == {round(-1 / 0.6, 12), round(1 / 0.6, 12)}
    assert off(w.mean(), 1.0, w.std() / np.sqrt(len(w))) < 4
    assert off(np.mean(w * (events["t0"] - 0.2)), 0.0, 0.9 / 0.6 / np.sqrt(len(w))) < 4


@pytest.mark.parametrize("toy", [FULL, PROPORTIONAL, PLANE], ids=["full", "proportional", "plane"])
def test_sample_recursion_scatters_around_the_population(toy: GaussianUnfolding) -> None:
    found = []
    for seed in range(12):
        n = 20000
        simulation, data, background = toy.simulation(n, seed), toy.data(n, seed), toy.background(n, seed)
        state = toy.sample_recursion(3, simulation, data, background)[3]
        found.append(np.r_[state.mean, state.covariance.ravel(), state.total / n])
    answer = toy.recursion(3)[3]
    expected = np.r_[answer.mean, answer.covariance.ravel(), answer.total]
    # a spread from 12 seeds: 5 sigma of Student's t with 11 degrees of freedom are 4e-4 two-sided
    assert off(np.mean(found, 0), expected, np.std(found, 0, ddof=1) / np.sqrt(12)) < 5
    start = toy.recursion(0)[0]
    assert np.abs(np.mean(found, 0) - np.r_[start.mean, start.covariance.ravel(), start.total]).max() > 0.05


def histogram_bayes(simulation: Events, data: Events, iterations: int) -> np.ndarray:
    """Iterative Bayes with the sample's own migration histogram; mean and variance of the weighted events."""
    edges = np.linspace(-3.5, 3.5, 36)
    bins = [np.clip(np.digitize(c, edges), 0, 36) for c in (simulation["t0"], simulation["x0"], data["x0"])]
    joint = np.histogram2d(bins[0], bins[1], bins=[np.arange(38) - 0.5] * 2)[0]
    target, w = np.bincount(bins[2], minlength=37), np.ones(37)
    for _ in range(iterations):
        ratio = target / np.maximum(w @ joint, 1e-9)
        w = w * (joint @ ratio) / np.maximum(joint.sum(1), 1e-9)
    return np.array(
        [weighted_mean(simulation["t0"], w[bins[0]])[0], weighted_covariance(simulation["t0"], w[bins[0]])[0, 0]]
    )


def test_sample_recursion_takes_out_the_statistics_of_an_unfolding() -> None:
    rest, plain = [], []
    for seed in range(10):
        simulation, data = TOY.simulation(20000, seed), TOY.data(20000, seed)
        found = histogram_bayes(simulation, data, 3)
        for state, residuals in ((TOY.sample_recursion(3, simulation, data)[3], rest), (TOY.recursion(3)[3], plain)):
            residuals.append(found - [state.mean[0], state.covariance[0, 0]])
    assert (np.std(rest, 0) < 0.5 * np.std(plain, 0)).all()
    assert np.abs(np.mean(rest, 0)).max() < 0.01  # bins of 0.2
    assert abs(0.81 - TOY.recursion(3)[3].covariance[0, 0]) > 0.1


def test_poisson_counts_fluctuate_about_the_expected_ones() -> None:
    n, toys = 200, 400
    random = replace(FULL, counts="poisson")
    made = {
        "simulation": [len(random.simulation(n, s)) for s in range(toys)],
        "data": [len(random.data(n, s)) for s in range(toys)],
        "background": [random.background(n, s, oversample=4).weight.sum() * 4 for s in range(toys)],
    }
    usual = {"simulation": len(FULL.simulation(n, 1)), "background": 4 * FULL.background(n, 1).weight.sum()}
    usual["data"] = FULL.rate * n * FULL._selected(FULL.truth).total + sum(
        n * part.total for part in (FULL.reco_data_fakes(), FULL.reco_background()) if part is not None
    )
    for name, counts in made.items():
        expected, found = usual[name], np.array(counts)
        assert abs(found.mean() - expected) < 4 * np.sqrt(expected / toys)
        assert abs(found.var(ddof=1) / expected - 1) < 4 * np.sqrt(2 / toys)  # a fixed number has 0


def test_samples_are_reproducible_and_independent() -> None:
    a, b, c = FULL.simulation(100, seed=1), FULL.simulation(100, seed=1), FULL.simulation(100, seed=2)
    for name in a.columns:
        np.testing.assert_array_equal(a[name], b[name])
    assert not np.array_equal(a["t0"], c["t0"], equal_nan=True)
    x, y = TOY.simulation(20000, seed=1)["t0"], TOY.data(20000, seed=1, keep_truth=True)["t0"]
    assert off(np.corrcoef(x, y)[0, 1], 0, 1 / np.sqrt(20000)) < 4


def test_unfolding_refuses_bad_input() -> None:
    with pytest.raises(ValueError, match="counts: expected 'expected' or 'poisson', found 'binomial'"):
        GaussianUnfolding(counts="binomial")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match=r"all parts in the prior's 1 dimension\(s\)"):
        GaussianUnfolding(truth=Gaussian([0.0, 0.0]))
    with pytest.raises(ValueError, match=r"efficiency: expected at most 1 everywhere, found 1\.2"):
        GaussianUnfolding(efficiency=Gaussian.peak(1.2, 0.0))
    with pytest.raises(ValueError, match="rate: expected a positive number"):
        GaussianUnfolding(rate=0.0)
    with pytest.raises(ValueError, match="data_fakes: expected 'absolute' or 'proportional'"):
        GaussianUnfolding(data_fakes="none")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="some, found background_density=None"):
        TOY.background(10, seed=1)
    with pytest.raises(ValueError, match="background: expected events exactly where"):
        FULL.sample_recursion(1, FULL.simulation(100, 1), FULL.data(100, 1))
    with pytest.raises(ValueError, match="grows without bound"):
        GaussianUnfolding(fake_density=Gaussian(0.0, 1000.0, total=0.1), data_fakes="proportional")
    with pytest.raises(ValueError, match="give more points"):
        TOY.on_grid(1, misses="prior", points_per_axis=20)
    with pytest.raises(ValueError, match="misses: expected 'conditional' or 'prior'"):
        TOY.on_grid(1, misses="none")  # type: ignore[arg-type]
    three = GaussianUnfolding(truth=Gaussian(np.zeros(3)), prior=Gaussian(np.ones(3)))
    with pytest.raises(ValueError, match="1 or 2 dimensions, found 3"):
        three.on_grid(1, misses="prior")
    with pytest.raises(ValueError, match="iterations: expected a number from 0"):
        TOY.recursion(-1)


def test_five_dimensions_converge() -> None:
    a = np.random.default_rng(1).normal(size=(5, 5)) / 4
    toy = GaussianUnfolding(
        truth=Gaussian(np.zeros(5), np.eye(5) + a @ a.T), prior=Gaussian(np.full(5, 0.3)), smearing=0.3
    )
    late = toy.recursion(2000)[2000]
    np.testing.assert_allclose(late.mean, toy.truth.mean, atol=1e-3)
    np.testing.assert_allclose(late.covariance, toy.truth.covariance, atol=2e-3)
    assert toy.simulation(10, seed=1).columns[:6] == ("t0", "t1", "t2", "t3", "t4", "x0")


# -- LinearGaussian ----------------------------------------------------------------------------------------------------

LINEAR = LinearGaussian(
    [[1.0, 0.5], [0.0, 1.0], [0.5, -0.5]],
    offset=[0.1, 0.0, -0.2],
    noise=[[0.3, 0.1, 0.0], [0.1, 0.4, 0.0], [0.0, 0.0, 0.2]],
    prior=Gaussian([0.2, -0.3], [[1.0, 0.3], [0.3, 0.8]]),
)
X = np.array([0.8, -0.5, 0.4])


def test_posterior_is_likelihood_times_prior_over_evidence() -> None:
    mean, covariance = LINEAR.posterior(X)
    theta = np.random.default_rng(1).normal(size=(30, 2))
    joint = LINEAR.log_likelihood(X, theta) + LINEAR.prior.log_density(theta) - LINEAR.marginal.log_density(X)
    np.testing.assert_allclose(stats.multivariate_normal(mean, covariance).logpdf(theta), joint, atol=1e-10)


def test_likelihood_equals_scipy_and_evidence_its_integral() -> None:
    theta = np.array([0.3, 0.7])
    expected = stats.multivariate_normal(LINEAR.matrix @ theta + LINEAR.offset, LINEAR.noise.covariance).logpdf(X)
    assert LINEAR.log_likelihood(X, theta) == pytest.approx(expected)
    side = np.linspace(-6, 6, 121)
    grid = np.stack(np.meshgrid(side, side), -1).reshape(-1, 2)
    integral = np.exp(LINEAR.log_likelihood(X, grid) + LINEAR.prior.log_density(grid)).sum() * 0.1**2
    assert LINEAR.marginal.log_density(X) == pytest.approx(np.log(integral), abs=1e-6)


def test_maximum_and_profile_equal_a_minimiser() -> None:
    best, covariance = LINEAR.maximum_likelihood(X)
    found = optimize.minimize(lambda v: -2 * LINEAR.log_likelihood(X, v), [0.0, 0.0], tol=1e-12)
    np.testing.assert_allclose(best, found.x, atol=1e-5)
    values = np.array([-0.5, 0.2, 1.0])
    q, where = LINEAR.profile(X, 0, values), LINEAR.profiled(X, 0, values)
    for value, height, point in zip(values, q, where, strict=True):
        held = optimize.minimize_scalar(lambda b, v=value: -2 * LINEAR.log_likelihood(X, np.array([v, b])))
        assert height == pytest.approx(held.fun - found.fun, abs=1e-8)
        assert point == pytest.approx([value, held.x], abs=1e-6)
    assert LINEAR.profile(X, 1, [best[1] + np.sqrt(covariance[1, 1])])[0] == pytest.approx(1.0)
    assert LINEAR.profile(np.tile(X, (4, 1)), 1, values).shape == (4, 3)


def test_samples_have_the_stated_moments_and_coverage() -> None:
    n = 40000
    events = LINEAR.simulate(n, seed=1)
    theta, x = columns(events, "theta", 2), columns(events, "x", 3)
    assert moments_off(theta, LINEAR.prior) < 4
    assert moments_off(x, LINEAR.marginal) < 4
    best, covariance = LINEAR.maximum_likelihood(events)
    assert moments_off(best - theta, Gaussian([0.0, 0.0], covariance)) < 4
    mean, posterior = LINEAR.posterior(events)
    assert moments_off(mean - theta, Gaussian([0.0, 0.0], posterior)) < 4
    at = np.array([1.0, -1.0])
    fixed = columns(LINEAR.sample_at(at, n, seed=2), "x", 3)
    assert moments_off(fixed, Gaussian(LINEAR.predict(at), LINEAR.noise.covariance)) < 4


def test_linear_gaussian_refuses_bad_input() -> None:
    with pytest.raises(ValueError, match="rank 2, found rank 1"):
        LinearGaussian([[1.0, 1.0]]).maximum_likelihood([[0.0]])
    with pytest.raises(ValueError, match=r"matrix: expected \(D, T\)"):
        LinearGaussian([1.0])
    with pytest.raises(ValueError, match="prior: expected 1 parameters, found 2"):
        LinearGaussian([[1.0]], prior=Gaussian([0.0, 0.0]))
    with pytest.raises(ValueError, match=r"component: expected 0 \.\. 1, found 2"):
        LINEAR.profile(X, 2, [0.0])
    with pytest.raises(ValueError, match=r"theta: expected one point \(2,\), found 2"):
        LINEAR.sample_at([[0.0, 0.0], [1.0, 1.0]], 5, seed=1)
