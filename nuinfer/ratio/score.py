r"""The score at one theta, learned: ``fit_score`` -> `LocalScore`.

    t(x) = grad_theta log p(x | theta) at theta_ref = E[t(x, z) | x]

A network with one output for each parameter is fitted to the joint score t(x, z) of the simulator by least squares.
The T components are sufficient statistics near theta_ref, the optimal observables there; one sample at theta_ref is all
that is needed.  Near it, with d = theta - theta_ref,

    log p(x | theta)/p(x | theta_ref) ~ t(x) . d - 1/2 d^T I d,      I = E[t t^T],

with Fisher's information I of one event: the exponential family of t, its normalisation to second order.  It agrees
with an event's own log ratio to first order in d, and to second order only in the mean over events at theta_ref, since
-I stands in the place of each event's own second derivative.  Further away use `fit_parametrised_ratio`.

The networks' own E[t_hat t_hat^T] would add the variance of their noise to I.  Estimated is the symmetric part of
E[t(x, z) t_hat(x)^T] over events that a network has not seen, in which that noise averages out.

Sources: Brehmer, Louppe, Pavez, Cranmer, arXiv 1805.12244 (sally); Brehmer, Cranmer, Louppe, Pavez, arXiv 1805.00013
and 1805.00020.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from torch import Tensor

from .. import losses
from ..events import Events, positive_total
from ..features import Batch, Features
from ..nets import MLP, Network
from ..resample import Resample
from ..train import Draw, Drawn, Training, digest
from .learned import PIECE, Answer, Learned, Options, Rows, held_out, learn, rows_of, selected, shares
from .parameters import WeightFunction, column_values, columns_of, names_of, points, with_gradient
from .reports import ScoreReport, score_report

__all__ = ["LocalScore", "fit_score"]

Floats = NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class LocalScore(Answer):
    """The learned score of p(x | theta) at one theta; made by `fit_score`.

    Attributes
    ----------
    names, reference:
        The T parameters, and where the score is (T,).
    information:
        Fisher's information of one event (T, T): the symmetric part of the mean of joint score times learned score^T,
        out of fold, or over the held-out events where there are no folds.  With neither (``validation=0``) it is over
        the training events and optimistic: it contains what the networks have learned of their noise.
    sample:
        Digest of the training events.
    """

    _KIND = "local score"

    names: tuple[str, ...]
    reference: Floats
    scale: Floats
    information: Floats
    sample: str = ""

    def score(self, events: Events) -> Floats:
        """The mean of the members' scores t(x) (N, T), in the inverse units of theta."""
        return np.asarray(self.members(events).mean(0))

    def members(self, events: Events) -> Floats:
        """Each member's score (K, N, T)."""
        return _scores(self.learned, events) * self.scale

    def log(self, events: Events, theta: Mapping[str, Any] | ArrayLike) -> Floats:
        """log p(x | theta)/p(x | theta_ref) (N,) in the exponential family of the score, t . d - 1/2 d^T I d.

        First order in d = theta - theta_ref for each event, second order in the mean over events only (see the module);
        an error of `information` enters by its half.  ``theta`` is a mapping, a vector (T,), or one row for each event.
        """
        step = points(theta, self.names, len(events)) - self.reference
        square = np.einsum("nt,tu,nu->n", step, self.information, step)
        return np.asarray((self.score(events) * step).sum(1) - 0.5 * square)

    def tensor(self, batch: Batch) -> Tensor:
        """`score` of a `Batch` of one member (B, T), differentiable in it; folds are averaged."""
        outputs = self.learned.model.tensor(batch)
        outputs = outputs[..., None] if outputs.ndim == 2 else outputs
        return outputs.mean(0) * outputs.new_tensor(self.scale)

    def report(
        self,
        simulations: Events,
        *,
        joint_score: Sequence[str] | None = None,
        weight: WeightFunction | None = None,
        bins: int = 10,
    ) -> ScoreReport:
        """How well it predicts the joint score of events of p(x | reference): see `ScoreReport`.

        Give events that it was not trained on, or a score with folds; ``joint_score`` or ``weight`` as in `fit_score`.

        Raises
        ------
        KeyError, TypeError, ValueError
            as `fit_score`.
        """
        used, score = _joint_score(simulations, self.names, joint_score, weight, self.reference)
        positive_total("simulations", used.weight)
        return score_report(self.names, used.weight, score, self.score(used), bins)

    def __repr__(self) -> str:
        at = ", ".join(f"{name} = {value:.4g}" for name, value in zip(self.names, self.reference, strict=True))
        errors = ", ".join(f"{1 / np.sqrt(i):.4g}" if i > 0 else "inf" for i in np.diag(self.information))
        return f"LocalScore({self.learned}; at {at}, one event's error {errors})"

    def _saved(self) -> tuple[dict[str, Any], dict[str, NDArray[Any]]]:
        arrays = {"reference": self.reference, "scale": self.scale, "information": self.information}
        return {"names": list(self.names), "sample": self.sample}, arrays

    @classmethod
    def _loaded(cls, learned: Learned, spec: Mapping[str, Any], arrays: dict[str, NDArray[Any]]) -> LocalScore:
        reference, scale, information = (arrays[name] for name in ("reference", "scale", "information"))
        return cls(learned, tuple(spec["names"]), reference, scale, information, spec["sample"])


def fit_score(
    simulations: Events,
    theta: Sequence[str],
    features: Features | list[str],
    *,
    reference: Mapping[str, float] | ArrayLike,
    joint_score: Sequence[str] | None = None,
    weight: WeightFunction | None = None,
    network: Network = MLP(),  # noqa: B008 - a frozen spec
    members: int = 1,
    folds: int = 1,
    validation: float = 0.2,
    bootstrap: bool = False,
    group: str | None = None,
    training: Training = Training(),  # noqa: B008 - a frozen spec
    seed: int,
    device: str = "cpu",
    checkpoint: str | Path | None = None,
    cache: str | Path | None = None,
    progress: bool = True,
) -> LocalScore:
    """Learn the score of p(x | theta) at one theta from the joint score of the simulator (SALLY).

    Parameters
    ----------
    simulations:
        Events of p(x | reference).
    theta:
        Names of the T parameters.
    features:
        What the network sees.
    reference:
        Where the score is: name -> value, or a vector (T,).
    joint_score:
        T columns of grad log p(x, z | theta) at the reference.  Their mean is subtracted, so that the gradient of the
        logarithm of an event weight serves too.
    weight:
        In its place, ``weight(events, theta)`` as in `fit_parametrised_ratio`: the events' whole weight.
    network, members, folds, validation, bootstrap, group, training, seed, device, checkpoint, cache, progress:
        As in `fit_ratio`.

    Raises
    ------
    ValueError
        for neither or both of joint_score and weight, one that is not finite or does not vary, or a total weight that
        is not positive.
    KeyError, TypeError
        for columns that are missing or of the wrong kind.

    Examples
    --------
    >>> rng = np.random.default_rng(1)
    >>> z = rng.normal(size=4000)  # z ~ N(theta, 1), seen as x ~ N(z, 1), at theta = 0
    >>> events = Events({"x": z + rng.normal(size=4000), "t": z})  # the joint score is z - theta
    >>> found = fit_score(events, ["theta"], ["x"], reference={"theta": 0.0}, joint_score=["t"], seed=1, progress=False,
    ...                   network=MLP(width=16, depth=2), training=Training(epochs=10, batch=256))
    >>> score = found.score(Events({"x": [-1.0, 0.0, 1.0]}))[:, 0]  # exact: x / 2
    >>> bool(abs(score - [-0.5, 0.0, 0.5]).max() < 0.1)
    True
    """
    names, features = names_of(theta), Features.of(features)
    at = points(reference, names, 1)[0]
    used, score = _joint_score(simulations, names, joint_score, weight, at)
    resample = Resample(seed=seed, members=members, folds=folds, validation=validation, bootstrap=bootstrap)
    options = Options(network, resample, training, group, device, checkpoint, progress)
    own, standard, scale = _standard(used, score, names)
    rows, order = rows_of([used], features, (own,), used.key(group), seed, cache)
    standard = standard if order is None else standard[order]
    learned = learn(
        rows, features, options, losses.square, classes=("simulations",), label="score", draw=_Targets(standard),
        outputs=len(names),
    )  # fmt: skip
    information = _information(learned, rows, standard) * np.outer(scale, scale)
    return LocalScore(learned, names, at, scale, information, simulations.digest())


def _information(learned: Learned, rows: Rows, score: Floats) -> Floats:
    """sym E[t t_hat^T] (T, T), of standardised scores, over events that a network has not seen as far as there are."""
    r, (weight,) = learned.resample, rows.weights
    if r.folds > 1 or not r.validation:
        parts = [(np.reshape(_own_scores(learned, rows), score.shape), weight, score)]
    else:
        seen = [np.flatnonzero(r.times(n, rows.key, held_out=True)) for n in range(r.networks)]
        held = held_out(learned.model, rows, r)
        parts = [(np.reshape(f, (-1, score.shape[1])), w, score[n]) for (f, w), n in zip(held, seen, strict=True)]
    cross = sum(np.einsum("n,nt,nu->tu", w, t, f) for f, w, t in parts) / sum(w.sum() for _, w, _ in parts)
    return np.asarray((cross + cross.T) / 2)


class _Targets(Draw):
    """The joint score of each row."""

    def __init__(self, score: Floats) -> None:
        self.score = torch.from_numpy(score.astype(np.float32))

    def __call__(self, rows: Tensor, networks: NDArray[np.int64], epoch: int | None) -> Drawn:
        flat = rows.reshape(-1)
        targets = tuple(column.index_select(0, flat).view(rows.shape) for column in self.score.T)
        return Drawn(self.score.new_empty(*rows.shape, 0), (), targets)

    def describe(self) -> str:
        return "score " + digest(self.score)


def _scores(learned: Learned, events: Events) -> Floats:
    """The members' standardised scores (K, N, T)."""
    return _by_member(learned, learned.model.log(learned.inputs(events)), learned.shares(events))


def _own_scores(learned: Learned, rows: Rows) -> Floats:
    """The mean of the members' standardised scores of the training rows (N, T), in pieces: they may be mapped."""
    pieces = []
    for start in range(0, len(rows.key), PIECE):
        part = np.arange(start, min(start + PIECE, len(rows.key)))
        share = shares(learned.resample, rows.key[part], learned.known)
        pieces.append(_by_member(learned, learned.model.log(rows.inputs.select(part)), share).mean(0))
    return np.concatenate(pieces)


def _by_member(learned: Learned, found: Floats, share: Floats) -> Floats:
    """The scores (K, N, T) of members from those of all networks and what each contributes."""
    r = learned.resample
    by_fold = found.reshape(r.members, r.folds, share.shape[-1], learned.outputs)
    return np.asarray(np.einsum("kfn,kfnt->knt", share, by_fold))


def _joint_score(
    events: Events, names: tuple[str, ...], joint_score: Sequence[str] | None, weight: WeightFunction | None, at: Floats
) -> tuple[Events, Floats]:
    """Events of non-zero weight and their joint score (N, T), from columns or from the weight at ``at`` (T,)."""
    if (joint_score is None) == (weight is None):
        raise ValueError("score: expected joint_score=, columns of the joint score, or weight=, a function; one of "
                         "them, found " + ("neither" if weight is None else "both"))  # fmt: skip
    if weight is None:
        return _from_columns(events, names, joint_score or ())
    return _from_weights(events, weight, at)


def _from_columns(events: Events, names: tuple[str, ...], joint_score: Sequence[str]) -> tuple[Events, Floats]:
    """Events of non-zero weight, and their joint score."""
    joint_score = columns_of("joint_score", joint_score)
    if len(joint_score) != len(names):
        raise ValueError(f"joint_score: expected one column for each of {', '.join(names)}, found {list(joint_score)}")
    used = selected(events)
    return used, column_values("simulations", used, joint_score)


def _from_weights(events: Events, weight: WeightFunction, at: Floats) -> tuple[Events, Floats]:
    """The same from a weight function."""
    value, gradient = (part.numpy() for part in with_gradient(weight, events, at))
    rows = np.flatnonzero(value != 0)
    return events.with_weight(value).select(rows), gradient[rows] / value[rows, None]


def _standard(events: Events, score: Floats, names: tuple[str, ...]) -> tuple[Floats, Floats, Floats]:
    """Weights of mean 1, the centred joint score in units of its standard deviation, and that deviation (T,)."""
    total = positive_total("simulations", events.weight)
    size = np.abs(events.weight)
    centred = score - events.weight @ score / total
    scale = np.sqrt(size @ centred**2 / size.sum())
    for name, s in zip(names, scale, strict=True):
        if not (np.isfinite(s) and s > 0):
            raise ValueError(f"joint score of {name!r}: expected finite values that differ between events, found a "
                             f"deviation of {s:g}; the events do not depend on it")  # fmt: skip
    return events.weight * (len(events) / total), centred / scale, scale
