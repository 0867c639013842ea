"""Unfolding: what nature did before the detector blurred it.

What to use when: `omnifold` unfolds events, in any number of dimensions, without bins.
"""

from .result import Iteration, Spectrum, Unfolded
from .reweighting import omnifold

__all__ = ["Iteration", "Spectrum", "Unfolded", "omnifold"]
