"""Losses of a density ratio, event by event: (K, B) from outputs f (K, B) and class weights; the loop alone averages.

With w1 the weight of an event in the numerator, w0 in the denominator (one of them is 0 where the classes are different
events, none where one sample carries both), each class normalised to the same total, the minimum of the mean of

    bce:   1/2 [w1 log(1 + e^-f) + w0 log(1 + e^f)]        cross-entropy of the classifier s = 1 / (1 + e^-f)
    mlc:   1/2 [-w1 f + w0 (e^f - 1)]                      maximum-likelihood classifier
    sqrt:  1/2 [w1 e^(-f/2) + w0 e^(f/2)]                  square-root loss

is f(x) = log p1(x)/p0(x) for all three.  ``bce`` is bounded in its gradients and the one to begin with; the other two
weigh the tails of the ratio more.  Where the local net weight of a class is negative none has a minimum.

A simulator that knows its latent variables z gives more than a class: the joint ratio r(x, z | theta) and the joint
score t(x, z | theta) = grad_theta log p(x, z | theta).  Their conditional means are the ratio and the score of x alone,
and they have less noise than a class label.  With s = r(x, z) / (1 + r(x, z)),

    alice:     bce with the weights (w1 + w0) s and (w1 + w0) (1 - s)
    rolr:      1/2 [w0 (r(x, z) - e^f)^2 + w1 (1/r(x, z) - e^-f)^2]
    Scored:    one of the above + a/2 w1 (t(x, z) - grad_theta f)^2     (with rolr: rascal, alice: alices, bce: cascal)
    square:    1/2 w (t(x, z) - f)^2, f with one output a parameter     (sally)

and, for K classes at once, `Softmax`, whose outputs are the logarithms of class probabilities but for a constant.

A ratio can be asked to err on the side of caution, by a penalty of the balance of s = 1/(1 + e^-f) in each batch,

    Balanced:  base + balance/2 (<s>_1 + <s>_0 - 1)^2

with the mean <>_c over a batch's events of class c.  The best classifier is balanced, so that with large batches the
penalty does not move the minimum; in a small batch it falls with the variance of s, which keeps a network from being
certain where it has few events.

A normalised density q (`nuinfer.density`) needs one class only, whose weighted likelihood is maximised:

    nll:       -w log q

Sources: D'Agnolo, Wulzer, arXiv 1806.02350 (mlc); Rizvi, Pettee, Nachman, arXiv 2305.10500 (mlc, sqrt); Brehmer,
Louppe, Pavez, Cranmer, arXiv 1805.12244 (rolr, rascal, cascal, sally); Stoye, Brehmer, Louppe, Pavez, Cranmer, arXiv
1808.00973 (alice, alices); Delaunoy, Hermans, Rozet, Wehenkel, Louppe, arXiv 2208.13624 (balance).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal, cast

import numpy as np
import torch
from numpy.typing import NDArray
from scipy import special
from torch import Tensor

__all__ = [
    "Balanced", "Loss", "Scored", "Softmax", "alice", "bce", "by_name", "derivatives", "mlc", "nll", "rolr", "sqrt",
    "square",
]  # fmt: skip

Floats = NDArray[np.float64]

#: Of outputs (K, B) or (K, B, C), and of one tensor (K, B) for each class weight and, behind them, each target.
Loss = Callable[[Tensor, tuple[Tensor, ...]], Tensor]
RatioLoss = Literal["bce", "mlc", "sqrt"]
#: (f, w1, w0) -> value, first and second derivative in f.
Derivatives = Callable[[Floats, Floats, Floats], tuple[Floats, Floats, Floats]]


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


def derivatives(loss: Loss) -> Derivatives:
    """A ratio's loss with its first and second derivative in f, summed over nothing, as a function of float64 arrays.

    Raises
    ------
    ValueError
        for another loss than bce, mlc and sqrt.
    """
    if loss not in _DERIVATIVES:
        raise ValueError(f"loss: expected one of {', '.join(_BY_NAME)}, found {getattr(loss, '__name__', loss)}")
    return _DERIVATIVES[loss]


def _bce(f: Floats, w1: Floats, w0: Floats) -> tuple[Floats, Floats, Floats]:
    s = special.expit(f)
    both = w1 + w0
    return 0.5 * (both * np.logaddexp(0, f) - w1 * f), 0.5 * (both * s - w1), 0.5 * both * s * (1 - s)


def _mlc(f: Floats, w1: Floats, w0: Floats) -> tuple[Floats, Floats, Floats]:
    up = 0.5 * w0 * np.exp(f)
    return up - 0.5 * (w0 + w1 * f), up - 0.5 * w1, up


def _sqrt(f: Floats, w1: Floats, w0: Floats) -> tuple[Floats, Floats, Floats]:
    down, up = 0.5 * w1 * np.exp(-0.5 * f), 0.5 * w0 * np.exp(0.5 * f)
    return down + up, 0.5 * (up - down), 0.25 * (up + down)


_DERIVATIVES: dict[Loss, Derivatives] = {bce: _bce, mlc: _mlc, sqrt: _sqrt}


@dataclass(frozen=True)
class Balanced:
    """``base`` + ``balance``/2 (<s>_1 + <s>_0 - 1)^2, the penalty of a batch spread over its events.

    ``balance`` is the factor lambda of arXiv 2208.13624 (100 there): all losses here have the factor 1/2.  (It is twice
    the ``regularization_strength`` of sbi's BNRE.)  Weights must not be negative, since a batch's means are divided by
    their sums.
    """

    base: Loss
    balance: float

    @property
    def __name__(self) -> str:
        """What a checkpoint calls it."""
        return f"{getattr(self.base, '__name__', 'custom')} + {self.balance:g} balance"

    def __call__(self, f: Tensor, weights: tuple[Tensor, ...]) -> Tensor:
        """The losses (K, B)."""
        both, s = 0.5 * (weights[0] + weights[1]), torch.sigmoid(f)
        totals = [w.sum(-1, keepdim=True) for w in weights]
        means = [(w * s).sum(-1, keepdim=True) / t.clamp_min(1e-30) for w, t in zip(weights, totals, strict=True)]
        # a batch without one of the classes says nothing of the balance
        off = torch.where((totals[0] > 0) & (totals[1] > 0), means[0] + means[1] - 1, 0.0)
        return self.base(f, weights) + 0.5 * self.balance * both * off.square()


# -- with what the simulator knows -------------------------------------------------------------------------------------


def alice(f: Tensor, weights: tuple[Tensor, ...]) -> Tensor:
    """The cross-entropy with the probability s(x, z) in the place of a label; weights (w1, w0, log r(x, z))."""
    numerator, denominator, log_r = weights
    both = numerator + denominator
    return bce(f, (both * torch.sigmoid(log_r), both * torch.sigmoid(-log_r)))


def rolr(f: Tensor, weights: tuple[Tensor, ...]) -> Tensor:
    """1/2 [w0 (r(x, z) - e^f)^2 + w1 (1/r(x, z) - e^-f)^2]; weights (w1, w0, log r(x, z))."""
    numerator, denominator, log_r = weights
    up, down = torch.exp(log_r) - torch.exp(f), torch.exp(-log_r) - torch.exp(-f)
    return 0.5 * (denominator * up * up + numerator * down * down)


@dataclass(frozen=True)
class Scored:
    """``base`` + ``factor``/2 w1 (t(x, z) - grad f)^2, for outputs (K, B, 1 + T): f and its gradient.

    Weights: the ``columns`` that ``base`` takes, then the T components of the joint score.
    """

    base: Loss
    columns: int
    factor: float

    @property
    def __name__(self) -> str:
        """What a checkpoint calls it."""
        return f"{getattr(self.base, '__name__', 'custom')} + {self.factor:g} score"

    def __call__(self, outputs: Tensor, weights: tuple[Tensor, ...]) -> Tensor:
        """The losses (K, B)."""
        f, slope = outputs[..., 0], outputs[..., 1:]
        off = slope - torch.stack(weights[self.columns :], -1)
        return self.base(f, weights[: self.columns]) + 0.5 * self.factor * weights[0] * off.square().sum(-1)


def square(outputs: Tensor, weights: tuple[Tensor, ...]) -> Tensor:
    """1/2 w (t - f)^2 for outputs (K, B, T), or (K, B) of one; weights (w, t_1, ..., t_T)."""
    own, *targets = weights
    each = outputs[..., None] if len(targets) == 1 else outputs
    return 0.5 * own * (each - torch.stack(targets, -1)).square().sum(-1)


def nll(log_q: Tensor, weights: tuple[Tensor, ...]) -> Tensor:
    """-w log q, whose weighted mean is the negative log-likelihood of a density; weights (w,)."""
    (own,) = weights
    return -own * log_q


@dataclass(frozen=True)
class Softmax:
    """-sum_c pi_c w_c log q_c for outputs (K, B, C) whose softmax is q, and the class weights w_c.

    Each class weight has been divided by its total, so that pi_c says how frequent a class is; the minimum is
    q_c = pi_c p_c / sum_j pi_j p_j.
    """

    fractions: tuple[float, ...]

    @property
    def __name__(self) -> str:
        """What a checkpoint calls it."""
        return f"softmax of {', '.join(f'{p:g}' for p in self.fractions)}"

    def __call__(self, outputs: Tensor, weights: tuple[Tensor, ...]) -> Tensor:
        """The losses (K, B)."""
        own = torch.stack(weights, -1) * outputs.new_tensor(self.fractions)
        return -(own * torch.log_softmax(outputs, -1)).sum(-1)
