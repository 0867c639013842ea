r"""Profiled OmniFold: nuisance parameters of the detector, fitted while its effect is unfolded.

The detector is p(y | x, theta): truth x, reco y, nuisances theta.  The simulation is one sample at theta_0; its events
become those of another theta by the response ratio

    W(x, y; theta) = p(y | x, theta) / p(y | x, theta_0),

known, or learned before from simulations of many theta.  With data y_j, weights w_i and the truth f(x) of the
simulation, the model of the data is g(y) = \int nu(x) f(x) p(y | x, theta) dx, and what is maximised over nu and theta

    sum_j log g(y_j) + log pi(theta),

pi being the constraints.  *Expectation and maximisation* (EM) does so without knowing the data's truth.  Given nu_k and
theta_k, it has the posterior nu_k f p(y | x, theta_k) / g_k(y), so that the expectation over x of the complete-data
log-likelihood, a sum over the data, is a sum over the simulation:

    Q(nu, theta) = sum_i w_i omega_i [log nu(x_i) + log W_i(theta) - log Z(nu, theta)] + log pi(theta),
    omega_i = nu_k(x_i) W_i(theta_k) r(y_i),        r = data / (simulation weighted by w nu_k W(theta_k)),
    Z = sum_i w_i nu(x_i) W_i(theta) / sum_i w_i nu(x_i).

Z is 1 for a W that is normalised, up to the statistics of the simulation; then nu and theta are in terms of their own,
so that both are maximised exactly.  Iteration k:

1. *reco*: the ratio r(y), and omega.
2. *truth*: nu_{k+1} = E[omega | x] over the simulation as it is, weighted by w: W is in omega only.
3. *nuisances*: theta_{k+1} maximises sum_i w_i omega_i [log W_i(theta) - log Z(nu_{k+1}, theta)] + log pi(theta).

With a normalised W no iteration lowers likelihood times constraint (Dempster, Laird, Rubin).  Without Z, fluctuations
of the simulation would be taken for a theta, and a W that is not quite normalised, learned or interpolated, would run
away along its mean.  The third step trains nothing: it evaluates W on the simulation.  At theta_0, W = 1, the other two
are OmniFold.

**Acceptance.**  W is normalised over y at each x: E[W | x] = 1.  Where theta changes how many events of truth x are
reconstructed, W is the ratio of *rates* of reconstructed events, and a(x; theta) = E[W | x] that of efficiencies.  With
the likelihood of the rate, -\int nu f a dx, Q's second sum is that of log W - log a, and nu_{k+1} is
E[omega | x] / a(x; theta_{k+1}); again both are the exact maximum.  A learned W is not quite normalised: the ratio of x
alone, learned in the same way, is its a.

Ratios that are learned from reconstructed events are of densities: W and a both lack the factor of the mean efficiency
at theta over that at theta_0.  It cancels in Q, as Z has it too, but nu / a would have a wrong yield.  ``efficiency``
puts it in; no ratio can tell it.  A learned W without a takes theta to leave the efficiency as it is at each x, and its
mean, which is 1 in any case, cannot show that it does not.

**Bootstraps** fluctuate the data, the simulation and the constraints' outcomes, as an experiment does, and start at
their own centres: the spread of their nuisances is the uncertainty that data and constraint leave together, and the
covariance of spectra contains it.

Sources: Zhu, Desai, Kuusela, Mikuni, Nachman, Wasserman, arXiv 2409.10421 and 2512.07074 (the method; their code weighs
the third step by nu_{k+1}, and the constraint against the mean of the data instead of their sum); Dempster, Laird,
Rubin, J. R. Stat. Soc. B 39 (1977) 1 (EM); Cranmer, Pavez, Louppe, arXiv 1506.02169 (parametrised ratios).
"""

from __future__ import annotations

import logging
import math
import os
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, cast

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from torch import Tensor

from ... import hashing, losses, store
from ...ensemble import Fitted
from ...errors import NotConverged, missing
from ...events import Events
from ...features import Features
from ...intervals.fits import Problem
from ...likelihood.constraints import Constraint
from ...likelihood.costs import DifferentiableCost, NegativeDensity, summed
from ...nets import MLP, Network
from ...ratio import ParametrisedRatio
from ...ratio.parameters import WeightFunction, shown, weights_at, with_gradient
from ...resample import Resample
from ...train import Training
from ...trees import Trees
from ..binning import BinningLike
from ..samples import warn_of_shared_keys
from ..spectrum import Spectrum
from .result import Unfolded
from .reweighting import TRAINING, check_counts, prepared
from .steps import Fit, Run

if TYPE_CHECKING:
    from ..checks import Checks, Thresholds

__all__ = ["Profiled", "profiled_omnifold"]

_log = logging.getLogger("nuinfer")

Floats = NDArray[np.float64]
Limits = tuple[float | None, float | None]
#: W(events, theta) in torch, theta (T, P) -> (T, N), or a learned ratio.
Response = WeightFunction | ParametrisedRatio
#: The mean efficiency at theta, by name, over that at theta_0.
Efficiency = Callable[[Mapping[str, float]], float]

_Slopes = Callable[[Floats], tuple[Floats, Floats]]

_PIECE = 1 << 16  # events in one evaluation of W
# of the way between two limits, else of the constraint's width, else of the way moved: so near a nuisance is at a limit
_EDGE = 1e-3
_MEAN = 0.05  # so far from 1 may the mean of W be


@dataclass(frozen=True, eq=False)
class Profiled:
    """An unfolding with fitted nuisances; made by `profiled_omnifold`.

    Attributes
    ----------
    unfolded:
        Weights of the truth, nu alone: they do not contain W, so that its own `check` refuses; there is one here.
    names:
        Of the P nuisances.
    trajectory:
        (iterations + 1, members, P): the nuisances of each member, where they started and after each iteration.
    nuisance_replicas:
        (replicas, P): those of the bootstraps.
    response:
        (members, events): W at the fitted nuisances, 1 for events without truth or reco.
    """

    unfolded: Unfolded
    names: tuple[str, ...]
    trajectory: Floats
    nuisance_replicas: Floats
    response: Floats

    @property
    def nuisances(self) -> Floats:
        """The fitted nuisances of each member (members, P)."""
        return np.asarray(self.trajectory[-1])

    @property
    def values(self) -> dict[str, float]:
        """The members' mean, by name."""
        return dict(zip(self.names, self.nuisances.mean(0).tolist(), strict=True))

    @property
    def folded(self) -> Floats:
        """Weights (members, events), nu W, of what is *reconstructed*: with them the simulation looks like the data.

        Those of ``unfolded`` alone leave it with the detector that was simulated: compare the data with these.
        """
        return np.asarray(self.unfolded.weights * self.response)

    @property
    def covariance(self) -> Floats:
        """Of the nuisances (P, P), by the bootstraps: data, simulation, constraints, and the noise of one network.

        Raises
        ------
        ValueError
            with fewer than two of them.
        """
        if len(self.nuisance_replicas) < 2:
            raise ValueError(f"covariance of the nuisances: expected bootstraps, found {len(self.nuisance_replicas)}; "
                             f"give bootstrap= of 20 or more")  # fmt: skip
        found: Floats = np.atleast_2d(np.cov(self.nuisance_replicas, rowvar=False))
        return found

    @property
    def errors(self) -> dict[str, float]:
        """The roots of the covariance's diagonal, by name."""
        return dict(zip(self.names, np.sqrt(np.diag(self.covariance)).tolist(), strict=True))

    def spectrum(self, bins: BinningLike, *, iteration: int | None = None, reconstructed: bool = False) -> Spectrum:
        """As `Unfolded.spectrum`: its statistical covariance contains the nuisances."""
        return self.unfolded.spectrum(bins, iteration=iteration, reconstructed=reconstructed)

    def check(
        self, *, truth: BinningLike, reco: BinningLike, features: Features | list[str] | None = None,
        closed: Profiled | Unfolded | None = None,
        pseudo_data: Mapping[str, tuple[Profiled | Unfolded, ArrayLike]] | None = None,
        pseudo_experiments: tuple[Sequence[Profiled | Unfolded | Spectrum], ArrayLike] | None = None,
        priors: Mapping[str, Profiled | Unfolded] | None = None, network: Network | Trees | None = None,
        training: Training | None = None, seed: int = 0, data: Events | None = None,
        background: Events | None = None, thresholds: Thresholds | None = None,
    ) -> Checks:  # fmt: skip
        """As `Unfolded.check`, with the data in reco beside the simulation weighted by `folded`, nu W.

        Others may be profiled too.

        Raises
        ------
        ValueError
            without data where the result does not know them, as one that was loaded; and as the checks.
        """
        from ..checks import Thresholds, check_events

        known = self.unfolded if data is None else self.unfolded.with_data(data, background)
        if known.seen is None or (data is None and background is not None):
            raise ValueError("check: expected data=, and background= where there is any: a result that was loaded does "
                             "not know them; or neither of one that does")  # fmt: skip
        experiments = None if pseudo_experiments is None else (
            [run if isinstance(run, Spectrum) else _plain(run) for run in pseudo_experiments[0]], pseudo_experiments[1]
        )  # fmt: skip
        return check_events(
            known, known.seen[0], folded=replace(known, weights=self.folded), background=known.seen[1], truth=truth,
            reco=reco, features=Features.from_json(known.settings["reco"]) if features is None else features,
            closed=None if closed is None else _plain(closed), pseudo_experiments=experiments, network=network,
            training=training, seed=seed,
            pseudo_data={name: (_plain(run), own) for name, (run, own) in (pseudo_data or {}).items()},
            priors={name: _plain(run) for name, run in (priors or {}).items()}, group=known.group,
            thresholds=thresholds or Thresholds(),
        )  # fmt: skip

    def __repr__(self) -> str:
        errors = self.errors if len(self.nuisance_replicas) > 1 else {}
        moved = ", ".join(
            f"{name} {start:.4g} -> {self.values[name]:.4g}" + (f" +- {errors[name]:.2g}" if errors else "")
            for name, start in zip(self.names, self.trajectory[0].mean(0), strict=True)
        )
        return f"Profiled({moved}; {self.unfolded!r})"

    # -- files ---------------------------------------------------------------------------------------------------------

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write everything but the simulation to one safetensors file."""
        spec, arrays = self.unfolded.saved()
        own = {"nuisances.trajectory": self.trajectory, "nuisances.replicas": self.nuisance_replicas,
               "nuisances.response": self.response}  # fmt: skip
        store.save(path, "profiled unfolding", {"unfolded": spec, "names": list(self.names)}, {**arrays, **own})

    @classmethod
    def load(cls, path: str | os.PathLike[str], simulation: Events) -> Profiled:
        """Read what `save` wrote, for the same simulation, in the same order.

        Raises
        ------
        CorruptFile
            for a damaged file; ``ValueError`` for a simulation with other ids or weights, or a file of another kind.
        """
        spec, arrays = store.load(path, "profiled unfolding")
        own = [arrays.pop(f"nuisances.{name}") for name in ("trajectory", "replicas", "response")]
        unfolded = Unfolded.of_saved(spec["unfolded"], arrays, simulation, path)
        return cls(unfolded, tuple(spec["names"]), *own)


def _plain(run: Profiled | Unfolded) -> Unfolded:
    """The truth's weights of a profiled result; others as they are."""
    return run.unfolded if isinstance(run, Profiled) else run


def profiled_omnifold(
    data: Events,
    simulation: Events,
    *,
    reco: Features | Sequence[str],
    truth: Features | Sequence[str],
    response: Response,
    nuisances: Mapping[str, Constraint | None],
    nominal: Mapping[str, float],
    start: Mapping[str, float] | None = None,
    limits: Mapping[str, Limits] | None = None,
    acceptance: Response | None = None,
    efficiency: Efficiency | None = None,
    background: Events | None = None,
    misses: Literal["conditional", "prior"] = "conditional",
    fakes: Literal["subtract", "scale"] = "subtract",
    iterations: int = 5,
    members: int = 1,
    bootstrap: int = 0,
    group: str | None = None,
    network: Network | Trees = MLP(),  # noqa: B008 - a frozen spec
    loss: losses.RatioLoss = "bce",
    validation: float = 0.0,
    training: Training = TRAINING,
    seed: int,
    device: str = "cpu",
    checkpoint: str | Path | None = None,
    progress: bool = True,
) -> Profiled:
    """Unfold ``data`` and fit the nuisances of the detector with it.

    Parameters
    ----------
    data, simulation, reco, truth:
        As in `omnifold`.  Data that do not tell the nuisances from the truth leave them to the constraints.
    response:
        W(x, y; theta), see the module: a differentiable function ``response(events, theta)`` of torch, theta (T, P) in
        the order of ``nuisances`` -> (T, N), 1 at ``nominal``; or a `ParametrisedRatio` of columns of x and y together,
        whose value at theta is divided by that at ``nominal``.  It is evaluated on the simulation's events that have
        truth and reco.  Fakes and background do not depend on theta.
    nuisances:
        What is fitted, with its constraint, None for none.  One that several share is given to each of them.  Where
        data have weights, or background is subtracted, the signal's yield counts as the number of data against it.
    nominal:
        theta_0 of the simulation.
    start:
        Before the first iteration, for all networks; by default the constraints' centres, of bootstraps those of their
        own outcomes (or the limit before them), and ``nominal`` without one.
    limits:
        (lower, upper) of nuisances, None for none.  What is common to the ratios' ranges in training is always one.
    acceptance:
        a(x; theta) = E[W | x] over reconstructed events, in the same forms; None for 1.  A mean of W that is not 1
        without it is told to the log.  With it the weights times a, summed over ``pass_reco``, are the data's yield.
    efficiency:
        Beside an acceptance, where it or the response is learned, as ratios carry no rate: ``efficiency(theta)``, theta
        by name, is the fraction of the simulated truth that is reconstructed at theta over that at ``nominal``;
        ``lambda theta: 1.0`` where theta does not change it.
    background, misses, members, group, network, loss, validation, training, seed, device, checkpoint, progress:
        As in `omnifold`.
    fakes:
        As in `omnifold`; "scale", which is by the simulation as it is, for a start at ``nominal`` only.
    iterations:
        Nuisances take more than the truth alone: look at ``trajectory``.
    bootstrap:
        Replicas of data, simulation and constraints.

    Returns
    -------
    Profiled

    Raises
    ------
    ValueError
        for a response that is not positive and finite, not 1 at ``nominal``, or does not depend on a nuisance without
        constraint; values outside of the limits; constraints of other nuisances; an efficiency missing, or given where
        nothing is learned; scaled fakes with another start than ``nominal``; and as `omnifold`.
    KeyError
        for names that do not match; ``TypeError`` for other constraints, or a ratio without a gradient.
    NotConverged
        where the third step has no maximum.

    Examples
    --------
    >>> from nuinfer.likelihood import Normal
    >>> from nuinfer.simulators.profiled_gaussian import ProfiledGaussian
    >>> toy = ProfiledGaussian()
    >>> result = profiled_omnifold(
    ...     toy.data(4000, 1), toy.simulation(4000, 1), reco=["y1", "y2"], truth=["t"],
    ...     response=toy.response(), nuisances={"width": Normal("width", 1.5, 0.05)}, nominal={"width": 1.0},
    ...     network=MLP(width=16, depth=2), training=Training(epochs=8, batch=256), iterations=2, seed=1,
    ...     progress=False)
    >>> bool(abs(result.values["width"] - 1.5) < 0.1)
    True
    """
    check_counts(iterations, members, bootstrap)
    model = _model(response, acceptance, efficiency, nuisances, nominal, start, limits)
    _check_misses(acceptance, misses)
    if bootstrap:
        warn_of_shared_keys(data, background, simulation, group)
    resample = Resample.with_replicas(seed=seed, members=members, replicas=bootstrap, validation=validation)
    fit = Fit(network, losses.by_name(loss), training, resample, device, checkpoint, progress)
    run = cast(_ProfiledRun, prepared(data, simulation, background, reco, truth, misses, fakes, group, fit,
                                      make=partial(_ProfiledRun, model)))  # fmt: skip
    steps = [run.iterate(number) for number in range(iterations)]
    run.warn()
    settings = run.settings(iterations) | {"nuisances": list(model.names)}
    weights = run.full_weights(0, members), run.replicas(None)
    found = Unfolded(simulation, *weights, tuple(steps), seed, group, settings)
    return run.result(found.with_data(data, background))


class _ProfiledRun(Run):
    """The networks' weights and nuisances as they go through the iterations."""

    def __init__(self, model: _Model, *state: Any) -> None:
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

    def reco_step(self, number: int) -> tuple[Fitted, Floats]:
        """The fit, and omega (networks, signal): nu W r(y), normalised to the data's signal part."""
        step1, omega = super().reco_step(number)
        omega = omega * self.factor
        return step1, omega * (self.target / self._counts(omega).sum(1))[:, None]

    def truth_step(self, number: int, omega: Floats) -> Fitted:
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
        cost = _Surrogate(names, self._slopes, counts, base)
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
        names, theta = self.model.names, self.trajectory[-1][: self.fit.resample.plain]
        widths = {name: width for own in self.model.constraints for name, width in own.width.items()}
        moved = np.abs(theta - self.model.start)
        for name, value, way, (low, high) in zip(names, theta.T, moved.T, self.model.limits, strict=True):
            ends = [end for end in (low, high) if end is not None]
            scale = ends[1] - ends[0] if len(ends) == 2 else widths.get(name, way)
            if any((np.abs(value - end) <= _EDGE * scale).any() for end in ends):
                _log.warning("nuisance %r ends at a limit, %s: widen limits=, or learn the response in a wider range",
                             name, [round(float(v), 6) for v in value])  # fmt: skip
        own = self._counts(self.nu[:, self.sample.rows.signal])[: len(theta)]
        mean = (own * self.factor[: len(theta)]).sum(1) / own.sum(1)
        if self.acceptance is None and (np.abs(mean - 1) > _MEAN).any():
            _log.warning(
                "response: expected a mean of 1 over the simulation, found %s at the fitted nuisances; where they "
                "change the acceptance, or the response is learned, give acceptance=", mean.round(3).tolist(),
            )  # fmt: skip


class _Surrogate(DifferentiableCost):
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


# -- the response ------------------------------------------------------------------------------------------------------


class _Log(ABC):
    """log W(theta) of some events."""

    @abstractmethod
    def __call__(self, theta: Floats) -> Floats:
        """(N,) at theta (P,)."""

    @abstractmethod
    def slopes(self, theta: Floats) -> tuple[Floats, Floats]:
        """The same, and d log W / d theta (N, P)."""


class _LogFunction(_Log):
    """Of a function of events and theta."""

    def __init__(self, what: str, weight: WeightFunction, events: Events, names: tuple[str, ...]) -> None:
        self.what, self.weight, self.names = what, weight, names
        self.pieces = [events.select(slice(at, at + _PIECE)) for at in range(0, len(events), _PIECE)]

    def __call__(self, theta: Floats) -> Floats:
        values = [weights_at(self.weight, piece, np.array(theta)).numpy() for piece in self.pieces]
        return np.log(self._checked(np.concatenate(values), theta))

    def slopes(self, theta: Floats) -> tuple[Floats, Floats]:
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


class _LogRatio(_Log):
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
        return self.ratio.log(self.events, self._named(theta)) - self.own + self._log_rate(theta)

    def _log_rate(self, theta: Floats) -> float:
        if self.efficiency is None:
            return 0.0
        found = float(self.efficiency(self._named(theta)))
        if not 0 < found < math.inf:
            raise ValueError(f"efficiency at {shown(self.names, theta)}: expected a positive number, found {found:g}")
        return math.log(found)

    def slopes(self, theta: Floats) -> tuple[Floats, Floats]:
        # without the efficiency's: what all events share drops out of Q's gradient, as Z has it too
        return self(theta), self.ratio.score(self.events, self._named(theta))[:, self.order]


@dataclass(frozen=True)
class _Model:
    """Nuisances, what they do, and what is known of them."""

    names: tuple[str, ...]
    response: Response
    acceptance: Response | None
    efficiency: Efficiency | None
    nominal: Floats
    start: Floats
    given: frozenset[str]  # whose start is for all networks
    constraints: tuple[Constraint, ...]
    limits: tuple[Limits, ...]

    def log(self, what: str, given: Response, events: Events) -> _Log:
        """log W of events, checked at the simulation's theta and at the start."""
        if isinstance(given, ParametrisedRatio):
            found: _Log = _LogRatio(given, events, self.names, self.nominal, self.efficiency)
        else:
            found = _LogFunction(what, given, events, self.names)
        own = found(self.nominal)
        if np.abs(own).max() > 1e-3:
            raise ValueError(f"{what}: expected 1 at nominal, {shown(self.names, self.nominal)}, found "
                             f"{float(np.exp(own[np.argmax(np.abs(own))])):.4g}; it is the density over that of the "
                             f"simulation")  # fmt: skip
        found(self.start)
        return found

    def metric(self, slope: Floats, counts: Floats) -> Floats:
        """A first guess of the inverse covariance (P, P) that Q gives: of the scores' squares, and the constraints."""
        size = np.abs(counts)
        away = slope - size @ slope / size.sum()  # a factor of all events alike says nothing
        found = np.asarray(np.einsum("n,ni,nj->ij", size, away, away))
        found[np.diag_indices(len(found))] -= 1e-12 * (size @ slope**2)
        for constraint in self.constraints:
            for name, width in constraint.width.items():
                at = self.names.index(name)
                found[at, at] += width**-2
        blind = [name for name, own in zip(self.names, np.diag(found), strict=True) if not own > 0]
        if blind:
            raise ValueError(f"response: expected one that depends on every nuisance without a constraint, found none "
                             f"of {', '.join(map(repr, blind))}; leave it out, or constrain it")  # fmt: skip
        return found

    def started(self, constraints: tuple[Constraint, ...]) -> Floats:
        """Where a network with these constraints starts (P,): at their centres, as near as the limits allow."""
        centres = {name: value for own in constraints for name, value in own.centre.items() if name not in self.given}
        found = [centres.get(name, first) for name, first in zip(self.names, self.start, strict=True)]
        low, high = np.array([_ends(limits) for limits in self.limits]).T
        return np.asarray(np.clip(found, low, high))

    def fluctuated(self, seed: int, replica: int) -> tuple[Constraint, ...]:
        """The constraints with other outcomes, drawn about those there are."""
        rng = np.random.default_rng(hashing.salt(seed, "constraints", replica))
        return tuple(constraint.sample(constraint.centre, rng) for constraint in self.constraints)


# -- what is given -----------------------------------------------------------------------------------------------------


def _model(
    response: Response, acceptance: Response | None, efficiency: Efficiency | None,
    nuisances: Mapping[str, Constraint | None], nominal: Mapping[str, float], start: Mapping[str, float] | None,
    limits: Mapping[str, Limits] | None,
) -> _Model:  # fmt: skip
    if not nuisances:
        raise ValueError("nuisances: expected at least one, found none; without them it is omnifold")
    names, constraints = tuple(nuisances), _constraints(nuisances)
    ranges = _limits(names, limits, {"response": response, "acceptance": acceptance})
    at = _vector("nominal", nominal, names)
    centres = {name: value for constraint in constraints for name, value in constraint.centre.items()}
    first = _vector("start", {**nominal, **centres, **(start or {})}, names)
    for what, values in (("nominal", at), ("start", first)):
        for name, value, own in zip(names, values, ranges, strict=True):
            low, high = _ends(own)
            if not low <= value <= high:
                raise ValueError(f"{what}: expected {name!r} within its limits ({own[0]}, {own[1]}), found {value:g}; "
                                 f"a learned response is known in the range of its training only")  # fmt: skip
    _check_efficiency(response, acceptance, efficiency)
    return _Model(names, response, acceptance, efficiency, at, first, frozenset(start or {}), constraints, ranges)


def _ends(limits: Limits) -> tuple[float, float]:
    low, high = limits
    return -math.inf if low is None else low, math.inf if high is None else high


def _check_efficiency(response: Response, acceptance: Response | None, efficiency: Efficiency | None) -> None:
    given = {"response": response, "acceptance": acceptance}
    learned = [what for what, each in given.items() if isinstance(each, ParametrisedRatio)]
    if acceptance is not None and learned and efficiency is None:
        raise ValueError(f"acceptance: expected efficiency= beside it, as a learned {learned[-1]} carries no rate and "
                         f"the yield would be wrong, found none; give the fraction reconstructed at theta over that at "
                         f"nominal, efficiency=lambda theta: 1.0 where theta does not change it")  # fmt: skip
    if efficiency is not None and (acceptance is None or not learned):
        raise ValueError("efficiency: expected acceptance=, and a learned ratio as it or as the response, found "
                         f"{'no acceptance' if acceptance is None else 'functions, which are ratios of rates'}; leave "
                         "it out")  # fmt: skip


def _check_misses(acceptance: Response | None, misses: str) -> None:
    if acceptance is not None and misses == "prior":
        raise ValueError("acceptance: expected misses='conditional' beside it, found 'prior', whose misses would have "
                         "to follow theta too")  # fmt: skip


def _vector(what: str, values: Mapping[str, float], names: tuple[str, ...]) -> Floats:
    """The values (P,) of all names and no others."""
    for name in names:
        if name not in values:
            raise missing(f"nuisance in {what}", name, values)
    _known(what, values, names)
    found = np.array([values[name] for name in names], np.float64)
    if found.shape != (len(names),) or not np.isfinite(found).all():
        raise ValueError(f"{what}: expected a finite number for each nuisance, found {dict(values)}")
    return found


def _known(what: str, given: Mapping[str, Any], names: Sequence[str]) -> None:
    for name in given:
        if name not in names:
            raise missing(f"nuisance of {what}", name, names)


def _constraints(nuisances: Mapping[str, Constraint | None]) -> tuple[Constraint, ...]:
    """Each constraint once; every one of its parameters has to name it."""
    found: list[Constraint] = []
    for name, constraint in nuisances.items():
        if constraint is None:
            continue
        if not isinstance(constraint, Constraint):
            raise TypeError(f"nuisances: expected a constraint of nuisance {name!r}, such as Normal({name!r}, 0, 1), "
                            f"or None, found {type(constraint).__name__}")  # fmt: skip
        shared = {name, *constraint.names}
        wrong = [n for n in sorted(shared) if n not in constraint.names or nuisances.get(n) is not constraint]
        if wrong:
            raise ValueError(f"nuisances: expected the constraint of {', '.join(constraint.names)} at these names and "
                             f"no others, found it at {name!r}, not at {wrong[0]!r}")  # fmt: skip
        if not any(constraint is other for other in found):
            found.append(constraint)
    return tuple(found)


def _limits(
    names: tuple[str, ...], limits: Mapping[str, Limits] | None, given: Mapping[str, Response | None]
) -> tuple[Limits, ...]:
    """(lower, upper) of each nuisance, those of the ratios' training included."""
    _known("limits", limits or {}, names)
    ratios = {what: ratio for what, ratio in given.items() if isinstance(ratio, ParametrisedRatio)}
    for what, ratio in ratios.items():
        _check_ratio(what, ratio, names)
    found: dict[str, Limits] = {name: (limits or {}).get(name, (None, None)) for name in names}
    if ratios:
        found = {name: _within(name, asked, ratios) for name, asked in found.items()}
    return tuple(found.values())


def _check_ratio(what: str, ratio: ParametrisedRatio, names: tuple[str, ...]) -> None:
    if set(ratio.names) != set(names):
        raise KeyError(f"{what}: expected a ratio of the nuisances {', '.join(names)}, found one of "
                       f"{', '.join(ratio.names)}")  # fmt: skip
    if ratio.calibration is not None:
        raise TypeError(f"{what}: expected a ratio without calibration, which has no gradient, found "
                        f"{ratio.calibration!r}; fit with calibrate=None")  # fmt: skip


def _within(name: str, asked: Limits, ratios: Mapping[str, ParametrisedRatio]) -> Limits:
    """The limits asked for, which have to lie in what the ranges in training share; that where there are none."""
    ranges = [(own.low[at], own.high[at]) for own in (r.parameters for r in ratios.values())
              for at in (own.names.index(name),)]  # fmt: skip
    least, most, whose = float(max(r[0] for r in ranges)), float(min(r[1] for r in ranges)), " and ".join(ratios)
    if not least < most:
        raise ValueError(f"limits of {name!r}: expected ranges in training of {whose} that overlap, found "
                         f"{' and '.join(f'{a:.6g} to {b:.6g}' for a, b in ranges)}; learn both in one")  # fmt: skip
    low, high = (trained if end is None else float(end) for trained, end in zip((least, most), asked, strict=True))
    edge = 1e-9 * (most - least)
    if low < least - edge or high > most + edge:
        raise ValueError(f"limits of {name!r}: expected within the range in training of the {whose}, {least:.6g} to "
                         f"{most:.6g}, found {low:g} to {high:g}; learn in a wider range")  # fmt: skip
    return low, high
