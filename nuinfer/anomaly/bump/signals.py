r"""Shapes of a signal at a mass: densities of x that integrate to 1 over the whole axis.

A signal's yield is thus that of all its events, those outside of the fit's range or in a blinded window included.

================  ====================================================================================================
`GaussianPeak`    :math:`N(x; m, \sigma^2)`
`CrystalBall`     a Gaussian core with a power-law tail on both sides
`BreitWigner`     relativistic, :math:`\propto 1 / [(x^2 - m^2)^2 + m^2 \Gamma^2]`, or with a resolution: Voigt's
                  profile, a (non-relativistic) Lorentzian smeared by a Gaussian
`TemplateShape`   a histogram, moved along x
`UserPeak`        any function, normalised by quadrature
================  ====================================================================================================

Each has nuisance parameters phi, ``mass_scale`` (the peak is at mass_scale times m) and, where it has a width,
``width_scale`` (of the Gaussian's sigma, of Voigt's resolution, else of Gamma).  Both are held at 1 unless they are
constrained or set free where the likelihood is made.

Sources: Gaiser, SLAC-255 (1982); Oreglia, SLAC-236 (1980) (Crystal Ball).
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import special

from ...errors import check_finite
from ...histograms import Contents, check_contents
from .quadrature import bins_of, integrate
from .shapes import Limits, central_slopes

__all__ = ["BreitWigner", "CrystalBall", "GaussianPeak", "SignalShape", "TemplateShape", "UserPeak"]

Floats = NDArray[np.float64]
_ROOT_2 = math.sqrt(2.0)
_SCALES = ("mass_scale", "width_scale")


class SignalShape(ABC):
    """A normalised density of x at a mass, with K nuisance parameters phi, which come as (..., K)."""

    @property
    def names(self) -> tuple[str, ...]:
        """Of the nuisances."""
        return _SCALES

    @property
    def start(self) -> Floats:
        """The nominal values (K,)."""
        return np.ones(len(self.names))

    @property
    def limits(self) -> tuple[Limits, ...]:
        """(lower, upper) of each."""
        return ((0.2, 5.0),) * len(self.names)

    @abstractmethod
    def width(self, mass: float) -> float:
        """About one standard deviation of its core: what a grid of masses has to resolve."""

    @abstractmethod
    def density(self, x: Floats, mass: float, phi: Floats) -> Floats:
        """(..., N) at x (N,)."""

    @abstractmethod
    def fractions(self, bins: Floats, mass: float, phi: Floats) -> Floats:
        """What falls (..., B) into bins (B, 2)."""

    def density_slopes(self, x: Floats, mass: float, phi: Floats) -> Floats:
        """Derivatives (..., N, K) by the nuisances, by central differences unless in closed form."""
        return central_slopes(lambda p: self.density(x, mass, p), phi)

    def fraction_slopes(self, bins: Floats, mass: float, phi: Floats) -> Floats:
        """Derivatives (..., B, K) by the nuisances, by central differences unless in closed form."""
        return central_slopes(lambda p: self.fractions(bins, mass, p), phi)


# -- a function of t = (x - m) / sigma ---------------------------------------------------------------------------------


class _LocationScale(SignalShape):
    """f(t) / sigma with t = (x - mass_scale m) / (width_scale sigma)."""

    @abstractmethod
    def width(self, mass: float) -> float:
        """Sigma."""

    @abstractmethod
    def _pdf(self, t: Floats) -> Floats: ...

    @abstractmethod
    def _cdf(self, t: Floats) -> Floats: ...

    @abstractmethod
    def _log_slope(self, t: Floats) -> Floats:
        """d ln f / dt."""

    def _t(self, x: Floats, mass: float, phi: Floats) -> tuple[Floats, Floats]:
        """t (..., N) and sigma (..., 1)."""
        sigma = self.width(mass) * phi[..., 1:2]
        return (x - mass * phi[..., 0:1]) / sigma, sigma

    def density(self, x: Floats, mass: float, phi: Floats) -> Floats:
        """(..., N) at x (N,)."""
        t, sigma = self._t(x, mass, phi)
        return np.asarray(self._pdf(t) / sigma)

    def density_slopes(self, x: Floats, mass: float, phi: Floats) -> Floats:
        """Derivatives (..., N, K) by the nuisances."""
        t, sigma = self._t(x, mass, phi)
        value, log_slope = self._pdf(t) / sigma, self._log_slope(t)
        by_mass = -value * log_slope * mass / sigma
        by_width = -value * (1 + t * log_slope) / phi[..., 1:2]
        return np.stack([by_mass, by_width], -1)

    def fractions(self, bins: Floats, mass: float, phi: Floats) -> Floats:
        """What falls (..., B) into bins (B, 2)."""
        low, high = (self._t(bins[:, k], mass, phi)[0] for k in (0, 1))
        # from the nearer end, so that far tails keep their digits
        mirrored = low > 0
        up = self._cdf(np.where(mirrored, -low, high)) if self._symmetric else self._cdf(high)
        down = self._cdf(np.where(mirrored, -high, low)) if self._symmetric else self._cdf(low)
        return np.asarray(up - down)

    @property
    def _symmetric(self) -> bool:
        return False

    def fraction_slopes(self, bins: Floats, mass: float, phi: Floats) -> Floats:
        """Derivatives (..., B, K) by the nuisances."""
        columns = []
        for k in (0, 1):
            t, sigma = self._t(bins[:, k], mass, phi)
            value = self._pdf(t)
            columns.append(np.stack([-value * mass / sigma, -value * t / phi[..., 1:2]], -1))
        return np.asarray(columns[1] - columns[0])


@dataclass(frozen=True)
class GaussianPeak(_LocationScale):
    """A Gaussian of standard deviation ``sigma``, or ``relative_sigma`` times the mass.

    Raises
    ------
    ValueError
        unless one of them is given, positive.

    Examples
    --------
    >>> peak = GaussianPeak(relative_sigma=0.02)
    >>> peak.fractions(np.array([[98.0, 102.0]]), 100.0, peak.start).round(4).tolist()
    [0.6827]
    """

    sigma: float | None = None
    relative_sigma: float | None = None

    def __post_init__(self) -> None:
        """Check what is given."""
        _check_one("sigma", self.sigma, self.relative_sigma)

    def width(self, mass: float) -> float:
        """Sigma."""
        return _either(self.sigma, self.relative_sigma, mass)

    @property
    def _symmetric(self) -> bool:
        return True

    def _pdf(self, t: Floats) -> Floats:
        return np.asarray(np.exp(-0.5 * t**2) / math.sqrt(2 * math.pi))

    def _cdf(self, t: Floats) -> Floats:
        return np.asarray(special.ndtr(t))

    def _log_slope(self, t: Floats) -> Floats:
        return -t


@dataclass(frozen=True)
class CrystalBall(_LocationScale):
    r"""A Gaussian core with power-law tails beyond ``alpha_low`` sigma below and ``alpha_high`` sigma above.

    .. math:: f(t) \propto e^{-t^2/2} \;\text{in the core}, \quad
              e^{-\alpha^2/2} \Big[\frac{\alpha}{n} \Big(\frac{n}{\alpha} - \alpha + |t|\Big)\Big]^{-n} \;\text{beyond}.

    Raises
    ------
    ValueError
        for powers ``n_low``, ``n_high`` that are not above 1 (no normalisation), alphas that are not positive, or
        unless one of ``sigma`` and ``relative_sigma`` is given.
    """

    sigma: float | None = None
    relative_sigma: float | None = None
    alpha_low: float = 1.5
    n_low: float = 5.0
    alpha_high: float = 2.0
    n_high: float = 5.0

    def __post_init__(self) -> None:
        """Check what is given."""
        _check_one("sigma", self.sigma, self.relative_sigma)
        for name in ("alpha_low", "alpha_high"):
            if not 0 < getattr(self, name) < 30:
                raise ValueError(f"{name}: expected between 0 and 30, found {getattr(self, name):g}; it counts sigma "
                                 f"on its side, and has no sign")  # fmt: skip
        for name in ("n_low", "n_high"):
            if not 1 < getattr(self, name) < 1e6:
                raise ValueError(f"{name}: expected above 1, found {getattr(self, name):g}: the tail has no integral")

    def width(self, mass: float) -> float:
        """Sigma of the core."""
        return _either(self.sigma, self.relative_sigma, mass)

    def _areas(self) -> tuple[float, float]:
        """Those of the tails, for a core of height 1."""
        low, high = (math.exp(-0.5 * a * a) * n / (a * (n - 1)) for a, n in self._tails())
        return low, high

    def _tails(self) -> tuple[tuple[float, float], tuple[float, float]]:
        return (self.alpha_low, self.n_low), (self.alpha_high, self.n_high)

    def _norm(self) -> float:
        core = math.sqrt(math.pi / 2) * (math.erf(self.alpha_low / _ROOT_2) + math.erf(self.alpha_high / _ROOT_2))
        return core + sum(self._areas())

    def _reach(self, t: Floats, alpha: float, n: float) -> Floats:
        """(alpha / n) (n / alpha - alpha + |t|), 1 where the tail begins."""
        return np.maximum(1.0 + alpha / n * (np.abs(t) - alpha), 1.0)

    def _pdf(self, t: Floats) -> Floats:
        low, high = (math.exp(-0.5 * a * a) * self._reach(t, a, n) ** -n for a, n in self._tails())
        core = np.exp(-0.5 * np.clip(t, -self.alpha_low, self.alpha_high) ** 2)
        return np.asarray(self._pick(t, low, core, high) / self._norm())

    def _cdf(self, t: Floats) -> Floats:
        below, above = self._areas()
        (a, n), (b, m) = self._tails()
        low = below * self._reach(t, a, n) ** (1 - n)
        core = below + math.sqrt(math.pi / 2) * (special.erf(np.clip(t, -a, b) / _ROOT_2) + math.erf(a / _ROOT_2))
        high = self._norm() - above * self._reach(t, b, m) ** (1 - m)
        return np.asarray(self._pick(t, low, core, high) / self._norm())

    def _log_slope(self, t: Floats) -> Floats:
        (a, n), (b, m) = self._tails()
        return self._pick(t, a / self._reach(t, a, n), -t, -b / self._reach(t, b, m))

    def _pick(self, t: Floats, low: Floats, core: Floats, high: Floats) -> Floats:
        return np.where(t < -self.alpha_low, low, np.where(t > self.alpha_high, high, core))


# -- others ------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class BreitWigner(SignalShape):
    r"""A resonance of width ``gamma``, or ``relative_gamma`` times the mass.

    Without a resolution relativistic, for x > 0, with its closed integral: with :math:`z^2 = m^2 + i m \Gamma`,
    :math:`\int dx / [(x^2 - m^2)^2 + m^2\Gamma^2] = \mathrm{Im}[\ln((x - z)/(x + z)) / 2z] / m\Gamma`.  With a
    ``resolution``, or a ``relative_resolution``, Voigt's profile, integrated by nodes in pieces of each bin.

    Raises
    ------
    ValueError
        unless one of ``gamma`` and ``relative_gamma`` is given, or for two resolutions.
    """

    gamma: float | None = None
    relative_gamma: float | None = None
    resolution: float | None = None
    relative_resolution: float | None = None

    def __post_init__(self) -> None:
        """Check what is given."""
        _check_one("gamma", self.gamma, self.relative_gamma)
        if self._smeared:
            _check_one("resolution", self.resolution, self.relative_resolution)

    @property
    def _smeared(self) -> bool:
        return self.resolution is not None or self.relative_resolution is not None

    def _widths(self, mass: float) -> tuple[float, float]:
        """Gamma, and sigma of the resolution."""
        sigma = _either(self.resolution, self.relative_resolution, mass) if self._smeared else 0.0
        return _either(self.gamma, self.relative_gamma, mass), sigma

    def width(self, mass: float) -> float:
        """Half of the full width at half maximum, over 1.18: the sigma of a Gaussian as wide."""
        gamma, sigma = self._widths(mass)
        full = 0.5346 * gamma + math.sqrt(0.2166 * gamma**2 + (2.3548 * sigma) ** 2)
        return full / 2.3548

    def density(self, x: Floats, mass: float, phi: Floats) -> Floats:
        """(..., N) at x (N,)."""
        gamma, sigma = self._widths(mass)
        m, scale = mass * phi[..., 0:1], phi[..., 1:2]
        if self._smeared:
            return np.asarray(special.voigt_profile(x - m, sigma * scale, 0.5 * gamma))
        width = gamma * scale
        found = self._norm(m, width) / ((x**2 - m**2) ** 2 + (m * width) ** 2)
        return np.where(x > 0, found, 0.0)

    @staticmethod
    def _norm(m: Floats, gamma: Floats) -> Floats:
        root = m * np.sqrt(m**2 + gamma**2)
        return np.asarray(2 * _ROOT_2 * m * gamma * root / (math.pi * np.sqrt(m**2 + root)))

    def fractions(self, bins: Floats, mass: float, phi: Floats) -> Floats:
        """What falls (..., B) into bins (B, 2)."""
        if not self._smeared:
            return self._cdf(bins[:, 1], mass, phi) - self._cdf(bins[:, 0], mass, phi)
        gamma, sigma = self._widths(mass)
        # pieces that resolve the narrowest feature, at the smallest resolution met
        pieces = _pieces(bins, 0.5 * max(sigma, 0.5 * gamma))
        found = integrate(lambda x: self.density(x, mass, phi), pieces.reshape(-1, 2), 8)
        return np.asarray(found.reshape(*found.shape[:-1], *pieces.shape[:2]).sum(-1))

    def _cdf(self, x: Floats, mass: float, phi: Floats) -> Floats:
        m, width = mass * phi[..., 0:1], self._widths(mass)[0] * phi[..., 1:2]
        z = np.sqrt(m**2 + 1j * m * width)
        at = np.maximum(x, 0.0)
        log = np.log((at - z) / (at + z))
        log = np.where(at > 0, log.real + 1j * np.minimum(log.imag, 0.0), -1j * math.pi)
        return np.asarray(self._norm(m, width) / (m * width) * ((log + 1j * math.pi) / (2 * z)).imag)


@dataclass(frozen=True, eq=False)
class TemplateShape(SignalShape):
    """A histogram of a signal at ``mass``, moved to other masses by their difference, or stretched by their ratio.

    Parameters
    ----------
    contents, edges:
        (T,) and (T + 1,); normalised here.  ``contents`` may be a ``hist.Hist``, without edges.
    mass:
        Where the template is from.
    stretch:
        Whether x is scaled by the ratio of masses, so that the relative width stays, instead of shifted.

    Within a bin of the template the density is constant; its nuisance is ``mass_scale`` alone.

    Raises
    ------
    ValueError
        for contents that are negative, add up to nothing or do not fit the edges, a mass that is not positive.
    """

    contents: ArrayLike
    edges: ArrayLike | None = None
    mass: float = 1.0
    stretch: bool = False
    _sums: Floats = field(init=False, repr=False)

    def __post_init__(self) -> None:
        """Check, and keep arrays."""
        found = Contents.of("contents", self.contents, negative=True)
        edges = self.edges if self.edges is not None else (found.axes or (None,))[0]
        if edges is None or found.values.shape != (len(np.asarray(edges)) - 1,):
            have = "none" if edges is None else len(np.asarray(edges))
            raise ValueError(f"edges: expected {found.values.size + 1}, for {found.values.size} bins, found {have}")
        bins_of(edges)
        check_contents("contents", found.values)
        total = found.values.sum()
        if not total > 0 or not self.mass > 0:
            raise ValueError(f"contents: expected a positive sum and mass, found {total:g} and {self.mass:g}")
        sums = np.concatenate([[0.0], np.cumsum(found.values / total)])
        for name, value in (("contents", found.values / total), ("edges", np.asarray(edges, float)), ("_sums", sums)):
            object.__setattr__(self, name, value)

    @property
    def names(self) -> tuple[str, ...]:
        """Of the nuisance."""
        return _SCALES[:1]

    def _own(self, x: Floats, mass: float, phi: Floats) -> tuple[Floats, Floats]:
        """x (..., N) in the template's frame, and the derivative by x (..., 1)."""
        at = mass * phi[..., 0:1]
        if self.stretch:
            return x * self.mass / at, self.mass / at
        return x - at + self.mass, np.ones_like(at)

    def width(self, mass: float) -> float:
        """Half of the distance of its quantiles at one sigma, by ratio of the masses where it is stretched."""
        low, high = np.interp([0.1587, 0.8413], self._sums, np.asarray(self.edges))
        return float(0.5 * (high - low) * (mass / self.mass if self.stretch else 1.0))

    def density(self, x: Floats, mass: float, phi: Floats) -> Floats:
        """(..., N) at x (N,)."""
        own, scale = self._own(x, mass, phi)
        edges, contents = np.asarray(self.edges), np.asarray(self.contents)
        height = np.concatenate([[0.0], contents / np.diff(edges), [0.0]])
        return np.asarray(height[np.searchsorted(edges, own, side="right")] * scale)

    def fractions(self, bins: Floats, mass: float, phi: Floats) -> Floats:
        """What falls (..., B) into bins (B, 2)."""
        low, high = (np.interp(self._own(bins[:, k], mass, phi)[0], np.asarray(self.edges), self._sums) for k in (0, 1))
        return np.asarray(high - low)


@dataclass(frozen=True, eq=False)
class UserPeak(SignalShape):
    """A peak of the user's own, divided by its integral over ``support`` around the mass.

    Parameters
    ----------
    function:
        x (N,), the mass and the parameters, one argument each of shape (..., 1) -> (..., N), from 0.
    sigma, relative_sigma:
        Its width: one of them, of nodes and for warnings of coarse grids.
    parameters:
        Nominal values by name.
    bounds:
        (lower, upper) by name.
    support:
        Where it is not 0, in sigma around the mass.
    """

    function: Callable[..., Floats]
    sigma: float | None = None
    relative_sigma: float | None = None
    parameters: Mapping[str, float] = field(default_factory=dict)
    bounds: Mapping[str, Limits] = field(default_factory=dict)
    support: tuple[float, float] = (-12.0, 12.0)

    def __post_init__(self) -> None:
        """Check what is given."""
        _check_one("sigma", self.sigma, self.relative_sigma)

    @property
    def names(self) -> tuple[str, ...]:
        """Of the parameters."""
        return tuple(self.parameters)

    @property
    def start(self) -> Floats:
        """The nominal values (K,)."""
        return np.array(list(self.parameters.values()), np.float64)

    @property
    def limits(self) -> tuple[Limits, ...]:
        """(lower, upper) of each."""
        return tuple(self.bounds.get(name, (None, None)) for name in self.names)

    def width(self, mass: float) -> float:
        """Sigma."""
        return _either(self.sigma, self.relative_sigma, mass)

    def _raw(self, x: Floats, mass: float, phi: Floats) -> Floats:
        low, high = (mass + k * self.width(mass) for k in self.support)
        found = np.asarray(self.function(x, mass, *np.moveaxis(phi, -1, 0)[..., None]), np.float64)
        inside = (x >= low) & (x <= high)
        return np.broadcast_to(np.where(inside, found, 0.0), (*phi.shape[:-1], len(x)))

    def _cells(self, mass: float) -> Floats:
        """Half-sigma cells (C, 2) of the support."""
        low, high = (mass + k * self.width(mass) for k in self.support)
        return bins_of(np.linspace(low, high, math.ceil(2 * (self.support[1] - self.support[0])) + 1))

    def _total(self, mass: float, phi: Floats) -> Floats:
        total = integrate(lambda x: self._raw(x, mass, phi), self._cells(mass), 8).sum(-1)[..., None]
        if not np.all(total > 0):
            raise ValueError(f"function: expected a positive integral of the signal at {mass:g}, found {total.min():g}")
        return np.asarray(total)

    def density(self, x: Floats, mass: float, phi: Floats) -> Floats:
        """(..., N) at x (N,)."""
        return np.asarray(self._raw(x, mass, phi) / self._total(mass, phi))

    def fractions(self, bins: Floats, mass: float, phi: Floats) -> Floats:
        """What falls (..., B) into bins (B, 2): nodes in pieces of half a sigma, cut at the ends of the support."""
        low, high = (mass + k * self.width(mass) for k in self.support)
        pieces = _pieces(np.clip(bins, low, high), 0.5 * self.width(mass))
        found = integrate(lambda x: self._raw(x, mass, phi), pieces.reshape(-1, 2), 8)
        return np.asarray(found.reshape(*found.shape[:-1], *pieces.shape[:2]).sum(-1) / self._total(mass, phi))


# -- parts -------------------------------------------------------------------------------------------------------------


def _pieces(bins: Floats, size: float) -> Floats:
    """(B, C, 2): each bin cut into equally many pieces, none longer than ``size`` (and no more than 400)."""
    count = int(np.clip(math.ceil((bins[:, 1] - bins[:, 0]).max() / size), 1, 400))
    share = np.linspace(0.0, 1.0, count + 1)
    edges = bins[:, :1] + (bins[:, 1] - bins[:, 0])[:, None] * share
    return np.stack([edges[:, :-1], edges[:, 1:]], -1)


def _either(absolute: float | None, relative: float | None, mass: float) -> float:
    return float(absolute if absolute is not None else (relative or 0.0) * mass)


def _check_one(name: str, absolute: float | None, relative: float | None) -> None:
    given = [value for value in (absolute, relative) if value is not None]
    if len(given) != 1 or not 0 < given[0] < math.inf:
        raise ValueError(f"{name}: expected a positive {name}= or relative_{name}=, one of them, found {absolute} "
                         f"and {relative}")  # fmt: skip
    check_finite(name, np.array(given))
