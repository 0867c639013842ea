"""Fits, profiles, MINOS and contours against closed forms, brute force, and likelihoods written out in numpy."""

from __future__ import annotations

import dataclasses
import functools
import logging
import math
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from iminuit import cost as iminuit_cost
from numpy.typing import NDArray
from scipy import optimize, stats
from test_mixture import by_hand, processes, samples
from torch import Tensor

import nuinfer as nu
from nuinfer.errors import NotConverged
from nuinfer.intervals import Contour, Profile, contour, fit, impacts, minos, neyman, profile
from nuinfer.intervals.fits import Problem
from nuinfer.likelihood import (
    BinnedMixture,
    DifferentiableCost,
    LogNormal,
    Mixture,
    NegativeDensity,
    Normal,
    Poisson,
    Process,
    Template,
)

Floats = NDArray[np.float64]


# -- models of which everything is known -------------------------------------------------------------------------------


class Given(DifferentiableCost):
    """Any function of named parameters as -2 log L."""

    def __init__(self, function: Callable[..., Tensor], names: Sequence[str], **limits: Any) -> None:
        super().__init__({name: limits.get(name) for name in names})
        self.function = function

    def tensor(self, theta: Tensor) -> Tensor:
        return self.function(*theta)

    def _ndata(self) -> int:
        return 1


class Counts(DifferentiableCost):
    """Poisson counts of any expectation."""

    def __init__(self, expected: Callable[..., Tensor], names: Sequence[str], counts: Any, **limits: Any) -> None:
        super().__init__({name: limits.get(name) for name in names})
        self.expected, self.counts, self.limits = expected, torch.as_tensor(counts, dtype=torch.float64), limits

    def tensor(self, theta: Tensor) -> Tensor:
        mean = torch.atleast_1d(self.expected(*theta))
        if not bool((mean > 0).all()):
            raise NegativeDensity(f"expected counts {mean.tolist()}")
        return 2 * (mean - self.counts - torch.xlogy(self.counts, mean / self.counts.clamp(min=1e-300))).sum()

    def asimov(self, values: Mapping[str, float]) -> Counts:
        mean = self.expected(*(torch.tensor(values[name], dtype=torch.float64) for name in self.names))
        return Counts(self.expected, self.names, torch.atleast_1d(mean), **self.limits)

    def sample(self, values: Mapping[str, float], rng: np.random.Generator) -> Counts:
        mean = self.asimov(values).counts.numpy()
        return Counts(self.expected, self.names, rng.poisson(mean), **self.limits)

    def _ndata(self) -> int:
        return len(self.counts)


class Linear:
    """y ~ N(A theta, C) in seven parameters, four of them with constraints: everything in closed form."""

    names = ("mu", "nu", "free", "a", "b", "c", "d")

    def __init__(self) -> None:
        rng = np.random.default_rng(4)
        self.a = rng.normal(size=(20, 7)) * [1, 1, 30, 0.2, 0.3, 0.1, 0.5]
        c = np.diag(rng.uniform(0.5, 2, 20)) + 0.3
        self.y = self.a @ np.array([1, 2, 0.03, 0, 0.5, -1, 0]) + np.linalg.cholesky(c) @ rng.normal(size=20)
        self.inverse = np.linalg.inv(c)
        self.prior, self.centre = np.diag([0, 0, 0, 1, 1, 4, 1.0]), np.array([0, 0, 0, 0, 0, 0.3, 0])
        self.covariance = np.linalg.inv(self.a.T @ self.inverse @ self.a + self.prior)
        self.best = self.covariance @ (self.a.T @ self.inverse @ self.y + self.prior @ self.centre)

    def value(self, theta: Floats) -> float:
        r, p = self.y - self.a @ theta, theta - self.centre
        return float(r @ self.inverse @ r + p @ self.prior @ p)

    @functools.cached_property
    def cost(self) -> Any:
        a, y, inverse = (torch.from_numpy(v) for v in (self.a, self.y, self.inverse))

        def chi2(*theta: Tensor) -> Tensor:
            r = y - a @ torch.stack(theta)
            return r @ (inverse @ r)

        return Given(chi2, self.names) + Normal("a") + Normal("b") + Normal("c", 0.3, 0.5) + Normal("d")


LINEAR = Linear()


def ring(distance: float = 4.0, width: float = 0.5) -> Given:
    """x^2 was measured: two minima, at +-2."""
    return Given(lambda x: ((x**2 - distance) / width) ** 2, ["x"])


# -- fits --------------------------------------------------------------------------------------------------------------


def test_linear_model_has_its_exact_covariance() -> None:
    found = fit(LINEAR.cost)
    width = np.sqrt(np.diag(LINEAR.covariance))
    assert found.names == LINEAR.names
    assert found.valid
    np.testing.assert_allclose([found.values[n] for n in found.names], LINEAR.best, atol=1e-5 * width.min())
    np.testing.assert_allclose(found.covariance, LINEAR.covariance, atol=1e-7 * width.max() ** 2, rtol=1e-6)
    np.testing.assert_allclose(list(found.errors.values()), width, rtol=1e-7)
    assert found.minimum == pytest.approx(LINEAR.value(LINEAR.best), abs=1e-9)
    assert found.edm < 1e-6
    np.testing.assert_allclose(np.diag(found.correlation), 1)
    assert found.calls.gradient <= 7 + 14 + 10  # the two Hessians and MIGRAD between them
    # the widths without the correlations are others
    assert abs(1 / np.sqrt(np.diag(np.linalg.inv(LINEAR.covariance))) / width - 1).max() > 0.1


def test_many_parameters_of_unknown_widths_have_their_exact_errors() -> None:
    """25 of widths from 1e-3 to 1 that are all looked for at 0.1, with a cubic part that tells where the Hessian is."""
    rng = np.random.default_rng(3)
    width, names = np.geomspace(1e-3, 1, 25), [f"p{i}" for i in range(25)]
    turn = np.linalg.qr(rng.normal(size=(25, 25)))[0]
    mix = torch.from_numpy((np.eye(25) + 0.3 * turn) / width)
    aim = torch.from_numpy(rng.normal(size=25) * width * 3)

    def value(*theta: Tensor) -> Tensor:
        z = mix @ (torch.stack(theta) - aim)
        return (z**2 + 0.05 * z**3 + 0.01 * z**4).sum()

    found = fit(Given(value, names))
    covariance = np.linalg.inv((mix.T @ mix).numpy())
    np.testing.assert_allclose(list(found.errors.values()), np.sqrt(np.diag(covariance)), rtol=1e-3)
    np.testing.assert_allclose(list(found.values.values()), aim.numpy(), atol=2e-3 * width.max(), rtol=0)
    assert found.calls.gradient < 26 + 50 + 55  # a rough Hessian, that at the minimum, and MIGRAD


def test_fixed_parameters_stay_and_the_rest_follows() -> None:
    found = fit(LINEAR.cost, fixed={"mu": 0.4, "c": 0.0})
    rest = [1, 2, 3, 4, 6]
    precision = np.linalg.inv(LINEAR.covariance)
    kept = np.linalg.inv(precision[np.ix_(rest, rest)])
    away = np.array([0.4, 0.0]) - LINEAR.best[[0, 5]]
    np.testing.assert_allclose(
        [found.values[LINEAR.names[i]] for i in rest],
        LINEAR.best[rest] - kept @ precision[np.ix_(rest, [0, 5])] @ away, atol=1e-6,
    )  # fmt: skip
    np.testing.assert_allclose(found.covariance[np.ix_(rest, rest)], kept, rtol=1e-6, atol=1e-10)
    assert found.fixed == {"mu": 0.4, "c": 0.0}
    assert found.errors["mu"] == 0
    assert found.free == tuple(LINEAR.names[i] for i in rest)
    assert set(found.others("mu")) == set(LINEAR.names) - {"mu"}
    whole = fit(LINEAR.cost, fixed=dict(zip(LINEAR.names, LINEAR.best.tolist(), strict=True)))
    assert whole.minimum == pytest.approx(LINEAR.value(LINEAR.best))
    assert whole.valid


def test_a_minimum_beyond_a_limit_is_at_the_limit() -> None:
    """The others are where they are best with it held there, with that covariance."""
    held = fit(LINEAR.cost, fixed={"mu": LINEAR.best[0] + 0.5})
    for limits in ({"mu": (LINEAR.best[0] + 0.5, None)}, {"mu": (LINEAR.best[0] + 0.5, 5.0)}):
        found = fit(LINEAR.cost, limits=limits)
        assert found.at_limit == ("mu",)
        for name in held.free:
            assert found.values[name] == pytest.approx(held.values[name], abs=2e-3 * held.errors[name])
            assert found.errors[name] == pytest.approx(held.errors[name], rel=1e-3)
        assert found.minimum == pytest.approx(held.minimum, abs=1e-5)
    inside = fit(LINEAR.cost, limits={"mu": (LINEAR.best[0] - 0.5, LINEAR.best[0] + 0.2)})
    assert inside.at_limit == ()
    assert inside.errors["mu"] == pytest.approx(math.sqrt(LINEAR.covariance[0, 0]), rel=1e-3)


def test_costs_of_iminuit_without_gradient() -> None:
    x = np.random.default_rng(1).normal(3, 2, 400)
    cost = iminuit_cost.UnbinnedNLL(x, lambda x, mean, sd: stats.norm(mean, sd).pdf(x))
    found = fit(cost, {"mean": 2.0, "sd": 3.0}, limits={"sd": (0, None)})
    assert found.values["mean"] == pytest.approx(x.mean(), abs=1e-3 * found.errors["mean"])
    assert found.values["sd"] == pytest.approx(x.std(), abs=1e-3 * found.errors["sd"])
    assert found.errors["mean"] == pytest.approx(x.std() / 20, rel=1e-3)
    assert found.errors["sd"] == pytest.approx(x.std() / math.sqrt(800), rel=1e-3)
    assert found.minimum == pytest.approx(-2 * stats.norm(x.mean(), x.std()).logpdf(x).sum(), abs=1e-5)
    both = fit(cost + iminuit_cost.NormalConstraint("mean", 2.0, 0.1), {"mean": 2.0, "sd": 3.0})
    m, sd = both.values["mean"], both.values["sd"]
    mixed = 4 * (x - m).sum() / sd**3
    hessian = [[800 / sd**2 + 200, mixed], [mixed, -800 / sd**2 + 6 * ((x - m) ** 2).sum() / sd**4]]
    np.testing.assert_allclose(both.covariance, 2 * np.linalg.inv(hessian), rtol=1e-3)


def test_a_bent_valley_and_very_different_scales() -> None:
    valley = Given(lambda x, y: (1 - x) ** 2 + 100 * (y - x**2) ** 2, ["x", "y"])
    found = fit(valley, {"x": -1.2, "y": 1.0})
    assert (found.values["x"], found.values["y"]) == pytest.approx((1, 1), abs=2e-3)
    exact = 2 * np.linalg.inv(np.array([[802.0, -400], [-400, 200]]))
    np.testing.assert_allclose(found.covariance, exact, rtol=0.02)  # 100 t^4 beside t^2 along the valley
    scales = Given(lambda x, y: ((x - 3e5) / 1e2) ** 2 + ((y + x / 1e9) / 1e-6) ** 2, ["x", "y"])
    found = fit(scales)
    assert found.values["x"] == pytest.approx(3e5, abs=0.1)
    assert found.errors["y"] == pytest.approx(1.005e-6, rel=1e-3)


def test_the_minimiser_backs_off_from_negative_densities() -> None:
    """MIGRAD's first steps go below zero counts here; the closed form is n - b."""
    asked: list[float] = []

    def expected(s: Tensor) -> Tensor:
        asked.append(s.item())
        return s + 3

    found = fit(Counts(expected, ["s"], [0.5]), {"s": 200.0})
    assert min(asked) <= -3
    assert found.values["s"] == pytest.approx(-2.5, abs=1e-3)
    assert found.errors["s"] == pytest.approx(math.sqrt(0.5), rel=2e-2)
    with pytest.raises(NegativeDensity, match="expected counts"):
        fit(Counts(expected, ["s"], [0.5]), {"s": -4.0})


def test_flat_likelihoods_are_refused_with_advice(caplog: pytest.LogCaptureFixture) -> None:
    flat = Given(lambda a, b, c: (a + b - 1) ** 2 + c**2, ["a", "b", "c"])
    with pytest.raises(NotConverged, match=r"flat, or bends the wrong way, along '[ab]'.*constraint"):
        fit(flat)
    with caplog.at_level(logging.WARNING, logger="nuinfer"):
        found = fit(flat, allow_unconverged=True)
    assert not found.valid
    assert "did not converge" in caplog.text
    assert "NOT CONVERGED" in repr(found)
    assert fit(flat + Normal("b")).values["a"] == pytest.approx(1.0, abs=1e-3)
    with pytest.raises(NotConverged, match="flat"):
        fit(Given(lambda a: -(a**2), ["a"]))


def two_hypotheses() -> Counts:
    """Counts that do not depend on mu at order = -1, and are not positive at order = -3."""
    return Counts(lambda o, mu: 50 + mu * (1 + o) + torch.where(o < -2, -1e3, 0.0), ["order", "mu"], [70.0])


@pytest.mark.parametrize("other", [-1.0, -3.0])
def test_a_hypothesis_without_a_fit_is_left_out_with_a_warning(other: float, caplog: pytest.LogCaptureFixture) -> None:
    cost, both = two_hypotheses(), {"order": (other, 1.0)}
    with caplog.at_level(logging.WARNING, logger="nuinfer"):
        found, line = fit(cost, discrete=both), profile(cost, "mu", points=9, discrete=both)
    assert caplog.text.count(f"no fit with order = {other:g}, which is left out: ") == 2
    assert found.values == pytest.approx({"order": 1.0, "mu": 10.0}, abs=1e-2)
    assert line.best["mu"] == pytest.approx(10.0, abs=1e-2)
    assert len(line.curves) == 1
    caplog.clear()
    with pytest.raises((NotConverged, NegativeDensity), match=r"flat|expected counts"):
        fit(cost, discrete={"order": (other, other)})
    assert not caplog.text
    fit(cost, discrete={"order": (0.0, 1.0)})  # nothing is lost, and nothing said
    assert not caplog.text


def ends_early(order: Tensor, mu: Tensor) -> Tensor:
    """The counts of the second hypothesis are not defined beyond mu = 12."""
    return 50 + mu * (1.5 + 0.5 * order) + torch.where((order < 0) & (mu > 12), -1e3, 0.0)


def test_a_branch_that_fails_at_a_point_is_left_out_of_the_scan(caplog: pytest.LogCaptureFixture) -> None:
    cost = Counts(ends_early, ["order", "mu"], [60.0]) + Normal("order", 1.0, 2.0)
    both, grid = {"order": (-1.0, 1.0)}, np.linspace(0, 20, 21)
    with caplog.at_level(logging.WARNING, logger="nuinfer"):
        line = profile(cost, "mu", grid, discrete=both)
    assert "scan of mu: the minimum at order = -1, mu = 10" in caplog.text
    np.testing.assert_allclose(line.curves[0], profile(cost, "mu", grid, fixed={"order": 1.0}).curves[0], atol=1e-6)
    assert len(line.curves) == 1
    assert len(profile(cost, "mu", grid[:12], discrete=both).curves) == 2
    with pytest.raises(NegativeDensity):  # of the lowest there is no curve without it
        profile(cost, "mu", grid, fixed={"order": -1.0})


def test_a_start_on_the_circle_that_fails_does_not_end_the_fit(caplog: pytest.LogCaptureFixture) -> None:
    """A quarter of the circle lies outside of the domain: cos must be above -0.9."""
    cost = Counts(lambda d: 0.9 + torch.cos(d), ["delta"], [1.5])
    with caplog.at_level(logging.WARNING, logger="nuinfer"):
        found = fit(cost, periodic={"delta": (0, 2 * math.pi)})
    assert math.cos(found.values["delta"]) == pytest.approx(0.6, abs=1e-3)
    assert not caplog.text  # no hypothesis was lost
    with pytest.raises(NegativeDensity, match="expected counts"):
        fit(cost, {"delta": math.pi})


def test_starts_come_from_constraints_coefficients_and_limits() -> None:
    data, reference = samples(200)
    model = Mixture(processes(), reference, limits={"tilt": (0.5, 2)})
    problem = Problem(model(data) + Normal("shift", 0.7) + LogNormal("extra", 1.2), limits={"theory": (None, -1)})
    assert problem.start() == {"mu": 1, "theory": -1, "shift": 0.7, "rate": 0, "tilt": 0.5, "extra": 1.2}
    assert problem.start({"mu": 3.0})["mu"] == 3.0
    assert problem.limits["extra"] == (0, math.inf)


def test_repr_is_a_table() -> None:
    found = fit(LINEAR.cost, fixed={"mu": 0.4}, limits={"nu": (5, None)})
    lines = repr(found).splitlines()
    assert lines[0].startswith("Fit(-2 log L = ")
    assert len(lines) == 8
    assert lines[1].split() == ["mu", "0.4", "fixed"]
    assert lines[2].endswith("at its limit")
    assert "+-" in lines[3]


def test_bad_input_of_fits() -> None:
    cost = LINEAR.cost
    with pytest.raises(KeyError, match="start: no parameter 'my'; closest: 'mu'"):
        fit(cost, {"my": 1.0})
    with pytest.raises(KeyError, match="fixed: no parameter 'fre'; closest: 'free'"):
        fit(cost, fixed={"fre": 1.0})
    with pytest.raises(KeyError, match="limits: no parameter"):
        fit(cost, limits={"x": (0, 1)})
    with pytest.raises(KeyError, match="discrete: no parameter"):
        fit(cost, discrete={"x": (0, 1)})
    with pytest.raises(ValueError, match="start: expected 'mu' from 2 to inf, found 1"):
        fit(cost, {"mu": 1.0}, limits={"mu": (2, None)})
    with pytest.raises(ValueError, match="fixed: expected 'mu' from 2 to inf, found 1"):
        fit(cost, fixed={"mu": 1.0}, limits={"mu": (2, None)})
    with pytest.raises(ValueError, match="limits of 'mu': expected lower < upper"):
        fit(cost, limits={"mu": (2, 1)})
    with pytest.raises(ValueError, match="two ends of a period of 'mu'"):
        fit(cost, periodic={"mu": (1, 1)})
    with pytest.raises(ValueError, match="at least one value of 'mu'"):
        fit(cost, discrete={"mu": ()})
    with pytest.raises(TypeError, match=r"expected a cost of nuinfer.likelihood or iminuit.cost, found function"):
        fit(lambda x: x**2)  # type: ignore[arg-type]
    with pytest.raises(NegativeDensity, match="the cost is nan at"):
        fit(Given(lambda a: torch.sqrt(a), ["a"]), {"a": -1.0})


# -- discrete and periodic ---------------------------------------------------------------------------------------------


def appearance(delta: Any, order: Any, theta: Any, cos: Any = torch.cos) -> Any:
    """Neutrinos and antineutrinos, near and off the maximum, as functions of a phase, an ordering and an angle."""
    return [100 * theta * (1 + 0.1 * order) + 30 * cos(delta + math.pi / 2) + 50,
            60 * theta * (1 - 0.1 * order) - 20 * cos(delta + math.pi / 2) + 30,
            80 * theta * (1 + 0.04 * order) + 20 * cos(delta) + 40]  # fmt: skip


def oscillation() -> Any:
    counts = [125.0, 118.0, 130.0]
    cost = Counts(lambda d, o, t: torch.stack(appearance(d, o, t)), ["delta", "order", "theta"], counts)
    return cost + Normal("theta", 1.0, 0.05)


def oscillation_by_hand(delta: float, order: float, theta: float) -> float:
    n, mean = np.array([125.0, 118.0, 130.0]), np.array(appearance(delta, order, theta, np.cos))
    return float(2 * (mean - n + n * np.log(n / mean)).sum() + ((theta - 1) / 0.05) ** 2)


def oscillation_profiled(delta: float) -> float:
    return float(min(
        optimize.minimize_scalar(lambda t, o=order: oscillation_by_hand(delta, o, t), bounds=(0.7, 1.3),
                                 method="bounded", options={"xatol": 1e-7}).fun for order in (-1, 1)))  # fmt: skip


def test_phase_and_ordering_are_searched_all_around() -> None:
    turn = (0, 2 * math.pi)
    options: dict[str, Any] = {"discrete": {"order": (-1, 1)}, "periodic": {"delta": turn}}
    exact = optimize.brute(lambda d: oscillation_profiled(float(d[0])), [turn], Ns=100)
    for start in (0.5, 2.5, 5.5):
        found = fit(oscillation(), {"delta": start}, **options)
        assert found.minimum == pytest.approx(oscillation_profiled(float(exact[0])), abs=1e-4)
        assert 0 <= found.values["delta"] < 2 * math.pi
    line = profile(oscillation(), "delta", points=49, **options)
    assert (line.grid[0], line.grid[-1]) == turn
    by_hand = np.array([oscillation_profiled(d) for d in line.grid.tolist()])
    np.testing.assert_allclose(line.values, by_hand - by_hand.min() + (by_hand.min() - found.minimum), atol=1e-5)
    assert set(np.unique(line.others()["order"])) <= {-1.0, 1.0}
    # one ordering alone is not the answer everywhere
    alone = profile(oscillation(), "delta", line.grid, fixed={"order": -1.0}, periodic={"delta": turn})
    assert np.abs(alone.values + alone.minimum - line.minimum - line.values).max() > 0.3


def test_a_region_may_go_over_the_end_of_the_period() -> None:
    """N(cos, sin) about delta = 0.1: the interval is symmetric about it, whichever end the period has."""
    at = Given(lambda d: ((torch.cos(d) - math.cos(0.1)) ** 2 + (torch.sin(d) - math.sin(0.1)) ** 2) * 25, ["d"])
    half = 2 * math.asin(0.5 / 5 * math.sqrt(stats.chi2.ppf(0.95, 1)))  # 25 (2 sin(h/2))^2 = level
    found = profile(at, "d", points=61, periodic={"d": (0, 2 * math.pi)})
    ((low, high),) = found.interval(0.95)
    assert (low, high) == pytest.approx((0.1 - half + 2 * math.pi, 0.1 + half + 2 * math.pi), abs=1e-4)
    ((low, high),) = profile(at, "d", points=61, periodic={"d": (-math.pi, math.pi)}).interval(0.95)
    assert (low, high) == pytest.approx((0.1 - half, 0.1 + half), abs=1e-4)


# -- units -------------------------------------------------------------------------------------------------------------

ENERGY = np.linspace(2, 8, 25)
SPECTRUM = np.exp(-((ENERGY - 3.5) ** 2) / 4) * 4e4


def splitting(unit: float, **limits: Any) -> Any:
    """Disappearance with s = 0.085 and a splitting of 2.5e-3 eV^2 in units of ``unit``, the counts as expected."""
    shape, energy = torch.from_numpy(SPECTRUM), torch.from_numpy(ENERGY)

    def expected(s: Tensor, dm2: Tensor, norm: Tensor) -> Tensor:
        return norm * shape * (1 - s * torch.sin(1.267 * unit * dm2 * 1600 / energy) ** 2)

    cost = Counts(expected, ["s", "dm2", "norm"], [1.0] * 25, **limits)
    return cost.asimov({"s": 0.085, "dm2": 2.5e-3 / unit, "norm": 1.0}) + Normal("norm", 1.0, 0.02)


def splitting_covariance() -> Floats:
    """Of s, the splitting in eV^2 and the norm: at the truth the Hessian is the information."""
    phase = 1.267 * 2.5e-3 * 1600 / ENERGY
    mean = SPECTRUM * (1 - 0.085 * np.sin(phase) ** 2)
    by = np.array([-SPECTRUM * np.sin(phase) ** 2, -SPECTRUM * 0.085 * np.sin(2 * phase) * phase / 2.5e-3, mean])
    return np.linalg.inv(by / mean @ by.T + np.diag([0, 0, 0.02**-2]))


@pytest.mark.parametrize("limits", [{}, {"s": (0, 1), "dm2": (0, None)}])
@pytest.mark.parametrize("unit", [1e-3, 1.0, 1e-7])
def test_a_splitting_in_any_unit_has_its_width_and_correlations(unit: float, limits: dict[str, Any]) -> None:
    cost, v = splitting(unit, **limits), splitting_covariance()
    start = {"s": 0.083, "dm2": 2.45e-3 / unit}
    found = impacts(cost, "dm2", groups={"norm": ["norm"], "s": ["s"]}, start=start)
    rest = {"norm": [0, 1], "s": [1, 2]}
    held = {label: math.sqrt(np.linalg.inv(np.linalg.inv(v)[np.ix_(kept, kept)])[kept.index(1), kept.index(1)])
            for label, kept in rest.items()}  # fmt: skip
    assert found.error * unit == pytest.approx(math.sqrt(v[1, 1]), rel=1e-3)
    assert found.statistical * unit == pytest.approx(held["norm"], rel=1e-3)
    for label, width in held.items():
        assert found.groups[label] * unit == pytest.approx(math.sqrt(v[1, 1] - width**2), rel=1e-2)
    slope = impacts(cost, "s", start=start)
    shift = slope.postfit[slope.parameters.index("dm2")]
    np.testing.assert_allclose(shift, [-v[0, 1] / v[1, 1] ** 0.5, v[0, 1] / v[1, 1] ** 0.5], rtol=0.5)


def test_profiles_minos_and_contours_do_not_depend_on_the_unit() -> None:
    """Between them lie other minima: the curve is not a parabola, but the same one."""
    limits: list[dict[str, Any]] = [{}, {"s": (0, 1), "dm2": (0, None)}]
    found = []
    for unit, own in ((1e-3, limits[0]), (1.0, limits[0]), (1.0, limits[1])):
        cost, start = splitting(unit, **own), {"s": 0.083, "dm2": 2.45e-3 / unit}
        ((low, high),) = profile(cost, "dm2", points=11, start=start).interval(0.68)
        ends = minos(cost, "dm2", start=start).interval("dm2")
        plane = contour(cost, "s", "dm2", cls=(0.68,), points=7, start=start)
        (line,) = plane.curves(0.68)
        found.append(np.array([low, high, *ends, plane.y[0], plane.y[-1], line[:, 1].min(), line[:, 1].max()]) * unit)
    width = math.sqrt(splitting_covariance()[1, 1])
    np.testing.assert_allclose(found[1:], [found[0]] * 2, atol=2e-3 * width)
    np.testing.assert_allclose(found[0][:2], 2.5e-3 + np.array([-1, 1]) * width, atol=0.05 * width)
    np.testing.assert_allclose(found[0][:2], found[0][2:4], atol=1e-3 * width)


@pytest.mark.parametrize("limits", [(0, None), (None, 0), (0, 1e-3), (-1, 0)])
def test_a_start_next_to_its_limit_is_where_the_fit_starts(limits: tuple[float | None, float | None]) -> None:
    """Of the many minima of an oscillation the fit finds that at its start, 7e-5 from the limit."""
    sign, energy = (-1 if limits[1] == 0 else 1), torch.linspace(2, 8, 30, dtype=torch.float64)
    cost = Counts(lambda d: 2000 * (1 - 0.8 * torch.sin(228e3 * d / energy) ** 2), ["d"], [1.0] * 30, d=limits)
    data = cost.asimov({"d": sign * 7.5e-5})
    found = fit(data, {"d": sign * 7.2e-5})
    assert found.values["d"] == pytest.approx(sign * 7.5e-5, abs=1e-2 * found.errors["d"])
    assert found.minimum == pytest.approx(0, abs=1e-4)


def test_a_narrow_minimum_is_found_from_its_side() -> None:
    """From 10 sigma away in units 2500 times too wide; there is a second minimum at the negative value."""
    found = fit(splitting(1.0), {"s": 0.08, "dm2": 2.9e-3})
    assert found.values["dm2"] == pytest.approx(2.5e-3, abs=1e-2 * found.errors["dm2"])
    assert found.calls.gradient < 30
    assert fit(splitting(1.0), {"s": 0.08, "dm2": -2.9e-3}).values["dm2"] == pytest.approx(-2.5e-3, abs=1e-6)


def test_toys_do_not_depend_on_the_unit() -> None:
    """The same toys in both units, with the limits that bend the coordinates of the fits."""
    built = []
    for unit in (1e-3, 1.0):
        cost = splitting(unit, s=(0, 1), dm2=(0, None))
        built.append(neyman(cost, {"dm2": np.array([2.3e-3, 2.45e-3]) / unit}, toys=20, cls=(0.68,), seed=1,
                            start={"s": 0.083, "dm2": 2.45e-3 / unit}, progress=False))  # fmt: skip
    assert np.isfinite(built[0].toys).all()
    assert np.ptp(built[0].toys) > 1
    np.testing.assert_allclose(built[1].toys, built[0].toys, atol=1e-3)
    np.testing.assert_allclose(built[1].observed, built[0].observed, atol=1e-3)
    width = math.sqrt(splitting_covariance()[1, 1])
    np.testing.assert_allclose(built[1].best, built[0].best * 1e-3, atol=0.01 * width)


@pytest.mark.parametrize("unit", [1e-6, 1e-3, 1.0, 1e4])
def test_one_count_in_any_unit_has_its_closed_form(unit: float) -> None:
    """102 counts of an expectation of 102 x / unit, x not below 0."""
    cost = Counts(lambda x: 102 * x / unit, ["x"], [102.0], x=(0, None))
    ends = [optimize.brentq(lambda x: 204 * (x - 1 - math.log(x)) - stats.chi2.ppf(0.68, 1), *pair)
            for pair in ((0.5, 1), (1, 1.5))]  # fmt: skip
    start = {"x": 2 * unit}
    assert np.array(profile(cost, "x", start=start).interval(0.68)) / unit == pytest.approx(np.array([ends]), abs=1e-5)
    assert np.array(minos(cost, "x", start=start).interval("x")) / unit == pytest.approx(ends, abs=1e-5)


@pytest.mark.parametrize("unit", [1e-6, 1.0, 1e6])
def test_a_limit_in_any_unit_is_seen_from_its_parameter(unit: float) -> None:
    """T = (x + 1)^2 - 1 from the limit 0 on."""
    cost, reach = Normal("x", -unit, unit), math.sqrt(1 + stats.chi2.ppf(0.95, 1)) - 1
    ((low, high),) = profile(cost, "x", limits={"x": (0, None)}).interval(0.95)
    assert (low / unit, high / unit) == pytest.approx((0, reach), abs=1e-4)
    # the same without a constraint, which would say how wide it is
    given = Given(lambda x: ((x + unit) / unit) ** 2, ["x"], x=(0, None))
    ((low, high),) = profile(given, "x").interval(0.95)
    assert (low / unit, high / unit) == pytest.approx((0, reach), abs=1e-4)
    assert minos(given, "x", cl=0.95).interval("x")[1] / unit == pytest.approx(reach, abs=1e-4)


def test_a_cost_without_gradient_has_its_profile_in_any_unit() -> None:
    x = np.random.default_rng(2).normal(3, 2, 12)
    for unit in (1e-5, 1.0):
        cost = iminuit_cost.UnbinnedNLL(x * unit, lambda x, mean, sd: stats.norm(mean, sd).pdf(x))
        found = profile(cost, "mean", points=13, start={"mean": 2 * unit, "sd": 3 * unit},
                        limits={"sd": (1e-3 * unit, None)})  # fmt: skip
        exact = 12 * np.log1p((found.grid / unit - x.mean()) ** 2 / x.var())
        np.testing.assert_allclose(found.values, exact, atol=5e-5)
        reach = x.std() * math.sqrt(math.expm1(stats.chi2.ppf(0.9, 1) / 12))
        ((low, high),) = found.interval(0.9)
        assert (low / unit, high / unit) == pytest.approx((x.mean() - reach, x.mean() + reach), abs=1e-3)


# -- profiles ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["mu", "free", "c"])
def test_profile_of_a_linear_model_is_its_parabola(name: str) -> None:
    found, i = profile(LINEAR.cost, name, points=13), LINEAR.names.index(name)
    width = math.sqrt(LINEAR.covariance[i, i])
    np.testing.assert_allclose(found.values, ((found.grid - LINEAR.best[i]) / width) ** 2, atol=1e-5)
    for cl in (0.68, 0.95):
        ((low, high),) = found.interval(cl)
        reach = width * math.sqrt(stats.chi2.ppf(cl, 1))
        assert (low, high) == pytest.approx((LINEAR.best[i] - reach, LINEAR.best[i] + reach), abs=1e-4 * width)
    for j, other in enumerate(LINEAR.names):
        if other != name:
            slope = LINEAR.covariance[i, j] / LINEAR.covariance[i, i]
            np.testing.assert_allclose(found.others()[other], LINEAR.best[j] + slope * (found.grid - LINEAR.best[i]),
                                       atol=2e-3 * math.sqrt(LINEAR.covariance[j, j]))  # fmt: skip
    assert found(found.grid[4:6]) == pytest.approx(found.values[4:6])


def test_without_its_systematics_a_profile_is_narrower_by_the_exact_factor() -> None:
    best = fit(LINEAR.cost)
    found = profile(LINEAR.cost, "mu", points=9, fixed=best.others("mu"))
    width = np.linalg.inv(LINEAR.covariance)[0, 0] ** -0.5
    ((low, high),) = found.interval(0.95)
    assert (high - low) / 2 == pytest.approx(width * math.sqrt(stats.chi2.ppf(0.95, 1)), rel=1e-4)
    assert width < 0.95 * math.sqrt(LINEAR.covariance[0, 0])
    assert found.fixed == best.others("mu")


def on_off(n: int, m: int, tau: float) -> Any:
    """n counts of s + gamma, m of tau gamma."""
    return Counts(lambda s, b: s + b, ["s", "b"], [n]) + Poisson("b", m, tau)


def on_off_profiled(s: Any, n: int, m: int, tau: float) -> Floats:
    """The closed form: the background is a root of a quadratic."""
    s = np.asarray(s, float)
    p = n + m - (1 + tau) * s
    b = (p + np.sqrt(p**2 + 4 * (1 + tau) * s * m)) / (2 * (1 + tau))
    best = 0.0  # both terms vanish at the best fit
    one = s + b - n + n * np.log(n / (s + b))
    return np.asarray(2 * (one + tau * b - m + m * np.log(m / (tau * b))) - best)


def test_on_off_counts_have_their_closed_form() -> None:
    n, m, tau = 17, 20, 2.0
    found = profile(on_off(n, m, tau), "s", np.linspace(-3, 20, 40))
    assert found.best == pytest.approx({"s": n - m / tau, "b": m / tau}, abs=5e-3)
    np.testing.assert_allclose(found.values, on_off_profiled(found.grid, n, m, tau), atol=1e-5)
    ((low, high),) = found.interval(0.9)
    crossings = [optimize.brentq(lambda s: on_off_profiled(s, n, m, tau) - stats.chi2.ppf(0.9, 1), *pair)
                 for pair in ((-2.9, 7), (7, 20))]  # fmt: skip
    assert (low, high) == pytest.approx(crossings, abs=1e-4)
    # a parabola of the Hessian's width would be wrong by much more
    width = fit(on_off(n, m, tau)).errors["s"] * math.sqrt(stats.chi2.ppf(0.9, 1))
    assert abs(crossings[1] - (7 + width)) > 0.1


def test_profile_and_minos_of_a_cost_of_iminuit_without_gradient() -> None:
    """A normal sample of unknown width: t(mean) = n log(1 + (mean - x)^2 / s^2), Student's t."""
    x = np.random.default_rng(2).normal(3, 2, 12)
    cost = iminuit_cost.UnbinnedNLL(x, lambda x, mean, sd: stats.norm(mean, sd).pdf(x))
    options: dict[str, Any] = {"start": {"mean": 2.0, "sd": 3.0}, "limits": {"sd": (1e-3, None)}}
    found = profile(cost, "mean", points=13, **options)
    np.testing.assert_allclose(found.values, 12 * np.log1p((found.grid - x.mean()) ** 2 / x.var()), atol=2e-5)
    reach = x.std() * math.sqrt(math.expm1(stats.chi2.ppf(0.9, 1) / 12))
    assert minos(cost, "mean", cl=0.9, **options).interval("mean") == pytest.approx(
        (x.mean() - reach, x.mean() + reach), abs=1e-4
    )
    assert found.interval(0.9)[0] == pytest.approx((x.mean() - reach, x.mean() + reach), abs=5e-4)


def test_two_minima_give_two_intervals() -> None:
    found = profile(ring(), "x", np.linspace(-3, 3, 61))
    reach = 0.5 * math.sqrt(stats.chi2.ppf(0.95, 1))
    ends = [math.sqrt(4 - reach), math.sqrt(4 + reach)]
    exact = [(-ends[1], -ends[0]), (ends[0], ends[1])]
    np.testing.assert_allclose(found.interval(0.95), exact, atol=1e-4)
    assert len(found.interval(1 - 1e-15)) == 1  # the barrier of (4/0.5)^2 = 64 is below that level
    assert " or " in repr(found)


def test_a_scan_finds_the_other_minimum_of_what_it_profiles() -> None:
    """From a = 1 on, the minimum at +1 lasts down to x = -1.75, where that at -1 has been the lower one since 0."""
    two = Given(lambda x, a: 3 * (a**2 - 1) ** 2 + (x - a) ** 2 + 0.2 * a, ["x", "a"])
    grid = np.linspace(-4, 4, 33)
    fine = np.linspace(-2, 2, 40_001)
    exact = np.array([(3 * (fine**2 - 1) ** 2 + (x - fine) ** 2 + 0.2 * fine).min() for x in grid])
    found = profile(two, "x", grid, start={"x": 1.0, "a": 1.0})
    np.testing.assert_allclose(found.values, exact - exact.min() + (found.values.min()), atol=5e-4)
    assert found.minimum == pytest.approx(-0.2, abs=0.01)  # the start led to the other one, at +0.2
    assert set(np.round(found.others()["a"][[0, -1]])) == {-1.0, 1.0}


def test_limits_end_an_interval_and_a_short_grid_leaves_it_open() -> None:
    cost = Normal("x", 0.5, 1.0)
    ((low, high),) = profile(cost, "x", limits={"x": (0, None)}).interval(0.95)
    assert (low, high) == pytest.approx((0, 0.5 + math.sqrt(stats.chi2.ppf(0.95, 1))), abs=1e-4)
    assert profile(cost, "x", np.linspace(0, 1, 5)).interval(0.95) == ((-math.inf, math.inf),)
    at_edge = profile(Normal("x", -1.0, 1.0), "x", limits={"x": (0, None)})  # t = (x + 1)^2 - 1
    ((low, high),) = at_edge.interval(0.95)
    assert (low, high) == pytest.approx((0, math.sqrt(1 + stats.chi2.ppf(0.95, 1)) - 1), abs=1e-4)
    np.testing.assert_allclose(at_edge.values, (at_edge.grid + 1) ** 2 - 1, atol=1e-5)


def test_a_slope_that_is_infinite_at_the_limit_does_no_harm() -> None:
    """F = (sqrt(mu) - 0.8)^2 / 0.3^2 has dF/dmu = -inf at 0."""
    cost = Given(lambda mu: ((torch.sqrt(mu) - 0.8) / 0.3) ** 2, ["mu"], mu=(0, None))
    found = profile(cost, "mu", np.linspace(0, 3, 121), start={"mu": 1.0})
    np.testing.assert_allclose(found.values, ((np.sqrt(found.grid) - 0.8) / 0.3) ** 2, atol=1e-5)
    ((low, high),) = found.interval(0.95)
    reach = 0.3 * math.sqrt(stats.chi2.ppf(0.95, 1))
    assert (low, high) == pytest.approx(((0.8 - reach) ** 2, (0.8 + reach) ** 2), abs=1e-3)


def test_a_cusp_at_the_limit_is_a_minimum() -> None:
    """F = (sqrt(mu) + 0.3 + a)^2 / 0.3^2 + a^2 rises infinitely steeply from mu = 0, where a = -0.3 / 1.09."""
    cost = Given(lambda mu, a: ((torch.sqrt(mu) + 0.3 + a) / 0.3) ** 2, ["mu", "a"], mu=(0, None)) + Normal("a")
    for limits in ({}, {"mu": (0, 5.0)}):
        found = fit(cost, {"mu": 1.0}, limits=limits)
        assert found.at_limit == ("mu",)
        assert found.values == pytest.approx({"mu": 0, "a": -0.3 / 1.09}, abs=1e-3)
        assert found.errors == pytest.approx({"mu": 0, "a": (1 + 1 / 0.09) ** -0.5}, rel=1e-3)
        assert found.minimum == pytest.approx(0.09 / 1.09, abs=1e-6)
    ((low, high),) = profile(cost, "mu", np.linspace(0, 6, 121) ** 2 / 6, start={"mu": 1.0}).interval(0.95)
    exact = math.sqrt(1.09 * stats.chi2.ppf(0.95, 1) + 0.09) - 0.3  # (sqrt(mu) + 0.3)^2 / 1.09 profiled
    assert (low, high) == pytest.approx((0, exact**2), abs=1e-3)
    assert fit(Given(lambda a: torch.sqrt(a), ["a"], a=(0, None)), {"a": 1.0}).values == {"a": 0.0}


def test_profiles_are_saved_and_loaded(tmp_path: Path) -> None:
    found = profile(oscillation(), "delta", points=9, discrete={"order": (-1, 1)}, periodic={"delta": (0, 6.283)})
    found.save(tmp_path / "p.safetensors")
    again = Profile.load(tmp_path / "p.safetensors")
    assert repr(again) == repr(found)
    assert again.interval(0.9) == found.interval(0.9)
    for name in ("name", "names", "best", "minimum", "fixed", "limits", "period"):
        assert getattr(again, name) == getattr(found, name)
    np.testing.assert_array_equal(again.parameters, found.parameters)


def test_bad_input_of_profiles() -> None:
    with pytest.raises(KeyError, match="scan: no parameter 'my'; closest: 'mu'"):
        profile(LINEAR.cost, "my")
    with pytest.raises(ValueError, match="'mu' is fixed and scanned at once"):
        profile(LINEAR.cost, "mu", fixed={"mu": 1.0})
    with pytest.raises(ValueError, match="'mu' is discrete and scanned at once"):
        profile(LINEAR.cost, "mu", discrete={"mu": (0, 1)})
    with pytest.raises(ValueError, match="grid: expected 'mu' from 0 to inf, found -1"):
        profile(LINEAR.cost, "mu", np.linspace(-1, 1, 5), limits={"mu": (0, None)})
    with pytest.raises(ValueError, match="at least 4 different values, found 2"):
        profile(LINEAR.cost, "mu", [0, 1, 1])
    with pytest.raises(ValueError, match="at least 4 points, found 3"):
        profile(LINEAR.cost, "mu", points=3)
    found = profile(Normal("x"), "x", points=5)
    for cl in (0.0, 1.0, 95.0):
        with pytest.raises(ValueError, match=r"between 0 and 1, such as 0\.95, found"):
            found.interval(cl)
    with pytest.raises(ValueError, match="profile of x: expected values from"):
        found(10.0)


# -- MINOS -------------------------------------------------------------------------------------------------------------


def test_minos_equals_the_crossings_of_the_closed_form() -> None:
    n, m, tau = 17, 20, 2.0
    found = minos(on_off(n, m, tau), ["s", "b"], cl=0.9)
    target = stats.chi2.ppf(0.9, 1)
    for side, pair in ((0, (-2.9, 7)), (1, (7, 20))):
        exact = optimize.brentq(lambda s: on_off_profiled(s, n, m, tau) - target, *pair)
        assert found.interval("s")[side] == pytest.approx(exact, abs=1e-4)
    assert found.crossed.all()
    # s takes up any n, so that b is decided by m alone
    alone = [optimize.brentq(lambda b: 2 * (tau * b - m + m * math.log(m / (tau * b))) - target, *pair)
             for pair in ((1, 10), (10, 25))]  # fmt: skip
    assert found.interval("b") == pytest.approx(alone, abs=1e-4)


def test_minos_stops_at_a_limit_and_says_so() -> None:
    found = minos(Normal("x", 0.5, 1.0), "x", cl=0.95, limits={"x": (0, None)})
    assert found.interval("x") == pytest.approx((0, 0.5 + math.sqrt(stats.chi2.ppf(0.95, 1))), abs=1e-4)
    assert found.crossed.tolist() == [[False, True]]
    assert "no crossing below" in repr(found)
    edge = minos(Normal("x", -1.0, 1.0), "x", cl=0.95, limits={"x": (0, None)})
    assert edge.interval("x")[1] == pytest.approx(math.sqrt(1 + stats.chi2.ppf(0.95, 1)) - 1, abs=1e-4)
    assert edge.down[0] == pytest.approx(0, abs=1e-6)


def test_minos_refuses_what_it_cannot_answer() -> None:
    with pytest.raises(NotConverged, match="MINOS of x: no crossing found above; take profile"):
        minos(Given(lambda x: torch.exp(-x) + torch.relu(-x - 1) ** 2 * 9 + x**2 / (1 + x**2), ["x"]), "x", cl=0.999)
    with pytest.raises(KeyError, match="no parameter 'y'"):
        minos(Normal("x"), "y")
    with pytest.raises(ValueError, match="'x' is fixed and scanned"):
        minos(Normal("x") + Normal("y"), "x", fixed={"x": 0.0})
    with pytest.raises(ValueError, match="between 0 and 1"):
        minos(Normal("x"), "x", cl=1.0)


# -- contours ----------------------------------------------------------------------------------------------------------


def test_contour_of_a_linear_model_is_its_ellipse() -> None:
    found = contour(LINEAR.cost, "mu", "c", points=13)
    place = [0, 5]
    precision = np.linalg.inv(LINEAR.covariance[np.ix_(place, place)])
    grid = np.stack(np.meshgrid(found.x, found.y, indexing="ij"), -1) - LINEAR.best[place]
    np.testing.assert_allclose(found.values, np.einsum("abi,ij,abj->ab", grid, precision, grid), atol=1e-5)
    for cl in (0.68, 0.95):
        (line,) = found.curves(cl)
        away = line - LINEAR.best[place]
        t = np.einsum("ni,ij,nj->n", away, precision, away)
        np.testing.assert_allclose(t, stats.chi2.ppf(cl, 2), atol=1e-6)
        np.testing.assert_array_equal(line[0], line[-1])
        # the whole ellipse is inside: it reaches as far as it should
        reach = math.sqrt(stats.chi2.ppf(cl, 2) * LINEAR.covariance[0, 0])
        assert np.ptp(line[:, 0]) / 2 == pytest.approx(reach, rel=1e-3)
    assert found.levels == pytest.approx({0.68: 2.2788686, 0.95: 5.9914645})
    assert "2 degrees of freedom" in repr(found)


Profiled = Callable[[float, float], float]


def banana() -> tuple[Any, Profiled]:
    """A bent valley with a nuisance, which adds its variance in quadrature."""
    cost = Given(lambda x, y, a: (x - 1) ** 2 + ((y - x**2 + a) / 0.3) ** 2, ["x", "y", "a"]) + Normal("a", 0.0, 0.4)
    return cost, lambda x, y: (x - 1) ** 2 + (y - x**2) ** 2 / (0.3**2 + 0.4**2)


def two_valleys() -> tuple[Any, Profiled]:
    """A nuisance with two minima: the lowest stationary point is the lowest root of a cubic."""

    def value(x: Any, y: Any, a: Any) -> Any:
        return 3 * (a**2 - 1) ** 2 + (x - a) ** 2 + 0.2 * a + y**2 * (1 + 0.3 * a)

    def lowest(x: float, y: float) -> float:
        roots = np.roots([12, 0, -10, 0.2 - 2 * x + 0.3 * y**2])
        return min(float(value(x, y, root.real)) for root in roots if abs(root.imag) < 1e-7)

    return Given(value, ["x", "y", "a"]), lowest


@pytest.mark.parametrize(
    ("model", "grid"),
    [(banana, (np.linspace(-2, 4, 13), np.linspace(-3, 14, 19))),
     (two_valleys, (np.linspace(-4, 4, 9), np.linspace(-4, 4, 9)))],
)  # fmt: skip
def test_every_point_of_a_line_is_on_its_level(
    model: Callable[[], tuple[Any, Profiled]], grid: tuple[Floats, Floats]
) -> None:
    """Against an independent minimum, on grids too coarse for a spline."""
    cost, exact = model()
    found = contour(cost, "x", "y", grid=grid, cls=(0.68,))
    zero = optimize.minimize(lambda v: exact(*v), [found.best["x"], found.best["y"]], method="Nelder-Mead",
                             options={"xatol": 1e-8, "fatol": 1e-12}).fun  # fmt: skip
    assert found.minimum == pytest.approx(zero, abs=1e-6)
    threshold = stats.chi2.ppf(0.68, 2)
    (line,) = found.curves(0.68)
    np.testing.assert_allclose([exact(*at) - zero for at in line.tolist()], threshold, atol=1e-5)
    np.testing.assert_array_equal(line[0], line[-1])
    away = [exact(*at) - zero - threshold for part in dataclasses.replace(found, lines={}).curves(0.68) for at in part]
    assert np.abs(away).max() > 1e-2  # what a spline through the grid says


def test_a_grid_too_coarse_for_its_lines_is_told(caplog: pytest.LogCaptureFixture) -> None:
    """Between the points of this grid the valley is seen as islands; what is drawn is on the level all the same."""
    cost, exact = banana()
    with caplog.at_level(logging.WARNING, logger="nuinfer"):
        found = contour(cost, "x", "y", grid=(np.linspace(-1.5, 3.5, 11), np.linspace(-2, 10, 13)), cls=(0.68,))
    points = np.concatenate(found.curves(0.68)).tolist()
    np.testing.assert_allclose([exact(*at) for at in points], stats.chi2.ppf(0.68, 2), atol=1e-5)
    assert "steps of the grid from where the grid shows it" in caplog.text
    caplog.clear()
    with caplog.at_level(logging.WARNING, logger="nuinfer"):
        contour(LINEAR.cost, "mu", "c", points=6)
    assert not caplog.text


def test_a_line_ends_at_the_limit_and_on_it() -> None:
    """A circle about (0.5, 0), cut at x = 0."""
    found = contour(Normal("x", 0.5) + Normal("y"), "x", "y", limits={"x": (0, None)}, points=6, cls=(0.95,))
    (line,) = found.curves(0.95)
    radius = stats.chi2.ppf(0.95, 2)
    np.testing.assert_allclose((line[:, 0] - 0.5) ** 2 + line[:, 1] ** 2, radius, atol=1e-5)
    assert line[:, 0].min() == line[0, 0] == line[-1, 0] == 0
    assert sorted([line[0, 1], line[-1, 1]]) == pytest.approx([-math.sqrt(radius - 0.25), math.sqrt(radius - 0.25)])
    # the minimum at the limit itself: t = (x + 1)^2 - 1 + y^2
    (line,) = contour(Normal("x", -1.0) + Normal("y"), "x", "y", limits={"x": (0, None)}, cls=(0.95,)).curves(0.95)
    np.testing.assert_allclose((line[:, 0] + 1) ** 2 + line[:, 1] ** 2 - 1, radius, atol=1e-5)
    assert line[0, 0] == line[-1, 0] == 0


def test_lines_around_a_phase_and_over_both_orderings() -> None:
    options: dict[str, Any] = {"discrete": {"order": (-1, 1)}, "periodic": {"delta": (0, 2 * math.pi)}}
    found = contour(oscillation(), "delta", "theta", points=15, cls=(0.68,), **options)
    lines = found.curves(0.68)
    assert lines
    for delta, theta in np.concatenate(lines).tolist():
        value = min(oscillation_by_hand(delta, order, theta) for order in (-1, 1))
        assert value - found.minimum == pytest.approx(stats.chi2.ppf(0.68, 2), abs=1e-5)
    for line in lines:  # whole, or from one end of the period to the other
        closed = np.array_equal(line[0], line[-1])
        assert closed or set(np.isin(line[[0, -1], 0], [0, 2 * math.pi]).tolist()) == {True}


def test_a_line_is_open_where_the_domain_ends(caplog: pytest.LogCaptureFixture) -> None:
    """x^2 + y^2 for x + y above -1.2, where a circle of radius 1.51 is cut."""

    def value(x: Tensor, y: Tensor) -> Tensor:
        if x + y < -1.2:
            raise NegativeDensity("x + y")
        return x**2 + y**2

    grid = np.linspace(-2, 2, 14)
    with caplog.at_level(logging.WARNING, logger="nuinfer"):
        (line,) = contour(Given(value, ["x", "y"]), "x", "y", grid=(grid, grid), cls=(0.68,)).curves(0.68)
    np.testing.assert_allclose((line**2).sum(1), stats.chi2.ppf(0.68, 2), atol=1e-5)
    assert line.sum(1).min() >= -1.2
    assert not np.array_equal(line[0], line[-1])
    assert "it is open there" in caplog.text


def test_contours_may_be_in_several_pieces_and_open(tmp_path: Path) -> None:
    cost = ring() + Normal("y")
    found = contour(cost, "x", "y", grid=(np.linspace(-3, 3, 61), np.linspace(-4, 4, 21)))
    lines = found.curves(0.95)
    assert sorted(float(np.sign(line[:, 0].mean())) for line in lines) == [-1.0, 1.0]
    for line in lines:
        exact = ((line[:, 0] ** 2 - 4) / 0.5) ** 2 + line[:, 1] ** 2
        np.testing.assert_allclose(exact, stats.chi2.ppf(0.95, 2), atol=1e-5)
    short = contour(cost, "x", "y", grid=(np.linspace(-3, 3, 61), np.linspace(-1, 1, 9)))
    assert len(short.curves(0.95)) == 4
    assert not np.array_equal(short.curves(0.95)[0][0], short.curves(0.95)[0][-1])
    found.save(tmp_path / "c.safetensors")
    again = Contour.load(tmp_path / "c.safetensors")
    assert repr(again) == repr(found)
    np.testing.assert_array_equal(again.curves(0.68)[0], found.curves(0.68)[0])
    assert again(2.0, 0.0) == pytest.approx(0.0, abs=1e-3)


def test_a_rectangle_may_reach_out_of_the_domain() -> None:
    """s + b must be positive, which it is not in a corner of the rectangle around 95% of 17 and 20 counts."""
    n, m, tau = 17, 20, 2.0
    found = contour(on_off(n, m, tau), "s", "b")
    outside = found.x[:, None] + found.y <= 0
    assert outside.any()
    np.testing.assert_array_equal(np.isinf(found.values), outside)
    for cl in (0.68, 0.95):
        (line,) = found.curves(cl)
        one, two = line.sum(1), tau * line[:, 1]
        t = 2 * (one - n + n * np.log(n / one) + two - m + m * np.log(m / two))
        np.testing.assert_allclose(t, stats.chi2.ppf(cl, 2), atol=1e-5)


def test_bad_input_of_contours() -> None:
    with pytest.raises(ValueError, match="expected two parameters, found 'mu' twice"):
        contour(LINEAR.cost, "mu", "mu")
    with pytest.raises(KeyError, match="no parameter 'x'"):
        contour(LINEAR.cost, "mu", "x")
    with pytest.raises(ValueError, match="between 0 and 1"):
        contour(LINEAR.cost, "mu", "nu", cls=(0.68, 95))
    with pytest.raises(ValueError, match=r"at least one confidence level in cls=.*found none"):
        contour(LINEAR.cost, "mu", "nu", cls=())
    found = contour(Normal("a") + Normal("b"), "a", "b", points=5)
    edge = float(found.x[-1])
    assert found(edge, 0.0) == pytest.approx(edge**2, abs=1e-3)
    for x, y, name in ((edge + 1e-6, 0.0, "a"), (0.0, [0.0, 10.0], "b"), (0.0, -10.0, "b"), (math.nan, 0.0, "a")):
        with pytest.raises(ValueError, match=f"contour: expected {name} from .* give contour"):
            found(x, y)
    with pytest.raises(ValueError, match="grid: expected 'mu' from 0 to inf"):
        contour(LINEAR.cost, "mu", "nu", grid=([-1, 0, 1, 2], [0, 1, 2, 3]), limits={"mu": (0, None)})


# -- a mixture against the same likelihood written out -----------------------------------------------------------------

NUISANCES = ("theory", "shift", "rate", "tilt")


def remembered(function: Any) -> Any:
    """A log ratio that is worked out once for each sample (of different lengths here)."""
    known: dict[int, Floats] = {}

    def found(events: nu.Events) -> Floats:
        if len(events) not in known:
            known[len(events)] = function(events)
        return known[len(events)]

    return None if function is None else found


def remembering(process: Process) -> Process:
    shapes = {name: (remembered(down), remembered(up)) for name, (down, up) in process.shapes.items()}
    return dataclasses.replace(process, ratio=remembered(process.ratio), shapes=shapes)


@functools.cache
def mixture() -> tuple[Any, Callable[[Mapping[str, float]], float]]:
    """The cost, and -2 log L by independent code."""
    data, reference = samples(300)
    parts = {name: remembering(process) for name, process in processes().items()}
    # about as many events as the yields say: the fit then ends near the nominal parameters
    data = data.with_weight(np.full(300, 1050 / 300))
    cost = Mixture(parts, reference, limits={"mu": (0, None)})(data)
    for name in NUISANCES:
        cost = cost + Normal(name)  # type: ignore[assignment]

    def exact(at: Mapping[str, float]) -> float:
        return by_hand(parts, data, reference, at, "log") + sum(at[name] ** 2 for name in NUISANCES)

    return cost, exact


def profiled(held: Mapping[str, float], start: Mapping[str, float]) -> tuple[float, dict[str, float]]:
    """The conditional minimum of the independent likelihood, by scipy with numerical gradients."""
    _, exact = mixture()
    rest = [name for name in ("mu", *NUISANCES) if name not in held]
    found = optimize.minimize(
        lambda v: exact({**held, **dict(zip(rest, v, strict=True))}), [start[name] for name in rest],
        method="BFGS", options={"gtol": 2e-4},
    )  # fmt: skip
    return float(found.fun), {**held, **dict(zip(rest, found.x.tolist(), strict=True))}


def test_mixture_fit_takes_few_gradients_and_agrees_with_the_independent_likelihood() -> None:
    cost, _ = mixture()
    found = fit(cost)
    value, at = profiled({}, found.values)
    assert found.minimum == pytest.approx(value, abs=1e-5)
    for name in found.names:
        assert found.values[name] == pytest.approx(at[name], abs=3e-3 * found.errors[name])
    assert found.calls.gradient < 60
    assert found.values["mu"] != pytest.approx(1.0, abs=0.1 * found.errors["mu"])  # it is not the start


def test_mixture_profile_minos_and_contour_agree_with_the_independent_likelihood() -> None:
    cost, _ = mixture()
    best = fit(cost)
    line = profile(cost, "mu", points=11)
    for i in (0, 8):
        others = {name: float(values[i]) for name, values in line.others().items()}
        value, at = profiled({"mu": float(line.grid[i])}, others)
        assert line.values[i] == pytest.approx(value - best.minimum, abs=1e-5)
        for name in NUISANCES:
            assert others[name] == pytest.approx(at[name], abs=5e-3 * best.errors[name])
    low, high = minos(cost, "mu", cl=0.68).interval("mu")
    for end in (low, high):
        assert profiled({"mu": end}, best.values)[0] - best.minimum == pytest.approx(stats.chi2.ppf(0.68, 1), abs=1e-5)
    assert line.interval(0.68)[0] == pytest.approx((low, high), abs=1e-3 * best.errors["mu"])
    (curve,) = contour(cost, "mu", "shift", cls=(0.68,), points=6).curves(0.68)
    for mu, shift in curve[:: len(curve) // 5].tolist():
        value, _ = profiled({"mu": mu, "shift": shift}, best.values)
        assert value - best.minimum == pytest.approx(stats.chi2.ppf(0.68, 2), abs=1e-5)


def test_the_factors_of_a_binned_mixture_are_constrained_nuisances() -> None:
    """The mixture's cost holds them itself: they start at 1, have pulls, and are not reported as free."""
    templates = {
        "S": Template(contents=[2.0, 8.0], coefficient="mu"),
        "B": Template(contents=[50.0, 20.0], variance=[25.0, 1.0], norms={"rate": 0.1}),
    }
    cost = BinnedMixture({"SR": templates})({"SR": [55, 31]}) + Normal("rate")
    found = impacts(cost, "mu")
    assert found.free == ()
    place = found.parameters.index("staterror_SR[0]")
    assert 0.5 < found.constraints[place] < 1  # the counts know a little of what the template leaves open
    assert fit(cost).errors["staterror_SR[0]"] < 0.1
