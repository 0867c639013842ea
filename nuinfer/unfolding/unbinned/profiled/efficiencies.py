"""Whether nuisances change how much is reconstructed, which ratios of reconstructed events cannot tell."""

from __future__ import annotations

import logging
import math

import numpy as np
from numpy.typing import NDArray

from ....events import Events, flag, positive_total
from ....ratio.parameters import column_values

__all__ = ["warn_where_it_varies"]

_log = logging.getLogger("nuinfer")

Floats = NDArray[np.float64]

_SIGMA = 4.0  # so far may the fraction go by chance


def warn_where_it_varies(variations: Events, simulation: Events, names: tuple[str, ...]) -> None:
    """Log where the fraction that is reconstructed depends on theta by more than four sigma.

    It is that of the truth of simulated events at thetas of their own, against the simulation's and as a straight line
    of each nuisance.

    Raises
    ------
    ValueError
        for variations without ``pass_reco``, as they are without their misses, or theta that is not finite;
        ``KeyError`` for those without columns of the nuisances.
    """
    if "pass_reco" not in variations:
        raise ValueError("variations: expected a column 'pass_reco', misses included, found none")
    events = variations.select(flag(variations, "pass_truth"))
    theta = column_values("variations", events, names)
    own = _fraction("variations", events)
    theirs = _fraction("simulation", simulation.select(flag(simulation, "pass_truth")))
    found = {"than of the simulation": _significance(own[0] - theirs[0], math.hypot(own[1], theirs[1]))}
    away = events.weight * (flag(events, "pass_reco") - own[0])
    for name, column in zip(names, theta.T, strict=True):
        terms = away * (column - np.average(column, weights=np.abs(events.weight)))
        found[f"as {name!r} rises"] = _significance(float(terms.sum()), float(np.linalg.norm(terms)))
    where, sigma = max(found.items(), key=lambda pair: abs(pair[1]))
    if abs(sigma) > _SIGMA:
        _log.warning(
            "variations: %.4g of their truth is reconstructed, %.4g of the simulation's: %s %s, by %.1f sigma; where "
            "nuisances change the acceptance, give acceptance=, and efficiency= where a ratio is learned",
            own[0], theirs[0], "more" if sigma > 0 else "less", where, abs(sigma),
        )  # fmt: skip


def _fraction(what: str, events: Events) -> tuple[float, float]:
    """Of the weights that are reconstructed, and its error."""
    weight, seen = events.weight, flag(events, "pass_reco")
    total = positive_total(what, weight)
    found = float(weight @ seen) / total
    return found, float(np.sqrt((weight**2) @ (seen - found) ** 2) / total)


def _significance(value: float, error: float) -> float:
    if not error:  # all or nothing is reconstructed
        return math.copysign(math.inf, value) if value else 0.0
    return value / error
