"""A flux-integrated double-differential cross-section from a toy of a liquid-argon detector, by five methods.

README.md tells what is simulated; unfolding.py has the methods, throwing.py the throws, figures.py the figures.
"""

from __future__ import annotations

import argparse
import os
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property, partial
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

import nuinfer as nu
from analyses import report
from analyses.numu_cross_section import figures, throwing, unfolding
from analyses.numu_cross_section.unfolding import BINNED, RECO, TRUTH, Samples, Size
from nuinfer.unfolding import Checks, Response, Spectrum, Thrown, check, check_events

Floats = NDArray[np.float64]

TITLE = "Muon-neutrino charged-current cross-section on argon: one response, five unfoldings, two generators"
TEXT = (
    "A toy beam makes charged-current interactions in a toy liquid-argon detector. The data are made by generator B, "
    "the simulation by generator A. The double-differential cross-section in the muon's momentum and angle is unfolded "
    "in bins (iterative Bayes, Wiener-SVD) and event by event (OmniFold on momentum and angle, OmniFold on the hits as "
    "well, draws from a conditional flow). Cross-sections are averaged over the nominal flux. Generators are compared "
    "through the additional smearing matrix A_C of the binned methods, and as they are with the others, which have "
    "none.",
    "Flux, cross-section model, two-nucleon rate, detector scale and efficiency are thrown together with the "
    "statistics of data and simulation, the selection made anew in each throw, and every method unfolds the same "
    "universes. The binned methods are as they are in each throw; of OmniFold the last layers of the networks are "
    "fitted, and what training anew would add comes from the members; each throw of the flow is trained. The "
    "covariance is that of a regression on the nine knobs, whose own covariance is known, and of its residuals, which "
    "stand for as many replicas as there are throws less nine: with 24 bins chi-squared is scaled by Hartlap's factor "
    "and p is from Fisher's distribution, so that few throws make a weak test, not a wrong one.",
)
#: Throws run in so many processes; results do not depend on it.
PROCESSES = 2


@dataclass(frozen=True, eq=False)
class Found:
    """What all methods found, each with its throws."""

    samples: Samples
    response: Response
    thrown: dict[str, Thrown]
    checks: dict[str, Checks]

    @cached_property
    def spectra(self) -> dict[str, Spectrum]:
        return {name: one.spectrum for name, one in self.thrown.items()}

    @property
    def truth(self) -> dict[str, Floats]:
        return {model: self.samples.truth(model) for model in "AB"}


def main() -> None:
    options = parse()
    size, seed = options.size, options.seed
    clock = time.monotonic()
    samples = Samples.of(size, seed)
    simulation, background = samples.selected
    print(f"{len(samples.data)} events of data, {len(simulation)} of simulation, {len(background)} of background")
    found = unfolded(samples, size, seed)
    tables = [totals(found), comparisons(found), sources(found), *verdicts(found)]
    numbers = {**numbers_of(found), "seconds": report.number(time.monotonic() - clock)}
    print("\n" + "\n\n".join(map(str, tables)) + "\n")
    print(f"{numbers['seconds']['value']:.0f} seconds, {PROCESSES} processes")
    pictures = figures.pictures(found.response, found.spectra, found.truth, samples.pot)
    print(report.write(options.out, title=TITLE, text=TEXT, tables=tables, pictures=pictures, seed=seed,
                       numbers=numbers))  # fmt: skip


def unfolded(samples: Samples, size: Size, seed: int) -> Found:
    """Every method, and the checks of each."""
    simulation, background = samples.selected
    response = unfolding.response_of(simulation)
    thrown = throwing.thrown(samples, size, seed, executor=nu.processes(PROCESSES))
    checks = {name: checked(name, samples, response, size, seed) for name in BINNED}
    checks["OmniFold"] = check_events(
        unfolding.omnifolded(samples, size, seed), samples.data, truth=TRUTH, reco=RECO, features=unfolding.HIGH,
        background=background, seed=seed, training=nu.Training(epochs=4, batch=512),
    )  # fmt: skip
    return Found(samples, response, thrown, checks)


def checked(name: str, samples: Samples, response: Response, size: Size, seed: int) -> Checks:
    """All checks of a binned method; its own covariance, of the statistics."""
    counts, background = RECO.fill(samples.data)[0], samples.selected[1]
    unfold = partial(_unfold, name, background)
    truths = {model: samples.truth(model) for model in "BA"}
    return check(
        unfold(counts, response), counts, response, unfold, background=background, models=truths,
        priors=unfolding.other_priors(name, counts, response, background, truths["B"]),
        iterations=unfolding.steps(counts, response, background) if name == "iterative Bayes" else (),
        toys=size.toys, seed=seed, progress=False,
    )  # fmt: skip


def _unfold(name: str, background: nu.Events, data: Floats, response: Response) -> Spectrum:
    return BINNED[name](data, response, background)


# -- tables ------------------------------------------------------------------------------------------------------------


def totals(found: Found) -> report.Table:
    """The total cross-section of the phase space, 1e-38 cm^2 / nucleon."""
    rows = []
    for name, spectrum in found.spectra.items():
        whole, part = (unfolding.measured(one, found.samples.pot).integrated()
                       for one in (spectrum, of_sources(spectrum, "remainder", "method")))  # fmt: skip
        rows.append([name, *(f"{1e38 * v:.4f}" for v in (whole.value, whole.uncertainty, part.uncertainty)),
                     str(len(found.thrown[name].spectra))])  # fmt: skip
    for model, truth in found.truth.items():
        exact = unfolding.measured(Spectrum(TRUTH, truth, {"none": np.eye(TRUTH.size)}), found.samples.pot)
        rows.append([f"generator {model}", f"{1e38 * exact.integrated().value:.4f}", "exact", "", ""])
    header = ["", "1e-38 cm^2 / nucleon", "uncertainty", "of statistics, training", "throws"]
    return report.Table("Total cross-section of the bins; the data are generator B's", header, rows)


def of_sources(spectrum: Spectrum, *names: str) -> Spectrum:
    """With the covariances of these sources alone."""
    return replace(spectrum, covariances={n: c for n, c in spectrum.covariances.items() if n in names})


def comparisons(found: Found) -> report.Table:
    """Chi-squared through A_C, and the distance from B bin by bin."""
    rows, truth = [], found.truth
    for name, spectrum in found.spectra.items():
        smeared = spectrum.smear(truth["B"])
        off = np.abs(spectrum.values - smeared).sum() / smeared.sum()
        factor = f"{nu.metrics.hartlap(int(spectrum.draws), TRUTH.size):.2f}" if spectrum.enough_draws else "-"
        rows.append([name, *(_chi2(spectrum, truth[model]) for model in "BA"), factor, f"{100 * off:.1f}%"])
    rows.append(
        ["simulation (A)", "", "", "", f"{100 * np.abs(truth['A'] - truth['B']).sum() / truth['B'].sum():.1f}%"]
    )
    caption = ("Generators through A_C, where there is one: chi-squared with the covariance of all throws, p, "
               "Hartlap's factor; and the sum of |unfolded - A_C x B| over bins, in units of the total")  # fmt: skip
    return report.Table(caption, ["", "B (the truth)", "A", "factor", "off B"], rows)


def _chi2(spectrum: Spectrum, truth: Floats) -> str:
    if not spectrum.enough_draws:
        return "too few throws"
    found = spectrum.chi2(truth)
    return f"{found.value:.1f} / {found.dof}, p = {found.p_value:.2g}"


def sources(found: Found) -> report.Table:
    """The total's uncertainty by source, and whether methods move together from universe to universe."""
    rows, first = [], next(iter(found.thrown))
    for name, spectrum in found.spectra.items():
        each = throwing.by_source(spectrum)
        cells = [f"{100 * each[source]:.1f}%" if source in each else "-" for source in figures.SOURCES]
        together, spread = throwing.side_by_side(found.thrown[name], found.thrown[first])
        rows.append([name, *cells, f"{together:.3f}", f"{spread:.2f}"])
    caption = (f"Uncertainty of the total by source, from the regression of throws on knobs; correlation with {first} "
               f"over the universes that both have, and spread in units of its spread")  # fmt: skip
    return report.Table(caption, ["", *figures.SOURCES.values(), "correlation", "spread"], rows)


def verdicts(found: Found) -> list[report.Table]:
    words = {True: "pass", False: "FAIL", None: "not done"}
    return [
        report.Table(f"Checks of {name}", ["", "verdict", "found"],
                     [[one.name, words[one.passed], one.words] for one in checks])
        for name, checks in ((name, tuple(c.checks)) for name, c in found.checks.items())
    ]  # fmt: skip


def numbers_of(found: Found) -> dict[str, report.Number]:
    """Totals, their uncertainty by source, chi-squared, and every bin of the Wiener-SVD result with its truth."""
    numbers: dict[str, report.Number] = {}
    exact = float(found.truth["B"].sum())
    for name, spectrum in found.spectra.items():
        error = float(np.sqrt(spectrum.covariance.sum()))
        numbers[f"events.{name}"] = report.number(float(spectrum.values.sum()), error, truth=exact)
        numbers |= {f"{s}.{name}": report.number(share) for s, share in throwing.by_source(spectrum).items()}
        for model, truth in found.truth.items() if spectrum.enough_draws else ():
            chi2 = spectrum.chi2(truth)
            numbers[f"chi2.{model}.{name}"] = report.number(chi2.value)
            numbers[f"p.{model}.{name}"] = report.number(chi2.p_value)
    best = found.spectra["Wiener-SVD"]
    for i, (value, error, true) in enumerate(zip(best.values, best.uncertainty, best.smear(found.truth["B"]),
                                                 strict=True)):  # fmt: skip
        numbers[f"bin{i}"] = report.number(value, error, truth=true)
    return numbers


def parse(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m analyses.numu_cross_section", description=(__doc__ or "").split("\n")[0]
    )
    parser.add_argument("--seed", type=int, default=1, help="of everything (1)")
    parser.add_argument("--fast", action="store_true", help="a small run; NUINFER_FAST=1 does the same")
    parser.add_argument("--out", type=Path, default=Path("out/numu_cross_section"), help="folder for the results")
    options = parser.parse_args(arguments)
    fast = options.fast or os.environ.get("NUINFER_FAST", "0") not in ("", "0")
    options.size = Size.fast() if fast else Size()
    return options


if __name__ == "__main__":
    main()
