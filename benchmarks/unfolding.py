"""What does unfolding with its uncertainties cost?

(ibu) Iterative Bayes, four iterations, with the covariance of data and simulation, beside PyUnfold, on the same
contents: truth bins that migrate by four bins' width in 160.  The answers and their errors are compared, and both
errors with the spread of 400 toys, of the data and of the simulation.
(throws) Fifty throws of statistics and two systematics by OmniFold, trained as one batch, beside fifty runs of their
own.

Every number is the CPU seconds of a whole process on one thread, imports included.

    python -m benchmarks.unfolding [--parts ibu throws] [--bins 40 160 500] [--count 50] [--events 20000]
"""

from __future__ import annotations

import argparse
import itertools
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks import machine
from nuinfer.metrics import triangular_discriminator
from nuinfer.unfolding import Binning, Response, iterate_bayes

HERE = Path(__file__).resolve().parent
PEER = "PyUnfold==0.5.0"
ITERATIONS = 4


def problem(bins: int, path: Path) -> dict[str, Any]:
    """Contents of a response and data, written to ``path``."""
    rng, t = np.random.default_rng(1), np.arange(bins)
    both = rng.poisson(200 * np.exp(-0.5 * ((t[:, None] - t) * 40 / bins) ** 2)).astype(float)
    missed = rng.poisson(0.2 * both.sum(0)).astype(float)
    shape = 1 + 0.3 * np.sin(6 * t / bins)
    found = {"both": both, "missed": missed, "data": rng.poisson(both @ shape).astype(float), "truth": shape}
    np.savez(path, **found)
    return found


def toys(given: dict[str, Any], count: int = 400) -> dict[str, Any]:
    """Spreads of the unfolded spectrum over toys of the data and of the simulation, the prior held."""
    both, missed, data = given["both"], given["missed"], given["data"]
    edges, none = np.arange(len(both) + 1.0), np.zeros(len(both))
    response = Response(Binning("t", edges), Binning("x", edges), both, both, missed, missed, none, none)
    prior, rng = response.truth_yield, np.random.default_rng(2)

    def unfolded(signal: Any, own: Response) -> Any:
        *_, last = itertools.islice(iterate_bayes(signal, own, prior), ITERATIONS)
        return last.after

    by_data = [unfolded(rng.poisson(data), response) for _ in range(count)]
    draws = ((rng.poisson(both).astype(float), rng.poisson(missed).astype(float)) for _ in range(count))
    by_simulation = [unfolded(data, replace(response, both=b, missed=m)) for b, m in draws]
    return {"data": np.std(by_data, 0, ddof=1), "simulation": np.std(by_simulation, 0, ddof=1)}


def ibu(bins: Sequence[int], peer_venv: Path) -> None:
    """The table of iterative Bayes."""
    python = machine.peer_python(peer_venv, "pyunfold.txt", PEER)
    print(f"| bins | {PEER.replace('==', ' ')}, CPU s | this, CPU s | ratio | largest difference | "
          "data error / toys: peer, this | simulation's error / toys: peer, this |")  # fmt: skip
    print("|---" * 7 + "|")
    for size in bins:
        with tempfile.TemporaryDirectory() as folder:
            place = Path(folder)
            given = problem(size, place / "problem.npz")
            programs: dict[str, list[str | Path]] = {
                "peer": [python, HERE / "peers" / "pyunfold_ibu.py"],
                "ours": [sys.executable, "-m", "benchmarks.ours_ibu"],
            }
            costs: dict[str, float] = {}
            results: dict[str, dict[str, Any]] = {}
            for name, program in programs.items():
                command = [*program, place / "problem.npz", place / f"{name}.npz"]
                try:
                    costs[name] = machine.cpu_seconds(command, machine.one_thread()).cpu
                except RuntimeError as error:  # PyUnfold holds the covariance of all elements of the response
                    if "Unable to allocate" not in str(error):
                        raise
                    print(f"{size} bins, {name}: {str(error).splitlines()[-1]}", file=sys.stderr, flush=True)
                    continue
                results[name] = dict(np.load(place / f"{name}.npz"))
        print(_row(size, costs, results, toys(given) if size <= 160 else None), flush=True)


def _row(size: int, costs: dict[str, float], results: dict[str, dict[str, Any]], spread: Any) -> str:
    """One size's row; a peer without memory for it leaves its places open."""
    if "peer" not in costs:
        return f"| {size} | out of memory | {costs['ours']:.2f} | | | | |"
    off = np.abs(results["peer"]["values"] / results["ours"]["values"] - 1).max()
    ratios = [
        "not run" if spread is None else ", ".join(f"{np.median(r[part] / spread[part]):.3f}" for r in results.values())
        for part in ("data", "simulation")
    ]
    return (f"| {size} | {costs['peer']:.2f} | {costs['ours']:.2f} | {costs['peer'] / costs['ours']:.0f} | {off:.1e} | "
            f"{ratios[0]} | {ratios[1]} |")  # fmt: skip


def throws(count: int, events: int) -> None:
    """The table of throws."""
    print(f"| {count} throws, {events:,} events | CPU s | ratio | memory, MB | median spread | "
          f"discriminator to the mean of those apart |")  # fmt: skip
    print("|---" * 6 + "|")
    found, costs = {}, {}
    with tempfile.TemporaryDirectory() as folder:
        for name in ("last layer", "network", "apart"):
            file = Path(folder) / f"{name}.npz"
            command: list[str | Path] = [
                sys.executable, "-m", "benchmarks.ours_throws", file, "--count", str(count), "--events", str(events),
                "--how", name,
            ]  # fmt: skip
            costs[name] = machine.cpu_seconds(command, machine.one_thread())
            found[name] = dict(np.load(file))
    means = {name: f["spectra"].mean(0) for name, f in found.items()}
    for name in found:
        spread = np.median(found[name]["spectra"].std(0, ddof=1) / means[name])
        other = means["apart" if name != "apart" else "network"]
        print(f"| {name} | {costs[name].cpu:.0f} | {costs['apart'].cpu / costs[name].cpu:.1f} | "
              f"{costs[name].peak_rss / 1e6:.0f} | {spread:.3f} | "
              f"{triangular_discriminator(means[name], other):.1e} |")  # fmt: skip


def main() -> None:
    """Print the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--parts", nargs="+", default=["ibu", "throws"], choices=["ibu", "throws"])
    parser.add_argument("--bins", nargs="+", type=int, default=[40, 160, 500])
    parser.add_argument("--count", type=int, default=50)
    parser.add_argument("--events", type=int, default=20_000)
    parser.add_argument("--peer-venv", type=Path, default=HERE / ".venv-pyunfold", help="made where it is not there")
    options = parser.parse_args()
    if "ibu" in options.parts:
        ibu(options.bins, options.peer_venv)
        print()
    if "throws" in options.parts:
        throws(options.count, options.events)
        print()
    print(machine.describe(("torch", "numpy", "scipy")))


if __name__ == "__main__":
    main()
