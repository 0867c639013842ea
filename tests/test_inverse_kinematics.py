"""`InverseKinematics`: its exact draws against a brute-force integral over the angles, and against each other."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray

from nuinfer import Events
from nuinfer.errors import NotConverged
from nuinfer.simulators import InverseKinematics

Floats = NDArray[np.float64]

ARM = InverseKinematics()


def brute(end: Floats, n: int, half: float) -> tuple[Floats, Floats]:
    """Theta (M, 4), weights (M,) by other means: angles of the prior whose x0 is within ``half``, the rail solved."""
    angles = np.random.default_rng(5).normal(size=(n, 3)) * ARM.spreads[1:]
    ends = ARM.predict(np.concatenate([np.zeros((n, 1)), angles], 1))
    near = np.abs(ends[:, 0] - end[0]) < half
    rail = end[1] - ends[near, 1]
    weight = np.exp(-0.5 * (rail / ARM.spreads[0]) ** 2) / (np.sqrt(2 * np.pi) * ARM.spreads[0] * 2 * half)
    return np.concatenate([rail[:, None], angles[near]], 1), weight


def features(theta: Floats) -> Floats:
    """Means, and second moments with the products of neighbours: (M, 11)."""
    return np.concatenate([theta, theta**2, theta[:, :3] * theta[:, 1:]], 1)


def test_forward() -> None:
    """By hand: up, back to level, down."""
    by_hand = [0.2, np.pi / 2, -np.pi / 2, -np.pi / 2]
    np.testing.assert_allclose(ARM.predict(by_hand), [0.5, 0.2 + 0.5 - 1.0], atol=1e-15)
    np.testing.assert_allclose(ARM.predict(np.zeros((2, 3, 4))), np.broadcast_to([2.0, 0.0], (2, 3, 2)))
    events = ARM.simulate(20_000, seed=1)
    assert events.columns == ("theta0", "theta1", "theta2", "theta3", "x0", "x1")
    theta = np.stack([events[f"theta{i}"] for i in range(4)], 1)
    np.testing.assert_array_equal(ARM.predict(theta), np.stack([events["x0"], events["x1"]], 1))
    pulls = (theta.std(0) / ARM.spreads - 1) * np.sqrt(2 * len(theta))
    assert np.abs(pulls).max() < 4


@pytest.mark.parametrize("end", [(1.6, 0.3), (0.75, -0.8)])
def test_posterior_and_evidence_equal_brute_force(end: tuple[float, float]) -> None:
    x = np.array(end)
    draws = ARM.sample_posterior(x, 4000, seed=1)
    np.testing.assert_allclose(ARM.predict(draws), np.broadcast_to(x, (4000, 2)), atol=1e-12)
    theta, weight = brute(x, 1_500_000, 0.02)
    share = weight / weight.sum()
    expected = share @ features(theta)
    error = np.sqrt(np.square(share) @ (features(theta) - expected) ** 2 + features(draws).var(0) / len(draws))
    assert np.abs((features(draws).mean(0) - expected) / error).max() < 4
    assert np.abs((features(ARM.prior.sample(4000, 1)).mean(0) - expected) / error).max() > 10  # the prior fails
    value, uncertainty = ARM.evidence(x, 50_000, seed=2)
    total, spread = weight.sum() / 1_500_000, np.sqrt(np.square(weight).sum()) / 1_500_000
    assert abs(value - total) < 4 * np.hypot(uncertainty, spread)


def test_other_arms() -> None:
    """Two segments of the standard arm exchanged, and wide joints: whole turns count."""
    arm = InverseKinematics(lengths=(1.0, 0.5, 0.7), spreads=(0.3, 1.5, 1.5, 1.5))
    draws = arm.sample_posterior([0.4, 0.1], 500, seed=1)
    np.testing.assert_allclose(arm.predict(draws), np.broadcast_to([0.4, 0.1], (500, 2)), atol=1e-12)
    assert np.abs(draws[:, 1:].sum(1)).max() > np.pi
    seeds = [arm.evidence([0.4, 0.1], 20_000, seed=s) for s in (1, 2)]
    assert abs(seeds[0][0] - seeds[1][0]) < 4 * np.hypot(seeds[0][1], seeds[1][1])


def test_seed_and_events() -> None:
    one = Events({"x0": [1.8], "x1": [0.1]})
    first = ARM.sample_posterior(one, 50, seed=1)
    np.testing.assert_array_equal(first, ARM.sample_posterior([1.8, 0.1], 50, seed=1))
    assert not np.array_equal(first, ARM.sample_posterior(one, 50, seed=2))


def test_bad_input() -> None:
    with pytest.raises(ValueError, match=r"lengths: expected 3 positive numbers, found \(1, 2\)"):
        InverseKinematics(lengths=(1, 2))  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="spreads: expected 4 positive numbers"):
        InverseKinematics(spreads=(0.2, 0.5, 0.5, -0.5))
    with pytest.raises(ValueError, match=r"within reach, \|x0\| < 2, found \[2\.5"):
        ARM.sample_posterior([2.5, 0.0], 10, seed=1)
    with pytest.raises(ValueError, match="horizontal segments"):
        ARM.sample_posterior([1.0, 0.0], 10, seed=1)
    with pytest.raises(ValueError, match="expected one end"):
        ARM.sample_posterior(np.zeros((2, 2)), 10, seed=1)
    with pytest.raises(ValueError, match="expected finite values"):
        ARM.evidence([np.nan, 0.0], 10, seed=1)
    with pytest.raises(NotConverged, match="more probable"):
        ARM.sample_posterior([0.2, 30.0], 10, seed=1)
