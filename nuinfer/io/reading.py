"""From tables to `Events`: which columns are read, and how cut, aliases, weight, id and friends are applied.

Everything is a stream of chunks, `stream`; a whole reading is the stream with one chunk per file, joined.  Entries are
counted over all files of a source in their order.  An event's id is the column that the user names, the one that
nuinfer wrote, or ``hash(identity of the file, entry in it)``: it depends neither on the folder or name of the file nor
on what is read of it (see `Table.identity` of each format).
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from .. import hashing
from ..errors import check_finite, missing
from ..events import Events, Flat, Floats, Ints, Ragged, _frozen, _share_offsets
from .expressions import FUNCTIONS, Expression, filled
from .sources import Place, Source, places
from .tables import Columns, Leaf, Names, Table, Tap, all_leaves, find, leaf_of, rows_of, unreadable

__all__ = ["Request", "read", "stream"]

Opener = Callable[[Place], Table]
Counted = Callable[[Table], Sequence[str]]
Lookup = Callable[[str], Any]
_BLOCK = 1 << 15
_NAME = re.compile(r"[^\W\d][\w.\[\]]*")


@dataclass(frozen=True)
class Request:
    """What the user asked for; the names are those of `nuinfer.io.read_root`'s options."""

    source: Source
    opener: Opener
    friend_opener: Opener
    columns: str | Sequence[str] | None = None
    cut: str | None = None
    aliases: Mapping[str, str] | None = None
    weight: str | None = None
    id: str | None = None
    entry_start: int = 0
    entry_stop: int | None = None
    friends: Source = ()

    def __post_init__(self) -> None:
        for name in ("entry_start", "entry_stop"):
            value = getattr(self, name)
            if not (value is None or isinstance(value, (int, np.integer))) or isinstance(value, bool):
                raise TypeError(f"{name}: expected a whole number, found {value!r}")
        for name in ("cut", "weight", "id"):
            if not isinstance(getattr(self, name), (str, type(None))):
                raise TypeError(f"{name}: expected a string, found {type(getattr(self, name)).__name__}")

    @property
    def patterns(self) -> tuple[str, ...] | None:
        """The columns asked for, as a tuple."""
        if self.columns is None:
            return None
        patterns: tuple[Any, ...] = (self.columns,) if isinstance(self.columns, str) else tuple(self.columns)
        for pattern in patterns:
            if not (isinstance(pattern, str) and pattern):
                raise TypeError(f"columns: expected names of columns, found {pattern!r}")
        return patterns

    @property
    def friend_sources(self) -> list[Source]:
        """One source per friend: a list means several friends, anything else one."""
        if isinstance(self.friends, (list, tuple)):
            return list(self.friends)
        return [self.friends] if self.friends else []


# -- files one after the other ----------------------------------------------------------------------------------------


class Chain:
    """The tables of a source, one after the other, of which one is open at a time."""

    def __init__(self, source: Source, opener: Opener) -> None:
        self.places = places(source)
        self._opener = opener

    @contextmanager
    def table(self, number: int) -> Iterator[Table]:
        """The table of one file, open."""
        table = self._opener(self.places[number])
        try:
            yield table
        finally:
            table.close()

    def lengths(self, counted: Counted) -> list[int]:
        """The number of events of every file; opens them all."""
        found = []
        for number in range(len(self.places)):
            with self.table(number) as table:
                found.append(table.entries(counted(table)))
        return found

    def pieces(self, counted: Counted, start: int, stop: int | None) -> Iterator[tuple[Table, int, int]]:
        """(table, first, last) of the entries start .. stop over all files; at least one piece, even if empty.

        ``counted`` gives the columns by which the entries are counted, for formats in which lengths may differ.
        """
        if start < 0 or (stop is not None and stop < 0):
            start, stop, _ = slice(start, stop).indices(sum(self.lengths(counted)))
        before, given = 0, False
        for number in range(len(self.places)):
            if given and stop is not None and before >= stop:
                return
            with self.table(number) as table:
                entries = table.entries(counted(table))
                first = max(start - before, 0)
                last = max(entries if stop is None else min(stop - before, entries), 0)
                if first < last or (number == len(self.places) - 1 and not given):
                    given = True
                    yield table, min(first, last), last
                before += entries


# -- friends ----------------------------------------------------------------------------------------------------------


class Friend:
    """A chain whose events go with those of the main one, entry by entry."""

    def __init__(self, chain: Chain, taken: Sequence[str]) -> None:
        self.chain = chain
        with chain.table(0) as table:
            self.label = table.label
            label = chain.places[0].inner or re.split(r"[\\/]", chain.places[0].path)[-1].rpartition(".")[0]
            leaves = all_leaves(table)
        # as in ROOT: a name that the main tree has too is reached as "friend.name"
        self.names = {f"{label}.{leaf}" if leaf in taken else leaf: leaf for leaf in leaves}
        self.kinds = {name: leaves[leaf] for name, leaf in self.names.items()}

    def entries(self) -> int:
        """The number of events over all its files."""
        return sum(self.chain.lengths(self._counted))

    def _counted(self, table: Table) -> list[str]:
        return [next(iter(self.names.values()))]

    def tap(self, names: Sequence[str], start: int, stop: int, step: int | None) -> Tap | None:
        """The columns ``names`` of entries start .. stop; None where there are no names."""
        return Tap(self._chunks(names, start, stop, step)) if names else None

    def _chunks(self, names: Sequence[str], start: int, stop: int, step: int | None) -> Iterator[Columns]:
        leaves = [self.names[name] for name in names]
        for table, first, last in self.chain.pieces(self._counted, start, stop):
            for chunk in table.chunks(leaves, first, last, step):
                yield {name: chunk[leaf] for name, leaf in zip(names, leaves, strict=True)}


class _WithFriends:
    """The columns of a table and of the friends beside it, under the names that the user sees."""

    def __init__(self, table: Table, friends: Sequence[Friend]) -> None:
        self.table, self.friends = table, friends
        self.label, self.mark = table.label, table.mark

    def heads(self) -> Sequence[str]:
        return [*self.table.heads(), *(name for friend in self.friends for name in friend.kinds)]

    def leaves(self, head: str) -> Mapping[str, Leaf]:
        for friend in self.friends:
            if head in friend.kinds:
                return {head: friend.kinds[head]}
        return self.table.leaves(head)


# -- what is read and what becomes of it ------------------------------------------------------------------------------


@dataclass(frozen=True)
class Plan:
    """What is read of one table (and of each friend), and what is made of it."""

    main: tuple[str, ...]
    friends: tuple[tuple[str, ...], ...]
    keep: tuple[str, ...]
    aliases: Mapping[str, Expression]
    cut: Expression | None
    weight: Expression | None
    id: str | None


def _plan(request: Request, table: Table, friends: Sequence[Friend]) -> Plan:
    scope: Names = _WithFriends(table, friends) if friends else table
    mark = table.mark
    weight_text = request.weight if request.weight is not None else (mark.weight if mark else None)
    id_name = request.id if request.id is not None else (mark.id if mark else None)
    words = _Words(scope, request.aliases or {})
    aliases = {name: words.parse(f"alias {name!r}", text) for name, text in (request.aliases or {}).items()}
    for name, expression in aliases.items():
        _check_cycle(name, expression, aliases, (name,))
    cut = words.parse("cut", request.cut) if request.cut is not None else None
    weight = words.parse("weight", weight_text) if weight_text is not None else None
    hidden = {weight_text, id_name, *((mark.weight, mark.id) if mark else ())}
    keep = _kept(request.patterns, scope, aliases, hidden)
    needed = dict.fromkeys(name for name in keep if name not in aliases)
    for used in (e for e in (*aliases.values(), cut, weight) if e is not None):
        needed.update(dict.fromkeys(name for name in used.names if name not in aliases))
    if id_name is not None and id_name not in aliases:
        needed[words.column(id_name)] = None
    return _divided(Plan((), (), keep, aliases, cut, weight, id_name), list(needed), scope, table, friends)


def _divided(plan: Plan, needed: list[str], scope: Names, table: Table, friends: Sequence[Friend]) -> Plan:
    """The plan with the ``needed`` columns divided among the table and its friends."""
    for name in needed:
        kind = leaf_of(scope, name)
        if kind is not None and kind.why:
            raise unreadable(scope, name, kind.why)
    theirs = tuple(tuple(name for name in needed if name in friend.kinds) for friend in friends)
    taken = {name for names in theirs for name in names}
    main = [name for name in needed if name not in taken] or _any_column(table)
    return replace(plan, main=tuple(main), friends=theirs)


def _any_column(table: Table) -> list[str]:
    """A column to count events by, where none of the table is asked for."""
    good = (name for head in table.heads() for name, kind in table.leaves(head).items() if not kind.why)
    return [next(good)]


class _Words:
    """The names that expressions may use."""

    def __init__(self, scope: Names, aliases: Mapping[Any, str]) -> None:
        self.scope, self.aliases = scope, aliases
        for name in aliases:
            if not (isinstance(name, str) and _NAME.fullmatch(name)):
                raise ValueError(f"aliases: expected {{new name: expression}}, found the name {name!r}")
            if self._is_column(name):
                raise ValueError(f"alias {name!r}: {scope.label} has a column of that name; choose another")

    def _is_column(self, name: str) -> bool:
        return leaf_of(self.scope, name) is not None

    def column(self, name: str) -> str:
        if not self._is_column(name):
            raise missing(f"column of {self.scope.label} named", name, [*all_leaves(self.scope), *self.aliases])
        return name

    def parse(self, role: str, text: str) -> Expression:
        expression = Expression.parse(role, text, self._is_column)
        for name in expression.names:
            if name in self.aliases or self._is_column(name):
                continue
            if name in FUNCTIONS:
                raise ValueError(f"{role} {text!r}: {name!r} is a function; write {name}(...)")
            known = [*all_leaves(self.scope), *self.aliases]
            raise KeyError(f"{role} {text!r}: {missing(f'column of {self.scope.label} named', name, known).args[0]}")
        return expression


def _check_cycle(name: str, expression: Expression, aliases: Mapping[str, Expression], path: tuple[str, ...]) -> None:
    for used in expression.names:
        if used in path:
            raise ValueError(f"alias {name!r}: defined by itself, {' -> '.join((*path, used))}")
        if used in aliases:
            _check_cycle(name, aliases[used], aliases, (*path, used))


def _kept(
    patterns: tuple[str, ...] | None, scope: Names, aliases: Mapping[str, Expression], hidden: set[str | None]
) -> tuple[str, ...]:
    """The columns of the result; weight and id are among them only where they are named."""
    keep: dict[str, None] = {}
    for pattern in ("*",) if patterns is None else patterns:
        if pattern in aliases:
            keep[pattern] = None
            continue
        found = all_leaves(scope) if pattern == "*" else find(scope, pattern)
        keep.update(dict.fromkeys(name for name in found if name == pattern or name not in hidden))
    order = scope.mark.columns if scope.mark and patterns is None else ()
    first = [name for name in order if name in keep]
    return tuple(dict.fromkeys([*first, *keep, *aliases]))


def _built(plan: Plan, columns: Columns, first: int, table: Table) -> Events:
    """The events of one chunk of raw columns, which begins at entry ``first`` of the table."""
    columns = {name: _frozen(column) for name, column in _share_offsets(columns).items()}
    length, rows = rows_of(columns), None
    if plan.cut is not None:
        passed = _passed(plan.cut, _Known(plan, columns, length), length)
        if not passed.all():
            rows = np.flatnonzero(passed)
            columns, length = _picked(columns, rows), len(rows)
    known = _Known(plan, columns, length)
    weight = _weights(plan, known, length, first, rows, table.label)
    ids = _ids(plan, known, length, first, rows, table)
    kept = _share_offsets({name: known(name) for name in plan.keep})
    return Events._of({name: _frozen(column) for name, column in kept.items()}, weight, ids)


class _Known:
    """Columns and aliases by name, each alias worked out once.

    A class and not a closure: one that calls itself is a reference cycle, and would keep its columns in memory.
    """

    def __init__(self, plan: Plan, columns: Columns, length: int) -> None:
        self._plan, self._columns, self._length = plan, dict(columns), length

    def __call__(self, name: str) -> Any:
        if name not in self._columns:
            self._columns[name] = filled(self._plan.aliases[name](self), self._length)
        return self._columns[name]


def _picked(columns: Columns, rows: Ints) -> Columns:
    ids = np.zeros(rows_of(columns), np.int64)
    picked = Events._of(columns, ids.astype(np.float64), ids).select(rows)
    return {name: picked[name] for name in columns}


def _per_event(expression: Expression, lookup: Lookup, length: int) -> Flat:
    """The flat column that ``expression`` gives; a ragged one raises ``TypeError``."""
    value = filled(expression(lookup), length)
    if isinstance(value, Ragged):
        raise TypeError(
            f"{expression.role} {expression.text!r}: expected one value per event, found a ragged column (a list per "
            f"event); make it one value with count(...), sum(...), any(...) or all(...)"
        )
    return value  # type: ignore[no-any-return]


def _passed(cut: Expression, lookup: Lookup, length: int) -> Flat:
    passed = _per_event(cut, lookup, length)
    if passed.dtype != np.bool_:
        raise TypeError(f"cut {cut.text!r}: expected a condition, true or false for each event, found "
                        f"{passed.dtype}; compare it, for example with '!= 0'")  # fmt: skip
    return passed


def _weights(plan: Plan, known: Lookup, length: int, first: int, rows: Ints | None, label: str) -> Floats:
    if plan.weight is None:
        return np.ones(length)
    weight = _per_event(plan.weight, known, length)
    entries = np.arange(length) + first if rows is None else rows + first
    check_finite(f"weight {plan.weight.text!r} of {label}", weight, entries)
    return weight.astype(np.float64, copy=False)


def _ids(plan: Plan, known: Lookup, length: int, first: int, rows: Ints | None, table: Table) -> Ints:
    if plan.id is None:
        return _entry_ids(table.identity, length, first, rows)
    column = known(plan.id)
    kind = "a ragged column" if isinstance(column, Ragged) else str(column.dtype)
    if isinstance(column, Ragged) or column.dtype.kind not in "iu":
        raise TypeError(f"id {plan.id!r}: expected a flat column of integers, found {kind}")
    return column.astype(np.int64, copy=False)  # type: ignore[no-any-return]


def _entry_ids(identity: str, length: int, first: int, rows: Ints | None) -> Ints:
    """Hashes of (file, entry) for the entries first, first + 1, ..., or first + rows."""
    if rows is not None:
        return hashing.bits(rows + first, "file", identity).view(np.int64)
    ids = np.empty(length, np.int64)
    for start in range(0, length, _BLOCK):  # so that the entry numbers stay in the cache
        stop = min(start + _BLOCK, length)
        ids[start:stop] = hashing.bits(np.arange(first + start, first + stop), "file", identity).view(np.int64)
    return ids


# -- the stream -------------------------------------------------------------------------------------------------------


def stream(request: Request, step: int | float | None) -> Iterator[Events]:
    """The events in chunks: of at most ``step`` entries each (int), of about that many bytes (float), or a file (None).

    At least one chunk comes, and one for each piece that was read, also where the cut leaves no event of it.
    """
    chain = Chain(request.source, request.opener)
    friends = _friends(request, chain)
    planner = _Planner(request, friends, chain)
    taps: list[Tap | None] | None = None
    kinds: dict[str, tuple[bool, Any]] = {}
    for table, first, last in chain.pieces(planner, request.entry_start, request.entry_stop):
        plan, events = planner.plan, _per_step(step, table, planner.plan.main)
        if taps is None:
            taps = _taps(request, friends, plan, events)
        for chunk in table.chunks(plan.main, first, last, events):
            rows = rows_of(chunk)
            for tap in taps:
                chunk.update(tap.take(rows) if tap else {})
            _same_kinds(kinds, chunk, table)
            made = [_built(plan, chunk, first, table)]
            first += rows
            del chunk
            yield made.pop()  # and hold nothing of it while the next chunk is read


class _Planner:
    """The plan of each table in turn; called, it gives the columns by which the table's entries are counted."""

    plan: Plan

    def __init__(self, request: Request, friends: Sequence[Friend], chain: Chain) -> None:
        self._request, self._friends, self._chain = request, friends, chain

    def __call__(self, table: Table) -> Sequence[str]:
        first = getattr(self, "plan", None)
        self.plan = _plan(self._request, table, self._friends)
        if first is not None and set(first.keep) != set(self.plan.keep):
            only = sorted(set(first.keep) ^ set(self.plan.keep))
            raise ValueError(f"{table.label}: expected the columns of {self._chain.places[0]}, but the two differ in "
                             f"{only}; name the columns that you want")  # fmt: skip
        return self.plan.main


def _friends(request: Request, chain: Chain) -> list[Friend]:
    """The friends of the request, each with as many entries as the source itself."""
    friends: list[Friend] = []
    if not request.friend_sources:
        return friends
    with chain.table(0) as table:
        taken, label = list(all_leaves(table)), table.label
    entries = sum(chain.lengths(_any_column))
    for source in request.friend_sources:
        friend = Friend(Chain(source, request.friend_opener), taken)
        if friend.entries() != entries:
            raise ValueError(f"friends: expected as many entries as in {label}{_others(chain)}, {entries}, found "
                             f"{friend.entries()} in {friend.label}{_others(friend.chain)}")  # fmt: skip
        taken += list(friend.names)
        friends.append(friend)
    return friends


def _taps(request: Request, friends: Sequence[Friend], plan: Plan, step: int | None) -> list[Tap | None]:
    found: list[Tap | None] = []
    for friend, names in zip(friends, plan.friends, strict=True):
        start, stop, _ = slice(request.entry_start, request.entry_stop).indices(friend.entries())
        found.append(friend.tap(names, start, stop, step))
    return found


def _others(chain: Chain) -> str:
    return f" and {len(chain.places) - 1} more" if len(chain.places) > 1 else ""


def _per_step(step: int | float | None, table: Table, names: Sequence[str]) -> int | None:
    if not isinstance(step, float):
        return step
    return max(int(step / max(table.event_bytes(names), 1.0)), 1)


def _same_kinds(kinds: dict[str, tuple[bool, Any]], chunk: Columns, table: Table) -> None:
    """The types of the first chunk, which all others must have: numbers are never converted silently."""
    for name, column in chunk.items():
        ragged = isinstance(column, Ragged)
        kind = (ragged, (column.values if isinstance(column, Ragged) else column).dtype)
        if kinds.setdefault(name, kind) != kind:
            was, now = (f"{'ragged ' if r else ''}{dtype}" for r, dtype in (kinds[name], kind))
            raise ValueError(f"{table.label}: expected column {name!r} to be {was}, as in the files before, found {now}"
                             f"; read the files apart and convert one of them")  # fmt: skip


def read(request: Request) -> Events:
    """All events of the request."""
    return Events.concat(list(stream(request, None)))
