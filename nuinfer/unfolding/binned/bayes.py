r"""Iterative Bayesian unfolding (D'Agostini; Lucy, Richardson): expectation maximisation in bins.

From a prior u^0, at each iteration

.. math:: u_t \leftarrow \frac{u_t}{\epsilon_t} \sum_r P_{rt} \frac{m_r}{f_r}, \qquad f = P u,

with m the signal in the data.  P has the efficiency in it (`nuinfer.unfolding.Response`), and what comes out is
corrected for it.  More iterations mean less bias towards the prior and more noise.

**Covariance.**  Through all iterations: u depends on m in every one of them, and the derivative is carried along,

.. math:: \frac{\partial u'}{\partial m} = M + A\, \frac{\partial u}{\partial m}, \qquad
          M_{tr} = \frac{P_{rt} u_t}{\epsilon_t f_r}, \qquad
          A_{ts} = \delta_{ts} \frac{u'_t}{u_t} - \sum_r M_{tr} \frac{m_r}{f_r} P_{rs}.

The original formula keeps M of the last iteration alone, and gives half of the error after a few iterations.  The
simulation's own statistics go the same way (`nuinfer.unfolding.binned.propagation`).

**Smearing.**  u is homogeneous of degree 1 in m, so that u = (du/dm) m: the additional smearing matrix is
A_C = (du/dm) P, exact for the data themselves and linear around them.

Sources: D'Agostini, Nucl. Instrum. Meth. A 362 (1995) 487; Adye, arXiv 1105.1160 (covariance).
"""

from __future__ import annotations

import functools
import itertools
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from ..measured import Counts, Fakes, Measured
from ..response import Response, reference_of
from ..spectrum import Origin, Spectrum, made_from
from .propagation import Derivative, Term, simulation_covariance

__all__ = ["BayesIteration", "iterate_bayes", "iterative_bayes"]

Floats = NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class BayesIteration:
    """One iteration: the spectrum (T,) before and after it, what it folds to (R,), and M (T, R)."""

    before: Floats
    after: Floats
    folded: Floats
    unfolding: Floats


def iterate_bayes(signal: ArrayLike, response: Response, prior: ArrayLike) -> Iterator[BayesIteration]:
    """The iterations from a prior (T,), without end."""
    m, p, u = np.asarray(signal, np.float64), response.matrix, np.asarray(prior, np.float64)
    efficiency = response.efficiency
    while True:
        f = p @ u
        inverse = np.divide(1.0, f, out=np.zeros_like(f), where=f > 0)
        unfolding = (p * inverse[:, None] * (u / efficiency)).T
        after = unfolding @ m
        _check_positive(after, m, response)
        yield BayesIteration(u, after, f, unfolding)
        u = after


def iterative_bayes(
    data: Counts,
    response: Response,
    *,
    iterations: int = 4,
    background: Counts = None,
    fakes: Fakes = "subtract",
    prior: ArrayLike | None = None,
    covariance: ArrayLike | None = None,
    outside: float = 0.0,
) -> Spectrum:
    """Unfold binned data.

    Parameters
    ----------
    data, background, fakes, covariance:
        As in `Measured.of`: events, histograms, or contents (R,).
    iterations:
        How often.
    prior:
        u^0 (T,), positive; its normalisation does not matter.  None takes the simulation's truth, whose statistics then
        enter the covariance.
    outside:
        The largest fraction of the signal that may lie in reco bins which the prior does not reach; it is left out.

    Returns
    -------
    Spectrum
        In events, corrected for efficiency; ``covariances`` by "data", "background", "simulation".

    Raises
    ------
    ValueError
        for other bins, a signal so negative that the spectrum is (bins named), a prior that is not positive, or more
        data outside the simulation's support than ``outside`` allows.

    Examples
    --------
    >>> from nuinfer import Events
    >>> events = Events({"t": [0.5, 0.5, 1.5, 1.5], "x": [0.4, 1.2, 1.4, 9.0]})
    >>> response = Response.from_events(events, truth={"t": [0, 1, 2]}, reco={"x": [0, 1, 2]})
    >>> found = iterative_bayes([10.0, 30.0], response, iterations=100)
    >>> found.values.round(3)  # 0.5 u0 = 10, 0.5 u0 + 0.5 u1 = 30
    array([20., 40.])
    """
    if not isinstance(iterations, int | np.integer) or iterations < 1:
        raise ValueError(f"iterations: expected a whole number of at least 1, found {iterations!r}")
    measured = Measured.of(data, response, background=background, fakes=fakes, covariance=covariance)
    start = reference_of(prior, response, "prior")
    lost = _check_signal(measured.signal, response, start, outside)
    steps = list(itertools.islice(iterate_bayes(measured.signal, response, start), int(iterations)))
    derivative = _derivative(steps, measured.signal, response, from_simulation=prior is None)
    slope = derivative.by_signal
    covariances = {name: slope @ c @ slope.T for name, c in measured.covariances.items()}
    covariances["simulation"] = simulation_covariance(derivative, response, measured)
    settings = {"method": "iterative Bayes", "iterations": int(iterations), "fakes": fakes, "outside": lost}
    found = Spectrum(response.truth, steps[-1].after, covariances, slope @ response.matrix, settings=settings)
    again = functools.partial(
        iterative_bayes, iterations=iterations, background=background, fakes=fakes, prior=prior, covariance=covariance,
        outside=outside,
    )  # fmt: skip
    return made_from(found, Origin(
        method=again, data=data, response=response, background=background, covariance=covariance, prior="prior",
        iterations=tuple(step.after for step in steps),
    ))  # fmt: skip


def _derivative(steps: list[BayesIteration], m: Floats, response: Response, *, from_simulation: bool) -> Derivative:
    """Of the last iteration's spectrum; ``onwards`` is its derivative by the spectrum after each step."""
    p, terms = response.matrix, []
    onwards, slope = np.eye(len(steps[0].before)), np.zeros((len(steps[0].before), len(m)))
    for step in reversed(steps):
        ratio = np.divide(m, step.folded, out=np.zeros_like(m), where=step.folded > 0)
        gain = p.T @ ratio / response.efficiency  # u' / u, also where u is 0
        # by P_rc: u_c m_r / (eps_c f_r) - u'_c / eps_c in bin c, and - M m_r u_c / f_r in all
        right = (ratio[:, None] * step.before - step.after) / response.efficiency
        whole = step.unfolding * ratio
        terms.append(Term(onwards, right, step.before, onwards @ whole))
        slope = slope + onwards @ step.unfolding
        onwards = onwards @ (np.diag(gain) - whole @ p)
    return Derivative(terms, slope, onwards if from_simulation else None)


def _check_positive(spectrum: Floats, signal: Floats, response: Response) -> None:
    """Raise where negative bins of the signal, which fluctuations make, have made the spectrum negative."""
    bad = np.flatnonzero(spectrum < 0)
    if len(bad):
        worst = int(np.argmin(signal))
        raise ValueError(
            f"data after subtraction of background and fakes: expected few negative bins, found a negative spectrum in "
            f"{len(bad)} truth bins, first {spectrum[bad[0]]:g} in bin {bad[0]} "
            f"({response.truth.label(int(bad[0]))}), from a signal down to {signal[worst]:g} in reco bin {worst} "
            f"({response.reco.label(worst)}); merge bins, or use fakes='scale' or a method that is linear"
        )


def _check_signal(signal: Floats, response: Response, prior: Floats, outside: float) -> float:
    """The fraction of the signal where the prior folds to nothing."""
    lost = float(signal[response.matrix @ prior <= 0].sum() / signal.sum())
    if lost > outside:
        raise ValueError(f"data: expected all in reco bins that the simulation reaches, found the fraction {lost:.3g} "
                         f"outside; simulate more, merge reco bins, or allow it by outside=")  # fmt: skip
    return lost
