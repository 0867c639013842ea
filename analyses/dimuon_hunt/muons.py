r"""The invariant mass of two muons of a file: CSV, or anything that `nuinfer.open_events` reads.

Either flat columns, E, px, py and pz of each muon, or lists of muons with transverse momentum, pseudorapidity, azimuth
and mass, of which the two of highest transverse momentum are the pair,

.. math:: m^2 = (E_1 + E_2)^2 - |\vec p_1 + \vec p_2|^2.

Known layouts are found by themselves: CMS's open data tables (``E1`` ... ``pz2``, ``Q1``, ``Q2``) and NanoAOD
(``Muon_pt`` ...).
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

import nuinfer as nu
from nuinfer.errors import check_finite, closest

__all__ = ["LAYOUTS", "Flat", "Layout", "Lists", "Pairs", "read_pairs"]

Floats = NDArray[np.float64]
Bools = NDArray[np.bool_]
Charge = Literal["opposite", "same", "any"]

MUON = 0.1056583755  # GeV, Particle Data Group 2024
ROUNDING = 1e-3  # of E^2: what E^2 - p^2 may be below 0 in tables of few digits
SUFFIXES = (".csv", ".tsv", ".txt")


@dataclass(frozen=True)
class Flat:
    """Names of flat columns: E, px, py, pz of the first muon, then of the second; and of their charges."""

    momenta: tuple[str, ...]
    charges: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        """Check."""
        if len(self.momenta) == 4:
            raise ValueError(f"columns: expected those of two muons, E,px,py,pz,E,px,py,pz, found one muon's, "
                             f"{','.join(self.momenta)}")  # fmt: skip
        if len(self.momenta) != 8 or len(self.charges) not in (0, 2):
            raise ValueError(f"columns: expected 8 names, E,px,py,pz,E,px,py,pz, and 2 charges or none, found "
                             f"{len(self.momenta)} and {len(self.charges)}")  # fmt: skip

    @property
    def names(self) -> tuple[str, ...]:
        """Of all columns."""
        return (*self.momenta, *self.charges)


@dataclass(frozen=True)
class Lists:
    """Names of lists: pt, eta, phi, and mass (the muon's for three names); and of the charge."""

    momenta: tuple[str, ...]
    charge: str = ""

    def __post_init__(self) -> None:
        """Check."""
        if len(self.momenta) not in (3, 4):
            raise ValueError(f"lists: expected 3 or 4 names, pt,eta,phi,mass, found {len(self.momenta)}")

    @property
    def names(self) -> tuple[str, ...]:
        """Of all columns."""
        return (*self.momenta, *filter(None, [self.charge]))


Layout = Flat | Lists
_FLAT = ("E1", "px1", "py1", "pz1", "E2", "px2", "py2", "pz2")
_LISTS = ("Muon_pt", "Muon_eta", "Muon_phi", "Muon_mass")
#: Those that are looked for, in this order.
LAYOUTS: tuple[Layout, ...] = (
    Flat(_FLAT, ("Q1", "Q2")), Flat(_FLAT, ("charge1", "charge2")), Flat(_FLAT), Lists(_LISTS, "Muon_charge"),
    Lists(_LISTS), Lists(_LISTS[:3], "Muon_charge"), Lists(_LISTS[:3]),
)  # fmt: skip


@dataclass(frozen=True, eq=False)
class Pairs:
    """Invariant masses (N,) in GeV of selected pairs, how many events were read, had two muons, and were selected."""

    mass: Floats
    read: int
    pairs: int
    layout: Layout

    @property
    def selected(self) -> int:
        """How many there are."""
        return len(self.mass)


def read_pairs(
    path: str | os.PathLike[str], layout: Layout | None = None, *, charge: Charge | None = None, unit: float = 1.0
) -> Pairs:  # fmt: skip
    """The pairs of a file.

    Parameters
    ----------
    path:
        A table with a header (.csv, .tsv, .txt; separated by commas, semicolons or tabs), or ``"file.root:tree"`` and
        what else `nuinfer.open_events` reads.
    layout:
        The columns; None: the first of `LAYOUTS` that is there.
    charge:
        Which pairs to take; None: opposite charges where the file has them, else any.
    unit:
        Of energies and momenta in GeV: 0.001 for MeV.

    Raises
    ------
    FileNotFoundError, KeyError, TypeError
        for a missing file; missing columns, with the closest names; columns that are not numbers.
    ValueError
        for four-vectors that are spacelike or not finite, no event with two muons, charges asked for and not there, no
        pair of these charges.
    """
    if charge not in (None, "opposite", "same", "any"):
        raise ValueError(f"charge: expected 'opposite', 'same' or 'any', found {charge!r}")
    if not 0 < unit < np.inf:
        raise ValueError(f"unit: expected a positive one in GeV, found {unit:g}")
    layout, columns = _columns(path, layout)
    read = _flat(layout, columns) if isinstance(layout, Flat) else _listed(layout, columns)
    if not len(read.four):
        raise ValueError(f"{path}: expected events with two muons, found none among {read.events}")
    for k in (0, 1):
        _check(f"muon {k + 1}", read.four[:, k], read.rows)
    chosen = _chosen(read.charges, charge, path, len(read.four))
    return Pairs(unit * _mass(read.four[chosen]), read.events, len(read.four), layout)


class Read(NamedTuple):
    """Four-vectors (N, 2, 4), charges (N, 2) if known, their rows in the file, and how many events this has."""

    four: Floats
    charges: Floats | None
    rows: NDArray[np.int64]
    events: int


def _mass(both: Floats) -> Floats:
    """(N,) of four-vectors (N, 2, 4); 0 for nearly parallel muons whose rounding makes m^2 negative."""
    total = both.sum(1)
    return np.asarray(np.sqrt(np.maximum(total[:, 0] ** 2 - (total[:, 1:] ** 2).sum(1), 0.0)))


def _check(what: str, four: Floats, rows: NDArray[np.int64]) -> None:
    """Four-vectors (N, 4) of one muon."""
    check_finite(what, four, rows)
    energy, momentum = four[:, 0], np.sqrt((four[:, 1:] ** 2).sum(1))
    bad = np.flatnonzero((energy <= 0) | (energy**2 - momentum**2 < -ROUNDING * energy**2))
    if len(bad):
        k = int(bad[0])
        raise ValueError(f"{what}: expected E of at least |p|, found {len(bad)} of {len(four)} four-vectors spacelike, "
                         f"first at row {rows[k]} (E = {energy[k]:g}, |p| = {momentum[k]:g}); are the columns E, px, "
                         f"py, pz in this order, and in one unit?")  # fmt: skip


def _chosen(charges: Floats | None, charge: Charge | None, path: str | os.PathLike[str], count: int) -> Bools:
    if charge == "any" or (charge is None and charges is None):
        return np.ones(count, bool)
    if charges is None:
        raise ValueError(f"charge: expected columns of charges to ask for {charge!r}, found none; name them, or take "
                         f"'any'")  # fmt: skip
    product = charges[:, 0] * charges[:, 1]
    kept = product > 0 if charge == "same" else product < 0
    if not kept.any():
        raise ValueError(f"{path}: expected pairs of {charge or 'opposite'} charge, found none among {count}; charges "
                         f"are from {charges.min():g} to {charges.max():g}")  # fmt: skip
    return np.asarray(kept)


# -- columns -----------------------------------------------------------------------------------------------------------


def _columns(path: str | os.PathLike[str], layout: Layout | None) -> tuple[Layout, dict[str, Any]]:
    """The layout that is there, and its columns by name."""
    tried = LAYOUTS if layout is None else (layout,)
    if not str(path).lower().endswith(SUFFIXES):
        return _first(path, tried)
    table = _table(Path(path))
    found = [each for each in tried if isinstance(each, Flat) and all(name in table for name in each.names)]
    if not found:
        raise _lacking(path, tried, table)
    for name in found[0].names:
        if table[name].dtype.kind not in "iuf":
            raise TypeError(f"{path}: expected numbers in column {name!r}, found {table[name][:1].tolist()}")
    return found[0], {name: table[name] for name in found[0].names}


def _first(path: str | os.PathLike[str], tried: Sequence[Layout]) -> tuple[Layout, dict[str, Any]]:
    for each in tried:
        try:
            events = nu.open_events(path, list(each.names))
        except KeyError:
            if len(tried) == 1:
                raise
            continue
        return each, {name: events[name] for name in each.names}
    try:
        nu.open_events(path, list(_FLAT[:4]))
    except KeyError:
        raise _lacking(path, tried, ()) from None
    raise _lacking(path, tried, _FLAT[:4])


def _lacking(path: str | os.PathLike[str], tried: Sequence[Layout], known: Iterable[str]) -> KeyError:
    """What is not there; of a table, or of a file with one muon, by name."""
    known = list(known)
    flat = [each for each in tried if isinstance(each, Flat)]
    if not flat:
        return KeyError(f"{path}: lists are not in a table; name its flat columns by --columns")
    lacking = [name for name in flat[-1].names if name not in known]
    if not known or (len(tried) > 1 and len(lacking) == len(flat[-1].momenta)):
        near = f"; its columns are {', '.join(known[:12])}" if known else ""
        return KeyError(f"{path}: expected columns {', '.join(_FLAT)}, or lists {', '.join(_LISTS)}{near}; name those "
                        f"of this file by --columns or --lists")  # fmt: skip
    one = "; it has one muon only" if set(lacking) == set(flat[-1].momenta[4:]) else ""
    return KeyError(f"{path}: no columns {', '.join(lacking)}{one}; {closest(lacking[0], known)}; name those of two "
                    f"muons by --columns")  # fmt: skip


def _table(path: Path) -> dict[str, NDArray[Any]]:
    """All columns of a text file with a header, names without the blanks around them."""
    from pyarrow import ArrowInvalid, csv

    if not path.is_file():
        raise FileNotFoundError(f"{path}: no such file")
    with path.open(encoding="utf-8") as lines:
        header = lines.readline()
    mark = max(",;\t", key=header.count)
    try:
        table = csv.read_csv(path, parse_options=csv.ParseOptions(delimiter=mark))
    except ArrowInvalid as error:
        raise ValueError(f"{path}: expected a table with a header and as many columns in each row: {error}") from error
    return {name.strip(): column.to_numpy() for name, column in zip(table.column_names, table.columns, strict=True)}


def _flat(layout: Flat, columns: Mapping[str, Any]) -> Read:
    four = np.stack([np.asarray(columns[name], np.float64) for name in layout.momenta], -1).reshape(-1, 2, 4)
    charges = (
        np.stack([np.asarray(columns[name], np.float64) for name in layout.charges], -1) if layout.charges else None
    )
    return Read(four, charges, np.arange(len(four)), len(four))


def _listed(layout: Lists, columns: Mapping[str, Any]) -> Read:
    """The two muons of highest pt of events that have two."""
    for name in layout.names:
        if not isinstance(columns[name], nu.Ragged):
            raise TypeError(f"lists: expected a list of each event in {name!r}, found a flat column; try --columns")
    pt, *others = (columns[name] for name in layout.names)
    for name, each in zip(layout.names[1:], others, strict=True):
        if not np.array_equal(each.offsets, pt.offsets):
            raise ValueError(f"lists: expected as many muons in {name!r} as in {layout.names[0]!r} of each event")
    rows = np.flatnonzero(pt.counts >= 2)
    event = np.repeat(np.arange(pt.rows), pt.counts)
    order = np.lexsort((-np.asarray(pt.values, np.float64), event))
    at = order[pt.offsets[rows][:, None] + np.arange(2)]
    values = {name: np.asarray(columns[name].values, np.float64)[at] for name in layout.names}
    four = _four(*(values[name] for name in layout.momenta))
    return Read(four, values[layout.charge] if layout.charge else None, rows, pt.rows)


def _four(pt: Floats, eta: Floats, phi: Floats, mass: Floats | None = None) -> Floats:
    """E, px, py, pz (N, 2, 4)."""
    momentum = pt[..., None] * np.stack([np.cos(phi), np.sin(phi), np.sinh(eta)], -1)
    energy = np.sqrt((momentum**2).sum(-1) + (MUON if mass is None else mass) ** 2)
    return np.concatenate([energy[..., None], momentum], -1)
