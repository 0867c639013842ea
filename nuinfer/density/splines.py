r"""Monotone functions of one number, for K members, D columns and B events at once.

``phi`` (K, D, P, B) holds the P numbers of each function, ``x`` (K, D, B) where it is evaluated; the events come last,
since sums over the few knots then run along whole rows of memory.

The rational-quadratic spline through knots (u_k, v_k) of the unit square with slopes d_k is, with z in [0, 1] the place
within piece k of width w and height h, and m = h/w,

.. math::

    y = v_k + h\, \frac{m z^2 + d_k\, q}{m + e\, q}, \qquad
    \frac{dy}{du} = \frac{m^2 (2 m q + d_k (1 - z)^2 + d_{k+1} z^2)}{(m + e\, q)^2}, \qquad
    q = z (1 - z), \quad e = d_k + d_{k+1} - 2m

Source: Durkan, Bekasov, Murray, Papamakarios, arXiv 1906.04032, eqs. 4 and 5.
"""

from __future__ import annotations

import math
from typing import Any, cast

import torch
from torch import Tensor
from torch.nn.functional import pad

BOUND, SLOPE = 5.0, 1e-3  # zuko's: the identity outside [-5, 5], and no slope below 1e-3

Pair = tuple[Tensor, Tensor]


def affine(phi: Tensor, x: Tensor) -> Pair:
    """exp(a) x + b with phi = (b, a) and a held within log(1e-3), and the log of its slope."""
    shift, scale = phi.unbind(2)
    log_slope = scale / (1 + (scale / math.log(SLOPE)).abs())
    return x * torch.exp(log_slope) + shift, log_slope


def spline(phi: Tensor, x: Tensor, bins: int, *, fused: bool = False) -> Pair:
    """The spline of 3 bins - 1 numbers phi at x, and the log of its slope.

    Widths and heights are softmaxes, inner slopes exponentials, of numbers that are held within log(1e-3) as zuko holds
    them.  ``fused`` has the backward pass written out, which is once differentiable and takes half of the time.
    """
    if fused:
        return cast(Pair, _Fused.apply(phi, x, bins))  # type: ignore[no-untyped-call]
    phi = phi / (1 + (phi * _limits(phi, bins)).abs())
    sizes = torch.softmax(phi[:, :, : 2 * bins].unflatten(2, (2, bins)), 3)
    slopes = torch.exp(pad(phi[:, :, 2 * bins :], (0, 0, 1, 1)))
    piece, inside, u = _place(sizes, x)
    (width, height), (left, bottom), (d0, d1) = _knots(sizes, slopes, piece)
    m = height / width
    z = torch.where(inside, (u - left) / width, 0.5)
    q = z * (1 - z)
    below = m + (d0 + d1 - 2 * m) * q
    y = bottom + height * (m * z.square() + d0 * q) / below
    log_slope = 2 * torch.log(m / below) + torch.log(2 * m * q + d0 * (1 - z).square() + d1 * z.square())
    return torch.where(inside, (y - 0.5) * (2 * BOUND), x), torch.where(inside, log_slope, 0.0)


def _limits(phi: Tensor, bins: int) -> Tensor:
    """1 / the largest sizes of phi (P, 1): half of log(1e-3) for widths and heights, all of it for slopes."""
    return phi.new_tensor([2.0] * (2 * bins) + [1.0] * (bins - 1))[:, None] / -math.log(SLOPE)


def _place(sizes: Tensor, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """The piece (K, D, 1, B) that x falls into, whether it is inside the spline, and x on the unit interval."""
    u = x / (2 * BOUND) + 0.5
    ends = torch.cumsum(sizes[:, :, 0, :-1], 2)
    return (ends < u[:, :, None]).sum(2, keepdim=True), (u > 0) & (u <= 1), u


def _knots(sizes: Tensor, slopes: Tensor, piece: Tensor) -> tuple[Pair, Pair, Pair]:
    """Width and height of a piece, where it starts, and the slopes at its ends."""
    both = piece[:, :, None].expand(-1, -1, 2, -1, -1)
    size = sizes.gather(3, both)[:, :, :, 0]
    start = torch.cumsum(sizes, 3).gather(3, both)[:, :, :, 0] - size
    ends = slopes.gather(2, torch.cat([piece, piece + 1], 2))
    return cast(tuple[Pair, Pair, Pair], (size.unbind(2), start.unbind(2), ends.unbind(2)))


class _Fused(torch.autograd.Function):
    """`spline` with its derivatives written out: the chain rule through z, m and the knots, then both softmaxes."""

    @staticmethod
    def forward(ctx: Any, phi: Tensor, x: Tensor, bins: int) -> Pair:
        over = (phi * _limits(phi, bins)).abs_().add_(1)
        held = phi / over
        sizes = torch.softmax(held[:, :, : 2 * bins].unflatten(2, (2, bins)), 3)
        slopes = torch.exp(pad(held[:, :, 2 * bins :], (0, 0, 1, 1)))
        piece, inside, u = _place(sizes, x)
        (width, height), (left, bottom), (d0, d1) = _knots(sizes, slopes, piece)
        m = height / width
        z = torch.where(inside, (u - left) / width, 0.5)
        q, square = z * (1 - z), z * z
        below = m + (d0 + d1 - 2 * m) * q
        above = m * square + d0 * q
        rise = 2 * m * q + d0 * (1 - z).square_() + d1 * square
        y = bottom + height * above / below
        log_slope = 2 * torch.log(m / below) + torch.log(rise)
        ctx.save_for_backward(
            over, sizes, slopes, piece, inside, width, height, d0, d1, m, z, q, below, above, rise
        )  # fmt: skip
        return torch.where(inside, (y - 0.5) * (2 * BOUND), x), torch.where(inside, log_slope, 0.0)

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, of_y: Tensor, of_slope: Tensor) -> tuple[Tensor, Tensor, None]:
        over, sizes, slopes, piece, inside, width, height, d0, d1, m, z, q, below, above, rise = ctx.saved_tensors
        y, log = of_y * inside * (2 * BOUND), of_slope * inside
        scaled, risen, fallen = y * height / below.square(), log / rise, 2 * log / below
        turn, square, rest = 1 - 2 * z, z * z, 1 - z
        # the derivatives with respect to z, m, and the slopes at both ends
        by_z = scaled * m * rise - fallen * (d0 + d1 - 2 * m) * turn + 2 * risen * (m * turn - d0 * rest + d1 * z)
        by_m = scaled * (square * below - above * (1 - 2 * q)) + 2 * log / m - fallen * (1 - 2 * q) + 2 * risen * q
        by_d0 = q * (scaled * (below - above) - fallen) + risen * rest.square()
        by_d1 = risen * square - q * (scaled * above + fallen)
        # z = (u - left) / width and m = height / width
        by_u, by_height = by_z / width, by_m / width
        size = torch.stack([-(by_u * z + by_height * m), y * above / below + by_height], 2)
        start = torch.stack([-by_u, y], 2)
        found = torch.empty_like(over)
        _through_softmax(sizes, piece, size, start, found)
        bins = sizes.shape[3]
        ends = torch.zeros_like(slopes).scatter_(2, torch.cat([piece, piece + 1], 2), torch.stack([by_d0, by_d1], 2))
        torch.mul(ends[:, :, 1:-1], slopes[:, :, 1:-1], out=found[:, :, 2 * bins :])
        return found.div_(over).div_(over), torch.where(inside, by_u / (2 * BOUND), of_y), None


def _through_softmax(sizes: Tensor, piece: Tensor, size: Tensor, start: Tensor, out: Tensor) -> None:
    """Fill ``out`` with the derivatives by the arguments of both softmaxes: a piece starts where the last one ends."""
    bins = sizes.shape[3]
    before = torch.arange(bins, device=sizes.device)[:, None] < piece[:, :, None]
    found = before * start[:, :, :, None]
    found.scatter_(3, piece[:, :, None].expand(-1, -1, 2, -1, -1), size[:, :, :, None])
    found.mul_(sizes)
    part = out[:, :, : 2 * bins].unflatten(2, (2, bins))
    torch.addcmul(found, sizes, found.sum(3, keepdim=True), value=-1, out=part)
