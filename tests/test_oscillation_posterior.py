"""The analysis of oscillation: its numbers for the exact posterior, its replicas and wrong models, a small run."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import ArrayLike, NDArray

import nuinfer as nu
from analyses.oscillation_posterior import figures, inference, problem
from analyses.oscillation_posterior.inference import Size
from analyses.oscillation_posterior.problem import PRIOR, PROBLEM, TRUTH
from nuinfer import diagnostics
from nuinfer.events import Ragged
from nuinfer.posterior import Posterior

Floats = NDArray[np.float64]
POINTS = 21


class Exact(Posterior):
    """The exact posterior in the place of the learned one, or one that is ``wider`` around its mean."""

    prior = PRIOR

    def __init__(self, wider: float = 1.0) -> None:
        self.wider = wider

    def draws(self, n: int, observations: nu.Events, *, seed: int = 0) -> Floats:
        found = []
        for i in range(len(observations)):
            exact = PROBLEM.posterior(observations.select([i]), points=POINTS)
            found.append(exact.mean + self.wider * (exact.sample(n, seed=10_000 + seed + i) - exact.mean))
        return np.stack(found)

    def log_probs(self, theta: ArrayLike, observations: nu.Events) -> Floats:
        found = []
        for i, points in enumerate(np.asarray(theta)):
            exact = PROBLEM.posterior(observations.select([i]), points=POINTS)
            at = exact.mean + (points - exact.mean) / self.wider
            found.append(exact.log_prob(at) - 2 * np.log(self.wider))
        return np.stack(found)


# -- the experiment ----------------------------------------------------------------------------------------------------


def test_the_network_sees_the_logarithm_of_the_energy() -> None:
    observation = problem.observation(1)
    one, other = observation.ragged("far.energy"), observation.ragged("far.log_energy")
    np.testing.assert_allclose(np.exp(other.values), one.values)
    np.testing.assert_array_equal(one.offsets, other.offsets)
    assert problem.observation(1).digest() == observation.digest() != problem.observation(2).digest()


def test_wrong_models_are_what_they_say() -> None:
    n = 300
    right = problem.observations_of(None, n, 1)
    expected = float(PROBLEM.expected(list(TRUTH.values())))
    assert abs(right.ragged("far.pid").counts.mean() - expected) < 4 * np.sqrt(expected / n)
    more = 3 * 30 * np.exp(0.10 * TRUTH["normalisation"] + 0.30 * TRUTH["background"])
    background = problem.observations_of("background x 4", n, 1).ragged("far.pid").counts.mean()
    assert abs(background - expected - more) < 4 * np.sqrt((expected + more) / n)
    pid = problem.observations_of("pid - 0.7", n, 1).ragged("far.pid").values
    one = right.ragged("far.pid").values
    assert abs(one.mean() - pid.mean() - 0.7) < 4 * one.std() * np.sqrt(2 / len(one))
    energy = problem.observations_of("energy + 10%", n, 1).ragged("far.log_energy").values
    two = right.ragged("far.log_energy").values
    assert abs(energy.mean() - two.mean() - np.log(1.1)) < 4 * two.std() * np.sqrt(2 / len(two))


def test_nuisances_of_replicas_follow_their_exact_posterior() -> None:
    """At one theta: against weighted draws from the whole prior, which near count and calibration narrow."""
    data, theta = problem.observation(3), np.array([0.42, 2.45])
    n = 3000
    rng = np.random.default_rng(1)
    own = problem._nuisances(data, np.tile(theta, (600, 1)), rng)
    z = rng.standard_normal((n, 3)) * [0.6, 0.6, 1.0] + [0.0, 0.8 * data["calibration"][0], 0.0]
    log_w = PROBLEM.log_likelihood(data, np.concatenate([np.tile(theta, (n, 1)), z], 1))
    log_w += -0.5 * (z**2).sum(1) + 0.5 * (((z - [0, 0.8 * data["calibration"][0], 0]) / [0.6, 0.6, 1.0]) ** 2).sum(1)
    weight = np.exp(log_w - log_w.max())
    weight /= weight.sum()
    mean = weight @ z
    sd = np.sqrt(weight @ (z - mean) ** 2)
    error = sd * np.sqrt(1 / 600 + (weight**2).sum())
    assert np.all(np.abs(own.mean(0) - mean) < 4.5 * error)
    assert np.all(sd < [0.5, 0.55, 0.9])  # the data tell of all three
    np.testing.assert_allclose(own.std(0), sd, rtol=0.25)


# -- numbers of the exact posterior ------------------------------------------------------------------------------------


def test_the_exact_posterior_compares_with_itself() -> None:
    size = Size(points=POINTS, draws=1500)
    found = inference.compared(Exact(), problem.observation(1), size, seed=1)
    np.testing.assert_allclose(found.shift, 0, atol=4 / np.sqrt(20_000))
    np.testing.assert_allclose(found.ratio, 1, atol=4 / np.sqrt(20_000))
    assert abs(found.divergence) < 1e-9
    assert abs(found.c2st - 0.5) < 4 * found.c2st_error


def test_a_posterior_that_is_too_narrow_does_not() -> None:
    size = Size(points=POINTS, draws=1500)
    found = inference.compared(Exact(wider=0.6), problem.observation(1), size, seed=1)
    np.testing.assert_allclose(found.ratio, 0.6, rtol=0.03)
    assert found.c2st > 0.5 + 6 * found.c2st_error


def test_nats_lost() -> None:
    test = problem.seen(problem.simulations(8, seed=5).events)
    assert inference.lost(Exact(), test, 8, POINTS) == pytest.approx((0.0, 0.0), abs=1e-9)
    prior, error = inference.lost(inference.PriorAsPosterior(), test, 8, POINTS)
    assert prior > 3 * error > 0


def test_the_prior_is_seen_by_tarp_alone() -> None:
    test = problem.simulations(600, seed=6).events
    prior = inference.PriorAsPosterior()
    assert diagnostics.sbc(prior, test).p_value > 0.01
    assert diagnostics.tarp(prior, test).p_value < 0.01


def test_statistics_of_a_hand_made_event() -> None:
    events = nu.Events({
        "near": [1000.0, 990.0], "calibration": [0.1, 0.2], "far.energy": Ragged.of([[0.4, 0.6, 0.7], []]),
        "far.pid": Ragged.of([[1.0, 2.0, -0.5], []]),
    })  # fmt: skip
    found = {name: function(events).tolist() for name, function in inference.STATISTICS.items()}
    assert found["far, below 0.5 GeV"] == [1, 0]
    assert found["far, 0.5 to 0.8 GeV"] == [2, 0]
    assert found["far, above 0.8 GeV"] == [0, 0]
    assert found["mean pid"] == pytest.approx([2.5 / 3, 0])
    assert figures.spectra(events).sum(1).tolist() == [3, 0]


# -- the whole ---------------------------------------------------------------------------------------------------------


def test_a_small_run_of_the_whole_analysis(fast_run: Any, tmp_path: Path) -> None:
    run = fast_run("oscillation_posterior")
    assert run.returncode == 0, run.stderr
    results = json.loads((tmp_path / "results.json").read_text())
    assert (results["format"], results["seed"]) == (1, 1)
    numbers = results["numbers"]
    for entry in numbers.values():
        assert set(entry) == {"value", "uncertainty", "truth", "published"}
    for level in ("68", "90"):
        found = numbers[f"coverage.{level}"]
        assert abs(found["value"] - found["truth"]) < 0.05 + 4 * found["uncertainty"]
    assert numbers["p.tarp_of_prior"]["value"] < 0.01
    for name in PROBLEM.box:
        assert abs(numbers[f"exact.{name}"]["value"] - TRUTH[name]) < 4 * numbers[f"exact.{name}"]["uncertainty"]
    # even so small a run has learned something: the box of dm2 alone has a standard deviation of 0.289
    assert numbers["neural.dm2_32"]["uncertainty"] < 0.24
    assert 0 < numbers["importance.efficiency"]["value"] <= 1
    assert "Is it right?" in run.stdout
    page = (tmp_path / "index.html").read_text()
    assert page.count('src="data:image/png;base64,') == page.count("<img") == 6
    assert "http" not in page
    assert nu.posterior.NeuralPosterior.load(tmp_path / "posterior.safetensors").names == tuple(PROBLEM.box)
