r"""Densities by flow matching: q(y) or q(y | x) of more columns than a normalizing flow is comfortable with.

A velocity field v moves a standard normal z to a draw of y: along the path with fixed ends z and y

.. math:: y_\phi = \cos\phi\, z + \sin\phi\, y, \qquad
          \frac{d y_\phi}{d\phi} = u = -\sin\phi\, z + \cos\phi\, y, \qquad 0 \le \phi \le \pi/2

(the variance-preserving path: for standardised y the network sees numbers of order one at every phi), the mean of u
over all paths through a point is the velocity that carries the whole distribution.  That mean is the minimum of

.. math:: R = \sum_i \frac{w_i}{T}\, E_{\phi, z}\, \tfrac12 \left| v(y_{i\phi}, \phi, x_i) - u_i \right|^2

with phi uniform and z normal, drawn anew each epoch: a regression, without Jacobians.  A draw is the solution of
dy/dphi = v from z at phi = 0 to phi = pi/2, and its density follows from the divergence,

.. math:: \log q(y \mid x) = \log N(z; 0, 1) - \int_0^{\pi/2} \nabla \cdot v(y_\phi, \phi, x)\, d\phi

The network has two parts: v = F + sum_h c_h(phi) L_h (x, y_phi), with a residual perceptron F, and matrices L_h beside
harmonics c_h of phi; of a density that is Gaussian given x, with a mean linear in x, the second one is nearly the whole
velocity.  Both grow at most linearly in y_phi, so that no solution runs away to infinity where little was learned.

**Accuracy of the solution.**  Runge-Kutta of fourth order in u, phi = pi/2 (1 - (1 - u)^2), at ``steps`` equal steps:
they shrink towards the end, where narrow densities turn sharply.  For a Gaussian conditional density of standard
deviation c (of a standardised column) and the exact velocity, the relative error of the draws' standard deviation is

=====  =======  =======  =======  ========
steps  c = 0.5  c = 0.2  c = 0.1  c = 0.05
=====  =======  =======  =======  ========
8      4e-6     8e-5     5e-4     4e-4
16     6e-7     1e-5     5e-5     2e-4
32     5e-8     7e-7     4e-6     2e-5
=====  =======  =======  =======  ========

and log q, two standard deviations from the mean, is off by 4e-6, 6e-5, 3e-4 and 1e-3 at 16 steps, a sixteenth of that
at 32.  What the network has not learned is more.

Sources: Lipman, Chen, Ben-Hamu, Nickel, Le, arXiv 2210.02747 (flow matching; eqs. 9, 18-19 the variance-preserving
path); Albergo, Vanden-Eijnden, arXiv 2209.15571 (the trigonometric path); Wildberger, Dax, Buchholz, Green, Macke,
Schoelkopf, arXiv 2305.17161 (as posterior); Grathwohl, Chen, Bettencourt, Sutskever, Duvenaud, arXiv 1810.01367 (log
density by the divergence).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from scipy import special
from torch import Tensor

from .. import hashing, nets
from ..features import Batch, Shape
from ..nets import MLP, Stack, State
from ..store import under, within
from ..train import Draw, Drawn
from .stacks import DensityStack

__all__ = ["FlowMatching", "VelocityStack"]

Keys = NDArray[np.int64]

_END = math.pi / 2
_HARMONICS = 4  # of phi, that the network sees
_CLOCK = 2 * _HARMONICS + 1
_ROWS = 1 << 13  # rows of all networks whose divergence is found in one go


@dataclass(frozen=True, kw_only=True)
class FlowMatching:
    """A velocity field: a residual perceptron of ``depth`` x ``width``, solved in ``steps`` Runge-Kutta steps.

    Each epoch has paths of its own, so that many epochs do not overfit as those of a flow do:
    ``training=Training(epochs=60, batch=512, average=2.0), validation=0`` suits it.

    >>> FlowMatching(width=64)
    FlowMatching(width=64, depth=3, steps=16, activation='silu')
    """

    width: int = 128
    depth: int = 3
    steps: int = 16
    activation: nets.Activation = "silu"

    def __post_init__(self) -> None:
        self.perceptron()
        if not isinstance(self.steps, int) or self.steps < 1:
            raise ValueError(f"FlowMatching: expected steps to be an integer of at least 1, found {self.steps!r}")

    def perceptron(self) -> MLP:
        """The network of the velocity."""
        return MLP(width=self.width, depth=self.depth, activation=self.activation, residual=True)


class VelocityStack(DensityStack):
    """K velocity fields of ``targets`` standardised columns, given ``context`` numbers.

    A batch has the columns of x (or what ``embedding`` sums up), those of y, and those that `Paths` draws: phi and z.
    """

    quick = False

    def __init__(self, spec: FlowMatching, targets: int, context: int, embedding: Stack | None = None) -> None:
        super().__init__(spec, targets, context, embedding)
        self.field = nets.stack(spec.perceptron(), Shape(context + targets + _CLOCK), targets)
        self.steps, self.drawn = spec.steps, 1 + targets

    def own(self, seed: int, members: Sequence[int]) -> State:
        """The perceptron's initial weights; the linear part begins at zero."""
        linear = torch.zeros(len(members), _CLOCK * (self.context + self.targets), self.targets)
        return under("field.", self.field.initial(seed, members)) | {"linear": linear}

    def draw(self, seed: int) -> Draw:
        """phi and z."""
        return Paths(self.targets, seed)

    def __call__(self, state: State, batch: Batch, *, training: bool = False) -> Tensor:
        """Minus half of the squared error of the velocity (K, B)."""
        d = self.targets
        x, y, phi, z = batch.flat.split([batch.flat.shape[-1] - 2 * d - 1, d, 1, d], -1)
        given = self.given(state, Batch(x, batch.clouds), training=training).transpose(1, 2)
        sine, cosine = torch.sin(phi), torch.cos(phi)
        found = self.velocity(state, cosine * z + sine * y, phi, given, training=training)
        off: Tensor = found - (cosine * y - sine * z)
        return -0.5 * off.square().sum(-1)

    def velocity(self, state: State, y: Tensor, phi: Tensor, given: Tensor, *, training: bool = False) -> Tensor:
        """The velocity (K, B, D) at y (K, B, D) and phi (K, B, 1), for numbers ``given`` (K, B, C)."""
        angles = phi * torch.arange(1, _HARMONICS + 1, dtype=phi.dtype, device=phi.device)
        clock = torch.cat([torch.ones_like(phi), torch.cos(angles), torch.sin(angles)], -1)
        seen = torch.cat([given, y], -1)
        joint = Batch(torch.cat([seen, clock], -1))
        curved = self.field(within("field.", state), joint, training=training).reshape(y.shape)
        products = (clock[..., :, None] * seen[..., None, :]).flatten(2)
        return torch.baddbmm(curved, products, state["linear"])

    def _at(self, state: State, y: Tensor, phi: float, given: Tensor) -> Tensor:
        return self.velocity(state, y, y.new_full((*y.shape[:2], 1), phi), given)

    def inverse(self, state: State, z: Tensor, given: Tensor) -> Tensor:
        """Standardised y (B, D) of z (B, D) and ``given`` (1, C, B), for one member; solved in single precision."""
        state, x = {name: tensor.float() for name, tensor in state.items()}, given.float().transpose(1, 2)
        return solved(lambda y, phi: self._at(state, y, phi, x), z[None].float(), self.steps)[0].to(z.dtype)

    def log_prob(self, state: State, y: Tensor, given: Tensor, *, training: bool = False) -> Tensor:
        """Log q (K, B) of standardised y (K, D, B), for numbers ``given`` (K, C, B): back to z, with the divergence.

        That is exact, by as many gradients as there are columns at each of 4 ``steps`` evaluations.
        """
        size = max(1 << 6, _ROWS // max(len(y), 1))
        pieces = zip(y.split(size, 2), given.split(size, 2), strict=True)
        return torch.cat([self._log_prob(state, *(t.transpose(1, 2) for t in piece)) for piece in pieces], 1)

    def _log_prob(self, state: State, y: Tensor, given: Tensor) -> Tensor:
        """Log q (K, B) of y (K, B, D), for numbers ``given`` (K, B, C)."""
        d = self.targets
        graph = torch.is_grad_enabled() and any(t.requires_grad for t in (y, given, *state.values()))

        def velocity(joint: Tensor, phi: float) -> Tensor:
            at = joint[..., :d]
            with torch.enable_grad():
                at = at if graph and at.requires_grad else at.detach().requires_grad_()
                v = self._at(state, at, phi, given)
                found = torch.cat([v, _divergence(v, at, graph=graph)], -1)
            return found if graph else found.detach()

        end = solved(velocity, torch.cat([y, torch.zeros_like(y[..., :1])], -1), self.steps, backward=True)
        return end[..., d] - 0.5 * (end[..., :d].square() + math.log(2 * math.pi)).sum(-1)


def _divergence(v: Tensor, y: Tensor, *, graph: bool) -> Tensor:
    """The sum of dv_i / dy_i (K, B, 1) of rows v and y (K, B, D); ``graph`` to differentiate it again."""
    columns = range(y.shape[-1])
    slopes = [torch.autograd.grad(v[..., i].sum(), y, create_graph=graph, retain_graph=True)[0] for i in columns]
    return torch.stack([slope[..., i] for i, slope in enumerate(slopes)]).sum(0)[..., None]


class Paths(Draw):
    """phi, uniform on (0, pi/2), and z, normal, of (row, network, epoch)."""

    def __init__(self, targets: int, seed: int) -> None:
        self.targets, self.seed = targets, seed

    def __call__(self, rows: Tensor, networks: Keys, epoch: int | None) -> Drawn:
        """Columns (S, K, B, 1 + D)."""
        count = 1 + self.targets
        found = np.empty((*rows.shape, count))
        for k, network in enumerate(networks):
            keys = rows[:, k].numpy()[..., None] * count + np.arange(count)
            labels = ("flow matching", self.seed, int(network), "held out" if epoch is None else epoch)
            found[:, k] = (hashing.uniform(keys.reshape(-1), *labels) + 2.0**-54).reshape(keys.shape)
        found[..., :1] *= _END
        found[..., 1:] = special.ndtri(found[..., 1:])
        return Drawn(torch.from_numpy(found.astype(np.float32)))

    def describe(self) -> str:
        """Sizes and seed."""
        return f"paths of {self.targets} columns, seed {self.seed}"


def solved(velocity: Callable[[Tensor, float], Tensor], start: Tensor, steps: int, *, backward: bool = False) -> Tensor:
    """The end of dy/dphi = velocity(y, phi), from phi = 0 to pi/2 or back, by ``steps`` steps of fourth order."""

    def slope(y: Tensor, u: float) -> Tensor:
        return 2 * _END * (1 - u) * velocity(y, _END * (1 - (1 - u) ** 2))

    y, h = start, (-1.0 if backward else 1.0) / steps
    for number in range(steps):
        u = (1.0 if backward else 0.0) + number * h
        k1 = slope(y, u)
        k2 = slope(y + 0.5 * h * k1, u + 0.5 * h)
        k3 = slope(y + 0.5 * h * k2, u + 0.5 * h)
        k4 = slope(y + h * k3, u + h)
        y = y + h / 6 * (k1 + 2 * k2 + 2 * k3 + k4)
    return y
