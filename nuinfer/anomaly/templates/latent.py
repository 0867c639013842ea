r"""The flow's latent space: features in which the background is a standard normal, whatever the mass is.

The flow that was learned in the sidebands maps x to z with :math:`z | m \sim N(0, 1)`, at each m.  A score of z is then
independent of m for background, so that cuts on it do not sculpt the spectrum, though x moves with it.  The reference
consists of normal draws, as many as one likes.

Source: Hallin, Kasieczka, Quadfasel, Shih, Sommerhalder, arXiv:2210.14924 (LaCATHODE).
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from ... import hashing
from ...density import FlowMatching
from ...events import Events
from ...features import Features
from ..regions import Window
from .base import BackgroundTemplate, FittedTemplate, check_bounds, fresh_ids, said
from .cathode import Cathode
from .interpolation import SidebandDensity

__all__ = ["Latent"]

Floats = NDArray[np.float64]

_PIECE = 1 << 13  # events at a time

_WORDS = (
    "Features are mapped by the flow that was learned in the sidebands to a space where the background is a standard "
    "normal at each mass, and normal draws stand for it: p(x | m) is assumed to change smoothly across the signal "
    "region. What the flow has not learned well is left in the latent space: see the sculpting test."
)


@dataclass(frozen=True, eq=False)
class LatentMap:
    """Features -> latent features of the same names."""

    learned: SidebandDensity

    def transform(self, events: Events) -> Events:
        """The events with their features as the flow's latent variables; ``ValueError`` outside the bounds."""
        targets = self.learned.density.targets
        bounds = {part.name: (part.low, part.high) for part in targets.parts}
        check_bounds(events, list(targets.names), bounds, ())
        values, given = torch.from_numpy(targets.read(events)), self.learned.density.contexts(events)
        spans = [slice(start, start + _PIECE) for start in range(0, max(len(events), 1), _PIECE)]
        z = np.concatenate([self._latent(values[part], given[:, :, part]) for part in spans], 1)
        return events.with_columns({part.name: row for part, row in zip(targets.parts, z, strict=True)})

    @torch.no_grad()
    def _latent(self, values: torch.Tensor, given: torch.Tensor) -> Floats:
        """z (D, B) of y (B, D), in float64."""
        density = self.learned.density
        state = {name: tensor.double() for name, tensor in density.model.state.items()}
        y = density.targets.forward(values)[0].T[None]
        z, _ = density.stack.latent(state, y, given.double())  # type: ignore[attr-defined]
        return np.asarray(z[0].numpy())


@dataclass(frozen=True, kw_only=True)
class Latent(BackgroundTemplate):
    """The search in the latent space of a `Cathode`'s flow.

    Parameters
    ----------
    template:
        With one flow, `NSF` or `MAF`, and without discrete features: a latent space needs one map.

    Raises
    ------
    ValueError, TypeError
        for others.
    """

    template: Cathode = field(default_factory=Cathode)

    def __post_init__(self) -> None:
        """Check what is given."""
        if not isinstance(self.template, Cathode) or isinstance(self.template.network, FlowMatching):
            raise TypeError(f"template: expected Cathode with NSF or MAF, found {self.template!r}")
        if self.template.members != 1 or self.template.discrete:
            raise ValueError(f"template: expected one flow and continuous features, found members="
                             f"{self.template.members}, discrete={self.template.discrete}; several flows have several "
                             f"latent spaces")  # fmt: skip

    def fit(
        self, events: Events, resonance: str, features: Features, window: Window, *, seed: int, folds: int = 1,
        device: str = "cpu", checkpoint: str | Path | None = None, progress: bool = True,
    ) -> FittedTemplate:  # fmt: skip
        """Learn the map; see `BackgroundTemplate.fit`."""
        learned = self.template.learn(
            events, resonance, features, window, seed=seed, device=device, checkpoint=checkpoint, progress=progress
        )
        mass, weight = learned.masses(window, self.template.oversample, seed)
        rng = np.random.default_rng(hashing.salt(seed, "latent reference"))
        drawn = {name: rng.standard_normal(len(mass)) for name in features.flat}
        reference = Events({**drawn, resonance: mass}, id=fresh_ids(len(mass), "latent", seed)).with_weight(weight)
        return FittedTemplate(
            reference=reference, words=said(f"{_WORDS} {learned.words}", window),
            transform=LatentMap(learned).transform, draw=learned.draw, spectrum=learned.spectrum,
        )  # fmt: skip
