"""What did nature do before the detector blurred it?

What to use when: `omnifold` unfolds events, in any number of dimensions, without bins.
"""

from .omnifold import omnifold
from .result import Iteration, Spectrum, Unfolded

__all__ = ["Iteration", "Spectrum", "Unfolded", "omnifold"]
