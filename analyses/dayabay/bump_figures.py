"""The pictures of the step `bump`: the prompt spectrum with its excess, and the significance of a peak by energy."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from matplotlib.axes import Axes
from numpy.typing import NDArray

from nuinfer import plots
from nuinfer.anomaly.goodness import GoodnessOfFit
from nuinfer.plots.figures import BLUE, GREY, ORANGE, PALETTE, RED, headroom, one_panel, two_panels

from . import goodness
from .bumps import Peak, Prompt
from .figures import ENERGY

Floats = NDArray[np.float64]
END = 9.0  # MeV: up to here the last bin, which ends at 12, is drawn


@plots.style()
def excess(prompt: Prompt, found: Peak, free: Prompt) -> Axes:
    """Counts an MeV beside the expectation, and the ratio with its systematics, before and after fits.

    ``found`` has a fit with a peak of its own energy and width; ``free`` is the expectation of the fitted spectrum.
    """
    if found.fit is None:
        raise ValueError("found: expected one with a fit of a peak; there is none below 3 standard deviations")
    main, ratio = two_panels(None, "axes")
    _sized(main, 5.4)
    shown = np.append(prompt.edges[:-1], END)
    middle, unit = (shown[1:] + shown[:-1]) / 2, 1e-3 / np.diff(prompt.edges)
    main.stairs(prompt.expected * unit, shown, baseline=None, color=BLUE, linewidth=1.5, label="Huber-Mueller, scaled")
    main.stairs(found.fit.signal * unit, shown, baseline=None, color=RED, linewidth=1.5, label="fitted peak")
    main.plot(middle, prompt.counts * unit, "o", color="black", markersize=3.5, label="data, near halls", zorder=4)
    main.set(ylabel=r"events ($10^3$ / MeV)", ylim=(0, None))
    headroom(main, rows=1)
    main.legend(loc="upper right")
    band = np.sqrt((prompt.modes**2).sum(1))
    ratio.stairs(1 + band, shown, baseline=1 - band, fill=True, color=GREY, alpha=0.25, linewidth=0,
                 label="systematics")  # fmt: skip
    ratio.axhline(1, color=BLUE, linewidth=1.2)
    ratio.stairs(free.expected / prompt.expected, shown, baseline=None, color=ORANGE, linewidth=1.2,
                 label="free spectrum")  # fmt: skip
    ratio.stairs(found.fit.expected / prompt.expected, shown, baseline=None, color=RED, linewidth=1.2, linestyle="--",
                 label="with a peak")  # fmt: skip
    ratio.errorbar(middle, prompt.counts / prompt.expected, np.sqrt(prompt.counts) / prompt.expected, fmt="o",
                   color="black", markersize=3, elinewidth=0.9, zorder=4)  # fmt: skip
    ratio.set(xlim=(shown[0], END), ylim=(0.78, 1.27), xlabel=ENERGY, ylabel="ratio")
    main.set_xlim(shown[0], END)
    ratio.legend(loc="upper left", ncols=3, fontsize=9, columnspacing=1.2)
    return main


@plots.style()
def energies(found: Mapping[str, Peak]) -> Axes:
    """The signed local significance of a peak at each energy, by name of the expectation."""
    ax = one_panel(None)
    _sized(ax, 4.4)
    top = max(float(np.nanmax(each.scan.z)) for each in found.values())
    low = min(float(np.nanmin(each.scan.z)) for each in found.values())
    for sigma in range(-5, 6):
        ax.axhline(sigma, color=GREY, linewidth=1.0 if sigma == 0 else 0.6, linestyle="-" if sigma == 0 else "--")
    for color, (name, each) in zip(PALETTE, found.items(), strict=False):
        ax.plot(each.scan.masses, each.scan.z, marker="o", markersize=3.5, color=color, label=name)
    ax.set(xlabel="energy of the peak (MeV)", ylabel=r"local significance, $r_0$ ($\sigma$)")
    ax.set(ylim=(low - 0.8, top + 0.8), xlim=(found[next(iter(found))].scan.masses[[0, -1]] + [-0.2, 0.2]))
    headroom(ax, rows=len(found))
    ax.legend(loc="upper right")
    return ax


@plots.style()
def learned(prompts: Mapping[str, Prompt], found: Mapping[str, GoodnessOfFit]) -> Axes:
    """Data over each prediction, and the ratio that was learned of them, by name of the prediction."""
    ax = one_panel(None)
    _sized(ax, 4.4)
    for color, (name, prompt) in zip(PALETTE, prompts.items(), strict=False):
        shown, one = np.append(prompt.edges[:-1], END), found[name]
        said = f"Z = {one.z:.1f}" if one.z > 3 else f"p = {one.p:.2f}"
        ax.stairs(goodness.learned(prompt, one), shown, baseline=None, color=color, linewidth=1.6,
                  label=f"learned over {name}: {said}")  # fmt: skip
        ax.errorbar((shown[1:] + shown[:-1]) / 2, prompt.counts / prompt.expected,
                    np.sqrt(prompt.counts) / prompt.expected, fmt="o", color=color, markersize=3.5)  # fmt: skip
    ax.axhline(1, color=GREY, linewidth=0.8, zorder=0)
    ax.set(xlabel=ENERGY, ylabel="ratio to prediction", xlim=(shown[0], END), ylim=(0.78, 1.15))
    headroom(ax, rows=len(prompts))
    ax.legend(loc="upper right")
    return ax


def _sized(ax: Axes, height: float) -> None:
    """In inches."""
    figure = ax.get_figure(root=True)
    if figure is not None:
        figure.set_size_inches(6.2, height)
