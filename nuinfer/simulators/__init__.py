"""Problems whose answers are known exactly: what every method of the library is checked against.

What to use when:

- `GaussianRatio`: a density ratio, with weights of any sign on request; `CloudRatio`: the same of point clouds.
- `GaussianUnfolding`: unfolding in d dimensions, with efficiency, fakes, background and rate, and the exact state of
  iterative Bayes (and OmniFold) after every iteration.
- `LinearGaussian`: parameters and observables, with likelihood, posterior, maximum and profile in closed form.
- `Disappearance`: neutrino oscillation with two parameters and three nuisances, lists of events beside flat columns:
  simulation, likelihood, and the posterior on a grid.
- `InverseKinematics`: an observation without noise that many parameters explain equally well, with exact draws of them.
- `ProfiledGaussian`: the unfolding toy whose second smearing is a nuisance parameter, and its exact EM steps.
- `Resonance`: a peak on a falling mass spectrum, with features whose density moves with the mass, and all log ratios.
- `ExponentialBump`: an exponential with three alternatives, and the exact power of the best test.
- `Interference`: signal, background and their interference, with six nuisance parameters: samples, pseudo-data, rates
  and likelihoods.

All are frozen, sample `nuinfer.Events` from a ``seed``, and compute in float64.  `Gaussian` is the brick that they are
made of: a Gaussian function with a total.
"""

from .disappearance import Disappearance, GridPosterior
from .exponential_bump import ExponentialBump
from .gaussian import Gaussian
from .gaussian_ratio import CloudRatio, GaussianRatio
from .gaussian_unfolding import GaussianUnfolding
from .interference import Interference
from .inverse_kinematics import InverseKinematics
from .iterative_bayes import GridRecursion, LinearResponse, bayes_step
from .linear_gaussian import LinearGaussian
from .profiled_gaussian import ProfiledGaussian, ProfiledState
from .resonance import Resonance

__all__ = [
    "CloudRatio",
    "Disappearance",
    "ExponentialBump",
    "Gaussian",
    "GaussianRatio",
    "GaussianUnfolding",
    "GridPosterior",
    "GridRecursion",
    "Interference",
    "InverseKinematics",
    "LinearGaussian",
    "LinearResponse",
    "ProfiledGaussian",
    "ProfiledState",
    "Resonance",
    "bayes_step",
]
