"""Problems whose answers are known exactly: what every method of the library is checked against.

What to use when:

- `GaussianRatio`: a density ratio, with weights of any sign on request; `CloudRatio`: the same of point clouds.
- `GaussianUnfolding`: unfolding in d dimensions, with efficiency, fakes, background and rate, and the exact state of
  iterative Bayes (and OmniFold) after every iteration.
- `LinearGaussian`: parameters and observables, with likelihood, posterior, maximum and profile in closed form.
- `Interference`: signal, background and their interference, with six nuisance parameters: samples, pseudo-data, rates
  and likelihoods.

All are frozen, sample `nuinfer.Events` from a ``seed``, and compute in float64.  `Gaussian` is the brick that they are
made of: a Gaussian function with a total.
"""

from .gaussian import Gaussian
from .gaussian_ratio import CloudRatio, GaussianRatio
from .gaussian_unfolding import GaussianUnfolding
from .interference import Interference
from .iterative_bayes import GridRecursion, LinearResponse, bayes_step
from .linear_gaussian import LinearGaussian

__all__ = [
    "CloudRatio",
    "Gaussian",
    "GaussianRatio",
    "GaussianUnfolding",
    "GridRecursion",
    "Interference",
    "LinearGaussian",
    "LinearResponse",
    "bayes_step",
]
