"""The pictures of the hunt: the whole spectrum, local p-values, the greatest excess, limits."""

from __future__ import annotations

from dataclasses import fields, replace
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.ticker import FuncFormatter, NullFormatter
from numpy.typing import NDArray

from nuinfer import plots
from nuinfer.anomaly.significance import counting_z
from nuinfer.plots.bump_fits import bump_fit, bump_limits, excess_toys, local_p
from nuinfer.plots.figures import BLUE, GREY, RED, headroom, one_panel, two_panels

from .search import Found, Hunted

Floats = NDArray[np.float64]
MASS = r"$m_{\mu\mu}$ (GeV)"
NAMES = {"J/psi": r"$J/\psi$", "psi(2S)": r"$\psi'$", "rho": r"$\rho$", "omega": r"$\omega$", "phi": r"$\phi$",
         "Upsilon(1S)": r"$\Upsilon$", "Upsilon(2S)": "", "Upsilon(3S)": "", "Z": "$Z$"}  # fmt: skip
WIDTH = 6.6  # inches
TICKS = np.outer([1, 2, 5], 10.0 ** np.arange(-1, 4)).ravel()


@plots.style()
def spectrum(hunted: Hunted) -> Axes:
    """Contents of all bins, which are even in resolution, with the local backgrounds, and significances below."""
    main, below = two_panels(None, "axes")
    _sized(main, 5.4)
    edges, counts, expected, used = hunted.edges, hunted.counts, hunted.expected(), hunted.used()
    middle = np.sqrt(edges[1:] * edges[:-1])
    seen = counts > 0
    main.plot(middle[seen], counts[seen], "o", color="black", markersize=1.8, label="pairs", zorder=3)
    main.stairs(np.where(used, expected, np.nan), edges, baseline=None, color=BLUE, linewidth=1.4,
                label="background nearby", zorder=4)  # fmt: skip
    least = 0.25 * float(counts[seen].min())
    main.set(xscale="log", yscale="log", ylabel="pairs per bin", ylim=(least, None))
    z = np.where(used, _signed(counts, np.where(used, expected, 1.0)), np.nan)
    below.plot(middle, z, "o", color="black", markersize=1.6)
    below.axhline(0, color=BLUE, linewidth=1.2)
    below.set(xlabel=MASS, ylabel=r"$\sigma$ per bin")
    span = 1.15 * max(float(np.nanmax(np.abs(z))), 3.0)
    below.set(ylim=(-span, span), xlim=(edges[0], edges[-1]))
    headroom(main, rows=2)
    _vetoes(hunted, (main, below))
    if hunted.found:
        _mark(hunted.found[0], (main, below))
    _log_ticks(below, edges)
    main.legend(loc="upper right", ncols=1)
    return main


def _signed(counts: Floats, expected: Floats) -> Floats:
    """Exact significances of counts, 0 where a p-value is above a half."""
    above = np.maximum(counting_z(counts, expected), 0.0)
    return np.asarray(np.where(counts > expected, above, np.minimum(counting_z(counts, expected, tail="deficit"), 0.0)))


@plots.style()
def p_values(hunted: Hunted) -> Axes:
    """Local p-values by mass, and the global one of the greatest excess."""
    ax = one_panel(None)
    _sized(ax, 4.2)
    local_p(_with_gaps(hunted.scan, ("yields", "errors", "z", "p", "nll")), global_p=hunted.p, xlabel=MASS, ax=ax)
    ax.lines[0].set_linewidth(1.0)
    _finish(hunted, ax)
    return ax


@plots.style()
def excess(hunted: Hunted, found: Found) -> Axes:
    """The segment of an excess: its pairs, the background, the peak with its own mass and width, and pulls."""
    segment = next(each for each in hunted.segments if found.mass in each.scan.masses)
    fit = segment.without if found.fit is None else found.fit
    main, _ = bump_fit(fit, xlabel=MASS, ylabel="pairs per bin", yscale="linear")
    return main


@plots.style()
def limits(hunted: Hunted) -> Axes:
    """Upper limits on the yield by mass, observed and expected.

    Raises
    ------
    ValueError
        for a hunt without limits.
    """
    if hunted.limits is None:
        raise ValueError("hunted: expected one with limits, found none; take Search(limits=True)")
    ax = one_panel(None)
    _sized(ax, 4.4)
    bump_limits(_with_gaps(hunted.limits, ("best", "observed", "expected")), label="pairs", xlabel=MASS, ax=ax)
    ax.lines[0].set(marker="", linewidth=1.1)
    _finish(hunted, ax)
    return ax


@plots.style()
def toys(hunted: Hunted) -> Axes:
    """How often toys have an excess somewhere."""
    return excess_toys(hunted.toys, scan=hunted.scan)


def _with_gaps(found: Any, names: tuple[str, ...]) -> Any:
    """A record by mass with NaN between masses that are far apart, where lines are to break."""
    far = np.flatnonzero(np.diff(found.masses) > 1.5 * found.widths[:-1]) + 1
    middle = np.sqrt(found.masses[far] * found.masses[far - 1])
    filled = {"masses": np.insert(found.masses, far, middle)}
    for name in (each.name for each in fields(found) if each.name != "masses"):
        value = getattr(found, name)
        if isinstance(value, np.ndarray) and len(value) == len(found.masses):
            filled[name] = np.insert(value, far, np.nan if name in names else value[far], axis=0)
    return replace(found, **filled)


def _finish(hunted: Hunted, ax: Axes) -> None:
    ax.set_xscale("log")
    ax.set_xlim(hunted.edges[0], hunted.edges[-1])
    _vetoes(hunted, (ax,))
    _log_ticks(ax, hunted.edges)


def _sized(ax: Axes, height: float) -> None:
    """In inches."""
    figure = ax.get_figure(root=True)
    if figure is not None:
        figure.set_size_inches(WIDTH, height)


def _vetoes(hunted: Hunted, panels: tuple[Axes, ...]) -> None:
    """Grey regions of known resonances, named in the first panel."""
    low, high = panels[0].get_xlim()
    for known, (start, end) in zip(hunted.search.known, hunted.search.vetoes, strict=False):
        if end < low or start > high:
            continue
        for panel in panels:
            panel.axvspan(max(start, low), min(end, high), color=GREY, alpha=0.18, linewidth=0, zorder=0)
        middle = float(np.sqrt(max(start, low) * min(end, high)))
        panels[0].annotate(NAMES.get(known.name, known.name), (middle, 0.015), ha="center", fontsize=9,
                           xycoords=panels[0].get_xaxis_transform(), color=GREY)  # fmt: skip


def _mark(found: Found, panels: tuple[Axes, ...]) -> None:
    for panel in panels:
        panel.axvline(found.mass, color=RED, linewidth=0.9, linestyle=":", zorder=1)


def _log_ticks(ax: Axes, edges: Floats) -> None:
    """Numbers at 1, 2 and 5 of each decade, and more over less than one."""
    low, high = edges[[0, -1]]
    inside = TICKS[(low <= TICKS) & (high >= TICKS)]
    if len(inside) < 3:
        inside = np.unique(np.round(np.geomspace(edges[0], edges[-1], 5), 1))
    ax.set_xticks(inside)
    ax.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    ax.xaxis.set_minor_formatter(NullFormatter())
