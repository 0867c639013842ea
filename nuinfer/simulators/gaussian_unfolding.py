r"""Gaussian unfolding: the exact state of iterative Bayes, which OmniFold learns, after every iteration.

**The problem.**  Rates are per true event of the simulation.  The simulation has truth :math:`n_0(t) = N(t; m, V)`,
the data have truth :math:`\rho N(t; \mu, S)`; the detector selects with efficiency :math:`\epsilon(t)`, a Gaussian
function, and smears: :math:`x = t + N(0, R)`.  The simulation also holds fakes (reco without truth), and the data hold
the same fakes, and background.  The data's signal in reco is :math:`D(x) = \int R(x|t)\,\epsilon(t)\,\rho N(t;\mu,S)
\,dt`, a Gaussian function; fakes and background are subtracted, and in expectation leave D alone.

**One iteration.**  With the reconstructed part :math:`g_k = \epsilon n_k`, the fold :math:`s_k(x) = \int R(x|t)\,
g_k(t)\,dt` and the mean of the reco weights of an event at t, :math:`\nu_k(t) = \int R(x|t)\,D(x)/s_k(x)\,dx`:

- misses get the mean weight of reconstructed events of their truth, "conditional", E[w | t]:
  :math:`n_{k+1} = n_k \nu_k`, which is D'Agostini's :math:`n_{k+1}(t) = \epsilon(t)^{-1} \int P_k(t|x) D(x)\,dx`;
- misses keep their previous weight, "prior":
  :math:`n_{k+1} = n_k\,(\epsilon\,\nu_k + 1 - \epsilon) = n_k - g_k + \hat g_k`, where :math:`\hat g_k = g_k\nu_k`.

**Conditional misses stay Gaussian.**  Multiply by eps: :math:`g_{k+1}(t) = \int P_k(t|x)\,D(x)\,dx` with
:math:`P_k(t|x) = g_k(t) R(x|t) / s_k(x)`.  For :math:`g_k \propto N(m_k, V_k)` this is
:math:`N(m_k + K_k(x - m_k), (1 - K_k)V_k)`, :math:`K_k = V_k(V_k + R)^{-1}`.  Averaged over D, of mean d and
covariance :math:`\Sigma`,

.. math:: m_{k+1} = m_k + K_k (d - m_k), \qquad V_{k+1} = (1 - K_k) V_k + K_k \Sigma K_k^T, \qquad
          \int g_{k+1} = \int D

so the reconstructed rate equals the data's after every iteration.  Start: :math:`g_0 = \epsilon n_0`, a product of
Gaussians; without efficiency :math:`d = \mu`, :math:`\Sigma = S + R`.  The truth corrected for efficiency is the
quotient :math:`n_k = g_k/\epsilon`, of covariance :math:`(V_k^{-1} - E^{-1})^{-1}`; its integral is the total rate,
which is not conserved but tends to :math:`\rho`.

**Misses by the prior do not.**  :math:`n_1 = n_0 - g_0 + \hat g_0` is a sum of three Gaussian functions; from the
second iteration on the fold is such a sum too, its quotient is none, and a quadrature on a grid is the answer
(`GaussianUnfolding.on_grid`; exact to rounding, as the trapezoid rule is for Gaussians).  Its reco rate is
:math:`\int\epsilon n_{k+1} = \int g_k + \int\epsilon(\hat g_k - g_k)`, *not* that of the data before convergence.
Both have the same fixed point, :math:`s = D`.

Sources: D'Agostini, Nucl. Instrum. Meth. A 362 (1995) 487; Andreassen, Komiske, Metodiev, Nachman, Thaler,
arXiv:1911.09107 (OmniFold) and arXiv:2105.04448 (misses and fakes).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import linalg

from ..events import Events
from ..metrics import weighted_covariance, weighted_mean
from .gaussian import Gaussian, check_negative, cholesky, columns_of, count, generator, matrix_of, signs
from .iterative_bayes import GridRecursion, LinearResponse, bayes_step, iterate_on_grid

__all__ = ["GaussianUnfolding"]

Floats = NDArray[np.float64]


@dataclass(frozen=True, eq=False, kw_only=True)
class GaussianUnfolding:
    r"""Gaussian truth, Gaussian simulation and a Gaussian detector in D dimensions; see the module for the mathematics.

    The default is the one-dimensional toy without inefficiency, fakes and background: truth N(0, 1), simulation
    N(0.2, 0.9^2), smearing 0.5.  `with_detector` is the same with all of them.

    Parameters
    ----------
    truth, prior:
        The true densities of data and simulation (their totals play no part).
    smearing:
        The *covariance* R of the smearing: a number (times the unit matrix) or (D, D).
    efficiency:
        A Gaussian function of height at most 1: ``Gaussian.peak(0.9, 1.0, 4.0)`` is 0.9 exp(-(t - 1)^2/8).
        None: all events are reconstructed.
    fake_density:
        The density of fakes in reco; its total is their yield per reconstructed true event *of the simulation*.
    background_density:
        The density of background in reco; its total is its yield per reconstructed true event *of the data*.
    rate:
        True events in the data per true event in the simulation.
    data_fakes:
        What the data's fakes are: ``"absolute"``, the yield and shape of the simulation's (the truth for an unfolding
        that subtracts them); or ``"proportional"``, the simulation's fraction of fakes at each reco value (the truth
        for one that scales the data by 1 minus that fraction).
    negative:
        The fraction, below 0.5, of negative weights in the simulation: weights ±1/(1 - 2 negative), at random.
    counts:
        How many events samples have: ``"expected"``, the rounded expectation of each kind; or ``"poisson"``, a number
        about it, as pseudo-experiments have and bootstraps imitate.

    Raises
    ------
    ValueError
        for dimensions that do not fit, an efficiency above 1, or proportional fakes that do not fall off.

    Examples
    --------
    The truth that an unfolding must find after three iterations, in population, and for the very sample at hand:

    >>> toy = GaussianUnfolding.with_detector()
    >>> simulation, data = toy.simulation(50_000, seed=1), toy.data(50_000, seed=1)
    >>> background = toy.background(50_000, seed=1)
    >>> simulation.columns, data.columns
    (('t0', 'x0', 'pass_truth', 'pass_reco'), ('x0',))
    >>> toy.recursion(3)[3]
    Gaussian(mean=[0.202247], covariance=[[0.788814]], total=0.87405609)
    >>> mean = toy.sample_recursion(3, simulation, data, background)[3].mean
    >>> bool(abs(mean[0] - toy.recursion(3)[3].mean[0]) < 0.03)
    True
    >>> toy.unfolded(3)
    Gaussian(mean=[0.00628166], covariance=[[0.982583]], total=1.1968219)
    >>> toy.bin_probabilities([-1, 0, 1], iteration=3).round(4).tolist()
    [0.3425, 0.3445]
    """

    truth: Gaussian = field(default_factory=lambda: Gaussian(0.0, 1.0))
    prior: Gaussian = field(default_factory=lambda: Gaussian(0.2, 0.81))
    smearing: ArrayLike = 0.25
    efficiency: Gaussian | None = None
    fake_density: Gaussian | None = None
    background_density: Gaussian | None = None
    rate: float = 1.0
    data_fakes: Literal["absolute", "proportional"] = "absolute"
    negative: float = 0.0
    counts: Literal["expected", "poisson"] = "expected"

    def __post_init__(self) -> None:
        noise = np.array(self.smearing, np.float64)
        noise = noise * np.eye(self.dim) if noise.ndim == 0 else noise
        parts = (self.truth, self.efficiency, self.fake_density, self.background_density)
        sizes = [len(noise), *(part.dim for part in parts if part is not None)]
        if noise.shape != (len(noise),) * 2 or any(size != self.dim for size in sizes):
            raise ValueError(f"expected all parts in the prior's {self.dim} dimension(s), found {sizes}")
        cholesky(noise)
        noise.flags.writeable = False
        object.__setattr__(self, "smearing", noise)
        self._check_numbers()

    def _check_numbers(self) -> None:
        if self.efficiency is not None and self.efficiency.height > 1 + 1e-12:
            raise ValueError(f"efficiency: expected at most 1 everywhere, found {self.efficiency.height:g} at its peak")
        if not 0 < self.rate < np.inf:
            raise ValueError(f"rate: expected a positive number, found {self.rate}")
        if self.data_fakes not in ("absolute", "proportional"):
            raise ValueError(f"data_fakes: expected 'absolute' or 'proportional', found {self.data_fakes!r}")
        if self.counts not in ("expected", "poisson"):
            raise ValueError(f"counts: expected 'expected' or 'poisson', found {self.counts!r}")
        check_negative(self.negative)
        self.reco_data_fakes()

    @classmethod
    def with_detector(cls, *, data_fakes: Literal["absolute", "proportional"] = "absolute") -> GaussianUnfolding:
        """The standard toy: efficiency 0.9 exp(-(t - 1)^2/8), fakes at -1.5, background at 2, and 1.2 times the rate.

        Fakes are 15% of the simulation's reconstructed signal, N(-1.5, 0.5^2); background 20% of the data's,
        N(2, 0.4^2).
        """
        return cls(
            efficiency=Gaussian.peak(0.9, 1.0, 4.0),
            fake_density=Gaussian(-1.5, 0.25, total=0.15),
            background_density=Gaussian(2.0, 0.16, total=0.2),
            rate=1.2,
            data_fakes=data_fakes,
        )

    @property
    def dim(self) -> int:
        """The number of dimensions D."""
        return self.prior.dim

    @property
    def response(self) -> LinearResponse:
        """The exact detector: x = t + N(0, R)."""
        return LinearResponse(np.eye(self.dim), np.zeros(self.dim), np.asarray(self.smearing, np.float64))

    # -- samples -------------------------------------------------------------------------------------------------------

    def simulation(self, n: int, seed: int) -> Events:
        """``n`` true events and, in addition, the fakes that belong to them.

        Columns ``t0``, ... (NaN for fakes), ``x0``, ... (NaN for misses), ``pass_truth`` (False for fakes) and
        ``pass_reco`` (False for misses); weights 1, or of both signs if ``negative``.  Rows are in random order.
        With expected ``counts`` the number of reconstructed events is still binomial.
        """
        rng = generator("unfolding simulation", seed)
        parts = [self._true_events(self.prior, self._count(count("n", n), rng), rng)]
        if self.fake_density is not None:
            parts.append(
                self._reco_events(
                    self.fake_density, n * self._selected(self.prior).total * self.fake_density.total, rng
                )
            )
        events = Events.concat(parts)
        events = events.select(rng.permutation(len(events)))
        return events.with_weight(signs(rng, self.negative, len(events)))

    def data(self, n: int, seed: int, *, keep_truth: bool = False) -> Events:
        """The data that belong to a simulation of ``n`` true events, all reconstructed and of weight 1: ``x0``, ...

        ``keep_truth`` adds ``t0``, ... (NaN for fakes and background), ``pass_truth`` and ``pass_reco``, for checks.
        """
        rng = generator("unfolding data", seed)
        signal = self._true_events(self.truth, self._count(self.rate * count("n", n), rng), rng)
        parts = [signal.select(signal["pass_reco"])]
        for extra in (self.reco_data_fakes(), self.reco_background()):
            if extra is not None:
                parts.append(self._reco_events(extra, n * extra.total, rng))
        events = Events.concat(parts)
        events = events.select(rng.permutation(len(events)))
        return events if keep_truth else events.keep([f"x{i}" for i in range(self.dim)])

    def background(self, n: int, seed: int, *, oversample: float = 1.0) -> Events:
        """Simulated background, of the yield in ``data(n, ...)``: ``x0``, ...

        ``oversample`` times as many events as the yield, each of weight 1/oversample, up to rounding.

        Raises
        ------
        ValueError
            where the problem has no background.
        """
        expected = self.reco_background()
        if expected is None:
            raise ValueError("background: expected a problem that has some, found background_density=None")
        wanted = count("n", n) * expected.total
        events = self._reco_events(expected, wanted * oversample, generator("unfolding background", seed))
        events = events.keep([f"x{i}" for i in range(self.dim)])
        return events.with_weight(1 / oversample if self.counts == "poisson" else wanted / max(len(events), 1))

    def _count(self, expected: float, rng: np.random.Generator) -> int:
        return round(expected) if self.counts == "expected" else int(rng.poisson(expected))

    def _true_events(self, density: Gaussian, n: int, rng: np.random.Generator) -> Events:
        t = density.sample(n, rng)
        x = t + Gaussian(np.zeros(self.dim), np.asarray(self.smearing)).sample(n, rng)
        seen = rng.random(n) < self.efficiency_at(t)
        flags = {"pass_truth": np.ones(n, np.bool_), "pass_reco": seen}
        return Events({**columns_of("t", t), **columns_of("x", np.where(seen[:, None], x, np.nan)), **flags})

    def _reco_events(self, density: Gaussian, n: float, rng: np.random.Generator) -> Events:
        x = density.sample(self._count(n, rng), rng)
        flags = {"pass_truth": np.zeros(len(x), np.bool_), "pass_reco": np.ones(len(x), np.bool_)}
        return Events({**columns_of("t", np.full_like(x, np.nan)), **columns_of("x", x), **flags})

    # -- expected rates, per true event of the simulation --------------------------------------------------------------

    def efficiency_at(self, t: Events | ArrayLike) -> Floats:
        r"""The efficiency eps(t): Events (columns ``t0``, ...) or (\*, D) -> (\*)."""
        at = matrix_of(t, "t", self.dim)
        return np.ones(at.shape[:-1]) if self.efficiency is None else self.efficiency.density(at)

    def reco_simulation(self) -> Gaussian:
        """The simulation's reconstructed signal s_0(x)."""
        return self._selected(self.prior).smeared(self.smearing)

    def reco_data(self) -> Gaussian:
        """The data's reconstructed signal D(x), without fakes and background."""
        return self._selected(self.truth).smeared(self.smearing).scaled(self.rate)

    def reco_fakes(self) -> Gaussian | None:
        """The simulation's fakes."""
        return None if self.fake_density is None else self.fake_density.scaled(self._selected(self.prior).total)

    def reco_data_fakes(self) -> Gaussian | None:
        """The data's fakes."""
        fakes = self.reco_fakes()
        if fakes is None or self.data_fakes == "absolute":
            return fakes
        return fakes.times(self.reco_data()).over(self.reco_simulation())

    def reco_background(self) -> Gaussian | None:
        """The data's background."""
        return None if self.background_density is None else self.background_density.scaled(self.reco_data().total)

    def fake_fraction(self, x: Events | ArrayLike) -> Floats:
        r"""The fraction of fakes among the simulation's reco events at x: Events or (\*, D) -> (\*)."""
        at, fakes = matrix_of(x, "x", self.dim), self.reco_fakes()
        if fakes is None:
            return np.zeros(at.shape[:-1])
        yields = fakes.density(at)
        return np.asarray(yields / (yields + self.reco_simulation().density(at)))

    def _selected(self, truth: Gaussian) -> Gaussian:
        """The normalised truth times the efficiency: its total is the mean efficiency."""
        unit = truth.scaled(1 / truth.total)
        return unit if self.efficiency is None else unit.times(self.efficiency)

    # -- exact answers -------------------------------------------------------------------------------------------------

    def recursion(
        self,
        iterations: int,
        *,
        prior: Gaussian | None = None,
        data: Gaussian | None = None,
        response: LinearResponse | None = None,
    ) -> list[Gaussian]:
        """The *reconstructed* truth eps n_k of iterative Bayes with conditional misses, k = 0 .. iterations.

        Entry 0 is the simulation's.  ``mean``, ``covariance`` and ``total`` of an entry are what to compare with the
        weighted moments and the sum of weights of the events that pass reco and truth.

        ``prior`` (reconstructed truth of the simulation), ``data`` (reconstructed signal) and ``response`` stand for
        the population unless they are given, as Gaussians of sample moments: see `sample_recursion`.
        """
        if iterations < 0:
            raise ValueError(f"iterations: expected a number from 0, found {iterations}")
        states = [self._selected(self.prior) if prior is None else prior]
        data = self.reco_data() if data is None else data
        for _ in range(iterations):
            states.append(bayes_step(states[-1], data, self.response if response is None else response))
        return states

    def sample_recursion(
        self, iterations: int, simulation: Events, data: Events, background: Events | None = None
    ) -> list[Gaussian]:
        """`recursion` from the moments of the samples at hand, which takes their statistical error out of a test.

        From the simulation's reconstructed true events: moments of the truth, and the regression of reco on truth as
        response.  From the data: moments of what is left after background (with its weights) and fakes are subtracted,
        the fakes by the simulation's, or by `fake_fraction` if ``data_fakes="proportional"``.  Totals are sums of
        weights.

        Raises
        ------
        ValueError
            where background events are given and the problem has none, or the reverse.
        """
        if (background is None) != (self.background_density is None):
            raise ValueError("background: expected events exactly where the problem has background")
        both = simulation.select(simulation["pass_reco"] & simulation["pass_truth"])
        prior, response = _regression(self._columns("t", both), self._columns("x", both), both.weight)
        return self.recursion(
            iterations, prior=prior, data=self._signal(simulation, data, background), response=response
        )

    def _signal(self, simulation: Events, data: Events, background: Events | None) -> Gaussian:
        """The sample moments of the data's signal in reco."""
        x, weight = [self._columns("x", data)], [data.weight]
        if background is not None:
            x.append(self._columns("x", background))
            weight.append(-background.weight)
        if self.data_fakes == "absolute":
            fakes = simulation.select(simulation["pass_reco"] & ~simulation["pass_truth"])
            x.append(self._columns("x", fakes))
            weight.append(-fakes.weight)
        values, weights = np.concatenate(x), np.concatenate(weight)
        if self.data_fakes == "proportional":
            weights = weights * (1 - self.fake_fraction(values))
        return _moments(values, weights)

    def _columns(self, name: str, events: Events) -> Floats:
        return matrix_of(events, name, self.dim)

    def unfolded(self, iteration: int | None = None) -> Gaussian:
        """The truth rate n_k corrected for efficiency, with conditional misses; None: the data's own truth.

        Its total is per true event of the simulation: the yield is that times the sum of weights of its ``pass_truth``
        events.
        """
        if iteration is None:
            return self.truth.scaled(self.rate / self.truth.total)
        state = self.recursion(iteration)[iteration]
        return state if self.efficiency is None else state.over(self.efficiency)

    def reconstructed(self, iteration: int | None = None) -> Gaussian:
        """The rate of reconstructed truth events, eps n_k; None: the data's own."""
        if iteration is None:
            return self._selected(self.truth).scaled(self.rate)
        return self.recursion(iteration)[iteration]

    def weight_at(self, t: Events | ArrayLike, iteration: int) -> Floats:
        r"""The exact unfolding weight n_k(t)/n_0(t) with conditional misses: Events or (\*, D) -> (\*)."""
        at = matrix_of(t, "t", self.dim)
        states = self.recursion(iteration)
        return np.exp(states[iteration].log_density(at) - states[0].log_density(at))

    def exact_truth_density(self, t: Events | ArrayLike, iteration: int | None = None) -> Floats:
        r"""The normalised density of `unfolded`: Events or (\*, D) -> (\*)."""
        answer = self.unfolded(iteration)
        return answer.density(matrix_of(t, "t", self.dim)) / answer.total

    def bin_probabilities(self, edges: ArrayLike | Sequence[ArrayLike], iteration: int | None = None) -> Floats:
        """The integral of `exact_truth_density` over bins: see `Gaussian.bin_probabilities`."""
        return self.unfolded(iteration).bin_probabilities(edges)

    def posterior(self, x: Events | ArrayLike, *, iteration: int = 0) -> tuple[Floats, Floats]:
        r"""Mean (\*, D) and covariance (D, D) of p(truth | reco) for reconstructed signal, with eps n_k as prior.

        .. math:: N(m + K(x - m),\; (1 - K) V), \qquad K = V (V + R)^{-1}

        Iteration 0 is the simulation's own posterior.
        """
        state = self.recursion(iteration)[iteration]
        gain = linalg.solve(state.smeared(self.smearing).covariance, state.covariance, assume_a="pos").T
        covariance = state.covariance - gain @ state.covariance
        return state.mean + (matrix_of(x, "x", self.dim) - state.mean) @ gain.T, (covariance + covariance.T) / 2

    def on_grid(
        self, iterations: int, *, misses: Literal["conditional", "prior"], points_per_axis: int | None = None
    ) -> GridRecursion:
        """Iterative Bayes by quadrature in one or two dimensions, for either rule of misses.

        By default 401 points, or 51 along each of two axes, which span 7 standard deviations of all parts.

        Raises
        ------
        ValueError
            in more than two dimensions; for an unknown rule; where the grid is too coarse for the densities.
        """
        if self.dim > 2:
            raise ValueError(f"on_grid: expected 1 or 2 dimensions, found {self.dim}")
        size = points_per_axis or (401 if self.dim == 1 else 51)
        span = [self.prior, self.truth, self._selected(self.prior), self._selected(self.truth)]
        prior = self.prior.scaled(1 / self.prior.total)
        return iterate_on_grid(
            iterations, prior, self.reco_data(), self.efficiency_at, self.response.noise, span, size, misses
        )


def _moments(values: Floats, weight: Floats) -> Gaussian:
    """The Gaussian of weighted sample moments; its total is the sum of weights."""
    return Gaussian(weighted_mean(values, weight), weighted_covariance(values, weight), total=float(weight.sum()))


def _regression(t: Floats, x: Floats, weight: Floats) -> tuple[Gaussian, LinearResponse]:
    """The sample moments of the truth, and the weighted least-squares response of reco to truth."""
    joint, d = _moments(np.concatenate([t, x], axis=1), weight), t.shape[1]
    truth, cross = joint.covariance[:d, :d], joint.covariance[d:, :d]
    matrix = linalg.solve(truth, cross.T, assume_a="pos").T
    noise = joint.covariance[d:, d:] - matrix @ cross.T
    prior = Gaussian(joint.mean[:d], truth, total=joint.total)
    return prior, LinearResponse(matrix, joint.mean[d:] - matrix @ joint.mean[:d], (noise + noise.T) / 2)
