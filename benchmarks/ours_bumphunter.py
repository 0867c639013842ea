"""A scan by `bump_hunt` and its toys, as a process of its own (`benchmarks.bumphunter` starts it).

python -m benchmarks.ours_bumphunter PROBLEM.npz RESULT.npz --widths 2 6 --toys 10000
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np

from nuinfer.anomaly.bump.bump_hunter import bump_hunt


def main() -> None:
    """Write the statistics of the data and of the toys, and the global p-value."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("problem", type=Path)
    parser.add_argument("result", type=Path)
    parser.add_argument("--widths", type=int, nargs=2, default=[2, 6])
    parser.add_argument("--toys", type=int, default=10_000)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--sideband", action="store_true")
    options = parser.parse_args()
    problem = np.load(options.problem)
    found = bump_hunt(
        problem["observed"], problem["expected"], edges=problem["edges"], widths=tuple(options.widths),
        toys=options.toys, seed=options.seed, sideband=0 if options.sideband else False,
    )  # fmt: skip
    print(found)
    place = [found.bins[0].start, found.bins[0].stop - found.bins[0].start]
    np.savez(
        options.result, t=np.append(found.statistic, found.toys), p=found.p_value, place=place, signal=found.signal
    )


if __name__ == "__main__":
    main()
