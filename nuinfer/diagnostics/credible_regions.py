r"""Expected coverage: how often regions of a given credibility hold the truth.

The region of highest density of content c holds theta where fewer than a fraction c of the draws have a larger density
than theta; its coverage over simulations is c for the exact posterior (and for the prior: see
`nuinfer.diagnostics.reference_points`).  Less is over-confidence.  Of each parameter alone, central intervals are
judged.

The number r of L draws that are denser than the truth is uniform on 0 .. L, and stands for a share between r/(L + 1)
and (r + 1)/(L + 1): the part of that range inside c is what a simulation counts, so that the expected coverage is c at
any L.

Source: Hermans, Delaunoy, Rozet, Wehenkel, Begy, Louppe, arXiv:2110.06581.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from .. import metrics
from ..errors import check_finite
from ..events import Events
from ..records import Record
from .samplers import Sampler, drawn, log_densities, observations_of, truths
from .uniform import band, verdict

__all__ = ["Coverage", "CoverageRegion", "coverage"]

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]


@dataclass(frozen=True, eq=False)
class CoverageRegion(Record):
    """The coverage of regions of highest density where a column lies between ``low`` and ``high``: (C,) each.

    ``size`` is the effective number of simulations.
    """

    _KIND = "expected coverage of a part"

    low: float
    high: float
    size: float
    observed: Floats
    error: Floats


@dataclass(frozen=True, eq=False)
class Coverage(Record):
    """Made by `coverage`.

    Attributes
    ----------
    names, levels:
        P parameters, C nominal contents.
    observed, error:
        Coverage of the regions of highest density of all parameters (C,), and its sampling error, at least that of a
        binomial number, which is not 0 where all or none are covered.
    central, central_error:
        That of the central intervals of each parameter (P, C).
    size:
        The effective number of simulations.
    p_value:
        That the coverage of the regions is right at all contents, by the ECDF of the ranks.
    by, regions:
        A column, and the coverage in parts of its range; None and () where none was given.
    """

    _KIND = "expected coverage"

    names: tuple[str, ...]
    levels: Floats
    observed: Floats
    error: Floats
    central: Floats
    central_error: Floats
    size: float
    p_value: float
    by: str | None
    regions: tuple[CoverageRegion, ...]

    def __str__(self) -> str:
        off = float(np.mean(self.observed - self.levels))
        wrong = "too low: over-confident" if off < 0 else "too high: under-confident"
        said = verdict(self.p_value, self.size, "as it should be", wrong)
        shown = [f"expected coverage, {self.size:.0f} effective simulations: p = {self.p_value:.2g}, {said}"]
        shown.append("  " + ", ".join(_row(self.levels, self.observed, self.error)))
        for name, value, error in zip(self.names, self.central, self.central_error, strict=True):
            shown.append(f"  {name}: " + ", ".join(_row(self.levels, value, error)))
        for part in self.regions:
            where = f"  {self.by} in [{part.low:.4g}, {part.high:.4g}]: "
            shown.append(where + ", ".join(_row(self.levels, part.observed, part.error)))
        return "\n".join(shown)


def _row(levels: Floats, found: Floats, error: Floats) -> list[str]:
    return [f"{100 * c:.3g}%: {100 * v:.1f} +- {100 * e:.1f}" for c, v, e in zip(levels, found, error, strict=True)]


def coverage(
    posterior: Sampler,
    simulations: Events,
    *,
    levels: Sequence[float] = (0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.68, 0.8, 0.9, 0.95),
    draws: int = 199,
    by: str | None = None,
    regions: int = 4,
    seed: int = 0,
) -> Coverage:
    """How often credible regions hold the true parameters of simulations.

    Parameters
    ----------
    posterior, simulations:
        As of `sbc`.
    levels:
        Nominal contents.
    draws:
        L, a simulation; L + 1 should have many divisors.
    by, regions:
        A flat column of the simulations, a parameter or one of the observation, and into how many parts of equal
        effective size its range is divided: local coverage.  A column of the *observation* must show the nominal
        coverage in each part; in parts of a *parameter* even the exact posterior over- and undercovers.

    Raises
    ------
    KeyError
        for simulations without a column that is needed.
    ValueError
        for levels outside 0 to 1, or values that are not finite.
    """
    wanted = np.asarray(levels, np.float64)
    if wanted.ndim != 1 or not wanted.size or not ((wanted > 0) & (wanted < 1)).all():
        raise ValueError(f"levels: expected contents between 0 and 1, found {list(levels)}")
    theta, observations = truths(posterior, simulations), observations_of(posterior, simulations)
    found = drawn(posterior, draws, observations, seed)
    logs = log_densities(posterior, np.concatenate([theta[:, None], found], 1), observations)
    denser = metrics.ranks(-logs[:, 1:], -logs[:, 0], seed=seed)
    each = metrics.ranks(np.moveaxis(found, 1, 2), theta, seed=seed + 1)
    weight = simulations.weight
    observed, error = _mean(covered(denser, draws, np.zeros_like(wanted), wanted), weight)
    sides = (1 - wanted) / 2, (1 + wanted) / 2
    central = np.array([_mean(covered(r, draws, *sides), weight) for r in each.T])  # (P, 2, C)
    return Coverage(
        posterior.names, wanted, observed, error, central[:, 0], central[:, 1],
        float(metrics.effective_size(weight)), band(denser, draws, weight).p_value, by,
        _parts(simulations, by, regions, denser, draws, wanted),
    )  # fmt: skip


def covered(rank: Ints, draws: int, low: Floats, high: Floats) -> Floats:
    """The share (N, C) of the range of each rank (N,), [r, r + 1]/(L + 1), that lies between low and high (C,)."""
    r = rank[:, None]
    return np.asarray(np.clip(np.minimum(r + 1, high * (draws + 1)) - np.maximum(r, low * (draws + 1)), 0, 1))


def _mean(inside: Floats, weight: Floats) -> tuple[Floats, Floats]:
    """Weighted means (C,) of (N, C) and their errors, at least that of a binomial number of the effective size."""
    share = weight / weight.sum()
    mean, size = share @ inside, 1 / np.sum(share**2)
    # where all or none are inside, the spread alone would be 0; signed weights may leave 0 to 1
    few = (np.clip(mean, 0, 1) * size + 1) / (size + 2)
    spread = np.sqrt(((share[:, None] * (inside - mean)) ** 2).sum(0))
    return mean, np.maximum(spread, np.sqrt(few * (1 - few) / size))


def _parts(
    simulations: Events, by: str | None, regions: int, rank: Ints, draws: int, levels: Floats
) -> tuple[CoverageRegion, ...]:
    if by is None:
        return ()
    if regions < 1:
        raise ValueError(f"regions: expected at least 1, found {regions}")
    column, weight = np.asarray(simulations.flat(by), np.float64), simulations.weight
    check_finite(f"column {by!r}", column)
    order = np.argsort(column, kind="stable")
    share = np.cumsum(weight[order] ** 2) / np.sum(weight**2)
    found = []
    for rows in np.split(order, np.searchsorted(share, np.arange(1, regions) / regions)):
        if not len(rows) or not weight[rows].sum() > 0:
            raise ValueError(f"regions: expected simulations of positive total weight in each of {regions} parts of "
                             f"{by!r}, found {len(rows)} of {weight[rows].sum():g}; ask for fewer")  # fmt: skip
        inside = covered(rank[rows], draws, np.zeros_like(levels), levels)
        size = float(metrics.effective_size(weight[rows]))
        low, high = float(column[rows].min()), float(column[rows].max())
        found.append(CoverageRegion(low, high, size, *_mean(inside, weight[rows])))
    return tuple(found)
