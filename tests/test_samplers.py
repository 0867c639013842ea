"""`nuinfer.posterior.samplers`: chains against closed forms, and what the diagnostics say of wrong ones."""

from __future__ import annotations

import logging
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from scipy import stats
from torch import Tensor
from torch.distributions import Normal

from nuinfer.density.columns import Column
from nuinfer.errors import NotConverged
from nuinfer.metrics import rank_uniformity, ranks
from nuinfer.posterior import chains as diagnostics
from nuinfer.posterior import moves, samplers
from nuinfer.posterior.chains import Chains, effective_sizes, split_rhat
from nuinfer.posterior.priors import Prior
from nuinfer.posterior.samplers import HMC, Slice, run_chains
from nuinfer.simulators import LinearGaussian

Floats = NDArray[np.float64]
SAMPLERS = [Slice(), HMC()]
QUICK = Slice(sweeps=10, longer=32)
WIDE = Prior.of({"a": (-20.0, 20.0), "b": (-20.0, 20.0)})
COVARIANCE = np.array([[1.0, 0.95 * 0.2], [0.95 * 0.2, 0.04]])  # correlated to 95%, widths 1 and 0.2


def pulls(values: Floats, exact: Floats) -> Floats:
    """Of the means of values (C, L, D), by the spread of the chains' own means: Student's t of C - 1."""
    means = values.mean(1)
    return np.asarray((means.mean(0) - exact) / (means.std(0, ddof=1) / np.sqrt(len(means))))


def gaussian(mean: Floats, covariance: Floats) -> Any:
    precision, centre = torch.from_numpy(np.linalg.inv(covariance)), torch.from_numpy(mean)

    def log_density(theta: Tensor) -> Tensor:
        d = theta - centre
        return -0.5 * torch.einsum("nci,ij,ncj->nc", d, precision, d)

    return log_density


def moments(chains: Chains, n: int = 0, about: tuple[float, float] = (0.0, 0.0)) -> Floats:
    """Distances from a point, and their squares and product (C, L, D), of one observation with two parameters."""
    a, b = (chains.samples[n, ..., i] - centre for i, centre in enumerate(about))
    return np.stack([a, b, a * a, b * b, a * b], -1)


# -- exact densities ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("sampler", SAMPLERS, ids=["slice", "hmc"])
def test_a_correlated_normal_has_its_moments(sampler: samplers.Sampler) -> None:
    mean = (1.0, -0.5)
    chains = run_chains(gaussian(np.array(mean), COVARIANCE), WIDE, 3200, sampler=sampler, seed=1)
    assert chains.converged.all()
    exact = np.array([0.0, 0.0, *np.diag(COVARIANCE), COVARIANCE[0, 1]])
    assert (abs(pulls(moments(chains, about=mean), exact)) < 4).all()
    assert chains.bulk_ess.min() > 600
    # the same numbers refuse a density that is 20% wider, and one without the correlation
    wide = np.array([0.0, 0.0, *1.44 * np.diag(COVARIANCE), 0.0])
    assert (abs(pulls(moments(chains, about=mean), wide))[2:] > 4).all()


def test_a_wrong_level_fails_the_same_test(monkeypatch: pytest.MonkeyPatch) -> None:
    right = moves._slice

    def too_low(walk: Any, direction: Tensor, width: Tensor) -> Tensor:
        walk.logs = walk.logs - 1.0
        return right(walk, direction, width)

    monkeypatch.setattr(moves, "_slice", too_low)
    chains = run_chains(gaussian(np.zeros(2), COVARIANCE), WIDE, 3200, seed=1, allow_unconverged=True)
    exact = np.array([0.0, 0.0, *np.diag(COVARIANCE), COVARIANCE[0, 1]])
    assert (abs(pulls(moments(chains), exact))[2:] > 6).all()


def test_leapfrog_steps_need_their_acceptance(monkeypatch: pytest.MonkeyPatch) -> None:
    """With coarse steps and none refused the width comes out wrong."""

    def run() -> Floats:
        chains = run_chains(
            gaussian(np.zeros(2), np.eye(2)), WIDE, 3200, seed=1, allow_unconverged=True,
            sampler=HMC(acceptance=0.5, longer=1),
        )  # fmt: skip
        return pulls(moments(chains), np.array([0.0, 0.0, 1.0, 1.0, 0.0]))

    assert (abs(run()) < 4).all()
    kernel = moves.HMCKernel._trajectory

    def never_refused(self: Any, size: Tensor) -> Tensor:
        self.walk.uniform = lambda *shape: torch.full(shape, 0.5 if len(shape) == 1 else 1e-300, dtype=torch.float64)
        try:
            return kernel(self, size)
        finally:
            del self.walk.uniform

    monkeypatch.setattr(moves.HMCKernel, "_trajectory", never_refused)
    assert (abs(run()) > 6).any()


@pytest.mark.parametrize("sampler", SAMPLERS, ids=["slice", "hmc"])
def test_two_modes_have_their_weights(sampler: samplers.Sampler) -> None:
    """30% at (-8, 0) and 70% at (8, 0), of width 0.1 each in a box of 40: no chain walks from one to the other."""

    def log_density(theta: Tensor) -> Tensor:
        parts = [np.log(share) - 0.5 * ((theta - torch.tensor([at, 0.0])) / 0.1).square().sum(-1)
                 for at, share in ((-8.0, 0.3), (8.0, 0.7))]  # fmt: skip
        return torch.logaddexp(*parts)

    chains = run_chains(log_density, WIDE, 3200, sampler=sampler, seed=3)
    right = (chains.samples[0, ..., :1] > 0).astype(float)
    assert abs(pulls(right, np.array([0.7]))[0]) < 4
    assert abs(pulls(right, np.array([0.5]))[0]) > 4
    a = chains.samples[0, ..., 0]
    assert abs(a[a > 0].std() - 0.1) < 4 * 0.1 / np.sqrt(2 * 400)


@pytest.mark.parametrize("sampler", SAMPLERS, ids=["slice", "hmc"])
def test_densities_at_hard_bounds(sampler: samplers.Sampler) -> None:
    """A flat one, and exponentials at one bound and between two, with their quantiles."""
    prior = Prior.of(
        {"flat": (2.0, 3.0), "falling": (0.0, 1.0), "open": torch.distributions.Exponential(torch.ones(()))}
    )
    chains = run_chains(lambda t: -10 * t[..., 1] - 2 * t[..., 2], prior, 3200, sampler=sampler, seed=2)
    exact = [stats.uniform(2, 1), stats.truncexpon(10, scale=0.1), stats.expon(scale=0.5)]
    x = chains.samples[0]
    assert (x[..., 0] > 2).all()
    assert (x[..., 0] < 3).all()
    for q in (0.02, 0.1, 0.5, 0.9, 0.98):
        below = np.stack([x[..., j] < d.ppf(q) for j, d in enumerate(exact)], -1).astype(float)
        assert (abs(pulls(below, np.full(3, q))) < 4).all()
    # without the transform's slope the density would vanish at the bounds
    assert (x[..., 1] < exact[1].ppf(0.02)).mean() > 0.01


def test_a_banana_has_its_moments() -> None:
    """A ~ N(0, 1), b | a ~ N(a^2, 0.3^2): E b = 1, Var b = 2.09, Cov(b, a^2) = 2."""

    def log_density(theta: Tensor) -> Tensor:
        a, b = theta.unbind(-1)
        return -0.5 * a.square() - 0.5 * ((b - a.square()) / 0.3).square()

    chains = run_chains(log_density, WIDE, 3200, seed=4)
    a, b = chains.samples[0, ..., 0], chains.samples[0, ..., 1]
    found = np.stack([a, b, a**2, (b - 1) ** 2, (b - 1) * (a**2 - 1)], -1)
    assert (abs(pulls(found, np.array([0.0, 1.0, 1.0, 2.09, 2.0]))) < 4).all()
    assert abs(pulls(found, np.array([0.0, 1.0, 1.0, 2.09, 0.0]))[4]) > 4


def test_observations_do_not_mix() -> None:
    centres = torch.linspace(-15, 15, 7, dtype=torch.float64)
    widths = torch.tensor([0.01, 0.1, 0.3, 1.0, 1.0, 0.1, 0.01], dtype=torch.float64)
    chains = run_chains(
        lambda t: -0.5 * ((t - centres[:, None, None]) / widths[:, None, None]).square().sum(-1), WIDE, 1600,
        observations=7, seed=5,
    )  # fmt: skip
    assert chains.samples.shape == (7, 32, 100, 2)
    for i, (centre, width) in enumerate(zip(centres.tolist(), widths.tolist(), strict=True)):
        exact = np.array([centre, centre, centre**2 + width**2, centre**2 + width**2, centre**2])
        assert (abs(pulls(moments(chains, i), exact)) < 4.5).all()  # 35 numbers
        assert abs(chains.samples[i].std() / width - 1) < 0.15


def test_ranks_of_the_truth_are_uniform() -> None:
    """Simulation-based calibration with an exact likelihood, 300 observations at once; a wrong noise fails."""
    problem = LinearGaussian()
    prior = Prior.of({name: Normal(0.0, 1.0) for name in ("theta0", "theta1")})
    test = problem.simulate(300, 1)
    x = torch.from_numpy(np.stack([test[f"x{i}"] for i in range(3)], 1))
    truth = np.stack([test["theta0"], test["theta1"]], 1)
    matrix = torch.tensor(problem.matrix)

    def p_values(variance: float) -> list[float]:
        def log_density(theta: Tensor) -> Tensor:
            off = x[:, None] - theta @ matrix.T
            return -0.5 * off.square().sum(-1) / variance + prior.tensor(theta)

        sampler = Slice(chains=8, sweeps=40, rhat=1.2)
        draws = run_chains(log_density, prior, 99, sampler=sampler, observations=300, seed=2).draws(99)
        found = ranks(draws.swapaxes(1, 2), truth, seed=1)
        return [rank_uniformity(r, 99, bins=10) for r in found.T]

    assert min(p_values(0.25)) > 1e-3
    assert max(p_values(0.1)) < 1e-6


def test_six_dimensions_far_from_the_prior() -> None:
    """The posterior has 10^-14 of the prior's volume: of 1,000 draws none is in it, the tempered start finds it."""
    names = {f"p{i}": (0.0, 1.0) for i in range(6)}
    centre = torch.linspace(0.1, 0.9, 6, dtype=torch.float64)
    chains = run_chains(
        lambda t: -0.5 * ((t - centre) / 0.003).square().sum(-1), Prior.of(names), 960, sampler=Slice(sweeps=30), seed=6
    )
    assert (abs(pulls(chains.samples[0], centre.numpy())) < 4.5).all()
    assert (abs(chains.samples[0].std((0, 1)) / 0.003 - 1) < 0.2).all()


def test_the_seed_decides() -> None:
    def first(seed: int) -> Floats:
        torch.manual_seed(seed + 10)  # and the global generator does not
        return run_chains(gaussian(np.zeros(2), COVARIANCE), WIDE, 320, sampler=QUICK, seed=seed).samples

    state = torch.random.get_rng_state()
    assert (first(1) == first(1)).all()
    assert not (first(1) == first(2)).any()
    torch.random.set_rng_state(state)


# -- results and diagnostics -------------------------------------------------------------------------------------------


def test_draws_are_spread_over_chains_and_sweeps() -> None:
    samples = np.arange(4 * 10.0).reshape(1, 4, 10, 1)
    chains = Chains(("a",), samples, samples[..., 0], *[np.ones((1, 1))] * 3, np.ones(1), 1.05, 0)
    assert sorted(chains.draws(8)[0, :, 0]) == [4, 9, 14, 19, 24, 29, 34, 39]
    assert sorted(chains.draws(40)[0, :, 0]) == list(range(40))
    assert chains.draws(6).shape == (1, 6, 1)
    with pytest.raises(ValueError, match=r"expected 1 \.\. 40, 4 chains of 10, found 41"):
        chains.draws(41)
    assert "R-hat <= 1" in repr(chains)


def autoregressive(rho: float, chains: int = 8, length: int = 4000, seed: int = 1) -> Floats:
    rng = np.random.default_rng(seed)
    x = np.empty((chains, length))
    x[:, 0] = rng.normal(size=chains)
    for i in range(1, length):
        x[:, i] = rho * x[:, i - 1] + np.sqrt(1 - rho**2) * rng.normal(size=chains)
    return x


@pytest.mark.parametrize("rho", [0.0, 0.5, 0.9, -0.5])
def test_effective_sizes_of_autoregressive_chains(rho: float) -> None:
    """N (1 - rho) / (1 + rho); rank normalisation changes nothing for a normal."""
    x = autoregressive(rho)
    exact = x.size * (1 - rho) / (1 + rho)
    assert abs(effective_sizes(x)[0] / exact - 1) < 0.12
    assert abs(effective_sizes(np.exp(x))[0] / exact - 1) < 0.12  # a function of the same ranks
    # the 5% indicator of a Gaussian chain correlates less than the chain itself
    assert effective_sizes(x)[1] > 0.3 * min(exact, x.size)


def test_rhat_sees_chains_apart_in_mean_or_width_or_drifting() -> None:
    x = autoregressive(0.0, 4, 1000)
    assert split_rhat(x) < 1.01
    shift, scale, drift = x.copy(), x.copy(), x + np.linspace(-1, 1, 1000)
    shift[0] += 1
    scale[0] *= 4
    for bad in (shift, scale, drift):
        assert split_rhat(bad) > 1.05
    # the exact value without ranks: halves of means +-1, so that B is known
    half = np.tile(np.array([-1.0, 1.0]), 100)
    chains = np.stack([half, half + 1])
    within = half[:100].var(ddof=1)
    assert np.isclose(diagnostics._rhat(diagnostics._halves(chains)), np.sqrt(0.99 + (1 / 3) / within))
    assert np.isnan(split_rhat(np.zeros((4, 100))))
    assert split_rhat(np.stack([x, shift])).shape == (2,)


def test_the_box_is_that_of_the_columns() -> None:
    edges = [(None, None), (0.5, None), (None, 0.5), (-1.0, 2.0), (3.0, None)]
    columns, box = [Column("a", *pair) for pair in edges], samplers._Box(edges)
    t = torch.randn(7, 11, 5, dtype=torch.float64, generator=torch.Generator().manual_seed(1)) * 2
    v = torch.stack([c.inverse(x) for c, x in zip(columns, t.unbind(-1), strict=True)], -1)
    slope = torch.stack([c.forward(x)[1] for c, x in zip(columns, v.unbind(-1), strict=True)]).sum(0)
    assert torch.allclose(box.values(t), v, rtol=1e-14)
    assert torch.allclose(box.unbounded(v), t, atol=1e-8)
    assert torch.allclose(box.slope(t), slope, atol=1e-8)
    far = box.values(torch.tensor([[-60.0] * 5, [60.0] * 5], dtype=torch.float64))
    assert (far > box.low).all()
    assert (far < box.high).all()


# -- what goes wrong ---------------------------------------------------------------------------------------------------


def stuck(theta: Tensor) -> Tensor:
    """Two modes of one volume, each long where the other is short: a jump from one seldom hits the other."""
    widths = torch.tensor([0.05, 0.003] * 2, dtype=torch.float64)
    parts = [-0.5 * ((theta - at) / w).square().sum(-1) for at, w in ((0.3, widths), (0.7, widths.flip(0)))]
    return torch.logaddexp(*parts)


def test_chains_that_do_not_mix_are_refused(caplog: pytest.LogCaptureFixture) -> None:
    prior = Prior.of({f"p{i}": (0.0, 1.0) for i in range(4)})
    options: dict[str, Any] = {"sampler": Slice(sweeps=20, warmup=8, longer=2), "seed": 1}
    with pytest.raises(NotConverged, match=r"1 of 1 observations have not converged.*split R-hat p0 .*allow_unconv"):
        run_chains(stuck, prior, 320, **options)
    with caplog.at_level(logging.WARNING, "nuinfer"):
        chains = run_chains(stuck, prior, 320, allow_unconverged=True, **options)
    assert "have not converged" in caplog.text
    assert chains.samples.shape[2] == 40  # lengthened once
    assert not chains.converged.any()


def test_bad_densities_are_refused() -> None:
    with pytest.raises(ValueError, match=r"expected finite numbers or -inf, found nan for observation 0 at a = "):
        run_chains(lambda t: t.sum(-1) * torch.nan, WIDE, 100, seed=1)
    with pytest.raises(ValueError, match=r"expected the shape \(1, 1000\) for theta \(1, 1000, 2\), found \(1000,\)"):
        run_chains(lambda t: t[0, :, 0], WIDE, 100, seed=1)
    with pytest.raises(NotConverged, match="density of 1 of 2 observations, first of number 1, is zero at all 1000"):
        run_chains(
            lambda t: torch.where(torch.tensor([[True], [False]]), 0.0, -torch.inf).expand(t.shape[:2]), WIDE, 100,
            observations=2, seed=1,
        )  # fmt: skip
    with pytest.raises(TypeError, match="expected a log density that is differentiable"):
        run_chains(lambda t: -t.detach().square().sum(-1), WIDE, 100, sampler=HMC(), seed=1)
    with pytest.raises(ValueError, match="n: expected a whole number of at least 1, found 0"):
        run_chains(lambda t: -t.square().sum(-1), WIDE, 0, seed=1)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"chains": 1}, "expected chains to be an integer of at least 4, found 1"),
        ({"start": 20}, "expected start >= chains"),
        ({"rhat": 1.0}, "rhat > 1"),
    ],
)
def test_specs_are_checked(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Slice(**options)
    with pytest.raises(ValueError, match=r"expected steps >= 1"):
        HMC(steps=0)


def test_no_density_in_a_part_of_the_prior() -> None:
    """A quarter circle: -inf outside, the area's moments inside."""

    def log_density(theta: Tensor) -> Tensor:
        return torch.where(theta.square().sum(-1) < 1, 0.0, -torch.inf)

    chains = run_chains(log_density, Prior.of({"a": (0.0, 10.0), "b": (0.0, 10.0)}), 3200, seed=7)
    a, b = chains.samples[0, ..., 0], chains.samples[0, ..., 1]
    exact = np.array([4 / (3 * np.pi), 4 / (3 * np.pi), 0.25, 0.25, 1 / (2 * np.pi)])
    assert (abs(pulls(moments(chains), exact)) < 4).all()
    assert (a**2 + b**2 < 1).all()


def test_the_page_of_the_guide_runs(root: Path) -> None:
    text = (root / "docs" / "guide" / "sampling.md").read_text(encoding="utf-8")
    code = "\n".join(re.findall(r"^```python\n(.*?)^```$", text, re.M | re.S))
    shorter = code
    for old, new in (("10_000", "500"), ("1_000", "100"), ("2_000", "200"), ("epochs=20", "epochs=2"),
                     ("epochs=10", "epochs=1"), ("5_000", "500"), ("rounds=3", "rounds=2")):  # fmt: skip
        assert old in shorter
        shorter = shorter.replace(old, new)
    names: dict[str, Any] = {}
    with torch.random.fork_rng():
        exec(shorter, names)
    assert names["chains"].names == ("t",)
    assert names["draws"].columns == ("theta0", "theta1")
