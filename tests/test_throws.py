"""Throws against linear propagation, which is exact for least squares, and against the covariances of the methods."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

import nuinfer as nu
from nuinfer import Events, metrics
from nuinfer.simulators import GaussianUnfolding
from nuinfer.unfolding import (
    Binning,
    Response,
    Spectrum,
    Thrown,
    Throws,
    iterative_bayes,
    omnifold_throws,
    tikhonov,
    unfold_throws,
)

Floats = NDArray[np.float64]

PROBLEM = GaussianUnfolding.with_detector()
SIMULATION, DATA = PROBLEM.simulation(6000, seed=1), PROBLEM.data(6000, seed=1)
BACKGROUND = PROBLEM.background(6000, seed=1)
BINS: dict[str, Any] = {"truth": {"t0": np.linspace(-2.0, 2.5, 6)}, "reco": {"x0": np.linspace(-2.5, 2.4, 9)}}
COUNTS = np.histogram(DATA["x0"], BINS["reco"]["x0"])[0].astype(float)


def least_squares(data: Any, simulation: Events, background: Any, seed: int = 0) -> Spectrum:
    """With the same covariance throughout, so that it is linear in data and background."""
    response = Response.from_events(simulation, **BINS)
    expected = response.reco.fill(background)[0] if isinstance(background, Events) else background
    return tikhonov(data, response, strength=0.0, background=expected, covariance=COUNTS)


def bayes(data: Any, simulation: Events, background: Any, seed: int = 0) -> Spectrum:
    return iterative_bayes(data, Response.from_events(simulation, **BINS), background=background, iterations=3,
                           outside=0.2)  # fmt: skip


def background_norm(events: Events, alpha: float) -> Events:
    """20% of the background: events without truth columns."""
    return events if "t0" in events else events.with_weight(events.weight * (1 + 0.2 * alpha))


class Two:
    """Two knobs: the background's norm above and below 2."""

    knobs = ("low", "high")

    def __call__(self, events: Events, alpha: Floats) -> Events:
        if "t0" in events:
            return events
        return events.with_weight(events.weight * (1 + 0.1 * np.where(events["x0"] < 2, *alpha)))


def efficiency(events: Events, alpha: float) -> Events:
    """A tilt of the efficiency in truth, by weights of misses and of what is found."""
    if "t0" not in events:
        return events
    factor = np.where(events["pass_reco"], 1 + 0.05 * alpha, 1.0)
    return events.with_weight(events.weight * factor)


def scale(events: Events, alpha: float) -> Events:
    return events.with_columns(x0=events["x0"] * (1 + 0.05 * alpha))


def inside(events: Events) -> Events:
    """Reconstructed between -2.5 and 2: a selection on the shifted column."""
    if "t0" not in events:
        return events.select(events["x0"] < 2)
    seen = events["pass_reco"] & (events["x0"] < 2)
    found = events.with_columns(pass_reco=seen)
    return found.select(seen | events["pass_truth"])


QUIET: dict[str, Any] = {"data": False, "simulation": False}


def run(throws: Throws, unfold: Any = least_squares, **options: Any) -> Thrown:
    given = {"background": BACKGROUND, "progress": False} | options
    return unfold_throws(unfold, COUNTS, SIMULATION, throws, **given)


# -- systematics -------------------------------------------------------------------------------------------------------


def test_a_linear_source_has_its_exact_covariance() -> None:
    """u = U (d - b): 20% of the background is (0.2 U b)(0.2 U b)^T, found by regression to rounding."""
    thrown = run(Throws(count=20, systematics={"background": background_norm}, seed=1, **QUIET))
    b = np.histogram(BACKGROUND["x0"], BINS["reco"]["x0"], weights=BACKGROUND.weight)[0]
    nothing = least_squares(COUNTS, SIMULATION, 0.5 * b).values
    slope = 0.4 * (thrown.nominal.values - nothing)
    np.testing.assert_allclose(thrown.sources["background"], np.outer(slope, slope), rtol=1e-8, atol=1e-8)
    alpha = thrown.alphas["background"][:, 0]
    np.testing.assert_allclose(thrown.spectra, thrown.nominal.values + np.outer(alpha, slope), rtol=1e-9)
    np.testing.assert_allclose(thrown.shift, alpha.mean() * slope, rtol=1e-6, atol=1e-9)
    assert thrown.rank == 1
    total = sum(thrown.sources.values())
    np.testing.assert_allclose(total, thrown.covariance, rtol=1e-9)
    np.testing.assert_allclose(thrown.spectrum.covariance, thrown.covariance, rtol=1e-9)
    assert abs(slope).max() > 10


def test_sources_are_told_apart_and_drawn_independently() -> None:
    """Three knobs of two sources in one set of throws; what one draws does not depend on the others."""
    both = Throws(count=30, systematics={"two": Two(), "background": background_norm}, seed=1, **QUIET)
    thrown, one = run(both), run(Throws(count=30, systematics={"two": Two()}, seed=1, **QUIET))
    np.testing.assert_array_equal(thrown.alphas["two"], one.alphas["two"])
    assert thrown.alphas["two"].shape == (30, 2)
    scale = np.abs(one.sources["two"]).max()
    # the product of the two knobs on one event is not linear: 0.02 alpha beta b
    np.testing.assert_allclose(thrown.sources["two"], one.sources["two"], atol=0.1 * scale)
    np.testing.assert_allclose(sum(thrown.sources.values()), thrown.covariance, atol=1e-9 * scale)
    assert np.linalg.matrix_rank(one.sources["two"], tol=1e-6 * scale) == 2


def test_statistics_are_those_of_the_method() -> None:
    """300 throws without systematics: the spread is the covariance of data, background and simulation."""
    thrown = run(Throws(count=300, seed=2), bayes)
    sigma = np.sqrt(np.diag(thrown.covariance))
    expected = thrown.nominal.uncertainty
    np.testing.assert_allclose(sigma / expected, 1, atol=4.5 / np.sqrt(2 * 300))
    quiet = run(Throws(count=300, seed=2, simulation=False), bayes)
    data = np.sqrt(np.diag(thrown.nominal.covariances["data"]))
    np.testing.assert_allclose(np.sqrt(np.diag(quiet.covariance)) / data, 1, atol=4.5 / np.sqrt(2 * 300))
    assert (data < 0.8 * expected).all()
    assert list(thrown.sources) == ["remainder"]


def test_noise_is_not_taken_for_a_source() -> None:
    """A source that does nothing gets a covariance that scatters about zero; without the correction it is noise/K."""
    sizes = []
    for seed in range(12):
        thrown = run(Throws(count=40, systematics={"nothing": lambda e, a: e}, simulation=False, seed=seed))
        sizes.append(np.diag(thrown.sources["nothing"]) / np.diag(thrown.covariance))
    mean, error = np.mean(sizes, 0), np.std(sizes, 0) / np.sqrt(12)
    assert (np.abs(mean) < 4 * error).all()
    assert np.abs(mean).max() < 1 / 40


def test_joint_throws_are_the_sum_of_independent_parts() -> None:
    throws = Throws(count=300, systematics={"background": background_norm, "efficiency": efficiency}, seed=3)
    thrown = run(throws, bayes, executor=None)
    alone = run(Throws(count=300, systematics={"background": background_norm, "efficiency": efficiency}, seed=3,
                       **QUIET), bayes)  # fmt: skip
    noise = np.diag(thrown.sources["remainder"]) / 300
    for name in ("background", "efficiency"):
        expected, found = (np.diag(t.sources[name]) for t in (alone, thrown))
        assert (np.abs(found - expected) < 4 * (2 * np.sqrt(expected * noise) + noise)).all()
        assert expected.max() > 20 * noise.max()


# -- the covariance of throws ----------------------------------------------------------------------------------------


def thrown_of(count: int, noise: float, seed: int = 1) -> tuple[Thrown, Floats, Floats]:
    """Throws u + G alpha + noise of 3 + 1 knobs in five bins, G (4, 5), and the noise's covariance."""
    rng = np.random.default_rng(seed)
    slopes, root = rng.normal(size=(4, 5)), noise * rng.normal(size=(5, 5))
    alphas = {"flux": rng.normal(size=(count, 3)), "efficiency": rng.normal(size=(count, 1))}
    spectra = 100 + np.concatenate([*alphas.values()], 1) @ slopes + rng.normal(size=(count, 5)) @ root
    nominal = Spectrum(Binning("p", np.arange(6.0)), np.full(5, 100.0), {})
    return Thrown(nominal, spectra, alphas, {}), slopes, root.T @ root


def test_covariance_of_throws_without_chance_correlations_of_knobs() -> None:
    """Without noise it is G G^T, exactly, by source; the plain one of 20 throws is far from it."""
    found, slopes, _ = thrown_of(20, 0.0)
    spectrum = found.spectrum
    np.testing.assert_allclose(spectrum.covariance, slopes.T @ slopes, atol=1e-9)
    np.testing.assert_allclose(spectrum.covariances["flux"], slopes[:3].T @ slopes[:3], atol=1e-9)
    np.testing.assert_allclose(spectrum.covariances["remainder"], 0, atol=1e-9)
    plain = metrics.replica_covariance(found.spectra)
    assert np.abs(plain - slopes.T @ slopes).max() > 0.2 * np.abs(slopes.T @ slopes).max()


def test_residuals_are_replicas_of_the_noise() -> None:
    """K - k of them, with the covariance of a regression's residuals."""
    found = thrown_of(30, 0.5)[0]
    left = found.residuals
    design = np.concatenate([np.ones((30, 1)), *found.alphas.values()], 1)
    rest = found.spectra - design @ np.linalg.lstsq(design, found.spectra, rcond=None)[0]
    assert left.shape == (26, 5)
    np.testing.assert_allclose(left.mean(0), 0, atol=1e-12)
    np.testing.assert_allclose(metrics.replica_covariance(left), rest.T @ rest / 25, atol=1e-12)
    assert found.spectrum.replicas.shape == (26, 5)


def test_covariance_of_throws_is_unbiased() -> None:
    totals, plain = [], []
    found, slopes, noise = thrown_of(30, 0.2)
    for seed in range(400):
        rng = np.random.default_rng(seed)
        alphas = {name: rng.normal(size=a.shape) for name, a in found.alphas.items()}
        root = np.linalg.cholesky(noise)
        spectra = 100 + np.concatenate([*alphas.values()], 1) @ slopes + rng.normal(size=(30, 5)) @ root.T
        one = replace(found, spectra=spectra, alphas=alphas)
        totals.append(one.spectrum.covariance.sum())
        plain.append(metrics.replica_covariance(one.spectra).sum())
    exact = (slopes.T @ slopes + noise).sum()
    assert abs(np.mean(totals) - exact) < 4 * np.std(totals) / 20
    assert np.std(totals) < 0.7 * np.std(plain)  # and scatters less


def test_last_layers_take_the_training_from_the_members() -> None:
    found = thrown_of(20, 0.5)[0]
    method = np.eye(5)
    with_members = replace(found, nominal=replace(found.nominal, covariances={"method": method}), left_out=("method",))
    alone, both = found.spectrum, with_members.spectrum
    np.testing.assert_allclose(both.covariance, alone.covariance + method)
    assert list(both.covariances) == ["flux", "efficiency", "remainder", "method"]


def test_alone_are_throws_of_one_source_without_bootstraps() -> None:
    sources = {"background": background_norm, "efficiency": efficiency}
    thrown = run(Throws(count=5, systematics=sources, alone=4, seed=4))
    quiet = run(Throws(count=4, systematics={"efficiency": efficiency}, seed=4, **QUIET))
    assert list(thrown.alone) == list(sources)
    np.testing.assert_allclose(thrown.alone["efficiency"], quiet.spectra, rtol=1e-12)
    assert np.ptp(thrown.alone["background"], 0).max() > 1


def test_universes_are_weights_each_taken_once() -> None:
    rng = np.random.default_rng(5)
    factors = np.clip(1 + 0.05 * rng.normal(size=(len(SIMULATION), 8)), 0, None)
    throws = Throws(count=8, systematics={"flux": factors}, seed=5, **QUIET)
    thrown = run(throws, bayes)
    assert sorted(throws.universe(k, "flux") for k in range(8)) == list(range(8))
    for k in range(8):
        weighted = SIMULATION.with_weight(SIMULATION.weight * factors[:, throws.universe(k, "flux")])
        np.testing.assert_allclose(thrown.spectra[k], bayes(COUNTS, weighted, BACKGROUND).values, rtol=1e-12)
    assert sorted(throws.universe(k, "flux") for k in range(8, 16)) == list(range(8))
    assert list(thrown.sources) == ["remainder"]


def test_the_selection_is_evaluated_after_the_shift() -> None:
    throws = Throws(count=3, systematics={"scale": scale}, select=inside, seed=6, **QUIET)
    thrown = run(throws, bayes)
    for k in range(3):
        alpha = throws.alpha(k, "scale")[0]
        by_hand = bayes(COUNTS, inside(scale(SIMULATION, alpha)), inside(scale(BACKGROUND, alpha)))
        np.testing.assert_allclose(thrown.spectra[k], by_hand.values, rtol=1e-12)
        before = bayes(COUNTS, scale(inside(SIMULATION), alpha), scale(inside(BACKGROUND), alpha))
        assert np.abs(before.values / by_hand.values - 1).max() > 1e-3
    np.testing.assert_allclose(thrown.nominal.values, bayes(COUNTS, inside(SIMULATION), inside(BACKGROUND)).values)


# -- OmniFold ----------------------------------------------------------------------------------------------------------


def tilt(events: Events, alpha: float) -> Events:
    """30% more or fewer events of the simulation at t = 1."""
    factor = np.exp(0.3 * alpha * np.tanh(np.nan_to_num(events["t0"]))) if "t0" in events else 1.0
    return events.with_weight(events.weight * factor)


def shift(events: Events, alpha: float) -> Events:
    """A shift of the reconstructed column."""
    return events.with_columns(x0=events["x0"] + 0.1 * alpha)


OMNIFOLD: dict[str, Any] = {
    "reco": ["x0"], "truth": ["t0"], "iterations": 2, "network": nu.MLP(width=16, depth=2), "progress": False,
    "training": nu.Training(epochs=4, batch=256, learning_rate=1e-2),
}  # fmt: skip


def test_batched_throws_are_those_trained_one_by_one() -> None:
    """Background norm and tilt, eight throws: the same multiplicities and knobs, other initial weights."""
    small, data, background = PROBLEM.simulation(3000, seed=2), PROBLEM.data(3000, seed=2), PROBLEM.background(3000, 2)
    sources = {"tilt": tilt, "background": lambda e, a: background_norm(e, 2 * a)}
    throws = Throws(count=8, systematics=sources, seed=3)
    bins = {"t0": np.linspace(-2.0, 2.5, 6)}
    batched = omnifold_throws(data, small, throws, bins, background=background, **OMNIFOLD)
    assert batched.spectra.shape == (8, 5)

    def alone(d: Any, s: Events, b: Any, seed: int) -> Spectrum:
        return nu.omnifold(d, s, background=b, seed=seed, **OMNIFOLD).spectrum(bins)

    apart = unfold_throws(alone, data, small, throws, background=background, progress=False)
    spread = apart.spectra.std(0)
    noise = (batched.spectra - apart.spectra).std(0) / np.sqrt(2)
    assert noise.mean() < 0.4 * spread.mean()
    plain = omnifold_throws(data, small, Throws(count=8, seed=3), bins, background=background, **OMNIFOLD)
    forgotten = (plain.spectra - apart.spectra).std(0) / np.sqrt(2)
    assert forgotten.mean() > 2 * noise.mean()
    yields = batched.spectra.sum(1)
    assert abs(np.corrcoef(batched.alphas["background"][:, 0], yields)[0, 1]) > 0.8


def test_shifted_columns_are_trained_one_by_one() -> None:
    """A source that moves events cannot share a batch; the answer comes through the executor's map all the same."""
    small, data = PROBLEM.simulation(1500, seed=2), PROBLEM.data(1500, seed=2)
    throws = Throws(count=3, systematics={"shift": shift}, seed=3)
    thrown = omnifold_throws(data, small, throws, {"t0": [-3.0, 0.0, 3.0]}, members=2, **OMNIFOLD)
    assert thrown.spectra.shape == (3, 2)
    assert thrown.nominal.members.shape == (2, 2)
    alpha = throws.alpha(1, "shift")[0]
    seed = nu.hashing.salt(throws.seed, "method", 1, "") >> 1
    by_hand = nu.omnifold(
        throws.bootstrapped(1, data), throws.bootstrapped(1, shift(small, alpha)), seed=seed, **OMNIFOLD
    )
    np.testing.assert_allclose(thrown.spectra[1], by_hand.spectrum({"t0": [-3.0, 0.0, 3.0]}).values, rtol=1e-9)


@pytest.mark.parametrize(
    ("universes", "message"),
    [
        (np.ones((5, 2)), r"universes: expected factors \(events, bootstrap\) = \(\d+, 2\), found shape \(5, 2\)"),
        (np.full((len(SIMULATION), 2), -1.0), "universes: expected finite factors from 0, found"),
    ],
)
def test_omnifold_refuses_bad_universes(universes: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        nu.omnifold(DATA, SIMULATION, universes=universes, bootstrap=2, seed=1, **OMNIFOLD)


# -- running -----------------------------------------------------------------------------------------------------------


def test_events_as_data_are_bootstrapped_by_their_ids() -> None:
    throws = Throws(count=2, simulation=False, seed=7)
    thrown = unfold_throws(bayes, DATA, SIMULATION, throws, background=BACKGROUND, progress=False)
    again = unfold_throws(bayes, DATA.select(np.arange(len(DATA))[::-1]), SIMULATION, throws, background=BACKGROUND,
                          progress=False)  # fmt: skip
    np.testing.assert_allclose(thrown.spectra, again.spectra, rtol=1e-12)
    assert np.abs(thrown.spectra[0] / thrown.spectra[1] - 1).max() > 1e-3


def test_executor_and_checkpoint_change_nothing(tmp_path: Path) -> None:
    throws = Throws(count=6, systematics={"background": background_norm}, alone=2, seed=8)
    plain = run(throws)
    calls: list[int] = []

    def dying(data: Any, simulation: Events, background: Any, seed: int) -> Spectrum:
        calls.append(1)
        if len(calls) == 5:
            raise KeyboardInterrupt
        return least_squares(data, simulation, background)

    folder = tmp_path / "throws"
    with pytest.raises(KeyboardInterrupt):
        run(throws, dying, checkpoint=folder)
    assert len(list(folder.iterdir())) > 1
    resumed = run(throws, dying, checkpoint=folder)
    assert len(calls) < 5 + 1 + 8
    np.testing.assert_array_equal(resumed.spectra, plain.spectra)
    with nu.processes(2) as executor:
        spread = run(throws, executor=executor)
    np.testing.assert_allclose(spread.spectra, plain.spectra, rtol=1e-12)
    np.testing.assert_allclose(spread.alone["background"], plain.alone["background"], rtol=1e-12)


def test_rank_is_told(tmp_path: Path) -> None:
    few, many = run(Throws(count=4, seed=9)), run(Throws(count=60, seed=9))
    assert few.rank == 3
    assert "4 throws of 5 bins: the covariance has rank 3 and no unbiased inverse; throw at least 50" in few.words
    assert many.rank == 5
    assert "too large by 11.3%" in many.words  # 59 / 53
    many.save(tmp_path / "t.safetensors")
    again = Thrown.load(tmp_path / "t.safetensors")
    np.testing.assert_array_equal(again.spectra, many.spectra)
    np.testing.assert_array_equal(again.nominal.values, many.nominal.values)
    assert repr(again) == repr(many) == f"Thrown(statistics; {many.words})"


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"count": 1}, "expected count to be a whole number of at least 2, found 1"),
        ({"count": 3, "alone": 1}, "expected alone to be 0 or at least 2"),
        ({"count": 3, "data": False, "simulation": False}, "expected something to vary"),
        ({"count": 3, "systematics": {"u": np.ones(5)}}, r"systematic 'u': expected a function, or weights .* \(5,\)"),
        ({"count": 3, "systematics": {"u": np.full((5, 2), np.nan)}}, "found 10 that are not, first in rows"),
        ({"count": 3, "systematics": {"u": np.full((5, 2), -1.0)}}, "expected finite weights from 0, found 10"),
    ],
)
def test_bad_throws_are_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Throws(seed=1, **options)


def negative(events: Events, alpha: float) -> Events:
    return events.with_weight(-events.weight)


def infinite(events: Events, alpha: float) -> Events:
    weight = events.weight.copy()
    weight[3] = np.inf
    return events.with_weight(weight)


@pytest.mark.parametrize(
    ("source", "message"),
    [
        (negative, "systematic 'bad': expected finite weights of the same sign, found 6.* first -1 at row 0"),
        (infinite, "expected .*finite"),
        (lambda e, a: e.select(slice(0, 10)), "expected the same events, shifted, found 10 of 6"),
        (lambda e, a: None, "expected the same events, shifted, found NoneType"),
        (np.ones((5, 2)), "expected weights .events, universes. of 6.* events, found 5"),
    ],
)
def test_bad_systematics_are_refused(source: Any, message: str) -> None:
    with pytest.raises((ValueError, nu.tasks.TaskError), match=message) as caught:
        run(Throws(count=2, systematics={"bad": source}, seed=1))
    assert "bad" in str(caught.value) or "finite" in str(caught.value)


def test_too_few_throws_for_the_knobs_are_refused() -> None:
    thrown = run(Throws(count=4, systematics={"two": Two()}, seed=1, **QUIET))
    with pytest.raises(ValueError, match="expected more throws than knobs \\+ 2 = 4, found 4"):
        _ = thrown.sources


def test_throws_that_know_the_sources_too_badly_are_refused() -> None:
    """Less noise than there is would be taken from the sources, and variances would be negative."""
    rng = np.random.default_rng(2)
    nominal = Spectrum(Binning("t", np.arange(9.0)), np.ones(8), {"data": np.eye(8)})
    negative = 0
    for count in (13, 40):
        for _ in range(20):
            alpha = rng.standard_normal((count, 9))
            thrown = Thrown(nominal, rng.standard_normal((count, 8)), {"nine": alpha}, {})
            away = alpha - alpha.mean(0)
            if np.trace(np.linalg.inv(away.T @ away)) < 1:
                negative += (np.linalg.eigvalsh(thrown.covariance) < -1e-9).any()
            else:
                assert count == 13
                with pytest.raises(ValueError, match="throws of 9 knobs know the sources too badly"):
                    _ = thrown.covariance
    assert not negative
