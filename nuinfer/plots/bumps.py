r"""A bump hunt: the spectrum with its most unlikely window, every window that was tried, and the toys.

The significance of a bin is exact, of the Poisson p-value on the side on which the count is, and 0 where that p-value
is above 1/2, as it is for many small counts (Choudalakis and Casadei, arXiv:1111.2062).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
from matplotlib.axes import Axes
from matplotlib.collections import LineCollection
from matplotlib.patches import Rectangle
from matplotlib.ticker import MaxNLocator

from .figures import BLUE, GREY, ORANGE, RED, headroom, one_panel, style, two_panels
from .inputs import Floats, Scale, check_scale

if TYPE_CHECKING:
    from ..anomaly.bump.bump_hunter import BumpHunt

__all__ = ["bump_hunter", "bump_map", "bump_toys", "bump_windows"]


@style()
def bump_hunter(
    hunt: BumpHunt,
    *,
    channel: str | None = None,
    xlabel: str = "",
    ylabel: str = "events",
    yscale: Scale = "log",
    axes: Sequence[Axes] | None = None,
) -> tuple[Axes, Axes]:
    r"""A spectrum and its expectation with the most unlikely window, and the significance of each bin below.

    Parameters
    ----------
    hunt:
        Of `nuinfer.anomaly.bump_hunt`, in one dimension.  With a floating normalisation the expectation is as it is for
        the window.
    channel:
        Which one, of several; the first if not given.
    axes:
        A pair of axes, (main, significance).

    Raises
    ------
    ValueError
        for a hunt in more than one dimension, see `bump_map`, or a channel that is not there.

    >>> from nuinfer.anomaly.bump.bump_hunter import bump_hunt
    >>> found = bump_hunt([90, 150, 100, 98], [100.0, 100.0, 100.0, 100.0], widths=(1, 2), toys=100, seed=1)
    >>> main, below = bump_hunter(found)
    >>> below.patches[-1].get_data().values.round(2).tolist()
    [-0.95, 4.62, 0.0, -0.13]
    """
    number = _channel(hunt, channel, 1)
    (edges,), ((low, high),) = hunt.axes, hunt.window
    counts, expected = hunt.counts[number], _expected(hunt, number)
    check_scale("yscale", yscale, expected, "expectations above 0")
    main, below = two_panels(axes, "axes")
    for panel in (main, below):
        panel.axvspan(low, high, color=ORANGE, alpha=0.25, linewidth=0)
        panel.set_xlim(float(edges[0]), float(edges[-1]))
    main.stairs(expected, edges, baseline=None, color=BLUE, linewidth=1.5, label="expected")
    at = (edges[1:] + edges[:-1]) / 2
    seen = counts > 0 if yscale == "log" else counts >= 0
    main.errorbar(at[seen], counts[seen], np.sqrt(counts[seen]), fmt="o", color="black", markersize=3.5,
                  elinewidth=1.0, label="observed", zorder=4)  # fmt: skip
    main.set(ylabel=ylabel, yscale=yscale)
    if yscale == "log":
        main.set_ylim(bottom=0.5 * max(min(float(expected.min()), float(counts[seen].min(initial=np.inf))), 0.05))
    headroom(main, rows=2)
    handles, labels = main.get_legend_handles_labels()
    patch = Rectangle((0, 0), 1, 1, color=ORANGE, alpha=0.25, linewidth=0)
    main.legend([*handles, patch], [*labels, _words(hunt)], loc="upper right")
    _bars(below, _significance(counts, expected), edges)
    below.set(xlabel=xlabel, ylabel="Z per bin")
    return main, below


@style()
def bump_map(
    hunt: BumpHunt, *, channel: str | None = None, xlabel: str = "", ylabel: str = "", ax: Axes | None = None
) -> Axes:
    r"""The significance of each bin of a plane, with the most unlikely window.

    Parameters
    ----------
    hunt:
        Of `nuinfer.anomaly.bump_hunt`, in two dimensions.
    channel:
        Which one, of several; the first if not given.

    Raises
    ------
    ValueError
        for a hunt that is not in two dimensions, or a channel that is not there.

    >>> from nuinfer.anomaly.bump.bump_hunter import bump_hunt
    >>> found = bump_hunt([[9, 40], [11, 8]], [[10.0, 10.0], [10.0, 10.0]], widths=(1, 1), toys=100, seed=1)
    >>> bump_map(found).patches[0].get_xy()
    (0.0, 1.0)
    """
    number = _channel(hunt, channel, 2)
    x, y = hunt.axes
    z = _significance(hunt.counts[number], _expected(hunt, number))
    ax = one_panel(ax, "compressed")
    span = max(3.0, float(np.abs(z).max()))
    mesh = ax.pcolormesh(x, y, z.T, cmap="RdBu_r", vmin=-span, vmax=span, edgecolors="face", linewidth=0.2)
    bar = ax.figure.colorbar(mesh, ax=ax, label="Z per bin", fraction=0.046, pad=0.03)
    if bar.solids is not None:
        bar.solids.set_edgecolor("face")
    (left, right), (low, high) = hunt.window
    ax.add_patch(Rectangle((left, low), right - left, high - low, fill=False, color="black", linewidth=1.8, zorder=5,
                           label=_words(hunt)))  # fmt: skip
    ax.tick_params(which="both", direction="out", top=False, right=False)
    ax.set(xlabel=xlabel, ylabel=ylabel)
    ax.set_title(_words(hunt), fontsize=10.5)
    return ax


@style()
def bump_windows(hunt: BumpHunt, *, axis: int = 0, xlabel: str = "", ax: Axes | None = None) -> Axes:
    r"""All windows as lines at their local p-value, from bin to bin: the tomography of a hunt.

    Windows with p = 1 are not drawn.  Grey lines are p-values of 1, 2, ... standard deviations, the dotted red one that
    of a local p-value which one in twenty backgrounds has in its most unlikely window.

    Parameters
    ----------
    hunt:
        Of `nuinfer.anomaly.bump_hunt`.
    axis:
        Along which the windows are drawn, in more than one dimension.

    Raises
    ------
    ValueError
        for an axis that is not there.

    >>> from nuinfer.anomaly.bump.bump_hunter import bump_hunt
    >>> found = bump_hunt([90, 150, 100, 98], [100.0, 100.0, 100.0, 100.0], widths=(1, 2), toys=100, seed=1)
    >>> len(bump_windows(found).collections[0].get_segments()), len(found.log_p)
    (3, 7)
    """
    if not 0 <= axis < len(hunt.axes):
        raise ValueError(f"axis: expected 0 to {len(hunt.axes) - 1}, found {axis}")
    edges, first, width = hunt.axes[axis], hunt.first[:, axis], hunt.width[:, axis]
    score = -hunt.log_p / math.log(10)
    drawn = np.flatnonzero(score > 0)
    drawn = drawn[np.argsort(score[drawn])]
    ends = np.stack([edges[first], edges[first + width]], 1)
    ax = one_panel(ax)
    lines = np.stack([ends[drawn], np.stack([score[drawn]] * 2, 1)], -1)
    ax.add_collection(LineCollection(list(lines), colors=BLUE, linewidths=1.0, alpha=0.5))
    typical = float(np.quantile(hunt.toys, 0.95)) / math.log(10)
    top = max(1.2 * float(score.max()), 1.2 * typical, 0.5)
    _sigma_lines(ax, top)
    ax.axhline(typical, color=RED, linestyle=":", linewidth=1.2, label="5% of backgrounds have one above")
    ax.plot(ends[hunt.best], [score[hunt.best]] * 2, color=ORANGE, linewidth=3, label=_words(hunt), zorder=4)
    ax.set(xlim=(edges[0], edges[-1]), ylim=(0, top), xlabel=xlabel, ylabel=r"$-\log_{10}$ local p")
    headroom(ax, rows=2)
    ax.legend(loc="upper left")
    return ax


@style()
def bump_toys(hunt: BumpHunt, *, ax: Axes | None = None) -> Axes:
    r"""The test statistic of the toys, and that of the data: the global p-value is the share to its right.

    Raises
    ------
    TypeError
        for an ``ax`` that is none.

    >>> from nuinfer.anomaly.bump.bump_hunter import bump_hunt
    >>> found = bump_hunt([90, 150, 100, 98], [100.0, 100.0, 100.0, 100.0], widths=(1, 2), toys=100, seed=1)
    >>> int(bump_toys(found).patches[0].get_data().values.sum())
    100
    """
    ax = one_panel(ax)
    most = max(float(hunt.toys.max()), hunt.statistic)
    edges = np.linspace(0, 1.05 * most if most > 0 else 1.0, 51)
    ax.stairs(np.histogram(hunt.toys, edges)[0], edges, fill=True, facecolor=BLUE, alpha=0.4, linewidth=0,
              label=f"{len(hunt.toys)} toys")  # fmt: skip
    ax.set(yscale="log", xlim=(0, edges[-1]), xlabel=r"test statistic $t = -\ln p$", ylabel="toys")
    ax.set_ylim(bottom=0.5)
    ax.plot([hunt.statistic] * 2, ax.get_ylim(), color=RED, linewidth=1.8, label=f"data: {_global(hunt)}")
    headroom(ax, rows=2)
    ax.legend(loc="upper right")
    return ax


# -- what they share ---------------------------------------------------------------------------------------------------


def _channel(hunt: BumpHunt, channel: str | None, axes: int) -> int:
    if len(hunt.axes) != axes:
        other = "bump_map" if len(hunt.axes) == 2 else "bump_windows" if len(hunt.axes) > 2 else "bump_hunter"
        raise ValueError(f"hunt: expected one in {axes} dimensions, found {len(hunt.axes)}; use {other}")
    if channel is not None and channel not in hunt.channels:
        raise ValueError(f"channel: expected one of {list(hunt.channels)}, found {channel!r}")
    return 0 if channel is None else hunt.channels.index(channel)


def _expected(hunt: BumpHunt, number: int) -> Floats:
    """The expectation of a channel, with the normalisation that it has for the window."""
    whole = hunt.expectation[number]
    return np.asarray(whole * (hunt.expected[hunt.best, number] / whole[hunt.bins].sum()))


def _significance(counts: Floats, expected: Floats) -> Floats:
    from ..anomaly.significance import counting_z

    above = np.maximum(counting_z(counts, expected), 0.0)
    below = np.minimum(counting_z(counts, expected, tail="deficit"), 0.0)
    return np.asarray(np.where(counts > expected, above, below))


def _bars(ax: Axes, z: Floats, edges: Floats) -> None:
    ax.stairs(z, edges, baseline=0, fill=True, facecolor=BLUE, alpha=0.6, linewidth=0)
    ax.axhline(0, color=GREY, linewidth=0.8)
    span = 1.15 * max(float(np.abs(z).max(initial=0.0)), 2.0)
    ax.set_ylim(-span if z.min() < 0 else -0.3 * span, span)
    ax.yaxis.set_major_locator(MaxNLocator(5, integer=True, prune="both"))


def _sigma_lines(ax: Axes, top: float) -> None:
    from ..anomaly.significance import log_p_of_z

    sigmas = np.arange(1, 39)
    heights = -log_p_of_z(sigmas) / math.log(10)
    shown = sigmas[heights < top]
    for number in shown[:: max(1, math.ceil(len(shown) / 6))].tolist():
        height = heights[number - 1]
        ax.axhline(height, color=GREY, linewidth=0.7, linestyle="--", zorder=0)
        ax.annotate(rf"{number}$\sigma$", (1, height), xycoords=ax.get_yaxis_transform(), xytext=(-9, 2),
                    textcoords="offset points", ha="right", color=GREY, fontsize=9)  # fmt: skip


def _words(hunt: BumpHunt) -> str:
    return f"local {hunt.local_z:.1f}$\\sigma$, global {_global(hunt)}"


def _global(hunt: BumpHunt) -> str:
    return f"p < {hunt.p_upper:.2g} (95%)" if hunt.is_bound else f"p = {hunt.p_value:.2g}"
