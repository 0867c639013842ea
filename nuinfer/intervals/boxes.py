"""Test statistics of toys thrown all over a box of parameters, one at each theta: what critical values are made of.

What to use when: `neyman` for many toys at each of a few points; `throw_toys` where the critical value changes with the
nuisances, or the points are many, and a regression is to connect them.
"""

from __future__ import annotations

import hashlib
import math
import os
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Executor
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from iminuit.cost import Cost
from numpy.typing import ArrayLike, NDArray

from .. import store, tasks
from ..errors import closest
from ..likelihood.costs import sample
from .fits import Problem, names_of
from .likelihood_ratio import LikelihoodRatio, Limits, Ordering
from .toys import Statistic, check_failed, label_of, t_of, with_metric

__all__ = ["Toys", "throw_toys"]

Floats = NDArray[np.float64]
Box = dict[str, tuple[float, float]]
Simulate = Callable[[Mapping[str, float], np.random.Generator], Any]
_Path = str | os.PathLike[str]

FEWEST = 10  # toys expected beyond the highest level, and in each cell of the diagnostic


@dataclass(frozen=True, eq=False)
class Toys:
    """One toy at each of N parameters drawn evenly from a box; made by `throw_toys`.

    Attributes
    ----------
    box:
        (lower, upper) by parameter.
    theta:
        (N, D), columns in the order of the box.
    t:
        The test statistic at theta (N,), infinite where its fits failed.
    statistic:
        The `LikelihoodRatio`, None for the user's own.
    """

    box: Box
    theta: Floats
    t: Floats
    statistic: LikelihoodRatio | None

    @property
    def failed(self) -> int:
        """Toys whose fit failed."""
        return int(np.isinf(self.t).sum())

    def __len__(self) -> int:
        return len(self.t)

    def __repr__(self) -> str:
        return f"Toys({len(self)} over {shown(self.box)}; {self.failed} without a fit)"

    def save(self, path: _Path) -> None:
        """Write everything to one file; a statistic of the user's own is not kept."""
        spec = {"box": listed(self.box), "statistic": self.statistic.to_json() if self.statistic else None}
        store.save(path, "toys", spec, {"theta": self.theta, "t": self.t})

    @classmethod
    def load(cls, path: _Path) -> Toys:
        """Read what `save` wrote."""
        spec, arrays = store.load(path, "toys")
        return cls(boxed(spec["box"]), arrays["theta"], arrays["t"], statistic_of(spec["statistic"]))


def throw_toys(
    model: Cost | Simulate,
    box: Mapping[str, tuple[float, float]],
    *,
    toys: int,
    seed: int,
    interest: Sequence[str] = (),
    statistic: Statistic | None = None,
    ordering: Ordering = "two-sided",
    limits: Mapping[str, Limits] | None = None,
    periodic: Mapping[str, tuple[float, float]] | None = None,
    discrete: Mapping[str, Sequence[float]] | None = None,
    starts: Sequence[Mapping[str, float]] = (),
    most_failed: float = 0.01,
    executor: Executor | None = None,
    checkpoint: _Path | None = None,
    chunk: int | None = None,
    progress: bool = True,
) -> Toys:
    """Test statistics of toys at parameters drawn evenly from a box.

    Parameters
    ----------
    model:
        A sum of costs that can draw data, whose ``statistic`` is the profiled likelihood ratio of ``interest`` unless
        another is given; or a function ``simulate(theta, rng)`` that draws data of any kind.
    box:
        (lower, upper) of all parameters, nuisances too; discrete ones are drawn from their values.
    toys:
        Their number, each at a theta of its own.
    statistic:
        ``statistic(theta, data)``, with data a cost or what ``simulate`` returned.
    interest, ordering, limits, periodic, discrete, starts:
        Of the likelihood ratio: see `LikelihoodRatio`.
    most_failed, executor, checkpoint, chunk, progress:
        See `neyman`.

    Raises
    ------
    KeyError
        for parameters of the cost that have no range, or names that it has not.
    ValueError, TypeError
        for a range that is none or beyond a limit, a function without a statistic.
    NotConverged
        where the fits of more than ``most_failed`` of the toys fail.
    """
    checked = _checked_box(box)
    test: LikelihoodRatio | Statistic
    if statistic is not None:
        test = statistic
    elif isinstance(model, Cost):
        test = LikelihoodRatio(interest=tuple(interest), ordering=ordering, limits=limits or {},
                               periodic=periodic or {}, discrete=discrete or {}, starts=tuple(starts))  # fmt: skip
        test.check(model)
    else:
        raise TypeError("throw_toys: expected a cost, or a function that simulates together with statistic=, found "
                        f"{type(model).__name__} without one")  # fmt: skip
    if isinstance(model, Cost):
        _check_parameters(model, checked, limits or {}, periodic or {})
    throw = _Scatter(model, checked, test, {name: tuple(map(float, v)) for name, v in (discrete or {}).items()})
    theta, data = throw.draw(np.random.default_rng(np.random.SeedSequence(seed)))  # what cannot draw data says so here
    if isinstance(test, LikelihoodRatio):
        throw = replace(throw, test=with_metric(test, data, theta))
    name = "toys"
    if checkpoint is not None:
        said = hashlib.blake2b(repr((checked, throw.discrete)).encode(), digest_size=6).hexdigest()
        name = f"toys {said} {label_of(throw.test, model, data, [theta])}"
    found = tasks.run(throw, toys, seed=seed, executor=executor, checkpoint=checkpoint, chunk=chunk, name=name,
                      progress=progress).stacked()  # fmt: skip
    check_failed(found["t"], most_failed)
    return Toys(checked, found["theta"], found["t"], test if isinstance(test, LikelihoodRatio) else None)


@dataclass(frozen=True, eq=False)
class _Scatter:
    """What a worker does: draw theta, then data at theta, and test them there."""

    model: Cost | Simulate
    box: Box
    test: LikelihoodRatio | Statistic
    discrete: Mapping[str, tuple[float, ...]]

    def draw(self, rng: np.random.Generator) -> tuple[dict[str, float], Any]:
        theta = {name: float(rng.choice(self.discrete[name])) if name in self.discrete else float(rng.uniform(*pair))
                 for name, pair in self.box.items()}  # fmt: skip
        return theta, sample(self.model, theta, rng) if isinstance(self.model, Cost) else self.model(theta, rng)

    def __call__(self, task: int, rng: np.random.Generator) -> dict[str, Any]:
        theta, data = self.draw(rng)
        return {"theta": np.array([theta[name] for name in self.box]), "t": t_of(self.test, theta, data)}


def _checked_box(box: Mapping[str, tuple[float, float]]) -> Box:
    if not box:
        raise ValueError("box: expected a range for at least one parameter, found none")
    for name, pair in box.items():
        if len(pair) != 2 or not (math.isfinite(pair[0]) and math.isfinite(pair[1]) and pair[0] < pair[1]):
            raise ValueError(f"box {name!r}: expected finite lower < upper, found {pair}")
    return {name: (float(low), float(high)) for name, (low, high) in box.items()}


def _check_parameters(
    cost: Cost, box: Box, limits: Mapping[str, Limits], periodic: Mapping[str, tuple[float, float]]
) -> None:
    names, bounds = names_of(cost), Problem(cost, limits=limits).limits
    for name in box:
        if name not in names:
            raise KeyError(f"box: no parameter {name!r}; {closest(name, names)}")
    for name in names:
        if name not in box:
            raise KeyError(f"box: no range for the parameter {name!r}; nuisances need one too, a few times their width")
        low, high = periodic.get(name, bounds[name])
        if box[name][0] < low or box[name][1] > high:
            raise ValueError(f"box {name!r}: expected a range within {low:g} to {high:g}, found {box[name]}")


# -- boxes -------------------------------------------------------------------------------------------------------------


def columns_of(box: Box, theta: Mapping[str, ArrayLike]) -> tuple[Floats, tuple[int, ...]]:
    """Values (N, D) in the order of the box, and the shape that N stands for."""
    for name in box:
        if name not in theta:
            raise KeyError(f"no value for the parameter {name!r}; {closest(name, theta)}")
    arrays = np.broadcast_arrays(*(np.asarray(theta[name], np.float64) for name in box))
    for (name, (low, high)), values in zip(box.items(), arrays, strict=True):
        slack = 1e-9 * (high - low)
        if not ((values >= low - slack) & (values <= high + slack)).all():
            worst = values.reshape(-1)[np.argmax(np.abs(values - (low + high) / 2))]
            raise ValueError(f"{name}: expected values in the box that was learned, {low:g} to {high:g}, found "
                             f"{worst:g}; throw toys over a larger one")  # fmt: skip
    return np.stack([values.reshape(-1) for values in arrays], 1), arrays[0].shape


def unit_of(box: Box, values: Floats) -> Floats:
    """(N, D) from -1 to 1."""
    low, high = np.array(list(box.values())).T
    return np.asarray(2 * (values - low) / (high - low) - 1)


def shown(box: Box) -> str:
    return ", ".join(f"{name} {low:g} to {high:g}" for name, (low, high) in box.items())


def listed(box: Box) -> list[list[Any]]:
    return [[name, low, high] for name, (low, high) in box.items()]


def boxed(spec: Sequence[Sequence[Any]]) -> Box:
    return {name: (low, high) for name, low, high in spec}


def statistic_of(spec: Mapping[str, Any] | None) -> LikelihoodRatio | None:
    return LikelihoodRatio.from_json(spec) if spec else None
