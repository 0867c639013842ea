r"""Data, a background and perhaps a signal: everything that a fit of a spectrum needs, but the mass.

In bins i with contents n, background contents b(theta) and the signal's fractions s(phi),

.. math:: \mu_i = b_i(\theta) + S \, s_i(m, \phi), \qquad
          -\ln L = \sum_i \Big[\mu_i - n_i + n_i \ln \frac{n_i}{\mu_i}\Big]
                   + \sum_k \frac{(\theta_k - c_k)^2}{2 \sigma_k^2},

relative to the saturated model, so that the first sum is half of the goodness-of-fit chi2.  Of events x_j without bins

.. math:: -\ln L = \int \mu(x) \, dx - \sum_j \ln \mu(x_j) + \dots

The yield S may be negative as far as every :math:`\mu_i` (or the density on a fine grid) stays positive.  Where the
data would draw it further, as in empty bins, the minimum is at that boundary, and the fit says so.

**Weights.** Contents that are sums of weights do not follow Poisson's law, and are refused unless ``weighted=True``.
Then every bin counts in effective events, its :math:`k_i = \sum w / \sum w^2` times, which gives contents their
variance: :math:`k_i n_i` is compared with :math:`k_i \mu_i`; bins without events, and events without bins, take the k
of all of them. (Bohm, Zech, arXiv 1309.1287.) Negative contents are refused.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any, Self

import numpy as np
from numpy.typing import ArrayLike, NDArray

from ...errors import check_finite, closest
from ...histograms import Contents, variances
from .quadrature import bins_of, nodes, order_needed
from .shapes import BackgroundShape, Limits, check_spec, names_unique
from .signals import SignalShape

__all__ = ["YIELD", "BumpLikelihood"]

Floats = NDArray[np.float64]
Bools = NDArray[np.bool_]
Interval = tuple[float, float]

YIELD = "yield"


@dataclass(frozen=True, eq=False)
class BumpLikelihood:
    """A spectrum and its model; made by `binned` or `unbinned`.

    Attributes
    ----------
    background, signal:
        The shapes; no signal for None.
    bins, counts:
        (B, 2) and (B,) over the range; of events without bins, those in which they are shown.
    used:
        (B,), False in excluded regions, whose contents no fit sees.
    scale:
        (B,), effective events per event, 1 without weights.
    points, weights:
        (N,), events without bins in the used regions and their weights; None for bins.
    constraints:
        (centre, standard deviation) by parameter.
    limits:
        (lower, upper) by parameter.
    free:
        Nuisances of the signal that are free without a constraint.
    order:
        Nodes a bin of the background's integrals.

    Examples
    --------
    >>> from nuinfer.anomaly.bump import Exponential, GaussianPeak
    >>> edges = np.linspace(0.0, 10.0, 51)
    >>> contents = np.random.default_rng(1).poisson(100 * np.exp(-edges[1:] / 4))
    >>> likelihood = BumpLikelihood.binned(contents, Exponential(1), GaussianPeak(0.3), edges=edges)
    >>> likelihood
    BumpLikelihood(1814 events in 50 bins from 0 to 10; Exponential + GaussianPeak)
    """

    background: BackgroundShape
    signal: SignalShape | None
    bins: Floats
    counts: Floats
    used: Bools
    scale: Floats
    points: Floats | None
    weights: Floats | None
    constraints: dict[str, tuple[float, float]]
    limits: dict[str, Limits]
    free: tuple[str, ...]
    order: int

    # -- makers

    @classmethod
    def binned(
        cls, data: Any, background: BackgroundShape, signal: SignalShape | None = None, *,
        edges: ArrayLike | None = None, range: Interval | None = None, exclude: Sequence[Interval] = (),
        constraints: Mapping[str, tuple[float, float]] | None = None, limits: Mapping[str, Limits] | None = None,
        free: Sequence[str] = (), weighted: bool = False, variance: ArrayLike | None = None,
    ) -> Self:  # fmt: skip
        """Of a histogram.

        Parameters
        ----------
        data:
            ``hist.Hist``, anything UHI of one axis, or contents (B,) with ``edges`` (B + 1,).
        background, signal:
            The shapes.
        range:
            (lower, upper): bins that lie inside are taken; None for all.
        exclude:
            Regions: a bin that overlaps with one is left out of the fit.
        constraints:
            (centre, standard deviation) of parameters, beside those that the background has itself.
        limits:
            (lower, upper) of parameters, ``"yield"`` among them, in place of those of the shapes.
        free:
            Nuisances of the signal to fit without a constraint.
        weighted, variance:
            See the module; the variances (B,) are those of the histogram unless given.

        Raises
        ------
        ValueError
            for edges that do not rise, contents that are negative, not finite, or not counts, no events, fewer bins
            than free parameters, a range outside of the shape's domain.
        KeyError
            for constraints, limits or free parameters that there are not.
        """
        found = Contents.of("data", data)
        bins = bins_of(_edges(found, edges))
        spread = found.variances if variance is None else variances("data", variance, len(found.values))
        inside = _within(bins, range)
        scale = _scale(found.values, spread, weighted, np.ones(len(bins), bool) if range is None else inside)
        bins, counts = bins[inside], found.values[inside]
        shown = replace(
            cls._empty(background, signal, bins, _unused(bins, exclude)), counts=counts, scale=scale[inside]
        )
        return shown._finished(constraints, limits, free)

    @classmethod
    def unbinned(
        cls, points: ArrayLike, background: BackgroundShape, signal: SignalShape | None = None, *, range: Interval,
        exclude: Sequence[Interval] = (), constraints: Mapping[str, tuple[float, float]] | None = None,
        limits: Mapping[str, Limits] | None = None, free: Sequence[str] = (), weights: ArrayLike | None = None,
        weighted: bool = False, bins: int = 60,
    ) -> Self:  # fmt: skip
        """Of events.

        Parameters
        ----------
        points:
            x (N,); those outside of the range, and in excluded regions, are left out.
        range:
            (lower, upper).
        weights:
            (N,), other than 1 only with ``weighted=True``; from 0.
        bins:
            Into so many (and at the borders of excluded regions) the range is cut for integrals, for the
            goodness of fit and to be shown.
        background, signal, exclude, constraints, limits, free:
            As in `binned`.

        Raises
        ------
        ValueError, KeyError
            as `binned`.
        """
        found = np.asarray(points, np.float64).reshape(-1)
        check_finite("points", found)
        heavy = np.ones(len(found)) if weights is None else variances("points", weights, len(found), "weights")
        if not weighted and (heavy != 1).any():
            raise ValueError(f"weights: expected 1 for each event, found {heavy.min():g} to {heavy.max():g}; weighted="
                             f"True counts effective events")  # fmt: skip
        cells = bins_of(_cut(_checked_region("range", range), bins, exclude))
        used = ~_unused(cells, exclude, slack=1e-9)
        counts = np.histogram(found, np.append(cells[:, 0], cells[-1, 1]), weights=heavy)[0]
        cell = np.searchsorted(cells[:, 0], found, side="right") - 1
        inside = (found >= cells[0, 0]) & (found <= cells[-1, 1]) & used[np.maximum(cell, 0)]
        ratio = heavy[inside].sum() / max(float((heavy[inside] ** 2).sum()), 1e-300) if weighted else 1.0
        shown = cls._empty(background, signal, cells, ~used)
        shown = replace(
            shown, counts=counts, scale=np.full(len(cells), ratio), points=found[inside], weights=heavy[inside]
        )
        return shown._finished(constraints, limits, free)

    @classmethod
    def _empty(cls, background: BackgroundShape, signal: SignalShape | None, bins: Floats, unused: Bools) -> Self:
        zero = np.zeros(len(bins))
        check_spec("background", background, BackgroundShape)
        if signal is not None:
            check_spec("signal", signal, SignalShape)
        shape = background.on((float(bins[0, 0]), float(bins[-1, 1])))
        return cls(shape, signal, bins, zero, ~unused, zero + 1, None, None, {}, {}, (), 1)

    def _finished(
        self, constraints: Mapping[str, tuple[float, float]] | None, limits: Mapping[str, Limits] | None,
        free: Sequence[str],
    ) -> Self:  # fmt: skip
        """With what is known of the parameters, checked."""
        names_unique("parameters", self.names)
        own = {**self.background.constraints, **dict(constraints or {})}
        for what, named in (("constraints", own), ("limits", limits or {}), ("free", free)):
            for name in named:
                if name not in self.names:
                    raise KeyError(f"{what}: no parameter {name!r}; {closest(name, self.names)}")
        for name, (centre, sigma) in own.items():
            if not (np.isfinite(centre) and 0 < sigma < np.inf):
                raise ValueError(f"constraints: expected a centre and a positive width of {name!r}, found {centre:g}, "
                                 f"{sigma:g}")  # fmt: skip
        self._check_data()
        start = self.background.start(self.bins[self.used], self.counts[self.used])
        order = order_needed(lambda x: self.background.values(x, start), self.bins[self.used])
        return replace(self, constraints=own, limits=dict(limits or {}), free=tuple(free), order=order)

    def _check_data(self) -> None:
        counts = self.counts[self.used]
        if not counts.sum() > 0:
            raise ValueError(f"data: expected events in the {self.used.sum()} used of {len(self.bins)} bins from "
                             f"{self.bins[0, 0]:g} to {self.bins[-1, 1]:g}, found none")  # fmt: skip
        need = len(self.background.names) - len(self.background.constraints)
        if len(counts) < need:
            raise ValueError(f"data: expected at least as many bins as the background has parameters, {need}, found "
                             f"{len(counts)}; take a simpler shape, or more bins")  # fmt: skip

    # -- parameters

    @property
    def names(self) -> tuple[str, ...]:
        """The background's parameters, then ``yield`` and the signal's nuisances."""
        signal = () if self.signal is None else (YIELD, *self.signal.names)
        return (*self.background.names, *signal)

    def limit(self, name: str) -> tuple[float, float]:
        """(lower, upper) of a parameter, infinite for none."""
        known = dict(zip(self.background.names, self.background.limits, strict=True))
        if self.signal is not None:
            known |= dict(zip(self.signal.names, self.signal.limits, strict=True))
        low, high = self.limits.get(name, known.get(name, (None, None)))
        return -np.inf if low is None else float(low), np.inf if high is None else float(high)

    def held(self) -> dict[str, float]:
        """The signal's nuisances that are neither free nor constrained, at their nominal values."""
        if self.signal is None:
            return {}
        pairs = zip(self.signal.names, self.signal.start.tolist(), strict=True)
        return {n: v for n, v in pairs if n not in self.free and n not in self.constraints}

    # -- expectations

    def expected(self, values: Mapping[str, float], mass: float | None = None) -> Floats:
        """Expected contents (B,) of all bins, with the signal where a mass is given.

        Raises
        ------
        KeyError
            for a parameter without a value.
        """
        theta = np.array([_named(values, name) for name in self.background.names])
        found = self.background.integrals(self.bins, theta, self.order)
        if mass is not None:
            found = found + _named(values, YIELD) * self._fractions(values, mass)
        return found

    def _fractions(self, values: Mapping[str, float], mass: float) -> Floats:
        signal = self.need_signal()
        phi = np.array([values.get(name, start) for name, start in zip(signal.names, signal.start, strict=True)])
        return signal.fractions(self.bins, mass, phi)

    def need_signal(self) -> SignalShape:
        """The signal; ``ValueError`` where there is none."""
        if self.signal is None:
            raise ValueError("mass: expected a likelihood with a signal; give signal= when it is made")
        return self.signal

    # -- other data

    def with_counts(self, counts: ArrayLike) -> BumpLikelihood:
        """The same model of other contents (B,), which need not be integers, in bins."""
        found = Contents.of("counts", counts).values
        if len(found) != len(self.bins):
            raise ValueError(f"counts: expected {len(self.bins)}, one for each bin of the range, found {len(found)}")
        return replace(self, counts=found, points=None, weights=None)

    def with_background(self, background: BackgroundShape) -> BumpLikelihood:
        """The same data with another background; constraints, limits and free parameters that it lacks are dropped.

        Raises
        ------
        ValueError
            as `binned`.
        """
        check_spec("background", background, BackgroundShape)
        shape = background.on((float(self.bins[0, 0]), float(self.bins[-1, 1])))
        other = replace(self, background=shape, constraints={}, limits={}, free=())
        known = {n: c for n, c in self.constraints.items() if n in other.names and n not in self.background.constraints}
        limits = {n: limit for n, limit in self.limits.items() if n in other.names}
        return other._finished(known, limits, self.free)

    def asimov(self, values: Mapping[str, float], mass: float | None = None) -> BumpLikelihood:
        """With the expected contents as data; without bins, with weighted events at nodes of each bin.

        Constraints stay centred where they are.
        """
        contents = self.expected(values, mass)
        if self.points is None:
            return self.with_counts(contents)
        at, width = nodes(self.bins[self.used], 12)
        theta = np.array([_named(values, name) for name in self.background.names])
        density = self.background.values(at.reshape(-1), theta)
        if mass is not None:
            signal = self.need_signal()
            phi = np.array([values.get(n, v) for n, v in zip(signal.names, signal.start, strict=True)])
            density = density + _named(values, YIELD) * signal.density(at.reshape(-1), mass, phi)
        return replace(self, counts=contents, points=at.reshape(-1), weights=density * width.reshape(-1))

    def sample(self, values: Mapping[str, float], toys: int, *, seed: int, mass: float | None = None) -> Floats:
        """Poisson contents (T, B) of pseudo-experiments in the bins; with weights, of effective events."""
        rng = np.random.default_rng(np.random.SeedSequence(seed))
        mean = self.expected(values, mass)
        if not (mean >= 0).all():
            raise ValueError(f"values: expected contents from 0, found {mean.min():g}")
        return np.asarray(rng.poisson(self.scale * mean, (toys, len(mean))) / self.scale)

    def in_bins(self, edges: ArrayLike | None = None) -> BumpLikelihood:
        """Events without bins, in bins: in those in which they are shown, or between other edges."""
        if self.points is None or self.weights is None:
            return self
        if edges is None:
            return replace(self, points=None, weights=None)
        bins = bins_of(edges)
        gaps = [(float(low), float(high)) for low, high in self.bins[~self.used]]
        counts = np.histogram(self.points, np.append(bins[:, 0], bins[-1, 1]), weights=self.weights)[0]
        used = ~_unused(bins, gaps, slack=1e-9)
        shown = replace(self, bins=bins, counts=counts, used=used, scale=np.full(len(bins), self.scale[0]),
                        points=None, weights=None)  # fmt: skip
        return shown._finished(self.constraints, self.limits, self.free)

    def excluding(self, low: float, high: float) -> BumpLikelihood:
        """With another region left out of the fit; a bin that overlaps with it is.

        Raises
        ------
        ValueError
            where nothing is left.
        """
        gaps = [(float(a), float(b)) for a, b in self.bins[~self.used]]
        if self.points is None:
            shown = replace(self, used=~_unused(self.bins, [*gaps, (low, high)]))
            return shown._finished(self.constraints, self.limits, self.free)
        return BumpLikelihood.unbinned(
            self.points, self.background, self.signal, range=(float(self.bins[0, 0]), float(self.bins[-1, 1])),
            exclude=[*gaps, (low, high)], constraints=self.constraints, limits=self.limits, free=self.free,
            weights=self.weights, weighted=bool((self.scale != 1).any()), bins=len(self.bins),
        )  # fmt: skip

    def observed(self, low: float, high: float) -> tuple[float, Floats]:
        """What the data have between two x, used or not, and the cells (C, 2) that these are.

        Raises
        ------
        ValueError
            where a border is not one of the bins (naming the nearest), or events without bins were left out there.
        """
        at = _checked_region("window", (low, high))
        if self.points is not None and self.weights is not None:
            overlap = (self.bins[:, 0] < at[1]) & (self.bins[:, 1] > at[0])
            if not self.used[overlap].all() or at[0] < self.bins[0, 0] or at[1] > self.bins[-1, 1]:
                raise ValueError(f"window: expected one in the used range, found ({low:g}, {high:g})")
            inside = (self.points >= at[0]) & (self.points < at[1])
            return float(self.weights[inside].sum()), np.array([at])
        edges = np.append(self.bins[:, 0], self.bins[-1, 1])
        for border in at:
            nearest = float(edges[np.abs(edges - border).argmin()])
            if abs(nearest - border) > 1e-9 * (edges[-1] - edges[0]):
                raise ValueError(f"window: expected borders of bins, found {border:g}, nearest {nearest:g}")
        inside = (self.bins.mean(1) > at[0]) & (self.bins.mean(1) < at[1])
        return float(self.counts[inside].sum()), self.bins[inside]

    @cached_property
    def events(self) -> float:
        """The number of events that the fit sees."""
        return float(self.counts[self.used].sum() if self.weights is None else self.weights.sum())

    def __repr__(self) -> str:
        where = f"{self.bins[0, 0]:g} to {self.bins[-1, 1]:g}"
        left = int((~self.used).sum())
        how = f"in {len(self.bins)} bins from {where}" if self.points is None else f"from {where}"
        gaps = f", {left} excluded" if left and self.points is None else ""
        peak = "" if self.signal is None else f" + {type(self.signal).__name__}"
        return f"BumpLikelihood({self.events:g} events {how}{gaps}; {type(self.background).__name__}{peak})"


# -- parts -------------------------------------------------------------------------------------------------------------


def _edges(found: Contents, edges: ArrayLike | None) -> Floats:
    if len(found.shape) != 1:
        raise ValueError(f"data: expected one axis, found contents of shape {found.shape}; project them")
    given = edges if edges is not None else (found.axes or (None,))[0]
    if given is None or isinstance(given, tuple):
        raise ValueError("edges: expected those of the bins, found none; give edges=, or a hist.Hist of a regular or "
                         "variable axis")  # fmt: skip
    if np.asarray(given).shape != (len(found.values) + 1,):
        raise ValueError(f"edges: expected {len(found.values) + 1} for {len(found.values)} contents, found "
                         f"{np.asarray(given).size}")  # fmt: skip
    return np.asarray(given, np.float64)


def _checked_region(what: str, region: Interval) -> Interval:
    low, high = (float(v) for v in region)
    if not (np.isfinite(low) and np.isfinite(high) and low < high):
        raise ValueError(f"{what}: expected (lower, upper), found ({low:g}, {high:g})")
    return low, high


def _within(bins: Floats, region: Interval | None) -> Bools:
    if region is None:
        return np.ones(len(bins), bool)
    low, high = _checked_region("range", region)
    slack = 1e-9 * (bins[:, 1] - bins[:, 0])
    inside = (bins[:, 0] >= low - slack) & (bins[:, 1] <= high + slack)
    if not inside.any():
        raise ValueError(f"range: expected bins between {low:g} and {high:g}, found none of those from "
                         f"{bins[0, 0]:g} to {bins[-1, 1]:g}")  # fmt: skip
    return inside


def _unused(bins: Floats, exclude: Sequence[Interval], slack: float = 1e-9) -> Bools:
    """Which overlap with an excluded region."""
    unused = np.zeros(len(bins), bool)
    small = slack * (bins[:, 1] - bins[:, 0])
    for region in exclude:
        low, high = _checked_region("exclude", region)
        unused |= (bins[:, 1] - small > low) & (bins[:, 0] + small < high)
    if unused.all():
        raise ValueError("exclude: expected bins outside of the excluded regions, found none")
    return unused


def _cut(region: Interval, bins: int, exclude: Sequence[Interval]) -> Floats:
    """Edges of equal bins and at the borders of excluded regions; those next to a border give way to it."""
    low, high = region
    edges = np.linspace(low, high, bins + 1)
    borders = np.array([b for e in exclude for b in _checked_region("exclude", e) if low < b < high])
    if len(borders):
        near = np.abs(edges[:, None] - borders).min(1) < 0.25 * (high - low) / bins
        near[[0, -1]] = False
        edges = np.unique(np.concatenate([edges[~near], borders]))
    return edges


def _scale(counts: Floats, spread: Floats | None, weighted: bool, inside: Bools) -> Floats:
    """Effective events per event (B,)."""
    if not weighted:
        _check_counts(counts[inside], None if spread is None else spread[inside])
        return np.ones(len(counts))
    if spread is None:
        raise ValueError("weighted: expected variances of the contents; fill a hist.Hist with Weight storage, or give "
                         "variance=")  # fmt: skip
    total = counts[inside].sum() / max(float(spread[inside].sum()), 1e-300)
    seen = (counts > 0) & (spread > 0)
    return np.asarray(np.divide(counts, spread, out=np.full(len(counts), total), where=seen))


def _check_counts(counts: Floats, spread: Floats | None) -> None:
    """Raise ``ValueError`` for contents that are not Poisson's."""
    bad = np.flatnonzero(counts != np.round(counts))
    if len(bad):
        raise ValueError(f"data: expected counts, found {counts[bad[0]]:g} in bin {bad[0]} of the range ({len(bad)} "
                         f"not whole); weighted=True counts effective events, with_counts takes any")  # fmt: skip
    if spread is not None and not np.allclose(spread, counts, rtol=1e-6, atol=1e-9):
        bad = np.flatnonzero(~np.isclose(spread, counts, rtol=1e-6, atol=1e-9))
        raise ValueError(f"data: expected variances equal to the counts, found {spread[bad[0]]:g} for "
                         f"{counts[bad[0]]:g} in bin {bad[0]} of the range; try weighted=True")  # fmt: skip


def _named(values: Mapping[str, float], name: str) -> float:
    if name not in values:
        raise KeyError(f"values: expected one of {name!r}; {closest(name, values)}")
    return float(values[name])
