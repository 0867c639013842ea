r"""The muon-neutrino flux: a sum of two log-normal densities, like that of a short-baseline beam.

Per cm^2, GeV and proton on target (POT), for energies E from 0.2 to 5 GeV and zero elsewhere,

.. math::
    \phi(E) = \Phi_0\, e^{n z_1} \Big(\frac{E}{E_0}\Big)^{t z_3}
              \sum_k f_k\, \mathrm{LN}\big(E;\, \ln m_k + s z_2,\, \sigma_k\big) / c, \qquad
    \mathrm{LN}(E; \mu, \sigma) = \frac{1}{\sqrt{2\pi}\,\sigma E} e^{-(\ln E - \mu)^2 / 2\sigma^2}

with f = (0.8, 0.2), medians m = (0.75, 1.5) GeV, widths (0.45, 0.35), E_0 = 0.8 GeV, and c such that the nominal flux,
z = 0, integrates to :math:`\Phi_0 = 7 \cdot 10^{-10}` / cm^2 / POT.  It peaks at 0.62 GeV with a mean of 0.98 GeV; size
and shape resemble those of the Booster beam (MiniBooNE, arXiv:0806.1449), but nothing is fitted to it.

**Knobs** z, each a standard normal number: the normalisation, 1 sigma = 5% (with POT); the peak, all energies scaled by
2%; the hadron production, a tilt by E^0.1.  They are correlated, `CORRELATION`.

**The integral is exact.**  A power of E keeps a density log-normal,
:math:`E^t\,\mathrm{LN}(E; \mu, \sigma) = e^{t\mu + t^2\sigma^2/2}\,\mathrm{LN}(E; \mu + t\sigma^2, \sigma)`, whose
integrals are differences of error functions.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.special import ndtr

Floats = NDArray[np.float64]

INTEGRAL = 7e-10  # Phi_0, neutrinos / cm^2 / POT
E_MIN, E_MAX = 0.2, 5.0  # GeV
FRACTIONS = np.array([0.8, 0.2])
MEDIANS = np.array([0.75, 1.5])  # GeV
WIDTHS = np.array([0.45, 0.35])
PIVOT = 0.8  # GeV
KNOBS = ("normalisation", "peak", "tilt")
SIGMAS = {"normalisation": 0.05, "peak": 0.02, "tilt": 0.1}
CORRELATION = np.array([[1.0, 0.2, 0.5], [0.2, 1.0, -0.3], [0.5, -0.3, 1.0]])


@dataclass(frozen=True)
class Flux:
    """The flux with its knobs in standard deviations; ``Flux()`` is the nominal one.

    >>> f"{Flux().integral():.6g}", f"{Flux(normalisation=1.0).integral():.6g}"
    ('7e-10', '7.3589e-10')
    """

    normalisation: float = 0.0
    peak: float = 0.0
    tilt: float = 0.0

    @classmethod
    def of(cls, alpha: ArrayLike) -> Flux:
        """From independent standard normal numbers (3,): z = L alpha, with L L^T the correlation."""
        z = np.linalg.cholesky(CORRELATION) @ np.asarray(alpha, np.float64)
        return cls(*map(float, z))

    def density(self, energy: ArrayLike) -> Floats:
        """phi(E), neutrinos / cm^2 / GeV / POT: GeV (*) -> (*)."""
        e = np.asarray(energy, np.float64)
        inside = (e >= E_MIN) & (e <= E_MAX)
        log = np.log(np.where(inside, e, 1.0))
        z = (log[..., None] - self._centres()) / WIDTHS
        shape = (FRACTIONS / WIDTHS * np.exp(-(z**2) / 2)).sum(-1) / np.sqrt(2 * np.pi)
        tilted = np.exp(self._exponent() * (log - np.log(PIVOT)) - log)
        return np.where(inside, self._height() * shape * tilted, 0.0)

    def integral(self, low: ArrayLike = E_MIN, high: ArrayLike = E_MAX) -> Floats:
        """Its integral from ``low`` to ``high`` (GeV), neutrinos / cm^2 / POT: (*), (*) -> (*)."""
        edges = (np.log(np.clip(np.asarray(e, np.float64), E_MIN, E_MAX))[..., None] for e in (low, high))
        return np.asarray(self._height() * (FRACTIONS * self._parts(*edges)).sum(-1))

    def _parts(self, low: Floats, high: Floats) -> Floats:
        """Integrals of (E/E_0)^t times each log-normal between two log energies: (*, 1), (*, 1) -> (*, 2)."""
        t, centres = self._exponent(), self._centres()
        factor = np.exp(t * (centres - np.log(PIVOT)) + (t * WIDTHS) ** 2 / 2)
        a, b = ((edge - centres - t * WIDTHS**2) / WIDTHS for edge in (low, high))
        return np.asarray(factor * (ndtr(b) - ndtr(a)))

    def _centres(self) -> Floats:
        return np.asarray(np.log(MEDIANS) + SIGMAS["peak"] * self.peak)

    def _exponent(self) -> float:
        return SIGMAS["tilt"] * self.tilt

    def _height(self) -> float:
        return INTEGRAL / _AREA * float(np.exp(SIGMAS["normalisation"] * self.normalisation))


NOMINAL = Flux()
_AREA = float((FRACTIONS * NOMINAL._parts(np.log([E_MIN]), np.log([E_MAX]))).sum())  # c
