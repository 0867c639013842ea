"""`nuinfer.density.FlowMatching`: paths and solver against closed forms, densities against exact ones.

What `Density` does with any network (bounds, files, ids) is in `test_density`; here is what differs, and that it works.
"""

from __future__ import annotations

import math
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from scipy import stats

from nuinfer import Events, Training
from nuinfer.density import Density, FlowMatching, fit_density
from nuinfer.density.flow_matching import Paths, VelocityStack, solved
from nuinfer.density.rows import TrainingRows
from nuinfer.diagnostics import c2st
from nuinfer.ensemble import Ensemble
from nuinfer.resample import Resample
from nuinfer.simulators import LinearGaussian

Floats = NDArray[np.float64]

SMALL = FlowMatching(width=24, depth=1, steps=8)
QUICK = Training(epochs=10, batch=128, learning_rate=1e-2)
TINY = Training(epochs=2, batch=256, learning_rate=5e-3)


def fitted(events: Events, columns: list[str], **options: Any) -> Density:
    usual = {"network": SMALL, "training": QUICK, "seed": 1, "validation": 0.0, "progress": False}
    return fit_density(events, columns, **(usual | options))


# -- paths and their solution ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("steps", "errors"), [(8, (4e-6, 9e-5, 5e-4, 4e-4)), (16, (6e-7, 1e-5, 5.1e-5, 2.2e-4))])
def test_accuracy_of_the_solution(steps: int, errors: tuple[float, ...]) -> None:
    """The module's table; the exact velocity of N(0, c^2) from N(0, 1) is linear."""
    for c, error in zip((0.5, 0.2, 0.1, 0.05), errors, strict=True):

        def velocity(y: torch.Tensor, phi: float, c: float = c) -> torch.Tensor:
            cosine, sine = math.cos(phi), math.sin(phi)
            return y * cosine * sine * (c * c - 1) / (cosine**2 + c * c * sine**2)

        start = torch.ones(1, 1, dtype=torch.float64)
        there = solved(velocity, start, steps)
        assert abs(float(there) / c - 1) < error
        assert abs(float(solved(velocity, start, 2)) / c - 1) > 10 * error


@pytest.mark.parametrize(("steps", "errors"), [(16, (1e-5, 1e-4, 5e-4, 2e-3)), (32, (1e-6, 1e-5, 5e-5, 2e-4))])
def test_accuracy_of_the_log_density(steps: int, errors: tuple[float, ...]) -> None:
    for c, error in zip((0.5, 0.2, 0.1, 0.05), errors, strict=True):

        def joint(y: torch.Tensor, phi: float, c: float = c) -> torch.Tensor:
            slope = math.cos(phi) * math.sin(phi) * (c * c - 1) / (math.cos(phi) ** 2 + c * c * math.sin(phi) ** 2)
            return torch.stack([slope * y[..., 0], torch.full_like(y[..., 0], slope)], -1)

        end = solved(joint, torch.tensor([[2 * c, 0.0]], dtype=torch.float64), steps, backward=True)[0]
        assert abs(float(end[1] - 0.5 * end[0] ** 2) - (-math.log(c) - 0.5 * 4)) < error


def test_paths_are_a_function_of_row_network_and_epoch() -> None:
    paths, rows = Paths(3, seed=1), torch.arange(4000).reshape(1, 2, 2000)
    found = paths(rows, np.array([0, 5]), 2).columns
    np.testing.assert_array_equal(found[:, 1], paths(rows[:, 1:], np.array([5]), 2).columns[:, 0])
    assert not np.array_equal(found, paths(rows, np.array([0, 5]), 3).columns)
    assert stats.kstest(found[..., 0].ravel() / (math.pi / 2), "uniform").pvalue > 1e-3
    assert stats.kstest(found[..., 1:].ravel(), "norm").pvalue > 1e-3


def wild(targets: int, context: int, steps: int, members: int = 1) -> tuple[VelocityStack, dict[str, torch.Tensor]]:
    """Velocity fields in double precision with weights that nobody trained."""
    stack, rng = VelocityStack(FlowMatching(width=12, depth=2, steps=steps), targets, context), torch.Generator()
    rng.manual_seed(3)
    state = {name: t.double() for name, t in stack.initial(3, range(members)).items()}
    state["linear"] = 0.3 * torch.randn(state["linear"].shape, dtype=torch.float64, generator=rng)
    return stack, state


def test_log_prob_is_the_change_of_variables() -> None:
    """log q(y(z)) = log N(z) - log |det dy/dz|, with the determinant of the solution's own Jacobian."""
    stack, state = wild(3, 2, 32)
    z, given = (torch.randn(1, n, d, dtype=torch.float64, generator=torch.Generator().manual_seed(d)) for n, d in
                ((6, 3), (6, 2)))  # fmt: skip

    def forward(z: torch.Tensor) -> torch.Tensor:
        return solved(lambda y, phi: stack._at(state, y, phi, given), z, 32)

    jacobian = torch.autograd.functional.jacobian(forward, z)[0]
    own = jacobian[torch.arange(6), :, 0, torch.arange(6)]
    assert (jacobian.abs().sum((0, 1, 2, 4)) - own.abs().sum((1, 2)) < 1e-12).all()
    y = forward(z)
    exact = -0.5 * (z[0] ** 2 + math.log(2 * math.pi)).sum(1) - torch.linalg.slogdet(own)[1]
    found = stack.log_prob(state, y.transpose(1, 2), given.transpose(1, 2))
    torch.testing.assert_close(found[0], exact, rtol=1e-6, atol=1e-6)
    assert (exact + 0.5 * (z[0] ** 2 + math.log(2 * math.pi)).sum(1)).abs().min() > 0.01
    back = stack.inverse(state, z[0], given.transpose(1, 2))
    torch.testing.assert_close(back, y[0], rtol=1e-5, atol=1e-5)


def test_networks_do_not_mix() -> None:
    stack, state = wild(2, 1, 4, members=3)
    y, given = (torch.randn(3, d, 30, dtype=torch.float64, generator=torch.Generator().manual_seed(d)) for d in (2, 1))
    found = stack.log_prob(state, y, given)
    for k in range(3):
        own = {name: t[k : k + 1] for name, t in state.items()}
        torch.testing.assert_close(stack.log_prob(own, y[k : k + 1], given[k : k + 1])[0], found[k])
    assert (found[0] - stack.log_prob(state, y.roll(1, 0), given.roll(1, 0))[0]).abs().max() > 0.1


# -- exact densities ---------------------------------------------------------------------------------------------------

D = 12
TWELVE = LinearGaussian(np.eye(D) + 0.6 * np.random.default_rng(5).normal(size=(D, D)) / np.sqrt(D), noise=0.25)
THETA, X = [f"theta{i}" for i in range(D)], [f"x{i}" for i in range(D)]


@pytest.fixture(scope="module")
def twelve() -> Density:
    return fitted(TWELVE.simulate(10_000, 1), THETA, condition=X, network=FlowMatching(width=64, depth=2, steps=8),
                  training=Training(epochs=30, batch=256, learning_rate=1e-2, average=2.0))  # fmt: skip


def whitened(theta: Floats, observations: Events) -> Floats:
    """theta (N, M, D) in units of the exact posterior of each observation."""
    mean, covariance = TWELVE.posterior(observations)
    off = (theta - np.asarray(mean)[:, None]).reshape(-1, D)
    return np.linalg.solve(np.linalg.cholesky(covariance), off.T).T.reshape(theta.shape)


def test_gaussian_posterior_in_twelve_dimensions(twelve: Density) -> None:
    observations = TWELVE.simulate(400, 2)
    z = whitened(twelve.draws(50, observations, seed=3), observations)
    # a least-squares fit of 13 numbers a column to 10,000 events has sqrt(13 / 10,000) = 0.036
    assert np.sqrt(np.mean(z.mean(1) ** 2) - 1 / 50) < 0.054 + 4 * 0.003
    assert np.abs(z.mean((0, 1))).max() < 0.032 + 4 * 0.007
    covariance = np.cov(z.reshape(-1, D).T)
    assert abs(np.diag(covariance).mean() - 0.98) < 4 * 0.004 + 0.01
    assert np.abs(covariance - np.eye(D)).max() < 0.053 + 4 * 0.009
    exact = np.random.default_rng(1).normal(size=(2000, D))
    quick = Training(epochs=20, batch=400, learning_rate=1e-2, weight_decay=0.0)
    score = c2st(exact, z[:, :5].reshape(-1, D), training=quick)
    assert score.value < 0.516 + 4 * score.null_sd
    prior = whitened(TWELVE.prior.sample(2000, 1).reshape(400, 5, D), observations)
    assert c2st(exact, prior.reshape(-1, D), training=quick).value > 0.8
    assert np.sqrt(np.mean(prior.mean(1) ** 2) - 1 / 5) > 0.5


def test_log_prob_in_twelve_dimensions(twelve: Density) -> None:
    joint = TWELVE.simulate(200, 3)
    theta = np.stack([joint[name] for name in THETA], 1)
    z = whitened(theta[:, None], joint)[:, 0]
    _, covariance = TWELVE.posterior(joint)
    exact = -0.5 * (z**2).sum(1) - 0.5 * np.linalg.slogdet(2 * np.pi * covariance)[1]
    off = twelve.log_prob(joint) - exact
    assert abs(off.mean() + 0.045) < 4 * 0.022
    assert off.std() < 0.28 + 4 * 0.02
    prior = TWELVE.prior.log_density(theta) - exact
    assert prior.mean() < -3  # nats
    some = joint.select(slice(0, 5))
    pairs = twelve.log_probs(np.stack([theta[:5], theta[5:10]], 1), some)
    np.testing.assert_allclose(pairs[:, 0], twelve.log_prob(some), atol=1e-5)
    assert (pairs[:, 1] < pairs[:, 0]).all()


def test_density_is_normalised_and_bounded() -> None:
    rng = np.random.default_rng(2)
    x = rng.uniform(0, 1, 4000)
    events = Events({"x": x, "y": rng.exponential(1 + x)})
    q = fitted(events, ["y"], condition=["x"], bounds={"y": (0.0, None)}, members=2,
               network=FlowMatching(width=32, depth=1))  # fmt: skip
    grid = np.exp(np.linspace(-12, 4, 800))
    for at in (0.2, 0.8):
        log = q.log_probs(grid[None, :, None], Events({"x": [at]}))[0]
        np.testing.assert_allclose(np.trapezoid(np.exp(log) * grid, np.log(grid)), 1, atol=2e-3)
        exact = -grid / (1 + at) - np.log(1 + at)
        core = (grid > 0.1) & (grid < 4)
        assert np.abs(log - exact)[core].max() < 0.3
    assert np.isneginf(q.log_prob(Events({"x": [0.5], "y": [-1.0]}))).all()
    drawn = q.sample(500, Events({"x": [0.5]}), seed=1)
    assert (drawn["y"] > 0).all()
    assert abs(drawn["y"].mean() - 1.5) < 4 * 1.5 / np.sqrt(500)
    assert len(q.sample(3, Events({"x": [0.1, 0.5, 0.9]}))) == 3


def test_weights_are_numbers_of_events() -> None:
    """The posterior from a reweighted prior: N(2, 1) for N(0, 1); a common factor of the weights is nothing."""
    problem = LinearGaussian([[1.0]], noise=0.25)
    events, at = problem.simulate(1500, 1), problem.simulate(20, 2)
    plain, again = (fitted(events.with_weight(w), ["theta0"], condition=["x0"], training=TINY) for w in (1.0, 3.0))
    np.testing.assert_allclose(plain.log_prob(at), again.log_prob(at), atol=1e-3)
    shifted = events.with_weight(np.exp(2 * events["theta0"]))  # posterior mean (4 x + 2) / 5
    moved = fitted(shifted, ["theta0"], condition=["x0"], training=replace(QUICK, batch=64))
    mean = moved.draws(1000, Events({"x0": [1.0]}))[0].mean()
    assert abs(mean - 1.2) < 0.15  # an effective 30 of the 1,500 events
    assert abs(mean - 0.8) > 0.2


# -- alone, in cells, over columns of many kinds -----------------------------------------------------------------------


def mixture(n: int, seed: int) -> tuple[Events, Floats]:
    """Two Gaussians of different widths in the plane, and log p."""
    rng, means, widths = np.random.default_rng(seed), np.array([[-2.0, 1.0], [1.0, -1.0]]), np.array([0.5, 1.0])
    which = (rng.random(n) > 0.3).astype(int)
    y = means[which] + widths[which, None] * rng.normal(size=(n, 2))
    parts = [stats.norm(m, s).logpdf(y).sum(1) + np.log(p) for m, s, p in zip(means, widths, (0.3, 0.7), strict=True)]
    return Events({"y0": y[:, 0], "y1": y[:, 1]}), np.logaddexp(*parts)


def test_a_density_of_its_own() -> None:
    """No condition: within 0.05 nats of two modes, where a Gaussian with the sample's moments is 0.3 off."""
    (train, _), (test, exact) = mixture(6000, 1), mixture(1000, 2)
    q = fitted(train, ["y0", "y1"], network=FlowMatching(steps=8), training=Training(epochs=60, batch=512, average=2.0))
    assert -0.02 < np.mean(exact - q.log_prob(test)) < 0.05
    plain = stats.multivariate_normal([train[n].mean() for n in ("y0", "y1")], np.cov(train["y0"], train["y1"]))
    assert np.mean(exact - plain.logpdf(np.stack([test["y0"], test["y1"]], 1))) > 0.2
    far = Events({"y0": [-12.0, 0.0, 12.0, 12.0], "y1": [0.0, 12.0, 12.0, -12.0]})
    assert (q.log_prob(far) > -1000).all()  # no solution runs away to infinity; as a Gaussian's -72
    assert (q.log_prob(far) < q.log_prob(test).min()).all()
    drawn = q.sample(4000, seed=1)
    grid = np.linspace(-7, 7, 2001)
    cumulated = 0.3 * stats.norm(-2, 0.5).cdf(grid) + 0.7 * stats.norm(1, 1).cdf(grid)
    assert np.abs(np.sort(np.interp(drawn["y0"], grid, cumulated)) - np.arange(4000) / 4000).max() < 0.05
    assert np.corrcoef(drawn["y0"], drawn["y1"])[0, 1] < -0.4
    with pytest.raises(ValueError, match="condition: expected none, found 1000 events"):
        q.sample(1000, test)


def test_one_column_alone() -> None:
    q = fitted(Events({"y": np.random.default_rng(1).normal(30, 2, 3000)}), ["y"], scaling="ranks")
    at = np.linspace(24, 36, 50)
    assert np.abs(q.log_prob(Events({"y": at})) - stats.norm(30, 2).logpdf(at)).max() < 0.5
    assert abs(q.sample(2000, seed=1)["y"].mean() - 30) < 4 * 2 / np.sqrt(2000) + 0.15


def test_discrete_columns_have_probabilities() -> None:
    """n ~ Poisson(4), y ~ N(n, 1/2): noise of the cells, and then paths.

    Within 0.12 nats, 0.065 with `NSF` and its default training; without the correlation it were 1.4.
    """
    rng = np.random.default_rng(1)

    def draw(size: int) -> tuple[Events, Floats]:
        n = rng.poisson(4.0, size)
        y = rng.normal(n, 0.5)
        return Events({"n": n, "y": y}), stats.poisson(4).logpmf(n) + stats.norm(n, 0.5).logpdf(y)

    (train, _), (test, exact) = draw(6000), draw(200)
    network = FlowMatching(width=48, depth=2, steps=8)
    q = fitted(train, ["n", "y"], discrete=["n"], bounds={"n": (0, None)}, network=network,
               training=Training(epochs=20, batch=128, learning_rate=1e-2, average=2.0))  # fmt: skip
    assert -0.02 < np.mean(exact - q.log_prob(test)) < 0.12
    drawn = q.sample(4000, seed=1)
    assert (drawn["n"] == np.round(drawn["n"])).all()
    assert abs(drawn["n"].mean() - 4) < 4 * 2 * np.sqrt(1 / 4000 + 1 / 6000)
    found = np.bincount(drawn["n"].astype(int), minlength=12)[:12] / 4000
    np.testing.assert_allclose(found, stats.poisson(4).pmf(np.arange(12)), atol=0.04)


@pytest.mark.parametrize("discrete", [[], ["n"]])
def test_columns_mapped_from_files(discrete: list[str], tmp_path: Path) -> None:
    rng = np.random.default_rng(1)
    n = rng.poisson(3.0, 1500)
    y = rng.normal(n, 1.0)
    events = Events({"n": n, "y": y, "x": y + rng.normal(size=1500)})
    options: dict[str, Any] = {"condition": ["x"], "discrete": discrete}
    plain, mapped = (fitted(events, ["y", *discrete], **options, cache=cache) for cache in (None, tmp_path))
    assert list(tmp_path.glob("*.npy"))
    some = events.select(slice(0, 100))
    assert np.mean(plain.log_prob(some) - mapped.log_prob(some)) == pytest.approx(0, abs=0.1)
    other = some.with_columns(x=np.roll(some["x"], 1))  # rows of x that are not those of y
    assert np.mean(mapped.log_prob(some) - mapped.log_prob(other)) > 0.3


# -- members, folds, files ---------------------------------------------------------------------------------------------

PROBLEM = LinearGaussian()
POSTERIOR: dict[str, Any] = {"columns": ["theta0", "theta1"], "condition": ["x0", "x1", "x2"]}


@cache
def several() -> Density:
    """Two members of three folds."""
    return fitted(PROBLEM.simulate(600, 1), **POSTERIOR, members=2, folds=3, training=TINY)


def test_no_event_is_scored_by_a_network_that_saw_it() -> None:
    """With the networks of all other folds spoilt, what a known event gets is sound; a new one gets the mean of all."""
    events, q = PROBLEM.simulate(600, 1), several()
    own = q.resample.fold_of(events.id)
    for fold in range(3):
        broken = [k for k in range(6) if k % 3 != fold]
        state = {name: t.clone() for name, t in q.model.state.items()}
        for tensor in state.values():
            tensor[broken] = torch.nan
        spoilt = replace(q, model=replace(q.model, state=state))
        mine = events.select(own == fold)
        np.testing.assert_array_equal(spoilt.members(mine), q.members(mine))
        assert np.isfinite(spoilt.draws(3, mine.select(slice(0, 5)))).all()
        assert np.isnan(spoilt.members(events.select(own != fold))).all()
    new = Events({name: events[name] for name in events.columns}, id=np.arange(600) + 10**12)
    whole = replace(q, resample=replace(q.resample, members=6, folds=1)).members(events).reshape(2, 3, 600)
    np.testing.assert_allclose(q.members(new), np.log(np.exp(whole).mean(1)), rtol=1e-6)


def test_out_of_fold_scores_are_honest_where_a_network_remembers() -> None:
    events = PROBLEM.simulate(100, 1)
    mean, covariance = PROBLEM.posterior(np.stack([events[f"x{i}"] for i in range(3)], 1))
    theta = np.stack([events["theta0"], events["theta1"]], 1)
    exact = stats.multivariate_normal([0, 0], covariance).logpdf(theta - mean).mean()
    options: dict[str, Any] = {"training": Training(epochs=400, batch=100, learning_rate=1e-2, warmup=0.0),
                               "network": FlowMatching(width=96, depth=2, steps=8)}  # fmt: skip
    assert fitted(events, **POSTERIOR, **options).log_prob(events).mean() > exact + 0.15
    assert fitted(events, **POSTERIOR, **options, folds=2).log_prob(events).mean() < exact


def test_member_k_does_not_depend_on_the_number_of_members() -> None:
    rng = np.random.default_rng(1)
    events = Events({"n": rng.poisson(3.0, 100), "y": rng.normal(size=100), "x": rng.normal(size=100)})
    options: dict[str, Any] = {
        "condition": ["x"],
        "discrete": ["n"],
        "training": replace(TINY, batch=64),
        "bootstrap": True,
    }
    few, many = (fitted(events, ["y", "n"], members=k, **options).members(events) for k in (1, 3))
    np.testing.assert_allclose(few[0], many[0], atol=2e-3)
    assert np.abs(many[0] - many[1]).max() > 0.05


def test_save_and_load(tmp_path: Path) -> None:
    events, q = PROBLEM.simulate(600, 1), several()
    q.save(tmp_path / "q.safetensors")
    found = Density.load(tmp_path / "q.safetensors")
    np.testing.assert_array_equal(found.members(events), q.members(events))
    np.testing.assert_array_equal(found.draws(3, events, seed=2), q.draws(3, events, seed=2))
    assert (repr(found), found.network) == (repr(q), SMALL)
    assert repr(found).startswith("Density(FlowMatching, 2 members x 3 folds, q(theta0, theta1 | x0, x1, x2)")


def test_a_checkpoint_is_continued(tmp_path: Path) -> None:
    """Where training ended, to the bit; other paths are another configuration."""
    events = Events({"n": np.random.default_rng(1).poisson(3.0, 300)})
    path = tmp_path / "checkpoint.safetensors"
    first, again = (fitted(events, ["n"], discrete=["n"], training=TINY, checkpoint=path) for _ in range(2))
    np.testing.assert_array_equal(again.members(events), first.members(events))
    with pytest.raises(
        ValueError, match=r"belongs to another configuration .*draw: expected dequantised .* paths of 1"
    ):
        fitted(events, ["n"], discrete=["n"], training=TINY, checkpoint=path, seed=2)


# -- held-out events ---------------------------------------------------------------------------------------------------


def test_patience_stops_early_and_well() -> None:
    """With averaged weights: a third of the epochs, within 0.02 nats of all of them; the first two are far off."""
    events, test = PROBLEM.simulate(5000, 1), PROBLEM.simulate(1000, 2)
    options: dict[str, Any] = {"network": FlowMatching(width=64, depth=2, steps=8), "validation": 0.2}
    slow = Training(epochs=60, batch=512, average=2.0)
    stopped = fitted(events, **POSTERIOR, **options, training=replace(slow, patience=5))
    whole, short = (fitted(events, **POSTERIOR, **options, training=replace(slow, epochs=n)) for n in (60, 2))
    validation = stopped.history.validation[:, 0]
    assert len(validation) < 40
    assert validation[stopped.history.best_epoch[0]] == validation.min()
    score = {q: q.log_prob(test).mean() for q in (stopped, whole, short)}
    assert score[stopped] > score[whole] - 0.02
    assert score[short] < score[whole] - 0.2


def test_held_out_rows_have_their_log_density() -> None:
    """Not the loss: log q of the columns in their units, less the constants of the scales."""
    events = PROBLEM.simulate(400, 1)
    options: dict[str, Any] = {"network": SMALL, "embedding": None, "summaries": 1, "bounds": {}, "seed": 1}
    rows = TrainingRows.of(events, ["theta0"], condition=None, key=events.id, **options)
    resample = Resample(seed=1, validation=0.25)
    model = rows.fit(resample, training=TINY, progress=False).model
    assert isinstance(model, Ensemble)
    log_q, weight = rows.held_out(model, resample)[0]
    q = fitted(events, ["theta0"], training=TINY, validation=0.25)
    mine = resample.times(0, events.id, held_out=True) > 0
    scale = rows.targets.parts[0].scale
    np.testing.assert_allclose(log_q - np.log(scale), q.log_prob(events.select(mine)), atol=1e-4)
    assert len(weight) == mine.sum()


def test_a_negative_density_is_reported(caplog: pytest.LogCaptureFixture) -> None:
    rng = np.random.default_rng(3)
    events = Events({"y": np.concatenate([rng.normal(0, 1, 2000), rng.normal(3, 0.3, 500)])},
                    weight=np.concatenate([np.ones(2000), -np.ones(500)]))  # fmt: skip
    fitted(events, ["y"], training=replace(TINY, clip=1.0), validation=0.2)
    assert "the net weight of the events is negative" in caplog.text
    caplog.clear()
    fitted(events.with_weight(1.0), ["y"], training=TINY, validation=0.2)
    assert not caplog.text


# -- in torch ----------------------------------------------------------------------------------------------------------


def test_tensor_has_the_gradient_of_finite_differences() -> None:
    """In y and in x, through the solution and its divergence; the mean over members and folds."""
    events, q = PROBLEM.simulate(50, 9), several()
    y, x = (torch.from_numpy(np.stack([events[f"{a}{i}"] for i in range(n)], 1)) for a, n in (("theta", 2), ("x", 3)))
    np.testing.assert_allclose(q.tensor(y, x), q.log_prob(events), atol=1e-5)
    inputs = [y.requires_grad_(), x.requires_grad_()]
    gradients = torch.autograd.grad(q.tensor(y, x).sum(), inputs)
    for which, gradient in enumerate(gradients):
        for column in range(inputs[which].shape[1]):
            step = torch.zeros(inputs[which].shape[1], dtype=torch.float64)
            step[column] = 0.02
            with torch.no_grad():
                ends = [
                    q.tensor(*(t + sign * step if i == which else t for i, t in enumerate(inputs))) for sign in (1, -1)
                ]
            np.testing.assert_allclose(gradient[:, column], (ends[0] - ends[1]) / 0.04, atol=2e-3)
        assert (gradient.abs() > 0.02).any()
    only = torch.autograd.grad(q.tensor(y.detach(), x).sum(), x)[0]
    torch.testing.assert_close(only, gradients[1])


def test_report_of_a_good_density(twelve: Density) -> None:
    report = twelve.report(TWELVE.simulate(150, 8), draws=49)
    assert (report.p_values > 1e-3).all()
    assert report.columns == tuple(THETA)


# -- bad input --------------------------------------------------------------------------------------------------------


def test_bad_input(twelve: Density) -> None:
    events = TWELVE.simulate(50, 1)
    for options, error, message in [
        ({"condition": ["theta0"]}, ValueError, "expected other columns than those of the density, found theta0"),
        ({"condition": ["nothing"]}, KeyError, "no column 'nothing'"),
        ({"condition": X, "summaries": 0}, ValueError, "summaries: expected"),
    ]:
        with pytest.raises(error, match=message):
            fitted(events, THETA, **options)
    with pytest.raises(ValueError, match="steps to be an integer of at least 1"):
        FlowMatching(steps=0)
    with pytest.raises(ValueError, match="y: expected"):
        twelve.log_probs(np.zeros((50, 3)), events)
    with pytest.raises(ValueError, match="condition: expected 7 events or one, found 50"):
        twelve.sample(7, events)
    with pytest.raises(ValueError, match="n: expected a whole number of at least 1"):
        twelve.draws(0, events)
