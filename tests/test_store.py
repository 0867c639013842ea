"""The saved form: what goes in comes out, and nothing else does."""

from __future__ import annotations

import ast
import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file
from scipy import stats
from stored import DATA, MAKERS, SHARES, Halved, main, seen, simulation

import nuinfer
from nuinfer import (
    Events,
    Ragged,
    anomaly,
    density,
    diagnostics,
    hashing,
    intervals,
    invertible,
    likelihood,
    posterior,
    ratio,
    store,
    tasks,
    unfolding,
)
from nuinfer.anomaly import bump, goodness, hunting, mixtures, outliers, templates
from nuinfer.errors import CorruptFile
from nuinfer.unfolding.unbinned.result import Unfolded

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


# -- one stored example of each kind, whose numbers are known (see stored.py) ------------------------------------------

X = Events({"x": [-1.0, 1.0, 3.0]})  # u = (x - 1) / 2 = -1, 0, 1
INTERNAL = {"checkpoint", "channel", "tasks chunk", "tasks manifest"}  # resumed by the version that wrote them
PARTS = {"goodness basis", "goodness nuisances", "goodness ratio", "goodness scaling"}  # of a goodness of fit


def unit(mu: np.ndarray) -> np.ndarray:
    """The u of a mu in the box from -2 to 2."""
    return (mu / 2 - 1) / 2


def example(name: str) -> Path:
    return DATA / f"{name}_format_1.safetensors"


def kind_of(path: Path) -> str:
    content = path.read_bytes()
    header = json.loads(content[8 : 8 + int.from_bytes(content[:8], "little")])
    return str(json.loads(header["__metadata__"]["nuinfer"])["kind"])


def written_kinds() -> set[str]:
    """What the package gives `store.save` as the kind, and what its results say they are."""
    found = set()
    for path in Path(nuinfer.__file__).parent.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Call) and ast.unparse(node.func) == "store.save":
                found.add(node.args[1])
            if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "_KIND":
                found.add(node.value)
    return {node.value for node in found if isinstance(node, ast.Constant)}


def test_each_kind_has_a_stored_example():
    assert {"ratio", "parametrised ratio", "neyman", "unfolded"} <= written_kinds()  # it finds them
    assert written_kinds() - INTERNAL - PARTS == {kind_of(path) for path in DATA.glob("*.safetensors")} - {"example"}
    assert sum(path.stat().st_size for path in DATA.rglob("*")) < 300_000


def test_the_script_makes_what_is_missing_and_leaves_the_rest(tmp_path, monkeypatch):
    for name in ("profile", "workspace"):
        (tmp_path / f"{name}_format_1{'' if name == 'workspace' else '.safetensors'}").touch()
    monkeypatch.setattr("stored.MAKERS", {name: MAKERS[name] for name in ("profile", "tree_ratio", "toys")})
    main(tmp_path)
    assert (tmp_path / "profile_format_1.safetensors").stat().st_size == 0
    for name, cls in (("tree_ratio", ratio.Ratio), ("toys", intervals.Toys)):
        made = tmp_path / f"{name}_format_1.safetensors"
        assert repr(cls.load(made)) == repr(cls.load(example(name)))


def test_stored_ratio():
    found = ratio.Ratio.load(example("ratio"))
    hat, b = np.array([-1.0, 0.0, 3.0]), np.array([0.0, 0.1, 0.2, 0.3])
    np.testing.assert_allclose(found.log(X), 2 * hat + np.log(np.exp(2 * b).mean()), rtol=1e-6)
    known = Events({"x": [3.0, 3.0]}, id=found.known[:2])  # their own fold's networks, one of each member
    own = [np.log(np.exp(2 * b[[fold, 2 + fold]]).mean()) for fold in found.resample.fold_of(found.known[:2])]
    np.testing.assert_allclose(found.log(known), 6 + np.array(own), rtol=1e-6)
    assert (found.yields, found.calibration, len(found.known)) == ((40, 40), "temperature", 80)
    assert found.history is not None
    assert found.history.train.shape == (1, 4)


def test_stored_ratio_of_trees():
    found = ratio.Ratio.load(example("tree_ratio"))
    np.testing.assert_allclose(found.log(Events({"x": [-3.0, 0.4, 0.6]})), [0.5, 0.5, -0.5], rtol=1e-12)
    assert found.history is None


def test_stored_parametrised_ratio():
    found = ratio.ParametrisedRatio.load(example("parametrised_ratio"))
    np.testing.assert_allclose(found.log(X, {"theta": 2.5}), [-0.5, 1.0, 2.5], atol=1e-6)
    np.testing.assert_allclose(found.score(X, [2.5])[:, 0], 0.375, rtol=1e-6)
    assert found.parameters.high[0] == 5
    assert found.reference == "sample"


def test_stored_local_score():
    found = ratio.LocalScore.load(example("local_score"))
    np.testing.assert_allclose(found.score(X), [[0, 1], [0, 0.5], [6, 0.5]], atol=1e-6)
    np.testing.assert_allclose(found.log(X, [1.1, 2.2]), [0.16, 0.06, 0.66], atol=1e-6)
    np.testing.assert_array_equal(found.information, [[2, 0.5], [0.5, 1]])
    assert found.names == ("a", "b")


def test_stored_class_ratio():
    found = ratio.ClassRatio.load(example("class_ratio"))
    e = np.exp(2.0)
    expected = np.array([[e**4, e**2, 1], [1, 1, 1], [1, e, e**2]])
    expected[0] = [1, 1 / e, 1 / e**2]
    np.testing.assert_allclose(found.probabilities(X), expected / expected.sum(1, keepdims=True), rtol=1e-5)
    assert found.log(X, {"B": 2.0})[1] == pytest.approx(np.log(4 / 3 / 1.25))
    assert found.classes == ("A", "B", "C")


def test_stored_response_and_spectrum():
    found = unfolding.Response.load(example("response"))
    assert found.truth.label(2) == "1 <= t < 2, 1 <= u < inf"
    np.testing.assert_array_equal(found.both, [[1, 0, 0], [2, 3, 0], [0, 0, 4]])
    np.testing.assert_array_equal(found.both_variance, [[1, 0, 0], [4, 9, 0], [0, 0, 16]])
    assert (found.missed.tolist(), found.fakes.tolist()) == ([0.25, 0, 0], [0.5, 0, 0])
    spectrum = unfolding.Spectrum.load(example("spectrum"))
    again = unfolding.iterative_bayes([3.0, 9.0, 8.0], found, iterations=2)
    np.testing.assert_allclose(spectrum.values, again.values, rtol=1e-12)
    np.testing.assert_allclose(spectrum.smearing, again.smearing, rtol=1e-10, atol=1e-12)
    assert list(spectrum.covariances) == ["data", "simulation"]
    assert spectrum.settings["iterations"] == 2
    assert (spectrum.corrected, repr(spectrum)) == (True, repr(again))


def test_stored_likelihood_unfolding():
    found = unfolding.LikelihoodUnfolding.load(example("likelihood_unfolding"))
    assert list(found.spectrum.covariances)[:2] == ["data", "sideband off"]
    assert found.spectrum.values.shape == (2,)
    assert np.isfinite(found.intervals[0]).all()
    assert np.isnan(found.intervals[1]).all()
    np.testing.assert_allclose(sum(found.spectrum.covariances.values()), found.spectrum.covariance)


def test_stored_generative_unfolding():
    found = unfolding.GenerativeUnfolding.load(example("generative"))
    x = Events({"x": [0.0, 0.5]})
    draws = found.posterior(x, draws=2000)
    assert draws.shape == (2, 2000, 1)
    spectrum = found.spectrum({"t": [-3.0, 0.0, 3.0]})
    assert (spectrum.members.shape, spectrum.replicas.shape) == ((2, 2), (2, 2))
    assert spectrum.values.sum() == pytest.approx(40, rel=0.2)
    assert len(found.iterations) == 2


def test_stored_flow_matching():
    found = density.Density.load(example("flow_matching"))
    x = Events({"x": [0.0]})
    draws = found.draws(2000, x, seed=1)[0, :, 0]
    at = np.linspace(-4, 4, 401)
    q = np.exp(found.log_prob(Events({"t": at, "x": np.zeros(401)})))
    assert q.sum() * (at[1] - at[0]) == pytest.approx(1, abs=0.02)
    mean = (at * q).sum() / q.sum()
    assert abs(draws.mean() - mean) < 5 * draws.std() / 2000**0.5


def test_stored_checks():
    found = unfolding.Checks.load(example("checks"))
    assert [check.name for check in found.failed] == ["closure"]
    assert [check.name for check in found.undecided] == ["coverage"]
    assert np.isnan(found["coverage"].value)
    one = unfolding.Check.load(example("check"))
    assert one == found["closure"]


def test_stored_cross_section():
    found = unfolding.CrossSection.load(example("cross_section"))
    # efficiency 1, so that the events are the signal: 20 over flux 1e-10 x exposure 1e20 x targets 1e30
    assert found.integrated().value == pytest.approx(20 / 1e40, rel=1e-9)
    assert list(found.covariances) == ["data", "simulation"]


def test_stored_throws():
    found = unfolding.Thrown.load(example("thrown"))
    assert found.spectra.shape == (4, 2)
    assert found.alone["tilt"].shape == (2, 2)
    rng = np.random.default_rng(hashing.salt(1, "alpha", "tilt", 2))
    np.testing.assert_array_equal(found.alphas["tilt"][2], rng.standard_normal(1))
    assert "4 throws of 2 bins, 1 knobs: the covariance has rank 2" in found.words
    np.testing.assert_allclose(sum(found.sources.values()), found.covariance)


def test_stored_profiled_unfolding():
    found = unfolding.Profiled.load(example("profiled"), simulation())
    assert found.values == {"jes": pytest.approx(0.6)}
    np.testing.assert_allclose(found.covariance, [[0.08]])
    np.testing.assert_allclose(found.folded, 1.5 * found.unfolded.weights)
    np.testing.assert_array_equal(found.trajectory[0], 0)


def test_stored_matched_moments():
    found = unfolding.MatchedMoments.load(example("matched_moments"), seen())
    np.testing.assert_allclose(found.weights, [1.5] * 3 + [2.5] * 3, rtol=1e-6)
    assert found.unfolded.replicas.shape == (3, 6)
    comparison = unfolding.MomentComparison.load(example("moment_comparison"))
    np.testing.assert_array_equal(comparison.pulls, [0.5, -1])
    assert comparison.largest == 0.75
    assert comparison.agrees


def test_stored_choice_of_iterations():
    found = unfolding.IterationChoice.load(example("iteration_choice"))
    assert (found.iterations, found.found) == (2, True)
    assert found.words.startswith("after 2 iterations held-out events no longer tell data and simulation apart: G = 0")
    np.testing.assert_allclose(found.divergence - found.error, [0.09, 0.01, -2e-4])


def test_stored_bump_hunt():
    found = anomaly.BumpHunt.load(example("bump_hunt"))
    assert found.window == ((1, 2),)
    np.testing.assert_allclose(found.log_p, [0, -2.52196826], atol=1e-8)  # of 3 or more where 1 is expected
    assert found.p_value == pytest.approx(2 / 3)  # one of two toys exceeds


def test_stored_bump_fits():
    """Of an extended fit: the expected contents sum to the data, and pulls are of Poisson errors."""
    fit = bump.BumpFit.load(example("bump_fit"))
    assert (fit.background + fit.signal).sum() == pytest.approx(212, rel=1e-6)
    np.testing.assert_array_equal(fit.counts, [60, 44, 33, 28, 17, 13, 9, 8])
    toys = bump.ToyFits.load(example("bump_toy_fits"))
    assert toys.converged.all()
    assert toys.values[0].tolist() == pytest.approx([fit.values[name] for name in toys.names], rel=1e-3)
    counts = bump.WindowCounts.load(example("bump_window_counts"))
    assert counts.observed.tolist() == [28 + 17]
    assert bump.FitGoodness.load(example("bump_fit_goodness")).toys.shape == (5,)


def test_stored_bump_scans():
    scan, toys = (
        kind.load(example(name)) for kind, name in ((bump.BumpScan, "bump_scan"), (bump.ToyScans, "bump_toy_scans"))
    )
    np.testing.assert_array_equal(scan.masses, [3, 4])
    assert scan.yields[1] == pytest.approx(bump.BumpFit.load(example("bump_fit")).values["yield"], rel=1e-4)
    found = bump.GlobalP.load(example("bump_global_p"))
    beyond = (toys.z.max(1) >= scan.z.max()).sum()
    assert found.p == pytest.approx((beyond + 1) / 4)


def test_stored_bump_limits_and_checks():
    limits = bump.BumpLimits.load(example("bump_limits"))
    assert (limits.cl, limits.method) == (0.95, "asymptotic")
    assert (np.diff(limits.expected, axis=-1) > 0).all()  # from -2 sigma to +2
    spurious = bump.SpuriousSignal.load(example("bump_spurious_signal"))
    scan = bump.BumpScan.load(example("bump_scan"))
    np.testing.assert_allclose(spurious.yields, scan.yields, rtol=1e-3, atol=1e-3)  # the template is the same spectrum
    injection = bump.SignalInjection.load(example("bump_signal_injection"))
    assert (np.abs(injection.fitted - injection.injected) < 5 * injection.errors).all()
    orders = bump.OrderChoice.load(example("bump_order_choice"))
    np.testing.assert_allclose(orders.bic - orders.aic, orders.parameters * (np.log(8) - 2), rtol=1e-9)
    envelope = bump.YieldEnvelope.load(example("bump_yield_envelope"))
    assert envelope.curves.shape == (2, 3)


def test_stored_sculpting_and_decorrelation():
    found = templates.Sculpting.load(example("sculpting"))
    assert 0 < found.combined_p <= 1
    x = templates.Decorrelation.load(example("decorrelation")).transform(Events({"m": [1.0, 3.0], "x": [2.0, 6.0]}))[
        "x"
    ]
    assert x[0] == pytest.approx(x[1])  # x = 2 m


def test_stored_hunt():
    hunt = hunting.Hunt.load(example("anomaly_hunt"))
    np.testing.assert_allclose(hunt.p, [[0.5, 0.01]])
    assert hunting.HuntP.load(example("anomaly_hunt_p")).p == pytest.approx(1 - 0.99**2)
    np.testing.assert_allclose(hunting.HuntToys.load(example("anomaly_hunt_toys")).p[:, 0], hunt.toys.p[:, 0])
    scan = hunting.InjectionScan.load(example("anomaly_injection_scan"))
    np.testing.assert_array_equal(scan.strengths, [0, 10, 20])
    limits = hunting.InjectionLimits.load(example("anomaly_injection_limits"))
    assert repr(limits) == repr(scan.limits())


def test_stored_mixtures():
    mixed = mixtures.Mixtures.load(example("anomaly_mixtures"))
    assert mixed.auc.value > 0.5
    x = Events({"x": [-0.5, 0.8]})
    assert np.diff(mixed.score(x)) > 0
    assert mixtures.MixedAuc.load(example("anomaly_mixed_auc")).z == pytest.approx(12.5)
    assert mixtures.Kappa.load(example("anomaly_kappa")).value == 0.25
    assert mixtures.Fractions.load(example("anomaly_fractions")).first == 0.8


def test_stored_autoencoder():
    found = outliers.Autoencoder.load(example("anomaly_autoencoder"))
    one = Events({"m": [0.5], "jets.pt": Ragged.of([[20.0]]), "jets.phi": Ragged.of([[1.0]])})
    assert np.isfinite(found.score(one)).all()
    cut = outliers.Threshold.load(example("anomaly_threshold"))
    assert (cut.value, cut.accepted) == (90, 0.1)


def test_stored_goodness_of_fit():
    found = goodness.GoodnessOfFit.load(example("goodness_of_fit"))
    assert len(found.toys) == 20
    assert found.p_toys == pytest.approx(((found.toys >= found.t).sum() + 1) / 21)
    assert found.log_ratio(Events({"x": [0.1, 0.5]})).shape == (2,)


def test_stored_unfolded_result():
    found = Unfolded.load(example("unfolded"), simulation())
    spectrum = found.spectrum({"y": [0.0, 1.0, 3.0]})
    np.testing.assert_allclose(spectrum.values, [5.25, 14.3], rtol=1e-12)  # sums of w (1 + i / 40) without the fake
    np.testing.assert_allclose(spectrum.replicas, [[5, 12], [15, 36]], rtol=1e-12)
    (step,) = found.iterations
    np.testing.assert_array_equal(step.effective_size, [11, 12])
    assert step.reco_history is not None
    assert step.reco_history.train.tolist() == [[0.7, 0.7], [0.7, 0.7]]
    assert step.truth_history is None
    assert (found.seed, found.group, found.settings) == (7, None, {"iterations": 1})


def test_stored_results_of_tasks():
    found = tasks.Results.load(example("tasks_results"))
    stacked = found.stacked(skip_failures=True)
    assert found.done.tolist() == [0, 1, 3]
    assert stacked["square"].tolist() == [0, 1, 9]
    assert stacked["powers"].tolist() == [[0, 0], [1, 1], [3, 27]]
    assert [(f.task, f.message) for f in found.failures] == [(2, "ArithmeticError: two is not done")]


def test_stored_density():
    """It is normalised within its bounds, and is the mean of its members."""
    found, x = density.Density.load(example("density")), (np.arange(20_000) + 0.5) / 20_000
    logs = found.log_prob(Events({"x": x}))
    assert np.exp(logs).mean() == pytest.approx(1, abs=1e-3)
    np.testing.assert_allclose(np.exp(logs), np.exp(found.members(Events({"x": x}))).mean(0), rtol=1e-9)
    assert np.isneginf(found.log_prob(Events({"x": [-0.5, 1.5]}))).all()
    assert (found.columns, found.resample.members) == (("x",), 2)


def test_stored_posteriors():
    """Flows where they begin: normals with the moments of the 41 values of t and of x that they were fitted to."""
    t, x = np.linspace(-2, 4, 41), np.linspace(3, 5, 41) ** 2
    at, points = Events({"x": [16.0]}), np.array([[0.5], [2.0]])
    found = posterior.NeuralPosterior.load(example("posterior"))
    np.testing.assert_allclose(
        found.log_prob(points, at), stats.norm(t.mean(), t.std()).logpdf(points[:, 0]), rtol=1e-5
    )
    assert (found.names, found.prior.bounds) == (("t",), ((None, None),))
    learned = posterior.Likelihood.load(example("likelihood"))
    exact = stats.norm(x.mean(), x.std()).logpdf(16.0)
    np.testing.assert_allclose(learned.log_likelihood(points, at), exact, rtol=1e-5)
    sampled = posterior.LikelihoodPosterior.load(example("likelihood_posterior"))
    both = sampled.log_probs(points[None], at)[0]
    np.testing.assert_allclose(np.diff(both), np.diff(stats.norm(1, 2).logpdf(points[:, 0])), rtol=1e-4)
    narrowed = posterior.TruncatedPosterior.load(example("truncated_posterior"))
    assert (narrowed.names, len(narrowed.rounds)) == (("t",), 2)
    assert ((narrowed.draws(20, at_one := Events({"x": [1.0]}))[0] > -2) & (narrowed.draws(20, at_one)[0] < 4)).all()


def test_stored_ratio_posterior():
    """The prior times exp(1.5 (u + v) + 1/4), with u = (x - 1)/2 and v = (theta - 1/2)/4."""
    found, theta = posterior.RatioPosterior.load(example("ratio_posterior")), np.array([[[-0.5], [0.5], [1.5]]])
    logs = found.log_probs(theta, Events({"x": [2.0]}))[0]
    exact = stats.norm.logpdf(theta[0, :, 0]) + 1.5 * (0.5 + (theta[0, :, 0] - 0.5) / 4)
    np.testing.assert_allclose(np.diff(logs), np.diff(exact), rtol=1e-4)


def test_stored_diagnostics_of_simulations():
    """60 truths at even shares of the exact posterior: each rank, and each distance from far below, is that share."""
    sbc = diagnostics.SBC.load(example("sbc"))
    assert (sbc.names, sbc.draws, sbc.weight.tolist()) == (("mu", "log q"), 99, [1.0] * 60)
    np.testing.assert_array_equal(sbc.ranks[0], [((np.arange(99) + 0.5) / 99 < u).sum() for u in SHARES])
    assert sbc.chi2_p_values[0] > 0.999
    pull = diagnostics.Pull.load(example("pull"))
    assert pull == sbc.pulls[0]
    assert (pull.mean, pull.width) == (pytest.approx(0, abs=1e-6), pytest.approx(1, abs=0.05))
    assert "ranks are uniform" in str(sbc)
    found = diagnostics.Coverage.load(example("expected_coverage"))
    assert (found.names, found.by, found.size) == (("mu",), "x", 60)
    np.testing.assert_allclose(found.central, [[0.5, 0.9]], atol=0.01)
    np.testing.assert_allclose(found.observed, [0.5, 0.9], atol=0.02)
    np.testing.assert_allclose(found.error, np.sqrt(found.levels * (1 - found.levels) / 60), rtol=0.15)
    part = diagnostics.CoverageRegion.load(example("coverage_region"))
    assert [p.size for p in found.regions] == [29, 31]
    assert (part.low, part.high) == (-2, found.regions[0].high)
    np.testing.assert_array_equal(part.observed, found.regions[0].observed)
    tarp = diagnostics.TARP.load(example("tarp"))
    np.testing.assert_array_equal(tarp.ranks, sbc.ranks[0])
    np.testing.assert_allclose(tarp.coverage, tarp.levels, atol=0.02)
    assert tarp.p_value > 0.99


def test_stored_diagnostics_of_an_observation():
    """Of x = 1, whose posterior is N(1/2, 1/2), and p(x) = N(0, 2)."""
    drawn = 0.5 + np.sqrt(0.5) * stats.norm.ppf((np.arange(30) + 0.5) / 30)
    weight = np.array([1.0, 2.0, 2.0] * 10)
    found = diagnostics.Predictive.load(example("predictive"))
    np.testing.assert_allclose(found.replicas[:, 0], drawn, rtol=1e-12)
    np.testing.assert_array_equal(found.weight, weight)
    size = 50**2 / 90
    tail = 1 + weight[drawn >= 1].sum() * 50 / 90
    np.testing.assert_allclose(found.p_values, 2 * tail / (1 + size), rtol=1e-12)
    exact = diagnostics.Importance.load(example("importance"))
    assert exact.efficiency == pytest.approx(1)
    assert exact.log_evidence == pytest.approx(stats.norm.logpdf(1.0, 0.0, np.sqrt(2.0)))
    assert exact.pareto_k == -np.inf
    assert exact.events().columns == ("mu",)
    local = diagnostics.LC2ST.load(example("lc2st"))
    assert (local.statistic.tolist(), local.null.tolist(), local.p_value.tolist()) == ([0.1], [[0.0, 0.05, 0.2]], [0.5])
    assert "no sign" in str(local)
    like = diagnostics.OutOfDistribution.load(example("out_of_distribution"))
    assert like.simulations == 41
    assert like.p_value[1] == pytest.approx(2 / 42)
    assert like.distance[1] == pytest.approx(3 / np.sqrt(1 / 3), rel=0.2)
    sets = posterior.CalibratedSets.load(example("calibrated_sets"), Halved())
    inside = sets.contains({"mu": [0.5, 1.4, -1.9]}, Events({"x": [1.0]}), cl=0.68)
    limit = 1 + 2 * unit(np.array([0.5, 1.4, -1.9]))
    assert inside.tolist() == ((np.array([0.5, 1.4, -1.9]) - 0.5) ** 2 / 0.5 <= limit).tolist()
    assert inside.tolist() == [True, False, False]


def test_records_of_other_fields_are_refused(tmp_path):
    diagnostics.LC2ST.load(example("lc2st")).save(tmp_path / "f")
    with pytest.raises(ValueError, match="expected a file of kind 'tarp', found one of kind 'lc2st'"):
        diagnostics.TARP.load(tmp_path / "f")


def test_stored_invertible_rate_and_simulations():
    """A bijection, a rate not far from the mean count, and 30 simulations of which those above 3 failed."""
    found = invertible.Invertible.load(example("invertible"))
    assert found.draws(5, Events({"y": [0.5]}), seed=1).shape == (1, 5, 1)
    assert np.isfinite(found.forward(Events({"t": [0.2]}))).all()
    rate = posterior.FittedRate.load(example("rate"))
    import torch

    assert 2.5 / 3 < float(rate(torch.tensor([[1.0]], dtype=torch.float64))[0]) < 3 * 2.5
    runs = posterior.Simulations.load(example("simulations"))
    assert len(runs.events) + len(runs.failures) == 30
    assert len(runs.failures) > 0
    assert (runs.events["t"] <= 3).all()
    assert (runs.failures["t"] > 3).all()


def test_stored_fit_and_minos():
    found = intervals.Fit.load(example("fit"))
    assert (found.names, found.fixed, found.valid, found.at_limit) == (("a", "b"), {}, True, ())
    np.testing.assert_allclose(list(found.values.values()), [1, -1], atol=1e-3)
    np.testing.assert_allclose(found.covariance, [[0.25, 0.6], [0.6, 4.0]], rtol=1e-4)
    assert isinstance(found.calls, intervals.fits.Calls)
    sides = intervals.Minos.load(example("minos"))
    half = np.sqrt(stats.chi2.ppf(0.68, 1))
    np.testing.assert_allclose([sides.down, sides.up], half * np.array([[0.5, 2.0], [0.5, 2.0]]), rtol=1e-4)


def test_stored_signals():
    """25 events where 10 mu + 10 are expected."""
    found = intervals.Discovery.load(example("discovery"))
    assert (found.name, found.null) == ("mu", 0.0)
    assert found.z == pytest.approx(np.sqrt(2 * (25 * np.log(2.5) - 15)), rel=1e-4)

    def root(n, mean):
        return np.sqrt(2 * (mean - n + n * np.log(n / mean)))

    limit = intervals.UpperLimit.load(example("upper_limit"))
    at, expected = root(25, 10 + 10 * limit.observed), root(10, 10 + 10 * limit.observed)
    assert stats.norm.sf(at) / stats.norm.cdf(expected - at) == pytest.approx(0.05, rel=1e-3)
    curve = intervals.LimitCurve.load(example("limit_curve"))
    assert curve.limit.observed == pytest.approx(limit.observed, rel=1e-6)
    assert curve.expected.shape == (8, 5)
    bounded = intervals.BoundedInterval.load(example("bounded_interval"))
    assert bounded.best == pytest.approx(1.5, rel=1e-3)
    assert root(25, 10 + 10 * bounded.high) ** 2 == pytest.approx(stats.chi2.ppf(0.95, 1), rel=0.02)


def test_stored_training_uncertainty():
    found = intervals.TrainingUncertainty.load(example("training_uncertainty"))
    np.testing.assert_allclose(found.bootstraps, [[0], [1], [2]], atol=1e-3)
    np.testing.assert_allclose(found.total, [[1.25]], rtol=1e-3)


def test_infinite_numbers_are_saved(tmp_path):
    open_ended = intervals.BoundedInterval("mu", 0.95, 0.0, 1.0, 0.2, np.inf)
    open_ended.save(tmp_path / "interval.safetensors")
    found = intervals.BoundedInterval.load(tmp_path / "interval.safetensors")
    assert (found.name, found.low, found.high) == ("mu", 0.2, np.inf)


def test_stored_profile_and_contour():
    """Of a at 1 +- 1/2 and b at -1 +- 2, with a correlation of 0.6."""
    found = intervals.Profile.load(example("profile"))
    grid = np.linspace(-1, 3, 9)
    np.testing.assert_allclose(found.values, 4 * (grid - 1) ** 2, atol=1e-6)
    half = 0.5 * np.sqrt(stats.chi2.ppf(0.95, 1))
    np.testing.assert_allclose(found.interval(0.95), [(1 - half, 1 + half)], rtol=1e-5)
    np.testing.assert_allclose(found.others()["b"], -1 + 2.4 * (grid - 1), atol=1e-4)
    assert (found.name, found.period, found.limits) == ("a", None, (-np.inf, np.inf))
    ellipse = intervals.Contour.load(example("contour"))
    inverse = np.linalg.inv([[0.25, 0.6], [0.6, 4.0]])
    away = np.stack(np.meshgrid(grid - 1, np.linspace(-9, 7, 9) + 1, indexing="ij"), -1)
    np.testing.assert_allclose(ellipse.values, np.einsum("abi,ij,abj->ab", away, inverse, away), atol=1e-6)
    (line,) = ellipse.curves(0.68)
    assert line[:, 0].max() == pytest.approx(1 + 0.5 * np.sqrt(stats.chi2.ppf(0.68, 2)), abs=2e-3)
    assert ellipse.cls == (0.68, 0.95)


def test_stored_impacts():
    found = intervals.Impacts.load(example("impacts"))
    measured = np.linalg.inv([[2.0, 0.5], [0.5, 1.0]])
    covariance = np.linalg.inv(measured + np.diag([0, 1]))
    best = covariance @ measured @ [2.0, 0.0]
    shift = covariance[0, 1] / np.sqrt(covariance[1, 1])
    assert found.value == pytest.approx(best[0], rel=1e-4)
    assert found.error == pytest.approx(np.sqrt(covariance[0, 0]), rel=1e-4)
    assert found.statistical == pytest.approx(np.sqrt(covariance[0, 0] - shift**2), rel=1e-4)
    assert found.groups["beam"] == pytest.approx(shift, rel=1e-3)
    np.testing.assert_allclose(found.postfit, [[-shift, shift]], rtol=1e-3)
    assert found.pulls[0] == pytest.approx(best[1], abs=1e-4)
    assert found.constraints[0] == pytest.approx(np.sqrt(covariance[1, 1]), rel=1e-4)
    assert (found.parameters, found.free, found.two_points) == (("lumi",), (), {})


def test_stored_neyman_construction():
    """Of a normal measurement x = 0.5: t = (x - mu)^2, for each of the toys too."""
    found, grid = intervals.Neyman.load(example("neyman")), np.linspace(-2, 3, 6)
    np.testing.assert_allclose(found.observed, (grid - 0.5) ** 2, atol=1e-6)
    np.testing.assert_allclose(found.toys, (found.best[..., 0] - grid[:, None]) ** 2, atol=1e-6)
    exact = stats.chi2.ppf(0.68, 1)
    sigma = np.sqrt(0.68 * 0.32 / 60) / stats.chi2.pdf(exact, 1)
    np.testing.assert_allclose(found.critical(0.68).value, exact, atol=4 * sigma)
    assert found.accepted(0.68).tolist() == [False, False, True, True, False, False]
    assert found.best_fit == {"mu": pytest.approx(0.5)}
    assert found.statistic is not None
    assert found.statistic.interest == ("mu",)


def test_stored_toys_and_critical_values():
    toys = intervals.Toys.load(example("toys"))
    assert (len(toys), toys.failed, toys.box) == (200, 0, {"mu": (-2, 2)})
    assert toys.t.mean() == pytest.approx(1, abs=4 * np.sqrt(2 / 200))
    assert toys.theta.std() == pytest.approx(4 / np.sqrt(12), abs=4 * 4 / np.sqrt(12) * np.sqrt(0.2 / 200))
    found, mu = intervals.CriticalValues.load(example("critical_values")), np.array([-2.0, 0.0, 1.0])
    u = unit(mu)
    np.testing.assert_allclose(found.at({"mu": mu}, 0.68), 1 + 2 * u, atol=1e-6)
    np.testing.assert_allclose(found.at({"mu": mu}, 0.9), 1 + 2 * (u + np.log(1 + np.e)), atol=1e-6)
    chosen, grid = intervals.ConfidenceSet.load(example("confidence_set")), np.linspace(-2, 2, 9)
    np.testing.assert_allclose(chosen.observed, (grid - 0.5) ** 2, atol=1e-6)
    np.testing.assert_allclose(chosen.critical, 1 + 2 * unit(grid), atol=1e-6)
    np.testing.assert_array_equal(chosen.accepted, (grid - 0.5) ** 2 <= 1 + 2 * unit(grid))
    assert chosen.cl == 0.68


def test_stored_coverage():
    found = intervals.Coverage.load(example("coverage"))
    assert (found.interest, found.cls, found.toys) == (("mu",), (0.68, 0.95), 100)
    assert found.truths["mu"].tolist() == [0, 1]
    assert np.abs(found.away()).max() < 4
    np.testing.assert_allclose(found.covered_error, np.sqrt(found.covered * (1 - found.covered) / 100), rtol=0.1)
    assert np.abs(found.bias / found.bias_error).max() < 4
    np.testing.assert_allclose(found.pull_width, 1, atol=4 / np.sqrt(200))
    np.testing.assert_allclose(found.bias, found.pull_mean, atol=1e-6)  # errors of 1
    local = intervals.LocalCoverage.load(example("local_coverage"))
    exact = stats.chi2.cdf(1, 1)  # of the constant critical value 1
    assert np.abs((local.covered - exact) / local.error).max() < 4
    assert local.chi2 == pytest.approx(100 * np.sum((local.covered - 0.68) ** 2) / (0.68 * 0.32))
    assert local.p_value == pytest.approx(stats.chi2.sf(local.chi2, 2))
    smooth = local.at({"mu": [-1.0, 1.0]})
    np.testing.assert_allclose(smooth.value, local.covered, atol=4 * local.error.max())


def test_stored_workspace():
    """Differences of -2 log L, with norms where their interpolation is the given variation."""
    found = likelihood.Workspace.load(DATA / "workspace_format_1")
    assert found.names == ("mu", "lumi", "b")

    def expected(mu: float, lumi: float, b: float) -> float:
        log_r = lambda x: np.where(x > 1, 3.0, 1.0) * (x - 1) / 2  # noqa: E731 - without the calibration
        x, w = np.linspace(-1, 3, 9), np.linspace(1, 2, 9)
        data = np.array([-1.0, 0.0, 2.0, 3.0])
        s = np.exp(log_r(data)) / np.average(np.exp(log_r(x)), weights=w)
        signal = 100 * mu * {-1: 0.9, 1: 1.1}[int(lumi)]
        near = 2 * (signal + 200 - np.log(signal * s + 200).sum())
        rate, n = mu * np.array([10, 20]) + b * np.array([30, 5]), np.array([41, 24])
        return float(near + 2 * (rate - n * np.log(rate)).sum() + (lumi - 0.2) ** 2 + (np.log(b) / np.log(1.2)) ** 2)

    start = (1.0, 1.0, 1.0)
    for values in ((1.3, 1.0, 1.0), (1.0, -1.0, 1.0), (0.7, -1.0, 1.2)):
        difference = found.cost(*values) - found.cost(*start)
        assert difference == pytest.approx(expected(*values) - expected(*start), abs=1e-3)
    assert abs(expected(1.3, 1.0, 1.0) - expected(*start)) > 1
