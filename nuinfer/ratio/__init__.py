"""Learned density ratios: of two samples, of every theta to a reference, and of mixtures of classes.

What to use when:

- `fit_ratio` -> `Ratio`: two weighted samples, log p1(x)/p0(x).
- `fit_parametrised_ratio` -> `ParametrisedRatio`: log p(x | theta)/p(x | ref) as one function of x and theta, from
  events that were generated at many theta, or from one sample whose weights are a function of theta.  With the joint
  ratio or joint score of the simulator it needs far fewer events.
- `fit_score` -> `LocalScore`: the score at one theta, the optimal observables there; where theta stays near it.
- `fit_class_ratio` -> `ClassRatio`: theta only changes the weights of classes (processes, bins of the true energy), so
  that one softmax network knows the ratio for every theta.

Each has ``report``, which says on other events whether it is to be trusted.

`two_sample_test` asks whether two samples differ at all, and `refine` makes signed weights positive.
"""

from .classes import ClassMixture, ClassRatio, fit_class_ratio
from .density_ratio import Ratio, Report, TwoSample, fit_ratio, refine, two_sample_test
from .parameters import Parameters, WeightFunction
from .parametrised import ParametrisedRatio, fit_parametrised_ratio
from .reports import ClassReport, ParametrisedReport, Region, ScoreCurve, ScoreReport
from .score import LocalScore, fit_score

__all__ = [
    "ClassMixture",
    "ClassRatio",
    "ClassReport",
    "LocalScore",
    "Parameters",
    "ParametrisedRatio",
    "ParametrisedReport",
    "Ratio",
    "Region",
    "Report",
    "ScoreCurve",
    "ScoreReport",
    "TwoSample",
    "WeightFunction",
    "fit_class_ratio",
    "fit_parametrised_ratio",
    "fit_ratio",
    "fit_score",
    "refine",
    "two_sample_test",
]
