r"""The kernel form of the test: a penalised likelihood fit of the log-ratio in a reproducing kernel Hilbert space.

.. math:: \min_f \sum_{ref} w (e^f - 1) - \sum_{data} f + \tfrac{\lambda}{2} \|f\|^2, \qquad
    t = -2 \Big[\sum_{ref} w (e^f - 1) - \sum_{data} f\Big]

The problem is convex.  The ridge :math:`\lambda` is the inverse variance of f under the Gaussian process of which this
is the maximum a posteriori.  arXiv 2204.02317 minimises the weighted logistic loss instead, ``loss="logistic"``, whose
minimum is not that of the formula that t is computed with: in tails with few events t may come out far below 0.

Nuisance parameters enter as functions of their own, :math:`f = g + \eta\,\delta_1`, over the reference at
:math:`\hat\nu`, both with their constraints: t is the difference :math:`\tau - \Delta` of arXiv 2111.13633.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field, replace
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from .basis import Basis, Scaling, width_of
from .newton import Loss, minima
from .nuisances import Nuisances
from .rows import Pseudo, Rows, positions

__all__ = ["KernelFit", "KernelTest", "Tested"]

Floats = NDArray[np.float64]

_AT_ONCE = 4_000_000  # numbers of rows times experiments
_BINS_PER_WIDTH = 1000
_NEGLIGIBLE = 1e-4  # expected events times mu over the ridge: less is held at 0 by the ridge


@dataclass(frozen=True, kw_only=True)
class KernelFit:
    """How the log-ratio is fitted with kernels.

    Parameters
    ----------
    quantile:
        The kernels' width is this quantile of the distances between reference events.
    width:
        The width itself, in standard deviations of the reference; then ``quantile`` plays no part.
    ridge:
        lambda; 1/sqrt(lambda) is how large log-ratios are expected to be.
    centres:
        The largest number of kernels M.
    loss:
        ``"likelihood"``, whose minimum is the maximum of t, or ``"logistic"``.

    Raises
    ------
    ValueError
        for numbers out of range.

    >>> KernelFit(ridge=0.2).centres
    300
    """

    quantile: float = 0.65
    width: float | None = None
    ridge: float = 0.1
    centres: int = 300
    loss: Loss = "likelihood"

    def __post_init__(self) -> None:
        if not 0 < self.quantile < 1 or not (self.width is None or 0 < self.width < math.inf):
            raise ValueError(f"KernelFit: expected a quantile between 0 and 1 and a positive width, found "
                             f"{self.quantile} and {self.width}")  # fmt: skip
        if not 0 < self.ridge < math.inf or not isinstance(self.centres, int) or self.centres < 1:
            raise ValueError(f"KernelFit: expected a positive ridge and at least 1 centre, found {self.ridge} and "
                             f"{self.centres}")  # fmt: skip
        if self.loss not in ("likelihood", "logistic"):
            raise ValueError(f"KernelFit: expected loss 'likelihood' or 'logistic', found {self.loss!r}")

    def prepare(self, x: Floats, weight: Floats, rng: np.random.Generator) -> tuple[Rows, Basis]:
        """The rows and the functions of a reference at x (N, D)."""
        scaling = Scaling.of(x, weight)
        width = self.width or width_of(scaling(x), weight, self.quantile, rng)
        if not width > 0:
            raise ValueError(f"reference: expected features whose distances have a positive quantile, found the "
                             f"quantile {self.quantile} of them 0; give a width")  # fmt: skip
        rows = Rows.of(x, weight, width * float(scaling.sd[0]) / _BINS_PER_WIDTH)
        least = _NEGLIGIBLE * self.ridge / max(rows.total, 1.0)
        basis = Basis.of(rows.x, rows.weight, scaling, width=width, centres=self.centres, least=least, rng=rng)
        return rows, basis


@dataclass(frozen=True, eq=False)
class Tested:
    """What T experiments gave: ``t`` (T,), NaN where the fit failed, coefficients (T, r), and nu-hat (T, K)."""

    t: Floats
    coefficients: Floats
    nu: Floats


@dataclass(frozen=True, eq=False)
class KernelTest:
    """A prepared test: everything that all experiments share."""

    spec: KernelFit
    columns: tuple[str, ...]
    rows: Rows
    basis: Basis
    nuisances: Nuisances
    phi: Floats = field(repr=False)

    def __call__(self, pseudo: Pseudo, rng: np.random.Generator | None = None) -> Tested:
        """The statistic of each experiment; ``rng`` plays no part."""
        many = max(1, _AT_ONCE // len(self.rows))
        if self.spec.loss == "logistic" and pseudo.counts is None:
            many = 1  # the points of one experiment would be rows of all of them
        parts = [self._some(pseudo.part(start, start + many)) for start in range(0, len(pseudo), many)]
        t, g, nu = (np.concatenate([getattr(part, name) for part in parts]) for name in ("t", "coefficients", "nu"))
        return Tested(t, g, nu)

    def sums(self, pseudo: Pseudo) -> Floats:
        """The sums (T, r) of the functions over the data."""
        if pseudo.counts is not None:
            return np.asarray(pseudo.counts @ self.phi)
        return np.stack([self.basis.sums(positions(e, self.columns), e.weight) for e in pseudo.points])

    def _some(self, pseudo: Pseudo) -> Tested:
        sums, known = self.sums(pseudo), self.nuisances
        nu = known.profiled(self.phi, pseudo.weight, sums, pseudo.aux)
        found = np.asarray(np.isfinite(nu).all(1))
        safe = np.where(found[:, None], nu, 0.0)
        if len(known):
            pseudo = pseudo.reweighted(np.exp(known.coefficients(safe) @ self.phi.T))
        centre = (pseudo.aux - safe) @ known.first
        g, f, done = self._minima(pseudo, sums, centre)
        t = -2 * ((pseudo.weight * np.expm1(f)).sum(1) - (sums * g).sum(1)) + self._pulls(safe, g - centre, pseudo.aux)
        return Tested(np.where(done & found, t, np.nan), g, nu)

    def _minima(self, pseudo: Pseudo, sums: Floats, centre: Floats) -> tuple[Floats, Floats, NDArray[np.bool_]]:
        if self.spec.loss == "likelihood":
            return minima(self.phi, pseudo.weight, sums, self.penalty, centre)
        if pseudo.counts is not None:
            return minima(self.phi, pseudo.weight, sums, self.penalty, centre, counts=pseudo.counts)
        phi, weight, counts = self._with_points(pseudo)
        g, f, done = minima(phi, weight, sums, self.penalty, centre, counts=counts)
        return g, f[:, : len(self.phi)], done

    def _with_points(self, pseudo: Pseudo) -> tuple[Floats, Floats, Floats]:
        """The rows of reference and data together, and both weights (T, N + n)."""
        own = np.repeat(np.arange(len(pseudo)), [len(e) for e in pseudo.points])
        data = np.zeros((len(pseudo), len(self.phi) + len(own)))
        data[own, len(self.phi) + np.arange(len(own))] = np.concatenate([e.weight for e in pseudo.points])
        x = np.concatenate([positions(e, self.columns) for e in pseudo.points])
        weight = np.zeros_like(data)
        weight[:, : len(self.phi)] = pseudo.weight
        return np.concatenate([self.phi, self.basis(x)]), weight, data

    def _pulls(self, nu: Floats, off: Floats, aux: Floats) -> Floats:
        """What the constraints gain (T,) from nu-hat without f to the best nu with it, which is nu's conditional mean.

        Under the prior of which the ridge and the constraints are the logarithm, off = c + (nu - aux) delta_1.
        """
        variance = self.nuisances.sd**2
        with_f = off @ self.penalty @ self.nuisances.first.T * variance
        return np.asarray((((nu - aux) ** 2 - with_f**2) / variance).sum(1))

    @cached_property
    def penalty(self) -> Floats:
        r"""Q, the inverse of the prior covariance of f: diag(mu)/lambda + sum_k s_k^2 delta_1k delta_1k^T (r, r)."""
        scaled = self.nuisances.first * self.nuisances.sd[:, None]
        inner = np.diag(self.spec.ridge / self.basis.strengths)
        if not len(scaled):
            return inner
        # the inverse of a diagonal matrix and few products (Woodbury): mu spans many decades
        left = inner @ scaled.T
        return np.asarray(inner - left @ np.linalg.solve(np.eye(len(scaled)) + scaled @ left, left.T))

    def with_nuisances(self, nuisances: Nuisances) -> KernelTest:
        """The same test with these nuisance parameters."""
        return replace(self, nuisances=nuisances)
