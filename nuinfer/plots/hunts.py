r"""A hunt by weak supervision: spectra, p-values, what the score follows and is worth, what the hunt could have seen.

Efficiencies are those of the sidebands, for which the thresholds were set.  Pulls of bins are signed roots of Poisson's
likelihood ratio to the background, without the uncertainty of the background, which is the band.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

import numpy as np
from matplotlib.axes import Axes
from matplotlib.patches import Rectangle
from matplotlib.ticker import MaxNLocator, NullLocator
from numpy.typing import ArrayLike

from ..errors import check_finite
from .bump_fits import _ONE, _TWO, deep_lines, garwood, p_axis, p_heights, signed_roots
from .figures import BLUE, GREY, MARKERS, PALETTE, RED, headroom, one_panel, style, two_panels
from .inputs import Floats, Scale, check_scale, measured, percent

if TYPE_CHECKING:
    from ..anomaly.hunting import Hunt, HuntP, InjectionScan
    from ..anomaly.templates import Sculpting

__all__ = [
    "hunt_p",
    "hunt_spectra",
    "importance",
    "injected_sic",
    "injection_limits",
    "injections",
    "score_by_mass",
    "sculpting",
    "sic",
]

Scores = tuple[ArrayLike, ArrayLike]

_SHADE = "#e6e7ea"
_SECANT = 8
_STYLES: Sequence[Any] = ("-", "--", "-.", ":", (0, (5, 1, 1, 1, 1, 1)), (0, (1, 1)))


# -- spectra and p-values ----------------------------------------------------------------------------------------------


@style()
def hunt_spectra(
    found: Hunt,
    *,
    window: int = 0,
    efficiencies: Sequence[float] | None = None,
    xlabel: str = "",
    ylabel: str = "",
    yscale: Scale = "log",
    axes: Sequence[Axes] | None = None,
) -> tuple[Axes, Axes]:
    r"""The mass spectrum before and after the cuts of a window, with the fitted background, and pulls below.

    Parameters
    ----------
    found:
        Of `nuinfer.anomaly.hunt`.
    window:
        Its number.
    efficiencies:
        Which of those of the hunt; None: all of them.
    ylabel:
        By default the number of events, where bins differ in width that for the width of most of them.
    axes:
        A pair of axes, (main, pulls).

    Notes
    -----
    Bars are central intervals of 68% of Poisson means, bands one standard deviation of the fit, which leaves the signal
    region (shaded) out.  Z is that of the count in it.  Where the fit failed there is no curve.

    Raises
    ------
    ValueError
        for a window or efficiencies that the hunt does not have, or more than six of them; a logarithmic axis without
        events.
    TypeError
        for other than a pair of axes.

    >>> from nuinfer import Events, anomaly
    >>> from nuinfer.anomaly.bump import Exponential
    >>> from nuinfer.trees import Trees
    >>> rng = np.random.default_rng(1)
    >>> events = Events({"m": rng.exponential(3.0, 1500) % 6, "x": rng.normal(size=1500)})
    >>> window = anomaly.Window(signal=(2.7, 3.3), sidebands=((1.5, 2.7), (3.3, 4.5)))
    >>> found = anomaly.hunt(events, resonance="m", features=["x"], windows=window, folds=2, members=1, seed=1,
    ...                      background=Exponential(1), network=Trees(min_leaf=20), efficiencies=[1, 0.1],
    ...                      bins=20, progress=False)
    >>> main, pulls = hunt_spectra(found, xlabel="m (TeV)")
    >>> round(float(main.patches[1].get_data().values.sum())) == round(float(found.background[0, 0].sum()))
    True
    """
    _check_window(window, len(found.signal))
    rows = _rows(found.efficiencies, efficiencies)
    width = np.diff(found.edges)
    usual = float(np.median(width))
    even = bool(np.allclose(width, usual))
    check_scale("yscale", yscale, found.counts[window, rows], "events")
    main, below = two_panels(axes, "axes")
    for ax, label in ((main, "signal region"), (below, None)):
        ax.axvspan(*found.signal[window], facecolor=_SHADE, linewidth=0, zorder=0, label=label)
        ax.set_xlim(float(found.edges[0]), float(found.edges[-1]))
    for place, row in enumerate(rows):
        _draw_spectrum(main, found, window, row, place, usual / width)
        _draw_pulls(below, found, window, row, (place + 1) / (len(rows) + 1), place)
    main.set(ylabel=ylabel or ("events" if even else f"events / {usual:.3g}"), yscale=yscale)
    n = found.counts[window, rows]
    seen, top = (n * usual / width)[n > 0], float((garwood(n)[1] * usual / width)[n > 0].max())
    main.set_ylim((0.4 * float(seen.min()), 1.5 * top) if yscale == "log" else (0, 1.05 * top))
    headroom(main, rows=(len(rows) + 2) // 2)
    main.legend(loc="upper center", ncols=2, columnspacing=1.2)
    _pull_axis(below, xlabel)
    return main, below


def _check_window(window: int, windows: int) -> None:
    if not isinstance(window, int | np.integer) or not 0 <= window < windows:
        raise ValueError(f"window: expected a number from 0 to {windows - 1}, found {window!r}")


def _rows(known: Floats, wanted: Sequence[float] | None) -> list[int]:
    """The numbers of the efficiencies that are drawn."""
    rows = list(range(len(known)))
    if wanted is not None:
        near = np.isclose(np.asarray(wanted, np.float64)[:, None], known, rtol=1e-9)
        if not near.any(1).all():
            raise ValueError(f"efficiencies: expected some of {known.tolist()}, found {list(wanted)}")
        rows = near.argmax(1).tolist()
    if not 1 <= len(rows) <= len(PALETTE):
        raise ValueError(f"efficiencies: expected 1 to {len(PALETTE)} of {known.tolist()}, found {len(rows)}")
    return rows


def _draw_spectrum(ax: Axes, found: Hunt, window: int, row: int, place: int, scale: Floats) -> None:
    n, b, band = (array[window, row] for array in (found.counts, found.background, found.band))
    z, color = float(found.z[window, row]), PALETTE[place]
    said = f"$Z$ = {_rounded(z)}" if np.isfinite(z) else "no fit"
    at, seen = found.edges[:-1] + 0.5 * np.diff(found.edges), n > 0
    low, high = garwood(n)
    ax.errorbar(at[seen], (n * scale)[seen], np.stack([n - low, high - n])[:, seen] * scale[seen], fmt=MARKERS[place],
                color=color, markersize=3.2, elinewidth=0.9, zorder=4,
                label=f"{percent(found.efficiencies[row])}: {said}")  # fmt: skip
    if np.isfinite(b).all():
        ax.stairs(b * scale, found.edges, baseline=None, color="black", linewidth=1.1, zorder=3)
    if np.isfinite(band).all():
        ax.stairs((b + band) * scale, found.edges, baseline=np.maximum(b - band, 1e-9) * scale, fill=True, color=color,
                  alpha=0.35, linewidth=0, zorder=2)  # fmt: skip


def _draw_pulls(ax: Axes, found: Hunt, window: int, row: int, share: float, place: int) -> None:
    """Points side by side within the bins."""
    n, b = found.counts[window, row], found.background[window, row]
    if np.isfinite(b).all():
        at = found.edges[:-1] + share * np.diff(found.edges)
        ax.plot(at, signed_roots(n, b), MARKERS[place], color=PALETTE[place], markersize=3.2, zorder=4)


def _pull_axis(ax: Axes, xlabel: str) -> None:
    ax.axhline(0, color=GREY, linewidth=0.8)
    ax.axhspan(-1, 1, color=BLUE, alpha=0.12, linewidth=0)
    tops = [np.abs(np.asarray(line.get_ydata())).max() for line in ax.lines[:-1]]
    span = max(3.3, 1.2 * float(max(tops, default=0.0)))
    ax.set(ylim=(-span, span), xlabel=xlabel, ylabel="pull")
    ax.yaxis.set_major_locator(MaxNLocator(5, integer=True, prune="both"))


@style()
def hunt_p(
    found: Hunt, *, efficiencies: Sequence[float] | None = None, xlabel: str = "", ax: Axes | None = None
) -> Axes:
    r"""Local p-values over the windows, a line for each efficiency, with lines of 1, 2, ... standard deviations.

    Parameters
    ----------
    found:
        Of `nuinfer.anomaly.hunt`.  Points are at the middle of signal regions; bars are as wide as these.
    efficiencies:
        Which of those of the hunt; None: all of them.

    Notes
    -----
    The legend has the global p-value, by toys where there are any, else the Sidak bound, of all efficiencies of the
    hunt.  Windows without a fit are gaps.

    Raises
    ------
    ValueError
        where no fit succeeded; for efficiencies that the hunt does not have, or more than six of them.

    >>> from nuinfer import Events, anomaly
    >>> from nuinfer.anomaly.bump import Exponential
    >>> from nuinfer.trees import Trees
    >>> rng = np.random.default_rng(1)
    >>> events = Events({"m": rng.exponential(3.0, 1500) % 6, "x": rng.normal(size=1500)})
    >>> found = anomaly.hunt(events, resonance="m", features=["x"], seed=1, folds=2, members=1, progress=False,
    ...                      windows=anomaly.sliding_windows((0, 6), width=1.0, step=1.0, sideband=1.0),
    ...                      background=Exponential(1), network=Trees(min_leaf=20), efficiencies=[0.2])
    >>> hunt_p(found).lines[0].get_xdata().tolist()
    [1.5, 2.5, 3.5, 4.5]
    """
    rows, answer = _rows(found.efficiencies, efficiencies), found.global_p
    ax = one_panel(ax)
    lines = max(3, int(np.ceil(np.nanmax(np.append(found.z[:, rows], 0.0)))))
    deep = deep_lines(lines)
    at, half = found.signal.mean(1), 0.5 * np.diff(found.signal).ravel()
    for place, row in enumerate(rows):
        p, z = found.p[:, row], found.z[:, row]
        height = p_heights(z, True) if deep else p
        ax.errorbar(at, height, xerr=half, fmt=MARKERS[place], linestyle=_STYLES[place], color=PALETTE[place],
                    elinewidth=0.9, markersize=4.0, label=percent(found.efficiencies[row]), zorder=4)  # fmt: skip
    ax.set(xlabel=xlabel, xlim=(float(found.signal.min()), float(found.signal.max())))
    said = _global_words(answer)
    p_axis(ax, lines, rows=(len(rows) + 1) // 2 + said.count("\n") + 1)
    ax.legend(loc="upper left", ncols=2 if len(rows) > 1 else 1, columnspacing=1.2, title=said, alignment="left",
              title_fontsize=10.5)  # fmt: skip
    return ax


def _global_words(answer: HuntP) -> str:
    """The global p-value in words."""
    local = f"smallest local $p$ = {answer.local_p:.2g} ({_rounded(answer.local_z)}$\\sigma$)"
    if answer.method != "toys":
        return f"{local},\nglobal $p$ \u2264 {answer.p:.2g} (Sidak, {answer.tests} tests)"
    toys = f"{answer.toys} toys"
    if answer.is_bound:
        return f"{local},\nglobal $p$ < {answer.p_upper:.1g} (95%, {toys})"
    return f"{local},\nglobal $p$ = {answer.p:.2g} ({_rounded(answer.z)}$\\sigma$, {toys})"


def _rounded(z: float) -> str:
    """To one digit, without -0.0."""
    return f"{round(z, 1) + 0.0:.1f}".replace("-", "\u2212")


# -- the score ---------------------------------------------------------------------------------------------------------


@style()
def sculpting(result: Sculpting, *, xlabel: str = "", ax: Axes | None = None) -> Axes:
    r"""The efficiency of each cut in bins of the mass, over that of all bins together.

    Parameters
    ----------
    result:
        Of `nuinfer.anomaly.sculpting_test`, or one of `nuinfer.anomaly.hunting.Hunt.sculpting`.

    Notes
    -----
    Bars are the standard deviations where nothing is sculpted.  What was left out is shaded.  The legend has the
    p-value of each cut, and that of all.

    Raises
    ------
    ValueError
        for more than six cuts, or a cut that no weight passes.
    TypeError
        for an ``ax`` that is none.

    >>> from nuinfer.anomaly import sculpting_test
    >>> rng = np.random.default_rng(1)
    >>> mass, score = rng.uniform(2, 4, 5000), rng.normal(size=5000)
    >>> ax = sculpting(sculpting_test(score + 0.2 * mass, mass, efficiencies=[0.1]), xlabel="m (TeV)")
    >>> ax.get_ylabel()
    '$\\epsilon(m) / \\epsilon$'
    """
    cuts = len(result.efficiencies)
    if not 1 <= cuts <= len(PALETTE) or not (result.overall > 0).all():
        raise ValueError(f"result: expected 1 to {len(PALETTE)} cuts that pass some weight, found {cuts} with "
                         f"efficiencies {result.overall.tolist()}")  # fmt: skip
    ax = one_panel(ax)
    low, high = result.bins.T
    for first, last in zip(high[:-1].tolist(), low[1:].tolist(), strict=True):
        if last - first > 1e-9 * (high[-1] - low[0]):
            ax.axvspan(first, last, facecolor=_SHADE, linewidth=0, zorder=0)
    ax.axhline(1, color=GREY, linewidth=0.8)
    for place in range(cuts):
        at, scale = low + (place + 1) / (cuts + 1) * (high - low), result.overall[place]
        ax.errorbar(at, result.efficiency[place] / scale, result.errors[place] / scale, fmt=MARKERS[place],
                    color=PALETTE[place], elinewidth=1.0,
                    label=f"{percent(result.efficiencies[place])}: $p$ = {result.p[place]:.2g}")  # fmt: skip
    ax.set(xlim=(low[0], high[-1]), xlabel=xlabel, ylabel=r"$\epsilon(m) / \epsilon$")
    title = f"all cuts: $p$ = {result.combined_p:.2g}" if cuts > 1 else None
    headroom(ax, rows=(cuts + 1) // 2 + (cuts > 1))
    ax.legend(loc="upper center", ncols=2 if cuts > 1 else 1, columnspacing=1.2, title=title, title_fontsize=10.5)
    return ax


@style()
def score_by_mass(
    found: Hunt,
    *,
    window: int = 0,
    quantiles: Sequence[float] = (0.5, 0.9, 0.99),
    bins: int = 20,
    xlabel: str = "",
    ax: Axes | None = None,
) -> Axes:
    r"""The score against the mass: its density in each bin of the mass, and quantiles, flat if it follows no mass.

    Parameters
    ----------
    found:
        Of `nuinfer.anomaly.hunt`.
    quantiles:
        In (0, 1), at most six.  Their bands are of the quantiles at one standard deviation of the binomial law.
    bins:
        Of the mass, of equal width.

    Notes
    -----
    Between the dotted lines is the signal region.  Scores of different folds are by different networks: what is drawn
    is their mixture.  In bins with fewer than :math:`10 / (1 - q)` events a quantile is not drawn.

    Raises
    ------
    ValueError
        for a window that the hunt does not have, other quantiles, fewer than 2 bins, or a window without scores.

    >>> from nuinfer import Events, anomaly
    >>> from nuinfer.anomaly.bump import Exponential
    >>> from nuinfer.trees import Trees
    >>> rng = np.random.default_rng(1)
    >>> events = Events({"m": rng.exponential(3.0, 1500) % 6, "x": rng.normal(size=1500)})
    >>> window = anomaly.Window(signal=(2.7, 3.3), sidebands=((1.5, 2.7), (3.3, 4.5)))
    >>> found = anomaly.hunt(events, resonance="m", features=["x"], windows=window, folds=2, members=1, seed=1,
    ...                      background=Exponential(1), network=Trees(min_leaf=20), efficiencies=[1, 0.1],
    ...                      progress=False)
    >>> score_by_mass(found, quantiles=[0.5], bins=5, xlabel="m (TeV)").get_ylabel()
    'score'
    """
    _check_window(window, len(found.signal))
    levels = np.asarray(quantiles, np.float64).reshape(-1)
    if not 1 <= len(levels) <= len(PALETTE) or not ((levels > 0) & (levels < 1)).all() or bins < 2:
        raise ValueError(f"quantiles, bins: expected 1 to {len(PALETTE)} in (0, 1), and 2 bins or more, found "
                         f"{list(quantiles)} and {bins}")  # fmt: skip
    edges = np.linspace(found.edges[0], found.edges[-1], bins + 1)
    use = np.isfinite(found.scores[window]) & (found.mass >= edges[0]) & (found.mass < edges[-1])
    if not use.any():
        raise ValueError(f"window {window}: expected scores within the spectrum, found none")
    mass, score = found.mass[use], found.scores[window][use]
    ax = one_panel(ax)
    _draw_density(ax, mass, score, edges)
    parts = [np.sort(score[np.digitize(mass, edges) - 1 == b]) for b in range(bins)]
    for place, level in enumerate(levels.tolist()):
        _draw_quantile(ax, parts, edges, level, place)
    for end in found.signal[window].tolist():
        ax.axvline(end, color="black", linestyle=":", linewidth=1.0, zorder=3)
    ax.set(xlabel=xlabel, ylabel="score", xlim=(edges[0], edges[-1]))
    headroom(ax, rows=(len(levels) + 1) // 2)
    ax.legend(loc="upper center", ncols=2 if len(levels) > 1 else 1, columnspacing=1.2)
    return ax


def _draw_density(ax: Axes, mass: Floats, score: Floats, edges: Floats) -> None:
    """Shades of grey: the share of a mass bin's events in each bin of the score, of equal width."""
    low, high = np.quantile(score, [0.0005, 0.9995])
    pad = 0.03 * max(high - low, 1e-9)
    levels = np.linspace(low - pad, high + pad, 41)
    density = np.histogram2d(mass, score, [edges, levels])[0]
    total = density.sum(1, keepdims=True)
    share = np.divide(density, total, out=np.zeros_like(density), where=total > 0)
    top = float(np.quantile(share[share > 0], 0.98)) if (share > 0).any() else 1.0
    ax.pcolormesh(edges, levels, np.sqrt(share.T), cmap="Greys", vmin=0, vmax=1.6 * np.sqrt(top), zorder=1)
    ax.set_ylim(levels[0], levels[-1])


def _draw_quantile(ax: Axes, parts: Sequence[Floats], edges: Floats, level: float, place: int) -> None:
    found = np.full((3, len(parts)), np.nan)
    for b, part in enumerate(parts):
        if len(part) * min(level, 1 - level) >= 10:
            spread = np.sqrt(level * (1 - level) / len(part))
            found[:, b] = np.quantile(part, np.clip([level - spread, level, level + spread], 0, 1))
    look: Any = {"color": PALETTE[place], "linestyle": _STYLES[place], "linewidth": 1.6}
    ax.stairs(found[1], edges, baseline=None, label=f"quantile of {percent(level)}", zorder=4, **look)
    good = np.isfinite(found[0])
    some = np.repeat(good, 2)
    ax.fill_between(np.repeat(edges, 2)[1:-1], np.repeat(found[0], 2), np.repeat(found[2], 2), where=some.tolist(),
                    color=PALETTE[place], alpha=0.35, linewidth=0, zorder=3)  # fmt: skip


@style()
def importance(
    found: Hunt, *, window: int = 0, labels: Mapping[str, str] | None = None, ax: Axes | None = None
) -> Axes:
    r"""By how much the area under the ROC curve falls where a feature is shuffled among events, largest on top.

    Parameters
    ----------
    found:
        Of `nuinfer.anomaly.hunt` with ``importance=``.  The area is that of signal region against sidebands; bars have
        the standard errors of the shuffles.
    labels:
        How features are to be written: ``{"tau21": r"$\tau_{21}$"}``.

    Notes
    -----
    The band is the standard deviation of an area where there is nothing to learn.

    Raises
    ------
    ValueError
        for a hunt without importances, or a window that it does not have, or without scores.

    >>> from nuinfer import Events, anomaly
    >>> from nuinfer.anomaly.bump import Exponential
    >>> from nuinfer.trees import Trees
    >>> rng = np.random.default_rng(1)
    >>> mass = rng.exponential(3.0, 1500) % 6
    >>> events = Events({"m": mass, "x": rng.normal(size=1500), "y": rng.normal(size=1500) + (abs(mass - 3) < 0.3)})
    >>> window = anomaly.Window(signal=(2.7, 3.3), sidebands=((1.5, 2.7), (3.3, 4.5)))
    >>> found = anomaly.hunt(events, resonance="m", features=["x", "y"], windows=window, folds=2, members=1, seed=1,
    ...                      background=Exponential(1), network=Trees(min_leaf=20), efficiencies=[1],
    ...                      importance=2, progress=False)
    >>> [text.get_text() for text in importance(found).get_yticklabels()]
    ['y', 'x']
    """
    _check_window(window, len(found.signal))
    if not found.importance.shape[1]:
        raise ValueError("found: expected a hunt with importances, found none; give importance= to hunt")
    fall, error = found.importance[window], found.importance_error[window]
    if not np.isfinite(fall).all():
        raise ValueError(f"window {window}: expected importances, found a window without scores")
    names = [(labels or {}).get(name, name) for name in _part_names(found)]
    order, at = np.argsort(-fall, kind="stable"), np.arange(len(fall))
    ax = one_panel(ax, height=1.5 + 0.34 * len(fall))
    null, spread = float(found.auc_error[window]), np.where(np.isfinite(error), error, 0.0)
    ax.axvspan(-null, null, color=GREY, alpha=0.25, linewidth=0, label="nothing to learn", zorder=0)
    ax.axvline(0, color=GREY, linewidth=0.8)
    ax.barh(at, fall[order], 0.62, color=BLUE, alpha=0.8, xerr=spread[order], error_kw={"elinewidth": 1.1}, zorder=2)
    ax.set_yticks(at, [names[k] for k in order.tolist()])
    ax.yaxis.set_minor_locator(NullLocator())
    ax.tick_params(axis="y", which="both", length=0)
    ax.set(ylim=(len(fall) - 0.4, -0.6))
    area = measured(float(found.auc[window]), null, null)
    ax.set_xlabel(f"fall of the area under the ROC curve ({area})")
    ax.xaxis.set_major_locator(MaxNLocator(5, steps=[1, 2, 5, 10]))
    ax.legend(loc="lower right")
    return ax


def _part_names(found: Hunt) -> tuple[str, ...]:
    """Of what was shuffled: flat columns, and clouds as a whole."""
    if len(found.features) == found.importance.shape[1]:
        return found.features
    return tuple(dict.fromkeys(name.split(".")[0] for name in found.features))


# -- significance improvement ------------------------------------------------------------------------------------------


class _Curve(NamedTuple):
    """x (G,), and value with the ends of its band (G,); NaN where the line has ended."""

    x: Floats
    value: Floats
    low: Floats
    high: Floats


@style()
def sic(
    curves: Mapping[str, Scores | Sequence[Scores]],
    *,
    against: Literal["signal", "rejection"] = "signal",
    fewest: int = 100,
    ylim: tuple[float, float] | None = None,
    ax: Axes | None = None,
) -> Axes:
    r"""The significance improvement :math:`\epsilon_S / \sqrt{\epsilon_B}` of scores, with its band.

    Parameters
    ----------
    curves:
        By label, one to six: the scores of signal and of background events, (N,) and (M,), best of test events that
        trained nothing; or a list of such pairs, one for each training.
    against:
        "signal": against the signal efficiency; "rejection": against :math:`1 / \epsilon_B`.
    fewest:
        Background events that have to pass; a line ends where fewer do.

    Notes
    -----
    Of one pair the band is the statistical error of the events: binomial for what passes, and for where the cut is.  Of
    several trainings the line is their median, the band their central 68%; it ends where one of them does.  The
    dotted line is a cut that is random.

    Raises
    ------
    TypeError
        for curves that are no mapping.
    ValueError
        for no curves, more than six, empty scores, or such that are not finite; ``fewest`` below 1; background events
        fewer than that; another ``against``.

    >>> rng = np.random.default_rng(1)
    >>> scores = rng.normal(2, 1, 5000), rng.normal(0, 1, 20_000)
    >>> ax = sic({"exact": scores, "three trainings": [scores, scores, scores]})
    >>> x, y = ax.lines[0].get_data()
    >>> round(float(y[99]), 1), ax.get_xlabel()            # 0.5 / sqrt(0.0228) = 3.3 in an infinite sample
    (3.2, 'signal efficiency $\\epsilon_S$')
    """
    if not isinstance(curves, Mapping):
        raise TypeError(f"curves: expected pairs of scores by label, found {type(curves).__name__}")
    if not 1 <= len(curves) <= len(PALETTE) or fewest < 1 or against not in ("signal", "rejection"):
        raise ValueError(f"curves, fewest, against: expected 1 to {len(PALETTE)} curves, 1 event or more, and 'signal' "
                         f"or 'rejection', found {len(curves)}, {fewest} and {against!r}")  # fmt: skip
    found = {str(label): _curve(str(label), given, against, fewest) for label, given in curves.items()}
    ax = one_panel(ax)
    _draw_curves(ax, found)
    _sic_axis(ax, found, against, ylim)
    return ax


def _curve(label: str, given: Scores | Sequence[Scores], against: str, fewest: int) -> _Curve:
    pairs = [given] if isinstance(given, tuple) else list(given)
    if not pairs:
        raise ValueError(f"curve {label!r}: expected a pair of scores, or a list of pairs, found none")
    checked = [_pair(label, pair, fewest) for pair in pairs]
    if against == "signal":
        grid = np.linspace(0.005, 1.0, 200)
        parts = [_against_signal(*pair, grid, fewest) for pair in checked]
    else:
        least = min(len(background) for _, background in checked)
        grid = np.geomspace(1.0, fewest / least, 200)
        parts = [_against_rejection(*pair, grid) for pair in checked]
    x = grid if against == "signal" else 1 / grid
    value, error = (np.stack(column) for column in zip(*parts, strict=True))
    if len(pairs) == 1:
        return _Curve(x, value[0], value[0] - error[0], value[0] + error[0])
    low, middle, high = np.quantile(value, [0.16, 0.5, 0.84], axis=0)
    return _Curve(x, middle, low, high)


def _pair(label: str, pair: Any, fewest: int) -> tuple[Floats, Floats]:
    """Sorted scores of signal and background."""
    if not isinstance(pair, tuple) or len(pair) != 2:
        raise ValueError(f"curve {label!r}: expected pairs (signal, background) of scores, found "
                         f"{type(pair).__name__}")  # fmt: skip
    signal, background = (np.sort(np.asarray(part, np.float64).reshape(-1)) for part in pair)
    for name, part in (("signal", signal), ("background", background)):
        check_finite(f"{name} scores of {label!r}", part)
    if not len(signal) or len(background) < max(fewest, 2):
        raise ValueError(f"curve {label!r}: expected signal events, and {fewest} background events or more, found "
                         f"{len(signal)} and {len(background)}")  # fmt: skip
    return signal, background


def _share(of: Floats, at: Floats, grid: Floats) -> tuple[Floats, Floats]:
    """The share of ``of`` above where those of ``at`` pass, and its error with that of the cut; both sorted."""
    cut = at[len(at) - np.clip(np.ceil(grid * len(at) - 1e-9).astype(int), 1, len(at))]
    share = (len(of) - np.searchsorted(of, cut, side="left")) / len(of)
    k = np.arange(len(grid))  # secants over a few points of the grid, as the noise of short ones would be in the error
    before, after = np.maximum(k - _SECANT, 0), np.minimum(k + _SECANT, len(grid) - 1)
    slope = (share[after] - share[before]) / (grid[after] - grid[before])
    variance = share * (1 - share) / len(of) + slope**2 * grid * (1 - grid) / len(at)
    return share, np.sqrt(np.maximum(variance, 0.0))


def _against_signal(signal: Floats, background: Floats, grid: Floats, fewest: int) -> tuple[Floats, Floats]:
    share, error = _share(background, signal, grid)
    enough = share * len(background) >= fewest - 0.5
    share = np.where(enough, share, np.nan)
    value = grid / np.sqrt(share)
    return value, 0.5 * value * error / share


def _against_rejection(signal: Floats, background: Floats, grid: Floats) -> tuple[Floats, Floats]:
    share, error = _share(signal, background, grid)
    return share / np.sqrt(grid), error / np.sqrt(grid)


def _draw_curves(ax: Axes, found: Mapping[str, _Curve]) -> None:
    for place, (label, curve) in enumerate(found.items()):
        ax.plot(curve.x, curve.value, color=PALETTE[place], linestyle=_STYLES[place], label=label, zorder=4)
        ax.fill_between(curve.x, curve.low, curve.high, color=PALETTE[place], alpha=0.25, linewidth=0, zorder=2)


def _sic_axis(ax: Axes, found: Mapping[str, _Curve], against: str, ylim: tuple[float, float] | None) -> None:
    x = np.linspace(0, 1, 200) if against == "signal" else max((c.x for c in found.values()), key=len)
    random = np.sqrt(x) if against == "signal" else 1 / np.sqrt(x)
    ax.plot(x, random, color=GREY, linestyle=":", label="random", zorder=1)
    ax.set_ylabel(r"significance improvement $\epsilon_S / \sqrt{\epsilon_B}$")
    if against == "signal":
        ax.set(xlabel=r"signal efficiency $\epsilon_S$", xlim=(0, 1))
    else:
        top = max(float(curve.x.max()) for curve in found.values())
        ax.set(xlabel=r"background rejection $1 / \epsilon_B$", xscale="log", xlim=(1, top))
    ax.set_ylim(bottom=0)
    if ylim is not None:
        ax.set_ylim(*ylim)
        ax.legend(loc="best")
        return
    columns = 2 if len(found) > 2 else 1
    headroom(ax, rows=(len(found) + columns) // columns)
    ax.legend(loc="upper center" if columns == 2 else "upper right", ncols=columns, columnspacing=1.2)


# -- injections --------------------------------------------------------------------------------------------------------


@style()
def injections(
    scan: InjectionScan,
    *,
    window: int = 0,
    shown: Literal["significance", "excess"] = "significance",
    xlabel: str = "injected signal events",
    axes: Sequence[Axes] | None = None,
) -> tuple[Axes, Axes]:
    r"""What hunts find over what was injected: the local significance or the excess, and the efficiency below.

    Parameters
    ----------
    scan:
        Of `nuinfer.anomaly.injection_scan`.
    window:
        Its number.
    shown:
        "significance": the median local Z, with the central 68% of the repetitions; "excess": the mean of n - b with
        its standard error, and dashed the mean number of signal events that pass, which it should be.
    axes:
        A pair of axes, (main, efficiency).

    Notes
    -----
    The efficiency is that of a signal event, injected anywhere, to pass in the signal region; its bars are the greater
    of the binomial error and that of the repetitions' mean.

    Raises
    ------
    ValueError
        for a window that the scan does not have, more than six efficiencies, another ``shown``.
    TypeError
        for other than a pair of axes.

    >>> from nuinfer import Events, anomaly
    >>> from nuinfer.anomaly.bump import Exponential
    >>> from nuinfer.trees import Trees
    >>> rng = np.random.default_rng(1)
    >>> back = Events({"m": rng.exponential(3.0, 1500) % 6, "x": rng.normal(0, 1, 1500)})
    >>> peak = Events({"m": rng.normal(3, 0.1, 300), "x": rng.normal(2.5, 0.3, 300)})
    >>> scan = anomaly.injection_scan(back, peak, [0, 50], resonance="m", features=["x"], repeats=1, folds=2, members=1,
    ...                               windows=anomaly.Window(signal=(2.7, 3.3), sidebands=((1.5, 2.7), (3.3, 4.5))),
    ...                               shape=Exponential(1), network=Trees(min_leaf=20), efficiencies=[0.1],
    ...                               seed=1, progress=False)
    >>> main, efficiency = injections(scan)
    >>> efficiency.get_ylabel()
    'efficiency'
    """
    _check_window(window, scan.inside.shape[2])
    rows = _rows(scan.efficiencies, None)
    if shown not in ("significance", "excess"):
        raise ValueError(f"shown: expected 'significance' or 'excess', found {shown!r}")
    main, below = two_panels(axes, "axes")
    for place, row in enumerate(rows):
        draw = _draw_significance if shown == "significance" else _draw_excess
        draw(main, scan, window, row, place)
        _draw_efficiency(below, scan, window, row, place)
    main.axhline(0, color=GREY, linewidth=0.8, zorder=1)
    main.set_ylabel("local significance $Z$" if shown == "significance" else r"excess $n - b$")
    if shown == "excess":
        main.plot([], [], color=GREY, linestyle="--", label="signal that passes")
    headroom(main, rows=(len(main.get_legend_handles_labels()[1]) + 1) // 2)
    main.legend(loc="upper center", ncols=2, columnspacing=1.2)
    pad = 0.03 * float(np.ptp(scan.strengths) or 1)
    below.set(xlabel=xlabel, ylabel="efficiency", xlim=(scan.strengths[0] - pad, scan.strengths[-1] + pad))
    below.set_ylim(0, 1.15 * max(float(below.dataLim.intervaly[1]), 1e-3))
    return main, below


def _draw_significance(ax: Axes, scan: InjectionScan, window: int, row: int, place: int) -> None:
    z = scan.z[:, :, window, row]
    some = np.isfinite(z).any(1)
    low, high = (np.full(len(z), np.nan) for _ in range(2))
    low[some], high[some] = np.nanquantile(z[some], [0.16, 0.84], axis=1)
    ax.plot(scan.strengths, scan.significance[:, window, row], marker=MARKERS[place], color=PALETTE[place],
            linestyle=_STYLES[place], label=percent(scan.efficiencies[row]), zorder=4)  # fmt: skip
    ax.fill_between(scan.strengths, low, high, color=PALETTE[place], alpha=0.2, linewidth=0, zorder=2)


def _draw_excess(ax: Axes, scan: InjectionScan, window: int, row: int, place: int) -> None:
    excess = (scan.observed - scan.expected)[:, :, window, row]
    good = np.isfinite(excess)
    n = np.maximum(good.sum(1), 1)
    mean = np.where(good, excess, 0.0).sum(1) / n
    spread = np.sqrt(np.where(good, (excess - mean[:, None]) ** 2, 0.0).sum(1) / np.maximum(n - 1, 1) / n)
    mean = np.where(good.any(1), mean, np.nan)
    ax.plot(scan.strengths, scan.passing[:, :, window, row].mean(1), color=PALETTE[place], linestyle="--", zorder=2)
    ax.errorbar(scan.strengths, mean, spread, fmt=MARKERS[place], color=PALETTE[place], elinewidth=1.0,
                label=percent(scan.efficiencies[row]), zorder=4)  # fmt: skip


def _draw_efficiency(ax: Axes, scan: InjectionScan, window: int, row: int, place: int) -> None:
    passing, injected = scan.passing[:, :, window, row], scan.injected
    total, value = injected.sum(1), scan.efficiency[:, window, row]
    some = total > 0
    binomial = np.sqrt(np.maximum(value[some] * (1 - value[some]), 0.0) / total[some])
    each = passing[some] / np.where(injected[some] > 0, injected[some], np.nan)
    number = np.isfinite(each).sum(1)
    away = np.where(np.isfinite(each), each - value[some][:, None], 0.0)
    spread = np.sqrt((away**2).sum(1) / np.maximum(number - 1, 1) / number)
    ax.errorbar(scan.strengths[some], value[some], np.maximum(binomial, spread), marker=MARKERS[place],
                linestyle=_STYLES[place], color=PALETTE[place], elinewidth=1.0)  # fmt: skip


@style()
def injection_limits(
    scan: InjectionScan,
    found: Hunt | None = None,
    *,
    window: int = 0,
    level: float = 0.95,
    label: str = "signal events",
    ax: Axes | None = None,
) -> Axes:
    r"""Upper limits for each efficiency of the cut: expected (dashed, with bands of 68 and 95%) and observed (points).

    Parameters
    ----------
    scan:
        Of `nuinfer.anomaly.injection_scan`.
    found:
        The hunt with the observed counts and its background; None: expectations of background alone.
    label:
        What is limited.

    Notes
    -----
    A limit beyond the largest strength is an arrow from there.

    Raises
    ------
    ValueError
        as `nuinfer.anomaly.hunting.InjectionScan.limits`; for a window that the scan does not have, or no background.

    >>> from nuinfer import Events, anomaly
    >>> from nuinfer.anomaly.bump import Exponential
    >>> from nuinfer.trees import Trees
    >>> rng = np.random.default_rng(1)
    >>> back = Events({"m": rng.exponential(3.0, 1500) % 6, "x": rng.normal(0, 1, 1500)})
    >>> peak = Events({"m": rng.normal(3, 0.1, 300), "x": rng.normal(2.5, 0.3, 300)})
    >>> scan = anomaly.injection_scan(back, peak, [0, 50], resonance="m", features=["x"], repeats=1, folds=2, members=1,
    ...                               windows=anomaly.Window(signal=(2.7, 3.3), sidebands=((1.5, 2.7), (3.3, 4.5))),
    ...                               shape=Exponential(1), network=Trees(min_leaf=20), efficiencies=[0.1],
    ...                               seed=1, progress=False)
    >>> injection_limits(scan).get_ylabel()
    '95% upper limit on signal events'
    """
    _check_window(window, scan.inside.shape[2])
    limits = scan.limits(found, level=level)
    expected, observed = limits.expected[window], limits.observed[window]
    if np.isnan(expected).all():
        raise ValueError(f"window {window}: expected a background from a fit, found none")
    ax, last = one_panel(ax), float(scan.strengths[-1])
    top = 1.12 * last if np.isinf(expected).any() or np.isinf(observed).any() else 1.12 * float(np.nanmax(expected))
    top = max(top, 1.12 * float(np.nanmax(np.where(np.isfinite(observed), observed, 0.0))))
    for place, band in enumerate(expected):
        _draw_limit(ax, place, band, observed[place] if found is not None else None, last, top)
    ax.set(xlim=(-0.6, len(expected) - 0.4), ylim=(0, top), xlabel="efficiency of the cut")
    ax.set_ylabel(f"{percent(level)} upper limit on {label}")
    ax.set_xticks(np.arange(len(expected)), [percent(e) for e in scan.efficiencies.tolist()])
    ax.xaxis.set_minor_locator(NullLocator())
    headroom(ax, rows=2)
    handles, labels = ax.get_legend_handles_labels()
    first = dict(zip(labels, handles, strict=True))
    ax.legend(first.values(), first.keys(), loc="upper center", ncols=2, columnspacing=1.2)
    return ax


def _draw_limit(ax: Axes, place: int, band: Floats, observed: float | None, last: float, top: float) -> None:
    if np.isnan(band).any():
        return
    shown = np.where(np.isfinite(band), band, top)
    for (low, high), color, name in (((0, 4), _TWO, "expected, 95%"), ((1, 3), _ONE, "expected, 68%")):
        ax.add_patch(Rectangle((place - 0.3, shown[low]), 0.6, shown[high] - shown[low], facecolor=color, linewidth=0,
                               label=name, zorder=2))  # fmt: skip
    if np.isfinite(band[2]):
        ax.plot([place - 0.3, place + 0.3], [band[2]] * 2, color="black", linestyle="--", label="expected", zorder=3)
    else:
        _beyond(ax, place - 0.15, last, top)
    if observed is not None and np.isfinite(observed):
        ax.plot([place], [observed], "o", color="black", label="observed", zorder=4)
    elif observed is not None:
        _beyond(ax, place + 0.15, last, top)


def _beyond(ax: Axes, x: float, last: float, top: float) -> None:
    ax.annotate("", (x, top), (x, last), arrowprops={"arrowstyle": "->", "color": RED}, zorder=5)


@style()
def injected_sic(
    scan: InjectionScan,
    *,
    window: int = 0,
    strengths: Sequence[float] | None = None,
    ylim: tuple[float, float] | None = None,
    ax: Axes | None = None,
) -> Axes:
    r"""The significance improvement in the signal region at each injected strength, and of classifiers told the truth.

    Parameters
    ----------
    scan:
        Of `nuinfer.anomaly.injection_scan`; with ``supervised=True`` there is a dashed line of these.
    window:
        Its number.
    strengths:
        Which of the scan's, from 0 excluded; None: all, the largest six of more.

    Notes
    -----
    Lines are medians of the repetitions, bands their central 68%; of one repetition, its statistical error.  A line
    ends where fewer than 10 background events pass in one of them.

    Raises
    ------
    ValueError
        for a window or strengths that the scan does not have, or no strength above 0.

    >>> from nuinfer import Events, anomaly
    >>> from nuinfer.anomaly.bump import Exponential
    >>> from nuinfer.trees import Trees
    >>> rng = np.random.default_rng(1)
    >>> back = Events({"m": rng.exponential(3.0, 1500) % 6, "x": rng.normal(0, 1, 1500)})
    >>> peak = Events({"m": rng.normal(3, 0.1, 300), "x": rng.normal(2.5, 0.3, 300)})
    >>> scan = anomaly.injection_scan(back, peak, [50], resonance="m", features=["x"], repeats=1, folds=2, members=1,
    ...                               windows=anomaly.Window(signal=(2.7, 3.3), sidebands=((1.5, 2.7), (3.3, 4.5))),
    ...                               shape=Exponential(1), network=Trees(min_leaf=20), efficiencies=[0.1],
    ...                               seed=1, progress=False)
    >>> injected_sic(scan).get_xlabel()
    'signal efficiency $\\epsilon_S$'
    """
    _check_window(window, scan.inside.shape[2])
    known = np.flatnonzero(scan.strengths > 0)
    chosen = known[-len(PALETTE):]  # fmt: skip
    if strengths is not None:
        near = np.isclose(np.asarray(strengths, np.float64)[:, None], scan.strengths[known])
        chosen = known[near.argmax(1)] if len(known) and near.any(1).all() else known[:0]
    if not 1 <= len(chosen) <= len(PALETTE):
        raise ValueError(f"strengths: expected 1 to {len(PALETTE)} of {scan.strengths[known].tolist()}, found "
                         f"{None if strengths is None else list(strengths)}")  # fmt: skip
    found = {f"{scan.strengths[s]:g} events": _injected_curve(scan, window, int(s)) for s in chosen}
    ax = one_panel(ax)
    _draw_curves(ax, found)
    if np.isfinite(scan.supervised[window]).any():
        best = scan.supervised[window]
        ax.plot(scan.signal_efficiency, best, color="black", linewidth=1.8, label="supervised", zorder=5)
    _sic_axis(ax, found, "signal", ylim)
    return ax


def _injected_curve(scan: InjectionScan, window: int, s: int) -> _Curve:
    value, error = scan.improvement[s, :, window], scan.improvement_error[s, :, window]
    if len(value) == 1:
        return _Curve(scan.signal_efficiency, value[0], value[0] - error[0], value[0] + error[0])
    low, middle, high = np.quantile(value, [0.16, 0.5, 0.84], axis=0)
    return _Curve(scan.signal_efficiency, middle, low, high)
