"""Credible regions of highest density, and intervals of single parameters, from draws.

The region of content c is {theta: q(theta | x) >= t}, with t the (1 - c) quantile of the density at draws from it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import ArrayLike, NDArray

from ..events import Events

if TYPE_CHECKING:
    from .base import Posterior

__all__ = ["CredibleRegion"]

Floats = NDArray[np.float64]

_SLACK = 1e-4  # of a log density: networks are evaluated in float32, and the same point differs a little by its company


@dataclass(frozen=True, eq=False)
class CredibleRegion:
    """Made by `Posterior.credible_region`.

    Attributes
    ----------
    names, levels:
        P parameters, L contents.
    draws:
        Of theta (M, P), and their log densities ``log_prob`` (M,).
    thresholds:
        The log density at the edge of each region (L,).
    threshold_errors:
        Their standard errors by the number of draws (L,).
    mean, standard_deviation, median:
        Of each parameter (P,).
    shortest, central:
        Intervals of each parameter (L, P, 2): the shortest with the content, and the one with equal tails.
    """

    names: tuple[str, ...]
    levels: tuple[float, ...]
    draws: Floats
    log_prob: Floats
    thresholds: Floats
    threshold_errors: Floats
    mean: Floats
    standard_deviation: Floats
    median: Floats
    shortest: Floats
    central: Floats
    posterior: Posterior
    observation: Events

    def contains(self, theta: ArrayLike) -> NDArray[np.bool_]:
        """Whether points (M, P) lie in the region of each level (L, M).

        Within rounding, 10^-4 in log q: the ``draws`` of the region lie inside however they are asked about.
        """
        edge = self.thresholds - _SLACK * np.maximum(1.0, 0.01 * np.abs(self.thresholds))
        found: NDArray[np.bool_] = self.posterior.log_prob(theta, self.observation) >= edge[:, None]
        return found

    def __str__(self) -> str:
        lines = []
        for i, name in enumerate(self.names):
            parts = [f"{100 * level:g}% [{low:.4g}, {high:.4g}]"
                     for level, (low, high) in zip(self.levels, self.shortest[:, i], strict=True)]  # fmt: skip
            lines.append(f"{name}: {self.mean[i]:.4g} +- {self.standard_deviation[i]:.3g}; shortest {', '.join(parts)}")
        return "\n".join(lines)


def credible_region(
    names: tuple[str, ...], draws: Floats, log_prob: Floats, levels: Sequence[float], posterior: Posterior,
    observation: Events,
) -> CredibleRegion:  # fmt: skip
    """The regions of draws (M, P) with their log densities (M,)."""
    found = tuple(float(level) for level in levels)
    if not found or not all(0 < level < 1 for level in found):
        raise ValueError(f"levels: expected contents between 0 and 1, found {list(levels)}")
    cuts = 1 - np.array(found)
    tails = np.stack([cuts / 2, 1 - cuts / 2])
    return CredibleRegion(
        names, found, draws, log_prob, np.quantile(log_prob, cuts), _quantile_errors(log_prob, cuts), draws.mean(0),
        draws.std(0, ddof=1), np.median(draws, 0), np.stack([_shortest(draws, level) for level in found]),
        np.moveaxis(np.quantile(draws, tails, axis=0), 0, -1), posterior, observation,
    )  # fmt: skip


def _shortest(draws: Floats, level: float) -> Floats:
    """The shortest interval with the content ``level`` of each column, (P, 2)."""
    ordered = np.sort(draws, 0)
    size = min(int(np.ceil(level * len(ordered))), len(ordered) - 1)
    width = ordered[size:] - ordered[:-size]
    first = width.argmin(0)
    columns = np.arange(ordered.shape[1])
    return np.stack([ordered[first, columns], ordered[first + size, columns]], 1)


def _quantile_errors(values: Floats, at: Floats) -> Floats:
    """Standard errors of quantiles from the order statistics one binomial deviation to either side."""
    spread = np.sqrt(at * (1 - at) / len(values))
    low, high = (np.quantile(values, np.clip(at + sign * spread, 0, 1)) for sign in (-1, 1))
    return np.asarray((high - low) / 2)
