"""Throws by OmniFold, trained together or one by one, as a process of its own (`benchmarks.unfolding` starts it).

python -m benchmarks.ours_throws RESULT.npz --count 50 [--how apart | network | "last layer"] [--events 20000]
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import numpy as np
import torch

import nuinfer as nu
from nuinfer.simulators import GaussianUnfolding
from nuinfer.unfolding import Spectrum, Throws, omnifold_throws, unfold_throws

BINS = {"t0": np.linspace(-2.0, 2.5, 10)}
OPTIONS: dict[str, Any] = {"reco": ["x0"], "truth": ["t0"], "iterations": 3, "progress": False}


def tilt(events: nu.Events, alpha: float) -> nu.Events:
    """A source that reweights the truth."""
    factor = np.exp(0.1 * alpha * np.tanh(np.nan_to_num(events["t0"]))) if "t0" in events else 1.0
    return events.with_weight(events.weight * factor)


def rate(events: nu.Events, alpha: float) -> nu.Events:
    """A source that scales the background."""
    return events if "t0" in events else events.with_weight(events.weight * np.exp(0.2 * alpha))


def one(data: nu.Events, simulation: nu.Events, background: nu.Events, seed: int) -> Spectrum:
    """A run of its own."""
    return nu.omnifold(data, simulation, background=background, seed=seed, **OPTIONS).spectrum(BINS)


def main() -> None:
    """Write the spectra of all throws."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("result", type=Path)
    parser.add_argument("--count", type=int, default=50)
    parser.add_argument("--events", type=int, default=20_000)
    parser.add_argument("--how", choices=["apart", "network", "last layer"], default="network")
    options = parser.parse_args()
    torch.set_num_threads(1)
    problem, n = GaussianUnfolding.with_detector(), options.events
    data, simulation, background = problem.data(n, seed=1), problem.simulation(n, seed=1), problem.background(n, seed=1)
    throws = Throws(count=options.count, systematics={"tilt": tilt, "rate": rate}, seed=1)
    if options.how == "apart":
        thrown = unfold_throws(one, data, simulation, throws, background=background, progress=False)
    else:
        thrown = omnifold_throws(data, simulation, throws, BINS, background=background, refit=options.how, **OPTIONS)
    np.savez(options.result, spectra=thrown.spectra, nominal=thrown.nominal.values)


if __name__ == "__main__":
    main()
