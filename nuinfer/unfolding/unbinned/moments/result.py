"""What moment matching gives, and the comparison with another unfolding."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from .... import metrics, store
from ....events import Events, flag
from ....records import Record
from ...binning import Binning, BinningLike
from ...spectrum import Chi2, Spectrum, quadratic_form
from ..result import Unfolded
from .basis import Basis, Function, Table, chunks, squares
from .fit import sum_of
from .sample import at_rows

__all__ = ["MatchedMoments", "MomentComparison", "all_weights"]

Floats = NDArray[np.float64]
Keys = NDArray[np.int64]


@dataclass(frozen=True)
class MomentComparison(Record):
    """A spectrum of another unfolding beside that of matched moments, with their joint uncertainty.

    Attributes
    ----------
    differences:
        Matched moments less the other (B,), in events.
    covariance:
        Theirs (B, B), from replicas that share their multiplicities.  It holds the training noise of one network of the
        other, which is a little too much where its members are several.
    uncertainty:
        Of the other's spectrum (B,).
    chi2, dof, p_value:
        Of the differences; p by Hotelling's T^2 of so many ``replicas``.
    level, tolerance:
        What `agrees` takes: a larger p-value, or no difference of more than so many ``uncertainty``.
    """

    _KIND = "moment comparison"

    differences: Floats
    covariance: Floats
    uncertainty: Floats
    chi2: float
    dof: int
    p_value: float
    replicas: int
    level: float = 0.001
    tolerance: float = 0.3

    @property
    def pulls(self) -> Floats:
        """Differences over their own standard deviation (B,): 0, or infinite, in a bin that has none."""
        return _over(self.differences, np.sqrt(np.diag(self.covariance)))

    @property
    def largest(self) -> float:
        """The largest difference in units of the other's uncertainty."""
        return float(np.abs(_over(self.differences, self.uncertainty)).max())

    @property
    def agrees(self) -> bool:
        """Whether they agree within statistics, or so well that it does not matter."""
        return self.p_value > self.level or self.largest < self.tolerance

    def __str__(self) -> str:
        bin_ = int(np.argmax(np.abs(_over(self.differences, self.uncertainty))))
        found = (f"chi2 {self.chi2:.3g} for {self.dof} bins, p = {self.p_value:.2g} by {self.replicas} shared "
                 f"replicas; largest difference {self.largest:.2g} of the uncertainty, in bin {bin_}")  # fmt: skip
        if self.p_value > self.level:
            return f"agrees with matched moments: {found}"
        if self.agrees:
            return f"differs from matched moments by more than chance, and by less than matters: {found}"
        return (f"DISAGREES with matched moments: {found}; one has not converged, or the truth's log ratio is not in "
                f"the span of the functions: try more iterations there, a higher degree here")  # fmt: skip


@dataclass(frozen=True, eq=False, repr=False)
class MatchedMoments:
    """Weights whose moments of the reco are the data's; made by `match_moments`.

    Attributes
    ----------
    unfolded:
        The weights as an `Unfolded`: one member, one iteration, and the replicas.
    truth, reco:
        The functions psi (P) and phi (M).
    coefficients:
        lambda (P,), of ``truth.names``: a column enters standardised, see `Basis`.
    replica_coefficients:
        (R, P).
    differences:
        The moments of data less background and fakes, less those of the weighted simulation (M,).
    moment_covariances:
        Covariances (M, M) of these, at lambda, by source: "data", "background", "simulation".
    estimator:
        E (P, M): what a change of the data's moments does to lambda.
    chi2:
        The J-statistic; its p-value is NaN where no degree of freedom is left, and with ``strength`` that of weights
        drawn from the prior.
    sensitivity:
        (P,), falling: in how many standard deviations the moments tell a change of log nu by 1, root mean square over
        the truth, along P directions uncorrelated with each other.
    iterations:
        Steps taken.
    strength:
        Of the penalty.
    """

    unfolded: Unfolded
    truth: Basis
    reco: Basis
    coefficients: Floats
    replica_coefficients: Floats
    differences: Floats
    moment_covariances: Mapping[str, Floats]
    estimator: Floats
    chi2: Chi2
    sensitivity: Floats
    iterations: int
    strength: float

    @property
    def weights(self) -> Floats:
        """nu (N,), which multiplies the simulation's weights; 1 for fakes."""
        return np.asarray(self.unfolded.weights[0])

    @cached_property
    def covariances(self) -> dict[str, Floats]:
        """Covariances (P, P) of the coefficients by source."""
        return {name: self.estimator @ c @ self.estimator.T for name, c in self.moment_covariances.items()}

    @property
    def covariance(self) -> Floats:
        """Of the coefficients (P, P): data, background and simulation."""
        return sum_of(self.covariances)

    @property
    def condition(self) -> float:
        """The best over the worst sensitivity."""
        return float(self.sensitivity[0] / self.sensitivity[-1]) if self.sensitivity[-1] > 0 else np.inf

    @property
    def weakest(self) -> float:
        """The uncertainty of log nu, root mean square over the truth, along the direction that the moments tell least.

        Without a penalty; above about 0.5 the errors are no longer small, and first order no longer good.
        """
        return float(1 / self.sensitivity[-1]) if self.sensitivity[-1] > 0 else np.inf

    def log_weights(self, events: Events) -> tuple[Floats, Floats]:
        """log nu (N,) at any truth, and its standard deviation (N,)."""
        table = self.truth.table(events)
        error = np.empty(len(events))
        for rows in chunks(len(table), 2 * len(self.truth)):
            block = table.block(rows)
            error[rows] = np.sqrt(np.maximum((block * (self.covariance @ block)).sum(0), 0.0))
        return table.exponent(self.coefficients), error

    def spectrum(self, bins: BinningLike, *, reconstructed: bool = False) -> Spectrum:
        """The spectrum with its covariance by source to first order; that by replicas is of ``unfolded.spectrum``.

        Arguments and errors as `Unfolded.spectrum`.
        """
        binning, simulation = Binning.of(bins), self.unfolded.simulation
        values = self.unfolded.spectrum(binning, reconstructed=reconstructed).values
        where = flag(simulation, "pass_truth")
        index = binning.index(simulation, where & flag(simulation, "pass_reco") if reconstructed else where)
        weight = self.weights * simulation.weight
        moved = self._derivatives(index, weight, binning.size) @ self.estimator
        joint = self._joint(index, weight, binning.size)
        both = np.concatenate([-moved, np.eye(binning.size)], 1)
        covariances = {n: moved @ c @ moved.T for n, c in self.moment_covariances.items()}
        covariances["simulation"] = both @ joint @ both.T
        return Spectrum(binning, values, covariances, corrected=not reconstructed, settings=self.unfolded.settings)

    def _derivatives(self, index: Keys, weight: Floats, size: int) -> Floats:
        """G (B, P)."""
        rows = np.flatnonzero(index >= 0)
        table, found = self.truth.table(at_rows(self.unfolded.simulation, rows)), np.zeros((size, len(self.truth)))
        for part in chunks(len(rows), len(self.truth) + size):
            found += _one_hot(index[rows[part]], weight[rows[part]], size) @ table.block(part).T
        return found

    def _joint(self, index: Keys, weight: Floats, size: int) -> Floats:
        """The simulation's covariance (M + B, M + B) of the moments and of the bins, with lambda fixed."""
        simulation = self.unfolded.simulation
        rows = np.flatnonzero(flag(simulation, "pass_reco"))
        base = np.zeros((len(self.reco.sources), len(simulation)), np.float32)
        base[:, rows] = self.reco.table(at_rows(simulation, rows)).base
        phi, found = Table(self.reco.terms, base), np.where(flag(simulation, "pass_reco"), weight, 0.0)

        def contribution(part: slice | Keys) -> Floats:
            bins = _one_hot(index[part], weight[part], size)
            return np.concatenate([phi.block(part) * found[part], bins])

        return squares(contribution, len(self.reco) + size, simulation.key(self.unfolded.group))

    def compare(
        self, unfolded: Unfolded, bins: BinningLike, *, level: float = 0.001, tolerance: float = 0.3
    ) -> MomentComparison:
        """Beside another answer, OmniFold's, whose replicas have the same multiplicities of the same events.

        Both are to be of the same data and background, which cannot be told here.

        Raises
        ------
        ValueError
            for another simulation, seed or group, or no more replicas in common than bins.
        """
        _check_shared(self.unfolded, unfolded)
        own, other = self.unfolded.spectrum(bins), unfolded.spectrum(bins)
        n = min(len(own.replicas), len(other.replicas))
        if n <= len(own.values):
            raise ValueError(f"compare: expected more shared replicas than the {len(own.values)} bins, found {n}; give "
                             f"both the same bootstrap=, or fewer bins")  # fmt: skip
        covariance = metrics.replica_covariance(own.replicas[:n] - other.replicas[:n])
        difference = own.values - other.values
        chi2, dof = quadratic_form(difference, covariance)
        p = metrics.hotelling(chi2, n, dof) if dof else float(not difference.any())
        return MomentComparison(difference, covariance, other.uncertainty, chi2, dof, p, n, level, tolerance)

    def report(self) -> str:
        """What was fitted, whether the moments are described, what they tell, and what the weights leave."""
        where = flag(self.unfolded.simulation, "pass_truth")
        own = self.unfolded.simulation.weight[where]
        left = float(metrics.effective_size(own * self.weights[where]) / metrics.effective_size(own))
        penalty = f", strength {self.strength:g}" if self.strength else ""
        weak = "" if self.weakest < 0.5 else (" (WEAK: the moments hardly tell some function of the truth; give "
                                              "strength=, or fewer)")  # fmt: skip
        return "\n".join([
            f"{len(self.truth)} coefficients from {len(self.reco)} moments in {self.iterations} steps{penalty}",
            f"goodness of fit: {_statistic_words(self.chi2)}{' and this strength' if self.strength else ''}",
            f"least known direction: log weight +- {self.weakest:.2g}, condition number {self.condition:.3g}{weak}",
            f"effective size {left:.2g} of that before, largest weight {self.weights[where].max():.3g}",
        ])  # fmt: skip

    def __repr__(self) -> str:
        return f"MatchedMoments({self.unfolded!r}; {self.report().replace(chr(10), '; ')})"

    # -- files

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write everything but the simulation and callables to one safetensors file."""
        inner, arrays = self.unfolded.saved()
        spec = {
            "unfolded": inner, "truth": self.truth.to_json(), "reco": self.reco.to_json(),
            "sources": list(self.moment_covariances), "dof": self.chi2.dof, "iterations": self.iterations,
        }  # fmt: skip
        arrays = store.under("unfolded.", arrays) | {name: getattr(self, name) for name in _ARRAYS}
        arrays["chi2"] = np.array([self.chi2.value, self.chi2.p_value, self.strength])
        for side, basis in (("truth", self.truth), ("reco", self.reco)):
            arrays |= {f"{side}.shift": basis.shift, f"{side}.scale": basis.scale}
        arrays |= {f"covariance.{i}": c for i, c in enumerate(self.moment_covariances.values())}
        store.save(path, "matched moments", spec, arrays)

    @classmethod
    def load(
        cls, path: str | os.PathLike[str], simulation: Events, *, functions: Mapping[str, Function] | None = None
    ) -> MatchedMoments:
        """Read what `save` wrote, for the same simulation, in the same order.

        ``functions`` are the callables by name, of both sides; `spectrum` and `log_weights` need them, weights and
        ``unfolded`` do not.

        Raises
        ------
        CorruptFile
            for a damaged file; ``ValueError`` for a simulation with other ids or weights.
        """
        spec, arrays = store.load(path, "matched moments")
        inner = store.within("unfolded.", arrays)
        unfolded = Unfolded.of_saved(spec["unfolded"], inner, simulation, path)
        truth, reco = (
            Basis.of_saved(spec[side], arrays[f"{side}.shift"], arrays[f"{side}.scale"], functions or {})
            for side in ("truth", "reco")
        )
        value, p_value, strength = arrays["chi2"].tolist()
        covariances = {name: arrays[f"covariance.{i}"] for i, name in enumerate(spec["sources"])}
        return cls(
            unfolded, truth, reco, arrays["coefficients"], arrays["replica_coefficients"], arrays["differences"],
            covariances, arrays["estimator"], Chi2(value, spec["dof"], p_value), arrays["sensitivity"],
            spec["iterations"], strength,
        )  # fmt: skip


_ARRAYS = ("coefficients", "replica_coefficients", "differences", "estimator", "sensitivity")


def _one_hot(index: Keys, weight: Floats, size: int) -> Floats:
    """(B, n): each event's weight in its bin; none for -1."""
    found = np.zeros((size, len(index)))
    inside = np.flatnonzero(index >= 0)
    found[index[inside], inside] = weight[inside]
    return found


def _over(difference: Floats, sigma: Floats) -> Floats:
    """Quotient; where nothing is uncertain, as in a bin without truth, 0 for agreement and else infinite."""
    from ...checks.verdicts import over  # below this room: nothing here depends on it

    return over(difference, sigma)


def _statistic_words(chi2: Chi2) -> str:
    if not chi2.dof:
        return "as many coefficients as moments, nothing left to test; give more of the reco (reco_degree=)"
    fine = "described" if chi2.p_value > 0.001 else "NOT described by weights of this form"
    return f"J = {chi2.value:.3g} for {chi2.dof} degrees of freedom, p = {chi2.p_value:.2g}: the moments are {fine}"


def _check_shared(one: Unfolded, other: Unfolded) -> None:
    same = np.array_equal(one.simulation.id, other.simulation.id)
    if not same or not np.array_equal(one.simulation.weight, other.simulation.weight):
        raise ValueError("compare: expected the same simulation, found other ids or weights; unfold the same events")
    if (one.seed, one.group) != (other.seed, other.group):
        raise ValueError(
            f"compare: expected one seed and group, so that replicas have the same multiplicities, found seeds "
            f"{one.seed} and {other.seed}, groups {one.group!r} and {other.group!r}"
        )


def all_weights(table: Table, coefficients: Floats, truth: Keys, count: int) -> Floats:
    """nu (R, N) of coefficients (R, P): 1 outside the truth rows."""
    found = np.ones((len(coefficients), count))
    for part in chunks(len(table), len(table.terms) + len(coefficients)):
        found[:, truth[part]] = np.exp(coefficients @ table.block(part))
    return found
