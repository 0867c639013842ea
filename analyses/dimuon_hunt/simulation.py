r"""Events of two muons with a known mass spectrum: a smooth continuum, and peaks.

The continuum falls as :math:`m^{-s}` (Drell and Yan's is near s = 3 well below the Z), a peak is a Gaussian in mass
with the resolution in it.  The parent has an exponential transverse momentum and a flat rapidity, and decays evenly
over all directions into two muons; so that the invariant mass of the four-vectors is the drawn one to rounding.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

import nuinfer as nu

from .muons import MUON

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Bump:
    """So many events at a mass in GeV, with the relative resolution."""

    mass: float
    events: int
    relative: float = 0.012


@dataclass(frozen=True)
class Continuum:
    """So many events between two masses in GeV, falling with a power of the mass."""

    events: int
    low: float = 11.0
    high: float = 80.0
    power: float = 3.0

    def draw(self, rng: np.random.Generator) -> Floats:
        """Masses (N,), by the inverse of the cumulative distribution; ``power`` is not 1."""
        low, high = self.low ** (1 - self.power), self.high ** (1 - self.power)
        share = rng.uniform(size=self.events)
        return np.asarray((low + share * (high - low)) ** (1 / (1 - self.power)))

    def expected(self, low: float, high: float) -> float:
        """Events between two masses."""
        below = [m ** (1 - self.power) for m in (low, high, self.low, self.high)]
        return float(self.events * (below[1] - below[0]) / (below[3] - below[2]))


def simulate(continuum: Continuum, bumps: Sequence[Bump] = (), *, like_sign: float = 0.0, seed: int) -> nu.Events:
    """Events in the columns of CMS's open data, E1, px1, py1, pz1, Q1, E2 ...; a share of them of like sign."""
    rng = np.random.default_rng(seed)
    peaks = [bump.mass * (1 + bump.relative * rng.normal(size=bump.events)) for bump in bumps]
    mass = rng.permutation(np.concatenate([continuum.draw(rng), *peaks]))
    first, second = decayed(mass, rng)
    charge = rng.choice([-1, 1], size=len(mass))
    other = np.where(rng.uniform(size=len(mass)) < like_sign, charge, -charge)
    columns = {f"{name}{k}": four[:, i] for k, four in ((1, first), (2, second))
               for i, name in enumerate(("E", "px", "py", "pz"))}  # fmt: skip
    return nu.Events({**columns, "Q1": charge, "Q2": other})


def decayed(mass: Floats, rng: np.random.Generator) -> tuple[Floats, Floats]:
    """Four-vectors (N, 4), E first, of both muons of parents (N,)."""
    n = len(mass)
    pt, phi, rapidity = rng.exponential(10.0, n), rng.uniform(-np.pi, np.pi, n), rng.uniform(-1.5, 1.5, n)
    transverse = np.hypot(mass, pt)
    parent = np.stack([transverse * np.cosh(rapidity), pt * np.cos(phi), pt * np.sin(phi),
                       transverse * np.sinh(rapidity)], 1)  # fmt: skip
    cosine, turn = rng.uniform(-1, 1, n), rng.uniform(-np.pi, np.pi, n)
    sine, half = np.sqrt(1 - cosine**2), mass / 2
    momentum = np.sqrt(half**2 - MUON**2)[:, None] * np.stack([sine * np.cos(turn), sine * np.sin(turn), cosine], 1)
    return _boosted(half, momentum, parent, mass), _boosted(half, -momentum, parent, mass)


def _boosted(energy: Floats, momentum: Floats, parent: Floats, mass: Floats) -> Floats:
    """From the rest frame of a parent to that in which it has its four-vector."""
    along = (momentum * parent[:, 1:]).sum(1)
    moved = momentum + parent[:, 1:] * ((along / (parent[:, 0] + mass) + energy) / mass)[:, None]
    return np.concatenate([((parent[:, 0] * energy + along) / mass)[:, None], moved], 1)


def write_csv(path: str | os.PathLike[str], events: nu.Events) -> None:
    """Flat columns with a header, in full precision."""
    import pyarrow as pa
    from pyarrow import csv

    table = pa.table({name: np.asarray(events[name]) for name in events.columns})
    Path(path).parent.mkdir(parents=True, exist_ok=True)
    nu.store.write_atomically(Path(path), lambda temporary: csv.write_csv(table, temporary))
