"""Iterative Bayes with its covariance, as a process of its own (`benchmarks.unfolding` starts it).

python -m benchmarks.ours_ibu PROBLEM.npz RESULT.npz --iterations 4
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np

from nuinfer.unfolding import Binning, Response, iterative_bayes


def main() -> None:
    """Write the spectrum and its errors."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("problem", type=Path)
    parser.add_argument("result", type=Path)
    parser.add_argument("--iterations", type=int, default=4)
    options = parser.parse_args()
    problem = np.load(options.problem)
    both, missed = problem["both"], problem["missed"]
    edges, none = np.arange(len(both) + 1.0), np.zeros(len(both))
    response = Response(Binning("t", edges), Binning("x", edges), both, both, missed, missed, none, none)
    found = iterative_bayes(
        problem["data"], response, iterations=options.iterations, prior=response.truth_yield
    )  # fmt: skip
    parts = {name: np.sqrt(np.diag(c)) for name, c in found.covariances.items()}
    np.savez(options.result, values=found.values, **parts)


if __name__ == "__main__":
    main()
