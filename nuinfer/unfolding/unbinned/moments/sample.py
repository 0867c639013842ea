"""Moments of data, background, fakes and weighted simulation, with their covariances."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from .... import hashing
from ....events import Events, flag
from ...samples import Rows, key_of, reconstructed
from .basis import Basis, Table, chunks, squares

__all__ = ["MomentSample", "Observed", "at_rows", "multiplicities", "sample_of"]

Floats = NDArray[np.float64]
Keys = NDArray[np.int64]


@dataclass(frozen=True, eq=False)
class Observed:
    """Data, background or fakes: their functions, their weights, negative for the last two, and keys."""

    phi: Table
    weight: Floats
    key: Keys

    @classmethod
    def of(cls, events: Events, sign: float, basis: Basis, group: str | None) -> Observed:
        """Of events that count with a sign."""
        return cls(basis.table(events), sign * events.weight, key_of(events, group))

    def covariance(self) -> Floats:
        """Of the sums (M, M)."""
        return squares(lambda rows: self.phi.block(rows) * self.weight[rows], len(self.phi.terms), self.key)

    def bootstrapped(self, seed: int, replicas: int) -> Floats:
        """Sums (R, M) in bootstrap replicas."""
        found = np.zeros((replicas, len(self.phi.terms)))
        for rows in chunks(len(self.phi), len(self.phi.terms) + replicas):
            found += (multiplicities(self.key[rows], seed, replicas) * self.weight[rows]) @ self.phi.block(rows).T
        return found


def multiplicities(key: Keys, seed: int, replicas: int) -> NDArray[np.uint8]:
    """(R, N), those of `Unfolded.bootstrap_times`."""
    return np.stack([hashing.poisson(key, seed, "bootstrap", r) for r in range(replicas)])


@dataclass(frozen=True, eq=False)
class MomentSample:
    """Data and background, and the reco rows of the simulation: signal and fakes, with the functions of both sides."""

    observed: Mapping[str, Observed]
    psi: Table  # zeros in place of the sources for fakes
    phi: Table
    weight: Floats
    signal: NDArray[np.bool_]
    key: Keys

    @cached_property
    def own(self) -> Floats:
        """The weights of the signal, 0 for fakes."""
        return self.weight * self.signal

    @cached_property
    def target(self) -> Floats:
        """The moments (M,) of data less background and fakes."""
        parts = [o.phi.sums(o.weight) for o in self.observed.values()]
        return np.asarray(sum(parts) - self.phi.sums(self.weight * ~self.signal))

    def moments(self, coefficients: Floats, own: Floats | None = None) -> tuple[Floats, Floats]:
        """Moments (M,) of the weighted signal, and their derivatives (M, P)."""
        own = self.own if own is None else own
        m, p = len(self.phi.terms), len(self.psi.terms)
        total, slope = np.zeros(m), np.zeros((m, p))
        with np.errstate(over="ignore", invalid="ignore"):
            for rows in chunks(len(own), 2 * m + p):
                psi, phi = self.psi.block(rows), self.phi.block(rows)
                phi *= own[rows] * np.exp(coefficients @ psi)
                total += phi.sum(1)
                slope += phi @ psi.T
        return total, slope

    def many_moments(self, coefficients: Floats, times: NDArray[np.uint8]) -> Floats:
        """Moments (R, M) of replicas of multiplicities (R, N), each with coefficients (R, P) of its own."""
        found = np.zeros((len(times), len(self.phi.terms)))
        with np.errstate(over="ignore", invalid="ignore"):
            for rows in chunks(len(self.own), len(self.phi.terms) + len(self.psi.terms) + 2 * len(times)):
                weight = np.exp(coefficients @ self.psi.block(rows))
                weight *= self.own[rows]
                weight *= times[:, rows]
                found += weight @ self.phi.block(rows).T
        return found

    def covariances(self, coefficients: Floats) -> dict[str, Floats]:
        """Covariances (M, M) of d by source."""
        weight = np.where(self.signal, self.weight * np.exp(self.psi.exponent(coefficients)), self.weight)
        found = {name: o.covariance() for name, o in self.observed.items()}
        own = squares(lambda rows: self.phi.block(rows) * weight[rows], len(self.phi.terms), self.key)
        return found | {"simulation": own}


def sample_of(
    data: Events, simulation: Events, background: Events | None, rows: Rows, reco: Basis, truth: Table,
    group: str | None,
) -> MomentSample:  # fmt: skip
    """Everything that has moments, data first; errors as `match_moments`."""
    observed = {"data": Observed.of(reconstructed(data), 1.0, reco, group)}
    if background is not None and len(background):
        observed["background"] = Observed.of(reconstructed(background), -1.0, reco, group)
    found = np.sort(np.concatenate([rows.signal, rows.fakes]))
    signal = flag(simulation, "pass_truth")[found]
    base = np.zeros((len(truth.base), len(found)), np.float32)
    base[:, signal] = truth.base[:, np.searchsorted(rows.truth, rows.signal)]
    return MomentSample(
        observed, Table(truth.terms, base), reco.table(at_rows(simulation, found)), simulation.weight[found], signal,
        simulation.key(group)[found],
    )  # fmt: skip


def at_rows(events: Events, rows: Keys) -> Events:
    """Those rows, without a copy where they are all."""
    return events if len(rows) == len(events) else events.select(rows)
