r"""A resonance over a falling spectrum, with features whose density given the mass is exactly known.

Background and signal have densities of the mass and, given the mass, of D features with unit covariance:

.. math:: p_B(m) \propto e^{-m/\lambda}, \quad p_B(x|m) = N(b + c\,(m - M), 1), \qquad
          p_S(m) = N(M, w^2), \quad p_S(x|m) = N(s, 1)

both with m in one range.  With a correlation c of 0 the features of the background do not depend on the mass, and
sidebands are as good as the background itself; otherwise they are not.  At each mass the best statistic,

.. math:: t = \log \frac{p_S(x)}{p_B(x|m)} \sim N(\mp d^2/2,\, d^2), \qquad d(m) = |s - b - c\,(m - M)|,

is normal for background (-) and signal (+), so that efficiencies, the area under the ROC curve, and the significance
improvement :math:`\epsilon_S / \sqrt{\epsilon_B}` in a region are integrals over the mass.

Sources: Metodiev, Nachman, Thaler, arXiv:1708.02949 (the optimal classifier); Hallin et al., arXiv:2109.00546 (the
shifted features).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import special

from ..events import Events
from .gaussian import columns_of, count, generator

__all__ = ["Resonance"]

Floats = NDArray[np.float64]
Interval = tuple[float, float]

_NODES = 64  # of integrals over the mass


@dataclass(frozen=True, kw_only=True)
class Resonance:
    """Columns ``m`` and ``x0``, ``x1``, ...

    A wrong simulation is another one: ``dataclasses.replace(problem, background_mean=0.3)``.

    Parameters
    ----------
    features:
        D.
    range:
        (low, high) of the mass.
    decay:
        lambda, of the background's spectrum.
    correlation:
        c, by how many standard deviations the features of the background move per unit of mass: a number or (D,).
    background_mean, signal_mean:
        b and s: numbers or (D,).
    mass, width:
        M and w, of the signal.

    Raises
    ------
    ValueError
        for numbers that are not positive, a range that does not rise, a mass outside it, or other lengths than D.

    Examples
    --------
    >>> problem = Resonance(correlation=2.0)
    >>> data = problem.data(20_000, 100, seed=1)
    >>> data.columns, len(data)
    (('m', 'x0', 'x1'), 20100)
    >>> region = (3.3, 3.7)
    >>> round(problem.auc(region), 3), round(problem.sic(region, 0.001), 1)
    (0.978, 12.7)
    >>> problem.moments(region)[0].round(3).tolist()   # not 0: there are more events at small masses
    [-0.044, -0.044]
    """

    features: int = 2
    range: Interval = (2.5, 5.0)
    decay: float = 0.6
    correlation: ArrayLike = 0.0
    background_mean: ArrayLike = 0.0
    signal_mean: ArrayLike = 2.0
    mass: float = 3.5
    width: float = 0.1

    def __post_init__(self) -> None:
        low, high = self.range
        if not min(self.features, self.decay, self.width, low) > 0 or not low < self.mass < high:
            raise ValueError(f"Resonance: expected positive numbers, and a mass inside of the range, found {self}")
        for name in ("correlation", "background_mean", "signal_mean"):
            given = np.asarray(getattr(self, name), np.float64)
            if given.shape not in ((), (self.features,)):
                raise ValueError(f"{name}: expected a number or {self.features}, found shape {given.shape}")
            values = tuple(np.broadcast_to(given, self.features).tolist())
            object.__setattr__(self, name, values)

    @property
    def columns(self) -> list[str]:
        """The features' names."""
        return [f"x{i}" for i in np.arange(self.features)]

    # -- samples -------------------------------------------------------------------------------------------------------

    def background(self, n: int, seed: int, *, region: Interval | None = None) -> Events:
        """``n`` background events, on request with masses in ``region`` alone."""
        return self._background(count("n", n), generator("resonance background", seed), region or self.range)

    def signal(self, n: int, seed: int) -> Events:
        """``n`` signal events."""
        return self._signal(count("n", n), generator("resonance signal", seed))

    def data(self, background: int, signal: int, seed: int, *, keep_truth: bool = False) -> Events:
        """So many events of each in random order; ``keep_truth`` adds the boolean column ``is_signal``."""
        rng = generator("resonance data", seed)
        parts = self._background(count("background", background), rng, self.range), self._signal(signal, rng)
        events = Events.concat(parts).with_columns(is_signal=np.arange(background + signal) >= background)
        events = events.select(rng.permutation(len(events)))
        return Events({n: events[n] for n in ("m", *self.columns, *(["is_signal"] if keep_truth else []))})

    def _background(self, n: int, rng: np.random.Generator, region: Interval) -> Events:
        first, last = np.exp(-np.array(region) / self.decay)
        m = -self.decay * np.log(first + rng.random(n) * (last - first))
        return self._events(m, self.mean(m), rng)

    def _signal(self, n: int, rng: np.random.Generator) -> Events:
        first, last = special.ndtr((np.array(self.range) - self.mass) / self.width)
        m = self.mass + self.width * special.ndtri(first + rng.random(n) * (last - first))
        return self._events(m, np.asarray(self.signal_mean), rng)

    def _events(self, m: Floats, mean: Floats, rng: np.random.Generator) -> Events:
        return Events({"m": m, **columns_of("x", mean + rng.standard_normal((len(m), self.features)))})

    # -- densities -----------------------------------------------------------------------------------------------------

    def mean(self, mass: ArrayLike) -> Floats:
        """The mean (N, D) of the background's features at masses (N,)."""
        away = np.asarray(mass, np.float64)[..., None] - self.mass
        return np.asarray(np.asarray(self.background_mean) + np.asarray(self.correlation) * away)

    def log_background(self, events: Events) -> Floats:
        """log p_B(x | m) (N,)."""
        return self._normal(self._matrix(events) - self.mean(events["m"]))

    def log_signal(self, events: Events) -> Floats:
        """log p_S(x | m) (N,)."""
        return self._normal(self._matrix(events) - np.asarray(self.signal_mean))

    def mass_background(self, mass: ArrayLike) -> Floats:
        """p_B(m) (N,)."""
        at, (low, high) = np.asarray(mass, np.float64), self.range
        norm = self.decay * (np.exp(-low / self.decay) - np.exp(-high / self.decay))
        return np.asarray(np.where((at >= low) & (at <= high), np.exp(-at / self.decay) / norm, 0.0))

    def mass_signal(self, mass: ArrayLike) -> Floats:
        """p_S(m) (N,)."""
        at, (low, high) = np.asarray(mass, np.float64), self.range
        norm = self.width * np.sqrt(2 * np.pi) * np.diff(special.ndtr((np.array(self.range) - self.mass) / self.width))
        inside = (at >= low) & (at <= high)
        return np.asarray(np.where(inside, np.exp(-0.5 * ((at - self.mass) / self.width) ** 2) / norm, 0.0))

    def log_ratio(self, events: Events) -> Floats:
        """t = log p_S(x | m) / p_B(x | m) (N,), of the features: the best statistic at a given mass."""
        return self.log_signal(events) - self.log_background(events)

    def log_excess(self, events: Events, background: float, signal: float) -> Floats:
        """log p_data(x | m) / p_B(x | m) (N,) of data with so many events of each."""
        s, b = signal * self.mass_signal(events["m"]), background * self.mass_background(events["m"])
        with np.errstate(divide="ignore"):
            return np.asarray(np.logaddexp(np.log(b), np.log(s) + self.log_ratio(events)) - np.log(s + b))

    def log_simulation(self, events: Events, simulation: Resonance) -> Floats:
        """log p_B(x | m) / p_sim(x | m) (N,): what corrects the background of a wrong simulation."""
        return self.log_background(events) - simulation.log_background(events)

    def _matrix(self, events: Events) -> Floats:
        return np.stack([np.asarray(events.flat(name), np.float64) for name in self.columns], -1)

    @staticmethod
    def _normal(d: Floats) -> Floats:
        return np.asarray(-0.5 * (d**2).sum(-1) - d.shape[-1] / 2 * np.log(2 * np.pi))

    # -- a region ------------------------------------------------------------------------------------------------------

    def moments(self, region: Interval) -> tuple[Floats, Floats]:
        """Mean (D,) and covariance (D, D) of the background's features in ``region``."""
        m, w, _ = self._nodes(region)
        at = self.mean(m)
        centred = at - w @ at
        return np.asarray(w @ at), np.asarray(np.eye(self.features) + np.einsum("n,ni,nj->ij", w, centred, centred))

    def efficiencies(self, cut: ArrayLike, region: Interval) -> tuple[Floats, Floats]:
        """Of t > cut for background and signal in ``region``: (T,) -> (T,), (T,)."""
        m, b, s = self._nodes(region)
        d, t = self._separation(m), np.asarray(cut, np.float64)[..., None]
        return special.ndtr(-(t / d + d / 2)) @ b, special.ndtr(-(t / d - d / 2)) @ s

    def auc(self, region: Interval) -> float:
        """The area under the ROC curve of t in ``region``."""
        m, b, s = self._nodes(region)
        d = self._separation(m)
        return float(s @ special.ndtr(np.sqrt(d[:, None] ** 2 + d**2) / 2) @ b)

    def sic(self, region: Interval, efficiency: float) -> float:
        """The significance improvement of t in ``region`` where the background's efficiency is the given one."""
        if not 0 < efficiency < 1:
            raise ValueError(f"efficiency: expected one between 0 and 1, found {efficiency}")
        low, high = -1e3, 1e3
        for _ in np.arange(80):  # bisection: the efficiency falls with the cut
            cut = (low + high) / 2
            low, high = (cut, high) if self.efficiencies(cut, region)[0] > efficiency else (low, cut)
        return float(self.efficiencies(low, region)[1] / np.sqrt(efficiency))

    def _separation(self, mass: Floats) -> Floats:
        """d(m) (N,)."""
        found = np.linalg.norm(np.asarray(self.signal_mean) - self.mean(mass), axis=-1)
        return np.asarray(np.maximum(found, 1e-9))

    def _nodes(self, region: Interval) -> tuple[Floats, Floats, Floats]:
        """Masses (N,), and the weights of background and signal there, each of which sums to 1."""
        low, high = region
        node, share = np.polynomial.legendre.leggauss(_NODES)
        m = (low + high) / 2 + (high - low) / 2 * node
        b, s = share * self.mass_background(m), share * self.mass_signal(m)
        return m, b / b.sum(), s / s.sum()
