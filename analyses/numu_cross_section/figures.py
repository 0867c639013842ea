"""The figures of the cross-section: response, smearing, result beside the generators, uncertainties, correlation."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

import nuinfer as nu
from analyses.numu_cross_section.detector import TARGETS
from analyses.numu_cross_section.flux import INTEGRAL
from analyses.report import Picture
from nuinfer.unfolding import Response, Spectrum, Thrown

Floats = NDArray[np.float64]

NAMES = {"cos_true": r"$\cos\theta_\mu$", "p_true": r"$p_\mu$ (GeV)"}
SOURCES = {
    "remainder": "statistics, rest", "flux": "flux", "cross_section": "cross-section", "two_nucleon": "two nucleons",
    "detector_scale": "detector scale", "efficiency": "efficiency",
}  # fmt: skip
UNIT = 1e-38


def pictures(
    response: Response, thrown: Mapping[str, Thrown], truth: Mapping[str, Floats], pot: float
) -> list[Picture]:
    """All figures."""
    shown = [Picture("response", nu.plots.response_matrix(response)[0],
                     "migration matrix of simulated events, bins numbered slice by slice")]  # fmt: skip
    # to the contents of bins, of which the figure makes densities by dividing by their widths
    factor = 1 / (INTEGRAL * TARGETS * pot * UNIT)
    generators = {f"generator {model}": factor * contents for model, contents in truth.items()}
    for name, one in thrown.items():
        spectrum = scaled(one.spectrum.positive(), factor)
        axes = nu.plots.unfolded(spectrum, models=generators, names=NAMES, sources=SOURCES, label=f"{name}, data of B",
                                 xlabel=NAMES["p_true"], ylabel=r"$10^{-38}$ cm$^2$ / GeV / nucleon")  # fmt: skip
        total = f"{spectrum.values.sum():.3f} +- {np.sqrt(spectrum.covariance.sum()):.3f}"
        caption = f"{name}: double-differential cross-section, total {total}; generators through A_C"
        shown.append(Picture(name.split("-")[0].replace(" ", "_").lower(), axes[0], caption))
    best = thrown["Wiener-SVD"].spectrum.positive()
    shown += [
        Picture("uncertainties", nu.plots.uncertainties(best, names=NAMES, sources=SOURCES,
                                                        xlabel=NAMES["p_true"])[0],
                "Wiener-SVD: fractional uncertainty by source, stacked in quadrature"),
        Picture("smearing", nu.plots.smearing(best), "Wiener-SVD: the additional smearing matrix"),
        Picture("correlation", nu.plots.bin_correlation(best), "Wiener-SVD: correlation of the bins over all throws"),
    ]  # fmt: skip
    return shown


def scaled(spectrum: Spectrum, factor: float) -> Spectrum:
    """All contents times a factor."""
    covariances = {name: factor**2 * c for name, c in spectrum.covariances.items()}
    return replace(spectrum, values=factor * spectrum.values, covariances=covariances,
                   members=factor * spectrum.members, replicas=factor * spectrum.replicas)  # fmt: skip
