"""Five sources of systematic uncertainty: functions of (events, alpha), alpha in standard deviations.

================  ===================  ==========================================================================
source            knobs (alpha)        one standard deviation
================  ===================  ==========================================================================
flux              3, independent       5% normalisation, 2% of the energy, a tilt by E^0.1, correlated (`flux`)
cross_section     axial_mass,          M_A by 10%, resonance by 15%, low-Q2 suppression by 0.5 in its logit
                  resonance, low_q2    (0.3 to 0.41)
two_nucleon       two_nucleon          two-nucleon rate by a factor e^0.4
detector_scale    detector_scale       charge by 2%; lengths, and so momentum by range, by 1%; momentum by scattering
                                       by 3%; selection anew
efficiency        efficiency           0.25 in the logit of the muon's efficiency (0.8 to 0.84); selection anew
================  ===================  ==========================================================================

The first three multiply weights by exact ratios of densities (`generator.weight_factor`), so that rates change too;
the flux knobs change the flux's integral as well, `Flux.of(alpha).integral()`.  The last two change columns and flags,
never the number or the order of rows.  All factors are positive.  They hold for background events too, and applied one
after the other, in any order, they shift all at once.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.special import expit, logit

import nuinfer as nu

from .detector import HITS, select
from .flux import NOMINAL, Flux
from .generator import Model, weight_factor

Floats = NDArray[np.float64]

CHARGE_SCALE, RANGE_SCALE, SCATTERING_SCALE = 0.02, 0.01, 0.03
EFFICIENCY_LOGIT = 0.25


@dataclass(frozen=True)
class Source:
    """A source: its name, its knobs, and ``source(events, alpha)`` -> events, with alpha a number or (knobs,)."""

    name: str
    knobs: tuple[str, ...]
    apply: Callable[[nu.Events, Floats], nu.Events]

    def __call__(self, events: nu.Events, alpha: ArrayLike) -> nu.Events:
        """The events at ``alpha``.

        Raises
        ------
        ValueError
            for another number of knobs, or numbers that are not finite.
        """
        found = np.atleast_1d(np.asarray(alpha, np.float64))
        if found.shape != (len(self.knobs),) or not np.isfinite(found).all():
            raise ValueError(f"{self.name}: expected {len(self.knobs)} finite numbers ({', '.join(self.knobs)}), "
                             f"found {np.asarray(alpha).tolist()}")  # fmt: skip
        return self.apply(events, found)


def sources(model: Model | str) -> dict[str, Source]:
    """The five sources by name, for events of ``model`` and the nominal flux."""
    base = Model.of(model)

    def interactions(*knobs: str) -> Callable[[nu.Events, Floats], nu.Events]:
        def apply(events: nu.Events, alpha: Floats) -> nu.Events:
            to = base.shifted(**dict(zip(knobs, map(float, alpha), strict=True)))
            return events.with_weight(events.weight * weight_factor(events, base, to=to))

        return apply

    found = (
        Source("flux", ("flux_1", "flux_2", "flux_3"), _flux),
        Source("cross_section", _INTERACTIONS, interactions(*_INTERACTIONS)),
        Source("two_nucleon", ("two_nucleon",), interactions("two_nucleon")),
        Source("detector_scale", ("detector_scale",), _detector_scale),
        Source("efficiency", ("efficiency",), _efficiency),
    )
    return {source.name: source for source in found}


def single_knobs(model: Model | str) -> dict[str, Source]:
    """The nine knobs of the five sources one by one, by name; together, at independent alpha, they are the same."""
    found = {}
    for source in sources(model).values():
        for k, knob in enumerate(source.knobs):
            found[knob] = Source(knob, (knob,), partial(_one, source, k))
    return found


def _one(source: Source, k: int, events: nu.Events, alpha: Floats) -> nu.Events:
    every = np.zeros(len(source.knobs))
    every[k] = alpha[0]
    return source(events, every)


_INTERACTIONS = ("axial_mass", "resonance", "low_q2")


def _flux(events: nu.Events, alpha: Floats) -> nu.Events:
    energy = events["enu"]
    return events.with_weight(events.weight * Flux.of(alpha).density(energy) / NOMINAL.density(energy))


def _detector_scale(events: nu.Events, alpha: Floats) -> nu.Events:
    charge = float(np.exp(CHARGE_SCALE * alpha[0]))
    momentum = np.exp(np.where(events["contained"], RANGE_SCALE, SCATTERING_SCALE) * alpha[0])
    shifted = events.with_columns(p_reco=events["p_reco"] * momentum, e_visible=events["e_visible"] * charge)
    for name in HITS if "hits.q" in events else ():
        factor = charge if name == "q" else float(np.exp(RANGE_SCALE * alpha[0]))
        hits = events.ragged(f"hits.{name}")
        scaled = nu.Ragged((hits.values * factor).astype(hits.values.dtype), hits.offsets)
        shifted = shifted.with_columns({f"hits.{name}": scaled})
    return select(shifted)


def _efficiency(events: nu.Events, alpha: Floats) -> nu.Events:
    moved = expit(logit(events["efficiency"]) + EFFICIENCY_LOGIT * float(alpha[0]))
    return select(events.with_columns(efficiency=moved))
