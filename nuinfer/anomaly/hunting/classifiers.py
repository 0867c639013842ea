r"""Many classifiers of signal region against reference, trained together, each applied to events that it has not seen.

A problem is a numerator (the data in a signal region) and a denominator (the reference: sidebands, or a template).  Its
log ratio is learned by members x folds networks.  **Crossed** folds: the networks of fold k are trained on all other
folds, so that an event is scored by networks that saw it neither in training nor in early stopping.

That makes each fold's count in a selection free of bias, but not the folds independent of each other: each chooses
where the others fluctuate upwards, and is chosen for it in turn, so that without a signal the sum of the counts varies
by more than Poisson's law, by up to 40% in variance (`nuinfer.anomaly.hunting.counting`).  **Sequential** folds
avoid that: the networks of fold k are trained on the folds before it, and fold 0 is not scored.  What fold k selects is
then fixed before its events are looked at, so that the counts are Poisson's exactly; the price is fewer events to train
on.

Problems of about the same size are joined into one training: their rows stand one after the other, and a network counts
those of its own problem, by a `nuinfer.resample.Resample` that knows the problems.

Sources: Collins, Howe, Nachman, arXiv 1902.02634 (nested cross-validation); Metodiev, Nachman, Thaler, arXiv
1708.02949.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from scipy import special

from ... import hashing, losses, nets
from ...ensemble import Ensemble, Fitted, fit, fit_networks, standardisation
from ...features import Inputs, Shape
from ...nets import MLP, Network
from ...resample import Resample
from ...train import Training
from ...trees import Forest, Trees

__all__ = ["Crossing", "Learner", "Problem", "Scorer", "fit_problems"]

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]
Crossing = Literal["crossed", "sequential"]

_TOGETHER = 16  # networks in one training, beyond which nothing is gained (docs/performance.md)
_ALIKE = 1.5  # and the ratio of the largest to the smallest problem in it: all networks take equally many steps


@dataclass(frozen=True, kw_only=True)
class Learner:
    """How classifiers are trained.

    Attributes
    ----------
    network:
        A spec of networks, or `Trees`.
    members, folds, crossing:
        Networks of a fold; folds; whether they are crossed or sequential (see the module).
    validation, training, device:
        As `nuinfer.ratio.fit_ratio`.
    """

    network: Network | Trees = field(default_factory=MLP)
    members: int = 1
    folds: int = 5
    crossing: Crossing = "crossed"
    validation: float = 0.2
    training: Training = Training()  # noqa: RUF009 - a frozen spec
    device: str = "cpu"

    def __post_init__(self) -> None:
        for name, least in (("members", 1), ("folds", 2)):
            value = getattr(self, name)
            if not isinstance(value, int | np.integer) or value < least:
                raise ValueError(f"{name}: expected an integer of at least {least}, found {value!r}"
                                 + ("; with one fold events would be scored by networks that saw them"
                                    if name == "folds" else ""))  # fmt: skip
        if self.crossing not in ("crossed", "sequential"):
            raise ValueError(f"crossing: expected 'crossed' or 'sequential', found {self.crossing!r}")
        if not 0 <= self.validation < 1:
            raise ValueError(f"validation: expected a fraction from 0 to below 1, found {self.validation}")

    @property
    def first(self) -> int:
        """The first fold that is scored."""
        return int(self.crossing == "sequential")

    @property
    def networks(self) -> int:
        """How many a problem has."""
        return self.members * (self.folds - self.first)


@dataclass(frozen=True, eq=False)
class Problem:
    """Rows of a numerator and of a denominator: inputs, weights, and the ids that folds are hashes of."""

    name: str
    inputs: Inputs
    numerator: Floats
    denominator: Floats
    id: Ints

    @classmethod
    def of(cls, name: str, numerator: tuple[Inputs, Floats, Ints], denominator: tuple[Inputs, Floats, Ints]) -> Problem:
        """From (inputs, weights, ids) of each."""
        (x1, w1, id1), (x0, w0, id0) = numerator, denominator
        one, zero = np.concatenate([w1, np.zeros(len(w0))]), np.concatenate([np.zeros(len(w1)), w0])
        for what, weight in (("the signal region", one), ("the reference", zero)):
            if not weight.sum() > 0:
                raise ValueError(f"{name}: expected events in {what}, found a total weight of {weight.sum():g} in "
                                 f"{np.count_nonzero(weight)} events")  # fmt: skip
        scale = len(one)
        rows = Inputs.concat([x1, x0])
        return cls(name, rows, one * (scale / one.sum()), zero * (scale / zero.sum()), np.concatenate([id1, id0]))


@dataclass(frozen=True, kw_only=True)
class Joined(Resample):
    """Networks of several problems whose rows stand one after the other; the keys are row numbers.

    Network n is member m, problem j and fold k: n = (m J + j) F + k - first, with F trained folds.
    """

    problems: int = 1
    first: int = 0

    def about(self, id: Ints, problem: NDArray[np.int16]) -> Joined:
        """Of rows with these ids (N,) of these problems (N,)."""
        object.__setattr__(self, "_id", id)
        object.__setattr__(self, "_problem", problem)
        object.__setattr__(self, "_fold", hashing.fold(id, self.folds, self.seed, "fold"))
        return self

    @property
    def networks(self) -> int:
        """How many there are."""
        return self.members * self.problems * (self.folds - self.first)

    def numbers(self, problem: int, fold: int) -> list[int]:
        """The networks of all members for a problem and a fold."""
        each = self.folds - self.first
        return [(m * self.problems + problem) * each + fold - self.first for m in range(self.members)]

    def fold_of(self, key: Ints) -> NDArray[np.int16]:
        """The fold of rows (N,)."""
        return np.asarray(self._rows("_fold")[key])

    def counted(self, network: int, key: Ints) -> NDArray[np.uint8]:
        """1 for rows of the network's problem that are outside of its fold (sequential: in folds before it)."""
        member, place = divmod(network, self.folds - self.first)
        fold, own = place + self.first, self._rows("_fold")[key]
        others = own < fold if self.first else own != fold
        return np.asarray(others & (self._rows("_problem")[key] == member % self.problems)).astype(np.uint8)

    def times(self, network: int, key: Ints, *, held_out: bool) -> NDArray[np.uint8]:
        """`counted` of training rows, or of those held out for early stopping."""
        times = self.counted(network, key)
        if self.validation:
            member = network // (self.folds - self.first)
            mine = hashing.below(self._rows("_id")[key], self.validation, self.seed, "validation", member)
            return times * (mine if held_out else ~mine)
        return np.zeros_like(times) if held_out else times

    def _rows(self, name: str) -> NDArray[Any]:
        return getattr(self, name)  # type: ignore[no-any-return]


@dataclass(frozen=True, eq=False)
class Scorer:
    """The trained networks of one problem."""

    model: Ensemble | Forest
    resample: Joined
    problem: int

    def folds_of(self, id: Ints) -> NDArray[np.int16]:
        """The fold of each id (N,)."""
        return hashing.fold(id, self.resample.folds, self.resample.seed, "fold")

    def log(self, inputs: Inputs, id: Ints) -> Floats:
        """The log of the members' mean ratio (N,), by the networks of each event's own fold; NaN without any."""
        found, fold = np.full(len(id), np.nan), self.folds_of(id)
        for k in range(self.resample.first, self.resample.folds):
            rows = np.flatnonzero(fold == k)
            if len(rows):
                members = self._networks(inputs.select(rows), self.resample.numbers(self.problem, k))
                found[rows] = special.logsumexp(members, axis=0) - math.log(len(members))
        return found

    def _networks(self, inputs: Inputs, numbers: list[int]) -> Floats:
        if isinstance(self.model, Forest):
            return self.model.log(inputs.flat.numpy(), numbers)
        state = {name: tensor[numbers] for name, tensor in self.model.state.items()}
        return Ensemble(self.model.stack, state, self.model.standardise).log(inputs)


def fit_problems(
    problems: Sequence[Problem],
    shape: Shape,
    learner: Learner,
    *,
    seed: int,
    checkpoint: Path | None = None,
    label: str = "hunt",
    progress: bool = True,
) -> list[Scorer]:
    """Train the classifiers of all problems, those of about the same size together.

    Raises
    ------
    ValueError
        for a problem with a fold that leaves nothing to train on.
    NotConverged
        for a risk that is not finite.
    """
    found: list[Scorer | None] = [None] * len(problems)
    for number, group in enumerate(_groups(problems, learner)):
        path = None if checkpoint is None or isinstance(learner.network, Trees) else (
            checkpoint / f"training-{number:03d}.safetensors")  # fmt: skip
        model, resample = _fit([problems[i] for i in group], shape, learner, seed, path, label, progress)
        for place, i in enumerate(group):
            found[i] = Scorer(model, resample, place)
    return [scorer for scorer in found if scorer is not None]


def _groups(problems: Sequence[Problem], learner: Learner) -> list[list[int]]:
    """Problems (their numbers) that are trained together."""
    most = 1 if isinstance(learner.network, Trees) else max(1, -(-_TOGETHER // learner.networks))
    groups: list[list[int]] = []
    for i in sorted(range(len(problems)), key=lambda i: -len(problems[i].id)):
        full = not groups or len(groups[-1]) >= most
        if full or len(problems[groups[-1][0]].id) > _ALIKE * len(problems[i].id):
            groups.append([])
        groups[-1].append(i)
    return groups


def _fit(
    problems: Sequence[Problem], shape: Shape, learner: Learner, seed: int, checkpoint: Path | None, label: str,
    progress: bool,
) -> tuple[Ensemble | Forest, Joined]:  # fmt: skip
    ids = np.concatenate([p.id for p in problems])
    which = np.repeat(np.arange(len(problems), dtype=np.int16), [len(p.id) for p in problems])
    resample = Joined(seed=seed, members=learner.members, folds=learner.folds, validation=learner.validation,
                      problems=len(problems), first=learner.first).about(ids, which)  # fmt: skip
    _check_folds(problems, learner, seed)
    inputs = problems[0].inputs if len(problems) == 1 else Inputs.concat([p.inputs for p in problems])
    weights = (np.concatenate([p.numerator for p in problems]), np.concatenate([p.denominator for p in problems]))
    rows = np.arange(len(ids))
    if isinstance(learner.network, Trees):
        fitted: Fitted = fit(inputs, weights, rows, resample, shape=shape, network=learner.network,
                             loss=losses.by_name("bce"), training=learner.training)  # fmt: skip
    else:
        fitted = fit_networks(
            inputs, weights, rows, resample, stack=nets.stack(learner.network, shape), loss=losses.by_name("bce"),
            training=learner.training, standardise=standardisation(inputs, weights), device=learner.device,
            checkpoint=checkpoint, label=label, progress=progress,
        )  # fmt: skip
    return fitted.model, resample


def _check_folds(problems: Sequence[Problem], learner: Learner, seed: int) -> None:
    """Each network needs both classes in the rows that it is trained, and validated, on."""
    for problem in problems:
        fold = hashing.fold(problem.id, learner.folds, seed, "fold")
        for what, weight in (("the signal region", problem.numerator), ("the reference", problem.denominator)):
            counts = np.bincount(fold[weight != 0], minlength=learner.folds)
            others = np.cumsum(counts)[:-1] if learner.first else counts.sum() - counts
            if not (counts > 0).all() or others.min() * (1 - learner.validation) < 1:
                raise ValueError(f"{problem.name}: expected events of {what} in each of {learner.folds} folds, found "
                                 f"{_few(counts)}; take fewer folds, a wider window or more events")  # fmt: skip


def _few(counts: Ints) -> str:
    """Counts of folds; of many folds what matters."""
    if len(counts) <= 12:
        return str(counts.tolist())
    return f"{counts.sum()} events, none of them in {np.count_nonzero(counts == 0)} folds"
