"""How much regularisation: the scans that choose it, and what was chosen."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
from matplotlib.axes import Axes
from matplotlib.ticker import LogFormatter, MaxNLocator

from .figures import BLUE, GREY, RED, VIOLET, _Figure, headroom, one_panel, style, two_panels

if TYPE_CHECKING:
    from ..unfolding import IterationChoice, Spectrum, StrengthScan

__all__ = ["iteration_choice", "strength_scan", "wiener_filter"]


@style()
def strength_scan(scan: StrengthScan, *, axes: Sequence[Axes] | None = None) -> tuple[Axes, Axes]:
    r"""The L-curve, and the mean global correlation against the strength, each with its choice.

    Parameters
    ----------
    scan:
        Of `nuinfer.unfolding.scan_strength`.
    axes:
        A pair of axes, (L-curve, correlation).

    Strengths that leave the whole spectrum free, and those that leave nothing of it, within a hundredth of the degrees
    of freedom, are not drawn.

    Raises
    ------
    TypeError
        for other than two axes.

    >>> from nuinfer import Events
    >>> from nuinfer.unfolding import Response, scan_strength
    >>> events = Events({"t": np.arange(900) % 3, "x": (np.arange(900) % 3 + np.arange(900) // 3 % 4 / 3) % 3})
    >>> response = Response.from_events(events, truth={"t": [0, 1, 2, 3]}, reco={"x": np.linspace(0, 3, 5)})
    >>> curve, rho = strength_scan(scan_strength([230.0, 240.0, 260.0, 170.0], response, order=1))
    >>> rho.get_ylabel()
    'mean global correlation'
    """
    if axes is None:
        axes = _Figure(figsize=(8.4, 4.0), layout="constrained").subplots(1, 2)
    curve, rho = two_panels(axes, "axes")
    share = (scan.degrees - scan.degrees[-1]) / max(float(np.ptp(scan.degrees)), 1e-30)
    shown = (share > 0.01) & (share < 0.99)
    curve.plot(scan.chi2[shown], scan.penalty[shown], color=BLUE)
    rho.plot(scan.strengths[shown], scan.correlation[shown], color=BLUE)
    log = np.log(scan.strengths)
    for name, color, marker in (("lcurve", RED, "o"), ("rho", VIOLET, "s")):
        best = scan.best[name]
        chi2, penalty = (np.exp(np.interp(np.log(best), log, np.log(v))) for v in (scan.chi2, scan.penalty))
        text = rf"{_CRITERION[name]}: $\tau$ = {best:.3g}"
        curve.plot(chi2, penalty, marker, color=color, markersize=7, label=text)
        rho.plot(best, np.interp(np.log(best), log, scan.correlation), marker, color=color, markersize=7, label=text)
    curve.set(xscale="log", yscale="log", xlabel=r"$\chi^2$ of the data", ylabel=r"penalty $|Cu|^2$")
    if (
        np.ptp(np.log10(scan.chi2[shown])) < 2 and 0.1 < scan.chi2[shown].max() < 1e5
    ):  # 2, 5, 10 instead of powers of ten
        curve.xaxis.set_major_formatter(LogFormatter())
        curve.xaxis.set_minor_formatter(LogFormatter(minor_thresholds=(2, 0.5)))
    headroom(curve, rows=2)
    curve.legend(loc="upper right")
    rho.set(xscale="log", xlabel=r"strength $\tau$", ylabel="mean global correlation")
    return curve, rho


_CRITERION = {"lcurve": "L-curve", "rho": r"$\rho$"}


@style()
def wiener_filter(spectrum: Spectrum, *, ax: Axes | None = None) -> Axes:
    """The filter W_i of each direction of the response, by falling singular value: 1 is kept, 0 is left out.

    Raises
    ------
    ValueError
        for a spectrum that is not of `nuinfer.unfolding.wiener_svd`.

    >>> from nuinfer.unfolding import Binning, Spectrum
    >>> found = Spectrum(Binning("p", [0, 1, 2]), np.ones(2), {}, settings={"filter": [1.0, 0.4]})
    >>> wiener_filter(found).patches[0].get_data().values.tolist()
    [1.0, 0.4]
    """
    if "filter" not in spectrum.settings:
        raise ValueError(f"filter: expected a spectrum of wiener_svd, found one of "
                         f"{spectrum.settings.get('method', 'another method')}")  # fmt: skip
    kept = np.asarray(spectrum.settings["filter"], np.float64)
    ax = one_panel(ax, height=3.4)
    edges = np.arange(len(kept) + 1) + 0.5
    ax.axhline(1, color=GREY, linestyle="--", linewidth=1.2)
    ax.stairs(kept, edges, baseline=0, fill=True, facecolor=BLUE, alpha=0.4, linewidth=0)
    ax.plot(np.arange(len(kept)) + 1, kept, "o", color="black", clip_on=False)
    ax.set(xlim=(0.5, len(kept) + 0.5), ylim=(0, 1.15), xlabel="direction, by falling singular value")
    ax.set_ylabel("Wiener filter $W_i$")
    ax.xaxis.set_major_locator(MaxNLocator(10, integer=True))
    ax.xaxis.set_minor_locator(MaxNLocator(1))
    return ax


@style()
def iteration_choice(choice: IterationChoice, *, ax: Axes | None = None) -> Axes:
    r"""The held-out Jensen-Shannon divergence of data and weighted simulation after each iteration, and the choice.

    Bars are one standard deviation; a divergence below zero, or within its bar, is no difference, and is drawn on the
    linear part of the axis.

    Raises
    ------
    TypeError
        for an ``ax`` that is none.

    >>> from nuinfer.unfolding import IterationChoice
    >>> found = IterationChoice(2, True, np.array([5e-2, 4e-3, -1e-4]), np.array([2e-3, 5e-4, 2e-4]))
    >>> iteration_choice(found).get_xlabel()
    'iterations'
    """
    ax = one_panel(ax)
    number, value, error = np.arange(len(choice.divergence)), choice.divergence, choice.error
    ax.axhline(0.0, color=GREY, linewidth=0.8)
    ax.fill_between(number, -error, error, color=GREY, alpha=0.25, linewidth=0, label="one standard deviation")
    ax.errorbar(number, value, error, fmt="o", color=BLUE, markersize=6, label="held out")
    if choice.found:
        at = len(number) - 1
        ax.plot(at, value[at], "s", color=RED, markersize=11, fillstyle="none", label=f"choice: {choice.iterations}")
    linear = max(2 * float(error.min()), 1e-12)
    ax.set_yscale("symlog", linthresh=linear, linscale=0.6)
    ax.set(xlabel="iterations", ylabel=r"divergence $G_k$ (nats)", ylim=(-2 * linear, 3 * float((value + error).max())))
    ax.xaxis.set_major_locator(MaxNLocator(integer=True))
    ax.legend(loc="upper right")
    return ax
