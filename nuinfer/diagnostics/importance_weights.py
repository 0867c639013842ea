r"""Where a likelihood exists: importance weights of the posterior's draws.

.. math:: w_m = \frac{p(x_o | \theta_m)\, p(\theta_m)}{q(\theta_m | x_o)}, \quad \theta_m \sim q; \qquad
          \hat p(x_o) = \frac1M \sum_m w_m, \quad n = \frac{(\sum w)^2}{\sum w^2}

The exact posterior has equal weights and an effective size n = M.  Reweighted, or resampled, draws are those of the
exact posterior as long as n is large and the tail of the weights is not too long: the shape k of a generalised Pareto
distribution fitted to the largest ones should be below 0.7 (and below 0.5 the variance is finite).

A q that leaves out a part of the posterior has no draws there to say so: n and k may look right.  The evidence is then
too small; `sbc` and `coverage` see it.

Sources: Vehtari, Simpson, Gelman, Yao, Gabry, arXiv:1507.02646; the fit: Zhang, Stephens, Technometrics 51 (2009) 316;
for neural posteriors: Dax et al., arXiv:2210.05686.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from numpy.typing import ArrayLike, NDArray

from .. import metrics
from ..events import Events
from ..records import Record
from .samplers import Sampler, drawn, log_densities

__all__ = ["Importance", "importance", "pareto_k"]

Floats = NDArray[np.float64]


class _Prior(Protocol):
    def log_prob(self, theta: Any, /) -> Floats:
        """(..., P) -> (...), -inf outside of the support."""


class WithPrior(Sampler, Protocol):
    """A `Sampler` that knows its prior."""

    @property
    def prior(self) -> _Prior:
        """With ``log_prob(theta)``: (..., P) -> (...)."""


@dataclass(frozen=True, eq=False)
class Importance(Record):
    """Made by `importance`: M draws of theta (M, P) at one observation and their log weights (M,).

    Attributes
    ----------
    effective_size:
        Of the weighted draws; M for the exact posterior.
    log_evidence, log_evidence_error:
        log p(x_o), which needs normalised q, prior and likelihood, and its standard error.
    pareto_k:
        Shape of the tail of the weights: below 0.7 they can be used.
    """

    _KIND = "importance weights"

    names: tuple[str, ...]
    theta: Floats
    log_weights: Floats
    effective_size: float
    log_evidence: float
    log_evidence_error: float
    pareto_k: float

    @property
    def weights(self) -> Floats:
        """Normalised to 1 (M,)."""
        return _normalised(self.log_weights)

    @property
    def efficiency(self) -> float:
        """Effective size over the number of draws."""
        return self.effective_size / len(self.theta)

    def events(self) -> Events:
        """The draws as weighted events, one column a parameter: those of the exact posterior."""
        return Events(dict(zip(self.names, self.theta.T.copy(), strict=True)), weight=self.weights)

    def resampled(self, n: int, *, seed: int = 0) -> Events:
        """``n`` draws in proportion to their weights (systematic resampling), without weights but with repetitions."""
        if n < 1:
            raise ValueError(f"n: expected at least 1, found {n}")
        rng = np.random.default_rng([seed, 6])
        total = np.cumsum(self.weights)
        rows = np.searchsorted(total / total[-1], (np.arange(n) + rng.random()) / n, side="right")
        theta = self.theta[rng.permutation(rows)]
        return Events(dict(zip(self.names, theta.T.copy(), strict=True)))

    def __str__(self) -> str:
        verdict = "the weights can be used" if self.pareto_k < 0.7 else "too few draws carry all the weight"
        return (f"importance weights, {len(self.theta)} draws: efficiency {100 * self.efficiency:.1f}%, effective size "
                f"{self.effective_size:.0f}, Pareto k = {self.pareto_k:.2f}: {verdict}; log evidence "
                f"{self.log_evidence:.4g} +- {self.log_evidence_error:.2g}")  # fmt: skip


def importance(
    posterior: WithPrior,
    observation: Events,
    log_likelihood: Callable[[Floats], ArrayLike],
    *,
    draws: int = 10_000,
    seed: int = 0,
) -> Importance:
    """Weights of posterior draws at one observation by the likelihood that is known.

    Parameters
    ----------
    posterior:
        A sampler whose ``prior`` has ``log_prob``.  The evidence holds for normalised ``log_probs`` only.
    log_likelihood:
        log p(x_o | theta) of points (M, P), as an array (M,).

    Raises
    ------
    TypeError
        for a posterior without a prior.
    ValueError
        for more or fewer than one observation, a likelihood of another shape, one that is NaN or infinite, or that is
        zero at all draws.
    """
    if len(observation) != 1:
        raise ValueError(f"observation: expected one row, found {len(observation)}")
    if not callable(getattr(getattr(posterior, "prior", None), "log_prob", None)):
        raise TypeError(f"posterior: expected one with a prior that has log_prob, since its weights are prior x "
                        f"likelihood / q, found {type(posterior).__name__} without; nuinfer.posterior.Prior is "
                        f"one")  # fmt: skip
    theta = drawn(posterior, draws, observation, seed)
    log_q = log_densities(posterior, theta, observation)[0]
    empty = int((log_q <= -1e299).sum())
    if empty:
        raise ValueError(f"posterior: expected a density above 0 at its own draws, found 0 at {empty} of {len(log_q)}; "
                         f"its draws and log_probs disagree")  # fmt: skip
    log_l = np.asarray(log_likelihood(theta[0]), np.float64)
    if log_l.shape != (draws,):
        raise ValueError(f"log_likelihood: expected shape ({draws},) for theta {theta[0].shape}, found {log_l.shape}")
    log_w = log_l + np.asarray(posterior.prior.log_prob(theta[0]), np.float64) - log_q
    bad = int((~(log_w < np.inf)).sum())
    if bad or not np.isfinite(log_w).any():
        raise ValueError(f"log_likelihood + log prior: expected numbers or -inf, finite somewhere, found {bad} of "
                         f"{draws} NaN or infinite, and {int(np.isfinite(log_w).sum())} finite")  # fmt: skip
    top = float(log_w.max())
    weight = np.exp(log_w - top)
    mean, error = float(weight.mean()), float(weight.std(ddof=1) / np.sqrt(draws))
    size = float(metrics.effective_size(weight))
    evidence = top + float(np.log(mean))
    return Importance(posterior.names, theta[0], log_w, size, evidence, error / mean, pareto_k(log_w))


def _normalised(log_weights: Floats) -> Floats:
    weight = np.exp(log_weights - log_weights.max())
    return np.asarray(weight / weight.sum())


def pareto_k(log_weights: ArrayLike) -> float:
    r"""The shape k of the tail of importance weights, from their logarithms (M,).

    A generalised Pareto distribution is fitted to the largest min(M/5, 3 sqrt(M)) weights above the next one, and k is
    drawn towards 1/2 by ten more of them, as in the paper.  Weights that are all equal have k = -inf.

    Raises
    ------
    ValueError
        for fewer than 25 weights.

    >>> rng = np.random.default_rng(1)
    >>> round(pareto_k(rng.exponential(0.5, 40000)), 1)                        # Pareto weights of shape 1/2
    0.5
    """
    logs = np.sort(np.asarray(log_weights, np.float64))
    if logs.ndim != 1 or len(logs) < 25:
        raise ValueError(f"log_weights: expected at least 25, shape (M,), found {logs.shape}")
    tail = int(np.ceil(min(len(logs) / 5, 3 * np.sqrt(len(logs)))))
    ordered = np.exp(logs - logs[-1])
    beyond = ordered[-tail:] - ordered[-tail - 1]
    if beyond[-1] <= 1e-12:  # up to rounding
        return -np.inf
    k = _pareto_shape(np.maximum(beyond, 1e-300))
    return float((tail * k + 5) / (tail + 10))


def _pareto_shape(x: Floats) -> float:
    """Zhang and Stephens's estimate for rising x (n,): a posterior mean over a grid of b = -k/sigma."""
    n = len(x)
    grid = 30 + int(np.sqrt(n))
    j = np.arange(1, grid + 1)
    b = 1 / x[-1] + (1 - np.sqrt(grid / (j - 0.5))) / (3 * x[int(n / 4 + 0.5) - 1])
    k = np.log1p(-b[:, None] * x).mean(1)
    log_l = n * (np.log(-b / k) - k - 1)
    share = np.exp(log_l - log_l.max())
    mean = float(np.sum(b * share) / share.sum())
    return float(np.log1p(-mean * x).mean())
