r"""Is an unfolded spectrum to be trusted?  Checks with a verdict, a figure and words, one by one or all at once.

For a binned result u with the additional smearing matrix A_C, the covariance C, the response P, the signal m in the
data and its covariance V:

- *closure*: the simulation unfolded as data gives its own truth t, that is u = A_C t;
- *stress test*: pseudo-data of another truth give A_C times that truth, and how far u is from the truth itself is told;
- *bottom line*: for models a, b and d = a - b,

  .. math:: (A_C d)^T C^+ (A_C d) \le (P d)^T V^{-1} (P d),

  and the same with u - A_C a and m - P a: unfolding cannot make models, or a model and the data, differ more than they
  do before it.  It holds for any linear method, so that where it does not, C is too small or A_C was forgotten;
- *refolded chi-squared*: P u with fakes and background describes the data;
- *coverage*: of pseudo-experiments, how often u +- sigma holds A_C t, in each bin;
- *prior dependence*, *iterations*: how far another prior or the last iteration moves u, in sigma.

Of events with weights, as `omnifold` gives them: the effective size that they leave, a classifier two-sample test of
the weighted simulation against the data, chi-squared in reco bins; closure, stress test, prior dependence and
iterations as above; the bottom line and coverage through pseudo-data, as no A_C is known.

**What they cannot see.**  A truth folded by the response that unfolds it is, for a linear method, A_C times that truth
whatever the response: closure, such stress tests, and coverage by toys of the response test the code and the
covariance.  A response that is wrong is seen by pseudo-data of an alternative generator or detector, event by event,
and in part by the refolded chi-squared and the two-sample test.

A p-value fails below its level, each check by itself: of n checks of a right answer about n times the level fail.
Biases that are significant, and yet small against the uncertainty, pass.

Sources: Cousins, May, Sun, arXiv 1607.07038 (bottom line); Tang, Li, Qian, Zhang, Zhang, arXiv 1705.03568 (A_C);
Lopez-Paz, Oquab, arXiv 1610.06545 (two-sample test).
"""

from ..spectrum import Unfold
from .battery import check, check_draws, check_events
from .comparisons import closure, iteration_effect, prior_dependence, stress
from .forward import bottom_line, refolded_chi2
from .toys import PseudoExperiments, coverage, of_spectra, pseudo_experiments
from .verdicts import Check, Checks, Thresholds
from .weighted_events import bottom_line_of_events, effective_size, reweighted_chi2, two_sample

__all__ = [
    "Check",
    "Checks",
    "PseudoExperiments",
    "Thresholds",
    "Unfold",
    "bottom_line",
    "bottom_line_of_events",
    "check",
    "check_draws",
    "check_events",
    "closure",
    "coverage",
    "effective_size",
    "iteration_effect",
    "of_spectra",
    "prior_dependence",
    "pseudo_experiments",
    "refolded_chi2",
    "reweighted_chi2",
    "stress",
    "two_sample",
]
