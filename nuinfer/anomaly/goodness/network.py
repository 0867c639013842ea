r"""The network form of the test: a small network with bounded weights is the log-ratio.

.. math:: t = -2 \min_w \Big[\sum_{ref} w (e^f - 1) - \sum_{data} f\Big]

The minimum over a constant added to f is known, :math:`c = \ln (N_{data} / \sum_{ref} w e^f)`, so that what is trained
is the ratio of the shapes, and the rate is exact.  All toys of a batch are members of one training; one of no events
has no shape, and :math:`t = 2 \sum_{ref} w`, or 0 where rates do not count.

A network that is free enough finds a ratio without bound, and t is no chi2.  The bound B on all weights and biases is
what makes it one (weight clipping in the papers; here :math:`w = B \tanh(\theta/B)`, which has a gradient everywhere):
choose the largest one whose toys are compatible.  The more layers and columns, the smaller: 3 for one hidden layer of
four units, 0.5 for a small `DeepSet`.

Sources: D'Agnolo, Wulzer, arXiv 1806.02350; D'Agnolo, Grosso, Pierini, Wulzer, Zanetti, arXiv 1912.12155.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ...ensemble import Ensemble, fit_networks, standardisation
from ...errors import NotConverged
from ...features import Batch, Features, Inputs
from ...losses import mlc
from ...nets import MLP, Network, Stack, State, single_precision, stack
from ...resample import Resample
from ...train import Risk, Training, minimise
from .kernel import KernelTest, Tested
from .rows import Pseudo, Rows

if TYPE_CHECKING:
    from .fitting import NetworkFit

__all__ = ["Bounded", "NetworkTest"]

Floats = NDArray[np.float64]

_FULL_BATCH = 1 << 14  # rows, up to which all are used at each step
_STEPS_AT_ONCE, _BATCH = 100, 8192
_RATE, _BATCH_RATE = 0.1, 0.01


class Bounded(Stack):
    """The networks of a stack, with all weights and biases w = bound tanh(theta / bound)."""

    def __init__(self, inner: Stack, bound: float) -> None:
        self.inner, self.bound = inner, bound

    def weights(self, state: State) -> State:
        """The bounded weights of a state."""
        learned = set(self.trainable(state))
        return {n: self.bound * torch.tanh(t / self.bound) if n in learned else t for n, t in state.items()}

    def initial(self, seed: int, members: Sequence[int]) -> State:
        """That of the inner stack."""
        return self.inner.initial(seed, members)

    def __call__(self, state: State, batch: Batch, *, training: bool = False) -> Tensor:
        """The outputs (K, B) with the bounded weights."""
        return self.inner(self.weights(state), batch, training=training)

    def trainable(self, state: State) -> tuple[str, ...]:
        """Those of the inner stack."""
        return self.inner.trainable(state)

    def describe(self) -> str:
        """The inner stack and the bound."""
        return f"{self.inner.describe()} within {self.bound:g}"


@dataclass(frozen=True, eq=False)
class NetworkTest:
    """A prepared test.

    Attributes
    ----------
    inputs:
        The rows as a network sees them.
    profile:
        The kernel test of the same rows, whose nuisance parameters are profiled; None without.
    rate:
        Whether the number of events counts, where there is no ``profile``.
    """

    spec: NetworkFit
    features: Features
    rows: Rows
    inputs: Inputs = field(repr=False)
    profile: KernelTest | None
    rate: bool

    def __call__(self, pseudo: Pseudo, rng: np.random.Generator) -> Tested:
        """The statistic of each experiment; ``rng`` gives the seed of the networks."""
        return self.trained(pseudo, rng)[0]

    def trained(self, pseudo: Pseudo, rng: np.random.Generator) -> tuple[Tested, Ensemble, Floats]:
        """The statistics, the networks, and the constants (T,) that are added to them."""
        seed = int(rng.integers(1 << 31))
        pseudo, nu = self._profiled(pseudo)
        inputs, weight, data = self._tables(pseudo)
        count, expected = data.sum(1), weight.sum(1)
        empty = (count == 0)[:, None]  # a toy without data must not spoil the training of the others
        try:
            model = self._fit(inputs, weight, np.where(empty, weight, data), seed)
        except NotConverged as error:
            raise NotConverged(f"the networks' corrections e^f grow without limit with weights up to bound="
                               f"{self.spec.bound:g}; take a smaller one, such as {self.spec.bound / 4:.2g}: the more "
                               f"layers and columns, the smaller") from error  # fmt: skip
        shape = model.log(inputs)
        if not self.rate and self.profile is None:
            weight, expected = weight * (count / expected)[:, None], count
        with np.errstate(divide="ignore", invalid="ignore"):
            offset = np.log(count / (weight * np.exp(shape)).sum(1))
            f = shape + offset[:, None]
            t = -2 * ((weight * np.expm1(f)).sum(1) - (data * f).sum(1))
        t = np.where(empty[:, 0], 2 * expected, t)
        return Tested(t, np.zeros((len(t), 0)), nu), model, offset

    def _profiled(self, pseudo: Pseudo) -> tuple[Pseudo, Floats]:
        """The experiments with the reference at nu-hat, and nu-hat (T, K)."""
        if self.profile is None:
            return pseudo, np.zeros((len(pseudo), 0))
        known, phi = self.profile.nuisances, self.profile.phi
        nu = known.profiled(phi, pseudo.weight, self.profile.sums(pseudo), pseudo.aux)
        return pseudo.reweighted(np.exp(known.coefficients(nu) @ phi.T)), nu

    def _tables(self, pseudo: Pseudo) -> tuple[Inputs, Floats, Floats]:
        """Rows, and reference and data weights (T, N)."""
        weight = np.broadcast_to(pseudo.weight, (len(pseudo), len(self.inputs)))
        if pseudo.counts is not None:
            return self.inputs, weight, pseudo.counts
        parts = [self.features.tensors(events) for events in pseudo.points]
        inputs = Inputs.concat([self.inputs, *parts])
        own = np.repeat(np.arange(len(pseudo)), [len(part) for part in parts])
        data = np.zeros((len(pseudo), len(inputs)))
        data[own, len(self.inputs) + np.arange(len(own))] = np.concatenate([e.weight for e in pseudo.points])
        both = np.zeros_like(data)
        both[:, : len(self.inputs)] = weight
        return inputs, both, data

    def _fit(self, inputs: Inputs, weight: Floats, data: Floats, seed: int) -> Ensemble:
        plain = stack(self.network, self.features.shape)
        bounded = Bounded(plain, self.spec.bound)
        scales = standardisation(self.inputs, (self.rows.weight,))
        if self.spec.training is None and len(inputs) <= _FULL_BATCH:
            state = _whole(bounded, scales(inputs.span(0, len(inputs))), weight, data, seed, self.spec.steps)
            return Ensemble(plain, bounded.weights(state), scales)
        fitted = fit_networks(
            inputs, (data, weight), np.arange(len(inputs)), Resample(seed=seed, members=len(data), validation=0.0),
            stack=bounded, loss=mlc, training=self._training(len(inputs)), classes=("data", "reference"),
            standardise=scales, label="goodness of fit", progress=False,
        )  # fmt: skip
        model: Any = fitted.model
        return Ensemble(plain, bounded.weights(model.state), scales)

    @property
    def network(self) -> Network:
        """The spec of the networks."""
        return self.spec.network or MLP(width=4, depth=1)

    def _training(self, rows: int) -> Training:
        """What is given, or so many steps of 8,192 rows."""
        if self.spec.training is not None:
            return self.spec.training
        epochs = math.ceil(self.spec.steps * _BATCH / rows)
        return Training(epochs=epochs, batch=_BATCH, learning_rate=_BATCH_RATE, weight_decay=0.0)


# -- all rows at each step ---------------------------------------------------------------------------------------------


class _Risks(Stack):
    """A stack whose outputs (K, 1) are the networks' risks over a table of rows, whatever the batch."""

    def __init__(self, inner: Stack, batch: Batch, weight: Floats, data: Floats) -> None:
        self.inner, self.batch = inner, batch.expand(len(weight))
        classes = (data, weight)
        self.weights = tuple(torch.from_numpy((w / w.sum(1, keepdims=True)).astype(np.float32)) for w in classes)

    def initial(self, seed: int, members: Sequence[int]) -> State:
        return self.inner.initial(seed, members)

    def __call__(self, state: State, batch: Batch, *, training: bool = False) -> Tensor:
        return mlc(self.inner(state, self.batch, training=training), self.weights).sum(1, keepdim=True)

    def trainable(self, state: State) -> tuple[str, ...]:
        return self.inner.trainable(state)


def _output(outputs: Tensor, weights: tuple[Tensor, ...]) -> Tensor:
    return outputs


@single_precision()
def _whole(networks: Stack, batch: Batch, weight: Floats, data: Floats, seed: int, steps: int) -> State:
    """The state of networks trained with all rows at each step, for weights (T, N).

    The loop draws batches of events, which is what costs most where they are few; here its rows are steps.
    """
    members = len(weight)
    risks = _Risks(networks, batch, weight, data)
    rows = Inputs(torch.zeros(_STEPS_AT_ONCE, 1))
    resample = Resample(seed=seed, members=members, validation=0.0)
    risk = Risk(_output, (torch.ones(_STEPS_AT_ONCE),), np.arange(_STEPS_AT_ONCE), resample, ("steps",))
    how = Training(epochs=steps // _STEPS_AT_ONCE, batch=1, learning_rate=_RATE, weight_decay=0.0, chunk=members)
    start = risks.initial(seed, range(members))
    return minimise(risks, start, rows, risk, how, label="goodness of fit", progress=False).state
