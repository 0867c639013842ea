r"""A signal at each mass of a grid: its yield, and how improbable the data are without it.

At each mass the background alone is compared with background and signal,

.. math:: q_m = 2 \ln \frac{L(\hat S_m, \hat\theta_m)}{L(0, \hat\theta)}, \qquad
          r_0 = \mathrm{sign}(\hat S_m) \sqrt{q_m}, \qquad p = 1 - \Phi(r_0).

The signed root r_0 is a standard normal without a signal, in large samples, and its p uniform.  The one-sided statistic
of a discovery, q_0, is q_m where the yield is positive and else 0: its Z is r_0 there, and its p that of r_0 wherever
it is below 1/2.  How improbable the greatest of all of them is: `nuinfer.anomaly.bump.global_p_toys` and
`gross_vitells`.

Source: Cowan, Cranmer, Gross, Vitells, arXiv 1007.1727, sections 2 and 3.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Mapping
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import ArrayLike, NDArray

from ...errors import NotConverged, check_finite
from ...records import Record
from ..significance import p_of_z
from .batched import batch_for, checked_counts
from .fits import BumpFit, check_mass, fit_bump
from .likelihoods import YIELD, BumpLikelihood
from .newton import FitBatch, solve
from .signals import SignalShape

__all__ = ["BumpScan", "ToyScans", "mass_grid", "scan_masses", "scan_toys"]

Floats = NDArray[np.float64]
Bools = NDArray[np.bool_]
Ints = NDArray[np.int64]

_log = logging.getLogger("nuinfer")
_CHUNK = 1024
_FEW = 3.0  # expected background under a peak, below which r0 is far from normal
_FINE = 0.5  # widths between masses


@dataclass(frozen=True, eq=False)
class BumpScan(Record):
    """Fits at M masses.

    Attributes
    ----------
    masses, widths:
        (M,), and the signal's widths there.
    yields, errors:
        (M,), fitted yields and their errors.
    z, p:
        (M,), the local r_0 and its one-sided p-value; NaN where a fit failed and that was allowed.
    nll:
        (M,), -log L with the signal.
    at_limit:
        (M,), whether the yield ended at a limit, or where the density reaches 0.
    under:
        (M,), the background expected under the peak, within two widths: r_0 is not normal where it is below about 3.
    background:
        The fit without a signal.
    """

    _KIND = "bump scan"

    masses: Floats
    widths: Floats
    yields: Floats
    errors: Floats
    z: Floats
    p: Floats
    nll: Floats
    at_limit: Bools
    under: Floats
    background: BumpFit

    @property
    def best(self) -> int:
        """The number of the mass with the greatest local significance; failed ones (NaN) are not looked at.

        Raises
        ------
        ValueError
            where all have failed.
        """
        if np.isnan(self.z).all():
            raise ValueError(f"scan: expected a fit that succeeded, found none at {len(self.z)} masses; try coarser "
                             f"bins or a simpler background")  # fmt: skip
        return int(np.nanargmax(self.z))

    @property
    def failed(self) -> Floats:
        """The masses without a fit."""
        return self.masses[np.isnan(self.z)]

    @property
    def sparse(self) -> Floats:
        """The masses with too little background under the peak for asymptotic formulae: use toys."""
        return self.masses[self.under < _FEW]

    @property
    def coarse(self) -> bool:
        """Whether neighbouring masses are further apart than half a width somewhere."""
        return is_coarse(self.masses, self.widths)

    def __repr__(self) -> str:
        numbers = {"failed": len(self.failed), "with the yield at a limit": int(self.at_limit.sum()),
                   "with little background": len(self.sparse)}  # fmt: skip
        notes = [f"{number} {text}" for text, number in numbers.items() if number]
        near = ", ".join(self.background.at_limit)
        notes += [f"the background's {near} at a limit"] if near else []
        more = f"; {', '.join(notes)}" if notes else ""
        head = f"BumpScan({len(self.masses)} masses from {self.masses[0]:g} to {self.masses[-1]:g}"
        if len(self.failed) == len(self.masses):
            return f"{head}{more})"
        k = self.best
        return (f"{head}; greatest at {self.masses[k]:g}: yield {self.yields[k]:.4g} +- {self.errors[k]:.3g}, local Z "
                f"= {self.z[k]:.2f}, p = {self.p[k]:.3g}{more})")  # fmt: skip


def scan_masses(
    likelihood: BumpLikelihood,
    masses: ArrayLike,
    *,
    fixed: Mapping[str, float] | None = None,
    spurious: ArrayLike = 0.0,
    allow_unconverged: bool = False,
) -> BumpScan:
    """Fit a signal at each mass.

    Parameters
    ----------
    likelihood:
        With a signal, in bins or of events.
    masses:
        (M,), rising; `mass_grid` makes them.
    fixed:
        Parameters to hold in all fits.
    spurious:
        Standard deviation of a spurious signal in events, one or (M,), as `SpuriousSignal.envelope`: a Gaussian
        nuisance that is added to the yield, with and without a signal.  It makes errors greater and Z smaller, not that
        of toys, so that `global_p_toys` is then conservative.
    allow_unconverged:
        NaN, and a warning in the log, for masses whose fit fails.

    Returns
    -------
    BumpScan

    Raises
    ------
    NotConverged
        naming the masses.
    ValueError, KeyError
        for masses that do not rise, or have no signal in the used bins; unknown parameters.

    Examples
    --------
    >>> from nuinfer.anomaly.bump import BumpLikelihood, Exponential, GaussianPeak
    >>> edges = np.linspace(0.0, 10.0, 51)
    >>> middle = 0.5 * (edges[1:] + edges[:-1])
    >>> mean = 100 * np.exp(-middle / 4) + 40 * np.exp(-0.5 * ((middle - 5) / 0.3) ** 2)
    >>> contents = np.random.default_rng(1).poisson(mean)
    >>> likelihood = BumpLikelihood.binned(contents, Exponential(1), GaussianPeak(0.3), edges=edges)
    >>> scan = scan_masses(likelihood, [3.0, 4.0, 5.0, 6.0])
    >>> scan.masses[scan.best].item(), bool(scan.z.max() > 5)
    (5.0, True)
    """
    at = checked_masses(likelihood, masses)
    if YIELD in (fixed or {}):
        raise ValueError("fixed: expected parameters other than the yield, which is what a scan fits")
    extra = spread_over("spurious", spurious, at)
    if not (extra >= 0).all():
        raise ValueError(f"spurious: expected standard deviations from 0, found {extra.min():g}")
    names = likelihood.background.names
    alone = {name: value for name, value in (fixed or {}).items() if name in names}
    background = fit_bump(likelihood, fixed=alone)
    start = {name: background.values[name] for name in names if name not in alone}
    rows, failed = [], []
    for mass, tau in zip(at.tolist(), extra.tolist(), strict=True):
        fit = fit_bump(likelihood, mass, fixed=fixed, start=start, allow_unconverged=True)
        alone_nll = background.nll if tau == 0 else _with_spurious(likelihood, mass, tau, fixed, start)
        good = fit.valid and fit.nll < alone_nll + 1e-4
        failed += [] if good else [mass]
        rows.append(_row(fit, alone_nll) if good else (math.nan, math.nan, math.nan, math.nan, 0.0))
    if failed:
        message = (f"scan: expected a fit at each mass, found none at {', '.join(f'{m:g}' for m in failed[:5])} "
                   f"({len(failed)} of {len(at)}); try coarser bins, a simpler background or fewer masses where "
                   f"contents are small, or allow_unconverged=True")  # fmt: skip
        if not allow_unconverged:
            raise NotConverged(message)
        _log.warning(message)
    yields, errors, z, nll, limit = np.array(rows).T
    signal = likelihood.need_signal()
    widths = np.array([signal.width(mass) for mass in at.tolist()])
    under = _under(background, at, widths)
    errors = np.where(errors > 0, np.hypot(errors, extra), errors)
    return BumpScan(at, widths, yields, errors, z, p_of_z(z), nll, limit > 0, under, background)


def _with_spurious(
    likelihood: BumpLikelihood, mass: float, tau: float, fixed: Mapping[str, float] | None, start: Mapping[str, float]
) -> float:  # fmt: skip
    """-log L without a signal, but a spurious one of 0 +- tau; NaN where the fit failed."""
    if YIELD in likelihood.constraints:
        raise ValueError("spurious: expected no constraint on the yield beside it")
    loose = replace(likelihood, constraints={**likelihood.constraints, YIELD: (0.0, tau)})
    fit = fit_bump(loose, mass, fixed=fixed, start=start, errors=False, allow_unconverged=True)
    return fit.nll if fit.valid else math.nan


def _row(fit: BumpFit, alone: float) -> tuple[float, float, float, float, float]:
    size = fit.values[YIELD]
    z = math.copysign(math.sqrt(2 * max(alone - fit.nll, 0.0)), size)
    return size, fit.errors[YIELD], z, fit.nll, float(YIELD in fit.at_limit)


def _under(background: BumpFit, masses: Floats, widths: Floats) -> Floats:
    """Expected background (M,) within two widths of a mass, from shares of used bins."""
    low, high = background.bins[background.used].T
    inside = np.minimum(high, (masses + 2 * widths)[:, None]) - np.maximum(low, (masses - 2 * widths)[:, None])
    return np.asarray(np.maximum(inside, 0.0) / (high - low) @ background.background[background.used])


def checked_masses(likelihood: BumpLikelihood, masses: ArrayLike) -> Floats:
    """(M,), rising, with a signal at each."""
    at = np.atleast_1d(np.asarray(masses, np.float64))
    check_finite("masses", at)
    if not at.size:
        raise ValueError("masses: expected at least one, found none; mass_grid makes them")
    if at.ndim != 1 or (np.diff(at) <= 0).any():
        raise ValueError(f"masses: expected values that rise, found {at.tolist()[:5]}; sort them")
    for mass in at.tolist():
        check_mass(likelihood, mass)
    return at


def spread_over(what: str, given: ArrayLike, masses: Floats) -> Floats:
    """One number, or one for each mass, as (M,)."""
    found = np.asarray(given, np.float64)
    if found.shape not in ((), masses.shape):
        raise ValueError(f"{what}: expected one number, or {len(masses)}, one for each mass, found shape {found.shape}")
    check_finite(what, np.atleast_1d(found))
    return np.broadcast_to(found, masses.shape).copy()


def mass_grid(signal: SignalShape, low: float, high: float, *, step: float = 0.5) -> Floats:
    """Masses from low to at most high, each ``step`` widths of the signal above the one before.

    Raises
    ------
    ValueError
        unless 0 < low < high, and the step is positive.

    >>> from nuinfer.anomaly.bump import GaussianPeak
    >>> mass_grid(GaussianPeak(relative_sigma=0.1), 100.0, 120.0).round(2).tolist()
    [100.0, 105.0, 110.25, 115.76]
    """
    if not (0 < low < high and 0 < step < math.inf):
        raise ValueError(f"mass_grid: expected 0 < low < high and a positive step, found {low:g}, {high:g}, {step:g}")
    found = [float(low)]
    while found[-1] <= high:
        found.append(found[-1] + step * signal.width(found[-1]))
    return np.array(found[:-1])


def is_coarse(masses: Floats, widths: Floats) -> bool:
    """Whether peaks could hide between masses."""
    return bool((np.diff(masses) > (_FINE + 1e-9) * np.minimum(widths[1:], widths[:-1]) + 1e-12).any())


# -- toys --------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, eq=False)
class ToyScans(Record):
    """Scans of T toys without a signal.

    Attributes
    ----------
    masses, widths:
        (M,).
    z:
        (T, M), the local r_0, where the yield is negative 0 unless ``signed``; infinite where no fit succeeded, so that
        a toy that failed counts as one with a signal.
    signed:
        Whether fits with a negative yield were done.
    failed:
        (K, 2), the toys and masses without a fit.
    refitted:
        How many fits iminuit has done.
    seed:
        Of the toys.
    """

    _KIND = "bump toy scans"

    masses: Floats
    widths: Floats
    z: Floats
    signed: bool
    failed: Ints
    refitted: int
    seed: int

    @property
    def largest(self) -> Floats:
        """The greatest significance (T,) of each toy."""
        return np.asarray(self.z.max(1))

    def __repr__(self) -> str:
        kind = "signed" if self.signed else "one-sided"
        return (f"ToyScans({self.z.shape[0]} toys, {self.z.shape[1]} masses, {kind}; median of the greatest Z "
                f"{np.median(self.largest):.2f}, {len(self.failed)} fits failed)")  # fmt: skip


def scan_toys(
    likelihood: BumpLikelihood,
    masses: ArrayLike,
    *,
    toys: int | ArrayLike,
    seed: int = 0,
    values: Mapping[str, float] | None = None,
    signed: bool = False,
) -> ToyScans:
    """Scan toys of the background: a second for a thousand toys of dozens of masses.

    Parameters
    ----------
    likelihood:
        In bins.
    masses:
        (M,), those of the scan.
    toys:
        Their number, or their contents (T, B): those with systematic variations, or of another model.
    seed:
        Of the toys that are drawn here.
    values:
        The background's parameters to draw from; None: those of the fit to the data.  (That fit describes the data with
        a signal also, if there is one, but not where a peak of theirs is.)
    signed:
        Fit negative yields also.  They take their time where bins are empty; global p-values do not need them.

    Returns
    -------
    ToyScans

    Raises
    ------
    ValueError, KeyError, NotConverged
        as `fit_toys` and `fit_bump`.
    """
    at = checked_masses(likelihood, masses)
    given = np.asarray(toys)
    if given.ndim:
        counts = np.asarray(given, np.float64)
    else:
        counts = _drawn(likelihood, int(given), seed, values)
    used = checked_counts(likelihood, counts)
    z, failed = _scanned(likelihood, at, used, signed)
    refitted = 0
    for toy, k in np.argwhere(failed).tolist():
        again = _by_iminuit(likelihood.with_counts(counts[toy]), float(at[k]), signed)
        refitted += again is not None
        failed[toy, k], z[toy, k] = again is None, math.inf if again is None else again
    if failed.any():
        _log.warning("%d of %d fits of toys failed; their toys count as having a signal", failed.sum(), failed.size)
    widths = np.array([likelihood.need_signal().width(mass) for mass in at.tolist()])
    return ToyScans(at, widths, z, signed, np.argwhere(failed), refitted, seed)


def _drawn(likelihood: BumpLikelihood, toys: int, seed: int, values: Mapping[str, float] | None) -> Floats:
    if toys < 1:
        raise ValueError(f"toys: expected at least 1, found {toys}")
    if likelihood.points is not None:
        checked_counts(likelihood, np.zeros((1, 1)))  # says what to do
    return likelihood.sample(values or fit_bump(likelihood, errors=False).values, toys, seed=seed)


def _scanned(likelihood: BumpLikelihood, masses: Floats, counts: Floats, signed: bool) -> tuple[Floats, Bools]:
    """r_0 (T, M) and where a fit failed (T, M)."""
    mean = counts.mean(0)
    alone = batch_for(likelihood, mean, None, {})
    inner = len(alone.free)
    batches = [batch_for(likelihood, mean, mass, {}) for mass in masses.tolist()]
    z, failed = np.zeros((len(counts), len(masses))), np.zeros((len(counts), len(masses)), bool)
    for first in range(0, len(counts), _CHUNK):
        rows = slice(first, min(first + _CHUNK, len(counts)))
        n = counts[rows]
        base = solve(alone, n)
        b, _ = alone.rates.contents(base.u)
        for k, batch in enumerate(batches):
            z[rows, k], failed[rows, k] = _roots(batch, n, base.u, base.nll, b, inner, signed)
        failed[rows] |= ~base.converged[:, None]
    return z, failed


def _roots(
    batch: FitBatch, counts: Floats, u: Floats, alone: Floats, b: Floats, inner: int, signed: bool
) -> tuple[Floats, Bools]:  # fmt: skip
    """r_0 (T,) at one mass, from the background's fits."""
    # the yield has the sign of the derivative of log L by it, at none
    rises = ((counts / b - 1) * batch.scale) @ batch.template > 0
    rows = np.arange(len(counts)) if signed else np.flatnonzero(rises)
    z, failed = np.zeros(len(counts)), np.zeros(len(counts), bool)
    if not len(rows):
        return z, failed
    start = np.zeros((len(rows), len(batch.free)))
    start[:, :inner] = u[rows]
    found = solve(batch, counts[rows], start)
    size = batch.values(found.u)[:, inner]
    root = np.sqrt(2 * np.maximum(alone[rows] - found.nll, 0.0))
    z[rows] = np.copysign(root, size) if signed else np.where(size > 0, root, 0.0)
    failed[rows] = ~found.converged | (found.nll > alone[rows] + 1e-5)
    return z, failed


def _by_iminuit(likelihood: BumpLikelihood, mass: float, signed: bool) -> float | None:
    try:
        alone, both = fit_bump(likelihood, errors=False), fit_bump(likelihood, mass, errors=False)
    except NotConverged:
        return None
    if both.nll > alone.nll + 1e-5:
        return None
    z = _row(both, alone.nll)[2]
    return z if signed else max(z, 0.0)
