r"""Figures of posteriors and of their diagnostics: corner plots, ranks, coverage, predictive checks.

A region of content c is the smallest set that holds a share c of the draws: where their density, histogrammed and
smoothed with a kernel whose width follows the effective number of draws, is above a level.

Sources: Talts et al., arXiv:1804.06788 (ranks); Säilynoja, Bürkner, Vehtari, arXiv:2103.10522 (bands); Hermans et al.,
arXiv:2110.06581 (expected coverage); Lemos et al., arXiv:2302.03026 (TARP).
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import to_rgba
from matplotlib.lines import Line2D
from numpy.typing import ArrayLike, NDArray
from scipy import ndimage, stats

from ..diagnostics.uniform import chi2_p, equal
from ..events import Events
from ..metrics import effective_size
from .figures import BLUE, GREY, PALETTE, _Figure, headroom, one_panel, style
from .inputs import Floats, answers, checked_edges, checked_levels, measured, numbers, percent

__all__ = [
    "corner",
    "expected_coverage",
    "predictive_overlay",
    "predictive_statistics",
    "sbc_ecdf",
    "sbc_ranks",
    "tarp_curve",
]

_CELLS = 96


@style()
def corner(
    samples: Events | Mapping[str, Events],
    *,
    names: Sequence[str] = (),
    truth: Mapping[str, float] | None = None,
    levels: Sequence[float] = (0.68, 0.95),
    labels: Mapping[str, str] | None = None,
) -> NDArray[Any]:
    r"""Densities of each parameter and regions of each pair, of one or several samples.

    Parameters
    ----------
    samples:
        Events with one column a parameter, as `nuinfer.posterior.Posterior.sample` gives them, with their weights; or
        up to six of them by label, the first filled: ``{"NPE": draws, "reference": others}``.
    names:
        The parameters to show; all flat columns of the first sample, if not given.
    truth:
        Values by name to mark, also of columns that are not shown; the axes reach as far as they do.
    levels:
        Up to three contents of the regions.
    labels:
        How names are to be written, with units: ``{"mu": r"$\mu$"}``.

    The title of one sample's densities is the median with its central 68%.

    Returns
    -------
    numpy.ndarray
        Of axes (P, P); None above the diagonal.

    Raises
    ------
    KeyError
        for a sample without a parameter's column, or a true value of what is no column.
    ValueError
        for no samples or more than six, levels outside (0, 1), or values that are not finite.

    >>> rng = np.random.default_rng(1)
    >>> draws = Events({"a": rng.normal(size=1000), "b": rng.normal(size=1000)})
    >>> axes = corner(draws, truth={"a": 0.0}, labels={"b": r"$\beta$ (GeV)"})
    >>> axes.shape, axes[1, 0].get_ylabel()
    ((2, 2), '$\\beta$ (GeV)')
    """
    shown, cuts = answers("samples", samples, len(PALETTE)), checked_levels(levels)
    if len(cuts) > 3:
        raise ValueError(f"levels: expected at most 3, found {len(cuts)}")
    for label, events in shown.items():
        _check_events(label, events)
    known = tuple(names) or tuple(next(iter(shown.values())).columns)
    draws = {label: _columns(events, known) for label, events in shown.items()}
    marks = _marks(truth or {}, known, [name for events in shown.values() for name in events.columns])
    spans = [_with(_span([(x[:, i], w) for x, w in draws.values()]), mark) for i, mark in enumerate(marks)]
    written = [(labels or {}).get(name, name) for name in known]
    figure = _Figure(figsize=(1.1 + 1.75 * len(known),) * 2, layout="constrained")
    axes: NDArray[Any] = figure.subplots(
        len(known), len(known), squeeze=False, gridspec_kw={"wspace": 0.0, "hspace": 0.0}
    )
    for row, column in np.ndindex(axes.shape):
        ax: Any = axes[row, column]
        if column > row:
            ax.remove()
            axes[row, column] = None
        elif column == row:
            _diagonal(ax, draws, row, spans[row], marks[row])
        else:
            _pair(ax, draws, (column, row), (spans[column], spans[row]), cuts)
            _cross(ax, marks[column], marks[row])
    _dress(axes, written, spans)
    _corner_legend(figure, axes, list(draws), any(mark is not None for mark in marks), cuts)
    return np.asarray(axes)


def _check_events(label: str, events: object) -> None:
    if not isinstance(events, Events):
        raise TypeError(f"samples: expected Events with one column a parameter, found {type(events).__name__}"
                        + (f" for {label!r}" if label else "") + "; Events({name: values}) makes them")  # fmt: skip
    if not events.weight.sum() > 0:
        raise ValueError(f"samples: expected a positive total weight, found {events.weight.sum():g}")


def _columns(events: Events, names: Sequence[str]) -> tuple[Floats, Floats]:
    """Values (N, P) and weights (N,)."""
    columns = [numbers(f"column {name!r}", events.flat(name), len(events), "draws") for name in names]
    return np.stack(columns, 1), np.asarray(events.weight)


def _quantiles(values: Floats, weight: Floats, at: Sequence[float]) -> Floats:
    order = np.argsort(values)
    share = np.cumsum(weight[order])
    return np.asarray(np.interp(np.asarray(at) * share[-1], share - weight[order] / 2, values[order]))


def _span(samples: Sequence[tuple[Floats, Floats]]) -> tuple[float, float]:
    """What a panel shows: all but one in a thousand, and a margin; not more than there is."""
    ends = np.array([_quantiles(x, np.abs(w), (0.0015, 0.9985)) for x, w in samples])
    low, high = float(ends[:, 0].min()), float(ends[:, 1].max())
    if not high > low:  # draws of one value
        return low - 0.5, high + 0.5
    margin = 0.08 * (high - low)
    least, most = min(float(x.min()) for x, _ in samples), max(float(x.max()) for x, _ in samples)
    return max(low - margin, least), min(high + margin, most)


def _marks(truth: Mapping[str, float], shown: Sequence[str], columns: Sequence[str]) -> list[float | None]:
    """The true value of each parameter shown, or None."""
    for name, value in truth.items():
        if name not in columns:
            raise KeyError(f"truth: expected names among {', '.join(dict.fromkeys(columns))}, found {name!r}")
        if not np.isfinite(value):
            raise ValueError(f"truth: expected a finite value of {name!r}, found {value}")
    return [float(truth[name]) if name in truth else None for name in shown]


def _with(span: tuple[float, float], mark: float | None) -> tuple[float, float]:
    """A span that holds a mark, off its border."""
    if mark is None or span[0] < mark < span[1]:
        return span
    low, high = min(span[0], mark), max(span[1], mark)
    margin = 0.05 * (high - low)
    return (low - margin if mark == low else low), (high + margin if mark == high else high)


def _density(values: Floats, weight: Floats, spans: Sequence[tuple[float, float]]) -> tuple[list[Floats], Floats]:
    """Centres of cells along each axis and the smoothed density; (N, D) -> D axes, (cells,) * D."""
    content, edges = np.histogramdd(values, bins=_CELLS, range=list(spans), weights=weight)
    size, dim = float(effective_size(weight)), values.shape[1]
    width = []
    for column, edge in zip(values.T, edges, strict=True):
        low, high = _quantiles(column, np.abs(weight), (0.16, 0.84))
        # a little less than Scott's rule, which is for one Gaussian
        width.append(0.8 * (high - low) / 2 * size ** (-1 / (4 + dim)) / (edge[1] - edge[0]))
    # reflected at the borders, which are those of the draws where these end sharply
    smooth = ndimage.gaussian_filter(content, np.minimum(width, _CELLS / 8), mode="reflect")
    return [(edge[1:] + edge[:-1]) / 2 for edge in edges], np.asarray(smooth)


def _diagonal(
    ax: Axes, draws: Mapping[str, tuple[Floats, Floats]], i: int, span: tuple[float, float], mark: float | None
) -> None:
    for (x, w), color in zip(draws.values(), PALETTE, strict=False):
        (centres,), density = _density(x[:, [i]], w, [span])
        density = density / (density.sum() * (centres[1] - centres[0]))
        ax.plot(centres, density, color=color)
        if len(draws) == 1:
            ax.fill_between(centres, density, color=color, alpha=0.2, linewidth=0)
            low, middle, high = _quantiles(x[:, i], np.abs(w), (0.16, 0.5, 0.84))
            ax.set_title(measured(middle, middle - low, high - middle), fontsize=11)
    if mark is not None:
        ax.axvline(mark, color="black", linestyle="--", linewidth=1.0)
    ax.set(ylim=(0, None), yticks=[])


def _pair(
    ax: Axes, draws: Mapping[str, tuple[Floats, Floats]], pair: tuple[int, int],
    spans: Sequence[tuple[float, float]], levels: Sequence[float],
) -> None:  # fmt: skip
    for k, ((x, w), color) in enumerate(zip(draws.values(), PALETTE, strict=False)):
        (first, second), density = _density(x[:, list(pair)], w, spans)
        heights = _heights(density, levels)
        if k == 0:
            shades = [to_rgba(color, alpha) for alpha in np.linspace(0.18, 0.45, len(heights))]
            ax.contourf(first, second, density.T, levels=[*heights, np.inf], colors=shades, antialiased=True)
        ax.contour(first, second, density.T, levels=heights, colors=[color], linewidths=1.2)


def _heights(density: Floats, levels: Sequence[float]) -> list[float]:
    """Densities above which a share of the whole lies, rising."""
    ordered = np.sort(density.ravel())[::-1]
    share = np.cumsum(ordered) / ordered.sum()
    found = [float(ordered[min(int(np.searchsorted(share, level)), len(ordered) - 1)]) for level in levels]
    return sorted(set(found))


def _cross(ax: Axes, x: float | None, y: float | None) -> None:
    look: Any = {"color": "black", "linestyle": "--", "linewidth": 1.0}
    if x is not None:
        ax.axvline(x, **look)
    if y is not None:
        ax.axhline(y, **look)
    if x is not None and y is not None:
        ax.plot([x], [y], marker="*", linestyle="", color="black", markersize=8, zorder=5)


def _dress(axes: NDArray[Any], labels: Sequence[str], spans: Sequence[tuple[float, float]]) -> None:
    """Limits, and labels at the outside only."""
    last = len(labels) - 1
    for row, column in np.ndindex(axes.shape):
        ax: Any = axes[row, column]
        if ax is None:
            continue
        ax.set_xlim(spans[column])
        ax.xaxis.get_major_locator().set_params(nbins=4, prune="both")
        ax.tick_params(axis="x", which="both", labelbottom=row == last)
        if row != column:
            ax.set_ylim(spans[row])
            ax.yaxis.get_major_locator().set_params(nbins=4, prune="both")
            ax.tick_params(axis="y", which="both", labelleft=column == 0)
        if row == last:
            ax.set_xlabel(labels[column], loc="center")
        if column == 0 and row > 0:
            ax.set_ylabel(labels[row], loc="center")


def _corner_legend(figure: Any, axes: NDArray[Any], names: list[str], truth: bool, levels: Sequence[float]) -> None:
    handles = [Line2D([], [], color=color, label=label) for label, color in zip(names, PALETTE, strict=False) if label]
    if truth:
        handles.append(Line2D([], [], color="black", linestyle="--", marker="*", markersize=8, label="truth"))
    if len(axes) > 1:
        handles.append(Line2D([], [], linestyle="", label=", ".join(percent(level) for level in levels) + " regions"))
    if handles and len(axes) > 1:
        legend = figure.legend(handles=handles, loc="upper right", frameon=False)
        legend.set_in_layout(False)
    elif len(handles) > 1:
        axes[0, 0].legend(handles=handles, loc="best")


# -- calibration -------------------------------------------------------------------------------------------------------


def _panels(count: int, axes: Sequence[Axes] | None, columns: int = 3) -> list[Axes]:
    """So many panels side by side, in rows."""
    if axes is None:
        across = min(count, columns)
        down = math.ceil(count / across)
        figure = _Figure(figsize=(0.4 + 2.9 * across, 0.2 + 2.7 * down), layout="constrained")
        grid = figure.subplots(down, across, squeeze=False).ravel()
        for spare in grid[count:]:
            spare.remove()
        return list(grid[:count])
    found = list(np.ravel(np.asarray(axes, object)))
    if len(found) != count or not all(isinstance(ax, Axes) for ax in found):
        raise TypeError(f"axes: expected {count} matplotlib Axes, found {', '.join(type(a).__name__ for a in found)}")
    return found


def _chosen(known: Sequence[str], names: Sequence[str]) -> list[int]:
    for name in names:
        if name not in known:
            raise KeyError(f"expected names among {', '.join(known)}, found {name!r}")
    return [list(known).index(name) for name in (names or known)]


@style()
def sbc_ranks(
    sbc: Any,
    *,
    names: Sequence[str] = (),
    bins: int | None = None,
    labels: Mapping[str, str] | None = None,
    axes: Sequence[Axes] | None = None,
) -> tuple[Axes, ...]:
    r"""Histograms of the ranks of the truth among posterior draws, with what uniform ranks give: 95% in each bin.

    Parameters
    ----------
    sbc:
        `nuinfer.diagnostics.SBC`.
    names:
        Quantities to show; all of them, if not given.
    bins:
        A divisor of the number of draws + 1, at least 2.  If not given, the largest up to 20 that leaves 5 effective
        simulations each, with weights 100.
    labels:
        How names are to be written: ``{"mu": r"$\mu$"}``.

    The p-value in a panel is that of the bins that are drawn; those of ``sbc`` have bins of their own.

    Raises
    ------
    KeyError
        for a name that is not there.
    ValueError
        for bins that do not divide the number of draws + 1.

    >>> from nuinfer.diagnostics import SBC, Pull
    >>> ranks = np.random.default_rng(1).integers(0, 100, (1, 500))
    >>> sbc = SBC(("t",), ranks, 99, np.ones(500), np.array([0.5]), np.array([0.5]), (Pull(0.0, 0.04, 1.0, 0.03),))
    >>> len(sbc_ranks(sbc))
    1
    """
    places, shown = sbc.draws + 1, _chosen(sbc.names, names)
    size = float(effective_size(sbc.weight))
    count = _rank_bins(places, size / (1 if equal(sbc.weight) else 20)) if bins is None else bins
    if count < 2 or places % count:
        raise ValueError(f"bins: expected a divisor of draws + 1 = {places} from 2, found {count}")
    panels = _panels(len(shown), axes)
    total, share = float(np.sum(sbc.weight)), 1 / count
    low, high = stats.binom.interval(0.95, round(size), share)
    edges = np.arange(count + 1) / count
    for ax, i in zip(panels, shown, strict=True):
        content = np.bincount(sbc.ranks[i] * count // places, sbc.weight, minlength=count) / total * count
        ax.axhspan(low / size * count, high / size * count, color=GREY, alpha=0.3, linewidth=0)
        ax.axhline(1.0, color=GREY, linewidth=1.0)
        ax.stairs(content, edges, color=BLUE, linewidth=1.5)
        name = sbc.names[i]
        ax.set(xlim=(0, 1), ylim=(0, max(1.5, 1.25 * content.max())), ylabel="density")
        ax.set_xlabel(f"rank of {(labels or {}).get(name, name)}")
        p_value = chi2_p(sbc.ranks[i], sbc.draws, sbc.weight, count)
        ax.text(0.05, 0.95, f"p = {p_value:.2g}", transform=ax.transAxes, va="top", fontsize=10.5)
    return tuple(panels)


def _rank_bins(places: int, size: float) -> int:
    """The largest divisor of ``places`` up to 20 that leaves an effective 5 of ``size`` a bin, or the least one."""
    divisors = [b for b in range(2, places + 1) if places % b == 0]
    return max([b for b in divisors if b <= 20 and size / b >= 5], default=divisors[0])


@style()
def sbc_ecdf(
    sbc: Any,
    *,
    names: Sequence[str] = (),
    level: float = 0.95,
    labels: Mapping[str, str] | None = None,
    ax: Axes | None = None,
) -> Axes:
    r"""Distribution functions of the ranks less what is expected, and the band that holds all of one of them.

    Parameters
    ----------
    sbc:
        `nuinfer.diagnostics.SBC`.
    names:
        Up to six quantities to show; the first six, if not given.
    level:
        Probability that a curve of uniform ranks stays inside of the band everywhere.  With weights each quantity has
        its own band, and that of the first is drawn.
    labels:
        How names are to be written: ``{"mu": r"$\mu$"}``.

    A curve that is first above, then below zero is of a posterior that is too narrow; the other way round it is too
    wide; an arch above says that the posterior lies too high, one below that it lies too low.

    Raises
    ------
    KeyError
        for a name that is not there.
    ValueError
        for more than six names.

    >>> from nuinfer.diagnostics import SBC, Pull
    >>> ranks = np.random.default_rng(1).integers(0, 100, (1, 500))
    >>> sbc = SBC(("t",), ranks, 99, np.ones(500), np.array([0.5]), np.array([0.5]), (Pull(0.0, 0.04, 1.0, 0.03),))
    >>> sbc_ecdf(sbc).get_xlabel()
    'rank / number of draws'
    """
    if len(names) > len(PALETTE):
        raise ValueError(f"names: expected at most {len(PALETTE)}, found {len(names)}")
    shown, ax = _chosen(sbc.names, names)[: len(PALETTE)], one_panel(ax)
    for place, (i, color) in enumerate(zip(shown, PALETTE, strict=False)):
        name = sbc.names[i]
        band = sbc.ecdf(name, level=level)
        at = np.concatenate([[0.0], band.at, [1.0]])
        if place == 0:
            low, high = (np.concatenate([[0.0], side - band.at, [0.0]]) for side in (band.low, band.high))
            ax.fill_between(at, low, high, color=GREY, alpha=0.3, linewidth=0, label=f"{percent(level)} band")
            ax.axhline(0, color=GREY, linewidth=1.0)
        found = np.concatenate([[0.0], band.value - band.at, [0.0]])
        ax.plot(at, found, color=color, label=(labels or {}).get(name, name))
    reach = max(map(abs, ax.get_ylim()))
    ax.set(
        xlim=(0, 1),
        ylim=(-reach, reach),
        xlabel="rank / number of draws",
        ylabel="distribution function \N{MINUS SIGN} uniform",
    )
    headroom(ax, rows=-(-(len(shown) + 1) // 3))
    ax.legend(loc="upper center", ncols=3, columnspacing=1.2)
    return ax


# -- coverage ----------------------------------------------------------------------------------------------------------


def _square(ax: Axes, xlabel: str, ylabel: str) -> Axes:
    ax.plot([0, 1], [0, 1], color=GREY, linestyle="--", linewidth=1.2, zorder=1)
    ax.set(xlim=(0, 1), ylim=(0, 1), xlabel=xlabel, ylabel=ylabel)
    ax.set_aspect("equal")
    return ax


@style()
def tarp_curve(tarps: Any, *, ax: Axes | None = None) -> Axes:
    """Expected coverage against credibility of `nuinfer.diagnostics.TARP`, of one or up to six by label.

    Bands are one standard deviation over bootstraps of the simulations.  A curve below the diagonal at high
    credibilities is of an over-confident posterior; p-values are in the legend.

    Raises
    ------
    ValueError
        for none or more than six.

    >>> from nuinfer.diagnostics import TARP
    >>> levels = np.linspace(0, 1, 11)
    >>> ranks, ones = np.arange(100), np.ones(100)
    >>> ax = tarp_curve(TARP(levels, levels, 0.05 * np.sqrt(levels * (1 - levels)), ranks, 99, ones, 0.9, 100.0))
    >>> ax.get_xlabel()
    'credibility'
    """
    shown = answers("tarps", tarps, len(PALETTE))
    ax = _square(one_panel(ax, "compressed", 5.0), "credibility", "expected coverage (TARP)")
    for (label, found), color in zip(shown.items(), PALETTE, strict=False):
        low, high = found.coverage - found.error, found.coverage + found.error
        ax.fill_between(found.levels, low, high, color=color, alpha=0.3, linewidth=0)
        ax.plot(found.levels, found.coverage, color=color, label=_with_p(label, found.p_value))
    ax.legend(loc="best")
    return ax


@style()
def expected_coverage(coverages: Any, *, central: bool = False, ax: Axes | None = None) -> Axes:
    """Coverage against content of `nuinfer.diagnostics.Coverage`, of one or up to six by label.

    Points are regions of highest density, with errors; below the diagonal is over-confidence.

    Parameters
    ----------
    coverages:
        One result, or several by label.
    central:
        Draw the central intervals of each parameter as thin lines too; for one result.

    Raises
    ------
    ValueError
        for none or more than six, or ``central`` with several.

    >>> from nuinfer.diagnostics import Coverage
    >>> levels = np.array([0.5, 0.68, 0.9])
    >>> errors = np.full(3, 0.02)
    >>> found = Coverage(("t",), levels, levels, errors, levels[None], errors[None], 500.0, 0.9, None, ())
    >>> expected_coverage(found, central=True).get_ylabel()
    'expected coverage'
    """
    shown = answers("coverages", coverages, len(PALETTE))
    if central and len(shown) > 1:
        raise ValueError(f"central: expected one result, found {len(shown)}")
    ax = _square(one_panel(ax, "compressed", 5.0), "credibility", "expected coverage")
    for (label, found), color in zip(shown.items(), PALETTE, strict=False):
        look: Any = {"fmt": "o-", "color": color, "elinewidth": 1.1, "linewidth": 1.0}
        ax.errorbar(found.levels, found.observed, found.error, label=_with_p(label, found.p_value), **look)
    if central:
        for name, values, color in zip(found.names, found.central, PALETTE[1:], strict=False):
            ax.plot(found.levels, values, color=color, linewidth=1.2, label=f"{name}, central")
    ax.legend(loc="best")
    return ax


def _with_p(label: str, p_value: float) -> str:
    text = f"p = {p_value:.2g}"
    return f"{label}: {text}" if label else text


# -- predictive checks -------------------------------------------------------------------------------------------------


@style()
def predictive_statistics(
    predictive: Any,
    *,
    names: Sequence[str] = (),
    labels: Mapping[str, str] | None = None,
    axes: Sequence[Axes] | None = None,
) -> tuple[Axes, ...]:
    r"""Each statistic of the observation, a line, among those of replicas; of `nuinfer.diagnostics.Predictive`.

    Parameters
    ----------
    names:
        Statistics to show; all of them, if not given.
    labels:
        How names are to be written, with units.

    Raises
    ------
    KeyError
        for a name that is not there.

    >>> from nuinfer.diagnostics import Predictive
    >>> replicas = np.random.default_rng(1).poisson(10, (200, 1)).astype(float)
    >>> observed, p_values = np.array([12.0]), np.array([0.5])
    >>> len(predictive_statistics(Predictive(("events",), observed, replicas, np.ones(200), p_values, 0.5)))
    1
    """
    shown = _chosen(predictive.names, names)
    panels = _panels(len(shown), axes)
    for ax, i in zip(panels, shown, strict=True):
        values, at, name = predictive.replicas[:, i], float(predictive.observed[i]), predictive.names[i]
        content, edges = np.histogram(values, bins=30, weights=predictive.weight, density=True)
        ax.stairs(content, edges, color=BLUE, fill=True, alpha=0.35)
        ax.stairs(content, edges, color=BLUE, linewidth=1.2)
        ax.axvline(at, color="black", linewidth=1.5)
        ax.set(xlabel=(labels or {}).get(name, name), ylabel="density", ylim=(0, 1.25 * content.max()))
        ax.locator_params(axis="x", nbins=5)
        ax.text(0.05, 0.95, f"p = {predictive.p_values[i]:.2g}", transform=ax.transAxes, va="top", fontsize=10.5)
    return tuple(panels)


@style()
def predictive_overlay(
    edges: ArrayLike,
    observed: ArrayLike,
    replicas: ArrayLike,
    *,
    label: str = "",
    levels: Sequence[float] = (0.68, 0.95),
    ax: Axes | None = None,
) -> Axes:
    """The observed spectrum over bands of those simulated at draws of the posterior.

    Parameters
    ----------
    edges:
        Of B bins (B + 1,).
    observed, replicas:
        Contents (B,) and (R, B).  Replicas fluctuate as the observation does, so that the points bear no errors.
    label:
        The quantity and its unit.
    levels:
        Contents of the central bands.

    Raises
    ------
    ValueError
        for shapes that do not fit, or values that are not finite.

    >>> rng = np.random.default_rng(1)
    >>> ax = predictive_overlay([0, 1, 2], [9, 21], rng.poisson([10, 20], (500, 2)), label="energy (GeV)")
    >>> ax.get_xlabel()
    'energy (GeV)'
    """
    border, cuts = checked_edges(edges), checked_levels(levels)
    found = numbers("observed", observed, len(border) - 1, "bins")
    made = np.asarray(replicas, np.float64)
    if made.ndim != 2 or made.shape[1] != len(found):
        raise ValueError(f"replicas: expected shape (R, {len(found)}), found {made.shape}")
    ax = one_panel(ax)
    for level, alpha in zip(reversed(cuts), np.linspace(0.25, 0.5, len(cuts)), strict=True):
        low, high = np.quantile(made, [(1 - level) / 2, (1 + level) / 2], axis=0)
        steps: Any = {"step": "post", "color": BLUE, "alpha": alpha, "linewidth": 0}
        ax.fill_between(border, np.append(low, low[-1]), np.append(high, high[-1]), label=percent(level), **steps)
    ax.stairs(np.median(made, 0), border, color=BLUE, label="posterior predictive", baseline=None)
    ax.plot((border[1:] + border[:-1]) / 2, found, "o", color="black", label="observation")
    ax.set(xlim=(border[0], border[-1]), xlabel=label, ylabel="entries")
    ax.set_ylim(0.0 if min(found.min(), made.min()) >= 0 else ax.get_ylim()[0], ax.get_ylim()[1])
    headroom(ax, rows=2)
    ax.legend(loc="upper center", ncols=2)
    return ax
