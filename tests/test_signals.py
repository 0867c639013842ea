"""Impacts, significances and limits against closed forms, brute force and pyhf."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from iminuit import cost as iminuit_cost
from numpy.typing import NDArray
from scipy import optimize, stats
from test_intervals import LINEAR, Counts, Given, mixture, on_off, on_off_profiled, profiled

from nuinfer.errors import NotConverged
from nuinfer.intervals import Impacts, bounded_interval, discovery, fit, impacts, upper_limit
from nuinfer.likelihood import Binned, Normal, Poisson, TwoPoint, asimov

Floats = NDArray[np.float64]


# -- impacts -----------------------------------------------------------------------------------------------------------


def test_impacts_of_a_linear_model_have_their_closed_form() -> None:
    groups = {"one": ["a", "b"], "two": ["c", "d"], "all": ["a", "b", "c", "d"]}
    found = impacts(LINEAR.cost, "mu", groups=groups)
    v, best = LINEAR.covariance, LINEAR.best
    width = np.sqrt(np.diag(v))
    prior, centre = {"a": 1.0, "b": 1.0, "c": 0.5, "d": 1.0}, {"a": 0.0, "b": 0.0, "c": 0.3, "d": 0.0}
    assert (found.value, found.error) == pytest.approx((best[0], width[0]), rel=1e-5)
    assert set(found.parameters) == set(LINEAR.names) - {"mu"}
    assert set(found.free) == {"nu", "free"}
    for k, name in enumerate(found.parameters):
        i = LINEAR.names.index(name)
        slope = v[0, i] / v[i, i]  # of mu on the parameter
        np.testing.assert_allclose(found.postfit[k], [-slope * width[i], slope * width[i]], atol=2e-3 * width[0])
        if name in prior:
            np.testing.assert_allclose(found.prefit[k], np.array([-1, 1]) * slope * prior[name], atol=2e-3 * width[0])
            assert found.pulls[k] == pytest.approx((best[i] - centre[name]) / prior[name], abs=1e-3)
            assert found.constraints[k] == pytest.approx(width[i] / prior[name], rel=1e-5)
        else:
            assert np.isnan([found.pulls[k], found.constraints[k], *found.prefit[k]]).all()
    assert (np.diff(found.sizes) <= 0).all()
    for label, names in groups.items():
        rest = [i for i, name in enumerate(LINEAR.names) if name not in names]
        held = np.linalg.inv(np.linalg.inv(v)[np.ix_(rest, rest)])[0, 0]
        assert found.groups[label] == pytest.approx(math.sqrt(v[0, 0] - held), rel=1e-5)
    assert found.statistical == pytest.approx(math.sqrt(v[0, 0] - found.groups["all"] ** 2), rel=1e-5)
    assert found.sizes.max() > 0.1 * width[0]  # and there is something to see


def test_a_group_held_in_a_fit_gives_the_same_uncertainty() -> None:
    cost = on_off(17, 20, 2.0)
    found = impacts(cost, "s", groups={"background": ["b"]})
    held = fit(cost, fixed={"b": 10.0}).errors["s"]
    assert found.groups["background"] == pytest.approx(math.sqrt(found.error**2 - held**2), rel=1e-3)
    assert found.statistical == pytest.approx(math.sqrt(17), rel=1e-3)


def test_a_shrunken_two_point_nuisance_is_no_reduction() -> None:
    """mu + 0.8 alpha = 2 +- 0.1, and alpha itself is measured in passing as 0.4 +- 0.2."""
    measured = Normal(["mu", "theory"], [1.68, 0.4], covariance=np.linalg.inv([[100.0, 80], [80, 64 + 25]]))
    two = impacts(measured + TwoPoint("theory", ("Nieves", "Martini")), "mu")
    alpha = 25 * 0.4 / 26
    assert two.value == pytest.approx(2 - 0.8 * alpha, abs=1e-4)
    assert two.constraints[0] == pytest.approx(26**-0.5, rel=1e-4)
    # the full difference, 0.8, although the fit would allow 0.8 * 0.2 only
    np.testing.assert_allclose(two.postfit[0], [0.8 * alpha, 0.8 * (alpha - 1)], atol=1e-4)
    np.testing.assert_array_equal(two.prefit, two.postfit)
    text = two.report()
    assert two.two_points == {"theory": ("Nieves", "Martini")}
    assert "Nieves and Martini" in text
    assert "is not a reduction of an uncertainty" in text
    assert "whole difference, 0.8 (arXiv 2109.08159)" in text
    assert "constraint 0.2" not in text
    one = impacts(measured + Normal("theory"), "mu")
    assert one.postfit[0] == pytest.approx([0.8 * 26**-0.5, -0.8 * 26**-0.5], abs=1e-4)
    assert "reduction" not in one.report()
    assert "constraint 0.20" in one.report()


def test_impacts_stay_inside_limits_and_are_saved(tmp_path: Path) -> None:
    cost = Normal(["mu", "a"], [1.0, 0.1], covariance=[[0.25, 0.3], [0.3, 1.0]]) + TwoPoint("a", ("A", "B"))
    found = impacts(cost + Normal("b"), "mu", limits={"b": (-0.5, None)}, groups={"a": ["a"]})
    found.save(tmp_path / "i.safetensors")
    again = Impacts.load(tmp_path / "i.safetensors")
    assert again.report() == found.report()
    assert again.two_points == {"a": ("A", "B")}
    np.testing.assert_array_equal(again.postfit, found.postfit)
    assert found.postfit[found.parameters.index("b")] == pytest.approx([0, 0], abs=1e-4)


def test_mixture_impacts_agree_with_the_independent_likelihood() -> None:
    cost, _ = mixture()
    best, found = fit(cost), impacts(cost, "mu")
    assert found.free == ()
    for name in ("shift", "rate"):
        k = found.parameters.index(name)
        assert found.pulls[k] == pytest.approx(profiled({}, best.values)[1][name], abs=1e-3)
        for side in (0, 1):
            held = {name: best.values[name] + (2 * side - 1) * best.errors[name]}
            shift = profiled(held, {**best.values, **held})[1]["mu"] - best.values["mu"]
            assert found.postfit[k, side] == pytest.approx(shift, abs=1e-3 * best.errors["mu"])
    assert found.sizes[0] > 0.05 * best.errors["mu"]


def test_bad_input_of_impacts() -> None:
    with pytest.raises(KeyError, match="groups: no parameter 'e'"):
        impacts(LINEAR.cost, "mu", groups={"x": ["e"]})
    with pytest.raises(ValueError, match="'mu' is the parameter of interest"):
        impacts(LINEAR.cost, "mu", groups={"x": ["mu"]})
    with pytest.raises(ValueError, match="'mu' is fixed and scanned at once"):
        impacts(LINEAR.cost, "mu", fixed={"mu": 1.0})
    with pytest.raises(ValueError, match="impacts on 'mu': it is at its limit, 5"):
        impacts(LINEAR.cost, "mu", limits={"mu": (5, None)})


# -- discovery ---------------------------------------------------------------------------------------------------------


def counting(n: float, s: float, b: float) -> Any:
    """n counts of mu s + b."""
    return Counts(lambda mu: mu * s + b, ["mu"], [n])


@pytest.mark.parametrize(("s", "b"), [(5.0, 2.0), (10.0, 100.0), (3.0, 0.5)])
def test_significance_of_a_counting_experiment(s: float, b: float) -> None:
    found = discovery(counting(s + b, s, b), "mu")
    exact = math.sqrt(2 * ((s + b) * math.log1p(s / b) - s))
    assert found.z == pytest.approx(exact, abs=1e-6)
    assert found.p == pytest.approx(stats.norm.sf(exact), rel=1e-5)
    np.testing.assert_allclose(found.expected, np.maximum(exact + np.arange(-2, 3), 0), atol=1e-5)
    assert abs(exact - s / math.sqrt(b)) > 1e-2  # s/sqrt(b) is something else
    twice = discovery(counting(s + b, s, b), "mu", alternative=2.0)
    assert twice.expected[2] == pytest.approx(math.sqrt(2 * ((2 * s + b) * math.log1p(2 * s / b) - 2 * s)), abs=1e-5)


def test_on_off_significance_is_that_of_li_and_ma() -> None:
    n, m, tau = 17, 20, 2.0
    found = discovery(on_off(n, m, tau), "s", alternative=6.0)
    a = 1 / tau
    li_ma = math.sqrt(2 * (n * math.log((1 + a) / a * n / (n + m)) + m * math.log((1 + a) * m / (n + m))))
    assert found.z == pytest.approx(li_ma, abs=1e-5)
    # the Asimov data are made at the background that fits best with a signal of 6
    b = optimize.minimize_scalar(lambda b: on_off_value(n, m, tau, 6.0, b), bounds=(1, 30), method="bounded",
                                 options={"xatol": 1e-9}).x  # fmt: skip
    median = math.sqrt(float(on_off_profiled(0.0, 6 + b, tau * b, tau)))  # type: ignore[arg-type]
    assert found.expected[2] == pytest.approx(median, abs=1e-4)
    known = discovery(counting(n, 1.0, m / tau), "mu", alternative=None)
    assert known.z > 1.1 * found.z  # with the background known it would be larger


def on_off_value(n: float, m: float, tau: float, s: float, b: float) -> float:
    one, two = s + b, tau * b
    return 2 * (one - n + n * math.log(n / one) + two - m + m * math.log(m / two))


def test_a_deficit_is_no_discovery() -> None:
    for limits in ({}, {"mu": (0, None)}):
        found = discovery(counting(80, 10.0, 100.0), "mu", limits=limits)
        assert (found.q0, found.z, found.p) == (0, 0, 0.5)


def test_mixture_significance_agrees_with_the_independent_likelihood() -> None:
    cost, _ = mixture()
    best = fit(cost)
    exact = math.sqrt(profiled({"mu": 0.0}, best.values)[0] - best.minimum)
    found = discovery(cost, "mu", alternative=0.3)
    assert found.z == pytest.approx(exact, abs=1e-5 / exact + 1e-5)
    assert found.z > 1
    at = {**best.values, "mu": 0.3}
    pinned = discovery(cost, "mu", alternative=0.3, fixed={n: at[n] for n in at if n != "mu"})
    data = asimov(cost, at)
    by_value = data._value(tuple({**at, "mu": 0.0}.values())) - data._value(tuple(at.values()))
    assert pinned.expected[2] == pytest.approx(math.sqrt(by_value), abs=1e-4)


# -- limits ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("best", [-2.0, -0.5, 0.0, 0.7, 3.0])
@pytest.mark.parametrize("cl", [0.9, 0.95])
def test_limits_of_a_normal_measurement_have_their_closed_form(best: float, cl: float) -> None:
    """CL_s with a normal estimator of width 2: mu = x + 2 Phi^-1(1 - alpha Phi(x/2)), from Phi and nothing else."""
    sd, alpha = 2.0, 1 - cl
    found = upper_limit(Normal("mu", best, sd), "mu", cl=cl)
    phi, quantile = stats.norm.cdf, stats.norm.ppf
    exact = best + sd * quantile(1 - alpha * phi(best / sd))
    assert found.observed == pytest.approx(exact, abs=1e-4)
    bands = [sd * (n + quantile(1 - alpha * phi(n))) for n in range(-2, 3)]
    np.testing.assert_allclose(found.expected, bands, atol=1e-4)
    plain = upper_limit(Normal("mu", best, sd), "mu", cl=cl, method="clsb")
    assert plain.observed == pytest.approx(max(best + sd * quantile(cl), 0), abs=1e-4)
    assert found.observed > plain.observed


def cls_by_hand(n: float, s: float, b: float, mu: float) -> float:
    """CL_s of one counting experiment with a known background, from the formulae of arXiv 1007.1727."""

    def nll(count: float, mean: float) -> float:
        return 2 * (mean - (count * math.log(mean) if count else 0.0))

    def q(count: float) -> float:
        best = max((count - b) / s, 0.0)
        return max(nll(count, mu * s + b) - nll(count, best * s + b), 0.0) if best <= mu else 0.0

    observed, asimov_ = q(n), q(b)
    root = math.sqrt(asimov_)
    if observed <= asimov_:
        return float(stats.norm.sf(math.sqrt(observed)) / stats.norm.sf(math.sqrt(observed) - root))
    return float(stats.norm.sf((observed + asimov_) / (2 * root)) / stats.norm.sf((observed - asimov_) / (2 * root)))


@pytest.mark.parametrize("n", [0.0, 4.0, 9.0, 20.0])
def test_counting_limits_equal_those_worked_out_by_hand(n: float) -> None:
    found = upper_limit(counting(n, 5.0, 8.0), "mu")
    exact = optimize.brentq(lambda mu: cls_by_hand(n, 5.0, 8.0, mu) - 0.05, max((n - 8) / 5, 0) + 1e-3, 20)
    assert found.observed == pytest.approx(exact, abs=1e-4)


@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # of jsonschema, by pyhf
def test_limits_and_significance_agree_with_pyhf() -> None:
    pyhf = pytest.importorskip("pyhf")
    model = pyhf.simplemodels.uncorrelated_background(signal=[6.0, 3.0], bkg=[50.0, 20.0], bkg_uncertainty=[7.0, 4.0])
    data = [55.0, 24.0, *model.config.auxdata]
    signal, background = (torch.tensor(v, dtype=torch.float64) for v in ([6.0, 3.0], [50.0, 20.0]))
    counts = Counts(lambda mu, g, h: mu * signal + background * torch.stack([g, h]), ["mu", "g", "h"], data[:2])
    tau = [(50 / 7) ** 2, (20 / 4) ** 2]
    cost = counts + Poisson("g", tau[0], tau[0]) + Poisson("h", tau[1], tau[1])
    found, (low, high) = upper_limit(cost, "mu"), (0.1, 10.0)
    levels: Callable[[float], Any] = lambda mu: pyhf.infer.hypotest(  # noqa: E731
        mu, data, model, test_stat="qtilde", return_expected_set=True
    )
    observed = optimize.brentq(lambda mu: float(levels(mu)[0]) - 0.05, low, high, xtol=1e-3)
    assert found.observed == pytest.approx(observed, rel=1e-3)
    for i in (1, 4):  # pyhf's bands are of CL_s, from -2 sigma on; those of the limit run with it
        band = optimize.brentq(lambda mu, i=i: float(levels(mu)[1][i]) - 0.05, low, high, xtol=1e-3)
        assert found.expected[i] == pytest.approx(band, rel=2e-3)
    p = float(pyhf.infer.hypotest(0.0, data, model, test_stat="q0"))
    assert discovery(cost, "mu", alternative=None).p == pytest.approx(p, rel=1e-3)


@pytest.mark.parametrize("unit", [1e-6, 1.0, 1e6])
@pytest.mark.parametrize("seen", [0.0, 5.0])
def test_limits_are_the_same_in_any_unit(seen: float, unit: float) -> None:
    """A value measured to 1 unit, without a constraint that would say so: CL_s in closed form."""
    cost = Binned(lambda theta: theta / unit, [seen], "gaussian", parameters=["x"], variance=[1.0])
    start = {"x": 2 * unit}
    found = upper_limit(cost, "x", start=start, limits={"x": (0, None)})
    exact = seen + stats.norm.isf(0.05 * stats.norm.cdf(seen))
    assert found.observed / unit == pytest.approx(exact, abs=2e-4)
    assert found.expected[2] / unit == pytest.approx(stats.norm.isf(0.025), abs=2e-4)
    assert discovery(cost, "x", alternative=3 * unit, start=start).expected[2] == pytest.approx(3, abs=1e-3)
    ends = bounded_interval(cost, "x", cl=0.9, start=start)
    reach = stats.norm.isf(0.05)
    assert (ends.low / unit, ends.high / unit) == pytest.approx((max(seen - reach, 0), seen + reach), abs=1e-3)


def test_background_uncertainty_weakens_a_limit() -> None:
    known, unknown = (upper_limit(cost, name) for cost, name in (
        (counting(9, 1.0, 10.0), "mu"), (on_off(9, 10, 1.0), "s")))  # fmt: skip
    assert unknown.observed > 1.1 * known.observed
    assert (np.diff(unknown.expected) > 0).all()


# -- boundaries --------------------------------------------------------------------------------------------------------


def feldman_cousins(x: float, cl: float) -> tuple[float, float]:
    """The interval of a normal measurement of width 1 with mu >= 0, by brute force over acceptance regions."""
    fine = np.linspace(-12, 16, 14_001)

    def excluded(mu: float) -> float:
        rank = np.where(fine >= 0, (fine - mu) ** 2, mu**2 - 2 * fine * mu)
        mine = (x - mu) ** 2 if x >= 0 else mu**2 - 2 * x * mu
        density = np.exp(-((fine - mu) ** 2) / 2) / math.sqrt(2 * math.pi) * (rank <= mine)
        return float(np.trapezoid(density, fine)) - cl

    grid = np.linspace(1e-6, 10, 101)
    inside = np.array([excluded(mu) <= 0 for mu in grid])
    first, last = np.flatnonzero(inside)[[0, -1]]
    low = 0.0 if first == 0 else float(optimize.brentq(excluded, grid[first - 1], grid[first], xtol=1e-3))
    return low, float(optimize.brentq(excluded, grid[last], grid[last + 1], xtol=1e-3))


@pytest.mark.parametrize("x", [-2.0, -0.3, 0.5, 1.5, 4.0])
def test_bounded_intervals_of_a_normal_measurement_are_those_of_feldman_and_cousins(x: float) -> None:
    found = bounded_interval(Normal("mu", x, 1.0), "mu", cl=0.9)
    # the brute force has steps of the grid's spacing, 2e-3
    assert (found.low, found.high) == pytest.approx(feldman_cousins(x, 0.9), abs=5e-3)
    assert found.best == pytest.approx(max(x, 0), abs=2e-3)
    wilks = x - stats.norm.ppf(0.95), x + stats.norm.ppf(0.95)
    if x < 1:  # a chi2 level with the boundary cut off is another interval
        assert abs(found.high - wilks[1]) > 1e-3 or found.low != wilks[0]


def test_bounded_interval_with_a_nuisance_and_another_boundary() -> None:
    """mu + alpha = x +- 1, alpha = 0 +- 1: a width of sqrt(2) about the boundary 3."""
    cost = Given(lambda mu, a: (mu + a - 4.0) ** 2, ["mu", "a"])
    with pytest.raises(TypeError, match="cannot make Asimov data"):
        bounded_interval(cost + Normal("a"), "mu", boundary=3.0)
    joint = Normal(["mu", "a"], [4.0, 0.0], covariance=[[2.0, -1.0], [-1.0, 1.0]])
    found = bounded_interval(joint, "mu", cl=0.9, boundary=3.0)
    low, high = feldman_cousins(1 / math.sqrt(2), 0.9)
    assert (found.low, found.high) == pytest.approx((3 + low, 3 + high * math.sqrt(2)), abs=1e-2)


def test_bad_input_of_limits() -> None:
    cost = Normal("mu")
    for function in (upper_limit, bounded_interval):
        for cl in (0.0, 95.0):
            with pytest.raises(ValueError, match="between 0 and 1"):
                function(cost, "mu", cl=cl)
        with pytest.raises(KeyError, match="no parameter 'my'; closest: 'mu'"):
            function(cost, "my")
        with pytest.raises(ValueError, match="expected a boundary within its limits, from 1 to inf, found 0"):
            function(cost, "mu", limits={"mu": (1, None)})
        with pytest.raises(ValueError, match=r"no crossing below its upper limit, 0\.5"):
            function(cost, "mu", limits={"mu": (None, 0.5)})
        with pytest.raises(ValueError, match="'mu' is fixed and scanned"):
            function(cost, "mu", fixed={"mu": 1.0})
    with pytest.raises(ValueError, match="expected 'cls' or 'clsb', found 'CLs'"):
        upper_limit(cost, "mu", method="CLs")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="alternative: expected a value above the null, 0, found -1"):
        discovery(cost, "mu", alternative=-1.0)
    other = iminuit_cost.NormalConstraint("mu", 1.0, 0.5)
    assert discovery(other, "mu", alternative=None, start={"mu": 0.5}).z == pytest.approx(2.0, abs=1e-5)
    with pytest.raises(TypeError, match="expected costs of nuinfer"):
        discovery(other, "mu", start={"mu": 0.5})
    with pytest.raises(NotConverged):
        upper_limit(Given(lambda mu: 0 * mu, ["mu"]), "mu")
