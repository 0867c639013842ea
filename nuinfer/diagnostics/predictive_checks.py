r"""Posterior predictive checks: simulations at the posterior's draws should look like the observation.

For statistics S_k, x_o the observation and replicas x simulated at draws theta ~ q(theta | x_o), the p-value of one is
twice the smaller of the shares of replicas with S_k at most, and at least, that of the observation.  That of all
together is the rank, among all replicas and the observation, of the Mahalanobis distance of the statistics (as normal
scores of their ranks) from their common mean.

Replicas count with their weights w, which may be signed, and the observation as one replica of n = (sum w)^2 / sum w^2,
so that no p-value is below 2 / (1 + n), and 1 / (1 + n) for all statistics together.  A tail whose weights sum to less
than nothing is an empty one.

The observation has been used twice, for the posterior and for the check, so that these p-values lean towards 1/2: a
small one says more than its number, a large one less.

Source: Gelman, Meng, Stern, Statistica Sinica 6 (1996) 733.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import linalg, special

from ..errors import check_finite
from ..events import Events
from ..metrics import effective_size, weighted_mean
from ..records import Record
from .samplers import Sampler, drawn, moments_of

__all__ = ["Predictive", "predictive"]

Floats = NDArray[np.float64]
#: theta (B, P) and a generator of random numbers -> B rows of observations.
Simulator = Callable[[Floats, np.random.Generator], Events | Mapping[str, Any]]
#: Events -> a number for each row.
Statistic = Callable[[Events], Any]


@dataclass(frozen=True, eq=False)
class Predictive(Record):
    """Made by `predictive`: S statistics of an observation (S,) and of B replicas (B, S) with weights (B,).

    ``p_values`` (S,) are two-sided, ``p_value`` is that of all statistics together.
    """

    _KIND = "predictive check"

    names: tuple[str, ...]
    observed: Floats
    replicas: Floats
    weight: Floats
    p_values: Floats
    p_value: float

    def __str__(self) -> str:
        verdict = "the observation is like its replicas" if self.p_value > 0.01 else "the model does not fit"
        size, mean = float(effective_size(self.weight)), weighted_mean(self.replicas, self.weight)
        # of signed weights a sum of squares may come out negative where it is nearly 0
        spread = np.sqrt(np.maximum(weighted_mean((self.replicas - mean) ** 2, self.weight), 0))
        lines = [f"posterior predictive check, {size:.0f} effective replicas: p = {self.p_value:.2g}, {verdict}"]
        for name, value, m, s, p in zip(self.names, self.observed, mean, spread, self.p_values, strict=True):
            lines.append(f"  {name}: {value:.4g}, expected {m:.4g} +- {s:.3g}, p = {p:.2g}")
        return "\n".join(lines)


def predictive(
    posterior: Sampler,
    observation: Events,
    simulator: Simulator,
    *,
    statistics: Mapping[str, Statistic] | None = None,
    draws: int = 1000,
    seed: int = 0,
) -> Predictive:
    """Simulations at draws of the posterior beside the observation.

    Parameters
    ----------
    observation:
        Events of one row.
    simulator:
        A function of theta (B, P) and a numpy generator that gives B rows, as events, whose weights count, or a mapping
        of columns.
    statistics:
        name -> function of events that gives a number for each row.  Left out: the flat columns, and of clouds the
        number of entries, their means and standard deviations.
    draws:
        B, replicas.

    Raises
    ------
    ValueError
        for an observation of other than one row, a simulator that gives other than B rows or no positive total weight,
        or statistics that are not one finite number a row.
    """
    if len(observation) != 1:
        raise ValueError(f"observation: expected one row, found {len(observation)}")
    theta = drawn(posterior, draws, observation, seed)[0]
    found = simulator(theta, np.random.default_rng([seed, 5]))
    replicas = found if isinstance(found, Events) else Events(found)
    if len(replicas) != draws:
        raise ValueError(f"simulator: expected {draws} rows, one for each theta, found {len(replicas)}")
    if not replicas.sum_weights > 0:
        raise ValueError(f"simulator: expected rows of a positive total weight, found {replicas.sum_weights:g}")
    seen, made = _alike(posterior, observation, replicas) if statistics is None else (observation, replicas)
    (names, observed), (_, values) = _values(seen, statistics), _values(made, statistics)
    every, weight = np.concatenate([observed, values]), _with_observation(replicas.weight)
    p_values, p_value = _two_sided(every, weight), _together(every, weight)
    return Predictive(names, observed[0], values, replicas.weight, p_values, p_value)


def _alike(posterior: Sampler, observation: Events, replicas: Events) -> tuple[Events, Events]:
    """Both with the columns of the observation."""
    names = [name for name in observation.columns if name not in posterior.names]
    absent = [name for name in names if name not in replicas]
    if absent:
        raise KeyError(f"simulator: expected the columns of the observation, found none named {', '.join(absent)}; "
                       f"give statistics=, or an observation without them")  # fmt: skip
    return observation.keep(names), replicas.keep(names)


def _values(events: Events, statistics: Mapping[str, Statistic] | None) -> tuple[tuple[str, ...], Floats]:
    """Names and values (N, S) of the statistics."""
    if statistics is None:
        names, values = moments_of(events)
    else:
        if not statistics:
            raise ValueError("statistics: expected at least one, found none")
        columns = {name: _numbers(name, function(events), len(events)) for name, function in statistics.items()}
        names, values = tuple(columns), np.stack(list(columns.values()), 1)
    check_finite(f"statistics {', '.join(names)}", values)
    return names, values


def _numbers(name: str, found: Any, rows: int) -> Floats:
    """What a statistic gave, checked to be one number for each row."""
    try:
        column = np.asarray(found, np.float64)
    except (TypeError, ValueError):  # of clouds, or lists of several lengths
        column = np.empty(0)
    if column.shape != (rows,):
        what = f"an array of shape {column.shape}" if column.size and column.ndim else type(found).__name__
        raise ValueError(f"statistic {name!r}: expected one number for each of {rows} rows, found {what}; of several "
                         f"numbers a row, such as the bins of a histogram, make a statistic each")  # fmt: skip
    return column


def _with_observation(weight: Floats) -> Floats:
    """Weights (1 + B,) in units of that of the observation, which comes first."""
    return np.concatenate([[1.0], weight * weight.sum() / np.sum(weight**2)])


def _two_sided(every: Floats, weight: Floats) -> Floats:
    """p-values (S,) of the first row among all (1 + B, S)."""
    sides = [_tail(every <= every[0], weight), _tail(every >= every[0], weight)]
    return np.asarray(np.minimum(1.0, 2 * np.minimum(*sides)))


def _tail(beyond: NDArray[np.bool_], weight: Floats) -> Floats:
    """The share of the weights in a tail, which the observation is always in."""
    return np.asarray(np.maximum(weight @ beyond, 1.0) / weight.sum())


def _together(every: Floats, weight: Floats) -> float:
    """The rank of the observation's distance from the mean of all."""
    size = np.abs(weight)  # any distance that does not know which row is the observation will do
    scores = np.stack([special.ndtri(_middle_shares(column, size)) for column in every.T], 1)
    scores -= weighted_mean(scores, size)
    distance = np.einsum("ni,ij,nj->n", scores, linalg.pinvh((scores.T * size) @ scores), scores)
    return min(1.0, float(_tail(distance >= distance[0] * (1 - 1e-12), weight)))


def _middle_shares(values: Floats, weight: Floats) -> Floats:
    """The share of the weights below each value (N,), and half of that at it."""
    each, place = np.unique(values, return_inverse=True)
    content = np.bincount(place, weight, minlength=len(each))
    middle = (np.cumsum(content) - content / 2) / content.sum()
    # a value of no weight at either end has a share of 0 or 1, whose score is infinite
    return np.asarray(np.clip(middle, 1e-12, 1 - 1e-12)[place])
