r"""Outliers: events that a model of all events does not describe, by a variational autoencoder.

`fit_autoencoder` of flat columns, and of `Objects` padded to fixed numbers as in a trigger, gives an `Autoencoder` with
the scores that are in use (`nuinfer.anomaly.outliers.vae` has their formulae), and `rate_threshold` the cut that
accepts a stated fraction of events.

What an outlier is depends on the columns.  Under a map of x a density changes by the Jacobian, and a squared distance
in yet another way, so that events that are far out in one set of variables need not be in another one.  Choosing the
variables is choosing what to look for, and nothing in the data does it.  The ratio of two densities does not change
under such maps: where there is a reference sample, compare with it (`nuinfer.anomaly.hunt`, `fit_mixtures`,
`goodness_of_fit`).

What a threshold on such a score accepts says nothing of a discovery: it selects events, and what is expected among them
has to be known from elsewhere.

Sources: Le Lan, Dinh, arXiv 2012.03808, and Kasieczka, Mastandrea, Mikuni, Nachman, Pettee, Shih, arXiv 2209.06225
(coordinates); Batson, Haaf, Kahn, Roberts, arXiv 2102.08380 (what an autoencoder cannot learn by topology).
"""

from .fitting import fit_autoencoder
from .objects import Objects
from .result import Autoencoder
from .thresholds import Threshold, rate_threshold
from .vae import VAE

__all__ = ["VAE", "Autoencoder", "Objects", "Threshold", "fit_autoencoder", "rate_threshold"]
