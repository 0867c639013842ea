"""log W(theta) of the simulation's events, from a function or from a learned ratio."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping

import numpy as np
from numpy.typing import NDArray

from ....events import Events
from ....likelihood.costs import NegativeDensity
from ....ratio import ParametrisedRatio
from ....ratio.parameters import WeightFunction, shown, weights_at, with_gradient

__all__ = ["Efficiency", "LogFunction", "LogRatio", "LogResponse", "Response"]

Floats = NDArray[np.float64]
#: W(events, theta) in torch, theta (T, P) -> (T, N), or a learned ratio.
Response = WeightFunction | ParametrisedRatio
#: The mean efficiency at theta, by name, over that at theta_0.
Efficiency = Callable[[Mapping[str, float]], float]

_PIECE = 1 << 16  # events in one evaluation of W


class LogResponse(ABC):
    """log W(theta) of some events."""

    @abstractmethod
    def __call__(self, theta: Floats) -> Floats:
        """(N,) at theta (P,)."""

    @abstractmethod
    def slopes(self, theta: Floats) -> tuple[Floats, Floats]:
        """The same, and d log W / d theta (N, P)."""


class LogFunction(LogResponse):
    """Of a function of events and theta."""

    def __init__(self, what: str, weight: WeightFunction, events: Events, names: tuple[str, ...]) -> None:
        self.what, self.weight, self.names = what, weight, names
        self.pieces = [events.select(slice(at, at + _PIECE)) for at in range(0, len(events), _PIECE)]

    def __call__(self, theta: Floats) -> Floats:
        """(N,); ``NegativeDensity`` where W is not positive and finite."""
        values = [weights_at(self.weight, piece, np.array(theta)).numpy() for piece in self.pieces]
        return np.log(self._checked(np.concatenate(values), theta))

    def slopes(self, theta: Floats) -> tuple[Floats, Floats]:
        """(N,) and (N, P), in one pass."""
        parts = [with_gradient(self.weight, piece, np.array(theta)) for piece in self.pieces]
        values = self._checked(np.concatenate([value.numpy() for value, _ in parts]), theta)
        slope = np.concatenate([part.numpy() for _, part in parts]) / values[:, None]
        bad = ~np.isfinite(slope).all(1)
        if bad.any():
            raise ValueError(f"{self.what} at {shown(self.names, theta)}: expected a finite gradient, found "
                             f"{int(bad.sum())} that are not, first at row {int(np.argmax(bad))}")  # fmt: skip
        return np.log(values), slope

    def _checked(self, values: Floats, theta: Floats) -> Floats:
        # what is asked of a fit's first point; its line searches turn back where it is not so
        bad = ~(np.isfinite(values) & (values > 0))
        if bad.any():
            first = int(np.argmax(bad))
            raise NegativeDensity(
                f"{self.what} at {shown(self.names, theta)}: expected positive, finite ratios, found {values[first]:g} "
                f"at row {first} of the events with truth and reco, {int(bad.sum())} such rows; give limits="
            )
        return values


class LogRatio(LogResponse):
    """Of a learned ratio, over that at the simulation's theta, times the efficiency's, which densities do not have."""

    def __init__(
        self, ratio: ParametrisedRatio, events: Events, names: tuple[str, ...], nominal: Floats,
        efficiency: Efficiency | None,
    ) -> None:  # fmt: skip
        self.ratio, self.events, self.names, self.efficiency = ratio, events, names, efficiency
        self.order = [ratio.names.index(name) for name in names]
        self.own = ratio.log(events, self._named(nominal))

    def _named(self, theta: Floats) -> dict[str, float]:
        return dict(zip(self.names, theta.tolist(), strict=True))

    def __call__(self, theta: Floats) -> Floats:
        """(N,), with the efficiency's."""
        return self.ratio.log(self.events, self._named(theta)) - self.own + self._log_rate(theta)

    def _log_rate(self, theta: Floats) -> float:
        if self.efficiency is None:
            return 0.0
        found = float(self.efficiency(self._named(theta)))
        if not 0 < found < math.inf:
            raise ValueError(f"efficiency at {shown(self.names, theta)}: expected a positive number, found {found:g}")
        return math.log(found)

    def slopes(self, theta: Floats) -> tuple[Floats, Floats]:
        """(N,) and (N, P)."""
        # without the efficiency's: what all events share drops out of Q's gradient, as Z has it too
        return self(theta), self.ratio.score(self.events, self._named(theta))[:, self.order]
