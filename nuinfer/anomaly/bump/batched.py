"""Fits of many toys of one model: 20,000 of them take seconds, and end where iminuit ends.

`fit_toys` fits contents (T, B), `profile_yield` one spectrum at many yields, `fit_goodness` gives the p-value of a
fit's chi2 from toys.  The method is `nuinfer.anomaly.bump.newton`'s; what it does not finish goes to iminuit, and what
that does not finish is named.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import ArrayLike, NDArray

from ...errors import NotConverged, check_finite
from ...records import Record
from .fits import BumpFit, check_mass, fit_bump, improved, reference_of
from .likelihoods import YIELD, BumpLikelihood
from .newton import FitBatch, Solved, solve

__all__ = ["FitGoodness", "ToyFits", "fit_goodness", "fit_toys", "profile_yield"]

Floats = NDArray[np.float64]
Bools = NDArray[np.bool_]
Ints = NDArray[np.int64]

_log = logging.getLogger("nuinfer")
_CHUNK = 1024  # toys at a time: their arrays stay in the cache


@dataclass(frozen=True, eq=False)
class ToyFits(Record):
    """Fits of T toys.

    Attributes
    ----------
    names:
        (P,), the parameters.
    values, errors:
        (T, P), the errors from the Hessian at the minimum; 0 for a fixed parameter or one at a limit.
    nll:
        (T,), -log L relative to the saturated model.
    edm:
        (T,), the estimated distance of -log L to its minimum.
    converged, at_limit:
        (T,); a fit at a limit (or with a density that reaches 0) is one that converged.
    refitted:
        The toys that iminuit has fitted.
    """

    _KIND = "bump toy fits"

    names: tuple[str, ...]
    values: Floats
    errors: Floats
    nll: Floats
    edm: Floats
    converged: Bools
    at_limit: Bools
    refitted: Ints

    def value(self, name: str) -> Floats:
        """One parameter (T,)."""
        return np.asarray(self.values[:, self.names.index(name)])

    def error(self, name: str) -> Floats:
        """Its error (T,)."""
        return np.asarray(self.errors[:, self.names.index(name)])

    @property
    def failed(self) -> Ints:
        """The toys that nobody fitted."""
        return np.flatnonzero(~self.converged)

    def __repr__(self) -> str:
        return (f"ToyFits({len(self.nll)} toys of {len(self.names)} parameters; {self.at_limit.sum()} at a limit, "
                f"{len(self.refitted)} by iminuit, {len(self.failed)} failed)")  # fmt: skip


def fit_toys(
    likelihood: BumpLikelihood,
    counts: ArrayLike,
    mass: float | None = None,
    *,
    fixed: Mapping[str, ArrayLike] | None = None,
    errors: bool = True,
    refit: bool = True,
) -> ToyFits:
    """Fit the background, or background and signal, to many contents.

    Parameters
    ----------
    likelihood:
        In bins; its own contents are not used.
    counts:
        (T, B), of all bins of the likelihood, as `BumpLikelihood.sample` gives them.
    mass:
        Of the signal; None for the background alone.
    fixed:
        Parameters to hold; the yield may have a value for each toy (T,).
    errors:
        Whether errors are wanted.
    refit:
        Whether iminuit fits what Newton steps do not finish.

    Returns
    -------
    ToyFits

    Raises
    ------
    ValueError, KeyError
        for events without bins, contents of another shape, negative or not finite, or of nothing; unknown parameters.

    Examples
    --------
    >>> from nuinfer.anomaly.bump import BumpLikelihood, Exponential, GaussianPeak, fit_bump
    >>> edges = np.linspace(0.0, 10.0, 51)
    >>> contents = np.random.default_rng(1).poisson(100 * np.exp(-edges[1:] / 4))
    >>> likelihood = BumpLikelihood.binned(contents, Exponential(1), GaussianPeak(0.3), edges=edges)
    >>> toys = likelihood.sample(fit_bump(likelihood).values, 500, seed=2)
    >>> found = fit_toys(likelihood, toys, 5.0)
    >>> bool(abs(np.mean(found.value("yield") / found.error("yield"))) < 4 / 500**0.5)
    True
    """
    given = checked_counts(likelihood, counts)
    if mass is not None:
        check_mass(likelihood, mass)
    held, yields = _split(likelihood, mass, fixed or {}, len(given))
    batch = batch_for(likelihood, given.mean(0), mass, {**held, **({} if yields is None else {YIELD: 0.0})})
    solved = in_chunks(batch, given, None, yields)
    found = _result(batch, given, solved, yields, errors)
    return _refitted(likelihood, counts, mass, found, held, yields) if refit and len(found.failed) else found


def checked_counts(likelihood: BumpLikelihood, counts: ArrayLike) -> Floats:
    """Contents (T, B) of the used bins."""
    if likelihood.points is not None:
        raise ValueError("likelihood: expected one in bins, found events without; take likelihood.in_bins(edges) with "
                         "bins much narrower than the signal")  # fmt: skip
    found = np.asarray(counts, np.float64)
    if found.ndim != 2 or found.shape[1] != len(likelihood.bins) or not len(found):
        raise ValueError(f"counts: expected (toys, {len(likelihood.bins)}), found shape {found.shape}")
    check_finite("counts", found)
    if (found < 0).any():
        raise ValueError(f"counts: expected contents from 0, found {found.min():g}")
    used = np.ascontiguousarray(found[:, likelihood.used])
    empty = np.flatnonzero(~(used.sum(1) > 0))
    if len(empty):
        raise ValueError(f"counts: expected events in the used bins, found none in {len(empty)} toys, first {empty[0]}")
    return used


def _split(
    likelihood: BumpLikelihood, mass: float | None, fixed: Mapping[str, ArrayLike], toys: int
) -> tuple[dict[str, float], Floats | None]:
    """Fixed numbers, and fixed yields (T,)."""
    names = likelihood.background.names if mass is None else likelihood.names
    held: dict[str, float] = {}
    yields: Floats | None = None
    for name, value in fixed.items():
        if name not in names:
            raise KeyError(f"fixed: no parameter {name!r}; known: {', '.join(names)}")
        array = np.asarray(value, np.float64)
        check_finite(f"fixed {name!r}", np.atleast_1d(array))
        if name == YIELD:
            if array.shape not in ((), (toys,)):
                raise ValueError(f"fixed: expected one yield or ({toys},), found shape {array.shape}")
            yields = np.broadcast_to(array, (toys,)).copy()
        elif array.shape != ():
            raise ValueError(f"fixed: expected one value of {name!r}, found shape {array.shape}")
        else:
            held[name] = float(array)
    return held, yields


def batch_for(
    likelihood: BumpLikelihood, mean: Floats, mass: float | None, held: Mapping[str, float]
) -> FitBatch:  # fmt: skip
    """The batch around a background that fits mean contents (B,) of the used bins."""
    alone = {name: value for name, value in held.items() if name in likelihood.background.names}
    reference = improved(likelihood, mean, reference_of(likelihood, mean), alone)
    return FitBatch(likelihood, mass, held, reference)


def in_chunks(batch: FitBatch, counts: Floats, start: Floats | None, yields: Floats | None) -> Solved:
    """`solve` of a thousand toys at a time."""
    parts = []
    for first in range(0, len(counts), _CHUNK):
        rows = slice(first, first + _CHUNK)
        parts.append(solve(batch, counts[rows], None if start is None else start[rows],
                           None if yields is None else yields[rows]))  # fmt: skip
    names = ("u", "nll", "edm", "converged", "boundary")
    return Solved(*(np.concatenate([getattr(part, name) for part in parts]) for name in names))


def _result(batch: FitBatch, counts: Floats, solved: Solved, yields: Floats | None, errors: bool) -> ToyFits:
    toys = len(counts)
    values, spread = np.empty((toys, len(batch.names))), np.zeros((toys, len(batch.names)))
    place = [batch.names.index(name) for name in batch.free]
    for name, value in batch.fixed.items():
        values[:, batch.names.index(name)] = value
    if yields is not None:
        values[:, batch.names.index(YIELD)] = yields
    values[:, place] = batch.values(solved.u)
    low, high = batch.box
    at_limit = (solved.u <= low) | (solved.u >= high)
    spread[:, place] = _errors(batch, counts, solved, yields, at_limit) if errors else np.nan
    limited = at_limit.any(1) | solved.boundary
    nothing = np.empty(0, np.int64)
    return ToyFits(batch.names, values, spread, solved.nll, solved.edm, solved.converged, limited, nothing)


def _errors(batch: FitBatch, counts: Floats, solved: Solved, yields: Floats | None, held: Bools) -> Floats:
    """(T, F), from the inverse Hessian, in which parameters at a limit are held."""
    found = np.empty_like(solved.u)
    unit = np.eye(solved.u.shape[1])
    for first in range(0, len(counts), _CHUNK):
        rows = slice(first, first + _CHUNK)
        *_, hessian = batch.evaluate(solved.u[rows], counts[rows], None if yields is None else yields[rows], 0.0)
        free = ~held[rows]
        hessian = np.where(free[:, :, None] & free[:, None, :], hessian, unit) + 1e-13 * unit
        covariance = batch.L @ np.linalg.inv(hessian) @ batch.L.T
        found[rows] = np.where(free, np.sqrt(np.maximum(np.einsum("tii->ti", covariance), 0.0)), 0.0)
    return found


def _refitted(
    likelihood: BumpLikelihood, counts: ArrayLike, mass: float | None, found: ToyFits, held: dict[str, float],
    yields: Floats | None,
) -> ToyFits:  # fmt: skip
    """With iminuit's fits of those that failed."""
    every, done = np.asarray(counts, np.float64), []
    for toy in found.failed.tolist():
        fixed = held if yields is None else {**held, YIELD: float(yields[toy])}
        try:
            fit = fit_bump(likelihood.with_counts(every[toy]), mass, fixed=fixed)
        except NotConverged:
            continue
        done.append(toy)
        found.values[toy] = [fit.values[name] for name in found.names]
        found.errors[toy] = [fit.errors[name] for name in found.names]
        found.nll[toy], found.edm[toy] = fit.nll, fit.edm
        found.converged[toy], found.at_limit[toy] = True, bool(fit.at_limit)
    left = len(found.failed)
    if left:
        _log.warning("%d of %d toys have no fit, first toy %d", left, len(every), found.failed[0])
    return replace(found, refitted=np.array(done, np.int64))


def profile_yield(likelihood: BumpLikelihood, mass: float, yields: ArrayLike) -> Floats:
    """-log L (Y,) of the data at fixed yields (Y,), everything else fitted: all at once.

    Raises
    ------
    NotConverged
        naming the yields, as those that would need a negative density.
    ValueError, KeyError
        as `fit_toys`.
    """
    at = np.atleast_1d(np.asarray(yields, np.float64))
    found = fit_toys(likelihood, np.repeat(likelihood.counts[None], len(at), 0), mass, fixed={YIELD: at}, errors=False)
    if len(found.failed):
        shown = ", ".join(f"{v:g}" for v in at[found.failed][:4])
        raise NotConverged(f"the fits at mass {mass:g} with yields {shown} did not converge; is the density negative "
                           f"there? Try yields nearer to the best one")  # fmt: skip
    return found.nll


@dataclass(frozen=True, eq=False)
class FitGoodness(Record):
    """The goodness of a fit from toys of it.

    Attributes
    ----------
    chi2:
        Of the data.
    toys:
        (T,), chi2 of toys drawn from the fit and fitted again.
    p, error:
        The fraction of toys with at least this chi2, counting the data as one: (k + 1) / (T + 1), and its error.
    """

    _KIND = "bump fit goodness"

    chi2: float
    toys: Floats
    p: float
    error: float

    def __repr__(self) -> str:
        return f"FitGoodness(chi2 = {self.chi2:.5g}, p = {self.p:.3g} +- {self.error:.2g} of {len(self.toys)} toys)"


def fit_goodness(likelihood: BumpLikelihood, fit: BumpFit, *, toys: int = 1000, seed: int) -> FitGoodness:
    """The p-value of a fit's chi2 from toys, valid for small contents also; of events without bins, in their bins.

    Toys whose fits fail count as worse than the data.

    Raises
    ------
    ValueError
        for no toys, or a fit of other bins.
    """
    if toys < 1:
        raise ValueError(f"toys: expected at least 1, found {toys}")
    binned = likelihood.in_bins()
    if fit.counts.shape != binned.counts.shape:
        raise ValueError(f"fit: expected one of the likelihood's {len(binned.counts)} bins, found {len(fit.counts)}")
    mass = fit.mass if fit.has_signal else None
    drawn = binned.sample(fit.values, toys, seed=seed, mass=mass)
    fixed = {name: fit.values[name] for name in fit.fixed if not (fit.has_signal and name in binned.held())}
    found = fit_toys(binned, drawn, mass, fixed=fixed, errors=False)
    chi2 = np.where(found.converged, 2 * found.nll, np.inf)
    p = (float((chi2 >= fit.chi2 - 1e-9).sum()) + 1) / (toys + 1)
    return FitGoodness(fit.chi2, chi2, p, float(np.sqrt(p * (1 - p) / toys)))
