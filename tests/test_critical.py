"""Learned critical values against quantiles known in closed form, and the diagnostic against coverage known so too."""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from scipy import integrate, optimize, stats

import nuinfer as nu
from nuinfer.intervals import (
    ConfidenceSet,
    CriticalValues,
    LikelihoodRatio,
    LocalCoverage,
    Toys,
    coverage,
    fit_critical_values,
    learn_critical_values,
    local_coverage,
    throw_toys,
)
from nuinfer.intervals.critical import Pinball, rising
from nuinfer.likelihood import Mixture, Normal, Process

Floats = NDArray[np.float64]
BOX = {"mu": (0.0, 4.0)}
QUICK = nu.Training(epochs=60, batch=128, learning_rate=1e-2)
SMALL = nu.MLP(width=32, depth=2, activation="relu")


def bounded_t(theta: Mapping[str, float], cost: Any) -> float:
    """-2 log of the likelihood ratio of a Gaussian whose mean is not below 0."""
    x = float(cost.observed[0])
    return (x - theta["mu"]) ** 2 - min(x, 0.0) ** 2


def bounded_cdf(mu: float, c: float) -> float:
    """P(t <= c): t = (x - mu)^2 for x >= 0, mu^2 - 2 x mu below."""
    low = mu - math.sqrt(c)
    if low < 0:
        low = (mu * mu - c) / (2 * mu) if mu > 0 else -math.inf
    return float(stats.norm.cdf(math.sqrt(c)) - stats.norm.cdf(low - mu))


def bounded_critical(mu: float, cl: float) -> float:
    return float(optimize.brentq(lambda c: bounded_cdf(mu, c) - cl, 1e-9, 30))


def bounded_critical_at(mu: Floats, cl: float) -> Floats:
    """The same, interpolated."""
    dense = np.concatenate([np.linspace(0, 0.5, 26), np.linspace(0.55, 4, 40)])
    return np.interp(mu, dense, [bounded_critical(m, cl) for m in dense])


@pytest.fixture(scope="module")
def thrown() -> Toys:
    return throw_toys(Normal("mu", 0.0), BOX, toys=5000, seed=1, statistic=bounded_t, progress=False)


@pytest.fixture(scope="module")
def others() -> Toys:
    return throw_toys(Normal("mu", 0.0), BOX, toys=5000, seed=2, statistic=bounded_t, progress=False)


@pytest.fixture(scope="module")
def learned(thrown: Toys) -> CriticalValues:
    return fit_critical_values(
        thrown, cls=(0.9, 0.68), network=SMALL, training=QUICK, members=3, seed=1, progress=False
    )


# -- toys --------------------------------------------------------------------------------------------------------------


def test_toys_fill_the_box_and_have_the_statistic_of_their_theta(thrown: Toys) -> None:
    """theta is uniform; P(t <= c(theta)) of the exact quantile is cl, within 4 binomial errors."""
    assert repr(thrown) == "Toys(5000 over mu 0 to 4; 0 without a fit)"
    assert stats.kstest(thrown.theta[:, 0] / 4, "uniform").pvalue > 1e-4
    below = np.mean(thrown.t <= bounded_critical_at(thrown.theta[:, 0], 0.68))
    assert abs(below - 0.68) < 4 * math.sqrt(0.68 * 0.32 / 5000)


def test_chunks_and_checkpoints_do_not_change_the_toys(thrown: Toys, tmp_path: Path) -> None:
    given: Any = {"toys": 50, "seed": 1, "progress": False, "interest": ["a"]}
    cost = Normal(["a", "b"], [0.0, 0.0], covariance=[[1.0, 0.5], [0.5, 1.0]]) + Normal("b")
    box = {"a": (-1.0, 1.0), "b": (-1.0, 1.0)}
    here = throw_toys(cost, box, **given)
    for more in ({"chunk": 7}, {"checkpoint": tmp_path / "c"}, {"checkpoint": tmp_path / "c"}):
        again = throw_toys(cost, box, **given, **more)
        np.testing.assert_array_equal(again.t, here.t)
        np.testing.assert_array_equal(again.theta, here.theta)
    with pytest.raises(ValueError, match="is of another run"):
        throw_toys(cost, {**box, "b": (-2.0, 1.0)}, **given, checkpoint=tmp_path / "c")
    # the profiled ratio of a Gaussian is chi2 of one degree
    assert stats.kstest(here.t, stats.chi2(1).cdf).pvalue > 1e-4
    here.save(tmp_path / "toys.safetensors")
    back = Toys.load(tmp_path / "toys.safetensors")
    np.testing.assert_array_equal(back.t, here.t)
    assert back.box == here.box
    assert back.statistic is not None
    assert back.statistic.interest == ("a",)


# -- the loss ----------------------------------------------------------------------------------------------------------


def test_the_pinball_loss_is_least_at_the_quantile() -> None:
    """Mean losses of constants on 20,001 quantiles of chi2: least where the constant is the quantile."""
    t = torch.from_numpy(stats.chi2(1).ppf((np.arange(20001) + 0.5) / 20001))[None]
    tried = torch.linspace(0.1, 6, 600, dtype=torch.float64)
    for cl in (0.5, 0.68, 0.95):
        loss = [float(Pinball((cl,))(c.expand(1, 20001), (torch.ones_like(t), t)).mean()) for c in tried]
        assert tried[int(np.argmin(loss))] == pytest.approx(stats.chi2.ppf(cl, 1), abs=0.02)
    two = rising(torch.tensor([[0.3, -5.0, 1.0]]))
    assert (torch.diff(two) > 0).all()
    assert two[0, 0] == pytest.approx(0.3)


# -- learned quantiles -------------------------------------------------------------------------------------------------


def test_learned_values_are_the_exact_ones_within_their_sampling_error(learned: CriticalValues) -> None:
    """At c(theta) learned, the exact P(t <= c) is cl within 4 errors of a quantile of 5000 / 4 toys near by."""
    for cl in (0.68, 0.9):
        for mu in (0.15, 0.4, 1.0, 2.0, 3.9):
            c = float(learned.at({"mu": mu}, cl))
            assert abs(bounded_cdf(mu, c) - cl) < 4 * math.sqrt(cl * (1 - cl) / 1250), (mu, cl)
    # one constant, as the chi2 quantile is, would not do
    assert abs(bounded_cdf(0.0, stats.chi2.ppf(0.68, 1)) - 0.68) > 4 * math.sqrt(0.68 * 0.32 / 1250)
    error = learned.error({"mu": np.linspace(0, 4, 9)}, 0.9)
    # of one member: between that of all toys and of a tenth, over the density of t
    density = stats.chi2(1).pdf(2.71)
    assert 0.3 * math.sqrt(0.09 / 5000) / density < error.mean() < 3 * math.sqrt(0.09 / 500) / density


def test_levels_do_not_cross(learned: CriticalValues) -> None:
    mu = np.linspace(0, 4, 101)
    assert learned.cls == (0.68, 0.9)
    assert (learned.at({"mu": mu}, 0.9) > learned.at({"mu": mu}, 0.68)).all()
    assert learned.at({"mu": mu.reshape(1, -1)}, 0.9).shape == (1, 101)


def test_saved_and_loaded(learned: CriticalValues, thrown: Toys, tmp_path: Path) -> None:
    mu = {"mu": np.linspace(0, 4, 11)}
    trees = fit_critical_values(thrown, cls=(0.68, 0.9), network=nu.Trees(iterations=5), seed=1)
    for one in (learned, trees):
        one.save(tmp_path / "c.safetensors")
        again = CriticalValues.load(tmp_path / "c.safetensors")
        np.testing.assert_array_equal(again.at(mu, 0.9), one.at(mu, 0.9))
        assert repr(again) == repr(one)
    assert repr(learned) == "CriticalValues(MLP of 5000 toys over mu 0 to 4; levels 0.68, 0.9)"


def test_trees_learn_them_too(thrown: Toys) -> None:
    """Large leaves, few steps: at 68% within 5 errors of a quantile of 500 toys, and not the constant."""
    trees = nu.Trees(iterations=40, leaves=6, min_leaf=300)
    found = fit_critical_values(thrown, cls=(0.68, 0.9), network=trees, seed=1)
    for mu in (0.02, 0.5, 1.5, 3.0):
        assert abs(bounded_cdf(mu, float(found.at({"mu": mu}, 0.68))) - 0.68) < 5 * math.sqrt(0.68 * 0.32 / 500)
    grid = {"mu": np.linspace(0, 4, 50)}
    assert (found.at(grid, 0.9) >= found.at(grid, 0.68)).all()
    assert found.error(grid, 0.9).max() == 0
    assert found.at({"mu": 0.02}, 0.68) < 0.6 * found.at({"mu": 2.0}, 0.68)


def test_critical_values_that_depend_on_a_nuisance() -> None:
    """t = (x - mu)^2 with x ~ N(mu, s^2), s a nuisance: c = s^2 chi2; the projection takes the largest s."""
    box = {"mu": (-3.0, 3.0), "s": (0.5, 2.0)}
    toys = throw_toys(lambda theta, rng: rng.normal(theta["mu"], theta["s"]), box, toys=4000, seed=3, progress=False,
                      statistic=lambda theta, x: float((x - theta["mu"]) ** 2))  # fmt: skip
    found = fit_critical_values(toys, cls=(0.68,), network=SMALL, training=QUICK, members=2, seed=1, progress=False)
    for s in (0.6, 1.0, 1.8):
        c = float(found.at({"mu": 0.0, "s": s}, 0.68))
        assert abs(stats.chi2.cdf(c / s**2, 1) - 0.68) < 4 * math.sqrt(0.68 * 0.32 / 500)
    kept = found.confidence_set(0.4, {"mu": np.linspace(-3, 3, 61)}, cl=0.68,
                                statistic=lambda theta, x: (x - theta["mu"]) ** 2)  # fmt: skip
    (low, high), = kept.interval()  # fmt: skip
    half = 2.0 * math.sqrt(stats.chi2.ppf(0.68, 1))
    assert (low, high) == (pytest.approx(0.4 - half, abs=0.3), pytest.approx(0.4 + half, abs=0.3))
    with pytest.raises(ValueError, match="'profiled' is for the likelihood ratio"):
        found.confidence_set(0.4, {"mu": [0.0]}, cl=0.68, statistic=lambda t, x: 0.0, nuisances="profiled")
    with pytest.raises(ValueError, match="expected statistic=, the one"):
        found.confidence_set(0.4, {"mu": [0.0]}, cl=0.68)


def test_waldo_makes_a_biased_posterior_cover() -> None:
    """x ~ N(theta, 1), prior N(0, 1): the posterior N(x/2, 1/2) is biased, and (x/2 - theta)^2 / (1/2) far from chi2.

    Given theta it is (z - theta)^2 / 2, z standard normal: a non-central chi2.
    """
    waldo = lambda theta, x: float((x / 2 - theta["theta"]) ** 2 / 0.5)  # noqa: E731
    draw = lambda theta, rng: rng.normal(theta["theta"], 1.0)  # noqa: E731
    found = learn_critical_values(draw, {"theta": (-3.0, 3.0)}, toys=4000, cls=(0.68,), statistic=waldo, members=2,
                                  network=SMALL, training=QUICK, seed=4, progress=False)  # fmt: skip
    for theta in (-2.5, 0.0, 2.0):
        law = stats.ncx2(1, theta**2) if theta else stats.chi2(1)
        reached = law.cdf(2 * float(found.at({"theta": theta}, 0.68)))
        assert abs(reached - 0.68) < 4 * math.sqrt(0.68 * 0.32 / 600)
        if theta:  # the credible interval of 68% does not
            assert abs(law.cdf(2 * stats.chi2.ppf(0.68, 1)) - 0.68) > 0.15


def test_sets_of_a_likelihood_ratio(tmp_path: Path) -> None:
    """A cost with a nuisance: t is chi2 for all nuisances, so that the set is the profile's interval."""
    v = [[1.0, 0.5], [0.5, 1.0]]
    cost = Normal(["mu", "a"], [0.3, 0.2], covariance=v) + Normal("a")
    box = {"mu": (-4.0, 4.0), "a": (-3.0, 3.0)}
    toys = throw_toys(cost, box, interest=["mu"], toys=400, seed=5, progress=False)
    found = fit_critical_values(toys, cls=(0.68,), training=QUICK, members=2, network=nu.MLP(width=8, depth=1), seed=1,
                                progress=False)  # fmt: skip
    total = np.linalg.inv(np.linalg.inv(v) + np.diag([0.0, 1.0]))
    best = total @ np.linalg.inv(v) @ [0.3, 0.2]
    grid = {"mu": np.linspace(-2, 2, 21)}
    for how, slack in (("profiled", 0.25), ("projected", 0.6)):
        kept = found.confidence_set(cost, grid, cl=0.68, nuisances=how, points=16)  # type: ignore[arg-type]
        np.testing.assert_allclose(kept.observed, (grid["mu"] - best[0]) ** 2 / total[0, 0], atol=1e-3)
        (low, high), = kept.interval()  # fmt: skip
        half = math.sqrt(total[0, 0] * stats.chi2.ppf(0.68, 1))
        assert (high - low) / 2 == pytest.approx(half, rel=slack)
    assert "of 21 points at 0.68" in repr(kept)
    kept.save(tmp_path / "set.safetensors")
    np.testing.assert_array_equal(ConfidenceSet.load(tmp_path / "set.safetensors").interval(), kept.interval())
    with pytest.raises(ValueError, match="expected the parameters of interest mu, found a"):
        found.confidence_set(cost, {"a": [0.0]}, cl=0.68)
    # they serve where a construction does
    counted = coverage(cost, {"mu": 0.5, "a": 0.5}, interest=["mu"], toys=50, cls=(0.68,), intervals=found, seed=6,
                       progress=False)  # fmt: skip
    assert abs(counted.away()[0, 0]) < 4


# -- the diagnostic ----------------------------------------------------------------------------------------------------


def exact_map(mu: Floats) -> Floats:
    """Coverage of the chi2 quantile at 68%."""
    return np.array([bounded_cdf(m, stats.chi2.ppf(0.68, 1)) for m in mu])


def test_the_chi2_quantile_is_caught_near_the_boundary(others: Toys, tmp_path: Path) -> None:
    """Cells and map follow the exact coverage of the wrong quantile, within 4 errors."""
    found = local_coverage(lambda theta: np.full(len(theta["mu"]), stats.chi2.ppf(0.68, 1)), others, cl=0.68, cells=8)
    assert found.p_value < 1e-4
    assert found.p_smooth < 1e-4
    for low, high, covered, error in zip(found.low[:, 0], found.high[:, 0], found.covered, found.error, strict=True):
        mean = integrate.quad(lambda m: float(exact_map(np.array([m]))[0]), low, high)[0] / (high - low)
        assert abs(covered - mean) < 4 * error
    mu = np.array([0.05, 1.0, 2.0, 3.5])
    value, error = found.at({"mu": mu})
    assert (np.abs(value - exact_map(mu)) < 4 * error + 0.03).all()  # a parabola's logistic is not the whole shape
    assert "mu 0.0" in repr(found)
    found.save(tmp_path / "l.safetensors")
    again = LocalCoverage.load(tmp_path / "l.safetensors")
    assert repr(again) == repr(found)
    np.testing.assert_array_equal(again.at({"mu": mu}).error, error)


def test_right_values_pass(others: Toys, learned: CriticalValues) -> None:
    exact = local_coverage(lambda theta: bounded_critical_at(theta["mu"], 0.68), others, cl=0.68, cells=8)
    assert exact.p_value > 1e-3
    assert exact.p_smooth > 1e-3
    assert (np.abs(exact.covered - 0.68) < 4 * exact.error).all()
    ours = local_coverage(learned, others, cl=0.68, cells=8)
    assert ours.p_value > 1e-4


def test_p_values_of_the_diagnostic_are_uniform() -> None:
    """200 samples of right coverage in two dimensions: Kolmogorov-Smirnov above 1e-4, for both tests."""
    box, found = {"a": (0.0, 1.0), "b": (-1.0, 1.0)}, []
    rng = np.random.default_rng(8)
    for _ in range(200):
        theta = np.stack([rng.random(800), 2 * rng.random(800) - 1], 1)
        toys = Toys(box, theta, rng.chisquare(1, 800), None)
        one = local_coverage(lambda t: np.full(len(t["a"]), stats.chi2.ppf(0.68, 1)), toys, cl=0.68, cells=4)
        found.append((one.p_value, one.p_smooth))
    for column in np.array(found).T:
        assert stats.kstest(column, "uniform").pvalue > 1e-4
    # pulls of the map at one point have unit width
    pulls = []
    for _ in range(200):
        theta = np.stack([rng.random(800), 2 * rng.random(800) - 1], 1)
        toys = Toys(box, theta, rng.chisquare(1, 800), None)
        one = local_coverage(lambda t: np.full(len(t["a"]), stats.chi2.ppf(0.68, 1)), toys, cl=0.68, cells=4)
        value, error = one.at({"a": 0.3, "b": 0.5})
        pulls.append((float(value) - 0.68) / float(error))
    assert abs(np.std(pulls) - 1) < 4 / math.sqrt(400) + 0.05


# -- a mixture ---------------------------------------------------------------------------------------------------------


def test_a_mixture_over_parameter_and_nuisance() -> None:
    """Every toy has theta, data and outcome of its own random numbers, and the t that scipy finds for them.

    t with the nuisance at its outcome instead of its best value would be another.
    """
    nodes = np.random.default_rng(3).uniform(-4, 4, 500)
    mean = stats.norm(0, 0.5).pdf(nodes).mean()
    log_s = lambda e: stats.norm(0, 0.5).logpdf(e["x"]) + math.log(8)  # noqa: E731
    model = Mixture({"S": Process(yields=30, ratio=log_s, coefficient="mu"), "B": Process(yields=50, norms={"a": 0.1})},
                    nu.Events({"x": nodes}), limits={"mu": (0, None)})  # fmt: skip

    def generate(at: Mapping[str, float], rng: np.random.Generator) -> nu.Events:
        signal = rng.normal(0, 0.5, rng.poisson(30 * at["mu"]))
        return nu.Events({"x": np.concatenate([signal, rng.uniform(-4, 4, rng.poisson(50 * rate(at["a"])))])})

    def exact(task: int, rng: np.random.Generator) -> dict[str, float]:
        mu, a = rng.uniform(0.8, 1.5), rng.uniform(-1.0, 1.0)
        x, outcome = generate({"mu": mu, "a": a}, rng)["x"], a + rng.normal()

        def value(v: Floats) -> float:
            s, b = 30 * v[0], 50 * rate(v[1])
            return float(2 * (s + b - np.log(s * stats.norm(0, 0.5).pdf(x) / mean + b).sum()) + (v[1] - outcome) ** 2)

        fixed: Any = optimize.minimize(lambda v: value(np.array([mu, v[0]])), [a], method="BFGS", tol=1e-7)
        best: Any = optimize.minimize(value, [mu, a], method="L-BFGS-B", bounds=[(0, None), (None, None)], tol=1e-12)
        alone: Any = optimize.minimize_scalar(lambda m: value(np.array([m, outcome])), bounds=(0, 9), method="bounded")
        return {"mu": mu, "t": fixed.fun - best.fun, "frozen": value(np.array([mu, outcome])) - alone.fun}

    cost = model(generate({"mu": 1.0, "a": 0.0}, np.random.default_rng(4)), generate=generate) + Normal("a")
    toys = throw_toys(cost, {"mu": (0.8, 1.5), "a": (-1.0, 1.0)}, interest=["mu"], toys=20, seed=6, progress=False)
    found = nu.tasks.run(exact, 20, seed=6, progress=False).stacked()
    np.testing.assert_array_equal(toys.theta[:, 0], found["mu"])
    np.testing.assert_allclose(toys.t, found["t"], atol=2e-3)
    assert np.mean(np.abs(found["frozen"] - found["t"]) > 0.02) > 0.3


def rate(a: float) -> float:
    """The factor of a rate with a nuisance of 10%: its logarithm between those of 0.9 and 1.1, smooth at 0."""
    q = abs(a) if a * a > 1 else (15 * a**2 - 10 * a**4 + 3 * a**6) / 8
    return math.exp(0.5 * math.log(1.1 / 0.9) * a + 0.5 * math.log(1.1 * 0.9) * q)


# -- sets --------------------------------------------------------------------------------------------------------------


def test_a_set_that_leaves_the_grid_has_no_end_there(learned: CriticalValues, tmp_path: Path) -> None:
    """3.5 seen, a grid to 4: the set at 90% goes on beyond it; at the physical limit it ends, if that is one."""
    grid, options = {"mu": np.linspace(0, 4, 41)}, {"cl": 0.9, "statistic": bounded_t}
    (low, high), = learned.confidence_set(Normal("mu", 3.5), grid, **options).interval()  # type: ignore[arg-type]  # fmt: skip
    assert low == pytest.approx(3.5 - 1.645, abs=0.3)
    assert high == math.inf
    given: Any = {**options, "data": Normal("mu", 0.3), "grid": grid}
    (low, high), = learned.confidence_set(**given).interval()  # fmt: skip
    assert low == -math.inf
    assert high == pytest.approx(0.3 + 1.645, abs=0.3)
    kept = learned.confidence_set(**given, limits={"mu": (0, None)})
    (low, high), = kept.interval()  # fmt: skip
    assert low == 0.0
    kept.save(tmp_path / "s.safetensors")
    np.testing.assert_array_equal(ConfidenceSet.load(tmp_path / "s.safetensors").interval(), kept.interval())
    with pytest.raises(ValueError, match=r"within the limits 0\.5 to inf, found 0 to 4"):
        learned.confidence_set(**given, limits={"mu": (0.5, None)})
    with pytest.raises(ValueError, match="limits: expected those of mu, found those of 'nu'"):
        learned.confidence_set(**given, limits={"nu": (0, 1)})


def test_sets_end_as_those_of_a_construction() -> None:
    """Circles are joined, discrete values stand for themselves, limits of the likelihood ratio hold."""
    axis, critical = np.linspace(0, 2 * math.pi, 13), np.ones(13)
    near = np.abs((axis + math.pi) % (2 * math.pi) - math.pi)
    free = {"d": (-math.inf, math.inf)}
    circle = LikelihoodRatio(interest=("d",), periodic={"d": (0.0, 2 * math.pi)})
    (low, high), = ConfidenceSet({"d": axis}, 0.68, near, critical, circle, free).interval()  # fmt: skip
    assert (low, high) == (pytest.approx(2 * math.pi - 1), pytest.approx(2 * math.pi + 1))
    line = ConfidenceSet({"d": axis}, 0.68, near, critical, LikelihoodRatio(interest=("d",)), free).interval()
    np.testing.assert_allclose(line, [[-math.inf, 1], [2 * math.pi - 1, math.inf]])
    orders = LikelihoodRatio(interest=("d",), discrete={"d": (-1.0, 1.0)})
    for t, expected in (([0.5, 2.0], [[-1.0, -1.0]]), ([0.5, 0.7], [[-1.0, -1.0], [1.0, 1.0]])):
        found = ConfidenceSet({"d": np.array([-1.0, 1.0])}, 0.68, np.array(t), np.ones(2), orders, free)
        assert found.interval().tolist() == expected


def test_a_set_of_a_likelihood_ratio_ends_at_its_limits() -> None:
    """The cost's own limits and those of the ratio; elsewhere at infinity."""
    for limits, expected in (({"mu": (0.0, None)}, 0.0), ({}, -math.inf)):
        toys = throw_toys(Normal("mu", 0.0), {"mu": (0.0, 1.0)}, interest=["mu"], toys=60, limits=limits, seed=1,
                          progress=False)  # fmt: skip
        found = fit_critical_values(toys, cls=(0.68,), network=nu.Trees(iterations=2, min_leaf=20), seed=1)
        kept = found.confidence_set(Normal("mu", 0.5), {"mu": [0.0, 0.5, 1.0]}, cl=0.68)
        (low, high), = kept.interval()  # fmt: skip
        assert (low, high) == (expected, math.inf)
    with pytest.raises(ValueError, match="expected none, since the likelihood ratio has its own, found those of 'mu'"):
        found.confidence_set(Normal("mu", 0.5), {"mu": [0.0]}, cl=0.68, limits={"mu": (0, None)})


# -- bad input ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "kind", "words"),
    [
        ({"box": {}}, ValueError, "expected a range for at least one parameter"),
        ({"box": {"mu": (1.0, 0.0)}}, ValueError, "expected finite lower < upper"),
        ({"box": {"nu": (0.0, 1.0)}}, KeyError, "box: no parameter 'nu'; closest: 'mu'"),
        ({"interest": ["nu"]}, KeyError, "no parameter 'nu'"),
        ({"interest": []}, ValueError, "different parameters of interest"),
        ({"limits": {"mu": (0.5, None)}}, ValueError, "expected a range within 0.5 to inf"),
        ({"model": lambda theta, rng: 0.0}, TypeError, "together with statistic="),
        ({"model": Normal(["mu", "a"])}, KeyError, "no range for the parameter 'a'"),
    ],
)
def test_bad_boxes_are_refused(options: dict[str, Any], kind: type[Exception], words: str) -> None:
    given: Any = {"model": Normal("mu", 0.0), "box": BOX, "interest": ["mu"], "toys": 10, "seed": 1, **options}
    with pytest.raises(kind, match=words):
        throw_toys(given.pop("model"), given.pop("box"), progress=False, **given)


def test_bad_levels_and_places_are_refused(thrown: Toys, learned: CriticalValues) -> None:
    few = Toys(thrown.box, thrown.theta[:50], thrown.t[:50], None)
    with pytest.raises(ValueError, match=r"expected at least 200 to learn a quantile at 0\.95, found 50"):
        fit_critical_values(few, cls=(0.95,), seed=1)
    with pytest.raises(ValueError, match="between 0 and 1"):
        fit_critical_values(thrown, cls=(95,), seed=1)
    with pytest.raises(ValueError, match="different confidence levels"):
        fit_critical_values(thrown, cls=(0.9, 0.9), seed=1)
    with pytest.raises(ValueError, match=r"the levels that were learned, 0.68, 0.9, found 0.95"):
        learned.at({"mu": 1.0}, 0.95)
    with pytest.raises(ValueError, match="in the box that was learned, 0 to 4, found 5"):
        learned.at({"mu": 5.0}, 0.9)
    with pytest.raises(KeyError, match="no value for the parameter 'mu'; closest: 'mi'"):
        learned.at({"mi": 1.0}, 0.9)
    with pytest.raises(ValueError, match="a power of 2"):
        local_coverage(learned, thrown, cl=0.9, cells=5)
    with pytest.raises(ValueError, match=r"expected at least 800 for 8 cells at 0\.9"):
        local_coverage(learned, few, cl=0.9, cells=8)


def test_toys_of_another_statistic_are_refused(learned: CriticalValues, others: Toys) -> None:
    """A critical value of one ordering says nothing of toys of another; constants and functions are not asked."""
    given: Any = {"interest": ["mu"], "toys": 80, "progress": False}
    two = throw_toys(Normal("mu", 0.0), BOX, seed=1, **given)
    upper = throw_toys(Normal("mu", 0.0), BOX, ordering="one-sided", seed=2, **given)
    critical = fit_critical_values(two, cls=(0.68,), network=nu.Trees(iterations=2, min_leaf=20), seed=1)
    with pytest.raises(ValueError, match=r"critical: expected .* found different ordering two-sided and one-sided"):
        local_coverage(critical, upper, cl=0.68, cells=2)
    with pytest.raises(ValueError, match="toys are of a statistic of your own, the critical values of a likelihood"):
        local_coverage(critical, others, cl=0.68, cells=2)
    with pytest.raises(ValueError, match="critical values are of a statistic of your own, the toys of a likelihood"):
        local_coverage(learned, two, cl=0.68, cells=2)
    assert len(local_coverage(critical, two, cl=0.68, cells=2).covered) == 2
    assert len(local_coverage(lambda theta: np.ones(len(theta["mu"])), upper, cl=0.68, cells=2).covered) == 2


def test_a_checkpoint_of_another_model_is_refused(tmp_path: Path) -> None:
    """Box, seed and statistic are the same, sigma is not: of costs, and of functions that simulate."""
    given: Any = {"toys": 10, "seed": 1, "progress": False, "statistic": bounded_t}
    throw_toys(Normal("mu", 0.0), BOX, checkpoint=tmp_path / "cost", **given)
    with pytest.raises(ValueError, match="is of another run"):
        throw_toys(Normal("mu", 0.0, 3.0), BOX, checkpoint=tmp_path / "cost", **given)
    simulate = [lambda theta, rng, s=s: Normal("mu", rng.normal(theta["mu"], s)) for s in (1.0, 3.0)]
    throw_toys(simulate[0], BOX, checkpoint=tmp_path / "function", **given)
    with pytest.raises(ValueError, match="is of another run"):
        throw_toys(simulate[1], BOX, checkpoint=tmp_path / "function", **given)
