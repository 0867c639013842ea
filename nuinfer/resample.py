"""Resampling is a weight: members, folds, validation splits and bootstraps as multiplicities of the same rows.

Network n = member x folds + fold is trained on the multiplicities

    m_n(i) = [fold(i) != fold] [i not held out by member] Poisson_member(i)

and validated on the same with [i held out by member].  All are hashes of (seed, key i), the key being an event's id or
its group, evaluated where they are needed and never stored as networks x events.  A network's multiplicities do not
depend on how many members there are.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from . import hashing

__all__ = ["Resample"]

Keys = NDArray[np.int64]
Times = NDArray[np.uint8]


@dataclass(frozen=True, kw_only=True)
class Resample:
    """How each of ``members`` x ``folds`` networks sees the events.

    Parameters
    ----------
    seed:
        Of all the hashes.
    members:
        Number of replicas K, each with its own initial weights, batches and validation split.
    folds:
        Each member trains one network a fold, on the events outside it; 1 for no folds.
    validation:
        Fraction of the training events held out for early stopping and calibration, other ones for each member.
    bootstrap:
        Multiply by Poisson numbers of mean 1, other ones for each member.
    plain:
        The first so many members are not bootstrapped; the numbering of replicas starts after them.
    """

    seed: int
    members: int = 1
    folds: int = 1
    validation: float = 0.2
    bootstrap: bool = False
    plain: int = 0

    def __post_init__(self) -> None:
        counts: tuple[object, ...] = self.members, self.folds
        if not all(isinstance(n, int | np.integer) and n >= 1 for n in counts):
            raise ValueError(
                f"expected whole numbers of members and folds, at least 1, found {counts[0]} and {counts[1]}"
            )
        if not 0 <= self.validation < 1:
            raise ValueError(f"expected a validation fraction from 0 to below 1, found {self.validation}")

    @classmethod
    def with_replicas(cls, *, seed: int, members: int, replicas: int, validation: float) -> Resample:
        """``members`` plain ones, and behind them ``replicas`` that are bootstrapped."""
        return cls(seed=seed, members=members + replicas, validation=validation, bootstrap=replicas > 0, plain=members)

    def with_fewer(self, replicas: int) -> Resample:
        """The plain members, and behind them so many replicas."""
        return replace(self, members=self.plain + replicas)

    @property
    def networks(self) -> int:
        """How many networks there are, members x folds."""
        return self.members * self.folds

    def fold_of(self, key: Keys) -> NDArray[np.int16]:
        """The fold 0 .. folds - 1 that each key (N,) belongs to: the same for all members."""
        return hashing.fold(key, self.folds, self.seed, "fold")

    def bootstrapped(self, member: int, key: Keys) -> Times:
        """Poisson multiplicities (N,) of a member; ones for a plain one, or without ``bootstrap``."""
        if not self.bootstrap or member < self.plain:
            return np.ones(len(key), np.uint8)
        return hashing.poisson(key, self.seed, "bootstrap", member - self.plain)

    def counted(self, network: int, key: Keys) -> Times:
        """How often network n counts each key (N,) in training or validation together."""
        member, fold = divmod(network, self.folds)
        times = self.bootstrapped(member, key)
        if self.folds > 1:
            times *= self.fold_of(key) != fold
        return times

    def counts(self, key: Keys) -> Times:
        """`counted` of all networks (networks, N)."""
        return np.stack([self.counted(network, key) for network in range(self.networks)])

    def times(self, network: int, key: Keys, *, held_out: bool) -> Times:
        """m_n(i) (N,): how often network n counts each key in training, or in validation with ``held_out``."""
        times = self.counted(network, key)
        if self.validation:
            mine = hashing.below(key, self.validation, self.seed, "validation", network // self.folds)
            times *= mine if held_out else ~mine
        elif held_out:
            times[:] = 0
        return times


def mean_one(weight: NDArray[np.float64]) -> NDArray[np.float64]:
    """Weights (..., N) with mean 1, as single precision likes them."""
    return np.asarray(weight / weight.mean(-1, keepdims=True))
