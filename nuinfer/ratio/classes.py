r"""Densities of K classes from one softmax network: ``fit_class_ratio`` -> `ClassRatio`.

Where theta changes only how often a class k occurs (a process, a bin of the true energy, a final state), by the factor
P_k(theta), and not what its events look like,

    p(x | theta) / p(x | ref) = sum_k q_k(x) P_k(theta) / sum_k pi_k P_k(theta)

for every theta at once, with the probabilities q_k(x) that an event at x is of class k in the training mixture and the
fractions pi_k of the classes there; ref is that mixture, P = 1.  A survival probability of neutrinos in bins of their
energy is such a P, and so are the coefficients of processes; P may be negative where the sum stays positive.

Sources: Cranmer, Pavez, Louppe, arXiv 1506.02169 (mixtures by pairs of classes); ATLAS, arXiv 2412.01600; Guo, Pleiss,
Sun, Weinberger, arXiv 1706.04599 (temperature).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from scipy import optimize, special
from torch import Tensor

from .. import losses
from ..errors import NotConverged, check_finite, missing
from ..events import Events, positive_total
from ..features import Batch, Features
from ..nets import MLP, Network
from ..resample import Resample
from ..train import Training
from .density_ratio import warn_where_negative
from .learned import Answer, Learned, Options, held_out, learn, rows_of, selected
from .parameters import check_tensor, names_of, points
from .reports import ClassReport, class_report

__all__ = ["ClassMixture", "ClassRatio", "fit_class_ratio"]

Floats = NDArray[np.float64]
Factors = Mapping[str, float] | ArrayLike
FactorFunction = Callable[[Tensor], Tensor]


@dataclass(frozen=True, eq=False)
class ClassRatio(Answer):
    """Fitted probabilities of K classes; made by `fit_class_ratio`.

    Factors P are a mapping of class names to numbers (1 where left out), a vector (K,), or one row an event (N, K).

    Attributes
    ----------
    classes:
        Their names.
    yields:
        Sums of weights (K,).
    samples:
        Digests of the samples.
    """

    _KIND = "class ratio"

    classes: tuple[str, ...]
    yields: Floats
    calibration: Literal["temperature"] | None = None
    maps: Floats = field(default_factory=lambda: np.empty((0, 0)))
    samples: tuple[str, ...] = ()

    @property
    def fractions(self) -> Floats:
        """pi (K,), of the classes in training by sum of weights."""
        return np.asarray(self.yields / self.yields.sum())

    def members(self, events: Events) -> Floats:
        """Each member's log probabilities log q_k(x) (members, N, K)."""
        logits = self.learned.model.log(self.features.tensors(events))
        if self.calibration is not None:
            logits = logits * self.maps[:, None, :1] + self.maps[:, None, 1:]
        return self.learned.out_of_fold(events, special.log_softmax(logits, axis=-1))

    def probabilities(self, events: Events) -> Floats:
        """q_k(x) (N, K), the mean over members, in the training mixture of the classes."""
        return np.asarray(np.exp(self.members(events)).mean(0))

    def log_ratios(self, events: Events) -> Floats:
        """log p_k(x)/p_ref(x) (N, K), each class's density to that of the training mixture."""
        members = self.members(events)
        return np.asarray(special.logsumexp(members, axis=0) - np.log(len(members)) - np.log(self.fractions))

    def log(self, events: Events, factors: Factors, *, probabilities: Floats | None = None) -> Floats:
        """log p(x)/p_ref(x) (N,) of the mixture whose classes are weighted by ``factors`` relative to training.

        ``probabilities``, where `probabilities` (N, K) of these events is known already, saves the network's work.

        Raises
        ------
        KeyError, ValueError
            for unknown classes, other shapes, or a mixture whose density is not positive at some event.
        """
        p, q = self._factors(factors, len(events)), self._probabilities(events, probabilities)
        return _log_mixture(*(torch.from_numpy(np.asarray(a)) for a in ((q * p).sum(-1), p @ self.fractions))).numpy()

    def report(self, samples: Mapping[str, Events], *, bins: int = 10) -> ClassReport:
        """How well the probabilities are calibrated, class by class: see `ClassReport`.

        Give events that it was not trained on, or a ratio with folds; the fractions of the classes are those of
        training, whatever the sums of the weights are here.

        Raises
        ------
        KeyError
            for classes that are missing or unknown.
        ValueError
            for a class without a positive total weight.
        """
        for name in self.classes:
            if name not in samples:
                raise missing("sample of the class", name, samples)
        for name in samples:
            if name not in self.classes:
                raise missing("class", name, self.classes)
        logs = [self.log_ratios(samples[name]) for name in self.classes]
        totals = [positive_total(f"sample {name!r}", samples[name].weight) for name in self.classes]
        shares = [
            samples[name].weight * (f / t) for name, f, t in zip(self.classes, self.fractions, totals, strict=True)
        ]
        return class_report(self.classes, self.fractions, logs, shares, bins)

    def tensor(self, batch: Batch, factors: Tensor) -> Tensor:
        """`log` of a `Batch` of one member at factors (K,) -> (B,), or (T, K) -> (T, B).

        Differentiable in both; folds are averaged.

        Raises
        ------
        ValueError
            for another shape, or a density that is not positive at some event.
        """
        if factors.ndim not in (1, 2) or factors.shape[-1] != len(self.classes):
            raise ValueError(f"factors: expected a tensor ({len(self.classes)},) or (T, {len(self.classes)}), found "
                             f"{tuple(factors.shape)}")  # fmt: skip
        q = self._tensor(batch)
        fractions = torch.from_numpy(self.fractions)
        return _log_mixture(factors.double() @ q.T, (factors.double() @ fractions)[..., None])

    def of(self, theta: Sequence[str], factors: FactorFunction) -> ClassMixture:
        """The mixture as a function of theta: ``factors`` takes theta (N, T), a float64 tensor, and gives P (N, K)."""
        return ClassMixture(self, names_of(theta), factors)

    def _tensor(self, batch: Batch) -> Tensor:
        """q (B, K) in float64."""
        logits = self.learned.model.tensor(batch).double()
        if self.calibration is not None:
            maps = torch.from_numpy(self.maps)
            logits = logits * maps[:, None, :1] + maps[:, None, 1:]
        return torch.softmax(logits, -1).mean(0)

    def _probabilities(self, events: Events, known: Floats | None) -> Floats:
        if known is None:
            return self.probabilities(events)
        expected = (len(events), len(self.classes))
        if np.shape(known) != expected:
            raise ValueError(f"probabilities: expected those of the events, {expected}, found {np.shape(known)}")
        return np.asarray(known, np.float64)

    def _factors(self, factors: Factors, rows: int) -> Floats:
        if isinstance(factors, Mapping):
            for name in factors:
                if name not in self.classes:
                    raise missing("class", name, self.classes)
            values = np.array([factors.get(name, 1.0) for name in self.classes], np.float64)
        else:
            values = np.asarray(factors, np.float64)
        if values.shape not in ((len(self.classes),), (rows, len(self.classes))):
            raise ValueError(
                f"factors: expected one for each of {', '.join(self.classes)}, ({len(self.classes)},), or a row for "
                f"each event, ({rows}, {len(self.classes)}), found {values.shape}"
            )
        check_finite("factors", values)
        return values

    def __repr__(self) -> str:
        mix = ", ".join(f"{name} {share:.3g}" for name, share in zip(self.classes, self.fractions, strict=True))
        extra = f", calibrated ({self.calibration})" if self.calibration else ""
        return f"ClassRatio({self.learned}; classes {mix}{extra})"

    def _saved(self) -> tuple[dict[str, Any], dict[str, NDArray[Any]]]:
        spec = {"classes": list(self.classes), "calibration": self.calibration, "samples": list(self.samples)}
        return spec, {"yields": self.yields, "maps": self.maps}

    @classmethod
    def _loaded(cls, learned: Learned, spec: Mapping[str, Any], arrays: dict[str, NDArray[Any]]) -> ClassRatio:
        classes, samples = tuple(spec["classes"]), tuple(spec["samples"])
        return cls(learned, classes, arrays["yields"], spec["calibration"], arrays["maps"], samples)


def _log_mixture(local: Tensor, total: Tensor) -> Tensor:
    """log local/total (..., N) of densities at events, which have to be positive, and the sums of their factors."""
    bad = torch.nonzero(~((local > 0) & (total > 0)).detach())
    if len(bad):
        first = tuple(bad[0])
        local, sums = local.detach(), torch.broadcast_to(total.detach(), local.shape)
        raise ValueError(
            f"factors: expected a positive density at every event, found {float(local[first]):.3g} at row "
            f"{int(first[-1])} and {len(bad)} such rows (of {local.numel()}); the total is {float(sums[first]):.3g}"
        )
    return torch.log(local) - torch.log(total)


@dataclass(frozen=True, eq=False)
class ClassMixture:
    """A `ClassRatio` with the factors as a function of theta, P(theta); made by `ClassRatio.of`.

    It answers as a `ParametrisedRatio` does.  The function is not saved; bind it again after loading the ratio.  Each
    method raises ``ValueError`` where the density is not positive at some event.

    Attributes
    ----------
    names:
        Of the T parameters.
    """

    ratio: ClassRatio
    names: tuple[str, ...]
    factors: FactorFunction

    @property
    def features(self) -> Features:
        """The columns that it sees."""
        return self.ratio.features

    def log(
        self, events: Events, theta: Mapping[str, Any] | ArrayLike, *, probabilities: Floats | None = None
    ) -> Floats:
        """log p(x | theta)/p_ref(x) (N,); theta is a mapping, a vector (T,), or one row for each event (N, T).

        ``probabilities``, of the events by `ClassRatio.probabilities`, saves the network's work at each further theta.
        """
        with torch.no_grad():
            factors = self._at(torch.from_numpy(self._theta(events, theta)), len(events)).numpy()
        return self.ratio.log(events, factors, probabilities=probabilities)

    def score(
        self, events: Events, theta: Mapping[str, Any] | ArrayLike, *, probabilities: Floats | None = None
    ) -> Floats:
        """d log r / d theta (N, T); ``probabilities`` as in `log`."""
        at = torch.tensor(self._theta(events, theta), requires_grad=True)
        q = self.ratio._probabilities(events, probabilities)
        (slope,) = torch.autograd.grad(self._log(at, torch.tensor(q)).sum(), at)
        return slope.numpy()

    def tensor(self, batch: Batch, theta: Tensor) -> Tensor:
        """`log` of a `Batch` of one member at theta (T,) or (B, T) -> (B,), differentiable in both."""
        size = batch.flat.shape[1]
        check_tensor(theta, self.names, size)
        return self._log(theta.double().expand(size, len(self.names)), self.ratio._tensor(batch))

    def _log(self, theta: Tensor, q: Tensor) -> Tensor:
        p = self._at(theta, len(q))
        return _log_mixture((p * q).sum(-1), p @ torch.from_numpy(self.ratio.fractions))

    def _theta(self, events: Events, theta: Mapping[str, Any] | ArrayLike) -> Floats:
        return points(theta, self.names, len(events)).copy()

    def _at(self, theta: Tensor, rows: int) -> Tensor:
        """P (rows, K)."""
        found, expected = self.factors(theta), (rows, len(self.ratio.classes))
        if not isinstance(found, Tensor) or tuple(found.shape) != expected:
            shape = tuple(found.shape) if isinstance(found, Tensor) else type(found).__name__
            raise ValueError(f"factors: expected a function of theta {tuple(theta.shape)} that returns a tensor "
                             f"{expected}, found {shape}")  # fmt: skip
        return found.double()

    def __repr__(self) -> str:
        return f"ClassMixture({', '.join(self.names)}; {self.ratio!r})"


def fit_class_ratio(
    samples: Mapping[str, Events],
    features: Features | list[str],
    *,
    network: Network = MLP(),  # noqa: B008 - a frozen spec
    members: int = 1,
    folds: int = 1,
    validation: float = 0.2,
    bootstrap: bool = False,
    calibrate: Literal["temperature"] | None = None,
    group: str | None = None,
    training: Training = Training(),  # noqa: B008 - a frozen spec
    seed: int,
    device: str = "cpu",
    checkpoint: str | Path | None = None,
    cache: str | Path | None = None,
    progress: bool = True,
) -> ClassRatio:
    """Learn the probabilities of K classes with one softmax network.

    Parameters
    ----------
    samples:
        For each class its events; weights of any sign, with positive sums, which make the fractions of the mixture.
        For bins of a true quantity: ``{name: simulation.select(mask)}``.
    features:
        What the network sees.
    calibrate:
        "temperature": one temperature and an offset for each class, of each network, fitted on held-out events.
    network, members, folds, validation, bootstrap, group, training, seed, device, checkpoint, cache, progress:
        As in `fit_ratio`, trees excepted.

    Raises
    ------
    ValueError
        for fewer than two classes, empty samples, total weights that are not positive, or columns that are not finite.
    KeyError, TypeError
        for columns that are missing or of the wrong kind.

    Examples
    --------
    >>> rng = np.random.default_rng(1)
    >>> samples = {"S": Events({"x": rng.normal(1, 1, 4000)}), "B": Events({"x": rng.normal(-1, 1, 4000)})}
    >>> ratio = fit_class_ratio(samples, ["x"], seed=1, progress=False, network=MLP(width=16, depth=2),
    ...                         training=Training(epochs=10, batch=256))
    >>> log_r = ratio.log(Events({"x": [0.0]}), {"S": 2.0})  # at x = 0 both are alike: log 1
    >>> bool(abs(log_r[0]) < 0.05)
    True
    """
    if not isinstance(samples, Mapping):
        raise TypeError(f"samples: expected a mapping of class names to Events, found {type(samples).__name__}")
    features, classes = Features.of(features), tuple(samples)
    if len(classes) < 2:
        raise ValueError(f"samples: expected at least two classes, found {len(classes)}; name -> Events")
    if calibrate is not None and (calibrate != "temperature" or not validation):
        raise ValueError(f"calibrate: expected None or 'temperature', the latter with a validation fraction above 0, "
                         f"found {calibrate!r} and {validation}")  # fmt: skip
    yields = np.array([positive_total(f"sample {name!r}", events.weight) for name, events in samples.items()])
    used = [selected(events) for events in samples.values()]
    key = np.concatenate([events.key(group) for events in used])
    rows, _ = rows_of(used, features, _one_hot([events.weight for events in used]), key, seed, cache)
    resample = Resample(seed=seed, members=members, folds=folds, validation=validation, bootstrap=bootstrap)
    options = Options(network, resample, training, group, device, checkpoint, progress)
    fractions = yields / yields.sum()
    learned = learn(
        rows, features, options, losses.Softmax(tuple(map(float, fractions))), classes=classes, label="class ratio",
        outputs=len(classes),
    )  # fmt: skip
    maps = np.empty((0, 0))
    if validation and (calibrate or any((w < 0).any() for w in rows.weights)):
        held = held_out(learned.model, rows, resample)
        for c, name in enumerate(classes):
            warn_where_negative([(logits[:, c], weights[c]) for logits, *weights in held], (f"class {name!r}",))
        maps = np.stack([_temperature(f, _shares(weights, fractions)) for f, *weights in held]) if calibrate else maps
    digests = tuple(events.digest() for events in samples.values())
    return ClassRatio(learned, classes, yields, calibrate, maps, digests)


def _one_hot(weights: Sequence[Floats]) -> tuple[Floats, ...]:
    """For each class its weights on all rows, 0 on those of the others, with mean 1."""
    rows = sum(len(w) for w in weights)
    out, start = [], 0
    for own in weights:
        full = np.zeros(rows)
        full[start : start + len(own)] = own * (rows / own.sum())
        out.append(full)
        start += len(own)
    return tuple(out)


def _shares(weights: Sequence[Floats], fractions: Floats) -> Floats:
    """pi_k w_k (n, K) of the held-out weights, each class with the sum pi_k."""
    stacked = np.stack(weights, 1)
    return np.asarray(stacked * (fractions / stacked.sum(0)))


def _temperature(logits: Floats, weights: Floats) -> Floats:
    """1/T and offsets (1 + K,) with the least held-out cross-entropy of the softmax of logits / T + offset."""

    def risk(parameters: Floats) -> tuple[float, Floats]:
        slope = np.exp(parameters[0])
        scores = slope * logits + parameters[1:]
        off = np.exp(special.log_softmax(scores, axis=1)) * weights.sum(1, keepdims=True) - weights
        value = -float((weights * special.log_softmax(scores, axis=1)).sum())
        return value, np.concatenate([[slope * (off * logits).sum()], off.sum(0)])

    start = np.zeros(1 + logits.shape[1])
    bounds = [(-5.0, 5.0)] + [(-20.0, 20.0)] * logits.shape[1]
    found = optimize.minimize(risk, start, jac=True, method="L-BFGS-B", bounds=bounds, options={"maxiter": 500})
    if not np.isfinite(found.fun):
        raise NotConverged("the calibration's risk is not finite; signed weights may outweigh the positive ones: "
                           "calibrate=None, or more held-out events")  # fmt: skip
    return np.concatenate([[np.exp(found.x[0])], found.x[1:]])
