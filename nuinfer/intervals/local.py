r"""Whether critical values hold everywhere: the coverage as a function of theta.

A learned quantile can be wrong, and wrong in one corner only.  On toys all over the space, which it has not seen, the
indicator :math:`t \le c(\theta)` has the mean cl everywhere if the set covers everywhere.  Its logistic regression on
:math:`\theta` is a map of the coverage with standard errors,

.. math:: \text{logit}\, P(t \le c \mid \theta) = \beta \cdot x(\theta), \qquad V[\beta] = (X^T W X)^{-1},

x the monomials of theta; and the counts in cells of equal numbers of toys give a chi2 that knows no model.

Source: Dalmasso, Masserano, Zhao, Izbicki, Lee, arXiv 2107.03920 (LF2I).
"""

from __future__ import annotations

import itertools
import math
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import special, stats

from .. import store
from .boxes import FEWEST, Box, Toys, boxed, columns_of, listed, unit_of
from .critical import CriticalValues
from .likelihood_ratio import check_same
from .scans import level
from .toys import Estimate

__all__ = ["LocalCoverage", "local_coverage"]

Floats = NDArray[np.float64]

_ARRAYS = ("low", "high", "covered", "error", "powers", "coefficients", "covariance")


@dataclass(frozen=True, eq=False)
class LocalCoverage:
    """How often a set covers, as a function of theta; made by `local_coverage`.

    Attributes
    ----------
    box, cl:
        Where, and the level that is due.
    low, high:
        The cells (C, D), each with as many toys.
    covered, error:
        The fraction covered in each cell (C,), and its binomial error.
    chi2, p_value:
        Of the cells against cl, with C degrees of freedom.
    p_smooth:
        The p-value of the logistic regression against a constant cl: it has more power against slow changes.
    """

    box: Box
    cl: float
    low: Floats
    high: Floats
    covered: Floats
    error: Floats
    chi2: float
    p_value: float
    p_smooth: float
    powers: NDArray[np.int64]
    coefficients: Floats
    covariance: Floats

    def at(self, theta: Mapping[str, ArrayLike]) -> Estimate:
        r"""The coverage (\*) at parameters (\*) by the logistic regression, with its standard error."""
        values, shape = columns_of(self.box, theta)
        x = _monomials(unit_of(self.box, values), self.powers)
        p = special.expit(x @ self.coefficients)
        error = np.sqrt(np.einsum("nf,fg,ng->n", x, self.covariance, x)) * p * (1 - p)
        return Estimate(p.reshape(shape), error.reshape(shape))

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write everything to one file."""
        numbers = {name: getattr(self, name) for name in ("cl", "chi2", "p_value", "p_smooth")}
        arrays = {name: getattr(self, name) for name in _ARRAYS}
        store.save(path, "local coverage", {"box": listed(self.box), **numbers}, arrays)

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> LocalCoverage:
        """Read what `save` wrote."""
        spec, arrays = store.load(path, "local coverage")
        low, high, covered, error, *smooth = (arrays[name] for name in _ARRAYS)
        tests = spec["chi2"], spec["p_value"], spec["p_smooth"]
        return cls(boxed(spec["box"]), spec["cl"], low, high, covered, error, *tests, *smooth)

    def __repr__(self) -> str:
        worst = int(np.argmax(np.abs(self.covered - self.cl)))
        where = ", ".join(f"{name} {a:.3g} to {b:.3g}" for name, a, b in
                          zip(self.box, self.low[worst], self.high[worst], strict=True))  # fmt: skip
        tests = f"chi2 = {self.chi2:.1f} for {len(self.covered)} cells, p = {self.p_value:.3g}"
        far = f"{self.covered[worst]:.3f} +- {self.error[worst]:.3f} at {where}"
        return f"LocalCoverage({self.cl:g}: {tests}, smooth p = {self.p_smooth:.3g}; farthest {far})"


def local_coverage(
    critical: CriticalValues | Callable[[Mapping[str, Floats]], ArrayLike],
    toys: Toys,
    *,
    cl: float,
    cells: int = 16,
    order: int = 2,
) -> LocalCoverage:
    """Check critical values over the whole box, on toys that they were not learned from.

    Parameters
    ----------
    critical:
        `CriticalValues`, or a function of named parameters (N,) that gives critical values (N,), such as a constant.
    toys:
        Others than those of the fit (another seed), of the same statistic.
    cells:
        Cells of the box with equal numbers of toys, a power of 2, cut at medians of one parameter after the other.
    order:
        Of the polynomial in theta whose logistic function is the map of the coverage.

    Raises
    ------
    ValueError
        for too few toys for that many cells, a number of cells that is not a power of 2, toys of another statistic.

    Examples
    --------
    The chi2 quantile for a Gaussian whose mean is not below 0: it covers too often near there.

    >>> from nuinfer.intervals import throw_toys
    >>> from nuinfer.likelihood import Normal
    >>> def t(theta, cost):
    ...     x = cost.observed[0]
    ...     return float((x - theta["mu"]) ** 2 - min(x, 0.0) ** 2)
    >>> toys = throw_toys(Normal("mu", 0.0), {"mu": (0.0, 4.0)}, toys=4000, seed=1, statistic=t, progress=False)
    >>> found = local_coverage(lambda theta: 0.99 * np.ones(len(theta["mu"])), toys, cl=0.68, cells=8)
    >>> bool(found.p_value < 1e-4), bool(found.covered[0] > 0.72)
    (True, True)
    """
    level(cl)
    if isinstance(critical, CriticalValues):
        check_same(critical.statistic, toys.statistic, "critical")
    if cells < 2 or cells & (cells - 1):
        raise ValueError(f"cells: expected a power of 2 from 2, found {cells}")
    needed = math.ceil(cells * FEWEST / min(cl, 1 - cl) - 1e-6)
    if len(toys) < needed:
        raise ValueError(f"toys: expected at least {needed} for {cells} cells at {cl:g}, found {len(toys)}")
    theta = {name: toys.theta[:, i] for i, name in enumerate(toys.box)}
    limit = critical.at(theta, cl) if isinstance(critical, CriticalValues) else np.asarray(critical(theta), np.float64)
    hits = toys.t <= limit
    parts = _cells(unit_of(toys.box, toys.theta), cells)
    count = np.array([len(part) for part in parts])
    covered = np.array([hits[part].mean() for part in parts])
    chi2 = float(np.sum(count * (covered - cl) ** 2) / (cl * (1 - cl)))
    held = np.clip(covered, 0.5 / count, 1 - 0.5 / count)
    powers = _powers(len(toys.box), order)
    x = _monomials(unit_of(toys.box, toys.theta), powers)
    coefficients, covariance, gain = _logistic(x, hits, cl)
    ends = [(toys.theta[part].min(0), toys.theta[part].max(0)) for part in parts]
    return LocalCoverage(
        dict(toys.box), float(cl), np.array([low for low, _ in ends]), np.array([high for _, high in ends]), covered,
        np.sqrt(held * (1 - held) / count), chi2, float(stats.chi2.sf(chi2, cells)),
        float(stats.chi2.sf(max(gain, 0.0), len(powers))), powers, coefficients, covariance,
    )  # fmt: skip


def _cells(unit: Floats, cells: int) -> list[NDArray[np.int64]]:
    """Rows of each cell, halved at the median of one column after the other."""
    parts = [np.arange(len(unit))]
    for depth in range(cells.bit_length() - 1):
        halves = []
        for part in parts:
            order = part[np.argsort(unit[part, depth % unit.shape[1]], kind="stable")]
            halves += [order[: len(order) // 2], order[len(order) // 2 :]]
        parts = halves
    return parts


def _powers(columns: int, order: int) -> NDArray[np.int64]:
    """Exponents (F, D) of all monomials up to ``order``, the constant first."""
    if order < 0:
        raise ValueError(f"order: expected a degree from 0, found {order}")
    every = sorted((p for p in itertools.product(range(order + 1), repeat=columns) if sum(p) <= order), key=sum)
    return np.array(every, np.int64)


def _monomials(unit: Floats, powers: NDArray[np.int64]) -> Floats:
    """(N, F)."""
    return np.stack([np.prod(unit**power, axis=1) for power in powers], 1)


def _logistic(x: Floats, hits: NDArray[np.bool_], cl: float) -> tuple[Floats, Floats, float]:
    """Coefficients (F,), covariance (F, F), and 2 log L above that of a constant cl.

    Newton's steps from that constant; a ridge of one toy keeps them finite where all toys of a region are covered.
    """
    start = np.zeros(x.shape[1])
    start[0] = special.logit(cl)
    found, ridge = start, np.eye(x.shape[1])
    for _ in range(50):
        p = special.expit(x @ found)
        hessian = (x * (p * (1 - p))[:, None]).T @ x + ridge
        step = np.linalg.solve(hessian, x.T @ (hits - p) - ridge @ (found - start))
        found = found + step
        if np.abs(step).max() < 1e-8:
            break
    sign = np.where(hits, 1.0, -1.0)
    gain = 2 * np.sum(special.log_expit(sign * (x @ found)) - special.log_expit(sign * start[0]))
    return found, np.linalg.inv(hessian), float(gain)
