"""What do the classifiers of a hunt cost, trained together, beside separate trainings?

5 folds x 10 members x 9 windows are 450 networks (perceptrons of 2 x 32 units on 4 columns, 10 epochs, batches of 512).
Each way is a whole process on one thread, imports, reading and the scores of all events included; CPU seconds.  The two
separate ways take long, so all three are compared on a stated subset of the windows, each of which is done whole, and
the last line is the hunt's own time for all nine.  The areas under the ROC curve (signal against background by the
truth, in the signal regions) say that all three learn the same.

    python -m benchmarks.hunt [--events 60000] [--subset 1 4] [--rounds 1]
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from pathlib import Path

import numpy as np

from benchmarks import machine
from benchmarks.ours_hunt import windows_of

SIGNAL = 600


def problem(events: int, path: Path) -> None:
    """A spectrum that falls from 2.7 to 6, four normal features, and a signal at 3.5 that is shifted in each by 1."""
    rng = np.random.default_rng(1)
    mass = np.concatenate([2.7 - np.log1p(-rng.random(events) * -np.expm1(-3.3)), rng.normal(3.5, 0.07, SIGNAL)])
    truth = np.arange(len(mass)) >= events
    x = [rng.normal(size=len(mass)) + truth for _ in range(4)]
    np.savez(path, m=mass, truth=truth, x0=x[0], x1=x[1], x2=x[2], x3=x[3])


def cost(place: Path, mode: str, windows: list[int], rounds: int) -> tuple[float, float, float]:
    """CPU and peak memory (GB) of the cheapest round, and the area."""
    command: list[str | Path] = [
        sys.executable, "-m", "benchmarks.ours_hunt", place / "events.npz", place / "result.npz", "--mode", mode,
        "--windows", *map(str, windows),
    ]  # fmt: skip
    costs = [machine.cpu_seconds(command, machine.one_thread()) for _ in range(rounds)]
    best = min(costs, key=lambda c: c.cpu)
    with np.load(place / "result.npz") as found:
        return best.cpu, best.peak_rss / 1e9, float(found["area"])


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--events", type=int, default=60_000)
    parser.add_argument("--subset", type=int, nargs="+", default=[1, 4], help="windows that all three ways do")
    parser.add_argument("--rounds", type=int, default=1)
    options = parser.parse_args()
    names = {
        "batched": "trained together",
        "separate": "one `fit_ratio` a network",
        "plain": "one torch loop a network",
    }
    print("| windows | networks | how | CPU s | over the hunt's | GB | area |")
    print("|---" * 7 + "|")
    with tempfile.TemporaryDirectory() as folder:
        place = Path(folder)
        problem(options.events, place / "events.npz")
        ours = 0.0
        for mode, name in names.items():
            cpu, peak, area = cost(place, mode, options.subset, options.rounds)
            ours = ours or cpu
            shown = ", ".join(map(str, options.subset))
            print(f"| {shown} | {50 * len(options.subset)} | {name} | {cpu:.1f} | {cpu / ours:.2f} | {peak:.2f} | "
                  f"{area:.4f} |", flush=True)  # fmt: skip
        every = list(range(len(windows_of())))
        cpu, peak, area = cost(place, "batched", every, options.rounds)
        print(f"| all {len(every)} | {50 * len(every)} | trained together | {cpu:.1f} | | {peak:.2f} | {area:.4f} |")
    print()
    print(machine.describe())


if __name__ == "__main__":
    main()
