"""`nuinfer.ratio`: log ratios against exact ones, in units of what the sample allows.

The yardstick is Q = n E[s (1 - s) (f - log r)^2] over points of both classes, s = r / (1 + r): twice the log-likelihood
that the error costs n training events, hence a chi-squared with as many degrees of freedom as the network has effective
parameters: 2 for a linear network, about 10 for a smooth function of one variable.  With signed weights the variance
grows by n over the effective size.  No fit at all, f = 0, has a Q of thousands.
"""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from scipy import special
from torch import nn

from nuinfer import MLP, DeepSet, Events, Features, Ratio, Training, Transformer, Trees, fit_ratio, metrics
from nuinfer.errors import CorruptFile
from nuinfer.ratio import refine, two_sample_test
from nuinfer.simulators import CloudRatio, Gaussian, GaussianRatio

TOY = GaussianRatio()  # log r = 2x
MILD = GaussianRatio(p1=Gaussian(0.5), p0=Gaussian(-0.5))  # log r = x
SMALL = MLP(width=16, depth=2)
TRAIN = Training(epochs=15, batch=256)
N = 10_000


def linear() -> nn.Module:
    """The exact model of a ratio of Gaussians of one width."""
    return nn.Linear(1, 1)


def exact(rows: int, steps: int = 250) -> dict[str, Any]:
    """Options that bring a linear network to the minimum of its risk: many large batches, nothing held out."""
    epochs = -(-steps // -(-rows // 4096))
    training = Training(epochs=epochs, batch=min(rows, 4096), learning_rate=0.1, weight_decay=0.0, patience=None)
    return {"network": linear, "validation": 0.0, "training": training}


def fit(problem: Any = TOY, n: int = N, seed: int = 1, features: Any = ("x0",), **options: Any) -> Ratio:
    options = {"network": SMALL, "training": TRAIN, "seed": seed, "progress": False} | options
    return fit_ratio(problem.numerator(n, seed), problem.denominator(n, seed), Features.of(features), **options)


def excess(log: Any, problem: Any, n: int, points: int = 4000) -> float:
    """Q of a log ratio, a function of events, for n training events in all."""
    total = 0.0
    for events in (problem.numerator(points, 1009), problem.denominator(points, 1009)):
        exact = problem.log_ratio(events)
        s = special.expit(exact)
        total += n * float(np.mean(s * (1 - s) * (log(events) - exact) ** 2)) / 2
    return total


def nothing(events: Events) -> np.ndarray:
    return np.zeros(len(events))


# -- the answer -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("loss", ["bce", "mlc", "sqrt"])
def test_log_ratio_is_x_for_every_loss(loss: Any) -> None:
    ratio = fit(MILD, loss=loss, members=3)
    assert excess(ratio.log, MILD, 2 * N) < 40
    assert excess(nothing, MILD, 2 * N) > 2000
    assert excess(lambda e: 0.8 * ratio.log(e), MILD, 2 * N) > 80


def test_log_ratio_is_2x() -> None:
    ratio = fit(TOY, members=3)
    assert excess(ratio.log, TOY, 2 * N) < 40
    assert excess(nothing, TOY, 2 * N) > 5000
    assert excess(lambda e: ratio.log(e) + 0.1, TOY, 2 * N) > excess(ratio.log, TOY, 2 * N) + 10


@pytest.mark.parametrize("network", [SMALL, nn.Sequential])
def test_another_default_precision_of_torch_changes_nothing(network: Any) -> None:
    """Other packages set it to float64 for everybody, pyhf's torch backend for one."""
    made = (lambda: nn.Sequential(nn.Linear(1, 8), nn.ReLU(), nn.Linear(8, 1))) if network is nn.Sequential else network
    events = TOY.numerator(50, 3)
    options: dict[str, Any] = {"network": made, "members": 2, "training": Training(epochs=1, batch=128)}
    before = fit(n=300, **options).members(events)
    torch.set_default_dtype(torch.float64)
    try:
        after = fit(n=300, **options).members(events)
        assert torch.get_default_dtype() == torch.float64
    finally:
        torch.set_default_dtype(torch.float32)
    np.testing.assert_array_equal(after, before)


def weightings(seed: int, n: int = 4000, *, shift: int = 0) -> tuple[Events, Events]:
    """A variation that is a weight, exp(0.2 tanh x), and the nominal sample; with ``shift`` as if of other events."""
    x = np.random.default_rng(seed).normal(0, 1, n)
    nominal = Events({"x0": x})
    return Events({"x0": x}, weight=np.exp(0.2 * np.tanh(x)), id=nominal.id + shift), nominal


def test_two_weightings_of_the_same_events_are_one_sample_with_two_weights() -> None:
    """The same minimum, and at the same number of steps a smaller error: the labels make no noise."""
    grid = np.linspace(-2.5, 2.5, 101)
    points, density = Events({"x0": grid}), np.exp(-(grid**2) / 2) / np.exp(-(grid**2) / 2).sum()
    x = np.linspace(-8, 8, 4001)
    norm = np.log(np.average(np.exp(0.2 * np.tanh(x)), weights=np.exp(-(x**2) / 2)))
    truth = 0.2 * np.tanh(grid) - norm

    def rms(ratio: Ratio) -> float:
        return float(np.sqrt(np.sum(density * (ratio.log(points) - truth) ** 2)))

    options: dict[str, Any] = {"network": SMALL, "validation": 0.0, "progress": False}
    one, other = [], []
    for seed in (1, 2, 3):
        same, apart = weightings(seed), weightings(seed, shift=1)
        one.append(rms(fit_ratio(*same, ["x0"], seed=seed, training=Training(epochs=20, batch=256), **options)))
        other.append(rms(fit_ratio(*apart, ["x0"], seed=seed, training=Training(epochs=10, batch=256), **options)))
    assert np.mean(one) < 0.8 * np.mean(other)
    assert np.mean(other) < 0.5 * np.sqrt(np.sum(density * truth**2))  # both learn, and no fit at all is worse
    linear = [fit_ratio(*w, ["x0"], seed=1, progress=False, **exact(8000)) for w in (same, apart)]
    np.testing.assert_allclose(*(ratio.log(points) for ratio in linear), atol=0.01)
    # weights of both kinds may vanish, and the digests stay those of the samples given
    numerator, nominal = weightings(1)
    halves = numerator.with_weight(np.where(np.arange(4000) < 2000, numerator.weight, 0.0))
    rest = nominal.with_weight(np.where(np.arange(4000) < 2500, 1.0, 0.0))
    ratio = fit_ratio(halves, rest, ["x0"], seed=1, training=Training(epochs=1, batch=256), **options)
    assert ratio.samples == (halves.digest(), rest.digest())
    assert ratio.yields == (pytest.approx(halves.sum_weights), 2500)


@pytest.mark.parametrize("seed", [1, 2, 3])
def test_a_linear_network_has_fishers_error(seed: int) -> None:
    """Q is a chi-squared of 2 degrees of freedom: beyond 20 lie 5e-5 of it."""
    assert excess(fit(TOY, seed=seed, **exact(2 * N)).log, TOY, 2 * N) < 20


@pytest.mark.parametrize("dim", [2, 3])
def test_several_dimensions_with_correlations(dim: int) -> None:
    covariance = 0.6 * np.eye(dim) + 0.35
    problem = GaussianRatio(p1=Gaussian(np.linspace(0, 0.8, dim), covariance), p0=Gaussian(np.zeros(dim), np.eye(dim)))
    ratio = fit(problem, features=[f"x{i}" for i in range(dim)], network=MLP(width=32, depth=2), members=2)
    assert excess(ratio.log, problem, 2 * N) < 120  # a quadratic form has 10 parameters, a network of 3 inputs some 50
    assert excess(nothing, problem, 2 * N) > 1500
    line = problem.p1.mean - problem.p0.mean  # a linear fit is not enough
    assert excess(lambda e: np.stack([e[f"x{i}"] for i in range(dim)], 1) @ line, problem, 2 * N) > 500


def test_clouds_add_up_in_a_deep_set() -> None:
    problem = CloudRatio(size1=5.0, size0=4.0)
    features = Features(hits=["x0"])
    ratio = fit(problem, 6000, features=features, network=DeepSet(width=16, latent=8, head=SMALL), members=2)
    assert excess(ratio.log, problem, 12_000) < 60
    assert excess(nothing, problem, 12_000) > 1500
    counted = np.log(5 / 4)
    by_number = excess(lambda e: counted * e["hits.x0"].counts - 1, problem, 12_000)
    assert by_number > 1000  # the number of particles alone does not do


def test_clouds_in_a_transformer() -> None:
    problem = CloudRatio(size1=3.0, size0=2.0)
    network = Transformer(width=8, heads=2, layers=1, head=MLP(width=16, depth=1))
    training = Training(epochs=8, batch=128, learning_rate=5e-3)
    ratio = fit(problem, 3000, features=Features(hits=["x0"]), network=network, training=training)
    assert excess(ratio.log, problem, 6000) < 120
    assert excess(nothing, problem, 6000) > 500


def test_flat_columns_and_clouds_together() -> None:
    """Independent parts: the log ratios add."""
    clouds, flat = CloudRatio(size1=3.0, size0=2.0), MILD

    class Both:
        def numerator(self, n: int, seed: int) -> Events:
            return clouds.numerator(n, seed).with_columns(x0=flat.numerator(n, seed)["x0"])

        def denominator(self, n: int, seed: int) -> Events:
            return clouds.denominator(n, seed).with_columns(x0=flat.denominator(n, seed)["x0"])

        def log_ratio(self, events: Events) -> Any:
            return clouds.log_ratio(events) + flat.log_ratio(events["x0"])

    ratio = fit(Both(), 6000, features=Features(["x0"], hits=["x0"]), network=DeepSet(width=16, latent=8, head=SMALL))
    assert excess(ratio.log, Both(), 12_000) < 80
    assert excess(clouds.log_ratio, Both(), 12_000) > 500
    assert excess(lambda e: flat.log_ratio(e["x0"]), Both(), 12_000) > 500


def test_trees() -> None:
    ratio = fit(MILD, network=Trees(leaves=8, min_leaf=300), members=2)
    assert excess(ratio.log, MILD, 2 * N) < 100
    assert ratio.history is None


# -- weights ----------------------------------------------------------------------------------------------------------


def test_signed_weights_are_weights_and_absolute_ones_are_wrong() -> None:
    problem, n = GaussianRatio(negative=0.3), 2 * N
    one, zero = problem.numerator(n, 1), problem.denominator(n, 1)
    assert (one.weight < 0).mean() > 0.1
    size = one.effective_size + zero.effective_size  # about half of the events
    ratio = fit(problem, n, **exact(2 * n))
    assert excess(ratio.log, problem, int(size)) < 20
    flexible = fit(problem, n, members=3)
    assert excess(flexible.log, problem, int(size)) < 40
    wrong = fit_ratio(one.with_weight(np.abs(one.weight)), zero.with_weight(np.abs(zero.weight)), ["x0"],
                      seed=1, progress=False, **exact(2 * n))  # fmt: skip
    assert excess(wrong.log, problem, int(size)) > 45
    positive = [events.with_weight(1.0).select(events.weight > 0) for events in (one, zero)]
    ignored = fit_ratio(*positive, ["x0"], seed=1, progress=False, **exact(2 * n))
    assert excess(ignored.log, problem, int(size)) > 25


@pytest.mark.parametrize("what", ["twice", "absent", "cancels"])
def test_trained_answers_know_what_a_weight_is(what: str) -> None:
    """Within half of a standard deviation of the fit: the two fits differ by the optimiser's noise only."""
    one, zero, extra = MILD.numerator(4000, 1), MILD.denominator(4000, 1), TOY.numerator(1000, 2)
    copies = Events({"x0": extra["x0"]}, id=np.arange(1000))
    pairs: dict[str, tuple[list[Events], list[Events]]] = {
        "twice": ([one, extra.with_weight(2.0)], [one, extra, copies]),
        "absent": ([one, extra.with_weight(0.0)], [one]),
        "cancels": ([one, extra, copies.with_weight(-1.0)], [one]),
    }
    x = Events({"x0": np.linspace(-2, 2, 9)})
    first, second = (
        fit_ratio(Events.concat(parts), zero, ["x0"], seed=1, progress=False, **exact(9000)).log(x)
        for parts in pairs[what]
    )
    sigma = 2 / np.sqrt(4000)
    np.testing.assert_allclose(first, second, atol=0.5 * sigma)
    plain = fit_ratio(Events.concat([one, extra]), zero, ["x0"], seed=1, progress=False, **exact(9000)).log(x)
    assert np.abs(plain - first).max() > 2 * sigma


def test_a_negative_density_is_reported(caplog: pytest.LogCaptureFixture) -> None:
    rng = np.random.default_rng(1)
    x = rng.normal(size=4000)
    one = Events({"x": x}, weight=np.where((x > 1) & (rng.random(4000) < 0.9), -1.0, 1.0))
    with caplog.at_level(logging.WARNING, logger="nuinfer"):
        fit_ratio(one, Events({"x": -x}), ["x"], network=SMALL, training=Training(epochs=2), seed=1, progress=False)
    assert "the net weight of the numerator is negative by" in caplog.text
    caplog.clear()
    fit(GaussianRatio(negative=0.3), 4000, training=Training(epochs=2))
    assert not caplog.text


def test_yields_carry_the_rates() -> None:
    one, zero = TOY.numerator(2000, 1), TOY.denominator(1000, 1)
    ratio, scaled = (
        fit_ratio(
            one.with_weight(w), zero.with_weight(3.0), ["x0"], seed=1, training=TRAIN, network=SMALL, progress=False
        )
        for w in (0.5, 5.0)
    )
    assert ratio.yields == (1000.0, 3000.0)
    assert scaled.yields == (10_000.0, 3000.0)
    x = Events({"x0": np.linspace(-2, 2, 9)})
    np.testing.assert_allclose(ratio.log(x), scaled.log(x), atol=1e-3)  # shapes only


# -- is it good? ------------------------------------------------------------------------------------------------------


def test_report_on_held_out_events() -> None:
    """Sizes: 4 times fewer events to judge than to train, so that their own statistics dominate."""
    ratio = fit(MILD, members=3)
    one, zero = MILD.numerator(2500, 50), MILD.denominator(2500, 50)
    report = ratio.report(one, zero)
    assert abs(report.mean_weight - 1) < 4 * report.mean_weight_error
    assert report.mean_weight_error < 0.05
    assert np.sum(report.reliability.pulls**2) < 10 + 5 * np.sqrt(20)
    assert abs(report.two_sample.z) < 4
    assert report.two_sample_before.z > 20
    assert abs(report.two_sample.accuracy.z) < 4
    # E_0[r^2] = e for this toy: reweighted, N / e events are left
    assert report.effective_size[0] == 2500
    assert report.effective_size[1] == pytest.approx(2500 / np.e, rel=0.2)
    text = str(report)
    for part in ("mean weight E_0[r] = ", "reliability: chi2 = ", "effective size", "two-sample test: AUC"):
        assert part in text


def test_report_sees_what_is_wrong() -> None:
    """A ratio that is 1.7 times too steep fails each of the checks."""
    ratio = fit(MILD)
    wrong = Ratio(**{**vars(ratio), "calibration": "temperature", "maps": np.log([[1.7]])})
    report = wrong.report(MILD.numerator(2500, 50), MILD.denominator(2500, 50))
    assert abs(report.mean_weight - 1) > 4 * report.mean_weight_error
    assert np.sum(report.reliability.pulls**2) > 100
    assert abs(report.two_sample.z) > 4


def test_data_equal_to_simulation_gives_the_ratio_one() -> None:
    same = GaussianRatio(p1=Gaussian(0.0), p0=Gaussian(0.0))
    shifted = GaussianRatio(p1=Gaussian(0.1), p0=Gaussian(0.0))
    assert excess(fit(same, **exact(2 * N)).log, same, 2 * N) < 20
    assert excess(fit(same, members=3).log, same, 2 * N) < 40
    assert excess(nothing, shifted, 2 * N) > 40  # a shift of a tenth would be seen
    assert excess(fit(shifted, **exact(2 * N)).log, shifted, 2 * N) < 20


def test_two_sample_test_is_fair_and_has_power() -> None:
    same = [
        two_sample_test(MILD.numerator(1000, s), MILD.numerator(1000, s + 50), ["x0"], seed=s, progress=False)
        for s in range(4)
    ]
    assert np.sum([t.z**2 for t in same]) < 4 + 4 * np.sqrt(8)
    assert all(t.auc.value < 0.57 for t in same)
    shifted = two_sample_test(MILD.numerator(1000, 1), MILD.denominator(1000, 1), ["x0"], seed=1, progress=False)
    assert shifted.auc.value == pytest.approx(special.ndtr(1 / np.sqrt(2)), abs=4 * 0.012)  # Phi(distance / sqrt 2)
    assert shifted.z > 10  # 14.2 expected from the exact AUC and the null deviation of one fold


# -- ensembles --------------------------------------------------------------------------------------------------------


def test_the_ensembles_answer_is_the_log_of_the_mean_ratio() -> None:
    ratio, events = fit(MILD, 1000, members=3, training=Training(epochs=3, batch=128)), MILD.denominator(500, 3)
    members = ratio.members(events)
    assert members.shape == (3, 500)
    assert members.dtype == np.float64
    np.testing.assert_allclose(ratio.log(events), np.log(np.exp(members).mean(0)), rtol=1e-12)
    np.testing.assert_allclose(ratio.weights(events), np.exp(members).mean(0), rtol=1e-12)
    assert np.std(members, 0).min() > 0
    assert np.abs(ratio.log(events) - members.mean(0)).max() > 1e-4  # not the mean of the logs


@pytest.mark.parametrize("network", [SMALL, linear], ids=["MLP", "module"])
def test_member_k_does_not_depend_on_the_number_of_members(network: Any) -> None:
    few, many = (fit(MILD, 1000, members=m, network=network, training=Training(epochs=3, batch=128)) for m in (2, 4))
    events = MILD.denominator(100, 3)
    np.testing.assert_allclose(few.members(events), many.members(events)[:2], atol=2e-4)


def test_the_same_seed_gives_the_same_bits() -> None:
    events = MILD.denominator(100, 3)
    one, two, other = (
        fit_ratio(MILD.numerator(1000, 1), MILD.denominator(1000, 1), ["x0"], members=2, folds=2, calibrate="monotone",
                  bootstrap=True, network=SMALL, training=Training(epochs=2), seed=s, progress=False).log(events)
        for s in (1, 1, 2)
    )  # fmt: skip
    np.testing.assert_array_equal(one, two)
    assert np.abs(one - other).min() > 0


def test_bootstrapped_members_spread_by_the_statistical_error() -> None:
    """The Fisher error of a linear log ratio is exact; 40 replicas know their spread to 11 per cent."""
    n, at = 500, np.array([-1.0, 0.0, 1.0])
    events, grid = Events({"x0": at}), np.linspace(-7, 7, 4001)
    s = special.expit(grid)
    density = n * (np.exp(-((grid - 0.5) ** 2) / 2) + np.exp(-((grid + 0.5) ** 2) / 2)) / np.sqrt(2 * np.pi)
    basis = np.stack([np.ones_like(grid), grid])
    fisher = np.einsum("in,jn,n->ij", basis, basis, s * (1 - s) * density) * (grid[1] - grid[0])
    points = np.stack([np.ones(3), at])
    # class totals are no parameters: normalised weights take out the error of the offset that n1 / n0 makes, 2 / n
    sigma = np.sqrt(np.einsum("in,jn,ij->n", points, points, np.linalg.inv(fisher)) - 2 / n)
    spread = [
        fit(MILD, n, members=m, bootstrap=b, **exact(2 * n, 120)).members(events).std(0, ddof=1)
        for b, m in ((True, 40), (False, 6))
    ]
    np.testing.assert_allclose(spread[0] / sigma, 1, atol=4 / np.sqrt(2 * 39) + 0.05)
    assert (spread[1] < 0.2 * sigma).all()  # without bootstraps they differ by the optimiser only


def test_tensor_is_the_differentiable_twin() -> None:
    ratio = fit(MILD, members=3)
    events = Events({"x0": np.linspace(-1.5, 1.5, 7)})
    batch = Features(["x0"]).tensors(events).span(0, 7)
    batch.flat.requires_grad_()
    found = ratio.tensor(batch)
    np.testing.assert_allclose(found.detach(), ratio.log(events), atol=1e-5)
    (slope,) = torch.autograd.grad(found.sum(), batch.flat)
    np.testing.assert_allclose(slope[0, :, 0], 1.0, atol=0.5)  # d log r / dx = 1
    step = Events({"x0": events["x0"] + 1e-2}), Events({"x0": events["x0"] - 1e-2})
    np.testing.assert_allclose(slope[0, :, 0], (ratio.log(step[0]) - ratio.log(step[1])) / 2e-2, atol=1e-2)
    with pytest.raises(TypeError, match="expected a ratio of networks without calibration, found trees"):
        fit(MILD, 1000, network=Trees(iterations=2)).tensor(batch)
    with pytest.raises(TypeError, match="found 'temperature'"):
        fit(MILD, 1000, training=Training(epochs=1), calibrate="temperature").tensor(batch)


# -- folds ------------------------------------------------------------------------------------------------------------

GREEDY: dict[str, Any] = {
    "network": MLP(width=64, depth=3),
    "validation": 0.0,
    "training": Training(epochs=80, batch=64, learning_rate=5e-3, weight_decay=0.0),
    "progress": False,
}


def noise(n: int, seed: int, copies: int = 1) -> Events:
    """Ten columns without any difference between seeds; copies share a parent."""
    rng = np.random.default_rng(seed)
    columns: dict[str, Any] = {f"x{i}": np.repeat(rng.normal(size=n), copies) for i in range(10)}
    columns["parent"] = np.repeat(rng.integers(0, 1 << 40, n), copies)
    return Events(columns)


def auc(ratio: Ratio, one: Events, zero: Events) -> float:
    return metrics.roc_auc(ratio.log(one), ratio.log(zero)).value


def test_out_of_fold_scores_are_honest_where_a_flexible_network_remembers() -> None:
    one, zero, columns = noise(300, 1), noise(300, 2), [f"x{i}" for i in range(10)]
    remembers = fit_ratio(one, zero, columns, seed=1, **GREEDY)
    assert auc(remembers, one, zero) > 0.9  # no difference exists
    honest = fit_ratio(one, zero, columns, folds=3, members=2, seed=1, **GREEDY)
    sigma = np.sqrt(1 / 12 * (2 / 300))
    assert auc(honest, one, zero) == pytest.approx(0.5, abs=4 * sigma)
    # the same networks, asked as if the ids were new, show what they remember
    unknown = [Events({c: e[c] for c in columns}, id=np.arange(len(e))) for e in (one, zero)]
    assert auc(honest, *unknown) > 0.8


def test_known_ids_get_their_own_fold_and_others_the_mean() -> None:
    ratio = fit(MILD, 500, members=2, folds=3, training=Training(epochs=2, batch=128))
    known, new = MILD.numerator(500, 1), MILD.numerator(50, 7)
    mixed = Events.concat([new, known.select([3, 1, 4])])
    each = ratio._networks(ratio.features.tensors(mixed)).reshape(2, 3, 53)
    fold = ratio.resample.fold_of(mixed.id)
    expected = np.log(np.exp(each).mean(1))
    for i in (50, 51, 52):
        expected[:, i] = each[:, fold[i], i]
    np.testing.assert_allclose(ratio.members(mixed), expected, rtol=1e-12)
    np.testing.assert_allclose(ratio.members(known)[:, [3, 1, 4]], ratio.members(mixed)[:, 50:], rtol=1e-5, atol=1e-6)


def test_a_fold_never_trains_on_its_own_events() -> None:
    """The network of an event's fold does not change when that event moves; the others do."""
    one, zero = MILD.numerator(200, 1), MILD.denominator(200, 1)
    x = one["x0"].copy()
    x[7] += 3.0
    points = MILD.numerator(50, 3)
    before, after = (
        fit_ratio(e, zero, ["x0"], folds=2, seed=1, progress=False, **exact(400))._networks(
            Features(["x0"]).tensors(points)
        )
        for e in (one, Events({"x0": x}, id=one.id))
    )
    fold = int(one.folds(2, seed=1)[7])
    change = np.abs(after - before).max(1)
    assert change[fold] < 0.2 * change[1 - fold]


def test_groups_stay_together() -> None:
    """Four copies of each event: split by their own ids, folds leak; split by parent, they do not."""
    one, zero, columns = noise(150, 1, 4), noise(150, 2, 4), [f"x{i}" for i in range(10)]
    leaks = fit_ratio(one, zero, columns, folds=2, seed=1, **GREEDY)
    assert auc(leaks, one, zero) > 0.8
    honest = fit_ratio(one, zero, columns, folds=2, group="parent", seed=1, **GREEDY)
    assert auc(honest, one, zero) == pytest.approx(0.5, abs=4 * np.sqrt(1 / 12 * (2 / 150)))
    with pytest.raises(KeyError, match="no column 'parent', by which this ratio knows the events"):
        honest.log(one.keep(columns))
    plain = fit_ratio(one, zero, columns, group="parent", seed=1, **{**GREEDY, "training": Training(epochs=1)})
    assert plain.log(one.keep(columns)).shape == (600,)  # without folds no event has a network of its own


# -- calibration ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["temperature", "monotone"])
@pytest.mark.parametrize("network", [SMALL, Trees(leaves=8, min_leaf=200)], ids=["MLP", "Trees"])
def test_calibration_of_a_good_ratio_changes_little(kind: Any, network: Any) -> None:
    ratio = fit(MILD, network=network, calibrate=kind, members=2)
    assert excess(ratio.log, MILD, 2 * N) < 100  # the maps are fitted on a fifth of the events
    assert ratio.maps.shape[0] == 2


def test_calibration_mends_an_overtrained_ratio() -> None:
    """Many epochs on few events separate too well; a temperature fitted on held-out events puts that right."""
    greedy = {**GREEDY, "validation": 0.4}
    one, zero, columns = noise(600, 1), noise(600, 2), [f"x{i}" for i in range(10)]
    test = [noise(3000, seed) for seed in (11, 12)]
    raw, mended = (fit_ratio(one, zero, columns, calibrate=c, seed=1, **greedy) for c in (None, "temperature"))
    spread = [np.concatenate([r.log(e) for e in test]).std() for r in (raw, mended)]
    assert spread[0] > 1  # log r = 0
    assert spread[1] < 0.3


# -- files ------------------------------------------------------------------------------------------------------------

CLOUD = CloudRatio(size1=3.0, size0=2.0)
SAVED: dict[str, tuple[Any, Any, dict[str, Any]]] = {
    "MLP": (MILD, SMALL, {"calibrate": "monotone", "folds": 2, "members": 2, "bootstrap": True}),
    "MLP residual": (MILD, MLP(width=8, depth=3, activation="gelu", residual=True), {"loss": "sqrt"}),
    "DeepSet": (CLOUD, DeepSet(width=8, latent=4, pool="max"), {"calibrate": "temperature", "members": 2}),
    "Transformer": (CLOUD, Transformer(width=8, heads=2, layers=1), {"folds": 2}),
    "Trees": (MILD, Trees(iterations=5), {"folds": 2, "calibrate": "monotone"}),
    "module": (MILD, linear, {"folds": 2}),
    "batch norm": (MILD, lambda: nn.Sequential(nn.BatchNorm1d(1), nn.Linear(1, 1)), {"members": 2}),
}


@pytest.mark.parametrize("name", SAVED)
def test_saved_and_loaded_answers_are_equal_to_the_bit(name: str, tmp_path: Path) -> None:
    problem, network, options = SAVED[name]
    features = Features(hits=["x0"]) if problem is CLOUD else Features(["x0"])
    ratio = fit(problem, 300, features=features, network=network, training=Training(epochs=2, batch=64), **options)
    path = tmp_path / "ratio.safetensors"
    ratio.save(path)
    module = network if name in ("module", "batch norm") else None
    again = Ratio.load(path, module=module)
    events = Events.concat([problem.numerator(300, 1), problem.numerator(100, 5)])  # known and unknown ids
    np.testing.assert_array_equal(again.log(events), ratio.log(events))
    np.testing.assert_array_equal(again.members(events), ratio.members(events))
    assert repr(again) == repr(ratio) or module is not None
    for field in ("features", "resample", "yields", "group", "loss", "calibration"):
        assert getattr(again, field) == getattr(ratio, field)
    if ratio.history is not None:
        assert again.history is not None
        np.testing.assert_array_equal(again.history.validation, ratio.history.validation)
    again.save(tmp_path / "again.safetensors")
    assert (tmp_path / "again.safetensors").read_bytes() == path.read_bytes()


def test_a_users_network_has_to_be_given_again(tmp_path: Path) -> None:
    path = tmp_path / "ratio.safetensors"
    fit(MILD, 300, network=linear, training=Training(epochs=1)).save(path)
    with pytest.raises(ValueError, match=r"network of your own.*load\(path, module=factory\)"):
        Ratio.load(path)
    with pytest.raises(
        ValueError, match=r"expected a network with the saved tensors, found another in 'weight'.*\(1, 1\).*\(1, 2\)"
    ):
        Ratio.load(path, module=lambda: nn.Linear(2, 1))
    with pytest.raises(ValueError, match=r"found another in '0.bias'"):
        Ratio.load(path, module=lambda: nn.Sequential(nn.Linear(1, 1)))


def test_damaged_files_are_refused(tmp_path: Path) -> None:
    path, bad = tmp_path / "ratio.safetensors", tmp_path / "bad.safetensors"
    fit(MILD, 300, training=Training(epochs=1)).save(path)
    content = path.read_bytes()
    for bit in np.random.default_rng(1).integers(0, 8 * len(content), 60):
        flipped = bytearray(content)
        flipped[bit // 8] ^= 1 << (bit % 8)
        bad.write_bytes(bytes(flipped))
        with pytest.raises(CorruptFile):
            Ratio.load(bad)
    bad.write_bytes(content[:-1])
    with pytest.raises(CorruptFile):
        Ratio.load(bad)
    with pytest.raises(FileNotFoundError, match=r"closest: .*ratio\.safetensors"):
        Ratio.load(tmp_path / "ratoi.safetensors")


def test_repr_says_what_it_is() -> None:
    text = repr(fit(MILD, 300, members=2, folds=3, calibrate="temperature", training=Training(epochs=1)))
    assert text == "Ratio(MLP, 2 members x 3 folds, columns x0; yields 300 / 300, calibrated (temperature))"


def test_a_checkpoint_is_resumed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from nuinfer import train

    path, short = tmp_path / "c.safetensors", Training(epochs=3, batch=128)
    whole = fit(MILD, 500, training=short)
    with monkeypatch.context() as patch:
        real, calls = train._Loop._validate, []

        def dying(loop: Any) -> Any:
            calls.append(1)
            if len(calls) == 3:
                raise KeyboardInterrupt
            return real(loop)

        patch.setattr(train._Loop, "_validate", dying)
        with pytest.raises(KeyboardInterrupt):
            fit(MILD, 500, training=short, checkpoint=path)
    events = MILD.denominator(100, 3)
    np.testing.assert_array_equal(fit(MILD, 500, training=short, checkpoint=path).log(events), whole.log(events))
    with pytest.raises(ValueError, match=r"belongs to another configuration \(.*network: expected .*width=8"):
        fit(MILD, 500, training=short, checkpoint=path, network=MLP(width=8, depth=2))


def test_features_mapped_from_files_give_as_good_an_answer(tmp_path: Path) -> None:
    features = Features(["x0"])
    ratio = fit(MILD, members=2, folds=2, features=features, cache=tmp_path / "cache")
    assert excess(ratio.log, MILD, 2 * N) < 40
    again = fit(MILD, members=2, folds=2, features=features, cache=tmp_path / "cache")
    events = MILD.numerator(100, 1)
    np.testing.assert_array_equal(ratio.log(events), again.log(events))
    # rows, weights and keys are shuffled alike: known ids still have the fold that did not train on them
    one, zero, columns = noise(300, 1), noise(300, 2), [f"x{i}" for i in range(10)]
    honest = fit_ratio(one, zero, columns, folds=2, seed=1, cache=tmp_path / "cache", **GREEDY)
    assert auc(honest, one, zero) == pytest.approx(0.5, abs=4 * np.sqrt(1 / 12 * (2 / 300)))


# -- bad input --------------------------------------------------------------------------------------------------------

ONE, ZERO = MILD.numerator(100, 1), MILD.denominator(100, 1)
WITH_NAN = np.where(np.arange(100) == 5, np.nan, ONE["x0"])


@pytest.mark.parametrize(
    ("one", "zero", "options", "error", "message"),
    [
        (ONE.select(slice(0, 0)), ZERO, {}, ValueError, "numerator: expected events, found an empty sample"),
        (ONE, ZERO.select(slice(0, 0)), {}, ValueError, "denominator: expected events, found an empty sample"),
        (ONE, ZERO.with_weight(0.0), {}, ValueError, "denominator: .* found 100 weights that are all zero"),
        (ONE.with_weight(-1.0), ZERO, {}, ValueError, "numerator: expected a positive .* found -100 from 100"),
        (ONE.with_columns(x0=WITH_NAN), ZERO, {}, ValueError, r"'x0'.* 1 of 100 not finite, first at rows 5 \(nan\)"),
        (ONE, ZERO, {"features": ["x1"]}, KeyError, "no column 'x1'; closest: 'x0'"),
        (ONE, ZERO, {"features": Features(x0=["q"])}, KeyError, "no column 'x0.q'"),
        (ONE, ZERO, {"network": DeepSet()}, ValueError, "DeepSet needs a cloud"),
        (ONE, ZERO, {"network": nn.Linear(1, 1)}, TypeError, "found a module"),
        (ONE, ZERO, {"network": lambda: nn.Linear(1, 3)}, ValueError, "expected one output per event"),
        (ONE, ZERO, {"loss": "mse"}, ValueError, "loss: expected one of bce, mlc, sqrt, found 'mse'"),
        (ONE, ZERO, {"calibrate": "isotonic"}, ValueError, "calibrate: expected 'temperature', 'monotone' or None"),
        (ONE, ZERO, {"calibrate": "monotone", "validation": 0.0}, ValueError, "validation fraction above 0, found 0"),
        (ONE, ZERO, {"members": 0}, ValueError, "whole numbers of members and folds"),
        (ONE, ZERO, {"group": "parent"}, KeyError, "no column 'parent'"),
        (ONE, ZERO, {"group": "x0"}, TypeError, "group column 'x0': expected integers, found float64"),
        (ONE.select([0]), ZERO, {}, ValueError, "numerator: .* in the (training|validation) rows"),
        (MILD.numerator(9, 1), ZERO, {"network": Trees(), "group": None}, None, ""),
    ],
)  # fmt: skip
def test_bad_input_is_refused(one: Events, zero: Events, options: Any, error: Any, message: str) -> None:
    options = {"features": ["x0"], "seed": 1, "training": Training(epochs=1), "progress": False} | options
    features = options.pop("features")
    if error is None:  # few events are no error
        assert np.isfinite(fit_ratio(one, zero, features, **options).log(one)).all()
        return
    with pytest.raises(error, match=message):
        fit_ratio(one, zero, features, **options)


def test_weights_that_are_not_finite_never_get_here() -> None:
    with pytest.raises(ValueError, match=r"weight: expected finite values, found 1 of 100 not finite, first at rows 5"):
        ONE.with_weight(WITH_NAN)


def test_events_without_the_columns_are_refused_by_a_fitted_ratio() -> None:
    ratio = fit(MILD, 300, training=Training(epochs=1))
    with pytest.raises(KeyError, match="no column 'x0'"):
        ratio.log(Events({"x": np.ones(3)}))
    with pytest.raises(ValueError, match="not finite"):
        ratio.log(ONE.with_columns(x0=WITH_NAN))
    assert ratio.log(ONE.select(slice(0, 0))).shape == (0,)


# -- studies ----------------------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_the_spread_of_bootstrapped_members_is_the_error_over_twenty_samples() -> None:
    """Pulls of the answer at five points, sigma the members' spread: rms 1 up to what 20 samples and a bias allow.

    The mean of K bootstrapped members has the variance of the sample and a K-th of the members' own, (1 + 1/K) sigma^2;
    the pulls at the five points are correlated, worth about two per sample.
    """
    at = Events({"x0": np.linspace(-1.5, 1.5, 5)})
    members, pulls, spreads, errors = 16, [], [], []
    for seed in range(20):
        ratio = fit(
            MILD, 4000, seed=100 + seed, members=members, bootstrap=True, training=Training(epochs=20, batch=256)
        )
        sigma = ratio.members(at).std(0, ddof=1)
        errors.append(ratio.log(at) - at["x0"])
        spreads.append(sigma)
        pulls.append(errors[-1] / (sigma * np.sqrt(1 + 1 / members)))
    rms = np.sqrt(np.mean(np.square(pulls)))
    assert rms == pytest.approx(1, abs=4 / np.sqrt(2 * 40))
    true = np.sqrt(np.mean(np.square(errors)))
    assert np.sqrt(np.mean(np.square(spreads))) / true == pytest.approx(1, abs=4 / np.sqrt(2 * 40))


@pytest.mark.slow
@pytest.mark.parametrize("network", [MLP(), Trees(min_leaf=300)], ids=["MLP", "Trees"])
def test_the_default_network_over_ten_samples(network: Any) -> None:
    """Defaults at 50k + 50k events: Q stays what a smooth function of one variable costs."""
    found = [
        excess(fit(TOY, 50_000, seed=s, network=network, training=Training(), members=4).log, TOY, 100_000)
        for s in range(10)
    ]
    assert np.mean(found) < (30 if isinstance(network, MLP) else 150)


# -- refined weights ---------------------------------------------------------------------------------------------------


def test_refined_weights_are_positive_and_keep_the_density() -> None:
    """Moments under refined weights equal those under the signed ones, within 4 sigma of the signed sample."""
    signed = GaussianRatio(negative=0.2).numerator(20000, 5)
    refined = refine(signed, ["x0"], seed=1, progress=False, training=Training(epochs=6, batch=512))
    assert (refined.weight > 0).all()
    assert refined.sum_weights == pytest.approx(signed.sum_weights, rel=1e-12)
    assert refined.effective_size > 1.8 * signed.effective_size
    x = signed["x0"]
    for power in (1, 2):
        exact = {1: 1.0, 2: 2.0}[power]  # moments of N(1, 1)
        sigma = np.sqrt(np.sum((signed.weight * (x**power - exact)) ** 2)) / signed.sum_weights
        found, ignored = (np.average(x**power, weights=w) for w in (refined.weight, np.abs(signed.weight)))
        assert abs(found - exact) < 4 * sigma < abs(ignored - exact)  # abs(w) has another density


def test_refining_refuses_a_negative_density() -> None:
    rng = np.random.default_rng(3)
    x = rng.normal(size=4000)
    events = Events({"x": x}, weight=np.where(x > 1, -1.0, 1.0))
    with pytest.raises(ValueError, match="expected a positive mean sign of the weights everywhere"):
        refine(events, ["x"], seed=1, progress=False, training=Training(epochs=6, batch=256))


def test_refining_positive_weights_changes_nothing() -> None:
    events = GaussianRatio().numerator(100, 1)
    assert refine(events, ["x0"], seed=1) is events


def test_evaluation_does_not_depend_on_the_size_of_its_pieces(monkeypatch: pytest.MonkeyPatch) -> None:
    ratio = fit_ratio(
        MILD.numerator(300, 1), MILD.denominator(300, 2), ["x0"], members=3, seed=1, progress=False,
        training=Training(epochs=1, batch=64),
    )  # fmt: skip
    events = MILD.numerator(1000, 3)
    whole = ratio.members(events)
    monkeypatch.setattr("nuinfer.ensemble._ROWS", 300)
    np.testing.assert_allclose(ratio.members(events), whole, atol=1e-5)


def test_a_ratio_knows_its_samples(tmp_path: Path) -> None:
    numerator, denominator = MILD.numerator(200, 1), MILD.denominator(200, 2)
    ratio = fit_ratio(numerator, denominator, ["x0"], seed=1, progress=False, training=Training(epochs=1, batch=64))
    assert ratio.samples == (numerator.digest(), denominator.digest())
    ratio.save(tmp_path / "r.safetensors")
    assert Ratio.load(tmp_path / "r.safetensors").samples == ratio.samples
