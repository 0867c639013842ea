"""Is there anything that nobody ordered?  Bump hunts, overdensities, goodness of fit.

What to use when: a few counts and what is expected: `counting_z`, `on_off_z`.  A spectrum with its expectation, and a
bump of any width anywhere: `bump_hunt`.  A spectrum whose background is a smooth function, with a peak of a known
shape, its yield and its limits: the package `nuinfer.anomaly.bump`.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from .bump.bump_hunter import BumpHunt, bump_hunt
    from .significance import (
        asymptotic_z,
        counting_z,
        li_ma_z,
        log_on_off_p,
        log_p_of_z,
        log_poisson_p,
        on_off_p,
        on_off_z,
        p_of_z,
        poisson_p,
        z_of_log_p,
        z_of_p,
    )

#: Where each name is; modules load when they are first used, so that counting does not wait for torch.
_NAMES = {
    "BumpHunt": "bump.bump_hunter",
    "asymptotic_z": "significance",
    "bump_hunt": "bump.bump_hunter",
    "counting_z": "significance",
    "li_ma_z": "significance",
    "log_on_off_p": "significance",
    "log_p_of_z": "significance",
    "log_poisson_p": "significance",
    "on_off_p": "significance",
    "on_off_z": "significance",
    "p_of_z": "significance",
    "poisson_p": "significance",
    "z_of_log_p": "significance",
    "z_of_p": "significance",
}

__all__ = [
    "BumpHunt",
    "asymptotic_z",
    "bump_hunt",
    "counting_z",
    "li_ma_z",
    "log_on_off_p",
    "log_p_of_z",
    "log_poisson_p",
    "on_off_p",
    "on_off_z",
    "p_of_z",
    "poisson_p",
    "z_of_log_p",
    "z_of_p",
]


def __getattr__(name: str) -> object:
    if name not in _NAMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(importlib.import_module(f"{__name__}.{_NAMES[name]}"), name)
    globals()[name] = value  # the next look-up does not come here
    return value


def __dir__() -> list[str]:
    return sorted(__all__)
