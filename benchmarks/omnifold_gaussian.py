"""OmniFold on a Gaussian toy, side by side with the public `omnifold` package: CPU seconds and distance from the truth.

Truth N(0, 1), simulation N(0.2, 0.9^2), smearing 0.5, 100k + 100k events, three iterations.  Each run is a whole
process (imports, reading and writing included) on one thread and one core.  All runs read the same events.

The exact answer after each iteration is that of iterative Bayes for Gaussians.  With the simulation's response
x = a + b t + N(0, r), its truth N(m, v) and data of mean M and variance V,

    K = b v / (b^2 v + r),    m <- m + K (M - a - b m),    v <- (1 - K b) v + K^2 V,

with a, b, r, m, v, M, V as measured in the sample: a difference from it is then the method's own rather than the
sample's.  (Ratios of the exact form, log r quadratic, fitted by maximum likelihood differ from it by 0.001 rms over
samples; with the population's a = 0, b = 1, r = 0.25 in its place by 0.002.)  The triangular discriminator
1/2 sum (p - q)^2 / (p + q) compares the unfolded truth after the last iteration, in 50 bins on [-3, 3], with the exact
bin probabilities of N(0, 1).  With several replicas the unfolded truth is that of their mean weight.

    python -m benchmarks.omnifold_gaussian [--seeds 1 2 3] [--peer-venv FOLDER] [--skip-peer]
"""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
from math import erf, sqrt
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from benchmarks import machine

Floats = NDArray[np.float64]

HERE = Path(__file__).resolve().parent
PEER = "omnifold==0.1.36"
EVENTS, ITERATIONS = 100_000, 3
TRUTH, SIMULATION, SMEARING = (0.0, 1.0), (0.2, 0.9), 0.5  # (mean, standard deviation)
EDGES = np.linspace(-3.0, 3.0, 51)


class Run(NamedTuple):
    """What one process took, and how far it is from the truth."""

    cost: machine.Cost
    mean: Floats  # (iterations,) unfolded minus exact
    sd: Floats  # (iterations,) unfolded minus exact
    discriminator: float
    versions: str


# -- the toy and its truth ---------------------------------------------------------------------------------------------


def make_toy(seed: int, path: Path) -> None:
    """Write data_x, simulation_t and simulation_x, (EVENTS,) each."""
    rng = np.random.default_rng([seed, 0])
    data, simulation = rng.normal(*TRUTH, EVENTS), rng.normal(*SIMULATION, EVENTS)
    noise = rng.normal(0.0, SMEARING, (2, EVENTS))
    np.savez(path, data_x=data + noise[0], simulation_t=simulation, simulation_x=simulation + noise[1])


def recursion(data_x: Floats, simulation_t: Floats, simulation_x: Floats) -> tuple[Floats, Floats]:
    """Mean and standard deviation of the exactly unfolded truth after each iteration, (ITERATIONS,) each."""
    cov = np.cov(simulation_t, simulation_x, bias=True)
    slope = cov[0, 1] / cov[0, 0]
    offset, noise = simulation_x.mean() - slope * simulation_t.mean(), cov[1, 1] - slope * cov[0, 1]
    mean, var, steps = simulation_t.mean(), cov[0, 0], []
    for _ in range(ITERATIONS):
        gain = slope * var / (slope**2 * var + noise)
        mean += gain * (data_x.mean() - offset - slope * mean)
        var = (1 - gain * slope) * var + gain**2 * data_x.var()
        steps.append((mean, sqrt(var)))
    means, sds = np.array(steps).T
    return means, sds


def triangular(truth: Floats, weight: Floats) -> float:
    """Triangular discriminator of weighted events (N,) and N(0, 1) over EDGES."""
    found = np.histogram(truth, EDGES, weights=weight)[0] / weight.sum()
    exact = np.diff([0.5 * (1 + erf((edge - TRUTH[0]) / (TRUTH[1] * sqrt(2)))) for edge in EDGES])
    return float(0.5 * ((found - exact) ** 2 / (found + exact)).sum())


def quality(toy: Path, out: Path, cost: machine.Cost) -> Run:
    """A finished run, judged by the weights that it wrote: (ITERATIONS, members, EVENTS)."""
    with np.load(toy) as file:
        exact_mean, exact_sd = recursion(file["data_x"], file["simulation_t"], file["simulation_x"])
        truth = file["simulation_t"]
    with np.load(out) as file:
        weights, versions = file["weights"].mean(axis=1), str(file.get("versions", ""))
    if weights.shape != (ITERATIONS, EVENTS) or not np.isfinite(weights).all():
        raise ValueError(f"{out.name}: expected finite weights {(ITERATIONS, EVENTS)}, found {weights.shape}, "
                         f"{int((~np.isfinite(weights)).sum())} of them not finite")  # fmt: skip
    shares = weights / weights.sum(axis=1, keepdims=True)
    mean = shares @ truth
    sd = np.sqrt((shares * (truth - mean[:, None]) ** 2).sum(axis=1))
    return Run(cost, mean - exact_mean, sd - exact_sd, triangular(truth, weights[-1]), versions)


# -- the runs ----------------------------------------------------------------------------------------------------------


def run(command: list[str | Path], toy: Path, seed: int, core: int | None) -> Run:
    """Run a program that reads ``--data`` and writes ``--out``, on one thread and one core."""
    out = toy.with_name("out.npz")
    full = [*command, "--data", toy, "--out", out, "--seed", str(seed), "--iterations", str(ITERATIONS)]
    return quality(toy, out, machine.cpu_seconds(full, machine.one_thread(), core=core))


def ours(network: str, members: int) -> list[str | Path]:
    """The command that runs this library."""
    return [sys.executable, "-m", "benchmarks.ours_omnifold", "--network", network, "--members", str(members)]


def peer(python: Path) -> list[str | Path]:
    """The command that runs the public package."""
    return [python, HERE / "peers" / "omnifold_public.py", "--events", str(EVENTS)]


def last_core() -> int | None:
    """The last core that this process may use: the first serves most of the system's interrupts."""
    return max(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else None


# -- the table ---------------------------------------------------------------------------------------------------------


def plus_minus(values: list[float], form: str) -> str:
    """Mean over seeds, with the standard deviation over seeds where there are several."""
    spread = f" ± {np.std(values, ddof=1):{form.lstrip('+')}}" if len(values) > 1 else ""
    return f"{np.mean(values):{form}}{spread}"


def row(name: str, runs: list[Run], peers: list[Run]) -> str:
    """One line of the table."""
    ratio = [p.cost.cpu / r.cost.cpu for p, r in zip(peers, runs, strict=True)] if peers else []
    steps = [
        ", ".join(plus_minus([getattr(r, what)[i] for r in runs], "+.4f") for i in range(ITERATIONS))
        for what in ("mean", "sd")
    ]
    cells = [name, plus_minus([r.cost.cpu for r in runs], ".1f"), plus_minus(ratio, ".1f") if ratio else "-",
             f"{max(r.cost.peak_rss for r in runs) / 2**20:.0f}", *steps,
             plus_minus([1e3 * r.discriminator for r in runs], ".2f")]  # fmt: skip
    return "| " + " | ".join(cells) + " |"


def table(results: dict[str, list[Run]], peers: list[Run]) -> str:
    """All runs as a markdown table."""
    steps = f"iterations 1 to {ITERATIONS}"
    head = ["", "CPU s", "peer / this", "peak MiB", f"mean - exact, {steps}", f"sd - exact, {steps}", "10³ Δ"]
    lines = ["| " + " | ".join(head) + " |", "|:--" + "|--:" * (len(head) - 1) + "|"]
    return "\n".join(lines + [row(name, runs, peers) for name, runs in results.items()])


def arguments() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, nargs="+", default=[1], help="one toy and one training seed each")
    parser.add_argument("--peer-venv", type=Path, default=HERE / ".venv-omnifold", help="made where it is not there")
    parser.add_argument("--skip-peer", action="store_true", help="leave the public package out")
    return parser.parse_args()


def main() -> None:
    """Run everything and print the table."""
    options, core = arguments(), last_core()
    commands = {
        "nuinfer, networks 3 x 64": ours("mlp", 1),
        "nuinfer, networks 2 x 32": ours("small", 1),
        "nuinfer, trees": ours("trees", 1),
        "nuinfer, networks 3 x 64, 8 replicas": ours("mlp", 8),
        "nuinfer, networks 2 x 32, 8 replicas": ours("small", 8),
    }
    name = f"public {PEER.replace('==', ' ')}"
    if not options.skip_peer:
        commands[name] = peer(machine.peer_python(options.peer_venv, "omnifold_public.txt", PEER))
    results: dict[str, list[Run]] = {label: [] for label in commands}
    with tempfile.TemporaryDirectory() as folder:
        toy = Path(folder, "toy.npz")
        for seed in options.seeds:
            make_toy(seed, toy)
            for label, command in commands.items():
                results[label].append(run(command, toy, seed, core))
                print(f"seed {seed}: {label}: {results[label][-1].cost.cpu:.1f} CPU s", file=sys.stderr, flush=True)
    peers = results.get(name, [])
    print(f"\n{machine.describe(('torch', 'numpy', 'scikit-learn'))}; one thread", end="")
    print(f"; the peer: {peers[0].versions}\n" if peers else "\n")
    print(table(results, peers))


if __name__ == "__main__":
    main()
