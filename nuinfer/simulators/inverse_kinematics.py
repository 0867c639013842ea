r"""Inverse kinematics: where a planar arm ends, and every way in which it can have got there.

An arm of three segments hangs on a rail at the height :math:`\theta_0`; each joint turns by an angle relative to the
segment before it.  With the absolute directions :math:`a_j = \theta_1 + \dots + \theta_j` its end is at

.. math:: x_0 = \sum_j l_j \cos a_j, \qquad x_1 = \theta_0 + \sum_j l_j \sin a_j, \qquad
          \theta_i \sim N(0, \sigma_i^2)

Two numbers are observed without noise, so the posterior of the four parameters lives on a surface and has no density.
It is sampled exactly all the same.  The rail is solved for, :math:`\theta_0 = x_1 - \sum_j l_j \sin a_j`, which leaves
the measure

.. math:: p(a)\, N(\theta_0; 0, \sigma_0^2)\, \frac{dA}{|g|}, \qquad g_j = l_j \sin a_j

on the surface :math:`\sum_j l_j \cos a_j = x_0` of area element dA.  A proposal takes two directions from the prior and
solves for the third, j (evenly one of the three), whose solutions :math:`\pm\alpha + 2\pi k` are chosen by their prior
:math:`p(a_j \mid a_{i \ne j})`, the sum of which over the solutions is Z_j.  Its measure is
:math:`p(a)\, \tfrac13 \sum_j |g_j| / Z_j\, dA / |g|`, so that the ratio of the two,

.. math:: w(a) = \frac{N(\theta_0; 0, \sigma_0^2)}{\tfrac13 \sum_j |g_j| / Z_j}

has the evidence p(x) as its mean and is bounded away from the few ends at which all g_j can vanish together.  Rejection
turns proposals into draws, with the largest weight among all proposals as the bound (Caffo, Booth, Davis, Biometrika 89
(2002) 745): exact but for weights that no proposal has reached, of a probability of the order of one in a million.

Sources: the arm is that of Ardizzone et al., arXiv 1808.04730, in the form of Kruse, Ardizzone, Rother, Koethe,
arXiv 2101.10763, whose reference draws are approximate (rejection within a tolerance).
"""

from __future__ import annotations

import itertools
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from ..errors import NotConverged, check_finite
from ..events import Events
from .gaussian import Gaussian, columns_of, count, generator, matrix_of, points

__all__ = ["InverseKinematics"]

Floats = NDArray[np.float64]

_PROPOSALS = 1 << 16  # in one go
_MOST = 1 << 24  # for one observation


@dataclass(frozen=True)
class InverseKinematics:
    """An arm of three segments on a rail; columns ``theta0`` (the rail), ``theta1`` .. ``theta3``, ``x0`` and ``x1``.

    Parameters
    ----------
    lengths:
        Of the segments.
    spreads:
        Standard deviations of the prior: of the rail, and of the three angles in radians.

    Raises
    ------
    ValueError
        for other than three lengths and four spreads, or any that is not positive.

    Examples
    --------
    >>> arm = InverseKinematics()
    >>> arm.predict([0.1, 0.0, 0.0, 0.0]).tolist()
    [2.0, 0.1]
    >>> draws = arm.sample_posterior([1.5, 0.3], 100, seed=1)  # many ways to one point
    >>> bool(np.allclose(arm.predict(draws), [1.5, 0.3]))
    True
    """

    lengths: tuple[float, float, float] = (0.5, 0.5, 1.0)
    spreads: tuple[float, float, float, float] = (0.25, 0.5, 0.5, 0.5)

    def __post_init__(self) -> None:
        for name, size in (("lengths", 3), ("spreads", 4)):
            values = np.asarray(getattr(self, name), np.float64)
            if values.shape != (size,) or not np.all(np.isfinite(values) & (values > 0)):
                raise ValueError(f"{name}: expected {size} positive numbers, found {getattr(self, name)!r}")

    @property
    def prior(self) -> Gaussian:
        """Of the four parameters."""
        return Gaussian(np.zeros(4), np.diag(np.square(self.spreads)))

    def predict(self, theta: ArrayLike) -> Floats:
        r"""Where the arm ends: (\*, 4) -> (\*, 2)."""
        values = points(theta, 4)
        return self._end(values[..., 0], values[..., 1:].cumsum(-1))

    def simulate(self, n: int, seed: int) -> Events:
        """``n`` draws from the prior with the ends of their arms: ``theta0``, ..., ``x0``, ``x1``."""
        theta = self.prior.sample(count("n", n), generator("inverse kinematics", seed))
        return Events({**columns_of("theta", theta), **columns_of("x", self.predict(theta))})

    def sample_posterior(self, x: Events | ArrayLike, n: int, seed: int) -> Floats:
        """``n`` exact draws (n, 4) of theta given one end ``x``: an event, or (2,).

        Raises
        ------
        ValueError
            for an end out of reach, one that an arm of horizontal segments reaches (x0 = 2, 1, 0, ... for the standard
            lengths), where the weights are not bounded, or more than one.
        NotConverged
            for an end so improbable that no draws are found.
        """
        end, rng = self._one(x), generator("inverse kinematics posterior", seed)
        self._check_bounded(end[0])
        wanted, bound = count("n", n), 0.0
        theta, ratio = np.empty((0, 4)), np.empty(0)
        for _ in range(_MOST // _PROPOSALS):
            more, weight = self._proposals(end, _PROPOSALS, rng)
            bound = max(bound, float(weight.max(initial=0.0)))
            theta, ratio = np.concatenate([theta, more]), np.append(ratio, weight / rng.random(len(weight)))
            kept = ratio > bound  # uniform < weight / bound; a bound that has grown takes earlier draws away
            theta, ratio = theta[kept], ratio[kept]
            if len(theta) >= wanted:
                return np.asarray(theta[:wanted])
            if not bound:
                break
        raise NotConverged(f"expected {n} draws of the posterior at {end.tolist()} from {_MOST} proposals, found "
                           f"{len(theta)}; ask for fewer, or for an end that is more probable")  # fmt: skip

    def evidence(self, x: Events | ArrayLike, n: int, seed: int) -> tuple[float, float]:
        """The density p(x) of one end, and its standard error with ``n`` proposals."""
        end, rng = self._one(x), generator("inverse kinematics evidence", seed)
        weight = np.zeros(count("n", n))
        found = self._proposals(end, n, rng)[1]
        weight[: len(found)] = found
        return float(weight.mean()), float(weight.std() / np.sqrt(n))

    # -- the surface of all solutions ----------------------------------------------------------------------------------

    def _end(self, rail: Floats, directions: Floats) -> Floats:
        lengths = np.asarray(self.lengths)
        across, along = (directions_of(directions) @ lengths for directions_of in (np.cos, np.sin))
        return np.stack([across, rail + along], -1)

    def _one(self, x: Events | ArrayLike) -> Floats:
        end = np.atleast_2d(matrix_of(x, "x", 2))
        check_finite("x", end)
        if end.shape != (1, 2):
            raise ValueError(f"x: expected one end (2,), found {end.shape[:-1]} of them; call once for each")
        if abs(end[0, 0]) >= sum(self.lengths):
            raise ValueError(f"x: expected an end within reach, |x0| < {sum(self.lengths):g}, found {end[0].tolist()}")
        return np.asarray(end[0])

    def _proposals(self, end: Floats, n: int, rng: np.random.Generator) -> tuple[Floats, Floats]:
        """Of ``n`` proposals those that have a solution: theta (M, 4) and their weights (M,)."""
        directions = self.prior.sample(n, rng)[:, 1:].cumsum(1)
        solved = rng.integers(0, 3, n)
        parts = np.cos(directions) * self.lengths
        lengths, rows = np.asarray(self.lengths)[solved], np.arange(n)
        cosine = (end[0] - parts.sum(1) + parts[rows, solved]) / lengths
        kept = np.abs(cosine) < 1
        directions, solved, rows = directions[kept], solved[kept], np.arange(np.count_nonzero(kept))
        directions[rows, solved] = np.arccos(cosine[kept])
        branches, density = self._branches(directions)
        share = density[rows, solved].cumsum(1)
        chosen = (share < rng.random(len(rows))[:, None] * share[:, -1:]).sum(1)
        directions[rows, solved] = branches[rows, solved, chosen]
        return self._weighed(end, directions)

    def _weighed(self, end: Floats, directions: Floats) -> tuple[Floats, Floats]:
        rail = end[1] - self._end(np.zeros(len(directions)), directions)[:, 1]
        slopes = np.abs(np.sin(directions)) * self.lengths
        total = (slopes / self._branches(directions)[1].sum(2)).mean(1)
        angles = np.diff(directions, prepend=0.0, axis=1)
        weight = _normal(rail, 0.0, self.spreads[0]) / total
        return np.concatenate([rail[:, None], angles], 1), np.asarray(weight)

    def _branches(self, directions: Floats) -> tuple[Floats, Floats]:
        """For each direction all solutions with its cosine, and their prior given the other two, each (M, 3, S)."""
        turns = 2 * np.pi * self._turns()
        found = np.concatenate([directions[..., None] + turns, -directions[..., None] + turns], -1)
        precision, width = self._precision()
        mean = directions - directions @ precision / np.diag(precision)
        return found, _normal(found, mean[..., None], width[:, None])

    def _precision(self) -> tuple[Floats, Floats]:
        """Inverse covariance (3, 3) of the directions, and each one's standard deviation (3,) given the others."""
        steps = np.tril(np.ones((3, 3)))
        precision = np.linalg.inv(steps * np.square(self.spreads[1:]) @ steps.T)
        return np.asarray(precision, np.float64), np.asarray(np.diag(precision) ** -0.5)

    def _turns(self) -> NDArray[np.int64]:
        """So many whole turns that seven standard deviations of any direction are covered."""
        most = int(np.ceil(7 * np.linalg.norm(self.spreads[1:]) / (2 * np.pi)))
        return np.arange(-most, most + 1)

    def _check_bounded(self, across: float) -> None:
        reached = np.array(list(itertools.product((-1, 1), repeat=3))) @ self.lengths
        if np.abs(reached - across).min() < 1e-3:
            raise ValueError(f"x: expected an end that no arm of horizontal segments reaches, where the posterior "
                             f"measure is not bounded, found x0 = {across:g}; move it")  # fmt: skip


def _normal(x: Floats, mean: Floats | float, width: Floats | float) -> Floats:
    return np.asarray(np.exp(-0.5 * ((x - mean) / width) ** 2) / (np.sqrt(2 * np.pi) * width))
