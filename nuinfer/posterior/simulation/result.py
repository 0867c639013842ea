"""The result of a run: simulations, those that failed, and the file that holds both."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ... import store
from ...events import Events, Ragged, offsets_of
from ..priors import Inside, Prior, PriorLike

__all__ = ["Simulations"]

Array = NDArray[Any]
Floats = NDArray[np.float64]
Ints = NDArray[np.int64]

_PARTS = ("events", "failures")  # of a file, which the names of its arrays begin with
_SHOWN = 3  # failures that a message shows


@dataclass(frozen=True, eq=False, repr=False)
class Simulations:
    """Made by `simulate`.

    Attributes
    ----------
    events:
        One row per simulation that came about: the parameters' columns, then the observation's; `Events.id` is a hash
        of seed, first theta and number, ``weight`` the proposal's and the simulator's.
    prior:
        Of the parameters.
    failures:
        One row per simulation that failed: the parameters' columns, and ``simulation``, its number.
    messages:
        What each of them failed of.
    seed:
        That they were made with.
    """

    events: Events
    prior: Prior
    failures: Events
    messages: tuple[str, ...]
    seed: int

    def __len__(self) -> int:
        return len(self.events)

    @property
    def names(self) -> tuple[str, ...]:
        """Of the P parameters."""
        return self.prior.names

    @property
    def observables(self) -> tuple[str, ...]:
        """The columns of the observation."""
        return tuple(name for name in self.events.columns if name not in self.names)

    @property
    def theta(self) -> Floats:
        """The parameters (N, P)."""
        return np.stack([self.events.flat(name) for name in self.names], 1)

    @property
    def observations(self) -> Events:
        """The observations without the parameters."""
        return self.events.keep(self.observables)

    def __repr__(self) -> str:
        failed = f"; {failures_shown(self.names, self.failures, self.messages, 1)}" if self.messages else ""
        total = len(self.events) + len(self.messages)
        return f"Simulations({len(self)} of {total}, {len(self.messages)} failed{failed}; {self.prior}; {self.events})"

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write all of it to one file (see `nuinfer.store`)."""
        spec = {"prior": self.prior.to_json(), "messages": self.messages, "seed": self.seed,
                "columns": {part: getattr(self, part).columns for part in _PARTS}}  # fmt: skip
        arrays = (encoded(getattr(self, part), prefix=f"{part} ") for part in _PARTS)
        store.save(path, "simulations", spec, {name: array for own in arrays for name, array in own.items()})

    @classmethod
    def load(
        cls, path: str | os.PathLike[str], *, distribution: PriorLike | None = None, inside: Inside | None = None
    ) -> Simulations:
        """Read what `save` wrote; ``distribution`` and ``inside`` as in `Prior.from_json`."""
        spec, arrays = store.load(path, "simulations")
        prior = Prior.from_json(spec["prior"], distribution=distribution, inside=inside)
        events, failures = (decoded(arrays, prefix=f"{part} ").keep(spec["columns"][part]) for part in _PARTS)
        return cls(events, prior, failures, tuple(spec["messages"]), spec["seed"])


def failures_of(names: Sequence[str], theta: Floats, numbers: Ints) -> Events:
    """The failures at theta (F, P), with the numbers (F,) of their simulations."""
    return Events({**dict(zip(names, theta.T.copy(), strict=True)), "simulation": numbers}, id=numbers)


def failures_shown(names: Sequence[str], failures: Events, messages: Sequence[str], most: int = _SHOWN) -> str:
    """The first of them in words."""
    parts = []
    for row, message in enumerate(messages[:most]):
        theta = ", ".join(f"{name} = {failures[name][row]:.6g}" for name in names)
        parts.append(f"number {failures['simulation'][row]} ({theta}): {message}")
    return "; ".join(parts) + ("; ..." if len(messages) > most else "")


def encoded(events: Events, *, prefix: str = "") -> dict[str, Array]:
    """The arrays that a file holds of events, with names that begin with ``prefix``."""
    arrays: dict[str, Array] = {"weight": events.weight, "id": events.id}
    for name in events:
        column = events[name]
        if isinstance(column, Ragged):
            arrays |= {f"values {name}": column.values, f"counts {name}": column.counts}
        else:
            arrays[f"flat {name}"] = column
    return store.under(prefix, arrays)


def decoded(arrays: Mapping[str, Array], *, prefix: str = "") -> Events:
    """The inverse of `encoded`; other arrays are passed over."""
    own = store.within(prefix, arrays)
    columns: dict[str, Any] = {}
    for key, array in own.items():
        kind, _, name = key.partition(" ")
        if kind == "flat":
            columns[name] = array
        elif kind == "values":
            columns[name] = Ragged(array, offsets_of(own[f"counts {name}"]))
    return Events(columns, weight=own["weight"], id=own["id"])
