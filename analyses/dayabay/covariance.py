r"""The covariance of the expected counts from everything that is constrained: J V J^T, group by group.

J holds the derivatives of the 546 expected counts in the nuisance parameters, by central differences of a hundredth of
a standard deviation, which are exact to their square; V is the covariance of the constraints.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import torch
from numpy.typing import NDArray

from .model import Model
from .parameters import Group

Floats = NDArray[np.float64]
STEP = 0.01  # standard deviations


def sensitivities(model: Model, group: Group, at: Mapping[str, float] | None = None) -> Floats:
    """The derivatives (546, n) of the counts in the parameters of a constrained group, at ``at`` (None: nominal)."""
    here = dict(at or {})
    names = (*group.names, *(name for name in here if name not in group.names))
    theta = torch.tensor([here.get(name, model.parameters.value(name)) for name in names], dtype=torch.float64)
    step = torch.zeros(len(group.names), len(names), dtype=torch.float64)
    step[:, : len(group.names)] = torch.diag(torch.from_numpy(STEP * group.sigma))
    with torch.no_grad():
        up, down = (model.predict(theta + sign * step, names) for sign in (1, -1))
    return ((up - down) / (2 * STEP * torch.from_numpy(group.sigma)[:, None])).T.numpy()


def implied(model: Model, values: Mapping[str, float], weight: Floats) -> dict[str, float]:
    r"""The constrained parameters that a fit with their covariance implies: nominal + V J^T W (n - mu).

    ``weight`` (546, 546) is the inverse of the whole covariance; J is taken at ``values``, where mu is.
    """
    theta = torch.tensor(list(values.values()), dtype=torch.float64)
    with torch.no_grad():
        residual = weight @ (model.observed - model.predict(theta, tuple(values))).numpy()
    found: dict[str, float] = {}
    for group in model.parameters.constrained:
        moved = np.asarray(group.covariance) @ (sensitivities(model, group, values).T @ residual)
        found |= dict(zip(group.names, (group.value + moved).tolist(), strict=True))
    return found


def by_group(model: Model, at: Mapping[str, float] | None = None) -> dict[str, Floats]:
    """J V J^T (546, 546) of each constrained group."""
    found = {}
    for group in model.parameters.constrained:
        jacobian = sensitivities(model, group, at)
        found[group.name] = jacobian @ np.asarray(group.covariance) @ jacobian.T
    return found


def systematic(model: Model, at: Mapping[str, float] | None = None, without: Sequence[str] = ()) -> Floats:
    """Their sum (546, 546), of all groups but some."""
    every = by_group(model, at)
    return np.asarray(sum((own for name, own in every.items() if name not in without), start=np.zeros((1, 1))))
