"""`nuinfer.density`: flows against zuko's, densities against closed forms, and what weights, bounds and ids mean."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from scipy import stats
from torch import Tensor, nn

from nuinfer import MLP, DeepSet, Events, Features, Ragged, Training, Trees, losses, nets, train
from nuinfer.density import MAF, NSF, Density, fit_density
from nuinfer.density.columns import Column, Columns, Dequantise, _quadrature
from nuinfer.density.flows import Flow, FlowStack
from nuinfer.density.splines import spline
from nuinfer.errors import CorruptFile
from nuinfer.features import Batch
from nuinfer.nets import Transformer
from nuinfer.simulators import LinearGaussian
from nuinfer.train import mean_loss

Floats = NDArray[np.float64]

SMALL = NSF(transforms=1, width=24, depth=1)
QUICK = Training(epochs=10, batch=256, learning_rate=0.01)
TINY = Training(epochs=2, batch=128)
POSTERIOR: dict[str, Any] = {"columns": ["theta0", "theta1"], "condition": ["x0", "x1", "x2"]}


def fitted(events: Events, columns: list[str], **options: Any) -> Density:
    return fit_density(
        events, columns, **{"network": SMALL, "training": QUICK, "seed": 1, "progress": False, **options}
    )


def named(matrix: Floats, prefix: str = "y") -> Events:
    return Events({f"{prefix}{i}": column for i, column in enumerate(matrix.T)})


def excess(exact: Floats, found: Floats) -> float:
    """Held-out mean of log p - log q: the Kullback-Leibler divergence of p from q, but for a sampling error."""
    return float(np.mean(exact - found))


# -- the flows themselves ---------------------------------------------------------------------------------------------

SHAPES = [(1, 0), (1, 2), (3, 0), (2, 3)]
FLOWS: list[Flow] = [NSF(transforms=2, width=16, depth=6), MAF(transforms=3, width=8, depth=1, activation="relu")]


def doubled(stack: FlowStack, members: int = 2) -> dict[str, Tensor]:
    """Initial weights in double precision, with others than zero in the last layers."""
    rng = torch.Generator().manual_seed(5)
    state = {name: t.double() for name, t in stack.initial(5, range(members)).items()}
    return {n: t if t.any() else 0.3 * torch.randn(t.shape, dtype=t.dtype, generator=rng) for n, t in state.items()}


def reference(stack: FlowStack, state: dict[str, Tensor], k: int, flat: Tensor) -> Any:
    """zuko's own distribution of member k for each event."""
    module = stack._made().double()
    module.load_state_dict({n.removeprefix("flow."): t[k] for n, t in state.items()}, strict=False)
    context = flat[:, : -stack.targets] if stack.context and not stack.alone else None
    return module(torch.ones(len(flat), 1, dtype=torch.float64) if stack.alone else context)


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("flow", FLOWS)
def test_the_stack_is_zukos_flow(flow: Flow, shape: tuple[int, int]) -> None:
    """log q of both members and its gradient, inside and outside the splines, and the way back."""
    targets, context = shape
    stack, rng = FlowStack(flow, targets, context), torch.Generator().manual_seed(1)
    state = doubled(stack)
    flat = 2.5 * torch.randn(2, 40, context + targets, dtype=torch.float64, generator=rng)
    assert float(flat.abs().max()) > 5
    flat.requires_grad_()
    found = stack(state, Batch(flat))
    given = stack.given(state, Batch(flat[..., :context]))
    z, _ = stack.latent(state, flat[..., context:].transpose(1, 2), given)
    for k in range(2):
        exact = reference(stack, state, k, flat[k]).log_prob(flat[k, :, context:])
        torch.testing.assert_close(found[k], exact, rtol=1e-12, atol=1e-12)
        gradients = [torch.autograd.grad(log_q.sum(), flat, retain_graph=True)[0][k] for log_q in (found[k], exact)]
        torch.testing.assert_close(*gradients, rtol=1e-10, atol=1e-10)
        own = {name: t[k : k + 1] for name, t in state.items()}
        back = stack.inverse(own, z[k].T, given[k : k + 1])
        torch.testing.assert_close(back, flat[k, :, context:], rtol=1e-6, atol=1e-6)
    assert (found[0] - found[1]).abs().max() > 1e-3  # members begin differently


@pytest.mark.parametrize("bins", [2, 8])
def test_splines_written_out_have_the_plain_ones_gradients(bins: int) -> None:
    rng = torch.Generator().manual_seed(bins)
    phi = 3 * torch.randn(2, 3, 3 * bins - 1, 60, dtype=torch.float64, generator=rng)
    x, *along = (3 * torch.randn(2, 3, 60, dtype=torch.float64, generator=rng) for _ in range(3))
    inputs = [phi.requires_grad_(), x.requires_grad_()]
    answers = []
    for fused in (False, True):
        outputs = spline(phi, x, bins, fused=fused)
        answers.append([*outputs, *torch.autograd.grad(outputs, inputs, along)])
    for plain, fused_ in zip(*answers, strict=True):
        torch.testing.assert_close(fused_, plain, rtol=1e-11, atol=1e-11)
    assert ((x.abs() > 5).any() and (answers[0][1][x.abs() > 5] == 0).all()).item()


@pytest.mark.parametrize("flow", FLOWS)
def test_a_flow_begins_as_the_identity(flow: Flow) -> None:
    """Before it is trained, q is a standard normal whatever the condition."""
    stack = FlowStack(flow, 3, 2)
    flat = torch.randn(1, 20, 5, generator=torch.Generator().manual_seed(1))
    found = stack(stack.initial(1, [0]), Batch(flat))[0]
    exact = torch.distributions.Normal(0.0, 1.0).log_prob(flat[0, :, 2:]).sum(1)
    torch.testing.assert_close(found, exact, rtol=1e-4, atol=1e-4)


def test_a_flow_is_normalised() -> None:
    """The integral of exp(log q) over a fine grid, of one that is not trained."""
    stack, grid = FlowStack(NSF(transforms=2, width=8), 2, 0), torch.linspace(-8, 8, 401, dtype=torch.float64)
    y = torch.stack(torch.meshgrid(grid, grid, indexing="ij"), -1).reshape(1, -1, 2)
    total = torch.exp(stack(doubled(stack, 1), Batch(y))).sum() * (grid[1] - grid[0]) ** 2
    assert float(total) == pytest.approx(1, abs=1e-3)


def test_twice_can_be_differentiated_again() -> None:
    stack = FlowStack(SMALL, 1, 4, nets.stack(MLP(width=8, depth=1), Features(["a", "b"]).shape, 4)).twice()
    flat = torch.randn(1, 5, 3, generator=torch.Generator().manual_seed(1), requires_grad=True)
    state = {name: t.float() for name, t in doubled(stack, 1).items()}
    (slope,) = torch.autograd.grad(stack(state, Batch(flat)).sum(), flat, create_graph=True)
    (again,) = torch.autograd.grad(slope.square().sum(), flat)
    assert (again[..., :2].abs() > 0).all()


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: NSF(bins=1), "NSF: expected bins to be an integer of at least 2, found 1"),
        (lambda: MAF(transforms=0), "MAF: expected transforms to be an integer of at least 1, found 0"),
        (lambda: NSF(width=1.5), "NSF: expected width to be an integer"),  # type: ignore[arg-type]
        (lambda: NSF(activation="tanh"), "NSF: expected activation one of relu, silu, gelu, found 'tanh'"),  # type: ignore[arg-type]
    ],
)
def test_specs_are_checked(make: Callable[[], Flow], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make()


# -- a weight is a number of events -----------------------------------------------------------------------------------


def risk_and_gradient(flat: Tensor, w: Tensor) -> list[Tensor]:
    """The full-batch risk as the loop has it, -N w / T log q in each row, and its gradient."""
    stack = FlowStack(NSF(transforms=2, width=8), 1, 1)
    state = {name: t.requires_grad_() for name, t in doubled(stack, 1).items()}
    outputs = stack(state, Batch(flat[None]), training=True)
    risk = mean_loss(outputs, ((w * len(w) / w.sum())[None],), losses.nll).sum()
    return [risk.detach(), *torch.autograd.grad(risk, list(state.values()))]


@pytest.mark.parametrize("what", ["twice", "absent", "cancels"])
def test_full_batch_truths_of_weights(what: str) -> None:
    rng = torch.Generator().manual_seed(1)
    x, more = (torch.randn(n, 2, dtype=torch.float64, generator=rng) for n in (60, 20))
    w, one = torch.rand(60, dtype=torch.float64, generator=rng) - 0.2, torch.ones(20, dtype=torch.float64)
    join = lambda *parts: risk_and_gradient(*(torch.cat(c) for c in zip(*parts, strict=True)))  # noqa: E731
    plain = (x, w)
    found, exact = {
        "twice": (join(plain, (more, 2 * one)), join(plain, (more, one), (more, one))),
        "absent": (join(plain, (more, 0 * one)), join(plain)),
        "cancels": (join(plain, (more, one), (more, -one)), join(plain)),
    }[what]
    for a, b in zip(found, exact, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-12, atol=1e-12)
    # the extra events do matter when their weights are not those
    assert any((a - b).abs().max() > 1e-3 for a, b in zip(join(plain, (more, one)), join(plain), strict=True))


def test_the_likelihoods_minimum_is_the_weighted_frequency() -> None:
    """Over four cells whose probabilities are a softmax: q_c = sum of weights in c / their total, with signed ones."""
    cell = torch.tensor([0, 0, 1, 2, 3, 3])
    w = torch.tensor([1.0, 2.0, 0.5, 3.0, 2.0, -1.0], dtype=torch.float64)
    exact = torch.tensor([3.0, 0.5, 3.0, 1.0], dtype=torch.float64) / 7.5
    log_q = exact.log().clone().requires_grad_()
    risk = losses.nll(torch.log_softmax(log_q, 0)[cell][None], (w[None],)).sum()
    (gradient,) = torch.autograd.grad(risk, log_q)
    torch.testing.assert_close(gradient, torch.zeros_like(gradient), atol=1e-12, rtol=0)
    torch.testing.assert_close(risk.detach() / 7.5, -(exact * exact.log()).sum())


def test_trained_answers_know_what_a_weight_is() -> None:
    """N(1, 1) from N(0, 1) by the weights exp(y - 1/2), the rest of weight 0; without the weights it stays N(0, 1)."""
    rng = np.random.default_rng(1)
    y = rng.normal(size=8000)
    w = np.exp(y - 0.5)
    junk = rng.normal(-4, 1, 2000)
    events = Events({"y": np.concatenate([y, junk])}, weight=np.concatenate([w, np.zeros(2000)]))
    test = Events({"y": rng.normal(1, 1, 4000)})
    exact = stats.norm(1, 1).logpdf(test["y"])
    # the effective size is N / e
    assert excess(exact, fitted(events, ["y"]).log_prob(test)) < 0.02
    assert excess(exact, fitted(events.with_weight(1.0), ["y"]).log_prob(test)) > 0.2


def test_signed_weights_that_cancel_are_absent(caplog: pytest.LogCaptureFixture) -> None:
    """Half of a broad component is taken away again by events of weight -1; absolute weights keep it."""
    rng = np.random.default_rng(2)
    kept, broad, minus = rng.normal(0, 1, 6000), rng.normal(0, 3, 3000), rng.normal(0, 3, 3000)
    sign = np.concatenate([np.ones(9000), -np.ones(3000)])
    events = Events({"y": np.concatenate([kept, broad, minus])}, weight=sign)
    test = Events({"y": rng.normal(0, 1, 4000)})
    exact = stats.norm(0, 1).logpdf(test["y"])
    patient = replace(QUICK, patience=4, clip=1.0)
    assert excess(exact, fitted(events, ["y"], training=patient).log_prob(test)) < 0.05
    assert excess(exact, fitted(events.with_weight(np.abs(sign)), ["y"]).log_prob(test)) > 0.1


def test_a_negative_density_is_reported(caplog: pytest.LogCaptureFixture) -> None:
    rng = np.random.default_rng(3)
    y = np.concatenate([rng.normal(0, 1, 4000), rng.normal(3, 0.3, 1000)])
    events = Events({"y": y}, weight=np.concatenate([np.ones(4000), -np.ones(1000)]))
    fitted(events, ["y"], training=replace(TINY, clip=1.0))
    assert "the net weight of the events is negative" in caplog.text
    caplog.clear()
    fitted(events.with_weight(1.0), ["y"], training=TINY)
    assert not caplog.text


def test_columns_that_are_ready_are_not_standardised_again() -> None:
    """The embedding's inputs have mean 0 and deviation 1 in the network, those of y keep what `Columns` gave them."""
    rng = np.random.default_rng(1)
    events = Events({"y": rng.normal(7, 3, 500), "x": rng.normal(-50, 9, 500), "n": rng.poisson(20.0, 500)})
    density = fitted(events, ["y", "n"], condition=["x"], discrete=["n"], training=TINY)
    mean, scale = density.model.standardise.flat.mean, density.model.standardise.flat.scale
    np.testing.assert_allclose(mean, [events["x"].mean(), 0, 0], rtol=1e-5)
    np.testing.assert_allclose(scale, [events["x"].std(), 1, 1], rtol=1e-5)
    y = density.targets.parts[0]
    assert (y.mean, y.scale) == pytest.approx((events["y"].mean(), events["y"].std()))


# -- exact densities --------------------------------------------------------------------------------------------------


def mixture(n: int, dim: int, seed: int) -> Floats:
    rng = np.random.default_rng(seed)
    first = rng.random((n, 1)) < 0.3
    return np.where(first, -2.0, 1.5) + rng.normal(size=(n, dim)) * np.where(first, 0.5, 0.8)


def log_mixture(y: Floats) -> Floats:
    one, two = (stats.norm(m, s).logpdf(y).sum(1) + np.log(p) for m, s, p in ((-2, 0.5, 0.3), (1.5, 0.8, 0.7)))
    return np.asarray(np.logaddexp(one, two))


def gaussian(n: int, dim: int, seed: int) -> Floats:
    return np.asarray(np.random.default_rng(seed).normal(30, 2, (n, dim)) @ np.tri(dim).T)


def log_gaussian(y: Floats) -> Floats:
    dim = y.shape[1]
    return np.asarray(stats.multivariate_normal(30 * np.tri(dim).sum(1), 4 * np.tri(dim) @ np.tri(dim).T).logpdf(y))


@pytest.mark.parametrize("dim", [1, 2, 3])
@pytest.mark.parametrize(("draw", "log_p"), [(gaussian, log_gaussian), (mixture, log_mixture)])
def test_gaussians_and_mixtures(draw: Any, log_p: Any, dim: int) -> None:
    """Within 0.05 nats of the truth; the mean over 4,000 events has an error of 0.004 at most.

    The mean of log p - log q over N training events grows by (effective number of parameters) / (2 N) beyond what the
    flow can express: 0.05 at N = 5,600, in two dimensions and with a fifth held out, is 560 of them.
    """
    train_, test = draw(5000 if draw is gaussian else 3000 + 2000 * dim, dim, 1), draw(4000, dim, 2)
    density = fitted(named(train_), [f"y{i}" for i in range(dim)], network=NSF(transforms=2, width=32))
    found = excess(log_p(test), density.log_prob(named(test)))
    assert -0.015 < found < 0.05
    # a Gaussian with the sample's moments, which is what a flow that does nothing but standardise is, fails
    if draw is mixture:
        plain = stats.multivariate_normal(train_.mean(0), np.cov(train_.T)).logpdf(test)
        assert excess(log_p(test), np.asarray(plain)) > 0.15


def test_maf_is_exact_for_a_gaussian_and_not_for_two_modes() -> None:
    found = {}
    for draw, log_p in ((gaussian, log_gaussian), (mixture, log_mixture)):
        density = fitted(named(draw(6000, 1, 1)), ["y0"], network=MAF(transforms=1, width=16))
        test = draw(4000, 1, 2)
        found[draw] = excess(log_p(test), density.log_prob(named(test)))
    assert -0.01 < found[gaussian] < 0.005
    assert found[mixture] > 0.15


PROBLEM = LinearGaussian()


@cache
def linear() -> tuple[Events, Events]:
    return PROBLEM.simulate(6000, 1), PROBLEM.simulate(4000, 2)


def matrix(events: Events, letter: str, dim: int) -> Floats:
    return np.stack([events[f"{letter}{i}"] for i in range(dim)], 1)


def log_posterior(events: Events) -> Floats:
    mean, covariance = PROBLEM.posterior(matrix(events, "x", 3))
    return np.asarray(stats.multivariate_normal(np.zeros(2), covariance).logpdf(matrix(events, "theta", 2) - mean))


@cache
def posterior() -> Density:
    return fitted(linear()[0], **POSTERIOR, members=2, network=MAF(transforms=2, width=32))


def test_posterior_of_the_linear_gaussian() -> None:
    """Mean log q within 0.05 nats of the exact posterior's; the prior in its place, or x of other events, fail."""
    train_, test = linear()
    exact = log_posterior(test)
    assert -0.02 < excess(exact, posterior().log_prob(test)) < 0.05
    spline = fitted(train_, **POSTERIOR, network=NSF(transforms=1, width=32))
    assert -0.02 < excess(exact, spline.log_prob(test)) < 0.05
    prior = fitted(train_, ["theta0", "theta1"], network=MAF(transforms=2, width=32))
    assert excess(exact, prior.log_prob(test)) > 1
    rolled = test.with_columns({f"x{i}": np.roll(test[f"x{i}"], 1) for i in range(3)})
    assert excess(exact, posterior().log_prob(rolled)) > 1


def test_likelihood_of_the_linear_gaussian() -> None:
    """The same simulations the other way round: q(x | theta), evaluated at each event's own theta and at one theta."""
    train_, test = linear()
    density = fitted(train_, ["x0", "x1", "x2"], condition=["theta0", "theta1"], network=MAF(transforms=2, width=32))
    exact = PROBLEM.log_likelihood(matrix(test, "x", 3), matrix(test, "theta", 2))
    assert -0.02 < excess(exact, density.log_prob(test)) < 0.05
    at = PROBLEM.sample_at([1.0, -0.5], 2000, 3)
    given = at.with_columns(theta0=np.full(2000, 1.0), theta1=np.full(2000, -0.5))
    assert excess(PROBLEM.log_likelihood(at, np.array([1.0, -0.5])), density.log_prob(given)) < 0.06


def clouds(n: int, seed: int) -> tuple[Events, Floats]:
    """y ~ N(0, 1), a cloud of 2 to 8 draws of N(y, 1), and log p(y | cloud) = log N(y; sum / (n + 1), 1 / (n + 1))."""
    rng = np.random.default_rng(seed)
    y, counts = rng.normal(size=n), rng.integers(2, 9, n)
    values = np.repeat(y, counts) + rng.normal(size=counts.sum())
    offsets = np.concatenate([[0], np.cumsum(counts)])
    sums = np.add.reduceat(values, offsets[:-1])
    log_p = stats.norm(sums / (counts + 1), 1 / np.sqrt(counts + 1)).logpdf(y)
    return Events({"y": y, "hits.q": Ragged(values, offsets), "noise": rng.normal(size=n)}), log_p


@pytest.mark.parametrize("embedding", [None, DeepSet(width=16, latent=8, head=MLP(width=16, depth=1))])
def test_a_ragged_condition(embedding: Any) -> None:
    """Within 0.05 nats of the posterior given the cloud; its mean log p is 0.55 above that of y alone."""
    (train_, _), (test, exact) = clouds(5000, 1), clouds(3000, 2)
    options = {"network": MAF(transforms=1, width=16), "summaries": 4, "training": replace(QUICK, epochs=8)}
    density = fitted(train_, ["y"], condition=Features(["noise"], hits=["q"]), embedding=embedding, **options)
    assert isinstance(density.embedding, DeepSet)
    assert -0.02 < excess(exact, density.log_prob(test)) < 0.05
    without = fitted(train_, ["y"], condition=["noise"], **options)
    assert excess(exact, without.log_prob(test)) > 0.5
    draws = density.sample(len(test), test, seed=1)["y"]
    # y and a draw are independent given the cloud: their covariance is the variance of the posterior's mean
    counts = test["hits.q"].counts
    assert np.corrcoef(draws, test["y"])[0, 1] == pytest.approx(
        np.mean(counts / (counts + 1)), abs=4 / np.sqrt(len(test))
    )


def test_an_attention_and_a_users_module_as_embedding(tmp_path: Path) -> None:
    events, _ = clouds(400, 1)
    given = Features([], hits=["q"])
    density = fitted(events, ["y"], condition=given, embedding=Transformer(width=8, heads=2, layers=1), training=TINY)
    assert np.isfinite(density.log_prob(events)).all()
    factory = lambda: nn.Sequential(nn.Linear(1, 4), nn.Tanh(), nn.Linear(4, 3))  # noqa: E731
    own = fitted(events, ["y"], condition=["noise"], embedding=factory, summaries=3, members=2, training=TINY)
    own.save(tmp_path / "own.safetensors")
    with pytest.raises(ValueError, match="made with a network of your own"):
        Density.load(tmp_path / "own.safetensors")
    again = Density.load(tmp_path / "own.safetensors", module=factory)
    np.testing.assert_array_equal(again.members(events), own.members(events))
    assert "a network of your own" in repr(again)


# -- bounds and integers ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("bounds", "draw", "truth"),
    [
        ((0.0, 1.0), lambda rng, n: rng.random(n), stats.uniform()),
        ((0.0, None), lambda rng, n: rng.exponential(2.0, n), stats.expon(scale=2.0)),
        ((None, 3.0), lambda rng, n: 3 - rng.exponential(2.0, n), None),
    ],
)
def test_no_mass_leaks_out_of_the_bounds(bounds: Any, draw: Any, truth: Any) -> None:
    """The integral over the bounds is 1, outside there is nothing; a flow without bounds puts mass there."""
    rng = np.random.default_rng(1)
    events, test = Events({"y": draw(rng, 4000)}), Events({"y": draw(rng, 4000)})
    low, high = (np.float64(b if b is not None else edge) for b, edge in zip(bounds, (-np.inf, np.inf), strict=True))
    density = fitted(events, ["y"], bounds={"y": bounds})
    fine = np.linspace(max(low, -60), min(high, 60), 60_001)[1:-1]
    assert np.exp(density.log_prob(Events({"y": fine}))).sum() * (fine[1] - fine[0]) == pytest.approx(1, abs=2e-3)
    beyond = [b + sign * step for b, sign in ((low, -1), (high, 1)) for step in (0, 1e-9, 1.0, 100.0) if np.isfinite(b)]
    assert (density.log_prob(Events({"y": beyond})) == -np.inf).all()
    exact = truth.logpdf(test["y"]) if truth is not None else stats.expon(scale=2.0).logpdf(3 - test["y"])
    assert -0.01 < excess(exact, density.log_prob(test)) < 0.03
    draws = density.sample(20_000, seed=1)["y"]
    assert low < draws.min()
    assert draws.max() < high
    free = fitted(events, ["y"]).sample(20_000, seed=1)["y"]
    assert ((free < low) | (free > high)).mean() > 1e-3


@pytest.mark.parametrize("bounds", [{}, {"n": (0, None)}])
def test_poisson_counts(bounds: Any) -> None:
    """Probabilities of a Poisson number within 4 sigma of the sample's, and they sum to 1."""
    rng = np.random.default_rng(1)
    n = 8000
    density = fitted(Events({"n": rng.poisson(4.0, n)}), ["n"], discrete=["n"], bounds=bounds)
    at = np.arange(-20, 40)
    found = np.exp(density.log_prob(Events({"n": at})))
    exact = stats.poisson(4.0).pmf(at)
    assert found.sum() == pytest.approx(1, abs=2e-3)
    # statistics of the 6,400 training events, and 0.004 for what splines between integers leave
    assert (np.abs(found - exact) < 4 * np.sqrt(exact / 6400) + 0.004).all()
    assert (found[at < 0] == 0).all() == bool(bounds)
    draws = density.sample(20_000, seed=1)["n"]
    assert (draws == np.round(draws)).all()
    assert draws.mean() == pytest.approx(4, abs=4 * np.sqrt(4 / 6400 + 4 / 20_000))


def test_a_discrete_column_beside_continuous_ones() -> None:
    """n ~ Binomial(3, 1/2), y ~ N(n, 1/2), given a shift x of y: a density and a probability in one.

    The columns keep their order, although the discrete ones come last inside.
    """
    rng = np.random.default_rng(1)

    def draw(size: int) -> tuple[Events, Floats]:
        n, x = rng.binomial(3, 0.5, size), rng.normal(size=size)
        y = rng.normal(n + x, 0.5)
        return Events({"n": n, "y": y, "x": x}), stats.binom(3, 0.5).logpmf(n) + stats.norm(n + x, 0.5).logpdf(y)

    (train_, _), (test, exact) = draw(6000), draw(1000)
    density = fitted(train_, ["n", "y"], condition=["x"], discrete=["n"], bounds={"n": (0, 3)}, network=NSF(width=32))
    assert density.columns == ("n", "y")
    assert -0.03 < excess(exact, density.log_prob(test)) < 0.08
    draws = density.sample(4000, Events({"x": [2.0]}), seed=2)
    assert draws.columns == ("n", "y")
    assert set(np.unique(draws["n"])) == {0, 1, 2, 3}
    assert np.mean(draws["y"] - draws["n"]) == pytest.approx(2, abs=0.1)
    # as a continuous column the atoms have no density: the flow runs away from the probability
    free = fitted(train_, ["n", "y"], condition=["x"], network=NSF(transforms=2, width=24))
    assert excess(exact, free.log_prob(test)) < -0.1


@pytest.mark.parametrize("bounds", [(None, None), (-1.0, None), (None, 2.0), (-1.0, 2.0)])
@pytest.mark.parametrize("discrete", [False, True])
def test_transforms_are_what_they_say(bounds: Any, discrete: bool) -> None:
    """The slope is autograd's, the inverse takes back, and t has mean 0 and deviation 1 in the sample."""
    v = np.random.default_rng(1).uniform(-1, 2, 500)
    values = np.floor(v) if discrete else v
    column = Column("y", *bounds, discrete).fitted(values, np.ones(500), seed=3)
    inside = torch.from_numpy(values + (0.3 if discrete else 0.0)).requires_grad_()
    t, slope = column.forward(inside)
    (found,) = torch.autograd.grad(t.sum(), inside)
    torch.testing.assert_close(slope.exp(), found)
    torch.testing.assert_close(column.inverse(t.detach()), torch.from_numpy(values))
    if not discrete:
        assert abs(float(t.detach().mean())) < 1e-12
        assert float(t.detach().var(correction=0)) == pytest.approx(1)
    far = column.inverse(torch.tensor([-50.0, 50.0], dtype=torch.float64))
    assert column.inside(far).all()


def test_large_offsets_keep_their_digits() -> None:
    """Seconds since 1970 with a spread of 1: standardised in double precision before single precision sees them."""
    y = 1.7e9 + np.random.default_rng(1).normal(size=3000)
    density = fitted(Events({"y": y}), ["y"], network=MAF(transforms=1, width=8))
    exact = stats.norm(0, 1).logpdf(y - 1.7e9)
    assert abs(excess(exact, density.log_prob(Events({"y": y})))) < 0.01
    assert density.sample(4000, seed=1)["y"].std() == pytest.approx(1, abs=0.1)


def test_noise_is_a_function_of_row_network_and_epoch() -> None:
    column = Column("n", discrete=True)
    draw = Dequantise([column], np.arange(1000.0)[:, None], seed=1)
    rows = torch.randint(1000, (4, 3, 50), generator=torch.Generator().manual_seed(1))
    networks = np.array([2, 0, 5])
    whole = draw(rows, networks, 7).columns[..., 0] - rows
    torch.testing.assert_close(draw(rows[2:, 1:], networks[1:], 7).columns[..., 0] - rows[2:, 1:], whole[2:, 1:])
    assert ((whole >= 0) & (whole <= 1)).all()
    assert stats.kstest(whole.double().ravel().numpy(), "uniform").pvalue > 1e-3
    for other in (draw(rows, networks, 8), draw(rows, networks + 1, 7), draw(rows, networks, None)):
        assert (other.columns[..., 0] - rows - whole).abs().max() > 0.5


@pytest.mark.parametrize("dimensions", [0, 1, 2, 3])
def test_cells_are_integrated(dimensions: int) -> None:
    """The integral of a smooth function over the unit cube, to 5e-3 on the lattice, 1e-10 by Gauss-Legendre."""
    u, weight = _quadrature(dimensions)
    assert weight.sum() == pytest.approx(1)
    found = weight @ np.exp(-u).prod(1)
    assert found == pytest.approx((1 - np.exp(-1)) ** dimensions, abs=5e-3 if dimensions > 2 else 1e-10)


# -- samples ----------------------------------------------------------------------------------------------------------


def test_samples_have_the_moments_of_the_exact_posterior() -> None:
    """At one x: means within 4 sigma, of the sample and of a fit to 5,000 events, and so the covariance."""
    at = linear()[1].select(slice(0, 1))
    mean, covariance = PROBLEM.posterior(matrix(at, "x", 3))
    draws = matrix(posterior().sample(10_000, at, seed=3), "theta", 2)
    sigma = np.sqrt(np.diag(covariance))
    # a regression on 3 columns leaves sqrt((3 + 1) / N) of the width as its error
    tolerance = 4 * sigma * np.sqrt(1 / 10_000 + 4 / 4800)
    assert (np.abs(draws.mean(0) - mean[0]) < tolerance).all()
    np.testing.assert_allclose(np.cov(draws.T), covariance, atol=4 * sigma.max() ** 2 * np.sqrt(2 / 10_000 + 8 / 4800))
    # draws for other events are elsewhere
    others = matrix(posterior().sample(4000, linear()[1], seed=3), "theta", 2)
    assert np.abs(others.std(0) - sigma).min() > 0.2


def test_samples_follow_log_prob() -> None:
    """Kolmogorov-Smirnov of 5,000 draws against the integral of the density that `log_prob` gives."""
    density = fitted(named(mixture(3000, 1, 1)), ["y0"], members=2, training=TINY)
    grid = np.linspace(-12, 12, 20_001)
    cumulated = np.cumsum(np.exp(density.log_prob(named(grid[:, None])))) * (grid[1] - grid[0])
    draws = density.sample(5000, seed=1)["y0"]
    assert stats.kstest(draws, lambda y: np.interp(y, grid, cumulated)).pvalue > 1e-3
    assert stats.kstest(draws, stats.norm(draws.mean(), draws.std()).cdf).pvalue < 1e-6
    np.testing.assert_array_equal(draws, density.sample(5000, seed=1)["y0"])
    assert not np.isin(density.sample(100, seed=2)["y0"], draws).any()


def test_members_are_drawn_equally() -> None:
    """Two members whose bootstraps are set far apart by hand give half of the draws each."""
    density = fitted(named(gaussian(500, 1, 1)), ["y0"], members=2, network=MAF(transforms=1, width=4), training=TINY)
    state = {name: t.clone() for name, t in density.model.state.items()}
    last = max(name for name in state if name.endswith("bias"))
    state[last][1, 0] += 100.0
    moved = replace(density, model=replace(density.model, state=state))
    far = moved.sample(2000, seed=1)["y0"] < density.sample(2000, seed=1)["y0"].min() - 20
    assert far.mean() == pytest.approx(0.5, abs=4 * 0.5 / np.sqrt(2000))


# -- members, folds, groups, files ------------------------------------------------------------------------------------


def test_the_ensembles_answer_is_the_log_of_the_mean_density() -> None:
    events = linear()[1]
    members = posterior().members(events)
    assert members.shape == (2, len(events))
    assert members.dtype == np.float64
    np.testing.assert_allclose(posterior().log_prob(events), np.log(np.exp(members).mean(0)), rtol=1e-12)
    assert np.std(members[0] - members[1]) > 1e-3


@pytest.mark.parametrize("network", [SMALL, MAF(transforms=2, width=16)])
@pytest.mark.parametrize("discrete", [[], ["n"]])
def test_member_k_does_not_depend_on_the_number_of_members(network: Flow, discrete: list[str]) -> None:
    rng = np.random.default_rng(1)
    events = Events({"n": rng.poisson(3.0, 500), "y": rng.normal(size=500), "x": rng.normal(size=500)})
    options = {"condition": ["x"], "network": network, "discrete": discrete, "training": TINY, "bootstrap": True}
    columns = ["y", *discrete]
    few, many = (fitted(events, columns, members=k, **options).members(events) for k in (1, 3))
    np.testing.assert_allclose(few[0], many[0], atol=2e-3)
    assert np.abs(many[0] - many[1]).max() > 0.05


def test_the_same_seed_gives_the_same_bits() -> None:
    events = linear()[0].select(slice(0, 500))
    one, same, other = (fitted(events, **POSTERIOR, training=TINY, members=2, seed=s) for s in (1, 1, 2))
    np.testing.assert_array_equal(one.members(events), same.members(events))
    assert np.abs(one.members(events) - other.members(events)).max() > 0.01


def test_known_ids_get_their_own_fold_and_others_the_mean() -> None:
    events = linear()[0].select(slice(0, 600))
    density = fitted(events, **POSTERIOR, training=TINY, members=2, folds=3)
    new = Events({name: events[name] for name in events.columns}, id=np.arange(600) + 10**12)
    whole = replace(density, resample=replace(density.resample, members=6, folds=1))
    each = whole.members(events).reshape(2, 3, 600)
    own = density.resample.fold_of(events.id)
    np.testing.assert_array_equal(density.members(events), each[:, own, np.arange(600)])
    np.testing.assert_allclose(density.members(new), np.log(np.exp(each).mean(1)), rtol=1e-9)
    # so do the draws for an event: those of a density whose other folds are spoilt are sound
    state = {name: t.clone() for name, t in density.model.state.items()}
    for name in state:
        state[name][[n for n in range(6) if n % 3 != own[0]]] = torch.nan
    spoilt = replace(density, model=replace(density.model, state=state))
    assert np.isfinite(spoilt.sample(50, events.select(slice(0, 1)), seed=1)["theta0"]).all()
    assert not np.isfinite(spoilt.sample(50, new.select(slice(0, 1)), seed=1)["theta0"]).all()


def test_out_of_fold_scores_are_honest_where_a_flow_remembers() -> None:
    """A flow that has learned 150 events by heart scores them above any truth; out of fold it does not."""
    events = linear()[0].select(slice(0, 150))
    exact = log_posterior(events).mean()
    keen = Training(epochs=60, batch=50, learning_rate=2e-2)
    options = {"training": keen, "network": NSF(transforms=1, width=64), "validation": 0.0}
    assert fitted(events, **POSTERIOR, **options).log_prob(events).mean() > exact + 0.5
    assert fitted(events, **POSTERIOR, **options, folds=2).log_prob(events).mean() < exact


def test_groups_stay_together() -> None:
    """Copies of one parent with ids of their own: with group= an event's own copy is never trained on."""
    parents = linear()[0].select(slice(0, 200))
    both = Events.concat([parents, parents]).with_columns(parent=np.tile(np.arange(200), 2))
    both = Events({name: both[name] for name in both.columns}, id=np.arange(400))
    density = fitted(both, **POSTERIOR, training=TINY, folds=2, group="parent")
    fold = density.resample.fold_of(density._key(both))
    np.testing.assert_array_equal(fold[:200], fold[200:])
    with pytest.raises(KeyError, match="no column 'parent'"):
        density.log_prob(both.keep(linear()[0].columns))


@pytest.mark.parametrize("what", ["flat", "discrete", "ragged", "alone"])
def test_saved_and_loaded_answers_are_equal_to_the_bit(what: str, tmp_path: Path) -> None:
    cloudy, _ = clouds(300, 1)
    cloudy = cloudy.with_columns(n=np.random.default_rng(1).poisson(3.0, 300))
    options: dict[str, Any] = {
        "flat": {"columns": ["y"], "condition": ["noise"], "network": MAF(width=8), "folds": 2},
        "discrete": {"columns": ["n", "y"], "discrete": ["n"], "bounds": {"n": (0, None), "y": (-9, 9)}},
        "ragged": {"columns": ["y"], "condition": Features(["noise"], hits=["q"]), "bootstrap": True},
        "alone": {"columns": ["y"], "group": "n"},
    }[what]
    density = fitted(cloudy, **options, members=2, training=TINY)
    density.save(tmp_path / "q.safetensors")
    again = Density.load(tmp_path / "q.safetensors")
    np.testing.assert_array_equal(again.members(cloudy), density.members(cloudy))
    given = None if density.condition is None else cloudy
    for name in density.columns:
        np.testing.assert_array_equal(again.sample(300, given, seed=1)[name], density.sample(300, given, seed=1)[name])
    for field in ("targets", "condition", "network", "embedding", "summaries", "resample", "sum_weights", "group"):
        assert getattr(again, field) == getattr(density, field), field
    np.testing.assert_array_equal(again.history.validation, density.history.validation)
    np.testing.assert_array_equal(again.known, density.known)
    assert repr(again) == repr(density)
    assert again.sample_digest == cloudy.digest()


def test_damaged_files_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "q.safetensors"
    posterior().save(path)
    content = bytearray(path.read_bytes())
    content[-5] ^= 1
    path.write_bytes(content)
    with pytest.raises(CorruptFile):
        Density.load(path)
    with pytest.raises(FileNotFoundError):
        Density.load(tmp_path / "other.safetensors")


def test_repr_says_what_it_is() -> None:
    assert repr(posterior()) == "Density(MAF, 2 members, q(theta0, theta1 | x0, x1, x2); sum of weights 6000)"
    assert posterior().history.train.shape == (10, 2)


def test_a_checkpoint_is_resumed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """To the bit, with noise of discrete columns, after an interruption."""
    events = Events({"n": np.random.default_rng(1).poisson(3.0, 400)})
    options: dict[str, Any] = {"discrete": ["n"], "members": 2, "training": Training(epochs=4, batch=100)}
    whole = fitted(events, ["n"], **options)
    run = train._Loop.run_epoch

    def interrupted(loop: Any) -> None:
        if loop.epoch == 2:
            raise KeyboardInterrupt
        run(loop)

    path = tmp_path / "checkpoint.safetensors"
    monkeypatch.setattr(train._Loop, "run_epoch", interrupted)
    with pytest.raises(KeyboardInterrupt):
        fitted(events, ["n"], **options, checkpoint=path)
    monkeypatch.undo()
    resumed = fitted(events, ["n"], **options, checkpoint=path)
    np.testing.assert_array_equal(resumed.members(events), whole.members(events))
    with pytest.raises(ValueError, match="belongs to another configuration"):
        fitted(events, ["n"], **{**options, "network": MAF()}, checkpoint=path)


@pytest.mark.parametrize("discrete", [[], ["n"]])
def test_columns_mapped_from_files_give_as_good_an_answer(discrete: list[str], tmp_path: Path) -> None:
    """In another order of the rows: equal but for training noise; noise of discrete columns goes with its row."""
    rng = np.random.default_rng(1)
    n = rng.poisson(3.0, 2000)
    events = Events({"n": n, "y": rng.normal(n, 1.0), "x": rng.normal(size=2000)})
    options: dict[str, Any] = {"condition": ["x"], "discrete": discrete, "columns": ["y", *discrete]}
    plain, mapped = (fitted(events, **options, cache=cache) for cache in (None, tmp_path))
    assert list(tmp_path.glob("*.npy"))
    assert excess(plain.log_prob(events), mapped.log_prob(events)) == pytest.approx(0, abs=0.02)


def test_patience_stops_and_gives_back_the_best() -> None:
    events = linear()[0].select(slice(0, 300))
    keen = Training(epochs=60, batch=50, learning_rate=5e-3, patience=3)
    density = fitted(events, **POSTERIOR, training=keen, members=2, network=NSF(transforms=1, width=64))
    assert len(density.history.train) < 60
    best = np.nanmin(density.history.validation, 0)
    np.testing.assert_array_equal(density.history.validation[density.history.best_epoch, [0, 1]], best)


# -- in torch ---------------------------------------------------------------------------------------------------------


def test_tensor_is_the_differentiable_twin() -> None:
    """log_prob, and its gradient in y and x against the exact posterior's score."""
    events = linear()[1].select(slice(0, 400))
    theta, x = (torch.from_numpy(matrix(events, a, d)).requires_grad_() for a, d in (("theta", 2), ("x", 3)))
    found = posterior().tensor(theta, x)
    assert found.dtype == torch.float64
    np.testing.assert_allclose(found.detach(), posterior().log_prob(events), atol=1e-5)
    in_y, in_x = torch.autograd.grad(found.sum(), [theta, x])
    mean, covariance = PROBLEM.posterior(matrix(events, "x", 3))
    score = -np.linalg.solve(covariance, (matrix(events, "theta", 2) - mean).T).T
    near = np.abs(matrix(events, "x", 3)).max(1) < 2.5
    assert np.sqrt(np.mean((in_y.numpy() - score)[near] ** 2)) < 0.2 * np.sqrt(np.mean(score**2))
    assert (in_x.abs().sum(1) > 0).all()


def test_tensor_knows_bounds_order_and_clouds() -> None:
    cloudy, _ = clouds(200, 1)
    cloudy = cloudy.with_columns(n=np.random.default_rng(1).poisson(3.0, 200))
    density = fitted(
        cloudy, ["n", "y"], condition=Features([], hits=["q"]), discrete=["n"], bounds={"y": (-9, 9)}, training=TINY,
        folds=2,
    )  # fmt: skip
    y = torch.from_numpy(np.stack([cloudy["n"], cloudy["y"]], 1).astype(float))
    y[0, 1] = 10.0
    new = Events({name: cloudy[name] for name in cloudy.columns}, id=np.arange(200) + 10**12)
    found = density.tensor(y, Features([], hits=["q"]).tensors(cloudy).span(0, 200))
    np.testing.assert_allclose(found[1:], density.log_prob(new)[1:], atol=1e-5)
    assert found[0] == -np.inf
    for wrong in (torch.zeros(200, 2), None):
        with pytest.raises(ValueError, match="x: expected 200 rows of 0 flat columns and the clouds"):
            density.tensor(y, wrong)
    with pytest.raises(ValueError, match="y: expected"):
        density.tensor(y[:, :1], None)


def test_another_default_precision_of_torch_changes_nothing() -> None:
    events = linear()[0].select(slice(0, 300))
    plain = fitted(events, **POSTERIOR, training=TINY)
    alone = fitted(events, ["theta0"], training=TINY)
    torch.set_default_dtype(torch.float64)
    try:
        other, other_alone = fitted(events, **POSTERIOR, training=TINY), fitted(events, ["theta0"], training=TINY)
        np.testing.assert_array_equal(other.members(events), plain.members(events))
        np.testing.assert_array_equal(other_alone.members(events), alone.members(events))
        np.testing.assert_array_equal(other_alone.sample(9, seed=1)["theta0"], alone.sample(9, seed=1)["theta0"])
    finally:
        torch.set_default_dtype(torch.float32)


def test_training_does_not_load_torchs_compiler() -> None:
    """One CPU second in every process, which is as much as many a fit."""
    code = """
import sys, nuinfer as nu
from nuinfer.density import fit_density
events = nu.Events({'x': [0.0, 1.0, 2.0, 3.5], 'y': [0.5, 1.5, 2.5, 3.0]})
q = fit_density(events, ['x'], condition=['y'], members=2, validation=0.0, training=nu.Training(epochs=1, batch=4),
                progress=False)
q.log_prob(events)
print(sorted({'sympy', 'torch._dynamo'} & set(sys.modules)))
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


# -- is it good? ------------------------------------------------------------------------------------------------------


def test_report_of_a_good_density() -> None:
    test = linear()[1].select(slice(0, 1000))
    report = posterior().report(test, seed=1)
    assert report.ranks.shape == (2, 1000)
    assert (report.p_values > 1e-3).all()
    assert report.mean_log_prob == pytest.approx(posterior().log_prob(test).mean())
    assert report.outside == 0
    assert (np.abs(report.shift) < 4).all()
    np.testing.assert_allclose(report.spread, 1, atol=4 * np.sqrt(0.2 / 1000))
    # events of weight 0 do not count, whatever they are
    junk = test.with_columns(theta0=test["theta0"] + 3.0).with_weight(0.0)
    both = posterior().report(Events.concat([test, junk]), seed=1)
    assert both.mean_log_prob == pytest.approx(report.mean_log_prob)
    assert (both.p_values > 1e-3).all()
    assert (np.abs(both.shift) < 4).all()
    assert "theta1: ranks uniform p =" in str(report)


@pytest.mark.parametrize("wrong", ["shifted", "wide"])
def test_report_sees_what_is_wrong(wrong: str) -> None:
    test = linear()[1].select(slice(0, 1000))
    mean = PROBLEM.posterior(matrix(test, "x", 3))[0][:, 0]
    theta = test["theta0"] + 0.15 if wrong == "shifted" else mean + 0.5 * (test["theta0"] - mean)
    report = posterior().report(test.with_columns(theta0=theta), seed=1)
    assert report.p_values[0] < 1e-6
    assert (report.shift[0] > 5) == (wrong == "shifted")
    assert (report.spread[0] < 0.8) == (wrong == "wide")
    # in the ranks of the right column nothing is wrong
    assert report.p_values[1] > 1e-3


def test_report_counts_what_lies_outside() -> None:
    rng = np.random.default_rng(1)
    density = fitted(Events({"y": rng.random(1000)}), ["y"], bounds={"y": (0, 1)}, training=TINY)
    report = density.report(Events({"y": np.linspace(0.01, 1.99, 200)}))
    assert report.outside == pytest.approx(0.5)
    assert np.isfinite(report.mean_log_prob)
    assert "q is 0 for 0.5 of the weight" in str(report)


# -- bad input --------------------------------------------------------------------------------------------------------

GOOD = Events({"y": np.linspace(0.1, 0.9, 50), "x": np.arange(50.0), "n": np.arange(50) % 3, "c": np.ones(50)})
NAN = GOOD.with_columns(y=np.where(np.arange(50) == 7, np.nan, GOOD["y"]))


@pytest.mark.parametrize(
    ("events", "columns", "options", "error", "message"),
    [
        (GOOD, ["z"], {}, KeyError, "no column 'z'"),
        (GOOD, ["y"], {"condition": ["w"]}, KeyError, "no column 'w'"),
        (GOOD, [], {}, ValueError, "columns: expected at least one name"),
        (GOOD, ["y", "y"], {}, ValueError, "each once, found \\['y', 'y'\\]"),
        (GOOD, "y", {}, TypeError, "found the single string 'y'"),
        (NAN, ["y"], {}, ValueError, "found 1 of 50 not finite, first at rows 7"),
        (NAN, ["x"], {"condition": ["y"]}, ValueError, "found 1 of 50 not finite, first at rows 7"),
        (GOOD, ["y"], {"bounds": {"y": (0.5, 1)}}, ValueError,
         "in \\(0.5, 1.0\\), found 25 of 50 others, first at rows 0, 1, 2, 3, 4"),
        (GOOD, ["x"], {"bounds": {"x": (0, None)}}, ValueError, "in \\(0.0, None\\), found 1 of 50 others, first"),
        (GOOD, ["n"], {"discrete": ["n"], "bounds": {"n": (0, 1)}}, ValueError, "in \\[0.0, 1.0\\], found 16"),
        (GOOD, ["y"], {"discrete": ["y"]}, ValueError, "discrete column 'y': expected integers, found 50 of 50 others"),
        (GOOD, ["y"], {"discrete": ["n"]}, KeyError, "discrete: no column 'n'"),
        (GOOD, ["y"], {"bounds": {"Y": (0, 1)}}, KeyError, "bounds: no column 'Y'"),
        (GOOD, ["y"], {"bounds": {"y": (1, 0)}}, ValueError, "expected low < high"),
        (GOOD, ["y"], {"bounds": {"y": 3}}, ValueError, "expected a pair"),
        (GOOD, ["y"], {"bounds": {"y": (np.nan, 1)}}, ValueError, "expected numbers or None"),
        (GOOD, ["n"], {"discrete": ["n"], "bounds": {"n": (-0.5, None)}}, ValueError, "first and the last integer"),
        (GOOD, ["c"], {}, ValueError, "column 'c': expected values that vary"),
        (GOOD, ["y"], {"condition": ["x", "y"]}, ValueError, "other columns than those of the density, found y"),
        (GOOD, ["y"], {"embedding": MLP()}, ValueError, "embedding: expected a condition"),
        (GOOD, ["y"], {"condition": ["x"], "embedding": Trees()}, TypeError, "expected a spec such as MLP"),
        (GOOD, ["y"], {"network": MLP()}, TypeError, "network: expected NSF"),
        (GOOD, ["y"], {"condition": ["x"], "summaries": 0}, ValueError, "summaries: expected an integer"),
        (GOOD.select(slice(0, 0)), ["y"], {}, ValueError, "events"),
        (GOOD.with_weight(-1.0), ["y"], {}, ValueError, "events"),
        (GOOD, ["y"], {"members": 0}, ValueError, "expected whole numbers of members and folds"),
        (GOOD, ["y"], {"group": "x"}, TypeError, "group column 'x': expected integers"),
    ],
)  # fmt: skip
def test_bad_input_is_refused(events: Events, columns: Any, options: Any, error: Any, message: str) -> None:
    with pytest.raises(error, match=message):
        fitted(events, columns, **options, **({} if "training" in options else {"training": TINY}))


@cache
def simple() -> Density:
    return fitted(GOOD, ["y", "n"], condition=["x"], bounds={"y": (0, 1)}, discrete=["n"], training=TINY)


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda q: q.sample(0, GOOD), ValueError, "n: expected a whole number of at least 1, found 0"),
        (lambda q: q.sample(1.5, GOOD), ValueError, "n: expected a whole number"),
        (lambda q: q.sample(5), ValueError, "condition: expected events with x, found none"),
        (lambda q: q.sample(5, GOOD), ValueError, "condition: expected 5 events or one, found 50"),
        (lambda q: q.sample(50, GOOD.keep(["y"])), KeyError, "no column 'x'"),
        (lambda q: q.log_prob(GOOD.keep(["y", "n"])), KeyError, "no column 'x'"),
        (lambda q: q.log_prob(GOOD.keep(["y", "x"])), KeyError, "no column 'n'"),
        (lambda q: q.log_prob(NAN), ValueError, "found 1 of 50 not finite"),
        (lambda q: q.log_prob(GOOD.with_columns(n=GOOD["x"] + 0.5)), ValueError, "expected integers"),
        (lambda q: q.log_prob(GOOD.with_columns(y=Ragged.of([[1.0]] * 50))), TypeError, "expected a flat column"),
    ],
)
def test_a_fitted_density_refuses(call: Any, error: Any, message: str) -> None:
    with pytest.raises(error, match=message):
        call(simple())


def test_a_density_alone_refuses_a_condition() -> None:
    with pytest.raises(ValueError, match="condition: expected none, found 50 events"):
        fitted(GOOD, ["y"], training=TINY).sample(50, GOOD)


def test_no_events_have_no_densities() -> None:
    assert simple().members(GOOD.select(slice(0, 0))).shape == (1, 0)


def test_columns_in_any_order_of_evaluation() -> None:
    """Pieces do not matter, and the columns' table is what is saved."""
    columns = simple().targets
    assert columns.order == [0, 1]
    assert Columns.of(["n", "y"], {}, ["n"]).order == [1, 0]
    assert Columns.from_json(columns.to_json()) == columns
    assert float(columns.nodes()[1].exp().sum()) == pytest.approx(1)
