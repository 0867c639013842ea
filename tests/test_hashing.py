"""`nuinfer.hashing`: exact distributions, independence, and dependence on nothing but the arguments."""

from __future__ import annotations

import subprocess
import sys

import numpy as np
import pytest
from scipy import stats

from nuinfer import hashing

N = 200_000
KEYS = np.arange(N)

# Keys as they come: counters, large steps, negative, high bits only, random.
KINDS = {
    "counter": KEYS,
    "steps": KEYS * 1_000_003,
    "negative": -KEYS - 1,
    "high": KEYS << 40,
    "random": np.random.default_rng(1).integers(-(2**63), 2**63 - 1, N),
}


def z_of_chi2(chi2: float, dof: int) -> float:
    """How many sigma a chi2 is from its mean (normal for many degrees of freedom)."""
    return (chi2 - dof) / np.sqrt(2 * dof)


def unmix(z: np.ndarray, salted: int) -> np.ndarray:
    """The inverse of SplitMix64's finaliser, with the inverses of its factors modulo 2^64."""
    z = z ^ (z >> np.uint64(31)) ^ (z >> np.uint64(62))
    z = z * np.uint64(pow(0x94D049BB133111EB, -1, 2**64))
    z = z ^ (z >> np.uint64(27)) ^ (z >> np.uint64(54))
    z = z * np.uint64(pow(0xBF58476D1CE4E5B9, -1, 2**64))
    z = z ^ (z >> np.uint64(30)) ^ (z >> np.uint64(60))
    return (z ^ np.uint64(salted)).view(np.int64)


def reference_mix(key: int, salted: int) -> int:
    """The finaliser of SplitMix64 (variant 13) in Python integers."""
    z = (key ^ salted) % 2**64
    z = (z ^ (z >> 30)) * 0xBF58476D1CE4E5B9 % 2**64
    z = (z ^ (z >> 27)) * 0x94D049BB133111EB % 2**64
    return z ^ (z >> 31)


@pytest.mark.parametrize("salted", [0, 1, hashing.salt("a", 3), 2**64 - 1])
def test_mix_is_splitmix64(salted: int) -> None:
    keys = np.array([0, 1, 2, 12345, -1, -(2**63), 2**63 - 1])
    expected = [reference_mix(int(key), salted) for key in keys]
    assert hashing.mix(keys, salted).tolist() == expected


@pytest.mark.parametrize("kind", KINDS)
def test_mix_is_a_bijection(kind: str) -> None:
    salted = hashing.salt("bijection")
    assert np.array_equal(unmix(hashing.mix(KINDS[kind], salted), salted), KINDS[kind])


def test_mix_leaves_its_keys_alone() -> None:
    keys = np.arange(100)
    hashing.bits(keys, "x")
    assert np.array_equal(keys, np.arange(100))


@pytest.mark.parametrize("kind", KINDS)
def test_uniform_is_uniform(kind: str) -> None:
    u = hashing.uniform(KINDS[kind], 3, "purpose")
    assert u.dtype == np.float64
    assert u.min() >= 0
    assert u.max() < 1
    found = np.histogram(u, 500, (0, 1))[0]
    assert abs(z_of_chi2(float(((found - N / 500) ** 2 / (N / 500)).sum()), 499)) < 4
    assert stats.kstest(u, "uniform").pvalue > 1e-4


def test_every_bit_is_fair() -> None:
    z = hashing.bits(KEYS, 1)
    ones = np.array([((z >> np.uint64(bit)) & np.uint64(1)).sum() for bit in range(64)], float)
    assert np.abs((ones - N / 2) / np.sqrt(N / 4)).max() < 4.5  # 64 bits: P(any above 4.5 sigma) = 4e-4


def test_one_flipped_bit_of_the_key_flips_half_of_the_bits() -> None:
    """Also what an identity, or a xor with the salt alone, fails."""
    z, flips = hashing.bits(KEYS[:2000], 1), []
    for bit in range(63):
        changed = z ^ hashing.bits(KEYS[:2000] ^ (1 << bit), 1)
        flips.append(np.unpackbits(changed.view(np.uint8)).mean())
    assert np.abs(np.array(flips) - 0.5).max() < 0.01


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ((1, "split"), (2, "split")),
        ((1, "split"), (1, "fold")),
        ((1, "bootstrap", 0), (1, "bootstrap", 1)),
        ((1, "bootstrap", 1), (1, "bootstrap", 2)),
        ((1, 23), (12, 3)),
        ((), (0,)),
    ],
)
def test_other_labels_are_independent(one: tuple[object, ...], other: tuple[object, ...]) -> None:
    u, v = hashing.uniform(KEYS, *one), hashing.uniform(KEYS, *other)
    joint = np.histogram2d(u, v, 20, [[0, 1], [0, 1]])[0]
    assert abs(z_of_chi2(float(((joint - N / 400) ** 2 / (N / 400)).sum()), 399)) < 4
    assert abs(np.corrcoef(u, v)[0, 1]) * np.sqrt(N) < 4


def test_neighbouring_keys_are_independent() -> None:
    u = hashing.uniform(KEYS, 5)
    for lag in (1, 2, 64, 1 << 15):
        assert abs(np.corrcoef(u[lag:], u[:-lag])[0, 1]) * np.sqrt(N - lag) < 4


def test_members_are_independent_of_each_other() -> None:
    """Multiplicities of 30 members: their covariance matrix is the unit matrix."""
    times = np.array([hashing.poisson(KEYS[:50_000], 1, "bootstrap", member) for member in range(30)], float)
    pulls = (np.cov(times) - np.eye(30)) * np.sqrt(50_000)
    assert np.abs(pulls[np.triu_indices(30, 1)]).max() < 5  # 435 of them, each N(0, 1)
    assert np.abs(np.diag(pulls)).max() < 5 * np.sqrt(3)  # the variance of a Poisson's variance is 3 / N


def test_a_member_does_not_depend_on_the_number_of_members() -> None:
    few = [hashing.poisson(KEYS, 1, "bootstrap", member) for member in range(2)]
    many = [hashing.poisson(KEYS, 1, "bootstrap", member) for member in range(9)]
    assert all(np.array_equal(a, b) for a, b in zip(few, many, strict=False))
    assert not np.array_equal(many[0], many[1])


@pytest.mark.parametrize("kind", KINDS)
def test_poisson_has_the_exact_distribution(kind: str) -> None:
    times = hashing.poisson(KINDS[kind], 11, "bootstrap", 0)
    assert times.dtype == np.uint8
    found = np.bincount(times, minlength=7)
    expected = N * np.append(stats.poisson.pmf(np.arange(6), 1), stats.poisson.sf(5, 1))
    found = np.append(found[:6], found[6:].sum())
    assert stats.chi2.sf(((found - expected) ** 2 / expected).sum(), 6) > 1e-4


def test_poisson_edges_are_the_cumulative_distribution() -> None:
    steps = np.diff(hashing._EDGES.astype(np.float64), prepend=0.0) / 2.0**64
    j = np.arange(len(steps))
    np.testing.assert_allclose(steps, stats.poisson.pmf(j, 1), rtol=1e-9, atol=2e-16)
    assert np.all(np.diff(hashing._EDGES.astype(object)) >= 0)


def test_poisson_is_the_inverse_of_the_cumulative_distribution() -> None:
    u = hashing.bits(KEYS, 4).astype(np.float64) / 2.0**64
    assert np.array_equal(hashing.poisson(KEYS, 4), stats.poisson.ppf(u, 1).clip(0))


@pytest.mark.parametrize("probability", [0.0, 1e-12, 0.1, 0.25, 1 / 3, 0.5, 0.9, 1 - 2.0**-53, 1.0])
def test_below_is_uniform_below(probability: float) -> None:
    expected = hashing.uniform(KEYS, 7, "holdout") < probability
    assert np.array_equal(hashing.below(KEYS, probability, 7, "holdout"), expected)


def test_below_at_an_exact_edge() -> None:
    """A probability that is one of the uniform numbers themselves leaves that key out."""
    u = hashing.uniform(KEYS[:50], 7)
    for value in u:
        assert np.array_equal(hashing.below(KEYS[:50], float(value), 7), u < value)
        above = np.nextafter(value, 1)  # for values below 1/2 closer than the grid of 2^-53
        assert np.array_equal(hashing.below(KEYS[:50], float(above), 7), u < above)


@pytest.mark.parametrize("folds", [2, 3, 7, 10])
def test_folds_are_uniform(folds: int) -> None:
    found = hashing.fold(KEYS, folds, 2, "fold")
    assert found.dtype == np.int16
    assert found.min() == 0
    assert found.max() == folds - 1
    counts = np.bincount(found)
    assert stats.chi2.sf(((counts - N / folds) ** 2 / (N / folds)).sum(), folds - 1) > 1e-4


def test_folds_are_the_integer_part() -> None:
    """fold = floor(folds x u) with u of 32 bits."""
    upper = hashing.bits(KEYS, 2) >> np.uint64(32)
    assert np.array_equal(hashing.fold(KEYS, 5, 2), upper.astype(np.float64) / 2.0**32 * 5 // 1)


FUNCTIONS = {
    "bits": hashing.bits,
    "uniform": hashing.uniform,
    "poisson": hashing.poisson,
    "below": lambda keys, *labels: hashing.below(keys, 0.3, *labels),
    "fold": lambda keys, *labels: hashing.fold(keys, 5, *labels),
}


@pytest.mark.parametrize("name", FUNCTIONS)
def test_a_key_depends_on_itself_alone(name: str) -> None:
    """Permutation, selection, strides, any length around the block: the same number for the same key."""
    function, rng = FUNCTIONS[name], np.random.default_rng(3)
    whole = function(KEYS, 1, "x")
    order = rng.permutation(N)
    assert np.array_equal(function(KEYS[order], 1, "x"), whole[order])
    some = np.flatnonzero(rng.random(N) < 0.1)
    assert np.array_equal(function(KEYS[some], 1, "x"), whole[some])
    assert np.array_equal(function(KEYS[::7], 1, "x"), whole[::7])
    for length in (0, 1, hashing._BLOCK - 1, hashing._BLOCK, hashing._BLOCK + 1):
        assert np.array_equal(function(KEYS[:length], 1, "x"), whole[:length])
    assert np.array_equal(function(KEYS.astype(np.int32), 1, "x"), whole)
    assert not np.array_equal(function(KEYS, 2, "x"), whole)


def test_salts_tell_labels_apart() -> None:
    labels = [(), (0,), ("",), (1,), (1, 1), (11,), ("1", "1", "1"), (1.5,), ("a", 1), (1, "a")]
    assert len({hashing.salt(*each) for each in labels}) == len(labels) - 1  # () and ("",) are both the empty text
    assert hashing.salt(1) == hashing.salt("1")


def test_another_process_finds_the_same_numbers() -> None:
    """Python's own hash differs from process to process; this one must not."""
    code = "import numpy as np; from nuinfer import hashing; print(hashing.bits(np.arange(3), 'a', 1).tolist())"
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert out.strip() == str(hashing.bits(np.arange(3), "a", 1).tolist())
