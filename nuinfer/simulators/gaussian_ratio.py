r"""Two Gaussian classes, of vectors or of point clouds, whose log density ratio is known.

.. math:: \log r(x) = \log N(x; m_1, C_1) - \log N(x; m_0, C_0)

For N(+1, 1) against N(-1, 1) this is 2x.  A cloud of n independent particles, n Poisson of mean :math:`\lambda`, has

.. math:: \log r = \sum_{i=1}^n \log r(x_i) + n \log\frac{\lambda_1}{\lambda_0} - (\lambda_1 - \lambda_0)

(the ratio of extended likelihoods; Barlow, Nucl. Instrum. Meth. A 297 (1990) 496), a function that a DeepSet can
represent exactly.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import special

from ..events import Events, Ragged, offsets_of
from .gaussian import Gaussian, check_negative, columns_of, count, generator, matrix_of, signs

__all__ = ["CloudRatio", "GaussianRatio"]

Floats = NDArray[np.float64]


@dataclass(frozen=True, eq=False, kw_only=True)
class GaussianRatio:
    r"""N(m1, C1) against N(m0, C0) in D dimensions, columns ``x0``, ``x1``, ...; the default has log r = 2x.

    Parameters
    ----------
    p1, p0:
        The densities of numerator and denominator (their totals play no part).
    negative:
        Signed weights: an event at x is negative with probability :math:`a(x) = \mathtt{negative} / (1 + e^{-x_0})`,
        and all weights there are :math:`\pm 1/(1 - 2 a(x))`, so that E[w | x] = 1 and the weighted density, hence the
        ratio, is unchanged.  Below 0.5.
    spread:
        The relative standard deviation of a further, log-normal factor of mean 1 that does not depend on x.

    Examples
    --------
    >>> problem = GaussianRatio(negative=0.2, spread=0.5)
    >>> numerator, denominator = problem.numerator(1000, seed=1), problem.denominator(1000, seed=1)
    >>> bool((numerator.weight < 0).any()), 800 < numerator.sum_weights < 1200
    (True, True)
    >>> problem.log_ratio([-1.0, 0.0, 0.5]).tolist()
    [-2.0, 0.0, 1.0]
    """

    p1: Gaussian = field(default_factory=lambda: Gaussian(1.0, 1.0))
    p0: Gaussian = field(default_factory=lambda: Gaussian(-1.0, 1.0))
    negative: float = 0.0
    spread: float = 0.0

    def __post_init__(self) -> None:
        if self.p1.dim != self.p0.dim:
            raise ValueError(f"expected densities of one dimension, found {self.p1.dim} and {self.p0.dim}")
        check_negative(self.negative)
        if not 0 <= self.spread < np.inf:
            raise ValueError(f"spread: expected a relative standard deviation from 0, found {self.spread}")

    def numerator(self, n: int, seed: int) -> Events:
        """``n`` events of p1, of expected total weight n."""
        return self._sample(self.p1, n, generator("ratio numerator", seed))

    def denominator(self, n: int, seed: int) -> Events:
        """``n`` events of p0, of expected total weight n; independent of ``numerator`` at the same seed."""
        return self._sample(self.p0, n, generator("ratio denominator", seed))

    def log_ratio(self, x: Events | ArrayLike) -> Floats:
        r"""The exact log p1(x)/p0(x): Events, or (\*, D) -> (\*); in one dimension (N,) are N points."""
        at = matrix_of(x, "x", self.p1.dim)
        return np.asarray(self.p1.log_density(at) - self.p0.log_density(at) - np.log(self.p1.total / self.p0.total))

    def flip_probability(self, x: Events | ArrayLike) -> Floats:
        r"""The probability a(x) of a negative weight: Events, or (\*, D) -> (\*)."""
        return np.asarray(self.negative * special.expit(matrix_of(x, "x", self.p1.dim)[..., 0]))

    def _sample(self, density: Gaussian, n: int, rng: np.random.Generator) -> Events:
        x = density.sample(count("n", n), rng)
        log_variance = np.log1p(self.spread**2)
        factor = np.exp(np.sqrt(log_variance) * rng.standard_normal(n) - log_variance / 2)
        return Events(columns_of("x", x), weight=signs(rng, self.flip_probability(x), n) * factor)


@dataclass(frozen=True, eq=False, kw_only=True)
class CloudRatio:
    """Clouds of independent particles, N(m1, C1) against N(m0, C0), ragged columns ``hits.x0``, ``hits.x1``, ...

    Parameters
    ----------
    p1, p0:
        The densities of a particle in numerator and denominator (their totals play no part).
    size1, size0:
        The mean number of particles in an event; Poisson, so that events may be empty.
    fixed:
        Exactly ``size1 = size0`` particles in each event instead.

    Examples
    --------
    >>> problem = CloudRatio(size1=4.0, size0=3.0)
    >>> events = problem.numerator(3, seed=1)
    >>> events["hits.x0"].counts.tolist()
    [3, 7, 6]
    >>> problem.log_ratio(events).shape
    (3,)
    """

    p1: Gaussian = field(default_factory=lambda: Gaussian(0.2, 1.0))
    p0: Gaussian = field(default_factory=lambda: Gaussian(-0.2, 1.0))
    size1: float = 10.0
    size0: float = 10.0
    fixed: bool = False

    def __post_init__(self) -> None:
        if self.p1.dim != self.p0.dim:
            raise ValueError(f"expected densities of one dimension, found {self.p1.dim} and {self.p0.dim}")
        if not min(self.size1, self.size0) > 0:
            raise ValueError(f"expected positive mean sizes, found {self.size1} and {self.size0}")
        if self.fixed and not self.size1 == self.size0 == int(self.size0):
            raise ValueError(
                f"fixed sizes: expected one whole number for both classes (others give an infinite ratio), "
                f"found {self.size1} and {self.size0}"
            )

    def numerator(self, n: int, seed: int) -> Events:
        """``n`` events of the numerator, of weight 1."""
        return self._sample(self.p1, self.size1, n, generator("cloud numerator", seed))

    def denominator(self, n: int, seed: int) -> Events:
        """``n`` events of the denominator, of weight 1; independent of ``numerator`` at the same seed."""
        return self._sample(self.p0, self.size0, n, generator("cloud denominator", seed))

    def log_ratio(self, events: Events) -> Floats:
        """The exact log p1/p0 of each event (N,): the sum over its particles, and the Poisson term of their number."""
        hits = [events.ragged(f"hits.x{i}") for i in range(self.p1.dim)]
        x = np.stack([column.values for column in hits], axis=-1).astype(np.float64)
        each = self.p1.log_density(x) - self.p0.log_density(x) - np.log(self.p1.total / self.p0.total)
        counts = hits[0].counts
        total = np.bincount(np.repeat(np.arange(len(counts)), counts), each, minlength=len(counts))
        return np.asarray(total + counts * np.log(self.size1 / self.size0) - (self.size1 - self.size0))

    def _sample(self, density: Gaussian, size: float, n: int, rng: np.random.Generator) -> Events:
        n = count("n", n)
        counts = np.full(n, int(size)) if self.fixed else rng.poisson(size, n)
        offsets = offsets_of(counts)
        particles = columns_of("hits.x", density.sample(int(offsets[-1]), rng))
        return Events({name: Ragged(values, offsets) for name, values in particles.items()})
