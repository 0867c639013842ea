"""What is drawn: the data of the artists, exactly; no pixels."""

from __future__ import annotations

import itertools
import re
from types import SimpleNamespace

import matplotlib
import numpy as np
import pytest

matplotlib.use("Agg")

from matplotlib import pyplot
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from numpy.testing import assert_allclose, assert_array_equal

from nuinfer import metrics, plots

EDGES = np.array([0.5, 1.0, 2.0, 4.0, 10.0])
WIDTH = np.diff(EDGES)
VALUES = np.array([40.0, 90.0, 60.0, 12.0])
SIGMA = np.array([8.0, 12.0, 10.0, 3.0])
RHO = np.array([[1, -0.4, 0.1, 0], [-0.4, 1, -0.3, 0.1], [0.1, -0.3, 1, -0.2], [0, 0.1, -0.2, 1]])
COVARIANCE = RHO * np.outer(SIGMA, SIGMA)
TRUTH = np.array([44.0, 85.0, 64.0, 10.0])
PRIOR = np.array([60.0, 100.0, 40.0, 5.0])


def run(epochs=30, members=4):
    rng = np.random.default_rng(1)
    fall = 0.55 + 0.15 * np.exp(-np.arange(epochs) / 6)[:, None]
    train, validation = (fall + up + 0.003 * rng.normal(size=(epochs, members)) for up in (0.0, 0.02))
    rate = 1e-3 * np.linspace(1, 0, epochs)
    return SimpleNamespace(
        train=train, validation=validation, learning_rate=rate, best_epoch=np.argmin(validation, axis=0)
    )


def curve(**changes):
    parts = {
        "predicted": np.array([0.1, 0.4, 0.6, 0.9]),
        "observed": np.array([0.14, 0.38, 0.6, 0.88]),
        "uncertainty": np.array([0.02, 0.02, 0.03, 0.01]),
        "counts": np.array([900.0, 400.0, 400.0, 1300.0]),
    }
    return {**parts, **changes}


def event_weights():
    rng = np.random.default_rng(2)
    return np.exp(0.3 * rng.normal(size=500) + 0.05 * rng.normal(size=(3, 500)))


FIGURES = {
    "history": lambda: plots.history(run()),
    "reliability": lambda: plots.reliability(curve())[0],
    "spectrum": lambda: plots.spectrum(
        EDGES, VALUES, COVARIANCE, truth=TRUTH, prior=PRIOR, xlabel=r"$p_\mu$ (GeV)", density=True, xscale="log"
    )[0],
    "spectrum, log": lambda: plots.spectrum(EDGES, VALUES, COVARIANCE, xlabel="p (GeV)", yscale="log")[0],
    "spectrum, large": lambda: plots.spectrum(EDGES, 1e5 * VALUES, SIGMA, truth=1e5 * TRUTH, xlabel="p (GeV)")[0],
    "spectrum, less than a decade": lambda: plots.spectrum(
        EDGES[:4], VALUES[:3], SIGMA[:3], prior=PRIOR[:3], xlabel="p (GeV)", xscale="log"
    )[0],
    "iterations": lambda: plots.iterations(
        [PRIOR, TRUTH, VALUES], EDGES, covariance=COVARIANCE, xlabel="p (GeV)", xscale="log"
    ),
    "correlation": lambda: plots.correlation(COVARIANCE, EDGES, label=r"$p_\mu$ (GeV)", scale="log"),
    "correlation, linear": lambda: plots.correlation(COVARIANCE, EDGES, label=r"$\cos\theta$"),
    "weights": lambda: plots.weights(event_weights()),
}


def steps(ax):
    """Values of the histograms and (upper, lower) edges of the bands of an axes, by order of drawing."""
    lines, bands = [], []
    for patch in ax.patches:
        data = patch.get_data() if hasattr(patch, "get_data") else None
        if data is not None and patch.get_fill():
            bands.append((data.values, data.baseline))
        elif data is not None:
            lines.append(data.values)
    return lines, bands


def points(ax):
    """x and y of the points with error bars, and the ends of their bars."""
    bars = ax.containers[-1]
    return *bars.lines[0].get_data(), [np.array(segment) for segment in bars.lines[2][0].get_segments()]


def drawn(ax):
    """The axes after drawing, outside of the style, as a user's own savefig or window would."""
    FigureCanvasAgg(ax.figure).draw()
    return ax


def legend(ax):
    return [text.get_text() for text in ax.get_legend().get_texts()]


# -- no traces ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", FIGURES)
def test_global_state_is_left_alone(name):
    before = dict(matplotlib.rcParams)
    FIGURES[name]()
    assert dict(matplotlib.rcParams) == before
    assert pyplot.get_fignums() == []


def test_an_error_restores_the_settings():
    before = dict(matplotlib.rcParams)
    with pytest.raises(ValueError, match="edges"):
        plots.correlation(COVARIANCE, EDGES[::-1])
    assert dict(matplotlib.rcParams) == before


def test_style_is_for_its_block_only():
    before = matplotlib.rcParams["xtick.direction"]
    with plots.style():
        assert matplotlib.rcParams["xtick.direction"] == "in"
        assert matplotlib.rcParams["font.family"][0] == "TeX Gyre Heros"
    assert before == matplotlib.rcParams["xtick.direction"] == "out"


def test_a_backend_chosen_inside_the_style_stays_interactive():
    """As a notebook's is, with pyplot's first figure: else no later figure would be shown."""
    assert not matplotlib.is_interactive()
    try:
        with plots.style():
            matplotlib.interactive(True)
        assert matplotlib.is_interactive()
    finally:
        matplotlib.interactive(False)


@pytest.mark.parametrize("name", FIGURES)
def test_look_outlasts_the_style_block(name):
    """Ticks and texts are made when first drawn, outside of the style; they look as inside of it."""
    ax = drawn(FIGURES[name]())
    for label in (ax.xaxis.label, ax.yaxis.label):
        assert (label.get_fontfamily()[0], label.get_fontsize()) == ("TeX Gyre Heros", 13)
    inside = -6.0 if "correlation" in name else 0.0  # its ticks point outwards, to leave the colours alone
    for tick in ax.yaxis.get_major_ticks():
        assert (tick.label1.get_fontfamily()[0], tick.label1.get_fontsize()) == ("TeX Gyre Heros", 11)
        assert tick.tick1line.get_markersize() == 6.0
        assert tick.get_pad() == 5.0
        assert tick.get_tick_padding() == -inside


def texts(figure):
    """The boxes of all texts that can be seen."""
    renderer = figure.canvas.get_renderer()
    for ax in figure.axes:
        for axis in (a for a in (ax.xaxis, ax.yaxis) if a.get_visible()):
            low, high = sorted(axis.get_view_interval())
            ticks = [*axis.get_major_ticks(), *axis.get_minor_ticks()]
            shown = [t for t in ticks if low <= t.get_loc() <= high]
            labels = [label for t in shown for label in (t.label1, t.label2)] + [axis.label, axis.get_offset_text()]
            yield from (t for t in labels if t.get_visible() and t.get_text() and t.get_window_extent(renderer).width)
        if ax.get_legend():
            yield from ax.get_legend().get_texts()


@pytest.mark.parametrize("name", FIGURES)
def test_no_text_overlaps_another_or_leaves_the_figure(name):
    figure = drawn(FIGURES[name]()).figure
    boxes = [(text.get_text(), text.get_window_extent().padded(-0.5)) for text in texts(figure)]
    assert len(boxes) > 5
    for (one, box), (other, second) in itertools.combinations(boxes, 2):
        assert not box.overlaps(second), f"{one!r} over {other!r}"
    for one, box in boxes:
        inside = figure.bbox.x0 <= box.x0 and box.x1 <= figure.bbox.x1 and box.y1 <= figure.bbox.y1 and box.y0 >= 0
        assert inside, f"{one!r} is cut off"


@pytest.mark.parametrize("name", ["spectrum", "spectrum, log", "weights", "iterations"])
def test_legend_is_above_everything_drawn(name):
    ax = drawn(FIGURES[name]())
    lower_end = ax.get_legend().get_window_extent().y0
    tops = [p.get_path().vertices[:, 1].max() for p in ax.patches]
    assert ax.transData.transform((1, max(tops)))[1] < lower_end


def test_figure_shows_itself_in_a_notebook():
    assert plots.history(run()).figure._repr_png_().startswith(b"\x89PNG")


# -- history -----------------------------------------------------------------------------------------------------------


def test_history_lines_are_the_losses():
    found = run()
    ax = plots.history(found)
    data = [line.get_ydata() for line in ax.lines]
    for k in range(4):
        assert_array_equal(data[k], found.train[:, k])
        assert_array_equal(data[5 + k], found.validation[:, k])
    assert_allclose(data[4], found.train.mean(1), rtol=1e-14)
    assert_allclose(data[9], found.validation.mean(1), rtol=1e-14)
    assert_array_equal(ax.lines[10].get_xdata(), found.best_epoch)
    assert_array_equal(ax.lines[10].get_ydata(), found.validation.min(0))
    assert legend(ax) == ["training (mean of 4)", "validation (mean of 4)", "best epoch"]


def test_history_has_the_learning_rate_on_the_right():
    left, right = plots.history(run()).figure.axes
    assert_array_equal(right.lines[0].get_ydata(), run().learning_rate)
    assert right.get_ylabel() == "learning rate"
    assert left.get_zorder() > right.get_zorder()


def test_history_means_over_the_members_that_still_run():
    train = [[1.0, 3.0], [0.5, np.nan], [0.25, np.nan]]
    ax = plots.history({"train": train, "validation": None, "best_epoch": None, "learning_rate": None})
    assert_array_equal(ax.lines[-1].get_ydata(), [2.0, 0.5, 0.25])
    assert legend(ax) == ["training (mean of 2)"]
    assert len(ax.figure.axes) == 1


def test_history_of_a_run_without_validation_rows():
    found = run()
    found.validation = np.full_like(found.train, np.nan)
    assert legend(plots.history(found)) == ["training (mean of 4)"]


# -- reliability -------------------------------------------------------------------------------------------------------


def test_reliability_draws_curve_and_pulls():
    main, lower = plots.reliability(curve())
    x, y, bars = points(main)
    assert_array_equal(x, curve()["predicted"])
    assert_array_equal(y, curve()["observed"])
    assert_allclose([high - low for (_, low), (_, high) in bars], 2 * curve()["uncertainty"], rtol=1e-12)
    assert_allclose(lower.lines[-1].get_ydata(), [2.0, -1.0, 0.0, -2.0], atol=1e-12)
    assert legend(main)[-1] == "3\u2009000 events\n$\\chi^2$ = 9.0 in 4 bins"  # 4 + 1 + 0 + 4
    assert [lower.get_xlabel(), lower.get_ylabel()] == ["predicted probability", "pull"]


def test_reliability_takes_the_metric_and_leaves_empty_bins_out():
    rng = np.random.default_rng(3)
    found = metrics.reliability(2 * rng.normal(1, 1, 2000), 2 * rng.normal(-1, 1, 2000), bins=[-30, -29, -1, 0, 1, 30])
    main, lower = plots.reliability(found)
    assert np.isnan(found.predicted[0])
    assert_array_equal(points(main)[0], found.predicted)  # NaN is not drawn
    assert_array_equal(lower.lines[-1].get_ydata(), found.pulls)
    assert "in 4 bins" in legend(main)[-1]


def test_a_bin_of_uncertainty_zero_has_no_pull():
    _, lower = plots.reliability(curve(uncertainty=np.array([0.02, 0.0, 0.03, 0.01])))
    assert np.isnan(lower.lines[-1].get_ydata()[1])


# -- spectrum ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("covariance", [COVARIANCE, SIGMA**2], ids=["matrix", "variances"])
def test_spectrum_band_is_the_root_of_the_diagonal(covariance):
    main, ratio = plots.spectrum(EDGES, VALUES, covariance, truth=TRUTH, prior=PRIOR)
    lines, [(upper, lower)] = steps(main)
    assert_allclose(upper, VALUES + SIGMA, rtol=1e-14)
    assert_allclose(lower, VALUES - SIGMA, rtol=1e-14)
    assert_array_equal(lines, [TRUTH, PRIOR])
    assert all((patch.get_data().edges == EDGES).all() for patch in main.patches)
    assert_array_equal(points(main)[1], VALUES)
    assert legend(main) == ["unfolded", "truth", "prior"]
    lines, [(upper, lower)] = steps(ratio)
    assert_allclose(upper, (VALUES + SIGMA) / TRUTH, rtol=1e-14)
    assert_allclose(lower, (VALUES - SIGMA) / TRUTH, rtol=1e-14)
    assert_allclose(lines, [np.ones(4), PRIOR / TRUTH], rtol=1e-14)
    assert_allclose(points(ratio)[1], VALUES / TRUTH, rtol=1e-14)
    assert ratio.get_ylabel() == "ratio to\ntruth"


def test_spectrum_ratio_falls_back_to_prior_then_to_itself():
    _, ratio = plots.spectrum(EDGES, VALUES, COVARIANCE, prior=PRIOR)
    assert_allclose(points(ratio)[1], VALUES / PRIOR, rtol=1e-14)
    assert ratio.get_ylabel() == "ratio to\nprior"
    main, ratio = plots.spectrum(EDGES, VALUES, COVARIANCE, label="data")
    assert_array_equal(points(ratio)[1], np.ones(4))
    assert_allclose(steps(ratio)[1][0][0], 1 + SIGMA / VALUES, rtol=1e-14)
    assert (ratio.get_ylabel(), legend(main)) == ("ratio to\nunfolded", ["data"])


def test_density_divides_everything_by_the_widths():
    main, ratio = plots.spectrum(EDGES, VALUES, COVARIANCE, truth=TRUTH, prior=PRIOR, density=True)
    lines, [(upper, lower)] = steps(main)
    assert_allclose(lines, [TRUTH / WIDTH, PRIOR / WIDTH], rtol=1e-14)
    assert_allclose(upper - lower, 2 * SIGMA / WIDTH, rtol=1e-12)
    assert_allclose(points(main)[1], VALUES / WIDTH, rtol=1e-14)
    assert_allclose(points(ratio)[1], VALUES / TRUTH, rtol=1e-14)


@pytest.mark.parametrize(
    ("xlabel", "expected"),
    [
        ("p (GeV)", "events / GeV"),
        (r"$E_\mathrm{vis}$ [MeV]", "events / MeV"),
        ("p (GeV/c)", "events / (GeV/c)"),
        (r"$\cos\theta$", "events / bin width"),
        ("", "events / bin width"),
    ],
)
def test_density_is_stated_in_the_label(xlabel, expected):
    assert plots.spectrum(EDGES, VALUES, SIGMA, xlabel=xlabel, density=True)[0].get_ylabel() == expected
    assert plots.spectrum(EDGES, VALUES, SIGMA, xlabel=xlabel)[0].get_ylabel() == "events"


def test_points_are_in_the_visible_middle_and_span_the_bins():
    linear, _ = plots.spectrum(EDGES, VALUES, SIGMA)
    x, _, bars = points(linear)
    assert_allclose(x, (EDGES[1:] + EDGES[:-1]) / 2)
    assert_allclose(np.array(bars)[:, :, 0], np.stack([EDGES[:-1], EDGES[1:]], axis=1), rtol=1e-12)
    log, ratio = plots.spectrum(EDGES, VALUES, SIGMA, xscale="log", yscale="log")
    x, _, bars = points(log)
    assert_allclose(x, np.sqrt(EDGES[1:] * EDGES[:-1]))
    assert_allclose(np.array(bars)[:, :, 0], np.stack([EDGES[:-1], EDGES[1:]], axis=1), rtol=1e-12)
    assert [log.get_xscale(), log.get_yscale(), ratio.get_xscale(), ratio.get_yscale()] == ["log"] * 3 + ["linear"]
    assert log.get_xlim() == (0.5, 10.0)


def test_a_bin_without_reference_has_no_ratio():
    _, ratio = plots.spectrum(EDGES, VALUES, SIGMA**2, truth=[44.0, 0.0, 64.0, 10.0])
    assert_array_equal(np.isnan(points(ratio)[1]), [False, True, False, False])


def test_ratios_beyond_the_panel_are_marked():
    _, ratio = plots.spectrum(EDGES, VALUES, SIGMA**2, truth=[4.0, 85.0, 64.0, 10.0])
    low, high = ratio.get_ylim()
    marks = [line for line in ratio.lines if line.get_marker() == "^"]
    assert (low, high) == pytest.approx((-0.1, 2.1))
    assert_array_equal(marks[0].get_xdata(), [0.75])
    assert low < marks[0].get_ydata()[0] < high
    assert not [line for line in ratio.lines if line.get_marker() == "v"]


def test_all_is_inside_the_main_panel_with_signed_contents():
    main, _ = plots.spectrum(EDGES, [-20.0, 90.0, 60.0, 12.0], SIGMA**2, truth=[5.0, 80.0, 60.0, 10.0])
    assert main.get_ylim()[0] < -28
    assert main.get_ylim()[1] > 102


# -- iterations, correlation, weights ----------------------------------------------------------------------------------


def test_iterations_are_ratios_to_the_last():
    ax = plots.iterations([PRIOR, TRUTH, VALUES], EDGES, covariance=COVARIANCE)
    lines, [(upper, lower)] = steps(ax)
    assert_allclose(lines, [PRIOR / VALUES, TRUTH / VALUES, np.ones(4)], rtol=1e-14)
    assert_allclose(upper, 1 + SIGMA / VALUES, rtol=1e-14)
    assert_allclose(lower, 1 - SIGMA / VALUES, rtol=1e-14)
    assert ax.get_ylabel() == "ratio to iteration 3"
    assert legend(ax) == ["uncertainty (3)", "iteration 1", "iteration 2", "iteration 3"]


def test_many_iterations_have_a_short_legend_with_both_ends():
    names = legend(plots.iterations(np.arange(1.0, 21.0)[:, None] * VALUES, EDGES))
    assert len(names) == 8
    assert (names[0], names[-1]) == ("iteration 1", "iteration 20")


def test_correlation_is_exact_with_fixed_colours():
    mesh = plots.correlation(COVARIANCE, EDGES).collections[0]
    assert_allclose(mesh.get_array(), RHO, atol=1e-14)
    assert mesh.get_clim() == (-1, 1)
    assert_array_equal(mesh.get_coordinates()[0, :, 0], EDGES)
    assert_array_equal(mesh.get_coordinates()[:, 0, 1], EDGES)


def test_correlation_of_an_empty_bin_stays_grey():
    covariance = COVARIANCE.copy()
    covariance[1], covariance[:, 1] = 0, 0
    drawn = np.ma.getmaskarray(plots.correlation(covariance, EDGES).collections[0].get_array())
    assert drawn[1].all()
    assert drawn[:, 1].all()
    assert drawn.sum() == 7


def test_weights_histograms_quantiles_and_effective_size():
    each = event_weights()
    ax = plots.weights(each, bins=20)
    edges = np.linspace(each.min(), each.max(), 21)
    lines, _ = steps(ax)
    assert_array_equal(lines, [np.histogram(w, edges)[0] for w in (*each, each.mean(0))])
    assert [line.sum() for line in lines] == [500] * 4  # nothing falls outside
    mean = each.mean(0)
    at = [line.get_xdata()[0] for line in ax.lines if len(line.get_xdata()) == 2]
    assert_array_equal(at, np.sort(mean)[[4, 249, 494]])  # the 5th, 250th and 495th of 500
    quantiles = ", ".join(f"{x:.3g}" for x in at)
    size = mean.sum() ** 2 / (mean**2).sum()
    assert legend(ax) == [
        "mean of 3 members", f"quantiles 1, 50, 99%: {quantiles}", f"effective size {size:.0f} of 500"
    ]  # fmt: skip


def test_weights_of_weighted_events():
    ax = plots.weights([1.0, 1.0, 2.0, 2.0], sample_weight=[1.0, 3.0, -1.0, 5.0], bins=2, yscale="linear")
    assert_array_equal(steps(ax)[0], [[4.0, 4.0]])
    w = np.array([1.0, 3.0, -2.0, 10.0])
    assert legend(ax)[-1] == f"effective size {w.sum() ** 2 / (w**2).sum():.0f} of {8**2 / 36:.0f}"
    assert ax.get_ylabel() == "weighted events per bin"


def test_weights_that_are_all_one():
    ax = plots.weights(np.ones(10), bins=5)
    assert steps(ax)[0][0].sum() == 10
    assert legend(ax)[-1] == "effective size 10 of 10"


# -- axes of one's own, files ------------------------------------------------------------------------------------------


def test_drawing_on_given_axes():
    figure = Figure()
    one, two = figure.subplots(2, 1)
    assert plots.spectrum(EDGES, VALUES, SIGMA, axes=(one, two)) == (one, two)
    pair = Figure().subplots(2, 1)
    assert plots.reliability(curve(), ax=pair) == tuple(pair)
    for draw in (
        lambda ax: plots.history(run(), ax=ax),
        lambda ax: plots.weights(event_weights(), ax=ax),
        lambda ax: plots.iterations([TRUTH, VALUES], EDGES, ax=ax),
        lambda ax: plots.correlation(COVARIANCE, EDGES, ax=ax),
    ):
        ax = Figure().subplots()
        assert draw(ax) is ax
        drawn(ax)


def test_axes_of_the_wrong_kind():
    ax = Figure().subplots()
    with pytest.raises(TypeError, match=r"axes: expected a pair of matplotlib Axes .*found Axes"):
        plots.spectrum(EDGES, VALUES, SIGMA, axes=ax)
    with pytest.raises(TypeError, match="pair"):
        plots.reliability(curve(), ax=(ax, "lower"))
    with pytest.raises(TypeError, match="expected a matplotlib Axes, found str"):
        plots.weights([1.0, 2.0], ax="here")


def test_save_writes_png_and_pdf(tmp_path):
    figure = plots.history(run()).figure
    png, pdf = plots.save(figure, tmp_path / "new" / "losses.v1")
    assert sorted(p.name for p in (tmp_path / "new").iterdir()) == ["losses.v1.pdf", "losses.v1.png"]
    assert pyplot.imread(png).shape[:2] == (630, 750)  # 5.0 x 4.2 inches at 150 dots per inch
    content = pdf.read_bytes()
    assert content.startswith(b"%PDF")
    assert b"/Subtype /Image" not in content  # vectors only
    assert b"TeXGyreHeros" in content
    assert b"FontFile" not in content  # PostScript outlines in a TrueType stream would not be a valid PDF
    plots.save(figure, tmp_path / "again")
    assert (tmp_path / "again.pdf").read_bytes() == content


def test_a_failed_save_leaves_the_old_file(tmp_path):
    ax = plots.history(run())
    png, _ = plots.save(ax.figure, tmp_path / "losses")
    before = png.read_bytes()
    ax.set_title(r"$\unknown$")
    with pytest.raises(ValueError, match="unknown"):
        plots.save(ax.figure, tmp_path / "losses")
    assert png.read_bytes() == before
    assert len(list(tmp_path.iterdir())) == 2


def test_save_refuses_suffixes_and_axes(tmp_path):
    ax = plots.history(run())
    with pytest.raises(ValueError, match=r"expected a path without suffix, found '.PNG'"):
        plots.save(ax.figure, tmp_path / "losses.PNG")
    with pytest.raises(TypeError, match=r"expected a matplotlib figure, found Axes; .* ax.figure"):
        plots.save(ax, tmp_path / "losses")


# -- bad input ---------------------------------------------------------------------------------------------------------


def changed(array, at, value):
    array = np.array(array, float)
    array[at] = value
    return array


BAD_BINS = {
    "too few edges": ((EDGES[:1], VALUES, SIGMA), "edges: expected at least 2 bin edges"),
    "edges fall": ((EDGES[::-1], VALUES, SIGMA), "edges: expected rising numbers, found 10 before 4 at 0"),
    "edges infinite": ((changed(EDGES, 4, np.inf), VALUES, SIGMA), "edges: expected finite values"),
    "too many values": ((EDGES, [*VALUES, 1], SIGMA), r"values: expected one number for each of 4 bins, .*\(5,\)"),
    "values not finite": ((EDGES, changed(VALUES, 2, np.nan), SIGMA), "values: expected finite .* first at rows 2"),
    "covariance shape": ((EDGES, VALUES, COVARIANCE[:3]), r"covariance: expected shape \(4, 4\), .*found \(3, 4\)"),
    "covariance not finite": ((EDGES, VALUES, changed(COVARIANCE, (1, 1), np.nan)), "covariance: expected finite"),
    "variance negative": ((EDGES, VALUES, [1, 2, -3, 4]), r"variances: expected none below 0, found 1, .*bin 2 \(-3\)"),
    "diagonal negative": ((EDGES, VALUES, -COVARIANCE), "variances: expected none below 0, found 4"),
    "not symmetric": ((EDGES, VALUES, changed(COVARIANCE, (0, 1), 9.0)), "covariance: expected a symmetric matrix"),
}


@pytest.mark.parametrize("name", BAD_BINS)
def test_spectrum_refuses(name):
    arguments, message = BAD_BINS[name]
    with pytest.raises(ValueError, match=message):
        plots.spectrum(*arguments)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"truth": TRUTH[:3]}, r"truth: expected one number for each of 4 bins, found shape \(3,\)"),
        ({"prior": changed(PRIOR, 0, np.inf)}, "prior: expected finite values"),
        ({"xscale": "sqrt"}, "xscale: expected 'linear' or 'log', found 'sqrt'"),
    ],
)
def test_spectrum_refuses_options(options, message):
    with pytest.raises(ValueError, match=message):
        plots.spectrum(EDGES, VALUES, SIGMA, **options)


def test_logarithmic_axes_need_something_positive():
    with pytest.raises(ValueError, match=r"xscale='log': expected a first edge above 0, found at most -0.5"):
        plots.spectrum(EDGES - 1, VALUES, SIGMA, xscale="log")
    with pytest.raises(ValueError, match=r"yscale='log': expected bins above 0, found at most -12"):
        plots.spectrum(EDGES, -VALUES, SIGMA, yscale="log")
    with pytest.raises(ValueError, match=r"scale='log'"):
        plots.correlation(COVARIANCE, EDGES - 1, scale="log")
    with pytest.raises(ValueError, match=r"xscale='log'"):
        plots.iterations([TRUTH, VALUES], EDGES - 0.5, xscale="log")


def test_iterations_refuses():
    with pytest.raises(ValueError, match="expected at least 2 iterations, found 1"):
        plots.iterations([VALUES], EDGES)
    with pytest.raises(ValueError, match="iteration 2: expected one number for each of 4 bins"):
        plots.iterations([VALUES, VALUES[:2]], EDGES)
    with pytest.raises(ValueError, match="variances: expected none below 0"):
        plots.iterations([TRUTH, VALUES], EDGES, covariance=-SIGMA)


def test_correlation_refuses():
    with pytest.raises(ValueError, match=r"covariance: expected a matrix \(4, 4\), found shape \(4,\)"):
        plots.correlation(SIGMA, EDGES)
    with pytest.raises(ValueError, match=r"expected correlations in \[-1, 1\], found one of 1.5"):
        plots.correlation([[1.0, 1.5], [1.5, 1.0]], [0, 1, 2])


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"train": np.ones((2, 3, 4))}, r"train: expected losses of shape \(epochs, members\), found \(2, 3, 4\)"),
        ({"train": np.empty((0, 4))}, "train: expected losses"),
        ({"train": changed(run().train, (3, 1), np.nan)}, "train: expected finite values, .* first at rows 3"),
        ({"train": changed(run().train, (29, 1), np.inf)}, "train: expected finite values"),
        ({"validation": run().validation[:5]}, r"train and validation of one shape, found \(30, 4\), \(5, 4\)"),
        ({"validation": changed(run().validation, (slice(None), 2), np.nan)}, "validation: expected finite values"),
        ({"best_epoch": [1, 2, 3, 30]}, r"best_epoch: expected 4 integers in 0 .. 29, found \[1, 2, 3, 30\]"),
        ({"best_epoch": [1.0, 2, 3, 4]}, "best_epoch: expected 4 integers"),
        ({"learning_rate": [1e-3]}, "learning_rate: expected one number for each of 30 epochs"),
    ],
)
def test_history_refuses(change, message):
    with pytest.raises(ValueError, match=message):
        plots.history({**vars(run()), **change})


def test_missing_parts_name_the_closest():
    with pytest.raises(KeyError, match="no entry 'validation'; closest: 'valdation'"):
        plots.history({"train": [1.0], "valdation": [1.0]})
    with pytest.raises(KeyError, match="no entry 'observed'"):
        plots.reliability(SimpleNamespace(predicted=[0.5]))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"observed": [0.1]}, r"expected one number per bin in each part, .*observed \(1,\)"),
        ({"observed": changed(curve()["observed"], 1, np.nan)}, "observed: expected finite values"),
        ({"counts": changed(curve()["counts"], 1, np.inf)}, "counts: expected finite values"),
        ({"uncertainty": -curve()["uncertainty"]}, "uncertainty: expected none below 0, found 4"),
        ({"counts": -curve()["counts"]}, "counts: expected none below 0"),
        (dict.fromkeys(("predicted", "observed", "uncertainty"), np.full(4, np.nan)), "expected bins with events"),
    ],
)
def test_reliability_refuses(change, message):
    with pytest.raises(ValueError, match=message):
        plots.reliability(curve(**change))


@pytest.mark.parametrize(
    ("arguments", "options", "message"),
    [
        ([], {}, r"weights: expected shape \(members, events\)"),
        (np.ones((2, 2, 2)), {}, r"weights: expected shape \(members, events\) .*found \(2, 2, 2\)"),
        ([[1.0, np.nan], [1.0, 1.0]], {}, "weights: expected finite values, found 1 of 2 .*rows 1"),
        ([1.0, 2.0], {"sample_weight": [1.0]}, "sample_weight: expected one number for each of 2 events"),
        ([1.0, 2.0], {"sample_weight": [1.0, np.inf]}, "sample_weight: expected finite values"),
        ([1.0, 2.0], {"sample_weight": [0.0, 0.0]}, "sample_weight: expected weights that are not all zero"),
        ([1.0, 2.0], {"yscale": "cube"}, "yscale: expected 'linear' or 'log'"),
        ([1.0, 2.0], {"bins": 0}, "bins: expected at least 1, found 0"),
    ],
)
def test_weights_refuses(arguments, options, message):
    with pytest.raises(ValueError, match=message):
        plots.weights(arguments, **options)


def test_every_public_function_is_documented_with_its_errors():
    for name in plots.__all__:
        text = getattr(plots, name).__doc__
        assert ">>>" in text, name
        assert name == "style" or re.search("Raises", text), name
