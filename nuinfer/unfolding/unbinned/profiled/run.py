"""The steps of an iteration, for all networks at once: OmniFold's two with the response, and the nuisances'."""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ....errors import NotConverged
from ....intervals.fits import Problem
from ....likelihood.constraints import Constraint
from ....likelihood.costs import DifferentiableCost, NegativeDensity, summed
from ....ratio.parameters import shown
from ..result import Unfolded
from ..steps import Answer, Run
from .model import Model
from .result import Profiled

__all__ = ["ProfiledRun"]

_log = logging.getLogger("nuinfer")

Floats = NDArray[np.float64]

_Slopes = Callable[[Floats], tuple[Floats, Floats]]

# of the way between two limits, else of the constraint's width, else of the way moved: so near a nuisance is at a limit
_EDGE = 1e-3
_MEAN = 0.05  # so far from 1 may the mean of W be
_PARTS = 8  # of each column of the truth, in which W has a mean


class ProfiledRun(Run):
    """The networks' weights and nuisances as they go through the iterations."""

    def __init__(self, model: Model, *state: Any) -> None:
        super().__init__(*state)
        signal, resample = self.sample.rows.signal, self.fit.resample
        self.model = model
        self.response = model.log("response", model.response, self.sample.simulation.select(signal))
        # of all truth, as all truth is divided by it
        self.acceptance = None if model.acceptance is None else model.log(
            "acceptance", model.acceptance, self.sample.simulation.select(self.sample.rows.truth)
        )  # fmt: skip
        plain, networks = resample.plain, resample.networks
        self.constraints = [model.constraints] * plain + [
            model.fluctuated(resample.seed, replica) for replica in range(networks - plain)
        ]
        theta = np.stack([model.started(own) for own in self.constraints])
        self._check_fakes(theta)
        self.trajectory = [theta]
        self.factor = np.exp([self.response(each) for each in theta])  # W (networks, signal)

    def _check_fakes(self, start: Floats) -> None:
        """Scaled fakes are D / S_0, and their part of the data is the purity of S_0: no step learns another start's."""
        away = start[(start != self.model.nominal).any(1)]
        if self.fakes == "scale" and len(self.sample.rows.fakes) and len(away):
            names, nominal = self.model.names, self.model.nominal
            raise ValueError(f"fakes='scale': expected a start at nominal, {shown(names, nominal)}, found "
                             f"{shown(names, away[0])}; give start= as nominal (bootstraps start at their own centres "
                             f"without it), or fakes='subtract'")  # fmt: skip

    @property
    def present(self) -> Floats:
        """Weights (networks, signal) of the simulation with its response as it is now."""
        return np.asarray(super().present * self.factor)

    def reco_step(self, number: int) -> tuple[Answer, Floats]:
        """The fit, and omega (networks, signal): nu W r(y), normalised to the data's signal part."""
        step1, omega = super().reco_step(number)
        omega = omega * self.factor
        return step1, omega * (self.target / self._counts(omega).sum(1))[:, None]

    def truth_step(self, number: int, omega: Floats) -> Answer:
        """nu <- E[omega | x], and theta <- the maximum of Q."""
        step2, before = super().truth_step(number, omega), self.trajectory[-1]
        base = self._counts(self.nu[:, self.sample.rows.signal])
        networks = zip(before, self._counts(omega), base, self.constraints, strict=True)
        theta = np.stack([self._best(*each) for each in networks])
        self.trajectory.append(theta)
        self.factor = np.exp([self.response(each) for each in theta])
        if self.acceptance is not None:
            self.nu[:, self.sample.rows.truth] /= np.exp([self.acceptance(each) for each in theta])
        return step2

    def _counts(self, omega: Floats) -> Floats:
        """w omega (networks, signal), times how often each network counts an event."""
        return np.asarray(self.weight[..., self.sample.rows.signal] * self.signal_times * omega)

    def _best(self, start: Floats, counts: Floats, base: Floats, constraints: tuple[Constraint, ...]) -> Floats:
        """The maximum of Q of one network, with w omega and w nu of the signal (N,)."""
        names = self.model.names
        cost = Surrogate(names, self._slopes, counts, base)
        metric = self.model.metric(self._slopes(start)[1], counts)
        problem = Problem(summed([cost, *constraints]), limits=dict(zip(names, self.model.limits, strict=True)))
        places = [problem.names.index(name) for name in names]
        ordered = np.zeros_like(metric)
        ordered[np.ix_(places, places)] = metric
        try:
            found = problem.minimum(dict(zip(names, start.tolist(), strict=True)), metric=ordered, tolerance=1e-5)
        except NotConverged as error:
            raise NotConverged(f"no maximum in the nuisances was found from {shown(names, start)}; give limits= within "
                               f"which the response is positive, or a constraint ({error})") from error  # fmt: skip
        return np.array([found.values[name] for name in names])

    def _slopes(self, theta: Floats) -> tuple[Floats, Floats]:
        """log W - log a of the signal (N,), and its gradient (N, P)."""
        log, slope = self.response.slopes(theta)
        if self.acceptance is None:
            return log, slope
        other, bend = self.acceptance.slopes(theta)
        return log - other[self.in_truth], slope - bend[self.in_truth]

    def result(self, unfolded: Unfolded) -> Profiled:
        """With the nuisances and the response of the members."""
        path, members = np.stack(self.trajectory), len(unfolded.weights)
        response = np.ones_like(unfolded.weights)
        response[:, self.sample.rows.signal] = self.factor[:members]
        return Profiled(unfolded, self.model.names, path[:, :members], path[-1, members:], response)

    def warn(self) -> None:
        """Log nuisances that end at a limit, and a response that is not normalised."""
        self._warn_of_limits()
        if self.acceptance is None:
            self._warn_of_means()

    def _warn_of_limits(self) -> None:
        names, theta = self.model.names, self.trajectory[-1][: self.fit.resample.plain]
        widths = {name: width for own in self.model.constraints for name, width in own.width.items()}
        moved = np.abs(theta - self.model.start)
        for name, value, way, (low, high) in zip(names, theta.T, moved.T, self.model.limits, strict=True):
            ends = [end for end in (low, high) if end is not None]
            scale = ends[1] - ends[0] if len(ends) == 2 else widths.get(name, way)
            if any((np.abs(value - end) <= _EDGE * scale).any() for end in ends):
                _log.warning("nuisance %r ends at a limit, %s: widen limits=, or learn the response in a wider range",
                             name, [round(float(v), 6) for v in value])  # fmt: skip

    def _warn_of_means(self) -> None:
        """The mean of W over the simulation, and over parts of its truth."""
        plain = self.fit.resample.plain
        own, factor = self._counts(self.nu[:, self.sample.rows.signal])[:plain], self.factor[:plain]
        mean = (own * factor).sum(1) / own.sum(1)
        if (np.abs(mean - 1) > _MEAN).any():
            _log.warning(
                "response: expected a mean of 1 over the simulation, found %s at the fitted nuisances; where they "
                "change the acceptance, or the response is learned, give acceptance=", mean.round(3).tolist(),
            )  # fmt: skip
            return
        table = self.sample.truth_inputs.flat[self.in_truth].double().numpy()
        for name, values in zip(self.truth.flat, table.T, strict=True):
            found, error = _means_of_parts(values, own.mean(0), factor.mean(0))
            away = np.abs(found / mean.mean() - 1)
            if ((away > _MEAN) & (away > 4 * error)).any():
                _log.warning(
                    "response: expected a mean of 1 at each truth, found %s from low to high %r at the fitted "
                    "nuisances; where they change the acceptance, or the response is learned, give acceptance=",
                    found.round(3).tolist(), name,
                )  # fmt: skip


def _means_of_parts(values: Floats, base: Floats, factor: Floats) -> tuple[Floats, Floats]:
    """Means of W under the base weights, and their errors, in equally populated parts of a column."""
    part = np.searchsorted(np.quantile(values, np.arange(1, _PARTS) / _PARTS), values)
    total = np.bincount(part, base, _PARTS)
    with np.errstate(divide="ignore", invalid="ignore"):  # parts without weight, as of a column of few values
        mean = np.bincount(part, base * factor, _PARTS) / total
        error = np.sqrt(np.bincount(part, (base * (factor - mean[part])) ** 2, _PARTS)) / np.abs(total)
    return mean[total > 0], error[total > 0]


class Surrogate(DifferentiableCost):
    """-2 sum_i c_i [log W_i(theta) - log Z(theta)], minus twice Q without the constraints; Z is over the base b_i."""

    def __init__(self, names: Sequence[str], slopes: _Slopes, counts: Floats, base: Floats) -> None:
        super().__init__(dict.fromkeys(names))
        self.slopes, self.counts, self.base = slopes, counts, base

    def tensor(self, theta: Tensor) -> Tensor:
        """With the gradient that is known: all events at once would not fit in a graph."""
        log, slope = self.slopes(theta.detach().numpy())
        total, tilted = self.counts.sum(), self.base * np.exp(log)
        mean = tilted.sum() / self.base.sum()
        if not 0 < mean < math.inf:
            raise NegativeDensity(f"response: expected a positive, finite mean over the simulation, found {mean:g}")
        value = -2 * float(self.counts @ log - total * np.log(mean))
        gradient = -2 * (self.counts @ slope - total * (tilted @ slope) / tilted.sum())
        return value + torch.from_numpy(gradient) @ (theta - theta.detach())

    def _ndata(self) -> int:
        return len(self.counts)
