"""Losses of a density ratio, event by event: (K, B) from outputs f (K, B) and class weights; the loop alone averages.

With w1 the weight of an event in the numerator, w0 in the denominator (one of them is 0 where the classes are different
events, none where one sample carries both), each class normalised to the same total, the minimum of the mean of

    bce:   1/2 [w1 log(1 + e^-f) + w0 log(1 + e^f)]        cross-entropy of the classifier s = 1 / (1 + e^-f)
    mlc:   1/2 [-w1 f + w0 (e^f - 1)]                      maximum-likelihood classifier
    sqrt:  1/2 [w1 e^(-f/2) + w0 e^(f/2)]                  square-root loss

is f(x) = log p1(x)/p0(x) for all three.  ``bce`` is bounded in its gradients and the one to begin with; the other two
weigh the tails of the ratio more.  Where the local net weight of a class is negative none has a minimum.

Sources: D'Agnolo, Wulzer, arXiv 1806.02350 (mlc); Rizvi, Pettee, Nachman, arXiv 2305.10500 (mlc, sqrt).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal

import torch
from torch import Tensor

__all__ = ["Loss", "bce", "by_name", "mlc", "sqrt"]

Loss = Callable[[Tensor, tuple[Tensor, ...]], Tensor]
RatioLoss = Literal["bce", "mlc", "sqrt"]


def bce(f: Tensor, weights: tuple[Tensor, ...]) -> Tensor:
    """1/2 [w1 log(1 + e^-f) + w0 log(1 + e^f)]."""
    numerator, denominator = weights
    # log(1 + e^-f) = log(1 + e^f) - f: one logarithm serves both classes
    return 0.5 * ((numerator + denominator) * torch.nn.functional.softplus(f) - numerator * f)


def mlc(f: Tensor, weights: tuple[Tensor, ...]) -> Tensor:
    """1/2 [-w1 f + w0 (e^f - 1)]."""
    numerator, denominator = weights
    return 0.5 * (denominator * torch.expm1(f) - numerator * f)


def sqrt(f: Tensor, weights: tuple[Tensor, ...]) -> Tensor:
    """1/2 [w1 e^(-f/2) + w0 e^(f/2)]."""
    numerator, denominator = weights
    return 0.5 * (numerator * torch.exp(-0.5 * f) + denominator * torch.exp(0.5 * f))


_BY_NAME: dict[str, Loss] = {"bce": bce, "mlc": mlc, "sqrt": sqrt}


def by_name(name: str) -> Loss:
    """The loss of a name; ``ValueError`` lists the names."""
    if name not in _BY_NAME:
        raise ValueError(f"loss: expected one of {', '.join(_BY_NAME)}, found {name!r}")
    return _BY_NAME[name]
