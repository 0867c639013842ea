"""Files of unfolded results: what is written is what others read, to the last digit."""

from __future__ import annotations

import json
import re
from functools import cache
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
import uproot
import yaml
from numpy.typing import NDArray
from pyarrow import parquet

from nuinfer import Events, Ragged, io
from nuinfer.errors import CorruptFile
from nuinfer.simulators import GaussianUnfolding
from nuinfer.unfolding import Binning, Spectrum, Unfolded
from nuinfer.unfolding.cross_sections import CrossSection, cross_section
from nuinfer.unfolding.export import (
    HepDataTable,
    UnbinnedResult,
    export_hepdata,
    export_root,
    export_unbinned,
    read_unbinned,
)

Floats = NDArray[np.float64]

PROBLEM = GaussianUnfolding.with_detector()
EDGES = np.linspace(-2.5, 2.5, 11)
SIZE = len(PROBLEM.simulation(4000, 3))
SUFFIXES = [".parquet", ".h5", ".hdf5"]
LINE = Binning("p", [0.0, 1.0, 3.0])
GRID = Binning.of({"p": [0.0, 0.5, 1.0, 3.0], "cos": [-1.0, 0.0, 1.0]})
SLICES = Binning("cos", [-1.0, 0.0, 1.0], [Binning("p", [0.0, 3.0]), Binning("p", [0.0, 0.5, 3.0])])
OPEN = Binning("p", [-np.inf, 0.0, 1.5, np.inf])


@cache
def unfolded(n: int = 4000) -> Unfolded:
    """The exact weights of the second iteration, with members and replicas that scatter about them."""
    simulation = PROBLEM.simulation(n, 3)
    n = len(simulation)  # fakes come in addition
    counts = np.random.default_rng(1).integers(0, 4, n)
    cloud = {f"hits.{c}": Ragged(np.arange(counts.sum()) * s, np.concatenate([[0], np.cumsum(counts)]))
             for c, s in (("x", 1.0), ("q", 0.5))}  # fmt: skip
    simulation = simulation.with_columns(cloud)
    exact = np.where(simulation["pass_truth"], PROBLEM.weight_at(np.nan_to_num(simulation["t0"]), 2), 1.0)
    rng = np.random.default_rng(2)
    members, replicas = (exact * (1 + 0.1 * rng.standard_normal((k, n))) for k in (3, 5))
    return Unfolded(simulation, members, replicas, (), 7, settings={"method": "omnifold", "iterations": 2})


@pytest.mark.parametrize("suffix", [".parquet", ".h5"])
def test_weights_are_absolute(tmp_path: Path, suffix: str) -> None:
    """The simulation's own weights are in all of them; variations are averaged."""
    simulation = Events({"p": [0.5, 0.7, 2.0]}, weight=[2.0, 3.0, -1.0])
    result = Unfolded(simulation, np.array([[1.0, 2.0, 1.0], [3.0, 2.0, 1.0]]), np.array([[0.0, 1.0, 2.0]]), (), 1)
    shifts = np.array([[3.0, 2.0, 1.0], [2.0, 2.0, 0.0], [2.0, 2.0, 1.0]])
    export_unbinned(tmp_path / f"r{suffix}", result, columns=["p"], systematics={"flux": shifts})
    found = read_unbinned(tmp_path / f"r{suffix}")
    assert found.events.weight.tolist() == [4.0, 6.0, -1.0]
    assert found.members.tolist() == [[2.0, 6.0, -1.0], [6.0, 6.0, -1.0]]
    assert found.replicas.tolist() == [[0.0, 3.0, -2.0]]
    spectrum = found.spectrum(LINE)
    assert spectrum.values.tolist() == result.spectrum(LINE).values.tolist() == [10.0, -1.0]
    np.testing.assert_allclose(spectrum.covariances["flux"], np.diag([4.0, 1.0]) / 3)  # (2, 0), (0, 1), (0, 0)


def export(path: Path, **more: Any) -> Path:
    export_unbinned(path, unfolded(), **({"columns": ["t0", "hits"]} | more))
    return path


# -- unbinned ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_unbinned_results_come_back_to_the_bit(tmp_path: Path, suffix: str) -> None:
    result = unfolded()
    truth = result.simulation["pass_truth"]
    assert 0 < (~truth).sum() < len(truth)
    extra = result.weights[0] * 1.1, np.stack([result.weights[0] * 0.9, result.weights[0] * 1.2])
    path = export(
        tmp_path / f"out/result{suffix}", systematics={"flux": extra[0], "detector": extra[1]}, units={"t0": "GeV"},
        exposure={"POT": 3e20, "targets": 3.5e31}, description="pass_truth: all",
    )  # fmt: skip
    found = read_unbinned(path)
    simulation = result.simulation.select(truth)
    assert found.events.columns == ("t0", "hits.x", "hits.q")
    np.testing.assert_array_equal(found.events["t0"], simulation["t0"])
    np.testing.assert_array_equal(found.events.id, simulation.id)
    for part in ("values", "offsets"):
        for name in ("hits.x", "hits.q"):
            np.testing.assert_array_equal(getattr(found.events[name], part), getattr(simulation[name], part))
    own = simulation.weight
    np.testing.assert_array_equal(found.simulation_weight, own)
    np.testing.assert_array_equal(found.members, result.weights[:, truth] * own)
    np.testing.assert_array_equal(found.replicas, result.replicas[:, truth] * own)
    np.testing.assert_array_equal(found.events.weight, result.weights[:, truth].mean(0) * own)
    np.testing.assert_array_equal(found.systematics["flux"], extra[0][None, truth] * own)
    np.testing.assert_array_equal(found.systematics["detector"], extra[1][:, truth] * own)
    expected = {
        "format": 1, "seed": 7, "members": 3, "replicas": 5, "systematics": {"flux": 1, "detector": 2},
        "units": {"t0": "GeV"}, "exposure": {"POT": 3e20, "targets": 3.5e31}, "description": "pass_truth: all",
        "settings": result.settings, "events": int(truth.sum()), "fakes left out": int((~truth).sum()),
    }  # fmt: skip
    assert {key: found.metadata[key] for key in expected} == expected
    assert [p.name for p in path.parent.iterdir()] == [path.name]  # nothing temporary stays
    assert "3 members, 5 replicas, systematics flux, detector)" in repr(found)


@pytest.mark.parametrize("suffix", [".parquet", ".h5"])
def test_the_spectrum_of_a_file_is_that_of_the_result(tmp_path: Path, suffix: str) -> None:
    shift = unfolded().weights.mean(0) * 1.1
    found = read_unbinned(export(tmp_path / f"r{suffix}", systematics={"flux": shift})).spectrum({"t0": EDGES})
    own = unfolded().spectrum({"t0": EDGES})
    np.testing.assert_allclose(found.values, own.values, rtol=1e-12)
    for name in ("statistical", "method"):
        np.testing.assert_allclose(found.covariances[name], own.covariances[name], rtol=1e-9)
    # a shift of all weights by a tenth
    np.testing.assert_allclose(found.covariances["flux"], 0.01 * np.outer(own.values, own.values), rtol=1e-9)
    # and it is the exact unfolded truth: the simulation, unweighted, is not
    truth = unfolded().simulation["pass_truth"]
    exact = PROBLEM.bin_probabilities(EDGES, 2) * PROBLEM.unfolded(2).total * truth.sum()
    t, weight = unfolded().simulation["t0"][truth], unfolded().weights.mean(0)[truth]
    sigma = np.sqrt(np.histogram(t, EDGES, weights=weight**2)[0])
    assert (np.abs(found.values - exact) < 4 * sigma).all()
    assert (np.abs(np.histogram(t, EDGES)[0] - exact) > 4 * sigma).sum() >= 3


def test_plain_pyarrow_and_pandas_read_it(tmp_path: Path) -> None:
    path = export(tmp_path / "result.parquet")
    own = unfolded().spectrum({"t0": EDGES})
    table = parquet.read_table(path)
    contents, _ = np.histogram(table["t0"].to_numpy(), EDGES, weights=table["weight"].to_numpy())
    np.testing.assert_allclose(contents, own.values, rtol=1e-12)
    metadata = json.loads(parquet.read_schema(path).metadata[b"unfolded"])
    assert metadata["columns"] == ["t0", "hits.x", "hits.q"]
    first = int(np.flatnonzero(read_unbinned(path).events["hits.x"].counts)[0])
    assert table["hits"][first].as_py()[0].keys() == {"x", "q"}
    pandas = pytest.importorskip("pandas")
    frame = pandas.read_parquet(path)
    names = ["t0", "hits", "weight_simulation", *(f"weight_member_{k}" for k in range(3)),
             *(f"weight_replica_{k}" for k in range(5)), "weight", "id"]  # fmt: skip
    assert sorted(frame.columns) == sorted(names)
    for k in range(5):
        contents, _ = np.histogram(frame["t0"], EDGES, weights=frame[f"weight_replica_{k}"])
        np.testing.assert_allclose(contents, own.replicas[k], rtol=1e-12)


def test_plain_h5py_reads_it(tmp_path: Path) -> None:
    own = unfolded().spectrum({"t0": EDGES})
    with h5py.File(export(tmp_path / "result.h5")) as file:
        contents, _ = np.histogram(file["events/t0"], EDGES, weights=file["events/weight"])
        np.testing.assert_allclose(contents, own.values, rtol=1e-12)
        assert json.loads(file["metadata"][()])["seed"] == 7
        assert len(file["events/hits.x/offsets"]) == len(file["events/t0"]) + 1


def test_the_readers_of_events_read_it_with_the_nominal_weight(tmp_path: Path) -> None:
    for suffix, read in ((".parquet", io.read_parquet), (".h5", io.read_hdf5)):
        path = export(tmp_path / f"result{suffix}")
        np.testing.assert_array_equal(read(path).weight, read_unbinned(path).events.weight)


def test_all_columns_at_once_of_many_row_groups(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(io, "_ROW_GROUP", 1e5)
    path = export(tmp_path / "result.parquet")
    assert parquet.ParquetFile(path).num_row_groups > 3
    whole = unfolded().simulation.select(unfolded().simulation["pass_truth"])
    np.testing.assert_array_equal(read_unbinned(path).events["hits.q"].values, whole["hits.q"].values)


def test_existing_files_stay(tmp_path: Path) -> None:
    path = export(tmp_path / "result.h5")
    before = path.read_bytes()
    with pytest.raises(FileExistsError, match=r"result.h5: expected no file, found one; .*overwrite=True"):
        export(path)
    assert path.read_bytes() == before
    export(path, columns=["t0"], overwrite=True)
    assert read_unbinned(path).events.columns == ("t0",)
    (tmp_path / "folder.h5").mkdir()
    with pytest.raises(IsADirectoryError, match="found a folder"):
        export(tmp_path / "folder.h5", overwrite=True)
    with pytest.raises(NotADirectoryError, match=r"expected a folder at .*result.h5, found a file"):
        export(path / "inner.h5")


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"columns": ["t1"]}, KeyError, "no column 't1'"),
        ({"columns": []}, ValueError, "at least one true column"),
        ({"columns": ["x0"]}, ValueError, "column 'x0': expected finite values"),
        ({"units": {"q": "GeV"}}, KeyError, "no published column 'q'"),
        ({"systematics": {"flux": np.ones(3)}}, ValueError, rf"expected weights \({SIZE},\) or \(variations, {SIZE}\)"),
        ({"systematics": {"member": np.ones(SIZE)}}, ValueError, "and not simulation, member or replica"),
        ({"systematics": {"a/b": np.ones(SIZE)}}, ValueError, "a name of letters and digits"),
        ({"systematics": {"flux": np.full(SIZE, np.nan)}}, ValueError, "weights of flux 0: expected finite"),
        ({"exposure": {"POT": np.inf}}, ValueError, "exposure 'POT': expected a positive, finite number, found inf"),
    ],
)
def test_bad_unbinned(tmp_path: Path, change: dict[str, Any], error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        export(tmp_path / "result.h5", **change)
    assert not list(tmp_path.iterdir())


def test_names_and_suffixes_that_cannot_be(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"a file named \*.parquet, \*.h5, \*.hdf5, found '.csv'"):
        export(tmp_path / "result.csv")
    taken = Unfolded(Events({"weight_x": [1.0]}), np.ones((1, 1)), np.empty((0, 1)), (), 1)
    with pytest.raises(ValueError, match="'weight_x': expected another name"):
        export_unbinned(tmp_path / "result.h5", taken, columns=["weight_x"])


def test_what_is_no_result_is_refused(tmp_path: Path) -> None:
    for suffix, write in ((".parquet", io.write_parquet), (".h5", io.write_hdf5)):
        path = tmp_path / f"events{suffix}"
        write(path, Events({"x": [1.0]}))
        with pytest.raises(ValueError, match="written by export_unbinned, found events without its metadata"):
            read_unbinned(path)
        export(path, overwrite=True)
        path.write_bytes(path.read_bytes()[:2000])
        with pytest.raises(CorruptFile):
            read_unbinned(path)
    path = export(tmp_path / "newer.h5")
    with h5py.File(path, "r+") as file:
        text = json.loads(file["metadata"][()]) | {"format": 2}
        del file["metadata"]
        file["metadata"] = json.dumps(text)
    with pytest.raises(ValueError, match="format 2, newer than this nuinfer's 1"):
        read_unbinned(path)
    with pytest.raises(FileNotFoundError):
        read_unbinned(tmp_path / "none.h5")


def test_without_replicas_and_systematics(tmp_path: Path) -> None:
    plain = Unfolded(Events({"p": [0.5, 2.0]}), np.array([[2.0, 3.0]]), np.empty((0, 2)), (), 1)
    export_unbinned(tmp_path / "r.parquet", plain, columns=["p"])
    found = read_unbinned(tmp_path / "r.parquet")
    assert isinstance(found, UnbinnedResult)
    assert found.replicas.shape == (0, 2)
    assert found.spectrum(LINE).values.tolist() == [2.0, 3.0]
    assert found.spectrum(LINE).covariances == {}


# -- binned ------------------------------------------------------------------------------------------------------------


def spectrum(bins: Binning, *, smearing: bool = True) -> Spectrum:
    rng = np.random.default_rng(bins.size)
    root = rng.standard_normal((bins.size, bins.size))
    covariances = {"data": np.diag(rng.uniform(1, 2, bins.size)), "cross section": root @ root.T}
    matrix = np.eye(bins.size) + 0.1 * root if smearing else None
    return Spectrum(bins, rng.uniform(50, 90, bins.size), covariances, matrix, settings={"method": np.float64(2.5)})


def sigma(bins: Binning) -> CrossSection:
    made: dict[str, Any] = {"flux": 7e-10, "targets": 3.5e31, "exposure": 3e20, "averaging": "nominal"}
    return cross_section(spectrum(bins), **made, normalisation={"targets": 0.01}, units={"p": "GeV"})


BINNED = {
    "line": lambda: spectrum(LINE), "grid": lambda: spectrum(GRID), "slices": lambda: spectrum(SLICES),
    "open": lambda: spectrum(OPEN), "cross section": lambda: sigma(GRID), "sliced": lambda: sigma(SLICES),
    "three": lambda: spectrum(Binning.of({"p": [0, 1, 2], "q": [0, 1, 2], "r": [0, 1]})),
}  # fmt: skip
CLASSES = {"line": "TH1D", "grid": "TH2D", "slices": "TH1D", "open": "TH1D", "cross section": "TH2D", "sliced": "TH1D",
           "three": "TH3D"}  # fmt: skip


@pytest.mark.parametrize("kind", BINNED)
def test_root_files_hold_every_digit(tmp_path: Path, kind: str) -> None:
    result = BINNED[kind]()
    export_root(tmp_path / "result.root", result)
    with uproot.open(tmp_path / "result.root") as file:
        assert file.classnames(cycle=False)["values"] == CLASSES[kind]
        values = file["values"]
        np.testing.assert_array_equal(values.values().ravel(), result.values)
        np.testing.assert_array_equal(values.variances().ravel(), np.diag(result.covariance))
        np.testing.assert_array_equal(file["covariance/total"].values(), result.covariance)
        for source, matrix in result.covariances.items():
            np.testing.assert_array_equal(file[f"covariance/{source}"].values(), matrix)
        np.testing.assert_array_equal(file["smearing"].values(), result.smearing)
        if CLASSES[kind] != "TH1D" or kind == "line":
            for axis, edges in zip(values.axes, result.binning.grid, strict=True):
                np.testing.assert_array_equal(axis.edges(), edges)
        metadata = json.loads(str(file["metadata"]))
    again = Binning.from_json(metadata["binning"])
    np.testing.assert_array_equal(again.cells, result.binning.cells)
    assert metadata["sources"] == list(result.covariances)
    is_sigma = isinstance(result, CrossSection)
    assert metadata["units"] == (result.units if is_sigma else "events")
    assert metadata.get("averaging") == ("nominal" if is_sigma else None)
    found = io.read_hist(f"{tmp_path / 'result.root'}:values")
    np.testing.assert_array_equal(found.values().ravel(), result.values)


def test_no_smearing_no_histogram(tmp_path: Path) -> None:
    export_root(tmp_path / "result.root", spectrum(LINE, smearing=False))
    with uproot.open(tmp_path / "result.root") as file:
        assert "smearing" not in file
        assert sorted(file["covariance"].keys(cycle=False)) == ["cross section", "data", "total"]


def test_what_is_missing_or_not_finite_is_not_published(tmp_path: Path) -> None:
    bare = Spectrum(LINE, np.ones(2), {})
    nan = Spectrum(LINE, np.array([1.0, np.nan]), {"data": np.eye(2)})
    wild = Spectrum(LINE, np.ones(2), {"data": np.diag([1.0, np.inf])})
    bent = Spectrum(LINE, np.ones(2), {"data": np.eye(2)}, np.full((2, 2), np.nan))
    cases = (bare, "covariances to publish, found none"), (nan, "values: expected finite"), (
        wild, "covariance 'data': expected finite"), (bent, "smearing: expected finite")  # fmt: skip
    for result, message in cases:
        with pytest.raises(ValueError, match=message):
            export_root(tmp_path / "result.root", result)
        with pytest.raises(ValueError, match=message):
            export_hepdata(tmp_path / "hep", {"a": HepDataTable(result, "", "n")})
    for name in ("a/b", "a;1", "total"):
        with pytest.raises(ValueError, match="without '/' and ';', other than 'total'"):
            export_root(tmp_path / "result.root", Spectrum(LINE, np.ones(2), {name: np.eye(2)}))
    assert not list(tmp_path.iterdir())
    export_root(tmp_path / "result.root", spectrum(LINE))
    with pytest.raises(FileExistsError, match="overwrite=True"):
        export_root(tmp_path / "result.root", spectrum(LINE))
    export_root(tmp_path / "result.root", spectrum(GRID), overwrite=True)


# -- HEPData -----------------------------------------------------------------------------------------------------------

Number = (int, float)


def keys(found: dict[str, Any], required: str, allowed: str = "") -> None:
    assert isinstance(found, dict)
    assert set(required.split()) <= set(found) <= {*required.split(), *allowed.split()}


def check_header(found: dict[str, Any]) -> None:
    keys(found, "name", "units")
    assert all(isinstance(value, str) for value in found.values())


def check_data(table: dict[str, Any]) -> None:
    """The fields of a data table (schema 1.1.1), and equal lengths."""
    keys(table, "independent_variables dependent_variables")
    lengths = set()
    for variable in table["independent_variables"]:
        keys(variable, "header values")
        check_header(variable["header"])
        lengths.add(len(variable["values"]))
        for value in variable["values"]:
            if "low" in value:
                keys(value, "low high", "value")
                assert all(isinstance(v, Number) and np.isfinite(v) for v in value.values())
            else:
                keys(value, "value")
                assert isinstance(value["value"], (str, *Number))
                assert not re.match(r"^[-+.\de]+\s*-\s*[-+.\de]+$", str(value["value"]))  # ranges are low and high
    for variable in table["dependent_variables"]:
        keys(variable, "header values", "qualifiers")
        check_header(variable["header"])
        lengths.add(len(variable["values"]))
        for qualifier in variable.get("qualifiers", ()):
            keys(qualifier, "name value", "units")
        for value in variable["values"]:
            keys(value, "value", "errors")
            assert isinstance(value["value"], Number)
            for error in value.get("errors", ()):
                keys(error, "symerror label")
                assert isinstance(error["symerror"], Number)
                assert error["symerror"] > 0  # they may not all be zero
                assert isinstance(error["label"], str)
    assert len(lengths) == 1


def check_submission(document: dict[str, Any]) -> None:
    keys(document, "name description keywords data_file", "location")
    assert len(document["name"]) <= 64
    assert len(document.get("location", "")) <= 256
    for keyword in document["keywords"]:
        keys(keyword, "name values")
        assert keyword["name"] in ("cmenergies", "observables", "reactions", "phrases")
        assert isinstance(keyword["values"], list)


def read(folder: Path) -> tuple[list[dict[str, Any]], dict[str, dict[str, Any]]]:
    documents = list(yaml.safe_load_all((folder / "submission.yaml").read_text("utf-8")))
    tables = [d for d in documents if "name" in d]
    return documents, {d["name"]: yaml.safe_load((folder / d["data_file"]).read_text("utf-8")) for d in tables}


def numbers(variable: dict[str, Any]) -> Floats:
    return np.array([value["value"] for value in variable["values"]])


@pytest.mark.parametrize("kind", BINNED)
def test_hepdata_holds_every_digit(tmp_path: Path, kind: str) -> None:
    result = BINNED[kind]()
    table = HepDataTable(
        result, "A \"double\" one: ν, \n a second line, and so on for a hundred letters and some more of them.",
        "d2sigma/dp dcos(theta)", column_units={"p": "GeV"}, location="Figure 3",
        qualifiers={"RE": "NUMU AR --> MU- X"},
        keywords={"reactions": ["NUMU AR --> MU- X"], "observables": ["D2SIG/DP/DCOS"], "cmenergies": [0.98]},
    )  # fmt: skip
    export_hepdata(tmp_path / "hep", {"Result 1": table}, comment="An abstract.")
    documents, tables = read(tmp_path / "hep")
    assert documents[0] == {"comment": "An abstract."}
    for document in documents[1:]:
        check_submission(document)
    assert documents[1]["description"] == table.description
    assert documents[1]["keywords"][2] == {"name": "cmenergies", "values": [0.98]}
    assert list(tables) == ["Result 1", "Result 1 covariance", "Result 1 smearing"]
    for data in tables.values():
        check_data(data)
    values = tables["Result 1"]["dependent_variables"][0]
    np.testing.assert_array_equal(numbers(values), result.values)
    assert values["header"]["units"] == (result.units if isinstance(result, CrossSection) else "events")
    for i, value in enumerate(values["values"]):
        errors = {error["label"]: error["symerror"] for error in value["errors"]}
        assert errors == {source: np.sqrt(c[i, i]) for source, c in result.covariances.items()}
    shape = result.covariance.shape
    found = {
        v["header"]["name"]: numbers(v).reshape(shape) for v in tables["Result 1 covariance"]["dependent_variables"]
    }
    np.testing.assert_array_equal(found.pop("covariance, total"), result.covariance)
    assert list(found) == [f"covariance, {source}" for source in result.covariances]
    for source, matrix in result.covariances.items():
        np.testing.assert_array_equal(found[f"covariance, {source}"], matrix)
    smearing = tables["Result 1 smearing"]
    np.testing.assert_array_equal(numbers(smearing["dependent_variables"][0]).reshape(shape), result.smearing)
    rows, columns = (numbers(v).reshape(shape) for v in smearing["independent_variables"])
    assert (rows == np.arange(1, shape[0] + 1)[:, None]).all()
    assert (columns == rows.T).all()


def test_hepdata_has_the_edges_of_bins(tmp_path: Path) -> None:
    export_hepdata(tmp_path, {"a": HepDataTable(spectrum(SLICES), "", "n", column_units={"p": "GeV"})})
    cos, p = read(tmp_path)[1]["a"]["independent_variables"]
    assert (cos["header"], p["header"]) == ({"name": "cos"}, {"name": "p", "units": "GeV"})
    found = np.array([[[v["low"], v["high"]] for v in variable["values"]] for variable in (cos, p)])
    np.testing.assert_array_equal(np.moveaxis(found, 0, 1), SLICES.cells)
    export_hepdata(tmp_path / "open", {"a": HepDataTable(spectrum(OPEN), "", "n")})
    (p,) = read(tmp_path / "open")[1]["a"]["independent_variables"]
    assert p["values"] == [{"value": "< 0.0"}, {"low": 0.0, "high": 1.5}, {"value": "> 1.5"}]


@pytest.mark.parametrize(
    "value", [1e-38, -3e-05, 1e22, 0.1 + 0.2, 5e-324, 1.7976931348623157e308, 0.0, -1.0, 123456789.0]
)
def test_any_number_is_read_as_that_number(tmp_path: Path, value: float) -> None:
    """YAML 1.1 takes 1e-38 for a text."""
    assert isinstance(yaml.safe_load("1e-38"), str)
    export_hepdata(tmp_path, {"a": HepDataTable(Spectrum(LINE, np.array([value, 1.0]), {"data": np.eye(2)}), "", "n")})
    found = read(tmp_path)[1]["a"]["dependent_variables"][0]["values"][0]["value"]
    assert isinstance(found, float)
    assert found == value


def test_sources_without_variance_in_a_bin_are_left_out_of_it(tmp_path: Path) -> None:
    part = Spectrum(LINE, np.ones(2), {"data": np.diag([0.0, 4.0]), "flux": np.diag([0.0, 0.0])})
    export_hepdata(tmp_path, {"a": HepDataTable(part, "", "n")})
    tables = read(tmp_path)[1]
    values = tables["a"]["dependent_variables"][0]["values"]
    assert values == [{"value": 1.0}, {"value": 1.0, "errors": [{"symerror": 2.0, "label": "data"}]}]
    assert "a smearing" not in tables


def test_averaging_is_a_qualifier(tmp_path: Path) -> None:
    export_hepdata(tmp_path, {"a": HepDataTable(sigma(LINE), "", "n")})
    qualifiers = read(tmp_path)[1]["a"]["dependent_variables"][0]["qualifiers"]
    assert qualifiers == [{"name": "flux averaging", "value": "nominal"}]


def test_several_results_make_one_submission(tmp_path: Path) -> None:
    export_hepdata(tmp_path, {"A": HepDataTable(spectrum(LINE), "", "n"), "B": HepDataTable(sigma(GRID), "", "s")})
    assert list(read(tmp_path)[1]) == ["A", "A covariance", "A smearing", "B", "B covariance", "B smearing"]


def test_bad_submissions(tmp_path: Path) -> None:
    def table(**more: Any) -> HepDataTable:
        return HepDataTable(spectrum(LINE), "", "n", **more)

    for tables, error, message in [
        ({}, ValueError, "at least one, found none"),
        ({"a" * 60: table()}, ValueError, "at most 64 letters, found 71"),
        ({"a b": table(), "a-b": table()}, ValueError, "a_b.yaml again"),
        ({"submission": table()}, ValueError, "submission.yaml again"),
        ({"a": table(keywords={"energy": ["1"]})}, ValueError, "found 'energy'"),
        ({"a": table(column_units={"q": "GeV"})}, KeyError, "no published column 'q'"),
    ]:  # type: ignore[misc]
        with pytest.raises(error, match=message):
            export_hepdata(tmp_path / "hep", tables)  # type: ignore[arg-type]
    assert not list(tmp_path.iterdir())
    export_hepdata(tmp_path / "hep", {"a": table()})
    before = (tmp_path / "hep" / "submission.yaml").read_text("utf-8")
    with pytest.raises(FileExistsError, match=r"a.yaml: expected no file"):
        export_hepdata(tmp_path / "hep", {"a": table()})
    with pytest.raises(FileExistsError, match=r"submission.yaml: expected no file"):
        export_hepdata(tmp_path / "hep", {"b": table()})
    assert (tmp_path / "hep" / "submission.yaml").read_text("utf-8") == before
    assert not (tmp_path / "hep" / "b.yaml").exists()  # all is checked before anything is written
    export_hepdata(tmp_path / "hep", {"a": table(location="Table 1")}, overwrite=True)
    assert read(tmp_path / "hep")[0][0]["location"] == "Table 1"
    (tmp_path / "file").write_text("x")
    with pytest.raises(NotADirectoryError, match="expected a folder at"):
        export_hepdata(tmp_path / "file", {"a": table()})
