r"""What a hunt can see: a signal is injected at rising strengths, and everything is trained again at each.

The efficiency of a weakly supervised search for a signal depends on how much of it there is: with none, the classifier
learns fluctuations, and a signal passes as the background does; with more, it learns the signal.  So there is no
efficiency to divide an upper limit on the selected events by.  A strength s is instead excluded where what is expected
*at s* would rarely be as low as what is observed,

.. math:: \mathrm{CL}_s(s) = \frac{\langle P(N \le n \,|\, b \pm \sigma_b, \nu_r(s)) \rangle_r}{P(N \le n \,|\, b \pm
          \sigma_b)} < 1 - \mathrm{CL},

with :math:`\nu_r(s)` the signal events that pass in the r-th repetition at s, and N Poisson's with a mean of b (a Gamma
distribution, as in an on/off experiment) plus :math:`\nu`.  Between strengths log CLs is interpolated; a rise with s,
by chance among few repetitions, is smoothed away.

The significance improvement is :math:`\epsilon_S / \sqrt{\epsilon_B}` against :math:`\epsilon_S` in the signal region,
by the scores of background and signal events that the truth tells apart.

Sources: ATLAS, arXiv 2005.02983 (limits by injection); Read, J. Phys. G 28 (2002) 2693 (CLs); Gallicchio et al., arXiv
1012.5815 (significance improvement).
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from concurrent.futures import Executor
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import stats

from ... import hashing, tasks
from ...errors import check_finite
from ...events import Events
from ...features import Features
from ...nets import MLP, Network
from ...records import Record
from ...train import Training
from ...trees import Trees
from ..bump.shapes import BackgroundShape
from ..regions import Interval, Window
from ..templates.base import BackgroundTemplate
from ..templates.sidebands import Sidebands
from .classifiers import Crossing, Learner, Problem, fit_problems
from .cwola import TRAINING
from .results import Hunt
from .search import Found, Search, whole

__all__ = ["InjectionLimits", "InjectionScan", "injection_scan"]

Floats = NDArray[np.float64]
_GRID = np.linspace(0.02, 1.0, 50)  # signal efficiencies of the curves
_FEW = 10  # background events that pass, below which a curve has no value


@dataclass(frozen=True, eq=False)
class InjectionLimits(Record):
    """Upper limits on the number of signal events, in W windows at E efficiencies.

    Attributes
    ----------
    level:
        The confidence level.
    strengths, cls:
        (S,), and CLs at each (W, E, S) for what was observed.
    observed, expected:
        (W, E), and (W, E, 5) at the quantiles of -2, -1, 0, 1, 2 standard deviations of background alone; inf where
        the largest strength is not excluded, NaN where no fit gives a background.
    words:
        What the background's expectation is from.
    """

    _KIND = "anomaly injection limits"

    level: float
    strengths: Floats
    cls: Floats
    observed: Floats
    expected: Floats
    words: str

    def cross_section(self, luminosity: float, acceptance: float = 1.0) -> tuple[Floats, Floats]:
        """Observed and expected limits divided by luminosity times acceptance (of what was injected)."""
        if not (luminosity > 0 and 0 < acceptance <= 1):
            raise ValueError(f"luminosity, acceptance: expected a positive number and a fraction, found {luminosity} "
                             f"and {acceptance}")  # fmt: skip
        return self.observed / (luminosity * acceptance), self.expected / (luminosity * acceptance)

    def __repr__(self) -> str:
        median = self.expected[..., 2]
        best = np.unravel_index(int(np.argmin(np.where(np.isnan(median), np.inf, median))), self.observed.shape)
        low, high = self.expected[best][[1, 3]]
        return (f"InjectionLimits({self.level:.0%}: at most {self.observed[best]:.4g} signal events observed, "
                f"{self.expected[best][2]:.4g} ({low:.4g} to {high:.4g}) expected, in window {int(best[0])} at "
                f"efficiency number {int(best[1])})")  # fmt: skip


@dataclass(frozen=True, eq=False)
class InjectionScan(Record):
    """Hunts with an injected signal: S strengths, R repetitions, W windows, E efficiencies, G signal efficiencies.

    Attributes
    ----------
    strengths:
        (S,), mean numbers of signal events, in all of the sample.
    injected:
        (S, R), how many there were.
    efficiencies:
        (E,), of the sidebands.
    inside:
        (S, R, W), injected events in the signal region.
    passing:
        (S, R, W, E), those that pass there.
    observed, expected, errors, p, z:
        (S, R, W, E), as those of `Hunt`; NaN where a fit failed.
    signal_efficiency:
        (G,), of the curves.
    improvement:
        (S, R, W, G), the significance improvement in the signal region; NaN where fewer than 10 background events pass,
        or no signal was injected.
    improvement_error:
        (S, R, W, G), its error, of the numbers of events.
    supervised:
        (W, G), that of classifiers that were told the truth; NaN if not asked for.
    """

    _KIND = "anomaly injection scan"

    strengths: Floats
    injected: Floats
    efficiencies: Floats
    inside: Floats
    passing: Floats
    observed: Floats
    expected: Floats
    errors: Floats
    p: Floats
    z: Floats
    signal_efficiency: Floats
    improvement: Floats
    improvement_error: Floats
    supervised: Floats

    @property
    def efficiency(self) -> Floats:
        """The fraction (S, W, E) of all injected events that pass in the signal region; NaN where there are none."""
        total, passing = self.injected.sum(1)[:, None, None], self.passing.sum(1)
        return np.asarray(np.divide(passing, total, out=np.full_like(passing, np.nan), where=total > 0))

    @property
    def significance(self) -> Floats:
        """The median z (S, W, E); NaN where all fits failed."""
        found = np.full(self.z.shape[:1] + self.z.shape[2:], np.nan)
        some = ~np.isnan(self.z).all(1)
        found[some] = np.nanmedian(np.moveaxis(self.z, 1, -1)[some], axis=-1)
        return found

    def limits(self, hunt: Hunt | None = None, *, level: float = 0.95) -> InjectionLimits:
        """Limits for what a hunt with the same windows and efficiencies observed.

        Without a hunt the observed numbers are medians of what background alone gives, b that of the samples without
        a signal.

        Raises
        ------
        TypeError
            for something else than a hunt.
        ValueError
            for another hunt, no strength 0 among the strengths where no hunt is given, a level outside (0, 1).
        """
        if not 0 < level < 1:
            raise ValueError(f"level: expected a confidence level between 0 and 1, found {level}")
        n, b, sigma, words = self._background(hunt)
        shape = self.observed.shape[2:]
        cls = np.full((*shape, len(self.strengths)), np.nan)
        observed, expected = np.full(shape, np.nan), np.full((*shape, 5), np.nan)
        for at in np.ndindex(*shape):
            if not np.isfinite(b[at]) or not np.isfinite(sigma[at]):
                continue
            count = _Count(float(b[at]), float(sigma[at]))
            seen = self.passing[(slice(None), slice(None), *at)]
            quantiles = count.quantiles
            cls[at] = self._cls(count, float(n[at]) if hunt is not None else quantiles[2], seen)
            observed[at] = _crossing(self.strengths, cls[at], 1 - level)
            expected[at] = [_crossing(self.strengths, self._cls(count, q, seen), 1 - level) for q in quantiles]
        return InjectionLimits(level, self.strengths, cls, observed, expected, words)

    def _background(self, hunt: Hunt | None) -> tuple[Floats, Floats, Floats, str]:
        """Observed and expected counts (W, E), the latter's deviation, and where they are from."""
        if hunt is not None:
            if not isinstance(hunt, Hunt):
                raise TypeError(f"hunt: expected a Hunt, found {type(hunt).__name__}")
            same = hunt.observed.shape == self.observed.shape[2:] and np.allclose(
                hunt.efficiencies, self.efficiencies)  # fmt: skip
            if not same:
                raise ValueError(f"hunt: expected one of {self.observed.shape[2]} windows at efficiencies "
                                 f"{self.efficiencies.tolist()}, found {len(hunt.signal)} at "
                                 f"{hunt.efficiencies.tolist()}")  # fmt: skip
            return hunt.observed, hunt.expected, hunt.errors, "the fits of the hunt"
        none = np.flatnonzero(self.strengths == 0)
        if not len(none):
            raise ValueError(f"strengths: expected 0 among them, for the background alone, found "
                             f"{self.strengths.tolist()}; give a hunt")  # fmt: skip
        expected, errors = (_mean_of_fits(table[none[0]]) for table in (self.expected, self.errors))
        return self.observed[none[0]][0], expected, errors, "the mean of the fits without a signal"

    def _cls(self, count: _Count, n: float, passing: Floats) -> Floats:
        """CLs (S,) for n events, falling; ``passing`` (S, R)."""
        both = count.at_most(n, passing).mean(1)
        return _falling(np.where(self.strengths == 0, 1.0, both / count.at_most(n, np.zeros(1))[0]))

    def estimate(self, excess: float, window: int, efficiency: int) -> float:
        """The strength at which the mean number of passing signal events is this excess; NaN beyond the largest.

        ``efficiency`` is its number.  The excess is n - b of a hunt; one below 0 gives 0.
        """
        mean = -_falling(-self.passing[:, :, window, efficiency].mean(1))
        if excess > mean[-1]:
            return float("nan")
        last = int(np.searchsorted(mean, max(excess, mean[0]), side="left"))
        if last == 0:
            return float(self.strengths[0])
        share = (max(excess, mean[0]) - mean[last - 1]) / (mean[last] - mean[last - 1])
        return float(self.strengths[last - 1] + share * (self.strengths[last] - self.strengths[last - 1]))

    def table(self) -> list[dict[str, float]]:
        """One row a strength, window and efficiency."""
        efficiency, z = self.efficiency, self.significance
        rows = []
        for s, w, e in np.ndindex(*z.shape):
            best = self.improvement[s, :, w]
            rows.append({
                "strength": float(self.strengths[s]), "window": float(w), "efficiency": float(self.efficiencies[e]),
                "signal efficiency": float(efficiency[s, w, e]), "z": float(z[s, w, e]),
                "largest improvement": float(np.nanmax(best)) if np.isfinite(best).any() else float("nan"),
            })  # fmt: skip
        return rows

    def __repr__(self) -> str:
        z = self.significance
        best = z.reshape(len(self.strengths), -1)
        shown = ", ".join(f"{s:g}: {np.nanmax(row) if np.isfinite(row).any() else np.nan:.2f}"
                          for s, row in zip(self.strengths, best, strict=True))  # fmt: skip
        return (f"InjectionScan({len(self.strengths)} strengths x {self.injected.shape[1]} repetitions in "
                f"{z.shape[1]} windows; greatest median Z by strength {shown})")  # fmt: skip


def injection_scan(
    background: Events,
    signal: Events,
    strengths: Sequence[float],
    *,
    resonance: str,
    features: Features | Sequence[str],
    windows: Sequence[Window] | Window,
    shape: BackgroundShape,
    repeats: int = 3,
    bootstrap: bool = True,
    supervised: bool = False,
    template: BackgroundTemplate = Sidebands(),  # noqa: B008 - a frozen spec
    network: Network | Trees = MLP(width=32, depth=2),  # noqa: B008 - a frozen spec
    members: int = 3,
    folds: int = 5,
    crossing: Crossing = "crossed",
    efficiencies: Sequence[float] = (1.0, 0.1, 0.01),
    range: Interval | None = None,
    bins: int = 50,
    fewest: int = 20,
    validation: float = 0.2,
    training: Training = TRAINING,
    allow_resonance: bool = False,
    seed: int,
    device: str = "cpu",
    executor: Executor | None = None,
    checkpoint: str | os.PathLike[str] | None = None,
    progress: bool = True,
) -> InjectionScan:
    """Inject a signal at each strength, and hunt, with everything trained again.

    Parameters
    ----------
    background:
        Events of background, or the data themselves, each of weight 1.
    signal:
        Events of the signal with the same columns, each of weight 1, more than the largest strength needs; their ids
        are replaced.
    strengths:
        Mean numbers of signal events, from 0.
    repeats:
        How often each, with other signal events, other networks and folds.
    bootstrap:
        Each repetition has a Poisson bootstrap of the background (copies keep their id); False has all of it, as data
        into which a signal is injected.
    supervised:
        Also train classifiers of signal against background, as the best that can be reached.
    shape:
        The function that is fitted to spectra; called ``background`` in `hunt`, as are all other arguments.

    Raises
    ------
    ValueError, TypeError, KeyError
        as `hunt`; for strengths below 0, not rising, or beyond the signal events.
    TaskError
        where a strength cannot be searched, saying why.

    Examples
    --------
    >>> from nuinfer.anomaly.bump import Exponential
    >>> from nuinfer.anomaly.regions import Window
    >>> rng = np.random.default_rng(1)
    >>> back = Events({"m": rng.exponential(3.0, 6000) % 6, "x": rng.normal(0, 1, 6000)})
    >>> peak = Events({"m": rng.normal(3, 0.1, 500), "x": rng.normal(2.5, 0.3, 500)})
    >>> scan = injection_scan(back, peak, [0, 100], resonance="m", features=["x"], shape=Exponential(1), repeats=1,
    ...                       windows=Window(signal=(2.7, 3.3), sidebands=((1.5, 2.7), (3.3, 4.5))), range=(0, 6),
    ...                       network=Trees(min_leaf=20), members=1, efficiencies=[0.1], seed=1, progress=False)
    >>> bool(scan.efficiency[1, 0, 0] > 0.5), bool(scan.significance[1, 0, 0] > scan.significance[0, 0, 0])
    (True, True)
    """
    sizes = _strengths(strengths, len(signal))
    learner = Learner(network=network, members=members, folds=folds, crossing=crossing, validation=validation,
                      training=training, device=device)  # fmt: skip
    search = Search.checked(
        resonance, features, windows, background=shape, template=template, learner=learner, efficiencies=efficiencies,
        range=range, bins=bins, fewest=fewest, allow_resonance=allow_resonance,
    )  # fmt: skip
    whole("repeats", repeats, 1)
    whole("seed", seed, None)
    pair = _pair(search, background, signal)
    done = tasks.run(
        _Injected(search, *pair, sizes, bootstrap), np.repeat(np.arange(len(sizes)), repeats).tolist(),
        seed=hashing.salt(seed, "injection") >> 1, executor=executor, checkpoint=checkpoint, progress=progress,
        name=f"injection {background.digest()} {signal.digest()} {sizes.tolist()}",
    ).stacked()  # fmt: skip
    each = {name: np.asarray(value).reshape(len(sizes), repeats, *value.shape[1:]) for name, value in done.items()}
    curve = _supervised(search, *pair, seed, progress) if supervised else (
        np.full((len(search.windows), len(_GRID)), np.nan))  # fmt: skip
    return InjectionScan(sizes, each.pop("injected"), search.efficiencies, signal_efficiency=_GRID, supervised=curve,
                         **each)  # fmt: skip


def _strengths(given: Sequence[float], events: int) -> Floats:
    found = np.asarray(given, np.float64).reshape(-1)
    if not len(found) or not np.isfinite(found).all() or (found < 0).any() or (np.diff(found) <= 0).any():
        raise ValueError(f"strengths: expected mean numbers of signal events from 0, rising, found {found.tolist()}")
    most = found[-1] + 5 * np.sqrt(found[-1])
    if most > events:
        raise ValueError(f"signal: expected events for the largest strength {found[-1]:g}, and its fluctuations, "
                         f"{most:.0f}, found {events}")  # fmt: skip
    return found


def _pair(search: Search, background: Events, signal: Events) -> tuple[Events, Events]:
    """Both with the columns that are needed, and ids of the signal's own."""
    columns = list(dict.fromkeys((search.resonance, *search.features.columns)))
    for name, events in (("background", background), ("signal", signal)):
        if (events.weight != 1).any():
            raise ValueError(f"{name}: expected events that weigh 1, to be counted, found weights from "
                             f"{events.weight.min():g} to {events.weight.max():g}")  # fmt: skip
    kept = signal.keep(columns)
    _check_reach(search, kept)
    own = Events({name: kept[name] for name in kept.columns}, id=hashing.bits(np.arange(len(kept)), "injected").view(
        np.int64))  # fmt: skip
    return background.keep(columns), own


def _check_reach(search: Search, signal: Events) -> None:
    """Raise for a signal that no window can see, as one in other units."""
    mass = np.asarray(signal.flat(search.resonance), np.float64)
    check_finite(f"signal, column {search.resonance!r}", mass)
    if not any(window.in_signal(mass).any() for window in search.windows):
        regions = ", ".join("{:g} to {:g}".format(*window.signal) for window in search.windows)
        raise ValueError(f"signal: expected events in some signal region ({regions}), found none of {len(mass)}, whose "
                         f"{search.resonance!r} goes from {mass.min():g} to {mass.max():g}")  # fmt: skip


@dataclass(frozen=True, eq=False)
class _Injected:
    """A task: one repetition at a strength (its number)."""

    search: Search
    background: Events
    signal: Events
    strengths: Floats
    bootstrap: bool

    def __call__(self, number: int, rng: np.random.Generator) -> dict[str, Floats]:
        back, size = self.background, int(rng.poisson(self.strengths[number]))
        if self.bootstrap:
            back = back.select(np.repeat(np.arange(len(back)), rng.poisson(1.0, len(back))))
        some = self.signal.select(np.sort(rng.choice(len(self.signal), size, replace=False)))
        sample = Events.concat([back, some])
        (found,) = self.search.run([sample], seed=int(rng.integers(2**62)), progress=False)
        truth = np.arange(len(sample)) >= len(back)
        tables = {name: found.table(name) for name in ("observed", "expected", "p", "z")}
        return {"injected": np.array(float(size)), **self._passing(sample, found, truth), **tables,
                "errors": found.table("error"), **self._curves(sample, found, truth)}  # fmt: skip

    def _passing(self, sample: Events, found: Found, truth: NDArray[np.bool_]) -> dict[str, Floats]:
        mass = np.asarray(sample.flat(self.search.resonance), np.float64)
        inside = [window.window.in_signal(mass) & truth for window in found.windows]
        cuts = range(len(self.search.efficiencies))
        passing = [[np.count_nonzero(own & (w.level > e)) for e in cuts]
                   for own, w in zip(inside, found.windows, strict=True)]  # fmt: skip
        return {"inside": np.array([own.sum() for own in inside], np.float64), "passing": np.array(passing, np.float64)}

    def _curves(self, sample: Events, found: Found, truth: NDArray[np.bool_]) -> dict[str, Floats]:
        mass = np.asarray(sample.flat(self.search.resonance), np.float64)
        curves = []
        for window in found.windows:
            own = window.window.in_signal(mass) & np.isfinite(window.score)
            curves.append(improvement(_ranks(window.score, found.fold, own), truth[own]))
        value, error = zip(*curves, strict=True)
        return {"improvement": np.stack(value), "improvement_error": np.stack(error)}


def _ranks(score: Floats, fold: NDArray[np.int16], rows: NDArray[np.bool_]) -> Floats:
    """Ranks from 0 to 1 of the rows within their folds, whose scores are by different networks."""
    found = np.empty(len(score))
    for k in np.unique(fold[rows]):
        own = np.flatnonzero(rows & (fold == k))
        found[own] = (stats.rankdata(score[own]) - 0.5) / len(own)
    return found[rows]


def improvement(score: Floats, truth: NDArray[np.bool_]) -> tuple[Floats, Floats]:
    r"""The significance improvement :math:`\epsilon_S / \sqrt{\epsilon_B}` and its error at 50 signal efficiencies.

    The cut is put where that fraction of the signal passes.  The error of :math:`\epsilon_B` is binomial, and that of
    where the cut is, :math:`d\epsilon_B / d\epsilon_S` times the binomial one of :math:`\epsilon_S`.  NaN where fewer
    than 10 background events pass.
    """
    signal, back = np.sort(score[truth])[::-1], np.sort(score[~truth])
    nothing = np.full(len(_GRID), np.nan)
    if not len(signal) or not len(back):
        return nothing, nothing
    cut = signal[np.minimum(np.ceil(_GRID * len(signal)).astype(int), len(signal)) - 1]
    passing = len(back) - np.searchsorted(back, cut, side="left")
    kept = np.mean(signal[:, None] >= cut, axis=0)
    share = np.maximum(passing, 1) / len(back)
    value = np.where(passing >= _FEW, kept / np.sqrt(share), np.nan)
    slope = np.gradient(share, _GRID)
    variance = share * (1 - share) / len(back) + slope**2 * _GRID * (1 - _GRID) / len(signal)
    return value, value * 0.5 * np.sqrt(variance) / share


def _supervised(search: Search, background: Events, signal: Events, seed: int, progress: bool) -> Floats:
    """The curves (W, G) of out-of-fold classifiers of all signal against all background events in the signal region."""
    problems, rows = [], []
    for number, window in enumerate(search.windows):
        parts = [events.select(window.in_signal(events.flat(search.resonance))) for events in (signal, background)]
        triples = [(search.features.tensors(p), np.ones(len(p)), p.id) for p in parts]
        problems.append(Problem.of(search.named(number), triples[0], triples[1]))
        rows.append(len(parts[0]))
    scorers = fit_problems(problems, search.features.shape, search.learner, seed=hashing.salt(seed, "supervised") >> 1,
                           label="supervised", progress=progress)  # fmt: skip
    curves = []
    for problem, scorer, size in zip(problems, scorers, rows, strict=True):
        score = scorer.log(problem.inputs, problem.id)
        seen = np.isfinite(score)
        truth = np.arange(len(score)) < size
        curves.append(improvement(_ranks(score, scorer.folds_of(problem.id), seen), truth[seen])[0])
    return np.stack(curves)


# -- limits ------------------------------------------------------------------------------------------------------------


class _Count:
    """Counts of a mean b with a Gamma distribution (b +- sigma), and a signal."""

    def __init__(self, b: float, sigma: float) -> None:
        m, tau = (b / sigma) ** 2, b / sigma**2
        # 200 means of equal probability: the sums that follow are exact to their spacing
        self.means = stats.gamma.ppf((np.arange(200) + 0.5) / 200, m + 1, scale=1 / tau)

    def at_most(self, n: float, signal: Floats) -> Floats:
        """P(N <= n) for signal means of any shape."""
        return np.asarray(stats.poisson.cdf(n, self.means + np.asarray(signal)[..., None]).mean(-1))

    @property
    def quantiles(self) -> list[float]:
        """Counts at -2, -1, 0, 1, 2 standard deviations of background alone."""
        top = int(self.means[-1] + 10 * np.sqrt(self.means[-1]) + 10)
        cumulative = stats.poisson.cdf(np.arange(top + 1)[:, None], self.means).mean(1)
        return [float(np.searchsorted(cumulative, level)) for level in stats.norm.cdf([-2, -1, 0, 1, 2])]


def _mean_of_fits(values: Floats) -> Floats:
    """The mean over repetitions (R, W, E) whose fits succeeded; NaN where none did."""
    good = np.isfinite(values)
    total, number = np.where(good, values, 0.0).sum(0), good.sum(0)
    return np.asarray(np.divide(total, number, out=np.full(total.shape, np.nan), where=number > 0))


def _falling(values: Floats) -> Floats:
    """The nearest sequence that does not rise, in least squares (pool adjacent violators)."""
    blocks: list[list[float]] = []
    for value in values.tolist():
        blocks.append([value, 1.0])
        while len(blocks) > 1 and blocks[-2][0] < blocks[-1][0]:
            (a, n), (b, m) = blocks[-2:]
            blocks[-2:] = [[(a * n + b * m) / (n + m), n + m]]
    return np.concatenate([np.full(int(count), value) for value, count in blocks])


def _crossing(strengths: Floats, cls: Floats, alpha: float) -> float:
    """Where log CLs falls to log alpha; inf where it does not."""
    below = np.flatnonzero(cls < alpha)
    if not len(below):
        return float("inf")
    k = int(below[0])
    if k == 0:
        return float(strengths[0])
    high, low = np.log(cls[k - 1]), np.log(max(cls[k], 1e-300))
    share = (high - np.log(alpha)) / (high - low)
    return float(strengths[k - 1] + share * (strengths[k] - strengths[k - 1]))
