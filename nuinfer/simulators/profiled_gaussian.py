r"""Unfolding with an unknown detector: the exact state of profiled OmniFold after every iteration.

.. math:: x \sim N(\mu, \sigma^2), \qquad y_1 = x + N(0, 1), \qquad y_2 = x + \beta + N(0, \theta^2)

The first observable is understood; the second has a width theta ("width") and an offset beta ("shift") that the
simulation may have wrong.  Data of mean d and covariance :math:`\Sigma` (2, 2), and a state of truth N(m, V), theta and
beta, give the posterior of x at y,

.. math:: N(m + K(y - Am - b),\; (1 - KA)V), \qquad K = VA^T(AVA^T + Q)^{-1}, \qquad A = (1, 1)^T,\; b = (0, \beta)^T,
          \; Q = \mathrm{diag}(1, \theta^2),

and averaged over the data the complete-data moments, of which the truth is as in iterative Bayes (`bayes_step`) and the
residual e = y_2 - x has

.. math:: E[e] = d_2 - m', \qquad \mathrm{Var}[e] = \Sigma_{22} - 2 (K\Sigma)_2 + V'.

The maximisation step of the nuisances, of N events and constraints N(c, s^2), is that of

.. math:: -N \left[\log\theta + \frac{E[(e - \beta)^2]}{2\theta^2}\right]
          - \frac{(\theta - c_\theta)^2}{2 s_\theta^2} - \frac{(\beta - c_\beta)^2}{2 s_\beta^2} .

Everything stays Gaussian, so that truth, width and shift are known after every iteration, and so is the likelihood of
the data that they climb.

Sources: Zhu, Desai, Kuusela, Mikuni, Nachman, Wasserman, arXiv 2409.10421 (the toy, with the shift at 0); Dempster,
Laird, Rubin, J. R. Stat. Soc. B 39 (1977) 1 (expectation and maximisation).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy import linalg, optimize

from ..errors import closest
from ..events import Events
from ..metrics import weighted_covariance, weighted_mean
from .gaussian import Gaussian, count, generator
from .iterative_bayes import LinearResponse, bayes_step

__all__ = ["ProfiledGaussian", "ProfiledState"]

Floats = NDArray[np.float64]
#: Centre and standard deviation of a normal constraint, None for none, by the name of a nuisance that is fitted.
Constraints = Mapping[str, tuple[float, float] | None]

_NAMES = ("width", "shift")
_A = np.ones((2, 1))


class ProfiledState(NamedTuple):
    """Truth, width and shift after an iteration."""

    truth: Gaussian
    width: float
    shift: float

    @property
    def response(self) -> LinearResponse:
        """The detector."""
        return LinearResponse(_A, np.array([0.0, self.shift]), np.diag([1.0, self.width**2]))

    @property
    def folded(self) -> Gaussian:
        """The density of the data that it predicts."""
        a, b, q = self.response
        return Gaussian(a @ self.truth.mean + b, a @ self.truth.covariance @ a.T + q)


@dataclass(frozen=True, eq=False, kw_only=True)
class ProfiledGaussian:
    r"""Truth N(0.8, 1) simulated as N(0, 1); two measurements of it, the second 1.5 wide and simulated as 1 wide.

    Columns: ``t`` is the truth x, ``y1`` and ``y2`` are what is measured; all events are reconstructed.

    Parameters
    ----------
    truth, prior:
        The true densities of data and simulation, in one dimension.
    width, shift:
        theta and beta of the data.
    simulated_width, simulated_shift:
        Those of the simulation.

    Raises
    ------
    ValueError
        for more than one dimension, or widths that are not positive.

    Examples
    --------
    >>> toy = ProfiledGaussian()
    >>> toy.simulation(1000, seed=1).columns, toy.data(1000, seed=1).columns
    (('t', 'y1', 'y2'), ('y1', 'y2'))
    >>> states = toy.iterate(5, {"width": None}, events=1000)
    >>> [round(state.width, 3) for state in states]
    [1.0, 1.275, 1.404, 1.459, 1.482, 1.491]
    >>> states[5].truth.mean.round(3).tolist(), states[5].truth.sd.round(3).tolist()
    ([0.795], [1.019])

    Without profiling, the truth becomes too wide:

    >>> toy.iterate(5, {}, events=1000)[5].truth.sd.round(3).tolist()
    [1.141]
    """

    truth: Gaussian = field(default_factory=lambda: Gaussian(0.8, 1.0))
    prior: Gaussian = field(default_factory=lambda: Gaussian(0.0, 1.0))
    width: float = 1.5
    shift: float = 0.0
    simulated_width: float = 1.0
    simulated_shift: float = 0.0

    def __post_init__(self) -> None:
        if self.truth.dim != 1 or self.prior.dim != 1:
            raise ValueError(f"expected truth and prior in one dimension, found {self.truth.dim} and {self.prior.dim}")
        if not (self.width > 0 and self.simulated_width > 0):
            raise ValueError(f"width: expected positive ones, found {self.width} and {self.simulated_width}")

    # -- samples -------------------------------------------------------------------------------------------------------

    def simulation(self, n: int, seed: int) -> Events:
        """``n`` simulated events: ``t``, ``y1``, ``y2``."""
        rng = generator("profiled simulation", seed)
        return Events(self._drawn(self.prior, count("n", n), rng, self.simulated_width, self.simulated_shift))

    def data(self, n: int, seed: int) -> Events:
        """``n`` measured events: ``y1``, ``y2``."""
        rng = generator("profiled data", seed)
        return Events(self._drawn(self.truth, count("n", n), rng, self.width, self.shift)).keep(["y1", "y2"])

    def varied(self, n: int, seed: int, **ranges: tuple[float, float]) -> Events:
        """Simulated events each at its own nuisances, uniform in ``ranges``, which are columns too."""
        rng = generator("profiled variations", seed)
        drawn = {name: rng.uniform(*ranges[name], size=count("n", n)) for name in self._known(ranges)}
        width, shift = (drawn.get(name, self._simulated[name]) for name in _NAMES)
        return Events({**self._drawn(self.prior, n, rng, width, shift), **drawn})

    def _drawn(self, density: Gaussian, n: int, rng: np.random.Generator, width: Any, shift: Any) -> dict[str, Floats]:
        t = density.sample(n, rng)[:, 0]
        noise = rng.normal(size=(2, n))
        return {"t": t, "y1": t + noise[0], "y2": t + shift + width * noise[1]}

    @property
    def _simulated(self) -> dict[str, float]:
        return {"width": self.simulated_width, "shift": self.simulated_shift}

    @staticmethod
    def _known(names: Mapping[str, Any] | Sequence[str]) -> list[str]:
        for name in names:
            if name not in _NAMES:
                raise KeyError(f"no nuisance {name!r}; {closest(name, _NAMES)}")
        return list(names)

    def response(self, names: Sequence[str] = ("width",)) -> Callable[[Events, Any], Any]:
        """W(events, theta) = p(y | x, theta) / p(y | x) of the simulation: theta (T, P) of ``names`` -> (T, N), torch.

        It is infinite or NaN where a width is not positive.
        """
        order = self._known(names)

        def weight(events: Events, theta: Any) -> Any:
            import torch

            residual = torch.from_numpy(np.array(events.flat("y2") - events.flat("t"), np.float64))
            at = {name: torch.full_like(theta[:, :1], value) for name, value in self._simulated.items()}
            at |= {name: theta[:, j : j + 1] for j, name in enumerate(order)}
            pull = (residual - at["shift"]) / at["width"]
            simulated = (residual - self.simulated_shift) / self.simulated_width
            return torch.exp((simulated**2 - pull**2) / 2 - torch.log(at["width"] / self.simulated_width))

        return weight

    # -- exact answers -------------------------------------------------------------------------------------------------

    @property
    def measured(self) -> Gaussian:
        """The density of the data (2 dimensions)."""
        return ProfiledState(self.truth, self.width, self.shift).folded

    def iterate(
        self,
        iterations: int,
        constraints: Constraints,
        *,
        events: float,
        start: Mapping[str, float] | None = None,
        data: Gaussian | None = None,
        prior: Gaussian | None = None,
    ) -> list[ProfiledState]:
        """The states k = 0 .. iterations of profiled OmniFold.

        Parameters
        ----------
        constraints:
            The nuisances that are fitted, with centre and standard deviation; the others stay as simulated.
        events:
            The number of data N: the weight of the data against the constraints.
        start:
            Values of nuisances before the first iteration; those of the simulation by default.
        data, prior:
            Stand for the population, as Gaussians of sample moments (`moments`).

        Raises
        ------
        KeyError
            for names other than "width" and "shift".
        """
        free, first = self._known(constraints), {**self._simulated, **(start or {})}
        self._known(first)
        data = self.measured if data is None else data
        states = [ProfiledState(self.prior if prior is None else prior, first["width"], first["shift"])]
        for _ in range(iterations):
            states.append(_step(states[-1], data, {name: constraints[name] for name in free}, events))
        return states

    def sample_iterate(
        self,
        iterations: int,
        constraints: Constraints,
        simulation: Events,
        data: Events,
        *,
        start: Mapping[str, float] | None = None,
    ) -> list[ProfiledState]:
        """The states of the samples at hand, which takes their statistical error out of a test.

        These are the steps of profiled OmniFold themselves on the simulation's events, but for the networks, in whose
        place are ratios of Gaussians of the samples' weighted moments.  The number of data is their sum of weights.
        """
        first, free = {**self._simulated, **(start or {})}, self._known(constraints)
        self._known(first)
        wanted, prior = self.moments(data, ["y1", "y2"]), self.moments(simulation, ["t"])
        t, y = (np.stack([simulation.flat(c) for c in columns], 1) for columns in (["t"], ["y1", "y2"]))
        residual, states = y[:, 1] - t[:, 0], [ProfiledState(prior, first["width"], first["shift"])]
        fitted = {name: constraints[name] for name in free}
        for _ in range(iterations):
            truth, width, shift = states[-1]
            weight = np.exp(truth.log_density(t) - prior.log_density(t)) * simulation.weight
            pulls = [(residual - b) / w for b, w in ((shift, width), (self.simulated_shift, self.simulated_width))]
            weight = weight * np.exp((pulls[1] ** 2 - pulls[0] ** 2) / 2)
            folded = self.moments(simulation.with_weight(weight), ["y1", "y2"])
            pulled = simulation.with_weight(weight * np.exp(wanted.log_density(y) - folded.log_density(y)))
            found = self.moments(pulled, ["t"])
            base = np.exp(found.log_density(t) - prior.log_density(t)) * simulation.weight
            best = self._sample_maximum(residual, pulled.weight, base, (width, shift), fitted, data.sum_weights)
            states.append(ProfiledState(found, *best))
        return states

    def _sample_maximum(
        self, residual: Floats, pulled: Floats, base: Floats, start: tuple[float, float], constraints: Constraints,
        events: float,
    ) -> tuple[float, float]:  # fmt: skip
        """Of the third step, whose normalisation Z is over the sample: near that of the population, by a simplex."""
        mean, square = (float(np.average(residual**power, weights=pulled)) for power in (1, 2))
        near = dict(zip(_NAMES, _nuisances(mean, square, start, constraints, events), strict=True))
        simulated = ((residual - self.simulated_shift) / self.simulated_width) ** 2

        def depth(v: Floats) -> float:
            at = {**near, **dict(zip(constraints, v, strict=True))}
            width, shift = at["width"], at["shift"]
            # log W but for its constant, which log Z takes out
            log_z = np.log(base @ np.exp((simulated - ((residual - shift) / width) ** 2) / 2))
            pulls = [(at[name] - c[0]) / c[1] for name, c in constraints.items() if c is not None]
            return float(events * ((square - 2 * shift * mean + shift**2) / (2 * width**2) + log_z)
                         + np.square(pulls).sum() / 2)  # fmt: skip

        if not constraints:
            return near["width"], near["shift"]
        first = [near[name] for name in constraints]
        simplex = np.array([first, *(np.array(first) + 0.01 * side for side in np.eye(len(first)))])
        options = {"xatol": 1e-7, "fatol": 1e-7, "initial_simplex": simplex}
        best = optimize.minimize(depth, first, method="Nelder-Mead", options=options)
        at = {**near, **dict(zip(constraints, best.x.tolist(), strict=True))}
        return at["width"], at["shift"]

    @staticmethod
    def moments(events: Events, columns: Sequence[str]) -> Gaussian:
        """The Gaussian of the weighted sample moments of these columns: ["y1", "y2"] of data, ["t"] of a simulation."""
        values = np.stack([events.flat(name).astype(np.float64) for name in columns], 1)
        return Gaussian(weighted_mean(values, events.weight), weighted_covariance(values, events.weight))

    def log_posterior(
        self, state: ProfiledState, constraints: Constraints, *, events: float, data: Gaussian | None = None
    ) -> float:
        """The log-likelihood of N data of these moments, plus the log of the constraints: what the iterations climb."""
        data, model = self.measured if data is None else data, state.folded
        factor = linalg.cho_factor(model.covariance)
        away = data.mean - model.mean
        scatter = np.trace(linalg.cho_solve(factor, data.covariance + np.outer(away, away)))
        log_det = 2 * np.log(np.diag(factor[0])).sum()
        pulls = [(getattr(state, name) - c[0]) / c[1] for name, c in constraints.items() if c is not None]
        return float(-events / 2 * (log_det + scatter + 2 * np.log(2 * np.pi)) - np.square(pulls).sum() / 2)


def _step(state: ProfiledState, data: Gaussian, constraints: Constraints, events: float) -> ProfiledState:
    """One iteration: the truth as in iterative Bayes, the nuisances from the residual's expected moments."""
    a, _, q = state.response
    truth = bayes_step(state.truth, data, state.response)
    gain = linalg.solve(a @ state.truth.covariance @ a.T + q, a @ state.truth.covariance, assume_a="pos").T
    mean = float(data.mean[1] - truth.mean[0])
    square = mean**2 + float(data.covariance[1, 1] - 2 * (gain @ data.covariance)[0, 1] + truth.covariance[0, 0])
    width, shift = _nuisances(mean, square, (state.width, state.shift), constraints, events)
    return ProfiledState(truth.scaled(1 / truth.total), width, shift)


def _nuisances(
    mean: float, square: float, start: tuple[float, float], constraints: Constraints, events: float
) -> tuple[float, float]:
    """The maximum over width and shift, from the residual's first two moments about 0."""
    width, shift = start
    for _ in range(200):  # each in turn, until neither moves
        before = width, shift
        if "shift" in constraints:
            shift = _best_shift(mean, width, constraints["shift"], events)
        if "width" in constraints:
            width = _best_width(square - 2 * shift * mean + shift**2, constraints["width"], events)
        if abs(width - before[0]) + abs(shift - before[1]) < 1e-14:
            break
    return width, shift


def _best_shift(mean: float, width: float, constraint: tuple[float, float] | None, events: float) -> float:
    if constraint is None:
        return mean
    own, other = events / width**2, constraint[1] ** -2
    return (own * mean + other * constraint[0]) / (own + other)


def _best_width(square: float, constraint: tuple[float, float] | None, events: float) -> float:
    """Where the slope vanishes, between the data's width and the constraint's."""
    if constraint is None:
        return float(np.sqrt(square))
    centre, sd = constraint
    low, high = sorted([float(np.sqrt(square)), centre])

    def slope(width: float) -> float:
        return (events * (square / width**3 - 1 / width) - (width - centre) / sd**2) * sd**2

    if high - low < 1e-14:
        return low
    return float(optimize.brentq(slope, low, high, xtol=1e-15))
