r"""What a hunt is worth, and what it could have seen: significance improvements, injected signals, limits.

Efficiencies of cuts are those of the sidebands, for which the thresholds were set; those of signal and background are
of events that the truth tells apart.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

import numpy as np
from matplotlib.axes import Axes
from matplotlib.patches import Rectangle
from matplotlib.ticker import NullLocator
from numpy.typing import ArrayLike

from ..errors import check_finite
from .bump_fits import _ONE, _TWO
from .figures import GREY, MARKERS, PALETTE, RED, headroom, one_panel, style, two_panels
from .hunts import STYLES, check_window, rows_of
from .inputs import Floats, percent

if TYPE_CHECKING:
    from ..anomaly.hunting import Hunt, InjectionScan

__all__ = ["injected_sic", "injection_limits", "injections", "sic"]

Scores = tuple[ArrayLike, ArrayLike]

_SECANT = 8


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
        ax.plot(curve.x, curve.value, color=PALETTE[place], linestyle=STYLES[place], label=label, zorder=4)
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
    check_window(window, scan.inside.shape[2])
    rows = rows_of(scan.efficiencies, None)
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
            linestyle=STYLES[place], label=percent(scan.efficiencies[row]), zorder=4)  # fmt: skip
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
                linestyle=STYLES[place], color=PALETTE[place], elinewidth=1.0)  # fmt: skip


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
    check_window(window, scan.inside.shape[2])
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
    check_window(window, scan.inside.shape[2])
    known = np.flatnonzero(scan.strengths > 0)
    chosen = known[-len(PALETTE) :]
    if strengths is not None:
        near = np.isclose(np.asarray(strengths, np.float64).reshape(-1, 1), scan.strengths[known])
        chosen = known[near.argmax(1)] if len(known) and near.any(1).all() else known[:0]
    if not 1 <= len(chosen) <= len(PALETTE):
        raise ValueError(f"strengths: expected 1 to {len(PALETTE)} of {scan.strengths[known].tolist()}, found "
                         f"{None if strengths is None else np.asarray(strengths).tolist()}")  # fmt: skip
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
