r"""Parametrised density ratios: ``fit_parametrised_ratio`` -> `ParametrisedRatio`, one function of x and theta.

    f(x, theta) = log p(x | theta) / p(x | ref)

A classifier sees x and theta.  Its numerator are events that were generated at their own theta; its denominator events
of the reference (one density p(x | ref)), each of which borrows the theta of a simulated event, another one in each
epoch, so that theta alone carries nothing.  With ``reference="marginal"`` both are the same events, the theta of the
denominator shuffled: the reference is p(x) = \int p(x | theta) pi(theta) dtheta.

**Gold.**  Where the simulator gives the joint ratio r(x, z | theta) or the joint score t(x, z | theta) of its latent
variables z, as columns or by a differentiable event weight w_i(theta), the losses of `nuinfer.losses` learn from them:

- "bce" uses the class alone, and is always possible;
- "alice" uses the joint ratio: the class is replaced by its probability given z;
- "rolr" uses the joint ratio too, by squared errors of r and 1/r, which heavy tails throw off;
- "cascal", "alices", "rascal" are the three with the squared error of the score added.

With ``weight=``, a function of (events, theta), each event belongs to numerator and denominator at once, with its
weight at a theta drawn from the prior and its weight at the reference: "bce" then is "alice", without a second sample.

Sources: Cranmer, Pavez, Louppe, arXiv 1506.02169; Baldi, Cranmer, Faucett, Sadowski, Whiteson, arXiv 1601.07913
(networks parametrised by theta); Hermans, Begy, Louppe, arXiv 1903.04057 (the marginal as reference); Brehmer, Louppe,
Pavez, Cranmer, arXiv 1805.12244, and Stoye, Brehmer, Louppe, Pavez, Cranmer, arXiv 1808.00973 (joint ratio and score).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import special
from torch import Tensor

from .. import calibration, losses
from ..calibration import Calibration
from ..events import Events, positive_total
from ..features import Batch, Features, Inputs
from ..losses import Loss
from ..nets import MLP, Network
from ..resample import Resample
from ..train import Draw, Training
from .density_ratio import Samples, Yields, two_weights, warn_where_negative
from .draws import Design, Pairing, Reweighting
from .gold import check_joint_ratio, check_joint_score, check_same_density
from .learned import Answer, Learned, Options, Reordered, Rows, held_out, learn, rows_of, selected
from .parameters import (
    Parameters,
    Prior,
    WeightFunction,
    box_of,
    column_values,
    columns_of,
    drawn_from,
    names_of,
    points,
    weights_at,
)
from .reports import Judged, ParametrisedReport, parametrised_report

__all__ = ["ParametrisedRatio", "fit_parametrised_ratio"]

Floats = NDArray[np.float64]
ParametrisedLoss = Literal["bce", "alice", "rolr", "cascal", "alices", "rascal"]
Theta = Mapping[str, Any] | ArrayLike

_BASE: dict[str, Loss] = {
    "bce": losses.bce, "cascal": losses.bce, "alice": losses.alice, "alices": losses.alice,
    "rolr": losses.rolr, "rascal": losses.rolr,
}  # fmt: skip
_BOTH = "weight and prior: expected both or neither; the prior says where theta is drawn for weight"
_POINTS = 64  # thetas of a report on a sample with weights
_JOINT = ("alice", "alices", "rolr", "rascal")
_SCORE = ("cascal", "alices", "rascal")


@dataclass(frozen=True, eq=False)
class ParametrisedRatio(Answer):
    """A fitted log p(x | theta)/p(x | ref); made by `fit_parametrised_ratio`.

    Theta is a mapping of names to numbers or to columns (N,), a vector (T,), or one row for each event (N, T).  Outside
    of the range in training the answer is extrapolated, and a warning logged.

    Attributes
    ----------
    parameters:
        Names and range of theta.
    reference:
        The point, "marginal", or "sample" for events of a density of their own.
    yields, samples:
        Sums of weights and digests of simulations and reference.
    """

    _KIND = "parametrised ratio"

    parameters: Parameters
    reference: str | Mapping[str, float]
    yields: Yields
    loss: str = "bce"
    calibration: Calibration | None = None
    maps: Floats = field(default_factory=lambda: np.empty((0, 0)))
    samples: Samples = field(default_factory=lambda: Samples("", ""))

    @property
    def names(self) -> tuple[str, ...]:
        """Of the T parameters."""
        return self.parameters.names

    def log(self, events: Events, theta: Theta) -> Floats:
        """The log of the members' mean ratio, log p(x | theta)/p(x | ref) (N,).

        Raises
        ------
        KeyError, TypeError, ValueError
            for events without the columns of `features`, for names, shapes or values of theta that are not its.
        """
        members = self.members(events, theta)
        return np.asarray(special.logsumexp(members, axis=0) - np.log(len(members)))

    def members(self, events: Events, theta: Theta) -> Floats:
        """Each member's log ratio (K, N)."""
        found = self.learned.model.log(self._inputs(events, theta))
        if self.calibration is not None:
            found = np.stack([calibration.apply(self.calibration, m, f) for m, f in zip(self.maps, found, strict=True)])
        return self.learned.out_of_fold(events, found)

    def score(self, events: Events, theta: Theta) -> Floats:
        """d log r / d theta (N, T), the score of p(x | theta), in the inverse units of theta.

        Raises
        ------
        TypeError
            for a calibrated ratio, which has no gradient here.
        """
        self._check_gradient("score")
        count = len(self.parameters.names)
        found = self.learned.model.each(self._inputs(events, theta), slopes=count)
        by_fold = found.reshape(self.resample.members, self.resample.folds, len(events), 1 + count)
        # of the log of a mean of ratios: the mean of the scores, weighted by the ratios
        weight = special.softmax(by_fold[..., 0] + _log(self.learned.shares(events)), axis=(0, 1))
        return np.asarray(np.einsum("kfn,kfnt->nt", weight, by_fold[..., 1:]) / self.parameters.scale)

    def tensor(self, batch: Batch, theta: Tensor) -> Tensor:
        """`log` of a `Batch` of one member (B,), at theta (T,) or (B, T); differentiable in both; folds are averaged.

        Raises
        ------
        TypeError
            for a calibrated ratio, which has no gradient here.
        """
        self._check_gradient("tensor")
        outputs = self.learned.model.tensor(self.learned.batch(batch, self.parameters.tensor(theta)))
        return outputs.logsumexp(0) - float(np.log(len(outputs)))

    def report(
        self,
        simulations: Events,
        reference: Events | None = None,
        *,
        weight: WeightFunction | None = None,
        prior: Prior | None = None,
        regions: int = 4,
        bins: int = 10,
        seed: int = 0,
    ) -> ParametrisedReport:
        """How well the ratio tells each theta from the reference, in regions of theta: see `ParametrisedReport`.

        Give events that it was not trained on, or a ratio with folds.

        Parameters
        ----------
        simulations, weight, prior:
            As in `fit_parametrised_ratio`: events at their own theta, or one sample with its weights.
        reference:
            Events of the reference.  Without them the simulations, of a ratio to the marginal, or the sample with
            ``weight`` are cut in two halves, one of which is the reference's.
        regions, bins:
            The number of regions of theta, with equally many events each, and of bins in each of them.
        seed:
            Of the theta that events of the reference borrow.

        Raises
        ------
        ValueError
            for a reference that is missing or does not go with ``weight``, or as `fit_parametrised_ratio`.
        KeyError, TypeError
            for columns that are missing or of the wrong kind.
        """
        if (weight is None) != (prior is None):
            raise ValueError(_BOTH)
        if weight is None:
            judged = _judged_samples(self, simulations, reference, seed)
        else:
            judged = _judged_weights(self, simulations, reference, weight, prior, seed)
        return parametrised_report(self.log, self.parameters, self.features, judged, regions, bins, seed)

    def _inputs(self, events: Events, theta: Theta) -> Inputs:
        return self.learned.inputs(events, self.parameters.standard(self.parameters.read(theta, len(events))))

    def _check_gradient(self, what: str) -> None:
        if self.calibration is not None:
            raise TypeError(f"{what}: expected a ratio without calibration, found {self.calibration!r}, which has no "
                            f"gradient here; fit with calibrate=None")  # fmt: skip

    def __repr__(self) -> str:
        extra = f", calibrated ({self.calibration})" if self.calibration else ""
        at = self.reference if isinstance(self.reference, str) else dict(self.reference)
        return f"ParametrisedRatio({self.learned}; {self.parameters!r}, reference {at}; loss {self.loss}{extra})"

    # -- files ---------------------------------------------------------------------------------------------------------

    def _saved(self) -> tuple[dict[str, Any], dict[str, NDArray[Any]]]:
        reference = self.reference if isinstance(self.reference, str) else dict(self.reference)
        spec = {
            "parameters": list(self.parameters.names), "reference": reference, "yields": list(self.yields),
            "loss": self.loss, "calibration": self.calibration, "samples": list(self.samples),
        }  # fmt: skip
        return spec, {**self.parameters.arrays(), "maps": self.maps}

    @classmethod
    def _loaded(cls, learned: Learned, spec: Mapping[str, Any], arrays: dict[str, NDArray[Any]]) -> ParametrisedRatio:
        return cls(
            learned, Parameters.of_arrays(spec["parameters"], arrays), spec["reference"], Yields(*spec["yields"]),
            spec["loss"], spec["calibration"], arrays["maps"], Samples(*spec["samples"]),
        )  # fmt: skip


def _log(values: Floats) -> Floats:
    with np.errstate(divide="ignore"):
        return np.log(values)


class _Prepared(NamedTuple):
    """What is trained on."""

    rows: Rows
    draw: Draw
    parameters: Parameters
    reference: str | Mapping[str, float]
    yields: Yields
    samples: Samples
    signed: bool


class _Gold(NamedTuple):
    """What a loss needs of the simulator, and the columns where it is."""

    loss: str
    joint_ratio: str | None
    joint_score: tuple[str, ...] | None

    @property
    def joint(self) -> bool:
        return self.loss in _JOINT

    @property
    def score(self) -> bool:
        return self.loss in _SCORE

    @property
    def squares(self) -> bool:
        """Whether the loss divides by the joint ratio, which then has to be positive."""
        return self.loss in ("rolr", "rascal")


def fit_parametrised_ratio(
    simulations: Events,
    theta: Sequence[str],
    features: Features | list[str],
    *,
    reference: Events | Mapping[str, float] | Literal["marginal"],
    loss: ParametrisedLoss = "bce",
    joint_ratio: str | None = None,
    joint_score: Sequence[str] | None = None,
    weight: WeightFunction | None = None,
    prior: Prior | None = None,
    points: int = 512,
    score_weight: float = 0.3,
    balance: float = 0.0,
    network: Network = MLP(),  # noqa: B008 - a frozen spec
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
) -> ParametrisedRatio:
    """Learn log p(x | theta)/p(x | ref) as a function of x and theta.

    Parameters
    ----------
    simulations:
        Events that were generated each at its own theta, drawn from any distribution; weights of any sign.  With
        ``weight``, events of one generator, and their weight is that function.
    theta:
        Names of the T parameters: columns of ``simulations``, or what ``weight`` takes.
    features:
        What the network sees of an event, without theta.
    reference:
        Events of the reference density; "marginal" for p(x); with ``weight`` a point, name -> value, or "marginal".
    loss:
        See the module.  The joint ratio and joint score are those of normalised densities.
    joint_ratio:
        Column of r(x, z | theta) = p(x, z | theta)/p(x, z | ref).  The reference then needs it too, and the theta
        columns that its values belong to.  Their weighted density has to be that of the simulations' theta: log r is
        biased by the log of the ratio of the two (of theta alone).  Each parameter is compared by itself.
    joint_score:
        T columns of t(x, z | theta), of the simulations at their own theta.  A warning is logged where the means of
        either contradict it (`nuinfer.ratio.gold`).
    weight:
        ``weight(events, theta)``: theta (T', T), a float64 tensor, -> (T', N), in torch, differentiable: the whole
        weight of each event, in the place of ``simulations.weight``.
    prior, points:
        With ``weight``, where theta is drawn in training: a box, name -> (low, high), filled with ``points`` points, 8
        or more, or points of your own (M, T).  Each epoch uses 64 of them.
    score_weight:
        Factor of the score's squared error, with theta in units of its standard deviation in training.
    balance:
        Factor of the penalty of `nuinfer.losses.Balanced` on "bce", which makes a ratio that is learned from few events
        cautious; 100 is usual, 0 leaves it out.  Weights must not be negative.
    network:
        As in `fit_ratio`, trees excepted; it sees theta as T flat columns behind those of ``features``.
    members, folds, validation, bootstrap, group, training, seed, device, checkpoint, cache, progress:
        As in `fit_ratio`.  Simulations and reference are split by their ids.  ``weight`` reads the events themselves,
        not their cached features.
    calibrate:
        "temperature" or "monotone": one map of each network's output, the same for all theta, fitted on held-out rows.
        A calibrated ratio has no gradient in theta, so that it goes with losses without the joint score only.

    Raises
    ------
    ValueError
        for theta that does not vary or is not finite, a reference out of its range or, with a joint ratio, of another
        density of theta (p < 1e-6), a joint ratio that is not positive or is upside down, totals that are not positive,
        a loss without the columns that it needs, or the wrong shape from ``weight``.
    KeyError, TypeError
        for columns that are missing or of the wrong kind.

    Examples
    --------
    >>> from nuinfer.simulators import LinearGaussian
    >>> problem = LinearGaussian([[1.0]], noise=1.0)  # theta ~ N(0, 1), x ~ N(theta, 1)
    >>> ratio = fit_parametrised_ratio(
    ...     problem.simulate(4000, seed=1), ["theta0"], ["x0"], reference=problem.sample_at([0.0], 4000, seed=2),
    ...     network=MLP(width=16, depth=2), training=Training(epochs=10, batch=256), seed=1, progress=False)
    >>> log_r = ratio.log(Events({"x0": [-1.0, 0.0, 1.0]}), {"theta0": 0.5})  # exact: x / 2 - 1 / 8
    >>> bool(abs(log_r - [-0.625, -0.125, 0.375]).max() < 0.2)
    True
    """
    names, features = names_of(theta), Features.of(features)
    gold = _Gold(loss, joint_ratio, None if joint_score is None else columns_of("joint_score", joint_score))
    _check(gold, names, weight, prior, calibrate, validation, score_weight)
    resample = Resample(seed=seed, members=members, folds=folds, validation=validation, bootstrap=bootstrap)
    options = Options(network, resample, training, group, device, checkpoint, progress)
    if weight is None:
        sample = _from_samples(simulations, reference, names, features, gold, resample, group, cache)
    else:
        design = _designed(simulations, reference, names, gold, seed, weight, prior, points)
        sample = _from_weights(simulations, features, gold, resample, group, weight, design, cache)
    learned = learn(
        sample.rows, features, options, _loss(gold, weight is not None, score_weight, balance, sample.signed),
        label="parametrised ratio", draw=sample.draw, extra=len(names), slopes=len(names) if gold.score else 0,
    )  # fmt: skip
    maps = _maps(learned, sample, calibrate)
    return ParametrisedRatio(
        learned, sample.parameters, sample.reference, sample.yields, loss, calibrate, maps, sample.samples
    )


def _maps(learned: Learned, sample: _Prepared, calibrate: Calibration | None) -> Floats:
    """The maps of the networks' outputs, none where there is no calibration; warns where densities go negative."""
    if not learned.resample.validation or not (calibrate or sample.signed):
        return np.empty((0, 0))
    held = held_out(learned.model, sample.rows, learned.resample, sample.draw)
    warn_where_negative(held)
    return np.stack([calibration.fit_calibration(calibrate, *h) for h in held]) if calibrate else np.empty((0, 0))


def _loss(gold: _Gold, both: bool, score_weight: float, balance: float, signed: bool) -> Loss:
    """The loss of a name; where events have both weights, these say what the joint ratio would."""
    if balance != 0:
        return losses.Balanced(losses.bce, _checked_balance(balance, gold.loss, signed))
    base = losses.bce if both and gold.loss in ("alice", "alices") else _BASE[gold.loss]
    return losses.Scored(base, 2 if base is losses.bce else 3, score_weight) if gold.score else base


def _checked_balance(balance: float, loss: str, signed: bool) -> float:
    if not (np.isfinite(balance) and balance > 0):
        raise ValueError(f"balance: expected a number from 0, found {balance!r}")
    if loss != "bce":
        raise ValueError(f"balance: expected 0 with loss {loss!r}, found {balance:g}; the penalty goes with 'bce'")
    if signed:
        raise ValueError("balance: expected weights that are not negative, found some; a batch's balance of signed "
                         "weights has no bounds; nuinfer.ratio.refine makes them positive")  # fmt: skip
    return balance


def _check(
    gold: _Gold, names: tuple[str, ...], weight: Any, prior: Any, calibrate: Any, validation: float, factor: float
) -> None:
    """What can be said before any event is looked at."""
    if gold.loss not in _BASE:
        hint = "; for the score at one theta: fit_score" if gold.loss == "sally" else ""
        raise ValueError(f"loss: expected one of {', '.join(_BASE)}, found {gold.loss!r}{hint}")
    for what, given, needed in (
        ("joint_ratio", gold.joint_ratio, gold.joint),
        ("joint_score", gold.joint_score, gold.score),
    ):
        if weight is not None and given is not None:
            raise ValueError(f"{what}: expected none beside weight=, which gives it, found {given!r}")
        if weight is None and needed and given is None:
            raise ValueError(f"loss {gold.loss!r}: expected {what}=, the {what.replace('_', ' ')} of the simulator as "
                             f"columns, or weight=; found neither; 'bce' does without")  # fmt: skip
        if given is not None and not needed:
            raise ValueError(f"{what}: given, but loss {gold.loss!r} does not use it; 'alice' uses the joint ratio, "
                             f"'cascal' the joint score, 'alices' both")  # fmt: skip
    if gold.joint_score is not None and len(gold.joint_score) != len(names):
        raise ValueError(f"joint_score: expected one column for each of {', '.join(names)}, found {gold.joint_score}")
    if (weight is None) != (prior is None):
        raise ValueError(_BOTH)
    if calibrate is not None and not validation:
        raise ValueError("calibrate: expected a validation fraction above 0, found 0; a map fitted on training rows "
                         "would not calibrate")  # fmt: skip
    if calibrate is not None and gold.score:
        raise ValueError(f"calibrate: expected None with loss {gold.loss!r}, found {calibrate!r}: a map of the ratio "
                         f"would undo the score that was fitted")  # fmt: skip
    if not (np.isfinite(factor) and factor > 0):
        raise ValueError(f"score_weight: expected a positive number, found {factor!r}")


# -- two samples -------------------------------------------------------------------------------------------------------


def _from_samples(
    simulations: Events, reference: Any, names: tuple[str, ...], features: Features, gold: _Gold, resample: Resample,
    group: str | None, cache: str | Path | None,
) -> _Prepared:  # fmt: skip
    shared = sorted(set(names) & set(features.columns))
    if shared:
        raise ValueError(f"features: expected columns of x, found the parameters {', '.join(shared)} among them; the "
                         f"network gets theta anyway")  # fmt: skip
    other = _reference_sample(simulations, reference, gold)
    yields = Yields(positive_total("simulations", simulations.weight), positive_total("reference", other.weight))
    samples = Samples(simulations.digest(), other.digest())
    one, zero = selected(simulations), selected(other)
    own = column_values("simulations", one, names)
    parameters = Parameters.of(names, own)
    theirs = _reference_theta(zero, parameters) if gold.joint else np.zeros((len(zero), len(names)))
    if gold.joint:
        check_same_density(one, zero, names, (own, theirs), group)
    table = parameters.standard(np.concatenate([own, theirs]))
    key = np.concatenate([one.key(group), zero.key(group)])
    rows, order = rows_of([one, zero], features, two_weights(one.weight, zero.weight), key, resample.seed, cache)
    borrows = np.arange(len(table)) >= (len(table) if gold.joint else len(one))
    lending = one.select(slice(0, 0)) if gold.joint else one
    targets = _targets(one, zero, gold, parameters, group)
    if gold.score:
        check_joint_score(one, names, table[: len(one)], targets[: len(one), -len(names) :], group)
    pairing = Pairing(table, borrows, lending.weight, lending.key(group), targets, resample)
    draw = Reordered.of(pairing, order)
    kind = "marginal" if isinstance(reference, str) else "sample"
    signed = bool((one.weight < 0).any() or (zero.weight < 0).any())
    return _Prepared(rows, draw, parameters, kind, yields, samples, signed)


def _reference_sample(simulations: Events, reference: Any, gold: _Gold) -> Events:
    if isinstance(reference, Events):
        return reference
    if reference == "marginal":
        if gold.joint:
            raise ValueError(f"loss {gold.loss!r}: expected events of a fixed reference, found 'marginal', to which no "
                             f"simulator knows the joint ratio; 'bce' or 'cascal' go with it")  # fmt: skip
        return simulations
    raise ValueError(f"reference: expected Events or 'marginal', found {reference!r}; a point of theta needs weight=, "
                     f"else generate events there and give those")  # fmt: skip


def _reference_theta(reference: Events, parameters: Parameters) -> Floats:
    """The theta that the reference events' joint ratios belong to."""
    absent = [name for name in parameters.names if name not in reference]
    if absent:
        raise KeyError(f"reference: no column {absent[0]!r}; with a joint ratio each reference event needs the theta "
                       f"at which its ratio was evaluated")  # fmt: skip
    values = column_values("reference", reference, parameters.names)
    edge = 0.1 * (parameters.high - parameters.low)  # two samples of one distribution do not end at the same value
    outside = ((values < parameters.low - edge) | (values > parameters.high + edge)).any(1)
    if outside.mean() > 0.01:
        raise ValueError(
            f"reference: expected theta from the distribution of the simulations, found {int(outside.sum())} of "
            f"{len(values)} events out of its range, {parameters!r}"
        )
    return values


def _targets(one: Events, zero: Events, gold: _Gold, parameters: Parameters, group: str | None) -> Floats:
    """The joint log ratio of all rows and the standardised joint score of the simulations, as far as they are used."""
    found = []
    if gold.joint_ratio is not None:
        values = np.concatenate([column_values(what, e, [gold.joint_ratio])[:, 0]
                                 for what, e in (("simulations", one), ("reference", zero))])  # fmt: skip
        bad = np.flatnonzero(values <= 0)
        if len(bad):
            raise ValueError(f"joint ratio: expected positive values, found {values[bad[0]]:g} at row {bad[0]} and "
                             f"{len(bad)} such rows in simulations and reference")  # fmt: skip
        log_ratio = np.log(values)
        check_joint_ratio(one, zero, (log_ratio[: len(one)], log_ratio[len(one) :]), group)
        found.append(log_ratio[:, None])
    if gold.joint_score is not None:
        score = column_values("simulations", one, gold.joint_score) * parameters.scale
        found.append(np.concatenate([score, np.zeros((len(zero), len(parameters.names)))]))
    return np.concatenate(found, 1) if found else np.empty((len(one) + len(zero), 0))


# -- one sample, and weights for every theta ---------------------------------------------------------------------------


class _Designed(NamedTuple):
    """Thetas with the sums of the weights there, and the reference's theta, None for the marginal."""

    design: Design
    at: Floats | None


def _designed(
    simulations: Events, reference: Any, names: tuple[str, ...], gold: _Gold, seed: int, weight: WeightFunction,
    prior: Any, count: int,
) -> _Designed:  # fmt: skip
    theta = drawn_from(prior, names, count, seed)
    parameters = Parameters.of(names, theta, box_of(prior, names) if isinstance(prior, Mapping) else None)
    at = _reference_point(reference, parameters)
    return _Designed(Design.of(parameters, theta, weight, simulations, at, score=gold.score, positive=gold.squares), at)


def _from_weights(
    simulations: Events, features: Features, gold: _Gold, resample: Resample, group: str | None, weight: WeightFunction,
    designed: _Designed, cache: str | Path | None,
) -> _Prepared:  # fmt: skip
    design, at = designed
    ones = np.ones(len(simulations))  # an event without its weight at any theta stays: only the function knows
    rows, order = rows_of([simulations], features, (ones, ones), simulations.key(group), resample.seed, cache)
    reweighting = Reweighting(simulations, weight, design, resample, joint=gold.squares, score=gold.score)
    draw, parameters = Reordered.of(reweighting, order), design.parameters
    kind = "marginal" if at is None else dict(zip(parameters.names, map(float, at), strict=True))
    samples = Samples(simulations.digest(), simulations.digest())
    yields = Yields(float(design.total.mean()), design.reference_total)
    return _Prepared(rows, draw, parameters, kind, yields, samples, design.negative)


def _reference_point(reference: Any, parameters: Parameters) -> Floats | None:
    """The reference's theta (T,) within the prior, None for the marginal."""
    if isinstance(reference, str) and reference == "marginal":
        return None
    if not isinstance(reference, Mapping):
        raise ValueError(f"reference: expected, with weight=, a point of theta or 'marginal', found "
                         f"{type(reference).__name__}")  # fmt: skip
    at: Floats = points(reference, parameters.names, 1)[0]
    if ((at < parameters.low) | (at > parameters.high)).any():
        raise ValueError(f"reference: expected a point within the prior, found {dict(reference)}; the events near it "
                         f"would decide about a region that is never trained")  # fmt: skip
    return at


# -- is it good? -------------------------------------------------------------------------------------------------------


def _judged_samples(ratio: ParametrisedRatio, simulations: Events, reference: Events | None, seed: int) -> Judged:
    """Events at their own theta, and events of the reference."""
    if reference is None:
        if ratio.reference != "marginal":
            raise ValueError("report: expected events of the reference too; without them only a ratio to the marginal, "
                             "or a sample with weight=, can be judged")  # fmt: skip
        simulations, reference = simulations.split(0.5, seed=seed, group=ratio.learned.group)
    one, zero = selected(simulations), selected(reference)
    return Judged(one, column_values("simulations", one, ratio.names), zero, ratio.learned.group)


def _judged_weights(
    ratio: ParametrisedRatio, sample: Events, reference: Events | None, weight: WeightFunction, prior: Any, seed: int
) -> Judged:
    """One half of a sample with its weights at thetas of the prior, the other with those of the reference."""
    if reference is not None:
        raise ValueError("reference: expected none beside weight=, which gives it, found Events")
    if ratio.reference == "sample":
        raise ValueError("weight: expected none for a ratio to a sample of events, found a function; give the "
                         "simulations at their theta and the reference's events")  # fmt: skip
    theta = drawn_from(prior, ratio.names, _POINTS, seed)
    first, second = sample.split(0.5, seed=seed, group=ratio.learned.group)
    one, own = _weighted(first, weight, theta, seed)
    if isinstance(ratio.reference, str):
        return Judged(one, own, _weighted(second, weight, theta, seed + 1)[0], ratio.learned.group)
    at = np.array([ratio.reference[name] for name in ratio.names], np.float64)
    return Judged(one, own, second.with_weight(weights_at(weight, second, at).numpy()), ratio.learned.group)


def _weighted(events: Events, weight: WeightFunction, theta: Floats, seed: int) -> tuple[Events, Floats]:
    """Each event with its weight at one of the thetas (M, T), in units of their mean there, and those thetas (N, T)."""
    which = np.random.default_rng(seed).integers(len(theta), size=len(events))
    own = np.empty(len(events))
    for number in np.unique(which):
        values = weights_at(weight, events, theta[number]).numpy()
        mine = which == number
        own[mine] = values[mine] / (positive_total("weight", values) / len(values))
    return events.with_weight(own), theta[which]
