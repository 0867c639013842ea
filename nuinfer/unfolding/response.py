r"""What the detector does to binned truth, from simulated events: one response for all binned methods.

With n_rt the weight of events of truth bin t that are reconstructed in bin r, m_t that of the truth that is not, and
N_t = m_t + sum_r n_rt,

.. math:: P_{rt} = n_{rt} / N_t, \qquad \epsilon_t = \sum_r P_{rt},

so that P has the efficiency in it: what is unfolded with P is corrected for it, once and for all.  Reconstructed events
without a truth bin (fakes, and truth from outside the bins) are f_r; purity_r = sum_t n_rt / (f_r + sum_t n_rt).

**Its own statistical uncertainty.**  Columns are independent of each other; with v the sums of squared weights and V_t
those of the whole column,

.. math:: \mathrm{cov}(P_{rt}, P_{st})
          = \frac{\delta_{rs} v_{rt} - P_{rt} v_{st} - v_{rt} P_{st} + P_{rt} P_{st} V_t}{N_t^2},

which is the multinomial one for weights of 1 (the delta method).
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from .. import hashing, store
from ..errors import check_finite
from ..events import Events, flag
from .binning import Binning, BinningLike, filled

__all__ = ["Response"]

Floats = NDArray[np.float64]
Rows = NDArray[np.int64]


@dataclass(frozen=True, eq=False)
class Response:
    """A detector in bins: T of truth, R of reco; made by `Response.from_events`.

    Attributes
    ----------
    truth, reco:
        The bins.
    both, both_variance:
        Sums of weights and of squared weights (R, T) of events in a truth and a reco bin.
    missed, missed_variance:
        (T,), of events in a truth bin and no reco bin.
    fakes, fakes_variance:
        (R,), of events in a reco bin and no truth bin.
    """

    truth: Binning
    reco: Binning
    both: Floats
    both_variance: Floats
    missed: Floats
    missed_variance: Floats
    fakes: Floats
    fakes_variance: Floats

    @classmethod
    def from_events(cls, simulation: Events, *, truth: BinningLike, reco: BinningLike) -> Response:
        """Fill the bins with simulated events.

        Parameters
        ----------
        simulation:
            Events with the columns of both binnings, and boolean columns ``pass_truth``, ``pass_reco`` where there are
            fakes or misses; a miss needs no finite reco columns, a fake no truth ones.
        truth, reco:
            `Binning`, or edges by column for a grid.

        Raises
        ------
        ValueError
            for no event in both, truth bins without events or with none reconstructed (named), weights whose sum in a
            bin is negative, events that pass neither selection.
        KeyError, TypeError
            for columns that are missing or of the wrong kind.

        Examples
        --------
        >>> events = Events({"t": [0.5, 0.5, 1.5, 1.5], "x": [0.4, 1.2, 1.4, 9.0]})
        >>> response = Response.from_events(events, truth={"t": [0, 1, 2]}, reco={"x": [0, 1, 2]})
        >>> response.matrix
        array([[0.5, 0. ],
               [0.5, 0.5]])
        >>> response.efficiency
        array([1. , 0.5])
        """
        return _Places.of(simulation, Binning.of(truth), Binning.of(reco)).response(simulation.weight)

    @classmethod
    def universes(
        cls, simulation: Events, weights: ArrayLike, *, truth: BinningLike, reco: BinningLike
    ) -> Iterator[Response]:
        """A response for each of U sets of weights (N, U), which multiply the simulation's own.

        Raises
        ------
        ValueError
            for weights of another shape or not finite, and as `from_events`.
        """
        factors = np.asarray(weights, np.float64)
        if factors.ndim != 2 or len(factors) != len(simulation):
            raise ValueError(f"weights: expected (events, universes) with {len(simulation)} events, found shape "
                             f"{factors.shape}")  # fmt: skip
        if not np.isfinite(factors).all():
            raise ValueError(f"weights: expected finite ones, found {int((~np.isfinite(factors)).sum())} that are not")
        places = _Places.of(simulation, Binning.of(truth), Binning.of(reco))
        return (places.response(simulation.weight * factor) for factor in factors.T)

    @classmethod
    def bootstraps(
        cls, simulation: Events, replicas: int, *, truth: BinningLike, reco: BinningLike, group: str | None = None,
        seed: int,
    ) -> Iterator[Response]:  # fmt: skip
        """Responses of Poisson bootstraps of the simulation, with the multiplicities of `omnifold`'s replicas."""
        places, key = _Places.of(simulation, Binning.of(truth), Binning.of(reco)), simulation.key(group)
        for replica in range(replicas):
            yield places.response(simulation.weight * hashing.poisson(key, seed, "bootstrap", replica))

    # -- what follows from the counts

    @property
    def truth_yield(self) -> Floats:
        """N_t (T,), the simulated truth."""
        return np.asarray(self.both.sum(0) + self.missed)

    @property
    def truth_variance(self) -> Floats:
        """Sum of squared weights V_t (T,) of the simulated truth."""
        return np.asarray(self.both_variance.sum(0) + self.missed_variance)

    @property
    def reco_yield(self) -> Floats:
        """What is reconstructed (R,), with fakes."""
        return np.asarray(self.both.sum(1) + self.fakes)

    @property
    def matrix(self) -> Floats:
        """P (R, T): probability that truth t is selected and reconstructed in r; columns sum to the efficiency."""
        return np.asarray(self.both / self.truth_yield)

    @property
    def migration(self) -> Floats:
        """(R, T): probability of r given truth t and that it is reconstructed; columns sum to 1.  To look at."""
        return np.asarray(self.both / self.both.sum(0))

    @property
    def efficiency(self) -> Floats:
        """(T,): the fraction of the truth that is reconstructed."""
        return np.asarray(self.both.sum(0) / self.truth_yield)

    @property
    def purity(self) -> Floats:
        """(R,): the fraction of what is reconstructed that has a truth bin; NaN where nothing is reconstructed."""
        with np.errstate(invalid="ignore"):
            return np.asarray(self.both.sum(1) / self.reco_yield)

    def fold(self, truth: ArrayLike, *, fakes: bool = False) -> Floats:
        """P x truth (..., R) for truth (..., T); with ``fakes`` the simulation's are added."""
        found = np.asarray(truth, np.float64) @ self.matrix.T
        return found + self.fakes if fakes else found

    def matrix_covariance(self, t: int) -> Floats:
        """Statistical covariance (R, R) of the column t of `matrix`."""
        p, v, total = self.matrix[:, t], self.both_variance[:, t], self.truth_variance[t]
        mixed = np.outer(p, v)
        return np.asarray((np.diag(v) - mixed - mixed.T + total * np.outer(p, p)) / self.truth_yield[t] ** 2)

    def __repr__(self) -> str:
        return (f"Response({self.truth.size} truth bins in {', '.join(self.truth.names)}, {self.reco.size} reco bins "
                f"in {', '.join(self.reco.names)}; efficiency {self.efficiency.min():.3g} to "
                f"{self.efficiency.max():.3g}, fakes {self.fakes.sum() / self.reco_yield.sum():.3g})")  # fmt: skip

    # -- files

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write bins and counts to one safetensors file, atomically."""
        store.save(path, "response", {"truth": self.truth.to_json(), "reco": self.reco.to_json()}, self.arrays())

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> Response:
        """Read what `save` wrote; ``CorruptFile`` for a damaged file, ``ValueError`` for another kind."""
        spec, arrays = store.load(path, "response")
        return cls.of_saved(spec, arrays)

    def arrays(self) -> dict[str, NDArray[Any]]:
        """Names and counts to save."""
        return {name: value for name, value in vars(self).items() if isinstance(value, np.ndarray)}

    @classmethod
    def of_saved(cls, spec: dict[str, Any], arrays: dict[str, NDArray[Any]]) -> Response:
        """From the bins in JSON and `arrays`."""
        names = ("both", "both_variance", "missed", "missed_variance", "fakes", "fakes_variance")
        truth, reco = Binning.from_json(spec["truth"]), Binning.from_json(spec["reco"])
        return cls(truth, reco, *(arrays[name] for name in names))


def reference_of(given: ArrayLike | None, response: Response, what: str = "reference") -> Floats:
    """Positive truth contents (T,), those of the simulation for None; ``what`` is their name in errors."""
    if given is None:
        return response.truth_yield
    found = np.asarray(given, np.float64)
    if found.shape != (response.truth.size,):
        raise ValueError(f"{what}: expected contents ({response.truth.size},) of {response.truth!r}, found shape "
                         f"{found.shape}")  # fmt: skip
    check_finite(what, found)
    bad = np.flatnonzero(found <= 0)
    if len(bad):
        raise ValueError(f"{what}: expected positive contents, found {found[bad[0]]:g} in bin {bad[0]} "
                         f"({response.truth.label(int(bad[0]))})")  # fmt: skip
    return found


@dataclass(frozen=True, eq=False)
class _Places:
    """Where each simulated event lies: its number (N,) among (R + 1) (T + 1) cells; row and column 0 are outside."""

    truth: Binning
    reco: Binning
    cell: Rows

    @classmethod
    def of(cls, simulation: Events, truth: Binning, reco: Binning) -> _Places:
        pass_truth, pass_reco = flag(simulation, "pass_truth"), flag(simulation, "pass_reco")
        neither = np.flatnonzero(~(pass_truth | pass_reco))
        if len(neither):
            raise ValueError(
                f"simulation: expected events that pass a selection, found {len(neither)} of {len(simulation)} with "
                f"neither pass_truth nor pass_reco, first at rows {neither[:5].tolist()}; select them away"
            )
        row, column = reco.index(simulation, pass_reco) + 1, truth.index(simulation, pass_truth) + 1
        if not ((row > 0) & (column > 0)).any():
            raise ValueError(
                f"simulation: expected events in a truth and a reco bin, found {len(simulation)} events, "
                f"{int((column > 0).sum())} in truth bins, {int((row > 0).sum())} in reco bins, none in both; do the "
                f"bins cover the columns?"
            )
        return cls(truth, reco, row * (truth.size + 1) + column)

    def response(self, weight: Floats) -> Response:
        """The response with weights (N,)."""
        shape = self.reco.size + 1, self.truth.size + 1
        counts, squares = (a.reshape(shape) for a in filled(self.cell, weight, shape[0] * shape[1]))
        _check_counts(counts, self.truth, self.reco)
        return Response(
            self.truth, self.reco, counts[1:, 1:], squares[1:, 1:], counts[0, 1:], squares[0, 1:], counts[1:, 0],
            squares[1:, 0],
        )  # fmt: skip


def _check_counts(counts: Floats, truth: Binning, reco: Binning) -> None:
    """Raise for truth bins that cannot be unfolded, and for negative contents; ``counts`` (R + 1, T + 1)."""
    total, seen = counts[:, 1:].sum(0), counts[1:, 1:].sum(0)
    for name, values in (("truth", total), ("reconstructed truth", seen)):
        bad = np.flatnonzero(~(values > 0))
        if len(bad):
            shown = "; ".join(f"bin {t} ({truth.label(t)}): {values[t]:g}" for t in bad[:3])
            raise ValueError(
                f"response: expected a positive {name} yield in every truth bin, found {len(bad)} of {truth.size} "
                f"without ({shown}); merge truth bins, or leave out those that the detector does not see"
            )
    inside = counts.copy()
    inside[0, 0] = 0  # outside of all bins
    cells = np.argwhere(inside < -1e-9 * np.abs(counts).max())  # beyond the rounding of weights that cancel
    if len(cells):
        r, t = cells[0]
        where = "no reco bin" if r == 0 else reco.label(int(r) - 1)
        raise ValueError(
            f"response: expected contents from 0, found {len(cells)} negative, first {counts[r, t]:g} in reco bin "
            f"{r - 1} ({where}), truth bin {t - 1}; merge bins until the weights of each have a positive sum"
        )
