"""`nuinfer.train`: the loop against risks written out in double precision, and its promises to the bit."""

from __future__ import annotations

import itertools
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from nuinfer import MLP, DeepSet, Events, Features, NotConverged, Ragged, Training, losses, nets, train
from nuinfer.errors import CorruptFile
from nuinfer.features import Batch, Inputs
from nuinfer.resample import Resample
from nuinfer.train import Draw, Drawn, History, Risk, Trained, _Epoch, _totals, mean_loss

D = 2


def sample(
    n: int = 400, seed: int = 1, signed: bool = False
) -> tuple[Inputs, tuple[Tensor, Tensor], NDArray[np.int64]]:
    """Rows of two shifted Gaussians with class weights."""
    rng = np.random.default_rng(seed)
    label = np.arange(n) % 2
    x = rng.normal(size=(n, D)) + 0.5 * (2 * label - 1)[:, None]
    w = rng.normal(1, 0.8, n) if signed else rng.exponential(size=n) + 0.1
    inputs = Inputs(torch.from_numpy(x.astype(np.float32)))
    weights = tuple(torch.from_numpy((w * (label == c)).astype(np.float32)) for c in (1, 0))
    return inputs, (weights[0], weights[1]), rng.permutation(n) * 5 + 3


SPEC = MLP(width=8, depth=2)
BATCHNORM = lambda: nn.Sequential(nn.Linear(D, 64), nn.BatchNorm1d(64), nn.ReLU(), nn.Dropout(0.1), nn.Linear(64, 1))  # noqa: E731


def run(
    resample: Resample,
    training: Training,
    *,
    n: int = 400,
    network: Any = SPEC,
    data: Any = None,
    loss: losses.Loss = losses.bce,
    **options: Any,
) -> Trained:
    inputs, weights, key = data or sample(n)
    stack = nets.stack(network, Features(["a", "b"]).shape)
    state = stack.initial(resample.seed, range(resample.networks))
    return train.minimise(stack, state, inputs, Risk(loss, weights, key, resample), training, progress=False, **options)


def same(one: Trained, other: Trained) -> None:
    """Equal to the bit."""
    for name, tensor in one.state.items():
        assert torch.equal(tensor, other.state[name]), name
    for name, array in one.history.arrays().items():
        np.testing.assert_array_equal(array, other.history.arrays()[name], err_msg=name)


# -- a weight is a number of events -----------------------------------------------------------------------------------


def risk_and_gradient(x: Tensor, w1: Tensor, w0: Tensor, loss: losses.Loss) -> list[Tensor]:
    """The full-batch risk as the loop has it, N w / T in each row, and its gradient, by the fused path."""
    stack = SPEC.stack(Features(["a", "b"]).shape)
    rng = torch.Generator().manual_seed(3)
    state = {n: torch.randn(t.shape, dtype=torch.float64, generator=rng).requires_grad_()
             for n, t in stack.initial(1, [0]).items()}  # fmt: skip
    outputs = stack(state, Batch(x[None], {}), training=True)
    value = mean_loss(outputs, tuple((w * (len(w) / w.sum()))[None] for w in (w1, w0)), loss)[0]
    return [value.detach(), *torch.autograd.grad(value, list(state.values()))]


@pytest.mark.parametrize("loss", [losses.bce, losses.mlc, losses.sqrt])
@pytest.mark.parametrize("what", ["twice", "absent", "cancels"])
def test_full_batch_truths_of_weights(what: str, loss: losses.Loss) -> None:
    inputs, (w1, w0), _ = sample(60, signed=True)
    x, w1, w0 = inputs.flat.double(), w1.double(), w0.double()
    extra, label = (
        torch.randn(20, D, dtype=torch.float64, generator=torch.Generator().manual_seed(4)),
        torch.arange(20) % 2,
    )
    one, zero = label.double(), 1 - label.double()

    def joined(*parts: tuple[Tensor, Tensor, Tensor]) -> list[Tensor]:
        return risk_and_gradient(*(torch.cat(columns) for columns in zip(*parts, strict=True)), loss)  # type: ignore[arg-type]

    plain, more = (x, w1, w0), (extra, one, zero)
    pairs = {
        "twice": (joined(plain, (extra, 2 * one, 2 * zero)), joined(plain, more, more)),
        "absent": (joined(plain, (extra, 0 * one, 0 * zero)), joined(plain)),
        "cancels": (joined(plain, more, (extra, -one, -zero)), joined(plain)),
    }
    for found, exact in zip(*pairs[what], strict=True):
        torch.testing.assert_close(found, exact, rtol=1e-12, atol=1e-12)
    # the extra events do matter when their weights are not those
    differ = zip(joined(plain, more), joined(plain), strict=True)
    assert any((a - b).abs().max() > 1e-3 for a, b in differ)


def test_the_risk_of_held_out_rows_is_the_weighted_mean() -> None:
    """What the history says, worked out again in double precision from the saved state."""
    inputs, weights, key = sample(300, signed=True)
    resample = Resample(seed=4, members=2, folds=2, validation=0.3, bootstrap=True)
    trained = run(resample, Training(epochs=1, batch=64), data=(inputs, weights, key))
    stack = SPEC.stack(Features(["a", "b"]).shape)
    outputs = stack(
        {n: t.double() for n, t in trained.state.items()}, Batch(inputs.flat.double().expand(4, -1, -1), {})
    )
    for n in range(4):
        times = torch.from_numpy(resample.times(n, key, held_out=True)).double()
        w1, w0 = (w.double() * times for w in weights)
        f = outputs[n]
        risk = 0.5 * (
            (w1 * torch.log1p(torch.exp(-f))).sum() / w1.sum() + (w0 * torch.log1p(torch.exp(f))).sum() / w0.sum()
        )
        assert trained.history.validation[0, n] == pytest.approx(float(risk), rel=1e-5)


# -- drawing rows -----------------------------------------------------------------------------------------------------


def stepwise(epoch: _Epoch, number: int) -> list[tuple[Any, ...]]:
    """Rows (K, B) and class weights of each step."""
    blocks = epoch.blocks(number, "cpu")
    return [(rows[s], tuple(w[s] for w in weights)) for rows, weights in blocks for s in range(len(rows))]


def draws(resample: Resample, n: int, batch: int, epoch: int, signed: bool = False) -> tuple[Any, ...]:
    """All rows (K, S B) and scaled class weights of an epoch."""
    _, weights, key = sample(n, signed=signed)
    risk = Risk(losses.bce, weights, key, resample)
    totals = _totals(risk, held_out=False)
    steps = int(np.ceil(totals.rows.mean() / batch))
    active = np.arange(resample.networks)
    found = stepwise(_Epoch(risk, totals, active, batch, steps), epoch)
    rows = torch.cat([r for r, _ in found], 1)
    scaled = [torch.cat([w[c] for _, w in found], 1).double() for c in (0, 1)]
    return rows.numpy(), scaled, risk


@pytest.mark.parametrize("signed", [False, True])
def test_an_epoch_sees_every_row_once_and_its_weights_average_to_the_class_totals(signed: bool) -> None:
    rows, scaled, _ = draws(Resample(seed=1, members=3, validation=0), 512, 64, 2, signed)
    for k in range(3):
        np.testing.assert_array_equal(np.sort(rows[k]), np.arange(512))
    for weight in scaled:  # the mean over an epoch of R m w / T is sum m w / T = 1
        np.testing.assert_allclose(weight.mean(1), 1, rtol=1e-6)


def test_an_epoch_of_resampled_rows_reproduces_the_risk() -> None:
    """With validation, folds and bootstraps: each row of a network once or so, and no row that is not its own."""
    resample = Resample(seed=2, members=2, folds=2, validation=0.25, bootstrap=True)
    rows, scaled, risk = draws(resample, 4096, 64, 1)
    for n in range(4):
        times = resample.times(n, risk.key, held_out=False)
        seen = np.bincount(rows[n], minlength=4096)
        assert not seen[times == 0].any()  # held out, of its fold, or not in its bootstrap
        assert seen.max() <= 2
        assert (seen[times > 0] == 1).mean() > 0.9  # an epoch has the steps of the mean network: a few per cent differ
        for c, weight in enumerate(scaled):
            total = float(np.dot(risk.weight(c, n).double().numpy(), times))
            expected = risk.weight(c, n).double().numpy()[rows[n]] * times[rows[n]] * (times > 0).sum() / total
            np.testing.assert_allclose(weight[n], expected, rtol=1e-5)


def test_windows_of_rows_are_read_one_after_the_other_by_all_networks() -> None:
    """For features mapped from a file: each row once an epoch, in blocks that all networks share, mixed within."""
    _, weights, key = sample(500)
    resample = Resample(seed=1, members=2, validation=0)
    risk = Risk(losses.bce, weights, key, resample)
    totals = _totals(risk, held_out=False)
    orders = []
    for epoch in (0, 1):
        batches = stepwise(_Epoch(risk, totals, np.arange(2), 50, 10, window=128), epoch)
        orders.append(torch.cat([rows for rows, _ in batches], 1).numpy())
    for rows in orders:
        np.testing.assert_array_equal(np.sort(rows, 1), np.tile(np.arange(500), (2, 1)))
        np.testing.assert_array_equal(rows[0] // 128, rows[1] // 128)
        assert (rows[0] == rows[1]).mean() < 0.05
        assert (np.diff(rows[0] // 128) != 0).sum() == 3
        assert (np.diff(rows[0]) > 0).mean() == pytest.approx(0.5, abs=0.1)
    assert (orders[0] == orders[1]).mean() < 0.1


def test_a_small_sample_fills_a_batch_with_several_passes() -> None:
    rows, _, _ = draws(Resample(seed=1, validation=0), 50, 256, 0)
    counts = np.bincount(rows[0], minlength=50)
    assert rows.shape == (1, 256)
    assert set(counts) == {5, 6}


def test_every_network_and_epoch_has_an_order_of_its_own() -> None:
    orders = [draws(Resample(seed=s, members=2, validation=0), 512, 64, e)[0] for s, e in [(1, 0), (1, 1), (2, 0)]]
    for one, other in itertools.combinations([row for order in orders for row in order], 2):
        assert (one == other).mean() < 0.05  # 1/512 of the places agree by chance
        assert abs(np.corrcoef(one, other)[0, 1]) < 4 / np.sqrt(512) * 1.2


def test_weights_of_each_network_are_its_own() -> None:
    inputs, weights, key = sample(400)
    factors = torch.tensor([[1.0], [2.0]])
    tilted = tuple((w * factors) ** torch.tensor([[1.0], [1.7]]) for w in weights)
    resample = Resample(seed=1, members=2, validation=0.2)
    own = run(resample, Training(epochs=2, batch=64), data=(inputs, tilted, key))
    for k in range(2):
        alone = run(resample, Training(epochs=2, batch=64), data=(inputs, tuple(t[k] for t in tilted), key))
        for name, tensor in own.state.items():
            torch.testing.assert_close(tensor[k], alone.state[name][k], rtol=1e-5, atol=1e-6)
    assert not torch.allclose(own.state["layer.0.weight"][1], alone.state["layer.0.weight"][0])


# -- determinism ------------------------------------------------------------------------------------------------------

SHORT = Training(epochs=3, batch=64)


def test_the_same_seed_gives_the_same_bits_and_another_does_not() -> None:
    one = run(Resample(seed=1, members=3), SHORT)
    same(one, run(Resample(seed=1, members=3), SHORT))
    other = run(Resample(seed=2, members=3), SHORT)
    assert not torch.equal(one.state["layer.1.weight"], other.state["layer.1.weight"])


@pytest.mark.parametrize("network", [SPEC, lambda: nn.Sequential(nn.Linear(D, 9), nn.Dropout(0.3), nn.Linear(9, 1))])
def test_member_k_does_not_depend_on_the_number_of_members(network: Any) -> None:
    """Beyond rounding: Adam turns a last bit into at most about 1e-4 of a weight over these 21 steps."""
    few, many = (run(Resample(seed=1, members=m, folds=2), SHORT, network=network) for m in (3, 5))
    for name, tensor in few.state.items():
        torch.testing.assert_close(tensor, many.state[name][:6], rtol=1e-3, atol=1e-4)
    np.testing.assert_allclose(few.history.validation, many.history.validation[:, :6], rtol=1e-5)


@pytest.mark.parametrize("chunk", [1, 2])
def test_chunks_of_networks_equal_all_at_once(chunk: int) -> None:
    every, chunks = (run(Resample(seed=1, members=5), replace(SHORT, chunk=c)) for c in (5, chunk))
    for name, tensor in every.state.items():
        torch.testing.assert_close(tensor, chunks.state[name], rtol=1e-3, atol=1e-4)
    np.testing.assert_allclose(every.history.train, chunks.history.train, rtol=1e-5)


@pytest.mark.parametrize("network", [SPEC, lambda: nn.Sequential(nn.Linear(D, 9), nn.Dropout(0.3), nn.Linear(9, 1))])
def test_torchs_own_generator_is_neither_used_nor_touched(network: Any) -> None:
    torch.manual_seed(5)
    before = torch.get_rng_state()
    one = run(Resample(seed=1, members=2), SHORT, network=network)
    assert torch.equal(torch.get_rng_state(), before)
    torch.manual_seed(6)
    same(one, run(Resample(seed=1, members=2), SHORT, network=network))


# -- stopping, rates, clipping ----------------------------------------------------------------------------------------


def test_the_rate_warms_up_and_falls_as_a_cosine() -> None:
    training = Training(learning_rate=0.01, warmup=0.2)
    rates = np.array([training.rate(i, 100) for i in range(100)])
    np.testing.assert_allclose(rates[:20], 0.01 * np.arange(1, 21) / 20)
    np.testing.assert_allclose(rates[20:], 0.005 * (1 + np.cos(np.pi * np.arange(1, 81) / 81)))
    assert Training(warmup=0).rate(0, 10) == pytest.approx(3e-3 * 0.5 * (1 + np.cos(np.pi / 11)))
    history = run(Resample(seed=1), Training(epochs=4, batch=64, patience=None)).history
    steps = int(np.ceil((Resample(seed=1).times(0, sample()[2], held_out=False) > 0).sum() / 64))
    expected = [Training().rate((e + 1) * steps - 1, 4 * steps) for e in range(4)]
    np.testing.assert_allclose(history.learning_rate, expected)


@pytest.mark.parametrize("network", [MLP(width=32, depth=2), BATCHNORM], ids=["MLP", "BatchNorm"])
def test_patience_stops_networks_one_by_one_and_restores_the_best(network: Any) -> None:
    """Few rows and a large rate overfit at once, each network in its own epoch; buffers go with their weights."""
    resample = Resample(seed=1, members=4, validation=0.5)
    training = Training(epochs=40, batch=16, learning_rate=0.03, patience=3)
    data = sample(60)
    trained = run(resample, training, data=data, network=network)
    history = trained.history
    lasts = [int(np.flatnonzero(np.isfinite(h))[-1]) for h in history.validation.T]
    assert len(set(lasts)) > 1
    assert max(lasts) < 39
    stack = nets.stack(network, Features(["a", "b"]).shape)
    outputs = stack(
        {n: t.double() for n, t in trained.state.items()}, Batch(data[0].flat.double().expand(4, -1, -1), {})
    )
    for n, last in enumerate(lasts):
        column = history.validation[: last + 1, n]
        assert np.isnan(history.validation[last + 1 :, n]).all()
        assert history.best_epoch[n] == np.argmin(column)
        assert last == history.best_epoch[n] + 3
        times = torch.from_numpy(resample.times(n, data[2], held_out=True))
        w1, w0 = (w.double() * times for w in data[1])
        risk = losses.bce(outputs[n], (w1 / w1.sum(), w0 / w0.sum())).sum()
        assert float(risk) == pytest.approx(column.min(), rel=1e-4)
    assert np.array_equal(np.isnan(history.train), np.isnan(history.validation))


def test_a_network_that_stops_leaves_the_others_alone() -> None:
    resample, data = Resample(seed=1, members=4, validation=0.5), sample(60)
    training = Training(epochs=12, batch=16, learning_rate=0.03)
    stopped = run(resample, replace(training, patience=2), data=data)
    on = run(resample, replace(training, patience=None), data=data)
    ran = np.isfinite(stopped.history.train)
    assert not ran.all()
    np.testing.assert_allclose(stopped.history.train[ran], on.history.train[: len(ran)][ran], rtol=1e-3)


def test_a_network_without_progress_goes_back_and_cools_down(monkeypatch: pytest.MonkeyPatch) -> None:
    """Its rate falls from that of its best epoch as a cosine, from those weights; then it leaves.  The rest go on."""
    resample, data = Resample(seed=1, members=4, validation=0.5), sample(60)
    training = Training(epochs=40, batch=16, learning_rate=0.03, patience=2, cooldown=3)
    seen: list[tuple[Any, Tensor, Tensor]] = []  # rates, weights before and after each step
    apply = train._Optimiser.apply

    def recorded(self: Any, gradient: Tensor, rates: Any) -> None:
        before = self.parameters.flat.clone()
        apply(self, gradient, rates)
        seen.append((rates, before, self.parameters.flat.clone()))

    monkeypatch.setattr(train._Optimiser, "apply", recorded)
    history = run(resample, training, data=data).history
    steps = len(seen) // len(history.train)
    lasts = np.isfinite(history.train).sum(0)  # epochs that each network took part in
    assert len(set(lasts)) > 1
    active = [np.flatnonzero(np.isfinite(row)) for row in history.train]
    for n, last in enumerate(lasts):
        begun = int(last) - 3
        best = begun - 3  # the epoch that two more did not improve on
        assert best == np.argmin(history.validation[:begun, n])
        rows = [int(np.searchsorted(active[i // steps], n)) for i in range(last * steps)]
        weights = [(before[row], after[row]) for (_, before, after), row in zip(seen, rows, strict=False)]
        torch.testing.assert_close(weights[begun * steps][0], weights[(best + 1) * steps - 1][1], rtol=0, atol=0)
        rates = np.array([r[row] for (r, _, _), row in zip(seen, rows, strict=False)])
        every = np.array([training.rate(i, 40 * steps) for i in range(begun * steps)])
        np.testing.assert_allclose(rates[: begun * steps], every, rtol=1e-6)
        falling = 0.5 * (1 + np.cos(np.pi * np.arange(1, 3 * steps + 1) / (3 * steps + 1)))
        np.testing.assert_allclose(rates[begun * steps :], every[(best + 1) * steps - 1] * falling, rtol=1e-6)
        assert history.best_epoch[n] == np.argmin(history.validation[:last, n])


def test_averages_forget_the_noise_of_large_rates_in_a_cooldown() -> None:
    """The memory is all steps so far, at most ``average`` epochs, and shrinks with the rate to one step."""
    inputs, weights, key = sample(200)
    stack = SPEC.stack(Features(["a", "b"]).shape)
    resample = Resample(seed=1, members=3, validation=0.2)
    training = Training(epochs=10, batch=10, average=2.0, patience=1, cooldown=4)
    state = stack.initial(1, range(3))
    loop = train._Loop(stack, state, inputs, lambda b: b, Risk(losses.bce, weights, key, resample), training, "cpu")
    steps = loop.steps
    everyone = np.full(3, 0.01)
    np.testing.assert_allclose(loop._memory(0, everyone), 1)
    np.testing.assert_allclose(loop._memory(5, everyone), 5)
    np.testing.assert_allclose(loop._memory(9 * steps, everyone), 2 * steps)
    loop.cooled_from[1], loop.cooled_rate[1] = 3, 0.01
    loop.cooled_from[2], loop.cooled_rate[2] = 3, 0.02
    np.testing.assert_allclose(loop._memory(3 * steps + 1, everyone), [2 * steps, 1, 1])
    np.testing.assert_allclose(loop._memory(6 * steps, everyone), [2 * steps, 2 * steps, steps])
    np.testing.assert_allclose(loop._memory(7 * steps, np.array([0.01, 1e-5, 1e-5])), [2 * steps, 1, 1])


def test_cooling_down_brings_networks_nearer_to_the_exact_ratio() -> None:
    """A large rate hovers about the minimum, log ratio x0 + x1 of `sample`; cooled down they get nearer."""
    data, resample = sample(4000), Resample(seed=1, members=8, validation=0.2)
    noisy = Training(epochs=30, batch=16, learning_rate=0.05, warmup=0.05, patience=3)
    x = torch.randn(4000, D, dtype=torch.float64, generator=torch.Generator().manual_seed(4))
    stack = SPEC.stack(Features(["a", "b"]).shape)

    def errors(training: Training) -> Tensor:
        state = {name: t.double() for name, t in run(resample, training, data=data).state.items()}
        return (stack(state, Batch(x.expand(8, -1, -1), {})) - x.sum(1)).square().mean(1)

    stopped, cooled = errors(noisy), errors(replace(noisy, cooldown=5))
    gain = stopped.log() - cooled.log()
    assert gain.mean() > 3 * gain.std() / 8**0.5


def test_without_validation_the_last_weights_are_kept() -> None:
    trained = run(Resample(seed=1, members=2, validation=0), SHORT)
    assert trained.history.best_epoch.tolist() == [2, 2]
    assert np.isnan(trained.history.validation).all()
    assert np.isfinite(trained.history.train).all()


@pytest.mark.parametrize("average", [0.5, 100.0])
def test_the_average_of_the_weights_is_kept(average: float, monkeypatch: pytest.MonkeyPatch) -> None:
    """The mean of the weights of all steps while they are few, then an exponential average over so many epochs."""
    seen: list[Tensor] = []
    apply = train._Optimiser.apply

    def recorded(self: Any, gradient: Tensor, rates: Any) -> None:
        apply(self, gradient, rates)
        seen.append(self.parameters.flat.clone().double())

    monkeypatch.setattr(train._Optimiser, "apply", recorded)
    found = run(
        Resample(seed=1, members=2, validation=0), Training(epochs=2, batch=10, average=average), data=sample(100)
    )
    steps, expected = len(seen) // 2, torch.zeros_like(seen[0])
    for number, weights in enumerate(seen, 1):
        memory = min(number, average * steps)
        expected += (weights - expected) / max(memory, 1)
    flat = torch.cat([tensor.flatten(1) for tensor in found.state.values()], 1)
    torch.testing.assert_close(flat.double(), expected, rtol=1e-5, atol=1e-6)
    assert (flat - seen[-1]).abs().max() > 1e-3
    if average == 100.0:
        torch.testing.assert_close(flat.double(), torch.stack(seen).mean(0), rtol=1e-5, atol=1e-6)


def test_clipping_bounds_each_networks_gradient() -> None:
    parameters = train._Parameters(
        SPEC.stack(Features(["a", "b"]).shape), SPEC.stack(Features(["a", "b"]).shape).initial(1, [0, 1])
    )
    gradient = torch.ones_like(parameters.flat) * torch.tensor([[10.0], [1e-3]])
    size = parameters.flat.shape[1]
    train._Optimiser(parameters, Training(clip=1.0)).apply(gradient, np.array([1e-3, 1e-3]))
    np.testing.assert_allclose(gradient.norm(dim=1), [1.0, 1e-3 * size**0.5], rtol=1e-5)
    free, tight = (run(Resample(seed=1), replace(SHORT, clip=c)) for c in (None, 1e-9))
    start = SPEC.stack(Features(["a", "b"]).shape).initial(1, [0])["layer.0.weight"]
    moved = [(t.state["layer.0.weight"] - start).abs().max() for t in (free, tight)]
    assert moved[1] < 0.5 * moved[0]  # below eps of Adam the steps shrink with the gradient


@pytest.mark.parametrize("rates", [(0.01, 0.01), (0.01, 0.003)], ids=["one rate", "a rate a network"])
def test_adamw_is_torchs(rates: tuple[float, float]) -> None:
    """The fused kernel that the loop calls directly, against torch.optim.AdamW."""
    stack = SPEC.stack(Features(["a", "b"]).shape)
    parameters = train._Parameters(stack, stack.initial(1, [0, 1]))
    reference = [nn.Parameter(row.clone()) for row in parameters.flat]
    groups = [{"params": [row], "lr": rate} for row, rate in zip(reference, rates, strict=True)]
    optimiser = torch.optim.AdamW(groups, weight_decay=0.1, fused=True)
    ours = train._Optimiser(parameters, Training(weight_decay=0.1))
    for seed in range(5):
        gradient = torch.randn(parameters.flat.shape, generator=torch.Generator().manual_seed(seed))
        for row, own in zip(reference, gradient, strict=True):
            row.grad = own.clone()
        optimiser.step()
        ours.apply(gradient, np.array(rates))
    torch.testing.assert_close(torch.stack([row.detach() for row in reference]), parameters.flat, rtol=1e-6, atol=1e-7)


def test_the_loop_reaches_the_exact_minimum_of_a_convex_risk() -> None:
    """A linear network has one best answer, which Newton's method finds in double precision."""
    inputs, weights, key = sample(2000, signed=True)
    training = Training(epochs=500, batch=2000, learning_rate=0.05, weight_decay=0, patience=None)
    trained = run(
        Resample(seed=1, validation=0), training, network=lambda: nn.Linear(D, 1), data=(inputs, weights, key)
    )
    found = np.append(trained.state["weight"][0, 0], trained.state["bias"][0, 0])
    x = np.column_stack([inputs.flat.numpy(), np.ones(2000)]).astype(float)
    w1, w0 = (w.double().numpy() / w.double().sum().item() for w in weights)
    theta = np.zeros(D + 1)
    for _ in range(30):
        s = 1 / (1 + np.exp(-x @ theta))
        theta -= np.linalg.solve((x * ((w1 + w0) * s * (1 - s))[:, None]).T @ x, x.T @ (w0 * s - w1 * (1 - s)))
    np.testing.assert_allclose(found, theta, atol=2e-3)
    assert np.abs(theta).max() > 0.5


def test_a_risk_that_is_not_finite_stops_the_training() -> None:
    inputs, weights, key = sample()
    wild = Inputs(inputs.flat * 1e4)
    with pytest.raises(
        NotConverged, match=r"risk of networks \[0, 1\] is not finite in epoch \d+; try a smaller learning_rate"
    ):
        run(
            Resample(seed=1, members=2),
            Training(epochs=5, batch=16, learning_rate=1.0),
            data=(wild, weights, key),
            loss=losses.mlc,
        )


# -- checkpoints ------------------------------------------------------------------------------------------------------


class Killed(Exception):
    pass


def killed_after(epochs: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """From now on the loop dies when it has begun that many epochs and one more step."""
    begun = itertools.count()
    real = train._Loop._validate

    def dying(loop: Any) -> Any:
        if next(begun) == epochs:
            raise Killed
        return real(loop)

    monkeypatch.setattr(train._Loop, "_validate", dying)


@pytest.mark.parametrize(
    ("network", "average", "cooldown"),
    [(SPEC, None, None), (BATCHNORM, None, None), (SPEC, 0.5, None), (BATCHNORM, 0.5, 3)],
    ids=["MLP", "BatchNorm", "average", "cooldown"],
)
def test_interrupted_and_resumed_equals_uninterrupted_to_the_bit(
    network: Any, average: float | None, cooldown: int | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Interrupted once before and once after the first networks have left by patience."""
    resample, data = Resample(seed=1, members=3, folds=2, validation=0.4, bootstrap=True), sample(100)
    training = Training(epochs=14, batch=16, learning_rate=0.05, patience=2, average=average, cooldown=cooldown)
    whole = run(resample, training, network=network, data=data)
    lasts = np.isfinite(whole.history.train).sum(0)
    first = int(lasts.min()) + 1  # epochs until the first network has left, and one more
    assert first < lasts.max()
    path = tmp_path / "half.safetensors"
    for epochs in (2, first - 2):
        with monkeypatch.context() as patch:
            killed_after(epochs, patch)
            with pytest.raises(Killed):
                run(resample, training, network=network, data=data, checkpoint=path)
    resumed = run(resample, training, network=network, data=data, checkpoint=path)
    same(whole, resumed)
    same(whole, run(resample, training, network=network, data=data, checkpoint=path))  # a finished one is not run again
    with monkeypatch.context() as patch:
        killed_after(0, patch)
        run(resample, training, network=network, data=data, checkpoint=path)


def test_a_checkpoint_of_another_configuration_is_refused(tmp_path: Path) -> None:
    path, resample, data = tmp_path / "c.safetensors", Resample(seed=1, members=2), sample(200)
    short = Training(epochs=1, batch=64)
    run(resample, short, data=data, checkpoint=path)
    inputs, (w1, w0), key = data
    moved = inputs.flat.clone()
    moved[17, 1] += 1e-3  # one number of one row
    others: dict[str, dict[str, Any]] = {
        "training: expected .*'epochs': 2.*found .*'epochs': 1": {"training": Training(epochs=2, batch=64)},
        "resample: expected .*'members': 3": {"resample": Resample(seed=1, members=3)},
        "loss: expected mlc, found bce": {"loss": losses.mlc},
        "network: expected .*relu.*found .*silu": {"network": MLP(width=8, depth=2, activation="relu")},
        "network: expected .*width=16": {"network": MLP(width=16, depth=2)},
        "label: expected other, found training": {"label": "other"},
        "data: expected": {"data": (Inputs(moved), (w1, w0), key)},
        "weights: expected": {"data": (inputs, (w1, w0.flip(0)), key)},
        "rows: expected 100, found 200": {"data": sample(100)},
    }
    for message, change in others.items():
        arguments: dict[str, Any] = {"resample": resample, "training": short, "data": data, "checkpoint": path} | change
        with pytest.raises(ValueError, match=f"belongs to another configuration .*{message}"):
            run(**arguments)


def test_a_checkpoint_knows_its_start_and_its_clouds(tmp_path: Path) -> None:
    events = Events({"h.x": Ragged.of([[0.1], [0.2, 0.3]] * 20)}, id=np.arange(40))
    stack, resample = DeepSet(width=4, latent=2).stack(Features(h=["x"]).shape), Resample(seed=1, validation=0.5)
    weights = (torch.arange(40) % 2 + 0.5, torch.ones(40))
    start = stack.initial(1, [0])
    warm = {name: tensor + 0.1 for name, tensor in start.items()}

    def fit(state: nets.State, events: Events) -> None:
        risk = Risk(losses.bce, weights, events.id, resample)
        path = tmp_path / "c.safetensors"
        train.minimise(
            stack, state, Features(h=["x"]).tensors(events), risk, Training(epochs=1), checkpoint=path, progress=False
        )

    fit(start, events)
    with pytest.raises(ValueError, match="initial state: expected"):
        fit(warm, events)
    column = events["h.x"]
    other = Events({"h.x": Ragged(column.values * 2, column.offsets)}, id=np.arange(40))
    with pytest.raises(ValueError, match="data: expected"):
        fit(start, other)


def test_a_damaged_checkpoint_is_refused(tmp_path: Path) -> None:
    path, resample = tmp_path / "c.safetensors", Resample(seed=1)
    run(resample, SHORT, checkpoint=path)
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 4
    path.write_bytes(bytes(content))
    with pytest.raises(CorruptFile, match="sha256"):
        run(resample, SHORT, checkpoint=path)
    assert not list(tmp_path.glob(".*"))  # nothing half-written is left


# -- the rest ---------------------------------------------------------------------------------------------------------


def test_history_survives_arrays() -> None:
    history = run(Resample(seed=1, members=2), SHORT).history
    assert history.train.shape == history.validation.shape == (3, 2)
    again = History.of_arrays(history.arrays())
    for name, array in history.arrays().items():
        np.testing.assert_array_equal(array, again.arrays()[name])


def test_training_learns() -> None:
    history = run(Resample(seed=1), Training(epochs=10, batch=64), n=2000).history
    assert history.validation[-1, 0] < history.validation[0, 0] < np.log(2)  # log 2 is the risk of f = 0


@pytest.mark.parametrize(
    ("bad", "message"),
    [
        ({"epochs": 0}, "expected epochs to be an integer of at least 1, found 0"),
        ({"batch": 12.5}, "expected batch to be an integer of at least 1, found 12.5"),
        ({"patience": 0}, "expected patience"),
        ({"cooldown": 0, "patience": 1}, "expected cooldown"),
        ({"cooldown": 3}, "cooldown=3 begins where patience ends"),
        ({"chunk": -1}, "expected chunk"),
        ({"learning_rate": 0.0}, "expected learning_rate to be positive, found 0.0"),
        ({"learning_rate": float("nan")}, "expected learning_rate to be positive, found nan"),
        ({"clip": -1.0}, "expected clip to be positive"),
        ({"warmup": 1.0}, r"expected warmup in \[0, 1\)"),
        ({"weight_decay": -1e-3}, "weight_decay >= 0"),
    ],
)
def test_bad_settings_are_refused(bad: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Training(**bad)


def test_classes_without_weight_are_refused() -> None:
    inputs, (w1, w0), key = sample(40)
    with pytest.raises(
        ValueError, match=r"denominator: expected a positive total weight in the training rows .* found -"
    ):
        run(Resample(seed=1), SHORT, data=(inputs, (w1, -w0), key))
    w1 = torch.zeros(40)
    w1[np.flatnonzero(Resample(seed=1).times(0, key, held_out=False))[0]] = 1.0
    with pytest.raises(
        ValueError, match=r"numerator: .* in the validation rows of every network, found 0 for network 0 of 1"
    ):
        run(Resample(seed=1), SHORT, data=(inputs, (w1, w0), key))


@pytest.mark.parametrize("per_event", [1.0, 50.0])
def test_held_out_rows_come_once_whatever_the_size_of_a_piece(per_event: float, monkeypatch: Any) -> None:
    monkeypatch.setattr(train, "_ROWS_EVALUATED", 1 << 10)
    key = np.arange(20_000)
    resample = Resample(seed=1, members=3, validation=0.2, bootstrap=True)
    risk = train.Risk(losses.bce, (torch.ones(1), torch.ones(1)), key, resample)
    found = np.zeros((3, len(key)), np.int64)
    for rows, times in train._held_blocks(risk, np.arange(3), per_event):
        assert rows.shape[1] <= 1024 / 3
        for n in range(3):
            np.add.at(found[n], rows[n].numpy(), times[n].numpy())
    assert np.array_equal(found, np.stack([resample.times(n, key, held_out=True) for n in range(3)]))


def test_the_message_counts_ids_that_do_not_tell_events_apart() -> None:
    resample = Resample(seed=1, validation=0.2)
    risk = train.Risk(losses.bce, (torch.ones(50), torch.ones(50)), np.full(50, 7), resample)
    with pytest.raises(ValueError, match=r"1 different ids or groups.*ids that tell events apart"):
        train._totals(risk, held_out=not resample.times(0, risk.key[:1], held_out=True)[0])


def test_patience_without_held_out_rows_is_refused() -> None:
    with pytest.raises(ValueError, match=r"patience=3 stops on held-out events, found none"):
        run(Resample(seed=1, validation=0), Training(epochs=2, batch=64, patience=3))


# -- rows that are completed -------------------------------------------------------------------------------------------


class Table(Draw):
    """Columns, factors and targets of each row from tables; in ``epochs`` what it was asked for."""

    def __init__(self, columns: Tensor, factors: tuple[Tensor, ...] = (), targets: tuple[Tensor, ...] = ()) -> None:
        self.columns, self.factors, self.targets = columns, factors, targets
        self.epochs: list[int | None] = []

    def __call__(self, rows: Tensor, networks: NDArray[np.int64], epoch: int | None) -> Drawn:
        assert rows.shape[1] == len(networks)
        self.epochs.append(epoch)
        return Drawn(self.columns[rows], tuple(f[rows] for f in self.factors), tuple(t[rows] for t in self.targets))

    def describe(self) -> str:
        return train.digest(self.columns, *self.factors, *self.targets)


def completed(draw: Draw, inputs: Inputs, loss: losses.Loss = losses.bce, **options: Any) -> Trained:
    """A training of networks of both columns, on inputs that hold those which the draw does not add."""
    _, weights, key = sample()
    stack = nets.stack(SPEC, Features(["a", "b"]).shape)
    resample = Resample(seed=4, members=2, folds=2, validation=0.3, bootstrap=True)
    risk = Risk(loss, weights, key, resample, draw=draw)
    state = stack.initial(4, range(4))
    return train.minimise(stack, state, inputs, risk, Training(epochs=3, batch=32), progress=False, **options)


def test_columns_that_are_drawn_are_columns() -> None:
    """The same numbers to the bit as with these columns among the inputs, in training and validation."""
    inputs, _, _ = sample()
    plain = run(Resample(seed=4, members=2, folds=2, validation=0.3, bootstrap=True), Training(epochs=3, batch=32))
    draw = Table(inputs.flat[:, 1:])
    same(completed(draw, Inputs(inputs.flat[:, :1].contiguous())), plain)
    assert set(draw.epochs) == {0, 1, 2, None}
    other = completed(Table(inputs.flat[:, :1]), Inputs(inputs.flat[:, :1].contiguous()))
    assert not np.array_equal(other.history.train, plain.history.train)


def test_factors_multiply_the_class_weights_and_targets_follow_them() -> None:
    """Factors of 2 for both classes double the risk; of one class they are what the loss is told."""
    inputs, _, _ = sample()
    first, one = Inputs(inputs.flat[:, :1].contiguous()), torch.ones(400)
    seen = []

    def loss(outputs: Tensor, weights: tuple[Tensor, ...]) -> Tensor:
        seen.append(len(weights))
        torch.testing.assert_close(weights[2], weights[3] ** 2)
        return losses.bce(outputs, weights[:2])

    rows = torch.arange(400.0)
    plain = completed(Table(inputs.flat[:, 1:], targets=(rows**2, rows)), first, loss)
    doubled = completed(Table(inputs.flat[:, 1:], (2 * one, 2 * one), (rows**2, rows)), first, loss)
    assert set(seen) == {4}
    np.testing.assert_allclose(doubled.history.train[0], 2 * plain.history.train[0], rtol=2e-2)
    np.testing.assert_allclose(doubled.history.validation[-1], 2 * plain.history.validation[-1], rtol=2e-2)
    skewed = completed(Table(inputs.flat[:, 1:], (2 * one, one), (rows**2, rows)), first, loss)
    assert np.abs(skewed.history.train[0] / plain.history.train[0] - 1.5).max() < 0.1


def test_a_checkpoint_knows_its_draw(tmp_path: Path) -> None:
    inputs, _, _ = sample()
    first, path = Inputs(inputs.flat[:, :1].contiguous()), tmp_path / "c.safetensors"
    completed(Table(inputs.flat[:, 1:]), first, checkpoint=path)
    with pytest.raises(ValueError, match=r"belongs to another configuration \(draw: expected"):
        completed(Table(inputs.flat[:, 1:] + 1), first, checkpoint=path)


def test_slopes_are_the_gradient_with_respect_to_the_last_columns() -> None:
    inputs, _, _ = sample()
    stack = nets.stack(SPEC, Features(["a", "b"]).shape)
    state = {name: t.double() for name, t in stack.initial(1, [0, 1]).items()}
    batch = Batch(inputs.flat[:50].double().expand(2, -1, -1), {})
    found = train.outputs_of(stack, state, batch, 1)
    assert found.shape == (2, 50, 2)
    torch.testing.assert_close(found[..., 0], stack(state, batch))
    step = torch.tensor([0.0, 1e-6], dtype=torch.float64)
    up, down = (stack(state, Batch(batch.flat + sign * step, {})) for sign in (1, -1))
    torch.testing.assert_close(found[..., 1], (up - down) / 2e-6, rtol=1e-7, atol=1e-8)
    other = train.outputs_of(stack, state, batch, 2)
    torch.testing.assert_close(other[..., 2], found[..., 1])
    assert (other[..., 1] - found[..., 1]).abs().max() > 1e-3
