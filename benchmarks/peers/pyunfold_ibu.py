"""Iterative Bayes by `PyUnfold`, its defaults, a fixed number of iterations.

Run in an environment of its own (`pyunfold.txt`) by `python -m benchmarks.unfolding`:

    python pyunfold_ibu.py PROBLEM.npz RESULT.npz --iterations 4
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
from pyunfold import iterative_unfold


def main() -> None:
    """Write the spectrum and its errors."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("problem", type=Path)
    parser.add_argument("result", type=Path)
    parser.add_argument("--iterations", type=int, default=4)
    options = parser.parse_args()
    problem = np.load(options.problem)
    both, missed, data = problem["both"], problem["missed"], problem["data"]
    total = both.sum(0) + missed
    efficiency = both.sum(0) / total
    found = iterative_unfold(
        data=data, data_err=np.sqrt(data), response=both / total, response_err=np.sqrt(both) / total,
        efficiencies=efficiency, efficiencies_err=np.sqrt(efficiency * (1 - efficiency) / total),
        prior=total / total.sum(), ts="ks", ts_stopping=1e-300, max_iter=options.iterations, return_iterations=True,
    )  # fmt: skip
    last = found.iloc[options.iterations - 1]
    np.savez(options.result, values=last["unfolded"], data=last["stat_err"], simulation=last["sys_err"])


if __name__ == "__main__":
    main()
