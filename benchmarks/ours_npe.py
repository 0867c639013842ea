"""A posterior or a ratio from the simulations of one task, with what it cost and how good it is.

A process of its own, so that its cost can be taken (`benchmarks.npe_speed` starts it and says what is compared):

    python -m benchmarks.ours_npe npe TASK.npz OTHERS.npz RESULT.npz --members 1 --epochs 100 [--seed 1]
    python -m benchmarks.ours_npe nre TASK.npz OTHERS.npz RESULT.npz --classifier mlp --batch 2000 [--seed 1]

A posterior has the defaults of `fit_posterior`; fewer epochs are the same schedule of the learning rate made shorter.
"""

from __future__ import annotations

import argparse
import json
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from scipy import special

from benchmarks.ours_sbibm import columns, prior_of
from nuinfer import Events
from nuinfer.nets import MLP
from nuinfer.posterior import fit_posterior
from nuinfer.posterior.neural import schedule
from nuinfer.ratio import ParametrisedRatio, fit_parametrised_ratio
from nuinfer.train import Training

Floats = NDArray[np.float64]

JUDGED = 500  # observations at which a ratio is normalised
CLASSIFIERS = {
    "resnet": MLP(width=50, depth=5, activation="relu", residual=True),  # sbi's has two blocks of two layers
    "mlp": MLP(width=50, depth=2, activation="relu"),
}


def pairs(path: Path) -> tuple[Floats, Floats, dict[str, Any]]:
    """theta and x of a file of simulations, and what it says of its prior."""
    with np.load(path) as file:
        return file["theta"].astype(np.float64), file["x"].astype(np.float64), json.loads(str(file["prior"]))


def events_of(theta: Floats, x: Floats) -> tuple[Events, list[str], list[str]]:
    """The simulations, and the names of their parameters and observables."""
    one, other = columns("theta", theta), columns("x", x)
    return Events({**one, **other}), list(one), list(other)


def npe(task: Path, others: Path, members: int, epochs: int, seed: int) -> dict[str, Any]:
    """A posterior by `fit_posterior`."""
    theta, x, spec = pairs(task)
    rows, _, features = events_of(theta, x)
    full = schedule(len(rows))
    training = full if epochs == full.epochs else replace(full, epochs=epochs, average=min(5.0, epochs / 10))
    start = time.process_time()
    posterior = fit_posterior(
        rows, prior_of(spec), features, members=members, training=training, seed=seed, progress=False
    )  # fmt: skip
    trained = time.process_time()
    theta, x, _ = pairs(others)
    log_q = posterior.log_probs(theta[:, None], Events(columns("x", x)))[:, 0]
    ran = np.isfinite(posterior.history.train).any(1).sum()
    return {"training": trained - start, "whole": trained, "epochs": ran, "log_q": log_q}


def trained_ratio(
    theta: Floats, x: Floats, classifier: str, batch: int, epochs: int, seed: int
) -> tuple[ParametrisedRatio, float]:
    """A ratio after so many epochs, and its CPU seconds."""
    start = time.process_time()
    rows, names, features = events_of(theta, x)
    ratio = fit_parametrised_ratio(
        rows, names, features, reference="marginal", network=CLASSIFIERS[classifier], validation=0.1,
        training=Training(epochs=epochs, batch=batch), seed=seed, progress=False,
    )  # fmt: skip
    return ratio, time.process_time() - start


def gain(ratio: ParametrisedRatio, theta: Floats, x: Floats, bank: Floats) -> Floats:
    """log r(x_i | theta_i) - log mean_j r(x_i | theta_j) (N,) with theta_j of the prior: log posterior - log prior."""
    own, logs = ratio.log(Events(columns("x", x)), theta), []
    for given in x:
        every = ratio.log(Events(columns("x", np.broadcast_to(given, (len(bank), len(given))))), bank)
        logs.append(special.logsumexp(every) - np.log(len(bank)))
    return np.asarray(own - np.array(logs))


def nre(task: Path, others: Path, classifier: str, batch: int, epochs: list[int], seed: int) -> dict[str, Any]:
    """CPU seconds of fits of different lengths; the first, which warms up, is not counted."""
    theta, x, _ = pairs(task)
    fits = [trained_ratio(theta, x, classifier, batch, n, seed) for n in (1, *epochs)]
    other = pairs(others)
    judged = gain(fits[-1][0], other[0][:JUDGED], other[1][:JUDGED], theta)
    return {"seconds": [seconds for _, seconds in fits[1:]], "gain": judged}


def main() -> None:
    """Write ``RESULT.npz``."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=("npe", "nre"))
    parser.add_argument("task", type=Path)
    parser.add_argument("others", type=Path)
    parser.add_argument("result", type=Path)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--members", type=int, default=1)
    parser.add_argument("--epochs", type=int, nargs="+", help="of a posterior; shorter and longer, of a ratio")
    parser.add_argument("--classifier", choices=CLASSIFIERS, default="resnet")
    parser.add_argument("--batch", type=int, default=2000, help="rows of a ratio's step, half of them simulated pairs")
    options = parser.parse_args()
    torch.set_num_threads(1)
    task, others, seed = options.task, options.others, options.seed
    if options.what == "npe":
        found = npe(task, others, options.members, (options.epochs or [100])[0], seed)
    else:
        found = nre(task, others, options.classifier, options.batch, options.epochs or [10, 30], seed)
    arrays: dict[str, Any] = {name: np.asarray(value) for name, value in found.items()}
    np.savez(options.result, **arrays)


if __name__ == "__main__":
    main()
