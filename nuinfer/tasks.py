"""The one map over many tasks: toys, throws, simulations, retraining; seeded, resumable, on any number of cores.

Task i gets the random numbers of ``numpy.random.SeedSequence(seed).spawn(n)[i]``, whatever the executor, the number of
workers, the size of chunks and the order in which they finish; so the results do not depend on these (O'Neill's seed
sequences as in NumPy, M. E. O'Neill, "Developing a seed_seq alternative", 2015).  Tasks run in chunks, and each
finished chunk goes to the checkpoint's folder, one atomic file of `nuinfer.store`; a run that was killed takes them up
from there.

What to use when: nothing (in this process) for short work, `processes` for the cores of one machine, any other
``concurrent.futures.Executor`` (dask, mpi4py) for a cluster.
"""

from __future__ import annotations

import concurrent.futures
import contextlib
import dataclasses
import functools
import hashlib
import itertools
import logging
import os
import reprlib
import sys
import traceback
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Executor, Future
from pathlib import Path, PurePath
from typing import Any, Literal, NamedTuple, NoReturn

import numpy as np
from numpy.typing import NDArray

from . import store
from .errors import CorruptFile

__all__ = ["Failure", "Results", "TaskError", "processes", "run"]

_log = logging.getLogger(__name__)

Array = NDArray[Any]
Value = np.generic | Array | dict[str, Any]  # a number, an array, or named ones of these
Function = Callable[[Any, np.random.Generator], Any]
Errors = Literal["raise", "record"]

_THREADS = (
    "OMP_NUM_THREADS",
    "MKL_NUM_THREADS",
    "OPENBLAS_NUM_THREADS",
    "VECLIB_MAXIMUM_THREADS",
    "NUMEXPR_NUM_THREADS",
)


class TaskError(RuntimeError):
    """A task raised, or the executor lost it; the message has the task's number and value, the cause is chained."""


class Failure(NamedTuple):
    """A task that raised under ``errors="record"``: its number, and the type and text of its exception."""

    task: int
    message: str


@dataclasses.dataclass(frozen=True, eq=False, repr=False)
class Results:
    """What the tasks of a `run` gave, in the order of the tasks.

    Attributes
    ----------
    values:
        One entry per task: a NumPy number or array, or a dict of these; None for a task that failed.
    failures:
        The tasks that failed; always empty under ``errors="raise"``.
    """

    values: tuple[Value | None, ...]
    failures: tuple[Failure, ...] = ()

    def __len__(self) -> int:
        return len(self.values)

    def __repr__(self) -> str:
        first = next((value for value in self.values if value is not None), None)
        names = ", ".join(_named(first)) if first is not None else "none"
        return f"Results({len(self)} tasks, {len(self.failures)} failed; {names})"

    @property
    def done(self) -> NDArray[np.int64]:
        """The numbers of the tasks that gave a value, rising: the rows of `stacked`."""
        return np.flatnonzero([value is not None for value in self.values])

    def stacked(self, *, skip_failures: bool = False) -> dict[str, Array]:
        """The values as arrays ``(n, *shape)``, one per name; numbers and arrays without a name are under ``"value"``.

        ``skip_failures`` leaves out the tasks that failed: row j is then task ``done[j]``.

        Raises
        ------
        ValueError
            if tasks failed and ``skip_failures`` is not set, or if names or shapes differ between tasks.
        """
        if self.failures and not skip_failures:
            raise ValueError(
                f"expected a value from each task, but {len(self.failures)} of {len(self)} failed, first "
                f"task {self.failures[0].task} ({self.failures[0].message}); skip_failures=True leaves them out"
            )
        rows = [(index, _named(value)) for index, value in enumerate(self.values) if value is not None]
        if not rows:
            raise ValueError("expected at least one value to stack: all tasks failed")
        return {name: _stack(name, rows) for name in _common_names(rows)}

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write the results to one file (see `nuinfer.store`)."""
        layout, arrays = _encoded(self.values)
        store.save(path, "tasks results", {"tasks": len(self), "layout": layout, "failures": self.failures}, arrays)

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> Results:
        """Read what `save` wrote."""
        spec, arrays = store.load(path, "tasks results")
        return cls(_decoded(spec["tasks"], spec["layout"], arrays), _failures(spec))


def run(
    function: Function,
    tasks: int | Iterable[Any],
    *,
    seed: int,
    executor: Executor | None = None,
    checkpoint: str | os.PathLike[str] | None = None,
    chunk: int | None = None,
    name: str = "",
    errors: Errors = "raise",
    in_flight: int | None = None,
    progress: bool = True,
) -> Results:
    """Call ``function(task, rng)`` for each task and collect what it returns.

    Parameters
    ----------
    function:
        Takes a task and a ``numpy.random.Generator`` of its own; returns a number, a NumPy array, or a mapping from
        names to these.  It should draw only from that generator (``rng.integers(2**63)`` seeds other libraries).
        Torch has one thread while it runs.
    tasks:
        The tasks, or their number n for the tasks 0 .. n - 1.
    seed:
        A non-negative integer.  Task i draws from ``default_rng(SeedSequence(seed, spawn_key=(i,)))``.
    executor:
        None runs the tasks here, one after the other; else any ``concurrent.futures.Executor``, e.g. `processes`.
        Function and tasks travel by cloudpickle, so lambdas and functions of a notebook will do.
    checkpoint:
        A folder for finished chunks.  With the same arguments a later run takes them up; ``executor``, ``errors``,
        ``in_flight`` and ``progress`` may change.  Chunks that hold failures are run again under ``errors="raise"``;
        a damaged chunk is logged and run again (its seeds give the same numbers).
    chunk:
        Tasks per chunk; None cuts the tasks into at most 256 chunks.
    name:
        A label of the run: of its progress bar, and part of what a checkpoint is compared by.  What ``function`` holds
        besides the tasks (defaults, enclosed variables) is not compared: name it here.
    errors:
        ``"raise"`` stops at the first task that fails; ``"record"`` goes on and keeps its number and message.
    in_flight:
        Chunks handed to the executor at one time; None is twice its workers, or 256 where it does not tell them.
    progress:
        False silences the progress bar.

    Raises
    ------
    TaskError
        where a task fails under ``errors="raise"``, or its worker dies; chunks finished before are in the checkpoint.
    TypeError
        for a result that is neither a number, an array nor a flat mapping of these; for a function or a task that does
        not travel; for tasks that a checkpoint cannot compare, where there is no ``name``.
    ValueError
        for a checkpoint of another run (the message says what differs), a folder with other files in it, or a process
        pool that forks.

    Examples
    --------
    The mean of 100 events, 1000 times:

    >>> def toy(task, rng):
    ...     x = rng.normal(size=100)
    ...     return {"mean": x.mean(), "sd": x.std(ddof=1)}
    >>> toys = run(toy, 1000, seed=1, progress=False)
    >>> toys
    Results(1000 tasks, 0 failed; mean, sd)
    >>> toys.stacked()["mean"].std().round(2).item()
    0.1
    """
    if executor is not None:
        _check_executor(executor)
    if errors not in ("raise", "record"):
        raise ValueError(f"errors: expected 'raise' or 'record', found {errors!r}")
    items = range(_positive("tasks", tasks)) if isinstance(tasks, (int, np.integer)) else list(tasks)
    jobs = _Jobs(function, items, _checked_seed(seed), _chunk_size(chunk, len(items)), stop=errors == "raise")
    most = in_flight if in_flight is None else _positive("in_flight", in_flight)
    kept = None if checkpoint is None else _Checkpoint.at(Path(checkpoint), jobs, name)
    finished = {} if kept is None else kept.load(jobs)
    todo = [number for number in range(jobs.chunks) if number not in finished]
    outcomes = _here(jobs, todo) if executor is None else _through(executor, jobs, todo, most)
    with contextlib.closing(outcomes), _bar(jobs, todo, name, progress) as bar:
        for number, outcome in outcomes:
            if outcome.error is not None:
                _stopped(outcome, outcome.error, jobs, checkpoint)
            if kept is not None:
                kept.save(number, outcome)
            finished[number] = outcome
            bar.update(len(outcome.values))
    return _collected([finished[number] for number in range(jobs.chunks)])


def processes(n: int | None = None) -> Executor:
    """A pool of n worker processes on this machine, one thread each, for ``executor=``; None is one per core.

    It is loky's reusable executor: a second call with the same n gives the same workers, which end after a minute
    without work.  They are fresh processes, never forks, and need no ``if __name__ == "__main__"`` in a script.

    Raises
    ------
    ValueError
        for n below 1.

    Examples
    --------
    >>> run(lambda task, rng: task**2, 4, seed=1, executor=processes(1), progress=False).stacked()["value"].tolist()
    [0, 1, 4, 9]
    """
    import loky

    workers = loky.cpu_count() if n is None else _positive("n", n)
    pool: Executor = loky.get_reusable_executor(max_workers=workers, timeout=60, env=dict.fromkeys(_THREADS, "1"))
    return pool


# -- arguments ---------------------------------------------------------------------------------------------------------


def _positive(what: str, value: Any) -> int:
    if isinstance(value, bool) or not isinstance(value, (int, np.integer)):
        raise TypeError(f"{what}: expected a positive integer, found {type(value).__name__} {value!r}")
    if value < 1:
        raise ValueError(f"{what}: expected a positive integer, found {value}")
    return int(value)


def _checked_seed(seed: Any) -> int:
    if isinstance(seed, bool) or not isinstance(seed, (int, np.integer)):
        raise TypeError(f"seed: expected an integer, found {type(seed).__name__} {seed!r}")
    if seed < 0:
        raise ValueError(f"seed: expected a non-negative integer, found {seed}")
    return int(seed)


def _chunk_size(chunk: int | None, count: int) -> int:
    if not count:
        raise ValueError("tasks: expected at least one, found none")
    # a function of the number of tasks alone, so that a checkpoint does not depend on the workers
    return -(-count // 256) if chunk is None else _positive("chunk", chunk)


def _check_executor(executor: Executor) -> None:
    if not isinstance(executor, Executor):
        raise TypeError(
            f"executor: expected a concurrent.futures.Executor or None, found {type(executor).__name__}; "
            f"nuinfer.processes(n) makes one, and so does client.get_executor() of dask"
        )
    if isinstance(executor, concurrent.futures.ProcessPoolExecutor):
        context = getattr(executor, "_mp_context", None)
        if context is not None and context.get_start_method() == "fork":
            raise ValueError(
                "executor: expected a pool that does not fork (a forked child hangs in its first torch operation), "
                "found one that does; use nuinfer.processes(n), or mp_context=multiprocessing.get_context('spawn')"
            )


# -- chunks ------------------------------------------------------------------------------------------------------------


@dataclasses.dataclass(frozen=True)
class _Outcome:
    """A finished chunk, or one that ``error`` stopped: that of the task ``failures[-1]``, or, without it, our own."""

    values: Sequence[Value | None]
    failures: Sequence[Failure] = ()
    error: Exception | None = None


@dataclasses.dataclass(frozen=True)
class _Jobs:
    """The tasks, cut into chunks."""

    function: Function
    tasks: Sequence[Any]
    seed: int
    chunk: int
    stop: bool

    @property
    def chunks(self) -> int:
        return -(-len(self.tasks) // self.chunk)

    def rows(self, number: int) -> range:
        return range(len(self.tasks))[number * self.chunk : (number + 1) * self.chunk]

    def arguments(self, number: int) -> tuple[int, list[Any], int, bool]:
        rows = self.rows(number)
        return rows.start, list(self.tasks[rows.start : rows.stop]), self.seed, self.stop


def _run_chunk(function: Function, first: int, tasks: Sequence[Any], seed: int, stop: bool) -> _Outcome:
    """The tasks ``first``, ``first + 1``, ... one after the other, up to the first that fails if ``stop``."""
    values: list[Value | None] = []
    failures: list[Failure] = []
    for index, task in enumerate(tasks, first):
        rng = np.random.default_rng(np.random.SeedSequence(seed, spawn_key=(index,)))
        try:
            with _one_torch_thread():
                result = function(task, rng)
        except Exception as error:
            failures.append(Failure(index, _described(error)))
            values.append(None)
            if stop:
                return _Outcome(values, failures, error)
            continue
        try:
            values.append(_value(f"task {index}", result))
        except TypeError as error:
            return _Outcome(values, (), error)
    return _Outcome(values, failures)


def _described(error: BaseException) -> str:
    return f"{type(error).__name__}: {error}"


def _value(where: str, result: Any) -> Value:
    """A result as it is kept: copied, since a function may write the next one into the same memory."""
    if not isinstance(result, Mapping):
        return _number_or_array(where, result)
    if not result:
        raise TypeError(f"{where}: expected a number, an array or a mapping of these, found an empty mapping")
    wrong = next((name for name in result if type(name) is not str), None)
    if wrong is not None:
        raise TypeError(f"{where}: expected a mapping with string keys, found the key {wrong!r}")
    return {name: _number_or_array(f"{where}, {name!r}", item) for name, item in result.items()}


def _number_or_array(where: str, result: Any) -> np.generic | Array:
    if not isinstance(result, (bool, int, float, np.generic, np.ndarray)):
        raise TypeError(
            f"{where}: expected a number, a numpy array, or a flat mapping from names to these, found "
            f"{type(result).__name__}; turn it into arrays before returning it (numpy.asarray)"
        )
    kept: Array = store.plain(where, np.asanyarray(result)).copy()
    return kept[()]  # a number where it has no dimensions, else the array itself


def _stopped(outcome: _Outcome, error: Exception, jobs: _Jobs, checkpoint: str | os.PathLike[str] | None) -> NoReturn:
    if not outcome.failures:
        raise error
    index, message = outcome.failures[-1]
    kept = "" if checkpoint is None else f"; the finished chunks are in {os.fspath(checkpoint)}"
    raise TaskError(
        f"task {index} ({reprlib.repr(jobs.tasks[index])}) failed: {message}; "
        f"default_rng(SeedSequence({jobs.seed}, spawn_key=({index},))) repeats its random numbers, "
        f"errors='record' goes on without it{kept}"
    ) from error


def _collected(outcomes: Iterable[_Outcome]) -> Results:
    outcomes = list(outcomes)
    values = itertools.chain.from_iterable(outcome.values for outcome in outcomes)
    failures = itertools.chain.from_iterable(outcome.failures for outcome in outcomes)
    return Results(tuple(values), tuple(failures))


@contextlib.contextmanager
def _one_torch_thread() -> Iterator[None]:
    """Wherever a task runs: so that its sums have one order, and workers do not crowd the cores."""
    torch = sys.modules.get("torch")
    before = torch.get_num_threads() if torch is not None else 1
    if torch is None or before == 1:
        yield
        return
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def _bar(jobs: _Jobs, todo: Sequence[int], name: str, progress: bool) -> Any:
    from tqdm.auto import tqdm

    left = sum(len(jobs.rows(number)) for number in todo)
    total = len(jobs.tasks)
    return tqdm(total=total, initial=total - left, desc=name or None, unit="task", disable=not progress)


# -- where chunks run --------------------------------------------------------------------------------------------------

_Stream = Generator[tuple[int, _Outcome], None, None]


def _here(jobs: _Jobs, todo: Sequence[int]) -> _Stream:
    for number in todo:
        yield number, _run_chunk(jobs.function, *jobs.arguments(number))


def _through(executor: Executor, jobs: _Jobs, todo: Sequence[int], most: int | None) -> _Stream:
    """Outcomes as they come, with at most ``most`` chunks handed to the executor."""
    most = most or 2 * (getattr(executor, "_max_workers", None) or 128)
    function = _packed("function", jobs.function)
    waiting: dict[Future[bytes], int] = {}
    left = iter(todo)
    try:
        while True:
            for number in itertools.islice(left, most - len(waiting)):
                packed = _packed(f"tasks of chunk {number}", jobs.arguments(number))
                waiting[executor.submit(_remote, function, packed)] = number
            if not waiting:
                return
            done, _ = concurrent.futures.wait(waiting, return_when=concurrent.futures.FIRST_COMPLETED)
            ready = [(waiting.pop(future), future) for future in done]
            opened = [(number, _unpacked(future, jobs.rows(number))) for number, future in ready]
            # those that stop the run come last, so that the others are in the checkpoint before
            yield from sorted(opened, key=lambda pair: (pair[1].error is not None, pair[0]))
    finally:
        for future in waiting:
            future.cancel()


def _packed(what: str, thing: Any) -> bytes:
    import cloudpickle

    try:
        packed: bytes = cloudpickle.dumps(thing)
    except Exception as error:
        raise TypeError(
            f"{what}: cannot be sent to the workers of an executor ({_described(error)}); open files, locks and "
            f"connections inside the function instead"
        ) from error
    return packed


def _remote(function: bytes, arguments: bytes) -> bytes:
    """What a worker does: a chunk, with an error that survives the way back."""
    import cloudpickle

    outcome = _run_chunk(cloudpickle.loads(function), *cloudpickle.loads(arguments))
    if outcome.error is not None:
        outcome = dataclasses.replace(outcome, error=_travelling(outcome.error))
    packed: bytes = cloudpickle.dumps(outcome)
    return packed


def _travelling(error: Exception) -> Exception:
    import cloudpickle

    note = "in the worker:\n" + "".join(traceback.format_exception(error))
    try:
        copy: Exception = cloudpickle.loads(cloudpickle.dumps(error))
    except Exception:  # many exceptions with arguments of their own can be packed, but not unpacked
        copy = RuntimeError(_described(error))
    copy.add_note(note)
    return copy


def _unpacked(future: Future[bytes], rows: range) -> _Outcome:
    import cloudpickle

    try:
        outcome: _Outcome = cloudpickle.loads(future.result())
    except Exception as error:
        lost = TaskError(
            f"tasks {rows.start} to {rows.stop - 1}: the executor lost them ({_described(error)}); did a worker run "
            f"out of memory, or lack a package?"
        )
        lost.__cause__ = error
        return _Outcome((), (), lost)
    return outcome


# -- values as arrays --------------------------------------------------------------------------------------------------


def _named(value: Value) -> Mapping[str, Any]:
    return value if isinstance(value, dict) else {"value": value}


def _common_names(rows: Sequence[tuple[int, Mapping[str, Any]]]) -> list[str]:
    first, names = rows[0][0], list(rows[0][1])
    for index, value in rows:
        if set(value) != set(names):
            raise ValueError(
                f"expected the same names from each task, found {names} from task {first} and {list(value)} "
                f"from task {index}; use .values"
            )
    return names


def _stack(name: str, rows: Sequence[tuple[int, Mapping[str, Any]]]) -> Array:
    first, shape = rows[0][0], np.shape(rows[0][1][name])
    for index, value in rows:
        if np.shape(value[name]) != shape:
            raise ValueError(
                f"{name!r}: expected one shape from all tasks, found {shape} from task {first} and "
                f"{np.shape(value[name])} from task {index}; use .values"
            )
    return np.stack([value[name] for _, value in rows])


def _encoded(values: Iterable[Value | None]) -> tuple[list[Any], dict[str, Array]]:
    """Values as few arrays: array ``str(j)`` stacks what the rows ``layout[j][1]`` have under ``layout[j][0]``."""
    groups: dict[tuple[str | None, str, tuple[int, ...]], tuple[list[int], list[Any]]] = {}
    for row, value in enumerate(values):
        if value is None:
            continue
        for name, item in value.items() if isinstance(value, dict) else [(None, value)]:
            rows, items = groups.setdefault((name, item.dtype.str, item.shape), ([], []))
            rows.append(row)
            items.append(item)
    layout = [[name, rows] for (name, _, _), (rows, _) in groups.items()]
    return layout, {str(j): np.stack(items) for j, (_, items) in enumerate(groups.values())}


def _decoded(count: int, layout: Sequence[Any], arrays: Mapping[str, Array]) -> tuple[Value | None, ...]:
    values: list[Any] = [None] * count
    for j, (name, rows) in enumerate(layout):
        for row, item in zip(rows, arrays[str(j)], strict=True):
            if name is None:
                values[row] = item
            elif values[row] is None:
                values[row] = {name: item}
            else:
                values[row][name] = item
    return tuple(values)


def _failures(spec: Mapping[str, Any]) -> tuple[Failure, ...]:
    return tuple(Failure(task, message) for task, message in spec["failures"])


# -- the checkpoint ----------------------------------------------------------------------------------------------------


@dataclasses.dataclass(frozen=True)
class _Checkpoint:
    """A folder with ``manifest.safetensors``, which says of which run it is, and one file per finished chunk."""

    folder: Path
    run: str  # the digest of the manifest, in each chunk too

    @classmethod
    def at(cls, folder: Path, jobs: _Jobs, name: str) -> _Checkpoint:
        """The checkpoint of this run in ``folder``, made there if the folder is new or empty."""
        wanted = _manifest(jobs, name)
        digest = hashlib.blake2b(repr(sorted(wanted.items())).encode(), digest_size=16).hexdigest()
        path = folder / "manifest.safetensors"
        if path.exists():
            _compare(folder, wanted, store.load(path, "tasks manifest")[0])
        else:
            _check_new(folder)
            store.save(path, "tasks manifest", wanted, {})
        return cls(folder, digest)

    def path(self, number: int) -> Path:
        return self.folder / f"chunk-{number:06d}.safetensors"

    def save(self, number: int, outcome: _Outcome) -> None:
        layout, arrays = _encoded(outcome.values)
        spec = {"run": self.run, "tasks": len(outcome.values), "layout": layout, "failures": outcome.failures}
        store.save(self.path(number), "tasks chunk", spec, arrays)

    def load(self, jobs: _Jobs) -> dict[int, _Outcome]:
        """The finished chunks, without those that the run has to repeat."""
        found = {number: self._chunk(number) for number in range(jobs.chunks) if self.path(number).exists()}
        return {
            number: outcome
            for number, outcome in found.items()
            if outcome is not None and not (jobs.stop and outcome.failures)
        }

    def _chunk(self, number: int) -> _Outcome | None:
        try:
            spec, arrays = store.load(self.path(number), "tasks chunk")
        except CorruptFile as error:
            _log.warning("a damaged chunk is run again: %s", error)
            return None
        if spec["run"] != self.run:
            raise ValueError(f"{self.path(number)}: a chunk of another run lies in this checkpoint; delete it")
        return _Outcome(_decoded(spec["tasks"], spec["layout"], arrays), _failures(spec))


def _manifest(jobs: _Jobs, name: str) -> dict[str, Any]:
    """What has to be the same for a chunk to be taken up."""
    return {
        "seed": jobs.seed,
        "number of tasks": len(jobs.tasks),
        "chunk": jobs.chunk,
        "name": name,
        "function": _function_name(jobs.function),
        "tasks": _digest(jobs.tasks, name),
    }


def _function_name(function: Any) -> str:
    while isinstance(function, functools.partial):
        function = function.func
    return str(getattr(function, "__qualname__", type(function).__qualname__))


def _compare(folder: Path, wanted: Mapping[str, Any], found: Mapping[str, Any]) -> None:
    differs = [key for key in wanted if wanted[key] != found.get(key)]
    if differs:
        said = "; ".join(f"{key}: expected {wanted[key]!r}, found {found.get(key)!r}" for key in differs)
        raise ValueError(f"checkpoint {folder} is of another run ({said}); give another folder, or delete this one")


def _check_new(folder: Path) -> None:
    if folder.exists() and not folder.is_dir():
        raise ValueError(f"checkpoint {folder}: expected a folder, found a file")
    others = sorted(p.name for p in folder.iterdir() if not p.name.startswith(".")) if folder.exists() else []
    if others:
        raise ValueError(
            f"checkpoint {folder}: expected a new or empty folder, or one with a manifest.safetensors, found "
            f"{', '.join(others[:4])}{', ...' if len(others) > 4 else ''}; give another folder"
        )


def _digest(tasks: Sequence[Any], name: str) -> str:
    """A hash of the tasks' contents; empty where they are of types that have none and the run has a name."""
    digest = hashlib.blake2b(digest_size=16)
    try:
        _feed(digest, tasks if isinstance(tasks, range) else list(tasks))
    except TypeError as error:
        if name:
            return ""
        raise TypeError(f"{error}; give the run a name= that changes when its tasks do") from None
    return digest.hexdigest()


def _feed(digest: Any, value: Any) -> None:
    """Type and content of plain data, however deep."""
    kind = type(value).__qualname__
    if value is None or isinstance(value, (bool, int, float, complex, str, bytes, range, PurePath)):
        digest.update(f"{kind} {value!r};".encode())
    elif isinstance(value, (np.ndarray, np.generic)) and value.dtype.kind in "biufcSUmM":
        digest.update(f"{kind} {value.dtype.str} {value.shape};".encode() + value.tobytes())
    elif isinstance(value, (list, tuple)):
        digest.update(f"{kind} {len(value)};".encode())
        for item in value:
            _feed(digest, item)
    elif isinstance(value, Mapping):
        _feed(digest, (kind, list(value.items())))
    elif dataclasses.is_dataclass(value) and not isinstance(value, type):
        _feed(digest, (kind, [(field.name, getattr(value, field.name)) for field in dataclasses.fields(value)]))
    else:
        raise TypeError(f"tasks: a checkpoint cannot compare tasks of type {kind}")
