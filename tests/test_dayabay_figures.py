"""The pictures of the Daya Bay analysis: what is drawn are the numbers given; the survival probability is the model's.

Truths: sums by loops over detector-periods; the oscillation formula of the model at its own baselines; reactors that
are all at one distance, which is then the effective one; exact Gaussian likelihoods.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import replace
from typing import Any, Literal

import matplotlib
import numpy as np
import pytest
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from numpy.typing import NDArray

from nuinfer import intervals, plots
from nuinfer.likelihood import Normal

pytest.importorskip("dayabay_data_official")

from analyses.dayabay import covariance, figures, fits
from analyses.dayabay.model import PHASE, Model
from analyses.dayabay.release import DETECTOR_PERIODS

Floats = NDArray[np.float64]
CENTRE, SIGMA, RHO = (0.085, 2.5e-3), (0.0025, 0.06e-3), -0.3


@pytest.fixture(scope="module")
def model() -> Model:
    return Model()


@pytest.fixture(scope="module")
def best(model: Model) -> dict[str, float]:
    cost = fits.covariance_cost(model, covariance.systematic(model))
    return intervals.fit(cost, model.parameters.values(fits.free_names(model))).values


@pytest.fixture(scope="module")
def counts() -> tuple[Floats, Floats, Floats]:
    """A prediction, its background and an expectation without oscillation, unlike any other."""
    rng = np.random.default_rng(1)
    prediction = rng.uniform(1e3, 3e3, 546)
    return prediction, prediction * rng.uniform(0.1, 0.3, 546), prediction * rng.uniform(1.0, 1.1, 546)


@pytest.fixture(scope="module")
def gaussian() -> tuple[Any, dict[str, Any]]:
    """A contour and profiles of two normal parameters."""
    matrix = np.diag(SIGMA) @ np.array([[1, RHO], [RHO, 1]]) @ np.diag(SIGMA)
    cost = Normal(list(fits.INTEREST), CENTRE, covariance=matrix)
    found = intervals.contour(cost, *fits.INTEREST, cls=figures.LEVELS)
    return found, {name: intervals.profile(cost, name) for name in fits.INTEREST}


@pytest.fixture(scope="module")
def drawn(model: Model, counts: tuple[Floats, ...]) -> Axes:
    """The figure of all spectra, which takes longest to draw."""
    return figures.spectra(model, counts[0], counts[1])


def points(ax: Axes) -> list[tuple[Floats, Floats, Floats]]:
    """x, y and the half length of the bars of what ``errorbar`` drew."""
    found = []
    for container in ax.containers:
        if isinstance(container, matplotlib.container.ErrorbarContainer):
            line, _, bars = container
            ends = np.array(bars[-1].get_segments())
            found.append((np.asarray(line.get_xdata()), np.asarray(line.get_ydata()), np.diff(ends[..., 1])[:, 0] / 2))
    return found


def steps(ax: Axes) -> dict[str, Floats]:
    patches: list[Any] = [p for p in ax.patches if isinstance(p, matplotlib.patches.StepPatch)]
    return {str(p.get_label()): np.asarray(p.get_data().values) for p in patches}


def words(ax: Axes) -> list[str]:
    """The legend's."""
    legend = ax.get_legend()
    assert legend is not None
    return [text.get_text() for text in legend.get_texts()]


def widths(ax: Axes) -> list[float]:
    bars: Any = ax.patches
    return [bar.get_width() for bar in bars]


def nothing_is_cut(ax: Axes) -> None:
    """Titles, labels, texts and legends lie within the figure, titles and labels not on one another."""
    figure = ax.get_figure(root=True)
    assert figure is not None
    with plots.style():
        figure.draw_without_rendering()
    shown = [a for a in figure.axes if a.axison]
    labels: list[Artist] = [t for a in shown for t in (a.title, a.xaxis.label, a.yaxis.label) if t.get_text()]
    others = [*(t for a in shown for t in a.texts), *figure.texts, *filter(None, (a.get_legend() for a in figure.axes))]
    for artist in (*labels, *others):
        box = artist.get_window_extent()
        assert figure.bbox.padded(1).fully_containsx(box.x0), artist
        assert figure.bbox.padded(1).fully_containsx(box.x1), artist
        assert figure.bbox.padded(1).fully_containsy(box.y0), artist
        assert figure.bbox.padded(1).fully_containsy(box.y1), artist
    boxes = [label.get_window_extent() for label in labels]
    assert not any(one.overlaps(other) for i, one in enumerate(boxes) for other in boxes[:i])


# -- spectra ---------------------------------------------------------------------------------------------------------


def test_spectra_show_the_numbers_of_each_detector_period(
    model: Model, counts: tuple[Floats, ...], drawn: Axes
) -> None:
    prediction, background, _ = (a.reshape(21, 26) for a in counts)
    mains, ratios = drawn.figure.axes[0:42:2], drawn.figure.axes[1:42:2]
    width, observed = np.diff(model.release.edges), model.observed.numpy().reshape(21, 26)
    for k, (detector, period) in enumerate(DETECTOR_PERIODS):
        assert mains[k].texts[0].get_text() == f"EH{detector[2]}-AD{detector[3]}, {period}"
        ((_, y, bars),) = points(mains[k])
        assert y * 1e3 * width == pytest.approx(observed[k])
        assert bars * 1e3 * width == pytest.approx(np.sqrt(observed[k]))
        assert steps(mains[k])["best fit"] * 1e3 * width == pytest.approx(prediction[k])
        assert steps(mains[k])["background"] * 1e3 * width == pytest.approx(background[k])
        ((_, y, bars),) = points(ratios[k])
        assert y == pytest.approx(observed[k] / prediction[k])
        assert bars == pytest.approx(np.sqrt(observed[k]) / prediction[k])


def test_detectors_are_rows_and_periods_columns(drawn: Axes) -> None:
    *panels, legend = drawn.figure.axes
    places = {a.texts[0].get_text(): a.get_position() for a in panels[0::2]}
    assert places["EH1-AD1, 6AD"].y0 > places["EH1-AD2, 6AD"].y1
    assert places["EH3-AD4, 8AD"].x1 < places["EH3-AD4, 7AD"].x0
    assert places["EH2-AD2, 8AD"].y0 == pytest.approx(places["EH2-AD2, 7AD"].y0)
    assert words(legend) == ["data", "best fit", "background"]
    assert not any(legend.get_position().overlaps(place) for place in places.values())


def test_halls_are_sums(model: Model, counts: tuple[Floats, ...]) -> None:
    figure = figures.halls(model, counts[0], counts[1], unoscillated=counts[2]).figure
    width, observed = np.diff(model.release.edges), model.observed.numpy().reshape(21, 26)
    for h, (main, ratio) in enumerate(zip(figure.axes[0::2], figure.axes[1::2], strict=True), start=1):
        own = [k for k, (detector, _) in enumerate(DETECTOR_PERIODS) if detector.startswith(f"AD{h}")]
        data, prediction, _, none = (sum(a.reshape(21, 26)[k] for k in own) for a in (observed, *counts))
        assert points(main)[0][1] * 1e3 * width == pytest.approx(data)
        assert steps(main)["best fit"] * 1e3 * width == pytest.approx(prediction)
        assert points(ratio)[0][1] == pytest.approx(data / none)
        assert next(iter(steps(ratio).values())) == pytest.approx(prediction / none)
    assert figures.halls(model, counts[0], counts[1]).figure.axes[1].get_ylabel() == "ratio to\nprediction"


def test_counts_of_another_shape_are_refused(model: Model, counts: tuple[Floats, ...]) -> None:
    with pytest.raises(ValueError, match=r"expected 21 x 26 counts, detector-periods by bins, found \(545,\)"):
        figures.spectra(model, counts[0][1:], counts[1])


# -- the survival probability ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("ordering", [1, -1])
def test_probability_is_that_of_the_model(model: Model, ordering: Literal[1, -1]) -> None:
    other = copy.copy(model)
    other.ordering = ordering
    values = {"sin2_2theta13": 0.09, "dm2_32": 2.6e-3, "dm2_21": 8e-5, "sin2_2theta12": 0.8}
    ratio = model.argument.numpy() / PHASE / 1e3
    expected = other.survival(figures._tensors(model, values)).numpy()
    found = figures.probability(ratio, other, values)
    assert np.abs(found - expected).max() < 1e-12
    assert np.abs(figures.probability(ratio, other, {**values, "dm2_21": 7.5e-5}) - expected).max() > 1e-4


def test_survival_is_data_over_what_no_oscillation_would_give(model: Model, best: dict[str, float]) -> None:
    found = figures.survival(model, best)
    values = [figures._tensors(model, {**best, **none}) for none in ({}, {"sin2_2theta13": 0.0, "sin2_2theta12": 0.0})]
    signal, without = (model.signal(v).numpy() for v in values)
    background, observed = model.background(values[0]).numpy(), model.observed.numpy().reshape(21, 26)
    far = [k for k, (detector, _) in enumerate(DETECTOR_PERIODS) if detector.startswith("AD3")]
    total = without[far].sum(0)
    assert found.observed[2] == pytest.approx((observed - background)[far].sum(0) / total)
    assert found.error[2] == pytest.approx(np.sqrt(observed[far].sum(0)) / total)
    assert found.expected[2] == pytest.approx(signal[far].sum(0) / total)
    curve = figures.probability(found.ratio, model, best)
    assert found.expected * found.correction == pytest.approx(curve, abs=1e-12)


def test_the_far_hall_follows_the_curve_and_not_one(model: Model, best: dict[str, float]) -> None:
    found = figures.survival(model, best)
    pull = (found.observed * found.correction - figures.probability(found.ratio, model, best)) / found.error
    assert (pull[2] ** 2).sum() < 26 + 4 * np.sqrt(2 * 26)  # 26 bins; the fit's parameters make it less
    assert (((1 - found.observed[2]) / found.error[2]) ** 2).sum() > 3000


def test_implied_pulls_bring_the_near_halls_to_the_curve(model: Model, best: dict[str, float]) -> None:
    """Scales of energy and efficiency move whole halls; what is left is statistical."""
    cost = fits.covariance_cost(model, covariance.systematic(model))
    chi2 = []
    for values in (best, best | fits.implied(model, cost, best)):
        found = figures.survival(model, values)
        pull = (found.observed * found.correction - figures.probability(found.ratio, model, values)) / found.error
        chi2.append((pull**2).sum(1))
    assert np.all(chi2[1] < 26 + 4 * np.sqrt(2 * 26))
    assert chi2[1][0] < chi2[0][0] - 10
    assert chi2[1].sum() < chi2[0].sum() - 20


def test_correction_is_small_and_distances_near_those_published(model: Model, best: dict[str, float]) -> None:
    found = figures.survival(model, best)
    assert 0.9945 < found.correction.min() < found.correction.max() < 1.002
    # the effective baselines of arXiv 1508.04233, by another definition
    assert found.distance == pytest.approx([512, 561, 1579], rel=0.05)


def test_reactors_at_one_distance_have_that_distance(model: Model, best: dict[str, float]) -> None:
    release = replace(model.release, baseline=np.full((8, 6), 1000.0))
    found = figures.survival(Model(release), best)
    # what is left is the average over energies in a bin, of second order in its width
    assert found.distance == pytest.approx([1000.0] * 3, rel=0.01)
    assert np.abs(found.correction[:, 1:] - 1).max() < 1.5e-3
    assert np.abs(figures.survival(model, best).correction[:, 1:] - 1).max() > 2.5e-3


def test_inverse_energies_are_those_of_inverse_beta_decay(model: Model) -> None:
    """Prompt energies are 0.78 MeV below the antineutrino's, but for a nonlinearity of up to 6%."""
    energy = 1 / figures._inverse_energy(model, model.nominal)[:, 3:-1]
    middle = ((model.release.edges[1:] + model.release.edges[:-1]) / 2)[3:-1]
    assert energy == pytest.approx(np.tile(middle + 0.78, (3, 1)), rel=0.06)
    assert (energy / middle - 1).min() > 0.06


def test_far_near_draws_these_points(model: Model, best: dict[str, float]) -> None:
    found = figures.survival(model, best)
    ax = figures.far_near(model, best)
    for i, (x, y, error) in enumerate(points(ax)):
        assert x == pytest.approx(found.ratio[i])
        assert y == pytest.approx(found.observed[i] * found.correction[i])
        assert error == pytest.approx(found.error[i] * found.correction[i])
    (curve,) = [line for line in ax.lines if line.get_label() == "best fit"]
    assert np.asarray(curve.get_ydata()) == pytest.approx(figures.probability(curve.get_xdata(), model, best))
    low, high = ax.get_ylim()
    assert all(low < y.min() < y.max() < high for _, y, _ in points(ax))


def test_unknown_values_are_refused(model: Model) -> None:
    with pytest.raises(KeyError, match="no parameter 'sin2_2theta31'"):
        figures.far_near(model, {"sin2_2theta31": 0.08})


# -- regions, profiles, sources, pulls -------------------------------------------------------------------------------


def test_contour_is_the_ellipse_with_profiles_beside(gaussian: tuple[Any, dict[str, Any]]) -> None:
    ax = figures.contour(*gaussian)
    for line, level in zip(ax.lines[:3], (2.2958, 6.1801, 11.8292), strict=True):  # of chi2, two degrees of freedom
        u, v = ((np.asarray(a) - c) / s for a, c, s in zip(line.get_data(), CENTRE, SIGMA, strict=True))
        assert (u**2 - 2 * RHO * u * v + v**2) / (1 - RHO**2) == pytest.approx(np.full(len(u), level), rel=1e-3)
    ((x, y, error),) = points(ax)
    assert (x[0], y[0], error[0]) == pytest.approx((0.0851, 2.466e-3, 0.060e-3))
    ((x, y, _),) = points(figures.contour(*gaussian, published={"sin2_2theta13": (0.084, 0.1), "dm2_32": (2e-3, 1e-4)}))
    assert (x[0], y[0]) == pytest.approx((0.084, 2e-3))
    _, top, side, corner = ax.figure.axes
    x, t = (np.asarray(a) for a in top.lines[0].get_data())
    assert t == pytest.approx(((x - CENTRE[0]) / SIGMA[0]) ** 2, abs=1e-3)
    t, y = (np.asarray(a) for a in side.lines[0].get_data())
    assert t == pytest.approx(((y - CENTRE[1]) / SIGMA[1]) ** 2, abs=1e-3)
    assert words(corner) == ["best fit", "68.27%", "95.45%", "99.73%", "published"]


def test_profiles_are_in_the_units_of_their_labels(gaussian: tuple[Any, dict[str, Any]]) -> None:
    _, curves = gaussian
    ax = figures.profiles({name: {"covariance": found, "pulls": found} for name, found in curves.items()})
    for panel, centre, sigma in zip(ax.figure.axes, (0.085, 2.5), (0.0025, 0.06), strict=True):
        x, t = next(line.get_data() for line in panel.lines if len(np.asarray(line.get_xdata())) > 100)
        assert np.asarray(t) == pytest.approx(((np.asarray(x) - centre) / sigma) ** 2, abs=1e-3)
    texts = words(ax.figure.axes[1])
    assert texts[0] == "published"
    assert "2.500 ± 0.060" in texts[1]
    assert curves["dm2_32"].best["dm2_32"] == pytest.approx(2.5e-3)  # what was given stays as it was


def test_budget_draws_each_part(model: Model) -> None:
    parts = {"detector": (1.0e-3, 3.7e-5), "amc": (0.0, 0.0), "lithium_helium": (0.45e-3, 4.0e-5)}
    ax = figures.budget(model.parameters, parts, statistical=(1.9e-3, 3.8e-5), total=(2.3e-3, 5.9e-5))
    first, second = ax.figure.axes
    assert widths(first) == pytest.approx([1.9, 0.45, 1.0, 0, 2.3])
    assert widths(second) == pytest.approx([3.8, 4.0, 3.7, 0, 5.9])
    names = [label.get_text() for label in first.get_yticklabels()]
    assert names == ["statistical", "$^9$Li and $^8$He", "efficiency and energy scale", "Am-C source", "total"]
    assert [text.get_text() for text in first.texts] == ["68%", "4%", "19%", "< 0.1%", "100%"]
    with pytest.raises(KeyError, match="no group 'lithium'; expected some of oscillation, "):
        figures.budget(model.parameters, {"lithium": (0, 0)}, statistical=(1, 1), total=(1, 1))


def pulled(model: Model) -> tuple[dict[str, float], dict[str, float], dict[str, float]]:
    """Values and errors whose pulls (and errors in sigma) are known, with two directions of the spectra."""
    rng, values, errors = np.random.default_rng(2), {"sin2_2theta13": 0.08}, {"sin2_2theta13": 0.002}
    known: dict[str, float] = {}
    for group in model.parameters.constrained:
        if group.name != "spectrum_uncorrelated":
            pull, size = rng.normal(0, 0.6, len(group.names)), rng.uniform(0.2, 1.0, len(group.names))
            known |= dict(zip(group.names, pull.tolist(), strict=True))
            values |= dict(zip(group.names, (group.value + pull * group.sigma).tolist(), strict=True))
            errors |= dict(zip(group.names, (size * group.sigma).tolist(), strict=True))
    modes = {"spectrum_mode.00": 0.7, "spectrum_mode.01": -0.3}
    return values | modes, errors | dict.fromkeys(modes, 0.5), known | modes


def test_pulls_are_all_there_in_standard_deviations(model: Model) -> None:
    values, errors, known = pulled(model)
    panels = figures.pulls(model, values, errors).figure.axes
    assert np.concatenate([points(ax)[0][1] for ax in panels]) == pytest.approx(np.array(list(known.values())))
    half = np.concatenate([points(ax)[0][2] for ax in panels])
    sigma = {n: s for g in model.parameters.constrained for n, s in zip(g.names, g.sigma, strict=True)}
    assert half == pytest.approx([errors[name] / sigma.get(name, 1.0) for name in known])
    detector = next(ax for ax in panels if ax.get_title().startswith("efficiency"))
    assert [t.get_text() for t in detector.get_xticklabels()][:2] == ["eff. AD11", "scale AD11"]
    assert all(abs(y) + e < ax.get_ylim()[1] for ax in panels for y, e in zip(*points(ax)[0][1:], strict=True))


def test_pulls_need_errors_and_constraints(model: Model) -> None:
    with pytest.raises(KeyError, match="no error of 'amc': expected one for each of the 1 fitted values"):
        figures.pulls(model, {"amc": 0.5}, {})
    with pytest.raises(ValueError, match="expected values of at least one constrained parameter, found none"):
        figures.pulls(model, {"sin2_2theta13": 0.08}, {"sin2_2theta13": 0.002})


# -- all of them -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["spectra", "halls", "far_near", "contour", "profiles", "budget", "pulls"])
def test_texts_are_whole_settings_stay_and_a_second_figure_is_the_same(
    name: str,
    model: Model,
    best: dict[str, float],
    counts: tuple[Floats, ...],
    gaussian: tuple[Any, dict[str, Any]],
    drawn: Axes,
) -> None:
    values, errors, _ = pulled(model)
    draw: dict[str, Callable[[], Axes]] = {
        "spectra": lambda: figures.spectra(model, counts[0], counts[1]),
        "halls": lambda: figures.halls(model, counts[0], counts[1], unoscillated=counts[2]),
        "far_near": lambda: figures.far_near(model, best),
        "contour": lambda: figures.contour(*gaussian),
        "profiles": lambda: figures.profiles({k: {"fit": v} for k, v in gaussian[1].items()}),
        "budget": lambda: figures.budget(model.parameters, {"detector": (1e-3, 4e-5)}, statistical=(2e-3, 3e-5),
                                         total=(3e-3, 5e-5)),
        "pulls": lambda: figures.pulls(model, values, errors),
    }  # fmt: skip
    before = dict(matplotlib.rcParams)
    one, other = draw[name](), drawn if name == "spectra" else draw[name]()
    assert dict(matplotlib.rcParams) == before
    assert one.figure is not other.figure
    assert [len(a.lines) for a in one.figure.axes] == [len(a.lines) for a in other.figure.axes]
    for line, same in zip(one.lines, other.lines, strict=True):
        assert np.array_equal(np.asarray(line.get_xydata()), np.asarray(same.get_xydata()))
    nothing_is_cut(one)
