r"""The spurious signal: what a background shape, fitted with a signal to spectra without one, takes for a signal.

A template without a signal, scaled to the luminosity of the data, is fitted by background and signal at each mass.  Its
yield :math:`S_{sp}(m)` is the bias of a measurement by the shape, if the template is the truth, and :math:`\sigma(m)`
is the statistical error that the data will have.  A shape is usual to be accepted (ATLAS, arXiv 1802.04146) where at
all masses either of

.. math:: |S_{sp}| < f_\sigma \, \sigma \quad (f_\sigma = 0.2), \qquad |S_{sp}| < f_S \, S \quad (f_S = 0.1)

holds, S an expected signal (that excluded, say).  A template from simulation has statistical errors of its own,
:math:`\Delta`, found by toys of its events; with ``allowed`` of them,

.. math:: \zeta = \max(|S_{sp}| - \text{allowed} \cdot \Delta, \, 0)

stands in the place of :math:`|S_{sp}|`.  Allowing for them makes the test weaker, the more so the fewer events were
simulated; `SpuriousSignal.resolved` tells whether there were enough.

What is found is a systematic uncertainty of the yield: `SpuriousSignal.envelope` is the greatest :math:`|S_{sp}|`
around each mass, to be given as ``spurious=`` to `scan_masses`, `yield_limits` and `toy_limits`.

`signal_injection` asks whether signals of some size come back: by toys with a signal, of the fitted background or of
another truth.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from ...errors import NotConverged
from ...histograms import Contents, variances
from ...records import Record
from .batched import ToyFits, fit_toys
from .fits import BumpFit, fit_bump
from .likelihoods import YIELD, BumpLikelihood
from .scans import checked_masses, spread_over

__all__ = ["SignalInjection", "SpuriousSignal", "signal_injection", "spurious_signal"]

Floats = NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class SpuriousSignal(Record):
    """Signals fitted to a template without one, at M masses.

    Attributes
    ----------
    masses, widths:
        (M,), and the signal's widths there.
    yields:
        (M,), S_sp.
    sigma:
        (M,), the statistical error of the yield, for data like the template.
    template_errors:
        (M,), Delta, from the number of events in the template; 0 for one without errors.
    reference:
        (M,), the expected signal S; NaN for none.
    of_sigma, of_reference, allowed:
        f_sigma, f_S, and how many Delta are allowed.
    chi2, ndf:
        Of the background alone and the template, with the statistical errors of the data (not of the template).
    """

    _KIND = "bump spurious signal"

    masses: Floats
    widths: Floats
    yields: Floats
    sigma: Floats
    template_errors: Floats
    reference: Floats
    of_sigma: float
    of_reference: float
    allowed: float
    chi2: float
    ndf: int

    @property
    def ratio(self) -> Floats:
        """S_sp / sigma (M,)."""
        return np.asarray(self.yields / self.sigma)

    @property
    def zeta(self) -> Floats:
        """(M,), what is tested."""
        return np.asarray(np.maximum(np.abs(self.yields) - self.allowed * self.template_errors, 0.0))

    @property
    def tolerated(self) -> Floats:
        """(M,), the greater of both bounds."""
        bounds = np.stack([self.of_sigma * self.sigma, self.of_reference * self.reference])
        return np.asarray(np.nanmax(bounds, 0))

    @property
    def passed(self) -> NDArray[np.bool_]:
        """(M,)."""
        return np.asarray(self.zeta < self.tolerated)

    @property
    def accepted(self) -> bool:
        """Whether the shape passes at all masses."""
        return bool(self.passed.all())

    @property
    def worst(self) -> int:
        """The number of the mass with the greatest zeta for what is tolerated."""
        return int(np.argmax(np.where(self.passed.all(), np.abs(self.yields), self.zeta) / self.tolerated))

    @property
    def largest(self) -> float:
        """The greatest ``|S_sp|``."""
        return float(np.abs(self.yields).max())

    @property
    def resolved(self) -> bool:
        """Whether the template has enough events: its errors are below half of what is tolerated."""
        return bool((self.template_errors < 0.5 * self.tolerated).all())

    def envelope(self, widths: float = 5.0) -> Floats:
        """(M,), the greatest ``|S_sp| / sigma`` within so many widths of each mass, times its sigma.

        S_sp goes through 0 between masses; the bias of the data may have its zeros elsewhere.
        """
        near = np.abs(self.masses[:, None] - self.masses) <= widths * self.widths[:, None]
        return np.asarray(np.where(near, np.abs(self.ratio), 0.0).max(1) * self.sigma)

    @property
    def verdict(self) -> str:
        """In words."""
        k = self.worst
        clear = self.resolved or (not self.accepted and abs(self.yields[k]) > 5 * self.template_errors[k])
        few = "" if clear else "; the template has too few events to tell"
        said = "accepted" if self.accepted else f"refused at {(~self.passed).sum()} of {len(self.masses)} masses"
        return (f"{said}: at {self.masses[k]:g} the spurious signal is {self.yields[k]:.3g} +- "
                f"{self.template_errors[k]:.2g} events, {abs(self.ratio[k]):.2f} sigma{few}")  # fmt: skip

    def __repr__(self) -> str:
        return f"SpuriousSignal({self.verdict})"


def spurious_signal(
    likelihood: BumpLikelihood,
    masses: ArrayLike,
    template: Any,
    *,
    variance: ArrayLike | None = None,
    reference: ArrayLike | None = None,
    of_sigma: float = 0.2,
    of_reference: float = 0.1,
    allowed: float = 0.0,
    toys: int = 200,
    seed: int = 0,
) -> SpuriousSignal:
    """Fit background and signal to a spectrum without a signal, at each mass.

    Parameters
    ----------
    likelihood:
        In bins, with the shapes to test.  Its own contents serve for starting values only.
    masses:
        (M,), rising: all of the search.
    template:
        What is expected without a signal at the luminosity of the data: contents (B,) of the likelihood's bins, a
        histogram of these, or the `BumpFit` of another shape to the data.
    variance:
        (B,), that of the contents from finite simulation; None: that of the histogram, or none at all.
    reference:
        An expected signal, one or (M,), in events; None: only sigma is compared with.
    of_sigma, of_reference, allowed:
        The criteria, see the module.
    toys, seed:
        Of the template's events, where it has a variance.

    Returns
    -------
    SpuriousSignal

    Raises
    ------
    NotConverged
        naming a mass.
    ValueError
        for another number of contents, no toys with a variance, criteria that are not positive, masses that do not
        rise.

    Examples
    --------
    >>> from nuinfer.anomaly.bump import BumpLikelihood, Exponential, GaussianPeak
    >>> edges = np.linspace(0.0, 10.0, 51)
    >>> truth = np.exp(7 - edges[1:] / 2 + 0.05 * edges[1:] ** 2)
    >>> data = np.random.default_rng(1).poisson(truth)
    >>> likelihood = BumpLikelihood.binned(data, Exponential(1), GaussianPeak(0.3), edges=edges)
    >>> spurious_signal(likelihood, [2.0, 5.0, 8.0], truth).accepted
    False
    >>> spurious_signal(likelihood.with_background(Exponential(2)), [2.0, 5.0, 8.0], truth).accepted
    True
    """
    at = checked_masses(likelihood, masses)
    if not min(of_sigma, of_reference) > 0 or allowed < 0:
        raise ValueError(f"of_sigma, of_reference, allowed: expected criteria above 0 and a number from 0, found "
                         f"{of_sigma:g}, {of_reference:g} and {allowed:g}")  # fmt: skip
    contents, spread = _template(likelihood, template, variance)
    drawn = np.empty((0, len(contents))) if spread is None else _redrawn(contents, spread, toys, seed)
    yields, sigma, errors = np.array([_fitted(likelihood, mass, contents, drawn) for mass in at.tolist()]).T
    alone = fit_toys(likelihood, contents[None], errors=False)
    widths = np.array([likelihood.need_signal().width(mass) for mass in at.tolist()])
    expected = np.full(len(at), math.nan) if reference is None else spread_over("reference", reference, at)
    free = sum(name not in likelihood.constraints for name in likelihood.background.names)
    criteria = float(of_sigma), float(of_reference), float(allowed)
    return SpuriousSignal(at, widths, yields, sigma, errors, expected, *criteria, 2 * float(alone.nll[0]),
                          int(likelihood.used.sum()) - free)  # fmt: skip


def _template(likelihood: BumpLikelihood, template: Any, variance: ArrayLike | None) -> tuple[Floats, Floats | None]:
    """Contents (B,) and their variances, if they have any."""
    if isinstance(template, BumpFit):
        found, own = template.background, None
    else:
        both = Contents.of("template", template)
        found, own = both.values, both.variances
    if len(found) != len(likelihood.bins):
        raise ValueError(f"template: expected contents of the {len(likelihood.bins)} bins of the range, found "
                         f"{len(found)}")  # fmt: skip
    return found, own if variance is None else variances("template", variance, len(found))


def _redrawn(contents: Floats, spread: Floats, toys: int, seed: int) -> Floats:
    """Toys (T, B) of a template's own events, in effective ones."""
    if toys < 20:
        raise ValueError(f"toys: expected at least 20 for the errors of the template, found {toys}")
    rng = np.random.default_rng(np.random.SeedSequence(seed))
    known = (contents > 0) & (spread > 0)
    scale = np.divide(contents, spread, out=np.ones(len(contents)), where=known)
    fresh = rng.poisson(np.where(known, scale * contents, 0.0), (toys, len(contents))) / scale
    return np.where(known, fresh, contents)


def _fitted(likelihood: BumpLikelihood, mass: float, contents: Floats, drawn: Floats) -> tuple[float, float, float]:
    """Yield, its error, and the template's part of it."""
    one = _good(fit_toys(likelihood, contents[None], mass), f"the template at mass {mass:g}")
    if not len(drawn):
        return float(one.value(YIELD)[0]), float(one.error(YIELD)[0]), 0.0
    many = fit_toys(likelihood, drawn, mass, errors=False)
    yields = many.value(YIELD)[many.converged]
    if len(yields) < 0.9 * len(drawn):
        raise NotConverged(f"{len(drawn) - len(yields)} of {len(drawn)} fits to toys of the template at mass {mass:g} "
                           f"did not converge; try a simpler background")  # fmt: skip
    return float(one.value(YIELD)[0]), float(one.error(YIELD)[0]), float(yields.std(ddof=1))


def _good(found: ToyFits, what: str) -> ToyFits:
    if len(found.failed):
        raise NotConverged(f"the fit to {what} did not converge; try a simpler background or coarser bins")
    return found


# -- signals that are put in -------------------------------------------------------------------------------------------


@dataclass(frozen=True, eq=False)
class SignalInjection(Record):
    """Fits of toys with signals of I sizes at one mass.

    Attributes
    ----------
    mass:
        Of the signal.
    injected:
        (I,), the yields put in.
    fitted, errors:
        (I,), the mean of the fitted ones, and its standard error.
    spread, sigma:
        (I,), their standard deviation, and the mean of the errors that the fits give.
    pull, width:
        (I,), mean and standard deviation of (fitted - injected) / error.
    toys, failed, at_limit:
        Toys a size, and (I,) those left out as no fit succeeded, and those which end at a limit (kept in).
    slope, offset, slope_error, offset_error:
        Of the straight line fitted = offset + slope injected.
    """

    _KIND = "bump signal injection"

    mass: float
    injected: Floats
    fitted: Floats
    errors: Floats
    spread: Floats
    sigma: Floats
    pull: Floats
    width: Floats
    toys: int
    failed: NDArray[np.int64]
    at_limit: NDArray[np.int64]
    slope: float
    offset: float
    slope_error: float
    offset_error: float

    @property
    def linear(self) -> bool:
        """Whether slope and offset are 1 and 0 within 3 standard errors."""
        return abs(self.slope - 1) < 3 * self.slope_error and abs(self.offset) < 3 * self.offset_error

    def __repr__(self) -> str:
        said = "linear" if self.linear else "BIASED"
        return (f"SignalInjection({said} at {self.mass:g}: slope {self.slope:.3f} +- {self.slope_error:.3f}, offset "
                f"{self.offset:.3g} +- {self.offset_error:.2g} events; pulls {self.pull.mean():+.2f}, widths "
                f"{self.width.mean():.2f}; {self.toys} toys each)")  # fmt: skip


def signal_injection(
    likelihood: BumpLikelihood,
    mass: float,
    yields: ArrayLike,
    *,
    toys: int = 500,
    seed: int,
    background: Any = None,
) -> SignalInjection:
    """Draw toys with signals of known sizes, and fit them.

    Parameters
    ----------
    likelihood:
        In bins, with a signal.
    mass:
        Of the signal.
    yields:
        (I,), at least two sizes, 0 among them if wanted.
    toys, seed:
        Of each size, at least 20.
    background:
        The truth, as the ``template`` of `spurious_signal`; None: the background's fit to the data.

    Returns
    -------
    SignalInjection

    Raises
    ------
    NotConverged
        where more than a tenth of a size's fits fail.
    ValueError
        for fewer sizes or toys, or expectations that are negative.

    Examples
    --------
    >>> from nuinfer.anomaly.bump import BumpLikelihood, Exponential, GaussianPeak
    >>> edges = np.linspace(0.0, 10.0, 51)
    >>> contents = np.random.default_rng(1).poisson(100 * np.exp(-edges[1:] / 4))
    >>> likelihood = BumpLikelihood.binned(contents, Exponential(1), GaussianPeak(0.3), edges=edges)
    >>> signal_injection(likelihood, 5.0, [0.0, 30.0, 60.0], toys=300, seed=2).linear
    True
    """
    sizes = np.atleast_1d(np.asarray(yields, np.float64))
    if sizes.ndim != 1 or len(np.unique(sizes)) < 2 or not np.isfinite(sizes).all():
        raise ValueError(f"yields: expected at least two different sizes, found {sizes.tolist()}")
    if toys < 20:
        raise ValueError(f"toys: expected at least 20, found {toys}")
    base = (fit_bump(likelihood, errors=False).background if background is None
            else _template(likelihood, background, None)[0])  # fmt: skip
    signal = likelihood.need_signal()
    shape = signal.fractions(likelihood.bins, mass, signal.start)
    rng = np.random.default_rng(np.random.SeedSequence(seed))
    rows = [_injected(likelihood, mass, size, base + size * shape, toys, rng) for size in sizes.tolist()]
    fitted, errors, spread, sigma, pull, width, failed, limit = np.array(rows).T
    line = _line(sizes, fitted, errors)
    return SignalInjection(float(mass), sizes, fitted, errors, spread, sigma, pull, width, toys,
                           failed.astype(np.int64), limit.astype(np.int64), *line)  # fmt: skip


def _injected(
    likelihood: BumpLikelihood, mass: float, size: float, mean: Floats, toys: int, rng: np.random.Generator
) -> tuple[float, ...]:
    if not (mean >= 0).all():
        raise ValueError(f"yields: expected contents from 0, found {mean.min():.3g} with a yield of {size:g}")
    counts = rng.poisson(likelihood.scale * mean, (toys, len(mean))) / likelihood.scale
    found = fit_toys(likelihood, counts, mass)
    good = found.converged & (found.error(YIELD) > 0)
    if good.sum() < 0.9 * toys:
        raise NotConverged(f"only {good.sum()} of {toys} fits at mass {mass:g} with a yield of {size:g} have an error; "
                           f"try a simpler background or coarser bins")  # fmt: skip
    fitted, error = found.value(YIELD)[good], found.error(YIELD)[good]
    pulls = (fitted - size) / error
    spread = float(fitted.std(ddof=1))
    return (float(fitted.mean()), spread / math.sqrt(len(fitted)), spread, float(error.mean()), float(pulls.mean()),
            float(pulls.std(ddof=1)), float((~good).sum()), float(found.at_limit.sum()))  # fmt: skip


def _line(x: Floats, y: Floats, errors: Floats) -> tuple[float, float, float, float]:
    """Slope, offset and their errors."""
    rows = np.stack([x, np.ones_like(x)], 1) / errors[:, None]
    covariance = np.linalg.inv(rows.T @ rows)
    slope, offset = (covariance @ rows.T @ (y / errors)).tolist()
    slope_error, offset_error = np.sqrt(np.diag(covariance)).tolist()
    return slope, offset, slope_error, offset_error
