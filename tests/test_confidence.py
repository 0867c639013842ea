"""Confidence sets from posteriors against exact quantiles.

theta ~ N(0, 1), x = theta + N(0, 1): the posterior is N(x / 2, 1 / 2), Waldo's t = (x / 2 - theta)^2 / (1 / 2), and 2 t
at theta is a noncentral chi2 of one degree of freedom with noncentrality theta^2.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import ArrayLike, NDArray
from scipy import stats
from torch.distributions import Normal

from nuinfer import MLP, Events, Training
from nuinfer.intervals import local_coverage
from nuinfer.posterior import CalibratedSets, Posterior, Prior, calibrate_sets
from nuinfer.posterior.confidence import statistic_of

Floats = NDArray[np.float64]


class Exact(Posterior):
    """N(x / 2, 1 / 2) with draws at the middle of equal parts of its probability; ``nuisances`` are like the prior."""

    def __init__(self, nuisances: int = 0) -> None:
        self.prior = Prior.of({"mu": Normal(0.0, 1.0)} | {f"n{i}": Normal(0.0, 1.0) for i in range(nuisances)})

    def draws(self, n: int, observations: Events, *, seed: int = 0) -> Floats:
        x, rng = observations["x"], np.random.default_rng(seed)
        z = stats.norm.ppf((np.arange(n) + 0.5) / n)
        found = rng.standard_normal((len(x), n, len(self.names)))
        found[..., 0] = x[:, None] / 2 + np.sqrt(0.5) * z
        return found

    def log_probs(self, theta: ArrayLike, observations: Events) -> Floats:
        off = np.asarray(theta)[..., 0] - observations["x"][:, None] / 2
        rest = np.asarray(theta)[..., 1:]
        return np.asarray(-(off**2) - 0.5 * np.log(np.pi) + stats.norm.logpdf(rest).sum(-1))


def simulations(n: int, seed: int, nuisances: int = 0) -> Events:
    """theta evenly in a box, which need not be the prior."""
    rng = np.random.default_rng(seed)
    mu = rng.uniform(-3, 3, n)
    return Events(
        {"mu": mu, "x": mu + rng.standard_normal(n)} | {f"n{i}": rng.normal(size=n) for i in range(nuisances)}
    )


@pytest.fixture(scope="module")
def sets() -> CalibratedSets:
    return calibrate_sets(Exact(), simulations(8000, 1), cls=(0.68, 0.9), network=MLP(width=32, depth=2), seed=1,
                          training=Training(epochs=40, batch=256, learning_rate=1e-2), progress=False)  # fmt: skip


def test_critical_values_are_the_exact_quantiles(sets: CalibratedSets) -> None:
    """The coverage that they give is right within 0.05 (some 1,500 simulations a degree of freedom of the network: 0.01
    each, ten values); the chi2 quantile would leave 0.3 of 0.68 at theta = 2.
    """
    theta = np.array([-2.0, -1.0, 0.0, 1.0, 2.0])
    for cl in (0.68, 0.9):
        c = sets.critical.at({"mu": theta}, cl)
        assert np.abs(stats.ncx2.cdf(2 * c, 1, theta**2) - cl).max() < 0.05
    plain = stats.ncx2.cdf(2 * stats.chi2.ppf(0.68, 1), 1, 4.0)
    assert plain < 0.4


def test_the_check_tells_right_from_wrong(sets: CalibratedSets) -> None:
    fresh = simulations(8000, 2)
    assert sets.check(fresh, cl=0.68, cells=8).p_value > 1e-3
    constant = local_coverage(lambda theta: np.full(len(theta["mu"]), 0.99), sets.toys(fresh), cl=0.68, cells=8)
    assert constant.p_value < 1e-9


def test_sets_of_an_observation(sets: CalibratedSets) -> None:
    """The set is that of the exact critical values, within the grid."""
    at, grid = Events({"x": [1.5]}), np.linspace(-2.9, 2.9, 581)
    found = sets.confidence_set(at, {"mu": grid}, cl=0.9).interval()
    t = (0.75 - grid) ** 2 / 0.5
    exact = grid[2 * t <= stats.ncx2.ppf(0.9, 1, grid**2)]
    assert found.shape == (1, 2)
    np.testing.assert_allclose(found[0], [exact.min(), exact.max()], atol=0.1)
    assert sets.contains({"mu": [0.75, -2.5]}, at, cl=0.9).tolist() == [True, False]
    credible = 0.75 + 1.645 * np.sqrt(0.5) * np.array([-1, 1])
    assert np.abs(found[0] - credible).max() > 0.3


def test_density_and_ratio() -> None:
    """-2 log q / max q is Waldo's t; over the prior it is the likelihood ratio (x - theta)^2, with chi2's quantiles."""
    exact, data = Exact(), simulations(300, 3)
    theta = np.stack([data["mu"], data["mu"] + 0.5], 1)[..., None]
    x = data["x"][:, None]
    density = statistic_of(exact, theta, data, ("mu",), "density", 400, 1)
    np.testing.assert_allclose(density, 2 * (theta[..., 0] - x / 2) ** 2, atol=1e-3)
    ratio = statistic_of(exact, theta, data, ("mu",), "ratio", 400, 1)
    near = np.abs(x[:, 0]) < 1.5  # the maximum is among the draws
    np.testing.assert_allclose(ratio[near], ((theta[..., 0] - x) ** 2)[near], atol=2e-3)
    learned = calibrate_sets(exact, simulations(6000, 4), statistic="ratio", cls=(0.68,), seed=1, progress=False,
                             network=MLP(width=16, depth=1),
                             training=Training(epochs=30, batch=256, learning_rate=1e-2))  # fmt: skip
    assert abs(float(learned.critical.at({"mu": 0.5}, 0.68)) - 0.99) < 0.12


def test_nuisances_are_projected() -> None:
    sets = calibrate_sets(Exact(1), simulations(4000, 5, 1), interest=["mu"], cls=(0.68,), seed=1, progress=False,
                          network=MLP(width=16, depth=1),
                          training=Training(epochs=20, batch=256, learning_rate=1e-2))  # fmt: skip
    at, grid = Events({"x": [0.5]}), np.linspace(-2, 2, 81)
    found = sets.confidence_set(at, {"mu": grid}, cl=0.68)
    assert found.accepted[np.argmin(np.abs(grid - 0.25))]
    t = (0.25 - grid) ** 2 / 0.5
    np.testing.assert_allclose(found.observed, t, atol=0.02)
    assert "mu by waldo" in repr(sets)


class Drawn(Exact):
    """The same by random draws."""

    def draws(self, n: int, observations: Events, *, seed: int = 0) -> Floats:
        noise = np.random.default_rng(seed).standard_normal((len(observations), n, 1))
        return np.asarray(observations["x"][:, None, None] / 2 + np.sqrt(0.5) * noise)


def test_the_seed_of_the_draws(sets: CalibratedSets) -> None:
    """Of a posterior that is drawn from, t depends on the draws: the same seed means the same t everywhere."""
    drawn, at, grid = replace(sets, posterior=Drawn()), Events({"x": [1.5]}), np.linspace(-2, 2, 41)
    own = [drawn.observed(grid[None, :, None], at, seed=seed)[0] for seed in (0, 1)]
    assert np.abs(own[0] - own[1]).max() > 0.01
    for seed in (0, 1):
        found = drawn.confidence_set(at, {"mu": grid}, cl=0.68, seed=seed)
        np.testing.assert_array_equal(found.observed, own[seed])
        inside = drawn.contains({"mu": grid}, at, cl=0.68, seed=seed)
        np.testing.assert_array_equal(inside, found.accepted)
    # 300 draws: the mean is known to 0.7/sqrt(300), the variance to 8%
    exact = (0.75 - grid) ** 2 / 0.5
    assert (np.abs(own[1] - exact) < 4 * (0.082 * exact + 2 * np.sqrt(2 * exact / 300) + 0.01)).all()


def test_files(sets: CalibratedSets, tmp_path: Path) -> None:
    sets.save(tmp_path / "sets.safetensors")
    again = CalibratedSets.load(tmp_path / "sets.safetensors", Exact())
    at, grid = Events({"x": [1.5]}), np.linspace(-2, 2, 41)
    one, two = (s.confidence_set(at, {"mu": grid}, cl=0.9) for s in (sets, again))
    np.testing.assert_array_equal(one.observed, two.observed)
    np.testing.assert_array_equal(one.critical, two.critical)
    assert (again.interest, again.statistic, again.draws, again.critical.cls) == (("mu",), "waldo", 300, (0.68, 0.9))
    with pytest.raises(ValueError, match="sets were calibrated with, Exact of mu, found Exact of mu, n0"):
        CalibratedSets.load(tmp_path / "sets.safetensors", Exact(1))
    with pytest.raises(ValueError, match="Exact of mu, found Drawn of mu"):
        CalibratedSets.load(tmp_path / "sets.safetensors", Drawn())


def test_bad_input(sets: CalibratedSets) -> None:
    data = simulations(500, 1)
    with pytest.raises(KeyError, match="interest: expected some of mu"):
        calibrate_sets(Exact(), data, interest=["nu"], seed=1)
    with pytest.raises(ValueError, match="statistic: expected one of"):
        calibrate_sets(Exact(), data, statistic="wald", seed=1)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="all parameters with 'density'"):
        calibrate_sets(Exact(1), simulations(500, 1, 1), interest=["mu"], statistic="density", seed=1)
    with pytest.raises(ValueError, match="weights of 1"):
        calibrate_sets(Exact(), data.with_weight(2 * data.weight), seed=1)
    with pytest.raises(KeyError, match="box: expected ranges of mu"):
        calibrate_sets(Exact(), data, box={"nu": (0, 1)}, seed=1)
    with pytest.raises(KeyError, match="grid: expected values of mu"):
        sets.confidence_set(Events({"x": [0.0]}), {"nu": [0.0, 1.0]}, cl=0.68)
    with pytest.raises(ValueError, match="toys: expected at least"):
        calibrate_sets(Exact(), simulations(50, 1), seed=1)
