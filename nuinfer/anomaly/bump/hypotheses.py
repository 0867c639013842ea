r"""Tests of one size of the signal at one mass, with auxiliary measurements that are data like the contents of bins.

The yield of a signal of size S (S = cross-section times exposure, the expected one of efficiency times luminosity) is

.. math:: T = \kappa S + \delta, \qquad \kappa \sim N(1, r^2), \quad \delta \sim N(0, \tau^2),

with the relative uncertainty r of the exposure and the standard deviation tau of a spurious signal.  Both are nuisance
parameters.  Profiled, they are one Gaussian term for T, as both enter linearly:

.. math:: \min_{\kappa, \delta} \Big[\frac{(\kappa - \kappa_0)^2}{2 r^2} + \frac{(\delta - \delta_0)^2}{2 \tau^2}\Big]
          = \frac{(T - \kappa_0 S - \delta_0)^2}{2 (r^2 S^2 + \tau^2)} ,

and for a free S there is none: :math:`\hat S = (\hat T - \delta_0) / \kappa_0`.  In pseudo-experiments all that is
measured is drawn, the contents of bins and the centres of constraints (:math:`\kappa_0, \delta_0`, those of the
background's and the signal's shape), around the values that fit the data best under the hypothesis.

Source: Cowan, Cranmer, Gross, Vitells, arXiv 1007.1727, section 2.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from .batched import batch_for, in_chunks
from .fits import check_mass
from .likelihoods import YIELD, BumpLikelihood
from .newton import FitBatch, Solved

__all__ = ["Hypothesis", "Measured", "YieldTest"]

Floats = NDArray[np.float64]
Bools = NDArray[np.bool_]

_WORSE = 1e-5  # by so much a fit may be above one with less freedom


@dataclass(frozen=True, eq=False)
class Measured:
    """T data sets: contents (T, B) of used bins, centres (T, C) of constraints, kappa_0 (T,) and delta_0 (T,)."""

    counts: Floats
    centres: Floats
    factor: Floats
    shift: Floats

    def rows(self, which: NDArray[np.integer] | Bools) -> Measured:
        """Some of them, in any order."""
        return Measured(self.counts[which], self.centres[which], self.factor[which], self.shift[which])

    def with_others(self, other: Measured) -> Measured:
        """These and others."""
        pairs = ((getattr(self, n), getattr(other, n)) for n in ("counts", "centres", "factor", "shift"))
        return Measured(*(np.concatenate(pair) for pair in pairs))

    def __len__(self) -> int:
        return len(self.counts)


@dataclass(frozen=True, eq=False)
class Hypothesis:
    """One size of the signal, and everything else as the data have it best."""

    expected: Floats  # (B,) in used bins
    centres: Floats  # (C,)
    factor: float
    shift: float


@dataclass(frozen=True, eq=False)
class Fitted:
    """Fits of T data sets at fixed sizes."""

    u: Floats  # (T, F), without the yield
    total: Floats  # T
    nll: Floats
    converged: Bools


@dataclass(frozen=True, eq=False)
class Best:
    """The best sizes (T,), from 0, their -log L, and whether both could be fitted."""

    size: Floats
    nll: Floats
    converged: Bools
    start: Fitted


class _DrawnBatch(FitBatch):
    """A `FitBatch` whose toys have centres of their own: columns (T, B + F + 1), contents, centres, 1/sigma_T^2."""

    def evaluate(
        self, u: Floats, counts: Floats, yields: Floats | None, tau: float, *, second: bool = True
    ) -> tuple[Floats, Floats, Floats]:  # fmt: skip
        """-log L (T,), gradient (T, F), Hessian (T, F, F)."""
        bins, free = len(self.bins), len(self.free)
        centre = counts[:, bins : bins + free]
        value, gradient, hessian = super().evaluate(u, counts[:, :bins], yields, tau, second=second)
        p, own = self.values(u), np.broadcast_to(self.precision, centre.shape).copy()
        if YIELD in self.free:
            own[:, self.inner] = counts[:, -1]
            if second:
                hessian[:, self.inner, self.inner] += counts[:, -1] * self.L[self.inner, self.inner] ** 2
        away, usual = p - centre, p - self.centre
        value = value + 0.5 * ((own * away**2).sum(1) - usual**2 @ self.precision)
        gradient = gradient + (own * away - usual * self.precision) @ self.L
        return value, gradient, hessian

    def touching(self, u: Floats, counts: Floats, yields: Floats | None) -> Bools:
        """As of contents alone."""
        return super().touching(u, counts[:, : len(self.bins)], yields)

    def slope(self, u: Floats, counts: Floats, total: Floats) -> Floats:
        """d(-log L) / dT (T,), of contents (T, B), at fixed yields."""
        b, _ = self.rates.contents(u[:, : self.inner])
        _, s, _ = self._signal_at(self.values(u), total)
        return np.asarray((self.scale * (1 - counts / (b + total[:, None] * s)) * s).sum(1))


class YieldTest:
    """The likelihood at a mass, with the size of the signal tested.

    Parameters
    ----------
    likelihood:
        In bins.
    relative, spurious:
        r and tau (see the module), tau in events.
    """

    def __init__(self, likelihood: BumpLikelihood, mass: float, relative: float = 0.0, spurious: float = 0.0) -> None:
        check_mass(likelihood, mass)
        self.of = _checked(likelihood)
        self.mass, self.relative, self.spurious = mass, relative, spurious
        around = batch_for(self.of, self.of.counts[self.of.used], None, {})
        reference = around.split(np.zeros(len(around.free)))[0]
        self._free = _DrawnBatch(self.of, mass, {}, reference)
        self._held = _DrawnBatch(self.of, mass, {YIELD: 0.0}, reference)
        self.constrained = tuple(name for name in self._held.free if name in self.of.constraints)
        #: Of the yield, about.
        self.scale = float(self._free.L[self._free.inner, self._free.inner])

    @property
    def data(self) -> Measured:
        """One set: the likelihood's own."""
        centres = np.array([self.of.constraints[name][0] for name in self.constrained])
        return Measured(self.of.counts[None, self.of.used], centres[None], np.ones(1), np.zeros(1))

    # -- fits

    def at(self, data: Measured, size: Floats, start: Fitted | None = None) -> Fitted:
        """Fits at sizes (T,): either all of them 0, or none."""
        centre, sigma = data.factor * size + data.shift, np.hypot(self.relative * size, self.spurious)
        if (sigma == 0).all():
            u = None if start is None else start.u
            solved = in_chunks(self._held, self._columns(self._held, data), u, centre)
            return Fitted(solved.u, centre, solved.nll, solved.converged)
        begin = self._start(centre if start is None else start.total, start, len(data))
        return self._split(in_chunks(self._free, self._columns(self._free, data, centre, sigma**-2.0), begin, None))

    def best(self, data: Measured) -> Best:
        """The best sizes from 0."""
        none = self.at(data, np.zeros(len(data)))
        size, nll, converged = np.zeros(len(data)), none.nll.copy(), none.converged.copy()
        rows = np.flatnonzero(self._held.slope(none.u, data.counts, none.total) < 0)
        if len(rows):
            own = data.rows(rows)
            first = Fitted(none.u[rows], none.total[rows], none.nll[rows], none.converged[rows])
            columns = self._columns(self._free, own, own.shift, np.zeros(len(rows)))
            found = self._split(in_chunks(self._free, columns, self._start(first.total, first, len(rows)), None))
            size[rows], nll[rows] = np.maximum((found.total - own.shift) / own.factor, 0.0), found.nll
            converged[rows] &= found.converged & (found.nll < first.nll + _WORSE)
        return Best(size, nll, converged, none)

    def statistic(self, data: Measured, best: Best, size: Floats, rows: NDArray[np.integer] | None = None) -> Floats:
        r""":math:`\tilde q` (K,) at sizes (K,) above 0 of some data sets (K,), or all; NaN where a fit failed."""
        at = np.arange(len(data)) if rows is None else rows
        none = best.start
        start = Fitted(none.u[at], none.total[at], none.nll[at], none.converged[at])
        found = self.at(data.rows(at), size, replace(start, total=data.factor[at] * size + data.shift[at]))
        q = 2 * (found.nll - best.nll[at])
        failed = ~(found.converged & best.converged[at]) | (q < -2 * _WORSE)
        return np.where(failed, np.nan, np.where(best.size[at] >= size, 0.0, np.maximum(q, 0.0)))

    # -- hypotheses

    def hypothesis(self, data: Measured, size: float) -> Hypothesis:
        """A size of the signal, and what of everything else fits the first of the data sets best."""
        one = data.rows(np.array([0]))
        found = self.at(one, np.array([float(size)]))
        values = self._held.named(found.u[0])
        total, (factor, shift) = float(found.total[0]), (float(one.factor[0]), float(one.shift[0]))
        variance = (self.relative * size) ** 2 + self.spurious**2
        away = (total - factor * size - shift) / variance if variance > 0 else 0.0
        expected = self.of.expected({**values, YIELD: total}, self.mass)[self.of.used]
        centres = np.array([values[name] for name in self.constrained])
        return Hypothesis(expected, centres, factor + away * size * self.relative**2, shift + away * self.spurious**2)

    def asimov(self, of: Hypothesis) -> Measured:
        """The data set that is expected."""
        return Measured(of.expected[None], of.centres[None], np.array([of.factor]), np.array([of.shift]))

    def draw(self, of: Hypothesis, toys: int, rng: np.random.Generator) -> Measured:
        """Pseudo-experiments."""
        scale = self.of.scale[self.of.used]
        counts = rng.poisson(scale * of.expected, (toys, len(scale))) / scale
        sigma = np.array([self.of.constraints[name][1] for name in self.constrained])
        centres = of.centres + sigma * rng.standard_normal((toys, len(sigma)))
        factor = of.factor + self.relative * rng.standard_normal(toys)
        return Measured(counts, centres, factor, of.shift + self.spurious * rng.standard_normal(toys))

    # -- columns and coordinates

    def _columns(
        self, batch: _DrawnBatch, data: Measured, total: Floats | float = 0.0, precision: Floats | float = 0.0
    ) -> Floats:  # fmt: skip
        centres = np.repeat(batch.centre[None], len(data), 0)
        for k, name in enumerate(self.constrained):
            centres[:, batch.free.index(name)] = data.centres[:, k]
        if YIELD in batch.free:
            centres[:, batch.inner] = total
        last = np.broadcast_to(np.asarray(precision, np.float64), (len(data),))
        return np.concatenate([data.counts, centres, last[:, None]], 1)

    def _start(self, total: Floats, start: Fitted | None, toys: int) -> Floats:
        """Coordinates (T, F) with the yield; nuisances of the signal at their start."""
        inner, batch = self._free.inner, self._free
        u = np.zeros((toys, len(batch.free)))
        if start is not None:
            u[:, :inner], u[:, inner + 1 :] = start.u[:, :inner], start.u[:, inner:]
        u[:, inner] = (total - batch.start[inner]) / batch.L[inner, inner]
        return u

    def _split(self, solved: Solved) -> Fitted:
        inner = self._free.inner
        total = self._free.values(solved.u)[:, inner]
        return Fitted(np.delete(solved.u, inner, 1), total, solved.nll, solved.converged)


def _checked(likelihood: BumpLikelihood) -> BumpLikelihood:
    """In bins, with a yield of which nothing is known, from anywhere."""
    if likelihood.points is not None:
        raise ValueError("likelihood: expected one in bins, found events without; take likelihood.in_bins(edges) with "
                         "bins much narrower than the signal")  # fmt: skip
    if YIELD in likelihood.constraints:
        raise ValueError("constraints: expected none on the yield, which is tested; a spurious signal is spurious=")
    limits: Mapping[str, tuple[float | None, float | None]] = {**likelihood.limits, YIELD: (None, None)}
    return replace(likelihood, limits=dict(limits))
