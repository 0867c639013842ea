"""Likelihoods for iminuit: unbinned mixtures, binned predictions, and constraints, as costs that add with ``+``.

What to use when: `Mixture` where the density ratios of processes are learned (or known) event by event;
`BinnedMixture` for templates with norm and shape systematics, as pyhf has them (`from_pyhf`, `to_pyhf`); `Binned` for
any prediction of bin contents that torch can differentiate; `Normal`, `LogNormal` and `Poisson` for what auxiliary
measurements say of a nuisance, `TwoPoint` for a comparison of two models, which nobody measured.  `asimov` and `sample`
replace the data of any sum of them; `report` says whether a mixture is to be trusted, `Workspace` keeps all of a
measurement together.
"""

from .binned import Binned
from .checks import Check, Report, report
from .constraints import Constraint, LogNormal, Normal, Poisson, TwoPoint
from .costs import Coefficient, DifferentiableCost, NegativeDensity, asimov, parts, sample
from .heldout import HeldOut, Reuse
from .histfactory import Imported, from_pyhf, to_pyhf
from .interpolation import Interpolation
from .mixture import Mixture, Process, UnbinnedCost
from .parametrised import ParametrisedCost
from .samples import ProcessSample, Template, histogram
from .templates import BinnedCost, BinnedMixture
from .workspace import Workspace

__all__ = [
    "Binned",
    "BinnedCost",
    "BinnedMixture",
    "Check",
    "Coefficient",
    "Constraint",
    "DifferentiableCost",
    "HeldOut",
    "Imported",
    "Interpolation",
    "LogNormal",
    "Mixture",
    "NegativeDensity",
    "Normal",
    "ParametrisedCost",
    "Poisson",
    "Process",
    "ProcessSample",
    "Report",
    "Reuse",
    "Template",
    "TwoPoint",
    "UnbinnedCost",
    "Workspace",
    "asimov",
    "from_pyhf",
    "histogram",
    "parts",
    "report",
    "sample",
    "to_pyhf",
]
