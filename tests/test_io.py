"""`nuinfer.io`: what was written comes back to the bit, through every path; everything else is refused with reasons."""

from __future__ import annotations

import itertools
import logging
import os
import shutil
import struct
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import awkward as ak
import h5py
import hist
import km3net_testdata
import numpy as np
import pyarrow as pa
import pyarrow.feather
import pyarrow.parquet as pq
import pytest
import uproot

from nuinfer import Events, Ragged, io
from nuinfer.errors import CorruptFile

GIBUU = km3net_testdata.data_path("gibuu/EventOutput.Pert.00000001.root")
N = 700


def ragged(rng: np.random.Generator, counts: np.ndarray, dtype: str) -> Ragged:
    values = rng.normal(size=counts.sum()) * 50
    return Ragged(values.astype(dtype) if dtype != "?" else values > 0, np.append(0, np.cumsum(counts)))


def make(n: int = N, seed: int = 1) -> Events:
    """Events with columns of every kind; values with NaN, infinities and the extremes of the integers among them."""
    rng = np.random.default_rng(seed)
    counts, others = rng.integers(0, 5, n), rng.integers(0, 3, n)
    x = rng.normal(size=n)
    x[: min(n, 3)] = [np.nan, -np.inf, -0.0][: min(n, 3)]
    columns: dict[str, Any] = {"x": x, "y": rng.normal(size=n).astype("f4"), "passed": rng.random(n) < 0.5}
    for dtype in ("i1", "u1", "i2", "u2", "i4", "u4", "i8", "u8"):
        info = np.iinfo(dtype)
        columns[dtype] = rng.integers(info.min, info.max, n, dtype=dtype, endpoint=True)
    columns |= {f"hits.{t}": ragged(rng, counts, t) for t in ("f8", "f4", "i4", "u1", "?")}
    columns |= {"jets": ragged(rng, others, "f8"), "truth.z": rng.normal(size=n)}
    return Events(columns, weight=rng.normal(size=n), id=rng.integers(-(2**63), 2**63 - 1, n))


EVENTS = make()


def check_same(found: Events, expected: Events) -> None:
    assert found.columns == expected.columns
    for name in expected.columns:
        a, b = found[name], expected[name]
        assert isinstance(a, Ragged) == isinstance(b, Ragged), name
        if isinstance(b, Ragged):
            assert a.offsets.dtype == np.int64
            assert np.array_equal(a.offsets, b.offsets), name
            a, b = a.values, b.values
        assert a.dtype == b.dtype, name
        assert a.tobytes() == b.tobytes(), name
    assert found.weight.tobytes() == expected.weight.tobytes()
    assert found.id.tobytes() == expected.id.tobytes()


def write_feather(path: Path, events: Events) -> None:
    """Feather comes from elsewhere; in batches of 100 rows."""
    io.write_parquet(path.with_suffix(".tmp"), events)
    pyarrow.feather.write_feather(pq.read_table(path.with_suffix(".tmp")), path, chunksize=100)


WRITERS: dict[str, Callable[[Path, Events], None]] = {
    "tree.root": io.write_root,
    "tuple.root": lambda path, events: io.write_root(path, events, layout="rntuple"),
    "a.parquet": io.write_parquet,
    "a.h5": io.write_hdf5,
    "a.npz": io.write_npz,
    "packed.npz": lambda path, events: io.write_npz(path, events, compress=True),
    "a.feather": write_feather,
}


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """The same events in every format."""
    folder = tmp_path_factory.mktemp("files")
    for name, write in WRITERS.items():
        write(folder / name, EVENTS)
    return {name: folder / name for name in WRITERS}


def write_tree(path: Path, columns: dict[str, Any], tree: str = "events", **others: dict[str, Any]) -> Path:
    """A TTree, and others, made by uproot alone, in baskets of 64 entries."""
    with uproot.recreate(path) as file:
        for name, data in {tree: columns, **others}.items():
            types = {name: _type_of(column) for name, column in data.items()}
            out = file.mktree(name, types)
            rows = len(next(iter(data.values())))
            for start in range(0, rows, 64):
                out.extend({k: v[start : start + 64] for k, v in data.items()})
    return path


def _type_of(column: Any) -> Any:
    if not isinstance(column, np.ndarray):
        return column.type.content
    return column.dtype if column.ndim == 1 else (column.dtype, column.shape[1:])


@pytest.fixture
def four(tmp_path: Path) -> Path:
    """A tree of four events: x = 0, 1, 2, 3, a weight that is once negative, jagged q."""
    q = ak.Array([[1.0, 2.0], [], [3.0], [4.0, 5.0, 6.0]])
    x = np.arange(4.0)
    return write_tree(
        tmp_path / "four.root", {"x": x, "w": np.array([1.0, -2.0, 3.0, 4.0]), "q": q, "run": np.arange(4)}
    )


# -- what was written comes back --------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", WRITERS)
class TestEveryFormat:
    def test_whole(self, files: dict[str, Path], name: str) -> None:
        check_same(io.open_events(files[name]), EVENTS)

    def test_by_its_own_reader(self, files: dict[str, Path], name: str) -> None:
        readers = {".root": io.read_root, ".parquet": io.read_parquet, ".h5": io.read_hdf5, ".npz": io.read_npz,
                   ".feather": io.read_feather}  # fmt: skip
        check_same(readers[files[name].suffix](files[name]), EVENTS)

    @pytest.mark.parametrize(
        ("start", "stop"), [(0, 100), (63, 65), (100, None), (-50, None), (10, -10), (650, 9999), (5, 5)]
    )
    def test_ranges(self, files: dict[str, Path], name: str, start: int, stop: int | None) -> None:
        check_same(io.open_events(files[name], entry_start=start, entry_stop=stop), EVENTS.select(slice(start, stop)))

    @pytest.mark.parametrize("step", [1 + N // 3, 64, N, 10**9, "40 kB", "1 GB"])
    def test_stream_is_the_whole(self, files: dict[str, Path], name: str, step: int | str) -> None:
        parts = list(io.iterate(files[name], step=step))
        check_same(Events.concat(parts), EVENTS)
        if isinstance(step, int):
            assert max(map(len, parts)) <= step
        assert (len(parts) > 3) == (step in (64, "40 kB"))

    def test_stream_of_a_range(self, files: dict[str, Path], name: str) -> None:
        parts = list(io.iterate(files[name], step=50, entry_start=120, entry_stop=-130, cut="y > 0"))
        expected = EVENTS.select(slice(120, -130))
        check_same(Events.concat(parts), expected.select(expected["y"] > 0))

    def test_columns_cut_alias_weight(self, files: dict[str, Path], name: str) -> None:
        found = io.open_events(files[name], ["hits.f8", "x"], cut="i2 < 0 and count(jets) > 0", weight="y * 2",
                               aliases={"r": "hypot(y, i1)"})  # fmt: skip
        keep = (EVENTS["i2"] < 0) & (EVENTS["jets"].counts > 0)
        expected = EVENTS.select(keep)
        r = np.hypot(expected["y"], expected["i1"].astype(np.int64))
        check_same(found, expected.keep(["hits.f8", "x"]).with_columns(r=r).with_weight(expected["y"] * np.float32(2)))

    def test_cache_is_the_same(self, files: dict[str, Path], name: str, tmp_path: Path) -> None:
        for _ in range(2):
            check_same(io.open_events(files[name], cache=tmp_path), EVENTS)

    def test_no_events(self, tmp_path: Path, name: str) -> None:
        empty = EVENTS.select(slice(0, 0))
        WRITERS[name](tmp_path / name, empty)
        check_same(io.open_events(tmp_path / name), empty)
        assert [len(part) for part in io.iterate(tmp_path / name)] == [0]

    def test_empty_selection_keeps_the_columns(self, files: dict[str, Path], name: str) -> None:
        check_same(io.open_events(files[name], cut="y > 1e9"), EVENTS.select(slice(0, 0)))

    def test_cloud_shares_its_offsets(self, files: dict[str, Path], name: str) -> None:
        found = io.open_events(files[name], ["hits"])
        assert found.columns == tuple(c for c in EVENTS.columns if c.startswith("hits."))
        assert len({id(found[column].offsets) for column in found}) == 1

    def test_missing_column(self, files: dict[str, Path], name: str) -> None:
        with pytest.raises(KeyError, match=r"no column of .* named 'hits\.f9'; closest: 'hits\.f8'"):
            io.open_events(files[name], ["hits.f9"])

    def test_truncated(self, files: dict[str, Path], name: str, tmp_path: Path) -> None:
        content = files[name].read_bytes()
        for part in (len(content) // 2, 10, 0):
            cut = tmp_path / f"cut{part}_{name}"
            cut.write_bytes(content[:part])
            with pytest.raises(CorruptFile, match=r"truncated|an empty one"):
                io.open_events(cut)

    def test_a_column_named_weight(self, tmp_path: Path, name: str) -> None:
        events = Events({"weight": [1.0, 2.0], "id": [3, 4], "weight_": [5.0, 6.0]}, weight=[-1, 1], id=[7, 8])
        WRITERS[name](tmp_path / name, events)
        check_same(io.open_events(tmp_path / name), events)

    def test_bits_of_ragged_only(self, tmp_path: Path, name: str) -> None:
        events = Events({"a": Ragged.of([[np.nan, 1], [], [-0.0]])}, weight=[1, 2, 3])
        WRITERS[name](tmp_path / name, events)
        check_same(io.open_events(tmp_path / name), events)


@pytest.mark.parametrize("write", [io.write_root, io.write_parquet, io.write_hdf5])
def test_written_from_a_stream(write: Callable[..., None], tmp_path: Path) -> None:
    name = tmp_path / {io.write_root: "a.root", io.write_parquet: "a.parquet", io.write_hdf5: "a.h5"}[write]
    write(name, (EVENTS.select(slice(a, a + 150)) for a in range(0, N, 150)))
    check_same(io.open_events(name), EVENTS)


@pytest.mark.parametrize("compression", ["none", "zlib", "lz4", "zstd", "lzma"])
@pytest.mark.parametrize("layout", ["ttree", "rntuple"])
def test_root_compressions(tmp_path: Path, layout: Any, compression: Any) -> None:
    io.write_root(tmp_path / "a.root", EVENTS, layout=layout, compression=compression, tree="sub/tree")
    check_same(io.read_root(f"{tmp_path}/a.root:sub/tree", threads=2), EVENTS)


def test_other_compressions(tmp_path: Path) -> None:
    for codec in ("none", "snappy", "gzip", "zstd", "lz4"):
        io.write_parquet(tmp_path / "a.parquet", EVENTS, compression=codec)
        check_same(io.read_parquet(tmp_path / "a.parquet", threads=2), EVENTS)
    for codec in ("none", "gzip", "lzf"):
        io.write_hdf5(tmp_path / "a.h5", EVENTS, compression=codec, group="mc")
        check_same(io.read_hdf5(f"{tmp_path}/a.h5:mc"), EVENTS)


def test_several_pieces_per_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(io, "_PIECE", 5e3)
    io.write_root(tmp_path / "a.root", io.open_events(_parquet_of_pieces(tmp_path, monkeypatch)))
    check_same(io.read_root(tmp_path / "a.root"), EVENTS)


def _parquet_of_pieces(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    for rows, part in enumerate(EVENTS.select(slice(a, a + 90)) for a in range(0, N, 90)):
        assert len(part) or rows
    io.write_parquet(tmp_path / "a.parquet", (EVENTS.select(slice(a, a + 90)) for a in range(0, N, 90)))
    assert pq.ParquetFile(tmp_path / "a.parquet").num_row_groups == -(-N // 90)
    check_same(io.read_parquet(tmp_path / "a.parquet", entry_start=89, entry_stop=271), EVENTS.select(slice(89, 271)))
    return tmp_path / "a.parquet"


# -- ROOT files of others ---------------------------------------------------------------------------------------------


def test_gibuu_is_what_uproot_reads() -> None:
    found = io.read_root(GIBUU, weight="weight")
    with uproot.open(GIBUU) as file:
        expected = file["RootTuple"].arrays(library="ak", how=dict)
    assert set(found.columns) == set(expected) - {"weight"}
    assert np.array_equal(found.weight, expected["weight"].to_numpy())
    assert (found.weight < 0).sum() == 5
    for name in found.columns:
        column = found[name]
        if isinstance(column, Ragged):
            assert np.array_equal(column.values, ak.to_numpy(ak.flatten(expected[name])))
            assert np.array_equal(column.counts, ak.to_numpy(ak.num(expected[name])))
            assert column.values.dtype == ak.to_numpy(ak.flatten(expected[name])).dtype
            assert column.offsets is found["Px"].offsets
        else:
            assert np.array_equal(column, expected[name].to_numpy())
    check_same(Events.concat(list(io.iterate(GIBUU, weight="weight", step=999))), found)


def test_gibuu_expressions() -> None:
    found = io.read_root(GIBUU, ["lepOut_E"], weight="weight", cut="count(barcode) >= 2 and any(barcode == 2212)",
                         aliases={"protons": "sum(barcode == 2212)", "p": "sqrt(Px**2 + Py**2 + Pz**2)"})  # fmt: skip
    whole = io.read_root(GIBUU).to_awkward()
    keep = (ak.num(whole.barcode) >= 2) & ak.any(whole.barcode == 2212, axis=1)
    assert found.columns == ("lepOut_E", "protons", "p")
    assert np.array_equal(found["protons"], ak.sum(whole.barcode == 2212, axis=1)[keep])
    p = np.sqrt(whole.Px**2 + whole.Py**2 + whole.Pz**2)[keep]
    assert np.array_equal(found["p"].values, ak.to_numpy(ak.flatten(p)))


def test_split_classes() -> None:
    path = km3net_testdata.data_path("offline/km3net_offline.root") + ":E"
    found = io.read_root(path, ["hits", "trks.E", "mc_t"])
    with uproot.open(path) as tree:
        assert np.array_equal(found["hits.id"].values, ak.flatten(tree["Evt/hits/hits.id"].array()))
        assert np.array_equal(found["trks.E"].values, ak.flatten(tree["Evt/trks/trks.E"].array()))
    assert found["hits.pos.x"].offsets is not found["trks.E"].offsets
    check_same(Events.concat(list(io.iterate(path, ["hits", "trks.E", "mc_t"], step=3))), found)
    with pytest.raises(
        TypeError, match=r"'trks.fitinf' cannot be a column, it holds lists within lists; flatten .*; name"
    ):
        io.read_root(path, ["trks.fitinf"])
    with pytest.raises(
        TypeError, match=r"'trks\.\w+' cannot be a column, .*; name the columns that you want, .* among"
    ):
        io.read_root(path, ["trks"])
    with pytest.raises(TypeError, match=r"cannot be a column"):
        io.read_root(path)


def test_newest_cycle() -> None:
    path = km3net_testdata.data_path("oscillations/ORCA6_433kt-y_opendata_v0.5_testdata.root")
    found = io.read_root(f"{path}:binned_nu_response", ["W", "IsCC"])
    with uproot.open(path) as file:
        assert np.array_equal(found["W"], file["binned_nu_response"]["W"].array(library="np"))
    assert len(io.read_root(f"{path}:binned_nu_response;1", ["W"])) > 0
    with pytest.raises(ValueError, match=r"found 3 trees, 'binned_nu_response'.*say which"):
        io.read_root(path)
    with pytest.raises(ValueError, match=r"expected a tree, found a TAxis.*trees: 'binned_nu_response'"):
        io.read_root(f"{path}:E_true_axis")


def test_fixed_size_arrays(tmp_path: Path) -> None:
    rng = np.random.default_rng(1)
    p, m = rng.normal(size=(150, 3)), rng.integers(0, 9, (150, 2, 2)).astype("i2")
    path = write_tree(tmp_path / "a.root", {"p": p, "m": m, "x": p[:, 0].astype("f4")})
    found = io.read_root(path)
    assert found.columns == ("p[0]", "p[1]", "p[2]", "m[0][0]", "m[0][1]", "m[1][0]", "m[1][1]", "x")
    for i in range(3):
        assert np.array_equal(found[f"p[{i}]"], p[:, i])
        assert found[f"p[{i}]"].flags.c_contiguous
    assert np.array_equal(found["m[1][0]"], m[:, 1, 0])
    assert found["m[1][0]"].dtype == np.int16
    assert io.read_root(path, ["p[1]", "m[0]"], cut="p[0] > 0").columns == ("p[1]", "m[0][0]", "m[0][1]")
    assert len(io.read_root(path, ["x"], cut="p[0] > 0")) == (p[:, 0] > 0).sum()
    with uproot.recreate(tmp_path / "n.root") as file:
        file.mkrntuple("events", ak.Array({"p": ak.from_numpy(p, regulararray=True)}))
    assert np.array_equal(io.read_root(tmp_path / "n.root", ["p[2]"])["p[2]"], p[:, 2])


def test_rntuple_of_others(tmp_path: Path) -> None:
    hits = ak.Array([[{"x": 1.0, "n": 1}], [], [{"x": 2.0, "n": 2}, {"x": 3.0, "n": 3}]])
    data = ak.Array({"hits": hits, "vertex": ak.Array([{"z": 1.0, "t": 4}] * 3), "name": ["a", "b", "c"],
                     "deep": ak.Array([[[1.0]], [], [[2.0], []]])})  # fmt: skip
    with uproot.recreate(tmp_path / "a.root") as file:
        file.mkrntuple("events", data)
    found = io.read_root(tmp_path / "a.root", ["hits", "vertex.z"])
    assert found.columns == ("hits.x", "hits.n", "vertex.z")
    assert found["hits.n"].values.tolist() == [1, 2, 3]
    assert found["hits.n"].counts.tolist() == [1, 0, 2]
    with pytest.raises(TypeError, match=r"'name' cannot be a column, it holds text"):
        io.read_root(tmp_path / "a.root")
    with pytest.raises(TypeError, match=r"'deep' cannot be a column, it holds lists within lists; flatten"):
        io.read_root(tmp_path / "a.root", ["deep"])


def test_counters_of_others_are_columns(tmp_path: Path) -> None:
    path = write_tree(tmp_path / "a.root", {"q": ak.Array([[1.0], [2.0, 3.0]])})
    assert io.read_root(path)["nq"].tolist() == [1, 2]


def test_text_branch(tmp_path: Path) -> None:
    path = tmp_path / "a.root"
    with uproot.recreate(path) as file:
        file.mktree("events", {"x": np.arange(2.0), "name": ak.Array(["a", "b"])})
    with pytest.raises(TypeError, match=r"'name' cannot be a column, it holds text.*for example among x"):
        io.read_root(path)
    assert io.read_root(path, "x").columns == ("x",)


# -- sources ----------------------------------------------------------------------------------------------------------


@pytest.fixture
def parts(tmp_path: Path) -> tuple[Path, Events]:
    """Three files in two folders, and what they hold together."""
    (tmp_path / "more").mkdir()
    rng = np.random.default_rng(3)
    x, counts = rng.normal(size=300), rng.integers(0, 4, 300)
    q = ak.unflatten(rng.normal(size=counts.sum()), counts)
    for name, a, b in (("mc_1", 0, 100), ("mc_2", 100, 110), ("more/mc_3", 110, 300)):
        write_tree(tmp_path / f"{name}.root", {"x": x[a:b], "q": q[a:b]}, "t")
    return tmp_path, Events({"x": x, "q": q})


def test_forms_of_sources(parts: tuple[Path, Events]) -> None:
    folder, events = parts
    one, two, three = (f"{folder}/{name}.root" for name in ("mc_1", "mc_2", "more/mc_3"))
    sources: list[Any] = [
        [f"{one}:t", f"{two}:t", f"{three}:t"], [one, Path(two), three], {one: "t", two: "t", three: None},
        f"{folder}/**/mc_*.root:t", [f"{folder}/mc_?.root:t", {three: "t"}], {f"{folder}/**/*.root": "t"},
        (str(path) for path in (one, two, three)), {Path(one): "t", Path(two): "t", Path(three): "t"},
    ]  # fmt: skip
    ids = set()
    for source in sources:
        found = io.read_root(source, ["x", "q"])
        check_same(found, Events({name: events[name] for name in ("x", "q")}, id=found.id))
        ids.add(found.id.tobytes())
    assert len(ids) == 1
    assert len(set(found.id.tolist())) == 300


@pytest.mark.parametrize(
    ("start", "stop"), [(0, 50), (99, 101), (105, 120), (100, 110), (-200, -195), (299, 400), (300, 400)]
)
def test_ranges_count_over_all_files(parts: tuple[Path, Events], start: int, stop: int) -> None:
    folder, _ = parts
    source, columns = f"{folder}/**/mc_*.root", ["x", "q"]
    whole = io.read_root(source, columns)
    check_same(io.read_root(source, columns, entry_start=start, entry_stop=stop), whole.select(slice(start, stop)))
    streamed = list(io.iterate(source, columns, step=7, entry_start=start, entry_stop=stop))
    check_same(Events.concat(streamed), whole.select(slice(start, stop)))


def test_a_short_range_opens_only_what_it_needs(parts: tuple[Path, Events]) -> None:
    folder, _ = parts
    (folder / "mc_9.root").write_bytes(b"not opened")
    assert len(io.read_root(f"{folder}/mc_*.root:t", ["x"], entry_stop=100)) == 100
    with pytest.raises(CorruptFile, match=r"mc_9.root: expected a ROOT file, found one that begins with b'not open'"):
        io.read_root(f"{folder}/mc_*.root:t", ["x"])


def test_bad_sources(four: Path) -> None:
    folder = four.parent
    with pytest.raises(FileNotFoundError, match=r"no such file: .*for.root; in .*: closest: 'four.root'"):
        io.read_root(folder / "for.root")
    with pytest.raises(FileNotFoundError, match=r"no such file: .*for.root; in"):
        io.read_root(f"{folder}/for.root:events")
    with pytest.raises(FileNotFoundError, match=r"no file matches .*mc_\*.root; in .*four.root"):
        io.read_root(f"{folder}/mc_*.root:events")
    with pytest.raises(FileNotFoundError, match=r"there is no folder .*nowhere"):
        io.read_root(folder / "nowhere" / "a.root")
    with pytest.raises(FileNotFoundError, match=r"no such file"):
        io.iterate(folder / "for.root")
    with pytest.raises(KeyError, match=r"no tree in .*four.root named 'event'; closest: 'events'"):
        io.read_root(f"{four}:event")
    with pytest.raises(ValueError, match=r"found a folder; for all files in it"):
        io.read_root(folder)
    with pytest.raises(ValueError, match=r"named twice; its events would count twice"):
        io.read_root([f"{folder}/*.root:events", f"{four}:events"])
    with pytest.raises(ValueError, match=r"at least one file to read, found an empty list"):
        io.read_root([])
    with pytest.raises(ValueError, match=r"expected a file of this machine, found an address"):
        io.read_root("root://server//store/a.root:events")
    with pytest.raises(TypeError, match=r"expected a path, a list of paths or {path: tree}, found int"):
        io.read_root(3)
    with pytest.raises(TypeError, match=r"with names of trees, found 3"):
        io.read_root({four: 3})


def test_trees_are_listed(tmp_path: Path) -> None:
    path = write_tree(tmp_path / "a.root", {"x": np.arange(3.0)}, "nominal", **{"sys/up": {"x": np.arange(4.0)}})
    with pytest.raises(
        ValueError, match=r"found 2 trees, 'nominal', 'sys/up'; say which, for example .*a.root:nominal'"
    ):
        io.read_root(path)
    assert len(io.read_root(f"{path}:sys/up")) == 4
    assert len(io.read_root(f"{path}:/sys/up;1")) == 4
    with uproot.recreate(tmp_path / "h.root") as file:
        file["h"] = np.histogram([1.0])
    with pytest.raises(ValueError, match=r"expected a tree in it, found none \(it holds: 'h'\)"):
        io.read_root(tmp_path / "h.root")


def test_formats_and_suffixes(files: dict[str, Path], tmp_path: Path) -> None:
    odd = shutil.copy(files["tree.root"], tmp_path / "job.root.1")
    check_same(io.read_root(odd), EVENTS)
    with pytest.raises(ValueError, match=r"job.root.1: expected a file with one of the suffixes .root, .parquet"):
        io.open_events(odd)
    with pytest.raises(CorruptFile, match=r"expected a ROOT file, found HDF5; use read_hdf5"):
        io.read_root(files["a.h5"])
    with pytest.raises(CorruptFile, match=r"found Parquet; use read_parquet"):
        io.read_root(files["a.parquet"])
    with pytest.raises(CorruptFile, match=r"not readable as Parquet"):
        io.read_parquet(files["tree.root"])
    with pytest.raises(ValueError, match=r"its format has no trees or groups"):
        io.read_parquet(f"{files['a.parquet']}:events")
    mixed = [files["tree.root"], files["a.parquet"], files["a.npz"]]
    check_same(io.open_events(mixed), Events.concat([EVENTS] * 3))


def test_files_that_differ(tmp_path: Path) -> None:
    x = np.arange(3.0)
    write_tree(tmp_path / "a.root", {"x": x, "n": np.arange(3)})
    write_tree(tmp_path / "b.root", {"x": x.astype("f4"), "n": np.arange(3), "y": x})
    with pytest.raises(ValueError, match=r"b.root:events: expected the columns of .*a.root.*differ in \['y'\]"):
        io.read_root(f"{tmp_path}/*.root")
    with pytest.raises(ValueError, match=r"column 'x' to be float64, as in the files before, found float32"):
        io.read_root(f"{tmp_path}/*.root", ["x"])
    with pytest.raises(KeyError, match=r"no column of .*a.root:events named 'y'"):
        io.read_root(f"{tmp_path}/*.root", ["y"])
    assert len(io.read_root(f"{tmp_path}/*.root", ["n"])) == 6


# -- columns, cuts, aliases, weights ----------------------------------------------------------------------------------


def test_patterns(files: dict[str, Path]) -> None:
    read = lambda *names: io.read_root(files["tree.root"], list(names)).columns  # noqa: E731
    assert read("u*") == ("u1", "u2", "u4", "u8")
    assert read("hits.?4") == ("hits.f4", "hits.i4")
    assert read("truth", "x", "x") == ("truth.z", "x")
    assert read("weight", "x") == ("weight", "x")
    assert "weight" not in read("*")
    assert read() == ()
    assert io.read_root(files["tree.root"], "x").columns == ("x",)
    with pytest.raises(KeyError, match=r"named 'z\*'"):
        read("z*")
    with pytest.raises(TypeError, match=r"columns: expected names of columns, found 3"):
        io.read_root(files["tree.root"], [3])


def test_weight_and_id_of_others(four: Path) -> None:
    found = io.read_root(four, weight="w", id="run")
    assert found.columns == ("x", "nq", "q")
    assert found.weight.tolist() == [1, -2, 3, 4]
    assert found.id.tolist() == [0, 1, 2, 3]
    assert io.read_root(four, ["w"], weight="w").columns == ("w",)
    assert io.read_root(four, ["x"], weight="w * x + 1").weight.tolist() == [1, -1, 7, 13]
    assert io.read_root(four, ["x"], weight="2").weight.tolist() == [2, 2, 2, 2]
    assert io.read_root(four, ["x"]).weight.tolist() == [1, 1, 1, 1]
    assert io.read_root(four, ["x"], id="key", aliases={"key": "run * 10"}).id.tolist() == [0, 10, 20, 30]
    for bad, text in (("x", "float64"), ("q", "a ragged column")):
        with pytest.raises(TypeError, match=rf"id '{bad}': expected a flat column of integers, found {text}"):
            io.read_root(four, id=bad)
    with pytest.raises(KeyError, match=r"named 'event'"):
        io.read_root(four, id="event")


def test_weights_must_be_finite(tmp_path: Path) -> None:
    path = write_tree(tmp_path / "a.root", {"x": np.arange(4.0), "w": np.array([1.0, np.nan, 2.0, np.inf])})
    with pytest.raises(
        ValueError, match=r"weight 'w' of .*a.root:events: .*2 of 4 not finite, first at rows 1, 3 \(nan, inf\)"
    ):
        io.read_root(path, weight="w")
    with pytest.raises(ValueError, match=r"1 of 2 not finite, first at rows 3"):
        io.read_root(path, weight="w", cut="x >= 2")
    assert io.read_root(path, weight="w", cut="isfinite(w)").weight.tolist() == [1, 2]
    with pytest.raises(ValueError, match=r"weight '1/x'.*1 of 4 not finite"):
        io.read_root(path, weight="1/x")


VALUES = {"x": [0.0, 1.0, 2.0, 3.0], "w": [1.0, -2.0, 3.0, 4.0], "count": [2, 0, 1, 3]}


@pytest.mark.parametrize(
    ("cut", "kept"),
    [
        ("x > 0.5", [1, 2, 3]), ("0 < x < 3", [1, 2]), ("x > 0 and not x == 2", [1, 3]), ("x < 1 or x >= 3", [0, 3]),
        ("x > 0 && w > 0", [2, 3]), ("x == 0 || w < 0", [0, 1]), ("(x > 0) & (w > 0)", [2, 3]),
        ("~(x > 0) | (w < 0)", [0, 1]),
        ("count(q) >= 2", [0, 3]), ("sum(q) > 3", [3]), ("any(q > 2.5)", [2, 3]), ("all(q < 4)", [0, 1, 2]),
        ("sum(q > 1.5) == 1", [0, 2]), ("sum(q * x) >= 6", [2, 3]), ("run in (1, 3)", [1, 3]),
        ("run not in [1]", [0, 2, 3]),
        ("abs(w) == 2", [1]), ("sqrt(x) > 1.1 and hypot(x, w) < 4", [2]), ("where(w < 0, x, -x) > 0", [1]),
        ("x ** 2 == x", [0, 1]), ("-x + 2 >= 0", [0, 1, 2]), ("x // 2 == 1", [2, 3]), ("x % 2 == 0", [0, 2]),
        ("log(x) > 0", [2, 3]),
        ("cos(pi * x) < 0", [1, 3]), ("bitand(run, 2) != 0", [2, 3]), ("pt > 4", [3]), ("max(x, w) == w", [0, 2, 3]),
        ("1 / x > 0.9", [0, 1]), ("log(x - 1) != log(x - 1)", [0]), ("True", [0, 1, 2, 3]),
        ("x > 10**400 or x == 1e3", []),
        ("9**9**9**9 > x", [0, 1, 2, 3]), ("atan2(x, 1) > 0.9", [2, 3]), ("nq - 3 < 0", [0, 1, 2]),
        ("run - 1 < 0", [0]),
    ],
)  # fmt: skip
def test_cuts(four: Path, cut: str, kept: list[int]) -> None:
    found = io.read_root(four, ["run"], cut=cut, aliases={"pt": "hypot(x, w)"})
    assert found["run"].tolist() == kept
    assert np.array_equal(found.id, io.read_root(four, ["run"]).id[kept])


def test_unsigned_differences_do_not_wrap(tmp_path: Path) -> None:
    path = write_tree(tmp_path / "a.root", {"n": np.array([0, 5], "u1"), "m": np.array([3, 3], "u4")})
    found = io.read_root(path, ["n"], cut="n - 1 < 0", aliases={"d": "n - m", "same": "n"})
    assert found["d"].tolist() == [-3]
    assert found["same"].dtype == np.uint8


@pytest.mark.parametrize(
    ("cut", "kind", "message"),
    [
        ("q > 1", TypeError, r"cut 'q > 1': expected one value per event, found a ragged column"),
        ("x", TypeError, r"cut 'x': expected a condition, .*found float64; compare it"),
        ("x + run", TypeError, r"expected a condition"),
        ("x >", ValueError, r"cut 'x >': expected an expression over columns, found a syntax error"),
        ("!(x > 1)", ValueError, r"syntax error.*for 'not' write 'not'"),
        ("x > 0 & w > 1", ValueError, r"expected conditions on both sides of & .*put each comparison in brackets"),
        ("xx > 1", KeyError, r"cut 'xx > 1': no column of .* named 'xx'; closest: 'x'"),
        ("hits.x > 1", KeyError, r"named 'hits.x'"),
        ("__import__('os').system('true')", ValueError, r"not a function that may be called"),
        ("__import__('os')", ValueError, r"'__import__' is not a function that may be called"),
        ("open('f')", ValueError, r"'open' is not a function that may be called"),
        ("x.__class__", KeyError, r"named 'x.__class__'"),
        ("(1).__class__", ValueError, r"may not be used"),
        ("[y for y in x]", ValueError, r"may not be used"),
        ("(lambda: 1)() > 0", ValueError, r"not a function that may be called"),
        ("x if w else x", ValueError, r"may not be used"),
        ("x == 'a'", ValueError, r"expected numbers, found 'a'"),
        ("x[w]", ValueError, r"may not be used"),
        ("x is 1", ValueError, r"the comparison Is is not known"),
        ("x @ w", ValueError, r"the operator MatMult is not known"),
        ("x in w", ValueError, r"expected numbers in brackets after 'in'"),
        ("sqrt(x, w) > 1", ValueError, r"expected 1 argument\(s\) in sqrt"),
        ("sqrt(*x) > 1", ValueError, r"expected 1 argument"),
        ("sqrt(x=1) > 1", ValueError, r"expected 1 argument"),
        ("sqrt > 1", ValueError, r"'sqrt' is a function; write sqrt\(...\)"),
        ("count(x) > 1", TypeError, r"expected a ragged column in count\(...\), found one number per event"),
        ("exp10(x) > 1", ValueError, r"'exp10' is not a function that may be called; closest: 'expm1', 'exp'"),
        (f"x > {10**400}", ValueError, r"too large"),
        ("x > 0; w > 0", ValueError, r"syntax error"),
        ("x = 1", ValueError, r"syntax error"),
        ("", ValueError, r"syntax error"),
        ("(" * 1000 + "x" + ")" * 1000, ValueError, r"syntax error"),
    ],
)  # fmt: skip
def test_bad_cuts(four: Path, cut: str, kind: type[Exception], message: str) -> None:
    with pytest.raises(kind, match=message):
        io.read_root(four, cut=cut)


def test_bad_options(four: Path) -> None:
    with pytest.raises(TypeError, match=r"weight 'q': expected one value per event, found a ragged column"):
        io.read_root(four, weight="q")
    with pytest.raises(TypeError, match=r"weight: expected a string, found float"):
        io.read_root(four, weight=2.0)  # type: ignore[arg-type]
    with pytest.raises(TypeError, match=r"entry_start: expected a whole number, found 1.5"):
        io.read_root(four, entry_start=1.5)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match=r"threads: expected a whole number of at least 1, found 0"):
        io.read_root(four, threads=0)
    for step in (0, -5, "many", "100", "5 XB", True, 1.5):
        with pytest.raises(
            ValueError, match=r"step: expected a number of events of at least 1 or a size like '100 MB'"
        ):
            io.iterate(four, step=step)  # type: ignore[arg-type]


def test_aliases(four: Path) -> None:
    found = io.read_root(four, ["x"], aliases={"a": "b + 1", "b": "x * 2", "q2": "q * x", "one": "1", "flag": "x > 1"})
    assert found.columns == ("x", "a", "b", "q2", "one", "flag")
    assert found["a"].tolist() == [1, 3, 5, 7]
    assert found["q2"].values.tolist() == [0, 0, 6, 12, 15, 18]
    assert found["one"].tolist() == [1] * 4
    assert found["flag"].dtype == np.bool_
    assert io.read_root(four, [], aliases={"hits.e": "q * 2", "hits.l": "sqrt(q)"})["hits.e"].rows == 4
    with pytest.raises(ValueError, match=r"alias 'a': defined by itself, a -> b -> a"):
        io.read_root(four, aliases={"a": "b", "b": "a"})
    with pytest.raises(ValueError, match=r"alias 'x': .*has a column of that name"):
        io.read_root(four, aliases={"x": "w"})
    with pytest.raises(ValueError, match=r"found the name '2x'"):
        io.read_root(four, aliases={"2x": "x"})
    with pytest.raises(TypeError, match=r"alias 'a': expected an expression as a string, found int"):
        io.read_root(four, aliases={"a": 1})  # type: ignore[dict-item]
    with pytest.raises(KeyError, match=r"alias 'a' 'xx': no column of .* named 'xx'"):
        io.read_root(four, aliases={"a": "xx"})


def test_other_counts_do_not_mix(tmp_path: Path) -> None:
    path = write_tree(tmp_path / "a.root", {"a": ak.Array([[1.0], [2.0, 3.0]]), "b": ak.Array([[1.0, 2.0], [3.0]])})
    with pytest.raises(ValueError, match=r"expected ragged columns with equal numbers of entries in each event"):
        io.read_root(path, aliases={"c": "a + b"})


def test_names_that_are_no_words(tmp_path: Path) -> None:
    io.write_parquet(tmp_path / "a.parquet", Events({"jet-pt": [1.0, 2.0], "is": [True, False]}))
    found = io.read_parquet(tmp_path / "a.parquet", ["jet-pt"], aliases={"pt": "jet-pt"}, cut="is")
    assert found["pt"].tolist() == [1.0]


# -- ids --------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("suffix", [".root", ".parquet", ".h5", ".npz", ".feather"])
def test_ids_of_files_without(tmp_path: Path, suffix: str) -> None:
    plain = {"x": np.arange(500.0), "n": np.arange(500)}
    path = tmp_path / f"a{suffix}"
    if suffix == ".root":
        write_tree(path, plain)
    elif suffix == ".h5":
        with h5py.File(path, "w") as file:
            file.update(plain)
    elif suffix == ".npz":
        np.savez(path, **plain)
    else:
        write = pq.write_table if suffix == ".parquet" else pyarrow.feather.write_feather
        write(pa.table(plain), path)
    whole = io.open_events(path).id
    assert len(set(whole.tolist())) == 500
    (tmp_path / "other").mkdir()
    moved = shutil.copy(path, tmp_path / "other" / f"renamed{suffix}")
    assert np.array_equal(io.open_events(moved).id, whole)
    assert np.array_equal(io.open_events(path, ["n"], weight="x").id, whole)
    assert np.array_equal(io.open_events(path, entry_start=100, entry_stop=200).id, whole[100:200])
    assert np.array_equal(io.open_events(path, cut="n % 3 == 0").id, whole[::3])
    assert np.array_equal(np.concatenate([part.id for part in io.iterate(path, step=77)]), whole)
    assert np.array_equal(io.open_events(path, cache=tmp_path / "cache").id, whole)
    assert np.array_equal(io.open_events([path], friends=_friend_of(tmp_path, path)).id, whole)


def _friend_of(folder: Path, path: Path) -> Path:
    io.write_npz(folder / "friend.npz", Events({"f": np.arange(500.0)}))
    return folder / "friend.npz"


def test_ids_tell_files_of_one_name_apart(tmp_path: Path) -> None:
    for job in ("job1", "job2"):
        (tmp_path / job).mkdir()
        write_tree(tmp_path / job / "out.root", {"x": np.arange(1000.0)})
    found = io.read_root(f"{tmp_path}/job*/out.root")
    assert len(set(found.id.tolist())) == 2000


# -- friends ----------------------------------------------------------------------------------------------------------


def test_friends(parts: tuple[Path, Events], tmp_path: Path) -> None:
    folder, events = parts
    main = f"{folder}/**/mc_*.root:t"
    rng = np.random.default_rng(5)
    score, tags = rng.normal(size=300), ak.unflatten(rng.normal(size=450), [1, 2] * 150)
    (tmp_path / "f").mkdir()
    for i, (a, b) in enumerate(itertools.pairwise((0, 7, 250, 300))):  # files end elsewhere than those of the main tree
        write_tree(tmp_path / "f" / f"{i}.root", {"score": score[a:b], "tags": tags[a:b], "x": -events["x"][a:b]}, "fr")
    friend = f"{tmp_path}/f/*.root:fr"
    found = io.read_root(main, ["x", "q", "score", "tags", "fr.x"], friends=friend, cut="score > 0", weight="score")
    keep = score > 0
    assert np.array_equal(found["x"], events["x"][keep])
    assert np.array_equal(found["fr.x"], -events["x"][keep])
    assert np.array_equal(found["score"], score[keep])
    assert np.array_equal(found["tags"].values, ak.flatten(tags[keep]))
    assert np.array_equal(found.id, io.read_root(main).id[keep])
    assert "fr.x" in io.read_root(main, friends=friend)
    for start, stop in ((0, None), (5, 9), (-60, -10), (240, 260), (300, 300)):
        options: dict[str, Any] = {"friends": [friend], "entry_start": start, "entry_stop": stop}
        whole = io.read_root(main, ["x", "score", "tags"], **options)
        assert np.array_equal(whole["score"], score[slice(start, stop)])
        streamed = list(io.iterate(main, ["x", "score", "tags"], step=31, **options))
        check_same(Events.concat(streamed), whole)
    only = io.read_root(main, ["score"], friends=friend)
    assert np.array_equal(only["score"], score)


def test_two_friends_of_other_formats(four: Path) -> None:
    io.write_parquet(four.with_name("a.parquet"), Events({"a": [1.0, 2, 3, 4], "x": [5.0, 6, 7, 8]}))
    np.savez(four.with_name("b.npz"), b=np.arange(4))
    friends = [four.with_name("a.parquet"), four.with_name("b.npz")]
    found = io.read_root(four, ["x", "a", "a.x", "b"], friends=friends)
    assert [found[name].tolist() for name in found] == [[0, 1, 2, 3], [1, 2, 3, 4], [5, 6, 7, 8], [0, 1, 2, 3]]


def test_friends_of_another_length(four: Path, tmp_path: Path) -> None:
    other = write_tree(tmp_path / "b.root", {"y": np.arange(5.0)}, "f")
    with pytest.raises(
        ValueError, match=r"friends: expected as many entries as in .*four.root:events, 4, found 5 in .*:f"
    ):
        io.read_root(four, friends=f"{other}:f")
    with pytest.raises(FileNotFoundError, match=r"no such file: .*c.root"):
        io.read_root(four, friends=tmp_path / "c.root")
    with pytest.raises(KeyError, match=r"named 'z'; known: 'x', .*'y'"):
        io.read_root(four, ["z"], friends=write_tree(tmp_path / "d.root", {"y": np.arange(4.0)}))


# -- damaged files ----------------------------------------------------------------------------------------------------


def test_truncated_root_says_so(four: Path) -> None:
    content = four.read_bytes()
    four.write_bytes(content[:-1])
    with pytest.raises(
        CorruptFile, match=rf"four.root: the file seems truncated, found {len(content) - 1} of {len(content)} bytes"
    ):
        io.read_root(four)
    with pytest.raises(CorruptFile, match=r"truncated"):
        list(io.iterate(four))
    four.write_bytes(b"")
    with pytest.raises(CorruptFile, match=r"expected a ROOT file, found an empty one"):
        io.read_root(four)


def test_damaged_root(tmp_path: Path) -> None:
    path = tmp_path / "a.root"
    io.write_root(path, Events({"x": np.arange(1e5) % 7}))
    content = bytearray(path.read_bytes())
    at = content.index(b"ZS\x01")  # the header of a compressed basket
    for start in (at, at + 20):
        damaged = content.copy()
        damaged[start : start + 12] = bytes(12)
        path.write_bytes(damaged)
        with pytest.raises(CorruptFile, match=r"a.root:events: cannot be read; the file seems damaged"):
            io.read_root(path, ["x"])
        with pytest.raises(CorruptFile, match=r"the file seems damaged"):
            list(io.iterate(path, ["x"], step=1000))


def test_damaged_others(tmp_path: Path) -> None:
    events = Events({"x": np.random.default_rng(1).normal(size=50_000), "q": Ragged.of([[1.0]] * 50_000)})
    io.write_parquet(tmp_path / "a.parquet", events)
    io.write_npz(tmp_path / "a.npz", events, compress=True)
    io.write_hdf5(tmp_path / "a.h5", events, compression="gzip")
    for name, word in (("a.parquet", "not readable as Parquet"), ("a.npz", "as npz"), ("a.h5", "as HDF5")):
        content = bytearray((tmp_path / name).read_bytes())
        content[len(content) // 3 : len(content) // 3 + 5000] = bytes(5000)
        (tmp_path / name).write_bytes(content)
        with pytest.raises(CorruptFile, match=word):
            io.open_events(tmp_path / name)
    with h5py.File(tmp_path / "b.h5", "w") as file:
        file["q/values"], file["q/offsets"] = np.arange(3.0), [0, 2, 9]
    with pytest.raises(CorruptFile, match=r"column 'q': expected offsets that rise from 0 to the number of values, 3"):
        io.read_hdf5(tmp_path / "b.h5")


def test_newer_mark(tmp_path: Path) -> None:
    np.savez(tmp_path / "a.npz", x=np.arange(3), nuinfer=np.array('{"nuinfer": 99, "weight": "w"}'))
    with pytest.raises(ValueError, match=r"a.npz: written in format 99, newer than this nuinfer's 1"):
        io.read_npz(tmp_path / "a.npz")


# -- Parquet, HDF5 and npz of others ----------------------------------------------------------------------------------


def test_parquet_of_others(tmp_path: Path) -> None:
    array = ak.Array(
        {"pt": [1.0, 2.0], "w": [1.0, -1.0], "jet": [[{"pt": 1, "eta": 2.0}], []], "v": [{"z": 1}, {"z": 2}]}
    )
    for extension in (True, False):
        ak.to_parquet(array, tmp_path / "a.parquet", extensionarray=extension)
        found = io.read_parquet(tmp_path / "a.parquet", weight="w")
        assert found.columns == ("pt", "jet.pt", "jet.eta", "v.z")
        assert found["jet.eta"].values.tolist() == [2.0]
        assert found["v.z"].tolist() == [1, 2]
        assert found.weight.tolist() == [1, -1]
    fixed = pa.FixedSizeListArray.from_arrays(pa.array(np.arange(6.0)), 3)
    table = pa.table({"p": fixed, "s": ["a", "b"], "none": [1, None], "deep": [[[1]], []], "l": pa.array([[1], []])})
    pq.write_table(table, tmp_path / "b.parquet")
    found = io.read_parquet(tmp_path / "b.parquet", ["p", "l"])
    assert [found[f"p[{i}]"].tolist() for i in range(3)] == [[0, 3], [1, 4], [2, 5]]
    assert found["l"].values.tolist() == [1]
    with pytest.raises(ValueError, match=r"column 'none': expected a value in every place, found 1 missing \(null\)"):
        io.read_parquet(tmp_path / "b.parquet", ["none"])
    with pytest.raises(TypeError, match=r"'s' cannot be a column, it holds (large_)?string"):
        io.read_parquet(tmp_path / "b.parquet", ["s"])
    with pytest.raises(TypeError, match=r"'deep' cannot be a column, it holds lists within lists"):
        io.read_parquet(tmp_path / "b.parquet", ["deep"])


def test_parquet_is_readable_by_others(files: dict[str, Path]) -> None:
    array = ak.from_parquet(files["a.parquet"])
    assert np.array_equal(ak.flatten(array.hits.f8), EVENTS["hits.f8"].values)
    assert np.array_equal(array.weight, EVENTS.weight)
    assert b"nuinfer" in pq.read_schema(files["a.parquet"]).metadata


def test_hdf5_of_others(tmp_path: Path) -> None:
    compound = np.array([(1, [2.0, 3.0]), (4, [5.0, 6.0])], dtype=[("n", "i4"), ("p", "f8", 2)])
    with h5py.File(tmp_path / "a.h5", "w") as file:
        file["mc/x"], file["mc/p"], file["mc/truth/z"] = (
            np.arange(2.0),
            np.arange(4).reshape(2, 2),
            np.array([7, 8], ">i4"),
        )
        file["mc/table"] = compound
        lists = file.create_dataset("mc/l", (2,), dtype=h5py.vlen_dtype(np.float32))
        lists[0] = [1, 2]
        file["mc/name"] = np.array([b"a", b"b"])
        file["edges"], file["version"] = np.arange(5.0), 3
    names = ["x", "p", "truth", "table", "l"]
    found = io.read_hdf5(f"{tmp_path}/a.h5:mc", names)
    assert found.columns == ("x", "p[0]", "p[1]", "truth.z", "table.n", "table.p[0]", "table.p[1]", "l")
    assert found["table.p[1]"].tolist() == [3, 6]
    assert found["truth.z"].tolist() == [7, 8]
    assert found["truth.z"].dtype == np.int32
    assert (found["l"].values.tolist(), found["l"].offsets.tolist()) == ([1, 2], [0, 2, 2])
    assert found["l"].values.dtype == np.float32
    assert io.read_hdf5(tmp_path / "a.h5", ["mc.x"]).columns == ("mc.x",)
    with pytest.raises(ValueError, match=r"expected columns of one length, found mc.x 2, edges 5"):
        io.read_hdf5(tmp_path / "a.h5", ["mc.x", "edges"])
    with pytest.raises(TypeError, match=r"'version' cannot be a column, it holds a single value"):
        io.read_hdf5(tmp_path / "a.h5", ["version"])
    with pytest.raises(TypeError, match=r"'name' cannot be a column, it holds \|S1"):
        io.read_hdf5(f"{tmp_path}/a.h5:mc")
    with pytest.raises(KeyError, match=r"no group in .* named 'mcc'; closest: 'mc'"):
        io.read_hdf5(f"{tmp_path}/a.h5:mcc")
    with pytest.raises(ValueError, match=r"expected a group, found a data set"):
        io.read_hdf5(f"{tmp_path}/a.h5:edges")


def test_npz_of_others(tmp_path: Path) -> None:
    square = np.arange(6.0).reshape(3, 2)
    arrays = {"x": np.arange(3, dtype=">f8"), "p": square, "f": np.asfortranarray(square), "edges": np.arange(9)}
    np.savez(tmp_path / "a.npz", **arrays, hits=np.array([[1], [], [2]], dtype=object))
    found = io.read_npz(tmp_path / "a.npz", ["x", "p", "f"])
    for name in ("p", "f"):
        assert [found[f"{name}[{i}]"].tolist() for i in range(2)] == square.T.tolist()
    assert found["x"].dtype == np.float64
    assert found["x"].tolist() == [0, 1, 2]
    with pytest.raises(TypeError, match=r"'hits' cannot be a column, it holds pickled objects, which are not loaded"):
        io.read_npz(tmp_path / "a.npz", ["hits"])
    with pytest.raises(ValueError, match=r"expected columns of one length, found .*edges 9"):
        io.read_npz(tmp_path / "a.npz", ["x", "edges"])


def test_bad_writing(tmp_path: Path) -> None:
    with pytest.raises(TypeError, match=r"expected Events, or a stream of at least one, to write, found dict"):
        io.write_parquet(tmp_path / "a.parquet", {})  # type: ignore[arg-type]
    with pytest.raises(ValueError, match=r"column 'a/b': expected a name without '/'"):
        io.write_hdf5(tmp_path / "a.h5", Events({"a/b": [1.0]}))
    with pytest.raises(TypeError, match=r"column 'h': a ROOT file has no type for float16"):
        io.write_root(tmp_path / "a.root", Events({"h": np.zeros(2, np.float16)}))
    with pytest.raises(ValueError, match=r"an RNTuple cannot hold 'a' beside 'a.b'"):
        io.write_root(tmp_path / "a.root", Events({"a": [1.0], "a.b": [1.0]}), layout="rntuple")
    with pytest.raises(ValueError, match=r"compression: expected one of none, gzip, lzf, found 'zip'"):
        io.write_hdf5(tmp_path / "a.h5", EVENTS, compression="zip")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match=r"expected parts with the same columns and types, found others in \['x'\]"):
        io.write_parquet(tmp_path / "a.parquet", iter([Events({"x": [1.0]}), Events({"x": [1]})]))
    assert list(tmp_path.iterdir()) == []


def test_a_failed_write_leaves_the_old_file(tmp_path: Path) -> None:
    def broken() -> Iterator[Events]:
        yield EVENTS
        raise KeyboardInterrupt

    for write, name in ((io.write_root, "a.root"), (io.write_parquet, "a.parquet"), (io.write_hdf5, "a.h5")):
        write(tmp_path / name, EVENTS)
        with pytest.raises(KeyboardInterrupt):
            write(tmp_path / name, broken())
        check_same(io.open_events(tmp_path / name), EVENTS)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.h5", "a.parquet", "a.root"]


# -- caches -----------------------------------------------------------------------------------------------------------


@pytest.fixture
def counted(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The files that were opened for reading events."""
    opened: list[str] = []
    original = io._open_root

    def counting(place: Any, **options: Any) -> Any:
        opened.append(place.path)
        return original(place, **options)

    monkeypatch.setattr(io, "_open_root", counting)
    return opened


def test_cache_is_memory_mapped(four: Path, tmp_path: Path, counted: list[str]) -> None:
    folder = tmp_path / "deep" / "cache"
    first = io.read_root(four, weight="w", cut="x > 0", cache=folder)
    assert counted
    counted.clear()
    second = io.read_root(four, weight="w", cut="x > 0", cache=folder)
    assert not counted
    check_same(second, first)
    check_same(second, io.read_root(four, weight="w", cut="x > 0"))
    for events in (first, second):
        arrays = [events["x"], events["q"].values, events["q"].offsets, events.weight, events.id]
        assert all(isinstance(array, np.memmap) and not array.flags.writeable for array in arrays)
    assert second.select(second["x"] > 1)["x"].tolist() == [2, 3]


def test_cache_of_a_cloud_keeps_its_offsets_once(files: dict[str, Path], tmp_path: Path) -> None:
    found = io.read_root(files["tree.root"], ["hits", "jets"], cache=tmp_path)
    assert found["hits.f8"].offsets is found["hits.?"].offsets
    assert found["hits.f8"].offsets is not found["jets"].offsets
    assert len(list(tmp_path.glob("*/*offsets.npy"))) == 2


def test_other_requests_have_other_caches(four: Path, tmp_path: Path) -> None:
    requests: list[dict[str, Any]] = [
        {}, {"cut": "x > 1"}, {"columns": ["x"]}, {"weight": "w"}, {"id": "run"}, {"entry_stop": 2}, {"entry_start": 1},
        {"aliases": {"a": "x"}}, {"aliases": {"a": "x + 1"}},
        {"friends": write_tree(tmp_path / "f.root", {"y": np.arange(4)})},
    ]  # fmt: skip
    for request in requests * 2:
        check_same(io.read_root(four, **request, cache=tmp_path / "cache"), io.read_root(four, **request))
    assert len(list((tmp_path / "cache").iterdir())) == len(requests)


def test_stale_cache_is_made_again(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    path, cache = tmp_path / "a.root", tmp_path / "cache"
    write_tree(path, {"x": np.arange(4.0)})
    old = io.read_root(path, cache=cache)
    write_tree(path, {"x": np.arange(4.0) + 10})
    os.utime(path, ns=(0, 0))
    with caplog.at_level(logging.INFO, "nuinfer"):
        assert io.read_root(path, cache=cache)["x"].tolist() == [10, 11, 12, 13]
    assert "the files have changed; reading the files" in caplog.text
    assert old["x"].tolist() == [0, 1, 2, 3]  # who has it open keeps it
    assert len(list(cache.iterdir())) == 1
    path.unlink()
    with pytest.raises(FileNotFoundError, match="no such file"):
        io.read_root(path, cache=cache)


def test_damaged_cache_is_made_again(files: dict[str, Path], tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    columns = ["x", "hits.f8"]
    io.read_root(files["tree.root"], columns, cache=tmp_path)
    (entry,) = tmp_path.iterdir()
    for file in sorted(entry.iterdir()):
        content = file.read_bytes()
        for damaged in (content[:-3], content[: len(content) // 2] + bytes([content[len(content) // 2] ^ 4])
                        + content[len(content) // 2 + 1 :], b"", None):  # fmt: skip
            if damaged is None:
                file.unlink()
            else:
                file.write_bytes(damaged)
            caplog.clear()
            with caplog.at_level(logging.INFO, "nuinfer"):
                check_same(io.read_root(files["tree.root"], columns, cache=tmp_path), EVENTS.keep(columns))
            assert "reading the files" in caplog.text, (file.name, damaged and len(damaged))
    assert len(list(tmp_path.iterdir())) == 1


def test_an_interrupted_cache_leaves_nothing(four: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from nuinfer.io import cache

    def interrupted(*_: Any) -> Any:
        raise KeyboardInterrupt

    monkeypatch.setattr(cache._Writer, "finished", interrupted)
    with pytest.raises(KeyboardInterrupt):
        io.read_root(four, cache=tmp_path / "cache")
    assert list((tmp_path / "cache").iterdir()) == []


def test_first_file_empty_in_a_cache(tmp_path: Path) -> None:
    lists = ak.Array([[1.0], [2.0, 3.0]])
    write_tree(tmp_path / "a.root", {"p": lists[:0], "q": lists[:0]})
    write_tree(tmp_path / "b.root", {"p": lists, "q": lists[::-1]})
    found = io.read_root(f"{tmp_path}/*.root", ["p", "q"], cache=tmp_path / "cache")
    assert found["p"].counts.tolist() == [1, 2]
    assert found["q"].counts.tolist() == [2, 1]


# -- histograms, graphs, matrices -------------------------------------------------------------------------------------


def test_histograms(tmp_path: Path) -> None:
    rng = np.random.default_rng(1)
    axes = [hist.axis.Regular(4, -1, 1), hist.axis.Variable([-1, 0, 0.5, 2]), hist.axis.Regular(2, -1, 1)]
    made = {}
    for d in (1, 2, 3):
        made[f"h{d}"] = hist.Hist(*axes[:d], storage=hist.storage.Weight())
        made[f"h{d}"].fill(*rng.normal(size=(d, 200)), weight=rng.normal(size=200))
    with uproot.recreate(tmp_path / "a.root") as file:
        for name, h in made.items():
            file[f"sub/{name}"] = h
        file["counts"] = np.histogram([0.5, 1.5, 1.5], bins=[0, 1, 2])
    for name, h in made.items():
        found = io.read_hist(f"{tmp_path}/a.root:sub/{name}")
        assert found.storage_type is hist.storage.Weight
        assert np.array_equal(found.values(flow=True), h.values(flow=True))
        assert np.allclose(found.variances(flow=True), h.variances(flow=True), rtol=1e-15, atol=0)
        assert all(np.array_equal(a.edges, b.edges) for a, b in zip(found.axes, h.axes, strict=True))
    counts = io.read_hist(f"{tmp_path}/a.root:counts")
    assert counts.variances().tolist() == counts.values().tolist() == [1, 2]
    with pytest.raises(KeyError, match=r"no histogram in .* named 'sub/h4'; closest: 'sub/h"):
        io.read_hist(f"{tmp_path}/a.root:sub/h4")
    with pytest.raises(ValueError, match=r"expected one histogram in it, found 'sub/h1', .*say which"):
        io.read_hist(tmp_path / "a.root")
    with pytest.raises(ValueError, match=r"GiBUU|expected a histogram, found a TTree"):
        io.read_hist(f"{GIBUU}:RootTuple")
    with pytest.raises(FileNotFoundError, match="no such file"):
        io.read_hist(tmp_path / "b.root:h")
    with pytest.raises(ValueError, match=r"expected one file with a histogram, found 2"):
        io.read_hist([tmp_path / "a.root", GIBUU])


def _error_graph(kind: str, points: dict[str, np.ndarray], errors: list[np.ndarray]) -> Any:
    """A graph with errors: uproot makes it but cannot write it yet, so its serialisation is added here."""
    from uproot.writing.interpret import as_TGraph

    graph = as_TGraph(points)
    cls, version = type(graph), {"TGraphErrors": 3, "TGraphAsymmErrors": 3}[kind]

    class Writable(cls):  # type: ignore[misc, valid-type]
        def _serialize(self, out: list[bytes], header: bool, name: str, flags: int) -> None:
            where = len(out)
            for base in self._bases:
                base._serialize(out, True, name, flags)
            out.extend(b"\x01" + array.astype(">f8").tobytes() for array in errors)
            size = sum(len(x) for x in out[where:])
            out.insert(where, uproot.serialization.numbytes_version(size, version))

    graph.__class__ = Writable
    Writable.__name__ = cls.__name__
    return graph


def test_graphs(tmp_path: Path) -> None:
    from uproot.writing.interpret import as_TGraph

    x, y, low, high = np.arange(3.0), np.arange(3.0) ** 2, np.full(3, 0.1), np.array([0.2, 0.3, 0.4])
    points = {"x": x, "y": y}
    symmetric = {**points, "x_errors": low, "y_errors": high}
    sides = {"x_errors_low": low, "x_errors_high": high, "y_errors_low": high, "y_errors_high": low}
    with uproot.recreate(tmp_path / "a.root") as file:
        file["plain"] = as_TGraph(points)
        file["errors"] = _error_graph("TGraphErrors", symmetric, [low, high])
        file["sides"] = _error_graph("TGraphAsymmErrors", {**points, **sides}, [low, high, high, low])
    found = {name: io.read_graph(f"{tmp_path}/a.root:{name}") for name in ("plain", "errors", "sides")}
    for graph in found.values():
        assert (graph.x.tolist(), graph.y.tolist()) == (x.tolist(), y.tolist())
        assert graph.x.dtype == np.float64
    assert found["plain"][2:] == (None, None)
    assert np.array_equal(found["errors"][2:], [[low, low], [high, high]])
    assert np.array_equal(found["sides"][2:], [[low, high], [high, low]])
    with pytest.raises(KeyError, match=r"no graph in .* named 'error'; closest: 'errors'"):
        io.read_graph(f"{tmp_path}/a.root:error")


# uproot writes no matrices: the streamer information and the objects are put together here as ROOT does it


def _counted(body: bytes, version: int) -> bytes:
    return struct.pack(">IH", (len(body) + 2) | 0x40000000, version) + body


def _object(cls: bytes, body: bytes) -> bytes:
    tagged = b"\xff\xff\xff\xff" + cls + b"\0" + body
    return struct.pack(">I", len(tagged) | 0x40000000) + tagged


def _text(text: str) -> bytes:
    return bytes([len(text)]) + text.encode()


_TOBJECT = struct.pack(">HII", 1, 0, 0x03000000)


def _element(cls: str, name: str, kind: int, size: int, typename: str, rest: bytes = b"") -> bytes:
    named = _counted(_TOBJECT + _text(name) + _text(""), 1)
    body = _counted(named + struct.pack(">9i", kind, size, *[0] * 7) + _text(typename), 4)
    return _object(cls.encode(), _counted(body + rest, 3 if cls == "TStreamerBase" else 2))


def _streamer(cls: str, version: int, elements: list[bytes]) -> tuple[None, bytes, str, int]:
    array = _counted(_TOBJECT + _text("") + struct.pack(">ii", len(elements), 0) + b"".join(elements), 3)
    named = _counted(_TOBJECT + _text(cls) + _text(""), 1)
    body = _counted(named + struct.pack(">Ii", 1, version) + _object(b"TObjArray", array), 9)
    return None, _object(b"TStreamerInfo", body) + b"\0", cls, version


def _matrix(symmetric: bool, real: str, rows: int, columns: int, elements: np.ndarray) -> Any:
    cls, base = f"TMatrixT{'Sym' if symmetric else ''}<{real}>", f"TMatrixTBase<{real}>"
    integers = [_element("TStreamerBasicType", n, 3, 4, "int")
                for n in ("fNrows", "fNcols", "fRowLwb", "fColLwb", "fNelems", "fNrowIndex")]  # fmt: skip
    dtype, kind = (">f8", 8) if real == "double" else (">f4", 5)
    tolerance = _element("TStreamerBasicType", "fTol", kind, np.dtype(dtype).itemsize, real)
    pointer = _element("TStreamerBasicPointer", "fElements", 40 + kind, np.dtype(dtype).itemsize, f"{real}*",
                       struct.pack(">i", 5) + _text("fNelems") + _text(base))  # fmt: skip
    head = _element("TStreamerBase", "TObject", 66, 0, "BASE", struct.pack(">i", 1))
    up = _element("TStreamerBase", base, 0, 0, "BASE", struct.pack(">i", 5))
    members = struct.pack(">6i", rows, columns, 0, 0, rows * columns, 0) + np.array([1e-9], dtype).tobytes()
    data = elements.astype(dtype).tobytes()
    if symmetric:  # its custom streamer writes the base, and then the upper triangle
        body = _counted(_TOBJECT + members, 5) + data
    else:
        body = _counted(_counted(_TOBJECT + members, 5) + b"\x01" + data, 4)

    class Matrix:
        class_rawstreamers = (_streamer(base, 5, [head, *integers, tolerance]), _streamer(cls, 4, [up, pointer]))
        classname = cls

        def serialize(self, name: str) -> bytes:
            return body

    return Matrix()


def test_matrices(tmp_path: Path) -> None:
    values = np.random.default_rng(1).normal(size=(2, 3))
    covariance = np.cov(np.random.default_rng(2).normal(size=(3, 9)))
    with uproot.recreate(tmp_path / "a.root") as file:
        for name, matrix in {
            "m": _matrix(False, "double", 2, 3, values),
            "f": _matrix(False, "float", 2, 3, values),
            "cov": _matrix(True, "double", 3, 3, covariance[np.triu_indices(3)]),
        }.items():
            _put(file, name, matrix)
    assert np.array_equal(io.read_matrix(f"{tmp_path}/a.root:m"), values)
    found = io.read_matrix(f"{tmp_path}/a.root:f")
    assert found.dtype == np.float64
    assert np.array_equal(found, values.astype("f4"))
    assert np.array_equal(io.read_matrix(f"{tmp_path}/a.root:cov"), covariance)
    with pytest.raises(ValueError, match=r"expected one matrix in it, found 'm', 'f', 'cov'; say which"):
        io.read_matrix(tmp_path / "a.root")


def _put(directory: Any, name: str, matrix: Any) -> None:
    raw = uproot.writing._cascade.RawStreamerInfo
    directory.file.update_streamers([raw(*streamer) for streamer in matrix.class_rawstreamers])
    data = matrix.serialize(name)
    directory._cascading.add_object(directory.file.sink, matrix.classname, name, "", data, len(data))


# -- memory -----------------------------------------------------------------------------------------------------------

# Peak resident set of a process that streams the small file first, so that all libraries are loaded and warm, and then
# the large one: the difference is what streaming the large one takes.  The shell between keeps the parent's own peak,
# which Linux hands on through exec, out of the child's.
_CHILD = """
import resource, sys
from nuinfer import io

def peak():
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024

def run(path, step):
    total = 0.0
    for part in [io.open_events(path)] if step == "whole" else io.iterate(path, step=step):
        for name in part:
            column = part[name]
            total += float(getattr(column, "values", column).sum(dtype=float))
    return total

small, large, step = sys.argv[1:]
run(small, step)
before = peak()
total = run(large, step)
print(total, peak() - before)
"""


def memory(small: Path, large: Path, step: str) -> tuple[float, float]:
    """The sum of all values, and the bytes that reading took."""
    command = ["sh", "-c", '"$@"; exit $?', "sh", sys.executable, "-c", _CHILD, str(small), str(large), step]
    total, taken = subprocess.run(command, capture_output=True, text=True, check=True, timeout=120).stdout.split()
    return float(total), float(taken)


def large_sample(events: int) -> Events:
    """Flat and ragged columns of noise, about 125 bytes an event."""
    rng = np.random.default_rng(1)
    offsets = np.append(0, np.cumsum(rng.integers(0, 11, events)))
    columns: dict[str, Any] = {f"x{i}": rng.random(events) for i in range(5)}
    columns |= {f"hits.{name}": Ragged(rng.random(offsets[-1], np.float32), offsets) for name in "xyz"}
    return Events(columns)


def check_memory(tmp_path: Path, write: Callable[..., None], name: str) -> None:
    sample = large_sample(1_750_000)
    write(tmp_path / f"large_{name}", sample)
    write(tmp_path / f"small_{name}", sample.select(slice(0, 1000)))
    assert (tmp_path / f"large_{name}").stat().st_size > 200e6
    total, taken = memory(tmp_path / f"small_{name}", tmp_path / f"large_{name}", "100 MB")
    values = [getattr(sample[column], "values", sample[column]) for column in sample]
    assert total == pytest.approx(sum(float(v.sum(dtype=float)) for v in values), rel=1e-9)
    assert taken < 100e6
    _, whole = memory(tmp_path / f"small_{name}", tmp_path / f"large_{name}", "whole")
    assert whole > 200e6  # the measurement sees what it should


def test_streaming_stays_in_memory(tmp_path: Path) -> None:
    check_memory(tmp_path, lambda path, events: io.write_root(path, events, compression="none"), "a.root")


@pytest.mark.slow
@pytest.mark.parametrize("name", ["n.root", "a.parquet", "a.h5", "a.npz"])
def test_streaming_stays_in_memory_in_all_formats(tmp_path: Path, name: str) -> None:
    writers: dict[str, Callable[..., None]] = {
        "n.root": lambda path, events: io.write_root(path, events, layout="rntuple", compression="none"),
        "a.parquet": lambda path, events: io.write_parquet(path, events, compression="none"),
        "a.h5": io.write_hdf5,
        "a.npz": io.write_npz,
    }
    check_memory(tmp_path, writers[name], name)


def test_import_is_light() -> None:
    heavy = ("uproot", "awkward", "h5py", "pyarrow", "hist")
    code = f"import sys, nuinfer.io; print([m for m in {heavy} if m in sys.modules])"
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert found.strip() == "[]"
