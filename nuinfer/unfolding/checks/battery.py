"""All checks at once: of a binned result, of weighted events, and of draws of the truth.

A method of the result does the same with what it knows of its data: `Spectrum.check`, ``Unfolded.check``,
``GenerativeUnfolding.check``.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from concurrent.futures import Executor
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import special, stats

from ...events import Events, flag
from ...tasks import TaskError
from ..binning import Binning, BinningLike
from ..measured import Counts
from ..response import Response
from ..spectrum import Spectrum, Unfold
from .comparisons import closure, iteration_effect, prior_dependence, stress
from .forward import Fold, bottom_line, refolded_chi2
from .toys import coverage, of_spectra, pseudo_experiments
from .verdicts import USUAL, Check, Checks, Thresholds, left_out
from .weighted_events import bottom_line_of_events, effective_size, reweighted_chi2, two_sample

if TYPE_CHECKING:
    from ...features import Features
    from ...nets import Network
    from ...train import Training
    from ...trees import Trees
    from ..generative.result import GenerativeUnfolding
    from ..unbinned.result import Unfolded

__all__ = ["check", "check_draws", "check_events"]

Floats = NDArray[np.float64]

_OF_THE_CODE = "; folded by the response that unfolds it, which tests the code alone"


def check(
    spectrum: Spectrum, data: Counts, response: Response, unfold: Unfold, *, background: Counts = None,
    covariance: ArrayLike | None = None, models: Mapping[str, ArrayLike] | None = None,
    pseudo_data: Mapping[str, tuple[Counts, ArrayLike]] | None = None, priors: Mapping[str, Spectrum] | None = None,
    iterations: Sequence[ArrayLike] = (), toys: int = 500, seed: int = 0, executor: Executor | None = None,
    expected: ArrayLike | None = None, thresholds: Thresholds = USUAL, progress: bool = True,
) -> Checks:  # fmt: skip
    """All checks of a binned result; those that lack an input are listed without a verdict.

    `Spectrum.check` does the same with what a spectrum was unfolded from.

    Parameters
    ----------
    spectrum:
        What ``unfold(data, response)`` gave.
    data, background, covariance:
        As they were unfolded: see `Measured.of`.
    unfold:
        ``unfold(data, response)``, with the same background and options.
    models:
        Truths (B,) by name in the exposure of the data.  Each is folded by the response and unfolded (stress test), and
        all are compared before and after unfolding (bottom line).  Pseudo-experiments are thrown of the first, without
        any of the simulation's truth.  The stress test of a truth folded by the response that unfolds it is an identity
        for linear methods: it tests the code, not the response.
    pseudo_data:
        By name, other data with their truth (B,), as of another generator: events, or contents (R,) with fakes and
        background, for stress tests.  These alone test the response.
    priors:
        By name, the same data unfolded with another prior, reference or model.
    iterations:
        The spectrum after each iteration.
    toys:
        Pseudo-experiments; as many again for the refolded chi-squared.  0 leaves them out.
    expected:
        Counts (R,) expected in the data, whose variances the bottom line takes where there is no ``covariance``; None
        for those of the data, of which no bin may be empty then.

    Raises
    ------
    ValueError
        as the checks one by one.
    """
    t, truths, fold = thresholds, dict(models or {}), Fold.of(spectrum, response, background, covariance)
    spectrum.binning.check_same("response", response.truth)
    own, others = response.truth_yield, dict(pseudo_data or {})
    _check_names(truths, others)
    found = [closure(unfold(fold.expected(own), response), own, most=t.closure)]
    trials = {name: (fold.expected(s), s) for name, s in truths.items()} | others
    for name, (pseudo, s) in trials.items():
        one = stress(unfold(pseudo, response), s, name=name, sigma=spectrum.uncertainty, level=t.level,
                     tolerance=t.tolerance)  # fmt: skip
        found.append(one if name in others else replace(one, words=one.words + _OF_THE_CODE))
    found += [] if trials else [left_out("stress test", "models= or pseudo_data=")]
    before = expected if covariance is None else covariance
    found.append(
        bottom_line(spectrum, data, response, truths, background=background, covariance=before,
                    tolerance=t.bottom_line) if truths else left_out("bottom line", "models=")
    )  # fmt: skip
    found.append(refolded_chi2(spectrum, data, response, background=background, covariance=covariance, level=t.level,
                               unfold=unfold if toys else None, toys=toys, seed=seed, executor=executor,
                               progress=progress))  # fmt: skip
    if toys:
        found += _toy_coverage(unfold, response, next(iter(truths.values()), own), t, toys=toys, background=background,
                               covariance=covariance, fakes=spectrum.settings.get("fakes", "subtract"),
                               seed=seed + 1, executor=executor, progress=progress)  # fmt: skip
    else:
        found.append(left_out("coverage", "toys="))
    return Checks((*found, *_movements(spectrum, priors or {}, iterations, t)))


def _toy_coverage(
    unfold: Unfold, response: Response, truth: ArrayLike, t: Thresholds, *, toys: int, background: Counts,
    covariance: ArrayLike | None, fakes: str, seed: int, executor: Executor | None, progress: bool,
) -> tuple[Check, ...]:  # fmt: skip
    """Of pseudo-experiments; no verdict where none can be unfolded, as that is no reason to keep the other checks."""
    try:
        runs = pseudo_experiments(unfold, response, truth, toys=toys, background=background, covariance=covariance,
                                  fakes=fakes, seed=seed, executor=executor, progress=progress)  # fmt: skip
    except TaskError as error:
        return (Check("coverage", None, np.nan, t.level, f"not done; {error}"),)
    return coverage(runs, level=t.level, tolerance=t.coverage)


def check_events(
    unfolded: Unfolded, data: Events, *, truth: BinningLike, reco: BinningLike, features: Features | list[str],
    background: Events | None = None, closed: Unfolded | None = None,
    pseudo_data: Mapping[str, tuple[Unfolded, ArrayLike]] | None = None,
    pseudo_experiments: tuple[Sequence[Unfolded | Spectrum], ArrayLike] | None = None,
    priors: Mapping[str, Unfolded] | None = None, network: Network | Trees | None = None,
    training: Training | None = None, group: str | None = None, seed: int = 0, thresholds: Thresholds = USUAL,
    folded: Unfolded | None = None,
) -> Checks:  # fmt: skip
    """All checks of an unbinned result; those that lack an input are listed without a verdict.

    ``Unfolded.check`` does the same with what the result was unfolded from.

    Parameters
    ----------
    data, background:
        As they were unfolded.
    truth, reco:
        Bins in which truth and reco are compared.
    features, network, training:
        Of the two-sample test.
    group:
        Integer column of copies of one event, which fluctuate together in reco; None for that of the result.
    closed:
        The simulation unfolded as data: its ``pass_reco`` events, by the same simulation.
    pseudo_data:
        By name, other data unfolded by the same simulation, with their truth (B,) in these bins: for stress tests, and
        in the exposure of the data for the bottom line, which compares them through the method, as A_C is not known
        (`nuinfer.unfolding.checks.weighted_events`).  Without replicas of their own they take the covariance of the
        data.
    pseudo_experiments:
        Independent pseudo-data of one truth, unfolded, or their spectra in these bins; and that truth (B,), in the
        exposure of the data.  Each has a simulation of its own where the replicas' uncertainty is to be tested in full,
        which the simulation's statistics are part of.
    priors:
        By name, the same data unfolded by another simulation.
    folded:
        The result with the weights of what is reconstructed, for the two comparisons in reco, where they are not the
        truth's, as nuisances of the detector were fitted; None for the same.

    Uncertainties are those of the replicas, or of the members alone where there are none.

    Raises
    ------
    ValueError
        where there are neither replicas nor members, and as the checks one by one.
    """
    t = thresholds
    if folded is None and "nuisances" in unfolded.settings:
        raise ValueError("check: expected the check() of the profiled result, or folded=, found weights of the truth "
                         "alone, which leave the simulation with the detector before the fit")  # fmt: skip
    seen = unfolded if folded is None else folded
    of_events = [
        effective_size(unfolded, least=t.effective_size),
        two_sample(seen, data, features, background=background, level=t.level, network=network, training=training,
                   group=group, seed=seed),
        reweighted_chi2(seen, data, reco, background=background, level=t.level, group=group),
    ]  # fmt: skip
    known = unfolded.with_data(data, background)
    results = _Results(Binning.of(truth), known, dict(pseudo_data or {}), dict(priors or {}), t)
    inside = None
    if closed is not None:
        simulation = closed.simulation
        inside = results.binning.fill(simulation.select(flag(simulation, "pass_truth")))[0]
    return Checks((*of_events, *results.checks(closed, inside, reco, pseudo_experiments)))


def check_draws(
    unfolded: GenerativeUnfolding, *, truth: BinningLike, reco: BinningLike, simulation: Events | None = None,
    closed: tuple[GenerativeUnfolding, ArrayLike] | None = None,
    pseudo_data: Mapping[str, tuple[GenerativeUnfolding, ArrayLike]] | None = None,
    pseudo_experiments: tuple[Sequence[GenerativeUnfolding | Spectrum], ArrayLike] | None = None,
    priors: Mapping[str, GenerativeUnfolding] | None = None, seed: int = 0, thresholds: Thresholds = USUAL,
) -> Checks:  # fmt: skip
    """All checks of a generative result; those that lack an input are listed without a verdict.

    Parameters
    ----------
    truth, reco, pseudo_data, pseudo_experiments, priors:
        As of `check_events`; the bottom line needs a result that knows its data.
    simulation:
        Simulated events that it was not trained on: whether the densities are calibrated on them.
    closed:
        The simulation unfolded as data, and its truth (B,) in these bins.

    Draws are no weights on the simulation, so that there is no effective size; and nothing is there to be compared with
    the data in reco, as the simulation would have to be weighted to the draws first, which a further iteration does.

    Raises
    ------
    ValueError
        as `check_events`.
    """
    results = _Results(Binning.of(truth), unfolded, dict(pseudo_data or {}), dict(priors or {}), thresholds)
    first = [_calibration(unfolded, simulation, thresholds.level, seed), Check(
        "two-sample test", None, np.nan, np.nan, "not done; draws are no weights on the simulation, and a further "
        "iteration would tell"
    )]  # fmt: skip
    found, inside = (None, None) if closed is None else closed
    return Checks((*first, *results.checks(found, inside, reco, pseudo_experiments)))


def _calibration(unfolded: GenerativeUnfolding, simulation: Events | None, level: float, seed: int) -> Check:
    if simulation is None:
        return left_out("calibration", "simulation= that was not trained on")
    p = unfolded.calibration(simulation, seed=seed).p_value
    return Check("calibration", p > level, p, level, f"ranks of the simulated truth among draws of the last iteration: "
                 f"p = {p:.2g} (level {level:g})")  # fmt: skip


@dataclass(frozen=True, eq=False)
class _Results:
    """A result that has no A_C, in bins, beside others of its kind."""

    binning: Binning
    unfolded: Unfolded | GenerativeUnfolding
    pseudo_data: Mapping[str, tuple[Unfolded | GenerativeUnfolding, ArrayLike]]
    priors: Mapping[str, Unfolded | GenerativeUnfolding]
    thresholds: Thresholds

    def checks(
        self, closed: Unfolded | GenerativeUnfolding | None, inside: ArrayLike | None, reco: BinningLike,
        experiments: tuple[Sequence[Unfolded | GenerativeUnfolding | Spectrum], ArrayLike] | None,
    ) -> list[Check]:  # fmt: skip
        """Those in bins of truth; ``inside`` is the truth of ``closed``."""
        spectrum, t = self.unfolded.spectrum(self.binning), self.thresholds
        sigma = spectrum.uncertainty  # raises without replicas and members
        found = [left_out("closure", "closed=")] if closed is None or inside is None else [
            self._closure(spectrum, closed.spectrum(self.binning), np.asarray(inside, np.float64))
        ]  # fmt: skip
        for name, (other, s) in self.pseudo_data.items():
            one = other.spectrum(self.binning)
            if len(one.replicas) < 2:  # without statistics of its own
                one = replace(one, covariances=spectrum.covariances, members=spectrum.members,
                              replicas=spectrum.replicas)  # fmt: skip
            found.append(stress(one, s, name=name, sigma=sigma, level=t.level, tolerance=t.tolerance))
        found += [] if self.pseudo_data else [left_out("stress test", "pseudo_data=")]
        others = {name: other for name, (other, _) in self.pseudo_data.items()}
        found.append(bottom_line_of_events(self.unfolded, others, truth=self.binning, reco=reco,
                                           tolerance=t.bottom_line_of_events))  # fmt: skip
        found += self._coverage(spectrum, experiments)
        count = len(self.unfolded.iterations)
        steps = [self.unfolded.spectrum(self.binning, iteration=k).values for k in range(count)]
        return [*found, *_movements(spectrum, {n: r.spectrum(self.binning) for n, r in self.priors.items()}, steps, t)]

    def _closure(self, spectrum: Spectrum, closed: Spectrum, own: Floats) -> Check:
        # as relative, in the simulation's exposure; a bin where nothing was unfolded has to stay empty
        values = np.abs(spectrum.values)
        share = np.divide(spectrum.uncertainty, values, out=np.zeros_like(values), where=values > 0)
        there = share * np.abs(own)
        return closure(closed, own, sigma=there, most=self.thresholds.closure_of_events)

    def _coverage(
        self, spectrum: Spectrum,
        given: tuple[Sequence[Unfolded | GenerativeUnfolding | Spectrum], ArrayLike] | None,
    ) -> tuple[Check, ...]:  # fmt: skip
        """With the uncertainty of the result, which is known to 1 / sqrt(2 (n - 1)) by n replicas."""
        replicas, t = len(spectrum.replicas), self.thresholds
        if given is None or replicas < 2:
            return (left_out("coverage", "pseudo_experiments=" if given is None else "replicas of the result"),)
        spectra = [s if isinstance(s, Spectrum) else s.spectrum(self.binning) for s in given[0]]
        for number, one in enumerate(spectra):
            self.binning.check_same(f"pseudo-experiment {number}", one.binning)
        runs = of_spectra(spectra, given[1], sigma=spectrum.uncertainty)
        z = special.ndtri((1 + runs.cl) / 2)
        unsure = 3 * 2 * z * stats.norm.pdf(z) / np.sqrt(2 * (replicas - 1))
        return coverage(runs, level=t.level, tolerance=max(t.coverage, float(unsure)), wide=True)


def _check_names(models: Mapping[str, object], others: Mapping[str, object]) -> None:
    if both := sorted(set(models) & set(others)):
        raise ValueError(f"models and pseudo_data: expected names of their own, found {both[0]!r} in both")


def _movements(
    spectrum: Spectrum, priors: Mapping[str, Spectrum], iterations: Sequence[ArrayLike], t: Thresholds
) -> list[Check]:
    found = [prior_dependence(spectrum, other, name=name, most=t.prior) for name, other in priors.items()]
    found += [] if priors else [left_out("prior dependence", "priors=")]
    if len(iterations) > 1:
        return [*found, iteration_effect(iterations, spectrum.uncertainty, most=t.iteration)]
    return [*found, left_out("iterations", "iterations= of at least 2")]
