"""What is drawn of posteriors and diagnostics: the data of the artists equal the numbers of the results; no pixels."""

from __future__ import annotations

from typing import Any

import matplotlib
import numpy as np
import pytest

matplotlib.use("Agg")

from matplotlib import pyplot
from scipy import stats
from test_diagnostics import EXACT, NARROW, simulate, simulations

from nuinfer import Events, diagnostics, plots

RNG = np.random.default_rng(1)
COVARIANCE = np.array([[1.0, 0.6], [0.6, 1.0]])
DRAWS = RNG.multivariate_normal([1.0, -2.0], COVARIANCE, 20_000)


def events(draws: Any = DRAWS, weight: Any = None) -> Events:
    return Events({"a": draws[:, 0], "b": draws[:, 1]}, weight=weight)


def regions(ax: Any) -> list[Any]:
    """The lines of the contours, one array (M, 2) a level, from the lowest density."""
    lines = [c for c in ax.collections if c.get_facecolor().size == 0 or c.get_linewidths()[0] > 1.1]
    return [path.vertices for path in lines[-1].get_paths()]


def test_regions_of_a_gaussian_have_their_contents() -> None:
    ax = plots.corner(events(), levels=[0.68, 0.95])[1, 0]
    inverse = np.linalg.inv(COVARIANCE)
    found = regions(ax)
    assert len(found) == 2
    for vertices, content in zip(found, (0.95, 0.68), strict=True):
        off = vertices - [1.0, -2.0]
        chi2 = np.einsum("ni,ij,nj->n", off, inverse, off).mean()
        assert chi2 == pytest.approx(stats.chi2.ppf(content, 2), rel=0.1)  # smoothing widens by some per cent


def test_weights_count_in_corner_plots() -> None:
    """Draws of N(1, 1) in a, weighted to N(2, 1)."""
    weight = np.exp(DRAWS[:, 0] - 1.5)
    title = plots.corner(events(weight=weight))[0, 0].get_title()
    assert abs(float(title.split()[0].strip("$").split("^")[0].replace("\\mathregular{", "").rstrip("}")) - 2.0) < 0.15
    plain = plots.corner(events())[0, 0].get_title()
    assert plain != title


def test_a_sharp_edge_of_draws_stays_sharp() -> None:
    flat = RNG.uniform(0, 1, (20_000, 2))
    ax = plots.corner(events(flat))[0, 0]
    x, y = ax.lines[0].get_data()
    assert x.min() > 0
    assert x.max() < 1
    assert np.abs(y - 1).max() < 0.12  # also at the borders, where a kernel that leaks gives 1/2


def test_corner_marks_the_truth_and_names_the_axes() -> None:
    two = {"first": events(), "second": events(DRAWS + 1)}
    axes = plots.corner(two, truth={"a": 0.5, "b": -1.0}, labels={"b": r"$\beta$"})
    assert axes.shape == (2, 2)
    assert axes[0, 1] is None
    assert axes[1, 0].get_xlabel() == "a"
    assert axes[1, 0].get_ylabel() == r"$\beta$"
    star = [line for line in axes[1, 0].lines if line.get_marker() == "*"]
    assert [float(v[0]) for v in star[0].get_data()] == [0.5, -1.0]
    (legend,) = axes[0, 0].figure.legends
    assert [t.get_text() for t in legend.get_texts()] == ["first", "second", "truth", "68%, 95% regions"]
    assert len(axes[0, 0].lines) == 3  # two densities and the truth
    assert plots.corner(two, names=["b"], truth={"a": 0.5}).shape == (1, 1)  # a column that is not shown


def test_a_truth_beyond_the_draws_is_seen() -> None:
    for far in (-40.0, 40.0):
        axes = plots.corner(events(), truth={"a": far})
        for ax in (axes[0, 0], axes[1, 0]):
            low, high = ax.get_xlim()
            assert low < far < high
            assert low < 1.0 < high  # the draws too
    near = plots.corner(events(), truth={"a": 1.0})[0, 0].get_xlim()
    assert near == plots.corner(events())[0, 0].get_xlim()
    with pytest.raises(KeyError, match="truth: expected names among a, b, found 'c'"):
        plots.corner(events(), truth={"c": 0.0})
    with pytest.raises(ValueError, match="truth: expected a finite value of 'a', found nan"):
        plots.corner(events(), truth={"a": np.nan})


def test_ranks_are_drawn_as_they_are() -> None:
    found = diagnostics.sbc(NARROW, simulations(500))
    axes = plots.sbc_ranks(found, names=["theta1", "log q"], bins=10)
    assert [ax.get_xlabel() for ax in axes] == ["rank of theta1", "rank of log q"]
    content = np.bincount(found.ranks[1] // 10, minlength=10) / 50
    (steps,) = [p for p in axes[0].patches if hasattr(p, "get_data")]
    np.testing.assert_allclose(steps.get_data().values, content)
    # the p-value is that of these ten bins, not of the hundred of the result
    chi2 = ((500 * content / 10 - 50) ** 2 / 50).sum()
    assert axes[0].texts[0].get_text() == f"p = {stats.chi2.sf(chi2, 9):.2g}"
    assert stats.chi2.sf(chi2, 9) / found.chi2_p_values[1] > 10
    assert len(plots.sbc_ranks(diagnostics.sbc(EXACT, simulations(60)))[0].patches[1].get_data().values) == 10
    with pytest.raises(ValueError, match="bins: expected a divisor of draws \\+ 1 = 100 from 2, found 1"):
        plots.sbc_ranks(found, bins=1)
    with pytest.raises(ValueError, match="bins: expected a divisor of draws \\+ 1 = 100 from 2, found 7"):
        plots.sbc_ranks(found, bins=7)
    with pytest.raises(KeyError, match="expected names among theta0, theta1, log q, found 'mu'"):
        plots.sbc_ranks(found, names=["mu"])
    with pytest.raises(TypeError, match="axes: expected 3 matplotlib Axes"):
        plots.sbc_ranks(found, axes=[axes[0]])


def test_distribution_functions_and_their_band() -> None:
    found = diagnostics.sbc(NARROW, simulations(500))
    ax = plots.sbc_ecdf(found, names=["theta0"], labels={"theta0": "mu"})
    band = found.ecdf("theta0")
    np.testing.assert_allclose(ax.lines[1].get_ydata()[1:-1], band.value - band.at)
    assert [t.get_text() for t in ax.get_legend().get_texts()] == ["95% band", "mu"]
    outline = ax.collections[0].get_paths()[0].vertices[:, 1]
    assert outline.max() == pytest.approx((band.high - band.at).max())
    assert (ax.lines[1].get_ydata()[1:20] > 0).all()  # too narrow: first above


def test_curves_of_coverage() -> None:
    events = simulations(400)
    tarps = {"exact": diagnostics.tarp(EXACT, events), "narrow": diagnostics.tarp(NARROW, events)}
    ax = plots.tarp_curve(tarps)
    for line, found in zip(ax.lines[1:], tarps.values(), strict=True):
        np.testing.assert_allclose(line.get_ydata(), found.coverage)
    assert ax.get_legend().get_texts()[1].get_text().startswith("narrow: p = ")
    coverage = diagnostics.coverage(NARROW, events, draws=99)
    ax = plots.expected_coverage(coverage, central=True)
    assert any(np.array_equal(line.get_ydata(), coverage.observed) for line in ax.lines)
    assert any(np.array_equal(line.get_ydata(), coverage.central[1]) for line in ax.lines)
    with pytest.raises(ValueError, match="central: expected one result, found 2"):
        plots.expected_coverage({"a": coverage, "b": coverage}, central=True)


def test_predictive_figures() -> None:
    observed = simulations(1, seed=15).keep(["x0", "x1", "x2"])
    found = diagnostics.predictive(EXACT, observed, simulate, draws=200)
    axes = plots.predictive_statistics(found, names=["x2", "x0"], labels={"x2": "energy (GeV)"})
    assert [ax.get_xlabel() for ax in axes] == ["energy (GeV)", "x0"]
    assert axes[0].lines[0].get_xdata()[0] == found.observed[2]
    replicas = RNG.poisson([5, 10, 20], (400, 3))
    ax = plots.predictive_overlay([0, 1, 2, 4], [4, 12, 22], replicas, label="x")
    points = next(line for line in ax.lines if line.get_marker() == "o")
    assert points.get_ydata().tolist() == [4, 12, 22]
    assert points.get_xdata().tolist() == [0.5, 1.5, 3.0]
    low, high = np.quantile(replicas, [0.025, 0.975], axis=0)
    outline = ax.collections[0].get_paths()[0].vertices
    assert all(np.isclose(outline[:, 1], edge).any() for edge in (*low, *high))
    with pytest.raises(ValueError, match=r"replicas: expected shape \(R, 3\)"):
        plots.predictive_overlay([0, 1, 2, 4], [4, 12, 22], replicas[:, :2])


def test_bad_samples_are_refused() -> None:
    with pytest.raises(TypeError, match="expected Events with one column a parameter, found ndarray"):
        plots.corner(DRAWS)  # type: ignore[arg-type]
    with pytest.raises(KeyError, match="no column 'c'"):
        plots.corner(events(), names=["c"])
    with pytest.raises(ValueError, match="levels: expected at most 3"):
        plots.corner(events(), levels=[0.1, 0.2, 0.3, 0.4])
    with pytest.raises(ValueError, match="column 'a': expected finite"):
        plots.corner(events(np.full((10, 2), np.nan)))
    with pytest.raises(ValueError, match="samples: expected 1 to 6 results"):
        plots.corner({})


def test_nothing_is_registered_or_left_behind() -> None:
    before = dict(matplotlib.rcParams)
    plots.corner(events())
    assert pyplot.get_fignums() == []
    assert {k: v for k, v in matplotlib.rcParams.items() if before[k] != v} == {}
