"""Measure sin^2(2 theta_13) and Delta m^2_32 from the data release of the Daya Bay reactor experiment.

README.md tells what is measured and how; release.py reads the data, model.py is the forward model, covariance.py and
fits.py make likelihoods of it, posterior.py learns from its simulations, figures.py shows all of them.
"""

from __future__ import annotations

import argparse
import os
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from analyses import report
from analyses.dayabay import bump_report, bumps, covariance, figures, fits, posterior, unfolding
from analyses.dayabay.model import Model
from analyses.dayabay.parameters import SITES, by_hall
from analyses.dayabay.release import DAY
from nuinfer import intervals, plots
from nuinfer.likelihood import Binned
from nuinfer.unfolding import Checks, Chi2, Spectrum

Floats = NDArray[np.float64]
AMPLITUDE, SPLITTING = fits.INTEREST
# arXiv 2211.14988; and the official analysis of the release, with the covariance statistic frozen at its start
PUBLISHED = {**figures.PUBLISHED, "inverted": (2.571e-3, 0.060e-3)}
OFFICIAL = {AMPLITUDE: (0.085424, 0.002325), SPLITTING: (2.47083e-3, 0.0590e-3), "chi2": (557.976, None)}
TITLE = "Reactor antineutrinos at Daya Bay: mixing angle and mass splitting from the data release"
TEXT = (
    "5.5 million candidates of inverse beta decay in 21 detector-periods, from the data release alone (PyPI "
    "dayabay-data-official, CC BY 4.0). A differentiable model of reactors, oscillation and detectors predicts the 546 "
    "bins; systematic uncertainties enter as a covariance, or as parameters that the fit is free to pull."
)
LEARNED = (
    "Learned from simulations: {n:,} experiments, in which all systematics and the counts fluctuate, are summed up by "
    "what a fit would give, and train an amortised posterior and a likelihood ratio whose nuisances are profiled. To "
    "compare with the covariance form, as many fluctuate with its fixed covariance."
)
UNFOLDED = (
    "Unfolded: the prompt energies of the near halls to the energies of the antineutrinos that would have interacted "
    "there without oscillation, by iterative Bayes, the Wiener filter and OmniFold, beside Huber's and Mueller's "
    "spectra through the same smearing A_C, in shape. The uncertainty of the absolute efficiency is not among the "
    "release's parameters, so that no error is given for the ratio of the yields."
)


@dataclass
class Analysis:
    """What the steps share, each made when it is first asked for, and what they leave."""

    text: list[str] = field(default_factory=lambda: [TEXT])
    tables: list[report.Table] = field(default_factory=list)
    pictures: list[report.Picture] = field(default_factory=list)
    numbers: dict[str, report.Number] = field(default_factory=dict)
    settings: posterior.Settings = posterior.STANDARD
    size: unfolding.Size = field(default_factory=unfolding.Size)
    effort: bumps.Effort = field(default_factory=bumps.Effort)
    spectra: dict[str, Spectrum] = field(default_factory=dict)
    pulled: dict[fits.Statistic, intervals.Fit] = field(default_factory=dict)

    @cached_property
    def model(self) -> Model:
        return Model()

    @cached_property
    def smooth(self) -> Model:
        """With continuous derivatives in the energy scales, for the pull form."""
        return Model(self.model.release, within_bins="smooth")

    @cached_property
    def groups(self) -> dict[str, Floats]:
        """The covariance of each group of systematics, at the nominal parameters."""
        return covariance.by_group(self.model)

    @cached_property
    def systematic(self) -> Floats:
        return np.asarray(sum(self.groups.values()))

    @cached_property
    def start(self) -> dict[str, float]:
        return self.model.parameters.values(fits.free_names(self.model))

    @cached_property
    def cost(self) -> Binned:
        """The covariance form with the statistical variance frozen at the start."""
        return fits.covariance_cost(self.model, self.systematic)

    @cached_property
    def fit(self) -> intervals.Fit:
        """The official convention: that of ``cost``."""
        return intervals.fit(self.cost, self.start)

    @cached_property
    def at_best(self) -> Binned:
        """Everything that says how much the data fluctuate, taken where the first fit ends."""
        best = self.fit.values
        return fits.covariance_cost(self.model, covariance.systematic(self.model, best), at=best)

    @cached_property
    def modes(self) -> fits.Modes:
        return fits.Modes.of(self.smooth)

    def pull_fit(self, statistic: fits.Statistic) -> intervals.Fit:
        """The pull form's, each from where the one before ended."""
        if statistic not in self.pulled:
            earlier = list(self.pulled.values())
            start = earlier[-1].values if earlier else fits.pull_start(self.smooth, self.modes, self.cost,
                                                                       self.fit.values)  # fmt: skip
            self.pulled[statistic] = intervals.fit(fits.pull_cost(self.smooth, self.modes, statistic), start)
        return self.pulled[statistic]


# -- steps -------------------------------------------------------------------------------------------------------------


def model(analysis: Analysis) -> None:
    """What is read and predicted before any fit."""
    data, expected = analysis.model.release, _counts(analysis.model, analysis.start)
    counts, background = data.observed.sum(1), analysis.model.background(analysis.model.nominal).sum(-1).numpy()
    shown = (counts, background, data.livetime / DAY, expected.reshape(21, 26).sum(1))
    halls = zip(SITES, *(by_hall(each) for each in shown), strict=True)
    rows = [[hall, *(f"{each:,.0f}" for each in numbers)] for hall, *numbers in halls]
    header = ["", "candidates", "background", "days x detectors", "expected before the fit"]
    analysis.tables.append(report.Table("The data, by experimental hall", header, rows))
    analysis.numbers["candidates"] = report.number(float(counts.sum()))


def fit(analysis: Analysis) -> None:
    """The measurement, beside the published one, and how it depends on conventions."""
    found = analysis.fit
    errors = intervals.minos(analysis.cost, fits.INTEREST, start=found.values)
    dof = analysis.model.observed.numel() - len(found.values)
    header = ["", "value", "uncertainty", "MINOS", "official analysis", "published"]
    rows = [_row(name, found, errors, k) for k, name in enumerate(fits.INTEREST)]
    rows.append(["chi2 / dof", f"{found.minimum:.3f} / {dof}", "", "", f"{OFFICIAL['chi2'][0]}", ""])
    analysis.tables.append(report.Table("Covariance form, normal ordering", header, rows))
    for name in fits.INTEREST:
        analysis.numbers[name] = report.number(found.values[name], found.errors[name], published=PUBLISHED[name][0])
    analysis.numbers["chi2"] = report.number(found.minimum, published=OFFICIAL["chi2"][0])
    _conventions(analysis)
    analysis.pictures += _compared(analysis)


def scan(analysis: Analysis) -> None:
    """The likelihood in both parameters, all others profiled."""
    cost, values = analysis.cost, analysis.fit.values
    contour = intervals.contour(cost, AMPLITUDE, SPLITTING, cls=figures.LEVELS, points=15, start=values)
    profiles, others = ({name: intervals.profile(each, name, points=21, span=4.0, start=values)
                         for name in fits.INTEREST} for each in (cost, analysis.at_best))  # fmt: skip
    both = {name: {"at the start": profiles[name], "at the best fit": others[name]} for name in fits.INTEREST}
    analysis.pictures += [
        report.Picture("contour", figures.contour(contour, profiles), "regions of 68.3, 95.5 and 99.7% for both "
                       "parameters, and the profiles of each"),
        report.Picture("profiles", figures.profiles(both), "profiles with covariance and variance taken at the start, "
                       "as in the official analysis, or at the best fit"),
    ]  # fmt: skip


def budget(analysis: Analysis) -> None:
    """What limits the measurement: the fit without each group of systematics."""
    full, found = analysis.fit, {}
    for name, own in analysis.groups.items():
        cost = fits.covariance_cost(analysis.model, analysis.systematic - own)
        found[name] = _difference(full, intervals.fit(cost, full.values))
    # a covariance that vanishes beside the statistical one
    bare = intervals.fit(fits.covariance_cost(analysis.model, 1e-9 * np.diag(analysis.model.observed)), full.values)
    statistical, total = _errors(bare), _errors(full)
    axes = figures.budget(analysis.model.parameters, found, statistical=statistical, total=total)
    analysis.pictures.append(report.Picture("budget", axes, "what the uncertainty loses in quadrature without each "
                                            "group of systematics; the shares need not add up to 100%"))  # fmt: skip
    for group, sizes in {"statistical": statistical, **found}.items():
        for name, size in zip(fits.INTEREST, sizes, strict=True):
            analysis.numbers[f"budget.{group}.{name}"] = report.number(size)


def pulls(analysis: Analysis) -> None:
    """Nuisances as parameters, with Poisson's statistic and with the combined variance."""
    model, rows = analysis.smooth, []
    named: dict[fits.Statistic, str] = {"cnp": "combined Neyman-Pearson", "poisson": "Poisson"}
    for statistic, title in named.items():
        found = analysis.pull_fit(statistic)
        rows.append([title, *_both(found), f"{found.minimum:.2f}", str(found.calls.gradient)])
        for name in fits.INTEREST:
            analysis.numbers[f"pulls.{statistic}.{name}"] = report.number(found.values[name], found.errors[name])
    caption = f"Pull form: {len(found.names)} parameters"
    analysis.tables.append(report.Table(caption, ["", *_titles(), "-2 log L", "gradients"], rows))
    largest = sorted(fits.pulls(model, found.values).items(), key=lambda pull: -abs(pull[1]))[:5]
    analysis.tables.append(report.Table("The largest pulls, Poisson", ["", "standard deviations"],
                                        [[name, f"{size:+.2f}"] for name, size in largest]))  # fmt: skip
    axes = figures.pulls(model, found.values, found.errors)
    analysis.pictures.append(report.Picture("pulls", axes, "pulls of the nuisance parameters with their uncertainty "
                                            "after the fit, in units of that before"))  # fmt: skip


def learn(analysis: Analysis) -> None:
    """The posterior from simulated experiments and a learned likelihood, beside the fits of the same likelihoods."""
    settings, cost = analysis.settings, analysis.cost
    analysis.text.append(LEARNED.format(n=settings.simulations))
    official, pulled = analysis.fit, analysis.pull_fit("poisson")
    fixed = posterior.learn(_experiment(analysis, cost, official, "covariance"), settings)
    moved = posterior.learn(
        _experiment(analysis, analysis.at_best, intervals.fit(analysis.at_best, official.values), "model"), settings
    )
    ratio = posterior.ratio_cost(posterior.learn_ratio(moved, settings), moved.observation)
    profiled = intervals.fit(ratio, posterior.start(moved))
    lines = intervals.contour(ratio, *fits.INTEREST, cls=figures.LEVELS[:2], points=9, start=profiled.values)
    answers = [
        _gaussian("pull form, Poisson", pulled), posterior.answer("posterior", moved),
        figures.Answer("learned ratio, profiled", _values(profiled), _errors(profiled), lines.lines),
        _gaussian("covariance form", official), posterior.answer("posterior, its covariance", fixed),
    ]  # fmt: skip
    _compared_answers(analysis, answers)
    _calibrated(analysis, {"posterior": moved, "posterior.covariance": fixed})
    axes = figures.answers(answers)
    analysis.pictures.append(report.Picture("answers", axes, "68.3% (solid) and 95.4% regions of both parameters by "
                                            "all methods; below, each parameter over the published band"))  # fmt: skip


def unfold(analysis: Analysis) -> None:
    """The antineutrinos' spectrum, by three methods, with checks, beside Huber's and Mueller's."""
    model, values = analysis.model, analysis.fit.values
    analysis.text.append(UNFOLDED)
    at = [analysis.fit.names.index(name) for name in fits.INTEREST]
    problem = unfolding.Problem.of(model, values, analysis.fit.covariance[np.ix_(at, at)])
    best = unfolding.merged(unfolding.fine_contents(model, values)[1])
    spectra = {name: method(problem, problem.counts, problem.response) for name, method in unfolding.BINNED.items()}
    shapes = {name: unfolding.compared(spectrum, problem) for name, spectrum in spectra.items()}
    events = unfolding.omnifolded(problem, problem.counts - problem.background, analysis.size)
    analysis.spectra |= {**spectra, "OmniFold": events}
    _shapes(analysis, problem, best)
    _bins(analysis, shapes, problem)
    models, own = {"best fit": best, "Huber-Mueller": problem.reference}, (unfolding.signal(model, values), best)
    for name in spectra:
        checks = unfolding.checked(name, problem, models, analysis.size, pseudo_data={"best fit in the model": own})
        _verdicts(analysis, name, checks)
    axes = figures.unfolded(spectra, shapes, problem.reference, events)
    analysis.pictures.append(report.Picture("unfolded", axes, "antineutrinos by energy, unfolded, with the prediction "
                                            "of Huber and Mueller through A_C; below, the ratio in shape, with the "
                                            "measurement's errors and the prediction's as a band"))  # fmt: skip


def bump(analysis: Analysis) -> None:
    """The excess near 5 MeV over Huber and Mueller, in shape."""
    found = analysis.fit
    at = [found.names.index(name) for name in fits.INTEREST]
    analysis.text.append(bump_report.TEXT)
    bump_report.report_on(bump_report.prompts(analysis.model, found.values, found.covariance[np.ix_(at, at)]),
                          analysis.effort, analysis)  # fmt: skip


STEPS: Mapping[str, Callable[[Analysis], None]] = {
    "model": model, "fit": fit, "scan": scan, "budget": budget, "pulls": pulls, "unfold": unfold,
    "bump": bump, "posterior": learn,
}  # fmt: skip
SLOW = ("unfold", "bump", "posterior")  # half a minute each, and minutes
USUAL = tuple(name for name in STEPS if name not in SLOW)


# -- parts -------------------------------------------------------------------------------------------------------------


def _counts(model: Model, values: Mapping[str, float]) -> Floats:
    """The expected counts (546,)."""
    with torch.no_grad():
        return model.predict(torch.tensor(list(values.values()), dtype=torch.float64), tuple(values)).numpy()


def _compared(analysis: Analysis) -> list[report.Picture]:
    """Data beside the best fit, with the pulls of the nuisances that it implies."""
    model, values = analysis.model, {**analysis.fit.values}
    values |= fits.implied(model, analysis.cost, values)
    prediction = _counts(model, values)
    without = _counts(model, {**values, AMPLITUDE: 0.0, "sin2_2theta12": 0.0})
    here = model.values(torch.tensor(list(values.values()), dtype=torch.float64), tuple(values))
    background = model.background(here).flatten().numpy()
    return [
        report.Picture("spectra", figures.spectra(model, prediction, background), "candidates, best fit (with the "
                       "pulls of the nuisances that it implies) and backgrounds in each detector and period"),
        report.Picture("halls", figures.halls(model, prediction, background, unoscillated=without),
                       "the same by experimental hall, and over the expectation without oscillation"),
        report.Picture("oscillation", figures.far_near(model, values), "survival probability of electron "
                       "antineutrinos against effective baseline over energy; statistical errors"),
    ]  # fmt: skip


def _conventions(analysis: Analysis) -> None:
    """The same data under other choices."""
    official, systematic = analysis.model, analysis.systematic
    relative = Model(official.release, site_sigma="relative")
    inverted = Model(official.release, ordering=-1)
    found = {
        "variance frozen at the start (official)": analysis.fit,
        "variance of each step": _fitted(analysis, official, systematic, frozen=False),
        "covariance and variance at the best fit": intervals.fit(analysis.at_best, analysis.fit.values),
        "relative uncertainties of site backgrounds": _fitted(analysis, relative, covariance.systematic(relative)),
        "smooth within bins": _fitted(analysis, analysis.smooth, covariance.systematic(analysis.smooth)),
        "inverted ordering": _fitted(analysis, inverted, covariance.systematic(inverted)),
    }
    rows = [[name, *_both(fit), f"{fit.minimum:.2f}"] for name, fit in found.items()]
    analysis.tables.append(report.Table("Conventions (the mass splitting is |Delta m^2_32|)",
                                        ["", *_titles(), "chi2"], rows))  # fmt: skip
    analysis.numbers["inverted.dm2_32"] = report.number(
        found["inverted ordering"].values[SPLITTING], found["inverted ordering"].errors[SPLITTING],
        published=PUBLISHED["inverted"][0],
    )  # fmt: skip


def _fitted(analysis: Analysis, model: Model, systematic: Floats, *, frozen: bool = True) -> intervals.Fit:
    return intervals.fit(fits.covariance_cost(model, systematic, frozen=frozen), analysis.fit.values)


def _errors(found: intervals.Fit) -> figures.Pair:
    return found.errors[AMPLITUDE], found.errors[SPLITTING]


def _values(found: intervals.Fit) -> figures.Pair:
    return found.values[AMPLITUDE], found.values[SPLITTING]


def _experiment(
    analysis: Analysis, cost: Binned, best: intervals.Fit, fluctuations: posterior.Fluctuations
) -> posterior.Experiment:
    """Experiments about a best fit, summed up with the covariance of ``cost``."""
    return posterior.Experiment.at(analysis.model, best.values, posterior.variance(cost), fluctuations)


def _gaussian(title: str, found: intervals.Fit) -> figures.Answer:
    at = [found.names.index(name) for name in fits.INTEREST]
    return figures.Answer.gaussian(title, _values(found), found.covariance[np.ix_(at, at)])


def _compared_answers(analysis: Analysis, answers: Sequence[figures.Answer]) -> None:
    """Each learned answer against the fit of the likelihood that its simulations have."""
    pulled, moved, ratio, official, fixed = answers
    rows = [[pulled.title, *_shown_both(pulled), "", ""]]
    for prefix, found, against in (("posterior", moved, pulled), ("ratio", ratio, pulled), ("", official, None),
                                   ("posterior.covariance", fixed, official)):  # fmt: skip
        if against is None:
            rows.append([found.title, *_shown_both(found), "", ""])
            continue
        shift = np.subtract(found.value, against.value) / against.error
        width = np.divide(found.error, against.error)
        beside = [", ".join(f"{x:+.2f}" for x in shift), ", ".join(f"{x:.3f}" for x in width)]
        rows.append([found.title, *_shown_both(found), *beside])
        for k, name in enumerate(fits.INTEREST):
            analysis.numbers |= {
                f"{prefix}.{name}": report.number(found.value[k], found.error[k], published=PUBLISHED[name][0]),
                f"{prefix}.shift.{name}": report.number(shift[k]), f"{prefix}.width.{name}": report.number(width[k]),
            }  # fmt: skip
    analysis.tables.append(report.Table(
        "Learned from simulations, against the fit of the same likelihood (shift in its standard deviations, ratio of "
        "widths)", ["", *_titles(), "shifts", "widths"], rows))  # fmt: skip


def _shown_both(answer: figures.Answer) -> list[str]:
    return [_shown(name, v, e) for name, v, e in zip(fits.INTEREST, answer.value, answer.error, strict=True)]


def _calibrated(analysis: Analysis, learned: Mapping[str, posterior.Learned]) -> None:
    """Are the posteriors right, over held-out experiments, and are the data like the simulations?"""
    found = {name: posterior.diagnosed(each) for name, each in learned.items()}
    for name, each in found.items():
        analysis.numbers |= {f"{name}.{key}": report.number(value) for key, value in each.numbers.items()}
    header = ["", *(key.replace("_", " ") for key in found["posterior"].numbers)]
    rows = [[name, *(f"{value:.3f}" for value in each.numbers.values())] for name, each in found.items()]
    analysis.tables.append(report.Table("On experiments held out", header, rows))
    labels = {name: figures.LABELS[name].split(" (")[0] for name in fits.INTEREST}
    analysis.pictures += [
        report.Picture("ranks", plots.sbc_ecdf(found["posterior"].ranks, labels=labels), "simulation-based calibration "
                       "of the posterior: ranks of the truth among its draws"),
        report.Picture("tarp", plots.tarp_curve({name: each.curve for name, each in found.items()}), "coverage of the "
                       "posteriors by distances to reference points"),
    ]  # fmt: skip


def _difference(full: intervals.Fit, without: intervals.Fit) -> figures.Pair:
    """In quadrature; 0 where the uncertainty does not shrink."""
    amplitude, splitting = np.sqrt(np.maximum(np.square(_errors(full)) - np.square(_errors(without)), 0.0)).tolist()
    return amplitude, splitting


def _titles() -> list[str]:
    return ["sin^2(2 theta13)", "dm2_32, 10^-3 eV^2"]


def _shown(name: str, value: float, error: float | None) -> str:
    scale, digits = figures.SCALES[name], 4 if name == SPLITTING else 5
    return f"{value * scale:.{digits}f}" + ("" if error is None else f" +- {error * scale:.{digits}f}")


def _both(found: intervals.Fit) -> list[str]:
    return [_shown(name, found.values[name], found.errors[name]) for name in fits.INTEREST]


def _row(name: str, found: intervals.Fit, errors: intervals.Minos, k: int) -> list[str]:
    scale, title = figures.SCALES[name], _titles()[fits.INTEREST.index(name)]
    sides = f"-{errors.down[k] * scale:.5f} +{errors.up[k] * scale:.5f}"
    others = [_shown(name, *known[name]) for known in (OFFICIAL, PUBLISHED)]  # type: ignore[arg-type]
    return [title, f"{found.values[name] * scale:.5f}", f"{found.errors[name] * scale:.5f}", sides, *others]


def _shapes(analysis: Analysis, problem: unfolding.Problem, best: Floats) -> None:
    """Each method against Huber and Mueller, and what the same comparison gives before unfolding."""
    before, rows = unfolding.before_unfolding(problem), []
    rows.append(["prompt bins, before", _chi2(before.chi2), "", f"{before.total:.4f}", "", ""])
    analysis.numbers["unfold.chi2.before"] = report.number(before.chi2.value)
    reference, sigma = analysis.spectra["iterative Bayes"].values, analysis.spectra["iterative Bayes"].uncertainty
    for name, spectrum in analysis.spectra.items():
        found, ratio = unfolding.compared(spectrum, problem), unfolding.excess(spectrum, problem)
        off = f"{np.sqrt(np.mean(((spectrum.values - reference) / sigma) ** 2)):.2f}"
        binned = spectrum.smearing is not None  # the covariance of OmniFold is not the measurement's
        error = f" +- {ratio[1]:.4f} +- {ratio[2]:.4f}" if binned else ""
        cells = [_chi2(found.chi2), _chi2(unfolding.compared(spectrum, problem, best).chi2)] if binned else ["", ""]
        rows.append([name, *cells, f"{found.total:.4f}", f"{ratio[0]:.4f}{error}", off])
        analysis.numbers[f"unfold.excess.{name}"] = report.number(ratio[0], np.hypot(*ratio[1:]) if binned else None)
        analysis.numbers[f"unfold.yield.{name}"] = report.number(found.total)
        if binned:
            analysis.numbers[f"unfold.chi2.{name}"] = report.number(found.chi2.value)
            analysis.numbers[f"unfold.p.{name}"] = report.number(found.chi2.p_value)
    header = ["", "chi2 / dof, Huber-Mueller", "best fit", "yield / Huber-Mueller", "5.0 to 6.5 MeV, share over "
              "Huber-Mueller's", "off Bayes, rms sigma"]  # fmt: skip
    analysis.tables.append(report.Table("Unfolded spectra of the near halls, in shape and through A_C (errors: "
                                        "measurement, prediction)", header, rows))  # fmt: skip


def _chi2(found: Chi2) -> str:
    return f"{found.value:.1f} / {found.dof}, p = {found.p_value:.2g}"


def _bins(analysis: Analysis, shapes: Mapping[str, unfolding.Shape], problem: unfolding.Problem) -> None:
    """Every bin: the Wiener filter's interactions an MeV, and the ratios of both binned methods."""
    wiener, edges, rows = analysis.spectra["Wiener-SVD"], unfolding.EDGES, []
    density, error = wiener.density, wiener.uncertainty / wiener.binning.widths
    expected = wiener.smear(problem.reference) / wiener.binning.widths
    for t in range(wiener.binning.size):
        ratios = [f"{one.ratio[t]:.3f} +- {one.error[t]:.3f} +- {one.model_error[t]:.3f}" for one in shapes.values()]
        rows.append([f"{edges[t]:.2f} to {edges[t + 1]:.2f}", f"{density[t]:,.0f} +- {error[t]:,.0f}",
                     f"{expected[t]:,.0f}", *ratios])  # fmt: skip
        analysis.numbers[f"unfold.Wiener-SVD.{t}"] = report.number(density[t], error[t])
        analysis.numbers[f"unfold.Huber-Mueller.{t}"] = report.number(expected[t])
        for name, one in shapes.items():
            analysis.numbers[f"unfold.ratio.{name}.{t}"] = report.number(one.ratio[t], one.error[t])
    header = ["MeV", "interactions / MeV, Wiener-SVD", "A_C x Huber-Mueller", *(f"ratio, {name}" for name in shapes)]
    analysis.tables.append(report.Table("By antineutrino energy", header, rows))


def _verdicts(analysis: Analysis, name: str, checks: Checks) -> None:
    words = {True: "pass", False: "FAIL", None: "no bar"}
    rows = [[one.name, words[one.passed], one.words] for one in checks.checks]
    analysis.tables.append(report.Table(f"Checks of {name}", ["", "verdict", "found"], rows))
    analysis.numbers[f"unfold.failed.{name}"] = report.number(float(len(checks.failed)))


# -- the program -------------------------------------------------------------------------------------------------------


def main() -> None:
    options = parse()
    torch.set_num_threads(options.threads)
    analysis = Analysis()
    if options.fast:
        analysis = Analysis(settings=posterior.FAST, size=unfolding.Size.fast(), effort=bumps.Effort.fast())
    for step in options.steps:
        clock = time.perf_counter(), time.process_time()
        before = len(analysis.tables)
        STEPS[step](analysis)
        print("\n".join(f"{table}\n" for table in analysis.tables[before:]))
        wall, cpu = (after - at for after, at in zip((time.perf_counter(), time.process_time()), clock, strict=True))
        print(f"step {step}: {wall:.1f} s, {cpu:.1f} CPU s\n", flush=True)
    for name, spectrum in analysis.spectra.items():  # with covariance and A_C, which a comparison needs
        options.out.mkdir(parents=True, exist_ok=True)
        spectrum.save(options.out / f"unfolded-{name.lower().replace(' ', '-')}.safetensors")
    print(report.write(options.out, title=TITLE, text=analysis.text, tables=analysis.tables, pictures=analysis.pictures,
                       seed=0, numbers=analysis.numbers))  # fmt: skip


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m analyses.dayabay", description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--steps", type=_steps, default=USUAL,
                        help=f"some of {','.join(STEPS)} (all but {', '.join(SLOW)}, which are slow)")  # fmt: skip
    parser.add_argument("--fast", action="store_true", help="few simulations and toys; NUINFER_FAST=1 does the same")
    parser.add_argument("--threads", type=int, default=1, help="of torch; the operations are small (1)")
    parser.add_argument("--out", type=Path, default=Path("out/dayabay"), help="folder for the results")
    options = parser.parse_args()
    options.fast |= os.environ.get("NUINFER_FAST", "0") not in ("", "0")
    return options


def _steps(text: str) -> tuple[str, ...]:
    chosen = tuple(part.strip() for part in text.split(",") if part.strip())
    unknown = [name for name in chosen if name not in STEPS]
    if unknown or not chosen:
        raise argparse.ArgumentTypeError(f"expected some of {', '.join(USUAL)}, found {', '.join(unknown) or 'none'}; "
                                         f"or {', '.join(SLOW)}, which are not among the usual ones")  # fmt: skip
    return chosen


if __name__ == "__main__":
    main()
