r"""The uncertainty of an answer by its sources: statistical, and each group of nuisance parameters.

A group's part is what is lost, in quadrature, when its parameters are held at their best values,

.. math:: \sigma_g = \sqrt{\sigma^2 - \sigma^2(g\ \mathrm{held})}, \qquad
          \sigma_\mathrm{stat} = \sigma(\mathrm{all\ constrained\ parameters\ held}),

so that :math:`\sigma_\mathrm{stat}^2 + \sum_g \sigma_g^2 = \sigma^2` where every constrained parameter is in one group
and groups are uncorrelated after the fit.  Otherwise the sum is another number, and the figure shows both.

Source: ATLAS, arXiv 2412.01600, section 6.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.ticker import MaxNLocator, NullLocator

from ..errors import check_finite
from .figures import BLUE, GREY, ORANGE, one_panel, style
from .inputs import Floats, measured

__all__ = ["breakdown"]

_ROW = 0.34  # the height of a row, in inches


@style()
def breakdown(impacts: Any, *, labels: Mapping[str, str] | None = None, ax: Axes | None = None) -> Axes:
    r"""The statistical part (orange) and each group's (blue) of an uncertainty, their sum in quadrature, and the total.

    Parameters
    ----------
    impacts:
        `nuinfer.intervals.Impacts` that were asked for with ``groups=``.
    labels:
        How names of groups and of the parameter are to be written: ``{"mu": r"$\mu$"}``.

    Beside each bar is its length, and in brackets its square over that of the total: the part of the variance.  Groups
    are drawn from the largest.  Where the sum in quadrature (the outline) is not the total, groups are correlated, or
    some constrained parameter is in none of them, or in several.

    Raises
    ------
    ValueError
        for impacts without groups, or numbers that are not finite.

    >>> from nuinfer import intervals
    >>> from nuinfer.likelihood import Normal
    >>> both = Normal(["mu", "a"], [1.0, 0.0], covariance=[[0.25, 0.3], [0.3, 1.0]]) + Normal("a")
    >>> ax = breakdown(intervals.impacts(both, "mu", groups={"theory": ["a"]}))
    >>> [round(float(bar.get_width()), 3) for bar in ax.patches]  # statistical, theory, in quadrature, total
    [0.4, 0.212, 0.453, 0.453]
    """
    if not impacts.groups:
        raise ValueError(f"impacts on {impacts.name}: expected groups of parameters, found none; give "
                         f"intervals.impacts(..., groups={{name: [parameters]}})")  # fmt: skip
    groups = dict(sorted(impacts.groups.items(), key=lambda item: -item[1]))
    parts = np.array([impacts.statistical, *groups.values()], np.float64)
    check_finite(f"uncertainty of {impacts.name} by groups", np.append(parts, impacts.error))
    sizes = np.array([*parts, np.sqrt(np.sum(parts**2)), impacts.error])
    written = labels or {}
    names = ["statistical", *(written.get(name, name) for name in groups), "sum in quadrature", "total"]
    ax = one_panel(ax, height=1.25 + _ROW * len(sizes))
    _draw(ax, names, sizes)
    interest = written.get(impacts.name, impacts.name)
    ax.set_xlabel(f"uncertainty of {interest} = {measured(impacts.value, impacts.error, impacts.error)}")
    return ax


def _draw(ax: Axes, names: list[str], sizes: Floats) -> None:
    at, look = np.arange(len(sizes)), [ORANGE, *[BLUE] * (len(sizes) - 3), "none", GREY]
    edges = ["none"] * (len(sizes) - 2) + ["black", "none"]
    ax.barh(at, sizes, 0.66, color=look, edgecolor=edges, linewidth=1.1)
    ax.axhline(len(sizes) - 2.5, color="black", linewidth=0.8)
    across = ax.get_yaxis_transform()
    for row, size in enumerate(sizes.tolist()):
        text = f"{size:.3g} ({100 * (size / float(sizes[-1])) ** 2:.0f}%)"
        ax.text(1.015, row, text, transform=across, va="center", fontsize=9.5)
    ax.text(1.015, -0.6, r"$\sigma$ (of $\sigma^2$)", transform=across, va="bottom", fontsize=9.5)
    ax.set(xlim=(0, 1.05 * float(sizes.max())), ylim=(len(sizes) - 0.45, -0.55))
    ax.set_yticks(at, names)
    ax.yaxis.set_minor_locator(NullLocator())
    ax.xaxis.set_major_locator(MaxNLocator(5, steps=[1, 2, 5, 10]))
    ax.tick_params(axis="y", which="both", length=0)
