"""Where events come from: ``"file.root:tree"``, globs, lists and ``{path: tree}``, made into a list of places."""

from __future__ import annotations

import glob
import hashlib
import os
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from ..errors import closest

__all__ = ["Place", "Source", "digest_of", "places"]

Source = Any  # str | PathLike | Mapping[str | PathLike, str | None] | Iterable of these

_BLOCKS, _BLOCK = 64, 4096


class Place(NamedTuple):
    """A file and, where named, what to read in it: a tree, a group."""

    path: str
    inner: str | None = None

    def __str__(self) -> str:
        return f"{self.path}:{self.inner}" if self.inner else self.path


def places(source: Source) -> list[Place]:
    """The places that ``source`` names, in order; what a glob matches is sorted by path.

    Raises
    ------
    FileNotFoundError
        for a file that is missing, with the closest names in its folder, or a glob that matches nothing.
    ValueError
        for no source at all, a folder, an address on the network, or a place that is named twice.
    """
    found = [place for text, inner in _entries(source) for place in _expanded(text, inner)]
    if not found:
        raise ValueError("expected at least one file to read, found an empty list")
    known: set[tuple[str, str | None]] = set()
    for place in found:
        key = (os.path.realpath(place.path), place.inner)
        if key in known:
            raise ValueError(f"{place} is named twice; its events would count twice")
        known.add(key)
    return found


def _entries(source: Source) -> Iterator[tuple[str, str | None]]:
    if isinstance(source, (str, os.PathLike)):
        yield _split(os.fspath(source))
    elif isinstance(source, Mapping):
        for path, inner in source.items():
            if inner is not None and not isinstance(inner, str):
                raise TypeError(f"source: expected {{path: tree}} with names of trees, found {inner!r} for {path!r}")
            yield os.fspath(path), inner
    elif isinstance(source, Iterable):
        for part in source:
            yield from _entries(part)
    else:
        raise TypeError(f"source: expected a path, a list of paths or {{path: tree}}, found {type(source).__name__}")


def _split(text: str) -> tuple[str, str | None]:
    """``"file.root:dir/tree"`` -> its two halves; a colon inside an existing path is part of it."""
    head, colon, inner = text.rpartition(":")
    if not colon or len(head) < 2 or os.path.exists(text) or glob.has_magic(inner):
        return text, None
    return head, inner or None


def _expanded(path: str, inner: str | None) -> list[Place]:
    if "://" in path:
        raise ValueError(f"{path}: expected a file of this machine, found an address; copy it here or mount it first")
    if os.path.isdir(path):
        raise ValueError(f"{path}: expected a file, found a folder; for all files in it: '{os.path.join(path, '*')}'")
    if os.path.exists(path):
        return [Place(path, inner)]
    matches = sorted(glob.glob(path, recursive=True)) if glob.has_magic(path) else []
    files = [Place(match, inner) for match in matches if not os.path.isdir(match)]
    if not files:
        raise _not_found(Path(path))
    return files


def _not_found(path: Path) -> FileNotFoundError:
    what = f"no file matches {path}" if glob.has_magic(str(path)) else f"no such file: {path}"
    folder = path.parent
    if glob.has_magic(str(folder)):
        return FileNotFoundError(what)
    if not folder.is_dir():
        return FileNotFoundError(f"{what}; there is no folder {folder} (from {Path.cwd()})")
    return FileNotFoundError(f"{what}; in {folder}: {closest(path.name, sorted(os.listdir(folder)))}")


def digest_of(path: str) -> str:
    """What identifies a file's contents, wherever it lies: a hash of its size and 64 evenly spaced blocks of 4 KiB."""
    size = os.path.getsize(path)
    digest = hashlib.blake2b(str(size).encode(), digest_size=16)
    with open(path, "rb") as file:
        for i in range(_BLOCKS):
            file.seek(max(size - _BLOCK, 0) * i // (_BLOCKS - 1))
            digest.update(file.read(_BLOCK))
    return digest.hexdigest()
