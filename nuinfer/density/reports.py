r"""What a density's report says.

Where y is drawn from q(y | x), the rank of y among L draws of q(. | x) is uniform on 0 .. L, column by column: the
probability integral transform.  A hump in the middle says that q is too wide, two at the ends too narrow, a slope that
it is shifted.

Sources: Rosenblatt, Ann. Math. Stat. 23 (1952) 470; Dawid, J. R. Stat. Soc. A 147 (1984) 278; Talts et al.,
arXiv 1804.06788.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from .. import metrics
from ..events import Events, positive_total

__all__ = ["DensityReport"]

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class DensityReport:
    """What `Density.report` found on events that the density should not have seen.

    Attributes
    ----------
    columns:
        The D columns of y.
    mean_log_prob, mean_log_prob_error:
        The weighted mean of log q, and its sampling error.
    outside:
        Fraction of the weight where q is 0; those events are left out of the mean.
    ranks:
        Of the N observed values among ``draws`` samples each (D, N).
    p_values:
        Of the hypothesis that the ranks of a column are uniform (D,).
    shift:
        How far the weighted mean of a column's ranks is from the middle, in standard deviations (D,).
    spread:
        Root mean square of the ranks about the middle, 1 for uniform ones (D,): below 1 q is too wide.
    """

    columns: tuple[str, ...]
    mean_log_prob: float
    mean_log_prob_error: float
    outside: float
    ranks: NDArray[np.int64]
    draws: int
    p_values: Floats
    shift: Floats
    spread: Floats

    def __str__(self) -> str:
        lost = f"; q is 0 for {self.outside:.3g} of the weight" if self.outside else ""
        lines = [f"mean log q = {self.mean_log_prob:.4f} +- {self.mean_log_prob_error:.4f}{lost}"]
        for name, p, shift, spread in zip(self.columns, self.p_values, self.shift, self.spread, strict=True):
            lines.append(f"{name}: ranks uniform p = {p:.3g}, mean off by {shift:+.1f} sigma, spread {spread:.3f} of "
                         f"a uniform one")  # fmt: skip
        return "\n".join(lines)


def report_of(
    columns: tuple[str, ...], events: Events, log_q: Floats, sampled: Events, draws: int, seed: int
) -> DensityReport:
    """The report of N events, their log q (N,), and N x ``draws`` samples of the columns."""
    weight = events.weight
    total = positive_total("events", weight)
    inside = np.isfinite(log_q)
    w, own = weight[inside], log_q[inside]
    mean = float(w @ own / w.sum()) if len(own) else -np.inf
    error = float(np.sqrt(np.sum((w * (own - mean)) ** 2)) / w.sum()) if len(own) else np.nan
    ranks = np.stack(
        [
            metrics.ranks(np.asarray(sampled[n], np.float64).reshape(-1, draws), events.flat(n), seed=seed)
            for n in columns
        ]
    )
    p_values = np.array([metrics.rank_uniformity(r, draws, weight=weight) for r in ranks])
    centred = (ranks + 0.5) / (draws + 1) - 0.5  # of a uniform number: mean 0, variance 1/12
    shift = centred @ weight / np.sqrt(weight @ weight / 12)
    spread = np.sqrt(np.maximum(12 * (centred**2) @ weight / total, 0))
    outside = float(weight[~inside].sum() / total)
    return DensityReport(columns, mean, error, outside, ranks, draws, p_values, shift, spread)
