r"""Cross-sections from unfolded spectra: flux, targets, exposure, bin widths; ratios; norm and shape.

With u_i events unfolded in bin i, the integrated flux :math:`\Phi` (particles per area and unit of exposure), T
targets, an exposure E (protons on target, or livetime) and bin widths w_i,

.. math:: \sigma_i = \frac{u_i}{\Phi\, T\, E\, w_i} .

**Which flux is it averaged over?**  (Koch, Dolan, arXiv 2009.00552.)  The real flux is not known, and the answer to it
has to be given with each result:

- ``averaging="nominal"``: the spectrum is what the *nominal* flux would have made.  The throws' responses take truth of
  the nominal flux to reco of the thrown one, so that normalisation *and shape* of the flux are in the unfolded rate, as
  a source of its covariance; the denominator is the nominal flux, always.  Models are averaged over the nominal flux.
- ``averaging="real"``: the spectrum is what the real flux has made, and the denominator is that flux, which varies with
  each throw or replica (``replica_flux`` has one integral a replica).  What the flux's shape does to the average is
  *not* in the covariance; it belongs to the models, which are averaged over the thrown fluxes: give their covariance to
  `chi2`.

A response of shifted simulation has truth *and* reco of the shifted flux: `unfold_throws` gives spectra in the real
flux, whose covariance has next to nothing of the flux in it.  From there,

.. code-block:: python

    fluxes = [flux_at(alpha) for alpha in thrown.alphas["flux"]]  # of each throw
    factor = nominal.integral() / np.array([f.integral() for f in fluxes])[:, None]  # (K, 1)
    cross_section(replace(thrown, spectra=thrown.spectra * factor).spectrum, averaging="real", ...)

    factor = truth_yield(nominal) / np.array([truth_yield(f) for f in fluxes])  # (K, B), of the simulation
    cross_section(replace(thrown, spectra=thrown.spectra * factor).spectrum, averaging="nominal", ...)

where the second extrapolates each throw to the nominal flux by the simulation's own cross-section in each bin.

**Smearing.**  A regularised spectrum is compared with A_C s.  Cross-sections are divided by widths, so that here the
matrix is :math:`A_{ij} w_j / w_i`, which acts on a model's cross-section in the same bins.

**Norm and shape.**  With the total :math:`S = \sum_k w_k \sigma_k` and :math:`P = 1 - (\sigma / S)\, w^T`, of which
:math:`w^T P = 0`,

.. math:: C_{norm} = \frac{w^T C w}{S^2}\, \sigma\sigma^T, \qquad C_{shape} = P C P^T, \qquad
          C_{mixed} = C - C_{norm} - C_{shape},

the matrix decomposition that MicroBooNE publishes with its cross-sections, here for densities with bin widths.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal, NamedTuple, get_args

import numpy as np
from numpy.typing import ArrayLike, NDArray

from .. import metrics, store
from ..errors import check_finite, missing
from .binning import Binning
from .spectrum import Chi2, Spectrum, compared

if TYPE_CHECKING:
    import hist

__all__ = [
    "CrossSection",
    "Decomposition",
    "Integrated",
    "SpectrumRatio",
    "cross_section",
    "flux_integral",
    "spectrum_ratio",
]

Floats = NDArray[np.float64]
Averaging = Literal["nominal", "real"]
#: An integral, a histogram of one axis (contents per bin), or (density, edges).
FluxLike = Any

_AVERAGED = {
    "nominal": "averaged over the nominal flux",
    "real": "averaged over the real flux; the flux's shape is not in the covariance",
}


class Integrated(NamedTuple):
    """A total cross-section, its uncertainty, and its variances by source."""

    value: float
    uncertainty: float
    variances: dict[str, float]


class Decomposition(NamedTuple):
    """A covariance (B, B) as a sum of three: normalisation, shape, and what mixes them; see the module."""

    norm: Floats
    shape: Floats
    mixed: Floats


@dataclass(frozen=True, eq=False)
class CrossSection:
    """A cross-section in B bins; made by `cross_section`.

    Attributes
    ----------
    binning:
        The bins; arrays below are in their order.
    values:
        (B,), in ``units``.
    covariances:
        Covariances (B, B) by source, independent of each other: those of the spectrum, and of normalisations.
    smearing:
        The matrix (B, B) through which models are compared, see the module; None where there is none.
    averaging:
        "nominal" or "real": which flux it is averaged over.
    units:
        Such as "cm^2 / GeV / nucleon".
    widths:
        (B,), what the integrals were divided by: of the columns that it is differential in.
    members, replicas:
        Cross-sections of an ensemble's members (K, B) and of replicas (R, B).
    settings:
        How it was made: flux, targets, exposure, normalisation, and those of the unfolding.
    """

    binning: Binning
    values: Floats
    covariances: Mapping[str, Floats]
    smearing: Floats | None
    averaging: Averaging
    units: str
    widths: Floats
    members: Floats = field(default_factory=lambda: np.empty((0, 0)))
    replicas: Floats = field(default_factory=lambda: np.empty((0, 0)))
    settings: dict[str, Any] = field(default_factory=dict)

    @property
    def _spectrum(self) -> Spectrum:
        """The same numbers, for what does not depend on their meaning."""
        return Spectrum(self.binning, self.values, self.covariances, self.smearing, self.members, self.replicas,
                        settings=self.settings)  # fmt: skip

    @property
    def covariance(self) -> Floats:
        """The sum (B, B) over all sources; ``ValueError`` without any."""
        return self._spectrum.covariance

    @property
    def uncertainty(self) -> Floats:
        """Square roots (B,) of the covariance's diagonal."""
        return self._spectrum.uncertainty

    @property
    def names(self) -> tuple[str, ...]:
        """The columns of the bins."""
        return self.binning.names

    def smear(self, model: ArrayLike) -> Floats:
        """What a model's cross-section (..., B) would have been unfolded to; the model itself without A_C."""
        return self._spectrum.smear(model)

    def chi2(self, model: ArrayLike, *, covariance: ArrayLike | None = None) -> Chi2:
        """Chi-squared of a model's cross-section (B,), in these bins and units, compared through `smear`.

        ``covariance`` (B, B) of the smeared model is added; with ``averaging="real"`` it is where the flux's shape
        belongs.  Normalisations are taken at the measured values, which favours models that are too low where they
        dominate (Peelle's puzzle): look at `decomposed`.  See `Spectrum.chi2`.
        """
        return self._spectrum.chi2(model, covariance=covariance)

    def integrated(self) -> Integrated:
        """The total w^T sigma over all bins; models are to be compared with as ``(smear(model) * widths).sum()``."""
        w = self.widths
        variances = {name: float(w @ c @ w) for name, c in self.covariances.items()}
        return Integrated(float(w @ self.values), float(np.sqrt(w @ self.covariance @ w)), variances)

    def decomposed(self, source: str | None = None) -> Decomposition:
        """Norm, shape and mixed part of the covariance, or of that of one source; they add up to it.

        Raises
        ------
        ValueError
            for a total that is not positive; ``KeyError`` for an unknown source.
        """
        if source is not None and source not in self.covariances:
            raise missing("source", source, self.covariances)
        c, w = self.covariance if source is None else self.covariances[source], self.widths
        total = float(w @ self.values)
        if not total > 0:
            raise ValueError(f"total cross-section: expected a positive one to compare shapes with, found {total:g}")
        fraction = self.values / total
        project = np.eye(len(w)) - np.outer(fraction, w)
        norm, shape = float(w @ c @ w) * np.outer(fraction, fraction), project @ c @ project.T
        return Decomposition(norm, shape, c - norm - shape)

    def hist(self) -> hist.Hist[Any]:
        """The values as ``hist.Hist`` with ``Weight`` storage; see `Spectrum.hist`."""
        return self._spectrum.hist()

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write everything to one safetensors file, atomically."""
        spec = {"binning": self.binning.to_json(), "sources": list(self.covariances), "averaging": self.averaging,
                "units": self.units, "settings": self.settings}  # fmt: skip
        arrays = {name: getattr(self, name) for name in ("values", "widths", "members", "replicas")}
        arrays |= {f"covariance.{i}": c for i, c in enumerate(self.covariances.values())}
        store.save(path, "cross section", spec, arrays | ({} if self.smearing is None else {"smearing": self.smearing}))

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> CrossSection:
        """Read what `save` wrote; ``CorruptFile`` for a damaged file, ``ValueError`` for another kind."""
        spec, arrays = store.load(path, "cross section")
        covariances = {name: arrays[f"covariance.{i}"] for i, name in enumerate(spec["sources"])}
        return cls(
            Binning.from_json(spec["binning"]), arrays["values"], covariances, arrays.get("smearing"),
            spec["averaging"], spec["units"], arrays["widths"], arrays["members"], arrays["replicas"], spec["settings"],
        )  # fmt: skip

    def __repr__(self) -> str:
        total, units = self.integrated() if self.covariances else None, self.units
        found = f"{float(self.widths @ self.values):.6g}" + (f" +- {total.uncertainty:.3g}" if total else "")
        return (f"CrossSection({self.binning!r}, in {units}; total {found}; {_AVERAGED[self.averaging]}; "
                f"sources {', '.join(self.covariances) or 'none'})")  # fmt: skip


def cross_section(
    spectrum: Spectrum,
    *,
    flux: FluxLike,
    targets: float,
    exposure: float,
    averaging: Averaging,
    replica_flux: ArrayLike | None = None,
    replica_sources: Sequence[str] | None = None,
    normalisation: Mapping[str, float] | None = None,
    differential: Sequence[str] | None = None,
    units: Mapping[str, str] | None = None,
    area: str = "cm^2",
    target: str = "nucleon",
) -> CrossSection:
    """Divide an unfolded spectrum by flux, targets, exposure and bin widths.

    Parameters
    ----------
    spectrum:
        Unfolded events, corrected for efficiency.
    flux:
        Particles per ``area`` and unit of exposure: the integral, a histogram over energy whose contents are summed, or
        (density, edges), with the density (E,) per unit of energy and edges (E + 1,); see `flux_integral`.
    targets:
        Their number in the volume that truth is counted in.
    exposure:
        Protons on target or livetime, in the unit that the flux is per.
    averaging:
        "nominal" or "real": see the module.  It has no default.
    replica_flux:
        With "real", integrals (R,) of the flux of each replica.  The sources that the replicas hold are then replaced
        by one, "throws", the covariance of the replicas, each divided by its own flux.
    replica_sources:
        The sources of the spectrum that its replicas hold; by default all but "method".
    normalisation:
        Relative uncertainties of the whole by name, such as ``{"flux normalisation": 0.05, "targets": 0.01}``: each
        becomes a source f^2 sigma sigma^T.
    differential:
        The columns by whose widths to divide: all by default; ``()`` gives a cross-section for each bin.
    units:
        Units of columns, ``{"p": "GeV", "cos": ""}``; others are written as ``[name]``.
    area, target:
        Names of units, of the flux's area and of what ``targets`` counts.

    Raises
    ------
    ValueError
        for a spectrum that is not corrected or not finite, sizes that are not positive, bins of infinite width (named),
        a flux that would be counted twice, fluxes of another number of replicas.
    KeyError
        for columns or sources that are not there.

    Examples
    --------
    >>> found = Spectrum(Binning("p", [0, 1, 3]), np.array([50.0, 60.0]), {"data": np.diag([50.0, 60.0])})
    >>> sigma = cross_section(found, flux=2e-3, targets=1e4, exposure=5.0, averaging="nominal", units={"p": "GeV"})
    >>> sigma.values, sigma.units
    (array([0.5, 0.3]), 'cm^2 / GeV / nucleon')
    >>> sigma.integrated().value
    1.1
    """
    if averaging not in get_args(Averaging):
        raise ValueError(f"averaging: expected 'nominal' or 'real', found {averaging!r}")
    _check_corrected(spectrum)
    integral, norms = flux_integral(flux), dict(normalisation or {})
    factor = 1.0 / (integral * _positive("targets", targets) * _positive("exposure", exposure))
    columns = spectrum.names if differential is None else tuple(differential)
    widths = _widths(spectrum.binning, columns)
    _check_normalisation(spectrum, averaging, norms, replica_flux)
    scale = factor / widths
    values, varied = spectrum.values * scale, _varied(spectrum, replica_sources)
    replicas = spectrum.replicas * scale if spectrum.replicas.size else spectrum.replicas
    covariances = {name: c * np.outer(scale, scale) for name, c in spectrum.covariances.items()}
    if replica_flux is not None:
        replicas = replicas * (integral / _replica_fluxes(spectrum, replica_flux))[:, None]
        covariances = {name: c for name, c in covariances.items() if name not in varied}
        covariances["throws"] = metrics.replica_covariance(replicas)
    covariances |= {name: f**2 * np.outer(values, values) for name, f in norms.items()}
    smearing = None if spectrum.smearing is None else spectrum.smearing * widths / widths[:, None]
    settings = {"flux": integral, "targets": float(targets), "exposure": float(exposure), "normalisation": norms,
                "differential": list(columns), "replica_sources": varied, "unfolding": spectrum.settings}  # fmt: skip
    return CrossSection(
        spectrum.binning, values, covariances, smearing, averaging, _units(columns, units or {}, area, target), widths,
        spectrum.members * scale if spectrum.members.size else spectrum.members, replicas, settings,
    )  # fmt: skip


def flux_integral(flux: FluxLike, *, low: float | None = None, high: float | None = None) -> float:
    """The integral of a flux, from ``low`` to ``high`` where given.

    Parameters
    ----------
    flux:
        A number, the integral itself; a histogram of one axis, whose contents are those of its bins; or a pair
        (density, edges) of a density (E,) per unit of energy and edges (E + 1,).  Inside a bin it is constant.

    Raises
    ------
    ValueError
        for a flux that is not finite or has a negative part, an integral of 0, content in under- or overflow,
        limits outside of the edges or of a number.

    Examples
    --------
    >>> flux_integral(([1.0, 3.0], [0.0, 1.0, 1.5]))
    2.5
    >>> flux_integral(([1.0, 3.0], [0.0, 1.0, 1.5]), low=0.5, high=1.25)
    1.25
    """
    if not isinstance(flux, tuple | list) and not hasattr(flux, "axes"):
        if low is not None or high is not None:
            raise ValueError("flux: expected a histogram or (density, edges) for limits, found a number")
        return _positive("flux", flux)
    contents, edges = _flux_bins(flux)
    first, last = edges[0] if low is None else float(low), edges[-1] if high is None else float(high)
    if not edges[0] <= first < last <= edges[-1]:
        raise ValueError(f"flux: expected limits inside of the edges, {edges[0]:g} to {edges[-1]:g}, found {first:g} "
                         f"to {last:g}")  # fmt: skip
    below = np.interp([first, last], edges, np.concatenate([[0.0], np.cumsum(contents)]))
    return _positive("flux", below[1] - below[0])


def _flux_bins(flux: Any) -> tuple[Floats, Floats]:
    """Contents (E,) and edges (E + 1,)."""
    if hasattr(flux, "axes") and hasattr(flux, "values"):
        if len(flux.axes) != 1:
            raise ValueError(f"flux: expected a histogram of one axis, found {len(flux.axes)}")
        contents, edges = np.asarray(flux.values(), np.float64), np.asarray(flux.axes[0].edges, np.float64)
        _check_flow(flux, contents)
    else:
        if not isinstance(flux, tuple | list) or len(flux) != 2:
            raise TypeError("flux: expected an integral, a histogram, or a pair (density, edges)")
        density, edges = (np.asarray(part, np.float64) for part in flux)
        if density.ndim != 1 or edges.shape != (len(density) + 1,) or not (np.diff(edges) > 0).all():
            raise ValueError(f"flux: expected a density (E,) and rising edges (E + 1,), found shapes {density.shape}, "
                             f"{edges.shape}")  # fmt: skip
        contents = density * np.diff(edges)
    check_finite("flux", contents)
    if (contents < 0).any():
        raise ValueError(f"flux: expected contents from 0, found {contents.min():g} in bin {int(contents.argmin())}")
    return contents, edges


def _check_flow(flux: Any, contents: Floats) -> None:
    try:
        whole = float(np.sum(flux.values(flow=True)))
    except TypeError:  # other UHI histograms have no flow to ask for
        return
    if not np.isclose(whole, contents.sum(), rtol=1e-12, atol=0.0):
        raise ValueError(f"flux: expected no content in under- and overflow, found {whole - contents.sum():g}; use "
                         f"edges that hold the whole flux, or give the integral as a number")  # fmt: skip


def _positive(what: str, value: Any) -> float:
    found = float(value)
    if not 0 < found < np.inf:
        raise ValueError(f"{what}: expected a positive, finite number, found {found:g}")
    return found


def _check_corrected(spectrum: Spectrum) -> None:
    if not spectrum.corrected:
        raise ValueError("spectrum: expected one that is corrected for efficiency, found one of reconstructed truth; "
                         "use spectrum.corrected_for_efficiency(response) first, or unfold without "
                         "reconstructed=True")  # fmt: skip
    check_finite("spectrum", spectrum.values)


def _check_normalisation(
    spectrum: Spectrum, averaging: str, norms: Mapping[str, float], replica_flux: ArrayLike | None
) -> None:  # fmt: skip
    if averaging == "nominal" and replica_flux is not None:
        raise ValueError("replica_flux: expected none with averaging='nominal', whose denominator is the nominal flux "
                         "for each replica; the throws' responses have the flux in them")  # fmt: skip
    for name, f in norms.items():
        if name in spectrum.covariances:
            raise ValueError(f"normalisation {name!r}: the spectrum has a source of that name already")
        if not 0 <= f < np.inf:
            raise ValueError(f"normalisation {name!r}: expected a relative uncertainty from 0, found {f!r}")
    flux = [name for name in norms if "flux" in name.lower()]
    inside = [name for name in spectrum.covariances if "flux" in name.lower()]
    if flux and (replica_flux is not None or (averaging == "nominal" and inside)):
        where = "replica_flux" if replica_flux is not None else f"the spectrum's source {inside[0]!r}"
        raise ValueError(f"normalisation {flux[0]!r}: the flux is in {where} already and would be counted twice; leave "
                         f"it out")  # fmt: skip


def _widths(binning: Binning, columns: tuple[str, ...]) -> Floats:
    """Products (B,) of the sides in these columns."""
    widths = np.ones(binning.size)
    for name in columns:
        if name not in binning.names:
            raise missing("column of the bins", name, binning.names)
        widths = widths * np.diff(binning.cells[:, binning.names.index(name)], axis=1)[:, 0]
    bad = np.flatnonzero(~np.isfinite(widths))
    if len(bad):
        shown = "; ".join(f"bin {b} ({binning.label(int(b))})" for b in bad[:3])
        raise ValueError(f"bins: expected finite widths, found {len(bad)} of {binning.size} without an end ({shown}); "
                         f"give them edges, or leave the column out of differential=")  # fmt: skip
    return widths


def _replica_fluxes(spectrum: Spectrum, given: ArrayLike) -> Floats:
    found, replicas = np.asarray(given, np.float64), len(spectrum.replicas)
    if replicas < 2:
        raise ValueError(f"replica_flux: expected a spectrum with at least 2 replicas, found {replicas}; unfold with "
                         f"throws, or state the flux's uncertainty as normalisation=")  # fmt: skip
    if found.shape != (replicas,):
        raise ValueError(f"replica_flux: expected one integral for each of {replicas} replicas, found shape "
                         f"{found.shape}")  # fmt: skip
    check_finite("replica_flux", found)
    if not (found > 0).all():
        raise ValueError(f"replica_flux: expected positive integrals, found {found.min():g}")
    return found


def _varied(spectrum: Spectrum, named: Sequence[str] | None) -> list[str]:
    """The sources that replicas hold."""
    if named is None:
        return [name for name in spectrum.covariances if name != "method" and len(spectrum.replicas)]
    if not len(spectrum.replicas):
        raise ValueError("replica_sources: expected a spectrum with replicas, found none")
    for name in named:
        if name not in spectrum.covariances:
            raise missing("source of the spectrum", name, spectrum.covariances)
    return list(named)


def _units(columns: Sequence[str], units: Mapping[str, str], area: str, target: str) -> str:
    unknown = [name for name in units if name not in columns]
    if unknown:
        raise missing("column of a differential cross-section", unknown[0], columns)
    parts = [units.get(name, f"[{name}]") for name in columns]
    return " / ".join([area, *(part for part in parts if part not in ("", "1")), target])


# -- ratios ------------------------------------------------------------------------------------------------------------

Binned = Spectrum | CrossSection


@dataclass(frozen=True, eq=False)
class SpectrumRatio:
    """A ratio of two spectra or cross-sections in the same bins; made by `spectrum_ratio`.

    Attributes
    ----------
    binning, values, covariance:
        The bins, the ratios (B,) and their covariance (B, B).
    joint:
        Covariance (2B, 2B) of numerator and denominator together.
    smearings:
        The matrices (B, B) of both, None where there is none.
    replicas:
        Ratios (R, B), replica by replica.
    estimated:
        What of the covariance is of replicas or members, (B, B), and of how many.
    """

    binning: Binning
    values: Floats
    covariance: Floats
    joint: Floats
    smearings: tuple[Floats | None, Floats | None]
    replicas: Floats
    estimated: tuple[tuple[Floats, int], ...] = ()

    @property
    def uncertainty(self) -> Floats:
        """Square roots (B,) of the covariance's diagonal."""
        return np.sqrt(np.diag(self.covariance))

    def chi2(self, one: ArrayLike, other: ArrayLike) -> Chi2:
        """Of a model's numerator and denominator (B,), each smeared by its own matrix before they are divided.

        Of replicas the value has Hartlap's factor in it, and the probability is that of Hotelling's T^2, as in
        `Spectrum.chi2`.

        Raises
        ------
        ValueError
            for models of other bins, or a covariance of no more replicas than degrees of freedom + 2.
        """
        smeared = [_smeared(m, a, len(self.values)) for m, a in zip((one, other), self.smearings, strict=True)]
        return compared(self.values - smeared[0] / smeared[1], self.covariance, self.estimated)

    def __repr__(self) -> str:
        return (f"SpectrumRatio({self.binning!r}; {self.values.min():.4g} to {self.values.max():.4g}, uncertainties "
                f"{self.uncertainty.min():.3g} to {self.uncertainty.max():.3g})")  # fmt: skip


def spectrum_ratio(
    one: Binned, other: Binned, *, cross: Literal["replicas", "none"] | ArrayLike, common: Sequence[str] = ()
) -> SpectrumRatio:
    """``one`` divided by ``other``, bin by bin, with what they have in common.

    Parameters
    ----------
    cross:
        "replicas": both have R replicas, made by the same throws in the same order, and the ratio's covariance is that
        of the replicas' ratios; sources that they do not hold, "method" and normalisations, are added to first order.
        "none": the two are independent.  Else their cross-covariance (B, B), rows of ``one``; with "none" or a matrix
        the ratio's covariance is that to first order, J C J^T with J = (1/b, -a/b^2).
    common:
        Names of normalisations of both cross-sections (see `cross_section`) that are one and the same: the flux of one
        beam, the exposure.  Where they are as large in both they cancel.

    Raises
    ------
    ValueError
        for other bins, units or averaging, different numbers of replicas, a joint covariance with negative
        eigenvalues, or a denominator that is not positive (bin named).
    KeyError
        for a common normalisation that one of them does not have.

    Examples
    --------
    >>> bins = Binning("p", [0, 1, 3])
    >>> one, other = (Spectrum(bins, np.array(n), {"data": np.diag(n)}) for n in ([50.0, 60.0], [100.0, 80.0]))
    >>> found = spectrum_ratio(one, other, cross="none")
    >>> found.values, found.uncertainty.round(4)
    (array([0.5 , 0.75]), array([0.0866, 0.1281]))
    """
    _check_pair(one, other)
    a, b = one.values, other.values
    shared = sum((_shared(one, other, name) for name in common), np.zeros((len(a), len(a))))
    slope = np.hstack([np.diag(1 / b), np.diag(-a / b**2)])
    if isinstance(cross, str) and cross == "replicas":
        pairs = _pairs(one, other)
        ratios = pairs[:, : len(a)] / pairs[:, len(a) :]
        rest = _joint(_beside(one), _beside(other), shared)
        own = metrics.replica_covariance(ratios)
        covariance = own + slope @ rest @ slope.T
        joint = metrics.replica_covariance(pairs) + rest
        estimated = [(own, len(ratios)), *_estimated(one, other, slope, None)]
    else:
        ratios = np.empty((0, len(a)))
        between = _cross(cross, len(a))
        joint = _joint(one.covariance, other.covariance, shared + between)
        _check_joint(joint)
        covariance = slope @ joint @ slope.T
        estimated = _estimated(one, other, slope, between)
    return SpectrumRatio(one.binning, a / b, covariance, joint, (one.smearing, other.smearing), ratios,
                         tuple(estimated))  # fmt: skip


def _estimated(one: Binned, other: Binned, slope: Floats, cross: Floats | None) -> list[tuple[Floats, int]]:
    """What of both covariances is of replicas or members, as covariances (B, B) of the ratio; None: of members alone.

    A cross-covariance of two that have replicas is taken to be that of their replicas.
    """
    parts = [(c._spectrum if isinstance(c, CrossSection) else c)._estimated(method=cross is None) for c in (one, other)]
    slopes = np.split(slope, 2, axis=1)
    found = [(by @ own @ by.T, count) for by, part in zip(slopes, parts, strict=True) for own, count in part]
    counts = len(one.replicas), len(other.replicas)
    if cross is None or not cross.any() or min(counts) < 2:
        return found
    (first, _), (second, _) = parts[0][0], parts[1][0]
    rest = [(by @ own @ by.T, count) for by, part in zip(slopes, parts, strict=True) for own, count in part[1:]]
    return [(slope @ _joint(first, second, cross) @ slope.T, min(counts)), *rest]


def _check_pair(one: Binned, other: Binned) -> None:
    one.binning.check_same("ratio", other.binning)
    kinds = [(c.units, c.averaging) if isinstance(c, CrossSection) else ("events", "") for c in (one, other)]
    if kinds[0][0] != kinds[1][0]:
        raise ValueError(f"ratio: expected the same units, found {kinds[0][0]!r} and {kinds[1][0]!r}")
    if kinds[0][1] != kinds[1][1]:
        raise ValueError(f"ratio: expected averages over the same flux, found {kinds[0][1]!r} and {kinds[1][1]!r}; "
                         f"make both with one averaging=")  # fmt: skip
    bad = np.flatnonzero(~(other.values > 0))
    if len(bad):
        raise ValueError(f"ratio: expected a positive denominator, found {other.values[bad[0]]:g} in bin {bad[0]} "
                         f"({other.binning.label(int(bad[0]))}); merge bins")  # fmt: skip


def _pairs(one: Binned, other: Binned) -> Floats:
    """Replicas (R, 2B) of both, side by side."""
    numbers = len(one.replicas), len(other.replicas)
    if numbers[0] != numbers[1] or numbers[0] < 2:
        raise ValueError(f"ratio: expected as many replicas of both, at least 2, made by the same throws, found "
                         f"{numbers[0]} and {numbers[1]}")  # fmt: skip
    bad = np.argwhere(~(other.replicas > 0))
    if len(bad):
        raise ValueError(f"ratio: expected replicas with a positive denominator, found replica {bad[0][0]} with "
                         f"{other.replicas[tuple(bad[0])]:g} in bin {bad[0][1]}; merge bins, or propagate to first "
                         f"order by cross= a matrix")  # fmt: skip
    return np.hstack([one.replicas, other.replicas])


def _beside(result: Binned) -> Floats:
    """The covariance (B, B) of sources that replicas do not hold."""
    if isinstance(result, CrossSection):
        held = {"throws", *result.settings["replica_sources"]}
    else:
        held = {name for name in result.covariances if name != "method"}
    empty = np.zeros((len(result.values),) * 2)
    return np.asarray(sum((c for name, c in result.covariances.items() if name not in held), empty))


def _shared(one: Binned, other: Binned, name: str) -> Floats:
    """The cross-covariance (B, B) of a normalisation that both have."""
    sizes = []
    for result in (one, other):
        known: Mapping[str, float] = result.settings.get("normalisation", {})
        if name not in known:
            raise missing("normalisation", name, known)
        sizes.append(known[name])
    return np.asarray(sizes[0] * sizes[1] * np.outer(one.values, other.values))


def _cross(given: Any, bins: int) -> Floats:
    if isinstance(given, str):
        if given != "none":
            raise ValueError(f"cross: expected 'replicas', 'none' or a matrix, found {given!r}")
        return np.zeros((bins, bins))
    found = np.asarray(given, np.float64)
    if found.shape != (bins, bins):
        raise ValueError(f"cross: expected a cross-covariance ({bins}, {bins}), found shape {found.shape}")
    check_finite("cross", found)
    return found


def _joint(one: Floats, other: Floats, cross: Floats) -> Floats:
    return np.block([[one, cross], [cross.T, other]])


def _check_joint(joint: Floats) -> None:
    sigma = np.sqrt(np.diag(joint))
    unit = np.where(sigma > 0, sigma, 1.0)
    low = float(np.linalg.eigvalsh(joint / np.outer(unit, unit))[0])
    if low < -1e-9 * len(joint):
        raise ValueError(f"cross: expected a joint covariance without negative eigenvalues, found {low:.3g} (of the "
                         f"correlations); the cross-covariance is too large for the two covariances")  # fmt: skip


def _smeared(model: ArrayLike, smearing: Floats | None, bins: int) -> Floats:
    found = np.asarray(model, np.float64)
    if found.shape != (bins,):
        raise ValueError(f"model: expected {bins} bins, found shape {found.shape}")
    return found if smearing is None else np.asarray(smearing @ found)
