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
from typing import Any, Literal, cast

import torch
from torch import Tensor

__all__ = ["Loss", "bce", "by_name", "mlc", "sqrt"]

Loss = Callable[[Tensor, tuple[Tensor, ...]], Tensor]
RatioLoss = Literal["bce", "mlc", "sqrt"]


class _CrossEntropy(torch.autograd.Function):
    """`bce` with its derivative in f written out, 1/2 [(w1 + w0) s(f) - w1].

    At small batches the calls of a recorded graph cost as much as a layer of the network.
    """

    @staticmethod
    def forward(ctx: Any, f: Tensor, numerator: Tensor, denominator: Tensor) -> Tensor:
        both = numerator + denominator
        ctx.save_for_backward(f, numerator, both)
        # log(1 + e^-f) = log(1 + e^f) - f: one logarithm serves both classes
        return torch.nn.functional.softplus(f).mul_(both).addcmul_(numerator, f, value=-1).mul_(0.5)

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, above: Tensor) -> tuple[Tensor, None, None]:
        f, numerator, both = ctx.saved_tensors
        return torch.sigmoid(f).mul_(both).sub_(numerator).mul_(above).mul_(0.5), None, None


def bce(f: Tensor, weights: tuple[Tensor, ...]) -> Tensor:
    """1/2 [w1 log(1 + e^-f) + w0 log(1 + e^f)], once differentiable in f."""
    return cast(Tensor, _CrossEntropy.apply(f, *weights))  # type: ignore[no-untyped-call]


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
