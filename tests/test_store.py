"""The saved form: what goes in comes out, and nothing else does."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from nuinfer import store
from nuinfer.errors import CorruptFile

DATA = Path(__file__).parent / "data"
DTYPES = ["bool", "i1", "u1", "i2", "u2", "i4", "u4", "i8", "u8", "f2", "f4", "f8"]
SPEC = {"width": 64, "name": 'a "quoted" \\ ünïcode\n', "nested": {"list": [1, 2.5, None, True]}, "tiny": 5e-324}


def same(a, b):
    return a.dtype == b.dtype and a.shape == b.shape and a.tobytes() == b.tobytes()


def every_dtype():
    return {name: (17 * np.arange(7) % 3).astype(name) for name in DTYPES}


@pytest.fixture
def saved(tmp_path):
    path = tmp_path / "result.safetensors"
    store.save(path, "ratio", SPEC, {"x": np.arange(3.0), "flags": np.array([True, False])})
    return path


def test_what_goes_in_comes_out(tmp_path):
    arrays = {
        **every_dtype(),
        "scalar": np.array(3.5),
        "empty": np.empty((0, 3), np.float32),
        "special": np.array([np.nan, -0.0, np.inf, 5e-324]),
        "a name/with.all sorts of ünïcode": np.ones((2, 1, 3)),
    }
    store.save(tmp_path / "f", "test", SPEC, arrays)
    spec, back = store.load(tmp_path / "f", "test")
    assert spec == SPEC
    assert set(back) == set(arrays)
    assert all(same(back[name], arrays[name]) for name in arrays)


def test_strided_and_swapped_arrays_come_back_as_numbers(tmp_path):
    # safetensors alone would write the bytes of the memory under a transposed view
    a = np.arange(12.0).reshape(3, 4)
    store.save(tmp_path / "f", "test", {}, {"t": a.T, "step": a[:, ::2], "swapped": a.astype(">f8")})
    _, back = store.load(tmp_path / "f", "test")
    np.testing.assert_array_equal(back["t"], a.T)
    np.testing.assert_array_equal(back["step"], a[:, ::2])
    np.testing.assert_array_equal(back["swapped"], a)
    assert back["swapped"].dtype.isnative


def test_it_is_an_ordinary_safetensors_file(saved):
    np.testing.assert_array_equal(load_file(saved)["x"], np.arange(3.0))


def test_the_same_content_gives_the_same_bytes(saved, tmp_path):
    store.save(tmp_path / "again", "ratio", SPEC, {"x": np.arange(3.0), "flags": np.array([True, False])})
    assert (tmp_path / "again").read_bytes() == saved.read_bytes()


def test_header_holds_kind_format_versions(saved):
    content = saved.read_bytes()
    length = int.from_bytes(content[:8], "little")
    meta = json.loads(json.loads(content[8 : 8 + length])["__metadata__"]["nuinfer"])
    assert list(meta) == ["sha256", "format", "kind", "versions", "spec"]
    assert (meta["format"], meta["kind"], meta["spec"]) == (store.FORMAT, "ratio", SPEC)
    assert {"nuinfer", "numpy", "python"} <= set(meta["versions"])
    assert meta["versions"]["numpy"] == np.__version__


def test_arrays_are_writable_views_of_one_read(saved):
    _, arrays = store.load(saved, "ratio")
    assert arrays["x"].base is not None
    assert arrays["x"].flags.aligned
    arrays["x"][:] = 7  # the memory is the caller's own
    np.testing.assert_array_equal(store.load(saved, "ratio")[1]["x"], np.arange(3.0))


def test_saving_makes_no_copy_of_a_contiguous_array():
    a = np.arange(5.0)
    assert np.shares_memory(store.plain("array", a), a)


def test_every_flipped_bit_is_refused(saved):
    content = bytearray(saved.read_bytes())
    assert len(content) < 1000
    for bit in range(8 * len(content)):
        content[bit // 8] ^= 1 << bit % 8
        saved.write_bytes(content)
        with pytest.raises(CorruptFile):
            store.load(saved, "ratio")
        content[bit // 8] ^= 1 << bit % 8
    saved.write_bytes(content)
    store.load(saved, "ratio")


def test_every_truncation_and_a_longer_file_are_refused(saved):
    content = saved.read_bytes()
    for length in range(len(content)):
        saved.write_bytes(content[:length])
        with pytest.raises(CorruptFile):
            store.load(saved, "ratio")
    saved.write_bytes(content + b"\0")
    with pytest.raises(CorruptFile, match=r"cut short, damaged or edited; take another copy"):
        store.load(saved, "ratio")


def test_foreign_files_are_refused(tmp_path):
    save_file({"x": np.arange(3.0)}, tmp_path / "plain", metadata={"made": "elsewhere"})
    (tmp_path / "text").write_text("not tensors at all " * 20)
    for name in ("plain", "text"):
        with pytest.raises(CorruptFile, match="expected a file saved by nuinfer, found another one"):
            store.load(tmp_path / name, "ratio")


def test_an_edited_spec_is_refused(saved):
    saved.write_bytes(saved.read_bytes().replace(b'width\\":64', b'width\\":65'))
    with pytest.raises(CorruptFile, match="sha256"):
        store.load(saved, "ratio")


def test_a_spec_that_looks_like_the_header(tmp_path):
    store.save(tmp_path / "f", "test", {"sha256": "0" * 64, "format": 99}, {"sha256": np.zeros(64)})
    assert store.load(tmp_path / "f", "test")[0] == {"sha256": "0" * 64, "format": 99}


def test_another_kind_is_refused_naming_both(saved):
    with pytest.raises(ValueError, match="expected a file of kind 'unfolded', found one of kind 'ratio'"):
        store.load(saved, "unfolded")


def test_a_newer_format_is_refused(saved, monkeypatch):
    monkeypatch.setattr(store, "FORMAT", store.FORMAT + 1)
    store.save(saved, "ratio", {}, {})
    monkeypatch.undo()
    with pytest.raises(ValueError, match=r"made by a newer nuinfer .*found format 2, this one reads up to 1; update"):
        store.load(saved, "ratio")


def test_older_formats_are_migrated_step_by_step(saved, monkeypatch):
    def first(header, arrays):
        return {**header, "format": 2, "kind": "density"}, {"y": arrays["x"]}

    def second(header, arrays):
        return {**header, "format": 3, "spec": {"steps": header["format"]}}, {"y": arrays["y"] + 1}

    monkeypatch.setattr(store, "FORMAT", 3)
    monkeypatch.setattr(store, "MIGRATIONS", {1: first, 2: second})
    spec, arrays = store.load(saved, "density")
    assert spec == {"steps": 2}
    np.testing.assert_array_equal(arrays["y"], [1, 2, 3])


def test_each_older_format_has_a_migration():
    assert set(store.MIGRATIONS) == set(range(1, store.FORMAT))


@pytest.mark.parametrize("number", range(1, store.FORMAT + 1))
def test_stored_example_of_each_format(number):
    spec, arrays = store.load(DATA / f"store_format_{number}.safetensors", "example")
    assert spec == SPEC
    assert set(arrays) == {*DTYPES, "matrix"}
    assert all(same(arrays[name], array) for name, array in every_dtype().items())
    np.testing.assert_array_equal(arrays["matrix"], np.arange(6.0).reshape(2, 3))


def test_missing_file_names_the_closest(saved):
    with pytest.raises(FileNotFoundError, match=r"no file .*; in its folder .*closest: 'result\.safetensors'"):
        store.load(saved.with_name("results.safetensors"), "ratio")
    with pytest.raises(FileNotFoundError, match=r"its folder .*nowhere does not exist either"):
        store.load(saved.parent / "nowhere" / "f", "ratio")
    with pytest.raises(FileNotFoundError, match="expected a file, found a folder"):
        store.load(saved.parent, "ratio")


@pytest.mark.parametrize(
    ("spec", "error", "message"),
    [
        ({"a": [1.0, float("nan")]}, ValueError, r"spec\['a'\]\[1\]: expected a finite number, found nan"),
        ({"a": {"b": float("inf")}}, ValueError, r"spec\['a'\]\['b'\]: expected a finite number, found inf"),
        ({"a": np.float64("nan")}, ValueError, r"spec\['a'\]: expected a finite number, found nan"),
        ({"a": {1: "one"}}, TypeError, r"spec\['a'\]: expected string keys, found 1"),
        ({"a": {1, 2}}, TypeError, r"spec\['a'\]: expected JSON .*found set"),
        ({"a": np.arange(3)}, TypeError, r"spec\['a'\]: expected JSON .*found ndarray; .*save it as an array"),
        ({"a": Path("x")}, TypeError, r"spec\['a'\]: expected JSON .*found Posix"),
    ],
)
def test_strict_json(tmp_path, spec, error, message):
    with pytest.raises(error, match=message):
        store.save(tmp_path / "f", "test", spec, {})
    assert not list(tmp_path.iterdir())


def test_numpy_numbers_and_tuples_in_a_spec(tmp_path):
    store.save(tmp_path / "f", "test", {"n": np.int64(3), "x": np.float32(0.1), "on": np.True_, "t": (1, (2,))}, {})
    spec, _ = store.load(tmp_path / "f", "test")
    assert spec == {"n": 3, "x": float(np.float32(0.1)), "on": True, "t": [1, [2]]}
    assert spec["on"] is True


@pytest.mark.parametrize(
    ("array", "found"),
    [
        (np.array([None]), "object"),
        (np.array(["a"]), "<U1"),
        (np.ones(2, complex), "complex128"),
        (np.array(["2020"], "M8[Y]"), "datetime64"),
        (np.zeros(2, [("a", "f8")]), "'a'"),
        (np.ma.masked_array([1.0, 2.0], [True, False]), "MaskedArray"),
        ([1.0, 2.0], "list"),
    ],
)
def test_other_arrays_are_refused(tmp_path, array, found):
    with pytest.raises(TypeError, match=f"array 'bad': expected .*found .*{found}"):
        store.save(tmp_path / "f", "test", {}, {"good": np.ones(2), "bad": array})
    assert not list(tmp_path.iterdir())


def test_reserved_name(tmp_path):
    with pytest.raises(ValueError, match="'__metadata__' belongs to the file format"):
        store.save(tmp_path / "f", "test", {}, {"__metadata__": np.ones(2)})


def test_a_failed_write_leaves_the_old_file_and_nothing_else(saved):
    before = saved.read_bytes()

    def write(temporary):
        temporary.write_bytes(b"half")
        assert temporary.parent == saved.parent
        assert temporary.suffix == saved.suffix
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        store.write_atomically(saved, write)
    assert saved.read_bytes() == before
    assert list(saved.parent.iterdir()) == [saved]


def test_new_folders_links_and_permissions(tmp_path):
    real = tmp_path / "deep" / "er" / "real"
    store.save(real, "test", {"version": 1}, {"x": np.ones(2)})
    link = tmp_path / "link"
    link.symlink_to(real)
    store.save(link, "test", {"version": 2}, {"x": np.ones(2)})
    assert link.is_symlink()
    assert store.load(real, "test")[0] == {"version": 2}
    mask = os.umask(0)
    os.umask(mask)
    assert real.stat().st_mode & 0o777 == 0o666 & ~mask


def test_loading_never_unpickles(saved):
    code = (
        "import sys, pickle\n"
        "def refuse(*a, **k): raise SystemExit('unpickled')\n"
        "pickle.loads = pickle.load = pickle.Unpickler = refuse\n"
        "from nuinfer import store\n"
        "store.load(sys.argv[1], 'ratio')\n"
        "assert not {'torch', 'cloudpickle', 'safetensors.torch'} & set(sys.modules)\n"
    )
    subprocess.run([sys.executable, "-c", code, str(saved)], check=True)
