"""Hunt for a new particle in simulated events of two jets, with each background template.

README.md tells how; simulation.py makes the events, search.py has the hunts, figures.py shows them.
"""

from __future__ import annotations

import argparse
import logging
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

import nuinfer as nu
from analyses import report
from analyses.dijet_hunt import figures
from analyses.dijet_hunt.search import (
    SHIFT,
    WINDOW,
    Compared,
    Improvement,
    Settings,
    Tests,
    blind_hunt,
    compare,
    constituent_data,
    constituent_hunt,
    largest_improvement,
    limit_scan,
    templates_of,
    window_hunt,
)
from analyses.dijet_hunt.simulation import MASS, PIVOT, Dijets, truth_of
from nuinfer.anomaly.hunting import Hunt, InjectionScan

TITLE = "Two jets: a hunt by weak supervision"
TEXT = (
    "Events like those of the LHC Olympics 2020: two jets of quarks and gluons, and W' -> XY with masses of 3.5 TeV, "
    "500 GeV and 100 GeV. In each window of the mass a classifier learns what tells the signal region from a template "
    "of the background; events with the highest scores are kept, and counted over a smooth function. No event is "
    "scored by a classifier that saw it, and none is told which events are signal."
)
STEPS = ("blind", "templates", "shifted", "constituents", "limits")
SHIFTED = ("Ideal", "Sidebands", "Cathode", "Latent", "Salad", "Decorrelated")
FAST = Settings(background=50_000, members=1, folds=3, efficiencies=(1.0, 0.1, 0.02), fewest=10, epochs=10, batch=256,
                tests=50_000, strengths=(0.0, 60.0, 150.0, 400.0), repeats=2, jets=12_000, injected=600)  # fmt: skip


@dataclass
class Page:
    """What is shown in the end."""

    tables: list[report.Table]
    pictures: list[report.Picture]
    numbers: dict[str, report.Number]
    words: list[str]


def main(arguments: Sequence[str] | None = None) -> None:
    """The program."""
    logging.basicConfig(format="%(message)s")
    options = parse(arguments)
    settings, page = settings_of(options), Page([], [], {}, [])
    steps = {"blind": blind, "templates": templates, "shifted": shifted, "constituents": constituents,
             "limits": limits}  # fmt: skip
    for step in options.steps:
        before = len(page.tables)
        steps[step](options, settings, page)
        print("\n\n".join(map(str, page.tables[before:])), flush=True)
    print("\n".join(page.words))
    print(report.write(options.out, title=TITLE, text=[TEXT, *page.words], tables=page.tables, pictures=page.pictures,
                       seed=options.seed, numbers=page.numbers))  # fmt: skip


# -- the blind scan ----------------------------------------------------------------------------------------------------


def blind(options: argparse.Namespace, settings: Settings, page: Page) -> None:
    """All windows, for each number of signal events."""
    rows, dijets = [], Dijets()
    for n in options.signals:
        data = dijets.data(settings.background, n, settings.seed, keep_truth=True)
        found = blind_hunt(data.keep([c for c in data.columns if c != "is_signal"]), settings, toys=options.toys)
        rows.append([f"{n:,}", *_content(data), *_best(found)])
        page.numbers |= _scan_numbers(f"blind.{n}", found)
        if n in (0, options.signal):
            page.words.append(_said(n, found))
            page.pictures += _scan_pictures(n, found)
    header = ["signal", "S/B", "S/sqrt(B)", "window", "cut", "observed", "expected", "Z", "global p", "Z at 3.5 TeV"]
    caption = ("Blind scan by CWoLa: the smallest p-value of all windows and cuts, Z by the likelihood ratio; S/B from "
               "3.3 to 3.7 TeV")  # fmt: skip
    page.tables.append(report.Table(caption, header, rows))


def _content(data: nu.Events) -> list[str]:
    inside, truth = WINDOW.in_signal(data[MASS]), truth_of(data)
    s, b = np.count_nonzero(inside & truth), np.count_nonzero(inside & ~truth)
    return [f"{s / b:.2%}", f"{s / np.sqrt(b):.1f}"]


def _window_of_signal(found: Hunt) -> int:
    return int(np.argmin(np.abs(found.signal.mean(1) - PIVOT)))


def _best(found: Hunt) -> list[str]:
    w, e = found.best
    p = found.global_p
    at = _window_of_signal(found)
    return [_region(found, w), f"{found.efficiencies[e]:g}", f"{found.observed[w, e]:,.0f}",
            f"{found.expected[w, e]:,.0f} +- {found.errors[w, e]:.0f}", f"{found.z[w, e]:.1f}",
            f"{'<= ' if p.is_bound else ''}{p.p_upper if p.is_bound else p.p:.2g}",
            f"{np.nanmax(found.z[at]):.1f}"]  # fmt: skip


def _region(found: Hunt, window: int) -> str:
    low, high = found.signal[window]
    return f"{low:.2g} to {high:.2g}"


def _scan_numbers(name: str, found: Hunt) -> dict[str, report.Number]:
    w, e = found.best
    return {
        f"{name}.z": report.number(float(found.z[w, e])),
        f"{name}.mass": report.number(float(found.signal[w].mean()), truth=PIVOT if name != "blind.0" else None),
        f"{name}.global_p": report.number(found.global_p.p_upper),
        f"{name}.global_z": report.number(found.global_p.z),
        f"{name}.z_at_signal": report.number(float(np.nanmax(found.z[_window_of_signal(found)]))),
        f"{name}.failed": report.number(sum(bool(text) for text in found.status)),
    }


def _said(n: int, found: Hunt) -> str:
    w, e = found.best
    p, follows = found.global_p, np.flatnonzero(found.sculpting_p < 0.01).tolist()
    failed = sum(bool(text) for text in found.status)
    text = (f"With {n:,} signal events, the smallest local p-value of {found.p.size} is {found.p[w, e]:.2g}, "
            f"from {_region(found, w)} TeV at an efficiency of {found.efficiencies[e]:g}; "
            f"globally p {'<=' if p.is_bound else '='} {p.p_upper if p.is_bound else p.p:.2g}.")  # fmt: skip
    if follows:
        text += (f" The sculpting test has p < 0.01 in {len(follows)} of {len(found.signal)} windows "
                 f"({', '.join(_region(found, k) for k in follows)} TeV); a signal in the sidebands of a window does "
                 f"that, and chance in one of a hundred.")  # fmt: skip
    return text + (f" Without a fit: {failed} of {found.p.size}." if failed else "")


def _scan_pictures(n: int, found: Hunt) -> list[report.Picture]:
    shown = [report.Picture(f"p_values_{n}", figures.p_values(found),
                            f"local p-values in all windows with {n:,} signal events")]  # fmt: skip
    if n:
        shown.append(report.Picture("spectra", figures.spectra(found, _window_of_signal(found)),
                                    f"the spectrum of all events and after two cuts of the window at 3.5 TeV, with the "
                                    f"functions fitted outside of it ({n:,} signal events)"))  # fmt: skip
    return shown


# -- templates ---------------------------------------------------------------------------------------------------------


def templates(options: argparse.Namespace, settings: Settings, page: Page) -> None:
    """All of them in the window of the signal."""
    dijets = Dijets()
    tests = Tests.of(settings, dijets)
    found = compared(dijets, options.signal, settings, tests)
    del found["Decorrelated"]
    exact = largest_improvement(*tests.exact, settings.passing)
    rows = _rows(found, settings, exact)
    page.tables.append(
        report.Table(
            f"Templates in the window from 3.3 to 3.7 TeV, {options.signal:,} signal events", _header(settings), rows
        )
    )
    page.numbers |= _template_numbers("templates", found, exact)
    curves = {name: found[name] for name in ("Ideal", "Cathode", "Sidebands", "Salad", "Anode")}
    page.pictures += [
        report.Picture("features", figures.features(tests.background, tests.signal), "features in the signal region"),
        report.Picture("improvement", figures.improvements(curves, tests.exact, settings.passing), "significance "
                       "improvement of test events, with the statistical error"),
    ]  # fmt: skip


def compared(
    dijets: Dijets,
    signal: int,
    settings: Settings,
    tests: Tests | None,
    names: Sequence[str] = (),
    *,
    importance: int = 0,
) -> dict[str, Compared]:
    """Each template, or those named, on data with so many signal events."""
    data = dijets.data(settings.background, signal, settings.seed)
    return {
        name: compare(name, template, data, settings, tests, importance=importance if name == "Sidebands" else 0)
        for name, template in templates_of(settings, dijets).items()
        if name in (names or (name,))
    }


def _cuts(settings: Settings) -> list[float]:
    return [e for e in settings.efficiencies if e < 1]


def _header(settings: Settings) -> list[str]:
    return ["template", *(f"Z at {e:g}" for e in _cuts(settings)), "p of fits", "sculpting p", "improvement",
            "of exact", "at eps_S", "CPU s"]  # fmt: skip


def _rows(found: Mapping[str, Compared], settings: Settings, exact: Improvement) -> list[list[str]]:
    rows = [["exact ratio", *[""] * len(_cuts(settings)), "", "", f"{exact.value:.1f}", "100%", f"{exact.signal:.2f}",
             ""]]  # fmt: skip
    for name, one in found.items():
        rows.append([name, *_searched(one), f"{one.best.value:.1f}", f"{one.best.value / exact.value:.0%}",
                     f"{one.best.signal:.2f}", f"{one.seconds:.0f}"])  # fmt: skip
    return rows


def _searched(one: Compared) -> list[str]:
    """Z after each cut, the p-values of the fits, and that of the sculpting test."""
    cuts = one.hunt.efficiencies < 1
    return [*(f"{z:.1f}" for z in one.hunt.z[0, cuts]), ", ".join(f"{p:.2g}" for p in one.hunt.gof[0, cuts]),
            f"{one.hunt.sculpting_p[0]:.2g}"]  # fmt: skip


def _template_numbers(name: str, found: Mapping[str, Compared], exact: Improvement) -> dict[str, report.Number]:
    numbers = {f"{name}.exact.improvement": report.number(exact.value)}
    for each, one in found.items():
        numbers |= {
            f"{name}.{each}.improvement": report.number(one.best.value),
            f"{name}.{each}.z": report.number(float(np.nanmax(one.hunt.z[0, 1:], initial=-99.0))),
            f"{name}.{each}.sculpting_p": report.number(float(one.hunt.sculpting_p[0])),
        }
    return numbers


def shifted(options: argparse.Namespace, settings: Settings, page: Page) -> None:
    """Features that follow the mass."""
    dijets = Dijets(shift=SHIFT)
    tests = Tests.of(settings, dijets)
    found = compared(dijets, options.signal, settings, tests, SHIFTED)
    without = compared(dijets, 0, settings, None, SHIFTED, importance=3)
    exact = largest_improvement(*tests.exact, settings.passing)
    caption = f"Shifted features: mJ1 and delta_mJ gain {SHIFT:g} m"
    page.tables += [
        report.Table(f"{caption}; {options.signal:,} signal events", _header(settings), _rows(found, settings, exact)),
        report.Table(f"{caption}; without a signal", _header(settings)[: 3 + len(_cuts(settings))],
                     [[name, *_searched(one)] for name, one in without.items()]),
    ]  # fmt: skip
    page.numbers |= _template_numbers("shifted", found, exact)
    page.numbers |= {f"shifted.background.{name}.{what}": report.number(float(value)) for name, one in without.items()
                     for what, value in (("z", np.nanmax(np.abs(one.hunt.z[0, 1:]), initial=0.0)),
                                         ("sculpting_p", one.hunt.sculpting_p[0]))}  # fmt: skip
    curves = {name: found[name] for name in ("Ideal", "Cathode", "Sidebands", "Latent", "Decorrelated")}
    shown = [without[name] for name in ("Sidebands", "Cathode", "Latent")]
    page.pictures += [
        report.Picture("improvement_shifted", figures.improvements(curves, tests.exact, settings.passing),
                       "significance improvement with features that follow the mass"),
        report.Picture("sculpting_shifted", figures.sculpting(shown, _cuts(settings)[0]), "what passes a cut, by mass, "
                       "with features that follow it and without a signal"),
        report.Picture("score_shifted", figures.score_by_mass(without["Sidebands"].hunt), "the score of signal region "
                       "against sidebands follows the mass, without a signal"),
        report.Picture("importance", figures.importance(without["Sidebands"].hunt), "what it follows it by: the fall "
                       "of the area under its ROC curve where a feature is shuffled"),
    ]  # fmt: skip


# -- constituents, and limits ------------------------------------------------------------------------------------------


def constituents(options: argparse.Namespace, settings: Settings, page: Page) -> None:
    """A deep set of the constituents."""
    data = constituent_data(settings)
    found = constituent_hunt(settings, data)
    inside, truth = WINDOW.in_signal(data[MASS]), truth_of(data)
    rows = []
    for e, efficiency in enumerate(found.efficiencies):
        kept = found.mask(0, efficiency)
        rows.append([f"{efficiency:g}", f"{found.observed[0, e]:,.0f}", f"{found.expected[0, e]:,.0f} +- "
                     f"{found.errors[0, e]:.0f}", f"{found.z[0, e]:.1f}", f"{kept[inside & truth].mean():.2f}",
                     f"{kept[inside & ~truth].mean():.3f}"])  # fmt: skip
        page.numbers[f"constituents.z.{efficiency:g}"] = report.number(float(found.z[0, e]))
    page.numbers["constituents.sculpting_p"] = report.number(float(found.sculpting_p[0]))
    page.tables.append(report.Table(
        f"Constituents: a deep set, {settings.jets:,} background events from 2.9 to 4.1 TeV and {settings.injected:,} "
        f"of the signal; sculpting p = {found.sculpting_p[0]:.2g}",
        ["efficiency", "observed", "expected", "local Z", "of the signal", "of the background"], rows))  # fmt: skip


def limits(options: argparse.Namespace, settings: Settings, page: Page) -> None:
    """On the number of signal events in the whole sample."""
    dijets = Dijets()
    scan = limit_scan(settings, dijets)
    found = {n: window_hunt(dijets.data(settings.background, n, settings.seed), settings) for n in options.signals}
    rows = []
    for e, efficiency in enumerate(scan.efficiencies):
        low, median, high = scan.limits().expected[0, e, 1:4]
        rows.append([f"{efficiency:g}", f"{_number(median)} ({_number(low)} to {_number(high)})",
                     *(_number(scan.limits(one).observed[0, e]) for one in found.values())])  # fmt: skip
        if np.isfinite(median):
            page.numbers[f"limits.expected.{efficiency:g}"] = report.number(float(median))
    header = ["efficiency", "expected (68%)", *(f"observed, {n:,} injected" for n in found)]
    page.tables += [
        report.Table("Upper limits on the number of signal events, CLs at 95%", header, rows),
        _estimates(scan, found),
    ]
    shown = found.get(0, found[min(found)])
    page.pictures += [
        report.Picture("injections", figures.injections(scan), "what hunts find of what was injected, everything "
                       "trained again at each strength"),
        report.Picture("limits", figures.limits(scan, shown),
                       f"upper limits, observed with {min(found):,} signal events"),
    ]  # fmt: skip


def _estimates(scan: InjectionScan, found: Mapping[int, Hunt]) -> report.Table:
    """What an excess is worth in signal events."""
    top, rows = float(scan.strengths[-1]), []
    for n, one in found.items():
        cells = []
        for e in range(len(scan.efficiencies)):
            value = scan.estimate(float(one.observed[0, e] - one.expected[0, e]), 0, e)
            cells.append(f"{value:.0f}" if np.isfinite(value) else f"above {top:g}")
        rows.append([f"{n:,}", *cells])
    header = ["injected", *(f"at {e:g}" for e in scan.efficiencies)]
    return report.Table("Signal events that explain the excess", header, rows)


def _number(limit: float) -> str:
    return f"{limit:.0f}" if np.isfinite(limit) else "beyond"


# -- options -----------------------------------------------------------------------------------------------------------


def settings_of(options: argparse.Namespace) -> Settings:
    """Of this run."""
    chosen = replace(FAST if options.fast else Settings(), seed=options.seed)
    return chosen if options.background is None else replace(chosen, background=options.background)


def parse(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    """The options.

    Raises
    ------
    ValueError
        for signals that are negative or not numbers, and steps that there are not.
    """
    parser = argparse.ArgumentParser(prog="python -m analyses.dijet_hunt", description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--background", type=int, help="background events from 2.5 to 8 TeV (200,000; 50,000 with "
                        "--fast)")  # fmt: skip
    parser.add_argument("--signals", default="", help="numbers of signal events in blind scans and limits (0,150,300,"
                        "500,1000; 0,300 with --fast)")  # fmt: skip
    parser.add_argument("--signal", type=int, default=300, help="of them where templates are compared (300)")
    parser.add_argument("--steps", default=",".join(STEPS), help=f"what is done ({','.join(STEPS)})")
    parser.add_argument("--toys", type=int, default=0, help="background toys of each blind scan, all trained again, "
                        "for its global p-value (0: a bound)")  # fmt: skip
    parser.add_argument("--seed", type=int, default=1, help="of everything (1)")
    parser.add_argument("--fast", action="store_true", help="smaller samples; NUINFER_FAST=1 does the same")
    parser.add_argument("--out", type=Path, default=Path("out/dijet_hunt"), help="folder for the results")
    options = parser.parse_args(arguments)
    options.fast |= os.environ.get("NUINFER_FAST", "0") not in ("", "0")
    options.signals = _signals(options.signals or ("0,300" if options.fast else "0,150,300,500,1000"))
    options.steps = tuple(options.steps.split(","))
    if not set(options.steps) <= set(STEPS):
        raise ValueError(f"steps: expected some of {','.join(STEPS)}, found {','.join(options.steps)}")
    if options.signal < 0 or options.toys < 0:
        raise ValueError(f"signal, toys: expected numbers from 0, found {options.signal} and {options.toys}")
    return options


def _signals(text: str) -> tuple[int, ...]:
    found = text.split(",")
    if not all(part.strip().isdigit() for part in found):
        raise ValueError(f"signals: expected numbers of events such as 0,300, found {text!r}")
    return tuple(sorted({int(part) for part in found}))


if __name__ == "__main__":
    main()
