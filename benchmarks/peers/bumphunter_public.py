"""A scan by `pyBumpHunter` and its pseudo-experiments.

Run in an environment of its own (`bumphunter_public.txt`) by `python -m benchmarks.bumphunter`:

    python bumphunter_public.py PROBLEM.npz RESULT.npz --widths 2 6 --toys 10000

One worker: its default of four threads takes as much CPU, and as long.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
from pyBumpHunter import BumpHunter1D


def main() -> None:
    """Write the statistics of the data and of the toys, and the global p-value."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("problem", type=Path)
    parser.add_argument("result", type=Path)
    parser.add_argument("--widths", type=int, nargs=2, default=[2, 6])
    parser.add_argument("--toys", type=int, default=10_000)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--mode", default="excess")
    parser.add_argument("--sideband", action="store_true")
    parser.add_argument("--workers", type=int, default=1)
    options = parser.parse_args()
    problem, (low, high) = np.load(options.problem), options.widths
    hunter = BumpHunter1D(
        bins=problem["edges"], width_min=low, width_max=high, npe=options.toys, seed=options.seed, mode=options.mode,
        use_sideband=options.sideband, nworker=options.workers,
    )  # fmt: skip
    hunter.bump_scan(problem["observed"], problem["expected"], is_hist=True)
    place = [hunter.min_loc_ar[0], hunter.min_width_ar[0]]
    np.savez(options.result, t=hunter.t_ar, p=hunter.global_Pval, place=place, signal=hunter.signal_eval)


if __name__ == "__main__":
    main()
