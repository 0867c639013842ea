r"""Priors: named parameters, a normalised density on a box that may be open, draws that belong to a seed.

.. math:: p(\theta) = \prod_b p_b(\theta_b), \qquad \int p(\theta)\, d\theta = 1

One block b is the distribution of one parameter or the joint one of several.  All of it is worked out in float64,
whatever the type of the distribution that came in, and drawing leaves torch's own generator as it was.

What to use when:

==========================================  ===========================================================================
``{"a": (0, 1), "b": (-3, 3)}``             a flat density in a box
``{"a": (0, 1), "b": Normal(0.0, 1.0)}``    independent parameters, one distribution of `torch.distributions` each
``Prior.of(joint, names=["a", "b"])``       one joint distribution: MultivariateNormal, Independent, sbi's BoxUniform
                                            and MultipleIndependent, TransformedDistribution, mixtures
``prior.restricted(inside)``                any of these where a condition holds: cuts, truncated rounds (TSNPE)
==========================================  ===========================================================================

Priors that cannot be normalised or drawn from are refused: simulations are draws from the prior, so an improper one
has no simulations.  Discrete parameters are refused as well, since posteriors here are densities.

Source of the truncated prior: Deistler, Goncalves, Macke, arXiv 2210.04815 (truncated proposals).
"""

from .prior import Prior, PriorLike, Truncated
from .sampling import Inside

__all__ = ["Inside", "Prior", "PriorLike", "Truncated"]
