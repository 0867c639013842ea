"""`nuinfer.posterior.likelihoods`: posteriors of exactly known problems, and what weights and rates of events mean."""

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
from torch import Tensor
from torch.distributions import Gamma, Normal

from nuinfer import Events, Ragged, Training
from nuinfer.density import MAF
from nuinfer.diagnostics.two_sample import c2st
from nuinfer.errors import CorruptFile
from nuinfer.posterior.likelihoods import FittedRate, Likelihood, LikelihoodPosterior, fit_likelihood, fit_rate
from nuinfer.posterior.priors import Prior
from nuinfer.posterior.samplers import HMC, Slice
from nuinfer.simulators import LinearGaussian

Floats = NDArray[np.float64]

AFFINE = MAF(transforms=1, width=24, depth=1)
QUICK = Training(epochs=25, batch=256, learning_rate=0.01)
PROBLEM = LinearGaussian()  # two parameters, three observables
PRIOR = Prior.of({"theta0": Normal(0.0, 1.0), "theta1": Normal(0.0, 1.0)})
X = ["x0", "x1", "x2"]
SHORT = Slice(sweeps=20)


@cache
def linear() -> Likelihood:
    return fit_likelihood(
        PROBLEM.simulate(10_000, 1), PRIOR.names, X, network=AFFINE, training=QUICK, seed=1, progress=False
    )


@cache
def of_events(seed: int = 1) -> Likelihood:
    """Events x ~ N(m, 1), with mu of them expected."""
    rng = np.random.default_rng(seed)
    m = rng.uniform(-2, 2, 6000)
    table = Events({"m": m, "mu": rng.uniform(5, 60, 6000), "x": rng.normal(m)})
    return fit_likelihood(
        table, ["m", "mu"], ["x"], events="events", rate=expected, network=AFFINE, training=QUICK, seed=1,
        progress=False,
    )  # fmt: skip


def expected(theta: Tensor) -> Tensor:
    return theta[:, 1]


def experiments(sizes: list[int], m: float, seed: int) -> Events:
    rng = np.random.default_rng(seed)
    return Events({"events.x": Ragged.of([rng.normal(m, 1, n) for n in sizes])})


# -- one row, one observation ------------------------------------------------------------------------------------------


def test_the_likelihood_is_that_of_the_linear_gaussian() -> None:
    rng = np.random.default_rng(2)
    observation = PROBLEM.simulate(1, 3).keep(X)
    mean, covariance = PROBLEM.posterior(observation)
    theta = rng.multivariate_normal(mean[0], covariance, 200)
    found = linear().log_likelihood(theta, observation)
    exact = PROBLEM.log_likelihood(np.stack([observation[x] for x in X], 1), theta)
    assert abs(found - exact).mean() < 0.15
    assert exact.std() > 0.6  # which a constant would not reach
    named = linear().log_likelihood({"theta0": theta[:, 0], "theta1": theta[:, 1]}, observation)
    assert (named == found).all()


@pytest.mark.parametrize("sampler", [SHORT, HMC(sweeps=20, warmup=60)], ids=["slice", "hmc"])
def test_the_posterior_is_that_of_the_linear_gaussian(sampler: Any) -> None:
    posterior = linear().posterior(PRIOR, sampler=sampler)
    observations = PROBLEM.simulate(6, 4).keep(X)
    draws = posterior.draws(640, observations, seed=1)
    mean, covariance = PROBLEM.posterior(observations)
    width = np.sqrt(np.diag(covariance))
    pull = (draws.mean(1) - mean) / width  # draws: 1/sqrt(640) = 0.04; 10,000 simulations: some 0.05
    assert abs(pull).max() < 0.25
    assert abs(draws.std(1) / width - 1).max() < 0.15
    correlation = covariance[0, 1] / width.prod()
    found = np.array([np.corrcoef(d.T)[0, 1] for d in draws])
    assert abs(found - correlation).max() < 0.15
    # the prior is three times as wide, and knows no observation
    assert (abs(0.0 - mean) / width).max() > 2


def test_a_classifier_does_not_tell_the_draws_from_exact_ones() -> None:
    observation = PROBLEM.simulate(1, 5).keep(X)
    mean, covariance = PROBLEM.posterior(observation)
    exact = np.random.default_rng(1).multivariate_normal(mean[0], covariance, 1000)
    found = linear().posterior(PRIOR, sampler=Slice(sweeps=40)).draws(1000, observation, seed=2)[0]
    assert c2st(exact, found).value < 0.56  # 4 sigma of 0.011 above 1/2, and the flow's error
    assert c2st(exact, PRIOR.sample(1000, seed=1)).value > 0.7


def test_log_probs_are_prior_times_likelihood() -> None:
    posterior = linear().posterior({"theta1": (0.0, 2.0), "theta0": (-1.0, 1.0)}, sampler=SHORT)  # another order
    observations = PROBLEM.simulate(2, 6).keep(X)
    theta = np.random.default_rng(1).uniform(0, 1, (2, 5, 2))  # theta1, theta0
    found = posterior.log_probs(theta, observations)
    assert np.allclose(found, linear().log_likelihoods(theta[..., ::-1], observations) - np.log(4), atol=1e-5)
    theta[0, 0] = [-0.1, 0.0]
    assert posterior.log_probs(theta, observations)[0, 0] == -np.inf
    draws = posterior.sample(320, observations.select([0]), seed=1)
    assert draws.columns == ("theta1", "theta0")
    assert draws["theta1"].min() > 0


def test_each_observation_has_its_own_chains() -> None:
    observations = PROBLEM.simulate(3, 7).keep(X)
    chains = linear().posterior(PRIOR, sampler=SHORT).chains(320, observations, seed=1)
    assert chains.samples.shape[:2] == (3, 32)
    assert chains.converged.all()
    assert chains.names == PRIOR.names


# -- events ------------------------------------------------------------------------------------------------------------


def test_events_sum_and_their_number_is_poisson() -> None:
    likelihood = of_events()
    data = experiments([12, 0, 30], 0.5, 1)
    theta = np.array([[[0.3, 20.0], [0.6, 25.0]]] * 3)
    found = likelihood.log_likelihoods(theta, data)
    x = data["events.x"].values
    each = [
        likelihood.density.log_prob(Events({"x": x, "m": np.full(42, m), "mu": np.full(42, mu)})) for m, mu in theta[0]
    ]
    shapes = np.stack([np.add.reduceat(e, [0, 12]) for e in each], 1)
    poisson = np.array([12, 0, 30])[:, None] * np.log(theta[0, :, 1]) - theta[0, :, 1]
    exact = poisson + np.stack([shapes[0], np.zeros(2), shapes[1]])
    assert np.allclose(found, exact, atol=1e-4)
    gauss = [stats.norm(m, 1).logpdf(x).sum() for m, _ in theta[0]]
    assert abs(np.diff(shapes.sum(0)) - np.diff(gauss)) < 0.5


def test_a_weight_of_two_is_the_event_twice_and_of_zero_none() -> None:
    x = np.array([0.3, -1.0, 0.8, 1.1])
    theta = np.array([[0.0, 10.0], [1.0, 4.0]])
    once = Events({"events.x": Ragged.of([[*x, x[1]]])})
    weighted = Events({"events.x": Ragged.of([[*x, 1e30]]), "events.weight": Ragged.of([[1.0, 2.0, 1.0, 1.0, 0.0]])})
    plain = Events({"events.x": Ragged.of([x])})
    found = [of_events().log_likelihood(theta, data) for data in (once, weighted, plain)]
    assert np.allclose(found[0], found[1], atol=1e-5)
    assert abs(found[0] - found[2]).min() > 0.1


def test_the_posterior_of_mean_and_rate() -> None:
    """Events of N(m, 1), m ~ N(0, 4): N; their number Poisson with mu ~ Gamma(4, 1/5): Gamma(4 + n, 1/5 + 1)."""
    prior = {"m": Normal(0.0, 2.0), "mu": Gamma(4.0, 0.2)}
    data = experiments([30, 9], 0.5, 3)
    posterior = of_events().posterior(prior, sampler=Slice(sweeps=40))
    draws = posterior.draws(1280, data, seed=1)
    for i, n in enumerate((30, 9)):
        x = data.select([i])["events.x"].values
        rate, precision = stats.gamma(4 + n, scale=1 / 1.2), n + 0.25
        # the rate does not come out of the flow: exact but for the draws, of which at least 600 are effective
        assert stats.kstest(draws[i, ::2, 1], rate.cdf).pvalue > 1e-4
        assert stats.kstest(draws[i, ::2, 1], stats.gamma(4, scale=5).cdf).pvalue < 1e-6
        assert abs(draws[i, :, 0].mean() - x.sum() / precision) * np.sqrt(precision) < 0.5
        assert abs(draws[i, :, 0].std() * np.sqrt(precision) - 1) < 0.15


def test_without_a_rate_the_number_says_nothing() -> None:
    likelihood = Likelihood(of_events().density, "events")
    theta = np.array([[0.5, 8.0], [0.5, 50.0]])
    found = likelihood.log_likelihood(theta, experiments([20], 0.5, 1))
    assert abs(np.diff(found)) < 1.5  # what the flow believes of a parameter without influence
    assert abs(np.diff(of_events().log_likelihood(theta, experiments([20], 0.5, 1)))) > 5
    assert likelihood.log_likelihood(theta, experiments([0], 0.5, 1)).tolist() == [0.0, 0.0]


@pytest.mark.parametrize("sampler", [Slice(sweeps=40), HMC(sweeps=40, warmup=40)], ids=["slice", "hmc"])
def test_an_observation_without_events(sampler: Any) -> None:
    """By its rate mu ~ U(5, 60) becomes a shifted exponential; without one the posterior is the prior."""
    none = Events({"events.x": Ragged.of([[]])})
    unweighted = Events({"events.x": Ragged.of([[0.3]]), "events.weight": Ragged.of([[0.0]])})
    box = {"m": (-2.0, 2.0), "mu": (5.0, 60.0)}
    even, falling = stats.uniform(5, 55), stats.expon(loc=5)
    for likelihood, right, wrong in ((of_events(), falling, even), (Likelihood(of_events().density, "events"), even,
                                                                    falling)):  # fmt: skip
        for data in (none, unweighted):
            draws = likelihood.posterior(box, sampler=sampler).draws(1280, data, seed=1)[0]
            assert stats.kstest(draws[::4, 1], right.cdf).pvalue > 1e-4
            assert stats.kstest(draws[::4, 1], wrong.cdf).pvalue < 1e-6
            assert stats.kstest(draws[::4, 0], stats.uniform(-2, 4).cdf).pvalue > 1e-4


def test_folds_are_averaged_for_an_observation() -> None:
    """Also for one that has the id of a training event, whose own fold's flow would otherwise answer alone."""
    simulations = PROBLEM.simulate(600, 1)
    short = Training(epochs=3, batch=100, learning_rate=0.01)
    likelihood = fit_likelihood(
        simulations, PRIOR.names, X, folds=2, network=AFFINE, training=short, seed=1, progress=False
    )
    density, theta = likelihood.density, np.array([[0.3, -0.5]])
    observation = simulations.select([3]).keep(X)
    one = replace(density.resample, members=1, folds=1)
    each = [
        replace(density, resample=one, model=replace(density.model, state={
            name: x[k : k + 1] for name, x in density.model.state.items()})).log_probs(
                np.stack([observation[x] for x in X], 1)[None], Events({"theta0": [0.3], "theta1": [-0.5]}))[0, 0]
        for k in range(2)
    ]  # fmt: skip
    assert abs(each[0] - each[1]) > 0.05
    found = likelihood.log_likelihood(theta, observation)[0]
    assert found == pytest.approx(np.log(np.exp(each).mean()), abs=1e-4)
    posterior = likelihood.posterior(PRIOR)
    assert posterior.log_prob(theta, observation)[0] - PRIOR.log_prob(theta)[0] == pytest.approx(found, abs=1e-4)
    known = density.log_prob(simulations.select([3]).with_columns(theta0=[0.3], theta1=[-0.5]))[0]
    assert min(abs(known - e) for e in each) < 1e-4  # what out-of-fold evaluation gives


# -- simulated experiments ---------------------------------------------------------------------------------------------


@cache
def simulated() -> Events:
    """1,500 experiments of mu(a) = 4 + 2 a^2 events of N(a, 1)."""
    rng = np.random.default_rng(4)
    a = rng.uniform(-2, 2, 1500)
    n = rng.poisson(4 + 2 * a**2)
    return Events({"a": a, "events.x": Ragged.of([rng.normal(m, 1, k) for m, k in zip(a, n, strict=True)])})


@cache
def rate() -> FittedRate:
    return fit_rate(simulated(), ["a"], events="events", seed=1, progress=False)


def test_the_rate_is_learned_from_the_numbers() -> None:
    at = np.linspace(-1.8, 1.8, 7)[:, None]
    found, exact = rate().expected(at), 4 + 2 * at[:, 0] ** 2
    # ten thousand events: 1% overall, some 4% in each of seven parts
    assert abs(found / exact - 1).max() < 0.12
    assert abs(exact / exact.mean() - 1).max() > 0.35  # a constant fails
    assert abs(rate().expected(simulated()).sum() / simulated()["events.x"].values.size - 1) < 0.02


def test_weights_of_events_count_in_the_rate() -> None:
    half = simulated()["events.x"]
    weighted = simulated().with_columns({"events.weight": Ragged(np.full(len(half.values), 0.5), half.offsets)})
    found = fit_rate(weighted, ["a"], events="events", seed=1, progress=False)
    assert np.allclose(found.expected([[0.0], [1.0]]), rate().expected([[0.0], [1.0]]) / 2, rtol=1e-4)
    signed = simulated().with_columns({"events.weight": Ragged(np.full(len(half.values), -0.5), half.offsets)})
    with pytest.raises(ValueError, match="events: expected numbers from 0, found -"):
        fit_rate(signed, ["a"], events="events", seed=1, progress=False)
    with pytest.raises(KeyError, match="no columns of a cloud 'hits'"):
        fit_rate(simulated(), ["a"], events="hits", seed=1, progress=False)


@cache
def from_experiments() -> Likelihood:
    return fit_likelihood(
        simulated(), ["a"], ["x"], events="events", rate=rate(), network=AFFINE, training=QUICK, seed=1, progress=False
    )


def test_experiments_give_shape_and_rate() -> None:
    """Compared with the exact posterior on a grid, for three experiments."""
    grid = np.linspace(-2, 2, 801)
    data = Events({"events.x": Ragged.of([[0.4, 1.2, 2.0, 0.9, 1.4, 0.2], [], [-1.0, -2.0]])})
    draws = from_experiments().posterior({"a": (-2.0, 2.0)}, sampler=Slice(sweeps=40)).draws(1280, data, seed=1)[..., 0]
    mu = 4 + 2 * grid**2
    for i in range(3):
        x = data.select([i])["events.x"].values
        logs = stats.norm(grid[:, None], 1).logpdf(x).sum(1) + len(x) * np.log(mu) - mu
        density = np.exp(logs - logs.max())
        density /= density.sum()
        mean = density @ grid
        width = np.sqrt(density @ (grid - mean) ** 2)
        assert abs(draws[i].mean() - mean) < 0.3 * width
        assert abs(draws[i].std() / width - 1) < 0.2
    # six events where four are expected at 0: their number speaks, and the empty experiment is not the prior
    assert draws[1].std() < 0.8 * 4 / np.sqrt(12)


# -- files and errors --------------------------------------------------------------------------------------------------


def test_files(tmp_path: Path) -> None:
    data, theta = Events({"events.x": Ragged.of([[0.1, 0.5]])}), np.array([[0.2], [0.4]])
    likelihood = from_experiments()
    likelihood.save(tmp_path / "l.safetensors")
    assert (Likelihood.load(tmp_path / "l.safetensors").log_likelihood(theta, data)
            == likelihood.log_likelihood(theta, data)).all()  # fmt: skip
    rate().save(tmp_path / "r.safetensors")
    assert (FittedRate.load(tmp_path / "r.safetensors").expected(theta) == rate().expected(theta)).all()
    posterior = likelihood.posterior(
        {"a": (-2.0, 2.0)}, sampler=HMC(sweeps=10, warmup=8, longer=1), allow_unconverged=True
    )
    posterior.save(tmp_path / "p.safetensors")
    again = LikelihoodPosterior.load(tmp_path / "p.safetensors")
    assert (again.sampler, again.allow_unconverged, repr(again)) == (posterior.sampler, True, repr(posterior))
    assert (again.draws(64, data, seed=1) == posterior.draws(64, data, seed=1)).all()
    raw = bytearray((tmp_path / "p.safetensors").read_bytes())
    raw[-1000] ^= 1
    (tmp_path / "p.safetensors").write_bytes(raw)
    with pytest.raises(CorruptFile):
        LikelihoodPosterior.load(tmp_path / "p.safetensors")


def test_a_rate_of_the_users_is_given_again(tmp_path: Path) -> None:
    of_events().save(tmp_path / "l.safetensors")
    with pytest.raises(ValueError, match="rate: expected the function that was not saved, found None"):
        Likelihood.load(tmp_path / "l.safetensors")
    found = Likelihood.load(tmp_path / "l.safetensors", rate=expected)
    data = experiments([5], 0.0, 1)
    assert found.log_likelihood([[0.0, 5.0]], data) == of_events().log_likelihood([[0.0, 5.0]], data)
    linear().save(tmp_path / "l.safetensors")
    with pytest.raises(ValueError, match="rate: expected none"):
        Likelihood.load(tmp_path / "l.safetensors", rate=expected)


def test_bad_input() -> None:
    observation = PROBLEM.simulate(1, 3).keep(X)
    with pytest.raises(ValueError, match="prior: expected the parameters theta0, theta1, found a"):
        linear().posterior({"a": (0.0, 1.0)})
    with pytest.raises(KeyError, match="no column 'x0'"):
        linear().log_likelihood([[0.0, 0.0]], Events({"y": [1.0]}))
    with pytest.raises(ValueError, match="observation: expected one, found 2 rows"):
        linear().log_likelihood([[0.0, 0.0]], PROBLEM.simulate(2, 3))
    with pytest.raises(ValueError, match=r"theta: expected \(M, 2\)"):
        linear().log_likelihood([[0.0]], observation)
    with pytest.raises(ValueError, match="column 'x0': expected finite values"):
        linear().log_likelihood([[0.0, 0.0]], observation.with_columns(x0=[np.nan]))
    with pytest.raises(TypeError, match="events of each row as a cloud 'events', found flat columns"):
        of_events().log_likelihood([[0.0, 5.0]], Events({"events.x": [1.0]}))
    with pytest.raises(KeyError, match=r"no column 'events\.x'"):
        of_events().log_likelihood([[0.0, 5.0]], Events({"x": [1.0]}))
    with pytest.raises(ValueError, match="fields of equal lengths"):
        Likelihood(linear().density, "e").log_likelihood(
            [[0.0, 5.0]], Events({f"e.x{i}": Ragged.of([[0.0] * (1 + (i > 1))]) for i in range(3)})
        )
    with pytest.raises(ValueError, match="one weight for each event"):
        of_events().log_likelihood(
            [[0.0, 5.0]], Events({"events.x": Ragged.of([[0.0]]), "events.weight": Ragged.of([[1.0, 1.0]])})
        )
    with pytest.raises(ValueError, match="rate: expected events="):
        fit_likelihood(PROBLEM.simulate(100, 1), PRIOR.names, X, rate=expected)
    with pytest.raises(ValueError, match="rate: expected numbers from 0, found -1"):
        Likelihood(of_events().density, "events", lambda theta: theta[:, 1] * 0 - 1).log_likelihood(
            [[0.0, 5.0]], experiments([3], 0.0, 1)
        )
    with pytest.raises(ValueError, match=r"rate: expected \(1,\) for as many points, found \(1, 2\)"):
        Likelihood(of_events().density, "events", lambda theta: theta).log_likelihood(
            [[0.0, 5.0]], experiments([3], 0.0, 1)
        )


def test_gradients_reach_theta() -> None:
    target = of_events().of(experiments([4, 7], 0.5, 1))
    theta = torch.tensor([[[0.2, 8.0]], [[0.3, 9.0]]], dtype=torch.float64, requires_grad=True)
    (slope,) = torch.autograd.grad(target(theta).sum(), theta)
    exact = np.array([4 / 8.0 - 1, 7 / 9.0 - 1])
    assert abs(slope[:, 0, 1].numpy() - exact).max() < 0.15  # the flow's own dependence on mu is an error
    assert slope[:, 0, 0].abs().min() > 0.05
