r"""Normalizing flows as frozen specs, and the stack of K of them that is evaluated as one.

A flow maps y to z = f(y | c), which has a simple density, one autoregressive transformation after the other:

.. math:: \log q(y \mid c) = \log p(z) + \log \left| \det \frac{\partial z}{\partial y} \right|, \qquad
          z_i = g(y_i;\, \phi_i(y_{<i}, c))

`NSF` has rational-quadratic splines for g, `MAF` shifts and scales; phi is a masked perceptron.  Masks, initial weights
and the inverse are those of zuko; the forward pass is written out here for K members at once, as batched matrix
products with the events in the last place, which takes half of the time of ``torch.func.vmap`` of zuko's own.

What to use when: `NSF` to begin with; `MAF` where the density is nearly Gaussian given the condition: it is smooth,
cheap, and poor at several modes; `FlowMatching` (`nuinfer.density.flow_matching`) for more than ten columns.

Sources: Durkan, Bekasov, Murray, Papamakarios, arXiv 1906.04032 (NSF); Papamakarios, Pavlakou, Murray, arXiv 1705.07057
(MAF); Rozet et al., zuko, doi 10.5281/zenodo.7625672.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal, cast

import torch
from torch import Tensor, nn

from .. import hashing, nets
from ..features import Batch, Features
from ..nets import Network, Stack, State, drawing_from
from .flow_matching import FlowMatching, VelocityStack
from .splines import SLOPE, affine, spline
from .stacks import DensityStack

__all__ = ["MAF", "NSF", "Flow", "FlowStack", "stack_of"]

Activation = Literal["relu", "silu", "gelu"]

_MODULES = {"relu": nn.ReLU, "silu": nn.SiLU, "gelu": nn.GELU}
_APPLY: dict[str, Callable[[Tensor], Tensor]] = {
    "relu": torch.relu, "silu": nn.functional.silu, "gelu": nn.functional.gelu,
}  # fmt: skip


def _check(spec: NSF | MAF, least: dict[str, int]) -> None:
    name = type(spec).__name__
    for field, low in least.items():
        value = getattr(spec, field)
        if not isinstance(value, int) or value < low:
            raise ValueError(f"{name}: expected {field} to be an integer of at least {low}, found {value!r}")
    if spec.activation not in _MODULES:
        raise ValueError(f"{name}: expected activation one of {', '.join(_MODULES)}, found {spec.activation!r}")


@dataclass(frozen=True, kw_only=True)
class NSF:
    """A neural spline flow: ``transforms`` of ``bins`` spline pieces, each by a perceptron of ``depth`` x ``width``.

    Splines act on standardised columns within 5 standard deviations; outside they leave a column as it is.

    >>> NSF(transforms=2)
    NSF(transforms=2, width=64, depth=2, bins=8, activation='silu')
    """

    transforms: int = 3
    width: int = 64
    depth: int = 2
    bins: int = 8
    activation: Activation = "silu"

    def __post_init__(self) -> None:
        _check(self, {"transforms": 1, "width": 1, "depth": 1, "bins": 2})


@dataclass(frozen=True, kw_only=True)
class MAF:
    """A masked autoregressive flow: ``transforms`` shifts and scales, each by a perceptron of ``depth`` x ``width``.

    >>> MAF(transforms=5)
    MAF(transforms=5, width=64, depth=2, activation='silu')
    """

    transforms: int = 3
    width: int = 64
    depth: int = 2
    activation: Activation = "silu"

    def __post_init__(self) -> None:
        _check(self, {"transforms": 1, "width": 1, "depth": 1})


# -- the stack ---------------------------------------------------------------------------------------------------------


class _Inverse(nn.Module):
    """A zuko flow as a function from z (B, D) and the context to y, for ``torch.func.functional_call``."""

    def __init__(self, flow: nn.Module) -> None:
        super().__init__()
        self.flow = flow

    def forward(self, z: Tensor, context: Tensor | None) -> Tensor:
        return cast(Tensor, self.flow.transform(context).inv(z))  # type: ignore[operator]


class FlowStack(DensityStack):
    """K flows: what is maximised is log q (K, B) of the last ``targets`` flat columns of a batch, given the others."""

    fused = True  # splines with their backward pass written out

    spec: NSF | MAF

    def __init__(self, flow: NSF | MAF, targets: int, context: int, embedding: Stack | None = None) -> None:
        # one column and no condition: a perceptron of a constant learns faster than bare numbers do
        self.alone = targets == 1 and not context
        super().__init__(flow, targets, context + self.alone, embedding)
        with drawing_from(0):
            self.module = self._made()
        names = [dict.fromkeys(n.rpartition(".")[0] for n, _ in part.named_parameters()) for part in self._transforms()]
        self._layers = [[name for name in part if name.startswith("hyper")] for part in names]
        self._masks = [[self._mask(t, name) for name in names] for t, names in enumerate(self._layers)]

    def _made(self) -> nn.Module:
        from zuko import flows

        own = {"transforms": self.spec.transforms, "hidden_features": [self.spec.width] * self.spec.depth}
        own["activation"] = _MODULES[self.spec.activation]
        if isinstance(self.spec, NSF):
            return cast(nn.Module, flows.NSF(self.targets, self.context, bins=self.spec.bins, slope=SLOPE, **own))
        return cast(nn.Module, flows.MAF(self.targets, self.context, **own))

    def _transforms(self) -> Sequence[nn.Module]:
        return list(self.module.transform.transforms)  # type: ignore[arg-type, union-attr]

    def _mask(self, transform: int, layer: str) -> Tensor | None:
        return cast(Tensor | None, getattr(self._transforms()[transform].get_submodule(layer), "mask", None))

    def own(self, seed: int, members: Sequence[int]) -> State:
        """Zuko's initial weights but for the last layers."""
        states = []
        for member in members:
            with drawing_from(hashing.salt(seed, "init", member) >> 1):
                made = self._made()
            states.append({f"flow.{name}": p.detach() for name, p in made.named_parameters()})
        state = {name: torch.stack([one[name] for one in states]) for name in states[0]}
        # the last layers begin at zero, and with them each transformation at the identity
        for number, layers in enumerate(self._layers):
            for part in ("weight", "bias"):
                state[f"flow.transform.transforms.{number}.{layers[-1]}.{part}"].zero_()
        return state

    def __call__(self, state: State, batch: Batch, *, training: bool = False) -> Tensor:
        """Log q (K, B) of standardised y."""
        return self.log_density(state, batch, training=training)

    def log_prob(self, state: State, y: Tensor, given: Tensor, *, training: bool = False) -> Tensor:
        """Log q (K, B) of standardised y (K, D, B), for numbers ``given`` (K, C, B)."""
        z, slope = self.latent(state, y, given, training=training)
        return slope - 0.5 * (z.square() + math.log(2 * math.pi)).sum(1)

    def latent(self, state: State, y: Tensor, given: Tensor, *, training: bool = False) -> tuple[Tensor, Tensor]:
        """The standard normal z (K, D, B) of y (K, D, B), and log abs(det dz/dy) (K, B)."""
        x, total = y, y.new_zeros(y.shape[0], y.shape[2])
        for number in range(self.spec.transforms):
            phi = self._phi(state, number, x, given)
            if isinstance(self.spec, NSF):
                x, slope = spline(phi, x, self.spec.bins, fused=training and self.fused)
            else:
                x, slope = affine(phi, x)
            total = total + slope.sum(1)
        return x, total

    def given(self, state: State, batch: Batch, *, training: bool = False) -> Tensor:
        """What the flow is conditioned on (K, C, B), of a batch without y."""
        if self.alone:
            return batch.flat.new_ones(len(batch.flat), 1, batch.flat.shape[1])
        return super().given(state, batch, training=training)

    def _phi(self, state: State, number: int, x: Tensor, given: Tensor) -> Tensor:
        """The numbers (K, D, P, B) of a transformation."""
        name = f"flow.transform.transforms.{number}"
        h: Tensor = given if self.targets == 1 else torch.cat([x, given], 1)
        for layer, mask in zip(self._layers[number], self._masks[number], strict=True):
            if layer != self._layers[number][0]:
                h = _APPLY[self.spec.activation](h)
            weight, bias = state[f"{name}.{layer}.weight"], state[f"{name}.{layer}.bias"]
            weight = weight if mask is None else weight * mask.to(weight.device)
            h = torch.baddbmm(bias[:, :, None], weight, h)
        phi: Tensor = h.unflatten(1, (self.targets, -1))
        return phi.expand(-1, -1, -1, x.shape[2])

    def inverse(self, state: State, z: Tensor, given: Tensor) -> Tensor:
        """Standardised y (B, D) of latent z (B, D) and ``given`` (1, C, B), for one member: tensors (1, ...)."""
        own = {name: tensor[0] for name, tensor in state.items() if name.startswith("flow.")}
        context = given[0].T if self.context else None
        return cast(Tensor, torch.func.functional_call(_Inverse(self.module), own, (z, context)))

    def twice(self) -> Stack:
        """The same flows, whose gradient can be differentiated again."""
        plain = copy.copy(self)
        plain.fused, plain.embedding = False, None if self.embedding is None else self.embedding.twice()
        return plain


# -- any of them -------------------------------------------------------------------------------------------------------

Flow = NSF | MAF | FlowMatching

_STACKS: dict[type, Callable[..., DensityStack]] = {NSF: FlowStack, MAF: FlowStack, FlowMatching: VelocityStack}


def stack_of(
    flow: Flow, targets: int, condition: Features | None, embedding: Network | None, summaries: int
) -> DensityStack:
    """The stack of a spec, for so many columns y; raises for a spec or ``summaries`` that do not fit."""
    if type(flow) not in _STACKS:
        raise TypeError(f"network: expected NSF(...), MAF(...) or FlowMatching(...), found {flow!r}; a network for "
                        f"the condition is given as embedding=")  # fmt: skip
    if not isinstance(summaries, int) or summaries < 1:
        raise ValueError(f"summaries: expected an integer of at least 1, found {summaries!r}")
    made = _STACKS[type(flow)]
    if condition is None or embedding is None:
        return made(flow, targets, 0 if condition is None else len(condition.flat))
    return made(flow, targets, summaries, nets.stack(embedding, condition.shape, summaries))


def to_json(flow: Flow) -> dict[str, Any]:
    """The form in which a spec is saved."""
    return {"type": type(flow).__name__, **asdict(flow)}


def from_json(spec: dict[str, Any]) -> Flow:
    """The spec of `to_json`."""
    kind = next(kind for kind in _STACKS if kind.__name__ == spec["type"])
    return cast(Flow, kind(**{name: value for name, value in spec.items() if name != "type"}))
