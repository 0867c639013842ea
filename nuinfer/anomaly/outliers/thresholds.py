r"""The cut on a score that accepts a stated fraction of events, with what its sample leaves open.

The threshold t is the lowest accepted score of a sample of N events.  If it is the k-th largest, the fraction of
*other* events at or above it has a beta distribution of mean k/(N + 1), close to the sample's k/N.  Its standard
deviation is, with weights too,

.. math:: \sigma^2 = \frac{\sum_i w_i^2 (a_i - r)^2}{(\sum_i w_i)^2}, \qquad a_i = 1[s_i \ge t], \quad
          r = \sum_i w_i a_i \Big/ \sum_i w_i

which is :math:`r (1 - r)/N` without weights.  The sample must be one that the model has not been trained on, or scored
out of fold.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from ...errors import check_finite
from ...events import positive_total
from ...metrics import effective_size
from ...records import Record

__all__ = ["Threshold", "rate_threshold"]

Floats = NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class Threshold(Record):
    """A cut ``score >= value``.

    Attributes
    ----------
    value:
        Where it is.
    rate:
        The fraction that was asked for.
    accepted, error:
        That of the sample, at most ``rate``, and the standard error at which it holds for other events.
    low, high:
        Thresholds of the sample at ``accepted`` plus and minus its error.
    effective:
        Effective number of events of the sample, all of them.
    """

    _KIND = "anomaly threshold"

    value: float
    rate: float
    accepted: float
    error: float
    low: float
    high: float
    effective: float

    def accepts(self, score: ArrayLike) -> NDArray[np.bool_]:
        """Which scores (N,) pass; ``ValueError`` for those that are not finite."""
        found = np.asarray(score, np.float64)
        check_finite("score", np.atleast_1d(found))
        return np.asarray(found >= self.value)

    def __repr__(self) -> str:
        where = f"score >= {self.value:.6g}, in ({self.low:.6g}, {self.high:.6g})"
        return f"Threshold({where}; accepts {self.accepted:.4g} +- {self.error:.2g}, {self.rate:g} asked for)"


def rate_threshold(score: ArrayLike, rate: float, *, weight: ArrayLike | None = None) -> Threshold:
    """The lowest threshold at which at most a fraction ``rate`` of the weight passes, there and at all higher ones.

    Parameters
    ----------
    score:
        Scores (N,); large ones are accepted.
    rate:
        Between 0 and 1: of 40 MHz, 1 kHz is 2.5e-5.
    weight:
        Of any sign (N,), with a positive sum.

    Raises
    ------
    ValueError
        for a rate outside of (0, 1), one that accepts less than one effective event, or none since scores are tied at
        the top, scores that are not finite, or weights of another length or without a positive sum.

    >>> found = rate_threshold(np.arange(1000.0), 0.05)
    >>> found.value, found.accepted, round(found.error, 4)
    (950.0, 0.05, 0.0069)
    """
    s = np.asarray(score, np.float64)
    w = np.ones(s.shape) if weight is None else np.asarray(weight, np.float64)
    if s.ndim != 1 or w.shape != s.shape:
        raise ValueError(f"rate_threshold: expected scores (N,) and weights (N,), found {s.shape} and {w.shape}")
    check_finite("score", s)
    check_finite("weight", w)
    total, size = positive_total("weight", w), float(effective_size(w))
    if not 0 < rate < 1:
        raise ValueError(f"rate: expected an accepted fraction between 0 and 1, found {rate!r}")
    if rate * size < 1:
        raise ValueError(f"rate: expected at least one event above the threshold, found {rate * size:.2g}, "
                         f"a fraction of {rate:g} of {size:.4g} effective events; give more of them")  # fmt: skip
    values, places = np.unique(-s, return_inverse=True)  # the largest first
    values, above = -values, np.bincount(places, w) / total
    above = np.maximum.accumulate(np.cumsum(above))  # the largest share at or above each value, or any higher one
    value = _cut(values, above, rate)
    passes = s >= value
    accepted = float(w[passes].sum() / total)
    if not accepted > 0:
        raise ValueError(f"rate: expected one at which something passes, found {rate:g}: the largest score, "
                         f"{values[0]:.6g}, is that of the fraction {above[0]:.4g} of the weight; break ties, or give "
                         f"more events")  # fmt: skip
    error = float(np.sqrt(np.sum((w * (passes - accepted)) ** 2))) / total
    low, high = (_cut(values, above, r) for r in (accepted + error, accepted - error))
    return Threshold(value, float(rate), accepted, error, low, high, size)


def _cut(values: Floats, above: Floats, rate: float) -> float:
    """The threshold among falling ``values`` with shares ``above`` that stay at or below ``rate``."""
    count = int(np.searchsorted(above, rate * (1 + 1e-12), side="right"))
    return float(values[count - 1] if count else np.nextafter(values[0], np.inf))
