"""The tasks of the public package sbibm: simulations, observations and reference posteriors as one npz file a task.

Run in an environment of its own (`sbibm.txt`) by `python -m benchmarks.sbibm`, which says how that is made:

    python sbibm_tasks.py FOLDER SIMULATIONS SEED TASK...

The simulators of sir and lotka_volterra solve their equations in Julia, through a package that is not needed for the
rest; `scipy.integrate.solve_ivp` (LSODA, tolerances 1e-8) stands for it here.

Source: Lueckmann, Boelts, Greenberg, Goncalves, Macke, arXiv 2101.04653.
"""

from __future__ import annotations

import functools
import json
import sys
import types
import warnings
from pathlib import Path

import numpy as np
import torch
from scipy.integrate import solve_ivp


def _sir(total, t, u, p):
    infections = p[0] * u[0] * u[1] / total
    return [-infections, infections - p[1] * u[1], p[1] * u[1]]


def _lotka_volterra(t, u, p):
    return [p[0] * u[0] - p[1] * u[0] * u[1], p[3] * u[0] * u[1] - p[2] * u[1]]


class DiffEq:
    """What the tasks use of the class of this name: (initial state, time span, parameters) -> states, times."""

    def __init__(self, f, saveat, debug=0):
        self.right = functools.partial(_sir, 1e6) if "S,I,R" in f else _lotka_volterra
        self.saveat = saveat
        self.jl = types.SimpleNamespace(eval=lambda _: None)

    def __call__(self, u0, span, p):
        times = np.linspace(float(span[0]), float(span[1]), round(float(span[1] - span[0]) / self.saveat) + 1)
        found = solve_ivp(
            self.right, (times[0], times[-1]), u0.numpy().astype(float), "LSODA", times,
            args=(p.numpy().astype(float),), rtol=1e-8, atol=1e-8,
        )  # fmt: skip
        return torch.from_numpy(found.y), torch.from_numpy(times)


def prior_of(task):
    """The prior in plain numbers."""
    params = {name: value.tolist() for name, value in task.prior_params.items()}
    return {
        "kind": type(task.prior_dist).__name__,
        "inner": type(getattr(task.prior_dist, "base_dist", None)).__name__,
        **params,
    }


def main(folder, simulations, seed, names):
    sys.modules["diffeqtorch"] = types.SimpleNamespace(DiffEq=DiffEq)
    torch.load = functools.partial(torch.load, weights_only=False)  # the package's own files hold distributions
    warnings.filterwarnings("ignore")
    import sbibm

    for name in names:
        task = sbibm.get_task(name)
        torch.manual_seed(seed)
        theta = task.get_prior()(num_samples=simulations)
        x = task.get_simulator()(theta)
        if not torch.isfinite(x).all():
            bad = int((~torch.isfinite(x)).any(1).sum())
            raise ValueError(f"{name}: expected finite simulations, found {bad} others")
        each = range(1, 11)
        np.savez(
            Path(folder) / f"{name}.npz",
            theta=theta.numpy(), x=x.numpy(), prior=json.dumps(prior_of(task)),
            observations=np.concatenate([task.get_observation(n).numpy() for n in each]),
            truth=np.concatenate([task.get_true_parameters(n).numpy() for n in each]),
            reference=np.stack([task.get_reference_posterior_samples(n).numpy() for n in each]),
        )  # fmt: skip


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]), int(sys.argv[3]), sys.argv[4:])
