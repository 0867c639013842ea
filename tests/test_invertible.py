"""`nuinfer.invertible`: bijections and discrepancies against brute force, draws against exact posteriors."""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from nuinfer import Events, Training
from nuinfer.invertible import Coupling, Discrepancy, Invertible, Likelihood, fit_invertible
from nuinfer.invertible.coupling import CouplingStack, Sizes
from nuinfer.invertible.fitting import _Noise
from nuinfer.invertible.losses import Loss, _DiscrepancyLoss, discrepancy
from nuinfer.simulators import InverseKinematics, LinearGaussian

Floats = NDArray[np.float64]

PROBLEM = LinearGaussian([[1.0]], noise=0.25)  # theta ~ N(0, 1), x = theta + N(0, 0.25): the posterior is N(0.8 x, 0.2)
SMALL = Coupling(blocks=3, width=24, depth=1)
QUICK = Training(epochs=20, batch=200, learning_rate=0.01, clip=10.0)
SHORT = Training(epochs=15, batch=200, learning_rate=0.01, clip=10.0)
TINY = Training(epochs=2, batch=100)


def linear(n: int, seed: int = 1) -> Events:
    """The linear problem with its noise as a column."""
    events = PROBLEM.simulate(n, seed)
    return events.with_columns({"noise": events["x0"] - events["theta0"]})


def fitted(events: Events, names: list[str], **options: Any) -> Invertible:
    return fit_invertible(
        events, names, ["x0"], **{"network": SMALL, "training": QUICK, "seed": 1, "progress": False, **options}
    )


AT = Events({"x0": np.array([-1.0, 0.0, 1.5])})


def moments(network: Invertible) -> tuple[Floats, Floats]:
    """Means and standard deviations of theta at the observations ``AT``, minus and over the exact ones."""
    draws = network.draws(4000, AT, seed=2)[..., 0]
    return (draws.mean(1) - 0.8 * AT["x0"]) / 0.2**0.5, draws.std(1) / 0.2**0.5


def right(network: Invertible) -> bool:
    """Within 0.15 standard deviations: the draws' own error is 0.016, the rest what a network of this size learns."""
    shift, width = moments(network)
    return bool(np.abs(shift).max() < 0.15 and np.abs(width - 1).max() < 0.15)


# -- the network -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("sizes", [Sizes(1, 1, 1, 2), Sizes(3, 2, 1, 5)])
def test_bijection_and_its_determinant(sizes: Sizes) -> None:
    stack = CouplingStack(Coupling(blocks=4, width=8), sizes, backward=True)
    state = {name: tensor.double() for name, tensor in stack.initial(3, [0, 1]).items()}
    u = torch.from_numpy(np.random.default_rng(1).normal(size=(2, 7, sizes.total)))
    v, slope = stack.there(state, u)
    np.testing.assert_allclose(stack.back(state, v), u, atol=1e-10)
    assert np.abs((v - u).numpy()).max() > 0.1  # not the identity
    own = {name: tensor[1:] for name, tensor in state.items()}
    jacobian = torch.func.jacrev(lambda one: stack.there(own, one[None, None])[0][0, 0])(u[1, 2])
    np.testing.assert_allclose(slope[1, 2], torch.linalg.slogdet(jacobian)[1], atol=1e-10)


def test_initial_state_belongs_to_a_member() -> None:
    stack = CouplingStack(SMALL, Sizes(4, 2, 2, 6), backward=True)
    many, one = stack.initial(3, [0, 1, 2]), stack.initial(3, [2])
    for name, tensor in one.items():
        np.testing.assert_array_equal(tensor[0], many[name][2])
        assert not torch.equal(many[name][0], many[name][2])
    orders = [many[f"{block}.order"] for block in range(3)]
    assert all(torch.equal(o @ o.transpose(1, 2), torch.eye(6).expand(3, 6, 6)) for o in orders)
    assert "0.order" not in stack.trainable(many)


# -- the discrepancy ---------------------------------------------------------------------------------------------------


def brute(a: Floats, b: Floats, weight: Floats, scales: tuple[float, ...]) -> float:
    def k(x: Floats, y: Floats) -> float:
        return float(np.mean([h**2 / (h**2 + np.sum((x - y) ** 2)) for h in scales]))

    n, total = len(a), 0.0
    for i in range(n):
        for j in range(n):
            if i != j:
                pair = k(a[i], a[j]) + k(b[i], b[j]) - k(a[i], b[j]) - k(b[i], a[j])
                total += weight[i] * weight[j] * pair / (n * (n - 1))
    return total


def test_discrepancy_equals_a_sum_over_pairs() -> None:
    rng = np.random.default_rng(1)
    a, b, weight = rng.normal(size=(12, 3)), rng.normal(size=(12, 3)) + 0.5, rng.normal(1.0, 1.0, 12)
    scales = (0.3, 1.0)
    x, y, w = (torch.from_numpy(part)[None] for part in (a, b, weight))
    found = (w * discrepancy(x, y, w, scales)).mean()
    np.testing.assert_allclose(found, brute(a, b, weight, scales), rtol=1e-9)


def test_rows_without_weight_do_not_count() -> None:
    rng = np.random.default_rng(2)
    a, b = (torch.from_numpy(rng.normal(size=(1, 9, 2))) for _ in range(2))
    weight = torch.tensor([[1.0, 1, 1, 1, 1, 1, 0, 0, 0]], dtype=torch.float64)
    short = discrepancy(a[:, :6], b[:, :6], weight[:, :6], (1.0,))
    np.testing.assert_allclose(discrepancy(a, b, weight, (1.0,))[:, :6], short, rtol=1e-12)


def test_discrepancy_of_equal_distributions_is_zero() -> None:
    """Without bias at any size of the batch; the mean over all pairs, i = j too, is biased by 1 / size."""
    rng = np.random.default_rng(3)
    a, b = (torch.from_numpy(rng.normal(size=(2000, 10, 2))) for _ in range(2))
    found = discrepancy(a, b, torch.ones(2000, 10, dtype=torch.float64), (1.0,)).mean(1).numpy()
    assert abs(found.mean()) < 4 * found.std() / 2000**0.5
    own = np.mean([brute(x, y, np.ones(10), (1.0,)) for x, y in zip(a[:3].numpy(), b[:3].numpy(), strict=True)])
    np.testing.assert_allclose(found[:3].mean(), own, rtol=1e-9)
    moved = discrepancy(a, b + 0.5, torch.ones(2000, 10, dtype=torch.float64), (1.0,)).mean(1).numpy()
    assert moved.mean() > 10 * moved.std() / 2000**0.5


def test_discrepancy_in_groups() -> None:
    """More rows than fit in memory as pairs are compared group by group."""
    rng = np.random.default_rng(4)
    a, b = (torch.from_numpy(rng.normal(size=(1, 1500, 2))) for _ in range(2))
    ones = torch.ones(1, 1500, dtype=torch.float64)
    found = discrepancy(a, b, ones, (1.0,))
    for part in (slice(0, 1024), slice(1024, 1500)):
        np.testing.assert_allclose(found[:, part], discrepancy(a[:, part], b[:, part], ones[:, part], (1.0,)))


def test_loss_of_the_exact_map_is_zero() -> None:
    """(theta, noise) -> (y, z) is a rotation of the standardised numbers here; another latent is not independent."""
    rng, sizes = np.random.default_rng(5), Sizes(2, 1, 1, 2)
    loss = _DiscrepancyLoss(Discrepancy(observation=1e-9, latent=1.0, parameters=1.0), sizes)
    theta, z = torch.from_numpy(rng.normal(size=(40, 100, 2))), torch.from_numpy(rng.normal(size=(40, 100, 1)))
    turn = torch.tensor([[0.8, 0.6], [-0.6, 0.8]], dtype=torch.float64)  # y = 0.8 theta + 0.6 noise
    weights = tuple(torch.ones(40, 100, dtype=torch.float64) for _ in range(3))

    def risks(there: torch.Tensor, back: torch.Tensor) -> Floats:
        y = (theta @ turn.T)[..., :1]
        inverse = torch.cat([y, z], -1) @ back
        return loss(torch.cat([theta @ there.T, inverse, theta, y, z], -1), weights).mean(1).numpy()

    exact = risks(turn, turn)
    assert abs(exact.mean()) < 4 * exact.std() / 40**0.5 + 1e-8
    identity = torch.stack([turn[0], torch.tensor([1.0, 0.0], dtype=torch.float64)])  # theta itself as z
    wrong = risks(identity, turn)
    assert wrong.mean() > 15 * exact.std() / 40**0.5


# -- posteriors --------------------------------------------------------------------------------------------------------

CASES: dict[str, tuple[Loss, int]] = {
    "likelihood": (Likelihood(), 0),
    "likelihood, padded": (Likelihood(), 2),
    "discrepancy": (Discrepancy(), 0),
}


@cache
def trained(case: str) -> Invertible:
    loss, padding = CASES[case]
    training = SHORT if isinstance(loss, Discrepancy) else QUICK
    members = 1 if isinstance(loss, Discrepancy) else 2
    return fitted(linear(3000), ["theta0", "noise"], loss=loss, padding=padding, members=members, training=training)


@pytest.mark.parametrize("case", CASES)
def test_linear_gaussian_posterior(case: str) -> None:
    network = trained(case)
    assert right(network)
    assert network.residual[0] < 0.05
    test = linear(1000, seed=3)
    predicted = network.forward(test)[:, 0]
    assert np.sqrt(np.mean((predicted - test["x0"]) ** 2)) < 0.06 * test["x0"].std()


def test_the_prior_is_wrong() -> None:
    draws = np.random.default_rng(1).normal(size=(3, 4000))
    assert np.abs((draws.mean(1) - 0.8 * AT["x0"]) / 0.2**0.5).max() > 1
    assert (draws.std(1) / 0.2**0.5).min() > 2


def test_noise_left_out_is_noticed(caplog: pytest.LogCaptureFixture) -> None:
    """The limit of the method: y is not a function of theta, and the draws are far too narrow."""
    network = fitted(linear(2000), ["theta0"], loss=Likelihood(), training=SHORT)
    assert not right(network)
    assert moments(network)[1].max() < 0.2
    assert "the parameters explain column 'x0' but for 0.4" in caplog.text
    np.testing.assert_allclose(network.residual, [0.2**0.5], atol=0.03)  # sqrt(0.25 / 1.25)


def test_log_probs_are_those_of_the_draws() -> None:
    """With P = M + Z numbers on both sides q(theta | y) is normalised; its marginal is the exact posterior."""
    network = trained("likelihood")
    axis = np.linspace(-4, 4, 401)
    x = 1.0
    noise = x - axis  # the density is a ridge of width sigma along theta + noise = x
    offsets = np.linspace(-0.3, 0.3, 61)
    points = np.stack([np.repeat(axis, 61), (noise[:, None] + offsets).ravel()], 1)
    q = np.exp(network.log_probs(points[None], Events({"x0": [x]}))[0]).reshape(401, 61)
    marginal = q.sum(1) * (offsets[1] - offsets[0])
    mass = marginal.sum() * (axis[1] - axis[0])
    assert abs(mass - 1) < 0.02
    mean = (marginal @ axis) / marginal.sum()
    width = np.sqrt(marginal @ (axis - mean) ** 2 / marginal.sum())
    assert abs(mean - 0.8) < 0.15 * 0.2**0.5
    assert abs(width / 0.2**0.5 - 1) < 0.15
    draws = network.draws(4000, Events({"x0": [x]}), seed=1)[0, :, 0]
    assert abs(draws.mean() - mean) < 4 * width / 4000**0.5
    for case in ("discrepancy", "likelihood, padded"):
        with pytest.raises(TypeError, match="use draws, or fit_density"):
            trained(case).log_probs(points[None], Events({"x0": [x]}))


def test_weights_change_the_prior() -> None:
    """Simulations of theta ~ N(0, 2.25), weighted to N(0, 1); without weights the posterior is that of the former."""
    rng = np.random.default_rng(1)
    theta, noise = rng.normal(0, 1.5, 5000), rng.normal(0, 0.5, 5000)
    weight = np.exp(-0.5 * theta**2 * (1 - 1 / 2.25))
    events = Events({"theta0": theta, "noise": noise, "x0": theta + noise}, weight=weight)
    options: dict[str, Any] = {"loss": Likelihood(), "training": SHORT}
    shift, _ = moments(fitted(events, ["theta0", "noise"], **options))
    plain, _ = moments(fitted(events.with_weight(np.ones(5000)), ["theta0", "noise"], **options))
    assert np.abs(shift).max() < 0.2
    assert plain[2] > 0.25  # 0.9 x in the place of 0.8 x: 0.34


def test_bounds() -> None:
    """Two uniform parameters whose sum is seen: given 0.5, the first is uniform between 0 and 0.5."""
    rng = np.random.default_rng(1)
    a, b = rng.random((2, 4000))
    box: dict[str, Any] = {"a": (0, 1), "b": (0, 1), "x0": (0, 2)}
    network = fitted(Events({"a": a, "b": b, "x0": a + b}), ["a", "b"], loss=Likelihood(sigma=0.05), bounds=box)
    draws = network.draws(3000, Events({"x0": [0.5]}), seed=1)[0]
    assert draws.min() > 0
    assert draws.max() < 1
    assert abs(draws[:, 0].mean() - 0.25) < 0.03
    assert abs(draws[:, 0].std() - 0.5 / 12**0.5) < 0.03
    np.testing.assert_allclose(draws.sum(1).mean(), 0.5, atol=0.02)
    outside = network.log_probs([[[0.2, 1.2], [0.2, 0.3]]], Events({"x0": [0.5]}))[0]
    assert outside[0] == -np.inf
    assert np.isfinite(outside[1])
    with pytest.raises(ValueError, match=r"column 'x0': expected values in \(0.0, 2.0\), found 1 of 1"):
        network.sample(10, Events({"x0": [2.5]}))


def test_inverse_kinematics() -> None:
    """The arm's end is met far better than by the prior, and the draws are nearer to the exact posterior's."""
    arm, names = InverseKinematics(), ["theta0", "theta1", "theta2", "theta3"]
    network = fit_invertible(
        arm.simulate(4000, seed=1), names, ["x0", "x1"], network=Coupling(blocks=4, width=32),
        loss=Likelihood(sigma=0.1), training=Training(epochs=20, batch=200, learning_rate=5e-3, clip=10.0), seed=1,
        progress=False,
    )  # fmt: skip
    end = Events({"x0": [1.7], "x1": [0.2]})
    draws, exact = network.draws(1000, end, seed=1)[0], arm.sample_posterior(end, 1000, seed=1)
    off = np.square(arm.predict(draws) - [1.7, 0.2]).sum(1).mean()
    prior = np.square(arm.predict(arm.prior.sample(1000, 1)) - [1.7, 0.2]).sum(1).mean()
    assert off < 0.1 * prior
    ones = torch.ones(1, 1000)

    def apart(sample: Floats) -> float:
        one, other = (torch.from_numpy(part / arm.spreads)[None] for part in (sample, exact))
        return float(discrepancy(one, other, ones, (0.5, 1.0)).mean())

    assert apart(draws) < 0.8 * apart(arm.prior.sample(1000, 1))


# -- what a fit is made of ---------------------------------------------------------------------------------------------


def test_noise_is_a_function_of_row_network_and_epoch() -> None:
    sizes = Sizes(2, 1, 2, 4)
    noise = _Noise(sizes, 0.1, np.arange(5000.0), 10, seed=1)
    rows = torch.arange(5000).view(1, 1, -1)
    first = noise(rows, np.array([0]), 3)
    found = first.columns[0, 0].numpy()
    assert found.shape == (5000, 2 + 2 + 1)
    assert np.abs(found.mean(0) / found.std(0)).max() < 4 / 5000**0.5
    assert np.abs(found.std(0) / [1, 1, 0.1, 0.1, 0.1] - 1).max() < 4 / 10_000**0.5
    assert np.abs(np.corrcoef(found.T) - np.eye(5)).max() < 4.5 / 5000**0.5
    again = noise(rows[..., 7:9].expand(1, 2, 2), np.array([4, 0]), 3)
    np.testing.assert_array_equal(again.columns[0, 1], first.columns[0, 0, 7:9])
    assert not np.array_equal(again.columns[0, 0], again.columns[0, 1])
    assert not np.array_equal(noise(rows, np.array([0]), 4).columns, first.columns)
    np.testing.assert_array_equal(again.targets[0][0, 0], [7.0, 8.0])
    come = [float(noise(rows[..., :1], np.array([0]), epoch).targets[1]) for epoch in (0, 5, 9)]
    assert come == sorted(come)
    assert come[0] < 0.01
    assert come[2] == 1.0


def test_same_seed_and_members() -> None:
    """The same numbers again, and a member that does not depend on how many more there are."""
    events = linear(400)
    two, again = (fitted(events, ["theta0", "noise"], members=2, training=TINY) for _ in range(2))
    np.testing.assert_array_equal(two.draws(5, AT, seed=1), again.draws(5, AT, seed=1))
    assert not np.array_equal(two.draws(5, AT, seed=1), two.draws(5, AT, seed=2))
    one = fitted(events, ["theta0", "noise"], training=TINY)
    np.testing.assert_allclose(one.history.train[:, 0], two.history.train[:, 0], rtol=1e-4)
    assert abs(two.history.train[-1, 0] - two.history.train[-1, 1]) > 1e-4


@pytest.mark.parametrize("loss", [Likelihood(), Discrepancy(scales=(0.5, 1.0))])
def test_save_and_load(loss: Loss, tmp_path: Path) -> None:
    network = fitted(linear(300), ["theta0", "noise"], members=2, loss=loss, padding=1, training=TINY)
    network.save(tmp_path / "inn.safetensors")
    loaded = Invertible.load(tmp_path / "inn.safetensors")
    np.testing.assert_array_equal(loaded.draws(7, AT, seed=1), network.draws(7, AT, seed=1))
    np.testing.assert_array_equal(loaded.forward(linear(5)), network.forward(linear(5)))
    assert (loaded.loss, loaded.sizes, repr(loaded)) == (network.loss, network.sizes, repr(network))
    np.testing.assert_array_equal(loaded.history.train, network.history.train)


def test_checkpoint_is_continued(tmp_path: Path) -> None:
    options: dict[str, Any] = {"training": TINY, "checkpoint": tmp_path / "checkpoint"}
    first = fitted(linear(300), ["theta0", "noise"], **options)
    second = fitted(linear(300), ["theta0", "noise"], **options)
    np.testing.assert_array_equal(first.draws(7, AT, seed=1), second.draws(7, AT, seed=1))
    with pytest.raises(ValueError, match="belongs to another configuration"):
        fitted(linear(300), ["theta0", "noise"], loss=Discrepancy(latent=1.0), **options)


def test_sample_is_one_observation_of_draws() -> None:
    network = trained("likelihood")
    one = network.sample(50, AT.select([1]), seed=3)
    assert one.columns == ("theta0", "noise") == network.names
    np.testing.assert_array_equal(one["theta0"], network.draws(50, AT.select([1]), seed=3)[0, :, 0])


def test_bad_input() -> None:
    events = linear(50)

    def refused(error: type[Exception], match: str, names: Any = ("theta0", "noise"), **options: Any) -> None:
        with pytest.raises(error, match=match):
            fitted(options.pop("events", events), names, training=TINY, **options)

    refused(KeyError, "no column 'thera'", ["thera"])
    refused(TypeError, "single string 'theta0'", "theta0")
    refused(ValueError, "found x0 in both", ["theta0", "x0"])
    refused(ValueError, "latent: expected a whole number of at least 1, found 0", latent=0)
    refused(ValueError, r"padding: expected a whole number of at least 0, found 1\.5", padding=1.5)
    refused(ValueError, "expected padding_noise to be positive", padding_noise=0.0)
    refused(ValueError, "not finite, first at rows 0", events=events.with_columns({"x0": np.full(50, np.nan)}))
    refused(ValueError, r"expected values in \(0.0, 1.0\)", bounds={"theta0": (0, 1)})
    refused(KeyError, "no column 'phi'", bounds={"phi": (0, 1)})
    refused(ValueError, "positive total weight", events=events.with_weight(np.full(50, -1.0)))
    refused(TypeError, r"loss: expected Discrepancy\(...\) or Likelihood", loss="mmd")
    for make, match in (
        (lambda: Coupling(blocks=0), "Coupling: expected blocks"),
        (lambda: Coupling(width=0), "expected width"),
        (lambda: Coupling(clamp=-1.0), "positive clamp"),
        (lambda: Discrepancy(latent=-1.0), "Discrepancy: expected latent to be not negative"),
        (lambda: Discrepancy(scales=()), "at least one of scales"),
        (lambda: Likelihood(sigma=0.0), "Likelihood: expected sigma to be positive"),
    ):
        with pytest.raises(ValueError, match=match):
            make()
    network = trained("likelihood")
    with pytest.raises(ValueError, match="expected one, found 3 rows"):
        network.sample(10, AT)
    with pytest.raises(ValueError, match="n: expected a whole number of at least 1, found 0"):
        network.draws(0, AT)
    with pytest.raises(ValueError, match=r"theta: expected \(3, M, 2\), found \(3, 2\)"):
        network.log_probs(np.zeros((3, 2)), AT)
    with pytest.raises(KeyError, match="no column 'x0'"):
        network.draws(3, Events({"y": [1.0]}))
