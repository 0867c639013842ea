"""One whole run of `nuinfer.omnifold` on the Gaussian toy: toy data in (.npz), truth weights out (.npz).

A process of its own, so that its CPU time counts from start to end; `benchmarks.omnifold_gaussian` runs it.  Its
settings are the library's defaults, but for the size of the network "small".
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np

import nuinfer as nu

NETWORKS = {"mlp": nu.MLP(), "small": nu.MLP(width=32, depth=2), "trees": nu.Trees()}


def arguments() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help=".npz with data_x, simulation_t, simulation_x")
    parser.add_argument("--out", type=Path, required=True, help=".npz to write: weights (iterations, members, events)")
    parser.add_argument("--network", choices=tuple(NETWORKS), default="mlp")
    parser.add_argument("--members", type=int, default=1)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--iterations", type=int, default=3)
    return parser.parse_args()


def main() -> None:
    """Unfold once and write the truth weights of every iteration."""
    options = arguments()
    with np.load(options.data) as toy:
        data = nu.Events({"x": toy["data_x"]})
        simulation = nu.Events({"t": toy["simulation_t"], "x": toy["simulation_x"]})
    result = nu.omnifold(
        data, simulation, reco=["x"], truth=["t"], iterations=options.iterations, members=options.members,
        seed=options.seed, network=NETWORKS[options.network],
    )  # fmt: skip
    np.savez(options.out, weights=np.stack([iteration.weights for iteration in result.iterations]))


if __name__ == "__main__":
    main()
