"""The other physics model, which the pseudo-data follow: a reweighting of GiBUU's events by true quantities.

Smooth changes of the size of a disagreement between generators, with a change of rate:

    harder muons       1 - 0.6 (y - 0.5),  y = (E_nu - E_mu) / E_nu the inelasticity
    softer scattering  1 + 0.25 exp(-Q2 / 3 GeV^2)
    processes          1.3 for resonances and single pions, 1.5 for two nucleons, 1 for quasi-elastic and deep inelastic
    rate               1.05 for all events
    background         1.05 instead of all of these: it is known to 5%

Inelasticity, Q2 and process are not among the unfolded observables: an unfolding that learns from those alone has to
get their spectra right all the same.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

import nuinfer as nu

Floats = NDArray[np.float64]

RATE, BACKGROUND = 1.05, 1.05


def other_model(events: nu.Events) -> nu.Events:
    """The same events with weights of the other model."""
    return events.with_weight(events.weight * factor(events))


def factor(events: nu.Events) -> Floats:
    """What each event's weight is multiplied by (N,)."""
    hard = 1 - 0.6 * (events["y"] - 0.5)
    soft = 1 + 0.25 * np.exp(-events["q2"] / 3.0)
    return np.where(events["background"], BACKGROUND, RATE * hard * soft * process_factor(events["process"]))


def process_factor(process: NDArray[np.integer]) -> Floats:
    """GiBUU's ``evType``: 1 quasi-elastic, 2-31 resonances, 32-33 single pions, 34 deep inelastic, 35 two-nucleon."""
    return np.select([(process >= 2) & (process <= 33), process == 35], [1.3, 1.5], 1.0)
