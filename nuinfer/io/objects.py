"""Objects of a ROOT file: histograms, graphs, matrices that an analysis reads, and histograms that it writes."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from ..errors import missing
from ..events import Floats
from .root import corrupt, open_file
from .sources import Source, places

if TYPE_CHECKING:
    import hist

__all__ = ["Graph", "graph_of", "hist_of", "matrix_of", "write_objects"]

_HISTS = tuple(f"TH{d}{kind}" for d in (1, 2, 3) for kind in "DFISCL")
_GRAPHS = ("TGraph", "TGraphErrors", "TGraphAsymmErrors")
_MATRICES = ("TMatrixT<double>", "TMatrixT<float>", "TMatrixTSym<double>")


class Graph(NamedTuple):
    """Points (N,) and their errors (2, N), downwards and upwards; None where the graph has no errors."""

    x: Floats
    y: Floats
    x_error: Floats | None
    y_error: Floats | None


def hist_of(source: Source) -> hist.Hist[Any]:
    """See `nuinfer.io.read_hist`."""
    return _read(source, "histogram", _HISTS, _as_hist)  # type: ignore[no-any-return]


def graph_of(source: Source) -> Graph:
    """See `nuinfer.io.read_graph`."""
    return _read(source, "graph", _GRAPHS, _as_graph)  # type: ignore[no-any-return]


def matrix_of(source: Source) -> Floats:
    """See `nuinfer.io.read_matrix`."""
    return _read(source, "matrix", _MATRICES, _as_matrix)  # type: ignore[no-any-return]


def _read(source: Source, what: str, classes: tuple[str, ...], convert: Callable[[Any], Any]) -> Any:
    found = places(source)
    if len(found) > 1:
        raise ValueError(f"expected one file with a {what}, found {len(found)}: {found[0]}, {found[1]}, ...")
    place, file = found[0], open_file(found[0].path)
    try:
        with corrupt(place.path):
            names = file.root_directory.classnames(cycle=False)
        name = _chosen(place.path, place.inner, names, what, classes)
        with corrupt(f"{place.path}:{name}"):
            return convert(file.root_directory[name])
    finally:
        file.close()


def _chosen(path: str, name: str | None, names: dict[str, str], what: str, classes: tuple[str, ...]) -> str:
    good = [known for known, cls in names.items() if cls in classes]
    if name is None:
        if len(good) != 1:
            shown = ", ".join(map(repr, good[:20])) or "none"
            raise ValueError(f"{path}: expected one {what} in it, found {shown}; say which: '{path}:NAME'")
        return good[0]
    plain = name.strip("/").split(";")[0]
    if plain not in names:
        raise missing(f"{what} in {path} named", plain, good)
    if plain not in good:
        raise ValueError(f"{path}:{plain}: expected a {what}, found a {names[plain]}")
    return name.strip("/")


def _as_hist(histogram: Any) -> hist.Hist[Any]:
    import hist as histlib

    plain = histogram.to_hist()
    weighted: hist.Hist[Any] = histlib.Hist(*plain.axes, storage=histlib.storage.Weight(), name=histogram.name)
    view: Any = weighted.view(flow=True)
    view["value"] = plain.values(flow=True)
    view["variance"] = plain.variances(flow=True)
    return weighted


def _as_graph(graph: Any) -> Graph:
    x, y = (_floats(graph.member(name)) for name in ("fX", "fY"))
    if graph.has_member("fEXlow"):
        names = (("fEXlow", "fEXhigh"), ("fEYlow", "fEYhigh"))
    elif graph.has_member("fEX"):
        names = (("fEX", "fEX"), ("fEY", "fEY"))
    else:
        return Graph(x, y, None, None)
    errors = [np.stack([_floats(graph.member(name)) for name in pair]) for pair in names]
    return Graph(x, y, errors[0], errors[1])


def _as_matrix(matrix: Any) -> Floats:
    rows, columns = int(matrix.member("fNrows")), int(matrix.member("fNcols"))
    elements = _floats(matrix.member("fElements"))
    if len(elements) == rows * columns:
        return elements.reshape(rows, columns)
    # a symmetric matrix is stored as its upper triangle, row by row
    full = np.zeros((rows, columns))
    upper = np.triu_indices(rows)
    full[upper] = elements
    full.T[upper] = elements
    return full


def _floats(values: Any) -> Floats:
    return np.array(values, dtype=np.float64)


def write_objects(path: Path, objects: Mapping[str, Any]) -> None:
    """Histograms (``hist.Hist``, or contents and edges by axis) and texts as objects of a new ROOT file, by name."""
    import uproot

    with uproot.recreate(path) as file:
        for name, item in objects.items():
            file[name] = item
