"""The work of one chunk, in whatever process: calls of the simulator, their random numbers, their failures."""

from __future__ import annotations

import inspect
import json
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from ...events import Events
from .outputs import Wrong, joined, not_finite, read_output
from .result import encoded, failures_of, failures_shown

Array = NDArray[Any]
Floats = NDArray[np.float64]
Simulator = Callable[[Any, np.random.Generator], Any]
Form = Literal["array", "mapping"]

ADVICE = "errors='record' goes on without such, and reports them"

_BY_CHANCE = ("in a call for {rows} theta, and not when repeated in halves: which row fails is a matter of its random "
              "numbers; return NaN for it, or use vectorised=False")  # fmt: skip

_ENOUGH = 10  # failed calls after which a chunk that stops the run anyway is left


class Stopped(Exception):
    """Simulations failed under ``errors="raise"``."""


@dataclass
class _Tally:
    """What came of a chunk so far."""

    made: list[Events] = field(default_factory=list)
    failed: list[tuple[int, str]] = field(default_factory=list)
    error: Exception | None = None


@dataclass(frozen=True)
class Work:
    """The function of the tasks: a chunk of theta -> its events as arrays, and its failures."""

    simulator: Simulator
    names: tuple[str, ...]
    rows: int  # rows of a call; 0 for one theta (P,)
    form: Form
    columns: tuple[str, ...] | None
    seed: int
    stop: bool

    def __call__(self, task: tuple[int, Floats], rng: np.random.Generator) -> dict[str, Array]:
        """What the simulations of theta (B, P), from the number ``first``, gave."""
        first, theta = task
        tally, step = _Tally(), self.rows or 1
        for start in range(0, len(theta), step):
            self._call(first + start, theta[start : start + step], tally)
            if self.stop and len(tally.failed) >= _ENOUGH:
                break
        if self.stop and tally.failed:
            raise Stopped(self._stopped(first, theta, tally)) from tally.error
        failed = np.array([row for row, _ in tally.failed], np.int64)
        text = json.dumps([message for _, message in tally.failed]).encode()
        found = encoded(joined(tally.made)) if tally.made else {}
        return {**found, "failed": failed, "messages": np.frombuffer(text, np.uint8)}

    def label(self, name: str) -> str:
        """Of the progress bar, and what a cache compares besides theta and the seed."""
        parts = [name, _called(self.simulator), f"{self.rows} rows a call" if self.rows else "",
                 "theta by name" if self.form == "mapping" else "", *(self.columns or ())]  # fmt: skip
        return ", ".join(part for part in parts if part)

    def _call(self, first: int, theta: Floats, tally: _Tally) -> None:
        """One call for the rows from ``first``; where it raises, one for each half, down to the rows that fail."""
        try:
            result = self.simulator(self._given(theta), self._rng(first, len(theta)))
        except Exception as error:
            tally.error = tally.error or error
            self._halved(first, theta, tally, f"{type(error).__name__}: {error}")
            return
        events = read_output(result, np.arange(first, first + len(theta)), self.columns, single=not self.rows)
        clash = [name for name in events if name in self.names]
        if clash:
            raise Wrong(ValueError, f"simulator: expected columns that are no parameters, found {', '.join(clash)}; "
                                     f"give the observables other names")  # fmt: skip
        bad = not_finite(events)
        tally.failed += [(first + row, text) for row, text in sorted(bad.items())]
        tally.made.append(events.select(~np.isin(np.arange(len(events)), list(bad))) if bad else events)

    def _halved(self, first: int, theta: Floats, tally: _Tally, message: str) -> None:
        rows, made, failed = len(theta), len(tally.made), len(tally.failed)
        for start, stop in ((0, rows // 2), (rows // 2, rows)) if rows > 1 else ():
            if not (self.stop and len(tally.failed) >= _ENOUGH):
                self._call(first + start, theta[start:stop], tally)
        if len(tally.failed) > failed:
            return
        # one row; or several, of which none fails with new random numbers, which must not be a second try for it
        del tally.made[made:]
        why = "" if rows == 1 else f" ({_BY_CHANCE.format(rows=rows)})"
        tally.failed += [(first + row, message + why) for row in range(rows)]

    def _given(self, theta: Floats) -> Any:
        points = theta.copy() if self.rows else theta[0].copy()
        if self.form == "array":
            return points
        values = points.T.copy() if self.rows else points.tolist()
        return dict(zip(self.names, values, strict=True))

    def _rng(self, first: int, rows: int) -> np.random.Generator:
        key = (first, rows) if self.rows else (first,)
        return np.random.default_rng(np.random.SeedSequence(self.seed, spawn_key=key))

    def _stopped(self, first: int, theta: Floats, tally: _Tally) -> str:
        rows = np.array([row for row, _ in tally.failed], np.int64)
        failures = failures_of(self.names, theta[rows - first], rows)
        shown = failures_shown(self.names, failures, [message for _, message in tally.failed])
        least = "at least " if len(rows) >= _ENOUGH else ""
        again = "" if self.rows else (f"; default_rng(SeedSequence({self.seed}, spawn_key=({rows[0]},))) has the "
                                          f"random numbers of the first")  # fmt: skip
        return (f"simulate: {least}{len(rows)} of simulations {first} to {first + len(theta) - 1} failed, first: "
                f"{shown}{again}; {ADVICE}")  # fmt: skip


def _called(simulator: Any) -> str:
    """The name of the simulator, below `functools.partial`."""
    if not callable(simulator):
        raise TypeError(f"simulator: expected a function of (theta, rng), found {type(simulator).__name__}")
    try:
        inspect.signature(simulator).bind(None, None)
    except TypeError as error:
        raise TypeError(f"simulator: expected a function of (theta, rng), found one that does not take these "
                        f"({error}); lambda theta, rng: f(theta) passes theta alone on") from None  # fmt: skip
    except ValueError:
        pass  # compiled functions do not tell what they take
    while hasattr(simulator, "func"):
        simulator = simulator.func
    return str(getattr(simulator, "__qualname__", type(simulator).__qualname__))
