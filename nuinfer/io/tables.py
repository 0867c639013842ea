"""What the reader asks of a file format: a `Table` of columns, read in chunks of consecutive events.

A table has *heads* (branches, fields, data sets), each of which makes one or more *leaves*, the columns: a fixed-size
array ``x[3]`` makes ``x[0]``, ``x[1]``, ``x[2]``, a structure or a list of structures ``hits`` makes ``hits.x``, ...
Formats implement the six members below; names, cuts, weights, ids, friends and caches are worked out once for all.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple, Protocol

import numpy as np

from ..errors import missing
from ..events import Column, Flat, Ragged, offsets_of

__all__ = ["Leaf", "Mark", "Table", "find"]

Columns = dict[str, Column]
FORMAT = 1


class Leaf(NamedTuple):
    """A column that a file offers; ``why`` says, where not empty, why it cannot be one and what to do."""

    dtype: np.dtype[Any] | None
    ragged: bool
    why: str = ""


class Mark(NamedTuple):
    """What a file written by nuinfer says of itself: which columns hold weight and id, and the order of the others."""

    weight: str
    id: str
    columns: tuple[str, ...] = ()

    def dumps(self) -> str:
        """The mark as JSON."""
        return json.dumps({"nuinfer": FORMAT, **self._asdict()}, separators=(",", ":"))

    @classmethod
    def loads(cls, label: str, text: str | bytes | None) -> Mark | None:
        """The mark in ``text``, or None where it holds none; a newer format raises ``ValueError``."""
        try:
            found = json.loads(text or "null")
        except ValueError:
            return None
        if not isinstance(found, dict) or "nuinfer" not in found:
            return None
        if found["nuinfer"] > FORMAT:
            raise ValueError(f"{label}: written in format {found['nuinfer']}, newer than this nuinfer's {FORMAT}; "
                             f"update nuinfer to read it")  # fmt: skip
        return cls(found["weight"], found["id"], tuple(found["columns"]))


class Names(Protocol):
    """Columns that can be asked for by name; ``label`` says in messages where they are."""

    label: str
    mark: Mark | None

    def heads(self) -> Sequence[str]:
        """The names of what can be read, in the file's order."""

    def leaves(self, head: str) -> Mapping[str, Leaf]:
        """The columns that ``head`` makes."""


class Table(Names, Protocol):
    """The events of one file, or of one tree in it."""

    @property
    def identity(self) -> str:
        """What identifies the events' origin, wherever the file lies and whatever is read of it."""

    def entries(self, names: Sequence[str]) -> int:
        """The number of events in the columns ``names``."""

    def event_bytes(self, names: Sequence[str]) -> float:
        """Roughly the bytes in memory that one event takes in the columns ``names``."""

    def chunks(self, names: Sequence[str], start: int, stop: int, step: int | None) -> Iterator[Columns]:
        """The columns ``names`` of events start .. stop, in pieces of at most ``step`` events (None: in one piece)."""

    def close(self) -> None:
        """Close the file."""


# -- names ------------------------------------------------------------------------------------------------------------


def find(table: Names, pattern: str) -> dict[str, Leaf]:
    """The columns of ``table`` that ``pattern`` names: one column, all fields of a cloud or array, or a glob's matches.

    Raises
    ------
    KeyError
        where there is none, with the closest names.
    """
    exact = leaf_of(table, pattern)
    if exact is not None:
        return {pattern: exact}
    under = (f"{pattern}.", f"{pattern}[")
    found: dict[str, Leaf] = {}
    for head in table.heads():
        if head == pattern or head.startswith(under):
            found.update(table.leaves(head))
        elif pattern.startswith((f"{head}.", f"{head}[")):
            found.update({leaf: kind for leaf, kind in table.leaves(head).items() if leaf.startswith(under)})
    if not found and ("*" in pattern or "?" in pattern):
        matches = _globbed(pattern)
        found = {leaf: kind for leaf, kind in all_leaves(table).items() if matches(leaf)}
    if not found:
        raise missing(f"column of {table.label} named", pattern, all_leaves(table))
    return found


def leaf_of(table: Names, name: str) -> Leaf | None:
    """The column of exactly that name, or None."""
    for head in table.heads():
        if head == name or name.startswith((f"{head}.", f"{head}[")):
            leaves = table.leaves(head)
            if name in leaves:
                return leaves[name]
    return None


def _globbed(pattern: str) -> Any:
    text = re.escape(pattern).replace(r"\*", ".*").replace(r"\?", ".")
    return re.compile(text, re.DOTALL).fullmatch


def all_leaves(table: Names) -> dict[str, Leaf]:
    """Every column of ``table``."""
    return {leaf: kind for head in table.heads() for leaf, kind in table.leaves(head).items()}


def unreadable(table: Names, name: str, why: str) -> TypeError:
    """The error for a leaf that cannot be a column, naming the columns that can."""
    good = [leaf for leaf, kind in all_leaves(table).items() if not kind.why]
    shown = ", ".join(good[:20]) + (", ..." if len(good) > 20 else "")
    return TypeError(f"{table.label}: {name!r} cannot be a column, it holds {why}; name the columns that you want, "
                     f"for example among {shown or '(none)'}")  # fmt: skip


# -- columns ----------------------------------------------------------------------------------------------------------


def components(name: str, shape: tuple[int, ...]) -> dict[str, tuple[int, ...]]:
    """The names and places of the entries of a fixed-size array: ``x[0]``, ``x[1]``, ... or ``x[0][0]``, ..."""
    return {name + "".join(f"[{i}]" for i in place): place for place in np.ndindex(*shape)}


def split_array(name: str, array: Flat, wanted: Sequence[str] | set[str]) -> Iterator[tuple[str, Flat]]:
    """The ``wanted`` columns of an array (N, ...), each contiguous and in native byte order."""
    for leaf, place in components(name, array.shape[1:]).items():
        if leaf in wanted:
            index: Any = (slice(None), *place)
            part = array[index]
            native = part.dtype.newbyteorder("=")
            yield leaf, np.ascontiguousarray(part, dtype=native)


def from_zero(values: Flat, offsets: Flat) -> tuple[Flat, Flat]:
    """Values and int64 offsets that begin at 0 and end at the number of values."""
    first, last = (int(offsets[0]), int(offsets[-1])) if len(offsets) else (0, 0)
    if not len(offsets):
        offsets = np.zeros(1, np.int64)
    offsets = offsets.astype(np.int64, copy=False)
    return values[first:last], offsets - first if first else offsets


def rows_of(columns: Mapping[str, Column]) -> int:
    """The number of events in ``columns``."""
    column = next(iter(columns.values()))
    return column.rows if isinstance(column, Ragged) else len(column)


def cut_rows(columns: Columns, start: int, stop: int) -> Columns:
    """Events start .. stop of ``columns``, without copies."""
    return {name: _cut(column, start, stop) for name, column in columns.items()}


def _cut(column: Column, start: int, stop: int) -> Column:
    if isinstance(column, Ragged):
        stop = min(stop, column.rows)
        return Ragged(*from_zero(column.values, column.offsets[start : stop + 1]))
    return column[start:stop]


def joined(parts: Sequence[Columns]) -> Columns:
    """The columns of ``parts``, one after the other."""
    if len(parts) == 1:
        return parts[0]
    return {name: _joined([part[name] for part in parts]) for name in parts[0]}


def _joined(parts: Sequence[Column]) -> Column:
    ragged = [part for part in parts if isinstance(part, Ragged)]
    if not ragged:
        return np.concatenate([part for part in parts if not isinstance(part, Ragged)])
    counts = np.concatenate([part.counts for part in ragged])
    return Ragged(np.concatenate([part.values for part in ragged]), offsets_of(counts))


class Tap:
    """Chunks of columns, given out again in the numbers of events that are asked for."""

    def __init__(self, chunks: Iterator[Columns]) -> None:
        self._chunks = chunks
        self._left: Columns = next(chunks)

    def take(self, count: int) -> Columns:
        """The next ``count`` events (0: an empty piece)."""
        parts = [cut_rows(self._left, 0, count)]
        rows = rows_of(self._left)
        while count > rows:
            count -= rows
            self._left = next(self._chunks)
            rows = rows_of(self._left)
            parts.append(cut_rows(self._left, 0, count))
        self._left = cut_rows(self._left, count, rows)
        return joined(parts)


def rebatched(chunks: Iterator[Columns], step: int | None) -> Iterator[Columns]:
    """The same events in chunks of ``step``, but for the last; for None all of them in one."""
    if step is None:
        yield joined(list(chunks))
        return
    waiting: list[Columns] = []
    count = 0
    for chunk in chunks:
        at, rows = 0, rows_of(chunk)
        while at < rows or not (rows or waiting):
            taken = min(step - count, rows - at)
            waiting.append(cut_rows(chunk, at, at + taken))
            at, count = at + taken, count + taken
            if at == rows:
                del chunk  # hold nothing of it while the next one is read
            if count < step:
                break
            yield _emptied(waiting)
            count = 0
    if waiting:
        yield _emptied(waiting)


def _emptied(waiting: list[Columns]) -> Columns:
    parts = waiting.copy()
    waiting.clear()
    return joined(parts)
