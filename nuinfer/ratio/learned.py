"""What all learned ratios share: K networks, and the events that each of them has seen.

No event is scored by a network that was trained on it: an event that is known gets the networks of its own fold, any
other one the mean over all folds.
"""

from __future__ import annotations

import os
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, NamedTuple, Self, cast

import numpy as np
import torch
from numpy.typing import NDArray
from scipy import special
from torch import Tensor

from .. import nets, store
from ..ensemble import Ensemble, Fitted, Model, fit_networks, model_of, network_of, spec_of
from ..events import Events
from ..features import Batch, Features, Inputs, Shape
from ..losses import Loss
from ..nets import Network
from ..resample import Resample
from ..train import Draw, Drawn, History, Training, digest
from ..trees import Forest, Trees

Floats = NDArray[np.float64]
Keys = NDArray[np.int64]
Arrays = dict[str, NDArray[Any]]

PIECE = 1 << 16  # held-out rows at a time


def key_of(events: Events, group: str | None) -> Keys:
    """What folds hash of events that a ratio is applied to; ``KeyError`` without the column that it knows them by."""
    if group is not None and group not in events:
        raise KeyError(
            f"no column {group!r}, by which this ratio knows the events that its networks were trained on; "
            f"add it (for events of another sample: numbers that do not occur in the training sample)"
        )
    return events.key(group)


def out_of_fold(logs: Floats, resample: Resample, key: Keys, known: Keys) -> Floats:
    """Members' logs (K, N, ...) from those of all networks: their own fold's, or the log of the mean over folds."""
    if resample.folds == 1:
        return logs
    by_fold = logs.reshape(resample.members, resample.folds, *logs.shape[1:])
    mean = special.logsumexp(by_fold, axis=1) - np.log(resample.folds)
    rest = (1,) * (logs.ndim - 2)
    fold = resample.fold_of(key).astype(np.int64).reshape(1, 1, -1, *rest)
    own = np.take_along_axis(by_fold, fold, 1)[:, 0]
    return np.asarray(np.where(_among(key, known).reshape(1, -1, *rest), own, mean))


def _among(key: Keys, known: Keys) -> NDArray[np.bool_]:
    """Which keys (N,) are among the known ones, which are sorted: few of many are found without sorting these again."""
    if not len(known):
        return np.zeros(len(key), np.bool_)
    at = np.minimum(np.searchsorted(known, key), len(known) - 1)
    return np.asarray(known[at] == key)


def shares(resample: Resample, key: Keys, known: Keys) -> Floats:
    """What each network contributes to its member's answer, (members, folds, N): 1 or 0, or 1 / folds."""
    if resample.folds == 1:
        return np.ones((resample.members, 1, len(key)))
    own = resample.fold_of(key) == np.arange(resample.folds)[:, None]
    part = np.where(_among(key, known), own, 1.0 / resample.folds)
    return np.broadcast_to(part, (resample.members, *part.shape))


class Rows(NamedTuple):
    """What is trained on: N rows, one array of weights a class, and what resampling hashes."""

    inputs: Inputs
    weights: tuple[Floats, ...]
    key: Keys


def rows_of(
    parts: Sequence[Events], features: Features, weights: tuple[Floats, ...], key: Keys, seed: int,
    cache: str | Path | None,
) -> tuple[Rows, Keys | None]:  # fmt: skip
    """The events of all parts, one after the other, and None; with a ``cache`` folder as `Features.mapped`.

    Mapped rows are in another order (N,), that of ``order``: `Rows` has weights and keys in it.
    """
    if cache is None:
        return Rows(Inputs.concat([features.tensors(events) for events in parts]), weights, key), None
    inputs, order = features.mapped(parts, cache, seed=seed)
    return Rows(inputs, tuple(w[order] for w in weights), key[order]), order


class Reordered(Draw):
    """A `Draw` for rows in another order: row i is what ``draw`` calls ``order[i]``."""

    def __init__(self, draw: Draw, order: Keys) -> None:
        self.draw, self.order = draw, torch.from_numpy(np.asarray(order, np.int64))

    @classmethod
    def of(cls, draw: Draw, order: Keys | None) -> Draw:
        """``draw`` itself where the order is the same."""
        return draw if order is None else cls(draw, order)

    def __call__(self, rows: Tensor, networks: NDArray[np.int64], epoch: int | None) -> Drawn:
        """What it draws for those rows, which is what they had in their own order."""
        return self.draw(self.order[rows], networks, epoch)

    def describe(self) -> str:
        """That of the draw, and a digest of the order."""
        return f"{self.draw.describe()} in the order {digest(self.order)}"


def network_outputs(model: Model, inputs: Inputs, network: int) -> Floats:
    """Outputs (N,) or (N, C) of one network of several; the others are not evaluated, but for trees."""
    if isinstance(model, Forest):
        return np.asarray(model.log(inputs.flat.numpy())[network])
    state = {name: tensor[network : network + 1] for name, tensor in model.state.items()}
    return np.asarray(Ensemble(model.stack, state, model.standardise).log(inputs)[0])


def held_out(model: Model, rows: Rows, resample: Resample, draw: Draw | None = None) -> list[tuple[Floats, ...]]:
    """For each network its outputs on the rows that it held out, and their weights in each class.

    With a ``draw`` the rows are completed as they were for the network's validation.
    """
    return [_held_out(model, rows, resample, draw, n) for n in range(resample.networks)]


def _held_out(model: Model, rows: Rows, resample: Resample, draw: Draw | None, network: int) -> tuple[Floats, ...]:
    times = resample.times(network, rows.key, held_out=True)
    mine = np.flatnonzero(times)
    weights = tuple(w[mine] * times[mine] for w in rows.weights)
    outputs, factors = [], []
    for start in range(0, max(len(mine), 1), PIECE):  # a part of a file that is mapped need not fit in memory
        part = mine[start : start + PIECE]
        inputs = rows.inputs.select(part)
        if draw is not None:
            drawn = draw(torch.from_numpy(part)[None, None], np.array([network]), None)
            inputs = Inputs(torch.cat([inputs.flat, drawn.columns[0, 0]], 1), inputs.clouds)
            factors.append([f[0, 0].double().numpy() for f in drawn.factors])
        outputs.append(network_outputs(model, inputs, network))
    if factors and factors[0]:
        joined = [np.concatenate(f) for f in zip(*factors, strict=True)]
        weights = tuple(w * f for w, f in zip(weights, joined, strict=True))
    return (np.concatenate(outputs), *weights)


class Networks(NamedTuple):
    """What every file of this package has: networks, the columns they see, and the events they were trained on."""

    features: Features
    network: Network | Trees
    model: Model
    resample: Resample
    history: History | None
    group: str | None
    known: Keys

    def spec(self) -> dict[str, Any]:
        """What `of` needs beside the arrays."""
        return {
            "features": self.features.to_json(), "network": spec_of(self.network), "resample": vars(self.resample),
            "group": self.group,
        }  # fmt: skip

    def arrays(self) -> Arrays:
        """Names and arrays to save."""
        model = store.under("model.", self.model.arrays())
        return {**model, "known": self.known, **(self.history.arrays() if self.history is not None else {})}

    @classmethod
    def of(cls, spec: Mapping[str, Any], arrays: Mapping[str, NDArray[Any]], module: Any) -> Networks:
        """The inverse of `spec` and `arrays`; ``module`` makes the network where it was a user's own."""
        features, network = Features.from_json(spec["features"]), network_of(spec["network"], module)
        parts = store.within("model.", arrays)
        shape, outputs = _wider(features.shape, spec.get("extra", 0)), spec.get("outputs", 1)
        history = None if isinstance(network, Trees) else History.of_arrays(arrays)
        model = model_of(network, shape, parts, outputs)
        return cls(features, network, model, Resample(**spec["resample"]), history, spec["group"], arrays["known"])


@dataclass(frozen=True)
class Options:
    """How to train; the same for every ratio of this package."""

    network: Network
    resample: Resample
    training: Training
    group: str | None
    device: str
    checkpoint: str | Path | None
    progress: bool

    def __post_init__(self) -> None:
        if isinstance(self.network, Trees):
            raise TypeError("network: expected one that is differentiable, such as MLP(), found Trees, which have "
                            "neither a gradient in theta nor more than one output; fit_ratio takes them")  # fmt: skip


@dataclass(frozen=True, eq=False)
class Learned:
    """Trained networks and what is needed to apply them to events.

    Attributes
    ----------
    extra:
        Flat columns behind those of ``features``: the parameters, standardised.
    outputs:
        Numbers that a network gives an event.
    known:
        Keys of the training events, sorted; empty without folds.
    """

    features: Features
    network: Network
    model: Ensemble
    resample: Resample
    history: History
    group: str | None
    known: Keys
    extra: int = 0
    outputs: int = 1

    def inputs(self, events: Events, columns: Floats | None = None) -> Inputs:
        """The networks' inputs, with the extra columns (N, extra) behind the flat ones."""
        found = self.features.tensors(events)
        if columns is None:
            return found
        behind = torch.from_numpy(columns.astype(np.float32))
        return Inputs(torch.cat([found.flat, behind], 1), found.clouds)

    def batch(self, batch: Batch, columns: Tensor) -> Batch:
        """A batch of one member (1, B) with extra columns (extra,) or (B, extra), in torch."""
        flat = batch.flat
        behind = columns.to(flat.device, flat.dtype).expand(1, flat.shape[1], self.extra)
        return Batch(torch.cat([flat, behind], -1), batch.clouds)

    def out_of_fold(self, events: Events, logs: Floats) -> Floats:
        """Members' logs (K, N, ...) from those of all networks."""
        return out_of_fold(logs, self.resample, self._key(events), self.known)

    def shares(self, events: Events) -> Floats:
        """What each network contributes to its member's answer (members, folds, N)."""
        return shares(self.resample, self._key(events), self.known)

    def _key(self, events: Events) -> Keys:
        return events.id if self.resample.folds == 1 else key_of(events, self.group)

    def spec(self) -> dict[str, Any]:
        """What `of` needs beside the arrays."""
        return {**self._networks.spec(), "extra": self.extra, "outputs": self.outputs}

    def arrays(self) -> Arrays:
        """Names and arrays to save."""
        return self._networks.arrays()

    @property
    def _networks(self) -> Networks:
        return Networks(self.features, self.network, self.model, self.resample, self.history, self.group, self.known)

    @classmethod
    def of(cls, spec: Mapping[str, Any], arrays: Mapping[str, NDArray[Any]], module: Any) -> Learned:
        """The inverse of `spec` and `arrays`; ``module`` makes the network where it was a user's own."""
        found = Networks.of(spec, arrays, module)
        return cls(
            found.features, cast(Network, found.network), cast(Ensemble, found.model), found.resample,
            cast(History, found.history), found.group, found.known, spec["extra"], spec["outputs"],
        )  # fmt: skip

    def __str__(self) -> str:
        r = self.resample
        folds = f" x {r.folds} folds" if r.folds > 1 else ""
        name = type(self.network).__name__
        return f"{name}, {r.members} members{folds}, columns {', '.join(self.features.columns)}"


@dataclass(frozen=True, eq=False)
class Answer(ABC):
    """What the results of this package, made of `Learned` networks, have in common."""

    _KIND: ClassVar[str]  # of the file

    learned: Learned

    @abstractmethod
    def _saved(self) -> tuple[dict[str, Any], Arrays]:
        """Spec and arrays beside those of ``learned``."""

    @classmethod
    @abstractmethod
    def _loaded(cls, learned: Learned, spec: Mapping[str, Any], arrays: Arrays) -> Self:
        """The inverse of `_saved`."""

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write everything to one safetensors file, atomically."""
        spec, arrays = self._saved()
        store.save(path, self._KIND, {**self.learned.spec(), **spec}, {**self.learned.arrays(), **arrays})

    @classmethod
    def load(cls, path: str | os.PathLike[str], *, module: Any = None) -> Self:
        """Read what `save` wrote; ``module`` makes the network where it was a user's own.

        Raises
        ------
        CorruptFile
            for a file that is damaged; ``ValueError`` for one of another kind; ``FileNotFoundError`` for none.
        """
        spec, arrays = store.load(path, cls._KIND)
        return cls._loaded(Learned.of(spec, arrays, module), spec, arrays)

    @property
    def features(self) -> Features:
        """The columns that it sees."""
        return self.learned.features

    @property
    def resample(self) -> Resample:
        """Members, folds, splits and bootstraps."""
        return self.learned.resample

    @property
    def history(self) -> History:
        """Risks per epoch and network."""
        return self.learned.history


def learn(
    rows: Rows,
    features: Features,
    options: Options,
    loss: Loss,
    *,
    label: str,
    classes: tuple[str, ...] = ("numerator", "denominator"),
    draw: Draw | None = None,
    extra: int = 0,
    slopes: int = 0,
    outputs: int = 1,
) -> Learned:
    """Train the networks of ``options`` on ``rows``."""
    o = options
    stack = nets.stack(o.network, _wider(features.shape, extra), outputs)
    fitted = fit_networks(
        rows.inputs, rows.weights, rows.key, o.resample, stack=stack, loss=loss, training=o.training, classes=classes,
        draw=draw, drawn=extra, slopes=slopes, device=o.device, checkpoint=o.checkpoint, label=label,
        progress=o.progress,
    )  # fmt: skip
    known = np.unique(rows.key) if o.resample.folds > 1 else np.empty(0, np.int64)
    model, history = _networks(fitted)
    return Learned(features, o.network, model, o.resample, history, o.group, known, extra, outputs)


def _networks(fitted: Fitted) -> tuple[Ensemble, History]:
    return cast(Ensemble, fitted.model), cast(History, fitted.history)


def _wider(shape: Shape, columns: int) -> Shape:
    return Shape(shape.flat + columns, shape.clouds)


def selected(events: Events) -> Events:
    """The events whose weight is not 0; a copy only where there is something to leave out."""
    return events if events.weight.all() else events.select(events.weight != 0)
