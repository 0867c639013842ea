r"""ANODE: the ratio of two densities, that of the data in the signal region over the interpolated background's.

.. math:: R(x, m) = \frac{p_\mathrm{data}(x | m)}{p_\mathrm{background}(x | m)}

with a flow fitted to the signal region above and one fitted to the sidebands, interpolated, below.  It is a finished
score: no classifier is trained.  With a local fraction f of signal its logarithm is
:math:`\log(1 - f + f\,p_S(x)/p_B(x|m))`; the errors of two densities are in it.

The flow above knows nothing of masses outside of the signal region.  Events there are scored with both densities at a
random mass of the signal region, as if by a classifier that does not see the mass, and all events, new ones too, by one
fold's flow: errors of the densities, which let background pass a cut, are then alike on either side of its borders, and
what passes can be fitted.

Source: Nachman, Shih, arXiv:2001.04990.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from ... import hashing
from ...density import Density
from ...errors import check_finite
from ...events import Events
from ...features import Features
from ..regions import Interval, Window
from .base import FittedTemplate, check_bounds, part_of, said
from .interpolation import FlowTemplate, SidebandDensity

__all__ = ["Anode"]

_WORDS = (
    "The score is the ratio of the density of the data in the signal region, out of fold, to that of the sidebands, "
    "which is assumed to change smoothly across the signal region. Errors of both densities are in it: a narrow "
    "signal that the first one does not resolve is hidden. Events in the sidebands are scored as if they were in the "
    "signal region, at random masses."
)


@dataclass(frozen=True, eq=False)
class _Score:
    """The two densities."""

    data: Density
    background: SidebandDensity
    spec: FlowTemplate
    region: Interval
    seed: int

    def log_ratio(self, events: Events) -> NDArray[np.float64]:
        """log R (N,)."""
        density, name = self.background.density, self.background.resonance
        check_bounds(events, list(density.columns), self.spec.bounds, self.spec.discrete)
        mass = np.asarray(events.flat(name), np.float64)
        check_finite(f"column {name!r}", mass)
        random = self.background.spectrum.quantiles(self.region, hashing.uniform(events.id, self.seed, "anode mass"))
        inside = (mass >= self.region[0]) & (mass < self.region[1])
        there = events.with_columns({name: np.where(inside, mass, random)})
        own = replace(self.data, known=np.unique(events.id))  # no mean over folds, which is smoother, for new events
        return np.asarray(own.log_prob(there) - density.log_prob(there))


@dataclass(frozen=True, kw_only=True)
class Anode(FlowTemplate):
    """A ratio of two flows; for flat features.  Options: `FlowTemplate`.

    Raises
    ------
    ValueError
        in ``fit`` for fewer than two folds: events of the signal region train the density that they are scored by.
    """

    def fit(
        self, events: Events, resonance: str, features: Features, window: Window, *, seed: int, folds: int = 1,
        device: str = "cpu", checkpoint: str | Path | None = None, progress: bool = True,
    ) -> FittedTemplate:  # fmt: skip
        """Learn both densities; see `BackgroundTemplate.fit`."""
        if folds < 2:
            raise ValueError(f"folds: expected at least 2, found {folds}; an event of the signal region is not to be "
                             f"scored by a density that saw it")  # fmt: skip
        background = self.learn(
            events, resonance, features, window, seed=seed, device=device, checkpoint=checkpoint, progress=progress
        )
        data = self.fitted(
            events.select(background.regions.signal), list(features.flat), resonance, folds=folds, device=device,
            seed=hashing.salt(seed, "anode") >> 1, checkpoint=part_of(checkpoint, "signal"), progress=progress,
        )  # fmt: skip
        return FittedTemplate(
            reference=background.reference(window, self.oversample, seed),
            words=said(f"{_WORDS} {background.words}", window),
            log_ratio=_Score(data, background, self, window.signal, seed).log_ratio,
            draw=background.draw, spectrum=background.spectrum,
        )  # fmt: skip
