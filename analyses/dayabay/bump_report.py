"""What the step `bump` says: tables, numbers and pictures of the excess near 5 MeV."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Protocol

from analyses.report import Number, Picture, Table, number
from nuinfer import plots
from nuinfer.anomaly.bump import BumpHunt
from nuinfer.anomaly.goodness import GoodnessOfFit

from . import bump_figures, bumps, goodness
from .bumps import Effort, Floats, Peak, Prompt
from .model import Model

HUBER_MUELLER, FREE = "Huber-Mueller", "free spectrum"
KEYS = {HUBER_MUELLER: "bump", FREE: "bump.free"}
TEXT = (
    "The excess near 5 MeV: prompt energies of the near halls beside Huber's and Mueller's, scaled to the same total, "
    "so that the deficit in the rate does not enter. Where it says systematics, all constrained parameters, those of "
    "the spectra among them, are profiled in the fits and drawn in the toys; statistics alone is what an exactly known "
    "prediction would give, and no measure of the excess. The free spectrum is that of the fit, whose 19 nodes have "
    "seen these data: that it leaves no peak is no evidence for it. NPLM fits the nodes again to each toy, as they "
    "were to the data: its p-value is a test."
)


class Report(Protocol):
    """Where it goes."""

    tables: list[Table]
    pictures: list[Picture]
    numbers: dict[str, Number]


def prompts(model: Model, values: Mapping[str, float], errors: Floats) -> dict[str, Prompt]:
    """The data with both expectations."""
    return {HUBER_MUELLER: Prompt.of(model, values, errors), FREE: Prompt.of(model, values, errors, free=True)}


def report_on(found: Mapping[str, Prompt], effort: Effort, to: Report) -> None:
    """Everything of the step."""
    peaks = {name: bumps.peak(prompt, toys=effort.scans) for name, prompt in found.items()}
    bare = bumps.peak(found[HUBER_MUELLER], toys=effort.scans, systematics=False)
    hunts = {(name, which): bumps.hunt(prompt, toys=effort.hunts, systematics=which)
             for name, prompt in found.items() for which in (True, False)}  # fmt: skip
    _peaks(peaks, bare, to)
    _own_peak(peaks[HUBER_MUELLER], to)
    _windows(found, to)
    _hunts(hunts, to)
    shapes = {name: goodness.shape_test(prompt, toys=effort.shapes) for name, prompt in found.items()}
    _shapes(found, shapes, to)
    to.pictures += [
        Picture("excess", bump_figures.excess(found[HUBER_MUELLER], peaks[HUBER_MUELLER], found[FREE]), "prompt "
                "energies of the near halls, Huber's and Mueller's scaled to the same total, and the fitted peak; "
                "below, the ratio, with the systematics of the shape, the fit with a peak, and the free spectrum"),
        Picture("energies", bump_figures.energies(peaks), "local significance of a peak of 0.5 MeV at each energy, all "
                "systematics profiled"),
        Picture("bump_toys", plots.bump_toys(hunts[HUBER_MUELLER, True]), "BumpHunter's statistic, of Poisson's law "
                "alone, of the data and of toys with the systematics of Huber's and Mueller's prediction"),
        Picture("nplm", bump_figures.learned(found, shapes), "what NPLM learns of the ratio of the data to each "
                "prediction, nuisances included, beside the data"),
    ]  # fmt: skip


# -- a peak ------------------------------------------------------------------------------------------------------------


def _peaks(peaks: Mapping[str, Peak], bare: Peak, to: Report) -> None:
    """A peak anywhere, with systematics and without."""
    rows = []
    for name, each in {**peaks, f"{HUBER_MUELLER}, statistics alone": bare}.items():
        k = each.scan.best
        rows.append([name, f"{each.energy:.2f}", f"{each.scan.yields[k]:,.0f} +- {each.scan.errors[k]:,.0f}",
                     f"{each.local_z:.2f}", *_anywhere(each), f"{each.scan.background.chi2:.1f}"])  # fmt: skip
    header = ["", "energy, MeV", "events", "local Z", "global p by toys", "global Z, Gross-Vitells", "chi2 without"]
    to.tables.append(Table("A peak of 0.5 MeV: the greatest excess of all energies", header, rows))
    for key, each in {**{KEYS[name]: one for name, one in peaks.items()}, "bump.statistics": bare}.items():
        to.numbers |= {f"{key}.local_z": number(each.local_z), f"{key}.energy": number(each.energy),
                       f"{key}.chi2": number(each.scan.background.chi2)}  # fmt: skip
        if each.toys is not None:
            to.numbers[f"{key}.global_p"] = number(each.toys.p, each.toys.error)


def _anywhere(each: Peak) -> list[str]:
    """The global p-value by toys and, of an excess in them, the global significance."""
    if each.toys is None:
        return ["", ""]
    of = f"{each.toys.toys} toys"
    by_toys = f"< {each.toys.p_upper:.2g} (none of {of})" if each.toys.is_bound else f"{each.toys.p:.3g} ({of})"
    # beyond some 37 standard deviations the bound is below the smallest number
    shown = each.crossings is not None and each.crossings.p > 0
    return [by_toys, f"{each.crossings.z:.2f}" if each.crossings is not None and shown else ""]


def _own_peak(found: Peak, to: Report) -> None:
    """Its energy and width, fitted."""
    if found.fit is None or found.crossings is None:
        return
    to.numbers["bump.global_z"] = number(found.crossings.z)
    rows, fit = [], found.fit
    units = {"events": ("yield", 1.0), "fitted_energy": ("mass_scale", found.energy),
             "fitted_width": ("width_scale", bumps.PEAK.width(found.energy))}  # fmt: skip
    for key, (name, unit) in units.items():
        value, error = fit.values[name] * unit, fit.errors[name] * unit
        to.numbers[f"bump.{key}"] = number(value, error)
        shown = f"{value:,.0f} +- {error:,.0f}" if key == "events" else f"{value:.2f} +- {error:.2f} MeV"
        rows.append([{"fitted_energy": "energy", "fitted_width": "standard deviation"}.get(key, key), shown])
    rows.append(["chi2 / dof", f"{fit.chi2:.1f} / {fit.ndf}"])
    caption = "The peak with energy and width of its own, systematics profiled"
    to.tables.append(Table(caption, ["", "fitted"], rows))


# -- windows -----------------------------------------------------------------------------------------------------------


def _windows(found: Mapping[str, Prompt], to: Report) -> None:
    """As the collaboration's papers quote it: chi-squared of the shape, of all bins and of windows of 2 MeV."""
    reference = found[HUBER_MUELLER]
    best = max(bumps.windows(reference), key=lambda window: window.z)
    rows = []
    for name, what, one in ((HUBER_MUELLER, "window", best), (HUBER_MUELLER, "shape", bumps.whole(reference)),
                            (FREE, "shape", bumps.whole(found[FREE]))):  # fmt: skip
        known = bumps.PUBLISHED[what] if name == HUBER_MUELLER else None
        rows.append([name, f"{one.low:.2f} to {one.high:.2f}", f"{one.chi2:.1f} / {one.dof}", f"{one.z:.2f}",
                     "" if known is None else f"{known:.1f}"])  # fmt: skip
        key = f"{KEYS[name]}.{what}"
        to.numbers |= {f"{key}.z": number(one.z, published=known), f"{key}.chi2": number(one.chi2)}
    to.numbers["bump.window.excess"] = number(*bumps.share(reference, best.low, best.high))
    header = ["", "MeV", "chi2 / dof", "Z", "published, 1,958 days"]
    caption = "No shape of an excess: what chi2 loses without the worst window of 2 MeV (local), and chi2 of all bins"
    to.tables.append(Table(caption, header, rows))


def _hunts(found: Mapping[tuple[str, bool], BumpHunt], to: Report) -> None:
    """BumpHunter, with systematics in its toys and without."""
    rows = []
    for (name, which), one in found.items():
        low, high = one.window[0]
        by_toys = f"< {one.p_upper:.2g}" if one.is_bound else f"{one.p_value:.2g}"
        z = f"> {one.z_lower:.2f}" if one.is_bound else f"{one.z:.2f}"
        rows.append([f"{name}, toys with {'systematics' if which else 'statistics alone'}", f"{low:.2f} to {high:.2f}",
                     f"{one.local_z:.1f}", by_toys, z])  # fmt: skip
        key = f"{KEYS[name]}.hunter{'' if which else '.statistics'}"
        to.numbers |= {f"{key}.p": number(one.p_value, one.p_error), f"{key}.low": number(low),
                       f"{key}.high": number(high)}  # fmt: skip
    count = len(next(iter(found.values())).toys)
    caption = f"BumpHunter, whose statistic is of Poisson's law alone; {count:,} toys"
    to.tables.append(Table(caption, ["", "window, MeV", "local Z, statistics alone", "global p", "global Z"], rows))


# -- the whole shape ---------------------------------------------------------------------------------------------------


def _shapes(found: Mapping[str, Prompt], shapes: Mapping[str, GoodnessOfFit], to: Report) -> None:
    """NPLM over each prediction."""
    rows = []
    for name, one in shapes.items():
        prompt, key = found[name], f"{KEYS[name]}.nplm"
        ratio = goodness.learned(prompt, one)
        k = int(ratio.argmax())
        rows.append([name, f"{one.t:.1f}", f"{one.dof:.1f} ({one.compatibility:.2g})", f"{one.p:.2g}", f"{one.z:.2f}",
                     one.valid, f"{prompt.edges[k]:.2f} to {prompt.edges[k + 1]:.2f}: {ratio[k]:.3f}"])  # fmt: skip
        to.numbers |= {f"{key}.t": number(one.t), f"{key}.p": number(one.p), f"{key}.z": number(one.z),
                       f"{key}.dof": number(one.dof, one.dof_error), f"{key}.ratio": number(float(ratio[k])),
                       f"{key}.energy": number(float(goodness.middles(prompt)[k]))}  # fmt: skip
    header = ["", "t", "chi2 dof (compatibility)", "p", "Z", "by", "greatest ratio learned, MeV"]
    count = len(next(iter(shapes.values())).toys)
    caption = f"NPLM in shape, systematics profiled in data and toys ({count:,}); over the free spectrum its nodes too"
    to.tables.append(Table(caption, header, rows))
