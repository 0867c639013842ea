"""Newton's steps for events without bins: one fit, in the coordinates of the same events in bins."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from .likelihoods import YIELD, BumpLikelihood
from .newton import FitBatch
from .quadrature import nodes
from .shapes import Linear, LogLinear

__all__ = ["PointBatch"]

Floats = NDArray[np.float64]
Bools = NDArray[np.bool_]

_SMALL = 1e-100
_LARGE = 100.0  # log of a density
_TOUCHING = 1e-4  # of the background's density


class PointBatch:
    """As a `FitBatch` of one toy, of events: the density has to be positive at them and on a grid of nodes.

    In H the second derivatives of the density are left out; those of the integral and of the sum over events cancel in
    the mean.  Contents are not looked at.
    """

    def __init__(self, likelihood: BumpLikelihood, batch: FitBatch) -> None:
        assert likelihood.points is not None
        assert likelihood.weights is not None
        self.likelihood, self.batch, self.free, self.box = likelihood, batch, batch.free, batch.box
        self._bins = likelihood.bins[likelihood.used]
        self._scale = float(likelihood.scale[0])
        grid = self._grid()
        self._events = len(likelihood.points)
        self._x = np.append(likelihood.points, grid)
        self._weight = np.append(likelihood.weights * self._scale, np.zeros(len(grid)))
        shape, theta = likelihood.background, batch.split(np.zeros(len(batch.free)))[0]
        self._columns = np.array([name in batch.free for name in shape.names])
        self._inner = batch.L[: batch.inner, : batch.inner]
        if isinstance(shape, LogLinear):
            self._at, self._basis = (
                shape.log_values(self._x, theta),
                shape.basis(self._x)[:, self._columns] @ self._inner,
            )
        elif isinstance(shape, Linear):
            self._at, self._basis = shape.values(self._x, theta), shape.basis(self._x)[:, self._columns] @ self._inner
        self._moving = batch.mass is not None and any(n in batch.free for n in likelihood.need_signal().names)
        self._held: Floats | None = None

    def _grid(self) -> Floats:
        """Nodes of each bin, and a quarter of a width apart around the peak."""
        at = nodes(self._bins, 4)[0].reshape(-1)
        if self.batch.mass is None:
            return at
        near = self.batch.mass + self.likelihood.need_signal().width(self.batch.mass) * np.linspace(-3, 3, 25)
        inside = ((near[:, None] >= self._bins[:, 0]) & (near[:, None] <= self._bins[:, 1])).any(1)
        return np.append(at, near[inside])

    # -- background and signal

    def _background(self, u: Floats) -> tuple[Floats, Floats, Floats]:
        """The density b (N,), and derivatives by the coordinates as the product of (N,) and (N, P)."""
        shape, v = self.likelihood.background, u[: self.batch.inner]
        if isinstance(shape, LogLinear):
            b = np.exp(np.minimum(self._at + self._basis @ v, _LARGE))
            return b, b, self._basis
        if isinstance(shape, Linear):
            return self._at + self._basis @ v, np.ones(len(self._x)), self._basis
        theta = self.batch.split(u)[0]
        slopes = shape.slopes(self._x, theta)[:, self._columns] @ self._inner
        return shape.values(self._x, theta), np.ones(len(self._x)), slopes

    def _signal(self, u: Floats) -> tuple[Floats | float, Floats]:
        """The signal's density (N,), and derivatives (N, K) by the coordinates of the yield and the nuisances."""
        if self.batch.mass is None:
            return 0.0, np.empty((len(self._x), 0))
        signal, (_, size, phi) = self.likelihood.need_signal(), self.batch.split(u)
        if self._held is None or self._moving:
            self._held = signal.density(self._x, self.batch.mass, phi)
        slopes = [self._held[:, None]] if YIELD in self.free else []
        if self._moving:
            free = [k for k, name in enumerate(signal.names) if name in self.free]
            slopes.append(size * signal.density_slopes(self._x, self.batch.mass, phi)[:, free])
        scale = np.diag(self.batch.L)[self.batch.inner :]
        return size * self._held, np.concatenate([*slopes, np.empty((len(self._x), 0))], 1) * scale

    def _integral(self, u: Floats) -> tuple[float, Floats]:
        """Expected events, and the derivatives (F,) by the coordinates."""
        (theta, size, phi), bins, order = self.batch.split(u), self._bins, self.likelihood.order
        shape, mass = self.likelihood.background, self.batch.mass
        total = float(shape.integrals(bins, theta, order).sum())
        slopes = shape.integral_slopes(bins, theta, order).sum(0)
        if mass is not None:
            signal = self.likelihood.need_signal()
            inside = float(signal.fractions(bins, mass, phi).sum())
            moved = size * signal.fraction_slopes(bins, mass, phi).sum(0) if self._moving else np.zeros(len(phi))
            total, slopes = total + size * inside, np.concatenate([slopes, [inside], moved])
        names = self.batch.names
        return total, slopes[[names.index(name) for name in self.free]] @ self.batch.L

    # -- -log L

    def evaluate(
        self, u: Floats, counts: Floats, yields: Floats | None, tau: float, *, second: bool = True
    ) -> tuple[Floats, Floats, Floats]:  # fmt: skip
        """-log L (1,), gradient (1, F), Hessian (1, F, F); inf outside of the domain."""
        size, batch = len(self.free), self.batch
        with np.errstate(all="ignore"):  # a user's function may overflow where a step goes too far
            total, by_total = self._integral(u[0])
            b, lead, basis = self._background(u[0])
            s, extra = self._signal(u[0])
            mu = b + s
            slope = by_total.sum() + (lead @ basis).sum()
        if not (mu.min() > _SMALL and np.isfinite(total) and np.isfinite(slope)):
            return np.array([np.inf]), np.zeros((1, size)), np.zeros((1, size, size))
        weight = self._weight.copy()
        weight[self._events :] = tau
        pull = batch.values(u)[0] - batch.centre
        value = self._scale * total - weight @ np.log(mu) + 0.5 * pull**2 @ batch.precision
        r = weight / mu
        by_log = np.concatenate([(r * lead) @ basis, r @ extra])
        gradient = self._scale * by_total - by_log + (pull * batch.precision) @ batch.L
        hessian = self._curvature(r / mu, lead, basis, extra) if second else np.empty((0, 0))
        return np.array([value]), gradient[None], hessian[None]

    def _curvature(self, w: Floats, lead: Floats, basis: Floats, extra: Floats) -> Floats:
        """The Hessian (F, F) without second derivatives."""
        inner = self.batch.inner
        found = np.empty((len(self.free), len(self.free)))
        found[:inner, :inner] = basis.T @ ((w * lead * lead)[:, None] * basis)
        found[:inner, inner:] = basis.T @ ((w * lead)[:, None] * extra)
        found[inner:, :inner] = found[:inner, inner:].T
        found[inner:, inner:] = extra.T @ (w[:, None] * extra)
        return np.asarray(found + self.batch.L.T @ (self.batch.precision[:, None] * self.batch.L))

    def feasible(self, u: Floats, yields: Floats | None) -> Floats:
        """Coordinates (1, F) with a positive density, as far as it is positive in bins."""
        return self.batch.feasible(u, yields)

    def touching(self, u: Floats, counts: Floats, yields: Floats | None) -> Bools:
        """Whether the density is 0 somewhere, but for rounding."""
        b, _, _ = self._background(u[0])
        mu = b + self._signal(u[0])[0]
        usual = self._weight.sum() / (self._bins[:, 1] - self._bins[:, 0]).sum()  # the mean density
        low = mu < (_TOUCHING * b if self.likelihood.background.positive else 1e-2 * _TOUCHING * usual)
        return np.array([bool(low[self._events :].any())])
