r"""Profiled likelihoods: curves over one parameter, contours over two, several answers on one panel.

.. math:: t(\mu) = -2 \log \frac{L(\mu, \hat{\hat\alpha}(\mu))}{L(\hat\mu, \hat\alpha)}

is compared with the quantiles of :math:`\chi^2` with one degree of freedom for one parameter, two for two.

Source: Cowan, Cranmer, Gross, Vitells, arXiv:1007.1727.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from contourpy import contour_generator
from matplotlib.axes import Axes
from matplotlib.lines import Line2D
from scipy import stats

from ..errors import missing
from .figures import GREY, MARKERS, PALETTE, headroom, legend_above, one_panel, style
from .inputs import Floats, answers, checked_levels, entry, measured, percent, segments

__all__ = ["contour", "profile"]


@style()
def profile(
    profiles: Any,
    *,
    stat_only: Any = None,
    cls: Sequence[float] = (0.68, 0.95),
    truth: float | None = None,
    label: str = "",
    ax: Axes | None = None,
) -> Axes:
    r"""Profiled :math:`-2 \Delta \log L` over one parameter: the curves of one or several answers, on the same axes.

    Parameters
    ----------
    profiles:
        `nuinfer.intervals.Profile`, or up to six of one parameter by label: ``{"NSBI": profile, "histogram": other}``.
    stat_only:
        The same with the nuisances fixed, dashed; by the same labels, where ``profiles`` has labels.
    cls:
        Confidence levels at whose quantiles of chi2 (one degree of freedom) lines are drawn.
    truth:
        A value to mark.
    label:
        The parameter and its unit; its name if not given.

    The legend has each answer's best fit, marked on its curve, with the interval of the lowest level.  It stands above
    the curves, in two columns where the labels are short enough; a figure of its own grows with it.

    Raises
    ------
    ValueError
        for profiles of different parameters, none or more than six, or levels outside (0, 1).
    KeyError
        for a label in ``stat_only`` that ``profiles`` has not.

    >>> from nuinfer import intervals
    >>> from nuinfer.likelihood import Normal
    >>> ax = profile(intervals.profile(Normal("mu", 1.0, 0.2), "mu", [0.2, 0.6, 1.0, 1.4, 1.8]), truth=0.9)
    >>> ax.get_legend().get_texts()[0].get_text()
    '1.00 ± 0.20 (68%)'
    """
    shown, levels = _of_one_parameter(profiles), checked_levels(cls)
    without = {} if stat_only is None else answers("stat_only", stat_only, len(PALETTE))
    for name in without:
        if name not in shown:
            raise missing("profile", name, shown)
    heights, own, ax = stats.chi2.ppf(levels, 1), ax is None, one_panel(ax)
    _draw_levels(ax, levels, heights)
    lines, high = [], 1.35 * float(heights[-1])
    for (name, found), color, marker in zip(shown.items(), PALETTE, MARKERS, strict=False):
        lines.append(_draw_curve(ax, found, color, "-"))
        if name in without:
            lines.append(_draw_curve(ax, without[name], color, "--"))
        _draw_best(ax, found, color, marker, f"{name}: " if name else "", levels[0])
    ax.set(xlabel=label or next(iter(shown.values())).name, ylabel=r"$-2\,\Delta \log L$")
    ax.set(xlim=_reach(lines, high), ylim=(0, high))
    _profile_legend(ax, lines, bool(without), truth, own)
    return ax


def _of_one_parameter(profiles: Any) -> dict[str, Any]:
    shown = answers("profiles", profiles, len(PALETTE))
    names = {found.name for found in shown.values()}
    if len(names) > 1:
        raise ValueError(f"profiles: expected curves of one parameter, found {', '.join(sorted(names))}")
    return shown


def _draw_levels(ax: Axes, levels: Sequence[float], heights: Floats) -> None:
    where = ax.get_yaxis_transform()
    for cl, height in zip(levels, heights.tolist(), strict=True):
        ax.axhline(height, color=GREY, linestyle=":", linewidth=1.1)
        ax.text(1.015, height, percent(cl), transform=where, va="center", color=GREY, fontsize=10.5)


def _draw_curve(ax: Axes, found: Any, color: str, line: str) -> Line2D:
    """t at the points of the scan and between them."""
    fine = np.union1d(found.grid, np.linspace(found.grid[0], found.grid[-1], 301))
    return ax.plot(fine, found(fine), color=color, linestyle=line, linewidth=1.6)[0]


def _draw_best(ax: Axes, found: Any, color: str, marker: str, before: str, cl: float) -> None:
    best, parts = found.best[found.name], np.array(found.interval(cl)).reshape(-1, 2)
    text = f"{before}{_estimate(best, parts)} ({percent(cl)})"
    ax.plot([best], [0], marker=marker, color=color, clip_on=False, zorder=4, label=text)


def _estimate(best: float, parts: Floats) -> str:
    """The best fit with its errors, or with the whole set where that is not one interval around it."""
    if len(parts) == 1 and np.isfinite(parts).all() and parts[0, 0] < best < parts[0, 1]:
        return measured(best, best - parts[0, 0], parts[0, 1] - best)
    return f"{best:.3g} in {segments(parts)}"


def _reach(lines: Sequence[Line2D], high: float) -> tuple[float, float]:
    """Where at least one curve is below the upper end of the panel."""
    inside = [np.asarray(line.get_xdata())[np.asarray(line.get_ydata()) <= high] for line in lines]
    every = np.concatenate(inside)
    margin = 0.02 * float(np.ptp(every))
    return float(every.min()) - margin, float(every.max()) + margin


def _profile_legend(ax: Axes, lines: list[Line2D], dashed: bool, truth: float | None, grows: bool) -> None:
    if dashed:
        ax.plot([], [], color=GREY, linestyle="--", label="nuisances fixed")
    if truth is not None:
        lines.append(ax.axvline(truth, color="black", linestyle="-.", linewidth=1.1, label="truth"))
    legend_above(ax, lines, grows=grows)


_STYLES = ("-", "--", ":")


@style()
def contour(
    contours: Any,
    *,
    cls: Sequence[float] = (0.68, 0.95),
    truth: Mapping[str, float] | None = None,
    labels: Mapping[str, str] | None = None,
    ax: Axes | None = None,
) -> Axes:
    r"""Confidence regions of two parameters: a line for each level, one colour for each answer, with its best fit.

    Parameters
    ----------
    contours:
        `nuinfer.intervals.Contour`, or a `nuinfer.intervals.Neyman` of two parameters, whose critical values come from
        toys; or up to six of the same two by label.
    cls:
        Up to three confidence levels: solid, dashed, dotted, from the lowest.
    truth:
        Values by name to mark with a star; other names in it are passed over.
    labels:
        How names are to be written, with units: ``{"mu": r"$\mu$"}``.

    Raises
    ------
    ValueError
        for regions of different parameters, no answers or more than six, no levels or more than three, or a
        construction of another number of parameters than two.
    KeyError
        for a truth without one of the parameters.

    >>> from nuinfer import intervals
    >>> from nuinfer.likelihood import Normal
    >>> cost = Normal("a", 0.0, 1.0) + Normal("b", 0.0, 2.0)
    >>> ax = contour(intervals.contour(cost, "a", "b"), cls=[0.68], truth={"a": 0.5, "b": 0.0})
    >>> x, y = ax.lines[0].get_data()  # the ellipse, on which t is 2.28
    >>> bool(abs(x**2 + y**2 / 4 - 2.2789).max() < 1e-3)
    True
    """
    shown, levels = _of_two_parameters(contours), checked_levels(cls)
    if len(levels) > len(_STYLES):
        raise ValueError(f"cls: expected at most {len(_STYLES)} confidence levels, found {len(levels)}")
    names, ax = next(iter(shown.values())).names, one_panel(ax)
    for (label, found), color, marker in zip(shown.items(), PALETTE, MARKERS, strict=False):
        for cl, line in zip(levels, _STYLES, strict=False):
            for x, y in (part.T for part in found.lines(cl)):
                ax.plot(x, y, color=color, linestyle=line)
        best = [found.best[name] for name in names]
        ax.plot(*best, marker=marker, linestyle="", color=color, label=label or "best fit", zorder=4)
    if truth is not None:
        at = [entry(truth, name) for name in names]
        ax.plot(*at, marker="*", linestyle="", color="black", markersize=9, label="truth", zorder=5)
    for cl, line in zip(levels, _STYLES, strict=False):
        ax.plot([], [], color=GREY if len(shown) > 1 else PALETTE[0], linestyle=line, label=percent(cl))
    ax.set(**{f"{axis}label": (labels or {}).get(name, name) for axis, name in zip("xy", names, strict=True)})
    headroom(ax, rows=-(-(len(shown) + len(levels) + (truth is not None)) // 3))
    ax.legend(loc="upper center", ncols=3, columnspacing=1.2)
    return ax


class _Region(NamedTuple):
    """The names of two parameters, their best fit, and the lines (M, 2) around the set of a confidence level."""

    names: tuple[str, str]
    best: Mapping[str, float]
    lines: Callable[[float], Sequence[Floats]]


def _of_two_parameters(contours: Any) -> dict[str, _Region]:
    shown = {label: _region(found) for label, found in answers("contours", contours, len(PALETTE)).items()}
    pairs = {found.names for found in shown.values()}
    if len(pairs) > 1:
        found = " and ".join(", ".join(names) for names in sorted(pairs))
        raise ValueError(f"contours: expected regions of the same two parameters in one order, found {found}")
    return shown


def _region(found: Any) -> _Region:
    if not hasattr(found, "critical"):
        return _Region(tuple(found.names), found.best, found.curves)
    if len(found.interest) != 2:
        raise ValueError(f"contours: expected a construction of two parameters, found {', '.join(found.interest)}")
    return _Region(tuple(found.interest), found.best_fit, lambda cl: _lines_of_toys(found, cl))


def _lines_of_toys(neyman: Any, cl: float) -> list[Floats]:
    """Where the data's statistic is at its critical value, linear between the points of the grid."""
    x, y = neyman.grid.values()
    excess = (neyman.observed - neyman.critical(cl).value).reshape(neyman.shape)
    return [np.asarray(line) for line in contour_generator(x, y, excess.T).lines(0.0)]
