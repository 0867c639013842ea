r"""Does a cut on a score sculpt the spectrum?  Events that pass against all events, bin by bin of the mass.

Background events that pass a cut should be a random subset of all of them, whatever their mass is.  Given the score's
selection of n out of N events, and that masses (and weights w) were handed out at random, the deviation of the passing
weight in bin b from its share,

.. math:: d_b = \sum_{i \in \mathrm{pass}} a_{ib}, \qquad a_{ib} = w_i \Big([i \in b] - \frac{W_b}{W}\Big),

has mean 0 and the exact covariance :math:`\frac{n (N - n)}{N (N - 1)} A`, :math:`A = a^T a`: that of a draw without
replacement (multivariate hypergeometric, for weights of 1).  Hence :math:`\chi^2 = d^T C^+ d` has the mean B - 1, at
any efficiency.  Poisson errors of the passing events alone would be too large by :math:`1/\sqrt{1 - n/N}`, as the
events that pass are among all.

Several cuts are combined with their covariance, :math:`(n_{ef} - n_e n_f / N) / (N - 1)` times A, with n_ef the events
that pass both, into one chi2 of E (B - 1) degrees of freedom.  Where few events are expected in a bin p-values come
from random assignments, :math:`(k + 1)/(T + 1)`, of which the data are one more.

Source: Pesarin, Salmaso, Permutation Tests for Complex Data (2010), chapter 1; Lehmann, Nonparametrics (1975), chapter
5; Dolen et al., arXiv:1603.00027 (sculpting).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import stats

from ... import hashing
from ...errors import check_finite
from ...records import Record
from ..regions import Window

__all__ = ["Sculpting", "sculpting_of_cuts", "sculpting_test"]

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]
Mask = NDArray[np.bool_]

_FEW = 10.0  # expected events in a bin, passing or not, below which chi2 needs toys


@dataclass(frozen=True, eq=False)
class Sculpting(Record):
    """Whether cuts follow the mass: E cuts, B bins.

    Attributes
    ----------
    efficiencies:
        (E,), as asked for.
    passing:
        (E,), the events that pass.
    events:
        N, of all.
    bins:
        (B, 2), of the mass.
    efficiency:
        (E, B), the passing share of the weight in each bin.
    overall:
        (E,), that of all bins together.
    errors:
        (E, B), the standard deviation of ``efficiency - overall`` if nothing is sculpted.
    chi2, ndf, p:
        (E,), of each cut.
    combined_chi2, combined_ndf, combined_p:
        Of all cuts together: the p-value to be quoted.
    toys:
        T, where p-values come from random assignments; 0 where they come from chi2.
    """

    _KIND = "sculpting"

    efficiencies: Floats
    passing: Ints
    events: int
    bins: Floats
    efficiency: Floats
    overall: Floats
    errors: Floats
    chi2: Floats
    ndf: Ints
    p: Floats
    combined_chi2: float
    combined_ndf: int
    combined_p: float
    toys: int

    @property
    def pulls(self) -> Floats:
        """(efficiency - overall) / errors (E, B); 0 where all events pass."""
        away = self.efficiency - self.overall[:, None]
        return np.divide(away, self.errors, out=np.zeros_like(away), where=self.errors > 0)

    def passed(self, level: float = 0.01) -> bool:
        """Whether the combined p-value is at least ``level``."""
        return self.combined_p >= level

    @property
    def words(self) -> str:
        """The verdict at a level of 1%."""
        p = f"p = {self.combined_p:.2g}"
        if self.passed():
            return f"no sculpting seen in {self.events} events ({p})"
        worst = int(np.argmin(self.p))
        return (f"the score follows the mass ({p}; at efficiency {self.efficiencies[worst]:g} it runs from "
                f"{self.efficiency[worst].min():.3g} to {self.efficiency[worst].max():.3g} across the bins): an excess "
                f"after a cut need not be a signal")  # fmt: skip

    def __repr__(self) -> str:
        rows = [
            f"  efficiency {e:<8g} {n} pass, chi2 / ndf = {c:.4g} / {k}, p = {p:.3g}"
            for e, n, c, k, p in zip(self.efficiencies, self.passing, self.chi2, self.ndf, self.p, strict=True)
        ]
        how = f" by {self.toys} toys" if self.toys else ""
        return "\n".join([f"Sculpting({len(self.bins)} bins{how}: {self.words})", *rows])


def sculpting_test(
    score: ArrayLike, mass: ArrayLike, *, efficiencies: Sequence[float] = (0.5, 0.1, 0.01),
    weight: ArrayLike | None = None, bins: int | ArrayLike = 10, exclude: Window | None = None, toys: int = 1000,
    seed: int = 0,
) -> Sculpting:  # fmt: skip
    """Test whether cuts on a score follow the mass, on events of background alone.

    Parameters
    ----------
    score:
        (N,), the larger the more like signal; of events that trained it, out of fold.  Scores of different networks
        (folds) should be made comparable first, as ranks, or by `sculpting_of_cuts` with cuts of their own.
    mass:
        (N,).
    efficiencies:
        Each in (0, 1]: the fraction of the *events* that is to pass; tied scores pass together.
    weight:
        (N,), of any sign; they decide what counts, not what passes.
    bins:
        A number of bins with about equal contents, or edges around all masses.
    exclude:
        A window, the signal region of which is left out: there may be signal.
    toys:
        Random assignments where few events are expected in a bin.
    seed:
        Of these.

    Returns
    -------
    Sculpting

    Raises
    ------
    ValueError
        for lengths that differ, values that are not finite, efficiencies outside (0, 1] or that select no event, fewer
        than two bins, a bin without events, masses outside of the edges.

    Examples
    --------
    >>> rng = np.random.default_rng(1)
    >>> mass, score = rng.uniform(2, 4, 5000), rng.normal(size=5000)
    >>> sculpting_test(score, mass).passed(), sculpting_test(score + 0.2 * mass, mass).passed()
    (True, False)
    """
    s, m, w = _checked(score, mass, weight)
    if exclude is not None:
        kept = ~exclude.in_signal(m)
        s, m, w = s[kept], m[kept], w[kept]
    wanted = np.asarray(efficiencies, np.float64).reshape(-1)
    if not len(wanted) or not ((wanted > 0) & (wanted <= 1)).all():
        raise ValueError(f"efficiencies: expected numbers in (0, 1], found {list(efficiencies)}")
    order = np.sort(s)[::-1]
    count = np.rint(wanted * len(s)).astype(np.int64)
    if not len(s) or (count < 1).any():
        raise ValueError(f"efficiencies: expected each to select events, found {wanted.min():g} of {len(s)} events")
    passes = s >= order[count - 1][:, None]
    return sculpting_of_cuts(passes, m, efficiencies=wanted, weight=w, bins=bins, exclude=exclude, toys=toys, seed=seed)


def sculpting_of_cuts(
    passes: ArrayLike, mass: ArrayLike, *, efficiencies: ArrayLike | None = None, weight: ArrayLike | None = None,
    bins: int | ArrayLike = 10, exclude: Window | None = None, toys: int = 1000, seed: int = 0,
) -> Sculpting:  # fmt: skip
    """The same for cuts that have been made: ``passes`` (E, N), of any kind.

    Parameters
    ----------
    passes:
        Booleans (E, N), True for events that pass a cut.
    mass, weight, bins, exclude, toys, seed:
        As in `sculpting_test`.
    efficiencies:
        (E,), what the cuts were meant to have; those that they have for None.

    Raises
    ------
    ValueError, TypeError
        as `sculpting_test`; for cuts that are not booleans.
    """
    cut = np.atleast_2d(np.asarray(passes))
    if cut.dtype != np.bool_ or cut.ndim != 2:
        raise TypeError(f"passes: expected booleans (E, N), found {cut.dtype} of shape {cut.shape}")
    _, m, w = _checked(cut[0].astype(np.float64), mass, weight)
    if exclude is not None:
        kept = ~exclude.in_signal(m)
        cut, m, w = cut[:, kept], m[kept], w[kept]
    if len(m) < 2:
        raise ValueError(f"mass: expected at least two events outside of the signal region, found {len(m)}")
    named = cut.mean(1) if efficiencies is None else np.asarray(efficiencies, np.float64)
    cells = _cells(m, bins, exclude)
    table = _Table.of(cut, np.searchsorted(cells[:, 0], m, side="right") - 1, w, len(cells))
    return _tested(table, named, cells, toys, seed)


# -- the statistic -----------------------------------------------------------------------------------------------------


@dataclass(frozen=True, eq=False)
class _Table:
    """Cuts (E, N), the bin of each event (N,) and its weight (N,)."""

    cut: Mask
    bin: Ints
    weight: Floats
    bins: int
    totals: Floats  # W_b (B,)
    inner: Floats  # A (B, B)
    between: Floats  # of cuts (E, E)

    @classmethod
    def of(cls, cut: Mask, place: Ints, weight: Floats, bins: int) -> _Table:
        events, size = cut.shape[1], cut.sum(1)
        totals, squares = (np.bincount(place, w, bins).astype(np.float64) for w in (weight, weight**2))
        if not totals.sum() > 0:
            raise ValueError(f"weight: expected a positive sum, found {totals.sum():g}")
        share = totals / totals.sum()
        inner = np.diag(squares) - np.outer(squares, share) - np.outer(share, squares)
        inner += squares.sum() * np.outer(share, share)
        both = cut.astype(np.float64) @ cut.T.astype(np.float64)
        between = (both - np.outer(size, size) / events) / (events - 1)
        return cls(cut, place, weight, bins, totals, inner, between)

    def passing(self, cut: Mask, place: Ints, weight: Floats) -> Floats:
        """The weight (E, B) that passes."""
        return np.stack([np.bincount(place[row], weight[row], self.bins) for row in cut])

    def away(self, passing: Floats) -> Floats:
        """d (E, B)."""
        return np.asarray(passing - passing.sum(1, keepdims=True) * (self.totals / self.totals.sum()))

    @property
    def smallest(self) -> float:
        """The least number of events that is expected, to pass or not to, in a bin."""
        share = np.bincount(self.bin, minlength=self.bins).min()
        mean = self.cut.mean(1)
        return float((share * np.minimum(mean, 1 - mean)[(mean > 0) & (mean < 1)]).min(initial=np.inf))


def _tested(table: _Table, efficiencies: Floats, cells: Floats, toys: int, seed: int) -> Sculpting:
    passing = table.passing(table.cut, table.bin, table.weight)
    statistic = _Statistic.of(table)
    chi2, combined = statistic(table.away(passing))
    ndf, total = statistic.ndf, int(statistic.ndf_combined)
    few = table.smallest < _FEW
    if few:
        drawn = [statistic(table.away(random)) for random in _random(table, toys, seed)]
        p = _exceeding(np.array([d for d, _ in drawn]), chi2)
        combined_p = float(_exceeding(np.array([d for _, d in drawn]), np.array(combined)))
    else:
        p, combined_p = _tail(chi2, ndf), float(_tail(np.array(combined), np.array(total)))
    overall = passing.sum(1) / table.totals.sum()
    errors = np.sqrt(np.maximum(np.outer(np.diag(table.between), np.diag(table.inner)), 0)) / table.totals
    return Sculpting(
        efficiencies, table.cut.sum(1).astype(np.int64), table.cut.shape[1], cells, passing / table.totals, overall,
        errors, chi2, ndf, p, float(combined), total, combined_p, toys if few else 0,
    )  # fmt: skip


@dataclass(frozen=True, eq=False)
class _Statistic:
    """chi2 of each cut and of all, from d (E, B)."""

    inner: Floats
    between: Floats
    diagonal: Floats
    ndf: Ints
    ndf_combined: int

    @classmethod
    def of(cls, table: _Table) -> _Statistic:
        inner, rank = _inverse(table.inner)
        between, cuts = _inverse(table.between)
        diagonal = np.diag(table.between)
        real = diagonal > 1e-12  # not where all events pass
        return cls(inner, between, np.where(real, diagonal, np.inf), np.where(real, rank, 0), rank * cuts)

    def __call__(self, away: Floats) -> tuple[Floats, float]:
        """(E,), and the combined one."""
        cross = away @ self.inner @ away.T
        return np.diag(cross) / self.diagonal, float((self.between * cross).sum())


def _inverse(matrix: Floats) -> tuple[Floats, int]:
    """The pseudo-inverse of a covariance, and its rank."""
    unit = np.sqrt(np.maximum(np.diag(matrix), 1e-300))
    size, vectors = np.linalg.eigh(matrix / np.outer(unit, unit))
    kept = size > 1e-9 * max(float(size[-1]), 1e-300)
    kept &= bool((np.diag(matrix) > 1e-300).any())
    scaled = vectors[:, kept] / np.sqrt(size[kept]) / unit[:, None]
    return scaled @ scaled.T, int(kept.sum())


def _random(table: _Table, toys: int, seed: int) -> list[Floats]:
    """Passing weights (E, B) of random assignments of masses and weights to scores."""
    if toys < 1:
        raise ValueError(f"toys: expected at least 1, found {toys}; few events are expected in a bin")
    rng = np.random.default_rng(hashing.salt(seed, "sculpting"))
    some = np.asarray(table.cut.any(0))
    cut = table.cut[:, some]
    found = []
    for _ in range(toys):
        rows = rng.choice(len(some), cut.shape[1], replace=False)
        found.append(table.passing(cut, table.bin[rows], table.weight[rows]))
    return found


def _exceeding(drawn: Floats, found: Floats) -> Floats:
    """(k + 1) / (T + 1) of toys (T, ...) with a statistic at least as large; rounding makes no difference."""
    return np.asarray(((drawn >= found * (1 - 1e-9) - 1e-12).sum(0) + 1) / (len(drawn) + 1))


def _tail(chi2: Floats, ndf: Ints) -> Floats:
    return np.asarray(np.where(ndf > 0, stats.chi2.sf(chi2, np.maximum(ndf, 1)), 1.0))


# -- what is given -----------------------------------------------------------------------------------------------------


def _checked(score: ArrayLike, mass: ArrayLike, weight: ArrayLike | None) -> tuple[Floats, Floats, Floats]:
    s, m = np.asarray(score, np.float64), np.asarray(mass, np.float64)
    w = np.ones(m.shape) if weight is None else np.asarray(weight, np.float64)
    if s.ndim != 1 or not s.shape == m.shape == w.shape:
        raise ValueError(f"score, mass, weight: expected one of each per event, found shapes {s.shape}, {m.shape} and "
                         f"{w.shape}")  # fmt: skip
    for name, values in (("score", s), ("mass", m), ("weight", w)):
        check_finite(name, values)
    return s, m, w


def _cells(mass: Floats, bins: int | ArrayLike, exclude: Window | None) -> Floats:
    """(B, 2): equally filled, on either side of what is left out, or between given edges."""
    if isinstance(bins, int | np.integer):
        cells = _filled(mass, int(bins), exclude)
    else:
        edges = np.asarray(bins, np.float64)
        if edges.ndim != 1 or len(edges) < 3 or not (np.diff(edges) > 0).all():
            raise ValueError(f"bins: expected at least two, by edges that rise, found {bins}")
        cells = np.stack([edges[:-1], edges[1:]], 1)
    outside = (mass < cells[0, 0]) | (mass > cells[-1, 1])
    if outside.any():
        raise ValueError(f"bins: expected edges around all masses, found {outside.sum()} of {len(mass)} outside of "
                         f"{cells[0, 0]:g} to {cells[-1, 1]:g}")  # fmt: skip
    place = np.searchsorted(cells[:, 0], mass, side="right") - 1
    content = np.bincount(place, minlength=len(cells))
    if not content.all():
        low, high = cells[int(np.argmin(content))]
        raise ValueError(f"bins: expected events in each, found none from {low:g} to {high:g}; take fewer, or a number "
                         f"for bins of equal contents")  # fmt: skip
    return cells


def _filled(mass: Floats, bins: int, exclude: Window | None) -> Floats:
    if bins < 2:
        raise ValueError(f"bins: expected at least two, found {bins}")
    border = np.inf if exclude is None else exclude.signal[0]
    parts = [part for part in (mass[mass < border], mass[mass >= border]) if len(part)]
    share = [max(1, round(bins * len(part) / len(mass))) for part in parts]
    cells = []
    for part, number in zip(parts, share, strict=True):
        edges = np.unique(np.quantile(part, np.linspace(0, 1, number + 1)))
        edges = edges if len(edges) > 1 else np.array([edges[0], np.nextafter(edges[0], np.inf)])
        cells.append(np.stack([edges[:-1], edges[1:]], 1))
    found = np.concatenate(cells)
    if len(found) < 2:
        raise ValueError(f"bins: expected masses that vary, found {mass[:1].tolist()} throughout")
    return found
