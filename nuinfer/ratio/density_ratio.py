r"""Density ratios of two weighted samples: ``fit_ratio`` -> `Ratio`.

A classifier trained on a numerator p1 and a denominator p0, each class scaled to the same total weight, learns

    f(x) = log p1(x)/p0(x)

(`nuinfer.losses`).  K members, and for each one network a fold, train together (`nuinfer.train`); the answer of an
ensemble is the log of the arithmetic mean of its members' ratios, which keeps the mean weight E_0[r] at 1.  The ratio
is of *shapes*; `Ratio.yields` carries the rates.

With folds no event is scored by a network that saw it: a known id gets its own fold's networks, another one the mean of
all folds.

Sources: Cranmer, Pavez, Louppe, arXiv 1506.02169; Nachman, Thaler, arXiv 2007.11586 (signed weights); Lopez-Paz, Oquab,
arXiv 1610.06545 (two-sample test).
"""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy import special

from .. import calibration, losses, metrics, store
from ..calibration import Calibration
from ..ensemble import Fitted, Model, fit
from ..events import Events, positive_total
from ..features import Batch, Features, Inputs
from ..nets import MLP, DeepSet, Network
from ..resample import Resample
from ..train import History, Training
from ..trees import Forest, Trees
from .learned import Networks, held_out, key_of, out_of_fold, rows_of, selected

__all__ = ["Ratio", "Report", "TwoSample", "fit_ratio", "refine", "two_sample_test"]

_log = logging.getLogger("nuinfer")

Floats = NDArray[np.float64]


class Yields(NamedTuple):
    """The sums of weights of numerator and denominator: the rates beside the shapes."""

    numerator: float
    denominator: float


class Samples(NamedTuple):
    """Digests of ids and weights of the samples a ratio was trained on: what tells whether two ratios share one."""

    numerator: str
    denominator: str


@dataclass(frozen=True, eq=False)
class Ratio:
    """A fitted log density ratio; made by `fit_ratio`.

    Attributes
    ----------
    features:
        The columns it sees.
    yields:
        Sums of weights of the two samples.
    history:
        Risks per epoch and network, None for trees.
    resample:
        Members, folds, splits and bootstraps.
    samples:
        Digests of the two samples.
    """

    features: Features
    network: Network | Trees
    model: Model
    resample: Resample
    yields: Yields
    history: History | None
    group: str | None = None
    loss: str = "bce"
    calibration: Calibration | None = None
    maps: Floats = field(default_factory=lambda: np.empty((0, 0)))
    known: NDArray[np.int64] = field(default_factory=lambda: np.empty(0, np.int64))
    samples: Samples = field(default_factory=lambda: Samples("", ""))

    def log(self, events: Events) -> Floats:
        """The log of the members' mean ratio, log p1(x)/p0(x) (N,).

        Raises
        ------
        KeyError, TypeError, ValueError
            for events without the columns of `features`, or not finite in them.
        """
        members = self.members(events)
        return np.asarray(special.logsumexp(members, axis=0) - np.log(len(members)))

    def members(self, events: Events) -> Floats:
        """Each member's log ratio (K, N)."""
        per_network = self._networks(self.features.tensors(events))
        if self.resample.folds == 1:
            return per_network
        return out_of_fold(per_network, self.resample, self._key(events), self.known)

    def weights(self, events: Events) -> Floats:
        """exp(log) (N,): factors that give the denominator's events the shape of the numerator.

        Multiply by ``yields.numerator / yields.denominator`` for its rate too.
        """
        return np.asarray(np.exp(self.log(events)))

    def tensor(self, batch: Batch) -> Any:
        """`log` of a `Batch` of one member as a tensor (B,), differentiable in the batch; folds are averaged.

        Raises
        ------
        TypeError
            for trees or a calibrated ratio, which have no gradient here.
        """
        if isinstance(self.model, Forest) or self.calibration is not None:
            raise TypeError("tensor: expected a ratio of networks without calibration, found "
                            + ("trees" if isinstance(self.model, Forest) else f"{self.calibration!r}"))  # fmt: skip
        outputs = self.model.tensor(batch)
        return outputs.logsumexp(0) - float(np.log(len(outputs)))

    def report(self, numerator: Events, denominator: Events, *, bins: int = 10, seed: int = 0) -> Report:
        """How well the ratio turns ``denominator`` into ``numerator``: see `Report`.

        Give events that it was not trained on, or a ratio with folds.
        """
        logs = self.log(numerator), self.log(denominator)
        return report_of(logs, numerator, denominator, self.features, group=self.group, bins=bins, seed=seed)

    def _key(self, events: Events) -> NDArray[np.int64]:
        return key_of(events, self.group)

    def _networks(self, inputs: Inputs) -> Floats:
        raw = Fitted(self.model, None).log(inputs)
        if self.calibration is None:
            return raw
        return np.stack([calibration.apply(self.calibration, m, f) for m, f in zip(self.maps, raw, strict=True)])

    def __repr__(self) -> str:
        r, y = self.resample, self.yields
        folds = f" x {r.folds} folds" if r.folds > 1 else ""
        extra = f", calibrated ({self.calibration})" if self.calibration else ""
        return (
            f"Ratio({type(self.network).__name__}, {r.members} members{folds}, columns "
            f"{', '.join(self.features.columns)}; yields {y.numerator:.6g} / {y.denominator:.6g}{extra})"
        )

    # -- files ---------------------------------------------------------------------------------------------------------

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write everything to one safetensors file, atomically."""
        store.save(path, "ratio", *self.saved())

    @classmethod
    def load(cls, path: str | os.PathLike[str], *, module: Any = None) -> Ratio:
        """Read what `save` wrote; ``module`` makes the network of a ratio that was fitted with a user's own.

        Raises
        ------
        CorruptFile
            for a file that is damaged or not a ratio; ``FileNotFoundError`` where there is none.
        """
        return cls.of_saved(*store.load(path, "ratio"), module=module)

    def saved(self) -> tuple[dict[str, Any], dict[str, NDArray[Any]]]:
        """What JSON holds, and the arrays: for `save`, and for results that have a ratio in them."""
        own = Networks(self.features, self.network, self.model, self.resample, self.history, self.group, self.known)
        spec = {
            **own.spec(), "yields": list(self.yields), "loss": self.loss, "calibration": self.calibration,
            "history": self.history is not None, "samples": list(self.samples),
        }  # fmt: skip
        return spec, {**own.arrays(), "maps": self.maps}

    @classmethod
    def of_saved(cls, spec: Mapping[str, Any], arrays: Mapping[str, NDArray[Any]], *, module: Any = None) -> Ratio:
        """The inverse of `saved`."""
        own = Networks.of(spec, arrays, module)
        return cls(
            own.features, own.network, own.model, own.resample, Yields(*spec["yields"]), own.history, own.group,
            spec["loss"], spec["calibration"], arrays["maps"], own.known,
            Samples(*spec.get("samples", ("", ""))),  # files of the first versions do not have them
        )  # fmt: skip


def fit_ratio(
    numerator: Events,
    denominator: Events,
    features: Features | list[str],
    *,
    network: Network | Trees = MLP(),  # noqa: B008 - a frozen spec
    loss: losses.RatioLoss = "bce",
    members: int = 1,
    folds: int = 1,
    validation: float = 0.2,
    bootstrap: bool = False,
    calibrate: Calibration | None = None,
    group: str | None = None,
    training: Training = Training(),  # noqa: B008 - a frozen spec
    seed: int,
    device: str = "cpu",
    checkpoint: str | Path | None = None,
    cache: str | Path | None = None,
    progress: bool = True,
) -> Ratio:
    """Learn log p1(x)/p0(x) of two weighted samples.

    Parameters
    ----------
    numerator, denominator:
        The samples of p1 and p0; weights of any sign, with positive sums.  Two weightings of the same events (equal ids
        and features) are trained on as one sample with two weights, which has half the rows and, where the weights
        agree, no noise at all: the way to learn a systematic variation that is a weight.
    features:
        What the network sees: a list of flat columns, or `Features`.
    network:
        ``MLP``, ``DeepSet``, ``Transformer``, ``Trees``, or a function that makes a ``torch.nn.Module``.
    loss:
        "bce", "mlc" or "sqrt" (`nuinfer.losses`); trees have their own.
    members:
        Networks with their own initial weights, batches and validation rows, whose mean ratio is the answer.
    folds:
        Cross-fitting: each member trains one network a fold, and no known event is scored by one that saw it.
    validation:
        Fraction held out of training, by member, for early stopping and calibration.
    bootstrap:
        Each member trains on a Poisson bootstrap of both samples: the members' spread is then the statistical error of
        one network, the noise of its training included, which can be the larger part.
    calibrate:
        "temperature" or "monotone": a map of each network's output, fitted on its held-out rows.
    group:
        Integer column whose equal values (copies of one event) stay together in splits, folds and bootstraps.
    training:
        Epochs, batch size, learning rate, patience.
    seed:
        The same seed gives the same ratio, to the bit, at a fixed number of threads.
    device, checkpoint, progress:
        See `nuinfer.train.minimise`.
    cache:
        A folder for the features of samples that are memory-mapped or too large: written once in shuffled order, then
        read in blocks (`Features.mapped`).

    Raises
    ------
    ValueError
        for empty samples, total weights that are not positive, columns that are not finite (count and first rows).
    KeyError, TypeError
        for columns that are missing or of the wrong kind.

    Examples
    --------
    >>> from nuinfer.simulators import GaussianRatio
    >>> toy = GaussianRatio()  # N(+1, 1) against N(-1, 1): log r = 2 x
    >>> ratio = fit_ratio(toy.numerator(4000, 1), toy.denominator(4000, 2), ["x0"], seed=1, progress=False,
    ...                   network=MLP(width=16, depth=2), training=Training(epochs=10, batch=256))
    >>> log_r = ratio.log(Events({"x0": [-1.0, 0.0, 1.0]}))
    >>> bool(abs(log_r - [-2.0, 0.0, 2.0]).max() < 0.3)
    True
    """
    if calibrate is not None and not validation:
        raise ValueError("calibrate: expected a validation fraction above 0, found 0; a map fitted on training rows "
                         "would not calibrate")  # fmt: skip
    features = Features.of(features)
    parts = [("numerator", numerator), ("denominator", denominator)]
    yields = Yields(*(positive_total(name, events.weight) for name, events in parts))
    used, weights = _rows(numerator, denominator, (*features.columns, *([] if group is None else [group])))
    key = np.concatenate([events.key(group) for events in used])
    rows, _ = rows_of(used, features, weights, key, seed, cache)
    resample = Resample(seed=seed, members=members, folds=folds, validation=validation, bootstrap=bootstrap)
    fitted = fit(
        rows.inputs, (rows.weights[0], rows.weights[1]), rows.key, resample, shape=features.shape, network=network,
        loss=losses.by_name(loss), training=training, device=device, checkpoint=checkpoint, label="ratio",
        progress=progress,
    )  # fmt: skip
    maps = np.empty((0, 0))
    if validation and (calibrate or (weights[0] < 0).any() or (weights[1] < 0).any()):
        held = held_out(fitted.model, rows, resample)
        warn_where_negative(held)
        maps = np.stack([calibration.fit_calibration(calibrate, *h) for h in held]) if calibrate else maps
    known = np.unique(key) if folds > 1 else np.empty(0, np.int64)
    samples = Samples(numerator.digest(), denominator.digest())
    return Ratio(
        features, network, fitted.model, resample, yields, fitted.history, group, loss, calibrate, maps, known, samples
    )


def _rows(numerator: Events, denominator: Events, columns: Sequence[str]) -> tuple[list[Events], tuple[Floats, Floats]]:
    """The samples to train on, without what has no weight, and the weights of both classes on their rows."""
    if not _same_events(numerator, denominator, columns):
        one, zero = selected(numerator), selected(denominator)
        return [one, zero], two_weights(one.weight, zero.weight)
    both = np.stack([numerator.weight, denominator.weight])
    kept = (both != 0).any(0)
    w1, w0 = both * (np.count_nonzero(kept) / both.sum(1, keepdims=True))
    return ([denominator], (w1, w0)) if kept.all() else ([denominator.select(kept)], (w1[kept], w0[kept]))


def _same_events(one: Events, other: Events, columns: Sequence[str]) -> bool:
    """Whether two samples are weightings of the same rows."""
    if len(one) != len(other) or not np.array_equal(one.id, other.id):
        return False
    return all(name in one and name in other and _equal(one[name], other[name]) for name in columns)


def _equal(one: Any, other: Any) -> bool:
    pairs = zip(one, other, strict=True) if isinstance(one, tuple) and isinstance(other, tuple) else [(one, other)]
    return all(a is b or np.array_equal(a, b) for a, b in pairs)


def two_weights(numerator: Floats, denominator: Floats) -> tuple[Floats, Floats]:
    """Weights of both classes on the rows of numerator, then denominator, each with mean 1 over all rows."""
    w1 = np.concatenate([numerator, np.zeros(len(denominator))])
    w0 = np.concatenate([np.zeros(len(numerator)), denominator])
    return w1 * (len(w1) / w1.sum()), w0 * (len(w0) / w0.sum())


def warn_where_negative(
    held: Sequence[tuple[Floats, ...]], names: tuple[str, ...] = ("numerator", "denominator")
) -> None:
    """A loss is unbounded where the local net weight is negative: say so where held-out events show it."""
    for n, (f, *classes) in enumerate(held):
        if all((w >= 0).all() for w in classes) or len(f) < 20:
            continue
        where = np.digitize(f, np.quantile(f, np.linspace(0, 1, 21)[1:-1]))
        for name, w in zip(names, classes, strict=True):
            net, error = np.bincount(where, w), np.sqrt(np.bincount(where, w * w))
            worst = int(np.argmin(net + 3 * error))
            if net[worst] < -3 * error[worst]:
                _log.warning(
                    "the net weight of the %s is negative by %.1f standard deviations where network %d puts log r near "
                    "%.2f; no ratio of densities exists there: merge these events with positive ones, or refine the "
                    "weights", name, -net[worst] / error[worst], n, float(np.median(f[where == worst])),
                )  # fmt: skip


# -- is it good? -------------------------------------------------------------------------------------------------------


class TwoSample(NamedTuple):
    """A classifier two-sample test: out-of-fold area under the ROC curve and accuracy, 0.5 where nothing differs."""

    auc: metrics.Score
    accuracy: metrics.Score

    @property
    def z(self) -> float:
        """(AUC - 1/2) / sigma: of mean 0 and a deviation of at most 1 where the samples come from one density."""
        return self.auc.z


@dataclass(frozen=True)
class Report:
    """What `Ratio.report` found on events that the ratio should not have seen.

    Attributes
    ----------
    reliability:
        Predicted against observed fractions of the numerator.
    mean_weight, mean_weight_error:
        E_0[r], which is 1 for an exact ratio, and its sampling error.
    effective_size:
        Of the denominator's events before and after reweighting.
    two_sample:
        Numerator against reweighted denominator; and ``two_sample_before``, unweighted by r.
    """

    reliability: metrics.Reliability
    mean_weight: float
    mean_weight_error: float
    effective_size: tuple[float, float]
    two_sample: TwoSample
    two_sample_before: TwoSample

    def __str__(self) -> str:
        before, after = self.effective_size
        pulls = self.reliability.pulls
        return (
            f"mean weight E_0[r] = {self.mean_weight:.4f} +- {self.mean_weight_error:.4f} (exact: 1)\n"
            f"reliability: chi2 = {float(np.sum(pulls**2)):.1f} for {len(pulls)} bins, largest pull "
            f"{float(np.abs(pulls).max()):.1f}\n"
            f"effective size of the denominator: {before:.0f} before, {after:.0f} after reweighting\n"
            f"two-sample test: AUC {self.two_sample_before.auc.value:.4f} before, {self.two_sample.auc.value:.4f} +- "
            f"{self.two_sample.auc.null_sd:.4f} after reweighting (z = {self.two_sample.z:+.1f})"
        )


def report_of(
    logs: tuple[Floats, Floats], numerator: Events, denominator: Events, features: Features, *, group: str | None,
    bins: int, seed: int,
) -> Report:  # fmt: skip
    """The `Report` of log ratios (N1,), (N0,) of the two samples, whose difference is to be in ``features``."""
    r = np.exp(logs[1])
    mean, error = mean_ratio(r, denominator.weight)
    reweighted = denominator.with_weight(denominator.weight * r)
    curve = metrics.reliability(
        logs[0], logs[1], weight_numerator=numerator.weight, weight_denominator=denominator.weight, bins=bins
    )
    tests = [
        two_sample_test(numerator, sample, features, group=group, seed=seed, progress=False)
        for sample in (reweighted, denominator)
    ]
    sizes = (denominator.effective_size, reweighted.effective_size)
    return Report(curve, mean, error, sizes, tests[0], tests[1])


def mean_ratio(r: Floats, weight: Floats) -> tuple[float, float]:
    """The weighted mean of ratios (N,) over the denominator, 1 for an exact one, and its sampling error."""
    total = positive_total("denominator", weight)
    mean = float(np.dot(weight, r) / total)
    return mean, float(np.sqrt(np.sum((weight * (r - mean)) ** 2)) / total)


def two_sample_test(
    first: Events,
    second: Events,
    features: Features | list[str],
    *,
    network: Network | Trees | None = None,
    folds: int = 2,
    group: str | None = None,
    training: Training | None = None,
    seed: int,
    progress: bool = True,
) -> TwoSample:
    """The classifier two-sample test (C2ST): whether a classifier can tell the weighted samples apart, out of fold.

    The area under the ROC curve is 0.5 within its error where both come from one density (normalisations do not count).
    Source: Lopez-Paz, Oquab, arXiv 1610.06545.
    """
    features = Features.of(features)
    if network is None:
        network = DeepSet(width=32, latent=16) if features.clouds else MLP(width=32, depth=2)
    ratio = fit_ratio(
        first, second, features, network=network, folds=folds, group=group, seed=seed, progress=progress,
        training=training or Training(epochs=10, batch=512),
    )  # fmt: skip
    scored = [_Scored(ratio, events) for events in (first, second)]
    return TwoSample(
        _over_folds(metrics.roc_auc, scored, folds), _over_folds(metrics.two_sample_accuracy, scored, folds)
    )


class _Scored:
    """A sample's out-of-fold log ratios, weights and folds."""

    def __init__(self, ratio: Ratio, events: Events) -> None:
        self.log, self.weight = ratio.log(events), events.weight
        self.fold = ratio.resample.fold_of(ratio._key(events))


def _over_folds(score: Callable[..., metrics.Score], samples: list[_Scored], folds: int) -> metrics.Score:
    """Mean value and mean null deviation of the folds' own scores.

    Folds learn from each other's events, so that their scores are correlated by an unknown amount; the mean of their
    deviations, not divided by sqrt(folds), holds for any.
    """
    found = []
    for number in range(folds):
        one, other = ((s.log[s.fold == number], s.weight[s.fold == number]) for s in samples)
        found.append(score(one[0], other[0], weight_numerator=one[1], weight_denominator=other[1]))
    values, deviations = zip(*found, strict=True)
    return metrics.Score(float(np.mean(values)), float(np.mean(deviations)))


# -- signed weights made positive -------------------------------------------------------------------------------------


def refine(
    events: Events,
    features: Features | list[str],
    *,
    network: Network | Trees = MLP(),  # noqa: B008 - a frozen spec
    members: int = 1,
    folds: int = 2,
    training: Training = Training(),  # noqa: B008 - a frozen spec
    group: str | None = None,
    seed: int,
    progress: bool = True,
) -> Events:
    """The same events with positive weights of the same density in ``features``: w -> abs(w) E[sign w | x].

    With o(x) the odds of a positive weight, learned as the ratio of the events of positive to those of negative weight
    (in abs(w), out of fold), the mean sign is (o - 1)/(o + 1).  The result is scaled to the sum of the weights.  Events
    without negative weights come back as they are.

    Source: Nachman, Thaler, arXiv 2007.11586.

    Raises
    ------
    ValueError
        where the mean sign is not positive: the density is negative there, and no positive weights have it.

    >>> from nuinfer.simulators import GaussianRatio
    >>> signed = GaussianRatio(negative=0.2).numerator(4000, 1)
    >>> refined = refine(signed, ["x0"], seed=1, progress=False, training=Training(epochs=5, batch=256))
    >>> bool((refined.weight > 0).all()), bool(refined.effective_size > 1.5 * signed.effective_size)
    (True, True)
    """
    total, negative = positive_total("weights to refine", events.weight), events.weight < 0
    if not negative.any():
        return events
    size = events.with_weight(np.abs(events.weight))
    ratio = fit_ratio(
        size.select(~negative), size.select(negative), features, network=network, members=members, folds=folds,
        training=training, group=group, seed=seed, progress=progress,
    )  # fmt: skip
    half_log_odds = 0.5 * (ratio.log(events) + np.log(ratio.yields.numerator / ratio.yields.denominator))
    mean_sign = np.tanh(half_log_odds)
    bad = np.flatnonzero((mean_sign <= 0) & (events.weight != 0))
    if len(bad):
        raise ValueError(
            f"refine: expected a positive mean sign of the weights everywhere, found {mean_sign[bad[0]]:.3g} at row "
            f"{bad[0]} and {len(bad)} rows in all; merge these events with positive ones, or use fewer features"
        )
    return size.with_weight(size.weight * mean_sign).scaled_to(total)
