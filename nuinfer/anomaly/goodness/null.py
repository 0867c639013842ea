r"""The null distribution of a statistic: whether its toys follow a chi2, and what p-value they give.

The number of degrees of freedom k is that of maximum likelihood, :math:`\psi(k/2) = \langle \ln (t/2) \rangle`, which a
few toys far out do not move.  Fitted to one half of the toys, it is tested on the other by Kolmogorov and Smirnov.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy import optimize, special, stats

__all__ = ["ChiSquare", "chi_square", "fitted_dof"]

Floats = NDArray[np.float64]


class ChiSquare(NamedTuple):
    """``dof`` fitted to all toys with its standard error, and the p-value of the test with a fit to one half."""

    dof: float
    error: float
    compatibility: float


def fitted_dof(t: Floats) -> float:
    """The degrees of freedom of maximum likelihood of positive numbers (T,); their mean where some are not positive."""
    if (t <= 0).any():
        return max(float(t.mean()), 1e-3)
    target = float(np.log(t / 2).mean())
    # psi(k/2) lies between log(k/2) - 2/k and log(k/2)
    high = 2 * math.exp(target) + 10
    return float(optimize.brentq(lambda k: special.digamma(k / 2) - target, 1e-6, high))


def chi_square(t: Floats) -> ChiSquare:
    """Of at least 4 toys (T,), in the order in which they were drawn; toys that are not positive are not compatible."""
    dof = fitted_dof(t)
    error = 2 / math.sqrt(len(t) * float(special.polygamma(1, dof / 2)))
    if (t <= 0).any():
        return ChiSquare(dof, error, 0.0)
    half = len(t) // 2
    test = stats.kstest(t[half:], "chi2", args=(fitted_dof(t[:half]),))
    return ChiSquare(dof, error, float(test.pvalue))
