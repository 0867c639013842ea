r"""Events as a mixture's cost sees them: densities and their variations in one table, gone through in blocks.

A table holds s (N, J), the densities of J processes over the reference, and for S shape nuisances the variations
(N, J, 2, S): with interpolation "log" the odd and even parts D and S of log g, which as a matrix A (N J, 2 S) give
log g = A u, u = (p(alpha), q(alpha)); with "code4" log g at -1 and +1.

For the rate :math:`\lambda_i = \sum_j b_j s_{ij} g_{ij}` and :math:`v_{ij} = w_i b_j s_{ij} g_{ij}/\lambda_i`,

.. math:: \frac{\partial}{\partial b_j} \sum_i w_i \log\lambda_i = \sum_i \frac{w_i s_{ij} g_{ij}}{\lambda_i}, \qquad
          \frac{\partial}{\partial u} \sum_i w_i \log\lambda_i = A^T v .

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
from .interpolation import Interpolation, basis, code4

__all__ = ["Table", "log_rates"]

_BLOCK_BYTES = 1 << 22  # of the variations in a block: it stays in the last cache, its calls cost little


_PIECE = 1 << 12  # rows that are summed in float32 before their sum is added in float64


@dataclass(frozen=True, eq=False)
class Table:
    """s (N, J) float64, variations (N, J, 2, S), weights (N,) and ids (N,) of events.

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
        """From log densities (N, J) and variations (N, J, 2, S)."""
        density = torch.exp(torch.from_numpy(log_s))
        tensors = (density, torch.from_numpy(varied), torch.from_numpy(np.array(weight)))
        return cls(*tensors, id, interpolation, digest, columns)

    def __len__(self) -> int:
        return len(self.density)

    @property
    def shapes(self) -> int:
        """S, the number of shape nuisances."""
        return self.varied.shape[3]

    def weighted(self, weight: Tensor) -> Table:
        """The same events with other weights (N,)."""
        return replace(self, weight=weight, digest="")

    @classmethod
    def concat(cls, tables: Sequence[Table]) -> Table:
        """The events of all tables, which have the same processes and variations."""
        density, varied, weight = (
            torch.cat([getattr(t, name) for t in tables]) for name in ("density", "varied", "weight")
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
        row = self.density.shape[1] * max(2 * self.shapes, 4) * self.varied.element_size()
        size = max(_BLOCK_BYTES // row, 64)
        for start in range(0, len(self), size):
            rows = slice(start, start + size)
            yield Table(self.density[rows], self.varied[rows], self.weight[rows], self.id[rows], self.interpolation)

    def arguments(self, alpha: Tensor) -> Tensor:
        """What the variations are a function of: u (2 S,) for "log", alpha (S,) itself for "code4"."""
        return torch.cat(basis(alpha)) if self.interpolation == "log" else alpha

    def densities(self, alpha: Tensor) -> Tensor:
        """s g (N, J) at alpha (S,), differentiable; for tables of a moderate size."""
        return self.varied_densities(self.arguments(alpha))

    def varied_densities(self, u: Tensor) -> Tensor:
        """s g (N, J) of what `arguments` gave."""
        if not self.shapes:
            return self.density
        if self.interpolation == "code4":
            down, up = self.varied.to(u.dtype).unbind(2)
            return self.density * code4(u, down, up).prod(-1)
        found = torch.mv(self.matrix, u.to(self.varied.dtype))
        return self.density * found.double().exp_().view_as(self.density)

    def log_slope(self, alpha: Tensor, shape: int) -> Tensor:
        """d log g / d alpha of one shape nuisance (N, J), at alpha (S,)."""
        at = alpha.detach()[shape].requires_grad_()
        first, second = self.varied[..., shape].to(at.dtype).unbind(2)
        with torch.enable_grad():
            if self.interpolation == "log":
                p, q = (torch.autograd.grad(part, at, retain_graph=True)[0] for part in basis(at))
                return first * p + second * q
            each = at.expand_as(first).detach().requires_grad_()
            return torch.autograd.grad(torch.log(code4(each, first, second)).sum(), each)[0]

    @property
    def matrix(self) -> Tensor:
        """A (N J, 2 S)."""
        return self.varied.view(-1, 2 * self.shapes)

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
            rate = torch.mv(each, scale)
            block.check_positive(rate, names, theta, first)
            value += torch.dot(block.weight, torch.log(rate))
            part = block.weight / rate
            by_scale += torch.mv(each.T, part)
            if len(u):
                by_u += _pulled_back(block, u, each.mul_(scale).mul_(part[:, None]))
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
        means = torch.zeros(table.density.shape[1], dtype=torch.float64)
        slopes = torch.zeros(len(means), len(u), dtype=torch.float64)
        for block in table.blocks():
            each = block.varied_densities(u) * block.weight[:, None]
            means += each.sum(0)
            if len(u):
                slopes += _pulled_back_each(block, u, each)
        ctx.save_for_backward(slopes / total)
        return means / total

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, above: Tensor) -> tuple[Tensor, None]:
        (slopes,) = ctx.saved_tensors
        return above @ slopes, None


def _pulled_back_each(block: Table, u: Tensor, weight: Tensor) -> Tensor:
    """The gradients in u (J, U) of sum_i v_ij log g_ij, v = ``weight`` (N, J), a process at a time."""
    if block.interpolation == "code4":
        columns = range(weight.shape[1])
        parts = [replace(block, density=block.density[:, j, None], varied=block.varied[:, j, None]) for j in columns]
        return torch.stack([_pulled_back(part, u, weight[:, j, None]) for j, part in enumerate(parts)])
    rows = block.varied.flatten(2)
    return torch.stack([_summed_rows(weight[:, j], rows[:, j]) for j in range(weight.shape[1])])


def _summed_rows(weight: Tensor, rows: Tensor) -> Tensor:
    """sum_n v_n A_n (U,) in float64, of v (N,) and A (N, U): in the precision of A only over pieces of its rows."""
    pairs = zip(rows.split(_PIECE), weight.to(rows.dtype).split(_PIECE), strict=True)
    return torch.stack([torch.mv(piece.T, v) for piece, v in pairs]).double().sum(0)


def _pulled_back(block: Table, u: Tensor, weight: Tensor) -> Tensor:
    """The gradient in u (U,) of sum_ij v_ij log g_ij, v = ``weight`` (N, J)."""
    if block.interpolation == "code4":
        with torch.enable_grad():
            alpha = u.detach().requires_grad_()
            down, up = block.varied.to(alpha.dtype).unbind(2)
            found = (weight[..., None] * torch.log(code4(alpha, down, up))).sum()
        return torch.autograd.grad(found, alpha)[0]
    return _summed_rows(weight.reshape(-1), block.matrix)
