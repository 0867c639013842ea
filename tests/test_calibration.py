"""`nuinfer.calibration`: maps of log ratios whose exact answer is known."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from scipy import special

from nuinfer import calibration
from nuinfer.calibration import apply, fit_calibration

N = 20_000
KINDS: list[Any] = ["temperature", "monotone"]


def toy(seed: int = 1) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Exact log ratios 2x of N(+1, 1) and N(-1, 1), and the class weights."""
    rng = np.random.default_rng(seed)
    label = np.arange(2 * N) % 2
    return 2 * (rng.normal(size=2 * N) + 2 * label - 1), label.astype(float), 1.0 - label


F, W1, W0 = toy()


def excess(g: np.ndarray) -> float:
    """Twice the log-likelihood that the map's error costs, a chi-squared of as many dof as the map has parameters."""
    s = special.expit(F)
    return float(np.sum(s * (1 - s) * (g - F) ** 2))


@pytest.mark.parametrize("kind", KINDS)
def test_calibrated_input_stays(kind: Any) -> None:
    """Temperature has 1 parameter, the spline 9: beyond 22 and 38 lie 3e-6 and 2e-5 of a chi-squared."""
    found = apply(kind, fit_calibration(kind, F, W1, W0), F)
    assert excess(found) < {"temperature": 22, "monotone": 38}[kind]
    assert excess(F + 0.1) > 38  # it would see an error of 0.1


def test_temperature_finds_the_scale_within_its_error() -> None:
    s = special.expit(F)
    sigma = 1 / np.sqrt(np.sum(s * (1 - s) * F**2))  # Fisher information of log T at T = 1
    (log_slope,) = fit_calibration("temperature", 2 * F, W1, W0)
    assert log_slope == pytest.approx(-np.log(2), abs=4 * sigma)
    assert sigma < 0.02


@pytest.mark.parametrize(("scale", "shift"), [(2.0, 1.0), (0.5, -2.0)])
def test_monotone_mends_scale_and_offset_where_temperature_cannot(scale: float, shift: float) -> None:
    bad = scale * F + shift
    assert excess(apply("monotone", fit_calibration("monotone", bad, W1, W0), bad)) < 38
    assert excess(apply("temperature", fit_calibration("temperature", bad, W1, W0), bad)) > 500
    assert excess(bad) > 500


def test_monotone_mends_a_bent_ratio() -> None:
    """f = sinh(log r / 2) is no line: a spline of 8 pieces follows it to a tenth in the bulk."""
    bent = np.sinh(F / 2)
    found = apply("monotone", fit_calibration("monotone", bent, W1, W0), bent)
    assert excess(found) < 100
    assert excess(bent) > 1000


def test_signed_weights_are_weights() -> None:
    """Pairs w, -w at one place leave the map as it is; the same pairs as |w| do not."""
    rng = np.random.default_rng(2)
    more, w = rng.normal(3, 1, 4000), rng.exponential(size=4000)
    f = np.concatenate([F, more, more])
    signed = np.concatenate([W1, w, -w]), np.concatenate([W0, 0 * w, 0 * w])
    knots = apply("temperature", fit_calibration("temperature", f, *signed), F)
    np.testing.assert_allclose(knots, apply("temperature", fit_calibration("temperature", F, W1, W0), F), rtol=1e-5)
    wrong = apply("temperature", fit_calibration("temperature", f, np.abs(signed[0]), signed[1]), F)
    assert excess(wrong) > 100


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("what", ["exact", "separable", "constant", "two values", "tiny", "steps"])
def test_maps_rise_strictly_and_stay_finite(kind: Any, what: str) -> None:
    f = {
        "exact": F,
        "separable": np.abs(F) * (2 * W1 - 1) + 0.1 * (2 * W1 - 1),
        "constant": np.zeros_like(F),
        "two values": np.sign(F),
        "tiny": 1e-9 * F,
        "steps": np.round(F),
    }[what]
    parameters = fit_calibration(kind, f, W1, W0)
    assert np.isfinite(parameters).all()
    at = np.concatenate([np.linspace(-60, 60, 2001), np.linspace(f.min(), f.max(), 1001)])
    at = np.unique(at)
    found = apply(kind, parameters, at)
    assert np.isfinite(found).all()
    far = np.diff(at) > 1e-3  # neighbours nearer than that may round to one number
    assert (np.diff(found)[far] > 0).all()
    assert (np.diff(found) >= 0).all()


def test_the_slope_is_continuous() -> None:
    parameters = fit_calibration("monotone", np.sinh(F / 2), W1, W0)
    knots = parameters[: calibration._KNOTS]
    for side in (-1e-4, 1e-4):
        around = apply("monotone", parameters, np.concatenate([knots + side, knots + 2 * side]))
        slope = np.abs(around[8:] - around[:8]) / 1e-4
        if side < 0:
            left = slope
    np.testing.assert_allclose(left, slope, rtol=1e-2)
    assert slope.max() / slope.min() > 1.5


def test_events_that_agree_get_the_ratio_one() -> None:
    """No difference between the classes: any separation that f claims is calibrated away, up to the sample's error."""
    rng = np.random.default_rng(3)
    f = rng.normal(size=2 * N)
    slope = np.exp(fit_calibration("temperature", f, W1, W0)[0])
    assert 0 < slope < 4 * 2 / np.sqrt(2 * N)  # Fisher information of a slope at 0 is N/4
    found = apply("monotone", fit_calibration("monotone", f, W1, W0), f)
    assert np.sum(found**2 / 4) < 38


def test_bad_input_is_refused() -> None:
    with pytest.raises(ValueError, match="expected 'temperature', 'monotone' or None, found 'isotonic'"):
        fit_calibration("isotonic", F, W1, W0)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="expected positive total weights in the held-out rows"):
        fit_calibration("monotone", F, W1, -W0)
    with pytest.raises(ValueError, match="expected positive total weights"):
        fit_calibration("temperature", F[:0], W1[:0], W0[:0])
