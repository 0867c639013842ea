"""How near do neural posteriors come to the exact ones, beside the paper of the public benchmark sbibm?

Nine tasks, the first 1,000 and 10,000 of one set of simulations, ten observations each with 10,000 draws of a reference
posterior; the classifier two-sample score (C2ST: 0.5 is perfect, 1 is useless) between them and 10,000 draws of
`fit_posterior`, with one table of settings for all (its defaults).  The paper's numbers stand beside (NPE with a neural
spline flow), from its published tables.

    python -m benchmarks.sbibm [--tasks ...] [--simulations 1000 10000] [--members 5 1] [--folder FOLDER]

Results are written to the folder as they come: a run that was stopped goes on.  sbibm, its references and simulators,
runs in an environment of its own, made at the first run.

Source: Lueckmann, Boelts, Greenberg, Goncalves, Macke, arXiv 2101.04653.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks import machine

HERE = Path(__file__).resolve().parent
PEER = "sbibm==1.1.0"
MOST = 100_000  # simulations of the largest set

# mean C2ST over the ten observations of NPE at 1,000, 10,000 and 100,000 simulations: arXiv 2101.04653, tables of the
# repository sbi-benchmark/results (gaussian_mixture from the corrected re-run)
PAPER = {
    "two_moons": (0.725, 0.606, 0.542),
    "slcp": (0.975, 0.901, 0.832),
    "slcp_distractors": (0.982, 0.970, 0.863),
    "gaussian_linear": (0.695, 0.552, 0.506),
    "gaussian_linear_uniform": (0.696, 0.553, 0.509),
    "gaussian_mixture": (0.716, 0.615, 0.548),
    "bernoulli_glm": (0.863, 0.678, 0.559),
    "sir": (0.815, 0.680, 0.585),
    "lotka_volterra": (0.999, 0.997, 0.981),
}  # fmt: skip
SIZES = (1_000, 10_000, 100_000)


def task_file(name: str, size: int, folder: Path, peer_venv: Path) -> Path:
    """The npz of a task with at least so many simulations, made where it is not there."""
    total = 10_000 if size <= 10_000 else MOST
    place = folder / f"tasks-{total}"
    file = place / f"{name}.npz"
    if not file.exists():
        place.mkdir(parents=True, exist_ok=True)
        python = machine.peer_python(peer_venv, "sbibm.txt", PEER)
        print(f"{name}: {total:,} simulations", file=sys.stderr, flush=True)
        command: list[str | Path] = [python, HERE / "peers" / "sbibm_tasks.py", place, str(total), "1", name]
        machine.cpu_seconds(command, machine.one_thread())
    return file


def result(task: Path, size: int, members: int, folder: Path) -> dict[str, Any]:
    """C2ST and CPU seconds of one task, from the folder or anew."""
    file = folder / f"{task.stem}-{size}-{members}.json"
    if not file.exists():
        command: list[str | Path] = [
            sys.executable, "-m", "benchmarks.ours_sbibm", task, str(size), file, "--members", str(members),
        ]  # fmt: skip
        machine.cpu_seconds(command, machine.one_thread())
    found: dict[str, Any] = json.loads(file.read_text())
    print(f"{task.stem} {size} members {members}: C2ST {np.mean(found['c2st']):.3f}, training {found['training']:.0f} "
          f"CPU s", file=sys.stderr, flush=True)  # fmt: skip
    return found


def table(size: int, members: Sequence[int], tasks: Iterable[str], found: dict[tuple[str, int], dict[str, Any]]) -> str:
    """The markdown table of one number of simulations."""
    heads = [f"{m} network{'s' if m > 1 else ''} | CPU s" for m in members]
    lines = [f"| {size:,} simulations | paper | {' | '.join(heads)} |", "|---" * (2 + 2 * len(members)) + "|"]
    column, means = SIZES.index(size), []
    for name in tasks:
        scores = [float(np.mean(found[name, m]["c2st"])) for m in members]
        means.append([PAPER[name][column], *scores])
        cells = [f"{score:.3f} | {found[name, m]['training']:.0f}" for score, m in zip(scores, members, strict=True)]
        lines.append(f"| {name} | {PAPER[name][column]:.3f} | {' | '.join(cells)} |")
    total = [sum(found[name, m]["training"] for name in tasks) for m in members]
    paper, *own = np.mean(means, 0)
    cells = [f"**{score:.3f}** | {seconds:.0f}" for score, seconds in zip(own, total, strict=True)]
    return "\n".join([*lines, f"| mean | {paper:.3f} | {' | '.join(cells)} |"])


def main() -> None:
    """Print the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tasks", nargs="+", default=list(PAPER), choices=list(PAPER), metavar="TASK")
    parser.add_argument("--simulations", nargs="+", type=int, default=[1_000, 10_000], choices=SIZES)
    parser.add_argument("--members", nargs="+", type=int, default=[5, 1])
    parser.add_argument("--folder", type=Path, default=HERE.parent / "out" / "sbibm", help="results and simulations")
    parser.add_argument("--peer-venv", type=Path, default=HERE / ".venv-sbibm", help="made where it is not there")
    options = parser.parse_args()
    folder = options.folder.absolute()
    folder.mkdir(parents=True, exist_ok=True)
    for size in options.simulations:
        found = {}
        for name in options.tasks:
            task = task_file(name, size, folder, options.peer_venv)
            for members in options.members:
                found[name, members] = result(task, size, members, folder)
        print(table(size, options.members, options.tasks, found), flush=True)
        print()
    print(machine.describe(("torch", "zuko", "numpy")))


if __name__ == "__main__":
    main()
