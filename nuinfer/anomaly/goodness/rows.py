r"""The reference as weighted rows, and batches of pseudo-experiments drawn from them.

In one dimension the reference is binned finely: the events of a bin become one row at their weighted mean, so that the
error of a smooth sum is of second order in the bin's width, and all toys share the rows.  In more dimensions an event
is a row.

A toy takes each row n times, n Poisson of its weight: a Poisson number of events drawn from the reference with
replacement.  Such data come from the reference itself, fluctuations included, while real data do not; so that each toy
also gets a reference of its own, a bootstrap, in which a row of k events is multiplied by :math:`n'/k`, n' Poisson of k
(with weights k is :math:`(\sum w)^2 / \sum w^2`; Bohm, Zech, arXiv 1309.1287).  Toys of a generator or of a sample held
apart need no bootstrap.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from ...errors import check_finite
from ...events import Events

__all__ = ["Null", "Pseudo", "Rows", "positions"]

Floats = NDArray[np.float64]

#: What the toys are drawn from: a sample held apart, a function of a generator, or None, the reference itself.
Null = Events | Callable[[np.random.Generator], Events] | None


def positions(events: Events, columns: tuple[str, ...]) -> Floats:
    """The flat columns (N, D) of events, checked."""
    found = np.stack([np.asarray(events.flat(name), np.float64) for name in columns], axis=1)
    for index, name in enumerate(columns):
        check_finite(f"column {name!r}", found[:, index])
    return found


@dataclass(frozen=True, eq=False)
class Rows:
    """N rows: positions ``x`` (N, D), ``weight`` (N,), and the effective number of events of each, ``size`` (N,)."""

    x: Floats
    weight: Floats
    size: Floats

    @classmethod
    def of(cls, x: Floats, weight: Floats, step: float | None = None) -> Rows:
        """Of events at x (N, D); with a ``step``, and D = 1, binned in so wide bins."""
        if step is None or x.shape[1] != 1:
            return cls(x, weight, np.ones(len(x)))
        _, bins = np.unique(np.floor((x[:, 0] - x[:, 0].min()) / step), return_inverse=True)
        share = np.abs(weight) + 1e-300  # the mean position is one under weights that cannot cancel
        total, square, moment = (np.bincount(bins, w).astype(np.float64) for w in (weight, weight**2, share * x[:, 0]))
        middle = moment / np.bincount(bins, share)
        return cls(middle[:, None], total, np.where(square > 0, total**2 / np.where(square > 0, square, 1), 0.0))

    def __len__(self) -> int:
        return len(self.x)

    @property
    def total(self) -> float:
        """The expected number of events."""
        return float(self.weight.sum())

    def drawn(self, factor: Floats, toys: int, rng: np.random.Generator) -> Floats:
        """How often each of T toys takes each row (T, N), Poisson of weight times ``factor`` (N,)."""
        return rng.poisson(self.weight * factor, (toys, len(self))).astype(np.float64)

    def bootstrapped(self, toys: int, rng: np.random.Generator) -> Floats:
        """The weights (T, N) of as many bootstrapped references."""
        each = self.weight / np.where(self.size > 0, self.size, 1)
        return np.asarray(each * rng.poisson(self.size, (toys, len(self))))


@dataclass(frozen=True, eq=False)
class Pseudo:
    """T experiments on the rows of one reference.

    Attributes
    ----------
    weight:
        The reference's weights (T, N) of each, (1, N) where they are the same.
    counts:
        How often each row is in the data (T, N); None for data that are ``points``.
    points:
        The data of each, where they have places of their own.
    aux:
        The measurements of the nuisance parameters (T, K).
    """

    weight: Floats
    counts: Floats | None
    points: tuple[Events, ...]
    aux: Floats

    def __len__(self) -> int:
        return len(self.aux)

    def part(self, start: int, stop: int) -> Pseudo:
        """The experiments from ``start`` to ``stop``."""
        return Pseudo(
            self.weight if len(self.weight) == 1 else self.weight[start:stop],
            None if self.counts is None else self.counts[start:stop],
            self.points[start:stop],
            self.aux[start:stop],
        )

    def reweighted(self, factor: Floats) -> Pseudo:
        """The same with the reference times ``factor`` (T, N)."""
        return replace(self, weight=self.weight * factor)
