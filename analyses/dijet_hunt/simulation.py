r"""Events of two jets like those of the LHC Olympics 2020, with densities that are known exactly.

A background of two jets of quarks or gluons, and a signal :math:`W' \to X Y` with masses of 3.5 TeV, 500 GeV and
100 GeV, whose decay products are two jets of two prongs each.  Columns, masses in TeV:

    m            of the two jets together, 2.5 to 8
    mJ1          of the lighter jet
    delta_mJ     of the heavier jet less mJ1
    tau21_1, _2  subjettiness tau2/tau1 of the lighter and the heavier jet, small for two prongs

**Mass.** The background's is a dijet function, the signal's a peak with a tail to low masses, cut off at both ends,

.. math:: p_B(m) \propto (1 - x)^{8} x^{-3}, \; x = m / 13 \text{ TeV}, \qquad
          p_S(m) \propto 0.75\,N(3.5, 0.1) + 0.25\,N(3.2, 0.35).

**Features.** Logarithms of masses and log odds of subjettinesses, :math:`u = (\ln m_{J1}, \ln \Delta m_J,
\mathrm{logit} \tau_1, \mathrm{logit} \tau_2)`, are normal, for the signal a mixture of two: of what is reconstructed
well, and of what is not,

.. math:: p_B(u | m) = N(\mu_B + g \ln(m / 3.5), \Sigma_B), \qquad p_S(u) = (1-w) N(\mu_S, D_S) + w N(\mu_T, D_T),

with the Jacobian of u for the density of the features themselves.  :math:`p_S / p_B` is the best score that there is.

**Shifted.** With ``shift`` = 0.1, :math:`m_{J1}` and :math:`\Delta m_J` of all events gain 0.1 m: features that follow
the mass, as in section V of arXiv 2109.00546.

The numbers are made to look like the published figures (falling jet masses with long tails, subjettinesses around 0.55;
peaks of the signal at 0.1 and 0.4 TeV, subjettinesses of 0.2 to 0.3), not fitted to the events themselves, so that the
largest significance improvement of the exact ratio in the signal region is between 15 and 20, as it is there.

Sources: Kasieczka et al., arXiv 2101.08320 (LHC Olympics); Hallin et al., arXiv 2109.00546 (features, shifted data).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import special

import nuinfer as nu
from nuinfer.events import Ragged, offsets_of

__all__ = ["FEATURES", "MASS", "SIGNAL_REGION", "Constituents", "Dijets", "truth_of"]

Floats = NDArray[np.float64]
Interval = tuple[float, float]

MASS = "m"
FEATURES = ("mJ1", "delta_mJ", "tau21_1", "tau21_2")
BOUNDS: dict[str, tuple[float | None, float | None]] = {
    "mJ1": (0.0, None), "delta_mJ": (0.0, None), "tau21_1": (0.0, 1.0), "tau21_2": (0.0, 1.0)}  # fmt: skip
TRUTH = "is_signal"
CLOUD = "constituents"
FIELDS = ("log_pt", "log_dr", "jet")  # that a network is given
SIGNAL_REGION: Interval = (3.3, 3.7)
RANGE: Interval = (2.5, 8.0)  # of m
ENERGY, POWERS = 13.0, (8.0, 3.0)
PIVOT = 3.5

_GRID = 20_001  # points of the cumulative spectrum


def _logit(p: float) -> float:
    return float(np.log(p / (1 - p)))


def _u(masses: tuple[float, float], taus: tuple[float, float]) -> tuple[float, ...]:
    """Where u is for medians of the features."""
    return (*(float(np.log(m)) for m in masses), *(_logit(t) for t in taus))


@dataclass(frozen=True)
class Normal:
    """A normal density of u: means, deviations, and correlations (01, 02, 03, 12, 13, 23)."""

    mean: tuple[float, ...]
    sigma: tuple[float, ...]
    correlation: tuple[float, ...] = (0.0,) * 6

    @property
    def factor(self) -> Floats:
        """Cholesky's L (4, 4), of the covariance L L^T."""
        matrix = np.eye(4)
        matrix[np.triu_indices(4, 1)] = self.correlation
        matrix = np.triu(matrix) + np.triu(matrix, 1).T
        return np.asarray(np.linalg.cholesky(matrix * np.outer(self.sigma, self.sigma)))

    def draw(self, n: int, rng: np.random.Generator) -> Floats:
        """(n, 4)."""
        return np.asarray(self.mean + rng.standard_normal((n, 4)) @ self.factor.T)

    def log_prob(self, u: Floats) -> Floats:
        """(N, 4) -> (N,)."""
        z = np.linalg.solve(self.factor, (u - np.asarray(self.mean)).T)
        return np.asarray(-0.5 * (z**2).sum(0) - np.log(np.diag(self.factor)).sum() - 2 * np.log(2 * np.pi))


BACKGROUND = Normal(_u((0.11, 0.13), (0.55, 0.50)), (0.6, 0.9, 0.7, 0.75), (-0.2, -0.15, -0.1, 0.0, -0.25, 0.1))
GROWTH = (0.1, 0.1, 0.0, 0.0)  # g: jet masses rise a little with m
SIGNAL = Normal(_u((0.10, 0.40), (0.29, 0.215)), (0.12, 0.10, 0.6, 0.6))
BADLY = Normal(_u((0.11, 0.30), (0.45, 0.35)), (0.5, 0.5, 0.7, 0.7))  # reconstructed
BADLY_SHARE = 0.25
PEAK = ((0.75, 3.5, 0.1), (0.25, 3.2, 0.35))  # share, mean and deviation of m


@dataclass(frozen=True, kw_only=True)
class Dijets:
    """The events; ``shift`` is what mJ1 and delta_mJ gain per TeV of m.

    A wrong simulation of the background has other numbers: ``Dijets(background=..., growth=...)``.

    Raises
    ------
    ValueError
        for a shift that is negative or not finite.

    Examples
    --------
    >>> dijets = Dijets()
    >>> data = dijets.data(20_000, 100, seed=1)
    >>> data.columns, len(data)
    (('m', 'mJ1', 'delta_mJ', 'tau21_1', 'tau21_2'), 20100)
    >>> bool(np.quantile(dijets.log_ratio(data), 0.995) > 3)
    True
    """

    shift: float = 0.0
    background: Normal = BACKGROUND
    growth: tuple[float, ...] = GROWTH

    def __post_init__(self) -> None:
        """Check what is given."""
        if not 0 <= self.shift < np.inf:
            raise ValueError(f"shift: expected a number from 0, found {self.shift}")

    # -- samples

    def draw_background(self, n: int, seed: int, *, region: Interval = RANGE) -> nu.Events:
        """``n`` background events, on request with masses in ``region`` alone."""
        rng = _generator("background", seed)
        first, last = _cumulative(np.array(_inside(region)))
        m = _mass_at(first + rng.random(_count(n)) * (last - first))
        return self._events(m, self.background.draw(n, rng) + self._moved(m))

    def draw_signal(self, n: int, seed: int, *, region: Interval = RANGE) -> nu.Events:
        """``n`` signal events, on request with masses in ``region`` alone."""
        rng = _generator("signal", seed)
        region = _inside(region)
        part = rng.random(_count(n)) < _peak_shares(region)[0]
        m = np.where(part, *(_cut_normal(mean, sigma, region, rng.random(n)) for _, mean, sigma in PEAK))
        badly = rng.random(n) < BADLY_SHARE
        return self._events(m, np.where(badly[:, None], BADLY.draw(n, rng), SIGNAL.draw(n, rng)))

    def data(self, background: int, signal: int, seed: int, *, keep_truth: bool = False) -> nu.Events:
        """So many events of each in random order; ``keep_truth`` adds the column ``is_signal``."""
        parts = self.draw_background(background, seed), self.draw_signal(signal, seed)
        return mixed(parts, seed, keep_truth=keep_truth)

    def _events(self, m: Floats, u: Floats) -> nu.Events:
        masses = np.exp(u[:, :2]) + self.shift * m[:, None]
        columns = [*masses.T, *special.expit(u[:, 2:]).T]
        return nu.Events({MASS: m, **dict(zip(FEATURES, columns, strict=True))})

    # -- densities

    def log_background(self, events: nu.Events) -> Floats:
        """log p_B(x | m) (N,), -inf for jet masses below what the shift adds."""
        u, jacobian = self._u(events)
        m = np.asarray(events.flat(MASS), np.float64)
        return _or_nothing(self.background.log_prob(u - self._moved(m)) + jacobian)

    def log_signal(self, events: nu.Events) -> Floats:
        """log p_S(x | m) (N,), -inf likewise."""
        u, jacobian = self._u(events)
        good, bad = np.log1p(-BADLY_SHARE) + SIGNAL.log_prob(u), np.log(BADLY_SHARE) + BADLY.log_prob(u)
        return _or_nothing(np.logaddexp(good, bad) + jacobian)

    def log_ratio(self, events: nu.Events) -> Floats:
        """log p_S(x | m) / p_B(x | m) (N,): the best score of the features at a known mass."""
        return self.log_signal(events) - self.log_background(events)

    def log_excess(self, events: nu.Events, background: float, signal: float) -> Floats:
        """log p_data(x | m) / p_B(x | m) (N,) of data with so many events of each: what a perfect search learns."""
        m = events.flat(MASS)
        one = np.log(np.maximum(signal * mass_signal(m), 1e-300))
        other = np.log(background * mass_background(m))
        return np.asarray(np.logaddexp(one + self.log_ratio(events), other) - np.logaddexp(one, other))

    def _moved(self, m: Floats) -> Floats:
        return np.asarray(np.log(m / PIVOT)[:, None] * np.asarray(self.growth))

    def _u(self, events: nu.Events) -> tuple[Floats, Floats]:
        """u (N, 4) and the log of its Jacobian (N,)."""
        m = np.asarray(events.flat(MASS), np.float64)
        x = np.stack([np.asarray(events.flat(name), np.float64) for name in FEATURES], 1)
        masses, taus = x[:, :2] - self.shift * m[:, None], x[:, 2:]
        with np.errstate(invalid="ignore", divide="ignore"):
            u = np.concatenate([np.log(masses), special.logit(taus)], 1)
            jacobian = -np.log(masses).sum(1) - (np.log(taus) + np.log1p(-taus)).sum(1)
        return u, jacobian


# -- the mass ----------------------------------------------------------------------------------------------------------


def mass_background(m: ArrayLike) -> Floats:
    """p_B(m) (N,)."""
    at = np.asarray(m, np.float64)
    return np.where((at >= RANGE[0]) & (at <= RANGE[1]), _dijet(np.clip(at, *RANGE)) / _NORM, 0.0)


def mass_signal(m: ArrayLike, region: Interval = RANGE) -> Floats:
    """p_S(m) (N,), on request in a region alone."""
    at = np.asarray(m, np.float64)
    density = sum(share * _normal((at - mean) / sigma) / sigma for share, mean, sigma in PEAK)
    whole = sum(share * _content(mean, sigma, region) for share, mean, sigma in PEAK)
    return np.where((at >= region[0]) & (at <= region[1]), density / whole, 0.0)


def share_of(region: Interval) -> tuple[float, float]:
    """The fractions of background and of signal events with masses in ``region``."""
    first, last = _cumulative(np.array(_inside(region)))
    inside, whole = (sum(s * _content(mean, sigma, r) for s, mean, sigma in PEAK) for r in (_inside(region), RANGE))
    return float(last - first), float(inside / whole)


def _dijet(m: Floats) -> Floats:
    x = m / ENERGY
    return np.asarray((1 - x) ** POWERS[0] * x ** -POWERS[1])


def _integral(low: Floats, high: Floats) -> Floats:
    """Of the dijet function over intervals (N,), by 16 points of Gauss and Legendre in each."""
    node, weight = np.polynomial.legendre.leggauss(16)
    at = (low + high)[:, None] / 2 + (high - low)[:, None] / 2 * node
    return np.asarray(_dijet(at) @ weight * (high - low) / 2)


_POINTS = np.linspace(*RANGE, _GRID)
_SUMS = np.concatenate([[0.0], np.cumsum(_integral(_POINTS[:-1], _POINTS[1:]))])
_NORM = float(_SUMS[-1])


def _cumulative(m: Floats) -> Floats:
    return np.asarray(np.interp(m, _POINTS, _SUMS / _NORM))


def _mass_at(share: Floats) -> Floats:
    return np.asarray(np.interp(share, _SUMS / _NORM, _POINTS))


def _normal(z: Floats) -> Floats:
    return np.asarray(np.exp(-0.5 * z**2) / np.sqrt(2 * np.pi))


def _content(mean: float, sigma: float, region: Interval) -> float:
    return float(np.diff(special.ndtr((np.array(region) - mean) / sigma))[0])


def _peak_shares(region: Interval) -> Floats:
    found = np.array([share * _content(mean, sigma, region) for share, mean, sigma in PEAK])
    return np.asarray(found / found.sum())


def _cut_normal(mean: float, sigma: float, region: Interval, share: Floats) -> Floats:
    first, last = special.ndtr((np.array(region) - mean) / sigma)
    return np.asarray(np.clip(mean + sigma * special.ndtri(first + share * (last - first)), *region))


def _inside(region: Interval) -> Interval:
    if not RANGE[0] <= region[0] < region[1] <= RANGE[1]:
        raise ValueError(f"region: expected (low, high) from {RANGE[0]:g} to {RANGE[1]:g} TeV, found {region}")
    return region


# -- constituents ------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True)
class Constituents:
    r"""Clouds of constituents for the two jets of events: ``pt``, ``d_eta``, ``d_phi`` and ``jet`` of each, and logs.

    A jet of mass :math:`m_J` and transverse momentum :math:`p_T = m / 2` has two prongs, a distance :math:`\Delta` from
    each other in a random direction, with the jet's axis where their momenta balance.  z, the softer prong's share of
    the momentum, is uniform from 0.2 to 0.5 for the signal and :math:`\propto 1/z` from 0.05 to 0.5 for the background,
    whose splittings are soft.  A Poisson number of constituents, at least four, has shares of their prong's momentum
    that are flat on the simplex, and is normally distributed about it with a deviation of :math:`\tau_{21} \Delta / 4`;
    so that on average, at small angles,

    .. math:: m_J^2 = p_T^2 \sum_i z_i r_i^2 = p_T^2 \Delta^2 \, \big(z (1 - z) + \tau_{21}^2 / 8\big).

    ``pt`` are fractions of the jet's, ``d_eta`` and ``d_phi`` distances to its axis;
    ``jet`` is -1 for the lighter and 1 for the heavier jet.  For networks there are ``log_pt``, and ``log_dr`` of the
    distance to the axis times m / (3.5 TeV), which for a jet of one mass does not depend on m.

    Parameters
    ----------
    mean:
        Of the number of constituents of a jet.

    Raises
    ------
    ValueError
        for fewer than four on average, or events without the column ``is_signal``.
    """

    mean: float = 20.0

    def __post_init__(self) -> None:
        """Check what is given."""
        if not 4 <= self.mean < np.inf:
            raise ValueError(f"mean: expected at least 4 constituents a jet, found {self.mean}")

    def of(self, events: nu.Events, seed: int) -> nu.Events:
        """The events with the cloud's columns, ``constituents.pt`` and so on, made with the knowledge of the truth."""
        truth = truth_of(events)
        rng = _generator("constituents", seed)
        m, light = (np.asarray(events.flat(name), np.float64) for name in (MASS, "mJ1"))
        pair = [(light, events["tau21_1"], -1.0), (light + events["delta_mJ"], events["tau21_2"], 1.0)]
        jets = [self._jet(2 * mass / m, np.asarray(tau), truth, label, rng) for mass, tau, label in pair]
        owner = np.concatenate([jet[0] for jet in jets])
        order = np.argsort(owner, kind="stable")
        offsets = offsets_of(np.bincount(owner, minlength=len(events)))
        cloud = {name: np.concatenate([jet[1][name] for jet in jets])[order] for name in jets[0][1]}
        far = np.hypot(cloud["d_eta"], cloud["d_phi"]) * np.repeat(m / PIVOT, np.diff(offsets))
        cloud |= {"log_pt": np.log(cloud["pt"]), "log_dr": np.log(far)}
        return events.with_columns({f"{CLOUD}.{name}": Ragged(values, offsets) for name, values in cloud.items()})

    def _jet(
        self, ratio: Floats, tau: Floats, truth: NDArray[np.bool_], label: float, rng: np.random.Generator
    ) -> tuple[NDArray[np.int64], dict[str, Floats]]:  # fmt: skip
        """The event of each constituent, and its columns; ``ratio`` (N,) is m_J / p_T."""
        n = len(ratio)
        z = np.where(truth, rng.uniform(0.2, 0.5, n), 0.05 * 10.0 ** rng.random(n))
        angle, turn = ratio / np.sqrt(z * (1 - z) + tau**2 / 8), rng.uniform(-np.pi, np.pi, n)
        owner = np.repeat(np.arange(n), np.maximum(rng.poisson(self.mean, n), 4))
        second = _halves(owner)
        side = np.where(second, 1 - z[owner], -z[owner])  # momenta balance
        near = rng.standard_normal((2, len(owner))) * (0.25 * tau * angle)[owner]
        place = side * angle[owner] * np.stack([np.cos(turn), np.sin(turn)])[:, owner] + near
        return owner, {"pt": _shares(owner, second, z, rng), "d_eta": place[0], "d_phi": place[1],
                       "jet": np.full(len(owner), label)}  # fmt: skip


def _halves(owner: NDArray[np.int64]) -> NDArray[np.bool_]:
    """Every second constituent of an event is of the softer prong."""
    start = np.concatenate([[0], np.cumsum(np.bincount(owner))])[:-1]
    return np.asarray((np.arange(len(owner)) - start[owner]) % 2 == 1)


def _shares(owner: NDArray[np.int64], second: NDArray[np.bool_], z: Floats, rng: np.random.Generator) -> Floats:
    """Fractions of the jet's momentum, which sum to z in the softer prong and to 1 - z in the other."""
    size, prong = rng.standard_exponential(len(owner)), 2 * owner + second
    total = np.bincount(prong, size)
    return np.asarray(size / total[prong] * np.where(second, z[owner], 1 - z[owner]))


# -- events ------------------------------------------------------------------------------------------------------------


def mixed(parts: Sequence[nu.Events], seed: int, *, keep_truth: bool = False) -> nu.Events:
    """Background and signal events in random order, with ids of their own."""
    events = nu.Events.concat([nu.Events({name: part[name] for name in part.columns}) for part in parts])
    truth = np.repeat([False, True], [len(part) for part in parts])
    order = _generator("order", seed).permutation(len(events))
    columns = {name: events[name] for name in events.columns} | ({TRUTH: truth} if keep_truth else {})
    return nu.Events({name: values[order] for name, values in columns.items()})


def truth_of(events: nu.Events) -> NDArray[np.bool_]:
    """Which events are signal (N,); ``KeyError`` where they do not say so."""
    if TRUTH not in events:
        raise KeyError(f"events: expected the column {TRUTH!r}, found {', '.join(events.columns)}; draw them with "
                       f"keep_truth=True")  # fmt: skip
    return np.asarray(events[TRUTH], np.bool_)


def _or_nothing(log: Floats) -> Floats:
    return np.asarray(np.where(np.isnan(log), -np.inf, log))


def _generator(name: str, seed: int) -> np.random.Generator:
    return np.random.default_rng(nu.hashing.salt(seed, f"dijet hunt {name}"))


def _count(n: int) -> int:
    if not isinstance(n, int | np.integer) or n < 0:
        raise ValueError(f"n: expected a number of events from 0, found {n!r}")
    return int(n)
