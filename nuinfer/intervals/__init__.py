"""From likelihoods to statements: fits, profiles, contours, impacts, significances and limits.

What to use when: `fit` for the best parameters and their covariance; `minos` for asymmetric errors next to the minimum;
`profile` for the whole curve, with several minima, discrete or periodic parameters; `contour` for two parameters at
once; `impacts` for what limits the measurement; `discovery`, `upper_limit`, `limit_curve` and `bounded_interval` for
signals that cannot be negative, in large samples.  By pseudo-experiments, where counts are small or a limit is near:
`neyman` for intervals that cover, `learn_critical_values` where the critical values depend on the nuisances, `coverage`
and `local_coverage` to prove it.  Everything takes a cost, of `nuinfer.likelihood` or of iminuit, or a sum of them.
"""

from .asymptotic import (
    BoundedInterval,
    Discovery,
    LimitCurve,
    UpperLimit,
    bounded_interval,
    discovery,
    limit_curve,
    upper_limit,
)
from .boxes import Toys, throw_toys
from .construction import Neyman, neyman
from .contours import Contour, contour
from .covering import Coverage, coverage
from .critical import ConfidenceSet, CriticalValues, fit_critical_values, learn_critical_values
from .fits import Fit, fit
from .likelihood_ratio import LikelihoodRatio
from .local import LocalCoverage, local_coverage
from .profiles import Minos, Profile, minos, profile
from .pulls import Impacts, impacts
from .training import TrainingUncertainty, training_uncertainty

__all__ = [
    "BoundedInterval",
    "ConfidenceSet",
    "Contour",
    "Coverage",
    "CriticalValues",
    "Discovery",
    "Fit",
    "Impacts",
    "LikelihoodRatio",
    "LimitCurve",
    "LocalCoverage",
    "Minos",
    "Neyman",
    "Profile",
    "Toys",
    "TrainingUncertainty",
    "UpperLimit",
    "bounded_interval",
    "contour",
    "coverage",
    "discovery",
    "fit",
    "fit_critical_values",
    "impacts",
    "learn_critical_values",
    "limit_curve",
    "local_coverage",
    "minos",
    "neyman",
    "profile",
    "throw_toys",
    "training_uncertainty",
    "upper_limit",
]
