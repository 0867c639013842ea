"""Unfolding: what nature did before the detector blurred it.

What to use when: in bins, with a `Response`: `wiener_svd` needs no strength and minimises the expected error, `tikhonov`
is linear with a strength to choose, `iterative_bayes` stays positive.  `omnifold` unfolds events, in any number of
dimensions, without bins.
"""

from .bayes import BayesIteration, iterate_bayes, iterative_bayes
from .binning import Binning
from .measured import Measured
from .response import Response
from .result import Iteration, Unfolded
from .reweighting import omnifold
from .spectrum import Chi2, Spectrum
from .tikhonov import StrengthScan, scan_strength, tikhonov
from .wiener import wiener_svd

__all__ = [
    "BayesIteration",
    "Binning",
    "Chi2",
    "Iteration",
    "Measured",
    "Response",
    "Spectrum",
    "StrengthScan",
    "Unfolded",
    "iterate_bayes",
    "iterative_bayes",
    "omnifold",
    "scan_strength",
    "tikhonov",
    "wiener_svd",
]
