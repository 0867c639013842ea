"""Known resonances that decay to two muons, which a hunt leaves out, and by which a resolution is measured.

Masses and widths: Particle Data Group, S. Navas et al., Phys. Rev. D 110 (2024) 030001.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from nuinfer.anomaly.bump import SignalShape

__all__ = ["KNOWN", "Resonance", "parsed", "vetoed"]


@dataclass(frozen=True)
class Resonance:
    """A name, and mass and width in GeV."""

    name: str
    mass: float
    width: float

    def __post_init__(self) -> None:
        """Check."""
        if not (0 < self.mass < math.inf and 0 <= self.width < math.inf):
            raise ValueError(f"resonance {self.name!r}: expected a positive mass and a width from 0 in GeV, found "
                             f"{self.mass:g} and {self.width:g}")  # fmt: skip


KNOWN = (
    Resonance("rho", 0.77526, 0.1474),
    Resonance("omega", 0.78266, 0.00868),
    Resonance("phi", 1.019461, 0.004249),
    Resonance("J/psi", 3.096900, 92.6e-6),
    Resonance("psi(2S)", 3.686097, 293e-6),
    Resonance("Upsilon(1S)", 9.46040, 54.02e-6),
    Resonance("Upsilon(2S)", 10.0234, 31.98e-6),
    Resonance("Upsilon(3S)", 10.3551, 20.32e-6),
    Resonance("Z", 91.1880, 2.4955),
)


def parsed(text: str) -> tuple[Resonance, ...]:
    """``"X:28.3:0.1,Y:40:0"`` as resonances: name, mass and width in GeV.

    Raises
    ------
    ValueError
        for anything else.

    >>> parsed("X:28.3:0.1")
    (Resonance(name='X', mass=28.3, width=0.1),)
    """
    found = []
    for part in filter(None, (piece.strip() for piece in text.split(","))):
        name, *numbers = part.split(":")
        try:
            mass, width = map(float, numbers)
        except ValueError as error:
            raise ValueError(f"resonances: expected NAME:MASS:WIDTH in GeV, separated by commas, found "
                             f"{part!r}") from error  # fmt: skip
        found.append(Resonance(name, mass, width))
    return tuple(found)


def vetoed(known: Sequence[Resonance], peak: SignalShape, times: float) -> list[tuple[float, float]]:
    """Regions of so many widths, natural and of the resolution in quadrature, to either side; none for 0."""
    if not 0 <= times < math.inf:
        raise ValueError(f"veto: expected a number of widths from 0, found {times:g}")
    halves = [times * math.hypot(each.width, peak.width(each.mass)) for each in known]
    return [(max(each.mass - half, 1e-3), each.mass + half) for each, half in zip(known, halves, strict=True) if half]
