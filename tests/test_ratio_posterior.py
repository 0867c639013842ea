"""`nuinfer.posterior.ratios`: posteriors of exactly known problems from a ratio, and what its balance does."""

from __future__ import annotations

from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from scipy import stats
from torch.distributions import Gamma, Normal

from nuinfer import MLP, DeepSet, Events, Features, Ragged, Training, losses
from nuinfer.diagnostics.two_sample import c2st
from nuinfer.posterior.likelihoods import fit_rate
from nuinfer.posterior.priors import Prior
from nuinfer.posterior.ratios import RatioPosterior, fit_posterior_ratio
from nuinfer.posterior.samplers import HMC, Slice
from nuinfer.ratio import ParametrisedRatio, fit_parametrised_ratio
from nuinfer.simulators import LinearGaussian

Floats = NDArray[np.float64]

QUICK = Training(epochs=20, batch=256, learning_rate=0.005)
SMALL = MLP(width=32, depth=2)
PROBLEM = LinearGaussian()  # two parameters, three observables
PRIOR = Prior.of({"theta0": Normal(0.0, 1.0), "theta1": Normal(0.0, 1.0)})
X = ["x0", "x1", "x2"]
SHORT = Slice(sweeps=20)


def fitted(simulations: Events, prior: Any, features: Any, **options: Any) -> RatioPosterior:
    usual = {"network": SMALL, "training": QUICK, "sampler": SHORT, "seed": 1, "progress": False}
    return fit_posterior_ratio(simulations, prior, features, **{**usual, **options})


@cache
def linear() -> RatioPosterior:
    return fitted(PROBLEM.simulate(20_000, 1), PRIOR, X)


# -- one row, one observation ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("sampler", [SHORT, HMC(sweeps=20, warmup=60)], ids=["slice", "hmc"])
def test_the_posterior_is_that_of_the_linear_gaussian(sampler: Any) -> None:
    posterior = RatioPosterior(PRIOR, linear().ratio, sampler=sampler)
    observations = PROBLEM.simulate(6, 4).keep(X)
    draws = posterior.draws(640, observations, seed=1)
    mean, covariance = PROBLEM.posterior(observations)
    width = np.sqrt(np.diag(covariance))
    assert abs((draws.mean(1) - mean) / width).max() < 0.3  # 0.04 by the draws, 0.1 by the training
    assert abs(draws.std(1) / width - 1).max() < 0.2
    found = np.array([np.corrcoef(d.T)[0, 1] for d in draws])
    assert abs(found - covariance[0, 1] / width.prod()).max() < 0.2
    assert (abs(0.0 - mean) / width).max() > 2  # the prior knows no observation


def test_a_classifier_does_not_tell_the_draws_from_exact_ones() -> None:
    observation = PROBLEM.simulate(1, 5).keep(X)
    mean, covariance = PROBLEM.posterior(observation)
    exact = np.random.default_rng(1).multivariate_normal(mean[0], covariance, 1000)
    found = RatioPosterior(PRIOR, linear().ratio, sampler=Slice(sweeps=40)).draws(1000, observation, seed=2)[0]
    assert c2st(exact, found).value < 0.57  # 4 sigma of 0.011 above 1/2, and the network's error
    assert c2st(exact, PRIOR.sample(1000, seed=1)).value > 0.7


def test_log_probs_are_prior_times_ratio() -> None:
    prior = {"theta1": (0.0, 2.0), "theta0": (-1.0, 1.0)}  # another order, another prior than the simulations'
    posterior = RatioPosterior(Prior.of(prior), linear().ratio, sampler=SHORT)
    observation = PROBLEM.simulate(1, 6).keep(X)
    theta = np.random.default_rng(1).uniform(0, 1, (5, 2))  # theta1, theta0
    expected = linear().ratio.log(observation.select(np.zeros(5, int)), theta[:, ::-1])
    assert np.allclose(posterior.log_prob(theta, observation), expected - np.log(4), atol=1e-5)
    assert posterior.log_prob([[-0.1, 0.0]], observation)[0] == -np.inf
    draws = posterior.sample(320, observation, seed=1)
    assert 0 < draws["theta1"].min() < draws["theta1"].max() < 2


def test_clouds_go_through_the_network() -> None:
    """Ten hits of N(a, 1) each, seen by a DeepSet: the posterior is N(sum / 11, 1 / 11)."""
    rng = np.random.default_rng(1)
    a = rng.normal(size=4000)
    hits = Events({"a": a, "hits.x": Ragged(rng.normal(np.repeat(a, 10)), np.arange(0, 40001, 10))})
    network = DeepSet(width=16, depth=1, latent=4, pool="mean", head=MLP(width=16, depth=1))
    posterior = fitted(hits, {"a": Normal(0.0, 1.0)}, Features(hits=["x"]), network=network)
    observation = Events({"hits.x": Ragged.of([rng.normal(1.0, 1, 10)])})
    draws = posterior.draws(320, observation, seed=1)[0, :, 0]
    assert abs(draws.mean() - observation["hits.x"].values.sum() / 11) < 0.3 / np.sqrt(11)
    assert abs(draws.std() * np.sqrt(11) - 1) < 0.25


# -- events ------------------------------------------------------------------------------------------------------------


@cache
def of_events() -> RatioPosterior:
    """Events of N(m, 1) in experiments with Poisson(mu) of them."""
    rng = np.random.default_rng(1)
    m, mu = rng.normal(0, 2, 1200), rng.gamma(4, 5, 1200)
    n = rng.poisson(mu)
    x = [rng.normal(a, 1, k) for a, k in zip(m, n, strict=True)]
    simulations = Events({"m": m, "mu": mu, "events.x": Ragged.of(x)})
    prior = {"m": Normal(0.0, 2.0), "mu": Gamma(4.0, 0.2)}
    return fitted(simulations, prior, ["x"], events="events", rate=lambda theta: theta[:, 1], training=Training(
        epochs=15, batch=512, learning_rate=0.005))  # fmt: skip


def test_the_posterior_of_mean_and_rate() -> None:
    """mu | n ~ Gamma(4 + n, 1/5 + 1), m | x ~ N(sum x / (n + 1/4), 1 / (n + 1/4))."""
    rng = np.random.default_rng(3)
    data = Events({"events.x": Ragged.of([rng.normal(0.5, 1, 8), rng.normal(-1.0, 1, 24)])})
    draws = RatioPosterior(of_events().prior, of_events().ratio, "events", of_events().rate, Slice(sweeps=40)).draws(
        1280, data, seed=1
    )
    for i, n in enumerate((8, 24)):
        x, precision = data.select([i])["events.x"].values, n + 0.25
        # the shapes of single events know a little of mu by mistake, and that n times over
        assert abs(draws[i, :, 1].mean() / ((4 + n) / 1.2) - 1) < 0.25
        assert abs(draws[i, :, 0].mean() - x.sum() / precision) * np.sqrt(precision) < 0.6
        assert abs(draws[i, :, 0].std() * np.sqrt(precision) - 1) < 0.2
    assert draws[1, :, 1].mean() > 1.4 * draws[0, :, 1].mean()  # the prior has 20 for both


def test_events_sum_with_their_weights() -> None:
    posterior, theta = of_events(), np.array([[0.0, 10.0], [1.0, 20.0]])
    x, w = np.array([0.2, 1.4, -0.3]), np.array([1.0, 2.0, 0.5])
    data = Events({"events.x": Ragged.of([x]), "events.weight": Ragged.of([w])})
    found = posterior.log_prob(theta, data) - posterior.prior.log_prob(theta)
    each = np.stack([posterior.ratio.log(Events({"x": x}), at) for at in theta])
    assert np.allclose(found, each @ w + 3.5 * np.log(theta[:, 1]) - theta[:, 1], atol=1e-5)


@pytest.mark.parametrize("sampler", [Slice(sweeps=40), HMC(sweeps=40, warmup=40)], ids=["slice", "hmc"])
def test_an_observation_without_events(sampler: Any) -> None:
    """By its rate the flat prior of mu becomes an exponential; without one the posterior is the prior."""
    none, box = Events({"events.x": Ragged.of([[]])}), Prior.of({"m": (-2.0, 2.0), "mu": (1.0, 60.0)})
    even, falling = stats.uniform(1, 59), stats.expon(loc=1)
    for rate, right, wrong in ((of_events().rate, falling, even), (None, even, falling)):
        posterior = RatioPosterior(box, of_events().ratio, "events", rate, sampler)
        draws = posterior.draws(1280, none, seed=1)[0, ::4, 1]
        assert stats.kstest(draws, right.cdf).pvalue > 1e-4
        assert stats.kstest(draws, wrong.cdf).pvalue < 1e-6


def test_folds_are_averaged_for_an_observation() -> None:
    """Also for one that has the id of a training event, whose own fold's network would otherwise answer alone."""
    simulations = PROBLEM.simulate(600, 1)
    posterior = fitted(simulations, PRIOR, X, folds=2, training=Training(epochs=3, batch=100))
    ratio, theta = posterior.ratio, np.array([[0.3, -0.5]])
    observation = simulations.select([3]).keep(X)
    own = ratio.log(observation, theta[0])[0]  # by the network that has not seen it
    other = ratio.learned.model
    both = [
        replace(ratio, learned=replace(ratio.learned, resample=replace(ratio.learned.resample, folds=1),
                model=replace(other, state={name: x[k : k + 1] for name, x in other.state.items()}))).log(
                    observation, theta[0])[0]
        for k in range(2)
    ]  # fmt: skip
    assert abs(both[0] - both[1]) > 0.02
    assert min(abs(own - e) for e in both) < 1e-5
    found = posterior.log_prob(theta, observation)[0] - PRIOR.log_prob(theta)[0]
    assert found == pytest.approx(np.log(np.exp(both).mean()), abs=1e-5)


# -- the balance -------------------------------------------------------------------------------------------------------


def test_the_penalty_is_that_of_a_batch() -> None:
    rng = np.random.default_rng(1)
    f = torch.from_numpy(rng.normal(size=(2, 50)))
    first = (torch.arange(50) < 20).double().expand(2, 50)
    w = (first * torch.rand(50, generator=torch.Generator().manual_seed(1)).double(), 1 - first)
    s = torch.sigmoid(f).numpy()
    means = [np.average(s, axis=1, weights=u[0].numpy()) for u in w]
    exact = 0.5 * 100 * (means[0] + means[1] - 1) ** 2
    both = 0.5 * (w[0] + w[1])
    extra = (losses.Balanced(losses.bce, 100.0)(f, w) - losses.bce(f, w)).sum(1) / both.sum(1)
    assert np.allclose(extra.numpy(), exact)
    assert exact.min() > 1e-3
    # of degree one in the weights: the same in a batch and, with weights that sum to 1, on held-out rows
    scaled = losses.Balanced(losses.bce, 100.0)(f, (w[0] / 7, w[1] / 7))
    assert torch.allclose(7 * scaled, losses.Balanced(losses.bce, 100.0)(f, w))
    alone = (torch.zeros(2, 50, dtype=torch.float64), torch.ones(2, 50, dtype=torch.float64))
    assert torch.equal(losses.Balanced(losses.bce, 100.0)(f, alone), losses.bce(f, alone))
    assert losses.Balanced(losses.bce, 5.0).__name__ == "bce + 5 balance"


def test_the_loss_of_pairs_is_that_of_the_paper() -> None:
    """E_joint[-log s] + E_apart[-log(1 - s)] + lambda (E_joint[s] + E_apart[s] - 1)^2, halved."""
    f = torch.from_numpy(np.random.default_rng(2).normal(0.5, 1, (1, 64)))
    s, first = torch.sigmoid(f)[0], (torch.arange(64) % 2 == 0)
    paper = -s[first].log().mean() - (1 - s[~first]).log().mean() + 100 * (s[first].mean() + s[~first].mean() - 1) ** 2
    own = losses.Balanced(losses.bce, 100.0)(f, (2.0 * first[None], 2.0 * ~first[None])).mean()
    assert torch.allclose(own, paper / 2)


def test_the_exact_ratio_is_balanced() -> None:
    """log r = 2 x of N(1, 1) to N(-1, 1); half and twice the slope are balanced too, a shift is not."""
    x = torch.from_numpy(np.random.default_rng(1).normal(size=(1, 40_000)))
    first = (torch.arange(40_000) % 2 == 0).double()[None]
    f, w = 2 * (x + 2 * first - 1), (2 * first, 2 * (1 - first))

    def penalty(f: torch.Tensor) -> float:
        return float((losses.Balanced(losses.bce, 2.0)(f, w) - losses.bce(f, w)).mean())

    assert penalty(f) < 16 * 2e-6  # four sigma, of variance 0.04 / 20,000
    assert penalty(f + 0.5) > 1e-3


ONE = LinearGaussian(np.ones((8, 1)), noise=4.0)
EIGHT = [f"x{i}" for i in range(8)]


@cache
def from_few(balance: float) -> ParametrisedRatio:
    return fit_parametrised_ratio(
        ONE.simulate(200, 1), ["theta0"], EIGHT, reference="marginal", balance=balance, seed=1, progress=False,
        network=MLP(width=64, depth=3), training=Training(epochs=120, batch=32),
    )  # fmt: skip


def coverage(ratio: ParametrisedRatio, level: float, n: int = 1000) -> float:
    """Of regions of highest density on a grid, for n simulations."""
    test, grid = ONE.simulate(n, 2), np.linspace(-3.5, 3.5, 101)
    logs = ratio.log(test.select(np.repeat(np.arange(n), 101)), np.tile(grid, n)[:, None]).reshape(n, -1) - grid**2 / 2
    own = ratio.log(test, {"theta0": test["theta0"]}) - test["theta0"] ** 2 / 2
    density = np.exp(logs - logs.max(1, keepdims=True))
    above = (density * (logs > own[:, None])).sum(1) / density.sum(1)
    return float((above < level).mean())


def test_a_balanced_ratio_is_cautious_where_a_plain_one_is_too_sure() -> None:
    for level in (0.68, 0.9):
        sigma = np.sqrt(level * (1 - level) / 1000)
        assert coverage(from_few(0.0), level) < level - 4 * sigma
        assert coverage(from_few(100.0), level) > level - 2 * sigma


def test_the_penalty_reaches_its_aim() -> None:
    """The balance of new batches of 32 is some times nearer to 0."""
    test = ONE.simulate(6400, 3)
    theta = test["theta0"]

    def off(ratio: ParametrisedRatio) -> Floats:
        joint, apart = (1 / (1 + np.exp(-ratio.log(test, {"theta0": t}))) for t in (theta, np.roll(theta, 1)))
        return np.asarray((joint + apart).reshape(-1, 16).mean(1) - 1)

    plain, balanced = off(from_few(0.0)), off(from_few(100.0))
    assert np.sqrt((balanced**2).mean()) < 0.6 * np.sqrt((plain**2).mean())
    assert abs(balanced.mean()) < 0.05


def test_balance_is_checked() -> None:
    simulations = PROBLEM.simulate(100, 1)
    options: dict[str, Any] = {"reference": "marginal", "seed": 1, "progress": False}
    with pytest.raises(ValueError, match="balance: expected a number from 0, found -1"):
        fit_parametrised_ratio(simulations, PRIOR.names, X, balance=-1, **options)
    with pytest.raises(ValueError, match="balance: expected weights that are not negative"):
        fit_parametrised_ratio(
            simulations.with_weight(np.where(np.arange(100) < 5, -1, 1)), PRIOR.names, X, balance=1, **options
        )
    score = simulations.with_columns(t0=np.zeros(100), t1=np.zeros(100))
    with pytest.raises(ValueError, match="balance: expected 0 with loss 'cascal', found 5"):
        fit_parametrised_ratio(score, PRIOR.names, X, loss="cascal", joint_score=["t0", "t1"], balance=5, **options)


# -- files and errors --------------------------------------------------------------------------------------------------


def test_files(tmp_path: Path) -> None:
    path, observation = tmp_path / "p.safetensors", PROBLEM.simulate(1, 5).keep(X)
    linear().save(path)
    again = RatioPosterior.load(path)
    assert (repr(again), again.sampler) == (repr(linear()), SHORT)
    assert (again.draws(64, observation, seed=1) == linear().draws(64, observation, seed=1)).all()
    of_events().save(path)
    with pytest.raises(ValueError, match="rate: expected the function that was not saved"):
        RatioPosterior.load(path)
    data = Events({"events.x": Ragged.of([[0.1, 0.2]])})
    again = RatioPosterior.load(path, rate=lambda theta: theta[:, 1])
    assert again.log_prob([[0.0, 3.0]], data) == of_events().log_prob([[0.0, 3.0]], data)


def test_a_fitted_rate_is_saved_too(tmp_path: Path) -> None:
    rng = np.random.default_rng(1)
    mu = rng.uniform(1, 9, 400)
    simulations = Events({"mu": mu, "events.x": Ragged.of([rng.normal(size=k) for k in rng.poisson(mu)])})
    rate = fit_rate(simulations, ["mu"], events="events", training=Training(epochs=2), seed=1, progress=False)
    posterior = fitted(simulations, {"mu": (0.0, 10.0)}, ["x"], events="events", rate=rate, training=Training(epochs=1))
    posterior.save(tmp_path / "p.safetensors")
    data = Events({"events.x": Ragged.of([[0.1, 0.2]])})
    again = RatioPosterior.load(tmp_path / "p.safetensors")
    assert again.log_prob([[3.0]], data) == posterior.log_prob([[3.0]], data)


def test_bad_input() -> None:
    simulations = PROBLEM.simulate(200, 1)
    with pytest.raises(ValueError, match=r"expected theta inside the prior, .* of 200 outside \(row "):
        fitted(simulations, {"theta0": (0.0, 1.0), "theta1": (-9.0, 9.0)}, X)
    with pytest.raises(ValueError, match="rate: expected events="):
        fitted(simulations, PRIOR, X, rate=lambda theta: theta[:, 0])
    with pytest.raises(ValueError, match="events: expected None for a ratio that sees clouds, found 'hits'"):
        fitted(simulations, PRIOR, Features(hits=["x"]), events="hits")
    with pytest.raises(TypeError, match="rate: expected a function of theta"):
        fitted(simulations, PRIOR, X, events="events", rate=3.0)
    with pytest.raises(KeyError, match="no column 'x9'"):
        fitted(simulations, PRIOR, ["x9"])
    with pytest.raises(ValueError, match="prior: expected the parameters theta0, theta1, found a"):
        RatioPosterior(Prior.of({"a": (0.0, 1.0)}), linear().ratio)
    with pytest.raises(KeyError, match="no column 'x0'"):
        linear().draws(10, Events({"y": [1.0]}))
    with pytest.raises(TypeError, match="as a cloud 'events', found flat columns"):
        of_events().draws(10, Events({"events.x": [1.0]}))
