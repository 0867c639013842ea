"""The last layer fitted anew: the minimum it says, nominal weights, and replicas beside trained ones."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from scipy import optimize, special

import nuinfer as nu
from nuinfer import ensemble, last_layer, losses
from nuinfer.ensemble import Ensemble, Fitted
from nuinfer.features import Features, Inputs
from nuinfer.last_layer import LastLayer
from nuinfer.resample import Resample

Floats = NDArray[np.float64]

N = 4000


def sample(seed: int, dim: int = 1) -> tuple[Floats, Floats, Floats]:
    """x of N(+0.5, 1) and N(-0.5, 1), and weights of both classes (rows,)."""
    rng = np.random.default_rng(seed)
    up = np.arange(N) % 2 == 0
    x = rng.normal(0, 1, (N, dim)) + np.where(up, 0.5, -0.5)[:, None]
    return x, up.astype(float), (~up).astype(float)


def trained(
    x: Floats,
    one: Floats,
    zero: Floats,
    resample: Resample,
    network: Any = None,
    loss: losses.Loss = losses.bce,
    epochs: int = 12,
) -> tuple[Fitted, Inputs]:
    events = nu.Events({f"x{i}": x[:, i] for i in range(x.shape[1])})
    features = Features([*events.columns])
    inputs = features.tensors(events)
    fitted = ensemble.fit(
        inputs, (one, zero), np.arange(len(x)), resample, shape=features.shape,
        network=network or nu.MLP(width=24, depth=2), loss=loss,
        training=nu.Training(epochs=epochs, batch=512, learning_rate=5e-3), progress=False,
    )  # fmt: skip
    return fitted, inputs


def model(fitted: Fitted) -> Ensemble:
    assert isinstance(fitted.model, Ensemble)
    return fitted.model


def hidden(net: Ensemble, x: Floats) -> tuple[Floats, Floats]:
    """Outputs (n,) and phi (n, H + 1) of the first network, layer by layer in float64."""
    layers = [t[0].double().numpy() for t in net.state.values()]
    scale = net.standardise.flat
    h = (x - scale.mean.double().numpy()) / scale.scale.double().numpy()
    for weight, bias in zip(layers[:-2:2], layers[1:-2:2], strict=True):
        z = h @ weight.T + bias
        h = z * special.expit(z)
    return (h @ layers[-2].T + layers[-1])[:, 0], np.concatenate([h, np.ones((len(h), 1))], 1)


@pytest.mark.parametrize("loss", [losses.bce, losses.mlc, losses.sqrt])
def test_derivatives_of_the_losses(loss: losses.Loss) -> None:
    rng = np.random.default_rng(1)
    f, w1, w0 = rng.normal(0, 2, 50), rng.normal(1, 1, 50), rng.normal(1, 1, 50)
    slopes = losses.derivatives(loss)
    value, first, second = slopes(f, w1, w0)
    torch_value = loss(*(torch.from_numpy(f), (torch.from_numpy(w1), torch.from_numpy(w0)))).numpy()
    np.testing.assert_allclose(value, torch_value, rtol=1e-12, atol=1e-13)
    up, down = slopes(f + 1e-5, w1, w0), slopes(f - 1e-5, w1, w0)
    np.testing.assert_allclose(first, (up[0] - down[0]) / 2e-5, rtol=1e-6, atol=1e-8)
    np.testing.assert_allclose(second, (up[1] - down[1]) / 2e-5, rtol=1e-6, atol=1e-8)


def test_derivatives_of_another_loss() -> None:
    with pytest.raises(ValueError, match="one of bce, mlc, sqrt, found nll"):
        losses.derivatives(losses.nll)


@pytest.mark.parametrize("loss", [losses.bce, losses.mlc, losses.sqrt])
def test_nominal_weights_give_the_nominal_network(loss: losses.Loss) -> None:
    x, one, zero = sample(1)
    fitted, inputs = trained(x, one, zero, Resample(seed=1, members=2, validation=0.0), loss=loss)
    layer = LastLayer.of(model(fitted), inputs, (one, zero), loss, members=2)
    heads = layer.refit(inputs, (np.stack([one] * 3), np.stack([zero] * 3)), [1, 0, 1])
    np.testing.assert_allclose(heads.log(inputs), fitted.log(inputs)[[1, 0, 1]], atol=1e-5)  # of float32
    times = np.random.default_rng(2).poisson(1, (3, N))
    moved = layer.refit(inputs, (one * times, zero * times), [1, 0, 1]).log(inputs)
    assert np.all(np.std(moved - fitted.log(inputs)[[1, 0, 1]], axis=1) > 0.01)


@pytest.mark.parametrize("signed", [False, True])
def test_the_minimum_is_that_of_the_penalised_risk(signed: bool) -> None:
    x, one, zero = sample(3)
    if signed:
        sign = np.where(np.random.default_rng(1).random(N) < 0.2, -1.0, 1.0)
        one, zero = one * sign, zero * sign
    fitted, inputs = trained(x, one, zero, Resample(seed=1, members=1, validation=0.0))
    net = model(fitted)
    times = np.random.default_rng(4).poisson(1, N)
    found = LastLayer.of(net, inputs, (one, zero), losses.bce, members=1).refit(
        inputs, (one * times, zero * times), [0]
    )
    f, phi = hidden(net, x)

    def gradient(delta: Floats, w1: Floats, w0: Floats) -> Floats:
        s = special.expit(f + phi @ delta)
        return np.asarray(phi.T @ (w0 / w0.sum() * s - w1 / w1.sum() * (1 - s)) / 2)

    s = special.expit(f)
    size = (np.abs(one) / one.sum() + np.abs(zero) / zero.sum()) * s * (1 - s) / 2
    values, vectors = np.linalg.eigh((phi * size[:, None]).T @ phi)
    ridge, left = 1e-2 * values.mean(), gradient(np.zeros(phi.shape[1]), one, zero)
    kept = vectors[:, values > 1e-2 * ridge]

    def slope(c: Floats) -> Floats:
        return np.asarray(kept.T @ (gradient(kept @ c, one * times, zero * times) - left) + ridge * c)

    exact = optimize.root(slope, np.zeros(kept.shape[1]), tol=1e-12)
    assert exact.success
    np.testing.assert_allclose(found.log(inputs)[0], f + phi @ kept @ exact.x, atol=2e-5)
    assert np.abs(phi @ kept @ exact.x).max() > 0.02


@pytest.mark.parametrize("dim", [1, 3])
def test_replicas_follow_those_that_are_trained(dim: int) -> None:
    """Of ln r over the sample: the same bootstrap moves a trained replica and a refitted one alike."""
    x, one, zero = sample(5, dim)
    resample = Resample.with_replicas(seed=1, members=1, replicas=12, validation=0.0)
    fitted, inputs = trained(x, one, zero, resample, epochs=60)
    nominal, _ = trained(x, one, zero, Resample(seed=1, members=1, validation=0.0), epochs=60)
    times = resample.counts(np.arange(N))[1:]
    layer = LastLayer.of(model(nominal), inputs, (one, zero), losses.bce, members=1)
    heads = layer.refit(inputs, (one * times, zero * times), np.zeros(12, int))
    # what a spectrum is made of: means over groups of events
    groups = np.digitize(x[:, 0], [-1, 0, 1])
    means = [
        np.array([[log[groups == g].mean() for g in range(4)] for log in found])
        for found in (fitted.log(inputs)[1:], heads.log(inputs))
    ]
    others = layer.refit(inputs, (one * np.roll(times, 1, 0), zero * np.roll(times, 1, 0)), np.zeros(12, int)).log(
        inputs
    )
    means.append(np.array([[log[groups == g].mean() for g in range(4)] for log in others]))
    expected, got, wrong = ((m - m.mean(0)) / means[0].std(0) for m in means)
    size = np.sqrt((expected**2).sum() * (got**2).sum())
    # 48 numbers; trained replicas have the noise of training besides (measured: 0.98 and 0.95)
    assert (expected * got).sum() / size > 0.85
    assert abs((expected * wrong).sum()) / size < 0.5  # of other bootstraps
    assert got.std() / expected.std() == pytest.approx(1, abs=0.15)  # measured 1.06 and 0.98


def test_pilots_say_how_far_training_goes(caplog: pytest.LogCaptureFixture) -> None:
    """A short training moves little, and has a large penalty; without pilots nothing is known."""
    caplog.set_level("INFO", logger="nuinfer")
    x, one, zero = sample(6)
    resample = Resample.with_replicas(seed=1, members=2, replicas=2, validation=0.0)
    times = resample.counts(np.arange(N))
    layers, heads = [], []
    for epochs in (2, 60):
        fitted, inputs = trained(x, one, zero, resample, epochs=epochs)
        layers.append(LastLayer.of(model(fitted), inputs, (one * times, zero * times), losses.bce, members=2))
        heads.append(
            layers[-1].refit(inputs, (one * times, zero * times), [0, 1, 0, 1]).log(inputs) - fitted.log(inputs)
        )
    short, long = layers
    assert short.ridge > 3 * long.ridge
    assert long.explained > 0.6
    for layer in layers:
        assert layer.model.networks == 2
        assert 0 <= layer.explained < 1
    for off in heads:  # members are left as they are
        np.testing.assert_allclose(off[:2], 0, atol=1e-5)
    alone = LastLayer.of(layers[1].model, inputs, (one, zero), losses.bce, members=2)
    assert alone.ridge == 1e-2
    assert np.isnan(alone.explained)
    # two epochs are mostly noise, which is said
    assert short.explained < 0.25
    (record,) = [r for r in caplog.records if "last layers" in r.getMessage()]
    assert "noise of training, which members show, or is lost" in record.getMessage()


def test_sets() -> None:
    rng = np.random.default_rng(1)
    size = rng.integers(0, 6, N)
    offsets = np.concatenate([[0], np.cumsum(size)])
    one = (np.arange(N) % 2 == 0).astype(float)
    values = rng.normal(0, 1, offsets[-1]) + np.repeat(0.3 * one, size)
    events = nu.Events({"hits.x": nu.Ragged(values, offsets), "n": size.astype(float)})
    features = Features(["n"], hits=["x"])
    inputs = features.tensors(events)
    network = nu.DeepSet(width=16, depth=1, latent=8, head=nu.MLP(width=16, depth=1))
    fitted = ensemble.fit(
        inputs, (one, 1 - one), np.arange(N), Resample(seed=1, members=1, validation=0.0), shape=features.shape,
        network=network, loss=losses.bce, training=nu.Training(epochs=4, batch=256), progress=False,
    )  # fmt: skip
    layer = LastLayer.of(model(fitted), inputs, (one, 1 - one), losses.bce, members=1)
    times = rng.poisson(1, N)
    heads = layer.refit(inputs, (np.stack([one, one * times]), np.stack([1 - one, (1 - one) * times])), [0, 0])
    nominal = fitted.log(inputs)[0]
    np.testing.assert_allclose(heads.log(inputs)[0], nominal, atol=1e-5)
    assert np.std(heads.log(inputs)[1] - nominal) > 0.01


def test_networks_without_a_known_last_layer() -> None:
    x, one, zero = sample(1)
    fitted, inputs = trained(x, one, zero, Resample(seed=1, members=1, validation=0.0), lambda: torch.nn.Linear(1, 1))
    with pytest.raises(TypeError, match="expected networks MLP or DeepSet"):
        LastLayer.of(model(fitted), inputs, (one, zero), losses.bce, members=1)


def test_replicas_that_do_not_converge(monkeypatch: pytest.MonkeyPatch) -> None:
    x, one, zero = sample(1)
    fitted, inputs = trained(x, one, zero, Resample(seed=1, members=1, validation=0.0))
    layer = LastLayer.of(model(fitted), inputs, (one, zero), losses.bce, members=1)
    monkeypatch.setattr(last_layer, "_PASSES", 1)
    with pytest.raises(nu.NotConverged, match="1 of 2 replicas did not converge in 1 passes"):
        layer.refit(inputs, (np.stack([one, one * (x[:, 0] > 1)]), np.stack([zero, zero])), [0, 0])
