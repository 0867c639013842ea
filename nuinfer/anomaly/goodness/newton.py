r"""The minima of T penalised convex losses at once, on rows that they share.

.. math:: L_t(g) = \ell_t(\phi g) + \tfrac12 (g - b_t)^T Q (g - b_t)

with :math:`\ell` the extended likelihood, :math:`\sum_i w_{ti} (e^{f_i} - 1) - m_{ti} f_i`, or the logistic loss,
:math:`2 \sum_i w_{ti} \ln(1 + e^{f_i}) + m_{ti} \ln(1 + e^{-f_i})`, whose minima agree for many events and whose
gradients and curvatures are equal at f = 0.  Newton's method, its steps by conjugate gradients with a preconditioner
that is the same for all (the curvature at f = 0), so that all work is in products of the rows' matrix (N, r) with
matrices of T columns; steps are halved until the loss falls.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from scipy import special

__all__ = ["Loss", "minima"]

Floats = NDArray[np.float64]
Loss = Literal["likelihood", "logistic"]

_NEWTON, _CONJUGATE, _HALVINGS = 60, 400, 30
_ENOUGH = 1e-8  # expected further fall of the loss


@dataclass(frozen=True, eq=False)
class _Losses:
    """The losses of T experiments at outputs f (T, N), but for the penalty; counts (T, N) of the logistic one alone."""

    weight: Floats
    sums: Floats  # (T, r), sum_i m_i phi_i
    counts: Floats | None

    def select(self, rows: NDArray[np.bool_]) -> _Losses:
        weight = self.weight if len(self.weight) == 1 else self.weight[rows]
        counts = None if self.counts is None else self.counts[rows]
        return _Losses(weight, self.sums[rows], counts)

    def value(self, f: Floats, g: Floats) -> Floats:
        with np.errstate(over="ignore", invalid="ignore"):
            if self.counts is None:
                return np.asarray((self.weight * np.expm1(f)).sum(1) - (self.sums * g).sum(1))
            up = np.logaddexp(0, f)
            return np.asarray(2 * (self.weight * up + self.counts * (up - f)).sum(1))

    def slopes(self, f: Floats, phi: Floats) -> tuple[Floats, Floats]:
        """The gradient in g (T, r) and the curvature in f (T, N)."""
        if self.counts is None:
            rate = self.weight * np.exp(f)
            return rate @ phi - self.sums, rate
        s = special.expit(f)
        both = self.weight + self.counts
        return 2 * (both * s - self.counts) @ phi, 2 * both * s * (1 - s)


def minima(
    phi: Floats, weight: Floats, sums: Floats, penalty: Floats, centre: Floats, *, counts: Floats | None = None
) -> tuple[Floats, Floats, NDArray[np.bool_]]:
    """Coefficients g (T, r), outputs f (T, N) and whether each has converged (T,).

    Parameters
    ----------
    phi:
        The functions at the rows (N, r).
    weight, sums:
        Reference weights (T, N) or (1, N), and the sums of the functions over the data (T, r).
    penalty, centre:
        Q (r, r) and b (T, r).
    counts:
        Data at the rows (T, N), for the logistic loss; None for the likelihood.
    """
    losses = _Losses(weight, sums, counts)
    g, f = np.zeros_like(centre), np.zeros((len(centre), len(phi)))
    done, active = np.zeros(len(centre), bool), np.ones(len(centre), bool)
    scale = abs(float(weight.sum(1).mean()))
    inverse = np.asarray(np.linalg.inv(scale * (phi.T @ (phi * _share(weight)[:, None])) + penalty), np.float64)
    for _ in range(_NEWTON):
        own = losses.select(active)
        moved, out, state = _step(own, phi, penalty, inverse, centre[active], g[active], f[active])
        index = np.flatnonzero(active)
        g[index], f[index] = moved, out
        done[index] = state == 1
        active[index[state != 0]] = False
        if not active.any():
            break
    return g, f, done


def _share(weight: Floats) -> Floats:
    """The mean reference (N,), normalised, without signs: of the preconditioner."""
    mean = np.abs(weight.mean(0))
    return np.asarray(mean / mean.sum())


def _step(
    losses: _Losses, phi: Floats, penalty: Floats, inverse: Floats, centre: Floats, g: Floats, f: Floats
) -> tuple[Floats, Floats, NDArray[np.int64]]:
    """One Newton step: coefficients, outputs, and 1 for those at their minimum, -1 for those that cannot go on."""
    slope, curve = losses.slopes(f, phi)
    gradient = slope + (g - centre) @ penalty
    step, convex = _solved(phi, curve, penalty, inverse, gradient)
    fall = -(gradient * step).sum(1)
    value = losses.value(f, g) + _quadratic(g - centre, penalty)
    state = np.where(convex & np.isfinite(fall), 0, -1)
    state[(state == 0) & (fall < _ENOUGH)] = 1
    ahead = step @ phi.T
    size, open_ = np.ones(len(g)), state != -1
    for _ in range(_HALVINGS):
        to, out = g + size[:, None] * step, f + size[:, None] * ahead
        new = losses.value(out, to) + _quadratic(to - centre, penalty)
        bad = open_ & ~(new <= value - 1e-4 * size * fall + 1e-11 * (1 + np.abs(value)))
        if not bad.any():
            break
        size[bad] *= 0.5
    else:
        state[bad & (state == 0)] = -1
    stay = (state == -1)[:, None]
    return np.where(stay, g, to), np.where(stay, f, out), state


def _quadratic(off: Floats, penalty: Floats) -> Floats:
    return np.asarray(0.5 * ((off @ penalty) * off).sum(1))


def _solved(
    phi: Floats, curve: Floats, penalty: Floats, inverse: Floats, gradient: Floats
) -> tuple[Floats, NDArray[np.bool_]]:
    """-H^-1 gradient (T, r) by preconditioned conjugate gradients, and whether H was positive along the way."""
    x, r = np.zeros_like(gradient), -gradient
    z = r @ inverse
    p, rz = z, (r * z).sum(1)
    first, convex = rz.copy(), np.ones(len(r), bool)
    # the closer to the minimum, the better the step: Newton's convergence stays fast
    enough = np.minimum(0.01, np.sqrt(np.abs(first))) ** 2 * np.abs(first)
    for _ in range(_CONJUGATE):
        open_ = (np.abs(rz) > enough) & convex
        if not open_.any():
            break
        hp = (curve * (p @ phi.T)) @ phi + p @ penalty
        bend = (p * hp).sum(1)
        convex &= ~open_ | (bend > 0)
        open_ &= convex
        a = np.where(open_, rz / np.where(open_, bend, 1.0), 0.0)[:, None]
        x, r = x + a * p, r - a * hp
        z = r @ inverse
        new = (r * z).sum(1)
        p = z + np.where(open_, new / np.where(open_, rz, 1.0), 0.0)[:, None] * p
        rz = np.where(open_, new, rz)
    return x, convex
