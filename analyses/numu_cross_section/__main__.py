"""A flux-integrated double-differential cross-section from a toy of a liquid-argon detector, by five methods.

README.md tells what is simulated; unfolding.py has the methods and the throws, figures.py the figures.
"""

from __future__ import annotations

import argparse
import os
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

import nuinfer as nu
from analyses import report
from analyses.numu_cross_section import figures, unfolding
from analyses.numu_cross_section.unfolding import BINNED, RECO, TRUTH, Samples, Size
from nuinfer.unfolding import Checks, Response, Spectrum, Thrown, check, check_events

Floats = NDArray[np.float64]

TITLE = "Muon-neutrino charged-current cross-section on argon: one response, five unfoldings, two generators"
TEXT = (
    "A toy beam makes charged-current interactions in a toy liquid-argon detector. The data are made by generator B, "
    "the simulation by generator A. The double-differential cross-section in the muon's momentum and angle is unfolded "
    "in bins (iterative Bayes, Wiener-SVD) and event by event (OmniFold on momentum and angle, OmniFold on the hits as "
    "well, draws from a conditional flow). Flux, cross-section model, two-nucleon rate, detector scale and efficiency "
    "are thrown together with the statistics of data and simulation, the selection made anew in each throw. "
    "Cross-sections are averaged over the nominal flux. Generators are compared through the additional smearing matrix "
    "A_C.",
)


@dataclass(frozen=True, eq=False)
class Found:
    """What all methods found: binned spectra with throws, the others with their own statistics."""

    samples: Samples
    response: Response
    thrown: dict[str, Thrown]
    spectra: dict[str, Spectrum]
    checks: dict[str, Checks]

    @property
    def truth(self) -> dict[str, Floats]:
        return {model: self.samples.truth(model) for model in "AB"}


def main() -> None:
    options = parse()
    size, seed = options.size, options.seed
    clock = time.process_time()
    samples = Samples.of(size, seed)
    simulation, background = samples.selected
    print(f"{len(samples.data)} events of data, {len(simulation)} of simulation, {len(background)} of background")
    found = unfolded(samples, size, seed)
    tables = [totals(found), comparisons(found), *verdicts(found)]
    numbers = {**numbers_of(found), "cpu": report.number(time.process_time() - clock)}
    print("\n" + "\n\n".join(map(str, tables)) + "\n")
    print(f"CPU seconds: {numbers['cpu']['value']:.0f}")
    pictures = figures.pictures(found.response, found.thrown, found.truth, samples.pot)
    print(report.write(options.out, title=TITLE, text=TEXT, tables=tables, pictures=pictures, seed=seed,
                       numbers=numbers))  # fmt: skip


def unfolded(samples: Samples, size: Size, seed: int) -> Found:
    """Every method, and the checks of each."""
    simulation, background = samples.selected
    response = unfolding.response_of(simulation)
    thrown = unfolding.thrown(samples, size, seed)
    plain = unfolding.omnifolded(samples, size, seed, hits=False)
    hits = unfolding.omnifolded(samples, size, seed, hits=True)
    flow = unfolding.generated(samples, size, seed)
    spectra = {name: one.spectrum for name, one in thrown.items()}
    spectra |= {"OmniFold": plain.spectrum(TRUTH), "OmniFold, hits": hits.spectrum(TRUTH), "flow": flow.spectrum(TRUTH)}
    checks = {name: checked(name, samples, response, size, seed) for name in BINNED}
    checks["OmniFold"] = check_events(
        plain, samples.data, truth=TRUTH, reco=RECO, features=unfolding.HIGH, background=background, seed=seed,
        training=nu.Training(epochs=4, batch=512),
    )  # fmt: skip
    return Found(samples, response, thrown, spectra, checks)


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
        one = unfolding.measured(_with_some(spectrum), found.samples.pot)
        value = 1e38 * one.integrated().value
        error = f"{1e38 * one.integrated().uncertainty:.4f}" if spectrum.covariances else "-"
        rows.append([name, f"{value:.4f}", error, ", ".join(spectrum.covariances) or "-"])
    for model, truth in found.truth.items():
        exact = unfolding.measured(Spectrum(TRUTH, truth, {"none": np.eye(TRUTH.size)}), found.samples.pot)
        rows.append([f"generator {model}", f"{1e38 * exact.integrated().value:.4f}", "exact", ""])
    header = ["", "1e-38 cm^2 / nucleon", "uncertainty", "of"]
    return report.Table("Total cross-section of the bins; the data are generator B's", header, rows)


def comparisons(found: Found) -> report.Table:
    """Chi-squared through A_C, and the distance from B bin by bin."""
    rows, truth = [], found.truth
    for name, spectrum in found.spectra.items():
        smeared = spectrum.smear(truth["B"])
        off = np.abs(spectrum.values - smeared).sum() / smeared.sum()
        cells = ["-", "-"]
        if name in found.thrown:
            cells = [_chi2(found.thrown[name], truth[model]) for model in "BA"]
        rows.append([name, *cells, f"{100 * off:.1f}%"])
    rows.append(["simulation (A)", "", "", f"{100 * np.abs(truth['A'] - truth['B']).sum() / truth['B'].sum():.1f}%"])
    caption = ("Generators through A_C: chi-squared with the covariance of all throws (Hartlap's factor), p; and the "
               "sum of |unfolded - A_C x B| over bins, in units of the total")  # fmt: skip
    return report.Table(caption, ["", "B (the truth)", "A", "off B"], rows)


def _chi2(thrown: Thrown, truth: Floats) -> str:
    found = chi2_of(thrown, truth)
    return f"{found[0]:.1f} / {TRUTH.size}, p = {found[1]:.2g}"


def chi2_of(thrown: Thrown, truth: Floats) -> tuple[float, float]:
    """Hotelling's T^2 of the throws' covariance, scaled by Hartlap's factor, and its p from Fisher's distribution."""
    raw = float(nu.metrics.chi2(thrown.nominal.values - thrown.nominal.smear(truth), thrown.covariance))
    shape = thrown.spectra.shape
    return raw * nu.metrics.hartlap(*shape), nu.metrics.hotelling(raw, *shape)


def verdicts(found: Found) -> list[report.Table]:
    words = {True: "pass", False: "FAIL", None: "not done"}
    return [
        report.Table(f"Checks of {name}", ["", "verdict", "found"],
                     [[one.name, words[one.passed], one.words] for one in checks])
        for name, checks in ((name, tuple(c.checks)) for name, c in found.checks.items())
    ]  # fmt: skip


def numbers_of(found: Found) -> dict[str, report.Number]:
    """Totals, chi-squared, and every bin of the Wiener-SVD result with its smeared truth."""
    numbers: dict[str, report.Number] = {}
    exact = float(found.truth["B"].sum())
    for name, spectrum in found.spectra.items():
        error = float(np.sqrt(spectrum.covariance.sum())) if spectrum.covariances else None
        numbers[f"events.{name}"] = report.number(float(spectrum.values.sum()), error, truth=exact)
    for name, thrown in found.thrown.items():
        for model, truth in found.truth.items():
            value, p_value = chi2_of(thrown, truth)
            numbers[f"chi2.{model}.{name}"] = report.number(value)
            numbers[f"p.{model}.{name}"] = report.number(p_value)
    best = found.thrown["Wiener-SVD"].spectrum
    for i, (value, error, true) in enumerate(zip(best.values, best.uncertainty, best.smear(found.truth["B"]),
                                                 strict=True)):  # fmt: skip
        numbers[f"bin{i}"] = report.number(value, error, truth=true)
    return numbers


def _with_some(spectrum: Spectrum) -> Spectrum:
    """A spectrum of one network has no covariance of its own."""
    return spectrum if spectrum.covariances else replace(spectrum, covariances={"none": 0 * np.eye(TRUTH.size)})


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
