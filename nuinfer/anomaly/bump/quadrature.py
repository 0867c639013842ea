"""Gauss-Legendre nodes in bins: exact for polynomials of degree 2 Q - 1 in each bin."""

from __future__ import annotations

import functools
from collections.abc import Callable

import numpy as np
from numpy.typing import ArrayLike, NDArray

__all__ = ["ORDERS", "bins_of", "integrate", "nodes", "order_needed"]

Floats = NDArray[np.float64]

#: The numbers of nodes that are tried, fewest first.
ORDERS = (1, 2, 3, 4, 5, 6, 8, 12, 16, 24, 32)
_PRECISE = 1e-10


def nodes(bins: Floats, order: int) -> tuple[Floats, Floats]:
    """Places and weights (B, Q) in bins (B, 2)."""
    at, weight = _gauss(order)
    half = 0.5 * (bins[:, 1] - bins[:, 0])[:, None]
    return bins.mean(1)[:, None] + half * at, half * weight


@functools.lru_cache(maxsize=64)
def _gauss(order: int) -> tuple[Floats, Floats]:
    """Nodes and weights (Q,) on [-1, 1]."""
    at, weight = np.polynomial.legendre.leggauss(order)
    return at, weight


def integrate(function: Callable[[Floats], Floats], bins: Floats, order: int) -> Floats:
    """Integrals (*, B) of a function x (N,) -> (*, N) over bins (B, 2)."""
    at, weight = nodes(bins, order)
    values = function(at.reshape(-1))
    return np.asarray((values.reshape(*values.shape[:-1], *at.shape) * weight).sum(-1))


def order_needed(function: Callable[[Floats], Floats], bins: Floats) -> int:
    """The fewest nodes a bin for a relative precision of 1e-10 in each bin, at most 32.

    Raises
    ------
    ValueError
        where 32 are not enough for 1e-6: the bins are too wide for the shape.
    """
    exact = integrate(function, bins, 48)
    scale = np.maximum(np.abs(exact), 1e-6 * np.abs(exact).max(initial=1e-300))
    miss = np.inf
    for order in ORDERS:
        miss = float(np.max(np.abs(integrate(function, bins, order) - exact) / scale))
        if miss < _PRECISE:
            return order
    if miss > 1e-6:
        raise ValueError(f"bins: expected ones over which the shape is smooth, found integrals by 32 and 48 nodes that "
                         f"differ by {miss:.1e} of themselves; give finer bins, or nearer start values")  # fmt: skip
    return ORDERS[-1]


def bins_of(edges: ArrayLike) -> Floats:
    """Bins (B, 2) between edges (B + 1,).

    Raises
    ------
    ValueError
        for fewer than two edges, or edges that are not finite or do not rise.
    """
    found = np.asarray(edges, np.float64)
    if found.ndim != 1 or len(found) < 2:
        raise ValueError(f"edges: expected at least two of one axis, found shape {found.shape}")
    bad = np.flatnonzero(~(np.diff(found) > 0) | ~np.isfinite(np.diff(found)))
    if len(bad):
        k = int(bad[0])
        raise ValueError(f"edges: expected finite ones that rise, found {found[k]:g} before {found[k + 1]:g} at "
                         f"{k}; sort them, and leave out doubled ones")  # fmt: skip
    return np.stack([found[:-1], found[1:]], 1)
