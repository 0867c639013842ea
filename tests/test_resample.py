"""`nuinfer.resample`: exact properties of the multiplicities, for every network."""

from __future__ import annotations

import numpy as np
import pytest

from nuinfer import Events
from nuinfer.resample import Resample

KEY = np.random.default_rng(1).permutation(20_000) * 3 - 7
TEN = Resample(seed=3, members=2, folds=5, validation=0.25)


def test_every_network_splits_its_events_into_training_validation_and_fold() -> None:
    fold = TEN.fold_of(KEY)
    assert set(fold) == set(range(5))
    for n in range(TEN.networks):
        train, held = (TEN.times(n, KEY, held_out=h) for h in (False, True))
        outside = fold == n % 5
        np.testing.assert_array_equal(train.astype(int) + held + outside, 1)  # each key in exactly one of the three


def test_fractions_are_what_was_asked_for() -> None:
    sigma = np.sqrt(0.25 * 0.75 / (0.8 * len(KEY)))
    for n in range(TEN.networks):
        held, train = (TEN.times(n, KEY, held_out=h).sum() for h in (True, False))
        assert held / (held + train) == pytest.approx(0.25, abs=4 * sigma)
        assert (held + train) / len(KEY) == pytest.approx(0.8, abs=4 * np.sqrt(0.16 / len(KEY)))


def test_folds_are_common_to_the_members_and_those_of_events() -> None:
    events = Events({"x": np.zeros(len(KEY))}, id=KEY)
    np.testing.assert_array_equal(TEN.fold_of(KEY), events.folds(5, seed=3))
    held = [TEN.times(n, KEY, held_out=True) for n in (0, 5)]  # two members, one fold: other validation rows
    both = (held[0] & held[1]).mean() / 0.8
    assert both == pytest.approx(0.25**2, abs=4 * np.sqrt(0.0625 / len(KEY)))


def test_copies_of_one_key_stay_together() -> None:
    key = np.repeat(np.arange(500), 7)
    resample = Resample(seed=1, members=3, folds=3, validation=0.3, bootstrap=True)
    for n in range(resample.networks):
        for held in (True, False):
            times = resample.times(n, key, held_out=held).reshape(500, 7)
            assert (times == times[:, :1]).all()
    assert np.unique(resample.times(0, np.arange(500), held_out=False)).size > 2


def test_a_network_does_not_depend_on_the_number_of_members_or_on_other_rows() -> None:
    few, many = (Resample(seed=1, members=m, folds=2, validation=0.2, bootstrap=True) for m in (2, 7))
    some = slice(100, 5000, 3)
    for n in range(few.networks):
        for held in (True, False):
            times = few.times(n, KEY, held_out=held)
            np.testing.assert_array_equal(times, many.times(n, KEY, held_out=held))
            np.testing.assert_array_equal(times[some], many.times(n, KEY[some], held_out=held))


def test_bootstraps_are_poisson_and_independent_of_splits() -> None:
    resample = Resample(seed=5, members=3, validation=0.5, bootstrap=True)
    events = Events({"x": np.zeros(len(KEY))}, id=KEY)
    draws = np.stack([resample.bootstrapped(m, KEY) for m in range(3)]).astype(float)
    np.testing.assert_array_equal(draws[1], events.bootstrap(seed=5, member=1).weight)
    n = len(KEY)
    assert np.abs(draws.mean(1) - 1).max() < 4 / np.sqrt(n)
    assert np.abs(draws.var(1) - 1).max() < 4 * np.sqrt(3 / n)  # the fourth central moment of Poisson(1) is 4
    assert np.abs(np.corrcoef(draws)[np.triu_indices(3, 1)]).max() < 4 / np.sqrt(n)
    train, held = (resample.times(0, KEY, held_out=h).astype(float) for h in (False, True))
    np.testing.assert_array_equal(train + held, draws[0])
    assert abs(train.mean() - 0.5) < 4 * np.sqrt(0.75 / n)


def test_plain_members_come_first_and_do_not_shift_the_replicas() -> None:
    mixed = Resample(seed=5, members=4, validation=0, bootstrap=True, plain=2)
    only = Resample(seed=5, members=2, validation=0, bootstrap=True)
    assert (mixed.bootstrapped(0, KEY) == 1).all()
    assert (mixed.bootstrapped(1, KEY) == 1).all()
    for replica in range(2):
        np.testing.assert_array_equal(mixed.bootstrapped(2 + replica, KEY), only.bootstrapped(replica, KEY))


def test_without_validation_everything_is_trained_on() -> None:
    resample = Resample(seed=1, validation=0)
    assert (resample.times(0, KEY, held_out=False) == 1).all()
    assert not resample.times(0, KEY, held_out=True).any()


def test_seeds_differ() -> None:
    one, other = (Resample(seed=s, folds=2).times(0, KEY, held_out=False) for s in (1, 2))
    assert (one != other).mean() > 0.3


@pytest.mark.parametrize(
    ("bad", "message"),
    [
        ({"members": 0}, "members and folds, at least 1, found 0 and 1"),
        ({"folds": 0}, "at least 1, found 1 and 0"),
        ({"members": 2.5}, "whole numbers of members and folds.*found 2.5"),
        ({"validation": 1.0}, "validation fraction from 0 to below 1, found 1.0"),
        ({"validation": -0.1}, "found -0.1"),
        ({"validation": float("nan")}, "found nan"),
    ],
)
def test_bad_settings_are_refused(bad: dict[str, float], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Resample(seed=1, **bad)  # type: ignore[arg-type]


def test_numpy_numbers_of_members_are_whole_numbers() -> None:
    assert Resample(seed=1, members=np.int64(3), folds=np.int32(2)).networks == 6  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="whole numbers"):
        Resample(seed=1, members=np.float64(3))  # type: ignore[arg-type]
