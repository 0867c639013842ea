"""The events that methods without bins work on: which rows have truth, reco or both, and the keys of bootstraps.

Results know what they were unfolded from as `FromData`.
"""

from __future__ import annotations

import itertools
import logging
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Self

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import special

from .. import hashing
from ..events import Events, flag, positive_total
from ..resample import Resample, mean_one

if TYPE_CHECKING:
    from ..ensemble import Fitted, Heads
    from ..features import Inputs
    from ..train import Training

__all__ = [
    "FromData",
    "Rows",
    "check_counts",
    "check_factors",
    "check_iteration",
    "check_signal",
    "key_of",
    "purity",
    "reconstructed",
    "warn_of_shared_keys",
]

_log = logging.getLogger("nuinfer")

Floats = NDArray[np.float64]
Keys = NDArray[np.int64]

#: Steps in which a purity is learned, at least: to the statistics of few fakes, of which the usual epochs have some 50
#: steps, and leave it short of training.
PURITY_STEPS = 900


@dataclass(frozen=True)
class Rows:
    """Rows of a simulation: ``signal`` with truth and reco, ``truth`` with truth, ``fakes`` with reco only."""

    signal: Keys
    truth: Keys
    fakes: Keys

    @classmethod
    def of(cls, simulation: Events) -> Rows:
        """By the flags; ``ValueError`` where no event passes both selections, or their weights sum to nothing."""
        pass_reco, pass_truth = flag(simulation, "pass_reco"), flag(simulation, "pass_truth")
        if not (pass_reco & pass_truth).any():
            raise ValueError(
                f"simulation: expected events that pass both selections, found {len(simulation)} events of which "
                f"{int(pass_reco.sum())} pass reco and {int(pass_truth.sum())} truth"
            )
        signal, fakes = np.flatnonzero(pass_reco & pass_truth), np.flatnonzero(pass_reco & ~pass_truth)
        positive_total("simulation (events with truth and reco)", simulation.weight[signal])
        return cls(signal, np.flatnonzero(pass_truth), fakes)


def reconstructed(events: Events) -> Events:
    """Those that pass ``pass_reco``, all where there is no such column."""
    return events.select(flag(events, "pass_reco")) if "pass_reco" in events else events


def key_of(events: Events, group: str | None) -> Keys:
    """The keys of bootstraps and splits: the group's where the events have that column, else their ids."""
    return events.key(group if group in events else None)


def check_signal(total: Floats) -> None:
    """Raise where background and fakes leave nothing of the data, in any network (networks,)."""
    bad = np.flatnonzero(~(total > 0))
    if len(bad):
        raise ValueError(
            f"data after subtraction of background and fakes: expected a positive yield, found {total[bad[0]]:g} "
            f"({len(bad)} of {len(total)} networks); are background and simulation scaled to the data's exposure?"
        )


def share_outside(
    data: Events, ranges: Mapping[str, tuple[float, float]], limit: float, *, of: str, why: str
) -> float:  # fmt: skip
    """The share of the data's absolute weight outside the ranges of columns; ``ValueError`` for more than a limit."""
    if not 0 <= limit <= 1:
        raise ValueError(f"outside: expected a share from 0 to 1, found {limit!r}")
    size, away = np.abs(data.weight), np.zeros(len(data), np.bool_)
    shares = {}
    for name, (low, high) in ranges.items():
        values = data.flat(name)
        beyond = (values < low) | (values > high)
        shares[name], away = float(size @ beyond / size.sum()), away | beyond
    found = float(size @ away / size.sum())
    if found > limit:
        worst = max(shares, key=lambda name: shares[name])
        raise ValueError(
            f"data: expected at most outside={limit:g} of their weight outside the range of {of}, found {found:.3g}, "
            f"most of it in {worst!r} (simulated from {ranges[worst][0]:g} to {ranges[worst][1]:g}); {why}: simulate "
            f"it, select the data, or look at the units"
        )
    return found


def ranges_of(columns: Sequence[str], *samples: tuple[Events, ArrayLike]) -> dict[str, tuple[float, float]]:
    """The least and the greatest value of each flat column in the rows of samples."""
    found = {}
    for name in columns:
        values = [np.asarray(events.flat(name))[np.asarray(rows)] for events, rows in samples]
        found[name] = (min(float(v.min()) for v in values if len(v)), max(float(v.max()) for v in values if len(v)))
    return found


def check_factors(what: str, values: Floats, kind: str) -> None:
    """Raise ``ValueError`` where factors (events, universes), or another ``kind``, are not finite or below 0."""
    bad = ~np.isfinite(values) | (values < 0)
    if bad.any():
        raise ValueError(f"{what}: expected finite {kind} from 0, found {int(bad.sum())} that are not, first in rows "
                         f"{np.flatnonzero(bad.any(1))[:5].tolist()}")  # fmt: skip


def warn_of_shared_keys(
    data: Events, background: Events | None, simulation: Events, group: str | None, *, what: str = "bootstrap",
    effect: str = "whose multiplicities are equal in each replica",
) -> None:  # fmt: skip
    """Equal ids are taken for the same event: say so where two samples share some, and what comes of it."""
    named = {"data": data, "background": background, "simulation": simulation}
    keys = {name: key_of(events, group) for name, events in named.items() if events is not None}
    for one, other in itertools.combinations(keys, 2):
        shared = len(np.intersect1d(keys[one], keys[other]))
        if shared:
            _log.warning("%s: %s and %s share %d ids (or groups), %s; give ids of their own to events that are not the "
                         "same", what, one, other, shared, effect)  # fmt: skip


@dataclass(frozen=True, eq=False)
class FromData:
    """A result that knows its data, and whose bootstraps are hashes of ids by ``seed`` and ``group``.

    Attributes
    ----------
    seen:
        The data and the background, for ``check``: in memory alone, and None for what was loaded or changed.
    """

    seen: tuple[Events, Events | None] | None = field(default=None, init=False)

    if TYPE_CHECKING:

        @property
        def seed(self) -> int:
            """Of the bootstraps."""

        @property
        def group(self) -> str | None:
            """The column of the ids' groups."""

    def with_data(self, data: Events, background: Events | None = None) -> Self:
        """The same, which knows what it was unfolded from, by reference, until it is saved or changed."""
        found = replace(self)
        object.__setattr__(found, "seen", (data, background))
        return found

    def _known(self, data: Events | None, background: Events | None) -> tuple[Self, Events, Events | None]:
        """The same with these data or, without them, its own; ``ValueError`` where it has none."""
        known = self if data is None else self.with_data(data, background)
        if known.seen is None or (data is None and background is not None):
            raise ValueError("check: expected data=, and background= where there is any: a result that was loaded or "
                             "changed does not know them; or neither of one that does")  # fmt: skip
        return known, *known.seen

    def bootstrap_times(self, replica: int, events: Events) -> NDArray[np.uint8]:
        """How often a replica counted each of ``events`` (N,): data, background or simulation.

        They are told by their ids, or by ``group`` where they have that column.
        """
        return hashing.poisson(key_of(events, self.group), self.seed, "bootstrap", replica)


def check_iteration(iteration: int, count: int) -> int:
    """The number of one of ``count`` iterations; ``ValueError`` for others."""
    if not 0 <= iteration < count:
        raise ValueError(f"iteration: expected a number from 0 to {count - 1}, found {iteration}")
    return iteration


def check_counts(*, least: int = 1, **counts: object) -> None:
    """Raise ``ValueError`` where one of ``counts``, by name, is no whole number of at least ``least``."""
    for name, count in counts.items():
        if not isinstance(count, int | np.integer) or count < least:
            raise ValueError(f"{name}: expected a whole number of at least {least}, found {count!r}")


def purity(
    fit: Callable[[tuple[Floats, Floats], Keys, Training], Fitted | Heads], rows: Rows, weight: Floats, key: Keys,
    observed: Inputs, resample: Resample, training: Training,
) -> Floats:  # fmt: skip
    """The simulation's signal fraction p(x) at each observed row (networks, rows), by a ratio of signal to fakes.

    Parameters
    ----------
    fit:
        (weights, key, training) -> the log ratio of signal to fakes, on the signal rows and behind them the fakes.
    weight:
        Of the simulation (events,), or (networks, events).
    key:
        Of the simulation (events,).
    training:
        With more epochs where its own would be fewer than `PURITY_STEPS` steps.
    """
    which = np.concatenate([rows.signal, rows.fakes])
    own, is_signal = weight[..., which], np.arange(len(which)) < len(rows.signal)
    one, zero = np.where(is_signal, own, 0.0), np.where(is_signal, 0.0, own)
    positive_total("fakes", np.atleast_2d(zero)[0])
    fitted = fit((mean_one(one), mean_one(zero)), key[which], _long_enough(training, len(which)))
    times = resample.counts(key[which])
    odds = np.log((times * one).sum(1) / (times * zero).sum(1))
    return np.asarray(special.expit(fitted.log(observed) + odds[:, None]))


def _long_enough(training: Training, rows: int) -> Training:
    epochs = math.ceil(PURITY_STEPS / math.ceil(rows / training.batch))
    return replace(training, epochs=max(training.epochs, epochs))
