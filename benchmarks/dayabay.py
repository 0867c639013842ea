"""What Daya Bay's predictions and fit cost: the differentiable model beside the collaboration's official one.

    python -m benchmarks.dayabay [--points 1000] [--rounds 5] [--peer-venv FOLDER] [--skip-peer]

Predictions are of all 546 bins at parameters that all move: mixing, splitting and the 19 values of the spectrum, as in
the covariance fit; and with all 1,078 parameters moving.  The official package (PyPI `dayabay-model`) runs in an
environment and a process of its own, with the same formulas at the same points; both fits start at the nominal
parameters, and the program stops where their minima disagree.

CPU seconds are ``time.process_time`` (one thread), the least of the rounds.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from analyses.dayabay import covariance, fits
from analyses.dayabay.model import Model
from benchmarks.machine import describe, one_thread, peer_python
from nuinfer import intervals

HERE = Path(__file__).parent
PEER = "dayabay-model==1.7.1"
ALL = 64  # points at which all parameters move


def seconds(call: Callable[[], Any], rounds: int) -> tuple[float, Any]:
    """The least CPU seconds of some rounds, after one that is not counted, and what the call gives."""
    found, least = call(), float("inf")
    for _ in range(rounds):
        start = time.process_time()
        found = call()
        least = min(least, time.process_time() - start)
    return least, found


def ours(points: int, rounds: int) -> dict[str, Any]:
    """The costs of this package's model."""
    start = time.process_time()
    model = Model()
    build = time.process_time() - start
    names, every = fits.free_names(model), model.parameters.names
    nominal, whole = (torch.tensor([model.parameters.value(n) for n in each], dtype=torch.float64)
                      for each in (names, every))  # fmt: skip
    width = torch.tensor([1e-3, 3e-5, *[0.01] * (len(names) - 2)], dtype=torch.float64)
    generator = torch.Generator().manual_seed(1)
    theta = nominal + width * torch.randn(points, len(names), generator=generator, dtype=torch.float64)
    moved = whole * (1 + 1e-3 * torch.randn(ALL, len(every), generator=generator, dtype=torch.float64))

    def slope() -> Any:
        at = nominal.clone().requires_grad_()
        return torch.autograd.grad(model.predict(at, names).sum(), at)

    with torch.no_grad():
        single, _ = seconds(lambda: [model.predict(point, names) for point in theta[:20]], rounds)
        batch, _ = seconds(lambda: model.predict(theta, names), rounds)
        total, _ = seconds(lambda: model.predict(moved, every), rounds)
    gradient, _ = seconds(lambda: [slope() for _ in range(20)], rounds)
    start = time.process_time()
    systematic = covariance.systematic(model)
    spread = time.process_time() - start
    at = model.parameters.values(names)
    fit, found = seconds(lambda: intervals.fit(fits.covariance_cost(model, systematic), at), 1)
    return {
        "build": build, "covariance": spread, "single": single / 20, "batch": batch / points, "all": total / ALL,
        "gradient": gradient / 20, "fit": fit, "calls": found.calls.gradient, "minimum": found.minimum,
    }  # fmt: skip


def peer(folder: Path) -> dict[str, Any]:
    """The costs of the official model, by a Python in ``folder``, which is made where it is not there."""
    python = peer_python(folder, "dayabay_official.txt", PEER)
    run = subprocess.run([python, HERE / "peers" / "dayabay_official.py"], env=one_thread(), check=True,
                         stdout=subprocess.PIPE, text=True)  # fmt: skip
    return dict(json.loads(run.stdout.splitlines()[-1]))


def row(name: str, own: float, other: float | None) -> str:
    beside = "" if other is None else f"{1e3 * other:,.1f}"
    ratio = "" if other is None else f"{other / own:,.0f}"
    return f"| {name} | {1e3 * own:,.2f} | {beside} | {ratio} |"


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--points", type=int, default=1000, help="of a batch")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--peer-venv", type=Path, default=HERE / ".venv-dayabay", help="made where it is not there")
    parser.add_argument("--skip-peer", action="store_true", help="leave the official package out")
    options = parser.parse_args()
    torch.set_num_threads(1)
    mine = ours(options.points, options.rounds)
    other = {} if options.skip_peer else peer(options.peer_venv)
    if other and abs(other["minimum"] - mine["minimum"]) > 0.05:
        raise SystemExit(f"the two fits disagree: chi2 = {mine['minimum']:.4f} and {other['minimum']:.4f}")
    print(f"{describe(('torch', 'numpy', 'iminuit'))}; dayabay-model {other.get('version', 'left out')}\n")
    print("| CPU ms | this model | official | official / this |\n|:--|--:|--:|--:|")
    print(row("a prediction", mine["single"], other.get("prediction")))
    print(row(f"a prediction, in batches of {options.points:,}", mine["batch"], other.get("prediction")))
    print(
        row(f"a prediction with all 1,078 parameters moving, in batches of {ALL}", mine["all"], other.get("prediction"))
    )
    print(row("a prediction with its gradient", mine["gradient"], None))
    print(row("building the model", mine["build"], other.get("build")))
    print(row("the covariance of all systematics", mine["covariance"], other.get("covariance")))
    print(row(f"the fit ({mine['calls']} gradients, {other.get('calls', '-')} values)", mine["fit"], other.get("fit")))


if __name__ == "__main__":
    main()
