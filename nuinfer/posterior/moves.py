"""The moves of `nuinfer.posterior.samplers`: slices, trajectories and jumps, each for all chains of all observations.

A kernel leaves the density as it is, once it no longer adapts.  Sources: see there.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Protocol

import torch
from torch import Tensor

from ..errors import NotConverged

if TYPE_CHECKING:
    from .samplers import Target, Walk

__all__ = ["HMCKernel", "Kernel", "SliceKernel"]

_STEPS_OUT = 32  # of a slice's interval, both sides together
_MOST_SHRINKS = 200  # an interval is then 10^-40 of its width: the density is not a function
_MOST_JUMPS = 5  # of a sweep of HMC


class Kernel(Protocol):
    """Moves that leave the density as it is, once they no longer adapt."""

    @property
    def accepted(self) -> Tensor:
        """The share of accepted moves (N,)."""

    def sweep(self, *, tune: bool = False) -> Tensor:
        """One sweep of the walk; its states t (N, C, P)."""

    def settle(self, states: Tensor) -> None:
        """Take axes and archive from states (N, K, P)."""


def _evaluated(target: Target, t: Tensor, active: Tensor) -> Tensor:
    """Log densities (N, C) where ``active``; the rest is not evaluated, but for what fills up the rows."""
    if active.all():
        return target(t)
    width = int(active.sum(1).max())
    order = (~active).to(torch.uint8).argsort(dim=1, stable=True)[:, :width]
    values = target(t.gather(1, order[..., None].expand(-1, -1, t.shape[2])))
    return torch.full(active.shape, -torch.inf, dtype=torch.float64).scatter(1, order, values)


class _Jumps:
    """Metropolis steps by differences of two points of an archive (N, K, P), whole or shortened."""

    def __init__(self, walk: Walk) -> None:
        self.walk, self.archive = walk, walk.archive
        self.tried, self.accepted = 0, torch.zeros(len(walk.t), dtype=torch.float64)

    @torch.no_grad()
    def __call__(self) -> None:
        w = self.walk
        n, c, p = w.t.shape
        pick = (w.uniform(2, n, c) * self.archive.shape[1]).long()
        first, second = (self.archive.gather(1, index[..., None].expand(-1, -1, p)) for index in pick)
        factor = torch.where(w.uniform(n, c, 1) < 0.5, 1.0, 2.38 / math.sqrt(2 * p))
        t = w.t + factor * (first - second)
        logs = w.target(t)
        taken = torch.log(w.uniform(n, c)) < logs - w.logs
        w.t, w.logs = torch.where(taken[..., None], t, w.t), torch.where(taken, logs, w.logs)
        self.tried += 1
        self.accepted += (taken.double().mean(1) - self.accepted) / self.tried


class SliceKernel:
    """Slices along the columns of a Cholesky factor (N, P, P), then as many jumps."""

    def __init__(self, walk: Walk) -> None:
        self.walk = walk
        n, _, p = walk.t.shape
        self.width = torch.full((n, p), 3.0, dtype=torch.float64)
        self.moved, self.seen = torch.zeros(n, p, dtype=torch.float64), 0
        self._place(walk.archive)

    @property
    def accepted(self) -> Tensor:
        """The share of accepted jumps (N,)."""
        return self.jumps.accepted

    def _place(self, states: Tensor) -> None:
        self.factor, self.walk.archive = _factor(states), states
        self.jumps = _Jumps(self.walk)

    def settle(self, states: Tensor) -> None:
        """Axes and archive from states (N, K, P), widths from the steps so far."""
        self._place(states)
        if self.seen:
            # both ends of a step are uniform on the slice: its length is three times the mean step
            self.width = (3 * self.moved / self.seen).clamp(1e-3, 1e3)
        self.moved, self.seen = torch.zeros_like(self.moved), 0

    @torch.no_grad()
    def sweep(self, *, tune: bool = False) -> Tensor:
        """A slice along each axis, and jumps; the states t (N, C, P)."""
        w = self.walk
        for j in range(w.t.shape[2]):
            step = _slice(w, self.factor[:, None, :, j], self.width[:, j : j + 1])
            if tune:
                self.moved[:, j] += step.abs().mean(1)
        self.seen += tune
        for _ in range(w.t.shape[2]):
            self.jumps()
        return w.t


def _factor(states: Tensor) -> Tensor:
    """A Cholesky factor (N, P, P) of the covariance of states (N, K, P), drawn to its diagonal where they are few."""
    centred = states - states.mean(1, keepdim=True)
    covariance = centred.mT @ centred / max(states.shape[1] - 1, 1)
    diagonal = torch.diag_embed(covariance.diagonal(dim1=1, dim2=2).clamp_min(1e-300))
    share = states.shape[2] / (states.shape[1] + states.shape[2])
    factor: Tensor = torch.linalg.cholesky((1 - share) * covariance + share * diagonal)
    return factor


def _slice(walk: Walk, direction: Tensor, width: Tensor) -> Tensor:
    """One slice update along ``direction`` (N, 1, P) from intervals of ``width`` (N, 1); the steps taken (N, C)."""
    level = walk.logs + torch.log1p(-walk.uniform(*walk.logs.shape))
    left, right = _stepped_out(walk, direction, width, level)
    todo = torch.ones_like(level, dtype=torch.bool)
    step, logs = torch.zeros_like(level), walk.logs.clone()
    for _ in range(_MOST_SHRINKS):
        at = left + (right - left) * walk.uniform(*level.shape)
        found = _evaluated(walk.target, walk.t + at[..., None] * direction, todo)
        good = todo & (found > level)
        step, logs = torch.where(good, at, step), torch.where(good, found, logs)
        todo = todo & ~good
        if not todo.any():
            break
        left, right = torch.where(at < 0, at, left), torch.where(at < 0, right, at)
    else:
        raise NotConverged("a slice shrank to nothing: the log density is not the same at the same point twice")
    walk.t, walk.logs = walk.t + step[..., None] * direction, logs
    return step


def _stepped_out(walk: Walk, direction: Tensor, width: Tensor, level: Tensor) -> tuple[Tensor, Tensor]:
    """Ends (N, C) of the interval, both sides in one call (Neal, fig. 3)."""
    left = -width * walk.uniform(*level.shape)
    ends = torch.cat([left, left + width], 1)
    budget = torch.floor(_STEPS_OUT * walk.uniform(*level.shape))
    budget = torch.cat([budget, _STEPS_OUT - 1 - budget], 1)
    stride = torch.cat([-width.expand_as(level), width.expand_as(level)], 1)
    t, level = torch.cat([walk.t, walk.t], 1), torch.cat([level, level], 1)
    growing = budget > 0
    while growing.any():
        growing = growing & (_evaluated(walk.target, t + ends[..., None] * direction, growing) > level)
        ends, budget = torch.where(growing, ends + stride, ends), budget - 1
        growing = growing & (budget > 0)
    return ends[:, : left.shape[1]], ends[:, left.shape[1] :]


class HMCKernel:
    """A trajectory of the leapfrog with a diagonal metric, then jumps."""

    def __init__(self, walk: Walk, steps: int, aim: float) -> None:
        self.walk, self.steps = walk, steps
        walk.target.check_gradient(walk.t)
        self.tuning = _DualAveraging(len(walk.t), aim)
        self.tried, self.accepted = 0, torch.zeros(len(walk.t), dtype=torch.float64)
        self._place(walk.archive)

    def _place(self, states: Tensor) -> None:
        self.scale, self.walk.archive = states.std(1, keepdim=True).clamp_min(1e-150), states
        self.jumps = _Jumps(self.walk)

    def settle(self, states: Tensor) -> None:
        """Metric and archive from states (N, K, P); the step size is learned anew from where it is."""
        self._place(states)
        self.tuning = self.tuning.again()
        self.tried, self.accepted = 0, torch.zeros_like(self.accepted)

    def sweep(self, *, tune: bool = False) -> Tensor:
        """A trajectory and jumps; the states t (N, C, P)."""
        w = self.walk
        size = self.tuning.size if tune else self.tuning.settled
        size = size * (0.9 + 0.2 * w.uniform(1, 1))  # periodic orbits do not repeat
        accepted = self._trajectory(size[..., None] * self.scale)
        if tune:
            self.tuning.learn(accepted)
        self.tried += 1
        self.accepted += (accepted - self.accepted) / self.tried
        for _ in range(min(w.t.shape[2], _MOST_JUMPS)):  # a jump is one evaluation, a trajectory some
            self.jumps()
        return w.t

    def _trajectory(self, size: Tensor) -> Tensor:
        """Leapfrog steps of ``size`` (N, 1, P) in t; the mean acceptance (N,)."""
        w = self.walk
        kick = size  # momenta have the inverse metric: in units of the scale both are the same
        momentum = w.normal(*w.t.shape)
        t, energy = w.t, 0.5 * momentum.square().sum(-1) - w.logs
        slope, logs = self._slope(t)
        for _ in range(1 + int(w.uniform(1) * self.steps)):
            momentum = momentum + 0.5 * kick * slope
            t = t + size * momentum
            slope, logs = self._slope(t)
            momentum = momentum + 0.5 * kick * slope
        change = energy - (0.5 * momentum.square().sum(-1) - logs)
        change = torch.where(torch.isfinite(change), change, -torch.inf)
        taken = torch.log(w.uniform(*change.shape)) < change
        w.t, w.logs = torch.where(taken[..., None], t, w.t), torch.where(taken, logs, w.logs)
        return change.clamp(max=0).exp().mean(1)

    def _slope(self, t: Tensor) -> tuple[Tensor, Tensor]:
        """The gradient and the log density at t; no force where there is no density."""
        with torch.enable_grad():
            at = t.detach().requires_grad_()
            logs = self.walk.target(at)
            (slope,) = torch.autograd.grad(logs.sum(), at)
        return torch.where(torch.isfinite(slope), slope, 0.0), logs.detach()


class _DualAveraging:
    """Step sizes (N, 1) in units of the metric by the acceptance (Hoffman, Gelman, arXiv 1111.4246, section 3.2)."""

    def __init__(self, observations: int, aim: float, start: Tensor | None = None) -> None:
        self.size = torch.full((observations, 1), 0.5, dtype=torch.float64) if start is None else start
        self.settled, self.aim = self.size, aim
        self.centre, self.error, self.count = torch.log(10 * self.size), torch.zeros_like(self.size), 0

    def again(self) -> _DualAveraging:
        """The same from where it has come to."""
        return _DualAveraging(len(self.size), self.aim, self.settled)

    def learn(self, acceptance: Tensor) -> None:
        """The sizes after a trajectory with the mean acceptance (N,)."""
        self.count += 1
        share = 1 / (self.count + 10)
        self.error = (1 - share) * self.error + share * (self.aim - acceptance[:, None])
        log_size = self.centre - math.sqrt(self.count) / 0.05 * self.error
        part = self.count**-0.75
        self.settled = torch.exp(part * log_size + (1 - part) * torch.log(self.settled))
        self.size = torch.exp(log_size)
