"""What a network sees of an event: flat columns and clouds of ragged ones, as tensors.

``Features(["pmu", "costh"], hits=["x", "y", "q"])`` names two flat columns and the cloud of the ragged columns
``hits.x``, ``hits.y``, ``hits.q``.  It turns `Events` into `Inputs`: one float32 matrix (N, D), and for each cloud
values (M, F) with offsets (N + 1,).  Nothing is padded: a batch gathers the rows that it needs (`Inputs.take`), and
only a network with attention asks for a padded view (`CloudBatch.padded`).
"""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from . import hashing, store
from .errors import check_finite
from .events import Events, Ragged, offsets_of, take_ragged

if TYPE_CHECKING:
    from torch import Tensor

__all__ = ["Batch", "CloudBatch", "Features", "Inputs"]

_log = logging.getLogger("nuinfer")


@dataclass(frozen=True, init=False)
class Features:
    """The columns that a network sees, in order.

    Parameters
    ----------
    flat:
        Names of flat columns.
    clouds:
        For each cloud its fields: ``hits=["x", "y"]`` takes the ragged columns ``hits.x`` and ``hits.y``.

    Raises
    ------
    ValueError
        for no columns at all, or a name given twice.
    TypeError
        for a single string in place of a list of names.

    Examples
    --------
    >>> features = Features(["pmu", "costh"], hits=["x", "q"])
    >>> features.columns
    ('pmu', 'costh', 'hits.x', 'hits.q')
    """

    flat: tuple[str, ...]
    clouds: tuple[tuple[str, tuple[str, ...]], ...]

    def __init__(self, flat: Sequence[str] = (), /, **clouds: Sequence[str]) -> None:
        object.__setattr__(self, "flat", _names("flat columns", flat))
        object.__setattr__(self, "clouds", tuple((name, _names(name, fields)) for name, fields in clouds.items()))
        if not self.columns:
            raise ValueError("expected at least one column for a network to see, found none")
        if len(set(self.columns)) < len(self.columns):
            twice = sorted({name for name in self.columns if self.columns.count(name) > 1})
            raise ValueError(f"expected each column once, found {twice} more often")

    @classmethod
    def of(cls, features: Features | Sequence[str]) -> Features:
        """``features`` itself, or the `Features` of a list of flat columns."""
        return features if isinstance(features, Features) else cls(features)

    @property
    def columns(self) -> tuple[str, ...]:
        """All columns by their names in `Events`."""
        return self.flat + tuple(f"{cloud}.{name}" for cloud, fields in self.clouds for name in fields)

    @property
    def shape(self) -> Shape:
        """The sizes that a network is built for."""
        return Shape(len(self.flat), tuple((name, len(fields)) for name, fields in self.clouds))

    def check(self, events: Events, where: NDArray[np.bool_] | None = None) -> None:
        """Raise where a column is missing, of the wrong kind, or not finite in the events where ``where`` is true."""
        for name in self.flat:
            column = events.flat(name)
            rows = None if where is None else np.flatnonzero(where)
            check_finite(f"column {name!r}", column if rows is None else column[rows], rows)
        for name in self.columns[len(self.flat) :]:
            entries = events.ragged(name)
            owner = np.repeat(np.arange(len(events)), entries.counts)
            kept = slice(None) if where is None else where[owner]
            check_finite(f"column {name!r}", entries.values[kept], owner[kept])
        for cloud, fields in self.clouds:
            offsets = [events.ragged(f"{cloud}.{name}").offsets for name in fields]
            if any(other is not offsets[0] for other in offsets):
                raise ValueError(f"cloud {cloud!r}: expected fields of equal lengths in every event, found others "
                                 f"among {', '.join(fields)}")  # fmt: skip

    def tensors(self, events: Events, *, where: NDArray[np.bool_] | None = None, dtype: Any = np.float32) -> Inputs:
        """The checked columns of N events as `Inputs`.

        Parameters
        ----------
        where:
            The events (N,) that will be used; the others may hold NaN, as a miss does in its reco columns, and are
            filled with zeros (flat) or left empty (clouds).
        dtype:
            Type of the matrix.

        Raises
        ------
        KeyError, TypeError, ValueError
            for columns that are missing (the closest names are listed), ragged where flat ones are expected and the
            other way round, or not finite (count and first rows).
        """
        import torch

        self.check(events, where)
        matrix = np.empty((len(events), len(self.flat)), dtype)
        for i, name in enumerate(self.flat):
            column = events.flat(name)
            matrix[:, i] = _cast(name, column if where is None else np.where(where, column, 0), dtype)
        kept = events if where is None or not self.clouds else _emptied(events.keep(self.columns), where)
        clouds = {}
        for cloud, fields in self.clouds:
            names = [f"{cloud}.{name}" for name in fields]
            entries = [kept.ragged(name) for name in names]
            values = np.stack([_cast(n, part.values, dtype) for n, part in zip(names, entries, strict=True)], axis=1)
            clouds[cloud] = (torch.from_numpy(values), torch.from_numpy(entries[0].offsets.copy()))
        return Inputs(torch.from_numpy(matrix), clouds)

    def mapped(
        self, parts: Sequence[Events], folder: str | Path, *, seed: int, window: int = 1 << 20
    ) -> tuple[Inputs, NDArray[np.int64]]:
        """The checked columns of all ``parts``, mapped from files in ``folder`` in a shuffled order.

        For samples larger than memory, and memory-mapped ones (``cache=`` of the readers): the values are written once,
        shuffled, so that training can read neighbouring rows in blocks of ``window`` and still see them mixed.  Files
        of the same contents, columns and seed are used again.

        Returns
        -------
        tuple
            The `Inputs`, and ``order`` (N,): row i is event ``order[i]`` of the parts, one after the other.

        Raises
        ------
        KeyError, TypeError, ValueError
            as `tensors`.
        """
        for part in parts:
            self.check(part)
        order = hashing.permutation(sum(len(part) for part in parts), seed, "mapped rows")
        name = f"{hashing.salt(self, seed, _content(parts, self.columns)):016x}"
        where = Path(folder)
        flat = _mapped(where / f"{name}.flat.npy", order, [part.keep(self.flat) for part in parts], self.flat)
        clouds = {}
        for cloud, fields in self.clouds:
            columns = [f"{cloud}.{field}" for field in fields]
            counts = np.concatenate([part.ragged(columns[0]).counts for part in parts])[order]
            values = _mapped(where / f"{name}.{cloud}.npy", order, [part.keep(columns) for part in parts], columns)
            clouds[cloud] = (values, _tensor(offsets_of(counts)))
        return Inputs(flat, clouds, window), order

    def to_json(self) -> dict[str, Any]:
        """The form in which results save it."""
        return {"flat": list(self.flat), "clouds": {name: list(fields) for name, fields in self.clouds}}

    @classmethod
    def from_json(cls, spec: Mapping[str, Any]) -> Features:
        """The `Features` of `to_json`."""
        return cls(spec["flat"], **spec["clouds"])


@dataclass(frozen=True)
class Shape:
    """The sizes of one event's inputs: D flat columns and, for each cloud, F fields."""

    flat: int
    clouds: tuple[tuple[str, int], ...] = ()


@dataclass(frozen=True)
class Inputs:
    """N events as tensors: ``flat`` (N, D), and for each cloud (values (M, F), offsets (N + 1,)).

    ``window`` is the number of neighbouring rows that training reads together where the values are mapped from a file;
    None for all of them.
    """

    flat: Tensor
    clouds: Mapping[str, tuple[Tensor, Tensor]] = field(default_factory=dict)
    window: int | None = None

    def __len__(self) -> int:
        return len(self.flat)

    @property
    def per_event(self) -> float:
        """How many rows an event gives a network: 1, or the mean number of entries of its fullest cloud."""
        return max([1.0, *(len(values) / max(len(self), 1) for values, _ in self.clouds.values())])

    @staticmethod
    def concat(parts: Sequence[Inputs]) -> Inputs:
        """The events of all parts, one after the other."""
        import torch

        clouds = {}
        for name in parts[0].clouds:
            values = torch.cat([part.clouds[name][0] for part in parts])
            counts = torch.cat([part.clouds[name][1].diff() for part in parts])
            clouds[name] = (values, torch.cat([counts.new_zeros(1), counts.cumsum(0)]))
        return Inputs(torch.cat([part.flat for part in parts]), clouds)

    def to(self, device: Any) -> Inputs:
        """The same on another device (offsets stay where rows are drawn, on the CPU)."""
        clouds = {name: (values.to(device), offsets) for name, (values, offsets) in self.clouds.items()}
        return Inputs(self.flat.to(device), clouds, self.window)

    def take(self, rows: Tensor) -> Batch:
        """The events ``rows`` (K, B) of K members as a `Batch`."""
        members, size = rows.shape
        flat = self.flat.index_select(0, rows.reshape(-1).to(self.flat.device)).view(members, size, self.flat.shape[1])
        clouds = {name: _take_cloud(values, offsets, rows) for name, (values, offsets) in self.clouds.items()}
        return Batch(flat, clouds)

    def select(self, rows: NDArray[np.int64]) -> Inputs:
        """The events ``rows`` (R,), in that order."""
        import torch

        index = torch.from_numpy(np.asarray(rows, np.int64))
        clouds = {}
        for name, (values, offsets) in self.clouds.items():
            entries, taken = take_ragged(offsets.numpy(), index.numpy())
            clouds[name] = (values[torch.from_numpy(entries)], torch.from_numpy(taken))
        return Inputs(self.flat.index_select(0, index), clouds)

    def span(self, start: int, stop: int) -> Batch:
        """The events from ``start`` to ``stop`` as a `Batch` of one member, without a copy of the flat columns."""
        import torch

        if not self.clouds:
            return Batch(self.flat[start:stop][None], {})
        return self.take(torch.arange(start, min(stop, len(self)))[None])


@dataclass(frozen=True)
class Batch:
    """B events for each of K members: ``flat`` (K, B, D) and clouds by name."""

    flat: Tensor
    clouds: Mapping[str, CloudBatch] = field(default_factory=dict)

    def members(self, start: int, stop: int) -> Batch:
        """The part of the members ``start`` to ``stop``, as views."""
        clouds = {name: cloud.members(start, stop) for name, cloud in self.clouds.items()}
        return Batch(self.flat[start:stop], clouds)

    def expand(self, members: int) -> Batch:
        """The same events for each of K members, as views of the one that is there."""
        clouds = {name: cloud.expand(members) for name, cloud in self.clouds.items()}
        return Batch(self.flat.expand(members, -1, -1), clouds)


@dataclass(frozen=True)
class CloudBatch:
    """The entries of K x B clouds: ``values`` (K, M, F), and the ``owner`` (K, M) of each, its event 0 .. B - 1.

    Members differ in how many entries they drew; the shorter ones end in zeros whose owner is B.
    """

    values: Tensor
    owner: Tensor
    size: int

    def members(self, start: int, stop: int) -> CloudBatch:
        """The part of the members ``start`` to ``stop``, as views."""
        return CloudBatch(self.values[start:stop], self.owner[start:stop], self.size)

    def expand(self, members: int) -> CloudBatch:
        """The same clouds for each of K members, as views of the one that is there."""
        return CloudBatch(self.values.expand(members, -1, -1), self.owner.expand(members, -1), self.size)

    def counts(self) -> Tensor:
        """Entries per event (K, B)."""
        import torch

        ones = torch.ones_like(self.owner, dtype=self.values.dtype)
        counts = ones.new_zeros(len(self.owner), self.size + 1).scatter_add_(1, self.owner, ones)
        return counts[:, : self.size]

    def padded(self) -> tuple[Tensor, Tensor]:
        """Values (K, B, L, F), zero where there is none, and a mask (K, B, L) of where there is one.

        L is the largest count, at least 1.
        """
        import torch

        counts = self.counts().long()
        longest = max(int(counts.max()) if counts.numel() else 0, 1)
        starts = counts.cumsum(1) - counts
        starts = torch.cat([starts, starts.new_zeros(len(starts), 1)], 1)
        place = torch.arange(self.owner.shape[1], device=self.owner.device) - starts.gather(1, self.owner)
        cell = torch.where(self.owner < self.size, self.owner * longest + place, self.size * longest)
        values = self.values.new_zeros(len(counts), self.size * longest + 1, self.values.shape[-1])
        values = values.scatter(1, cell[..., None].expand_as(self.values), self.values)[:, :-1]
        mask = torch.arange(longest, device=counts.device) < counts[..., None]
        return values.reshape(len(counts), self.size, longest, -1), mask


def _take_cloud(values: Tensor, offsets: Tensor, rows: Tensor) -> CloudBatch:
    import torch

    members, size = rows.shape
    bounds = offsets.numpy()
    picks = [take_ragged(bounds, r) for r in rows.cpu().numpy()]
    longest = max(int(taken[-1]) for _, taken in picks)
    index = np.zeros((members, longest), np.int64)
    owner = np.full((members, longest), size, np.int64)
    for k, (entries, taken) in enumerate(picks):
        index[k, : len(entries)] = entries
        owner[k, : len(entries)] = np.repeat(np.arange(size), np.diff(taken))
    flat_index = torch.from_numpy(index.reshape(-1)).to(values.device)
    gathered = values.index_select(0, flat_index).view(members, longest, values.shape[1])
    on_device = torch.from_numpy(owner).to(values.device)
    return CloudBatch(gathered * (on_device < size)[..., None], on_device, size)


def _cast(name: str, values: NDArray[Any], dtype: Any) -> NDArray[Any]:
    """The values in the network's type; what was finite has to stay so."""
    with np.errstate(over="ignore"):
        cast = values.astype(dtype, copy=False)
    check_finite(f"column {name!r} as {np.dtype(dtype)}", cast)
    if cast.dtype != values.dtype and len(values) >= 100:
        _warn_of_rounding(name, values, cast)
    return cast


def _warn_of_rounding(name: str, values: NDArray[Any], cast: NDArray[Any]) -> None:
    """Say where a column hardly varies beside the steps of the network's type, as a time stamp does in seconds."""
    step, spread = float(np.spacing(np.abs(cast).max())), float(np.std(values, dtype=np.float64))
    if 0 < spread < 10 * step:
        _log.warning(
            "column %r: %s rounds it to steps of %.3g, and its standard deviation is %.3g: subtract an offset, or "
            "change the unit, before a network sees it", name, cast.dtype, step, spread,
        )  # fmt: skip


def _mapped(path: Path, order: NDArray[np.int64], parts: Sequence[Events], columns: Sequence[str]) -> Tensor:
    """The columns of the parts as a float32 matrix in the given order of their events, mapped from ``path``."""
    import numpy.lib.format as npy

    rows = sum(_length(part, columns) for part in parts)
    if not rows or not columns:  # an empty file cannot be mapped
        return _tensor(np.empty((rows, len(columns)), np.float32))
    if not path.exists():
        first = np.cumsum([0, *(len(part) for part in parts)])

        def write(target: Path) -> None:
            out = npy.open_memmap(target, "w+", np.float32, (rows, len(columns)))
            at = 0
            for start in range(0, len(order), 1 << 18):
                piece = _gathered(parts, first, order[start : start + (1 << 18)], columns)
                out[at : at + len(piece)] = piece
                at += len(piece)
            out.flush()

        store.write_atomically(path, write)
    return _tensor(np.load(path, mmap_mode="c"))


def _gathered(
    parts: Sequence[Events], first: NDArray[np.int64], rows: NDArray[np.int64], columns: Sequence[str]
) -> NDArray[np.float32]:
    """The values of events ``rows`` of the parts, one after the other, in the order of ``rows``."""
    which = np.searchsorted(first, rows, side="right") - 1
    found = [part.select(rows[which == i] - first[i]) for i, part in enumerate(parts)]
    # those of part 0 come first, then those of part 1, ...: bring them back to the order of the rows
    back = np.argsort(np.argsort(which, kind="stable"), kind="stable")
    return _values(Events.concat(found).select(back), columns)


def _values(events: Events, columns: Sequence[str]) -> NDArray[np.float32]:
    arrays = [
        (name, c.values if isinstance(c, Ragged) else c) for name, c in ((name, events[name]) for name in columns)
    ]
    return np.stack([_cast(name, array, np.float32) for name, array in arrays], axis=1)


def _content(parts: Sequence[Events], columns: Sequence[str]) -> str:
    """A digest of the columns' contents, every value of them: a file of other contents must not be taken for theirs."""
    found, step = hashlib.blake2b(digest_size=8), 1 << 20
    for column in (part[name] for part in parts for name in columns):
        for array in column if isinstance(column, Ragged) else (column,):
            found.update(f"{array.dtype} {len(array)}".encode())
            for start in range(0, len(array), step):
                found.update(np.ascontiguousarray(array[start : start + step]).view(np.uint8).data)
    return found.hexdigest()


def _length(events: Events, columns: Sequence[str]) -> int:
    first = events[columns[0]] if columns else events.weight
    return len(first.values) if isinstance(first, Ragged) else len(first)


def _tensor(array: NDArray[Any]) -> Tensor:
    import torch

    return torch.from_numpy(array)


def _emptied(events: Events, where: NDArray[np.bool_]) -> Events:
    """The events with the clouds of those outside ``where`` emptied."""
    columns: dict[str, Any] = {}
    for name in events.columns:
        column = events[name]
        if isinstance(column, Ragged):
            counts = np.where(where, column.counts, 0)
            columns[name] = Ragged(column.values[np.repeat(where, column.counts)], offsets_of(counts))
    return Events(columns, weight=events.weight, id=events.id)


def _names(what: str, names: Sequence[str]) -> tuple[str, ...]:
    if isinstance(names, str):
        raise TypeError(f"{what}: expected a list of names, found the single string {names!r}; write [{names!r}]")
    return tuple(names)
