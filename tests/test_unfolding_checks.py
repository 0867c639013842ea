"""Checks of unfolded spectra: each passes a right answer at its own rate, and fails a wrong one that is named."""

from __future__ import annotations

import functools
import re
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy import stats

from nuinfer import MLP, Events, Training, hashing, metrics
from nuinfer.simulators import Gaussian, GaussianUnfolding
from nuinfer.tasks import TaskError
from nuinfer.unfolding import Binning, Response, Spectrum, Unfolded, checks, iterative_bayes, tikhonov, wiener_svd
from nuinfer.unfolding.checks import Check, Checks, Thresholds

Floats = NDArray[np.float64]

DETECTOR = GaussianUnfolding.with_detector()
TRUTH, RECO = {"t0": np.linspace(-2.0, 2.5, 7)}, {"x0": np.linspace(-2.5, 3.0, 15)}
RESPONSE = Response.from_events(DETECTOR.simulation(100_000, seed=1), truth=TRUTH, reco=RECO)
OWN = RESPONSE.truth_yield
MODEL = 1.2 * OWN * (1 + 0.2 * np.sin(np.arange(6)))
BACKGROUND = 150.0 * np.ones(14)
EXPECTED = RESPONSE.fold(MODEL, fakes=True) + BACKGROUND
DATA = np.random.default_rng(2).poisson(EXPECTED).astype(float)

RIGHT: dict[str, checks.Unfold] = {
    "iterative Bayes": lambda d, r: iterative_bayes(d, r, background=BACKGROUND),
    "least squares": lambda d, r: tikhonov(d, r, strength=0.0, background=BACKGROUND),
    "Tikhonov": lambda d, r: tikhonov(d, r, strength=30.0, background=BACKGROUND),
    "Wiener-SVD": lambda d, r: wiener_svd(d, r, background=BACKGROUND),
    "scaled fakes": lambda d, r: iterative_bayes(d, r, background=BACKGROUND, fakes="scale"),
}


#: Scaled fakes follow the data: of the model they are as many as its fold times F / S.
SCALED = RESPONSE.fold(MODEL) * RESPONSE.reco_yield / RESPONSE.both.sum(1) + BACKGROUND
SEEN = dict.fromkeys(RIGHT, DATA) | {"scaled fakes": np.random.default_rng(2).poisson(SCALED).astype(float)}


def exactly(d: Floats, r: Response) -> Spectrum:
    """Least squares with the exact covariance, so that chi-squared is one."""
    return tikhonov(d, r, strength=0.0, background=BACKGROUND, covariance=EXPECTED)


def strong(d: Floats, r: Response) -> Spectrum:
    """Regularised until the simulation's shape is all that is left."""
    return tikhonov(d, r, strength=1e7, order=1, background=BACKGROUND)


def without_fakes(d: Floats, r: Response) -> Spectrum:
    return RIGHT["iterative Bayes"](d, replace(r, fakes=0 * r.fakes))


def without_background(d: Floats, r: Response) -> Spectrum:
    return iterative_bayes(d, r)


def efficiency_twice(d: Floats, r: Response) -> Spectrum:
    found = RIGHT["iterative Bayes"](d, r)
    return replace(found, values=found.values / r.efficiency)


def scaled(unfold: checks.Unfold, factor: float) -> checks.Unfold:
    """With another covariance."""

    def other(d: Any, r: Response) -> Spectrum:
        found = unfold(d, r)
        return replace(found, covariances={n: factor * c for n, c in found.covariances.items()})

    return other


def thrown(seed: int) -> Floats:
    return np.random.default_rng(seed).poisson(EXPECTED).astype(float)


def data_only(spectrum: Spectrum) -> Spectrum:
    """Without the simulation's uncertainty, for toys in which it does not fluctuate."""
    return replace(spectrum, covariances={"data": spectrum.covariances["data"]})


# -- a spectrum beside a truth -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", RIGHT)
def test_closure_passes_every_method(name: str) -> None:
    found = checks.closure(RIGHT[name](RESPONSE.fold(OWN, fakes=True) + BACKGROUND, RESPONSE), OWN)
    assert found.passed
    assert found.value < 1e-6
    assert found.threshold == 0.1
    assert "from the truth itself" in found.words


@pytest.mark.parametrize("wrong", [without_fakes, without_background, efficiency_twice])
def test_closure_fails_what_is_wrong(wrong: checks.Unfold) -> None:
    found = checks.closure(wrong(RESPONSE.fold(OWN, fakes=True) + BACKGROUND, RESPONSE), OWN)
    assert found.passed is False
    assert found.value > 5
    assert "in bin" in found.words


def test_closure_tells_the_distance_by_hand() -> None:
    found = exactly(EXPECTED, RESPONSE)
    moved = replace(found, values=found.values + np.array([0, 0, -2.0, 0, 1.0, 0]) * found.uncertainty)
    check = checks.closure(moved, MODEL)
    assert check.value == pytest.approx(2, rel=1e-6)
    assert "bin 2" in check.words
    assert checks.closure(moved, MODEL, sigma=40 * found.uncertainty).passed


def test_stress_p_values_are_uniform() -> None:
    """300 pseudo-experiments with the exact covariance; half of it is not one."""
    runs = [data_only(exactly(thrown(seed), RESPONSE)) for seed in range(300)]
    right = [checks.stress(s, MODEL).value for s in runs]
    half = [checks.stress(replace(s, covariances={"data": s.covariances["data"] / 2}), MODEL).value for s in runs]
    assert stats.kstest(right, "uniform").pvalue > 1e-3
    assert stats.kstest(half, "uniform").pvalue < 1e-6


def test_stress_with_a_covariance_of_replicas() -> None:
    """Of 20 replicas in 6 bins p is uniform, that of chi-squared is not; of 6 replicas there is no verdict."""
    rng, exact = np.random.default_rng(4), data_only(exactly(EXPECTED, RESPONSE))
    root = np.linalg.cholesky(exact.covariance)

    def of_replicas(n: int) -> Spectrum:
        values, *replicas = MODEL + rng.normal(size=(n + 1, 6)) @ root.T
        covariance = metrics.replica_covariance(replicas)
        return replace(exact, values=values, smearing=None, replicas=np.array(replicas),
                       covariances={"statistical": covariance})  # fmt: skip

    runs = [of_replicas(20) for _ in range(300)]
    assert stats.kstest([checks.stress(s, MODEL).value for s in runs], "uniform").pvalue > 1e-3
    plain = [metrics.chi2(s.values - MODEL, s.covariance) for s in runs]
    assert stats.kstest(stats.chi2.sf(plain, 6), "uniform").pvalue < 1e-6
    few = checks.stress(of_replicas(6), MODEL)
    assert few.passed is None
    assert "6 replicas are too few" in few.words
    assert "A_C" not in few.words
    with pytest.raises(ValueError, match="Hartlap"):
        checks.bottom_line(of_replicas(6), DATA, RESPONSE, {"model": MODEL}, background=BACKGROUND)


@functools.cache
def other_generator() -> Events:
    """Events of another truth through the same detector, without background."""
    other = GaussianUnfolding(
        prior=Gaussian(-0.1, 1.1), efficiency=DETECTOR.efficiency, fake_density=DETECTOR.fake_density
    )
    return other.simulation(50_000, seed=5)


def by_events(d: Any, r: Response) -> Spectrum:
    """Least squares of the other generator's events, which have a yield of fakes of their own."""
    fakes = other_generator()
    fakes = fakes.select(fakes["pass_reco"] & ~fakes["pass_truth"]).keep(["x0"])
    return tikhonov(d, replace(r, fakes=0 * r.fakes), strength=0.0, background=fakes)


def test_stress_of_another_generator() -> None:
    """Truth that differs inside bins is within the tolerance; an efficiency that is ignored is not."""
    events = other_generator()
    seen = events.select(events["pass_reco"]).keep(["x0"])
    fine = {"t0": np.linspace(-2.5, 2.5, 13)}  # as fine as the truth's shape in bins needs
    response = Response.from_events(
        DETECTOR.simulation(100_000, seed=1), truth=fine, reco={"x0": np.linspace(-3, 3, 31)}
    )
    truth = np.histogram(events["t0"], fine["t0"])[0].astype(float)
    right = by_events(seen, response)
    found = checks.stress(right, truth, name="other", sigma=right.uncertainty)
    assert found.passed
    assert found.name == "stress test, other"
    all_seen = replace(response, missed=0 * response.missed)
    assert checks.stress(by_events(seen, all_seen), truth).passed is False


def test_a_small_bias_passes_however_significant() -> None:
    """Of pseudo-data a hundred times larger than the data."""
    found = exactly(EXPECTED, RESPONSE)
    sharp = replace(found, values=found.values + 0.1 * found.uncertainty,
                    covariances={"data": 1e-4 * found.covariance})  # fmt: skip
    assert checks.stress(sharp, MODEL).passed is False
    small = checks.stress(sharp, MODEL, sigma=found.uncertainty)
    assert small.passed
    assert small.value < 1e-10


def test_prior_dependence() -> None:
    """Least squares has none, which a strong penalty is nothing but."""
    other = 1.2 * OWN * np.linspace(0.5, 1.5, 6)
    plain = [
        tikhonov(DATA, RESPONSE, strength=0.0, reference=r, background=BACKGROUND) for r in (None, other)
    ]  # fmt: skip
    tight = [tikhonov(DATA, RESPONSE, strength=1e7, order=1, reference=r, background=BACKGROUND) for r in (None, other)]
    passed, failed = checks.prior_dependence(*plain, name="tilted"), checks.prior_dependence(*tight)
    assert passed.passed
    assert passed.value < 1e-6
    assert passed.name == "prior dependence, tilted"
    assert failed.passed is False
    assert failed.value == pytest.approx(
        np.max(np.abs(tight[1].values - tight[0].values) / tight[0].uncertainty)
    )  # fmt: skip


def test_iteration_effect() -> None:
    """By hand, and of iterative Bayes, which four iterations bring to rest more nearly than two."""
    found = checks.iteration_effect([[10.0, 20.0], [14.0, 20.0], [14.0, 19.0]], [2.0, 4.0], most=0.2)
    assert found.passed is False
    assert found.value == 0.25
    assert found.words.endswith("by step 2, 0.25")
    runs = [iterative_bayes(DATA, RESPONSE, background=BACKGROUND, iterations=k) for k in (1, 2, 20, 21)]
    assert checks.iteration_effect([r.values for r in runs[2:]], runs[3].uncertainty).passed
    assert checks.iteration_effect([r.values for r in runs[:2]], runs[1].uncertainty).passed is False


# -- in reco space -----------------------------------------------------------------------------------------------------

MODELS = {"model": MODEL, "simulation": 1.2 * OWN, "tilted": OWN * np.linspace(0.8, 1.6, 6)}


@pytest.mark.parametrize("name", RIGHT)
def test_bottom_line_holds_for_every_method(name: str) -> None:
    found = checks.bottom_line(RIGHT[name](DATA, RESPONSE), DATA, RESPONSE, MODELS, background=BACKGROUND)
    assert found.passed
    assert found.value <= 1 + 1e-6
    if name in ("least squares", "Tikhonov", "Wiener-SVD"):  # which lose nothing between models
        assert found.value == pytest.approx(1, rel=1e-5)


def test_bottom_line_fails_a_covariance_that_is_too_small() -> None:
    small = scaled(RIGHT["least squares"], 0.5)(DATA, RESPONSE)
    found = checks.bottom_line(small, DATA, RESPONSE, MODELS, background=BACKGROUND)
    assert found.passed is False
    assert found.value == pytest.approx(2, rel=1e-5)
    assert "covariance too small" in found.words


def test_bottom_line_fails_without_smearing() -> None:
    found = replace(strong(DATA, RESPONSE), smearing=None)
    check = checks.bottom_line(found, DATA, RESPONSE, MODELS, background=BACKGROUND)
    assert check.passed is False
    assert check.value > 10


def test_bottom_line_with_a_covariance_of_the_data() -> None:
    """Correlated, and given to both."""
    matrix = np.diag(EXPECTED) + 0.02**2 * np.outer(EXPECTED, EXPECTED)
    found = iterative_bayes(DATA, RESPONSE, background=BACKGROUND, covariance=matrix)
    options: dict[str, Any] = {"models": MODELS, "background": BACKGROUND}
    assert checks.bottom_line(found, DATA, RESPONSE, covariance=matrix, **options).passed
    uncorrelated = iterative_bayes(DATA, RESPONSE, background=BACKGROUND)
    assert checks.bottom_line(uncorrelated, DATA, RESPONSE, covariance=matrix, **options).passed is False


def test_refolded_chi2_is_uniform_for_least_squares() -> None:
    """R - T degrees of freedom; with R the p-values are not uniform."""
    runs = [(d, exactly(d, RESPONSE)) for d in map(thrown, range(300))]
    options: dict[str, Any] = {"background": BACKGROUND, "covariance": EXPECTED}
    right = [checks.refolded_chi2(s, d, RESPONSE, **options).value for d, s in runs]
    assert stats.kstest(right, "uniform").pvalue > 1e-3
    too_free = stats.chi2.sf(stats.chi2.isf(right, 8), 14)
    assert stats.kstest(too_free, "uniform").pvalue < 1e-6


def test_refolded_chi2_by_toys_is_that_of_chi2() -> None:
    options: dict[str, Any] = {"background": BACKGROUND, "covariance": EXPECTED}
    plain = checks.refolded_chi2(exactly(DATA, RESPONSE), DATA, RESPONSE, **options)
    toys = checks.refolded_chi2(exactly(DATA, RESPONSE), DATA, RESPONSE, unfold=exactly, toys=400, seed=1,
                                progress=False, **options)  # fmt: skip
    error = np.sqrt(plain.value * (1 - plain.value) / 400)
    assert abs(toys.value - plain.value) < 4 * error
    assert "by 400 toys" in toys.words


@pytest.mark.parametrize("name", RIGHT)
@pytest.mark.parametrize("toys", [0, 100])
def test_refolded_chi2_passes_every_method(name: str, toys: int) -> None:
    unfold, data = RIGHT[name], SEEN[name]
    found = checks.refolded_chi2(unfold(data, RESPONSE), data, RESPONSE, background=BACKGROUND,
                                 unfold=unfold if toys else None, toys=toys, progress=False)  # fmt: skip
    assert found.passed


@pytest.mark.parametrize("wrong", [strong, efficiency_twice, without_background])
@pytest.mark.parametrize("toys", [0, 100])
def test_refolded_chi2_fails_what_is_wrong(wrong: checks.Unfold, toys: int) -> None:
    """Regularisation that is too strong is one of them."""
    found = checks.refolded_chi2(wrong(DATA, RESPONSE), DATA, RESPONSE, background=BACKGROUND,
                                 unfold=wrong if toys else None, toys=toys, progress=False)  # fmt: skip
    assert found.passed is False
    assert found.value < 1e-3


def test_refolded_chi2_without_freedom_has_no_verdict() -> None:
    square = Response.from_events(
        DETECTOR.simulation(20_000, seed=1), truth=TRUTH, reco={"x0": np.linspace(-2.5, 3.0, 7)}
    )
    found = tikhonov(square.fold(OWN, fakes=True), square, strength=0.0)
    assert checks.refolded_chi2(found, square.fold(OWN, fakes=True), square).passed is None


# -- pseudo-experiments ------------------------------------------------------------------------------------------------


def toys_of(unfold: checks.Unfold, toys: int = 400, **options: Any) -> checks.PseudoExperiments:
    return checks.pseudo_experiments(
        unfold, RESPONSE, MODEL, toys=toys, background=BACKGROUND, seed=3, progress=False, **options
    )


@pytest.mark.parametrize("name", RIGHT)
def test_coverage_passes_every_method(name: str) -> None:
    found = toys_of(RIGHT[name], fakes="scale" if name == "scaled fakes" else "subtract")
    check, itself = checks.coverage(found)
    assert check.passed
    assert itself.passed is None
    assert "bias/sigma" in itself.words
    np.testing.assert_allclose(found.covered, 0.6827, atol=4.5 * np.sqrt(0.6827 * 0.3173 / 400))
    np.testing.assert_allclose(found.pulls.std(0), 1, atol=4.5 / np.sqrt(800))


@pytest.mark.parametrize(("factor", "covered"), [(0.5, 0.5205), (2.0, 0.8427)])
def test_coverage_fails_another_covariance(factor: float, covered: float) -> None:
    """Half and twice the variance cover erf(sqrt(f / 2)) at one sigma."""
    found = toys_of(scaled(RIGHT["least squares"], factor))
    check, _ = checks.coverage(found)
    assert check.passed is False
    np.testing.assert_allclose(found.covered.mean(), covered, atol=4.5 * 0.5 / np.sqrt(400))
    assert checks.coverage(found, tolerance=0.5)[0].passed


@pytest.mark.parametrize("wrong", [without_fakes, efficiency_twice])
def test_coverage_fails_a_wrong_method(wrong: checks.Unfold) -> None:
    assert checks.coverage(toys_of(wrong, 100))[0].passed is False


def test_coverage_of_the_truth_is_that_of_the_bias() -> None:
    """A fixed linear method has the bias (A_C - 1) t, and covers Phi(1 - b) - Phi(-1 - b)."""

    def unfold(d: Floats, r: Response) -> Spectrum:
        return tikhonov(d, r, strength=3000.0, background=BACKGROUND, covariance=EXPECTED)

    found, at = toys_of(unfold), unfold(EXPECTED, RESPONSE)
    sigma = np.sqrt(np.diag(at.covariances["data"]))
    bias = (at.smear(MODEL) - MODEL) / sigma
    assert np.abs(bias).max() > 1
    np.testing.assert_allclose(found.bias, bias, atol=4.5 / np.sqrt(400))
    expected = stats.norm.cdf(1 - bias) - stats.norm.cdf(-1 - bias)
    np.testing.assert_allclose(found.truth_covered, expected, atol=4.5 * 0.5 / np.sqrt(400))
    assert checks.coverage(found)[0].passed


def test_gaussian_pseudo_experiments() -> None:
    """With a correlated covariance, which Poisson counts lack."""
    matrix = np.diag(EXPECTED) + 0.05**2 * np.outer(EXPECTED, EXPECTED)

    def unfold(d: Floats, r: Response) -> Spectrum:
        return tikhonov(d, r, strength=0.0, background=BACKGROUND, covariance=matrix)

    assert checks.coverage(toys_of(unfold, covariance=matrix))[0].passed
    assert checks.coverage(toys_of(unfold))[0].passed is False


def test_same_seed_same_toys() -> None:
    one, two = (toys_of(RIGHT["least squares"], 5) for _ in range(2))
    np.testing.assert_array_equal(one.values, two.values)
    assert len(one) == 5
    assert "PseudoExperiments(5 of" in repr(one)


def test_error_of_a_coverage_of_one_is_not_zero() -> None:
    found = toys_of(RIGHT["least squares"], 20)
    assert (found.error(np.ones(6)) > 0.01).all()
    np.testing.assert_allclose(found.error(np.full(6, 0.5)), 0.5 / np.sqrt(20))


# -- weighted events ---------------------------------------------------------------------------------------------------

SIMULATION, EVENTS = DETECTOR.simulation(8000, seed=1), DETECTOR.data(8000, seed=1)
EVENTS_BACKGROUND = DETECTOR.background(8000, seed=1)
FAST: dict[str, Any] = {"network": MLP(width=16, depth=2), "training": Training(epochs=5, batch=512), "seed": 1}


def exact_weights() -> Floats:
    """The ratio of the true densities, which no unfolding of these data can beat; 1 for fakes."""
    t, where = np.nan_to_num(SIMULATION["t0"])[:, None], SIMULATION["pass_truth"]
    ratio = DETECTOR.unfolded().density(t) / DETECTOR.prior.density(t)
    return np.where(where, ratio, 1.0)


def weighted(weight: Floats) -> Unfolded:
    times = np.stack([hashing.poisson(SIMULATION.key(None), 1, "bootstrap", k) for k in range(30)])
    return Unfolded(SIMULATION, weight[None], weight * times, (), seed=1)


RIGHT_WEIGHTS, NO_WEIGHTS = weighted(exact_weights()), weighted(np.ones(len(SIMULATION)))


def test_two_sample() -> None:
    """Exact weights pass; none, and forgotten background, fail."""
    options: dict[str, Any] = {"background": EVENTS_BACKGROUND, **FAST}
    assert checks.two_sample(RIGHT_WEIGHTS, EVENTS, ["x0"], **options).passed
    assert checks.two_sample(NO_WEIGHTS, EVENTS, ["x0"], **options).passed is False
    assert checks.two_sample(RIGHT_WEIGHTS, EVENTS, ["x0"], **FAST).passed is False


def test_reweighted_chi2() -> None:
    """As the two-sample test; the rate counts too."""
    options: dict[str, Any] = {"bins": RECO, "background": EVENTS_BACKGROUND}
    assert checks.reweighted_chi2(RIGHT_WEIGHTS, EVENTS, **options).passed
    assert checks.reweighted_chi2(NO_WEIGHTS, EVENTS, **options).passed is False
    assert checks.reweighted_chi2(RIGHT_WEIGHTS, EVENTS, RECO).passed is False
    low = weighted(exact_weights() / 1.2)
    assert checks.reweighted_chi2(low, EVENTS, **options).passed is False


def test_effective_size() -> None:
    """By definition; a few events that carry all the weight fail."""
    where = SIMULATION["pass_truth"]
    found = checks.effective_size(RIGHT_WEIGHTS)
    expected = metrics.effective_size(exact_weights()[where]) / where.sum()
    assert found.passed
    assert found.value == pytest.approx(expected)
    wild = weighted(np.exp(3 * np.random.default_rng(1).normal(size=len(SIMULATION))))
    assert checks.effective_size(wild).passed is False


def test_check_events() -> None:
    exact = SIMULATION.with_weight(exact_weights()).select(SIMULATION["pass_truth"])
    truth = np.histogram(exact["t0"], TRUTH["t0"], weights=exact.weight)[0]
    options: dict[str, Any] = {"truth": TRUTH, "reco": RECO, "features": ["x0"], "background": EVENTS_BACKGROUND}
    found = checks.check_events(
        RIGHT_WEIGHTS, EVENTS, closed=NO_WEIGHTS, pseudo_data={"exact": (RIGHT_WEIGHTS, truth)},
        priors={"same": RIGHT_WEIGHTS}, **options, **FAST,
    )  # fmt: skip
    assert not found.failed
    assert [c.name for c in found.undecided] == ["bottom line", "coverage", "iterations"]
    assert "by with_data(); exact does not" in found["bottom line"].words
    wrong = checks.check_events(
        NO_WEIGHTS, EVENTS, closed=RIGHT_WEIGHTS, pseudo_data={"exact": (NO_WEIGHTS, truth)},
        priors={"other": RIGHT_WEIGHTS}, **options, **FAST,
    )  # fmt: skip
    assert {c.name for c in wrong.failed} == {
        "two-sample test", "refolded chi2", "closure", "stress test, exact", "prior dependence, other"
    }  # fmt: skip


def of_throws(rng: np.random.Generator, truths: int, throws: int, data: int) -> tuple[Unfolded, Events]:
    """Poisson numbers of truths, each through the detector several times, and of data of the same density."""
    count, seen = rng.poisson(truths), rng.poisson(data)
    t = np.repeat(rng.normal(size=count), throws)
    simulation = Events(
        {"t0": t, "x0": t + rng.normal(0, 0.5, len(t)), "truth": np.repeat(np.arange(count), throws)},
        weight=np.full(len(t), data / (truths * throws)), id=np.arange(len(t)) + 10**6,
    )  # fmt: skip
    own = Unfolded(simulation, np.ones((1, len(t))), np.ones((2, len(t))), (), seed=1, group="truth")
    return own, Events({"x0": rng.normal(0, np.sqrt(1.25), seen)}, id=np.arange(seen) + 10**9)


def test_chi2_of_throws_is_uniform() -> None:
    """The exact weights, 1: throws of one truth that count as independent fail far too often."""
    rng = np.random.default_rng(1)
    runs = [of_throws(rng, 500, 10, 5000) for _ in range(100)]
    own, alone = (
        np.array([checks.reweighted_chi2(replace(u, group=group), data, RECO).value for u, data in runs])
        for group in ("truth", None)
    )
    assert stats.kstest(own, "uniform").pvalue > 1e-3
    assert (alone < 1e-3).mean() > 0.1
    u, data = runs[0]
    known = u.with_data(data)
    usual: dict[str, Any] = {"truth": TRUTH, "reco": RECO, "features": ["x0"], **FAST}
    assert known.check(**usual)["refolded chi2"].value == own[0]  # though the data have no column "truth"
    with pytest.raises(KeyError, match="truth"):
        checks.reweighted_chi2(replace(u, simulation=u.simulation.keep(["t0", "x0"])), data, RECO)


def test_two_sample_of_throws_is_fair() -> None:
    """With the deviation of independent copies z would be of width 2; equal ids are copies as well."""
    rng = np.random.default_rng(2)
    options: dict[str, Any] = {"network": MLP(width=8, depth=1), "training": Training(epochs=4, batch=64), "seed": 1}
    runs = [of_throws(rng, 60, 20, 1200) for _ in range(12)]
    z = np.array([stats.norm.isf(checks.two_sample(u, data, ["x0"], **options).value) for u, data in runs])
    assert z.std() < 1 + 3 / np.sqrt(24)
    assert z.max() < 2.9  # of 12, with a probability of 0.98
    u, data = runs[0]
    copies = Events({"x0": u.simulation["x0"]}, weight=u.simulation.weight, id=u.simulation["truth"])
    same = checks.two_sample(replace(u, simulation=copies, group=None), data, ["x0"], **options)
    assert (
        same.words.split("+-")[1].split()[0]
        == (checks.two_sample(u, data, ["x0"], **options).words.split("+-")[1].split()[0])
    )
    far = data.with_columns(x0=data["x0"] + 1.0)
    assert checks.two_sample(u, far, ["x0"], **options).passed is False


def test_closure_with_an_empty_truth_bin() -> None:
    """Where there is no truth there is nothing to close, and nothing is divided by it."""
    bins = {"t0": np.array([-2.0, 0.0, 2.5, 50.0, 60.0])}
    own = Binning.of(bins).fill(SIMULATION.select(SIMULATION["pass_truth"]))[0]
    assert own[-1] == 0
    found = checks.check_events(NO_WEIGHTS, EVENTS, truth=bins, reco=RECO, features=["x0"], closed=NO_WEIGHTS, **FAST)
    assert found["closure"].passed
    assert found["closure"].value < 1e-9


def test_bottom_line_of_equal_signals_says_so() -> None:
    """Pseudo-data that are the data: no ratio to something that is 0."""
    known = RIGHT_WEIGHTS.with_data(EVENTS, EVENTS_BACKGROUND)
    line = checks.bottom_line_of_events(known, {"again": known}, truth=TRUTH, reco=RECO)
    assert line.passed
    assert "there is no difference before" in line.words
    assert "e+" not in line.words
    moved = weighted(exact_weights() * np.where(np.nan_to_num(SIMULATION["t0"]) > 0, 1.5, 0.8))
    other = moved.with_data(EVENTS, EVENTS_BACKGROUND)
    line = checks.bottom_line_of_events(known, {"moved": other}, truth=TRUTH, reco=RECO)
    assert "there is no difference before" in line.words
    assert not line.passed


# -- all at once -------------------------------------------------------------------------------------------------------


def all_of(unfold: checks.Unfold, data: Floats = DATA, **options: Any) -> Checks:
    usual: dict[str, Any] = {
        "background": BACKGROUND, "models": MODELS, "toys": 100, "progress": False,
        "priors": {"again": unfold(data, RESPONSE)},
        "iterations": [iterative_bayes(DATA, RESPONSE, background=BACKGROUND, iterations=k).values for k in (3, 4)],
    }  # fmt: skip
    return checks.check(unfold(data, RESPONSE), data, RESPONSE, unfold, **(usual | options))


@pytest.mark.parametrize("name", RIGHT)
def test_all_checks_pass_every_method(name: str) -> None:
    found = all_of(RIGHT[name], SEEN[name])
    assert not found.failed, str(found)
    assert [c.name for c in found.undecided] == ["coverage of the truth itself"]
    found.raise_if_failed()


WRONG: dict[str, tuple[Callable[..., Spectrum], set[str]]] = {
    "fakes forgotten": (without_fakes, {"closure", "bottom line", "refolded chi2", "coverage"}),
    "background forgotten": (without_background, {"closure", "bottom line", "refolded chi2", "coverage"}),
    "efficiency divided twice": (efficiency_twice, {"closure", "bottom line", "refolded chi2", "coverage"}),
    "covariance too small": (scaled(RIGHT["Tikhonov"], 0.4), {"bottom line", "coverage"}),
    "regularisation too strong": (strong, {"refolded chi2"}),
}


@pytest.mark.parametrize("name", WRONG)
def test_what_finds_what(name: str) -> None:
    unfold, expected = WRONG[name]
    found = all_of(unfold, toys=300)
    assert expected <= {c.name for c in found.failed}, str(found)
    with pytest.raises(RuntimeError, match="checks of the unfolding failed"):
        found.raise_if_failed()


def test_what_is_not_given_is_listed() -> None:
    found = all_of(RIGHT["least squares"], models=None, priors=None, iterations=(), toys=0)
    names = {"stress test", "bottom line", "coverage", "prior dependence", "iterations"}
    assert {c.name for c in found.undecided} == names
    assert "needs models=" in found["bottom line"].words
    assert "2 of 2 checks passed" in str(found)


def test_thresholds_are_those_given() -> None:
    found = all_of(RIGHT["iterative Bayes"], thresholds=Thresholds(level=0.05, iteration=1e-6, bottom_line=-0.9))
    assert found["refolded chi2"].threshold == 0.05
    assert {c.name for c in found.failed} >= {"iterations", "bottom line"}


def test_other_pseudo_data() -> None:
    """Contents of another truth, and the same beside the truth of something else."""
    pseudo = RESPONSE.fold(OWN, fakes=True) + BACKGROUND
    found = all_of(RIGHT["least squares"], pseudo_data={"right": (pseudo, OWN), "wrong": (pseudo, MODEL)}, toys=0)
    assert found["stress test, right"].passed
    assert found["stress test, wrong"].passed is False
    assert "tests the code alone" in found["stress test, model"].words
    assert "tests the code alone" not in found["stress test, right"].words


# -- a report ----------------------------------------------------------------------------------------------------------

THREE = Checks((
    Check("one", True, 0.5, 1.0, "fine"), Check("two", False, 2.0, 1.0, "bad"), Check("three", None, np.nan, 1.0, "-")
))  # fmt: skip


def test_report_in_words() -> None:
    assert str(THREE).splitlines() == [
        "1 of 2 checks passed", "  FAILED   two: bad", "  passed   one: fine", "  no bar   three: -"
    ]  # fmt: skip
    assert THREE["two"].value == 2.0
    assert len(THREE) == 3
    with pytest.raises(RuntimeError, match="1 of 3 checks") as error:
        THREE.raise_if_failed()
    assert "two: bad" in str(error.value)
    assert "one: fine" not in str(error.value)
    with pytest.raises(KeyError, match="known: one, two, three"):
        THREE["four"]


def test_report_is_saved(tmp_path: Any) -> None:
    THREE.save(tmp_path / "checks")
    found = Checks.load(tmp_path / "checks")
    assert str(found) == str(THREE)
    assert [c.passed for c in found.checks] == [True, False, None]
    assert np.isnan(found["three"].value)


# -- bad input ---------------------------------------------------------------------------------------------------------


def test_bad_input() -> None:
    spectrum = exactly(DATA, RESPONSE)
    with pytest.raises(ValueError, match="expected 6 bins"):
        checks.stress(spectrum, np.ones(5))
    with pytest.raises(ValueError, match="models: expected at least one"):
        checks.bottom_line(spectrum, DATA, RESPONSE, {})
    with pytest.raises(ValueError, match="at least 2 iterations, found 1"):
        checks.iteration_effect([OWN], OWN)
    with pytest.raises(ValueError, match="toys: expected at least 2, found 1"):
        checks.pseudo_experiments(exactly, RESPONSE, MODEL, toys=1, seed=1)
    with pytest.raises(ValueError, match="cl: expected a number between 0 and 1"):
        checks.pseudo_experiments(exactly, RESPONSE, MODEL, toys=2, cl=68, seed=1)
    with pytest.raises(ValueError, match="truth: expected positive contents"):
        checks.pseudo_experiments(exactly, RESPONSE, -MODEL, toys=2, seed=1)
    other = Response.from_events(SIMULATION, truth={"t0": [-2.0, 0.0, 2.0]}, reco=RECO)
    with pytest.raises(ValueError, match="response: expected the bins"):
        checks.check(spectrum, DATA, other, exactly)
    with pytest.raises(ValueError, match="names of their own, found 'model' in both"):
        checks.check(spectrum, DATA, RESPONSE, exactly, models=MODELS, pseudo_data={"model": (DATA, MODEL)})
    with pytest.raises(ValueError, match="give covariance="):
        checks.refolded_chi2(replace(spectrum, values=-spectrum.values), DATA, RESPONSE)
    with pytest.raises(ValueError, match="no covariance without replicas"):
        checks.check_events(replace(RIGHT_WEIGHTS, replicas=np.empty((0, 0))), EVENTS, truth=TRUTH, reco=RECO,
                            features=["x0"])  # fmt: skip


def test_toys_that_fail_are_told() -> None:
    def fails(d: Floats, r: Response) -> Spectrum:
        raise ValueError("no")

    with pytest.raises(TaskError, match=r"at least 2 that can be unfolded, found 0; 5 of 5 toys failed .*no"):
        toys_of(fails, 5)


@pytest.mark.parametrize(("expected", "few"), [(5.0, True), (1.0, False)])
def test_a_bin_that_is_empty_in_some_toys(expected: float, few: bool) -> None:
    """Least squares refuses Poisson counts without a variance: exp(-5) of the toys and little more, or exp(-1)."""
    scale = expected / RESPONSE.fold(OWN, fakes=True).min()
    small = replace(RESPONSE, both=scale * RESPONSE.both, missed=scale * RESPONSE.missed, fakes=scale * RESPONSE.fakes)
    own = scale * OWN
    data = np.rint(small.fold(own, fakes=True))

    def unfold(d: Floats, r: Response) -> Spectrum:
        return tikhonov(d, r, strength=0)

    found = checks.check(unfold(data, small), data, small, unfold, models={"own": own}, toys=300, progress=False)
    runs = checks.pseudo_experiments(unfold, small, own, toys=300, seed=1, progress=False)
    share = 1 - len(runs) / 300
    empty = 1 - np.prod(1 - np.exp(-small.fold(own, fakes=True)))
    assert abs(share - empty) < 4 * np.sqrt(empty * (1 - empty) / 300)
    for name in ("refolded chi2", "coverage"):
        assert re.search(r"; \d+ of 300 toys failed \(", found[name].words)
        assert (found[name].passed is None) == (not few)
    assert checks.coverage(runs)[0].words.endswith("give no verdict") == (not few)
    wrong = np.rint(small.fold(own * np.array([1, 1, 9, 1, 1, 1]), fakes=True))[::-1] + 1
    assert (
        checks.refolded_chi2(unfold(data, small), wrong, small, unfold=unfold, toys=50, progress=False).passed is False
    )
    without = checks.check(unfold(data, small), data, small, broken_after(unfold, 1), toys=4, progress=False)
    assert "4 of 4 toys failed" in without["coverage"].words
    assert without["coverage"].passed is None


def broken_after(unfold: checks.Unfold, calls: int) -> checks.Unfold:
    """Which fails when it was called so often."""
    count = iter(range(calls))

    def found(d: Floats, r: Response) -> Spectrum:
        if next(count, None) is None:
            raise ValueError("no")
        return unfold(d, r)

    return found
