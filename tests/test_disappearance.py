"""Oscillation with nuisances: the simulation against its own density, the grid posterior against both."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray

from nuinfer import metrics
from nuinfer.events import Events, Ragged
from nuinfer.simulators import Disappearance
from nuinfer.simulators.disappearance import amplitude, other_octant

Floats = NDArray[np.float64]

PROBLEM = Disappearance()
POINT = np.array([0.42, 2.45, 0.5, -1.0, 1.0])
MOVED = np.array([0.6, 2.8, -1.0, 1.5, -0.5])


def experiments(theta: Floats, n: int, seed: int) -> Events:
    return PROBLEM.simulate(np.tile(theta, (n, 1)), np.random.default_rng(seed))


def from_prior(n: int, seed: int) -> tuple[Floats, Events]:
    rng = np.random.default_rng(seed)
    box = np.array(list(PROBLEM.box.values()))
    theta = np.concatenate([rng.uniform(*box.T, (n, 2)), rng.standard_normal((n, 3))], 1)
    return theta, PROBLEM.simulate(theta, rng)


# -- the formula -------------------------------------------------------------------------------------------------------


def test_survival_is_the_formula_of_the_paper() -> None:
    # arXiv:1403.1532 has it with two terms: (cos^4 t13 sin^2 2t23 + sin^2 2t13 sin^2 t23) sin^2(...)
    s13, s23, dm2, energy = 0.0220, 0.45, 2.5, 0.7
    two_terms = (1 - s13) ** 2 * 4 * s23 * (1 - s23) + 4 * s13 * (1 - s13) * s23
    # 1.267 by its constants: eV^2 km / GeV over 4 hbar c
    phase = dm2 * 1e-3 * 295.0 / energy * 1e3 / 1e9 / (4 * 1.973269804e-16) * 1e-9
    expected = 1 - two_terms * np.sin(phase) ** 2
    assert PROBLEM.survival(energy, s23, dm2) == pytest.approx(expected, abs=1e-3)
    first_minimum = 1.267e-3 * dm2 * 295 * 2 / np.pi  # 0.595 GeV
    assert PROBLEM.survival(first_minimum, 0.5, dm2) < 0.01


def test_octants_survive_equally() -> None:
    energy = np.linspace(0.2, 3, 50)
    one = PROBLEM.survival(energy, 0.42, 2.5)
    np.testing.assert_allclose(PROBLEM.survival(energy, other_octant(0.42), 2.5), one, rtol=1e-12)
    assert np.abs(PROBLEM.survival(energy, 0.58, 2.5) - one).max() > 5e-3  # not the mirror at 1/2
    assert amplitude(1 / (2 * (1 - 0.0220))) == pytest.approx(1.0)


# -- the simulation against the density --------------------------------------------------------------------------------


@pytest.mark.parametrize("theta", [POINT, MOVED], ids=["point", "moved"])
def test_rate_integrates_to_the_expected_number(theta: Floats) -> None:
    energy, pid = np.exp(np.linspace(np.log(0.03), np.log(30), 1201)), np.linspace(-8, 8, 161)
    rate = np.exp(PROBLEM.log_rate(energy[:, None], pid, theta))
    total = np.trapezoid(np.trapezoid(rate, pid, axis=1) * energy, np.log(energy))
    assert total == pytest.approx(float(PROBLEM.expected(theta)), rel=1e-6)


def test_the_tabulated_rate_is_the_integral_over_true_energy() -> None:
    """Of one event, by adaptive quadrature in true energy, with the formula of survival."""
    from scipy import integrate, stats

    e_rec, pid = 0.55, 0.8
    sin2, dm2, normalisation, scale, background = MOVED
    u = np.log(e_rec) - 0.03 * scale

    def integrand(v: float) -> float:
        spectrum = 0.75 * stats.norm.pdf(v, np.log(0.62), 0.28) + 0.25 * stats.norm.pdf(v, np.log(1.1), 0.5)
        return float(spectrum * PROBLEM.survival(np.exp(v), sin2, dm2) * stats.norm.pdf(u, v, 0.10))

    signal = 300 * integrate.quad(integrand, u - 0.9, u + 0.9, epsabs=1e-12, epsrel=1e-10)[0] * stats.norm.pdf(pid, 1)
    other = 30 * np.exp(0.3 * background) * stats.norm.pdf(u, np.log(0.5), 0.5) * stats.norm.pdf(pid, -1)
    expected = np.exp(0.1 * normalisation) * (signal + other) / e_rec
    assert np.exp(PROBLEM.log_rate(e_rec, pid, MOVED)) == pytest.approx(expected, rel=1e-6)


@pytest.mark.parametrize("theta", [POINT, MOVED], ids=["point", "moved"])
def test_simulated_numbers_and_moments_are_those_of_the_density(theta: Floats) -> None:
    n = 2000
    events = experiments(theta, n, seed=3)
    expected = float(PROBLEM.expected(theta))
    counts = events.ragged("far.energy").counts
    assert abs(counts.mean() - expected) < 4 * np.sqrt(expected / n)
    assert counts.var() == pytest.approx(expected, rel=4 * np.sqrt(2 / n))  # Poisson
    near = 1000 * np.exp(0.10 * theta[2])
    assert abs(events["near"].mean() - near) < 4 * np.sqrt(near / n)
    assert abs(events["calibration"].mean() - theta[3]) < 4 * 0.5 / np.sqrt(n)
    energy, pid = events.ragged("far.energy").values, events.ragged("far.pid").values
    grid, pids = np.exp(np.linspace(np.log(0.03), np.log(30), 801)), np.linspace(-8, 8, 121)
    p = np.exp(PROBLEM.log_rate(grid[:, None], pids, theta)) * grid[:, None]
    p /= p.sum()
    functions = (lambda e, t: np.log(e), lambda e, t: t, lambda e, t: t * np.log(e), lambda e, t: np.cos(4 / e))
    for f in functions:
        mean = (f(grid[:, None], pids) * p).sum()
        values = f(energy, pid)
        assert abs(values.mean() - mean) < 4 * values.std() / np.sqrt(len(values))


def test_another_theta_does_not_fit_the_simulation() -> None:
    """The tests above would fail at a mass splitting, a scale or an octant that is off."""
    events = experiments(POINT, 200, seed=4)
    energy, pid = events.ragged("far.energy").values, events.ragged("far.pid").values
    right = PROBLEM.log_rate(energy, pid, POINT).sum() - 200 * float(PROBLEM.expected(POINT))
    for i, shift in enumerate([0.03, 0.05, 0.5, 0.7, 0.5]):
        other = POINT.copy()
        other[i] += shift
        wrong = PROBLEM.log_rate(energy, pid, other).sum() - 200 * float(PROBLEM.expected(other))
        assert right - wrong > 5


def test_same_seed_same_events() -> None:
    one, two, other = (experiments(POINT, 20, seed) for seed in (1, 1, 2))
    assert one.digest() == two.digest()
    assert one.digest() != other.digest()


# -- the posterior -----------------------------------------------------------------------------------------------------


def test_grid_likelihood_is_the_mean_likelihood_over_the_nuisances() -> None:
    """At a few points: Monte Carlo over the nuisances' priors, which shares no quadrature with the grid."""
    observation = experiments(np.array([0.45, 2.5, 0.3, -0.4, 0.5]), 1, seed=5)
    exact = PROBLEM.posterior(observation, points=21)
    rng = np.random.default_rng(6)
    # near data and calibration leave little of the priors: draws from about there, weighted
    centre, width = np.array([0.0, observation["calibration"][0] / 1.25, 0.0]), np.array([0.6, 0.5, 1.1])
    nuisances = centre + width * rng.standard_normal((5000, 3))
    log_w = -0.5 * (nuisances**2).sum(1) + 0.5 * (((nuisances - centre) / width) ** 2).sum(1) + np.log(width).sum()
    for point in ([0.45, 2.5], [0.6, 2.6]):
        theta = np.concatenate([np.tile(point, (5000, 1)), nuisances], 1)
        logs = log_w + PROBLEM.log_likelihood(observation, theta)
        weight = np.exp(logs - logs.max())
        error = weight.std() / weight.mean() / np.sqrt(len(weight))
        assert error < 0.04
        value = logs.max() + np.log(weight.mean())
        assert abs(value - exact.log_likelihood_at(point)[0]) < 4 * error


def test_finer_quadrature_changes_nothing() -> None:
    observation = experiments(POINT, 1, seed=7)
    coarse, fine = (PROBLEM.posterior(observation, points=21, finer=finer) for finer in (1.0, 2.0))
    seen = coarse.log_density > coarse.log_density.max() - 12
    assert np.abs(coarse.log_density - fine.log_density)[seen].max() < 1e-4
    denser = PROBLEM.posterior(observation, points=41)
    np.testing.assert_allclose(coarse.mean, denser.mean, rtol=1e-4)
    np.testing.assert_allclose(coarse.standard_deviation, denser.standard_deviation, rtol=2e-3)
    assert coarse.log_evidence == pytest.approx(denser.log_evidence, abs=2e-3)


def test_octants_are_degenerate_in_the_posterior() -> None:
    exact = PROBLEM.posterior(experiments(POINT, 1, seed=7), points=41)
    theta = np.array([[0.40, 2.45], [0.45, 2.6]])
    mirrored = np.stack([other_octant(theta[:, 0]), theta[:, 1]], 1)
    np.testing.assert_allclose(exact.log_prob(theta), exact.log_prob(mirrored), atol=2e-3)  # interpolation
    assert exact.mean[0] == pytest.approx(1 / (2 * (1 - 0.0220)), abs=2e-3)


def test_draws_and_density_of_the_grid_agree() -> None:
    exact = PROBLEM.posterior(experiments(POINT, 1, seed=8), points=41)
    n = 20_000
    draws = exact.sample(n, seed=1)
    assert np.all(np.abs(draws.mean(0) - exact.mean) < 4 * exact.standard_deviation / np.sqrt(n))
    np.testing.assert_allclose(draws.std(0), exact.standard_deviation, rtol=4 / np.sqrt(n))
    best = exact.best()
    assert exact.log_prob(best)[0] >= exact.log_prob(draws).max() - 1e-3
    assert exact.log_prob([[0.2, 2.5]])[0] == -np.inf


def test_the_posterior_is_calibrated_and_that_of_another_observation_is_not() -> None:
    """Ranks of the truth in exact posteriors: simulation, likelihood and integrals agree."""
    theta, events = from_prior(50, seed=9)
    own, other = [], []
    for i in range(len(theta)):
        exact = PROBLEM.posterior(events.select([i]), points=21)
        draws = exact.sample(99, seed=i)
        for ranks, true in ((own, theta[i, :2]), (other, theta[i - 1, :2])):
            ranks.append([(draws[:, 1] < true[1]).sum(), (exact.log_prob(draws) > exact.log_prob(true)[0]).sum()])
    for right, wrong in zip(np.array(own).T, np.array(other).T, strict=True):
        assert metrics.rank_uniformity(right, 99) > 1e-3
        assert metrics.rank_uniformity(wrong, 99) < 1e-6


# -- input -------------------------------------------------------------------------------------------------------------


def test_bad_input_is_refused() -> None:
    rng = np.random.default_rng(1)
    observation = experiments(POINT, 2, seed=1)
    with pytest.raises(ValueError, match="signal: expected a positive number, found -1"):
        Disappearance(signal=-1.0)
    with pytest.raises(ValueError, match="dm2_32: expected a box"):
        Disappearance(dm2_32=(3.0, 2.0))
    with pytest.raises(ValueError, match="baseline times dm2_32: expected at most 3000"):
        Disappearance(baseline=1300.0)
    with pytest.raises(ValueError, match=r"theta: expected \(\*, 5\)"):
        PROBLEM.expected([0.5, 2.5])
    with pytest.raises(ValueError, match=r"theta: expected \(B, 5\)"):
        PROBLEM.simulate(POINT, rng)
    with pytest.raises(ValueError, match=r"sin2_theta23: expected values within 0\.3 and 0\.7"):
        PROBLEM.simulate([[0.2, 2.5, 0, 0, 0]], rng)
    with pytest.raises(ValueError, match="observation: expected one, found 2 rows"):
        PROBLEM.posterior(observation)
    with pytest.raises(ValueError, match="points: expected at least 11"):
        PROBLEM.posterior(observation.select([0]), points=5)
    bad = observation.select([0]).with_columns({"far.energy": Ragged.of([[-1.0]]), "far.pid": Ragged.of([[0.0]])})
    with pytest.raises(ValueError, match="expected energies above 0"):
        PROBLEM.log_likelihood(bad, POINT)


def test_no_events_at_all_can_be_observed() -> None:
    empty = Events({"near": [1000.0], "calibration": [0.0], "far.energy": Ragged.of([[]]), "far.pid": Ragged.of([[]])})
    exact = PROBLEM.posterior(empty, points=21)
    # no far event: the fewer are expected, the likelier
    assert abs(exact.best()[0] - 0.511) < 0.01
    assert np.isfinite(exact.log_evidence)
