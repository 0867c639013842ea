"""The generalised method of moments: two stages of Levenberg and Marquardt."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray
from scipy import linalg, special

from ....errors import NotConverged
from ...spectrum import Chi2
from .basis import Basis, Table, chunks
from .sample import MomentSample

__all__ = ["MomentFit", "fitted", "minimised", "sum_of", "whitening_of"]

Floats = NDArray[np.float64]
Keys = NDArray[np.int64]

_COLLINEAR = 1e-10  # smallest eigenvalue of a correlation matrix; the tables are of single precision
_TRUST = 1.0  # largest step, of the root mean square of log nu and of the log rate


@dataclass(frozen=True, eq=False)
class MomentFit:
    """A solution: theta are coefficients of the functions made orthonormal over the truth, lambda = R theta.

    ``root`` (M, M) whitens d: W = root^T root.  ``slope`` (M, P) is root J R.
    """

    theta: Floats
    whitening: Floats  # R (P, P)
    root: Floats
    slope: Floats
    strength: float
    steps: int

    @property
    def coefficients(self) -> Floats:
        """lambda (P,)."""
        return self.whitening @ self.theta

    @property
    def penalty(self) -> Floats:
        """K (P, P) of theta: all but the constant."""
        return np.diag(np.where(np.arange(len(self.theta)) > 0, self.strength, 0.0))

    @cached_property
    def information(self) -> Floats:
        """J^T W J + K (P, P) of theta."""
        return self.slope.T @ self.slope + self.penalty

    @property
    def sensitivity(self) -> Floats:
        """Singular values (P,) of `slope`, falling; 0 for those that there are fewer moments for."""
        found = np.zeros(len(self.theta))
        s = linalg.svdvals(self.slope)
        found[: len(s)] = s
        return found

    @property
    def scores(self) -> Floats:
        """J^T W (P, M), of theta."""
        return self.slope.T @ self.root

    @property
    def estimator(self) -> Floats:
        """E (P, M), of lambda."""
        return np.asarray(self.whitening @ linalg.solve(self.information, self.scores, assume_a="pos"))

    def statistic(self, difference: Floats) -> Chi2:
        r"""J at the solution (M,).

        With a penalty, and log nu drawn from the prior that it stands for, J is a sum of chi-squareds with weights
        a_j = 1 - b_j, b_j the eigenvalues of J (J^T W J + K)^-1 J^T W: taken as a chi-squared, scaled, of
        (sum a)^2 / sum a^2 degrees of freedom (Satterthwaite).
        """
        value = float(np.sum((self.root @ difference) ** 2))
        hat = self.slope @ linalg.solve(self.information, self.slope.T, assume_a="pos")
        a = np.clip(1 - linalg.eigvalsh((hat + hat.T) / 2), 0, 1)
        if a.sum() < 1e-6:
            return Chi2(value, 0, np.nan)
        dof = a.sum() ** 2 / (a @ a)
        return Chi2(value, round(dof), float(special.chdtrc(dof, value * a.sum() / (a @ a))))


def whitening_of(what: str, basis: Basis, table: Table, weight: Floats) -> Floats:
    """R (K, K): the functions times R are 1, and of mean 0, variance 1 and uncorrelated, under abs(weight)."""
    size = np.abs(weight) / np.abs(weight).sum()
    second = np.zeros((len(basis), len(basis)))
    for rows in chunks(len(table), 2 * len(basis)):
        block = table.block(rows)
        second += (block * size[rows]) @ block.T
    mean = second[0, 1:]
    covariance = second[1:, 1:] - np.outer(mean, mean)
    sigma = np.sqrt(np.maximum(np.diag(covariance), 1e-300))
    _check_collinear(what, basis.names[1:], covariance / np.outer(sigma, sigma))
    found = np.eye(len(basis))
    found[1:, 1:] = linalg.inv(linalg.cholesky(covariance, lower=True)).T
    found[0, 1:] = -mean @ found[1:, 1:]
    return found


def _check_collinear(what: str, names: Sequence[str], correlation: Floats) -> None:
    values, vectors = linalg.eigh(correlation)
    if values[0] > _COLLINEAR:
        return
    worst = np.argsort(-np.abs(vectors[:, 0]))[:4]
    among = [names[k] for k in worst if np.abs(vectors[k, 0]) > 0.1 * np.abs(vectors[worst[0], 0])]
    raise ValueError(f"{what}: expected functions of which none is a sum of the others and a constant, found "
                     f"{int((values <= _COLLINEAR).sum())} combination(s) that vanish, among {', '.join(among)}; "
                     f"leave one out")  # fmt: skip


def _root(names: Sequence[str], covariance: Floats) -> Floats:
    """The matrix (M, M) that whitens moments of this covariance."""
    sigma = np.sqrt(np.diag(covariance))
    correlation = covariance / np.outer(sigma, sigma)
    _check_collinear("reco", names, correlation)
    return np.asarray(linalg.inv(linalg.cholesky(correlation, lower=True)) / sigma)


_Residual = Callable[[Floats], tuple[Floats, Floats]]


def minimised(residual: _Residual, start: Floats, most: int, tolerance: float) -> tuple[Floats, Floats, int]:
    """Levenberg-Marquardt on r(theta), J = dr/dtheta, with a line search: the end, J there, and the steps taken.

    It ends where the next step would move r, which is in standard deviations, by less than ``tolerance``.
    """
    theta = start
    r, slope = residual(theta)
    for number in range(most):
        step = _step(r, slope)
        ahead = float(np.linalg.norm(slope @ step))
        if ahead < tolerance:
            return theta, slope, number
        found = _searched(residual, theta, r, slope, step)
        if found is None:
            if ahead < 1e3 * tolerance:
                return theta, slope, number  # as far as rounding lets it
            break
        theta, r, slope = found
    raise NotConverged(
        f"match_moments: expected the moments to be matched within {most} steps, found the next one still of "
        f"{ahead:.2g} standard deviations, and weights whose logarithm has a root mean square of "
        f"{np.linalg.norm(theta[1:]):.3g}; the moments of the data may be out of reach of these weights (a spectrum "
        f"narrower than the resolution, say), or hardly depend on some functions of the truth: give strength=, fewer "
        f"functions of the truth, or more of the reco; or max_steps="
    )


def _step(r: Floats, slope: Floats) -> Floats:
    """The Gauss-Newton step, damped where it is longer than `_TRUST`."""
    u, s, vt = linalg.svd(slope, full_matrices=False)
    along, damping = u.T @ r, 0.0
    if s[-1] <= 1e-13 * s[0]:
        damping = (1e-6 * s[0]) ** 2
    while True:
        step = -vt.T @ (along * s / (s**2 + damping))
        if max(abs(step[0]), np.linalg.norm(step[1:])) <= _TRUST:
            return np.asarray(step)
        damping = max(2 * damping, 1e-3 * s[-1] ** 2, 1e-12 * s[0] ** 2)


def _searched(
    residual: _Residual, theta: Floats, r: Floats, slope: Floats, step: Floats
) -> tuple[Floats, Floats, Floats] | None:
    """The first of step, step/2, ... that lowers r^2 by a fair part of what its slope promises; None without any."""
    before, promised = float(r @ r), 2 * float(r @ slope @ step)
    for halvings in range(30):
        part = 0.5**halvings
        ahead = theta + part * step
        found, derivative = residual(ahead)
        with np.errstate(over="ignore", invalid="ignore"):
            after = float(found @ found)
        if after <= before + 1e-4 * part * promised:
            return ahead, found, derivative
    return None


def fitted(
    sample: MomentSample, whitening: Floats, names: tuple[str, ...], strength: float, most: int, tolerance: float
) -> MomentFit:
    """Both stages."""
    theta = np.zeros(len(whitening))
    theta[0] = np.log(sample.target[0] / sample.own.sum())  # the rate alone
    steps, damped = 0, np.sqrt(strength) * np.eye(len(theta))[1:]
    for stage in range(2):
        root = _root(names, sum_of(sample.covariances(whitening @ theta)))

        def residual(at: Floats, root: Floats = root) -> tuple[Floats, Floats]:
            total, slope = sample.moments(whitening @ at)
            with np.errstate(over="ignore", invalid="ignore"):
                r, j = root @ (total - sample.target), root @ slope @ whitening
            return np.concatenate([r, damped @ at]), np.concatenate([j, damped])

        if stage == 0:
            _check_sensitive(residual(theta)[1][: len(names)], strength)
        theta, slope, more = minimised(residual, theta, most, tolerance)
        steps += more
    return MomentFit(theta, whitening, root, slope[: len(names)], strength, steps)


def sum_of(covariances: Mapping[str, Floats]) -> Floats:
    """The sum over sources."""
    return np.asarray(sum(covariances.values()))


def _check_sensitive(slope: Floats, strength: float) -> None:
    """Raise where some weights leave all moments as they are."""
    if strength > 0:
        return
    s = linalg.svdvals(slope)
    if s[-1] <= 1e-9 * s[0]:
        raise ValueError(f"moments: expected them to depend on each function of the truth, found "
                         f"{int((s <= 1e-9 * s[0]).sum())} combination(s) that no moment of the reco tells; give "
                         f"strength=, fewer functions of the truth, or others of the reco")  # fmt: skip
