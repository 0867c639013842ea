r"""SALAD: a simulation, corrected by what the sidebands teach.

A classifier of data against simulation in the sidebands learns :math:`w(x, m) = p_\mathrm{data}/p_\mathrm{simulation}`
as a function of features and mass; the simulated events of the signal region get the weights :math:`w`, interpolated in
the mass.  Only the *difference* of data and simulation has to be interpolated, which is smooth even where both are not.

Source: Andreassen, Nachman, Shih, arXiv:2001.05001.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np

from ... import hashing
from ...errors import missing
from ...events import Events
from ...features import Features
from ...nets import MLP, Network
from ...ratio import Ratio, fit_ratio
from ...train import Training
from ..regions import Window
from .base import BackgroundTemplate, FittedTemplate, check_counts, regions_of, said

__all__ = ["Salad"]

_WORDS = (
    "Simulated events, weighted by a ratio of data to simulation that was learned in the sidebands, stand for the "
    "background: the simulation's error is assumed to change smoothly across the signal region, and the simulation to "
    "have events wherever the data have them. What it lacks there is taken for signal."
)


@dataclass(frozen=True, kw_only=True, eq=False)
class Salad(BackgroundTemplate):
    """A simulation, reweighted; for any features.

    Parameters
    ----------
    simulation:
        Background events with the features and the resonance variable, in signal region and sidebands; weights of any
        sign.
    network, members, training:
        Of `nuinfer.ratio.fit_ratio`; not trees, which cannot interpolate.
    extrapolate:
        Allow sidebands on one side only.
    """

    simulation: Events
    network: Network = field(default_factory=MLP)
    members: int = 1
    training: Training = field(default_factory=Training)
    extrapolate: bool = False

    def fit(
        self, events: Events, resonance: str, features: Features, window: Window, *, seed: int, folds: int = 1,
        device: str = "cpu", checkpoint: str | Path | None = None, progress: bool = True,
    ) -> FittedTemplate:  # fmt: skip
        """Learn the ratio, and weight the simulation; see `BackgroundTemplate.fit`."""
        regions = regions_of(events, resonance, features, window, least=self.least, extrapolate=self.extrapolate)
        signal, sidebands = self._parts(resonance, features, window)
        ratio = fit_ratio(
            events.select(regions.sidebands), sidebands, Features((*features.flat, resonance), **dict(features.clouds)),
            network=self.network, members=self.members, validation=0.2 if self.training.patience else 0.0,
            training=self.training, seed=seed, device=device, checkpoint=checkpoint, progress=progress,
        )  # fmt: skip
        return FittedTemplate(reference=_weighted(signal, ratio, seed), words=said(_WORDS, window))

    def mapped(self, transform: Callable[[Events], Events]) -> Salad:
        """With the simulation transformed too."""
        return replace(self, simulation=transform(self.simulation))

    def _parts(self, resonance: str, features: Features, window: Window) -> tuple[Events, Events]:
        """The simulation in the signal region and in the sidebands, checked."""
        for name in (resonance, *features.columns):
            if name not in self.simulation:
                raise missing("column of the simulation", name, self.simulation.columns)
        mass = np.asarray(self.simulation.flat(resonance), np.float64)
        check_counts("simulated events", mass, window, self.least)
        inside = window.in_signal(mass), window.in_sidebands(mass)
        features.check(self.simulation, inside[0] | inside[1])
        kept = self.simulation.keep([resonance, *features.columns])
        return kept.select(inside[0]), kept.select(inside[1])


def _weighted(simulation: Events, ratio: Ratio, seed: int) -> Events:
    """The simulation with the data's shape and rate, and ids of its own."""
    rate = ratio.yields.numerator / ratio.yields.denominator
    weight = simulation.weight * ratio.weights(simulation) * rate
    columns = {name: simulation[name] for name in simulation.columns}
    ids = hashing.bits(simulation.id, "simulation", seed).view(np.int64)  # copies of one event stay together
    return Events(columns, weight=weight, id=ids)
