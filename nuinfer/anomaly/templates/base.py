"""What every background template is: a spec with ``fit``, and what it gives a search.

A search in a signal region compares its events with a *reference*: events that stand for the background there.  Each
template makes one in its own way, from the same arguments: `BackgroundTemplate.fit` -> `FittedTemplate`.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray

from ... import hashing
from ...density.columns import Bounds, Columns, refuse
from ...events import Events
from ...features import Features
from ..regions import Window
from .spectrum import MassSpectrum

__all__ = ["BackgroundTemplate", "FittedTemplate"]

Floats = NDArray[np.float64]
Mask = NDArray[np.bool_]
Interval = tuple[float, float]


def unchanged(events: Events) -> Events:
    """The events themselves."""
    return events


@dataclass(frozen=True, eq=False, kw_only=True)
class FittedTemplate:
    """The background in a signal region.

    Attributes
    ----------
    reference:
        Weighted events that stand for it, with the features and the resonance variable.  The sum of weights is what the
        sidebands lead one to expect in the signal region where the template knows it; only the shape matters to a
        classifier.  Ids are those of the data for events of the data, and cannot be theirs for others.
    words:
        What is assumed, and what that hides.
    transform:
        Data -> the same events with their features as the reference has them, in columns of the same names: what a
        classifier has to see.  The identity but for latent spaces and decorrelation.
    log_ratio:
        Events (as they are, not transformed) -> a finished score (N,), which needs no classifier; out of fold for
        events that trained it.  None where there is none.  It is meant for the signal region; thresholds for a stated
        efficiency belong on ``log_ratio(reference)``.
    draw:
        Masses (N,), anywhere in the window, and a seed -> N background events with features and resonance variable,
        not transformed.  None for templates without a density.
    spectrum:
        The fitted spectrum of the resonance variable, None where it was not needed.
    """

    reference: Events
    words: str
    transform: Callable[[Events], Events] = unchanged
    log_ratio: Callable[[Events], Floats] | None = None
    draw: Callable[[Floats, int], Events] | None = None
    spectrum: MassSpectrum | None = None

    def background(self, region: Interval, *, n: int | None = None, seed: int) -> Events:
        """A pseudo-experiment of background: masses of the fitted spectrum in ``region``, features given the mass.

        Parameters
        ----------
        region:
            (low, high); beyond the sidebands it is an extrapolation.
        n:
            How many events; None for a Poisson number of the fitted mean.
        seed:
            The same seed gives the same events.

        Raises
        ------
        TypeError
            for a template without a density.
        """
        if self.draw is None or self.spectrum is None:
            raise TypeError("background: expected a template with a density to draw from, Cathode, Anode or Latent; "
                            "found one without")  # fmt: skip
        return self.draw(self.spectrum.sample(region, n=n, seed=seed), hashing.salt(seed, "template features") >> 1)


class BackgroundTemplate(ABC):
    """A frozen spec of how the background in a signal region is made from the sidebands."""

    least: ClassVar[int] = 100  # events in a sideband

    @abstractmethod
    def fit(
        self,
        events: Events,
        resonance: str,
        features: Features,
        window: Window,
        *,
        seed: int,
        folds: int = 1,
        device: str = "cpu",
        checkpoint: str | Path | None = None,
        progress: bool = True,
    ) -> FittedTemplate:
        """Learn the background from the data's sidebands.

        Parameters
        ----------
        events:
            All data.
        resonance:
            The column of the resonance variable.
        features:
            What a classifier is to see.
        window:
            Signal region and sidebands.
        seed:
            The same seed gives the same template.
        folds:
            Of the search, for templates that learn from the signal region.
        device, checkpoint, progress:
            See `nuinfer.train.minimise`.

        Raises
        ------
        ValueError
            for too few events in a sideband, a signal region without events, sidebands on one side only (unless told),
            the resonance variable among the features, features outside their bounds.
        KeyError, TypeError
            for columns that are missing or of the wrong kind.
        """

    def mapped(self, transform: Callable[[Events], Events]) -> BackgroundTemplate:
        """The same template for data whose features go through ``transform``."""
        return self


class Regions(NamedTuple):
    """Which events (N,) are in the signal region, and which in the sidebands."""

    signal: Mask
    sidebands: Mask


def regions_of(
    events: Events, resonance: str, features: Features, window: Window, *, least: int, extrapolate: bool
) -> Regions:
    """The checked regions of the data, whose features are finite in both."""
    if resonance in features.columns:
        raise ValueError(f"features: expected other columns than the resonance variable {resonance!r}, found it among "
                         f"them; a template for each of its values cannot have it")  # fmt: skip
    mass = np.asarray(events.flat(resonance), np.float64)
    found = Regions(window.in_signal(mass), window.in_sidebands(mass))
    features.check(events, found.signal | found.sidebands)
    check_counts("events", mass, window, least)
    if not extrapolate:
        check_sides(window)
    return found


def check_counts(what: str, mass: Floats, window: Window, least: int) -> None:
    """Raise where a sideband has fewer events than ``least``, or the signal region none."""
    if not len(mass):
        raise ValueError(f"{what}: expected events, found none")
    ends = f"{resonance_range(mass)} of the {len(mass)} {what}"
    if not window.in_signal(mass).any():
        raise ValueError(f"window: expected {what} in the signal region {window.signal}, found none; the resonance "
                         f"variable runs from {ends}")  # fmt: skip
    band = window.sideband_of(mass)
    for number, (low, high) in enumerate(window.sidebands):
        count = int(np.count_nonzero(band == number))
        if count < least:
            raise ValueError(f"window: expected at least {least} {what} in the sideband ({low:g}, {high:g}), found "
                             f"{count}; the resonance variable runs from {ends}. Widen the sidebands")  # fmt: skip


def resonance_range(mass: Floats) -> str:
    """From where to where it runs."""
    return f"{mass.min():g} to {mass.max():g}"


def sides(window: Window) -> tuple[bool, bool]:
    """Whether there are sidebands below and above the signal region."""
    below = any(high <= window.signal[0] for _, high in window.sidebands)
    return below, any(low >= window.signal[1] for low, _ in window.sidebands)


def said(words: str, window: Window) -> str:
    """The words of a template, and whether it extrapolates."""
    alone = " Sidebands are on one side only: it is an extrapolation, which nothing here can check."
    return words if all(sides(window)) else words + alone


def check_sides(window: Window) -> None:
    """Raise where there is no sideband on either side of the signal region."""
    below, above = sides(window)
    if not (below and above):
        raise ValueError(f"window: expected sidebands on both sides of the signal region {window.signal}, found them "
                         f"{'below' if below else 'above'} it only; interpolation becomes extrapolation: "
                         f"extrapolate=True allows it")  # fmt: skip


def flat_of(features: Features, name: str) -> list[str]:
    """The flat columns that a density is learned of; raises for clouds."""
    if features.clouds:
        names = ", ".join(cloud for cloud, _ in features.clouds)
        raise TypeError(f"features: expected flat columns for {name}, found the clouds {names}; Sidebands and Salad "
                        f"take them")  # fmt: skip
    return list(features.flat)


def check_bounds(
    events: Events, columns: list[str], bounds: Mapping[str, Bounds], discrete: tuple[str, ...]
) -> None:  # fmt: skip
    """Raise where a feature is outside its bounds, in the signal region or in the sidebands."""
    for part in Columns.of(columns, {k: b for k, b in bounds.items() if k in columns}, discrete).parts:
        values = part.read(events)
        inside = part.inside(torch.from_numpy(values.copy())).numpy()
        refuse(~inside, f"column {part.name!r}: expected values between {part.low} and {part.high}", values,
               "select the events, or give other bounds")  # fmt: skip


def fresh_ids(n: int, *labels: object) -> NDArray[np.int64]:
    """Ids (N,) of events that are not data."""
    return hashing.bits(np.arange(n), "template", *labels).view(np.int64)


def part_of(checkpoint: str | Path | None, name: str) -> Path | None:
    """A checkpoint's path for one of several trainings."""
    return None if checkpoint is None else Path(f"{checkpoint}.{name}")
