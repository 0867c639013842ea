r"""BumpHunter: a bump anywhere, of whatever width, in a spectrum whose expectation is known.

Every window of neighbouring bins has a local p-value, that of its count n where b are expected,

.. math:: p = P(N \ge n \mid b) = \frac{\gamma(n, b)}{\Gamma(n)} \;\text{ for } n > b, \text{ else } 1

(a deficit: :math:`P(N \le n \mid b)` for n < b, else 1), and the test statistic is that of the most unlikely window,

.. math:: t = -\ln \min_\text{windows} p.

How often the background alone gives a t at least as large, in any window, is found by toys: the *global* p-value, with
the number of windows, their overlaps and the discreteness of counts in it ("look-elsewhere effect").

**Two dimensions** (or more): windows are rectangles.  **Several channels**: a window is the same bins in each of them,
and its p is the product over channels.  **The normalisation** may float, ``sideband=``: the expectation of a window is
then scaled to the counts outside of it, and toys have the data's total.

**pyBumpHunter** 0.5 has the same statistic, and differs in three things.  For several channels it multiplies the
p-values of each channel's own best window, where these overlap.  With a sideband its toys keep the expectation's total,
and p is at least 1e-300.  Its global p-value is k/T, which can be 0; here it is (1 + k)/(1 + T).

Sources: Choudalakis, arXiv 1101.0390; pyBumpHunter, Vaslin, Calvet, Barra, Donini, arXiv 2208.14760.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from statistics import NormalDist
from typing import Any, Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray

from ...errors import check_finite
from ...records import Record
from .hunter_scan import Mode, of_data, smallest
from .hunter_spectra import Draws, Spectra, checked_toys
from .hunter_windows import Group, PerAxis, Step, asked_windows, cumulative

__all__ = ["BumpHunt", "bump_hunt"]

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]

_ROUNDING = 1e-9  # of t: two windows with the same p-value differ by as much at most


@dataclass(frozen=True, eq=False, kw_only=True)
class BumpHunt(Record):
    """What `bump_hunt` found, over C channels, D axes, W windows and T toys.

    Attributes
    ----------
    mode, sideband:
        As asked; ``sideband`` is -1 where the expectation was taken as it is.
    channels:
        Their names; one empty name for a single spectrum.
    counts, expectation:
        The spectra: an array of the channels C and the bins of each axis.
    edges:
        Of all axes, one axis after the other; `axes` has them apart.
    first, width:
        First bin and number of bins of every window (W, D).
    observed, expected:
        In every window (W, C), the expectation normalised beside it where there is a sideband.
    log_p:
        The logarithm of the local p-value of every window (W,).
    toys:
        The statistic t of every toy (T,).
    """

    _KIND = "bump hunt"

    mode: str
    sideband: int
    channels: tuple[str, ...]
    counts: Floats
    expectation: Floats
    edges: Floats
    first: Ints
    width: Ints
    observed: Floats
    expected: Floats
    log_p: Floats
    toys: Floats

    # -- the window ----------------------------------------------------------------------------------------------------

    @cached_property
    def best(self) -> int:
        """The number of the most unlikely window."""
        return int(self.log_p.argmin())

    @property
    def axes(self) -> tuple[Floats, ...]:
        """The edges of each axis (bins + 1,)."""
        ends = np.cumsum([bins + 1 for bins in self.counts.shape[1:]])
        return tuple(np.split(self.edges, ends[:-1]))

    @property
    def bins(self) -> tuple[slice, ...]:
        """The bins of the window, a slice an axis."""
        pairs = zip(self.first[self.best].tolist(), self.width[self.best].tolist(), strict=True)
        return tuple(slice(first, first + width) for first, width in pairs)

    @property
    def window(self) -> tuple[tuple[float, float], ...]:
        """Its edges, a pair (low, high) an axis."""
        return tuple((float(e[s.start]), float(e[s.stop])) for e, s in zip(self.axes, self.bins, strict=True))

    @property
    def signal(self) -> float:
        """Observed minus expected in the window, all channels together.

        The window was chosen because there are many events in it: the number is too large on average.
        """
        return float((self.observed[self.best] - self.expected[self.best]).sum())

    @property
    def signal_error(self) -> float:
        """The square root of the events in the window, or of what is expected there if that is more."""
        return float(np.sqrt(max(self.observed[self.best].sum(), self.expected[self.best].sum())))

    def strength(self, signal: ArrayLike) -> tuple[float, float]:
        """`signal` and its error in units of what a signal, binned as the spectra are, brings into the window.

        Raises
        ------
        ValueError
            for another shape, or a signal that has nothing in the window.
        """
        given = np.asarray(signal, np.float64)
        given = given[None] if given.ndim == self.counts.ndim - 1 else given
        if given.shape != self.counts.shape:
            raise ValueError(f"signal: expected bins of shape {self.counts.shape}, found {np.shape(signal)}")
        check_finite("signal", given.reshape(-1))
        within = float(given[(slice(None), *self.bins)].sum())
        if not within > 0:
            raise ValueError(f"signal: expected some in the window {self.window}, found {within:g}")
        return self.signal / within, self.signal_error / within

    @property
    def local_p(self) -> float:
        """The p-value of the window as if it had been the only one; 0 where it is below 1e-323, see `local_z`."""
        return float(np.exp(self.log_p[self.best]))

    @property
    def local_z(self) -> float:
        """Its significance; 0 where no window is on the side that was looked for."""
        log_p = float(self.log_p[self.best])
        if log_p > -600:
            return _z(np.exp(log_p)) if log_p < 0 else 0.0
        from ..significance import z_of_log_p

        return float(z_of_log_p(log_p))

    # -- anywhere ------------------------------------------------------------------------------------------------------

    @property
    def statistic(self) -> float:
        """The test statistic t of the data."""
        return float(abs(self.log_p[self.best]))

    @cached_property
    def exceeding(self) -> int:
        """k, the number of toys with a t at least as large; differences by rounding are none."""
        return int(np.count_nonzero(self.toys >= self.statistic * (1 - _ROUNDING)))

    @property
    def is_bound(self) -> bool:
        """Whether no toy exceeds the data: all that is known then is that p is small, see `p_upper`."""
        return self.exceeding == 0

    @property
    def p_value(self) -> float:
        """The global p-value (1 + k)/(1 + T): the data are one more draw, and p < a has at most the probability a."""
        return (1 + self.exceeding) / (1 + len(self.toys))

    @property
    def p_error(self) -> float:
        """Its standard deviation by the number of toys."""
        return float(np.sqrt(self.p_value * (1 - self.p_value) / len(self.toys)))

    @property
    def p_upper(self) -> float:
        """The upper bound on p at 95% confidence (Clopper-Pearson); 3/T where no toy exceeds."""
        k, count = self.exceeding, len(self.toys)
        if k == 0:
            return float(1 - 0.05 ** (1 / count))
        from scipy import special

        return float(special.betaincinv(k + 1, count - k, 0.95)) if k < count else 1.0

    @property
    def z(self) -> float:
        """The global significance of `p_value`; where every toy exceeds, that of T/(1 + T), so that it is finite."""
        return _z(min(self.p_value, len(self.toys) / (1 + len(self.toys))))

    @property
    def z_lower(self) -> float:
        """The significance of `p_upper`: at least so much, at 95% confidence."""
        return _z(self.p_upper) if self.p_upper < 1 else self.z

    def __str__(self) -> str:
        where = " x ".join(f"[{low:g}, {high:g}]" for low, high in self.window)
        if not self.statistic:
            return f"bump hunt ({self.mode}): none in {len(self.log_p)} windows"
        if self.is_bound:
            found = f"p < {self.p_upper:.2g} at 95% (none of {len(self.toys)} toys exceeds), Z > {self.z_lower:.2f}"
        else:
            found = (
                f"p = {self.p_value:.2g} +- {self.p_error:.1g} ({self.exceeding} of {len(self.toys)} toys), "
                f"Z = {self.z:.2f}"
            )
        return (
            f"bump hunt ({self.mode}): {where}, {self.observed[self.best].sum():g} observed, "
            f"{self.expected[self.best].sum():.4g} expected\n"
            f"  local p = {self.local_p:.2g}, Z = {self.local_z:.2f}; global {found}"
        )


def _z(p: float) -> float:
    """As `nuinfer.anomaly.significance.z_of_p`, without scipy, the import of which takes longer than most scans."""
    return -NormalDist().inv_cdf(p)


def bump_hunt(
    observed: Any,
    expected: Any,
    *,
    edges: Any = None,
    widths: tuple[int, int] | Sequence[tuple[int, int]] | None = None,
    width_step: PerAxis = 1,
    scan_step: Step | tuple[Step, ...] = 1,
    mode: Mode = "excess",
    sideband: int | Literal[False] = False,
    toys: int = 10_000,
    systematics: Draws | None = None,
    pseudo_data: Any = None,
    seed: int | None = None,
) -> BumpHunt:
    r"""The most unlikely window of a spectrum, and how often the background alone gives one as unlikely.

    Parameters
    ----------
    observed, expected:
        A ``hist.Hist`` (or anything UHI), or an array of any number of axes; of several channels, a mapping of these by
        name, all with the same bins.  Counts are whole numbers; every bin has an expectation above 0.
        Flow bins do not take part.
    edges:
        Of arrays: (bins + 1,), or a tuple of these, one an axis; also pairs (bins, 2).  Without, bins are numbered.
    widths:
        Least and most bins of a window, a pair, or a pair an axis; without, from 1 to half of the bins.  All
        combinations are scanned, within the spectrum.
    width_step, scan_step:
        Steps of the width and of the first bin, in bins; ``"full"`` and ``"half"`` are the width and half of it.
    mode:
        ``"excess"``, ``"deficit"``, or ``"both"``, the more unlikely of the two (in all channels on the same side).
    sideband:
        A number scales the expectation of each window to the counts outside of it, and leaves so many bins at each end
        out of the scan, but in the normalisation; 0 leaves out none.  False takes the expectation as it is.
    toys:
        T, how many pseudo-experiments: Poisson numbers of the expectation; with a sideband multinomial ones, with the
        data's total in each channel.
    systematics:
        ``(generator, n) -> (n, ...)``: the expectations of n toys, drawn from what is known of the background; of
        several channels a mapping of these.  The statistic of the data and of the toys is with ``expected``.
    pseudo_data:
        Toys of your own, T spectra in one array, or a mapping of these, in place of ``toys``.
    seed:
        Of the toys.  The first toys do not depend on how many there are (without systematics).

    Raises
    ------
    ValueError
        for counts that are weighted or not whole, bins without expectation, spectra, channels, edges or toys that do
        not fit, edges that do not rise or bins that overlap, widths that do not fit, steps below 1, numbers that are
        not finite, or no seed where toys are drawn.
    TypeError
        for channels of one and none of the other.

    >>> expected = 1000 * np.exp(-np.arange(20) / 4)
    >>> observed = np.round(expected) + 40 * (abs(np.arange(20) - 9.5) < 1)
    >>> found = bump_hunt(observed, expected, edges=np.linspace(100, 300, 21), widths=(1, 4), toys=2000, seed=1)
    >>> found.window, round(found.signal), found.is_bound, round(found.p_upper, 4)
    (((190.0, 210.0),), 80, True, 0.0015)
    """
    data = Spectra.of(observed, expected, edges)
    if mode not in ("excess", "deficit", "both"):
        raise ValueError(f"mode: expected 'excess', 'deficit' or 'both', found {mode!r}")
    floats = sideband is not False
    groups = asked_windows(data.bins, widths, width_step, scan_step, sideband if floats else None)
    if pseudo_data is None:
        blocks = data.drawn(checked_toys(toys), seed, systematics, floats)
    else:
        blocks = iter([data.toys(pseudo_data)])
    t = [-smallest(block, data.expected, groups, mode, sideband=floats) for block in blocks]
    windows = _windows(data, groups, mode, floats)
    return BumpHunt(
        mode=mode, sideband=int(sideband) if floats else -1, channels=data.names, counts=np.stack(data.observed),
        expectation=np.stack(data.expected), edges=np.concatenate(data.edges), toys=np.concatenate(t) + 0.0, **windows,
    )  # fmt: skip


def _windows(data: Spectra, groups: Sequence[Group], mode: Mode, sideband: bool) -> dict[str, Any]:
    """Everything that is known of each window of the data."""
    sums = [cumulative(each[None].astype(np.int64)) for each in data.observed]
    n, b, log_p = zip(*(of_data(sums, data.expected, group, mode, sideband) for group in groups), strict=True)
    return {
        "first": np.concatenate([group.corners() for group in groups]),
        "width": np.concatenate([np.tile(group.width, (group.size, 1)) for group in groups]),
        "observed": np.concatenate(n, axis=1).T,
        "expected": np.concatenate(b, axis=1).T,
        "log_p": np.concatenate(log_p),
    }
