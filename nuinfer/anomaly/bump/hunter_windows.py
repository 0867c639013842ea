"""Windows of a scan, in any number of dimensions, and what is in them.

A group holds all windows of one width: the first bins along each axis, of which every combination is a window.  Windows
of a group are numbered with the last axis fastest, and the groups follow each other likewise.

Shapes: T toys, D axes, W windows of a group.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator, Sequence
from typing import Any, Literal, NamedTuple

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view
from numpy.typing import NDArray

__all__: list[str] = []

Floats = NDArray[np.float64]
Step = int | Literal["full", "half"]
PerAxis = int | tuple[int, ...]


class Group(NamedTuple):
    """Windows of one width (in bins, one number an axis), and the first bins along each axis."""

    width: tuple[int, ...]
    starts: tuple[tuple[int, ...], ...]

    @property
    def size(self) -> int:
        """W."""
        return math.prod(map(len, self.starts))

    def corners(self) -> NDArray[np.int64]:
        """The first bin of each window (W, D)."""
        return np.array(list(itertools.product(*self.starts)), np.int64).reshape(-1, len(self.width))

    def sums(self, contents: Floats) -> Floats:
        """What is in each window (W,) of contents (*bins), added up window by window.

        Differences of cumulative sums would do for counts; in a steeply falling spectrum they leave nothing of an
        expectation that is small beside the sum before it.
        """
        axes = tuple(range(-len(self.width), 0))
        every = sliding_window_view(contents, self.width).sum(axes)
        return np.asarray(every[np.ix_(*self.starts)].reshape(-1))

    def counts(self, sums: NDArray[Any]) -> NDArray[Any]:
        """The same (W, T) of cumulative sums (*bins + 1, T), which are exact for whole numbers."""
        for axis, (width, starts) in enumerate(zip(self.width, self.starts, strict=True)):
            first = np.array(starts)
            sums = sums.take(first + width, axis) - sums.take(first, axis)
        return sums.reshape(-1, sums.shape[-1])

    def each(self, sums: NDArray[Any]) -> Iterator[NDArray[Any]]:
        """The same window by window (T,), in one buffer that the next one overwrites."""
        return _each(sums, self.width, self.starts)


def _each(sums: NDArray[Any], width: Sequence[int], starts: Sequence[Sequence[int]]) -> Iterator[NDArray[Any]]:
    if sums.ndim > 2:
        for first in starts[0]:
            yield from _each(sums[first + width[0]] - sums[first], width[1:], starts[1:])
        return
    rows, inside = list(sums), np.empty_like(sums[0])
    for first in starts[0]:
        yield np.subtract(rows[first + width[0]], rows[first], out=inside)


def cumulative(counts: NDArray[Any]) -> NDArray[Any]:
    """Cumulative sums (*bins + 1, T) of counts (T, *bins), from 0, in the narrowest integers that hold them.

    Toys are last, so that what is done to a window is done to neighbours in memory.
    """
    most = counts.reshape(len(counts), -1).sum(1).max(initial=0)
    kind = np.int32 if most < 2**31 else np.int64
    axes = counts.ndim - 1
    sums = np.zeros((*(bins + 1 for bins in counts.shape[1:]), len(counts)), kind)
    inner = sums[(slice(1, None),) * axes]
    inner[...] = np.moveaxis(counts, 0, -1)
    for axis in range(axes):
        np.cumsum(inner, axis, out=inner)
    return sums


def groups(
    bins: Sequence[int],
    widths: Sequence[tuple[int, int]],
    width_step: Sequence[int],
    scan_step: Sequence[Step],
    margin: int,
) -> tuple[Group, ...]:
    """All windows between the margins, of every combination of widths."""
    every = (range(low, high + 1, step) for (low, high), step in zip(widths, width_step, strict=True))
    return tuple(
        Group(width, tuple(tuple(range(margin, b - margin - w + 1, _step(s, w)))
                           for b, w, s in zip(bins, width, scan_step, strict=True)))
        for width in itertools.product(*every)
    )  # fmt: skip


def _step(step: Step, width: int) -> int:
    if isinstance(step, str):
        return width if step == "full" else max(1, width // 2)
    return step


# -- what a user asks for ----------------------------------------------------------------------------------------------


def asked_windows(
    bins: tuple[int, ...], widths: Any, width_step: Any, scan_step: Any, margin: int | None
) -> tuple[Group, ...]:
    """`groups`, from the options of a scan."""
    axes, kept = len(bins), margin or 0
    if isinstance(margin, bool) or not isinstance(kept, int | np.integer) or kept < 0 or 2 * kept >= min(bins):
        raise ValueError(f"sideband: expected a number of bins from 0 at each end that leaves some of {min(bins)} to "
                         f"scan, found {margin!r}; 0 normalises beside each window and leaves no bin out")  # fmt: skip
    pairs = _widths(tuple(b - 2 * kept for b in bins), widths)
    if margin == 0 and all(high >= b for (_, high), b in zip(pairs, bins, strict=True)):
        raise ValueError(f"widths: a window of {' x '.join(map(str, bins))} bins leaves no bins beside it to "
                         "normalise by; expected narrower windows, or a sideband that is left out")  # fmt: skip
    steps = _each_axis("width_step", width_step, axes)
    for step in steps:
        if not isinstance(step, int | np.integer) or step < 1:
            raise ValueError(f"width_step: expected whole numbers from 1, found {step!r}")
    scan = _each_axis("scan_step", scan_step, axes)
    for step in scan:
        if step not in ("full", "half") and (not isinstance(step, int | np.integer) or step < 1):
            raise ValueError(f"scan_step: expected 'full', 'half' or a whole number from 1, found {step!r}")
    return groups(bins, pairs, steps, scan, int(kept))


def _widths(room: tuple[int, ...], widths: Any) -> tuple[tuple[int, int], ...]:
    if widths is None:
        return tuple((1, max(1, bins // 2)) for bins in room)
    found = np.asarray(widths)
    found = np.broadcast_to(found, (len(room), 2)) if found.shape in ((2,), (len(room), 2)) else found
    if found.shape != (len(room), 2) or found.dtype.kind not in "iu":
        raise ValueError(f"widths: expected whole numbers (least, most), or a pair an axis, found {widths!r}")
    for (low, high), bins in zip(found.tolist(), room, strict=True):
        if not 1 <= low <= high:
            raise ValueError(f"widths: expected 1 <= least <= most, found ({low}, {high})")
        if high > bins:
            raise ValueError(f"widths: expected at most the {bins} bins that are scanned, found {high}; take narrower "
                             "windows or finer bins")  # fmt: skip
    return tuple((low, high) for low, high in found.tolist())


def _each_axis(what: str, given: Any, axes: int) -> tuple[Any, ...]:
    found = tuple(given) if isinstance(given, list | tuple) else (given,) * axes
    if len(found) != axes:
        raise ValueError(f"{what}: expected one value, or {axes}, one an axis, found {len(found)}")
    return found
