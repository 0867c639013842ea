"""One task of sbibm by `fit_posterior`: train once, draw for its ten observations, and compare with the references.

A process of its own, so that its cost can be taken (`benchmarks.sbibm` starts it):

    python -m benchmarks.ours_sbibm TASK.npz SIMULATIONS RESULT.json [--members 1] [--seed 1]

The settings are the defaults of `fit_posterior` for all tasks and numbers of simulations.  They were chosen by log q of
other simulations, never by the references.  C2ST is `nuinfer.diagnostics.c2st`, with the references as the first
sample, as sbibm has it.
"""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import distributions as td

from nuinfer import Events, diagnostics
from nuinfer.posterior import NeuralPosterior, Prior, fit_posterior

DRAWS = 10_000


def prior_of(spec: dict[str, Any]) -> Prior:
    """The task's prior, with names theta0, theta1, ..."""
    if "low" in spec:
        return Prior.of({f"theta{i}": pair for i, pair in enumerate(zip(spec["low"], spec["high"], strict=True))})
    loc = torch.tensor(spec["loc"], dtype=torch.float64)
    names = [f"theta{i}" for i in range(len(loc))]
    if "scale" in spec:
        scale = torch.tensor(spec["scale"], dtype=torch.float64)
        return Prior.of({name: td.LogNormal(m, s) for name, m, s in zip(names, loc, scale, strict=True)})
    precision = torch.tensor(spec["precision_matrix"], dtype=torch.float64)
    return Prior.of(td.MultivariateNormal(loc, precision_matrix=precision), names)


def columns(name: str, values: np.ndarray) -> dict[str, np.ndarray]:
    """The columns of a matrix by name."""
    return {f"{name}{i}": np.ascontiguousarray(values[:, i], np.float64) for i in range(values.shape[1])}


def fitted(task: Any, simulations: int, members: int, seed: int) -> NeuralPosterior:
    """The posterior from the first ``simulations`` of the task."""
    theta, x = task["theta"][:simulations], task["x"][:simulations]
    prior, rows = prior_of(json.loads(str(task["prior"]))), Events({**columns("theta", theta), **columns("x", x)})
    features = [f"x{i}" for i in range(x.shape[1])]
    return fit_posterior(rows, prior, features, members=members, seed=seed, progress=False)


def main() -> None:
    """Write ``RESULT.json``."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("task", type=Path)
    parser.add_argument("simulations", type=int)
    parser.add_argument("result", type=Path)
    parser.add_argument("--members", type=int, default=5)
    parser.add_argument("--seed", type=int, default=1)
    options = parser.parse_args()
    torch.set_num_threads(1)
    task = np.load(options.task)
    start = time.process_time()
    posterior = fitted(task, options.simulations, options.members, options.seed)
    trained = time.process_time()
    draws = posterior.draws(DRAWS, Events(columns("x", task["observations"])), seed=options.seed)
    drawn = time.process_time()
    scores = [diagnostics.c2st(r, d, seed=1).value for r, d in zip(task["reference"], draws, strict=True)]
    found = {
        "c2st": scores, "training": trained - start, "drawing": drawn - trained, "judging": time.process_time() - drawn,
        "epochs": posterior.history.best_epoch.tolist(),
    }  # fmt: skip
    options.result.write_text(json.dumps(found))


if __name__ == "__main__":
    main()
