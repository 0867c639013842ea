"""The pictures: features, spectra, p-values, significance improvements, sculpting, limits."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from matplotlib.axes import Axes
from numpy.typing import NDArray

import nuinfer as nu
from nuinfer import plots
from nuinfer.anomaly.hunting import Hunt, InjectionScan
from nuinfer.plots.figures import BLUE, GREY, MARKERS, PALETTE, RED, headroom, one_panel

from .search import Compared
from .simulation import FEATURES, MASS

Floats = NDArray[np.float64]
MJJ = r"$m_{JJ}$ (TeV)"
LABELS = {
    MASS: MJJ, "mJ1": r"$m_{J_1}$ (TeV)", "delta_mJ": r"$\Delta m_J$ (TeV)", "tau21_1": r"$\tau_{21}^{J_1}$",
    "tau21_2": r"$\tau_{21}^{J_2}$",
}  # fmt: skip
NAMES = {"mJ1": r"$m_{J_1}$", "delta_mJ": r"$\Delta m_J$", "tau21_1": r"$\tau_{21}^{J_1}$",
         "tau21_2": r"$\tau_{21}^{J_2}$"}  # fmt: skip
_SPANS = {"mJ1": (0.0, 0.6), "delta_mJ": (0.0, 0.9), "tau21_1": (0.0, 1.0), "tau21_2": (0.0, 1.0)}


@plots.style()
def features(background: nu.Events, signal: nu.Events) -> Axes:
    """The four features of background and signal in the signal region, each of area 1."""
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(2, 2, figsize=(7.4, 6.0), layout="constrained")
    for name, ax in zip(FEATURES, axes.flat, strict=True):
        edges = np.linspace(*_SPANS[name], 46)
        for events, colour, label in ((background, BLUE, "background"), (signal, RED, "signal")):
            values = np.histogram(events[name], edges)[0] / (len(events) * np.diff(edges))
            ax.stairs(values, edges, color=colour, label=label, fill=colour == BLUE, alpha=0.5 if colour == BLUE else 1)
        ax.set(xlabel=LABELS[name], xlim=_SPANS[name], ylim=(0, None))
    axes[0, 0].set_ylabel("density")
    axes[1, 0].set_ylabel("density")
    axes[0, 0].legend(loc="upper right")
    plt.close(figure)
    first: Axes = axes[0, 0]
    return first


def spectra(found: Hunt, window: int) -> Axes:
    """Before and after each cut of a window."""
    return plots.hunt_spectra(found, window=window, xlabel=MJJ, ylabel="events per bin")[0]


def p_values(found: Hunt) -> Axes:
    """In all windows."""
    return plots.hunt_p(found, xlabel=MJJ)


def improvements(compared: Mapping[str, Compared], exact: tuple[Floats, Floats], passing: int) -> Axes:
    """Of up to five templates and the exact ratio."""
    curves = {"exact ratio": exact} | {name: (c.signal, c.background) for name, c in compared.items()}
    return plots.sic(curves, fewest=passing)


@plots.style()
def sculpting(compared: Sequence[Compared], efficiency: float) -> Axes:
    """The efficiency of a cut over the mass in the sidebands, relative to its mean, of each template."""
    ax = one_panel(None)
    for number, one in enumerate(compared):
        test = one.hunt.sculpting[0]
        k = int(np.argmin(np.abs(test.efficiencies - efficiency)))
        middle, half = test.bins.mean(1), np.diff(test.bins)[:, 0] / 2
        value, error = test.efficiency[k] / test.overall[k], test.errors[k] / test.overall[k]
        ax.errorbar(middle, value, error, half, linestyle="", marker=MARKERS[number], color=PALETTE[number],
                    label=f"{one.name}, {_p(float(test.p[k]))}", zorder=3)  # fmt: skip
    ax.axhline(1, color=GREY, linewidth=0.9, zorder=1)
    low, high = compared[0].hunt.signal[0]
    ax.axvspan(low, high, color="#e6e7ea", zorder=0, linewidth=0)
    ax.set(xlabel=MJJ, ylabel=f"efficiency / {efficiency:.0%}", ylim=(0, None), xlim=test.bins[[0, -1], [0, 1]])
    headroom(ax, rows=len(compared))
    ax.legend(loc="upper left")
    return ax


def _p(value: float) -> str:
    if value >= 1e-3:
        return f"$p$ = {value:.2g}"
    power = int(np.floor(np.log10(max(value, 1e-300))))
    return rf"$p$ = {value / 10.0**power:.0f} $\times$ $10^{{{power}}}$" if value > 1e-300 else "$p$ < $10^{-300}$"


def score_by_mass(found: Hunt) -> Axes:
    """Density and quantiles of the score."""
    return plots.score_by_mass(found, xlabel=MJJ)


def importance(found: Hunt) -> Axes:
    """What each feature is worth."""
    return plots.importance(found, labels=NAMES)


def injections(scan: InjectionScan) -> Axes:
    """Significance and efficiency over what was injected."""
    return plots.injections(scan)[0]


def limits(scan: InjectionScan, found: Hunt) -> Axes:
    """Expected and observed."""
    return plots.injection_limits(scan, found)
