"""Figures of hunts and of checks of a background's shape: the data of the artists; curves against the truth."""

from __future__ import annotations

from dataclasses import replace

import matplotlib
import numpy as np
import pytest

matplotlib.use("Agg")

from matplotlib import pyplot
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from numpy.testing import assert_allclose, assert_array_equal
from scipy import stats
from stored_anomaly import hunt_record, hunt_toys, injection

from nuinfer import plots
from nuinfer.anomaly.bump import (
    BumpLikelihood,
    Exponential,
    GaussianPeak,
    choose_order,
    profile_envelope,
    signal_injection,
)
from nuinfer.anomaly.hunting import Hunt
from nuinfer.anomaly.regions import Window
from nuinfer.anomaly.templates.sculpting import sculpting_of_cuts, sculpting_test
from nuinfer.plots.hunts import hunt_p, hunt_spectra, importance, score_by_mass, sculpting
from nuinfer.plots.sensitivity import _curve, injected_sic, injection_limits, injections, sic

RNG = np.random.default_rng(1)


def texts(ax: Axes) -> list[str]:
    legend = ax.get_legend()
    return [] if legend is None else [legend.get_title().get_text(), *(text.get_text() for text in legend.get_texts())]


def drawn(*axes: Axes) -> None:
    """Draw them, with warnings as errors."""
    for ax in axes:
        FigureCanvasAgg(ax.figure).draw()  # type: ignore[arg-type]
    assert not pyplot.get_fignums()  # a figure of its own is not pyplot's


def wide(windows: int = 5) -> Hunt:
    """A hunt in windows of width 1 from 1, with p-values that are known; the third has no fit at the second cut."""
    z = np.stack([np.linspace(-1, 1, windows), np.linspace(0, 4, windows)], 1)
    z[2, 1] = np.nan
    p = stats.norm.sf(z)
    signal = np.stack([np.arange(1.0, windows + 1), np.arange(2.0, windows + 2)], 1)
    none = hunt_toys()
    empty = replace(none, p=np.empty((0, windows, 2)), z=np.empty((0, windows, 2)))
    status = tuple("" if np.isfinite(v) else "no fit" for v in z.ravel())
    return replace(hunt_record(), signal=signal, p=p, z=z, status=status, toys=empty)


def smooth(events: int = 4000) -> Hunt:
    """A hunt whose scores are the mass plus noise."""
    mass, noise = RNG.uniform(0, 4, events), RNG.normal(0, 1, events)
    scores = (mass + noise)[None]
    return replace(hunt_record(), mass=mass, scores=scores)


# -- spectra and p-values ----------------------------------------------------------------------------------------------


def test_spectra_are_counts_and_fits() -> None:
    hunt = replace(hunt_record(), background=np.full((1, 2, 4), 1.5), band=np.full((1, 2, 4), 0.25))
    main, below = hunt_spectra(hunt, xlabel="m (GeV)", yscale="linear")
    drawn(main)
    for place, row in enumerate((0, 1)):
        n = hunt.counts[0, row]
        x, y = main.containers[place].lines[0].get_data()
        assert_array_equal(x, (np.arange(4) + 0.5)[n > 0])
        assert_array_equal(y, n[n > 0])
        curve, band = main.patches[1 + 2 * place].get_data(), main.patches[2 + 2 * place].get_data()  # type: ignore[attr-defined]
        assert_array_equal(curve.values, np.full(4, 1.5))
        assert_array_equal(band.values - band.baseline, np.full(4, 0.5))
        ratio = 2 * (stats.poisson.logpmf(n, np.maximum(n, 1e-300)) - stats.poisson.logpmf(n, 1.5))
        assert_allclose(below.lines[place].get_ydata(), np.sign(n - 1.5) * np.sqrt(ratio), atol=1e-12)
        assert ((np.asarray(below.lines[place].get_xdata()) % 1) > 0).all()
    assert texts(main)[1:] == ["signal region", "100%: $Z$ = 0.0", "50%: $Z$ = 2.3"]
    shade = main.patches[0].get_window_extent()
    assert_allclose(main.transData.inverted().transform(shade)[:, 0], [1, 2])
    assert main.get_ylabel() == "events"


def test_spectra_of_uneven_bins_are_densities() -> None:
    hunt = replace(hunt_record(), edges=np.array([0.0, 1, 2, 3, 3.25]))
    main, _ = hunt_spectra(hunt, efficiencies=[1])
    drawn(main)
    assert_array_equal(main.containers[0].lines[0].get_ydata(), hunt.counts[0, 0] / [1, 1, 1, 0.25])
    assert main.get_ylabel() == "events / 1"
    assert len(main.containers) == 1
    # an edge that is there twice, up to rounding, does not spoil the axis
    twice = np.array([0.0, 1, 2, np.nextafter(2, 3), 3])
    counts = hunt.counts * [1, 1, 0, 1]
    main, _ = hunt_spectra(replace(hunt, edges=twice, counts=counts))
    assert main.get_ylim()[1] < 1e3


def test_spectra_without_a_fit_have_points_alone() -> None:
    nothing = np.full((1, 2, 4), np.nan)
    hunt = replace(hunt_record(), background=nothing, band=nothing, z=np.full((1, 2), np.nan))
    main, below = hunt_spectra(hunt)
    drawn(main)
    assert len(main.patches) == 1  # the signal region
    assert len(main.containers) == 2
    assert len(below.lines) == 1  # zero
    assert texts(main)[2:] == ["100%: no fit", "50%: no fit"]


def test_p_values_lie_at_the_windows() -> None:
    hunt = wide()
    ax = hunt_p(hunt, xlabel="m (GeV)")
    drawn(ax)
    for place in (0, 1):
        x, y = ax.containers[place].lines[0].get_data()
        assert_array_equal(x, [1.5, 2.5, 3.5, 4.5, 5.5])
        assert_array_equal(y, hunt.p[:, place])
    heights = [float(line.get_ydata()[0]) for line in ax.lines if len(line.get_ydata()) == 2 and line not in points(ax)]
    assert set(np.round(stats.norm.sf(np.arange(1, 5)), 12)) <= set(np.round(heights, 12))
    sidak = 1 - (1 - stats.norm.sf(4)) ** 10
    assert f"global $p$ \u2264 {sidak:.2g} (Sidak, 10 tests)" in texts(ax)[0]
    assert texts(ax)[1:] == ["100%", "50%"]


def points(ax: Axes) -> list[object]:
    return [container.lines[0] for container in ax.containers]


def test_global_p_by_toys_is_said() -> None:
    said = texts(hunt_p(hunt_record()))[0]  # p = 0.01 is beyond none of three toys but that with a fit that failed
    assert "global $p$ = 0.5 (0.0$\\sigma$, 3 toys)" in said
    rare = replace(hunt_toys(), p=np.full((3, 1, 2), 0.5))
    assert "global $p$ < 0.6 (95%, 3 toys)" in texts(hunt_p(replace(hunt_record(), toys=rare)))[0]


def test_p_values_of_any_size() -> None:
    hunt = wide()
    z = hunt.z * 20
    ax = hunt_p(replace(hunt, z=z, p=stats.norm.sf(z)))
    drawn(ax)
    y = np.asarray(ax.containers[1].lines[0].get_ydata())
    assert_allclose(y, stats.norm.logsf(z[:, 1]) / np.log(10), rtol=1e-12, atol=1e-15)


# -- the score ---------------------------------------------------------------------------------------------------------


def test_sculpting_is_relative_to_all_bins() -> None:
    mass, score = RNG.uniform(2, 4, 3000), RNG.normal(size=3000)
    window = Window(signal=(2.8, 3.2), sidebands=((2, 2.8), (3.2, 4)))
    result = sculpting_test(score, mass, efficiencies=[0.5, 0.1], bins=6, exclude=window)
    ax = sculpting(result, xlabel="m (TeV)")
    drawn(ax)
    for place in (0, 1):
        x, y = ax.containers[place].lines[0].get_data()
        assert_allclose(y, result.efficiency[place] / result.overall[place])
        assert ((x > result.bins[:, 0]) & (x < result.bins[:, 1])).all()
        bars = np.array(ax.containers[place].lines[2][0].get_segments())[:, :, 1]
        assert_allclose(np.diff(bars).ravel() / 2, result.errors[place] / result.overall[place])
    assert f"all cuts: $p$ = {result.combined_p:.2g}" == texts(ax)[0]
    shaded = [ax.transData.inverted().transform(p.get_window_extent())[:, 0] for p in ax.patches]
    wide_gap = [ends for ends in shaded if np.diff(ends) > 0.3]
    assert len(wide_gap) == 1
    assert_allclose(wide_gap[0], [2.8, 3.2], atol=0.02)
    one = sculpting(sculpting_test(score, mass, efficiencies=[0.5]))
    assert texts(one)[0] == ""
    with pytest.raises(ValueError, match="pass some weight"):
        sculpting(sculpting_of_cuts(np.zeros((1, 100), bool), mass[:100]))


def test_quantiles_of_the_score_follow_the_mass() -> None:
    hunt = smooth()
    ax = score_by_mass(hunt, quantiles=[0.5, 0.9, 0.999], bins=8)
    drawn(ax)
    middle = np.linspace(0.25, 3.75, 8)
    median, upper, rare = (patch.get_data().values for patch in ax.patches)  # type: ignore[attr-defined]
    # of a bin: the mean mass plus noise, whose quantiles are 0 and 1.28; 500 events each, five deviations
    assert_allclose(median, middle, atol=5 * 1.25 / np.sqrt(500))
    assert_allclose(upper, middle + stats.norm.ppf(0.9), atol=5 * 1.71 / np.sqrt(500) + 0.02)
    assert not (np.abs(median - median.mean()) < 5 * 1.25 / np.sqrt(500)).all()  # a blind score would be flat
    assert np.isnan(rare).all()  # half an event beyond
    for make, message in (
        (lambda: score_by_mass(hunt, quantiles=[1.0]), "in \\(0, 1\\)"),
        (lambda: score_by_mass(hunt, bins=1), "2 bins"),
        (lambda: score_by_mass(replace(hunt, scores=np.full((1, 4000), np.nan))), "scores within"),
    ):
        with pytest.raises(ValueError, match=message):
            make()


def test_importances_are_bars_from_the_largest() -> None:
    hunt = replace(
        hunt_record(), features=("x", "y", "z"), importance=np.array([[0.1, 0.3, -0.02]]),
        importance_error=np.array([[0.02, 0.01, 0.03]]),
    )  # fmt: skip
    ax = importance(hunt, labels={"y": "$y$"})
    drawn(ax)
    assert [text.get_text() for text in ax.get_yticklabels()] == ["$y$", "x", "z"]
    bars = next(c for c in ax.containers if hasattr(c, "patches"))
    assert_allclose([bar.get_width() for bar in bars.patches], [0.3, 0.1, -0.02])
    assert "0.60 ± 0.10" in ax.get_xlabel()
    cloud = replace(hunt, features=("jets.pt", "jets.eta", "met"), importance=np.array([[0.1, 0.3]]),
                    importance_error=np.array([[0.1, 0.3]]))  # fmt: skip
    assert {text.get_text() for text in importance(cloud).get_yticklabels()} == {"jets", "met"}
    with pytest.raises(ValueError, match="give importance= to hunt"):
        importance(replace(hunt, importance=np.empty((1, 0))))
    with pytest.raises(ValueError, match="without scores"):
        importance(replace(hunt, importance=np.full((1, 3), np.nan)))


# -- significance improvement ------------------------------------------------------------------------------------------


def exact(eps_s: np.ndarray, d: float = 1.5) -> np.ndarray:
    """Of normal scores d apart."""
    return np.asarray(eps_s / np.sqrt(stats.norm.sf(stats.norm.isf(eps_s) + d)))


@pytest.mark.parametrize("against", ["signal", "rejection"])
def test_improvement_is_right_and_its_band_too(against: str) -> None:
    pulls, events = [], 1000
    at = [79, 99, 139] if against == "signal" else [60, 100]  # efficiencies of 0.4, 0.5, 0.7; rejections of 5 and 14
    for _ in range(1000):
        curve = _curve("", (RNG.normal(1.5, 1, events), RNG.normal(0, 1, 10_000)), against, 50)
        x = curve.x[at]
        eps_s = x if against == "signal" else stats.norm.sf(stats.norm.isf(1 / x) - 1.5)
        pulls.append((curve.value[at] - exact(eps_s)) / (curve.high - curve.value)[at])
    assert (np.abs(np.mean(pulls, 0)) < 0.16).all()  # five standard errors
    assert ((np.std(pulls, 0) > 0.9) & (np.std(pulls, 0) < 1.1)).all()
    # the band that is drawn is this one
    scores = RNG.normal(1.5, 1, events), RNG.normal(0, 1, 10_000)
    ax, curve = sic({"": scores}, against=against, fewest=50), _curve("", scores, against, 50)  # type: ignore[arg-type]
    drawn(ax)
    assert_array_equal(ax.lines[0].get_ydata(), curve.value)
    upper = ax.collections[0].get_paths()[0].vertices[:, 1]  # type: ignore[index]
    assert np.isin(np.round(curve.high[at], 9), np.round(upper, 9)).all()


def test_lines_end_where_few_events_pass() -> None:
    signal, background = RNG.normal(1.5, 1, 2000), RNG.normal(0, 1, 5000)
    for fewest in (20, 200):
        ax = sic({"": (signal, background)}, fewest=fewest)
        x, y = (np.asarray(part, float) for part in ax.lines[0].get_data())
        assert_array_equal(np.isfinite(y), (x / y) ** 2 * 5000 > fewest - 0.5)
        cut = np.sort(signal)[::-1][np.ceil(x * 2000 - 1e-9).astype(int) - 1]
        passing = (background >= cut[:, None]).sum(1)
        assert_array_equal(np.isfinite(y), passing >= fewest)
        other = sic({"": (signal, background)}, fewest=fewest, against="rejection")
        drawn(ax, other)
        assert_allclose(other.lines[0].get_xdata()[-1], 5000 / fewest)
    assert_allclose(ax.lines[1].get_ydata(), np.sqrt(np.linspace(0, 1, 200)))  # random


def test_trainings_have_a_median_and_a_band() -> None:
    pairs = [(RNG.normal(shift, 1, 500), RNG.normal(0, 1, 2000)) for shift in (1.0, 1.5, 2.0)]
    ax = sic({"three": pairs, "one": pairs[1]}, ylim=(0, 6))
    drawn(ax)
    single = [np.asarray(sic({"": pair}).lines[0].get_ydata(), float) for pair in pairs]
    expected = np.median(single, axis=0)
    assert_allclose(ax.lines[0].get_ydata(), expected)
    assert texts(ax)[1:] == ["three", "one", "random"]
    assert ax.get_ylim() == (0, 6)


def test_bad_scores_are_refused() -> None:
    good = RNG.normal(size=200), RNG.normal(size=200)
    for given, options, message in (
        ({}, {}, "1 to 6 curves"),
        ({"a": good}, {"fewest": 0}, "1 event or more"),
        ({"a": good}, {"against": "mass"}, "'rejection'"),
        ({"a": good}, {"fewest": 500}, "500 background events"),
        ({"a": []}, {}, "a list of pairs"),
        ({"a": [good[0]]}, {}, "pairs \\(signal, background\\)"),
        ({"a": (np.array([np.nan]), good[1])}, {}, "signal scores of 'a'"),
        ({"a": (good[0][:0], good[1])}, {}, "expected signal events"),
    ):
        with pytest.raises(ValueError, match=message):
            sic(given, **options)  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="by label"):
        sic(good)  # type: ignore[arg-type]


# -- injections --------------------------------------------------------------------------------------------------------


def test_injections_show_z_excess_and_efficiency() -> None:
    scan = injection()  # half of 0, 10, 20 events pass; z is half of that
    main, below = injections(scan)
    drawn(main)
    assert_allclose(main.lines[0].get_xydata(), [[0, 0], [10, 2.5], [20, 5]])
    assert_allclose(below.containers[0].lines[0].get_xydata(), [[10, 0.5], [20, 0.5]])
    ends = np.array(below.containers[0].lines[2][0].get_segments())[:, :, 1]
    assert_allclose(np.diff(ends).ravel() / 2, np.sqrt(0.25 / np.array([20, 40])))
    assert texts(main)[1:] == ["10%"]
    main, _ = injections(scan, shown="excess")
    drawn(main)
    assert_allclose(main.containers[0].lines[0].get_xydata(), [[0, 0], [10, 5], [20, 10]])
    assert_allclose(main.lines[0].get_ydata(), [0, 5, 10])
    failed = scan.z.copy(), scan.expected.copy()
    failed[0][1], failed[1][1] = np.nan, np.nan
    broken = replace(scan, z=failed[0], expected=failed[1])
    for shown in ("significance", "excess"):
        main, _ = injections(broken, shown=shown)  # type: ignore[arg-type]
        drawn(main)
    assert np.isnan(main.containers[0].lines[0].get_ydata()[1])
    with pytest.raises(ValueError, match="'significance' or 'excess'"):
        injections(scan, shown="p")  # type: ignore[arg-type]


def test_spread_of_trainings_is_in_the_efficiency() -> None:
    passing = injection().passing.copy()
    passing[2, :, 0, 0] = 2, 18
    _, below = injections(replace(injection(), passing=passing))
    ends = np.array(below.containers[0].lines[2][0].get_segments())[:, :, 1]
    assert_allclose(np.diff(ends[1]) / 2, 0.4)  # 0.1 and 0.9, not the binomial 0.08


def test_limits_are_those_of_the_scan() -> None:
    scan = injection()
    limits = scan.limits()
    ax = injection_limits(scan)
    drawn(ax)
    wide_band, narrow = ax.patches[:2]
    low, high = limits.expected[0, 0][[0, 4]]
    top = high if np.isfinite(high) else ax.patches[0].get_y() + ax.patches[0].get_height()  # type: ignore[attr-defined]
    assert wide_band.get_y() == pytest.approx(low)  # type: ignore[attr-defined]
    assert wide_band.get_y() + wide_band.get_height() == pytest.approx(top)  # type: ignore[attr-defined]
    assert narrow.get_y() == pytest.approx(limits.expected[0, 0, 1])  # type: ignore[attr-defined]
    assert_allclose(ax.lines[0].get_ydata(), limits.expected[0, 0, 2])
    assert "observed" not in texts(ax)
    hunt = replace(hunt_record(), efficiencies=np.array([0.1]), observed=np.array([[6.0]]),
                   expected=np.array([[5.0]]), errors=np.array([[1.0]]))  # fmt: skip
    ax = injection_limits(scan, hunt, label="events")
    drawn(ax)
    assert_allclose(ax.lines[1].get_ydata(), scan.limits(hunt).observed[0])
    assert ax.get_ylabel() == "95% upper limit on events"
    many = replace(hunt, observed=np.array([[400.0]]))
    ax = injection_limits(scan, many)
    drawn(ax)
    assert len(ax.texts) == 1  # an arrow: nothing is excluded
    nothing = replace(hunt, expected=np.array([[np.nan]]))
    with pytest.raises(ValueError, match="found none"):
        injection_limits(scan, nothing)


def test_improvement_by_strength() -> None:
    rise = np.arange(1.0, 4)[:, None, None, None]
    scan = replace(injection(), improvement=rise * np.array([[1.0], [3.0]])[None, :, None] + np.zeros((3, 2, 1, 3)))
    ax = injected_sic(scan)
    drawn(ax)
    assert_allclose(ax.lines[0].get_ydata(), [4, 4, 4])  # the median of 2 and 6 at a strength of 10
    assert texts(ax)[1:] == ["10 events", "20 events", "supervised", "random"]
    assert_allclose(ax.lines[2].get_ydata(), scan.supervised[0])
    one = injected_sic(scan, strengths=[20])
    assert texts(one)[1:] == ["20 events", "supervised", "random"]
    single = replace(scan, improvement=scan.improvement[:, :1], improvement_error=scan.improvement_error[:, :1],
                     supervised=np.full((1, 3), np.nan))  # fmt: skip
    ax = injected_sic(single)
    drawn(ax)
    y = ax.collections[0].get_paths()[0].vertices[:, 1]  # type: ignore[index]
    assert_allclose(sorted(set(np.round(y, 9))), [1.9, 2.1])
    with pytest.raises(ValueError, match="found \\[5\\]"):
        injected_sic(scan, strengths=[5])


# -- shapes of the background ------------------------------------------------------------------------------------------

EDGES = np.linspace(0.0, 10.0, 41)
MIDDLE = 0.5 * (EDGES[1:] + EDGES[:-1])
CURVED = np.exp(6 - MIDDLE / 2 + 0.03 * MIDDLE**2)
FAMILY = [Exponential(1), Exponential(2), Exponential(3)]
LIKELIHOOD = BumpLikelihood.binned(np.random.default_rng(2).poisson(CURVED), FAMILY[0], GaussianPeak(0.4), edges=EDGES)


@pytest.mark.parametrize("criterion", ["likelihood-ratio", "f-test", "bic"])
def test_orders_show_tests_and_criteria(criterion: str) -> None:
    choice = choose_order(LIKELIHOOD, FAMILY, criterion=criterion)  # type: ignore[arg-type]
    tests, scores = plots.shape_orders(choice, labels={"Exponential(1)": "1"})
    drawn(tests)
    against = choice.f_p if criterion == "f-test" else choice.ratio_p
    assert_array_equal(tests.lines[0].get_ydata(), np.where(choice.gof >= 1e-8, choice.gof, np.nan))
    y = np.asarray(next(line for line in tests.lines if "next" in str(line.get_label())).get_ydata())
    assert_array_equal(y, np.where(against >= 1e-8, against, np.nan))
    assert [line.get_marker() for line in tests.lines].count("v") == int((choice.gof < 1e-8).any()) + int(
        (against < 1e-8).any()
    )
    for line, value in zip(scores.lines, (choice.aic, choice.aicc, choice.bic), strict=True):
        assert_allclose(line.get_ydata(), value - value.min())
    assert [text.get_text() for text in scores.get_xticklabels()] == ["1", "Exponential(2)", "Exponential(3)"]
    assert choice.best == 1


def test_yields_come_back_in_the_figure() -> None:
    found = signal_injection(LIKELIHOOD.with_background(FAMILY[1]), 5.0, [40.0, 0.0], toys=60, seed=1)
    main, below = plots.fitted_yields(found)
    drawn(main)
    assert_array_equal(main.containers[0].lines[0].get_ydata(), found.fitted[::-1])
    assert_array_equal(below.containers[0].lines[0].get_ydata(), found.pull[::-1])
    line = next(line for line in main.lines if str(line.get_label()).startswith("slope"))
    assert_allclose(line.get_ydata(), found.offset + found.slope * np.array([0.0, 40.0]))


def test_envelope_is_the_least_of_its_curves() -> None:
    found = profile_envelope(LIKELIHOOD, FAMILY[1:], 5.0, np.linspace(-40, 160, 41))
    ax = plots.yield_envelope(found, labels={"Exponential(2)": "two"})
    drawn(ax)
    assert_array_equal(ax.lines[0].get_ydata(), found.least)
    assert_array_equal(ax.lines[1].get_ydata(), found.curves[0])
    assert texts(ax)[1:] == ["envelope", "two", "Exponential(3)"]
    low, high = found.interval(stats.chi2.ppf(0.95, 1))
    assert ax.get_xlim()[0] < low < high < ax.get_xlim()[1]
    heights = [float(np.asarray(line.get_ydata())[0]) for line in ax.lines[3:5]]
    assert_allclose(heights, stats.chi2.ppf([0.68, 0.95], 1))
    with pytest.raises(ValueError, match="at most 6 shapes"):
        plots.yield_envelope(replace(found, shapes=("a",) * 7))


# -- all of them -------------------------------------------------------------------------------------------------------


def test_axes_of_ones_own_and_bad_windows() -> None:
    own = Figure().subplots(2, 1)
    assert hunt_spectra(hunt_record(), axes=own)[0] is own[0]
    assert hunt_p(wide(), ax=own[1]) is own[1]
    for make in (hunt_spectra, score_by_mass, importance):
        with pytest.raises(ValueError, match="window: expected a number from 0 to 0, found 1"):
            make(hunt_record(), window=1)
    for make in (injections, injection_limits, injected_sic):
        with pytest.raises(ValueError, match="window: expected a number from 0 to 0, found 3"):
            make(injection(), window=3)
    with pytest.raises(ValueError, match=r"expected some of \[1.0, 0.5\], found \[0.3\]"):
        hunt_p(hunt_record(), efficiencies=[0.3])
    with pytest.raises(ValueError, match="1 to 6"):
        hunt_spectra(hunt_record(), efficiencies=[])
    with pytest.raises(TypeError, match="Axes"):
        importance(hunt_record(), ax="here")  # type: ignore[arg-type]


def test_an_efficiency_alone_is_one_of_a_list() -> None:
    one = hunt_spectra(hunt_record(), efficiencies=0.5)[0]  # type: ignore[arg-type]
    assert texts(one) == texts(hunt_spectra(hunt_record(), efficiencies=[0.5])[0])
