r"""The uncertainty of an answer from the training of its ratios: finite training samples, and the chance of training.

The ratios of K members give K likelihoods of the same data, and K answers (`nuinfer.likelihood.Mixture.members`).  With
members that differ only by their seeds these spread by the method alone, V_m; with members that are bootstraps of the
training samples, by the statistics of these and the method, V_b.  The answer of the likelihood with the members' mean
ratios has

.. math:: V = \underbrace{V_b - V_m}_{\text{statistics}} + \underbrace{V_m / K}_{\text{method}} .

Bootstraps alone give V_b, which is not too small.  The uncertainty is one of the measurement, to be added to that of
the data; it does not fall with more data, but with more simulation.

Sources: ATLAS, arXiv 2412.01600, section 6.4; Efron, Annals of Statistics 7 (1979) 1.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import numpy as np
from iminuit.cost import Cost
from numpy.typing import NDArray

from ..records import Record
from .fits import Fit, Limits, Problem

__all__ = ["TrainingUncertainty", "training_uncertainty"]

Floats = NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class TrainingUncertainty(Record):
    """What the training adds to a fit's uncertainty.

    Attributes
    ----------
    names:
        (T,) parameters.
    bootstraps, plain:
        The refitted parameters (K, T) of each kind of member; ``plain`` may be (0, T).
    covariance:
        (T, T) of the answer with the mean ratios.
    of_fit:
        The covariance (T, T) of the fit, from the data's statistics and the nuisances.
    """

    _KIND = "training uncertainty"

    names: tuple[str, ...]
    bootstraps: Floats
    plain: Floats
    covariance: Floats
    of_fit: Floats

    @property
    def errors(self) -> dict[str, float]:
        """The standard deviations by name."""
        return dict(zip(self.names, np.sqrt(np.diag(self.covariance)).tolist(), strict=True))

    @property
    def total(self) -> Floats:
        """The covariance (T, T) of the fit and of the training together."""
        return np.asarray(self.of_fit + self.covariance)

    def __repr__(self) -> str:
        width, kinds = max(map(len, self.names)), f"{len(self.bootstraps)} bootstraps"
        if len(self.plain):
            kinds += f" and {len(self.plain)} plain members"
        head = f"TrainingUncertainty({kinds}; error of the fit, of the training, together)"
        rows = [
            f"  {name:<{width}}  {fit:.3g}  {own:.3g}  {both:.3g}"
            for name, fit, own, both in zip(
                self.names, *(np.sqrt(np.diag(v)) for v in (self.of_fit, self.covariance, self.total)), strict=True
            )
        ]
        return "\n".join([head, *rows])


def training_uncertainty(
    fit: Fit,
    bootstraps: Iterable[Cost],
    plain: Iterable[Cost] = (),
    *,
    limits: Limits | None = None,
    periodic: Mapping[str, tuple[float, float]] | None = None,
) -> TrainingUncertainty:
    """Refit with each member of the ratios and combine the spreads.

    Parameters
    ----------
    fit:
        With the mean ratios: where the refits start, and what they hold fixed.
    bootstraps:
        Costs of the same data with members trained on bootstraps (``fit_ratio(..., bootstrap=True)``), constraints
        included.  The bootstraps of an event are those of its id and the seed: give the ratios one seed, so that a
        sample that several ratios share is resampled once for all of them.
    plain:
        Those with members that differ by their seeds only.
    limits, periodic:
        As of the fit.

    Raises
    ------
    ValueError
        for less than two of ``bootstraps``, one of ``plain``, or costs of other parameters than the fit's.
    NotConverged
        where a refit does not converge.
    """
    found = _refitted(fit, bootstraps, limits, periodic)
    others = _refitted(fit, plain, limits, periodic)
    if len(found) < 2 or len(others) == 1:
        raise ValueError(f"training_uncertainty: expected at least 2 bootstraps and none or at least 2 plain members, "
                         f"found {len(found)} and {len(others)}")  # fmt: skip
    covariance = np.atleast_2d(np.cov(found.T))
    if len(others):
        method = np.atleast_2d(np.cov(others.T))
        covariance = _positive(covariance - method) + method / len(others)
    return TrainingUncertainty(fit.names, found, others, covariance, fit.covariance)


def _refitted(
    fit: Fit, costs: Iterable[Cost], limits: Limits | None, periodic: Mapping[str, tuple[float, float]] | None
) -> Floats:
    """The minima (K, T); on a circle those nearest to the fit."""
    rows = []
    for cost in costs:
        problem = Problem(cost, limits=limits, periodic=periodic)
        if problem.names != fit.names:
            raise ValueError(f"training_uncertainty: expected costs of {', '.join(fit.names)}, found one of "
                             f"{', '.join(problem.names)}")  # fmt: skip
        values = problem.fit(fit.values, fixed=fit.fixed).values
        for name, (low, high) in (periodic or {}).items():
            values[name] -= (high - low) * round((values[name] - fit.values[name]) / (high - low))
        rows.append([values[name] for name in fit.names])
    return np.array(rows, np.float64).reshape(-1, len(fit.names))


def _positive(matrix: Floats) -> Floats:
    """The nearest matrix without negative eigenvalues: a difference of two sample covariances may have some."""
    values, vectors = np.linalg.eigh(matrix)
    return np.asarray((vectors * np.maximum(values, 0)) @ vectors.T)
