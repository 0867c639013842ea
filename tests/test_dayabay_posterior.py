"""Posterior and learned ratio of the Daya Bay analysis: against normal fluctuations, whose answers are exact.

With the covariance of the official analysis the counts are normal, and the posterior of theta under flat priors is
that of the covariance form, sigma(sin^2 2theta_13) = 0.002325 and sigma(dm^2_32) = 0.0590e-3 eV^2.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
import pytest
from numpy.typing import NDArray
from scipy import linalg

from nuinfer import Events, intervals
from nuinfer.likelihood import Binned

pytest.importorskip("dayabay_data_official", reason="the extra 'data' is not installed")

from analyses.dayabay import __main__ as program
from analyses.dayabay import covariance, figures, fits, posterior
from analyses.dayabay.model import Model
from analyses.dayabay.posterior import BOX, FITTED, SUMMARIES, SYSTEMATIC, Compression, Experiment, Learned

Floats = NDArray[np.float64]


@pytest.fixture(scope="module")
def model() -> Model:
    return Model()


@pytest.fixture(scope="module")
def cost(model: Model) -> Binned:
    return fits.covariance_cost(model, covariance.systematic(model))


@pytest.fixture(scope="module")
def found(model: Model, cost: Binned) -> intervals.Fit:
    return intervals.fit(cost, model.parameters.values(fits.free_names(model)))


@pytest.fixture(scope="module")
def experiment(model: Model, cost: Binned, found: intervals.Fit) -> Experiment:
    return Experiment.at(model, found.values, posterior.variance(cost), "model")


@pytest.fixture(scope="module")
def compression(experiment: Experiment) -> Compression:
    return experiment.compression


@pytest.fixture(scope="module")
def normal(experiment: Experiment, cost: Binned) -> Experiment:
    """Counts with the fixed covariance."""
    return replace(experiment, noise=linalg.cholesky(posterior.variance(cost), lower=True))


@pytest.fixture(scope="module")
def learned(normal: Experiment) -> Learned:
    return posterior.learn(normal, posterior.FAST)


@pytest.fixture(scope="module")
def theta() -> Floats:
    """Points all over the box."""
    rng = np.random.default_rng(1)
    return np.stack([rng.uniform(*edges, 40) for edges in BOX.values()], 1)


def fitted(columns: Mapping[str, Floats] | Events) -> Floats:
    return np.stack([columns[name] for name in FITTED], 1)


# -- summaries ---------------------------------------------------------------------------------------------------------


def test_the_surface_is_the_model(experiment: Experiment, theta: Floats) -> None:
    """To 1e-4 statistical errors at the fitted spectrum, to 0.05 at one 1% away; theta held at the fit fails."""
    spectrum, surface = experiment.spectrum[0], experiment.compression.surface
    for delta, close in ((np.zeros(19), 1e-4), (0.01 * np.cos(np.arange(19)), 0.05)):
        shifted = np.broadcast_to(spectrum + delta, (len(theta), 19))
        exact = posterior.predicted(experiment.model, np.concatenate([theta, shifted], 1))
        made = surface(theta, np.broadcast_to(delta, (len(theta), 19)))
        assert np.abs((made - exact) / np.sqrt(exact)).max() < close
        without = surface(np.broadcast_to(experiment.compression.point, theta.shape), shifted - spectrum)
        assert np.abs((without - exact) / np.sqrt(exact)).max() > 1


def test_the_data_give_the_fit(experiment: Experiment, compression: Compression, found: intervals.Fit) -> None:
    """Theta as the fit of the covariance form has it; the first step from elsewhere does not."""
    at, error = fitted(experiment.observation()), compression.error[:2]
    best = [found.values[name] for name in fits.INTEREST]
    np.testing.assert_allclose((at[0] - best) / error, 0, atol=3e-3)
    np.testing.assert_allclose(error, [0.002325, 0.0590e-3], rtol=0.02)
    start = best + np.array([3.0, -4.0]) * error
    moved = replace(compression, point=start)
    np.testing.assert_allclose((fitted(moved(experiment.model.observed.numpy()[None]))[0] - best) / error, 0, atol=5e-3)
    residual = experiment.model.observed.numpy() - compression.surface(start[None], np.zeros((1, 19)))
    assert np.abs((start + residual[0] @ compression.gain[:2].T - best) / error).max() > 0.1


def test_theta_comes_back_whatever_the_spectrum(experiment: Experiment, theta: Floats) -> None:
    """Exact counts at another spectrum: a fit without the spectrum's values is off by many standard deviations."""
    mean, width = experiment.spectrum
    rng, compression = np.random.default_rng(2), experiment.compression
    for scale, close in ((0.0, 2e-3), (1.0, 0.4)):
        spectrum = mean + scale * width * rng.standard_normal((len(theta), 19))
        counts = posterior.predicted(experiment.model, np.concatenate([theta, spectrum], 1))
        pull = (fitted(compression(counts)) - theta) / compression.error[:2]
        assert np.abs(pull).max() < close
    held = replace(compression, gain=_without_spectrum(experiment))
    rate = posterior.predicted(experiment.model, np.concatenate([theta, np.broadcast_to(mean + 0.005, (40, 19))], 1))
    assert np.abs((fitted(held(rate)) - theta) / compression.error[:2]).max() > 2
    assert np.abs((fitted(compression(rate)) - theta) / compression.error[:2]).max() < 0.2


def _without_spectrum(experiment: Experiment) -> Floats:
    """The gain of a fit that holds the spectrum."""
    point = np.concatenate([experiment.compression.point, experiment.spectrum[0]])
    slopes = posterior._slopes(experiment.model, point)[:, :2]
    weighted = slopes.T / experiment.model.observed.numpy()
    gain: Floats = np.zeros((21, 546))
    gain[:2] = linalg.inv(weighted @ slopes) @ weighted
    return gain


def test_errors_are_those_of_normal_counts(normal: Experiment) -> None:
    """Pulls of 1,000 experiments at the best fit, spectrum and all; those of statistics alone are narrower by far."""
    point = np.broadcast_to(normal.compression.point, (1000, 2))
    pulls = (fitted(normal(point, np.random.default_rng(3))) - point) / normal.compression.error[:2]
    np.testing.assert_allclose(pulls.std(0), 1, atol=4 / 2000**0.5)
    np.testing.assert_allclose(pulls.mean(0), 0, atol=4 / 1000**0.5)
    poisson = replace(normal, noise=np.diag(np.sqrt(normal.model.observed.numpy())))
    less = (fitted(poisson(point, np.random.default_rng(3))) - point) / normal.compression.error[:2]
    assert (less.std(0) < 0.93).all()


def test_systematics_move_theta_along_two_directions(experiment: Experiment) -> None:
    """One unit along a direction as foretold; as far at right angles to both moves nothing."""
    compression = experiment.compression
    free = np.concatenate([compression.point, experiment.spectrum[0]])[None]
    rng = np.random.default_rng(4)
    across = rng.standard_normal((8, 1057))
    across -= across @ compression.directions @ compression.directions.T
    across /= np.linalg.norm(across, axis=1, keepdims=True)
    z = np.concatenate([np.zeros((1, 1057)), compression.directions.T, across])
    at = fitted(compression(experiment.expected(np.repeat(free, len(z), 0), z))) / compression.error[:2]
    moved = compression.moved.T / compression.error[:2]
    np.testing.assert_allclose(at[1:3] - at[0], moved, atol=0.04)
    assert np.abs(moved).max(1).min() > 0.3
    assert np.abs(at[3:] - at[0]).max() < 0.06
    np.testing.assert_allclose(compression.directions.T @ compression.directions, np.eye(2), atol=1e-12)


def test_all_systematics_fluctuate(experiment: Experiment) -> None:
    """400 experiments: theta is as wide as the covariance form says, the normals along the directions are unit ones
    and explain what they should, and without the systematics theta is narrower.
    """
    point = np.broadcast_to(experiment.compression.point, (400, 2))
    made = experiment(point, np.random.default_rng(5))
    error = experiment.compression.error[:2]
    pulls = (fitted(made) - point) / error
    assert np.abs(pulls.std(0) - 1).max() < 0.06 + 4 / 800**0.5
    u = np.stack([made[name] for name in SYSTEMATIC], 1)
    assert np.abs(u.std(0) - 1).max() < 4 / 800**0.5
    left = pulls - u @ (experiment.compression.moved / error[:, None]).T
    assert (left.std(0) < pulls.std(0) - 0.05).all()


def test_strange_counts_are_refused(compression: Compression) -> None:
    good = compression.surface(compression.point[None], np.zeros((1, 19)))
    with pytest.raises(ValueError, match=r"expected dm2_32 between 0\.0015 and 0\.0034, .* row 1"):
        compression.fitted(np.concatenate([good, -good]))


def test_a_cost_whose_variance_moves_is_refused(model: Model, cost: Binned) -> None:
    moving = fits.covariance_cost(model, np.asarray(cost.covariance), frozen=False)
    with pytest.raises(ValueError, match="frozen=True"):
        posterior.variance(moving)


# -- what is learned ---------------------------------------------------------------------------------------------------


def test_the_posterior_is_that_of_the_covariance_form(learned: Learned, found: intervals.Fit) -> None:
    """From 4,000 simulations and one network: within 0.3 sigma and 20% (of three seeds the largest deviations were 0.13
    and 14%); the prior is wider by more than three times.
    """
    value, error = (np.array([each[name] for name in fits.INTEREST]) for each in (found.values, found.errors))
    assert (np.abs(learned.region.mean - value) < 0.3 * error).all()
    np.testing.assert_allclose(learned.region.standard_deviation, error, rtol=0.2)
    box = np.array([high - low for low, high in BOX.values()]) / 12**0.5
    assert (box > 3 * error).all()


def test_diagnoses(learned: Learned) -> None:
    """The posterior passes, the data are like the simulations, and a posterior of half the width is caught."""
    found = posterior.diagnosed(learned)
    said = found.numbers
    assert "TARP" in str(found)
    assert set(said) == {"sbc_p", "tarp_p", "tarp_area", "coverage_68", "coverage_95", "out_of_distribution_p"}
    assert said["sbc_p"] > 0.01
    assert said["tarp_p"] > 0.01
    assert abs(said["coverage_68"] - 0.683) < 4 * (0.683 * 0.317 / 500) ** 0.5
    assert said["out_of_distribution_p"] > 0.01
    narrow = replace(learned, posterior=_Narrow(learned.posterior))  # type: ignore[arg-type]
    caught = posterior.diagnosed(narrow).numbers
    assert caught["sbc_p"] < 0.01
    assert caught["coverage_68"] < 0.5


class _Narrow:
    """The same posterior, its draws twice as near to their mean."""

    def __init__(self, inner: Any) -> None:
        self.inner, self.names = inner, inner.names

    def draws(self, n: int, observations: Events, *, seed: int = 0) -> Floats:
        drawn = self.inner.draws(n, observations, seed=seed)
        return np.asarray((drawn + drawn.mean(1, keepdims=True)) / 2)

    def log_probs(self, theta: Any, observations: Events) -> Floats:
        return np.asarray(self.inner.log_probs(theta, observations))


def test_the_profiled_ratio_is_the_posteriors_width(learned: Learned) -> None:
    """Two unit normals u that shift a normal theta-hat: what is profiled is as wide as the sum in quadrature, what
    is held is narrower.
    """
    rng, n = np.random.default_rng(6), 6000
    sigma, moves = np.array([0.0023, 0.059e-3]), np.array([[0.5, 0.0], [-0.1, 0.5]])
    theta = np.stack([rng.uniform(*edges, n) for edges in BOX.values()], 1)
    u = rng.standard_normal((n, 2))
    rest = linalg.cholesky(np.eye(2) - moves @ moves.T, lower=True)
    seen = theta + sigma * (u @ moves.T + rng.standard_normal((n, 2)) @ rest.T)
    columns = [column.copy() for column in (*theta.T, *seen.T, *rng.standard_normal((2, n)), *u.T)]
    events = Events(dict(zip((*fits.INTEREST, *SUMMARIES, *SYSTEMATIC), columns, strict=True)))
    at = Events(dict(zip(SUMMARIES, [[0.0855], [2.47e-3], [0.0], [0.0]], strict=True)))
    toy = replace(learned, training=events, observation=at)
    ratio = posterior.learn_ratio(toy, replace(posterior.FAST, members=2))
    cost = posterior.ratio_cost(ratio, at)
    best = intervals.fit(cost, posterior.start(toy))
    held = intervals.fit(cost, best.values, fixed={name: best.values[name] for name in SYSTEMATIC})
    for k, name in enumerate(fits.INTEREST):
        assert abs(best.values[name] - (0.0855, 2.47e-3)[k]) < 0.3 * sigma[k]
        assert best.errors[name] == pytest.approx(sigma[k], rel=0.2)
        assert held.errors[name] < 0.95 * best.errors[name]


# -- the figure and the step -------------------------------------------------------------------------------------------


def gaussian(title: str = "fit") -> figures.Answer:
    sigma = np.array([0.0023, 0.059e-3])
    return figures.Answer.gaussian(title, (0.0855, 2.47e-3), np.outer(sigma, sigma) * [[1, -0.2], [-0.2, 1]])


def test_ellipses_hold_their_content() -> None:
    """Of 20,000 draws, as many as the level says; those of the covariance's square root in place of it do not."""
    answer = gaussian()
    assert answer.error == pytest.approx((0.0023, 0.059e-3))
    sigma = np.array(answer.error)
    matrix = np.outer(sigma, sigma) * [[1, -0.2], [-0.2, 1]]
    draws = np.random.default_rng(7).multivariate_normal(answer.value, matrix, 20_000)
    for level, (line,) in answer.lines.items():
        inside = matplotlib.path.Path(line).contains_points(draws).mean()
        assert abs(inside - level) < 4 * (level * (1 - level) / 20_000) ** 0.5 + 2e-3


def test_the_lines_of_a_posterior_hold_their_content(learned: Learned) -> None:
    answer = posterior.answer("posterior", learned)
    for level, (line, *_) in answer.lines.items():
        inside = matplotlib.path.Path(line).contains_points(learned.region.draws).mean()
        assert abs(inside - level) < 0.02


def test_the_figure_of_answers() -> None:
    """Every answer with its regions above and its values below, in the labels' units."""
    before = dict(matplotlib.rcParams)
    main = figures.answers([gaussian("one"), gaussian("two")])
    assert dict(matplotlib.rcParams) == before
    _, *below = main.get_figure(root=True).axes  # type: ignore[union-attr]
    assert [text.get_text() for text in below[0].get_yticklabels()] == ["one", "two", "published"]
    regions = [line for line in main.lines if len(np.asarray(line.get_xdata())) > 100]
    assert [line.get_linestyle() for line in regions] == ["-", "--"] * 2
    low, high = below[1].get_xlim()
    assert low < 2.47 < high
    for wrong in ([], [gaussian()] * 20):
        with pytest.raises(ValueError, match="answers: expected 1 to"):
            figures.answers(wrong)


def test_the_usual_steps_leave_it_out() -> None:
    assert "posterior" in program.STEPS
    assert "posterior" not in program.USUAL


@pytest.mark.slow
def test_the_step(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """At full size: the bars of the analysis."""
    monkeypatch.delenv("NUINFER_FAST", raising=False)
    monkeypatch.setattr(sys, "argv", ["dayabay", "--steps", "posterior", "--out", str(tmp_path)])
    program.main()
    numbers = json.loads((tmp_path / "results.json").read_text(encoding="utf-8"))["numbers"]
    for prefix in ("posterior", "posterior.covariance", "ratio"):
        for name in fits.INTEREST:
            assert abs(numbers[f"{prefix}.shift.{name}"]["value"]) < 0.2
            assert abs(numbers[f"{prefix}.width.{name}"]["value"] - 1) < 0.06
    for prefix in ("posterior", "posterior.covariance"):
        assert numbers[f"{prefix}.sbc_p"]["value"] > 0.01
        assert numbers[f"{prefix}.tarp_p"]["value"] > 0.01
    assert (tmp_path / "answers.png").exists()
    assert "learned ratio, profiled" in capsys.readouterr().out
