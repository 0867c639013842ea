"""Hand-over to and from sbi and ArviZ: either side's diagnostics take the other's posteriors."""

from __future__ import annotations

import importlib.util
import warnings
from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import ArrayLike, NDArray
from scipy import stats
from torch.distributions import Normal

from nuinfer import Events, Features, Ragged, Training
from nuinfer.density import NSF
from nuinfer.posterior import Posterior, Prior, fit_posterior, from_sbi, to_arviz, to_sbi
from nuinfer.simulators import LinearGaussian

PROBLEM = LinearGaussian([[1.0, 0.5], [0.0, 1.0]], noise=np.diag([0.5, 0.25]))
PRIOR = Prior.of({"theta0": Normal(0.0, 1.0), "theta1": Normal(0.0, 1.0)})


class Exact(Posterior):
    """The exact posterior, its widths multiplied by ``width``."""

    def __init__(self, width: float = 1.0) -> None:
        self.prior, self.width = PRIOR, width

    def _moments(self, data: Events) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        mean, covariance = PROBLEM.posterior(data)
        return mean, np.linalg.cholesky(covariance) * self.width

    def draws(self, n: int, observations: Events, *, seed: int = 0) -> NDArray[np.float64]:
        mean, root = self._moments(observations)
        z = np.random.default_rng(seed).standard_normal((len(observations), n, 2))
        return np.asarray(mean[:, None] + z @ root.T)

    def log_probs(self, theta: ArrayLike, observations: Events) -> NDArray[np.float64]:
        mean, root = self._moments(observations)
        z = np.linalg.solve(root, (np.asarray(theta) - mean[:, None])[..., None])[..., 0]
        return np.asarray(-0.5 * (z**2).sum(-1) - np.log(np.diag(root)).sum() - np.log(2 * np.pi))


def tensors(data: Events) -> tuple[torch.Tensor, torch.Tensor]:
    theta = torch.from_numpy(np.stack([data["theta0"], data["theta1"]], 1)).float()
    return theta, torch.from_numpy(np.stack([data["x0"], data["x1"]], 1)).float()


@pytest.mark.parametrize(("width", "good"), [(1.0, True), (0.6, False)])
def test_sbi_judges_the_ranks(width: float, good: bool) -> None:
    """sbi's SBC on the exact posterior, by marginals and by log_prob, and on one that is too narrow."""
    from sbi.diagnostics import check_sbc, run_sbc

    theta, x = tensors(PROBLEM.simulate(200, 1))
    handed = to_sbi(Exact(width), ["x0", "x1"])
    torch.manual_seed(1)
    for reduce in ("marginals", handed.log_prob):
        ranks, averaged = run_sbc(
            theta, x, handed, num_posterior_samples=100, reduce_fns=reduce, show_progress_bar=False
        )
        checked = check_sbc(ranks, theta, averaged, num_posterior_samples=100)
        assert (float(checked["ks_pvals"].min()) > 1e-3) is good


@pytest.mark.parametrize(("width", "good"), [(1.0, True), (0.6, False)])
def test_sbi_judges_tarp(width: float, good: bool) -> None:
    from sbi.diagnostics import check_tarp, run_tarp

    theta, x = tensors(PROBLEM.simulate(500, 2))
    torch.manual_seed(1)
    coverage, alpha = run_tarp(theta, x, to_sbi(Exact(width), ["x0", "x1"]), num_posterior_samples=200,
                               show_progress_bar=False)  # fmt: skip
    _, p = check_tarp(coverage, alpha)
    assert float((coverage - alpha).abs().max()) < 0.1 if good else float((coverage - alpha).abs().max()) > 0.1
    assert np.isfinite(p)


@pytest.mark.parametrize(("width", "good"), [(1.0, True), (0.4, False)])
def test_sbi_judges_one_observation(width: float, good: bool) -> None:
    """L-C2ST of sbi on draws of the exact posterior, and on those of one that is too narrow."""
    from sbi.diagnostics.lc2st import LC2ST

    theta, x = tensors(PROBLEM.simulate(400, 3))
    handed = to_sbi(Exact(width), ["x0", "x1"])
    torch.manual_seed(1)
    drawn = handed.sample_batched((1,), x)[0]
    options = {"hidden_layer_sizes": (16,), "max_iter": 60, "solver": "lbfgs"}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # 60 iterations are enough here, and no convergence
        judge = LC2ST(theta, x, drawn, seed=1, num_trials_null=19, classifier="mlp", classifier_kwargs=options)
        judge.train_on_observed_data(verbosity=0).train_under_null_hypothesis(verbosity=0)
    at = torch.zeros(1, 2)
    p = judge.p_value(handed.sample((200,), x=at), at)
    assert p > 0.05 if good else p == 0


def test_float32_keeps_draws_inside_the_prior() -> None:
    """Between 0.1 and 1.2: float32(1.2) lies outside, where the posterior has no density."""

    class Flat(Posterior):
        def __init__(self) -> None:
            self.prior = Prior.of({"t": (0.1, 1.2), "free": Normal(0.0, 1.0)})

        def draws(self, n: int, observations: Events, *, seed: int = 0) -> NDArray[np.float64]:
            ends = np.nextafter([0.1, 1.2], [1.0, 0.0])
            return np.stack([np.resize(ends, (len(observations), n)), np.zeros((len(observations), n))], -1)

        def log_probs(self, theta: ArrayLike, observations: Events) -> NDArray[np.float64]:
            return np.asarray(self.prior.log_prob(theta))

    handed, x = to_sbi(Flat(), ["x"]), torch.zeros(1, 1)
    drawn = handed.sample((10,), x=x)
    assert drawn.dtype == torch.float32
    assert ((drawn[:, 0].double() > 0.1) & (drawn[:, 0].double() < 1.2)).all()
    assert handed.log_prob(drawn, x=x).isfinite().all()
    edges = torch.tensor([[0.1, 0.0], [1.2, 0.0]])  # as sbi's own priors give them
    assert edges[1, 0].item() > 1.2
    assert handed.log_prob(edges, x=x).isfinite().all()
    assert handed.log_prob_batched(edges[:, None], x).isfinite().all()
    beyond = torch.nextafter(edges, torch.tensor([[-1.0, 0.0], [2.0, 0.0]]))
    assert torch.isneginf(handed.log_prob(beyond, x=x)).all()
    np.testing.assert_allclose(handed.log_prob(edges, x=x), stats.norm.logpdf(0) - np.log(1.1), rtol=1e-6)


def test_draws_and_densities_are_the_same() -> None:
    data, exact = PROBLEM.simulate(4, 3), Exact()
    theta, x = tensors(data)
    handed = to_sbi(exact, ["x0", "x1"])
    torch.manual_seed(2)
    batched = handed.sample_batched((3000,), x)
    assert batched.shape == (3000, 4, 2)
    mean, covariance = PROBLEM.posterior(data)
    assert np.abs((batched.mean(0).numpy() - mean) / np.sqrt(np.diag(covariance) / 3000)).max() < 4.5
    torch.manual_seed(2)
    assert torch.equal(handed.sample_batched((3000,), x), batched)
    handed.set_default_x(x[:1])
    assert handed.sample((7,)).shape == (7, 2)
    np.testing.assert_allclose(handed.log_prob(theta), exact.log_prob(theta.double(), data.select([0])), rtol=1e-5)
    both = handed.log_prob_batched(theta.expand(5, 4, 2), x)
    assert both.shape == (5, 4)
    own = exact.log_probs(theta.double().numpy()[:, None], data)[:, 0]
    np.testing.assert_allclose(both[2], own, rtol=1e-4, atol=1e-5)


def test_clouds_go_by_number() -> None:
    """A posterior of clouds is handed over with its observations, which x numbers."""
    rng = np.random.default_rng(1)
    mu, counts = rng.standard_normal(300), rng.poisson(5, 300) + 1
    values = np.split(np.repeat(mu, counts) + rng.standard_normal(counts.sum()), np.cumsum(counts)[:-1])
    data = Events({"mu": mu, "event.x": Ragged.of(values)})
    q = fit_posterior(data, {"mu": Normal(0.0, 1.0)}, Features(event=["x"]), members=1,
                      network=NSF(transforms=1, width=8), training=Training(epochs=2, batch=100),
                      progress=False)  # fmt: skip
    handed = to_sbi(q, observations=data)
    torch.manual_seed(1)
    seed = int(torch.randint(0, 2**62, ()).item())
    torch.manual_seed(1)
    found = handed.sample_batched((10,), torch.tensor([[3.0], [7.0]]))
    np.testing.assert_allclose(found[:, 1], q.draws(10, data.select([3, 7]), seed=seed)[1], rtol=1e-6)
    with pytest.raises(TypeError, match="clouds"):
        to_sbi(q)
    with pytest.raises(ValueError, match="row numbers"):
        handed.sample((5,), x=torch.tensor([[300.0]]))


def test_one_of_sbis_comes_here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """sbi's NPE on the same simulations: its moments are the exact ones here too."""
    monkeypatch.chdir(tmp_path)  # sbi writes its logs where it is
    from sbi.inference import NPE

    data = PROBLEM.simulate(2000, 1)
    theta, x = tensors(data)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.manual_seed(1)
        inference = NPE(prior=PRIOR.distribution(), density_estimator="maf", show_progress_bars=False)
        inference.append_simulations(theta, x).train(max_num_epochs=30, training_batch_size=200)
        theirs = inference.build_posterior()
    ours = from_sbi(theirs, PRIOR, ["x0", "x1"])
    at = PROBLEM.simulate(3, 5)
    state = torch.random.get_rng_state()
    draws = ours.draws(2000, at, seed=1)
    assert torch.equal(torch.random.get_rng_state(), state)
    assert np.array_equal(draws, ours.draws(2000, at, seed=1))
    mean, covariance = PROBLEM.posterior(at)
    width = np.sqrt(np.diag(covariance))
    assert np.abs((draws.mean(1) - mean) / width).max() < 0.6
    logs = ours.log_probs(draws[:, :50], at)
    assert abs(float((logs - Exact().log_probs(draws[:, :50], at)).mean())) < 0.3
    assert ours.sample(10, at.select([0])).columns == ("theta0", "theta1")


def test_wrong_things_are_refused() -> None:
    with pytest.raises(TypeError, match="columns: expected the columns"):
        to_sbi(Exact())
    with pytest.raises(ValueError, match=r"x: expected \(B, 2\)"):
        to_sbi(Exact(), ["x0", "x1"]).sample((5,), x=torch.zeros(1, 3))
    with pytest.raises(TypeError, match="expected one of sbi's"):
        from_sbi(object(), PRIOR, ["x0"])
    with pytest.raises(TypeError, match="single string"):
        from_sbi(to_sbi(Exact(), ["x0", "x1"]), PRIOR, "x0")
    with pytest.raises(ValueError, match="chains, n, P"):
        to_arviz(np.zeros((3, 2)), ["a"])


def test_arviz_takes_the_draws() -> None:
    if importlib.util.find_spec("arviz") is None:
        with pytest.raises(ModuleNotFoundError, match=r"nuinfer\[arviz\]"):
            to_arviz(np.zeros((3, 1)), ["a"])
        pytest.skip("arviz is not installed")
    draws = Exact().sample(100, PROBLEM.simulate(1, 1), seed=1)
    found = to_arviz(draws, observation=PROBLEM.simulate(1, 1))
    np.testing.assert_array_equal(np.asarray(found["posterior"]["theta0"])[0], draws["theta0"])
    assert float(np.asarray(found["observed_data"]["x0"])[0]) == PROBLEM.simulate(1, 1)["x0"][0]
    chains = to_arviz(np.arange(24.0).reshape(2, 4, 3), ["a", "b", "c"])
    assert np.asarray(chains["posterior"]["b"]).tolist() == [[1.0, 4.0, 7.0, 10.0], [13.0, 16.0, 19.0, 22.0]]
