r"""Unfolding by maximum likelihood: Poisson counts, nuisance parameters, and sidebands that constrain the background.

In a bin r of a channel (the data, and sidebands) the expected content is

.. math:: \mu_r = \gamma_r \Big[ \sum_t u_t P_{rt}(\alpha) + \sum_b \nu_b B_{br}(\alpha) + F_r(\alpha) \Big],

with P the response, efficiency included, B the backgrounds and F the fakes, each interpolated between -1, 0 and +1
sigma of the nuisances alpha (`nuinfer.likelihood.BinnedMixture`, in which every truth bin is a template of free norm).
Normalisations nu, nuisances and truth are shared by all channels.  What is minimised over all of them is

.. math:: 2 \sum_r \Big[\mu_r - n_r + n_r \log \frac{n_r}{\mu_r}\Big] + \sum_k (\alpha_k - o_k)^2
          + \sum_b \Big(\frac{\nu_b - o_b}{\sigma_b}\Big)^2 + (\gamma - 1)^T C^{-1} (\gamma - 1)
          + \tau\, \lVert D\, (u / u^0) \rVert^2,

the last one Tikhonov's penalty with differences D of the spectrum in units of a prior u^0, and none for tau = 0.

**Simulation.**  The factors gamma are Barlow and Beeston's "lite" ones, one a bin; but a response whose columns are
normalised to the truth makes them correlated, and their variance that of fractions, not of counts.  C is the exact
covariance of mu / mu by the simulated contents, to first order, at a fit without the factors.

**Covariance.**  With J the derivatives of mu, K the inverse covariances of the constraints, I = J^T diag(1/mu) J the
expected information, and H = I + K + tau D^T D,

.. math:: V = H^{-1} (I + K) H^{-1},

the sum over its sources without a remainder: each channel's counts and each constraint are independent measurements y
of inverse covariance W, and du/dy = H^{-1} (dy/dtheta)^T W.  A free normalisation is no source: it is measured by the
counts.  What a fit would gain, were a parameter known, is another question, with answers that do not add up:
`LikelihoodUnfolding.conditional_covariance`.  Minuit's own (observed) covariance is that of ``fit``.  All of it is to
first order: of nuisances that change the response by 15%, pulls have been found 5% too wide.

**Limits.**  An empty bin may want a negative content, and the likelihood then has no minimum inside its domain.  With
``positive`` the truth bins end at 0 instead; those that do are held there, and have no variance.

**Smearing.**  A_C = H^{-1} J^T diag(1/mu) J, of the truth, which is 1 - H^{-1} tau D^T D.  For data without noise
u = A_C truth exactly, at any size of the counts, and without an offset, as the penalty draws towards D (u / u^0) = 0
and not towards the prior itself; to linear order where nuisances, or the factors gamma, move the response.

Sources: Barlow, Beeston, Comput. Phys. Commun. 77 (1993) 219; Conway, arXiv 1103.0354; Schmitt, arXiv 1205.6201
(penalty); Pinto, Wu, Balli, Berger, Boonekamp, Chapon, Kawamoto, Malaescu, arXiv 2307.04007 (covariances by source).
"""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any

import numpy as np
import torch
from iminuit.cost import Cost
from numpy.typing import ArrayLike, NDArray
from scipy import linalg, stats
from torch import Tensor

from ... import store
from ...errors import NotConverged, check_finite, missing
from ...events import Events
from ...histograms import Contents
from ...intervals import Fit, fit, minos
from ...likelihood import BinnedMixture, Normal, Template
from ...likelihood.costs import DifferentiableCost, summed
from ..binning import Binning, BinningLike
from ..measured import Counts, Fakes, check_fakes, contents
from ..response import Response
from ..spectrum import Chi2, Origin, Spectrum, made_from

__all__ = ["Background", "LikelihoodUnfolding", "Sideband", "likelihood_unfolding"]

Floats = NDArray[np.float64]
#: Responses at -1 and +1 sigma; one alone is that at +1, and is mirrored.
Varied = Response | tuple[Response, Response]

_MAIN = "data"  # the channel that is unfolded
_KNOWN = 1e-6  # of a bin's variance: what the simulation has no uncertainty of is known to a thousandth of its sigma
_ROUNDING = 1e-9  # of the largest content, by which a response's may be negative where weights cancel
_FLAT = 1e-10  # eigenvalue of the information in units of its diagonal, below which a direction is not measured


@dataclass(frozen=True, eq=False, kw_only=True)
class Background:
    """A background in one channel.

    Parameters
    ----------
    contents:
        Expected at nominal parameters: events, a histogram, or contents (R,).
    systematics:
        For each nuisance the contents at -1 and at +1 sigma; of one alone, at +1, the mirror image is taken.
    """

    contents: Counts
    systematics: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, eq=False, kw_only=True)
class Sideband:
    """A control sample: counts that are fitted together with the data.

    Parameters
    ----------
    data:
        Counts: events, a histogram, or contents (S,).
    background:
        By name, as of `likelihood_unfolding`; those of one name have one normalisation.
    response:
        Of the signal that leaks into it, with the truth bins of the data's response; None for no signal.  Its
        statistics count as independent of those of the data's.
    systematics:
        Of this response, by nuisance.
    bins:
        Its bins, if events are to be filled and there is no response.
    """

    data: Counts
    background: Counts | Mapping[str, Counts | Background] = None
    response: Response | None = None
    systematics: Mapping[str, Varied] = field(default_factory=dict)
    bins: BinningLike | None = None


@dataclass(frozen=True, eq=False)
class LikelihoodUnfolding:
    """An unfolded spectrum and the fit that it comes from; made by `likelihood_unfolding`.

    Attributes
    ----------
    spectrum:
        In events, corrected for efficiency.  `Spectrum.check` knows what it was made from where there are no nuisances,
        normalisations and sidebands; ``deviance`` and `pulls` are the checks of those.  Covariances by source: "data";
        "sideband NAME" for the counts of each;
        "simulation"; constrained normalisations, "norm_NAME"; and nuisances by their names.
    fit:
        Of all parameters: ``truth_T`` in units of the prior, ``norm_NAME``, nuisances, and the factors of bins
        ``simulation_CHANNEL[r]``.  Its minimum has the penalty in it, its covariance is Minuit's.
    prior:
        (T,), the unit of the truth parameters.
    counts, folded:
        By channel, "data" and the sidebands: what was seen, and what the fit expects there.
    centres, widths:
        Of the constrained normalisations and nuisances.
    precision:
        H (F, F) over the parameters `free`.
    deviance:
        -2 log L against the saturated model, constraints included and the penalty not, with its degrees of freedom:
        bins less truth bins and free normalisations.  With a penalty the trace of A_C, rounded, counts for the truth
        bins.  The probability is that of large counts, and 1 where no freedom is left.
    intervals:
        (T, 2), lower and upper ends from MINOS; NaN for bins that were not asked for.
    """

    spectrum: Spectrum
    fit: Fit
    prior: Floats
    counts: dict[str, Floats]
    folded: dict[str, Floats]
    centres: dict[str, float]
    widths: dict[str, float]
    precision: Floats
    deviance: Chi2
    intervals: Floats

    @property
    def free(self) -> tuple[str, ...]:
        """The parameters (F,) that were neither held nor ended at a limit; the truth comes first."""
        return _free(self.fit)

    @property
    def values(self) -> Floats:
        """The spectrum (T,)."""
        return self.spectrum.values

    @property
    def covariance(self) -> Floats:
        """Of the spectrum (T, T), all sources."""
        return self.spectrum.covariance

    @property
    def correlation(self) -> Floats:
        """Of the spectrum (T, T); 0 beside the diagonal for bins at their limit."""
        sigma = self.spectrum.uncertainty
        scale = np.where(sigma > 0, sigma, 1.0)
        return np.asarray(self.covariance / np.outer(scale, scale) + np.diag((sigma == 0).astype(float)))

    @property
    def pulls(self) -> dict[str, float]:
        """(fitted - centre) / width of each constrained normalisation and nuisance."""
        return {name: (self.fit.values[name] - self.centres[name]) / width for name, width in self.widths.items()}

    @property
    def constraints(self) -> dict[str, float]:
        """The fitted error of each, in units of its width before the fit."""
        return {name: self.fit.errors[name] / width for name, width in self.widths.items()}

    def conditional_covariance(self, *known: str) -> Floats:
        """The covariance (T, T) of the spectrum, were these parameters known as they were fitted.

        What it lacks of the total is their part of it; parts of several parameters do not add up.  ``known`` are
        parameters, "simulation" for all factors of bins.

        Raises
        ------
        KeyError
            for something that is no free parameter, or the truth itself.
        """
        gammas = [n for n in self.free if n.startswith("simulation_")]
        others = [n for n in self.free if not n.startswith("truth_")]
        for name in known:
            if name not in others and not (name == "simulation" and gammas):
                raise missing("parameter", name, [*others, *(["simulation"] if gammas else [])])
        fixed = {*known, *(gammas if "simulation" in known else [])}
        at = [k for k, name in enumerate(self.free) if name not in fixed]
        gain = _gain(self.precision[np.ix_(at, at)], [self.free[k] for k in at], len(self.prior))
        settings, truth = self.spectrum.settings, _truth_places(self.free)
        inner = gain[:, : len(truth)]
        penalty = _penalty(self.spectrum.binning, settings["strength"], settings["order"])[np.ix_(truth, truth)]
        full = np.zeros((len(self.prior), len(self.prior)))
        full[:, truth] = inner
        return np.asarray((full - inner @ penalty @ inner.T) * np.outer(self.prior, self.prior))

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write everything to one safetensors file, atomically."""
        fitted, arrays = self.fit._parts()
        s = self.spectrum
        spec = {"binning": s.binning.to_json(), "sources": list(s.covariances), "settings": s.settings, "fit": fitted,
                "channels": list(self.counts), "constrained": list(self.widths), "dof": self.deviance.dof}  # fmt: skip
        found = {f"fit.{name}": value for name, value in arrays.items()}
        found |= {f"covariance.{i}": c for i, c in enumerate(s.covariances.values())}
        for kind, by_channel in (("counts", self.counts), ("folded", self.folded)):
            found |= {f"{kind}.{i}": by_channel[name] for i, name in enumerate(self.counts)}
        found |= {"values": s.values, "smearing": np.asarray(s.smearing), "prior": self.prior,
                  "precision": self.precision, "intervals": self.intervals, "deviance": np.array(self.deviance),
                  "centres": np.array(list(self.centres.values())),
                  "widths": np.array(list(self.widths.values()))}  # fmt: skip
        store.save(path, "likelihood unfolding", spec, found)

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> LikelihoodUnfolding:
        """Read what `save` wrote; ``CorruptFile`` for a damaged file, ``ValueError`` for another kind."""
        spec, a = store.load(path, "likelihood unfolding")
        covariances = {name: a[f"covariance.{i}"] for i, name in enumerate(spec["sources"])}
        spectrum = Spectrum(Binning.from_json(spec["binning"]), a["values"], covariances, a["smearing"],
                            settings=spec["settings"])  # fmt: skip
        fitted = Fit._of(spec["fit"], {n.removeprefix("fit."): v for n, v in a.items() if n.startswith("fit.")})
        counts, folded = (
            {c: a[f"{kind}.{i}"] for i, c in enumerate(spec["channels"])} for kind in ("counts", "folded")
        )
        centres, widths = (
            dict(zip(spec["constrained"], a[kind].tolist(), strict=True)) for kind in ("centres", "widths")
        )
        value, _, p_value = a["deviance"].tolist()
        deviance = Chi2(value, spec["dof"], p_value)
        return cls(spectrum, fitted, a["prior"], counts, folded, centres, widths, a["precision"], deviance,
                   a["intervals"])  # fmt: skip

    def __repr__(self) -> str:
        pulls = "".join(f"; {name} {pull:+.2f}" for name, pull in self.pulls.items())
        d = self.deviance
        return (f"LikelihoodUnfolding({self.spectrum!r}; deviance {d.value:.4g} of {d.dof} degrees of freedom, "
                f"p = {d.p_value:.3g}{pulls})")  # fmt: skip


def likelihood_unfolding(
    data: Counts,
    response: Response,
    *,
    background: Counts | Mapping[str, Counts | Background] = None,
    norms: Mapping[str, float | None] | None = None,
    sidebands: Mapping[str, Sideband] | None = None,
    systematics: Mapping[str, Varied] | None = None,
    fakes: Fakes = "subtract",
    prior: ArrayLike | None = None,
    strength: float = 0.0,
    order: int = 2,
    positive: bool = False,
    simulation: bool = True,
    outside: float = 0.0,
    centres: Mapping[str, float] | None = None,
    minos_bins: Sequence[int] = (),
    cl: float = 0.68,
    tolerance: float = 1e-6,
) -> LikelihoodUnfolding:
    """Unfold counts by maximum likelihood, with nuisance parameters and sidebands.

    Parameters
    ----------
    data:
        Counts in the response's reco bins: events, a histogram, or contents (R,).
    background:
        Events, a histogram or contents, the one background "background"; or several by name, each also as a
        `Background` with systematics.
    norms:
        By background the relative uncertainty of its normalisation, None for a free one; those that are not named are
        as expected.
    sidebands:
        By name, counts that are fitted with the data.
    systematics:
        By nuisance the responses at -1 and at +1 sigma, of the same simulation; one alone is that at +1, and is
        mirrored.  Nuisances of one name are one nuisance, here, in backgrounds and in sidebands, with a normal
        constraint of width 1.
    fakes:
        "subtract" expects the simulation's fakes as they are, "scale" in proportion to the signal, bin by bin.
    prior:
        u^0 (T,), positive: the unit of the spectrum.  Only the penalty depends on it.  None takes the simulation's
        truth.
    strength, order:
        tau and the order 0 to 3 of the differences (`Binning.differences`) of the penalty.
    positive:
        Whether truth bins are at least 0.
    simulation:
        Whether the simulation's statistics are uncertain.
    outside:
        The largest fraction of the counts that may lie in bins where nothing is expected; it is left out.
    centres:
        Outcomes of the auxiliary measurements that are not 0 for nuisances and 1 for ``norm_NAME``: those of
        pseudo-experiments.
    minos_bins, cl:
        Truth bins that get an interval from MINOS, and its level.
    tolerance:
        As of `nuinfer.intervals.fit`.

    Raises
    ------
    ValueError
        for other bins, weighted or negative counts, negative or non-finite templates, more truth bins than reco bins
        without a penalty, parameters that the counts do not determine (named), more counts than ``outside`` where
        nothing is expected.
    KeyError
        for norms of unknown backgrounds, centres of unknown parameters.
    NotConverged
        where the fit fails, as it may with empty bins without ``positive``.

    Examples
    --------
    >>> events = Events({"t": [0.5, 0.5, 1.5, 1.5], "x": [0.4, 1.2, 1.4, 9.0]})
    >>> response = Response.from_events(events, truth={"t": [0, 1, 2]}, reco={"x": [0, 1, 2]})
    >>> found = likelihood_unfolding([10, 30], response, background=[0, 5], norms={"background": 0.2})
    >>> found.values.round(3)  # 0.5 u0 = 10, 0.5 u0 + 0.5 u1 = 25
    array([20., 30.])
    >>> {name: np.sqrt(np.diag(c)).round(2).tolist() for name, c in found.spectrum.covariances.items()}
    {'data': [6.32, 12.65], 'simulation': [14.14, 35.36], 'norm_background': [0.0, 2.0]}
    """
    _check_options(fakes, strength, minos_bins, response.truth)
    channels = _channels(data, response, background, sidebands or {}, systematics or {}, fakes, simulation)
    unit = _prior(prior, response.truth) if prior is not None else response.truth_yield
    model = _Model(
        channels, response.truth, unit, _checked_norms(norms or {}, channels), float(strength), order, positive
    )
    lost = model.check_support(outside)
    model.check_measured()
    constraint = model.constraint(centres or {})
    fitted, factors = _fitted(model, constraint, simulation, tolerance)
    settings = {"method": "likelihood", "strength": float(strength), "order": int(order), "fakes": fakes,
                "positive": positive, "simulation": simulation, "outside": lost}  # fmt: skip
    found = _result(
        model, fitted, constraint, factors, settings, _minos(model, fitted, constraint, factors, minos_bins, cl)
    )
    if sidebands or norms or model.mixture.nuisances:
        return found

    def again(data: Counts, response: Response, *, prior: ArrayLike | None = prior) -> Spectrum:
        return likelihood_unfolding(
            data, response, background=background, fakes=fakes, prior=prior, strength=strength, order=order,
            positive=positive, simulation=simulation, outside=outside, tolerance=tolerance,
        ).spectrum  # fmt: skip

    return _refittable(found, again, data, response, channels[0])


def _refittable(
    found: LikelihoodUnfolding, again: Callable[..., Spectrum], data: Counts, response: Response, main: _Channel
) -> LikelihoodUnfolding:
    """With a spectrum that can be checked.

    With nuisances or sidebands it cannot: pulled parameters move the response from the nominal one that pseudo-data are
    folded by, and sidebands would have to be thrown with them.
    """
    background = sum((shape.values for shape in main.background.values()), start=np.zeros(len(main.counts)))
    origin = Origin(
        method=again, data=data, response=response, background=background, prior="prior", expected=found.folded[_MAIN]
    )
    return replace(found, spectrum=made_from(found.spectrum, origin))


# -- what is given -----------------------------------------------------------------------------------------------------


@dataclass(frozen=True, eq=False)
class _Shape:
    """Contents (R,), their statistical variance and the contents at -1 and +1 sigma of each nuisance."""

    values: Floats
    variance: Floats
    varied: dict[str, tuple[Floats, Floats]]


@dataclass(frozen=True, eq=False)
class _Channel:
    """Counts (R,) and what is expected of them: signal and fakes as one array (R, T + 1), and backgrounds."""

    name: str
    counts: Floats
    response: Response | None
    scaled: bool
    signal: Floats
    varied: dict[str, tuple[Floats, Floats]]
    background: dict[str, _Shape]
    gammas: str | None

    def templates(self, prior: Floats, norms: Mapping[str, float | None]) -> dict[str, Template]:
        """By process, the templates of each truth bin in units of the prior, the fakes and the backgrounds."""
        free, unit = (() if self.gammas is None else (self.gammas,)), np.append(prior, 1.0)
        found = {}
        for t, scale in enumerate(unit[: self.signal.shape[1]]):
            name, coefficient = (f"truth_{t}", f"truth_{t}") if t < len(prior) else ("fakes", 1.0)
            shapes = {k: (low[:, t] * scale, high[:, t] * scale) for k, (low, high) in self.varied.items()}
            found[name] = Template(
                contents=self.signal[:, t] * scale, coefficient=coefficient, shapes=shapes, free=free
            )
        for name, shape in self.background.items():
            found[name] = Template(contents=shape.values, coefficient=f"norm_{name}" if name in norms else 1.0,
                                   shapes=shape.varied, free=free)  # fmt: skip
        return found

    def covariance(self, truth: Floats, norms: Mapping[str, float]) -> Floats:
        """Of the expected contents (R, R) by the simulation's statistics, for a truth (T,), with nuisances at 0."""
        spread = sum((norms.get(name, 1.0) ** 2 * s.variance for name, s in self.background.items()),
                     start=np.zeros(len(self.counts)))  # fmt: skip
        if self.response is None:
            return np.diag(spread)
        return np.diag(spread) + _simulated(self.response, truth, scaled=self.scaled)


def _simulated(response: Response, truth: Floats, *, scaled: bool) -> Floats:
    """Of signal and fakes: sum_t A_t diag(v_t) A_t^T, with A_t = diag(a_t) - b_t 1^T the derivatives by column t."""
    p, v, folded = response.matrix, response.both_variance, response.matrix @ truth
    seen = response.both.sum(1)
    per_signal = np.divide(1.0, seen, out=np.zeros_like(seen), where=seen > 0)
    gain = 1 + response.fakes * per_signal if scaled else np.ones_like(seen)
    by_fakes = folded * per_signal if scaled else np.ones_like(seen)
    each = truth / response.truth_yield
    a = np.outer(gain, each) - (by_fakes * response.fakes * per_signal if scaled else 0 * seen)[:, None]
    b = gain[:, None] * p * each
    mixed = (a * v) @ b.T
    diagonal = (a**2 * v).sum(1) + by_fakes**2 * response.fakes_variance
    return np.asarray(np.diag(diagonal) - mixed - mixed.T + (b * response.truth_variance) @ b.T)


def _channels(
    data: Counts, response: Response, background: Any, sidebands: Mapping[str, Sideband],
    systematics: Mapping[str, Varied], fakes: Fakes, simulation: bool,
) -> list[_Channel]:  # fmt: skip
    main = Sideband(data=data, background=background, response=response, systematics=systematics)
    found = [_channel(_MAIN, main, response.truth, fakes, simulation)]
    for name, sideband in sidebands.items():
        if not isinstance(sideband, Sideband):
            raise TypeError(f"sideband {name!r}: expected a Sideband, found {type(sideband).__name__}")
        if name == _MAIN:
            raise ValueError(f"sidebands: expected other names than {_MAIN!r}, which is what is unfolded")
        found.append(_channel(name, sideband, response.truth, fakes, simulation))
    return found


def _channel(name: str, given: Sideband, truth: Binning, fakes: Fakes, simulation: bool) -> _Channel:
    what, r = ("data" if name == _MAIN else f"sideband {name!r}"), given.response
    if r is None and given.systematics:
        raise ValueError(f"{what}: expected systematics of a response, found them without one")
    if r is not None:
        truth.check_same(f"{what}: the response's truth", r.truth)
    bins = r.reco if r is not None else None if given.bins is None else Binning.of(given.bins)
    counts, reference = _counts(what, given.data, bins)
    shapes = {
        label: _shape(f"{what}: background {label!r}", one, bins, reference)
        for label, one in _by_name(given.background).items()
    }
    signal = np.empty((len(counts), 0)) if r is None else _signal(f"{what}: response", r, fakes)
    varied = {} if r is None else {n: _varied(f"{what}: systematic {n!r}", v, r, signal, fakes)
                                   for n, v in given.systematics.items()}  # fmt: skip
    _check_nuisances([*varied, *(n for s in shapes.values() for n in s.varied)])
    if r is None and not shapes:
        raise ValueError(f"{what}: expected a background or a response, found neither")
    gammas = f"simulation_{name}" if simulation else None
    return _Channel(name, counts, r, fakes == "scale", signal, varied, shapes, gammas)


def _check_nuisances(names: Sequence[str]) -> None:
    for name in names:
        if name == "data" or name.startswith(("truth_", "norm_", "simulation", "sideband ")):
            raise ValueError(f"systematic {name!r}: expected another name than 'data' and those that begin with "
                             f"'truth_', 'norm_', 'simulation' or 'sideband '")  # fmt: skip


def _by_name(given: Any) -> Mapping[str, Any]:
    found = {} if given is None else given if isinstance(given, Mapping) else {"background": given}
    for name in found:
        if not name.isidentifier() or name == "fakes" or name.startswith("truth_"):
            raise ValueError(f"background {name!r}: expected a name of letters, digits and underscores that is not "
                             f"'fakes' or 'truth_...'")  # fmt: skip
    return found


def _counts(what: str, given: Counts, bins: Binning | None) -> tuple[Floats, Contents | None]:
    """Counts (R,), and the histogram that others have to agree with where there are no bins."""
    values, variance, reference = _filled(what, given, bins, None)
    bad = np.flatnonzero(values < 0)
    if len(bad):
        raise ValueError(f"{what}: expected counts from 0, found {values[bad[0]]:g} in bin {bad[0]}; give what was "
                         f"counted, with nothing subtracted")  # fmt: skip
    if variance is not None and not np.allclose(variance, values, rtol=1e-6):
        raise ValueError(f"{what}: expected counts, whose variances are the counts, found weighted ones; give "
                         f"them as an array for a fit as of so many counts, or use a linear method")  # fmt: skip
    return values, reference


def _filled(
    what: str, given: Counts, bins: Binning | None, reference: Contents | None
) -> tuple[Floats, Floats | None, Contents | None]:
    if bins is not None:
        values, variance = contents(what, given, bins)
        check_finite(what, values)
        return values, variance, None
    if isinstance(given, Events):
        raise ValueError(f"{what}: expected a histogram or an array, found events; give their bins=")
    found = Contents.of(what, given, negative=True)
    if reference is not None:
        reference.check_same(what, found)
    return found.values, found.variances, found


def _shape(what: str, given: Any, bins: Binning | None, reference: Contents | None) -> _Shape:
    one = given if isinstance(given, Background) else Background(contents=given)
    values, variance, _ = _filled(what, one.contents, bins, reference)
    _check_content(what, values)
    varied = {}
    for name, pair in one.systematics.items():
        ends = pair if isinstance(pair, tuple) else (pair,)
        arrays = [_filled(f"{what}, systematic {name!r}", end, bins, reference)[0] for end in ends]
        varied[name] = _mirrored(f"{what}, systematic {name!r}", values, arrays)
    return _Shape(values, np.zeros(len(values)) if variance is None else variance, varied)


def _signal(what: str, response: Response, fakes: Fakes) -> Floats:
    """P and, as the last column, the fakes (R, T + 1)."""
    p, f = response.matrix, response.fakes
    p = np.where((p < 0) & (p > -_ROUNDING * np.abs(p).max()), 0.0, p)
    if fakes == "scale":
        seen = response.both.sum(1)
        lost = np.flatnonzero((seen <= 0) & (f > 0))
        if len(lost):
            raise ValueError(f"{what}: expected signal wherever there are fakes for fakes='scale', found none in "
                             f"bin {lost[0]} ({response.reco.label(int(lost[0]))}); or 'subtract'")  # fmt: skip
        p, f = p * np.divide(seen + f, seen, out=np.ones_like(seen), where=seen > 0)[:, None], 0 * f
    found = np.column_stack([p, f])
    _check_content(what, found)
    return found


def _varied(what: str, given: Any, nominal: Response, signal: Floats, fakes: Fakes) -> tuple[Floats, Floats]:
    ends = given if isinstance(given, tuple) else (given,)
    arrays = []
    for end in ends:
        if not isinstance(end, Response):
            raise TypeError(f"{what}: expected a Response, or those at -1 and +1 sigma, found {type(end).__name__}")
        nominal.truth.check_same(f"{what}, truth", end.truth)
        nominal.reco.check_same(f"{what}, reco", end.reco)
        arrays.append(_signal(what, end, fakes))
    return _mirrored(what, signal, arrays)


def _mirrored(what: str, nominal: Floats, ends: Sequence[Floats]) -> tuple[Floats, Floats]:
    """Contents at -1 and +1 sigma, checked."""
    if len(ends) not in (1, 2):
        raise ValueError(f"{what}: expected what is at +1 sigma, or a pair at -1 and +1, found {len(ends)}")
    down, up = (2 * nominal - ends[0], ends[0]) if len(ends) == 1 else ends
    _check_content(what, up)
    if len(ends) == 1 and (down < 0).any():
        raise ValueError(f"{what}: the mirror image of +1 sigma is negative, down to {down.min():.3g} in bin "
                         f"{int(np.argwhere(down == down.min())[0][0])}; give both, (down, up)")  # fmt: skip
    _check_content(what, down)
    return down, up


def _check_content(what: str, values: Floats) -> None:
    check_finite(what, values)
    if (values < 0).any():
        place = np.argwhere(values == values.min())[0].tolist()
        raise ValueError(f"{what}: expected contents from 0, found {int((values < 0).sum())} negative, lowest "
                         f"{values.min():.4g} in bin {place[0]}{''.join(f', truth bin {t}' for t in place[1:])}; merge "
                         f"bins until the weights of each have a positive sum")  # fmt: skip


def _prior(given: ArrayLike, truth: Binning) -> Floats:
    found = np.array(given, np.float64)
    if found.shape != (truth.size,) or not (np.isfinite(found).all() and (found > 0).all()):
        raise ValueError(f"prior: expected positive contents ({truth.size},) of {truth!r}, found {given!r}")
    return found


def _checked_norms(norms: Mapping[str, float | None], channels: Sequence[_Channel]) -> dict[str, float | None]:
    known = {name for channel in channels for name in channel.background}
    for name, width in norms.items():
        if name not in known:
            raise missing("background", name, sorted(known))
        if width is not None and not 0 < width < math.inf:
            raise ValueError(f"norm of {name!r}: expected a positive relative uncertainty, or None for a free one, "
                             f"found {width}")  # fmt: skip
    return dict(norms)


def _check_options(fakes: str, strength: float, minos_bins: Sequence[int], truth: Binning) -> None:
    check_fakes(fakes)
    if not 0 <= strength < math.inf:
        raise ValueError(f"strength: expected a finite number from 0, found {strength}")
    bad = [t for t in minos_bins if not 0 <= t < truth.size]
    if bad:
        raise ValueError(f"minos_bins: expected truth bins from 0 to {truth.size - 1}, found {bad[0]}")


# -- the model ---------------------------------------------------------------------------------------------------------


class _Penalty(DifferentiableCost):
    """x^T M x of the truth parameters x: no measurement, and so the same in Asimov data and pseudo-experiments."""

    def __init__(self, names: Sequence[str], matrix: Floats) -> None:
        super().__init__(dict.fromkeys(names))
        self.matrix = torch.from_numpy(matrix)

    def tensor(self, theta: Tensor) -> Tensor:
        """x^T M x."""
        return theta @ (self.matrix @ theta)

    def asimov(self, values: Mapping[str, float]) -> _Penalty:
        """Itself."""
        return self

    def sample(self, values: Mapping[str, float], rng: np.random.Generator) -> _Penalty:
        """Itself."""
        return self

    def _ndata(self) -> int:
        return 0


def _penalty(truth: Binning, strength: float, order: int) -> Floats:
    """Tau D^T D (T, T)."""
    d = truth.differences(order)
    if strength and not len(d):
        raise ValueError(
            f"order: expected differences of an order below the bins in a row, found {order} for {truth!r}"
        )
    return np.asarray(strength * d.T @ d)


@dataclass(frozen=True, eq=False)
class _Model:
    """All channels together, over the parameters of ``mixture``, of which the first T are the truth."""

    channels: list[_Channel]
    truth: Binning
    prior: Floats
    norms: dict[str, float | None]
    strength: float
    order: int
    positive: bool

    @cached_property
    def mixture(self) -> BinnedMixture:
        found = {c.name: c.templates(self.prior, self.norms) for c in self.channels}
        limits: dict[str, tuple[float | None, float | None]] = {}
        if self.positive:
            limits = {f"truth_{t}": (0.0, None) for t in range(self.truth.size)}
        return BinnedMixture(found, statistics="none", limits=limits)

    @cached_property
    def penalty(self) -> Floats:
        return _penalty(self.truth, self.strength, self.order)

    @property
    def names(self) -> tuple[str, ...]:
        return self.mixture.names

    @property
    def unconstrained(self) -> list[str]:
        """Truth bins and free normalisations."""
        free = [f"norm_{name}" for name, width in self.norms.items() if width is None]
        return [f"truth_{t}" for t in range(self.truth.size)] + free

    @cached_property
    def counts(self) -> dict[str, Floats]:
        """By channel, without those where nothing is expected."""
        expected = self.mixture.expected(**self.start)
        return {c.name: np.where(expected[c.name] > 0, c.counts, 0.0) for c in self.channels}

    @cached_property
    def start(self) -> dict[str, float]:
        """The prior scaled to the data, and all else nominal."""
        main = self.channels[0]
        expected = main.signal[:, -1].sum() + sum(s.values.sum() for s in main.background.values())
        ratio = float((main.counts.sum() - expected) / (main.signal[:, :-1] @ self.prior).sum())
        scale = ratio if ratio > 0 else 1.0
        ones = (*self.mixture.interest, *self.mixture.gammas)
        return {n: scale if n.startswith("truth_") else float(n in ones) for n in self.names}

    def check_support(self, outside: float) -> float:
        """The fraction of the counts where nothing is expected."""
        total = sum(c.counts.sum() for c in self.channels)
        if not total > 0:
            raise ValueError("data: expected counts, found none")
        lost = float(1 - sum(c.sum() for c in self.counts.values()) / total)
        if lost > outside + 1e-12:
            raise ValueError(f"data: expected counts only where signal, fakes or background are, found the fraction "
                             f"{lost:.3g} elsewhere; simulate more, merge bins, or allow it by outside=")  # fmt: skip
        return max(lost, 0.0)

    def check_measured(self) -> None:
        """Raise where the counts and the penalty do not determine truth and free normalisations."""
        bins = sum(len(c.counts) for c in self.channels if c.response is not None)
        if self.truth.size > bins and not self.strength:
            raise ValueError(f"unfolding: expected at most as many truth bins as reco bins, found {self.truth.size} "
                             f"truth bins and {bins} reco bins; merge, or regularise by strength=")  # fmt: skip
        at = [self.names.index(name) for name in self.unconstrained]
        matrix = np.sum(list(self.information(self.start).values()), 0)[np.ix_(at, at)]
        matrix[: self.truth.size, : self.truth.size] += self.penalty
        _check_positive(matrix, self.unconstrained, self.truth)

    def constraint(self, outcomes: Mapping[str, float]) -> Normal | None:
        """Of normalisations and nuisances."""
        widths = {f"norm_{name}": width for name, width in self.norms.items() if width is not None}
        widths |= dict.fromkeys(self.mixture.nuisances, 1.0)
        for name in outcomes:
            if name not in widths:
                raise missing("constrained parameter", name, widths)
        centres = [float(outcomes.get(name, float(name.startswith("norm_")))) for name in widths]
        return Normal(list(widths), centres, covariance=np.diag(np.square(list(widths.values())))) if widths else None

    def cost(self, *others: DifferentiableCost | None) -> Cost:
        """-2 log L of all counts, with the penalty and these."""
        parts: list[DifferentiableCost] = [self.mixture(self.counts), *(c for c in others if c is not None)]
        if self.strength:
            parts.append(_Penalty(self.unconstrained[: self.truth.size], self.penalty))
        return summed(parts)

    def information(self, values: Mapping[str, float]) -> dict[str, Floats]:
        """By channel J^T diag(1/mu) J (P, P), over all parameters."""
        theta = self.mixture.theta(values)
        slopes = torch.autograd.functional.jacobian(self.mixture.mean, theta).numpy()
        mean = self.mixture.mean(theta).numpy()
        weight = np.divide(1.0, mean, out=np.zeros_like(mean), where=mean > 0)
        found, start = {}, 0
        for c in self.channels:
            rows = slice(start, start + len(c.counts))
            found[c.name], start = (slopes[rows].T * weight[rows]) @ slopes[rows], rows.stop
        return found

    def factors(self, fitted: Fit) -> list[Normal]:
        """The constraints of the factors of bins, by channel, with the covariance of mu / mu at a fit without them."""
        truth = self.prior * [fitted.values[f"truth_{t}"] for t in range(self.truth.size)]
        norms = {name: fitted.values[f"norm_{name}"] for name in self.norms}
        nominal = {n: v for n, v in fitted.values.items() if n not in self.mixture.nuisances}
        expected = self.mixture.expected(**nominal, **dict.fromkeys(self.mixture.nuisances, 0.0))
        found = []
        for c in self.channels:
            mean, spread = expected[c.name], c.covariance(truth, norms)
            used = np.flatnonzero((mean > 0) & (np.diag(spread) > 0))
            if len(used):
                relative = spread[np.ix_(used, used)] / np.outer(mean[used], mean[used])
                relative += _KNOWN * np.diag(np.diag(relative))
                names = [f"{c.gammas}[{r}]" for r in used]
                found.append(Normal(names, np.ones(len(used)), covariance=(relative + relative.T) / 2))
        return found


def _check_positive(matrix: Floats, names: Sequence[str], truth: Binning) -> None:
    scale = np.sqrt(np.diag(matrix))
    unseen = np.flatnonzero(~(scale > 0))
    if not len(unseen):
        values, vectors = np.linalg.eigh(matrix / np.outer(scale, scale))
        if values[0] > _FLAT:
            return
        unseen = np.argsort(-np.abs(vectors[:, 0]))[:3]
    shown = ", ".join(f"{names[k]} ({truth.label(int(k))})" if k < truth.size else names[k] for k in unseen[:3])
    raise ValueError(f"unfolding: expected counts that determine each truth bin and free normalisation, found a "
                     f"direction they do not see, most of all along {shown}; merge truth bins, regularise by "
                     f"strength=, or constrain the normalisation")  # fmt: skip


# -- the fit -----------------------------------------------------------------------------------------------------------


def _fitted(model: _Model, constraint: Normal | None, simulation: bool, tolerance: float) -> tuple[Fit, list[Normal]]:
    """The fit, and the constraints of the factors of bins that it has."""
    ones = dict.fromkeys(model.mixture.gammas, 1.0)
    first = _minimum(model, model.cost(constraint), model.start, ones, tolerance)
    factors = model.factors(first) if simulation else []
    if not factors:
        return first, factors
    used = {name for factor in factors for name in factor.names}
    held = {name: 1.0 for name in ones if name not in used}
    return _minimum(model, model.cost(constraint, *factors), first.values, held, tolerance), factors


def _minimum(
    model: _Model, cost: Cost, start: Mapping[str, float], fixed: Mapping[str, float], tolerance: float
) -> Fit:
    try:
        return fit(cost, start, fixed=fixed, tolerance=tolerance)
    except NotConverged as error:
        empty = [f"{name} {np.flatnonzero(n == 0).tolist()}" for name, n in model.counts.items() if (n == 0).any()]
        hint = f"; bins without counts: {', '.join(empty)}; merge them, or positive=True" if empty else ""
        raise NotConverged(f"unfolding: {error}{hint}") from error


def _minos(
    model: _Model, fitted: Fit, constraint: Normal | None, factors: Sequence[Normal], bins: Sequence[int], cl: float
) -> Floats:
    """Lower and upper ends (T, 2)."""
    found = np.full((model.truth.size, 2), np.nan)
    if len(bins):
        names = [f"truth_{t}" for t in bins]
        errors = minos(model.cost(constraint, *factors), names, cl=cl, start=fitted.values, fixed=fitted.fixed)
        for t, name in zip(bins, names, strict=True):
            found[t] = np.array(errors.interval(name)) * model.prior[t]
    return found


def _result(
    model: _Model, fitted: Fit, constraint: Normal | None, factors: Sequence[Normal], settings: dict[str, Any],
    intervals: Floats,
) -> LikelihoodUnfolding:  # fmt: skip
    t, names = model.truth.size, _free(fitted)
    free, truth = [model.names.index(name) for name in names], _truth_places(names)
    information = model.information(fitted.values)
    counted = {("data" if name == _MAIN else f"sideband {name}"): m[np.ix_(free, free)]
               for name, m in information.items()}  # fmt: skip
    sources = counted | _constrained(names, constraint, factors)
    precision = np.sum(list(sources.values()), 0)
    precision[: len(truth), : len(truth)] += model.penalty[np.ix_(truth, truth)]
    gain = _gain(precision, names, t)
    unit = np.outer(model.prior, model.prior)
    covariances = {name: gain @ m @ gain.T * unit for name, m in sources.items()}
    smearing = np.eye(t)
    if model.strength or len(truth) < t:
        smearing = gain @ np.sum([m[free, :t] for m in information.values()], 0)
        smearing *= np.outer(model.prior, 1 / model.prior)
    # what ended at its limit is within a hundredth of its error of it
    x = np.array([fitted.values[n] if n in names else 0.0 for n in model.unconstrained[:t]])
    spectrum = Spectrum(model.truth, x * model.prior, covariances, smearing, settings=settings)
    values = {name: fitted.values[name] for name in model.names}
    return LikelihoodUnfolding(
        spectrum, fitted, model.prior, dict(model.counts), model.mixture.expected(**values),
        {} if constraint is None else constraint.centre, {} if constraint is None else constraint.width, precision,
        _deviance(model, fitted.minimum - float(x @ model.penalty @ x), float(np.trace(smearing))), intervals,
    )  # fmt: skip


def _free(fitted: Fit) -> tuple[str, ...]:
    """The parameters with an error."""
    return tuple(name for name in fitted.free if name not in fitted.at_limit)


def _truth_places(names: Sequence[str]) -> list[int]:
    """Which truth bins are among the parameters."""
    return [int(name.removeprefix("truth_")) for name in names if name.startswith("truth_")]


def _gain(precision: Floats, names: Sequence[str], size: int) -> Floats:
    """The rows of the truth (T, F) of H^-1, 0 for bins that are not free."""
    truth, found = _truth_places(names), np.zeros((size, len(names)))
    found[truth] = linalg.inv(precision)[: len(truth)]
    return found


def _constrained(names: Sequence[str], constraint: Normal | None, factors: Sequence[Normal]) -> dict[str, Floats]:
    """By source the inverse covariances (F, F) of the constraints."""
    found = {}
    if factors:
        found["simulation"] = np.zeros((len(names), len(names)))
    for factor in factors:
        at = [names.index(name) for name in factor.names]
        found["simulation"][np.ix_(at, at)] = linalg.inv(factor.covariance)
    for name, width in ({} if constraint is None else constraint.width).items():
        found[name] = np.zeros((len(names), len(names)))
        found[name][names.index(name), names.index(name)] = 1 / width**2
    return found


def _deviance(model: _Model, value: float, parameters: float) -> Chi2:
    free = len(model.unconstrained) - model.truth.size
    bins = sum(len(c.counts) for c in model.channels)
    dof = max(bins - free - round(parameters), 0)
    return Chi2(value, dof, float(stats.chi2.sf(value, dof)) if dof else 1.0)
