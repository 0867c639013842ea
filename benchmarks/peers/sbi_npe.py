"""A posterior or a ratio by `sbi` from the simulations of one task, with what it cost and how good it is.

Run in an environment of its own (`sbibm.txt`) by `python -m benchmarks.npe_speed`, which says what is compared:

    python sbi_npe.py npe TASK.npz OTHERS.npz RESULT.npz [--seed 1]
    python sbi_npe.py nre TASK.npz OTHERS.npz RESULT.npz --atoms 10 --classifier resnet [--seed 1]

The settings are sbi's defaults: 90% of the simulations for training, Adam with learning rate 5e-4, gradients clipped at
norm 5; for a posterior batches of 200, and the best weights once 20 epochs did not improve the held-out loss; for a
ratio batches of 1,000.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import tempfile
import time
from functools import partial
from pathlib import Path

import numpy as np
import torch
from sbi.inference import NPE, NRE_A, NRE_B
from sbi.neural_nets.net_builders import build_mlp_classifier
from sbi.utils import BoxUniform
from torch import distributions as td
from torch import nn

DRAWS = 100  # of each posterior, for the share of it that lies inside the prior
JUDGED = 500  # observations at which a ratio is normalised
CLASSIFIERS = {"resnet": "resnet", "mlp": partial(build_mlp_classifier, norm_layer=nn.Identity)}


def prior_of(spec):
    """The task's prior."""
    if "low" in spec:
        return BoxUniform(torch.tensor(spec["low"]), torch.tensor(spec["high"]))
    loc = torch.tensor(spec["loc"])
    if "scale" in spec:
        return td.Independent(td.LogNormal(loc, torch.tensor(spec["scale"])), 1)
    return td.MultivariateNormal(loc, precision_matrix=torch.tensor(spec["precision_matrix"]))


def pairs(path):
    """theta and x of a file of simulations, and its prior."""
    with np.load(path) as file:
        theta, x = (torch.from_numpy(file[name].astype(np.float32)) for name in ("theta", "x"))
        return theta, x, prior_of(json.loads(str(file["prior"])))


@torch.no_grad()
def judged(net, theta, x, prior):
    """log q(theta | x) (N,) of the posterior inside the prior, that of the bare flow, and the share outside."""
    bare, inside = [], []
    for part, given in zip(theta.split(1000), x.split(1000), strict=True):
        bare.append(net.log_prob(part[None], condition=given)[0])
        inside.append(prior.support.check(net.sample((DRAWS,), condition=given)).double().mean(0))
    bare, inside = torch.cat(bare).double(), torch.cat(inside)
    return bare - inside.clamp(min=1 / DRAWS).log(), bare, 1 - inside


def npe(theta, x, prior, others):
    """A posterior by a neural spline flow of zuko."""
    start = time.process_time()
    inference = NPE(prior=prior, density_estimator="zuko_nsf", show_progress_bars=False)
    net = inference.append_simulations(theta, x).train()
    trained = time.process_time()
    log_q, bare, outside = judged(net, *others[:2], prior)
    return {"training": trained - start, "whole": trained, "epochs": inference.summary["epochs_trained"][-1],
            "log_q": log_q, "log_q_bare": bare, "outside": outside}  # fmt: skip


def trained_ratio(theta, x, atoms, classifier, epochs):
    """A ratio after so many epochs, and its CPU seconds."""
    start = time.process_time()
    options = {"classifier": CLASSIFIERS[classifier], "show_progress_bars": False}
    inference, more = (NRE_A(**options), {}) if atoms == 2 else (NRE_B(**options), {"num_atoms": atoms})
    inference.append_simulations(theta, x)
    # sbi 0.27 runs one epoch more than `max_num_epochs`; a difference of two fits does not see it
    net = inference.train(training_batch_size=1000, max_num_epochs=epochs, stop_after_epochs=10**6, **more)
    return net, time.process_time() - start


@torch.no_grad()
def gain(net, theta, x, bank):
    """log r(x_i | theta_i) - log mean_j r(x_i | theta_j) (N,) with theta_j of the prior: log posterior - log prior."""
    own, logs = net(theta, x).double(), []
    for given in x:
        every = net(bank, given.expand(len(bank), -1)).double()
        logs.append(every.logsumexp(0) - math.log(len(bank)))
    return own - torch.stack(logs)


def nre(theta, x, others, atoms, classifier, epochs):
    """CPU seconds of fits of different lengths; the first, which warms up, is not counted."""
    fits = [trained_ratio(theta, x, atoms, classifier, n) for n in (1, *epochs)]
    net = fits[-1][0]
    return {
        "seconds": [seconds for _, seconds in fits[1:]],
        "gain": gain(net, *(o[:JUDGED] for o in others[:2]), theta),
    }


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("what", choices=("npe", "nre"))
    parser.add_argument("task", type=Path)
    parser.add_argument("others", type=Path)
    parser.add_argument("result", type=Path)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--atoms", type=int, default=10)
    parser.add_argument("--classifier", choices=CLASSIFIERS, default="resnet")
    parser.add_argument("--epochs", type=int, nargs=2, default=(10, 30))
    options = parser.parse_args()
    torch.manual_seed(options.seed)
    torch.set_num_threads(1)
    (theta, x, prior), others = pairs(options.task.absolute()), pairs(options.others.absolute())
    result = options.result.absolute()
    with tempfile.TemporaryDirectory() as folder:
        os.chdir(folder)  # sbi writes its logs to the current folder
        if options.what == "npe":
            found = npe(theta, x, prior, others)
        else:
            found = nre(theta, x, others, options.atoms, options.classifier, options.epochs)
        os.chdir(result.parent)
    np.savez(result, **{name: np.asarray(value) for name, value in found.items()})


if __name__ == "__main__":
    main()
