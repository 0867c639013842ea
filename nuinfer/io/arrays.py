"""HDF5 and npz files as tables, and back.

The layout of both: a data set or member for each flat column, ``NAME/values`` and ``NAME/offsets`` for each ragged one.
HDF5 files of others may also hold arrays (N, k), compound types and variable-length data sets.  Nothing is unpickled.
"""

from __future__ import annotations

import functools
import zipfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from ..errors import CorruptFile, missing
from ..events import Column, Events, Flat, Ragged, offsets_of
from .sources import Place, digest_of
from .tables import Columns, Leaf, Mark, components, split_array

__all__ = ["Hdf5Table", "NpzTable"]

_MARK = "nuinfer"
_WHY = "neither numbers nor booleans nor lists of them"


class _LengthTable:
    """A table of arrays that may differ in length; those that are read together may not."""

    label: str
    _path: str
    _lengths: Mapping[str, int]  # events by head

    @functools.cached_property
    def identity(self) -> str:
        """Of the file's contents: see `nuinfer.io.sources.digest_of`."""
        return digest_of(self._path)

    def entries(self, names: Sequence[str]) -> int:
        """The length that the columns ``names`` have in common."""
        lengths = {name: self._lengths[self._head(name)] for name in names}
        if len(set(lengths.values())) > 1:
            found = ", ".join(f"{name} {length}" for name, length in list(lengths.items())[:12])
            raise ValueError(f"{self.label}: expected columns of one length, found {found}; name those that belong "
                             f"together with columns=")  # fmt: skip
        return next(iter(lengths.values()))

    def _head(self, name: str) -> str:
        return max((h for h in self._lengths if name == h or name.startswith((f"{h}.", f"{h}["))), key=len)


def _array_leaves(name: str, dtype: np.dtype[Any], shape: tuple[int, ...], ragged: bool = False) -> dict[str, Leaf]:
    """The columns of an array (N, *shape)."""
    if dtype.names:
        parts = ((f"{name}.{field}", dtype[field]) for field in dtype.names)
        inner = (_array_leaves(full, part.base, (*shape, *part.shape), ragged) for full, part in parts)
        return {leaf: kind for leaves in inner for leaf, kind in leaves.items()}
    if dtype.kind not in "biuf":
        return {name: Leaf(None, ragged, f"{dtype}, {_WHY}")}
    return {leaf: Leaf(dtype.newbyteorder("="), ragged) for leaf in components(name, shape)}


def _array_columns(name: str, array: Flat, wanted: set[str]) -> Iterator[tuple[str, Flat]]:
    if array.dtype.names:
        for field in array.dtype.names:
            yield from _array_columns(f"{name}.{field}", array[field], wanted)
    elif any(leaf in wanted for leaf in components(name, array.shape[1:])):
        yield from split_array(name, array, wanted)


def _steps(start: int, stop: int, step: int | None) -> Iterator[tuple[int, int]]:
    step = step or max(stop - start, 1)
    for first in range(start, max(stop, start + 1), step):
        yield first, min(first + step, stop)


# -- HDF5 -------------------------------------------------------------------------------------------------------------


@contextmanager
def _hdf5_errors(what: str) -> Iterator[None]:
    try:
        yield
    except (FileNotFoundError, PermissionError, CorruptFile):
        raise
    except (OSError, RuntimeError) as error:
        text = " ".join(str(error).split())[:200]
        raise CorruptFile(f"{what}: cannot be read as HDF5; is it truncated, or of another format? ({text})") from None


class Hdf5Table(_LengthTable):
    """A group of an HDF5 file; groups within it become ``group.name``."""

    def __init__(self, place: Place, *, threads: int = 1, streaming: bool = False) -> None:
        import h5py

        self._path = place.path
        with _hdf5_errors(place.path):
            self._file = h5py.File(place.path, "r", rdcc_nbytes=1 << 20)
        try:
            with _hdf5_errors(place.path):
                group, inner = self._group(place)
                self.label = f"{place.path}:{inner}" if inner else place.path
                self._sets = dict(_data_sets("", group))
                self._lengths = {name: _length(found) for name, found in self._sets.items()}
                self.mark = Mark.loads(self.label, group.attrs.get(_MARK))
        except BaseException:
            self._file.close()
            raise

    def _group(self, place: Place) -> tuple[Any, str]:
        """The group named; else the one that nuinfer wrote; else the whole file."""
        import h5py

        if place.inner is None:
            marked = [name for name, item in self._file.items() if _MARK in item.attrs]
            return (self._file[marked[0]], marked[0]) if len(marked) == 1 else (self._file, "")
        inner = place.inner.strip("/")
        if inner not in self._file:
            groups: list[str] = []
            self._file.visititems(lambda name, item: groups.append(name) if isinstance(item, h5py.Group) else None)
            raise missing(f"group in {place.path} named", inner, groups)
        if not isinstance(self._file[inner], h5py.Group):
            raise ValueError(f"{place}: expected a group, found a data set; name it with columns=[{inner!r}] instead")
        return self._file[inner], inner

    def heads(self) -> Sequence[str]:
        """The data sets."""
        return list(self._sets)

    def leaves(self, head: str) -> Mapping[str, Leaf]:
        """The columns of a data set."""
        import h5py

        found = self._sets[head]
        if isinstance(found, tuple):
            return _array_leaves(head, found[0].dtype, (), ragged=True)
        inner = h5py.check_vlen_dtype(found.dtype)
        if inner is not None and found.ndim == 1:
            return _array_leaves(head, np.dtype(inner), (), ragged=True)
        if not found.ndim:
            return {head: Leaf(None, False, "a single value, not one per event")}
        return _array_leaves(head, found.dtype, found.shape[1:])

    def event_bytes(self, names: Sequence[str]) -> float:
        """From the data sets' sizes."""
        total = 0.0
        for head in {self._head(name) for name in names}:
            found = self._sets[head]
            values = found[0] if isinstance(found, tuple) else found
            total += values.size * max(values.dtype.itemsize, 8) / max(self._lengths[head], 1)
        return total

    def chunks(self, names: Sequence[str], start: int, stop: int, step: int | None) -> Iterator[Columns]:
        """Slices of the data sets."""
        heads = {self._head(name) for name in names}
        for first, last in _steps(start, stop, step):
            with _hdf5_errors(self.label):
                found = {k: v for head in heads for k, v in self._read(head, first, last, set(names))}
                columns = [{name: found[name] for name in names}]
            del found
            yield columns.pop()

    def _read(self, head: str, start: int, stop: int, wanted: set[str]) -> Iterator[tuple[str, Column]]:
        found = self._sets[head]
        if isinstance(found, tuple):
            yield head, _sliced(head, found[0], found[1], start, stop)
            return
        array = found[start:stop]
        if array.dtype != object:
            yield from _array_columns(head, array, wanted)
            return
        values = np.concatenate(list(array)) if len(array) else np.empty(0, self.leaves(head)[head].dtype)
        offsets = offsets_of(np.array([len(part) for part in array], dtype=np.int64))
        yield from ((leaf, Ragged(part, offsets)) for leaf, part in _array_columns(head, values, wanted))

    def close(self) -> None:
        """Close the file."""
        self._file.close()


def _data_sets(prefix: str, group: Any) -> Iterator[tuple[str, Any]]:
    """Data sets, and (values, offsets) pairs, by dotted names."""
    for name, item in group.items():
        full = f"{prefix}{name}"
        if not hasattr(item, "items"):
            yield full, item
        elif set(item) == {"values", "offsets"}:
            yield full, (item["values"], item["offsets"])
        else:
            yield from _data_sets(f"{full}.", item)


def _length(found: Any) -> int:
    if isinstance(found, tuple):
        return len(found[1]) - 1
    return len(found) if found.ndim else 1


def _sliced(name: str, values: Any, offsets: Any, start: int, stop: int) -> Ragged:
    """Events start .. stop of a ragged column whose halves are sliced from a file."""
    part = np.asarray(offsets[start : stop + 1]).astype(np.int64, copy=False)
    if (np.diff(part) < 0).any() or part[0] < 0 or part[-1] > len(values):
        raise CorruptFile(f"ragged column {name!r}: expected offsets that rise from 0 to the number of values, "
                          f"{len(values)}, found others in the file")  # fmt: skip
    inner = np.ascontiguousarray(values[part[0] : part[-1]])
    return Ragged(inner.astype(inner.dtype.newbyteorder("="), copy=False), part - part[0])


def write_hdf5(path: Path, pieces: Iterator[Events], mark: Mark, group: str, compression: str | None) -> None:
    """Append pieces of events of equal columns to a new file; see `nuinfer.io.write_hdf5`."""
    import h5py

    with h5py.File(path, "w") as file:
        out = file.create_group(group, track_order=True)
        out.attrs[_MARK] = mark.dumps()
        for piece in pieces:
            shared: dict[int, str] = {}
            for name in piece.columns:
                _append_column(out, name, piece[name], shared, compression)
            _append(out, mark.weight, piece.weight, compression)
            _append(out, mark.id, piece.id, compression)


def _append_column(out: Any, name: str, column: Column, shared: dict[int, str], compression: str | None) -> None:
    if not isinstance(column, Ragged):
        return _append(out, name, column, compression)
    at = f"{name}/offsets"
    first = shared.setdefault(id(column.offsets), at)
    if first == at and at in out:
        _append(out, at, column.offsets[1:] + out[at][-1], compression)
    elif first == at:
        _append(out, at, column.offsets, compression)
    elif at not in out:
        out[at] = out[first]  # a second name for the same data
    return _append(out, f"{name}/values", column.values, compression)


def _append(out: Any, name: str, values: Flat, compression: str | None) -> None:
    if name not in out:
        rows = max(min(len(values), 1 << 16), 1)
        out.create_dataset(name, data=values, maxshape=(None,), chunks=(rows,), compression=compression)
        return
    length = len(out[name])
    out[name].resize(length + len(values), axis=0)
    out[name][length:] = values


# -- npz --------------------------------------------------------------------------------------------------------------


@contextmanager
def _zip_errors(what: str) -> Iterator[None]:
    import zlib

    try:
        yield
    except (zipfile.BadZipFile, zlib.error, EOFError, _BadMember) as error:
        text = " ".join(str(error).split())[:200]
        raise CorruptFile(f"{what}: cannot be read as npz; is it truncated, or of another format? ({text})") from None


class _BadMember(Exception):
    """A member of the archive that is no array."""


class _Member:
    """An array in the archive, of which slices can be read without reading the whole."""

    def __init__(self, archive: zipfile.ZipFile, name: str) -> None:
        self._archive, self._name = archive, f"{name}.npy"
        with archive.open(self._name) as stream:
            self.shape, self._fortran, self.dtype = _npy_header(self._name, stream)
            self._begin = stream.tell()
        self._row = self.dtype.itemsize * int(np.prod(self.shape[1:], dtype=np.int64))

    def __len__(self) -> int:
        return int(self.shape[0]) if self.shape else 0

    def slices(self) -> _Slices:
        return _Slices(self)

    def open(self) -> Any:
        stream = self._archive.open(self._name)
        stream.seek(self._begin)
        return stream

    def whole(self) -> Flat:
        """The array, of any shape and order."""
        with self.open() as stream:
            count = int(np.prod(self.shape, dtype=np.int64))
            flat = np.frombuffer(_exactly(stream, count * self.dtype.itemsize), self.dtype, count)
        return flat.reshape(self.shape, order="F" if self._fortran else "C")


class _Slices:
    """Consecutive slices of a member, read from one stream that only moves forward."""

    def __init__(self, member: _Member) -> None:
        self._member, self._at, self._last = member, 0, np.empty(0)
        self._whole = member.whole() if member._fortran and len(member.shape) > 1 else None
        self._stream = None if self._whole is not None else member.open()

    def __len__(self) -> int:
        return len(self._member)

    def __getitem__(self, rows: slice) -> Flat:
        if self._whole is not None or self._stream is None:
            return self._whole[rows]  # type: ignore[index]
        if rows.start == self._at - 1 and len(self._last):  # offsets: each slice begins with the last one's end
            return np.concatenate([self._last, self._read(self._at, rows.stop)])
        return self._read(rows.start, rows.stop)

    def _read(self, start: int, stop: int) -> Flat:
        member = self._member
        if start != self._at:
            self._stream.seek((start - self._at) * member._row, 1)  # type: ignore[union-attr]
        data = _exactly(self._stream, (stop - start) * member._row)
        array = np.frombuffer(data, member.dtype).reshape(stop - start, *member.shape[1:])
        self._at, self._last = stop, array[-1:].copy() if stop > start else self._last
        return array

    def close(self) -> None:
        if self._stream is not None:
            self._stream.close()


def _npy_header(name: str, stream: Any) -> tuple[tuple[int, ...], bool, np.dtype[Any]]:
    try:
        version = np.lib.format.read_magic(stream)
        read = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
        return read(stream)
    except ValueError as error:
        raise _BadMember(f"{name}: {error}") from None


def _exactly(stream: Any, count: int) -> bytearray:
    data = bytearray(count)
    view, at = memoryview(data), 0
    while at < count:
        block = stream.read(min(count - at, 1 << 20))
        if not block:
            raise EOFError(f"found {at} of {count} bytes")
        view[at : at + len(block)] = block
        at += len(block)
    return data


class NpzTable(_LengthTable):
    """An npz file."""

    def __init__(self, place: Place, *, threads: int = 1, streaming: bool = False) -> None:
        self.label = self._path = place.path
        with _zip_errors(place.path):
            self._archive = zipfile.ZipFile(place.path)
            try:
                names = [name[:-4] for name in self._archive.namelist() if name.endswith(".npy")]
                members = {name: _Member(self._archive, name) for name in names if name != _MARK}
                self.mark = self._read_mark()
            except BaseException:
                self._archive.close()
                raise
        self._members = _paired(members)
        self._lengths = {n: len(m[1]) - 1 if isinstance(m, tuple) else len(m) for n, m in self._members.items()}

    def _read_mark(self) -> Mark | None:
        if f"{_MARK}.npy" not in self._archive.namelist():
            return None
        member = _Member(self._archive, _MARK)
        return Mark.loads(self.label, str(member.whole()) if member.dtype.kind == "U" else None)

    def heads(self) -> Sequence[str]:
        """The arrays."""
        return list(self._members)

    def leaves(self, head: str) -> Mapping[str, Leaf]:
        """The columns of an array."""
        found = self._members[head]
        if isinstance(found, tuple):
            return _array_leaves(head, found[0].dtype, (), ragged=True)
        if found.dtype.hasobject:
            return {head: Leaf(None, False, "pickled objects, which are not loaded; save ragged data as two arrays, "
                                            f"'{head}/values' and '{head}/offsets'")}  # fmt: skip
        if not found.shape:
            return {head: Leaf(None, False, "a single value, not one per event")}
        return _array_leaves(head, found.dtype, found.shape[1:])

    def event_bytes(self, names: Sequence[str]) -> float:
        """From the arrays' sizes."""
        total = 0.0
        for head in {self._head(name) for name in names}:
            found = self._members[head]
            values = found[0] if isinstance(found, tuple) else found
            total += len(values) * values._row / max(self._lengths[head], 1) + 8.0 * isinstance(found, tuple)
        return total

    def chunks(self, names: Sequence[str], start: int, stop: int, step: int | None) -> Iterator[Columns]:
        """Slices, each member's read from a stream of its own."""
        heads = {self._head(name) for name in names}
        with ExitStack() as stack, _zip_errors(self.label):
            sliced = {head: _opened(self._members[head], stack) for head in heads}
            for first, last in _steps(start, stop, step):
                found: Columns = {}
                for head, parts in sliced.items():
                    found.update(self._read(head, parts, first, last, set(names)))
                columns = [{name: found[name] for name in names}]
                del found
                yield columns.pop()

    def _read(self, head: str, parts: Any, start: int, stop: int, wanted: set[str]) -> Iterator[tuple[str, Column]]:
        if isinstance(parts, tuple):
            yield head, _sliced(head, parts[0], parts[1], start, stop)
        else:
            yield from _array_columns(head, parts[start:stop], wanted)

    def close(self) -> None:
        """Close the file."""
        self._archive.close()


def _paired(members: Mapping[str, _Member]) -> dict[str, _Member | tuple[_Member, _Member]]:
    """The members, ``name/values`` and ``name/offsets`` as one."""
    found: dict[str, _Member | tuple[_Member, _Member]] = {}
    for name, member in members.items():
        head, _, half = name.rpartition("/")
        if head and half in ("values", "offsets") and {f"{head}/values", f"{head}/offsets"} <= set(members):
            found[head] = members[f"{head}/values"], members[f"{head}/offsets"]
        else:
            found[name] = member
    return found


def _opened(found: _Member | tuple[_Member, _Member], stack: ExitStack) -> Any:
    parts = found if isinstance(found, tuple) else (found,)
    slices = tuple(part.slices() for part in parts)
    for part in slices:
        stack.callback(part.close)
    return slices if isinstance(found, tuple) else slices[0]


def write_npz(path: Path, events: Events, mark: Mark, compress: bool) -> None:
    """Write one npz file; see `nuinfer.io.write_npz`."""
    kind = zipfile.ZIP_DEFLATED if compress else zipfile.ZIP_STORED
    with zipfile.ZipFile(path, "w", kind, allowZip64=True) as archive:
        for name, array in _members(events, mark):
            with archive.open(f"{name}.npy", "w", force_zip64=True) as stream:
                np.lib.format.write_array(stream, array, allow_pickle=False)


def _members(events: Events, mark: Mark) -> Iterator[tuple[str, Flat]]:
    yield _MARK, np.array(mark.dumps())
    yield mark.weight, events.weight
    yield mark.id, events.id
    for name in events.columns:
        column = events[name]
        if isinstance(column, Ragged):
            yield f"{name}/values", column.values
            yield f"{name}/offsets", column.offsets
        else:
            yield name, column
