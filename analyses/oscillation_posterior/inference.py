"""The posterior from simulations, everything that tells whether it is right, and the exact one beside it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
from numpy.typing import ArrayLike, NDArray

import nuinfer as nu
from analyses.oscillation_posterior.problem import (
    FEATURES,
    PRIOR,
    PROBLEM,
    TRUTH,
    WRONG,
    observations_of,
    replicas_of,
    seen,
)
from nuinfer import diagnostics
from nuinfer.density import NSF
from nuinfer.posterior import NeuralPosterior, Posterior, Simulations, fit_posterior
from nuinfer.simulators import GridPosterior

Floats = NDArray[np.float64]
Statistic = Callable[[nu.Events], Floats]


@dataclass(frozen=True)
class Size:
    """How much is done."""

    simulations: int = 50_000
    test: int = 5000
    epochs: int = 16
    batch: int = 128
    members: int = 5
    compared: int = 8  # observations whose exact posterior is worked out
    points: int = 61  # of its grid, a side
    draws: int = 4000  # of a sample for a C2ST
    local: int = 3000  # simulations of the local test
    permutations: int = 100  # of it
    wrong: int = 200  # experiments of each wrong model

    @classmethod
    def fast(cls, *, simulations: int = 2000, members: int = 2) -> Size:
        """A small run, for tests."""
        return cls(simulations=simulations, test=300, epochs=16, batch=64, members=members, compared=1, points=25,
                   draws=400, local=200, permutations=30, wrong=20)  # fmt: skip


def fit(
    simulated: Simulations, size: Size, *, seed: int, checkpoint: Path | None = None, progress: bool = True
) -> NeuralPosterior:
    """q(theta | near, calibration, far events): each event goes through one small network, whose outputs are averaged;
    their mean, the number of events and the flat columns give sixteen summaries, and these the flow.  Half of the
    width, 16 outputs an event and eight summaries lose 0.05 nats more.
    """
    embedding = nu.DeepSet(width=64, latent=48, pool="mean", head=nu.MLP(width=64, depth=2))
    return fit_posterior(
        seen(simulated.events), PRIOR, FEATURES, network=NSF(width=32), embedding=embedding, summaries=16,
        members=size.members, training=nu.Training(epochs=size.epochs, batch=size.batch, learning_rate=5e-3), seed=seed,
        checkpoint=checkpoint, progress=progress,
    )  # fmt: skip


# -- against the exact posterior ---------------------------------------------------------------------------------------


@dataclass(frozen=True, eq=False)
class Comparison:
    """The posterior beside the exact one at one observation.

    ``shift`` (P,) of the means in exact standard deviations, ``ratio`` (P,) of the standard deviations, the C2ST of
    draws with what it fluctuates by, and the Kullback-Leibler divergence from exact to found, in nats.
    """

    exact: GridPosterior
    mean: Floats
    standard_deviation: Floats
    c2st: float
    c2st_error: float
    divergence: float

    @property
    def shift(self) -> Floats:
        return np.asarray((self.mean - self.exact.mean) / self.exact.standard_deviation)

    @property
    def ratio(self) -> Floats:
        return np.asarray(self.standard_deviation / self.exact.standard_deviation)


def compared(posterior: Posterior, observation: nu.Events, size: Size, *, seed: int) -> Comparison:
    """The comparison at one observation; means and widths from 20,000 draws."""
    exact = PROBLEM.posterior(observation, points=size.points)
    own = posterior.draws(20_000, observation, seed=seed)[0]
    true = exact.sample(size.draws, seed=seed)
    score = diagnostics.c2st(true, own[: size.draws])
    divergence = float(np.mean(exact.log_prob(true) - posterior.log_prob(true, observation)))
    return Comparison(exact, own.mean(0), own.std(0), score.value, score.null_sd, divergence)


def lost(posterior: Posterior, test: nu.Events, number: int, points: int) -> tuple[float, float]:
    """The mean of log p_exact - log q at the truth of ``number`` simulations, with its error: nats lost."""
    some = test.select(slice(0, number))
    theta = np.stack([some[name] for name in posterior.names], 1)
    own = posterior.log_probs(theta[:, None], some)[:, 0]
    exact = [PROBLEM.posterior(some.select([i]), points=points).log_prob(theta[i])[0] for i in range(number)]
    difference = np.array(exact) - own
    return float(difference.mean()), float(difference.std(ddof=1) / np.sqrt(number))


# -- is it right? ------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, eq=False)
class Checks:
    """Of the posterior over all simulations, and at the observation."""

    sbc: diagnostics.SBC
    coverage: diagnostics.Coverage
    tarp: diagnostics.TARP
    tarp_of_prior: diagnostics.TARP
    local: diagnostics.LC2ST
    importance: diagnostics.Importance
    predictive: diagnostics.Predictive
    replicas: nu.Events


def number_between(low: float, high: float) -> Statistic:
    """The number of far events of these energies, in GeV."""

    def counted(events: nu.Events) -> Floats:
        energy = events.ragged("far.energy")
        inside = (energy.values >= low) & (energy.values < high)
        owner = np.repeat(np.arange(energy.rows), energy.counts)
        return np.bincount(owner[inside], minlength=energy.rows).astype(np.float64)

    return counted


def mean_pid(events: nu.Events) -> Floats:
    """Of the far events."""
    pid = events.ragged("far.pid")
    owner = np.repeat(np.arange(pid.rows), pid.counts)
    return np.bincount(owner, pid.values, minlength=pid.rows) / np.maximum(pid.counts, 1)


STATISTICS: dict[str, Statistic] = {
    "near events": lambda events: events["near"],
    "calibration": lambda events: events["calibration"],
    "far, below 0.5 GeV": number_between(0.0, 0.5),
    "far, 0.5 to 0.8 GeV": number_between(0.5, 0.8),
    "far, above 0.8 GeV": number_between(0.8, np.inf),
    "mean pid": mean_pid,
}


class PriorAsPosterior(Posterior):
    """What an inference that learned nothing would say: the prior, whatever was observed."""

    prior = PRIOR

    def draws(self, n: int, observations: nu.Events, *, seed: int = 0) -> Floats:
        """From the prior (N, n, 2)."""
        return PRIOR.sample(n * len(observations), seed=seed).reshape(len(observations), n, -1)

    def log_probs(self, theta: ArrayLike, observations: nu.Events) -> Floats:
        """Of the prior (N, M)."""
        return PRIOR.log_prob(theta)


def checked(
    posterior: NeuralPosterior, test: nu.Events, observation: nu.Events, exact: GridPosterior, size: Size, *, seed: int
) -> Checks:
    """All tests; of the posterior on simulations it has not seen, and at the observation."""
    some = with_summaries(posterior, test.select(slice(0, size.local)))
    local = diagnostics.lc2st(posterior, some, with_summaries(posterior, observation),
                              features=nu.Features([n for n in some.columns if n.startswith("summary")]),
                              permutations=size.permutations, seed=seed)  # fmt: skip
    replicas: list[nu.Events] = []

    def simulator(theta: Floats, rng: np.random.Generator) -> nu.Events:
        replicas.append(replicas_of(observation)(theta, rng))
        return replicas[0]

    predictive = diagnostics.predictive(posterior, observation, simulator, statistics=STATISTICS, draws=500, seed=seed)
    return Checks(
        diagnostics.sbc(posterior, test, seed=seed),
        diagnostics.coverage(posterior, test, draws=99, seed=seed),
        diagnostics.tarp(posterior, test, seed=seed),
        diagnostics.tarp(PriorAsPosterior(), test, seed=seed),
        local,
        diagnostics.importance(posterior, observation, exact.log_likelihood_at, draws=5000, seed=seed),
        predictive,
        replicas[0],
    )


def with_summaries(posterior: NeuralPosterior, events: nu.Events) -> nu.Events:
    """Events with what the network makes of the observation as flat columns, for a test that cannot afford clouds."""
    values = posterior.summaries(events)
    return events.with_columns({f"summary{i}": np.ascontiguousarray(v) for i, v in enumerate(values.T)})


# -- is the observation like the simulations? --------------------------------------------------------------------------


@dataclass(frozen=True)
class Outliers:
    """Experiments of one model: the share below p = 0.01, in the space of the summaries alone and of summaries and
    statistics, with its error, and what the posterior says of dm2: the mean shift of its mean from the truth in its own
    standard deviations.
    """

    by_summaries: float
    flagged: float
    flagged_error: float
    shift: float


def described(posterior: NeuralPosterior, events: nu.Events) -> Floats:
    """Summaries and statistics (N, S): the summaries keep what matters for the parameters, and little else."""
    statistics = [np.asarray(function(events), np.float64) for function in STATISTICS.values()]
    return np.concatenate([posterior.summaries(events), np.stack(statistics, 1)], 1)


def outliers(posterior: NeuralPosterior, test: nu.Events, size: Size, *, seed: int) -> dict[str, Outliers]:
    """Of the right model and of the wrong ones."""
    return {model or "as simulated": _outliers(posterior, test, model, size, seed) for model in (None, *WRONG)}


def _outliers(posterior: NeuralPosterior, test: nu.Events, model: str | None, size: Size, seed: int) -> Outliers:
    observed = observations_of(model, size.wrong, seed)
    spaces = [[space(events) for events in (test, observed)]
              for space in (posterior.summaries, partial(described, posterior))]  # fmt: skip
    found = [diagnostics.out_of_distribution(*pair, seed=seed).p_value < 0.01 for pair in spaces]
    draws = posterior.draws(200, observed, seed=seed)[..., 1]
    shift = (draws.mean(1) - TRUTH["dm2_32"]) / draws.std(1)
    few = (found[1].sum() + 1) / (size.wrong + 2)  # an error even where none or all are flagged
    error = float(np.sqrt(few * (1 - few) / size.wrong))
    return Outliers(float(found[0].mean()), float(found[1].mean()), error, float(shift.mean()))
