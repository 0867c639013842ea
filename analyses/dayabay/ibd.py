r"""Inverse beta decay: cross-section to first order in 1/M, kinematics, and the quadrature over a bin of energy.

For an antineutrino of energy E on a proton at rest, with the positron's energy and angle at zeroth order
:math:`E^{(0)}_e = E - \Delta`, :math:`v^{(0)}_e = p^{(0)}_e/E^{(0)}_e`,

.. math::
    E^{(1)}_e &= E^{(0)}_e \Big[1 - \frac{E}{M} (1 - v^{(0)}_e \cos\theta)\Big] - \frac{y^2}{M}, \qquad
        y^2 = (\Delta^2 - m_e^2)/2 \\
    \Big(\frac{d\sigma}{d\cos\theta}\Big)^{(1)} &= \frac{\sigma_0}{2} \big[(f^2 + 3 g^2)
        + (f^2 - g^2) v^{(1)}_e \cos\theta\big] E^{(1)}_e p^{(1)}_e
        - \frac{\sigma_0}{2} \frac{\Gamma}{M} E^{(0)}_e p^{(0)}_e

Source: Vogel, Beacom, Phys. Rev. D 60 (1999) 053003 (hep-ph/9903554), equations 11 to 13, normalised by the neutron's
lifetime as told there: :math:`\sigma_0 (f^2 + 3 g^2) = 2 \pi^2 / (m_e^5 f_R \tau_n)` with the phase-space factor
:math:`f_R`.  Only the cross-section is expanded: the antineutrino's energy is that of two bodies exactly, and its
measure for energies of the positron is :math:`dE/dE_e`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import constants

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Constants:
    """Masses in MeV, the neutron's lifetime in seconds, couplings f, g, f2 and the phase-space factor."""

    electron: float
    proton: float
    neutron: float
    lifetime: float
    phase_space: float
    f: float
    g: float
    f2: float

    @classmethod
    def of(cls, particles: Mapping[str, float], couplings: Mapping[str, float]) -> Constants:
        return cls(
            particles["ElectronMass"], particles["ProtonMass"], particles["NeutronMass"], particles["NeutronLifeTime"],
            couplings["PhaseSpaceFactor"], couplings["f"], couplings["g"], couplings["f2"],
        )  # fmt: skip

    @property
    def delta(self) -> float:
        """Delta, the difference of the nucleons' masses."""
        return self.neutron - self.proton

    @property
    def nucleon(self) -> float:
        """M, their mean."""
        return (self.neutron + self.proton) / 2

    @property
    def sigma0(self) -> float:
        """sigma_0 in cm^2 / MeV^2."""
        hbar = constants.hbar / (1e6 * constants.e)  # MeV s
        per_time = self.phase_space * (self.f**2 + 3 * self.g**2) * self.electron**5 * self.lifetime
        return 2 * np.pi**2 * hbar / per_time * (hbar * constants.c * 100) ** 2


def neutrino_energy(positron: Floats, cosine: Floats, c: Constants) -> Floats:
    """E (N,) from the positron's energy (N,) and the cosine of its angle (N,), exact for a proton at rest."""
    delta = (c.neutron**2 - c.proton**2 - c.electron**2) / (2 * c.proton)
    return (positron + delta) / (1 - positron / c.proton * (1 - _speed(positron, c) * cosine))


def jacobian(positron: Floats, cosine: Floats, c: Constants) -> Floats:
    """dE/dE_e (N,) at a fixed angle; 0 below the positron's mass."""
    energy, speed = neutrino_energy(positron, cosine, c), _speed(positron, c)
    with np.errstate(divide="ignore", invalid="ignore"):
        found = (c.proton + energy * (1 - cosine / speed)) / (c.proton - positron * (1 - speed * cosine))
    return np.where(positron > c.electron, found, 0.0)


def cross_section(energy: Floats, cosine: Floats, c: Constants) -> Floats:
    """d sigma / d cos theta (N,) in cm^2, 0 below the threshold."""
    e0 = energy - c.delta
    e1 = e0 * (1 - energy / c.nucleon * (1 - _speed(e0, c) * cosine)) - (c.delta**2 - c.electron**2) / 2 / c.nucleon
    above = (e0 > c.electron) & (e1 > c.electron)
    e0, e1 = (np.where(above, e, 2 * c.electron) for e in (e0, e1))
    v0, v1 = _speed(e0, c), _speed(e1, c)
    first = ((c.f**2 + 3 * c.g**2) + (c.f**2 - c.g**2) * v1 * cosine) * e1**2 * v1
    second = _gamma(e0, v0, cosine, c) / c.nucleon * e0**2 * v0
    return np.where(above, c.sigma0 / 2 * (first - second), 0.0)


def _gamma(e0: Floats, v0: Floats, cosine: Floats, c: Constants) -> Floats:
    """Gamma (N,), equation 13."""
    f, g, mass = c.f, c.g, c.electron**2 / e0
    recoil = (e0 + c.delta) * (1 - cosine / v0) - c.delta
    return (
        2 * g * (f + c.f2) * ((2 * e0 + c.delta) * (1 - v0 * cosine) - mass)
        + (f**2 + g**2) * (c.delta * (1 + v0 * cosine) + mass)
        + ((f**2 + 3 * g**2) + (f**2 - g**2) * v0 * cosine) * recoil
    )


def _speed(energy: Floats, c: Constants) -> Floats:
    """v (N,) of a positron; 0 below its mass."""
    return np.sqrt(np.maximum(1 - (c.electron / np.maximum(energy, 1e-9)) ** 2, 0.0))


def quadrature(edges: Floats, c: Constants, *, energies: int = 5, angles: int = 3) -> tuple[Floats, Floats]:
    """Antineutrino energies and weights (B, Q) of the integral over deposited energy and angle in each bin.

    The weights hold the cross-section and dE/dE_e, so that a flux phi(E) gives the rate of a bin as
    sum_q weight_q phi(E_q), in cm^2 MeV.  The deposited energy is the positron's and one more electron mass.
    """
    x, by_x = np.polynomial.legendre.leggauss(energies)
    cosine, by_cosine = np.polynomial.legendre.leggauss(angles)
    half, middle = np.diff(edges) / 2, (edges[1:] + edges[:-1]) / 2
    deposited = middle[:, None] + half[:, None] * x
    positron, cos = (a.ravel() for a in np.broadcast_arrays(deposited[..., None] - c.electron, cosine))
    energy = neutrino_energy(positron, cos, c)
    weight = (half[:, None, None] * by_x[:, None] * by_cosine).ravel()
    rate = weight * cross_section(energy, cos, c) * jacobian(positron, cos, c)
    return energy.reshape(len(half), -1), rate.reshape(len(half), -1)
