"""Unfolding by likelihood against matrix inversion, generalised least squares, counting and pseudo-experiments."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import hist
import numpy as np
import pytest
from numpy.typing import NDArray
from scipy import linalg, optimize, stats

from nuinfer import Events
from nuinfer.errors import NotConverged
from nuinfer.simulators import GaussianUnfolding
from nuinfer.unfolding import Binning, Response
from nuinfer.unfolding.binned.likelihood_fit import Background, LikelihoodUnfolding, Sideband, likelihood_unfolding
from nuinfer.unfolding.binned.propagation import Derivative, Term, simulation_covariance
from nuinfer.unfolding.measured import Measured

Floats = NDArray[np.float64]


def response_of(matrix: Any, truth: Any, fakes: Any = None, *, weight: float = 1.0) -> Response:
    """The response with this matrix (R, T) and simulated truth (T,), of events of one weight."""
    p, n = np.asarray(matrix, np.float64), np.asarray(truth, np.float64)
    f = np.zeros(len(p)) if fakes is None else np.asarray(fakes, np.float64)
    both, missed = p * n, n * (1 - p.sum(0))
    bins = [Binning.of({name: np.arange(size + 1.0)}) for name, size in (("t", len(n)), ("x", len(p)))]
    return Response(*bins, both, weight * both, missed, weight * missed, f, weight * f)


def smeared(reco: int, truth: int, width: float = 0.7, efficiency: float = 0.8) -> Floats:
    """A matrix (R, T) of Gaussian smearing between equal bins of one range, with an efficiency."""
    edges, centres = np.linspace(0, truth, reco + 1), np.arange(truth) + 0.5
    return efficiency * np.diff(stats.norm.cdf((edges[:, None] - centres) / width), axis=0)


TRUTH = np.array([300.0, 500.0, 700.0, 600.0, 400.0])
MATRIX = smeared(9, 5)
FAKES = np.linspace(20.0, 5.0, 9)
BACKGROUND = 60 * np.exp(-0.5 * ((np.arange(9) - 6) / 1.5) ** 2)
RESPONSE = response_of(MATRIX, 3 * TRUTH, FAKES)


def least_squares(
    found: LikelihoodUnfolding, designs: dict[str, Floats], rest: dict[str, Floats], outcomes: Floats, precision: Floats
) -> tuple[Floats, Floats]:
    """All linear parameters and their covariance: counts less what is fixed, weighted by 1/mu, and constraints.

    Weighted by the mu of the fit itself it is the Poisson likelihood's maximum, exactly and at any counts.
    """
    information, score = precision.copy(), precision @ outcomes
    for name, a in designs.items():
        w = 1 / found.folded[name]
        information = information + (a.T * w) @ a
        score = score + (a.T * w) @ (found.counts[name] - rest[name])
    covariance = linalg.inv(information)
    return covariance @ score, covariance


# -- linear problems: closed forms -------------------------------------------------------------------------------------


def test_a_square_response_is_inverted() -> None:
    """Value, covariance and every part of it are those of P^-1; the data as they are would be far off."""
    response = response_of(smeared(5, 5), 4 * TRUTH, FAKES[:5])
    rng = np.random.default_rng(1)
    data = rng.poisson(response.fold(TRUTH, fakes=True) + BACKGROUND[:5]).astype(float)
    found = likelihood_unfolding(data, response, background=BACKGROUND[:5])
    inverse = linalg.inv(response.matrix)
    exact = inverse @ (data - FAKES[:5] - BACKGROUND[:5])
    np.testing.assert_allclose(found.values, exact, rtol=1e-6)
    covariance = (inverse * data) @ inverse.T
    np.testing.assert_allclose(found.spectrum.covariances["data"], covariance, rtol=1e-5)
    np.testing.assert_array_equal(found.spectrum.smearing, np.eye(5))
    assert found.deviance.value < 1e-6
    assert found.deviance[1:] == (0, 1.0)
    alone = likelihood_unfolding(data, response, background=BACKGROUND[:5], simulation=False)
    np.testing.assert_allclose(alone.covariance, covariance, rtol=1e-5)
    hesse = alone.fit.covariance * np.outer(alone.prior, alone.prior)
    np.testing.assert_allclose(alone.covariance, hesse, rtol=1e-3)
    assert (np.abs(data / exact - 1) > 0.02).any()


@pytest.mark.parametrize("fakes", ["subtract", "scale"])
def test_the_simulations_part_is_that_of_the_inverse(fakes: Any) -> None:
    """By the general propagation through du/dP = -P^-1 u; independent bins would overestimate it by much."""
    response = response_of(smeared(5, 5, 0.4, 0.95), TRUTH, FAKES[:5], weight=2.5)
    data = 1.2 * response.reco_yield + 10
    found = likelihood_unfolding(data, response, fakes=fakes)
    inverse = linalg.inv(response.matrix)
    measured = Measured.of(data, response, fakes=fakes)
    np.testing.assert_allclose(found.values, inverse @ measured.signal, rtol=1e-6)
    zero = np.zeros((5, 5))
    derivative = Derivative([Term(zero, zero, found.values, inverse)], inverse)
    exact = simulation_covariance(derivative, response, measured)
    np.testing.assert_allclose(found.spectrum.covariances["simulation"], exact, rtol=1e-4, atol=1e-5 * exact.max())
    independent = (inverse * ((response.both_variance / response.truth_yield**2) @ found.values**2)) @ inverse.T
    assert (np.diag(independent) > 2 * np.diag(exact)).any()


@pytest.mark.parametrize("scale", [0.05, 1.0, 1e6])
def test_more_reco_bins_are_weighted_least_squares(scale: float) -> None:
    """Exact with weights 1/mu at any counts; with the counts themselves as variances only where they are large."""
    response = response_of(MATRIX, scale * TRUTH, scale * FAKES)
    rng = np.random.default_rng(2)
    data = rng.poisson(scale * (MATRIX @ TRUTH + FAKES)) + 0.0
    found = likelihood_unfolding(data, response, simulation=False, tolerance=1e-9)
    values, covariance = least_squares(
        found, {"data": MATRIX}, {"data": scale * FAKES}, np.zeros(5), np.zeros((5, 5))
    )  # fmt: skip
    sigma = np.sqrt(np.diag(covariance))
    assert np.abs((found.values - values) / sigma).max() < 1e-4
    np.testing.assert_allclose(found.covariance, covariance, rtol=1e-9, atol=1e-9 * covariance.max())
    neyman = linalg.inv((MATRIX.T / np.maximum(data, 1)) @ MATRIX)
    other = neyman @ (MATRIX.T / np.maximum(data, 1)) @ (data - scale * FAKES)
    away = np.abs((other - values) / sigma).max()
    assert away < {0.05: math.inf, 1.0: 0.5, 1e6: 0.02}[scale]
    assert away > {0.05: 0.1, 1.0: 0.02, 1e6: 0.0}[scale]
    assert found.deviance.dof == 4
    assert found.deviance.p_value == pytest.approx(stats.chi2.sf(found.deviance.value, 4))


def test_a_constrained_background_is_generalised_least_squares() -> None:
    """(P^T C^-1 P)^-1 with C = diag(mu) + sigma^2 b b^T, the nuisance never mentioned; part by part."""
    rng = np.random.default_rng(3)
    data = rng.poisson(MATRIX @ TRUTH + FAKES + 2 * BACKGROUND) + 0.0
    found = likelihood_unfolding(data, RESPONSE, background={"b": BACKGROUND}, norms={"b": 0.2}, simulation=False,
                                 tolerance=1e-9)  # fmt: skip
    mu = found.folded["data"]
    c = np.diag(mu) + 0.2**2 * np.outer(BACKGROUND, BACKGROUND)
    covariance = linalg.inv(MATRIX.T @ linalg.solve(c, MATRIX))
    gain = covariance @ linalg.solve(c, MATRIX).T
    sigma = np.sqrt(np.diag(covariance))
    assert np.abs((found.values - gain @ (data - FAKES - BACKGROUND)) / sigma).max() < 1e-4
    np.testing.assert_allclose(found.covariance, covariance, rtol=1e-8, atol=1e-9 * covariance.max())
    parts = found.spectrum.covariances
    assert list(parts) == ["data", "norm_b"]
    np.testing.assert_allclose(parts["data"], (gain * mu) @ gain.T, rtol=1e-7, atol=1e-8 * covariance.max())
    shift = 0.2 * gain @ BACKGROUND
    np.testing.assert_allclose(parts["norm_b"], np.outer(shift, shift), rtol=1e-7, atol=1e-8 * covariance.max())
    # were it known: plain least squares
    known = linalg.inv((MATRIX.T / mu) @ MATRIX)
    np.testing.assert_allclose(found.conditional_covariance("norm_b"), known, rtol=1e-7, atol=1e-9 * covariance.max())
    assert found.pulls["norm_b"] == pytest.approx((found.fit.values["norm_b"] - 1) / 0.2)
    fixed = likelihood_unfolding(data, RESPONSE, background=BACKGROUND, simulation=False)
    assert (fixed.spectrum.uncertainty / found.spectrum.uncertainty).min() < 0.93


SIDE = {"high": np.array([400.0, 300.0]), "low": np.array([30.0, 20.0])}
LEAK = 0.02 * np.ones((2, 5))


@pytest.mark.parametrize("width", [0.3, None])
@pytest.mark.parametrize("side", ["high", "low"])
def test_a_sideband_constrains_the_background_as_it_has_to(side: str, width: float | None) -> None:
    """Exactly as least squares of all channels at once; the background's part shrinks as sigma^-2 + sum b^2/mu says."""
    b, rng = SIDE[side], np.random.default_rng(4)
    data = rng.poisson(MATRIX @ TRUTH + FAKES + 0.8 * BACKGROUND) + 0.0
    control = rng.poisson(0.8 * b) + 0.0
    options: dict[str, Any] = {"background": {"b": BACKGROUND}, "norms": {"b": width}, "simulation": False,
                               "tolerance": 1e-9}  # fmt: skip
    found = likelihood_unfolding(
        data, RESPONSE, sidebands={"off": Sideband(data=control, background={"b": b})}, **options
    )
    none = np.zeros((2, 5))
    designs = {"data": np.column_stack([MATRIX, BACKGROUND]), "off": np.column_stack([none, b])}
    precision = np.zeros((6, 6))
    precision[5, 5] = 0 if width is None else 1 / width**2
    outcomes = np.r_[np.zeros(5), 1.0]
    rest = {"data": FAKES, "off": np.zeros(2)}
    values, covariance = least_squares(found, designs, rest, outcomes, precision)
    sigma = np.sqrt(np.diag(covariance))
    assert np.abs((np.r_[found.values, found.fit.values["norm_b"]] - values) / sigma).max() < 1e-4
    np.testing.assert_allclose(found.covariance, covariance[:5, :5], rtol=1e-8, atol=1e-8 * covariance.max())
    assert list(found.spectrum.covariances) == ["data", "sideband off", *([] if width is None else ["norm_b"])]
    # the same as a normalisation of the smaller width that constraint and sideband give together
    total = precision[5, 5] + (b**2 / found.folded["off"]).sum()
    mu = found.folded["data"]
    predicted = linalg.inv(MATRIX.T @ linalg.solve(np.diag(mu) + np.outer(BACKGROUND, BACKGROUND) / total, MATRIX))
    np.testing.assert_allclose(found.covariance, predicted, rtol=1e-7, atol=1e-8 * covariance.max())
    without = likelihood_unfolding(data, RESPONSE, **options)
    parts = [f.covariance - f.conditional_covariance("norm_b") for f in (found, without)]
    assert np.trace(parts[0]) < (0.3 if side == "high" else 0.9) * np.trace(parts[1])


def test_signal_in_a_sideband_is_fitted_there() -> None:
    """A sideband with 2% of each truth bin: least squares again; without its response the background is too large."""
    rng, b = np.random.default_rng(5), np.array([100.0, 50.0])
    data, control = rng.poisson(MATRIX @ TRUTH + BACKGROUND) + 0.0, rng.poisson(LEAK @ TRUTH + b) + 0.0
    leak = response_of(LEAK, 3 * TRUTH)
    response = response_of(MATRIX, 3 * TRUTH)
    options: dict[str, Any] = {"background": {"b": BACKGROUND}, "norms": {"b": None}, "simulation": False}
    sideband = Sideband(data=control, background={"b": b}, response=leak)
    found = likelihood_unfolding(data, response, sidebands={"off": sideband}, tolerance=1e-9, **options)
    designs = {"data": np.column_stack([MATRIX, BACKGROUND]), "off": np.column_stack([LEAK, b])}
    rest = {"data": np.zeros(9), "off": np.zeros(2)}
    values, covariance = least_squares(found, designs, rest, np.zeros(6), np.zeros((6, 6)))
    assert np.abs((found.values - values[:5]) / np.sqrt(np.diag(covariance))[:5]).max() < 1e-4
    np.testing.assert_allclose(found.covariance, covariance[:5, :5], rtol=1e-8, atol=1e-8 * covariance.max())
    blind = likelihood_unfolding(data, response, sidebands={"off": replace(sideband, response=None)}, **options)
    assert blind.fit.values["norm_b"] > 1.2 > found.fit.values["norm_b"]


def test_a_sideband_of_events_and_of_histograms() -> None:
    rng = np.random.default_rng(6)
    x, edges = rng.uniform(0, 2, 300), np.array([0.0, 1.0, 2.0])
    axis = hist.axis.Variable(edges, name="x")
    events, filled = Events({"x": x}), hist.Hist(axis).fill(x)
    expected = hist.Hist(axis, storage=hist.storage.Weight()).fill(rng.uniform(0, 2, 1000), weight=0.3)
    data = MATRIX @ TRUTH + BACKGROUND
    options: dict[str, Any] = {"background": {"b": BACKGROUND}, "norms": {"b": None}}
    runs = [
        likelihood_unfolding(data, RESPONSE, sidebands={"off": sideband}, **options).values
        for sideband in (
            Sideband(data=events, background={"b": expected}, bins={"x": edges}),
            Sideband(data=filled, background={"b": expected}),
            Sideband(data=filled.values(), background={"b": expected}),
        )
    ]
    np.testing.assert_allclose(runs[1], runs[0], rtol=1e-8)
    np.testing.assert_allclose(runs[2], runs[0], rtol=1e-8)
    with pytest.raises(ValueError, match="sideband 'off': expected a histogram or an array, found events; give their"):
        likelihood_unfolding(
            data, RESPONSE, sidebands={"off": Sideband(data=events, background={"b": expected})}, **options
        )
    other = hist.Hist(hist.axis.Variable([0.0, 1.5, 2.0], name="x")).fill(x)
    with pytest.raises(ValueError, match="sideband 'off': background 'b': expected the bins of axis 0"):
        likelihood_unfolding(data, RESPONSE, sidebands={"off": Sideband(data=other, background={"b": expected})} | {
            "off": Sideband(data=filled, background={"b": other})}, **options)  # fmt: skip


# -- regularisation ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("order", [0, 1, 2])
@pytest.mark.parametrize("norm", [False, True])
def test_noiseless_data_are_smeared_by_exactly_a_c(order: int, norm: bool) -> None:
    """For three truths that are not the prior; the identity in A_C's place fails, and no order has an offset."""
    options: dict[str, Any] = {"background": {"b": BACKGROUND}, "norms": {"b": 0.3}} if norm else {}
    rest = FAKES + (BACKGROUND if norm else 0)
    options |= {"prior": 300 * np.linspace(1, 2, 5), "order": order, "strength": 20.0}
    for truth in (TRUTH, TRUTH[::-1] * 1.3, TRUTH * [0.5, 1.5, 0.8, 1.2, 1.0]):
        found = likelihood_unfolding(MATRIX @ truth + rest, RESPONSE, simulation=False, tolerance=1e-10, **options)
        scale = found.spectrum.uncertainty
        assert np.abs((found.spectrum.smear(truth) - found.values) / scale).max() < 1e-4
        assert found.spectrum.chi2(truth).value < 1e-6
        assert np.abs((truth - found.values) / scale).max() > 0.05
        no = likelihood_unfolding(MATRIX @ truth + rest, RESPONSE, simulation=False, **(options | {"strength": 0.0}))
        np.testing.assert_allclose(no.values, truth, rtol=1e-5)
        assert (np.diag(found.covariance) < np.diag(no.covariance)).any()


def test_a_strong_penalty_leaves_the_priors_shape() -> None:
    """Order 1: u/u0 is constant, and that constant is the ratio of the yields, with its Poisson error."""
    prior = np.array([1.0, 2.0, 2.0, 1.0, 1.0])
    data = np.random.default_rng(7).poisson(MATRIX @ TRUTH) + 0.0
    found = likelihood_unfolding(data, response_of(MATRIX, TRUTH), strength=1e6, order=1, prior=prior, simulation=False)
    ratio = data.sum() / (MATRIX @ prior).sum()
    np.testing.assert_allclose(found.values, prior * ratio, rtol=1e-3)
    np.testing.assert_allclose(found.spectrum.uncertainty, prior * ratio / np.sqrt(data.sum()), rtol=1e-2)
    assert found.deviance.dof == 8


def test_regularisation_allows_more_truth_bins_than_reco_bins() -> None:
    wide = response_of(smeared(5, 9), np.full(9, 300.0))
    data = wide.fold(np.full(9, 200.0))
    with pytest.raises(ValueError, match="found 9 truth bins and 5 reco bins; merge, or regularise by strength="):
        likelihood_unfolding(data, wide)
    found = likelihood_unfolding(data, wide, strength=1.0)
    np.testing.assert_allclose(found.values, 200.0, rtol=1e-5)  # flat in units of the prior, which no penalty touches


# -- nuisances ---------------------------------------------------------------------------------------------------------


def shifted(alpha: float, size: float = 0.15) -> Floats:
    """The matrix of a detector whose scale is off by alpha: linear in it."""
    away = (np.arange(9)[:, None] + 0.5) * 5 / 9 - np.arange(5) - 0.5
    return MATRIX * (1 + size * alpha * np.tanh(away))


SHIFTED = {"scale": (response_of(shifted(-1), 3 * TRUTH, FAKES), response_of(shifted(1), 3 * TRUTH, 1.2 * FAKES))}


def test_the_truth_of_a_nuisance_is_recovered() -> None:
    """Data made at +1 sigma, and an outcome of +1: both come back exactly; without the nuisance u is off by sigmas."""
    truth, big = 20 * TRUTH, response_of(MATRIX, 200 * TRUTH, FAKES)
    sides = response_of(shifted(-1), 200 * TRUTH, FAKES), response_of(shifted(1), 200 * TRUTH, 1.2 * FAKES)
    options: dict[str, Any] = {"systematics": {"scale": sides}, "tolerance": 1e-10}
    data = shifted(1.0) @ truth + 1.2 * FAKES
    found = likelihood_unfolding(data, big, centres={"scale": 1.0}, **options)
    assert found.fit.values["scale"] == pytest.approx(1.0, abs=1e-4)
    assert found.pulls["scale"] == pytest.approx(0.0, abs=1e-4)
    assert np.abs((found.values - truth) / found.spectrum.uncertainty).max() < 1e-3
    blind = likelihood_unfolding(data, big)
    assert np.abs((blind.values - truth) / blind.spectrum.uncertainty).max() > 1.5
    pulled = likelihood_unfolding(data, big, **options)
    assert 0.05 < pulled.fit.values["scale"] < 1.0
    assert 0.05 < pulled.constraints["scale"] < 1.0


def test_a_systematic_is_a_linear_nuisance_in_the_covariance() -> None:
    """For Asimov data: least squares with one more column, d mu/d alpha at the truth; part by part."""
    data = MATRIX @ TRUTH + FAKES
    found = likelihood_unfolding(
        data, RESPONSE, systematics={"scale": SHIFTED["scale"]}, simulation=False, tolerance=1e-10
    )
    # code 4p at 0: half of the difference of the contents at +1 and -1
    slope = (shifted(1) - shifted(-1)) @ TRUTH / 2 + 0.1 * FAKES
    design, precision = {"data": np.column_stack([MATRIX, slope])}, np.diag([0, 0, 0, 0, 0, 1.0])
    _, covariance = least_squares(found, design, {"data": FAKES}, np.zeros(6), precision)
    np.testing.assert_allclose(found.covariance, covariance[:5, :5], rtol=1e-4, atol=1e-5 * covariance.max())
    own = np.outer(covariance[:5, 5], covariance[:5, 5])  # V K V
    np.testing.assert_allclose(found.spectrum.covariances["scale"], own, rtol=1e-3, atol=1e-5 * own.max())
    part = own / covariance[5, 5]  # Schur: what would be gained if it were known, and more than V K V
    np.testing.assert_allclose(found.covariance - found.conditional_covariance("scale"), part, rtol=1e-3,
                               atol=1e-5 * part.max())  # fmt: skip
    assert found.fit.errors["scale"] == pytest.approx(math.sqrt(covariance[5, 5]), rel=1e-3)


def test_one_response_alone_is_mirrored_and_names_are_shared() -> None:
    up = response_of(shifted(1), 3 * TRUTH, 1.2 * FAKES)
    down = response_of(shifted(-1), 3 * TRUTH, 0.8 * FAKES)
    data, b = (
        MATRIX @ TRUTH + FAKES + BACKGROUND,
        Background(contents=BACKGROUND, systematics={"scale": 1.3 * BACKGROUND}),
    )
    pair = replace(b, systematics={"scale": (0.7 * BACKGROUND, 1.3 * BACKGROUND)})
    runs = [
        likelihood_unfolding(1.1 * data, RESPONSE, background={"b": one}, systematics={"scale": given})
        for one, given in ((b, up), (pair, (down, up)))
    ]
    np.testing.assert_allclose(runs[1].values, runs[0].values, rtol=1e-9)
    np.testing.assert_allclose(runs[1].covariance, runs[0].covariance, rtol=1e-7)
    assert list(runs[0].spectrum.covariances) == ["data", "simulation", "scale"]
    assert runs[0].fit.names.count("scale") == 1


def test_the_sum_of_all_sources_is_the_total() -> None:
    """Nothing is left over, with everything at once: H^-1 (H - penalty) H^-1 by the matrices themselves."""
    sideband = Sideband(data=SIDE["high"], background={"b": SIDE["high"]})
    found = likelihood_unfolding(
        shifted(0.5) @ TRUTH + FAKES + BACKGROUND, RESPONSE, background={"b": BACKGROUND}, norms={"b": 0.3},
        sidebands={"off": sideband}, systematics=SHIFTED, strength=2.0,
    )  # fmt: skip
    assert list(found.spectrum.covariances) == ["data", "sideband off", "simulation", "norm_b", "scale"]
    v = linalg.inv(found.precision)
    d = found.spectrum.binning.differences(2)
    penalty = np.zeros_like(v)
    penalty[:5, :5] = 2.0 * d.T @ d
    total = (v - v @ penalty @ v)[:5, :5] * np.outer(found.prior, found.prior)
    np.testing.assert_allclose(found.covariance, total, rtol=1e-9, atol=1e-9 * total.max())
    np.testing.assert_allclose(found.conditional_covariance(), total, rtol=1e-9, atol=1e-9 * total.max())
    for covariance in found.spectrum.covariances.values():
        assert linalg.eigvalsh(covariance)[0] > -1e-9 * total.max()
    assert set(found.pulls) == {"norm_b", "scale"}
    assert np.trace(found.conditional_covariance("simulation", "scale")) < 0.9 * np.trace(total)


# -- counting ----------------------------------------------------------------------------------------------------------


def test_minos_ends_are_those_of_counting() -> None:
    """One bin of 7 counts and 2 of background: 2 (mu - n + n log n/mu) = chi2(0.68), by root finding."""
    response = response_of([[0.5]], [10.0])
    found = likelihood_unfolding([7.0], response, background=[2.0], simulation=False, minos_bins=[0])

    def away(u: float) -> float:
        mu = 0.5 * u + 2
        return 2 * (mu - 7 + 7 * math.log(7 / mu)) - float(stats.chi2.ppf(0.68, 1))

    ends = [optimize.brentq(away, 0, 10), optimize.brentq(away, 10, 40)]
    np.testing.assert_allclose(found.intervals[0], ends, rtol=1e-3)
    sigma = found.spectrum.uncertainty[0]
    assert sigma == pytest.approx(2 * math.sqrt(7))
    assert ends[1] - 10 > 1.15 * (10 - ends[0])  # the covariance alone would be symmetric
    none = likelihood_unfolding([7.0], response, background=[2.0], simulation=False)
    assert np.isnan(none.intervals).all()


def toys(number: int, seed: int, *, blind: bool = False, size: float = 0.05) -> tuple[Floats, Floats, Floats]:
    """Pulls of the spectrum and of nuisances, and p-values: counts and all auxiliary outcomes drawn.

    The systematic moves the response by up to ``size``; at 0.15, u is not linear in it.  A ``blind`` fit has neither
    nuisances nor the sideband.
    """
    rng, side, (alpha, nu) = np.random.default_rng(seed), SIDE["high"], (1.0, 1.4)
    expected = shifted(alpha, size) @ TRUTH + FAKES * (1 + 0.2 * alpha) + nu * BACKGROUND
    up = response_of(shifted(1, size), 3 * TRUTH, 1.2 * FAKES)
    pulls, nuisances, p_values = [], [], []
    for _ in range(number):
        data, control = rng.poisson(expected), rng.poisson(nu * side)
        options: dict[str, Any] = {} if blind else {
            "norms": {"b": 0.3}, "sidebands": {"off": Sideband(data=control, background={"b": side})},
            "systematics": {"scale": up}, "centres": {"scale": rng.normal(alpha, 1), "norm_b": rng.normal(nu, 0.3)},
        }  # fmt: skip
        found = likelihood_unfolding(data, RESPONSE, background={"b": BACKGROUND}, simulation=False, **options)
        pulls.append((found.values - TRUTH) / found.spectrum.uncertainty)
        truths = {} if blind else {"scale": alpha, "norm_b": nu}
        nuisances.append([(found.fit.values[n] - true) / found.fit.errors[n] for n, true in truths.items()])
        p_values.append(found.deviance.p_value)
    return np.array(pulls), np.array(nuisances), np.array(p_values)


def test_pulls_of_pseudo_experiments_are_standard() -> None:
    """100 of them, four sigma of their own error each; without nuisances and sideband they are far off."""
    pulls, nuisances, p_values = toys(100, seed=1)
    for each in (pulls, nuisances):
        np.testing.assert_allclose(each.mean(0), 0, atol=4 / math.sqrt(100))
        np.testing.assert_allclose(each.std(0, ddof=1), 1, atol=4 / math.sqrt(200))
    assert stats.kstest(p_values, "uniform").pvalue > 1e-3
    blind = toys(60, seed=1, blind=True)[0]
    assert np.abs(blind.mean(0)).max() > 5 / math.sqrt(60)


def test_the_simulations_part_is_its_spread() -> None:
    """80 independent weighted simulations of the standard toy, the same data: more reco bins than truth bins."""
    problem, rng = GaussianUnfolding.with_detector(), np.random.default_rng(8)
    bins: dict[str, Any] = {"truth": {"t0": np.linspace(-2.5, 2.5, 5)}, "reco": {"x0": np.linspace(-3, 3, 7)}}
    data = Response.from_events(problem.simulation(20_000, seed=999), **bins).reco_yield
    runs = []
    for seed in range(80):
        simulation = problem.simulation(4000, seed=seed)
        weighted = simulation.with_weight(5 * rng.gamma(2.0, 0.5, len(simulation)))
        runs.append(likelihood_unfolding(data, Response.from_events(weighted, **bins)))
    spread = np.std([run.values for run in runs], 0, ddof=1)
    sigma = np.sqrt(np.mean([np.diag(run.spectrum.covariances["simulation"]) for run in runs], 0))
    np.testing.assert_allclose(spread / sigma, 1, atol=0.05 + 4 / math.sqrt(160))  # first order, beyond the statistics


# -- files and bad input -----------------------------------------------------------------------------------------------


def test_a_result_is_saved(tmp_path: Path) -> None:
    found = likelihood_unfolding(
        MATRIX @ TRUTH + FAKES + BACKGROUND, RESPONSE, background={"b": BACKGROUND}, norms={"b": 0.3},
        sidebands={"off": Sideband(data=SIDE["low"], background={"b": SIDE["low"]})}, strength=1.0, minos_bins=[1],
    )  # fmt: skip
    found.save(tmp_path / "u.safetensors")
    again = LikelihoodUnfolding.load(tmp_path / "u.safetensors")
    assert repr(again) == repr(found)
    assert again.fit.values == found.fit.values
    assert again.deviance == found.deviance
    assert again.pulls == found.pulls
    for name in ("values", "covariance", "correlation", "intervals", "precision", "prior"):
        np.testing.assert_array_equal(getattr(again, name), getattr(found, name))
    np.testing.assert_array_equal(again.spectrum.smearing, found.spectrum.smearing)
    np.testing.assert_array_equal(again.folded["off"], found.folded["off"])
    np.testing.assert_array_equal(again.conditional_covariance("norm_b"), found.conditional_covariance("norm_b"))
    assert "norm_b" in repr(found)


def changed(**options: Any) -> Callable[[], Any]:
    return lambda: likelihood_unfolding(**({"data": MATRIX @ TRUTH + FAKES, "response": RESPONSE} | options))


def bad(**arrays: Any) -> Response:
    return replace(RESPONSE, **arrays)


NEGATIVE, UNKNOWN = RESPONSE.both.copy(), RESPONSE.both.copy()
NEGATIVE[2, 3], UNKNOWN[2, 3] = -5.0, np.nan


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"data": np.ones(7)}, "data: expected contents of Binning.*found 7 bins"),
        ({"data": np.r_[-1.0, np.ones(8)]}, "data: expected counts from 0, found -1 in bin 0"),
        ({"data": np.full(9, np.nan)}, "data: expected finite values"),
        ({"data": np.zeros(9)}, "data: expected counts, found none"),
        ({"data": Events({"x": [0.5, 1.5]}, weight=[2.0, 2.0])}, "expected counts, .*found weighted ones"),
        ({"background": -BACKGROUND}, "background 'background': expected contents from 0, found 9 negative"),
        ({"background": {"a b": BACKGROUND}}, "background 'a b': expected a name of letters"),
        ({"norms": {"b": -0.1}, "background": {"b": BACKGROUND}}, "norm of 'b': expected a positive relative"),
        ({"strength": -1.0}, "strength: expected a finite number from 0, found -1"),
        ({"strength": 1.0, "order": 4}, "expected an order from 0 to 3, found 4"),
        ({"fakes": "ignore"}, "fakes: expected 'subtract' or 'scale'"),
        ({"prior": np.zeros(5)}, "prior: expected positive contents"),
        ({"minos_bins": [5]}, "minos_bins: expected truth bins from 0 to 4, found 5"),
        ({"response": bad(both=NEGATIVE)}, "data: response: expected contents from 0, .*in bin 2, truth bin 3"),
        ({"systematics": {"s": bad(both=UNKNOWN)}}, "data: systematic 's': expected finite values"),
        ({"systematics": {"s": bad(both=NEGATIVE)}}, "systematic 's': expected contents from 0, .*bin 2, truth bin 3"),
        (
            {"systematics": {"s": bad(fakes=3 * FAKES)}},
            r"systematic 's': the mirror image of \+1 sigma is negative, down to -20 in bin 0; give both",
        ),
        ({"systematics": {"s": response_of(MATRIX[:, :4], TRUTH[:4])}}, "systematic 's', truth: expected the bins"),
        ({"systematics": {"s": response_of(smeared(8, 5), TRUTH)}}, "systematic 's', reco: expected the bins"),
        ({"systematics": {"truth_1": RESPONSE}}, "systematic 'truth_1': expected another name than"),
        (
            {"background": {"b": Background(contents=BACKGROUND, systematics={"data": BACKGROUND})}},
            "systematic 'data': expected another name than",
        ),
        ({"sidebands": {"data": Sideband(data=[1.0])}}, "sidebands: expected other names than 'data'"),
        ({"sidebands": {"off": Sideband(data=[1.0])}}, "sideband 'off': expected a background or a response"),
        (
            {"sidebands": {"off": Sideband(data=[1.0], response=response_of([[0.1] * 4], TRUTH[:4]))}},
            "sideband 'off': the response's truth: expected the bins",
        ),
        (
            {"background": {"b": MATRIX[:, 2]}, "norms": {"b": None}},
            r"found a direction they do not see, most of all along (truth_2 \(2 <= t < 3\), norm_b|norm_b, truth_2)",
        ),
        ({"response": response_of(np.repeat(MATRIX[:, :1], 5, 1), TRUTH)}, "most of all along truth_"),
    ],
)  # fmt: skip
def test_bad_input_is_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        changed(**options)()


def test_unknown_names_are_refused() -> None:
    with pytest.raises(KeyError, match="no background 'c'; known: 'b'"):
        changed(background={"b": BACKGROUND}, norms={"c": 0.1})()
    with pytest.raises(KeyError, match="no constrained parameter 'scal'; closest: 'scale'"):
        changed(systematics=SHIFTED, centres={"scal": 0.1})()
    with pytest.raises(KeyError, match="no parameter 'truth_0'"):
        changed(systematics=SHIFTED)().conditional_covariance("truth_0")
    with pytest.raises(TypeError, match="systematic 's': expected a Response, or those at -1 and"):
        changed(systematics={"s": MATRIX})()
    with pytest.raises(TypeError, match="sideband 'off': expected a Sideband"):
        changed(sidebands={"off": [1.0, 2.0]})()


def test_empty_bins_of_a_square_response_are_named() -> None:
    response = response_of(smeared(3, 3), [30.0, 30.0, 30.0])
    with pytest.raises(NotConverged, match=r"bins without counts: data \[1\]; merge them, or positive=True"):
        likelihood_unfolding([20.0, 0.0, 20.0], response)
    assert likelihood_unfolding([20.0, 0.0, 20.0], response, strength=50.0, order=1).fit.valid


def test_truth_bins_end_at_zero_where_they_have_to() -> None:
    """The middle bin at its limit, where the likelihood rises; the others by least squares without it."""
    response, data = response_of(smeared(3, 3), [30.0, 30.0, 30.0]), np.array([20.0, 0.0, 20.0])
    found = likelihood_unfolding(data, response, positive=True, simulation=False, tolerance=1e-10)
    assert found.fit.at_limit == ("truth_1",)
    assert found.values[1] == 0
    assert found.correlation[1].tolist() == [0, 1, 0]
    assert found.spectrum.chi2([25.0, 5.0, 25.0])[1:2] == (2,)
    assert np.isfinite(found.spectrum.chi2([25.0, 5.0, 25.0]).value)
    design = response.matrix[:, [0, 2]]
    values, covariance = least_squares(found, {"data": design}, {"data": np.zeros(3)}, np.zeros(2), np.zeros((2, 2)))
    np.testing.assert_allclose(found.values[[0, 2]], values, rtol=1e-4)
    np.testing.assert_allclose(found.covariance[np.ix_([0, 2], [0, 2])], covariance, rtol=1e-4)
    assert not found.covariance[1].any()
    slope = response.matrix[:, 1] @ (1 - data / found.folded["data"])
    assert slope > 0
    np.testing.assert_allclose(found.spectrum.smear(found.values), found.values, rtol=1e-4, atol=1e-4)
    np.testing.assert_allclose(found.conditional_covariance(), found.covariance, rtol=1e-9)
    inside = likelihood_unfolding([20.0, 18.0, 20.0], response, positive=True)
    free = likelihood_unfolding([20.0, 18.0, 20.0], response)
    np.testing.assert_allclose(inside.values, free.values, rtol=1e-4)
    np.testing.assert_allclose(inside.covariance, free.covariance, rtol=1e-3)


def test_counts_outside_the_simulations_reach_are_refused_or_reported() -> None:
    empty = response_of(np.vstack([MATRIX, np.zeros(5)]), TRUTH)
    data = np.append(MATRIX @ TRUTH, 30.0)
    fraction = 30 / data.sum()
    with pytest.raises(ValueError, match=f"found the fraction {fraction:.3g} elsewhere"):
        likelihood_unfolding(data, empty)
    found = likelihood_unfolding(data, empty, outside=0.1)
    assert found.spectrum.settings["outside"] == pytest.approx(fraction)
    np.testing.assert_allclose(found.values, TRUTH, rtol=1e-4)
