"""Posteriors of parameters from simulations, by neural networks, and confidence sets from them.

What to use when:

- `simulate` runs a simulator at draws from a `Prior`; `as_experiments` makes experiments of tables of single events.
- `fit_posterior` -> `NeuralPosterior`: q(theta | x), amortised: one training serves every observation.  To begin with.
- `fit_likelihood` -> `Likelihood`: q(x | theta), whose posterior is sampled by `run_chains`; independent events add up.
- `fit_posterior_ratio` -> `RatioPosterior`: prior times p(x | theta) / p(x), where x is too rich for a density.
- `fit_truncated` -> `TruncatedPosterior`: rounds of simulations that close in on one observation.
- `calibrate_sets` -> `CalibratedSets`: confidence sets from a posterior that cover at every theta.
- `to_sbi`, `from_sbi`, `to_arviz` hand posteriors and draws over.

Whether any of them is to be trusted: `nuinfer.diagnostics`.
"""

from .base import Posterior
from .chains import Chains
from .confidence import CalibratedSets, calibrate_sets
from .handover import SbiPosterior, from_sbi, to_arviz, to_sbi
from .likelihoods import FittedRate, Likelihood, LikelihoodPosterior, fit_likelihood, fit_rate
from .neural import NeuralPosterior, fit_posterior
from .priors import Prior, PriorLike, Truncated
from .ratios import RatioPosterior, fit_posterior_ratio
from .regions import CredibleRegion
from .samplers import HMC, Slice, run_chains
from .simulation import Simulations, as_experiments, simulate
from .truncated import TruncatedPosterior, fit_truncated

__all__ = [
    "HMC",
    "CalibratedSets",
    "Chains",
    "CredibleRegion",
    "FittedRate",
    "Likelihood",
    "LikelihoodPosterior",
    "NeuralPosterior",
    "Posterior",
    "Prior",
    "PriorLike",
    "RatioPosterior",
    "SbiPosterior",
    "Simulations",
    "Slice",
    "Truncated",
    "TruncatedPosterior",
    "as_experiments",
    "calibrate_sets",
    "fit_likelihood",
    "fit_posterior",
    "fit_posterior_ratio",
    "fit_rate",
    "fit_truncated",
    "from_sbi",
    "run_chains",
    "simulate",
    "to_arviz",
    "to_sbi",
]
