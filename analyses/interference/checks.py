"""Are the learned ratios to be trusted?  `nuinfer.likelihood.report`, on simulated events that no network saw.

Every sample here is the same events with other weights.  The report knows them by their ids, so that the errors of its
simulation closure are those of what is left when the common fluctuations cancel.
"""

from __future__ import annotations

import re
from collections.abc import Mapping

import nuinfer as nu
from analyses import report
from analyses.interference.models import constraint
from analyses.interference.simulation import SAMPLES, SHAPES, Simulation
from nuinfer.likelihood import Mixture, Report
from nuinfer.likelihood import report as check

HEADER = ["", "checks", "failed", "least probable", "found", "exact", "p"]
_EVERY = slice(0, None, 4)  # of the events: as many as normalise the model


def checked(simulation: Simulation, model: Mixture, data: nu.Events, fitted: Mapping[str, float], seed: int) -> Report:
    """The report on a model: its ratios, its closure at mu = 1 and nominal nuisances, and the data at the best fit."""
    columns = simulation.problem.columns

    def thinned(events: nu.Events) -> nu.Events:
        return events.keep(columns).select(_EVERY)

    def ends(name: str, nuisance: str) -> tuple[nu.Events, nu.Events]:
        down, up = (thinned(simulation.sample(name, **{nuisance: value})) for value in (-1.0, 1.0))
        return down, up

    return check(
        model,
        thinned(simulation.reference),
        {name: thinned(simulation.sample(name)) for name in SAMPLES},
        at={"mu": 1.0, **dict.fromkeys(simulation.problem.nuisances, 0.0)},
        constraints=[constraint(simulation.problem)],
        varied={name: {nuisance: ends(name, nuisance) for nuisance in SHAPES[name]} for name in SAMPLES},
        data=data.keep(columns),
        fitted={name: fitted[name] for name in model.names},
        seed=seed,
    )


def words(found: Report) -> str:
    """The verdict: what failed and what to do about it, and the notes, without the checks that passed."""
    return "\n".join(line for line in str(found).split("\n") if not line.startswith("passed"))


def verdict(found: Report) -> report.Table:
    """The same for the page, a line a row."""
    first, *rest = words(found).replace("\n        ", "; ").split("\n")
    rows = [[_powers(line.replace("FAILED  ", "").replace("note    ", "Note: "))] for line in rest]
    return report.Table("The learned model, checked by simulation and data:", [first], rows)


def table(found: Report) -> report.Table:
    """A row a kind of check, with the check of it that is least probable for an exact model."""
    kinds = {c.kind: [other for other in found.checks if other.kind == c.kind] for c in found.checks}
    rows = []
    for kind, checks in kinds.items():
        worst, failed = min(checks, key=lambda c: c.p), sum(c.failed for c in checks)
        error = f" +- {worst.error:.2g}" if worst.error else ""
        rows.append([kind, str(len(checks)), str(failed), worst.subject, _powers(f"{worst.value:.4g}{error}"),
                     f"{worst.exact:g}", _powers(f"{worst.p:.2g}")])  # fmt: skip
    return report.Table("Checks of the learned model: by kind how many, and the one least probable for an exact model",
                        HEADER, rows)  # fmt: skip


def _powers(text: str) -> str:
    """1.1e-06 as 1.1 x 10^-6."""
    return re.sub(r"([\d.]+)e([+-]\d+)", lambda found: f"{found[1]} x 10^{int(found[2])}", text)


def numbers(found: Report) -> dict[str, report.Number]:
    """What goes into results.json: how many failed, and the figure of each check."""
    each = {f"checks.{c.kind}.{c.subject}": report.number(c.value, c.error, truth=c.exact) for c in found.checks}
    counts = {"number": len(found.checks), "failed": len(found.failed)}
    return {**{f"checks.{name}": report.number(count) for name, count in counts.items()}, **each}
