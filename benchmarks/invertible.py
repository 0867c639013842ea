"""How well do invertible networks find the many ways of a robot's arm to one point, beside a conditional flow?

    python -m benchmarks.invertible [--simulations 10000] [--ends 20] [--draws 1000] [--seed 1] [--only NAME ...]

The problem is the inverse kinematics of Kruse, Ardizzone, Rother, Koethe, arXiv 2101.10763, with exact draws of its
posterior (`nuinfer.simulators.InverseKinematics`).  Every method is trained on the same simulations, with its default
settings unless its row says otherwise, and asked for as many draws at each of some ends that were simulated from the
prior.  As in that paper there are two figures of merit, means over the ends:

- the posterior mismatch, the squared maximum mean discrepancy between the draws and exact ones (unbiased; kernel of
  `nuinfer.invertible`, parameters in standard deviations of the prior), which is 0 for the exact posterior, and
- the re-simulation error, the mean of |f(theta) - x|^2 over the draws, which is 0 as well.

CPU seconds are ``time.process_time`` of training, and of all draws.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray

from benchmarks.machine import describe
from nuinfer import Events
from nuinfer.density import NSF, fit_density
from nuinfer.invertible import Discrepancy, Likelihood, fit_invertible
from nuinfer.invertible.losses import discrepancy
from nuinfer.simulators import InverseKinematics
from nuinfer.train import Training

Floats = NDArray[np.float64]
Sampler = Callable[[int, Events], Floats]  # draws (N, n, 4) for N ends

ARM = InverseKinematics()
PARAMETERS, ENDS = ["theta0", "theta1", "theta2", "theta3"], ["x0", "x1"]


class Row(NamedTuple):
    """Mismatch and re-simulation error, each with its standard error over the ends, and CPU seconds."""

    mismatch: tuple[float, float]
    resimulation: tuple[float, float]
    training: float
    drawing: float


def invertible(simulations: Events, seed: int, loss: Discrepancy | Likelihood, padding: int = 0) -> Sampler:
    """An invertible network's draws."""
    network = fit_invertible(
        simulations, PARAMETERS, ENDS, loss=loss, padding=padding, seed=seed, progress=False
    )  # fmt: skip
    return lambda n, ends: network.draws(n, ends, seed=seed)


def conditional(simulations: Events, seed: int, network: NSF, training: Training) -> Sampler:
    """A conditional flow's draws."""
    q = fit_density(simulations, PARAMETERS, condition=ENDS, network=network, training=training, seed=seed,
                    progress=False)  # fmt: skip

    def draws(n: int, ends: Events) -> Floats:
        found = q.sample(n * len(ends), ends.select(np.repeat(np.arange(len(ends)), n)), seed=seed)
        return np.stack([found[name] for name in PARAMETERS], 1).reshape(len(ends), n, 4)

    return draws


def exact(seed: int) -> Sampler:
    """The posterior's own draws."""
    return lambda n, ends: np.stack([ARM.sample_posterior(ends.select([i]), n, seed) for i in range(len(ends))])


def prior(seed: int) -> Sampler:
    """What is known without an observation."""
    return lambda n, ends: np.stack([ARM.prior.sample(n, seed + i) for i in range(len(ends))])


METHODS: dict[str, Callable[[Events, int], Sampler]] = {
    "exact": lambda _, seed: exact(seed),
    "prior": lambda _, seed: prior(seed),
    "fit_density": lambda events, seed: conditional(events, seed, NSF(), Training(batch=256)),
    "fit_density, 60 epochs": lambda events, seed: conditional(events, seed, NSF(), Training(batch=256, epochs=60)),
    "Discrepancy": lambda events, seed: invertible(events, seed, Discrepancy()),
    "Discrepancy, padding=4": lambda events, seed: invertible(events, seed, Discrepancy(), 4),
    "Likelihood": lambda events, seed: invertible(events, seed, Likelihood()),
    "Likelihood, padding=4": lambda events, seed: invertible(events, seed, Likelihood(), 4),
}


def mismatch(draws: Floats, reference: Floats) -> float:
    """Squared discrepancy between two samples (n, 4)."""
    a, b = (torch.from_numpy(part / ARM.spreads)[None] for part in (draws, reference))
    scales = Discrepancy().scales
    return float(discrepancy(a, b, torch.ones(a.shape[:2]), scales).mean())


def measured(make: Callable[[Events, int], Sampler], simulations: Events, ends: Events, n: int, seed: int,
             reference: Floats) -> Row:  # fmt: skip
    """One row."""
    start = time.process_time()
    sampler = make(simulations, seed)
    trained = time.process_time()
    draws = sampler(n, ends)
    drawn = time.process_time()
    x = np.stack([ends["x0"], ends["x1"]], 1)
    off = np.square(ARM.predict(draws) - x[:, None]).sum(-1).mean(1)
    apart = np.array([mismatch(a, b) for a, b in zip(draws, reference, strict=True)])
    pairs = [(float(v.mean()), float(v.std() / np.sqrt(len(v)))) for v in (apart, off)]
    return Row(pairs[0], pairs[1], trained - start, drawn - trained)


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--simulations", type=int, default=10_000)
    parser.add_argument("--ends", type=int, default=20)
    parser.add_argument("--draws", type=int, default=1000, help="at each end")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--only", nargs="+", default=list(METHODS), choices=list(METHODS), metavar="NAME")
    asked = parser.parse_args()
    simulations, ends = ARM.simulate(asked.simulations, asked.seed), ARM.simulate(asked.ends, asked.seed + 1000)
    reference = exact(asked.seed + 2000)(asked.draws, ends)
    print(f"{describe()}\n{asked.simulations:,} simulations, {asked.draws:,} draws at each of {asked.ends} ends\n")
    print("| method | posterior mismatch | re-simulation error | CPU s, training | drawing |\n|---|---|---|---|---|")
    for name in asked.only:
        row = measured(METHODS[name], simulations, ends, asked.draws, asked.seed, reference)
        cells = [f"{value:.4f} ± {error:.4f}" for value, error in (row.mismatch, row.resimulation)]
        print(f"| {name} | {' | '.join(cells)} | {row.training:.0f} | {row.drawing:.1f} |", flush=True)


if __name__ == "__main__":
    main()
