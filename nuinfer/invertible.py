r"""Invertible neural networks for inverse problems: ``fit_invertible`` -> `Invertible`.

Parameters theta (P) determine an observation y (M) and leave something open, which a latent z (Z) takes up:

.. math:: [y, z, 0] = f([\theta, 0]), \qquad \theta \sim f^{-1}(y, z, 0), \quad z \sim N(0, 1)

with one bijective network f for both directions; zeros, with a little normal noise, fill up the shorter side.
Where the prediction of y is perfect and z is standard normal and independent of y, the draws follow p(theta | y)
exactly.  This asks for y to be a *function* of theta: noise that the simulator adds has to be among the parameters, or
the draws are wrong.  `Invertible.residual` shows how nearly it is one.

f is a chain of affine coupling blocks, each behind a fixed random permutation of its D numbers u = (u1, u2),

.. math:: v_1 = u_1 e^{s_1(u_2)} + t_1(u_2), \qquad v_2 = u_2 e^{s_2(v_1)} + t_2(v_1), \qquad
          s = c\, \tfrac2\pi \arctan(r / c)

with perceptrons for (r, t), so that scales stay between e^-c and e^c.

Two losses, in standardised units.  `Discrepancy` is that of the first paper,

.. math:: \lambda_y |\hat y - y|^2 + \lambda_z\, \mathrm{MMD}^2[(\hat y, \hat z), (y, z)]
          + \lambda_\theta(e)\, \mathrm{MMD}^2[f^{-1}(y, z, 0), \theta]
          + \lambda_0 (|\hat 0|^2 + |f^{-1}(y, \hat z, 0) - \theta|^2)

(in the second term the predicted y is held, so that z alone learns from it; the third enters slowly over the epochs
e), with the maximum mean discrepancy of the kernel :math:`k(a, b) = \frac1H \sum_h h^2 / (h^2 + |a - b|^2)`, estimated
without bias over the pairs of a batch (Gretton et al.).  `Likelihood` is that of the second: f is a normalizing flow
whose latent space holds y with a small Gaussian error sigma,

.. math:: -\log q(\theta \mid y) = \frac{|\hat y - y|^2}{2 \sigma^2} + \frac{|\hat z|^2}{2}
          - \log \left| \det \frac{\partial f}{\partial \theta} \right| + \mathrm{const}

All members of an ensemble train together in the one loop (`nuinfer.train`).

What to use when: `nuinfer.density.fit_density` with a condition for nearly every posterior; it has a density, takes
noisy observations and clouds, and does better than `Discrepancy` in a fraction of the time (docs/guide/invertible.md
has both on one problem).  An invertible network also predicts y, and is what the papers below describe; `Likelihood`
with some padding is the better of the two losses.

Sources: Ardizzone, Kruse, Wirkert, Rahner, Pellegrini, Klessen, Maier-Hein, Rother, Koethe, arXiv 1808.04730; Kruse,
Ardizzone, Rother, Koethe, arXiv 2101.10763; coupling blocks: Dinh, Sohl-Dickstein, Bengio, arXiv 1605.08803, and
Kingma, Dhariwal, arXiv 1807.03039; Gretton, Borgwardt, Rasch, Schoelkopf, Smola, J. Mach. Learn. Res. 13 (2012) 723,
eq. 3.
"""

from __future__ import annotations

import logging
import math
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Literal, NamedTuple, cast

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from scipy import special
from torch import Tensor

from . import hashing, nets, store
from .density.columns import Bounds, Columns, refuse
from .ensemble import Ensemble, fit_networks, standardisation
from .events import Events, positive_total
from .features import Batch, Inputs, Shape
from .nets import MLP, Stack, State
from .ratio.learned import selected
from .resample import Resample
from .train import Draw, Drawn, History, Training, digest

__all__ = ["Coupling", "Discrepancy", "Invertible", "Likelihood", "fit_invertible"]

_log = logging.getLogger("nuinfer")

Floats = NDArray[np.float64]

_PIECE = 1 << 14  # rows in one evaluation
_GROUP = 1 << 10  # rows among which a discrepancy is taken: the pairs of more would not fit in memory
_LATE = 0.002  # what the loss of the backward draws begins with, as a fraction of half of its weight
_UNEXPLAINED = 0.1  # root mean square of y - prediction in standard deviations of y that is worth a warning


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


@dataclass(frozen=True, kw_only=True)
class Discrepancy:
    """Squared errors and maximum mean discrepancies, with their weights.

    Parameters
    ----------
    observation, latent, parameters, padding:
        lambda_y, lambda_z, lambda_theta and lambda_0 of the module's formula.
    scales:
        h of the kernel, in standard deviations.
    """

    observation: float = 3.0
    latent: float = 30.0
    parameters: float = 40.0
    padding: float = 3.0
    scales: tuple[float, ...] = (0.2, 0.5, 1.0, 2.0)

    def __post_init__(self) -> None:
        for name in ("observation", "latent", "parameters", "padding"):
            _check_positive("Discrepancy", name, getattr(self, name), zero=name != "observation")
        for scale in self.scales:
            _check_positive("Discrepancy", "scales", scale)
        if not self.scales:
            raise ValueError("Discrepancy: expected at least one of scales, found none")


@dataclass(frozen=True, kw_only=True)
class Likelihood:
    """The likelihood of a flow that holds y with the error ``sigma``, in standard deviations of y."""

    sigma: float = 0.03

    def __post_init__(self) -> None:
        _check_positive("Likelihood", "sigma", self.sigma)


Loss = Discrepancy | Likelihood


def _check_positive(owner: str, name: str, value: float, *, zero: bool = False) -> None:
    if not (math.isfinite(value) and (value > 0 or (zero and value == 0))):
        kind = "not negative" if zero else "positive"
        raise ValueError(f"{owner}: expected {name} to be {kind}, found {value!r}")


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


# -- the network -------------------------------------------------------------------------------------------------------


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


# -- the losses --------------------------------------------------------------------------------------------------------


class _Compared(NamedTuple):
    """The outputs of the stack (K, B, C), taken apart: [y, z, 0] predicted, what stands between, and the batch."""

    found: Tensor
    found_z: Tensor
    zeros: Tensor
    between: Tensor
    theta: Tensor
    y: Tensor
    z: Tensor
    left: Tensor

    @classmethod
    def of(cls, outputs: Tensor, sizes: Sizes, between: int) -> _Compared:
        """``between`` is the number of outputs that are neither prediction nor batch."""
        s = sizes
        batch = [s.parameters, s.observations, s.latent, s.left, s.right]
        return cls(*outputs.split([s.observations, s.latent, s.right, between, *batch], -1)[:-1])


@dataclass(frozen=True)
class _LikelihoodLoss:
    spec: Likelihood
    sizes: Sizes
    noise: float

    @property
    def __name__(self) -> str:
        """What a checkpoint calls it."""
        return f"{self.spec} with padding of {self.noise:g}"

    def __call__(self, outputs: Tensor, weights: tuple[Tensor, ...]) -> Tensor:
        """The losses (K, B) of outputs and the weight."""
        c = _Compared.of(outputs, self.sizes, 1)
        error = (c.found - c.y).square().sum(-1) / self.spec.sigma**2 + c.found_z.square().sum(-1)
        error = error + c.zeros.square().sum(-1) / self.noise**2
        return weights[0] * (0.5 * error - c.between[..., 0])


@dataclass(frozen=True)
class _DiscrepancyLoss:
    spec: Discrepancy
    sizes: Sizes

    @property
    def __name__(self) -> str:
        """What a checkpoint calls it."""
        return str(self.spec)

    def __call__(self, outputs: Tensor, weights: tuple[Tensor, ...]) -> Tensor:
        """The losses (K, B) of outputs, the weight, the weight relative to its mean, and how far L_theta has come.

        A discrepancy is of pairs: each row gets those that it has part in.
        """
        own, relative, late = weights
        spec, s = self.spec, self.sizes
        c = _Compared.of(outputs, s, (2 if s.left or s.right else 1) * s.total)
        drawn, *again = c.between.split(s.total, -1)
        relative = torch.where(own != 0, relative, 0)  # rows that only fill up a block of held-out ones
        loss = spec.observation * (c.found - c.y).square().sum(-1)
        joint, wanted = torch.cat([c.found.detach(), c.found_z], -1), torch.cat([c.y, c.z], -1)
        loss = loss + spec.latent * discrepancy(joint, wanted, relative, spec.scales)
        drawn = drawn[..., : s.parameters]
        loss = loss + spec.parameters * late * discrepancy(drawn, c.theta, relative, spec.scales)
        if again:
            off = (again[0] - torch.cat([c.theta, c.left], -1)).square().sum(-1)
            loss = loss + spec.padding * (c.zeros.square().sum(-1) + off)
        return own * loss


def discrepancy(a: Tensor, b: Tensor, relative: Tensor, scales: Sequence[float]) -> Tensor:
    """What each row of a and b (K, B, D), with relative weights (K, B), has of the squared discrepancy (K, B).

    Its weighted mean over the rows is the unbiased estimate: the mean over the pairs i != j of
    k(a_i, a_j) + k(b_i, b_j) - k(a_i, b_j) - k(b_i, a_j), within groups of at most 1,024 rows.
    """
    parts = zip(*(part.split(_GROUP, 1) for part in (a, b, relative)), strict=True)
    return torch.cat([_among(x, y, weight, scales) for x, y, weight in parts], 1)


def _among(a: Tensor, b: Tensor, relative: Tensor, scales: Sequence[float]) -> Tensor:
    cross = _kernel(a, b, scales)
    pairs = _kernel(a, a, scales) + _kernel(b, b, scales) - cross - cross.transpose(1, 2)
    others = 1 - torch.eye(a.shape[1], dtype=a.dtype, device=a.device)
    count = (relative != 0).sum(1, keepdim=True) - 1
    return (pairs * others * relative[:, None]).sum(-1) / count.clamp_min(1)


def _kernel(a: Tensor, b: Tensor, scales: Sequence[float]) -> Tensor:
    """The inverse multiquadratic kernel of all pairs, (K, A, D) and (K, B, D) -> (K, A, B)."""
    norms = a.square().sum(-1)[..., None] + b.square().sum(-1)[:, None]
    square = torch.baddbmm(norms, a, b.transpose(1, 2), alpha=-2).clamp_min(0)
    return torch.stack([h * h / (h * h + square) for h in scales]).mean(0)


class _Noise(Draw):
    """z and the padding of the rows of a step; targets: the relative weight and how far the loss of theta has come."""

    def __init__(self, sizes: Sizes, scale: float, relative: Floats | None, epochs: int, seed: int) -> None:
        self.sizes, self.scale, self.epochs, self.seed = sizes, scale, epochs, seed
        self.relative = None if relative is None else torch.from_numpy(relative)

    def __call__(self, rows: Tensor, networks: NDArray[np.int64], epoch: int | None) -> Drawn:
        """Columns (S, K, B, latent + padding of both sides)."""
        count = self.sizes.latent + self.sizes.left + self.sizes.right
        label = "held out" if epoch is None else epoch
        found = np.empty((*rows.shape, count))
        for k, network in enumerate(networks):
            keys = rows[:, k].numpy()[..., None] * count + np.arange(count)
            uniform = hashing.uniform(keys.reshape(-1), "invertible", self.seed, int(network), label) + 2.0**-54
            found[:, k] = special.ndtri(uniform).reshape(keys.shape)
        found[..., self.sizes.latent :] *= self.scale
        if self.relative is None:
            return Drawn(torch.from_numpy(found))
        come = 1.0 if epoch is None else min(1.0, 2 * _LATE ** (1 - (epoch + 1) / self.epochs))
        return Drawn(torch.from_numpy(found), targets=(self.relative[rows], torch.full(rows.shape, come)))

    def describe(self) -> str:
        """Sizes and scale, and a digest of the weights."""
        weights = "" if self.relative is None else f", weights {digest(self.relative)}, {self.epochs} epochs"
        return f"normal noise for {self.sizes}, padding of {self.scale:g}{weights}"


# -- the result --------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, eq=False)
class Invertible:
    """Fitted invertible networks; made by `fit_invertible`.

    Attributes
    ----------
    parameters, observations:
        Their columns, with bounds and scales.
    network, loss, sizes, padding_noise:
        What was asked for.
    residual:
        Root mean square (M,) of y minus its prediction, in standard deviations of y: it has to be small for the draws
        to be right.
    history:
        Risks per epoch and member; those of held-out rows have the full weight of lambda_theta from the first epoch.
    """

    parameters: Columns
    observations: Columns
    network: Coupling
    loss: Loss
    sizes: Sizes
    padding_noise: float
    residual: Floats
    model: Ensemble
    resample: Resample
    history: History
    sample_digest: str = ""

    @property
    def names(self) -> tuple[str, ...]:
        """Of the parameters."""
        return self.parameters.names

    def draws(self, n: int, observations: Events, *, seed: int = 0) -> Floats:
        """``n`` draws of theta for each of N observations (N, n, P), each of a member drawn at random.

        Raises
        ------
        ValueError
            for n below 1, or observations that are not finite or outside their bounds.
        KeyError, TypeError
            for observations without the columns of y.
        """
        if not isinstance(n, int | np.integer) or n < 1:
            raise ValueError(f"n: expected a whole number of at least 1, found {n!r}")
        y, s = _scaled(self.observations, observations), self.sizes
        rng = np.random.default_rng(hashing.salt(seed, "invertible sample"))
        member = rng.integers(0, self.resample.members, len(y) * n)
        start = rng.standard_normal((len(y) * n, s.total))
        sigma = self.loss.sigma if isinstance(self.loss, Likelihood) else 0.0
        start[:, : s.observations] = np.repeat(y, n, axis=0) + sigma * start[:, : s.observations]
        start[:, s.total - s.right :] *= self.padding_noise
        found = self._mapped(torch.from_numpy(start), member)[:, : s.parameters]
        values = self.parameters.inverse(found)
        return np.stack([values[name] for name in self.names], 1).reshape(len(y), n, s.parameters)

    def sample(self, n: int, observation: Events, *, seed: int = 0) -> Events:
        """``n`` draws of theta for one observation, as events with one column a parameter.

        Raises
        ------
        ValueError
            for n below 1, more or fewer than one observation, or one that `draws` refuses.
        """
        if len(observation) != 1:
            raise ValueError(f"observation: expected one, found {len(observation)} rows; draws(n, observations) takes "
                             f"several")  # fmt: skip
        drawn = self.draws(n, observation, seed=seed)[0]
        return Events(dict(zip(self.names, drawn.T.copy(), strict=True)))

    def forward(self, theta: Events) -> Floats:
        """The prediction of y (N, M), in its units: the mean over members, for theta (N rows with its columns).

        Raises
        ------
        ValueError
            for parameters that are not finite or outside their bounds; ``KeyError`` for missing ones.
        """
        return np.asarray(self._forward(torch.from_numpy(_scaled(self.parameters, theta))).mean(0))

    def log_probs(self, theta: ArrayLike, observations: Events) -> Floats:
        """Log densities (N, M) of M points of theta (N, M, P) for each of N observations; -inf outside the bounds.

        Only of networks fitted by `Likelihood` and without padding.

        Raises
        ------
        TypeError
            for other networks: their draws have no density in closed form.
        """
        if not isinstance(self.loss, Likelihood) or self.sizes.left or self.sizes.right:
            raise TypeError(
                f"log_probs: expected a network fitted with loss=Likelihood() and without padding (as many parameters "
                f"as observed and latent numbers), found {self.loss} and {self.sizes}; use draws, or fit_density with "
                f"a condition, which has a density"
            )
        points, y = np.asarray(theta, np.float64), torch.from_numpy(_scaled(self.observations, observations))
        if points.ndim != 3 or points.shape[0] != len(y) or points.shape[2] != len(self.names):
            raise ValueError(f"theta: expected ({len(y)}, M, {len(self.names)}), found {points.shape}")
        return np.asarray([self._log_prob(torch.from_numpy(p), own) for p, own in zip(points, y, strict=True)])

    @torch.no_grad()
    def _log_prob(self, points: Tensor, y: Tensor) -> Floats:
        """Log densities (M,) of points (M, P) for y (O,)."""
        inside, sigma = self.parameters.inside(points), cast(Likelihood, self.loss).sigma
        t, slope = self.parameters.forward(torch.where(inside[:, None], points, self.parameters.middle()))
        found, det = self._stack().there(self._double(), t.expand(self.resample.members, -1, -1))
        pulls = torch.cat([(found[..., : len(y)] - y) / sigma, found[..., len(y) :]], -1)
        log_normal = -0.5 * (pulls.square() + math.log(2 * math.pi)).sum(-1) - len(y) * math.log(sigma)
        logs = (log_normal + det).logsumexp(0) - math.log(self.resample.members) + slope
        return np.asarray(torch.where(inside, logs, -torch.inf).numpy())

    @torch.no_grad()
    def _forward(self, t: Tensor) -> Floats:
        """Each member's prediction (K, N, M) of standardised theta (N, P)."""
        state, s, pieces = self._double(), self.sizes, []
        for part in torch.cat([t, t.new_zeros(len(t), s.left)], 1).split(_PIECE):
            found, _ = self._stack().there(state, part.expand(self.resample.members, -1, -1))
            pieces.append(found[..., : s.observations])
        named = [self.observations.inverse(member) for member in torch.cat(pieces, 1)]
        return np.stack([np.stack([each[name] for name in self.observations.names], 1) for each in named])

    @torch.no_grad()
    def _mapped(self, start: Tensor, member: NDArray[np.int64]) -> Tensor:
        """The inverse (R, D) of rows (R, D), each by its member."""
        found, state = torch.empty_like(start), self._double()
        for k in np.unique(member):
            own = {name: tensor[k : k + 1] for name, tensor in state.items()}
            for rows in torch.from_numpy(np.flatnonzero(member == k)).split(_PIECE):
                found[rows] = self._stack().back(own, start[rows][None])[0]
        return found

    def _stack(self) -> CouplingStack:
        return cast(CouplingStack, self.model.stack)

    def _double(self) -> State:
        """The state in float64."""
        return {name: tensor.double() for name, tensor in self.model.state.items()}

    def __repr__(self) -> str:
        members = self.resample.members
        return (
            f"Invertible({self.network.blocks} blocks, {type(self.loss).__name__}, {members} "
            f"member{'s' if members > 1 else ''}, ({', '.join(self.names)}) <-> ({', '.join(self.observations.names)}, "
            f"{self.sizes.latent} latent); residual {np.array2string(self.residual, precision=3)})"
        )

    # -- files ---------------------------------------------------------------------------------------------------------

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write everything to one safetensors file, atomically."""
        spec = {
            "parameters": self.parameters.to_json(), "observations": self.observations.to_json(),
            "network": asdict(self.network), "loss": {"type": type(self.loss).__name__, **asdict(self.loss)},
            "sizes": list(self.sizes), "padding_noise": self.padding_noise, "resample": vars(self.resample),
            "sample": self.sample_digest,
        }  # fmt: skip
        model = {f"model.{name}": array for name, array in self.model.arrays().items()}
        store.save(path, "invertible", spec, {**model, "residual": self.residual, **self.history.arrays()})

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> Invertible:
        """Read what `save` wrote.

        Raises
        ------
        CorruptFile
            for a file that is damaged; ``ValueError`` for one of another kind; ``FileNotFoundError`` for none.
        """
        spec, arrays = store.load(path, "invertible")
        network, loss, sizes = Coupling(**spec["network"]), _loss_of(spec["loss"]), Sizes(*spec["sizes"])
        stack = CouplingStack(network, sizes, backward=isinstance(loss, Discrepancy))
        parts = {name[6:]: array for name, array in arrays.items() if name.startswith("model.")}
        return cls(
            Columns.from_json(spec["parameters"]), Columns.from_json(spec["observations"]), network, loss, sizes,
            spec["padding_noise"], arrays["residual"], Ensemble.of_arrays(stack, parts), Resample(**spec["resample"]),
            History.of_arrays(arrays), spec["sample"],
        )  # fmt: skip


def _loss_of(spec: Mapping[str, Any]) -> Loss:
    fields = {name: tuple(value) if name == "scales" else value for name, value in spec.items() if name != "type"}
    kinds: dict[str, Callable[..., Loss]] = {"Discrepancy": Discrepancy, "Likelihood": Likelihood}
    return kinds[spec["type"]](**fields)


def _scaled(columns: Columns, events: Events) -> Floats:
    """The standardised columns (N, D) of events; outside their bounds they are refused."""
    values = torch.from_numpy(columns.read(events))
    for part, v in zip(columns.parts, values.unbind(-1), strict=True):
        refuse(~part.inside(v).numpy(), f"column {part.name!r}: expected values in ({part.low}, {part.high})",
               v.numpy(), "select the events, or give other bounds")  # fmt: skip
    return columns.forward(values)[0].numpy()


def fit_invertible(
    simulations: Events,
    parameters: Sequence[str],
    observations: Sequence[str],
    *,
    latent: int | None = None,
    padding: int = 0,
    padding_noise: float = 0.05,
    bounds: Mapping[str, Bounds] | None = None,
    network: Coupling = Coupling(),
    loss: Loss = Discrepancy(),
    members: int = 1,
    validation: float = 0.1,
    training: Training = Training(epochs=60, batch=256, learning_rate=5e-3, clip=10.0),  # noqa: B008 - a frozen spec
    seed: int = 0,
    device: str = "cpu",
    checkpoint: str | Path | None = None,
    progress: bool = True,
) -> Invertible:
    """Fit [y, z] = f(theta) with bijective networks f.

    Parameters
    ----------
    simulations:
        One row a simulation: theta drawn from the prior, and its y.  Weights of any sign, with a positive sum.
    parameters, observations:
        The flat columns of theta and y.  y has to be a function of theta: give the simulator's noise among the
        parameters.
    latent:
        How many numbers z has; None: as many as theta has more than y, and at least one.
    padding:
        Zeros beyond those that make both sides equally long: a wider network is a more flexible one.
    padding_noise:
        Standard deviation of what stands for the zeros in training, where theta has 1.
    bounds:
        ``{"column": (low, high)}`` of parameters and observations, None for no bound: draws never lie outside
        (`nuinfer.density.columns` has the transforms).
    network:
        Blocks, and the perceptrons in them.
    loss:
        ``Discrepancy`` as in arXiv 1808.04730, or ``Likelihood`` as in arXiv 2101.10763.
    members:
        Networks with their own initial weights, batches and validation rows; draws come from all equally.
    validation:
        Fraction held out of training, by member.
    training, seed, device, checkpoint, progress:
        See `nuinfer.train.minimise`.  A discrepancy compares the rows of a batch: below some 100 it is noisy, and its
        time grows with the batch squared.

    Raises
    ------
    ValueError
        for no simulations, a total weight that is not positive, columns that are not finite, constant or outside their
        bounds, a column on both sides, or a latent or padding that is not a whole number.
    KeyError, TypeError
        for columns that are missing or of the wrong kind.

    Examples
    --------
    >>> from nuinfer.simulators import LinearGaussian
    >>> sims = LinearGaussian([[1.0]], noise=0.25).simulate(2000, seed=1)  # x = theta + noise
    >>> sims = sims.with_columns({"noise": sims["x0"] - sims["theta0"]})
    >>> inn = fit_invertible(sims, ["theta0", "noise"], ["x0"], network=Coupling(blocks=2, width=16), loss=Likelihood(),
    ...                      training=Training(epochs=30, batch=100, learning_rate=0.01), seed=1, progress=False)
    >>> draws = inn.sample(2000, Events({"x0": [1.0]}), seed=1)["theta0"]  # the posterior is N(0.8, 0.2)
    >>> bool(abs(draws.mean() - 0.8) < 0.1), bool(abs(draws.std() - 0.2**0.5) < 0.1)
    (True, True)
    """
    theta, y = _columns(parameters, observations, bounds or {})
    sizes = Sizes.of(len(theta.names), len(y.names), latent, padding)
    _check_positive("fit_invertible", "padding_noise", padding_noise)
    positive_total("simulations", simulations.weight)
    used = selected(simulations)
    theta, y = (c.fitted(c.read(used), used.weight, seed) for c in (theta, y))
    flat = np.concatenate([_scaled(theta, used), _scaled(y, used)], 1).astype(np.float32)
    weight = used.weight * (len(used) / used.weight.sum())
    paired = isinstance(loss, Discrepancy)
    stack = CouplingStack(network, sizes, backward=paired)
    resample = Resample(seed=seed, members=members, validation=validation)
    inputs, drawn = Inputs(torch.from_numpy(flat)), sizes.latent + sizes.left + sizes.right
    fitted = fit_networks(
        inputs, (weight,), used.id, resample, stack=stack, loss=_risk(loss, sizes, padding_noise), training=training,
        classes=("simulations",), drawn=drawn,
        standardise=standardisation(inputs, (weight,), ready=flat.shape[1], drawn=drawn),
        draw=_Noise(sizes, padding_noise, weight if paired else None, training.epochs, seed), device=device,
        checkpoint=checkpoint, label="invertible", progress=progress,
    )  # fmt: skip
    model, history = cast(Ensemble, fitted.model), cast(History, fitted.history)
    made = Invertible(theta, y, network, loss, sizes, padding_noise, np.zeros(len(y.names)), model, resample, history,
                      simulations.digest())  # fmt: skip
    return replace(made, residual=_residual(made, used))


def _columns(
    parameters: Sequence[str], observations: Sequence[str], bounds: Mapping[str, Bounds]
) -> tuple[Columns, Columns]:
    both = sorted(set(parameters) & set(observations))
    if both and not isinstance(parameters, str) and not isinstance(observations, str):
        raise ValueError(f"observations: expected other columns than the parameters, found {', '.join(both)} in both")
    seen = {name: pair for name, pair in bounds.items() if name in observations}
    rest = {name: pair for name, pair in bounds.items() if name not in seen}
    return Columns.of(parameters, rest, ()), Columns.of(observations, seen, ())


def _risk(loss: Loss, sizes: Sizes, noise: float) -> Callable[[Tensor, tuple[Tensor, ...]], Tensor]:
    if isinstance(loss, Likelihood):
        return _LikelihoodLoss(loss, sizes, noise)
    if isinstance(loss, Discrepancy):
        return _DiscrepancyLoss(loss, sizes)
    raise TypeError(f"loss: expected Discrepancy(...) or Likelihood(...), found {loss!r}")


def _residual(made: Invertible, simulations: Events) -> Floats:
    """Root mean square of the standardised residuals (M,); a warning where y is not the function of theta."""
    predicted = made.forward(simulations)
    found = Events(dict(zip(made.observations.names, predicted.T.copy(), strict=True)))
    off = _scaled(made.observations, found) - _scaled(made.observations, simulations)
    size = np.abs(simulations.weight)
    rms = np.asarray(np.sqrt(size @ np.square(off) / size.sum()))
    if (rms > _UNEXPLAINED).any():
        worst = int(rms.argmax())
        _log.warning(
            "the parameters explain column %r but for %.2f of its standard deviation; draws of an invertible network "
            "are right only where y is a function of theta: give the simulator's noise among the parameters, train "
            "for longer, or use fit_density", made.observations.names[worst], rms[worst],
        )  # fmt: skip
    return rms
