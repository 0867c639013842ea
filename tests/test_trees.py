"""`nuinfer.trees`: boosted log ratios against scikit-learn's own and against exact answers."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from scipy import special

from nuinfer import Events, Features, Trees, fit_ratio
from nuinfer.resample import Resample
from nuinfer.simulators import CloudRatio, GaussianRatio
from nuinfer.trees import Forest, _bin_edges, _distinct, fit_forest

N = 20_000
QUICK = Trees(iterations=200, learning_rate=0.1, leaves=8, min_leaf=200)
ONE = Resample(seed=1, validation=0.2)


def rows(
    problem: GaussianRatio, n: int = N, seed: int = 1
) -> tuple[np.ndarray, tuple[np.ndarray, np.ndarray], np.ndarray]:
    """x (2n, 1), the two class weights and keys."""
    one, zero = problem.numerator(n, seed), problem.denominator(n, seed)
    x = np.concatenate([one["x0"], zero["x0"]])[:, None]
    w1, w0 = np.concatenate([one.weight, np.zeros(n)]), np.concatenate([np.zeros(n), zero.weight])
    return x, (w1, w0), np.arange(2 * n)


def excess(found: np.ndarray, exact: np.ndarray, n: int) -> float:
    """n E[s (1 - s) (f - f*)^2] over points of both classes: about the number of parameters that n events can fit."""
    s = special.expit(exact)
    return float(n * np.mean(s * (1 - s) * (found - exact) ** 2))


POINTS = np.concatenate([GaussianRatio().numerator(4000, 9)["x0"], GaussianRatio().denominator(4000, 9)["x0"]])[:, None]


# -- against scikit-learn ---------------------------------------------------------------------------------------------


def test_a_forest_is_scikit_learns_classifier() -> None:
    from sklearn.ensemble import HistGradientBoostingClassifier

    x, weights, key = rows(GaussianRatio(), 3000)
    x = np.round(10 * np.column_stack([x, np.random.default_rng(1).normal(size=6000)]))  # fewer values than bins
    trees = Trees(iterations=20, leaves=10, learning_rate=0.2, l2=0.5)
    found = fit_forest(x, weights, key, Resample(seed=1, validation=0), trees, threads=1).log(x)[0]
    model = HistGradientBoostingClassifier(max_iter=20, max_leaf_nodes=10, learning_rate=0.2, l2_regularization=0.5,
                                           min_samples_leaf=100, early_stopping=False)  # fmt: skip
    model.fit(x, (weights[0] > 0).astype(int), np.full(6000, 2.0))
    np.testing.assert_allclose(found, model.decision_function(x), rtol=1e-10, atol=1e-12)


def test_a_forest_survives_arrays_to_the_bit() -> None:
    x, weights, key = rows(GaussianRatio(negative=0.2), 3000)
    resample = Resample(seed=1, members=2, folds=2)
    forest = fit_forest(x, weights, key, resample, Trees(iterations=20, signed="factorised"), threads=1)
    again = Forest.of_arrays(forest.arrays())
    assert forest.networks == again.networks == 4
    np.testing.assert_array_equal(forest.log(POINTS), again.log(POINTS))
    np.testing.assert_array_equal(forest.log(POINTS, [2]), again.log(POINTS)[2:3])
    assert not np.array_equal(forest.log(POINTS)[0], forest.log(POINTS)[1])


# -- truths -----------------------------------------------------------------------------------------------------------


def test_log_ratio_is_2x() -> None:
    """Steps follow a line less well than a smooth fit does, with some 100 leaf values: 60 to 95 over four seeds."""
    x, weights, key = rows(GaussianRatio())
    found = fit_forest(x, weights, key, ONE, QUICK, threads=1).log(POINTS)[0]
    exact = 2 * POINTS[:, 0]
    assert excess(found, exact, 2 * N) < 150
    assert excess(0 * found, exact, 2 * N) > 5000


def test_one_sample_with_two_weights_is_regressed() -> None:
    """As OmniFold's second step: denominators weight 1, numerators the exact ratio, on the same rows."""
    x = GaussianRatio().denominator(N, 1)["x0"][:, None]
    tilt = np.exp(np.clip(x[:, 0], -3, 3))
    noise = np.random.default_rng(1).exponential(size=N)  # E[w1 | x] is what is learned
    forest = fit_forest(x, (7 * tilt * noise, np.ones(N)), np.arange(N), ONE, QUICK, threads=1)
    at = np.linspace(-3, 1, 50)[:, None]
    expected = at[:, 0] - np.log(tilt.mean())
    error = forest.log(at)[0] - expected
    assert np.sqrt(np.mean(error**2)) < 0.1
    assert np.abs(expected).max() > 1


def test_weights_are_numbers_of_events() -> None:
    """Exact on a column of ten values, where the bins of a tree do not depend on how often a value occurs."""
    rng = np.random.default_rng(1)
    x, label = rng.integers(0, 10, 2000).astype(float)[:, None], np.arange(2000) % 2
    plain, trees = Resample(seed=1, validation=0), Trees(iterations=30, min_leaf=1)
    at = np.arange(10.0)[:, None]

    def log(x: np.ndarray, w: np.ndarray, label: np.ndarray) -> Any:
        return fit_forest(x, (w * label, w * (1 - label)), np.arange(len(x)), plain, trees, threads=1).log(at)[0]

    heavy = np.where(np.arange(2000) < 500, 2.0, 1.0)
    twice = np.concatenate([np.arange(2000), np.arange(500)])
    base = log(x, np.ones(2000), label)
    np.testing.assert_allclose(log(x, heavy, label), log(x[twice], np.ones(2500), label[twice]), rtol=1e-4, atol=1e-5)
    assert np.abs(log(x, heavy, label) - base).max() > 1e-2
    absent = np.append(np.zeros(300), np.ones(1700))
    np.testing.assert_array_equal(log(x, absent, label), log(x[300:], np.ones(1700), label[300:]))
    assert np.abs(log(x, absent, label) - base).max() > 1e-2


def test_bootstraps_and_folds_are_weights_and_absences() -> None:
    rng = np.random.default_rng(1)
    x, label = rng.integers(0, 10, 2000).astype(float)[:, None], np.arange(2000) % 2
    resample = Resample(seed=1, members=2, folds=2, validation=0, bootstrap=True)
    weights, key, trees = (label * 1.0, 1.0 - label), np.arange(2000), Trees(iterations=10, min_leaf=1)
    forest = fit_forest(x, weights, key, resample, trees, threads=1)
    at = np.arange(10.0)[:, None]
    for n in range(4):
        times = resample.times(n, key, held_out=False)
        by_hand = (weights[0] * times, weights[1] * times)
        alone = fit_forest(x, by_hand, key, Resample(seed=1, validation=0), trees, threads=1)
        np.testing.assert_allclose(forest.log(at)[n], alone.log(at)[0], rtol=1e-4, atol=1e-6)


def test_early_stopping_watches_the_held_out_rows() -> None:
    """Where the classes agree the first tree already is one too many."""
    rng = np.random.default_rng(1)
    x, label = rng.normal(size=(2000, 1)), np.arange(2000) % 2
    weights, key = (label * 1.0, 1.0 - label), np.arange(2000)
    stopped, on = (
        fit_forest(
            x, weights, key, Resample(seed=1, validation=0.3), Trees(iterations=200, patience=p, min_leaf=10), threads=1
        )
        for p in (5, None)
    )
    assert len(stopped.ratios[0].trees) < 20
    assert len(on.ratios[0].trees) == 200
    assert np.abs(stopped.log(x)).mean() < np.abs(on.log(x)).mean() / 2


def test_bins_reach_into_the_tails() -> None:
    """Log r = 2x where only one event in 5,000 is: an even binning has one bin there."""
    x = np.sort(np.random.default_rng(1).normal(size=100_000))
    edges = _bin_edges(x, 255)
    assert len(edges) <= 254
    assert (np.diff(edges) > 0).all()
    assert (edges > x[-100]).sum() >= 20
    assert (edges < x[100]).sum() >= 20
    assert np.diff(np.searchsorted(x, edges)).max() < 2 * 100_000 / 100
    few = _bin_edges(np.array([3.0, 1.0, 1.0, 2.0]), 255)
    assert few.tolist() == [1.5, 2.5]
    assert _bin_edges(np.ones(5), 255).size == 0


@pytest.mark.parametrize("dim", [1, 8, 9])
def test_events_of_the_same_bins_are_evaluated_once_and_put_back(dim: int) -> None:
    rng = np.random.default_rng(1)
    codes = rng.integers(0, 255, (500, dim)).astype(float) // rng.choice([1, 128], (500, 1))
    found, place = _distinct(codes)
    np.testing.assert_array_equal(found[place], codes)
    assert len(found) == (len(np.unique(codes, axis=0)) if dim <= 8 else 500)


def test_weights_of_held_out_rows_count_in_early_stopping() -> None:
    """Few heavy events say one thing, many light ones the other: unweighted, each tree would make matters worse."""
    rng = np.random.default_rng(1)
    label, heavy = np.arange(600) % 2, rng.random(600) < 0.3
    x, w = np.where(heavy, label, 1 - label).astype(float)[:, None], np.where(heavy, 20.0, 1.0)
    resample, trees = Resample(seed=1, validation=0.4), Trees(iterations=100, patience=3, min_leaf=1)
    rows = np.repeat(np.arange(600), w.astype(int))  # the copies of one key are held out together
    forests = [
        fit_forest(x[i], (v * label[i], v * (1 - label[i])), i, resample, trees, threads=1)
        for i, v in ((np.arange(600), w), (rows, np.ones(len(rows))))
    ]
    at = np.array([[0.0], [1.0]])
    np.testing.assert_allclose(forests[0].log(at), forests[1].log(at), rtol=1e-4)
    assert len(forests[0].ratios[0].trees) > 10
    assert forests[0].log(at)[0, 1] > 1


# -- signs ------------------------------------------------------------------------------------------------------------

SIGNED = GaussianRatio(negative=0.35)


def test_negative_weights_are_refused() -> None:
    x, weights, key = rows(SIGNED, 1000)
    count = int((weights[0] < 0).sum() + (weights[1] < 0).sum())
    with pytest.raises(ValueError, match=rf"not negative, found {count} negative ones.*Trees\(signed='factorised'\)"):
        fit_forest(x, weights, key, ONE, QUICK, threads=1)


def test_factorised_signs_give_the_ratio_and_absolute_values_do_not() -> None:
    """The noise of w = +-1/(1 - 2a) is a few times that of weight 1; that of three boosts adds up."""
    x, weights, key = rows(SIGNED)
    exact = 2 * POINTS[:, 0]
    forest = fit_forest(x, weights, key, ONE, replace(QUICK, signed="factorised"), threads=1)
    assert len(forest.signs) == 1
    assert excess(forest.log(POINTS)[0], exact, 2 * N) < 250
    absolute = fit_forest(x, (np.abs(weights[0]), np.abs(weights[1])), key, ONE, QUICK, threads=1)
    assert excess(absolute.log(POINTS)[0], exact, 2 * N) > 700


def test_factorised_without_negative_weights_is_the_plain_fit() -> None:
    x, weights, key = rows(GaussianRatio(), 2000)
    one, other = (fit_forest(x, weights, key, ONE, t, threads=1) for t in (QUICK, replace(QUICK, signed="factorised")))
    np.testing.assert_array_equal(one.log(POINTS), other.log(POINTS))


def test_one_sided_signs_are_exact() -> None:
    """Only the numerator has negative weights: the denominator's mean sign is 1 everywhere."""
    x, (w1, w0), key = rows(SIGNED, 4000)
    forest = fit_forest(x, (w1, np.abs(w0)), key, ONE, Trees(signed="factorised"), threads=1)
    assert forest.signs[0][1].trees == ()
    assert np.isfinite(forest.log(POINTS)).all()


def test_a_mean_sign_that_is_not_positive_raises() -> None:
    rng = np.random.default_rng(1)
    x = rng.normal(size=(8000, 1))
    w1 = np.where((x[:, 0] > 1) & (rng.random(8000) < 0.9), -1.0, 1.0)
    forest = fit_forest(x, (w1, np.ones(8000)), np.arange(8000), ONE, Trees(signed="factorised"), threads=1)
    assert np.isfinite(forest.log(np.array([[0.0]]))).all()
    with pytest.raises(ValueError, match=r"found -0\.\d+ at row 1 and 3 rows in all"):
        forest.log(np.array([[1e3], [0.0], [2.0], [2.0], [0.5], [2.0]])[1:])
    events = Events({"x": x[:, 0]}, weight=w1)
    with pytest.raises(ValueError, match="positive mean sign"):
        fit_ratio(events, Events({"x": -x[:, 0]}), ["x"], network=Trees(signed="factorised"), seed=1)


# -- bad input --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("bad", "message"),
    [
        ({"iterations": 0}, "Trees: expected iterations to be an integer of at least 1, found 0"),
        ({"leaves": 2.5}, "expected leaves"),
        ({"min_leaf": 0}, "expected min_leaf"),
        ({"patience": 0}, "expected patience"),
        ({"bins": 256}, "expected bins from 2 to 255, found 256"),
        ({"signed": "ignore"}, "expected signed to be 'refuse' or 'factorised', found 'ignore'"),
        ({"learning_rate": 0.0}, "expected a positive learning_rate and l2 of at least 0, found 0.0 and 0.0"),
        ({"l2": -1.0, "learning_rate": 0.1}, "found 0.1 and -1.0"),
    ],
)
def test_bad_settings_are_refused(bad: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Trees(**bad)


def test_classes_without_weight_are_refused() -> None:
    x, (w1, w0), key = rows(GaussianRatio(), 100)
    with pytest.raises(ValueError, match="denominator: expected a positive total weight in the training rows"):
        fit_forest(x, (w1, -w0), key, ONE, Trees(signed="factorised"), threads=1)
    with pytest.raises(ValueError, match=r"numerator: .* found 0 for network 0"):
        fit_forest(x, (0 * w1, w0), key, ONE, Trees(), threads=1)


def test_what_trees_cannot_do_is_refused(tmp_path: Any) -> None:
    clouds = CloudRatio()
    with pytest.raises(ValueError, match="Trees take flat columns only, found clouds; use DeepSet or Transformer"):
        fit_ratio(clouds.numerator(50, 1), clouds.denominator(50, 1), Features(hits=["x0"]), network=Trees(), seed=1)
    toy = GaussianRatio()
    with pytest.raises(ValueError, match="fitted on the CPU without checkpoints"):
        fit_ratio(
            toy.numerator(50, 1), toy.denominator(50, 1), ["x0"], network=Trees(), seed=1, checkpoint=tmp_path / "c"
        )
