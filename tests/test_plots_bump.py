"""Figures of fits with a peak: the data of the artists, exactly."""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise

import matplotlib
import numpy as np
import pytest

matplotlib.use("Agg")

from matplotlib import pyplot
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from numpy.testing import assert_allclose, assert_array_equal
from numpy.typing import NDArray
from scipy import stats

from nuinfer.anomaly.bump import (
    BumpLikelihood,
    Exponential,
    GaussianPeak,
    fit_bump,
    global_p_toys,
    gross_vitells,
    mass_grid,
    scan_masses,
    scan_toys,
    spurious_signal,
    yield_limits,
)
from nuinfer.plots.bump_fits import bump_fit, bump_limits, excess_toys, local_p, spurious_signals

EDGES = np.linspace(0.0, 10.0, 41)
MIDDLE = 0.5 * (EDGES[1:] + EDGES[:-1])
PEAK = GaussianPeak(0.4)
COUNTS = np.random.default_rng(1).poisson(100 * np.exp(-MIDDLE / 4) + 40 * np.exp(-0.5 * ((MIDDLE - 5) / 0.4) ** 2))
LIKELIHOOD = BumpLikelihood.binned(COUNTS, Exponential(1), PEAK, edges=EDGES)
BLIND = BumpLikelihood.binned(COUNTS, Exponential(1), PEAK, edges=EDGES, exclude=[(4.0, 6.0)])
MASSES = mass_grid(PEAK, 1.0, 9.0)
SCAN = scan_masses(LIKELIHOOD, MASSES)
TOYS = scan_toys(LIKELIHOOD, MASSES, toys=200, seed=2)


def texts(ax: Axes) -> list[str]:
    legend = ax.get_legend()
    return [] if legend is None else [text.get_text() for text in legend.get_texts()]


def drawn(ax: Axes) -> None:
    """Draw it, with warnings as errors."""
    FigureCanvasAgg(ax.figure).draw()  # type: ignore[arg-type]
    assert not pyplot.get_fignums()  # a figure of its own is not pyplot's


def picture(ax: Axes) -> NDArray[np.uint8]:
    canvas = FigureCanvasAgg(ax.figure)  # type: ignore[arg-type]
    canvas.draw()
    return np.array(canvas.buffer_rgba())


def test_fit_has_data_signal_and_pulls() -> None:
    fit = fit_bump(LIKELIHOOD, 5.0)
    main, below = bump_fit(fit, xlabel="m (GeV)")
    drawn(main)
    total, band, background, signal = (patch.get_data() for patch in main.patches)
    assert_allclose(total.values, fit.expected)
    assert_allclose(band.values - band.baseline, 2 * fit.band)
    assert_allclose(background.values, fit.background)
    assert_allclose(signal.values, np.maximum(fit.signal, 1e-9))
    assert_allclose(main.lines[0].get_xydata(), np.stack([MIDDLE, COUNTS], 1)[COUNTS > 0])
    alone = replace(fit, signal=0 * fit.signal)
    assert_allclose(below.lines[-1].get_ydata(), alone.pulls)
    assert_allclose(below.patches[-1].get_data().values, fit.signal / np.sqrt(fit.background))  # type: ignore[attr-defined]
    assert any("signal at 5" in text for text in texts(main))
    # error bars hold 68% of Poisson's law
    bars = main.collections[0].get_segments()  # type: ignore[attr-defined]
    n, (low, high) = COUNTS[COUNTS > 0][0], bars[0][:, 1]
    assert stats.poisson.sf(n - 1, low) == pytest.approx(stats.norm.sf(1))
    assert stats.poisson.cdf(n, high) == pytest.approx(stats.norm.sf(1))


@pytest.mark.parametrize(("yscale", "mass"), [("log", None), ("linear", 3.8)])
def test_blinded_bins_stay_blinded(yscale: str, mass: float | None) -> None:
    fit = fit_bump(BLIND, mass)
    main, below = bump_fit(fit, yscale=yscale)  # type: ignore[arg-type]
    drawn(main)
    for ax in (main, below):
        x = np.concatenate([np.asarray(line.get_xdata(), float) for line in ax.lines if len(line.get_xdata()) > 2])
        assert not ((x > 4) & (x < 6)).any()
        assert len(x) == 32
        segments = np.concatenate([np.asarray(c.get_segments())[:, 0, 0] for c in ax.collections])  # type: ignore[attr-defined]
        assert not ((segments > 4) & (segments < 6)).any()
    assert "not used" in texts(main)
    assert texts(main).count("not used") == 1
    seen = picture(main)
    # other contents there change nothing, the picture is the same; those of a bin that is used do
    few, many = (np.where(fit.used, COUNTS, n) for n in (1, 10**6))
    for counts, same in ((few, True), (many, True), (COUNTS + 30 * (MIDDLE[30] == MIDDLE), False)):
        other, _ = bump_fit(fit_bump(BLIND.with_counts(counts), mass), yscale=yscale)  # type: ignore[arg-type]
        assert np.array_equal(picture(other), seen) is same


def test_a_moved_signal_is_named_by_its_place() -> None:
    free = BumpLikelihood.binned(COUNTS, Exponential(1), PEAK, edges=EDGES, free=["mass_scale"])
    fit = fit_bump(free, 4.7)
    place = fit.values["mass_scale"] * 4.7
    assert place == pytest.approx(5, abs=0.1)
    said = [text for text in texts(bump_fit(fit)[0]) if text.startswith("signal")]
    assert [text.split(":")[0] for text in said] == [f"signal at {place:.5g}"]


def test_local_p_has_lines_of_sigma_and_words() -> None:
    ax = local_p(SCAN, global_p=global_p_toys(SCAN, TOYS), expected=np.full(len(MASSES), 2.0), xlabel="m (GeV)")
    drawn(ax)
    assert_array_equal(ax.lines[0].get_ydata(), SCAN.p)
    assert_allclose(ax.lines[1].get_ydata(), stats.norm.sf(2))
    heights = [float(np.asarray(line.get_ydata())[0]) for line in ax.lines[3:]]
    assert_allclose(heights, stats.norm.sf(np.arange(1, len(heights) + 1)))
    assert len(heights) >= SCAN.z.max()
    assert "global p" in texts(ax)[-1]
    assert max(ax.get_yticks()) <= 1
    z = SCAN.z.copy()
    z[3] = np.nan
    gaps = local_p(replace(SCAN, z=z, p=stats.norm.sf(z)))
    drawn(gaps)
    assert np.isnan(gaps.lines[0].get_ydata()[3])


@pytest.mark.parametrize("greatest", [3.0, 12.0, 30.0, 36.5, 40.0, 120.0])
def test_local_p_of_any_size_is_drawn_with_names_apart(greatest: float) -> None:
    z = SCAN.z * greatest / SCAN.z.max()
    ax = local_p(replace(SCAN, z=z, p=stats.norm.sf(z)), expected=np.full(len(MASSES), 2.0))
    drawn(ax)
    logs = stats.norm.logsf(z) / np.log(10)
    y = np.asarray(ax.lines[0].get_ydata())
    assert_allclose(y if greatest > 36 else np.log10(y), logs, rtol=1e-12, atol=1e-15)
    low, high = ax.yaxis.get_transform().transform(ax.get_ylim())
    assert low < logs.min()
    assert high > 0
    names = [text for text in ax.texts if "sigma" in text.get_text()]
    assert names[0].get_text() == r"1$\sigma$"
    for text in names:
        at = stats.norm.logsf(int(text.get_text().split("$")[0])) / np.log(10)
        assert ax.yaxis.get_transform().transform(text.xy[1]) == pytest.approx(at)
    boxes = [text.get_window_extent() for text in names]
    assert all(above.y0 > below.y1 for above, below in pairwise(boxes))
    assert len(boxes) > min(greatest, 8) - 2
    ticks = [tick.get_window_extent() for tick in ax.get_yticklabels()]
    assert all(above.y0 > below.y1 for above, below in pairwise(ticks))


@pytest.mark.parametrize("greatest", [0.5, 3.0, 8.0, 30.0, 45.0])
def test_legend_of_toys_covers_nothing(greatest: float) -> None:
    z = SCAN.z * greatest / SCAN.z.max()
    ax = excess_toys(TOYS, scan=replace(SCAN, z=z, p=stats.norm.sf(z)), formula=gross_vitells(SCAN, LIKELIHOOD))
    drawn(ax)
    box = ax.get_legend().get_window_extent()  # type: ignore[union-attr]
    assert ax.bbox.y0 < box.y0
    assert box.y1 < ax.bbox.y1
    for line in ax.lines[:3]:
        points = ax.transData.transform(np.asarray(line.get_xydata())[np.asarray(line.get_ydata()) > 0])
        assert points[:, 1].max() < box.y0
    assert ax.lines[3].clipbox.y1 <= box.y0  # where the line of the data ends


def test_toys_are_their_survival_function() -> None:
    formula = gross_vitells(SCAN, LIKELIHOOD)
    ax = excess_toys(TOYS, scan=SCAN, formula=formula)
    drawn(ax)
    z, p = np.asarray(ax.lines[0].get_xydata()).T
    assert_allclose(p, [(TOYS.largest >= value).mean() for value in z])
    at, rate = np.asarray(ax.lines[1].get_xydata()).T
    expected = stats.norm.sf(at) + formula.crossings * np.exp(-0.5 * at**2)
    assert_allclose(rate, np.minimum(expected, 1))
    assert np.asarray(ax.lines[3].get_xdata())[0] == SCAN.z.max()
    failed = TOYS.z.copy()
    failed[:5, 0] = np.inf
    drawn(excess_toys(replace(TOYS, z=failed)))


def test_limits_have_bands() -> None:
    limits = yield_limits(LIKELIHOOD, [3.0, 5.0, 7.0])
    for scale in ("log", "linear"):
        ax = bump_limits(limits, prediction=[50.0, 40.0, 30.0], prediction_label="model", scale=scale)  # type: ignore[arg-type]
        drawn(ax)
        assert_array_equal(ax.lines[0].get_ydata(), limits.observed)
        assert_array_equal(ax.lines[1].get_ydata(), limits.expected[:, 2])
        assert_array_equal(ax.lines[2].get_ydata(), [50, 40, 30])
        for collection, (low, high) in zip(ax.collections, ((1, 3), (0, 4)), strict=True):
            y = collection.get_paths()[0].vertices[:, 1]  # type: ignore[index]
            assert set(np.round(y, 9)) == set(np.round(limits.expected[:, [low, high]].ravel(), 9))
        assert "model" in texts(ax)
    toys = replace(limits, toys=100, method="toys", errors=np.full(3, 2.0), observed=np.array([20.0, np.inf, 30.0]))
    ax = bump_limits(toys)
    drawn(ax)
    assert np.isnan(ax.lines[0].get_ydata()[1])  # a gap
    assert "95% upper limit on yield" in ax.get_ylabel()


def test_spurious_signals_have_criteria() -> None:
    truth = np.exp(6 - MIDDLE / 2 + 0.03 * MIDDLE**2)
    found = spurious_signal(LIKELIHOOD, MASSES, truth, variance=0.05 * truth, reference=30.0, seed=1)
    ax = spurious_signals(found, xlabel="m (GeV)")
    drawn(ax)
    assert_array_equal(ax.lines[0].get_ydata(), found.ratio)
    heights = [np.asarray(line.get_ydata(), float) for line in ax.lines[1:]]
    assert any(np.allclose(h, 0.2) for h in heights)
    assert any(np.allclose(h, -0.2) for h in heights)
    assert any(h.shape == found.sigma.shape and np.allclose(h, 3 / found.sigma) for h in heights)
    refused = [h for h in heights if len(h) == (~found.passed).sum()]
    assert any(np.allclose(h, found.ratio[~found.passed]) for h in refused)
    assert {"refused", "10% of the expected signal"} <= set(texts(ax))
    plain = spurious_signals(spurious_signal(LIKELIHOOD.with_background(Exponential(2)), MASSES, truth))
    drawn(plain)
    assert "refused" not in texts(plain)


def test_axes_and_bad_input() -> None:
    figure = matplotlib.figure.Figure()
    own = figure.subplots(2, 1)
    assert bump_fit(fit_bump(LIKELIHOOD), axes=own)[0] is own[0]
    assert local_p(SCAN, ax=own[1]) is own[1]
    limits, by_toys = yield_limits(LIKELIHOOD, [3.0, 5.0]), global_p_toys(SCAN, TOYS)
    for make, message in (
        (lambda: local_p(SCAN, expected=[1.0]), "significances"),
        (lambda: excess_toys(TOYS, formula=by_toys), "gross_vitells"),
        (lambda: excess_toys(replace(TOYS, z=np.full_like(TOYS.z, np.inf))), "all of 200 failed"),
        (lambda: bump_limits(yield_limits(LIKELIHOOD, [3.0])), "two masses"),
        (lambda: bump_limits(limits, prediction=[1.0]), "one for each mass"),
        (lambda: bump_limits(replace(limits, observed=np.zeros(2))), "limits above 0"),
    ):
        with pytest.raises(ValueError, match=message):
            make()
    with pytest.raises(TypeError, match="Axes"):
        spurious_signals(spurious_signal(LIKELIHOOD, [3.0], COUNTS), ax="here")  # type: ignore[arg-type]
