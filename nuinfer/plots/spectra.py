r"""Unfolded spectra: their bins beside truth and prior, how they moved with the iterations, how they are correlated.

Shapes: B bins.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any, NamedTuple

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.ticker import LogFormatter, MaxNLocator
from numpy.typing import ArrayLike

from .figures import BLUE, GREY, ORANGE, RED, one_panel, style, triangles, two_panels
from .inputs import Floats, Scale, check_scale, checked_edges, checked_variances, divided, numbers

__all__ = ["correlation", "iterations", "spectrum"]


class _Spectrum(NamedTuple):
    """Checked bin contents (B,), divided by the bin widths where a density is wanted."""

    edges: Floats
    values: Floats
    sigma: Floats
    truth: Floats | None
    prior: Floats | None

    @property
    def reference(self) -> tuple[str, Floats]:
        """What the lower panel divides by, and its name."""
        if self.truth is not None:
            return "truth", self.truth
        return ("prior", self.prior) if self.prior is not None else ("unfolded", self.values)

    @property
    def overlays(self) -> list[tuple[str, Floats, str, str]]:
        """The histograms to draw over the band: label, contents, colour, line style."""
        both = (("truth", self.truth, RED, "-"), ("prior", self.prior, ORANGE, "--"))
        return [(label, contents, color, line) for label, contents, color, line in both if contents is not None]


@style()
def spectrum(
    edges: ArrayLike,
    values: ArrayLike,
    covariance: ArrayLike,
    *,
    truth: ArrayLike | None = None,
    prior: ArrayLike | None = None,
    label: str = "unfolded",
    xlabel: str = "",
    ylabel: str = "events",
    density: bool = False,
    xscale: Scale = "linear",
    yscale: Scale = "linear",
    axes: Sequence[Axes] | None = None,
) -> tuple[Axes, Axes]:
    r"""An unfolded spectrum (points, with a band of :math:`\pm\sqrt{C_{bb}}`), truth and prior, and their ratio below.

    Parameters
    ----------
    edges:
        Bin edges (B + 1,), rising.
    values:
        Bin contents (B,).
    covariance:
        Their covariance C (B, B), or their variances (B,).
    truth, prior:
        Bin contents (B,) that are drawn as histograms.  The lower panel is the ratio of everything to the truth, to the
        prior where there is no truth, or to the unfolded values themselves where there is neither; its band has the
        uncertainty of the unfolded values only.  A bin in which the reference is 0 has no ratio; a ratio further from 1
        than the panel reaches is marked by a triangle at its edge.
    xlabel:
        The observable and, in brackets, its unit: ``r"$p_\mu$ (GeV)"``.
    density:
        Divide by the bin widths; the label says so, with the unit of ``xlabel``: "events / GeV".
    xscale, yscale:
        ``"linear"`` or ``"log"``; a logarithmic axis cannot show bins that are not positive.
    axes:
        A pair of axes, (main, ratio), to draw on.

    Raises
    ------
    ValueError
        for shapes that do not fit, numbers that are not finite, edges that do not rise, negative variances, a
        covariance that is not symmetric, or a logarithmic axis without anything positive.

    >>> main, ratio = spectrum([0, 1, 3], [4.0, 9.0], [4.0, 9.0], truth=[5.0, 9.0], xlabel="p (GeV)", density=True)
    >>> main.get_ylabel(), main.patches[0].get_data().values.tolist()
    ('events / GeV', [6.0, 6.0])
    """
    found = _checked_spectrum(edges, values, covariance, truth, prior, density)
    check_scale("xscale", xscale, found.edges[:1], "a first edge above 0")
    check_scale("yscale", yscale, found.values, "bins above 0")
    main, ratio = two_panels(axes, "axes")
    for panel in (main, ratio):
        _x_axis(panel, found.edges, xscale)
    _draw_spectrum(main, found, label)
    main.set_yscale(yscale)
    main.set(ylabel=_per_width(ylabel, xlabel) if density else ylabel, ylim=_with_headroom(found, yscale))
    name, reference = found.reference
    _draw_ratio(ratio, found, reference)
    ratio.set(xlabel=xlabel, ylabel=f"ratio to\n{name}")
    return main, ratio


def _checked_spectrum(
    edges: ArrayLike,
    values: ArrayLike,
    covariance: ArrayLike,
    truth: ArrayLike | None,
    prior: ArrayLike | None,
    density: bool,
) -> _Spectrum:
    at = checked_edges(edges)
    bins, width = len(at) - 1, np.diff(at) if density else np.ones(len(at) - 1)
    sigma = np.sqrt(checked_variances(covariance, bins))
    contents = [
        None if part is None else numbers(what, part, bins, "bins") / width
        for what, part in (("truth", truth), ("prior", prior))
    ]
    return _Spectrum(at, numbers("values", values, bins, "bins") / width, sigma / width, *contents)


def _draw_spectrum(main: Axes, found: _Spectrum, label: str) -> None:
    band = _band(main, found.edges, found.values, found.sigma)
    for name, contents, color, line in found.overlays:
        main.stairs(contents, found.edges, baseline=None, color=color, linestyle=line, linewidth=1.5, label=name)
    points = _points(main, found.edges, found.values)
    handles, labels = main.get_legend_handles_labels()
    main.legend([(band, points), *handles], [label, *labels], loc="upper right")


def _draw_ratio(ratio: Axes, found: _Spectrum, reference: Floats) -> None:
    values, sigma = divided(found.values, reference), divided(found.sigma, np.abs(reference))
    _band(ratio, found.edges, values, sigma)
    for _, contents, color, line in found.overlays:
        ratio.stairs(
            divided(contents, reference), found.edges, baseline=None, color=color, linestyle=line, linewidth=1.5
        )
    if not found.overlays:
        ratio.axhline(1, color=GREY, linestyle="--", linewidth=1.2)
    _points(ratio, found.edges, values)
    ratios = [values - sigma, values + sigma, *(divided(part, reference) for _, part, _, _ in found.overlays)]
    span = float(np.clip(1.15 * np.nanmax(np.abs(np.stack(ratios) - 1), initial=0.0), 0.05, 1.1))
    triangles(ratio, _centres(ratio, found.edges), values, span)
    ratio.set_ylim(1 - span, 1 + span)
    ratio.yaxis.set_major_locator(MaxNLocator(5, steps=[1, 2, 5, 10], prune="both"))


def _band(ax: Axes, edges: Floats, values: Floats, sigma: Floats) -> Any:
    return ax.stairs(values + sigma, edges, baseline=values - sigma, fill=True, color=BLUE, alpha=0.4, linewidth=0)


def _points(ax: Axes, edges: Floats, values: Floats) -> Any:
    """Points at the middle of the bins, with bars over their widths."""
    at = _centres(ax, edges)
    reach = np.stack([at - edges[:-1], edges[1:] - at])
    return ax.errorbar(at, values, xerr=reach, fmt="o", color="black", markersize=3.5, elinewidth=1.0, zorder=4)


def _centres(ax: Axes, edges: Floats) -> Floats:
    """The middle of the bins as seen on the axis: the geometric one on a logarithmic axis."""
    if ax.get_xscale() == "log":
        return np.asarray(np.sqrt(edges[:-1] * edges[1:]))
    return np.asarray((edges[:-1] + edges[1:]) / 2)


def _x_axis(ax: Axes, edges: Floats, scale: Scale) -> None:
    ax.set_xscale(scale)
    if scale == "log":  # 1, 10, 100 instead of powers of ten; 2, 5 as well where there is less than a decade
        ax.xaxis.set_major_formatter(LogFormatter())
        ax.xaxis.set_minor_formatter(LogFormatter())
    ax.set_xlim(float(edges[0]), float(edges[-1]))


def _with_headroom(found: _Spectrum, scale: Scale) -> tuple[float, float]:
    """Limits of the main panel with room for the legend above everything drawn."""
    contents = np.stack([part for part in (found.values, found.truth, found.prior) if part is not None])
    low = min(float(contents.min()), float((found.values - found.sigma).min()))
    high = max(float(contents.max()), float((found.values + found.sigma).max()))
    if scale == "log":
        bottom = 0.4 * float(contents[contents > 0].min())
        return bottom, bottom * (high / bottom) ** 1.4
    bottom = 0.0 if low >= 0 else low - 0.05 * (high - low)
    return bottom, (bottom + 1.4 * (high - bottom)) if high > bottom else bottom + 1.0


def _per_width(ylabel: str, xlabel: str) -> str:
    """The label of a density: per unit of x where ``xlabel`` ends with it in brackets, else per bin width."""
    unit = re.search(r"[(\[]([^()\[\]]+)[)\]]\s*$", xlabel)
    if unit is None:
        return f"{ylabel} / bin width"
    return f"{ylabel} / {unit[1]}" if re.fullmatch(r"[\w%]+", unit[1]) else f"{ylabel} / ({unit[1]})"


@style()
def iterations(
    spectra: Sequence[ArrayLike],
    edges: ArrayLike,
    *,
    covariance: ArrayLike | None = None,
    xlabel: str = "",
    xscale: Scale = "linear",
    ax: Axes | None = None,
) -> Axes:
    r"""How an unfolded spectrum moves: the ratio of each iteration's bin contents to those of the last iteration.

    Parameters
    ----------
    spectra:
        Bin contents after iteration 1, 2, ...: at least two arrays (B,).
    covariance:
        The covariance (B, B), or variances (B,), of the last spectrum, drawn as a band: iterations that move by less
        than it no longer matter.

    A bin in which the last spectrum is 0 has no ratio.  Raises as `spectrum`.

    >>> ax = iterations([[8.0, 5.0], [9.0, 4.0], [10.0, 4.0]], [0, 1, 2])
    >>> [step.get_data().values.tolist() for step in ax.patches]
    [[0.8, 1.25], [0.9, 1.0], [1.0, 1.0]]
    """
    at = checked_edges(edges)
    each = [numbers(f"iteration {n}", s, len(at) - 1, "bins") for n, s in enumerate(spectra, start=1)]
    if len(each) < 2:
        raise ValueError(f"spectra: expected at least 2 iterations, found {len(each)}")
    sigma = None if covariance is None else np.sqrt(checked_variances(covariance, len(at) - 1))
    check_scale("xscale", xscale, at[:1], "a first edge above 0")
    ax = one_panel(ax)
    _x_axis(ax, at, xscale)
    last = each[-1]
    if sigma is not None:
        _band(ax, at, divided(last, last), divided(sigma, np.abs(last))).set_label(f"uncertainty ({len(each)})")
    named = set(np.linspace(1, len(each), min(len(each), 8)).round().astype(int).tolist())
    for n, contents in enumerate(each, start=1):
        color = matplotlib.colormaps["viridis_r"](0.2 + 0.7 * n / len(each)) if n < len(each) else "black"
        name = f"iteration {n}" if n in named else "_nolegend_"
        ax.stairs(divided(contents, last), at, baseline=None, color=color, linewidth=1.4, label=name)
    ax.set(xlabel=xlabel, ylabel=f"ratio to iteration {len(each)}")
    low, high = ax.get_ylim()
    ax.set_ylim(low, high + 0.45 * (high - low))
    ax.legend(loc="upper center", ncols=2)
    return ax


@style()
def correlation(
    covariance: ArrayLike, edges: ArrayLike, *, label: str = "", scale: Scale = "linear", ax: Axes | None = None
) -> Axes:
    r"""The correlation matrix :math:`\rho_{ab} = C_{ab} / \sqrt{C_{aa} C_{bb}}` of a spectrum, colours from -1 to 1.

    Parameters
    ----------
    covariance:
        The covariance C (B, B).  A bin of variance 0 has no correlations and stays grey.
    edges:
        Bin edges (B + 1,), rising.
    label:
        The observable and its unit, for both axes.

    Raises
    ------
    ValueError
        for shapes that do not fit, numbers that are not finite, edges that do not rise, negative variances, or a matrix
        that is not symmetric or has correlations beyond 1.

    >>> ax = correlation([[4.0, 1.0], [1.0, 1.0]], [0, 1, 2])
    >>> ax.collections[0].get_array().tolist()
    [[1.0, 0.5], [0.5, 1.0]]
    """
    at = checked_edges(edges)
    matrix = np.asarray(covariance, np.float64)
    if matrix.ndim != 2:
        raise ValueError(f"covariance: expected a matrix ({len(at) - 1}, {len(at) - 1}), found shape {matrix.shape}")
    sigma = np.sqrt(checked_variances(matrix, len(at) - 1))
    rho = divided(matrix, np.outer(sigma, sigma))
    if np.nanmax(np.abs(rho), initial=0.0) > 1 + 1e-6:
        raise ValueError(f"covariance: expected correlations in [-1, 1], found one of {np.nanmax(np.abs(rho)):.4g}")
    check_scale("scale", scale, at[:1], "a first edge above 0")
    ax = one_panel(ax, "compressed")
    _x_axis(ax, at, scale)
    ax.set_yscale(scale)
    ax.set_facecolor("0.85")
    # edges in the colour of the face close the white seams that PDF viewers draw between cells
    mesh = ax.pcolormesh(at, at, rho, cmap="RdBu_r", vmin=-1, vmax=1, edgecolors="face", linewidth=0.2)
    bar = ax.figure.colorbar(mesh, ax=ax, label="correlation", ticks=[-1, -0.5, 0, 0.5, 1], fraction=0.046, pad=0.03)
    if bar.solids is not None:
        bar.solids.set_edgecolor("face")
    bar.minorticks_off()
    bar.ax.tick_params(axis="y", which="both", left=False)
    ax.tick_params(which="both", direction="out", top=False, right=False)
    ax.set(xlabel=label, ylabel=label, ylim=ax.get_xlim(), box_aspect=1, anchor="C")
    ax.yaxis.set_major_formatter(ax.xaxis.get_major_formatter())
    return ax
