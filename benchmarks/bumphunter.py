"""What do BumpHunter's pseudo-experiments cost, beside pyBumpHunter?

A falling spectrum of 10,000 events without a signal; both draw 10,000 pseudo-experiments of their own, scan data and
toys, and say the global p-value.  The first two columns are the CPU seconds of whole processes on one thread, imports
included, the least of the rounds, which take turns.  Then this package scans the peer's toys, which follow from its
seed: the largest difference of any statistic t relative to 1 + t.

The limit: of every window and toy one number of 4 bytes has to be made from two and compared, 16 bytes to and from the
cache.  "scan" is the CPU time of the scan alone, without imports and random numbers, and the rate beside it that of
those bytes; it is compared with the rate of `numpy.subtract` and a comparison on rows of the same length.

    python -m benchmarks.bumphunter [--toys 10000] [--rounds 3] [--sideband]
"""

from __future__ import annotations

import argparse
import itertools
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks import machine
from nuinfer.anomaly.bump import hunter_scan
from nuinfer.anomaly.bump.bump_hunter import bump_hunt
from nuinfer.anomaly.bump.hunter_windows import asked_windows

HERE = Path(__file__).resolve().parent
PEER = "pyBumpHunter==0.5.1"
SIZES = ((60, (2, 6)), (200, (2, 20)))
EVENTS = 10_000


def problem(bins: int, path: Path) -> dict[str, Any]:
    """A spectrum exp(-4 x) on [0, 1], written to ``path``."""
    edges = np.linspace(0, 1, bins + 1)
    shape = np.diff(-np.exp(-4 * edges))
    expected = EVENTS * shape / shape.sum()
    found = {"edges": edges, "expected": expected, "observed": np.random.default_rng(1).poisson(expected)}
    np.savez(path, **found)
    return found


def peer_toys(expected: Any, toys: int, seed: int) -> Any:
    """The toys (T, bins) that pyBumpHunter draws."""
    return np.random.RandomState(seed).poisson(expected[:, None], (len(expected), toys)).T


def least_cpu(work: Callable[[], object], rounds: int = 5) -> float:
    """CPU seconds of this process, the least of the rounds."""
    found = []
    for _ in range(rounds):
        start = time.process_time()
        work()
        found.append(time.process_time() - start)
    return min(found)


def scan_cost(given: dict[str, Any], widths: tuple[int, int], toys: Any) -> tuple[float, float, float]:
    """CPU seconds of the scan, and GB/s of it and of subtraction and comparison alone."""
    expected = given["expected"]
    groups = asked_windows((len(expected),), widths, 1, 1, None)
    seconds = least_cpu(lambda: hunter_scan.smallest([toys], [expected], groups, "excess", sideband=False))
    rows = np.random.default_rng(2).integers(0, 1000, (len(expected), len(toys)), dtype=np.int32)
    inside = np.empty_like(rows[0])

    def bare() -> None:
        for one, two in itertools.pairwise(rows):
            np.greater_equal(np.subtract(two, one, out=inside), 0)

    windows = sum(group.size for group in groups)
    bare_rate = 16 * (len(rows) - 1) * len(toys) / least_cpu(bare, 20)
    return seconds, 16 * windows * len(toys) / seconds / 1e9, bare_rate / 1e9


def row(bins: int, widths: tuple[int, int], options: argparse.Namespace, python: Path) -> None:
    """One line of the table."""
    with tempfile.TemporaryDirectory() as folder:
        place = Path(folder)
        given = problem(bins, place / "problem.npz")
        tail = ["--widths", *map(str, widths), "--toys", str(options.toys), *["--sideband"] * options.sideband]
        programs: dict[str, list[str | Path]] = {
            "peer": [python, HERE / "peers" / "bumphunter_public.py"],
            "ours": [sys.executable, "-m", "benchmarks.ours_bumphunter"],
        }
        costs: dict[str, list[float]] = {name: [] for name in programs}
        for _ in range(options.rounds):
            for name, program in programs.items():
                command = [*program, place / "problem.npz", place / f"{name}.npz", *tail]
                costs[name].append(machine.cpu_seconds(command, machine.one_thread()).cpu)
        found = {name: dict(np.load(place / f"{name}.npz")) for name in programs}
    toys = peer_toys(given["expected"], options.toys, 1)
    same = bump_hunt(
        given["observed"], given["expected"], widths=widths, pseudo_data=toys, sideband=0 if options.sideband else False
    )
    t, wanted = np.append(same.statistic, same.toys), found["peer"]["t"]
    off = float((np.abs(t - wanted) / (1 + wanted)).max())
    if off > 1e-9:
        raise SystemExit(f"{bins} bins: expected the peer's statistics to 1e-9, found a difference of {off:.1e}")
    peer, ours = min(costs["peer"]), min(costs["ours"])
    limit = "" if options.sideband else " {:.3f} | {:.1f} of {:.1f} |".format(*scan_cost(given, widths, toys))
    print(f"| {bins} | {widths[0]} to {widths[1]} | {peer:.2f} | {ours:.2f} | {peer / ours:.1f} | {off:.0e} | "
          f"{found['peer']['p']:.4f}, {found['ours']['p']:.4f} |{limit}",
          flush=True)  # fmt: skip


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--toys", type=int, default=10_000)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--sideband", action="store_true", help="normalise beside each window")
    parser.add_argument("--peer-venv", type=Path, default=HERE / ".venv-bumphunter", help="made where it is not there")
    options = parser.parse_args()
    python = machine.peer_python(options.peer_venv, "bumphunter_public.txt", PEER)
    print(f"| bins | widths | {PEER.replace('==', ' ')}, CPU s | this, CPU s | ratio | largest difference of t | "
          f"global p: peer, this |{'' if options.sideband else ' scan, CPU s | GB/s |'}")  # fmt: skip
    print("|---" * (7 if options.sideband else 9) + "|")
    for bins, widths in SIZES:
        row(bins, widths, options, python)
    print()
    print(machine.describe(("numpy",)))


if __name__ == "__main__":
    main()
