"""The chain of one search: template, classifiers, scores, thresholds, selection, fit, p-value, of one or many samples.

A hunt runs it once, on the data; its toys and an injection scan run it on many samples, whose classifiers train
together.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from ... import hashing, metrics
from ...errors import check_finite
from ...events import Events
from ...features import Features, Inputs
from ..bump.shapes import BackgroundShape, check_spec
from ..regions import Interval, Window
from ..templates.base import BackgroundTemplate, FittedTemplate
from .classifiers import Learner, Problem, Scorer, fit_problems
from .counting import Counted, Cuts, count_window, passed, passing_of, spectrum_edges, thresholds_of

__all__ = ["Found", "Search", "WindowFound", "whole", "window_auc"]

Floats = NDArray[np.float64]
Mask = NDArray[np.bool_]


@dataclass(frozen=True, eq=False)
class WindowFound:
    """What a search found in one window.

    Attributes
    ----------
    score:
        (N,), log ratios, NaN in a fold that is not scored.
    cuts, level:
        Thresholds, and how many efficiencies each event passes (N,).
    counts:
        One an efficiency.
    auc:
        Of the signal region's scores against the sidebands', 1/2 where nothing was learned.
    words:
        The template's.
    """

    window: Window
    score: Floats
    cuts: Cuts
    level: NDArray[np.int16]
    counts: tuple[Counted, ...]
    auc: metrics.Score
    words: str
    scorer: Scorer | None
    inputs: Inputs


@dataclass(frozen=True, eq=False)
class Found:
    """What a search found in one sample: its windows, and the fold of each event (N,)."""

    fold: NDArray[np.int16]
    windows: tuple[WindowFound, ...]

    def table(self, name: str) -> Floats:
        """A number of each window and efficiency (W, E)."""
        return np.array([[getattr(c, name) for c in w.counts] for w in self.windows], np.float64)


@dataclass(frozen=True, eq=False)
class Search:
    """All settings of a search; made by `checked`."""

    resonance: str
    features: Features
    windows: tuple[Window, ...]
    efficiencies: Floats
    background: BackgroundShape
    template: BackgroundTemplate
    learner: Learner
    edges: Floats
    fewest: int

    @classmethod
    def checked(
        cls, resonance: str, features: Features | Sequence[str], windows: Sequence[Window] | Window, *,
        background: BackgroundShape, template: BackgroundTemplate, learner: Learner, efficiencies: Sequence[float],
        range: Interval | None, bins: int, fewest: int, allow_resonance: bool,
    ) -> Search:  # fmt: skip
        """With what the user gave.

        Raises
        ------
        ValueError, TypeError
            for no windows, the resonance among the features, efficiencies outside (0, 1], a range that does not hold
            the windows.
        """
        seen = Features.of(features)
        if resonance in seen.columns and not allow_resonance:
            raise ValueError(f"features: expected columns other than the resonance {resonance!r}, found it among them; "
                             f"a classifier tells windows apart by it, and carves a bump into the spectrum; if this is "
                             f"wanted, allow_resonance=True")  # fmt: skip
        those = (windows,) if isinstance(windows, Window) else tuple(windows) if isinstance(windows, Iterable) else ()
        if not those or not all(isinstance(window, Window) for window in those):
            raise TypeError(f"windows: expected Window(signal=, sidebands=) or several, as sliding_windows makes them, "
                            f"found {windows!r}")  # fmt: skip
        check_spec("background", background, BackgroundShape)
        check_spec("template", template, BackgroundTemplate)
        edges = spectrum_edges(_range(range, those), those, whole("bins", bins, 4))
        return cls(resonance, seen, those, _efficiencies(efficiencies), background, template, learner, edges,
                   whole("fewest", fewest, 1))  # fmt: skip

    def named(self, number: int) -> str:
        """A window, for messages."""
        low, high = self.windows[number].signal
        return f"window {number} (signal region {low:g} to {high:g})"

    def run(
        self, samples: Sequence[Events], *, seed: int, checkpoint: Path | None = None, label: str = "hunt",
        progress: bool = True,
    ) -> list[Found]:  # fmt: skip
        """Search each sample; the classifiers of all samples and windows train together.

        Raises
        ------
        ValueError
            for empty regions, too few events for an efficiency or a fold; as `BackgroundTemplate.fit`.
        """
        prepared = [self._prepared(s, seed, checkpoint, progress) for s in samples]
        open_ones = [w for sample in prepared for w in sample if w.problem is not None]
        problems = [w.problem for w in open_ones if w.problem is not None]
        scorers = fit_problems(problems, self.features.shape, self.learner, seed=seed, checkpoint=checkpoint,
                               label=label, progress=progress)  # fmt: skip
        known = {id(window): scorer for window, scorer in zip(open_ones, scorers, strict=True)}
        return [
            self._found(sample, [(w, known.get(id(w))) for w in windows], seed)
            for sample, windows in zip(samples, prepared, strict=True)
        ]

    # -- before the training

    def _prepared(self, sample: Events, seed: int, checkpoint: Path | None, progress: bool) -> list[_Prepared]:
        self._check(sample)
        inputs = self.features.tensors(sample)
        found = []
        for number, window in enumerate(self.windows):
            where = None if checkpoint is None else checkpoint / f"template-{number:03d}"
            fitted = self.template.fit(
                sample, self.resonance, self.features, window, seed=hashing.salt(seed, "template", number) >> 1,
                folds=self.learner.folds, device=self.learner.device, checkpoint=where, progress=progress,
            )  # fmt: skip
            if number == 0 and fitted.log_ratio is None:
                self._check_cuts(sample, seed)
            found.append(self._problem(number, sample, inputs, fitted))
        return found

    def _check_cuts(self, sample: Events, seed: int) -> None:
        """What `thresholds_of` would say after everything is trained."""
        fold, mass = hashing.fold(sample.id, self.learner.folds, seed, "fold"), _mass(sample, self.resonance)
        for number, window in enumerate(self.windows):
            rows = window.in_sidebands(mass) & (fold >= self.learner.first)
            events = np.bincount(fold[rows], minlength=self.learner.folds)[self.learner.first :]
            if (events > 0).all():  # else there are too many folds, which the classifiers say
                for efficiency in self.efficiencies.tolist():
                    passing_of(self.named(number), events.tolist(), efficiency, self.fewest)

    def _check(self, sample: Events) -> None:
        if not isinstance(sample, Events):
            raise TypeError(f"events: expected nuinfer.Events, found {type(sample).__name__}; "
                            f"Events({{'m': ..., 'x': ...}}) takes columns")  # fmt: skip
        mass = _mass(sample, self.resonance)
        if not len(mass):
            raise ValueError("events: expected some, found none")
        check_finite(f"column {self.resonance!r}", mass)  # else such events were in no window, without a word
        if (sample.weight != 1).any():
            raise ValueError(f"events: expected those that weigh 1, to be counted, found weights from "
                             f"{sample.weight.min():g} to {sample.weight.max():g}; weights of the background go into a "
                             f"template's reference")  # fmt: skip
        for number, window in enumerate(self.windows):
            inside, beside = int(window.in_signal(mass).sum()), int(window.in_sidebands(mass).sum())
            if not inside or not beside:
                raise ValueError(f"{self.named(number)}: expected events in the signal region and in the sidebands, "
                                 f"found {inside} and {beside} of {len(mass)}, whose {self.resonance!r} goes from "
                                 f"{mass.min(initial=np.inf):g} to {mass.max(initial=-np.inf):g}")  # fmt: skip

    def _problem(self, number: int, sample: Events, inputs: Inputs, fitted: FittedTemplate) -> _Prepared:
        """The classifier's rows; a template with a score of its own has none."""
        window = self.windows[number]
        if fitted.log_ratio is not None:
            return _Prepared(window, fitted, inputs, None)
        changed = fitted.transform(sample)
        own = inputs if changed is sample else self.features.tensors(changed)
        rows = np.flatnonzero(window.in_signal(_mass(sample, self.resonance)))
        data = own.select(rows), np.ones(len(rows)), sample.id[rows]
        reference = self.features.tensors(fitted.reference), fitted.reference.weight, fitted.reference.id
        return _Prepared(window, fitted, own, Problem.of(self.named(number), data, reference))

    # -- after it

    def _found(self, sample: Events, windows: list[tuple[_Prepared, Scorer | None]], seed: int) -> Found:
        fold = hashing.fold(sample.id, self.learner.folds, seed, "fold")
        tie = hashing.uniform(sample.id, seed, "tie")
        found = [self._window(number, sample, fold, tie, *pair, seed) for number, pair in enumerate(windows)]
        return Found(fold, tuple(found))

    def _window(
        self, number: int, sample: Events, fold: NDArray[np.int16], tie: Floats, ready: _Prepared,
        scorer: Scorer | None, seed: int,
    ) -> WindowFound:  # fmt: skip
        mass = _mass(sample, self.resonance)
        sideband = ready.window.in_sidebands(mass)
        if scorer is not None:
            score = scorer.log(ready.inputs, sample.id)
            cuts = self._cuts(number, score, tie, fold, sideband)
        else:
            score = self._finished(ready.fitted, sample, fold)
            cuts = self._reference_cuts(number, ready.fitted, seed)
        level = passed(cuts, score, tie, fold)
        counts = tuple(self._count(mass[level > e], ready.window, e) for e in range(len(self.efficiencies)))
        auc = window_auc(score, fold, ready.window.in_signal(mass), sideband, self.learner)
        return WindowFound(ready.window, score, cuts, level, counts, auc, ready.fitted.words, scorer, ready.inputs)

    def _cuts(self, number: int, score: Floats, tie: Floats, fold: NDArray[np.int16], rows: Mask) -> Cuts:
        return thresholds_of(self.named(number), score, tie, fold, rows, self.efficiencies, self.learner.folds,
                             self.fewest)  # fmt: skip

    def _reference_cuts(self, number: int, fitted: FittedTemplate, seed: int) -> Cuts:
        """A finished score is one of the signal region: what passes there is told by the template's events."""
        reference = fitted.reference
        fold = hashing.fold(reference.id, self.learner.folds, seed, "fold")
        score, tie = self._finished(fitted, reference, fold), hashing.uniform(reference.id, seed, "tie")
        return self._cuts(number, score, tie, fold, np.ones(len(reference), bool))

    def _finished(self, fitted: FittedTemplate, sample: Events, fold: NDArray[np.int16]) -> Floats:
        assert fitted.log_ratio is not None
        score = np.array(fitted.log_ratio(sample), np.float64)
        score[fold < self.learner.first] = np.nan
        return score

    def _count(self, selected: Floats, window: Window, number: int) -> Counted:
        crossed = float(self.efficiencies[number]) if self.learner.crossing == "crossed" else None
        return count_window(selected, self.edges, window, self.background, crossed=crossed)

    def with_template(self, template: BackgroundTemplate) -> Search:
        """The same with another template."""
        return replace(self, template=template)


@dataclass(frozen=True, eq=False)
class _Prepared:
    """A window of a sample before the training: what its classifier sees, all events in ``inputs``."""

    window: Window
    fitted: FittedTemplate
    inputs: Inputs
    problem: Problem | None


def window_auc(score: Floats, fold: NDArray[np.int16], signal: Mask, sideband: Mask, learner: Learner) -> metrics.Score:
    """The mean over folds of their own areas, with the mean of their deviations: folds are not independent."""
    found = []
    for k in range(learner.first, learner.folds):
        one, zero = score[signal & (fold == k)], score[sideband & (fold == k)]
        if len(one) and len(zero):
            found.append(metrics.roc_auc(one, zero))
    values, deviations = zip(*found, strict=True)
    return metrics.Score(float(np.mean(values)), float(np.mean(deviations)))


def _mass(sample: Events, resonance: str) -> Floats:
    return np.asarray(sample.flat(resonance), np.float64)


def _range(given: Interval | None, windows: Sequence[Window]) -> Interval:
    low, high = min(w.range[0] for w in windows), max(w.range[1] for w in windows)
    if given is None:
        return low, high
    pair = np.asarray(given, np.float64).reshape(-1)
    ends = (float(pair[0]), float(pair[1])) if pair.size == 2 else (np.nan, np.nan)
    if not (ends[0] < ends[1] and all(ends[0] < w.signal[0] and w.signal[1] < ends[1] for w in windows)):
        raise ValueError(f"range: expected (low, high) with room on both sides of all signal regions, found {given}; "
                         f"the windows need {low:g} to {high:g}")  # fmt: skip
    return ends


def _efficiencies(given: Sequence[float]) -> Floats:
    found = np.unique(np.asarray(given, np.float64).reshape(-1))[::-1]
    if not len(found) or not ((found > 0) & (found <= 1)).all():
        raise ValueError(f"efficiencies: expected fractions above 0 and up to 1, found {np.asarray(given).tolist()}")
    return np.ascontiguousarray(found)


def whole(name: str, value: object, least: int | None) -> int:
    """An integer of at least ``least``; None for any."""
    if not isinstance(value, int | np.integer) or (least is not None and value < least):
        size = "" if least is None else f" of at least {least}"
        raise ValueError(f"{name}: expected an integer{size}, found {value!r}")
    return int(value)
