"""What is drawn of likelihoods: the data of the artists equal the numbers of the results; no pixels."""

from __future__ import annotations

import dataclasses
import functools
import itertools
import re
from collections.abc import Iterator
from typing import Any

import matplotlib
import numpy as np
import pytest

matplotlib.use("Agg")

from matplotlib import pyplot
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.text import Text
from numpy.testing import assert_allclose, assert_array_equal
from numpy.typing import NDArray
from scipy import stats
from test_plots import drawn, legend, points, steps, texts

from nuinfer import Events, intervals, plots
from nuinfer.intervals import (
    Contour,
    Coverage,
    Impacts,
    LikelihoodRatio,
    LimitCurve,
    LocalCoverage,
    Neyman,
    Profile,
    UpperLimit,
    limit_curve,
)
from nuinfer.likelihood import Binned, Mixture, Normal, Poisson, Process, TwoPoint

Floats = NDArray[np.float64]

# -- results of which everything is known ------------------------------------------------------------------------------


@functools.cache
def profiled(centre: float = 1.0, sigma: float = 0.3, name: str = "mu") -> Profile:
    """T = ((mu - centre) / sigma)^2, with a nuisance that does nothing."""
    return intervals.profile(Normal(name, centre, sigma) + Normal("a"), name, points=15)


@functools.cache
def contoured(centre: float = 1.0, names: tuple[str, str] = ("mu", "a")) -> Contour:
    """An ellipse around (centre, 0) with half-axes in the ratio 1 : 2."""
    return intervals.contour(Normal(names[0], centre, 0.3) + Normal(names[1], 0.0, 0.6), *names)


def toys_of_gauss(mu: Floats, rng: np.random.Generator, count: int) -> tuple[Floats, Floats]:
    """T (P, count) and best fits of a Gaussian of width 1 with mean mu (P,) that is not below 0."""
    x = mu[:, None] + rng.normal(size=(len(mu), count))
    best = np.maximum(x, 0.0)
    return (x - mu[:, None]) ** 2 - (x - best) ** 2, best


@functools.cache
def construction(seen: float = 0.8, **special: Any) -> Neyman:
    """The construction for a Gaussian with its mean not below 0, by numpy alone."""
    mu = np.linspace(0.0, 4.0, 21)
    t, best = toys_of_gauss(mu, np.random.default_rng(1), 800)
    observed = (seen - mu) ** 2 - (seen - max(seen, 0.0)) ** 2
    test = LikelihoodRatio(interest=("mu",))
    return Neyman(
        {"mu": mu}, {"mu": mu}, observed, t, best[..., None], {"mu": max(seen, 0.0)}, test, {"mu": (0.0, np.inf)}
    )


def of_two(seen: tuple[float, float] = (0.3, -0.2)) -> Neyman:
    """Two Gaussians of width 1: t of the data is the distance squared, that of toys chi2 of two degrees of freedom."""
    axes = {"mu": np.linspace(-3, 4, 36), "a": np.linspace(-4, 3, 36)}
    x, y = (part.ravel() for part in np.meshgrid(*axes.values(), indexing="ij"))
    # the quantiles themselves: every critical value is the same and known
    toys = np.broadcast_to(stats.chi2.ppf((np.arange(999) + 1) / 1000, 2), (len(x), 999))
    observed = (x - seen[0]) ** 2 + (y - seen[1]) ** 2
    best = np.full((len(x), 999, 2), np.nan)
    both = dict.fromkeys(axes, (-np.inf, np.inf))
    return Neyman(axes, {"mu": x, "a": y}, observed, toys, best, dict(zip(axes, seen, strict=True)), None, both)


def covered(truths: dict[str, Floats], toys: int = 400, interest: tuple[str, ...] = ("mu",)) -> Coverage:
    """Coverage that falls short at small mu."""
    rng, cls, mu = np.random.default_rng(3), (0.68, 0.95), truths["mu"]
    each = np.stack([rng.binomial(toys, cl - 0.15 * np.exp(-mu)) / toys for cl in cls], 1)
    error, none = np.sqrt(each * (1 - each) / toys), np.zeros((len(mu), len(interest)))
    return Coverage(truths, interest, cls, each, error, none, none, none, none, none, np.zeros(len(mu), int), toys)


def on_grid(interest: tuple[str, ...] = ("mu", "a")) -> Coverage:
    mu, a = (part.ravel() for part in np.meshgrid(np.linspace(0, 4, 9), np.linspace(-1, 1, 7), indexing="ij"))
    return covered({"mu": mu, "a": a}, interest=interest)


@functools.cache
def pulled(number: int = 6) -> Impacts:
    """Impacts by linear algebra, from one Gaussian measurement of mu and its nuisances; one free, one a comparison."""
    names = ["mu", "free", "shower", *(f"jet_energy_resolution_{k}" for k in range(number - 2))]
    rng = np.random.default_rng(7)
    root = np.eye(len(names)) + 0.3 * rng.normal(size=(len(names), len(names)))
    cost = Normal(names, 0.5 * rng.normal(size=len(names)), covariance=root @ root.T)
    for name in names[2:]:
        cost = cost + (TwoPoint(name, ("Pythia", "Herwig")) if name == "shower" else Normal(name))
    return intervals.impacts(cost, "mu")


def many(number: int = 34) -> Impacts:
    """Impacts of so many nuisances, one of them free, one a comparison; the numbers are drawn."""
    rng = np.random.default_rng(8)
    names = ("free", "shower", *(f"jet_energy_resolution_{k}" for k in range(number - 2)))
    up = np.sort(rng.exponential(0.05, number))[::-1] * rng.choice([-1, 1], number)
    before = np.where(np.arange(number) == 0, np.nan, 1.0)[:, None]
    after, pull = rng.uniform(0.5, 1, number), rng.normal(0, 0.5, number)
    post = np.stack([-up * rng.uniform(0.8, 1.1, number), up], 1)
    return Impacts("mu", 1.0, 0.2, names, pull, after, pull, after, post, before * post / after[:, None], ("free",),
                   {"shower": ("Pythia", "Herwig")}, {}, 0.1)  # fmt: skip


def limited(observed: float, median: float = 2.0, name: str = "mu", cl: float = 0.95) -> UpperLimit:
    return UpperLimit(name, cl, "cls", 0.0, observed, median * np.array([0.5, 0.7, 1.0, 1.4, 1.9]))


BY_MASS = {500: limited(0.4, 0.5), 100: limited(3.0, 2.0), 200: limited(0.9, 1.1)}
BY_CHANNEL = {"0 jets": limited(3.0), "1 jet": limited(2.5, 1.5), "combined": limited(0.9, 1.1)}


def stacked(number: int = 4000) -> tuple[Floats, dict[str, Floats]]:
    """An observable, and contributions of which the last is negative."""
    x = np.random.default_rng(4).normal(size=number)
    each = {
        "B": np.full(number, 0.4),
        "S": 0.1 * np.exp(-((x - 1) ** 2)),
        "interference": -0.05 * np.exp(-((x + 1) ** 2)),
    }
    return x, each


def figure_of_observable(**options: Any) -> Axes:
    x, each = stacked()
    return plots.optimal_observable(x, each, data=np.random.default_rng(5).normal(size=1600), **options)[0]


THREE = {
    "exact": profiled,
    "NSBI": functools.partial(profiled, 0.9, 0.31),
    "histogram": functools.partial(profiled, 1.2, 0.5),
}


@functools.cache
def curved(seen: float = 22.0, method: Any = "cls") -> LimitCurve:
    """A count of signal 2 mu over a background of 20, with a normal error of 5: mu to 2.5, without a nuisance."""
    count = Binned(lambda theta: 2 * theta + 20, [seen], "gaussian", parameters=["mu"], variance=[25.0])
    return limit_curve(count, "mu", method=method, start={"mu": 1.0})


COVARIANCE = 0.3 * np.eye(5)
COVARIANCE[0, 1:] = COVARIANCE[1:, 0] = [0.1, -0.05, 0.12, 0.04]


@functools.cache
def grouped(correlated: float = 0.0, groups: tuple[tuple[str, ...], ...] = (("a", "b"), ("c", "d"))) -> Impacts:
    """Two groups of two nuisances in a Gaussian measurement."""
    names, covariance = ["mu", "a", "b", "c", "d"], COVARIANCE.copy()
    covariance[1, 3] = covariance[3, 1] = correlated
    cost = Normal(names, [1.0, 0.1, 0.2, -0.1, 0.3], covariance=covariance)
    for name in names[1:]:
        cost = cost + Normal(name)
    return intervals.impacts(cost, "mu", groups=dict(zip(("norms", "shapes"), groups, strict=False)))


@functools.cache
def lopsided(count: float) -> Profile:
    """Of a Poisson count whose mean is the count times mu: its errors differ."""
    return intervals.profile(Poisson("mu", count, count), "mu", points=15, start={"mu": 1.0})


LONG = (
    "exact likelihood, all nuisances", "exact ratios, interpolated shapes", "NSBI, two members of two folds",
    "histogram of log S/B, twelve bins", "a fifth answer, whose name is longer than the others", "sixth",
)  # fmt: skip


def long_labels(number: int) -> Axes:
    curves = {name: profiled(1 + 0.05 * k, 0.3) for k, name in enumerate(LONG[:number])}
    return plots.profile(curves, stat_only={LONG[0]: profiled(1.0, 0.2)}, truth=0.9, label=r"$\mu$")


FIGURES = {
    "profile": lambda: plots.profile(profiled(), truth=0.9),
    "profile, several": lambda: plots.profile(
        {name: make() for name, make in THREE.items()},
        stat_only={"NSBI": profiled(0.9, 0.25)}, truth=0.9, label=r"signal strength $\mu$",
    ),
    **{f"profile, {n} long labels": functools.partial(long_labels, n) for n in (1, 2, 4, 6)},
    "profile, asymmetric": lambda: plots.profile(
        {name: lopsided(n) for name, n in (("exact", 6.0), ("NSBI", 7.0), ("histogram", 8.0))},
        stat_only={"NSBI": lopsided(9.0)}, truth=1.0,
    ),
    "contour": lambda: plots.contour(contoured(), labels={"mu": r"$\mu$", "a": r"$\Delta m^2$ (eV$^2$)"}),
    "contour, several": lambda: plots.contour(
        {"exact": contoured(), "NSBI": contoured(1.2)}, truth={"mu": 1.0, "a": 0.1}
    ),
    "belt": lambda: plots.belt(construction(), label=r"$\mu$"),
    "critical values": lambda: plots.critical_values(construction(), label=r"$\mu$"),
    "coverage": lambda: plots.coverage_map(covered({"mu": np.linspace(0, 4, 9)})),
    "coverage of two": lambda: plots.coverage_map(on_grid(), cl=0.68),
    "coverage, local": lambda: plots.local_coverage(regressed(), parameters=["mu"]),
    "coverage, local, of two": lambda: plots.local_coverage(regressed(), labels={"mu": r"$\mu$"}),
    "observable": figure_of_observable,
    "impacts": lambda: plots.impacts(pulled(), labels={"mu": r"$\mu$"})[0],
    "impacts of 30": lambda: plots.impacts(many())[0],
    "limit": lambda: plots.limit(BY_MASS, xlabel=r"$m_X$ (GeV)", label=r"$\mu$", reference=1.0, scale="log"),
    "limit curve": lambda: plots.limit_curve(curved(), label=r"$\mu$", reference=1.0),
    "limit curve, logarithmic": lambda: plots.limit_curve(curved(), label=r"$\mu$", scale="log"),
    "breakdown": lambda: plots.breakdown(grouped(), labels={"mu": r"$\mu$"}),
    "limit in rows": lambda: plots.limit(BY_CHANNEL, label=r"$\mu$", reference=1.0),
}  # fmt: skip


# -- the look ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", FIGURES)
def test_global_state_is_left_alone(name: str) -> None:
    before = dict(matplotlib.rcParams)
    FIGURES[name]()
    assert dict(matplotlib.rcParams) == before
    assert pyplot.get_fignums() == []


def every_text(figure: Figure) -> Iterator[Text]:
    yield from texts(figure)
    for ax in figure.axes:
        yield from (text for text in ax.texts if text.get_text())


@functools.cache
def shown(name: str) -> Axes:
    """A figure, drawn outside of the style."""
    return drawn(FIGURES[name]())


@pytest.mark.parametrize("name", FIGURES)
def test_no_text_overlaps_another_or_leaves_the_figure(name: str) -> None:
    figure = shown(name).figure
    boxes = [(text.get_text(), text.get_window_extent().padded(-0.5)) for text in every_text(figure)]
    assert len(boxes) > 8
    for (one, box), (other, second) in itertools.combinations(boxes, 2):
        assert not box.overlaps(second), f"{one!r} over {other!r}"
    for one, box in boxes:
        inside = figure.bbox.x0 <= box.x0 and box.x1 <= figure.bbox.x1 and box.y1 <= figure.bbox.y1 and box.y0 >= 0
        assert inside, f"{one!r} is cut off"


@pytest.mark.parametrize("name", FIGURES)
def test_look_outlasts_the_style_block(name: str) -> None:
    ax = shown(name)
    for tick in ax.xaxis.get_major_ticks():
        assert (tick.label1.get_fontfamily()[0], tick.label1.get_fontsize()) == ("TeX Gyre Heros", 11)
    for text in ax.get_legend().get_texts() if ax.get_legend() else []:
        assert text.get_fontfamily()[0] == "TeX Gyre Heros"
        assert text.get_fontsize() >= 9.5  # 6.5 points in a column of 3.4 inches


@pytest.mark.parametrize("name", [name for name in FIGURES if not re.match("coverage|impacts|breakdown", name)])
def test_legend_is_above_everything_drawn(name: str) -> None:
    ax = shown(name)
    lower = ax.get_legend().get_window_extent().y0
    for line in ax.lines:
        if not len(line.get_xdata()) or not line.get_transform().contains_branch(ax.transData):
            continue
        at = line.get_transform().transform(np.column_stack([line.get_xdata(), line.get_ydata()]).astype(float))
        top = min(at[:, 1].max(), line.get_clip_box().y1)
        assert top <= lower + 1, line.get_label()


# -- profiles ----------------------------------------------------------------------------------------------------------


def curve(ax: Axes, color: str, style: str) -> tuple[Floats, Floats]:
    """The one line of a colour and style with more than two points."""
    (line,) = (
        one
        for one in ax.lines
        if one.get_color() == color and one.get_linestyle() == style and len(one.get_xdata()) > 2
    )
    return np.asarray(line.get_xdata(), float), np.asarray(line.get_ydata(), float)


def test_profile_draws_the_exact_parabola() -> None:
    ax = plots.profile(profiled(), label="mu")
    x, t = curve(ax, "#5790fc", "-")
    assert_allclose(t, ((x - 1.0) / 0.3) ** 2, atol=1e-6)
    assert set(profiled().grid) <= set(x)
    levels = sorted(float(line.get_ydata()[0]) for line in ax.lines if line.get_linestyle() == ":")
    assert_allclose(levels, stats.chi2.ppf([0.68, 0.95], 1))
    assert [text.get_text() for text in ax.texts] == ["68%", "95%"]
    assert legend(ax) == ["1.00 ± 0.30 (68%)"]
    low, high = ax.get_xlim()
    assert_allclose([low, high], 1 + 0.3 * np.sqrt(1.35 * stats.chi2.ppf(0.95, 1)) * np.array([-1, 1]), atol=0.05)


def test_profile_overlays_answers_and_dashes_those_without_nuisances() -> None:
    several = {name: make() for name, make in THREE.items()}
    ax = plots.profile(several, stat_only={"NSBI": profiled(0.9, 0.25)}, truth=0.9)
    x, t = curve(ax, "#f89c20", "--")
    assert_allclose(t, ((x - 0.9) / 0.25) ** 2, atol=1e-6)
    for color, centre, sigma in (("#5790fc", 1.0, 0.3), ("#f89c20", 0.9, 0.31), ("#e42536", 1.2, 0.5)):
        x, t = curve(ax, color, "-")
        assert_allclose(t, ((x - centre) / sigma) ** 2, atol=1e-6)
        (mark,) = (one for one in ax.lines if one.get_color() == color and len(one.get_xdata()) == 1)
        assert_allclose(mark.get_xydata(), [[centre, 0.0]], atol=1e-5)
    assert legend(ax) == [
        "exact: 1.00 ± 0.30 (68%)", "NSBI: 0.90 ± 0.31 (68%)", "histogram: 1.20 ± 0.50 (68%)",
        "nuisances fixed", "truth",
    ]  # fmt: skip


def test_long_labels_keep_the_panel_and_short_ones_two_columns() -> None:
    """The panel of many long labels is as wide as that of one short one, and as high below the legend."""
    plain = shown("profile").get_window_extent()
    for number in (1, 2, 4, 6):
        ax = shown(f"profile, {number} long labels")
        box, key = ax.get_window_extent(), ax.get_legend().get_window_extent()  # type: ignore[union-attr]
        assert abs(box.width - plain.width) < 0.05 * plain.width
        assert box.x0 < key.x0 < key.x1 < box.x1
        assert key.y0 - box.y0 > 0.5 * plain.height
        joined = [text.replace("\n", " ") for text in legend(ax)[:number]]
        assert joined == [f"{name}: {1 + 0.05 * k:.2f} ± 0.30 (68%)" for k, name in enumerate(LONG[:number])]
    left = {text.get_window_extent().x0 for text in shown("profile, several").get_legend().get_texts()}  # type: ignore[union-attr]
    assert len(left) == 2
    given = Figure(figsize=(5, 6), layout="constrained").subplots()
    plots.profile(dict.fromkeys(LONG, profiled()), ax=given)
    assert given.figure.get_figheight() == 6  # type: ignore[union-attr]


def test_profile_of_other_levels() -> None:
    ax = plots.profile(profiled(), cls=(0.9,))
    assert [text.get_text() for text in ax.texts] == ["90%"]
    half = 0.3 * np.sqrt(stats.chi2.ppf(0.9, 1))
    assert legend(ax) == [f"1.00 ± {half:.2f} (90%)"]


def test_profile_says_where_a_set_is_open() -> None:
    narrow = intervals.profile(Normal("mu", 1.0, 0.3), "mu", np.linspace(0.9, 2.0, 12))
    assert legend(plots.profile(narrow)) == [r"1 in [$-\infty$, 1.3] (68%)"]


def test_profile_refuses() -> None:
    with pytest.raises(ValueError, match="expected curves of one parameter, found mu, nu"):
        plots.profile({"a": profiled(), "b": profiled(name="nu")})
    with pytest.raises(KeyError, match="no profile 'NSB'; closest: 'NSBI'"):
        plots.profile({"NSBI": profiled()}, stat_only={"NSB": profiled()})
    with pytest.raises(ValueError, match="profiles: expected 1 to 6 results by label, found 0"):
        plots.profile({})
    for cls in ((), (0.68, 1.0), (95,)):
        with pytest.raises(ValueError, match="cls: expected confidence levels between 0 and 1"):
            plots.profile(profiled(), cls=cls)


# -- contours ----------------------------------------------------------------------------------------------------------


def test_contours_are_the_exact_ellipses() -> None:
    ax = plots.contour({"exact": contoured(), "NSBI": contoured(1.2)}, truth={"mu": 1.0, "a": 0.1, "other": 3.0})
    for color, centre in (("#5790fc", 1.0), ("#f89c20", 1.2)):
        for style, cl in (("-", 0.68), ("--", 0.95)):
            x, y = curve(ax, color, style)
            assert_allclose(((x - centre) / 0.3) ** 2 + (y / 0.6) ** 2, stats.chi2.ppf(cl, 2), atol=1e-3)
            assert x[0] == pytest.approx(x[-1])
    star = next(line for line in ax.lines if line.get_marker() == "*")
    assert_array_equal(star.get_xydata(), [[1.0, 0.1]])
    assert legend(ax) == ["exact", "NSBI", "truth", "68%", "95%"]
    assert (ax.get_xlabel(), ax.get_ylabel()) == ("mu", "a")


def test_contour_of_toys_is_where_the_statistic_is_critical() -> None:
    ax = plots.contour(of_two(), cls=[0.68])
    x, y = curve(ax, "#5790fc", "-")
    radius = np.hypot(x - 0.3, y + 0.2)
    exact = np.sqrt(stats.chi2.ppf(0.68, 2))
    assert_allclose(radius, exact, atol=0.02)  # linear between points 0.2 apart: at most 0.2^2 / (8 * 1.5) beside it
    assert abs(exact - np.sqrt(stats.chi2.ppf(0.68, 1))) > 0.1  # one degree of freedom would not pass


def test_contour_refuses() -> None:
    with pytest.raises(ValueError, match="the same two parameters in one order, found a, mu and mu, a"):
        plots.contour({"one": contoured(), "two": contoured(names=("a", "mu"))})
    with pytest.raises(ValueError, match="at most 3 confidence levels, found 4"):
        plots.contour(contoured(), cls=(0.5, 0.6, 0.7, 0.8))
    with pytest.raises(ValueError, match="a construction of two parameters, found mu"):
        plots.contour(construction())
    with pytest.raises(KeyError, match="no entry 'a'"):
        plots.contour(contoured(), truth={"mu": 1.0})


# -- toys --------------------------------------------------------------------------------------------------------------


def test_belt_holds_the_accepted_best_fits() -> None:
    found = construction()
    ax = plots.belt(found)
    for band, cl in zip(ax.collections, (0.95, 0.68), strict=False):
        vertices = band.get_paths()[0].vertices
        for mu, (low, high) in zip(found.grid["mu"], found.belt(cl), strict=True):
            at = vertices[vertices[:, 1] == mu, 0]
            assert (at.min(), at.max()) == (low, high)
    line, *bars = (c for c in ax.collections[2:])
    assert_array_equal(line.get_segments()[0], [[0.8, 0.0], [0.8, 4.0]])
    assert_allclose([bar.get_segments()[0][:, 1] for bar in bars], [found.interval(0.95)[0], found.interval(0.68)[0]])
    # Feldman and Cousins, table X: [0.00, 2.76] at 95% for 0.8, and [0.07 +- ...] at 68%; the toys' error is 0.1
    assert found.interval(0.95)[0] == pytest.approx([0.0, 2.76], abs=0.2)


def test_belt_refuses() -> None:
    with pytest.raises(ValueError, match="expected a construction of one parameter, found mu, a; contour draws"):
        plots.belt(of_two())
    odd = construction()
    test = LikelihoodRatio(interest=("mu",), periodic={"mu": (0.0, 4.0)})
    circle = Neyman(odd.grid, odd.truths, odd.observed, odd.toys, odd.best, odd.best_fit, test, odd.bounds)
    with pytest.raises(ValueError, match="expected a parameter on a line, found 'mu', periodic or discrete"):
        plots.belt(circle)


def test_critical_values_are_those_of_the_toys() -> None:
    found = construction()
    ax = plots.critical_values(found)
    assert_array_equal(ax.lines[0].get_ydata(), found.observed)
    for bars, cl in zip(ax.containers, (0.68, 0.95), strict=True):
        x, y = bars.lines[0].get_data()
        ends = np.array([segment[:, 1] for segment in bars.lines[2][0].get_segments()])
        exact = found.critical(cl)
        assert_array_equal(x, found.grid["mu"])
        assert_array_equal(y, exact.value)
        assert_allclose(ends, np.stack([exact.low, exact.high], 1), atol=1e-12)
    dotted = sorted(float(line.get_ydata()[0]) for line in ax.lines if line.get_linestyle() == ":")
    assert_allclose(dotted, stats.chi2.ppf([0.68, 0.95], 1))
    sets = [line.get_xdata() for line in ax.lines if len(line.get_xdata()) == 2 and line.get_linewidth() == 4]
    assert_allclose(sets, [found.interval(0.68)[0], found.interval(0.95)[0]])
    assert legend(ax)[0] == "data"
    low, high = found.interval(0.68)[0]
    assert f"68%: [{low:.3g}, {high:.3g}]" in legend(ax)


def test_critical_values_of_upper_limits_have_the_halved_chi2() -> None:
    found = construction()
    test = LikelihoodRatio(interest=("mu",), ordering="one-sided")
    one = Neyman(found.grid, found.truths, found.observed, found.toys, found.best, found.best_fit, test, found.bounds)
    ax = plots.critical_values(one, cls=(0.95,))
    assert [float(line.get_ydata()[0]) for line in ax.lines if line.get_linestyle() == ":"] == pytest.approx(
        [1.645**2], abs=1e-3
    )


def test_critical_values_refuses() -> None:
    with pytest.raises(ValueError, match="at most 3 confidence levels, found 4"):
        plots.critical_values(construction(), cls=(0.5, 0.6, 0.7, 0.8))
    with pytest.raises(ValueError, match="toys: expected at least"):
        plots.critical_values(construction(), cls=(0.9999,))


def test_coverage_over_one_parameter() -> None:
    found = covered({"mu": np.linspace(0, 4, 9)})
    ax = plots.coverage_map(found)
    for bars, k in zip(ax.containers, range(2), strict=True):
        assert_array_equal(bars.lines[0].get_ydata(), found.covered[:, k])
        ends = np.array([segment[:, 1] for segment in bars.lines[2][0].get_segments()])
        assert_allclose(ends[:, 1] - ends[:, 0], 2 * found.covered_error[:, k], rtol=1e-9)
    bands = [(patch.get_y(), patch.get_y() + patch.get_height()) for patch in ax.patches]
    assert_allclose(
        bands, [[cl - np.sqrt(cl * (1 - cl) / 400), cl + np.sqrt(cl * (1 - cl) / 400)] for cl in (0.68, 0.95)]
    )
    assert legend(plots.coverage_map(found, cl=0.95)) == ["95% interval"]


def test_coverage_over_two_parameters() -> None:
    found = on_grid()
    ax = plots.coverage_map(found, cl=0.95)
    mesh = ax.collections[0]
    assert_array_equal(mesh.get_array(), found.covered[:, 1].reshape(9, 7).T)
    assert sum(mesh.get_clim()) / 2 == pytest.approx(0.95)
    corners = mesh.get_coordinates()
    assert_allclose(corners[0, :, 0], np.linspace(-0.25, 4.25, 10))
    assert_allclose(corners[:, 0, 1], np.linspace(-7 / 6, 7 / 6, 8))


def test_coverage_at_scattered_points_over_a_nuisance() -> None:
    rng = np.random.default_rng(6)
    found = covered({"mu": rng.uniform(0, 4, 40), "a": rng.uniform(-1, 1, 40)})
    dots = plots.coverage_map(found, cl=0.68, parameters=("mu", "a")).collections[0]
    assert_array_equal(dots.get_offsets(), np.column_stack([found.truths["mu"], found.truths["a"]]))
    assert_array_equal(dots.get_array(), found.covered[:, 0])


def test_coverage_refuses() -> None:
    found = on_grid()
    with pytest.raises(ValueError, match=r"cl: expected one of 0.68, 0.95, found none"):
        plots.coverage_map(found)
    with pytest.raises(ValueError, match=r"cl: expected one of 0.68, 0.95, found 0.9"):
        plots.coverage_map(found, cl=0.9)
    with pytest.raises(KeyError, match="no entry 'aa'; closest: 'a'"):
        plots.coverage_map(found, cl=0.68, parameters=("aa",))
    with pytest.raises(ValueError, match="expected 1 or 2 for the axes, found mu, a, b"):
        plots.coverage_map(found, parameters=("mu", "a", "b"))


@functools.cache
def regressed(nuisance: bool = True) -> LocalCoverage:
    """Intervals from a constant critical value, where t is chi2 / (1 + mu / 4): they cover the more, the larger mu."""
    rng, box = np.random.default_rng(10), {"mu": (0.0, 4.0), **({"a": (-1.0, 1.0)} if nuisance else {})}
    theta = np.stack([rng.uniform(*ends, 8000) for ends in box.values()], 1)
    t = rng.chisquare(1, 8000) / (1 + theta[:, 0] / 4)
    return intervals.local_coverage(
        lambda at: np.full(len(at["mu"]), 0.99), intervals.Toys(box, theta, t, None), cl=0.68
    )


def exact_coverage(mu: Floats) -> Floats:
    return np.asarray(stats.chi2.cdf(0.99 * (1 + mu / 4), 1))


def test_local_coverage_over_one_parameter() -> None:
    found = regressed(nuisance=False)
    ax = plots.local_coverage(found)
    (line,) = (one for one in ax.lines if one.get_label() == "regression")
    mu, p = np.asarray(line.get_xdata(), float), np.asarray(line.get_ydata(), float)
    assert_array_equal(p, found.at({"mu": mu}).value)
    assert np.abs(p - exact_coverage(mu)).max() < 4 * found.at({"mu": mu}).error.max()
    x, y, _ = points(ax)
    assert_array_equal(x, (found.low[:, 0] + found.high[:, 0]) / 2)
    assert_array_equal(y, found.covered)
    assert legend(ax) == ["nominal, 68%", "regression", "cells"]


def test_local_coverage_over_two_parameters() -> None:
    found = regressed()
    mesh = plots.local_coverage(found).collections[0]
    mu, a = np.linspace(0, 4, 61), np.linspace(-1, 1, 61)
    assert_allclose(mesh.get_array().reshape(61, 61), found.at({"mu": mu[None, :], "a": a[:, None]}).value, rtol=1e-12)
    turned = plots.local_coverage(found, parameters=("a", "mu")).collections[0]
    assert_allclose(turned.get_array().reshape(61, 61), mesh.get_array().reshape(61, 61).T, rtol=1e-12)
    assert sum(mesh.get_clim()) / 2 == pytest.approx(0.68)


def test_local_coverage_of_a_slice() -> None:
    found = regressed()
    middle, edge = (plots.local_coverage(found, parameters=["mu"], at=at).lines[-1] for at in (None, {"a": 1.0}))
    mu = np.linspace(0, 4, 101)
    assert_array_equal(middle.get_ydata(), found.at({"mu": mu, "a": 0.0}).value)
    assert_array_equal(edge.get_ydata(), found.at({"mu": mu, "a": 1.0}).value)


def test_local_coverage_refuses() -> None:
    with pytest.raises(KeyError, match="no entry 'nu'"):
        plots.local_coverage(regressed(), parameters=["nu"])
    with pytest.raises(KeyError, match="no entry 'aa'; closest: 'a'"):
        plots.local_coverage(regressed(), at={"aa": 0.0})
    with pytest.raises(ValueError, match="expected 1 or 2 for the axes, found mu, a, b"):
        plots.local_coverage(regressed(), parameters=["mu", "a", "b"])


# -- impacts -----------------------------------------------------------------------------------------------------------


def bars_of(ax: Axes, filled: bool) -> list[Floats]:
    """The ends of the bars by direction, down and up."""
    sets = [
        bars
        for bars in ax.containers
        if bool(bars.patches[0].get_fill() and bars.patches[0].get_facecolor()[3]) is filled
    ]
    return [np.array([patch.get_width() for patch in bars.patches]) for bars in sets]


def test_impacts_are_the_bars_and_pulls_the_points() -> None:
    found = pulled()
    bars, above = plots.impacts(found)
    assert_array_equal(bars_of(bars, filled=True), found.postfit.T)
    rows = np.arange(len(found.parameters))
    plain = np.array([name not in ("free", "shower") for name in found.parameters])
    assert_array_equal(np.array(bars_of(bars, filled=False))[:, plain], found.prefit.T[:, plain])
    x, y, ends = points(above)
    assert_array_equal(x, found.pulls[plain])
    assert_array_equal(y, rows[plain])
    assert_allclose([(high - low) / 2 for (low, _), (high, _) in ends], found.constraints[plain], rtol=1e-12)
    assert [tick.get_text() for tick in bars.get_yticklabels()] == list(found.parameters)
    assert bars.get_ylim()[0] > bars.get_ylim()[1]  # the largest on top
    for ax in (bars, above):
        assert sum(ax.get_xlim()) == 0  # one zero for both
    assert (bars.get_xlabel(), above.get_xlabel()[:4]) == ("impact on mu", "pull")


def test_free_parameters_have_numbers_instead_of_pulls() -> None:
    found = pulled()
    at = found.parameters.index("free")
    _, above = plots.impacts(found)
    (text,) = above.texts
    assert text.get_position() == (0, at)
    value, error = (float(part) for part in text.get_text().replace("\u2212", "-").split(" ± "))
    assert value == pytest.approx(found.fitted[at], abs=0.01)
    assert error == pytest.approx(found.errors[at], abs=0.01)
    assert at not in points(above)[1]


def test_comparisons_of_models_are_hatched_without_error_bar() -> None:
    found = pulled()
    at = found.parameters.index("shower")
    bars, above = plots.impacts(found)
    hatched = {round(patch.get_y() + patch.get_height() / 2) for patch in bars.patches if patch.get_hatch()}
    assert hatched == {at}
    (open_point,) = (line for line in above.lines if line.get_markerfacecolor() == "white")
    assert_array_equal(open_point.get_xydata(), [[found.pulls[at], at]])
    assert at not in points(above)[1]
    assert "is no reduction of uncertainty" in bars.get_legend().get_title().get_text()


def test_a_caution_is_only_where_it_is_due() -> None:
    found = intervals.impacts(Normal(["mu", "a"], [1.0, 0.0], covariance=[[0.25, 0.3], [0.3, 1.0]]) + Normal("a"), "mu")
    bars, above = plots.impacts(found, labels={"mu": "M", "a": "A"})
    assert bars.get_legend().get_title().get_text() == "M = 1.00 ± 0.45"
    assert legend(bars)[-1].startswith("at $")
    assert [tick.get_text() for tick in bars.get_yticklabels()] == ["A"]
    assert not above.texts


def test_the_largest_impacts_are_shown_and_the_others_counted() -> None:
    found = many()
    bars, _ = plots.impacts(found)
    assert len(bars.get_yticks()) == 30
    assert "the largest 30 of 34 impacts" in bars.get_legend().get_title().get_text()
    assert_array_equal(bars_of(bars, filled=True), found.postfit[:30].T)
    assert len(plots.impacts(found, most=34)[0].get_yticks()) == 34


def test_impacts_refuses() -> None:
    with pytest.raises(ValueError, match="most: expected at least 1 parameter to show, found 0"):
        plots.impacts(pulled(), most=0)
    with pytest.raises(ValueError, match="impacts on mu: expected at least one other parameter, found none"):
        plots.impacts(intervals.impacts(Normal("mu"), "mu"))


# -- limits ------------------------------------------------------------------------------------------------------------


def test_limits_over_a_mass_are_in_its_order() -> None:
    ax = plots.limit(BY_MASS, reference=1.0)
    ordered = [BY_MASS[mass] for mass in (100, 200, 500)]
    assert_array_equal(ax.lines[0].get_xdata(), [100, 200, 500])
    assert_array_equal(ax.lines[0].get_ydata(), [found.observed for found in ordered])
    assert_array_equal(ax.lines[1].get_ydata(), [found.expected[2] for found in ordered])
    for band, (low, high) in zip(ax.collections, ((1, 3), (0, 4)), strict=True):
        vertices = band.get_paths()[0].vertices
        for mass, found in BY_MASS.items():
            at = vertices[vertices[:, 0] == mass, 1]
            assert (at.min(), at.max()) == (found.expected[low], found.expected[high])
    assert ax.collections[0].zorder > ax.collections[1].zorder  # the narrow band above the wide one
    assert legend(ax) == ["observed", "expected", "expected, 68%", "expected, 95%"]
    assert ax.get_ylabel() == "95% upper limit on mu"


def test_limits_in_rows() -> None:
    ax = plots.limit(BY_CHANNEL)
    bands = [bars for bars in ax.containers if hasattr(bars, "patches")]
    for bars, (low, high) in zip(bands, ((1, 3), (0, 4)), strict=True):
        for patch, found in zip(bars.patches, BY_CHANNEL.values(), strict=True):
            assert_allclose([patch.get_x(), patch.get_x() + patch.get_width()], found.expected[[low, high]], rtol=1e-12)
    assert_array_equal(ax.containers[0].lines[0].get_xdata(), [3.0, 2.5, 0.9])
    assert [tick.get_text() for tick in ax.get_yticklabels()] == list(BY_CHANNEL)
    assert [text.get_text() for text in ax.texts] == ["3 (2)", "2.5 (1.5)", "0.9 (1.1)", "obs. (exp.)"]
    assert ax.get_xlabel() == "95% upper limit on mu"
    assert ax.get_xlim()[0] == 0


def test_a_single_limit_is_a_row() -> None:
    assert [text.get_text() for text in plots.limit(limited(3.0)).texts] == ["3 (2)", "obs. (exp.)"]


@pytest.mark.parametrize(
    ("limits", "message"),
    [
        ({}, "limits: expected one by name, or at least two by number, found 0"),
        ({100: limited(1.0)}, "at least two by number, found 1"),
        ({"a": limited(1.0), "b": limited(1.0, name="nu")}, "found mu at 95% by cls and nu at 95% by cls"),
        ({"a": limited(1.0), "b": limited(1.0, cl=0.9)}, "found mu at 90% by cls and mu at 95% by cls"),
        ({"a": limited(np.nan)}, "limit of a: expected finite values"),
        ({1.0: limited(1.0), np.inf: limited(1.0)}, "limits: numbers: expected finite values"),
    ],
)
def test_limit_refuses(limits: dict[Any, UpperLimit], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        plots.limit(limits)


def test_limits_on_a_logarithmic_axis_have_to_be_positive() -> None:
    with pytest.raises(ValueError, match="scale='log': expected limits above 0, found at most -1"):
        plots.limit({"a": limited(-1.0)}, scale="log")


def test_an_observed_limit_below_all_bands_is_on_the_panel() -> None:
    low, usual = (dataclasses.replace(limited(1.0), observed=seen) for seen in (-2.0, 1.0))
    assert plots.limit({"a": low, "b": usual}).get_xlim()[0] <= -2.0
    assert plots.limit({1.0: low, 2.0: usual}).get_ylim()[0] <= -2.0
    assert plots.limit({"a": usual, "b": usual}).get_xlim()[0] == 0.0


@pytest.mark.parametrize("seen", [10.0, 22.0, 30.0])
@pytest.mark.parametrize("method", ["cls", "clsb"])
def test_the_curve_of_a_gaussian_count_has_its_closed_form(seen: float, method: str) -> None:
    """x = (n - 20) / 2 with error 2.5: CL_s+b = Phi((x - mu) / 2.5), 1/2 for mu below x; over CL_b = Phi(x / 2.5)."""
    found, phi = curved(seen, method), stats.norm.cdf
    mu, x, sd = found.values, (seen - 20) / 2, 2.5

    def exact(x: float) -> Any:
        above, below = phi((np.minimum(x, mu) - mu) / sd), phi(np.minimum(x, mu) / sd)
        return above / (below if method == "cls" else 1)

    observed, above = exact(x), phi((np.minimum(x, mu) - mu) / sd)
    observed[0] = 1.0 if method == "cls" else 0.5  # nothing is below the null: q~ is 0 there whatever is seen
    assert_allclose(found.observed, observed, atol=1e-4)
    for column, n in zip(found.expected.T, range(-2, 3), strict=True):
        assert_allclose(column, exact(n * sd), atol=1e-4)  # of an experiment that sees an excess of n sigma
    assert (len(mu), mu[0]) == (40, 0)
    assert mu[-1] > max(found.limit.observed, found.limit.expected[-1])
    plain = intervals.upper_limit(
        Binned(lambda theta: 2 * theta + 20, [seen], "gaussian", parameters=["mu"], variance=[25.0]), "mu",
        method=method, start={"mu": 1.0},  # type: ignore[arg-type]
    )  # fmt: skip
    assert (found.limit.observed, *found.limit.expected) == (plain.observed, *plain.expected)
    if method == "cls":  # the median experiment, and one that saw less than nothing: CL_s+b excludes what CL_s does not
        assert np.all(found.observed >= above - 1e-9)
        assert found.observed[0] == pytest.approx(1)
    assert "LimitCurve(40 values from 0 to" in repr(found)


def test_expected_curves_are_quantiles_of_experiments_without_a_signal() -> None:
    """CL_s+b of 20,001 experiments at their quantiles; it is 1/2 where an experiment finds more than mu."""
    grid, phi = np.array([0.5, 1.0, 2.5]), stats.norm.cdf
    found = limit_curve(Normal("mu", 0.0), "mu", grid, method="clsb")
    x = stats.norm.ppf((np.arange(20_001) + 0.5) / 20_001)[:, None]
    experiments = np.where(x > grid, 0.5, phi(x - grid))
    exact = np.quantile(experiments, phi(np.arange(-2, 3)), axis=0).T
    assert_allclose(found.expected, exact, atol=1e-3)
    assert found.expected[1, 4] < phi(2 - 1) - 0.3  # what it would be without the boundary


def test_a_limit_of_a_low_level_lies_below_the_best_value() -> None:
    """Below x CL_s = 1/2 / Phi(mu / sd), at 0.7 where Phi is 0.5/0.7; at 95% the limit is above x."""
    low, high = (intervals.upper_limit(Normal("mu", 1.0), "mu", cl=cl) for cl in (0.3, 0.95))
    assert low.observed == pytest.approx(stats.norm.ppf(0.5 / 0.7), abs=1e-4)
    assert low.observed < 1.0 < high.observed


def test_nothing_is_excluded_at_the_null() -> None:
    """Exactly, where q~ and q_A are the rounding of -2 log L."""
    for seed in range(8, 12):
        rng = np.random.default_rng(seed)
        root = rng.normal(size=(4, 4))
        at = np.r_[-9.0, rng.normal(size=3)]
        names = ["mu", "a", "b", "c"]
        cost = Normal(names, at, covariance=root @ root.T + 0.1 * np.eye(4)) + Normal("a") + Normal("b") + Normal("c")
        found = limit_curve(cost, "mu", points=3)
        assert found.observed[0] == 1.0
        assert_array_equal(found.expected[0], 1.0)


def test_a_deficit_of_45_sigma_has_a_limit() -> None:
    """CL_s of x = -45 by the asymptotic expansion of Mills' ratio: sf(t) = phi(t) / (t + 1 / t) to 1e-6."""
    found = limit_curve(Normal("mu", -45.0), "mu", [0.0, 0.05, 0.1])
    t = 45 + found.values
    exact = np.exp(-(t**2 - 45.0**2) / 2) * (45 + 1 / 45) / (t + 1 / t)
    assert_allclose(found.observed, exact, rtol=1e-3)


def test_limit_curve_refuses() -> None:
    cost = Normal("mu", 0.2)
    for values in ([1.0], [0.0, 0.0], [-0.5, 1.0], [2.0, 1.0], [[0.0, 1.0]]):
        with pytest.raises(ValueError, match="values: expected at least 2 rising numbers from 0 to inf"):
            limit_curve(cost, "mu", values)
    with pytest.raises(ValueError, match="points: expected at least 2, found 1"):
        limit_curve(cost, "mu", points=1)
    with pytest.raises(ValueError, match="expected 'cls' or 'clsb'"):
        limit_curve(cost, "mu", method="CLs")  # type: ignore[arg-type]
    found = limit_curve(cost, "mu", [0.0, 60.0])
    with pytest.raises(ValueError, match="CL above 0"):
        plots.limit_curve(found, scale="log")


def test_limit_curves_are_drawn_with_their_limit() -> None:
    found, ax = curved(), shown("limit curve")
    assert_array_equal(ax.lines[0].get_ydata(), found.observed)
    assert_array_equal(ax.lines[1].get_ydata(), found.expected[:, 2])
    assert_array_equal(ax.lines[0].get_xdata(), found.values)
    for band, (low, high) in zip(ax.collections, ((1, 3), (0, 4)), strict=False):
        corners = {tuple(corner) for corner in np.asarray(band.get_paths()[0].vertices).round(9).tolist()}
        for column in (low, high):
            assert {(round(x, 9), round(y, 9)) for x, y in zip(found.values, found.expected[:, column], strict=True)
                    } <= corners  # fmt: skip
    marked = next(line for line in ax.lines if line.get_marker() == "o")
    assert (marked.get_xdata()[0], marked.get_ydata()[0]) == (found.limit.observed, pytest.approx(0.05))  # type: ignore[index]
    assert np.interp(found.limit.observed, found.values, found.observed) == pytest.approx(0.05, abs=2e-3)
    assert ax.get_ylabel() == "$CL_{s}$"
    assert plots.limit_curve(curved(method="clsb")).get_ylabel() == "$CL_{s+b}$"


# -- uncertainties by groups -------------------------------------------------------------------------------------------


def group_sizes(correlated: float, groups: tuple[tuple[str, ...], ...]) -> list[float]:
    """Statistical, by group, in quadrature, total: from inverses of the information alone."""
    names, covariance = ["mu", "a", "b", "c", "d"], COVARIANCE.copy()
    covariance[1, 3] = covariance[3, 1] = correlated
    information = np.linalg.inv(covariance) + np.diag([0.0, 1, 1, 1, 1])

    def error(held: tuple[str, ...]) -> float:
        kept = [k for k, name in enumerate(names) if name not in held]
        return float(np.sqrt(np.linalg.inv(information[np.ix_(kept, kept)])[0, 0]))

    parts = [np.sqrt(error(()) ** 2 - error(group) ** 2) for group in groups]
    each = [error(("a", "b", "c", "d")), *sorted(parts, reverse=True)]
    return [*each, float(np.sqrt(np.sum(np.square(each)))), error(())]


@pytest.mark.parametrize(("correlated", "groups"), [
    (0.0, (("a", "b"), ("c", "d"))), (0.2, (("a", "b"), ("c", "d"))), (0.0, (("a",), ("c",))),
])  # fmt: skip
def test_breakdown_is_that_of_linear_algebra(correlated: float, groups: tuple[tuple[str, ...], ...]) -> None:
    ax = plots.breakdown(grouped(correlated, groups))
    sizes = group_sizes(correlated, groups)
    assert_allclose([bar.get_width() for bar in ax.patches], sizes, rtol=1e-4)
    names = [text.get_text() for text in ax.get_yticklabels()]
    assert (names[0], sorted(names[1:3]), names[3:]) == (
        "statistical", ["norms", "shapes"], ["sum in quadrature", "total"])  # fmt: skip
    shares = [text.get_text() for text in ax.texts][:-1]
    assert shares == [f"{size:.3g} ({100 * size**2 / sizes[-1] ** 2:.0f}%)" for size in sizes]
    # the figure shows where parts do not add up: groups that are correlated, and a nuisance that is in none
    assert (abs(sizes[-2] / sizes[-1] - 1) < 5e-3) == (correlated == 0 and len(groups[0]) == 2)


def test_breakdown_refuses() -> None:
    with pytest.raises(ValueError, match=r"impacts on mu: expected groups of parameters, found none; give intervals"):
        plots.breakdown(pulled())
    with pytest.raises(ValueError, match="uncertainty of mu by groups"):
        plots.breakdown(dataclasses.replace(grouped(), error=float("nan")))


# -- observables -------------------------------------------------------------------------------------------------------


def test_observable_is_stacked_by_process() -> None:
    x, each = stacked()
    data = np.random.default_rng(5).normal(size=1600)
    edges = np.linspace(-5, 5, 21)
    main, ratio = plots.optimal_observable(x, each, data=data, bins=edges)
    counts = {name: np.histogram(x, edges, weights=weight)[0] for name, weight in each.items()}
    total = sum(counts.values())
    filled = steps(main)[1]
    assert_allclose([filled[0][0], filled[1][0]], [counts["B"], counts["B"] + counts["S"]], rtol=1e-12)
    assert_allclose(filled[1][1], counts["B"], rtol=1e-12)
    assert_allclose(filled[2], [counts["interference"], np.zeros(20)], rtol=1e-12)  # below zero
    assert_allclose(steps(main)[0][0], total, rtol=1e-12)
    _, y, bars = points(main)
    seen = np.histogram(data, edges)[0]
    assert_array_equal(y, seen)
    assert_allclose([high - low for (_, low), (_, high) in bars], 2 * np.sqrt(seen), rtol=1e-9)
    assert_allclose(points(ratio)[1], np.divide(seen, total, out=np.full(20, np.nan), where=total != 0), rtol=1e-12)
    assert legend(main) == ["data", "expected", "interference", "S", "B"]


def test_uncertainty_of_the_expectation_is_that_of_the_sum() -> None:
    main, ratio = plots.optimal_observable(
        [0.1, 0.2, 0.7], {"B": [3.0, 2.0, 1.0], "I": [-1.0, -1.0, 0.0]}, bins=[0, 0.5, 1]
    )
    band = next(patch for patch in main.patches if patch.get_hatch()).get_data()
    assert_allclose(band.values - band.baseline, 2 * np.sqrt([2.0**2 + 1.0**2, 1.0]), rtol=1e-12)
    assert ratio.get_ylabel() == "uncertainty"


def test_outer_bins_hold_what_is_beyond() -> None:
    x, each = stacked()
    main, _ = plots.optimal_observable(x, each, bins=10)
    assert steps(main)[0][0].sum() == pytest.approx(sum(part.sum() for part in each.values()))
    assert legend(main)[-1] == "outer bins with overflow"
    main, _ = plots.optimal_observable(x, each, bins=[-9, 0, 9])
    assert "outer bins with overflow" not in legend(main)


def test_observable_of_a_mixture_is_that_of_its_asimov_data() -> None:
    """As the reference page has it: the reference weighted by the rate, of which the Asimov data are the sum."""
    reference = Events({"x": np.random.default_rng(9).normal(0, 2, 3000)})

    def narrow(events: Events) -> Floats:  # log N(0, 1) / N(0, 2)
        return np.asarray(-0.375 * events["x"] ** 2 + np.log(2))

    signal = Process(yields=300, ratio=narrow, coefficient="mu", norms={"lumi": 0.02})
    model = Mixture({"S": signal, "B": Process(yields=900)}, reference)
    values = {"mu": 1.2, "lumi": 0.5}
    rate = reference.weight * np.exp(model.log_rate(reference, **values)) / reference.weight.sum()
    each = model.expected_events(reference, **values)
    slope = model.optimal_observable(reference, "mu", **values)
    main, ratio = plots.optimal_observable(slope, each, data=slope, data_weight=rate)
    assert steps(main)[0][0].sum() == pytest.approx(model.expected(**values), rel=1e-9)
    assert sum(each["S"]) == pytest.approx(1.2 * 300 * 1.01, rel=1e-4)  # interpolated between 0.98 and 1.02
    y = points(ratio)[1]
    assert_allclose(y[np.isfinite(y)], 1.0, rtol=1e-9)


def test_weighted_data() -> None:
    main, _ = plots.optimal_observable(
        [0.0, 1.0], {"B": [1.0, 1.0]}, data=[0.0, 0.0], data_weight=[0.5, 2.0], bins=[-1, 0.5, 2]
    )
    _, y, bars = points(main)
    assert_array_equal(y, [2.5, 0.0])
    assert bars[0][1, 1] - bars[0][0, 1] == pytest.approx(2 * np.sqrt(0.25 + 4.0))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"observable": [[0.0, 1.0]]}, r"observable: expected one value per event, .*found shape \(1, 2\)"),
        ({"observable": [0.0, np.nan]}, "observable: expected finite values"),
        ({"contributions": {}}, "contributions: expected 1 to 6 processes, found 0"),
        ({"contributions": {"B": [1.0]}}, "contribution of B: expected one number for each of 2 events"),
        ({"contributions": {"B": [0.0, 0.0]}}, "contributions: expected some events, found only zeros in B"),
        ({"data": [np.inf]}, "data: expected finite values"),
        ({"data": [[1.0]]}, r"data: expected one value per event"),
        ({"data_weight": [1.0]}, "data_weight: expected data as well"),
        ({"data": [1.0, 2.0], "data_weight": [1.0]}, "data_weight: expected one number for each of 2 events of data"),
        ({"bins": 0}, "bins: expected at least 1, found 0"),
        ({"bins": [1.0, 0.0]}, "edges: expected rising numbers"),
        (
            {"contributions": {"B": [2.0, 2.0], "I": [-1.0, 0.0]}, "yscale": "log"},
            "yscale='log': expected no contributions below 0",
        ),
    ],
)
def test_observable_refuses(change: dict[str, Any], message: str) -> None:
    given = {"observable": [0.0, 1.0], "contributions": {"B": [1.0, 1.0]}, **change}
    with pytest.raises(ValueError, match=message):
        plots.optimal_observable(given.pop("observable"), given.pop("contributions"), **given)


# -- all of them -------------------------------------------------------------------------------------------------------


def test_drawing_on_given_axes() -> None:
    for draw in (
        lambda ax: plots.profile(profiled(), ax=ax),
        lambda ax: plots.contour(contoured(), ax=ax),
        lambda ax: plots.belt(construction(), ax=ax),
        lambda ax: plots.critical_values(construction(), ax=ax),
        lambda ax: plots.coverage_map(on_grid(), cl=0.68, ax=ax),
        lambda ax: plots.limit(BY_MASS, ax=ax),
        lambda ax: plots.limit(BY_CHANNEL, ax=ax),
        lambda ax: plots.impacts(pulled(), ax=ax)[0],
    ):
        ax = Figure().subplots()
        assert draw(ax) is ax
    drawn(ax)
    pair = Figure().subplots(2, 1)
    assert plots.optimal_observable(*stacked(), axes=pair) == tuple(pair)


def test_signs_are_typeset_alike() -> None:
    """Minus signs in legends are minus signs, not hyphens."""
    text = legend(plots.profile(profiled(-1.0)))[0]
    assert re.fullmatch("\u22121.00 ± 0.30 .68%.", text)
