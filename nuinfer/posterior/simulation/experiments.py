"""Tables of single events as pseudo-experiments: the events of one become a cloud, whose length carries the rate."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ...events import Events, Ragged, offsets_of

__all__ = ["as_experiments"]

Array = NDArray[Any]
Ints = NDArray[np.int64]


def as_experiments(
    events: Events,
    columns: Sequence[str],
    *,
    experiment: str,
    ids: Iterable[int] | None = None,
    theta: Mapping[str, Any] | Sequence[str] = (),
    cloud: str = "events",
) -> Events:
    """A table of single events as pseudo-experiments: one row each, its events a cloud whose length carries the rate.

    Parameters
    ----------
    events:
        One row per event, in any order; events of one experiment keep theirs.
    columns:
        The flat columns that become ragged ones, ``cloud.column``.
    experiment:
        The integer column that says of which experiment an event is.
    ids:
        All experiments, in the order of the rows that come out.  Left out, those that have events, rising: an
        experiment without events cannot be seen in the table, and leaving it out biases the rate.
    theta:
        Flat columns of the experiments: a mapping from names to arrays in the order of ``ids``, or the names of columns
        of ``events`` that are the same in all events of an experiment.
    cloud:
        The name of the cloud; ``""`` for none.

    Raises
    ------
    ValueError
        for events of an experiment that is not in ``ids``, weights other than 1, a column of ``theta`` that varies
        within an experiment or is not known for one without events.
    TypeError
        for ragged columns: events with hits are compressed to flat columns first.

    Examples
    --------
    >>> table = Events({"run": [7, 3, 7], "e": [0.5, 1.5, 2.5]})
    >>> found = as_experiments(table, ["e"], experiment="run", ids=[3, 5, 7], theta={"mu": [0.1, 0.2, 0.3]})
    >>> found["events.e"].values.tolist(), found["events.e"].counts.tolist()
    ([1.5, 0.5, 2.5], [1, 0, 2])
    """
    if (events.weight != 1).any():
        raise ValueError(f"events: expected weights of 1, since a cloud's length is its rate, found "
                         f"{int((events.weight != 1).sum())} of {len(events)} others; accept and reject by weight, or "
                         f"give the weight as a column and events.with_weight(1)")  # fmt: skip
    key = events.key(experiment)
    listed = np.unique(key) if ids is None else _checked_ids(ids)
    place = _places(experiment, key, listed)
    order = np.argsort(place, kind="stable")
    offsets = offsets_of(np.bincount(place, minlength=len(listed)))
    prefix = f"{cloud}." if cloud else ""
    clouds = {f"{prefix}{name}": Ragged(events.flat(name)[order], offsets) for name in columns}
    flat = dict(theta) if isinstance(theta, Mapping) else _constant(events, theta, order, offsets, listed)
    return Events({**flat, **clouds}, id=listed)


def _checked_ids(ids: Iterable[int]) -> Ints:
    listed = np.asarray(list(ids))
    if listed.ndim != 1 or listed.dtype.kind not in "iu" or len(np.unique(listed)) != len(listed):
        raise ValueError(f"ids: expected different integers, one per experiment, found {listed.dtype} {listed.shape} "
                         f"with {len(np.unique(listed))} different values")  # fmt: skip
    return listed.astype(np.int64)


def _places(experiment: str, key: Ints, listed: Ints) -> Ints:
    """The row of each event's experiment."""
    if not len(listed):
        raise ValueError("ids: expected at least one experiment, found none; give ids=, all experiments there are")
    rising = np.argsort(listed)
    at = np.minimum(np.searchsorted(listed, key, sorter=rising), len(listed) - 1)
    place = rising[at]
    unknown = np.unique(key[listed[place] != key])
    if len(unknown):
        raise ValueError(f"{experiment!r}: expected experiments among ids, found events of {len(unknown)} others, "
                         f"first {', '.join(map(str, unknown[:5]))}")  # fmt: skip
    return np.asarray(place, np.int64)


def _constant(events: Events, names: Sequence[str], order: Ints, offsets: Ints, listed: Ints) -> dict[str, Array]:
    """Columns that are the same in all events of an experiment, once each."""
    empty = listed[np.diff(offsets) == 0]
    if names and len(empty):
        raise ValueError(f"theta: expected events in each experiment to read {', '.join(names)} from, found none in "
                         f"{len(empty)}, first {empty[0]}; give theta as a mapping from names to arrays")  # fmt: skip
    found: dict[str, Array] = {}
    for name in names:
        values = events.flat(name)[order]
        found[name] = values[offsets[:-1]]
        other = values != np.repeat(found[name], np.diff(offsets))
        if other.any():
            first = listed[np.searchsorted(offsets, np.flatnonzero(other)[0], "right") - 1]
            raise ValueError(f"theta: expected {name!r} to be the same in all events of an experiment, found several "
                             f"values in experiment {first}")  # fmt: skip
    return found
