"""`nuinfer.unfolding.unbinned.moments`: the truth itself, where the log ratio of the truths is in the span.

The log ratio of two Gaussians is quadratic, so that degree 2 has no bias to first order, while OmniFold after three
iterations has that of the exact recursion.  Pseudo-experiments are disjoint parts of one large sample, told apart by a
hash: their numbers of events are Poisson but for one part in 200, as the covariance takes them.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from gaussian_samples import Samples
from scipy import stats

from nuinfer import MLP, Events, Training, omnifold
from nuinfer.errors import NotConverged
from nuinfer.simulators import Gaussian, GaussianUnfolding
from nuinfer.unfolding import MatchedMoments, MomentComparison, match_moments
from nuinfer.unfolding.checks import effective_size
from nuinfer.unfolding.export import export_unbinned, read_unbinned
from nuinfer.unfolding.unbinned.result import Unfolded

#: Of smearing 1, so that three iterations are far from enough.
WIDE = replace(GaussianUnfolding.with_detector(), smearing=1.0)
PLANE = replace(
    GaussianUnfolding(
        truth=Gaussian([0.0, 0.0], [[1.0, 0.3], [0.3, 1.0]]), prior=Gaussian([0.2, -0.1], 0.81),
        smearing=[[0.25, 0.1], [0.1, 0.36]],
    ),
    efficiency=Gaussian.peak(0.9, [1.0, 0.0], np.diag([4.0, 50.0])),
    fake_density=Gaussian([-1.5, 0.0], np.diag([0.25, 1.0]), total=0.15),
    background_density=Gaussian([2.0, 0.0], np.diag([0.16, 1.0]), total=0.2), rate=1.2, negative=0.1,
)  # fmt: skip
SPACE = GaussianUnfolding(
    truth=Gaussian(np.zeros(4), 0.8 * np.eye(4) + 0.1), prior=Gaussian([0.2, -0.1, 0.15, 0.0], 0.81),
    smearing=0.25, efficiency=Gaussian.peak(0.9, [1.0, 0.0, 0.0, 0.0], np.diag([4.0, 50.0, 50.0, 50.0])),
    fake_density=Gaussian([-1.5, 0.0, 0.0, 0.0], np.diag([0.25, 1.0, 1.0, 1.0]), total=0.15),
    background_density=Gaussian([2.0, 0.0, 0.0, 0.0], np.diag([0.16, 1.0, 1.0, 1.0]), total=0.2), rate=1.2,
)  # fmt: skip
#: Four functions of x that do not grow, so that sums of their squares are well measured: one degree of freedom more.
TAME = {"tanh": "tanh(x0)", "left": "exp(-(x0 + 1)**2)", "right": "exp(-(x0 - 1)**2)", "half": lambda e: e["x0"] > 0}
EDGES = {"t0": np.array([-3.0, -1.0, 0.0, 1.0, 3.0])}


def true_log_weights(problem: GaussianUnfolding, at: Events) -> np.ndarray:
    t = np.stack([at[f"t{i}"] for i in range(problem.dim)], 1)
    return problem.unfolded().log_density(t) - problem.prior.log_density(t)


def from_truth(problem: GaussianUnfolding, found: MatchedMoments) -> tuple[np.ndarray, float, float]:
    """Pulls of log nu at as many points as coefficients, and their chi-squared: with all statistics, or the data's."""
    draws = np.random.default_rng(3).normal(size=(len(found.coefficients), problem.dim))
    at = Events({f"t{i}": draws[:, i] for i in range(problem.dim)})
    values, error = found.log_weights(at)
    off = values - true_log_weights(problem, at)
    exact = np.linalg.solve(found.truth.table(at).block(slice(None)).T, off)
    covariances = found.covariance, found.covariances["data"]
    return off / error, *(float(exact @ np.linalg.solve(c, exact)) for c in covariances)


class Case(Samples):
    def run(self, **options: Any) -> MatchedMoments:
        names = range(self.problem.dim)
        usual = {"data": self.data, "simulation": self.simulation, "background": self.background,
                 "reco": [f"x{i}" for i in names], "truth": [f"t{i}" for i in names], "seed": 1}  # fmt: skip
        return match_moments(**(usual | options))


def parts(events: Events, count: int) -> list[Events]:
    fold = events.folds(count, seed=7)
    order = np.argsort(fold, kind="stable")
    return [events.select(rows) for rows in np.split(order, np.searchsorted(fold[order], np.arange(1, count)))]


def truth_moments(simulation: Events, weights: np.ndarray) -> np.ndarray:
    """Mean, standard deviation and yield."""
    rows = simulation["pass_truth"]
    t, w = simulation["t0"][rows], (weights * simulation.weight)[rows]
    mean = np.average(t, weights=w)
    return np.array([mean, np.sqrt(np.average((t - mean) ** 2, weights=w)), w.sum()])


def exact_omnifold(case: Case, iteration: int, replicas: int = 0) -> Unfolded:
    """OmniFold without networks: the recursion of the sample's moments, and of bootstrap replicas' of the sample."""
    samples = (case.simulation, case.data, case.background)
    at, truth = case.simulation["t0"], case.simulation["pass_truth"]
    found = []
    for r in range(-1, replicas):
        own = samples if r < 0 else tuple(s.bootstrap(seed=1, member=r) for s in samples)
        states = case.problem.sample_recursion(iteration, *own)
        weights = np.ones(len(truth))
        weights[truth] = np.exp(states[-1].log_density(at[truth]) - states[0].log_density(at[truth]))
        found.append(weights * own[0].weight)
    return Unfolded(case.simulation, np.array(found[:1]), np.array(found[1:]).reshape(replicas, len(truth)), (), seed=1)


# -- the answer --------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Study:
    pulls: np.ndarray
    chi2: np.ndarray
    data_chi2: np.ndarray
    moments: np.ndarray
    omnifold: np.ndarray
    p_values: np.ndarray


COUNT, SMALL = 200, 4000


@pytest.fixture(scope="module")
def study() -> Study:
    """200 pseudo-experiments of 4000 true events."""
    samples = zip(*(parts(make(COUNT * SMALL, 1), COUNT) for make in (WIDE.simulation, WIDE.data, WIDE.background)),
                  strict=True)  # fmt: skip
    rows = []
    for simulation, data, background in samples:
        case = Case(WIDE, SMALL)
        case.__dict__.update(simulation=simulation, data=data, background=background)
        found, tested = case.run(), case.run(reco=TAME)
        other = truth_moments(simulation, exact_omnifold(case, 3).weights[0])
        rows.append((*from_truth(WIDE, found), truth_moments(simulation, found.weights), other, tested.chi2.p_value))
    return Study(*(np.array(column) for column in zip(*rows, strict=True)))


def test_finds_the_truth_where_omnifold_is_biased(study: Study) -> None:
    truth = np.array([0.0, 1.0, 1.2 * SMALL])
    for values, right in ((study.moments, True), (study.omnifold, False)):
        error = values.std(0, ddof=1) / np.sqrt(COUNT)
        off = np.abs(values.mean(0) - truth) / error
        assert (off < 4).all() if right else (off > 5).all()
    state = WIDE.unfolded(3)  # where the recursion says OmniFold is
    exact = np.array([state.mean[0], state.sd[0], state.total * SMALL])
    assert (np.abs(study.omnifold.mean(0) - exact) / study.omnifold.std(0) * np.sqrt(COUNT) < 4).all()


def test_pulls_of_coefficients_are_standard_normal(study: Study) -> None:
    assert (np.abs(study.pulls.mean(0)) < 4 / np.sqrt(COUNT)).all()
    assert (np.abs(study.pulls.std(0) - 1) < 4 / np.sqrt(2 * COUNT)).all()
    assert stats.kstest(study.chi2, stats.chi2(3).cdf).pvalue > 0.001
    assert stats.kstest(study.data_chi2, stats.chi2(3).cdf).pvalue < 1e-6  # wrong: without the simulation's statistics


def test_goodness_of_fit_is_uniform(study: Study) -> None:
    assert stats.kstest(study.p_values, "uniform").pvalue > 0.001


def test_goodness_of_fit_finds_another_truth() -> None:
    """Two peaks are no Gaussian."""
    case = Case(GaussianUnfolding())
    rng = np.random.default_rng(5)
    t = np.where(rng.random(20_000) < 0.5, -1.2, 1.2) + rng.normal(0, 0.3, 20_000)
    found = case.run(data=Events({"x0": t + rng.normal(0, 0.5, 20_000)}), reco_degree=4)
    assert found.chi2.dof == 2
    assert found.chi2.p_value < 1e-10
    assert "NOT described" in found.report()
    assert case.run(reco_degree=4).chi2.p_value > 1e-4


@pytest.mark.parametrize("problem", [WIDE, PLANE, SPACE], ids=["1", "2", "4"])
def test_dimensions_with_signed_weights(problem: GaussianUnfolding) -> None:
    case = Case(problem)
    found = case.run()
    assert len(found.coefficients) == {1: 3, 2: 6, 4: 15}[problem.dim]
    assert from_truth(problem, found)[1] < stats.chi2(len(found.coefficients)).isf(1e-4)
    fakes = {"simulation": case.simulation.select(case.simulation["pass_truth"])}
    for what, wrong in {"fakes": fakes, "background": {"background": None}}.items():
        assert from_truth(problem, case.run(**wrong))[1] > 200, what
    no_rate = replace(found, coefficients=found.coefficients - np.log(1.2) * (np.arange(len(found.truth)) == 0))
    assert from_truth(problem, no_rate)[1] > 100


@pytest.mark.parametrize("problem", [WIDE, PLANE], ids=["1", "2"])
def test_spectrum_is_the_truth_with_its_misses(problem: GaussianUnfolding) -> None:
    case = Case(problem)
    bins = {f"t{i}": [-3.0, -0.5, 0.5, 3.0] for i in range(problem.dim)}
    truth = 1.2 * case.n * problem.bin_probabilities(list(bins.values())).ravel()
    assert case.run().spectrum(bins).chi2(truth).p_value > 1e-4
    # the misses take no part in the fit; without them the spectrum is that of found events
    wrong = case.run(simulation=case.simulation.select(case.simulation["pass_reco"])).spectrum(bins)
    found = case.run().spectrum(bins, reconstructed=True)
    np.testing.assert_allclose(wrong.values, found.values, rtol=1e-2)
    assert not found.corrected
    assert wrong.chi2(truth).value > 200
    assert case.run().spectrum(bins).chi2(truth / 1.2).value > 200


def test_moments_match_to_rounding_and_misses_follow_the_truth() -> None:
    case = Case(WIDE)
    found = case.run()
    weight = found.weights * case.simulation.weight
    reco, x = case.simulation["pass_reco"], case.simulation["x0"]
    for power in range(3):
        have = weight[reco] @ x[reco] ** power
        want = (case.data["x0"] ** power).sum() - case.background.weight @ case.background["x0"] ** power
        np.testing.assert_allclose(have, want, rtol=1e-6)
    misses = case.simulation.select(~reco)
    np.testing.assert_allclose(found.weights[~reco], np.exp(found.log_weights(misses)[0]), rtol=1e-12)
    np.testing.assert_array_equal(found.weights[~case.simulation["pass_truth"]], 1.0)
    assert np.abs(found.differences / np.sqrt(np.diag(sum(found.moment_covariances.values())))).max() < 1e-4


def test_bins_seen_sharply_have_a_closed_form() -> None:
    """Bins as functions of both sides, no smearing: nu is the ratio of contents, of relative variance 1/n + 1/m."""
    t = np.repeat([0.5, 1.5, 2.5], [400, 300, 100])
    x = np.repeat([0.5, 1.5, 2.5], [500, 200, 150])
    simulation, data = Events({"t": t, "x": t}), Events({"x": x})
    bins = ["< 1", "> 2"]
    found = match_moments(data, simulation, reco={b: f"x {b}" for b in bins}, truth={b: f"t {b}" for b in bins}, seed=1)
    values, error = found.log_weights(Events({"t": [0.5, 1.5, 2.5]}))
    n, m = np.array([500, 200, 150]), np.array([400, 300, 100])
    np.testing.assert_allclose(values, np.log(n / m), rtol=1e-5)
    np.testing.assert_allclose(error, np.sqrt(1 / n + 1 / m), rtol=1e-5)
    spectrum = found.spectrum({"t": [0, 1, 2, 3]})
    # the simulation's own fluctuation drops out: what is seen sharply is the data
    np.testing.assert_allclose(spectrum.values, n, rtol=1e-5)
    np.testing.assert_allclose(spectrum.covariance, np.diag(n), atol=1e-2)
    np.testing.assert_allclose(spectrum.covariances["simulation"], 0, atol=1e-2)


def test_fakes_and_background_add_their_statistics() -> None:
    """Sharp bins with 40 and 10 fakes, and 30 and 60 background events of weight 1/2."""
    t = np.repeat([0.5, 1.5], [400, 300])
    signal = Events({"t": t, "x": t, "pass_truth": np.ones(700, np.bool_)})
    x = np.repeat([0.5, 1.5], [40, 10])
    fakes = Events({"t": np.full(50, np.nan), "x": x, "pass_truth": np.zeros(50, np.bool_)})
    data, background = Events({"x": np.repeat([0.5, 1.5], [500, 200])}), Events({"x": np.repeat([0.5, 1.5], [30, 60])})
    found = match_moments(
        data, Events.concat([signal, fakes]), background=background.with_weight(0.5), reco={"b": "x < 1"},
        truth={"b": "t < 1"}, seed=1,
    )  # fmt: skip
    values, error = found.log_weights(Events({"t": [0.5, 1.5]}))
    n, m = np.array([500 - 15 - 40, 200 - 30 - 10]), np.array([400, 300])
    np.testing.assert_allclose(values, np.log(n / m), rtol=1e-5)
    variance = np.array([500 + 30 / 4 + 40, 200 + 60 / 4 + 10])
    np.testing.assert_allclose(error, np.sqrt(variance / n**2 + 1 / m), rtol=1e-5)


def test_two_stages_in_closed_form() -> None:
    """Three sharp bins, the last two of one ratio: a weighted mean, by variances n + r^2 m at the ratio r of before."""
    n, m = np.array([500, 200, 150]), np.array([400, 300, 100])
    simulation = Events({"t": np.repeat([0.5, 1.5, 2.5], m), "x": np.repeat([0.5, 1.5, 2.5], m)})
    data = Events({"x": np.repeat([0.5, 1.5, 2.5], n)})
    found = match_moments(data, simulation, reco={"a": "x < 1", "b": "x > 2"}, truth={"a": "t < 1"}, seed=1)
    stages = [n.sum() / m.sum()]
    for _ in range(2):
        variance = (n + stages[-1] ** 2 * m)[1:]
        stages.append(float((n * m)[1:] @ (1 / variance) / (m[1:] ** 2 @ (1 / variance))))
    assert abs(stages[1] / stages[2] - 1) > 1e-3
    np.testing.assert_allclose(found.weights[-1], stages[2], rtol=1e-5)
    np.testing.assert_allclose(found.chi2.value, ((n - stages[2] * m)[1:] ** 2 / variance).sum(), rtol=1e-5)
    assert found.chi2.dof == 1


# -- covariance --------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def replicas() -> tuple[Case, MatchedMoments]:
    case = Case(WIDE, n=8000)
    return case, case.run(bootstrap=300)


def test_replicas_have_the_covariance_to_first_order(replicas: tuple[Case, MatchedMoments]) -> None:
    _, found = replicas
    tolerance = 4 * np.sqrt(2 / 300)  # of a variance; the coefficients' skewness adds a little
    spread = np.cov(found.replica_coefficients.T)
    np.testing.assert_allclose(np.diag(spread) / np.diag(found.covariance), 1, atol=1.3 * tolerance)
    binned, linear = found.unfolded.spectrum(EDGES), found.spectrum(EDGES)
    np.testing.assert_allclose(linear.values, binned.values, rtol=1e-12)
    ratio = np.diag(binned.covariance) / np.diag(linear.covariance)
    np.testing.assert_allclose(ratio, 1, atol=1.3 * tolerance)
    assert set(linear.covariances) == {"data", "background", "simulation"}
    # wrong: the simulation left out, or its events moving the bins by lambda alone
    assert (np.diag(binned.covariance) / np.diag(linear.covariances["data"]) > 1 + 1.3 * tolerance).all()
    centre = found.replica_coefficients.mean(0) - found.coefficients
    assert (np.abs(centre) / np.sqrt(np.diag(found.covariance)) < 5 / np.sqrt(300) + 0.05).all()


def test_replicas_are_fits_of_bootstrapped_samples(replicas: tuple[Case, MatchedMoments]) -> None:
    case, found = replicas
    own = {name: getattr(case, name).bootstrap(seed=1, member=4) for name in ("data", "simulation", "background")}
    again = case.run(**own)
    at = Events({"t0": [-1.0, 0.0, 1.0]})
    block = found.truth.table(at).block(slice(None)).T
    np.testing.assert_allclose(block @ found.replica_coefficients[4], again.log_weights(at)[0], atol=1e-5)
    times = found.unfolded.bootstrap_times(4, case.simulation)
    np.testing.assert_allclose(found.unfolded.replicas[4], again.weights * times, rtol=1e-5)
    few = case.run(bootstrap=5)
    np.testing.assert_allclose(few.replica_coefficients, found.replica_coefficients[:5], atol=1e-7)


def test_replicas_far_from_the_nominal_get_their_own_derivatives() -> None:
    case = Case(GaussianUnfolding(), n=60)
    found = case.run(bootstrap=40)
    for r in range(40):
        own = {name: getattr(case, name).bootstrap(seed=1, member=r) for name in ("data", "simulation")}
        at = Events({"t0": [-1.0, 0.0, 1.0]})
        values = found.truth.table(at).block(slice(None)).T @ found.replica_coefficients[r]
        np.testing.assert_allclose(values, case.run(**own).log_weights(at)[0], atol=1e-4)


def test_copies_of_an_event_count_once() -> None:
    case = Case(WIDE, n=4000)
    plain = case.run(reco=TAME)
    twice = Events.concat([case.simulation] * 2)
    twice = twice.with_weight(twice.weight / 2).with_columns(parent=np.tile(np.arange(len(case.simulation)), 2))
    by_id = case.run(simulation=twice, reco=TAME)
    twice = Events({name: twice[name] for name in twice}, weight=twice.weight)  # ids of their own
    by_group = case.run(simulation=twice, reco=TAME, group="parent")
    for found in (by_id, by_group):
        np.testing.assert_allclose(found.covariance, plain.covariance, rtol=1e-5)
        np.testing.assert_allclose(found.spectrum(EDGES).covariance, plain.spectrum(EDGES).covariance, rtol=1e-4)
    wrong = case.run(simulation=twice, reco=TAME).covariances["simulation"]
    assert np.diag(wrong).max() < 0.6 * np.diag(plain.covariances["simulation"]).max()


# -- strength ----------------------------------------------------------------------------------------------------------


def test_strength_is_a_prior_on_the_log_weights() -> None:
    case = Case(WIDE)
    plain, none = case.run(), case.run(strength=1e-9)
    np.testing.assert_allclose(none.weights, plain.weights, rtol=1e-5)
    heavy = case.run(strength=1e9)
    truth = case.simulation["pass_truth"]
    assert np.ptp(heavy.weights[truth]) < 1e-3 < 0.1 < np.ptp(plain.weights[truth])
    rate = (case.data.sum_weights - case.background.sum_weights - case.simulation["pass_reco"][~truth].sum()) / (
        case.simulation["pass_reco"] & truth
    ).sum()
    np.testing.assert_allclose(heavy.weights[truth], rate, rtol=0.01)
    assert plain.chi2.dof == 0
    assert heavy.chi2.dof == 2
    assert heavy.chi2.p_value < 1e-10
    middle = case.run(strength=100.0)
    assert (np.diag(middle.covariance)[1:] < np.diag(plain.covariance)[1:]).all()


def test_goodness_of_fit_with_strength_is_uniform_over_the_prior() -> None:
    """Three sharp bins, Poisson contents, log ratios of standard deviation 1/20 over the bins: strength 400."""
    rng, values, found = np.random.default_rng(4), np.array([0.5, 1.5, 2.5]), []
    for _ in range(150):
        # of two uncorrelated functions of unit variance on three equal bins
        theta = rng.normal(0, 1 / 20, 2)
        log_nu = theta @ [[np.sqrt(1.5), 0, -np.sqrt(1.5)], [np.sqrt(0.5), -np.sqrt(2), np.sqrt(0.5)]]
        m, n = rng.poisson(2000, 3), rng.poisson(2000 * np.exp(log_nu))
        simulation, data = Events({"t": np.repeat(values, m)}), Events({"t": np.repeat(values, n)})
        bins = {"a": "t < 1", "b": "t > 2"}
        found.append(match_moments(data, simulation, reco=bins, truth=bins, strength=400.0, seed=1).chi2.p_value)
    assert stats.kstest(found, "uniform").pvalue > 0.001
    assert np.min(found) < 0.1 < 0.9 < np.max(found)


def test_replicas_have_the_strength_too() -> None:
    found = Case(WIDE, n=4000).run(strength=300.0, bootstrap=100)
    sd = np.sqrt(np.diag(found.covariance))
    assert (np.abs(found.replica_coefficients.mean(0) - found.coefficients) < 4 / np.sqrt(100) * sd).all()
    np.testing.assert_allclose(found.replica_coefficients.std(0, ddof=1) / sd, 1, atol=1.3 * 4 / np.sqrt(200))
    plain = Case(WIDE, n=4000).run()
    assert (np.abs(plain.coefficients - found.coefficients) > sd).any()


def test_strength_means_the_same_for_any_functions_of_the_same_span() -> None:
    case = Case(WIDE)
    columns = case.run(strength=100.0)
    raw = {"a": lambda e: 5 * e["t0"] - e["t0"] ** 2, "b": "1e3 + t0**2"}
    np.testing.assert_allclose(case.run(strength=100.0, truth=raw).weights, columns.weights, rtol=1e-4)


def test_more_coefficients_than_moments_with_strength() -> None:
    case = Case(WIDE)
    found = case.run(degree=5, reco_degree=2, strength=10.0)
    assert len(found.coefficients) == 6
    assert found.condition == np.inf
    assert "WEAK" in found.report()
    assert found.chi2.p_value > 1e-3
    assert abs(truth_moments(case.simulation, found.weights)[2] / (1.2 * case.n) - 1) < 0.05


def test_weak_directions_are_told() -> None:
    good, bad = (Case(replace(WIDE, smearing=s)).run(degree=4) for s in (0.01, 1.0))
    assert good.weakest < 0.1
    assert "WEAK" not in good.report()
    assert bad.weakest > 4 * good.weakest
    assert bad.condition > 4 * good.condition


# -- beside OmniFold ---------------------------------------------------------------------------------------------------


def test_tells_whether_omnifold_agrees() -> None:
    case = Case(WIDE)
    found = case.run(bootstrap=30)
    early = found.compare(exact_omnifold(case, 3, replicas=30), EDGES)
    late = found.compare(exact_omnifold(case, 60, replicas=30), EDGES)
    assert not early.agrees
    assert early.largest > 1
    assert early.p_value < 1e-4
    assert "DISAGREES" in str(early)
    assert late.agrees
    assert late.largest < 0.3
    # shared replicas: the difference is known far better than either
    assert (np.sqrt(np.diag(late.covariance)) < 0.3 * late.uncertainty).all()
    same = found.compare(found.unfolded, EDGES)
    assert same.agrees
    assert same.chi2 == 0


def test_compares_with_a_real_omnifold_and_serves_checks_and_exports(tmp_path: Path) -> None:
    case = Case(WIDE, n=2000)
    found = case.run(bootstrap=6)
    other = omnifold(
        case.data, case.simulation, background=case.background, reco=["x0"], truth=["t0"], iterations=1, bootstrap=6,
        network=MLP(width=8, depth=1), training=Training(epochs=2, batch=256), seed=1, progress=False,
    )  # fmt: skip
    times = [u.bootstrap_times(3, case.data) for u in (found.unfolded, other)]
    np.testing.assert_array_equal(*times)
    result = found.compare(other, {"t0": [-3, 0, 3]})
    assert result.replicas == 6
    assert result.dof == 2
    result.save(tmp_path / "comparison.safetensors")
    assert str(MomentComparison.load(tmp_path / "comparison.safetensors")) == str(result)
    assert effective_size(found.unfolded).passed
    export_unbinned(tmp_path / "result.parquet", found.unfolded, columns=["t0"])
    read = read_unbinned(tmp_path / "result.parquet").spectrum({"t0": [-3, 0, 3]})
    np.testing.assert_allclose(read.values, found.spectrum({"t0": [-3, 0, 3]}).values)
    with pytest.raises(ValueError, match="more shared replicas than the 9 bins, found 6"):
        found.compare(other, {"t0": np.linspace(-3, 3, 10)})
    with pytest.raises(ValueError, match="one seed and group"):
        found.compare(replace(other, seed=2), EDGES)
    with pytest.raises(ValueError, match="the same simulation"):
        found.compare(exact_omnifold(Case(WIDE, n=2000, seed=2), 1), EDGES)


def test_an_empty_truth_bin_is_compared() -> None:
    """Both have nothing there, for certain, and agree."""
    case = Case(WIDE, n=2000)
    found = case.run(bootstrap=8)
    result = found.compare(exact_omnifold(case, 60, replicas=8), {"t0": [-3, 0, 3, 90, 99]})
    assert result.differences[-1] == result.uncertainty[-1] == 0
    assert result.pulls[-1] == 0
    assert 0 < result.largest < 1
    assert "nan" not in str(result)
    apart = replace(result, differences=result.differences + np.eye(4)[3])
    assert apart.largest == np.inf
    assert not replace(apart, p_value=0.0).agrees


def test_checks_need_features_of_a_two_sample_test() -> None:
    """The functions of the reco are none."""
    case = Case(WIDE, n=2000)
    found = case.run(bootstrap=8)
    bins: dict[str, Any] = {"truth": {"t0": [-3, 0, 3]}, "reco": {"x0": [-3, 0, 3]}}
    with pytest.raises(ValueError, match="expected features="):
        found.unfolded.check(**bins)
    assert found.unfolded.settings["reco_functions"] == list(found.reco.names)
    network, training = MLP(width=8, depth=1), Training(epochs=2, batch=256)
    done = found.unfolded.check(**bins, features=["x0"], network=network, training=training)
    assert done["refolded chi2"].passed
    assert done["two-sample test"].passed


# -- files, bad input --------------------------------------------------------------------------------------------------


def test_saved_and_loaded(tmp_path: Path) -> None:
    case, path = Case(WIDE, n=2000), tmp_path / "moments.safetensors"
    found = case.run(reco=TAME, bootstrap=3)
    found.save(path)
    again = MatchedMoments.load(path, case.simulation, functions=TAME)
    assert repr(again) == repr(found)
    np.testing.assert_array_equal(again.spectrum(EDGES).covariance, found.spectrum(EDGES).covariance)
    np.testing.assert_array_equal(again.unfolded.replicas, found.unfolded.replicas)
    without = MatchedMoments.load(path, case.simulation)
    np.testing.assert_array_equal(without.weights, found.weights)
    with pytest.raises(ValueError, match="function 'half': expected the callable"):
        without.spectrum(EDGES)
    with pytest.raises(ValueError, match="found other weights"):
        MatchedMoments.load(path, case.simulation.with_weight(2.0))


def test_bad_input() -> None:
    case = Case(WIDE, n=1000)
    bad = {
        "at least as many as the 4 coefficients, found 3; give strength=": {"degree": 3, "reco_degree": 2},
        r"truth: expected functions of which none is a sum of the others.*among .*t0": {
            "truth": {"t0": "t0", "double": "2 * t0"}
        },
        r"reco: expected functions of which none is a sum.*among": {
            "reco": {"below": "x0 < 0", "above": "x0 >= 0", "x0": "x0"}
        },
        "'one': expected values that vary in the simulation, found 1 throughout": {
            "truth": {"t0": "t0", "one": "0*t0 + 1"}
        },
        "data after subtraction of background and fakes: expected a positive yield": {
            "background": case.background.with_weight(100.0)
        },
        "function 'log': expected finite values": {"reco": {"x0": "x0", "log": "log(x0)"}},
        "column 'x0': expected finite values, found 1": {
            "data": case.data.with_columns(x0=np.where(np.arange(len(case.data)) == 7, np.nan, case.data["x0"]))
        },
        "function 'two': expected one number per event": {"truth": {"t0": "t0", "two": lambda e: np.zeros(2)}},
        "expected column names, or functions by name": {"truth": []},
        "degree of at least 1": {"degree": 0},
        "strength: expected a number from 0": {"strength": -1.0},
        "bootstrap: expected a whole number of at least 0, found 1.5": {"bootstrap": 1.5},
        "max_steps: expected a whole number of at least 1, found 0": {"max_steps": 0},
        "tolerance: expected a positive number, found 0": {"tolerance": 0.0},
        "truth: expected names of their own, found 't0' twice": {"truth": ["t0", "t0"]},
        "no moment of the reco tells": {
            "simulation": case.simulation.with_columns(u=np.where(case.simulation["pass_reco"], 0.0, 1.0)),
            "truth": {"t0": "t0", "u": "u"},
        },
    }
    for message, options in bad.items():
        with pytest.raises(ValueError, match=message):
            case.run(**options)
    with pytest.raises(KeyError, match="t1"):
        case.run(truth=["t0", "t1"])


def test_moments_out_of_reach() -> None:
    """Data narrower than the resolution."""
    case = Case(GaussianUnfolding(), n=2000)
    narrow = Events({"x0": np.random.default_rng(2).normal(0, 0.2, 2000)})
    with pytest.raises(NotConverged, match=r"expected the moments to be matched within 100 steps.*strength="):
        case.run(data=narrow)
    found = case.run(data=narrow, strength=1.0)
    assert found.chi2.p_value < 1e-10


def test_needs_no_reco_of_misses_and_no_truth_of_fakes() -> None:
    case = Case(WIDE, n=1000)
    truth, reco = (case.simulation[name] for name in ("pass_truth", "pass_reco"))
    assert np.isnan(case.simulation["t0"][~truth]).all()
    assert np.isnan(case.simulation["x0"][~reco]).all()
    assert np.isfinite(case.run(bootstrap=2).unfolded.replicas).all()
