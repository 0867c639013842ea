"""Is the posterior right?  Tests on simulations, at one observation, and of the observation itself.

What to use when:

- Over all simulations: `sbc` (ranks of each parameter and of log q), `coverage` (of regions of highest density and of
  central intervals, also in parts of x), `tarp` (needs draws only).  The prior in place of the posterior passes the
  first two in functions of theta alone; `tarp` sees it.
- At one observation: `lc2st`, without a likelihood; `importance`, with one.
- Is the model right? `predictive` compares the observation with simulations at the posterior's draws;
  `out_of_distribution` with all simulations, in the space of summaries.
- Are two samples of one density?  `c2st`, the score of the benchmarks.

All take anything with ``names``, ``draws`` and ``log_probs`` (`Sampler`), and simulations that it was not trained on,
with weights of any sign.  Results are frozen; ``print`` says in words what they found.  An over-confident posterior is
worse than a wide one: look at the direction of a deviation, not at its p-value alone.
"""

from .calibration_ranks import SBC, sbc
from .credible_regions import Coverage, CoverageRegion, coverage
from .importance_weights import Importance, importance, pareto_k
from .local_test import LC2ST, lc2st
from .outliers import OutOfDistribution, out_of_distribution
from .predictive_checks import Predictive, predictive
from .reference_points import TARP, tarp
from .samplers import Sampler
from .two_sample import c2st
from .uniform import Band, Pull

__all__ = [
    "LC2ST",
    "SBC",
    "TARP",
    "Band",
    "Coverage",
    "CoverageRegion",
    "Importance",
    "OutOfDistribution",
    "Predictive",
    "Pull",
    "Sampler",
    "c2st",
    "coverage",
    "importance",
    "lc2st",
    "out_of_distribution",
    "pareto_k",
    "predictive",
    "sbc",
    "tarp",
]
