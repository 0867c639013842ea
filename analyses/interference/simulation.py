"""The simulation: S, B and SBI in one sample, each event of which carries the weights of all three.

A generator that knows its squared matrix elements can give an event of one sample the weight of another,
p_other(z) / p_own(z) at parton level.  So the 200,000 events generated as S, B and SBI are one sample of the density

    p_ref = sum_j f_j p_j,        f = 1/4, 1/4, 1/2 for S, B, SBI,

the *reference*, and the sample of process j is the same events with weights w p_j(z) / p_ref(z), at most 1 / f_j.  The
theory's variations (signal, background, hardness) are weights of that kind too; the detector's (scale, resolution) move
the measured columns of the same events.  A ratio of two weightings of the same events fluctuates far less than that of
two samples.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cached_property
from typing import get_args

import numpy as np
from numpy.typing import NDArray

import nuinfer as nu
from nuinfer.simulators import Interference
from nuinfer.simulators.interference import Sample

Floats = NDArray[np.float64]

SAMPLES: tuple[Sample, ...] = get_args(Sample)
FRACTIONS: dict[Sample, float] = {"S": 0.25, "B": 0.25, "SBI": 0.5}
COEFFICIENTS: dict[Sample, str] = {"S": "mu - sqrt(mu)", "B": "1 - sqrt(mu)", "SBI": "sqrt(mu)"}
DETECTOR = ("scale", "resolution")
# which nuisances change the norm and which the shape of each; e.g. the norm of a^2 changes p_SBI, but not p_S
NORMS: dict[Sample, tuple[str, ...]] = {
    "S": ("luminosity", "signal"),
    "B": ("luminosity", "background"),
    "SBI": ("luminosity", "signal", "background", "hardness"),
}
SHAPES: dict[Sample, tuple[str, ...]] = {
    "S": DETECTOR,
    "B": ("hardness", *DETECTOR),
    "SBI": ("signal", "background", "hardness", *DETECTOR),
}


@dataclass(frozen=True)
class Simulation:
    """``events`` simulated events of a problem, and what they say of every sample and variation."""

    problem: Interference = field(default_factory=Interference)
    events: int = 200_000
    seed: int = 1
    _kept: dict[tuple[object, ...], nu.Events] = field(default_factory=dict, init=False, repr=False, compare=False)

    @cached_property
    def reference(self) -> nu.Events:
        """All events, weighted to the density p_ref, a total weight of ``events``."""
        return self._measured({})

    def sample(self, name: Sample, **nuisances: float) -> nu.Events:
        """The same events as a sample of S, B or SBI, at given nuisances."""
        theory = {k: v for k, v in nuisances.items() if k not in DETECTOR}
        detector = {k: v for k, v in nuisances.items() if k in DETECTOR}
        key = (name, *nuisances.items())
        if key not in self._kept:
            events = self._measured(detector) if detector else self.reference
            self._kept[key] = events.with_weight(events.weight * self._factor(name, theory))
        return self._kept[key]

    def norm(self, name: Sample, nuisance: str) -> tuple[float, float]:
        """What the nuisance at -1 and +1 sigma multiplies the cross section by."""
        start = self.problem.yields(name)
        down, up = (self.problem.yields(name, **{nuisance: value}) / start for value in (-1.0, 1.0))
        return down, up

    def _measured(self, detector: dict[str, float]) -> nu.Events:
        """All events as a detector of given scale and resolution measures them."""
        key = tuple(detector.items())
        if key not in self._kept:
            number = {name: round(self.events * share) for name, share in FRACTIONS.items()}
            parts = [self.problem.sample(name, n, self.seed, **detector).scaled_to(n) for name, n in number.items()]
            self._kept[key] = nu.Events.concat(parts)
        return self._kept[key]

    def __getstate__(self) -> dict[str, object]:
        # what is kept is made again in another process
        return {"problem": self.problem, "events": self.events, "seed": self.seed, "_kept": {}}

    def _factor(self, name: Sample, theory: dict[str, float]) -> Floats:
        return np.exp(self.problem.log_parton_density(name, self.reference, **theory) - self._log_reference)

    @cached_property
    def _log_reference(self) -> Floats:
        logs = [self.problem.log_parton_density(name, self.reference) for name in SAMPLES]
        return np.logaddexp.reduce([np.log(FRACTIONS[n]) + log for n, log in zip(SAMPLES, logs, strict=True)])
