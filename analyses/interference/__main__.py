"""Measure a signal strength that interferes with its background: four answers on the same pseudo-data.

README.md tells what is simulated and measured, simulation.py what one sample of weighted events says of everything,
models.py what is learned from it, histogram.py how the same is done in bins.
"""

from __future__ import annotations

import argparse
import os
from collections.abc import Mapping
from pathlib import Path

import numpy as np
from iminuit.cost import Cost
from numpy.typing import NDArray

import nuinfer as nu
from analyses import report
from analyses.interference import checks, histogram
from analyses.interference.coverage import study
from analyses.interference.models import Exact, Learning, LogRatio, Target, constraint, exact_ratios, learn, mixture
from analyses.interference.simulation import Simulation
from nuinfer import intervals
from nuinfer.likelihood import Mixture

Floats = NDArray[np.float64]

TRUTH = {
    "mu": 1.0,
    "luminosity": 0.5,
    "signal": 0.0,
    "background": 1.0,
    "hardness": -0.8,
    "scale": 0.7,
    "resolution": -0.5,
}
LABELS = {"mu": r"$\mu$"}
GROUPS = {"norms": ("luminosity", "signal", "background"), "shapes": ("hardness", "scale", "resolution")}
BINS = 12
HEADER = ["", "mu", "down", "up", "width / exact", "gradients"]
TITLE = "Signal, background and their interference: a signal strength from neural likelihood ratios"
TEXT = (
    "A signal of strength mu interferes with its background in five dimensions; six nuisance parameters change norms "
    "and shapes, and are known to one standard deviation each. The density ratios of the samples S, B and SBI, and of "
    "their variations, are learned from weighted simulated events, a few per cent of which have negative weights, and "
    "make one unbinned likelihood. The exact likelihood is known here, so that the answer can be compared with it, and "
    "with that of a histogram of the best observable, fitted through pyhf."
)


def main() -> None:
    options = parse()

    # 1. Simulate; draw pseudo-data at nuisances that differ from the nominal ones.
    simulation = Simulation(events=options.events, seed=options.seed)
    problem = simulation.problem
    data = problem.data(options.seed, **TRUTH)
    auxiliary = constraint(problem)
    negative = float((simulation.reference.weight < 0).mean())
    print(
        f"{len(simulation.reference)} simulated events, {100 * negative:.1f}% of negative weight; {len(data)} observed"
    )

    # 2. Learn three ratios and twenty variations, out of fold, and put them together.
    learning = Learning(members=options.members, fast=options.fast, seed=options.seed)
    ratios = learn(simulation, learning, options.out / "ratios")
    reference = simulation.reference.keep(problem.columns).select(slice(0, None, 4))  # enough to normalise with
    nsbi, exact = (mixture(simulation, r, reference) for r in (ratios, exact_ratios(problem)))

    # 3. The same data in a histogram of the most sensitive observable: a column, or the classifier of S against B.
    observables = {**{name: name for name in problem.columns}, "log S/B": signal_over_background(ratios)}
    best, expected = histogram.best(simulation, observables, BINS)
    edges = histogram.bins(simulation, observables[best], BINS)
    print("expected uncertainties of histograms: " + ", ".join(f"{k} {v:.3f}" for k, v in expected.items()))

    # 4. Fit.
    fixed = dict.fromkeys(problem.nuisances, 0.0)
    costs: dict[str, Cost] = {
        "exact": Exact(problem, data) + auxiliary,
        "exact ratios, interpolated": exact(data) + auxiliary,
        "NSBI": nsbi(data) + auxiliary,
        "histogram": histogram.PyhfCost(simulation, data, observables[best], edges),
        "NSBI without nuisances": nsbi(data) + auxiliary,
    }
    held = {name: fixed if "without" in name else {} for name in costs}
    fits = {name: intervals.fit(cost, {"mu": 1.0}, fixed=held[name]) for name, cost in costs.items()}
    errors = {name: intervals.minos(cost, "mu", start=fits[name].values, fixed=held[name])
              for name, cost in costs.items()}  # fmt: skip
    caption = f"mu = {TRUTH['mu']:g} was put in; 68% intervals of the profile likelihood; the histogram is of {best}"
    table = report.Table(caption, HEADER,
                         [row(name, fits[name], errors[name], errors["exact"]) for name in costs])  # fmt: skip
    numbers = {f"{name}.{k}": n for name in costs for k, n in entries(fits[name], errors[name]).items()}

    # 5. Count how often the intervals contain the truth, if asked for.
    tables = [table, nuisance_table(fits)]
    if options.toys:
        found = study(problem, {"NSBI": nsbi}, toys=options.toys, seed=options.seed, executor=nu.processes())
        tables.append(found.table())
        numbers |= {f"toys.{name}.{k}": n for name in found.best for k, n in found.numbers(name).items()}

    # 6. Ask whether the model is to be trusted.
    trust = checks.checked(simulation, nsbi, data, fits["NSBI"].values, options.seed)
    tables.append(checks.table(trust))
    numbers |= checks.numbers(trust)

    # 7. Show the likelihoods, what limits the measurement, where its information lies, and whether ratios are right.
    impacts = intervals.impacts(costs["NSBI"], "mu", groups=GROUPS, start=fits["NSBI"].values)
    numbers |= parts(impacts)
    pictures = [
        profiles(costs, fits, held),
        pulls_and_impacts(impacts),
        breakdown(impacts),
        optimal_observable(nsbi, reference, data, fits["NSBI"].values),
        reliability(simulation, ratios),
    ]
    print("\n" + "\n\n".join([*map(str, tables), checks.words(trust)]) + "\n")
    tables.append(checks.verdict(trust))
    print(report.write(options.out, title=TITLE, text=[TEXT], tables=tables, pictures=pictures, seed=options.seed,
                       numbers=numbers))  # fmt: skip


def signal_over_background(ratios: Mapping[Target, LogRatio]) -> histogram.Observable:
    """The classifier that a histogram would be made of: log p_S / p_B."""
    return lambda events: ratios[Target("S")].log(events) - ratios[Target("B")].log(events)


def row(name: str, fit: intervals.Fit, errors: intervals.Minos, exact: intervals.Minos) -> list[str]:
    down, up = float(errors.down[0]), float(errors.up[0])
    ratio = (down + up) / float(exact.down[0] + exact.up[0])
    return [name, f"{fit.values['mu']:.3f}", f"-{down:.3f}", f"+{up:.3f}", f"{ratio:.2f}", str(fit.calls.gradient)]


def entries(fit: intervals.Fit, errors: intervals.Minos) -> dict[str, report.Number]:
    """What goes into results.json of one answer."""
    nuisances = {
        name: report.number(fit.values[name], fit.errors[name], truth=TRUTH[name]) for name in fit.free if name != "mu"
    }
    return {
        "mu": report.number(fit.values["mu"], fit.errors["mu"], truth=TRUTH["mu"]),
        "down": report.number(errors.down[0]),
        "up": report.number(errors.up[0]),
        "gradients": report.number(fit.calls.gradient),
        **nuisances,
    }


def nuisance_table(fits: Mapping[str, intervals.Fit]) -> report.Table:
    """The fitted nuisances, by answer."""
    shown = {name: fit for name, fit in fits.items() if not fit.fixed}
    rows = [
        [name, f"{TRUTH[name]:+.1f}", *(f"{fit.values[name]:+.2f} +- {fit.errors[name]:.2f}" for fit in shown.values())]
        for name in TRUTH
        if name != "mu"
    ]
    return report.Table("Nuisance parameters, in units of their prior uncertainty", ["", "put in", *shown], rows)


def profiles(
    costs: Mapping[str, Cost], fits: Mapping[str, intervals.Fit], held: Mapping[str, dict[str, float]]
) -> report.Picture:
    """The profile likelihoods of mu; without nuisances dashed."""
    curves = {
        name: intervals.profile(cost, "mu", points=15, start=fits[name].values, fixed=held[name])
        for name, cost in costs.items()
        if "interpolated" not in name
    }
    dashed = {"NSBI": curves.pop("NSBI without nuisances")}
    axes = nu.plots.profile(curves, stat_only=dashed, truth=TRUTH["mu"], label=LABELS["mu"])
    return report.Picture("profiles", axes, "the answers on the same pseudo-data; dashed: NSBI without nuisances")


def pulls_and_impacts(impacts: intervals.Impacts) -> report.Picture:
    axes = nu.plots.impacts(impacts, labels=LABELS)
    return report.Picture("impacts", axes[0], "pulls of the nuisances and their impacts on mu, by NSBI")


def breakdown(impacts: intervals.Impacts) -> report.Picture:
    axes = nu.plots.breakdown(impacts, labels=LABELS)
    return report.Picture("breakdown", axes, "the uncertainty of mu by its sources: norms are luminosity and cross "
                          "sections, shapes the hardness of the background and the detector")  # fmt: skip


def parts(impacts: intervals.Impacts) -> dict[str, report.Number]:
    """What goes into results.json of the uncertainty's sources."""
    sizes = {"statistical": impacts.statistical, **impacts.groups, "total": impacts.error}
    return {f"NSBI.uncertainty.{name}": report.number(size) for name, size in sizes.items()}


def optimal_observable(
    model: Mixture, reference: nu.Events, data: nu.Events, at: Mapping[str, float]
) -> report.Picture:
    """Where the information on mu lies: d log rate / d mu of the expected and the observed events."""
    axes = nu.plots.optimal_observable(
        model.optimal_observable(reference, "mu", **at),
        model.expected_events(reference, **at),
        data=model.optimal_observable(data, "mu", **at),
        xlabel=r"$\partial \log \lambda(x) / \partial \mu$",
    )
    return report.Picture("optimal_observable", axes[0], "what each event says of mu: expected at the best fit, by "
                          "coefficient times process, and observed")  # fmt: skip


def reliability(simulation: Simulation, ratios: Mapping[Target, LogRatio]) -> report.Picture:
    """SBI against the reference, scored out of fold; alternate events for either, which are independent."""
    columns, ratio = simulation.problem.columns, ratios[Target("SBI")]
    one, other = (simulation.sample("SBI").select(slice(0, None, 2)), simulation.reference.select(slice(1, None, 2)))
    logs = [ratio.log(events.keep(columns)) for events in (one, other)]
    curve = nu.metrics.reliability(*logs, weight_numerator=one.weight, weight_denominator=other.weight, bins=12)
    return report.Picture("reliability", nu.plots.reliability(curve)[0], "the learned probability of SBI against the "
                          "reference, on simulated events that its network did not see")  # fmt: skip


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m analyses.interference", description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--members", type=int, help="networks a ratio, whose mean is the answer (2; 1 with --fast)")
    parser.add_argument("--events", type=int, help="simulated events (200,000; 12,000 with --fast)")
    parser.add_argument("--seed", type=int, default=1, help="of simulation, pseudo-data and training (1)")
    parser.add_argument("--toys", type=int, default=0, help="pseudo-experiments of a coverage study (none)")
    parser.add_argument("--fast", action="store_true", help="a small run; NUINFER_FAST=1 does the same")
    parser.add_argument("--out", type=Path, default=Path("out/interference"), help="folder for the results")
    options = parser.parse_args()
    options.fast |= os.environ.get("NUINFER_FAST", "0") not in ("", "0")
    options.members = options.members or (1 if options.fast else 2)
    options.events = options.events or (12_000 if options.fast else 200_000)
    return options


if __name__ == "__main__":
    main()
