"""What a diagnosis asks of a posterior, and how simulations are split into truth and observation.

Simulations are events with one column a parameter, the truth, beside those of its observation; their weights, of any
sign, say how much each counts (the importance weights of a proposal, a generator's).  They must be ones that the
posterior was not trained on.
"""

from __future__ import annotations

from typing import Protocol

import numpy as np
from numpy.typing import ArrayLike, NDArray

from ..errors import check_finite, missing
from ..events import Events, Ragged
from ..features import Features

__all__ = ["Sampler"]

Floats = NDArray[np.float64]


class Sampler(Protocol):
    """Anything that gives draws and log densities of P parameters for N observations at once."""

    @property
    def names(self) -> tuple[str, ...]:
        """Of the P parameters."""

    def draws(self, n: int, observations: Events, *, seed: int = 0) -> Floats:
        """``n`` draws (N, n, P) for each of N observations."""

    def log_probs(self, theta: ArrayLike, observations: Events) -> Floats:
        """Log densities (N, M) of points (N, M, P), up to a constant of each observation."""


def truths(posterior: Sampler, simulations: Events) -> Floats:
    """The parameters (N, P) of the simulations."""
    for name in posterior.names:
        if name not in simulations:
            raise missing("parameter column", name, simulations.columns)
    if len(simulations) < 2 or not simulations.weight.sum() > 0:
        raise ValueError(f"simulations: expected at least 2 with a positive total weight, found {len(simulations)} of "
                         f"total {simulations.weight.sum():g}")  # fmt: skip
    from ..ratio.parameters import column_values  # which loads torch

    return column_values("simulations", simulations, posterior.names)


def observations_of(posterior: Sampler, simulations: Events) -> Events:
    """The columns that the posterior looks at, where it says which; else all but those of the parameters."""
    if not isinstance(simulations, Events):
        hint = "; give its .events" if hasattr(simulations, "events") else ""
        raise TypeError(f"simulations: expected Events, found {type(simulations).__name__}{hint}")
    features = getattr(posterior, "features", None)
    if isinstance(features, Features):
        features.check(simulations)
        return simulations.keep(features.columns)
    kept = [name for name in simulations.columns if name not in posterior.names]
    if not kept:
        raise ValueError(f"simulations: expected columns of observations beside the parameters "
                         f"{', '.join(posterior.names)}, found none")  # fmt: skip
    return simulations.keep(kept)


def drawn(posterior: Sampler, n: int, observations: Events, seed: int) -> Floats:
    """Draws (N, n, P), checked."""
    if n < 1:
        raise ValueError(f"draws: expected at least 1, found {n}")
    found = np.asarray(posterior.draws(n, observations, seed=seed), np.float64)
    expected = (len(observations), n, len(posterior.names))
    if found.shape != expected:
        raise ValueError(f"posterior.draws: expected shape {expected}, observations, draws and parameters, found "
                         f"{found.shape}")  # fmt: skip
    check_finite("draws of the posterior", found)
    return found


def log_densities(posterior: Sampler, theta: Floats, observations: Events) -> Floats:
    """Log densities (N, M) of points (N, M, P); that of a point outside of the support is a large negative number."""
    found = np.asarray(posterior.log_probs(theta, observations), np.float64)
    if found.shape != theta.shape[:2]:
        raise ValueError(f"posterior.log_probs: expected shape {theta.shape[:2]}, found {found.shape}")
    if np.isnan(found).any() or np.isposinf(found).any():
        raise ValueError(f"posterior.log_probs: expected numbers below infinity, found {np.isnan(found).sum()} NaN and "
                         f"{np.isposinf(found).sum()} infinite")  # fmt: skip
    return np.maximum(found, -1e300)  # ranks are of finite numbers


def features_of(observations: Events) -> Features:
    """All columns of the observations; ragged ones form clouds by the part of their name before the dot."""
    flat: list[str] = []
    clouds: dict[str, list[str]] = {}
    for name in observations.columns:
        if not isinstance(observations[name], Ragged):
            flat.append(name)
            continue
        cloud, _, field = name.rpartition(".")
        if not cloud:
            raise ValueError(f"column {name!r}: expected ragged columns named CLOUD.FIELD, such as 'hits.x'; rename it")
        clouds.setdefault(cloud, []).append(field)
    return Features(flat, **clouds)


def moments_of(observations: Events) -> tuple[tuple[str, ...], Floats]:
    """Names and values (N, S) of simple statistics: flat columns; a cloud's counts, means and standard deviations."""
    names: list[str] = []
    values: list[Floats] = []
    seen: set[str] = set()
    for name in observations.columns:
        column = observations[name]
        if not isinstance(column, Ragged):
            names.append(name)
            values.append(np.asarray(column, np.float64))
            continue
        cloud = name.rpartition(".")[0] or name
        if cloud not in seen:
            seen.add(cloud)
            names.append(f"number of {cloud}")
            values.append(column.counts.astype(np.float64))
        names += [f"mean of {name}", f"spread of {name}"]
        values += _mean_and_spread(column)
    return tuple(names), np.stack(values, 1)


def _mean_and_spread(column: Ragged) -> list[Floats]:
    """Of each event's entries; 0 where there are none."""
    owner, x = np.repeat(np.arange(column.rows), column.counts), np.asarray(column.values, np.float64)
    size = np.maximum(column.counts, 1)
    mean = np.bincount(owner, x, minlength=column.rows) / size
    square = np.bincount(owner, (x - mean[owner]) ** 2, minlength=column.rows) / size
    return [mean, np.sqrt(square)]
