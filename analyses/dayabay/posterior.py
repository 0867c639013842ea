r"""The posterior of the two parameters from simulated experiments, and a learned likelihood with profiled nuisances.

**Experiments.**  theta = (sin^2 2 theta_13, Delta m^2_32) comes from a box, the 19 values s of the spectrum from normal
distributions about the best fit, and either

- "model": all 1,057 constrained parameters come from their constraints, the model predicts with them, and the counts
  are Poisson's; the likelihood that belongs to it is the pull form with Poisson's statistic, or
- "covariance": the counts are normal with the fixed covariance of the official analysis, :math:`V_{syst} + D` at the
  initial parameters; the likelihood that belongs to it is the covariance form.

**Summaries.**  546 counts n become what a fit of theta and s would give, the solution of the estimating equations

.. math:: A^T W (n - m(\hat\theta, \hat\delta)) = 0, \qquad
          m(\theta, \delta) = \mu(\theta, s_0) + \frac{\partial \mu}{\partial s}(\theta, s_0)\, \delta, \qquad
          W = (V_{syst} + D)^{-1}

with :math:`A = \partial m / \partial (\theta, \delta)` and W fixed at the best fit :math:`(\theta_0, s_0)`, found by
steps :math:`x \leftarrow x + (A^T W A)^{-1} A^T W (n - m(x))`.  m is linear in the corrections of the spectrum, whose
counts in the last bins can be below the expected background, and a Chebyshev interpolation in theta; at the best fit of
the data :math:`\hat\theta` is that fit.  :math:`\hat\theta` estimates theta whatever s is, so that the widths of the
distribution of s, which is free in all fits, hardly matter for :math:`p(\theta \mid \hat\theta)`; where the counts are
normal and the model is linear, :math:`\hat\theta` holds all that they say of theta under a flat prior of s.

**Nuisances of the ratio.**  In units of their constraints the systematics z are unit normals.  To first order they move
:math:`\hat\theta` along two directions U only (`Compression.directions`), which span the rows of
:math:`(A^T W A)^{-1}_\theta A^T W J`.  The components of z along them are two parameters u beside theta, the rest of z
is marginalised by the simulation.  The learned ratio p(x | theta, u) / p(x) with the unit normals of u is minimised
over u like any likelihood.  What the counts say of u is the third and fourth summary,
:math:`\hat u = U^T J^T W (n - m(\hat\theta, \hat\delta))`.

Sources: Daya Bay Collaboration, arXiv 2211.14988; Alsing, Wandelt, arXiv 1712.00012 (scores as summaries), 1903.01473
(summaries that nuisances do not move); Papamakarios, Murray, arXiv 1605.06376; Cranmer, Pavez, Louppe, 1506.02169.
"""

from __future__ import annotations

from collections.abc import Mapping
from concurrent.futures import Executor
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import torch
from contourpy import contour_generator
from numpy.typing import NDArray
from scipy import linalg
from torch import Tensor

from nuinfer import MLP, Events, Training, diagnostics
from nuinfer.density import NSF
from nuinfer.likelihood import Binned, Normal, ParametrisedCost
from nuinfer.posterior import CredibleRegion, NeuralPosterior, fit_posterior, simulate
from nuinfer.ratio import ParametrisedRatio, fit_parametrised_ratio

from . import covariance, figures, fits
from .model import Model

Floats = NDArray[np.float64]
Fluctuations = Literal["model", "covariance"]

AMPLITUDE, SPLITTING = fits.INTEREST
BOX = {AMPLITUDE: (0.070, 0.101), SPLITTING: (2.1e-3, 2.84e-3)}  # some six standard deviations to either side
FITTED = tuple(f"fitted.{name}" for name in fits.INTEREST)
IMPLIED, SYSTEMATIC = ("implied.0", "implied.1"), ("systematic.0", "systematic.1")
SUMMARIES = (*FITTED, *IMPLIED)
SPAN = {AMPLITUDE: (0.045, 0.125), SPLITTING: (1.5e-3, 3.4e-3)}  # of the interpolation: fits scatter beyond the box
DEGREES = (2, 9)  # of its polynomials in both
SHIFT = 0.01  # for the derivatives in the spectrum
STEPS = 50  # at most
CLOSE = 1e-3  # standard deviations: the last step in theta
STRANGE = "are they like those of the experiment?"


# -- summaries ---------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, eq=False)
class Surface:
    """m(theta, delta): counts (B, 546) that are polynomials in theta and linear in the spectrum's corrections.

    Attributes
    ----------
    values:
        At the points of a product of Chebyshev's points, (points * 20, 546): mu(theta, s_0) and its derivatives in s.
    """

    values: Floats

    @classmethod
    def of(cls, model: Model, spectrum: Floats) -> Surface:
        """About ``spectrum`` (19,)."""
        theta = np.stack(np.meshgrid(*map(_nodes, SPAN.values(), DEGREES), indexing="ij"), -1).reshape(-1, 2)
        shifts = SHIFT * np.concatenate([np.zeros((1, 19)), np.eye(19), -np.eye(19)])
        each = [np.broadcast_to(a, (len(theta), 39, a.shape[-1])) for a in (theta[:, None], spectrum + shifts)]
        counts = predicted(model, np.concatenate(each, -1).reshape(-1, 21)).reshape(len(theta), 39, 546)
        slopes = (counts[:, 1:20] - counts[:, 20:]) / (2 * SHIFT)
        return cls(np.concatenate([counts[:, :1], slopes], 1).reshape(-1, 546))

    def __call__(self, theta: Floats, delta: Floats) -> Floats:
        """At theta (B, 2) and delta (B, 19)."""
        parts = [_cardinal(t, SPAN[name], degree)
                 for t, name, degree in zip(theta.T, fits.INTEREST, DEGREES, strict=True)]  # fmt: skip
        linear = np.concatenate([np.ones((len(delta), 1)), delta], 1)
        weight = np.einsum("bi,bj,bk->bijk", *parts, linear)
        return np.asarray(weight.reshape(len(theta), -1) @ self.values)


def _nodes(span: tuple[float, float], degree: int) -> Floats:
    low, high = span
    return (low + high) / 2 + (high - low) / 2 * np.cos(np.pi * (np.arange(degree + 1) + 0.5) / (degree + 1))


def _cardinal(x: Floats, span: tuple[float, float], degree: int) -> Floats:
    """The polynomials (B, degree + 1) that are 1 at one node and 0 at the others."""
    nodes = _nodes(span, degree)
    table = np.polynomial.chebyshev.chebvander((2 * nodes - sum(span)) / (span[1] - span[0]), degree)
    here = np.polynomial.chebyshev.chebvander((2 * x - sum(span)) / (span[1] - span[0]), degree)
    return np.asarray(linalg.solve(table.T, here.T).T)


def predicted(model: Model, values: Floats, names: tuple[str, ...] | None = None) -> Floats:
    """Expected counts (B, 546) at values (B, T) of named parameters, theta and s where left out."""
    with torch.no_grad():
        return np.asarray(model.predict(torch.from_numpy(values), names or fits.free_names(model)).numpy())


@dataclass(frozen=True, eq=False)
class Compression:
    """546 counts -> theta as a fit would give it, and what the residuals imply of two directions of the systematics.

    Attributes
    ----------
    surface, point:
        m, and the best fit theta_0 (2,).
    gain:
        (21, 546), :math:`(A^T W A)^{-1} A^T W`.
    error:
        (21,), standard deviations, of :math:`(A^T W A)^{-1}`.
    directions:
        U (1057, 2), orthonormal, in units of the constraints: the first moves both parameters, the second
        Delta m^2_32 alone.
    moved:
        (2, 2), what theta moves by for a unit of each direction.
    implied:
        (2, 546), :math:`U^T J^T W`.
    """

    surface: Surface
    point: Floats
    gain: Floats
    error: Floats
    directions: Floats
    moved: Floats
    implied: Floats

    @classmethod
    def at(cls, model: Model, values: Mapping[str, float], variance: Floats) -> Compression:
        """With A and J at ``values`` of theta and s, and the ``variance`` (546, 546) of the counts."""
        point = np.array([values[name] for name in fits.free_names(model)])
        slopes = _slopes(model, point)
        weighted = linalg.solve(variance, slopes, assume_a="pos").T
        inverse = linalg.inv(weighted @ slopes)
        gain, nuisances = inverse @ weighted, whitened(model, values)
        directions = linalg.qr((gain[:2] @ nuisances).T, mode="economic")[0]
        directions = directions * np.sign(np.diag(gain[:2] @ nuisances @ directions))
        implied = linalg.solve(variance, nuisances @ directions, assume_a="pos").T
        return cls(Surface.of(model, point[2:]), point[:2], gain, np.sqrt(np.diag(inverse)), directions,
                   gain[:2] @ nuisances @ directions, implied)  # fmt: skip

    def fitted(self, counts: Floats) -> tuple[Floats, Floats]:
        """Theta and delta (B, 21) of counts (B, 546), and the residuals (B, 546).

        Raises
        ------
        ValueError
            where the steps leave the range of theta, or do not come to rest.
        """
        at = np.zeros((len(counts), len(self.gain)))
        at[:, :2] = self.point
        for _ in range(STEPS):
            residual = counts - self.surface(at[:, :2], at[:, 2:])
            step = residual @ self.gain.T
            if (np.abs(step / self.error)[:, :2] < CLOSE).all():
                return at, residual
            at = at + step
            _check_span(at)
        raise ValueError(f"fit: expected steps in theta below {CLOSE:g} standard deviations after {STEPS}, found "
                         f"{np.abs(step / self.error)[:, :2].max():.3g}; {STRANGE}")  # fmt: skip

    def __call__(self, counts: Floats) -> dict[str, Floats]:
        """The columns `SUMMARIES` of counts (B, 546)."""
        at, residual = self.fitted(counts)
        return dict(zip(SUMMARIES, (*at[:, :2].T.copy(), *(residual @ self.implied.T).T.copy()), strict=True))


def _check_span(at: Floats) -> None:
    for values, (name, (low, high)) in zip(at.T, SPAN.items(), strict=False):
        wrong = np.flatnonzero(~((low < values) & (values < high)))
        if len(wrong):
            raise ValueError(f"fit: expected {name} between {low:g} and {high:g}, found {values[wrong[0]]:.3g} for row "
                             f"{wrong[0]} of the counts; {STRANGE}")  # fmt: skip


def variance(cost: Binned) -> Floats:
    """V_syst + D (546, 546) of a covariance form whose statistical variance is frozen."""
    if cost.frozen_at is None:
        raise ValueError("cost: expected the covariance form with frozen=True, found one whose variance moves")
    counts, mean = cost.data.values, cost.expected(cost.frozen_at)
    return np.asarray(cost.covariance) + np.diag(3 / (1 / np.maximum(counts, 1.0) + 2 / mean))


def _slopes(model: Model, point: Floats) -> Floats:
    """A (546, 21) at a point (21,)."""
    function = model.function(fits.free_names(model))
    found: Tensor = torch.autograd.functional.jacobian(function, torch.from_numpy(point))
    return np.asarray(found.numpy())


def whitened(model: Model, values: Mapping[str, float]) -> Floats:
    """J (546, 1057): derivatives of the counts in the constrained parameters, in units of their constraints."""
    parts = [(covariance.sensitivities(model, group, values), group) for group in model.parameters.constrained]
    return np.concatenate([slopes @ linalg.cholesky(group.covariance, lower=True) for slopes, group in parts], 1)


# -- experiments -------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, eq=False)
class Experiment:
    """A simulator of theta (B, 2) for `nuinfer.posterior.simulate`: summaries, and the true u beside them.

    Attributes
    ----------
    compression:
        Of the counts.
    spectrum:
        Where the 19 values of the spectrum are drawn from: mean and standard deviation (2, 19).
    noise:
        (546, 546), the Cholesky factor of the covariance of "covariance"; None for "model".
    """

    model: Model
    compression: Compression
    spectrum: Floats
    noise: Floats | None = None

    @classmethod
    def at(cls, model: Model, values: Mapping[str, float], variance: Floats, fluctuations: Fluctuations,
           *, widths: float = 1.0) -> Experiment:  # fmt: skip
        """About the best fit ``values``; ``widths`` of s are in units of their errors there."""
        compression = Compression.at(model, values, variance)
        centre = [values[name] for name in fits.free_names(model)[2:]]
        spectrum = np.stack([np.array(centre), widths * compression.error[2:]])
        noise = linalg.cholesky(variance, lower=True) if fluctuations == "covariance" else None
        return cls(model, compression, spectrum, noise)

    def __call__(self, theta: Floats, rng: np.random.Generator) -> dict[str, Floats]:
        mean, width = self.spectrum
        free = np.concatenate([theta, mean + width * rng.standard_normal((len(theta), len(mean)))], 1)
        if self.noise is not None:
            noise = rng.standard_normal((len(theta), len(self.noise))) @ self.noise.T
            return self.compression(predicted(self.model, free) + noise)
        z = rng.standard_normal((len(theta), len(self.compression.directions)))
        counts = rng.poisson(self.expected(free, z)).astype(np.float64)
        true = dict(zip(SYSTEMATIC, (z @ self.compression.directions).T.copy(), strict=True))
        return {**self.compression(counts), **true}

    def expected(self, free: Floats, z: Floats) -> Floats:
        """Counts (B, 546) at theta and s (B, 21) and the constrained parameters, unit normals z (B, 1057)."""
        groups = self.model.parameters.constrained
        ends = np.cumsum([len(g.names) for g in groups])
        parts = [g.value + own @ linalg.cholesky(g.covariance, lower=True).T
                 for g, own in zip(groups, np.split(z, ends[:-1], axis=1), strict=True)]  # fmt: skip
        names = (*fits.free_names(self.model), *(name for g in groups for name in g.names))
        return predicted(self.model, np.concatenate([free, *parts], 1), names)

    def observation(self) -> Events:
        """The summaries of the data."""
        return Events(self.compression(self.model.observed.numpy()[None]))


# -- what is learned ---------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Settings:
    """How much is simulated, with how many experiments held out, and how the networks are trained."""

    simulations: int
    held_out: int
    members: int
    flow: NSF
    flow_training: Training
    network: MLP
    ratio_training: Training
    seed: int = 1


STANDARD = Settings(
    30_000, 2_000, 4, NSF(transforms=2, width=48), Training(epochs=30, batch=512, learning_rate=5e-3),
    MLP(width=64, depth=3), Training(epochs=40, batch=256),
)  # fmt: skip
FAST = Settings(
    4_000, 500, 1, NSF(transforms=1, width=32), Training(epochs=20, batch=128, learning_rate=1e-2),
    MLP(width=32, depth=2), Training(epochs=20, batch=128, learning_rate=1e-2),
)  # fmt: skip


@dataclass(frozen=True, eq=False)
class Learned:
    """An amortised posterior, the data's summaries, and simulations that it was not trained on.

    Attributes
    ----------
    training, held:
        Columns theta, `SUMMARIES` and, of the "model", `SYSTEMATIC`.
    region:
        Draws and regions of the posterior at the data.
    """

    posterior: NeuralPosterior
    training: Events
    held: Events
    observation: Events
    region: CredibleRegion


def learn(experiment: Experiment, settings: Settings, *, executor: Executor | None = None) -> Learned:
    """Simulate, train, and look at the data."""
    made = simulate(experiment, BOX, settings.simulations + settings.held_out, vectorised=250, seed=settings.seed,
                    executor=executor, progress=False)  # fmt: skip
    return learned_from(made.events, experiment.observation(), settings)


def learned_from(events: Events, observation: Events, settings: Settings) -> Learned:
    """The same from simulations."""
    training, held = events.select(slice(0, settings.simulations)), events.select(slice(settings.simulations, None))
    posterior = fit_posterior(training, BOX, list(SUMMARIES), network=settings.flow, members=settings.members,
                              training=settings.flow_training, seed=settings.seed, progress=False)  # fmt: skip
    region = posterior.credible_region(observation, figures.LEVELS[:2], draws=20_000, seed=settings.seed)
    return Learned(posterior, training, held, observation, region)


def learn_ratio(learned: Learned, settings: Settings) -> ParametrisedRatio:
    """log p(x | theta, u) / p(x) of the summaries x, from the simulations of the "model"."""
    return fit_parametrised_ratio(
        learned.training, [*fits.INTEREST, *SYSTEMATIC], list(SUMMARIES), reference="marginal",
        network=settings.network, members=settings.members, training=settings.ratio_training, seed=settings.seed,
        progress=False,
    )  # fmt: skip


def ratio_cost(ratio: ParametrisedRatio, observation: Events) -> Any:
    """-2 log of the ratio at the data, with the unit normals of u: in theta and u, which a fit profiles."""
    return ParametrisedCost(ratio, observation, limits=BOX) + Normal(SYSTEMATIC, covariance=np.eye(2))


def start(learned: Learned) -> dict[str, float]:
    """Where the fit of `ratio_cost` begins: at the posterior's mean."""
    return dict(zip((*fits.INTEREST, *SYSTEMATIC), (*learned.region.mean.tolist(), 0.0, 0.0), strict=True))


def answer(title: str, learned: Learned) -> figures.Answer:
    """Mean and standard deviation of the posterior at the data, with its regions of highest density."""
    region = learned.region
    middle, width = region.mean, 4.5 * region.standard_deviation
    x, y = (np.linspace(m - w, m + w, 101) for m, w in zip(middle, width, strict=True))
    theta = np.stack(np.meshgrid(x, y, indexing="ij"), -1).reshape(1, -1, 2)
    logs = learned.posterior.log_probs(theta, learned.observation).reshape(len(x), len(y))
    lines: Any = contour_generator(x, y, np.maximum(logs, region.thresholds.min() - 20).T)
    found = {level: lines.lines(at) for level, at in zip(region.levels, region.thresholds, strict=True)}
    value, error = region.mean.tolist(), region.standard_deviation.tolist()
    return figures.Answer(title, (value[0], value[1]), (error[0], error[1]), found)


@dataclass(frozen=True, eq=False)
class Diagnosis:
    """Of a posterior over held-out experiments, and of the data among them; see `nuinfer.diagnostics`.

    ``strange`` asks whether the summaries of the data are like those of the simulations.
    """

    ranks: diagnostics.SBC
    curve: diagnostics.TARP
    covered: diagnostics.Coverage
    strange: diagnostics.OutOfDistribution

    @property
    def numbers(self) -> dict[str, float]:
        """p-values, TARP's area, and the coverage of the 68.3% and 95.4% regions."""
        return {
            "sbc_p": self.ranks.p_value, "tarp_p": self.curve.p_value, "tarp_area": self.curve.area,
            "coverage_68": float(self.covered.observed[0]), "coverage_95": float(self.covered.observed[1]),
            "out_of_distribution_p": float(self.strange.p_value[0]),
        }  # fmt: skip

    def __str__(self) -> str:
        return "\n".join(map(str, (self.ranks, self.curve, self.covered, self.strange)))


def diagnosed(learned: Learned, *, seed: int = 0) -> Diagnosis:
    """Is the posterior right, and are the data like the simulations?"""
    # without the true u: TARP takes all columns beside theta as seen
    held = learned.held.keep((*fits.INTEREST, *SUMMARIES))
    seen, data = (np.stack([each[name] for name in SUMMARIES], 1) for each in (held, learned.observation))
    return Diagnosis(
        diagnostics.sbc(learned.posterior, held, seed=seed), diagnostics.tarp(learned.posterior, held, seed=seed),
        diagnostics.coverage(learned.posterior, held, levels=figures.LEVELS[:2], seed=seed),
        diagnostics.out_of_distribution(seen, data, seed=seed),
    )  # fmt: skip
