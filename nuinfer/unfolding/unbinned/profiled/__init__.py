r"""Profiled OmniFold: nuisance parameters of the detector, fitted while its effect is unfolded.

The detector is p(y | x, theta): truth x, reco y, nuisances theta.  The simulation is one sample at theta_0; its events
become those of another theta by the response ratio

    W(x, y; theta) = p(y | x, theta) / p(y | x, theta_0),

known, or learned before from simulations of many theta.  With data y_j, weights w_i and the truth f(x) of the
simulation, the model of the data is g(y) = \int nu(x) f(x) p(y | x, theta) dx, and what is maximised over nu and theta

    sum_j log g(y_j) + log pi(theta),

pi being the constraints.  *Expectation and maximisation* (EM) does so without knowing the data's truth.  Given nu_k and
theta_k, it has the posterior nu_k f p(y | x, theta_k) / g_k(y), so that the expectation over x of the complete-data
log-likelihood, a sum over the data, is a sum over the simulation:

    Q(nu, theta) = sum_i w_i omega_i [log nu(x_i) + log W_i(theta) - log Z(nu, theta)] + log pi(theta),
    omega_i = nu_k(x_i) W_i(theta_k) r(y_i),        r = data / (simulation weighted by w nu_k W(theta_k)),
    Z = sum_i w_i nu(x_i) W_i(theta) / sum_i w_i nu(x_i).

Z is 1 for a W that is normalised, up to the statistics of the simulation; then nu and theta are in terms of their own,
so that both are maximised exactly.  Iteration k:

1. *reco*: the ratio r(y), and omega.
2. *truth*: nu_{k+1} = E[omega | x] over the simulation as it is, weighted by w: W is in omega only.
3. *nuisances*: theta_{k+1} maximises sum_i w_i omega_i [log W_i(theta) - log Z(nu_{k+1}, theta)] + log pi(theta).

With a normalised W no iteration lowers likelihood times constraint (Dempster, Laird, Rubin).  Without Z, fluctuations
of the simulation would be taken for a theta, and a W that is not quite normalised, learned or interpolated, would run
away along its mean.  The third step trains nothing: it evaluates W on the simulation.  At theta_0, W = 1, the other two
are OmniFold.

**Acceptance.**  W is normalised over y at each x: E[W | x] = 1.  Where theta changes how many events of truth x are
reconstructed, W is the ratio of *rates* of reconstructed events, and a(x; theta) = E[W | x] that of efficiencies.  With
the likelihood of the rate, -\int nu f a dx, Q's second sum is that of log W - log a, and nu_{k+1} is
E[omega | x] / a(x; theta_{k+1}); again both are the exact maximum.  A learned W is not quite normalised: the ratio of x
alone, learned in the same way, is its a.

Ratios that are learned from reconstructed events are of densities: W and a both lack the factor of the mean efficiency
at theta over that at theta_0.  It cancels in Q, as Z has it too, but nu / a would have a wrong yield.  ``efficiency``
puts it in; no ratio can tell it.  A learned W without a takes theta to leave the efficiency as it is at each x.  Its
mean is 1 in any case; where its means over parts of the truth are not, the log says so.  What all truth shares only
the simulations at other theta show, with their misses: ``variations``.

**Bootstraps** fluctuate the data, the simulation and the constraints' outcomes, as an experiment does, and start at
their own centres: the spread of their nuisances is the uncertainty that data and constraint leave together, and the
covariance of spectra contains it.

Sources: Zhu, Desai, Kuusela, Mikuni, Nachman, Wasserman, arXiv 2409.10421 and 2512.07074 (the method; their code weighs
the third step by nu_{k+1}, and the constraint against the mean of the data instead of their sum); Dempster, Laird,
Rubin, J. R. Stat. Soc. B 39 (1977) 1 (EM); Cranmer, Pavez, Louppe, arXiv 1506.02169 (parametrised ratios).
"""

from __future__ import annotations

from .fitting import profiled_omnifold
from .result import Profiled

__all__ = ["Profiled", "profiled_omnifold"]
