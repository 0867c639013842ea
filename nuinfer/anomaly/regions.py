r"""Where to look: a signal region in the resonance variable and the sidebands beside it.

A search for a resonance at an unknown mass takes one window after the other: a signal region :math:`[l, h)`, as wide as
the peak, and sidebands to its left and right, in which there is as good as no signal.  Intervals are half-open, so that
neighbours share no event.

Source: Collins, Howe, Nachman, arXiv:1902.02634.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterable
from dataclasses import dataclass
from numbers import Real
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

__all__ = ["Window", "sliding_windows"]

Interval = tuple[float, float]
Mask = NDArray[np.bool_]


@dataclass(frozen=True, kw_only=True)
class Window:
    """A signal region and its sidebands, as half-open intervals [low, high) of the resonance variable.

    Parameters
    ----------
    signal:
        (low, high) of the signal region.
    sidebands:
        (low, high) of each sideband, in ascending order; they may leave gaps, to each other and to the signal region.

    Raises
    ------
    ValueError
        for no sidebands, an interval that is not finite or not ascending, sidebands out of order or overlapping each
        other or the signal region.

    Examples
    --------
    >>> window = Window(signal=(3.3, 3.7), sidebands=((2.9, 3.3), (3.7, 4.1)))
    >>> window.in_signal([3.3, 3.7]).tolist(), window.in_sidebands([3.3, 3.7]).tolist()
    ([True, False], [False, True])
    """

    signal: Interval
    sidebands: tuple[Interval, ...]

    def __post_init__(self) -> None:
        object.__setattr__(self, "signal", _interval("signal", self.signal))
        bands = self.sidebands if isinstance(self.sidebands, Iterable) else ()
        bands = tuple(_interval("sidebands", band, "; write ((low, high), ...)") for band in bands)
        if not bands:
            raise ValueError("sidebands: expected at least one (low, high), found none; without them there is nothing "
                             "to compare the signal region with")  # fmt: skip
        object.__setattr__(self, "sidebands", bands)
        for one, other in itertools.pairwise(bands):
            if other[0] < one[1]:
                raise ValueError(f"sidebands: expected ascending intervals without overlap, found {one} before {other}")
        for low, high in bands:
            if low < self.signal[1] and high > self.signal[0]:
                raise ValueError(f"sidebands: expected none that overlaps the signal region {self.signal}, found "
                                 f"({low:g}, {high:g})")  # fmt: skip

    @property
    def range(self) -> Interval:
        """From the lowest to the highest end of signal region and sidebands."""
        return min(self.signal[0], self.sidebands[0][0]), max(self.signal[1], self.sidebands[-1][1])

    def in_signal(self, mass: ArrayLike) -> Mask:
        """Which of the masses (N,) are in the signal region."""
        return _within(mass, self.signal)

    def in_sidebands(self, mass: ArrayLike) -> Mask:
        """Which of the masses (N,) are in a sideband."""
        return self.sideband_of(mass) >= 0

    def sideband_of(self, mass: ArrayLike) -> NDArray[np.int64]:
        """The number of the sideband of each mass (N,), -1 where it is in none."""
        found = np.full(np.shape(mass), -1, np.int64)
        for number, band in enumerate(self.sidebands):
            found[_within(mass, band)] = number
        return found


def sliding_windows(
    range: Interval, *, width: float, step: float, sideband: float, relative: bool = False
) -> tuple[Window, ...]:
    r"""Windows side by side, or overlapping, with a sideband on either side of each.

    The sidebands fill ``range`` as far as they are asked to: the first window begins at its lower end with a whole
    sideband, the last ends inside it.

    Parameters
    ----------
    range:
        (low, high) of what signal regions and sidebands may use.
    width:
        Of the signal region.
    step:
        From one signal region to the next: ``width`` for no overlap, half of it so that no peak is cut by each.
    sideband:
        Width of each of the two sidebands.
    relative:
        The three are fractions of the mass: a width of 0.1 is from :math:`m` to :math:`1.1\,m`, and the windows are
        evenly spaced in :math:`\ln m`.

    Returns
    -------
    tuple of Window
        In ascending order, at least one.

    Raises
    ------
    ValueError
        for widths or steps that are not positive, a range that is not ascending (or, if relative, not positive), or
        too short for one window.

    Examples
    --------
    >>> [window.signal for window in sliding_windows((0, 10), width=2, step=2, sideband=2)]
    [(2.0, 4.0), (4.0, 6.0), (6.0, 8.0)]
    """
    low, high = _interval("range", range)
    if not all(isinstance(size, Real) and math.isfinite(size) and size > 0 for size in (width, step, sideband)):
        raise ValueError(f"width, step, sideband: expected positive numbers, found {width!r}, {step!r}, {sideband!r}")
    if relative and low <= 0:
        raise ValueError(f"range: expected positive masses for relative widths, found ({low:g}, {high:g})")
    sizes = [math.log1p(size) if relative else size for size in (width, step, sideband)]
    start, stop = (math.log(low), math.log(high)) if relative else (low, high)
    left = stop - start - sizes[0] - 2 * sizes[2]
    if left < -1e-9 * (stop - start):
        unit = " times the mass" if relative else ""
        raise ValueError(f"range: expected room for a window of {width:g} and two sidebands of {sideband:g}{unit}, "
                         f"found ({low:g}, {high:g}); take a wider range, or narrower windows")  # fmt: skip
    count = math.floor(left / sizes[1] + 1e-9) + 1
    return tuple(_window(start + number * sizes[1], sizes[0], sizes[2], relative) for number in np.arange(count))


def _window(start: float, width: float, sideband: float, relative: bool) -> Window:
    places = [start, start + sideband, start + sideband + width, start + 2 * sideband + width]
    # to 12 digits, so that the borders that neighbours share are the same number
    a, b, c, d = (float(f"{math.exp(place) if relative else place:.12g}") for place in places)
    return Window(signal=(b, c), sidebands=((a, b), (c, d)))


def _within(mass: ArrayLike, region: Interval) -> Mask:
    values = np.asarray(mass, np.float64)
    return np.asarray((values >= region[0]) & (values < region[1]))


def _interval(name: str, given: Any, hint: str = "") -> Interval:
    try:
        low, high = (float(end) for end in given)
    except (TypeError, ValueError):
        low, high = math.nan, math.nan
    if not (math.isfinite(low) and math.isfinite(high) and low < high):
        raise ValueError(f"{name}: expected (low, high) with low < high, both finite, found {given!r}{hint}")
    return low, high
