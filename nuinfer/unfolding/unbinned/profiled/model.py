"""Nuisances with their constraints and limits, and the response to them: what is given, checked."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .... import hashing
from ....errors import missing
from ....events import Events
from ....likelihood.constraints import Constraint
from ....ratio import ParametrisedRatio
from ....ratio.parameters import shown
from .responses import Efficiency, LogFunction, LogRatio, LogResponse, Response

__all__ = ["Limits", "Model", "check_misses", "model_of"]

Floats = NDArray[np.float64]
Limits = tuple[float | None, float | None]


@dataclass(frozen=True)
class Model:
    """Nuisances, what they do, and what is known of them."""

    names: tuple[str, ...]
    response: Response
    acceptance: Response | None
    efficiency: Efficiency | None
    nominal: Floats
    start: Floats
    given: frozenset[str]  # whose start is for all networks
    constraints: tuple[Constraint, ...]
    limits: tuple[Limits, ...]

    def log(self, what: str, given: Response, events: Events) -> LogResponse:
        """log W of events, checked at the simulation's theta and at the start."""
        if isinstance(given, ParametrisedRatio):
            found: LogResponse = LogRatio(given, events, self.names, self.nominal, self.efficiency)
        else:
            found = LogFunction(what, given, events, self.names)
        own = found(self.nominal)
        if np.abs(own).max() > 1e-3:
            raise ValueError(f"{what}: expected 1 at nominal, {shown(self.names, self.nominal)}, found "
                             f"{float(np.exp(own[np.argmax(np.abs(own))])):.4g}; it is the density over that of the "
                             f"simulation")  # fmt: skip
        found(self.start)
        return found

    def metric(self, slope: Floats, counts: Floats) -> Floats:
        """A first guess of the inverse covariance (P, P) that Q gives: of the scores' squares, and the constraints."""
        size = np.abs(counts)
        away = slope - size @ slope / size.sum()  # a factor of all events alike says nothing
        found = np.asarray(np.einsum("n,ni,nj->ij", size, away, away))
        found[np.diag_indices(len(found))] -= 1e-12 * (size @ slope**2)
        for constraint in self.constraints:
            for name, width in constraint.width.items():
                at = self.names.index(name)
                found[at, at] += width**-2
        blind = [name for name, own in zip(self.names, np.diag(found), strict=True) if not own > 0]
        if blind:
            raise ValueError(f"response: expected one that depends on every nuisance without a constraint, found none "
                             f"of {', '.join(map(repr, blind))}; leave it out, or constrain it")  # fmt: skip
        return found

    def started(self, constraints: tuple[Constraint, ...]) -> Floats:
        """Where a network with these constraints starts (P,): at their centres, as near as the limits allow."""
        centres = {name: value for own in constraints for name, value in own.centre.items() if name not in self.given}
        found = [centres.get(name, first) for name, first in zip(self.names, self.start, strict=True)]
        low, high = np.array([_ends(limits) for limits in self.limits]).T
        return np.asarray(np.clip(found, low, high))

    def fluctuated(self, seed: int, replica: int) -> tuple[Constraint, ...]:
        """The constraints with other outcomes, drawn about those there are."""
        rng = np.random.default_rng(hashing.salt(seed, "constraints", replica))
        return tuple(constraint.sample(constraint.centre, rng) for constraint in self.constraints)


def model_of(
    response: Response, acceptance: Response | None, efficiency: Efficiency | None,
    nuisances: Mapping[str, Constraint | None], nominal: Mapping[str, float], start: Mapping[str, float] | None,
    limits: Mapping[str, Limits] | None,
) -> Model:  # fmt: skip
    """What was given, checked; errors as `nuinfer.unfolding.profiled_omnifold`."""
    if not nuisances:
        raise ValueError("nuisances: expected at least one, found none; without them it is omnifold")
    names, constraints = tuple(nuisances), _constraints(nuisances)
    ranges = _limits(names, limits, {"response": response, "acceptance": acceptance})
    at = _vector("nominal", nominal, names)
    centres = {name: value for constraint in constraints for name, value in constraint.centre.items()}
    first = _vector("start", {**nominal, **centres, **(start or {})}, names)
    for what, values in (("nominal", at), ("start", first)):
        for name, value, own in zip(names, values, ranges, strict=True):
            low, high = _ends(own)
            if not low <= value <= high:
                raise ValueError(f"{what}: expected {name!r} within its limits ({own[0]}, {own[1]}), found {value:g}; "
                                 f"a learned response is known in the range of its training only")  # fmt: skip
    _check_efficiency(response, acceptance, efficiency)
    return Model(names, response, acceptance, efficiency, at, first, frozenset(start or {}), constraints, ranges)


def _ends(limits: Limits) -> tuple[float, float]:
    low, high = limits
    return -math.inf if low is None else low, math.inf if high is None else high


def _check_efficiency(response: Response, acceptance: Response | None, efficiency: Efficiency | None) -> None:
    given = {"response": response, "acceptance": acceptance}
    learned = [what for what, each in given.items() if isinstance(each, ParametrisedRatio)]
    if acceptance is not None and learned and efficiency is None:
        raise ValueError(f"acceptance: expected efficiency= beside it, as a learned {learned[-1]} carries no rate and "
                         f"the yield would be wrong, found none; give the fraction reconstructed at theta over that at "
                         f"nominal, efficiency=lambda theta: 1.0 where theta does not change it")  # fmt: skip
    if efficiency is not None and (acceptance is None or not learned):
        raise ValueError("efficiency: expected acceptance=, and a learned ratio as it or as the response, found "
                         f"{'no acceptance' if acceptance is None else 'functions, which are ratios of rates'}; leave "
                         "it out")  # fmt: skip


def check_misses(acceptance: Response | None, misses: str) -> None:
    """Raise ``ValueError`` for misses that an acceptance does not go with."""
    if acceptance is not None and misses == "prior":
        raise ValueError("acceptance: expected misses='conditional' beside it, found 'prior', whose misses would have "
                         "to follow theta too")  # fmt: skip


def _vector(what: str, values: Mapping[str, float], names: tuple[str, ...]) -> Floats:
    """The values (P,) of all names and no others."""
    for name in names:
        if name not in values:
            raise missing(f"nuisance in {what}", name, values)
    _known(what, values, names)
    found = np.array([values[name] for name in names], np.float64)
    if found.shape != (len(names),) or not np.isfinite(found).all():
        raise ValueError(f"{what}: expected a finite number for each nuisance, found {dict(values)}")
    return found


def _known(what: str, given: Mapping[str, Any], names: Sequence[str]) -> None:
    for name in given:
        if name not in names:
            raise missing(f"nuisance of {what}", name, names)


def _constraints(nuisances: Mapping[str, Constraint | None]) -> tuple[Constraint, ...]:
    """Each constraint once; every one of its parameters has to name it."""
    found: list[Constraint] = []
    for name, constraint in nuisances.items():
        if constraint is None:
            continue
        if not isinstance(constraint, Constraint):
            raise TypeError(f"nuisances: expected a constraint of nuisance {name!r}, such as Normal({name!r}, 0, 1), "
                            f"or None, found {type(constraint).__name__}")  # fmt: skip
        shared = {name, *constraint.names}
        wrong = [n for n in sorted(shared) if n not in constraint.names or nuisances.get(n) is not constraint]
        if wrong:
            raise ValueError(f"nuisances: expected the constraint of {', '.join(constraint.names)} at these names and "
                             f"no others, found it at {name!r}, not at {wrong[0]!r}")  # fmt: skip
        if not any(constraint is other for other in found):
            found.append(constraint)
    return tuple(found)


def _limits(
    names: tuple[str, ...], limits: Mapping[str, Limits] | None, given: Mapping[str, Response | None]
) -> tuple[Limits, ...]:
    """(lower, upper) of each nuisance, those of the ratios' training included."""
    _known("limits", limits or {}, names)
    ratios = {what: ratio for what, ratio in given.items() if isinstance(ratio, ParametrisedRatio)}
    for what, ratio in ratios.items():
        _check_ratio(what, ratio, names)
    found: dict[str, Limits] = {name: (limits or {}).get(name, (None, None)) for name in names}
    if ratios:
        found = {name: _within(name, asked, ratios) for name, asked in found.items()}
    return tuple(found.values())


def _check_ratio(what: str, ratio: ParametrisedRatio, names: tuple[str, ...]) -> None:
    if set(ratio.names) != set(names):
        raise KeyError(f"{what}: expected a ratio of the nuisances {', '.join(names)}, found one of "
                       f"{', '.join(ratio.names)}")  # fmt: skip
    if ratio.calibration is not None:
        raise TypeError(f"{what}: expected a ratio without calibration, which has no gradient, found "
                        f"{ratio.calibration!r}; fit with calibrate=None")  # fmt: skip


def _within(name: str, asked: Limits, ratios: Mapping[str, ParametrisedRatio]) -> Limits:
    """The limits asked for, which have to lie in what the ranges in training share; that where there are none."""
    ranges = [(own.low[at], own.high[at]) for own in (r.parameters for r in ratios.values())
              for at in (own.names.index(name),)]  # fmt: skip
    least, most, whose = float(max(r[0] for r in ranges)), float(min(r[1] for r in ranges)), " and ".join(ratios)
    if not least < most:
        raise ValueError(f"limits of {name!r}: expected ranges in training of {whose} that overlap, found "
                         f"{' and '.join(f'{a:.6g} to {b:.6g}' for a, b in ranges)}; learn both in one")  # fmt: skip
    low, high = (trained if end is None else float(end) for trained, end in zip((least, most), asked, strict=True))
    edge = 1e-9 * (most - least)
    if low < least - edge or high > most + edge:
        raise ValueError(f"limits of {name!r}: expected within the range in training of the {whose}, {least:.6g} to "
                         f"{most:.6g}, found {low:g} to {high:g}; learn in a wider range")  # fmt: skip
    return low, high
