"""`nuinfer.posterior.truncated`: an exact posterior that is narrow beside its prior, and the truncated prior itself."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy import stats
from torch.distributions import Normal

from nuinfer import Events, Ragged, Training
from nuinfer.density import NSF
from nuinfer.posterior import truncated
from nuinfer.posterior.neural import NeuralPosterior, fit_posterior
from nuinfer.posterior.priors import Prior
from nuinfer.posterior.truncated import Region, TruncatedPosterior, fit_truncated
from nuinfer.simulators import LinearGaussian

Floats = NDArray[np.float64]

WIDTH = 0.05
PRIOR = Prior.of({"a": (-10.0, 10.0), "b": (-10.0, 10.0)})
AT = Events({"x0": [1.3], "x1": [-4.0]})
OPTIONS: dict[str, Any] = {
    "network": NSF(transforms=2, width=32, depth=2), "members": 1, "epsilon": 1e-3, "progress": False,
    "training": Training(epochs=50, batch=64),
}  # fmt: skip
TINY: dict[str, Any] = {
    "network": NSF(transforms=1, width=8, depth=1), "members": 1, "epsilon": 1e-2, "progress": False,
    "training": Training(epochs=4, batch=64),
}  # fmt: skip


def bend(theta: Any) -> Any:
    return theta + 0.45 * np.sin(2 * theta)


def simulator(theta: Floats, rng: np.random.Generator) -> Floats:
    """The posterior's width is between 0.026 and 0.5, by where it is."""
    return np.asarray(bend(theta) + WIDTH * rng.normal(size=theta.shape))


def exact(n: int) -> tuple[Floats, Floats]:
    """Draws (n, 2) of the posterior at ``AT`` and their log densities (n,), on a grid of 10^-4."""
    rng, columns, total = np.random.default_rng(1), [], np.zeros(n)
    for x in (1.3, -4.0):
        grid = np.linspace(x - 1.5, x + 1.5, 30_001)
        density = np.exp(-0.5 * ((x - bend(grid)) / WIDTH) ** 2)
        rows = rng.choice(len(grid), n, p=density / density.sum())
        columns.append(grid[rows])
        total += np.log(density[rows] / (density.sum() * (grid[1] - grid[0])))
    return np.stack(columns, 1), total


@cache
def sequential() -> TruncatedPosterior:
    return fit_truncated(simulator, PRIOR, AT, ["x0", "x1"], rounds=4, simulations=500, seed=1, **OPTIONS)


# -- the answer --------------------------------------------------------------------------------------------------------


def test_four_rounds_are_better_than_one_of_as_many_simulations() -> None:
    """The divergence of the answer from the exact posterior, in nats."""
    theta, logs = exact(2000)
    one = fit_truncated(simulator, PRIOR, AT, ["x0", "x1"], rounds=1, simulations=2000, seed=1, **OPTIONS)
    four, single = (float((logs - p.log_prob(theta, AT)).mean()) for p in (sequential(), one))
    assert -0.05 < four < 0.3  # a sampling error of some 0.02
    assert single > four + 1
    draws = sequential().sample(2000, AT, seed=1)
    for i, name in enumerate("ab"):
        assert abs(draws[name].mean() - theta[:, i].mean()) < 0.5 * theta[:, i].std()


def test_the_rounds_say_what_they_did() -> None:
    rounds = sequential().rounds
    assert [r.simulations for r in rounds] == [500] * 4
    assert [r.failures for r in rounds] == [0] * 4
    assert rounds[0].volume == 1
    assert all(b.volume < a.volume for a, b in pairwise(rounds))
    assert rounds[-1].volume < 0.05  # the posterior itself has 10^-4
    assert rounds[-1].boxed
    assert all(500 <= r.effective <= r.inside + 1e-6 for r in rounds)  # earlier rounds come in addition
    assert rounds[1].inside > 500
    assert "round 4: 500 simulations, trained on" in repr(sequential())


def test_nothing_lies_outside_of_the_regions() -> None:
    posterior = sequential()
    draws = posterior.draws(500, AT, seed=2)[0]
    assert all(region.contains(draws).all() for region in posterior.regions)
    far = np.array([[9.0, 9.0], [1.3, -9.0]])
    assert (posterior.log_prob(far, AT) == -np.inf).all()
    assert posterior.prior is PRIOR
    # regions are nested: what a later one holds the earlier ones did
    theta = np.random.default_rng(1).uniform(-5, 5, (4000, 2))
    support = truncated._Support(PRIOR, posterior.regions)
    assert (support.contains(theta) <= posterior.regions[0].contains(theta)).all()


# -- the truncated prior -----------------------------------------------------------------------------------------------


class Disc(Region):
    """In the place of a flow: a log density of -r^2 / 2 around (3, 0), so that a threshold is a radius."""

    def log_q(self, theta: Floats) -> Floats:
        return np.asarray(-0.5 * ((theta - [3.0, 0.0]) ** 2).sum(-1))


def disc(radius: float, reach: float | None = None) -> Region:
    size = 1.1 * radius if reach is None else reach
    middle = np.array([3.0, 0.0])
    return Disc(None, AT, -0.5 * radius**2, middle - size, middle + size)  # type: ignore[arg-type]


@pytest.mark.parametrize(("radius", "boxed"), [(2.0, False), (0.4, True)])
def test_weighted_draws_follow_the_prior_inside(radius: float, boxed: bool) -> None:
    """A normal prior within a disc, by rejection from the prior, or from a box with the prior's density as weight."""
    prior = Prior.of({"a": Normal(0.0, 2.0), "b": Normal(0.0, 2.0)})
    support = truncated._Support(prior, (disc(radius),))
    drawing = support.drawing(seed=1)
    assert drawing.boxed == boxed

    r, phi = np.meshgrid(radius * (np.arange(400) + 0.5) / 400, 2 * np.pi * np.arange(200) / 200)
    x = 3 + r * np.cos(phi)
    content = r * stats.norm(0, 2).pdf(x) * stats.norm(0, 2).pdf(r * np.sin(phi)) * 2 * np.pi * radius / r.size
    volume, first = content.sum(), (content * x).sum()
    assert abs(drawing.volume - volume) < 4 * drawing.error
    budget = truncated._Budget(lambda t, rng: t, prior, True, "array", None, "raise", None, None, False)
    events = budget.simulate(drawing, 8000, 3, 0).events
    a, w = events["a"], events.weight
    mean = np.average(a, weights=w)
    error = np.sqrt((w**2 * (a - mean) ** 2).sum()) / w.sum()
    assert abs(mean - first / volume) < 4 * error
    if boxed:  # without the weights the mean is that of the disc
        assert abs(a.mean() - 3) < 4 * error
        assert abs(a.mean() - first / volume) > 4 * error
    assert support.contains(np.stack([a, events["b"]], 1)).all()


def test_simulations_of_all_rounds_inside_are_used() -> None:
    support = truncated._Support(PRIOR, (disc(1.0),))
    rng = np.random.default_rng(1)
    wide, near = (Events({"a": 3 + r * rng.uniform(-1, 1, n), "b": r * rng.uniform(-1, 1, n)}, weight=w)
                  for r, n, w in ((7.0, 2000, np.ones(2000)), (0.5, 100, rng.uniform(1, 3, 100))))  # fmt: skip
    found = truncated._inside([wide, near], support)
    kept = int(((wide["a"] - 3) ** 2 + wide["b"] ** 2 <= 1).sum())
    assert len(found) == kept + 100
    assert np.isclose(found.sum_weights, kept + near.effective_size)


def test_a_region_holds_one_minus_epsilon() -> None:
    problem = LinearGaussian([[1.0, 0.0], [0.0, 1.0]])
    posterior = fit_posterior(
        problem.simulate(1000, 1), {"theta0": Normal(0.0, 1.0), "theta1": Normal(0.0, 1.0)}, ["x0", "x1"],
        network=OPTIONS["network"], members=1, training=Training(epochs=3), progress=False,
    )  # fmt: skip
    at = problem.simulate(1, 2).keep(["x0", "x1"])
    region = Region.of(posterior, at, 0.05, seed=3)
    held = region.contains(posterior.draws(4000, at, seed=4)[0]).mean()
    assert abs(held - 0.95) < 4 * np.sqrt(0.05 * 0.95 * (1 / 4000 + 1 / 10_000))
    # with 1/11 of 9,999 the edge is the density of a draw, which is inside whoever else is asked about
    for seed in range(8):
        region = Region.of(posterior, at, 1 / 11, seed=seed)
        draws = posterior.draws(10_000, at, seed=seed)[0]
        inside, logs = region.contains(draws), posterior.log_probs(draws[None], at)[0]
        assert inside.sum() == 10_000 - 909
        edge = np.argsort(np.abs(logs - region.threshold))[:50]
        assert (np.concatenate([region.contains(draws[[i]]) for i in edge]) == inside[edge]).all()
    alone = np.concatenate([region.log_q(draws[[i]]) for i in edge])
    assert np.abs(alone - region.log_q(draws)[edge]).max() < 1e-11
    single = np.concatenate([posterior.log_prob(draws[[i]], at) for i in edge])
    assert 1e-7 < np.abs(single - logs[edge]).max() < 1e-4  # of float32, which decides nothing here


def test_draws_resolve_the_smallest_epsilon() -> None:
    assert truncated._draws_for(2.5e-5) == 200_000
    assert truncated._draws_for(1e-3) == 10_000
    truncated._check(2, 100, 2.5e-5)


def test_a_region_too_small_for_rejection() -> None:
    with pytest.raises(ValueError, match="truncated prior: expected some of the box around the region to lie inside"):
        truncated._Support(PRIOR, (disc(1e-3, 6.9),)).drawing(1)


# -- running, files, errors --------------------------------------------------------------------------------------------


def test_the_seed_decides_and_finished_simulations_are_kept(tmp_path: Path) -> None:
    calls = []

    def counted(theta: Floats, rng: np.random.Generator) -> Floats:
        calls.append(len(theta))
        return simulator(theta, rng)

    def run(seed: int, **options: Any) -> TruncatedPosterior:
        return fit_truncated(counted, PRIOR, AT, ["x0", "x1"], rounds=2, simulations=200, seed=seed, **TINY, **options)

    first, again, other = run(1, cache=tmp_path), run(1, cache=tmp_path), run(2)
    theta = np.array([[1.0, -4.0]])
    assert first.log_prob(theta, AT) == again.log_prob(theta, AT)
    assert first.log_prob(theta, AT) != other.log_prob(theta, AT)
    assert sum(calls) == 800  # two rounds of the first and of the last run, none of the second


def test_failures_are_counted() -> None:
    def failing(theta: Floats, rng: np.random.Generator) -> Floats:
        return np.where(theta[:, :1] > 9, np.nan, simulator(theta, rng))

    posterior = fit_truncated(
        failing, PRIOR, AT, ["x0", "x1"], rounds=1, simulations=300, errors="record", seed=1, **TINY
    )
    lost = posterior.rounds[0].failures
    assert 3 < lost < 30  # a twentieth
    assert posterior.rounds[0].inside == 300 - lost
    assert f"{lost} failed" in repr(posterior)


def test_clouds_are_observations_too(tmp_path: Path) -> None:
    from nuinfer import MLP, DeepSet, Features

    def decays(theta: Floats, rng: np.random.Generator) -> Any:
        return {"hits.t": [rng.exponential(t, 5) for t in theta[:, 0]]}

    at = Events({"hits.t": Ragged.of([[1.0, 2.0, 3.0, 0.5, 1.5]])})
    embedding = DeepSet(width=8, depth=1, latent=4, head=MLP(width=8, depth=1))
    posterior = fit_truncated(
        decays, {"t": (0.1, 50.0)}, at, Features(hits=["t"]), rounds=2, simulations=200, embedding=embedding,
        summaries=2, seed=1, **TINY,
    )  # fmt: skip
    posterior.save(tmp_path / "p.safetensors")
    again = TruncatedPosterior.load(tmp_path / "p.safetensors")
    assert (again.draws(20, at, seed=1) == posterior.draws(20, at, seed=1)).all()
    with pytest.raises(ValueError, match=r"found another 'hits\.t' in row 0"):
        posterior.draws(5, Events({"hits.t": Ragged.of([[1.0]])}))


def test_files(tmp_path: Path) -> None:
    sequential().save(tmp_path / "p.safetensors")
    again = TruncatedPosterior.load(tmp_path / "p.safetensors")
    assert again.rounds == sequential().rounds
    assert repr(again) == repr(sequential())
    assert (again.draws(50, AT, seed=1) == sequential().draws(50, AT, seed=1)).all()
    theta = np.array([[1.2, -4.1], [9.0, 9.0]])
    assert (again.log_prob(theta, AT) == sequential().log_prob(theta, AT)).all()
    with pytest.raises(
        ValueError, match="expected a file of kind 'posterior', found one of kind 'truncated posterior'"
    ):
        NeuralPosterior.load(tmp_path / "p.safetensors")


def wrong(**options: Any) -> Callable[[], Any]:
    usual: dict[str, Any] = {"rounds": 2, "simulations": 100, "seed": 1, **TINY}
    return lambda: fit_truncated(simulator, PRIOR, AT, ["x0", "x1"], **{**usual, **options})


def test_bad_input() -> None:
    for options, message in (
        ({"rounds": 0}, "rounds: expected a whole number of at least 1, found 0"),
        ({"simulations": 1.5}, r"simulations: expected a whole number of at least 1, found 1\.5"),
        ({"epsilon": 0.0}, "epsilon: expected a fraction between 0 and 0.5"),
        ({"epsilon": 1e-6}, r"epsilon: expected at least 2\.5e-05, found 1e-06, .* takes 5,000,000 draws"),
    ):
        with pytest.raises(ValueError, match=message):
            wrong(**options)()
    with pytest.raises(KeyError, match="no column 'x1'"):
        fit_truncated(simulator, PRIOR, Events({"x0": [1.0]}), ["x0", "x1"], seed=1, **TINY)
    with pytest.raises(ValueError, match="observation: expected one, found 2 rows"):
        fit_truncated(simulator, PRIOR, Events({"x0": [1.0, 2.0]}), ["x0"], seed=1, **TINY)
    with pytest.raises(ValueError, match="column 'x0': expected finite values"):
        fit_truncated(simulator, PRIOR, Events({"x0": [np.nan]}), ["x0"], seed=1, **TINY)
    with pytest.raises(
        ValueError, match="expected the one that the prior was truncated for, found another 'x0' in row 1"
    ):
        sequential().draws(10, Events({"x0": [1.3, 1.4], "x1": [-4.0, -4.0]}))
