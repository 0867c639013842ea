r"""Does the reference describe the data?  NPLM, the likelihood ratio of the best smooth correction.

The data (x_i) are compared with a weighted reference of n_ref expected events by

.. math:: t = 2 \max_f \ln \frac{L(n_{ref} e^f)}{L(n_{ref})}
    = -2 \min_f \Big[\sum_{ref} w \, (e^{f(x)} - 1) - \sum_{data} f(x)\Big]

over a family of functions f, the extended likelihood ratio of an alternative that is learned from the data themselves.
What is tested is n(x), rate included.  The null distribution comes from toys that are fitted like the data; for a
family that is rich enough, and not too rich, it is a chi2 (Wilks), which then gives p-values smaller than one over the
number of toys.  The f that was found says where the data disagree.

What to use when: `KernelFit`, convex and of milliseconds a toy, for few flat columns; `NetworkFit` for more columns, or
for clouds with a DeepSet.

Sources: D'Agnolo, Wulzer, arXiv 1806.02350; D'Agnolo, Grosso, Pierini, Wulzer, Zanetti, arXiv 1912.12155; Letizia et
al., arXiv 2204.02317 (kernels); d'Agnolo et al., arXiv 2111.13633 (nuisance parameters).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from ...lazy import names_of

if TYPE_CHECKING:
    from .fitting import NetworkFit, goodness_of_fit
    from .kernel import KernelFit
    from .result import GoodnessOfFit

#: Where each name is; modules load when they are first used.
_NAMES = {"GoodnessOfFit": "result", "KernelFit": "kernel", "NetworkFit": "fitting", "goodness_of_fit": "fitting"}

__all__ = ["GoodnessOfFit", "KernelFit", "NetworkFit", "goodness_of_fit"]

__getattr__, __dir__ = names_of(__name__, _NAMES)
