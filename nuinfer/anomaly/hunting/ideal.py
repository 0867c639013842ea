"""The idealised search: the background in the signal region is known, as no data tell it.

What a search with a perfect template would reach, to compare templates with.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from ... import hashing
from ...events import Events
from ...features import Features
from ..regions import Window
from ..templates.base import BackgroundTemplate, FittedTemplate

__all__ = ["Ideal"]


@dataclass(frozen=True, eq=False)
class Ideal(BackgroundTemplate):
    """A template for studies: background events, other ones than those in the data, as the reference.

    Parameters
    ----------
    background:
        Weighted events with the features and the resonance variable; those in the signal region are used.

    Raises
    ------
    ValueError
        for none in the signal region.
    """

    background: Events

    def fit(
        self, events: Events, resonance: str, features: Features, window: Window, *, seed: int, folds: int = 1,
        device: str = "cpu", checkpoint: str | Path | None = None, progress: bool = True,
    ) -> FittedTemplate:  # fmt: skip
        """Select them; see `BackgroundTemplate.fit`."""
        inside = window.in_signal(self.background.flat(resonance))
        if not inside.any():
            raise ValueError(f"background: expected events in the signal region {window.signal}, found none of "
                             f"{len(inside)}")  # fmt: skip
        chosen = self.background.select(inside).keep([resonance, *features.columns])
        ids = hashing.bits(chosen.id, "ideal").view("int64")
        own = Events({name: chosen[name] for name in chosen.columns}, weight=chosen.weight, id=ids)
        return FittedTemplate(reference=own, words="the background is known: an ideal that no search on data reaches")
