"""The events that methods without bins work on: which rows have truth, reco or both, and the keys of bootstraps."""

from __future__ import annotations

import itertools
import logging
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ..events import Events, flag, positive_total

__all__ = [
    "Rows",
    "check_counts",
    "check_factors",
    "check_iteration",
    "check_signal",
    "key_of",
    "reconstructed",
    "warn_of_shared_keys",
]

_log = logging.getLogger("nuinfer")

Floats = NDArray[np.float64]
Keys = NDArray[np.int64]


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
