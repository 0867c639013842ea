"""Searches for a resonance by weak supervision.

What to use when: `hunt` searches the data in `sliding_windows`; `injection_scan` repeats it with more and more of a
signal, which tells what the search can see and where limits are.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from ...lazy import names_of

if TYPE_CHECKING:
    from ..regions import Window, sliding_windows
    from .counting import excess_p
    from .cwola import hunt
    from .ideal import Ideal
    from .injection import InjectionLimits, InjectionScan, injection_scan
    from .results import Hunt, HuntP, HuntToys, sidak

#: Where each name is; modules load when they are first used.
_NAMES = {
    "Hunt": "hunting.results",
    "HuntP": "hunting.results",
    "HuntToys": "hunting.results",
    "Ideal": "hunting.ideal",
    "InjectionLimits": "hunting.injection",
    "InjectionScan": "hunting.injection",
    "Window": "regions",
    "excess_p": "hunting.counting",
    "hunt": "hunting.cwola",
    "injection_scan": "hunting.injection",
    "sidak": "hunting.results",
    "sliding_windows": "regions",
}

__all__ = [
    "Hunt",
    "HuntP",
    "HuntToys",
    "Ideal",
    "InjectionLimits",
    "InjectionScan",
    "Window",
    "excess_p",
    "hunt",
    "injection_scan",
    "sidak",
    "sliding_windows",
]

__getattr__, __dir__ = names_of("nuinfer.anomaly", _NAMES)
