"""Cuts that follow the mass: p-values uniform where they do not, small where they do."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy import stats

from nuinfer import MLP, Events, Features, Training, fit_ratio
from nuinfer.anomaly.regions import Window
from nuinfer.anomaly.templates import (
    Cathode,
    FittedTemplate,
    Latent,
    Sculpting,
    Sidebands,
    fit_decorrelation,
    sculpting_of_cuts,
    sculpting_test,
)
from nuinfer.anomaly.templates.sculpting import _Table
from nuinfer.density import NSF
from nuinfer.simulators.resonance import Resonance

Floats = NDArray[np.float64]

WINDOW = Window(signal=(3.3, 3.7), sidebands=((2.9, 3.3), (3.7, 4.1)))
FEATURES = Features(["x0", "x1"])


def masses(n: int, seed: int) -> Floats:
    return np.asarray(2.5 + np.random.default_rng(seed).exponential(0.6, n))


def uniform(p: Floats) -> float:
    return float(stats.kstest(p, "uniform").pvalue)


# -- the statistic -----------------------------------------------------------------------------------------------------


def test_without_weights_it_is_pearsons() -> None:
    rng = np.random.default_rng(1)
    m, score = masses(500, 1), rng.normal(size=500)
    found = sculpting_test(score, m, efficiencies=[0.3], bins=4)
    place = np.searchsorted(found.bins[:, 0], m, side="right") - 1
    passes = score >= np.sort(score)[-150]
    table = np.array([np.bincount(place[passes == side], minlength=4) for side in (True, False)])
    pearson = stats.chi2_contingency(table, correction=False)
    assert found.chi2[0] == pytest.approx(pearson.statistic * 499 / 500, rel=1e-9)
    assert found.ndf.tolist() == [3]
    assert found.p[0] == pytest.approx(stats.chi2.sf(found.chi2[0], 3))
    np.testing.assert_allclose(found.efficiency[0], table[0] / table.sum(0))


def test_covariance_is_that_of_random_assignments() -> None:
    """With signed weights and cuts that overlap in part, by 20,000 assignments; Poisson errors are far off."""
    rng = np.random.default_rng(2)
    n, bins = 40, 3
    cut = np.stack([np.arange(n) < 20, (np.arange(n) >= 10) & (np.arange(n) < 32)])
    place, weight = rng.integers(0, bins, n), rng.normal(1.0, 0.8, n)
    table = _Table.of(cut, place, weight, bins)
    drawn = []
    for _ in range(20_000):
        rows = rng.permutation(n)
        own = table.passing(cut, place[rows], weight[rows])
        drawn.append(table.away(own))
    d = np.array(drawn).reshape(-1, 2 * bins)
    exact = np.kron(table.between, table.inner)
    size = np.sqrt(np.outer(np.diag(exact), np.diag(exact)))
    assert np.abs((np.cov(d.T) - exact) / size).max() < 5 / np.sqrt(20_000)
    assert np.abs(d.mean(0) / np.sqrt(np.diag(exact))).max() < 5 / np.sqrt(20_000)
    poisson = np.bincount(place[cut[0]], weight[cut[0]] ** 2, bins)
    assert np.abs(poisson / np.diag(exact)[:bins] - 1).max() > 0.3


def test_p_values_are_uniform_without_sculpting() -> None:
    """And those of Poisson errors are not: half of the events pass, which are among all."""
    found, naive = [], []
    for seed in range(400):
        m, score = masses(2000, seed), np.random.default_rng(1000 + seed).normal(size=2000)
        one = sculpting_test(score, m, efficiencies=[0.5, 0.1], bins=8)
        assert one.toys == 0
        found.append([*one.p, one.combined_p])
        share = one.bins.shape[0]
        counts = one.efficiency[0] * np.bincount(np.searchsorted(one.bins[:, 0], m, side="right") - 1, minlength=share)
        mean = counts.sum() / share
        naive.append(stats.chi2.sf(((counts - mean) ** 2 / mean).sum(), share - 1))
    assert min(uniform(p) for p in np.array(found).T) > 0.01
    assert uniform(np.array(naive)) < 1e-6


def test_p_values_are_uniform_with_weights_that_go_with_the_mass() -> None:
    found = []
    for seed in range(300):
        rng = np.random.default_rng(seed)
        m = masses(2000, seed)
        weight = np.where(rng.random(2000) < 0.1, -1.0, 1.0) * rng.exponential(m)
        found.append(sculpting_test(rng.normal(size=2000), m, efficiencies=[0.4, 0.1], weight=weight).combined_p)
    assert uniform(np.array(found)) > 0.01


def test_few_events_have_their_p_by_random_assignments() -> None:
    """Three are expected in a bin: p <= a then has at most the probability a, and not much less."""
    found = []
    for seed in range(150):
        rng = np.random.default_rng(seed)
        one = sculpting_test(rng.normal(size=300), masses(300, seed), efficiencies=[0.05], bins=5, toys=99, seed=seed)
        assert one.toys == 99
        found.append(one.combined_p)
    below = np.count_nonzero(np.array(found) <= 0.2)
    assert stats.binom.cdf(below, 150, 0.2) > 0.001
    assert stats.binom.sf(below - 1, 150, 0.2) > 0.001


@pytest.mark.parametrize("efficiency", [0.5, 0.1, 0.01])
def test_a_score_that_moves_with_the_mass_is_found(efficiency: float) -> None:
    """At a slope that adds 90 to the expected chi2, N phi(cut)^2 slope^2 Var(m) / e (1 - e); without it nothing is."""
    rng = np.random.default_rng(4)
    m, noise = masses(20_000, 4), rng.normal(size=20_000)
    height = stats.norm.pdf(stats.norm.isf(efficiency))
    slope = np.sqrt(90 * efficiency * (1 - efficiency) / (20_000 * 0.36)) / height
    assert sculpting_test(noise + slope * (m - 3), m, efficiencies=[efficiency]).combined_p < 1e-3
    assert sculpting_test(noise, m, efficiencies=[efficiency]).combined_p > 0.01


def test_pulls_are_standard_normal_at_each_efficiency() -> None:
    pulls = []
    for seed in range(200):
        score = np.random.default_rng(seed).normal(size=3000)
        pulls.append(sculpting_test(score, masses(3000, 50 + seed), efficiencies=[0.7, 0.1], bins=5).pulls)
    found = np.array(pulls)
    assert np.abs(found.var(0) - 1).max() < 5 * np.sqrt(2 / 200)


# -- what is left out, and what ties do --------------------------------------------------------------------------------


def test_the_signal_region_is_left_out() -> None:
    """A signal there is no sculpting; and no bin reaches across."""
    problem = Resonance()
    data = problem.data(20_000, 400, seed=1)
    score = problem.log_ratio(data)
    whole, beside = (sculpting_test(score, data["m"], exclude=w, efficiencies=[0.01]) for w in (None, WINDOW))
    assert whole.combined_p < 1e-6
    assert beside.passed()
    assert beside.events == np.count_nonzero(~WINDOW.in_signal(data["m"]))
    assert len(beside.bins) == pytest.approx(10, abs=1)
    low, high = beside.bins.T
    assert ((high <= 3.3) | (low >= 3.7)).all()


def test_tied_scores_pass_together() -> None:
    rng = np.random.default_rng(5)
    score, m = np.repeat([3.0, 2.0, 1.0], [10, 500, 490]), rng.permutation(masses(1000, 5))
    found = sculpting_test(score, m, efficiencies=[0.1, 0.3, 1.0], bins=4)
    assert found.passing.tolist() == [510, 510, 1000]
    assert found.p[2] == 1.0
    assert found.ndf.tolist() == [3, 3, 0]
    assert found.combined_ndf == 3  # the same cut twice, and none
    assert found.combined_chi2 == pytest.approx(found.chi2[0])
    assert (found.pulls[2] == 0).all()


def test_cuts_of_ones_own() -> None:
    rng = np.random.default_rng(6)
    score, m = rng.normal(size=2000), masses(2000, 6)
    one = sculpting_test(score, m, efficiencies=[0.5, 0.1])
    cuts = np.stack([score >= np.sort(score)[-1000], score >= np.sort(score)[-200]])
    other = sculpting_of_cuts(cuts, m, efficiencies=[0.5, 0.1])
    np.testing.assert_array_equal(one.efficiency, other.efficiency)
    assert one.combined_p == other.combined_p
    assert sculpting_of_cuts(cuts[0], m).efficiencies.tolist() == [0.5]


def test_saved_and_read(tmp_path: Path) -> None:
    found = sculpting_test(np.random.default_rng(7).normal(size=1000), masses(1000, 7))
    found.save(tmp_path / "s.safetensors")
    again = Sculpting.load(tmp_path / "s.safetensors")
    np.testing.assert_array_equal(again.efficiency, found.efficiency)
    assert repr(again) == repr(found)
    assert again.events == 1000
    assert "no sculpting seen" in repr(found)
    assert "follows the mass" in replace(found, combined_p=1e-5).words


def test_bad_input() -> None:
    score, m = np.arange(100.0), np.linspace(2, 3, 100)
    with pytest.raises(ValueError, match=r"efficiencies: expected numbers in \(0, 1\], found \[0.5, 0\]"):
        sculpting_test(score, m, efficiencies=[0.5, 0])
    with pytest.raises(ValueError, match=r"each to select events, found 0.001 of 100 events"):
        sculpting_test(score, m, efficiencies=[0.001])
    with pytest.raises(ValueError, match="one of each per event"):
        sculpting_test(score[:-1], m)
    with pytest.raises(ValueError, match="score: expected finite values"):
        sculpting_test(np.where(score == 3, np.nan, score), m)
    with pytest.raises(ValueError, match="edges around all masses, found 51 of 100"):
        sculpting_test(score, m, bins=[2.0, 2.2, 2.49])
    with pytest.raises(ValueError, match=r"events in each, found none from 3\.1 to 3\.2"):
        sculpting_test(score, m, bins=[2.0, 3.1, 3.2])
    with pytest.raises(ValueError, match="at least two"):
        sculpting_test(score, m, bins=1)
    with pytest.raises(ValueError, match="masses that vary"):
        sculpting_test(score, np.full(100, 2.0))
    with pytest.raises(ValueError, match="weight: expected a positive sum"):
        sculpting_test(score, m, weight=np.full(100, -1.0))
    with pytest.raises(TypeError, match="passes: expected booleans"):
        sculpting_of_cuts(score, m)
    with pytest.raises(ValueError, match="toys: expected at least 1"):
        sculpting_test(score, m, toys=0)


# -- with templates ----------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def shifted() -> tuple[Events, Events]:
    """Background whose features move with the mass: data (24,000 in the sidebands), and fresh events to be scored.

    These are 5,000: the errors of a map that was learned in the sidebands are then below what the test can see.
    """
    problem = Resonance(correlation=1.5)
    return problem.data(75_000, 0, seed=1), problem.background(5000, seed=2, region=(2.9, 4.1))


def score_of(fitted: FittedTemplate, data: Events, fresh: Events) -> Floats:
    """Of a classifier of the signal region against the template's reference."""
    seen = fitted.transform(data.select(WINDOW.in_signal(data["m"])))
    ratio = fit_ratio(seen, fitted.reference, FEATURES, network=MLP(width=16, depth=2), seed=1, progress=False,
                      validation=0.0, training=Training(epochs=4, batch=256, average=1.0))  # fmt: skip
    return ratio.log(fitted.transform(fresh))


def test_cwola_on_features_that_move_with_the_mass_sculpts(shifted: tuple[Events, Events]) -> None:
    """And the same without the correlation, or with the score decorrelated after the fact, does not."""
    data, fresh = shifted
    score = score_of(Sidebands().fit(data, "m", FEATURES, WINDOW, seed=1), data, fresh)
    found = sculpting_test(score, fresh["m"], efficiencies=[0.5, 0.1])
    assert found.combined_p < 1e-10
    assert found.words.startswith("the score follows the mass")
    still = Resonance()
    own, other = still.data(75_000, 0, seed=1), still.background(5000, seed=2, region=(2.9, 4.1))
    quiet = score_of(Sidebands().fit(own, "m", FEATURES, WINDOW, seed=1), own, other)
    assert sculpting_test(quiet, other["m"], efficiencies=[0.5, 0.1]).passed()


def test_a_score_of_the_latent_space_does_not_sculpt(shifted: tuple[Events, Events]) -> None:
    data, fresh = shifted
    flow = Cathode(network=NSF(transforms=1, width=16), training=Training(epochs=10, batch=256, average=1.0))
    fitted = Latent(template=flow).fit(data, "m", FEATURES, WINDOW, seed=1, progress=False)
    score = score_of(fitted, data, fresh)
    assert sculpting_test(score, fresh["m"], efficiencies=[0.5, 0.1]).passed()


def test_a_decorrelated_score_does_not_sculpt(shifted: tuple[Events, Events]) -> None:
    """The best statistic follows the mass; its quantiles as functions of the mass take that out, a line only part."""
    data, fresh = shifted
    problem = Resonance(correlation=1.5)
    scored = {name: e.with_columns(score=problem.log_ratio(e)) for name, e in {"data": data, "fresh": fresh}.items()}
    near = scored["data"].select(WINDOW.in_sidebands(data["m"]))
    p = {}
    for method, degree in (("quantile", 2), ("linear", 1)):
        flat = fit_decorrelation(near, ["score"], "m", method=method, degree=degree)  # type: ignore[arg-type]
        p[method] = sculpting_test(flat.transform(scored["fresh"])["score"], fresh["m"], efficiencies=[0.5, 0.1])
    assert p["quantile"].passed()
    assert p["linear"].combined_p < 1e-6
    assert sculpting_test(scored["fresh"]["score"], fresh["m"], efficiencies=[0.5, 0.1]).combined_p < 1e-20
