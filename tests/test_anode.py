"""What a ratio of two densities refuses to score."""

from __future__ import annotations

import numpy as np
import pytest

from nuinfer import Events, Features, Ragged, Training
from nuinfer.anomaly.regions import Window
from nuinfer.anomaly.templates import Anode
from nuinfer.density import MAF
from nuinfer.simulators.resonance import Resonance

WINDOW = Window(signal=(3.3, 3.7), sidebands=((2.9, 3.3), (3.7, 4.1)))


def test_events_without_a_mass_have_no_score() -> None:
    """Events beside the signal region get a random mass of it; those of none, or of many, do not."""
    events = Resonance().data(20_000, 0, seed=1)
    spec = Anode(network=MAF(transforms=1, width=8), training=Training(epochs=1, batch=512))
    found = spec.fit(events, "m", Features(["x0", "x1"]), WINDOW, seed=1, folds=2, progress=False)
    assert found.log_ratio is not None
    two = {"x0": [0.1, 0.2], "x1": [0.5, 0.5]}
    assert np.isfinite(found.log_ratio(Events({**two, "m": [3.5, 9.0]}))).all()
    for bad in (np.nan, np.inf):
        with pytest.raises(ValueError, match="column 'm': expected finite values, found 1 of 2"):
            found.log_ratio(Events({**two, "m": [3.5, bad]}))
    with pytest.raises(TypeError, match="column 'm': expected a flat column"):
        found.log_ratio(Events({**two, "m": Ragged.of([[3.5], []])}))
