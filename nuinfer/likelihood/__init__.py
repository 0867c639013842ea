"""Likelihoods for iminuit: unbinned mixtures, binned predictions, and constraints, as costs that add with ``+``.

What to use when: `Mixture` where the density ratios of processes are learned (or known) event by event;
``BinnedMixture`` for templates with norm and shape systematics, as pyhf has them; ``Binned`` for any prediction of bin
contents that torch can differentiate; `Normal`, `LogNormal` and `Poisson` for what auxiliary measurements say of a
nuisance.
"""

from .constraints import Constraint, LogNormal, Normal, Poisson
from .costs import Coefficient, DifferentiableCost, NegativeDensity
from .interpolation import Interpolation
from .mixture import Mixture, Process, UnbinnedCost

__all__ = [
    "Coefficient",
    "Constraint",
    "DifferentiableCost",
    "Interpolation",
    "LogNormal",
    "Mixture",
    "NegativeDensity",
    "Normal",
    "Poisson",
    "Process",
    "UnbinnedCost",
]
