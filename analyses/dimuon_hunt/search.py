r"""The hunt: a peak of the resolution's width at every mass, over a background that is smooth nearby.

**Resolution** :math:`\sigma(m) = m \sqrt{a^2 + (b m)^2}`: a constant part and one that grows with the mass.  Natural
widths are taken as small; bins are 0.4 sigma wide and masses half a sigma apart, so that both are even in log mass.

**Segments.** No simple function describes a spectrum of muons over two decades, with its triggers and thresholds.  The
range is cut into cores of 20 sigma.  Masses in a core are fitted with the bins of the core and of 10 sigma to either
side, and a background

.. math:: f(m) = \exp \sum_{k=0}^{n} c_k t^k, \quad t \in [-1, 1] \text{ linear in } \ln m \text{ over the segment},

whose order n is the first that the next is not better than (likelihood ratio, 5%).

**Excesses** of more than 5 standard deviations would be taken for background by the choice of an order, and by segments
that have them in their margins: after a first scan their regions, 4 sigma to either side, are left out there and in the
fits that toys are drawn from, and the scan is done again.

**Known resonances** are left out of everything.

**Global p-values** are of toys that are fitted in the same way, each segment's from its own background (of the
margins' events, which segments share, the toys know nothing: the masses are tested in one core only).

**BumpHunter** goes over the same bins and backgrounds without a shape of a peak.  The background of its toys is that
of the fit, and not fitted again; since the data's is fitted to them, its p-values are too large rather than too small.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from nuinfer.anomaly.bump import (
    BumpFit,
    BumpHunt,
    BumpLikelihood,
    BumpLimits,
    BumpScan,
    GaussianPeak,
    GlobalP,
    LogLinear,
    OrderChoice,
    ToyScans,
    bump_hunt,
    choose_order,
    fit_bump,
    global_p_toys,
    mass_grid,
    scan_masses,
    scan_toys,
    yield_limits,
)
from nuinfer.errors import NotConverged

from .resonances import Resonance, vetoed

__all__ = ["Found", "Hunted", "LogPolynomial", "MuonPeak", "Search", "Segment", "hunt", "measured_resolution"]

Floats = NDArray[np.float64]
Region = tuple[float, float]
_log = logging.getLogger("nuinfer")

BIN = 0.4  # of sigma
FEWEST = 30  # events that a background is fitted to
STRONG = 5.0  # standard deviations
MASK = 4.0  # sigma to either side of a strong excess
WINDOWS = (3, 12)  # bins of BumpHunter's: 1.2 to 4.8 sigma


@dataclass(frozen=True)
class MuonPeak(GaussianPeak):
    """A Gaussian with ``relative_sigma`` = a and ``growth`` = b per GeV.

    >>> MuonPeak(relative_sigma=0.03, growth=0.0004).width(100.0)
    5.0
    """

    growth: float = 0.0

    def __post_init__(self) -> None:
        """Check what is given."""
        super().__post_init__()
        if self.relative_sigma is None or not 0 <= self.growth < math.inf:
            raise ValueError(f"resolution: expected a relative one and a growth from 0 per GeV, found "
                             f"{self.relative_sigma} and {self.growth:g}")  # fmt: skip

    def width(self, mass: float) -> float:
        """Sigma."""
        return mass * math.hypot(self.relative_sigma or 0.0, self.growth * mass)


@dataclass(frozen=True)
class LogPolynomial(LogLinear):
    """The exponential of a polynomial in log mass, ``c0`` ... ``cn``, over the range of the fit."""

    order: int = 1
    span: Region | None = None

    @property
    def names(self) -> tuple[str, ...]:
        """Of the parameters."""
        return tuple(f"c{k}" for k in range(self.order + 1))

    def on(self, span: Region) -> Self:
        """Over the range of a fit."""
        return self if self.span is not None else replace(self, span=span)

    def basis(self, x: Floats) -> Floats:
        """(N, P) at x (N,)."""
        if self.span is None:
            raise ValueError("span: expected (lower, upper), found None; take .on((lower, upper))")
        low, high = np.log(self.span)
        return np.vander((2 * np.log(x) - low - high) / (high - low), self.order + 1, increasing=True)


@dataclass(frozen=True)
class Search:
    """What is searched for, and how.

    Parameters
    ----------
    peak:
        Of the resolution's width.
    range:
        (lower, upper) of the mass in GeV.
    known, veto:
        Resonances, and how many of their widths are left out to either side; 0 leaves out none.
    core, margin:
        Of a segment, in sigma.
    orders:
        Of the background, rising.
    toys, seed:
        For global p-values.
    limits:
        Whether limits are wanted.
    """

    peak: MuonPeak
    range: Region
    known: tuple[Resonance, ...] = ()
    veto: float = 5.0
    core: float = 20.0
    margin: float = 10.0
    orders: tuple[int, ...] = (1, 2, 3, 4)
    toys: int = 1000
    seed: int = 1
    limits: bool = True

    def __post_init__(self) -> None:
        """Check what is given."""
        low, high = self.range
        if not 0 < low < high < math.inf:
            raise ValueError(f"range: expected 0 < lower < upper in GeV, found {low:g} to {high:g}")
        if high - low < 10 * self.peak.width(low):
            raise ValueError(f"range: expected at least 10 widths of a peak, {10 * self.peak.width(low):.3g} GeV, "
                             f"found {low:g} to {high:g}")  # fmt: skip
        if self.toys < 1:
            raise ValueError(f"toys: expected at least 1, found {self.toys}")

    @property
    def vetoes(self) -> list[Region]:
        """What is left out."""
        return vetoed(self.known, self.peak, self.veto) if self.veto else []

    def edges(self) -> Floats:
        """Of all bins (B + 1,), from the lower end of the range to less than a bin below the upper one."""
        found = [self.range[0]]
        while found[-1] <= self.range[1]:
            found.append(found[-1] + BIN * self.peak.width(found[-1]))
        return np.array(found[:-1])

    def cores(self) -> list[Region]:
        """Neighbouring cores; a short last one belongs to the one before."""
        edges, step = self.edges(), round(self.core / BIN)
        cuts = edges[::step].tolist()
        if len(edges) - 1 - (len(cuts) - 1) * step < step / 2 and len(cuts) > 1:
            cuts.pop()
        return list(zip(cuts, [*cuts[1:], float(edges[-1])], strict=True))


@dataclass(frozen=True, eq=False)
class Segment:
    """A core of masses, its data with background and peak, and its scan.

    ``without`` is the fit of the background with strong excesses left out, which toys are drawn from.
    """

    core: Region
    likelihood: BumpLikelihood
    choice: OrderChoice
    scan: BumpScan
    without: BumpFit


@dataclass(frozen=True, eq=False)
class Found:
    """An excess: of the scan, its global p-value, at most that where it is a ``bound``, and fitted freely.

    ``fit`` has a mass and a width of its own; None below 3 standard deviations or where it does not converge.
    """

    mass: float
    size: float
    error: float
    z: float
    p: float
    bound: bool
    known: str
    fit: BumpFit | None


@dataclass(frozen=True, eq=False)
class Hunted:
    """All of it.

    Attributes
    ----------
    search, edges, counts:
        What was asked, the edges (B + 1,) and the contents (B,) of the spectrum.
    segments:
        Those that were searched; ``skipped`` has regions that were not, and why.
    scan, toys, p, limits:
        Of all masses together.
    found:
        Excesses, greatest first.
    hunter, hunter_p:
        BumpHunter's greatest excess over runs of bins, and its global p-value; (p, whether that is a bound).
    """

    search: Search
    edges: Floats
    counts: Floats
    segments: list[Segment]
    skipped: list[tuple[Region, str]]
    scan: BumpScan
    toys: ToyScans
    p: GlobalP
    limits: BumpLimits | None
    found: list[Found]
    hunter: BumpHunt | None
    hunter_p: tuple[float, bool]

    def expected(self) -> Floats:
        """The background (B,) of each bin by the segment in whose core it is; NaN where there is none."""
        whole, middle = np.full(len(self.counts), np.nan), (self.edges[1:] + self.edges[:-1]) / 2
        for segment in self.segments:
            inside = (middle > segment.core[0]) & (middle < segment.core[1])
            fit = segment.without
            whole[inside] = fit.background[np.searchsorted(fit.bins[:, 0], middle[inside], side="right") - 1]
        return whole

    def used(self) -> NDArray[np.bool_]:
        """The bins (B,) that were searched."""
        return np.isfinite(self.expected()) & ~overlapping(self.edges, self.search.vetoes)


# -- the search --------------------------------------------------------------------------------------------------------


def hunt(masses: Floats, search: Search) -> Hunted:
    """Search the invariant masses (N,) for peaks.

    Raises
    ------
    ValueError
        for a range with hardly any events, or one that known resonances leave nothing of.
    """
    edges = search.edges()
    counts = np.histogram(masses, edges)[0].astype(np.float64)
    if counts.sum() < FEWEST:
        raise ValueError(f"range: expected at least {FEWEST} events from {search.range[0]:g} to {search.range[1]:g} "
                         f"GeV, found {counts.sum():g}")  # fmt: skip
    first, skipped = _segments(search, edges, counts, ())
    if not first:
        raise ValueError("range: expected a segment with enough events, found none: "
                         + "; ".join(f"{a:.4g} to {b:.4g}, {why}" for (a, b), why in skipped))  # fmt: skip
    strong = [each.mass for each in excesses(joined([s.scan for s in first]), STRONG)]
    segments, skipped = _segments(search, edges, counts, strong) if strong else (first, skipped)
    scan = joined([segment.scan for segment in segments])
    toys = _toys(segments, search)
    p = global_p_toys(scan, toys)
    limits = _limits(segments) if search.limits else None
    plain = Hunted(search, edges, counts, segments, skipped, scan, toys, p, limits, [], None, (math.nan, False))
    hunter, hunter_p = _hunter(plain)
    return replace(plain, found=_found(plain), hunter=hunter, hunter_p=hunter_p)


def _segments(
    search: Search, edges: Floats, counts: Floats, strong: Sequence[float]
) -> tuple[list[Segment], list[tuple[Region, str]]]:  # fmt: skip
    """Those that can be searched, and those that cannot and why."""
    found, skipped = [], []
    for core in search.cores():
        try:
            made = _segment(search, edges, counts, core, strong)
        except NotConverged as error:
            made = str(error)
        if isinstance(made, str):
            skipped.append((core, made))
        else:
            found.append(made)
    return found, skipped


def _segment(search: Search, edges: Floats, counts: Floats, core: Region, strong: Sequence[float]) -> Segment | str:
    """A core with its scan, or why there is nothing to fit."""
    half = {m: MASK * search.peak.width(m) for m in strong}
    within = [(m - h, m + h) for m, h in half.items() if core[0] <= m < core[1]]
    gaps = [*search.vetoes, *((m - h, m + h) for m, h in half.items() if not core[0] <= m < core[1])]
    inside = _around(search, edges, core)
    own, shown = np.append(edges[inside], edges[inside[-1] + 1]), counts[inside]
    used, masses = ~overlapping(own, gaps), _masses(search, core)
    if not len(masses) or used.sum() < 20 or shown[used].sum() < FEWEST:
        return (f"{len(masses)} masses, {used.sum()} bins and {shown[used].sum():g} events beside what is left out; a "
                f"background needs 20 bins and {FEWEST} events")  # fmt: skip
    likelihood = BumpLikelihood.binned(shown, LogPolynomial(1), search.peak, edges=own, exclude=gaps)
    apart = likelihood
    for low, high in within:
        apart = apart.excluding(low, high)
    family = [LogPolynomial(order) for order in search.orders]
    choice = choose_order(apart, family)
    likelihood, apart = (each.with_background(family[choice.best]) for each in (likelihood, apart))
    return Segment(core, likelihood, choice, scan_masses(likelihood, masses), fit_bump(apart))


def _around(search: Search, edges: Floats, core: Region) -> NDArray[np.int64]:
    """The bins of a core and its margins."""
    low, high = (m + sign * search.margin * search.peak.width(m) for m, sign in zip(core, (-1, 1), strict=True))
    return np.flatnonzero((edges[:-1] > low) & (edges[1:] < high))


def overlapping(edges: Floats, regions: Sequence[Region]) -> NDArray[np.bool_]:
    """The bins (B,) that overlap with a region."""
    found = np.zeros(len(edges) - 1, bool)
    for low, high in regions:
        found |= (edges[1:] > low) & (edges[:-1] < high)
    return found


def _masses(search: Search, core: Region) -> Floats:
    """Half a sigma apart over the whole range, of a core, beside known resonances."""
    grid = mass_grid(search.peak, *search.range)
    keep = (grid >= core[0]) & (grid < core[1])
    for low, high in search.vetoes:
        keep &= (grid < low) | (grid > high)
    return grid[keep]


def joined(scans: Sequence[BumpScan]) -> BumpScan:
    """One scan of rising masses; its background is that of the greatest excess."""
    best = max(scans, key=lambda scan: float(scan.z[scan.best]))
    names = ("masses", "widths", "yields", "errors", "z", "p", "nll", "at_limit", "under")
    together: dict[str, Any] = {name: np.concatenate([getattr(scan, name) for scan in scans]) for name in names}
    return replace(best, **together)


def _toys(segments: Sequence[Segment], search: Search) -> ToyScans:
    """Each segment's own, joined toy by toy."""
    parts = [scan_toys(segment.likelihood, segment.scan.masses, toys=search.toys, seed=search.seed + k,
                       values=segment.without.values) for k, segment in enumerate(segments)]  # fmt: skip
    masses, widths = (np.concatenate([getattr(part, name) for part in parts]) for name in ("masses", "widths"))
    starts = np.cumsum([0, *(len(part.masses) for part in parts[:-1])])
    failed = np.concatenate([part.failed + np.array([0, start]) for part, start in zip(parts, starts, strict=True)])
    return ToyScans(masses, widths, np.concatenate([part.z for part in parts], 1), False, failed,
                    sum(part.refitted for part in parts), search.seed)  # fmt: skip


def _limits(segments: Sequence[Segment]) -> BumpLimits:
    """On the yield, at each mass, by asymptotic formulae."""
    parts = [yield_limits(segment.likelihood, segment.scan.masses) for segment in segments]
    names = ("masses", "widths", "best", "observed", "expected", "errors", "expected_errors", "exposure", "relative",
             "spurious")  # fmt: skip
    together: dict[str, Any] = {name: np.concatenate([getattr(part, name) for part in parts]) for name in names}
    return replace(parts[0], **together)


# -- excesses ----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Excess:
    at: int
    mass: float


def excesses(scan: BumpScan, least: float, most: int = 20, apart: float = 5.0) -> list[_Excess]:
    """The greatest local significances of at least so much, each so many widths from greater ones."""
    chosen: list[_Excess] = []
    for k in np.argsort(-scan.z).tolist():
        if scan.z[k] < least or len(chosen) == most:
            break
        mass = float(scan.masses[k])
        if all(abs(mass - each.mass) > apart * scan.widths[k] for each in chosen):
            chosen.append(_Excess(k, mass))
    return chosen


def _found(hunted: Hunted, most: int = 5) -> list[Found]:
    """Those of at least 2 standard deviations, and the greatest at any rate."""
    scan = hunted.scan
    return [_one(hunted, each) for each in excesses(scan, min(2.0, float(scan.z[scan.best])))[:most]]


def _one(hunted: Hunted, excess: _Excess) -> Found:
    scan, k = hunted.scan, excess.at
    z = float(scan.z[k])
    beyond = int((hunted.toys.largest >= max(z, 0.0)).sum())
    p = (beyond + 1) / (len(hunted.toys.z) + 1)
    near = [each.name for each in hunted.search.known
            if abs(each.mass - excess.mass) < 2 * math.hypot(each.width, float(scan.widths[k]))]  # fmt: skip
    fit = _freely(hunted, excess.mass) if z >= 3 else None
    return Found(excess.mass, float(scan.yields[k]), float(scan.errors[k]), z, p, beyond == 0, ", ".join(near), fit)


def _freely(hunted: Hunted, mass: float) -> BumpFit | None:
    """With a mass and a width of its own."""
    segment = next(each for each in hunted.segments if mass in each.scan.masses)
    try:
        return fit_bump(replace(segment.likelihood, free=("mass_scale", "width_scale")), mass)
    except NotConverged as error:
        _log.warning("%s", error)
        return None


def measured_resolution(masses: Floats, known: Resonance, peak: MuonPeak) -> tuple[float, float, float, float]:
    """Mass and relative resolution of a narrow resonance with their errors, from a fit 12 sigma to either side.

    Raises
    ------
    ValueError
        for a resonance whose natural width is not small beside the resolution, or of which there are too few events.
    NotConverged
        where the fit does not converge.
    """
    sigma = peak.width(known.mass)
    if known.width > 0.2 * sigma:
        raise ValueError(f"calibrate: expected a resonance whose width is small beside the resolution of {sigma:.2g} "
                         f"GeV, found {known.name} with {known.width:.2g} GeV; take J/psi or Upsilon(1S)")  # fmt: skip
    edges = np.arange(known.mass - 12 * sigma, known.mass + 12 * sigma, 0.2 * sigma)
    counts = np.histogram(masses, edges)[0]
    likelihood = BumpLikelihood.binned(counts, LogPolynomial(2), peak, edges=edges, free=["mass_scale", "width_scale"])
    fit = fit_bump(likelihood, known.mass)
    if fit.at_limit or not fit.values["yield"] > 10 * fit.errors["yield"]:
        raise ValueError(f"calibrate: expected {known.name} with more than 10 standard deviations, found "
                         f"{fit.values['yield']:.0f} +- {fit.errors['yield']:.0f} events")  # fmt: skip
    mass, width = fit.values["mass_scale"], fit.values["width_scale"]
    relative = width * sigma / (mass * known.mass)
    return (mass * known.mass, fit.errors["mass_scale"] * known.mass, relative,
            relative * fit.errors["width_scale"] / width)  # fmt: skip


# -- windows -----------------------------------------------------------------------------------------------------------


def _hunter(hunted: Hunted) -> tuple[BumpHunt | None, tuple[float, bool]]:
    """BumpHunter over runs of bins without gaps; the global p-value of the greatest of all."""
    expected, used = hunted.expected(), hunted.used()
    found = []
    for number, (first, last) in enumerate(_runs(used)):
        if last - first < WINDOWS[1]:
            continue
        rows = slice(first, last)
        found.append(bump_hunt(hunted.counts[rows], expected[rows], edges=hunted.edges[first : last + 1],
                               widths=WINDOWS, toys=hunted.search.toys,
                               seed=hunted.search.seed + number))  # fmt: skip
    if not found:
        return None, (math.nan, False)
    best = max(found, key=lambda one: one.statistic)
    largest = np.max([one.toys for one in found], axis=0)
    beyond = int((largest >= best.statistic * (1 - 1e-9)).sum())
    return best, ((beyond + 1) / (len(largest) + 1), beyond == 0)


def _runs(used: NDArray[np.bool_]) -> list[tuple[int, int]]:
    """First and one past the last of neighbouring True."""
    change = np.flatnonzero(np.diff(np.concatenate([[0], used.astype(int), [0]])))
    return [(int(a), int(b)) for a, b in change.reshape(-1, 2)]
