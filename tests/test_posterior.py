"""Neural posteriors against exact ones."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import ArrayLike, NDArray
from scipy.stats import multivariate_normal, norm
from torch.distributions import Categorical, MixtureSameFamily, MultivariateNormal, Normal, Uniform

from nuinfer import MLP, DeepSet, Events, Features, Ragged, Training, diagnostics
from nuinfer.density import NSF
from nuinfer.posterior import NeuralPosterior, Posterior, Prior, fit_posterior
from nuinfer.simulators import LinearGaussian

PROBLEM = LinearGaussian([[1.0, 0.5], [0.0, 1.0]], noise=np.diag([0.5, 0.25]))  # theta ~ N(0, 1), x = A theta + N
PRIOR = {"theta0": Normal(0.0, 1.0), "theta1": Normal(0.0, 1.0)}
QUICK = Training(epochs=20, batch=128, learning_rate=5e-3)


@pytest.fixture(scope="module")
def posterior() -> NeuralPosterior:
    return fit_posterior(PROBLEM.simulate(6000, 1), PRIOR, ["x0", "x1"], network=NSF(transforms=1, width=32),
                         members=2, training=QUICK, seed=1, progress=False)  # fmt: skip


def test_moments_are_the_exact_ones(posterior: NeuralPosterior) -> None:
    """Of 4,000 draws at 20 observations; the widths of the prior differ by many times the tolerance."""
    data = PROBLEM.simulate(20, 2)
    draws = posterior.draws(4000, data, seed=3)
    assert draws.shape == (20, 4000, 2)
    means, covariance = PROBLEM.posterior(data)
    width = np.sqrt(np.diag(covariance))
    assert np.abs((draws.mean(1) - means) / width).max() < 0.3
    np.testing.assert_allclose(draws.std(1).mean(0), width, rtol=0.05)
    np.testing.assert_allclose(draws.std(1), np.broadcast_to(width, (20, 2)), rtol=0.2)
    assert np.abs(means / width).max() > 1.5  # the prior's mean is far off


def test_the_mean_log_density_is_the_exact_one(posterior: NeuralPosterior) -> None:
    """Within 0.05 nats, on 4,000 new simulations; the prior is off by more than half a nat."""
    data = PROBLEM.simulate(4000, 4)
    theta = np.stack([data["theta0"], data["theta1"]], 1)
    found = posterior.log_probs(theta[:, None], data)[:, 0]
    means, covariance = PROBLEM.posterior(data)
    exact = multivariate_normal(np.zeros(2), covariance).logpdf(theta - means)
    assert float((exact - found).mean()) + 3 * float((exact - found).std()) / 4000**0.5 >= 0
    assert float((exact - found).mean()) < 0.05
    assert float((exact - Prior.of(PRIOR).log_prob(theta)).mean()) > 0.5


class PriorAlone(Posterior):
    """The prior in place of the posterior."""

    def __init__(self) -> None:
        self.prior = Prior.of(PRIOR)

    def draws(self, n: int, observations: Events, *, seed: int = 0) -> NDArray[np.float64]:
        return self.prior.sample(n * len(observations), seed=seed).reshape(len(observations), n, 2)

    def log_probs(self, theta: ArrayLike, observations: Events) -> NDArray[np.float64]:
        return self.prior.log_prob(theta)


def test_the_diagnostics_tell_it_from_the_prior(posterior: NeuralPosterior) -> None:
    """Ranks, TARP and C2ST on 600 new simulations; the prior passes the ranks and fails the other two."""
    fresh, at = PROBLEM.simulate(600, 11), Events({"x0": [1.5], "x1": [-1.0]})
    mean, covariance = PROBLEM.posterior(at)
    exact = np.random.default_rng(1).multivariate_normal(mean[0], covariance, 2000)
    for which, good in ((posterior, True), (PriorAlone(), False)):
        assert diagnostics.sbc(which, fresh, draws=99, seed=1).p_value > 1e-3
        assert (diagnostics.tarp(which, fresh, draws=99, seed=1).p_value > 1e-3) is good
        score = diagnostics.c2st(exact, which.draws(2000, at, seed=2)[0], training=Training(epochs=20, batch=200)).value
        # 4,000 points: accuracy is known to 0.008
        assert score < 0.56 if good else score > 0.65


def test_two_scales_at_once() -> None:
    """x = theta + N(0, 1) or N(0, 0.1^2), evenly: the posterior of a flat prior is the same mixture about x."""
    rng = np.random.default_rng(5)
    theta, scale = rng.uniform(-5, 5, 6_000), np.where(rng.random(6_000) < 0.5, 1.0, 0.1)
    simulations = Events({"t": theta, "x": theta + scale * rng.standard_normal(6_000)})
    q = fit_posterior(simulations, {"t": (-5, 5)}, ["x"], network=NSF(transforms=2, width=32), members=2,
                      training=Training(epochs=25, batch=128, learning_rate=1e-2, average=2.0), seed=1,
                      progress=False)  # fmt: skip
    at = Events({"x": [1.0]})
    grid = np.linspace(-4.99, 4.99, 4000)
    exact = 0.5 * norm.pdf(grid, 1, 1) + 0.5 * norm.pdf(grid, 1, 0.1)
    cell = grid[1] - grid[0]

    def distance(density: NDArray[np.float64]) -> float:
        return float(0.5 * np.abs(density - exact).sum() * cell)

    spread = float(np.sqrt(0.5 * (1 + 0.01)))
    assert distance(np.exp(q.log_prob(grid[:, None], at))) < 0.1
    assert distance(norm.pdf(grid, 1, spread)) > 0.3  # a normal of the same moments


def test_draws_follow_the_density(posterior: NeuralPosterior) -> None:
    """The mean of log q at the draws is the integral of q log q on a grid."""
    at = Events({"x0": [0.5], "x1": [-1.0]})
    axis = np.linspace(-5, 5, 401)
    grid = np.stack(np.meshgrid(axis, axis, indexing="ij"), -1).reshape(-1, 2)
    logs = posterior.log_prob(grid, at)
    cell = (axis[1] - axis[0]) ** 2
    assert np.exp(logs).sum() * cell == pytest.approx(1, abs=2e-3)
    drawn = posterior.log_prob(posterior.sample(20_000, at, seed=1), at)
    entropy = (np.exp(logs) * logs).sum() * cell
    assert abs(drawn.mean() - entropy) < 4 * drawn.std() / 20_000**0.5 + 2e-3


def test_the_maximum_and_the_regions(posterior: NeuralPosterior) -> None:
    at = Events({"x0": [0.5], "x1": [-1.0]})
    best = posterior.map(at, seed=1)
    top = posterior.log_prob(best, at)[0]
    draws = posterior.sample(5000, at, seed=2)
    assert top >= posterior.log_prob(draws, at).max() - 1e-9
    region = posterior.credible_region(at, levels=(0.5, 0.9), draws=20_000, seed=3)
    inside = region.contains(np.stack([draws[name] for name in posterior.names], 1))
    for share, level in zip(inside.mean(1), (0.5, 0.9), strict=True):
        assert abs(share - level) < 4 * (level * (1 - level) * (1 / 5000 + 1 / 20_000)) ** 0.5
    half = 1.645 * np.sqrt(np.diag(PROBLEM.posterior(at)[1]))
    np.testing.assert_allclose(np.diff(region.shortest[1], axis=1)[:, 0], 2 * half, rtol=0.15)
    assert {"theta1:", "90%"} <= set(str(region).split())


def test_draws_at_the_edge_of_a_region_are_inside(posterior: NeuralPosterior) -> None:
    """The edge is the density of a draw, which float32 gives in other last digits when it is asked about alone."""
    for seed in range(10):
        region = posterior.credible_region(
            Events({"x0": [0.5], "x1": [-1.0]}), levels=(0.1, 0.5, 0.9), draws=101, seed=seed
        )
        held = region.log_prob >= region.thresholds[:, None]
        assert held.sum(1).tolist() == [11, 51, 91]
        alone = np.concatenate([region.contains(point) for point in region.draws[:, None]], 1)
        assert alone[held].all()
        assert (region.contains(region.draws) >= held).all()
        assert alone.sum() - held.sum() <= 1  # and hardly another


def test_no_mass_leaves_a_box() -> None:
    """A uniform prior whose edge cuts the likelihood: x = theta + N(0, 0.3^2), exact: a truncated normal."""
    rng = np.random.default_rng(1)
    theta = rng.uniform(0, 1, 8000)
    simulations = Events({"t": theta, "x": theta + 0.3 * rng.standard_normal(8000)})
    q = fit_posterior(simulations, {"t": (0, 1)}, ["x"], network=NSF(transforms=1, width=32), members=2,
                      training=QUICK, seed=1, progress=False)  # fmt: skip
    at = Events({"x": [-0.2]})
    draws = q.sample(20_000, at, seed=1)["t"]
    assert 0 < draws.min() < draws.max() < 1
    grid = np.linspace(0, 1, 2002)[1:-1]
    exact = np.exp(-0.5 * ((grid + 0.2) / 0.3) ** 2)
    exact /= exact.sum() * (grid[1] - grid[0])
    found = np.exp(q.log_prob(grid[:, None], at))
    assert found.sum() * (grid[1] - grid[0]) == pytest.approx(1, abs=5e-3)
    assert 0.5 * np.abs(found - exact).sum() * (grid[1] - grid[0]) < 0.06
    assert 0.5 * np.abs(1 - exact).sum() * (grid[1] - grid[0]) > 0.3  # the prior
    assert (q.log_prob(np.array([[-0.01], [1.01]]), at) == -np.inf).all()


def experiments(n: int, seed: int) -> Events:
    """Clouds of Poisson(20) events from N(mu, 1), mu ~ N(0, 1): exact N(sum x / (n + 1), 1 / (n + 1))."""
    rng = np.random.default_rng(seed)
    mu, counts = rng.standard_normal(n), rng.poisson(20, n)
    values = np.repeat(mu, counts) + rng.standard_normal(counts.sum())
    return Events({"mu": mu, "event.x": Ragged(values, np.concatenate([[0], np.cumsum(counts)]))})


def test_a_cloud_is_an_experiment() -> None:
    """The sum over a cloud is learned, and the length of the cloud sets the width."""
    q = fit_posterior(
        experiments(6000, 1), {"mu": Normal(0.0, 1.0)}, Features(event=["x"]), network=NSF(transforms=1, width=32),
        embedding=DeepSet(width=32, depth=1, latent=16, head=MLP(width=32, depth=1)), summaries=4, members=2,
        training=Training(epochs=25, batch=128, learning_rate=5e-3), seed=1, progress=False,
    )  # fmt: skip
    data = experiments(200, 2)
    clouds = data.ragged("event.x")
    counts = clouds.counts
    sums = np.add.reduceat(clouds.values, clouds.offsets[:-1])
    draws = q.draws(500, data, seed=1)[..., 0]
    exact_mean, exact_sd = sums / (counts + 1), 1 / np.sqrt(counts + 1)
    pull = (draws.mean(1) - exact_mean) / exact_sd
    assert abs(pull.mean()) < 0.2
    assert pull.std() < 0.35
    assert abs((draws.std(1) / exact_sd).mean() - 1) < 0.08
    assert np.std(exact_mean) > 2 * exact_sd.mean()
    assert q.summaries(data).shape == (200, 4)


def test_a_proposal_is_undone_by_weights() -> None:
    """theta from a proposal that is off; without the weights the answer is the proposal's posterior."""
    rng = np.random.default_rng(3)
    theta = 1.0 + 0.8 * rng.standard_normal(12_000)
    simulations = Events({"t": theta, "x": theta + rng.standard_normal(12_000)})
    kept = simulations.select(np.abs(theta) < 2.5)
    prior, proposal = Prior.of({"t": Normal(0.0, 0.6)}), Prior.of({"t": Normal(1.0, 0.8)})
    at = Events({"x": [0.5]})
    means = []
    for given in (proposal, None):
        q = fit_posterior(kept, prior, ["x"], proposal=given, network=NSF(transforms=1, width=16), members=2,
                          training=QUICK, seed=1, progress=False)  # fmt: skip
        means.append(q.sample(4000, at, seed=1)["t"].mean())
    exact, wrong = 0.5 * 0.36 / 1.36, (0.5 * 0.64 + 1.0) / 1.64
    assert abs(means[0] - exact) < 0.08
    assert abs(means[1] - wrong) < 0.15
    assert wrong - exact > 0.5


def test_a_prior_with_a_hole_has_no_draws_in_it() -> None:
    """Its support is less than its box, which is all that a transform knows."""
    two = MixtureSameFamily(Categorical(torch.ones(2)), Uniform(torch.tensor([0.0, 2.0]), torch.tensor([1.0, 3.0])))
    prior, rng = Prior.of({"t": two}), np.random.default_rng(1)
    theta = prior.sample(2000, seed=1)[:, 0]
    simulations = Events({"t": theta, "x": theta + 0.5 * rng.standard_normal(2000)})
    q = fit_posterior(simulations, prior, ["x"], network=NSF(transforms=1, width=16), members=1,
                      training=Training(epochs=5, batch=100), seed=1, progress=False)  # fmt: skip
    at = Events({"x": [1.5]})
    assert q.density.draws(500, at, seed=1).shape == (1, 500, 1)
    draws = q.draws(500, at, seed=1)
    assert ((draws < 1) | (draws > 2)).all()
    assert q.log_prob(np.array([[1.5]]), at)[0] == -np.inf


def test_a_truncated_prior_keeps_its_draws_inside() -> None:
    prior = Prior.of(PRIOR).restricted(lambda theta: theta[:, 0] > 0)
    data = PROBLEM.simulate(3000, 5)
    inside = data.select(data["theta0"] > 0)
    q = fit_posterior(inside, prior, ["x0", "x1"], network=NSF(transforms=1, width=16), members=1, training=QUICK,
                      seed=1, progress=False)  # fmt: skip
    at = Events({"x0": [-0.5, 0.5], "x1": [0.0, 0.0]})
    draws = q.draws(2000, at, seed=1)
    assert (draws[..., 0] > 0).all()
    assert (q.log_prob(np.array([[-0.1, 0.0]]), at.select([0])) == -np.inf).all()
    assert len(np.unique(draws[..., 0])) == 4000
    with pytest.raises(ValueError, match="outside"):
        fit_posterior(data, prior, ["x0", "x1"], progress=False)


def test_saved_and_loaded(posterior: NeuralPosterior, tmp_path: object) -> None:
    path = f"{tmp_path}/posterior.safetensors"
    posterior.save(path)
    again = NeuralPosterior.load(path)
    at = Events({"x0": [0.5], "x1": [-1.0]})
    assert np.array_equal(again.draws(50, at, seed=1), posterior.draws(50, at, seed=1))
    theta = np.zeros((3, 2))
    assert np.array_equal(again.log_prob(theta, at), posterior.log_prob(theta, at))
    assert repr(again) == repr(posterior)
    assert again.prior.names == ("theta0", "theta1")


def test_the_tensor_twin(posterior: NeuralPosterior) -> None:
    theta = torch.tensor([[0.3, -0.2]], dtype=torch.float64, requires_grad=True)
    x = torch.tensor([[0.5, -1.0]])
    found = posterior.tensor(theta, x)
    (slope,) = torch.autograd.grad(found.sum(), theta)
    at = Events({"x0": [0.5], "x1": [-1.0]})
    step = 1e-3
    points = np.array([[0.3 + step, -0.2], [0.3 - step, -0.2], [0.3, -0.2]])
    up, down, here = posterior.log_prob(points, at)
    assert float(found.detach()) == pytest.approx(here, abs=1e-4)
    assert float(slope[0, 0]) == pytest.approx((up - down) / (2 * step), abs=0.02)


def test_bad_input(posterior: NeuralPosterior) -> None:
    data, at = PROBLEM.simulate(200, 1), Events({"x0": [0.5], "x1": [-1.0]})
    with pytest.raises(ValueError, match=r"inside the prior.*found .* of 200 outside \(row"):
        fit_posterior(data, {"theta0": (-0.5, 0.5), "theta1": (-9, 9)}, ["x0", "x1"], progress=False)
    with pytest.raises(KeyError, match="theta7"):
        fit_posterior(data, {"theta7": (-9, 9)}, ["x0"], progress=False)
    for name in ("x0", "theta0"):
        bad = data.with_columns({name: np.where(np.arange(200) == 3, np.nan, data[name])})
        with pytest.raises(ValueError, match="rows 3"):
            fit_posterior(bad, PRIOR, ["x0"], progress=False)
    with pytest.raises(ValueError, match="both"):
        fit_posterior(data, PRIOR, ["x0", "theta0"], progress=False)
    with pytest.raises(ValueError, match="parameters of the prior"):
        fit_posterior(data, PRIOR, ["x0"], proposal={"theta0": Normal(0.0, 1.0)}, progress=False)
    half = Events({"t": np.linspace(0.01, 0.49, 200), "x": np.linspace(0.0, 0.5, 200)})
    with pytest.raises(ValueError, match=r"covers the prior, found a mean of prior over proposal of 0\.5"):
        fit_posterior(half, {"t": (0, 1)}, ["x"], proposal={"t": (0, 0.5)}, progress=False)
    with pytest.raises(ValueError, match="scaling: expected 'moments' or 'ranks'"):
        fit_posterior(data, PRIOR, ["x0"], scaling="rank", progress=False)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="theta: expected finite"):
        posterior.log_prob(np.array([[np.nan, 0.0]]), at)
    with pytest.raises(ValueError, match="drawn from"):
        fit_posterior(data, PRIOR, ["x0"], proposal={"theta0": (0, 1), "theta1": (0, 1)}, progress=False)
    with pytest.raises(ValueError, match=r"bounds|finite"):
        fit_posterior(data, {"theta0": (0, np.inf), "theta1": (0, 1)}, ["x0"], progress=False)
    with pytest.raises(KeyError, match="x1"):
        posterior.sample(10, Events({"x0": [0.5]}))
    with pytest.raises(ValueError, match="expected one, found 2"):
        posterior.sample(10, at.select([0, 0]))
    with pytest.raises(TypeError, match="expected Events"):
        posterior.sample(10, np.zeros(2))  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="n: expected"):
        posterior.draws(0, at)
    with pytest.raises(ValueError, match=r"theta: expected \(M, 2\)"):
        posterior.log_prob(np.zeros((4, 3)), at)
    with pytest.raises(ValueError, match=r"theta: expected \(1, M, 2\)"):
        posterior.log_probs(np.zeros((4, 2)), at)
    with pytest.raises(KeyError, match="expected the parameters"):
        posterior.log_prob({"theta0": 0.0}, at)
    with pytest.raises(ValueError, match="levels"):
        posterior.credible_region(at, levels=(68.0,))


def test_a_joint_prior() -> None:
    joint = Prior.of(MultivariateNormal(torch.zeros(2), torch.eye(2)), names=["theta0", "theta1"])
    q = fit_posterior(PROBLEM.simulate(500, 1), joint, ["x0", "x1"], network=NSF(transforms=1, width=8), members=1,
                      training=Training(epochs=2, batch=128), progress=False)  # fmt: skip
    assert q.names == ("theta0", "theta1")
    assert "theta0" in repr(q)


def test_the_page_of_the_guide_runs(root: Path) -> None:
    """All its blocks, one after the other."""
    page = (root / "docs" / "guide" / "posteriors.md").read_text(encoding="utf-8")
    blocks = re.findall(r"```python\n(.*?)```", page, re.DOTALL)
    names: dict[str, Any] = {}
    for block in blocks:
        exec(compile(block, "posteriors.md", "exec"), names)
    assert len(blocks) >= 3
    assert abs(names["draws"]["sin2"].mean() - (1 - 250 / 400 / 1.025) / 0.8) < 0.1
    (interval,) = names["found"].interval()
    assert interval[0] < 0.49 < interval[1]


@pytest.mark.slow
@pytest.mark.parametrize("ragged", [False, True])
def test_expected_coverage_full_size(ragged: bool) -> None:
    """68% and 90% regions within 2% on 5,000 simulated observations, flat and ragged, with the default settings."""
    if ragged:
        simulations, fresh = experiments(20_000, 1), experiments(5_000, 2)
        q = fit_posterior(simulations, {"mu": Normal(0.0, 1.0)}, Features(event=["x"]), seed=1, progress=False)
    else:
        simulations, fresh = PROBLEM.simulate(20_000, 1), PROBLEM.simulate(5_000, 2)
        q = fit_posterior(simulations, PRIOR, ["x0", "x1"], seed=1, progress=False)
    found = diagnostics.coverage(q, fresh, levels=(0.68, 0.9), draws=200, seed=1)
    print(f"\n{'ragged' if ragged else 'flat'}:\n{found}")
    assert np.abs(np.asarray(found.observed) - [0.68, 0.9]).max() < 0.02
