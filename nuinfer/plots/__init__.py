r"""Figures of results, ready for a paper: training, unfolded spectra, likelihoods and the limits they give.

What to use when:

- Has the training converged, and do the members agree?  `history`.  Is a classifier's probability right?
  `reliability`.  Do a few events carry all the weight?  `weights`.
- What came out of the unfolding, how far is it from the truth?  `spectrum`; when did it stop moving?  `iterations`;
  how many were needed?  `iteration_choice`; how are its bins tied together?  `correlation`.
- In bins of any number of columns: what does the detector do?  `response_matrix`.  What does regularisation?
  `smearing`, `strength_scan`, `wiener_filter`.  What came out beside generators?  `unfolded`; how sure is it?
  `uncertainties`, `bin_covariance`, `bin_correlation`, and by pseudo-experiments `bin_coverage`.
- What do the data say of one parameter?  `profile`, several answers on one panel; of two?  `contour`.  What limits the
  measurement?  `impacts`, and `breakdown` by groups of nuisances.  Which events does the answer come from?
  `optimal_observable`.
- Is there a signal of more than so much?  `limit`; how fast are values excluded around it?  `limit_curve`.
- Are there too few events, or a limit too near, for asymptotic formulae?  `belt` and `critical_values` of a
  construction by toys; do intervals cover, at points or everywhere?  `coverage_map`, `local_coverage`.
- What does a posterior say of its parameters?  `corner`, several samples on one figure.  Is it right?  `sbc_ranks`,
  `sbc_ecdf`, `expected_coverage`, `tarp_curve`.  Does the model describe the data?  `predictive_statistics`,
  `predictive_overlay`.
- Is there a bump?  `bump_hunter`, in planes `bump_map`; which windows were tried?  `bump_windows`; how rare is it?
  `bump_toys`.  A fitted spectrum with its peak: `bump_fit`; peaks at each mass: `local_p`, `excess_toys`; what is
  excluded: `bump_limits`; what the background fakes: `spurious_signals`.  How many parameters does it need?
  `shape_orders`, or all shapes at once, `yield_envelope`; do signals come back?  `fitted_yields`.
- A hunt by weak supervision: spectra before and after the cuts, `hunt_spectra`; p-values of the windows, `hunt_p`; does
  the score follow the mass?  `sculpting`, `score_by_mass`; which features is it made of?  `importance`; how good is it?
  `sic`; what would it have seen?  `injections`, `injected_sic`, `injection_limits`.
- Does the reference describe the data?  `goodness_toys`, and where not: `goodness_ratio`.

Each function takes a result or plain arrays and returns the matplotlib axes that it drew on, its own or those passed to
it.  A figure of its own is not registered with pyplot, so nothing needs closing; in a notebook ``ax.figure`` at the end
of a cell shows it, and `save` writes it.  The look, mplhep's with its fonts and its colours that colour-blind readers
can tell apart (Petroff, arXiv:2107.02270), is set inside `style` only; global settings stay as they were.
"""

from .belts import belt, critical_values
from .breakdowns import breakdown
from .bump_checks import fitted_yields, shape_orders, yield_envelope
from .bump_fits import bump_fit, bump_limits, excess_toys, local_p, spurious_signals
from .bumps import bump_hunter, bump_map, bump_toys, bump_windows
from .choices import iteration_choice, strength_scan, wiener_filter
from .coverages import coverage_map, local_coverage
from .figures import save, style
from .goodness import goodness_ratio, goodness_toys
from .hunts import hunt_p, hunt_spectra, importance, score_by_mass, sculpting
from .limits import limit, limit_curve
from .observables import optimal_observable
from .posteriors import (
    corner,
    expected_coverage,
    predictive_overlay,
    predictive_statistics,
    sbc_ecdf,
    sbc_ranks,
    tarp_curve,
)
from .profiles import contour, profile
from .pulls import impacts
from .sensitivity import injected_sic, injection_limits, injections, sic
from .spectra import correlation, iterations, spectrum
from .training import history, reliability, weights
from .unfolding import (
    bin_correlation,
    bin_covariance,
    bin_coverage,
    response_matrix,
    smearing,
    uncertainties,
    unfolded,
)

__all__ = [
    "belt",
    "bin_correlation",
    "bin_covariance",
    "bin_coverage",
    "breakdown",
    "bump_fit",
    "bump_hunter",
    "bump_limits",
    "bump_map",
    "bump_toys",
    "bump_windows",
    "contour",
    "corner",
    "correlation",
    "coverage_map",
    "critical_values",
    "excess_toys",
    "expected_coverage",
    "fitted_yields",
    "goodness_ratio",
    "goodness_toys",
    "history",
    "hunt_p",
    "hunt_spectra",
    "impacts",
    "importance",
    "injected_sic",
    "injection_limits",
    "injections",
    "iteration_choice",
    "iterations",
    "limit",
    "limit_curve",
    "local_coverage",
    "local_p",
    "optimal_observable",
    "predictive_overlay",
    "predictive_statistics",
    "profile",
    "reliability",
    "response_matrix",
    "save",
    "sbc_ecdf",
    "sbc_ranks",
    "score_by_mass",
    "sculpting",
    "shape_orders",
    "sic",
    "smearing",
    "spectrum",
    "spurious_signals",
    "strength_scan",
    "style",
    "tarp_curve",
    "uncertainties",
    "unfolded",
    "weights",
    "wiener_filter",
    "yield_envelope",
]
