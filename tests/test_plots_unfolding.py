"""Figures of binned unfolding: the data of the artists, exactly; no pixels."""

from __future__ import annotations

import itertools
from dataclasses import replace
from typing import Any

import matplotlib
import numpy as np
import pytest

matplotlib.use("Agg")

from matplotlib import pyplot
from matplotlib.backends.backend_agg import FigureCanvasAgg
from numpy.testing import assert_allclose, assert_array_equal

from nuinfer import Events, plots
from nuinfer.plots.figures import _Figure
from nuinfer.simulators import GaussianUnfolding
from nuinfer.unfolding import (
    Binning,
    IterationChoice,
    Response,
    Spectrum,
    iterative_bayes,
    scan_strength,
    tikhonov,
    wiener_svd,
)
from nuinfer.unfolding.checks import PseudoExperiments

EDGES = np.array([-2.0, -1.0, 0.0, 0.5, 1.5, 2.5])
RESPONSE = Response.from_events(
    GaussianUnfolding.with_detector().simulation(20_000, seed=1), truth={"t0": EDGES},
    reco={"x0": np.linspace(-2.5, 3.0, 12)},
)  # fmt: skip
MODEL = 1.2 * RESPONSE.truth_yield
DATA = np.random.default_rng(2).poisson(RESPONSE.fold(MODEL, fakes=True)).astype(float)
SLICES = Binning("cos", [-1, 0, 0.8, 1], [Binning("p", [0, 1, 3]), Binning("p", [0, 0.5, 1, 3]), Binning("p", [0, 3])])


def with_systematics(spectrum: Spectrum) -> Spectrum:
    u, x = spectrum.values, np.linspace(-1, 1, len(spectrum.values))
    more = {"flux": 0.05**2 * np.outer(u, u), "cross_section": 0.08**2 * np.outer(x * u, x * u)}
    return replace(spectrum, covariances={**spectrum.covariances, **more})


SPECTRUM = with_systematics(iterative_bayes(DATA, RESPONSE))
PLANE = with_systematics(Spectrum(
    SLICES, np.array([8.0, 12, 5, 20, 11, 30]), {"data": np.diag([4.0, 9, 4, 9, 4, 16])}, np.eye(6) * 0.9 + 0.02
))  # fmt: skip
TOYS = PseudoExperiments(
    RESPONSE.truth, MODEL, MODEL + 10 * np.random.default_rng(1).normal(0.5, 1, (400, 5)), np.tile(MODEL + 5, (400, 1)),
    np.full((400, 5), 10.0), 0.6827,
)  # fmt: skip


def two_columns() -> Response:
    rng = np.random.default_rng(1)
    p, cos = rng.uniform(0, 3, 4000), rng.uniform(-1, 1, 4000)
    reco = {"p_reco": p + rng.normal(0, 0.2, 4000), "cos_reco": np.clip(cos + rng.normal(0, 0.1, 4000), -1, 1)}
    events = Events({"p": p, "cos": cos, **reco, "pass_reco": rng.random(4000) < 0.4 + 0.2 * p})
    return Response.from_events(events, truth=SLICES, reco={"cos_reco": [-1, 0, 0.8, 1], "p_reco": [0, 1, 2, 3]})


FIGURES: dict[str, Any] = {
    "response": lambda: plots.response_matrix(RESPONSE, xlabel="true p (GeV)", ylabel="reconstructed p (GeV)")[0],
    "response, slices": lambda: plots.response_matrix(two_columns())[0],
    "smearing": lambda: plots.smearing(SPECTRUM, label="p (GeV)"),
    "smearing, slices": lambda: plots.smearing(PLANE),
    "covariance": lambda: plots.bin_covariance(SPECTRUM, label="p (GeV)"),
    "covariance, slices": lambda: plots.bin_covariance(PLANE, source="flux", fractional=False),
    "correlation": lambda: plots.bin_correlation(SPECTRUM, label="p (GeV)"),
    "correlation, slices": lambda: plots.bin_correlation(PLANE),
    "unfolded": lambda: plots.unfolded(SPECTRUM, models={"A": MODEL, "B": 1.1 * MODEL}, xlabel="p (GeV)")[0],
    "unfolded, slices": lambda: plots.unfolded(
        PLANE, models={"A": PLANE.values}, xlabel=r"$p_\mu$ (GeV)", names={"cos": r"$\cos\theta_\mu$"}
    )[0],
    "uncertainties": lambda: plots.uncertainties(SPECTRUM, xlabel="p (GeV)")[0],
    "uncertainties, slices": lambda: plots.uncertainties(PLANE, xlabel=r"$p_\mu$ (GeV)")[0],
    "coverage": lambda: plots.bin_coverage(TOYS, xlabel="p (GeV)")[0],
    "scan": lambda: plots.strength_scan(scan_strength(DATA, RESPONSE))[0],
    "filter": lambda: plots.wiener_filter(wiener_svd(DATA, RESPONSE)),
}


def fills(ax):
    """Upper and lower edges of the bands, in the order of drawing."""
    return [(p.get_data().values, p.get_data().baseline) for p in ax.patches if hasattr(p, "get_data") and p.get_fill()]


def steps(ax):
    return [p.get_data().values for p in ax.patches if hasattr(p, "get_data") and not p.get_fill()]


def points(ax, which=0):
    """Values of points, and the lengths of their vertical bars where they have them."""
    bars = [c for c in ax.containers if hasattr(c, "has_yerr")][which]
    y = np.asarray(bars.lines[0].get_ydata())
    last = [np.ptp(np.array(s)[:, 1]) / 2 for s in bars.lines[2][-1].get_segments()]
    return y, np.array(last)


def legend(ax):
    return [text.get_text() for text in ax.get_legend().get_texts()]


# -- look --------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", FIGURES)
def test_global_state_is_left_alone(name):
    before = dict(matplotlib.rcParams)
    FIGURES[name]()
    assert dict(matplotlib.rcParams) == before
    assert pyplot.get_fignums() == []


def texts(figure):
    renderer = figure.canvas.get_renderer()
    for ax in figure.axes:
        for axis in (ax.xaxis, ax.yaxis):
            low, high = sorted(axis.get_view_interval())
            ticks = [t for t in (*axis.get_major_ticks(), *axis.get_minor_ticks()) if low <= t.get_loc() <= high]
            labels = [label for t in ticks for label in (t.label1, t.label2)] + [axis.label, axis.get_offset_text()]
            yield from (t for t in labels if t.get_visible() and t.get_text() and t.get_window_extent(renderer).width)
        yield from ([ax.title] if ax.get_title() else [])
        yield from (ax.get_legend().get_texts() if ax.get_legend() else [])
    yield from (text for found in figure.legends for text in found.get_texts())


@pytest.mark.parametrize("name", FIGURES)
def test_no_text_overlaps_another_or_leaves_the_figure(name):
    figure = FIGURES[name]().figure
    FigureCanvasAgg(figure).draw()
    boxes = [(text.get_text(), text.get_window_extent().padded(-0.5)) for text in texts(figure)]
    assert len(boxes) > 5
    for (one, box), (other, second) in itertools.combinations(boxes, 2):
        assert not box.overlaps(second), f"{one!r} over {other!r}"
    for one, box in boxes:
        inside = box.x0 >= figure.bbox.x0 and box.x1 <= figure.bbox.x1 and box.y1 <= figure.bbox.y1 and box.y0 >= 0
        assert inside, f"{one!r} is cut off"


@pytest.mark.parametrize("name", ["unfolded", "uncertainties"])
def test_legend_is_above_everything_drawn(name):
    ax = FIGURES[name]()
    FigureCanvasAgg(ax.figure).draw()
    tops = [p.get_path().vertices[:, 1].max() for p in ax.patches]
    assert ax.transData.transform((1, max(tops)))[1] < ax.get_legend().get_window_extent().y0


# -- matrices ----------------------------------------------------------------------------------------------------------


def test_response_is_normalised_by_columns_with_efficiency_and_purity():
    main, above, beside = plots.response_matrix(RESPONSE, xlabel="true", ylabel="reco")
    cells = main.collections[0].get_array()
    assert_allclose(cells.filled(0).sum(0), 1, rtol=1e-12)
    assert_array_equal(cells.mask, RESPONSE.both == 0)
    [(efficiency, _)], [(purity, _)] = fills(above), fills(beside)
    assert_array_equal(efficiency, RESPONSE.efficiency)
    assert_array_equal(purity, RESPONSE.purity)
    assert_array_equal(above.patches[0].get_data().edges, EDGES)
    assert beside.patches[0].orientation == "horizontal"
    assert (main.get_xlabel(), main.get_ylabel()) == ("true", "reco")
    assert main.get_xlim() == above.get_xlim()
    assert main.get_ylim() == beside.get_ylim()


def test_slices_are_numbered_with_lines_between():
    main, *_ = plots.response_matrix(two_columns())
    assert main.get_xlim() == (-0.5, 5.5)
    assert [line.get_xdata()[0] for line in main.lines if line.get_xdata()[0] == line.get_xdata()[1]] == [1.5, 4.5]
    assert (main.get_xlabel(), main.get_ylabel()) == ("true bin number", "reconstructed bin number")


def test_infinite_edges_are_numbered():
    binning = Binning("p", [0, 1, np.inf])
    found = Spectrum(binning, np.ones(2), {"data": np.eye(2)}, np.eye(2))
    assert plots.smearing(found).get_xlim() == (-0.5, 1.5)
    assert plots.unfolded(found, density=False)[0].get_xlabel() == "bin number"
    with pytest.raises(ValueError, match="use density=False"):
        plots.unfolded(found)


def test_smearing_is_drawn_as_it_is():
    ax = plots.smearing(SPECTRUM, label="p (GeV)")
    mesh = ax.collections[0]
    assert_array_equal(mesh.get_array(), SPECTRUM.smearing)
    assert mesh.get_clim() == (-np.abs(SPECTRUM.smearing).max(), np.abs(SPECTRUM.smearing).max())
    assert not np.allclose(SPECTRUM.smearing, SPECTRUM.smearing.T)  # a transposed matrix would be seen


def test_covariances_by_source():
    u = SPECTRUM.values
    total = plots.bin_covariance(SPECTRUM).collections[0].get_array()
    assert_allclose(total, SPECTRUM.covariance / np.outer(u, u), rtol=1e-12)
    flux = plots.bin_covariance(SPECTRUM, source="flux", fractional=False).collections[0].get_array()
    assert_array_equal(flux, SPECTRUM.covariances["flux"])
    sigma = np.sqrt(np.diag(PLANE.covariances["cross_section"]))
    rho = plots.bin_correlation(PLANE, source="cross_section").collections[0].get_array()
    assert_allclose(rho, PLANE.covariances["cross_section"] / np.outer(sigma, sigma), rtol=1e-12)
    assert_allclose(plots.bin_correlation(SPECTRUM).collections[0].get_array().diagonal(), 1, rtol=1e-12)


# -- spectra -----------------------------------------------------------------------------------------------------------


def test_bands_are_stacked_in_quadrature():
    """The outermost is the whole uncertainty; each source adds its variance."""
    (ax,) = plots.unfolded(SPECTRUM, density=False)
    bands = fills(ax)[::-1]  # from the innermost
    names = [n for n, c in SPECTRUM.covariances.items() if c.any()]
    assert len(bands) == len(names) == 4
    total = np.zeros(5)
    for (upper, lower), name in zip(bands, names, strict=True):
        total = total + np.diag(SPECTRUM.covariances[name])
        assert_allclose(upper, SPECTRUM.values + np.sqrt(total), rtol=1e-12)
        assert_allclose(lower, SPECTRUM.values - np.sqrt(total), rtol=1e-12)
    assert_allclose(np.sqrt(total), SPECTRUM.uncertainty, rtol=1e-12)
    assert legend(ax) == ["unfolded data", "data", "simulation", "flux", "cross section"]


def test_models_are_smeared_and_have_their_chi2():
    model = MODEL * np.array([1.2, 0.7, 1.3, 0.8, 1.1])
    (ax,) = plots.unfolded(SPECTRUM, models={"A": MODEL, "B": model})
    drawn = steps(ax)[::-1]
    width = np.diff(EDGES)
    assert_allclose(drawn[0], SPECTRUM.smearing @ MODEL / width, rtol=1e-12)
    assert_allclose(drawn[1], SPECTRUM.smearing @ model / width, rtol=1e-12)
    assert np.abs(drawn[1] * width / model - 1).max() > 0.01  # without A_C it would be elsewhere
    names = [rf"{n}, $\chi^2$ = {SPECTRUM.chi2(m).value:.1f}/5" for n, m in (("A", MODEL), ("B", model))]
    assert legend(ax)[1:3] == names
    assert_allclose(points(ax)[0], SPECTRUM.values / width, rtol=1e-12)


def test_models_beside_too_few_replicas_have_no_chi2():
    replicas = np.random.default_rng(1).poisson(SPECTRUM.values, (6, 5)).astype(float)
    few = replace(SPECTRUM, covariances={"statistical": np.cov(replicas.T)}, replicas=replicas)
    (ax,) = plots.unfolded(few, models={"A": MODEL})
    assert legend(ax)[1] == r"A (too few replicas for $\chi^2$)"


def test_slices_have_a_panel_each():
    axes = plots.unfolded(PLANE, models={"A": PLANE.values}, names={"cos": "c"}, sources={"flux": "beam"})
    assert [ax.get_title() for ax in axes] == ["\u22121 \u2264 c < 0", "0 \u2264 c < 0.8", "0.8 \u2264 c < 1"]
    widths = np.array([1, 2, 0.4, 0.4, 1.6, 0.6])
    assert_allclose(np.concatenate([points(ax)[0] for ax in axes]), PLANE.values / widths, rtol=1e-12)
    assert_allclose(np.concatenate([steps(ax)[0] for ax in axes]), PLANE.smear(PLANE.values) / widths, rtol=1e-12)
    outer = np.concatenate([fills(ax)[0][0] - fills(ax)[0][1] for ax in axes])
    assert_allclose(outer, 2 * PLANE.uncertainty / widths, rtol=1e-12)
    names = [text.get_text() for text in axes[0].figure.legends[0].get_texts()]
    assert names[0] == "unfolded data"
    assert names[2:] == ["data", "beam", "cross section"]
    assert [bool(ax.get_ylabel()) for ax in axes] == [True, False, True]


def test_axes_of_ones_own():
    mine = _Figure().subplots(1, 3)
    axes = plots.unfolded(PLANE, axes=mine)
    assert list(axes) == list(mine)
    assert axes[0].get_legend() is not None
    assert axes[1].get_legend() is None


def test_uncertainties_add_in_quadrature():
    (ax,) = plots.uncertainties(SPECTRUM)
    bands, own = fills(ax), np.zeros(5)
    for (upper, lower), name in zip(bands, ("data", "simulation", "flux", "cross_section"), strict=True):
        assert_allclose(lower, np.sqrt(own) / SPECTRUM.values, rtol=1e-12)
        own = own + np.diag(SPECTRUM.covariances[name])
        assert_allclose(upper, np.sqrt(own) / SPECTRUM.values, rtol=1e-12)
    assert_allclose(steps(ax)[0], SPECTRUM.uncertainty / SPECTRUM.values, rtol=1e-12)
    assert legend(ax) == ["total", "cross section", "flux", "simulation", "data"]


def test_many_sources_have_colours_of_their_own():
    u = SPECTRUM.values
    many = replace(SPECTRUM, covariances={f"s{k}": 0.01**2 * np.outer(u, u) for k in range(9)})
    for plot in (plots.uncertainties, plots.unfolded):
        (ax,) = plot(many)
        assert len({p.get_facecolor() for p in ax.patches if p.get_fill()}) == 9
    more = replace(SPECTRUM, covariances={f"s{k}": 0.01**2 * np.outer(u, u) for k in range(11)})
    with pytest.raises(ValueError, match="at most 10, found 11"):
        plots.uncertainties(more)


# -- checks and choices ------------------------------------------------------------------------------------------------


def test_coverage_has_binomial_bars():
    main, lower = plots.bin_coverage(TOYS, xlabel="p (GeV)")
    for which, covered in enumerate((TOYS.covered, TOYS.truth_covered)):
        y, bars = points(main, which)
        assert_array_equal(y, covered)
        assert_allclose(bars, TOYS.error(covered), rtol=1e-9)
        assert_allclose(bars, np.sqrt(covered * (1 - covered) / 400), rtol=0.02)
    assert_array_equal(steps(lower)[0], TOYS.bias)
    assert legend(main) == ["nominal, 68.27%", "$A_C\\,\\times$ truth", "truth"]


def test_scan_marks_what_was_chosen():
    scan = scan_strength(DATA, RESPONSE)
    curve, rho = plots.strength_scan(scan)
    for k, name in enumerate(("lcurve", "rho"), start=1):
        best = scan.best[name]
        assert_array_equal(rho.lines[k].get_xdata(), [best])
        residual = DATA - RESPONSE.fakes - RESPONSE.fold(tikhonov(DATA, RESPONSE, strength=best).values)
        assert_allclose(curve.lines[k].get_xdata(), np.sum(residual**2 / DATA), rtol=0.01)
    assert_array_equal(
        rho.lines[0].get_ydata()[0], scan.correlation[np.isin(scan.strengths, rho.lines[0].get_xdata())][0]
    )
    assert legend(curve)[0] == rf"L-curve: $\tau$ = {scan.best['lcurve']:.3g}"


def test_filter_is_that_of_the_spectrum():
    found = wiener_svd(DATA, RESPONSE)
    ax = plots.wiener_filter(found)
    assert_array_equal(ax.patches[0].get_data().values, found.settings["filter"])
    assert_array_equal(ax.lines[-1].get_xdata(), [1, 2, 3, 4, 5])


# -- bad input ---------------------------------------------------------------------------------------------------------


def test_bad_input():
    with pytest.raises(ValueError, match="expected a spectrum with an additional smearing matrix"):
        plots.smearing(replace(SPECTRUM, smearing=None))
    with pytest.raises(ValueError, match="expected a spectrum of wiener_svd, found one of iterative Bayes"):
        plots.wiener_filter(SPECTRUM)
    with pytest.raises(KeyError, match="no source 'fluxes'; closest: 'flux'"):
        plots.bin_covariance(SPECTRUM, source="fluxes")
    with pytest.raises(ValueError, match="model 'A': expected one number for each of 5 bins"):
        plots.unfolded(SPECTRUM, models={"A": np.ones(4)})
    with pytest.raises(ValueError, match="models: expected at most 5, found 6"):
        plots.unfolded(SPECTRUM, models={str(k): MODEL for k in range(6)})
    with pytest.raises(ValueError, match="axes: expected 3, one a panel, found 1"):
        plots.unfolded(PLANE, axes=[_Figure().subplots()])
    with pytest.raises(TypeError, match="expected three matplotlib Axes"):
        plots.response_matrix(RESPONSE, axes=[_Figure().subplots()])
    with pytest.raises(ValueError, match="no covariance without replicas"):
        plots.uncertainties(replace(SPECTRUM, covariances={}))
    with pytest.raises(ValueError, match="xscale='log': expected a first edge above 0"):
        plots.unfolded(SPECTRUM, xscale="log")


def test_sources_below_zero_are_not_drawn_but_for_their_positive_part() -> None:
    """A regression may find less than nothing; the positive part keeps what is above, and other sources as they are."""
    negative = np.array([[1.0, 0.0], [0.0, -0.5]])
    found = Spectrum(Binning("p", [0, 1, 3]), np.array([4.0, 9.0]), {"few": negative, "data": 2 * np.eye(2)})
    for draw in (plots.unfolded, plots.uncertainties):
        with pytest.raises(ValueError, match=r"'few': expected variances from 0, found -0.5 in bin 1.*positive"):
            draw(found)
    kept = found.positive()
    np.testing.assert_allclose(kept.covariances["few"], [[1.0, 0.0], [0.0, 0.0]], atol=1e-12)
    np.testing.assert_allclose(kept.covariances["data"], 2 * np.eye(2))
    assert plots.uncertainties(kept)


# -- choices -----------------------------------------------------------------------------------------------------------


def test_the_choice_of_iterations_is_marked() -> None:
    found = IterationChoice(2, True, np.array([5e-2, 4e-3, -1e-4]), np.array([2e-3, 5e-4, 2e-4]))
    ax = plots.iteration_choice(found)
    points = ax.containers[0].lines[0]
    assert np.array_equal(points.get_ydata(), found.divergence)
    (mark,) = [line for line in ax.lines if line.get_label() == "choice: 2"]
    assert (mark.get_xdata()[0], mark.get_ydata()[0]) == (2, -1e-4)
    low, high = ax.get_ylim()
    assert low < -3e-4
    assert high > 5.2e-2
    open_end = IterationChoice(1, False, np.array([5e-2, 4e-3]), np.array([2e-3, 5e-4]))
    assert not any("choice" in str(line.get_label()) for line in plots.iteration_choice(open_end).lines)
    with pytest.raises(TypeError, match="ax: expected a matplotlib Axes"):
        plots.iteration_choice(found, ax="no")
