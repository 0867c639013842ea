r"""What a systematic variation does between and beyond its -1, 0 and +1 sigma points.

For a positive factor with :math:`g(-1) = g_-`, :math:`g(0) = 1`, :math:`g(+1) = g_+`:

``"log"``, the default:

.. math:: \log g(\alpha) = D\,p(\alpha) + S\,q(\alpha), \qquad D = \tfrac12 \log(g_+/g_-),\quad
          S = \tfrac12 \log(g_+ g_-),

.. math:: p = \alpha, \qquad q = \begin{cases}
          (15\alpha^2 - 10\alpha^4 + 3\alpha^6)/8 & |\alpha| \le 1 \\ |\alpha| & \text{else}\end{cases}

an odd and an even part.  q has two continuous derivatives, and beyond one sigma the factor is an exponential.  Products
of factors are sums of D and S, so that all nuisances of all processes are one matrix product.

``"code4"``: HistFactory's, whose polynomial of sixth order is in the factor itself: g = 1 + a_1 alpha + ... + a_6
alpha^6 within one sigma, with the same exponentials outside and two continuous derivatives.

Source: Cranmer, Lewis, Moneta, Shibata, Verkerke, HistFactory, CERN-OPEN-2012-016 (2012), section 4.1.
"""

from __future__ import annotations

from typing import Literal, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

__all__ = ["Interpolation", "basis", "basis_slope", "code4", "code4_log_slope", "log_factor", "odd_even"]

Interpolation = Literal["log", "code4"]
Floats = NDArray[np.float64]
Numbers = TypeVar("Numbers", Floats, Tensor)


def odd_even(down: Numbers, up: Numbers) -> tuple[Numbers, Numbers]:
    r"""D and S (\*) from log g(-1) and log g(+1) (\*), arrays or tensors."""
    return (up - down) / 2, (up + down) / 2


def basis(alpha: Tensor) -> tuple[Tensor, Tensor]:
    r"""p and q (\*) of alpha (\*).

    >>> p, q = basis(torch.tensor([-2.0, 0.0, 1.0]))
    >>> p.tolist(), q.tolist()
    ([-2.0, 0.0, 1.0], [2.0, 0.0, 1.0])
    """
    square = alpha * alpha
    inside = square * (15 - square * (10 - 3 * square)) / 8
    return alpha, torch.where(square <= 1, inside, alpha.abs())


def basis_slope(alpha: Tensor) -> tuple[Tensor, Tensor]:
    r"""dp/d alpha and dq/d alpha (\*).

    >>> odd, even = basis_slope(torch.tensor([-2.0, 0.0, 1.0]))
    >>> odd.tolist(), even.tolist()
    ([1.0, 1.0, 1.0], [-1.0, 0.0, 1.0])
    """
    square = alpha * alpha
    inside = alpha * (15 - square * (20 - 9 * square)) / 4
    return torch.ones_like(alpha), torch.where(square <= 1, inside, alpha.sign())


def log_factor(alpha: Tensor, down: Tensor, up: Tensor, how: Interpolation) -> Tensor:
    r"""log g(alpha) (\*) from log g(-1) and log g(+1) (\*), which broadcast with alpha."""
    if how == "code4":
        return torch.log(code4(alpha, down, up))
    p, q = basis(alpha)
    odd, even = odd_even(down, up)
    return odd * p + even * q


def _inverse() -> Floats:
    """What gives a_1 .. a_6 from value, slope and curvature at +1 and -1: g - 1, g', g'' at +1, then at -1."""
    power = np.arange(1, 7)
    sign = (-1.0) ** power
    rows = [1.0 + 0 * power, power, power * (power - 1), sign, -power * sign, power * (power - 1) * sign]
    return np.asarray(np.linalg.inv(np.array(rows, np.float64)))


_INVERSE = torch.from_numpy(_inverse())


def code4(alpha: Tensor, down: Tensor, up: Tensor) -> Tensor:
    r"""HistFactory's code 4: g(alpha) (\*) from log g(-1) and log g(+1) (\*), which broadcast with alpha."""
    outside = torch.exp(torch.where(alpha > 0, up * alpha, -down * alpha))
    return torch.where(alpha.abs() <= 1, 1 + _inside(_shares(alpha), down, up), outside)


def code4_log_slope(alpha: Tensor, down: Tensor, up: Tensor) -> Tensor:
    r"""d log g / d alpha (\*) of `code4`, in closed form."""
    inside = _inside(_shares(alpha, slope=True), down, up) / (1 + _inside(_shares(alpha), down, up))
    return torch.where(alpha.abs() <= 1, inside, torch.where(alpha > 0, up, -down))


def _shares(alpha: Tensor, *, slope: bool = False) -> tuple[Tensor, ...]:
    """What g (or g') at alpha takes of value, slope and curvature at +1 and at -1: six, of alpha's shape.

    Outside one sigma alpha is held, so that no power overflows.
    """
    power, held = torch.arange(1, 7, dtype=alpha.dtype), alpha.clamp(-1, 1)[..., None]
    each = power * held ** (power - 1) if slope else held**power
    return torch.unbind(each @ _INVERSE.to(alpha.dtype), -1)


def _inside(share: tuple[Tensor, ...], down: Tensor, up: Tensor) -> Tensor:
    """g - 1, or g': its six numbers at +1 and -1 are polynomials of log g times g there."""
    at_up = torch.exp(up) * (share[0] + up * (share[1] + up * share[2])) - share[0]
    at_down = torch.exp(down) * (share[3] - down * (share[4] - down * share[5])) - share[3]
    return at_up + at_down
