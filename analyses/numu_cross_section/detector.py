r"""A toy liquid-argon time projection chamber: tracks with hits, what is measured, what is selected, samples.

**Volume.**  Liquid argon (1.396 g/cm^3) of 256 x 233 x 1037 cm^3, the beam along z; vertices are uniform in it.  The
fiducial volume ends 20 cm inside of every wall: two thirds of it, 3.5e31 nucleons.  Lengths are in cm, momenta in GeV,
charge (deposited energy) in MeV.

**Tracks** are straight lines of a range R given by the energy :math:`T = 2 a \sqrt R + b R`, that is
:math:`dE/dx = a/\sqrt{R} + b` at the residual range R, with (a, b) = (5, 1.8) for muons and pions and (15, 1.5) for
protons in MeV and cm: close to argon's, and invertible.  They end at their range or at the wall.

**Hits.**  Each track is cut into equal steps, of 10 cm (muon, pion) and 2 cm (proton), at most 30 (muon) or 10.  One
hit per step: position, relative to the measured vertex, at the middle, moved sideways by multiple scattering
(13.6 MeV/(beta p) sqrt(step/14 cm) per step and projection) and 0.3 cm of noise; charge, the energy lost in that step
times 1 + 0.08 g; length, the step.  `e_visible` is the sum of the charges.

**Muon candidate**: the muon, or in neutral currents the pion, with true momentum p and direction theta.

    found          with probability eps = 0.92 (1 - exp(-(p/0.25)^2)) (0.8 + 0.2 cos theta), times 0.8 for pions
    momentum       p exp(s g): s = 0.03 by range where the track is contained, by scattering else
                   s = 0.10 (+) 0.12 sqrt(100 cm / L), L the length inside, at least 20 cm
    direction      two projected angles (tangents) + s g, s = 0.02 (+) 0.15 exp(-L / 20 cm)
    vertex         + 0.5 g cm in x, y, z; 15% are placed further along the muon's line, by a distance of mean 60 cm

g are independent standard normal numbers and (+) adds in quadrature.

**Selection** (`select`, `pass_reco`): found, vertex in the fiducial volume, p_reco > 0.2, e_visible > 100 MeV.
**Signal** (`pass_truth`): charged current, true vertex in the fiducial volume, p > 0.2.  Fakes are charged currents
from outside (of the volume or of the threshold); neutral currents are the background, a sample of its own.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

import nuinfer as nu
from nuinfer.events import offsets_of

from .flux import NOMINAL, Flux
from .generator import MUON, NUCLEON, PION, RESONANCE, Model, generate, rates

Floats = NDArray[np.float64]
Flags = NDArray[np.bool_]

ACTIVE, MARGIN, DENSITY = np.array([256.0, 233.0, 1037.0]), 20.0, 1.396  # cm, cm, g/cm^3
NUCLEONS_PER_GRAM = 40 * 6.02214e23 / 39.948
TARGETS_ACTIVE = float(ACTIVE.prod() * DENSITY * NUCLEONS_PER_GRAM)
TARGETS = float((ACTIVE - 2 * MARGIN).prod() * DENSITY * NUCLEONS_PER_GRAM)  # nucleons in the fiducial volume
P_MIN, E_VISIBLE_MIN = 0.2, 100.0  # GeV, MeV
RADIATION_LENGTH = 14.0  # cm
MISPLACED, MISPLACED_BY = 0.15, 60.0  # fraction, cm
PION_FOUND = 0.8
NEUTRAL_CURRENT, NC_RATIO = 3, 0.35  # code of interaction; pi+ of neutral over charged currents
HITS = ("x", "y", "z", "q", "length")

# -- tracks ------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Particle:
    """Mass (GeV), a, b of its energy loss (MeV, cm), step of its hits (cm) and the most of them."""

    mass: float
    a: float
    b: float
    step: float
    most: int

    def energy(self, residual: Floats) -> Floats:
        """Kinetic energy (MeV) at a residual range (cm)."""
        return np.asarray(2 * self.a * np.sqrt(residual) + self.b * residual)

    def range(self, momentum: Floats) -> Floats:
        """Range (cm) of a momentum (GeV), the inverse of `energy`."""
        kinetic = 1e3 * (np.hypot(momentum, self.mass) - self.mass)
        return np.asarray(((np.sqrt(self.a**2 + self.b * kinetic) - self.a) / self.b) ** 2)


MUON_TRACK = Particle(MUON, 5.0, 1.8, 10.0, 30)
PION_TRACK = Particle(PION, 5.0, 1.8, 10.0, 10)
PROTON_TRACK = Particle(NUCLEON, 15.0, 1.5, 2.0, 10)
TRACKS = {"muon": MUON_TRACK, "proton": PROTON_TRACK, "second": PROTON_TRACK, "pion": PION_TRACK}


def to_wall(vertex: Floats, direction: Floats) -> Floats:
    """Distance (n,) from vertices (n, 3) to the wall along unit vectors (n, 3); vertices are from 0 to `ACTIVE`."""
    with np.errstate(divide="ignore", invalid="ignore"):
        ahead = np.where(direction > 0, ACTIVE - vertex, -vertex) / direction
    return np.asarray(np.where(direction == 0, np.inf, ahead).min(1))


def hits_of(
    track: Particle, momentum: Floats, vertex: Floats, rng: np.random.Generator
) -> tuple[Floats, NDArray[np.int64]]:
    """Hits (m, 5) of one track per event and their numbers (n,), from momenta and vertices (n, 3), in the detector."""
    size = np.linalg.norm(momentum, axis=1)
    rows = np.flatnonzero(size > 0)
    direction, reach = momentum[rows] / size[rows, None], track.range(size[rows])
    length = np.minimum(reach, to_wall(vertex[rows], direction))
    steps = np.clip(np.ceil(length / track.step), 1, track.most).astype(np.int64)
    number, step = np.arange(int(steps.max(initial=0))), length / steps
    middle = step[:, None] * (number + 0.5)
    ends = (np.maximum(reach[:, None] - step[:, None] * (number + k), 0.0) for k in (0, 1))
    before, after = (track.energy(end) for end in ends)
    aside = _scattered(track, (before + after) / 2, step, rng)
    first, other = _across(direction)
    place = vertex[rows, None] + middle[..., None] * direction[:, None]
    place += aside[0][..., None] * first[:, None] + aside[1][..., None] * other[:, None]
    place += 0.3 * rng.standard_normal(place.shape)
    charge = (before - after) * (1 + 0.08 * rng.standard_normal(before.shape))
    found = np.concatenate([place, np.stack([charge, np.broadcast_to(step[:, None], charge.shape)], 2)], 2)
    counts = np.zeros(len(momentum), np.int64)
    counts[rows] = steps
    return found[number < steps[:, None]], counts


def _scattered(track: Particle, kinetic: Floats, step: Floats, rng: np.random.Generator) -> Floats:
    """Displacements (2, n, K) at the middle of each step, of energies (n, K) MeV."""
    energy = np.maximum(kinetic, 1.0) + 1e3 * track.mass  # beyond the last step of a track nothing is used
    speed_momentum = energy - (1e3 * track.mass) ** 2 / energy  # beta p
    angle = 13.6 / speed_momentum * np.sqrt(step / RADIATION_LENGTH)[:, None] * rng.standard_normal((2, *kinetic.shape))
    slope = np.cumsum(angle, 2)
    return np.asarray(step[:, None] * (np.cumsum(slope, 2) - slope / 2))


def _across(direction: Floats) -> tuple[Floats, Floats]:
    """Two unit vectors (n, 3) across each direction and each other."""
    aid = np.where(np.abs(direction[:, :1]) < 0.8, [1.0, 0.0, 0.0], [0.0, 1.0, 0.0])
    first = np.cross(direction, aid)
    first /= np.linalg.norm(first, axis=1, keepdims=True)
    return first, np.cross(direction, first)


def all_hits(events: nu.Events, vertex: Floats, rng: np.random.Generator) -> tuple[Floats, NDArray[np.int64]]:
    """Hits (m, 5) of all tracks, event by event, and offsets (n + 1,)."""
    tracks = [hits_of(track, vectors(events, name), vertex, rng) for name, track in TRACKS.items()]
    owner = np.concatenate([np.repeat(np.arange(len(events)), counts) for _, counts in tracks])
    order = np.argsort(owner, kind="stable")
    return np.concatenate([hits for hits, _ in tracks])[order], offsets_of(np.bincount(owner, minlength=len(events)))


def vectors(events: nu.Events, name: str) -> Floats:
    """The momentum (n, 3) of a particle."""
    return np.stack([events[f"{name}_{axis}"] for axis in "xyz"], 1)


# -- what is measured --------------------------------------------------------------------------------------------------


def efficiency(p: Floats, cosine: Floats) -> Floats:
    """The probability (n,) to find a muon."""
    return np.asarray(0.92 * (1 - np.exp(-((p / 0.25) ** 2))) * (0.8 + 0.2 * cosine))


def momentum_resolution(contained: Flags, length: Floats) -> Floats:
    """The standard deviation (n,) of the logarithm of a measured momentum."""
    return np.where(contained, 0.03, np.hypot(0.10, 0.12 * np.sqrt(100 / np.maximum(length, 20.0))))


def direction_resolution(length: Floats) -> Floats:
    """The standard deviation (n,) of each projected angle (tangent)."""
    return np.hypot(0.02, 0.15 * np.exp(-length / 20))


def fiducial(vertex: Floats) -> Flags:
    """Which vertices (n, 3) lie in the fiducial volume."""
    return np.asarray(((vertex > MARGIN) & (vertex < ACTIVE - MARGIN)).all(1))


def observe(generated: nu.Events, seed: int, *, candidate: str = "muon") -> nu.Events:
    """Generated interactions in the detector, row by row: the columns listed in `simulate`.

    ``candidate`` is the particle that is taken for the muon, "muon" or "pion"; none of its momenta may be zero.
    """
    rng = np.random.default_rng([seed, 41, list(TRACKS).index(candidate)])
    n, momentum = len(generated), vectors(generated, candidate)
    vertex, p = ACTIVE * rng.random((n, 3)), np.linalg.norm(momentum, axis=1)
    direction, track = momentum / p[:, None], TRACKS[candidate]
    wall, reach = to_wall(vertex, direction), track.range(p)
    length, contained = np.minimum(wall, reach), reach < wall
    measured = _measured(direction, length, rng)
    seen = efficiency(p, direction[:, 2]) * (PION_FOUND if candidate == "pion" else 1.0)
    place = _placed(vertex, direction, rng)
    columns = {
        "p_reco": p * np.exp(momentum_resolution(contained, length) * rng.standard_normal(n)),
        "cos_reco": measured[:, 2], "contained": contained, "fiducial_true": fiducial(vertex),
        "fiducial_reco": fiducial(place), "efficiency": seen, "draw": rng.random(n),
    }  # fmt: skip
    return select(generated.with_columns(columns | _cloud(generated, vertex, place, rng)))


def _measured(direction: Floats, length: Floats, rng: np.random.Generator) -> Floats:
    """Measured unit vectors (n, 3)."""
    first, other = _across(direction)
    error = direction_resolution(length)[:, None] * rng.standard_normal((len(length), 2))
    found = direction + error[:, :1] * first + error[:, 1:] * other
    return np.asarray(found / np.linalg.norm(found, axis=1, keepdims=True))


def _placed(vertex: Floats, direction: Floats, rng: np.random.Generator) -> Floats:
    """Measured vertices (n, 3)."""
    n = len(vertex)
    by = np.where(rng.random(n) < MISPLACED, rng.exponential(MISPLACED_BY, n), 0.0)
    return np.asarray(vertex + by[:, None] * direction + 0.5 * rng.standard_normal((n, 3)))


def _cloud(events: nu.Events, vertex: Floats, place: Floats, rng: np.random.Generator) -> dict[str, object]:
    """The columns of the hits, in float32, and the sum of their charges."""
    hits, offsets = all_hits(events, vertex, rng)
    hits[:, :3] -= np.repeat(place, np.diff(offsets), 0)
    cloud = {f"hits.{name}": nu.Ragged(hits[:, k].astype(np.float32), offsets) for k, name in enumerate(HITS)}
    owner = np.repeat(np.arange(len(events)), np.diff(offsets))
    return {**cloud, "e_visible": np.bincount(owner, hits[:, 3], minlength=len(events))}


def select(events: nu.Events) -> nu.Events:
    """The events with ``pass_reco`` worked out anew from their columns.

    ``efficiency`` is compared with a random number that is the event's own, ``draw``, so that what was found at a lower
    efficiency stays found at a higher one.
    """
    found = events["draw"] < events["efficiency"]
    above = (events["p_reco"] > P_MIN) & (events["e_visible"] > E_VISIBLE_MIN)
    return events.with_columns(pass_reco=found & above & events["fiducial_reco"])


# -- samples -----------------------------------------------------------------------------------------------------------

TRUTH = ("enu", "interaction", "p_true", "cos_true", "q2", "w")
LATENT = ("contained", "fiducial_true", "fiducial_reco", "efficiency", "draw")
RECO = ("p_reco", "cos_reco", "e_visible")


def simulate(
    model: Model | str, pot: float, seed: int, *, hits: bool = True, events: int | None = None, flux: Flux = NOMINAL
) -> nu.Events:  # fmt: skip
    """Charged-current interactions in the active volume, signal and fakes, for ``pot`` protons on target.

    A Poisson number of them with weight 1, or ``events`` of them with equal weights that sum to the expected number.

    ==================  ============================================================================================
    enu, q2, w          neutrino energy (GeV), Q^2 (GeV^2), W (GeV)
    interaction         0 quasi-elastic, 1 two nucleons, 2 resonance, 3 neutral current (`background`)
    p_true, cos_true    the muon's momentum (GeV) and cosine to the beam
    p_reco, cos_reco    as measured; e_visible, the sum of the charges (MeV).  Finite for every event
    hits.x .y .z        position from the measured vertex (cm); hits.q charge (MeV), hits.length (cm); float32
    pass_truth          the signal; pass_reco, the selection
    contained, ...      for shifts (`select`): contained, fiducial_true, fiducial_reco, efficiency, draw
    ==================  ============================================================================================

    Every interaction is kept, also those that pass neither selection, so that a shift can move them in; `either` leaves
    them out.  ``hits=False`` gives the same events without the cloud.

    Raises
    ------
    ValueError
        for ``pot`` not positive, or an exposure of more than 10 million events.
    KeyError
        for an unknown model.
    """
    model = Model.of(model)
    expected = _expected(pot, float(rates(model, flux).sum()) * TARGETS_ACTIVE)
    n = _number(expected, events, seed, 51)
    seen = observe(generate(model, n, seed, flux=flux), seed)
    signal = seen["fiducial_true"] & (seen["p_true"] > P_MIN)
    weight = 1.0 if events is None else expected / n
    return _kept(seen.with_columns(pass_truth=signal), hits).with_weight(weight)


def background(
    model: Model | str, pot: float, seed: int, *, hits: bool = True, events: int | None = None, flux: Flux = NOMINAL
) -> nu.Events:  # fmt: skip
    """Neutral currents with a positive pion, which may be taken for a muon: 0.35 times the resonance's of each channel.

    Kinematics are those of the charged current with the muon unseen; the columns are those of `simulate`, with p_true
    and cos_true NaN and pass_truth False.  ``events`` counts interactions before the pion's channel is drawn.
    """
    model = Model.of(model)
    expected = _expected(pot, NC_RATIO * float(rates(model, flux)[RESONANCE]) * TARGETS_ACTIVE)
    n = _number(expected, events, seed, 52)
    generated = generate(model, n, seed, flux=flux, classes=(RESONANCE,))
    generated = generated.select(np.linalg.norm(vectors(generated, "pion"), axis=1) > 0)
    none, rows = np.zeros(len(generated)), len(generated)
    unseen = generated.with_columns({f"muon_{axis}": none for axis in "xyz"})
    seen = observe(unseen, seed, candidate="pion")
    lost = {"p_true": np.full(rows, np.nan), "cos_true": np.full(rows, np.nan), "pass_truth": np.zeros(rows, np.bool_)}
    seen = seen.with_columns(lost | {"interaction": np.full(rows, NEUTRAL_CURRENT)})
    return _kept(seen, hits).with_weight(1.0 if events is None else expected / n)


def pseudo_data(model: Model | str, pot: float, seed: int, *, hits: bool = True, flux: Flux = NOMINAL) -> nu.Events:
    """What an experiment selects: Poisson numbers of weight 1, signal, fakes and background, in random order.

    The true columns are there for checks only.  Use a seed that no simulation has.
    """
    parts = [sample(model, pot, seed, hits=hits, flux=flux) for sample in (simulate, background)]
    data = nu.Events.concat([part.select(part["pass_reco"]) for part in parts])
    return data.select(np.random.default_rng([seed, 53]).permutation(len(data)))


def either(events: nu.Events) -> nu.Events:
    """The events that pass a selection; those with neither are no part of a response."""
    return events.select(events["pass_truth"] | events["pass_reco"])


def _expected(pot: float, per_pot: float) -> float:
    if not (0 < pot < np.inf and pot * per_pot < 1e7):
        raise ValueError(f"pot: expected from 0 to {1e7 / per_pot:.2g}, which is 10 million events, found {pot:g}")
    return pot * per_pot


def _number(expected: float, events: int | None, seed: int, stream: int) -> int:
    found = int(np.random.default_rng([seed, stream]).poisson(expected)) if events is None else events
    if found < 1:
        raise ValueError(f"sample: expected at least one event, found {found} of {expected:.3g}; raise pot or events")
    return found


def _kept(events: nu.Events, hits: bool) -> nu.Events:
    cloud = [f"hits.{name}" for name in HITS] if hits else []
    return events.keep([*TRUTH, *RECO, "pass_truth", "pass_reco", *LATENT, *cloud])
