r"""Upper limits on a signal at each mass, by CL_s, in large samples; `toy_limits` has them by toys.

With :math:`\tilde q_S = 2 \ln [L(\hat S, \hat\theta) / L(S, \hat{\hat\theta})]` for :math:`\hat S \le S` and else 0,
:math:`\hat S` from 0, and :math:`q_A(S)` its value on the Asimov data without a signal,

.. math:: z = \sqrt{\tilde q} - \sqrt{q_A} \;\;\text{for}\; \tilde q \le q_A, \;\text{else}\;
          \frac{\tilde q - q_A}{2 \sqrt{q_A}}, \qquad
          CL_s = \frac{1 - \Phi(z + \sqrt{q_A})}{1 - \Phi(z)},

and the limit is where CL_s is 1 - cl.  Without a signal z is a standard normal, so that the limits expected at N
sigma, an excess of N, are where :math:`\sqrt{q_A(S)} = N + \Phi^{-1}(1 - (1 - cl) \, \Phi(N))`.

Systematic uncertainties of the exposure (efficiency times luminosity), and a spurious signal, are nuisance parameters
(`nuinfer.anomaly.bump.hypotheses`).

Sources: Cowan, Cranmer, Gross, Vitells, arXiv 1007.1727, sections 2 to 4; Read, J. Phys. G 28 (2002) 2693.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import special

from ...errors import NotConverged
from ...records import Record
from .hypotheses import YieldTest
from .likelihoods import BumpLikelihood
from .scans import checked_masses, spread_over

__all__ = ["BumpLimits", "yield_limits"]

Floats = NDArray[np.float64]

BANDS = np.array([-2.0, -1.0, 0.0, 1.0, 2.0])


@dataclass(frozen=True, eq=False)
class BumpLimits(Record):
    """Upper limits at M masses.

    Attributes
    ----------
    masses, widths:
        (M,), and the signal's widths there.
    best:
        (M,), the best size of the signal from 0.
    observed:
        (M,), the limits; infinite where the data set none (as with a great uncertainty of the exposure), NaN where
        there were too few toys.
    expected:
        (M, 5), those expected without a signal, at -2, -1, 0, 1, 2 sigma; the third is the median.
    errors, expected_errors:
        (M,), (M, 5), standard errors from the number of toys; 0 without toys.
    cl, method:
        The confidence level, and "asymptotic" or "toys".
    exposure, relative, spurious:
        (M,): events per unit of the limits (1: limits on yields), its relative uncertainty, and the standard deviation
        of a spurious signal, in events.
    toys, failed, seed:
        Toys per hypothesis, how many of all were not fitted, and their seed; 0 without toys.
    """

    _KIND = "bump limits"

    masses: Floats
    widths: Floats
    best: Floats
    observed: Floats
    expected: Floats
    errors: Floats
    expected_errors: Floats
    cl: float
    method: str
    exposure: Floats
    relative: Floats
    spurious: Floats
    toys: int
    failed: int
    seed: int

    @property
    def unknown(self) -> Floats:
        """The masses (K,) at which there were too few toys for the observed limit."""
        return np.asarray(self.masses[np.isnan(self.observed)])

    @property
    def of_yields(self) -> bool:
        """Whether the limits are numbers of events."""
        return bool((self.exposure == 1).all())

    def excluded(self, predicted: ArrayLike) -> Floats:
        """The masses (K,) at which a predicted size, (M,) or one, is above the limit.

        Raises
        ------
        ValueError
            for another number of predictions.
        """
        sizes = spread_over("predicted", predicted, self.masses)
        return np.asarray(self.masses[sizes > self.observed])

    def __repr__(self) -> str:
        low, high = self.masses[[0, -1]]
        what = "yields" if self.of_yields else "cross-sections"
        how = f"{self.toys} toys a hypothesis" if self.method == "toys" else "large samples"
        rows = [f"  {m:>10g}  observed {o:>9.4g}  expected {e[2]:>9.4g}  [{e[1]:.4g}, {e[3]:.4g}]"
                for m, o, e in zip(self.masses, self.observed, self.expected, strict=True)]  # fmt: skip
        rows += [f"  TOO FEW TOYS for {len(self.unknown)} observed limits"] if len(self.unknown) else []
        shown = rows if len(rows) <= 8 else [*rows[:3], "  ...", *rows[-3:]]
        where = f"{len(self.masses)} masses from {low:g} to {high:g}"
        return "\n".join([f"BumpLimits({where}: {self.cl:.0%} CLs limits on {what}, {how})", *shown])


def yield_limits(
    likelihood: BumpLikelihood,
    masses: ArrayLike,
    *,
    cl: float = 0.95,
    exposure: ArrayLike = 1.0,
    exposure_error: ArrayLike = 0.0,
    spurious: ArrayLike = 0.0,
) -> BumpLimits:
    """CL_s limits at each mass, observed and expected, in large samples.

    Where `BumpScan.sparse` says that there is little background under the peak, `toy_limits` are the right ones.

    Parameters
    ----------
    likelihood:
        With a signal, in bins.
    masses:
        (M,), rising.
    cl:
        Confidence level, above 1/2.
    exposure:
        Expected events of a signal of size 1, one or (M,): efficiency times luminosity, for limits on a cross-section.
        1: limits on the yield.
    exposure_error:
        Its relative uncertainty, one or (M,): a Gaussian nuisance.
    spurious:
        Standard deviation of a spurious signal in events, one or (M,), as `SpuriousSignal.envelope`: a Gaussian
        nuisance that is added to the yield.

    Returns
    -------
    BumpLimits

    Raises
    ------
    NotConverged
        naming the mass.
    ValueError
        for masses that do not rise or have no signal in the used bins, events without bins, a constrained yield, an
        exposure that is not positive, negative uncertainties, ``cl`` not between 1/2 and 1.

    Examples
    --------
    >>> from nuinfer.anomaly.bump import BumpLikelihood, Exponential, GaussianPeak
    >>> edges = np.linspace(0.0, 10.0, 51)
    >>> contents = np.random.default_rng(1).poisson(100 * np.exp(-edges[1:] / 4))
    >>> likelihood = BumpLikelihood.binned(contents, Exponential(1), GaussianPeak(0.3), edges=edges)
    >>> found = yield_limits(likelihood, [3.0, 5.0])
    >>> bool((found.expected[:, 1] < found.observed).all() and (found.observed < found.expected[:, 4]).all())
    True
    """
    at, own = checked_limits(likelihood, masses, cl, exposure, exposure_error, spurious)
    rows = [asymptotic_limits(YieldTest(likelihood, m, r, t), cl) for m, _, r, t in _each(at, own)]
    best, observed, expected = (np.array(part) for part in zip(*rows, strict=True))
    return made_limits(likelihood, at, own, cl, "asymptotic", best, observed, expected)


# -- what limits by toys share -----------------------------------------------------------------------------------------


def checked_limits(
    likelihood: BumpLikelihood, masses: ArrayLike, cl: float, exposure: ArrayLike, relative: ArrayLike,
    spurious: ArrayLike,
) -> tuple[Floats, Floats]:  # fmt: skip
    """Masses (M,), and exposure, its relative error and the spurious signal (3, M)."""
    at = checked_masses(likelihood, masses)
    if not 0.5 < cl < 1:
        raise ValueError(f"cl: expected a confidence level between 0.5 and 1, found {cl}")
    own = np.stack([spread_over(name, given, at) for name, given in
                    (("exposure", exposure), ("exposure_error", relative), ("spurious", spurious))])  # fmt: skip
    if not (own[0] > 0).all():
        raise ValueError(f"exposure: expected events per unit of the cross-section, above 0, found {own[0].min():g}")
    if not (own[1:] >= 0).all():
        raise ValueError(f"exposure_error, spurious: expected standard deviations from 0, found {own[1:].min():g}")
    return at, own


def _each(masses: Floats, own: Floats) -> list[tuple[float, float, float, float]]:
    return [(float(m), float(e), float(r), float(t)) for m, (e, r, t) in zip(masses, own.T, strict=True)]


def made_limits(
    likelihood: BumpLikelihood, masses: Floats, own: Floats, cl: float, method: str, best: Floats, observed: Floats,
    expected: Floats, errors: Floats | None = None, toys: tuple[int, int, int] = (0, 0, 0),
) -> BumpLimits:  # fmt: skip
    """The record, in units of the cross-section."""
    widths = np.array([likelihood.need_signal().width(mass) for mass in masses.tolist()])
    spread = np.zeros((len(masses), 6)) if errors is None else errors / own[0][:, None]
    return BumpLimits(masses, widths, best / own[0], observed / own[0], expected / own[0][:, None], spread[:, 0],
                      spread[:, 1:], cl, method, own[0], own[1], own[2], *toys)  # fmt: skip


# -- one mass ----------------------------------------------------------------------------------------------------------


def asymptotic_limits(test: YieldTest, cl: float) -> tuple[float, float, Floats]:
    """The best size, the observed limit and those expected (5,), in events."""
    data = test.data
    both = data.with_others(test.asimov(test.hypothesis(data, 0.0)))
    best = test.best(both)
    if not best.converged.all():
        raise NotConverged(f"the fits at mass {test.mass:g} did not converge; try coarser bins or a simpler background "
                           f"where contents are small")  # fmt: skip
    aims = expected_roots(cl)

    def beyond(size: Floats) -> Floats:
        """(6,), falling: five expected, then observed."""
        q = test.statistic(both, best, np.append(size, size[5]), np.array([1] * 6 + [0]))
        if np.isnan(q).any():
            raise NotConverged(f"the fits at mass {test.mass:g} with yields up to {size.max():.4g} did not converge")
        root = np.sqrt(q[:6])
        return np.append(aims - root[:5], log_cls(q[6], root[5]) - np.log1p(-cl))

    found = _falling_roots(beyond, np.append(aims, -np.log1p(-cl)), test.scale)
    return float(best.size[0]), float(found[5]), found[:5]


def expected_roots(cl: float) -> Floats:
    """sqrt(q_A) (5,) at the limits expected at -2, -1, 0, 1, 2 sigma."""
    return np.asarray(BANDS - special.ndtri((1 - cl) * special.ndtr(BANDS)))


def log_cls(q: float, root: float) -> float:
    """log CL_s of q~ and sqrt(q_A)."""
    if root == 0:
        return 0.0
    z = np.sqrt(q) - root if q <= root**2 else (q - root**2) / (2 * root)
    return float(special.log_ndtr(-z - root) - special.log_ndtr(-z))


def _falling_roots(function: Callable[[Floats], Floats], at_zero: Floats, step: float) -> Floats:
    """Where falling functions of positive numbers, all at once, are 0: regula falsi (Illinois); infinite for nowhere.

    ``at_zero`` are their values (K,) at 0, above 0.
    """
    low, f_low = np.zeros(len(at_zero)), at_zero.copy()
    high = np.full(len(at_zero), 2 * step)
    f_high = function(high)
    for _ in range(14):
        up = f_high > 0
        if not up.any():
            break
        low, f_low = np.where(up, high, low), np.where(up, f_high, f_low)
        high = np.where(up, 2 * high, high)
        f_high = function(high)
    nowhere = f_high > 0
    side = np.zeros(len(low))
    for _ in range(80):
        x = np.where(nowhere | (f_low == f_high), high, (low * f_high - high * f_low) / np.where(
            f_high == f_low, 1.0, f_high - f_low))  # fmt: skip
        f = function(x)
        right = f <= 0
        # an end that stays has its value halved
        f_low = np.where(right, np.where(side > 0, 0.5 * f_low, f_low), f)
        f_high = np.where(right, f, np.where(side < 0, 0.5 * f_high, f_high))
        low, high, side = np.where(right, low, x), np.where(right, x, high), np.where(right, 1.0, -1.0)
        if (nowhere | (np.abs(f) < 1e-9) | (high - low < 1e-9 * high)).all():
            break
    return np.where(nowhere, np.inf, x)
