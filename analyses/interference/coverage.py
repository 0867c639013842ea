"""How often the intervals contain the truth: pseudo-experiments of the exact generator, fitted by NSBI and exactly.

The data are drawn from the true model, never by reweighting with the learned ratios, which would cover by construction;
in each, the auxiliary measurements of the nuisances are drawn again, and all nuisances are fitted.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from concurrent.futures import Executor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import stats

import nuinfer as nu
from analyses import report
from analyses.interference.models import Exact, constraint
from nuinfer.intervals.likelihood_ratio import LikelihoodRatio
from nuinfer.likelihood import DifferentiableCost
from nuinfer.simulators import Interference

Floats = NDArray[np.float64]
Model = Callable[[nu.Events], DifferentiableCost]

LEVELS = (0.68, 0.95)
HEADER = ["", "bias / sigma", "pull width", "width / exact", "covers 68%", "covers 95%"]


@dataclass(frozen=True)
class Study:
    """By answer, over T pseudo-experiments: the best mu (T,), its error (T,), and t at the true mu (T,)."""

    truth: float
    best: dict[str, Floats]
    error: dict[str, Floats]
    t: dict[str, Floats]

    @property
    def toys(self) -> int:
        """T."""
        return len(self.best["exact"])

    def numbers(self, name: str) -> dict[str, report.Number]:
        """Bias in units of the error, width of the pulls, width over the exact one, coverage: with their errors."""
        pull = (self.best[name] - self.truth) / self.error[name]
        width, n, sd = self.error[name] / self.error["exact"], self.toys, pull.std(ddof=1)
        found = {
            "bias": report.number(pull.mean(), sd / np.sqrt(n), truth=0),
            "pull_width": report.number(sd, sd / np.sqrt(2 * (n - 1)), truth=1),
            "width_ratio": report.number(width.mean(), width.std(ddof=1) / np.sqrt(n), truth=1),
        }
        for level in LEVELS:
            inside = (self.t[name] <= stats.chi2.ppf(level, 1)).mean()
            found[f"covers_{100 * level:.0f}"] = report.number(inside, np.sqrt(level * (1 - level) / n), truth=level)
        return found

    def table(self) -> report.Table:
        """One row an answer."""
        caption = f"{self.toys} pseudo-experiments at mu = {self.truth:g}"
        return report.Table(caption, HEADER, [_row(name, self.numbers(name)) for name in self.best])


def _row(name: str, found: dict[str, report.Number]) -> list[str]:
    def text(key: str, style: str, scale: float = 1.0) -> str:
        return f"{scale * found[key]['value']:{style}} +- {scale * found[key]['uncertainty']:{style.lstrip('+')}}"

    return [
        name,
        text("bias", "+.3f"),
        text("pull_width", ".3f"),
        text("width_ratio", ".3f"),
        text("covers_68", ".1f", 100),
        text("covers_95", ".1f", 100),
    ]


def study(
    problem: Interference,
    models: Mapping[str, Model],
    *,
    toys: int,
    seed: int,
    truth: Mapping[str, float] | None = None,
    executor: Executor | None = None,
    checkpoint: Path | None = None,
    progress: bool = True,
) -> Study:
    """Draw and fit ``toys`` pseudo-experiments with the exact likelihood and with each of ``models``."""
    at = {"mu": 1.0, **dict.fromkeys(problem.nuisances, 0.0), **(truth or {})}
    every: dict[str, Model] = {"exact": lambda data: Exact(problem, data), **models}
    test = LikelihoodRatio(interest=("mu",))

    def toy(task: int, rng: np.random.Generator) -> dict[str, Any]:
        data = problem.data(rng, **at)
        auxiliary = constraint(problem).sample(at, rng)
        found = {}
        for name, model in every.items():
            tested = test.tested(at, model(data) + auxiliary, errors=True)
            found[name] = np.array([tested.best.values["mu"], tested.best.errors["mu"], tested.t])
        return found

    run = nu.tasks.run(toy, toys, seed=seed, executor=executor, checkpoint=checkpoint, name="toys", progress=progress)
    columns = {name: values.T for name, values in run.stacked().items()}
    best, error, t = ({name: c[k] for name, c in columns.items()} for k in range(3))
    return Study(at["mu"], best, error, t)
