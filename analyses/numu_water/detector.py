"""A toy water detector, written out in full: what is true of an event, and what the detector makes of it.

Truth (GeV and degrees; one number per event):

    pmu    momentum of the outgoing lepton
    angle  its angle to the neutrino
    evis   visible energy of the hadrons: kinetic energy of protons, charged pions and charged kaons, total energy of
           neutral pions and of charmed hadrons (which decay at once); nothing for neutrons, hyperons, neutral kaons

Signal (``pass_truth``): at most two neutral pions, pmu > 3 GeV and angle < 20 degrees.  Events with three or more
neutral pions are the background, signal-like events outside these limits are the fakes where they are reconstructed.

Detector (``pass_reco``, columns ``*_reco``):

    muon found     with probability 0.9 (1 - exp(-pmu / 4 GeV)) exp(-(angle / 30)^2), times 0.6 in the background
    muon momentum  pmu (1 + s g),  s = 6% (+) 0.25% pmu / GeV
    muon direction two projected angles, each + s g,  s = 0.5 deg (+) 3 deg GeV / pmu
    pion as muon   where no muon is found, the charged pion of the highest momentum is taken for it with
                   probability 0.1 and measured in the same way
    visible energy evis + 0.3 x (kinetic energy of the neutrons) + s g,  s = 0.1 GeV (+) 40% sqrt(evis GeV) (+) 8% evis;
                   it may come out below zero, like a signal after its pedestal is subtracted
    selection      pmu_reco > 2.5 GeV and angle_reco < 22 degrees

g are independent standard normal numbers and (+) adds in quadrature.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

import nuinfer as nu

Floats = NDArray[np.float64]

BRANCHES = ["barcode", "Px", "Py", "Pz", "E", "lepOut_Px", "lepOut_Py", "lepOut_Pz", "lepOut_E", "lepIn_E", "evType"]
TRUTH, RECO = ["pmu", "angle", "evis"], ["pmu_reco", "angle_reco", "evis_reco"]
PI0_MAX = 2
P_MIN, ANGLE_MAX = 3.0, 20.0  # of the true muon, GeV and degrees
P_MIN_RECO, ANGLE_MAX_RECO = 2.5, 22.0  # of the measured muon


def truth(generated: nu.Events) -> nu.Events:
    """The flat truth of the generator's events, and what else the detector and the models look at."""
    momentum = np.sqrt(sum(generated["lepOut_P" + axis] ** 2 for axis in "xyz"))
    angle = np.degrees(np.arccos(np.clip(generated["lepOut_Pz"] / momentum, -1, 1)))
    transfer = generated["lepIn_E"] - generated["lepOut_E"]
    hadrons = _Hadrons(generated)
    columns = {
        "pmu": momentum,
        "angle": angle,
        "evis": hadrons.visible(),
        "q2": 2 * generated["lepIn_E"] * (generated["lepOut_E"] - generated["lepOut_Pz"]),  # lepton mass neglected
        "y": transfer / generated["lepIn_E"],
        "process": generated["evType"],
        "pi0": hadrons.number(111),
        "neutrons": hadrons.sum(hadrons.kinetic, hadrons.code == 2112),
        **hadrons.leading_pion(),
    }
    columns["background"] = columns["pi0"] > PI0_MAX
    columns["pass_truth"] = ~columns["background"] & (momentum > P_MIN) & (angle < ANGLE_MAX)
    return nu.Events({**columns, "parent": generated.id}, weight=generated.weight, id=generated.id)


def throw(events: nu.Events, *, throws: int, seed: int) -> nu.Events:
    """Each true event ``throws`` times through the detector, with 1/throws of its weight; ``parent`` stays."""
    events = events.select(np.repeat(np.arange(len(events)), throws))
    rng = np.random.default_rng(seed)
    found = rng.random(len(events)) < efficiency(events["pmu"], events["angle"], background=events["background"])
    mistaken = ~found & (events["pion"] > 0) & (rng.random(len(events)) < 0.1)
    track = np.where(mistaken, events["pion"], events["pmu"])
    pmu = smear(track, momentum_resolution, rng)
    angle = smear_angle(np.where(mistaken, events["pion_angle"], events["angle"]), track, rng)
    evis = smear(events["evis"], energy_resolution, rng) + 0.3 * events["neutrons"]
    passed = (found | mistaken) & (pmu > P_MIN_RECO) & (angle < ANGLE_MAX_RECO)
    reco = {name: np.where(passed, value, np.nan) for name, value in zip(RECO, (pmu, angle, evis), strict=True)}
    return events.with_columns(reco, pass_reco=passed).with_weight(events.weight / throws)


def efficiency(pmu: Floats, angle: Floats, *, background: NDArray[np.bool_] | bool = False) -> Floats:
    """The probability (N,) that the muon is found."""
    found: Floats = 0.9 * (1 - np.exp(-pmu / 4.0)) * np.exp(-((angle / 30.0) ** 2))
    return found * np.where(background, 0.6, 1.0)


def momentum_resolution(pmu: Floats) -> Floats:
    """The standard deviation (N,) of a measured momentum, in GeV."""
    return pmu * np.hypot(0.06, 0.0025 * pmu)


def direction_resolution(pmu: Floats) -> Floats:
    """The standard deviation (N,) of each projected angle, in degrees."""
    return np.hypot(0.5, 3.0 / pmu)


def energy_resolution(evis: Floats) -> Floats:
    """The standard deviation (N,) of the measured visible energy, in GeV."""
    return np.sqrt(0.1**2 + 0.4**2 * evis + (0.08 * evis) ** 2)


def smear(value: Floats, resolution: Callable[[Floats], Floats], rng: np.random.Generator) -> Floats:
    """``value`` (N,) with a Gaussian error of standard deviation ``resolution(value)``."""
    return value + resolution(value) * rng.standard_normal(len(value))


def smear_angle(angle: Floats, pmu: Floats, rng: np.random.Generator) -> Floats:
    """The polar angle (N,) of a direction whose two projected angles are measured, in degrees."""
    error = direction_resolution(pmu) * rng.standard_normal((2, len(angle)))
    return np.asarray(np.hypot(angle + error[0], error[1]))


class _Hadrons:
    """Sums over the generator's list of final-state particles, the lepton not among them."""

    def __init__(self, generated: nu.Events) -> None:
        lists = [generated.ragged(name) for name in ("barcode", "Px", "Py", "Pz", "E")]
        self.code, self.px, self.py, self.pz, self.energy = (column.values for column in lists)
        self.event = np.repeat(np.arange(len(generated)), lists[0].counts)
        self.events = len(generated)
        self.momentum = np.sqrt(self.px**2 + self.py**2 + self.pz**2)
        self.kinetic = self.energy - np.sqrt(np.clip(self.energy**2 - self.momentum**2, 0, None))

    def sum(self, value: Floats, which: NDArray[np.bool_]) -> Floats:
        return np.bincount(self.event, value * which, minlength=self.events).astype(np.float64)

    def number(self, code: int) -> NDArray[np.int64]:
        return np.bincount(self.event[self.code == code], minlength=self.events)

    def visible(self) -> Floats:
        kind = np.abs(self.code)
        total = (kind == 111) | (kind // 100 % 10 == 4) | (kind // 1000 == 4)
        return self.sum(self.energy, total) + self.sum(self.kinetic, np.isin(kind, (211, 321, 2212)))

    def leading_pion(self) -> dict[str, Floats]:
        """Momentum and angle of the charged pion of the highest momentum; 0 where there is none."""
        pions = np.flatnonzero(np.abs(self.code) == 211)
        pions = pions[np.argsort(self.momentum[pions], kind="stable")]
        momentum, angle = np.zeros(self.events), np.zeros(self.events)
        # of repeated rows the last assignment stays: the highest momentum
        momentum[self.event[pions]] = self.momentum[pions]
        angle[self.event[pions]] = np.degrees(np.arccos(self.pz[pions] / self.momentum[pions]))
        return {"pion": momentum, "pion_angle": angle}
