"""`nuinfer.likelihood.ParametrisedCost` against the same likelihood written out, and with a learned ratio."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import pytest
import torch
from torch import Tensor

import nuinfer as nu
from nuinfer.features import Batch, Features
from nuinfer.intervals import fit, impacts
from nuinfer.likelihood import NegativeDensity, Normal, ParametrisedCost, asimov, sample


class Exact:
    """log N(m, s) / N(0, 1), off by a factor of its norm."""

    names = ("m", "s")
    features = Features(["x"])

    def __init__(self, factor: float = 1.0) -> None:
        self.factor = factor

    def tensor(self, batch: Batch, theta: Tensor) -> Tensor:
        x = batch.flat[0, :, 0].double()
        log_r = -0.5 * ((x - theta[0]) / theta[1]) ** 2 - torch.log(theta[1]) + 0.5 * x**2
        return log_r + np.log(self.factor) * theta[0]


def rate(theta: Tensor) -> Tensor:
    return 500 * torch.exp(theta[0] / 3)


def drawn(n: int, seed: int = 1) -> tuple[nu.Events, nu.Events]:
    rng = np.random.default_rng(seed)
    return nu.Events({"x": rng.normal(0.3, 0.9, n)}), nu.Events({"x": rng.normal(0, 1, 20 * n)})


LIMITS = {"s": (0.2, 1.2)}


def by_hand(data: nu.Events, m: float, s: float) -> float:
    x, w = data["x"].astype(np.float32).astype(float), data.weight
    nu_ = 500 * np.exp(m / 3)
    log_r = -0.5 * ((x - m) / s) ** 2 - np.log(s) + 0.5 * x**2
    return float(2 * nu_ - 2 * np.sum(w * (np.log(nu_) + log_r)))


def test_value_and_gradient_are_the_likelihood_written_out(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("nuinfer.likelihood.parametrised._ROWS", 100)  # several blocks
    data, reference = drawn(350)
    data = data.with_weight(np.linspace(0.5, 1.5, 350))
    cost = ParametrisedCost(Exact(), data, rate=rate, limits=LIMITS)
    for m, s in ((0.3, 0.9), (-0.4, 1.1)):
        assert cost(m, s) == pytest.approx(by_hand(data, m, s), rel=1e-12)
        numeric = [(cost(m + 1e-5, s) - cost(m - 1e-5, s)) / 2e-5, (cost(m, s + 1e-5) - cost(m, s - 1e-5)) / 2e-5]
        np.testing.assert_allclose(cost.grad(m, s), numeric, rtol=1e-6, atol=1e-5)
    shapes = ParametrisedCost(Exact(), data)
    assert shapes(0.3, 0.9) != pytest.approx(cost(0.3, 0.9), abs=1)
    # a ratio whose norm depends on theta is mended by the reference, up to the norm of the exact one there
    one, two = (ParametrisedCost(Exact(f), data, rate=rate, reference=reference) for f in (1.0, 1.3))
    assert two(0.3, 0.9) == pytest.approx(one(0.3, 0.9), abs=1e-8)
    np.testing.assert_allclose(two.grad(0.3, 0.9), one.grad(0.3, 0.9), atol=1e-7)
    bare = ParametrisedCost(Exact(1.3), data, rate=rate)
    assert abs(bare.grad(0.3, 0.9)[0] - cost.grad(0.3, 0.9)[0]) > 100


def test_asimov_data_give_back_the_parameters_and_toys_are_drawn() -> None:
    data, reference = drawn(300)

    def generate(values: Mapping[str, float], rng: np.random.Generator) -> nu.Events:
        n = rng.poisson(500 * np.exp(values["m"] / 3))
        return nu.Events({"x": rng.normal(values["m"], values["s"], n)})

    cost = ParametrisedCost(Exact(1.1), data, rate=rate, reference=reference, limits=LIMITS, generate=generate)
    truth = {"m": 0.4, "s": 0.8}
    expected = asimov(cost + Normal("s", 0.9, 0.05), truth)
    found = fit(expected, {"m": 0.0, "s": 1.0})
    assert found.values["m"] == pytest.approx(0.4, abs=1e-4)
    assert found.values["s"] == pytest.approx(0.8, abs=1e-4)
    width = found.errors["m"]
    assert width == pytest.approx((500 * np.exp(0.4 / 3) * (1 / 0.64 + 1 / 9)) ** -0.5, rel=0.05)
    rng = np.random.default_rng(2)
    toys = [fit(sample(cost, truth, rng), truth).values["m"] for _ in range(12)]
    assert abs(np.mean(toys) - 0.4) < 4 * width / np.sqrt(12)
    with pytest.raises(TypeError, match="expected a likelihood with reference="):
        ParametrisedCost(Exact(), data).asimov(truth)
    with pytest.raises(TypeError, match="expected a likelihood with generate="):
        ParametrisedCost(Exact(), data).sample(truth, rng)


def test_a_learned_ratio_measures_what_the_exact_one_does() -> None:
    """theta of 1,000 events, N(theta, 1), by a ratio learned from simulations at many theta."""
    rng = np.random.default_rng(3)
    theta = rng.uniform(-1, 1, 20_000)
    simulations = nu.Events({"x": rng.normal(theta, 1), "m": theta})
    reference = nu.Events({"x": rng.normal(0, 1, 20_000)})
    ratio = nu.ratio.fit_parametrised_ratio(
        simulations, ["m"], ["x"], reference=reference, members=3, seed=1, progress=False,
        network=nu.MLP(width=24, depth=2), training=nu.Training(epochs=12, batch=512),
    )  # fmt: skip
    held = nu.Events({"x": rng.normal(0, 1, 10_000)})
    data = nu.Events({"x": rng.normal(0.3, 1, 1000)})
    cost = ParametrisedCost(ratio, data, reference=held, limits={"m": (-1, 1)})
    found, exact, error = fit(cost, {"m": 0.0}), float(data["x"].mean()), 1 / np.sqrt(1000)
    assert abs(found.values["m"] - exact) < 1.5 * error
    assert found.errors["m"] == pytest.approx(error, rel=0.2)
    # a nuisance beside it works as anywhere
    assert impacts(cost + Normal("other"), "m", start={"m": 0.0}).parameters == ("other",)


def test_bad_input() -> None:
    data, _ = drawn(50)
    with pytest.raises(KeyError, match="no parameter 'mu'"):
        ParametrisedCost(Exact(), data, limits={"mu": (0, 1)})
    with pytest.raises(KeyError, match="no column 'x'"):
        ParametrisedCost(Exact(), nu.Events({"y": np.zeros(3)}))
    with pytest.raises(NegativeDensity, match=r"the rate is not positive, -1, at m = 0\.3, s = 0\.9"):
        ParametrisedCost(Exact(), data, rate=lambda theta: theta[0] * 0 - 1)(0.3, 0.9)
    with pytest.raises(ValueError, match="log ratio: expected finite values"):
        ParametrisedCost(Exact(), data)(0.3, -0.9)
