"""The figures of the page."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

import nuinfer as nu
from analyses.oscillation_posterior.inference import Checks
from analyses.oscillation_posterior.problem import EDGES, LABELS, PARAMETERS, TRUTH
from analyses.report import Picture
from nuinfer.posterior import NeuralPosterior
from nuinfer.simulators import GridPosterior

Floats = NDArray[np.float64]

DRAWS = 40_000


def pictures(
    posterior: NeuralPosterior, observation: nu.Events, exact: GridPosterior, checks: Checks, *, seed: int
) -> list[Picture]:
    """All of them, in the order of the page."""
    return [
        corner(posterior, observation, exact, seed),
        predictive(observation, checks),
        Picture("sbc_ranks", nu.plots.sbc_ranks(checks.sbc, labels=LABELS)[0],
                "ranks of the true parameters among draws of their posteriors, and of the density at the truth; the "
                "band holds 95% of uniform ranks in each bin"),
        Picture("sbc_ecdf", nu.plots.sbc_ecdf(checks.sbc, labels=LABELS),
                "the same as distribution functions, with the band that holds all of a uniform one in 95% of cases"),
        Picture("tarp", nu.plots.tarp_curve({"posterior": checks.tarp, "prior in its place": checks.tarp_of_prior}),
                "expected coverage of balls around reference points (TARP)"),
        Picture("coverage", nu.plots.expected_coverage(checks.coverage),
                "expected coverage of regions of highest density"),
    ]  # fmt: skip


def corner(posterior: NeuralPosterior, observation: nu.Events, exact: GridPosterior, seed: int) -> Picture:
    true = exact.sample(DRAWS, seed=seed)
    samples = {
        "neural": posterior.sample(DRAWS, observation, seed=seed),
        "exact": nu.Events(dict(zip(PARAMETERS, true.T.copy(), strict=True))),
    }
    axes = nu.plots.corner(samples, names=PARAMETERS, truth={name: TRUTH[name] for name in PARAMETERS}, labels=LABELS)
    return Picture(
        "corner", axes[0, 0], "the posterior at the observation, neural and exact; the octants survive equally"
    )


def predictive(observation: nu.Events, checks: Checks) -> Picture:
    """The far spectrum, per 0.1 GeV."""
    width = np.diff(EDGES) / 0.1
    axes = nu.plots.predictive_overlay(EDGES, spectra(observation)[0] / width, spectra(checks.replicas) / width,
                                       label="reconstructed energy (GeV)")  # fmt: skip
    axes.set_ylabel("far events / 0.1 GeV")
    return Picture("predictive", axes, "the far detector's spectrum, among those simulated at draws of the posterior")


def spectra(events: nu.Events) -> Floats:
    """Contents (N, bins) of the far events' energies."""
    energy = events.ragged("far.energy")
    owner = np.repeat(np.arange(energy.rows), energy.counts)
    content = np.histogram2d(owner, energy.values, [np.arange(energy.rows + 1) - 0.5, EDGES])[0]
    return np.asarray(content, np.float64)
