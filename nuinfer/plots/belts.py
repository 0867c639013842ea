r"""What toys say of one parameter: the belt of a Neyman construction, and its critical values.

The belt of a parameter :math:`\mu` at confidence level cl is, at each :math:`\mu`, the range of the estimates
:math:`\hat\mu` that are accepted there; the confidence set of the data is where the belt holds the estimate that was
seen.  In terms of the test statistic the set is where :math:`t_\mathrm{obs}(\mu) \le c(\mu)`.

Sources: Neyman, Phil. Trans. A 236 (1937) 333; Feldman, Cousins, arXiv:physics/9711021.

Shapes: P points, L confidence levels.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from scipy import stats

from .figures import BLUE, PALETTE, RED, ceiling, headroom, one_panel, style
from .inputs import Floats, checked_levels, percent, segments

__all__ = ["belt", "critical_values"]


@style()
def belt(neyman: Any, *, cls: Sequence[float] = (0.68, 0.95), label: str = "", ax: Axes | None = None) -> Axes:
    r"""The confidence belt: accepted best fits at each value of the parameter, what was seen, and the set that follows.

    Parameters
    ----------
    neyman:
        `nuinfer.intervals.Neyman` of one parameter, on a line (neither periodic nor discrete).
    cls:
        Confidence levels; the lower one has the darker band.
    label:
        The parameter and its unit, for both axes; its name if not given.

    Best fits between the accepted ones of each point are all shown as accepted.  The set of the data, whose numbers are
    in the legend, is that of the test statistic (``neyman.interval``), drawn as bars along the line of the best fit.

    Raises
    ------
    ValueError
        for several parameters of interest, a periodic or a discrete one, or levels that the toys do not reach.

    >>> from nuinfer import intervals
    >>> from nuinfer.likelihood import Normal
    >>> found = intervals.neyman(Normal("mu", 1.0), {"mu": [-1.0, 0.0, 1.0, 2.0]}, toys=60, seed=1, progress=False)
    >>> [text.get_text() for text in belt(found, cls=[0.68]).get_legend().get_texts()]
    ['accepted at 68%', 'best fit 1', '68%: [..., ...]']
    """
    name, levels = _one_of(neyman), checked_levels(cls)
    special = {**neyman.statistic.periodic, **neyman.statistic.discrete} if neyman.statistic else {}
    if name in special:
        raise ValueError(f"belt: expected a parameter on a line, found {name!r}, periodic or discrete; use "
                         f"critical_values")  # fmt: skip
    at, seen = neyman.grid[name], neyman.best_fit[name]
    ax = one_panel(ax)
    for cl, alpha in zip(reversed(levels), _shades(len(levels)), strict=True):
        low, high = (np.where(np.isfinite(side), side, np.nan) for side in neyman.belt(cl).T)
        ax.fill_betweenx(at, low, high, color=BLUE, alpha=alpha, linewidth=0, label=f"accepted at {percent(cl)}")
    ax.vlines(seen, at[0], at[-1], color="black", linestyle="--", linewidth=1.2, label=f"best fit {seen:.3g}")
    for cl, width in zip(reversed(levels), np.linspace(2.5, 6, len(levels)), strict=True):
        found = neyman.interval(cl)
        ends = np.clip(found, at[0], at[-1])
        ax.vlines(
            np.full(len(ends), seen), *ends.T, color=RED, linewidth=width, label=f"{percent(cl)}: {segments(found)}"
        )
    label = label or name
    ax.set(ylim=(at[0], at[-1]), xlabel=f"best fit of {label}", ylabel=label)
    headroom(ax, rows=-(-(2 * len(levels) + 1) // 2))
    ax.legend(loc="upper left", ncols=2)
    return ax


def _shades(count: int) -> Floats:
    return np.linspace(0.25, 0.55, count) if count > 1 else np.array([0.4])


def _one_of(neyman: Any) -> str:
    names: tuple[str, ...] = tuple(neyman.interest)
    if len(names) != 1:
        raise ValueError(f"expected a construction of one parameter, found {', '.join(names)}; contour draws "
                         f"the region of two")  # fmt: skip
    return names[0]


@style()
def critical_values(
    neyman: Any, *, cls: Sequence[float] = (0.68, 0.95), label: str = "", ax: Axes | None = None
) -> Axes:
    r"""Critical values of the test statistic by toys, the data's own statistic, and the set in which it is smaller.

    Parameters
    ----------
    neyman:
        `nuinfer.intervals.Neyman` of one parameter, periodic and discrete ones too.
    cls:
        Confidence levels.  Points are critical values with the 68% interval of their sampling error, dotted lines what
        the asymptotic distribution has in their place; the sets, whose numbers are in the legend, are bars below 0.
    label:
        The parameter and its unit; its name if not given.

    Raises
    ------
    ValueError
        for several parameters of interest, more than three levels, or levels that the toys do not reach.

    >>> from nuinfer import intervals
    >>> from nuinfer.likelihood import Normal
    >>> found = intervals.neyman(Normal("mu", 1.0), {"mu": [-1.0, 0.0, 1.0, 2.0]}, toys=60, seed=1, progress=False)
    >>> critical_values(found).lines[0].get_ydata().round(6).tolist()  # of the data
    [4.0, 1.0, 0.0, 1.0]
    """
    name, levels = _one_of(neyman), checked_levels(cls)
    if len(levels) > 3:
        raise ValueError(f"cls: expected at most 3 confidence levels, found {len(levels)}")
    at, ax = neyman.grid[name], one_panel(ax)
    (line,) = ax.plot(at, neyman.observed, color="black", label="data")
    tops = [_draw_critical(ax, neyman, cl, at, color) for cl, color in zip(levels, PALETTE, strict=False)]
    high = 1.3 * max(tops)
    for row, (cl, color) in enumerate(zip(levels, PALETTE, strict=False)):
        found = neyman.interval(cl)
        ends, y = np.clip(found, at[0], at[-1]), -0.05 * high * (row + 0.75)
        ax.plot(ends.T, np.full((2, len(ends)), y), color=color, linewidth=4, marker="|", markersize=4)
        ax.plot([], [], color=color, linewidth=4, label=f"{percent(cl)}: {segments(found)}")
    ax.axhline(0, color="black", linewidth=0.8)
    ax.set(ylim=(-0.05 * high * (len(levels) + 0.5), high), xlabel=label or name, ylabel="test statistic $t$")
    ceiling(ax, [line], rows=len(levels) + 1)
    ax.legend(loc="upper center", ncols=2, columnspacing=1.2)
    return ax


def _draw_critical(ax: Axes, neyman: Any, cl: float, at: Floats, color: str) -> float:
    """Points with errors, the asymptotic value; the upper end of what is drawn."""
    found, ordering = neyman.critical(cl), neyman.statistic.ordering if neyman.statistic else "two-sided"
    reach = np.stack([found.value - found.low, found.high - found.value])
    name = f"critical, {percent(cl)}"
    ax.errorbar(at, found.value, reach, fmt="o", color=color, elinewidth=1.0, label=name, zorder=3)
    limit = _asymptotic(cl, ordering)
    ax.axhline(limit, color=color, linestyle=":", linewidth=1.2)
    return max(float(np.max(found.high[np.isfinite(found.high)], initial=0.0)), limit)


def _asymptotic(cl: float, ordering: str) -> float:
    """The quantile of chi2 with one degree of freedom, with half of it at 0 for upper limits (arXiv:1007.1727)."""
    if ordering == "one-sided":
        return float(stats.norm.ppf(max(cl, 0.5)) ** 2)
    return float(stats.chi2.ppf(cl, 1))
