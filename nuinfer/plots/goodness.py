"""A test of goodness of fit: the toys with their chi2, and where the data disagree."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
from matplotlib.axes import Axes
from numpy.typing import ArrayLike
from scipy import stats

from .figures import BLUE, GREY, RED, headroom, one_panel, style, two_panels
from .inputs import Floats, Scale, check_scale, checked_edges

if TYPE_CHECKING:
    from ..anomaly.goodness import GoodnessOfFit
    from ..events import Events

__all__ = ["goodness_ratio", "goodness_toys"]


@style()
def goodness_toys(result: GoodnessOfFit, *, bins: int = 30, ax: Axes | None = None) -> Axes:
    r"""The statistic of the toys, the chi2 through them, and that of the data.

    Parameters
    ----------
    result:
        Of `nuinfer.anomaly.goodness.goodness_of_fit`.
    bins:
        Between the smallest and the largest toy.

    Raises
    ------
    TypeError
        for an ``ax`` that is none.
    ValueError
        for fewer than 2 bins.

    >>> from nuinfer.anomaly.goodness import goodness_of_fit
    >>> from nuinfer.simulators.exponential_bump import ExponentialBump
    >>> problem = ExponentialBump(expected=500.0)
    >>> found = goodness_of_fit(problem.data(seed=1), problem.reference(5000, seed=2), ["x"], toys=40, progress=False)
    >>> goodness_toys(found).get_xlabel()
    'test statistic $t$'
    """
    if bins < 2:
        raise ValueError(f"bins: expected at least 2, found {bins}")
    ax = one_panel(ax)
    toys = result.toys
    heights, edges = np.histogram(toys, bins, density=True)
    ax.stairs(heights, edges, fill=True, facecolor=BLUE, alpha=0.4, linewidth=0, label=f"{len(toys)} toys")
    end = 1.08 * max(result.t, float(toys.max()), float(stats.chi2.ppf(0.999, result.dof)))
    t = np.linspace(min(0.0, float(toys.min())), end, 400)
    word = "" if result.compatible else ", not compatible"
    ax.plot(t[1:], stats.chi2.pdf(t[1:], result.dof), color=GREY,
            label=rf"$\chi^2$ of {result.dof:.1f} $\pm$ {result.dof_error:.1f} dof{word}")  # fmt: skip
    ax.axvline(result.t, ymax=0.7, color=RED, linewidth=2.0, label=_found(result))
    ax.set(xlabel="test statistic $t$", ylabel="density of toys", xlim=(t[0], end), ylim=(0, None))
    headroom(ax, rows=3)
    ax.legend(loc="upper right")
    return ax


def _found(result: GoodnessOfFit) -> str:
    relation, word = {
        "toys": ("=", "toys"), "chi2": ("=", r"$\chi^2$"), "bound": ("<", "95% bound of the toys"),
    }[result.valid]  # fmt: skip
    return f"data: $t$ = {result.t:.1f}, $p$ {relation} {result.p:.2g} ({word})"


@style()
def goodness_ratio(
    result: GoodnessOfFit,
    data: Events,
    reference: Events,
    column: str,
    edges: ArrayLike,
    *,
    xlabel: str = "",
    ylabel: str = "events",
    yscale: Scale = "log",
    axes: Sequence[Axes] | None = None,
) -> tuple[Axes, Axes]:
    r"""Data and reference in a column, and their ratio below, with the learned :math:`n(x)/n_{ref}(x)`.

    The learned ratio of a bin is the mean of the ratio over the reference's events in it: what the reference would be
    with the correction.

    Parameters
    ----------
    result:
        Of `nuinfer.anomaly.goodness.goodness_of_fit`, for events with all columns that it looked at.
    column, edges:
        What is drawn, and its bins (B + 1,); events outside them are not shown.
    axes:
        A pair of axes, (main, ratio).

    Raises
    ------
    KeyError, TypeError
        for a column that is missing, or not flat.
    ValueError
        for edges that do not rise, or bins without reference.

    >>> from nuinfer.anomaly.goodness import goodness_of_fit
    >>> from nuinfer.simulators.exponential_bump import ExponentialBump
    >>> problem = ExponentialBump(expected=500.0)
    >>> data, reference = problem.data(seed=1), problem.reference(5000, seed=2)
    >>> found = goodness_of_fit(data, reference, ["x"], toys=40, progress=False)
    >>> main, ratio = goodness_ratio(found, data, reference, "x", [0.0, 0.1, 0.2, 0.4])
    >>> ratio.get_xlabel()
    'x'
    """
    edges = checked_edges(edges)
    mean, corrected = _binned(reference, column, edges), _binned(reference, column, edges, result.log_ratio(reference))
    if not (mean > 0).all():
        low = edges[int(np.argmin(mean))]
        raise ValueError(f"edges: expected reference events of positive weight in each bin, found {mean.min():g} from "
                         f"{low:g}; use wider bins")  # fmt: skip
    check_scale("yscale", yscale, mean, "expectations above 0")
    main, ratio = two_panels(axes, "axes")
    counts, at = _binned(data, column, edges), (edges[1:] + edges[:-1]) / 2
    main.stairs(mean, edges, baseline=None, color=BLUE, label="reference")
    main.stairs(corrected, edges, baseline=None, color=RED, linestyle="--", label="reference with the learned ratio")
    seen = counts > 0 if yscale == "log" else counts >= 0
    error = np.sqrt(counts)
    main.errorbar(at[seen], counts[seen], error[seen], fmt="o", color="black", markersize=3.5, elinewidth=1.0,
                  label="data", zorder=4)  # fmt: skip
    main.set(ylabel=ylabel, yscale=yscale, xlim=(edges[0], edges[-1]))
    headroom(main, rows=3)
    main.legend(loc="upper right")
    ratio.axhline(1, color=BLUE, linewidth=1.2)
    ratio.errorbar(at, counts / mean, error / mean, fmt="o", color="black", markersize=3.5, elinewidth=1.0)
    ratio.stairs(corrected / mean, edges, baseline=None, color=RED)
    top = float(np.quantile(np.concatenate([counts / mean, corrected / mean]), 0.9))
    ratio.set(ylim=(0, max(2.0, 1.3 * top)), xlabel=xlabel or column, ylabel="ratio to\nreference")
    return main, ratio


def _binned(events: Events, column: str, edges: Floats, log_ratio: Floats | None = None) -> Floats:
    weight = events.weight if log_ratio is None else events.weight * np.exp(log_ratio)
    return np.histogram(np.asarray(events.flat(column), np.float64), edges, weights=weight)[0]
