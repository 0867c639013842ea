r"""Signal, background and their interference with six nuisance parameters: every density and likelihood is exact.

Two amplitudes of a parton-level point z, whose relative phase turns with z0 as across a resonance, give the rate

.. math:: \lambda(z) = \mu\, a^2 + b^2 + 2 c \sqrt\mu\, a b \cos\varphi(z_0), \qquad \varphi = k\,(z_0 - \zeta),

c < 1 being their coherence, and a detector measures x.  With :math:`a^2` and :math:`b^2` Gaussian functions of z,
:math:`a b` is one too, and a Gaussian resolution keeps the family: the cosine only gets damped,

.. math:: \int N(z; m, v) \cos k(z - \zeta)\, N(x - z; 0, \sigma^2)\, dz = N(x; m, v + \sigma^2)\, e^{-k^2 v (1 - K)/2}
          \cos k\,(m + K (x - m) - \zeta), \qquad K = \frac{v}{v + \sigma^2} .

The simulation of signal, background and interference together (SBI) has :math:`\mu = 1`, so that

.. math:: \lambda = (\mu - \sqrt\mu)\, \nu_S\, p_S + (1 - \sqrt\mu)\, \nu_B\, p_B + \sqrt\mu\, \nu_{SBI}\, p_{SBI}

(ATLAS, arXiv 2412.01600), at any value of the nuisances

====================  ================================================================================================
``luminosity``        all rates, by :math:`e^{0.02 \alpha}`
``signal``            :math:`a^2` by :math:`e^{0.05 \alpha}`, hence SBI in norm and shape
``background``        :math:`b^2` by :math:`e^{0.08 \alpha}`, hence SBI in norm and shape
``hardness``          the mean of :math:`b^2` in z0 and z1, by 0.10 and 0.05
``scale``             the detector's scale of x0 and x1, by :math:`e^{0.02 \alpha}`
``resolution``        the detector's resolution, by :math:`e^{0.15 \alpha}`
====================  ================================================================================================

in units of one standard deviation.  Samples are drawn by rejection: :math:`\lambda \le (1 + c) (\mu a^2 + b^2)`.
Sources: the amplitudes' identity is elementary; extended likelihood, Barlow, NIM A297 (1990) 496.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, NamedTuple

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from torch import Tensor

from ..errors import closest
from ..events import Events
from .gaussian import check_negative, columns_of, count, generator, matrix_of, signs

__all__ = ["Interference"]

Floats = NDArray[np.float64]
Sample = Literal["S", "B", "SBI"]

_SAMPLES: tuple[Sample, ...] = ("S", "B", "SBI")
_NUISANCES = ("luminosity", "signal", "background", "hardness", "scale", "resolution")
# of the signal's and the background's squared amplitude, in up to five dimensions
_MEAN = ((2.2, 1.6, 0.4, -0.4, 0.3), (1.6, 1.2, -0.2, 0.1, 0.0))
_SD = ((0.4, 0.6, 0.8, 0.9, 1.0), (0.7, 0.7, 1.0, 1.0, 1.0))
_NOISE = (0.15, 0.25, 0.3, 0.3, 0.3)
_HARDNESS = (0.10, 0.05, 0.0, 0.0, 0.0)
_SCALED = (1.0, 1.0, 0.0, 0.0, 0.0)
_TURN, _ZETA = 2.5, 1.2  # k and zeta: the interference changes sign at z0 = zeta + pi / 2k
_LUMINOSITY, _SIGNAL, _BACKGROUND, _SCALE, _RESOLUTION = 0.02, 0.05, 0.08, 0.02, 0.15


class _Term(NamedTuple):
    """t N(x; mean, variance) cos k(x0 - zeta), the components of x independent: (D,) mean and variance, else ()."""

    total: Tensor
    mean: Tensor
    variance: Tensor
    turn: Tensor
    zeta: Tensor

    def integral(self) -> Tensor:
        """Over all x."""
        return self.total * torch.exp(-0.5 * self.turn**2 * self.variance[0]) * self._wave(self.mean)

    def log_normal(self, x: Tensor) -> Tensor:
        """The log of the normal density (*) at x (*, D)."""
        each = (x - self.mean) ** 2 / self.variance + torch.log(2 * torch.pi * self.variance)
        return -0.5 * each.sum(-1)

    def _wave(self, x: Tensor) -> Tensor:
        return torch.cos(self.turn * (x[..., 0] - self.zeta))

    def factor(self, x: Tensor) -> Tensor:
        """What the normal density is multiplied by (*), of either sign."""
        return self.total * self._wave(x)

    def seen(self, noise: Tensor, scale: Tensor) -> _Term:
        """The same after a resolution (D,) and then a scale (D,)."""
        v, wider = self.variance[0], self.variance + noise**2
        share = v / wider[0]
        total = self.total * torch.exp(-0.5 * self.turn**2 * v * (1 - share))
        zeta = (self.mean[0] - (self.mean[0] - self.zeta) / share) * scale[0]
        return _Term(total, self.mean * scale, wider * scale**2, self.turn * share / scale[0], zeta)


def _product(a: _Term, b: _Term) -> _Term:
    """sqrt(a b) without phases: the product of the amplitudes whose squares are a and b."""
    both = a.variance + b.variance
    mean = (a.mean * b.variance + b.mean * a.variance) / both
    log_overlap = 0.5 * torch.log(2 * torch.sqrt(a.variance * b.variance) / both) - (a.mean - b.mean) ** 2 / (4 * both)
    total = torch.sqrt(a.total * b.total) * torch.exp(log_overlap.sum())
    return _Term(total, mean, 2 * a.variance * b.variance / both, a.turn, a.zeta)


@dataclass(frozen=True, kw_only=True)
class Interference:
    r"""The problem in D dimensions; events have columns ``x0``, ... (measured) and ``z0``, ... (parton level).

    Parameters
    ----------
    dim:
        D, from 1 to 5.
    signal, background:
        The integrals of :math:`a^2` and :math:`b^2`: expected numbers of events without the other.
    coherence:
        c, from 0 (no interference) to below 1.
    negative:
        The share of negative weights in simulated samples, about; their densities are exact in expectation.
    spread:
        The relative standard deviation of a further, log-normal factor of mean 1 of the weights.

    Examples
    --------
    >>> problem = Interference(dim=2)
    >>> problem.names
    ('mu', 'luminosity', 'signal', 'background', 'hardness', 'scale', 'resolution')
    >>> sample = problem.sample("SBI", 1000, seed=1)
    >>> bool((sample.weight < 0).any()), 900 < sample.sum_weights < 1100
    (True, True)
    >>> data = problem.data(seed=1, mu=1.5)
    >>> abs(len(data) - problem.expected(mu=1.5)) < 4 * problem.expected(mu=1.5) ** 0.5
    True
    >>> problem.deviance(data, mu=1.5) < problem.deviance(data, mu=0.2)
    True

    Raises
    ------
    ValueError
        for options out of their range.
    """

    dim: int = 5
    signal: float = 150.0
    background: float = 400.0
    coherence: float = 0.8
    negative: float = 0.03
    spread: float = 0.2

    def __post_init__(self) -> None:
        if self.dim not in range(1, 6):
            raise ValueError(f"Interference: expected 1 to 5 dimensions, found {self.dim}")
        if not (0 < self.signal < np.inf and 0 < self.background < np.inf):
            raise ValueError(f"Interference: expected positive rates, found {self.signal} and {self.background}")
        if not 0 <= self.coherence < 1:
            raise ValueError(f"Interference: expected a coherence in [0, 1), found {self.coherence}; at 1 the rate can "
                             f"vanish")  # fmt: skip
        check_negative(self.negative)
        if not 0 <= self.spread < np.inf:
            raise ValueError(f"spread: expected a relative standard deviation from 0, found {self.spread}")

    @property
    def names(self) -> tuple[str, ...]:
        """mu and the nuisances: the order of the parameters in `tensor`."""
        return ("mu", *_NUISANCES)

    @property
    def nuisances(self) -> tuple[str, ...]:
        """The nuisances, each with a standard normal constraint."""
        return _NUISANCES

    @property
    def columns(self) -> list[str]:
        """The measured columns."""
        return [f"x{i}" for i in range(self.dim)]

    # -- exact answers -------------------------------------------------------------------------------------------------

    def yields(self, sample: Sample, **values: float) -> float:
        """The expected number of events of a sample, at mu = 1 for SBI; nuisances default to 0."""
        use, terms = self._parts(sample, self.point(values))
        return float(use @ torch.stack([t.integral() for t in terms]))

    def log_density(self, sample: Sample, x: Events | ArrayLike, **values: float) -> Floats:
        r"""The log density of a sample at x: Events, or (\*, D) -> (\*); nuisances default to 0."""
        return self._log_density(sample, x, "x", values)

    def log_parton_density(self, sample: Sample, z: Events | ArrayLike, **values: float) -> Floats:
        r"""The same at parton level: Events (columns ``z0``, ...), or (\*, D) -> (\*).

        Generators give such numbers, squared matrix elements over cross sections; quotients of two are the weights that
        make one sample into another.
        """
        return self._log_density(sample, z, "z", values)

    def expected(self, **values: float) -> float:
        """The expected number of events at (mu, nuisances); mu defaults to 1."""
        return float(self.rate_tensor(torch.zeros(0, self.dim, dtype=torch.float64), self.point(values))[0])

    def log_rate(self, x: Events | ArrayLike, **values: float) -> Floats:
        r"""The log of the expected number of events per unit of x: Events, or (\*, D) -> (\*)."""
        at = torch.from_numpy(matrix_of(x, "x", self.dim))
        return np.asarray(self.rate_tensor(at, self.point(values))[1].numpy())

    def deviance(self, data: Events, **values: float) -> float:
        """-2 log L of weighted events, extended, without constraints: 2 expected - 2 sum_i w_i log rate(x_i)."""
        return float(2 * self.expected(**values) - 2 * np.dot(data.weight, self.log_rate(data, **values)))

    def rate_tensor(self, x: Tensor, theta: Tensor) -> tuple[Tensor, Tensor]:
        r"""`expected` () and `log_rate` (\*) for x (\*, D) and parameters (7,), differentiable."""
        mu, terms = theta[0], self._terms(theta, measured=True)
        use = torch.stack([mu, torch.ones_like(mu), torch.sqrt(mu)])
        return use @ torch.stack([t.integral() for t in terms]), _log_sum(use, terms, x)

    # -- samples -------------------------------------------------------------------------------------------------------

    def sample(self, sample: Sample, n: int, seed: int, **values: float) -> Events:
        """``n`` weighted events, of expected total weight n.

        Events of the same seed are the same at parton level for every ``scale`` and ``resolution``, with the same ids
        and weights: only what the detector makes of them moves.
        """
        n, at = count("n", n), self.point(values)
        rng = generator(f"interference {sample}", seed)
        z = self._drawn(_check_sample(sample), n, at, rng)
        x = self._measured(z, at, rng)
        probability = np.minimum(2 * self.negative / (1 + np.exp(_MEAN[1][0] - z[:, 0])), 0.45)
        log_variance = np.log1p(self.spread**2)
        factor = np.exp(np.sqrt(log_variance) * rng.standard_normal(n) - log_variance / 2)
        ids = rng.integers(np.iinfo(np.int64).max, size=n)
        columns = {**columns_of("x", x), **columns_of("z", z)}
        return Events(columns, weight=signs(rng, probability, n) * factor, id=ids)

    def data(self, seed: int | Sequence[int] | np.random.Generator, **values: float) -> Events:
        """A pseudo-experiment at (mu, nuisances): a Poisson number of events of weight 1, measured columns only."""
        rng = generator("interference data", seed) if isinstance(seed, int) else np.random.default_rng(seed)
        at = self.point(values)
        z = self._thinned(rng.poisson(self._bound(at)), at, rng)
        return Events(columns_of("x", self._measured(z, at, rng)))

    # -- inner ---------------------------------------------------------------------------------------------------------

    def point(self, values: Mapping[str, float]) -> Tensor:
        """Parameters (7,) from named ones, mu = 1 and nuisances 0 unless given.

        Raises
        ------
        KeyError, ValueError
            for a name that is none of `names`, a negative mu, or values that are not finite.
        """
        for name, value in values.items():
            if name not in self.names:
                raise KeyError(f"no parameter {name!r}; {closest(name, self.names)}")
            if not np.isfinite(value) or (name == "mu" and value < 0):
                raise ValueError(f"{name}: expected a finite value{', from 0' * (name == 'mu')}, found {value}")
        defaults = {"mu": 1.0, **dict.fromkeys(_NUISANCES, 0.0), **values}
        return torch.tensor([defaults[name] for name in self.names], dtype=torch.float64)

    def _terms(self, theta: Tensor, *, measured: bool) -> tuple[_Term, ...]:
        """a^2, b^2 and 2 c a b at parton level or in the detector, without mu."""
        _, luminosity, signal, background, hardness, scale, resolution = theta.unbind()
        first, second = torch.exp(_SIGNAL * signal), torch.exp(_BACKGROUND * background)
        none = torch.zeros((), dtype=torch.float64)
        mean = self._vector(_MEAN[1]) + hardness * self._vector(_HARDNESS)
        s = _Term(self.signal * first, self._vector(_MEAN[0]), self._vector(_SD[0]) ** 2, none, none)
        b = _Term(self.background * second, mean, self._vector(_SD[1]) ** 2, none, none)
        both = _product(s, b)._replace(turn=none + _TURN, zeta=none + _ZETA)
        terms: tuple[_Term, ...] = (s, b, both._replace(total=2 * self.coherence * both.total))
        terms = tuple(t._replace(total=t.total * torch.exp(_LUMINOSITY * luminosity)) for t in terms)
        if not measured:
            return terms
        noise = self._vector(_NOISE) * torch.exp(_RESOLUTION * resolution)
        scales = torch.exp(_SCALE * scale * self._vector(_SCALED))
        return tuple(t.seen(noise, scales) for t in terms)

    def _vector(self, values: Sequence[float]) -> Tensor:
        return torch.tensor(values[: self.dim], dtype=torch.float64)

    def _parts(self, sample: Sample, theta: Tensor, *, measured: bool = True) -> tuple[Tensor, tuple[_Term, ...]]:
        """How often (3,) a sample has each of the terms, and the terms."""
        use = {"S": (1.0, 0.0, 0.0), "B": (0.0, 1.0, 0.0), "SBI": (1.0, 1.0, 1.0)}[_check_sample(sample)]
        return torch.tensor(use, dtype=torch.float64), self._terms(theta, measured=measured)

    def _log_density(self, sample: Sample, at: Events | ArrayLike, name: str, values: Mapping[str, float]) -> Floats:
        where = torch.from_numpy(matrix_of(at, name, self.dim))
        use, terms = self._parts(sample, self.point(values), measured=name == "x")
        total = use @ torch.stack([t.integral() for t in terms])
        return _numpy(_log_sum(use, terms, where) - torch.log(total))

    def _bound(self, theta: Tensor) -> float:
        """The expected number of candidates of the rejection: the integral of (1 + c) (mu a^2 + b^2)."""
        s, b, _ = self._terms(theta, measured=False)
        return float((1 + self.coherence) * (theta[0] * s.total + b.total))

    def _thinned(self, n: int, theta: Tensor, rng: np.random.Generator) -> Floats:
        """Of n candidates those that follow mu a^2 + b^2 + 2 c sqrt(mu) a b."""
        terms = self._terms(theta, measured=False)
        mu, s, b = float(theta[0]), terms[0], terms[1]
        first = rng.random(n) < float(mu * s.total / (mu * s.total + b.total))
        z = np.where(first[:, None], _normal(s, n, rng), _normal(b, n, rng))
        at = torch.from_numpy(z)
        use = torch.tensor([mu, 1.0, np.sqrt(mu)], dtype=torch.float64)
        rate, ceiling = _log_sum(use, terms, at), np.log1p(self.coherence) + _log_sum(use[:2], terms[:2], at)
        return np.asarray(z[np.log(rng.random(n)) < _numpy(rate - ceiling)])

    def _drawn(self, sample: Sample, n: int, theta: Tensor, rng: np.random.Generator) -> Floats:
        """Exactly n parton-level events of a sample (n, D)."""
        s, b, _ = self._terms(theta, measured=False)
        if sample != "SBI":
            return _normal(s if sample == "S" else b, n, rng)
        theta = torch.cat([torch.ones_like(theta[:1]), theta[1:]])
        found = [np.empty((0, self.dim))]
        while sum(map(len, found)) < n:
            found.append(self._thinned(max(2 * n, 100), theta, rng))
        return np.concatenate(found)[:n]

    def _measured(self, z: Floats, theta: Tensor, rng: np.random.Generator) -> Floats:
        noise = _numpy(self._vector(_NOISE)) * np.exp(_RESOLUTION * float(theta[6]))
        scale = np.exp(_SCALE * float(theta[5]) * _numpy(self._vector(_SCALED)))
        return np.asarray(scale * (z + noise * rng.standard_normal(z.shape)))


def _log_sum(use: Tensor, terms: Sequence[_Term], x: Tensor) -> Tensor:
    """log sum_j u_j f_j(x) (*) of terms f_j, where the sum is positive."""
    logs = torch.stack([t.log_normal(x) for t in terms])
    top = logs.detach().amax(0)
    factors = torch.stack([u * t.factor(x) for u, t in zip(use, terms, strict=True)])
    return top + torch.log((factors * torch.exp(logs - top)).sum(0))


def _normal(term: _Term, n: int, rng: np.random.Generator) -> Floats:
    mean, sd = _numpy(term.mean), np.sqrt(_numpy(term.variance))
    return np.asarray(mean + sd * rng.standard_normal((n, len(mean))))


def _numpy(values: Tensor) -> Floats:
    return np.asarray(values.numpy())


def _check_sample(sample: Sample) -> Sample:
    if sample not in _SAMPLES:
        raise ValueError(f"sample: expected one of {', '.join(_SAMPLES)}, found {sample!r}")
    return sample
