r"""Nuisance parameters of the reference, and its rate.

The reference at :math:`\nu` is :math:`n(x | \nu) = n(x | 0) \exp \sum_k (\delta_{1k}(x) \nu_k + \delta_{2k}(x)
\nu_k^2)`, with :math:`\delta_1, \delta_2` from the log-ratios of references at plus and minus one standard deviation,
learned with the same functions as the test itself.  They include the rate.  A rate that is not known is one more of
them, :math:`\delta_1 = 1`, with a constraint so weak that it plays no part.

Each experiment's :math:`\hat\nu` minimises

.. math:: 2 \sum_{ref} w (r_\nu - 1) - 2 \sum_{data} \ln r_\nu + \sum_k (\nu_k - a_k)^2 / s_k^2

with its auxiliary measurements a.

Source: d'Agnolo, Grosso, Pierini, Wulzer, Zanetti, arXiv 2111.13633.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ...errors import NotConverged
from ...records import Record
from .basis import Basis
from .newton import minima

__all__ = ["Nuisances", "learned"]

Floats = NDArray[np.float64]

_FREE = 100.0  # the standard deviation of the logarithm of a rate that is not known
_STEPS = 100


@dataclass(frozen=True, eq=False)
class Nuisances(Record):
    """K nuisance parameters: the coefficients (K, r) of delta_1 and delta_2, and their standard deviations (K,)."""

    _KIND = "goodness nuisances"

    names: tuple[str, ...]
    first: Floats
    second: Floats
    sd: Floats

    def __len__(self) -> int:
        return len(self.sd)

    def with_rate(self, constant: Floats) -> Nuisances:
        """The same with a free rate; ``constant`` (r,) are the coefficients of the function 1."""
        first = np.concatenate([self.first, constant[None]])
        second = np.concatenate([self.second, np.zeros_like(constant)[None]])
        return Nuisances((*self.names, "rate"), first, second, np.append(self.sd, _FREE))

    def measured(self, nu: Floats, toys: int, rng: np.random.Generator) -> Floats:
        """Auxiliary measurements (T, K) of toys where the parameters are nu (K,); there is none of a free rate."""
        spread = np.where(self.sd < _FREE, self.sd, 0.0)
        return np.asarray(nu + spread * rng.standard_normal((toys, len(self))))

    def coefficients(self, nu: Floats) -> Floats:
        """Those of log r_nu (T, r), for nu (T, K)."""
        return np.asarray(nu @ self.first + nu**2 @ self.second)

    def profiled(self, phi: Floats, weight: Floats, sums: Floats, aux: Floats) -> Floats:
        """nu-hat (T, K), for rows phi (N, r), reference weights (T, N), sums of the functions over the data (T, r)."""
        columns = phi @ self.first.T, phi @ self.second.T
        data = sums @ self.first.T, sums @ self.second.T
        return np.stack([self._one(columns, weight[min(t, len(weight) - 1)], (data[0][t], data[1][t]), aux[t])
                         for t in range(len(aux))]).reshape(len(aux), len(self))  # fmt: skip

    def _one(self, columns: tuple[Floats, Floats], weight: Floats, data: tuple[Floats, Floats], aux: Floats) -> Floats:
        """One experiment's nu-hat (K,): Newton's method with a positive curvature, and steps that are halved."""
        nu, precision = aux.copy(), 1 / self.sd**2
        value, size = self._value(columns, weight, data, aux, nu), 1.0
        for _ in range(_STEPS):
            rate = weight * np.exp(columns[0] @ nu + columns[1] @ nu**2)
            slopes = columns[0] + 2 * columns[1] * nu
            gradient = rate @ slopes - data[0] - 2 * data[1] * nu + precision * (nu - aux)
            curvature = slopes.T @ (np.abs(rate)[:, None] * slopes) + np.diag(precision)
            step = np.linalg.solve(curvature, gradient)
            if gradient @ step < 1e-9:
                return nu
            while (new := self._value(columns, weight, data, aux, nu - size * step)) > value and size > 1e-9:
                size /= 2
            nu, value, size = nu - size * step, min(new, value), min(2 * size, 1.0)
        return np.full(len(self), np.nan)

    def _value(
        self, columns: tuple[Floats, Floats], weight: Floats, data: tuple[Floats, Floats], aux: Floats, nu: Floats
    ) -> float:
        with np.errstate(over="ignore"):
            rate = weight @ np.expm1(columns[0] @ nu + columns[1] @ nu**2)
        return float(rate - data[0] @ nu - data[1] @ nu**2 + 0.5 * (((nu - aux) / self.sd) ** 2).sum())


def learned(
    basis: Basis,
    phi: Floats,
    weight: Floats,
    names: tuple[str, ...],
    variations: Sequence[tuple[tuple[Floats, Floats], tuple[Floats, Floats]]],
    ridge: float,
) -> Nuisances:
    """The nuisance parameters of references at plus and minus one standard deviation, each positions and weights.

    Raises
    ------
    NotConverged
        where a log-ratio cannot be learned.
    """
    if not names:
        none = np.zeros((0, phi.shape[1]))
        return Nuisances((), none, none, np.zeros(0))
    sums = np.stack([basis.sums(x, w) for pair in variations for x, w in pair])
    # as many events as there are, not as are expected, so that the ridge does not hold the ratio back
    times = max(len(pair[0][0]) for pair in variations) / weight.sum()
    penalty = np.diag(ridge / basis.strengths)
    g, _, done = minima(phi, times * weight[None], times * sums, penalty, np.zeros_like(sums))
    if not done.all():
        bad = int(np.flatnonzero(~done)[0])
        raise NotConverged(f"nuisance {names[bad // 2]!r}: the log-ratio of its reference at {'+-'[bad % 2]}1 sigma to "
                           f"the nominal one did not converge; use more events, or a larger ridge")  # fmt: skip
    up, down = g[::2], g[1::2]
    return Nuisances(names, 0.5 * (up - down), 0.5 * (up + down), np.ones(len(names)))
