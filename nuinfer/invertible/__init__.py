r"""Invertible neural networks for inverse problems: ``fit_invertible`` -> `Invertible`.

Parameters theta (P) determine an observation y (M) and leave something open, which a latent z (Z) takes up:

.. math:: [y, z, 0] = f([\theta, 0]), \qquad \theta \sim f^{-1}(y, z, 0), \quad z \sim N(0, 1)

with one bijective network f for both directions; zeros, with a little normal noise, fill up the shorter side.
Where the prediction of y is perfect and z is standard normal and independent of y, the draws follow p(theta | y)
exactly.  This asks for y to be a *function* of theta: noise that the simulator adds has to be among the parameters, or
the draws are wrong.  `Invertible.residual` shows how nearly it is one.

f is a chain of coupling blocks (`nuinfer.invertible.coupling`).  It learns by one of two losses
(`nuinfer.invertible.losses`): `Discrepancy`, squared errors and maximum mean discrepancies, is that of the first paper;
`Likelihood`, f as a normalizing flow whose latent space holds y, that of the second.

All members of an ensemble train together in the one loop (`nuinfer.train`).

What to use when: `nuinfer.density.fit_density` with a condition for nearly every posterior; it has a density, takes
noisy observations and clouds, and does better than `Discrepancy` in a fraction of the time (docs/guide/invertible.md
has both on one problem).  An invertible network also predicts y, and is what the papers below describe; `Likelihood`
with some padding is the better of the two losses.

Sources: Ardizzone, Kruse, Wirkert, Rahner, Pellegrini, Klessen, Maier-Hein, Rother, Koethe, arXiv 1808.04730; Kruse,
Ardizzone, Rother, Koethe, arXiv 2101.10763.
"""

from .coupling import Coupling
from .fitting import fit_invertible
from .losses import Discrepancy, Likelihood
from .result import Invertible

__all__ = ["Coupling", "Discrepancy", "Invertible", "Likelihood", "fit_invertible"]
