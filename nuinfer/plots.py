r"""Figures of results, ready for a paper: loss curves, calibration, unfolded spectra, weights, correlations.

What to use when:

- Has the training converged, and do the members agree?  `history`.
- Is a classifier's probability right?  `reliability`.
- What came out of the unfolding, how far is it from the truth?  `spectrum`; when did it stop moving?  `iterations`;
  how are its bins tied together?  `correlation`.
- Do a few events carry all the weight?  `weights`.

Each function takes a result or plain arrays and returns the matplotlib axes that it drew on, its own or those passed to
it.  A figure of its own is not registered with pyplot, so nothing needs closing; in a notebook ``ax.figure`` at the end
of a cell shows it, and `save` writes it.  The look, mplhep's with its fonts and its colours that colour-blind readers
can tell apart (Petroff, arXiv:2107.02270), is set inside `style` only; global settings stay as they were.

Shapes: K members, N events, B bins, E epochs.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from io import BytesIO
from pathlib import Path
from typing import Any, Literal, NamedTuple

import matplotlib
import mplhep
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import LogFormatter, MaxNLocator
from numpy.typing import ArrayLike, NDArray

from .errors import check_finite, missing
from .metrics import effective_size
from .store import write_atomically

__all__ = ["correlation", "history", "iterations", "reliability", "save", "spectrum", "style", "weights"]

Floats = NDArray[np.float64]
Scale = Literal["linear", "log"]

_BLUE, _ORANGE, _RED, _GREY = "#5790fc", "#f89c20", "#e42536", "#717581"
_DPI = 150

# mplhep's style is made for figures of 10 inches; this is the same at half the size, which is a journal's column.
# Font names are explicit and the mathematical font is a whole set: each text keeps both, so that they outlast `style`.
_STYLE: Any = {  # Any: matplotlib's stubs list the keys, differently in each version
    **mplhep.style.ROOT,
    "figure.figsize": (5.0, 5.0),
    "savefig.dpi": _DPI,
    "font.family": ["TeX Gyre Heros", "DejaVu Sans"],
    "font.size": 13.0,
    "legend.fontsize": 10.5,
    "legend.handlelength": 1.8,
    "mathtext.fontset": "stixsans",
    "mathtext.default": "it",
    "axes.unicode_minus": True,
    "axes.linewidth": 1.0,
    "lines.linewidth": 1.5,
    "lines.markersize": 4.5,
    # Heros has PostScript outlines, which matplotlib embeds as if they were TrueType (42): not a valid PDF.  Type 3 is.
    "pdf.fonttype": 3,
    **{f"{axis}tick.{which}.size": size for axis in "xy" for which, size in (("major", 6.0), ("minor", 3.0))},
    **{f"{axis}tick.{which}.width": 0.9 for axis in "xy" for which in ("major", "minor")},
    **{f"{axis}tick.{which}.pad": 5.0 for axis in "xy" for which in ("major", "minor")},
    **{f"{axis}tick.labelsize": 11.0 for axis in "xy"},
}


@contextmanager
def style() -> Iterator[None]:
    """The look of these figures, for figures of your own: inside the ``with`` block only.

    It also works as a decorator of a function, ``@style()``.

    >>> before = matplotlib.rcParams["font.size"]
    >>> with style():
    ...     matplotlib.rcParams["font.size"]
    13.0
    >>> matplotlib.rcParams["font.size"] == before
    True
    """
    with matplotlib.rc_context(_STYLE):
        yield
        interactive = matplotlib.is_interactive()
    # pyplot's first figure chooses the backend, and a notebook's switches this on: it has to outlast the context
    matplotlib.interactive(interactive)


def save(figure: Figure, path: str | os.PathLike[str]) -> tuple[Path, Path]:
    """Write ``path.png`` (150 dots per inch) and ``path.pdf`` (vectors), each whole or not at all; give their paths.

    The folder is made if needed.  The PDF bears no date, so that the same figure gives the same file.

    Raises
    ------
    TypeError
        for something else than a figure (``ax.figure`` is the figure of an axes).
    ValueError
        for a path that has a suffix already.

    >>> import tempfile
    >>> ax = correlation(np.eye(2), [0, 1, 2])
    >>> [made.name for made in save(ax.figure, Path(tempfile.mkdtemp()) / "correlation")]
    ['correlation.png', 'correlation.pdf']
    """
    if not isinstance(figure, Figure):
        raise TypeError(f"expected a matplotlib figure, found {type(figure).__name__}; an axes' figure is ax.figure")
    plain = Path(path)
    if plain.suffix.lower() in (".png", ".pdf", ".svg", ".eps", ".jpg"):
        raise ValueError(
            f"{plain}: expected a path without suffix, found {plain.suffix!r}; PNG and PDF are both written"
        )
    png, pdf = (plain.with_name(plain.name + suffix) for suffix in (".png", ".pdf"))
    with style():
        write_atomically(png, lambda temporary: figure.savefig(temporary, dpi=_DPI))
        write_atomically(pdf, lambda temporary: figure.savefig(temporary, metadata={"CreationDate": None}))
    return png, pdf


# -- training ----------------------------------------------------------------------------------------------------------


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
    ax = _one_panel(ax)
    _loss_curves(ax, train, _BLUE, "training", "--")
    if validation is not None:
        _loss_curves(ax, validation, _RED, "validation", "-")
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
    mean = _divided(np.where(running, losses, 0.0).sum(1), count.astype(np.float64))
    more = f" (mean of {losses.shape[1]})" if losses.shape[1] > 1 else ""
    ax.plot(epochs, mean, color=color, linestyle=linestyle, linewidth=1.8, label=label + more, zorder=3)


def _rate_axis(ax: Axes, rate: Floats) -> None:
    right = ax.twinx()
    right.plot(np.arange(len(rate)), rate, color=_GREY, linestyle=":", linewidth=1.2)
    right.set_ylabel("learning rate", color=_GREY)
    right.set_ylim(bottom=0, top=1.05 * float(rate.max()) or None)
    right.ticklabel_format(axis="y", scilimits=(-2, 3), useMathText=True)
    ax.tick_params(axis="y", which="both", right=False)
    right.tick_params(axis="y", which="both", left=False, labelcolor=_GREY)
    ax.set_zorder(right.get_zorder() + 1)  # the losses and their legend above the learning rate
    ax.patch.set_visible(False)


def _checked_history(history: object) -> tuple[Floats, Floats | None, NDArray[np.int64] | None, Floats | None]:
    train, validation = _losses("train", _part(history, "train")), _part(history, "validation")
    without = validation is None or np.isnan(np.asarray(validation, np.float64)).all()
    checked = None if without else _losses("validation", validation)
    if checked is not None and checked.shape != train.shape:
        raise ValueError(f"history: expected train and validation of one shape, found {train.shape}, {checked.shape}")
    best, rate = _part(history, "best_epoch"), _part(history, "learning_rate")
    epochs, members = train.shape
    if rate is not None:
        rate = _array("learning_rate", rate, epochs, "epochs")
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


# -- calibration -------------------------------------------------------------------------------------------------------


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
    main, lower = _two_panels(ax, "ax")
    pulls = _divided(observed - predicted, sigma)
    used = int(np.isfinite(pulls).sum())
    main.plot([0, 1], [0, 1], color=_GREY, linestyle="--", linewidth=1.2, label="exact")
    text = f"{_count(counts.sum())} events\n$\\chi^2$ = {np.nansum(pulls**2):.1f} in {used} bins"
    main.errorbar(predicted, observed, sigma, fmt="o", color=_BLUE, ecolor="black", elinewidth=1.1, label=text)
    main.set(
        xlim=(-0.02, 1.02), ylim=_around(-0.02, 1.02, observed - sigma, observed + sigma), ylabel="observed probability"
    )
    main.legend(loc="upper left")
    for width, alpha in ((2, 0.15), (1, 0.25)):
        lower.axhspan(-width, width, color=_GREY, alpha=alpha, linewidth=0)
    lower.axhline(0, color=_GREY, linestyle="--", linewidth=1.2)
    lower.plot(predicted, pulls, "o", color=_BLUE)
    reach = 1.2 * float(np.nanmax(np.abs(pulls), initial=2.8))
    lower.set(xlim=(-0.02, 1.02), ylim=(-reach, reach), xlabel="predicted probability", ylabel="pull")
    lower.yaxis.set_major_locator(MaxNLocator(4, integer=True, prune="both"))
    return main, lower


def _checked_report(report: object) -> tuple[Floats, Floats, Floats, Floats]:
    counts = "size" if _has(report, "size") and not _has(report, "counts") else "counts"
    names = ("predicted", "observed", "uncertainty", counts)
    parts = [np.asarray(_part(report, name), np.float64) for name in names]
    if parts[0].ndim != 1 or not parts[0].size or any(part.shape != parts[0].shape for part in parts):
        found = ", ".join(f"{name} {part.shape}" for name, part in zip(names, parts, strict=True))
        raise ValueError(f"report: expected one number per bin in each part, shape (B,), found {found}")
    empty = np.asarray(np.isnan(parts[:3]).all(axis=0))
    if empty.all():
        raise ValueError(f"report: expected bins with events, found {len(empty)} empty ones")
    for name, part in zip(names, parts, strict=True):
        check_finite(name, np.where(empty, 0.0, part))
    for name, part in zip(names[2:], parts[2:], strict=True):
        _not_negative(name, part)
    return parts[0], parts[1], parts[2], np.where(empty, 0.0, parts[3])


def _around(low: float, high: float, *parts: Floats) -> tuple[float, float]:
    """Limits that hold [low, high] and all parts."""
    return min(low, *(float(np.nanmin(p)) for p in parts)), max(high, *(float(np.nanmax(p)) for p in parts))


# -- spectra -----------------------------------------------------------------------------------------------------------


class _Spectrum(NamedTuple):
    """Checked bin contents (B,), divided by the bin widths where a density is wanted."""

    edges: Floats
    values: Floats
    sigma: Floats
    truth: Floats | None
    prior: Floats | None

    @property
    def reference(self) -> tuple[str, Floats]:
        """What the lower panel divides by, and its name."""
        if self.truth is not None:
            return "truth", self.truth
        return ("prior", self.prior) if self.prior is not None else ("unfolded", self.values)

    @property
    def overlays(self) -> list[tuple[str, Floats, str, str]]:
        """The histograms to draw over the band: label, contents, colour, line style."""
        both = (("truth", self.truth, _RED, "-"), ("prior", self.prior, _ORANGE, "--"))
        return [(label, contents, color, line) for label, contents, color, line in both if contents is not None]


@style()
def spectrum(
    edges: ArrayLike,
    values: ArrayLike,
    covariance: ArrayLike,
    *,
    truth: ArrayLike | None = None,
    prior: ArrayLike | None = None,
    label: str = "unfolded",
    xlabel: str = "",
    ylabel: str = "events",
    density: bool = False,
    xscale: Scale = "linear",
    yscale: Scale = "linear",
    axes: Sequence[Axes] | None = None,
) -> tuple[Axes, Axes]:
    r"""An unfolded spectrum (points, with a band of :math:`\pm\sqrt{C_{bb}}`), truth and prior, and their ratio below.

    Parameters
    ----------
    edges:
        Bin edges (B + 1,), rising.
    values:
        Bin contents (B,).
    covariance:
        Their covariance C (B, B), or their variances (B,).
    truth, prior:
        Bin contents (B,) that are drawn as histograms.  The lower panel is the ratio of everything to the truth, to the
        prior where there is no truth, or to the unfolded values themselves where there is neither; its band has the
        uncertainty of the unfolded values only.  A bin in which the reference is 0 has no ratio; a ratio further from 1
        than the panel reaches is marked by a triangle at its edge.
    xlabel:
        The observable and, in brackets, its unit: ``r"$p_\mu$ (GeV)"``.
    density:
        Divide by the bin widths; the label says so, with the unit of ``xlabel``: "events / GeV".
    xscale, yscale:
        ``"linear"`` or ``"log"``; a logarithmic axis cannot show bins that are not positive.
    axes:
        A pair of axes, (main, ratio), to draw on.

    Raises
    ------
    ValueError
        for shapes that do not fit, numbers that are not finite, edges that do not rise, negative variances, a
        covariance that is not symmetric, or a logarithmic axis without anything positive.

    >>> main, ratio = spectrum([0, 1, 3], [4.0, 9.0], [4.0, 9.0], truth=[5.0, 9.0], xlabel="p (GeV)", density=True)
    >>> main.get_ylabel(), main.patches[0].get_data().values.tolist()
    ('events / GeV', [6.0, 6.0])
    """
    found = _checked_spectrum(edges, values, covariance, truth, prior, density)
    _check_scale("xscale", xscale, found.edges[:1], "a first edge above 0")
    _check_scale("yscale", yscale, found.values, "bins above 0")
    main, ratio = _two_panels(axes, "axes")
    for panel in (main, ratio):
        _x_axis(panel, found.edges, xscale)
    _draw_spectrum(main, found, label)
    main.set_yscale(yscale)
    main.set(ylabel=_per_width(ylabel, xlabel) if density else ylabel, ylim=_with_headroom(found, yscale))
    name, reference = found.reference
    _draw_ratio(ratio, found, reference)
    ratio.set(xlabel=xlabel, ylabel=f"ratio to\n{name}")
    return main, ratio


def _checked_spectrum(
    edges: ArrayLike,
    values: ArrayLike,
    covariance: ArrayLike,
    truth: ArrayLike | None,
    prior: ArrayLike | None,
    density: bool,
) -> _Spectrum:
    at = _edges(edges)
    bins, width = len(at) - 1, np.diff(at) if density else np.ones(len(at) - 1)
    sigma = np.sqrt(_variances(covariance, bins))
    contents = [
        None if part is None else _array(what, part, bins, "bins") / width
        for what, part in (("truth", truth), ("prior", prior))
    ]
    return _Spectrum(at, _array("values", values, bins, "bins") / width, sigma / width, *contents)


def _draw_spectrum(main: Axes, found: _Spectrum, label: str) -> None:
    band = _band(main, found.edges, found.values, found.sigma)
    for name, contents, color, line in found.overlays:
        main.stairs(contents, found.edges, baseline=None, color=color, linestyle=line, linewidth=1.5, label=name)
    points = _points(main, found.edges, found.values)
    handles, labels = main.get_legend_handles_labels()
    main.legend([(band, points), *handles], [label, *labels], loc="upper right")


def _draw_ratio(ratio: Axes, found: _Spectrum, reference: Floats) -> None:
    values, sigma = _divided(found.values, reference), _divided(found.sigma, np.abs(reference))
    _band(ratio, found.edges, values, sigma)
    for _, contents, color, line in found.overlays:
        ratio.stairs(
            _divided(contents, reference), found.edges, baseline=None, color=color, linestyle=line, linewidth=1.5
        )
    if not found.overlays:
        ratio.axhline(1, color=_GREY, linestyle="--", linewidth=1.2)
    _points(ratio, found.edges, values)
    ratios = [values - sigma, values + sigma, *(_divided(part, reference) for _, part, _, _ in found.overlays)]
    span = float(np.clip(1.15 * np.nanmax(np.abs(np.stack(ratios) - 1), initial=0.0), 0.05, 1.1))
    _triangles(ratio, _centres(ratio, found.edges), values, span)
    ratio.set_ylim(1 - span, 1 + span)
    ratio.yaxis.set_major_locator(MaxNLocator(5, steps=[1, 2, 5, 10], prune="both"))


def _triangles(ratio: Axes, at: Floats, values: Floats, span: float) -> None:
    """Marks at the edge of the panel for the ratios beyond it."""
    for marker, beyond, y in (("^", values > 1 + span, 1 + 0.92 * span), ("v", values < 1 - span, 1 - 0.92 * span)):
        if beyond.any():
            ratio.plot(at[beyond], np.full(beyond.sum(), y), marker, color="black", markersize=5)


def _band(ax: Axes, edges: Floats, values: Floats, sigma: Floats) -> Any:
    return ax.stairs(values + sigma, edges, baseline=values - sigma, fill=True, color=_BLUE, alpha=0.4, linewidth=0)


def _points(ax: Axes, edges: Floats, values: Floats) -> Any:
    """Points at the middle of the bins, with bars over their widths."""
    at = _centres(ax, edges)
    reach = np.stack([at - edges[:-1], edges[1:] - at])
    return ax.errorbar(at, values, xerr=reach, fmt="o", color="black", markersize=3.5, elinewidth=1.0, zorder=4)


def _centres(ax: Axes, edges: Floats) -> Floats:
    """The middle of the bins as seen on the axis: the geometric one on a logarithmic axis."""
    if ax.get_xscale() == "log":
        return np.asarray(np.sqrt(edges[:-1] * edges[1:]))
    return np.asarray((edges[:-1] + edges[1:]) / 2)


def _x_axis(ax: Axes, edges: Floats, scale: Scale) -> None:
    ax.set_xscale(scale)
    if scale == "log":  # 1, 10, 100 instead of powers of ten; 2, 5 as well where there is less than a decade
        ax.xaxis.set_major_formatter(LogFormatter())
        ax.xaxis.set_minor_formatter(LogFormatter())
    ax.set_xlim(float(edges[0]), float(edges[-1]))


def _with_headroom(found: _Spectrum, scale: Scale) -> tuple[float, float]:
    """Limits of the main panel with room for the legend above everything drawn."""
    contents = np.stack([part for part in (found.values, found.truth, found.prior) if part is not None])
    low = min(float(contents.min()), float((found.values - found.sigma).min()))
    high = max(float(contents.max()), float((found.values + found.sigma).max()))
    if scale == "log":
        bottom = 0.4 * float(contents[contents > 0].min())
        return bottom, bottom * (high / bottom) ** 1.4
    bottom = 0.0 if low >= 0 else low - 0.05 * (high - low)
    return bottom, (bottom + 1.4 * (high - bottom)) if high > bottom else bottom + 1.0


def _per_width(ylabel: str, xlabel: str) -> str:
    """The label of a density: per unit of x where ``xlabel`` ends with it in brackets, else per bin width."""
    unit = re.search(r"[(\[]([^()\[\]]+)[)\]]\s*$", xlabel)
    if unit is None:
        return f"{ylabel} / bin width"
    return f"{ylabel} / {unit[1]}" if re.fullmatch(r"[\w%]+", unit[1]) else f"{ylabel} / ({unit[1]})"


@style()
def iterations(
    spectra: Sequence[ArrayLike],
    edges: ArrayLike,
    *,
    covariance: ArrayLike | None = None,
    xlabel: str = "",
    xscale: Scale = "linear",
    ax: Axes | None = None,
) -> Axes:
    r"""How an unfolded spectrum moves: the ratio of each iteration's bin contents to those of the last iteration.

    Parameters
    ----------
    spectra:
        Bin contents after iteration 1, 2, ...: at least two arrays (B,).
    covariance:
        The covariance (B, B), or variances (B,), of the last spectrum, drawn as a band: iterations that move by less
        than it no longer matter.

    A bin in which the last spectrum is 0 has no ratio.  Raises as `spectrum`.

    >>> ax = iterations([[8.0, 5.0], [9.0, 4.0], [10.0, 4.0]], [0, 1, 2])
    >>> [step.get_data().values.tolist() for step in ax.patches]
    [[0.8, 1.25], [0.9, 1.0], [1.0, 1.0]]
    """
    at = _edges(edges)
    each = [_array(f"iteration {n}", s, len(at) - 1, "bins") for n, s in enumerate(spectra, start=1)]
    if len(each) < 2:
        raise ValueError(f"spectra: expected at least 2 iterations, found {len(each)}")
    sigma = None if covariance is None else np.sqrt(_variances(covariance, len(at) - 1))
    _check_scale("xscale", xscale, at[:1], "a first edge above 0")
    ax = _one_panel(ax)
    _x_axis(ax, at, xscale)
    last = each[-1]
    if sigma is not None:
        _band(ax, at, _divided(last, last), _divided(sigma, np.abs(last))).set_label(f"uncertainty ({len(each)})")
    named = set(np.linspace(1, len(each), min(len(each), 8)).round().astype(int).tolist())
    for n, contents in enumerate(each, start=1):
        color = matplotlib.colormaps["viridis_r"](0.2 + 0.7 * n / len(each)) if n < len(each) else "black"
        name = f"iteration {n}" if n in named else "_nolegend_"
        ax.stairs(_divided(contents, last), at, baseline=None, color=color, linewidth=1.4, label=name)
    ax.set(xlabel=xlabel, ylabel=f"ratio to iteration {len(each)}")
    low, high = ax.get_ylim()
    ax.set_ylim(low, high + 0.45 * (high - low))
    ax.legend(loc="upper center", ncols=2)
    return ax


@style()
def correlation(
    covariance: ArrayLike, edges: ArrayLike, *, label: str = "", scale: Scale = "linear", ax: Axes | None = None
) -> Axes:
    r"""The correlation matrix :math:`\rho_{ab} = C_{ab} / \sqrt{C_{aa} C_{bb}}` of a spectrum, colours from -1 to 1.

    Parameters
    ----------
    covariance:
        The covariance C (B, B).  A bin of variance 0 has no correlations and stays grey.
    edges:
        Bin edges (B + 1,), rising.
    label:
        The observable and its unit, for both axes.

    Raises
    ------
    ValueError
        for shapes that do not fit, numbers that are not finite, edges that do not rise, negative variances, or a matrix
        that is not symmetric or has correlations beyond 1.

    >>> ax = correlation([[4.0, 1.0], [1.0, 1.0]], [0, 1, 2])
    >>> ax.collections[0].get_array().tolist()
    [[1.0, 0.5], [0.5, 1.0]]
    """
    at = _edges(edges)
    matrix = np.asarray(covariance, np.float64)
    if matrix.ndim != 2:
        raise ValueError(f"covariance: expected a matrix ({len(at) - 1}, {len(at) - 1}), found shape {matrix.shape}")
    sigma = np.sqrt(_variances(matrix, len(at) - 1))
    rho = _divided(matrix, np.outer(sigma, sigma))
    if np.nanmax(np.abs(rho), initial=0.0) > 1 + 1e-6:
        raise ValueError(f"covariance: expected correlations in [-1, 1], found one of {np.nanmax(np.abs(rho)):.4g}")
    _check_scale("scale", scale, at[:1], "a first edge above 0")
    ax = _one_panel(ax, "compressed")
    _x_axis(ax, at, scale)
    ax.set_yscale(scale)
    ax.set_facecolor("0.85")
    # edges in the colour of the face close the white seams that PDF viewers draw between cells
    mesh = ax.pcolormesh(at, at, rho, cmap="RdBu_r", vmin=-1, vmax=1, edgecolors="face", linewidth=0.2)
    bar = ax.figure.colorbar(mesh, ax=ax, label="correlation", ticks=[-1, -0.5, 0, 0.5, 1], fraction=0.046, pad=0.03)
    if bar.solids is not None:
        bar.solids.set_edgecolor("face")
    bar.minorticks_off()
    bar.ax.tick_params(axis="y", which="both", left=False)
    ax.tick_params(which="both", direction="out", top=False, right=False)
    ax.set(xlabel=label, ylabel=label, ylim=ax.get_xlim(), box_aspect=1, anchor="C")
    ax.yaxis.set_major_formatter(ax.xaxis.get_major_formatter())
    return ax


# -- event weights -----------------------------------------------------------------------------------------------------


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
    _check_scale("yscale", yscale, contents, "bins above 0")
    ax = _one_panel(ax)
    if len(each) > 1:
        for member in each:
            ax.stairs(np.histogram(member, edges, weights=own)[0], edges, color=_BLUE, alpha=0.35, linewidth=0.8)
    name = f"mean of {len(each)} members" if len(each) > 1 else "weights"
    ax.stairs(contents, edges, color=_BLUE, linewidth=1.8, label=name)
    _draw_quantiles(ax, mean, np.abs(own))
    after, before = float(effective_size(mean * own)), float(effective_size(own))
    ax.plot([], [], " ", label=f"effective size {_count(after)} of {_count(before)}")
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
        ax.axvline(float(value), ymax=0.7, color=_GREY, linestyle=":", linewidth=1.3, label=label)  # below the legend


def _checked_weights(weights: ArrayLike, sample_weight: ArrayLike | None) -> tuple[Floats, Floats]:
    each = np.atleast_2d(np.asarray(weights, np.float64))
    if each.ndim != 2 or not each.size:
        raise ValueError(
            f"weights: expected shape (members, events) with at least one event, found {np.shape(weights)}"
        )
    check_finite("weights", each.T)  # events are the rows that the message speaks of
    events = each.shape[1]
    own = np.ones(events) if sample_weight is None else _array("sample_weight", sample_weight, events, "events")
    if not own.any():
        raise ValueError(f"sample_weight: expected weights that are not all zero, found {events} zeros")
    return each, own


# -- input -------------------------------------------------------------------------------------------------------------


def _has(source: object, name: str) -> bool:
    if isinstance(source, Mapping):
        return name in source
    # a method (as ndarray.size is not, but tuple.count is) is not data
    return hasattr(source, name) and not callable(getattr(source, name))


def _part(source: object, name: str) -> Any:
    if _has(source, name):
        return source[name] if isinstance(source, Mapping) else getattr(source, name)
    known = source if isinstance(source, Mapping) else (part for part in dir(source) if not part.startswith("_"))
    raise missing("entry", name, map(str, known))


def _array(what: str, values: Any, length: int, of: str) -> Floats:
    array = np.asarray(values, np.float64)
    if array.shape != (length,):
        raise ValueError(f"{what}: expected one number for each of {length} {of}, found shape {array.shape}")
    check_finite(what, array)
    return array


def _edges(edges: ArrayLike) -> Floats:
    array = np.asarray(edges, np.float64)
    if array.ndim != 1 or len(array) < 2:
        raise ValueError(f"edges: expected at least 2 bin edges, shape (B + 1,), found shape {array.shape}")
    check_finite("edges", array)
    if (np.diff(array) <= 0).any():
        at = int(np.flatnonzero(np.diff(array) <= 0)[0])
        raise ValueError(f"edges: expected rising numbers, found {array[at]:g} before {array[at + 1]:g} at {at}")
    return array


def _variances(covariance: ArrayLike, bins: int) -> Floats:
    """The variances (B,) of a covariance (B, B) or of variances (B,)."""
    matrix = np.asarray(covariance, np.float64)
    if matrix.shape not in ((bins,), (bins, bins)):
        raise ValueError(f"covariance: expected shape ({bins}, {bins}), or variances ({bins},), found {matrix.shape}")
    check_finite("covariance", matrix)
    variances = np.diag(matrix) if matrix.ndim == 2 else matrix
    _not_negative("variances", variances)
    if matrix.ndim == 2 and np.abs(matrix - matrix.T).max() > 1e-6 * variances.max():
        raise ValueError(f"covariance: expected a symmetric matrix, found C[a, b] and C[b, a] that differ by up to "
                         f"{np.abs(matrix - matrix.T).max():g}")  # fmt: skip
    return variances


def _not_negative(what: str, values: Floats) -> None:
    if (values < 0).any():
        at = np.flatnonzero(values < 0)
        raise ValueError(f"{what}: expected none below 0, found {len(at)}, first in bin {at[0]} ({values[at[0]]:g})")


def _check_scale(what: str, scale: Scale, values: Floats, needs: str) -> None:
    if scale not in ("linear", "log"):
        raise ValueError(f"{what}: expected 'linear' or 'log', found {scale!r}")
    if scale == "log" and not (values > 0).any():
        raise ValueError(f"{what}='log': expected {needs}, found at most {values.max():g}; use 'linear'")


def _divided(numerator: Floats, denominator: Floats) -> Floats:
    """The quotient, NaN (which is not drawn) where the denominator is 0."""
    return np.asarray(np.divide(numerator, denominator, out=np.full(numerator.shape, np.nan), where=denominator != 0))


def _count(number: float) -> str:
    """A number of events with thin spaces between thousands."""
    return f"{number:,.0f}".replace(",", "\u2009")


# -- panels ------------------------------------------------------------------------------------------------------------


class _Figure(Figure):
    """A figure that is not registered with pyplot, which a notebook can show all the same."""

    def _repr_png_(self) -> bytes:
        buffer = BytesIO()
        with style():
            self.savefig(buffer, format="png", dpi=_DPI / 2)
        return buffer.getvalue()


def _one_panel(ax: Axes | None, layout: Literal["constrained", "compressed"] = "constrained") -> Axes:
    if ax is None:
        figure = _Figure(figsize=(5.0, 4.2), layout=layout)
        ax = figure.subplots()
    if not isinstance(ax, Axes):
        raise TypeError(f"ax: expected a matplotlib Axes, found {type(ax).__name__}")
    return ax


def _two_panels(axes: Sequence[Axes] | None, what: str) -> tuple[Axes, Axes]:
    if axes is None:
        figure = _Figure(figsize=(5.0, 5.0), layout="constrained")
        axes = figure.subplots(2, 1, sharex=True, height_ratios=(2.6, 1), gridspec_kw={"hspace": 0.03})
        figure.align_ylabels()
    pair = tuple(axes) if isinstance(axes, (Sequence, np.ndarray)) else (axes,)
    if len(pair) != 2 or not all(isinstance(panel, Axes) for panel in pair):
        found = ", ".join(type(panel).__name__ for panel in pair)
        raise TypeError(f"{what}: expected a pair of matplotlib Axes (main, lower), found {found or 'none'}")
    return pair[0], pair[1]
