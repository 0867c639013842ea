r"""What a hunt found: scores, selections, spectra and p-values of all windows and efficiencies, and the global p-value.

Without toys, the global p-value of the smallest of n local ones is bounded by Sidak's

.. math:: p_\text{global} \le 1 - (1 - p_\text{min})^n,

which is exact for independent tests and above it for positively dependent ones; of :math:`n\,p_\text{min}`, which holds
for any dependence (Bonferroni), it differs by less than :math:`(n\,p_\text{min})^2 / 2`.

Source: Sidak, J. Am. Stat. Assoc. 62 (1967) 626.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray
from scipy import stats

from ...events import Events
from ...records import Record
from ..regions import Window
from ..significance import z_of_p
from ..templates.sculpting import Sculpting

__all__ = ["Hunt", "HuntP", "HuntToys", "sidak"]

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]


def sidak(p: float, tests: int) -> float:
    """1 - (1 - p)^tests, without loss of digits.

    >>> sidak(1e-20, 30)
    3e-19
    """
    return -math.expm1(tests * math.log1p(-p)) if p < 1 else 1.0


@dataclass(frozen=True, eq=False)
class HuntP(Record):
    """A global p-value.

    Attributes
    ----------
    method:
        "Sidak bound" or "toys".
    window, efficiency:
        The number of the window, and the efficiency, of the smallest local p-value.
    local_p, local_z:
        That, and its significance.
    p, z:
        The global p-value (of a bound: at most this) and its significance (at least).
    error:
        The standard error of p, 0 for the Sidak bound.
    is_bound:
        Whether p is an upper bound; of toys, that none was as extreme.
    p_upper:
        A bound at 95% confidence, of the statistics of the toys; p for the Sidak bound.
    tests, toys, beyond:
        Windows times efficiencies; toys, and how many had a local p-value as small.
    words:
        What is assumed.
    """

    _KIND = "anomaly hunt p-value"

    method: str
    window: int
    efficiency: float
    local_p: float
    local_z: float
    p: float
    z: float
    error: float
    is_bound: bool
    p_upper: float
    tests: int
    toys: int
    beyond: int
    words: str

    def __repr__(self) -> str:
        sign = "<=" if self.method != "toys" else ("<" if self.is_bound else "=")
        value = self.p_upper if self.method == "toys" and self.is_bound else self.p
        how = f"{self.beyond} of {self.toys} toys" if self.method == "toys" else f"Sidak bound of {self.tests} tests"
        return (f"HuntP(global p {sign} {value:.3g} ({how}); locally p = {self.local_p:.3g} in window {self.window} at "
                f"an efficiency of {self.efficiency:g})")  # fmt: skip


@dataclass(frozen=True, eq=False)
class HuntToys(Record):
    """Background toys, each with its own classifiers.

    Attributes
    ----------
    source, words:
        Where they are from, and what that hides.
    p, z:
        (T, W, E), as those of `Hunt`; NaN where a toy's fit failed.
    """

    _KIND = "anomaly hunt toys"

    source: str
    words: str
    p: Floats
    z: Floats

    def __len__(self) -> int:
        return len(self.p)

    @property
    def smallest(self) -> Floats:
        """The smallest local p-value of each toy (T,); 0 where a fit failed, so that it counts as beyond."""
        return np.asarray(np.where(np.isnan(self.p), 0.0, self.p).min((1, 2), initial=1.0))

    @property
    def tested(self) -> NDArray[np.bool_]:
        """The tests (W, E) of which the toys tell anything: not those with p = 1 in all of them (see "shuffle")."""
        return np.asarray(~(self.p == 1).all(0))

    @property
    def failed(self) -> int:
        """How many toys have a fit that failed."""
        return int(np.isnan(self.p).any((1, 2)).sum())

    def __repr__(self) -> str:
        return f"HuntToys({len(self)} by {self.source!r}, {self.failed} with a failed fit)"


@dataclass(frozen=True, eq=False)
class Hunt(Record):
    """A search in W windows at E efficiencies among N events, with B bins of the spectrum and K folds.

    Attributes
    ----------
    resonance, features:
        The columns.
    signal, sidebands:
        (W, 2), and (S, 3): the number of the window and both ends of each sideband.
    efficiencies:
        (E,), of the sidebands, falling.
    template, network, crossing:
        What the reference assumes, for each window (W,); what was trained; how folds were used.
    members, folds, seed:
        As they were given.
    digest:
        Of the events (ids and weights), whose order is that of the arrays.
    mass, fold:
        (N,), the resonance variable and the fold.
    scores:
        (W, N), log ratios of signal region to reference by networks that have not seen the event; NaN without any.
        Those of different folds are by different networks.
    level:
        (W, N), how many of the efficiencies each event passes.
    thresholds:
        (W, E, K).
    edges, counts, background, band:
        (B + 1,), of the spectra; (W, E, B), the selected events, the fit to those outside of the signal region, and its
        standard deviation; NaN without a fit.
    observed, expected, errors:
        (W, E), in the signal region; ``errors`` with what crossed folds add.
    p, z:
        (W, E), the local p-value of an excess (exact for counting) and the signed significance (by the likelihood
        ratio); NaN where ``status`` says why.
    gof:
        (W, E), of the background's chi2.
    status:
        (W E,), empty, or why there is no p-value.
    auc, auc_error:
        (W,), of the signal region against the sidebands, out of fold, and its deviation were there no difference.
    sculpting:
        The sculpting test of each window (W), in its sidebands; none where all efficiencies are 1.
    importance, importance_error:
        (W, D), by how much ``auc`` falls where a feature is shuffled among events; empty (W, 0) where not asked for.
    toys:
        Background toys; empty where not asked for.
    """

    _KIND = "anomaly hunt"

    resonance: str
    features: tuple[str, ...]
    signal: Floats
    sidebands: Floats
    efficiencies: Floats
    template: tuple[str, ...]
    network: str
    crossing: str
    members: int
    folds: int
    seed: int
    digest: str
    mass: Floats
    fold: NDArray[np.int16]
    scores: Floats
    level: NDArray[np.int16]
    thresholds: Floats
    edges: Floats
    counts: Floats
    background: Floats
    band: Floats
    observed: Floats
    expected: Floats
    errors: Floats
    p: Floats
    z: Floats
    gof: Floats
    status: tuple[str, ...]
    auc: Floats
    auc_error: Floats
    sculpting: tuple[Sculpting, ...]
    importance: Floats
    importance_error: Floats
    toys: HuntToys

    # -- the answer

    @property
    def windows(self) -> tuple[Window, ...]:
        """Signal regions and sidebands."""
        return tuple(
            Window(signal=(low, high), sidebands=tuple((a, b) for k, a, b in self.sidebands.tolist() if k == number))
            for number, (low, high) in enumerate(self.signal.tolist())
        )

    @property
    def best(self) -> tuple[int, int]:
        """Window and efficiency (their numbers) of the smallest local p-value.

        Raises
        ------
        ValueError
            where no fit succeeded.
        """
        return _smallest(self.p, self.status)

    @property
    def global_p(self) -> HuntP:
        """By toys where there are any, else the Sidak bound."""
        return self._by_toys() if len(self.toys) else self.sidak()

    def sidak(self) -> HuntP:
        """The bound of independent tests: see the module."""
        p = sidak(float(self.p[self.best]), self.p.size)
        words = (f"an upper bound for {self.p.size} tests (windows x efficiencies), which takes local p-values as they "
                 f"are; not the p-value itself")  # fmt: skip
        return self._global("Sidak bound", self.best, p, 0.0, p, True, 0, words)

    def _by_toys(self) -> HuntP:
        """(k + 1) / (T + 1) for k toys with a local p-value as small, anywhere among the tests that toys tell of."""
        place = _smallest(np.where(self.toys.tested, self.p, np.nan), self.status)
        total, beyond = len(self.toys), int((self.toys.smallest <= self.p[place]).sum())
        p = (beyond + 1) / (total + 1)
        upper = float(stats.beta.ppf(0.95, beyond + 1, total - beyond)) if beyond < total else 1.0
        error = math.sqrt(p * (1 - p) / total)
        return self._global("toys", place, p, error, upper, beyond == 0, beyond, self.toys.words)

    def _global(
        self, method: str, place: tuple[int, int], p: float, error: float, upper: float, is_bound: bool, beyond: int,
        words: str,
    ) -> HuntP:  # fmt: skip
        local, z = float(self.p[place]), z_of_p([self.p[place], p])
        toys = len(self.toys) if method == "toys" else 0
        return HuntP(method, place[0], float(self.efficiencies[place[1]]), local, float(z[0]), p, float(z[1]), error,
                     is_bound, upper, self.p.size, toys, beyond, words)  # fmt: skip

    def local_p_by_toys(self) -> Floats:
        """The local p-values (W, E) as fractions of toys, (k + 1) / (T + 1): free of what the counting assumes.

        Raises
        ------
        ValueError
            without toys.
        """
        if not len(self.toys):
            raise ValueError("toys: expected a hunt with background toys, found none; give toys= to hunt")
        beyond = (np.where(np.isnan(self.toys.p), 0.0, self.toys.p) <= self.p).sum(0)
        return np.where(np.isnan(self.p), np.nan, (beyond + 1) / (len(self.toys) + 1))

    def with_toys(self, toys: HuntToys) -> Hunt:
        """The same with background toys of the same windows and efficiencies.

        Raises
        ------
        ValueError
            for those of others.
        """
        if toys.p.shape[1:] != self.p.shape:
            raise ValueError(f"toys: expected p-values of {self.p.shape} windows and efficiencies, found "
                             f"{toys.p.shape[1:]}")  # fmt: skip
        return replace(self, toys=toys)

    @property
    def sculpting_p(self) -> Floats:
        """The p-value (W,) of each sculpting test, small where the score follows the mass; NaN where there is none."""
        return np.array([test.combined_p for test in self.sculpting] or [math.nan] * len(self.signal))

    # -- the events

    def mask(self, window: int, efficiency: float) -> NDArray[np.bool_]:
        """The events (N,) that pass an efficiency in a window, anywhere in the spectrum.

        Raises
        ------
        ValueError
            for a window or an efficiency that the hunt does not have.
        """
        if not 0 <= window < len(self.signal):
            raise ValueError(f"window: expected a number from 0 to {len(self.signal) - 1}, found {window}")
        return np.asarray(self.level[window] > self._number(efficiency))

    def selected(self, events: Events, window: int, efficiency: float) -> Events:
        """The selected events with all their columns, and ``score``.

        Raises
        ------
        ValueError
            for other events than those of the hunt, or a window or an efficiency that it does not have.
        """
        if events.digest() != self.digest:
            raise ValueError(f"events: expected the {len(self.mass)} events of the hunt, in its order, found "
                             f"{len(events)} others")  # fmt: skip
        mask = self.mask(window, efficiency)
        return events.with_columns(score=self.scores[window]).select(mask)

    def profile(self, window: int, bins: int = 30) -> tuple[Floats, Floats, Floats]:
        """Edges (bins + 1,), mean and standard error (bins,) of the score against mass; NaN in empty bins."""
        seen = np.isfinite(self.scores[window])
        edges = np.linspace(self.edges[0], self.edges[-1], bins + 1)
        where = np.digitize(self.mass[seen], edges) - 1
        inside = (where >= 0) & (where < bins)
        where, score = where[inside], self.scores[window][seen][inside]
        number = np.bincount(where, minlength=bins)
        with np.errstate(invalid="ignore", divide="ignore"):
            mean = np.bincount(where, score, bins) / number
            spread = np.bincount(where, score**2, bins) / number - mean**2
            return edges, mean, np.sqrt(np.maximum(spread, 0) / number)

    def _number(self, efficiency: float) -> int:
        near = np.flatnonzero(np.isclose(self.efficiencies, efficiency, rtol=1e-9))
        if not len(near):
            raise ValueError(f"efficiency: expected one of {self.efficiencies.tolist()}, found {efficiency}")
        return int(near[0])

    # -- to read

    def table(self) -> list[dict[str, float | str]]:
        """One row a window and efficiency."""
        rows: list[dict[str, float | str]] = []
        for w, e in np.ndindex(*self.p.shape):
            numbers = {name: float(getattr(self, name)[w, e])
                       for name in ("observed", "expected", "errors", "p", "z", "gof")}  # fmt: skip
            rows.append({
                "low": float(self.signal[w, 0]), "high": float(self.signal[w, 1]),
                "efficiency": float(self.efficiencies[e]), **numbers, "sculpting": float(self.sculpting_p[w]),
                "status": self.status[w * self.p.shape[1] + e],
            })  # fmt: skip
        return rows

    def __repr__(self) -> str:
        failed = sum(bool(text) for text in self.status)
        head = (f"Hunt({len(self.signal)} windows in {self.resonance!r}, {len(self.efficiencies)} efficiencies, "
                f"{len(self.mass)} events; {self.network}, {self.members} members x {self.folds} {self.crossing} "
                f"folds")  # fmt: skip
        lines = [head + (f"; {failed} of {self.p.size} tests WITHOUT A FIT)" if failed else ")")]
        if failed:
            lines.append(f"  the first of them: {next(text for text in self.status if text)}")
        if failed == self.p.size:
            return "\n".join(lines)
        w, e = self.best
        z = z_of_p(self.p[w, e]) if self.p[w, e] > 0 else self.z[w, e]  # of this p, where it is a number
        lines.append(f"  smallest p = {self.p[w, e]:.3g} (Z = {z:.2f}) from {self.signal[w, 0]:g} to "
                     f"{self.signal[w, 1]:g} at an efficiency of {self.efficiencies[e]:g}: {self.observed[w, e]:g} for "
                     f"{self.expected[w, e]:.4g} +- {self.errors[w, e]:.3g}")  # fmt: skip
        lines.append(f"  {self.global_p!r}")
        follows = np.flatnonzero(self.sculpting_p < 0.01).tolist()
        if follows:
            lines.append(f"  THE SCORE FOLLOWS THE MASS in windows {follows} (sculpting p < 0.01): p-values there rest "
                         f"on the fit's being able to follow it too")  # fmt: skip
        return "\n".join(lines)


def _smallest(p: Floats, status: tuple[str, ...]) -> tuple[int, int]:
    """Where the smallest p-value (W, E) is."""
    if np.isnan(p).all():
        first = next((text for text in status if text), "there are toys for none")
        raise ValueError(f"hunt: expected a p-value, found no fit that succeeded; the first: {first}")
    window, efficiency = np.unravel_index(int(np.nanargmin(p)), p.shape)
    return int(window), int(efficiency)
