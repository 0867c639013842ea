r"""Densities of weighted events, conditional or not: ``fit_density`` -> `Density`.

A normalizing flow q(y) or q(y | x) (`nuinfer.density.flows`) maximises the weighted likelihood,

.. math:: R_n = -\sum_i m_n(i)\, \frac{w_i}{T_n} \log q(y_i \mid x_i), \qquad T_n = \sum_i m_n(i)\, w_i

with the multiplicities m_n of `nuinfer.resample`: members, folds, validation splits, bootstraps.  Flow matching
(`nuinfer.density.flow_matching`) has half the squared error of a velocity in the place of -log q.  K flows train
together (`nuinfer.train`), with the network that sums up the condition where there is one.  The answer of an ensemble
is the log of the arithmetic mean of its members' densities, which is normalised as each of them is.

With folds no event is scored by a flow that saw it: a known id gets its own fold's, another one the mean of all folds.

Sources: Papamakarios, Nalisnick, Rezende, Mohamed, Lakshminarayanan, arXiv 1912.02762 (normalizing flows);
Papamakarios, Murray, arXiv 1605.06376, and Radev, Mertens, Voss, Ardizzone, Koethe, arXiv 2003.06281 (conditional ones,
with a learned summary of x).
"""

from __future__ import annotations

import logging
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from scipy import special
from torch import Tensor

from .. import hashing, nets, store
from ..ensemble import Ensemble, network_of, spec_of
from ..events import Events, positive_total
from ..features import Batch, Features, Inputs
from ..nets import Network
from ..ratio.learned import key_of, out_of_fold, selected, shares
from ..resample import Resample
from ..train import History, Training
from . import flows
from .columns import Bounds, Columns
from .flows import NSF, Flow, stack_of
from .reports import DensityReport, report_of
from .rows import TrainingRows
from .stacks import DensityStack

__all__ = ["Density", "fit_density"]

_log = logging.getLogger("nuinfer")

Floats = NDArray[np.float64]
Keys = NDArray[np.int64]

_PIECE = 1 << 13  # events in one evaluation


@dataclass(frozen=True, eq=False)
class Density:
    """A fitted density q(y) or q(y | x); made by `fit_density`.

    Attributes
    ----------
    targets:
        The columns y with their bounds and scales; ``columns`` has their names.
    condition:
        The columns x, None for a density of y alone.
    sum_weights:
        Of the training events: what turns the density into a rate.
    history:
        Risks per epoch and flow, of the standardised columns: they differ from -log q by a constant.  Those of
        `FlowMatching` are half the squared error of the velocity.
    resample:
        Members, folds, splits and bootstraps.
    """

    targets: Columns
    condition: Features | None
    network: Flow
    embedding: Network | None
    summaries: int
    model: Ensemble
    resample: Resample
    sum_weights: float
    history: History
    group: str | None = None
    known: Keys = field(default_factory=lambda: np.empty(0, np.int64))
    sample_digest: str = ""

    @property
    def columns(self) -> tuple[str, ...]:
        """The names of the columns y."""
        return self.targets.names

    def log_prob(self, events: Events) -> Floats:
        """The log of the members' mean density, log q(y | x) (N,); -inf outside the bounds.

        Of a density in the units of the columns; discrete columns count as probabilities.

        Raises
        ------
        KeyError, TypeError, ValueError
            for events without the columns of y or x, or not finite in them, or not whole in a discrete one.
        """
        members = self.members(events)
        return np.asarray(special.logsumexp(members, axis=0) - np.log(len(members)))

    def members(self, events: Events) -> Floats:
        """Each member's log density (K, N)."""
        y, x = torch.from_numpy(self.targets.read(events)), self._given(events)
        pieces = []
        with torch.no_grad():
            for start in range(0, max(len(events), 1), _PIECE):
                given = self._context(x.span(start, start + _PIECE))
                pieces.append(self._logs(y[start : start + _PIECE], given).numpy())
        logs = np.concatenate(pieces, 1)
        return logs if self.resample.folds == 1 else out_of_fold(logs, self.resample, self._key(events), self.known)

    def log_probs(self, y: ArrayLike, condition: Events) -> Floats:
        """Log densities (N, M) of M points y (N, M, D) for each of N events x, which are summed up once.

        Raises
        ------
        ValueError, KeyError, TypeError
            for y of another shape, not finite or not whole in a discrete column, or events without the columns of x.
        """
        values = np.asarray(y, np.float64)
        if values.ndim != 3 or values.shape[0] != len(condition) or values.shape[2] != len(self.columns):
            raise ValueError(f"y: expected ({len(condition)}, M, {len(self.columns)}), M points of "
                             f"{', '.join(self.columns)} for each of {len(condition)} events, found "
                             f"{values.shape}")  # fmt: skip
        points = np.ascontiguousarray(self.targets.checked(values.reshape(-1, values.shape[2])))
        owner = np.repeat(np.arange(len(condition)), values.shape[1])
        logs = self._log_rows(torch.from_numpy(points), self.contexts(condition), torch.from_numpy(owner))
        if self.resample.folds > 1:
            logs = out_of_fold(logs, self.resample, self._key(condition)[owner], self.known)
        mean = special.logsumexp(logs, axis=0) - np.log(len(logs))
        return np.asarray(mean.reshape(values.shape[:2]))

    @torch.no_grad()
    def _log_rows(self, y: Tensor, given: Tensor, owner: Tensor) -> Floats:
        """Log densities (networks, R) of rows y (R, D), each with the numbers of its owner in ``given`` (K, C, N)."""
        pieces = [np.empty((len(given), 0))]
        for start in range(0, len(y), _PIECE):
            part = slice(start, start + _PIECE)
            pieces.append(self._logs(y[part], given.index_select(2, owner[part])).numpy())
        return np.concatenate(pieces, 1)

    @torch.no_grad()
    def contexts(self, condition: Events) -> Tensor:
        """The numbers (networks, C, N) that each flow is given for N events x."""
        x = self._given(condition)
        spans = range(0, max(len(condition), 1), _PIECE)
        return torch.cat([self._context(x.span(start, start + _PIECE)) for start in spans], 2)

    def tensor(self, y: Tensor, x: Batch | Tensor | None = None) -> Tensor:
        """`log_prob` (B,) of y (B, D) in torch, differentiable in y and x; folds are averaged.

        ``x`` is (B, C), the flat columns of ``condition``, or a `Batch` of one member where there are clouds.

        Raises
        ------
        ValueError
            for shapes that do not fit.
        """
        if y.ndim != 2 or y.shape[1] != len(self.columns):
            raise ValueError(f"y: expected (B, {len(self.columns)}) for {', '.join(self.columns)}, found "
                             f"{tuple(y.shape)}")  # fmt: skip
        logs = self._logs(y.double()[:, self.targets.order], self._context(self._batch(x, len(y))))
        return (logs.logsumexp(0) - float(np.log(len(logs)))).to(y.dtype)

    def _batch(self, x: Batch | Tensor | None, size: int) -> Batch:
        flat = 0 if self.condition is None else len(self.condition.flat)
        clouds = () if self.condition is None else self.condition.clouds
        x = torch.empty(size, 0, dtype=torch.float32) if x is None else x
        batch = x if isinstance(x, Batch) else Batch(x[None])
        if tuple(batch.flat.shape) != (1, size, flat) or set(batch.clouds) != {name for name, _ in clouds}:
            raise ValueError(
                f"x: expected {size} rows of {flat} flat columns and the clouds {[name for name, _ in clouds]}, found "
                f"a shape of {tuple(batch.flat.shape[1:])} and the clouds {list(batch.clouds)}"
            )
        return Batch(batch.flat.float(), batch.clouds)

    def _logs(self, y: Tensor, given: Tensor) -> Tensor:
        """Log densities (networks, B) of y (B, D), float64 in the flow's order, for ``given`` numbers."""
        inside = self.targets.inside(y)
        y = torch.where(inside[:, None], y, self.targets.middle())
        nodes, weights = self.targets.nodes()
        logs = torch.stack([self._at(y + u, given) + w for u, w in zip(nodes, weights, strict=True)])
        return torch.where(inside, logs.logsumexp(0) if len(logs) > 1 else logs[0], -torch.inf)

    @nets.single_precision()
    def _at(self, v: Tensor, given: Tensor) -> Tensor:
        t, slope = self.targets.forward(v)
        t = t.to(given.dtype).T.expand(len(given), -1, -1)
        return self.stack.log_prob(self.model.state, t, given).double() + slope

    @nets.single_precision()
    def _context(self, x: Batch) -> Tensor:
        """The numbers (networks, C, B) that the flows are given for a batch of one member, without y."""
        batch = self._scales(torch.float32)(x).expand(self.model.networks)
        return self.stack.given(self.model.state, batch)

    @property
    def stack(self) -> DensityStack:
        """The networks as functions of standardised columns."""
        return cast(DensityStack, self.model.stack)

    def _scales(self, dtype: torch.dtype) -> nets.Standardise:
        """The standardisation of x alone."""
        flat = 0 if self.condition is None else len(self.condition.flat)
        return self.model.standardise.first(flat).to("cpu", dtype)

    def _given(self, events: Events) -> Inputs:
        return _inputs(self.condition, events)

    def _key(self, events: Events) -> Keys:
        return events.id if self.resample.folds == 1 else key_of(events, self.group)

    # -- samples -------------------------------------------------------------------------------------------------------

    def sample(self, n: int, condition: Events | None = None, *, seed: int = 0) -> Events:
        """``n`` events with the columns y, each of a member drawn at random.

        Parameters
        ----------
        n:
            How many.
        condition:
            Events with the columns of x: ``n`` of them, one draw for each, or one event for all draws.  For m draws of
            each of N events give ``events.select(np.repeat(np.arange(N), m))``.  Known ids get their own fold's flow.
        seed:
            The same seed gives the same events.

        Raises
        ------
        ValueError
            for n below 1, or a condition that is missing, not asked for, or of another length.
        """
        check_draws(n)
        if (condition is None) != (self.condition is None):
            found = "none" if condition is None else f"{len(condition)} events"
            wanted = "none" if self.condition is None else f"events with {', '.join(self.condition.columns)}"
            raise ValueError(f"condition: expected {wanted}, found {found}")
        if condition is not None and len(condition) not in (1, n):
            raise ValueError(f"condition: expected {n} events or one, found {len(condition)}; for m draws of each "
                             f"repeat them: events.select(np.repeat(np.arange(len(events)), m))")  # fmt: skip
        return self._sample(int(n), condition, condition, seed)

    def draws(self, n: int, condition: Events, *, seed: int = 0) -> Floats:
        """``n`` draws (N, n, D) of y for each of N events x, which are summed up once; known ids as in `sample`.

        Raises
        ------
        ValueError
            for n below 1, or a density without a condition.
        """
        check_draws(n)
        if self.condition is None:
            raise ValueError("draws: expected a density with a condition, found one without; use sample(n)")
        owner = np.repeat(np.arange(len(condition)), n)
        found = self._drawn(owner, condition, condition, seed)
        return np.stack([found[name] for name in self.columns], -1).reshape(len(condition), n, len(self.columns))

    def _sample(self, n: int, condition: Events | None, known: Events | None, seed: int) -> Events:
        """Draws for the ``condition``; the events ``known`` say which flows have not seen them."""
        single = condition is None or len(condition) == 1
        owner = np.zeros(n, np.int64) if single else np.arange(n)
        return Events(self._drawn(owner, condition, known, seed))

    def _drawn(self, owner: Keys, condition: Events | None, known: Events | None, seed: int) -> dict[str, Floats]:
        """One draw for each row, whose condition is that of its owner (R,)."""
        rng = np.random.default_rng(hashing.salt(seed, "density sample"))
        networks = self._networks(owner, known, rng)
        z = torch.from_numpy(rng.standard_normal((len(owner), len(self.columns))))
        x = self._given(condition) if condition is not None else Inputs(torch.empty(1, 0, dtype=torch.float32))
        t = torch.empty_like(z)
        for network in np.unique(networks):
            rows = np.flatnonzero(networks == network)
            for part in np.split(rows, range(_PIECE, len(rows), _PIECE)):
                who, place = np.unique(owner[part], return_inverse=True)
                t[part] = self._inverse(int(network), z[part], x.select(who), torch.from_numpy(place))
        return self.targets.inverse(t)

    @torch.no_grad()
    def _inverse(self, network: int, z: Tensor, x: Inputs, place: Tensor) -> Tensor:
        """Standardised y (B, D) of one flow, in float64; row b has the condition ``place[b]`` of x."""
        state = {name: tensor[network : network + 1].double() for name, tensor in self.model.state.items()}
        given = self.stack.given(state, self._scales(torch.float64)(x.span(0, len(x))))
        return self.stack.inverse(state, z, given.index_select(2, place))

    def _networks(self, owner: Keys, events: Events | None, rng: np.random.Generator) -> Keys:
        """The flow of each row (R,): any member, and of its folds one that has not seen the row's owner."""
        n = len(owner)
        member = np.asarray(rng.integers(0, self.resample.members, n), np.int64)
        place = rng.random(n)
        if self.resample.folds == 1:
            return member
        if events is None:
            return member * self.resample.folds + (place * self.resample.folds).astype(np.int64)
        share = shares(self.resample, self._key(events), self.known)[0].T[owner if len(events) > 1 else 0 * owner]
        fold = (share.cumsum(1) < place[:, None]).sum(1).clip(max=self.resample.folds - 1)
        return np.asarray(member * self.resample.folds + fold)

    def report(self, events: Events, *, draws: int = 99, seed: int = 0) -> DensityReport:
        """How well the density describes ``events``: see `DensityReport`.

        Give events that it was not trained on, or a density with folds.
        """
        given = self.condition.columns if self.condition is not None else ()
        needed = events.keep([*given, *([self.group] if self.group is not None and self.group not in given else [])])
        repeated = needed.select(np.repeat(np.arange(len(events)), draws))
        sampled = self._sample(len(repeated), None if self.condition is None else repeated, repeated, seed)
        return report_of(self.columns, events, self.log_prob(events), sampled, draws, seed)

    def __repr__(self) -> str:
        r = self.resample
        given = "" if self.condition is None else f" | {', '.join(self.condition.columns)}"
        folds = f" x {r.folds} folds" if r.folds > 1 else ""
        inner = "" if self.embedding is None else f" of {self.summaries} summaries by {_name(self.embedding)}"
        return (
            f"Density({type(self.network).__name__}{inner}, {r.members} member{'s' if r.members > 1 else ''}{folds}, "
            f"q({', '.join(self.columns)}{given}); sum of weights {self.sum_weights:.6g})"
        )

    # -- files ---------------------------------------------------------------------------------------------------------

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write everything to one safetensors file, atomically."""
        store.save(path, "density", *self.saved())

    @classmethod
    def load(cls, path: str | os.PathLike[str], *, module: Any = None) -> Density:
        """Read what `save` wrote; ``module`` makes the embedding where it was a user's own.

        Raises
        ------
        CorruptFile
            for a file that is damaged; ``ValueError`` for one of another kind; ``FileNotFoundError`` for none.
        """
        return cls.of_saved(*store.load(path, "density"), module=module)

    def saved(self) -> tuple[dict[str, Any], dict[str, NDArray[Any]]]:
        """The JSON and the arrays that a file holds."""
        spec = {
            "targets": self.targets.to_json(), "network": flows.to_json(self.network),
            "condition": None if self.condition is None else self.condition.to_json(),
            "embedded": self.embedding is not None, "summaries": self.summaries,
            "embedding": None if self.embedding is None else spec_of(self.embedding),
            "resample": vars(self.resample), "sum_weights": self.sum_weights, "group": self.group,
            "sample": self.sample_digest,
        }  # fmt: skip
        return spec, {**store.under("model.", self.model.arrays()), "known": self.known, **self.history.arrays()}

    @classmethod
    def of_saved(cls, spec: Mapping[str, Any], arrays: Mapping[str, NDArray[Any]], *, module: Any = None) -> Density:
        """The inverse of `saved`."""
        targets, network = Columns.from_json(spec["targets"]), flows.from_json(spec["network"])
        condition = None if spec["condition"] is None else Features.from_json(spec["condition"])
        embedding = cast(Network, network_of(spec["embedding"], module)) if spec["embedded"] else None
        stack = stack_of(network, len(targets.parts), condition, embedding, spec["summaries"])
        parts = store.within("model.", arrays)
        return cls(
            targets, condition, network, embedding, spec["summaries"], Ensemble.of_arrays(stack, parts),
            Resample(**spec["resample"]), spec["sum_weights"], History.of_arrays(arrays), spec["group"],
            arrays["known"], spec["sample"],
        )  # fmt: skip


def check_draws(n: int) -> None:
    """Raise ``ValueError`` where ``n`` is no number of draws."""
    if not isinstance(n, int | np.integer) or n < 1:
        raise ValueError(f"n: expected a whole number of at least 1, found {n!r}")


def fit_density(
    events: Events,
    columns: Sequence[str],
    *,
    condition: Features | list[str] | None = None,
    bounds: Mapping[str, Bounds] | None = None,
    discrete: Sequence[str] = (),
    network: Flow = NSF(),  # noqa: B008 - a frozen spec
    embedding: Network | None = None,
    summaries: int = 16,
    scaling: nets.Scaling = "moments",
    members: int = 1,
    folds: int = 1,
    validation: float = 0.2,
    bootstrap: bool = False,
    group: str | None = None,
    training: Training = Training(batch=256),  # noqa: B008 - a frozen spec
    seed: int = 0,
    device: str = "cpu",
    checkpoint: str | Path | None = None,
    cache: str | Path | None = None,
    progress: bool = True,
) -> Density:
    """Learn the density q(y), or q(y | x), of weighted events.

    Parameters
    ----------
    events:
        Weights of any sign, with a positive sum.
    columns:
        The flat columns y.
    condition:
        The columns x: a list of flat ones, or `Features` with clouds; none of them is in ``columns``.
    bounds:
        ``{"y": (low, high)}``, None for no bound: the density is 0 outside (`nuinfer.density.columns` has the
        transforms).  Continuous columns have to lie strictly inside, discrete ones may equal a bound.
    discrete:
        Columns of integers, which get uniform noise in training; `Density.log_prob` has their probability.
    network:
        ``NSF``, ``MAF`` or ``FlowMatching``.
    embedding:
        A network that sums up x in ``summaries`` numbers for the flow, trained together with it: ``MLP``, ``DeepSet``,
        ``Transformer``, or a function that makes a ``torch.nn.Module``.  None gives flat columns to the flow as they
        are, and clouds to a ``DeepSet``.
    scaling:
        How the columns of x are made of order one: "moments" by mean and standard deviation, "ranks" by the normal
        score of their rank, for columns with heavy tails or of many orders of magnitude.
    members:
        Flows with their own initial weights, batches and validation rows, whose mean density is the answer.
    folds:
        Cross-fitting: each member trains one flow a fold, and no known event is scored by one that saw it.
    validation:
        Fraction held out of training, by member, for early stopping and the check of signed weights.
    bootstrap:
        Each member trains on a Poisson bootstrap of the events.
    group:
        Integer column whose equal values (copies of one event) stay together in splits, folds and bootstraps.
    training:
        Epochs, batch size, learning rate, patience.
    seed:
        The same seed gives the same density, to the bit, at a fixed number of threads.
    device, checkpoint, progress:
        See `nuinfer.train.minimise`.
    cache:
        A folder for the columns of samples too large for memory (`Features.mapped`).

    Raises
    ------
    ValueError
        for no events, a total weight that is not positive, columns that are not finite, constant, outside their bounds
        or not whole where they are discrete (count and first rows), a condition that has a column of y.
    KeyError, TypeError
        for columns that are missing or of the wrong kind.

    Examples
    --------
    >>> from nuinfer.simulators import LinearGaussian
    >>> problem = LinearGaussian([[1.0]], noise=0.25)  # theta ~ N(0, 1), x = theta + N(0, 0.25)
    >>> q = fit_density(problem.simulate(4000, 1), ["theta0"], condition=["x0"], network=NSF(transforms=1, width=16),
    ...                 training=Training(epochs=10, batch=128, learning_rate=0.01), seed=1, progress=False)
    >>> at = Events({"x0": [1.0]})
    >>> draws = q.sample(2000, at, seed=1)["theta0"]  # the posterior is N(0.8, 0.2)
    >>> bool(abs(draws.mean() - 0.8) < 0.1), bool(abs(draws.var() - 0.2) < 0.05)
    (True, True)
    """
    total, used = positive_total("events", events.weight), selected(events)
    rows = TrainingRows.of(
        used, columns, condition=None if condition is None else Features.of(condition), bounds=bounds or {},
        discrete=discrete, network=network, embedding=embedding, summaries=summaries, key=used.key(group), seed=seed,
        cache=cache,
    )  # fmt: skip
    resample = Resample(seed=seed, members=members, folds=folds, validation=validation, bootstrap=bootstrap)
    fitted = rows.fit(
        resample, training=training, scaling=scaling, device=device, checkpoint=checkpoint, progress=progress
    )
    model = cast(Ensemble, fitted.model)
    if validation and (used.weight < 0).any():
        _warn_where_negative(rows.held_out(model, resample))
    known = np.unique(rows.key) if folds > 1 else np.empty(0, np.int64)
    return Density(
        *rows.parts, model, resample, total, cast(History, fitted.history), group, known, events.digest()
    )  # fmt: skip


def _inputs(condition: Features | None, events: Events) -> Inputs:
    return Inputs(torch.empty(len(events), 0, dtype=torch.float32)) if condition is None else condition.tensors(events)


def _warn_where_negative(held: Sequence[tuple[Floats, ...]]) -> None:
    """The likelihood is unbounded where the local net weight is negative: say so where held-out events show it."""
    for n, (log_q, w) in enumerate(held):
        if (w >= 0).all() or len(log_q) < 20:
            continue
        where = np.digitize(log_q, np.quantile(log_q, np.linspace(0, 1, 21)[1:-1]))
        net, error = np.bincount(where, w), np.sqrt(np.bincount(where, w * w))
        worst = int(np.argmin(net + 3 * error))
        if net[worst] < -3 * error[worst]:
            _log.warning(
                "the net weight of the events is negative by %.1f standard deviations where flow %d puts the log "
                "density of the standardised columns near %.2f; no density exists there: merge these events with "
                "positive ones, or refine the weights", -net[worst] / error[worst], n,
                float(np.median(log_q[where == worst])),
            )  # fmt: skip


def _name(network: Network) -> str:
    return type(network).__name__ if spec_of(network) is not None else "a network of your own"
