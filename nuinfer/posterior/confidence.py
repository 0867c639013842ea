r"""Confidence sets from posteriors: critical values that make them cover at every theta, and the check that they do.

A credible region covers on average over the prior, and not at each theta.  Any statistic t(theta; x) made of the
posterior gives sets {theta: t <= c(theta)} that do cover, if c(theta) is its quantile at theta; that is learned from
simulations (`nuinfer.intervals.fit_critical_values`) and checked on others (`nuinfer.intervals.local_coverage`):

.. math::

    \text{waldo:}\quad & (E[\theta|x] - \theta)^T\, V[\theta|x]^{-1}\, (E[\theta|x] - \theta) \\
    \text{density:}\quad & -2 \log \frac{q(\theta|x)}{\max q(\cdot|x)} \\
    \text{ratio:}\quad & -2 \log \frac{q(\theta|x) / \pi(\theta)}{\max q(\cdot|x) / \pi}

"waldo" needs draws only, and knows parameters of interest beside nuisances; "ratio" takes the prior out, and is the
likelihood ratio where q is exact; the maxima are over draws, and theta itself.

Sources: Masserano, Dorigo, Izbicki, Kuusela, Lee, arXiv 2205.15680 (Waldo); Dalmasso, Masserano, Zhao, Izbicki, Lee,
arXiv 2107.03920 (LF2I).
"""

from __future__ import annotations

import logging
import math
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray

from .. import hashing, store
from ..events import Events
from ..intervals import ConfidenceSet, CriticalValues, LocalCoverage, Toys, fit_critical_values, local_coverage
from ..nets import MLP, Network
from ..train import Training
from ..trees import Trees
from .base import Posterior, one, theta_of

__all__ = ["CalibratedSets", "Statistic", "calibrate_sets"]

Floats = NDArray[np.float64]
Statistic = Literal["waldo", "density", "ratio"]

_log = logging.getLogger("nuinfer")

_KIND = "calibrated sets"  # of the file
_STATISTICS = ("waldo", "density", "ratio")
_ROWS = 1 << 18  # draws at a time


@dataclass(frozen=True, eq=False)
class CalibratedSets:
    """Confidence sets of a posterior; made by `calibrate_sets`.

    Attributes
    ----------
    posterior:
        What the statistic is made of.
    critical:
        The critical values as functions of theta, nuisances included.
    interest:
        The parameters of interest.
    statistic, draws:
        Its name, and the draws per observation that it is worked out with.
    """

    posterior: Posterior
    critical: CriticalValues
    interest: tuple[str, ...]
    statistic: Statistic
    draws: int

    def observed(self, theta: ArrayLike, observations: Events, *, seed: int = 0) -> Floats:
        """The statistic (N, M) at M points (N, M, I) of the parameters of interest for each of N observations.

        It is worked out with ``draws`` draws of the posterior, which ``seed`` decides: another seed gives other values,
        by about one part in the square root of ``draws``.  `contains` and `confidence_set` with the same seed agree.
        """
        return statistic_of(self.posterior, theta, observations, self.interest, self.statistic, self.draws, seed)

    def contains(
        self, theta: Events | Mapping[str, ArrayLike], observation: Events, *, cl: float, seed: int = 0
    ) -> NDArray[np.bool_]:
        """Whether points (M,) of all parameters lie in the set of one observation; ``seed`` as of `observed`."""
        names = self.posterior.names
        points = theta_of(theta, names)
        own = points[:, [names.index(name) for name in self.interest]]
        limit = self.critical.at(dict(zip(names, points.T, strict=True)), cl)
        return np.asarray(self.observed(own[None], one(observation), seed=seed)[0] <= limit)

    def confidence_set(
        self, observation: Events, grid: Mapping[str, ArrayLike], *, cl: float, points: int = 64, seed: int = 0
    ) -> ConfidenceSet:
        """The points of a grid over the parameters of interest that are in the set of one observation.

        With nuisances a point is kept if any value of theirs keeps it, looked for among ``points`` of the box and its
        corners: the set then covers for all of them.  ``seed`` decides these points and the draws of `observed`.

        Raises
        ------
        KeyError, ValueError
            for a grid of other parameters, or beyond where the critical values were learned.
        """
        if set(grid) != set(self.interest):
            raise KeyError(f"grid: expected values of {', '.join(self.interest)}, found {', '.join(map(str, grid))}")
        ordered = {name: grid[name] for name in self.interest}
        axes = [np.asarray(axis, np.float64) for axis in ordered.values()]
        rows = np.stack(np.meshgrid(*axes, indexing="ij"), -1).reshape(-1, len(axes))
        t = self.observed(rows[None], one(observation), seed=seed)[0]
        table = dict(zip(map(tuple, rows.tolist()), t, strict=True))
        limits = dict(zip(self.posterior.names, self.posterior.prior.bounds, strict=True))

        def found(theta: Mapping[str, float], _: Events) -> float:
            return float(table[tuple(theta[name] for name in self.interest)])

        return self.critical.confidence_set(
            observation, ordered, cl=cl, statistic=found, points=points, seed=seed,
            limits={name: limits[name] for name in self.interest},
        )  # fmt: skip

    def toys(self, simulations: Events, *, seed: int = 0) -> Toys:
        """The statistic of simulations at their own theta."""
        return _toys(self.posterior, simulations, self.critical.box, self.interest, self.statistic, self.draws, seed)

    def check(self, simulations: Events, *, cl: float, cells: int = 16, order: int = 2, seed: int = 0) -> LocalCoverage:
        """The coverage as a function of theta, on simulations that the critical values were not learned from."""
        return local_coverage(self.critical, self.toys(simulations, seed=seed), cl=cl, cells=cells, order=order)

    def __repr__(self) -> str:
        return (f"CalibratedSets({', '.join(self.interest)} by {self.statistic} of {self.posterior!r}; levels "
                f"{', '.join(f'{cl:g}' for cl in self.critical.cls)}, {self.critical.toys} simulations)")  # fmt: skip

    # -- files ---------------------------------------------------------------------------------------------------------

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write one safetensors file, atomically: all but the posterior, whose own ``save`` writes that."""
        critical, arrays = self.critical.saved()
        spec = {
            "critical": critical, "posterior": type(self.posterior).__name__, "names": self.posterior.names,
            "interest": self.interest, "statistic": self.statistic, "draws": self.draws,
        }  # fmt: skip
        store.save(path, _KIND, spec, arrays)

    @classmethod
    def load(cls, path: str | os.PathLike[str], posterior: Posterior) -> CalibratedSets:
        """Read what `save` wrote, with the same posterior again: the critical values hold for no other.

        Raises
        ------
        CorruptFile
            for a file that is damaged; ``ValueError`` for one of another kind, or a posterior of another class or with
            other parameters; ``FileNotFoundError`` for none.
        """
        spec, arrays = store.load(path, _KIND)
        saved = f"{spec['posterior']} of {', '.join(spec['names'])}"
        found = f"{type(posterior).__name__} of {', '.join(posterior.names)}"
        if found != saved:
            raise ValueError(f"posterior: expected the one that the sets were calibrated with, {saved}, found {found}")
        critical = CriticalValues.of_saved(spec["critical"], arrays)
        return cls(posterior, critical, tuple(spec["interest"]), spec["statistic"], spec["draws"])


def calibrate_sets(
    posterior: Posterior,
    simulations: Events,
    *,
    interest: Sequence[str] = (),
    box: Mapping[str, tuple[float, float]] | None = None,
    statistic: Statistic = "waldo",
    cls: Sequence[float] = (0.68, 0.9, 0.95),
    draws: int = 300,
    network: Network | Trees = MLP(),  # noqa: B008 - a frozen spec
    members: int = 4,
    training: Training | None = None,
    seed: int,
    progress: bool = True,
) -> CalibratedSets:
    """Learn the critical values of a statistic of the posterior.

    Parameters
    ----------
    posterior:
        Any `Posterior`; its quality decides the size of the sets, not their coverage.
    simulations:
        With theta and observation, of weight 1, that the posterior was not trained on.  How theta is distributed among
        them does not matter, but they have to reach wherever sets are wanted.
    interest:
        Parameters of interest; none stands for all.  The others are nuisances, for "waldo" only.
    box:
        Where the critical values are learned; simulations outside are not used, and counted in the log.  None for the
        range of the simulations.
    statistic, draws:
        See the module; draws of the posterior for each simulation.
    cls, network, members, training, seed, progress:
        As in `nuinfer.intervals.fit_critical_values`.

    Raises
    ------
    ValueError, KeyError
        for weights other than 1, names that the posterior has not, nuisances with another statistic than "waldo", too
        few simulations.
    """
    names = posterior.names
    wanted = tuple(interest) or names
    unknown = [name for name in wanted if name not in names]
    if unknown:
        raise KeyError(f"interest: expected some of {', '.join(names)}, found {', '.join(unknown)}")
    if statistic not in _STATISTICS:
        raise ValueError(f"statistic: expected one of {', '.join(_STATISTICS)}, found {statistic!r}")
    if statistic != "waldo" and len(wanted) < len(names):
        raise ValueError(f"interest: expected all parameters with {statistic!r}, since a posterior's density of some "
                         f"is not known, found {', '.join(wanted)}; use 'waldo'")  # fmt: skip
    if (simulations.weight != 1).any():
        raise ValueError("simulations: expected weights of 1, found others; quantiles at theta are counted, draw "
                         "simulations without weights")  # fmt: skip
    if draws < len(names) + 2:
        raise ValueError(f"draws: expected at least {len(names) + 2} for {len(names)} parameters, found {draws}")
    theta = theta_of(simulations, names)
    found = {n: (float(v.min()), float(v.max())) for n, v in zip(names, theta.T, strict=True)} if box is None else box
    if set(found) != set(names):
        raise KeyError(f"box: expected ranges of {', '.join(names)}, found {', '.join(found)}")
    ordered = {name: (float(found[name][0]), float(found[name][1])) for name in names}
    toys = _toys(posterior, simulations, ordered, wanted, statistic, draws, seed)
    if len(toys) < len(simulations):
        _log.info(
            "%d of %d simulations are outside the box, and not used", len(simulations) - len(toys), len(simulations)
        )
    critical = fit_critical_values(toys, cls=cls, network=network, members=members, training=training, seed=seed,
                                   progress=progress)  # fmt: skip
    return CalibratedSets(posterior, critical, wanted, statistic, draws)


def _toys(
    posterior: Posterior, simulations: Events, box: Mapping[str, tuple[float, float]], interest: tuple[str, ...],
    statistic: Statistic, draws: int, seed: int,
) -> Toys:  # fmt: skip
    """The statistic of the simulations inside the box at their own theta."""
    names = posterior.names
    theta = theta_of(simulations, names)
    low, high = np.array([box[name] for name in names]).T
    inside = np.flatnonzero(((theta >= low) & (theta <= high)).all(1))
    used = simulations.select(inside)
    own = theta[inside][:, [names.index(name) for name in interest]]
    t = statistic_of(posterior, own[:, None], used, interest, statistic, draws, seed)[:, 0]
    return Toys(dict(box), theta[inside], t, None)


def statistic_of(
    posterior: Posterior, theta: ArrayLike, observations: Events, interest: tuple[str, ...], statistic: Statistic,
    draws: int, seed: int,
) -> Floats:  # fmt: skip
    """The statistic (N, M) at points (N, M, I) of the parameters of interest."""
    points = np.asarray(theta, np.float64)
    size = max(1, math.ceil(_ROWS / draws))
    parts = []
    for start in range(0, len(observations), size):
        rows = slice(start, start + size)
        some = observations.select(rows)
        drawn = posterior.draws(draws, some, seed=hashing.salt(seed, "statistic", start) >> 1)
        if statistic == "waldo":
            parts.append(_waldo(drawn, points[rows], [posterior.names.index(name) for name in interest]))
        else:
            parts.append(_fall(posterior, drawn, points[rows], some, statistic == "ratio"))
    return np.concatenate(parts)


def _waldo(drawn: Floats, points: Floats, columns: Sequence[int]) -> Floats:
    """Squared distances (N, M) from the mean of draws (N, n, P) in units of their covariance."""
    own = drawn[..., list(columns)]
    mean = own.mean(1, keepdims=True)
    centred = own - mean
    covariance = np.einsum("ndi,ndj->nij", centred, centred) / (own.shape[1] - 1)
    off = points - mean
    solved = np.linalg.solve(covariance[:, None], off[..., None])[..., 0]
    return np.asarray((off * solved).sum(-1))


def _fall(posterior: Posterior, drawn: Floats, points: Floats, observations: Events, ratio: bool) -> Floats:
    """Twice the fall (N, M) of the log density from its maximum over draws and points, over the prior if ``ratio``."""

    def height(theta: Floats) -> Floats:
        logs = posterior.log_probs(theta, observations)
        return logs - posterior.prior.log_prob(theta) if ratio else logs

    with np.errstate(invalid="ignore"):
        at = np.nan_to_num(height(points), nan=-np.inf)  # outside the prior both logs are infinite: density 0
    # of the draws and the point itself: not of other points, so that t is a function of theta and x
    return np.asarray(2 * (np.maximum(height(drawn).max(1)[:, None], at) - at))
