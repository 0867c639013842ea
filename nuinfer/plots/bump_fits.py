r"""Fits of a spectrum with a peak: the spectrum, p-values and limits over the mass, spurious signals.

Error bars of counts are the central intervals of 68% (Garwood, Biometrika 28 (1936) 437).  What a fit did not use, a
blinded region, is hatched, and its contents are not drawn.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.ticker import MaxNLocator, NullLocator
from numpy.typing import ArrayLike
from scipy import special

from ..errors import check_finite
from .figures import BLUE, GREY, ORANGE, RED, VIOLET, ceiling, headroom, height_of, one_panel, style, two_panels
from .inputs import Floats, Scale, check_scale, percent

if TYPE_CHECKING:
    from ..anomaly.bump import BumpFit, BumpLimits, BumpScan, GlobalP, SpuriousSignal, ToyScans

__all__ = ["bump_fit", "bump_limits", "excess_toys", "local_p", "spurious_signals"]

_ONE, _TWO = "#607641", "#f5bb54"  # 68 and 95%, as in `limit`
_TAIL = 0.5 * special.erfc(2**-0.5)  # beyond one sigma
_MANY = 10  # lines of standard deviations
_DEEP = 36  # sigma, beyond which p is about too small to be a number


@style()
def bump_fit(
    fit: BumpFit,
    *,
    xlabel: str = "",
    ylabel: str = "events",
    yscale: Scale = "log",
    axes: Sequence[Axes] | None = None,
) -> tuple[Axes, Axes]:
    r"""A spectrum with its fit, and below how far each bin is from the background.

    Parameters
    ----------
    fit:
        Of `nuinfer.anomaly.bump.fit_bump`, with a signal or without.
    axes:
        A pair of axes, (main, pulls).

    Notes
    -----
    The blue band is one standard deviation of the fit.  The signal is named by where its peak is, the mass times the
    fitted ``mass_scale``, if there is one.  The lower panel has signed roots of the bins' likelihood ratio
    to the background, and the signal as a multiple of the root of the background.  Excluded bins stay empty.

    Raises
    ------
    ValueError
        for a logarithmic axis with expectations that are not positive.
    TypeError
        for other than a pair of axes.

    >>> from nuinfer.anomaly import bump
    >>> counts = [60, 44, 33, 28, 17, 13, 9, 8]
    >>> likelihood = bump.BumpLikelihood.binned(counts, bump.Exponential(1), edges=np.arange(9.0), exclude=[(3, 5)])
    >>> main, below = bump_fit(bump.fit_bump(likelihood))
    >>> len(below.lines[-1].get_xdata())  # of eight bins two are excluded
    6
    """
    check_scale("yscale", yscale, fit.expected.min(keepdims=True), "expectations above 0")
    main, below = two_panels(axes, "axes")
    edges = np.append(fit.bins[:, 0], fit.bins[-1, 1])
    for ax, label in ((main, "not used"), (below, "")):
        _blinded(ax, fit, label)
        ax.set_xlim(float(edges[0]), float(edges[-1]))
    _draw_fit(main, fit, edges)
    _draw_counts(main, fit, yscale)
    main.set(ylabel=ylabel, yscale=yscale)
    if yscale == "log":
        seen = fit.counts[fit.used & (fit.counts > 0)]
        main.set_ylim(bottom=0.4 * min(float(fit.expected.min()), float(seen.min(initial=np.inf))))
    else:
        main.set_ylim(bottom=0)
    headroom(main, rows=len(main.get_legend_handles_labels()[1]))
    main.legend(loc="upper right", frameon=True, facecolor="white", edgecolor="none", framealpha=1.0)
    _draw_pulls(below, fit, edges)
    below.set(xlabel=xlabel, ylabel="pull")
    return main, below


def _blinded(ax: Axes, fit: BumpFit, label: str) -> None:
    """Hatch what the fit did not use, run by run."""
    out = np.concatenate([[False], ~fit.used, [False]]).astype(int)
    starts, ends = np.flatnonzero(np.diff(out) > 0), np.flatnonzero(np.diff(out) < 0)
    for first, last in zip(starts.tolist(), ends.tolist(), strict=True):
        ax.axvspan(fit.bins[first, 0], fit.bins[last - 1, 1], facecolor="#e6e7ea", edgecolor="#a9adb5", hatch="////",
                   linewidth=0, zorder=0, label=label or None)  # fmt: skip
        label = ""  # one of the legend is enough


def _draw_fit(ax: Axes, fit: BumpFit, edges: Floats) -> None:
    good = "" if np.isnan(fit.p) else f": $\\chi^2$ / ndf = {fit.chi2:.1f} / {fit.ndf}, p = {fit.p:.2g}"
    ax.stairs(fit.expected, edges, baseline=None, color=BLUE, linewidth=1.6, label=f"fit{good}", zorder=3)
    low = np.maximum(fit.expected - fit.band, 1e-9)
    if np.isfinite(fit.band).all():
        ax.stairs(fit.expected + fit.band, edges, baseline=low, fill=True, color=BLUE, alpha=0.3, linewidth=0, zorder=2)
    if not fit.has_signal:
        return
    ax.stairs(fit.background, edges, baseline=None, color=GREY, linestyle="--", linewidth=1.3, label="background",
              zorder=2)  # fmt: skip
    size, error = fit.values["yield"], fit.errors["yield"]
    ax.stairs(np.maximum(fit.signal, 1e-9), edges, baseline=None, color=RED, linewidth=1.3, zorder=3,
              label=f"signal at {_peak(fit)}: {size:.3g} $\\pm$ {error:.2g}")  # fmt: skip


def _peak(fit: BumpFit) -> str:
    """Where the signal is."""
    scale = fit.values.get("mass_scale", 1.0)
    return f"{fit.mass:g}" if scale == 1 else f"{fit.mass * scale:.5g}"


def _draw_counts(ax: Axes, fit: BumpFit, yscale: Scale) -> None:
    shown = fit.used & (fit.counts > 0) if yscale == "log" else fit.used
    at, counts = fit.bins.mean(1)[shown], fit.counts[shown]
    low, high = garwood(counts * fit.scale[shown])
    bars = np.stack([counts - low / fit.scale[shown], high / fit.scale[shown] - counts])
    ax.errorbar(at, counts, bars, fmt="o", color="black", markersize=3.2, elinewidth=0.9, label="data", zorder=4)


def garwood(n: Floats) -> tuple[Floats, Floats]:
    """Central intervals of 68% of Poisson means."""
    low = np.where(n > 0, special.gammaincinv(np.maximum(n, 1e-9), _TAIL), 0.0)
    return low, np.asarray(special.gammaincinv(n + 1, 1 - _TAIL))


def _draw_pulls(ax: Axes, fit: BumpFit, edges: Floats) -> None:
    mu, scale = np.maximum(fit.background, 1e-300), fit.scale
    pulls = signed_roots(fit.counts, mu, scale)
    ax.axhline(0, color=GREY, linewidth=0.8)
    ax.axhspan(-1, 1, color=BLUE, alpha=0.12, linewidth=0)
    span = max(3.3, 1.2 * float(np.abs(pulls[fit.used]).max(initial=0.0)))
    if fit.has_signal:
        signal = fit.signal * np.sqrt(scale / mu)
        ax.stairs(np.clip(signal, -span, span), edges, baseline=None, color=RED, linewidth=1.3)
    at = fit.bins.mean(1)
    ax.errorbar(at[fit.used], pulls[fit.used], 1.0, fmt="o", color="black", markersize=3.2, elinewidth=0.9)
    ax.set_ylim(-span, span)
    ax.yaxis.set_major_locator(MaxNLocator(5, integer=True, prune="both"))


def signed_roots(n: Floats, mu: Floats, scale: Floats | float = 1.0) -> Floats:
    """Signed roots of Poisson's likelihood ratio of counts to their expectations, both divided by ``scale``."""
    mu = np.maximum(mu, 1e-300)
    return np.asarray(np.sign(n - mu) * np.sqrt(2 * scale * np.maximum(special.rel_entr(n, mu) - (n - mu), 0.0)))


# -- p-values ----------------------------------------------------------------------------------------------------------


@style()
def local_p(
    scan: BumpScan,
    *,
    global_p: GlobalP | None = None,
    expected: ArrayLike | None = None,
    xlabel: str = "",
    ax: Axes | None = None,
) -> Axes:
    r"""Local p-values over the mass, with lines of 1, 2, ... standard deviations.

    Parameters
    ----------
    scan:
        Of `nuinfer.anomaly.bump.scan_masses`.  Masses whose fit failed are gaps.
    global_p:
        To be said of the greatest excess.
    expected:
        Local Z (M,) that a signal is expected to have at each mass, drawn dashed.

    Notes
    -----
    Where an excess is of more than 36 standard deviations, and its p-value about too small to be a number, the axis is
    one of :math:`\log_{10} p`.  Lines without room for it have no name, and of more than ten only those
    with a name are drawn.

    Raises
    ------
    ValueError
        for expectations of another length, or not finite.

    >>> from nuinfer.anomaly import bump
    >>> counts = [60, 44, 33, 28, 17, 13, 9, 8]
    >>> peak = bump.GaussianPeak(sigma=1.0)
    >>> likelihood = bump.BumpLikelihood.binned(counts, bump.Exponential(1), peak, edges=np.arange(9.0))
    >>> scan = bump.scan_masses(likelihood, [3.0, 4.0, 5.0])
    >>> bool((local_p(scan).lines[0].get_ydata() == scan.p).all())
    True
    """
    ax = one_panel(ax)
    k, greatest = scan.best, float(np.nanmax(scan.z))
    if expected is not None:
        z = np.asarray(expected, np.float64)
        if z.shape != scan.masses.shape:
            raise ValueError(f"expected: expected {len(scan.masses)} significances, found shape {z.shape}")
        check_finite("expected", z)
        greatest = max(greatest, float(z.max()))
    lines = max(3, int(np.ceil(greatest)))
    deep = deep_lines(lines)
    at = p_heights(scan.z, deep)
    ax.plot(scan.masses, at, color="black", label="observed", zorder=4)
    if expected is not None:
        ax.plot(scan.masses, p_heights(z, deep), color=BLUE, linestyle="--", label="expected with a signal", zorder=3)
    ax.plot([scan.masses[k]], [at[k]], "o", color=RED, markersize=5, zorder=5, label=_words(scan, global_p))
    ax.set(xlabel=xlabel, xlim=(scan.masses[0], scan.masses[-1]))
    p_axis(ax, lines, rows=1 + (expected is not None) + _words(scan, global_p).count("\n") + 1)
    ax.legend(loc="upper left")
    return ax


def deep_lines(lines: int) -> bool:
    """Whether so many standard deviations need an axis of the logarithm of p, as p is too small to be a number."""
    return lines > _DEEP


def p_axis(ax: Axes, lines: int, *, rows: int) -> None:
    """The axis of local p-values down to so many standard deviations, with room for the rows of a legend above."""
    deep = deep_lines(lines)
    ax.set(yscale="linear" if deep else "log", ylabel="local p-value")
    ax.set_ylim(*p_heights(np.array([lines + 0.35, -np.inf]), deep).tolist())
    headroom(ax, rows=rows)
    _sigma_lines(ax, lines, deep)
    power_ticks(ax, -float(p_heights(np.array([lines + 0.35]), True)[0]), deep)


def p_heights(z: Floats, deep: bool) -> Floats:
    """p, or where that could be too small to be a number its logarithm to base 10."""
    from ..anomaly.significance import log_p_of_z, p_of_z

    return log_p_of_z(z) / np.log(10) if deep else p_of_z(z)


def _sigma_lines(ax: Axes, lines: int, deep: bool) -> None:
    """Lines of 1, 2, ... standard deviations, and their names, as far as there is room."""
    sigmas = np.arange(1.0, lines + 1)
    heights = p_heights(sigmas, deep)
    transform = ax.yaxis.get_transform()
    low, high = transform.transform(ax.get_ylim())
    inches = height_of(ax) * (high - transform.transform(heights)) / (high - low)
    named = _apart(inches, 0.17)
    for k in range(lines) if lines <= _MANY else named:
        ax.axhline(heights[k], color=GREY, linewidth=0.7, linestyle="--", zorder=0)
    for k in named:
        ax.annotate(rf"{k + 1}$\sigma$", (1, heights[k]), xycoords=ax.get_yaxis_transform(), xytext=(5, 0),
                    textcoords="offset points", va="center", color=GREY, fontsize=10)  # fmt: skip


def _apart(at: Floats, least: float) -> list[int]:
    """The numbers of places that rise, each so far from the one before."""
    kept = [0]
    for k in range(1, len(at)):
        if at[k] - at[kept[-1]] >= least:
            kept.append(k)
    return kept


def power_ticks(ax: Axes, decades: float, deep: bool) -> None:
    """Ticks at powers of ten up to 1, at most nine."""
    powers = np.arange(0, decades, max(1, int(np.ceil(decades / 8))))
    ax.yaxis.set_minor_locator(NullLocator())
    ax.set_yticks(-powers if deep else 10.0**-powers, [f"$10^{{{-int(k)}}}$" if k else "1" for k in powers.tolist()])


def _words(scan: BumpScan, global_p: GlobalP | None) -> str:
    k = scan.best
    local = f"at {scan.masses[k]:.4g}: local {scan.z[k]:.1f}$\\sigma$"
    if global_p is None:
        return local
    if global_p.is_bound:
        return f"{local},\nglobal p < {global_p.p_upper:.1g} (95%), > {global_p.z_lower:.1f}$\\sigma$"
    return f"{local},\nglobal p = {global_p.p:.2g} ({global_p.z:.1f}$\\sigma$)"


@style()
def excess_toys(
    toys: ToyScans, *, scan: BumpScan | None = None, formula: GlobalP | None = None, ax: Axes | None = None
) -> Axes:
    r"""How often toys without a signal have an excess of at least Z somewhere: the global p-value over the local Z.

    Parameters
    ----------
    toys:
        Of `nuinfer.anomaly.bump.scan_toys`; the band is their binomial error (68%, Clopper and Pearson).
    scan:
        The data, whose greatest excess is marked.
    formula:
        Of `nuinfer.anomaly.bump.gross_vitells`, drawn above its level.

    Raises
    ------
    ValueError
        for a formula that is no Gross and Vitells's, or toys all of which failed.

    >>> from nuinfer.anomaly import bump
    >>> counts = [60, 44, 33, 28, 17, 13, 9, 8]
    >>> peak = bump.GaussianPeak(sigma=1.0)
    >>> likelihood = bump.BumpLikelihood.binned(counts, bump.Exponential(1), peak, edges=np.arange(9.0))
    >>> ax = excess_toys(bump.scan_toys(likelihood, [3.0, 4.0, 5.0], toys=100, seed=1))
    >>> float(ax.lines[0].get_ydata()[0])
    1.0
    """
    from ..anomaly.significance import p_of_z

    if formula is not None and formula.method != "gross-vitells":
        raise ValueError(f"formula: expected one of gross_vitells, found a global p by {formula.method}")
    largest, total = np.sort(toys.largest), len(toys.largest)
    if not np.isfinite(largest).any():
        raise ValueError(f"toys: expected fits, found that all of {total} failed")
    top = float(largest[np.isfinite(largest)].max())
    seen = None if scan is None else max(float(scan.z[scan.best]), 0.0)
    top = 1.08 * max(top, 1.0, seen or 0.0)
    at = np.linspace(0, top, 400)
    beyond = total - np.searchsorted(largest, at, side="left")
    ax = one_panel(ax)
    ax.plot(at, beyond / total, color="black", label=f"{total} toys", zorder=4)
    low = special.betaincinv(np.maximum(beyond, 1e-9), total - beyond + 1.0, _TAIL)
    high = special.betaincinv(beyond + 1.0, np.maximum(total - beyond, 1e-9), 1 - _TAIL)
    ax.fill_between(at, np.where(beyond > 0, low, 0.0), high, color=GREY, alpha=0.4, linewidth=0, zorder=2)
    if formula is not None:
        z = at[at > formula.level]
        rate = p_of_z(z) + formula.crossings * np.exp(-0.5 * (z**2 - formula.level**2))
        ax.plot(z, np.minimum(rate, 1.0), color=RED, linestyle="--", label="Gross and Vitells", zorder=5)
    ax.plot(at, p_of_z(at), color=BLUE, linestyle=":", label="local", zorder=3)
    marks = [] if seen is None else [
        ax.axvline(seen, color=ORANGE, linewidth=1.8, label=f"data: {seen:.2f}$\\sigma$", zorder=1)
    ]  # fmt: skip
    ax.set(yscale="log", xlim=(0, top), xlabel=r"greatest local significance $Z$", ylabel="global p-value")
    ax.set_ylim(0.3 / total, 1.3)
    ceiling(ax, marks, rows=(len(ax.get_legend_handles_labels()[1]) + 1) // 2)
    power_ticks(ax, float(np.log10(total / 0.3)), False)
    ax.legend(loc="upper center", ncols=2, columnspacing=1.2)
    return ax


# -- limits and spurious signals ---------------------------------------------------------------------------------------


@style()
def bump_limits(
    limits: BumpLimits,
    *,
    prediction: ArrayLike | None = None,
    prediction_label: str = "prediction",
    xlabel: str = "",
    label: str = "",
    scale: Scale = "log",
    ax: Axes | None = None,
) -> Axes:
    r"""Upper limits over the mass: observed (black), expected without a signal (dashed), with bands of 68 and 95%.

    Parameters
    ----------
    limits:
        Of `nuinfer.anomaly.bump.yield_limits` or `toy_limits`, at two masses or more; error bars are those of the toys.
    prediction, prediction_label:
        Of a model (M,), above the limit where it is excluded.
    label:
        What is limited, and its unit: ``r"$\sigma B$ (fb)"``.

    Notes
    -----
    Masses without a finite limit are gaps.

    Raises
    ------
    ValueError
        for one mass, predictions of another length, or a logarithmic axis with limits that are not positive.

    >>> from nuinfer.anomaly import bump
    >>> counts = [60, 44, 33, 28, 17, 13, 9, 8]
    >>> peak = bump.GaussianPeak(sigma=1.0)
    >>> likelihood = bump.BumpLikelihood.binned(counts, bump.Exponential(1), peak, edges=np.arange(9.0))
    >>> found = bump.yield_limits(likelihood, [3.0, 4.0, 5.0])
    >>> bool((bump_limits(found).lines[0].get_ydata() == found.observed).all())
    True
    """
    if len(limits.masses) < 2:
        raise ValueError(f"limits: expected two masses or more, found {len(limits.masses)}")
    at, seen, bands = limits.masses, _gaps(limits.observed), _gaps(limits.expected)
    finite = np.append(seen[np.isfinite(seen)], bands[np.isfinite(bands)])
    check_scale("scale", scale, finite.min(keepdims=True), "limits above 0")
    ax = one_panel(ax)
    ax.plot(at, seen, color="black", marker="o", markersize=3.0, label="observed", zorder=4)
    if limits.toys:
        ax.errorbar(at, seen, limits.errors, fmt="none", ecolor="black", elinewidth=0.9, zorder=4)
    ax.plot(at, bands[:, 2], color="black", linestyle="--", label="expected", zorder=3)
    for (low, high), color, name in (((1, 3), _ONE, "expected, 68%"), ((0, 4), _TWO, "expected, 95%")):
        layer: Any = 2 if low else 1
        ax.fill_between(at, bands[:, low], bands[:, high], color=color, linewidth=0, label=name, zorder=layer)
    if prediction is not None:
        sizes = np.asarray(prediction, np.float64)
        if sizes.shape != at.shape:
            raise ValueError(f"prediction: expected {len(at)} sizes, one for each mass, found shape {sizes.shape}")
        ax.plot(at, sizes, color=RED, linestyle="-.", label=prediction_label, zorder=3)
    what = label or ("yield" if limits.of_yields else "cross-section")
    ax.set(xlabel=xlabel, ylabel=f"{percent(limits.cl)} upper limit on {what}", yscale=scale, xlim=(at[0], at[-1]))
    if scale == "linear":
        ax.set_ylim(bottom=0)
    headroom(ax, rows=3 if prediction is not None else 2)
    ax.legend(loc="upper center", ncols=2, columnspacing=1.2)
    return ax


def _gaps(values: Floats) -> Floats:
    return np.where(np.isfinite(values), values, np.nan)


@style()
def spurious_signals(found: SpuriousSignal, *, xlabel: str = "", ax: Axes | None = None) -> Axes:
    r"""The spurious signal over the mass in units of the yield's error, with what is tolerated.

    Parameters
    ----------
    found:
        Of `nuinfer.anomaly.bump.spurious_signal`.  The band is the statistical error of the template, points in red are
        refused.

    Raises
    ------
    TypeError
        for an ``ax`` that is none.

    >>> from nuinfer.anomaly import bump
    >>> counts = [60, 44, 33, 28, 17, 13, 9, 8]
    >>> peak = bump.GaussianPeak(sigma=1.0)
    >>> likelihood = bump.BumpLikelihood.binned(counts, bump.Exponential(1), peak, edges=np.arange(9.0))
    >>> test = bump.spurious_signal(likelihood, [3.0, 4.0, 5.0], counts)
    >>> bool((spurious_signals(test).lines[0].get_ydata() == test.ratio).all())
    True
    """
    at, ratio, sigma = found.masses, found.ratio, found.sigma
    ax = one_panel(ax)
    ax.plot(at, ratio, color="black", marker="o", markersize=3.5, label="spurious signal", zorder=4)
    if (found.template_errors > 0).any():
        error = found.template_errors / sigma
        ax.fill_between(at, ratio - error, ratio + error, color=BLUE, alpha=0.35, linewidth=0, zorder=2,
                        label=r"template's statistics, 1$\sigma$")  # fmt: skip
    for sign in (1, -1):
        ax.axhline(sign * found.of_sigma, color=ORANGE, linestyle="--", zorder=3,
                   label=rf"{found.of_sigma:g} $\sigma_S$" if sign > 0 else None)  # fmt: skip
        if np.isfinite(found.reference).any():
            ax.plot(at, sign * found.of_reference * found.reference / sigma, color=VIOLET, linestyle="-.", zorder=3,
                    label=f"{percent(found.of_reference)} of the expected signal" if sign > 0 else None)  # fmt: skip
    bad = ~found.passed
    if bad.any():
        ax.plot(at[bad], ratio[bad], "o", color=RED, markersize=5, zorder=5, label="refused")
    ax.axhline(0, color=GREY, linewidth=0.8)
    span = 1.15 * max(float(np.abs(ax.dataLim.intervaly).max()), 1.3 * found.of_sigma)
    ax.set(xlabel=xlabel, ylabel=r"$S_{sp} / \sigma_S$", ylim=(-span, span))
    if len(at) > 1:
        ax.set_xlim(at[0], at[-1])
    headroom(ax, rows=(len(ax.get_legend_handles_labels()[1]) + 1) // 2)
    ax.legend(loc="upper center", ncols=2, columnspacing=1.2)
    return ax
