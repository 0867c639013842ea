"""Measure neutrino oscillation by a posterior learned from simulations, and ask in every way whether it is right.

README.md tells what is simulated and measured, problem.py has the experiment, inference.py the posterior and its tests,
figures.py the figures.
"""

from __future__ import annotations

import argparse
import os
import time
from collections.abc import Sequence
from pathlib import Path

import nuinfer as nu
from analyses import report
from analyses.oscillation_posterior import figures, inference, problem
from analyses.oscillation_posterior.inference import Checks, Comparison, Outliers, Size
from analyses.oscillation_posterior.problem import PARAMETERS, TRUTH
from nuinfer.posterior import NeuralPosterior

TITLE = "Muon neutrino disappearance: an amortised posterior from simulations, beside the exact one"
TEXT = (
    "A beam of muon neutrinos is seen near and 295 km away. Two parameters of its oscillation are measured, with three "
    "nuisances: normalisation, energy scale and background. An experiment is a near count, a calibration, and an "
    "unordered list of some hundred far events with energy and pid. A conditional normalizing flow, whose summaries of "
    "the list are learned with it, is trained on simulated experiments once, and gives the posterior of every "
    "observation. The exact posterior is known here, on a grid with the nuisances integrated out. The survival "
    "probability does not tell the octants of theta23 apart, so that the posterior is a ridge or has two modes.",
)


def main() -> None:
    options = parse()
    size, seed = options.size, options.seed
    clock = time.process_time()

    # 1. Simulate experiments at draws of the prior: to learn from, and to test on.
    learn, test = (problem.simulations(n, seed=seed + 1000 * i) for i, n in enumerate((size.simulations, size.test)))
    held_out = problem.seen(test.events)
    observation = problem.observation(seed)
    print(f"{len(learn)} experiments, {learn.events.ragged('far.pid').counts.mean():.0f} far events each; observed "
          f"{observation['near'][0]:.0f} near and {observation.ragged('far.pid').counts[0]} far events")  # fmt: skip

    # 2. Learn the posterior.
    (options.out).mkdir(parents=True, exist_ok=True)
    simulated, clock = time.process_time() - clock, time.process_time()
    posterior = inference.fit(learn, size, seed=seed, checkpoint=options.out / "checkpoint")
    posterior.save(options.out / "posterior.safetensors")
    trained, clock = time.process_time() - clock, time.process_time()

    # 3. Beside the exact posterior: at the observation, and at others.
    others = held_out.select(slice(0, size.compared))
    found = [inference.compared(posterior, e, size, seed=seed)
             for e in (observation, *(others.select([i]) for i in range(len(others))))]  # fmt: skip
    best = posterior.map(observation, seed=seed)
    lost = inference.lost(posterior, held_out, 5 * size.compared, size.points // 2)

    # 4. Is it right, over all simulations and here?  Is the simulation like the observation?
    checks = inference.checked(posterior, held_out, observation, found[0].exact, size, seed=seed)
    models = inference.outliers(posterior, held_out, size, seed=seed)
    p_outlier = outlier_p(posterior, held_out, observation, seed)
    tested = time.process_time() - clock

    # 5. Show.
    tables = [measured(found[0], best), comparisons(found), verdicts(checks, p_outlier, lost), outliers(models)]
    numbers = {**numbers_of(found, best, lost), **numbers_of_checks(checks, p_outlier), **numbers_of_models(models),
               **{f"cpu.{name}": report.number(value) for name, value in
                  (("simulation", simulated), ("training", trained), ("tests", tested))}}  # fmt: skip
    pictures = figures.pictures(posterior, observation, found[0].exact, checks, seed=seed)
    print("\n" + "\n\n".join(map(str, tables)) + "\n")
    print(f"CPU seconds: simulation {simulated:.0f}, training {trained:.0f}, tests {tested:.0f}")
    print(report.write(options.out, title=TITLE, text=TEXT, tables=tables, pictures=pictures, seed=seed,
                       numbers=numbers))  # fmt: skip


def outlier_p(posterior: NeuralPosterior, test: nu.Events, observation: nu.Events, seed: int) -> float:
    """That the observation comes from the simulation."""
    simulated, observed = (inference.described(posterior, events) for events in (test, observation))
    return float(nu.diagnostics.out_of_distribution(simulated, observed, seed=seed).p_value[0])


# -- tables ------------------------------------------------------------------------------------------------------------


def measured(found: Comparison, best: dict[str, float]) -> report.Table:
    rows = []
    top = found.exact.best()
    for i, name in enumerate(PARAMETERS):
        rows.append([
            name, f"{TRUTH[name]:.3f}", f"{found.mean[i]:.4f} +- {found.standard_deviation[i]:.4f}",
            f"{found.exact.mean[i]:.4f} +- {found.exact.standard_deviation[i]:.4f}", f"{best[name]:.3f}",
            f"{top[i]:.3f}",
        ])  # fmt: skip
    header = ["", "put in", "neural posterior", "exact posterior", "its maximum", "exact"]
    caption = ("The observation: means and standard deviations; dm2_32 in 1e-3 eV^2. The maximum in sin2_theta23 may "
               "lie in either octant")  # fmt: skip
    return report.Table(caption, header, rows)


def comparisons(found: Sequence[Comparison]) -> report.Table:
    rows = []
    for i, one in enumerate(found):
        pairs = [f"{value:{form}}" for value, form in zip([*one.shift, *one.ratio], ["+.2f"] * 2 + [".2f"] * 2,
                                                          strict=True)]  # fmt: skip
        name = "the observation" if i == 0 else f"simulation {i}"
        rows.append([name, *pairs, f"{one.c2st:.3f} +- {one.c2st_error:.3f}", f"{one.divergence:.3f}"])
    header = ["", "shift, sin2", "dm2", "width, sin2", "dm2", "C2ST", "nats"]
    caption = ("Neural less exact posterior: shift of the mean in exact standard deviations, ratio of the widths, C2ST "
               "(0.5: cannot be told apart), Kullback-Leibler divergence")  # fmt: skip
    return report.Table(caption, header, rows)


def verdicts(checks: Checks, p_outlier: float, lost: tuple[float, float]) -> report.Table:
    levels = checks.coverage.levels.tolist()
    covered = [f"{100 * checks.coverage.observed[i]:.1f}% +- {100 * checks.coverage.error[i]:.1f}%"
               for i in (levels.index(0.68), levels.index(0.9))]  # fmt: skip
    rows = [
        ["ranks of the truth (SBC): p", f"{checks.sbc.p_value:.2g}", "above 0.01"],
        ["coverage of 68% regions", covered[0], "68%"],
        ["coverage of 90% regions", covered[1], "90%"],
        ["TARP: p", f"{checks.tarp.p_value:.2g}", "above 0.01"],
        ["the prior in place of the posterior, TARP: p", f"{checks.tarp_of_prior.p_value:.2g}", "far below 0.01"],
        ["nats lost on simulations", f"{lost[0]:.3f} +- {lost[1]:.3f}", "0"],
        ["at the observation, L-C2ST: p", f"{checks.local.p_value[0]:.2g}", "above 0.01"],
        ["importance weights: efficiency", f"{100 * checks.importance.efficiency:.1f}%", "100%"],
        ["their tail, Pareto k", f"{checks.importance.pareto_k:.2f}", "below 0.7"],
        ["posterior predictive: p", f"{checks.predictive.p_value:.2g}", "above 0.01"],
        ["is the observation like the simulations? p", f"{p_outlier:.2g}", "above 0.01"],
    ]
    return report.Table("Is it right?", ["", "found", "should be"], rows)


def outliers(models: dict[str, Outliers]) -> report.Table:
    rows = [[name, f"{100 * m.by_summaries:.0f}%", f"{100 * m.flagged:.0f}% +- {100 * m.flagged_error:.0f}%",
             f"{m.shift:+.2f}"] for name, m in models.items()]  # fmt: skip
    caption = ("Experiments of models that are not simulated: the share flagged as out of distribution "
               "(p < 0.01) by the summaries alone and with simple statistics beside them, and the mean shift of "
               "dm2 in standard deviations of its posterior")  # fmt: skip
    return report.Table(caption, ["", "by summaries", "with statistics", "shift of dm2"], rows)


# -- numbers -----------------------------------------------------------------------------------------------------------


def numbers_of(
    found: Sequence[Comparison], best: dict[str, float], lost: tuple[float, float]
) -> dict[str, report.Number]:
    first = found[0]
    numbers: dict[str, report.Number] = {}
    for i, name in enumerate(PARAMETERS):
        exact = first.exact
        numbers |= {
            f"neural.{name}": report.number(first.mean[i], first.standard_deviation[i], truth=TRUTH[name]),
            f"exact.{name}": report.number(exact.mean[i], exact.standard_deviation[i], truth=TRUTH[name]),
            f"neural.best.{name}": report.number(best[name], truth=float(exact.best()[i])),
        }
    for i, one in enumerate(found):
        values = (*one.shift, *one.ratio)
        names = [f"{what}.{name}" for what in ("shift", "width_ratio") for name in PARAMETERS]
        numbers |= {f"compared.{i}.{n}": report.number(v) for n, v in zip(names, values, strict=True)}
        numbers[f"compared.{i}.c2st"] = report.number(one.c2st, one.c2st_error, truth=0.5)
        numbers[f"compared.{i}.nats"] = report.number(one.divergence, truth=0.0)
    return numbers | {"nats_lost": report.number(*lost, truth=0.0)}


def numbers_of_checks(checks: Checks, p_outlier: float) -> dict[str, report.Number]:
    covered, weights = checks.coverage, checks.importance
    p_values = {
        "sbc": checks.sbc.p_value, "tarp": checks.tarp.p_value, "tarp_of_prior": checks.tarp_of_prior.p_value,
        "coverage": checks.coverage.p_value, "local": float(checks.local.p_value[0]),
        "predictive": checks.predictive.p_value, "outlier": p_outlier,
    }  # fmt: skip
    return {
        **{f"p.{name}": report.number(value) for name, value in p_values.items()},
        **{f"coverage.{100 * level:g}": report.number(covered.observed[i], covered.error[i], truth=level)
           for i, level in enumerate(covered.levels.tolist())},
        "importance.efficiency": report.number(weights.efficiency),
        "importance.pareto_k": report.number(weights.pareto_k),
        "importance.log_evidence": report.number(weights.log_evidence, weights.log_evidence_error),
    }  # fmt: skip


def numbers_of_models(models: dict[str, Outliers]) -> dict[str, report.Number]:
    return {
        f"{what}.{name}": number
        for name, m in models.items()
        for what, number in (
            ("flagged_by_summaries", report.number(m.by_summaries)),
            ("flagged", report.number(m.flagged, m.flagged_error)),
            ("shift", report.number(m.shift)),
        )
    }


def parse() -> argparse.Namespace:
    summary = (__doc__ or "").split("\n")[0]
    parser = argparse.ArgumentParser(prog="python -m analyses.oscillation_posterior", description=summary)
    parser.add_argument("--simulations", type=int, help="experiments to learn from (50,000; 2,000 with --fast)")
    parser.add_argument("--members", type=int, help="networks whose mean is the answer (5; 2 with --fast)")
    parser.add_argument("--seed", type=int, default=1, help="of simulation, observation and training (1)")
    parser.add_argument("--fast", action="store_true", help="a small run; NUINFER_FAST=1 does the same")
    parser.add_argument("--out", type=Path, default=Path("out/oscillation_posterior"), help="folder for the results")
    options = parser.parse_args()
    fast = options.fast or os.environ.get("NUINFER_FAST", "0") not in ("", "0")
    given = {name: getattr(options, name) for name in ("simulations", "members") if getattr(options, name)}
    options.size = (Size.fast if fast else Size)(**given)
    return options


if __name__ == "__main__":
    main()
