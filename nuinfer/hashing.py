"""Random numbers that belong to an event: counter-based hashes of (seed, purpose, member, key).

A fold, a split or a bootstrap weight drawn here depends on nothing but its arguments, so it does not change when rows
are selected, concatenated, reordered or read again, when more members are asked for, or when the sample is larger than
memory.  With ``salt = blake2b(seed, purpose, member)`` the bits of key i are ``mix(i xor salt)``, where ``mix`` is the
finaliser of SplitMix64 (Steele, Lea, Flood, OOPSLA 2014; constants of Stafford's variant 13).
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

__all__ = ["below", "bits", "fold", "permutation", "poisson", "shuffled", "uniform"]

Keys = NDArray[np.int64]

_BLOCK = 1 << 15  # keys hashed at a time: three temporaries of 256 KiB stay in the second-level cache


def salt(*labels: object) -> int:
    """A 64-bit number that depends on every label, the same on every machine and in every process."""
    digest = hashlib.blake2b("\x1f".join(map(str, labels)).encode(), digest_size=8).digest()
    return int.from_bytes(digest, "little")


def mix(keys: Keys, salted: int) -> NDArray[np.uint64]:
    """SplitMix64's finaliser of ``keys xor salted``: (N,) int64 -> (N,) uint64, a bijection for each salt."""
    z = keys.view(np.uint64) ^ np.uint64(salted)
    t = np.empty_like(z)
    for shift, factor in ((30, 0xBF58476D1CE4E5B9), (27, 0x94D049BB133111EB)):
        np.right_shift(z, np.uint64(shift), out=t)
        z ^= t
        z *= np.uint64(factor)
    np.right_shift(z, np.uint64(31), out=t)
    z ^= t
    return z


def _blocks(keys: Keys, *labels: object) -> Iterator[tuple[slice, NDArray[np.uint64]]]:
    keys, salted = np.ascontiguousarray(keys, dtype=np.int64), salt(*labels)
    for start in range(0, len(keys), _BLOCK):
        rows = slice(start, start + _BLOCK)
        yield rows, mix(keys[rows], salted)


def bits(keys: Keys, *labels: object) -> NDArray[np.uint64]:
    """64 random bits per key: (N,) int64 -> (N,) uint64."""
    out = np.empty(len(keys), np.uint64)
    for rows, z in _blocks(keys, *labels):
        out[rows] = z
    return out


def uniform(keys: Keys, *labels: object) -> NDArray[np.float64]:
    """Uniform numbers in [0, 1) with 53 bits: (N,) int64 -> (N,) float64.

    >>> uniform(np.arange(3), "seed", 1).round(3).tolist()
    [0.854, 0.97, 0.622]
    """
    out = np.empty(len(keys), np.float64)
    for rows, z in _blocks(keys, *labels):
        out[rows] = z >> np.uint64(11)
    out *= 2.0**-53
    return out


def below(keys: Keys, probability: float, *labels: object) -> NDArray[np.bool_]:
    """True with the given probability: the same as ``uniform(keys, *labels) < probability``, in less time."""
    out = np.empty(len(keys), np.bool_)
    edge = np.uint64(math.ceil(probability * 2.0**53))
    for rows, z in _blocks(keys, *labels):
        np.less(z >> np.uint64(11), edge, out=out[rows])
    return out


def fold(keys: Keys, folds: int, *labels: object) -> NDArray[np.int16]:
    """Fold numbers 0 .. folds - 1, equally likely: (N,) int64 -> (N,) int16."""
    out = np.empty(len(keys), np.int16)
    for rows, z in _blocks(keys, *labels):
        # the upper 32 bits times `folds` fits in 64, and its upper half is the fold
        out[rows] = ((z >> np.uint64(32)) * np.uint64(folds)) >> np.uint64(32)
    return out


def _poisson_edges() -> NDArray[np.uint64]:
    """2^64 P(n <= j) for a Poisson mean of 1, j = 0, 1, ... up to where it rounds to 2^64."""
    edges, total, term = [], 0.0, math.exp(-1.0)
    for j in range(1, 19):
        total += term
        term /= j
        edges.append(min(int(total * 2.0**64), 2**64 - 1))
    return np.array(edges, dtype=np.uint64)


_EDGES = _poisson_edges()


def poisson(keys: Keys, *labels: object) -> NDArray[np.uint8]:
    """Poisson numbers of mean 1, a bootstrap's multiplicities: (N,) int64 -> (N,) uint8.

    >>> poisson(np.arange(8), "seed", 1).tolist()
    [2, 3, 1, 0, 0, 2, 3, 0]
    """
    out = np.zeros(len(keys), np.uint8)
    for rows, z in _blocks(keys, *labels):
        part, top = out[rows], z.max(initial=np.uint64(0))
        for edge in _EDGES:
            if edge > top:
                break
            part += z >= edge
    return out


def shuffled(start: int, stop: int, bit_count: int, *labels: object) -> NDArray[np.int64]:
    """Places ``start`` to ``stop`` of a random order of 0 .. 2^bit_count - 1: a bijection, worked out on the fly.

    Rounds of an odd multiplication modulo 2^bits and a shift, each invertible; no table of the size of the sample is
    kept, and any part of the order can be asked for at any time.

    >>> sorted(shuffled(0, 8, 3, "seed", 1).tolist()) == list(range(8))
    True
    """
    salted, mask = salt("shuffle", *labels), (1 << bit_count) - 1
    shift = np.uint64((bit_count + 1) // 2)
    z = np.arange(start, stop, dtype=np.uint64)
    z += np.uint64(salted & mask)
    t = np.empty_like(z)
    for turn in range(3):
        factor = ((salted >> (8 * turn)) * 0x9E3779B97F4A7C15 + turn * 0xBF58476D1CE4E5B9 | 1) & mask
        z *= np.uint64(factor)
        z &= np.uint64(mask)
        np.right_shift(z, shift, out=t)
        z ^= t
    return z.view(np.int64)


def permutation(count: int, *labels: object) -> NDArray[np.int64]:
    """A random order of 0 .. count - 1, as one array (count,).

    >>> sorted(permutation(5, "seed", 1).tolist())
    [0, 1, 2, 3, 4]
    """
    bit_count = max(count - 1, 1).bit_length()
    order = shuffled(0, 1 << bit_count, bit_count, *labels)
    return order[order < count]
