"""Toys from held-out simulation against the exact generator that it stands for."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import cloudpickle
import numpy as np
import pytest
from numpy.typing import NDArray
from scipy import stats

import nuinfer as nu
from nuinfer.likelihood import HeldOut, Mixture, Process

Floats = NDArray[np.float64]


def simulated(n: int = 20_000, seed: int = 1) -> nu.Events:
    """x uniform from 0 to 1, which weights turn into 1 + a (x - 1/2)."""
    return nu.Events({"x": np.random.default_rng(seed).random(n)})


def tilted(events: nu.Events, at: Mapping[str, float]) -> Floats:
    """100 events of density 1 + a (x - 1/2)."""
    return np.asarray(100 * (1 + at["a"] * (events["x"] - 0.5)) / len(events))


def test_number_and_density_are_those_of_the_weights() -> None:
    """N is Poisson of the weights' sum; x follows the weighted density (Kolmogorov-Smirnov above 1e-4)."""
    sample = simulated()
    toys = HeldOut(sample, tilted)
    rng = np.random.default_rng(2)
    drawn = [toys({"a": 1.5}, rng) for _ in range(200)]
    mean = float(tilted(sample, {"a": 1.5}).sum())
    assert toys.expected({"a": 1.5}) == {"events": pytest.approx(mean)}
    count = np.array([len(d) for d in drawn])
    assert abs(count.mean() - mean) < 4 * math.sqrt(mean / 200)
    assert abs(count.var(ddof=1) / mean - 1) < 4 * math.sqrt(2 / 199)
    x = np.concatenate([d["x"] for d in drawn])[:5000]
    assert stats.kstest(x, lambda v: v + 0.75 * v * (v - 1)).pvalue > 1e-4
    assert stats.kstest(x, "uniform").pvalue < 1e-4  # weights were needed
    assert (drawn[0].weight == 1).all()
    assert np.isin(drawn[0].id, sample.id).all()


def test_each_event_occurs_a_poisson_number_of_times() -> None:
    """Weights of 0, 1/2 and 3: counts of their events have these means and variances, within 4 sigma."""
    events = nu.Events({"x": [0.0, 1.0, 2.0]})
    toys = HeldOut(events, lambda e, at: np.array([0.0, 0.5, 3.0]))
    rng = np.random.default_rng(3)
    times = np.array([np.bincount(toys({}, rng)["x"].astype(int), minlength=3) for _ in range(3000)])
    assert times[:, 0].max() == 0
    for column, mean in ((1, 0.5), (2, 3.0)):
        assert abs(times[:, column].mean() - mean) < 4 * math.sqrt(mean / 3000)
        assert abs(times[:, column].var() - mean) < 4 * math.sqrt((2 * mean**2 + mean) / 3000)
    assert abs(np.corrcoef(times[:, 1], times[:, 2])[0, 1]) < 4 / math.sqrt(3000)


def test_reuse_is_the_exact_expectation(caplog: pytest.LogCaptureFixture) -> None:
    """Duplicates: sum of w - 1 + exp(-w), against 2000 toys; the warning comes once, and only where it matters."""
    weight = np.array([0.1] * 20 + [1.0] * 5)
    toys = HeldOut(nu.Events({"x": np.arange(25.0)}), lambda e, at: weight)
    reuse = toys.reuse({})
    rng = np.random.default_rng(4)
    found = [len(d) - len(np.unique(d["x"])) for d in (toys({}, rng) for _ in range(2000))]
    assert reuse.duplicates == pytest.approx(20 * (0.1 - 1 + math.exp(-0.1)) + 5 * math.exp(-1))
    assert abs(np.mean(found) - reuse.duplicates) < 4 * np.std(found) / math.sqrt(2000)
    assert (reuse.expected, reuse.available) == (pytest.approx(7.0), 25)
    assert reuse.effective_size == pytest.approx(49 / (20 * 0.01 + 5))
    assert caplog.text.count("held-out simulation: 7 events expected from 25") == 1
    caplog.clear()
    HeldOut(simulated(), tilted)({"a": 0.0}, rng)
    assert caplog.text == ""


def test_toys_share_the_shift_that_is_reported() -> None:
    """Over held-out samples of 1,000 the mean of many toys' means spreads by sqrt(N / n_eff) of one toy's error."""
    shifts = []
    for seed in range(60):
        toys = HeldOut(simulated(1000, 100 + seed), tilted)
        rng = np.random.default_rng(seed)
        shifts.append(np.mean([toys({"a": 0.0}, rng)["x"].mean() for _ in range(60)]) - 0.5)
    one = math.sqrt(1 / 12 / 100)
    predicted = one * toys.reuse({"a": 0.0}).shared
    assert predicted == pytest.approx(one * math.sqrt(0.1))
    # 60 toys of each add their own mean's error
    expected = math.hypot(predicted, one / math.sqrt(60))
    assert abs(np.std(shifts, ddof=1) / expected - 1) < 4 / math.sqrt(2 * 59)
    assert expected > 2 * one / math.sqrt(60)


def test_samples_by_name_and_a_mixture() -> None:
    """A mixture's pseudo-experiments: expected numbers by sample, columns of the data, the same through a pickle."""
    rng = np.random.default_rng(5)
    parts = {"S": nu.Events({"x": rng.normal(1, 0.3, 4000)}), "B": nu.Events({"x": rng.uniform(-3, 3, 4000)})}
    toys = HeldOut(parts, {"S": lambda e, at: np.full(len(e), 20 * at["mu"] / len(e)),
                           "B": lambda e, at: np.full(len(e), 50 / len(e))})  # fmt: skip
    assert toys.expected({"mu": 2.0}) == {"S": pytest.approx(40), "B": pytest.approx(50)}
    assert toys.expected({"mu": 0.0})["S"] == 0
    assert len(toys({"mu": 0.0}, rng)) > 0
    reference = nu.Events({"x": rng.uniform(-3, 3, 1000)})
    log_s = lambda e: stats.norm(1, 0.3).logpdf(e["x"]) + math.log(6)  # noqa: E731
    model = Mixture({"S": Process(yields=20, ratio=log_s, coefficient="mu"), "B": Process(yields=50)}, reference)
    cost = model(reference.select(slice(0, 10)), generate=toys)
    one = cost.sample({"mu": 1.0}, np.random.default_rng(6))
    again = cloudpickle.loads(cloudpickle.dumps(cost)).sample({"mu": 1.0}, np.random.default_rng(6))
    assert one(1.0) == again(1.0)
    assert one(1.0) != cost.sample({"mu": 1.0}, np.random.default_rng(7))(1.0)
    assert repr(toys) == "HeldOut(S 4000, B 4000 events)"


def test_the_same_parameters_are_weighted_once() -> None:
    calls = []

    def weight(events: nu.Events, at: Mapping[str, float]) -> Floats:
        calls.append(at["a"])
        return tilted(events, at)

    toys, rng = HeldOut(simulated(500), weight), np.random.default_rng(1)
    toys({"a": 0.0}, rng)
    first = len(calls)
    for _ in range(5):
        toys({"a": 0.0}, rng)
    assert len(calls) == first
    toys({"a": 0.5}, rng)
    assert len(calls) == first + 1


def test_negative_weights_are_refused_or_refined() -> None:
    """Refined, the density is that of the signed weights: its mean within 4 sigma and the network's error."""
    rng = np.random.default_rng(7)
    x = rng.uniform(-2, 2, 6000)
    # P(negative) rises with x: the net density is that of x times 1 - 2 p(x), p = 0.3 / (1 + e^(-2x))
    p = 0.3 / (1 + np.exp(-2 * x))
    signed = nu.Events({"x": x}, weight=np.where(rng.random(6000) < p, -1.0, 1.0))
    share = lambda events, at: 50 * events.weight / 6000  # noqa: E731
    with pytest.raises(ValueError, match=r"expected weights from 0, found \d+ of 6000 negative.*nuinfer.ratio.refine"):
        HeldOut(signed, share)({}, rng)
    toys = HeldOut(signed, share, refine=["x"], network=nu.MLP(width=16, depth=2),
                   training=nu.Training(epochs=6, batch=256), seed=1)  # fmt: skip
    drawn = np.concatenate([toys({}, rng)["x"] for _ in range(150)])
    dense = np.linspace(-2, 2, 4001)
    net = 1 - 0.6 / (1 + np.exp(-2 * dense))
    mean = np.trapezoid(dense * net, dense) / np.trapezoid(net, dense)
    assert toys.expected({})["events"] == pytest.approx(50 * signed.weight.mean())
    assert abs(drawn.mean() - mean) < 4 * math.sqrt(1.33 / len(drawn) + 1.33 / 3000) + 0.02
    assert abs(x.mean() - mean) > 0.1  # dropping the signs would be seen


@pytest.mark.parametrize(
    ("samples", "weight", "kind", "words"),
    [
        ({}, lambda e, at: 0, ValueError, "at least one sample"),
        ({"S": nu.Events({"x": np.empty(0)})}, lambda e, at: 0, ValueError, "'S': expected events, found none"),
        ({"S": 3}, lambda e, at: 0, TypeError, "'S': expected Events, found int"),
        ({"S": simulated(5)}, {"s": tilted}, KeyError, "weight: no sample 's'; known: 'S'"),
        ({"S": simulated(5), "B": simulated(5)}, {"S": tilted}, KeyError, "'B': expected a weight for it"),
        (simulated(5), 1.0, TypeError, r"expected a function weight\(events, values\), found float"),
    ],
)
def test_bad_samples_are_refused(samples: Any, weight: Any, kind: type[Exception], words: str) -> None:
    with pytest.raises(kind, match=words):
        HeldOut(samples, weight)


def test_bad_weights_are_refused() -> None:
    rng = np.random.default_rng(1)
    with pytest.raises(ValueError, match=r"expected a weight per event, \(5,\), found \(\)"):
        HeldOut(simulated(5), lambda e, at: 1.0)({}, rng)
    with pytest.raises(ValueError, match="expected finite values"):
        HeldOut(simulated(5), lambda e, at: np.full(5, np.nan))({}, rng)
