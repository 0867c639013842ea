"""Networks as frozen specs, and stacks of K of them that are evaluated as one.

A spec (`MLP`, `DeepSet`, `Transformer`) says what a network is and is what gets saved.  Its ``stack`` builds a `Stack`:
a function of (state, batch), where ``state`` maps names to tensors whose first dimension counts the K members.  Batched
matrix products serve `MLP` and `DeepSet` (``W`` (K, out, in) on ``h`` (K, B, in)); any other network, `Transformer` or
a user's ``Callable[[], nn.Module]``, goes through ``torch.func``: a loop over members, or vmap.

What to use when: `MLP` for a fixed list of quantities per event; `DeepSet` for sets (particles, hits) of any length;
`Transformer` where relations between the entries matter and the sets are small.  `nuinfer.trees` is for a few flat
columns and weights that are not negative, in a fraction of the time.

Sources: residual blocks, He et al., arXiv 1512.03385; DeepSets, Zaheer et al., arXiv 1703.06114 (in particle physics:
Komiske, Metodiev, Thaler, arXiv 1810.05165); attention, Vaswani et al., arXiv 1706.03762; the factor of the initial
weights, He et al., arXiv 1502.01852.
"""

from __future__ import annotations

import copy
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from itertools import pairwise
from typing import Any, Literal, cast

import torch
from torch import Tensor, nn

from . import hashing
from .features import Batch, CloudBatch, Inputs, Shape

__all__ = ["MLP", "DeepSet", "Network", "Stack", "Standardise", "Transformer"]

Activation = Literal["relu", "silu", "gelu"]
State = dict[str, Tensor]


@contextmanager
def single_precision() -> Iterator[None]:
    """New tensors are float32 inside, whatever another package has made torch's default, which is there again after."""
    default = torch.get_default_dtype()
    torch.set_default_dtype(torch.float32)
    try:
        yield
    finally:
        torch.set_default_dtype(default)


class Stack(ABC):
    """K networks of one architecture: a function from (state, batch) to outputs (K, B)."""

    @abstractmethod
    def initial(self, seed: int, members: Sequence[int]) -> State:
        """The state of the given member numbers before training; member k's depends on (seed, k) alone."""

    @abstractmethod
    def __call__(self, state: State, batch: Batch, *, training: bool = False) -> Tensor:
        """The outputs (K, B) for a batch of (K, B) events."""

    def trainable(self, state: State) -> tuple[str, ...]:
        """The names of the tensors that the loop may change; the others are buffers."""
        return tuple(state)

    def twice(self) -> Stack:
        """The same networks, whose gradient with respect to the flat columns can be differentiated again."""
        return self

    def hidden(self, state: State, batch: Batch) -> Tensor:
        """The last hidden layer (K, B, H); ``TypeError`` for networks that have none that is known."""
        raise TypeError(
            f"last layer: expected networks MLP or DeepSet, found {self.describe()}; train them anew instead"
        )

    def last_layer(self, state: State) -> tuple[Tensor, Tensor]:
        """Weight (K, out, H) and bias (K, 1, out) of what follows `hidden`; ``TypeError`` as there."""
        raise TypeError(
            f"last layer: expected networks MLP or DeepSet, found {self.describe()}; train them anew instead"
        )

    def describe(self) -> str:
        """What a checkpoint says of the architecture."""
        return type(self).__name__

    def reseed(self, seeds: Callable[[], Sequence[int]]) -> None:
        """Offer seeds, one a member, for what the next training call draws at random (dropout); most draw nothing."""
        return


def generator(seed: int, member: int) -> torch.Generator:
    """The generator of one member's initial weights."""
    return torch.Generator().manual_seed(hashing.salt(seed, "init", member) >> 1)


# -- standardisation --------------------------------------------------------------------------------------------------


Scaling = Literal["moments", "ranks"]

_KNOTS = 65


@dataclass(frozen=True)
class Scale:
    """Columns (F,) of order one: (x - mean) / scale, or, where there are ``knots``, normal scores.

    The score of x is Phi^-1 of its rank: a monotone map through ``knots`` (F, Q) and ``scores`` (F, Q), linear between
    them and logarithmic beyond, so that no value is clipped.  Columns behind the first F are left as they are.
    """

    mean: Tensor
    scale: Tensor
    knots: Tensor
    scores: Tensor

    @classmethod
    def fit(cls, values: Tensor, size: Tensor, scaling: Scaling) -> Scale:
        """Of values (M, F) under the weights ``size`` (M,), from 0; ``ValueError`` for another ``scaling``."""
        if scaling not in ("moments", "ranks"):
            raise ValueError(f"scaling: expected 'moments' or 'ranks', found {scaling!r}")
        mean, scale = _moments(values, size)
        none = values.new_empty(values.shape[1], 0)
        ranked = scaling == "ranks" and values.shape[1] and values.numel() and float(size.sum()) > 0
        return cls(mean, scale, *(_normal_scores(values, size) if ranked else (none, none)))

    def __call__(self, values: Tensor) -> Tensor:
        """The same columns (*, F), scaled."""
        if not self.knots.shape[1]:
            return (values - self.mean) / self.scale
        own = self.knots.shape[0]
        scored = _interpolated(values[..., :own], self.knots, self.scores, self.scale[:own])
        return scored if own == values.shape[-1] else torch.cat([scored, values[..., own:]], -1)

    def padded(self, columns: int) -> Scale:
        """The same for so many columns more, which are left as they are."""
        mean = torch.cat([self.mean, self.mean.new_zeros(columns)])
        return replace(self, mean=mean, scale=torch.cat([self.scale, self.scale.new_ones(columns)]))

    def first(self, columns: int) -> Scale:
        """Of the first columns alone."""
        return Scale(self.mean[:columns], self.scale[:columns], self.knots[:columns], self.scores[:columns])

    def to(self, device: Any, dtype: torch.dtype | None = None) -> Scale:
        """The same on another device or with another type."""
        return Scale(*(t.to(device, dtype) for t in vars(self).values()))

    def arrays(self) -> dict[str, Tensor]:
        """Names and tensors to save."""
        return {name: t for name, t in vars(self).items() if name in ("mean", "scale") or t.shape[1]}

    @classmethod
    def plain(cls, columns: int) -> Scale:
        """What leaves columns as they are."""
        none = torch.empty(columns, 0)
        return cls(torch.zeros(columns), torch.ones(columns), none, none)


@dataclass(frozen=True)
class Standardise:
    """The flat columns and, by name, each cloud's fields, made of order one."""

    flat: Scale
    clouds: dict[str, Scale]

    @classmethod
    def fit(cls, inputs: Inputs, weight: Tensor, scaling: Scaling = "moments") -> Standardise:
        """Mean and standard deviation, or ranks, under the weights ``abs(w)`` (N,); a constant column keeps scale 1.

        The absolute value, since with signed weights a variance can be negative; any scale of the right order serves.
        """
        size = weight.abs().double()
        clouds = {
            name: Scale.fit(values, torch.repeat_interleave(size, offsets.diff()), scaling)
            for name, (values, offsets) in inputs.clouds.items()
        }
        return cls(Scale.fit(inputs.flat, size, scaling), clouds)

    def __call__(self, batch: Batch) -> Batch:
        """The standardised batch."""
        clouds = {}
        for name, scale in self.clouds.items():
            cloud = batch.clouds[name]
            clouds[name] = CloudBatch(scale(cloud.values), cloud.owner, cloud.size)
        return Batch(self.flat(batch.flat), clouds)

    def padded(self, columns: int) -> Standardise:
        """The same for so many flat columns more, which are left as they are."""
        return replace(self, flat=self.flat.padded(columns))

    def first(self, columns: int) -> Standardise:
        """The same for the first flat columns alone."""
        return replace(self, flat=self.flat.first(columns))

    def to(self, device: Any, dtype: torch.dtype | None = None) -> Standardise:
        """The same on another device or with another type."""
        return Standardise(self.flat.to(device, dtype), {n: c.to(device, dtype) for n, c in self.clouds.items()})

    def arrays(self) -> dict[str, Tensor]:
        """Names and tensors to save."""
        named = {"flat": self.flat, **{f"cloud.{name}": scale for name, scale in self.clouds.items()}}
        return {f"{name}.{part}": t for name, scale in named.items() for part, t in scale.arrays().items()}

    @classmethod
    def of_arrays(cls, arrays: dict[str, Tensor]) -> Standardise:
        """The inverse of `arrays`."""
        names = [name[6:-5] for name in arrays if name.startswith("cloud.") and name.endswith(".mean")]
        return cls(_scale_of(arrays, "flat"), {name: _scale_of(arrays, f"cloud.{name}") for name in names})


def _scale_of(arrays: dict[str, Tensor], name: str) -> Scale:
    """A saved scale; files of before there were ranks have no knots."""
    mean = arrays[f"{name}.mean"]
    none = mean.new_empty(len(mean), 0)
    parts = (arrays.get(f"{name}.{part}", none) for part in ("knots", "scores"))
    return Scale(mean, arrays[f"{name}.scale"], *parts)


def _normal_scores(values: Tensor, size: Tensor) -> tuple[Tensor, Tensor]:
    """Knots (F, Q) of values (M, F), quantiles at even steps of the normal score, and their scores (F, Q)."""
    top = torch.special.ndtri(torch.tensor(1 - 0.5 / max(len(values), 2), dtype=torch.float64))
    wanted = torch.special.ndtr(torch.linspace(-1, 1, _KNOTS, dtype=torch.float64) * top)
    pairs = [_column_scores(column, size, wanted) for column in values.T]
    return torch.stack([knots for knots, _ in pairs]), torch.stack([scores for _, scores in pairs])


def _column_scores(column: Tensor, size: Tensor, wanted: Tensor) -> tuple[Tensor, Tensor]:
    """One column's knots and scores (Q,); the score of a value is that of the middle of its rank, ties included."""
    ordered, order = column[size > 0].contiguous().sort()
    own = size[size > 0][order]
    below = torch.cat([own.new_zeros(1), own.cumsum(0)])
    above = torch.cat([own.flip(0).cumsum(0).flip(0), own.new_zeros(1)])
    at = torch.searchsorted(below, wanted * below[-1], right=True).clamp(1, len(ordered)) - 1
    knots = ordered[at]
    knots[0], knots[-1] = ordered[0], ordered[-1]
    places = [torch.searchsorted(ordered, knots, right=right) for right in (False, True)]
    # the smaller share of both sides, since 1 less a small weight may round to 1
    low, high = (sum(share[place] for place in places) / (2 * below[-1]) for share in (below, above))
    return knots, torch.where(low < high, torch.special.ndtri(low), -torch.special.ndtri(high)).to(knots.dtype)


def _interpolated(x: Tensor, knots: Tensor, scores: Tensor, scale: Tensor) -> Tensor:
    """The scores (*, F) of x (*, F); ``scale`` (F,) is the unit beyond ties at an end."""
    x = x.to(torch.promote_types(x.dtype, knots.dtype))
    knots, scores, scale = knots.to(x.dtype), scores.to(x.dtype), scale.to(x.dtype)
    last = knots.shape[1] - 1
    columns = x.reshape(-1, x.shape[-1]).T.contiguous()
    right = torch.searchsorted(knots, columns).clamp(1, last)
    x0, x1 = knots.gather(1, right - 1), knots.gather(1, right)
    s0, s1 = scores.gather(1, right - 1), scores.gather(1, right)
    width = torch.where(x1 > x0, x1 - x0, scale[:, None])
    place = (columns - x0) / width
    inner = s0 + (s1 - s0) * place.clamp(0, 1)
    rise = torch.where(s1 > s0, s1 - s0, 1.0)
    beyond = torch.log1p(rise * (place - 1).clamp_min(0)) - torch.log1p(rise * (-place).clamp_min(0))
    return (inner + beyond).T.reshape(x.shape)


def _moments(values: Tensor, size: Tensor) -> tuple[Tensor, Tensor]:
    total = size.sum()
    if not values.numel() or total == 0:
        return values.new_zeros(values.shape[1]), values.new_ones(values.shape[1])
    mean = torch.stack([torch.dot(size, column.double()) for column in values.T]) / total
    centred = ((column.double() - m) ** 2 for column, m in zip(values.T, mean, strict=True))
    variance = torch.stack([torch.dot(size, c) for c in centred]) / total
    # below the rounding of the sums a column is constant
    spread = variance.sqrt().where(variance > 1e-14 * (mean**2 + 1e-300), torch.ones_like(variance))
    return mean.to(values.dtype), spread.to(values.dtype)


# -- the multilayer perceptron -----------------------------------------------------------------------------------------


class Workspace:
    """Buffers that one training step hands to the next.

    Without them the pages of every activation are mapped and cleared again at each step: up to half of the time.
    Lengths are rounded up by at most an eighth, since those of clouds differ from step to step.
    """

    def __init__(self) -> None:
        self._free: dict[tuple[torch.device, torch.dtype, int], list[Tensor]] = {}

    def take(self, like: Tensor, *shape: int) -> Tensor:
        """An uninitialised tensor of that shape, with the type and device of ``like``."""
        size = 1
        for length in shape:
            size *= length
        grain = 1 << max(size.bit_length() - 4, 0)
        room = -(-size // grain) * grain
        free = self._free.get((like.device, like.dtype, room))
        return (free.pop() if free else like.new_empty(room))[:size].view(shape)

    def give(self, tensor: Tensor) -> None:
        """Give back what `take` gave and nobody reads any more."""
        whole = tensor.new_empty(0).set_(tensor.untyped_storage())
        self._free.setdefault((tensor.device, tensor.dtype, len(whole)), []).append(whole)


def _activate(kind: Activation, pre: Tensor, out: Tensor) -> Tensor:
    if kind == "relu":
        return torch.clamp_min(pre, 0, out=out)
    call = torch.ops.aten.silu.out if kind == "silu" else torch.ops.aten.gelu.out
    return cast(Tensor, call(pre, out=out))


def _activate_backward(kind: Activation, grad: Tensor, pre: Tensor, out: Tensor) -> None:
    """Fill ``out`` with grad * activation'(pre); for relu ``pre`` may be the activation itself."""
    aten = torch.ops.aten
    if kind == "relu":
        aten.threshold_backward.grad_input(grad, pre, 0.0, grad_input=out)
    elif kind == "silu":
        aten.silu_backward.grad_input(grad, pre, grad_input=out)
    else:
        aten.gelu_backward.grad_input(grad, pre, grad_input=out)


_PLAIN: dict[Activation, Callable[[Tensor], Tensor]] = {
    "relu": torch.relu,
    "silu": nn.functional.silu,
    "gelu": nn.functional.gelu,
}


class _FusedLayers(torch.autograd.Function):
    """The layers of `_plain_layers` with a backward pass written out, in buffers of a `Workspace`.

    With h_0 = x, z_l = h_{l-1} W_l^T + b_l, h_l = a(z_l) (+ h_{l-1} in a residual block) and the output z_L, the chain
    rule gives dW_l = g_l^T h_{l-1}, db_l = sum_B g_l, dh_{l-1} = g_l W_l (+ dh_l), g_l = dh_l a'(z_l).
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor, kind: Activation, residual: bool, work: Workspace, *layers: Tensor) -> Tensor:
        members, size, _ = x.shape
        h, saved = x, []
        for index, (weight, bias) in enumerate(zip(layers[:-2:2], layers[1:-2:2], strict=True)):
            pre = work.take(x, members, size, weight.shape[1])
            torch.baddbmm(bias, h, weight.transpose(1, 2), out=pre)
            skip = residual and index > 0
            # relu's derivative is known from its result, so it may overwrite its argument
            act = _activate(kind, pre, pre if kind == "relu" else work.take(x, *pre.shape))
            after = torch.add(h, act, out=work.take(x, *pre.shape)) if skip else act
            saved.append((h, pre, act, after, skip))
            h = after
        ctx.saved, ctx.last, ctx.layers, ctx.kind, ctx.work = saved, h, layers, kind, work
        return _last_layer(h, layers[-2], layers[-1])

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Any, ...]:
        work, layers, h = ctx.work, ctx.layers, ctx.last
        found: list[Tensor | None] = [None] * len(layers)
        found[-2], found[-1] = torch.bmm(grad, h), grad.sum(2)[:, None]  # grad is (K, out, B)
        needs_x = ctx.needs_input_grad[0]
        down: Tensor | None = None
        if ctx.saved or needs_x:
            down = _last_layer_backward(grad, layers[-2], work.take(h, *h.shape))
        for index in range(len(ctx.saved) - 1, -1, -1):
            before, pre, act, after, skip = ctx.saved[index]
            above = cast(Tensor, down)
            local = work.take(above, *above.shape) if skip else above
            _activate_backward(ctx.kind, above, pre, local)
            weight = layers[2 * index]
            found[2 * index] = _weight_gradient(local, before)
            found[2 * index + 1] = local.sum(1, keepdim=True)
            down = None
            if index or needs_x:
                down = work.take(before, *before.shape)
                if skip:
                    torch.baddbmm(above, local, weight, out=down)
                else:
                    torch.bmm(local, weight, out=down)
            for buffer in {id(t): t for t in (above, local, pre, act, after)}.values():
                work.give(buffer)
        result = None if not needs_x or down is None else down.clone()
        if down is not None:
            work.give(down)
        ctx.saved = ctx.last = None
        return (result, None, None, None, *found)


def _last_layer(h: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    """W h^T + b, (K, out, B): a product with one column per event is five times slower the other way round."""
    return torch.baddbmm(bias.transpose(1, 2), weight, h.transpose(1, 2))


def _last_layer_backward(grad: Tensor, weight: Tensor, out: Tensor) -> Tensor:
    if weight.shape[1] == 1:
        return torch.mul(grad.transpose(1, 2), weight, out=out)
    return torch.bmm(grad.transpose(1, 2), weight, out=out)


def _weight_gradient(grad: Tensor, before: Tensor) -> Tensor:
    """grad^T before, (K, out, in): with few inputs the transposed product is five times faster."""
    if before.shape[2] < grad.shape[2]:
        return torch.bmm(before.transpose(1, 2), grad).transpose(1, 2)
    return torch.bmm(grad.transpose(1, 2), before)


def _plain_layers(x: Tensor, spec: MLP, layers: Sequence[Tensor]) -> Tensor:
    return _last_layer(_hidden_layers(x, spec, layers), layers[-2], layers[-1])


def _hidden_layers(x: Tensor, spec: MLP, layers: Sequence[Tensor]) -> Tensor:
    """What the last of the layers takes (K, B, H)."""
    h = x
    for index, (weight, bias) in enumerate(zip(layers[:-2:2], layers[1:-2:2], strict=True)):
        act = _PLAIN[spec.activation](torch.baddbmm(bias, h, weight.transpose(1, 2)))
        h = h + act if spec.residual and index > 0 else act
    return h


def _layers(x: Tensor, spec: MLP, work: Workspace, layers: Sequence[Tensor], fused: bool) -> Tensor:
    """The outputs (K, B, out) of K perceptrons."""
    if fused:
        out = cast(Tensor, _FusedLayers.apply(x, spec.activation, spec.residual, work, *layers))  # type: ignore[no-untyped-call]
    else:
        out = _plain_layers(x, spec, layers)
    return out.transpose(1, 2)


def _initial_layers(sizes: Sequence[int], name: str, rng: torch.Generator) -> State:
    """One member's layers: weights and biases uniform within 1 / sqrt(inputs), as ``torch.nn.Linear`` begins.

    Larger weights, or a last layer of zeros, end at a higher risk after as many steps (docs/performance.md).
    """
    state: State = {}
    for i, (before, after) in enumerate(pairwise(sizes)):
        spread = 1.0 / max(before, 1) ** 0.5
        state[f"{name}.{i}.weight"] = (2 * torch.rand(after, before, generator=rng) - 1) * spread
        state[f"{name}.{i}.bias"] = (2 * torch.rand(1, after, generator=rng) - 1) * spread
    return state


def _of(state: State, name: str) -> list[Tensor]:
    """The tensors ``name.LAYER.KIND``; cloud names may hold dots themselves."""
    return [tensor for key, tensor in state.items() if key.rsplit(".", 2)[0] == name]


def _stacked(states: Sequence[State]) -> State:
    return {name: torch.stack([state[name] for state in states]) for name in states[0]}


def _check_sizes(spec: Any, **sizes: object) -> None:
    for name, size in sizes.items():
        if not isinstance(size, int) or size < 1:
            raise ValueError(f"{type(spec).__name__}: expected {name} to be an integer of at least 1, found {size!r}")


@dataclass(frozen=True, kw_only=True)
class MLP:
    """A multilayer perceptron on the flat columns: ``depth`` hidden layers of ``width`` units.

    With ``residual=True`` each hidden layer from the second on adds to its input, h + a(W h + b).

    >>> MLP(width=32, depth=2)
    MLP(width=32, depth=2, activation='silu', residual=False)
    """

    width: int = 64
    depth: int = 3
    activation: Activation = "silu"
    residual: bool = False

    def __post_init__(self) -> None:
        _check_sizes(self, width=self.width, depth=self.depth)
        if self.activation not in _PLAIN:
            raise ValueError(f"MLP: expected activation one of {', '.join(_PLAIN)}, found {self.activation!r}")

    def stack(self, shape: Shape, outputs: int = 1) -> Stack:
        """The stack for inputs of that shape; refuses clouds (``ValueError``)."""
        if shape.clouds:
            names = ", ".join(name for name, _ in shape.clouds)
            raise ValueError(f"MLP takes flat columns only, found the clouds {names}; use DeepSet or Transformer")
        return _MLPStack(self, shape.flat, outputs)


class _MLPStack(Stack):
    fused = True  # the backward pass written out, which is once differentiable

    def __init__(self, spec: MLP, inputs: int, outputs: int) -> None:
        self.spec, self.work = spec, Workspace()
        self.sizes = (inputs, *[spec.width] * spec.depth, outputs)

    def initial(self, seed: int, members: Sequence[int]) -> State:
        return _stacked([_initial_layers(self.sizes, "layer", generator(seed, k)) for k in members])

    def __call__(self, state: State, batch: Batch, *, training: bool = False) -> Tensor:
        fused = training and self.fused
        return _squeezed(_layers(batch.flat, self.spec, self.work, list(state.values()), fused))

    def hidden(self, state: State, batch: Batch) -> Tensor:
        return _hidden_layers(batch.flat, self.spec, list(state.values()))

    def last_layer(self, state: State) -> tuple[Tensor, Tensor]:
        weight, bias = list(state.values())[-2:]
        return weight, bias

    def twice(self) -> Stack:
        return _plain(self)

    def describe(self) -> str:
        return f"{self.spec} of sizes {self.sizes}"


def _plain(stack: _MLPStack | _DeepSetStack) -> Stack:
    """The same stack with layers that autograd differentiates as often as it is asked to."""
    plain = copy.copy(stack)
    plain.fused = False
    return plain


def _squeezed(outputs: Tensor) -> Tensor:
    return outputs[..., 0] if outputs.shape[-1] == 1 else outputs


# -- sets --------------------------------------------------------------------------------------------------------------

Pool = Literal["sum", "mean", "max"]


@dataclass(frozen=True, kw_only=True)
class DeepSet:
    """f(flat, clouds) = rho(flat, for each cloud pool_i phi(x_i), log(1 + n)): invariant under reordering.

    ``depth`` layers of ``width`` units make phi, with ``latent`` outputs; ``head`` is rho.  ``pool="sum"`` suits
    independent entries (their log ratios add), "mean" shapes, "max" single outstanding entries.
    """

    width: int = 64
    depth: int = 2
    latent: int = 32
    pool: Pool = "sum"
    head: MLP = MLP(width=64, depth=2)
    activation: Activation = "silu"

    def __post_init__(self) -> None:
        _check_sizes(self, width=self.width, depth=self.depth, latent=self.latent)
        if self.pool not in ("sum", "mean", "max"):
            raise ValueError(f"DeepSet: expected pool one of sum, mean, max, found {self.pool!r}")

    def stack(self, shape: Shape, outputs: int = 1) -> Stack:
        """The stack for inputs of that shape; needs at least one cloud (``ValueError``)."""
        if not shape.clouds:
            raise ValueError("DeepSet needs a cloud of ragged columns, found flat columns only; use MLP, or name "
                             "the cloud: Features([...], hits=[...])")  # fmt: skip
        return _DeepSetStack(self, shape, outputs)


class _DeepSetStack(Stack):
    fused = True  # of the head; the flat columns enter there alone

    def __init__(self, spec: DeepSet, shape: Shape, outputs: int) -> None:
        self.spec, self.shape, self.work = spec, shape, Workspace()
        self.phi = MLP(width=spec.width, depth=spec.depth, activation=spec.activation)
        pooled = shape.flat + len(shape.clouds) * (spec.latent + 1)
        self.head_sizes = (pooled, *[spec.head.width] * spec.head.depth, outputs)

    def _initial(self, rng: torch.Generator) -> State:
        spec, state = self.spec, State()
        for name, fields in self.shape.clouds:
            sizes = (fields, *[spec.width] * spec.depth, spec.latent)
            state |= _initial_layers(sizes, f"phi.{name}", rng)
        return state | _initial_layers(self.head_sizes, "rho", rng)

    def initial(self, seed: int, members: Sequence[int]) -> State:
        return _stacked([self._initial(generator(seed, k)) for k in members])

    def __call__(self, state: State, batch: Batch, *, training: bool = False) -> Tensor:
        joined, fused = self._pooled(state, batch, training), training and self.fused
        return _squeezed(_layers(joined, self.spec.head, self.work, _of(state, "rho"), fused))

    def _pooled(self, state: State, batch: Batch, training: bool) -> Tensor:
        """What the head takes (K, B, D)."""
        parts = [batch.flat]
        for name, _ in self.shape.clouds:
            cloud, layers = batch.clouds[name], _of(state, f"phi.{name}")
            encoded = _layers(cloud.values, self.phi, self.work, layers, training)
            parts += [_pool(encoded, cloud, self.spec.pool), torch.log1p(cloud.counts())[..., None]]
        return torch.cat(parts, dim=-1)

    def hidden(self, state: State, batch: Batch) -> Tensor:
        return _hidden_layers(self._pooled(state, batch, False), self.spec.head, _of(state, "rho"))

    def last_layer(self, state: State) -> tuple[Tensor, Tensor]:
        weight, bias = _of(state, "rho")[-2:]
        return weight, bias

    def twice(self) -> Stack:
        return _plain(self)

    def describe(self) -> str:
        return f"{self.spec} of {self.shape}, head {self.head_sizes}"


def _pool(encoded: Tensor, cloud: CloudBatch, how: Pool) -> Tensor:
    """(K, M, H) -> (K, B, H): entries pooled by owner; an event without entries gets zeros."""
    members, _, width = encoded.shape
    owner = cloud.owner[..., None].expand_as(encoded)
    empty = encoded.new_zeros(members, cloud.size + 1, width)
    if how == "max":
        return empty.scatter_reduce(1, owner, encoded, "amax", include_self=False)[:, :-1]
    # rows of one long matrix: index_add copies whole rows, scatter_add single numbers
    row = (cloud.owner + torch.arange(members, device=owner.device)[:, None] * (cloud.size + 1)).reshape(-1)
    total = empty.view(-1, width).index_add(0, row, encoded.reshape(-1, width)).view_as(empty)[:, :-1]
    return total if how == "sum" else total / cloud.counts().clamp_min(1)[..., None]


@dataclass(frozen=True, kw_only=True)
class Transformer:
    """A small point-cloud transformer: self-attention over the entries of all clouds.

    ``layers`` blocks of attention with ``heads`` heads, pooled by the mean, then a perceptron with the flat columns.
    The entries have no order and get no positions: the output is invariant under reordering.
    """

    width: int = 32
    heads: int = 4
    layers: int = 2
    head: MLP = MLP(width=64, depth=2)

    def __post_init__(self) -> None:
        _check_sizes(self, width=self.width, heads=self.heads, layers=self.layers)
        if self.width % self.heads:
            raise ValueError(f"Transformer: expected a width that {self.heads} heads divide, found {self.width}")

    def stack(self, shape: Shape, outputs: int = 1) -> Stack:
        """The stack for inputs of that shape; needs at least one cloud (``ValueError``)."""
        if not shape.clouds:
            raise ValueError("Transformer needs a cloud of ragged columns, found flat columns only; use MLP")
        return ModuleStack(lambda: _TransformerModule(self, shape, outputs), outputs=outputs, name=f"{self} of {shape}")


class _Block(nn.Module):
    """x + attention(norm(x)), then x + mlp(norm(x)), the entries outside the mask unseen."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.norm1, self.norm2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.qkv, self.out = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.mlp = nn.Sequential(nn.Linear(width, 2 * width), nn.GELU(), nn.Linear(2 * width, width))

    def forward(self, x: Tensor, mask: Tensor) -> Tensor:
        size, length, width = x.shape
        shape = (size, length, 3, self.heads, width // self.heads)
        q, k, v = self.qkv(self.norm1(x)).view(shape).permute(2, 0, 3, 1, 4)
        seen = mask[:, None, None, :]
        mixed = nn.functional.scaled_dot_product_attention(q, k, v, attn_mask=seen)
        x = x + self.out(mixed.transpose(1, 2).reshape(size, length, width))
        return cast(Tensor, x + self.mlp(self.norm2(x)))


class _TransformerModule(nn.Module):
    def __init__(self, spec: Transformer, shape: Shape, outputs: int) -> None:
        super().__init__()
        self.names = [name for name, _ in shape.clouds]
        self.embed = nn.ModuleList([nn.Linear(fields, spec.width) for _, fields in shape.clouds])
        self.blocks = nn.ModuleList([_Block(spec.width, spec.heads) for _ in range(spec.layers)])
        self.norm = nn.LayerNorm(spec.width)
        sizes = (shape.flat + spec.width + len(shape.clouds), *[spec.head.width] * spec.head.depth)
        hidden = [nn.Sequential(nn.Linear(a, b), nn.SiLU()) for a, b in pairwise(sizes)]
        last = nn.Linear(sizes[-1], outputs)
        self.rho = nn.Sequential(*hidden, last)

    def forward(self, flat: Tensor, clouds: dict[str, CloudBatch]) -> Tensor:
        tokens, masks = [], []
        for name, embed in zip(self.names, self.embed, strict=True):
            values, mask = clouds[name].padded()
            tokens.append(embed(values[0]))
            masks.append(mask[0])
        x, mask = torch.cat(tokens, 1), torch.cat(masks, 1)
        # a token seen by everybody keeps the attention of an event without entries defined
        x = torch.cat([x, x.new_zeros(len(x), 1, x.shape[2])], 1)
        seen = torch.cat([mask, mask.new_ones(len(mask), 1)], 1)
        for block in self.blocks:
            x = block(x, seen)
        pooled = (self.norm(x) * seen[..., None]).sum(1) / seen.sum(1)[:, None]
        counts = torch.stack([torch.log1p(m.sum(1).to(x.dtype)) for m in masks], 1)
        return cast(Tensor, self.rho(torch.cat([flat, pooled, counts], 1)))


# -- any module --------------------------------------------------------------------------------------------------------

Network = MLP | DeepSet | Transformer | Callable[[], nn.Module]


@contextmanager
def drawing_from(seed: int | None) -> Iterator[None]:
    """Torch's own generator seeded, and put back afterwards; None leaves it."""
    if seed is None:
        yield
        return
    devices = [torch.cuda.current_device()] if torch.cuda.is_initialized() else []
    with torch.random.fork_rng(devices=devices):
        torch.manual_seed(seed)
        yield


class ModuleStack(Stack):
    """K copies of a user's module, called as ``module(flat)`` with (B, D), or ``module(flat, clouds)``.

    The second where there are clouds: a mapping of names to `CloudBatch` of one member.  It returns (B,) or (B, 1), or
    (B, outputs).  What it draws at random in training, as dropout does, comes from a seed of its own for each member
    and step.

    ``by="loop"`` evaluates one member after the other and works with anything; ``by="vmap"`` all at once, for modules
    without buffers, data-dependent control flow or clouds.
    """

    def __init__(
        self,
        factory: Callable[[], nn.Module],
        by: Literal["loop", "vmap"] = "loop",
        *,
        outputs: int = 1,
        name: str | None = None,
    ) -> None:
        self.factory, self.by, self.outputs, self.name = factory, by, outputs, name
        self._seeds: Sequence[int] = ()
        with drawing_from(0):
            self.module = factory()
        if not isinstance(self.module, nn.Module):
            raise TypeError(f"network: expected a function that makes a torch.nn.Module, found that it makes "
                            f"{type(self.module).__name__}")  # fmt: skip
        self._learned = tuple(name for name, p in self.module.named_parameters() if p.requires_grad)

    def initial(self, seed: int, members: Sequence[int]) -> State:
        states = []
        for member in members:
            with drawing_from(hashing.salt(seed, "init", member) >> 1):
                module = self.factory()
            # each tensor once, where two layers share one
            named = {**dict(module.named_parameters()), **dict(module.named_buffers())}
            states.append({name: tensor.detach().clone() for name, tensor in named.items()})
        return _stacked(states)

    def trainable(self, state: State) -> tuple[str, ...]:
        return self._learned

    def describe(self) -> str:
        return self.name or repr(self.module)

    def reseed(self, seeds: Callable[[], Sequence[int]]) -> None:
        # the networks of this module have nothing random; a user's own may
        self._seeds = () if self.name else seeds()

    def _one(self, state: State, flat: Tensor, clouds: dict[str, CloudBatch] | None) -> Tensor:
        arguments = (flat, clouds) if clouds else (flat,)
        out = cast(Tensor, torch.func.functional_call(self.module, state, arguments))
        size = len(flat)
        if tuple(out.shape) not in [(size, self.outputs), *([(size,)] if self.outputs == 1 else [])]:
            raise ValueError(f"network: expected one output per event, shape ({size},) or ({size}, {self.outputs}), "
                             f"found {tuple(out.shape)}")  # fmt: skip
        return out[:, 0] if self.outputs == 1 and out.ndim == 2 else out

    def __call__(self, state: State, batch: Batch, *, training: bool = False) -> Tensor:
        self.module.train(training)
        seeds = self._seeds if training and self._seeds else [None] * len(batch.flat)
        if self.by == "vmap" and not batch.clouds:
            each = torch.func.vmap(lambda s, x: self._one(s, x, None), randomness="different")
            with drawing_from(seeds[0]):
                return each(state, batch.flat)
        outputs = []
        for k, seed in enumerate(seeds):
            clouds = dict(batch.members(k, k + 1).clouds)
            with drawing_from(seed):
                outputs.append(self._one({name: t[k] for name, t in state.items()}, batch.flat[k], clouds))
        return torch.stack(outputs)


def stack(network: Network, shape: Shape, outputs: int = 1) -> Stack:
    """The `Stack` of a spec, or of a user's function that makes a module."""
    if isinstance(network, (MLP, DeepSet, Transformer)):
        return network.stack(shape, outputs)
    if isinstance(network, nn.Module):
        raise TypeError("network: expected a function that makes a module, found a module (one instance cannot give "
                        "the members different initial weights); wrap it: network=lambda: MyModule(...)")  # fmt: skip
    if not callable(network):
        raise TypeError(f"network: expected a spec such as MLP(...) or a function that makes a torch.nn.Module, "
                        f"found {type(network).__name__}")  # fmt: skip
    return ModuleStack(network, outputs=outputs)


_SPECS = {"MLP": MLP, "DeepSet": DeepSet, "Transformer": Transformer}


def to_json(network: Network) -> dict[str, Any] | None:
    """The form in which a spec is saved; None for a user's module."""
    if not isinstance(network, (MLP, DeepSet, Transformer)):
        return None
    return {"type": type(network).__name__, **asdict(network)}


def from_json(spec: dict[str, Any]) -> Network:
    """The spec of `to_json`."""
    fields = dict(spec)
    kind = _SPECS[fields.pop("type")]
    if "head" in fields:
        fields["head"] = MLP(**fields["head"])
    return cast(Network, kind(**fields))
