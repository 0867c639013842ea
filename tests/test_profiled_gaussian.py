"""`ProfiledGaussian`: its recursion against quadrature, and its limit against a direct maximum of the likelihood."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from scipy import optimize, stats

from nuinfer.simulators import Gaussian
from nuinfer.simulators.profiled_gaussian import ProfiledGaussian, ProfiledState

TOY = ProfiledGaussian()
SHIFTED = ProfiledGaussian(truth=Gaussian(0.5, 0.8), width=0.8, shift=0.4, simulated_width=1.1, simulated_shift=0.1)
BOTH: dict[str, tuple[float, float] | None] = {"width": (1.0, 0.02), "shift": (0.2, 0.03)}
FLAT: dict[str, tuple[float, float] | None] = {"width": None, "shift": None}


def test_an_iteration_equals_quadrature() -> None:
    """Posterior, truth and the nuisances' expected log-likelihood, by sums over a grid."""
    state = SHIFTED.iterate(1, FLAT, events=1000)[1]
    t, y = np.linspace(-7, 8, 101), np.linspace(-9, 10, 101)
    y1, y2 = (part.ravel() for part in np.meshgrid(y, y, indexing="ij"))
    response = stats.norm.pdf(y1[:, None], t, 1) * stats.norm.pdf(y2[:, None], t + state.shift, state.width)
    joint = response * state.truth.density(t)
    wanted = SHIFTED.measured.density(np.stack([y1, y2], 1))
    joint *= (wanted / joint.sum(1))[:, None]  # P(t | y) D(y)
    joint /= joint.sum()
    start = {"width": state.width, "shift": state.shift}
    after, alone = (
        SHIFTED.iterate(1, c, events=1000, prior=state.truth, start=start)[1] for c in (BOTH, {"width": BOTH["width"]})
    )
    mean = joint.sum(0) @ t
    np.testing.assert_allclose([mean, np.sqrt(joint.sum(0) @ (t - mean) ** 2)],
                               [after.truth.mean[0], after.truth.sd[0]], rtol=1e-8)  # fmt: skip
    # the residual's distribution, in narrow bins whose centres are moved to their means
    where, residual = np.linspace(-17, 18, 3001), (y2[:, None] - t).ravel()
    share = np.histogram(residual, where, weights=joint.ravel())[0]
    at_mean = np.histogram(residual, where, weights=joint.ravel() * residual)[0][share > 0] / share[share > 0]

    def surrogate(at: np.ndarray) -> float:
        log = stats.norm.logpdf(at_mean, at[1], at[0])
        pulls = [(v - c[0]) / c[1] for v, c in zip(at, BOTH.values(), strict=True) if c]
        return -float(1000 * (share[share > 0] @ log) - np.square(pulls).sum() / 2)

    best = optimize.minimize(surrogate, [1.0, 0.2], method="Nelder-Mead", options={"xatol": 1e-8, "fatol": 1e-10})
    np.testing.assert_allclose([after.width, after.shift], best.x, atol=1e-5)
    assert abs(alone.width - best.x[0]) > 1e-3


@pytest.mark.parametrize("constraints", [BOTH, FLAT, {"width": None}, {"shift": (0.2, 0.03)}])
def test_the_iterations_climb_to_the_maximum(constraints: Any) -> None:
    states = SHIFTED.iterate(400, constraints, events=1000)
    height = [SHIFTED.log_posterior(s, constraints, events=1000) for s in states]
    assert (np.diff(height) > -1e-9).all()
    assert height[-1] - height[0] > 5
    start = [states[0].truth.mean[0], 0.0, *(getattr(states[0], name) for name in constraints)]

    def state_of(v: np.ndarray) -> ProfiledState:
        given = dict(zip(constraints, v[2:], strict=True))
        return ProfiledState(Gaussian(v[0], np.exp(v[1])), given.get("width", 1.1), given.get("shift", 0.1))

    def depth(v: np.ndarray) -> float:
        return -SHIFTED.log_posterior(state_of(v), constraints, events=1000)

    options = {"xatol": 1e-8, "fatol": 1e-11, "maxiter": 4000}
    best = optimize.minimize(depth, start, method="Nelder-Mead", options=options)
    last = states[-1]
    expected = state_of(best.x)
    for name in ("width", "shift"):
        assert abs(getattr(last, name) - getattr(expected, name)) < 1e-5
    assert abs(last.truth.mean[0] - expected.truth.mean[0]) < 1e-5
    assert abs(last.truth.sd[0] - expected.truth.sd[0]) < 1e-5


def test_the_truth_is_the_fixed_point_of_a_flat_constraint() -> None:
    last = SHIFTED.iterate(400, FLAT, events=1)[-1]
    np.testing.assert_allclose(
        [last.truth.mean[0], last.truth.sd[0], last.width, last.shift], [0.5, np.sqrt(0.8), 0.8, 0.4], atol=1e-6
    )
    # one nuisance that is held wrong bends the truth
    assert abs(SHIFTED.iterate(400, {"width": None}, events=1)[-1].truth.mean[0] - 0.5) > 0.05


def test_the_recursion_of_a_large_sample_is_that_of_the_population() -> None:
    """A simulation wider than the data, whose weights are bounded; 20 samples of 20,000 scatter by 0.016 at most."""
    toy, n = ProfiledGaussian(width=1.0, shift=0.1, simulated_width=1.5), 100_000
    constraints = {"width": None, "shift": (0.0, 0.005)}
    data, simulation = toy.data(n, 1), toy.simulation(n, 1)
    found = toy.sample_iterate(3, constraints, simulation, data)
    for one, exact in zip(found, toy.iterate(3, constraints, events=n), strict=True):
        assert abs(one.truth.mean[0] - exact.truth.mean[0]) < 4 * 0.016 / np.sqrt(5)
        assert abs(one.truth.sd[0] - exact.truth.sd[0]) < 4 * 0.016 / np.sqrt(5)
        assert abs(one.width - exact.width) < 4 * 0.016 / np.sqrt(5)
        assert abs(one.shift - exact.shift) < 4 * 0.016 / np.sqrt(5)
    assert abs(found[3].width - found[2].width) > 0.04
    assert abs(found[3].shift) > 0.04
    held = toy.sample_iterate(2, {}, simulation, data, start={"width": 1.2})
    assert held[-1].width == 1.2


def test_samples_have_the_stated_moments() -> None:
    n = 200_000
    data, simulation = TOY.data(n, 1), TOY.simulation(n, 1)
    for events, columns, expected in (
        (data, ["y1", "y2"], TOY.measured), (simulation, ["t"], TOY.prior),
        (simulation, ["y1", "y2"], ProfiledState(TOY.prior, 1.0, 0.0).folded),
    ):  # fmt: skip
        found = TOY.moments(events, columns)
        size = np.sqrt(expected.covariance.max())
        assert np.abs(found.mean - expected.mean).max() < 4 * size / np.sqrt(n)
        assert np.abs(found.covariance - expected.covariance).max() < 4 * size**2 * np.sqrt(2 / n)
    varied = SHIFTED.varied(n, 1, width=(0.5, 1.5))
    residual = (varied["y2"] - varied["t"] - 0.1) / varied["width"]
    assert abs(residual.std() - 1) < 4 / np.sqrt(2 * n)
    assert abs((varied["y2"] - varied["t"]).std() - 1) > 0.02
    np.testing.assert_allclose([varied["width"].min(), varied["width"].max()], [0.5, 1.5], atol=1e-3)


def test_the_response_is_the_ratio_of_densities() -> None:
    events = SHIFTED.simulation(50, 1)
    theta = np.array([[0.3, 0.9], [0.1, 1.1]])
    found = SHIFTED.response(["shift", "width"])(events, torch.from_numpy(theta)).numpy()
    residual = events["y2"] - events["t"]
    for row, (shift, width) in zip(found, theta, strict=True):
        exact = stats.norm.pdf(residual, shift, width) / stats.norm.pdf(residual, 0.1, 1.1)
        np.testing.assert_allclose(row, exact, rtol=1e-12)
    np.testing.assert_allclose(found[1], 1.0)  # at the simulation's own


def test_bad_input() -> None:
    with pytest.raises(ValueError, match="one dimension"):
        ProfiledGaussian(truth=Gaussian([0.0, 0.0]))
    with pytest.raises(ValueError, match="positive"):
        ProfiledGaussian(width=0.0)
    with pytest.raises(KeyError, match="no nuisance 'with'"):
        TOY.iterate(1, {"with": None}, events=10)
