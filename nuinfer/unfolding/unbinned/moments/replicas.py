"""Bootstraps, solved all at once from the nominal answer."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import linalg

from ....errors import NotConverged
from ...samples import check_signal
from .fit import MomentFit, minimised
from .sample import MomentSample, Observed, multiplicities

__all__ = ["Bootstrap"]

Floats = NDArray[np.float64]
Keys = NDArray[np.int64]

_CHORD_STEPS = 30


@dataclass(frozen=True, eq=False)
class Bootstrap:
    """Replicas: multiplicities (R, N) of the simulation's reco rows, and what their moments (R, M) have to be."""

    sample: MomentSample
    fit: MomentFit
    times: NDArray[np.uint8]
    target: Floats

    @classmethod
    def of(cls, sample: MomentSample, fit: MomentFit, seed: int, replicas: int) -> Bootstrap:
        """With the multiplicities that `omnifold` gives."""
        times = multiplicities(sample.key, seed, replicas)
        fakes = Observed(sample.phi, -sample.weight * ~sample.signal, sample.key)
        target = np.zeros((replicas, len(fit.root)))
        for observed in (*sample.observed.values(), fakes):
            target += observed.bootstrapped(seed, replicas)
        check_signal(target[:, 0])
        return cls(sample, fit, times, target)

    def solve(self, most: int, tolerance: float) -> Floats:
        """Coefficients (R, P): all at once with the nominal derivatives; those that stay away by their own."""
        theta, left = np.tile(self.fit.theta, (len(self.times), 1)), np.arange(len(self.times))
        for _ in range(_CHORD_STEPS):
            step, size = self._steps(theta[left], left)
            theta[left] += step
            left = left[~(size <= tolerance)]  # NaN stays
            if not len(left):
                break
        for replica in left:
            theta[replica] = self._newton(int(replica), most, tolerance)
        return np.asarray(theta @ self.fit.whitening.T)

    def _steps(self, theta: Floats, which: Keys) -> tuple[Floats, Floats]:
        """Steps (R', P) with the nominal information, and their size (R',) in standard deviations."""
        with np.errstate(over="ignore", invalid="ignore"):
            found = self.sample.many_moments(theta @ self.fit.whitening.T, self.times[which])
            score = (self.target[which] - found) @ self.fit.scores.T - theta @ self.fit.penalty
            step = linalg.solve(self.fit.information, score.T, assume_a="pos", check_finite=False).T
            return step, np.sqrt(np.abs((step * score).sum(1)))

    def _newton(self, replica: int, most: int, tolerance: float) -> Floats:
        fit, own = self.fit, self.sample.own * self.times[replica]
        lower = linalg.cholesky(fit.information, lower=True)

        def residual(at: Floats) -> tuple[Floats, Floats]:
            total, slope = self.sample.moments(fit.whitening @ at, own)
            with np.errstate(over="ignore", invalid="ignore"):
                score = fit.scores @ (total - self.target[replica]) + fit.penalty @ at
                derivative = fit.scores @ slope @ fit.whitening + fit.penalty
            return _lowered(lower, score), _lowered(lower, derivative)

        try:
            return minimised(residual, fit.theta, most, tolerance)[0]
        except NotConverged as error:
            raise NotConverged(f"bootstrap replica {replica}: {error}") from None


def _lowered(lower: Floats, values: Floats) -> Floats:
    return np.asarray(linalg.solve_triangular(lower, values, lower=True, check_finite=False))
