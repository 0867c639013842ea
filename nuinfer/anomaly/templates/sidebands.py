"""The sidebands themselves as the background: what CWoLa takes.

A classifier of the signal region against the sidebands learns a monotone function of signal to background, whatever
the fractions are, if the background's features have one density in both.  Features that move with the mass break this:
then it learns to tell the regions apart.

Sources: Metodiev, Nachman, Thaler, arXiv:1708.02949; Collins, Howe, Nachman, arXiv:1902.02634.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray

from ...events import Events
from ...features import Features
from ..regions import Window
from .base import BackgroundTemplate, FittedTemplate, check_counts, check_sides, said

__all__ = ["Sidebands"]

_WORDS = (
    "The sidebands' events stand for the background: its features are assumed not to depend on the resonance variable. "
    "Where they do, the score follows the mass, and a cut on it sculpts the spectrum. A signal in the sidebands "
    "makes the search weaker, not wrong."
)


@dataclass(frozen=True, kw_only=True)
class Sidebands(BackgroundTemplate):
    """The data's own sidebands, of any features.

    Parameters
    ----------
    balance:
        Those below the signal region weigh as much as those above it, so that a dependence on the mass cancels to
        first order in the mean; otherwise all have their own weights.
    extrapolate:
        Allow sidebands on one side only.
    """

    balance: bool = True
    extrapolate: bool = False

    least: ClassVar[int] = 10

    def fit(
        self, events: Events, resonance: str, features: Features, window: Window, *, seed: int, folds: int = 1,
        device: str = "cpu", checkpoint: str | Path | None = None, progress: bool = True,
    ) -> FittedTemplate:  # fmt: skip
        """Select them; see `BackgroundTemplate.fit`."""
        mass = np.asarray(events.flat(resonance), np.float64)
        check_counts("events", mass, window, self.least)
        if not self.extrapolate:
            check_sides(window)
        inside = window.in_sidebands(mass)
        features.check(events, inside | window.in_signal(mass))
        reference = events.select(inside)
        if self.balance:
            reference = reference.with_weight(_balanced(reference.weight, mass[inside] < window.signal[0]))
        return FittedTemplate(reference=reference, words=said(_WORDS, window))


def _balanced(weight: NDArray[np.float64], below: NDArray[np.bool_]) -> NDArray[np.float64]:
    """Weights (N,) with the same sum below and above, and the total that there was."""
    sums = [float(weight[side].sum()) for side in (below, ~below)]
    if not below.any() or below.all():
        return weight
    if not min(sums) > 0:
        raise ValueError(f"events: expected a positive sum of weights in the sidebands below and above, found "
                         f"{sums[0]:g} and {sums[1]:g}")  # fmt: skip
    return np.asarray(weight * np.where(below, sum(sums) / 2 / sums[0], sum(sums) / 2 / sums[1]))
