"""The density of the features given the resonance variable, learned in the sidebands, interpolated between them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from ... import hashing
from ...density import NSF, Density, fit_density
from ...density.columns import Bounds
from ...density.flows import Flow
from ...events import Events
from ...features import Features
from ...train import Training
from ..bump.shapes import BackgroundShape, Exponential
from ..regions import Window
from .base import BackgroundTemplate, Regions, check_bounds, flat_of, fresh_ids, part_of, regions_of
from .spectrum import MassSpectrum, fit_spectrum

__all__ = ["FlowTemplate", "SidebandDensity"]

Floats = NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class SidebandDensity:
    """p(x | m) and p(m) of the background; made by `FlowTemplate.learn`.

    Attributes
    ----------
    density:
        Of the features, given the resonance variable.
    resonance:
        Its column.
    spectrum:
        Its own density.
    regions:
        Of the data that it was learned from.
    """

    density: Density
    resonance: str
    spectrum: MassSpectrum
    regions: Regions

    def draw(self, mass: Floats, seed: int) -> Events:
        """One background event for each mass (N,)."""
        ids = fresh_ids(len(mass), seed)
        given = Events({self.resonance: mass}, id=ids)
        drawn = self.density.sample(len(mass), given, seed=seed)
        columns = {name: drawn[name] for name in drawn.columns}
        return Events({**columns, self.resonance: given[self.resonance]}, id=ids)

    def masses(self, window: Window, oversample: float, seed: int) -> tuple[Floats, float]:
        """Masses (N,) in the signal region, ``oversample`` times as many as are expected, and the weight of each."""
        expected = self.spectrum.expected(window.signal)
        n = max(round(oversample * expected), 1)
        return self.spectrum.sample(window.signal, n=n, seed=seed), expected / n

    def reference(self, window: Window, oversample: float, seed: int) -> Events:
        """Drawn events in the signal region, whose weights sum to the expected number."""
        mass, weight = self.masses(window, oversample, seed)
        return self.draw(mass, hashing.salt(seed, "template reference") >> 1).with_weight(weight)

    @property
    def words(self) -> str:
        """What is to be said of the spectrum."""
        poor = "; the fit is poor: another shape is needed" if self.spectrum.p < 1e-3 else ""
        return (f"Masses are drawn from a fit of {type(self.spectrum.shape).__name__} to the sidebands "
                f"(p = {self.spectrum.p:.2g}{poor}).")  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class FlowTemplate(BackgroundTemplate):
    """What templates with a density have in common.

    Parameters
    ----------
    network, members, training:
        Of `nuinfer.density.fit_density`.  Sidebands are large samples of few columns: with more than one flow the
        reference is drawn from all of them.
    bounds, discrete:
        Of the features, as there: ``{"tau": (0, 1)}``.
    shape:
        Of the spectrum of the resonance variable.
    oversample:
        Reference events per expected event of the signal region.
    extrapolate:
        Allow sidebands on one side only.
    """

    network: Flow = field(default_factory=NSF)
    members: int = 1
    training: Training = field(default_factory=lambda: Training(epochs=20, batch=512, average=1.0))
    bounds: Mapping[str, Bounds] = field(default_factory=dict)
    discrete: tuple[str, ...] = ()
    shape: BackgroundShape = field(default_factory=lambda: Exponential(2))
    oversample: float = 4.0
    extrapolate: bool = False

    def __post_init__(self) -> None:
        """Check what is given."""
        if not 0 < self.oversample < np.inf:
            raise ValueError(f"oversample: expected a positive number, found {self.oversample}")

    def learn(
        self, events: Events, resonance: str, features: Features, window: Window, *, seed: int, device: str,
        checkpoint: str | Path | None, progress: bool,
    ) -> SidebandDensity:  # fmt: skip
        """Fit density and spectrum to the sidebands."""
        columns = flat_of(features, type(self).__name__)
        regions = regions_of(events, resonance, features, window, least=self.least, extrapolate=self.extrapolate)
        check_bounds(events.select(regions.signal | regions.sidebands), columns, self.bounds, self.discrete)
        inside = events.select(regions.sidebands)
        density = self.fitted(inside, columns, resonance, seed=seed, folds=1, device=device,
                              checkpoint=part_of(checkpoint, "sidebands"), progress=progress)  # fmt: skip
        return SidebandDensity(density, resonance, fit_spectrum(inside, resonance, window, self.shape), regions)

    def fitted(
        self, events: Events, columns: list[str], resonance: str, *, seed: int, folds: int, device: str,
        checkpoint: Path | None, progress: bool,
    ) -> Density:  # fmt: skip
        """The density of the columns given the resonance variable in ``events``."""
        bounds = {name: pair for name, pair in self.bounds.items() if name in columns}
        return fit_density(
            events, columns, condition=[resonance], bounds=bounds, discrete=self.discrete, network=self.network,
            members=self.members, folds=folds, validation=0.2 if self.training.patience else 0.0,
            training=self.training, seed=seed, device=device, checkpoint=checkpoint, progress=progress,
        )  # fmt: skip
