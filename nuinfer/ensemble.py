"""K log-ratio estimators trained as one: what `nuinfer.ratio` and `nuinfer.unfolding` share.

``fit`` takes rows with two weights each (numerator, denominator), a `Resample` that says how each network sees them,
and a spec; it gives an `Ensemble` of networks or a `Forest` of boosted trees, both of which answer ``log`` (K, N).

``fit_networks`` is the part of it that trains networks, for any number of classes and outputs, with rows that a
`nuinfer.train.Draw` completes.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from . import nets
from .features import Batch, Inputs, Shape
from .losses import Loss
from .nets import Network, Stack, Standardise, State
from .resample import Resample
from .train import Draw, History, Risk, Training, minimise, outputs_of
from .trees import Forest, Trees, fit_forest

__all__ = ["Ensemble", "Fitted", "Heads", "fit", "fit_networks", "standardisation"]

Floats = NDArray[np.float64]

_ROWS = 1 << 16  # rows of all networks in one evaluation: their activations stay small
_ROWS_HIDDEN = 1 << 14  # and of hidden layers, which are kept for a while in float64


@dataclass(frozen=True)
class Ensemble:
    """K trained networks of one architecture, with the standardisation of their inputs."""

    stack: Stack
    state: State
    standardise: Standardise

    @property
    def networks(self) -> int:
        """How many networks it holds."""
        return len(next(iter(self.state.values())))

    def part(self, start: int, stop: int) -> Ensemble:
        """The networks from ``start`` to ``stop``."""
        return replace(self, state={name: tensor[start:stop] for name, tensor in self.state.items()})

    def select(self, networks: NDArray[np.int64]) -> Ensemble:
        """The networks of these numbers, in that order."""
        index = torch.from_numpy(np.asarray(networks, np.int64))
        return replace(self, state={name: tensor[index] for name, tensor in self.state.items()})

    @nets.single_precision()
    def tensor(self, batch: Batch) -> Tensor:
        """Outputs (K, B) of a batch of one member, differentiable in its values."""
        return self.stack(self.state, self.standardise(batch).expand(self.networks))

    def slopes(self, batch: Batch, columns: int) -> Tensor:
        """Outputs and their gradient with respect to the last flat columns, (K, B, 1 + columns), of one member's batch.

        The gradient is with respect to the standardised columns, and is not differentiable again.
        """
        expanded = self.standardise(batch).expand(self.networks)
        return outputs_of(self.stack, self.state, expanded, columns)

    def log(self, inputs: Inputs) -> Floats:
        """Outputs (K, N), or (K, N, C) where a network has C of them, in float64."""
        return self.each(inputs)

    @torch.no_grad()
    def each(self, inputs: Inputs, slopes: int = 0) -> Floats:
        """`tensor` of all events in pieces, or `slopes` where that many columns are asked for."""
        pieces = []
        size = min(1 << 13, max(1 << 6, int(_ROWS / (self.networks * inputs.per_event))))
        for start in range(0, max(len(inputs), 1), size):
            batch = inputs.span(start, start + size)
            pieces.append((self.slopes(batch, slopes) if slopes else self.tensor(batch)).cpu().double().numpy())
        return np.concatenate(pieces, 1)

    @nets.single_precision()
    @torch.no_grad()
    def hidden(self, inputs: Inputs) -> Iterator[tuple[slice, Floats, Floats]]:
        """Rows, their outputs (K, n), and their last hidden layers with a one behind (K, n, H + 1), piece by piece.

        In float64; ``TypeError`` for networks whose last layer is not known.
        """
        weight, bias = (t.double().numpy() for t in self.stack.last_layer(self.state))
        size = max(1 << 6, int(_ROWS_HIDDEN / (self.networks * inputs.per_event)))
        for start in range(0, len(inputs), size):
            batch = self.standardise(inputs.span(start, start + size)).expand(self.networks)
            h = self.stack.hidden(self.state, batch).double().numpy()
            f = (h @ weight.swapaxes(1, 2) + bias)[..., 0]
            yield slice(start, start + h.shape[1]), f, np.concatenate([h, np.ones((*h.shape[:2], 1))], -1)

    def arrays(self) -> dict[str, NDArray[Any]]:
        """Names and arrays to save."""
        scales = {f"standardise.{name}": t for name, t in self.standardise.arrays().items()}
        named = {f"state.{name}": t for name, t in self.state.items()} | scales
        return {name: t.detach().cpu().numpy() for name, t in named.items()}

    @classmethod
    def of_arrays(cls, stack: Stack, arrays: dict[str, NDArray[Any]]) -> Ensemble:
        """The inverse of `arrays`, for a stack of the same spec."""
        tensors = {name: torch.from_numpy(np.array(a)) for name, a in arrays.items()}
        parts: dict[str, State] = {"state": {}, "standardise": {}}
        for name, tensor in tensors.items():
            part, _, rest = name.partition(".")
            if part in parts:
                parts[part][rest] = tensor
        expected = {name: tuple(tensor.shape[1:]) for name, tensor in stack.initial(0, [0]).items()}
        found = {name: tuple(tensor.shape[1:]) for name, tensor in parts["state"].items()}
        if expected != found:
            wrong = sorted(name for name in expected.keys() | found.keys() if expected.get(name) != found.get(name))
            raise ValueError(
                f"module: expected a network with the saved tensors, found another in {wrong[0]!r}: saved shape "
                f"{found.get(wrong[0])}, made {expected.get(wrong[0])}"
            )
        state = {name: parts["state"][name] for name in expected}
        return cls(stack, state, Standardise.of_arrays(parts["standardise"]))


@dataclass(frozen=True)
class Heads:
    """Networks that have the hidden layers of those of ``model`` and last layers of their own.

    ``own`` (K,) says whose hidden layers each has, ``shift`` (K, H + 1) what is added to its last layer.
    """

    model: Ensemble
    own: NDArray[np.int64]
    shift: Floats

    @property
    def history(self) -> None:
        """There is none: nothing was trained."""
        return None

    def log(self, inputs: Inputs) -> Floats:
        """Outputs (K, N), in float64."""
        found = np.empty((len(self.own), len(inputs)))
        for rows, f, phi in self.model.hidden(inputs):
            for member in range(self.model.networks):
                mine = np.flatnonzero(self.own == member)
                found[mine, rows] = f[member] + self.shift[mine] @ phi[member].T
        return found


Model = Ensemble | Forest


@dataclass(frozen=True)
class Fitted:
    """A model and, for networks, its history."""

    model: Model
    history: History | None

    def log(self, inputs: Inputs) -> Floats:
        """Log ratios (networks, N)."""
        if isinstance(self.model, Forest):
            return self.model.log(inputs.flat.numpy())
        return self.model.log(inputs)


def fit(
    inputs: Inputs,
    weights: tuple[Floats, Floats],
    key: NDArray[np.int64],
    resample: Resample,
    *,
    shape: Shape,
    network: Network | Trees,
    loss: Loss,
    training: Training,
    device: str = "cpu",
    checkpoint: str | Path | None = None,
    warm: Fitted | None = None,
    label: str = "training",
    progress: bool = True,
) -> Fitted:
    """Fit log p1/p0 for each network of ``resample``.

    Parameters
    ----------
    inputs:
        N rows.
    weights:
        Numerator and denominator weights, each (N,) or (networks, N), any sign.
    key:
        What ``resample`` hashes (N,).
    warm:
        A fit of the same spec whose networks are where training starts.

    Raises
    ------
    ValueError, TypeError
        for what the spec cannot take (clouds in an MLP or in trees, negative weights in trees).
    """
    if isinstance(network, Trees):
        if shape.clouds:
            raise ValueError("Trees take flat columns only, found clouds; use DeepSet or Transformer")
        if device != "cpu" or checkpoint is not None:
            raise ValueError("Trees are fitted on the CPU without checkpoints; leave device and checkpoint out")
        forest = fit_forest(inputs.flat.numpy(), weights, key, resample, network, threads=torch.get_num_threads())
        return Fitted(forest, None)
    stack = nets.stack(network, shape)
    return fit_networks(
        inputs, weights, key, resample, stack=stack, loss=loss, training=training, device=device,
        checkpoint=checkpoint, warm=warm, label=label, progress=progress,
    )  # fmt: skip


@nets.single_precision()
def fit_networks(
    inputs: Inputs,
    weights: tuple[Floats, ...],
    key: NDArray[np.int64],
    resample: Resample,
    *,
    stack: Stack,
    loss: Loss,
    training: Training,
    classes: tuple[str, ...] = ("numerator", "denominator"),
    draw: Draw | None = None,
    drawn: int = 0,
    slopes: int = 0,
    standardise: Standardise | None = None,
    device: str = "cpu",
    checkpoint: str | Path | None = None,
    warm: Fitted | None = None,
    label: str = "training",
    progress: bool = True,
) -> Fitted:
    """Minimise a loss of the outputs of ``stack`` for each network of ``resample``.

    Parameters
    ----------
    weights, classes:
        One array (N,) or (networks, N) a class of the loss, and its name.
    stack:
        Networks for the flat columns of ``inputs`` and, behind them, ``drawn`` columns that ``draw`` adds; those are
        not standardised here.
    slopes:
        For a loss that compares gradients: see `nuinfer.train.Risk`.
    standardise:
        How the columns are standardised, where it is not by `standardisation`.

    Raises
    ------
    ValueError
        as `nuinfer.train.minimise`.
    """
    tensors = tuple(torch.from_numpy(np.asarray(w, np.float32)) for w in weights)
    if warm is not None and isinstance(warm.model, Ensemble):
        stack, start, scales = warm.model.stack, warm.model.state, warm.model.standardise
    else:
        start = stack.initial(resample.seed, range(resample.networks))
        scales = (standardise or standardisation(inputs, weights, drawn=drawn)).to(device)
    trained = minimise(
        stack, start, inputs, Risk(loss, tensors, key, resample, classes, draw, slopes), training,
        prepare=scales, device=device, checkpoint=checkpoint, label=label, progress=progress,
    )  # fmt: skip
    state = {name: tensor.cpu() for name, tensor in trained.state.items()}
    return Fitted(Ensemble(stack, state, scales.to("cpu")), trained.history)


def standardisation(
    inputs: Inputs, weights: tuple[Floats, ...], *, ready: int = 0, drawn: int = 0, scaling: nets.Scaling = "moments"
) -> Standardise:
    """The scales of the columns under the sum of the classes' absolute weights (N,) or (networks, N).

    The last ``ready`` flat columns are standardised already, and ``drawn`` come behind them.
    """
    # with the first network's weights, so that a network does not depend on how many more there are
    first = [np.abs(np.asarray(w, np.float32).reshape(-1, np.shape(w)[-1])[0]) for w in weights]
    size = torch.from_numpy(np.sum([w / w.mean() for w in first], axis=0))
    own = replace(inputs, flat=inputs.flat[:, : inputs.flat.shape[1] - ready]) if ready else inputs
    return Standardise.fit(own, size, scaling).padded(ready + drawn)


def spec_of(network: Network | Trees) -> dict[str, Any] | None:
    """The saved form of a spec; None for a user's module."""
    if isinstance(network, Trees):
        return {"type": "Trees", **vars(network)}
    return nets.to_json(network)


def network_of(spec: dict[str, Any] | None, module: Any = None) -> Network | Trees:
    """The inverse of `spec_of`; a user's module has to be given again."""
    if spec is None:
        if module is None:
            raise ValueError("this result was made with a network of your own; give the function that makes it: "
                             "load(path, module=factory)")  # fmt: skip
        return module  # type: ignore[no-any-return]
    if spec["type"] == "Trees":
        return Trees(**{name: value for name, value in spec.items() if name != "type"})
    return nets.from_json(spec)


def model_of(network: Network | Trees, shape: Shape, arrays: dict[str, NDArray[Any]], outputs: int = 1) -> Model:
    """The saved model of a spec."""
    if isinstance(network, Trees):
        return Forest.of_arrays(arrays)
    return Ensemble.of_arrays(nets.stack(network, shape, outputs), arrays)
