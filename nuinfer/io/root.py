"""ROOT files: TTrees and RNTuples as tables, and back.  The one place, with `objects`, that knows uproot.

uproot decompresses and interprets; what comes back is taken apart at the level of buffers, so that a jagged branch
costs no more here than there.  Event ids of a file hash its TFile UUID, the tree's name, and its numbers of entries
and bytes: they stay when a file is moved, renamed or copied, and when other objects are added to it; they change when
the file is made anew (by ``hadd``, by running the job again), unless the events carry an id of their own.
"""

from __future__ import annotations

import os
import struct
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from ..errors import CorruptFile, missing
from ..events import Column, Events, Ragged
from .sources import Place
from .tables import (
    Columns,
    Leaf,
    Mark,
    Table,
    components,
    from_zero,
    rebatched,
    split_array,
)

__all__ = ["open_file", "open_table"]

_MAGIC = {
    b"\x89HDF": "HDF5; use read_hdf5",
    b"PAR1": "Parquet; use read_parquet",
    b"PK\x03\x04": "a zip archive; use read_npz for .npz",
    b"ARROW1": "Feather; use read_feather",
    b"<!DOCTYPE": "a web page",
    b"<html": "a web page",
    b"version https://git": "a pointer of git LFS; run 'git lfs pull'",
}
_TREES = ("TTree", "TNtuple", "TNtupleD", "TChain", "ROOT::RNTuple")
_LISTS = "lists within lists; flatten them into one list per event where the file is made, or read them with uproot"
_TEXT = "text; give it a number where the file is made"


# -- files ------------------------------------------------------------------------------------------------------------


def open_file(path: str, *, threads: int = 1, streaming: bool = False) -> Any:
    """The open uproot file.

    Raises
    ------
    CorruptFile
        (a ``ValueError``) for a file that is not ROOT's, or shorter than its header says.
    """
    import uproot

    _check_whole(path)
    # pages of a memory-mapped file count as memory in use: stream through ordinary reads instead
    handler = uproot.source.file.MultithreadedFileSource if streaming else uproot.source.file.MemmapSource
    executor = uproot.ThreadPoolExecutor(threads) if threads > 1 else None
    with corrupt(path):
        return uproot.open(
            path, handler=handler, num_workers=1, array_cache=None, object_cache=None, decompression_executor=executor
        ).file


def _check_whole(path: str) -> None:
    size = os.path.getsize(path)
    with open(path, "rb") as file:
        head = file.read(20)
    if not head.startswith(b"root"):
        raise CorruptFile(f"{path}: expected a ROOT file, found {_looks_like(head)}")
    if len(head) == 20:
        version = struct.unpack(">i", head[4:8])[0]
        end = struct.unpack(">q", head[12:20])[0] if version >= 1_000_000 else struct.unpack(">i", head[12:16])[0]
        if size >= end:
            return
        found = f"{size} of {end} bytes"
    else:
        found = f"{size} bytes"
    raise CorruptFile(f"{path}: the file seems truncated, found {found}; was it copied whole, did its job end well?")


def _looks_like(head: bytes) -> str:
    for magic, kind in _MAGIC.items():
        if head.startswith(magic):
            return kind
    return f"one that begins with {head[:8]!r}" if head else "an empty one"


@contextmanager
def corrupt(what: str) -> Iterator[None]:
    """Whatever uproot and the decompressors raise on damaged bytes, as ``CorruptFile``."""
    try:
        yield
    except (MemoryError, CorruptFile):
        raise
    except Exception as error:
        text = " ".join(str(error).split())[:200]
        why = f"{type(error).__name__}: {text}"
        raise CorruptFile(
            f"{what}: cannot be read; the file seems damaged, or holds a type that uproot does not know ({why})"
        ) from error


def open_table(place: Place, *, threads: int = 1, streaming: bool = False) -> Table:
    """The TTree or RNTuple at ``place``; one that is alone in its file need not be named.

    Raises
    ------
    KeyError
        for a tree that is not there, with the closest names.
    ValueError
        where there are several trees and none is named, or the name is that of something else.
    """
    file = open_file(place.path, threads=threads, streaming=streaming)
    try:
        name, is_ntuple = _chosen(place, file)
        with corrupt(f"{place.path}:{name}"):
            tree = file.root_directory[name]
    except BaseException:
        file.close()
        raise
    kind: Any = NTupleTable if is_ntuple else TreeTable
    return kind(f"{place.path}:{name}", name, tree, file)  # type: ignore[no-any-return]


def _chosen(place: Place, file: Any) -> tuple[str, bool]:
    with corrupt(place.path):
        classes = file.root_directory.classnames(cycle=False)  # of several cycles, the newest
    trees = {name: cls for name, cls in classes.items() if cls in _TREES}
    if not trees:
        raise ValueError(f"{place.path}: expected a tree in it, found none (it holds: {_shown(classes) or 'nothing'}); "
                         f"did the job that wrote it end well?")  # fmt: skip
    if place.inner is None:
        if len(trees) > 1:
            raise ValueError(f"{place.path}: found {len(trees)} trees, {_shown(trees)}; "
                             f"say which, for example '{place.path}:{next(iter(trees))}'")  # fmt: skip
        return next((name, cls == "ROOT::RNTuple") for name, cls in trees.items())
    name = place.inner.strip("/").split(";")[0]
    if name in classes and name not in trees:
        raise ValueError(f"{place}: expected a tree, found a {classes[name]}; the file's trees: {_shown(trees)}"
                         f"; for histograms, graphs and matrices: read_hist, read_graph, read_matrix")  # fmt: skip
    if name not in trees:
        raise missing(f"tree in {place.path} named", name, trees)
    return place.inner.strip("/"), trees[name] == "ROOT::RNTuple"


def _shown(names: Mapping[str, str]) -> str:
    return ", ".join(f"{name!r}" for name in list(names)[:20]) + (", ..." if len(names) > 20 else "")


# -- forms and layouts of awkward arrays: which columns they make, and the columns ------------------------------------


def leaves_of(name: str, form: Any) -> dict[str, Leaf]:
    """The columns that an awkward form makes under ``name``."""
    if form.parameter("__array__") in ("string", "bytestring", "char"):
        return {name: Leaf(None, False, _TEXT)}
    if form.is_record:
        fields = zip(form.fields, form.contents, strict=True)
        return {leaf: kind for f, c in fields for leaf, kind in leaves_of(f"{name}.{f}", c).items()}
    if form.is_list and not form.is_regular:
        if form.content.parameter("__array__") in ("string", "bytestring", "char"):
            return {name: Leaf(None, True, "lists of text; give them numbers where the file is made")}
        return {leaf: _in_list(kind) for leaf, kind in leaves_of(name, form.content).items()}
    shape, inner = _fixed(form)
    if inner.is_numpy and np.dtype(inner.primitive).kind in "biuf":
        return {leaf: Leaf(np.dtype(inner.primitive), False) for leaf in components(name, shape)}
    return {name: Leaf(None, False, f"{form.type}, neither numbers nor booleans nor lists of them")}


def _in_list(kind: Leaf) -> Leaf:
    return Leaf(kind.dtype, True, kind.why or (_LISTS if kind.ragged else ""))


def _fixed(form: Any) -> tuple[tuple[int, ...], Any]:
    """The shape of a fixed-size array and the form of its entries."""
    shape: tuple[int, ...] = ()
    while form.is_regular:
        shape, form = (*shape, form.size), form.content
    if form.is_numpy and form.inner_shape:
        shape = (*shape, *form.inner_shape)
    return shape, form


def columns_of(name: str, layout: Any, wanted: set[str]) -> Iterator[tuple[str, Column]]:
    """The ``wanted`` columns of an awkward layout, by its buffers."""
    if layout.is_record:
        for field, content in zip(layout.fields, layout.contents, strict=True):
            below = f"{name}.{field}"
            if any(leaf == below or leaf.startswith((f"{below}.", f"{below}[")) for leaf in wanted):
                yield from columns_of(below, content[: layout.length], wanted)
    elif layout.is_list and not layout.is_regular:
        if not hasattr(layout, "offsets"):
            layout = layout.to_ListOffsetArray64(True)
        values, offsets = from_zero(layout.content, np.asarray(layout.offsets.data))
        for leaf, column in columns_of(name, values, wanted):
            yield leaf, Ragged(column, offsets)  # type: ignore[arg-type] # a list's content is flat: leaves_of refuses others
    else:
        import awkward as ak

        yield from split_array(name, ak.to_numpy(layout, allow_missing=False), wanted)


# -- TTree ------------------------------------------------------------------------------------------------------------


class TreeTable:
    """A TTree.

    Branches bear the names that ROOT gives them; where two in different groups are called alike, their paths with dots.
    """

    def __init__(self, label: str, name: str, tree: Any, file: Any) -> None:
        self.label, self._tree, self._file, self._name = label, tree, file, name
        self._branches = _named(tree)
        self._leaves: dict[str, Mapping[str, Leaf]] = {}
        self.mark = Mark.loads(label, tree.title)
        self._counters = _counters(self._branches) if self.mark else set()

    @property
    def identity(self) -> str:
        """UUID of the file, and name, entries and bytes of the tree."""
        tree = self._tree
        parts = (self._file.uuid, tree.object_path.split(";")[0], tree.num_entries, tree.member("fTotBytes"))
        return "/".join(map(str, parts))

    def heads(self) -> Sequence[str]:
        """The branches; of a tree that nuinfer wrote, without the counters of its ragged columns."""
        return [name for name in self._branches if name not in self._counters]

    def leaves(self, head: str) -> Mapping[str, Leaf]:
        """The columns of a branch."""
        if head not in self._leaves:
            branch = self._branches[head]
            try:
                self._leaves[head] = leaves_of(head, branch.interpretation.awkward_form(self._file))
            except Exception:  # uproot has a form for what it can read as an array, and many errors for the rest
                self._leaves[head] = {head: Leaf(None, False, f"{branch.typename}, which uproot makes no array of")}
        return self._leaves[head]

    def entries(self, names: Sequence[str]) -> int:
        """The tree's number of entries."""
        return int(self._tree.num_entries)

    def _heads_of(self, names: Sequence[str]) -> dict[str, set[str]]:
        """The columns wanted, by the branch that they come from."""
        found: dict[str, set[str]] = {}
        for name in names:
            head = next(h for h in _prefixes(name) if h in self._branches and name in self.leaves(h))
            found.setdefault(head, set()).add(name)
        return found

    def event_bytes(self, names: Sequence[str]) -> float:
        """From the branches' uncompressed sizes."""
        total = sum(self._branches[head].uncompressed_bytes for head in self._heads_of(names))
        return float(total / max(self._tree.num_entries, 1))

    def chunks(self, names: Sequence[str], start: int, stop: int, step: int | None) -> Iterator[Columns]:
        """Branch by branch if in one piece, else by uproot's iterator, which keeps baskets that straddle two pieces."""
        heads = self._heads_of(names)
        if step is None or start >= stop:
            with corrupt(self.label):
                whole = [_ordered(names, [self._branch(head, heads[head], start, stop) for head in heads])]
            yield whole.pop()
            return
        found = {self._branches[head].cache_key: head for head in heads}
        # by path and interpretation: with filters, uproot's iterator gives two branches of one name only once
        paths = {path: found[b.cache_key] for path, b in self._tree.iteritems() if b.cache_key in found}
        expressions = {path: self._branches[head].interpretation for path, head in paths.items()}
        pieces = self._tree.iterate(expressions, how=dict, step_size=step, entry_start=start, entry_stop=stop)
        while (columns := [self._next(names, pieces, paths, heads)])[0] is not None:
            yield columns.pop()  # and hold no reference to it while the next piece is read

    def _branch(self, head: str, wanted: set[str], start: int, stop: int) -> Columns:
        """The columns of one branch."""
        plain = all(not kind.ragged and not leaf.startswith(f"{head}.") for leaf, kind in self.leaves(head).items())
        array = self._branches[head].array(entry_start=start, entry_stop=stop, library="np" if plain else "ak")
        return dict(split_array(head, array, wanted)) if plain else _taken(head, array.layout, wanted)

    def _next(
        self, names: Sequence[str], pieces: Iterator[Any], paths: Mapping[str, str], heads: Mapping[str, set[str]]
    ) -> Any:
        with corrupt(self.label):
            piece = next(pieces, None)
            if piece is None:
                return None
            return _ordered(names, [_taken(head, piece[path].layout, heads[head]) for path, head in paths.items()])

    def close(self) -> None:
        """Close the file."""
        self._file.close()


def _taken(head: str, layout: Any, wanted: set[str]) -> Columns:
    return dict(columns_of(head, layout, wanted))


def _ordered(names: Sequence[str], parts: Sequence[Columns]) -> Columns:
    found = {name: column for part in parts for name, column in part.items()}
    return {name: found[name] for name in names}


def _prefixes(name: str) -> Iterator[str]:
    """``a.b[0]`` -> ``a.b[0]``, ``a.b``, ``a``."""
    yield name
    for i in range(len(name) - 1, 0, -1):
        if name[i] in ".[":
            yield name[:i]


def _named(tree: Any) -> dict[str, Any]:
    """The branches that hold data, by name."""
    leaves = [(path, branch) for path, branch in tree.iteritems() if not branch.branches]
    short: dict[str, int] = {}
    for _, branch in leaves:
        short[branch.name] = short.get(branch.name, 0) + 1
    return {branch.name if short[branch.name] == 1 else path.replace("/", "."): branch for path, branch in leaves}


def _counters(branches: Mapping[str, Any]) -> set[str]:
    counters = (branch.count_branch for branch in branches.values())
    return {counter.name for counter in counters if counter is not None}


# -- RNTuple ----------------------------------------------------------------------------------------------------------


class NTupleTable:
    """An RNTuple: records and lists of records are opened to ``record.field``."""

    def __init__(self, label: str, name: str, ntuple: Any, file: Any) -> None:
        self.label, self._ntuple, self._file, self._name = label, ntuple, file, name
        with corrupt(label):
            self.mark = Mark.loads(label, ntuple.description)
            self._fields = {field.name: field for field in ntuple.fields}
        self._leaves: dict[str, Mapping[str, Leaf]] = {}

    @property
    def identity(self) -> str:
        """UUID of the file, and name, entries and size of the RNTuple."""
        size = sum(c.num_entries * (i + 1) for i, c in enumerate(self._ntuple.cluster_summaries))
        return "/".join(map(str, (self._file.uuid, self._name.split(";")[0], self._ntuple.num_entries, size)))

    def heads(self) -> Sequence[str]:
        """The fields at the top."""
        return list(self._fields)

    def leaves(self, head: str) -> Mapping[str, Leaf]:
        """The columns of a field."""
        if head not in self._leaves:
            try:
                form, _ = self._ntuple.to_akform(filter_field=_under([head]))
                self._leaves[head] = leaves_of(head, form.content(head))
            except Exception:  # uproot refuses some types by many errors
                typename = self._fields[head].typename
                self._leaves[head] = {head: Leaf(None, False, f"{typename}, which uproot makes no array of")}
        return self._leaves[head]

    def entries(self, names: Sequence[str]) -> int:
        """The number of entries."""
        return int(self._ntuple.num_entries)

    def event_bytes(self, names: Sequence[str]) -> float:
        """From the first cluster."""
        clusters = self._ntuple.cluster_summaries
        if not clusters or not clusters[0].num_entries:
            return 1.0
        form, _ = self._ntuple.to_akform(filter_field=_under(names))
        columns = [int(key.split("-")[1]) for key in _column_keys(form)]
        pages = [self._ntuple.page_link_list[0][column].pages for column in columns]
        elements = sum(page.num_elements for column in pages for page in column)
        return float(8.0 * elements / clusters[0].num_entries)

    def chunks(self, names: Sequence[str], start: int, stop: int, step: int | None) -> Iterator[Columns]:
        """Whole clusters, as many as fit into ``step``; a larger one is read once and cut up."""
        if step is None or start >= stop:
            yield self._read(names, start, stop)
        else:
            yield from rebatched((self._read(names, a, b) for a, b in self._ranges(start, stop, step)), step)

    def _ranges(self, start: int, stop: int, step: int) -> Iterator[tuple[int, int]]:
        first = last = start
        for cluster in self._ntuple.cluster_summaries:
            end = min(int(cluster.num_first_entry + cluster.num_entries), stop)
            if end <= start:
                continue
            if last > first and end - first > step:
                yield first, last
                first = last
            last = end
        if last > first:
            yield first, last

    def _read(self, names: Sequence[str], start: int, stop: int) -> Columns:
        with corrupt(self.label):
            array = self._ntuple.arrays(filter_field=_under(names), entry_start=start, entry_stop=stop)
            fields = zip(array.layout.fields, array.layout.contents, strict=True)
            found = [_taken(field, content[: len(array)], set(names)) for field, content in fields]
            return _ordered(names, found)

    def close(self) -> None:
        """Close the file."""
        self._file.close()


def _under(names: Sequence[str]) -> Callable[[Any], bool]:
    """A filter for the fields that ``names``, with or without an array's index, come from."""
    paths = {name.partition("[")[0] for name in names} | set(names)
    return lambda field: field.path is not None and field.path in paths


def _column_keys(form: Any) -> Iterator[str]:
    if form.form_key and form.form_key.startswith("column-"):
        yield form.form_key
    for content in form.contents if form.is_record else [form.content] if hasattr(form, "content") else []:
        yield from _column_keys(content)


# -- writing ----------------------------------------------------------------------------------------------------------


def write(path: Path, pieces: Iterator[Events], mark: Mark, tree: str, layout: str, compression: str) -> None:
    """Write pieces of events of equal columns into the new file ``path``; see `nuinfer.io.write_root`."""
    import uproot

    codec = {"none": None, "zlib": uproot.ZLIB(1), "lz4": uproot.LZ4(1), "zstd": uproot.ZSTD(1), "lzma": uproot.LZMA(1)}
    with uproot.recreate(path, compression=codec[compression]) as file:
        (_write_ntuple if layout == "rntuple" else _write_tree)(file, pieces, mark, tree)


def _write_tree(file: Any, pieces: Iterator[Events], mark: Mark, tree: str) -> None:
    first = next(pieces)
    columns = _with_own(first, mark)
    counters = _counter_names(columns)
    types = {name: _tree_type(name, column) for name, column in columns.items()}
    title = mark._replace(columns=()).dumps()  # the branches keep the order themselves
    out = file.mktree(tree, types, title, counter_name=counters.__getitem__, initial_basket_capacity=64)
    for piece in _then(first, pieces):
        if len(piece):
            out.extend({name: _tree_data(column) for name, column in _with_own(piece, mark).items()})


def _then(first: Events, rest: Iterator[Events]) -> Iterator[Events]:
    yield first
    yield from rest


def _with_own(events: Events, mark: Mark) -> Columns:
    return {**{name: events[name] for name in events.columns}, mark.weight: events.weight, mark.id: events.id}


def _counter_names(columns: Columns) -> dict[str, str]:
    """A name for each ragged column's counter: one for each cloud, and none that a column has."""
    counters: dict[str, str] = {}
    clouds: dict[tuple[str, int], str] = {}
    for name, column in columns.items():
        if isinstance(column, Ragged):
            cloud = name.rpartition(".")[0] or name
            known = clouds.get((cloud, id(column.offsets)))
            counter = known or f"n{cloud}"
            while known is None and (counter in columns or counter in clouds.values()):
                counter += "_"
            counters[name] = clouds[(cloud, id(column.offsets))] = counter
    return counters


def _tree_type(name: str, column: Column) -> Any:
    dtype = column.values.dtype if isinstance(column, Ragged) else column.dtype
    if dtype.itemsize > 8 or dtype == np.float16:
        raise TypeError(f"column {name!r}: a ROOT file has no type for {dtype}; convert it first")
    return f"var * {dtype.name}" if isinstance(column, Ragged) else dtype


def _tree_data(column: Column) -> Any:
    if not isinstance(column, Ragged):
        return column
    import awkward as ak

    offsets = ak.index.Index64(column.offsets)
    return ak.Array(ak.contents.ListOffsetArray(offsets, ak.contents.NumpyArray(column.values)))


def _write_ntuple(file: Any, pieces: Iterator[Events], mark: Mark, tree: str) -> None:
    import awkward as ak

    first = next(pieces)
    for name, column in _with_own(first, mark).items():
        _tree_type(name, column)
    start = _nested(_with_own(first, mark))
    out = file.mkrntuple(tree, start.layout.form, mark.dumps())
    for piece in _then(first, pieces):
        if len(piece):
            out.extend(ak.Array(_nested(_with_own(piece, mark))))


def _nested(columns: Columns) -> Any:
    """One awkward record array: ``cloud.x``, ``cloud.y`` as a list of records, other dots as records."""
    import awkward as ak

    groups: dict[str, Columns] = {}
    for name, column in columns.items():
        head, _, rest = name.partition(".")
        groups.setdefault(head, {})[rest] = column
    contents = [_group(head, group) for head, group in groups.items()]
    return ak.Array(ak.contents.RecordArray(contents, list(groups), length=len(next(iter(contents)))))


def _group(head: str, group: Columns) -> Any:
    import awkward as ak

    if "" in group:
        if len(group) > 1:
            other = next(rest for rest in group if rest)
            raise ValueError(f"an RNTuple cannot hold {head!r} beside '{head}.{other}'; rename one of the two columns")
        column = group[""]
        return _tree_data(column).layout if isinstance(column, Ragged) else ak.contents.NumpyArray(column)
    lists = [column for column in group.values() if isinstance(column, Ragged)]
    is_cloud = len(lists) == len(group) and all(c.offsets is lists[0].offsets for c in lists)
    if is_cloud and not any("." in rest for rest in group):
        fields = [ak.contents.NumpyArray(column.values) for column in lists]
        record = ak.contents.RecordArray(fields, list(group))
        return ak.contents.ListOffsetArray(ak.index.Index64(lists[0].offsets), record)
    return _nested(group).layout
