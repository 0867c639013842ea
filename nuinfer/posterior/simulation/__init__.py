r"""Simulations for inference: theta from the prior, x from the simulator, on any number of cores, resumable.

.. math:: \theta_i \sim p(\theta), \qquad x_i \sim p(x \mid \theta_i), \qquad i = 1 \ldots n

One row is one pseudo-experiment: the parameters' columns beside those of its observation, flat or ragged.  Theta is
drawn once, from the seed; the simulator gets random numbers that belong to the seed and to the rows it works on.  So
the answer depends neither on the workers nor on being killed and taken up again (see `nuinfer.tasks`).

What to use when:

==============================================  =======================================================================
``simulate(f, prior, n, seed=1)``               f takes many theta at once, (B, P)
``simulate(..., vectorised=False)``             f takes one theta, (P,): an external program, a loop
``simulate(..., proposal=q)``                   theta is drawn from q, and weighted by p / q
`as_experiments`                                simulations that exist already, as a table of single events
==============================================  =======================================================================
"""

from .chunks import Form, Simulator
from .experiments import as_experiments
from .result import Simulations, decoded, encoded
from .runs import Errors, check_covered, simulate

__all__ = [
    "Errors",
    "Form",
    "Simulations",
    "Simulator",
    "as_experiments",
    "check_covered",
    "decoded",
    "encoded",
    "simulate",
]
