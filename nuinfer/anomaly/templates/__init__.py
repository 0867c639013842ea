"""What the background looks like in a signal region, from the sidebands.

What to use when:

- `Sidebands`: features that do not depend on the mass; any features, no training.
- `Cathode`: they do; flat features.  A flow learns p(x | m) in the sidebands, and is drawn from in between.
- `Salad`: there is a simulation, be it wrong; any features.
- `Anode`: a finished score, the ratio of two flows; it says what the excess looks like, and is the noisiest.
- `Latent`: the features of `Cathode` in the flow's latent space, where a score cannot follow the mass.
- `Decorrelated`: any of them with features that lose their dependence on the mass first.

`sculpting_test` asks whether a cut on a score follows the mass.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from ...lazy import names_of

if TYPE_CHECKING:
    from .anode import Anode
    from .base import BackgroundTemplate, FittedTemplate
    from .cathode import Cathode
    from .decorrelation import Decorrelated, Decorrelation, fit_decorrelation
    from .latent import Latent
    from .salad import Salad
    from .sculpting import Sculpting, sculpting_of_cuts, sculpting_test
    from .sidebands import Sidebands
    from .spectrum import MassSpectrum, fit_spectrum

#: Where each name is; modules load when they are first used.
_NAMES = {
    "Anode": "anode",
    "Cathode": "cathode",
    "Decorrelated": "decorrelation",
    "Decorrelation": "decorrelation",
    "FittedTemplate": "base",
    "Latent": "latent",
    "Salad": "salad",
    "Sculpting": "sculpting",
    "Sidebands": "sidebands",
    "MassSpectrum": "spectrum",
    "BackgroundTemplate": "base",
    "fit_decorrelation": "decorrelation",
    "fit_spectrum": "spectrum",
    "sculpting_of_cuts": "sculpting",
    "sculpting_test": "sculpting",
}

__all__ = [
    "Anode",
    "BackgroundTemplate",
    "Cathode",
    "Decorrelated",
    "Decorrelation",
    "FittedTemplate",
    "Latent",
    "MassSpectrum",
    "Salad",
    "Sculpting",
    "Sidebands",
    "fit_decorrelation",
    "fit_spectrum",
    "sculpting_of_cuts",
    "sculpting_test",
]

__getattr__, __dir__ = names_of(__name__, _NAMES)
