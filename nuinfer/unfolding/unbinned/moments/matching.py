r"""Unfolding by matching moments: one fit without networks, a cross-check of what OmniFold's have learned.

The events i of the simulation, of truth t_i, reco x_i and weight w_i, are multiplied by

.. math:: \nu(t) = \exp\Big(\sum_{a=1}^P \lambda_a \psi_a(t)\Big), \qquad \psi_1 = 1,

and lambda is chosen such that the moments of functions phi_m(x), m = 1 .. M, phi_1 = 1, are those of the data:

.. math:: d(\lambda) = \sum_{data} \phi - \sum_{background} \phi - \sum_{fakes} w\,\phi
                       - \sum_{signal} w\, e^{\lambda \cdot \psi(t)}\, \phi(x)

vanishes for M = P, and for M > P is made small by the generalised method of moments: minimise
:math:`d^T S^{-1} d`, where S is the covariance of d from the statistics of data, background and simulation, by the sums
of squares of what the events contribute.  S is taken at the simulation scaled to the data's yield for a first solution,
and there for the second, which is the answer.  The moment of phi_1 is the rate.

Misses have no reco, and need none: they get nu(t) as all truth does, so that the efficiency, a function of t, is exact.

**Where it is exact.**  If the log ratio of the data's truth to the simulation's is in the span of psi, lambda is
estimated without bias to first order in the statistics, whatever the smearing: there are no iterations to stop early.
Of two Gaussians it is quadratic.  Where it is not in the span, nu is what solves the moments in that family, and the
J-statistic :math:`d^T S^{-1} d` at the solution, chi-squared with M - P degrees of freedom, may tell.

**Uncertainty.**  To first order :math:`\delta\lambda = E\,\delta d`, :math:`E = (J^T W J + K)^{-1} J^T W`, where
:math:`J = \sum w\,e^{\lambda\psi}\phi\,\psi^T`, W is the inverse of S, and K the penalty's.  The covariance of lambda
is :math:`E S E^T` (the sandwich), that of a spectrum :math:`N_b = \sum_b w\,e^{\lambda\psi}` follows with
:math:`G_b = \sum_b w\,e^{\lambda\psi}\psi`, where an event of the simulation moves N_b both by itself and through d.
Replicas solve :math:`J^T W d_r(\lambda) = K\lambda` for d_r of bootstrapped samples, with J and W of the
nominal solution, which centres them on it as Hall and Horowitz ask for.

**Strength.**  ``strength`` adds :math:`\kappa` times the variance of log nu over the simulated truth to what is
minimised: a Gaussian prior on log nu, of standard deviation :math:`1/\sqrt\kappa` in each direction of unit variance
of psi, the same for any choice of functions with the same span.  It biases towards the simulation's shape; the p-value
of J is then that of weights drawn from the prior.

Sources: Hansen, Econometrica 50 (1982) 1029 (generalised method of moments, J-statistic); Hall, Horowitz, Econometrica
64 (1996) 891 (its bootstrap); Desai, Nachman, Thaler, arXiv 2407.11284 (weights of this form for unfolding, trained
against a critic of the reco, which there is none of here).
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from .... import hashing, metrics
from ....events import Events, flag, positive_total
from ...samples import Rows, check_counts, check_signal, reconstructed, warn_of_shared_keys
from ..result import Iteration, Unfolded
from .basis import Basis, Functions
from .fit import fitted, whitening_of
from .replicas import Bootstrap
from .result import MatchedMoments, all_weights
from .sample import at_rows, sample_of

__all__ = ["match_moments"]

Floats = NDArray[np.float64]
Keys = NDArray[np.int64]


def match_moments(
    data: Events,
    simulation: Events,
    *,
    reco: Functions,
    truth: Functions,
    degree: int = 2,
    reco_degree: int | None = None,
    background: Events | None = None,
    strength: float = 0.0,
    bootstrap: int = 0,
    group: str | None = None,
    seed: int,
    max_steps: int = 100,
    tolerance: float = 1e-5,
) -> MatchedMoments:
    """Unfold ``data`` by weights exp(lambda . psi(truth)) that match moments phi of the reco: see the module.

    Parameters
    ----------
    data, simulation, background:
        As `omnifold`'s, with ``pass_truth`` and ``pass_reco`` where there are fakes and misses.  Fakes and background
        are subtracted with their absolute yields.
    reco, truth:
        phi and psi.  Column names: all polynomials up to the degree, products included, which of D columns are
        (D + degree)! / (D! degree!), 15 of 4 columns and degree 2.  A mapping: the functions by name, each a column,
        an expression of columns ("sqrt(x**2 + y**2)", "x < 1"), or a callable Events -> (N,) that is handed the
        events that have this side.  The constant is added.
    degree, reco_degree:
        Of psi, and of phi (None: the same); of no meaning for mappings.  More moments than coefficients test the fit.
    strength:
        Of the penalty: see the module.  0 is unbiased, and needs at least as many moments as coefficients.
    bootstrap:
        Replicas, with the multiplicities that `omnifold` gives them for the same seed.
    group:
        Integer column whose equal values are copies of one event; equal ids are as well.
    seed:
        Of the replicas; the answer itself has nothing random.
    max_steps, tolerance:
        Of the fit: it ends where a step would change the moments by less than ``tolerance`` standard deviations.

    Raises
    ------
    ValueError
        for empty samples, totals that are not positive (of the data after subtraction, too), values that are not
        finite, functions that are a constant or sums of others, fewer moments than coefficients without strength.
    NotConverged
        where no weights of this form match the moments.

    Examples
    --------
    >>> rng = np.random.default_rng(1)
    >>> t, nature = rng.normal(0.2, 0.9, 20_000), rng.normal(0, 1, 20_000)
    >>> simulation = Events({"t": t, "x": t + rng.normal(0, 0.5, 20_000)})
    >>> data = Events({"x": nature + rng.normal(0, 0.5, 20_000)})
    >>> found = match_moments(data, simulation, reco=["x"], truth=["t"], reco_degree=3, seed=1)
    >>> found.truth.names, found.chi2.dof
    (('1', 't', 't^2'), 1)
    >>> bool(abs(np.average(t, weights=found.weights)) < 0.03)
    True
    """
    _check(strength, bootstrap, max_steps, tolerance)
    rows = Rows.of(simulation)
    positive_total("data", reconstructed(data).weight)
    has_truth = at_rows(simulation, rows.truth)
    psi = Basis.of("truth", truth, degree, has_truth)
    phi = Basis.of("reco", reco, degree if reco_degree is None else reco_degree, at_rows(simulation, rows.signal))
    if len(phi) < len(psi) and not strength:
        raise ValueError(f"moments: expected at least as many as the {len(psi)} coefficients, found {len(phi)}; give "
                         f"strength=, more functions of the reco (reco_degree=), or fewer of the truth")  # fmt: skip
    if bootstrap:
        warn_of_shared_keys(data, background, simulation, group)
    table = psi.table(has_truth)
    sample = sample_of(data, simulation, background, rows, phi, table, group)
    check_signal(sample.target[:1])
    whitening = whitening_of("truth", psi, table, has_truth.weight)
    fit = fitted(sample, whitening, phi.names, strength, max_steps, tolerance)
    coefficients = fit.coefficients
    spread = np.empty((0, len(psi)))
    if bootstrap:
        spread = Bootstrap.of(sample, fit, seed, bootstrap).solve(max_steps, tolerance)
    weights = all_weights(table, coefficients[None], rows.truth, len(simulation))
    replicas = all_weights(table, spread, rows.truth, len(simulation))
    for r in range(bootstrap):
        replicas[r] *= hashing.poisson(simulation.key(group), seed, "bootstrap", r)
    settings = {"method": "moment matching", "misses": "conditional", "fakes": "subtract", "iterations": 1,
                "strength": float(strength), "truth_functions": list(psi.names),
                "reco_functions": list(phi.names)}  # fmt: skip
    difference = sample.target - sample.moments(coefficients)[0]
    unfolded = _as_unfolded(simulation, weights, replicas, seed, group, settings).with_data(data, background)
    return MatchedMoments(
        unfolded, psi, phi, coefficients, spread, difference, sample.covariances(coefficients), fit.estimator,
        fit.statistic(difference), fit.sensitivity, fit.steps, float(strength),
    )  # fmt: skip


def _as_unfolded(
    simulation: Events, weights: Floats, replicas: Floats, seed: int, group: str | None, settings: dict[str, Any]
) -> Unfolded:
    """With its only iteration."""
    truth = flag(simulation, "pass_truth")
    after = weights[:, truth]
    moved = np.sqrt(np.mean(np.log(after) ** 2, axis=1))
    size = np.asarray(metrics.effective_size(after * simulation.weight[truth]))
    return Unfolded(
        simulation, weights, replicas, (Iteration(weights, moved, size, None, None),), seed, group, settings
    )


def _check(strength: float, bootstrap: int, steps: int, tolerance: float) -> None:
    if not 0 <= strength < np.inf:
        raise ValueError(f"strength: expected a number from 0, found {strength!r}")
    check_counts(bootstrap=bootstrap, least=0)
    check_counts(max_steps=steps)
    if not tolerance > 0:
        raise ValueError(f"tolerance: expected a positive number, found {tolerance!r}")
