r"""Pulls and impacts: what the data did to each nuisance parameter, and what each does to the answer.

.. math:: \mathrm{pull}_k = \frac{\hat\alpha_k - \alpha_k^0}{\sigma_k}, \qquad
          \Delta_k^{\pm} = \hat{\hat\mu}(\hat\alpha_k \pm \hat\sigma_k) - \hat\mu,

with the prior's centre and width, and the post-fit uncertainty :math:`\hat\sigma_k`.  A two-point comparison of models
has no width that anybody measured: a shrunken pull of it says nothing of the truth (Ghosh, Nachman, arXiv:2109.08159).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np
from matplotlib.axes import Axes
from matplotlib.lines import Line2D
from matplotlib.patches import Patch
from matplotlib.ticker import MaxNLocator, NullLocator
from matplotlib.transforms import ScaledTranslation
from numpy.typing import NDArray

from .figures import BLUE, GREY, ORANGE, one_panel, style
from .inputs import Floats, measured

__all__ = ["impacts"]

_ROW, _LINE = 0.235, 0.19  # heights of a parameter and of a line of the legend, in inches


class _Rows(NamedTuple):
    """What is drawn of each parameter (P,), from the top, and the answer in words."""

    names: list[str]
    pulls: Floats
    constraints: Floats
    post: Floats  # (2, P): down, up
    prior: Floats  # (2, P)
    values: Floats
    errors: Floats
    free: NDArray[np.bool_]
    two_point: NDArray[np.bool_]
    of: int


@style()
def impacts(
    impacts: Any,
    *,
    labels: Mapping[str, str] | None = None,
    most: int = 30,
    ax: Axes | None = None,
) -> tuple[Axes, Axes]:
    r"""Pulls (points, axis below) over impacts (bars, axis above) of the parameters, the largest impact on top.

    Parameters
    ----------
    impacts:
        `nuinfer.intervals.Impacts`.
    labels:
        How names are to be written: ``{"mu": r"$\mu$"}``; others are written as they are.
    most:
        The number of parameters that are shown; where there are more, the legend says so.
    ax:
        Axes to draw the impacts on; the pulls get an axes of their own over it.

    Returns
    -------
    The axes of the impacts, and those of the pulls.

    The bars are the shifts of the answer with the parameter fixed at its post-fit value minus or plus its post-fit
    uncertainty, the outlines those of its prior uncertainty.  A free parameter has no prior and hence no pull: its
    value and uncertainty are written instead.  A comparison of two models is hatched: its bars are the shifts with the
    answer at either model, and its pull, an open point, has no error bar.

    Raises
    ------
    ValueError
        for no parameters, or ``most`` below 1.

    >>> from nuinfer import intervals
    >>> from nuinfer.likelihood import Normal
    >>> both = Normal(["mu", "a"], [1.0, 0.0], covariance=[[0.25, 0.3], [0.3, 1.0]])
    >>> bars, points = impacts(intervals.impacts(both + Normal("a"), "mu"))
    >>> [round(float(bar.get_width()), 3) for bar in bars.patches]  # prior and post-fit, down and up
    [-0.3, -0.212, 0.3, 0.212]
    """
    if most < 1:
        raise ValueError(f"most: expected at least 1 parameter to show, found {most}")
    if not len(impacts.parameters):
        raise ValueError(f"impacts on {impacts.name}: expected at least one other parameter, found none")
    written = labels or {}
    interest = written.get(impacts.name, impacts.name)
    answer = f"{interest} = {measured(impacts.value, impacts.error, impacts.error)}"
    return _draw(_rows(impacts, most), answer, interest, written, ax)


def _draw(found: _Rows, answer: str, interest: str, labels: Mapping[str, str], ax: Axes | None) -> tuple[Axes, Axes]:
    shown = len(found.names)
    handles, note = _legend(found), _note(found, answer)
    lines = len(handles) / 2 + note.count("\n") + 1
    bars = one_panel(ax, height=1.5 + _ROW * shown + _LINE * lines)
    points = bars.twiny()
    _draw_bars(bars, found)
    _draw_pulls(points, found)
    bars.set_ylim(shown - 0.3, -0.7)
    bars.set_yticks(np.arange(shown), [labels.get(name, name) for name in found.names])
    _label(bars, points, found, interest)
    below = bars.transAxes + ScaledTranslation(0, -0.55, bars.figure.dpi_scale_trans)  # inches: under the label
    bars.legend(
        handles=handles, title=note, loc="upper right", bbox_to_anchor=(1, 0), bbox_transform=below, ncols=2,
        fontsize=9.5, title_fontsize=9, alignment="left", columnspacing=1.2, borderaxespad=0, borderpad=0,
    )  # fmt: skip
    return bars, points


def _draw_bars(bars: Axes, found: _Rows) -> None:
    at = np.arange(len(found.names))
    for post, prior, color in zip(found.post, found.prior, (ORANGE, BLUE), strict=True):
        bars.barh(at, np.nan_to_num(prior), 0.8, facecolor="none", edgecolor=color, linewidth=0.9)
        drawn = bars.barh(at, np.nan_to_num(post), 0.8, facecolor=color, edgecolor="white", alpha=0.75, linewidth=0)
        for patch, hatched in zip(drawn, found.two_point, strict=True):
            patch.set_hatch("//////" if hatched else None)


def _draw_pulls(points: Axes, found: _Rows) -> None:
    at = np.arange(len(found.names))
    for x, line in ((-1, ":"), (0, "-"), (1, ":")):
        points.axvline(x, color=GREY, linestyle=line, linewidth=0.8, zorder=0.5)
    plain = ~(found.free | found.two_point)
    look: Any = {"fmt": "o", "color": "black", "markersize": 3.5, "elinewidth": 1.1}
    points.errorbar(found.pulls[plain], at[plain], xerr=found.constraints[plain], **look)
    points.plot(found.pulls[found.two_point], at[found.two_point], "o", color="black", markerfacecolor="white")
    for row in np.flatnonzero(found.free).tolist():
        text = measured(found.values[row], found.errors[row], found.errors[row])
        box = {"boxstyle": "square,pad=0.1", "facecolor": "white", "edgecolor": "none", "alpha": 0.8}
        points.text(0, row, text, ha="center", va="center", fontsize=8.5, bbox=box)


def _label(bars: Axes, points: Axes, found: _Rows, interest: str) -> None:
    """Both axes with 0 in the middle: pulls below, impacts above."""
    seen = np.abs(found.pulls) + np.where(found.two_point, 0.0, found.constraints)
    reach = max(2.0, 1.1 * float(np.nanmax(seen, initial=0.0)))
    points.set_xlim(-reach, reach)
    widest = 1.2 * max(float(np.nanmax(np.abs(part), initial=0.0)) for part in (found.post, found.prior))
    bars.set_xlim(-(widest or 1.0), widest or 1.0)
    points.xaxis.set_major_locator(MaxNLocator(5, integer=True))
    points.xaxis.set_label_position("bottom")
    points.xaxis.set_ticks_position("bottom")
    bars.xaxis.set_major_locator(MaxNLocator(5, steps=[1, 2, 5, 10]))
    bars.xaxis.set_label_position("top")
    bars.xaxis.set_ticks_position("top")
    bars.yaxis.set_minor_locator(NullLocator())
    bars.tick_params(axis="y", which="both", length=0, labelsize=11 if len(found.names) <= 15 else 9.5)
    points.set_xlabel(r"pull $(\hat\alpha - \alpha_0) / \sigma$")
    bars.set_xlabel(f"impact on {interest}")


def _legend(found: _Rows) -> list[Any]:
    shown = [
        Line2D([], [], color="black", marker="o", markersize=3.5, linewidth=1.1, label="pull, post-fit / prior"),
        Patch(facecolor=BLUE, alpha=0.75, label=r"impact at $+1\hat\sigma$"),
        Patch(facecolor=ORANGE, alpha=0.75, label=r"impact at $-1\hat\sigma$"),
        Patch(facecolor="none", edgecolor=GREY, linewidth=0.9, label=r"at $\pm 1\sigma$ of the prior"),
    ]
    if found.two_point.any():
        shown.append(Patch(facecolor=GREY, edgecolor="white", hatch="//////", alpha=0.75, label="at either model"))
    return shown


def _note(found: _Rows, answer: str) -> str:
    """The answer, and what the reader of the picture has to know."""
    lines = [answer]
    if len(found.names) < found.of:
        lines[0] += f"; the largest {len(found.names)} of {found.of} impacts"
    if found.free.any():
        lines.append("numbers: parameters without a prior")
    if found.two_point.any():
        lines += [
            "hatched: two models, A in orange, B in blue;",
            "a shrunken pull of it is no reduction of uncertainty",
        ]
    return "\n".join(lines)


def _rows(impacts: Any, most: int) -> _Rows:
    names = list(impacts.parameters[:most])
    free, two_point = (np.array([name in some for name in names]) for some in (impacts.free, impacts.two_points))
    prior = np.where(two_point, np.nan, impacts.prefit[:most].T)  # that of a comparison is the bar itself
    arrays = (impacts.pulls, impacts.constraints, impacts.fitted, impacts.errors)
    pulls, constraints, values, errors = (np.asarray(part[:most], np.float64) for part in arrays)
    post = impacts.postfit[:most].T
    return _Rows(names, pulls, constraints, post, prior, values, errors, free, two_point, len(impacts.parameters))
