"""CATHODE: background events drawn from a conditional density that was learned in the sidebands.

A flow learns p(x | m) of the features x in the sidebands, where there is as good as no signal; at masses m of the
signal region, drawn from the spectrum's fit, it interpolates.  Its draws stand for the background, as many as one
likes.

Source: Hallin, Isaacson, Kasieczka, Krause, Nachman, Quadfasel, Schlaffer, Shih, Sommerhalder, arXiv:2109.00546.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from ...events import Events
from ...features import Features
from ..regions import Window
from .base import FittedTemplate, said
from .interpolation import FlowTemplate

__all__ = ["Cathode"]

_WORDS = (
    "Draws from p(x | m), learned in the sidebands, stand for the background: it is assumed to change smoothly across "
    "the signal region. What begins or ends inside it is taken for signal, and what the flow has not learned well "
    "looks like an excess to a classifier: see the sculpting test, and a two-sample test in the sidebands."
)


@dataclass(frozen=True, kw_only=True)
class Cathode(FlowTemplate):
    """Draws from a flow, interpolated from the sidebands; for flat features.  Options: `FlowTemplate`.

    Examples
    --------
    >>> from nuinfer import Features, Training
    >>> from nuinfer.anomaly.regions import Window
    >>> from nuinfer.density import NSF
    >>> from nuinfer.simulators.resonance import Resonance
    >>> data = Resonance(features=1, correlation=2.0).data(5000, 0, seed=1)
    >>> window = Window(signal=(3.3, 3.7), sidebands=((2.9, 3.3), (3.7, 4.1)))
    >>> spec = Cathode(network=NSF(transforms=1, width=16), training=Training(epochs=5, batch=128))
    >>> fitted = spec.fit(data, "m", Features(["x0"]), window, seed=1, progress=False)
    >>> bool(abs(fitted.reference["x0"].mean() + 0.03) < 0.15)   # in the sidebands it is 0.1
    True
    """

    def fit(
        self, events: Events, resonance: str, features: Features, window: Window, *, seed: int, folds: int = 1,
        device: str = "cpu", checkpoint: str | Path | None = None, progress: bool = True,
    ) -> FittedTemplate:  # fmt: skip
        """Learn the density, and draw from it; see `BackgroundTemplate.fit`."""
        learned = self.learn(
            events, resonance, features, window, seed=seed, device=device, checkpoint=checkpoint, progress=progress
        )
        return FittedTemplate(
            reference=learned.reference(window, self.oversample, seed), words=said(f"{_WORDS} {learned.words}", window),
            draw=learned.draw, spectrum=learned.spectrum,
        )  # fmt: skip
