r"""Critical values learned over the whole space, and the check that they hold everywhere.

Toys are thrown at many :math:`\theta`, parameters of interest and nuisances both, drawn from a box.  The quantile at cl
of the test statistic, as a function of :math:`\theta`, minimises the pinball loss

.. math:: \ell(t, c) = \max\big(\mathrm{cl}\,(t - c),\ (\mathrm{cl} - 1)(t - c)\big),

so that one regression replaces the toys at every point, and the :math:`\theta` with :math:`t \le c(\theta)` are a
confidence set.  The network has one output for the lowest level and one positive step for each further one: its
quantiles never cross.  Trees have one regression a level, sorted.  `local_coverage` checks the result.

The test statistic may be any function of (theta, data): the profiled likelihood ratio of a cost, or, of a posterior,
Waldo's :math:`(E[\theta|x] - \theta)^T V[\theta|x]^{-1} (E[\theta|x] - \theta)`.

Sources: Dalmasso, Masserano, Zhao, Izbicki, Lee, arXiv 2107.03920 (LF2I); Dalmasso, Izbicki, Lee, arXiv 2002.10399
(ACORE); Masserano, Dorigo, Izbicki, Kuusela, Lee, arXiv 2205.15680 (Waldo).
"""

from __future__ import annotations

import hashlib
import itertools
import math
import os
from collections.abc import Mapping, Sequence
from concurrent.futures import Executor
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np
import torch
from iminuit.cost import Cost
from numpy.typing import ArrayLike, NDArray
from torch import Tensor

from .. import nets, store
from ..ensemble import Ensemble, Model, fit_networks, model_of, network_of, spec_of
from ..errors import check_finite, closest
from ..features import Inputs, Shape
from ..nets import MLP, Network
from ..resample import Resample
from ..train import Draw, Drawn, Training
from ..trees import Boost, Forest, Trees
from .boxes import FEWEST, Box, Simulate, Toys, boxed, columns_of, listed, shown, statistic_of, throw_toys, unit_of
from .construction import check_within, parts_of
from .fits import Problem
from .likelihood_ratio import LikelihoodRatio, Limits, Ordering
from .scans import level
from .toys import Statistic

__all__ = ["ConfidenceSet", "CriticalValues", "Pinball", "fit_critical_values", "learn_critical_values"]

Floats = NDArray[np.float64]
_Path = str | os.PathLike[str]

_KIND = "critical values"  # of the file
_STEPS, _BATCH = 4000, 256  # of a training by default


# -- quantiles ---------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Pinball:
    """The pinball loss of rising levels, summed, for outputs (K, B, L) (`rising`); weights (w, t)."""

    levels: tuple[float, ...]

    @property
    def __name__(self) -> str:
        """What a checkpoint calls it."""
        return f"pinball of {', '.join(f'{level:g}' for level in self.levels)}"

    def __call__(self, outputs: Tensor, weights: tuple[Tensor, ...]) -> Tensor:
        """The losses (K, B)."""
        own, t = weights
        away = t[..., None] - rising(outputs if outputs.ndim > t.ndim else outputs[..., None])
        levels = outputs.new_tensor(self.levels)
        return own * torch.maximum(levels * away, (levels - 1) * away).sum(-1)


def rising(outputs: Tensor) -> Tensor:
    r"""Quantiles (\*, L) that do not cross: the first output, and a positive step for each further one."""
    steps = torch.nn.functional.softplus(outputs[..., 1:])
    return torch.cumsum(torch.cat([outputs[..., :1], steps], -1), -1)


@dataclass(frozen=True)
class _Target(Draw):
    """The test statistic of each row, for the loss."""

    t: Tensor

    def __call__(self, rows: Tensor, networks: NDArray[np.int64], epoch: int | None) -> Drawn:
        return Drawn(self.t.new_empty(*rows.shape, 0), (), (self.t[rows],))

    def describe(self) -> str:
        return hashlib.blake2b(self.t.numpy().tobytes(), digest_size=8).hexdigest()


@dataclass(frozen=True, eq=False)
class CriticalValues:
    """Critical values of a test statistic as functions of theta; made by `fit_critical_values`.

    Attributes
    ----------
    box:
        Where they were learned, (lower, upper) by parameter.
    cls:
        The confidence levels, rising.
    network:
        The spec of what learned them.
    toys:
        The number of toys.
    statistic:
        The `LikelihoodRatio`, None for the user's own.
    """

    box: Box
    cls: tuple[float, ...]
    network: Network | Trees
    model: Model
    scale: tuple[float, float]  # t = first + second x output
    toys: int
    statistic: LikelihoodRatio | None = field(default=None)

    def at(self, theta: Mapping[str, ArrayLike], cl: float) -> Floats:
        r"""The critical values (\*) at parameters (\*), which broadcast; the mean over members.

        Raises
        ------
        KeyError, ValueError
            for a parameter without a value, values outside of the box, a level that was not learned.
        """
        found, shape = self._members(theta, cl)
        return np.asarray(found.mean(0).reshape(shape))

    def error(self, theta: Mapping[str, ArrayLike], cl: float) -> Floats:
        r"""The standard deviation (\*) of the members, each trained on a bootstrap of the toys; 0 for trees."""
        found, shape = self._members(theta, cl)
        return np.asarray((found.std(0, ddof=1) if len(found) > 1 else np.zeros(found.shape[1])).reshape(shape))

    def confidence_set(
        self,
        data: Any,
        grid: Mapping[str, ArrayLike],
        *,
        cl: float,
        statistic: Statistic | None = None,
        limits: Mapping[str, Limits] | None = None,
        nuisances: Literal["projected", "profiled"] = "projected",
        points: int = 64,
        seed: int = 0,
    ) -> ConfidenceSet:
        """The points of a grid over parameters of interest whose t is below the critical value.

        Parameters
        ----------
        data:
            A cost, or what the statistic takes.
        grid:
            Rising values of the parameters of interest; the points are their product.
        statistic:
            ``statistic(theta, data)``, where it is not the likelihood ratio that the toys were thrown with.
        limits:
            The physical limits of parameters of interest, for a statistic of your own: a set that reaches them ends
            there.  A likelihood ratio has its own.
        nuisances:
            "projected": a point is kept if t <= c for any value of the nuisances, looked for among ``points`` of the
            box and its corners (it covers for all of them); "profiled": c at the nuisances that the data prefer at the
            point (narrower, and as good as the profile construction).
        seed:
            Of those points.

        Raises
        ------
        KeyError, ValueError
            for parameters that the box has not, a grid beyond it or the limits, "profiled" with a statistic of
            your own.
        """
        test = statistic or self.statistic
        if test is None:
            raise ValueError("confidence_set: expected statistic=, the one that the toys were thrown with; it is not "
                             "saved")  # fmt: skip
        if nuisances not in ("projected", "profiled"):
            raise ValueError(f"nuisances: expected 'projected' or 'profiled', found {nuisances!r}")
        axes = self._axes(grid)
        bounds = _bounds(test, data, axes, dict(limits or {}))
        rows = np.stack(np.meshgrid(*axes.values(), indexing="ij"), -1).reshape(-1, len(axes))
        places = [dict(zip(axes, row.tolist(), strict=True)) for row in rows]
        if isinstance(test, LikelihoodRatio):
            pairs = self._of_ratio(test, data, places, cl, nuisances, self._others(axes, points, seed))
        elif nuisances == "profiled" and len(axes) < len(self.box):
            raise ValueError("nuisances: 'profiled' is for the likelihood ratio, which fits them; use 'projected'")
        else:
            pairs = [self._of_own(test, data, place, cl, self._others(axes, points, seed)) for place in places]
        t, c = np.array(pairs, np.float64).T
        ratio = test if isinstance(test, LikelihoodRatio) else None
        return ConfidenceSet(axes, cl, t, c, ratio, bounds)

    def _of_ratio(
        self, test: LikelihoodRatio, cost: Cost, places: Sequence[dict[str, float]], cl: float, nuisances: str,
        others: dict[str, Floats],
    ) -> list[tuple[float, float]]:  # fmt: skip
        """t, which is the same for all nuisances, and c, its highest value over them or that of the profile."""
        if set(test.interest) != set(places[0]):
            raise ValueError(f"grid: expected the parameters of interest {', '.join(test.interest)}, found "
                             f"{', '.join(places[0])}")  # fmt: skip
        test, near = test.prepared(cost)
        found = []
        for place in places:
            tested = test.tested({**near, **place}, cost)
            near = tested.fixed.values
            theta: Mapping[str, ArrayLike] = {**others, **place} if nuisances == "projected" else near
            found.append((tested.t, float(np.max(self.at({name: theta[name] for name in self.box}, cl)))))
        return found

    def _of_own(
        self, test: Statistic, data: Any, place: dict[str, float], cl: float, others: dict[str, Floats]
    ) -> tuple[float, float]:
        """t and c where t - c is least over the nuisances."""
        c = np.atleast_1d(self.at({**others, **place}, cl))
        thetas = [{**place, **{name: float(v[i]) for name, v in others.items()}} for i in range(len(c))]
        t = np.array([test(theta, data) for theta in thetas], np.float64)
        least = int(np.argmin(t - c))
        return float(t[least]), float(c[least])

    def _axes(self, grid: Mapping[str, ArrayLike]) -> dict[str, Floats]:
        axes = {name: np.array(values, np.float64) for name, values in grid.items()}
        for name, axis in axes.items():
            if name not in self.box:
                raise KeyError(f"grid: no parameter {name!r}; {closest(name, self.box)}")
            if axis.ndim != 1 or not len(axis) or (np.diff(axis) <= 0).any():
                raise ValueError(f"grid {name!r}: expected rising values (n,), found an array {axis.shape}")
        if not axes:
            raise ValueError("grid: expected at least one parameter of interest, found none")
        return axes

    def _others(self, axes: Mapping[str, Floats], points: int, seed: int) -> dict[str, Floats]:
        """Points (M,) of the box of the nuisances, its corners among them; nothing where there are none."""
        names = [name for name in self.box if name not in axes]
        if not names:
            return {}
        unit = np.random.default_rng(seed).random((points, len(names)))
        corners = np.array(list(itertools.product((0.0, 1.0), repeat=min(len(names), 8))))
        rest = np.full((len(corners), len(names) - corners.shape[1]), 0.5)
        inside = np.concatenate([unit, np.concatenate([corners, rest], 1)])
        return {name: self.box[name][0] + inside[:, i] * (self.box[name][1] - self.box[name][0])
                for i, name in enumerate(names)}  # fmt: skip

    def _members(self, theta: Mapping[str, ArrayLike], cl: float) -> tuple[Floats, tuple[int, ...]]:
        """Critical values (K, N), and the shape that N stands for."""
        known = [i for i, level in enumerate(self.cls) if math.isclose(level, cl)]
        if not known:
            levels = ", ".join(f"{c:g}" for c in self.cls)
            raise ValueError(f"cl: expected one of the levels that were learned, {levels}, found {cl:g}")
        values, shape = columns_of(self.box, theta)
        unit = unit_of(self.box, values)
        if isinstance(self.model, Forest):
            found = np.sort(self.model.log(unit), 0)[known[0]][None]
        else:
            raw = torch.from_numpy(self.model.log(Inputs(torch.from_numpy(unit.astype(np.float32)))))
            found = rising(raw if raw.ndim == 3 else raw[..., None])[..., known[0]].numpy()
        return self.scale[0] + self.scale[1] * found, shape

    def __repr__(self) -> str:
        levels = ", ".join(f"{c:g}" for c in self.cls)
        return (f"CriticalValues({type(self.network).__name__} of {self.toys} toys over {shown(self.box)}; levels "
                f"{levels})")  # fmt: skip

    def save(self, path: _Path) -> None:
        """Write everything to one file; a statistic of the user's own is not kept."""
        store.save(path, _KIND, *self.saved())

    @classmethod
    def load(cls, path: _Path) -> CriticalValues:
        """Read what `save` wrote."""
        return cls.of_saved(*store.load(path, _KIND))

    def saved(self) -> tuple[dict[str, Any], dict[str, NDArray[Any]]]:
        """The JSON and the arrays that a file holds."""
        spec = {
            "box": listed(self.box), "cls": list(self.cls), "network": spec_of(self.network),
            "scale": list(self.scale), "toys": self.toys,
            "statistic": self.statistic.to_json() if self.statistic else None,
        }  # fmt: skip
        return spec, self.model.arrays()

    @classmethod
    def of_saved(cls, spec: Mapping[str, Any], arrays: dict[str, NDArray[Any]]) -> CriticalValues:
        """The inverse of `saved`."""
        network, levels, box = network_of(spec["network"]), tuple(spec["cls"]), boxed(spec["box"])
        model = model_of(network, Shape(len(box)), arrays, len(levels))
        return cls(box, levels, network, model, tuple(spec["scale"]), spec["toys"], statistic_of(spec["statistic"]))


def _bounds(
    test: LikelihoodRatio | Statistic, data: Any, axes: Mapping[str, Floats], limits: dict[str, Limits]
) -> dict[str, tuple[float, float]]:
    """The physical limits of the parameters of interest."""
    ratio = isinstance(test, LikelihoodRatio)
    for name in limits:
        if ratio or name not in axes:
            allowed = "none, since the likelihood ratio has its own" if ratio else f"those of {', '.join(axes)}"
            raise ValueError(f"limits: expected {allowed}, found those of {name!r}")
    given = test.limits if isinstance(test, LikelihoodRatio) else limits
    if isinstance(data, Cost):
        found = Problem(data, limits=given).limits
    else:
        ends = {name: given.get(name, (None, None)) for name in axes}
        found = {name: (-math.inf if low is None else float(low), math.inf if high is None else float(high))
                 for name, (low, high) in ends.items()}  # fmt: skip
    for name, axis in axes.items():
        check_within(name, axis, found[name])
    return {name: found[name] for name in axes}


def fit_critical_values(
    toys: Toys,
    *,
    cls: Sequence[float] = (0.68, 0.9, 0.95),
    network: Network | Trees = MLP(),  # noqa: B008 - a frozen spec
    members: int = 4,
    training: Training | None = None,
    seed: int,
    progress: bool = True,
) -> CriticalValues:
    """Learn the quantiles of the test statistic of toys as functions of theta.

    Parameters
    ----------
    toys:
        From `throw_toys`.  Check the result with `local_coverage` on others.
    cls:
        Confidence levels.
    network:
        An `MLP`, or `Trees` (fast; its quantiles are steps, and need large leaves: ``Trees(leaves=6, min_leaf=300)``).
    members:
        Networks, each on a bootstrap of the toys: their mean is the answer, their spread its error.
    training:
        None for 4,000 steps of 256 toys.
    seed, progress:
        See `fit_ratio`.

    Raises
    ------
    ValueError
        for too few toys beyond the highest level, levels outside (0, 1).

    Examples
    --------
    A Gaussian far from any limit: the chi2 quantile, wherever theta is.

    >>> from nuinfer.likelihood import Normal
    >>> thrown = throw_toys(Normal("mu", 0.0), {"mu": (2.0, 4.0)}, toys=2000, seed=1, progress=False,
    ...                     statistic=lambda theta, cost: float((cost.observed[0] - theta["mu"]) ** 2))
    >>> critical = fit_critical_values(thrown, cls=(0.68,), network=MLP(width=16, depth=2), seed=1, progress=False,
    ...                                training=Training(epochs=10, batch=128))
    >>> bool(abs(critical.at({"mu": 3.0}, 0.68) - 0.99) < 0.25)
    True
    """
    levels = tuple(sorted(float(cl) for cl in cls))
    for cl in levels:
        level(cl)
    if not levels or len(set(levels)) < len(levels):
        raise ValueError(f"cls: expected different confidence levels, at least one, found {list(cls)}")
    needed = math.ceil(FEWEST / (1 - levels[-1]) - 1e-6)
    if len(toys) < needed:
        raise ValueError(f"toys: expected at least {needed} to learn a quantile at {levels[-1]:g}, found {len(toys)}")
    t, scale = _scaled(toys.t)
    unit = unit_of(toys.box, toys.theta)
    if isinstance(network, Trees):
        model: Model = _forest(unit, t, levels, network)
    else:
        model = _networks(unit, t, levels, network, members, training, seed, progress)
    return CriticalValues(dict(toys.box), levels, network, model, scale, len(toys), toys.statistic)


def learn_critical_values(
    model: Cost | Simulate,
    box: Mapping[str, tuple[float, float]],
    *,
    toys: int,
    seed: int,
    cls: Sequence[float] = (0.68, 0.9, 0.95),
    interest: Sequence[str] = (),
    statistic: Statistic | None = None,
    ordering: Ordering = "two-sided",
    limits: Mapping[str, Limits] | None = None,
    periodic: Mapping[str, tuple[float, float]] | None = None,
    discrete: Mapping[str, Sequence[float]] | None = None,
    starts: Sequence[Mapping[str, float]] = (),
    network: Network | Trees = MLP(),  # noqa: B008 - a frozen spec
    members: int = 4,
    training: Training | None = None,
    most_failed: float = 0.01,
    executor: Executor | None = None,
    checkpoint: _Path | None = None,
    chunk: int | None = None,
    progress: bool = True,
) -> CriticalValues:
    """`throw_toys`, then `fit_critical_values`: see there for parameters and errors."""
    thrown = throw_toys(
        model, box, toys=toys, seed=seed, interest=interest, statistic=statistic, ordering=ordering, limits=limits,
        periodic=periodic, discrete=discrete, starts=starts, most_failed=most_failed, executor=executor,
        checkpoint=checkpoint, chunk=chunk, progress=progress,
    )  # fmt: skip
    return fit_critical_values(thrown, cls=cls, network=network, members=members, training=training, seed=seed,
                               progress=progress)  # fmt: skip


def _scaled(t: Floats) -> tuple[Floats, tuple[float, float]]:
    """t of a width near 1; failed toys at the top, since a quantile sees only on which side of it they are."""
    finite = t[np.isfinite(t)]
    if not len(finite):
        raise ValueError("toys: expected test statistics that are finite, found none")
    held = np.minimum(t, finite.max())
    check_finite("toys: test statistic", held)
    low, width = float(np.median(held)), float(np.std(held)) or 1.0
    return np.asarray((held - low) / width), (low, width)


def _networks(
    unit: Floats, t: Floats, levels: tuple[float, ...], network: Network, members: int, training: Training | None,
    seed: int, progress: bool,
) -> Ensemble:  # fmt: skip
    training = training or Training(epochs=math.ceil(_STEPS * _BATCH / len(t)), batch=_BATCH, learning_rate=1e-2)
    resample = Resample(seed=seed, members=members, validation=0.0, bootstrap=members > 1)
    fitted = fit_networks(
        Inputs(torch.from_numpy(unit.astype(np.float32))), (np.ones(len(t)),), np.arange(len(t)), resample,
        stack=nets.stack(network, Shape(unit.shape[1]), len(levels)), loss=Pinball(levels), training=training,
        classes=("toys",), draw=_Target(torch.from_numpy(t.astype(np.float32))), label="critical values",
        progress=progress,
    )  # fmt: skip
    if not isinstance(fitted.model, Ensemble):
        raise TypeError(f"expected networks, found {type(fitted.model).__name__}")
    return fitted.model


def _forest(unit: Floats, t: Floats, levels: tuple[float, ...], trees: Trees) -> Forest:
    """One boosted quantile regression a level."""
    from sklearn.ensemble import HistGradientBoostingRegressor

    # theta is even in its box, and so are the bins
    edges = tuple(np.linspace(-1, 1, trees.bins + 1)[1:-1] for _ in range(unit.shape[1]))
    codes = np.stack([np.searchsorted(e, column) for e, column in zip(edges, unit.T, strict=True)], 1).astype(float)
    boosts = []
    for cl in levels:
        model = HistGradientBoostingRegressor(
            loss="quantile", quantile=cl, learning_rate=trees.learning_rate, max_iter=trees.iterations,
            max_leaf_nodes=trees.leaves, min_samples_leaf=trees.min_leaf, l2_regularization=trees.l2,
            max_bins=trees.bins, early_stopping=False, random_state=0,
        ).fit(codes, t)  # fmt: skip
        nodes = tuple(stage[0].nodes for stage in model._predictors)
        boosts.append(Boost(float(np.ravel(model._baseline_prediction)[0]), nodes))
    return Forest(edges, tuple(boosts))


@dataclass(frozen=True, eq=False)
class ConfidenceSet:
    """A confidence set on a grid of P points; made by `CriticalValues.confidence_set`.

    Attributes
    ----------
    grid:
        The axes: values by parameter of interest; points are their product, the last axis running fastest.
    cl:
        The confidence level.
    observed, critical:
        t of the data and its critical value (P,).
    statistic:
        The `LikelihoodRatio`, None for the user's own.
    bounds:
        The physical limits of the parameters of interest, by name.
    """

    grid: dict[str, Floats]
    cl: float
    observed: Floats
    critical: Floats
    statistic: LikelihoodRatio | None
    bounds: dict[str, tuple[float, float]]

    @property
    def shape(self) -> tuple[int, ...]:
        """The lengths of the axes."""
        return tuple(len(axis) for axis in self.grid.values())

    @property
    def accepted(self) -> NDArray[np.bool_]:
        """The points (P,) in the set."""
        return np.asarray(self.observed <= self.critical)

    def interval(self) -> Floats:
        """The set of one parameter as intervals (n, 2), with the ends of `Neyman.interval`."""
        if len(self.grid) != 1:
            raise ValueError(f"expected one parameter of interest, found {', '.join(self.grid)}; see accepted")
        ((name, axis),) = self.grid.items()
        return parts_of(axis, self.observed - self.critical, name, self.statistic, self.bounds[name])

    def save(self, path: _Path) -> None:
        """Write everything to one file."""
        spec = {"interest": list(self.grid), "cl": self.cl,
                "statistic": self.statistic.to_json() if self.statistic else None}  # fmt: skip
        arrays = {"observed": self.observed, "critical": self.critical}
        arrays |= {"bounds": np.array([self.bounds[name] for name in self.grid])}
        store.save(path, "confidence set", spec, arrays | {f"grid.{name}": axis for name, axis in self.grid.items()})

    @classmethod
    def load(cls, path: _Path) -> ConfidenceSet:
        """Read what `save` wrote."""
        spec, arrays = store.load(path, "confidence set")
        grid = {name: arrays[f"grid.{name}"] for name in spec["interest"]}
        bounds = {name: (low, high) for name, (low, high) in zip(grid, arrays["bounds"].tolist(), strict=True)}
        return cls(grid, spec["cl"], arrays["observed"], arrays["critical"], statistic_of(spec["statistic"]), bounds)

    def __repr__(self) -> str:
        size = " x ".join(map(str, self.shape))
        return f"ConfidenceSet({', '.join(self.grid)}: {int(self.accepted.sum())} of {size} points at {self.cl:g})"
