r"""A falling exponential with an excess: the one-dimensional benchmark of goodness-of-fit tests, with its exact answer.

.. math:: n(x | 0) = B \, a \, e^{-a x}, \qquad n(x | 1) = n(x | 0) + S \, q(x), \qquad
    \log r(x) = \log \frac{n(x | 1)}{n(x | 0)}

with B = 2000 and a = 8 in the benchmark, and q either a peak N(m, s^2) or :math:`\tfrac12 a^3 x^2 e^{-a x}`, a broad
excess.  No test of n(x | 0) is more powerful against n(x | 1) than their likelihood ratio (Neyman and Pearson),
:math:`T = \sum_i \log r(x_i)`, a compound Poisson sum whose distribution is the inverse Fourier transform of
:math:`\exp(\int n(x | h) (e^{i \omega \log r(x)} - 1) dx)`: `ExponentialBump.z` is the median of its significance.

Source: D'Agnolo, Wulzer, arXiv 1806.02350, section 3.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import special

from ..events import Events
from .gaussian import generator

__all__ = ["ExponentialBump"]

Floats = NDArray[np.float64]

_GRID = 1 << 16


@dataclass(frozen=True, kw_only=True)
class ExponentialBump:
    """A falling exponential of ``expected`` events, column ``x``, and what is added to it in the data.

    Parameters
    ----------
    expected, slope:
        B and a.
    excess:
        S, the expected number of further events; 0 for none.
    shape:
        ``"peak"``, a normal density of ``mean`` and ``sd``, or ``"broad"``, a gamma density of order 3 and rate a.

    Raises
    ------
    ValueError
        for numbers that are not positive (S: negative), or another shape.

    Examples
    --------
    >>> problem = ExponentialBump(excess=90.0, mean=0.2)
    >>> reference, data = problem.reference(200_000, seed=1), problem.data(seed=2)
    >>> round(reference.sum_weights), len(data)
    (2000, 2123)
    >>> problem.log_ratio([0.1, 0.2]).round(3).tolist()
    [0.0, 0.442]
    >>> round(problem.z(), 1)
    5.6
    """

    expected: float = 2000.0
    slope: float = 8.0
    excess: float = 0.0
    shape: Literal["peak", "broad"] = "peak"
    mean: float = 0.8
    sd: float = 0.02

    def __post_init__(self) -> None:
        if not min(self.expected, self.slope, self.sd) > 0 or not self.excess >= 0:
            raise ValueError(f"ExponentialBump: expected positive numbers of events, slope and sd, found {self}")
        if self.shape not in ("peak", "broad"):
            raise ValueError(f"shape: expected 'peak' or 'broad', found {self.shape!r}")

    def reference(self, n: int, seed: int) -> Events:
        """``n`` events without the excess, of one weight and the total B."""
        x = generator("exponential reference", seed).exponential(1 / self.slope, n)
        return Events({"x": x}, weight=np.full(n, self.expected / n))

    def data(self, seed: int) -> Events:
        """Poisson numbers of events with the excess, of weight 1."""
        return self.draw(generator("exponential data", seed))

    def draw(self, rng: np.random.Generator) -> Events:
        """`data` from a generator."""
        x = rng.exponential(1 / self.slope, rng.poisson(self.expected))
        return Events({"x": np.concatenate([x, self._signal(rng.poisson(self.excess), rng)])})

    def rate(self, x: ArrayLike, *, excess: bool = True) -> Floats:
        """n(x | 1), or n(x | 0) without the ``excess``, events per unit of x (*)."""
        at = np.asarray(x, np.float64)
        background = self.expected * self.slope * np.exp(-self.slope * at)
        return np.asarray(np.where(at >= 0, background, 0.0) + (self.excess * self._density(at) if excess else 0.0))

    def log_ratio(self, x: Events | ArrayLike) -> Floats:
        """log n(x | 1)/n(x | 0), infinite below 0; Events, or (*)."""
        at = np.asarray(x.flat("x") if isinstance(x, Events) else x, np.float64)
        with np.errstate(divide="ignore"):
            return np.asarray(np.log1p(self.excess * self._density(at) / self.rate(at, excess=False)))

    def z(self) -> float:
        """The median significance of the exact likelihood-ratio test, one-sided, good up to 7 sigma."""
        if not self.excess:
            return 0.0
        step, x = self._points()
        log_r = self.log_ratio(x)
        width = 40 * np.sqrt((self.rate(x) * log_r**2).sum() * step) + 20 * log_r.max()
        null, other = (self._cumulative(self.rate(x, excess=e) * step, log_r, width) for e in (False, True))
        tail = null[-1] - np.interp(0.5, other, null)  # the null's cumulative where the other one's is a half
        return float(-special.ndtri(max(tail, 1e-300)))

    def _signal(self, n: int, rng: np.random.Generator) -> Floats:
        return rng.normal(self.mean, self.sd, n) if self.shape == "peak" else rng.gamma(3.0, 1 / self.slope, n)

    def _density(self, x: Floats) -> Floats:
        if self.shape == "peak":
            return np.asarray(np.exp(-0.5 * ((x - self.mean) / self.sd) ** 2) / (self.sd * np.sqrt(2 * np.pi)))
        return np.asarray(0.5 * self.slope**3 * x**2 * np.exp(-self.slope * x) * (x >= 0))

    def _points(self) -> tuple[float, Floats]:
        """The middles of bins from 0 to where nothing is left."""
        end = max(60 / self.slope, self.mean + 10 * self.sd if self.shape == "peak" else 0.0)
        step = end / _GRID
        return step, np.asarray((np.arange(_GRID) + 0.5) * step, np.float64)

    @staticmethod
    def _cumulative(mean: Floats, log_r: Floats, width: float) -> Floats:
        """P(T <= t) on a grid from 0 to ``width``, for ``mean`` events in each bin of x; T has no negative terms."""
        at = np.rint(log_r / width * _GRID).astype(np.int64)
        jumps = np.fft.rfft(np.bincount(at, mean, _GRID))
        law = np.fft.irfft(np.exp(jumps - mean.sum()), _GRID)
        return np.cumsum(law)
