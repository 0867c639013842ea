"""Posteriors of parameters from simulations, by neural networks.

What to use when:

- `simulate` runs a simulator at draws from the prior; `as_experiments` makes experiments of tables of single events.
- `fit_posterior` -> `NeuralPosterior`: q(theta | x), amortised: one training serves every observation.
- `Prior` says where theta comes from.
- `calibrate_sets` -> `CalibratedSets`: confidence sets from a posterior that cover at every theta.
- `to_sbi`, `from_sbi`, `to_arviz` hand posteriors and draws over.
"""

from .base import Posterior
from .confidence import CalibratedSets, calibrate_sets
from .handover import SbiPosterior, from_sbi, to_arviz, to_sbi
from .neural import NeuralPosterior, fit_posterior
from .priors import Prior, PriorLike, Truncated
from .regions import CredibleRegion
from .simulation import Simulations, as_experiments, simulate

__all__ = [
    "CalibratedSets",
    "CredibleRegion",
    "NeuralPosterior",
    "Posterior",
    "Prior",
    "PriorLike",
    "SbiPosterior",
    "Simulations",
    "Truncated",
    "as_experiments",
    "calibrate_sets",
    "fit_posterior",
    "from_sbi",
    "simulate",
    "to_arviz",
    "to_sbi",
]
