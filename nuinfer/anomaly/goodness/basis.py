r"""Smooth functions for the kernel test: Gaussian kernels at centres of the reference, made orthonormal under it.

The functions are those of the reproducing kernel Hilbert space of

.. math:: k(x, x') = 1 + \exp\Big(-\frac{|x - x'|^2}{2 h^2}\Big)

(columns divided by their standard deviation) restricted to M centres (Nystroem), and written as

.. math:: f(x) = \sum_j c_j \phi_j(x), \qquad \langle \phi_i \phi_j \rangle_{ref} = \delta_{ij}, \qquad
    \|f\|^2 = \sum_j c_j^2 / \mu_j,

so that near f = 0 the curvature of the likelihood is the unit matrix times the number of events: a preconditioner that
costs nothing.  Directions of too small a :math:`\mu_j` are left out: the ridge would hold them at 0.

Centres are drawn by randomly pivoted Cholesky decomposition, each in proportion to what the ones before leave
unexplained, which puts centres into the tails too.  Like the width, a quantile of the distances between reference
events, they depend on the reference alone: a choice that looked at the data would change the null distribution.

Sources: Letizia et al., arXiv 2204.02317 (kernel and width); Chen, Epperly, Tropp, Webber, arXiv 2207.06503 (pivots).
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import linalg
from scipy.spatial.distance import cdist

from ...records import Record

__all__ = ["Basis", "Scaling", "width_of"]

Floats = NDArray[np.float64]

_CHUNK = 1 << 14
_CANDIDATES = 20_000
_PAIRS = 100_000


@dataclass(frozen=True, eq=False)
class Scaling(Record):
    """Columns less their ``mean`` over their ``sd`` (D,), those of the reference."""

    _KIND = "goodness scaling"

    mean: Floats
    sd: Floats

    @classmethod
    def of(cls, x: Floats, weight: Floats) -> Scaling:
        """Of the reference (N, D), under the absolute values of its weights; ``ValueError`` for a constant column."""
        share = np.abs(weight) / np.abs(weight).sum()
        mean = share @ x
        sd = np.sqrt(share @ (x - mean) ** 2)
        if not (sd > 1e-12 * (np.abs(mean) + 1e-300)).all():
            raise ValueError(f"reference: expected features that vary, found feature {int(np.argmin(sd))} constant; "
                             f"leave it out")  # fmt: skip
        return cls(mean, sd)

    def __call__(self, x: Floats) -> Floats:
        """The columns (N, D), scaled."""
        return np.asarray((x - self.mean) / self.sd)


def width_of(x: Floats, weight: Floats, quantile: float, rng: np.random.Generator) -> float:
    """The quantile of the distances between reference events x (N, D), of 100,000 pairs drawn by weight."""
    some = _drawn(x, weight, 2 * _PAIRS, rng)
    first, second = (rng.integers(len(some), size=_PAIRS) for _ in range(2))
    return float(np.quantile(np.linalg.norm(some[first] - some[second], axis=1), quantile))


def _drawn(x: Floats, weight: Floats, most: int, rng: np.random.Generator) -> Floats:
    """Up to so many of the events with weight, drawn in proportion to it."""
    share = np.abs(weight)
    count = min(most, int((share > 0).sum()))
    return np.asarray(x[rng.choice(len(x), count, replace=False, p=share / share.sum())])


@dataclass(frozen=True, eq=False)
class Basis(Record):
    """r functions of D scaled columns.

    Attributes
    ----------
    scaling:
        Of the columns.
    centres, width:
        Of the kernels (M, D), and h, both scaled.
    turn:
        (1 + M, r): the functions from 1 and the kernels.
    strengths:
        mu (r,), falling.
    """

    _KIND = "goodness basis"

    scaling: Scaling
    centres: Floats
    width: float
    turn: Floats
    strengths: Floats

    @classmethod
    def of(
        cls, x: Floats, weight: Floats, scaling: Scaling, *, width: float, centres: int, least: float,
        rng: np.random.Generator,
    ) -> Basis:  # fmt: skip
        """Of reference rows x (N, D), with the directions of mu above ``least``."""
        scaled = scaling(x)
        chosen = _pivots(_drawn(scaled, weight, _CANDIDATES, rng), centres, width, rng)
        values, vectors = linalg.eigh(_kernel(chosen, chosen, width))
        kept = values > 1e-13 * values[-1]
        plain = linalg.block_diag(1.0, vectors[:, kept] / np.sqrt(values[kept]))
        start = cls(scaling, chosen, width, plain, np.ones(plain.shape[1]))
        share = np.abs(weight) / np.abs(weight).sum()
        second = sum(part.T @ (part * share[rows, None]) for rows, part in start.pieces(x))
        mu, turn = linalg.eigh(np.asarray(second))
        order = np.argsort(mu)[::-1]
        order = order[mu[order] > max(least, 1e-13 * mu[-1])]
        return cls(scaling, chosen, width, plain @ turn[:, order] / np.sqrt(mu[order]), mu[order])

    def __call__(self, x: Floats) -> Floats:
        """The functions (N, r) at x (N, D)."""
        found = np.empty((len(x), self.turn.shape[1]))
        for rows, part in self.pieces(x):
            found[rows] = part
        return found

    def sums(self, x: Floats, weight: Floats) -> Floats:
        """The weighted sums (r,) of the functions over x (N, D)."""
        total = np.zeros(self.turn.shape[1])
        for rows, part in self.pieces(x):
            total += weight[rows] @ part
        return total

    def pieces(self, x: Floats) -> Iterator[tuple[slice, Floats]]:
        """Rows and the functions there, piece by piece."""
        for start in range(0, len(x), _CHUNK):
            rows = slice(start, min(start + _CHUNK, len(x)))
            near = _kernel(self.scaling(x[rows]), self.centres, self.width)
            yield rows, self.turn[0] + near @ self.turn[1:]


def _kernel(x: Floats, centres: Floats, width: float) -> Floats:
    near = cdist(x, centres, "sqeuclidean")
    near *= -0.5 / width**2
    return np.asarray(np.exp(near, out=near))


def _pivots(x: Floats, most: int, width: float, rng: np.random.Generator) -> Floats:
    """Up to ``most`` of the points x (n, D), by randomly pivoted Cholesky decomposition of their kernel matrix."""
    factor = np.zeros((min(most, len(x)), len(x)))
    left, chosen = np.ones(len(x)), []
    for step in range(len(factor)):
        if left.sum() < 1e-12 * len(x):
            break
        pivot = int(rng.choice(len(x), p=left / left.sum()))
        row = _kernel(x[[pivot]], x, width)[0] - factor[:step, pivot] @ factor[:step]
        factor[step] = row / np.sqrt(max(row[pivot], 1e-30))
        left = np.maximum(left - factor[step] ** 2, 0.0)
        left[pivot] = 0.0
        chosen.append(pivot)
    return np.asarray(x[chosen])
