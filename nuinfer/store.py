"""The one saved form: a safetensors file whose metadata says what it is, and whose digest says that it is whole.

A result is a *spec* (JSON) and named *arrays*.  The file is an ordinary safetensors file; its metadata has one entry,
``nuinfer``, which is JSON: ``sha256``, ``format``, ``kind``, ``versions`` and ``spec``.  The digest is that of the
whole file, header included, with the 64 places of the digest itself filled with ``0``; so any changed bit is found.  It
is a guard against accidents, not a signature.  Loading never runs code.

Files are written whole or not at all: into a temporary file beside the target, to the disk, then renamed.
"""

from __future__ import annotations

import hashlib
import json
import math
import os
import platform
import secrets
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .errors import CorruptFile, closest

__all__ = ["load", "save", "under", "within", "write_atomically"]

Array = NDArray[Any]
Arrays = dict[str, Array]
Header = dict[str, Any]  # format, kind, versions, spec

FORMAT = 1  # raised by one with each change of meaning, together with an entry in MIGRATIONS

#: ``MIGRATIONS[f]`` turns the header and arrays of a file of format f into those of format f + 1.
MIGRATIONS: dict[int, Callable[[Header, Arrays], tuple[Header, Arrays]]] = {}

_DTYPES = {
    "BOOL": "bool", "I8": "i1", "U8": "u1", "I16": "<i2", "U16": "<u2", "I32": "<i4", "U32": "<u4",
    "I64": "<i8", "U64": "<u8", "F16": "<f2", "F32": "<f4", "F64": "<f8",
}  # fmt: skip
_PLAIN = frozenset(np.dtype(name) for name in _DTYPES.values())

# The first bytes of every file after the eight of the header's length.  The metadata comes first in a safetensors
# header, and the digest first in ours, so its place is always the same, in this and in all later formats.
_START = rb'{"__metadata__":{"nuinfer":"{\"sha256\":\"'
_DIGEST = slice(8 + len(_START), 8 + len(_START) + 64)
_BLANK = b"0" * 64


def save(path: str | os.PathLike[str], kind: str, spec: Mapping[str, Any], arrays: Mapping[str, Array]) -> None:
    """Write ``spec`` and ``arrays`` to the file ``path``, atomically, making its folder if needed.

    Parameters
    ----------
    path:
        The file to write or to replace; ``.safetensors`` is the usual suffix.
    kind:
        What the file holds, e.g. ``"ratio"``; `load` asks for it.
    spec:
        JSON with string keys: None, booleans, integers, finite floats, strings, lists (tuples come back as lists) and
        mappings of these; NumPy's numbers become Python's.
    arrays:
        Named arrays of any shape, of booleans, integers or floats of 16, 32 or 64 bits.  Copied only where they are not
        C-contiguous or not in native byte order.

    Raises
    ------
    TypeError
        for a value of ``spec`` that JSON has no form for, or an array of another type; the message gives its place.
    ValueError
        for a NaN or infinite number in ``spec``, or an array named ``__metadata__``.

    Examples
    --------
    >>> import tempfile, pathlib
    >>> path = pathlib.Path(tempfile.mkdtemp()) / "line.safetensors"
    >>> save(path, "line", {"degree": 1}, {"coefficients": np.array([0.5, 2.0])})
    >>> spec, arrays = load(path, "line")
    >>> spec, arrays["coefficients"].tolist()
    ({'degree': 1}, [0.5, 2.0])
    """
    from safetensors.numpy import save_file

    header = {"sha256": _BLANK.decode(), "format": FORMAT, "kind": kind, "versions": _versions()}
    text = json.dumps({**header, "spec": _json("spec", spec)}, separators=(",", ":"), allow_nan=False)
    if "__metadata__" in arrays:
        raise ValueError("arrays: the name '__metadata__' belongs to the file format; choose another")
    ready = {name: plain(f"array {name!r}", array) for name, array in arrays.items()}

    def write(temporary: Path) -> None:
        save_file(ready, temporary, metadata={"nuinfer": text})
        _stamp(temporary)

    write_atomically(path, write)


def load(path: str | os.PathLike[str], kind: str) -> tuple[dict[str, Any], Arrays]:
    """The spec and the arrays that `save` wrote into ``path`` as ``kind``.

    The file is read once, into memory of its own, and the arrays are views of that memory: writable, in no way tied to
    the file.

    Raises
    ------
    FileNotFoundError
        where there is no such file; the message has the closest names in its folder.
    CorruptFile
        (a ``ValueError``) for a file that is cut short, has a changed bit, or was not written by `save`.
    ValueError
        for a file of another kind, or one made by a newer nuinfer.
    """
    path = Path(path)
    content = _read(path)
    header = _opened(path, content)
    meta = json.loads(header.pop("__metadata__")["nuinfer"])
    meta, arrays = _migrated(path, meta, _views(path, header, content))
    if meta["kind"] != kind:
        raise ValueError(f"{path}: expected a file of kind {kind!r}, found one of kind {meta['kind']!r}")
    return dict(meta["spec"]), arrays


def write_atomically(path: str | os.PathLike[str], write: Callable[[Path], object]) -> None:
    """Call ``write(temporary)`` and put what it wrote in the place of ``path``, whole or not at all.

    ``temporary`` is a hidden file of the same suffix in the folder of ``path``, which is made if needed.  After
    ``write`` it is forced to the disk and renamed; if ``write`` raises, it is removed and ``path`` stays as it was.  A
    link is followed: the file that it points to is replaced.

    >>> import tempfile, pathlib
    >>> path = pathlib.Path(tempfile.mkdtemp()) / "note.txt"
    >>> write_atomically(path, lambda temporary: temporary.write_text("whole"))
    >>> path.read_text()
    'whole'
    """
    target = Path(os.path.realpath(path))
    target.parent.mkdir(parents=True, exist_ok=True)
    temporary = target.with_name(f".{target.stem}.{secrets.token_hex(4)}.part{target.suffix}")
    try:
        with open(temporary, "xb") as made:
            mode = os.fstat(made.fileno()).st_mode & 0o777  # as the user's umask wants it; some writers make 0600
        write(temporary)
        os.chmod(temporary, mode)
        with open(temporary, "r+b") as written:
            os.fsync(written.fileno())
        os.replace(temporary, target)
    finally:
        temporary.unlink(missing_ok=True)
    _sync_folder(target.parent)


# -- writing -----------------------------------------------------------------------------------------------------------


def _versions() -> dict[str, str]:
    """The versions that made a file: for a human reader, nothing depends on them."""
    loaded = {name: sys.modules[name] for name in ("nuinfer", "numpy", "torch") if name in sys.modules}
    found: dict[str, str] = {name: str(getattr(module, "__version__", "unknown")) for name, module in loaded.items()}
    return {**found, "python": platform.python_version()}


def _json(where: str, value: Any) -> Any:
    """``value`` in plain JSON types, or an error that names the place of what JSON would lose or change."""
    if isinstance(value, np.generic) and value.dtype.kind in "biuf":
        value = value.item()
    if value is None or type(value) in (bool, int, str):
        return value
    if type(value) is float:
        if not math.isfinite(value):
            raise ValueError(f"{where}: expected a finite number, found {value}; put None, or an array, in its place")
        return value
    if isinstance(value, (list, tuple)):
        return [_json(f"{where}[{i}]", item) for i, item in enumerate(value)]
    if isinstance(value, Mapping):
        return {_key(where, key): _json(f"{where}[{key!r}]", item) for key, item in value.items()}
    raise TypeError(
        f"{where}: expected JSON (None, bool, int, float, str, list, dict), found {type(value).__name__}; "
        f"convert it, or save it as an array"
    )


def _key(where: str, key: object) -> str:
    if type(key) is not str:
        raise TypeError(f"{where}: expected string keys, found {key!r}; JSON has no others")
    return key


def plain(what: str, array: Any) -> Array:
    """A C-contiguous array in native byte order, not copied where it already is; ``TypeError`` for other types."""
    if not isinstance(array, np.ndarray) or isinstance(array, np.ma.MaskedArray):
        raise TypeError(f"{what}: expected a numpy array, found {type(array).__name__}")
    native = array.dtype.newbyteorder("=")
    if native not in _PLAIN:
        raise TypeError(f"{what}: expected booleans, integers or floats of 16, 32 or 64 bits, found {array.dtype}")
    return np.asarray(array, dtype=native, order="C")


def _stamp(path: Path) -> None:
    """Fill in the digest of a freshly written file."""
    with open(path, "r+b") as file:
        start = file.read(_DIGEST.stop)
        if not (start[8:].startswith(_START) and start[_DIGEST] == _BLANK):
            raise RuntimeError(f"safetensors put the metadata in another place than expected: {start!r}")
        file.seek(0)
        digest = hashlib.file_digest(file, "sha256").hexdigest()
        file.seek(_DIGEST.start)
        file.write(digest.encode())


def _sync_folder(folder: Path) -> None:
    """Make a rename last through a power cut, where the system has a way to ask for it."""
    if os.name != "posix":
        return
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    except OSError:  # some network file systems refuse it for folders; the file itself is safe
        pass
    finally:
        os.close(handle)


# -- reading -----------------------------------------------------------------------------------------------------------


def _read(path: Path) -> NDArray[np.uint8]:
    if path.is_dir():
        raise FileNotFoundError(f"{path}: expected a file, found a folder")
    if not path.exists():
        raise FileNotFoundError(f"no file {path}; {_nearby(path)}")
    return np.fromfile(path, np.uint8)


def _nearby(path: Path) -> str:
    if not path.parent.is_dir():
        return f"its folder {path.parent} does not exist either"
    names = sorted(p.name for p in path.parent.iterdir() if p.is_file() and not p.name.startswith("."))
    return f"in its folder {path.parent}, {closest(path.name, names)}"


def _opened(path: Path, content: NDArray[np.uint8]) -> dict[str, Any]:
    """The safetensors header of a file whose digest is right."""
    if not content[8:].data[: len(_START)] == _START or len(content) < _DIGEST.stop:
        raise CorruptFile(f"{path}: expected a file saved by nuinfer, found another one, or one damaged at its start")
    stated = content[_DIGEST].tobytes()
    content[_DIGEST] = ord("0")
    if hashlib.sha256(content.data).hexdigest().encode() != stated:
        raise CorruptFile(
            f"{path}: its {len(content)} bytes do not have the sha256 written in it: it was cut short, damaged or "
            f"edited; take another copy, or make it again"
        )
    header: dict[str, Any] = json.loads(content[8 : 8 + _header_length(content)].tobytes())
    return header


def _header_length(content: NDArray[np.uint8]) -> int:
    return int.from_bytes(content[:8].tobytes(), "little")


def _views(path: Path, header: Mapping[str, Any], content: NDArray[np.uint8]) -> Arrays:
    data = content[8 + _header_length(content) :]
    arrays: Arrays = {}
    for name, entry in header.items():
        if entry["dtype"] not in _DTYPES:
            raise CorruptFile(f"{path}: array {name!r} has the type {entry['dtype']}, which nuinfer never writes")
        first, last = entry["data_offsets"]
        arrays[name] = data[first:last].view(_DTYPES[entry["dtype"]]).reshape(entry["shape"])
    return arrays


def _migrated(path: Path, meta: Header, arrays: Arrays) -> tuple[Header, Arrays]:
    """Header and arrays brought, step by step, to the present format."""
    if meta["format"] > FORMAT:
        raise ValueError(
            f"{path}: made by a newer nuinfer ({meta['versions'].get('nuinfer', 'unknown')}): found format "
            f"{meta['format']}, this one reads up to {FORMAT}; update nuinfer"
        )
    for number in range(meta["format"], FORMAT):
        meta, arrays = MIGRATIONS[number](meta, arrays)
    return meta, arrays


def under(prefix: str, named: Mapping[str, Any]) -> dict[str, Any]:
    """Arrays with the prefix before their names: a part of several in one file.

    >>> within("rate.", under("rate.", {"a": 1}) | under("density.", {"b": 2}))
    {'a': 1}
    """
    return {f"{prefix}{name}": array for name, array in named.items()}


def within(prefix: str, named: Mapping[str, Any]) -> dict[str, Any]:
    """The inverse of `under`, of several."""
    return {name.removeprefix(prefix): array for name, array in named.items() if name.startswith(prefix)}
