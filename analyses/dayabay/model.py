r"""The expected spectra of Daya Bay's detectors, in torch: differentiable in every parameter, for many points at once.

Antineutrinos of energy E from reactor r give detector d in period p, in a bin of deposited energy,

.. math:: N_{dp} = \sum_r T_{rdp} \int \sigma(E)\, P_{rd}(E)\, \Big[ C(E) \sum_i f_{ri} S_i(E) u_i(E)
          + \sum_i f_{ri} n_{ri} S_i(E) q_i(E) + k_r(E) \Big]\, dE

with the exposure T (protons over 4 pi L^2 times the energy that the reactor released), the fissions f of isotope i for
that energy, the spectra S, their uncertainties u, what is out of equilibrium, q, scaled by n, and what spent fuel adds,
k.  C is the free correction, exponential between its nodes.  The detector's distortions and the backgrounds follow.
Everything that parameters do not change is integrated beforehand (`analyses.dayabay.flux`).

Sources: Daya Bay Collaboration, arXiv 2211.14988 (the result), 1610.04802 (the method); Huber, 1106.0687; Mueller et
al., 1101.2663; Kopeikin, 1207.6956 (spent fuel and equilibrium enter there in the same way).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Literal

import numpy as np
import torch
from scipy import constants
from torch import Tensor

from nuinfer.errors import closest

from .detector import Detector, WithinBins
from .flux import Folded, between, folded
from .parameters import SITE_OF, Parameters, parameters
from .release import BACKGROUNDS, DAY, DETECTOR_PERIODS, ISOTOPES, OUT_OF_EQUILIBRIUM, Release, detector_rows, read

Values = Mapping[str, Tensor]
SiteSigma = Literal["official", "relative"]

# Delta m^2 L / (4 E) in natural units, for eV^2, m and MeV
PHASE = constants.value("electron volt-inverse meter relationship") * 2 * np.pi * 1e-6 / 4
POINTS = 8  # that are gone through at once: their tables stay in the cache
RANGES = {  # where the model means something, and where two nodes a bin are good to 1e-3, all pulls moved
    "sin2_2theta13": (0.0, 1.0), "dm2_32": (0.0, 1e-2), "dm2_21": (0.0, 1e-3), "sin2_2theta12": (0.0, 1.0),
}  # fmt: skip


@dataclass(frozen=True, eq=False)
class _Layout:
    """Of named parameters: by group, the places in it and in theta; those with a range; how many there are."""

    places: Mapping[str, tuple[Tensor, Tensor]]
    bounded: Mapping[str, int]
    size: int

    @classmethod
    def of(cls, names: tuple[str, ...], known: Parameters) -> _Layout:
        for name in names:
            if name not in known.where:
                raise KeyError(f"no parameter {name!r}; {closest(name, known.names)}")
        if len(set(names)) != len(names):
            twice = sorted({name for name in names if names.count(name) > 1})
            raise ValueError(f"expected different parameters, found {twice[0]!r} more than once")
        rows: dict[str, list[tuple[int, int]]] = {}
        for which, name in enumerate(names):
            group, at = known.where[name]
            rows.setdefault(group, []).append((at, which))
        places = {group: tuple(torch.tensor(each) for each in zip(*own, strict=True)) for group, own in rows.items()}
        return cls(places, {name: i for i, name in enumerate(names) if name in RANGES}, len(names))  # type: ignore[arg-type]


class Model:
    """Expected counts (*, 546): 21 detector-periods of 26 bins.

    Parameters
    ----------
    release:
        None reads that of the data package.
    ordering:
        1 for the normal ordering of masses, -1 for the inverted one.
    site_sigma:
        How the uncertainty of 9Li / 8He and of fast neutrons (and of Am-C) enters: "official" multiplies the rate by
        1 + sigma alpha with the absolute uncertainty sigma, as the official analysis does; "relative" divides it by
        the rate, which is what the release's tables mean.
    within_bins:
        How counts are spread within a bin where the nonlinearity moves its edges: "flat", as in the official model, or
        "smooth", which has continuous derivatives in the energy scales.

    Attributes
    ----------
    parameters:
        All of them, by group.
    """

    def __init__(
        self,
        release: Release | None = None,
        *,
        ordering: Literal[1, -1] = 1,
        site_sigma: SiteSigma = "official",
        within_bins: WithinBins = "flat",
    ) -> None:
        if ordering not in (1, -1):
            raise ValueError(f"ordering: expected 1 or -1, found {ordering!r}")
        if site_sigma not in ("official", "relative"):
            raise ValueError(f"site_sigma: expected 'official' or 'relative', found {site_sigma!r}")
        self.release = release if release is not None else read()
        self.ordering = ordering
        self.parameters: Parameters = parameters(self.release)
        self.detector = Detector(self.release, within_bins)
        self._layouts: dict[tuple[str, ...], _Layout] = {}
        self.nominal = {g.name: torch.from_numpy(g.value).reshape(g.shape) for g in self.parameters}
        self._set_flux(folded(self.release))
        self._set_exposure()
        self._set_backgrounds(site_sigma)

    # -- what does not change ------------------------------------------------------------------------------------------

    def _set_flux(self, flux: Folded) -> None:
        self.main, self.band, self.neq, self.fuel = (
            torch.from_numpy(a) for a in (flux.main, flux.band, flux.nonequilibrium, flux.spent_fuel)
        )
        points = torch.from_numpy(flux.first)[:, None] + torch.arange(self.band.shape[-1])
        self.points, self.extra = points, torch.from_numpy(flux.bin[240:])
        self.argument = PHASE * torch.from_numpy(self.release.baseline)[..., None, None] / torch.from_numpy(flux.energy)
        i, t = (torch.from_numpy(each) for each in between(flux.energy, self.release.nodes))
        each = torch.arange(len(self.release.nodes))[:, None, None]
        self.between = (each == i) * (1 - t) + (each == i + 1) * t  # (19, 2, C): of a node in log C
        self.sigma = torch.from_numpy(np.stack([self.release.uncorrelated, self.release.correlated]))

    def _set_exposure(self) -> None:
        """T (8, 3, 6) and that of spent fuel: targets / (4 pi L^2) times what the release sums over days."""
        p = self.release.parameters
        protons = p["detector_n_protons_nominal"]["n_protons_nominal_ad"] * np.array(
            list(p["detector_n_protons_correction"]["n_protons_correction"].values())
        )
        target = protons[:, None] * p["detector_efficiency"]["efficiency"] / (4e4 * np.pi * self.release.baseline**2)
        self.rows = list(detector_rows())
        power, fuel = np.zeros((8, 3, 6)), np.zeros((8, 3, 6))
        per_energy, per_power = self._fuel_mix()
        for k, (d, period) in enumerate(self.rows):
            power[d, period] = target[d] * self.release.exposure[k] / per_energy
            fuel[d, period] = target[d] * self.release.livetime[k] * per_power
        self.exposure, self.fuel_exposure = torch.from_numpy(power), torch.from_numpy(fuel)
        self.at = torch.tensor([3 * d + period for d, period in self.rows])

    def _fuel_mix(self) -> tuple[float, float]:
        """Antineutrinos an MeV of the mean fuel, which turn rates into power; fissions a second at nominal power."""
        p = self.release.parameters
        fraction, neutrinos = (np.array([p[f][k][i] for i in ISOTOPES]) for f, k in (
            ("reactor_fission_fractions", "fission_fractions"),
            ("antineutrinos_per_fission_huber_mueller", "antineutrinos_per_fission"),
        ))  # fmt: skip
        self.fraction = torch.from_numpy(fraction)
        energy = float(fraction @ self.parameters.groups["energy_per_fission"].value)
        watts = p["reactor_thermal_power_nominal"]["nominal_thermal_power"] * 1e3
        return float(fraction @ neutrinos) / energy, watts * constants.value(
            "joule-electron volt relationship"
        ) / energy

    def _set_backgrounds(self, site_sigma: SiteSigma) -> None:
        days, release = self.release.livetime / DAY, self.release
        rates = release.background_rate
        counts = [release.accidentals, *(rates[b][0] * days for b in BACKGROUNDS[1:-1]), days]
        shape = torch.from_numpy(release.background_shape) @ self.detector.rebin.T
        self.background_count = torch.from_numpy(np.array(counts))[..., None] * shape  # (5, 21, 26)
        sigma = [rates[b][1] / (rates[b][0] if site_sigma == "relative" else 1) for b in BACKGROUNDS[1:-1]]
        self.background_sigma = torch.from_numpy(np.array(sigma))
        self.site = torch.tensor(SITE_OF), torch.tensor([period for _, period in self.rows])

    # -- the stages ----------------------------------------------------------------------------------------------------

    def survival(self, values: Values) -> Tensor:
        r"""P (*, 8, 6, 2, C) of electron antineutrinos, three flavours in vacuum.

        With :math:`\phi = \Delta m^2 L / 4E` and :math:`A e^{i\delta} = \sin^2\theta_{12} + \cos^2\theta_{12}
        e^{2i\phi_{21}}`, the two fast terms are one,

        .. math:: P = 1 - \tfrac12 \sin^2 2\theta_{13} [1 - A \cos(2\phi_{32} + \delta)]
                  - \sin^2 2\theta_{12} \cos^4\theta_{13} \sin^2\phi_{21}

        with the sign of :math:`\phi_{32}` that of the ordering.
        """
        amplitude, splitting = values["oscillation"][..., None, None, None, None, :].unbind(-1)
        size, shift, slow = self._nominal_solar if _is(values, self.nominal, "solar") else self.solar(values)
        fast = size * torch.cos(torch.addcmul(shift, self.ordering * 2 * splitting, self.argument))
        cosine4 = ((1 + torch.sqrt(1 - amplitude)) / 2) ** 2
        return torch.addcmul(torch.addcmul(1 - amplitude / 2, -cosine4, slow), amplitude / 2, fast)

    def solar(self, values: Values) -> tuple[Tensor, Tensor, Tensor]:
        """A, delta and sin^2 2 theta_12 sin^2 phi_21 (*, 8, 6, 2, C), which `survival` takes."""
        splitting, amplitude = values["solar"][..., None, None, None, None, :].unbind(-1)
        phase, sine2 = 2 * splitting * self.argument, (1 - torch.sqrt(1 - amplitude)) / 2
        cosine = torch.cos(phase)
        real, imaginary = sine2 + (1 - sine2) * cosine, (1 - sine2) * torch.sin(phase)
        return torch.hypot(real, imaginary), torch.atan2(imaginary, real), amplitude / 2 * (1 - cosine)

    @cached_property
    def _nominal_solar(self) -> tuple[Tensor, Tensor, Tensor]:
        return self.solar(self.nominal)

    def fissions(self, values: Values) -> Tensor:
        """f (*, 6, 4): fissions of each isotope for an MeV of the reactor's energy, times the power's scale."""
        fraction = values["fission_fraction"] * self.fraction
        energy = (fraction * values["energy_per_fission"][..., None, :]).sum(-1, keepdim=True)
        return fraction / energy * values["thermal_power"][..., None]

    def correction(self, values: Values) -> Tensor:
        """C (*, 2, C) at the nodes of the quadrature: straight in its logarithm between the 19 free values."""
        return torch.exp(torch.tensordot(values["spectrum"], self.between, 1))

    def spectra(self, values: Values) -> Tensor:
        """The rate (*, 6, 2, C) of each reactor for a unit of exposure, without oscillation and spent fuel."""
        f = self.fissions(values)
        free = values["nonequilibrium"] * f[..., [ISOTOPES.index(i) for i in OUT_OF_EQUILIBRIUM]]
        main = torch.einsum("...ri,...ixc->...rxc", f, self.isotopes(values))
        return main * self.correction(values)[..., None, :, :] + torch.tensordot(free, self.neq, 1)

    def isotopes(self, values: Values) -> Tensor:
        """The isotopes' spectra (*, 4, 2, C), with their uncertainties, folded with the cross-section."""
        if _is(values, self.nominal, "spectrum_uncorrelated", "spectrum_correlated"):
            return self.main
        unc, common = values["spectrum_uncorrelated"], values["spectrum_correlated"]
        factor = (1 + unc * self.sigma[0]) * (1 + common[..., None] * self.sigma[1]) - 1
        return self.main + torch.einsum("...ick,ixck->...ixc", factor[..., self.points], self.band)

    def counts(self, values: Values) -> Tensor:
        """Counts (*, 8, 3, 240) in deposited energy by detector and period; 0 where one was absent."""
        survival, spectra = self.survival(values), self.spectra(values)
        main = _over_nodes(survival, spectra[..., None, :, :, :])
        fuel = _over_nodes(survival, self.fuel)
        scale = self.fuel_exposure * values["spent_fuel"][..., None, None, :]
        return self._joined(self.exposure @ main + scale @ fuel)

    def _joined(self, cells: Tensor) -> Tensor:
        """Counts of bins from those of cells: the other sides of kinks are added to their bins."""
        return cells[..., :240].index_add(-1, self.extra, cells[..., 240:])

    def signal(self, values: Values, response: Tensor | None = None) -> Tensor:
        """Inverse beta decays (*, 21, 26) in the bins of the fit; ``response`` where the detectors' is known."""
        counts = self.counts(values)
        if response is None:
            found = self.detector.detected(counts, values)
        else:
            found = torch.einsum("...dpe,dfe->...dpf", counts, response)
        return found.flatten(-3, -2)[..., self.at, :]

    def background(self, values: Values) -> Tensor:
        """Backgrounds (*, 21, 26) in the bins of the fit."""
        site, period = self.site
        pulls = [values["lithium_helium"][..., site, period], values["fast_neutrons"][..., site, period],
                 values["amc"].expand(*values["amc"].shape[:-1], len(site))]  # fmt: skip
        scales = [values["accidentals"], *(1 + s * pull for s, pull in zip(self.background_sigma, pulls, strict=True)),
                  values["alpha_neutron"]]  # fmt: skip
        return sum((scale[..., None] * count for scale, count in zip(scales, self.background_count, strict=True)),
                   start=torch.zeros((), dtype=torch.float64))  # fmt: skip

    # -- predictions ---------------------------------------------------------------------------------------------------

    def values(self, theta: Tensor, names: Sequence[str]) -> dict[str, Tensor]:
        """All groups at theta (*, T) of some parameters, the others at their nominal values.

        Raises
        ------
        KeyError, ValueError
            for unknown names, one named twice, values that are not finite or out of the model's range.
        """
        layout = self._layout(tuple(names))
        self._check(theta, layout)
        found = dict(self.nominal)
        for group, (at, which) in layout.places.items():
            flat = self.nominal[group].flatten().expand(*theta.shape[:-1], -1)
            found[group] = flat.index_copy(-1, at, theta[..., which]).unflatten(-1, self.nominal[group].shape)
        return found

    def _layout(self, names: tuple[str, ...]) -> _Layout:
        """Where parameters go; found once for each choice of them."""
        if names not in self._layouts:
            self._layouts[names] = _Layout.of(names, self.parameters)
        return self._layouts[names]

    def _check(self, theta: Tensor, layout: _Layout) -> None:
        here = theta.detach()
        if here.shape[-1:] != (layout.size,):
            raise ValueError(f"expected theta (*, {layout.size}), a value for each name, found {tuple(here.shape)}")
        if not torch.isfinite(here).all():
            raise ValueError("expected finite parameters, found NaN or infinities")
        for name, i in layout.bounded.items():
            (low, high), at = RANGES[name], here[..., i]
            if bool(((at < low) | (at > high)).any()):
                raise ValueError(f"{name}: expected values in [{low:g}, {high:g}], where the model holds, found "
                                 f"{float(at.min()):g} to {float(at.max()):g}")  # fmt: skip

    def predict(self, theta: Tensor, names: Sequence[str]) -> Tensor:
        """Expected counts (*, 546) at theta (*, T) of the named parameters, differentiable."""
        if theta.ndim > 1:
            flat = theta.flatten(0, -2)
            found = torch.cat([self._predict(part, names) for part in flat.split(POINTS)])
            return found.view(*theta.shape[:-1], -1)
        return self._predict(theta, names)

    def _predict(self, theta: Tensor, names: Sequence[str]) -> Tensor:
        values = self.values(theta, names)
        fixed = _is(values, self.nominal, "iav", "nonlinearity", "detector", "resolution")
        response = self._nominal_response if fixed else None
        return (self.signal(values, response) + self.background(values)).flatten(-2)

    @cached_property
    def _nominal_response(self) -> Tensor:
        """The detectors' matrices (8, 26, 240) at nominal values."""
        return self.detector.response(self.nominal)

    def function(self, names: Sequence[str]) -> Callable[[Tensor], Tensor]:
        """theta (*, T) -> (*, 546), for `nuinfer.likelihood.Binned`."""
        return lambda theta: self.predict(theta, names)

    @property
    def observed(self) -> Tensor:
        """The data (546,) in the bins of the fit."""
        return (torch.from_numpy(self.release.observed) @ self.detector.rebin.T).flatten()

    def __repr__(self) -> str:
        return f"Model({len(DETECTOR_PERIODS)} detector-periods, {len(self.parameters.names)} parameters)"


def _is(values: Values, nominal: Values, *groups: str) -> bool:
    """Whether the groups are the nominal ones themselves."""
    return all(values[group] is nominal[group] for group in groups)


def _over_nodes(survival: Tensor, spectra: Tensor) -> Tensor:
    """The sum (*, 8, 6, C) over the two nodes of a cell of P (*, 8, 6, 2, C) times spectra."""
    return torch.addcmul(survival[..., 0, :] * spectra[..., 0, :], survival[..., 1, :], spectra[..., 1, :])
