"""Parquet and Feather (Arrow IPC) files as tables, and Parquet files back.

A cloud is a column of type list<struct<...>>, as awkward and other readers expect it.  A file written here says in its
schema's metadata (key ``nuinfer``) which columns are weight and id.
"""

from __future__ import annotations

import functools
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from ..errors import CorruptFile
from ..events import Column, Events, Ragged
from .sources import Place, digest_of
from .tables import Columns, Leaf, Mark, from_zero, joined, rebatched

__all__ = ["FeatherTable", "ParquetTable"]

_KEY = b"nuinfer"
_LISTS = "lists within lists; flatten them into one list per event where the file is made"


@contextmanager
def _corrupt(what: str, kind: str) -> Iterator[None]:
    import pyarrow as pa

    try:
        yield
    except (pa.ArrowInvalid, pa.ArrowIOError, EOFError) as error:
        text = " ".join(str(error).split())[:200]
        raise CorruptFile(f"{what}: not readable as {kind}; is it truncated, or of another format? ({text})") from None


# -- types and arrays -------------------------------------------------------------------------------------------------


def _storage(kind: Any) -> Any:
    return kind.storage_type if hasattr(kind, "storage_type") else kind


def leaves_of(name: str, kind: Any) -> dict[str, Leaf]:
    """The columns that an arrow type makes under ``name``."""
    from pyarrow import types

    kind = _storage(kind)
    if types.is_boolean(kind) or types.is_integer(kind) or types.is_floating(kind):
        return {name: Leaf(np.dtype(kind.to_pandas_dtype()), False)}
    if types.is_struct(kind):
        return {leaf: found for field in kind for leaf, found in leaves_of(f"{name}.{field.name}", field.type).items()}
    if types.is_fixed_size_list(kind):
        inner = (leaves_of(f"{name}[{i}]", kind.value_type) for i in range(kind.list_size))
        return {leaf: found for leaves in inner for leaf, found in leaves.items()}
    if types.is_list(kind) or types.is_large_list(kind):
        inside = leaves_of(name, kind.value_type)
        return {k: Leaf(v.dtype, True, v.why or (_LISTS if v.ragged else "")) for k, v in inside.items()}
    return {name: Leaf(None, False, f"{kind}, neither numbers nor booleans nor lists of them")}


def columns_of(name: str, array: Any, wanted: set[str]) -> Iterator[tuple[str, Column]]:
    """The ``wanted`` columns of an arrow array, without copies where its type allows.

    Raises
    ------
    ValueError
        for missing values (nulls).
    """
    from pyarrow import types

    array = array.storage if hasattr(array, "storage") else array
    if not any(leaf == name or leaf.startswith((f"{name}.", f"{name}[")) for leaf in wanted):
        return
    if array.null_count:
        raise ValueError(f"column {name!r}: expected a value in every place, found {array.null_count} missing (null); "
                         f"fill them in or leave the column out")  # fmt: skip
    kind = array.type
    if types.is_struct(kind):
        for field, part in zip(kind, array.flatten(), strict=True):
            yield from columns_of(f"{name}.{field.name}", part, wanted)
    elif types.is_fixed_size_list(kind):
        inner = array.flatten()
        for i in range(kind.list_size):
            yield from columns_of(f"{name}[{i}]", inner[i :: kind.list_size] if len(inner) else inner, wanted)
    elif types.is_list(kind) or types.is_large_list(kind):
        values, offsets = from_zero(array.values, array.offsets.to_numpy())
        for leaf, column in columns_of(name, values, wanted):
            yield leaf, Ragged(column, offsets)  # type: ignore[arg-type] # a list's content is flat: leaves_of refuses others
    else:
        yield name, array.to_numpy(zero_copy_only=False)


def _table_columns(table: Any, names: Sequence[str]) -> Columns:
    """The columns ``names`` of an arrow table or record batch."""
    batches = table.to_batches() if hasattr(table, "to_batches") else [table]
    parts = [_batch_columns(batch, names) for batch in batches]
    return joined(parts or [_empty(table.schema, names)])


def _batch_columns(batch: Any, names: Sequence[str]) -> Columns:
    fields = zip(batch.schema.names, batch.columns, strict=True)
    found = dict(pair for name, array in fields for pair in columns_of(name, array, set(names)))
    return {name: found[name] for name in names}


def _empty(schema: Any, names: Sequence[str]) -> Columns:
    import pyarrow as pa

    arrays = [pa.array([], type=field.type) for field in schema]
    return _batch_columns(pa.RecordBatch.from_arrays(arrays, schema=schema), names)


def _heads_of(names: Sequence[str], schema: Any) -> list[str]:
    return [f for f in schema.names if any(n == f or n.startswith((f"{f}.", f"{f}[")) for n in names)]


class _ArrowTable:
    """What the two formats share."""

    def __init__(self, label: str, path: str, schema: Any) -> None:
        self.label, self._path, self._schema = label, path, schema
        self.mark = Mark.loads(label, (schema.metadata or {}).get(_KEY))

    @functools.cached_property
    def identity(self) -> str:
        """Of the file's contents: see `nuinfer.io.sources.digest_of`."""
        return digest_of(self._path)

    def heads(self) -> Sequence[str]:
        """The fields at the top."""
        return list(self._schema.names)

    def leaves(self, head: str) -> Mapping[str, Leaf]:
        """The columns of a field."""
        return leaves_of(head, self._schema.field(head).type)


# -- Parquet ----------------------------------------------------------------------------------------------------------


class ParquetTable(_ArrowTable):
    """A Parquet file; only the column chunks and row groups that are needed are read."""

    def __init__(self, place: Place, *, threads: int = 1, streaming: bool = False) -> None:
        import pyarrow.parquet as pq

        with _corrupt(place.path, "Parquet"):
            self._file = pq.ParquetFile(place.path, pre_buffer=False)
        self._threads = threads > 1
        super().__init__(place.path, place.path, self._file.schema_arrow)

    def entries(self, names: Sequence[str]) -> int:
        """The number of rows."""
        return int(self._file.metadata.num_rows)

    def _paths(self, names: Sequence[str]) -> list[str]:
        """The parquet columns, ``hits.list.element.x``, of the columns ``names``."""
        schema = self._file.schema
        paths = [schema.column(i).path for i in range(len(schema))]
        heads = _heads_of(names, self._schema)
        return [path for path in paths if any(_same(path, name, head) for head in heads for name in names)]

    def event_bytes(self, names: Sequence[str]) -> float:
        """From the column chunks' uncompressed sizes."""
        meta, paths = self._file.metadata, set(self._paths(names))
        groups = (meta.row_group(i) for i in range(meta.num_row_groups))
        chunks = (group.column(j) for group in groups for j in range(group.num_columns))
        total = sum(chunk.total_uncompressed_size for chunk in chunks if chunk.path_in_schema in paths)
        # dictionary-encoded numbers are wider in memory than in the file
        return float(max(total / max(meta.num_rows, 1), 8.0 * len(names)))

    def chunks(self, names: Sequence[str], start: int, stop: int, step: int | None) -> Iterator[Columns]:
        """The row groups that overlap the range, in batches of ``step`` rows."""
        paths = self._paths(names)
        with _corrupt(self.label, "Parquet"):
            groups, skip = self._groups(start, stop)
            if step is None or not groups:
                table = self._file.read_row_groups(groups, columns=paths, use_threads=self._threads)
                yield _table_columns(table.slice(skip, stop - start), names)
                return
            batches = self._file.iter_batches(step, row_groups=groups, columns=paths, use_threads=self._threads)
            yield from rebatched(self._trimmed(batches, names, skip, stop - start), step)

    def _trimmed(self, batches: Iterator[Any], names: Sequence[str], skip: int, left: int) -> Iterator[Columns]:
        for batch in batches:
            taken = min(max(len(batch) - skip, 0), left)
            if taken:
                yield _batch_columns(batch.slice(skip, taken), names)
            skip, left = max(skip - len(batch), 0), left - taken
            if not left:
                return

    def _groups(self, start: int, stop: int) -> tuple[list[int], int]:
        """The row groups that hold rows start .. stop, and how many rows of the first come before."""
        meta, skip, before = self._file.metadata, 0, 0
        groups: list[int] = []
        for number in range(meta.num_row_groups):
            rows = meta.row_group(number).num_rows
            if before < stop and before + rows > start:
                skip = start - before if not groups else skip
                groups.append(number)
            before += rows
        return groups, skip

    def close(self) -> None:
        """Close the file."""
        self._file.close()


def _same(path: str, name: str, head: str) -> bool:
    """Whether the parquet column ``path`` (with its list levels) is the column ``name``, or a part of it."""
    if path == head:
        return name == head or name.startswith(f"{head}[")
    if not path.startswith(f"{head}."):
        return False
    levels = ("list", "element", "item", "array", "bag")
    inner = [part for part in path[len(head) + 1 :].split(".") if part not in levels]
    plain = ".".join([head, *inner])
    return plain == name.partition("[")[0] or plain == name or name.startswith(f"{plain}[")


# -- Feather ----------------------------------------------------------------------------------------------------------


class FeatherTable(_ArrowTable):
    """A Feather (version 2, Arrow IPC) file, read record batch by record batch."""

    def __init__(self, place: Place, *, threads: int = 1, streaming: bool = False) -> None:
        import pyarrow as pa

        with _corrupt(place.path, "Feather (version 2)"):
            self._source = pa.OSFile(place.path)
            self._file = pa.ipc.open_file(self._source)
            self._rows = [self._file.get_batch(i).num_rows for i in range(self._file.num_record_batches)]
        super().__init__(place.path, place.path, self._file.schema)

    def entries(self, names: Sequence[str]) -> int:
        """The number of rows."""
        return sum(self._rows)

    def event_bytes(self, names: Sequence[str]) -> float:
        """From the first record batch."""
        if not self._rows or not self._rows[0]:
            return 1.0
        columns = _batch_columns(self._file.get_batch(0), names)
        parts = (c.values if isinstance(c, Ragged) else c for c in columns.values())
        return float(sum(part.nbytes for part in parts) / self._rows[0])

    def chunks(self, names: Sequence[str], start: int, stop: int, step: int | None) -> Iterator[Columns]:
        """The record batches that overlap the range."""
        with _corrupt(self.label, "Feather (version 2)"):
            yield from rebatched(self._batches(names, start, stop), step)

    def _batches(self, names: Sequence[str], start: int, stop: int) -> Iterator[Columns]:
        before, given = 0, False
        for number, rows in enumerate(self._rows):
            first, last = max(start - before, 0), min(stop - before, rows)
            if first < last:
                given = True
                yield _batch_columns(self._file.get_batch(number).slice(first, last - first), names)
            before += rows
        if not given:
            yield _empty(self._schema, names)

    def close(self) -> None:
        """Close the file."""
        self._source.close()


# -- writing ----------------------------------------------------------------------------------------------------------


def write_parquet(path: Path, pieces: Iterator[Events], mark: Mark, compression: str) -> None:
    """Write pieces of events of equal columns, each as a row group; see `nuinfer.io.write_parquet`."""
    import pyarrow.parquet as pq

    first = next(pieces)
    start = _arrow_table(first, mark)
    with pq.ParquetWriter(path, start.schema, compression=compression, use_dictionary=False) as out:
        out.write_table(start, row_group_size=max(len(first), 1))
        for piece in pieces:
            out.write_table(_arrow_table(piece, mark), row_group_size=max(len(piece), 1))


def _arrow_table(events: Events, mark: Mark) -> Any:
    import pyarrow as pa

    arrays: dict[str, Any] = {}
    for cloud, fields in _clouds(events).items():
        parts = [pa.array(column.values) for column in fields.values()]
        kinds = [pa.field(n[len(cloud) + 1 :], p.type, nullable=False) for n, p in zip(fields, parts, strict=True)]
        struct = pa.StructArray.from_arrays(parts, fields=kinds)
        arrays[cloud] = _list_array(next(iter(fields.values())).offsets, struct)
        arrays.update(dict.fromkeys(fields))
    for name in events.columns:
        if name not in arrays:
            column = events[name]
            ragged = isinstance(column, Ragged)
            arrays[name] = _list_array(column.offsets, pa.array(column.values)) if ragged else pa.array(column)
    arrays = {name: array for name, array in arrays.items() if array is not None}
    arrays |= {mark.weight: pa.array(events.weight), mark.id: pa.array(events.id)}
    schema = pa.schema([pa.field(name, a.type, nullable=False) for name, a in arrays.items()])
    return pa.table(arrays, schema=schema).replace_schema_metadata({_KEY: mark.dumps().encode()})


def _list_array(offsets: Any, values: Any) -> Any:
    import pyarrow as pa

    kind = pa.list_(pa.field("element", values.type, nullable=False))
    return pa.ListArray.from_arrays(pa.array(offsets.astype(np.int32)), values, type=kind)


def _clouds(events: Events) -> dict[str, dict[str, Ragged]]:
    """The ragged columns ``cloud.field`` that can be one list of structures."""
    clouds: dict[str, dict[str, Ragged]] = {}
    for name in events.columns:
        cloud, _, field = name.rpartition(".")
        column = events[name]
        if isinstance(column, Ragged) and cloud and field:
            clouds.setdefault(cloud, {})[name] = column
    return {
        cloud: fields
        for cloud, fields in clouds.items()
        if cloud not in events and all(c.offsets is next(iter(fields.values())).offsets for c in fields.values())
    }
