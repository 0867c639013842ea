"""The models of the data: from learned ratios, and, for comparison, from the exact ones, and the exact likelihood."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

import nuinfer as nu
from analyses.interference.simulation import COEFFICIENTS, FRACTIONS, NORMS, SAMPLES, SHAPES, Simulation
from nuinfer.likelihood import DifferentiableCost, Mixture, Normal, Process
from nuinfer.simulators import Interference
from nuinfer.simulators.interference import Sample

Floats = NDArray[np.float64]
LogRatio = nu.Ratio | Callable[[nu.Events], Floats]


class Target(NamedTuple):
    """A ratio to be learned: a sample against the reference, or its variation against itself."""

    sample: Sample
    nuisance: str = ""
    value: float = 0.0

    @property
    def name(self) -> str:
        return f"{self.sample}-{self.nuisance}-{'up' if self.value > 0 else 'down'}" if self.nuisance else self.sample


@dataclass(frozen=True)
class Learning:
    """How the ratios are learned: two folds, so that no event is scored by a network that saw it."""

    members: int = 2
    fast: bool = False
    seed: int = 1

    def settings(self, target: Target) -> tuple[nu.MLP, nu.Training]:
        """Network and training: variations are small and smooth, and need less of both."""
        if self.fast:
            return nu.MLP(width=24, depth=2), nu.Training(epochs=4 if target.nuisance else 16, batch=256)
        if target.nuisance:
            return nu.MLP(width=32, depth=2), nu.Training(epochs=8, batch=1024)
        return nu.MLP(width=64, depth=3), nu.Training(epochs=20, batch=1024)

    def fit(self, simulation: Simulation, target: Target) -> nu.Ratio:
        """The ratio of one target."""
        columns = simulation.problem.columns
        start = simulation.sample(target.sample)
        moved = simulation.sample(target.sample, **{target.nuisance: target.value}) if target.nuisance else None
        numerator, denominator = (start, simulation.reference) if moved is None else (moved, start)
        network, training = self.settings(target)
        return nu.fit_ratio(
            numerator.keep(columns), denominator.keep(columns), columns, network=network, training=training,
            members=self.members, folds=2, validation=0.0, seed=self.seed, progress=False,
        )  # fmt: skip


def targets() -> list[Target]:
    """The three ratios to the reference, which take longest, and all variations at -1 and +1 sigma."""
    varied = [Target(s, nuisance, value) for s in SAMPLES for nuisance in SHAPES[s] for value in (-1.0, 1.0)]
    return [*map(Target, SAMPLES), *varied]


def learn(simulation: Simulation, learning: Learning, folder: Path) -> dict[Target, nu.Ratio]:
    """Every ratio, fitted on the cores of this machine and left in ``folder``."""
    folder.mkdir(parents=True, exist_ok=True)
    path = {target: folder / f"{target.name}.safetensors" for target in targets()}

    def task(target: Target, rng: np.random.Generator) -> np.float64:
        learning.fit(simulation, target).save(path[target])
        return np.float64(1)

    executor = None if learning.fast else nu.processes()
    nu.tasks.run(task, list(path), seed=learning.seed, executor=executor, chunk=1, name="ratios")
    return {target: nu.Ratio.load(file) for target, file in path.items()}


def exact_ratios(problem: Interference) -> dict[Target, LogRatio]:
    """The answers that `learn` is after."""

    def log_ratio(target: Target, events: nu.Events) -> Floats:
        own = problem.log_density(target.sample, events)
        if target.nuisance:
            return problem.log_density(target.sample, events, **{target.nuisance: target.value}) - own
        return own - np.logaddexp.reduce([np.log(FRACTIONS[n]) + problem.log_density(n, events) for n in SAMPLES])

    return {target: lambda events, target=target: log_ratio(target, events) for target in targets()}


def mixture(simulation: Simulation, ratios: Mapping[Target, LogRatio], reference: nu.Events) -> Mixture:
    """The model of the data."""
    processes = {
        name: Process(
            yields=simulation.problem.yields(name),
            ratio=ratios[Target(name)],
            coefficient=COEFFICIENTS[name],
            norms={nuisance: simulation.norm(name, nuisance) for nuisance in NORMS[name]},
            shapes={
                nuisance: (ratios[Target(name, nuisance, -1.0)], ratios[Target(name, nuisance, 1.0)])
                for nuisance in SHAPES[name]
            },
        )
        for name in SAMPLES
    }
    return Mixture(processes, reference, limits={"mu": (0, None)})


def constraint(problem: Interference, observed: Floats | float = 0.0) -> Normal:
    """The auxiliary measurements of the six nuisances: standard normal, independent."""
    return Normal(problem.nuisances, observed, covariance=np.eye(len(problem.nuisances)))


class Exact(DifferentiableCost):
    """-2 log L of the true model: 2 expected - 2 sum_i w_i log rate(x_i)."""

    def __init__(self, problem: Interference, data: nu.Events) -> None:
        super().__init__({name: (0, None) if name == "mu" else None for name in problem.names})
        self.problem, self.weight = problem, torch.tensor(data.weight)
        self.x = torch.from_numpy(np.stack([data[name] for name in problem.columns], axis=1))

    def tensor(self, theta: Tensor) -> Tensor:
        expected, log_rate = self.problem.rate_tensor(self.x, theta)
        return 2 * expected - 2 * (self.weight @ log_rate)

    def _ndata(self) -> float:
        return float("inf")
