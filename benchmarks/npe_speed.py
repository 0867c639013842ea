"""What do posteriors and ratios cost to train, beside `sbi`, on the same 10,000 simulations?

Tasks of the public package sbibm, one thread, CPU seconds.  Every row of a table is a process of its own.

(npe) A posterior: sbi's NPE with a neural spline flow of zuko, against `fit_posterior`.  Each side has its defaults;
`fit_posterior` runs shorter schedules too, so that one sees what it takes to reach the quality of the peer.  Quality is
the mean of log q(theta | x) over 10,000 other simulations.  sbi's flow does not know the prior's box: as its own
`log_prob` does, its density is divided by the share of it that lies inside, here from 100 draws at each of the other
simulations (this judging is not in the costs).

(nre) A ratio: sbi's NRE at batch 1,000 against `fit_parametrised_ratio`.  Seconds an epoch, one pass over the
simulations, are those of 30 epochs less those of 10, over 20, so that the start falls out.  Each simulated pair
(theta, x) of a batch is compared with A - 1 others whose theta is another one's, A atoms; sbi's default is A = 10, and
A = 2 is what `fit_parametrised_ratio` does, with about 1,000 simulated and 1,000 shuffled pairs in a batch of 2,000
rows.  "gain" is what 30 epochs reach: the mean of log posterior - log prior over 500 other simulations, with the
posterior normalised over the theta of the simulations.

    python -m benchmarks.npe_speed [--tasks two_moons slcp] [--parts npe nre] [--runs 1x10 1x100 5x100] [--seed 1]
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from benchmarks import machine, sbibm

HERE = Path(__file__).resolve().parent
SIMULATIONS = 10_000
RUNS = [(n, epochs) for n in (1, 5) for epochs in (10, 20, 40, 100)]  # networks, epochs; the last are the defaults
RATIO_EPOCHS = ("10", "30")

Found = dict[str, Any]
Command = list[str | Path]


class Files(NamedTuple):
    """Simulations to train on, others to judge by, and where a process writes."""

    task: Path
    others: Path
    result: Path


# -- simulations and processes -----------------------------------------------------------------------------------------


def other_file(name: str, folder: Path, python: Path) -> Path:
    """The npz of a task's other simulations, made where it is not there."""
    place = folder / f"others-{SIMULATIONS}"
    file = place / f"{name}.npz"
    if not file.exists():
        place.mkdir(parents=True, exist_ok=True)
        print(f"{name}: {SIMULATIONS:,} other simulations", file=sys.stderr, flush=True)
        command: Command = [python, HERE / "peers" / "sbibm_tasks.py", place, str(SIMULATIONS), "2", name]
        machine.cpu_seconds(command, machine.one_thread())
    return file


def run(label: str, program: Command, what: str, files: Files, options: Sequence[str]) -> Found:
    """What a process wrote."""
    command: Command = [*program, what, *files, *options]
    machine.cpu_seconds(command, machine.one_thread())
    with np.load(files.result) as file:
        found = dict(file)
    spent = found["training"] if what == "npe" else np.diff(found["seconds"])[0]
    print(f"{files.task.stem}, {what}: {label}: {spent:.1f} CPU s", file=sys.stderr, flush=True)
    return found


# -- posteriors --------------------------------------------------------------------------------------------------------


def posterior_row(name: str, networks: int, found: Found, peer: Found) -> str:
    """One line; the error of log q is that of the difference from the peer's, over the same simulations."""
    apart = found["log_q"] - peer["log_q"]
    more = "-" if found is peer else f"{apart.mean():+.3f} ± {apart.std() / len(apart) ** 0.5:.3f}"
    cells = [name, f"{networks}", f"{int(found['epochs'])}", f"{found['log_q'].mean():.3f}", more,
             f"{float(found['training']):.1f}", f"{float(found['whole']):.1f}",
             f"{float(peer['training'] / found['training']):.1f}"]  # fmt: skip
    return f"| {' | '.join(cells)} |"


def cheapest(networks: int, runs: dict[tuple[int, int], Found], peer: Found) -> str:
    """What it takes to reach the peer's log q."""
    own = [r for (members, _), r in runs.items() if members == networks]
    enough = [r for r in own if r["log_q"].mean() >= peer["log_q"].mean()]
    kind = f"{networks} network{'s' if networks > 1 else ''}"
    if not enough:
        return f"- {kind}: no run reaches the peer's log q."
    best = min(enough, key=lambda r: float(r["training"]))
    times = float(peer["training"] / best["training"])
    return f"- {kind}: the peer's log q in {float(best['training']):.1f} CPU s, {times:.1f} times less than the peer."


def posteriors(files: Files, python: Path, runs: Sequence[tuple[int, int]], seed: str) -> str:
    """The table of one task."""
    program: Command = [python, HERE / "peers" / "sbi_npe.py"]
    peer, own = run("sbi", program, "npe", files, ["--seed", seed]), {}
    for members, epochs in runs:
        options = ["--members", str(members), "--epochs", str(epochs), "--seed", seed]
        own[members, epochs] = run(f"ours, {members} x {epochs}", ours(), "npe", files, options)
    head = [files.task.stem, "networks", "epochs", "log q", "more than sbi", "CPU s, training", "with imports",
            "sbi / this"]  # fmt: skip
    lines = [f"| {' | '.join(head)} |", "|:--" + "|--:" * (len(head) - 1) + "|", posterior_row("sbi", 1, peer, peer)]
    lines += [posterior_row(f"nuinfer, of at most {e}", m, r, peer) for (m, e), r in own.items()]
    lines += ["", *(cheapest(m, own, peer) for m in dict.fromkeys(members for members, _ in own))]
    lines += [f"- Of the exact posterior: {exact_two_moons(files.others):.3f}."] * (files.task.stem == "two_moons")
    return "\n".join([*lines, leakage(peer)])


def exact_two_moons(others: Path) -> float:
    """The mean log density of two_moons' exact posterior at its simulations, the most that any q reaches on average.

    x = c + s with c = (r cos a + 1/4, r sin a), r ~ N(0.1, 0.01^2), a uniform on (-pi/2, pi/2), and
    s = (-|theta0 + theta1|, theta1 - theta0) / sqrt 2, which folds the prior's square, of density 1/4, once:
    p(x) is half the probability that x - c lies in what comes of it.
    """
    with np.load(others) as file:
        theta, x = file["theta"].astype(np.float64), file["x"].astype(np.float64)
    rng, root = np.random.default_rng(1), np.sqrt(2)
    radius, angle = rng.normal(0.1, 0.01, 4000), rng.uniform(-np.pi / 2, np.pi / 2, 4000)
    crescent = np.stack([radius * np.cos(angle) + 0.25, radius * np.sin(angle)], 1)
    shifts = (given - crescent for given in x)
    inside = np.array([((s[:, 0] <= 0) & (np.abs(s).sum(1) <= root)).mean() for s in shifts])
    shift = np.stack([-np.abs(theta.sum(1)), theta[:, 1] - theta[:, 0]], 1) / root
    r = np.hypot(*(x - shift - [0.25, 0]).T)
    likelihood = -0.5 * ((r - 0.1) / 0.01) ** 2 - np.log(0.01 * np.sqrt(2 * np.pi) * np.pi * r)
    return float((likelihood + np.log(0.25) - np.log(0.5 * inside)).mean())


def leakage(peer: Found) -> str:
    """How much of sbi's flow lies outside the prior, and what its log q is when that is left in."""
    share, bare = 100 * float(peer["outside"].mean()), float(peer["log_q_bare"].mean())
    none = int((peer["outside"] == 1).sum())
    return (f"- {share:.2f}% of sbi's flow lies outside the prior; without the division its log q is {bare:.3f}; "
            f"{none} simulations had no draw inside and count as with one.")  # fmt: skip


def ours() -> Command:
    """The program of this library."""
    return [sys.executable, "-m", "benchmarks.ours_npe"]


# -- ratios ------------------------------------------------------------------------------------------------------------


def ratio_row(name: str, rows: int, found: Found, peers: Sequence[Found]) -> str:
    """One line, with the times of ``peers`` over this one's."""
    per_epoch = float(np.diff(found["seconds"])[0]) / 20
    times = [f"{float(np.diff(p['seconds'])[0]) / 20 / per_epoch:.1f}" for p in peers]
    gain = found["gain"]
    cells = [
        name,
        f"{rows:,}",
        f"{1e3 * per_epoch:.0f}",
        *times,
        f"{gain.mean():.2f} ± {gain.std() / len(gain) ** 0.5:.2f}",
    ]
    return f"| {' | '.join(cells)} |"


def ratios(files: Files, python: Path, seed: str) -> str:
    """The table of one task."""
    peer: Command = [python, HERE / "peers" / "sbi_npe.py"]
    end, found = ["--epochs", *RATIO_EPOCHS, "--seed", seed], {}
    for classifier, atoms in (("resnet", 10), ("resnet", 2), ("mlp", 2)):
        label = f"sbi, {classifier}, {atoms} atoms"
        options = ["--classifier", classifier, "--atoms", str(atoms), *end]
        found[label] = (1000 * atoms, run(label, peer, "nre", files, options))
    for classifier, batch in (("resnet", 2000), ("mlp", 2000), ("mlp", 1000)):
        label = f"nuinfer, {classifier}, batch {batch:,}"
        options = ["--classifier", classifier, "--batch", str(batch), *end]
        found[label] = (batch, run(label, ours(), "nre", files, options))
    peers = list(found.values())[:3]
    head = [
        files.task.stem,
        "rows a step",
        "CPU ms an epoch",
        *(f"sbi {k[5:]} / this" for k in list(found)[:3]),
        "gain",
    ]
    lines = [f"| {' | '.join(head)} |", "|:--" + "|--:" * (len(head) - 1) + "|"]
    return "\n".join(lines + [ratio_row(k, rows, r, [p for _, p in peers]) for k, (rows, r) in found.items()])


# -- all ---------------------------------------------------------------------------------------------------------------


def networks_and_epochs(text: str) -> tuple[int, int]:
    """(5, 100) of "5x100"."""
    members, _, epochs = text.partition("x")
    return int(members), int(epochs)


def arguments() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tasks", nargs="+", default=["two_moons", "slcp"], choices=list(sbibm.PAPER), metavar="TASK")
    parser.add_argument("--parts", nargs="+", default=["npe", "nre"], choices=("npe", "nre"))
    parser.add_argument(
        "--runs", nargs="+", type=networks_and_epochs, default=RUNS, metavar="NETWORKSxEPOCHS", help="of fit_posterior"
    )  # fmt: skip
    parser.add_argument("--seed", default="1", help="of training")
    parser.add_argument("--folder", type=Path, default=HERE.parent / "out" / "sbibm", help="simulations")
    parser.add_argument("--peer-venv", type=Path, default=HERE / ".venv-sbibm", help="made where it is not there")
    return parser.parse_args()


def main() -> None:
    """Print the tables."""
    options = arguments()
    python, folder = machine.peer_python(options.peer_venv, "sbibm.txt", sbibm.PEER), options.folder.absolute()
    print(f"{machine.describe(('torch', 'zuko', 'numpy'))}; one thread\n", flush=True)
    with tempfile.TemporaryDirectory() as place:
        for name in options.tasks:
            task = sbibm.task_file(name, SIMULATIONS, folder, options.peer_venv)
            files = Files(task, other_file(name, folder, python), Path(place, "result.npz"))
            if "npe" in options.parts:
                print(posteriors(files, python, options.runs, options.seed), end="\n\n", flush=True)
            if "nre" in options.parts:
                print(ratios(files, python, options.seed), end="\n\n", flush=True)


if __name__ == "__main__":
    main()
