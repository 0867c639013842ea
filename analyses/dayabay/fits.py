r"""The likelihoods of Daya Bay's data: systematics as a covariance, or as parameters with constraints.

Covariance form: :math:`(n - \mu)^T [V_{syst} + D]^{-1} (n - \mu)` in 21 parameters, D the combined Neyman-Pearson
variance 3 / (1/n + 2/mu), "frozen" at the initial parameters (what the official analysis does) or that of each step.

Pull form: the statistical part, with 3 / (1/n + 2/mu) or Poisson's, in these 21 and all constrained parameters.  The
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

from .covariance import sensitivities
from .model import RANGES, Model

Floats = NDArray[np.float64]
Statistic = Literal["poisson", "cnp"]

INTEREST = ("sin2_2theta13", "dm2_32")
VISIBLE = 0.05  # of a statistical error in all bins together: a direction below it is not fitted


def free_names(model: Model) -> tuple[str, ...]:
    """What every fit varies: the two parameters of interest and the spectrum's 19 values."""
    return (*INTEREST, *model.parameters.groups["spectrum"].names)


def covariance_cost(
    model: Model, covariance: Floats, *, frozen: bool = True, data: Any = None, statistic: Statistic = "cnp"
) -> Binned:
    """The covariance form of the data, the release's own where ``data`` is None."""
    names = free_names(model)
    return Binned(
        model.function(names), model.observed.numpy() if data is None else data, statistic, parameters=names,
        covariance=covariance, frozen_at=model.parameters.values(names) if frozen else None,
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
        jacobian = sensitivities(model, model.parameters.groups["spectrum_uncorrelated"])
        scaled = jacobian / np.sqrt(np.maximum(model.observed.numpy(), 1.0))[:, None]
        _, size, directions = np.linalg.svd(scaled, full_matrices=False)
        kept = int((size > VISIBLE).sum())
        names = tuple(f"spectrum_mode.{k:02d}" for k in range(kept))
        return cls(names, torch.from_numpy(directions[:kept].T.copy()))


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


def pulls(model: Model, values: Mapping[str, float], groups: Sequence[str] = ()) -> dict[str, float]:
    """(fitted - nominal) / standard deviation of the constrained parameters that were fitted."""
    wanted = [g for g in model.parameters.constrained if not groups or g.name in groups]
    return {
        name: (values[name] - at) / sigma
        for g in wanted
        for name, at, sigma in zip(g.names, g.value, g.sigma, strict=True)
        if name in values
    }
