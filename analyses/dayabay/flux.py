r"""Antineutrino spectra folded with the cross-section: what is left of the integrals once everything fixed is done.

The rate in a bin of deposited energy is an integral of fixed functions (cross-section, kinematics, an isotope's
spectrum) times smooth ones that parameters change (survival probability, free correction of the spectrum).  The fixed
ones are done once, with 15 points a bin, and kept as weights at two nodes a bin: those of the Gauss rule of the measure
that cross-section and mean spectrum make there, which is exact for a cubic polynomial of the rest.  The parts of the
spectrum (isotopes, what is out of equilibrium, spent fuel, points of the uncertainties) have their own weights at these
nodes, exact for a straight line.  Where the free correction has a kink within a bin, each side of the kink has nodes of
its own.

Source of the construction: Golub, Welsch, Math. Comp. 23 (1969) 221; two nodes have a closed form.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from .ibd import Constants, quadrature
from .release import ISOTOPES, OUT_OF_EQUILIBRIUM, Release

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]


@dataclass(frozen=True, eq=False)
class Folded:
    """Weights of the fixed parts at nodes, in cm^2 a fission: integrals of cross-section times antineutrinos a fission.

    Attributes
    ----------
    energy:
        (2, C) antineutrino energies of the nodes of C cells.
    bin:
        (C,) the bin of deposited energy of each cell; the first 240 are the bins in order, those after them the other
        sides of kinks.
    main:
        (4, 2, C) of the isotopes.
    band, first:
        (4, 2, C, K) of the isotopes times the interpolation weight of the K points of the spectrum from ``first`` (C,)
        on: what the uncorrelated uncertainties act upon.
    nonequilibrium:
        (3, 2, C) of the isotopes with such a correction.
    spent_fuel:
        (6, 2, C) by reactor, of the mean fuel.
    """

    energy: Floats
    bin: Ints
    main: Floats
    band: Floats
    first: Ints
    nonequilibrium: Floats
    spent_fuel: Floats


def folded(release: Release) -> Folded:
    """The weights of the release."""
    constants = Constants.of(release.parameters["pdg2024"], release.parameters["ibd_constants"])
    energy, weight = quadrature(release.fine_edges, constants)
    cells = _cells(energy, release.nodes)
    fractions = release.parameters["reactor_fission_fractions"]["fission_fractions"]
    fraction = np.array([fractions[i] for i in ISOTOPES])
    spectrum = exponential(energy, release.spectrum_energy, release.spectrum)
    rows = [ISOTOPES.index(i) for i in OUT_OF_EQUILIBRIUM]
    extra = spectrum[rows] * linear(energy, *release.nonequilibrium)
    fuel = np.tensordot(fraction, spectrum, 1) * linear(energy, *release.spent_fuel)
    mean = weight * np.tensordot(fraction, spectrum, 1)
    nodes = np.stack([_gauss(energy[b][q], mean[b][q]) for b, q in cells])
    onto = lambda measure: np.stack([_weights(energy[b][q], measure[..., b, q], n)  # noqa: E731
                                     for (b, q), n in zip(cells, nodes, strict=True)], -1)  # fmt: skip
    first, tents = _tents(energy, cells, release.spectrum_energy)
    band = [onto(weight * spectrum * tent) for tent in np.moveaxis(tents, -1, 0)]
    return Folded(
        nodes.T.copy(), np.array([b for b, _ in cells]), onto(weight * spectrum), np.stack(band, -1), first,
        onto(weight * extra), onto(weight * fuel),
    )  # fmt: skip


def exponential(at: Floats, x: Floats, y: Floats) -> Floats:
    """y (K, N) at ``at`` (*), exponential between the points x (N,) and beyond the ends as within the last interval."""
    return np.exp(_interpolated(at, x, np.log(y)))


def linear(at: Floats, x: Floats, y: Floats) -> Floats:
    """y (K, N) at ``at`` (*), linear between the points x (N,), 0 outside."""
    return np.where((at < x[0]) | (at > x[-1]), 0.0, _interpolated(at, x, y))


def between(at: Floats, x: Floats) -> tuple[Ints, Floats]:
    """The interval of the points x (N,) in which ``at`` (*) is, the first or last one beyond the ends, and how far."""
    i = np.clip(np.searchsorted(x, at) - 1, 0, len(x) - 2)
    return i, (at - x[i]) / (x[i + 1] - x[i])


def _interpolated(at: Floats, x: Floats, y: Floats) -> Floats:
    i, t = between(at, x)
    return np.asarray(y[:, i] * (1 - t) + y[:, i + 1] * t)


def _cells(energy: Floats, kinks: Floats) -> list[tuple[int, NDArray[np.bool_]]]:
    """(bin, its points) of each cell: bins, or the parts of them up to the last kink; then the parts beyond kinks."""
    below, beyond = [], []
    for b, points in enumerate(energy):
        inside = kinks[(kinks > points.min()) & (kinks < points.max())]
        above = points > inside[0] if len(inside) else np.zeros(len(points), bool)
        below.append((b, ~above))
        if len(inside):
            beyond.append((b, above))
    return below + beyond


def _gauss(x: Floats, weight: Floats) -> Floats:
    """The two nodes of the Gauss rule of a discrete measure; any two where it is 0 or a single point."""
    total = weight.sum()
    if total <= 0:
        return np.array([x.min(), x.max() + 1e-3])
    mean = weight @ x / total
    second, third = (weight @ (x - mean) ** k / total for k in (2, 3))
    if second < 1e-12:
        return np.array([mean, mean + 1e-3])
    half = third / second / 2
    return np.asarray(mean + half + np.sqrt(half**2 + second) * np.array([-1.0, 1.0]))


def _weights(x: Floats, measure: Floats, nodes: Floats) -> Floats:
    """Weights (*, 2) at two nodes with the total and the mean of measures (*, Q) at points (Q,)."""
    upper = measure @ ((x - nodes[0]) / (nodes[1] - nodes[0]))
    return np.stack([measure.sum(-1) - upper, upper], -1)


def _tents(energy: Floats, cells: list[tuple[int, NDArray[np.bool_]]], x: Floats) -> tuple[Ints, Floats]:
    """By cell the first point of x that matters, and the weights (240, 15, K) of K points in a linear interpolation."""
    i, t = between(energy, x)
    start = np.minimum(i.min(1), len(x) - 1)
    width = int((i + 1 - start[:, None]).max()) + 1
    start = np.minimum(start, len(x) - width)
    found = np.zeros((*energy.shape, width))
    at = (i - start[:, None])[..., None]
    np.put_along_axis(found, at, (1 - t)[..., None], -1)
    np.put_along_axis(found, at + 1, t[..., None], -1)
    return np.array([start[b] for b, _ in cells]), found
