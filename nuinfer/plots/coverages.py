r"""How often intervals contain the truth: at points where toys were thrown, and as a function learned from toys.

Toys at a true point count how many intervals hold it; where toys are spread over a box of parameters instead, the
coverage is the logistic regression of that indicator on them.

Source: Dalmasso, Masserano, Zhao, Izbicki, Lee, arXiv:2107.03920.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes

from .figures import BLUE, PALETTE, headroom, one_panel, style
from .inputs import Floats, entry, percent

__all__ = ["coverage_map", "local_coverage"]


@style()
def coverage_map(
    coverage: Any,
    *,
    cl: float | None = None,
    parameters: Sequence[str] = (),
    labels: Mapping[str, str] | None = None,
    ax: Axes | None = None,
) -> Axes:
    r"""How often intervals contain the truth: points over one parameter, colours over two.

    Parameters
    ----------
    coverage:
        `nuinfer.intervals.Coverage`.
    cl:
        The confidence level to show, of those that there are; all of them over one parameter, if not given.
    parameters:
        The one or two parameters of the axes, nuisances too; the parameters of interest, if not given.
    labels:
        How names are to be written, with units: ``{"mu": r"$\mu$"}``.

    Over one parameter bars are binomial errors, and the bands around the nominal levels what is expected of so many
    toys, one standard deviation.  Over two, colours are centred at the nominal level, red below; points of a grid fill
    it, with a line where the coverage is nominal, others stay points.

    Raises
    ------
    KeyError
        for a parameter that the truths have not.
    ValueError
        for more than two parameters, or a level that the coverage has not.

    >>> from nuinfer import intervals
    >>> from nuinfer.likelihood import Normal
    >>> truths = [{"mu": 0.0}, {"mu": 1.0}]
    >>> found = intervals.coverage(Normal("mu", 0.0), truths, interest=["mu"], toys=50, seed=1, progress=False)
    >>> coverage_map(found, cl=0.68, labels={"mu": "mass (GeV)"}).get_xlabel()
    'mass (GeV)'
    """
    names = list(parameters) or list(coverage.interest)
    if not 1 <= len(names) <= 2:
        raise ValueError(f"parameters: expected 1 or 2 for the axes, found {', '.join(names) or 'none'}")
    at = [np.asarray(entry(coverage.truths, name), np.float64) for name in names]
    shown = [_place(coverage, cl)] if cl is not None or len(names) == 2 else range(len(coverage.cls))
    written = [(labels or {}).get(name, name) for name in names]
    if len(names) == 1:
        return _coverage_line(coverage, at[0], shown, written[0], one_panel(ax))
    return _coverage_colours(coverage, at, shown[0], written, one_panel(ax, "compressed"))


def _place(coverage: Any, cl: float | None) -> int:
    known = list(coverage.cls)
    if cl is None and len(known) == 1:
        return 0
    if cl not in known:
        found = "none" if cl is None else f"{cl:g}"
        raise ValueError(f"cl: expected one of {', '.join(map(str, known))}, found {found}")
    return known.index(cl)


def _coverage_line(coverage: Any, at: Floats, shown: Sequence[int], label: str, ax: Axes) -> Axes:
    for k, color in zip(shown, PALETTE, strict=False):
        cl, covered, error = coverage.cls[k], coverage.covered[:, k], coverage.covered_error[:, k]
        sigma = math.sqrt(cl * (1 - cl) / coverage.toys)
        ax.axhspan(cl - sigma, cl + sigma, color=color, alpha=0.25, linewidth=0)
        ax.axhline(cl, color=color, linestyle="--", linewidth=1.2)
        ax.errorbar(at, covered, error, fmt="o", color=color, elinewidth=1.1, label=f"{percent(cl)} interval")
    low, high = ax.get_ylim()
    ax.set(ylim=(low - 0.05 * (high - low), high), xlabel=label, ylabel="coverage")
    headroom(ax, rows=1)
    ax.legend(loc="upper center", ncols=3)
    return ax


def _coverage_colours(coverage: Any, at: list[Floats], k: int, labels: list[str], ax: Axes) -> Axes:
    cl, covered = coverage.cls[k], coverage.covered[:, k]
    colours = _colours(cl, covered, math.sqrt(cl * (1 - cl) / coverage.toys))
    axes = [np.unique(part) for part in at]
    if len(axes[0]) * len(axes[1]) == len(covered) and min(map(len, axes)) > 1:
        table = np.full((len(axes[1]), len(axes[0])), np.nan)
        table[np.searchsorted(axes[1], at[1]), np.searchsorted(axes[0], at[0])] = covered
        shown: Any = ax.pcolormesh(
            *(_borders(part) for part in axes), table, edgecolors="face", linewidth=0.2, **colours
        )
        if table.min() < cl < table.max():
            ax.contour(*axes, table, levels=[cl], colors="black", linewidths=1.2)
    else:
        shown = ax.scatter(at[0], at[1], c=covered, s=45, edgecolors="black", linewidths=0.6, **colours)
    return _with_bar(ax, shown, cl, labels)


def _borders(centres: Floats) -> Floats:
    """Edges of cells half-way between their centres."""
    middle = (centres[1:] + centres[:-1]) / 2
    return np.concatenate([[2 * centres[0] - middle[0]], middle, [2 * centres[-1] - middle[-1]]])


def _colours(cl: float, covered: Floats, error: float) -> Any:
    """Colours centred at the nominal level, which reach over two standard errors at least."""
    reach = max(float(np.abs(covered - cl).max()), 2 * error)
    return {"cmap": "RdBu", "vmin": cl - reach, "vmax": cl + reach}


def _with_bar(ax: Axes, shown: Any, cl: float, labels: Sequence[str]) -> Axes:
    bar = ax.figure.colorbar(shown, ax=ax, label=f"coverage of {percent(cl)} intervals", fraction=0.046, pad=0.03)
    low, high = shown.get_clim()
    bar.ax.axhline(cl, color="black", linewidth=1.2)
    bar.ax.set_ylim(max(low, 0.0), min(high, 1.0))
    ax.tick_params(which="both", direction="out", top=False, right=False)
    ax.set(xlabel=labels[0], ylabel=labels[1])
    return ax


@style()
def local_coverage(
    coverage: Any,
    *,
    parameters: Sequence[str] = (),
    at: Mapping[str, float] | None = None,
    labels: Mapping[str, str] | None = None,
    ax: Axes | None = None,
) -> Axes:
    r"""The coverage of learned critical values as a function of one parameter, or of two, by its regression on toys.

    Over one parameter the band is one standard error, and points are the cells of a box that has no other parameter,
    with binomial errors.  Over two, colours are centred at the nominal level, red below; the solid line is where the
    coverage is nominal, dashed ones are where it is two standard errors away.

    Parameters
    ----------
    coverage:
        `nuinfer.intervals.LocalCoverage`.
    parameters:
        The one or two parameters of the axes; the first two of the box, if not given.
    at:
        Values of the other parameters; the middle of the box for those that are not given.
    labels:
        How names are to be written, with units: ``{"mu": r"$\mu$"}``.

    Raises
    ------
    KeyError
        for a parameter that the box has not.
    ValueError
        for more than two parameters, or a value outside of the box.

    >>> from nuinfer import intervals
    >>> mu = np.linspace(0, 4, 4000)
    >>> toys = intervals.Toys({"mu": (0.0, 4.0)}, mu[:, None], np.random.default_rng(1).chisquare(1, 4000), None)
    >>> found = intervals.local_coverage(lambda theta: 0.989 * np.ones(len(theta["mu"])), toys, cl=0.68)
    >>> local_coverage(found).get_legend().get_texts()[0].get_text()
    'nominal, 68%'
    """
    names = list(parameters) or list(coverage.box)[:2]
    if not 1 <= len(names) <= 2:
        raise ValueError(f"parameters: expected 1 or 2 for the axes, found {', '.join(names)}")
    for name in (*names, *(at or {})):
        entry(coverage.box, name)
    held = {name: (at or {}).get(name, sum(ends) / 2) for name, ends in coverage.box.items()}
    written = [(labels or {}).get(name, name) for name in names]
    if len(names) == 1:
        return _local_line(coverage, names[0], held, written[0], one_panel(ax))
    return _local_colours(coverage, names, held, written, one_panel(ax, "compressed"))


def _local_line(coverage: Any, name: str, held: Mapping[str, float], label: str, ax: Axes) -> Axes:
    x = _across(coverage, name, 101)
    found = coverage.at({**held, name: x})
    ax.axhline(coverage.cl, color="black", linestyle="--", linewidth=1.2, label=f"nominal, {percent(coverage.cl)}")
    ax.fill_between(x, found.value - found.error, found.value + found.error, color=BLUE, alpha=0.3, linewidth=0)
    ax.plot(x, found.value, color=BLUE, label="regression")
    if len(coverage.box) == 1:
        low, high = coverage.low[:, 0], coverage.high[:, 0]
        look: Any = {"fmt": "o", "color": "black", "markersize": 3.5, "elinewidth": 1.0}
        ax.errorbar((low + high) / 2, coverage.covered, coverage.error, (high - low) / 2, label="cells", **look)
    ax.set(xlim=(x[0], x[-1]), xlabel=label, ylabel="coverage")
    headroom(ax, rows=1)
    ax.legend(loc="upper center", ncols=3, columnspacing=1.2)
    return ax


def _local_colours(
    coverage: Any, names: Sequence[str], held: Mapping[str, float], labels: Sequence[str], ax: Axes
) -> Axes:
    x, y = (_across(coverage, name, 61) for name in names)
    found = coverage.at({**held, names[0]: x[None, :], names[1]: y[:, None]})
    away = (found.value - coverage.cl) / found.error
    colours = _colours(coverage.cl, found.value, float(found.error.max()))
    shown = ax.pcolormesh(x, y, found.value, shading="gouraud", **colours)
    for level, line in ((0.0, "solid"), (-2.0, "dashed"), (2.0, "dashed")):
        if away.min() < level < away.max():
            ax.contour(x, y, away, levels=[level], colors="black", linewidths=1.2, linestyles=line)
    return _with_bar(ax, shown, coverage.cl, labels)


def _across(coverage: Any, name: str, points: int) -> Floats:
    low, high = coverage.box[name]
    return np.linspace(low, high, points)
