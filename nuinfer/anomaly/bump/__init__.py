"""Bump hunts: a smooth background, a peak, and how improbable the peak is anywhere.

What to use when: a `BumpLikelihood` joins data with a background and a signal; `fit_bump` fits it, `fit_toys`
thousands of toys, `profile_yield` one spectrum at many yields. `scan_masses` fits a signal at each mass, `scan_toys`
does so for toys; `global_p_toys` and `gross_vitells` (cheap, for fine grids and small p) correct for the number of
places. `window_counts` assumes no shape of a signal, and `bump_hunt` not even a width. `yield_limits` says how much of
a signal there can be at most, `toy_limits` also where events are few. `fit_goodness` asks whether the background
describes the data at all, `choose_order` how many parameters that takes (`profile_envelope` leaves it open),
`spurious_signal` what the background takes for a signal, `signal_injection` whether a signal comes back.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from ...lazy import names_of

if TYPE_CHECKING:
    from .batched import FitGoodness, ToyFits, fit_goodness, fit_toys, profile_yield
    from .bump_hunter import BumpHunt, bump_hunt
    from .fits import BumpFit, fit_bump, yield_covariance
    from .likelihoods import BumpLikelihood
    from .limit_toys import toy_limits
    from .limits import BumpLimits, yield_limits
    from .orders import OrderChoice, YieldEnvelope, choose_order, profile_envelope
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
    from .spurious import SignalInjection, SpuriousSignal, signal_injection, spurious_signal
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
    "BumpLimits": "limits",
    "BumpScan": "scans",
    "CrystalBall": "signals",
    "Dijet": "shapes",
    "Exponential": "shapes",
    "FitGoodness": "batched",
    "GaussianPeak": "signals",
    "GlobalP": "trials",
    "Linear": "shapes",
    "LogLinear": "shapes",
    "OrderChoice": "orders",
    "Polynomial": "shapes",
    "SignalInjection": "spurious",
    "SignalShape": "signals",
    "SpuriousSignal": "spurious",
    "TemplateBackground": "shapes",
    "TemplateShape": "signals",
    "ToyFits": "batched",
    "ToyScans": "scans",
    "UserPeak": "signals",
    "UserShape": "shapes",
    "WindowCounts": "windows",
    "YieldEnvelope": "orders",
    "bump_hunt": "bump_hunter",
    "choose_order": "orders",
    "fit_bump": "fits",
    "fit_goodness": "batched",
    "fit_toys": "batched",
    "global_p_toys": "trials",
    "gross_vitells": "trials",
    "mass_grid": "scans",
    "profile_envelope": "orders",
    "profile_yield": "batched",
    "scan_masses": "scans",
    "scan_toys": "scans",
    "signal_injection": "spurious",
    "spurious_signal": "spurious",
    "toy_limits": "limit_toys",
    "window_counts": "windows",
    "yield_covariance": "fits",
    "yield_limits": "limits",
}

__all__ = [
    "BackgroundShape",
    "Bernstein",
    "BreitWigner",
    "BumpFit",
    "BumpHunt",
    "BumpLikelihood",
    "BumpLimits",
    "BumpScan",
    "CrystalBall",
    "Dijet",
    "Exponential",
    "FitGoodness",
    "GaussianPeak",
    "GlobalP",
    "Linear",
    "LogLinear",
    "OrderChoice",
    "Polynomial",
    "SignalInjection",
    "SignalShape",
    "SpuriousSignal",
    "TemplateBackground",
    "TemplateShape",
    "ToyFits",
    "ToyScans",
    "UserPeak",
    "UserShape",
    "WindowCounts",
    "YieldEnvelope",
    "bump_hunt",
    "choose_order",
    "fit_bump",
    "fit_goodness",
    "fit_toys",
    "global_p_toys",
    "gross_vitells",
    "mass_grid",
    "profile_envelope",
    "profile_yield",
    "scan_masses",
    "scan_toys",
    "signal_injection",
    "spurious_signal",
    "toy_limits",
    "window_counts",
    "yield_covariance",
    "yield_limits",
]

__getattr__, __dir__ = names_of(__name__, _NAMES)
