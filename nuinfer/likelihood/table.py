r"""Events as a mixture's cost sees them: densities and their variations in one table, gone through in blocks.

A table holds s (J, N), the densities of J processes over the reference, and for S shape nuisances the variations
(J, 2, S, N): with interpolation "log" the odd and even parts D and S of log g, which as a matrix A_j (2 S, N) give
log g_j = u A_j, u = (p(alpha), q(alpha)); with "code4" log g at -1 and +1.  Events are the last axis, so that both
products with A, u A_j and A_j v_j, go along contiguous numbers: that is twice as fast as with events first.

For the rate :math:`\lambda_i = \sum_j b_j s_{ij} g_{ij}` and :math:`v_{ij} = w_i b_j s_{ij} g_{ij}/\lambda_i`,

.. math:: \frac{\partial}{\partial b_j} \sum_i w_i \log\lambda_i = \sum_i \frac{w_i s_{ij} g_{ij}}{\lambda_i}, \qquad
          \frac{\partial}{\partial u} \sum_i w_i \log\lambda_i = \sum_j A_j v_j .

Both follow from a block while it is in the cache, so that value and gradient read the table from memory once.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, cast

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from .costs import NegativeDensity
from .interpolation import Interpolation, basis, basis_slope, code4, code4_log_slope

__all__ = ["Table", "log_rates"]

_BLOCK = 1 << 13  # events that are gone through at once: few calls, and their variations stay in the last cache


@dataclass(frozen=True, eq=False)
class Table:
    """s (J, N) float64, variations (J, 2, S, N), weights (N,) and ids (N,) of events.

    ``digest`` stands for the events, ``columns`` names the processes, then after an empty name the shapes.
    """

    density: Tensor
    varied: Tensor
    weight: Tensor
    id: NDArray[np.int64]
    interpolation: Interpolation
    digest: str = ""
    columns: tuple[str, ...] = ()

    @classmethod
    def of(
        cls,
        log_s: NDArray[np.float64],
        varied: NDArray[Any],
        weight: NDArray[np.float64],
        id: NDArray[np.int64],
        interpolation: Interpolation,
        digest: str = "",
        columns: tuple[str, ...] = (),
    ) -> Table:
        """From log densities (J, N) and variations (J, 2, S, N)."""
        density = torch.exp(torch.from_numpy(log_s))
        tensors = (density, torch.from_numpy(varied), torch.from_numpy(np.array(weight)))
        return cls(*tensors, id, interpolation, digest, columns)

    def __len__(self) -> int:
        return len(self.weight)

    @property
    def shapes(self) -> int:
        """S, the number of shape nuisances."""
        return self.varied.shape[2]

    def weighted(self, weight: Tensor) -> Table:
        """The same events with other weights (N,)."""
        return replace(self, weight=weight, digest="")

    @classmethod
    def concat(cls, tables: Sequence[Table]) -> Table:
        """The events of all tables, which have the same processes and variations."""
        density, varied, weight = (
            torch.cat([getattr(t, name) for t in tables], -1) for name in ("density", "varied", "weight")
        )
        ids, first = np.concatenate([t.id for t in tables]), tables[0]
        return cls(density, varied, weight, ids, first.interpolation, "", first.columns)

    def arrays(self) -> dict[str, NDArray[Any]]:
        """Names and arrays to save."""
        tensors = {"density": self.density, "varied": self.varied, "weight": self.weight}
        return {name: tensor.numpy() for name, tensor in tensors.items()} | {"id": self.id}

    @classmethod
    def of_arrays(
        cls, arrays: Mapping[str, NDArray[Any]], interpolation: Interpolation, digest: str, columns: tuple[str, ...]
    ) -> Table:
        """The inverse of `arrays`."""
        density, varied, weight = (torch.from_numpy(arrays[name]) for name in ("density", "varied", "weight"))
        return cls(density, varied, weight, arrays["id"], interpolation, digest, columns)

    def blocks(self) -> Iterator[Table]:
        """Parts of the table, in order."""
        for start in range(0, len(self), _BLOCK):
            at = slice(start, start + _BLOCK)
            parts = self.density[:, at], self.varied[..., at], self.weight[at], self.id[at]
            yield Table(*parts, self.interpolation)

    def arguments(self, alpha: Tensor) -> Tensor:
        """What the variations are a function of: u (2 S,) for "log", alpha (S,) itself for "code4"."""
        return torch.cat(basis(alpha)) if self.interpolation == "log" else alpha

    def densities(self, alpha: Tensor) -> Tensor:
        """s g (J, N) at alpha (S,), differentiable; for tables of a moderate size."""
        return self.varied_densities(self.arguments(alpha))

    def varied_densities(self, u: Tensor) -> Tensor:
        """s g (J, N) of what `arguments` gave."""
        if not self.shapes:
            return self.density
        if self.interpolation == "code4":
            return self.density * torch.stack([code4(u[:, None], *pair.to(u.dtype)).prod(0) for pair in self.varied])
        own = u.to(self.varied.dtype)
        return self.density * torch.stack([torch.mv(a.T, own) for a in self.matrices]).double().exp_()

    def log_slope(self, alpha: Tensor, shape: int) -> Tensor:
        """d log g / d alpha of one shape nuisance (J, N), at alpha (S,)."""
        at = alpha.detach()[shape]
        first, second = self.varied[:, :, shape].to(at.dtype).unbind(1)
        if self.interpolation == "code4":
            return code4_log_slope(at, first, second)
        odd, even = basis_slope(at)
        return first * odd + second * even

    @property
    def matrices(self) -> list[Tensor]:
        """A_j (2 S, N) of each process."""
        return list(self.varied.flatten(1, 2))

    def means(self, alpha: Tensor) -> Tensor:
        """Z (J,): the weighted means of s g at alpha (S,), differentiable."""
        return cast(Tensor, _Means.apply(self.arguments(alpha), self))  # type: ignore[no-untyped-call]

    def check_positive(self, rate: Tensor, names: Sequence[str], theta: Tensor, first: int = 0) -> None:
        """Raise `NegativeDensity` for the lowest rate (N,) where it is not positive (NaN included)."""
        # a comparison with a NaN is false, and the least of numbers with a NaN is NaN
        if not len(rate) or float(rate.min()) > 0:
            return
        bad = torch.nonzero(~(rate > 0))[:, 0]
        worst = int(bad[torch.argmin(torch.nan_to_num(rate[bad], nan=-torch.inf))])
        at = ", ".join(f"{name} = {value:.6g}" for name, value in zip(names, theta.tolist(), strict=True))
        raise NegativeDensity(
            f"the mixture's density is not positive at {len(bad)} of {len(rate)} events looked at, lowest at row "
            f"{first + worst} (id {int(self.id[worst])}): {float(rate[worst]):.4g} over the reference, at {at}; "
            f"limit the parameters to where the model is positive, or train the ratios better in that region"
        )


def log_rates(table: Table, scale: Tensor, alpha: Tensor, names: Sequence[str], theta: Tensor) -> Tensor:
    """sum_i w_i log lambda_i, a scalar, for b = ``scale`` (J,) and alpha (S,), differentiable in both.

    ``names`` and ``theta`` are what the error says where a rate is not positive.
    """
    found = _LogRates.apply(scale, table.arguments(alpha), table, names, theta.detach())  # type: ignore[no-untyped-call]
    return cast(Tensor, found)


class _LogRates(torch.autograd.Function):
    """Value and closed-form gradient in one pass over the table."""

    @staticmethod
    def forward(ctx: Any, scale: Tensor, u: Tensor, table: Table, names: Sequence[str], theta: Tensor) -> Tensor:
        value, by_scale, by_u, first = torch.zeros_like(scale[0]), torch.zeros_like(scale), torch.zeros_like(u), 0
        for block in table.blocks():
            each = block.varied_densities(u)
            rate = torch.mv(each.T, scale)
            block.check_positive(rate, names, theta, first)
            value += torch.dot(block.weight, torch.log(rate))
            part = block.weight / rate
            by_scale += torch.mv(each, part)
            if len(u):
                by_u += _pulled_back(block, u, each.mul_(part).mul_(scale[:, None])).sum(0)
            first += len(block)
        ctx.save_for_backward(by_scale, by_u)
        return value

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, above: Tensor) -> tuple[Tensor, Tensor, None, None, None]:
        by_scale, by_u = ctx.saved_tensors
        return above * by_scale, above * by_u, None, None, None


class _Means(torch.autograd.Function):
    """Z (J,) and its Jacobian (J, U) in one pass over the table."""

    @staticmethod
    def forward(ctx: Any, u: Tensor, table: Table) -> Tensor:
        total = table.weight.sum()
        means = torch.zeros(len(table.density), dtype=torch.float64)
        slopes = torch.zeros(len(means), len(u), dtype=torch.float64)
        for block in table.blocks():
            each = block.varied_densities(u) * block.weight
            means += each.sum(1)
            if len(u):
                slopes += _pulled_back(block, u, each)
        ctx.save_for_backward(slopes / total)
        return means / total

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, above: Tensor) -> tuple[Tensor, None]:
        (slopes,) = ctx.saved_tensors
        return above @ slopes, None


def _pulled_back(block: Table, u: Tensor, weight: Tensor) -> Tensor:
    """The gradients in u (J, U) of sum_i v_ji log g_ji, v = ``weight`` (J, N); a block's sums are of A's precision."""
    if block.interpolation == "code4":
        slopes = (code4_log_slope(u[:, None], *pair.to(u.dtype)) for pair in block.varied)
        return torch.stack([torch.mv(slope, v) for slope, v in zip(slopes, weight, strict=True)])
    own = weight.to(block.varied.dtype)
    return torch.stack([torch.mv(a, v) for a, v in zip(block.matrices, own, strict=True)]).double()
