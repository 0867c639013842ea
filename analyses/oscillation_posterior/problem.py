"""The experiment: its prior, its simulations, the observation, and simulations of models that are wrong.

`nuinfer.simulators.Disappearance` has the formulas.  Here are the choices: the truth of the observation, what the
network is shown, three ways in which nature may differ from the simulation, and how replicas are made.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from torch.distributions import Normal

import nuinfer as nu
from nuinfer.events import Ragged
from nuinfer.posterior import Prior, Simulations, simulate
from nuinfer.simulators import Disappearance

Floats = NDArray[np.float64]

PROBLEM = Disappearance()
PARAMETERS = tuple(PROBLEM.box)
PRIOR = Prior.of(PROBLEM.box)  # of the two parameters; the nuisances are drawn with them, and forgotten
WITH_NUISANCES = Prior.of({**PROBLEM.box, **{name: Normal(0.0, 1.0) for name in PROBLEM.names[2:]}})
FEATURES = nu.Features(["near", "calibration"], far=["log_energy", "pid"])
LABELS = {"sin2_theta23": r"$\sin^2\theta_{23}$", "dm2_32": r"$\Delta m^2_{32}$ ($10^{-3}$ eV$^2$)"}
TRUTH = {"sin2_theta23": 0.42, "dm2_32": 2.45, "normalisation": 0.5, "scale": -0.5, "background": 0.5}
EDGES = np.array(
    [0.1, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 1.0, 1.2, 1.5, 2.0, 3.0]
)  # GeV, of the spectrum that is shown


def seen(events: nu.Events) -> nu.Events:
    """Experiments with the logarithm of the energy, which is what the network is shown."""
    energy = events.ragged("far.energy")
    return events.with_columns({"far.log_energy": Ragged(np.log(energy.values), energy.offsets)})


def simulations(n: int, *, seed: int, cache: Path | None = None) -> Simulations:
    """``n`` experiments at draws of the parameters and the nuisances."""
    return simulate(PROBLEM.simulate, WITH_NUISANCES, n, seed=seed, cache=cache, progress=False)


def observation(seed: int) -> nu.Events:
    """The observation, at TRUTH."""
    return seen(PROBLEM.simulate([list(TRUTH.values())], np.random.default_rng([seed, 21])))


# -- wrong models ------------------------------------------------------------------------------------------------------


def _background(theta: Floats, rng: np.random.Generator) -> nu.Events:
    """Four times the background: 4.6 standard deviations of its prior."""
    return Disappearance(background_events=4 * PROBLEM.background_events).simulate(theta, rng)


def _pid(theta: Floats, rng: np.random.Generator) -> nu.Events:
    """A pid that has drifted by -0.7 since it was calibrated."""
    events = PROBLEM.simulate(theta, rng)
    pid = events.ragged("far.pid")
    return events.with_columns({"far.pid": Ragged(pid.values - 0.7, pid.offsets)})


def _energy(theta: Floats, rng: np.random.Generator) -> nu.Events:
    """A far detector whose energies are 10% too high, which its calibration does not show."""
    events = PROBLEM.simulate(theta, rng)
    energy = events.ragged("far.energy")
    return events.with_columns({"far.energy": Ragged(1.10 * energy.values, energy.offsets)})


WRONG: dict[str, Callable[[Floats, np.random.Generator], nu.Events]] = {
    "background x 4": _background, "pid - 0.7": _pid, "energy + 10%": _energy,
}  # fmt: skip


def observations_of(model: str | None, n: int, seed: int) -> nu.Events:
    """``n`` experiments at TRUTH of a wrong model, or, for None, of the right one."""
    simulator = PROBLEM.simulate if model is None else WRONG[model]
    number = 0 if model is None else 1 + list(WRONG).index(model)
    return seen(simulator(np.tile(list(TRUTH.values()), (n, 1)), np.random.default_rng([seed, 22, number])))


# -- replicas ----------------------------------------------------------------------------------------------------------

_CANDIDATES = 32


def replicas_of(data: nu.Events) -> Callable[[Floats, np.random.Generator], nu.Events]:
    """A simulator of replicas at theta (B, 2), with nuisances from their exact posterior given theta and the data.

    For each theta 32 candidates are drawn from the prior of the background and from what near detector and calibration
    leave of the other two, and one of them by its weight, prior and likelihood over density: sampling, importance,
    resampling (Rubin, Bayesian Statistics 3 (1988) 395).
    """

    def simulator(theta: Floats, rng: np.random.Generator) -> nu.Events:
        nuisances = _nuisances(data, theta, rng)
        return seen(PROBLEM.simulate(np.concatenate([theta, nuisances], 1), rng))

    return simulator


def _nuisances(data: nu.Events, theta: Floats, rng: np.random.Generator) -> Floats:
    """One draw (B, 3) for each theta (B, 2)."""
    near = np.log(data["near"][0] / PROBLEM.near) / 0.10
    centre, width = np.array([0.9 * near, 0.8 * data["calibration"][0], 0.0]), np.array([0.35, 0.45, 1.0])
    z = rng.standard_normal((len(theta), _CANDIDATES, 3))
    found = centre + width * z
    both = np.concatenate([np.broadcast_to(theta[:, None], (len(theta), _CANDIDATES, 2)), found], 2)
    logs = np.stack([PROBLEM.log_likelihood(data, part) for part in both])
    logs += 0.5 * (z**2 - found**2).sum(2)
    chosen = np.argmax(logs + rng.gumbel(size=logs.shape), 1)  # one in proportion to its weight
    return np.asarray(found[np.arange(len(theta)), chosen])
