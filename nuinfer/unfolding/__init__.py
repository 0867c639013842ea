"""Unfolding: what nature did before the detector blurred it.

What to use when: in bins, with a `Response`: `wiener_svd` needs no strength and minimises the expected error;
`tikhonov` is linear with a strength to choose; `iterative_bayes` stays positive; `likelihood_unfolding` is for small
counts, nuisance parameters and control samples.  `omnifold` unfolds events, in any number of dimensions, without bins;
`choose_iterations` says how often, `profiled_omnifold` fits the detector's nuisances with it, `match_moments` finds
weights in another way.  `generative_unfolding` draws the truth of each event.  `unfold_throws` does it all again with
everything varied that is uncertain, and ``check()`` of a result asks whether it is to be trusted.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from ..lazy import names_of

if TYPE_CHECKING:
    from .binned.bayes import BayesIteration, iterate_bayes, iterative_bayes
    from .binned.least_squares import StrengthScan, scan_strength, tikhonov
    from .binned.likelihood_fit import Background, LikelihoodUnfolding, Sideband, likelihood_unfolding
    from .binned.wiener import wiener_svd
    from .binning import Binning
    from .checks import Check, Checks, PseudoExperiments, Thresholds, check, check_events, pseudo_experiments
    from .cross_sections import CrossSection, SpectrumRatio, cross_section, flux_integral, spectrum_ratio
    from .export import (
        HepDataTable,
        UnbinnedResult,
        export_hepdata,
        export_root,
        export_unbinned,
        read_unbinned,
    )
    from .generative.fitting import generative_unfolding
    from .generative.result import GenerativeIteration, GenerativeUnfolding
    from .measured import Measured
    from .response import Response
    from .spectrum import Chi2, Spectrum
    from .throws import Thrown, Throws, omnifold_throws, unfold_throws
    from .unbinned.moments.matching import match_moments
    from .unbinned.moments.result import MatchedMoments, MomentComparison
    from .unbinned.profiled import Profiled, profiled_omnifold
    from .unbinned.result import Iteration, Unfolded
    from .unbinned.reweighting import omnifold
    from .unbinned.stopping import IterationChoice, choose_iterations

#: Where each name is; modules load when they are first used, so that methods in bins do not wait for torch.
_NAMES = {
    "Background": "binned.likelihood_fit",
    "BayesIteration": "binned.bayes",
    "Binning": "binning",
    "Check": "checks",
    "Checks": "checks",
    "Chi2": "spectrum",
    "CrossSection": "cross_sections",
    "GenerativeIteration": "generative.result",
    "GenerativeUnfolding": "generative.result",
    "HepDataTable": "export",
    "Iteration": "unbinned.result",
    "IterationChoice": "unbinned.stopping",
    "LikelihoodUnfolding": "binned.likelihood_fit",
    "MatchedMoments": "unbinned.moments.result",
    "Measured": "measured",
    "MomentComparison": "unbinned.moments.result",
    "Profiled": "unbinned.profiled",
    "PseudoExperiments": "checks",
    "Response": "response",
    "Sideband": "binned.likelihood_fit",
    "Spectrum": "spectrum",
    "SpectrumRatio": "cross_sections",
    "StrengthScan": "binned.least_squares",
    "Thresholds": "checks",
    "Thrown": "throws",
    "Throws": "throws",
    "UnbinnedResult": "export",
    "Unfolded": "unbinned.result",
    "check": "checks",
    "check_events": "checks",
    "choose_iterations": "unbinned.stopping",
    "cross_section": "cross_sections",
    "export_hepdata": "export",
    "export_root": "export",
    "export_unbinned": "export",
    "flux_integral": "cross_sections",
    "generative_unfolding": "generative.fitting",
    "iterate_bayes": "binned.bayes",
    "iterative_bayes": "binned.bayes",
    "likelihood_unfolding": "binned.likelihood_fit",
    "match_moments": "unbinned.moments.matching",
    "omnifold": "unbinned.reweighting",
    "omnifold_throws": "throws",
    "profiled_omnifold": "unbinned.profiled",
    "pseudo_experiments": "checks",
    "read_unbinned": "export",
    "scan_strength": "binned.least_squares",
    "spectrum_ratio": "cross_sections",
    "tikhonov": "binned.least_squares",
    "unfold_throws": "throws",
    "wiener_svd": "binned.wiener",
}

__all__ = [
    "Background",
    "BayesIteration",
    "Binning",
    "Check",
    "Checks",
    "Chi2",
    "CrossSection",
    "GenerativeIteration",
    "GenerativeUnfolding",
    "HepDataTable",
    "Iteration",
    "IterationChoice",
    "LikelihoodUnfolding",
    "MatchedMoments",
    "Measured",
    "MomentComparison",
    "Profiled",
    "PseudoExperiments",
    "Response",
    "Sideband",
    "Spectrum",
    "SpectrumRatio",
    "StrengthScan",
    "Thresholds",
    "Thrown",
    "Throws",
    "UnbinnedResult",
    "Unfolded",
    "check",
    "check_events",
    "choose_iterations",
    "cross_section",
    "export_hepdata",
    "export_root",
    "export_unbinned",
    "flux_integral",
    "generative_unfolding",
    "iterate_bayes",
    "iterative_bayes",
    "likelihood_unfolding",
    "match_moments",
    "omnifold",
    "omnifold_throws",
    "profiled_omnifold",
    "pseudo_experiments",
    "read_unbinned",
    "scan_strength",
    "spectrum_ratio",
    "tikhonov",
    "unfold_throws",
    "wiener_svd",
]

_MODULES = ("binned", "checks", "generative", "unbinned")

__getattr__, __dir__ = names_of(__name__, _NAMES, _MODULES)
