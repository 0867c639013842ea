r"""A hunt by weak supervision: spectra, p-values, and what the score follows and is made of.

Efficiencies are those of the sidebands, for which the thresholds were set.  Pulls of bins are signed roots of Poisson's
likelihood ratio to the background, without the uncertainty of the background, which is the band.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.ticker import MaxNLocator, NullLocator

from .bump_fits import deep_lines, garwood, p_axis, p_heights, signed_roots
from .figures import BLUE, GREY, MARKERS, PALETTE, headroom, one_panel, style, two_panels
from .inputs import Floats, Scale, check_scale, measured, percent

if TYPE_CHECKING:
    from ..anomaly.hunting import Hunt, HuntP
    from ..anomaly.templates import Sculpting

__all__ = [
    "hunt_p",
    "hunt_spectra",
    "importance",
    "score_by_mass",
    "sculpting",
]

_SHADE = "#e6e7ea"
#: Of lines, one a colour of the palette.
STYLES: Sequence[Any] = ("-", "--", "-.", ":", (0, (5, 1, 1, 1, 1, 1)), (0, (1, 1)))


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
    region (shaded) out.  Z is that of the count in it, by the likelihood ratio.  Where a fit failed is no curve.

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
    check_window(window, len(found.signal))
    rows = rows_of(found.efficiencies, efficiencies)
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


def check_window(window: int, windows: int) -> None:
    """Raise for a window that there is not."""
    if not isinstance(window, int | np.integer) or not 0 <= window < windows:
        raise ValueError(f"window: expected a number from 0 to {windows - 1}, found {window!r}")


def rows_of(known: Floats, wanted: Sequence[float] | None) -> list[int]:
    """The numbers of the efficiencies that are drawn."""
    rows = list(range(len(known)))
    if wanted is not None:
        asked = np.asarray(wanted, np.float64).reshape(-1)
        near = np.isclose(asked[:, None], known, rtol=1e-9)
        if not near.any(1).all():
            raise ValueError(f"efficiencies: expected some of {known.tolist()}, found {asked.tolist()}")
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
    rows, answer = rows_of(found.efficiencies, efficiencies), found.global_p
    ax = one_panel(ax)
    lines = max(3, int(np.ceil(np.nanmax(np.append(found.z[:, rows], 0.0)))))
    deep = deep_lines(lines)
    at, half = found.signal.mean(1), 0.5 * np.diff(found.signal).ravel()
    for place, row in enumerate(rows):
        p, z = found.p[:, row], found.z[:, row]
        height = p_heights(z, True) if deep else p
        ax.errorbar(at, height, xerr=half, fmt=MARKERS[place], linestyle=STYLES[place], color=PALETTE[place],
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
    check_window(window, len(found.signal))
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
    look: Any = {"color": PALETTE[place], "linestyle": STYLES[place], "linewidth": 1.6}
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
    check_window(window, len(found.signal))
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
