r"""Upper limits, observed and expected: the band over a mass, a row for each channel, and the curves they come from.

The bands are where the limit lies in 68 and 95% of experiments without a signal: green and yellow by tradition, here in
shades of different brightness, which colour-blind readers can tell apart.

Source: Cowan, Cranmer, Gross, Vitells, arXiv:1007.1727, section 4.3.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.ticker import NullLocator

from ..errors import check_finite
from .figures import GREY, ceiling, headroom, one_panel, style
from .inputs import Floats, Scale, check_scale, percent

__all__ = ["limit", "limit_curve"]

_ONE, _TWO = "#607641", "#f5bb54"  # 68 and 95%


@style()
def limit(
    limits: Any,
    *,
    reference: float | None = None,
    label: str = "",
    xlabel: str = "",
    scale: Scale = "linear",
    ax: Axes | None = None,
) -> Axes:
    r"""Observed upper limits (black) over what is expected without a signal (dashed, with bands of 68 and 95%).

    Parameters
    ----------
    limits:
        By number (a mass), at least two `nuinfer.intervals.UpperLimit`, which are joined along a horizontal axis; or by
        name (a channel), each of which gets a row, with its numbers beside it; or a single one.
    reference:
        A value of the parameter to compare with, such as the 1 of a predicted signal.
    label:
        The parameter and its unit; its name if not given.
    xlabel:
        What the numbers are, with their unit: ``r"$m_X$ (GeV)"``.
    scale:
        ``"linear"`` or ``"log"``, of the parameter.

    Raises
    ------
    ValueError
        for no limits, a single number, limits of different parameters or confidence levels, numbers that are not
        finite, or a logarithmic axis with limits that are not positive.

    >>> from nuinfer import intervals
    >>> from nuinfer.likelihood import Normal
    >>> widths = {100: 1.0, 200: 0.5}  # by mass
    >>> found = {mass: intervals.upper_limit(Normal("mu", 0.1, width), "mu") for mass, width in widths.items()}
    >>> limit(found, xlabel="mass (GeV)").lines[0].get_ydata().round(2).tolist()  # observed
    [2.03, 1.05]
    """
    shown = limits if isinstance(limits, Mapping) else {"": limits}
    first = _checked(shown)
    bands = np.array([found.expected for found in shown.values()])
    seen = np.array([found.observed for found in shown.values()])
    check_scale("scale", scale, np.minimum(bands.min(), seen.min()).reshape(1), "limits above 0")
    title = f"{percent(first.cl)} upper limit on {label or first.name}"
    if _numbers(shown):
        at = np.array(list(shown), np.float64)
        ax = _over_numbers(at, seen, bands, reference, one_panel(ax))
        ax.set(xlabel=xlabel, ylabel=title, yscale=scale, xlim=(at.min(), at.max()))
        if scale == "linear":
            ax.set_ylim(bottom=min(0.0, float(bands.min()), float(seen.min())))
    else:
        ax = _in_rows([str(key) for key in shown], seen, bands, reference, ax)
        ax.set(xlabel=title, xscale=scale)
        if scale == "linear":
            ax.set_xlim(left=min(0.0, float(bands.min()), float(seen.min())))
    headroom(ax, rows=2)
    ax.legend(loc="upper center", ncols=2, columnspacing=1.2)
    return ax


def _numbers(shown: Mapping[Any, Any]) -> bool:
    return all(isinstance(key, int | float | np.number) for key in shown)


def _checked(shown: Mapping[Any, Any]) -> Any:
    """The first of limits that can be shown together."""
    if not shown or (len(shown) == 1 and _numbers(shown)):
        raise ValueError(f"limits: expected one by name, or at least two by number, found {len(shown)}")
    kinds = {(found.name, found.cl, found.method) for found in shown.values()}
    if len(kinds) > 1:
        found = " and ".join(f"{name} at {percent(cl)} by {method}" for name, cl, method in sorted(kinds))
        raise ValueError(f"limits: expected those of one parameter, level and method, found {found}")
    for key, found in shown.items():
        check_finite(f"limit of {key}" if key else "limit", np.append(found.expected, found.observed))
    if _numbers(shown):
        check_finite("limits: numbers", np.array(list(shown), np.float64))
    return next(iter(shown.values()))


def _over_numbers(at: Floats, seen: Floats, bands: Floats, reference: float | None, ax: Axes) -> Axes:
    order = np.argsort(at)
    at, seen, bands = at[order], seen[order], bands[order]
    ax.plot(at, seen, color="black", marker="o", markersize=3.5, label="observed", zorder=4, clip_on=False)
    ax.plot(at, bands[:, 2], color="black", linestyle="--", label="expected", zorder=3)
    for (low, high), color, name in (((1, 3), _ONE, "expected, 68%"), ((0, 4), _TWO, "expected, 95%")):
        layer = 2 if low else 1
        ax.fill_between(at, bands[:, low], bands[:, high], color=color, linewidth=0, label=name, zorder=layer)
    if reference is not None:
        ax.axhline(reference, color=GREY, linestyle=":", zorder=3)
    return ax


def _in_rows(names: list[str], seen: Floats, bands: Floats, reference: float | None, ax: Axes | None) -> Axes:
    at, ax = np.arange(len(names)), one_panel(ax, height=1.7 + 0.42 * len(names))
    ax.errorbar(seen, at, yerr=0.36, fmt="o", color="black", markersize=4, elinewidth=1.4, label="observed", zorder=4)
    ax.errorbar(bands[:, 2], at, yerr=0.36, fmt="none", color="black", elinewidth=1.4, label="expected", zorder=3)[2][
        0
    ].set_linestyle("--")
    for (low, high), color, name in (((1, 3), _ONE, "expected, 68%"), ((0, 4), _TWO, "expected, 95%")):
        width, layer = bands[:, high] - bands[:, low], 2 if low else 1
        ax.barh(at, width, 0.72, left=bands[:, low], color=color, linewidth=0, label=name, zorder=layer)
    if reference is not None:
        ax.vlines(reference, -0.5, len(names) - 0.5, color=GREY, linestyle=":", zorder=3)
    for row, (observed, median) in enumerate(zip(seen.tolist(), bands[:, 2].tolist(), strict=True)):
        text = f"{observed:.3g} ({median:.3g})"
        ax.text(1.015, row, text, transform=ax.get_yaxis_transform(), va="center", fontsize=9.5)
    ax.text(1.015, -0.62, "obs. (exp.)", transform=ax.get_yaxis_transform(), va="bottom", fontsize=9.5)
    ax.set_ylim(len(names) - 0.4, -0.6)
    ax.set_yticks(at, names)
    ax.yaxis.set_minor_locator(NullLocator())
    ax.tick_params(axis="y", which="both", length=0)
    return ax


@style()
def limit_curve(
    curve: Any,
    *,
    reference: float | None = None,
    label: str = "",
    scale: Scale = "linear",
    ax: Axes | None = None,
) -> Axes:
    r"""CL over a signal's parameter (observed black, expected dashed with bands); values under the line are excluded.

    Parameters
    ----------
    curve:
        `nuinfer.intervals.LimitCurve`.
    reference:
        A value of the parameter to compare with, such as the 1 of a predicted signal.
    label:
        The parameter and its unit; its name if not given.
    scale:
        ``"linear"`` or ``"log"``, of CL.

    The horizontal line is at 1 minus the confidence level: the limit, marked on it, is where the observed curve crosses
    it.  The bands are of experiments without a signal.

    Raises
    ------
    ValueError
        for numbers that are not finite, or a logarithmic axis where CL is 0.

    >>> from nuinfer.intervals import limit_curve as scanned
    >>> from nuinfer.likelihood import Normal
    >>> ax = limit_curve(scanned(Normal("mu", 0.1), "mu", [0.0, 1.0, 2.0, 3.0]))
    >>> ax.lines[0].get_ydata().round(3).tolist()  # observed
    [1.0, 0.341, 0.053, 0.003]
    """
    for what, part in (("values", curve.values), ("observed", curve.observed), ("expected", curve.expected.ravel())):
        check_finite(f"limit_curve: {what}", part)
    check_scale("scale", scale, np.minimum(curve.observed.min(), curve.expected.min()).reshape(1), "CL above 0")
    found, ax = curve.limit, one_panel(ax)
    _draw_curves(ax, curve)
    ax.axhline(1 - found.cl, color=GREY, linewidth=1.1)
    ax.text(1.015, 1 - found.cl, percent(1 - found.cl), transform=ax.get_yaxis_transform(), va="center", color=GREY,
            fontsize=10.5)  # fmt: skip
    ax.plot([found.observed], [1 - found.cl], "o", color="black", markersize=4, zorder=5, label=_in_words(found))
    marked = [] if reference is None else [ax.axvline(reference, color=GREY, linestyle=":", zorder=3)]
    name = r"$CL_{s}$" if found.method == "cls" else r"$CL_{s+b}$"
    ax.set(xlabel=label or found.name, ylabel=name, yscale=scale, xlim=(curve.values[0], curve.values[-1]))
    ax.set_ylim((0.1 * (1 - found.cl), 1.2) if scale == "log" else (0, 1.02))
    ceiling(ax, marked, rows=3)
    ax.legend(loc="upper center", ncols=2, columnspacing=1.2)
    return ax


def _in_words(found: Any) -> str:
    return f"limit {found.observed:.3g}, expected {found.expected[2]:.3g}"


def _draw_curves(ax: Axes, curve: Any) -> None:
    at, bands = curve.values, curve.expected.T
    ax.plot(at, curve.observed, color="black", label="observed", zorder=4)
    ax.plot(at, bands[2], color="black", linestyle="--", label="expected", zorder=3)
    for (low, high), color, name in (((1, 3), _ONE, "expected, 68%"), ((0, 4), _TWO, "expected, 95%")):
        ax.fill_between(at, bands[low], bands[high], color=color, linewidth=0, label=name, zorder=2 if low else 1)
