r"""Is the observation like the simulations at all?  Tests in the space of summaries.

Simulations that do not describe the data make any posterior wrong, however well calibrated on simulations.  The
summaries s(x) that the posterior sees (a network's embedding, or the standardised columns) of an observation are
compared with those of simulations: by their Mahalanobis distance from the mean, and by the distance to the k-th nearest
simulation in whitened coordinates, which also sees holes.

Half of the simulations, the reference, make mean, covariance and neighbours; the other half is scored like the
observation, whose p-value is its rank among them.  It is exact at any number of simulations and for any score, for one
observation that comes from the simulated distribution (conformal p-values; Vovk, Gammerman, Shafer, Algorithmic
Learning in a Random World, 2005; for outliers: Bates, Candes, Lei, Romano, Sesia, arXiv:2104.08279).  A shift that the
summaries do not show is not seen.

Source of the use of summaries: Schmitt, Bürkner, Köthe, Radev, arXiv:2112.08866.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import linalg
from scipy.spatial import cKDTree

from ..errors import check_finite
from ..records import Record

__all__ = ["OutOfDistribution", "out_of_distribution"]

Floats = NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class OutOfDistribution(Record):
    """Made by `out_of_distribution`, for M observations; a small p-value means that the simulation is not like it.

    Attributes
    ----------
    distance, neighbour:
        Mahalanobis distance, and that to the k-th nearest simulation (M,).
    distance_p_value, neighbour_p_value:
        The share of held-out simulations at least as far (M,).
    simulations:
        Held-out ones; the smallest p-value is 2 / (1 + simulations).
    """

    _KIND = "out of distribution"

    distance: Floats
    neighbour: Floats
    distance_p_value: Floats
    neighbour_p_value: Floats
    simulations: int

    @property
    def p_value(self) -> Floats:
        """Twice the smaller of both, at most 1 (M,)."""
        return np.asarray(np.minimum(1.0, 2 * np.minimum(self.distance_p_value, self.neighbour_p_value)))

    def __str__(self) -> str:
        lines = [f"out of distribution? against {self.simulations} held-out simulations:"]
        rows = zip(self.distance, self.distance_p_value, self.neighbour_p_value, self.p_value, strict=True)
        for d, far, lonely, p in rows:
            verdict = "like the simulations" if p > 0.01 else "NOT like the simulations"
            lines.append(f"  p = {p:.2g}, {verdict} (Mahalanobis {d:.3g}: {far:.2g}, neighbours: {lonely:.2g})")
        return "\n".join(lines)


def out_of_distribution(
    simulated: ArrayLike, observed: ArrayLike, *, neighbours: int = 5, seed: int = 0
) -> OutOfDistribution:
    """p-values that each observation comes from the distribution of the simulations.

    Parameters
    ----------
    simulated, observed:
        Summaries (N, S) of simulations that the summaries were *not* trained on, drawn from the prior predictive
        distribution, and (M, S), or (S,), of observations.
    neighbours:
        k, for the distance to the k-th nearest simulation.

    Raises
    ------
    ValueError
        for shapes that do not fit, values that are not finite, fewer than 40 simulations or 4 (S + k), or summaries
        that are all constant.

    >>> rng = np.random.default_rng(1)
    >>> found = out_of_distribution(rng.normal(size=(2000, 2)), [[0.0, 0.0], [5.0, 5.0]])
    >>> (found.p_value < 0.01).tolist()
    [False, True]
    """
    s, x = np.asarray(simulated, np.float64), np.atleast_2d(np.asarray(observed, np.float64))
    if s.ndim != 2 or x.ndim != 2 or s.shape[1] != x.shape[1] or not s.shape[1]:
        raise ValueError(f"summaries: expected (N, S) of simulations and (M, S) of observations, found {s.shape} and "
                         f"{np.shape(observed)}")  # fmt: skip
    least = max(40, 4 * (s.shape[1] + neighbours))
    if neighbours < 1 or len(s) < least:
        raise ValueError(
            f"neighbours: expected from 1, of at least {least} simulations, found {neighbours} of {len(s)}"
        )
    check_finite("summaries of the simulations", s)
    check_finite("summaries of the observations", x)
    order = np.random.default_rng([seed, 7]).permutation(len(s))
    reference, held = s[order[: len(s) // 2]], s[order[len(s) // 2 :]]
    if not (np.ptp(reference, axis=0) > 0).any():
        raise ValueError(f"summaries of the simulations: expected at least one that varies, found all {s.shape[1]} "
                         f"constant; they tell nothing of an observation")  # fmt: skip
    whiten = _whitening(reference)
    tree = cKDTree(whiten(reference))
    scores = [(linalg.norm(whiten(p), axis=1), tree.query(whiten(p), k=[neighbours])[0][:, 0]) for p in (x, held)]
    p_values = [_conformal(own, other) for own, other in zip(*scores, strict=True)]
    return OutOfDistribution(scores[0][0], scores[0][1], p_values[0], p_values[1], len(held))


def _whitening(reference: Floats) -> Callable[[Floats], Floats]:
    """The map to zero mean and unit covariance; directions without spread are kept, on the scale of rounding."""
    mean, spread = reference.mean(0), reference.std(0)
    scale = np.where(spread > 0, spread, 1.0)
    values, vectors = linalg.eigh(np.cov((reference - mean).T / scale[:, None]).reshape(len(mean), -1))
    turn = vectors / np.sqrt(np.maximum(values, 1e-8 * values.max()))
    return lambda points: np.asarray((points - mean) / scale @ turn)


def _conformal(own: Floats, held: Floats) -> Floats:
    """(1 + number of held-out scores at least as large) / (1 + their number): (M,), (H,) -> (M,)."""
    larger = len(held) - np.searchsorted(np.sort(held), own, side="left")
    return np.asarray((1 + larger) / (1 + len(held)))
