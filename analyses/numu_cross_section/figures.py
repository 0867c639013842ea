"""The figures of the cross-section: response, results beside generators and each other, uncertainties, correlation."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from numpy.typing import NDArray

import nuinfer as nu
from analyses.numu_cross_section.detector import TARGETS
from analyses.numu_cross_section.flux import INTEGRAL
from analyses.numu_cross_section.unfolding import COS_EDGES, P_EDGES, TRUTH
from analyses.report import Picture
from nuinfer.unfolding import Response, Spectrum

Floats = NDArray[np.float64]

NAMES = {"cos_true": r"$\cos\theta_\mu$", "p_true": r"$p_\mu$ (GeV)"}
SOURCES = {
    "flux": "flux", "cross_section": "cross-section", "two_nucleon": "two nucleons", "detector_scale": "detector scale",
    "efficiency": "efficiency", "remainder": "statistics, rest", "method": "training",
}  # fmt: skip
UNIT = 1e-38
METHODS = (("o", "black"), ("s", "#e42536"), ("^", "#5790fc"), ("v", "#964a8b"), ("D", "#f89c20"))


def pictures(
    response: Response, spectra: Mapping[str, Spectrum], truth: Mapping[str, Floats], pot: float
) -> list[Picture]:
    """All figures."""
    shown = [Picture("response", nu.plots.response_matrix(response)[0],
                     "migration matrix of simulated events, bins numbered slice by slice")]  # fmt: skip
    # to the contents of bins, of which the figure makes densities by dividing by their widths
    factor = 1 / (INTEGRAL * TARGETS * pot * UNIT)
    generators = {f"generator {model}": factor * contents for model, contents in truth.items()}
    shown += [result(name, scaled(drawn(one), factor), generators) for name, one in spectra.items()]
    best = drawn(spectra["Wiener-SVD"])
    shown += [
        Picture("methods", methods(spectra, truth), "all methods over generator B, each through its A_C: bars are all "
                "uncertainties but the five sources, which move the methods together; the band is the whole of "
                "Wiener-SVD's"),
        Picture("sources", by_source(spectra), "fractional uncertainty of each bin by source and "
                "method, bins numbered slice by slice; the backward bin above 0.6 GeV, number 2, has few events"),
        Picture("uncertainties", nu.plots.uncertainties(best, names=NAMES, sources=SOURCES,
                                                        xlabel=NAMES["p_true"])[0],
                "Wiener-SVD: fractional uncertainty by source, stacked in quadrature"),
        Picture("smearing", nu.plots.smearing(best), "Wiener-SVD: the additional smearing matrix"),
        Picture("correlation", nu.plots.bin_correlation(best), "Wiener-SVD: correlation of the bins over all throws"),
    ]  # fmt: skip
    return shown


def result(name: str, spectrum: Spectrum, generators: Mapping[str, Floats]) -> Picture:
    """A method's cross-section beside the generators."""
    axes = nu.plots.unfolded(spectrum, models=generators, names=NAMES, sources=SOURCES, label=f"{name}, data of B",
                             xlabel=NAMES["p_true"], ylabel=r"$10^{-38}$ cm$^2$ / GeV / nucleon")  # fmt: skip
    total = f"{spectrum.values.sum():.3f} +- {np.sqrt(spectrum.covariance.sum()):.3f}"
    through = "generators through A_C" if spectrum.smearing is not None else "generators as they are"
    caption = f"{name}: double-differential cross-section, total {total}; {through}"
    return Picture(name.split("-")[0].replace(", ", "_").replace(" ", "_").lower(), axes[0], caption)


def drawn(spectrum: Spectrum) -> Spectrum:
    """Sources without negative eigenvalues, what that adds taken from the remainder: the sum is what it was."""
    found = spectrum.positive()
    rest = found.covariances["remainder"] - (found.covariance - spectrum.covariance)
    if (np.diag(rest) < 0).any():  # few throws; the sum of all grows
        return found
    return replace(found, covariances={**found.covariances, "remainder": rest})


@nu.plots.style()
def methods(spectra: Mapping[str, Spectrum], truth: Mapping[str, Floats]) -> Axes:
    """Ratios to generator B, slice by slice."""
    figure = Figure(figsize=(9.6, 6.0), layout="constrained")
    panels: list[Axes] = figure.subplots(2, 3, sharey=True).ravel().tolist()
    band, (low, high) = spectra["Wiener-SVD"], np.quantile(truth["A"] / truth["B"], [0, 1])
    for (part, edges, title), ax in zip(slices(), panels, strict=True):
        for k, ((name, one), (marker, colour)) in enumerate(zip(spectra.items(), METHODS, strict=True)):
            exact = one.smear(truth["B"])[part]
            at = edges[:-1] + np.diff(edges) * (k + 1) / (len(spectra) + 1)
            ax.errorbar(at, one.values[part] / exact, own(one)[part] / exact, fmt=marker, color=colour, markersize=3.5,
                        elinewidth=1.0, label=name)  # fmt: skip
        centre, reach = np.ones(len(edges) - 1), band.uncertainty[part] / band.smear(truth["B"])[part]
        ax.stairs(centre + reach, edges, baseline=centre - reach, fill=True, color="0.88", label="all uncertainties")
        ax.axhline(1, color="0.4", linewidth=1.0)
        ax.stairs((truth["A"] / truth["B"])[part], edges, baseline=None, color="0.4", linestyle="--",
                  label="generator A")  # fmt: skip
        ax.set(xlim=(edges[0], edges[-1]), ylim=(min(0.6, low - 0.1), max(1.4, high + 0.1)), xlabel=NAMES["p_true"])
        ax.set_title(title, fontsize=10.5)
    for ax in panels[::3]:
        ax.set_ylabel("over generator B")
    figure.legend(*panels[0].get_legend_handles_labels(), loc="outside upper center", ncols=4)
    return panels[0]


def own(spectrum: Spectrum) -> Floats:
    """Uncertainties (B,) of statistics, training and what the knobs do not explain."""
    found = drawn(spectrum).covariances
    return np.asarray(np.sqrt(np.diag(found["remainder"] + found.get("method", 0.0))))


@nu.plots.style()
def by_source(spectra: Mapping[str, Spectrum]) -> Axes:
    """Fractional uncertainties by bin number, a panel a source; the largest bin may leave the frame."""
    figure = Figure(figsize=(9.6, 5.6), layout="constrained")
    panels: list[Axes] = figure.subplots(2, 3, sharex=True, sharey=True).ravel().tolist()
    numbers, top = np.arange(TRUTH.size + 1) - 0.5, 0.0
    shown = [name for name in SOURCES if name != "method"]
    for source, ax in zip(shown, panels, strict=True):
        for (name, one), (_, colour) in zip(spectra.items(), METHODS, strict=True):
            share = sigma(one, source) / one.values
            ax.stairs(share, numbers, baseline=None, color=colour, linewidth=1.3, label=name)
            top = max(top, float(np.sort(share)[-2]))
        for part, _, _ in slices()[1:]:
            ax.axvline(part.start - 0.5, color="0.85", linewidth=0.8, zorder=0)
        ax.set_title("statistics, training, rest" if source == "remainder" else SOURCES[source], fontsize=10.5)
    panels[0].set(xlim=(numbers[0], numbers[-1]), ylim=(0, 1.1 * top))
    for ax in panels[3:]:
        ax.set_xlabel("true bin number")
    for ax in panels[::3]:
        ax.set_ylabel("fractional uncertainty")
    figure.legend(*panels[0].get_legend_handles_labels(), loc="outside upper center", ncols=5)
    return panels[0]


def sigma(spectrum: Spectrum, source: str) -> Floats:
    """Uncertainties (B,) of a source, those of the remainder with training."""
    if source == "remainder":
        return own(spectrum)
    return np.asarray(np.sqrt(np.diag(spectrum.positive().covariances[source])))


def slices() -> list[tuple[slice, Floats, str]]:
    """Bins, edges and title of each slice of cos theta."""
    found, start = [], 0
    for edges, low, high in zip(P_EDGES, COS_EDGES[:-1], COS_EDGES[1:], strict=True):
        title = f"{low:g} \u2264 {NAMES['cos_true']} < {high:g}".replace("-", "\u2212")
        found.append((slice(start, start + len(edges) - 1), np.array(edges), title))
        start += len(edges) - 1
    return found


def scaled(spectrum: Spectrum, factor: float) -> Spectrum:
    """All contents times a factor."""
    covariances = {name: factor**2 * c for name, c in spectrum.covariances.items()}
    return replace(spectrum, values=factor * spectrum.values, covariances=covariances,
                   members=factor * spectrum.members, replicas=factor * spectrum.replicas)  # fmt: skip
