r"""The likelihoods of Daya Bay's data: systematics as a covariance, or as parameters with constraints.

Covariance form: :math:`(n - \mu)^T [V_{syst} + D]^{-1} (n - \mu)` in 21 parameters, D the combined Neyman-Pearson
variance 3 / (1/n + 2/mu), "frozen" at the initial parameters (what the official analysis does) or that of each step.

Pull form: the statistical part, with 3 / (1/n + 2/mu) or Poisson's, in these 21 and all constrained parameters; it
wants a model with ``within_bins="smooth"``, since the slopes of one with flat bins jump.  The
904 uncorrelated uncertainties of the antineutrino spectra change the counts in 26 ways only.  They are unit normals,
and so are their components along any orthogonal directions: those along the right singular vectors of the 546 x 904
derivatives, each divided by its statistical error, are fitted, the directions that change nothing stay at 0.

Sources: Daya Bay Collaboration, arXiv 2211.14988; Ji, Gu, Qian, Wei, Zhang, 1903.07185.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from nuinfer.likelihood import Binned, Normal

from . import covariance
from .model import RANGES, Model

Floats = NDArray[np.float64]
Statistic = Literal["poisson", "cnp"]

INTEREST = ("sin2_2theta13", "dm2_32")
VISIBLE = 0.05  # of a statistical error in all bins together: a direction below it is not fitted


def free_names(model: Model) -> tuple[str, ...]:
    """What every fit varies: the two parameters of interest and the spectrum's 19 values."""
    return (*INTEREST, *model.parameters.groups["spectrum"].names)


def covariance_cost(
    model: Model,
    systematic: Floats,
    *,
    frozen: bool = True,
    at: Mapping[str, float] | None = None,
    data: Any = None,
    statistic: Statistic = "cnp",
) -> Binned:
    """The covariance form of the data, the release's own where ``data`` is None.

    The statistical variance is frozen ``at`` parameters (None: the nominal ones), or that of each step.
    """
    names = free_names(model)
    place = model.parameters.values(names) if at is None else at
    return Binned(
        model.function(names), model.observed.numpy() if data is None else data, statistic, parameters=names,
        covariance=systematic, frozen_at=place if frozen else None,
        limits={name: RANGES[name] for name in INTEREST},
    )  # fmt: skip


@dataclass(frozen=True, eq=False)
class Modes:
    """Orthogonal directions (904, K) of the spectra's uncorrelated uncertainties, and their names."""

    names: tuple[str, ...]
    directions: Tensor

    @classmethod
    def of(cls, model: Model) -> Modes:
        """Those that change the counts, the largest effect first."""
        jacobian = covariance.sensitivities(model, model.parameters.groups["spectrum_uncorrelated"])
        scaled = jacobian / np.sqrt(np.maximum(model.observed.numpy(), 1.0))[:, None]
        _, size, directions = np.linalg.svd(scaled, full_matrices=False)
        kept = int((size > VISIBLE).sum())
        names = tuple(f"spectrum_mode.{k:02d}" for k in range(kept))
        return cls(names, torch.from_numpy(directions[:kept].T.copy()))

    def along(self, values: Mapping[str, float], model: Model) -> dict[str, float]:
        """Their values from those of the 904 parameters."""
        uncorrelated = np.array([values[name] for name in model.parameters.groups["spectrum_uncorrelated"].names])
        return dict(zip(self.names, (uncorrelated @ self.directions.numpy()).tolist(), strict=True))


def pull_cost(model: Model, modes: Modes, statistic: Statistic = "cnp", *, data: Any = None) -> Any:
    """The pull form: the statistical part and the constraints, a sum of costs."""
    groups = [g for g in model.parameters.constrained if g.name != "spectrum_uncorrelated"]
    own = (*free_names(model), *(name for g in groups for name in g.names))
    every = (*own, *model.parameters.groups["spectrum_uncorrelated"].names)

    def predict(theta: Tensor) -> Tensor:
        spectra = theta[..., len(own) :] @ modes.directions.T
        return model.predict(torch.cat([theta[..., : len(own)], spectra], -1), every)

    limits = {name: RANGES[name] for name in RANGES if name in own}
    counts = model.observed.numpy() if data is None else data
    cost: Any = Binned(predict, counts, statistic, parameters=(*own, *modes.names), limits=limits)
    for group in groups:
        cost = cost + Normal(group.names, group.value, covariance=group.covariance)
    return cost + Normal(modes.names, np.zeros(len(modes.names)), covariance=np.eye(len(modes.names)))


def implied(model: Model, cost: Binned, values: Mapping[str, float]) -> dict[str, float]:
    """All constrained parameters, as the best fit ``values`` of the covariance form ``cost`` implies them."""
    mean, counts = cost.expected(values), model.observed.numpy()
    variance = np.asarray(cost.covariance) + np.diag(3 / (1 / np.maximum(counts, 1.0) + 2 / mean))
    return covariance.implied(model, values, np.linalg.inv(variance))


def pull_start(model: Model, modes: Modes, cost: Binned, values: Mapping[str, float]) -> dict[str, float]:
    """Where the pull form's fit begins: the best fit of the covariance form ``cost``, and the pulls that it implies."""
    every = implied(model, cost, values)
    fitted = {n: v for n, v in every.items() if model.parameters.where[n][0] != "spectrum_uncorrelated"}
    return {**values, **fitted, **modes.along(every, model)}


def pulls(model: Model, values: Mapping[str, float], groups: Sequence[str] = ()) -> dict[str, float]:
    """(fitted - nominal) / standard deviation of the constrained parameters that were fitted."""
    wanted = [g for g in model.parameters.constrained if not groups or g.name in groups]
    return {
        name: (values[name] - at) / sigma
        for g in wanted
        for name, at, sigma in zip(g.names, g.value, g.sigma, strict=True)
        if name in values
    }
