r"""How many parameters a background needs, and what the choice costs.

Of two nested shapes with :math:`p_1 < p_2` parameters the smaller one is true if

.. math:: 2 \ln \frac{L_2}{L_1} \sim \chi^2_{p_2 - p_1} \quad \text{(likelihood ratio)}, \qquad
          F = \frac{2 \ln (L_2 / L_1) / (p_2 - p_1)}{\chi^2_2 / (n - p_2)} \sim F_{p_2 - p_1, \, n - p_2}
          \quad \text{(Fisher)}

in large samples, n the number of bins.  The errors of counts are known, so that the likelihood ratio is the better
test; Fisher's forgives a bad fit, by its chi2 in the denominator.  One goes up from the first shape as long as the next
is better at the level alpha: a shape one order too high is then chosen with probability alpha.  Where the next order
alone does not help, but the one after it does, that stops too early: look at `OrderChoice.describes` and the table.

Not nested ones are compared by information criteria, the least of

.. math:: AIC = -2 \ln L + 2 p, \quad AIC_c = AIC + \frac{2 p (p + 1)}{n - p - 1}, \quad BIC = -2 \ln L + p \ln n ,

n the number of used bins, or of events where there are no bins.  AIC takes a next order that is not needed with
probability :math:`P(\chi^2_1 > 2) = 0.157`, BIC with :math:`P(\chi^2_1 > \ln n)`.

Or none is chosen: in the *envelope* each shape is profiled with the yield, and the least of all curves
:math:`-2 \ln L + c \, p` taken, the choice being a discrete nuisance parameter.  With c = 1 a parameter without use
costs what it gains in the mean.

Sources: Lista, Statistical Methods for Data Analysis, 9.9 (F-test); CMS, arXiv 1911.03947 (its use for dijets); Akaike,
IEEE Trans. Autom. Control 19 (1974) 716; Schwarz, Ann. Statist. 6 (1978) 461; Dauncey, Kenzie, Wardle, Davies, arXiv
1408.6865 (envelope).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, get_args

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import stats

from ...errors import check_finite
from ...records import Record
from .batched import profile_yield
from .fits import fit_bump
from .likelihoods import BumpLikelihood
from .shapes import BackgroundShape

__all__ = ["OrderChoice", "YieldEnvelope", "choose_order", "profile_envelope"]

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]
Criterion = Literal["likelihood-ratio", "f-test", "aic", "aicc", "bic"]

_NESTED = 1e-3  # by so much -log L may be above that of a shape with fewer parameters, by rounding


@dataclass(frozen=True, eq=False)
class OrderChoice(Record):
    """Fits of K background shapes to the same data.

    Attributes
    ----------
    shapes:
        (K,), what they are.
    parameters:
        (K,), the numbers of free ones.
    deviance, chi2, ndf, gof:
        (K,), -2 log L, the saturated chi2 in bins, its degrees of freedom and p-value (NaN for none).
    ratio_p, f_p:
        (K,), p-values of each shape against the next one by likelihood ratio and by Fisher's test: small where the
        next one is better; NaN for the last one, and where the next has not more parameters.
    aic, aicc, bic:
        (K,); AICc is infinite without degrees of freedom.
    criterion, alpha:
        By which it was chosen, and the level of the tests.
    best:
        The number of the chosen shape.
    at_limit:
        (K,), whether parameters are at a limit: then tests are conservative.
    """

    _KIND = "bump order choice"

    shapes: tuple[str, ...]
    parameters: Ints
    deviance: Floats
    chi2: Floats
    ndf: Ints
    gof: Floats
    ratio_p: Floats
    f_p: Floats
    aic: Floats
    aicc: Floats
    bic: Floats
    criterion: str
    alpha: float
    best: int
    at_limit: NDArray[np.bool_]

    @property
    def describes(self) -> bool:
        """Whether the chosen shape fits: its chi2 has a p-value of at least alpha."""
        return bool(self.gof[self.best] >= self.alpha)

    def __repr__(self) -> str:
        names = f"{'chi2 / ndf':>14}{'p':>9}{'p next':>9}{'p F':>9}{'AICc':>10}{'BIC':>10}"
        rows = [f"  {'shape':<28}{'free':>5}{names}"]
        for k, name in enumerate(self.shapes):
            mark = "> " if k == self.best else "  "
            fit = f"{self.chi2[k]:.1f} / {self.ndf[k]}"
            rows.append(f"{mark}{name:<28}{self.parameters[k]:>5}{fit:>14}{self.gof[k]:>9.3g}{self.ratio_p[k]:>9.3g}"
                        f"{self.f_p[k]:>9.3g}{self.aicc[k] - self.aicc.min():>10.2f}"
                        f"{self.bic[k] - self.bic.min():>10.2f}")  # fmt: skip
        poor = "" if self.describes else "; IT DOES NOT DESCRIBE THE DATA"
        return "\n".join([f"OrderChoice({self.shapes[self.best]} by {self.criterion}{poor})", *rows])


def choose_order(
    likelihood: BumpLikelihood,
    family: Sequence[BackgroundShape],
    *,
    criterion: Criterion = "likelihood-ratio",
    alpha: float = 0.05,
) -> OrderChoice:
    """Fit background shapes to the data, and choose one.

    Parameters
    ----------
    likelihood:
        Its background is not used.  A signal would be taken for background: exclude its region, or choose with
        simulation.
    family:
        Shapes; for the tests each nested in the next, as ``[Dijet(3), Dijet(4), Dijet(5)]``.
    criterion:
        ``"likelihood-ratio"``, ``"f-test"``, ``"aic"``, ``"aicc"`` or ``"bic"``; the result has all.
    alpha:
        The level of the tests.

    Returns
    -------
    OrderChoice

    Raises
    ------
    NotConverged
        as `fit_bump`.
    ValueError
        for no shapes, a criterion that is none, or shapes that are not nested, for tests.

    Examples
    --------
    >>> from nuinfer.anomaly.bump import BumpLikelihood, Exponential
    >>> edges = np.linspace(0.0, 10.0, 51)
    >>> truth = np.exp(7 - edges[1:] / 2 + 0.05 * edges[1:] ** 2)
    >>> data = np.random.default_rng(1).poisson(truth)
    >>> family = [Exponential(order) for order in (1, 2, 3)]
    >>> found = choose_order(BumpLikelihood.binned(data, family[0], edges=edges), family)
    >>> family[found.best]
    Exponential(order=2, span=None)
    """
    if not len(family):
        raise ValueError("family: expected background shapes, found none")
    if criterion not in get_args(Criterion):
        raise ValueError(f"criterion: expected one of {', '.join(get_args(Criterion))}, found {criterion!r}")
    if not 0 < alpha < 1:
        raise ValueError(f"alpha: expected a level between 0 and 1, found {alpha:g}")
    fits = [fit_bump(likelihood.with_background(shape), errors=False) for shape in family]
    free = np.array([_free(likelihood, shape) for shape in family])
    deviance = np.array([2 * fit.nll for fit in fits])
    chi2, ndf = np.array([fit.chi2 for fit in fits]), np.array([fit.ndf for fit in fits])
    ratio_p, f_p = _tests(deviance, chi2, ndf, free, criterion)
    n = float(likelihood.used.sum()) if likelihood.points is None else float(len(likelihood.points))
    aic = deviance + 2 * free
    room = n - free - 1
    aicc = aic + np.where(room > 0, 2 * free * (free + 1) / np.where(room > 0, room, 1.0), np.inf)
    bic = deviance + free * math.log(n)
    tests, scores = {"likelihood-ratio": ratio_p, "f-test": f_p}, {"aic": aic, "aicc": aicc, "bic": bic}
    best = _chosen(criterion, alpha, tests, scores)
    at_limit = np.array([bool(fit.at_limit) for fit in fits])
    gof = np.array([fit.p for fit in fits])
    return OrderChoice(tuple(map(_label, family)), free, deviance, chi2, ndf, gof, ratio_p, f_p, aic, aicc, bic,
                       criterion, float(alpha), best, at_limit)  # fmt: skip


def _free(likelihood: BumpLikelihood, shape: BackgroundShape) -> int:
    """Parameters without a constraint."""
    known = {*likelihood.with_background(shape).constraints}
    return sum(name not in known for name in shape.names)


def _label(shape: BackgroundShape) -> str:
    size = getattr(shape, "order", getattr(shape, "parameters", None))
    return f"{type(shape).__name__}({size})" if isinstance(size, int) else type(shape).__name__


def _tests(deviance: Floats, chi2: Floats, ndf: Ints, free: Ints, criterion: str) -> tuple[Floats, Floats]:
    """p-values (K,) of each shape against the next."""
    ratio_p, f_p = np.full(len(free), np.nan), np.full(len(free), np.nan)
    for k in range(len(free) - 1):
        more, gain = int(free[k + 1] - free[k]), float(deviance[k] - deviance[k + 1])
        if more < 1 or gain < -2 * _NESTED:
            if criterion in ("likelihood-ratio", "f-test"):
                raise ValueError(f"family: expected each shape to be nested in the next for a test, found number "
                                 f"{k + 1} with {more:+d} parameters and a -log L lower by {gain / 2:.3g}; take "
                                 f"criterion='aicc'")  # fmt: skip
            continue
        ratio_p[k] = stats.chi2.sf(max(gain, 0.0), more)
        if ndf[k + 1] > 0 and chi2[k + 1] > 0:
            f_p[k] = stats.f.sf(max(gain, 0.0) / more / (chi2[k + 1] / ndf[k + 1]), more, ndf[k + 1])
    return ratio_p, f_p


def _chosen(criterion: str, alpha: float, tests: dict[str, Floats], scores: dict[str, Floats]) -> int:
    if criterion in scores:
        return int(np.argmin(scores[criterion]))
    p = tests[criterion]
    best = 0
    while best < len(p) - 1 and p[best] < alpha:
        best += 1
    return best


# -- all of them -------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, eq=False)
class YieldEnvelope(Record):
    """Profiles of the yield with K background shapes, and the least of them.

    Attributes
    ----------
    shapes:
        (K,), what they are.
    mass, yields:
        Of the signal, and (Y,), at which the profiles are.
    curves:
        (K, Y), -2 log L + penalty times the number of free parameters, less the least of all.
    penalty:
        Per parameter.
    """

    _KIND = "bump yield envelope"

    shapes: tuple[str, ...]
    mass: float
    yields: Floats
    curves: Floats
    penalty: float

    @property
    def least(self) -> Floats:
        """The envelope (Y,), from 0."""
        return np.asarray(self.curves.min(0))

    @property
    def which(self) -> Ints:
        """The number (Y,) of the shape that the envelope is of."""
        return np.asarray(self.curves.argmin(0))

    @property
    def best(self) -> float:
        """The best yield of those on the grid."""
        return float(self.yields[self.least.argmin()])

    def interval(self, rise: float = 1.0) -> tuple[float, float]:
        """Where the envelope is below ``rise`` (1: 68%, 3.84: 95%), its outer ends, by lines between yields.

        Raises
        ------
        ValueError
            where it is so at an end of the yields.
        """
        inside = np.flatnonzero(self.least <= rise)
        low, high = int(inside[0]), int(inside[-1])
        if low == 0 or high == len(self.yields) - 1:
            raise ValueError(f"yields: expected an envelope above {rise:g} at both ends, found {self.least[0]:.3g} and "
                             f"{self.least[-1]:.3g}; take more yields")  # fmt: skip
        return self._between(low - 1, low, rise), self._between(high + 1, high, rise)

    def _between(self, outer: int, inner: int, rise: float) -> float:
        above, below = self.least[outer], self.least[inner]
        return float(self.yields[inner] + (self.yields[outer] - self.yields[inner]) * (rise - below) / (above - below))

    def __repr__(self) -> str:
        used = ", ".join(self.shapes[k] for k in np.unique(self.which).tolist())
        return f"YieldEnvelope(best yield {self.best:.4g} at {self.mass:g}; least of {len(self.shapes)} shapes: {used})"


def profile_envelope(
    likelihood: BumpLikelihood,
    family: Sequence[BackgroundShape],
    mass: float,
    yields: ArrayLike,
    *,
    penalty: float = 1.0,
) -> YieldEnvelope:
    """Profile the yield with each background shape, to take the least.

    Parameters
    ----------
    likelihood:
        With a signal, in bins; its background is not used.
    family:
        Shapes of any kinds.
    mass:
        Of the signal.
    yields:
        (Y,), rising, at least three.
    penalty:
        Added per free parameter; 1, or 2 for that of AIC.

    Returns
    -------
    YieldEnvelope

    Raises
    ------
    NotConverged, ValueError
        as `profile_yield`; for no shapes, fewer yields, a negative penalty.

    Examples
    --------
    >>> from nuinfer.anomaly.bump import BumpLikelihood, Exponential, GaussianPeak
    >>> edges = np.linspace(0.0, 10.0, 51)
    >>> data = np.random.default_rng(1).poisson(100 * np.exp(-edges[1:] / 4))
    >>> family = [Exponential(1), Exponential(2)]
    >>> likelihood = BumpLikelihood.binned(data, family[0], GaussianPeak(0.3), edges=edges)
    >>> found = profile_envelope(likelihood, family, 5.0, np.linspace(-60, 60, 61))
    >>> low, high = found.interval()
    >>> low < found.best < high
    True
    """
    at = np.asarray(yields, np.float64)
    check_finite("yields", np.atleast_1d(at))
    if at.ndim != 1 or len(at) < 3 or (np.diff(at) <= 0).any():
        raise ValueError(f"yields: expected at least three that rise, found {at.tolist()}")
    if not len(family) or penalty < 0:
        raise ValueError(f"family, penalty: expected shapes and a number from 0, found {len(family)} and {penalty:g}")
    rows = [2 * profile_yield(likelihood.with_background(shape), mass, at) + penalty * _free(likelihood, shape)
            for shape in family]  # fmt: skip
    curves = np.stack(rows)
    return YieldEnvelope(tuple(map(_label, family)), float(mass), at, curves - curves.min(), float(penalty))
