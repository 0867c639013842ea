"""Unfolding: what nature did before the detector blurred it.

What to use when: in bins, `iterative_bayes` with a `Response`; `omnifold` unfolds events, in any number of dimensions,
without bins.
"""

from .bayes import BayesIteration, iterate_bayes, iterative_bayes
from .binning import Binning
from .measured import Measured
from .response import Response
from .result import Iteration, Unfolded
from .reweighting import omnifold
from .spectrum import Chi2, Spectrum

__all__ = [
    "BayesIteration",
    "Binning",
    "Chi2",
    "Iteration",
    "Measured",
    "Response",
    "Spectrum",
    "Unfolded",
    "iterate_bayes",
    "iterative_bayes",
    "omnifold",
]
