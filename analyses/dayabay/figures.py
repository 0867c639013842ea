r"""The pictures of the analysis: spectra, survival probability, regions, the uncertainty's sources, pulls.

Each function takes the model, fitted numbers or results of `nuinfer.intervals`, and returns the first axes of a figure
of its own (``axes.figure`` is the figure), with all that was drawn in it.

The survival probability is shown against an effective distance over energy.  In hall h and bin b of the data n are the
backgrounds B; the model expects N inverse beta decays at the fitted values, and :math:`N^0` without any oscillation,

.. math:: P_{hb} = \frac{n_{hb} - B_{hb}}{N^0_{hb}} \cdot \frac{P(x_{hb})}{N_{hb} / N^0_{hb}}, \qquad
          x_{hb} = L_h \langle 1/E \rangle_{hb}, \qquad
          L_h = \arg\min_L \sum_b \big[N^0_{hb}\, P(L \langle 1/E \rangle_{hb}) - N_{hb}\big]^2 / N_{hb}

where the mean of 1/E, of which the phase is a multiple, is over all antineutrinos that the response brings into the
bin.  The second factor brings an average over reactors, detectors and energies to one distance and one energy, as is
done for the middle of wide bins; it is between 0.995 and 1.0015.

Sources: Daya Bay Collaboration, arXiv 2211.14988, 1610.04802 (effective distance and energy; the papers' own
definitions differ in detail).
"""

from __future__ import annotations

import textwrap
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.gridspec import SubplotSpec
from matplotlib.ticker import FuncFormatter, MaxNLocator, NullLocator
from numpy.typing import ArrayLike, NDArray
from scipy import optimize
from torch import Tensor

from nuinfer import plots
from nuinfer.plots.figures import BLUE, GREY, ORANGE, PALETTE, one_panel, triangles

from .model import PHASE, Model
from .parameters import SITES, Group, Parameters, by_hall
from .release import DETECTOR_PERIODS, DETECTORS, PERIODS

if TYPE_CHECKING:
    from nuinfer.unfolding import Spectrum

    from .unfolding import Shape

Floats = NDArray[np.float64]
Pair = tuple[float, float]  # of the parameters of interest: sin^2 2 theta_13, Delta m^2_32

PUBLISHED: dict[str, Pair] = {"sin2_2theta13": (0.0851, 0.0024), "dm2_32": (2.466e-3, 0.060e-3)}  # 2211.14988
LABELS = {"sin2_2theta13": r"$\sin^2 2\theta_{13}$", "dm2_32": r"$\Delta m^2_{32}$ ($10^{-3}$ eV$^2$)"}
UNITS = {
    "sin2_2theta13": r"$\sin^2 2\theta_{13}$ ($10^{-3}$)",
    "dm2_32": r"$\Delta m^2_{32}$ ($10^{-5}$ eV$^2$)",
}  # of errors
SCALES = {"sin2_2theta13": 1.0, "dm2_32": 1e3}  # from the parameters' units to those of the labels
DIGITS = {"sin2_2theta13": 3, "dm2_32": 2}
LEVELS = (0.6827, 0.9545, 0.9973)
WIDTH = 7.2  # inches: a page's
MARKERS = ("o", "s", "D")
ENERGY = "prompt energy (MeV)"


# -- spectra ---------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, eq=False)
class _Panel:
    """Counts (26,) of a detector-period or of a hall, in bins with ``edges`` (27,)."""

    edges: Floats
    data: Floats
    prediction: Floats
    background: Floats
    unoscillated: Floats | None = None

    @property
    def width(self) -> Floats:
        return np.diff(self.edges)

    @property
    def reference(self) -> Floats:
        return self.prediction if self.unoscillated is None else self.unoscillated


@plots.style()
def spectra(model: Model, prediction: ArrayLike, background: ArrayLike) -> Axes:
    """Data, prediction and background of the 21 detector-periods, and below each the ratio of data to prediction.

    Rows are detectors, columns periods.  ``prediction`` (546,) holds everything, ``background`` (546,) its part that
    is filled.  Error bars are statistical.  Ratios beyond a panel are triangles at its edge.
    """
    counts = [_counts(a, model) for a in (model.observed, prediction, background)]
    figure = _figure(WIDTH, 10.6)
    grid = figure.add_gridspec(len(DETECTORS), len(PERIODS), left=0.085, right=0.99, bottom=0.044, top=0.992,
                               hspace=0.12, wspace=0.2)  # fmt: skip
    drawn = []
    for (detector, period), *own in zip(DETECTOR_PERIODS, *counts, strict=True):
        row, column = DETECTORS.index(detector), PERIODS.index(period)
        panel = _Panel(model.release.edges, *own)
        main, ratio = _pair(figure, grid[row, column], (1.9, 1))
        _draw_spectrum(main, panel, f"{_place(detector)}, {period}", 8.5)
        _draw_ratio(ratio, panel, 0.12 if detector in SITES["EH3"] else 0.06)
        _small(main, ratio)
        below = row + 1 == len(DETECTORS) or (period, DETECTORS[row + 1]) in _absent()
        ratio.tick_params(labelbottom=below)
        drawn.append(main)
    _outer_labels(figure, "events ($10^3$ / MeV) and ratio of data to prediction")
    _legend_in(figure, grid[DETECTORS.index("AD22"), 0], drawn[0])
    return drawn[0]


@plots.style()
def halls(model: Model, prediction: ArrayLike, background: ArrayLike, *, unoscillated: ArrayLike | None = None) -> Axes:
    """The same of the three halls, detectors and periods summed.

    With the expectation ``unoscillated`` (546,), backgrounds included, the ratio is to that: the fitted line in it is
    what the oscillation takes away.
    """
    given = [model.observed, prediction, background, *([] if unoscillated is None else [unoscillated])]
    counts = [by_hall(_counts(a, model)) for a in given]
    figure = _figure(WIDTH, 3.5)
    grid = figure.add_gridspec(1, len(SITES), left=0.085, right=0.99, bottom=0.13, top=0.97, wspace=0.22)
    drawn = []
    for column, (hall, own) in enumerate(zip(SITES, zip(*counts, strict=True), strict=True)):
        panel = _Panel(model.release.edges, *own)
        main, ratio = _pair(figure, grid[0, column], (2, 1))
        _draw_spectrum(main, panel, hall, 11)
        _draw_ratio(ratio, panel, 0.12 if unoscillated is not None else 0.04)
        _small(main, ratio, 9)
        drawn.append(main)
    what = "prediction" if unoscillated is None else "no oscillation"
    drawn[0].set_ylabel("events ($10^3$ / MeV)", fontsize=10, loc="center")
    drawn[0].figure.axes[1].set_ylabel(f"ratio to\n{what}", fontsize=9, loc="center")
    figure.align_ylabels([drawn[0], figure.axes[1]])
    figure.supxlabel(ENERGY, fontsize=11, y=0.01)
    drawn[0].legend(*_ordered(drawn[0]), loc="upper right", fontsize=9, bbox_to_anchor=(1, 0.88))
    return drawn[0]


def _counts(given: Any, model: Model) -> Floats:
    """Counts (21, 26), whatever shape they come in."""
    array = np.asarray(given, np.float64)
    shape = len(DETECTOR_PERIODS), len(model.release.edges) - 1
    if array.size != shape[0] * shape[1]:
        raise ValueError(f"expected {shape[0]} x {shape[1]} counts, detector-periods by bins, found {array.shape}")
    return array.reshape(shape)


def _draw_spectrum(main: Axes, panel: _Panel, title: str, size: float) -> None:
    per = 1e-3 / panel.width
    if panel.unoscillated is not None:
        main.stairs(panel.unoscillated * per, panel.edges, color=GREY, linestyle="--", linewidth=1, baseline=None,
                    label="no oscillation")  # fmt: skip
    main.stairs(panel.background * per, panel.edges, fill=True, color=ORANGE, linewidth=0, label="background")
    main.stairs(panel.prediction * per, panel.edges, color=BLUE, linewidth=1.1, baseline=None, label="best fit")
    _draw_points(main, panel, per)
    main.text(0.96, 0.92, title, transform=main.transAxes, ha="right", va="top", fontsize=size)
    main.set_ylim(0, 1.15 * float((np.maximum(panel.data, panel.reference) * per).max()))
    main.yaxis.set_major_locator(MaxNLocator(4, steps=[1, 2, 2.5, 5, 10], prune="lower"))


def _draw_ratio(ratio: Axes, panel: _Panel, span: float) -> None:
    reference = panel.reference
    if panel.unoscillated is None:
        ratio.axhline(1, color=BLUE, linewidth=1.1)
    else:
        ratio.axhline(1, color=GREY, linestyle="--", linewidth=1)
        ratio.stairs(panel.prediction / reference, panel.edges, color=BLUE, linewidth=1.1, baseline=None)
    _draw_points(ratio, panel, 1 / reference)
    triangles(ratio, (panel.edges[1:] + panel.edges[:-1]) / 2, panel.data / reference, span)
    for line in ratio.lines:
        if line.get_marker() in ("^", "v"):
            line.set_markersize(3.5)
    ratio.set_ylim(1 - span, 1 + span)
    ratio.yaxis.set_major_locator(MaxNLocator(4, steps=[1, 2, 5, 10], prune="both"))


def _draw_points(ax: Axes, panel: _Panel, factor: Floats) -> None:
    """Data times a factor, with the roots of counts as errors."""
    middle = (panel.edges[1:] + panel.edges[:-1]) / 2
    ax.errorbar(middle, panel.data * factor, np.sqrt(panel.data) * factor, fmt="o", color="black", markersize=1.8,
                elinewidth=0.7, label="data", zorder=4)  # fmt: skip


def _pair(figure: Figure, place: SubplotSpec, heights: Sequence[float]) -> tuple[Axes, Axes]:
    """A panel and a lower one that share an axis."""
    inner = place.subgridspec(2, 1, height_ratios=heights, hspace=0)
    main = figure.add_subplot(inner[0])
    ratio = figure.add_subplot(inner[1], sharex=main)
    main.tick_params(labelbottom=False)
    return main, ratio


def _small(main: Axes, ratio: Axes, size: float = 7.5) -> None:
    """Ticks of a small panel."""
    main.set_xlim(0.5, 12.2)
    main.xaxis.set_major_locator(MaxNLocator(6, steps=[2], prune="upper"))
    for ax in (main, ratio):
        ax.tick_params(which="both", labelsize=size, pad=2.5)
        ax.tick_params(which="major", length=3.5)
        ax.tick_params(which="minor", length=2)
        ax.yaxis.set_minor_locator(NullLocator())
        ax.grid(False)


def _outer_labels(figure: Figure, ylabel: str) -> None:
    figure.supxlabel(ENERGY, fontsize=11, y=0.006)
    figure.supylabel(ylabel, fontsize=11, x=0.008)


def _legend_in(figure: Figure, place: SubplotSpec, of: Axes) -> None:
    """A legend where a detector was not there."""
    blank = figure.add_subplot(place)
    blank.axis("off")
    blank.legend(*_ordered(of), loc="center", fontsize=10)


def _ordered(of: Axes) -> tuple[list[Any], list[str]]:
    """The entries of a legend, data first."""
    handles, labels = of.get_legend_handles_labels()
    order = sorted(
        range(len(labels)), key=lambda i: ("data", "best fit", "no oscillation", "background").index(labels[i])
    )
    return [handles[i] for i in order], [labels[i] for i in order]


def _absent() -> set[tuple[str, str]]:
    return {(p, d) for d in DETECTORS for p in PERIODS} - {(p, d) for d, p in DETECTOR_PERIODS}


def _place(detector: str) -> str:
    """AD31 as the papers write it: EH3-AD1."""
    return f"EH{detector[2]}-AD{detector[3]}"


# -- the survival probability ----------------------------------------------------------------------------------------


@dataclass(frozen=True, eq=False)
class Survival:
    """What each hall and bin says of the survival probability; arrays (3, 26) by hall and bin.

    Attributes
    ----------
    distance:
        (3,) effective distances in metres.
    ratio:
        Of them and the antineutrinos' energies, in km / MeV.
    observed, error:
        (n - B) / N0 with its statistical error.
    expected:
        N / N0, what the model expects of it.
    correction:
        What brings either to the single distance and energy.
    """

    distance: Floats
    ratio: Floats
    observed: Floats
    error: Floats
    expected: Floats
    correction: Floats


def survival(model: Model, values: Mapping[str, float]) -> Survival:
    """The survival probability of the data, at the spectrum, nuisances and backgrounds of ``values``.

    Raises
    ------
    KeyError, ValueError
        for parameters that the model does not know, or out of its range.
    """
    here, none = (_tensors(model, v) for v in (values, {**values, "sin2_2theta13": 0.0, "sin2_2theta12": 0.0}))
    with torch.no_grad():
        signals = [model.signal(v).numpy() for v in (here, none)]
        background, inverse = model.background(here).numpy(), _inverse_energy(model, none)
    data = _counts(model.observed, model)
    seen, counts, expected, total = (by_hall(a) for a in (data - background, data, *signals))
    distance = np.array([_distance(model, values, *own) for own in zip(inverse, total, expected, strict=True)])
    ratio = 1e-3 * distance[:, None] * inverse
    correction = probability(ratio, model, values) * total / expected
    return Survival(distance, ratio, seen / total, np.sqrt(counts) / total, expected / total, correction)


def probability(ratio: ArrayLike, model: Model, values: Mapping[str, float]) -> Floats:
    r"""P (*,) of electron antineutrinos at distance over energy (*,) in km / MeV, three flavours in vacuum.

    .. math:: P = 1 - \sin^2 2\theta_{12} \cos^4\theta_{13} \sin^2\phi_{21}
              - \sin^2 2\theta_{13} (\cos^2\theta_{12} \sin^2\phi_{31} + \sin^2\theta_{12} \sin^2\phi_{32})
    """
    names = ("sin2_2theta13", "dm2_32", "dm2_21", "sin2_2theta12")
    big, dm32, dm21, solar = (values.get(name, model.parameters.value(name)) for name in names)
    dm32 *= model.ordering
    at = 1e3 * PHASE * np.asarray(ratio, np.float64)
    cos4, sin2 = ((1 + np.sqrt(1 - big)) / 2) ** 2, (1 - np.sqrt(1 - solar)) / 2
    fast = (1 - sin2) * np.sin((dm32 + dm21) * at) ** 2 + sin2 * np.sin(dm32 * at) ** 2
    return np.asarray(1 - solar * cos4 * np.sin(dm21 * at) ** 2 - big * fast)


@plots.style()
def far_near(model: Model, values: Mapping[str, float]) -> Axes:
    """The survival probability of the three halls against effective distance over energy, and the fitted curve.

    `survival` has the numbers; errors are statistical.  The near halls say what the reactors emit, the far one what is
    left of it.
    """
    found = survival(model, values)
    ax = one_panel(None)
    fine = np.linspace(0, 1.05 * float(found.ratio.max()), 400)
    ax.plot(fine, probability(fine, model, values), color="black", linewidth=1.2, label="best fit", zorder=2)
    y, error = found.observed * found.correction, found.error * found.correction
    for i, (hall, color, marker) in enumerate(zip(SITES, PALETTE, MARKERS, strict=False)):
        ax.errorbar(found.ratio[i], y[i], error[i], fmt=marker, color=color, markersize=3.3, elinewidth=1, label=hall,
                    zorder=3)  # fmt: skip
    ax.set(xlim=(0, fine[-1]), ylim=(0.895, 1.03), ylabel=r"$P(\bar\nu_e \rightarrow \bar\nu_e)$")
    ax.set_xlabel(r"$L_\mathrm{eff}\, \langle 1 / E_\nu \rangle$ (km / MeV)")
    handles, labels = ax.get_legend_handles_labels()
    ax.legend(handles[1:] + handles[:1], labels[1:] + labels[:1], loc="upper right")
    return ax


def _tensors(model: Model, values: Mapping[str, float]) -> dict[str, Tensor]:
    return model.values(torch.tensor([float(v) for v in values.values()], dtype=torch.float64), tuple(values))


def _inverse_energy(model: Model, none: Mapping[str, Tensor]) -> Floats:
    """The mean of 1/E (3, 26) of the antineutrinos in the bins of each hall, without oscillation and spent fuel."""
    inverse = model.argument[0, 0] / (PHASE * model.release.baseline[0, 0])  # (2, C)
    spectra = model.spectra(none)
    cells = torch.stack([(spectra * weight).sum(-2) for weight in (torch.ones_like(inverse), inverse)])  # (2, 6, C)
    bins = cells[..., :240].index_add(-1, model.extra, cells[..., 240:])
    seen = model.detector.detected(model.exposure @ bins[:, None], none)  # (2, 8, 3, 26)
    total, moment = (by_hall(a.flatten(0, 1)[model.at].numpy()) for a in seen)
    return np.asarray(moment / total)


def _distance(model: Model, values: Mapping[str, float], inverse: Floats, total: Floats, expected: Floats) -> float:
    """The single distance in metres that comes nearest to the expected counts (26,) of a hall."""

    def difference(distance: float) -> float:
        at = probability(1e-3 * distance * inverse, model, values)
        return float(np.sum((total * at - expected) ** 2 / expected))

    baselines = model.release.baseline
    return float(optimize.minimize_scalar(difference, bounds=(baselines.min(), baselines.max()), method="bounded").x)


# -- regions and profiles --------------------------------------------------------------------------------------------


@plots.style()
def contour(found: Any, curves: Mapping[str, Any], *, published: Mapping[str, Pair] = PUBLISHED) -> Axes:
    """Regions of the two parameters with best fit and published result, and their profiles beside the axes.

    ``found`` is a `nuinfer.intervals.Contour` with the levels of `LEVELS`, ``curves`` has a
    `nuinfer.intervals.Profile` by parameter, ``published`` a value and its error by parameter.
    """
    figure = _figure(5.4, 5.2)
    grid = figure.add_gridspec(2, 2, width_ratios=(2.8, 1), height_ratios=(1, 2.8), left=0.145, right=0.975,
                               bottom=0.12, top=0.975, hspace=0.05, wspace=0.05)  # fmt: skip
    main = plots.contour(found, cls=LEVELS, labels=LABELS, ax=figure.add_subplot(grid[1, 0]))
    main.legend([], []).remove()  # it goes to the corner
    (x, dx), (y, dy) = (published[name] for name in found.names)
    main.errorbar([x], [y], [dy], [dx], fmt="s", color="black", markersize=4, elinewidth=1.1, capsize=2,
                  label="published", zorder=3)  # fmt: skip
    lines = np.concatenate(found.curves(LEVELS[-1]))
    for axis, at in zip("xy", lines.T, strict=True):
        margin = 0.06 * float(np.ptp(at))
        getattr(main, f"set_{axis}lim")(float(at.min()) - margin, float(at.max()) + margin)
    _scaled_ticks(main, found.names)
    top, side = figure.add_subplot(grid[0, 0], sharex=main), figure.add_subplot(grid[1, 1], sharey=main)
    for ax, name, turned in ((top, found.names[0], False), (side, found.names[1], True)):
        _draw_profile(ax, curves[name], published[name], turned)
    _levels_legend(figure.add_subplot(grid[0, 1]), main)
    return main


@plots.style()
def profiles(curves: Mapping[str, Mapping[str, Any]], *, published: Mapping[str, Pair] = PUBLISHED) -> Axes:
    """Profiles of both parameters by answer, ``{"sin2_2theta13": {"covariance": profile, ...}, ...}``.

    The band is the published 68% interval.
    """
    figure = _figure(WIDTH, 3.9)
    figure.set_layout_engine("constrained")
    panels = figure.subplots(1, len(curves), squeeze=False)[0]
    for ax, (name, answers) in zip(panels, curves.items(), strict=True):
        value, error = np.multiply(published[name], SCALES[name])
        ax.axvspan(value - error, value + error, color=GREY, alpha=0.2, linewidth=0, label="published")
        shown = {label: _in_units(profile) for label, profile in answers.items()}
        plots.profile(shown, cls=(0.68, 0.95), label=LABELS[name], ax=ax)
        ax.xaxis.set_major_locator(MaxNLocator(4))
    first: Axes = panels[0]
    return first


def _in_units(profile: Any) -> Any:
    """The same profile in the units of its label."""
    scale = SCALES[profile.name]
    at = profile.names.index(profile.name)
    parameters = profile.parameters.copy()
    parameters[..., at] *= scale
    low, high = profile.limits
    return replace(
        profile, grid=profile.grid * scale, slopes=profile.slopes / scale, parameters=parameters,
        best={**profile.best, profile.name: profile.best[profile.name] * scale}, limits=(low * scale, high * scale),
    )  # fmt: skip


def _draw_profile(ax: Axes, profile: Any, published: Pair, turned: bool) -> None:
    """t along an axis of the main panel, with the lines of 1, 2, 3 standard deviations."""
    fine = np.linspace(profile.grid[0], profile.grid[-1], 301)
    line = (profile(fine), fine) if turned else (fine, profile(fine))
    ax.plot(*line, color=BLUE, linewidth=1.6)
    value, error = published
    (ax.axhspan if turned else ax.axvspan)(value - error, value + error, color=GREY, alpha=0.2, linewidth=0)
    label = r"$-2\,\Delta \log L$"
    for n in (1, 2, 3):
        (ax.axvline if turned else ax.axhline)(n**2, color=GREY, linestyle=":", linewidth=1)
    if turned:
        ax.set(xlim=(0, 11), xticks=[1, 4, 9])
        ax.set_xlabel(label, fontsize=11)
    else:
        ax.set(ylim=(0, 11), yticks=[1, 4, 9])
        ax.set_ylabel(label, fontsize=11)
    ax.tick_params(labelleft=not turned, labelbottom=turned)
    (ax.xaxis if turned else ax.yaxis).set_minor_locator(NullLocator())


def _scaled_ticks(ax: Axes, names: Sequence[str]) -> None:
    for axis, name in zip((ax.xaxis, ax.yaxis), names, strict=True):
        axis.set_major_locator(MaxNLocator(5))
        axis.set_major_formatter(
            FuncFormatter(lambda v, _, scale=SCALES[name], digits=DIGITS[name]: f"{v * scale:.{digits}f}")
        )


def _levels_legend(corner: Axes, main: Axes) -> None:
    corner.axis("off")
    corner.legend(*main.get_legend_handles_labels(), loc="center", fontsize=9, handlelength=1.6, borderaxespad=0)


# -- answers by several methods --------------------------------------------------------------------------------------


@dataclass(frozen=True, eq=False)
class Answer:
    """What one method says of both parameters: values, errors, and lines (M, 2) around regions of both, by level."""

    title: str
    value: Pair
    error: Pair
    lines: Mapping[float, Sequence[Floats]]

    @classmethod
    def gaussian(cls, title: str, value: Pair, covariance: ArrayLike, levels: Sequence[float] = LEVELS[:2]) -> Answer:
        """The ellipses of a covariance (2, 2)."""
        factor, turn = np.linalg.cholesky(np.asarray(covariance, np.float64)), np.linspace(0, 2 * np.pi, 121)
        circle = np.stack([np.cos(turn), np.sin(turn)])
        lines = {level: [np.asarray(value) + (np.sqrt(-2 * np.log(1 - level)) * factor @ circle).T] for level in levels}
        return cls(title, value, (float(factor[0, 0]), float(np.hypot(*factor[1]))), lines)


@plots.style()
def answers(found: Sequence[Answer], *, published: Mapping[str, Pair] = PUBLISHED) -> Axes:
    """Regions of both parameters by each method, and values with errors below, which name the colours.

    Of a method's levels all but the lowest are dashed; the first method is filled, the published values are a band.

    Raises
    ------
    ValueError
        for no answer, or more than there are colours.
    """
    if not 1 <= len(found) <= len(PALETTE):
        raise ValueError(f"answers: expected 1 to {len(PALETTE)}, found {len(found)}")
    height = 5.3 + 0.24 * len(found)
    figure, split = _figure(WIDTH, height), (1.3 + 0.24 * len(found)) / height
    main = figure.add_axes((0.125, split + 0.085, 0.85, 0.9 - split))
    for answer, color in zip(found, PALETTE, strict=False):
        _draw_answer(main, answer, color, filled=answer is found[0])
    (x, dx), (y, dy) = (published[name] for name in LABELS)
    main.errorbar([x], [y], [dy], [dx], fmt="s", color="black", markersize=4, elinewidth=1.1, capsize=2, zorder=4)
    main.set(xlabel=LABELS["sin2_2theta13"], ylabel=LABELS["dm2_32"])
    _scaled_ticks(main, tuple(LABELS))
    for i, name in enumerate(LABELS):
        ax = figure.add_axes((0.29 + 0.35 * i, 0.6 / height, 0.335, split - 0.65 / height))
        rows = [*((a.title, a.value[i], a.error[i]) for a in found), ("published", *published[name])]
        _draw_values(ax, rows, name, [*PALETTE[: len(found)], "black"])
        ax.tick_params(labelleft=i == 0)
    return main


def _draw_answer(ax: Axes, answer: Answer, color: str, *, filled: bool) -> None:
    """Lines around the regions of a method and a point at its value."""
    inner = min(answer.lines)
    for level, lines in answer.lines.items():
        for line in lines:
            ax.plot(*line.T, color=color, linewidth=1.4, linestyle="-" if level == inner else "--")
            if filled and level == inner:
                ax.fill(*line.T, color=color, alpha=0.15, linewidth=0)
    ax.plot(*answer.value, marker="o", color=color, markersize=4)


def _draw_values(ax: Axes, rows: Sequence[tuple[str, float, float]], name: str, colors: Sequence[str]) -> None:
    """One parameter by each method, with errors; the last row is a band too."""
    value, error = np.multiply(rows[-1][1:], SCALES[name])
    ax.axvspan(value - error, value + error, color=GREY, alpha=0.2, linewidth=0)
    for k, ((_, at, half), color) in enumerate(zip(rows, colors, strict=True)):
        ax.errorbar([at * SCALES[name]], [k], xerr=[half * SCALES[name]], fmt="s" if color == "black" else "o",
                    color=color, markersize=4, elinewidth=1.4, capsize=2)  # fmt: skip
    ax.set_yticks(np.arange(len(rows)), [title for title, _, _ in rows])
    ax.set(ylim=(len(rows) - 0.4, -0.6), xlim=(value - 1.8 * error, value + 1.8 * error))
    ax.set_xlabel(LABELS[name], fontsize=11)
    ax.xaxis.set_major_locator(MaxNLocator(4))
    ax.yaxis.set_minor_locator(NullLocator())
    ax.tick_params(axis="y", which="both", length=0, labelsize=9)
    ax.tick_params(axis="x", labelsize=9)


# -- sources of the uncertainty --------------------------------------------------------------------------------------


TYPESET = {"lithium_helium": r"$^9$Li and $^8$He", "alpha_neutron": r"$^{13}$C($\alpha$, n)$^{16}$O"}


@plots.style()
def budget(parameters: Parameters, parts: Mapping[str, Pair], *, statistical: Pair, total: Pair) -> Axes:
    """The uncertainty of both parameters by groups of systematics.

    ``parts`` has by group what the total loses in quadrature without it, ``statistical`` is what remains without all.
    Groups are in the order of their larger share; numbers are per cent of the variance.
    """
    unknown = [name for name in parts if name not in parameters.groups]
    if unknown:
        raise KeyError(f"no group {unknown[0]!r}; expected some of {', '.join(parameters.groups)}")
    order = sorted(parts, key=lambda name: -max(np.divide(parts[name], total)))
    titles = ["statistical", *(_typeset(parameters.groups[name]) for name in order), "total"]
    sizes = np.array([statistical, *(parts[name] for name in order), total], np.float64)
    figure = _figure(WIDTH, 1.0 + 0.235 * len(titles))
    figure.set_layout_engine("constrained")
    panels = figure.subplots(1, 2, sharey=True)
    for ax, size, name in zip(panels, sizes.T * [[1e3], [1e5]], UNITS, strict=True):
        _draw_parts(ax, size, name)
    panels[0].set_yticks(np.arange(len(titles)), titles)
    panels[0].set_ylim(len(titles) - 0.4, -0.6)
    first: Axes = panels[0]
    return first


def _typeset(group: Group) -> str:
    """A group's title as it is printed."""
    return TYPESET.get(group.name, group.title)


def _draw_parts(ax: Axes, sizes: Floats, name: str) -> None:
    at = np.arange(len(sizes))
    ax.barh(at, sizes, 0.66, color=[ORANGE, *[BLUE] * (len(sizes) - 2), GREY])
    for row, size in enumerate(sizes.tolist()):
        share = 100 * (size / float(sizes[-1])) ** 2
        text = f"{share:.0f}%" if share >= 0.95 else f"{share:.1f}%" if share >= 0.05 else "< 0.1%"
        ax.text(size + 0.015 * float(sizes.max()), row, text, va="center", fontsize=8.5)
    ax.set_xlim(0, 1.22 * float(sizes.max()))
    ax.set_xlabel(rf"$\sigma$ of {UNITS[name]}", fontsize=11.5)
    ax.xaxis.set_major_locator(MaxNLocator(5, steps=[1, 2, 5, 10]))
    ax.yaxis.set_minor_locator(NullLocator())
    ax.tick_params(axis="y", which="both", length=0, labelsize=9.5)
    ax.tick_params(axis="x", labelsize=9.5)


# -- pulls -----------------------------------------------------------------------------------------------------------

ROW = 56  # parameters side by side
NARROWEST = 8  # a panel, in parameters: room for its title
SHORT = {"dm2_21": r"$\Delta m^2_{21}$", "sin2_2theta12": r"$\sin^2 2\theta_{12}$", "amc": "rate",
         "spectrum_correlated": "scale", "energy_scale": "scale", "efficiency": "eff."}  # fmt: skip


@dataclass(frozen=True, eq=False)
class _Pulls:
    """Of a group's n parameters: labels, pulls (n,) and post-fit errors (n,), both in standard deviations."""

    title: str
    labels: list[str]
    pulls: Floats
    errors: Floats

    @property
    def width(self) -> int:
        return max(len(self.labels), NARROWEST)


@plots.style()
def pulls(model: Model, values: Mapping[str, float], errors: Mapping[str, float]) -> Axes:
    """Pulls of all constrained parameters that were fitted, a panel for each group, with their post-fit errors.

    Points are (fitted - nominal) / prior width, bars the fitted error over the same; the band is the prior.  Directions
    of the antineutrino spectra, ``spectrum_mode.*`` of `analyses.dayabay.fits`, are a group of their own.  Free
    parameters have no pull and are passed over.

    Raises
    ------
    KeyError, ValueError
        for a value without an error, or no constrained parameter among the values.
    """
    lacking = [name for name in values if name not in errors]
    if lacking:
        raise KeyError(f"no error of {lacking[0]!r}: expected one for each of the {len(values)} fitted values")
    groups = [*(_pulls_of(g, values, errors) for g in model.parameters.constrained), _modes(values, errors)]
    rows = _rows([g for g in groups if g.labels])
    if not rows:
        raise ValueError("expected values of at least one constrained parameter, found none")
    figure = _figure(WIDTH, 1.95 * len(rows) + 0.1)
    figure.set_layout_engine("constrained", h_pad=0.05, w_pad=0.02)
    seen = [part for row in rows for g in row for part in (g.pulls - g.errors, g.pulls + g.errors)]
    reach = max(2.0, 1.08 * float(np.abs(np.concatenate(seen)).max()))
    grid, panels = figure.add_gridspec(len(rows), 1), []
    for place, row in enumerate(rows):
        inner = grid[place].subgridspec(1, len(row), width_ratios=[g.width for g in row])
        for i, g in enumerate(row):
            ax = figure.add_subplot(inner[i])
            _draw_pulls(ax, g, reach, labelled=i == 0)
            panels.append(ax)
    return panels[0]


def _pulls_of(group: Group, values: Mapping[str, float], errors: Mapping[str, float]) -> _Pulls:
    fitted = [i for i, name in enumerate(group.names) if name in values]
    at, error = (np.array([source[group.names[i]] for i in fitted]) for source in (values, errors))
    sigma = group.sigma[fitted]
    labels = [_short(group.names[i], group.name) for i in fitted]
    return _Pulls(_typeset(group), labels, (at - group.value[fitted]) / sigma, error / sigma)


def _modes(values: Mapping[str, float], errors: Mapping[str, float]) -> _Pulls:
    names = [name for name in values if name.startswith("spectrum_mode.")]
    labels = [name.removeprefix("spectrum_mode.") for name in names]
    at, error = (np.array([source[name] for name in names]) for source in (values, errors))
    return _Pulls("Huber-Mueller spectra, directions", labels, at, error)


def _short(name: str, group: str) -> str:
    """A parameter's name without that of its group."""
    parts = name.removeprefix(f"{group}.").split(".")
    return " ".join(SHORT.get(part, part) for part in parts)


def _rows(groups: Sequence[_Pulls]) -> list[list[_Pulls]]:
    """Groups in their order, as many in a row as have room."""
    rows: list[list[_Pulls]] = []
    for g in groups:
        if rows and sum(other.width for other in rows[-1]) + g.width <= ROW:
            rows[-1].append(g)
        else:
            rows.append([g])
    return rows


def _draw_pulls(ax: Axes, found: _Pulls, reach: float, *, labelled: bool) -> None:
    at = np.arange(len(found.labels))
    ax.axhspan(-1, 1, color=GREY, alpha=0.18, linewidth=0)
    ax.axhline(0, color=GREY, linewidth=0.8)
    ax.errorbar(at, found.pulls, found.errors, fmt="o", color="black", markersize=2.5, elinewidth=0.9, zorder=3)
    margin = (found.width - len(at)) / 2 + 0.5
    ax.set(xlim=(-margin, len(at) - 1 + margin), ylim=(-reach, reach))
    ax.set_xticks(at, found.labels, rotation=90, fontsize=6.5)
    ax.xaxis.set_minor_locator(NullLocator())
    ax.yaxis.set_major_locator(MaxNLocator(5, integer=True))
    ax.tick_params(axis="x", which="both", length=0, pad=2)
    ax.tick_params(axis="y", labelsize=8, labelleft=labelled, length=3, pad=2)
    ax.tick_params(axis="y", which="minor", length=0)
    ax.set_title(
        "\n".join(textwrap.wrap(found.title, int(2.3 * found.width), break_long_words=False)), fontsize=7.5, pad=3
    )
    if labelled:
        ax.set_ylabel("pull", fontsize=9, loc="center", labelpad=2)


# -- unfolded --------------------------------------------------------------------------------------------------------


@plots.style()
def unfolded(
    spectra: Mapping[str, Spectrum], shapes: Mapping[str, Shape], reference: Floats, events: Spectrum | None = None
) -> Axes:  # fmt: skip
    """Unfolded spectra in interactions an MeV over the antineutrino's energy; below, their shape over a prediction's.

    ``spectra`` have an A_C, through which the ``reference`` (T,) is drawn; ``shapes`` are their comparisons, in the
    same order; ``events``, of OmniFold, without one, are compared with the reference itself, and have no errors.  The
    band is the prediction's uncertainty, that of the last of the shapes.  The last bin is drawn up to 9 MeV only.
    """
    figure = _figure(WIDTH, 5.2)
    grid = figure.add_gridspec(1, 1, left=0.1, right=0.985, bottom=0.1, top=0.985)
    main, ratio = _pair(figure, grid[0, 0], (1.5, 1))
    edges = next(iter(spectra.values())).edges[0]
    shown = np.append(edges[:-1], 9.0)
    middle, width = (shown[1:] + shown[:-1]) / 2, np.diff(shown)
    for i, (name, spectrum) in enumerate(spectra.items()):
        style: dict[str, Any] = {"color": PALETTE[i], "fmt": MARKERS[i], "markersize": 3.3, "elinewidth": 1}
        at, scale = middle + (i - 0.5) * 0.18 * width, 1e-6 / np.diff(edges)
        main.stairs(spectrum.smear(reference) * scale, shown, color=PALETTE[i], linewidth=1,
                    label=rf"$A_C \times$ Huber-Mueller, {name}")  # fmt: skip
        main.errorbar(at, spectrum.values * scale, spectrum.uncertainty * scale, label=name, **style)
        ratio.errorbar(at, shapes[name].ratio, shapes[name].error, **style)
    if events is not None:
        share = events.values / events.values.sum() / (reference / reference.sum())
        main.plot(middle, events.values * 1e-6 / np.diff(edges), "x", color="black", markersize=4, label="OmniFold")
        ratio.plot(middle, share, "x", color="black", markersize=4, zorder=4)
    band = list(shapes.values())[-1].model_error
    ratio.stairs(1 + band, shown, baseline=1 - band, fill=True, color=GREY, alpha=0.25, linewidth=0)
    ratio.axhline(1, color=GREY, linewidth=0.8)
    ratio.set(xlim=(shown[0], shown[-1]), ylim=(0.55, 1.25), xlabel="antineutrino energy (MeV)", ylabel="shape ratio")
    main.set(xlim=(shown[0], shown[-1]), ylim=(0, None), ylabel="interactions ($10^6$ / MeV)")
    main.legend(loc="upper right")
    return main


def _figure(width: float, height: float) -> Figure:
    """An empty figure in inches, which a notebook can show, and whose layout is given."""
    figure = one_panel(None).get_figure(root=True)
    if figure is None:
        raise RuntimeError("expected new axes to be in a figure")
    figure.clear()
    figure.set_size_inches(width, height)
    figure.set_layout_engine("none")
    return figure
