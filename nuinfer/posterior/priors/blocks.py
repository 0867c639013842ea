"""Blocks: the factors of a prior's density, each the distribution of one parameter or the joint one of several."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch import distributions as td

from .checks import box, check_distribution, check_edges, probed, short, width_of
from .families import KNOWN, core, evaluable, from_json, is_known, parameter, to_json
from .sampling import seeded
from .supports import edges

Bound = tuple[float | None, float | None]

_QUANTILES = 4096  # draws whose quantiles cut the axis into pieces for the integral of an unknown density


@dataclass(frozen=True, eq=False)
class Block:
    """One distribution of ``width`` parameters, in float64 where that can be done.

    ``anchor`` (width,) is a point inside: densities are worked out there in place of points outside, so that gradients
    stay finite.
    """

    original: td.Distribution = field(repr=False)
    double: td.Distribution = field(repr=False)
    dtype: torch.dtype
    width: int
    low: Tensor
    high: Tensor
    anchor: Tensor

    @classmethod
    def of(cls, what: str, distribution: Any) -> Block:
        """A block of a distribution that was checked to be a proper density of finite width."""
        check_distribution(what, distribution)
        width = width_of(what, distribution)
        check_edges(what, distribution)
        draws = probed(what, distribution, width)
        low, high = edges(what, distribution, width)
        double, dtype = evaluable(distribution, draws)
        # the middle one of the draws along the first parameter: away from the edges
        anchor = draws[draws[:, 0].argsort()[len(draws) // 2]]
        block = cls(distribution, double, dtype, width, low, high, anchor)
        _check_density(what, block, draws)
        return block

    @property
    def bounds(self) -> tuple[Bound, ...]:
        """The support of each parameter, None where it has no end."""
        pairs = zip(self.low.tolist(), self.high.tolist(), strict=True)
        return tuple((None if a == -math.inf else a, None if b == math.inf else b) for a, b in pairs)

    @property
    def known(self) -> bool:
        """Whether a file holds all of it."""
        return is_known(core(self.original))

    def sample(self, n: int) -> Tensor:
        """Draws (n, width) by torch's generator."""
        return self.double.sample(torch.Size([n])).double().reshape(n, self.width)

    def log_prob(self, theta: Tensor) -> Tensor:
        """The log density (...) of points (..., width); -inf outside."""
        inside = ((theta >= self.low) & (theta <= self.high)).all(-1)
        logs = self._raw(torch.where(inside[..., None], theta, self.anchor))
        # densities of, say, log-normals are NaN at 0 itself, where their limit is 0
        edge = ((theta == self.low) | (theta == self.high)).any(-1)
        return torch.where(inside & ~(edge & logs.isnan()), logs, -math.inf)

    def _raw(self, theta: Tensor) -> Tensor:
        """The log density (...) of points (..., width) that are inside."""
        if self.double.event_shape:
            # some distributions, as sbi's, take matrices only
            flat = theta.reshape(-1, self.width).to(self.dtype)
            return self.double.log_prob(flat).double().reshape(theta.shape[:-1])
        if self.double.batch_shape:
            return self.double.log_prob(theta.to(self.dtype)).double().sum(-1)
        return self.double.log_prob(theta[..., 0].to(self.dtype)).double()

    def shown(self, names: Sequence[str]) -> list[str]:
        """The distribution in words, with the parameters' names."""
        family = core(self.original)
        head = names[0] if len(names) == 1 else f"({', '.join(names)})"
        if not self.known:
            return [f"{head} ~ {type(self.original).__name__}"]
        if type(family) is td.Uniform:
            ends = zip(names, self.low.tolist(), self.high.tolist(), strict=True)
            return [f"{name} ~ Uniform({a:.7g}, {b:.7g})" for name, a, b in ends]
        values = [f"{key} {short(parameter(family, key).squeeze())}" for key in KNOWN[type(family).__name__]]
        return [f"{head} ~ {type(family).__name__}({', '.join(values)})"]

    def to_json(self) -> dict[str, Any]:
        """The family and its parameters; of another distribution the type, and the density at one point."""
        if self.known:
            return to_json(self.original)
        point = self.anchor
        return {"family": "user", "type": type(self.original).__name__, "point": point.tolist(),
                "log_prob": float(self.log_prob(point))}  # fmt: skip

    @classmethod
    def from_json(cls, spec: Mapping[str, Any]) -> Block:
        """The inverse of `to_json` for a known distribution."""
        return cls.of("prior", from_json(spec))

    def is_saved(self, spec: Mapping[str, Any]) -> bool:
        """Whether `to_json` of this block gave ``spec``: for an unknown distribution, has the same density there."""
        if not (spec["family"] == "user" and not self.known):
            return self.to_json() == spec
        again = float(self.log_prob(torch.tensor(spec["point"], dtype=torch.float64)))
        same = math.isclose(again, spec["log_prob"], rel_tol=1e-5, abs_tol=1e-5)
        return same and type(self.original).__name__ == spec["type"]


def _check_density(what: str, block: Block, draws: Tensor) -> None:
    """Raise ``ValueError`` where the density is not finite at draws (n, width), or is not normalised."""
    kind = type(block.original).__name__
    with torch.no_grad():
        logs = block.log_prob(draws)
    bad = int((~torch.isfinite(logs)).sum())
    if bad:
        raise ValueError(
            f"{what}: expected a finite density at draws of {kind}, found {bad} of {len(draws)} without, first at "
            f"{short(draws[int((~torch.isfinite(logs)).nonzero()[0])])}; bounds {block.bounds}: do support, sample "
            f"and log_prob agree?"
        )
    if block.width == 1 and not block.known:
        total = _integral(block)
        if not abs(total - 1) < 0.02:
            raise ValueError(f"{what}: expected a normalised density, found that of {kind}, which integrates to "
                             f"{total:.3g} over its own draws; normalise its log_prob")  # fmt: skip


def _integral(block: Block) -> float:
    """The integral of a density of one number: Gauss and Legendre's rule between quantiles of its draws."""
    with torch.no_grad(), seeded(0, "quantiles"):
        draws = np.sort(block.sample(_QUANTILES).numpy()[:, 0])
    cuts = np.concatenate([draws[:1], draws[8:-8:8], draws[-1:]])
    nodes, weights = np.polynomial.legendre.leggauss(12)
    half, middle = np.diff(cuts) / 2, (cuts[1:] + cuts[:-1]) / 2
    points = torch.from_numpy(middle[:, None] + half[:, None] * nodes)
    with torch.no_grad():
        density = block.log_prob(points[..., None]).exp().numpy()
    return float((density * weights * half[:, None]).sum())


def blocks_by_name(prior: Mapping[str, Any]) -> list[Block]:
    """A block for each parameter, of (low, high) or of a distribution of one number."""
    blocks = []
    for name, value in prior.items():
        what = f"prior of {name!r}"
        blocks.append(Block.of(what, value if isinstance(value, td.Distribution) else box(what, value)))
        if blocks[-1].width != 1:
            raise ValueError(f"{what}: expected a distribution of one number, found one of {blocks[-1].width}; "
                             f"Prior.of(joint, names=[...]) takes a joint distribution of all")  # fmt: skip
    return blocks


def blocks_of_joint(distribution: Any) -> list[Block]:
    """The blocks of a joint distribution: those of its list for sbi's MultipleIndependent, else one."""
    parts = getattr(distribution, "dists", None)
    if isinstance(distribution, td.Distribution) and isinstance(parts, (list, tuple)):
        return [Block.of(f"prior, part {i}", part) for i, part in enumerate(parts)]
    return [Block.of("prior", distribution)]
