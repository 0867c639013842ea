"""OmniFold whose replicas fit last layers: beside replicas that are trained, in one batch and throw by throw."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

import nuinfer as nu
from nuinfer.simulators import GaussianUnfolding
from nuinfer.unfolding import Throws, omnifold_throws

Floats = NDArray[np.float64]

PROBLEM = GaussianUnfolding.with_detector()
BINS = {"t0": np.array([-1.5, -0.5, 0.0, 0.5, 1.5])}
OPTIONS: dict[str, Any] = {
    "reco": ["x0"], "truth": ["t0"], "iterations": 2, "network": nu.MLP(width=24, depth=2), "progress": False,
    "training": nu.Training(epochs=24, batch=512, learning_rate=5e-3),
}  # fmt: skip


def samples(n: int = 3000, seed: int = 1) -> tuple[nu.Events, nu.Events, nu.Events]:
    return PROBLEM.data(n, seed), PROBLEM.simulation(n, seed), PROBLEM.background(n, seed)


def unfolded(refit: str, **options: Any) -> nu.Unfolded:
    data, simulation, background = samples()
    chosen: dict[str, Any] = OPTIONS | {"background": background, "refit": refit, "seed": 2} | options
    return nu.omnifold(data, simulation, **chosen)


def moved(spectra: Floats) -> Floats:
    return np.asarray(spectra - spectra.mean(0))


def correlation(one: Floats, other: Floats) -> float:
    unit = one.std(0)
    a, b = moved(one) / unit, moved(other) / unit
    return float((a * b).sum() / np.sqrt((a**2).sum() * (b**2).sum()))


@pytest.mark.parametrize("options", [{}, {"fakes": "scale", "misses": "prior"}])
def test_replicas_follow_those_that_are_trained(options: dict[str, Any]) -> None:
    """The same bootstrap of data and simulation moves both alike; another one does not."""
    trained = unfolded("network", bootstrap=10, **options).spectrum(BINS)
    refitted = unfolded("last layer", bootstrap=10, **options).spectrum(BINS)
    assert correlation(trained.replicas, refitted.replicas) > 0.85
    assert abs(correlation(trained.replicas, np.roll(refitted.replicas, 1, 0))) < 0.5
    assert moved(refitted.replicas).std() / moved(trained.replicas).std() == pytest.approx(1, abs=0.2)


def test_members_are_those_without_replicas() -> None:
    alone, both = unfolded("network", members=2), unfolded("last layer", members=2, bootstrap=3)
    np.testing.assert_allclose(both.weights, alone.weights, rtol=1e-5)  # of float32, in another batch
    assert both.replicas.shape == (3, both.weights.shape[1])
    # a replica does not depend on how many there are
    np.testing.assert_allclose(unfolded("last layer", members=2, bootstrap=2).replicas, both.replicas[:2], rtol=1e-9)


SHORT = {"training": nu.Training(epochs=2, batch=512, learning_rate=5e-3)}  # members differ by more than statistics


def by_member(spectra: Floats, members: int = 2) -> Floats:
    """How far the means of the replicas of two members are from each other, in their standard deviations (B,)."""
    one, other = (spectra[k::members] for k in range(members))
    return np.asarray((one.mean(0) - other.mean(0)) / np.sqrt(one.var(0) / len(one) + other.var(0) / len(other)))


def test_differences_of_members_are_not_in_the_spread_of_replicas() -> None:
    """They are the method's covariance: replicas of either member move about the mean of both."""
    found = unfolded("last layer", members=2, bootstrap=100, **SHORT)
    spectrum = found.spectrum(BINS)
    off = (spectrum.members[0] - spectrum.members[1]) / spectrum.replicas.std(0)
    assert np.abs(off).max() > 0.5
    assert np.abs(by_member(spectrum.replicas)).max() < 3.5
    # as replicas of members one by one they would differ
    raw = np.where((np.arange(100) % 2 == 0)[:, None], spectrum.members[0], spectrum.members[1]) - spectrum.values
    assert np.abs(by_member(spectrum.replicas + raw)).max() > 3.5


def test_throws_of_nothing_are_the_nominal_spectrum() -> None:
    """Whichever member's last layers they fit."""
    data, simulation, background = samples()
    throws = Throws(count=6, systematics={"none": lambda events, alpha: events}, data=False, simulation=False, seed=3)
    found = omnifold_throws(data, simulation, throws, BINS, background=background, refit="last layer", members=2,
                            **OPTIONS | SHORT)  # fmt: skip
    assert np.abs(found.nominal.members[0] / found.nominal.members[1] - 1).max() > 0.01
    np.testing.assert_allclose(found.spectra, np.tile(found.nominal.values, (6, 1)), rtol=1e-4)


def test_a_checkpoint_goes_on(tmp_path: Path) -> None:
    first = unfolded("last layer", bootstrap=2, checkpoint=tmp_path)
    again = unfolded("last layer", bootstrap=2, checkpoint=tmp_path)
    np.testing.assert_array_equal(first.weights, again.weights)
    np.testing.assert_array_equal(first.replicas, again.replicas)


def rise(events: nu.Events, alpha: float) -> nu.Events:
    factor = np.exp(0.3 * alpha * np.tanh(np.nan_to_num(events["t0"]))) if "t0" in events else 1.0
    return events.with_weight(events.weight * factor)


def shift(events: nu.Events, alpha: float) -> nu.Events:
    """Of the energies: columns change, so that each throw is fitted by itself."""
    return events.with_columns({"x0": events["x0"] + 0.05 * alpha})


@pytest.mark.parametrize("source", [rise, shift])
def test_throws_follow_those_that_are_trained(source: Any) -> None:
    data, simulation, background = samples(2000)
    throws = Throws(count=6, systematics={"source": source}, seed=3)
    found = {
        refit: omnifold_throws(data, simulation, throws, BINS, background=background, refit=refit, **OPTIONS)
        for refit in ("network", "last layer")
    }
    trained, refitted = found["network"], found["last layer"]
    np.testing.assert_allclose(refitted.nominal.values, trained.nominal.values, rtol=1e-6)
    np.testing.assert_array_equal(refitted.alphas["source"], trained.alphas["source"])
    assert correlation(trained.spectra, refitted.spectra) > 0.85
    assert abs(correlation(trained.spectra, np.roll(refitted.spectra, 1, 0))) < 0.6


def test_bad_choices() -> None:
    with pytest.raises(ValueError, match="refit: expected 'network' or 'last layer', found 'head'"):
        unfolded("head", bootstrap=2)
    with pytest.raises(TypeError, match="expected an MLP or a DeepSet, found Trees"):
        unfolded("last layer", bootstrap=2, network=nu.Trees())
    data, simulation, background = samples(300)
    with pytest.raises(TypeError, match="expected an MLP or a DeepSet"):
        omnifold_throws(data, simulation, Throws(count=2, seed=1), BINS, background=background, refit="last layer",
                        **OPTIONS | {"network": nu.Trees()})  # fmt: skip


def test_events_without_nominal_weight_come_in() -> None:
    """A source that weighs events whose weight is 0 in the nominal simulation is not a factor of their weights."""
    data, simulation, background = samples(1500)
    low = np.nan_to_num(simulation["t0"], nan=1.0) < -0.5
    hidden = simulation.with_weight(np.where(low, 0.0, simulation.weight))
    throws = Throws(count=4, systematics={"back": lambda e, a: e.with_weight(np.where(
        e["t0"] < -0.5, 1.0, e.weight)) if "t0" in e else e}, seed=3)  # fmt: skip
    found = omnifold_throws(data, hidden, throws, BINS, background=background, refit="last layer", **OPTIONS)
    assert found.nominal.values[0] == 0
    assert (found.spectra[:, 0] > 50).all()
