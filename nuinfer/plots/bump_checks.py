"""Is the background's shape right?  Orders of a family, signals that are put in, and the envelope of shapes."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.ticker import MaxNLocator, NullLocator
from scipy import stats

from .bump_fits import power_ticks
from .figures import BLUE, GREY, ORANGE, PALETTE, RED, _Figure, headroom, legend_above, one_panel, style, two_panels
from .inputs import Floats, checked_levels, measured, percent

if TYPE_CHECKING:
    from collections.abc import Sequence

    from ..anomaly.bump import OrderChoice, SignalInjection, YieldEnvelope

__all__ = ["fitted_yields", "shape_orders", "yield_envelope"]

_STYLES: Sequence[Any] = ("-", "--", "-.", ":", (0, (5, 1, 1, 1, 1, 1)), (0, (1, 1)))
_SCORES = {"aic": "AIC", "aicc": "AIC$_c$", "bic": "BIC"}


@style()
def shape_orders(
    choice: OrderChoice, *, labels: Mapping[str, str] | None = None, axes: Sequence[Axes] | None = None
) -> tuple[Axes, Axes]:
    r"""p-values of each shape's fit and of the test against the next one, and information criteria below.

    Parameters
    ----------
    choice:
        Of `nuinfer.anomaly.bump.choose_order`.  The dashed line is its level alpha: going up stops at the first shape
        whose test against the next (of the criterion that was asked for; of the likelihood ratio for others) is above.
    labels:
        How shapes are to be written: ``{"Dijet(3)": "3 parameters"}``.
    axes:
        A pair of axes, (p-values, criteria).

    Notes
    -----
    Criteria are differences to the least.  p-values below :math:`10^{-8}` are triangles at the lower edge.  The chosen
    shape is shaded.

    Raises
    ------
    TypeError
        for other than a pair of axes.

    >>> from nuinfer.anomaly import bump
    >>> counts = [60, 44, 33, 28, 17, 13, 9, 8]
    >>> family = [bump.Exponential(1), bump.Exponential(2)]
    >>> likelihood = bump.BumpLikelihood.binned(counts, family[0], edges=np.arange(9.0))
    >>> tests, criteria = shape_orders(bump.choose_order(likelihood, family))
    >>> [text.get_text() for text in criteria.get_xticklabels()]
    ['Exponential(1)', 'Exponential(2)']
    """
    if axes is None:
        figure = _Figure(figsize=(5.0, 5.0), layout="constrained")
        axes = figure.subplots(2, 1, sharex=True, height_ratios=(1.4, 1))
        figure.align_ylabels()
    tests, scores = two_panels(axes, "axes")
    at = np.arange(len(choice.shapes))
    for ax in (tests, scores):
        ax.axvspan(choice.best - 0.4, choice.best + 0.4, facecolor="#e6e7ea", linewidth=0, zorder=0)
    fisher = choice.criterion == "f-test"
    against = choice.f_p if fisher else choice.ratio_p
    _draw_p(tests, at - 0.08, choice.gof, BLUE, "o", r"fit ($\chi^2$)")
    _draw_p(tests, at + 0.08, against, RED, "s", f"against the next one ({'F-test' if fisher else 'likelihood ratio'})")
    tests.axhline(choice.alpha, color=GREY, linestyle="--", label=f"$\\alpha$ = {choice.alpha:g}", zorder=1)
    tests.set(ylabel="p-value", yscale="log", ylim=(max(_lowest(choice.gof, against), _LEAST), 1.5))
    decades = -float(np.log10(tests.get_ylim()[0]))
    headroom(tests, rows=3)
    power_ticks(tests, decades, False)
    tests.legend(loc="upper center")
    for place, (name, word) in enumerate(_SCORES.items()):
        value = np.asarray(getattr(choice, name))
        ax_style: Any = {"color": PALETTE[place], "marker": "o^s"[place], "linestyle": _STYLES[place]}
        scores.plot(at, np.where(np.isfinite(value), value - value.min(), np.nan), label=word, **ax_style)
    scores.set_yscale("symlog", linthresh=10.0)
    scores.set(ylabel="above the least", xlim=(-0.6, len(at) - 0.4))
    scores.set_ylim(-1, 1.5 * max(float(scores.dataLim.intervaly[1]), 10.0))
    headroom(scores, rows=1)
    scores.legend(loc="upper center", ncols=3, columnspacing=1.2)
    names = [(labels or {}).get(name, name) for name in choice.shapes]
    scores.set_xticks(at, names, rotation=20 if sum(map(len, names)) > _TOGETHER else 0)
    for ax in (tests, scores):
        ax.xaxis.set_minor_locator(NullLocator())
    return tests, scores


_LEAST = 1e-8
_TOGETHER = 45  # characters side by side


def _lowest(*values: Floats) -> float:
    return 0.3 * float(np.nanmin(np.append(np.concatenate(values), 0.01)))


def _draw_p(ax: Axes, at: Any, p: Floats, color: str, marker: str, label: str) -> None:
    ax.plot(at, np.where(p >= _LEAST, p, np.nan), marker, color=color, label=label, zorder=4)
    below = p < _LEAST
    if below.any():
        ax.plot(at[below], np.full(below.sum(), 1.6 * _LEAST), "v", color=color, zorder=4)


@style()
def fitted_yields(
    found: SignalInjection, *, xlabel: str = "injected yield", axes: Sequence[Axes] | None = None
) -> tuple[Axes, Axes]:
    r"""Mean fitted yields over those that were put in, and below the mean pull with the width of pulls.

    Parameters
    ----------
    found:
        Of `nuinfer.anomaly.bump.signal_injection`.  Bars above are standard errors of the mean, the band the standard
        deviation of a single fit; below the bars are the width of pulls, which should be that of the blue band.
    axes:
        A pair of axes, (yields, pulls).

    Notes
    -----
    The legend has the straight line through the means: a slope of 1 and an offset of 0 are no bias.

    Raises
    ------
    TypeError
        for other than a pair of axes.

    >>> from nuinfer.anomaly import bump
    >>> contents = np.random.default_rng(1).poisson(100 * np.exp(-np.linspace(0.2, 10, 50) / 4))
    >>> likelihood = bump.BumpLikelihood.binned(contents, bump.Exponential(1), bump.GaussianPeak(0.3),
    ...                                         edges=np.linspace(0, 10, 51))
    >>> test = bump.signal_injection(likelihood, 5.0, [0.0, 30.0], toys=50, seed=2)
    >>> main, pulls = fitted_yields(test)
    >>> bool((main.lines[1].get_ydata() == test.fitted).all())
    True
    """
    main, below = two_panels(axes, "axes")
    order = np.argsort(found.injected)
    x, fitted, spread = (part[order] for part in (found.injected, found.fitted, found.spread))
    main.plot(x, x, color=GREY, linestyle="--", label="fitted = injected", zorder=1)
    main.errorbar(x, fitted, found.errors[order], fmt="o", color="black", label=f"mean of {found.toys} toys", zorder=4)
    main.fill_between(x, fitted - spread, fitted + spread, color=BLUE, alpha=0.2, linewidth=0,
                      label="a single fit, 68%", zorder=0)  # fmt: skip
    slope, offset = (measured(value, error, error) for value, error in
                     ((found.slope, found.slope_error), (found.offset, found.offset_error)))  # fmt: skip
    main.plot(x, found.offset + found.slope * x, color=RED, zorder=3, label=f"slope {slope}, offset {offset}")
    main.set(ylabel="fitted yield")
    headroom(main, rows=4)
    main.legend(loc="upper left")
    below.axhspan(-1, 1, color=BLUE, alpha=0.12, linewidth=0)
    below.axhline(0, color=GREY, linewidth=0.8)
    below.errorbar(x, found.pull[order], found.width[order], fmt="o", color="black", elinewidth=1.0)
    pad = 0.04 * float(np.ptp(x))
    span = max(1.6, 1.15 * float(np.abs(np.abs(found.pull) + found.width).max()))
    below.set(xlabel=xlabel, ylabel="pull", ylim=(-span, span), xlim=(x[0] - pad, x[-1] + pad))
    below.yaxis.set_major_locator(MaxNLocator(5, integer=True, prune="both"))
    return main, below


@style()
def yield_envelope(
    found: YieldEnvelope,
    *,
    cls: Sequence[float] = (0.68, 0.95),
    labels: Mapping[str, str] | None = None,
    xlabel: str = "signal yield",
    ax: Axes | None = None,
) -> Axes:
    r"""Profiles of the yield with each background shape, and the least of them.

    Parameters
    ----------
    found:
        Of `nuinfer.anomaly.bump.profile_envelope`, of at most six shapes.
    cls:
        Confidence levels, whose lines are at the quantiles of chi2 with one degree of freedom.
    labels:
        How shapes are to be written.

    Raises
    ------
    ValueError
        for more than six shapes, or levels outside (0, 1).

    >>> from nuinfer.anomaly import bump
    >>> contents = np.random.default_rng(1).poisson(100 * np.exp(-np.linspace(0.2, 10, 50) / 4))
    >>> family = [bump.Exponential(1), bump.Exponential(2)]
    >>> likelihood = bump.BumpLikelihood.binned(contents, family[0], bump.GaussianPeak(0.3),
    ...                                         edges=np.linspace(0, 10, 51))
    >>> envelope = bump.profile_envelope(likelihood, family, 5.0, np.linspace(-40, 40, 41))
    >>> bool((yield_envelope(envelope).lines[0].get_ydata() == envelope.least).all())
    True
    """
    if len(found.shapes) > len(PALETTE):
        raise ValueError(f"found: expected at most {len(PALETTE)} shapes, found {len(found.shapes)}")
    levels = checked_levels(cls)
    ax = one_panel(ax)
    ax.plot(found.yields, found.least, color="black", linewidth=4.0, alpha=0.35, label="envelope", zorder=2)
    for place, (name, curve) in enumerate(zip(found.shapes, found.curves, strict=True)):
        ax.plot(found.yields, curve, color=PALETTE[place], linestyle=_STYLES[place], zorder=3,
                label=(labels or {}).get(name, name))  # fmt: skip
    heights = [float(stats.chi2.ppf(level, 1)) for level in levels]
    for level, height in zip(levels, heights, strict=True):
        ax.axhline(height, color=GREY, linewidth=0.7, linestyle="--", zorder=0)
        ax.annotate(percent(level), (1, height), xycoords=ax.get_yaxis_transform(), xytext=(5, 0),
                    textcoords="offset points", va="center", color=GREY, fontsize=10)  # fmt: skip
    ax.axvline(found.best, color=ORANGE, linewidth=1.2, linestyle=":", zorder=1)
    top = 1.25 * max(heights)
    ax.set(xlabel=xlabel, ylabel=r"$-2\,\Delta \ln L$ + penalty", ylim=(0, top))
    ax.set_xlim(*_shown(found, top))
    legend_above(ax, ax.lines[: 1 + len(found.shapes)], grows=False)
    return ax


def _shown(found: YieldEnvelope, top: float) -> tuple[float, float]:
    """The yields where the envelope is in the panel."""
    inside = np.flatnonzero(found.least <= top)
    first, last = max(int(inside[0]) - 1, 0), min(int(inside[-1]) + 1, len(found.yields) - 1)
    return float(found.yields[first]), float(found.yields[last])
