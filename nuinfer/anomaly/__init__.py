"""Is there anything that nobody ordered?  Bump hunts, overdensities, goodness of fit.

What to use when: a few counts and what is expected: `counting_z`, `on_off_z`.  A spectrum with its expectation, and a
bump of any width anywhere: `bump_hunt`.  A spectrum whose background is a smooth function, with a peak of a known
shape, its yield and its limits: the package `nuinfer.anomaly.bump`.  A resonance of unknown mass in events with further
features, of which no signal model is needed: `hunt`, with a background template of `nuinfer.anomaly.templates`, and
`injection_scan` for what it can see.  Do the data follow a reference at all?  `goodness_of_fit`.  Two samples that are
mixtures of the same two components, in fractions that nobody knows: `fit_mixtures`.  Events that are unlike all others,
as a trigger keeps them: `fit_autoencoder`, whose answer depends on the columns.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from ..lazy import names_of

if TYPE_CHECKING:
    from .bump.bump_hunter import BumpHunt, bump_hunt
    from .goodness.fitting import NetworkFit, goodness_of_fit
    from .goodness.kernel import KernelFit
    from .goodness.result import GoodnessOfFit
    from .hunting.cwola import hunt
    from .hunting.injection import InjectionScan, injection_scan
    from .hunting.results import Hunt
    from .mixtures import Fractions, Mixtures, fit_mixtures, unmix
    from .outliers.fitting import fit_autoencoder
    from .outliers.objects import Objects
    from .outliers.result import Autoencoder
    from .outliers.thresholds import Threshold, rate_threshold
    from .outliers.vae import VAE
    from .regions import Window, sliding_windows
    from .significance import (
        asymptotic_z,
        counting_z,
        li_ma_z,
        log_chi2_p,
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
    from .templates.anode import Anode
    from .templates.cathode import Cathode
    from .templates.decorrelation import Decorrelated
    from .templates.latent import Latent
    from .templates.salad import Salad
    from .templates.sculpting import Sculpting, sculpting_test
    from .templates.sidebands import Sidebands

#: Where each name is.
_NAMES = {
    "Anode": "templates.anode",
    "Autoencoder": "outliers.result",
    "BumpHunt": "bump.bump_hunter",
    "Cathode": "templates.cathode",
    "Decorrelated": "templates.decorrelation",
    "Fractions": "mixtures",
    "GoodnessOfFit": "goodness.result",
    "Hunt": "hunting.results",
    "InjectionScan": "hunting.injection",
    "KernelFit": "goodness.kernel",
    "Latent": "templates.latent",
    "Mixtures": "mixtures",
    "NetworkFit": "goodness.fitting",
    "Objects": "outliers.objects",
    "Salad": "templates.salad",
    "Sculpting": "templates.sculpting",
    "Sidebands": "templates.sidebands",
    "Threshold": "outliers.thresholds",
    "VAE": "outliers.vae",
    "Window": "regions",
    "asymptotic_z": "significance",
    "bump_hunt": "bump.bump_hunter",
    "counting_z": "significance",
    "fit_autoencoder": "outliers.fitting",
    "fit_mixtures": "mixtures",
    "goodness_of_fit": "goodness.fitting",
    "hunt": "hunting.cwola",
    "injection_scan": "hunting.injection",
    "li_ma_z": "significance",
    "log_chi2_p": "significance",
    "log_on_off_p": "significance",
    "log_p_of_z": "significance",
    "log_poisson_p": "significance",
    "on_off_p": "significance",
    "on_off_z": "significance",
    "p_of_z": "significance",
    "poisson_p": "significance",
    "rate_threshold": "outliers.thresholds",
    "sculpting_test": "templates.sculpting",
    "sliding_windows": "regions",
    "unmix": "mixtures",
    "z_of_log_p": "significance",
    "z_of_p": "significance",
}

__all__ = [
    "VAE",
    "Anode",
    "Autoencoder",
    "BumpHunt",
    "Cathode",
    "Decorrelated",
    "Fractions",
    "GoodnessOfFit",
    "Hunt",
    "InjectionScan",
    "KernelFit",
    "Latent",
    "Mixtures",
    "NetworkFit",
    "Objects",
    "Salad",
    "Sculpting",
    "Sidebands",
    "Threshold",
    "Window",
    "asymptotic_z",
    "bump_hunt",
    "counting_z",
    "fit_autoencoder",
    "fit_mixtures",
    "goodness_of_fit",
    "hunt",
    "injection_scan",
    "li_ma_z",
    "log_chi2_p",
    "log_on_off_p",
    "log_p_of_z",
    "log_poisson_p",
    "on_off_p",
    "on_off_z",
    "p_of_z",
    "poisson_p",
    "rate_threshold",
    "sculpting_test",
    "sliding_windows",
    "unmix",
    "z_of_log_p",
    "z_of_p",
]

_MODULES = ("bump", "goodness", "hunting", "mixtures", "outliers", "regions", "significance", "templates")

__getattr__, __dir__ = names_of(__name__, _NAMES, _MODULES)
