r"""Losses of invertible networks: discrepancies of both directions, or the likelihood of a flow.

In standardised units, `Discrepancy` is

.. math:: \lambda_y |\hat y - y|^2 + \lambda_z\, \mathrm{MMD}^2[(\hat y, \hat z), (y, z)]
          + \lambda_\theta(e)\, \mathrm{MMD}^2[f^{-1}(y, z, 0), \theta]
          + \lambda_0 (|\hat 0|^2 + |f^{-1}(y, \hat z, 0) - \theta|^2)

(in the second term the predicted y is held, so that z alone learns from it; the third enters slowly over the epochs
e), with the maximum mean discrepancy of the kernel :math:`k(a, b) = \frac1H \sum_h h^2 / (h^2 + |a - b|^2)`, estimated
without bias over the pairs of a batch (Gretton et al.).

`Likelihood` takes f for a normalizing flow whose latent space holds y with a small Gaussian error sigma,

.. math:: -\log q(\theta \mid y) = \frac{|\hat y - y|^2}{2 \sigma^2} + \frac{|\hat z|^2}{2}
          - \log \left| \det \frac{\partial f}{\partial \theta} \right| + \mathrm{const}

Sources: Ardizzone et al., arXiv 1808.04730 (discrepancies); Kruse, Ardizzone, Rother, Koethe, arXiv 2101.10763
(likelihood); Gretton, Borgwardt, Rasch, Schoelkopf, Smola, J. Mach. Learn. Res. 13 (2012) 723, eq. 3.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor

from .coupling import Sizes

__all__ = ["Discrepancy", "Likelihood"]

_GROUP = 1 << 10  # rows among which a discrepancy is taken: the pairs of more would not fit in memory


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
            check_positive("Discrepancy", name, getattr(self, name), zero=name != "observation")
        for scale in self.scales:
            check_positive("Discrepancy", "scales", scale)
        if not self.scales:
            raise ValueError("Discrepancy: expected at least one of scales, found none")


@dataclass(frozen=True, kw_only=True)
class Likelihood:
    """The likelihood of a flow that holds y with the error ``sigma``, in standard deviations of y."""

    sigma: float = 0.03

    def __post_init__(self) -> None:
        check_positive("Likelihood", "sigma", self.sigma)


Loss = Discrepancy | Likelihood


def check_positive(owner: str, name: str, value: float, *, zero: bool = False) -> None:
    """Raise ``ValueError`` for a number that is not positive, or with ``zero`` for a negative one."""
    if not (math.isfinite(value) and (value > 0 or (zero and value == 0))):
        kind = "not negative" if zero else "positive"
        raise ValueError(f"{owner}: expected {name} to be {kind}, found {value!r}")


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


def risk(loss: Loss, sizes: Sizes, noise: float) -> Callable[[Tensor, tuple[Tensor, ...]], Tensor]:
    """What training minimises, of outputs and targets; ``noise`` is the standard deviation of the padding."""
    if isinstance(loss, Likelihood):
        return _LikelihoodLoss(loss, sizes, noise)
    if isinstance(loss, Discrepancy):
        return _DiscrepancyLoss(loss, sizes)
    raise TypeError(f"loss: expected Discrepancy(...) or Likelihood(...), found {loss!r}")


def loss_of(spec: Mapping[str, Any]) -> Loss:
    """The loss that a file tells of."""
    fields = {name: tuple(value) if name == "scales" else value for name, value in spec.items() if name != "type"}
    kinds: dict[str, Callable[..., Loss]] = {"Discrepancy": Discrepancy, "Likelihood": Likelihood}
    return kinds[spec["type"]](**fields)
