"""Likelihoods for iminuit: unbinned mixtures, binned predictions, and constraints, as costs that add with ``+``.

What to use when: `Mixture` where the density ratios of processes are learned (or known) event by event;
``BinnedMixture`` for templates with norm and shape systematics, as pyhf has them; ``Binned`` for any prediction of bin
contents that torch can differentiate; `Normal`, `LogNormal` and `Poisson` for what auxiliary measurements say of a
nuisance, `TwoPoint` for a comparison of two models, which nobody measured.  `asimov` and `sample` replace the data of any
sum of them.
"""

from .binned import Binned
from .constraints import Constraint, LogNormal, Normal, Poisson, TwoPoint
from .costs import Coefficient, DifferentiableCost, NegativeDensity, asimov, parts, sample
from .interpolation import Interpolation
from .mixture import Mixture, Process, UnbinnedCost
from .workspace import Workspace

__all__ = [
    "Binned",
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
    "TwoPoint",
    "UnbinnedCost",
    "Workspace",
    "asimov",
    "parts",
    "sample",
]
