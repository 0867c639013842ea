r"""Affine coupling blocks: a bijective network that is inverted as cheaply as it is evaluated.

f is a chain of them, each behind a fixed random permutation of its D numbers u = (u1, u2),

.. math:: v_1 = u_1 e^{s_1(u_2)} + t_1(u_2), \qquad v_2 = u_2 e^{s_2(v_1)} + t_2(v_1), \qquad
          s = c\, \tfrac2\pi \arctan(r / c)

with perceptrons for (r, t), so that scales stay between e^-c and e^c.

Sources: Dinh, Sohl-Dickstein, Bengio, arXiv 1605.08803 (affine coupling); Kingma, Dhariwal, arXiv 1807.03039 (a
permutation before each block); Ardizzone et al., arXiv 1808.04730 (clamped scales, padding).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, NamedTuple

import numpy as np
import torch
from torch import Tensor

from .. import hashing, nets
from ..features import Batch, Shape
from ..nets import MLP, Stack, State

__all__ = ["Coupling"]


@dataclass(frozen=True, kw_only=True)
class Coupling:
    """``blocks`` affine coupling blocks with two perceptrons of ``depth`` x ``width`` each.

    ``clamp`` bounds the log of a block's scales.

    >>> Coupling(blocks=4)
    Coupling(blocks=4, width=64, depth=2, clamp=2.0, activation='silu')
    """

    blocks: int = 6
    width: int = 64
    depth: int = 2
    clamp: float = 2.0
    activation: Literal["relu", "silu", "gelu"] = "silu"

    def __post_init__(self) -> None:
        if not isinstance(self.blocks, int) or self.blocks < 1:
            raise ValueError(f"Coupling: expected blocks to be an integer of at least 1, found {self.blocks!r}")
        if not (math.isfinite(self.clamp) and self.clamp > 0):
            raise ValueError(f"Coupling: expected a positive clamp, found {self.clamp!r}")
        self.perceptron  # noqa: B018 - checks the other three

    @property
    def perceptron(self) -> MLP:
        """Of a half block."""
        return MLP(width=self.width, depth=self.depth, activation=self.activation)


class Sizes(NamedTuple):
    """How many numbers there are of each kind; both sides have ``total``."""

    parameters: int
    observations: int
    latent: int
    total: int

    @property
    def left(self) -> int:
        """Zeros beside theta."""
        return self.total - self.parameters

    @property
    def right(self) -> int:
        """Zeros beside y and z."""
        return self.total - self.observations - self.latent

    @classmethod
    def of(cls, parameters: int, observations: int, latent: int | None, padding: int) -> Sizes:
        """``padding`` more than the longer side has; a latent of None fills up theta, with at least one."""
        latent = max(parameters - observations, 1) if latent is None else latent
        for name, value, low in (("latent", latent, 1), ("padding", padding, 0)):
            if not isinstance(value, int | np.integer) or value < low:
                raise ValueError(f"{name}: expected a whole number of at least {low}, found {value!r}")
        return cls(parameters, observations, int(latent), max(parameters, observations + int(latent)) + int(padding))


class CouplingStack(Stack):
    """K invertible networks.

    A batch has theta, y, and noise for z and the zeros of both sides.  The outputs (K, B, C) are what the loss
    compares: [y, z, 0] predicted, then either log abs(det) of it (`Likelihood`), or theta from (y, z), theta from
    (y, predicted z) where there is padding, and then the batch itself.
    """

    def __init__(self, network: Coupling, sizes: Sizes, *, backward: bool) -> None:
        self.network, self.sizes, self.backward = network, sizes, backward
        first = sizes.total // 2
        self.halves = (first, sizes.total - first)
        made = zip(self.halves, reversed(self.halves), strict=True)
        self.parts = [nets.stack(network.perceptron, Shape(other), 2 * own) for own, other in made]
        self._names = {
            (block, part): tuple(self.parts[part].initial(0, [0])) for block in range(network.blocks) for part in (0, 1)
        }

    def initial(self, seed: int, members: Sequence[int]) -> State:
        """Perceptrons as `nuinfer.nets` begins them, and permutation matrices."""
        state: State = {}
        for block in range(self.network.blocks):
            orders = [hashing.permutation(self.sizes.total, seed, "coupling", block, k) for k in members]
            state[f"{block}.order"] = torch.stack([torch.eye(self.sizes.total)[torch.from_numpy(o)] for o in orders])
            for part in (0, 1):
                inner = self.parts[part].initial(hashing.salt(seed, "coupling", block, part), members)
                state |= {f"{block}.{part}.{name}": tensor for name, tensor in inner.items()}
        return state

    def trainable(self, state: State) -> tuple[str, ...]:
        """All but the permutations."""
        return tuple(name for name in state if not name.endswith(".order"))

    def __call__(self, state: State, batch: Batch, *, training: bool = False) -> Tensor:
        """What the loss compares (K, B, C)."""
        s = self.sizes
        theta, y, z, left, right = batch.flat.split([s.parameters, s.observations, s.latent, s.left, s.right], -1)
        there, slope = self.there(state, torch.cat([theta, left], -1), training=training)
        if not self.backward:
            return torch.cat([there, slope[..., None], batch.flat], -1)
        starts = [torch.cat([y, z, right], -1)]
        if s.left or s.right:
            own = there[..., s.observations : s.observations + s.latent].detach()
            starts.append(torch.cat([y, own, right], -1))
        backs = self.back(state, torch.cat(starts, 1), training=training).chunk(len(starts), 1)
        return torch.cat([there, *backs, batch.flat], -1)

    def there(self, state: State, u: Tensor, *, training: bool = False) -> tuple[Tensor, Tensor]:
        """f(u) and log abs(det df/du), (K, B, D) -> (K, B, D) and (K, B)."""
        total = u.new_zeros(u.shape[:2])
        for block in range(self.network.blocks):
            a, b = (u @ state[f"{block}.order"]).split(self.halves, -1)
            s, t = self._scale_shift(state, block, 0, b, training)
            a, total = a * s.exp() + t, total + s.sum(-1)
            s, t = self._scale_shift(state, block, 1, a, training)
            b, total = b * s.exp() + t, total + s.sum(-1)
            u = torch.cat([a, b], -1)
        return u, total

    def back(self, state: State, v: Tensor, *, training: bool = False) -> Tensor:
        """The inverse of f, (K, B, D) -> (K, B, D)."""
        for block in reversed(range(self.network.blocks)):
            a, b = v.split(self.halves, -1)
            s, t = self._scale_shift(state, block, 1, a, training)
            b = (b - t) * (-s).exp()
            s, t = self._scale_shift(state, block, 0, b, training)
            a = (a - t) * (-s).exp()
            v = torch.cat([a, b], -1) @ state[f"{block}.order"].transpose(1, 2)
        return v

    def _scale_shift(self, state: State, block: int, part: int, given: Tensor, training: bool) -> tuple[Tensor, Tensor]:
        own = {name: state[f"{block}.{part}.{name}"] for name in self._names[block, part]}
        raw, t = self.parts[part](own, Batch(given), training=training).chunk(2, -1)
        clamp = self.network.clamp
        return clamp * (2 / math.pi) * torch.atan(raw / clamp), t

    def describe(self) -> str:
        """The spec and the sizes."""
        return f"{self.network} of {self.sizes}"
