"""The theta that an event is trained with: drawn anew each epoch, a hash of (seed, row, network, epoch).

`Pairing`: an event of the numerator has the theta it was generated with; one of the denominator, whose density does not
depend on theta, borrows the theta of another event, so that theta alone tells nothing of the class.

`Reweighting`: every event belongs to both classes, with its weight at a theta drawn from the prior and its weight at
the reference.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from .. import hashing
from ..events import Events
from ..resample import Resample
from ..train import Draw, Drawn, digest
from .parameters import Parameters, WeightFunction, checked_total, shown, weights_at, with_gradient

Floats = NDArray[np.float64]
Keys = NDArray[np.int64]

_TRIES = 32  # hashes for a partner among the rows that a network may see
_AT_ONCE = 64  # thetas of an epoch: each is one call of the weight function for every 2^15 rows
_HELD = "held out"
_FEW = 0.01  # of the sample: an effective size that is worth a warning

_log = logging.getLogger("nuinfer")


class Pairing(Draw):
    """Rows whose theta is their own, and rows that borrow the theta of another one.

    Parameters
    ----------
    theta:
        Standardised theta (N, T); only the first ``lenders`` rows lend theirs.
    borrows:
        The rows (N,) that get the theta of another one, and with it the factor w_j / mean(w) of its weight.
    weight, key:
        Of the lenders (M,), any sign.  Only those in a network's own part, with its multiplicities, lend to it: what
        fluctuates in the sample of theta is then the same in both classes.
    targets:
        Numbers (N, E) for the loss; not those of rows that borrow.
    """

    def __init__(
        self, theta: Floats, borrows: NDArray[np.bool_], weight: Floats, key: Keys, targets: Floats, resample: Resample
    ) -> None:
        self.theta, self.targets = (torch.from_numpy(a.astype(np.float32)) for a in (theta, targets))
        self.borrows, self.lenders = torch.from_numpy(borrows), len(weight)
        self.weight, self.key, self.resample = weight, key, resample
        self._means: dict[tuple[int, bool], float] = {}

    def __call__(self, rows: Tensor, networks: NDArray[np.int64], epoch: int | None) -> Drawn:
        """Theta, the factor of a borrowed one, and the targets."""
        flat = rows.reshape(-1)
        targets = tuple(column.index_select(0, flat).view(rows.shape) for column in self.targets.T)
        if not self.lenders:
            return Drawn(self.theta.index_select(0, flat).view(*rows.shape, -1), (), targets)
        source, factor = rows.clone(), torch.ones(rows.shape)
        for k, network in enumerate(networks):
            mine = self.borrows[rows[:, k]]
            partner, weight = self._partners(rows[:, k][mine].numpy(), int(network), epoch)
            source[:, k][mine] = torch.from_numpy(partner)
            factor[:, k][mine] = torch.from_numpy(weight.astype(np.float32))
        columns = self.theta.index_select(0, source.view(-1)).view(*rows.shape, -1)
        return Drawn(columns, (torch.ones_like(factor), factor), targets)

    def _partners(self, rows: Keys, network: int, epoch: int | None) -> tuple[Keys, Floats]:
        """For each row another one of the network's part, and the factor of its weight."""
        held = epoch is None
        found, factor = np.zeros(len(rows), np.int64), np.zeros(len(rows))
        left = np.arange(len(rows))
        for attempt in range(_TRIES):
            labels = (self.resample.seed, "partner", network, _HELD if held else epoch, attempt)
            picked = (hashing.bits(rows[left], *labels) % np.uint64(self.lenders)).astype(np.int64)
            times = self.resample.times(network, self.key[picked], held_out=held)
            # multiplicities as weights: a row of a bootstrap lends as often as it counts
            found[left], factor[left] = picked, self.weight[picked] * times
            left = left[times == 0]
            if not len(left):
                break
        else:  # the part is small: look for its rows
            times = self.resample.times(network, self.key, held_out=held)
            own = np.flatnonzero(times)
            labels = (self.resample.seed, "partner", network, _HELD if held else epoch, _TRIES)
            found[left] = own[(hashing.bits(rows[left], *labels) % np.uint64(len(own))).astype(np.int64)]
            factor[left] = self.weight[found[left]] * times[found[left]]
        return found, factor / self._mean(network, held)

    def _mean(self, network: int, held: bool) -> float:
        """The mean weight of the rows that lend to a network."""
        if (network, held) not in self._means:
            times = self.resample.times(network, self.key, held_out=held)
            self._means[network, held] = float(np.dot(self.weight, times) / max(np.count_nonzero(times), 1))
        return self._means[network, held]

    def describe(self) -> str:
        """Digests of theta, targets and weights."""
        return "pairing " + digest(self.theta, self.targets, self.borrows, torch.from_numpy(np.array(self.weight)))


@dataclass(frozen=True, eq=False)
class Design:
    """Thetas (M, T), and what the weights of all events sum to there: W (M,) and grad log W (M, T)."""

    parameters: Parameters
    theta: Floats
    total: Floats
    slope: Floats
    reference: Floats  # weights (N,) of the reference, with mean 1
    reference_total: float
    negative: bool  # whether an event has a negative weight somewhere

    @classmethod
    def of(
        cls, parameters: Parameters, theta: Floats, weight: WeightFunction, events: Events,
        reference: Floats | None, *, score: bool, positive: bool,
    ) -> Design:  # fmt: skip
        """The sums at each theta; ``reference`` is a theta (T,), None for the mean of all densities."""
        total, slope = np.empty(len(theta)), np.zeros(theta.shape)
        mean, least, sizes = torch.zeros(len(events), dtype=torch.float64), 0.0, np.empty(len(theta))
        for m, at in enumerate(theta):
            if score:
                value, gradient = with_gradient(weight, events, at)
            else:
                value, gradient = weights_at(weight, events, at), None
            total[m] = checked_total(value, shown(parameters.names, at), positive)
            slope[m] = 0.0 if gradient is None else gradient.sum(0).numpy() / total[m]
            mean += value * (len(events) / total[m])
            least = min(least, float(value.min()))
            sizes[m] = total[m] ** 2 / float(value.square().sum())
        _warn_of_few(parameters, theta, sizes, len(events))
        if reference is None:
            return cls(parameters, theta, total, slope, (mean / len(theta)).numpy(), float(total.mean()), least < 0)
        own = weights_at(weight, events, reference)
        sum_ = checked_total(own, f"the reference, {shown(parameters.names, reference)}", positive)
        least = min(least, float(own.min()))
        return cls(parameters, theta, total, slope, (own * (len(events) / sum_)).numpy(), sum_, least < 0)


def _warn_of_few(parameters: Parameters, theta: Floats, sizes: Floats, events: int) -> None:
    """Say where the weights leave next to nothing of the sample."""
    worst = int(np.argmin(sizes))
    if sizes[worst] < _FEW * events:
        _log.warning(
            "weight: the effective size of the %d events is %.3g at %s; the ratio is poor there: a narrower prior, "
            "or events that cover it", events, sizes[worst], shown(parameters.names, theta[worst]),
        )  # fmt: skip


class Reweighting(Draw):
    """Each event at one theta of a `Design`: factors of both classes, the joint log ratio and score where asked for."""

    def __init__(
        self, events: Events, weight: WeightFunction, design: Design, resample: Resample, *, joint: bool, score: bool
    ) -> None:
        self.events, self.weight, self.design, self.resample = events, weight, design, resample
        self.joint, self.score = joint, score
        self.standard = design.parameters.standard(design.theta)
        self.at_once = min(_AT_ONCE, len(design.theta))

    def __call__(self, rows: Tensor, networks: NDArray[np.int64], epoch: int | None) -> Drawn:
        """Theta, both weights, and the joint log ratio and score as far as they are asked for."""
        flat, point = rows.reshape(-1), self._points(rows, networks, epoch)
        targets = self.joint + (len(self.standard[0]) if self.score else 0)
        numbers = torch.empty(len(flat), 1 + targets, dtype=torch.float64)
        order = np.argsort(point, kind="stable")
        events = self.events.select(flat.numpy()[order])
        for number, part in _groups(point[order]):
            numbers[torch.from_numpy(order[part])] = self._numbers(events.select(part), number)
        reference = torch.from_numpy(self.design.reference)[flat]
        numerator = numbers[:, 0]
        found = [numbers[:, 1 + j] for j in range(targets)]
        if self.joint:
            found[0] = torch.log(numerator / reference)
        columns = torch.from_numpy(self.standard[point].astype(np.float32))
        return Drawn(
            columns.view(*rows.shape, -1), tuple(f.view(rows.shape) for f in (numerator, reference)),
            tuple(f.view(rows.shape) for f in found),
        )  # fmt: skip

    def _points(self, rows: Tensor, networks: NDArray[np.int64], epoch: int | None) -> Keys:
        """The theta of each row, of the few that an epoch has: calls of the weight function serve many events."""
        seed, count = self.resample.seed, len(self.standard)
        first = 0 if epoch is None else epoch * self.at_once
        order = hashing.permutation(count, seed, "points", first // count)
        these = order[(first + np.arange(self.at_once)) % count]
        out = np.empty(rows.shape, np.int64)
        for k, network in enumerate(networks):
            labels = (seed, "theta", int(network), _HELD if epoch is None else epoch)
            drawn = hashing.bits(rows[:, k].numpy().reshape(-1), *labels) % np.uint64(self.at_once)
            out[:, k] = these[drawn.astype(np.int64)].reshape(out[:, k].shape)
        return out.reshape(-1)

    def _numbers(self, events: Events, point: int) -> Tensor:
        """The numerator's factor, a place for the joint ratio, and the standardised joint score, for events (n,)."""
        design, theta = self.design, self.design.theta[point]
        scale = len(self.events) / design.total[point]
        if not self.score:
            plain: Tensor = weights_at(self.weight, events, theta) * scale
            return plain[:, None].expand(-1, 1 + self.joint)
        value, gradient = with_gradient(self.weight, events, theta)
        # an event of weight 0 has no score, and none is needed
        score = torch.where(value[:, None] != 0, gradient / value[:, None], 0.0) - torch.from_numpy(design.slope[point])
        place = value[:, None].expand(-1, 1 + self.joint) * scale
        return torch.cat([place, score * torch.from_numpy(design.parameters.scale)], 1)

    def describe(self) -> str:
        """Digests of the thetas and the sums of the weights there."""
        design = self.design
        return f"reweighting {self.joint} {self.score} " + digest(
            *(torch.from_numpy(np.array(a)) for a in (design.theta, design.total, design.slope, design.reference))
        )


def _groups(sorted_points: Keys) -> Iterator[tuple[int, slice]]:
    """Runs of equal numbers."""
    edges = np.flatnonzero(np.diff(sorted_points, prepend=-1, append=-1))
    for start, stop in pairwise(edges):
        yield int(sorted_points[start]), slice(int(start), int(stop))
