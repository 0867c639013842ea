r"""The smallest local p-value of many toys: what a scan costs.

**With an expectation that is known**, the p-value of a window depends on its count alone.  So each window has a table
of :math:`\ln P(N \ge n)` over n, from sums of P(N = n + 1) = P(N = n) b / (n + 1), made once; a toy's count, the
difference of two cumulative sums, is its place in the table.  It is looked up only where it can matter, where it is
less likely than the most likely of all toys' smallest p-values so far: for about one count in twenty.

**With an expectation that is normalised beside the window**, it differs from toy to toy (and for very many events a
table would be long).  Then a bound comes first,

.. math::
    P(N \ge n) \ge 1 - \Phi\big(\sqrt{2 (n \ln (n / b) - n + b)}\big) \ge 1 - \Phi\big((n - b) / \sqrt{b}\big),

likewise :math:`P(N \le n)` with :math:`(b - n) / \sqrt{n}` (the former by Zubkov and Serov; for Poisson numbers
M. Short, ISRN Prob. Stat. 2013, 412958), and the incomplete gamma function only where the bound is below the toy's
smallest p-value so far.

Both give the minimum over all windows exactly.

Shapes: C channels, T toys, W windows of a group.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from typing import Any, Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

from .hunter_windows import Group, cumulative

__all__: list[str] = []

Floats = NDArray[np.float64]
Mode = Literal["excess", "deficit", "both"]
Tail = Literal["excess", "deficit"]

_PLACES = 1 << 22  # of the tables of a group: 32 MB
_CELLS = 1 << 19  # windows x toys at a time, where all windows of a group are
_CHUNK = 1 << 14  # toys: 64 KB a bin; with fewer, what a call costs is more than what it does
_REACH, _END = 6.0, 10.5  # standard deviations that a table spans, what is beyond is computed; and its sums do
_FEW = 16
_LOG_FACTORIAL = np.array([math.lgamma(n + 1) for n in range(_FEW + 1)])
_LEAST = 1e-290  # below, P is not in a table: subnormal numbers have lost digits


def tails(mode: Mode) -> tuple[Tail, ...]:
    """Which sides count."""
    return ("excess", "deficit") if mode == "both" else (mode,)


def smallest(counts: Sequence[NDArray[Any]], expected: Sequence[Floats], groups: Sequence[Group], mode: Mode,
             *, sideband: bool) -> Floats:  # fmt: skip
    """The smallest log p (T,) over all windows of counts (T, *bins) of each channel."""
    sums, best = [cumulative(each) for each in counts], np.zeros(len(counts[0]))
    for group in groups:
        means = [group.sums(b) for b in expected]
        if sideband or not _tabulated(means):
            _compute(best, sums, expected, group, mode, sideband)
            continue
        for tail in tails(mode):
            _look_up(best, sums, group, [Table.of(b, tail) for b in means], tail)
    beyond = best == -np.inf  # of the tables
    if beyond.any():
        few, exact = [each[..., beyond] for each in sums], np.zeros(np.count_nonzero(beyond))
        for group in groups:
            _compute(exact, few, expected, group, mode, sideband)
        best[beyond] = exact
    return best


def inside(
    sums: Sequence[NDArray[Any]], expected: Sequence[Floats], group: Group, sideband: bool
) -> tuple[Floats, Floats]:
    """Observed and expected (C, W, T) in the windows of a group, normalised beside each where there is a sideband."""
    n = np.stack([group.counts(s) for s in sums]).astype(np.float64)
    b = np.stack([group.sums(e) for e in expected])[:, :, None]
    if not sideband:
        return n, np.broadcast_to(b, n.shape)
    last = (-1,) * expected[0].ndim
    total = np.stack([s[last] for s in sums])[:, None, :]
    return n, (total - n) * (b / (np.array([e.sum() for e in expected])[:, None, None] - b))


def local(n: Floats, b: Floats, mode: Mode) -> Floats:
    """The exact log p (*), the sum over channels (C, *): 0 on the other side of the expectation, or for none."""
    return np.asarray(np.min([_one_sided(n, b, tail).sum(0) for tail in tails(mode)], axis=0))


def of_data(sums: Sequence[NDArray[Any]], expected: Sequence[Floats], group: Group, mode: Mode, sideband: bool
            ) -> tuple[Floats, Floats, Floats]:  # fmt: skip
    """Observed and expected (C, W) and the log p (W,) in the windows of a group, for `cumulative` of one spectrum."""
    n, b = (each[..., 0] for each in inside(sums, expected, group, sideband))
    if sideband or not _tabulated(b):
        return n, b, local(n, b, mode)
    log_p = np.zeros(n.shape[1])
    for tail in tails(mode):
        sign = 1 if tail == "excess" else -1
        found = [Table.of(e, tail).at(sign * k.astype(np.int64)) for k, e in zip(n, b, strict=True)]
        np.minimum(log_p, sum(found), out=log_p)
    beyond = log_p == -np.inf
    if beyond.any():
        log_p[beyond] = local(n[:, beyond], b[:, beyond], mode)
    return n, b, log_p


def _one_sided(n: Floats, b: Floats, tail: Tail) -> Floats:
    from ..significance import log_poisson_p  # scipy only where it is needed: its import takes longer than most scans

    log_p, counts = np.zeros(n.shape), _on_side(n, b, tail)
    log_p[counts] = log_poisson_p(n[counts], b[counts], tail=tail)
    return log_p


def _on_side(n: Floats, b: Floats, tail: Tail) -> NDArray[np.bool_]:
    return (b > 0) & ((n > b) if tail == "excess" else (n < b))


# -- tables ------------------------------------------------------------------------------------------------------------


class Table(NamedTuple):
    """log p (W, L) of the counts start + 0, start + 1, ... of each window, or of -n for a deficit: 0, falling, -inf."""

    log_p: Floats
    start: NDArray[np.int64]

    @classmethod
    def of(cls, b: Floats, tail: Tail) -> Table:
        """Of expectations (W,) above 0."""
        sign = 1 if tail == "excess" else -1
        edge = np.floor(b) if tail == "excess" else np.ceil(b)
        n = edge[:, None] + sign * np.arange(1.0, _length(b, _END) + 1)
        ratio = b[:, None] / n if tail == "excess" else np.maximum(n + 1, 0.0) / b[:, None]
        ratio[:, 0] = _poisson_near(n[:, 0], b)
        return cls(_logs(ratio, _length(b, _REACH)), (sign * edge).astype(np.int64))

    def least(self, log_p: float) -> list[int]:
        """The first place whose log p is below, at each window."""
        return list(map(int, self.start + np.count_nonzero(self.log_p >= log_p, axis=1)))

    def at(self, n: NDArray[Any]) -> Floats:
        """log p (W,) of counts (W,), or of -n for a deficit."""
        place = np.clip(n - self.start, 0, self.log_p.shape[1] - 1)
        return np.asarray(self.log_p[np.arange(len(n)), place])


def _tabulated(means: Iterable[Floats]) -> bool:
    """Whether tables of expectations (W,) of each channel are small enough, up to a few million events a window."""
    return all(len(b) * _length(b, _END) <= _PLACES for b in means)


def _length(b: Floats, sigma: float) -> int:
    return int(sigma * np.sqrt(b.max()) + sigma**2 / 3)


def _logs(ratio: Floats, kept: int) -> Floats:
    """Logarithms of tails, from the first term and then the ratio of each to the one before."""
    terms = np.cumprod(ratio, axis=1, out=ratio)
    p = np.cumsum(terms[:, ::-1], axis=1)[:, : -kept - 1 : -1]
    log_p = np.full((len(p), kept + 2), -np.inf)
    log_p[:, 0] = 0.0
    np.log(p, out=log_p[:, 1:-1], where=p > _LEAST)
    return log_p


def _poisson_near(n: Floats, b: Floats) -> Floats:
    """P(N = n) for n next to b (W,), to all digits (Loader's form: the terms of n log b - b - log n! would cancel).

    Without scipy, the import of which takes longer than most scans.
    """
    off = (n - b) / b
    with np.errstate(divide="ignore", invalid="ignore"):
        large = -b * ((1 + off) * np.log1p(off) - off) - 0.5 * np.log(2 * np.pi * n) - _stirling(n)
        small = n * np.log(b) - b - _LOG_FACTORIAL[np.minimum(n, _FEW).astype(np.int64)]
    return np.exp(np.where(n > _FEW, large, small))


def _stirling(n: Floats) -> Floats:
    """What Stirling's formula lacks of log n!, to 1e-16 for n > 16."""
    return (1 / 12 - (1 / 360 - (1 / 1260 - 1 / (1680 * n**2)) / n**2) / n**2) / n


def _look_up(best: Floats, sums: Sequence[NDArray[Any]], group: Group, tables: Sequence[Table], tail: Tail) -> None:
    """Lower ``best`` (T,) to the smallest log p of a group's windows; -inf beyond the tables."""
    for first in range(0, len(best), _CHUNK):
        rows = slice(first, first + _CHUNK)
        given = [s[..., rows] if tail == "excess" else -s[..., rows] for s in sums]
        if len(given) == 1:
            _look_up_one(best[rows], group, given[0], tables[0])
        else:
            _look_up_all(best[rows], group, given, tables)


def _look_up_one(best: Floats, group: Group, sums: NDArray[Any], table: Table) -> None:
    windows = zip(group.each(sums), table.log_p, table.start, table.least(float(best.max())), strict=True)
    for n, log_p, start, least in windows:
        (found,) = (n >= least).nonzero()
        best[found] = np.minimum(best[found], log_p.take(n[found] - start, mode="clip"))


def _look_up_all(best: Floats, group: Group, sums: Sequence[NDArray[Any]], tables: Sequence[Table]) -> None:
    each = [zip(group.each(s), t.log_p, t.start, strict=True) for s, t in zip(sums, tables, strict=True)]
    for channels in zip(*each, strict=True):
        product = sum(log_p.take(n - start, mode="clip") for n, log_p, start in channels)
        np.minimum(best, product, out=best)


# -- without tables ----------------------------------------------------------------------------------------------------


def _compute(
    best: Floats, sums: Sequence[NDArray[Any]], expected: Sequence[Floats], group: Group, mode: Mode, sideband: bool
) -> None:
    """Lower ``best`` (T,) to the smallest log p of a group's windows."""
    size = max(1, _CELLS // group.size)
    for first in range(0, len(best), size):  # all windows at once
        rows = slice(first, first + size)
        n, b = inside([s[..., rows] for s in sums], expected, group, sideband)
        for tail in tails(mode):
            _bounded(best[rows], n, b, tail)


def _bounded(best: Floats, n: Floats, b: Floats, tail: Tail) -> None:
    """Lower ``best`` (T,) to the smallest log p of windows (C, W, T): first the one that looks best, for each toy."""
    score = _score(_most(n, b, tail))
    _lower(best, n, b, tail, score.argmax(0), np.arange(len(best)))
    _lower(best, n, b, tail, *np.nonzero(score > _score_of(best, len(n))))


def _most(n: Floats, b: Floats, tail: Tail) -> Floats:
    """At least twice the deviance, without its logarithm, and 0 on the other side."""
    if tail == "excess":
        return np.asarray(np.square(np.maximum(n - b, 0.0)) / np.maximum(b, _LEAST))
    return np.asarray(np.minimum(np.square(np.minimum(n - b, 0.0)) / np.maximum(n, _LEAST), 2 * b))


def _score(most: Floats) -> Floats:
    """Rises with what a window (C, W, T) can have at most: the square of its Z, or of channels together its -log p."""
    if len(most) == 1:
        return np.asarray(most[0])
    from scipy import special

    return np.asarray(-np.where(most > 0, special.log_ndtr(-np.sqrt(most)), 0.0).sum(0))


def _score_of(log_p: Floats, channels: int) -> Floats:
    """The same of the p-values (T,)."""
    from ..significance import z_of_log_p

    return -log_p if channels > 1 else np.square(np.maximum(z_of_log_p(log_p), 0.0))


def _lower(best: Floats, n: Floats, b: Floats, tail: Tail, window: Any, toy: Any) -> None:
    np.minimum.at(best, toy, _one_sided(n[:, window, toy], b[:, window, toy], tail).sum(0))
