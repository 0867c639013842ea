r"""Unfolded results as files that others can use: events with weights, ROOT histograms, HEPData tables.

What to use when:

=================  =================================================================================================
`export_unbinned`  the simulation's true events with the weights that unfold them, so that observables and bins can be
                   chosen by whoever reads it, along the lines of Arratia et al., arXiv 2109.13243
`export_root`      a spectrum or cross-section in bins, covariance by source and A_C, as ROOT histograms
`export_hepdata`   the same as a submission to HEPData (hepdata-submission.readthedocs.io, schema 1.1.1)
=================  =================================================================================================

All files are written whole or not at all, and none is replaced without ``overwrite=True``.

**The layout of unbinned results**, Parquet or HDF5.  One row an event that passes the truth selection:

======================  ============================================================================================
NAME                    true columns; a cloud ``hits.x``, ``hits.y`` is a list of structures ``hits`` in Parquet
weight                  the nominal weight: the ensemble's mean, times the simulation's own.  Sums of it are events
id                      the event's number
weight_simulation       the simulation's own weight, before unfolding
weight_member_K         weights of the ensemble's members, of which ``weight`` is the mean; their spread is the method's
weight_replica_R        weights of bootstrap replicas or throws; their covariance is the statistical one
weight_SYSTEMATIC_V     weights of variation V of a systematic uncertainty, by its name
======================  ============================================================================================

In Parquet these are columns, and the JSON of the metadata is the entry ``unfolded`` of the schema's.  In HDF5 they are
data sets of the group ``events`` (``hits.x/values`` and ``hits.x/offsets`` of ragged ones) and the JSON is the data set
``metadata``.  Without this library:

.. code-block:: python

    table = pandas.read_parquet("result.parquet")
    contents, edges = numpy.histogram(table["p"], edges, weights=table["weight"])
    metadata = json.loads(pyarrow.parquet.read_schema("result.parquet").metadata[b"unfolded"])

    with h5py.File("result.h5") as file:
        contents, edges = numpy.histogram(file["events/p"], edges, weights=file["events/weight"])
        metadata = json.loads(file["metadata"][()])
"""

from __future__ import annotations

import itertools
import json
import os
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from .. import __version__, io
from ..errors import check_finite, missing
from ..events import Events, Ragged, flag
from ..io.objects import write_objects
from ..store import write_atomically
from .binning import Binning, BinningLike, filled
from .cross_sections import CrossSection
from .spectrum import Spectrum, of_replicas
from .unbinned.result import Unfolded

__all__ = ["HepDataTable", "UnbinnedResult", "export_hepdata", "export_root", "export_unbinned", "read_unbinned"]

Floats = NDArray[np.float64]
FilePath = str | os.PathLike[str]
Binned = Spectrum | CrossSection

FORMAT = 1
_KEY = "unfolded"


# -- unbinned ----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, eq=False)
class UnbinnedResult:
    """True events and the weights that unfold them; made by `read_unbinned`.

    Attributes
    ----------
    events:
        The N events of the truth, with the nominal weights.
    simulation_weight:
        Their weights (N,) before unfolding.
    members, replicas:
        Weights of the ensemble's members (K, N) and of replicas (R, N).
    systematics:
        Weights (V, N) of the variations of each systematic uncertainty.
    metadata:
        What the file says of itself.
    """

    events: Events
    simulation_weight: Floats
    members: Floats
    replicas: Floats
    systematics: dict[str, Floats]
    metadata: dict[str, Any]

    def spectrum(self, bins: BinningLike) -> Spectrum:
        """The spectrum, in events, of any columns in any bins; `Unfolded.spectrum` gives the same.

        Covariances are "statistical" (replicas), "method" (members), and those of systematics by name: the mean of
        d d^T over the variations, d the difference of the spectrum from the nominal one.
        """
        binning = Binning.of(bins)
        index = binning.index(self.events)

        def fill(weights: Floats) -> Floats:
            rows = [filled(index, w, binning.size)[0] for w in weights]
            return np.array(rows, np.float64).reshape(len(weights), binning.size)

        found = of_replicas(binning, fill(self.members), fill(self.replicas), settings=self.metadata)
        shifts = {name: fill(w) - found.values for name, w in self.systematics.items()}
        systematic = {name: d.T @ d / len(d) for name, d in shifts.items()}
        return replace(found, covariances={**found.covariances, **systematic})

    def __repr__(self) -> str:
        return (f"UnbinnedResult({len(self.events)} events of {', '.join(self.events.columns)}; yield "
                f"{self.events.sum_weights:.6g}; {len(self.members)} members, {len(self.replicas)} replicas, "
                f"systematics {', '.join(self.systematics) or 'none'})")  # fmt: skip


def export_unbinned(
    path: FilePath,
    result: Unfolded,
    *,
    columns: Sequence[str],
    systematics: Mapping[str, ArrayLike] | None = None,
    units: Mapping[str, str] | None = None,
    exposure: Mapping[str, float] | None = None,
    description: str = "",
    overwrite: bool = False,
) -> None:
    """Write an unbinned result to a Parquet (``.parquet``) or HDF5 file (``.h5``, ``.hdf5``); layout: see the module.

    Fakes have no truth and are not part of it; the metadata has their number.

    Parameters
    ----------
    columns:
        The true columns to publish, flat or ragged; the name of a cloud stands for its columns.
    systematics:
        Weights of the simulation's events, (events,) or (variations, events), by name: like ``result.weights`` they are
        absolute and multiply the simulation's own.
    units:
        Of columns, ``{"p": "GeV"}``.
    exposure:
        What the yield is to be divided by for a cross-section: ``{"POT": 3e20, "flux / cm^2 / POT": 7e-10,
        "targets": 3.5e31}``, or the luminosity.
    description:
        What was measured and how: the truth selection above all.

    Raises
    ------
    ValueError
        for another suffix, columns or weights that are not finite, weights of another shape, names that the layout
        keeps for itself.
    KeyError
        for columns that are not there.
    FileExistsError
        for a file that is there, without ``overwrite``; ``IsADirectoryError``, ``NotADirectoryError`` for a folder in
        the file's place, or a file in a folder's.

    Examples
    --------
    >>> import tempfile
    >>> path = Path(tempfile.mkdtemp()) / "result.parquet"
    >>> result = Unfolded(Events({"p": [0.5, 2.0]}), np.array([[2.0, 3.0]]), np.empty((0, 2)), (), seed=1)
    >>> export_unbinned(path, result, columns=["p"], units={"p": "GeV"})
    >>> read_unbinned(path).spectrum({"p": [0, 1, 3]}).values
    array([2., 3.])
    """
    target = _target(path, overwrite)
    write = _by_suffix(target, {".parquet": _write_parquet, ".h5": _write_hdf5, ".hdf5": _write_hdf5})
    truth = flag(result.simulation, "pass_truth")
    names = _names(result.simulation, columns)
    varied = _variations(systematics or {}, len(result.simulation))
    _check_exposure(exposure or {})
    events = _published(result, names, varied, truth)
    metadata = {
        "format": FORMAT, "kind": "unbinned unfolded result", "nuinfer": __version__, "description": description,
        "columns": names, "units": _known(units or {}, names), "exposure": dict(exposure or {}),
        "settings": result.settings, "seed": result.seed, "iterations": len(result.iterations),
        "members": len(result.weights), "replicas": len(result.replicas),
        "systematics": {name: len(w) for name, w in varied.items()}, "events": len(events),
        "fakes left out": int((~truth).sum()),
    }  # fmt: skip
    text = json.dumps(metadata, default=_plain, allow_nan=False)
    write_atomically(target, lambda temporary: write(temporary, events, text))


def read_unbinned(path: FilePath) -> UnbinnedResult:
    """Read what `export_unbinned` wrote.

    Raises
    ------
    FileNotFoundError
        where there is no such file; ``CorruptFile`` for a damaged one.
    ValueError
        for another suffix, a file that holds something else, or one of a newer format.
    """
    path = Path(path)
    read = _by_suffix(path, {".parquet": _read_parquet, ".h5": _read_hdf5, ".hdf5": _read_hdf5})
    events, text = read(path)
    if text is None:
        raise ValueError(f"{path}: expected a result written by export_unbinned, found events without its metadata")
    metadata: dict[str, Any] = json.loads(text)
    if metadata["format"] > FORMAT:
        raise ValueError(f"{path}: written in format {metadata['format']}, newer than this nuinfer's {FORMAT} (by "
                         f"nuinfer {metadata['nuinfer']}); update nuinfer to read it")  # fmt: skip
    found = events.keep(metadata["columns"])

    def stack(name: str, number: int) -> Floats:
        rows = [events.flat(f"weight_{name}_{i}") for i in range(number)]
        return np.array(rows, np.float64).reshape(number, len(events))

    systematics = {name: stack(name, number) for name, number in metadata["systematics"].items()}
    members, replicas = (stack(name, metadata[f"{name}s"]) for name in ("member", "replica"))
    return UnbinnedResult(found, events.flat("weight_simulation"), members, replicas, systematics, metadata)


def _names(simulation: Events, columns: Sequence[str]) -> list[str]:
    """The columns asked for, clouds by their columns."""
    found: list[str] = []
    for name in columns:
        inner = [name] if name in simulation else [c for c in simulation.columns if c.startswith(f"{name}.")]
        if not inner:
            raise missing("column", name, simulation.columns)
        found += [c for c in inner if c not in found]
    if not found:
        raise ValueError("columns: expected at least one true column to publish, found none")
    for name in found:
        if name in ("weight", "id") or name.startswith("weight_"):
            raise ValueError(f"column {name!r}: expected another name; weight, id and weight_... are the file's own")
    return found


def _check_exposure(exposure: Mapping[str, float]) -> None:
    for name, value in exposure.items():
        if not 0 < value < np.inf:
            raise ValueError(f"exposure {name!r}: expected a positive, finite number, found {value!r}")


def _variations(given: Mapping[str, ArrayLike], events: int) -> dict[str, Floats]:
    found = {}
    for name, weights in given.items():
        if not re.fullmatch(r"\w[\w .-]*", name) or name in ("simulation", "member", "replica"):
            raise ValueError(f"systematic {name!r}: expected a name of letters and digits, and not simulation, member "
                             f"or replica")  # fmt: skip
        array = np.asarray(weights, np.float64)
        array = array[None] if array.ndim == 1 else array
        if array.ndim != 2 or array.shape[1] != events:
            raise ValueError(f"systematic {name!r}: expected weights ({events},) or (variations, {events}), found "
                             f"shape {np.shape(weights)}")  # fmt: skip
        found[name] = array
    return found


def _published(
    result: Unfolded, names: Sequence[str], systematics: Mapping[str, Floats], truth: NDArray[np.bool_]
) -> Events:  # fmt: skip
    """The events of the truth with all weights as columns."""
    events = result.simulation.keep(names).select(truth)
    for name in names:
        column = events[name]
        check_finite(f"column {name!r}", column.values if isinstance(column, Ragged) else column)
    own = events.weight
    stacks = {"member": result.weights, "replica": result.replicas, **systematics}
    columns: dict[str, Floats] = {"weight_simulation": own}
    for name, weights in stacks.items():
        for i, row in enumerate(weights):
            columns[f"weight_{name}_{i}"] = row[truth] * own
            check_finite(f"weights of {name} {i}", columns[f"weight_{name}_{i}"])
    return events.with_columns(columns).with_weight(result.weights[:, truth].mean(0) * own)


def _known(units: Mapping[str, str], names: Sequence[str]) -> dict[str, str]:
    for name in units:
        if name not in names:
            raise missing("published column", name, names)
    return dict(units)


def _write_parquet(path: Path, events: Events, text: str) -> None:
    """Events as `nuinfer.io.write_parquet` writes them, with one more entry in the metadata."""
    from pyarrow import parquet

    plain = path.with_name(f"{path.name}.events")
    try:
        io.write_parquet(plain, events)
        with parquet.ParquetFile(plain) as source:
            metadata = {**(source.schema_arrow.metadata or {}), _KEY.encode(): text.encode()}
            schema = source.schema_arrow.with_metadata(metadata)
            with parquet.ParquetWriter(path, schema, compression="zstd", use_dictionary=False) as out:
                for group in range(source.num_row_groups):
                    table = source.read_row_group(group)
                    out.write_table(table.replace_schema_metadata(metadata), row_group_size=max(table.num_rows, 1))
    finally:
        plain.unlink(missing_ok=True)


def _write_hdf5(path: Path, events: Events, text: str) -> None:
    import h5py

    io.write_hdf5(path, events)
    with h5py.File(path, "r+") as file:
        file["metadata"] = text


def _read_parquet(path: Path) -> tuple[Events, str | None]:
    from pyarrow import parquet

    events = io.read_parquet(path)
    found = (parquet.read_schema(path).metadata or {}).get(_KEY.encode())
    return events, None if found is None else found.decode()


def _read_hdf5(path: Path) -> tuple[Events, str | None]:
    import h5py

    events = io.read_hdf5(path)
    with h5py.File(path, "r") as file:
        found = file.get("metadata")
        return events, found.asstr()[()] if isinstance(found, h5py.Dataset) else None


# -- ROOT --------------------------------------------------------------------------------------------------------------


def export_root(path: FilePath, result: Binned, *, overwrite: bool = False) -> None:
    """Write a spectrum or cross-section as histograms of a new ROOT file.

    =====================  =========================================================================================
    values                 TH1D, TH2D or TH3D of a grid with finite edges, the columns in their order; else TH1D of
                           bin numbers.  Squared errors are the diagonal of the whole covariance
    covariance/total       TH2D of bin numbers, from 0 to B - 1, the sum over all sources
    covariance/SOURCE      the same of each source
    smearing               TH2D, the matrix A_C: unfolded bin along x, the model's along y
    metadata               text, JSON: kind, units, averaging, bins (`Binning.to_json`), sources, settings
    =====================  =========================================================================================

    Raises
    ------
    ValueError
        for a result without covariance or with numbers that are not finite, or sources whose names ROOT cannot hold.
    FileExistsError
        and others for the file: see `export_unbinned`.

    Examples
    --------
    >>> import tempfile
    >>> path = Path(tempfile.mkdtemp()) / "result.root"
    >>> export_root(path, Spectrum(Binning("p", [0, 1, 3]), np.array([2.0, 3.0]), {"data": np.diag([2.0, 3.0])}))
    >>> io.read_hist(f"{path}:values").values()
    array([2., 3.])
    """
    target = _target(path, overwrite)
    _check_binned("result", result)
    for name in result.covariances:
        if "/" in name or ";" in name or name == "total":
            raise ValueError(f"source {name!r}: expected a name without '/' and ';', other than 'total'")
    bins = np.arange(result.binning.size + 1.0)
    objects: dict[str, Any] = {"values": _root_values(result)}
    for name, matrix in {"total": result.covariance, **result.covariances}.items():
        objects[f"covariance/{name}"] = (matrix, bins, bins)
    if result.smearing is not None:
        objects["smearing"] = (result.smearing, bins, bins)
    objects["metadata"] = json.dumps(_description(result), default=_plain, allow_nan=False)
    write_atomically(target, lambda temporary: write_objects(temporary, objects))


def _root_values(result: Binned) -> Any:
    import hist

    grid = result.binning.grid
    if grid is not None and len(grid) <= 3 and all(np.isfinite(edges).all() for edges in grid):
        return result.hist()
    axis = hist.axis.Regular(result.binning.size, 0, result.binning.size, name="bin")
    flat: hist.Hist[Any] = hist.Hist(axis, storage=hist.storage.Weight())
    view: Any = flat.view()
    view["value"], view["variance"] = result.values, np.diag(result.covariance)
    return flat


def _description(result: Binned) -> dict[str, Any]:
    kind = "cross section" if isinstance(result, CrossSection) else "spectrum"
    averaging = {"averaging": result.averaging} if isinstance(result, CrossSection) else {}
    return {"format": FORMAT, "kind": kind, "nuinfer": __version__, "units": _units(result), **averaging,
            "binning": result.binning.to_json(), "sources": list(result.covariances),
            "settings": result.settings}  # fmt: skip


def _units(result: Binned) -> str:
    return result.units if isinstance(result, CrossSection) else "events"


# -- HEPData -----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, eq=False)
class HepDataTable:
    """A result and what HEPData is to say of it.

    Attributes
    ----------
    result:
        A spectrum or cross-section.
    description:
        What is measured, for whom reads the table.
    observable:
        The header of the values, such as "d2sigma/dp dcos(theta)".
    column_units:
        Units by column, ``{"p": "GeV"}``.
    keywords:
        By their kinds: "reactions" (``["NUMU AR --> MU- X"]``), "observables" (``["D2SIG/DP/DCOS"]``), "cmenergies",
        "phrases".
    qualifiers:
        Names and values of what holds for all values.
    location:
        Where it is in the paper: "Figure 3".
    """

    result: Binned
    description: str
    observable: str
    column_units: Mapping[str, str] = field(default_factory=dict)
    keywords: Mapping[str, Sequence[str | float]] = field(default_factory=dict)
    qualifiers: Mapping[str, str | float] = field(default_factory=dict)
    location: str = ""


def export_hepdata(
    folder: FilePath, tables: Mapping[str, HepDataTable], *, comment: str = "", overwrite: bool = False
) -> None:  # fmt: skip
    """Write results as a HEPData submission: ``submission.yaml`` and the data files of up to three tables each.

    - NAME: values by bin, an uncertainty for each source, labelled by it.  Those of no variance, which HEPData does not
      take, or of a negative one, as estimates by regression can have, are left out; the covariance has them;
    - "NAME covariance": B x B, bins numbered from 1 in the order of the rows of NAME; the total and each source;
    - "NAME smearing": the matrix A_C by which models are compared, where there is one.

    Numbers are written to their last digit.  Other files of the folder stay.

    Parameters
    ----------
    folder:
        Made where it does not exist.
    tables:
        By name.
    comment:
        About the whole: the abstract.

    Raises
    ------
    ValueError
        for no tables, a result without covariance or with numbers that are not finite, names of more than 64 letters
        or that make the same file, unknown kinds of keywords.
    KeyError
        for units of columns that are not there.
    FileExistsError
        where one of the files is there, without ``overwrite``; ``NotADirectoryError`` for a file in the folder's place.

    Examples
    --------
    >>> import tempfile
    >>> folder = Path(tempfile.mkdtemp())
    >>> found = Spectrum(Binning("p", [0, 1, 3]), np.array([2.0, 3.0]), {"data": np.diag([2.0, 3.0])})
    >>> export_hepdata(folder, {"Spectrum": HepDataTable(found, "Muons by momentum.", "N", column_units={"p": "GeV"})})
    >>> sorted(path.name for path in folder.iterdir())
    ['spectrum.yaml', 'spectrum_covariance.yaml', 'submission.yaml']
    """
    if not tables:
        raise ValueError("tables: expected at least one, found none")
    documents: list[dict[str, Any]] = [{"comment": comment}] if comment else []
    files: dict[str, dict[str, Any]] = {}
    for name, table in tables.items():
        for title, description, data in _hepdata_tables(name, table):
            file = f"{_slug(title)}.yaml"
            if file in files or file == "submission.yaml":
                raise ValueError(f"table {title!r}: expected a name that makes a file of its own, found {file} again")
            files[file] = data
            documents.append(_submission(title, description, table, file))
    folder = Path(folder)
    targets = {name: _target(folder / name, overwrite) for name in (*files, "submission.yaml")}
    for name, data in files.items():
        _write_text(targets[name], _block(data) + "\n")
    _write_text(targets["submission.yaml"], "".join(f"---\n{_block(document)}\n" for document in documents))


def _hepdata_tables(name: str, table: HepDataTable) -> Iterator[tuple[str, str, dict[str, Any]]]:
    """Name, description and data of each table of a result."""
    result = table.result
    _check_binned(f"table {name!r}", result)
    yield name, table.description, _values_table(table)
    order = f"bins are numbered from 1 in the order of the rows of the table {name!r}"
    units = f"({_units(result)})^2"
    matrices = {"covariance, total": result.covariance}
    matrices |= {f"covariance, {source}": c for source, c in result.covariances.items()}
    yield f"{name} covariance", f"Covariance of {name}; {order}.", _matrix_table(matrices, units)
    if result.smearing is not None:
        text = (f"Additional smearing matrix A_C of {name}: a model m is compared with the values as A_C m; rows are "
                f"unfolded bins, columns the model's; {order}.")  # fmt: skip
        yield f"{name} smearing", text, _matrix_table({"A_C": result.smearing}, "")


def _values_table(table: HepDataTable) -> dict[str, Any]:
    result, binning = table.result, table.result.binning
    units = _known(table.column_units, binning.names)
    sides = np.moveaxis(binning.cells, 1, 0).tolist()
    independent = [
        {"header": _header(name, units.get(name, "")), "values": [_range(*edges) for edges in cells]}
        for name, cells in zip(binning.names, sides, strict=True)
    ]
    errors = {source: np.sqrt(np.maximum(np.diag(c), 0.0)).tolist() for source, c in result.covariances.items()}
    values = []
    for i, value in enumerate(result.values.tolist()):
        own = [{"symerror": error[i], "label": source} for source, error in errors.items() if error[i] > 0]
        values.append({"value": value, "errors": own} if own else {"value": value})
    qualifiers = [{"name": name, "value": value} for name, value in _qualifiers(table).items()]
    dependent = {"header": _header(table.observable, _units(result)), "qualifiers": qualifiers, "values": values}
    return {"independent_variables": independent, "dependent_variables": [dependent]}


def _qualifiers(table: HepDataTable) -> dict[str, Any]:
    own = {"flux averaging": table.result.averaging} if isinstance(table.result, CrossSection) else {}
    return {**own, **table.qualifiers}


def _range(low: float, high: float) -> dict[str, Any]:
    """A bin; those without an end are text, as HEPData wants it."""
    if np.isfinite(low) and np.isfinite(high):
        return {"low": low, "high": high}
    return {"value": f"> {low!r}" if np.isfinite(low) else f"< {high!r}" if np.isfinite(high) else "all"}


def _matrix_table(matrices: Mapping[str, Floats], units: str) -> dict[str, Any]:
    bins = range(1, len(next(iter(matrices.values()))) + 1)
    pairs = list(itertools.product(bins, bins))
    independent = [
        {"header": {"name": name}, "values": [{"value": pair[k]} for pair in pairs]}
        for k, name in enumerate(("bin (row)", "bin (column)"))
    ]
    dependent = [
        {"header": _header(name, units), "values": [{"value": v} for v in matrix.ravel().tolist()]}
        for name, matrix in matrices.items()
    ]
    return {"independent_variables": independent, "dependent_variables": dependent}


def _header(name: str, units: str) -> dict[str, str]:
    return {"name": name, "units": units} if units else {"name": name}


def _submission(title: str, description: str, table: HepDataTable, file: str) -> dict[str, Any]:
    """The entry of a table in submission.yaml."""
    if len(title) > 64:
        raise ValueError(f"table {title!r}: expected a name of at most 64 letters, found {len(title)}")
    kinds = ("cmenergies", "observables", "reactions", "phrases")
    unknown = [kind for kind in table.keywords if kind not in kinds]
    if unknown:
        raise ValueError(f"keywords: expected kinds of {', '.join(kinds)}, found {unknown[0]!r}")
    keywords = [{"name": kind, "values": list(values)} for kind, values in table.keywords.items()]
    location = {"location": table.location} if table.location else {}
    return {"name": title, **location, "description": description, "keywords": keywords, "data_file": file}


def _slug(title: str) -> str:
    return re.sub(r"\W+", "_", title.lower()).strip("_")


# -- YAML: mappings and lists in blocks, in one line where they are short ----------------------------------------------


def _block(value: Any, pad: str = "") -> str:
    """``value`` as YAML; lines after the first begin with ``pad``."""
    if _in_line(value, pad):
        return _flow(value)
    inner = pad + "  "
    if isinstance(value, list):
        return f"\n{pad}".join("- " + _block(item, inner) for item in value)
    starts = {key: f"{key}: " if _in_line(item, inner) else f"{key}:\n{inner}" for key, item in value.items()}
    return f"\n{pad}".join(starts[key] + _block(item, inner) for key, item in value.items())


def _in_line(value: Any, pad: str) -> bool:
    if not isinstance(value, dict | list) or not value:
        return True
    return bool(pad) and not _long(value) and len(_flow(value)) <= 100


def _long(value: Any) -> bool:
    """Whether lists in it are too long for a line, which is found out before they are written."""
    if not isinstance(value, dict | list):
        return False
    return len(value) > 20 or any(map(_long, value.values() if isinstance(value, dict) else value))


def _flow(value: Any) -> str:
    """``value`` in one line; YAML 1.1 takes numbers with an exponent as such only where they have a point."""
    if isinstance(value, dict):
        return "{" + ", ".join(f"{key}: {_flow(item)}" for key, item in value.items()) + "}"
    if isinstance(value, list):
        return "[" + ", ".join(map(_flow, value)) + "]"
    if isinstance(value, float):
        text = repr(float(value))
        return text if "." in text else text.replace("e", ".0e")
    return str(value) if isinstance(value, int) else json.dumps(str(value), ensure_ascii=False)


# -- common ------------------------------------------------------------------------------------------------------------


def _check_binned(what: str, result: Binned) -> None:
    """Raise where there is no covariance, or a number is not finite."""
    if not result.covariances:
        raise ValueError(f"{what}: expected covariances to publish, found none; unfold with replicas or by a binned "
                         f"method")  # fmt: skip
    check_finite(f"{what}: values", result.values)
    for name, matrix in result.covariances.items():
        check_finite(f"{what}: covariance {name!r}", matrix)
    if result.smearing is not None:
        check_finite(f"{what}: smearing", result.smearing)


def _target(path: FilePath, overwrite: bool) -> Path:
    """The path to write to, or an error for what is in its place."""
    path = Path(path)
    if path.is_dir():
        raise IsADirectoryError(f"{path}: expected the name of a file to write, found a folder")
    for folder in path.parents:
        if folder.exists() and not folder.is_dir():
            raise NotADirectoryError(f"{path}: expected a folder at {folder}, found a file")
    if path.exists() and not overwrite:
        raise FileExistsError(f"{path}: expected no file, found one; choose another name, or overwrite=True")
    return path


def _by_suffix(path: Path, known: Mapping[str, Callable[..., Any]]) -> Callable[..., Any]:
    if path.suffix not in known:
        raise ValueError(f"{path}: expected a file named {', '.join(f'*{s}' for s in known)}, found {path.suffix!r}")
    return known[path.suffix]


def _write_text(path: Path, text: str) -> None:
    write_atomically(path, lambda temporary: temporary.write_text(text, encoding="utf-8"))


def _plain(value: Any) -> Any:
    """What JSON has no form for: numpy's numbers and arrays."""
    if isinstance(value, np.generic | np.ndarray):
        return value.tolist()
    raise TypeError(f"settings: expected JSON, found {type(value).__name__}")
