"""Supports: the box of intervals on which a distribution has a density, and a prior as torch's distribution on it.

torch states the support of a distribution as a constraint; that of a transformed one can be smaller than the codomain
it states, and is worked out from the ends of the base (`_mapped`).
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from torch import distributions as td
from torch.distributions import constraints

from .families import converted

if TYPE_CHECKING:
    from .prior import Prior


def edges(what: str, distribution: td.Distribution, width: int) -> tuple[Tensor, Tensor]:
    """The ends (width,) of the support, infinite where it has none.

    Raises
    ------
    ValueError
        for a support that is no box, as a simplex.
    """
    try:
        low, high = _box_of(distribution)
    except _NoBox as found:
        raise ValueError(
            f"{what}: expected a support that is a box (an interval, a half-line or the real line for each "
            f"parameter), found {found} of {type(distribution).__name__}; give a prior over a box and cut it with "
            f"prior.restricted(inside), or drop the parameters that others fix"
        ) from None
    return low.detach().double().expand(width).clone(), high.detach().double().expand(width).clone()


class _NoBox(Exception):
    """A support that is no box of intervals."""


def _box_of(d: td.Distribution) -> tuple[Tensor, Tensor]:
    """The ends of the support, which broadcast to batch and event shape."""
    if isinstance(d, td.Independent):
        return _box_of(d.base_dist)
    if isinstance(d, td.MixtureSameFamily):
        shape = d.component_distribution.batch_shape + d.component_distribution.event_shape
        low, high = (end.expand(shape) for end in _box_of(d.component_distribution))
        axis = len(d.batch_shape)
        return low.amin(axis), high.amax(axis)
    if getattr(type(d), "support", None) is vars(td.TransformedDistribution)["support"]:
        return _mapped(d)
    if isinstance(d, td.VonMises):  # torch states the real line, and draws from one turn of it
        return torch.tensor(-math.pi, dtype=torch.float64), torch.tensor(math.pi, dtype=torch.float64)
    flow = getattr(d, "transform", None)
    if isinstance(flow, td.Transform) and hasattr(d, "base"):  # zuko's flows map from the parameters to the base
        return _box_of_constraint(flow.domain)
    try:
        return _box_of_constraint(d.support)
    except NotImplementedError:
        raise _NoBox("no stated support") from None


def _box_of_constraint(c: Any) -> tuple[Tensor, Tensor]:
    """The ends of the intervals of a constraint."""
    if isinstance(c, constraints.independent):
        return _box_of_constraint(c.base_constraint)
    if hasattr(c, "cseq") and hasattr(c, "lengths"):
        ends = [[e.double().expand(n) for e in _box_of_constraint(part)]
                for part, n in zip(c.cseq, c.lengths, strict=True)]  # fmt: skip
        return torch.cat([low for low, _ in ends]), torch.cat([high for _, high in ends])
    if c is constraints.real or c is constraints.real_vector:
        return torch.tensor(-math.inf), torch.tensor(math.inf)
    low, high = getattr(c, "lower_bound", None), getattr(c, "upper_bound", None)
    if low is None and high is None:
        raise _NoBox(f"the constraint {c}")
    return torch.as_tensor(-math.inf if low is None else low), torch.as_tensor(math.inf if high is None else high)


def _mapped(d: Any) -> tuple[Tensor, Tensor]:
    """The ends of a transformed support; torch's own has the transform's codomain, which can be larger."""
    low, high = (end.double() for end in _box_of(d.base_dist))
    for transform in d.transforms:
        low, high = _through(transform, low, high)
    return low, high


def _through(transform: Any, low: Tensor, high: Tensor) -> tuple[Tensor, Tensor]:
    """The images of two ends, the lower one first."""
    if isinstance(transform, td.IndependentTransform):
        return _through(transform.base_transform, low, high)
    if isinstance(transform, td.ComposeTransform):
        for part in transform.parts:
            low, high = _through(part, low, high)
        return low, high
    if isinstance(transform, td.SigmoidTransform):  # torch's own stops one rounding short of 0 and 1
        return torch.sigmoid(low), torch.sigmoid(high)
    if transform.domain.event_dim == 0 and transform.bijective:
        ends = converted(transform, torch.float64)(torch.stack(torch.broadcast_tensors(low, high)))
        if not ends.isnan().any():
            return ends.amin(0), ends.amax(0)
    return _box_of_constraint(transform.codomain)


class Joint(td.Distribution):
    """A prior as a torch distribution of (P,) in float32, for sbi."""

    arg_constraints: dict[str, constraints.Constraint] = {}  # noqa: RUF012 (torch's own form)

    def __init__(self, prior: Prior) -> None:
        self.prior = prior
        super().__init__(torch.Size(), torch.Size([prior.dim]), validate_args=False)

    @property
    def support(self) -> constraints.Constraint:
        """The box of the prior's bounds."""
        parts = [_constraint(low, high) for low, high in self.prior.bounds]
        return constraints.independent(constraints.cat(parts, -1), 1)

    def sample(self, sample_shape: Any = torch.Size()) -> Tensor:  # noqa: B008
        """Draws (*sample_shape, P) by torch's generator."""
        shape = torch.Size(sample_shape)
        # as any torch distribution, a function of torch's generator
        seed = int(torch.randint(2**62, ()))
        return torch.from_numpy(self.prior.sample(shape.numel(), seed=seed)).float().reshape(*shape, self.prior.dim)

    def log_prob(self, value: Tensor) -> Tensor:
        """Of points (..., P), in their type."""
        return self.prior.tensor(value)

    @property
    def mean(self) -> Tensor:
        """Of 10,000 draws."""
        return torch.from_numpy(self.prior.sample(10_000, seed=0).mean(0)).float()

    @property
    def variance(self) -> Tensor:
        """Of 10,000 draws."""
        return torch.from_numpy(self.prior.sample(10_000, seed=0).var(0)).float()


def _constraint(low: float | None, high: float | None) -> constraints.Constraint:
    """The interval of one parameter as torch states it."""
    if low is None:
        return constraints.real if high is None else constraints.less_than(high)
    return constraints.greater_than(low) if high is None else constraints.interval(low, high)
