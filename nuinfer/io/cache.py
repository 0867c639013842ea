"""A memory-mapped copy of what was read, so that a second reading costs no more than the disk does.

An entry is a folder: one ``.npy`` file per flat column, per ragged column's values and offsets (those of a cloud once),
for weight and id, and ``entry.json`` with the request, the state of the source files (path, size, time of change) and
each array's type, length and checksum.  It is written beside its place and renamed, so that it is there whole or not at
all.  It is used if the request and the files' states are the same and every array has its length and checksum (CRC-32,
read at the speed of the disk); else it is made again, and the log says why.
"""

from __future__ import annotations

import contextlib
import hashlib
import io
import json
import logging
import os
import re
import secrets
import shutil
import zlib
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from ..events import Column, Events, Flat, Ints, Ragged
from .reading import Request, stream
from .sources import Place, places

__all__ = ["read_cached"]

_LOG = logging.getLogger("nuinfer")
_FORMAT = 1
_BLOCK = 1 << 22
_STEP = 256e6  # bytes of events in memory while an entry is written


def read_cached(request: Request, folder: str | os.PathLike[str]) -> Events:
    """The events of ``request``, backed by memory-mapped read-only arrays in ``folder``."""
    asked, state = _asked(request), _state(request)
    entry = Path(folder) / hashlib.blake2b(json.dumps(asked).encode(), digest_size=12).hexdigest()
    why = _unusable(entry, asked, state)
    if why:
        _LOG.info("cache %s: %s; reading the files", entry, why)
        _make(entry, request, asked, state)
    return _loaded(entry)


def _asked(request: Request) -> dict[str, Any]:
    """The request, as JSON; not the state of its files."""
    names = ("cut", "weight", "id", "entry_start", "entry_stop")
    plain: dict[str, Any] = {name: getattr(request, name) for name in names}
    plain |= {"columns": request.patterns and list(request.patterns), "aliases": dict(request.aliases or {})}
    plain |= {"files": _names(request.source), "friends": [_names(source) for source in request.friend_sources]}
    return json.loads(json.dumps({"format": _FORMAT, **plain}, default=int))  # type: ignore[no-any-return]


def _names(source: Any) -> list[list[str | None]]:
    return [[os.path.realpath(place.path), place.inner] for place in places(source)]


def _state(request: Request) -> list[list[Any]]:
    """Path, size and time of change of every file."""
    found: list[Place] = [p for source in (request.source, *request.friend_sources) for p in places(source)]
    states = ((os.path.realpath(p.path), os.stat(p.path)) for p in found)
    return [[path, state.st_size, state.st_mtime_ns] for path, state in states]


# -- reading an entry -------------------------------------------------------------------------------------------------


def _unusable(entry: Path, asked: dict[str, Any], state: list[list[Any]]) -> str:
    """Why the entry cannot be used, or an empty string."""
    if not entry.is_dir():
        return "not there yet"
    try:
        found = json.loads((entry / "entry.json").read_text())
        if found["asked"] != asked:
            return "made for another request"
        if found["state"] != state:
            return "the files have changed"
        for file, (dtype, length, checksum) in found["arrays"].items():
            if _state_of(entry / file) != (dtype, length, checksum):
                return f"damaged, {file} is not what was written"
    except (OSError, ValueError, KeyError, TypeError) as error:
        return f"damaged ({type(error).__name__}: {error})"
    return ""


def _state_of(path: Path) -> tuple[str, int, int]:
    """Type, length and checksum of a ``.npy`` file."""
    with open(path, "rb") as file:
        np.lib.format.read_magic(file)
        (length,), _, dtype = np.lib.format.read_array_header_1_0(file)
        checksum, size, buffer = 0, 0, bytearray(_BLOCK)
        while count := file.readinto(buffer):
            checksum = zlib.crc32(memoryview(buffer)[:count], checksum)
            size += count
    if size != length * dtype.itemsize:
        raise ValueError(f"{path.name} has {size} bytes of {length * dtype.itemsize}")
    return dtype.str, int(length), checksum


def _loaded(entry: Path) -> Events:
    found = json.loads((entry / "entry.json").read_text())
    arrays = {file: np.load(entry / file, mmap_mode="r", allow_pickle=False) for file in found["arrays"]}
    columns: dict[str, Column] = {}
    for name, files in found["columns"]:
        columns[name] = arrays[files[0]] if len(files) == 1 else Ragged(arrays[files[0]], arrays[files[1]])
    return Events._of(columns, arrays["weight.npy"], arrays["id.npy"])


# -- writing an entry -------------------------------------------------------------------------------------------------


def _make(entry: Path, request: Request, asked: dict[str, Any], state: list[list[Any]]) -> None:
    """Write the entry into a folder beside it, chunk by chunk, and rename it."""
    entry.parent.mkdir(parents=True, exist_ok=True)
    made = entry.with_name(f".{entry.name}.{secrets.token_hex(4)}.part")
    made.mkdir()
    writer = _Writer(made)
    try:
        for part in stream(request, _STEP):
            writer.add(part)
        written = {"asked": asked, "state": state, **writer.finished()}
        if _state(request) != state:
            raise ValueError(f"cache {entry}: the source files changed while they were read; try again")
        (made / "entry.json").write_text(json.dumps(written))
        _put(made, entry)
    finally:
        writer.close()
        shutil.rmtree(made, ignore_errors=True)


def _put(made: Path, entry: Path) -> None:
    """Rename ``made`` to ``entry``; what was there is moved away first, and stays open for those who read it."""
    old = entry.with_name(f".{entry.name}.{secrets.token_hex(4)}.old")
    with contextlib.suppress(FileNotFoundError):  # there was none, or another process moved it away
        os.rename(entry, old)
    try:
        os.rename(made, entry)
    except OSError:
        if not entry.is_dir():  # else another process was faster with the same
            raise
    shutil.rmtree(old, ignore_errors=True)


class _Writer:
    """Arrays of chunks of events, each appended to its file."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._files: dict[str, _Growing] = {}
        self._columns: dict[str, list[str]] = {}

    def add(self, events: Events) -> None:
        """Append the events of one chunk."""
        for number, name in enumerate(events.columns):
            column, stem = events[name], f"{number:03d}_{re.sub(r'[^A-Za-z0-9_.-]', '_', name)[:60]}"
            if isinstance(column, Ragged):
                self._columns[name] = [f"{stem}.values.npy", f"{stem}.offsets.npy"]
                self._append(f"{stem}.values.npy", column.values)
                self._append_offsets(f"{stem}.offsets.npy", column.offsets)
            else:
                self._columns[name] = [f"{stem}.npy"]
                self._append(f"{stem}.npy", column)
        self._append("weight.npy", events.weight)
        self._append("id.npy", events.id)

    def _append_offsets(self, file: str, offsets: Ints) -> None:
        known = self._files.get(file)
        self._append(file, offsets if known is None else offsets[1:] + known.last)

    def _append(self, file: str, values: Flat) -> None:
        if file not in self._files:
            self._files[file] = _Growing(self._folder / file, values.dtype)
        self._files[file].append(values)

    def close(self) -> None:
        """Close the files, finished or not."""
        for file in self._files.values():
            file.close()

    def finished(self) -> dict[str, Any]:
        """Close the files, keep equal offsets once; what the entry says of them."""
        arrays = {name: file.finished() for name, file in self._files.items()}
        first: dict[Any, str] = {}
        for files in self._columns.values():
            same = first.setdefault(arrays[files[-1]], files[-1]) if len(files) == 2 else files[-1]
            if same != files[-1]:
                (self._folder / files[-1]).unlink()
                del arrays[files[-1]]
                files[-1] = same
        return {"arrays": arrays, "columns": list(self._columns.items())}


class _Growing:
    """A one-dimensional ``.npy`` file that grows; its header is written last."""

    def __init__(self, path: Path, dtype: np.dtype[Any]) -> None:
        self._file: BinaryIO = open(path, "xb")  # noqa: SIM115 - closed in finished()
        self._dtype, self._length, self._checksum = dtype, 0, 0
        self.last = 0
        self._header = len(self._head())
        self._file.write(b"\0" * self._header)

    def _head(self) -> bytes:
        out = io.BytesIO()
        form = {"descr": np.lib.format.dtype_to_descr(self._dtype), "fortran_order": False, "shape": (self._length,)}
        np.lib.format.write_array_header_1_0(out, form)
        return out.getvalue()

    def append(self, values: Flat) -> None:
        """Write more values."""
        data = np.ascontiguousarray(values).view(np.uint8).data
        for start in range(0, len(data), _BLOCK):
            self._file.write(data[start : start + _BLOCK])
            self._checksum = zlib.crc32(data[start : start + _BLOCK], self._checksum)
        self._length += len(values)
        self.last = int(values[-1]) if len(values) and values.dtype.kind == "i" else self.last

    def finished(self) -> tuple[str, int, int]:
        """Write the header and close."""
        head = self._head()
        if len(head) != self._header:
            raise RuntimeError("the header of a .npy file changed its length")
        self._file.seek(0)
        self._file.write(head)
        self._file.flush()
        os.fsync(self._file.fileno())
        self._file.close()
        return self._dtype.str, self._length, self._checksum

    def close(self) -> None:
        """Close the file, whatever is in it."""
        self._file.close()
