r"""How improbable the greatest excess of a scan is, wherever it is: the look-elsewhere effect.

By toys the global p-value is the fraction of scans of background alone with a greater excess, `global_p_toys`.  By
Gross and Vitells it is, for r_0 as a smooth normal process over the mass,

.. math:: p = 1 - \Phi(Z) + \langle N(u_0) \rangle \, e^{-(Z^2 - u_0^2)/2},

with N(u_0) the number of times that r_0(m) crosses a low level u_0 upwards (c_0 = u_0^2 in their notation), which few
toys, or the data themselves, tell: `gross_vitells`.  It is an upper bound on the p-value of a normal process, close to
it where p is small; it needs a fine grid of masses and a selection that is the same for all of them.  Between masses of
correlation rho a normal process crosses 0 with probability :math:`\arccos(\rho) / 2\pi`, and the correlations are known
from the expected information; so that the number of crossings needs no toys either (Ananiev, Read).

Sources: Gross, Vitells, arXiv 1005.1891; Ananiev, Read, arXiv 2206.12328.
"""

from __future__ import annotations

import logging
import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import stats

from ...records import Record
from ..significance import log_p_of_z, z_of_log_p
from .fits import yield_covariance
from .likelihoods import BumpLikelihood
from .scans import BumpScan, ToyScans

__all__ = ["GlobalP", "global_p_toys", "gross_vitells"]

Floats = NDArray[np.float64]
_log = logging.getLogger("nuinfer")


@dataclass(frozen=True, eq=False)
class GlobalP(Record):
    """A global p-value.

    Attributes
    ----------
    method:
        "toys" or "gross-vitells".
    mass, local_z, local_p:
        Of the greatest local excess.
    p, error:
        The global p-value and its standard error; of k among T toys (k + 1) / (T + 1).
    z:
        Its significance; where all of T toys are beyond, that of T / (T + 1), so that it is finite.
    p_upper, z_lower:
        Bounds at 95% confidence, of the statistics of the toys; where all are beyond, 1 and z.
    is_bound:
        Whether no toy was beyond: then the bounds are all that is known.
    toys, beyond:
        How many toys, and how many with at least this excess; -1 where they are not compared.
    level, crossings:
        u_0 and the mean number of upward crossings of it; NaN for toys.
    coarse:
        Whether masses are further apart than half a width: Gross and Vitells's number is then of little value, and toys
        tell of this grid, not of peaks between its masses.
    """

    _KIND = "bump global p"

    method: str
    mass: float
    local_z: float
    local_p: float
    p: float
    error: float
    z: float
    p_upper: float
    z_lower: float
    is_bound: bool
    toys: int
    beyond: int
    level: float
    crossings: float
    coarse: bool

    @property
    def trials(self) -> float:
        """The ratio of the global to the local p-value, an upper bound where p is one."""
        if not self.local_p:  # too small to be a number
            return float(np.exp(log_p_of_z(self.z) - log_p_of_z(self.local_z)))
        return (self.p_upper if self.is_bound else self.p) / self.local_p

    def __repr__(self) -> str:
        if self.is_bound:
            said = f"p < {self.p_upper:.2g} at 95% (none of {self.toys} toys), Z > {self.z_lower:.2f}"
        else:
            said = f"p = {self.p:.3g} +- {self.error:.2g}, Z = {self.z:.2f}"
        note = "; COARSE GRID" if self.coarse else ""
        return (f"GlobalP(by {self.method}: {said}; locally at {self.mass:g}: p = {self.local_p:.3g}, "
                f"Z = {self.local_z:.2f}{note})")  # fmt: skip


def global_p_toys(scan: BumpScan, toys: ToyScans) -> GlobalP:
    """The global p-value of a scan from scans of toys at the same masses.

    Toys that failed count as beyond.

    Raises
    ------
    ValueError
        for toys of other masses, or a scan with failed masses.
    """
    _check(scan)
    if toys.masses.shape != scan.masses.shape or not np.allclose(toys.masses, scan.masses, rtol=1e-12):
        raise ValueError(f"toys: expected scans of the same {len(scan.masses)} masses, found {len(toys.masses)} from "
                         f"{toys.masses[0]:g} to {toys.masses[-1]:g}")  # fmt: skip
    z = max(float(scan.z[scan.best]), 0.0)
    count = len(toys.z)
    beyond = int((toys.largest >= z).sum())
    p = (beyond + 1) / (count + 1)
    upper = float(stats.beta.ppf(0.95, beyond + 1, count - beyond)) if beyond < count else 1.0
    return _result(scan, "toys", math.log(p), math.sqrt(p * (1 - p) / count), math.log(upper), count, beyond, math.nan,
                   math.nan)  # fmt: skip


def gross_vitells(
    scan: BumpScan, source: ToyScans | BumpLikelihood | None = None, *, level: float | None = None
) -> GlobalP:  # fmt: skip
    """The global p-value of a scan from crossings of a low level.

    Parameters
    ----------
    source:
        Where the mean number of crossings is from: toys (a few dozen will do; ``signed`` ones for level 0), the
        likelihood (from its correlations, at level 0, without toys), or None, the data themselves.
    level:
        u_0, in sigma: by default 0 with signed toys, the data and the likelihood, 0.5 with one-sided toys.

    Raises
    ------
    ValueError
        for a level that is not below the excess, level 0 (or less) of one-sided toys, another level than 0 of a
        likelihood, one mass alone, failed masses.
    """
    _check(scan)
    if len(scan.masses) < 2:
        raise ValueError("masses: expected a scan of several, found one; its global p-value is the local one")
    one_sided = isinstance(source, ToyScans) and not source.signed
    low = float(level) if level is not None else (0.5 if one_sided else 0.0)
    if one_sided and low <= 0:
        raise ValueError(
            f"level: expected one above 0 for one-sided toys, found {low:g}; take signed=True of scan_toys"
        )
    if isinstance(source, BumpLikelihood) and low != 0:
        raise ValueError(f"level: expected 0 for a likelihood, found {low:g}")
    crossings, error, toys = _crossings(scan, source, low)
    z = float(scan.z[scan.best])
    if z <= low:
        raise ValueError(f"level: expected one below the greatest excess of {z:.3g} sigma, found {low:g}; the formula "
                         f"is for significances above it")  # fmt: skip
    fall = -0.5 * (z * z - low * low)
    numbers = np.maximum([crossings, crossings + 1.645 * error], np.finfo(np.float64).tiny)
    log_p, log_upper = np.minimum(np.logaddexp(log_p_of_z(z), np.log(numbers) + fall), 0.0)
    found = _result(scan, "gross-vitells", log_p, error * math.exp(fall), log_upper, toys, -1, low, crossings)
    if found.coarse:
        _log.warning("the masses of the scan are further apart than half a width: Gross and Vitells count crossings of "
                     "a smooth curve; take mass_grid, or toys")  # fmt: skip
    return found


def _crossings(scan: BumpScan, source: ToyScans | BumpLikelihood | None, level: float) -> tuple[float, float, int]:
    """Their mean number, its error, and from how many toys."""
    if isinstance(source, BumpLikelihood):
        covariance = yield_covariance(source.in_bins(), scan.masses, scan.background.values)
        size = np.sqrt(np.diag(covariance))
        rho = np.clip(np.diag(covariance, 1) / (size[1:] * size[:-1]), -1.0, 1.0)
        return float(np.arccos(rho).sum() / (2 * math.pi)), 0.0, 0
    if source is None:
        count = float(_upwards(scan.z[None], level)[0])
        return count, math.sqrt(max(count, 1.0)), 0
    number = _upwards(source.z, level)
    return float(number.mean()), float(number.std(ddof=1) / math.sqrt(len(number))), len(number)


def _upwards(z: Floats, level: float) -> Floats:
    """How often (T,) rows (T, M) go from below to at least the level."""
    return np.asarray(((z[:, :-1] < level) & (z[:, 1:] >= level)).sum(1), np.float64)


def _check(scan: BumpScan) -> None:
    if len(scan.failed):
        raise ValueError(f"scan: expected a fit at each mass, found none at {scan.failed.tolist()[:5]}; the greatest "
                         f"excess could be there")  # fmt: skip


def _result(
    scan: BumpScan, method: str, log_p: float, error: float, log_upper: float, toys: int, beyond: int, level: float,
    crossings: float,
) -> GlobalP:  # fmt: skip
    k = scan.best
    largest = math.log(toys / (toys + 1)) if method == "toys" else 0.0  # Z of p = 1 is -inf
    z, lower = z_of_log_p(np.minimum([log_p, log_upper], largest)).tolist()
    return GlobalP(method, float(scan.masses[k]), float(scan.z[k]), float(scan.p[k]), math.exp(log_p), error, z,
                   math.exp(log_upper), lower, beyond == 0, toys, beyond, level, crossings, scan.coarse)  # fmt: skip
