r"""The unbinned likelihood of a ratio that is itself a function of the parameters, p(x | theta)/p_ref(x).

With r that ratio and, where the experiment has a rate, nu the expected number of events,

.. math:: -2 \log L = 2\,\nu(\theta) - 2 \sum_i w_i
          \big[\log \nu(\theta) + \log r(x_i \mid \theta) - \log Z(\theta)\big],
          \qquad Z(\theta) = E_{ref}[r(x \mid \theta)],

and without a rate the shapes alone.  Z is 1 for an exact ratio; with events of the reference it is computed at every
theta, differentiably, which takes out what a learned ratio lacks of its norm, and makes Asimov data possible.  Events
go through the network in blocks, each of which gives its part of the value and of the gradient in one go.

Sources: Cranmer, Pavez, Louppe, arXiv 1506.02169; Brehmer, Cranmer, Louppe, Pavez, arXiv 1805.00020.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Protocol, cast

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ..errors import check_finite
from ..events import Events, positive_total
from ..features import Batch, Features, Inputs
from .costs import DifferentiableCost, Limits, NegativeDensity, checked_limits, named
from .mixture import Generator

__all__ = ["ParametrisedCost", "RatioOfTheta"]

Floats = NDArray[np.float64]
Rate = Callable[[Tensor], Tensor]

_ROWS = 1 << 13  # events in a block: their activations and gradients stay small


class RatioOfTheta(Protocol):
    """What the likelihood needs of a ratio; a `ParametrisedRatio` and a `ClassMixture` of `nuinfer.ratio` have it."""

    @property
    def names(self) -> tuple[str, ...]:
        """The parameters."""

    @property
    def features(self) -> Features:
        """The columns it sees."""

    def tensor(self, batch: Batch, theta: Tensor) -> Tensor:
        """log r (B,) at theta (T,), differentiable in theta."""


class ParametrisedCost(DifferentiableCost):
    """-2 log L of events by a parametrised ratio.

    Parameters
    ----------
    ratio:
        log r(x | theta).
    data:
        Events, each counted by its weight.
    rate:
        nu(theta), the number of events expected, of theta (T,) in float64; None for the shapes alone.
    reference:
        Events of the reference density that the ratio was not trained on: they normalise it and make Asimov data.
    limits:
        (lower, upper) of parameters; a learned ratio knows nothing outside of the range of its training.
    generate:
        ``generate(values, rng)`` draws the events of a pseudo-experiment.

    Examples
    --------
    >>> class Exact:  # N(m, 1) over N(0, 1)
    ...     names, features = ("m",), Features(["x"])
    ...     def tensor(self, batch, theta):
    ...         return theta[0] * batch.flat[0, :, 0] - theta[0] ** 2 / 2
    >>> cost = ParametrisedCost(Exact(), Events({"x": [0.3, 0.9, 1.5]}))
    >>> bool(abs(cost.grad(0.9)[0]) < 1e-6), round(float(cost.grad(1.9)[0]), 6)
    (True, 6.0)

    Raises
    ------
    KeyError, TypeError
        for data without the columns of the ratio, or limits of unknown parameters.
    ValueError
        for a reference without positive total weight.
    """

    def __init__(
        self,
        ratio: RatioOfTheta,
        data: Events,
        *,
        rate: Rate | None = None,
        reference: Events | None = None,
        limits: Mapping[str, Limits] | None = None,
        generate: Generator | None = None,
    ) -> None:
        self.limits = checked_limits(limits, ratio.names)
        super().__init__({name: self.limits.get(name) for name in ratio.names})
        self.ratio, self.rate, self.reference, self.generate = ratio, rate, reference, generate
        self.weight, self._inputs = torch.tensor(data.weight), ratio.features.tensors(data)
        self._reference: tuple[Inputs, Tensor] | None = None
        if reference is not None:
            total = positive_total("reference", reference.weight)
            self._reference = (ratio.features.tensors(reference), torch.tensor(reference.weight / total))

    def tensor(self, theta: Tensor) -> Tensor:
        """-2 log L at theta (T,).

        Raises
        ------
        NegativeDensity
            for a rate or a norm that is not positive.
        ValueError
            for a log ratio that is not finite.
        """
        found = -2 * _summed(self, self._inputs, self.weight, theta, exponential=False)
        total = self.weight.sum()
        if self._reference is not None:
            norm = _summed(self, *self._reference, theta, exponential=True)
            found = found + 2 * total * torch.log(self._positive("norm of the ratio", norm, theta))
        if self.rate is not None:
            nu = self._positive("rate", self.rate(theta), theta)
            found = found + 2 * nu - 2 * total * torch.log(nu)
        return found

    def asimov(self, values: Mapping[str, float]) -> ParametrisedCost:
        """The cost of the reference, weighted by the ratio, and by the rate where there is one.

        Without a rate the weights sum to those of the data.

        Raises
        ------
        TypeError
            without ``reference``.
        """
        if self.reference is None:
            raise TypeError("Asimov data: expected a likelihood with reference=, events of the ratio's reference")
        theta = torch.tensor([named(values, name) for name in self.names], dtype=torch.float64)
        weight = self.reference.weight * np.exp(self._log(self.reference, theta))
        total = float(self.weight.sum()) if self.rate is None else float(self.rate(theta))
        return self._with(self.reference.with_weight(weight * (total / weight.sum())))

    def sample(self, values: Mapping[str, float], rng: np.random.Generator) -> ParametrisedCost:
        """The cost of the events that ``generate`` draws at these parameters; ``TypeError`` without it."""
        if self.generate is None:
            raise TypeError("pseudo-experiments: expected a likelihood with generate=, an exact generator or held-out "
                            "simulation, found none; the learned ratio cannot stand in for it")  # fmt: skip
        return self._with(self.generate(values, rng))

    def _with(self, data: Events) -> ParametrisedCost:
        return ParametrisedCost(self.ratio, data, rate=self.rate, reference=self.reference, limits=self.limits,
                                generate=self.generate)  # fmt: skip

    @torch.no_grad()
    def _log(self, events: Events, theta: Tensor) -> Floats:
        blocks = _blocks(self.ratio.features.tensors(events))
        parts = [self.ratio.tensor(batch, theta).double() for _, batch in blocks]
        return np.asarray(torch.cat(parts).numpy())

    def _positive(self, what: str, value: Tensor, theta: Tensor) -> Tensor:
        if not float(value.detach()) > 0:
            at = ", ".join(f"{n} = {v:.6g}" for n, v in zip(self.names, theta.tolist(), strict=True))
            raise NegativeDensity(f"the {what} is not positive, {float(value.detach()):.4g}, at {at}; limit the "
                                  f"parameters to where it is")  # fmt: skip
        return value

    def _ndata(self) -> float:
        return float("inf")

    def __repr__(self) -> str:
        extra = "shapes" if self.rate is None else "shapes and rate"
        return f"ParametrisedCost({len(self.weight)} events, {extra}; {', '.join(self.names)})"


def _blocks(inputs: Inputs) -> Any:
    """Slices and batches of one member."""
    size = max(1 << 6, int(_ROWS / inputs.per_event))
    for start in range(0, len(inputs), size):
        yield slice(start, start + size), inputs.span(start, start + size)


def _summed(cost: ParametrisedCost, inputs: Inputs, weight: Tensor, theta: Tensor, *, exponential: bool) -> Tensor:
    """sum_i w_i log r_i, or of w_i r_i, differentiable in theta."""
    found = _Sum.apply(theta, cost, inputs, weight, exponential)  # type: ignore[no-untyped-call]
    return cast(Tensor, found)


class _Sum(torch.autograd.Function):
    """Value and gradient together, block by block."""

    @staticmethod
    def forward(
        ctx: Any, theta: Tensor, cost: ParametrisedCost, inputs: Inputs, weight: Tensor, exponential: bool
    ) -> Tensor:
        value, slope = theta.new_zeros(()), torch.zeros_like(theta)
        for rows, batch in _blocks(inputs):
            with torch.enable_grad():
                at = theta.detach().requires_grad_()
                log_r = cost.ratio.tensor(batch, at).double()
                check_finite("log ratio", log_r.detach().numpy())
                part = torch.dot(weight[rows], torch.exp(log_r) if exponential else log_r)
                (own,) = torch.autograd.grad(part, at, materialize_grads=True)
            value += part.detach()
            slope += own
        ctx.save_for_backward(slope)
        return value

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, above: Tensor) -> tuple[Tensor, None, None, None, None]:
        (slope,) = ctx.saved_tensors
        return above * slope, None, None, None, None
