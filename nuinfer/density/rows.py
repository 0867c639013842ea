"""What the networks of a density are trained on, and how: for `fit_density`, and for fits that follow one another."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from .. import losses, nets
from ..ensemble import Ensemble, Fitted, fit_networks, standardisation
from ..events import Events
from ..features import Features, Inputs
from ..nets import MLP, DeepSet, Network
from ..ratio.learned import Reordered, Rows, held_out, rows_of
from ..resample import Resample, mean_one
from ..train import Draw, Drawn, Training
from .columns import Bounds, Columns, Dequantise
from .flows import Flow, stack_of
from .stacks import DensityStack, LogDensities

__all__ = ["TrainingRows"]

Floats = NDArray[np.float64]
Keys = NDArray[np.int64]


@dataclass(frozen=True)
class TrainingRows:
    """N rows: the columns of x, and behind them the continuous ones of y, unbounded and standardised.

    ``noise`` draws the discrete ones; ``stack`` holds the networks that are trained.
    """

    targets: Columns
    condition: Features | None
    network: Flow
    embedding: Network | None
    summaries: int
    rows: Rows
    noise: Draw | None
    stack: DensityStack

    @classmethod
    def of(
        cls, events: Events, columns: Sequence[str], *, condition: Features | None, bounds: Mapping[str, Bounds],
        network: Flow, embedding: Network | None, summaries: int, key: Keys, seed: int, discrete: Sequence[str] = (),
        cache: str | Path | None = None,
    ) -> TrainingRows:  # fmt: skip
        """Of all ``events``; raises for arguments that do not fit, as `nuinfer.density.fit_density` does."""
        targets = Columns.of(columns, bounds, discrete)
        embedding = _embedding(targets, condition, embedding)
        values = targets.read(events)
        targets = targets.fitted(values, events.weight, seed)
        stack = stack_of(network, len(targets.parts), condition, embedding, summaries)
        rows, order = _rows(events, values, targets, condition, key, seed, cache)
        noisy = targets.discrete
        noise = Reordered.of(Dequantise(noisy, values[:, -len(noisy) :], seed), order) if noisy else None
        return cls(targets, condition, network, embedding, summaries, rows, noise, stack)

    @property
    def key(self) -> Keys:
        """What resampling hashes (N,)."""
        return self.rows.key

    @property
    def parts(self) -> tuple[Columns, Features | None, Flow, Network | None, int]:
        """What a `nuinfer.density.Density` begins with."""
        return self.targets, self.condition, self.network, self.embedding, self.summaries

    def fit(
        self, resample: Resample, *, training: Training, weights: Floats | None = None,
        scaling: nets.Scaling = "moments", warm: Fitted | None = None, device: str = "cpu",
        checkpoint: str | Path | None = None, label: str = "density", progress: bool = True,
    ) -> Fitted:  # fmt: skip
        """Train the networks, with other ``weights`` (N,) or (networks, N) where they are given."""
        inputs = self.rows.inputs
        own = self.rows.weights if weights is None else (mean_one(weights),)
        noise = len(self.targets.discrete)
        drawn = noise + self.stack.drawn
        scales = standardisation(inputs, own, ready=len(self.targets.parts) - noise, drawn=drawn, scaling=scaling)
        draws = [draw for draw in (self.noise, self.stack.draw(resample.seed)) if draw is not None]
        return fit_networks(
            inputs, own, self.key, resample, stack=self.stack, loss=losses.nll, training=training, classes=("events",),
            draw=_Joined(draws) if draws else None, standardise=scales, device=device, checkpoint=checkpoint, warm=warm,
            label=label, progress=progress,
        )  # fmt: skip

    def held_out(self, model: Ensemble, resample: Resample) -> list[tuple[Floats, ...]]:
        """For each network log q of the standardised columns at the rows that it held out, and their weights."""
        columns = self.rows.inputs.flat.shape[1] + len(self.targets.discrete)
        seen = Ensemble(LogDensities(self.stack), model.state, model.standardise.first(columns))
        return held_out(seen, self.rows, resample, self.noise)


class _Joined(Draw):
    """The columns of several draws, one after the other."""

    def __init__(self, draws: Sequence[Draw]) -> None:
        self.draws = draws

    def __call__(self, rows: Tensor, networks: Keys, epoch: int | None) -> Drawn:
        return Drawn(torch.cat([draw(rows, networks, epoch).columns for draw in self.draws], -1))

    def describe(self) -> str:
        return ", ".join(draw.describe() for draw in self.draws)


def _embedding(targets: Columns, condition: Features | None, embedding: Network | None) -> Network | None:
    """The embedding in use; refuses a condition that has a column of y, and an embedding of nothing."""
    if condition is None:
        if embedding is not None:
            raise ValueError("embedding: expected a condition for it to sum up, found none; name its columns")
        return None
    both = sorted(set(condition.columns) & set(targets.names))
    if both:
        raise ValueError(f"condition: expected other columns than those of the density, found {', '.join(both)} in "
                         f"both; given itself a column is known")  # fmt: skip
    return DeepSet(head=MLP(width=64, depth=1)) if embedding is None and condition.clouds else embedding


def _rows(
    events: Events, values: Floats, targets: Columns, condition: Features | None, key: Keys, seed: int,
    cache: str | Path | None,
) -> tuple[Rows, Keys | None]:  # fmt: skip
    """The rows, and their order where they are mapped from files."""
    scaled = {
        part.name: part.forward(torch.from_numpy(np.ascontiguousarray(v)))[0].numpy()
        for part, v in zip(targets.parts, values.T, strict=True) if not part.discrete
    }  # fmt: skip
    weights = (mean_one(events.weight),)
    flat, clouds = (condition.flat, condition.clouds) if condition is not None else ((), ())
    if not (flat or clouds or scaled):
        return Rows(Inputs(torch.empty(len(events), 0, dtype=torch.float32)), weights, key), None
    seen = Features((*flat, *scaled), **dict(clouds))
    return rows_of([events.with_columns(scaled)], seen, weights, key, seed, cache)
