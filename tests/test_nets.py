"""`nuinfer.nets`: stacks against separate networks written out with torch.nn, one event at a time."""

from __future__ import annotations

import copy
from collections.abc import Callable
from itertools import pairwise
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import ArrayLike
from scipy import stats
from torch import Tensor, nn

from nuinfer import MLP, DeepSet, Events, Features, Ragged, Transformer, nets
from nuinfer.features import Batch, CloudBatch, Inputs, Shape
from nuinfer.nets import ModuleStack, Standardise, Workspace

ACTIVATIONS = {"relu": nn.ReLU, "silu": nn.SiLU, "gelu": nn.GELU}
K, B, D = 3, 7, 4


def random(*shape: int, seed: int = 1) -> Tensor:
    return torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def randomised(state: nets.State, seed: int = 1) -> nets.State:
    """The same tensors in double precision with random numbers, the last (zero) layer too."""
    rng = torch.Generator().manual_seed(seed)
    return {n: torch.randn(t.shape, dtype=torch.float64, generator=rng) * 0.5 for n, t in state.items()}


def flat_batch(seed: int = 1) -> Batch:
    return Batch(random(K, B, D, seed=seed), {})


# -- the perceptron ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("activation", ACTIVATIONS)
@pytest.mark.parametrize(("residual", "width"), [(False, 5), (True, 5), (True, D)])
@pytest.mark.parametrize("outputs", [1, 3])
@pytest.mark.parametrize("depth", [1, 3])
def test_fused_training_path_equals_autograd(
    activation: Any, residual: bool, width: int, outputs: int, depth: int
) -> None:
    spec = MLP(width=width, depth=depth, activation=activation, residual=residual)
    stack = spec.stack(Shape(D), outputs)
    state = {n: t.requires_grad_() for n, t in randomised(stack.initial(1, range(K))).items()}
    x = random(K, B, D).requires_grad_()
    weight = random(K, B, outputs, seed=5).squeeze(-1)
    found = []
    for training in (True, True, False):  # twice fused: the second runs in used buffers
        out = stack(state, Batch(x, {}), training=training)
        assert out.shape == weight.shape
        found.append((out, *torch.autograd.grad((out.tanh() * weight).sum(), [x, *state.values()])))
    for fused in found[:2]:
        for one, other in zip(fused, found[2], strict=True):
            torch.testing.assert_close(one, other, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("activation", ACTIVATIONS)
@pytest.mark.parametrize("residual", [False, True])
def test_a_stack_equals_separate_networks(activation: Any, residual: bool) -> None:
    spec = MLP(width=5, depth=3, activation=activation, residual=residual)
    stack = spec.stack(Shape(D))
    state, batch = randomised(stack.initial(1, range(K))), flat_batch()
    for k in range(K):
        linears = [nn.Linear(a, b).double() for a, b in [(D, 5), (5, 5), (5, 5), (5, 1)]]
        for i, linear in enumerate(linears):
            linear.weight.data, linear.bias.data = state[f"layer.{i}.weight"][k], state[f"layer.{i}.bias"][k, 0]
        act = ACTIVATIONS[activation]()
        h = act(linears[0](batch.flat[k]))
        for linear in linears[1:-1]:
            h = h + act(linear(h)) if residual else act(linear(h))
        for training in (False, True):
            found = stack(state, batch, training=training)[k]
            torch.testing.assert_close(found, linears[-1](h)[:, 0], rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("residual", [False, True])
def test_a_second_forward_does_not_corrupt_the_first(residual: bool) -> None:
    stack = MLP(width=D, depth=3, residual=residual).stack(Shape(D))
    state = {n: t.requires_grad_() for n, t in randomised(stack.initial(1, range(K))).items()}
    batches = [flat_batch(seed) for seed in (1, 2)]
    alone = [torch.autograd.grad(stack(state, b).sum(), list(state.values())) for b in batches]
    for _ in range(2):  # the second round in buffers that were given back
        outputs = [stack(state, b, training=True).sum() for b in batches]
        for which in (0, 1):
            together = torch.autograd.grad(outputs[which], list(state.values()))
            for one, other in zip(together, alone[which], strict=True):
                torch.testing.assert_close(one, other, rtol=1e-12, atol=1e-12)


def test_a_frozen_input_needs_no_gradient_and_buffers_are_reused() -> None:
    stack = MLP(width=5, depth=2).stack(Shape(D))
    state = {n: t.requires_grad_() for n, t in randomised(stack.initial(1, range(K))).items()}

    def step() -> None:
        torch.autograd.grad(stack(state, flat_batch(), training=True).sum(), list(state.values()))

    def buffers() -> set[int]:
        work: Workspace = stack.work  # type: ignore[attr-defined]
        return {t.data_ptr() for free in work._free.values() for t in free}

    step()
    first = buffers()
    step()
    assert buffers() == first


def test_second_derivatives_of_the_fused_path_are_refused_not_wrong() -> None:
    stack = MLP(width=5, depth=2).stack(Shape(D))
    state, x = randomised(stack.initial(1, range(K))), random(K, B, D).requires_grad_()
    out = stack(state, Batch(x, {}), training=True)
    (slope,) = torch.autograd.grad((out**2).sum(), x, create_graph=True)
    with pytest.raises(RuntimeError, match="once_differentiable"):
        slope.sum().backward()


def test_initial_state_depends_on_seed_and_member_only() -> None:
    for network, shape in [
        (MLP(width=5), Shape(D)),
        (DeepSet(width=5, latent=3), Shape(1, (("hits", 2),))),
        (Transformer(width=8, heads=2, layers=1), Shape(0, (("hits", 2),))),
        (lambda: nn.Linear(D, 1), Shape(D)),
    ]:
        stack = nets.stack(network, shape)
        five, two, last = stack.initial(1, range(5)), stack.initial(1, [0, 3]), stack.initial(1, [3])
        for name, tensor in five.items():
            assert torch.equal(tensor[[0, 3]], two[name])
            assert torch.equal(tensor[3:4], last[name])
        assert any(not torch.equal(t[0], t[1]) for t in five.values())
        assert any(not torch.equal(t, stack.initial(2, range(5))[n]) for n, t in five.items())


def test_initial_weights_are_uniform_as_those_of_torch() -> None:
    """Within 1 / sqrt(inputs), variance 1 / (3 inputs) within 4 sigma (a uniform variance's is sqrt(4/5 / n) of it)."""
    state = MLP(width=64, depth=3).stack(Shape(D)).initial(1, range(K))
    for name, tensor in state.items():
        inputs = D if name.startswith("layer.0.") else 64
        bound = inputs**-0.5
        assert float(tensor.abs().max()) <= bound
        scatter = 4 * np.sqrt(0.8 / tensor.numel())
        assert float(tensor.square().mean()) == pytest.approx(bound**2 / 3, rel=scatter), name


# -- sets -------------------------------------------------------------------------------------------------------------

CLOUDS = Features(["a"], hits=["x", "q"], trk=["e"])


def make(n: int = 30, seed: int = 1) -> Events:
    rng = np.random.default_rng(seed)
    hits, trk = rng.poisson(2.0, n), rng.poisson(1.0, n)
    hits[:3], trk[1:5] = 0, 0
    columns: dict[str, Any] = {"a": rng.normal(size=n)}
    for name, counts in (("hits.x", hits), ("hits.q", hits), ("trk.e", trk)):
        columns[name] = Ragged(rng.normal(size=counts.sum()), np.append(0, np.cumsum(counts)))
    return Events(columns)


def shuffled(events: Events, seed: int = 1) -> Events:
    """The same events with the entries of each cloud in another order."""
    rng, columns = np.random.default_rng(seed), {}
    for cloud, fields in (("hits", "xq"), ("trk", "e")):
        offsets = events.ragged(f"{cloud}.{fields[0]}").offsets
        index = np.concatenate([rng.permutation(np.arange(a, b)) for a, b in pairwise(offsets)])
        for field in fields:
            columns[f"{cloud}.{field}"] = Ragged(events.ragged(f"{cloud}.{field}").values[index.astype(int)], offsets)
    return events.with_columns(columns)


EVENTS = make()
SETS: list[Any] = [
    *[DeepSet(width=5, latent=3, pool=pool, head=MLP(width=4, depth=2)) for pool in ("sum", "mean", "max")],
    Transformer(width=8, heads=2, layers=2, head=MLP(width=4, depth=2)),
]


def evaluated(network: Any, events: Events, members: int = 2) -> Tensor:
    stack = nets.stack(network, CLOUDS.shape)
    inputs = CLOUDS.tensors(events, dtype=np.float64)
    return stack(randomised(stack.initial(1, range(members))), inputs.span(0, len(events)).expand(members))


@pytest.mark.parametrize("network", SETS, ids=repr)
def test_sets_have_no_order(network: Any) -> None:
    one, other = evaluated(network, EVENTS), evaluated(network, shuffled(EVENTS))
    torch.testing.assert_close(one, other, rtol=1e-10, atol=1e-10)
    assert torch.isfinite(one).all()  # events 1 and 2 have no entries at all
    moved = EVENTS.ragged("hits.x")
    changed = evaluated(network, EVENTS.with_columns({"hits.x": Ragged(moved.values[::-1].copy(), moved.offsets)}))
    assert (changed - one).abs().max() > 1e-3  # entries that change their event do matter
    assert torch.equal(changed[:, 1:3], one[:, 1:3])


@pytest.mark.parametrize("network", SETS, ids=repr)
def test_an_event_does_not_depend_on_its_neighbours(network: Any) -> None:
    every = evaluated(network, EVENTS)
    for i in range(len(EVENTS)):
        torch.testing.assert_close(evaluated(network, EVENTS.select([i]))[:, 0], every[:, i], rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("pool", ["sum", "mean", "max"])
@pytest.mark.parametrize("training", [False, True])
def test_deepset_equals_a_loop_over_events(pool: Any, training: bool) -> None:
    network = DeepSet(width=5, latent=3, pool=pool, head=MLP(width=4, depth=2, residual=True), activation="gelu")
    stack = network.stack(CLOUDS.shape)
    state = randomised(stack.initial(1, range(K)))
    inputs = CLOUDS.tensors(EVENTS, dtype=np.float64)
    rows = torch.from_numpy(np.random.default_rng(2).integers(0, 30, (K, B)))
    found = stack(state, inputs.take(rows), training=training)

    def layers(name: str, k: int, x: Tensor, act: Callable[[Tensor], Tensor], residual: bool) -> Tensor:
        for i in range(3):
            z = x @ state[f"{name}.{i}.weight"][k].T + state[f"{name}.{i}.bias"][k, 0]
            x = z if i == 2 else (x + act(z) if residual and i else act(z))
        return x

    for k in range(K):
        for b in range(B):
            event, parts = int(rows[k, b]), [inputs.flat[rows[k, b]]]
            for name, width in (("hits", 2), ("trk", 1)):
                values, offsets = inputs.clouds[name]
                x = values[offsets[event] : offsets[event + 1]]
                assert x.shape[1] == width
                latent = layers(f"phi.{name}", k, x, nn.functional.gelu, False)
                pooled = {"sum": lambda v: v.sum(0), "mean": lambda v: v.mean(0), "max": lambda v: v.max(0).values}
                parts += [pooled[pool](latent) if len(x) else torch.zeros(3, dtype=torch.float64)]
                parts += [torch.log1p(torch.tensor([float(len(x))], dtype=torch.float64))]
            expected = layers("rho", k, torch.cat(parts)[None], nn.functional.silu, True)[0, 0]
            torch.testing.assert_close(found[k, b], expected, rtol=1e-11, atol=1e-11)


@pytest.mark.parametrize("network", SETS[:3], ids=repr)
def test_deepset_gradients_equal_autograd(network: Any) -> None:
    stack = network.stack(CLOUDS.shape)
    state = {n: t.requires_grad_() for n, t in randomised(stack.initial(1, range(K))).items()}
    inputs = CLOUDS.tensors(EVENTS, dtype=np.float64)
    batch = inputs.take(torch.from_numpy(np.random.default_rng(2).integers(0, 30, (K, B))))
    found = [
        torch.autograd.grad(stack(state, batch, training=t).tanh().sum(), list(state.values())) for t in (True, False)
    ]
    for one, other in zip(*found, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-12, atol=1e-12)


def test_transformer_equals_a_loop_over_events_without_padding() -> None:
    """One event with all its tokens and no mask is plain attention: the padded batch has to agree with it."""
    network = SETS[3]
    stack = nets.stack(network, CLOUDS.shape)
    state = randomised(stack.initial(1, [0]))
    module = stack.module.double()  # type: ignore[attr-defined]
    module.load_state_dict({n: t[0] for n, t in state.items()})
    inputs = CLOUDS.tensors(EVENTS, dtype=np.float64)
    found = stack(state, inputs.span(0, 30))[0]
    for i in range(30):
        tokens = []
        for embed, name in zip(module.embed, ("hits", "trk"), strict=True):
            values, offsets = inputs.clouds[name]
            tokens.append(embed(values[offsets[i] : offsets[i + 1]]))
        counts = torch.tensor([len(t) for t in tokens], dtype=torch.float64)
        x = torch.cat([*tokens, torch.zeros(1, 8, dtype=torch.float64)])
        for block in module.blocks:
            q, k, v = block.qkv(block.norm1(x)).view(len(x), 3, 2, 4).permute(1, 2, 0, 3)
            mixed = torch.softmax(q @ k.transpose(1, 2) / 4**0.5, -1) @ v
            x = x + block.out(mixed.transpose(0, 1).reshape(len(x), 8))
            x = x + block.mlp(block.norm2(x))
        pooled = module.norm(x).mean(0)
        expected = module.rho(torch.cat([inputs.flat[i], pooled, torch.log1p(counts)])[None])[0, 0]
        torch.testing.assert_close(found[i], expected, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("network", SETS, ids=repr)
def test_clouds_alone_and_dotted_names(network: Any) -> None:
    """No flat column; clouds of which one name begins with the other, and one that torch knows as a method."""
    features = Features(**{"a": ["x"], "a.b": ["x"], "keys": ["x"]})
    one, two = Ragged.of([[1.0], [], [2.0, 3.0]]), Ragged.of([[], [0.5, -1.0], []])
    events = Events({"a.x": one, "a.b.x": two, "keys.x": one})
    inputs = features.tensors(events, dtype=np.float64)
    stack = nets.stack(network, features.shape)
    scaled = Standardise.fit(inputs, torch.ones(3))
    found = stack(randomised(stack.initial(1, range(2))), scaled(inputs.span(0, 3)).expand(2), training=True)
    assert found.shape == (2, 3)
    assert torch.isfinite(found).all()


# -- modules of others ------------------------------------------------------------------------------------------------


def two_layers() -> nn.Module:
    return nn.Sequential(nn.Linear(D, 6), nn.Tanh(), nn.Linear(6, 1))


def test_loop_equals_vmap_equals_the_modules_themselves() -> None:
    loop, vmap = ModuleStack(two_layers), ModuleStack(two_layers, by="vmap")
    state = {n: t.requires_grad_() for n, t in randomised(loop.initial(1, range(K))).items()}
    found = []
    for stack in (loop, vmap):
        out = stack(state, flat_batch(), training=True)
        found.append((out, *torch.autograd.grad(out.tanh().sum(), list(state.values()))))
    for one, other in zip(*found, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-12, atol=1e-12)
    for k in range(K):
        module = two_layers().double()
        module.load_state_dict({n: t[k] for n, t in state.items()})
        torch.testing.assert_close(found[0][0][k], module(flat_batch().flat[k])[:, 0], rtol=1e-12, atol=1e-12)


def test_buffers_are_updated_for_each_member() -> None:
    def factory() -> nn.Module:
        return nn.Sequential(nn.BatchNorm1d(D, momentum=1.0), nn.Linear(D, 1))

    stack = ModuleStack(factory)
    state = stack.initial(1, range(K))
    assert stack.trainable(state) == ("0.weight", "0.bias", "1.weight", "1.bias")
    x = flat_batch().flat.float() + torch.arange(K)[:, None, None]
    stack(state, Batch(x, {}), training=True)
    torch.testing.assert_close(state["0.running_mean"], x.mean(1))
    torch.testing.assert_close(state["0.running_var"], x.var(1))
    assert state["0.num_batches_tracked"].tolist() == [1] * K
    before = {n: t.clone() for n, t in state.items()}
    stack(state, Batch(x, {}))  # evaluation leaves them
    assert all(torch.equal(t, before[n]) for n, t in state.items())


def test_shared_and_frozen_parameters() -> None:
    class Tied(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.b, self.out = nn.Linear(D, D), nn.Linear(D, D), nn.Linear(D, 1)
            self.b.weight = self.a.weight
            self.out.bias.requires_grad_(False)
            self.register_buffer("shift", torch.randn(D), persistent=False)

        def forward(self, x: Tensor) -> Tensor:
            return self.out(self.b(self.a(x).tanh() + self.shift))  # type: ignore[no-any-return]

    stack = ModuleStack(Tied)
    state = stack.initial(1, range(K))
    assert stack.trainable(state) == ("a.weight", "a.bias", "b.bias", "out.weight")
    assert set(state) == {*stack.trainable(state), "out.bias", "shift"}  # the shift is a random draw of each member
    assert stack(state, Batch(flat_batch().flat.float(), {})).shape == (K, B)


def test_random_numbers_are_each_members_own_and_the_users_generator_is_left_alone() -> None:
    torch.manual_seed(7)
    before = torch.get_rng_state()
    stack = ModuleStack(lambda: nn.Sequential(nn.Linear(D, 50), nn.Dropout(0.5), nn.Linear(50, 1)))
    state, batch = stack.initial(1, range(K)), Batch(flat_batch().flat.float(), {})
    stack.reseed(lambda: [11, 12, 13])
    one = stack(state, batch, training=True)
    stack.reseed(lambda: [13])
    last = stack({n: t[2:] for n, t in state.items()}, batch.members(2, 3), training=True)
    stack.reseed(lambda: [12, 12, 12])
    other = stack(state, batch, training=True)
    assert torch.equal(one[2:], last)
    assert torch.equal(one[1], other[1])
    assert not torch.equal(one[0], other[0])
    assert torch.equal(stack(state, batch), stack(state, batch))
    assert torch.equal(torch.get_rng_state(), before)


def test_a_users_module_sees_clouds() -> None:
    class Count(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.scale = nn.Parameter(torch.ones(()))

        def forward(self, flat: Tensor, clouds: dict[str, CloudBatch]) -> Tensor:
            return self.scale * (clouds["hits"].counts()[0] + flat[:, 0])

    stack = nets.stack(Count, CLOUDS.shape)
    inputs = CLOUDS.tensors(EVENTS)
    found = stack(stack.initial(1, range(2)), inputs.span(0, 30).expand(2))
    expected = EVENTS["hits.x"].counts + EVENTS["a"]
    np.testing.assert_allclose(found, np.stack([expected, expected]), rtol=1e-6)


# -- standardisation --------------------------------------------------------------------------------------------------


def test_standardise_gives_mean_0_and_deviation_1_under_absolute_weights() -> None:
    inputs = CLOUDS.tensors(EVENTS)
    weight = torch.randn(30, generator=torch.Generator().manual_seed(1))
    assert (weight < 0).any()
    scaled = Standardise.fit(inputs, weight)(inputs.span(0, 30))
    size = weight.abs()
    mean, square = (torch.sum(size * scaled.flat[0, :, 0] ** p) / size.sum() for p in (1, 2))
    assert mean == pytest.approx(0, abs=1e-6)
    assert square == pytest.approx(1, abs=1e-5)
    cloud = scaled.clouds["hits"]
    each = size[cloud.owner[0]]
    for i in range(2):
        assert torch.sum(each * cloud.values[0, :, i]) / each.sum() == pytest.approx(0, abs=1e-6)
        assert torch.sum(each * cloud.values[0, :, i] ** 2) / each.sum() == pytest.approx(1, abs=1e-5)


def test_standardise_leaves_the_scale_of_constant_and_empty_columns() -> None:
    events = Events({"c": np.full(5, 0.1), "z": np.zeros(5), "h.x": Ragged.of([[]] * 5)})
    scale = Standardise.fit(Features(["c", "z"], h=["x"]).tensors(events), torch.ones(5))
    torch.testing.assert_close(scale.flat.mean, torch.tensor([0.1, 0.0]))
    assert scale.flat.scale.tolist() == [1.0, 1.0]
    assert scale.clouds["h"].scale.tolist() == [1.0]
    for seed in range(10):  # sums that round
        weight = torch.rand(1000, generator=torch.Generator().manual_seed(seed))
        assert Standardise.fit(Inputs(torch.full((1000, 1), 0.1)), weight).flat.scale.tolist() == [1.0]
    small = Standardise.fit(Inputs(torch.tensor([[1e-20], [3e-20]])), torch.ones(2))
    assert small.flat.scale.item() == pytest.approx(1e-20)  # small, but not constant
    nothing = Standardise.fit(Inputs(torch.ones(2, 1)), torch.zeros(2))
    assert nothing.flat.scale.tolist() == [1.0]


def normal(p: ArrayLike) -> Any:
    return stats.norm.ppf(p)


@pytest.mark.parametrize("scaling", ["moments", "ranks"])
def test_standardise_survives_arrays(scaling: nets.Scaling) -> None:
    scale = Standardise.fit(CLOUDS.tensors(EVENTS), torch.ones(30), scaling)
    again = Standardise.of_arrays(copy.deepcopy(scale.arrays()))
    batch = CLOUDS.tensors(EVENTS).span(0, 30)
    assert torch.equal(again(batch).flat, scale(batch).flat)
    for name in scale.clouds:
        assert torch.equal(again(batch).clouds[name].values, scale(batch).clouds[name].values)
    assert scale.to("cpu", torch.float64).clouds["trk"].mean.dtype == torch.float64
    assert any("knots" in name for name in scale.arrays()) == (scaling == "ranks")


def test_ranks_become_normal_scores() -> None:
    """A column over many orders of magnitude, exp(5 z), becomes z up to the distance of the knots."""
    z = torch.from_numpy(normal((np.arange(4000) + 0.5) / 4000)).float()
    x = torch.stack([torch.exp(5 * z), -z], 1)[torch.randperm(4000, generator=torch.Generator().manual_seed(1))]
    scale = nets.Scale.fit(x, torch.ones(4000, dtype=torch.float64), "ranks")
    found = scale(x)
    order = x[:, 0].argsort()
    inner = slice(20, -20)
    torch.testing.assert_close(found[order, 0][inner], z[inner], atol=0.06, rtol=0)
    torch.testing.assert_close(found[order, 1][inner], -z[inner], atol=0.02, rtol=0)
    assert (found[order, 0].diff() > 0).all()
    plain = nets.Scale.fit(x, torch.ones(4000, dtype=torch.float64), "moments")(x)
    assert plain[order, 0][:3000].std() < 0.01  # what a network would see of most events


def test_ranks_beyond_the_sample_and_ties() -> None:
    """Values beyond the sample grow like a logarithm, ties get the middle of their ranks, a constant is one number."""
    x = torch.cat([torch.zeros(600), torch.arange(1.0, 401.0)])[:, None]
    scale = nets.Scale.fit(torch.cat([x, torch.full_like(x, 7.0)], 1), torch.ones(1000, dtype=torch.float64), "ranks")
    at = torch.tensor([[0.0], [200.0], [400.0], [4000.0], [4e6], [-1.0]])
    found = scale(torch.cat([at, torch.full_like(at, 7.0)], 1))
    assert found[0, 0].item() == pytest.approx(normal(0.3), abs=1e-5)
    assert found[1, 0].item() == pytest.approx(normal(0.8), abs=0.02)
    assert (found[1:5, 0].diff() > 0).all()
    assert found[4, 0] < 20
    assert found[5, 0] < found[0, 0]
    assert (found[:, 1] == found[0, 1]).all()
    assert torch.isfinite(found).all()


def test_ranks_of_rows_without_weight_are_finite() -> None:
    """Weights of 0, and so small that 1 less their share is 1."""
    x, weight = torch.linspace(-3, 3, 1001)[:, None], torch.ones(1001, dtype=torch.float64)
    weight[-1], weight[0], weight[500] = 1e-40, 1e-40, 0.0
    scale = nets.Scale.fit(x, weight, "ranks")
    found = scale(x)[:, 0]
    assert torch.isfinite(found).all()
    assert (found.diff() > 0).all()
    assert found[-1].item() == pytest.approx(-found[0].item(), rel=1e-4)
    with pytest.raises(ValueError, match="scaling: expected 'moments' or 'ranks', found 'rank'"):
        nets.Scale.fit(x, weight, "rank")  # type: ignore[arg-type]


def test_ranks_know_weights_and_pass_gradients() -> None:
    """Weight 3 is three events; signs do not matter; the map is differentiable where it is not at a knot."""
    rng = torch.Generator().manual_seed(2)
    x, weight = torch.randn(500, 1, generator=rng), torch.randint(1, 4, (500,), generator=rng).double()
    one = nets.Scale.fit(x, weight, "ranks")
    repeated = x.repeat_interleave(weight.long(), 0)
    copies = nets.Scale.fit(repeated, torch.ones(len(repeated), dtype=torch.float64), "ranks")
    at = torch.linspace(-1.5, 1.5, 31)[:, None]
    torch.testing.assert_close(one(at), copies(at), atol=0.05, rtol=0)
    unweighted = nets.Scale.fit(x, torch.where(x[:, 0] > 0, 9.0, 1.0).double(), "ranks")
    assert (unweighted(at) - one(at)).abs().max() > 0.3
    point = torch.tensor([[0.123]], dtype=torch.float64, requires_grad=True)
    (slope,) = torch.autograd.grad(one.to("cpu", torch.float64)(point).sum(), point)
    assert 0.5 < slope.item() < 2


# -- specs ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("network", [MLP(width=3, residual=True), *SETS], ids=repr)
def test_specs_survive_json(network: Any) -> None:
    saved = nets.to_json(network)
    assert saved is not None
    assert nets.from_json(saved) == network
    assert nets.to_json(two_layers) is None


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: MLP(width=0), "MLP: expected width to be an integer of at least 1, found 0"),
        (lambda: MLP(depth=1.5), "MLP: expected depth to be an integer of at least 1, found 1.5"),  # type: ignore[arg-type]
        (lambda: MLP(activation="tanh"), "MLP: expected activation one of relu, silu, gelu, found 'tanh'"),  # type: ignore[arg-type]
        (lambda: DeepSet(latent=0), "DeepSet: expected latent to be an integer of at least 1, found 0"),
        (lambda: DeepSet(pool="median"), "DeepSet: expected pool one of sum, mean, max, found 'median'"),  # type: ignore[arg-type]
        (lambda: Transformer(width=30, heads=4), "expected a width that 4 heads divide, found 30"),
        (lambda: Transformer(layers=0), "Transformer: expected layers to be an integer"),
        (lambda: MLP().stack(CLOUDS.shape), "MLP takes flat columns only, found the clouds hits, trk; use DeepSet"),
        (lambda: DeepSet().stack(Shape(2)), "DeepSet needs a cloud of ragged columns, found flat columns only"),
        (lambda: Transformer().stack(Shape(2)), "Transformer needs a cloud of ragged columns"),
    ],
)
def test_bad_specs_are_refused(make: Callable[[], object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make()


def test_what_is_not_a_network_is_refused() -> None:
    with pytest.raises(TypeError, match="expected a function that makes a module, found a module"):
        nets.stack(two_layers(), Shape(D))  # type: ignore[arg-type]
    with pytest.raises(TypeError, match=r"expected a spec such as MLP\(...\).*found str"):
        nets.stack("mlp", Shape(D))  # type: ignore[arg-type]
    with pytest.raises(TypeError, match=r"makes a torch.nn.Module, found that it makes int"):
        nets.stack(lambda: 3, Shape(D))  # type: ignore[arg-type, return-value]


@pytest.mark.parametrize("by", ["loop", "vmap"])
@pytest.mark.parametrize("module", [nn.Linear(D, 2), nn.Flatten(0), nn.Unflatten(1, (D, 1)), nn.Identity()])
def test_outputs_of_another_shape_are_refused(module: nn.Module, by: Any) -> None:
    stack = ModuleStack(lambda: module, by=by)
    state = stack.initial(1, range(K)) or {"none": torch.zeros(K)}
    with pytest.raises(ValueError, match=r"expected one output per event, shape \(7,\) or \(7, 1\), found"):
        stack(state, Batch(flat_batch().flat.float(), {}))


def test_several_outputs() -> None:
    stack = nets.stack(lambda: nn.Linear(D, 2), Shape(D), outputs=2)
    assert stack(stack.initial(1, range(K)), Batch(flat_batch().flat.float(), {})).shape == (K, B, 2)


def test_buffers_of_clouds_of_changing_size_do_not_pile_up() -> None:
    stack = DeepSet(width=8, depth=2, latent=4).stack(Shape(0, (("hits", 1),)))
    state = {n: t.requires_grad_() for n, t in randomised(stack.initial(1, [0])).items()}
    kept = []
    for entries in range(400, 440):  # as many different sizes as steps
        owner = torch.arange(entries)[None] % 20
        cloud = CloudBatch(torch.ones(1, entries, 1, dtype=torch.float64), owner.sort().values, 20)
        batch = Batch(torch.zeros(1, 20, 0, dtype=torch.float64), {"hits": cloud})
        torch.autograd.grad(stack(state, batch, training=True).sum(), list(state.values()))
        work: Workspace = stack.work  # type: ignore[attr-defined]
        kept.append(sum(t.numel() for free in work._free.values() for t in free))
    assert kept[-1] < 3 * kept[0]


def test_seeded_draws_leave_the_users_generator_alone() -> None:
    """Initial weights of modules and of flows: the same for a seed, another stream for none, and nothing is used up."""
    torch.manual_seed(1)
    expected = torch.rand(3)
    torch.manual_seed(1)
    with nets.drawing_from(7):
        first = torch.rand(3)
    with nets.drawing_from(7):
        assert torch.equal(torch.rand(3), first)
    with nets.drawing_from(8):
        assert not torch.equal(torch.rand(3), first)
    with nets.drawing_from(None):
        assert torch.equal(torch.rand(3), expected)
