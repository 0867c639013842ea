"""Functions of the truth: log ratios of two samples of it, by a classifier of standardised columns."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from ... import nets
from ...density.columns import Columns
from ...ensemble import Ensemble
from ...features import Inputs, Shape
from ...nets import Network

__all__ = ["TruthFunction", "classifier_of", "standardised"]

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class TruthFunction:
    """The logarithm of a ratio of two truths, for each of K networks: outputs of the standardised columns, and offsets.

    ``offset`` (K,) is the logarithm of the ratio of their yields.
    """

    targets: Columns
    model: Ensemble
    offset: Floats

    def log(self, values: Floats) -> Floats:
        """(K, N), at values (N, D) of the truth columns."""
        return self.model.log(standardised(self.targets, values)) + self.offset[:, None]

    def part(self, start: int, stop: int) -> TruthFunction:
        """Of the networks from ``start`` to ``stop``."""
        return TruthFunction(self.targets, self.model.part(start, stop), self.offset[start:stop])

    def arrays(self) -> dict[str, NDArray[Any]]:
        """Names and arrays to save."""
        return {"offset": self.offset, **self.model.arrays()}

    @classmethod
    def of_arrays(cls, targets: Columns, network: Network, arrays: dict[str, NDArray[Any]]) -> TruthFunction:
        """The inverse of `arrays`."""
        model = Ensemble.of_arrays(classifier_of(network, targets), arrays)
        return cls(targets, model, arrays["offset"])


def standardised(targets: Columns, values: Floats) -> Inputs:
    """Values (N, D) as a classifier sees them."""
    return Inputs(targets.forward(torch.from_numpy(np.ascontiguousarray(values)))[0].float())


def classifier_of(network: Network, targets: Columns) -> nets.Stack:
    """The networks of a classifier of the truth."""
    return nets.stack(network, Shape(len(targets.parts)))
