"""The spectrum of the resonance variable: a smooth function, fitted to the sidebands."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ... import hashing
from ...events import Events
from ..bump.fits import fit_bump
from ..bump.likelihoods import BumpLikelihood
from ..bump.shapes import BackgroundShape
from ..regions import Window

__all__ = ["MassSpectrum", "fit_spectrum"]

Floats = NDArray[np.float64]
Interval = tuple[float, float]

_CELLS = 1000  # of the cumulative distribution
_BINS = 20  # of a sideband


@dataclass(frozen=True, eq=False)
class MassSpectrum:
    """Background events per unit of the resonance variable; made by `fit_spectrum`.

    Attributes
    ----------
    shape, parameters:
        The function, and its parameters (P,).
    p:
        Of the fit's chi2 in the sidebands.
    """

    shape: BackgroundShape
    parameters: Floats
    p: float

    def expected(self, region: Interval) -> float:
        """The expected number of background events in ``region``."""
        return float(self._cells(region)[1].sum())

    def sample(self, region: Interval, *, n: int | None = None, seed: int) -> Floats:
        """Masses (n,) in ``region``, in random order; a Poisson number of the expected ones for None."""
        rng = np.random.default_rng(hashing.salt(seed, "spectrum"))
        n = int(rng.poisson(self.expected(region))) if n is None else n
        return self.quantiles(region, rng.random(n))

    def quantiles(self, region: Interval, share: Floats) -> Floats:
        """Masses (N,) in ``region`` below which the shares (N,) of its events are expected."""
        edges, contents = self._cells(region)
        cumulative = np.concatenate([[0.0], np.cumsum(contents)])
        found = np.interp(share * cumulative[-1], cumulative, edges)
        return np.asarray(np.minimum(found, np.nextafter(region[1], region[0])))

    def _cells(self, region: Interval) -> tuple[Floats, Floats]:
        edges = np.linspace(*region, _CELLS + 1)
        contents = self.shape.integrals(np.stack([edges[:-1], edges[1:]], 1), self.parameters, 4)
        if not ((contents >= 0).all() and contents.sum() > 0):
            raise ValueError(f"spectrum: expected a positive one from {region[0]:g} to {region[1]:g}, found a negative "
                             f"density of the fitted {type(self.shape).__name__}; take another shape")  # fmt: skip
        return edges, contents


def fit_spectrum(events: Events, resonance: str, window: Window, shape: BackgroundShape) -> MassSpectrum:
    """Fit ``shape`` to the sidebands of weighted events, the rest left out.

    Raises
    ------
    ValueError
        for negative contents of a bin.
    NotConverged
        as `nuinfer.anomaly.bump.fit_bump`.
    """
    edges, gaps = _bins(window)
    mass, weight = events.flat(resonance), events.weight
    contents, squares = (np.histogram(mass, edges, weights=w)[0] for w in (weight, weight**2))
    weighted = bool((weight != 1).any())
    likelihood = BumpLikelihood.binned(
        np.rint(contents) if not weighted else contents, shape, edges=edges, exclude=gaps, weighted=weighted,
        variance=squares if weighted else None,
    )  # fmt: skip
    fit = fit_bump(likelihood)
    return MassSpectrum(
        likelihood.background, np.array([fit.values[name] for name in likelihood.background.names]), fit.p
    )


def _bins(window: Window) -> tuple[Floats, list[Interval]]:
    """Edges of narrow bins in the sidebands and wide ones between them, and these gaps."""
    parts, gaps = [], []
    for number, (low, high) in enumerate(window.sidebands):
        before = window.sidebands[number - 1][1] if number else low
        if before < low:
            gaps.append((before, low))
        parts.append(np.linspace(low, high, _BINS + 1))
    return np.unique(np.concatenate(parts)), gaps
