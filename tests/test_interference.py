"""The exact answers of the interference problem against numerical integration, plain formulas and large samples."""

from __future__ import annotations

from typing import Any, get_args

import numpy as np
import pytest
import torch
from scipy import integrate, stats

from nuinfer.events import Events
from nuinfer.likelihood import Mixture, Process
from nuinfer.simulators import Interference
from nuinfer.simulators.interference import Sample

PLANE = Interference(dim=2)
LINE = Interference(dim=1)
ALPHA = {"luminosity": 0.5, "signal": -1.0, "background": 0.7, "hardness": 1.2, "scale": -0.8, "resolution": 1.1}
SAMPLES: tuple[Sample, ...] = get_args(Sample)


def amplitudes(z: np.ndarray, at: dict[str, float]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """a^2, b^2 and 2 c a b cos(phi) at z (N,) in one dimension, written out from the table of the module."""
    both = np.exp(0.02 * at["luminosity"])
    a2 = both * 150 * np.exp(0.05 * at["signal"]) * stats.norm(2.2, 0.4).pdf(z)
    b2 = both * 400 * np.exp(0.08 * at["background"]) * stats.norm(1.6 + 0.1 * at["hardness"], 0.7).pdf(z)
    return a2, b2, 2 * 0.8 * np.sqrt(a2 * b2) * np.cos(2.5 * (z - 1.2))


def line_rate(x: np.ndarray, mu: float, at: dict[str, float]) -> np.ndarray:
    """The rate in x (N,) of one dimension: an integral over z by the trapezoidal rule."""
    z = np.linspace(-4, 8, 6001)
    a2, b2, both = amplitudes(z, at)
    noise, scale = 0.15 * np.exp(0.15 * at["resolution"]), np.exp(0.02 * at["scale"])
    kernel = stats.norm.pdf(x[:, None], scale * z, scale * noise)
    return np.asarray(np.trapezoid((mu * a2 + b2 + np.sqrt(mu) * both) * kernel, z, axis=1))


# -- densities and rates -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("at", [dict.fromkeys(ALPHA, 0.0), ALPHA, {name: -v for name, v in ALPHA.items()}])
@pytest.mark.parametrize("mu", [0.0, 0.3, 1.0, 2.5])
def test_the_rate_is_the_smeared_square_of_two_amplitudes(mu: float, at: dict[str, float]) -> None:
    x = np.linspace(-0.5, 4.5, 41)
    expected = line_rate(x, mu, at)
    np.testing.assert_allclose(np.exp(LINE.log_rate(x, mu=mu, **at)), expected, rtol=1e-8)
    total = integrate.quad(lambda v: float(np.exp(LINE.log_rate(np.array([v]), mu=mu, **at))[0]), -6, 10, epsrel=1e-10)
    assert LINE.expected(mu=mu, **at) == pytest.approx(total[0], rel=1e-8)
    if mu:  # without the interference it would not
        a2, b2, _ = amplitudes(np.linspace(-4, 8, 6001), at)
        assert abs(np.trapezoid(mu * a2 + b2, np.linspace(-4, 8, 6001)) / total[0] - 1) > 0.03


@pytest.mark.parametrize("sample", SAMPLES)
@pytest.mark.parametrize("at", [{}, ALPHA])
def test_densities_integrate_to_one_and_reproduce_the_yields(sample: Sample, at: dict[str, float]) -> None:
    edges = [np.linspace(-3, 6, 301), np.linspace(-4, 7, 301)]
    grid = np.stack(np.meshgrid(*edges, indexing="ij"), axis=-1)
    for density in (PLANE.log_density, PLANE.log_parton_density):
        p = np.exp(density(sample, grid, **at))
        assert np.trapezoid(np.trapezoid(p, edges[1]), edges[0]) == pytest.approx(1, abs=1e-9)
    signal = 150 * np.exp(0.05 * at.get("signal", 0) + 0.02 * at.get("luminosity", 0))
    rates = {"S": signal, "B": PLANE.expected(mu=0.0, **at), "SBI": PLANE.expected(mu=1.0, **at)}
    assert PLANE.yields(sample, **at) == pytest.approx(rates[sample], rel=1e-12)


@pytest.mark.parametrize("dim", [1, 2, 5])
@pytest.mark.parametrize("mu", [0.0, 0.4, 1.0, 3.0])
def test_three_positive_samples_make_the_rate(dim: int, mu: float) -> None:
    problem = Interference(dim=dim)
    x = np.random.default_rng(1).normal(1, 1, (200, dim))
    coefficient = {"S": mu - np.sqrt(mu), "B": 1 - np.sqrt(mu), "SBI": np.sqrt(mu)}
    for at in ({}, ALPHA):
        found = sum(coefficient[s] * problem.yields(s, **at) * np.exp(problem.log_density(s, x, **at)) for s in SAMPLES)
        np.testing.assert_allclose(found, np.exp(problem.log_rate(x, mu=mu, **at)), rtol=1e-9)


def test_smearing_of_parton_densities_gives_the_measured_ones() -> None:
    """In five dimensions: E[exp(log p(x | z))] over a parton-level sample, at a few points."""
    problem, rng = Interference(negative=0.0, spread=0.0), np.random.default_rng(3)
    events = problem.sample("SBI", 40_000, seed=4, resolution=3.0)
    noise = np.array([0.15, 0.25, 0.3, 0.3, 0.3]) * np.exp(0.45)
    z = np.stack([events[f"z{i}"] for i in range(5)], axis=1)
    for x in z[:3] + 0.3 * rng.standard_normal((3, 5)):
        kernel = np.prod(stats.norm.pdf(x, z, noise), axis=1)
        error = kernel.std() / np.sqrt(len(z))
        assert abs(kernel.mean() - np.exp(problem.log_density("SBI", x[None], resolution=3.0))[0]) < 4 * error


def test_gradients_equal_finite_differences() -> None:
    problem = Interference()
    x = torch.from_numpy(np.random.default_rng(1).normal(1, 1, (30, 5)))
    theta = problem.point({"mu": 0.8, **ALPHA})
    exact = torch.autograd.functional.jacobian(
        lambda t: torch.cat([f.reshape(-1) for f in problem.rate_tensor(x, t)]), theta
    )
    for k in range(7):
        step = 1e-5 * torch.eye(7, dtype=torch.float64)[k]
        up, down = (torch.cat([f.reshape(-1) for f in problem.rate_tensor(x, theta + s)]) for s in (step, -step))
        np.testing.assert_allclose(exact[:, k], (up - down) / 2e-5, rtol=1e-6, atol=1e-6)
        assert exact[:, k].abs().max() > 1e-3  # each parameter does something


# -- samples -----------------------------------------------------------------------------------------------------------


def matrix(events: Events, name: str, dim: int) -> np.ndarray:
    return np.stack([events[f"{name}{i}"] for i in range(dim)], axis=1)


@pytest.mark.parametrize("sample", SAMPLES)
@pytest.mark.parametrize("at", [{}, ALPHA])
def test_weighted_samples_have_their_densities(sample: Sample, at: dict[str, float]) -> None:
    """Weighted means of moments and waves against integrals of the exact density on a grid."""
    n = 40_000
    events = PLANE.sample(sample, n, seed=7, **at)
    axes = [np.linspace(-3, 6, 201), np.linspace(-4, 7, 201)]
    grid = np.stack(np.meshgrid(*axes, indexing="ij"), axis=-1)
    for name, log_density in (("x", PLANE.log_density), ("z", PLANE.log_parton_density)):
        p = np.exp(log_density(sample, grid, **at))
        p /= p.sum()
        for f in (lambda v: v[..., 0], lambda v: v[..., 0] ** 2, lambda v: v[..., 0] * v[..., 1],
                  lambda v: np.cos(4 * v[..., 0]), lambda v: np.sin(4 * v[..., 0] + v[..., 1])):  # fmt: skip
            exact = (f(grid) * p).sum()
            terms = events.weight * (f(matrix(events, name, 2)) - exact)
            assert abs(terms.sum()) < 4 * np.sqrt((terms**2).sum())
    assert abs(events.sum_weights - n) < 4 * np.sqrt((events.weight**2).sum())
    assert 0.02 < (events.weight < 0).mean() < 0.05
    # the sample of another process fails
    other = PLANE.sample("B" if sample == "S" else "S", n, seed=7, **at)
    p = np.exp(PLANE.log_density(sample, grid, **at))
    difference = other.weight * (other["x0"] - (grid[..., 0] * p).sum() / p.sum())
    assert abs(difference.sum()) > 8 * np.sqrt((difference**2).sum())


def test_a_detector_variation_moves_the_same_events() -> None:
    start, moved = PLANE.sample("SBI", 500, seed=1), PLANE.sample("SBI", 500, seed=1, scale=1.0, resolution=0.5)
    for name in ("z0", "z1"):
        np.testing.assert_array_equal(start[name], moved[name])
    np.testing.assert_array_equal(start.id, moved.id)
    np.testing.assert_array_equal(start.weight, moved.weight)
    z = matrix(start, "z", 2)
    expected = np.exp(0.02) * (z + np.exp(0.075) * (matrix(start, "x", 2) - z))
    np.testing.assert_allclose(matrix(moved, "x", 2), expected, rtol=1e-12)
    assert len(np.unique(start.id)) == 500


def test_matrix_element_weights_make_one_sample_another() -> None:
    """E over SBI of p_S / p_SBI at parton level, times a function of x, is E over S of that function."""
    n = 40_000
    events, target = (PLANE.sample(s, n, seed=3) for s in ("SBI", "S"))
    w = events.weight * np.exp(PLANE.log_parton_density("S", events) - PLANE.log_parton_density("SBI", events))
    for name in ("x0", "x1"):
        sums = [(u * (e[name] - 2.0) / n, u) for e, u in ((events, w), (target, target.weight))]
        error = np.sqrt(sum((part**2).sum() for part, _ in sums))
        assert abs(sums[0][0].sum() - sums[1][0].sum()) < 4 * error
    assert abs(w.sum() / n - 1) < 4 * np.sqrt((w**2).sum()) / n


@pytest.mark.parametrize("at", [{"mu": 1.0}, {"mu": 0.2}, {"mu": 2.0, **ALPHA}])
def test_pseudo_data_follow_rate_and_density(at: dict[str, float]) -> None:
    counts = np.array([len(PLANE.data([5, i], **at)) for i in range(100)])
    expected = PLANE.expected(**at)
    assert abs(counts.mean() - expected) < 4 * np.sqrt(expected / 100)
    assert abs(counts.var(ddof=1) / expected - 1) < 4 * np.sqrt(2 / 99)
    many = Interference(dim=2, signal=6_000, background=16_000).data(3, **at)
    edges = np.array([-np.inf, 0.8, 1.4, 1.8, 2.2, 2.6, 3.0, np.inf])
    fine = np.linspace(-4, 8, 1501)
    # the marginal of x0 from the density of two dimensions
    grid = np.stack(np.meshgrid(fine, np.linspace(-4, 7, 101), indexing="ij"), axis=-1)
    marginal = np.exp(PLANE.log_rate(grid, **at)).sum(1)
    share = np.histogram(fine, edges, weights=marginal / marginal.sum())[0]
    seen = np.histogram(many["x0"], edges)[0]
    chi2 = ((seen - share * len(many)) ** 2 / (share * len(many))).sum()
    assert chi2 < stats.chi2(len(share) - 1).isf(1e-5)
    assert set(np.unique(many.weight)) == {1.0}
    assert many.columns == ("x0", "x1")


def test_seeds_make_samples() -> None:
    one, again, other = (PLANE.data(seed, mu=1.0) for seed in (1, 1, 2))
    np.testing.assert_array_equal(one["x0"], again["x0"])
    assert len(one) != len(other) or (one["x0"] != other["x0"]).any()
    first, second = PLANE.sample("S", 100, seed=1), PLANE.sample("B", 100, seed=1)
    assert not np.isin(first.id, second.id).any()


# -- likelihoods -------------------------------------------------------------------------------------------------------


def test_deviance_is_the_extended_likelihood_and_lowest_at_the_truth_on_average() -> None:
    data = LINE.data(1, mu=1.2)
    at = {"mu": 1.4, **ALPHA}
    written = 2 * LINE.expected(**at) - 2 * np.log(line_rate(data["x0"], 1.4, ALPHA)).sum()
    assert LINE.deviance(data, **at) == pytest.approx(written, abs=1e-5)
    twice = Events.concat([data, data])
    assert LINE.deviance(data.with_weight(2.0), **at) == pytest.approx(LINE.deviance(twice, **at), abs=1e-9)
    toys = [LINE.data([2, i], mu=1.0) for i in range(20)]
    for wrong in ({"mu": 0.6}, {"mu": 1.5}, {"background": 2.0}, {"hardness": 2.0}, {"resolution": 4.0}):
        worse = np.array([LINE.deviance(toy, **wrong) - LINE.deviance(toy) for toy in toys])
        assert worse.mean() > 4 * worse.std(ddof=1) / np.sqrt(len(toys)) - 1e-9


def exact_mixture(problem: Interference, reference: Events, **options: Any) -> Mixture:
    """The log-interpolated model: the exact ratios and their exact variations at -1 and +1."""
    log_reference = lambda e: problem.log_density("B", e)  # noqa: E731
    moved = lambda s, k, v: lambda e: problem.log_density(s, e, **{k: v}) - problem.log_density(s, e)  # noqa: E731
    coefficient = {"S": "mu - sqrt(mu)", "B": "1 - sqrt(mu)", "SBI": "sqrt(mu)"}
    processes = {
        s: Process(
            yields=problem.yields(s), coefficient=coefficient[s],
            ratio=lambda e, s=s: problem.log_density(s, e) - log_reference(e),
            norms={k: tuple(problem.yields(s, **{k: v}) / problem.yields(s) for v in (-1.0, 1.0))
                   for k in problem.nuisances},
            shapes={k: (moved(s, k, -1.0), moved(s, k, 1.0)) for k in problem.nuisances[1:]},
        ) for s in SAMPLES
    }  # fmt: skip
    return Mixture(processes, reference, **options)


def test_the_interpolation_is_exact_at_one_sigma_and_has_an_error_elsewhere() -> None:
    """Root mean square of the error of log rate over the data, by nuisance: the sum over the reference, and beyond."""
    reference = PLANE.sample("B", 4000, seed=1).keep(PLANE.columns)
    model = exact_mixture(PLANE, reference.with_weight(np.abs(reference.weight)), normalise="variations")
    data = PLANE.data(1)

    def error(name: str, value: float) -> float:
        at = {"mu": 0.7, **dict.fromkeys(PLANE.nuisances, 0.0), name: value}
        found = model.log_rate(data, **at) + PLANE.log_density("B", data) - PLANE.log_rate(data, **at)
        return float(np.sqrt((found**2).mean()))

    for name in PLANE.nuisances:
        assert error(name, 0.0) < 1e-9
        assert max(error(name, -1.0), error(name, 1.0)) < 5e-3  # Z over 4,000 events, whose weights differ by a tenth
        assert error(name, 0.5) < 4e-3
    assert error("luminosity", 2.0) < 1e-9  # an exponential, as the interpolation is
    assert 1e-3 < error("resolution", 3.0) < 0.1  # not log-linear: this is the interpolation's own error
    assert error("hardness", 3.0) < 0.1


# -- bad input ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"dim": 6}, "1 to 5 dimensions, found 6"),
        ({"signal": 0.0}, "positive rates, found 0"),
        ({"coherence": 1.0}, r"coherence in \[0, 1\), found 1"),
        ({"negative": 0.5}, "negative: expected a probability"),
        ({"spread": -1.0}, "spread: expected"),
    ],
)
def test_bad_problems_are_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Interference(**options)


def test_bad_calls_are_refused() -> None:
    with pytest.raises(KeyError, match="no parameter 'signa'; closest: 'signal'"):
        PLANE.expected(signa=1.0)
    with pytest.raises(ValueError, match="mu: expected a finite value, from 0, found -1"):
        PLANE.data(1, mu=-1.0)
    with pytest.raises(ValueError, match="scale: expected a finite value, found nan"):
        PLANE.expected(scale=float("nan"))
    with pytest.raises(ValueError, match="sample: expected one of S, B, SBI, found 'I'"):
        PLANE.sample("I", 10, seed=1)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match=r"expected points of shape \(\*, 2\)"):
        PLANE.log_rate(np.zeros((3, 3)))
    with pytest.raises(ValueError, match="whole number of events"):
        PLANE.sample("S", -1, seed=1)
