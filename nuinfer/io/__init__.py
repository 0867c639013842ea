"""Files to events and back: ROOT, Parquet, HDF5, Feather and npz; streaming, caches; histograms, graphs, matrices.

Which function to use:

=========================================  ==========================================================================
`read_root`, `read_parquet`, ...           the events of one or many files, in memory
`open_events`                              the same, by the files' suffix
any of these with ``cache=``               memory-mapped events: a second reading costs nothing but the disk
`iterate`                                  files larger than memory, in chunks
`write_root`, `write_parquet`, ...         events, or a stream of them, to one file
`read_hist`, `read_graph`, `read_matrix`   single objects of a ROOT file
=========================================  ==========================================================================

All readers take the same options; `read_root` explains them.  Flat branches become flat columns, vectors and lists
ragged ones, fields ``cloud.field``, fixed-size arrays ``x[3]`` the columns ``x[0]``, ``x[1]``, ``x[2]``.  Types are
kept.
"""

from __future__ import annotations

import functools
import itertools
import os
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from ..events import Events, Ragged
from ..store import write_atomically
from .reading import Opener, Request, read, stream
from .sources import Place, Source, places
from .tables import Mark, Table

if TYPE_CHECKING:
    import hist

    from ..events import Floats
    from .objects import Graph

__all__ = [
    "iterate",
    "open_events",
    "read_feather",
    "read_graph",
    "read_hdf5",
    "read_hist",
    "read_matrix",
    "read_npz",
    "read_parquet",
    "read_root",
    "write_hdf5",
    "write_npz",
    "write_parquet",
    "write_root",
]

Columns = str | Sequence[str] | None
Folder = str | os.PathLike[str] | None
FilePath = str | os.PathLike[str]

_PIECE = 16e6  # bytes of events in one set of baskets or cluster: what a reader holds at the least
_ROW_GROUP = 8e6  # the same for Parquet, of which reading takes several times as much
_IN_FLIGHT = 10.0  # memory while streaming, over the size of one chunk; measured in benchmarks/io.py
_SIZE = re.compile(r"\s*([0-9.]+(?:[eE][+-]?[0-9]+)?)\s*([kMGT]?i?B)\s*", re.IGNORECASE)
_UNITS = {"B": 1.0, "KB": 1e3, "MB": 1e6, "GB": 1e9, "TB": 1e12}
_UNITS |= {"KIB": 2.0**10, "MIB": 2.0**20, "GIB": 2.0**30, "TIB": 2.0**40}


# -- formats ----------------------------------------------------------------------------------------------------------


def _open_root(place: Place, *, threads: int, streaming: bool) -> Table:
    from .root import open_table

    return open_table(place, threads=threads, streaming=streaming)


def _open_parquet(place: Place, *, threads: int, streaming: bool) -> Table:
    from .arrow import ParquetTable

    return ParquetTable(_whole_file(place), threads=threads, streaming=streaming)


def _open_feather(place: Place, *, threads: int, streaming: bool) -> Table:
    from .arrow import FeatherTable

    return FeatherTable(_whole_file(place), threads=threads, streaming=streaming)


def _open_hdf5(place: Place, *, threads: int, streaming: bool) -> Table:
    from .arrays import Hdf5Table

    return Hdf5Table(place, threads=threads, streaming=streaming)


def _open_npz(place: Place, *, threads: int, streaming: bool) -> Table:
    from .arrays import NpzTable

    return NpzTable(_whole_file(place), threads=threads, streaming=streaming)


_SUFFIXES: dict[str, Callable[..., Table]] = {
    ".root": _open_root,
    ".parquet": _open_parquet,
    ".pq": _open_parquet,
    ".h5": _open_hdf5,
    ".hdf5": _open_hdf5,
    ".hdf": _open_hdf5,
    ".feather": _open_feather,
    ".arrow": _open_feather,
    ".npz": _open_npz,
}


def _whole_file(place: Place) -> Place:
    if place.inner is not None:
        raise ValueError(f"{place}: expected a file without {':' + place.inner!r}; its format has no trees or groups")
    return place


def _open_any(place: Place, *, threads: int, streaming: bool, other: Callable[..., Table] | None = None) -> Table:
    """A table by the file's suffix; ``other`` opens those of unknown suffix."""
    open_table = _SUFFIXES.get(Path(place.path).suffix.lower(), other)
    if open_table is None:
        raise ValueError(f"{place.path}: expected a file with one of the suffixes {', '.join(_SUFFIXES)}; for others "
                         f"use read_root, read_parquet, read_hdf5, read_feather or read_npz")  # fmt: skip
    return open_table(place, threads=threads, streaming=streaming)


def _opener(open_table: Callable[..., Table], threads: Any, streaming: bool) -> Opener:
    if not isinstance(threads, int) or threads < 1:
        raise ValueError(f"threads: expected a whole number of at least 1, found {threads!r}")
    return functools.partial(open_table, threads=threads, streaming=streaming)


def _events(request: Request, cache: Folder) -> Events:
    if cache is None:
        return read(request)
    from .cache import read_cached

    return read_cached(request, cache)


def _request(
    open_table: Callable[..., Table],
    source: Source,
    columns: Columns,
    cut: str | None,
    aliases: Mapping[str, str] | None,
    weight: str | None,
    id: str | None,
    entries: tuple[int, int | None],
    friends: Source,
    *,
    threads: int = 1,
    streaming: bool = False,
) -> Request:
    opener = _opener(open_table, threads, streaming)
    beside = _opener(functools.partial(_open_any, other=open_table), threads, streaming)
    return Request(_listed(source), opener, beside, columns, cut, aliases, weight, id, *entries, _listed(friends))


def _listed(source: Source) -> Source:
    """The same source; a generator, which can be gone through only once, as a list."""
    return list(source) if isinstance(source, Iterator) else source


# -- reading ----------------------------------------------------------------------------------------------------------


def read_root(
    source: Source,
    columns: Columns = None,
    *,
    cut: str | None = None,
    aliases: Mapping[str, str] | None = None,
    weight: str | None = None,
    id: str | None = None,
    entry_start: int = 0,
    entry_stop: int | None = None,
    friends: Source = (),
    cache: Folder = None,
    threads: int = 1,
) -> Events:
    """The events of TTrees or RNTuples.

    Parameters
    ----------
    source:
        ``"file.root:tree"``, a glob ``"mc_*.root:tree"`` (its matches in sorted order), ``{path or glob: tree}``, or a
        list of these.  A tree that is alone in its file need not be named.
    columns:
        Names of columns: ``"pmu"``; ``"hits.x"`` for a field of a collection, ``"hits"`` for all its fields; ``"x[0]"``
        for an entry of a fixed-size array, ``"x"`` for all of them; ``"jet_*"`` for all that match.  Left out: all
        columns, except those that are the weight or the id.
    cut:
        A condition over columns and aliases, one value per event, such as
        ``"pmu > 0.3 and abs(costh) < 0.9 and count(hits.x) >= 3"``; see `nuinfer.io.expressions` for what it may hold.
        Only events that pass it are kept.
    aliases:
        New columns, ``{"pt": "hypot(px, py)"}``, in addition to ``columns``; they may use one another.
    weight:
        A column or an expression, ``"w * xsec / ngen"``; 1 if left out.  Any sign.
    id:
        A column or alias of integers that numbers the events.  Left out: a hash of what identifies the file and of the
        entry in it, which does not depend on the file's name and folder, nor on what is read of it.
    entry_start, entry_stop:
        The range of entries, counted over all files one after the other and before the cut; negative numbers count
        from the end.
    friends:
        Further sources, of the same total number of entries, whose columns are added entry by entry; a list means
        several friends, a glob or a mapping one friend of several files.  A friend's column that has the name of
        another is reached as ``"tree.name"``.  Friends may be files of other formats.
    cache:
        A folder for a memory-mapped copy of the result, made at the first reading (in bounded memory) and used as long
        as the files and the request stay the same; the columns are then read-only ``numpy.memmap``.
    threads:
        Threads that decompress.

    Returns
    -------
    Events
        possibly none, with all columns, where no event passes the cut.

    Raises
    ------
    FileNotFoundError
        for a missing file, or a glob that matches nothing.
    KeyError
        for a tree or a column that is not there, with the closest names.
    ValueError
        for several trees of which none is named, a syntax error, weights that are not finite, friends of another
        length, files that differ in a column's type, and ``CorruptFile`` for a truncated or damaged file.
    TypeError
        for a ragged column used as a flat one, or a column that holds neither numbers nor lists of numbers.

    Examples
    --------
    >>> import tempfile, pathlib, nuinfer as nu
    >>> path = pathlib.Path(tempfile.mkdtemp()) / "mc.root"
    >>> write_root(path, nu.Events({"px": [3.0, 0.3], "py": [4.0, 0.4]}, weight=[2.0, -1.0]))
    >>> read_root(f"{path}:events", aliases={"pt": "hypot(px, py)"}, cut="pt > 1")["pt"]
    array([5.])
    """
    entries = entry_start, entry_stop
    request = _request(_open_root, source, columns, cut, aliases, weight, id, entries, friends, threads=threads)
    return _events(request, cache)


def read_parquet(
    source: Source,
    columns: Columns = None,
    *,
    cut: str | None = None,
    aliases: Mapping[str, str] | None = None,
    weight: str | None = None,
    id: str | None = None,
    entry_start: int = 0,
    entry_stop: int | None = None,
    friends: Source = (),
    cache: Folder = None,
    threads: int = 1,
) -> Events:
    """The events of Parquet files; options and errors are those of `read_root`.

    Lists become ragged columns, lists of structures clouds, structures ``name.field``.  Files that `write_parquet` made
    know their weight and id.  Missing values (nulls) in a column that is read raise ``ValueError``.
    """
    entries = entry_start, entry_stop
    request = _request(_open_parquet, source, columns, cut, aliases, weight, id, entries, friends, threads=threads)
    return _events(request, cache)


def read_feather(
    source: Source,
    columns: Columns = None,
    *,
    cut: str | None = None,
    aliases: Mapping[str, str] | None = None,
    weight: str | None = None,
    id: str | None = None,
    entry_start: int = 0,
    entry_stop: int | None = None,
    friends: Source = (),
    cache: Folder = None,
) -> Events:
    """The events of Feather (version 2, Arrow IPC) files; options and errors are those of `read_root`."""
    entries = entry_start, entry_stop
    return _events(_request(_open_feather, source, columns, cut, aliases, weight, id, entries, friends), cache)


def read_hdf5(
    source: Source,
    columns: Columns = None,
    *,
    cut: str | None = None,
    aliases: Mapping[str, str] | None = None,
    weight: str | None = None,
    id: str | None = None,
    entry_start: int = 0,
    entry_stop: int | None = None,
    friends: Source = (),
    cache: Folder = None,
) -> Events:
    """The events of a group of HDF5 files, ``"file.h5:group"``; options and errors are those of `read_root`.

    Data sets (N,) are flat columns, (N, k) the columns ``x[0]``, ``x[1]``, ..., compound types and inner groups
    ``name.field``, variable-length data sets and pairs ``name/values``, ``name/offsets`` ragged columns.  Without a
    group: the one that `write_hdf5` wrote, else the whole file.
    """
    entries = entry_start, entry_stop
    return _events(_request(_open_hdf5, source, columns, cut, aliases, weight, id, entries, friends), cache)


def read_npz(
    source: Source,
    columns: Columns = None,
    *,
    cut: str | None = None,
    aliases: Mapping[str, str] | None = None,
    weight: str | None = None,
    id: str | None = None,
    entry_start: int = 0,
    entry_stop: int | None = None,
    friends: Source = (),
    cache: Folder = None,
) -> Events:
    """The events of npz files; options and errors are those of `read_root`.

    Arrays (N,) are flat columns, (N, k) the columns ``x[0]``, ``x[1]``, ..., members ``hits.x/values`` and
    ``hits.x/offsets`` together a ragged one.  Pickled arrays are refused.
    """
    entries = entry_start, entry_stop
    return _events(_request(_open_npz, source, columns, cut, aliases, weight, id, entries, friends), cache)


def open_events(
    source: Source,
    columns: Columns = None,
    *,
    cut: str | None = None,
    aliases: Mapping[str, str] | None = None,
    weight: str | None = None,
    id: str | None = None,
    entry_start: int = 0,
    entry_stop: int | None = None,
    friends: Source = (),
    cache: Folder = None,
    threads: int = 1,
) -> Events:
    """The events of files of any supported format, by their suffixes; options and errors are those of `read_root`."""
    entries = entry_start, entry_stop
    request = _request(_open_any, source, columns, cut, aliases, weight, id, entries, friends, threads=threads)
    return _events(request, cache)


def iterate(
    source: Source,
    columns: Columns = None,
    *,
    step: int | str = "100 MB",
    cut: str | None = None,
    aliases: Mapping[str, str] | None = None,
    weight: str | None = None,
    id: str | None = None,
    entry_start: int = 0,
    entry_stop: int | None = None,
    friends: Source = (),
    threads: int = 1,
) -> Iterator[Events]:
    """Files of any size and supported format in chunks of events, in bounded memory.

    Parameters
    ----------
    step:
        At most so many entries (before the cut) in a chunk, or, as a string like ``"100 MB"``, the memory that the
        stream may use: chunks are then made so small that the chunk in hand, the one being read and the buffers that
        this takes stay within it.  One basket of each branch, one cluster of an RNTuple, or one row group of a Parquet
        file has to fit in any case.
    source, columns, cut, aliases, weight, id, entry_start, entry_stop, friends, threads:
        As in `read_root`; the format follows from the suffix.

    Yields
    ------
    Events
        chunks that together are what `open_events` gives.  A chunk does not reach over two files, and may have no
        events where none passes the cut.

    Examples
    --------
    >>> import tempfile, pathlib, nuinfer as nu
    >>> path = pathlib.Path(tempfile.mkdtemp()) / "mc.parquet"
    >>> write_parquet(path, nu.Events({"x": [1.0, 2.0, 3.0]}))
    >>> [len(part) for part in iterate(path, step=2)]
    [2, 1]
    """
    per_chunk = _step(step)
    entries = entry_start, entry_stop
    request = _request(
        _open_any, source, columns, cut, aliases, weight, id, entries, friends, threads=threads, streaming=True
    )
    places(request.source)  # a missing file is an error here, not at the first step
    return stream(request, per_chunk)


def _step(step: int | str) -> int | float:
    """Events per chunk (int) or bytes per chunk (float)."""
    if isinstance(step, int) and not isinstance(step, bool) and step > 0:
        return step
    size = _SIZE.fullmatch(step) if isinstance(step, str) else None
    if not size:
        raise ValueError(f"step: expected a number of events of at least 1 or a size like '100 MB', found {step!r}")
    return float(size[1]) * _UNITS[size[2].upper()] / _IN_FLIGHT


# -- writing ----------------------------------------------------------------------------------------------------------


def write_root(
    path: FilePath,
    events: Events | Iterable[Events],
    *,
    tree: str = "events",
    layout: Literal["ttree", "rntuple"] = "ttree",
    compression: Literal["none", "zlib", "lz4", "zstd", "lzma"] = "zstd",
) -> None:
    """Write events, or a stream of them, as a TTree or RNTuple of the new file ``path``; `read_root` gives them back.

    Weight and id are written as the branches ``weight`` and ``id`` (``weight_``, ``id_`` where columns have these
    names), and the tree's title says so.  A ragged column ``hits.x`` of a TTree is a jagged branch with the counter
    ``nhits``; an RNTuple holds a cloud as a list of records.  An existing file is replaced once the new one is whole.

    Raises
    ------
    TypeError
        for types that ROOT does not have; ``ValueError`` for names with a slash, or parts with other columns.
    """
    _one_of("layout", layout, ("ttree", "rntuple"))
    _one_of("compression", compression, ("none", "zlib", "lz4", "zstd", "lzma"))
    from .root import write

    pieces, mark = _pieces(events, slash=False)
    write_atomically(path, lambda temporary: write(temporary, pieces, mark, tree, layout, compression))


def write_parquet(
    path: FilePath,
    events: Events | Iterable[Events],
    *,
    compression: Literal["none", "snappy", "gzip", "zstd", "lz4"] = "zstd",
) -> None:
    """Write events, or a stream of them, to the Parquet file ``path``; `read_parquet` gives them back to the bit.

    Weight and id are columns of these names, marked as such in the file's metadata.  A cloud is one column, a list of
    structures.  An existing file is replaced once the new one is whole.
    """
    _one_of("compression", compression, ("none", "snappy", "gzip", "zstd", "lz4"))
    from .arrow import write_parquet as write

    pieces, mark = _pieces(events, size=_ROW_GROUP)
    write_atomically(path, lambda temporary: write(temporary, pieces, mark, compression))


def write_hdf5(
    path: FilePath,
    events: Events | Iterable[Events],
    *,
    group: str = "events",
    compression: Literal["none", "gzip", "lzf"] = "none",
) -> None:
    """Write events, or a stream of them, to the group ``group`` of the new HDF5 file ``path``; see `read_hdf5`."""
    _one_of("compression", compression, ("none", "gzip", "lzf"))
    from .arrays import write_hdf5 as write

    pieces, mark = _pieces(events, slash=False)
    codec = None if compression == "none" else compression
    write_atomically(path, lambda temporary: write(temporary, pieces, mark, group, codec))


def write_npz(path: FilePath, events: Events, *, compress: bool = False) -> None:
    """Write events to the npz file ``path``: flat columns, and ``NAME/values`` and ``NAME/offsets`` of ragged ones."""
    from .arrays import write_npz as write

    pieces, mark = _pieces(events, slash=False)
    whole = Events.concat(list(pieces))
    write_atomically(path, lambda temporary: write(temporary, whole, mark, compress))


def _one_of(what: str, value: str, allowed: Sequence[str]) -> None:
    if value not in allowed:
        raise ValueError(f"{what}: expected one of {', '.join(allowed)}, found {value!r}")


def _pieces(
    events: Events | Iterable[Events], *, size: float = _PIECE, slash: bool = True
) -> tuple[Iterator[Events], Mark]:
    """The events in pieces of about ``size`` bytes, at least one, and the mark that the file is to bear."""
    parts: Iterator[Any] = iter([events] if isinstance(events, Events) else events)
    first: Any = next(parts, None)
    if not isinstance(first, Events):
        found = type(events if first is None else first).__name__
        raise TypeError(f"expected Events, or a stream of at least one, to write, found {found}")
    for name in first.columns:
        if not slash and "/" in name:
            raise ValueError(f"column {name!r}: expected a name without '/', which this format keeps for itself")
    own = (_free("weight", first), _free("id", first))
    return _cut_up(first, parts, size), Mark(*own, first.columns)


def _free(name: str, events: Events) -> str:
    while name in events:
        name += "_"
    return name


def _cut_up(first: Events, rest: Iterator[Events], size: float) -> Iterator[Events]:
    kinds = _kinds(first)
    for part in itertools.chain([first], rest):
        if _kinds(part) != kinds:
            differ = sorted({name for name, _ in set(_kinds(part).items()) ^ set(kinds.items())})
            raise ValueError(f"expected parts with the same columns and types, found others in {differ}")
        rows = max(int(size / _event_bytes(part)), 1)
        for start in range(0, max(len(part), 1), rows):
            yield part if len(part) <= rows else part.select(slice(start, start + rows))


def _kinds(events: Events) -> dict[str, tuple[bool, str]]:
    columns = ((name, events[name]) for name in events.columns)
    return {
        name: (isinstance(column, Ragged), str(column.values.dtype if isinstance(column, Ragged) else column.dtype))
        for name, column in columns
    }


def _event_bytes(events: Events) -> float:
    columns = [events[name] for name in events.columns]
    total = sum(c.values.nbytes + c.offsets.nbytes if isinstance(c, Ragged) else c.nbytes for c in columns)
    return 16.0 + float(total) / max(len(events), 1)


# -- single objects ---------------------------------------------------------------------------------------------------


def read_hist(source: Source) -> hist.Hist[Any]:
    """The histogram (TH1, TH2, TH3) ``"file.root:folder/name"`` as a ``hist.Hist`` with ``Weight`` storage.

    Contents and variances include under- and overflow.  The variances are the sums of squared weights where the file
    has them, else the contents, as ROOT has it.  One that is alone in its file need not be named.

    Raises
    ------
    KeyError
        for a name that is not there, with the closest ones; ``FileNotFoundError`` for a missing file.
    ValueError
        for something other than a histogram, or where there are several and none is named.
    """
    from .objects import hist_of

    return hist_of(source)


def read_graph(source: Source) -> Graph:
    """The points of a TGraph, TGraphErrors or TGraphAsymmErrors ``"file.root:folder/name"``.

    Returns
    -------
    Graph
        ``x``, ``y`` (N,) and ``x_error``, ``y_error`` (2, N), downwards and upwards, None where there are none.

    Raises
    ------
    KeyError, ValueError, FileNotFoundError
        as in `read_hist`.
    """
    from .objects import graph_of

    return graph_of(source)


def read_matrix(source: Source) -> Floats:
    """The matrix TMatrixT or TMatrixTSym ``"file.root:folder/name"`` as an array (rows, columns).

    Raises
    ------
    KeyError, ValueError, FileNotFoundError
        as in `read_hist`.
    """
    from .objects import matrix_of

    return matrix_of(source)
