r"""What each event says of a parameter: the optimal observable, expected by process and as seen in data.

At parameters :math:`\theta` the rate of a mixture is :math:`\lambda(x) = \sum_j \lambda_j(x)`, and near them no
observable says more of :math:`\theta_a` than

.. math:: o(x) = \frac{\partial \log \lambda(x \mid \theta)}{\partial \theta_a},

whose distribution shows which processes the answer comes from, and whether the data follow the model where it does.

Sources: Atwood, Soni, Phys. Rev. D 45 (1992) 2405; Diehl, Nachtmann, Z. Phys. C 62 (1994) 397; Brehmer, Cranmer,
Louppe, Pavez, arXiv:1805.00020.

Shapes: N expected events, M observed events, J processes, B bins.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from matplotlib.axes import Axes
from matplotlib.ticker import MaxNLocator
from numpy.typing import ArrayLike

from ..errors import check_finite
from .figures import GREY, PALETTE, style, triangles, two_panels
from .inputs import Floats, Scale, check_scale, checked_edges, divided, numbers

__all__ = ["optimal_observable"]


class _Stack(NamedTuple):
    """Bin contents: of each process (J, B), of their sum with its uncertainty, of the data with theirs, if any."""

    edges: Floats
    names: list[str]
    each: Floats
    sigma: Floats
    data: Floats | None
    error: Floats | None
    beyond: bool

    @property
    def total(self) -> Floats:
        return np.asarray(self.each.sum(0))

    @property
    def floor(self) -> Floats:
        """The lower ends (B,) of the negative contributions."""
        return np.asarray(np.minimum(self.each, 0.0).sum(0))


@style()
def optimal_observable(
    observable: ArrayLike,
    contributions: Mapping[str, ArrayLike],
    *,
    data: ArrayLike | None = None,
    data_weight: ArrayLike | None = None,
    bins: int | ArrayLike = 30,
    xlabel: str = "optimal observable",
    yscale: Scale = "linear",
    axes: Sequence[Axes] | None = None,
) -> tuple[Axes, Axes]:
    r"""The distribution of an observable, stacked by process, with the data as points and their ratio below.

    Parameters
    ----------
    observable:
        Its values (N,) for the expected events: ``model.optimal_observable(reference, "mu", **values)`` of a
        `nuinfer.likelihood.Mixture`, or any other.
    contributions:
        By process, the expected number of events (N,) that each event stands for, as the mixture's
        ``model.expected_events(reference, **values)`` gives them; in the order of stacking, first at the bottom.
        Negative contributions, such as an interference, are stacked below zero; the black line is the sum
        over all processes, its hatched band the uncertainty of the finite sample, :math:`\sqrt{\sum_i w_i^2}`.
    data:
        Values (M,) of the observed events, drawn with :math:`\sqrt{\sum_i w_i^2}`, which is the root of a count.
    data_weight:
        Their weights (M,), 1 if not given; Asimov data have others.
    bins:
        Edges (B + 1,), or a number of equal bins between the 0.5 and 99.5% quantiles of the expected events.  First and
        last bin also hold what lies beyond; where something does, the legend says so.
    yscale:
        ``"linear"`` or ``"log"``; the latter cannot show negative contributions.
    axes:
        A pair of axes, (main, ratio), to draw on.

    Raises
    ------
    ValueError
        for shapes that do not fit, no processes, numbers that are not finite, edges that do not rise, or a logarithmic
        axis without anything positive or with negative contributions.

    >>> main, ratio = optimal_observable(
    ...     [0.0, 0.0, 1.0], {"B": [3.0, 2.0, 1.0], "S": [0.0, 1.0, 2.0]}, data=[0.0, 1.0, 1.0], bins=[-0.5, 0.5, 1.5]
    ... )
    >>> [step.get_data().values.tolist() for step in main.patches[:2]]  # B, then S on top of it
    [[5.0, 1.0], [6.0, 3.0]]
    >>> ratio.containers[0].lines[0].get_ydata().round(3).tolist()
    [0.167, 0.667]
    """
    found = _stacked(observable, contributions, data, data_weight, bins)
    check_scale("yscale", yscale, found.total, "bins above 0")
    if yscale == "log" and found.floor.any():
        raise ValueError(
            f"yscale='log': expected no contributions below 0, found {found.floor.min():.4g}; use 'linear'"
        )
    main, ratio = two_panels(axes, "axes")
    _draw_stack(main, found, yscale)
    _draw_ratio(ratio, found)
    for panel in (main, ratio):
        panel.set_xlim(float(found.edges[0]), float(found.edges[-1]))
    main.set_ylabel("events per bin")
    ratio.set(xlabel=xlabel, ylabel="data /\nexpected" if found.data is not None else "uncertainty")
    return main, ratio


def _draw_stack(main: Axes, found: _Stack, yscale: Scale) -> None:
    tops, floors = np.zeros(len(found.edges) - 1), np.zeros(len(found.edges) - 1)
    handles: list[Any] = []
    for contents, color in zip(found.each, PALETTE, strict=False):
        base = np.where(contents < 0, floors, tops)
        handles.append(main.stairs(base + contents, found.edges, baseline=base, fill=True, color=color, alpha=0.7))
        tops, floors = tops + np.maximum(contents, 0.0), floors + np.minimum(contents, 0.0)
    total = main.stairs(found.total, found.edges, baseline=None, color="black", linewidth=1.2)
    band = _hatched(main, found.edges, found.total, found.sigma)
    entries = [((total, band), "expected"), *reversed(list(zip(handles, found.names, strict=True)))]
    if found.data is not None:
        entries.insert(0, (_points(main, found.edges, found.data, found.error), "data"))
    if found.beyond:
        entries.append((main.plot([], [], " ")[0], "outer bins with overflow"))
    if floors.any():
        main.axhline(0, color="black", linewidth=0.6)
    main.set_yscale(yscale)
    main.set_ylim(*_limits(found, yscale, rows=-(-len(entries) // 2)))
    main.legend(*zip(*entries, strict=True), loc="upper right", ncols=2)


def _limits(found: _Stack, yscale: Scale, *, rows: int) -> tuple[float, float]:
    """Limits of the main panel with room for so many rows of a legend above everything drawn."""
    seen = np.zeros(1) if found.data is None or found.error is None else found.data + found.error
    high = max(float(np.maximum(found.each, 0.0).sum(0).max()), float((found.total + found.sigma).max()), seen.max())
    room = 0.08 + 0.085 * rows  # of the panel's height
    if yscale == "log":
        bottom = 0.4 * float(found.total[found.total > 0].min())
        return bottom, bottom * (high / bottom) ** (1 / (1 - room))
    bottom = 1.15 * float(found.floor.min())
    return bottom, bottom + (high - bottom) / (1 - room)


def _draw_ratio(ratio: Axes, found: _Stack) -> None:
    _hatched(ratio, found.edges, divided(found.total, found.total), divided(found.sigma, np.abs(found.total)))
    ratio.axhline(1, color="black", linewidth=1.2)
    reach, values = divided(found.sigma, np.abs(found.total)), np.ones(0)
    if found.data is not None and found.error is not None:
        values, error = divided(found.data, found.total), divided(found.error, np.abs(found.total))
        _points(ratio, found.edges, values, error)
        reach = np.concatenate([reach, np.abs(values - 1) + error])
    span = float(np.clip(1.15 * np.nanquantile(reach, 0.9), 0.05, 1.1))
    triangles(ratio, _centres(found.edges)[: len(values)], values, span)
    ratio.set_ylim(1 - span, 1 + span)
    ratio.yaxis.set_major_locator(MaxNLocator(5, steps=[1, 2, 5, 10], prune="both"))


def _hatched(ax: Axes, edges: Floats, values: Floats, sigma: Floats) -> Any:
    return ax.stairs(
        values + sigma, edges, baseline=values - sigma, fill=True, facecolor="none", edgecolor=GREY, hatch="//////",
        linewidth=0,
    )  # fmt: skip


def _points(ax: Axes, edges: Floats, values: Floats, error: Floats | None) -> Any:
    return ax.errorbar(_centres(edges), values, error, fmt="o", color="black", markersize=3.5, elinewidth=1.0, zorder=4)


def _centres(edges: Floats) -> Floats:
    return np.asarray((edges[:-1] + edges[1:]) / 2)


# -- input -------------------------------------------------------------------------------------------------------------


def _stacked(
    observable: ArrayLike,
    contributions: Mapping[str, ArrayLike],
    data: ArrayLike | None,
    data_weight: ArrayLike | None,
    bins: int | ArrayLike,
) -> _Stack:
    values, each = _checked_contributions(observable, contributions)
    seen, own = _checked_data(data, data_weight)
    at = _bins(values, np.abs(each).sum(0), seen, bins)
    inside = [np.clip(part, at[0], at[-1]) for part in (values, seen)]
    beyond = any((part != clipped).any() for part, clipped in zip((values, seen), inside, strict=True))
    contents = np.stack([np.histogram(inside[0], at, weights=weight)[0] for weight in each])
    sigma = np.sqrt(np.histogram(inside[0], at, weights=each.sum(0) ** 2)[0])
    if data is None:
        return _Stack(at, list(contributions), contents, sigma, None, None, beyond)
    counts, squares = (np.histogram(inside[1], at, weights=weight)[0] for weight in (own, own**2))
    return _Stack(at, list(contributions), contents, sigma, counts, np.sqrt(squares), beyond)


def _checked_contributions(observable: ArrayLike, contributions: Mapping[str, ArrayLike]) -> tuple[Floats, Floats]:
    values = np.asarray(observable, np.float64)
    if values.ndim != 1 or not values.size:
        raise ValueError(f"observable: expected one value per event, shape (N,), found shape {values.shape}")
    check_finite("observable", values)
    if not 1 <= len(contributions) <= len(PALETTE):
        raise ValueError(f"contributions: expected 1 to {len(PALETTE)} processes, found {len(contributions)}; add "
                         f"up those that need no colour of their own")  # fmt: skip
    each = [numbers(f"contribution of {name}", c, len(values), "events") for name, c in contributions.items()]
    if not np.any(each):
        raise ValueError(f"contributions: expected some events, found only zeros in {', '.join(contributions)}")
    return values, np.stack(each)


def _checked_data(data: ArrayLike | None, weight: ArrayLike | None) -> tuple[Floats, Floats]:
    seen = np.asarray([] if data is None else data, np.float64)
    if seen.ndim != 1:
        raise ValueError(f"data: expected one value per event, shape (M,), found shape {seen.shape}")
    if data is None and weight is not None:
        raise ValueError("data_weight: expected data as well, found none")
    check_finite("data", seen)
    return seen, np.ones(len(seen)) if weight is None else numbers("data_weight", weight, len(seen), "events of data")


def _bins(values: Floats, weight: Floats, seen: Floats, bins: int | ArrayLike) -> Floats:
    """The edges given, or equal bins over the middle 99% of the expected events, in absolute weight."""
    if not isinstance(bins, int | np.integer):
        return checked_edges(bins)
    if bins < 1:
        raise ValueError(f"bins: expected at least 1, found {bins}")
    order = np.argsort(values, kind="stable")
    share = np.cumsum(weight[order]) / weight.sum()
    low, high = values[order[np.searchsorted(share, [0.005, 0.995])]]
    return np.histogram_bin_edges([low, high], bins)
