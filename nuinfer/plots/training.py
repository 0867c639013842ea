r"""How a fit went: loss curves, calibration of its probabilities, and the weights that it gives to events.

Shapes: K members, N events, B bins, E epochs.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.ticker import MaxNLocator
from numpy.typing import ArrayLike, NDArray

from ..errors import check_finite
from ..metrics import effective_size
from .figures import BLUE, GREY, RED, one_panel, style, two_panels
from .inputs import Floats, Scale, check_scale, divided, entry, has_entry, not_negative, numbers, thousands

__all__ = ["history", "reliability", "weights"]


@style()
def history(history: object, *, ax: Axes | None = None) -> Axes:
    r"""Loss curves: each member as a light line, the mean over members as a heavy one, best epochs as points.

    Parameters
    ----------
    history:
        A mapping or an object with ``train`` (E, K) and, each of them None if there is none, ``validation`` (E, K) (or
        all NaN), ``best_epoch`` (K,), counted from 0, and ``learning_rate`` (E,), which gets an axis on the right.  A
        member that stopped early has NaN from there on, and the mean is over the members that still run.

    Raises
    ------
    KeyError
        for a part that is missing.
    ValueError
        for shapes that do not fit, losses that are not finite before a member's end, or best epochs outside the run.

    >>> run = {"train": [[0.9], [0.7]], "validation": [[0.8], [0.75]], "best_epoch": [1], "learning_rate": None}
    >>> [text.get_text() for text in history(run).get_legend().get_texts()]
    ['training', 'validation', 'best epoch']
    """
    train, validation, best, rate = _checked_history(history)
    ax = one_panel(ax)
    _loss_curves(ax, train, BLUE, "training", "--")
    if validation is not None:
        _loss_curves(ax, validation, RED, "validation", "-")
        if best is not None:
            at = validation[best, np.arange(len(best))]
            ax.plot(best, at, "o", color="black", markersize=4, label="best epoch", zorder=4)
    ax.set(xlabel="epoch", ylabel="loss")
    ax.xaxis.set_major_locator(MaxNLocator(6, integer=True))
    if rate is not None:
        _rate_axis(ax, rate)
    ax.legend(loc="upper right")
    return ax


def _loss_curves(ax: Axes, losses: Floats, color: str, label: str, linestyle: str) -> None:
    epochs = np.arange(len(losses))
    if losses.shape[1] > 1:
        ax.plot(epochs, losses, color=color, linewidth=0.8, alpha=0.35)
    running = np.isfinite(losses)
    count = running.sum(1)
    mean = divided(np.where(running, losses, 0.0).sum(1), count.astype(np.float64))
    more = f" (mean of {losses.shape[1]})" if losses.shape[1] > 1 else ""
    ax.plot(epochs, mean, color=color, linestyle=linestyle, linewidth=1.8, label=label + more, zorder=3)


def _rate_axis(ax: Axes, rate: Floats) -> None:
    right = ax.twinx()
    right.plot(np.arange(len(rate)), rate, color=GREY, linestyle=":", linewidth=1.2)
    right.set_ylabel("learning rate", color=GREY)
    right.set_ylim(bottom=0, top=1.05 * float(rate.max()) or None)
    right.ticklabel_format(axis="y", scilimits=(-2, 3), useMathText=True)
    ax.tick_params(axis="y", which="both", right=False)
    right.tick_params(axis="y", which="both", left=False, labelcolor=GREY)
    ax.set_zorder(right.get_zorder() + 1)  # the losses and their legend above the learning rate
    ax.patch.set_visible(False)


def _checked_history(history: object) -> tuple[Floats, Floats | None, NDArray[np.int64] | None, Floats | None]:
    train, validation = _losses("train", entry(history, "train")), entry(history, "validation")
    without = validation is None or np.isnan(np.asarray(validation, np.float64)).all()
    checked = None if without else _losses("validation", validation)
    if checked is not None and checked.shape != train.shape:
        raise ValueError(f"history: expected train and validation of one shape, found {train.shape}, {checked.shape}")
    best, rate = entry(history, "best_epoch"), entry(history, "learning_rate")
    epochs, members = train.shape
    if rate is not None:
        rate = numbers("learning_rate", rate, epochs, "epochs")
    if best is not None:
        best = np.atleast_1d(np.asarray(best))
        if best.shape != (members,) or best.dtype.kind not in "iu" or best.min() < 0 or best.max() >= epochs:
            raise ValueError(f"best_epoch: expected {members} integers in 0 .. {epochs - 1}, found {best.tolist()}")
    return train, checked, best, rate


def _losses(what: str, losses: Any) -> Floats:
    """Losses (E, K), NaN only after a member's last epoch."""
    values = np.asarray(losses, np.float64)
    values = values[:, None] if values.ndim == 1 else values
    if values.ndim != 2 or not values.size:
        raise ValueError(f"{what}: expected losses of shape (epochs, members), found {np.shape(losses)}")
    ended = np.logical_and.accumulate(np.isnan(values[::-1]))[::-1]
    ended[0] = False  # a member without any loss is an error
    check_finite(what, np.where(ended, 0.0, values))
    return values


@style()
def reliability(report: object, *, ax: Sequence[Axes] | None = None) -> tuple[Axes, Axes]:
    r"""A calibration curve: observed against predicted probability of the numerator class, and its pulls below.

    .. math:: \mathrm{pull} = (\mathrm{observed} - \mathrm{predicted}) / \sigma

    Parameters
    ----------
    report:
        A mapping or an object with ``predicted``, ``observed``, ``uncertainty`` :math:`\sigma` and ``counts`` (B,), the
        (effective) number of events of each bin; `nuinfer.metrics.Reliability`, which calls the last one ``size``,
        fits.  Bins that hold NaN in the first three are empty and not drawn; a bin of uncertainty 0 has no pull.
    ax:
        A pair of axes to draw on.

    Raises
    ------
    KeyError
        for a part that is missing.
    ValueError
        for shapes that do not fit, numbers that are not finite in a bin with events, or negative uncertainties.

    >>> curve = {"predicted": [0.2, 0.8], "observed": [0.25, 0.8], "uncertainty": [0.05, 0.1], "counts": [90, 80]}
    >>> main, lower = reliability(curve)
    >>> lower.lines[-1].get_ydata().round(9).tolist()
    [1.0, 0.0]
    """
    predicted, observed, sigma, counts = _checked_report(report)
    main, lower = two_panels(ax, "ax")
    pulls = divided(observed - predicted, sigma)
    used = int(np.isfinite(pulls).sum())
    main.plot([0, 1], [0, 1], color=GREY, linestyle="--", linewidth=1.2, label="exact")
    text = f"{thousands(counts.sum())} events\n$\\chi^2$ = {np.nansum(pulls**2):.1f} in {used} bins"
    main.errorbar(predicted, observed, sigma, fmt="o", color=BLUE, ecolor="black", elinewidth=1.1, label=text)
    main.set(
        xlim=(-0.02, 1.02), ylim=_around(-0.02, 1.02, observed - sigma, observed + sigma), ylabel="observed probability"
    )
    main.legend(loc="upper left")
    for width, alpha in ((2, 0.15), (1, 0.25)):
        lower.axhspan(-width, width, color=GREY, alpha=alpha, linewidth=0)
    lower.axhline(0, color=GREY, linestyle="--", linewidth=1.2)
    lower.plot(predicted, pulls, "o", color=BLUE)
    reach = 1.2 * float(np.nanmax(np.abs(pulls), initial=2.8))
    lower.set(xlim=(-0.02, 1.02), ylim=(-reach, reach), xlabel="predicted probability", ylabel="pull")
    lower.yaxis.set_major_locator(MaxNLocator(4, integer=True, prune="both"))
    return main, lower


def _checked_report(report: object) -> tuple[Floats, Floats, Floats, Floats]:
    counts = "size" if has_entry(report, "size") and not has_entry(report, "counts") else "counts"
    names = ("predicted", "observed", "uncertainty", counts)
    parts = [np.asarray(entry(report, name), np.float64) for name in names]
    if parts[0].ndim != 1 or not parts[0].size or any(part.shape != parts[0].shape for part in parts):
        found = ", ".join(f"{name} {part.shape}" for name, part in zip(names, parts, strict=True))
        raise ValueError(f"report: expected one number per bin in each part, shape (B,), found {found}")
    empty = np.asarray(np.isnan(parts[:3]).all(axis=0))
    if empty.all():
        raise ValueError(f"report: expected bins with events, found {len(empty)} empty ones")
    for name, part in zip(names, parts, strict=True):
        check_finite(name, np.where(empty, 0.0, part))
    for name, part in zip(names[2:], parts[2:], strict=True):
        not_negative(name, part)
    return parts[0], parts[1], parts[2], np.where(empty, 0.0, parts[3])


def _around(low: float, high: float, *parts: Floats) -> tuple[float, float]:
    """Limits that hold [low, high] and all parts."""
    return min(low, *(float(np.nanmin(p)) for p in parts)), max(high, *(float(np.nanmax(p)) for p in parts))


@style()
def weights(
    weights: ArrayLike,
    *,
    sample_weight: ArrayLike | None = None,
    bins: int = 50,
    xlabel: str = "event weight",
    yscale: Scale = "log",
    ax: Axes | None = None,
) -> Axes:
    r"""The distribution of per-event weights, with quantiles and effective sample size in the legend.

    Parameters
    ----------
    weights:
        Weights (K, N) of K members, or (N,).  The heavy histogram, the quantiles and the effective size
        :math:`(\sum_i w_i v_i)^2 / \sum_i (w_i v_i)^2` are those of the mean over members; the light ones are members.
    sample_weight:
        The events' own weights v (N,), with which the histograms are filled, any sign; quantiles are in \|v\|.
    bins:
        The number of equal bins from the smallest to the largest weight of any member.

    Raises
    ------
    ValueError
        for shapes that do not fit, weights that are not finite, or a logarithmic axis without anything positive.

    >>> ax = weights([1.0, 1.0, 1.0, 3.0], bins=2)
    >>> ax.patches[0].get_data().values.tolist(), ax.get_legend().get_texts()[-1].get_text()
    ([3.0, 1.0], 'effective size 3 of 4')
    """
    each, own = _checked_weights(weights, sample_weight)
    mean = each.mean(0)
    if bins < 1:
        raise ValueError(f"bins: expected at least 1, found {bins}")
    edges = np.histogram_bin_edges([each.min(), each.max()], bins)
    contents = np.histogram(mean, edges, weights=own)[0]
    check_scale("yscale", yscale, contents, "bins above 0")
    ax = one_panel(ax)
    if len(each) > 1:
        for member in each:
            ax.stairs(np.histogram(member, edges, weights=own)[0], edges, color=BLUE, alpha=0.35, linewidth=0.8)
    name = f"mean of {len(each)} members" if len(each) > 1 else "weights"
    ax.stairs(contents, edges, color=BLUE, linewidth=1.8, label=name)
    _draw_quantiles(ax, mean, np.abs(own))
    after, before = float(effective_size(mean * own)), float(effective_size(own))
    ax.plot([], [], " ", label=f"effective size {thousands(after)} of {thousands(before)}")
    ax.set(xlabel=xlabel, ylabel="events per bin" if sample_weight is None else "weighted events per bin")
    ax.set_yscale(yscale)
    low, high = ax.get_ylim()
    ax.set_ylim(top=low * (high / low) ** 1.4 if yscale == "log" else low + 1.4 * (high - low))
    ax.legend(loc="upper right")
    return ax


def _draw_quantiles(ax: Axes, values: Floats, weight: Floats) -> None:
    """Vertical lines at the 1, 50 and 99% quantiles: the smallest values with that share of the weight up to them."""
    order = np.argsort(values, kind="stable")
    share = np.cumsum(weight[order]) / weight.sum()
    at = values[order[np.searchsorted(share, [0.01, 0.5, 0.99])]]
    text = "quantiles 1, 50, 99%: " + ", ".join(f"{value:.3g}" for value in at)
    for value, label in zip(at, (text, "_nolegend_", "_nolegend_"), strict=True):
        ax.axvline(float(value), ymax=0.7, color=GREY, linestyle=":", linewidth=1.3, label=label)  # below the legend


def _checked_weights(weights: ArrayLike, sample_weight: ArrayLike | None) -> tuple[Floats, Floats]:
    each = np.atleast_2d(np.asarray(weights, np.float64))
    if each.ndim != 2 or not each.size:
        raise ValueError(
            f"weights: expected shape (members, events) with at least one event, found {np.shape(weights)}"
        )
    check_finite("weights", each.T)  # events are the rows that the message speaks of
    events = each.shape[1]
    own = np.ones(events) if sample_weight is None else numbers("sample_weight", sample_weight, events, "events")
    if not own.any():
        raise ValueError(f"sample_weight: expected weights that are not all zero, found {events} zeros")
    return each, own
