"""Unfolding: what nature did before the detector blurred it.

What to use when: in bins, with a `Response`: `wiener_svd` needs no strength and minimises the expected error;
`tikhonov` is linear with a strength to choose; `iterative_bayes` stays positive; `likelihood_unfolding` is for small
counts, nuisance parameters and control samples.  `omnifold` unfolds events, in any number of dimensions, without bins.
`unfold_throws` does it all again with everything varied that is uncertain.
"""

from .bayes import BayesIteration, iterate_bayes, iterative_bayes
from .binning import Binning
from .likelihood_fit import Background, LikelihoodUnfolding, Sideband, likelihood_unfolding
from .measured import Measured
from .response import Response
from .result import Iteration, Unfolded
from .reweighting import omnifold
from .spectrum import Chi2, Spectrum
from .throws import Thrown, Throws, omnifold_throws, unfold_throws
from .tikhonov import StrengthScan, scan_strength, tikhonov
from .wiener import wiener_svd

__all__ = [
    "Background",
    "BayesIteration",
    "Binning",
    "Chi2",
    "Iteration",
    "LikelihoodUnfolding",
    "Measured",
    "Response",
    "Sideband",
    "Spectrum",
    "StrengthScan",
    "Thrown",
    "Throws",
    "Unfolded",
    "iterate_bayes",
    "iterative_bayes",
    "likelihood_unfolding",
    "omnifold",
    "omnifold_throws",
    "scan_strength",
    "tikhonov",
    "unfold_throws",
    "wiener_svd",
]
