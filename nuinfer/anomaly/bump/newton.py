r"""Many fits of one model at once: damped Newton steps on arrays of toys.

In coordinates u in which the expected information is about the unit matrix (:math:`p = p_0 + L u`), with
:math:`w_i = k_i n_i / \mu_i^2` and :math:`r_i = k_i (1 - n_i / \mu_i)`,

.. math:: g = \sum_i r_i \, \partial\mu_i, \qquad
          H = \sum_i w_i \, \partial\mu_i \partial\mu_i^T + \sum_i r_i \, \partial^2 \mu_i .

The gradient is exact; in H of `LogLinear` shapes the variation of the basis within a bin is left out (but not with a
barrier, whose stiff directions have to be the right ones), of shapes without structure all second derivatives are.
That makes steps less than perfect, not the minimum.  With a mean basis :math:`\bar\Psi_i` the Hessians of T toys are
one product of matrices (T, B) and (B, P^2).  A step that is no descent is replaced by that with the expected
information (Fisher scoring); a step that does not lower -log L enough, or leaves the domain, is shortened.  Parameters
at a limit that want to leave it are held (projected Newton, Bertsekas, SIAM J. Control Optim. 20 (1982) 221).

Where contents are empty the domain's boundary :math:`\mu_i = 0` attracts.  Fits that are drawn there are done again
with a barrier :math:`-\tau \ln \mu_i` in empty bins and tau falling to 1e-8, which costs at most 1e-6 in 2 Delta log
L.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import ArrayLike, NDArray

from .likelihoods import YIELD, BumpLikelihood
from .quadrature import nodes
from .shapes import Linear, LogLinear

__all__ = ["BARRIER", "Engine", "FitBatch", "Solved", "minimise", "solve"]

Floats = NDArray[np.float64]
Bools = NDArray[np.bool_]

BARRIER = 1e-8
_EDM = 1e-9  # of -log L, where a toy is done
_ENOUGH = 1e-7  # where it counts as converged
_TOUCHING = 1e-5  # events in an empty bin
_LARGE = 100.0  # log of contents
_NEARLY = 0.9  # of the background taken away by a negative yield
_LOWEST = -1 + 1e-15
_SMALL = 1e-100  # contents that count as 0


@dataclass(frozen=True, eq=False)
class Solved:
    """Coordinates (T, F), -log L (T,), edm (T,), and whether converged, and at the domain's boundary (T,)."""

    u: Floats
    nll: Floats
    edm: Floats
    converged: Bools
    boundary: Bools


# -- the background ----------------------------------------------------------------------------------------------------


class _Rates(Protocol):
    """A background's contents as a function of its free coordinates v (T, P)."""

    def contents(self, v: Floats) -> tuple[Floats, Floats]:
        """b (T, B), and what the derivatives need of it."""

    def gradient(self, kept: Floats, r: Floats) -> Floats:
        """Sum over bins of r (T, B) times the derivatives: (T, P)."""

    def curvature(self, b: Floats, kept: Floats, w: Floats, r: Floats, exact: bool) -> Floats:
        """H (T, P, P), with exact first derivatives or approximate ones."""

    def cross(self, b: Floats, kept: Floats, w: Floats, exact: bool) -> Floats:
        """The sum of w (T, B) times the derivatives: (T, P)."""


class _LogLinearRates:
    def __init__(
        self, shape: LogLinear, bins: Floats, order: int, theta: Floats, columns: Bools, scale: Floats
    ) -> None:
        at, weight = nodes(bins, order)
        x, self._shape = at.reshape(-1), at.shape
        self._psi = shape.basis(x)[:, columns] @ scale
        self._log = shape.log_values(x, theta) + np.log(weight.reshape(-1))
        logs = self._log.reshape(self._shape)
        there = np.exp(logs - logs.max(1)[:, None])  # a bin's contents may be too small to be a number
        size = self._psi.shape[1]
        self._mean = (self._psi.reshape(*self._shape, size) * there[..., None]).sum(1) / there.sum(1)[:, None]
        self._outer = (self._mean[:, :, None] * self._mean[:, None, :]).reshape(len(bins), -1)

    def contents(self, v: Floats) -> tuple[Floats, Floats]:
        rates = v @ self._psi.T
        rates += self._log
        np.minimum(rates, _LARGE, out=rates)  # a step too far gives a large -log L, not an overflow
        np.exp(rates, out=rates)
        rates = rates.reshape(len(v), *self._shape)
        total = rates[..., 0].copy()
        for q in range(1, self._shape[1]):
            total += rates[..., q]
        return total, rates

    def gradient(self, kept: Floats, r: Floats) -> Floats:
        return np.asarray((kept * r[..., None]).reshape(len(r), -1) @ self._psi)

    def curvature(self, b: Floats, kept: Floats, w: Floats, r: Floats, exact: bool) -> Floats:
        size = self._mean.shape[1]
        if not exact:
            return np.asarray((b * (w * b + r) @ self._outer).reshape(len(b), size, size))
        slopes = np.einsum("tbq,bqp->tbp", kept, self._psi.reshape(*self._shape, size))
        within = (b * r @ self._outer).reshape(len(b), size, size)
        return np.asarray(np.swapaxes(slopes, 1, 2) @ (w[..., None] * slopes) + within)

    def cross(self, b: Floats, kept: Floats, w: Floats, exact: bool) -> Floats:
        return self.gradient(kept, w) if exact else np.asarray((w * b) @ self._mean)


class _LinearRates:
    def __init__(self, shape: Linear, bins: Floats, theta: Floats, columns: Bools, scale: Floats) -> None:
        basis = shape.bin_basis(bins)
        self._at, self._basis = basis @ theta, basis[:, columns] @ scale
        self._outer = (self._basis[:, :, None] * self._basis[:, None, :]).reshape(len(bins), -1)

    def contents(self, v: Floats) -> tuple[Floats, Floats]:
        found = self._at + v @ self._basis.T
        return found, found

    def gradient(self, kept: Floats, r: Floats) -> Floats:
        return np.asarray(r @ self._basis)

    def curvature(self, b: Floats, kept: Floats, w: Floats, r: Floats, exact: bool) -> Floats:
        size = self._basis.shape[1]
        return np.asarray((w @ self._outer).reshape(len(b), size, size))

    def cross(self, b: Floats, kept: Floats, w: Floats, exact: bool) -> Floats:
        return np.asarray(w @ self._basis)


class _AnyRates:
    def __init__(self, likelihood: BumpLikelihood, bins: Floats, theta: Floats, columns: Bools, scale: Floats) -> None:
        self._of, self._bins, self._theta, self._columns, self._scale = likelihood, bins, theta, columns, scale

    def contents(self, v: Floats) -> tuple[Floats, Floats]:
        theta = np.repeat(self._theta[None], len(v), 0)
        theta[:, self._columns] += v @ self._scale.T
        shape, order = self._of.background, self._of.order
        with np.errstate(all="ignore"):  # a user's function may overflow where a step goes too far
            slopes = shape.integral_slopes(self._bins, theta, order)[..., self._columns] @ self._scale
            found = shape.integrals(self._bins, theta, order)
        bad: Bools = ~np.asarray(np.isfinite(found).all(1) & np.isfinite(slopes).all((1, 2)))
        if bad.any():
            found, slopes = np.where(bad[:, None], -1.0, found), np.where(bad[:, None, None], 0.0, slopes)
        return found, slopes

    def gradient(self, kept: Floats, r: Floats) -> Floats:
        return np.asarray((r[:, None, :] @ kept)[:, 0])

    def curvature(self, b: Floats, kept: Floats, w: Floats, r: Floats, exact: bool) -> Floats:
        return np.asarray(np.swapaxes(kept, 1, 2) @ (w[..., None] * kept))

    def cross(self, b: Floats, kept: Floats, w: Floats, exact: bool) -> Floats:
        return self.gradient(kept, w)


class Engine(Protocol):
    """What `minimise` and `solve` need: -log L of toys in coordinates u."""

    @property
    def free(self) -> tuple[str, ...]:
        """The names of the free parameters."""

    @property
    def box(self) -> tuple[Floats, Floats]:
        """Limits (F,) of u."""

    def evaluate(
        self, u: Floats, counts: Floats, yields: Floats | None, tau: float, *, second: bool = True
    ) -> tuple[Floats, Floats, Floats]:  # fmt: skip
        """Value, gradient and Hessian."""

    def feasible(self, u: Floats, yields: Floats | None) -> Floats:
        """A start inside of the domain."""

    def touching(self, u: Floats, counts: Floats, yields: Floats | None) -> Bools:
        """Which are at its boundary."""


# -- the whole model ---------------------------------------------------------------------------------------------------


class FitBatch:
    """A likelihood at one mass, with some parameters held, for contents (T, B) of its used bins.

    Parameters
    ----------
    likelihood:
        In bins; its own contents are not used.
    mass:
        None for the background alone.
    fixed:
        Parameters held; the yield may have a value for each toy (T,).
    reference:
        The background's parameters (P,) around which coordinates are made: near the fits.
    """

    def __init__(
        self, likelihood: BumpLikelihood, mass: float | None, fixed: Mapping[str, ArrayLike], reference: Floats
    ) -> None:
        self.likelihood, self.mass = likelihood, mass
        self.bins, self.scale = likelihood.bins[likelihood.used], likelihood.scale[likelihood.used]
        self.names = likelihood.names if mass is not None else likelihood.background.names
        held = {**(likelihood.held() if mass is not None else {}), **fixed}
        self.fixed = {name: held[name] for name in self.names if name in held}
        self.free = tuple(name for name in self.names if name not in self.fixed)
        self._columns = np.array([name not in self.fixed for name in likelihood.background.names])
        self.inner = int(self._columns.sum())
        theta = np.array(
            [_number(self.fixed.get(n, r)) for n, r in zip(likelihood.background.names, reference, strict=True)]
        )
        self._set_signal()
        self._set_coordinates(theta)
        self.rates = self._made_rates(theta)
        self._limits = np.array([likelihood.limit(name) for name in self.free]).reshape(-1, 2)
        pull = [likelihood.constraints.get(name, (0.0, np.inf)) for name in self.free]
        self.centre, self.precision = np.array([c for c, _ in pull]), np.array([s**-2 for _, s in pull])

    def _set_signal(self) -> None:
        signal = None if self.mass is None else self.likelihood.need_signal()
        self._signal = signal
        self._moving: list[int] = []  # the signal's nuisances that are free
        if signal is None:
            return
        assert self.mass is not None
        self._phi = np.array([_number(self.fixed.get(n, v)) for n, v in zip(signal.names, signal.start, strict=True)])
        self._moving = [k for k, name in enumerate(signal.names) if name in self.free]
        self.template = signal.fractions(self.bins, self.mass, self._phi)

    def _set_coordinates(self, theta: Floats) -> None:
        """p = start + u L^T for the free ones, L from the expected information at the reference."""
        shape = self.likelihood.background
        slopes = shape.integral_slopes(self.bins, theta, self.likelihood.order)[:, self._columns]
        mean = np.maximum(shape.integrals(self.bins, theta, self.likelihood.order), 1e-9)
        where = {name: k for k, name in enumerate(shape.names)}
        start = [theta[where[n]] if n in where else self._signal_start(n) for n in self.free]
        self.start = np.array(start)
        unlimited = all(np.isinf(self.likelihood.limit(n)).all() for n in self.free[: self.inner])
        weight = self.scale / mean
        information = slopes.T @ (weight[:, None] * slopes)
        for k, name in enumerate(self.free[: self.inner]):
            if name in self.likelihood.constraints:
                information[k, k] += self.likelihood.constraints[name][1] ** -2
        self.L = np.zeros((len(self.free), len(self.free)))
        self.L[: self.inner, : self.inner] = _whitening(information, unlimited)
        for k, name in enumerate(self.free[self.inner :], self.inner):
            sigma = self.likelihood.constraints.get(name, (0.0, 0.05))[1]
            self.L[k, k] = (weight @ self.template**2 + 1e-12) ** -0.5 if name == YIELD else sigma

    def _signal_start(self, name: str) -> float:
        if name == YIELD:
            low, high = self.likelihood.limit(YIELD)
            return min(max(0.0, low), high)
        signal = self.likelihood.need_signal()
        return float(self.likelihood.constraints.get(name, (signal.start[signal.names.index(name)],))[0])

    def _made_rates(self, theta: Floats) -> _Rates:
        of, inner = self.likelihood, self.L[: self.inner, : self.inner]
        if isinstance(of.background, LogLinear):
            return _LogLinearRates(of.background, self.bins, of.order, theta, self._columns, inner)
        if isinstance(of.background, Linear):
            return _LinearRates(of.background, self.bins, theta, self._columns, inner)
        return _AnyRates(of, self.bins, theta, self._columns, inner)

    # -- coordinates

    def values(self, u: Floats) -> Floats:
        """Free parameters (T, F) at coordinates u (T, F)."""
        return np.asarray(self.start + u @ self.L.T)

    def coordinates(self, values: Floats) -> Floats:
        """The inverse of `values`."""
        return np.asarray(np.linalg.solve(self.L, (values - self.start).T).T)

    def named(self, u: Floats) -> dict[str, float]:
        """All parameters at u (F,), those held among them."""
        found = dict(zip(self.free, self.values(u[None])[0].tolist(), strict=True))
        return {name: found[name] if name in found else _number(self.fixed[name]) for name in self.names}

    def split(self, u: Floats) -> tuple[Floats, float, Floats]:
        """The background's parameters (P,), the yield, and the signal's nuisances (K,) at u (F,)."""
        full, of = self.named(u), self.likelihood
        theta = np.array([full[name] for name in of.background.names])
        if self.mass is None:
            return theta, 0.0, np.empty(0)
        return theta, full[YIELD], np.array([full[name] for name in of.need_signal().names])

    @property
    def box(self) -> tuple[Floats, Floats]:
        """Lower and upper limits (F,) of u: of parameters with limits, L is diagonal."""
        found = (self._limits - self.start[:, None]) / np.abs(np.diag(self.L))[:, None]
        return found[:, 0], found[:, 1]

    # -- -log L

    def evaluate(
        self, u: Floats, counts: Floats, yields: Floats | None, tau: float, *, second: bool = True
    ) -> tuple[Floats, Floats, Floats]:  # fmt: skip
        """-log L (T,), gradient (T, F), Hessian (T, F, F) at u for contents (T, B); inf outside of the domain.

        Without ``second`` the Hessian is empty.
        """
        b, kept = self.rates.contents(u[:, : self.inner])
        p = self.values(u)
        size, s, ds = self._signal_at(p, yields)
        mu = b if size is None else b + size[:, None] * s
        outside: Bools = ~np.asarray(((mu > _SMALL) & (mu < 1 / _SMALL)).all(1))
        if outside.any():
            mu = np.where(outside[:, None], 1.0, mu)
        n = np.maximum(counts, tau)
        nll = self._value(mu, counts, n) + 0.5 * ((p - self.centre) ** 2 @ self.precision)
        nll[outside] = np.inf
        ratio = n / mu
        r, w = self.scale * (1 - ratio), self.scale * ratio / mu
        gradient = self._gradient(kept, r, size, s, ds) + ((p - self.centre) * self.precision) @ self.L
        if not second:
            return nll, gradient, np.empty((len(u), 0, 0))
        hessian = self._curvature(b, kept, w, r, tau > 0, size, s, ds)
        lost = ~_descends(hessian, gradient)
        if lost.any():
            expected = self.scale / mu[lost]
            part = [a if a is None or len(a) != len(u) else a[lost] for a in (size, s, ds)]
            hessian[lost] = self._curvature(b[lost], kept[lost], expected, 0 * expected, tau > 0, *part)
        return nll, gradient, hessian

    def _value(self, mu: Floats, counts: Floats, n: Floats) -> Floats:
        """Half of the deviance, with the digits of small differences; the barrier where contents are 0."""
        seen = counts > 0
        d = np.where(seen, (mu - n) / np.where(seen, n, 1.0), 0.0)
        terms = np.where(seen, n * (d - np.log1p(np.maximum(d, _LOWEST))), mu)
        if (n > counts).any():
            terms -= np.where(seen, 0.0, n * np.log(mu))
        return np.asarray(terms @ self.scale)

    def _signal_at(self, p: Floats, yields: Floats | None) -> tuple[Floats | None, Floats, Floats | None]:
        """The yield (T,), the fractions (T, B) or (1, B) and their derivatives (T, B, K) by moving nuisances."""
        if self._signal is None:
            return None, np.zeros((1, len(self.bins))), None
        if yields is not None:
            size = yields
        elif YIELD in self.free:
            size = p[:, self.inner]
        else:
            size = np.full(len(p), _number(self.fixed[YIELD]))
        if not self._moving:
            return size, self.template[None], None
        assert self.mass is not None
        phi = np.repeat(self._phi[None], len(p), 0)
        phi[:, self._moving] = p[:, len(self.free) - len(self._moving) :]
        slopes = self._signal.fraction_slopes(self.bins, self.mass, phi)
        return size, self._signal.fractions(self.bins, self.mass, phi), slopes[..., self._moving]

    def _gradient(self, kept: Floats, r: Floats, size: Floats | None, s: Floats, ds: Floats | None) -> Floats:
        parts = [self.rates.gradient(kept, r)]
        if size is not None and YIELD in self.free:
            parts.append((r * s).sum(1)[:, None] * self.L[self.inner, self.inner])
        if size is not None and ds is not None:
            parts.append(size[:, None] * (r[:, None, :] @ ds)[:, 0] * np.diag(self.L)[-len(self._moving) :])
        return np.concatenate(parts, 1)

    def _curvature(
        self, b: Floats, kept: Floats, w: Floats, r: Floats, exact: bool, size: Floats | None, s: Floats | None,
        ds: Floats | None,
    ) -> Floats:  # fmt: skip
        """The Hessian (T, F, F) in u."""
        inner, total = self.inner, len(self.free)
        H = np.empty((len(b), total, total))
        H[:, :inner, :inner] = self.rates.curvature(b, kept, w, r, exact)
        if total > inner:
            assert size is not None
            assert s is not None
            scale = np.diag(self.L)[inner:]
            rows = [np.broadcast_to(s, b.shape)] if YIELD in self.free else []
            rows += [] if ds is None else [size[:, None] * ds[..., k] for k in range(ds.shape[-1])]
            for j, row in enumerate(rows):
                H[:, inner + j, :inner] = H[:, :inner, inner + j] = scale[j] * self.rates.cross(b, kept, w * row, exact)
                for k, other in enumerate(rows[: j + 1]):
                    both = (w * row * other).sum(1)
                    if k == 0 and j > 0 and YIELD in self.free and ds is not None:
                        both = both + (r * ds[..., j - 1]).sum(1)  # mu has the product of the yield and the nuisance
                    H[:, inner + j, inner + k] = H[:, inner + k, inner + j] = scale[j] * scale[k] * both
        H += self.L.T @ (self.precision[:, None] * self.L)
        return H

    def feasible(self, u: Floats, yields: Floats | None) -> Floats:
        """Coordinates (T, F) with as much background as a negative yield takes away."""
        if self._signal is None:
            return u
        b, _ = self.rates.contents(u[:, : self.inner])
        size, s, _ = self._signal_at(self.values(u), yields)
        assert size is not None
        more = np.maximum(1.2 * (-size[:, None] * s / np.maximum(b, 1e-300)).max(1), 1.0)
        rows = np.flatnonzero(more > 1.2 * _NEARLY)
        if not len(rows) or not self.inner:
            return u
        values = self.values(u[rows])
        if isinstance(self.likelihood.background, Linear):
            values[:, : self.inner] *= more[rows, None]
        elif isinstance(self.likelihood.background, LogLinear) and self._columns[0]:
            values[:, 0] += np.log(more[rows])  # the logarithm of a factor
        moved = u.copy()
        moved[rows] = self.coordinates(values)
        return moved

    def touching(self, u: Floats, counts: Floats, yields: Floats | None) -> Bools:
        """Where the expectation of an empty bin is 0 but for rounding."""
        b, _ = self.rates.contents(u[:, : self.inner])
        size, s, _ = self._signal_at(self.values(u), yields)
        mu = b if size is None else b + size[:, None] * s
        low = (counts == 0) & (mu < _TOUCHING)
        if self.likelihood.background.positive:
            low &= mu < 1e-3 * b  # else the background is small by itself
        return np.asarray(low.any(1))


def _number(value: ArrayLike) -> float:
    return float(np.asarray(value, np.float64))


def _descends(hessian: Floats, gradient: Floats) -> Bools:
    """Where -H^-1 g is downhill, and the diagonal of H positive (T,)."""
    unit = np.eye(hessian.shape[1])
    good = (np.einsum("tii->ti", hessian) > 1e-12).all(1)
    safe = hessian if good.all() else np.where(good[:, None, None], hessian, unit)
    step = np.linalg.solve(safe + _ridge(safe), gradient[..., None])[..., 0]
    return np.asarray(good & ((step * gradient).sum(1) >= 0))


def _ridge(hessian: Floats) -> Floats:
    """What keeps directions without information from being divided by 0 (T, F, F)."""
    size = hessian.shape[1]
    largest = np.einsum("tii->ti", hessian).max(1, initial=1.0)
    return np.asarray(1e-13 * largest[:, None, None] * np.eye(size))


def _whitening(information: Floats, mix: bool) -> Floats:
    """L with L^T I L = 1, or the diagonal one with ones on its diagonal; unknown directions get a great length."""
    scale = np.sqrt(np.maximum(np.diag(information), 1e-30))
    if not mix or not len(scale):
        return np.diag(1 / scale)
    size, vectors = np.linalg.eigh(information / np.outer(scale, scale))
    return np.asarray(vectors / np.sqrt(np.maximum(size, 1e-13)) / scale[:, None])


# -- the loop ----------------------------------------------------------------------------------------------------------


def solve(batch: Engine, counts: Floats, start: Floats | None = None, yields: Floats | None = None) -> Solved:
    """The minima for contents (T, B) of the used bins; from coordinates (T, F) or the reference.

    Fits that do not converge by plain steps are done again with a barrier.
    """
    if start is None:
        start = np.zeros((len(counts), len(batch.free)))
    start = batch.feasible(start, yields)
    before = batch.evaluate(start, counts, yields, 0.0, second=False)[0]
    found = minimise(batch, counts, start, yields)
    touching = batch.touching(found.u, counts, yields)
    _mend(batch, counts, yields, found, ~found.converged | touching, batch.feasible(0.0 * start, yields), 1.0)
    # a far minimum of several: from where the plain steps went, with a barrier that leaves them there
    _mend(batch, counts, yields, found, ~found.converged | (found.nll > before + 1e-9), found.u, 1e-4)
    return Solved(found.u, found.nll, found.edm, found.converged, batch.touching(found.u, counts, yields))


def _mend(
    batch: Engine, counts: Floats, yields: Floats | None, found: Solved, which: Bools, start: Floats, tau: float
) -> None:  # fmt: skip
    """Put better fits with a barrier, from coordinates (T, F), in the place of those of some toys."""
    rows = np.flatnonzero(which)
    if not len(rows):
        return
    held = None if yields is None else yields[rows]
    mended = _with_barrier(batch, counts[rows], start[rows], held, tau)
    nll = batch.evaluate(mended.u, counts[rows], held, 0.0, second=False)[0]
    better = mended.converged & ~(found.converged[rows] & (found.nll[rows] < nll - 1e-6))
    at = rows[better]
    found.u[at], found.nll[at], found.edm[at] = mended.u[better], nll[better], mended.edm[better]
    found.converged[at] = True


def _with_barrier(batch: Engine, counts: Floats, u: Floats, yields: Floats | None, tau: float) -> Solved:
    while True:
        found = minimise(batch, counts, u, yields, tau, 1e-4 if tau > BARRIER else _EDM)
        if tau <= BARRIER:
            return found
        u, tau = found.u, max(tau / 10, BARRIER)


def minimise(
    batch: Engine, counts: Floats, start: Floats, yields: Floats | None = None, tau: float = 0.0, edm: float = _EDM,
    steps: int = 60,
) -> Solved:  # fmt: skip
    """Damped projected Newton steps, until each toy is at its minimum or stuck."""
    low, high = batch.box
    u, rows = np.clip(start, low, high), np.arange(len(counts))
    nll, left, shorten = np.full(len(u), np.inf), np.full(len(u), np.inf), np.ones(len(u))
    held = yields
    value, gradient, hessian = batch.evaluate(u, counts, held, tau)
    nll[:] = value
    at = u
    for _ in range(steps):
        step, left[rows] = _step(at, gradient, hessian, low, high)
        keep = (left[rows] > edm) & (shorten[rows] > 1e-7) & np.isfinite(value)
        if not keep.all():
            rows, at, step = rows[keep], at[keep], step[keep]
            counts, value, gradient, hessian = counts[keep], value[keep], gradient[keep], hessian[keep]
            held = None if held is None else held[keep]
        if not len(rows):
            break
        trial = np.clip(at + shorten[rows, None] * step, low, high)
        new, new_gradient, new_hessian = batch.evaluate(trial, counts, held, tau)
        slope = np.minimum((gradient * (trial - at)).sum(1), 0.0)
        good = new <= value + 1e-4 * slope + 1e-11 + 1e-14 * np.abs(value)
        at, value = np.where(good[:, None], trial, at), np.where(good, new, value)
        gradient = np.where(good[:, None], new_gradient, gradient)
        hessian = np.where(good[:, None, None], new_hessian, hessian)
        shorten[rows] = np.where(good, np.minimum(4 * shorten[rows], 1.0), 0.25 * shorten[rows])
        u[rows], nll[rows] = at, value
    return Solved(u, nll, left, (left < max(_ENOUGH, edm)) & np.isfinite(nll), np.zeros(len(u), bool))


def _step(u: Floats, gradient: Floats, hessian: Floats, low: Floats, high: Floats) -> tuple[Floats, Floats]:
    """Newton's step (T, F) in the coordinates that are free to move, and the estimated distance in -log L (T,)."""
    size = u.shape[1]
    ridge = hessian + _ridge(hessian)
    if np.isinf(low).all() and np.isinf(high).all():
        step = -np.linalg.solve(ridge, gradient[..., None])[..., 0]
        return np.asarray(step), np.asarray(-0.5 * (step * gradient).sum(1))
    stop = ((u <= low) & (gradient > 0)) | ((u >= high) & (gradient < 0))
    move = ~stop
    ridge = np.where(move[:, :, None] & move[:, None, :], ridge, np.eye(size))
    slope = np.where(move, gradient, 0.0)
    step = -np.linalg.solve(ridge, slope[..., None])[..., 0]
    return np.asarray(step), np.asarray(np.abs(0.5 * (step * slope).sum(1)))
