r"""Two mixed samples without labels: what a classifier between them learns, and what it tells of the fractions.

Two samples hold the same two components, "signal" S and "background" B, in unknown fractions :math:`f_1 > f_2`,

.. math:: p_i(x) = f_i\, S(x) + (1 - f_i)\, B(x), \qquad
          r(x) = \frac{p_1}{p_2} = \frac{f_1 L + 1 - f_1}{f_2 L + 1 - f_2}, \quad L = \frac{S}{B}

(near and far detector, two triggers, two selections).  r rises with L, so that the classifier of one sample against the
other orders events as the classifier of signal against background does, whatever the fractions are.  "Signal" is by
definition what the first sample has more of.

**The area under the ROC curve** A of any score, for signal against background, follows from that between the samples:

.. math:: A_{12} - \tfrac12 = (f_1 - f_2) \left(A - \tfrac12\right)

exactly, so that what is measured without labels is a lower bound.

**Fractions.**  S and B are not negative, which is all that is known of them, and leaves

.. math:: \frac{1 - f_1}{1 - f_2} \le \kappa_{12} = \inf_x \frac{p_1}{p_2}, \qquad
          \frac{f_2}{f_1} \le \kappa_{21} = \inf_x \frac{p_2}{p_1}

hence :math:`f_1 \ge 1 - \kappa_{12}`, :math:`f_2 \le \kappa_{21}` and :math:`f_1 - f_2 \ge (1 - \kappa_{12})(1 -
\kappa_{21}) / (1 - \kappa_{12} \kappa_{21})`.  If S and B are *mutually irreducible* (somewhere there is background
without signal, and somewhere signal without background) both are equalities, and

.. math:: f_1 = \frac{1 - \kappa_{12}}{1 - \kappa_{12} \kappa_{21}}, \qquad f_2 = \kappa_{21} f_1 .

With reducibility factors :math:`a = \inf S/B` and :math:`b = \inf B/S` that are known, as from a simulation,
:math:`1 - (1 - a) f_1 = \kappa_{12} (1 - (1 - a) f_2)` and :math:`b + (1 - b) f_2 = \kappa_{21} (b + (1 - b) f_1)`.

**An infimum of few events.**  For any set of x, :math:`P_1 / P_2` is at least :math:`\kappa_{12}`: so an upper limit
of this ratio of two counts is one of :math:`\kappa_{12}`, however badly the score orders events.  The sets are the
tails of the score that hold 1/2, 1/4, 1/8, ... of the events, down to a stated number of them; limits are those of a
ratio of Poisson means (exact for equal weights), at a level divided among the tails.  Scores are out of fold.  The
estimate is the ratio in the tail with the best limit (with the best one of a standard deviation, one of the many small
tails that fluctuate down would win); being the mean over a tail, it lies above the infimum, more so where the infimum
is approached slowly.

Sources: Metodiev, Nachman, Thaler, arXiv 1708.02949 (classification without labels); Blanchard, Lee, Scott, J. Mach.
Learn. Res. 11 (2010) 2973, and Katz-Samuels, Blanchard, Scott, arXiv 1710.01167 (mutual irreducibility, limits from
sets); Metodiev, Thaler, arXiv 1802.00008, and Komiske, Metodiev, Thaler, arXiv 1809.01140 (jet topics: anchors,
reducibility factors).
"""

from __future__ import annotations

import logging
import math
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import special, stats

from .. import metrics, store
from ..calibration import Calibration
from ..events import Events, positive_total
from ..features import Features
from ..nets import MLP, Network
from ..ratio.density_ratio import Ratio, fit_ratio
from ..records import Record
from ..resample import Resample
from ..train import Training
from ..trees import Trees
from .significance import p_of_z

__all__ = ["Fractions", "Kappa", "MixedAuc", "Mixtures", "fit_mixtures", "fractions_of_kappas", "unmix"]

_log = logging.getLogger("nuinfer")

Floats = NDArray[np.float64]

_ONE_SIGMA = float(stats.norm.cdf(1.0))


# -- results -----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, eq=False)
class MixedAuc(Record):
    """The area under the ROC curve between the two samples, out of fold.

    Attributes
    ----------
    value, error:
        The mean over folds, and its standard error for scores that are given.
    null_sd:
        Its standard deviation if both samples were of one density.  Each fold's score has learned from the others, so
        that the variance of their sum is twice that of independent folds: exactly for scores that are linear in their
        training sample, of many columns; with few columns, p-values by it are too large rather than too small.
    """

    _KIND = "anomaly mixed auc"

    value: float
    error: float
    null_sd: float

    @property
    def z(self) -> float:
        """(value - 1/2) / null_sd: whether the fractions differ at all."""
        return metrics.Score(self.value, self.null_sd).z

    @property
    def p(self) -> float:
        """The one-sided p-value of that."""
        return float(p_of_z(self.z))


@dataclass(frozen=True, eq=False)
class Kappa(Record):
    """The smallest ratio of one sample's density to the other's.

    Attributes
    ----------
    value, error:
        The ratio in the tail that was chosen; and the standard deviation of its counts, added in quadrature to what the
        ratio falls by from there to the tail of half the size, a scale for what the infimum is below it.
    bound:
        An upper limit of the infimum, at most 1: with the other one, and the area, at the level of the fit.
    share, threshold:
        What the chosen tail has of both samples, each of total 1, on average; where it begins, in log p1/p2.
    one, other:
        Effective numbers of events in it, of the sample in the numerator, and of that in the denominator.
    tails:
        How many were looked at.
    """

    _KIND = "anomaly kappa"

    value: float
    error: float
    bound: float
    share: float
    threshold: float
    one: float
    other: float
    tails: int


@dataclass(frozen=True, eq=False)
class Fractions(Record):
    """Signal fractions of both samples, estimated with stated reducibility factors.

    Attributes
    ----------
    first, second, first_error, second_error:
        f1, f2 and their standard errors; NaN where a kappa is 1, that of a replica included for errors: both samples
        look alike, or tails with enough events do not tell them apart.  Values outside of 0 to 1 say that the
        reducibility factors do not fit to the samples.  The tail is chosen by the same events, so that errors are up to
        30% too small in toys (docs/reference/mixtures.md): `Mixtures.bounds` are what holds.
    signal, background:
        The reducibility factors inf S/B and inf B/S.
    """

    _KIND = "anomaly fractions"

    first: float
    second: float
    first_error: float
    second_error: float
    signal: float
    background: float


class Bounds(NamedTuple):
    """What holds without assuming anything of S and B, at the level of the fit, all together.

    ``first`` is the least f1, ``second`` the largest f2, ``difference`` the least f1 - f2; ``area`` the least and the
    largest area under the ROC curve of the score for signal against background.
    """

    first: float
    second: float
    difference: float
    area: tuple[float, float]


@dataclass(frozen=True, eq=False)
class Mixtures:
    """A fitted classifier of two mixed samples; made by `fit_mixtures`.

    Attributes
    ----------
    ratio:
        log p1/p2, with folds.
    stated:
        The fractions (f1, f2) that were given, or None.
    auc:
        Between the samples.
    kappa12, kappa21:
        The smallest p1/p2 and the smallest p2/p1.
    replicas:
        Both (K, 2) of K bootstrapped members; empty (0, 2) without.
    level:
        Of the bounds.
    """

    ratio: Ratio
    stated: tuple[float, float] | None
    auc: MixedAuc
    kappa12: Kappa
    kappa21: Kappa
    replicas: Floats
    level: float

    # -- scores

    def score(self, events: Events) -> Floats:
        """log p1/p2 (N,), a rising function of signal over background; out of fold for the events of the fit.

        Raises
        ------
        KeyError, TypeError, ValueError
            as `nuinfer.ratio.Ratio.log`.
        """
        return self.ratio.log(events)

    def log_signal_ratio(self, events: Events, fractions: tuple[float, float] | None = None) -> Floats:
        """log S/B (N,), from the given fractions, those stated in the fit, or the estimate if S and B are irreducible.

        With exact fractions r = p1/p2 lies between (1 - f1)/(1 - f2) and f1/f2.  Where the learned one does not, the
        answer is -inf or inf, and a warning is logged.

        Raises
        ------
        ValueError
            for fractions that are not 0 <= f2 < f1 <= 1.
        """
        f1, f2 = self._fractions(fractions)
        r = np.exp(self.score(events))
        signal, background = (1 - f2) * r - (1 - f1), f1 - f2 * r
        beyond = int(np.count_nonzero((signal < 0) | (background < 0)))
        if beyond:
            _log.warning("log_signal_ratio: for %d of %d events p1/p2 is not what the fractions %g and %g allow: "
                         "there S/B is 0 or infinite", beyond, len(r), f1, f2)  # fmt: skip
        with np.errstate(divide="ignore"):
            return np.asarray(np.log(np.maximum(signal, 0)) - np.log(np.maximum(background, 0)))

    # -- fractions

    def fractions(self, *, signal: float = 0.0, background: float = 0.0) -> Fractions:
        """f1 and f2 for reducibility factors ``signal`` = inf S/B and ``background`` = inf B/S.

        Errors are the spread of the replicas where there are at least two, else those of the counts in the tails.

        Raises
        ------
        ValueError
            for factors that are not from 0 to below 1.
        """
        at = self.kappa12.value, self.kappa21.value
        f1, f2 = fractions_of_kappas(*at, signal=signal, background=background)
        if len(self.replicas) > 1:
            spread = np.std(fractions_of_kappas(*self.replicas.T, signal=signal, background=background), -1, ddof=1)
        else:
            spread = self._propagated(at, signal, background)
        return Fractions(float(f1), float(f2), float(spread[0]), float(spread[1]), signal, background)

    def _propagated(self, at: tuple[float, float], signal: float, background: float) -> Floats:
        """Errors of both fractions by those of the kappas, which are of different events."""
        errors, step = np.array([self.kappa12.error, self.kappa21.error]), 1e-5
        slopes = []
        for shift in np.eye(2) * step:
            high, low = (fractions_of_kappas(*(at + sign * shift), signal=signal, background=background)
                         for sign in (1, -1))  # fmt: skip
            slopes.append((np.array(high) - low) / (2 * step))
        return np.asarray(np.sqrt(np.square(errors) @ np.square(slopes)))

    @property
    def bounds(self) -> Bounds:
        """What holds without any assumption on S and B but that they are the same in both samples."""
        a, b = self.kappa12.bound, self.kappa21.bound
        difference = (1 - a) * (1 - b) / (1 - a * b) if a * b < 1 else 0.0
        # two limits of kappa and two of the area share what the level leaves
        # where little is learned, folds that learn from each other make `null_sd` the spread, which is the larger one
        half = float(stats.norm.isf((1 - self.level) / 4)) * max(self.auc.error, self.auc.null_sd)
        ends = self.auc.value - 0.5 + np.array([-half, half])
        # A - 1/2 is that between the samples divided by f1 - f2, which lies between `difference` and 1
        wider = ends / difference if difference else np.copysign(np.inf, ends)
        area = 0.5 + np.clip([min(ends[0], wider[0]), max(ends[1], wider[1])], -0.5, 0.5)
        return Bounds(1 - a, b, difference, (float(area[0]), float(area[1])))

    def signal_auc(self, fractions: tuple[float, float] | None = None) -> tuple[float, float]:
        """The area under the score's ROC curve for signal against background, and its error at fixed fractions.

        Raises
        ------
        ValueError
            for fractions that are not 0 <= f2 < f1 <= 1.
        """
        f1, f2 = self._fractions(fractions)
        return 0.5 + (self.auc.value - 0.5) / (f1 - f2), self.auc.error / (f1 - f2)

    def allows(self, fractions: tuple[float, float]) -> bool:
        """Whether such fractions leave S and B positive, within the bounds.

        Raises
        ------
        ValueError
            for fractions that are not 0 <= f2 < f1 <= 1.
        """
        f1, f2 = _checked(fractions)
        return 1 - f1 <= self.kappa12.bound * (1 - f2) and f2 <= self.kappa21.bound * f1

    def _fractions(self, given: tuple[float, float] | None) -> tuple[float, float]:
        given = self.stated if given is None else given
        if given is not None:
            return _checked(given)
        found = self.fractions()
        if not 0 <= found.second < found.first <= 1:
            raise ValueError(f"fractions: expected 0 <= f2 < f1 <= 1, found the estimates f1 = {found.first:.3g} and "
                             f"f2 = {found.second:.3g}; state fractions=(f1, f2)")  # fmt: skip
        return found.first, found.second

    # -- in words

    def explain(self) -> str:
        """What was learned, how well, and what of the fractions, in sentences."""
        auc, bounds, level = self.auc, self.bounds, f"{100 * self.level:g}%"
        lines = [
            f"Between the samples, out of fold, the area under the ROC curve is {auc.value:.4f} +- {auc.error:.4f} "
            f"(Z = {auc.z:.1f}): {_verdict(auc.z)}.",
            "The score rises with signal over background, where signal is what the first sample has more of, if both "
            "components are the same in both samples, which two samples cannot tell.",
            f"For signal against background its area lies between {bounds.area[0]:.3f} and {bounds.area[1]:.3f}; of "
            f"the first sample at least {bounds.first:.3f} is signal, of the second at most {bounds.second:.3f}, and "
            f"the fractions differ by at least {bounds.difference:.3f} ({level}, whatever the shapes are).",
        ]  # fmt: skip
        return "\n".join([*lines, *self._with_fractions(level)])

    def _with_fractions(self, level: str) -> list[str]:
        """The sentences on stated and estimated fractions."""
        lines = []
        if self.stated is not None:
            area, error = self.signal_auc()
            excluded = f"; THEY ARE EXCLUDED at {level}: no positive densities of signal and background give them"
            lines.append(f"With the stated fractions {self.stated[0]:g} and {self.stated[1]:g} the area is {area:.4f} "
                         f"+- {error:.4f}{'' if self.allows(self.stated) else excluded}.")  # fmt: skip
        found = self.fractions()
        if math.isfinite(found.first):
            tails = f"{100 * self.kappa12.share:.2g}% and {100 * self.kappa21.share:.2g}%"
            lines.append(f"If somewhere there is background without signal, and signal without background, the "
                         f"fractions are {found.first:.3f} +- {found.first_error:.3f} and {found.second:.3f} +- "
                         f"{found.second_error:.3f}, from tails of {tails} of the events.")  # fmt: skip
        return lines

    def __repr__(self) -> str:
        return (f"Mixtures(area {self.auc.value:.4f} +- {self.auc.error:.4f}, Z = {self.auc.z:.1f}; p1/p2 from "
                f"{self.kappa12.value:.3g} to {1 / self.kappa21.value if self.kappa21.value > 0 else math.inf:.3g}; "
                f"{self.ratio!r})")  # fmt: skip

    # -- files

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write everything to one safetensors file, atomically."""
        spec, arrays = self.ratio.saved()
        parts = {name: getattr(self, name)._parts() for name in ("auc", "kappa12", "kappa21")}
        records = {name: own for name, (own, _) in parts.items()}
        inner = [store.under(f"{name}.", own) for name, (_, own) in parts.items()]
        whole = {"ratio": spec, "records": records, "stated": self.stated and list(self.stated), "level": self.level}
        store.save(path, "anomaly mixtures", whole,
                   {**store.under("ratio.", arrays), "replicas": self.replicas,
                    **{name: array for own in inner for name, array in own.items()}})  # fmt: skip

    @classmethod
    def load(cls, path: str | os.PathLike[str], *, module: Any = None) -> Mixtures:
        """Read what `save` wrote; ``module`` makes the network where it was a user's own.

        Raises
        ------
        CorruptFile
            for a file that is damaged; ``ValueError`` for one of another kind; ``FileNotFoundError`` for none.
        """
        spec, arrays = store.load(path, "anomaly mixtures")
        records = spec["records"]
        auc = MixedAuc._of(records["auc"], store.within("auc.", arrays))
        low, high = (Kappa._of(records[name], store.within(f"{name}.", arrays)) for name in ("kappa12", "kappa21"))
        stated = None if spec["stated"] is None else (spec["stated"][0], spec["stated"][1])
        ratio = Ratio.of_saved(spec["ratio"], store.within("ratio.", arrays), module=module)
        return cls(ratio, stated, auc, low, high, arrays["replicas"], spec["level"])


def _verdict(z: float) -> str:
    if z > 5:
        return "the fractions differ"
    return "nothing was learned" if z < 2 else "a difference that is no discovery"


# -- the fit -----------------------------------------------------------------------------------------------------------


def fit_mixtures(
    first: Events,
    second: Events,
    features: Features | Sequence[str],
    *,
    fractions: tuple[float, float] | None = None,
    network: Network | Trees = MLP(),  # noqa: B008 - a frozen spec
    members: int = 1,
    folds: int = 5,
    validation: float = 0.2,
    bootstrap: bool = False,
    calibrate: Calibration | None = None,
    group: str | None = None,
    training: Training = Training(),  # noqa: B008 - a frozen spec
    level: float = 0.95,
    least: float = 50.0,
    seed: int,
    device: str = "cpu",
    checkpoint: str | Path | None = None,
    progress: bool = True,
) -> Mixtures:
    """Learn signal against background from two samples that have both, without labels.

    Parameters
    ----------
    first, second:
        The samples, without common events, which errors and limits would count twice; the first one has more signal.
        Weights of any sign, with positive sums.
    features:
        What the network sees; signal and background must have the same density of them in both samples.
    fractions:
        The signal fractions (f1, f2) where they are known.
    network, members, validation, calibrate, group, training, seed, device, checkpoint, progress:
        As `nuinfer.ratio.fit_ratio`.  Errors and limits take the events of a ``group`` for independent ones.
    folds:
        At least 2: events are scored by networks that have not seen them.
    bootstrap:
        Each member is trained on a bootstrap of both samples, and the fractions are estimated on it again: their spread
        over members has the training's part too.
    level:
        Confidence at which all bounds hold together.
    least:
        Tails of the score are looked at down to so many effective events of the sample in the denominator.

    Raises
    ------
    ValueError
        for empty samples, total weights that are not positive, in a fold too, fractions that are not 0 <= f2 < f1 <= 1,
        fewer than two folds, a level outside of (0, 1), or fewer than one event as ``least``.
    KeyError, TypeError
        for columns that are missing or of the wrong kind.

    Examples
    --------
    >>> rng = np.random.default_rng(1)
    >>> def mixed(n, fraction):  # N(1, 1) in N(-1, 1)
    ...     return Events({"x": rng.normal(np.where(rng.random(n) < fraction, 1.0, -1.0), 1.0)})
    >>> found = fit_mixtures(mixed(4000, 0.8), mixed(4000, 0.2), ["x"], network=MLP(width=16, depth=2), seed=1,
    ...                      training=Training(epochs=10, batch=256), progress=False)
    >>> area, error = found.signal_auc((0.8, 0.2))  # exact: 0.921
    >>> bool(abs(area - 0.921) < 0.03), found.bounds.first < 0.8, found.bounds.second > 0.2
    (True, True, True)
    """
    _check(folds, level, least)
    stated = None if fractions is None else _checked(fractions)
    for name, events in (("first", first), ("second", second)):
        positive_total(name, events.weight)
    keys = [events.key(group) for events in (first, second)]
    weights = [events.weight for events in (first, second)]
    places = _places(keys, weights, Resample(seed=seed, folds=folds))
    ratio = fit_ratio(
        first, second, Features.of(features), network=network, members=members, folds=folds, validation=validation,
        bootstrap=bootstrap, calibrate=calibrate, group=group, training=training, seed=seed, device=device,
        checkpoint=checkpoint, progress=progress,
    )  # fmt: skip
    logs = [ratio.members(events) for events in (first, second)]
    mean = [special.logsumexp(each, axis=0) - np.log(members) for each in logs]
    auc = _auc(mean, weights, places, folds)
    low, high = _kappas(mean, weights, level, least)
    times = _multiplicities(ratio.resample, keys) if bootstrap and members > 1 else []
    replicas = [
        [kappa.value for kappa in _kappas([each[k] for each in logs], [w * t for w, t in pairs], level, least)]
        for k, pairs in enumerate([list(zip(weights, own, strict=True)) for own in times])
    ]
    return Mixtures(ratio, stated, auc, low, high, np.array(replicas).reshape(-1, 2), level)


def _check(folds: int, level: float, least: float) -> None:
    if not isinstance(folds, int | np.integer) or folds < 2:
        raise ValueError(f"folds: expected an integer of at least 2, found {folds!r}; with one fold events would be "
                         f"scored by networks that saw them")  # fmt: skip
    if not 0 < level < 1:
        raise ValueError(f"level: expected a confidence between 0 and 1, found {level!r}")
    if not least >= 1:
        raise ValueError(f"least: expected a number of events of at least 1, found {least!r}")


def _checked(fractions: tuple[float, float]) -> tuple[float, float]:
    """The fractions (f1, f2), with 0 <= f2 < f1 <= 1."""
    pair = np.asarray(fractions, np.float64)
    if pair.shape != (2,) or not 0 <= pair[1] < pair[0] <= 1:
        raise ValueError(f"fractions: expected (f1, f2) with 0 <= f2 < f1 <= 1, found {fractions!r}; signal is what "
                         f"the first sample has more of: exchange the samples if need be")  # fmt: skip
    return float(pair[0]), float(pair[1])


def _places(
    keys: Sequence[NDArray[np.int64]], weights: Sequence[Floats], resample: Resample
) -> list[NDArray[np.int16]]:
    """The fold of each event of both samples, each of which has to have some of either: their areas are averaged."""
    places = [resample.fold_of(key) for key in keys]
    for name, weight, place in zip(("first", "second"), weights, places, strict=True):
        total = np.bincount(place, weight, minlength=resample.folds)
        if not (total > 0).all():
            raise ValueError(f"{name}: expected a positive total weight in each of the {resample.folds} folds, found "
                             f"{total.min():g} in fold {total.argmin()} of {len(weight)} events; use more events or "
                             f"groups, or fewer folds")  # fmt: skip
    return places


def _multiplicities(resample: Resample, keys: Sequence[NDArray[np.int64]]) -> list[list[Floats]]:
    """The bootstrap multiplicities of both samples for each member."""
    return [[resample.bootstrapped(k, key).astype(np.float64) for key in keys] for k in range(resample.members)]


def _auc(
    scores: Sequence[Floats], weights: Sequence[Floats], folds: Sequence[NDArray[np.int16]], count: int
) -> MixedAuc:
    """The mean over folds of their own areas."""
    found = []
    for k in range(count):
        (s1, w1), (s2, w2) = ((s[f == k], w[f == k]) for s, w, f in zip(scores, weights, folds, strict=True))
        area = metrics.roc_auc(s1, s2, weight_numerator=w1, weight_denominator=w2)
        w1, w2 = w1 / w1.sum(), w2 / w2.sum()
        below, above = metrics.mid_distribution(s1, s2, w2), 1 - metrics.mid_distribution(s2, s1, w1)
        variance = np.sum((w1 * (below - area.value)) ** 2) + np.sum((w2 * (above - area.value)) ** 2)
        found.append((area.value, variance, area.null_sd))
    value, variance, null = np.mean(found, axis=0)
    return MixedAuc(float(value), math.sqrt(variance / count), float(null * math.sqrt(2 / count)))


# -- the smallest ratios -----------------------------------------------------------------------------------------------


def _kappas(scores: Sequence[Floats], weights: Sequence[Floats], level: float, least: float) -> tuple[Kappa, Kappa]:
    """The smallest p1/p2, in low tails of the score, and the smallest p2/p1, in high ones."""
    (s1, s2), (w1, w2) = scores, weights
    own = (1 - level) / 4  # two limits of kappa, and two of the area
    low = _smallest((s1, w1), (s2, w2), own, least, 1.0)
    return low, _smallest((-s2, w2), (-s1, w1), own, least, -1.0)


def _smallest(
    one: tuple[Floats, Floats], other: tuple[Floats, Floats], chance: float, least: float, sign: float
) -> Kappa:
    """The smallest ratio of ``one`` to ``other``, (scores, weights) each, in tails of low scores."""
    edges = _tails(one, other)
    counted = [_Tail.of(sample, edges) for sample in (one, other)]
    enough = np.flatnonzero(counted[1].effective < least)
    tails = int(enough[0]) if len(enough) else len(edges)
    numerator, denominator = (tail.first(tails) for tail in counted)
    if not tails:  # not even half of the events are enough
        return Kappa(1.0, 0.0, 1.0, 1.0, math.inf * sign, counted[0].whole, counted[1].whole, 0)
    limits = ratio_limit(numerator, denominator, 1 - chance / tails)
    if limits.min() >= 1:  # no tail is known to have a smaller ratio than all events have
        return Kappa(1.0, 0.0, 1.0, 1.0, math.inf * sign, counted[0].whole, counted[1].whole, tails)
    best = int(limits.argmin())
    value = numerator.share / denominator.share
    counts = float(ratio_limit(numerator, denominator, _ONE_SIGMA)[best] - value[best])
    step = max(float(value[best] - value[best + 1]), 0.0) if best + 1 < tails else 0.0
    share = float(numerator.share[best] + denominator.share[best]) / 2
    return Kappa(float(value[best]), math.hypot(counts, step), float(limits[best]), share, float(sign * edges[best]),
                 float(numerator.effective[best]), float(denominator.effective[best]), tails)  # fmt: skip


def _tails(one: tuple[Floats, Floats], other: tuple[Floats, Floats]) -> Floats:
    """Scores below which 1/2, 1/4, ... of both samples are, each of total 1 in abs(w): down to one event."""
    score = np.concatenate([one[0], other[0]])
    size = np.concatenate([np.abs(w) / np.abs(w).sum() / 2 for _, w in (one, other)])
    order = np.argsort(score, kind="stable")
    below = np.cumsum(size[order])
    wanted = 0.5 ** np.arange(1, max(int(math.log2(len(score))), 1) + 1)
    return np.asarray(np.unique(score[order][np.searchsorted(below, wanted).clip(max=len(score) - 1)])[::-1])


class _Tail(NamedTuple):
    """What one sample has at or below each of T scores: shares of its total, and effective numbers of events (T,).

    ``unit`` (T,) is the share of an event; that of the whole sample counts as one event, for tails that have few.
    """

    share: Floats
    effective: Floats
    unit: Floats
    whole: float

    @classmethod
    def of(cls, sample: tuple[Floats, Floats], edges: Floats) -> _Tail:
        score, weight = sample[0], sample[1] / sample[1].sum()
        order = np.argsort(score, kind="stable")
        place = np.searchsorted(score[order], edges, side="right")
        share, square = (np.concatenate([[0.0], np.cumsum(w[order])])[place] for w in (weight, weight**2))
        mean = float(np.sum(weight**2))  # of an event's share, in events
        unit = (square + mean**2) / (np.maximum(share, 0) + mean)
        return cls(share, np.maximum(share, 0) / unit, unit, 1 / mean)

    def first(self, count: int) -> _Tail:
        """The first tails alone."""
        return _Tail(self.share[:count], self.effective[:count], self.unit[:count], self.whole)


def ratio_limit(one: _Tail, other: _Tail, level: float) -> Floats:
    """Upper limits (T,) of the ratios of two Poisson means, each count in units of its events' mean share.

    Exact for equal weights: given n1 + n2, n1 is binomial (Przyborowski, Wilenski, Biometrika 31 (1940) 313).
    """
    share = stats.beta.ppf(level, one.effective + 1, np.maximum(other.effective, 1e-9))
    with np.errstate(divide="ignore"):  # no limit where the denominator has nothing
        return np.asarray(share / (1 - share) * one.unit / other.unit)


def fractions_of_kappas(
    kappa12: ArrayLike, kappa21: ArrayLike, *, signal: float = 0.0, background: float = 0.0
) -> tuple[Floats, Floats]:
    """f1 and f2 of the smallest p1/p2 and p2/p1 (any shape), for reducibility factors inf S/B and inf B/S.

    NaN where a kappa is not below 1: either is 1 for equal fractions alone, of which nothing is known then.

    Raises
    ------
    ValueError
        for factors that are not from 0 to below 1.

    >>> f1, f2 = fractions_of_kappas(0.25, 0.25)  # (1 - 0.8)/(1 - 0.2) and 0.2/0.8
    >>> round(float(f1), 12), round(float(f2), 12)
    (0.8, 0.2)
    """
    for name, factor in (("signal", signal), ("background", background)):
        if not 0 <= factor < 1:
            raise ValueError(f"{name}: expected a reducibility factor from 0 to below 1, found {factor!r}")
    k12, k21 = np.asarray(kappa12, np.float64), np.asarray(kappa21, np.float64)
    a, b = 1 - signal, background / (1 - background)
    with np.errstate(divide="ignore", invalid="ignore"):
        f1 = (1 - k12 - k12 * a * b * (1 - k21)) / (a * (1 - k12 * k21))
    f1 = np.where((k12 < 1) & (k21 < 1), f1, np.nan)
    return f1, np.asarray(k21 * f1 - b * (1 - k21))


def unmix(first: Events, second: Events, fractions: tuple[float, float]) -> tuple[Events, Events]:
    r"""Signal and background, each as all events of both samples with weights of both signs, of total 1.

    .. math:: S = \frac{(1 - f_2)\, p_1 - (1 - f_1)\, p_2}{f_1 - f_2}, \qquad
              B = \frac{f_1\, p_2 - f_2\, p_1}{f_1 - f_2}

    in every column, also those that no classifier has seen (the topics of arXiv 1802.00008).

    Raises
    ------
    ValueError
        for empty samples, or fractions that are not 0 <= f2 < f1 <= 1.

    >>> one, two = Events({"x": [0.0, 1.0, 1.0, 1.0]}), Events({"x": [0.0, 0.0, 0.0, 1.0]})
    >>> signal, background = unmix(one, two, (0.75, 0.25))  # S is x = 1, B is x = 0
    >>> float(signal.weight @ signal["x"]), float(background.weight @ background["x"])
    (1.0, 0.0)
    """
    f1, f2 = _checked(fractions)
    one, two = (e.weight / positive_total(name, e.weight) for name, e in (("first", first), ("second", second)))
    both = Events.concat([first, second])
    signal = np.concatenate([(1 - f2) * one, -(1 - f1) * two]) / (f1 - f2)
    background = np.concatenate([-f2 * one, f1 * two]) / (f1 - f2)
    return both.with_weight(signal), both.with_weight(background)
