"""The parameters of the model: groups of names, nominal values and the covariance of what is known of them.

Two parameters are measured, ``sin2_2theta13`` and ``dm2_32``; the values at the nodes of the antineutrino spectrum are
free.  All others are nuisances that the release constrains, kept in their own units.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import linalg

from .release import DETECTOR_PERIODS, DETECTORS, ISOTOPES, OUT_OF_EQUILIBRIUM, PERIODS, REACTORS, Release

Floats = NDArray[np.float64]
SITES = {"EH1": ("AD11", "AD12"), "EH2": ("AD21", "AD22"), "EH3": ("AD31", "AD32", "AD33", "AD34")}
# of each detector-period, the place of its hall among the sites
SITE_OF = tuple(i for d, _ in DETECTOR_PERIODS for i, own in enumerate(SITES.values()) if d in own)


def by_hall(counts: Floats) -> Floats:
    """The sums (3, *) over the detector-periods (21, *) of each hall."""
    return np.stack([counts[np.array(SITE_OF) == i].sum(0) for i in range(len(SITES))])


@dataclass(frozen=True, eq=False)
class Group:
    """Parameters of one kind.

    Attributes
    ----------
    name, title:
        For programs and for people.
    names:
        Of the n parameters.
    value:
        (n,) nominal.
    covariance:
        (n, n) of their constraint; None where they are free.
    shape:
        How the model sees them; its product is n.
    """

    name: str
    title: str
    names: tuple[str, ...]
    value: Floats
    covariance: Floats | None
    shape: tuple[int, ...]

    @property
    def sigma(self) -> Floats:
        """(n,) standard deviations of the constraint."""
        if self.covariance is None:
            raise ValueError(f"{self.name}: free parameters have no uncertainty to begin with")
        return np.sqrt(np.diag(self.covariance))


class Parameters:
    """All groups, in order, and where each parameter is in them."""

    def __init__(self, groups: Sequence[Group]) -> None:
        self.groups = {group.name: group for group in groups}
        self.where = {name: (g.name, i) for g in groups for i, name in enumerate(g.names)}

    @property
    def names(self) -> tuple[str, ...]:
        return tuple(self.where)

    @property
    def constrained(self) -> tuple[Group, ...]:
        return tuple(g for g in self.groups.values() if g.covariance is not None)

    def value(self, name: str) -> float:
        """The nominal value."""
        group, i = self.where[name]
        return float(self.groups[group].value[i])

    def values(self, names: Sequence[str]) -> dict[str, float]:
        return {name: self.value(name) for name in names}

    def __iter__(self) -> Iterator[Group]:
        return iter(self.groups.values())

    def __repr__(self) -> str:
        return "Parameters\n" + "\n".join(f"  {g.name:<24} {len(g.names):>4}  {g.title}" for g in self)


def parameters(release: Release) -> Parameters:
    """All parameters of the release."""
    p, correlations = release.parameters, release.correlations
    spectrum = [f"{energy:.2f}MeV" for energy in release.spectrum_energy]
    return Parameters([
        *_oscillation(p),
        _free("spectrum", "antineutrino spectrum, free", [f"spectrum.{e:.2f}MeV" for e in release.nodes]),
        _constrained("spectrum_correlated", "Huber-Mueller spectra, correlated", ["spectrum_correlated"], 0.0, 1.0),
        _constrained("spectrum_uncorrelated", "Huber-Mueller spectra, uncorrelated",
                     [f"spectrum_uncorrelated.{i}.{e}" for i in ISOTOPES for e in spectrum], 0.0, 1.0,
                     shape=(len(ISOTOPES), len(spectrum))),
        *_reactors(p, correlations["fission_fractions_scale"]), *_detectors(p, correlations["detector_relative"]),
        *_backgrounds(release),
    ])  # fmt: skip


def _oscillation(p: Mapping[str, Any]) -> list[Group]:
    measured, solar = p["survival_probability"], p["survival_probability_solar"]
    value, sigma = np.array([solar["DeltaMSq21"], solar["SinSq2Theta12"]]).T
    return [
        Group("oscillation", "mixing and mass splitting", ("sin2_2theta13", "dm2_32"),
              np.array([measured["SinSq2Theta13"], measured["DeltaMSq32"]]), None, (2,)),
        Group("solar", "solar mixing and mass splitting", ("dm2_21", "sin2_2theta12"), value, np.diag(sigma**2), (2,)),
    ]  # fmt: skip


def _reactors(p: Mapping[str, Any], correlation: Floats) -> list[Group]:
    energy, sigma = np.array([p["reactor_energy_per_fission"]["energy_per_fission"][i] for i in ISOTOPES]).T
    return [
        Group("energy_per_fission", "energy per fission", tuple(f"energy_per_fission.{i}" for i in ISOTOPES), energy,
              np.diag(sigma**2), (4,)),
        _scales("thermal_power", "thermal power", REACTORS,
                p["reactor_thermal_power_uncertainty"]["thermal_power_scale"]),
        _fractions(p["reactor_fission_fractions_scale"]["fission_fractions_scale"], correlation),
        _scales("nonequilibrium", "spectra out of equilibrium",
                [f"{r}.{i}" for r in REACTORS for i in OUT_OF_EQUILIBRIUM],
                p["reactor_nonequilibrium_correction"]["nonequilibrium_scale"], shape=(6, 3)),
        _scales("spent_fuel", "spent fuel", REACTORS, p["reactor_snf"]["snf_scale"]),
    ]  # fmt: skip


def _fractions(scale: Mapping[str, Sequence[float]], correlation: Floats) -> Group:
    """Fission fractions, correlated between the isotopes of a reactor."""
    value, percent = np.array([scale[i] for i in ISOTOPES], np.float64).T
    own = correlation * np.outer(percent, percent) / 1e4
    names = tuple(f"fission_fraction.{r}.{i}" for r in REACTORS for i in ISOTOPES)
    covariance = linalg.block_diag(*[own] * len(REACTORS))
    return Group("fission_fraction", "fission fractions", names, np.tile(value, 6), covariance, (6, 4))


def _detectors(p: Mapping[str, Any], correlation: Floats) -> list[Group]:
    """Those of efficiency and energy scale are correlated in each detector."""
    (resolution,) = p["detector_eres"].values()
    relative = p["detector_relative"]["detector_relative"]
    value, percent = np.array([relative["efficiency_factor"], relative["energy_scale_factor"]]).T
    own = correlation * np.outer(percent, percent) / 1e4
    pairs = tuple(f"{kind}.{d}" for d in DETECTORS for kind in ("efficiency", "energy_scale"))
    a, sigma = np.array(list(resolution.values())).T
    iav, iav_sigma = p["detector_iav_offdiag_scale"]["iav_offdiag_scale_factor"]
    return [
        Group("resolution", "energy resolution", ("resolution.a", "resolution.b", "resolution.c"), a,
              np.diag((a * sigma / 100) ** 2), (3,)),
        _constrained("nonlinearity", "scintillator's nonlinearity", [f"nonlinearity.{i}" for i in range(4)],
                     *p["detector_lsnl"]["lsnl_scale_a"]),
        _constrained("iav", "energy lost in the acrylic vessel", [f"iav.{d}" for d in DETECTORS], iav, iav_sigma),
        Group("detector", "efficiency and energy scale", pairs, np.tile(value, 8), linalg.block_diag(*[own] * 8),
              (8, 2)),
    ]  # fmt: skip


def _backgrounds(release: Release) -> list[Group]:
    p = release.parameters
    each = [f"{d}.{period}" for d, period in DETECTOR_PERIODS]
    halls = [f"{site}.{period}" for site in SITES for period in PERIODS]
    rate, sigma = release.background_rate["alpha_neutron"]
    found = [_scales("accidentals", "accidentals", each, p["background_rate_scale_accidentals"]["accidentals"])]
    for name, title in (("lithium_helium", "9Li and 8He"), ("fast_neutrons", "fast neutrons and muon decays")):
        pull = p["background_rate_uncertainty_scale_site"][name]
        found.append(_constrained(name, title, [f"{name}.{h}" for h in halls], *pull, shape=(3, 3)))
    found.append(_constrained("amc", "Am-C source", ["amc"], *p["background_rate_uncertainty_scale_amc"]["amc"]))
    names = tuple(f"alpha_neutron.{e}" for e in each)
    return [*found, Group("alpha_neutron", "C(alpha, n)O", names, rate, np.diag(sigma**2), (len(names),))]


def _free(name: str, title: str, names: Sequence[str]) -> Group:
    return Group(name, title, tuple(names), np.zeros(len(names)), None, (len(names),))


def _scales(
    name: str, title: str, of: Sequence[str], pair: Sequence[float], *, shape: tuple[int, ...] | None = None
) -> Group:
    """Factors near 1 whose uncertainty the release gives in per cent."""
    value, percent = pair
    return _constrained(name, title, [f"{name}.{each}" for each in of], value, value * percent / 100, shape=shape)


def _constrained(
    name: str, title: str, names: Sequence[str], value: float, sigma: float, *, shape: tuple[int, ...] | None = None
) -> Group:
    n = len(names)
    return Group(name, title, tuple(names), np.full(n, float(value)), np.eye(n) * sigma**2, shape or (n,))
