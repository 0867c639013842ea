"""The one dataset: weighted events, one row each, with flat or ragged columns.

Every method of the library takes ``Events`` and most give arrays aligned with them.  A column is either flat, a numpy
array (N,), or ragged, a pair (values (M,), offsets (N + 1,)) in which event i owns ``values[offsets[i]:offsets[i+1]]``.
Columns named ``"hits.x"``, ``"hits.y"`` with equal offsets form a cloud ``hits``.  Each event has a float64 ``weight``,
which may be negative, and an int64 ``id``, which follows it through selections, files and caches.

Splits, folds and bootstraps are functions of (seed, id) alone (see `nuinfer.hashing`), so that they stay the same
under selection and overlapping selections stay correlated.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from . import hashing
from .errors import check_finite, missing

if TYPE_CHECKING:
    import awkward as ak
    import hist

__all__ = ["Events", "Ragged"]

Flat = NDArray[Any]
Floats = NDArray[np.float64]
Ints = NDArray[np.int64]


class Ragged(NamedTuple):
    """A ragged column: ``values`` (M,) and ``offsets`` (N + 1,) int64, rising from 0 to M.

    >>> hits = Ragged.of([[1.0, 2.0], [], [3.0]])
    >>> hits.values.tolist(), hits.offsets.tolist()
    ([1.0, 2.0, 3.0], [0, 2, 2, 3])
    """

    values: Flat
    offsets: Ints

    @classmethod
    def of(cls, lists: Iterable[ArrayLike]) -> Ragged:
        """A ragged column from one list of numbers per event."""
        parts = [np.atleast_1d(np.asarray(part)) for part in lists]
        filled = [part for part in parts if part.size]
        values = np.concatenate(filled) if filled else np.empty(0)
        return cls(values, offsets_of(np.array([part.size for part in parts], dtype=np.int64)))

    @property
    def counts(self) -> Ints:
        """Entries per event (N,)."""
        return np.diff(self.offsets)

    @property
    def rows(self) -> int:
        """The number of events N."""
        return len(self.offsets) - 1


Column = Flat | Ragged


def offsets_of(counts: NDArray[np.integer[Any]]) -> Ints:
    """Offsets (N + 1,) from counts (N,)."""
    offsets = np.zeros(len(counts) + 1, np.int64)
    np.cumsum(counts, out=offsets[1:])
    return offsets


def take_ragged(offsets: Ints, rows: Ints) -> tuple[Ints, Ints]:
    """The value indices (M',) and offsets (R + 1,) of the events ``rows`` (R,), in that order."""
    starts, counts = offsets[rows], offsets[rows + 1] - offsets[rows]
    taken = offsets_of(counts)
    return np.arange(taken[-1]) + np.repeat(starts - taken[:-1], counts), taken


class Events:
    """A frozen set of N weighted events with named, read-only columns.

    Parameters
    ----------
    columns:
        A mapping from names to flat arrays (N,) of numbers or booleans, `Ragged` pairs, or awkward arrays; or an
        awkward record array, whose nested fields become ``"record.field"``.  Arrays are not copied where their type
        allows; do not write to them afterwards.
    weight:
        Event weights (N,), kept as float64; all 1 if left out.  Any sign.
    id:
        Event numbers (N,), kept as int64; if left out, a hash of the columns' contents and the row.
        They need not be unique: copies of one event share its splits.

    Raises
    ------
    ValueError
        for columns of different lengths, more than one dimension, or weights that are not finite.
    TypeError
        for columns that are neither numbers nor booleans.

    Examples
    --------
    >>> events = Events({"x": [0.5, 1.5, 2.5], "hits.q": Ragged.of([[1, 2], [], [3]])}, weight=[1, -1, 2])
    >>> events
    Events(3 events: x float64, hits.q ragged int64; sum of weights 2, effective size 0.667)
    >>> events.select(events["x"] > 1)["hits.q"].counts.tolist()
    [0, 1]
    """

    __slots__ = ("_columns", "id", "weight")
    _columns: dict[str, Column]
    weight: Floats
    id: Ints

    def __init__(
        self,
        columns: Mapping[str, Any] | ak.Array,
        *,
        weight: ArrayLike | None = None,
        id: ArrayLike | None = None,
    ) -> None:
        items = columns.items() if isinstance(columns, Mapping) else _awkward_fields("", columns)
        flat: dict[str, Column] = {}
        for name, value in items:
            for full, column in _as_columns(name, value):
                flat[full] = column
        rows = _common_length(flat, weight, id)
        weights = np.ones(rows) if weight is None else _as_weights(weight)
        ids = _content_ids(flat, rows) if id is None else _as_ids(id)
        self._set({name: _frozen(column) for name, column in _share_offsets(flat).items()}, weights, ids)

    def _set(self, columns: dict[str, Column], weight: Floats, ids: Ints) -> None:
        object.__setattr__(self, "_columns", columns)
        object.__setattr__(self, "weight", _read_only(weight))
        object.__setattr__(self, "id", _read_only(ids))

    @classmethod
    def _of(cls, columns: dict[str, Column], weight: Floats, ids: Ints) -> Events:
        """Events of parts that are known to be sound."""
        new = object.__new__(cls)
        new._set(columns, weight, ids)
        return new

    def __setattr__(self, name: str, value: object) -> None:
        raise AttributeError(f"Events are frozen: use with_columns or with_weight instead of setting {name!r}")

    def __delattr__(self, name: str) -> None:
        raise AttributeError(f"Events are frozen: {name!r} cannot be deleted; keep(names) leaves columns out")

    def __reduce__(self) -> tuple[Any, ...]:
        return _restored, (self._columns, self.weight, self.id)

    # -- what is in it -------------------------------------------------------------------------------------------------

    @property
    def columns(self) -> tuple[str, ...]:
        """The names of the columns."""
        return tuple(self._columns)

    def __len__(self) -> int:
        return len(self.weight)

    def __contains__(self, name: object) -> bool:
        return name in self._columns

    def __iter__(self) -> Iterator[str]:
        return iter(self._columns)

    def __getitem__(self, name: str) -> Any:  # Column; Any spares every caller a cast
        try:
            return self._columns[name]
        except KeyError:
            raise missing("column", name, self._columns) from None

    def flat(self, name: str) -> Flat:
        """The flat column ``name`` (N,); a ragged one raises ``TypeError``."""
        column = self[name]
        if isinstance(column, Ragged):
            raise TypeError(
                f"column {name!r}: expected a flat column (one number per event), found a ragged one with "
                f"{len(column.values)} values in {len(self)} events; use it as part of a cloud, "
                f"or reduce it to one number per event first"
            )
        return column  # type: ignore[no-any-return]

    def ragged(self, name: str) -> Ragged:
        """The ragged column ``name``; a flat one raises ``TypeError``."""
        column = self[name]
        if not isinstance(column, Ragged):
            raise TypeError(f"column {name!r}: expected a ragged column (a list per event), found a flat one")
        return column

    def key(self, group: str | None = None) -> Ints:
        """What splits, folds and bootstraps hash (N,): the id, or the integer column ``group`` that copies share."""
        if group is None:
            return self.id
        column = self.flat(group)
        if column.dtype.kind not in "iu":
            raise TypeError(f"group column {group!r}: expected integers, found {column.dtype}")
        return column.astype(np.int64, copy=False)

    @property
    def sum_weights(self) -> float:
        """The yield, sum_i w_i."""
        return float(self.weight.sum())

    @property
    def effective_size(self) -> float:
        """Kish's effective sample size, (sum_i w_i)^2 / sum_i w_i^2; 0 where all weights are 0."""
        square = float(np.dot(self.weight, self.weight))
        return self.sum_weights**2 / square if square else 0.0

    def digest(self) -> str:
        """Sixteen hexadecimal digits that stand for ids and weights: equal for equal samples, in the same order."""
        found = hashlib.blake2b(str(len(self)).encode(), digest_size=8)
        for part in (self.id, self.weight):
            found.update(np.ascontiguousarray(part).view(np.uint8).data)
        return found.hexdigest()

    def __repr__(self) -> str:
        kinds = [
            f"{name} ragged {c.values.dtype}" if isinstance(c, Ragged) else f"{name} {c.dtype}"
            for name, c in self._columns.items()
        ]
        shown = ", ".join(kinds[:12]) + (f", ... ({len(kinds)} columns)" if len(kinds) > 12 else "")
        return (
            f"Events({len(self)} events: {shown or 'no columns'}; "
            f"sum of weights {self.sum_weights:.6g}, effective size {self.effective_size:.3g})"
        )

    # -- other events from these ---------------------------------------------------------------------------------------

    def select(self, rows: ArrayLike | slice) -> Events:
        """The events of a boolean mask (N,), a slice, or row numbers (R,), in that order.

        A slice copies nothing.

        Raises
        ------
        IndexError
            for row numbers outside the events; ``ValueError`` for a mask of another length.
        """
        if isinstance(rows, slice):
            return self._slice(rows)
        picked = _row_numbers(rows, len(self))
        gathered: dict[int, tuple[Ints, Ints]] = {}  # offsets are shared within a cloud: work them out once

        def pick(column: Column) -> Column:
            if not isinstance(column, Ragged):
                return column[picked]
            if id(column.offsets) not in gathered:
                index, offsets = take_ragged(column.offsets, picked)
                gathered[id(column.offsets)] = index, _read_only(offsets)
            index, offsets = gathered[id(column.offsets)]
            return Ragged(column.values[index], offsets)

        columns = {name: _frozen(pick(column)) for name, column in self._columns.items()}
        return Events._of(columns, self.weight[picked], self.id[picked])

    def _slice(self, rows: slice) -> Events:
        start, stop, step = rows.indices(len(self))
        if step != 1:
            return self.select(np.arange(start, stop, step))
        stop = max(start, stop)
        cut: dict[int, Ints] = {}

        def view(column: Column) -> Column:
            if not isinstance(column, Ragged):
                return column[start:stop]
            first, last = column.offsets[start], column.offsets[stop]
            if id(column.offsets) not in cut:
                cut[id(column.offsets)] = _read_only(column.offsets[start : stop + 1] - first)
            return Ragged(column.values[first:last], cut[id(column.offsets)])

        columns = {name: _frozen(view(column)) for name, column in self._columns.items()}
        return Events._of(columns, self.weight[start:stop], self.id[start:stop])

    def keep(self, names: Sequence[str]) -> Events:
        """The same events with only the columns ``names``."""
        return Events._of({name: self[name] for name in names}, self.weight, self.id)

    def with_columns(self, columns: Mapping[str, Any] | None = None, **named: Any) -> Events:
        """The same events with columns added or replaced; the others are shared, not copied.

        >>> events = Events({"x": [1.0, 2.0]}).with_columns(y=[3, 4])
        >>> events.columns
        ('x', 'y')
        """
        added: dict[str, Column] = {}
        for name, value in {**(columns or {}), **named}.items():
            added.update(_as_columns(name, value))
        _common_length(added, self.weight, None)
        merged = _share_offsets({**self._columns, **added})
        return Events._of({name: _frozen(c) for name, c in merged.items()}, self.weight, self.id)

    def with_weight(self, weight: ArrayLike) -> Events:
        """The same events with other weights (N,), or one number for all."""
        weights = _as_weights(np.full(len(self), weight) if np.ndim(weight) == 0 else weight)
        _common_length({}, weights, self.id)
        return Events._of(self._columns, weights, self.id)

    def scaled_to(self, total: float) -> Events:
        """The same events, their weights multiplied by one factor so that they sum to ``total``.

        Raises
        ------
        ValueError
            where the present sum of weights is not positive.
        """
        return self.with_weight(self.weight * (total / positive_total("weights to scale", self.weight)))

    def split(self, fractions: float | Sequence[float], *, seed: int, group: str | None = None) -> tuple[Events, ...]:
        """Disjoint parts of the given expected fractions, by a hash of (seed, id).

        One number f gives two parts, f and 1 - f.  ``group`` names an integer column whose equal values stay
        together.

        >>> a, b = Events({"x": np.arange(1000)}).split(0.25, seed=1)
        >>> len(a) + len(b), 200 < len(a) < 300
        (1000, True)
        """
        given = [fractions, 1.0 - fractions] if isinstance(fractions, (int, float)) else fractions
        parts = np.array(given, dtype=np.float64)
        if (parts < 0).any() or not np.isclose(parts.sum(), 1.0):
            raise ValueError(f"expected fractions that are not negative and sum to 1, found {parts.tolist()}")
        edges = np.cumsum(parts)[:-1]
        part = np.searchsorted(edges, hashing.uniform(self.key(group), seed, "split"), side="right")
        return tuple(self.select(part == i) for i in range(len(parts)))

    def folds(self, k: int, *, seed: int, group: str | None = None) -> NDArray[np.int16]:
        """Fold numbers 0 .. k - 1 (N,), by a hash of (seed, id)."""
        if k < 2:
            raise ValueError(f"expected at least 2 folds, found {k}")
        return hashing.fold(self.key(group), k, seed, "fold")

    def bootstrap(self, *, seed: int, member: int = 0, group: str | None = None) -> Events:
        """A Poisson bootstrap replica: each weight times a Poisson number of mean 1, by a hash of (seed, member, id).

        Rows of multiplicity 0 stay, with weight 0, so that replicas stay aligned.
        """
        times = hashing.poisson(self.key(group), seed, "bootstrap", member)
        return Events._of(self._columns, self.weight * times, self.id)

    @staticmethod
    def concat(parts: Sequence[Events]) -> Events:
        """All events of ``parts``, which have the same columns, one after the other.

        Raises
        ------
        ValueError
            for no parts, or parts with other columns (which are named).
        TypeError
            for a column that is flat in one part and ragged in another.
        """
        if not parts:
            raise ValueError("expected at least one Events to concatenate, found none")
        if len(parts) == 1:
            return parts[0]
        names = parts[0].columns
        for number, part in enumerate(parts[1:], start=1):
            if set(part.columns) != set(names):
                only = sorted(set(part.columns) ^ set(names))
                raise ValueError(f"expected the same columns in all parts, but parts 0 and {number} differ in {only}")
        joined = _share_offsets({name: _joined(name, [part[name] for part in parts]) for name in names})
        columns = {name: _frozen(column) for name, column in joined.items()}
        weight = np.concatenate([part.weight for part in parts])
        return Events._of(columns, weight, np.concatenate([part.id for part in parts]))

    # -- other libraries' forms ----------------------------------------------------------------------------------------

    def hist(self, columns: str | Sequence[str], bins: Any = 50) -> hist.Hist[Any]:
        """A weighted histogram of one or more columns, ``hist.Hist`` with ``Weight`` storage.

        ``bins`` is, for one column or for each: a number of bins over the finite range of the column, edges, or a
        ``hist.axis``.  A ragged column fills each of its values with its event's weight.

        >>> Events({"x": [0.5, 0.5, 1.5]}, weight=[1, 2, -1]).hist("x", [0, 1, 2]).values().tolist()
        [3.0, -1.0]
        """
        import hist as histlib

        names = [columns] if isinstance(columns, str) else list(columns)
        each = [bins] if isinstance(columns, str) else _one_per(names, bins)
        values, weights = self._fill_values(names)
        axes = [_axis(name, b, v) for name, b, v in zip(names, each, values, strict=True)]
        filled: hist.Hist[Any] = histlib.Hist(*axes, storage=histlib.storage.Weight())
        filled.fill(*values, weight=weights)
        return filled

    def _fill_values(self, names: Sequence[str]) -> tuple[list[Flat], Floats]:
        found: list[Column] = [self[name] for name in names]
        ragged = [column for column in found if isinstance(column, Ragged)]
        if not ragged:
            return [column for column in found if not isinstance(column, Ragged)], self.weight
        offsets = ragged[0].offsets
        if any(column.offsets is not offsets for column in ragged):
            raise ValueError(f"expected ragged columns of one cloud in a histogram, found other lengths in {names}")
        counts = np.diff(offsets)
        spread = [c.values if isinstance(c, Ragged) else np.repeat(c, counts) for c in found]
        return spread, np.repeat(self.weight, counts)

    def to_awkward(self) -> ak.Array:
        """An awkward record array; the ragged columns of one cloud become one list of records.

        ``weight`` and ``id`` are fields of it, unless a column bears that name.
        """
        import awkward as ak

        records: dict[str, Any] = {}
        clouds: dict[str, dict[str, Ragged]] = {}
        for name, column in self._columns.items():
            cloud, _, field = name.rpartition(".")
            if isinstance(column, Ragged) and cloud:
                clouds.setdefault(cloud, {})[field] = column
            else:
                records[name] = _awkward_list(column) if isinstance(column, Ragged) else column
        for cloud, fields in clouds.items():
            records.update(_awkward_cloud(cloud, fields))
        extra = {"weight": self.weight, "id": self.id}
        return ak.Array({**{k: v for k, v in extra.items() if k not in records}, **records})


def flag(events: Events, name: str) -> NDArray[np.bool_]:
    """The boolean column ``name`` (N,), all true where there is none; ``TypeError`` for another type."""
    if name not in events:
        return np.ones(len(events), np.bool_)
    column = events.flat(name)
    if column.dtype != np.bool_:
        raise TypeError(f"column {name!r}: expected booleans, found {column.dtype}; compare first, as in x > 0")
    return column


def positive_total(what: str, weight: Floats) -> float:
    """The sum of ``weight``, or ``ValueError`` where it is not positive or there are no events."""
    total = float(weight.sum())
    if total > 0:
        return total
    if not len(weight):
        raise ValueError(f"{what}: expected events, found an empty sample; look at the cut that selected them")
    if not weight.any():
        raise ValueError(f"{what}: expected a positive total weight, found {len(weight)} weights that are all zero")
    raise ValueError(
        f"{what}: expected a positive total weight, found {total:g} from {len(weight)} events, "
        f"{int((weight < 0).sum())} of them negative; is the sign convention of the generator the other way round?"
    )


# -- from what users have to columns -----------------------------------------------------------------------------------


def _as_columns(name: str, value: Any) -> Iterator[tuple[str, Column]]:
    """The columns that one named input makes: one, or one a field where it is a record."""
    if isinstance(value, Ragged):
        yield name, _checked_ragged(name, value)
    elif type(value).__module__.partition(".")[0] == "awkward":
        for full, part in _awkward_fields(name, value):
            yield full, _from_awkward(full, part)
    else:
        yield name, _flat(name, _unmasked(f"column {name!r}", value))


def _unmasked(what: str, values: Any) -> Flat:
    if np.ma.isMaskedArray(values):
        raise TypeError(f"{what}: expected plain numbers, found a masked array; fill it or select it away")
    return np.asarray(values)


def _flat(name: str, array: Flat) -> Flat:
    if array.ndim != 1:
        raise ValueError(
            f"column {name!r}: expected one number per event, shape (N,), found shape {array.shape}; "
            f"give each component a column of its own"
        )
    if array.dtype.kind not in "biuf":
        raise TypeError(f"column {name!r}: expected numbers or booleans, found {array.dtype}")
    return array if array.dtype.isnative else array.astype(array.dtype.newbyteorder("="))


def _checked_ragged(name: str, column: Ragged) -> Ragged:
    values = _flat(name, _unmasked(f"ragged column {name!r}", column.values))
    offsets = _unmasked(f"offsets of column {name!r}", column.offsets)
    if offsets.ndim != 1 or offsets.dtype.kind not in "iu" or not len(offsets):
        raise TypeError(f"ragged column {name!r}: expected integer offsets (N + 1,), found {offsets.dtype} "
                        f"of shape {offsets.shape}")  # fmt: skip
    offsets = offsets.astype(np.int64, copy=False)
    if offsets[0] != 0 or offsets[-1] != len(values) or (np.diff(offsets) < 0).any():
        raise ValueError(
            f"ragged column {name!r}: expected offsets that rise from 0 to the number of values, {len(values)}, "
            f"found them from {offsets[0]} to {offsets[-1]}"
        )
    return Ragged(values, offsets)


def _awkward_fields(name: str, array: Any) -> Iterator[tuple[str, Any]]:
    """The leaves of an awkward array: records are opened, ``cloud.field``, to any depth."""
    if not array.fields:
        yield name, array
    for field in array.fields:
        yield from _awkward_fields(f"{name}.{field}" if name else field, array[field])


def _from_awkward(name: str, array: Any) -> Column:
    import awkward as ak

    if not name:
        raise TypeError("expected an awkward array of records (with field names), found one without fields")
    if "?" in str(array.type) or "option" in str(array.type):
        if ak.any(ak.is_none(array, axis=-1), axis=None) or ak.any(ak.is_none(array), axis=None):
            raise ValueError(f"column {name!r}: expected a value in every place, found None; "
                             f"use ak.fill_none, or select them away")  # fmt: skip
        array = ak.drop_none(array, axis=None)
    if array.ndim == 1:
        return _flat(name, ak.to_numpy(array))
    if array.ndim > 2:
        raise ValueError(f"column {name!r}: expected at most one list per event, found lists within lists; "
                         f"flatten the inner ones first (ak.flatten(..., axis=-1))")  # fmt: skip
    packed = ak.to_packed(ak.from_regular(array, axis=1)).layout
    if not hasattr(packed, "offsets"):
        packed = packed.to_ListOffsetArray64(True)
    return Ragged(_flat(name, ak.to_numpy(packed.content)), np.asarray(packed.offsets.data, dtype=np.int64))


def _share_offsets(columns: dict[str, Column]) -> dict[str, Column]:
    """The same columns, those of one cloud (equal offsets) sharing one offsets array."""
    clouds: dict[tuple[str, int], list[Ints]] = {}
    shared: dict[str, Column] = {}
    for name, column in columns.items():
        if isinstance(column, Ragged):
            known = clouds.setdefault((name.rpartition(".")[0], len(column.values)), [])
            same = next((o for o in known if o is column.offsets or np.array_equal(o, column.offsets)), None)
            if same is None:
                known.append(_read_only(column.offsets))
            column = Ragged(column.values, known[-1] if same is None else same)
        shared[name] = column
    return shared


def _common_length(columns: Mapping[str, Column], weight: ArrayLike | None, ids: ArrayLike | None) -> int:
    lengths = {name: c.rows if isinstance(c, Ragged) else len(c) for name, c in columns.items()}
    for name, extra in (("weight", weight), ("id", ids)):
        if extra is not None:
            if np.ndim(extra) != 1:
                raise ValueError(f"{name}: expected one number per event, shape (N,), found shape {np.shape(extra)}")
            lengths[f"({name})"] = len(np.asarray(extra))
    if len(set(lengths.values())) > 1:
        found = ", ".join(f"{name} {length}" for name, length in lengths.items())
        raise ValueError(f"expected columns, weight and id of one length, found {found}")
    if not lengths:
        raise ValueError("expected at least one column, a weight or an id, found none")
    return next(iter(lengths.values()))


def _as_weights(weight: ArrayLike) -> Floats:
    array = _unmasked("weight", weight).astype(np.float64, copy=False)
    check_finite("weight", array)
    return array


def _as_ids(ids: ArrayLike) -> Ints:
    array = _unmasked("id", ids)
    if array.dtype.kind not in "iu":
        raise TypeError(f"id: expected integers, found {array.dtype}")
    if array.dtype == np.uint64 and array.size and array.max() > np.iinfo(np.int64).max:
        raise ValueError(f"id: expected numbers that fit in int64, found {array.max()}; give ids.view(np.int64)")
    return array.astype(np.int64, copy=False)


def _content_ids(columns: Mapping[str, Column], rows: int) -> Ints:
    """Ids from contents: a hash of the row and of names, types and up to 64k evenly spaced values of each column."""
    digest = hashlib.blake2b(digest_size=8)
    for name, column in columns.items():
        values = column.values if isinstance(column, Ragged) else column
        digest.update(f"{name} {values.dtype} {len(values)}".encode())
        for part in column if isinstance(column, Ragged) else (column,):
            digest.update(np.ascontiguousarray(part[:: len(part) // 65536 + 1]).data)
    return hashing.bits(np.arange(rows), "rows", digest.hexdigest()).view(np.int64)


# -- small steps -------------------------------------------------------------------------------------------------------


def _read_only(array: Any) -> Any:
    if array.flags.writeable:
        array = array.view()
        array.flags.writeable = False
    return array


def _frozen(column: Column) -> Column:
    if isinstance(column, Ragged):
        return Ragged(_read_only(column.values), _read_only(column.offsets))
    return _read_only(column)  # type: ignore[no-any-return]


def _restored(columns: dict[str, Column], weight: Floats, ids: Ints) -> Events:
    """Events from a pickle, which forgets that arrays are read-only."""
    return Events._of({name: _frozen(column) for name, column in _share_offsets(columns).items()}, weight, ids)


def _row_numbers(rows: ArrayLike, length: int) -> Ints:
    array = np.asarray(rows)
    if array.ndim != 1:
        raise ValueError(f"rows: expected a mask or row numbers of one dimension, found shape {array.shape}")
    if array.dtype == np.bool_:
        if len(array) != length:
            raise ValueError(f"mask: expected one boolean per event ({length}), found {len(array)}")
        return np.flatnonzero(array)
    if array.size and array.dtype.kind not in "iu":
        raise TypeError(f"rows: expected booleans or integers, found {array.dtype}")
    array = array.astype(np.int64)
    if array.size and (array.min() < -length or array.max() >= length):
        raise IndexError(f"rows: expected numbers below {length}, found {array.min()} to {array.max()}")
    return np.where(array < 0, array + length, array)


def _joined(name: str, parts: list[Column]) -> Column:
    ragged = [part for part in parts if isinstance(part, Ragged)]
    if not ragged:
        return np.concatenate([part for part in parts if not isinstance(part, Ragged)])
    if len(ragged) != len(parts):
        raise TypeError(f"column {name!r}: expected it flat or ragged in all parts, found both")
    counts = np.concatenate([part.counts for part in ragged])
    return Ragged(np.concatenate([part.values for part in ragged]), offsets_of(counts))


def _one_per(names: Sequence[str], bins: Any) -> list[Any]:
    if isinstance(bins, int):
        return [bins] * len(names)
    if len(bins) != len(names):
        raise ValueError(f"bins: expected one entry per column ({len(names)}), found {len(bins)}")
    return list(bins)


def _axis(name: str, bins: Any, values: Flat) -> Any:
    import hist as histlib

    if not isinstance(bins, (int, np.integer)):
        return bins if hasattr(bins, "edges") else histlib.axis.Variable(np.asarray(bins, float), name=name)
    finite = values[np.isfinite(values)] if values.dtype.kind == "f" else values
    low, high = (float(finite.min()), float(finite.max())) if finite.size else (0.0, 1.0)
    # the upper edge of a bin is outside it: widen by one part in 10^9 so that the largest value is inside
    high = high + 1e-9 * max(abs(high), high - low) if high > low else low + 1.0
    return histlib.axis.Regular(int(bins), low, high, name=name)


def _awkward_list(column: Ragged) -> Any:
    import awkward as ak

    offsets = ak.index.Index64(column.offsets)
    return ak.Array(ak.contents.ListOffsetArray(offsets, ak.contents.NumpyArray(column.values)))


def _awkward_cloud(cloud: str, fields: Mapping[str, Ragged]) -> dict[str, Any]:
    """One list of records where all fields share their offsets, else a list each."""
    import awkward as ak

    first = next(iter(fields.values()))
    if any(column.offsets is not first.offsets for column in fields.values()):
        return {f"{cloud}.{field}": _awkward_list(column) for field, column in fields.items()}
    contents = [ak.contents.NumpyArray(column.values) for column in fields.values()]
    records = ak.contents.RecordArray(contents, list(fields))
    return {cloud: ak.Array(ak.contents.ListOffsetArray(ak.index.Index64(first.offsets), records))}
