"""What every posterior answers, whatever it was learned by: draws, densities, the maximum, credible regions.

A posterior has two methods of its own, for N observations at once: ``draws`` and ``log_probs``.  All else follows from
them, here, and in `nuinfer.diagnostics`.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import optimize

from ..errors import check_finite
from ..events import Events
from ..ratio.parameters import column_values
from .priors import Prior
from .regions import CredibleRegion, credible_region

__all__ = ["Posterior"]

Floats = NDArray[np.float64]
Theta = Events | Mapping[str, Any] | ArrayLike


class Posterior(ABC):
    """p(theta | x) of P parameters; ``prior`` has their names and support."""

    prior: Prior

    @property
    def names(self) -> tuple[str, ...]:
        """Of the P parameters."""
        return self.prior.names

    @abstractmethod
    def draws(self, n: int, observations: Events, *, seed: int = 0) -> Floats:
        """``n`` draws (N, n, P) of theta for each of N observations."""

    @abstractmethod
    def log_probs(self, theta: ArrayLike, observations: Events) -> Floats:
        """Log densities (N, M) of M points of theta (N, M, P) for each of N observations; -inf outside the prior."""

    def sample(self, n: int, observation: Events, *, seed: int = 0) -> Events:
        """``n`` draws of theta for one observation, as events with one column a parameter.

        Raises
        ------
        ValueError
            for n below 1, or more or fewer than one observation.
        KeyError, TypeError
            for an observation without the columns that the posterior was fitted on.
        """
        drawn = self.draws(n, one(observation), seed=seed)[0]
        return Events(dict(zip(self.names, drawn.T.copy(), strict=True)))

    def log_prob(self, theta: Theta, observation: Events) -> Floats:
        """Log densities (M,) of M points of theta: events or a mapping with the parameters' columns, or (M, P).

        For a single point (P,) the answer has one entry.

        Raises
        ------
        ValueError
            for theta of another shape, or more or fewer than one observation.
        """
        found: Floats = self.log_probs(theta_of(theta, self.names)[None], one(observation))[0]
        return found

    def map(self, observation: Events, *, draws: int = 1000, seed: int = 0) -> dict[str, float]:
        """The maximum of the density at one observation, name -> value.

        The best of ``draws`` draws, then a quasi-Newton search from the best three, inside the prior's support.
        """
        observation = one(observation)
        theta = self.draws(draws, observation, seed=seed)
        order = np.argsort(self.log_probs(theta, observation)[0])[::-1]
        scale = theta[0].std(0)
        found = [_climbed(self, theta[0, i], scale, observation) for i in order[:3]]
        best = max(found, key=lambda pair: pair[1])[0]
        return dict(zip(self.names, best.tolist(), strict=True))

    def credible_region(
        self, observation: Events, levels: Sequence[float] = (0.68, 0.95), *, draws: int = 10_000, seed: int = 0
    ) -> CredibleRegion:
        """Regions of highest density and intervals of each parameter at one observation: see `CredibleRegion`."""
        observation = one(observation)
        if draws < 2:
            raise ValueError(f"draws: expected at least 2, found {draws}; a region wants thousands")
        theta = self.draws(draws, observation, seed=seed)
        logs = self.log_probs(theta, observation)[0]
        return credible_region(self.names, theta[0], logs, levels, self, observation)


def one(observation: Events) -> Events:
    """The observation, checked to be one."""
    if not isinstance(observation, Events):
        raise TypeError(f"observation: expected Events of one row, found {type(observation).__name__}; "
                        f"Events({{name: [value]}}) makes one")  # fmt: skip
    if len(observation) != 1:
        raise ValueError(f"observation: expected one, found {len(observation)} rows; draws(n, observations) and "
                         f"log_probs(theta, observations) take several")  # fmt: skip
    return observation


def theta_of(theta: Theta, names: Sequence[str]) -> Floats:
    """Points (M, P) of theta in the order of ``names``."""
    if isinstance(theta, Events):
        return column_values("theta", theta, names)
    if isinstance(theta, Mapping):
        unknown = set(theta) ^ set(names)
        if unknown:
            raise KeyError(f"theta: expected the parameters {', '.join(names)}, found {', '.join(map(str, theta))}")
        theta = np.stack(np.broadcast_arrays(*[np.asarray(theta[name], np.float64) for name in names]), -1)
    values = np.atleast_2d(np.asarray(theta, np.float64))
    if values.ndim != 2 or values.shape[1] != len(names):
        raise ValueError(f"theta: expected (M, {len(names)}) for {', '.join(names)}, found {np.shape(theta)}")
    check_finite("theta", values)
    return values


def thetas_of(theta: ArrayLike, names: Sequence[str], observations: int) -> Floats:
    """Points (N, M, P) for N observations, checked."""
    values = np.asarray(theta, np.float64)
    if values.ndim != 3 or values.shape[0] != observations or values.shape[2] != len(names):
        raise ValueError(f"theta: expected ({observations}, M, {len(names)}), M points of {', '.join(names)} for each "
                         f"of {observations} observations, found {values.shape}")  # fmt: skip
    check_finite("theta", values)
    return values


def _climbed(posterior: Posterior, start: Floats, scale: Floats, observation: Events) -> tuple[Floats, float]:
    """A local maximum near ``start``, and its log density."""
    scale = np.where(scale > 0, scale, 1.0)
    step = 1e-3

    def value(u: Floats) -> tuple[float, Floats]:
        # the point and two on either side of it along each axis, in one call
        shifts = step * np.concatenate([np.zeros((1, len(u))), np.eye(len(u)), -np.eye(len(u))])
        logs = posterior.log_probs((start + scale * (u + shifts))[None], observation)[0]
        up, down = logs[1 : len(u) + 1], logs[len(u) + 1 :]
        slope = np.where(np.isfinite(up) & np.isfinite(down), (up - down) / (2 * step), 0.0)
        return (-logs[0] if np.isfinite(logs[0]) else 1e30), -slope

    edges = [
        (None if low is None else (low - s) / w + 2 * step, None if high is None else (high - s) / w - 2 * step)
        for (low, high), s, w in zip(posterior.prior.bounds, start, scale, strict=True)
    ]
    first = value(np.zeros(len(start)))[0]
    found = optimize.minimize(value, np.zeros(len(start)), jac=True, bounds=edges, method="L-BFGS-B")
    better = found.fun < first
    return (start + scale * found.x if better else start), -float(found.fun if better else first)
