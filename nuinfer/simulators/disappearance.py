r"""Muon neutrinos that disappear over a long baseline: two parameters, three nuisances, an unordered list of events.

A toy of an experiment such as T2K: an off-axis beam that peaks at 0.6 GeV and a far detector at L = 295 km.  Of
:math:`\theta` = (``sin2_theta23``, ``dm2_32``) the survival probability depends by (T2K, arXiv:1403.1532, eq. 1, for
one effective mass splitting, without matter)

.. math:: P(E) = 1 - A \sin^2\left(1.267\, \Delta m^2_{32} L / E\right), \qquad
          A = 4 \cos^2\theta_{13} \sin^2\theta_{23}\, (1 - \cos^2\theta_{13} \sin^2\theta_{23}),

with :math:`\Delta m^2` in eV\ :sup:`2`, L in km, E in GeV, and :math:`\sin^2\theta_{13}` = 0.0220.  It is the same for
:math:`\sin^2\theta_{23}` and :math:`1/\cos^2\theta_{13} - \sin^2\theta_{23}`: the octant is not resolved, and the
posterior is a ridge, or two modes, around 0.511.

In :math:`v = \log E` the interacting neutrinos are two Gaussians s(v), the beam's peak and its tail; the measured
:math:`u = \log E_{rec}` is v plus Gaussian noise plus the scale.  So the events per unit of u are, with the Gaussian
resolution R,

.. math:: S(u) = \left(1 - \tfrac A2\right) (s * R)(u)
                 + \tfrac A2 \int s(v) \cos\left(2 \cdot 1.267\, \Delta m^2 L e^{-v}\right) R(u - v)\, dv .

The last integral is the only one that is not a closed form; it is tabulated by the trapezoidal rule, which converges
faster than any power for such integrands, and interpolated by bicubic splines (relative error below 1e-6).

Background of neutral currents does not oscillate.  Each event also has a ``pid``, N(+1, 1) for signal, N(-1, 1) for
background.  The nuisances have standard normal priors:

==================  ==================================================================================================
``normalisation``   beam and cross section, all rates, near and far, by :math:`e^{0.10 \alpha}`
``scale``           of the far detector's energy, by :math:`e^{0.03 \alpha}`
``background``      its rate at the far detector, by :math:`e^{0.30 \alpha}`
==================  ==================================================================================================

One experiment is a count in a near detector, ``near`` ~ Poisson(1000 e^(0.10 normalisation)), a ``calibration`` ~
N(scale, 0.5^2), and the far events' ``far.energy`` (GeV) and ``far.pid``; their number is part of the data.

Sources: extended likelihood, Barlow, NIM A297 (1990) 496; the trapezoidal rule, Trefethen, Weideman, SIAM Review 56
(2014) 385.  Spectrum and rates are a toy's, of the size of T2K's data of 2010-2013.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import interpolate, optimize, special

from ..errors import check_finite
from ..events import Events, Ragged, offsets_of

__all__ = ["Disappearance", "GridPosterior"]

Floats = NDArray[np.float64]

_NAMES = ("sin2_theta23", "dm2_32", "normalisation", "scale", "background")
_PHASE = 1.267e-3  # of 1e-3 eV^2 km / GeV
_COS2_THETA13 = 1 - 0.0220
_PEAK, _TAIL = (0.75, np.log(0.62), 0.28), (0.25, np.log(1.1), 0.5)  # share, mean and width in log E
_RESOLUTION = 0.10
_BACKGROUND = (np.log(0.5), 0.5)  # mean and width in log E, as measured
_PID = 1.0
_NORMALISATION, _SCALE, _RATE, _CALIBRATION = 0.10, 0.03, 0.30, 0.5
_TRUE = np.arange(np.log(0.02), np.log(40.0), 0.002)  # log E of the integrals
_MEASURED = np.arange(np.log(0.02), np.log(40.0), 0.01)  # of the table
_BLOCK = 16  # events whose rates are multiplied before the logarithm is taken


@dataclass(frozen=True, kw_only=True)
class Disappearance:
    r"""The experiment; theta (\*, 5) is in the order of `names`, ``dm2_32`` in 1e-3 eV^2.

    Parameters
    ----------
    signal, background_events:
        Events expected at the far detector without oscillation, of signal and background.
    near:
        Events expected at the near detector.
    baseline:
        In km.
    sin2_theta23, dm2_32:
        The box of the flat prior.

    Raises
    ------
    ValueError
        for rates or lengths that are not positive, or a box outside of what the tables hold.

    Examples
    --------
    >>> problem = Disappearance()
    >>> rng = np.random.default_rng(1)
    >>> observation = problem.simulate([[0.5, 2.5, 0.0, 0.0, 0.0]], rng)
    >>> observation.columns
    ('near', 'calibration', 'far.energy', 'far.pid')
    >>> exact = problem.posterior(observation)
    >>> bool(abs(exact.mean[1] - 2.5) < 3 * exact.standard_deviation[1])
    True
    """

    signal: float = 300.0
    background_events: float = 30.0
    near: float = 1000.0
    baseline: float = 295.0
    sin2_theta23: tuple[float, float] = (0.3, 0.7)
    dm2_32: tuple[float, float] = (2.0, 3.0)

    def __post_init__(self) -> None:
        for name in ("signal", "background_events", "near", "baseline"):
            if not 0 < getattr(self, name) < np.inf:
                raise ValueError(f"{name}: expected a positive number, found {getattr(self, name)}")
        for name, most in (("sin2_theta23", 1.0), ("dm2_32", 10.0)):
            low, high = getattr(self, name)
            if not 0 <= low < high <= most:
                raise ValueError(f"{name}: expected a box (low, high) within 0 and {most:g}, found {(low, high)}")
        if self.baseline * self.dm2_32[1] > 3000:
            raise ValueError(f"baseline times dm2_32: expected at most 3000 km 1e-3 eV^2, found "
                             f"{self.baseline * self.dm2_32[1]:g}; the tables do not resolve faster ones")  # fmt: skip

    @property
    def names(self) -> tuple[str, ...]:
        """The two parameters and the three nuisances: the order of theta."""
        return _NAMES

    @property
    def box(self) -> dict[str, tuple[float, float]]:
        """The flat prior of the two parameters."""
        return {"sin2_theta23": self.sin2_theta23, "dm2_32": self.dm2_32}

    # -- rates ---------------------------------------------------------------------------------------------------------

    def survival(self, energy: ArrayLike, sin2_theta23: ArrayLike, dm2_32: ArrayLike) -> Floats:
        """P(nu_mu -> nu_mu) at true energies (GeV); all broadcast."""
        phase = _PHASE * np.asarray(dm2_32) * self.baseline / np.asarray(energy)
        return np.asarray(1 - amplitude(sin2_theta23) * np.sin(phase) ** 2)

    def expected(self, theta: ArrayLike) -> Floats:
        r"""The expected number of far events (\*) at theta (\*, 5)."""
        t = self._theta(theta)
        half = amplitude(t[..., 0]) / 2
        signal = self.signal * (1 - half + half * self._table.total(t[..., 1]))
        return np.asarray(np.exp(_NORMALISATION * t[..., 2])
                          * (signal + self.background_events * np.exp(_RATE * t[..., 4])))  # fmt: skip

    def log_rate(self, energy: ArrayLike, pid: ArrayLike, theta: ArrayLike) -> Floats:
        r"""The log of far events per GeV and unit of pid: energy (\*), pid (\*) and theta (\*, 5) broadcast."""
        t = self._theta(theta)
        u = np.log(np.asarray(energy, np.float64)) - _SCALE * t[..., 3]
        plain, wave, other = self._shapes(u, np.asarray(pid, np.float64), t[..., 1])
        half = amplitude(t[..., 0]) / 2
        rate = (1 - half) * plain + half * wave + np.exp(_RATE * t[..., 4]) * other
        return np.asarray(_NORMALISATION * t[..., 2] + np.log(rate) - np.log(energy))

    def _shapes(self, u: Floats, pid: Floats, dm2: ArrayLike) -> tuple[Floats, Floats, Floats]:
        """Events per unit of log energy and pid at scale 0: without oscillation, its cosine part, the background."""
        of_signal, of_background = _normal(pid, _PID, 1.0), _normal(pid, -_PID, 1.0)
        plain = self.signal * of_signal * _spectrum(u, _RESOLUTION)
        wave = self.signal * of_signal * self._table.wave(u, dm2)
        return plain, wave, self.background_events * of_background * _normal(u, *_BACKGROUND)

    @cached_property
    def _table(self) -> _Table:
        low, high = self.dm2_32
        dm2 = np.linspace(low, high, 61)
        cosine = np.cos(2 * _PHASE * self.baseline * dm2[:, None] * np.exp(-_TRUE)) * _spectrum(_TRUE, 0.0)
        step = _TRUE[1] - _TRUE[0]
        wave = cosine @ _normal(_MEASURED, _TRUE[:, None], _RESOLUTION) * step
        return _Table(interpolate.CubicSpline(dm2, cosine.sum(1) * step),
                      interpolate.RectBivariateSpline(dm2, _MEASURED, wave, kx=3, ky=3, s=0))  # fmt: skip

    def _theta(self, theta: ArrayLike) -> Floats:
        values = np.asarray(theta, np.float64)
        if values.shape[-1:] != (5,):
            raise ValueError(f"theta: expected (*, 5) for {', '.join(_NAMES)}, found {values.shape}")
        check_finite("theta", values.reshape(-1))
        for i, (name, (low, high)) in enumerate(self.box.items()):
            if values.size and not (low <= values[..., i].min() and values[..., i].max() <= high):
                raise ValueError(f"{name}: expected values within {low:g} and {high:g}, the box of the problem, found "
                                 f"{values[..., i].min():g} to {values[..., i].max():g}")  # fmt: skip
        return values

    # -- simulation ----------------------------------------------------------------------------------------------------

    def simulate(self, theta: ArrayLike, rng: np.random.Generator) -> Events:
        """One experiment for each theta (B, 5): interactions are drawn, and survive with P(E); no table is used."""
        t = self._theta(theta)
        if t.ndim != 2:
            raise ValueError(f"theta: expected (B, 5), found {t.shape}")
        near = rng.poisson(self.near * np.exp(_NORMALISATION * t[:, 2]))
        calibration = t[:, 3] + _CALIBRATION * rng.standard_normal(len(t))
        owner, u, pid = (np.concatenate(pair) for pair in zip(self._survivors(t, rng), self._others(t, rng),
                                                             strict=True))  # fmt: skip
        order = np.argsort(owner + rng.random(len(owner)))  # signal and background mixed
        energy = np.exp(u + _SCALE * t[owner, 3])
        offsets = offsets_of(np.bincount(owner, minlength=len(t)))
        return Events({"near": near.astype(np.float64), "calibration": calibration,
                       "far.energy": Ragged(energy[order], offsets),
                       "far.pid": Ragged(pid[order], offsets)})  # fmt: skip

    def _survivors(self, t: Floats, rng: np.random.Generator) -> tuple[NDArray[np.int64], Floats, Floats]:
        """Experiment, log energy without its scale, and pid of the signal events."""
        owner = np.repeat(np.arange(len(t)), rng.poisson(self.signal * np.exp(_NORMALISATION * t[:, 2])))
        tail = rng.random(len(owner)) < _TAIL[0]
        v = np.where(tail, _TAIL[1], _PEAK[1]) + np.where(tail, _TAIL[2], _PEAK[2]) * rng.standard_normal(len(owner))
        kept = rng.random(len(owner)) < self.survival(np.exp(v), t[owner, 0], t[owner, 1])
        owner, v = owner[kept], v[kept]
        return owner, v + _RESOLUTION * rng.standard_normal(len(v)), _PID + rng.standard_normal(len(v))

    def _others(self, t: Floats, rng: np.random.Generator) -> tuple[NDArray[np.int64], Floats, Floats]:
        """The same of the background."""
        rate = self.background_events * np.exp(_NORMALISATION * t[:, 2] + _RATE * t[:, 4])
        owner = np.repeat(np.arange(len(t)), rng.poisson(rate))
        u = _BACKGROUND[0] + _BACKGROUND[1] * rng.standard_normal(len(owner))
        return owner, u, rng.standard_normal(len(owner)) - _PID

    # -- likelihood and posterior --------------------------------------------------------------------------------------

    def log_likelihood(self, observation: Events, theta: ArrayLike) -> Floats:
        r"""log p(x | theta) (M,) of one observation at theta (M, 5): near, calibration, and the far events' list.

        .. math:: \log\mathrm{Poisson}(n_{near}) + \log N(c; \alpha_{scale}, 0.5^2)
                  - \mu + \sum_i \log\lambda(E_i, t_i) - \log n!
        """
        t = np.atleast_2d(self._theta(theta))
        seen = _seen(observation)
        mean = self.near * np.exp(_NORMALISATION * t[:, 2])
        near = seen.near * np.log(mean) - mean - special.gammaln(seen.near + 1)
        calibration = np.log(_normal(seen.calibration, t[:, 3], _CALIBRATION))
        rates = self.log_rate(seen.energy, seen.pid, t[:, None]).sum(1)
        return np.asarray(near + calibration - self.expected(t) + rates - special.gammaln(len(seen.energy) + 1))

    def posterior(self, observation: Events, *, points: int = 81, finer: float = 1.0) -> GridPosterior:
        """The exact posterior of the two parameters on a grid of points x points, the nuisances integrated out.

        The integral over the normalisation is one of a function of the expected number alone; those over scale and
        background are trapezoidal sums with a spacing of 0.8 and 0.5 of their widths, for which the error is far
        below 1e-4 of the density.  ``finer`` divides the spacings, to see that nothing changes.

        Raises
        ------
        ValueError
            for other than one observation, or fewer than 11 points.
        """
        if points < 11:
            raise ValueError(f"points: expected at least 11 a side, found {points}")
        seen = _seen(observation)
        sin2, dm2 = (np.linspace(*edges, points) for edges in self.box.values())
        width = _CALIBRATION / np.hypot(1, _CALIBRATION)  # of scale, by its prior and the calibration
        scale = _nodes(seen.calibration / (1 + _CALIBRATION**2), 5 * width, 0.8 * width / finer)
        background = _nodes(0.0, 5.0, 0.5 / finer)
        logs = np.stack([self._integrated(seen, sin2, m, scale, background) for m in dm2], 1)
        return GridPosterior.of(tuple(self.box), (sin2, dm2), logs)

    def _integrated(self, seen: _Seen, sin2: Floats, dm2: float, scale: Floats, background: Floats) -> Floats:
        """log of the likelihood (G,) at one dm2, integrated over the nuisances' priors."""
        half, factor = amplitude(sin2)[:, None] / 2, np.exp(_RATE * background)
        expected = self.signal * (1 - half + half * float(self._table.total(dm2))) + self.background_events * factor
        rates = self._log_rates(seen, half, dm2, scale, factor)
        of_scale = -0.5 * scale**2 + np.log(_normal(seen.calibration, scale, _CALIBRATION))
        total = rates + of_scale[:, None, None] - 0.5 * background**2 + self._over_normalisation(seen, expected)
        steps = np.log((scale[1] - scale[0]) * (background[1] - background[0]) / (2 * np.pi))
        return np.asarray(special.logsumexp(total, axis=(0, 2)) + steps)

    def _log_rates(self, seen: _Seen, half: Floats, dm2: float, scale: Floats, factor: Floats) -> Floats:
        """The sum over events of log rate per GeV (scale, G, background) at normalisation 0."""
        u = np.log(seen.energy) - _SCALE * scale[:, None]
        plain, wave, other = self._shapes(u, seen.pid, dm2)
        logs = np.zeros((len(scale), len(half), len(factor)))
        for block in range(0, len(seen.energy), _BLOCK):
            product = np.ones_like(logs)
            for i in range(block, min(block + _BLOCK, len(seen.energy))):
                of_signal = (1 - half[:, 0]) * plain[:, i, None] + half[:, 0] * wave[:, i, None]
                product *= of_signal[:, :, None] + (other[:, i, None] * factor)[:, None]
            logs += np.log(product)
        return np.asarray(logs - np.log(seen.energy).sum())

    def _over_normalisation(self, seen: _Seen, expected: Floats) -> Floats:
        """log of the integral over the normalisation of prior, near count and far number, at expected far numbers."""
        nodes = np.linspace(-7, 7, 281)
        total = np.linspace(0.999 * expected.min(), 1.001 * expected.max(), 60)[:, None]
        far = len(seen.energy)
        mean = self.near + total
        logs = (-0.5 * nodes**2 - 0.5 * np.log(2 * np.pi) + (seen.near + far) * _NORMALISATION * nodes
                - mean * np.exp(_NORMALISATION * nodes))  # fmt: skip
        integral = special.logsumexp(logs, axis=1) + np.log(nodes[1] - nodes[0])
        constant = seen.near * np.log(self.near) - special.gammaln(seen.near + 1) - special.gammaln(far + 1)
        return np.asarray(interpolate.CubicSpline(total[:, 0], integral)(expected) + constant)


def amplitude(sin2_theta23: ArrayLike) -> Floats:
    """A of the survival probability."""
    part = _COS2_THETA13 * np.asarray(sin2_theta23, np.float64)
    return np.asarray(4 * part * (1 - part))


def other_octant(sin2_theta23: ArrayLike) -> Floats:
    """The value with the same survival probability."""
    return np.asarray(1 / _COS2_THETA13 - np.asarray(sin2_theta23, np.float64))


class _Table(NamedTuple):
    """Of the cosine part: its integral as a function of dm2, and its density in (dm2, u)."""

    total: interpolate.CubicSpline
    density: interpolate.RectBivariateSpline

    def wave(self, u: Floats, dm2: ArrayLike) -> Floats:
        inside = (u > _MEASURED[0]) & (u < _MEASURED[-1])
        values = self.density.ev(*np.broadcast_arrays(dm2, np.where(inside, u, _MEASURED[0])))
        return np.asarray(np.where(inside, values, 0.0))


class _Seen(NamedTuple):
    near: float
    calibration: float
    energy: Floats
    pid: Floats


def _seen(observation: Events) -> _Seen:
    """The columns of one observation."""
    if len(observation) != 1:
        raise ValueError(f"observation: expected one, found {len(observation)} rows; select([i]) takes one of them")
    energy = np.asarray(observation.ragged("far.energy").values, np.float64)
    if not (energy > 0).all():
        raise ValueError(f"far.energy: expected energies above 0, found {energy.min():g}")
    return _Seen(float(observation.flat("near")[0]), float(observation.flat("calibration")[0]), energy,
                 np.asarray(observation.ragged("far.pid").values, np.float64))  # fmt: skip


def _normal(x: ArrayLike, mean: ArrayLike, sd: float) -> Floats:
    return np.asarray(np.exp(-0.5 * ((np.asarray(x) - mean) / sd) ** 2) / (sd * np.sqrt(2 * np.pi)))


def _spectrum(u: Floats, noise: float) -> Floats:
    """The density of the interactions' log energy after Gaussian noise."""
    parts = [share * _normal(u, mean, float(np.hypot(sd, noise))) for share, mean, sd in (_PEAK, _TAIL)]
    return np.asarray(parts[0] + parts[1])


def _nodes(centre: float, reach: float, step: float) -> Floats:
    count = int(np.ceil(reach / step))
    return np.asarray(centre + step * np.arange(-count, count + 1))


# -- a posterior on a grid ---------------------------------------------------------------------------------------------


@dataclass(frozen=True, eq=False)
class GridPosterior:
    """A density of two parameters under a flat prior, on a grid; made by `Disappearance.posterior`.

    Attributes
    ----------
    names, axes:
        Two parameters, and their values on the grid (G,), which ends where the prior does.
    log_likelihood:
        log p(x | theta) (G, G).
    """

    names: tuple[str, ...]
    axes: tuple[Floats, Floats]
    log_likelihood: Floats
    log_evidence: float
    mean: Floats
    standard_deviation: Floats

    @classmethod
    def of(cls, names: tuple[str, ...], axes: tuple[Floats, Floats], log_likelihood: Floats) -> GridPosterior:
        """The posterior of a likelihood (G, G), by the trapezoidal rule."""
        logs = log_likelihood + sum(np.meshgrid(*[_log_weights(axis) for axis in axes], indexing="ij"))
        area = np.prod([axis[-1] - axis[0] for axis in axes])
        total = float(special.logsumexp(logs))
        share = np.exp(logs - total)
        sides = [share.sum(1 - i) for i in (0, 1)]
        mean = np.array([side @ axis for side, axis in zip(sides, axes, strict=True)])
        variance = [side @ (axis - m) ** 2 for side, axis, m in zip(sides, axes, mean, strict=True)]
        return cls(names, axes, log_likelihood, total - float(np.log(area)), mean, np.sqrt(variance))

    @cached_property
    def _spline(self) -> interpolate.RectBivariateSpline:
        return interpolate.RectBivariateSpline(*self.axes, self.log_likelihood, kx=3, ky=3, s=0)

    @property
    def log_density(self) -> Floats:
        """Of the posterior on the grid (G, G), normalised."""
        return self.log_likelihood - self.log_evidence - self._log_area

    @property
    def _log_area(self) -> float:
        return float(np.log(np.prod([axis[-1] - axis[0] for axis in self.axes])))

    def log_likelihood_at(self, theta: ArrayLike) -> Floats:
        """log p(x | theta) (M,) of points (M, 2) inside the grid, interpolated by cubic splines."""
        values = np.atleast_2d(np.asarray(theta, np.float64))
        return np.asarray(self._spline.ev(values[:, 0], values[:, 1]))

    def log_prob(self, theta: ArrayLike) -> Floats:
        """The log density (M,) of points (M, 2); -inf outside of the grid."""
        values = np.atleast_2d(np.asarray(theta, np.float64))
        ends = zip(values.T, self.axes, strict=True)
        inside = np.all([(axis[0] <= v) & (v <= axis[-1]) for v, axis in ends], 0)
        return np.where(inside, self.log_likelihood_at(values) - self.log_evidence - self._log_area, -np.inf)

    def sample(self, n: int, *, seed: int) -> Floats:
        """``n`` draws (n, 2): cells of a grid of 800 x 800 in proportion to their density, uniform inside a cell."""
        rng = np.random.default_rng([seed, 11])
        edges = [np.linspace(axis[0], axis[-1], 801) for axis in self.axes]
        logs = self._spline(*[(e[1:] + e[:-1]) / 2 for e in edges])
        total = np.cumsum(np.exp(logs - logs.max()))
        cells = np.unravel_index(np.searchsorted(total / total[-1], rng.random(n), side="right"), logs.shape)
        return np.stack([e[c] + (e[1] - e[0]) * rng.random(n) for e, c in zip(edges, cells, strict=True)], 1)

    def best(self) -> Floats:
        """The point (2,) of the largest likelihood, found from the best point of the grid."""
        start = np.unravel_index(np.argmax(self.log_likelihood), self.log_likelihood.shape)
        first = np.array([axis[i] for axis, i in zip(self.axes, start, strict=True)])
        found = optimize.minimize(lambda t: -float(self._spline.ev(*t)), first, method="Nelder-Mead",
                                  bounds=[(axis[0], axis[-1]) for axis in self.axes])  # fmt: skip
        return np.asarray(found.x)


def _log_weights(axis: Floats) -> Floats:
    """Of the trapezoidal rule."""
    weights = np.full(len(axis), axis[1] - axis[0])
    weights[[0, -1]] /= 2
    return np.asarray(np.log(weights))
