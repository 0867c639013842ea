r"""Unfolding in bins of any number of columns: what the detector does, what came out, and whether to believe it.

Bins of one column are drawn over its edges; those of several, and infinite ones, over their numbers from 0, with lines
between slices.  Spectra in two columns are drawn one panel a slice of the first.

Shapes: B bins (T of truth, R of reco).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.ticker import MaxNLocator, NullLocator
from numpy.typing import ArrayLike

from ..errors import missing
from .figures import BLUE, GREY, ORANGE, PALETTE, RED, VIOLET, _Figure, headroom, one_panel, style, two_panels
from .inputs import Floats, Scale, check_scale, divided, numbers, percent
from .spectra import correlation

if TYPE_CHECKING:
    from ..unfolding import Binning, Response, Spectrum
    from ..unfolding.checks import PseudoExperiments

__all__ = [
    "bin_correlation",
    "bin_covariance",
    "bin_coverage",
    "response_matrix",
    "smearing",
    "uncertainties",
    "unfolded",
]

# at most ten sources: of up to six the usual colours, of more the ten of Petroff, arXiv:2107.02270
_TEN = ("#3f90da", "#ffa90e", "#bd1f01", "#94a4a2", "#832db6", "#a96b59", "#e76300", "#b9ac70", "#717581", "#92dadd")
_BANDS = ("#2f62c9", "#7fa9fb", "#bcd3fe", "#dcdfe5", "#b4b8c0", "#8b8f99")  # inner to outer
_LINES = ((RED, "-"), (ORANGE, "--"), (VIOLET, "-."), ("#7a21dd", ":"), ("black", (0, (5, 1))))


class _Range(NamedTuple):
    """An axis: edges (B + 1,), its label, where slices end, and whether it shows bin numbers."""

    edges: Floats
    label: str
    borders: Floats
    numbered: bool


def _range(binning: Binning, label: str, what: str = "") -> _Range:
    if len(binning.names) == 1 and np.isfinite(binning.edges).all():
        return _Range(binning.edges, label or f"{what} {binning.name}".strip(), np.empty(0), False)
    inner = binning.inner or ()
    borders = np.cumsum([b.size for b in inner])[:-1].astype(np.float64) if inner else np.empty(0)
    edges = np.linspace(-0.5, binning.size - 0.5, binning.size + 1)
    return _Range(edges, label or f"{what} bin number".strip(), borders - 0.5, True)


# -- matrices ----------------------------------------------------------------------------------------------------------


@style()
def response_matrix(
    response: Response, *, xlabel: str = "", ylabel: str = "", axes: Sequence[Axes] | None = None
) -> tuple[Axes, Axes, Axes]:
    r"""The migration matrix, whose columns sum to 1, with the efficiency above and the purity on the right.

    Parameters
    ----------
    xlabel, ylabel:
        The observable of truth, and of reco, with units: ``r"true $p_\mu$ (GeV)"``.
    axes:
        Three axes, (matrix, efficiency, purity), to draw on.

    Cells without events stay white; the purity of a reco bin without events is not drawn.

    Raises
    ------
    TypeError
        for other than three axes.

    >>> from nuinfer import Events
    >>> from nuinfer.unfolding import Response
    >>> events = Events({"t": [0.5, 0.5, 1.5, 1.5], "x": [0.4, 1.2, 1.4, 9.0]})
    >>> response = Response.from_events(events, truth={"t": [0, 1, 2]}, reco={"x": [0, 1, 2]})
    >>> main, efficiency, purity = response_matrix(response)
    >>> efficiency.patches[0].get_data().values.tolist()
    [1.0, 0.5]
    """
    truth = _range(response.truth, xlabel, "true")
    reco = _range(response.reco, ylabel, "reconstructed")
    main, above, beside = _three(axes)
    mesh = _heat(main, truth, reco, np.where(response.migration > 0, response.migration, np.nan), "Blues", (0, None))
    _bar(main, mesh, "migration probability", [beside] if axes is None else [main])
    look: Any = {"baseline": 0, "fill": True, "facecolor": BLUE, "alpha": 0.35, "edgecolor": BLUE, "linewidth": 1.2}
    above.stairs(response.efficiency, truth.edges, **look)
    beside.stairs(response.purity, reco.edges, orientation="horizontal", **look)
    above.set(xlim=main.get_xlim(), ylim=(0, _top(response.efficiency)), ylabel="efficiency")
    beside.set(ylim=main.get_ylim(), xlim=(0, 1.08), xlabel="purity")
    for ax, side in ((above, "x"), (beside, "y")):
        ax.tick_params(axis=side, which="both", labelbottom=side != "x", labelleft=side != "y")  # type: ignore[arg-type]
    beside.set_xticks([0, 0.5, 1], ["0", "0.5", "1"])
    return main, above, beside


def _top(values: Floats) -> float:
    return 1.15 * float(np.nanmax(values, initial=1e-3))


def _three(axes: Sequence[Axes] | None) -> tuple[Axes, Axes, Axes]:
    if axes is None:
        figure = _Figure(figsize=(6.0, 5.2), layout="constrained")
        grid = figure.subplots(
            2, 2, width_ratios=(4, 1), height_ratios=(1, 4), gridspec_kw={"hspace": 0.02, "wspace": 0.02}
        )  # fmt: skip
        grid[0, 1].remove()
        axes = (grid[1, 0], grid[0, 0], grid[1, 1])
    found = tuple(axes)
    if len(found) != 3 or not all(isinstance(ax, Axes) for ax in found):
        raise TypeError(f"axes: expected three matplotlib Axes (matrix, efficiency, purity), found {len(found)}")
    return found[0], found[1], found[2]


def _heat(
    ax: Axes, x: _Range, y: _Range, matrix: Floats, cmap: str, limits: tuple[float, float | None]
) -> Any:  # fmt: skip
    """Cells of a matrix (y, x), without ticks inside of it."""
    mesh = ax.pcolormesh(
        x.edges, y.edges, matrix, cmap=cmap, vmin=limits[0], vmax=limits[1], edgecolors="face", linewidth=0.2
    )
    ax.tick_params(which="both", direction="out", top=False, right=False)
    ax.set(xlim=(x.edges[0], x.edges[-1]), ylim=(y.edges[0], y.edges[-1]), xlabel=x.label, ylabel=y.label)
    _number(ax, x, y)
    return mesh


def _number(ax: Axes, x: _Range, y: _Range) -> None:
    """Whole numbers on axes of bin numbers, and lines between slices."""
    for axis, r, line in ((ax.xaxis, x, ax.axvline), (ax.yaxis, y, ax.axhline)):
        for at in r.borders:
            line(at, color=GREY, linewidth=0.8)
        if r.numbered:
            axis.set_major_locator(MaxNLocator(8, integer=True))
            axis.set_minor_locator(NullLocator())
        elif axis.get_scale() == "linear":  # the same ticks on both axes of a square
            axis.set_major_locator(MaxNLocator(6, steps=[1, 2, 5, 10]))


def _bar(ax: Axes, mesh: Any, label: str, beside: list[Axes]) -> None:
    strip = beside != [ax]  # a narrow panel, whose share is larger
    bar = ax.figure.colorbar(
        mesh, ax=beside, label=label, fraction=0.3 if strip else 0.046, pad=0.15 if strip else 0.03
    )
    if bar.solids is not None:
        bar.solids.set_edgecolor("face")
    bar.minorticks_off()
    bar.ax.tick_params(axis="y", which="both", left=False)


@style()
def smearing(spectrum: Spectrum, *, label: str = "", ax: Axes | None = None) -> Axes:
    """The additional smearing matrix A_C, which models are multiplied by; colours are centred at 0.

    Parameters
    ----------
    label:
        The observable and its unit, for both axes.

    Raises
    ------
    ValueError
        for a spectrum without A_C.

    >>> from nuinfer.unfolding import Binning, Spectrum
    >>> found = Spectrum(Binning("p", [0, 1, 2]), np.ones(2), {}, np.array([[0.8, 0.1], [0.2, 0.9]]))
    >>> smearing(found).collections[0].get_array().tolist()
    [[0.8, 0.1], [0.2, 0.9]]
    """
    if spectrum.smearing is None:
        raise ValueError("smearing: expected a spectrum with an additional smearing matrix, found none; events with "
                         "weights have none")  # fmt: skip
    return _square(spectrum.binning, spectrum.smearing, "additional smearing $A_C$", label, ax)


@style()
def bin_covariance(
    spectrum: Spectrum, *, source: str | None = None, fractional: bool = True, label: str = "", ax: Axes | None = None
) -> Axes:
    """The covariance of a spectrum, by default in units of its values: C_ab / (u_a u_b).

    Parameters
    ----------
    source:
        One of ``spectrum.covariances``; None for the sum.
    label:
        The observable and its unit, for both axes.

    A fractional covariance has no number where the spectrum is 0.

    Raises
    ------
    KeyError
        for a source that is not there; ``ValueError`` for a spectrum without covariance.

    >>> from nuinfer.unfolding import Binning, Spectrum
    >>> found = Spectrum(Binning("p", [0, 1, 2]), np.array([10.0, 5.0]), {"data": np.diag([4.0, 1.0])})
    >>> bin_covariance(found).collections[0].get_array().tolist()
    [[0.04, 0.0], [0.0, 0.04]]
    """
    matrix, u = _matrix(spectrum, source), spectrum.values
    name = "fractional covariance" if fractional else "covariance"
    shown = divided(matrix, np.outer(u, u)) if fractional else matrix
    return _square(spectrum.binning, shown, f"{name}, {source}" if source else name, label, ax)


@style()
def bin_correlation(
    spectrum: Spectrum, *, source: str | None = None, label: str = "", scale: Scale = "linear", ax: Axes | None = None
) -> Axes:
    """The correlation matrix of a spectrum in any bins; of one source, or of all.  See `correlation`.

    Parameters
    ----------
    source:
        One of ``spectrum.covariances``; None for the sum.
    label:
        The observable and its unit, for both axes.
    scale:
        ``"log"`` for bins of one column above 0.

    Raises
    ------
    KeyError
        for a source that is not there; ``ValueError`` for a spectrum without covariance.

    >>> from nuinfer.unfolding import Binning, Spectrum
    >>> found = Spectrum(Binning("p", [0, 1, 2]), np.ones(2), {"flux": np.array([[4.0, 1.0], [1.0, 1.0]])})
    >>> bin_correlation(found, source="flux").collections[0].get_array().tolist()
    [[1.0, 0.5], [0.5, 1.0]]
    """
    at = _range(spectrum.binning, label)
    ax = correlation(_matrix(spectrum, source), at.edges, label=at.label, scale=scale, ax=ax)
    _number(ax, at, at)
    return ax


def _matrix(spectrum: Spectrum, source: str | None) -> Floats:
    if source is None:
        return spectrum.covariance
    if source not in spectrum.covariances:
        raise missing("source", source, spectrum.covariances)
    return spectrum.covariances[source]


def _square(binning: Binning, matrix: Floats, name: str, label: str, ax: Axes | None) -> Axes:
    """A matrix (B, B) with colours on both sides of 0."""
    at, reach = _range(binning, label), float(np.nanmax(np.abs(matrix), initial=1e-30))
    ax = one_panel(ax, "compressed")
    ax.set_facecolor("0.85")
    _bar(ax, _heat(ax, at, at, matrix, "RdBu_r", (-reach, reach)), name, [ax])
    ax.set(box_aspect=1, anchor="C")
    return ax


# -- spectra -----------------------------------------------------------------------------------------------------------


class _Slice(NamedTuple):
    """A panel: its bins among all, their edges and column, and what it is a slice of."""

    bins: slice
    edges: Floats
    label: str
    title: str


def _slices(binning: Binning, names: Mapping[str, str]) -> list[_Slice]:
    """One of all for one column, or for more than two; one a bin of the first of two."""
    if len(binning.names) != 2 or binning.inner is None:
        own = names.get(binning.name, "") if binning.inner is None else ""
        at = _range(binning, own)
        return [_Slice(slice(0, binning.size), at.edges, at.label, "")]
    found, start = [], 0
    outer = names.get(binning.name, binning.name)
    for low, high, b in zip(binning.edges[:-1], binning.edges[1:], binning.inner, strict=True):
        title = f"{low:g} \u2264 {outer} < {high:g}".replace("-", "\u2212")
        at = _range(b, names.get(b.name, ""))
        found.append(_Slice(slice(start, start + b.size), at.edges, at.label, title))
        start += b.size
    return found


@style()
def unfolded(
    spectrum: Spectrum,
    *,
    models: Mapping[str, ArrayLike] | None = None,
    density: bool = True,
    label: str = "unfolded data",
    xlabel: str = "",
    ylabel: str = "",
    names: Mapping[str, str] | None = None,
    sources: Mapping[str, str] | None = None,
    xscale: Scale = "linear",
    yscale: Scale = "linear",
    axes: Sequence[Axes] | None = None,
) -> tuple[Axes, ...]:
    r"""An unfolded spectrum with its uncertainty by source, and models through A_C with their chi-squared.

    Parameters
    ----------
    models:
        Truths (B,) by name, at most five; each is drawn as A_C times it, and the legend has its chi-squared, of the
        whole spectrum with its whole covariance, and the degrees of freedom.
    density:
        Divide by the bins' widths, which is how it has to be where they differ.
    xlabel, ylabel:
        With units.  Of two columns, ``xlabel`` is the second.
    names, sources:
        How columns, and sources of uncertainty, are to be written: ``{"cos": r"$\cos\theta_\mu$"}``.
    axes:
        As many as there are panels.

    Bands are stacked in quadrature, in the order of ``spectrum.covariances``: the first source innermost, the outer end
    of the last is the whole uncertainty.

    Returns
    -------
    tuple of Axes
        One a slice of the first of two columns, else one.

    Raises
    ------
    ValueError
        for models of other bins or too many, a spectrum without covariance, or another number of axes.

    >>> from nuinfer.unfolding import Binning, Spectrum
    >>> found = Spectrum(Binning("p", [0, 1, 3]), np.array([4.0, 9.0]), {"data": np.diag([4.0, 9.0])})
    >>> (ax,) = unfolded(found, models={"A": [6.0, 9.0]}, xlabel="p (GeV)")
    >>> [text.get_text() for text in ax.get_legend().get_texts()]
    ['unfolded data', 'A, $\\chi^2$ = 1.0/2', 'data']
    """
    panels = _panels(spectrum.binning, names, axes, xscale)
    width = spectrum.binning.widths if density else np.ones(spectrum.binning.size)
    if not np.isfinite(width).all():
        raise ValueError("density: expected bins of finite width, found infinite edges; use density=False")
    bands, lines = _bands(spectrum, sources or {}), list(_models(spectrum, models or {}))
    for part, ax in panels:
        _one_slice(ax, part, spectrum.values / width, [(n, s / width) for n, s in bands],
                   [(n, m / width) for n, m in lines], label)  # fmt: skip
        check_scale("yscale", yscale, spectrum.values[part.bins], "bins above 0")
        ax.set(yscale=yscale, xlabel=xlabel or part.label)
        ax.set_ylabel(ylabel or ("events / bin width" if density else "events"))
    return _finished(panels, own=axes is None, rows=len(bands) + len(lines) + 1)


def _panels(
    binning: Binning, names: Mapping[str, str] | None, axes: Sequence[Axes] | None, xscale: Scale
) -> list[tuple[_Slice, Axes]]:
    slices = _slices(binning, names or {})
    if axes is None:
        columns = 1 if len(slices) == 1 else 2 if len(slices) < 5 else 3
        rows = -(-len(slices) // columns)
        size = (5.0, 4.2) if columns == 1 else (3.1 * columns, 2.5 * rows + 0.8)
        figure = _Figure(figsize=size, layout="constrained")
        grid = figure.subplots(rows, columns, squeeze=False).ravel()
        for ax in grid[len(slices) :]:
            ax.remove()
        axes = grid[: len(slices)].tolist()
    given = tuple(axes)
    if len(given) != len(slices):
        raise ValueError(f"axes: expected {len(slices)}, one a panel, found {len(given)}")
    for part, ax in zip(slices, given, strict=True):
        check_scale("xscale", xscale, part.edges[:1], "a first edge above 0")
        ax.set(xscale=xscale, xlim=(part.edges[0], part.edges[-1]))
        ax.tick_params(axis="x", which="both", pad=7.0)  # clear of the 0 of the other axis
        if part.title:
            ax.set_title(part.title, fontsize=10.5)
    return list(zip(slices, given, strict=True))


def _bands(spectrum: Spectrum, sources: Mapping[str, str]) -> list[tuple[str, Floats]]:
    """By source, the uncertainty (B,) of it and of those before it; sources that are nothing are left out."""
    total, found = np.zeros(spectrum.binning.size), []
    spectrum.uncertainty  # noqa: B018 - raises where there is none
    for name, covariance in spectrum.covariances.items():
        variance = np.diag(covariance)
        if (variance < 0).any():
            b = int(np.argmin(variance))
            raise ValueError(f"covariance of {name!r}: expected variances from 0, found {variance[b]:g} in bin {b}, as "
                             f"a regression on few throws may give; draw spectrum.positive()")  # fmt: skip
        total = total + variance
        if variance.any():
            found.append((sources.get(name, name.replace("_", " ")), np.sqrt(total)))
    if len(found) > len(_TEN):
        raise ValueError(f"sources: expected at most {len(_TEN)}, found {len(found)}; add up the covariances of those "
                         f"that belong together")  # fmt: skip
    return found


def _models(spectrum: Spectrum, models: Mapping[str, ArrayLike]) -> Iterator[tuple[str, Floats]]:
    """A_C times each model (B,), named with its chi-squared where the replicas are enough for one."""
    if len(models) > len(_LINES):
        raise ValueError(f"models: expected at most {len(_LINES)}, found {len(models)}")
    for name, given in models.items():
        model = numbers(f"model {name!r}", given, spectrum.binning.size, "bins")
        if not spectrum.enough_draws:
            yield rf"{name} (too few replicas for $\chi^2$)", spectrum.smear(model)
            continue
        chi2 = spectrum.chi2(model)
        yield rf"{name}, $\chi^2$ = {chi2.value:.1f}/{chi2.dof}", spectrum.smear(model)


def _one_slice(
    ax: Axes, part: _Slice, values: Floats, bands: Sequence[tuple[str, Floats]], lines: Sequence[tuple[str, Floats]],
    label: str,
) -> None:  # fmt: skip
    own = values[part.bins]
    for k, (name, sigma) in reversed(list(enumerate(bands))):
        reach = sigma[part.bins]
        ax.stairs(own + reach, part.edges, baseline=own - reach, fill=True, color=_band_colour(k, len(bands)),
                  linewidth=0, label=name)  # fmt: skip
    for (name, contents), (color, line) in reversed(list(zip(lines, _LINES, strict=False))):
        ax.stairs(
            contents[part.bins], part.edges, baseline=None, color=color, linestyle=line, linewidth=1.6, label=name
        )
    at = _middle(ax, part.edges)
    ax.errorbar(at, own, xerr=np.stack([at - part.edges[:-1], part.edges[1:] - at]), fmt="o", color="black",
                markersize=3.0, elinewidth=0.9, zorder=4, label=label)  # fmt: skip


def _middle(ax: Axes, edges: Floats) -> Floats:
    """The middle of bins as seen on the axis."""
    low, high = edges[:-1], edges[1:]
    return np.asarray(np.sqrt(low * high) if ax.get_xscale() == "log" else (low + high) / 2)


def _band_colour(k: int, count: int) -> Any:
    """From the darkest, inside, to the lightest."""
    if count > len(_BANDS):
        return matplotlib.colormaps["Blues_r"](0.15 + 0.75 * k / (count - 1))
    return _BANDS[k] if count > 1 else _BANDS[2]


def _finished(panels: Sequence[tuple[_Slice, Axes]], *, own: bool, rows: int) -> tuple[Axes, ...]:
    """Axes with a legend: above all panels of a figure of its own, else in the first."""
    axes = tuple(ax for _, ax in panels)
    handles, labels = axes[0].get_legend_handles_labels()
    shown = handles[::-1], labels[::-1]  # what is drawn last, on top, comes first
    for ax in axes:
        _from_zero(ax)
    if own and len(axes) > 1:
        for ax in axes:
            spot = ax.get_subplotspec()
            if spot is not None and not spot.is_first_col():
                ax.set_ylabel("")
        axes[0].figure.legend(*shown, loc="outside upper center", ncols=min(3, rows), columnspacing=1.4)
        return axes
    columns = 2 if rows > 3 else 1
    headroom(axes[0], rows=-(-rows // columns))
    axes[0].legend(*shown, loc="upper center" if columns == 2 else "upper right", ncols=columns, columnspacing=1.2)
    return axes


def _from_zero(ax: Axes) -> None:
    """A linear axis begins at 0 where nothing is below."""
    if ax.get_yscale() == "linear" and ax.dataLim.y0 >= 0:
        ax.set_ylim(0, 1.08 * ax.dataLim.y1)


@style()
def uncertainties(
    spectrum: Spectrum,
    *,
    xlabel: str = "",
    names: Mapping[str, str] | None = None,
    sources: Mapping[str, str] | None = None,
    xscale: Scale = "linear",
    axes: Sequence[Axes] | None = None,
) -> tuple[Axes, ...]:
    """Fractional uncertainties in each bin, by source, stacked in quadrature; the black line is the whole.

    Parameters
    ----------
    xlabel, names, sources, axes:
        As in `unfolded`.

    What a source adds is the part of its colour; its own uncertainty is the root of the difference of the squares.
    Bins that are 0 have none.

    Raises
    ------
    ValueError
        as `unfolded`.

    >>> from nuinfer.unfolding import Binning, Spectrum
    >>> each = {"data": np.diag([9.0, 9.0]), "flux": np.diag([16.0, 0.0])}
    >>> (ax,) = uncertainties(Spectrum(Binning("p", [0, 1, 3]), np.array([10.0, 10.0]), each))
    >>> [part.get_data().values.tolist() for part in ax.patches]
    [[0.3, 0.3], [0.5, 0.3], [0.5, 0.3]]
    """
    panels, bands = _panels(spectrum.binning, names, axes, xscale), _bands(spectrum, sources or {})
    size, colours = np.abs(spectrum.values), PALETTE if len(bands) <= len(PALETTE) else _TEN
    for part, ax in panels:
        below = np.zeros(part.bins.stop - part.bins.start)
        for k, (name, sigma) in enumerate(bands):
            share = divided(sigma, size)[part.bins]
            ax.stairs(
                share, part.edges, baseline=below, fill=True, color=colours[k], alpha=0.75, linewidth=0, label=name
            )
            below = share
        ax.stairs(below, part.edges, baseline=None, color="black", linewidth=1.4, label="total")
        ax.set(ylim=(0, 1.1 * np.nanmax(below)), ylabel="fractional uncertainty")
        ax.set_xlabel(xlabel or part.label)
    return _finished(panels, own=axes is None, rows=len(bands) + 1)


# -- checks and choices ------------------------------------------------------------------------------------------------


@style()
def bin_coverage(
    found: PseudoExperiments, *, xlabel: str = "", xscale: Scale = "linear", axes: Sequence[Axes] | None = None
) -> tuple[Axes, Axes]:
    r"""How often intervals of pseudo-experiments hold A_C times the truth, and the truth itself; below, bias / sigma.

    Bars are binomial; the band about the nominal level is what one standard deviation of so many toys is.

    Parameters
    ----------
    xlabel:
        The observable and its unit.
    axes:
        A pair of axes, (coverage, bias).

    Raises
    ------
    ValueError
        for a logarithmic axis without anything positive; ``TypeError`` for other than two axes.

    >>> from nuinfer.unfolding import Binning
    >>> from nuinfer.unfolding.checks import PseudoExperiments
    >>> u = np.random.default_rng(1).normal(10, 1, (500, 2))
    >>> t = np.full(2, 10.0)
    >>> toys = PseudoExperiments(Binning("p", [0, 1, 3]), t, u, 0 * u + t, 0 * u + 1, 0.6827)
    >>> main, lower = bin_coverage(toys, xlabel="p (GeV)")
    >>> [text.get_text() for text in main.get_legend().get_texts()]
    ['nominal, 68.27%', '$A_C\\,\\times$ truth', 'truth']
    """
    at = _range(found.binning, xlabel)
    check_scale("xscale", xscale, at.edges[:1], "a first edge above 0")
    main, lower = two_panels(axes, "axes")
    main.set_xscale(xscale)
    low, high = at.edges[:-1], at.edges[1:]
    x = _middle(main, at.edges)
    spread = np.sqrt(found.cl * (1 - found.cl) / len(found))
    main.axhspan(found.cl - spread, found.cl + spread, color=GREY, alpha=0.3, linewidth=0)
    main.axhline(found.cl, color=GREY, linestyle="--", linewidth=1.2, label=f"nominal, {percent(found.cl)}")
    look: Any = {"elinewidth": 1.1, "linestyle": "none", "xerr": np.stack([x - low, high - x])}
    each: list[tuple[Floats, dict[str, Any]]] = [
        (found.covered, {"color": "black", "marker": "o", "label": r"$A_C\,\times$ truth"}),
        (found.truth_covered, {"color": RED, "marker": "s", "markerfacecolor": "white", "label": "truth"}),
    ]
    for covered, own in each:
        main.errorbar(x, covered, found.error(covered), **look, **own)
    lower.axhline(0, color=GREY, linestyle="--", linewidth=1.2)
    lower.stairs(found.bias, at.edges, baseline=None, color=RED)
    reach = 1.2 * max(1.0, float(np.abs(found.bias).max()))
    lower.set(ylim=(-reach, reach), xlim=(at.edges[0], at.edges[-1]), xlabel=at.label, ylabel=r"bias / $\sigma$")
    main.set(xlim=lower.get_xlim(), ylabel="coverage")
    headroom(main, rows=1)
    main.legend(loc="upper center", ncols=3, columnspacing=1.2)
    return main, lower
