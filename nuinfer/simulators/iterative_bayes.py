r"""Iterative Bayes for population densities: in closed form for Gaussians, by quadrature on a grid for the rest.

.. math:: n_{k+1}(t) = n_k(t)\,\nu_k(t), \qquad \nu_k(t) = \int R(x|t)\,\frac{D(x)}{s_k(x)}\,dx, \qquad
          s_k(x) = \int R(x|t)\,\epsilon(t)\,n_k(t)\,dt

for events of truth t, efficiency eps and response R, and the data's signal D; see
`nuinfer.simulators.gaussian_unfolding` for the derivation and for the two rules of misses.
Source: D'Agostini, Nucl. Instrum. Meth. A 362 (1995) 487.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy import linalg

from .gaussian import Gaussian

__all__ = ["GridRecursion", "LinearResponse", "bayes_step", "iterate_on_grid"]

Floats = NDArray[np.float64]


class LinearResponse(NamedTuple):
    """A detector x = matrix t + offset + N(0, noise): (D, D), (D,), (D, D)."""

    matrix: Floats
    offset: Floats
    noise: Floats


def bayes_step(state: Gaussian, data: Gaussian, response: LinearResponse) -> Gaussian:
    r"""One step of iterative Bayes for a Gaussian truth, Gaussian data and a linear response.

    .. math:: K = V A^T (A V A^T + Q)^{-1}, \quad m' = m + K (d - A m - c), \quad V' = (1 - K A) V + K \Sigma K^T

    for data of mean d, covariance :math:`\Sigma` and response x = A t + c + N(0, Q); the total becomes the data's.
    Source: `nuinfer.simulators.gaussian_unfolding`.

    >>> unit = LinearResponse(np.eye(1), np.zeros(1), 0.25 * np.eye(1))
    >>> bayes_step(Gaussian(0.2, 0.81), Gaussian(0.0, 1.25, total=1.2), unit)
    Gaussian(mean=[0.0471698], covariance=[[0.920946]], total=1.2)
    """
    a, c, q = response
    gain = linalg.solve(a @ state.covariance @ a.T + q, a @ state.covariance, assume_a="pos").T
    covariance = state.covariance - gain @ a @ state.covariance + gain @ data.covariance @ gain.T
    mean = state.mean + gain @ (data.mean - a @ state.mean - c)
    return Gaussian(mean, (covariance + covariance.T) / 2, total=data.total)


class GridRecursion(NamedTuple):
    """Iterative Bayes by quadrature: the truth rate at the points of a grid, before and after each iteration.

    ``axes`` are D arrays of evenly spaced points; ``truth`` and ``reconstructed`` (iterations + 1, P1, ..., PD) are
    n_k(t) and eps(t) n_k(t), per unit of t; entry 0 is the simulation.
    """

    axes: tuple[Floats, ...]
    truth: Floats
    reconstructed: Floats

    @property
    def cell(self) -> float:
        """The volume of a cell of the grid."""
        return _cell(self.axes)

    @property
    def totals(self) -> Floats:
        """The total rate of the truth, before and after each iteration (iterations + 1,)."""
        return np.asarray(self.truth.reshape(len(self.truth), -1).sum(-1) * self.cell)

    @property
    def reconstructed_totals(self) -> Floats:
        """The total rate of its reconstructed part, before and after each iteration (iterations + 1,)."""
        return np.asarray(self.reconstructed.reshape(len(self.truth), -1).sum(-1) * self.cell)

    def moments(self, iteration: int) -> tuple[Floats, Floats]:
        """Mean (D,) and covariance (D, D) of the truth after an iteration."""
        at = grid_points(self.axes)
        share = self.truth[iteration].ravel() / self.truth[iteration].sum()
        mean = share @ at
        return mean, np.asarray(np.einsum("n,ni,nj->ij", share, at - mean, at - mean))


def iterate_on_grid(
    iterations: int,
    prior: Gaussian,
    data: Gaussian,
    efficiency: Callable[[Floats], Floats],
    noise: Floats,
    span: Sequence[Gaussian],
    size: int,
    misses: Literal["conditional", "prior"],
) -> GridRecursion:
    """Iterate from ``prior`` towards ``data``, smeared by N(0, noise), on ``size`` points per axis around ``span``.

    The trapezoid rule of Gaussians is exact to rounding once the spacing is well below their width (Trefethen,
    Weideman, SIAM Review 56 (2014) 385): an error of order exp(-2 (pi sd / spacing)^2).
    """
    if misses not in ("conditional", "prior"):
        raise ValueError(f"misses: expected 'conditional' or 'prior', found {misses!r}")
    true, reco = _axes(span, size), _axes([part.smeared(noise) for part in span], size)
    _check_spacing(reco, [Gaussian(np.zeros(prior.dim), noise), prior, data])
    t, x = grid_points(true), grid_points(reco)
    kernel = Gaussian(np.zeros(prior.dim), noise).density(x[:, None] - t)
    fold, unfold = kernel * _cell(true), kernel.T * _cell(reco)
    wanted, eps, states = data.density(x), efficiency(t), [prior.density(t)]
    for _ in range(iterations):
        factor = unfold @ (wanted / (fold @ (eps * states[-1])))
        states.append(states[-1] * (factor if misses == "conditional" else eps * factor + 1 - eps))
    shape = (len(states), *(len(axis) for axis in true))
    truth = np.reshape(states, shape)
    return GridRecursion(true, truth, truth * eps.reshape(shape[1:]))


def grid_points(axes: Sequence[Floats]) -> Floats:
    """All points of a grid (P1 ... PD, D), the last axis fastest."""
    return np.stack([part.ravel() for part in np.meshgrid(*axes, indexing="ij")], axis=-1)


def _axes(span: Sequence[Gaussian], size: int) -> tuple[Floats, ...]:
    low = np.min([part.mean - 7 * part.sd for part in span], axis=0)
    high = np.max([part.mean + 7 * part.sd for part in span], axis=0)
    return tuple(np.linspace(a, b, size) for a, b in zip(low, high, strict=True))


def _cell(axes: Sequence[Floats]) -> float:
    return float(np.prod([axis[1] - axis[0] for axis in axes]))


def _check_spacing(axes: Sequence[Floats], parts: Sequence[Gaussian]) -> None:
    narrowest = min(float(np.sqrt(linalg.eigvalsh(part.covariance)[0])) for part in parts)
    spacing = max(float(axis[1] - axis[0]) for axis in axes)
    if spacing > 0.8 * narrowest:
        raise ValueError(
            f"grid: expected a spacing below 0.8 of the narrowest standard deviation, {narrowest:.3g}, found "
            f"{spacing:.3g} with {len(axes[0])} points per axis; give more points"
        )
