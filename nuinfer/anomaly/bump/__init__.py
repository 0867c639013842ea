"""Bump hunts: a smooth background, a peak, and how improbable the peak is anywhere.

What to use when: a `BumpLikelihood` joins data with a background and a signal; `fit_bump` fits it, `fit_toys`
thousands of toys, `profile_yield` one spectrum at many yields. `scan_masses` fits a signal at each mass, `scan_toys`
does so for toys; `global_p_toys` and `gross_vitells` (cheap, for fine grids and small p) correct for the number of
places. `window_counts` assumes no shape of a signal, and `bump_hunt` not even a width. `fit_goodness` asks whether the
background describes the data at all.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from .batched import FitGoodness, ToyFits, fit_goodness, fit_toys, profile_yield
    from .bump_hunter import BumpHunt, bump_hunt
    from .fits import BumpFit, fit_bump, yield_covariance
    from .likelihoods import BumpLikelihood
    from .scans import BumpScan, ToyScans, mass_grid, scan_masses, scan_toys
    from .shapes import (
        BackgroundShape,
        Bernstein,
        Dijet,
        Exponential,
        Linear,
        LogLinear,
        Polynomial,
        TemplateBackground,
        UserShape,
    )
    from .signals import BreitWigner, CrystalBall, GaussianPeak, SignalShape, TemplateShape, UserPeak
    from .trials import GlobalP, global_p_toys, gross_vitells
    from .windows import WindowCounts, window_counts

#: Where each name is; modules load when they are first used.
_NAMES = {
    "BackgroundShape": "shapes",
    "Bernstein": "shapes",
    "BreitWigner": "signals",
    "BumpFit": "fits",
    "BumpHunt": "bump_hunter",
    "BumpLikelihood": "likelihoods",
    "BumpScan": "scans",
    "CrystalBall": "signals",
    "Dijet": "shapes",
    "Exponential": "shapes",
    "FitGoodness": "batched",
    "GaussianPeak": "signals",
    "GlobalP": "trials",
    "Linear": "shapes",
    "LogLinear": "shapes",
    "Polynomial": "shapes",
    "SignalShape": "signals",
    "TemplateBackground": "shapes",
    "TemplateShape": "signals",
    "ToyFits": "batched",
    "ToyScans": "scans",
    "UserPeak": "signals",
    "UserShape": "shapes",
    "WindowCounts": "windows",
    "bump_hunt": "bump_hunter",
    "fit_bump": "fits",
    "fit_goodness": "batched",
    "fit_toys": "batched",
    "global_p_toys": "trials",
    "gross_vitells": "trials",
    "mass_grid": "scans",
    "profile_yield": "batched",
    "scan_masses": "scans",
    "scan_toys": "scans",
    "window_counts": "windows",
    "yield_covariance": "fits",
}

__all__ = [
    "BackgroundShape",
    "Bernstein",
    "BreitWigner",
    "BumpFit",
    "BumpHunt",
    "BumpLikelihood",
    "BumpScan",
    "CrystalBall",
    "Dijet",
    "Exponential",
    "FitGoodness",
    "GaussianPeak",
    "GlobalP",
    "Linear",
    "LogLinear",
    "Polynomial",
    "SignalShape",
    "TemplateBackground",
    "TemplateShape",
    "ToyFits",
    "ToyScans",
    "UserPeak",
    "UserShape",
    "WindowCounts",
    "bump_hunt",
    "fit_bump",
    "fit_goodness",
    "fit_toys",
    "global_p_toys",
    "gross_vitells",
    "mass_grid",
    "profile_yield",
    "scan_masses",
    "scan_toys",
    "window_counts",
    "yield_covariance",
]


def __getattr__(name: str) -> object:
    if name not in _NAMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(importlib.import_module(f"{__name__}.{_NAMES[name]}"), name)
    globals()[name] = value  # the next look-up does not come here
    return value


def __dir__() -> list[str]:
    return sorted(__all__)
