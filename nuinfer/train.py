"""The one training loop: all networks of an ensemble at once, as one batched computation.

Network n minimises its own weighted risk over the rows i of one sample,

    R_n = sum_i m_n(i) l(f_n(x_i), w_ci / T_cn),        T_cn = sum_i m_n(i) w_ci,

where ``m_n`` are the multiplicities of `nuinfer.resample` (members, folds, validation splits, bootstraps), ``w_c`` the
event weights of class c, any sign, and ``l`` a loss of `nuinfer.losses`.  A class is divided by its total over the
network's training rows, never by a batch's sum, which signed weights can make vanish.

A `Draw` may complete the rows of a step: with columns that are drawn anew each epoch (the parameters theta of a
parametrised ratio), with factors of the class weights, and with targets, numbers that the loss gets behind the weights.
A loss that compares gradients with respect to those columns asks for them with ``Risk.slopes``.

Each network draws index batches of its own, without replacement within an epoch, from its own rows with m_n > 0; a
batch of one step is (K, B).  There is no data loader: a batch is one gather.  The optimiser is fused AdamW (Loshchilov,
Hutter, arXiv 1711.05101) on one (K, P) matrix of all parameters, the learning rate warms up and falls as a cosine over
a fixed number of epochs.  Networks are stopped one by one on their own validation rows, leave the batch, and get their
best weights back.
"""

from __future__ import annotations

import hashlib
import logging
import math
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple, cast

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from tqdm.auto import tqdm

from . import hashing, store
from .errors import NotConverged
from .features import Batch, Inputs
from .losses import Loss
from .nets import Stack, Standardise, State
from .resample import Resample

__all__ = ["Draw", "Drawn", "History", "Risk", "Trained", "Training", "minimise"]

_log = logging.getLogger("nuinfer")

_ROWS_AT_ONCE = 1 << 15  # rows of all networks whose indices and weights are drawn in one go
_ROWS_EVALUATED = 1 << 16  # rows of all networks in one evaluation of held-out events
_CHUNK_ROWS = 1 << 13  # rows of a chunk of networks: their activations stay in the cache (docs/performance.md)


@dataclass(frozen=True, kw_only=True)
class Training:
    """How to train: the defaults suit 10^4 to 10^6 events and a few columns.

    Parameters
    ----------
    epochs:
        Fixed length of the learning rate's schedule, in passes over a network's rows.
    batch:
        Events a step and network.
    learning_rate, warmup:
        The rate rises linearly over the fraction ``warmup`` of all steps, then falls to zero as a cosine.
    weight_decay:
        Of AdamW.
    patience:
        A network stops after so many epochs without a better validation risk, and gets the weights of its best epoch
        back.  None runs the schedule to its end and keeps the last weights: with a learning rate that falls to zero
        this is the more accurate choice unless a network overfits (docs/performance.md).
    cooldown:
        A network whose patience is at its end does not stop yet: it goes back to the weights of its best epoch, and its
        rate falls to zero from what it was there, as a cosine over so many epochs (Haegele et al., arXiv 2405.18392).
        So few epochs suffice where little can be learned, and many are there where they help.  None stops at once.
    clip:
        Largest Euclidean norm of a network's gradient; None leaves it.
    average:
        Validate and keep the exponential average of the weights over about so many epochs, which is less noisy than the
        weights of any one step (Polyak, Juditsky, SIAM J. Control Optim. 30 (1992) 838); None for the weights as they
        are.  In a cooldown it shrinks with the rate.
    chunk:
        Networks that go through forward and backward pass together; None keeps 8,192 rows in the cache.
    """

    epochs: int = 20
    batch: int = 1024
    learning_rate: float = 3e-3
    warmup: float = 0.1
    weight_decay: float = 1e-4
    patience: int | None = None
    cooldown: int | None = None
    clip: float | None = None
    average: float | None = None
    chunk: int | None = None

    def __post_init__(self) -> None:
        for name in ("epochs", "batch", "patience", "cooldown", "chunk"):
            value = getattr(self, name)
            if value is not None and (not isinstance(value, int) or value < 1):
                raise ValueError(f"Training: expected {name} to be an integer of at least 1, found {value!r}")
        for name in ("learning_rate", "clip", "average"):
            value = getattr(self, name)
            if value is not None and not (math.isfinite(value) and value > 0):
                raise ValueError(f"Training: expected {name} to be positive, found {value!r}")
        if not 0 <= self.warmup < 1 or self.weight_decay < 0:
            raise ValueError(f"Training: expected warmup in [0, 1) and weight_decay >= 0, found {self.warmup} and "
                             f"{self.weight_decay}")  # fmt: skip
        if self.cooldown is not None and self.patience is None:
            raise ValueError(f"Training: cooldown={self.cooldown} begins where patience ends, found patience=None; "
                             f"give both, or leave it")  # fmt: skip

    def rate(self, step: int, steps: int) -> float:
        """The learning rate of step 0 .. steps - 1."""
        rise = self.warmup * steps
        if step + 1 <= rise:
            return self.learning_rate * (step + 1) / rise
        return self.learning_rate * _falling(step + 1 - rise, steps + 1 - rise)


def _falling(step: float, steps: float) -> float:
    """Half a cosine from 1 at step 0 to 0 after ``steps``."""
    return 0.5 * (1 + math.cos(math.pi * step / steps))


class Drawn(NamedTuple):
    """What a `Draw` adds to rows (S, K, B), one tensor a class and one a target, of the shape of the rows.

    ``columns`` (S, K, B, C) follow the flat columns of the batch; ``factors`` multiply the class weights.
    """

    columns: Tensor
    factors: tuple[Tensor, ...] = ()
    targets: tuple[Tensor, ...] = ()


class Draw(ABC):
    """What completes the rows of a step, as a function of (row, network, epoch) and of nothing else."""

    @abstractmethod
    def __call__(self, rows: Tensor, networks: NDArray[np.int64], epoch: int | None) -> Drawn:
        """For rows (S, K, B) of the K ``networks``; ``epoch`` None is for held-out rows, the same ones each epoch."""

    @abstractmethod
    def describe(self) -> str:
        """What a checkpoint says of it: equal where the draws are."""


@dataclass(frozen=True)
class Risk:
    """What is minimised: a loss, the class weights of N rows, and how each network sees the rows.

    ``weights`` holds one tensor a class, (N,) for all networks or (networks, N) for each; ``key`` (N,) is what
    ``resample`` hashes.  ``classes`` names the classes in messages.  ``draw`` completes the rows, and with ``slopes``
    C > 0 the loss gets outputs (K, B, 1 + C): f and its gradient with respect to the last C flat columns.
    """

    loss: Loss
    weights: tuple[Tensor, ...]
    key: NDArray[np.int64]
    resample: Resample
    classes: tuple[str, ...] = ("numerator", "denominator")
    draw: Draw | None = None
    slopes: int = 0

    def weight(self, index: int, network: int) -> Tensor:
        """The weights (N,) of class ``index`` for one network."""
        weights = self.weights[index]
        return weights[network] if weights.ndim == 2 else weights


@dataclass(frozen=True)
class History:
    """What happened, per epoch and network.

    ``train`` and ``validation`` risk (epochs, networks), NaN once stopped; ``learning_rate`` (epochs,) at the end of
    each epoch, of networks that do not cool down; ``best_epoch`` (networks,), counted from 0.
    """

    train: NDArray[np.float64]
    validation: NDArray[np.float64]
    learning_rate: NDArray[np.float64]
    best_epoch: NDArray[np.int64]

    def arrays(self) -> dict[str, NDArray[Any]]:
        """Names and arrays to save."""
        return {f"history.{name}": value for name, value in vars(self).items()}

    @classmethod
    def of_arrays(cls, arrays: Mapping[str, NDArray[Any]]) -> History:
        """The inverse of `arrays`."""
        return cls(*(arrays[f"history.{name}"] for name in ("train", "validation", "learning_rate", "best_epoch")))


@dataclass(frozen=True)
class Trained:
    """The trained state, tensors (networks, ...), and its history."""

    state: State
    history: History


# -- drawing rows ------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Totals:
    """Per network: rows with m_n > 0, and each class's total weight over them; for training or validation rows."""

    rows: NDArray[np.int64]  # (networks,)
    weight: NDArray[np.float64]  # (networks, classes)


def _totals(risk: Risk, *, held_out: bool) -> _Totals:
    networks, classes = risk.resample.networks, len(risk.weights)
    rows, total = np.zeros(networks, np.int64), np.zeros((networks, classes))
    for n in range(networks):
        times = risk.resample.times(n, risk.key, held_out=held_out)
        rows[n] = np.count_nonzero(times)
        for c in range(classes):
            total[n, c] = np.dot(risk.weight(c, n).numpy().astype(np.float64, copy=False), times)
    _check_totals(risk, rows, total, "validation" if held_out else "training")
    return _Totals(rows, total)


def _check_totals(risk: Risk, rows: NDArray[np.int64], total: NDArray[np.float64], part: str) -> None:
    bad = np.argwhere(~(total > 0))
    if len(bad):
        n, c = (int(i) for i in bad[0])
        raise ValueError(
            f"{risk.classes[c]}: expected a positive total weight in the {part} rows of every network, found "
            f"{total[n, c]:g} for network {n} of {len(rows)} ({rows[n]} rows of {len(risk.key)}, which have "
            f"{len(np.unique(risk.key))} different ids or groups); use more events, fewer folds or another validation "
            f"fraction, and ids that tell events apart"
        )


class _Epoch:
    """The batches of one epoch for the networks ``active``, drawn for S steps at a time."""

    def __init__(
        self, risk: Risk, totals: _Totals, active: NDArray[np.int64], size: int, steps: int, window: int | None = None
    ) -> None:
        self.risk, self.totals, self.active, self.size, self.steps = risk, totals, active, size, steps
        self.window = window or len(risk.key)

    def blocks(self, epoch: int, device: Any, per_event: float = 1.0) -> Iterator[tuple[Tensor, tuple[Tensor, ...]]]:
        """Rows (S, K, B) and scaled class weights, each (S, K, B)."""
        many = max(1, int(_ROWS_AT_ONCE / (self.size * len(self.active) * per_event)))
        drawn = [_Stream(self.risk, int(n), epoch, self.window) for n in self.active]
        for start in range(0, self.steps, many):
            count = min(many, self.steps - start)
            rows, weights = self._block([stream.take(count * self.size) for stream in drawn], count)
            yield rows, tuple(w.to(device) for w in weights)

    def _block(
        self, drawn: list[tuple[NDArray[np.int64], NDArray[np.uint8]]], count: int
    ) -> tuple[Tensor, tuple[Tensor, ...]]:
        """Rows (S, K, B) and weights of S steps, m_n(i) w_ci R_n / T_cn, whose batch mean estimates R_n."""
        shape = (len(drawn), count, self.size)
        rows = torch.from_numpy(np.stack([row for row, _ in drawn]))
        times = torch.from_numpy(np.stack([times for _, times in drawn]))
        weights = []
        for c, weight in enumerate(self.risk.weights):
            scale = self.totals.rows[self.active] / self.totals.weight[self.active, c]
            if weight.ndim == 1:
                picked = weight.index_select(0, rows.view(-1)).view_as(rows)
            else:
                each = zip(self.active, rows, strict=True)
                picked = torch.stack([weight[int(n)].index_select(0, row) for n, row in each])
            picked *= torch.from_numpy(scale).to(weight.dtype)[:, None]
            if self.risk.resample.bootstrap:  # otherwise every row counts once
                picked *= times
            weights.append(picked.view(shape).transpose(0, 1).contiguous())
        return rows.view(shape).transpose(0, 1).contiguous(), tuple(weights)


class _Stream:
    """One network's rows of an epoch, handed out piece by piece.

    A pass goes through windows of rows, in an order that all networks share, so that a memory-mapped file is read in
    blocks and once for all; within a window each network has an order of its own.
    """

    def __init__(self, risk: Risk, network: int, epoch: int, window: int) -> None:
        self.risk, self.network, self.epoch, self.window = risk, network, epoch, window
        self.windows = -(-len(risk.key) // window)
        self.turn, self.block, self.place = 0, 0, 0
        self.order = self._order()
        self.rows, self.times = np.empty(0, np.int64), np.empty(0, np.uint8)

    def take(self, wanted: int) -> tuple[NDArray[np.int64], NDArray[np.uint8]]:
        """The next ``wanted`` rows and how often each counts: passes without replacement over the rows with m_n > 0."""
        while len(self.rows) < wanted:
            rows, times = self._more(max(wanted, 4096))
            self.rows, self.times = np.concatenate([self.rows, rows]), np.concatenate([self.times, times])
        out = self.rows[:wanted], self.times[:wanted]
        self.rows, self.times = self.rows[wanted:], self.times[wanted:]
        return out

    def _order(self) -> NDArray[np.int64]:
        """The windows in the order of this pass."""
        return hashing.permutation(self.windows, self.risk.resample.seed, "windows", self.epoch, self.turn)

    def _more(self, step: int) -> tuple[NDArray[np.int64], NDArray[np.uint8]]:
        seed, labels = self.risk.resample.seed, (self.epoch, self.turn)
        first = self.window * int(self.order[self.block])
        size = min(self.window, len(self.risk.key) - first)
        bit_count = max(size - 1, 1).bit_length()
        stop = min(self.place + step, 1 << bit_count)
        rows = hashing.shuffled(self.place, stop, bit_count, seed, self.network, *labels, first)
        rows = first + rows[rows < size]
        self._advance(stop, stop == 1 << bit_count)
        times = self.risk.resample.times(self.network, self.risk.key[rows], held_out=False)
        kept = times > 0
        return rows[kept], times[kept]

    def _advance(self, place: int, window_done: bool) -> None:
        self.place = 0 if window_done else place
        self.block += window_done
        if self.block == self.windows:
            self.block, self.turn = 0, self.turn + 1
            self.order = self._order()


# -- parameters as one matrix ------------------------------------------------------------------------------------------


class _Parameters:
    """All trainable tensors of K networks as views of one matrix (K, P); buffers beside it."""

    def __init__(self, stack: Stack, state: State) -> None:
        self.names = stack.trainable(state)
        self.shapes = [state[name].shape[1:] for name in self.names]
        self.flat = torch.cat([state[name].detach().flatten(1) for name in self.names], 1).contiguous()
        self.order = tuple(state)
        self.buffers = {name: state[name].clone() for name in state if name not in self.names}
        self._leaves: dict[tuple[int, int], tuple[State, list[Tensor]]] = {}

    def views(self, flat: Tensor, start: int = 0, stop: int | None = None) -> State:
        """The state of the networks ``start`` to ``stop`` as views of ``flat``, in the stack's order."""
        sizes = [math.prod(shape) for shape in self.shapes]
        pieces = torch.split(flat[start:stop], sizes, 1)
        found = {n: p.view(-1, *shape) for n, p, shape in zip(self.names, pieces, self.shapes, strict=True)}
        found |= {name: buffer[start:stop] for name, buffer in self.buffers.items()}
        return {name: found[name] for name in self.order}

    def leaves(self, start: int, stop: int) -> tuple[State, list[Tensor]]:
        """`views` of ``flat`` whose trainable tensors, also listed, ask for gradients.

        They are made once, since the optimiser changes ``flat`` in place.
        """
        if (start, stop) not in self._leaves:
            views = self.views(self.flat, start, stop)
            self._leaves[start, stop] = views, [views[name].requires_grad_() for name in self.names]
        return self._leaves[start, stop]

    def replace(self, flat: Tensor, buffers: State) -> None:
        """Other values, for as many networks as ``flat`` has rows."""
        self.flat, self.buffers, self._leaves = flat, buffers, {}

    def keep(self, rows: Tensor) -> None:
        """Drop the networks that are not in ``rows``."""
        self.replace(self.flat[rows].contiguous(), {name: buffer[rows] for name, buffer in self.buffers.items()})


class _Optimiser:
    """AdamW on the parameter matrix, in the one fused kernel behind ``torch.optim.AdamW(fused=True)``.

    Called directly: the optimiser classes import torch's compiler, one CPU second in every process.
    """

    def __init__(self, parameters: _Parameters, training: Training) -> None:
        self.training, self.parameters = training, parameters
        self.average, self.square = torch.zeros_like(parameters.flat), torch.zeros_like(parameters.flat)
        self.step = torch.zeros((), device=parameters.flat.device)

    def keep(self, rows: Tensor) -> None:
        """Drop the networks that are not in ``rows``."""
        self.parameters.keep(rows)
        self.average, self.square = self.average[rows].contiguous(), self.square[rows].contiguous()

    def rewind(self, row: int, values: Tensor) -> None:
        """A network goes on from other weights (P,), without the momentum that led away from them."""
        self.parameters.flat[row] = values
        self.average[row] = 0

    def apply(self, gradient: Tensor, rates: NDArray[np.float64]) -> None:
        """One step with the gradient (K, P), clipped by network, at the rates (K,)."""
        if self.training.clip is not None:
            norm = torch.linalg.vector_norm(gradient, dim=1, keepdim=True)
            gradient *= (self.training.clip / norm.clamp_min(1e-30)).clamp_max(1)
        self.step += 1
        matrices = self.parameters.flat, gradient, self.average, self.square
        if (rates == rates[0]).all():
            self._adamw(matrices, rates[0])
        else:  # the kernel takes one rate a call
            for row, rate in enumerate(rates):
                self._adamw([matrix[row] for matrix in matrices], rate)

    def _adamw(self, tensors: Sequence[Tensor], rate: float) -> None:
        flat, gradient, average, square = tensors
        torch._fused_adamw_(
            [flat], [gradient], [average], [square], [], [self.step], lr=float(rate), beta1=0.9, beta2=0.999,
            weight_decay=self.training.weight_decay, eps=1e-8, amsgrad=False, maximize=False,
        )  # fmt: skip


# -- the loop ----------------------------------------------------------------------------------------------------------


def outputs_of(stack: Stack, state: State, batch: Batch, slopes: int, *, training: bool = False) -> Tensor:
    """The outputs (K, B), or (K, B, C); with ``slopes`` (K, B, 1 + slopes): f, then df by the last flat columns.

    The gradient is itself differentiable, for a stack that is (`nuinfer.nets.Stack.twice`).
    """
    if not slopes:
        return stack(state, batch, training=training)
    with torch.enable_grad():
        flat = batch.flat.detach().requires_grad_()
        f = stack(state, Batch(flat, batch.clouds), training=training)
        (slope,) = torch.autograd.grad(f.sum(), flat, create_graph=training)
    return torch.cat([f[..., None], slope[..., -slopes:]], -1)


def mean_loss(outputs: Tensor, weights: tuple[Tensor, ...], loss: Loss) -> Tensor:
    """The networks' risks (K,) estimated from a batch: the mean over B of the losses (K, B)."""
    return loss(outputs, weights).mean(1)


class _Loop:
    def __init__(
        self, stack: Stack, state: State, inputs: Inputs, prepare: Any, risk: Risk, training: Training, device: Any
    ) -> None:
        self.stack = stack.twice() if risk.slopes else stack
        self.inputs, self.prepare, self.risk, self.training = inputs, prepare, risk, training
        self.device = device
        self.totals = _totals(risk, held_out=False)
        self.held = _totals(risk, held_out=True) if risk.resample.validation else None
        networks = risk.resample.networks
        self.active = np.arange(networks)
        # those of the first network, which do not depend on how many more there are
        self.steps = math.ceil(int(self.totals.rows[0]) / training.batch)
        self.parameters = _Parameters(stack, state)
        self.optimiser = _Optimiser(self.parameters, training)
        self.average = self.parameters.flat.clone() if training.average is not None else None
        self.best = self.parameters.flat.clone()  # (networks, P), all of them
        self.best_buffers = {name: b.clone() for name, b in self.parameters.buffers.items()}
        self.best_risk = np.full(networks, np.inf)
        self.best_epoch = np.zeros(networks, np.int64)
        self.cooled_from = np.full(networks, -1)  # the epoch in which each network's rate began to fall, if it did
        self.cooled_rate = np.zeros(networks)  # and the rate from which it fell
        self.losses: list[NDArray[np.float64]] = []
        self.held_losses: list[NDArray[np.float64]] = []

    @property
    def epoch(self) -> int:
        """Epochs done."""
        return len(self.losses)

    @property
    def kept(self) -> Tensor:
        """The parameters (K, P) of the active networks that are validated and kept."""
        return self.parameters.flat if self.average is None else self.average

    def run_epoch(self) -> None:
        """All steps of one epoch, then validation, best weights and stopping."""
        networks = self.risk.resample.networks
        trained, held = np.full(networks, np.nan), np.full(networks, np.nan)
        trained[self.active] = self._steps()
        if self.held is not None:
            held[self.active] = self._validate()
        self._check_finite(trained[self.active], held[self.active])
        self.losses.append(trained)
        self.held_losses.append(held)
        self._remember(held)
        self._stop()

    def _steps(self) -> NDArray[np.float64]:
        losses = []
        epoch = _Epoch(self.risk, self.totals, self.active, self.training.batch, self.steps, self.inputs.window)
        gradient = torch.empty_like(self.parameters.flat)
        number, steps = self.epoch * self.steps, self.training.epochs * self.steps
        for rows, weights in epoch.blocks(self.epoch, self.device, self.inputs.per_event):
            # one gather for all steps of a block: at small batches its calls cost as much as a hidden layer
            block, weights = self._complete(self.inputs.take(rows.flatten(0, 1)), weights, rows, self.epoch)
            block, networks = self.prepare(block), rows.shape[1]
            for s in range(len(rows)):
                batch = block.members(s * networks, (s + 1) * networks)
                losses.append(self._step(batch, tuple(w[s] for w in weights), gradient, number))
                rates = self._rates(number, steps)
                self.optimiser.apply(gradient, rates)
                number += 1
                if self.average is not None:
                    share = torch.from_numpy(1 / self._memory(number, rates)).to(self.average)[:, None]
                    self.average.lerp_(self.parameters.flat, share)
        return torch.stack(losses).cpu().double().mean(0).numpy()

    def _rates(self, number: int, steps: int) -> NDArray[np.float64]:
        """The rates (K,) of the active networks in a step."""
        rates = np.full(len(self.active), self.training.rate(number, steps))
        for k in np.flatnonzero(self.cooled_from[self.active] >= 0):
            begun, first = self.cooled_from[self.active[k]], self.cooled_rate[self.active[k]]
            rates[k] = first * _falling(number + 1 - begun * self.steps, self._cooldown(begun) * self.steps + 1)
        return rates

    def _memory(self, number: int, rates: NDArray[np.float64]) -> NDArray[np.float64]:
        """Over how many steps (K,) the weights are averaged after ``number`` of them.

        At first over all there are, so that the initial weights are soon forgotten.  In a cooldown the memory shrinks
        with the rate: widths that were learned beside noisy means have to follow when the noise has gone.
        """
        longest = np.full(len(self.active), cast(float, self.training.average) * self.steps)
        begun = self.cooled_from[self.active]
        cooling = begun >= 0
        longest[cooling] *= rates[cooling] / self.cooled_rate[self.active[cooling]]
        so_far = np.maximum(number - self.steps * np.maximum(begun, 0), 1.0)
        return np.asarray(np.maximum(np.minimum(longest, so_far), 1.0))

    def _cooldown(self, begun: int) -> int:
        """How many epochs it takes that began in an epoch: cut short where the schedule ends."""
        return min(cast(int, self.training.cooldown), self.training.epochs - begun)

    def _complete(
        self, batch: Batch, weights: tuple[Tensor, ...], rows: Tensor, epoch: int | None
    ) -> tuple[Batch, tuple[Tensor, ...]]:
        """The batch (S K, B) of rows (S, K, B) with the columns that are drawn, and weights, targets behind them."""
        if self.risk.draw is None:
            return batch, weights
        drawn = self.risk.draw(rows, self.active, epoch)
        like = batch.flat
        flat = torch.cat([like, drawn.columns.flatten(0, 1).to(like.device, like.dtype)], -1)
        factors = [f.to(like.device, like.dtype) for f in drawn.factors]
        if factors:
            weights = tuple(w * f for w, f in zip(weights, factors, strict=True))
        targets = (t.to(like.device, like.dtype) for t in drawn.targets)
        return Batch(flat, batch.clouds), (*weights, *targets)

    def _step(self, batch: Batch, weights: tuple[Tensor, ...], gradient: Tensor, number: int) -> Tensor:
        """Losses (K,) of the batch of a step; ``gradient`` (K, P) is filled, chunk by chunk of networks."""
        networks, size = weights[0].shape
        chunk = self.training.chunk or max(1, _CHUNK_ROWS // size)
        losses = []
        for start in range(0, networks, chunk):
            stop = min(start + chunk, networks)
            views, leaves = self.parameters.leaves(start, stop)
            part = batch if chunk >= networks else batch.members(start, stop)
            self.stack.reseed(partial(self._seeds, number, start, stop))
            outputs = outputs_of(self.stack, views, part, self.risk.slopes, training=True)
            loss = mean_loss(outputs, tuple(w[start:stop] for w in weights), self.risk.loss)
            # the gradient of the sum is each network's own; one given here would make torch import its compiler
            found = torch.autograd.grad(loss.sum(), leaves, allow_unused=True)
            pieces = [torch.zeros_like(p) if g is None else g for g, p in zip(found, leaves, strict=True)]
            torch.cat([piece.reshape(stop - start, -1) for piece in pieces], 1, out=gradient[start:stop])
            losses.append(loss.detach())
        return torch.cat(losses)

    def _seeds(self, number: int, start: int, stop: int) -> list[int]:
        """Seeds of what the active networks from ``start`` to ``stop`` draw at random in a step."""
        seed = self.risk.resample.seed
        return [hashing.salt(seed, "draws", n, number) >> 1 for n in self.active[start:stop]]

    @torch.no_grad()
    def _validate(self) -> NDArray[np.float64]:
        """Risks on the rows that each active network holds out."""
        held = self.held
        assert held is not None
        total = np.zeros(len(self.active))
        state = self.parameters.views(self.kept)
        for rows, times in _held_blocks(self.risk, self.active, self.inputs.per_event):
            batch, weights = self.inputs.take(rows), []
            for c, weight in enumerate(self.risk.weights):
                picked = weight[rows] if weight.ndim == 1 else weight[torch.from_numpy(self.active)[:, None], rows]
                scale = torch.from_numpy(1.0 / held.weight[self.active, c])[:, None]
                weights.append((picked * times * scale).to(self.device, batch.flat.dtype)[None])
            batch, completed = self._complete(batch, tuple(weights), rows[None], None)
            outputs = outputs_of(self.stack, state, self.prepare(batch), self.risk.slopes)
            total += self.risk.loss(outputs, tuple(w[0] for w in completed)).cpu().double().sum(1).numpy()
        return total

    def _check_finite(self, trained: NDArray[np.float64], held: NDArray[np.float64]) -> None:
        bad = ~np.isfinite(trained) | (~np.isfinite(held) if self.held is not None else False)
        if bad.any():
            raise NotConverged(
                f"the risk of networks {self.active[bad][:5].tolist()} is not finite in epoch {self.epoch + 1}; try a "
                f"smaller learning_rate, clip=1.0, or the loss 'bce', which is bounded in its gradients"
            )

    def _remember(self, held: NDArray[np.float64]) -> None:
        """Keep the weights of the active networks that have improved; of all where nothing is held out."""
        risk = held[self.active] if self.held is not None else np.full(len(self.active), -float(self.epoch))
        better = risk < self.best_risk[self.active]
        self.best_risk[self.active[better]] = risk[better]
        self.best_epoch[self.active[better]] = self.epoch - 1
        taken = better if self.training.patience is not None else np.ones_like(better)
        to, which = torch.from_numpy(self.active[taken]), torch.from_numpy(np.flatnonzero(taken))
        self.best[to] = self.kept[which]
        for name, buffer in self.parameters.buffers.items():
            self.best_buffers[name][to] = buffer[which]

    def _stop(self) -> None:
        """Networks without progress cool down, or leave the batch."""
        patience = self.training.patience
        if patience is None or self.held is None:
            return
        on = self.epoch - 1 - self.best_epoch[self.active] < patience
        if self.training.cooldown is not None:
            for row in np.flatnonzero(~on & (self.cooled_from[self.active] < 0)):
                self._cool(int(row))
            begun = self.cooled_from[self.active]
            on = (begun < 0) | (self.epoch - begun < self.training.cooldown)
        if not on.all():
            self.active = self.active[on]
            if len(self.active):
                rows = torch.from_numpy(np.flatnonzero(on))
                self.optimiser.keep(rows)
                self.average = None if self.average is None else self.average[rows].contiguous()

    def _cool(self, row: int) -> None:
        """An active network goes back to its best weights, and its rate falls from now on."""
        n = self.active[row]
        steps = self.training.epochs * self.steps
        self.cooled_from[n] = self.epoch
        self.cooled_rate[n] = self.training.rate((int(self.best_epoch[n]) + 1) * self.steps - 1, steps)
        self.optimiser.rewind(row, self.best[n])
        for name, buffer in self.parameters.buffers.items():
            buffer[row] = self.best_buffers[name][n]
        if self.average is not None:
            self.average[row] = self.best[n]

    def result(self) -> Trained:
        """The best states and the history."""
        self.parameters.buffers = self.best_buffers
        state = {name: t.detach().clone() for name, t in self.parameters.views(self.best).items()}
        steps = self.training.epochs * self.steps
        rates = [self.training.rate((e + 1) * self.steps - 1, steps) for e in range(self.epoch)]
        history = History(np.array(self.losses), np.array(self.held_losses), np.array(rates), self.best_epoch)
        return Trained(state, history)

    # -- checkpoints

    def save(self, path: Path, spec: Mapping[str, Any]) -> None:
        optimiser = self.optimiser
        arrays = {
            "flat": self.parameters.flat, "best": self.best, "average": optimiser.average,
            "square": optimiser.square, "step": optimiser.step,
            **({} if self.average is None else {"averaged": self.average}),
            **{f"buffer.{n}": b for n, b in self.parameters.buffers.items()},
            **{f"best_buffer.{n}": b for n, b in self.best_buffers.items()},
        }  # fmt: skip
        plain = {
            "active": self.active, "best_risk": self.best_risk, "best_epoch": self.best_epoch,
            "cooled_from": self.cooled_from, "cooled_rate": self.cooled_rate,
            "train": np.array(self.losses), "validation": np.array(self.held_losses),
        }  # fmt: skip
        store.save(path, "checkpoint", spec, {**{n: t.cpu().numpy() for n, t in arrays.items()}, **plain})

    def resume(self, arrays: Mapping[str, NDArray[Any]]) -> None:
        tensors = {name: torch.from_numpy(np.array(a)).to(self.device) for name, a in arrays.items()}
        self.active, self.best_risk = np.array(arrays["active"]), np.array(arrays["best_risk"])
        self.best_epoch, self.best = np.array(arrays["best_epoch"]), tensors["best"]
        self.cooled_from, self.cooled_rate = np.array(arrays["cooled_from"]), np.array(arrays["cooled_rate"])
        self.losses, self.held_losses = list(arrays["train"]), list(arrays["validation"])
        names = tuple(self.parameters.buffers)
        self.parameters.replace(tensors["flat"], {name: tensors[f"buffer.{name}"] for name in names})
        for name in names:
            self.best_buffers[name] = tensors[f"best_buffer.{name}"]
        self.average = tensors.get("averaged")
        self.optimiser.average, self.optimiser.square = tensors["average"], tensors["square"]
        self.optimiser.step = tensors["step"]


def _held_blocks(risk: Risk, active: NDArray[np.int64], per_event: float) -> Iterator[tuple[Tensor, Tensor]]:
    """Held-out rows (K, V) of each network and their multiplicities, block by block; 0 fills the shorter ones."""
    size, piece = 1 << 14, max(1 << 6, int(_ROWS_EVALUATED / (len(active) * per_event)))
    for start in range(0, len(risk.key), size):
        key = risk.key[start : start + size]
        times = np.stack([risk.resample.times(int(n), key, held_out=True) for n in active])
        longest = int(np.count_nonzero(times, axis=1).max())
        if not longest:
            continue
        # a stable sort puts each network's rows first, in order, and the fillers (multiplicity 0) behind
        order = np.argsort(times == 0, axis=1, kind="stable")[:, :longest]
        picked = np.take_along_axis(times, order, 1)
        for at in range(0, longest, piece):
            part = slice(at, at + piece)
            yield torch.from_numpy(order[:, part] + start), torch.from_numpy(picked[:, part])


def fingerprint(
    stack: Stack, state: State, inputs: Inputs, risk: Risk, training: Training, label: str, prepare: Any = None
) -> dict[str, Any]:
    """What a checkpoint belongs to: settings by name, data and initial state by digest."""
    clouds = [tensor for pair in inputs.clouds.values() for tensor in pair]
    return {
        "label": label, "network": stack.describe(), "loss": getattr(risk.loss, "__name__", "custom"),
        "training": asdict(training), "resample": asdict(risk.resample), "rows": len(inputs),
        "data": digest(inputs.flat, *clouds, torch.from_numpy(np.array(risk.key))), "weights": digest(*risk.weights),
        "initial state": digest(*state.values()),
        **({"draw": risk.draw.describe()} if risk.draw is not None else {}),
        **({"scales": digest(*prepare.arrays().values())} if isinstance(prepare, Standardise) else {}),
    }  # fmt: skip


def digest(*tensors: Tensor) -> str:
    found = hashlib.blake2b(digest_size=8)
    for tensor in tensors:
        found.update(str(tuple(tensor.shape)).encode())
        found.update(tensor.detach().cpu().contiguous().numpy().reshape(-1).view(np.uint8).data)
    return found.hexdigest()


def _resumed(loop: _Loop, path: Path, spec: dict[str, Any]) -> None:
    saved, arrays = store.load(path, "checkpoint")
    wrong = [name for name in spec if saved.get(name) != spec[name]]
    if wrong:
        found = "; ".join(f"{name}: expected {spec[name]}, found {saved.get(name)}" for name in wrong)
        raise ValueError(
            f"checkpoint {path} belongs to another configuration ({found}); give another path, or delete it"
        )
    loop.resume(arrays)


def minimise(
    stack: Stack,
    state: State,
    inputs: Inputs,
    risk: Risk,
    training: Training,
    *,
    prepare: Any = None,
    device: str = "cpu",
    checkpoint: str | Path | None = None,
    label: str = "training",
    progress: bool = True,
) -> Trained:
    """Train all networks of ``state`` together.

    Parameters
    ----------
    stack, state:
        The networks and where they start, tensors (networks, ...).
    inputs, risk:
        N rows, and what is minimised on them.
    prepare:
        A function of a `Batch` that makes the one that the stack sees, as `Standardise` does; None leaves it.
    device:
        "cpu", "cuda" or "mps".
    checkpoint:
        File that is written after each epoch and continued from where it exists: the resumed training gives the same
        numbers to the bit.
    label:
        Shown by the progress bar, and part of what a checkpoint belongs to.

    Raises
    ------
    ValueError
        for a class whose total weight is not positive in a network's rows, patience without held-out rows, or a
        checkpoint of another configuration.
    NotConverged
        for a risk that is not finite.
    """
    if training.patience is not None and not risk.resample.validation:
        raise ValueError(f"Training: patience={training.patience} stops on held-out events, found none: give a "
                         f"validation fraction above 0, or patience=None")  # fmt: skip
    where = torch.device(device)
    state = {name: tensor.to(where) for name, tensor in state.items()}
    loop = _Loop(stack, state, inputs.to(where), prepare or (lambda b: b), risk, training, where)
    path = Path(checkpoint) if checkpoint is not None else None
    spec = fingerprint(stack, state, inputs, risk, training, label, prepare) if path is not None else {}
    if path is not None and path.exists():
        _resumed(loop, path, spec)
    with tqdm(total=training.epochs, initial=loop.epoch, desc=label, unit="epoch", disable=not progress) as bar:
        while loop.epoch < training.epochs and len(loop.active):
            loop.run_epoch()
            bar.update()
            held = loop.held_losses[-1] if loop.held is not None else loop.losses[-1]
            bar.set_postfix(risk=f"{np.nanmean(held):.5f}", networks=len(loop.active), refresh=False)
            if path is not None:
                loop.save(path, spec)
    _log.debug("%s: %d epochs of %d steps, %d networks", label, loop.epoch, loop.steps, risk.resample.networks)
    return loop.result()
