"""Hunt for resonances of two muons in a file: CSV, or ROOT and what else nuinfer reads.

README.md tells how; muons.py reads the file, search.py is the hunt, resonances.py has what is known, figures.py shows
it.  Without a file simulation.py makes one, with a peak in it that nobody knows of.
"""

from __future__ import annotations

import argparse
import logging
import os
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from analyses import report
from analyses.dimuon_hunt import figures
from analyses.dimuon_hunt.muons import Flat, Layout, Lists, Pairs, read_pairs
from analyses.dimuon_hunt.resonances import KNOWN, Resonance, parsed
from analyses.dimuon_hunt.search import Found, Hunted, MuonPeak, Search, hunt, measured_resolution
from analyses.dimuon_hunt.simulation import Bump, Continuum, simulate, write_csv

TITLE = "Two muons: a hunt for resonances"
TEXT = (
    "At every mass, half a resolution apart, a peak of the resolution's width is fitted over a background that is "
    "smooth nearby: the exponential of a polynomial in log mass, whose order the data choose. Local significances are "
    "signed roots of the likelihood ratio; global ones are of toys that are fitted in the same way, over all masses. "
    "Known resonances, the grey regions, are left out."
)
# what is simulated without a file: a peak at 28.3 GeV beside known ones, resolutions those of the default
CONTINUUM = Continuum(300_000, 1.8, 130.0, 2.0)
BUMPS = (Bump(3.0969, 20_000), Bump(3.6861, 1500), Bump(9.4604, 4000), Bump(10.0234, 1200), Bump(10.3551, 600),
         Bump(91.188, 8000, 0.025), Bump(28.3, 400))  # fmt: skip


def main(arguments: Sequence[str] | None = None) -> None:
    """The program."""
    logging.basicConfig(format="%(message)s")
    options = parse(arguments)
    path = options.file or _toy(options)
    pairs = read_pairs(path, layout(options), charge=options.charge, unit=options.unit)
    print(f"{pairs.read:,} events, {pairs.pairs:,} with two muons, {pairs.selected:,} pairs selected")
    known = (*KNOWN, *parsed(options.resonances))
    peak, numbers, words = resolution(pairs, known, options)
    low, high = options.range or [float(f"{edge:.2g}") for edge in np.quantile(pairs.mass, [0.005, 0.995])]
    search = Search(peak, (low, high), known, veto=options.veto, orders=tuple(range(1, options.orders + 1)),
                    toys=options.toys, seed=options.seed, limits=not options.no_limits)  # fmt: skip
    hunted = hunt(pairs.mass, search)
    tables = [excess_table(hunted), segment_table(hunted)]
    said = [*words, *summary(hunted)]
    print("\n\n".join([*map(str, tables), *said]))
    numbers |= {"events": report.number(pairs.read), "pairs": report.number(pairs.selected)} | found_numbers(hunted)
    source = f"{Path(str(path)).name}: {pairs.read:,} events, {pairs.selected:,} pairs selected."
    print(report.write(options.out, title=TITLE, text=[source, TEXT, *said], tables=tables, pictures=pictures(hunted),
                       seed=options.seed, numbers=numbers))  # fmt: skip


def layout(options: argparse.Namespace) -> Layout | None:
    """The columns that were named, if any."""
    if options.columns and options.lists:
        raise ValueError("columns: expected --columns or --lists, found both")
    if options.columns:
        return Flat(tuple(options.columns.split(",")), tuple(filter(None, options.charges.split(","))))
    return Lists(tuple(options.lists.split(",")), options.charges) if options.lists else None


def resolution(
    pairs: Pairs, known: Sequence[Resonance], options: argparse.Namespace
) -> tuple[MuonPeak, dict[str, report.Number], list[str]]:
    """As given, or measured."""
    peak = MuonPeak(relative_sigma=options.resolution, growth=options.growth)
    if not options.calibrate:
        return peak, {}, []
    named = {each.name: each for each in known}
    if options.calibrate not in named:
        raise KeyError(f"calibrate: expected one of {', '.join(named)}, found {options.calibrate!r}")
    one = named[options.calibrate]
    mass, mass_error, relative, error = measured_resolution(pairs.mass, one, peak)
    numbers = {"calibration.mass": report.number(mass, mass_error, published=one.mass),
               "calibration.resolution": report.number(relative, error)}  # fmt: skip
    said = (f"Resolution measured with {one.name}: {100 * relative:.3f} +- {100 * error:.3f}% at {mass:.4f} +- "
            f"{mass_error:.4f} GeV (known: {one.mass:.4f}).")  # fmt: skip
    constant = np.sqrt(max(relative**2 - (options.growth * mass) ** 2, (0.1 * relative) ** 2))
    return MuonPeak(relative_sigma=float(constant), growth=options.growth), numbers, [said]


# -- tables ------------------------------------------------------------------------------------------------------------


def excess_table(hunted: Hunted) -> report.Table:
    """The greatest excesses, each with its own global p-value."""
    rows = []
    for each in hunted.found:
        own = ["", "", ""]
        if each.fit is not None:
            scale, width = (each.fit.values[f"{name}_scale"] for name in ("mass", "width"))
            errors = [each.fit.errors[f"{name}_scale"] for name in ("mass", "width")]
            size = f"{each.fit.values['yield']:,.0f} +- {each.fit.errors['yield']:,.0f}"
            own = [f"{each.mass * scale:.3f} +- {each.mass * errors[0]:.3f}", f"{width:.2f} +- {errors[1]:.2f}", size]
        rows.append([f"{each.mass:.3f}", f"{each.size:,.0f} +- {each.error:,.0f}", f"{each.z:.2f}", _global(each),
                     *own, each.known])  # fmt: skip
    header = ["mass, GeV", "pairs", "local Z", "global p", "fitted mass", "width / resolution", "pairs, fitted", "near"]
    return report.Table("The greatest excesses", header, rows)


def _global(found: Found) -> str:
    return f"< {found.p:.2g}" if found.bound else f"{found.p:.2g}"


def segment_table(hunted: Hunted) -> report.Table:
    """The segments, and how well their backgrounds fit."""
    rows = []
    for each in hunted.segments:
        choice, scan = each.choice, each.scan
        rows.append([f"{each.core[0]:.2f} to {each.core[1]:.2f}", f"{each.likelihood.events:,.0f}",
                     f"{choice.shapes[choice.best].split('(')[-1].rstrip(')')}",
                     f"{choice.chi2[choice.best]:.0f} / {choice.ndf[choice.best]}", f"{choice.gof[choice.best]:.2g}",
                     str(len(scan.masses)), f"{scan.z[scan.best]:.2f} at {scan.masses[scan.best]:.2f}"])  # fmt: skip
    rows += [[f"{low:.2f} to {high:.2f}", *[""] * 5, "not searched"] for (low, high), _ in hunted.skipped]
    header = ["GeV", "pairs fitted", "order", "chi2 / dof", "p", "masses", "greatest Z"]
    return report.Table("Segments, with the order of each background", header, rows)


def summary(hunted: Hunted) -> list[str]:
    """In words: the p-value of the whole, BumpHunter's, and what is not to be believed."""
    k, p = hunted.scan.best, hunted.p
    said = [
        f"Greatest excess of {len(hunted.scan.masses)} masses: {hunted.scan.masses[k]:.3f} GeV, local Z = "
        f"{hunted.scan.z[k]:.2f}; global "
        + (f"p < {p.p_upper:.2g} at 95% (none of {p.toys} toys)." if p.is_bound else f"p = {p.p:.2g} ({p.toys} toys).")
    ]
    if hunted.hunter is not None:
        low, high = hunted.hunter.window[0]
        value, bound = hunted.hunter_p
        said.append(
            f"BumpHunter, without a shape: {low:.3f} to {high:.3f} GeV, {hunted.hunter.signal:+,.0f} pairs, "
            f"local Z = {hunted.hunter.local_z:.2f}; global p {'<' if bound else '='} {value:.2g}."
        )
    poor = [each for each in hunted.segments if each.choice.gof[each.choice.best] < 1e-3]
    if poor:
        where = ", ".join(f"{each.core[0]:.3g} to {each.core[1]:.3g}" for each in poor)
        said.append(f"The background does not describe the pairs from {where} GeV (p < 0.001): excesses there are not "
                    f"to be believed; try --orders, or leave out what is known by --resonances.")  # fmt: skip
    said += [f"Not searched, {low:.3f} to {high:.3f} GeV: {why}." for (low, high), why in hunted.skipped]
    sparse = hunted.scan.sparse
    if len(sparse):
        said.append(f"Less than 3 pairs are expected under a peak at {len(sparse)} masses, from {sparse[0]:.3g} GeV: "
                    f"local significances and limits there are approximate, the global p-value is not.")  # fmt: skip
    return said


def found_numbers(hunted: Hunted) -> dict[str, report.Number]:
    """For programs."""
    scan, k = hunted.scan, hunted.scan.best
    numbers = {
        "mass": report.number(float(scan.masses[k]), float(scan.widths[k])),
        "yield": report.number(float(scan.yields[k]), float(scan.errors[k])),
        "local_z": report.number(float(scan.z[k])),
        "global_p": report.number(hunted.p.p, hunted.p.error),
        "global_p_upper": report.number(hunted.p.p_upper),
        "masses": report.number(len(scan.masses)),
        "segments": report.number(len(hunted.segments)),
        "skipped": report.number(len(hunted.skipped)),
    }
    if hunted.found and hunted.found[0].fit is not None:
        fit, mass = hunted.found[0].fit, hunted.found[0].mass
        numbers |= {
            "fitted_mass": report.number(mass * fit.values["mass_scale"], mass * fit.errors["mass_scale"]),
            "fitted_width": report.number(fit.values["width_scale"], fit.errors["width_scale"]),
            "fitted_yield": report.number(fit.values["yield"], fit.errors["yield"]),
        }
    if hunted.hunter is not None:
        (low, high), (p, _) = hunted.hunter.window[0], hunted.hunter_p
        numbers |= {"hunter.low": report.number(low), "hunter.high": report.number(high), "hunter.p": report.number(p)}
    if hunted.limits is not None:
        numbers["limit.observed"] = report.number(float(hunted.limits.observed[k]))
        numbers["limit.expected"] = report.number(float(hunted.limits.expected[k, 2]))
    return numbers


def pictures(hunted: Hunted) -> list[report.Picture]:
    """All of them."""
    shown = [
        report.Picture("spectrum", figures.spectrum(hunted), "all pairs in bins of 0.4 resolutions, with the "
                       "background that is smooth nearby; below, the significance of each bin; known resonances are "
                       "grey"),
        report.Picture("p_values", figures.p_values(hunted), "local p-values of excesses by mass"),
        report.Picture("excess", figures.excess(hunted, hunted.found[0]), "the greatest excess with the background of "
                       "its segment and a peak of its own mass and width (of 3 standard deviations and more)"),
        report.Picture("toys", figures.toys(hunted), "how often toys have an excess of at least Z anywhere"),
    ]  # fmt: skip
    if hunted.limits is not None:
        shown.append(report.Picture("limits", figures.limits(hunted), "upper limits on pairs of a resonance, CLs, 95%"))
    return shown


# -- options -----------------------------------------------------------------------------------------------------------


def _toy(options: argparse.Namespace) -> Path:
    """A file with a peak at 28.3 GeV."""
    path = Path(options.out) / "toy.csv"
    write_csv(path, simulate(CONTINUUM, BUMPS, like_sign=0.02, seed=options.seed))
    print(f"no file given; simulated pairs are in {path}")
    return path


def parse(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    """The options."""
    parser = argparse.ArgumentParser(prog="python -m analyses.dimuon_hunt", description=(__doc__ or "").split("\n")[0])
    parser.add_argument("file", nargs="?", help="a .csv, or file.root:tree, .parquet, .h5; none: one is simulated")
    parser.add_argument("--columns", default="", help="E,px,py,pz of the first muon and of the second, by name (E1,px1,"
                        "py1,pz1,E2,px2,py2,pz2)")  # fmt: skip
    parser.add_argument("--lists", default="", help="pt,eta,phi,mass, lists of muons (Muon_pt,Muon_eta,Muon_phi,"
                        "Muon_mass)")  # fmt: skip
    parser.add_argument("--charges", default="", help="names of both charges (Q1,Q2), or of their list (Muon_charge)")
    parser.add_argument("--charge", choices=["opposite", "same", "any"], help="of pairs (opposite, if there are "
                        "charges)")  # fmt: skip
    parser.add_argument("--unit", type=float, default=1.0, help="of energies in GeV: 0.001 for MeV (1)")
    parser.add_argument("--range", type=float, nargs=2, metavar=("LOW", "HIGH"), help="of masses in GeV (that of 99%% "
                        "of the pairs)")  # fmt: skip
    parser.add_argument("--resolution", type=float, default=0.012, help="of the mass, relative (0.012)")
    parser.add_argument("--growth", type=float, default=0.0, help="of the relative resolution per GeV, added in "
                        "quadrature (0)")  # fmt: skip
    parser.add_argument("--calibrate", default="", help="a narrow resonance to measure the resolution with: J/psi")
    parser.add_argument("--resonances", default="", help="more to leave out: NAME:MASS:WIDTH,... in GeV")
    parser.add_argument("--veto", type=float, default=5.0, help="widths around known resonances; 0 leaves out none (5)")
    parser.add_argument("--orders", type=int, default=4, help="the highest order of a background (4)")
    parser.add_argument("--toys", type=int, help="for global p-values (1000; 100 with --fast)")
    parser.add_argument("--no-limits", action="store_true", help="without upper limits")
    parser.add_argument("--seed", type=int, default=1, help="of the toys (1)")
    parser.add_argument("--fast", action="store_true", help="fewer toys; NUINFER_FAST=1 does the same")
    parser.add_argument("--out", type=Path, default=Path("out/dimuon_hunt"), help="folder for the results")
    options = parser.parse_args(arguments)
    options.fast |= os.environ.get("NUINFER_FAST", "0") not in ("", "0")
    options.toys = options.toys or (100 if options.fast else 1000)
    return options


if __name__ == "__main__":
    main()
