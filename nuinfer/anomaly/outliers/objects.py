"""What an autoencoder sees of an event: flat columns, and objects padded to fixed numbers, with a mask.

Of a kind of objects (jets) the leading ones enter, ordered by their first logarithmic column (pT), with log pT, eta,
cos phi and sin phi each, so that neither a long tail nor the seam of an angle takes part in a squared error.  Where
there are fewer objects the values are 0, which after standardisation is the mean, and the mask says that they are none.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ...density.columns import refuse
from ...events import Events, Ragged
from ...features import Features, Inputs
from ...nets import Scaling, Standardise

__all__ = ["Layout", "Objects"]

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]


@dataclass(frozen=True)
class Objects:
    """The leading ``count`` objects of a kind, from the columns ``"name.field"``.

    Parameters
    ----------
    name:
        Of the cloud: ``Objects("jets", 10)`` takes the ragged columns ``jets.pt``, ``jets.eta`` and ``jets.phi``.  With
        a count of 1 the columns may be flat, as those of the missing momentum; such an object is always there.
    count:
        How many; softer ones are not seen.
    log, plain, angle:
        Fields whose logarithm enters (positive; the first one orders the objects, the largest first; without any they
        stay in the order of their lists), which enter as they are, and angles in radians, of which cosine and sine do.

    Raises
    ------
    ValueError
        for a count below 1, no field, or a field given twice.
    TypeError
        for a single string in place of a list of names.

    >>> Objects("jets", 10).columns
    ('jets.pt', 'jets.eta', 'jets.phi')
    >>> Objects("met", 1, plain=()).columns
    ('met.pt', 'met.phi')
    """

    name: str
    count: int
    log: Sequence[str] = ("pt",)
    plain: Sequence[str] = ("eta",)
    angle: Sequence[str] = ("phi",)

    def __post_init__(self) -> None:
        if not isinstance(self.count, int | np.integer) or self.count < 1:
            raise ValueError(f"Objects {self.name!r}: expected a count of at least 1, found {self.count!r}")
        for kind in ("log", "plain", "angle"):
            if isinstance(getattr(self, kind), str):
                raise TypeError(f"Objects {self.name!r}: expected a list of names as {kind}, found the single string "
                                f"{getattr(self, kind)!r}")  # fmt: skip
            object.__setattr__(self, kind, tuple(getattr(self, kind)))
        if not self.fields or len(set(self.fields)) < len(self.fields):
            raise ValueError(f"Objects {self.name!r}: expected at least one field, and each once, found {self.fields}")

    @property
    def fields(self) -> tuple[str, ...]:
        """All of them: logarithms, plain ones, angles."""
        return (*self.log, *self.plain, *self.angle)

    @property
    def columns(self) -> tuple[str, ...]:
        """Their names in `Events`."""
        return tuple(f"{self.name}.{field}" for field in self.fields)

    @property
    def seen(self) -> tuple[str, ...]:
        """What a network sees of each object."""
        angles = (f"{part} {field}" for field in self.angle for part in ("cos", "sin"))
        return (*(f"log {field}" for field in self.log), *self.plain, *angles)

    def entries(self, events: Events) -> tuple[Floats, Ints, Ints]:
        """The leading objects, largest first: fields before angles are split (M, F), their events and places (M,).

        Raises
        ------
        KeyError, TypeError, ValueError
            for columns that are missing, of the wrong kind, not finite, of other lengths, or not positive where a
            logarithm is taken.
        """
        offsets = self._checked(events)
        columns = [events[name] for name in self.columns]
        values = np.stack([c.values if isinstance(c, Ragged) else c for c in columns], 1).astype(np.float64)
        owner = np.repeat(np.arange(len(events)), np.diff(offsets))
        for name, column in zip(self.columns[: len(self.log)], values.T, strict=False):
            refuse(column <= 0, f"column {name!r}: expected positive values, of which a logarithm is taken",
                   column, "leave out entries that only fill up a list")  # fmt: skip
        # a stable sort: the events stay in their order, and equal momenta in theirs
        order = np.lexsort((-values[:, 0], owner)) if self.log else np.arange(len(owner))
        place = np.arange(len(owner)) - offsets[:-1][owner]
        kept = place < self.count
        return values[order][kept], owner[kept], place[kept]

    def _checked(self, events: Events) -> Ints:
        """The offsets (N + 1,) of sound columns."""
        flat = [name for name in self.columns if not isinstance(events[name], Ragged)]
        if flat and self.count > 1:
            events.ragged(flat[0])  # says what is wrong
        if len(flat) == len(self.columns):
            Features(flat).check(events)
            return np.arange(len(events) + 1)
        Features((), **{self.name: self.fields}).check(events)
        return events.ragged(self.columns[0]).offsets

    def standard(self, values: Floats) -> Tensor:
        """Logarithms and plain fields of the entries (M, F), to be standardised."""
        logs = len(self.log)
        return torch.from_numpy(np.concatenate([np.log(values[:, :logs]), values[:, logs : logs + len(self.plain)]], 1))

    def turned(self, values: Floats) -> Tensor:
        """Cosines and sines of the entries (M, 2 A), of mean square 1 where angles are uniform."""
        angle = values[:, len(self.log) + len(self.plain) :, None]
        pairs = np.concatenate([np.cos(angle), np.sin(angle)], -1) * np.sqrt(2)
        return torch.from_numpy(pairs.reshape(len(values), 2 * len(self.angle)))


@dataclass(frozen=True)
class Layout:
    """Columns of the network: flat ones, those of each object, then a mask for each object that may be missing.

    Attributes
    ----------
    flat, objects:
        As they were given.
    always:
        For each kind of objects, whether its columns are flat.
    scales:
        Of the flat columns, and by name of the objects' fields but angles.
    """

    flat: tuple[str, ...]
    objects: tuple[Objects, ...]
    always: tuple[bool, ...]
    scales: Standardise

    @classmethod
    def fit(cls, events: Events, flat: Sequence[str], objects: Sequence[Objects], scaling: Scaling) -> Layout:
        """The scales under abs(weight); ``ValueError`` for nothing to see, names given twice, or objects of none."""
        if isinstance(flat, str):
            raise TypeError(f"features: expected a list of names, found the single string {flat!r}")
        if isinstance(objects, Objects) or not all(isinstance(kind, Objects) for kind in objects):
            raise TypeError(f"objects: expected a list of Objects, found {objects!r}")
        names = [*flat, *(kind.name for kind in objects), *(name for kind in objects for name in kind.columns)]
        if not names or len(set(names)) < len(names):
            raise ValueError(f"features, objects: expected at least one name, and each once, found {names}")
        clouds = {}
        for kind in objects:
            values, owner, _ = kind.entries(events)
            if not len(values):
                raise ValueError(f"objects {kind.name!r}: expected events that have some, found none in {len(events)} "
                                 f"events; leave them out")  # fmt: skip
            counts = np.bincount(owner, minlength=len(events))
            clouds[kind.name] = (kind.standard(values), torch.from_numpy(np.concatenate([[0], np.cumsum(counts)])))
        inputs = Inputs(_matrix(events, flat), clouds)
        always = tuple(not isinstance(events[kind.columns[0]], Ragged) for kind in objects)
        weight = torch.from_numpy(np.array(events.weight))
        return cls(tuple(flat), tuple(objects), always, Standardise.fit(inputs, weight, scaling))

    @property
    def names(self) -> tuple[str, ...]:
        """Of the V values."""
        each = (f"{o.name}[{i}].{seen}" for o in self.objects for i in range(o.count) for seen in o.seen)
        return (*self.flat, *each)

    @property
    def masks(self) -> tuple[str, ...]:
        """Of the M masks."""
        kinds = zip(self.objects, self.always, strict=True)
        return tuple(f"{o.name}[{i}]" for o, always in kinds if not always for i in range(o.count))

    @property
    def owners(self) -> tuple[int, ...]:
        """For each value the number of its mask; M for those that are always there."""
        masks, found = self.masks, [len(self.masks)] * len(self.flat)
        for kind, always in zip(self.objects, self.always, strict=True):
            for i in range(kind.count):
                found += [len(masks) if always else masks.index(f"{kind.name}[{i}]")] * len(kind.seen)
        return tuple(found)

    def inputs(self, events: Events) -> Inputs:
        """The values, 0 where there are none, and behind them the masks, (N, V + M) in single precision.

        Raises
        ------
        KeyError, TypeError, ValueError
            as `Objects.entries`; and for ragged columns of objects that were always there, and have no mask.
        """
        values, masks = [self.scales.flat(_matrix(events, self.flat))], []
        for kind, always in zip(self.objects, self.always, strict=True):
            if always:
                events.flat(kind.columns[0])  # says what is wrong
            entries, owner, place = kind.entries(events)
            at = torch.from_numpy(owner), torch.from_numpy(place)
            padded = torch.zeros(len(events), kind.count, len(kind.seen), dtype=torch.float64)
            padded[at] = torch.cat([self.scales.clouds[kind.name](kind.standard(entries)), kind.turned(entries)], 1)
            values.append(padded.flatten(1))
            mask = torch.zeros(len(events), kind.count, dtype=torch.float64)
            mask[at] = 1.0
            masks += [] if always else [mask]
        return Inputs(torch.cat([*values, *masks], 1).float())

    def beyond(self, events: Events) -> tuple[float, ...]:
        """For each kind of objects, the fraction of the events that have more than ``count`` of them."""
        found = []
        for kind, always in zip(self.objects, self.always, strict=True):
            more = 0.0 if always else float(np.mean(events.ragged(kind.columns[0]).counts > kind.count))
            found.append(more)
        return tuple(found)

    def to_json(self) -> dict[str, Any]:
        """The form in which it is saved, beside the arrays of ``scales``."""
        kinds = [{name: list(v) if isinstance(v, tuple) else v for name, v in asdict(o).items()} for o in self.objects]
        return {"flat": list(self.flat), "objects": kinds, "always": list(self.always)}

    @classmethod
    def from_json(cls, spec: Mapping[str, Any], arrays: Mapping[str, NDArray[Any]]) -> Layout:
        """The inverse of `to_json`."""
        scales = Standardise.of_arrays({name: torch.from_numpy(np.array(a)) for name, a in arrays.items()})
        return cls(
            tuple(spec["flat"]), tuple(Objects(**kind) for kind in spec["objects"]), tuple(spec["always"]), scales
        )


def _matrix(events: Events, flat: Sequence[str]) -> Tensor:
    """Checked flat columns (N, D)."""
    if not flat:
        return torch.empty(len(events), 0, dtype=torch.float64)
    return Features(flat).tensors(events, dtype=np.float64).flat
