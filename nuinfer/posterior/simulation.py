r"""Simulations for inference: theta from the prior, x from the simulator, on any number of cores, resumable.

.. math:: \theta_i \sim p(\theta), \qquad x_i \sim p(x \mid \theta_i), \qquad i = 1 \ldots n

One row is one pseudo-experiment: the parameters' columns beside those of its observation, flat or ragged.  Theta is
drawn once, from the seed; the simulator gets random numbers that belong to the seed and to the rows it works on.  So
the answer depends neither on the workers nor on being killed and taken up again (see `nuinfer.tasks`).

What to use when:

==============================================  =======================================================================
``simulate(f, prior, n, seed=1)``               f takes many theta at once, (B, P)
``simulate(..., vectorised=False)``             f takes one theta, (P,): an external program, a loop
``simulate(..., proposal=q)``                   theta is drawn from q, and weighted by p / q
`as_experiments`                                simulations that exist already, as a table of single events
==============================================  =======================================================================
"""

from __future__ import annotations

import inspect
import json
import logging
import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Executor
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from .. import hashing, store
from ..events import Events, Ragged, offsets_of
from ..tasks import TaskError, run
from .priors import Inside, Prior, PriorLike

__all__ = ["Simulations", "as_experiments", "simulate"]

_log = logging.getLogger(__name__)

Array = NDArray[Any]
Floats = NDArray[np.float64]
Ints = NDArray[np.int64]
Simulator = Callable[[Any, np.random.Generator], Any]
Form = Literal["array", "mapping"]
Errors = Literal["raise", "record"]

_ROWS = 1000  # of one call of a vectorised simulator, unless n is large
_SHOWN = 3  # failures that a message shows
_ENOUGH = 10  # failed calls after which a chunk that stops the run anyway is left


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
        failed = f"; {_failures_shown(self.names, self.failures, self.messages, 1)}" if self.messages else ""
        total = len(self.events) + len(self.messages)
        return f"Simulations({len(self)} of {total}, {len(self.messages)} failed{failed}; {self.prior}; {self.events})"

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write all of it to one file (see `nuinfer.store`)."""
        spec = {"prior": self.prior.to_json(), "messages": self.messages, "seed": self.seed,
                "columns": {"events": self.events.columns, "failures": self.failures.columns}}  # fmt: skip
        arrays = {f"{part} {name}": array for part, events in (("events", self.events), ("failures", self.failures))
                  for name, array in _encoded(events).items()}  # fmt: skip
        store.save(path, "simulations", spec, arrays)

    @classmethod
    def load(
        cls, path: str | os.PathLike[str], *, distribution: PriorLike | None = None, inside: Inside | None = None
    ) -> Simulations:
        """Read what `save` wrote; ``distribution`` and ``inside`` as in `Prior.from_json`."""
        spec, arrays = store.load(path, "simulations")
        prior = Prior.from_json(spec["prior"], distribution=distribution, inside=inside)
        events, failures = (
            _decoded({name.removeprefix(f"{part} "): array for name, array in arrays.items()
                      if name.startswith(f"{part} ")}).keep(spec["columns"][part])
            for part in ("events", "failures")
        )  # fmt: skip
        return cls(events, prior, failures, tuple(spec["messages"]), spec["seed"])


def simulate(
    simulator: Simulator,
    prior: PriorLike,
    n: int,
    *,
    seed: int,
    vectorised: bool | int = True,
    theta: Form = "array",
    columns: Sequence[str] | None = None,
    names: Sequence[str] | None = None,
    proposal: PriorLike | None = None,
    executor: Executor | None = None,
    cache: str | os.PathLike[str] | None = None,
    chunk: int | None = None,
    name: str = "",
    errors: Errors = "raise",
    in_flight: int | None = None,
    progress: bool = True,
) -> Simulations:
    """Draw ``n`` theta from the prior and simulate an observation at each.

    Parameters
    ----------
    simulator:
        ``simulator(theta, rng)``, which draws from the ``numpy.random.Generator`` rng only (``rng.integers(2**63)``
        seeds other libraries).  It returns an array, a mapping, or `Events`.

        *Vectorised*, theta (B, P): an array (B, D), or (B,); a mapping from names to arrays (B,), (B, D), or, ragged,
        `Ragged`, awkward arrays or lists of B arrays (k,) or (k, D); an awkward array of B records; events of B rows.

        *Per call*, theta (P,): an array (D,) or a number; a mapping from names to numbers, or, ragged, to arrays (k,)
        or (k, D); events of one row.

        Components become columns ``name[0]``, ... of flat arrays, clouds ``name.x0``, ... of ragged ones; mappings
        within a mapping are clouds, ``{"hits": {"x": ..., "q": ...}}``.
    prior:
        See `Prior.of`.
    n:
        The number of simulations.
    vectorised:
        True for a simulator of many theta at once; a number B for one that takes at most B; False for one theta.
    theta:
        ``"array"``, or ``"mapping"`` for theta as a dict from names to arrays (B,), or to numbers.
    columns:
        Names for an array's D components; x0, x1, ... if left out.
    names:
        Of the parameters, for a joint prior without names.
    proposal:
        Another prior of the same names that theta is drawn from.  The events' weights are then p(theta) / q(theta), and
        a fit takes them from there: do not give it the proposal once more.
    executor, in_flight, progress:
        As in `nuinfer.tasks.run`, e.g. ``nuinfer.processes(4)``.
    cache:
        A folder for finished chunks: the same call takes them up after a kill.  Theta, the simulator's name and the
        options are compared, not its code: ``name`` is a label for what they do not tell.
    chunk:
        Simulations of one task and file.  Left out: at most 256 chunks, and 1,000 rows in each call or more.  Random
        numbers belong to a call, so for ``vectorised=True`` they change with it; not for a number or False.
    errors:
        ``"raise"`` stops at a chunk with failures: a simulator that raises, or output that is not finite; the message
        has their number and the first theta.  ``"record"`` goes on, and keeps them in `Simulations.failures`.  A call
        for many theta that raises is repeated in halves until the theta is found; where no half raises again, it failed
        by chance, and all its rows count as failed.

    Raises
    ------
    TaskError
        where simulations fail under ``errors="raise"``, or all of them.
    ValueError, TypeError
        for output of the wrong number of rows, other columns than before, or of no numbers.

    Examples
    --------
    >>> def scatter(theta, rng):
    ...     return theta + 0.1 * rng.normal(size=theta.shape)
    >>> simulations = simulate(scatter, {"a": (0, 1), "b": (-1, 1)}, 500, seed=1, progress=False)
    >>> simulations.events.columns, len(simulations), simulations.messages
    (('a', 'b', 'x0', 'x1'), 500, ())

    A cloud whose length carries the rate:

    >>> def decays(theta, rng):
    ...     return {"hits.t": rng.exponential(theta[1], rng.poisson(theta[0]))}
    >>> prior = {"rate": (5, 20), "lifetime": (1, 3)}
    >>> simulate(decays, prior, 50, vectorised=False, seed=1, progress=False).events["hits.t"].rows
    50
    """
    prior = Prior.of(prior, names)
    if errors not in ("raise", "record") or theta not in ("array", "mapping"):
        raise ValueError(f"expected errors 'raise' or 'record' and theta 'array' or 'mapping', found {errors!r} and "
                         f"{theta!r}")  # fmt: skip
    points, weight = _points(prior, proposal, _whole("n", n), seed)
    rows, size = _sizes(vectorised, chunk, len(points))
    work = _Work(simulator, prior.names, rows, theta, _checked_names(columns), seed, errors == "raise")
    tasks = [(first, points[first : first + size]) for first in range(0, len(points), size)]
    options = {"seed": seed, "executor": executor, "checkpoint": cache, "chunk": 1, "name": _label(name, work),
               "in_flight": in_flight, "progress": progress}  # fmt: skip
    values = _through(work, tasks, options)
    return _gathered(values, points, weight, prior, work)


def _points(prior: Prior, proposal: PriorLike | None, n: int, seed: int) -> tuple[Floats, Floats]:
    """Theta (n, P) and its weights (n,)."""
    if proposal is None:
        return prior.sample(n, seed=seed), np.ones(n)
    other = Prior.of(proposal, None if isinstance(proposal, (Prior, Mapping)) else prior.names)
    if other.names != prior.names:
        raise ValueError(f"proposal: expected the prior's parameters {', '.join(prior.names)}, in that order, found "
                         f"{', '.join(other.names)}")  # fmt: skip
    theta = other.sample(n, seed=seed)
    logs = prior.log_prob(theta)
    outside = int(np.isneginf(logs).sum())
    if outside:
        raise ValueError(f"proposal: expected draws inside the prior, found {outside} of {n} outside, which would have "
                         f"the weight 0; proposal.restricted(prior.contains) cuts them off")  # fmt: skip
    return theta, np.exp(logs - other.log_prob(theta))


def check_covered(weight: Floats) -> None:
    """Raise ``ValueError`` where prior over proposal (N,) has a mean below 1: it misses a part of the prior."""
    mean, error = float(weight.mean()), float(weight.std()) / max(len(weight), 1) ** 0.5
    if 1 - mean > 5 * error + 0.01:
        raise ValueError(
            f"proposal: expected one that covers the prior, found a mean of prior over proposal of {mean:.3g} +- "
            f"{error:.2g}, not 1: it covers about that share; give the narrower prior, or a wider proposal"
        )


def _sizes(vectorised: bool | int, chunk: int | None, n: int) -> tuple[int, int]:
    """Rows of one call, 0 for one theta without the axis of rows, and simulations of one chunk."""
    least = -(-n // 256)
    wanted = None if chunk is None else _whole("chunk", chunk)
    if vectorised is False:
        return 0, wanted or least
    if vectorised is True:
        size = wanted or min(n, max(_ROWS, least))
        return size, size
    rows = _whole("vectorised", vectorised)
    if wanted is not None and wanted % rows:
        raise ValueError(f"chunk: expected a multiple of vectorised={rows}, the rows of one call, found {wanted}")
    return rows, wanted or rows * -(-least // rows)


def _through(work: _Work, tasks: Sequence[Any], options: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    """What the chunks gave, with errors as they are meant for the user."""
    try:
        values = run(work, tasks, **options).values
    except TaskError as error:
        cause = error.__cause__
        if isinstance(cause, _Wrong):
            raise cause.kind(cause.text) from cause
        if isinstance(cause, _Stopped):
            kept = "" if options["checkpoint"] is None else f"; the chunks before are in {options['checkpoint']}"
            raise TaskError(f"{cause}{kept}") from cause
        raise
    return [value for value in values if isinstance(value, dict)]


def _gathered(
    values: Sequence[Mapping[str, Any]], points: Floats, weight: Floats, prior: Prior, work: _Work
) -> Simulations:
    failed = np.concatenate([value["failed"] for value in values]).astype(np.int64)
    messages = tuple(text for value in values for text in json.loads(value["messages"].tobytes()))
    failures = Events({**prior.events(points[failed]), "simulation": failed}, id=failed)
    shown = _failures_shown(prior.names, failures, messages)
    if len(failed) == len(points):
        raise TaskError(f"simulate: all of {len(points)} simulations failed, first: {shown}")
    if len(failed) and work.stop:  # those of a cache that was filled under errors="record"
        raise TaskError(f"simulate: {len(failed)} of {len(points)} simulations failed, first: {shown}; {_ADVICE}")
    if len(failed):
        _log.warning("%d of %d simulations failed, first: %s", len(failed), len(points), shown)
    made = _together(values)
    rows = made.id
    # of the first theta too, so that rounds with several priors or proposals, and one seed, have different ids
    ids = hashing.bits(rows, work.seed, "simulation", points[0].tolist()).view(np.int64)
    columns = {**prior.events(points[rows]), **{name: made[name] for name in made}}
    return Simulations(Events(columns, weight=weight[rows] * made.weight, id=ids), prior, failures, messages, work.seed)


def _together(values: Sequence[Mapping[str, Any]]) -> Events:
    try:
        return _joined([_decoded(value) for value in values if "id" in value])
    except _Wrong as wrong:
        raise wrong.kind(wrong.text) from wrong


# -- one chunk, in whatever process ------------------------------------------------------------------------------------

_ADVICE = "errors='record' goes on without such, and reports them"

_BY_CHANCE = ("in a call for {rows} theta, and not when repeated in halves: which row fails is a matter of its random "
              "numbers; return NaN for it, or use vectorised=False")  # fmt: skip


class _Stopped(Exception):
    """Simulations failed under ``errors="raise"``."""


class _Wrong(Exception):
    """Output that no run can use; ``kind`` is the error that the user gets."""

    def __init__(self, kind: type[Exception], text: str) -> None:
        super().__init__(kind, text)
        self.kind, self.text = kind, text


@dataclass
class _Tally:
    """What came of a chunk so far."""

    made: list[Events] = field(default_factory=list)
    failed: list[tuple[int, str]] = field(default_factory=list)
    error: Exception | None = None


@dataclass(frozen=True)
class _Work:
    """The function of the tasks: a chunk of theta -> its events as arrays, and its failures."""

    simulator: Simulator
    names: tuple[str, ...]
    rows: int  # rows of a call; 0 for one theta (P,)
    form: Form
    columns: tuple[str, ...] | None
    seed: int
    stop: bool

    def __call__(self, task: tuple[int, Floats], rng: np.random.Generator) -> dict[str, Array]:
        first, theta = task
        tally, step = _Tally(), self.rows or 1
        for start in range(0, len(theta), step):
            self._call(first + start, theta[start : start + step], tally)
            if self.stop and len(tally.failed) >= _ENOUGH:
                break
        if self.stop and tally.failed:
            raise _Stopped(self._stopped(first, theta, tally)) from tally.error
        failed = np.array([row for row, _ in tally.failed], np.int64)
        text = json.dumps([message for _, message in tally.failed]).encode()
        found = _encoded(_joined(tally.made)) if tally.made else {}
        return {**found, "failed": failed, "messages": np.frombuffer(text, np.uint8)}

    def _call(self, first: int, theta: Floats, tally: _Tally) -> None:
        """One call for the rows from ``first``; where it raises, one for each half, down to the rows that fail."""
        try:
            result = self.simulator(self._given(theta), self._rng(first, len(theta)))
        except Exception as error:
            tally.error = tally.error or error
            self._halved(first, theta, tally, f"{type(error).__name__}: {error}")
            return
        events = _read(result, np.arange(first, first + len(theta)), self.columns, single=not self.rows)
        clash = [name for name in events if name in self.names]
        if clash:
            raise _Wrong(ValueError, f"simulator: expected columns that are no parameters, found {', '.join(clash)}; "
                                     f"give the observables other names")  # fmt: skip
        bad = _not_finite(events)
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
        failures = Events({"simulation": rows, **dict(zip(self.names, theta[rows - first].T, strict=True))}, id=rows)
        shown = _failures_shown(self.names, failures, [message for _, message in tally.failed])
        least = "at least " if len(rows) >= _ENOUGH else ""
        again = "" if self.rows else (f"; default_rng(SeedSequence({self.seed}, spawn_key=({rows[0]},))) has the "
                                          f"random numbers of the first")  # fmt: skip
        return (f"simulate: {least}{len(rows)} of simulations {first} to {first + len(theta) - 1} failed, first: "
                f"{shown}{again}; {_ADVICE}")  # fmt: skip


def _failures_shown(names: Sequence[str], failures: Events, messages: Sequence[str], most: int = _SHOWN) -> str:
    parts = []
    for row, message in enumerate(messages[:most]):
        theta = ", ".join(f"{name} = {failures[name][row]:.6g}" for name in names)
        parts.append(f"number {failures['simulation'][row]} ({theta}): {message}")
    return "; ".join(parts) + ("; ..." if len(messages) > most else "")


# -- what simulators return --------------------------------------------------------------------------------------------


def _read(result: Any, rows: Ints, columns: tuple[str, ...] | None, *, single: bool) -> Events:
    """The output for ``rows`` as events whose ids are the rows."""
    if isinstance(result, Events):
        _check_rows({"its events": len(result)}, len(rows), single)
        return Events({name: result[name] for name in result}, weight=result.weight, id=rows)
    try:
        found = dict(_leaves(result, columns, single))
        lengths = {name: column.rows if isinstance(column, Ragged) else len(column) for name, column in found.items()}
        _check_rows(lengths, len(rows), single)
        return Events(found, id=rows)
    except (TypeError, ValueError) as error:
        raise _Wrong(type(error), f"simulator: {error}") from error


def _check_rows(lengths: Mapping[str, int], rows: int, single: bool) -> None:
    if not lengths:
        raise _Wrong(ValueError, "simulator: expected at least one column, found an empty mapping")
    name, length = next(((k, v) for k, v in lengths.items() if v != rows), ("", rows))
    if length == rows:
        return
    advice = ("vectorised=False calls it with one theta" if not single else
              "events of several rows are a cloud of one pseudo-experiment: return {'hits.x': values}")  # fmt: skip
    raise _Wrong(ValueError, f"simulator: expected {rows} rows, one per theta, found {length} in {name}; {advice}")


def _leaves(result: Any, columns: tuple[str, ...] | None, single: bool) -> Iterator[tuple[str, Any]]:
    """The named columns of an output."""
    if isinstance(result, Mapping):
        for name, value in result.items():
            yield from _nested(name, value, single)
        return
    if _is_awkward(result) and result.fields:
        yield from _opened(Events(_one_record(result) if single else result))
        return
    array = _numbers("array", result)
    if array.ndim > (1 if single else 2):
        raise ValueError(f"expected an array {'(D,)' if single else '(B, D)'}, found {array.shape}; return a mapping "
                         f"from names to arrays or to lists of arrays for more")  # fmt: skip
    table = np.reshape(array, (1, -1)) if single else array[:, None] if array.ndim == 1 else np.atleast_2d(array)
    names = columns or tuple(f"x{j}" for j in range(table.shape[1]))
    if len(names) != table.shape[1]:
        raise ValueError(f"expected {len(names)} components, {', '.join(names)}, found {table.shape[1]}")
    yield from zip(names, table.T.copy(), strict=True)


def _nested(name: Any, value: Any, single: bool) -> Iterator[tuple[str, Any]]:
    if not isinstance(name, str) or not name:
        raise TypeError(f"expected columns' names, found the key {name!r}")
    if isinstance(value, Mapping):
        for inner, part in value.items():
            yield from _nested(f"{name}.{inner}", part, single)
    elif isinstance(value, Ragged):
        yield name, value
    elif _is_awkward(value):
        yield from _opened(Events({name: value[None] if single else value}))
    elif single:
        yield from _of_one(name, _numbers(f"column {name!r}", value))
    elif isinstance(value, (list, tuple)) and any(np.ndim(part) for part in map(_plain, value)):
        yield from _lists(name, [_numbers(f"column {name!r}", part) for part in value])
    else:
        yield from _of_many(name, _numbers(f"column {name!r}", value))


def _of_one(name: str, array: Array) -> Iterator[tuple[str, Any]]:
    """A number is flat, a list of numbers ragged."""
    if array.ndim:
        yield from _lists(name, [array])
    else:
        yield name, array[None]


def _of_many(name: str, array: Array) -> Iterator[tuple[str, Any]]:
    if array.ndim > 2 or not array.ndim:
        raise ValueError(f"column {name!r}: expected (B,) or (B, D), found {array.shape}; clouds are lists of B arrays")
    if array.ndim == 1:
        yield name, array.copy()  # the simulator may write its next answer into the same memory
    else:
        yield from ((f"{name}[{j}]", part.copy()) for j, part in enumerate(array.T))


def _lists(name: str, parts: Sequence[Array]) -> Iterator[tuple[str, Any]]:
    """Ragged columns of one array (k,) or (k, D) per row."""
    shapes = {part.shape[1:] for part in parts}
    if len(shapes) > 1 or not all(0 < part.ndim < 3 for part in parts):
        raise ValueError(f"column {name!r}: expected arrays (k,), or (k, D) of one D, found "
                         f"{', '.join(sorted({str(part.shape) for part in parts})[:4])}; an empty one is "
                         f"numpy.empty((0, D))")  # fmt: skip
    values, offsets = np.concatenate(parts), offsets_of(np.array([len(part) for part in parts]))
    if values.ndim == 1:
        yield name, Ragged(values, offsets)
    else:
        yield from ((f"{name}.x{j}", Ragged(np.ascontiguousarray(part), offsets)) for j, part in enumerate(values.T))


def _opened(events: Events) -> Iterator[tuple[str, Any]]:
    return ((name, events[name]) for name in events)


def _is_awkward(value: Any) -> bool:
    return type(value).__module__.partition(".")[0] == "awkward"


def _one_record(result: Any) -> Any:
    """An awkward record, or an array of one column's lists, as an array of one event."""
    import awkward as ak

    if not isinstance(result, ak.Record):
        return result[None]
    row = result.layout.at
    return ak.Array(result.layout.array[row : row + 1])


def _plain(value: Any) -> Any:
    """Tensors as arrays."""
    return value.detach().cpu().numpy() if type(value).__module__.partition(".")[0] == "torch" else value


def _numbers(what: str, value: Any) -> Array:
    try:
        array = np.asarray(_plain(value))
    except ValueError:  # lists of several lengths
        raise ValueError(f"{what}: expected one shape, found lists of several; a ragged column is a list of arrays in "
                         f"a mapping, {{'hits.x': [...]}}") from None  # fmt: skip
    if array.dtype.kind not in "biuf" or np.ma.isMaskedArray(value):
        raise TypeError(f"{what}: expected numbers or booleans, found {type(value).__name__} of {array.dtype}")
    return array


def _not_finite(events: Events) -> dict[int, str]:
    """The rows with numbers that are not finite, and which."""
    bad: dict[int, str] = {}
    for name in events:
        column = events[name]
        values = column.values if isinstance(column, Ragged) else column
        if values.dtype.kind != "f" or np.isfinite(values).all():
            continue
        places = np.flatnonzero(~np.isfinite(values))
        rows = np.searchsorted(column.offsets, places, "right") - 1 if isinstance(column, Ragged) else places
        for row, place in zip(rows.tolist(), places.tolist(), strict=True):
            bad.setdefault(row, f"output not finite: column {name!r} has {values[place]}")
    return bad


# -- events as arrays --------------------------------------------------------------------------------------------------


def _encoded(events: Events) -> dict[str, Array]:
    arrays: dict[str, Array] = {"weight": events.weight, "id": events.id}
    for name in events:
        column = events[name]
        if isinstance(column, Ragged):
            arrays |= {f"values {name}": column.values, f"counts {name}": column.counts}
        else:
            arrays[f"flat {name}"] = column
    return arrays


def _decoded(arrays: Mapping[str, Array]) -> Events:
    columns: dict[str, Any] = {}
    for key, array in arrays.items():
        kind, _, name = key.partition(" ")
        if kind == "flat":
            columns[name] = array
        elif kind == "values":
            columns[name] = Ragged(array, offsets_of(arrays[f"counts {name}"]))
    return Events(columns, weight=arrays["weight"], id=arrays["id"])


def _joined(parts: Sequence[Events]) -> Events:
    """All simulations, of which each has to have the same columns."""
    try:
        return Events.concat(parts)
    except (TypeError, ValueError):
        kinds = [{name: "ragged" if isinstance(part[name], Ragged) else "flat" for name in part} for part in parts]
        other = next(i for i, kind in enumerate(kinds) if kind != kinds[0])
        text = (f"simulator: expected the same columns from each call, found {_kinds(kinds[0])} for simulation "
                f"{parts[0].id[0]} and {_kinds(kinds[other])} for simulation {parts[other].id[0]}")  # fmt: skip
    raise _Wrong(ValueError, text)


def _kinds(kinds: Mapping[str, str]) -> str:
    return ", ".join(f"{name} ({kind})" for name, kind in kinds.items())


# -- tables of single events -------------------------------------------------------------------------------------------


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


# -- small steps -------------------------------------------------------------------------------------------------------


def _whole(what: str, value: Any) -> int:
    if isinstance(value, bool) or not isinstance(value, (int, np.integer)) or value < 1:
        raise ValueError(f"{what}: expected a whole number from 1, found {value!r}")
    return int(value)


def _checked_names(columns: Sequence[str] | None) -> tuple[str, ...] | None:
    if columns is None:
        return None
    if isinstance(columns, str) or not all(isinstance(name, str) for name in columns):
        raise TypeError(f"columns: expected a list of names, found {columns!r}")
    if len(set(columns)) != len(columns):
        raise ValueError(f"columns: expected different names, found {list(columns)}")
    return tuple(columns)


def _label(name: str, work: _Work) -> str:
    """Of the progress bar, and what a cache compares besides theta and the seed."""
    parts = [name, _called(work.simulator), f"{work.rows} rows a call" if work.rows else "",
             "theta by name" if work.form == "mapping" else "", *(work.columns or ())]  # fmt: skip
    return ", ".join(part for part in parts if part)


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
