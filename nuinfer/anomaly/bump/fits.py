"""Fits of one spectrum: the background alone, or with a signal at a mass, by iminuit with gradients in closed form.

Newton steps in bins (`nuinfer.anomaly.bump.newton`) find the minimum from robust starting values; MIGRAD, in
coordinates in which the information is about the unit matrix, confirms it (and finds that of events without bins);
HESSE gives the covariance.  A fit that ends at a limit, or where the density reaches 0, says so in ``at_limit``.

`nuinfer.likelihood` and `nuinfer.intervals.fit` do the same for any differentiable model; they need torch, whose import
takes longer than all the fits of a scan.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from iminuit import Minuit
from numpy.typing import NDArray
from scipy import stats

from ...errors import NotConverged, closest
from ...records import Record
from .likelihoods import YIELD, BumpLikelihood
from .newton import BARRIER, Engine, FitBatch, solve
from .points import PointBatch

__all__ = ["BumpFit", "fit_bump", "yield_covariance"]

Floats = NDArray[np.float64]
_log = logging.getLogger("nuinfer")

_EDM = 1e-6  # of -log L; Newton's start is far better
_DENSITY = "density"
_OUTSIDE = 1e15  # for -log L where a bin's expectation is not positive


@dataclass(frozen=True, eq=False)
class BumpFit(Record):
    """A fitted spectrum.

    Attributes
    ----------
    names:
        (P,), the parameters.
    values, errors:
        By name; the error is 0 for one that is fixed or at a limit.
    covariance:
        (P, P), of HESSE (observed information); 0 for fixed parameters; NaN where no errors were asked for.
    mass:
        Of the signal, NaN for the background alone.
    nll, edm:
        -log L (in bins relative to the saturated model) and the estimated distance to its minimum.
    fixed:
        The parameters that were held.
    at_limit:
        The parameters at a limit; ``"yield"``, or ``"density"`` without a signal, where the density reaches 0.
    valid:
        False only where that was allowed.
    bins, counts, used:
        (B, 2), (B,), (B,) as in the likelihood, excluded regions included.
    background, signal, band:
        Expected contents (B,), and the standard deviation (B,) of their sum from the covariance.
    scale:
        (B,), effective events per event.
    chi2, ndf:
        Of the saturated likelihood in used bins with its constraints, and bins less free parameters without constraint.
    """

    _KIND = "bump fit"

    names: tuple[str, ...]
    values: dict[str, float]
    errors: dict[str, float]
    covariance: Floats
    mass: float
    nll: float
    edm: float
    fixed: tuple[str, ...]
    at_limit: tuple[str, ...]
    valid: bool
    bins: Floats
    counts: Floats
    used: NDArray[np.bool_]
    background: Floats
    signal: Floats
    band: Floats
    scale: Floats
    chi2: float
    ndf: int

    @property
    def expected(self) -> Floats:
        """Background and signal (B,)."""
        return self.background + self.signal

    @property
    def p(self) -> float:
        """Of chi2 with ndf degrees, for contents of ten and more; `fit_goodness` has it by toys.  NaN for ndf < 1."""
        return float(stats.chi2.sf(self.chi2, self.ndf)) if self.ndf > 0 else math.nan

    @property
    def pulls(self) -> Floats:
        """Signed roots (B,) of the bins' terms of chi2, from data to expectation; NaN in excluded bins."""
        terms = np.sqrt(2 * self.scale * _deviance(self.expected, self.counts))
        signed = np.sign(self.counts - self.expected) * terms
        return np.where(self.used, signed, np.nan)

    @property
    def has_signal(self) -> bool:
        """Whether there is a mass."""
        return not math.isnan(self.mass)

    def __repr__(self) -> str:
        state = "" if self.valid else "NOT CONVERGED; "
        where = f"mass {self.mass:g}" if self.has_signal else "background alone"
        rows = [f"  {name:<{max(map(len, self.names))}}  {self._row(name)}" for name in self.names]
        near = f"; {', '.join(self.at_limit)} at a limit" if self.at_limit else ""
        head = f"BumpFit({state}{where}: -log L = {self.nll:.6g}, chi2 / ndf = {self.chi2:.4g} / {self.ndf}{near})"
        return "\n".join([head, *rows])

    def _row(self, name: str) -> str:
        if name in self.fixed:
            return f"{self.values[name]:>12.6g}  fixed"
        return f"{self.values[name]:>12.6g} +- {self.errors[name]:.3g}"


def fit_bump(
    likelihood: BumpLikelihood,
    mass: float | None = None,
    *,
    fixed: Mapping[str, float] | None = None,
    start: Mapping[str, float] | None = None,
    errors: bool = True,
    allow_unconverged: bool = False,
) -> BumpFit:
    """Fit a background, or a background with a signal at a mass.

    Parameters
    ----------
    likelihood:
        In bins or of events.
    mass:
        Of the signal; None for the background alone.
    fixed:
        Parameters to hold, such as ``{"yield": 30.0}``.  (`profile_yield` is for many yields at once.)
    start:
        Values to start from, of some of the background's parameters: only where the default fails.
    errors:
        False leaves out HESSE: faster, and without covariance.
    allow_unconverged:
        Log a warning, and return what was reached, with ``valid`` False.

    Returns
    -------
    BumpFit

    Raises
    ------
    NotConverged
        with what to try.
    KeyError, ValueError
        for unknown parameters, a mass without a signal shape, or at which the signal has nothing in the used bins.

    Examples
    --------
    >>> from nuinfer.anomaly.bump import BumpLikelihood, Exponential, GaussianPeak
    >>> edges = np.linspace(0.0, 10.0, 51)
    >>> middle = 0.5 * (edges[1:] + edges[:-1])
    >>> mean = 100 * np.exp(-middle / 4) + 25 * np.exp(-0.5 * ((middle - 5) / 0.3) ** 2)
    >>> contents = np.random.default_rng(1).poisson(mean)
    >>> fit = fit_bump(BumpLikelihood.binned(contents, Exponential(1), GaussianPeak(0.3), edges=edges), 5.0)
    >>> fit.at_limit, bool(abs(fit.values["yield"] - 25 * 0.3 * 2.5066 / 0.2) < 2 * fit.errors["yield"])
    ((), True)
    """
    problem = _Objective(likelihood, mass, _checked(likelihood, mass, fixed, start), dict(start or {}))
    found = problem.minimum(errors)
    if not found.valid:
        message = problem.complaint(found)
        if not allow_unconverged:
            raise NotConverged(message)
        _log.warning(message)
    return problem.result(found)


def _checked(
    likelihood: BumpLikelihood, mass: float | None, fixed: Mapping[str, float] | None, start: Mapping[str, float] | None
) -> dict[str, float]:  # fmt: skip
    """What is held, by the user and by the likelihood."""
    names = likelihood.background.names if mass is None else likelihood.names
    for what, given in (("fixed", fixed or {}), ("start", start or {})):
        for name, value in given.items():
            if name not in names:
                raise KeyError(f"{what}: no parameter {name!r}; {closest(name, names)}")
            if not math.isfinite(value):
                raise ValueError(f"{what}: expected a finite value of {name!r}, found {value}")
    if mass is not None:
        check_mass(likelihood, mass)
    own = {} if mass is None else likelihood.held()
    return {**own, **{name: float(value) for name, value in (fixed or {}).items()}}


def check_mass(likelihood: BumpLikelihood, mass: float) -> None:
    """Raise ``ValueError`` where a signal at this mass has less than a thousandth in the used bins."""
    signal = likelihood.need_signal()
    if not (math.isfinite(mass) and mass > 0):
        raise ValueError(f"mass: expected a positive one, found {mass}")
    seen = float(signal.fractions(likelihood.bins[likelihood.used], mass, signal.start).sum())
    if not seen > 1e-3:
        raise ValueError(f"mass: expected a signal inside of the fit, found a fraction of {seen:.1g} of that at "
                         f"{mass:g} in the used bins from {likelihood.bins[0, 0]:g} to {likelihood.bins[-1, 1]:g}; "
                         f"leave out masses in excluded regions")  # fmt: skip


# -- the function that iminuit minimises -------------------------------------------------------------------------------


@dataclass(frozen=True, eq=False)
class _Found:
    u: Floats
    nll: float
    edm: float
    covariance: Floats  # of u
    valid: bool
    boundary: bool


class _Objective:
    """-log L and its gradient, in the coordinates u of a `FitBatch`."""

    def __init__(
        self, likelihood: BumpLikelihood, mass: float | None, held: dict[str, float], start: dict[str, float]
    ) -> None:  # fmt: skip
        self.likelihood, self.mass = likelihood, mass
        binned = likelihood.in_bins()
        counts = binned.counts[likelihood.used]
        reference = reference_of(binned, counts, start)
        if not start:
            alone = {n: v for n, v in held.items() if n in likelihood.background.names}
            reference = improved(binned, counts, reference, alone)
        self.batch = FitBatch(binned, mass, held, reference)
        self._engine: Engine = self.batch if likelihood.points is None else PointBatch(likelihood, self.batch)
        self._data = counts[None]
        self._kept: tuple[bytes, float, Floats] | None = None

    def _both(self, u: Floats) -> tuple[float, Floats]:
        key = u.tobytes()
        if self._kept is None or self._kept[0] != key:
            value, slope, _ = self._engine.evaluate(u[None], self._data, None, 0.0, second=False)
            inside = bool(np.isfinite(value[0]))
            self._kept = key, float(value[0]) if inside else _OUTSIDE, slope[0] if inside else 0.0 * u
        return self._kept[1], self._kept[2]

    # -- the minimum

    def minimum(self, errors: bool) -> _Found:
        """Newton's, then MIGRAD's, and HESSE."""
        start = solve(self.batch, self._data)
        if self._engine is not self.batch:
            start = solve(self._engine, self._data, np.where(start.boundary[:, None], 0.0, start.u))
        u, edm, converged = start.u[0], float(start.edm[0]), bool(start.converged[0])
        if start.boundary[0] or not len(u):
            return self._by_newton(u, edm, converged, bool(start.boundary[0]))
        scale = self._local_scale(u)
        minuit = self._migrad(u, scale)
        if errors and minuit.valid:
            minuit.hesse()
        # a parameter without effect has no minimum, whatever the gradient says
        moves = bool((np.diag(self._hessian(u))[: self.batch.inner] > 1e-8).all())
        good = moves and bool(minuit.valid) and (not errors or minuit.covariance is not None)
        if not good and moves and converged and self._both(u)[0] < minuit.fval + 1e-6 and self._is_bowl(u):
            # next to the domain's boundary MIGRAD's differences reach across it
            return self._by_newton(u, edm, True, False)
        covariance = np.full((len(u), len(u)), np.nan)
        if errors and good:
            covariance = scale @ np.array(minuit.covariance) @ scale.T
        return _Found(
            u + scale @ np.array(minuit.values), float(minuit.fval), float(minuit.fmin.edm), covariance, good, False
        )

    def _is_bowl(self, u: Floats) -> bool:
        """Whether the Hessian at u is that of a minimum, all of whose directions the data know."""
        hessian = self._hessian(u)
        root = np.sqrt(np.diag(hessian))
        return bool((root > 0).all() and np.linalg.eigvalsh(hessian / np.outer(root, root))[0] > 1e-6)

    def _local_scale(self, u: Floats) -> Floats:
        """M with M^T H M = 1 at u, diagonal where a parameter has limits."""
        hessian = self._hessian(u)
        low, high = self.batch.box
        inside = np.isinf(low) & np.isinf(high)
        scale = np.diag(np.maximum(np.diag(hessian), 1e-10) ** -0.5)
        size, vectors = np.linalg.eigh(hessian[np.ix_(inside, inside)])
        scale[np.ix_(inside, inside)] = vectors / np.sqrt(np.maximum(size, 1e-10))
        return scale

    def _hessian(self, u: Floats) -> Floats:
        *_, hessian = self._engine.evaluate(u[None], self._data, None, BARRIER)
        return np.asarray(hessian[0])

    def _migrad(self, u: Floats, scale: Floats) -> Minuit:
        """MIGRAD in v, u = start + scale v."""

        def value(v: Floats) -> float:
            return self._both(u + scale @ np.array(v))[0]

        def slope(v: Floats) -> Floats:
            return np.asarray(self._both(u + scale @ np.array(v))[1] @ scale)

        minuit = Minuit(value, np.zeros(len(u)), grad=slope)
        minuit.errordef, minuit.tol, minuit.print_level = Minuit.LIKELIHOOD, _EDM / 0.001, 0
        low, high = (np.where(np.isinf(edge), edge, (edge - u) / np.abs(np.diag(scale))) for edge in self.batch.box)
        minuit.limits = list(zip(low.tolist(), high.tolist(), strict=True))
        minuit.errors, minuit.strategy = np.ones(len(u)), 0  # the scale is right, and HESSE follows
        minuit.migrad(ncall=2000)
        if not minuit.valid:
            minuit.strategy = 2
            minuit.simplex().migrad(ncall=10000)
        return minuit

    def _by_newton(self, u: Floats, edm: float, valid: bool, boundary: bool) -> _Found:
        """What Newton found, with the barrier where it is at the boundary: MIGRAD knows no limits of this kind."""
        covariance = np.linalg.pinv(self._hessian(u), rcond=1e-12) if len(u) else np.zeros((0, 0))
        return _Found(u, self._both(u)[0], edm, np.asarray(covariance, np.float64), valid, boundary)

    def complaint(self, found: _Found) -> str:
        """What to say of a fit that failed."""
        where = "of the background" if self.mass is None else f"at mass {self.mass:g}"
        at = ", ".join(f"{name} = {value:.4g}" for name, value in self.batch.named(found.u).items())
        return (f"the fit {where} did not converge: edm {found.edm:.2g} at {at}; try fewer parameters, coarser bins or "
                f"a narrower range where contents are small, or start= near the answer")  # fmt: skip

    def result(self, found: _Found) -> BumpFit:
        """The record."""
        full, batch = self.batch.named(found.u), self.batch
        limits = self._at_limits(found)
        small = batch.L @ found.covariance @ batch.L.T
        place = [batch.names.index(name) for name in batch.free]
        held = [k for k, name in enumerate(batch.free) if name in limits and not found.boundary]
        small[held] = small[:, held] = 0.0
        covariance = np.zeros((len(batch.names), len(batch.names)))
        covariance[np.ix_(place, place)] = small
        errors = dict(zip(batch.names, np.sqrt(np.maximum(np.diag(covariance), 0.0)).tolist(), strict=True))
        theta, size, phi = self.batch.split(found.u)
        of = self.likelihood
        background = of.background.integrals(of.bins, theta, of.order)
        signal = np.zeros(len(of.bins)) if self.mass is None else (
            size * of.need_signal().fractions(of.bins, self.mass, phi))  # fmt: skip
        chi2, ndf = self._goodness(full, background + signal)
        return BumpFit(
            batch.names, full, errors, covariance, math.nan if self.mass is None else float(self.mass), found.nll,
            found.edm, tuple(n for n in batch.names if n not in batch.free), limits, found.valid, of.bins, of.counts,
            of.used, background, signal, self._band(theta, size, phi, covariance), of.scale, chi2, ndf,
        )  # fmt: skip

    def _at_limits(self, found: _Found) -> tuple[str, ...]:
        low, high = self.batch.box
        near = (found.u - low < 1e-4) | (high - found.u < 1e-4)
        names = tuple(name for name, hit in zip(self.batch.free, near, strict=True) if hit)
        if not found.boundary:
            return names
        return (*names, _DENSITY if self.mass is None or YIELD not in self.batch.free else YIELD)

    def _goodness(self, full: dict[str, float], expected: Floats) -> tuple[float, int]:
        of, used = self.likelihood, self.likelihood.used
        pulls = [(full[n] - c) / s for n, (c, s) in of.constraints.items() if n in self.batch.free]
        counted = [name for name in self.batch.free if name not in of.constraints]
        terms = (of.scale * _deviance(expected, of.counts))[used].sum()
        return float(2 * terms + np.sum(np.square(pulls))), int(used.sum()) - len(counted)

    def _band(self, theta: Floats, size: float, phi: Floats, covariance: Floats) -> Floats:
        of = self.likelihood
        slopes = of.background.integral_slopes(of.bins, theta, of.order)
        if self.mass is not None:
            signal = of.need_signal()
            s = signal.fractions(of.bins, self.mass, phi)[:, None]
            ds = signal.fraction_slopes(of.bins, self.mass, phi) if len(phi) else np.zeros((len(of.bins), 0))
            slopes = np.concatenate([slopes, s, size * ds], 1)
        return np.asarray(np.sqrt(np.maximum(((slopes @ covariance) * slopes).sum(1), 0.0)))


def _deviance(mu: Floats, n: Floats) -> Floats:
    """mu - n + n ln(n / mu) of bins (B,), mu > 0."""
    seen = n > 0
    d = np.where(seen, (mu - n) / np.where(seen, n, 1.0), 0.0)
    return np.asarray(np.maximum(np.where(seen, n * (d - np.log1p(np.maximum(d, -1 + 1e-15))), mu), 0.0))


# -- where to start ----------------------------------------------------------------------------------------------------


def reference_of(likelihood: BumpLikelihood, counts: Floats, start: Mapping[str, float] | None = None) -> Floats:
    """The background's parameters (P,) to start from, for contents of the used bins."""
    theta = likelihood.background.start(likelihood.bins[likelihood.used], counts)
    for k, name in enumerate(likelihood.background.names):
        theta[k] = (start or {}).get(name, theta[k])
        low, high = likelihood.limit(name)
        theta[k] = min(max(theta[k], low), high)
    return theta


def improved(likelihood: BumpLikelihood, counts: Floats, theta: Floats, held: Mapping[str, float]) -> Floats:
    """The background's fit by Newton steps, or the start where they do not get anywhere."""
    batch = FitBatch(likelihood, None, held, theta)
    found = solve(batch, counts[None])
    if not np.isfinite(found.nll[0]):
        return theta
    values = dict(zip(batch.free, batch.values(found.u)[0].tolist(), strict=True))
    return np.array([values.get(name, held.get(name, t)) for name, t in
                     zip(likelihood.background.names, theta, strict=True)])  # fmt: skip


def yield_covariance(likelihood: BumpLikelihood, masses: Floats, values: Mapping[str, float]) -> Floats:
    r"""Covariance (M, M) of the fitted yields at different masses, expected without a signal.

    With the signal's fractions s made orthogonal to the background's derivatives B in the metric of the information,
    :math:`A_{mk} = s_m^T W s_k - s_m^T W B (B^T W B + K)^{-1} B^T W s_k`, it is :math:`A_{mk} / A_{mm} A_{kk}`.
    """
    used = likelihood.used
    bins, scale = likelihood.bins[used], likelihood.scale[used]
    theta = np.array([values[name] for name in likelihood.background.names])
    signal = likelihood.need_signal()
    s = np.stack([signal.fractions(bins, float(m), signal.start) for m in masses])
    weight = scale / likelihood.background.integrals(bins, theta, likelihood.order)
    slopes = likelihood.background.integral_slopes(bins, theta, likelihood.order)
    known = [likelihood.constraints.get(name, (0.0, np.inf))[1] ** -2 for name in likelihood.background.names]
    inner = slopes.T @ (weight[:, None] * slopes) + np.diag(known)
    unit = np.sqrt(np.maximum(np.diag(inner), 1e-300))
    cross = (s * weight) @ (slopes / unit)
    left = (s * weight) @ s.T - cross @ np.linalg.pinv(inner / np.outer(unit, unit), rcond=1e-13) @ cross.T
    size = np.diag(left)
    return np.asarray(left / np.outer(size, size))
