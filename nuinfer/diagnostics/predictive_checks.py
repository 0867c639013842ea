r"""Posterior predictive checks: simulations at the posterior's draws should look like the observation.

For statistics S_k, x_o the observation and replicas x simulated at draws theta ~ q(theta | x_o), the p-value of one is
twice the smaller of the shares of replicas with S_k at most, and at least, that of the observation.  That of all
together is the rank, among all replicas and the observation, of the Mahalanobis distance of the statistics (as normal
scores of their ranks) from their common mean.

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
from scipy import linalg, special, stats

from ..errors import check_finite
from ..events import Events
from .samplers import Sampler, drawn, moments_of

__all__ = ["Predictive", "predictive"]

Floats = NDArray[np.float64]
#: theta (B, P) and a generator of random numbers -> B rows of observations.
Simulator = Callable[[Floats, np.random.Generator], Events | Mapping[str, Any]]
Statistic = Callable[[Events], Any]


@dataclass(frozen=True, eq=False)
class Predictive:
    """Made by `predictive`: S statistics of an observation (S,) and of B replicas (B, S).

    ``p_values`` (S,) are two-sided, ``p_value`` is that of all statistics together.
    """

    names: tuple[str, ...]
    observed: Floats
    replicas: Floats
    p_values: Floats
    p_value: float

    def __str__(self) -> str:
        verdict = "the observation is like its replicas" if self.p_value > 0.01 else "the model does not fit"
        lines = [f"posterior predictive check, {len(self.replicas)} replicas: p = {self.p_value:.2g}, {verdict}"]
        for name, value, column, p in zip(self.names, self.observed, self.replicas.T, self.p_values, strict=True):
            lines.append(f"  {name}: {value:.4g}, expected {column.mean():.4g} +- {column.std():.3g}, p = {p:.2g}")
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
        A function of theta (B, P) and a numpy generator that gives B rows, as events or a mapping of columns.
    statistics:
        name -> function of events that gives a number for each row.  Left out: the flat columns, and of clouds the
        number of entries, their means and standard deviations.
    draws:
        B, replicas.

    Raises
    ------
    ValueError
        for an observation of other than one row, a simulator that gives other than B rows, or statistics that are not
        one finite number a row.
    """
    if len(observation) != 1:
        raise ValueError(f"observation: expected one row, found {len(observation)}")
    theta = drawn(posterior, draws, observation, seed)[0]
    found = simulator(theta, np.random.default_rng([seed, 5]))
    replicas = found if isinstance(found, Events) else Events(found)
    if len(replicas) != draws:
        raise ValueError(f"simulator: expected {draws} rows, one for each theta, found {len(replicas)}")
    seen, made = _alike(posterior, observation, replicas) if statistics is None else (observation, replicas)
    (names, observed), (_, values) = _values(seen, statistics), _values(made, statistics)
    return Predictive(names, observed[0], values, _two_sided(observed[0], values), _together(observed, values))


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
        columns = {name: np.asarray(function(events), np.float64) for name, function in statistics.items()}
        for name, column in columns.items():
            if column.shape != (len(events),):
                raise ValueError(f"statistic {name!r}: expected one number for each of {len(events)} rows, found shape "
                                 f"{column.shape}")  # fmt: skip
        names, values = tuple(columns), np.stack(list(columns.values()), 1)
    check_finite(f"statistics {', '.join(names)}", values)
    return names, values


def _two_sided(observed: Floats, replicas: Floats) -> Floats:
    sides = [1 + (replicas <= observed).sum(0), 1 + (replicas >= observed).sum(0)]
    return np.asarray(np.minimum(1.0, 2 * np.minimum(*sides) / (1 + len(replicas))))


def _together(observed: Floats, replicas: Floats) -> float:
    """The rank of the observation's distance from the mean of all."""
    every = np.concatenate([observed, replicas])
    scores = special.ndtri((stats.rankdata(every, axis=0) - 0.5) / len(every))
    scores -= scores.mean(0)
    distance = np.einsum("ni,ij,nj->n", scores, linalg.pinvh(scores.T @ scores), scores)
    return float(np.mean(distance >= distance[0] * (1 - 1e-12)))
