r"""The contents that templates expect in their bins, with a gradient in closed form.

All templates lie one after the other as *cells* c, a bin of a process in a channel each; r is the template of a cell.

.. math::
    m_c = T_c\, F_r\, \Gamma_c, \qquad T = n + D\,p(\alpha) + S\,q(\alpha), \qquad
    F_r = f_r \prod_k G_{rk}(\alpha_k), \qquad \Gamma_c = \prod_l \gamma_{l(c)},

and mu is the sum of m over the cells of a bin.  For a function of mu with slope v in each bin, and so in each cell,

.. math::
    \frac{\partial}{\partial \alpha} = p'\, D^T (v F \Gamma) + q'\, S^T (v F \Gamma) +
    \sum_r \Big[\sum_{c \in r} v m\Big]_r \frac{\partial \log G_r}{\partial \alpha}.

A model has a few hundred cells, where the price is the number of calls, not of products: so this is a handful of numpy
calls, one node of torch's graph.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple, cast

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.special import xlogy
from torch import Tensor

from .interpolation import _INVERSE

__all__ = ["Expectation", "NormCode", "Norms", "ShapeCode", "Shapes", "deviance", "mean"]

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]
NormCode = Literal["code4", "code1", "log"]
ShapeCode = Literal["code4p", "code0"]


@dataclass(frozen=True, eq=False)
class Shapes:
    """D and S (C, K) and the places (K,) of their nuisances in alpha."""

    odd: Floats
    even: Floats
    at: Ints
    code: ShapeCode

    @classmethod
    def of(cls, down: Floats, up: Floats, at: Ints, code: ShapeCode) -> Shapes:
        """From the differences to the nominal content at -1 and +1 sigma (C, K)."""
        return cls((up - down) / 2, (up + down) / 2, at, code)

    def added(self, alpha: Floats) -> Floats:
        """D p + S q (C,)."""
        a = alpha[self.at]
        return self.odd @ a + self.even @ (_q(a) if self.code == "code4p" else np.abs(a))

    def pulled_back(self, alpha: Floats, weight: Floats) -> Floats:
        """The slopes (K,) of sum_c weight_c (D p + S q)_c."""
        a = alpha[self.at]
        slope = _q_slope(a) if self.code == "code4p" else np.sign(a)
        return np.asarray(weight @ self.odd + slope * (weight @ self.even))


@dataclass(frozen=True, eq=False)
class Norms:
    """log G(-1) and log G(+1) (R, K), 0 where there is none, and the places (K,) of their nuisances in alpha."""

    down: Floats
    up: Floats
    at: Ints
    code: NormCode
    polynomial: Floats

    @classmethod
    def of(cls, down: Floats, up: Floats, at: Ints, code: NormCode) -> Norms:
        """With the polynomials (R, K, 6) of code 4, which are the same at every alpha."""
        plus, minus = np.exp(up), np.exp(down)
        ends = [plus - 1, up * plus, up**2 * plus, minus - 1, -down * minus, down**2 * minus]
        return cls(down, up, at, code, np.stack(ends, -1) @ _INVERSE.numpy().T)

    def product(self, alpha: Floats) -> tuple[Floats, Floats]:
        """The product of G (R,), and the slopes (R, K) of its logarithm."""
        a = alpha[self.at]
        if self.code == "log":
            odd, even = (self.up - self.down) / 2, (self.up + self.down) / 2
            return np.exp(odd @ a + even @ _q(a)), odd + even * _q_slope(a)
        slope = np.where(a > 0, self.up, -self.down)
        inside = np.abs(a) <= 1
        if self.code == "code1" or not inside.any():
            return np.exp(slope @ a), slope
        power = a[:, None] ** np.arange(7) * inside[:, None]
        near = 1 + np.einsum("rki,ki->rk", self.polynomial, power[:, 1:])
        rise = np.einsum("rki,ki->rk", self.polynomial, power[:, :6] * np.arange(1, 7))
        factor = np.where(inside, near, np.exp(slope * a))
        return factor.prod(1), np.where(inside, rise / near, slope)


class State(NamedTuple):
    """What the gradient needs of the way forward: T, Gamma, m (C,), F (R,), G (R,) and its slopes (R, K)."""

    content: Floats
    gamma: Floats
    cells: Floats
    factor: Floats
    norm: Floats
    slope: Floats


@dataclass(frozen=True, eq=False)
class Expectation:
    """The constant arrays of a model.

    ``first`` (R,) are the first cells of the templates, ``row`` and ``bin`` (C,) where a cell belongs, and ``layers``
    lists for every cell the place of its factor in gamma, or its length for none.
    """

    nominal: Floats
    shapes: Shapes
    norms: Norms
    layers: tuple[Ints, ...]
    first: Ints
    row: Ints
    bin: Ints
    bins: int

    def forward(self, scale: Floats, alpha: Floats, gamma: Floats) -> State:
        """All of `State`, for coefficients f (R,), alpha (K,) and gamma (L,)."""
        content = self.nominal + self.shapes.added(alpha) if len(self.shapes.at) else self.nominal
        norm, slope = self.norms.product(alpha)
        factor = scale * norm
        ends = np.append(gamma, 1.0)
        product = np.ones_like(content)
        for layer in self.layers:
            product = product * ends[layer]
        return State(content, product, content * factor[self.row] * product, factor, norm, slope)

    def binned(self, cells: Floats) -> Floats:
        """The sum over the cells of each bin (B,)."""
        return np.asarray(np.bincount(self.bin, cells, self.bins), np.float64)

    def backward(self, state: State, alpha: Floats, gamma: Floats, slope: Floats) -> tuple[Floats, Floats, Floats]:
        """The slopes in f (R,), alpha (K,) and gamma (L,), from those in mu (B,)."""
        v = slope[self.bin]
        each = v * state.content * state.gamma
        by_row = np.add.reduceat(each, self.first)
        by_alpha = np.zeros_like(alpha)
        if len(self.shapes.at):
            weight = v * state.factor[self.row] * state.gamma
            by_alpha[self.shapes.at] += self.shapes.pulled_back(alpha, weight)
        by_alpha[self.norms.at] += (by_row * state.factor) @ state.slope
        return by_row * state.norm, by_alpha, self._by_gamma(v * state.content * state.factor[self.row], gamma)

    def _by_gamma(self, each: Floats, gamma: Floats) -> Floats:
        """The slopes in gamma (L,) of sum_c each_c Gamma_c."""
        ends, found = np.append(gamma, 1.0), np.zeros(len(gamma) + 1)
        for k, layer in enumerate(self.layers):
            others = each
            for other in (*self.layers[:k], *self.layers[k + 1 :]):
                others = others * ends[other]
            found += np.bincount(layer, others, len(found))
        return found[:-1]


def mean(model: Expectation, scale: Tensor, alpha: Tensor, gamma: Tensor) -> Tensor:
    """mu (B,) for f (R,), alpha (K,) and gamma (L,), differentiable once in all of them."""
    return cast(Tensor, _Mean.apply(scale, alpha, gamma, model))  # type: ignore[no-untyped-call]


class _Mean(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, scale: Tensor, alpha: Tensor, gamma: Tensor, model: Expectation) -> Tensor:
        ctx.model, ctx.at = model, (alpha.numpy(), gamma.numpy())
        ctx.state = model.forward(scale.numpy(), *ctx.at)
        return torch.from_numpy(model.binned(ctx.state.cells))

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, slope: Tensor) -> tuple[Tensor, Tensor, Tensor, None]:
        found = ctx.model.backward(ctx.state, *ctx.at, slope.numpy())
        by_scale, by_alpha, by_gamma = (torch.from_numpy(part) for part in found)
        return by_scale, by_alpha, by_gamma, None


def deviance(
    model: Expectation, scale: Tensor, alpha: Tensor, gamma: Tensor, count: Floats, check: Callable[[Floats], None]
) -> Tensor:
    """2 sum [mu - n + n log(n / mu)] for n (B,) = ``count``, a scalar, in one node with `mean`.

    ``check`` raises where mu (B,) is not what it has to be: positive, or from 0 where n = 0.
    """
    return cast(Tensor, _Deviance.apply(scale, alpha, gamma, model, count, check))  # type: ignore[no-untyped-call]


class _Deviance(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, scale: Tensor, alpha: Tensor, gamma: Tensor, model: Expectation, count: Floats, check: Any
    ) -> Tensor:
        ctx.model, ctx.at = model, (alpha.numpy(), gamma.numpy())
        ctx.state = model.forward(scale.numpy(), *ctx.at)
        mu = model.binned(ctx.state.cells)
        check(mu)
        ratio = np.divide(count, mu, out=np.zeros_like(mu), where=count > 0)
        ctx.slope = 2 * (1 - ratio)
        return torch.tensor(2 * float((mu - count + xlogy(count, ratio)).sum()), dtype=torch.float64)

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, above: Tensor) -> tuple[Tensor, Tensor, Tensor, None, None, None]:
        found = ctx.model.backward(ctx.state, *ctx.at, float(above) * ctx.slope)
        by_scale, by_alpha, by_gamma = (torch.from_numpy(part) for part in found)
        return by_scale, by_alpha, by_gamma, None, None, None


def _q(alpha: Floats) -> Floats:
    """The even part of `nuinfer.likelihood.interpolation`."""
    square = alpha * alpha
    return np.where(square <= 1, square * (15 - square * (10 - 3 * square)) / 8, np.abs(alpha))


def _q_slope(alpha: Floats) -> Floats:
    """Its derivative."""
    square = alpha * alpha
    return np.where(square <= 1, alpha * (15 - square * (20 - 9 * square)) / 4, np.sign(alpha))
