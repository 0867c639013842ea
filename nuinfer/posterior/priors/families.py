"""Families of distributions whose parameters are known: their precision, and the form in which they are saved.

A prior is worked out in float64 and handed to sbi in float32.  A distribution of a known family is made again from its
parameters; any other is copied with all the tensors in it converted (`converted`).
"""

from __future__ import annotations

import copy
import math
import weakref
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor
from torch import distributions as td
from torch.distributions import constraints

from .sampling import seeded

#: The arguments that make a distribution of each family.
KNOWN: dict[str, tuple[str, ...]] = {
    "Beta": ("concentration1", "concentration0"), "Cauchy": ("loc", "scale"), "Exponential": ("rate",),
    "Gamma": ("concentration", "rate"), "Gumbel": ("loc", "scale"), "HalfCauchy": ("scale",), "HalfNormal": ("scale",),
    "InverseGamma": ("concentration", "rate"), "Laplace": ("loc", "scale"), "LogNormal": ("loc", "scale"),
    "MultivariateNormal": ("loc", "covariance_matrix"), "Normal": ("loc", "scale"), "Pareto": ("scale", "alpha"),
    "StudentT": ("df", "loc", "scale"), "Uniform": ("low", "high"), "Weibull": ("scale", "concentration"),
}  # fmt: skip


class Box(td.Uniform):
    """A flat density on [low, high], both ends included, -inf outside also where arguments are not validated."""

    def log_prob(self, value: Tensor) -> Tensor:
        """The constant inside, in the type of the edges."""
        inside = (value >= self.low) & (value <= self.high)
        return torch.where(inside, -torch.log(self.high - self.low), -math.inf)


def core(d: td.Distribution) -> td.Distribution:
    """What `Independent` wraps, to any depth."""
    while isinstance(d, td.Independent):
        d = d.base_dist
    return d


def is_known(d: td.Distribution) -> bool:
    """Whether it is one of torch's own, with parameters that a file holds."""
    return type(d).__name__ in KNOWN and type(d).__module__.startswith("torch.distributions")


def parameter(d: td.Distribution, name: str) -> Tensor:
    """A parameter in float64; a covariance from its Cholesky factor where that came in."""
    if name == "covariance_matrix" and name not in vars(d):
        factor: Tensor = d.scale_tril.detach().double()  # type: ignore[attr-defined]
        return factor @ factor.mT
    value: Tensor = getattr(d, name)
    return value.detach().double()


def converted(thing: Any, dtype: torch.dtype, made: dict[int, Any] | None = None) -> Any:
    """A copy of a distribution, and of all distributions and transforms in it, whose numbers are of ``dtype``.

    ``made`` has the copies so far by the id of the original: a transform and its inverse know each other.
    """
    made = {} if made is None else made
    if isinstance(thing, Tensor):
        return thing.detach().to(dtype) if thing.is_floating_point() else thing.detach()
    if isinstance(thing, torch.nn.Module):
        return copy.deepcopy(thing).to(dtype)
    if isinstance(thing, td.Distribution) and is_known(thing):
        return _rebuilt(thing, dtype)
    if type(thing) in (list, tuple):
        return type(thing)(converted(part, dtype, made) for part in thing)
    if not isinstance(thing, (td.Distribution, td.Transform, constraints.Constraint)):
        return thing
    if id(thing) not in made:
        new = made[id(thing)] = copy.copy(thing)
        # weak references are a transform's memory of its inverse, which torch makes again
        new.__dict__.update({name: None if isinstance(value, weakref.ref) else converted(value, dtype, made)
                             for name, value in vars(thing).items()})  # fmt: skip
        if isinstance(new, td.Distribution):
            new._validate_args = False
    return made[id(thing)]


def _rebuilt(d: td.Distribution, dtype: torch.dtype) -> td.Distribution:
    values = {name: parameter(d, name).to(dtype) for name in KNOWN[type(d).__name__]}
    kind: Any = Box if type(d) is td.Uniform and dtype == torch.float64 else type(d)
    made: td.Distribution = kind(**values, validate_args=False)
    return made


def evaluable(distribution: td.Distribution, draws: Tensor) -> tuple[td.Distribution, torch.dtype]:
    """The distribution in float64, or as it is where, say, a network inside it cannot be made so; and its type."""
    one = torch.Size([1])
    with torch.no_grad(), seeded(0, "types"):
        try:
            double: td.Distribution = converted(distribution, torch.float64)
            points = draws if distribution.event_shape or distribution.batch_shape else draws[:, 0]
            if double.log_prob(points).dtype == double.sample(one).dtype == torch.float64:
                return double, torch.float64
        except (RuntimeError, TypeError, ValueError, AttributeError):
            pass
        return distribution, torch.as_tensor(distribution.sample(one)).dtype


def to_json(d: td.Distribution) -> dict[str, Any]:
    """The family and parameters of a known one, which `Independent` may wrap."""
    if isinstance(d, td.Independent):
        return {"family": "Independent", "base": to_json(d.base_dist), "dimensions": d.reinterpreted_batch_ndims}
    name = type(d).__name__
    return {"family": name, "parameters": {key: parameter(d, key).tolist() for key in KNOWN[name]}}


def from_json(spec: Mapping[str, Any]) -> td.Distribution:
    """The inverse of `to_json`; ``ValueError`` for a family that is not known."""
    if spec["family"] == "Independent":
        return td.Independent(from_json(spec["base"]), spec["dimensions"])
    if spec["family"] not in KNOWN:
        raise ValueError(f"prior: expected a distribution among {', '.join(KNOWN)}, found {spec['family']!r}; "
                         f"update nuinfer")  # fmt: skip
    values = {key: torch.tensor(value, dtype=torch.float64) for key, value in spec["parameters"].items()}
    made: td.Distribution = getattr(td, spec["family"])(**values)
    return made
