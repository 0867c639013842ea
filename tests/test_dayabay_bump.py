"""The step `bump` of the Daya Bay analysis: an expectation in shape, its systematics in fits and toys, the excess.

Truths written here: the model's own covariance; data thrown of the expectation with it, whose local p-values are
uniform and whose chi-squared has the degrees of freedom it is said to have; an excess that was put in.
"""

from __future__ import annotations

import json
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy import stats

pytest.importorskip("dayabay_data_official", reason="the extra 'data' is not installed")

from analyses.dayabay import __main__ as program
from analyses.dayabay import bump_figures, bump_report, bumps, covariance, fits, goodness, unfolding
from analyses.dayabay.bumps import ENERGIES, PEAK, Peak, Prompt
from analyses.dayabay.model import Model
from nuinfer import intervals
from nuinfer.anomaly.bump import scan_masses, scan_toys

Floats = NDArray[np.float64]


@pytest.fixture(scope="module")
def model() -> Model:
    return Model()


@pytest.fixture(scope="module")
def found(model: Model) -> intervals.Fit:
    cost = fits.covariance_cost(model, covariance.systematic(model))
    return intervals.fit(cost, model.parameters.values(fits.free_names(model)))


@pytest.fixture(scope="module")
def prompts(model: Model, found: intervals.Fit) -> dict[str, Prompt]:
    at = [found.names.index(name) for name in fits.INTEREST]
    return bump_report.prompts(model, found.values, found.covariance[np.ix_(at, at)])


@pytest.fixture(scope="module")
def prompt(prompts: dict[str, Prompt]) -> Prompt:
    return prompts[bump_report.HUBER_MUELLER]


@pytest.fixture(scope="module")
def excess(prompt: Prompt) -> Peak:
    return bumps.peak(prompt)


@pytest.fixture(scope="module")
def toys(prompt: Prompt) -> Floats:
    return prompt.toys(300, seed=3)


# -- the expectation ---------------------------------------------------------------------------------------------------


def test_the_expectation_is_the_models_with_another_norm(
    model: Model, prompt: Prompt, found: intervals.Fit
) -> None:  # fmt: skip
    """N times Huber's and Mueller's decays and the backgrounds as they are: a whole that is scaled is another shape."""
    oscillation = {name: found.values[name] for name in fits.INTEREST}
    signal = unfolding.signal(model, oscillation)
    background = unfolding.near(model.background(model.nominal).flatten().numpy())
    assert prompt.expected.sum() == pytest.approx(prompt.counts.sum(), rel=1e-12)
    assert 0.94 < prompt.norm < 0.96
    assert prompt.expected == pytest.approx(prompt.norm * signal + background, rel=1e-12)
    whole = signal + background
    assert np.abs(prompt.expected / (whole * prompt.counts.sum() / whole.sum()) - 1).max() > 5e-3


def test_the_systematics_are_the_covariance_of_the_shape(
    model: Model, prompt: Prompt, found: intervals.Fit
) -> None:  # fmt: skip
    """Of shares, to the per cent by which the scaled flux moves it; the covariance itself has the normalisation too."""
    nominal = {name: found.values[name] for name in fits.INTEREST}
    whole = unfolding.near(unfolding.near(covariance.systematic(model, nominal)).T) * prompt.norm**2
    mu = prompt.expected
    slope = (np.eye(len(mu)) - (mu / mu.sum())[:, None]) / mu.sum()  # of shares by contents
    moved = slope @ (mu[:, None] * prompt.modes)
    aim = np.sqrt(np.diag(slope @ whole @ slope.T))
    assert np.sqrt(np.diag(moved @ moved.T)) == pytest.approx(aim, rel=0.03)
    assert mu @ prompt.modes == pytest.approx(np.zeros(prompt.modes.shape[1]), abs=1e-7 * mu.sum())
    assert np.sqrt(np.diag(whole)).sum() > 1.3 * np.sqrt(np.diag(prompt.covariance)).sum()


def test_draws_have_the_modes(prompt: Prompt) -> None:
    """The logarithm's covariance, within 5 errors in each of its elements."""
    count = 4000
    logs = np.log(prompt.draws(np.random.default_rng(1), count) / prompt.expected)
    aim = prompt.modes @ prompt.modes.T
    error = np.sqrt((aim**2 + np.outer(np.diag(aim), np.diag(aim))) / count)
    assert (np.abs(np.cov(logs.T) - aim) < 5 * error).all()
    assert (np.abs(logs.mean(0)) < 5 * np.sqrt(np.diag(aim) / count)).all()


# -- a peak ------------------------------------------------------------------------------------------------------------


def test_the_rate_does_not_enter(prompt: Prompt, excess: Peak) -> None:
    """An expectation that is 5% higher gives the same scan; a known normalisation does not."""
    higher = replace(prompt, expected=prompt.expected / 0.95)
    likelihood = higher.likelihood()
    scan = scan_masses(likelihood, ENERGIES[::6])
    assert scan.z == pytest.approx(excess.scan.z[::6], abs=1e-3)
    known = replace(likelihood, constraints={**likelihood.constraints, "log_norm": (0.0, 1e-3)})
    assert np.abs(scan_masses(known, ENERGIES[::6]).z - scan.z).max() > 0.5


def test_toys_with_systematics_have_uniform_p_values(prompt: Prompt, toys: Floats) -> None:
    """Of fits that profile them, at three energies; fits with statistics alone find them all over the place."""
    some = ENERGIES[[4, 12, 20]]
    right = scan_toys(prompt.likelihood(), some, toys=toys, signed=True)
    assert not len(right.failed)
    assert all(stats.kstest(z, "norm").pvalue > 0.01 for z in right.z.T)
    wrong = scan_toys(prompt.likelihood(systematics=False), some, toys=toys, signed=True)
    assert wrong.z.std(0).min() > 5


def test_a_peak_that_was_put_in_is_found(prompt: Prompt) -> None:
    """On an expectation without noise: its yield and energy, to the curvature of the logarithm in the systematics."""
    events = 100_000.0
    bins = np.stack([prompt.edges[:-1], prompt.edges[1:]], 1)
    counts = np.round(prompt.expected + events * PEAK.fractions(bins, 4.5, PEAK.start))
    put = bumps.peak(replace(prompt, counts=counts))
    assert put.energy == 4.5
    assert put.scan.yields[put.scan.best] == pytest.approx(events, rel=0.01)
    none = bumps.peak(replace(prompt, counts=np.round(prompt.expected)))
    assert np.abs(none.scan.z).max() < 0.05
    assert none.fit is None


def test_the_excess(prompt: Prompt, excess: Peak) -> None:
    """Near 5 MeV, and of more than 5 standard deviations anywhere; with statistics alone it is more than ten times."""
    assert 4.75 <= excess.energy <= 5.25
    assert 6.5 < excess.local_z < 7.6
    assert excess.crossings is not None
    assert excess.fit is not None
    assert 5 < excess.crossings.z < excess.local_z
    assert 4.6 < excess.energy * excess.fit.values["mass_scale"] < 5.1
    assert excess.fit.chi2 < excess.scan.background.chi2 - excess.local_z**2
    assert bumps.peak(prompt, systematics=False).local_z > 10 * excess.local_z


def test_nothing_is_left_over_the_free_spectrum(prompts: dict[str, Prompt]) -> None:
    """Its 19 nodes have seen the data: less than a free spectrum of no use would leave."""
    free = prompts[bump_report.FREE]
    scan = bumps.peak(free).scan
    assert np.abs(scan.z).max() < 1
    assert scan.background.chi2 < 15
    assert bumps.whole(free).chi2 < 15


# -- windows -----------------------------------------------------------------------------------------------------------


def test_windows_have_their_degrees_of_freedom(prompt: Prompt) -> None:
    """Data thrown with the covariance: 8 for a window, 25 for all; with statistics alone as covariance far more."""
    rng, throws = np.random.default_rng(1), 400
    values = rng.multivariate_normal(prompt.expected, prompt.covariance, throws, method="eigh")
    thrown = [replace(prompt, counts=counts) for counts in values]
    every = np.array([bumps.whole(one).chi2 for one in thrown])
    window = np.array([bumps.windows(one)[6].chi2 for one in thrown[:100]])
    assert bumps.windows(prompt)[6].dof == 8
    assert abs(every.mean() - 25) < 4 * np.sqrt(2 * 25 / throws)
    assert abs(window.mean() - 8) < 4 * np.sqrt(2 * 8 / len(window))
    bare = [bumps.whole(replace(one, modes=0 * one.modes)).chi2 for one in thrown[:20]]
    assert np.mean(bare) > 1000


def test_the_window_of_the_papers(prompt: Prompt) -> None:
    """4 to 6 MeV, as published, and more significant than any that does not overlap with most of it."""
    best = max(bumps.windows(prompt), key=lambda one: one.z)
    assert [best.low, best.high] == pytest.approx([4.05, 6.05])
    assert 5 < best.z < 6.5
    assert all(one.z < 3.2 for one in bumps.windows(prompt) if abs(one.low - best.low) > 0.72)
    size, error = bumps.share(prompt, best.low, best.high)
    assert size == pytest.approx(0.062, abs=0.002)
    assert error < 1e-3


def test_bump_hunter_with_systematics(prompt: Prompt) -> None:
    """The same window and statistic, whatever the toys; as improbable only where these know of no systematics."""
    known, bare = (bumps.hunt(prompt, toys=1000, systematics=which) for which in (True, False))
    assert known.window == bare.window
    assert known.window[0][0] == pytest.approx(4.05)
    assert bare.is_bound
    assert not known.is_bound
    assert np.median(known.toys) > 10 * np.median(bare.toys)


# -- the whole shape ---------------------------------------------------------------------------------------------------


def test_nplm_finds_the_region_and_nothing_over_the_free_spectrum(prompts: dict[str, Prompt]) -> None:
    """Near 5 MeV, by a chi2 that the toys are compatible with; the nodes, fitted again to each toy, leave nothing."""
    prompt, free = prompts.values()
    found = goodness.shape_test(prompt, toys=400)
    ratio = goodness.learned(prompt, found)
    assert found.valid == "chi2"
    assert 5.5 < found.z < 7.2
    assert 4.8 < goodness.middles(prompt)[ratio.argmax()] < 5.6
    assert ratio == pytest.approx(prompt.counts / prompt.expected, abs=0.006)
    left = goodness.shape_test(free, toys=400)
    assert left.p > 0.05
    assert goodness.learned(free, left) == pytest.approx(np.ones(26), abs=0.015)


def test_nplm_has_uniform_p_values(prompt: Prompt, toys: Floats) -> None:
    """Of other toys with systematics; a test that does not know of them rejects all of these."""
    known = goodness.shape_test(prompt, toys=600, seed=11)
    values = [goodness.shape_test(replace(prompt, counts=counts), toys=20).t for counts in toys[:100]]
    assert stats.ks_2samp(values, known.toys).pvalue > 0.01
    bare = goodness.shape_test(prompt, toys=100, systematics=False)
    wrong = [goodness.shape_test(replace(prompt, counts=counts), toys=20, systematics=False).t for counts in toys[:10]]
    assert min(wrong) > bare.toys.max()


# -- the step ----------------------------------------------------------------------------------------------------------


def test_the_step(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A small run: what is measured, and its files."""
    assert "bump" not in program.USUAL
    monkeypatch.setattr(sys, "argv", ["dayabay", "--steps", "bump", "--fast", "--out", str(tmp_path)])
    program.main()
    numbers = json.loads((tmp_path / "results.json").read_text(encoding="utf-8"))["numbers"]
    value = {name: entry["value"] for name, entry in numbers.items()}
    assert value["bump.energy"] == pytest.approx(5.0)
    assert value["bump.global_p"] == pytest.approx(1 / 201)
    assert value["bump.local_z"] > value["bump.global_z"] > 5
    assert abs(value["bump.free.local_z"]) < 1
    assert value["bump.hunter.low"] == pytest.approx(4.05)
    assert value["bump.nplm.z"] > 5
    assert value["bump.free.nplm.p"] > 0.05
    assert numbers["bump.window.z"]["published"] == 6.3
    assert numbers["bump.shape.z"]["published"] == 5.3
    assert all((tmp_path / f"{name}.png").exists() for name in ("excess", "energies", "bump_toys", "nplm"))
    assert "toys with systematics" in capsys.readouterr().out


def test_the_figures(prompts: dict[str, Prompt], excess: Peak) -> None:
    """Ratios and scans are those of the results; without a fitted peak the figure says why it cannot be."""
    prompt, free = prompts.values()
    main, ratio = bump_figures.excess(prompt, excess, free).figure.axes
    drawn = np.asarray(ratio.containers[0].lines[0].get_ydata())  # type: ignore[attr-defined]
    assert drawn == pytest.approx(prompt.counts / prompt.expected)
    low, high = ratio.get_ylim()
    assert (low < drawn).all()
    assert (drawn < high).all()
    assert main.get_ylabel()
    axes = bump_figures.energies({"Huber-Mueller": excess})
    curve = [line for line in axes.lines if line.get_label() == "Huber-Mueller"]
    assert np.asarray(curve[0].get_ydata()) == pytest.approx(excess.scan.z)
    with pytest.raises(ValueError, match="found: expected one with a fit of a peak"):
        bump_figures.excess(prompt, replace(excess, fit=None), free)
