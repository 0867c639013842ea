"""The fit of an autoencoder: standardised columns, padded objects, all members and folds in the one loop."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path
from typing import cast

import numpy as np

from ... import losses
from ...ensemble import Ensemble, fit_networks, standardisation
from ...events import Events, positive_total
from ...nets import Scaling
from ...ratio.learned import selected
from ...resample import Resample, mean_one
from ...train import History, Training
from .objects import Layout, Objects
from .result import Autoencoder, stack_of
from .vae import VAE, Normals

__all__ = ["fit_autoencoder"]

_log = logging.getLogger("nuinfer")


def fit_autoencoder(
    events: Events,
    features: Sequence[str] = (),
    *,
    objects: Sequence[Objects] = (),
    network: VAE = VAE(),  # noqa: B008 - a frozen spec
    scaling: Scaling = "moments",
    members: int = 1,
    folds: int = 1,
    validation: float = 0.2,
    bootstrap: bool = False,
    group: str | None = None,
    training: Training = Training(epochs=30, batch=256, clip=10.0),  # noqa: B008 - a frozen spec
    seed: int,
    device: str = "cpu",
    checkpoint: str | Path | None = None,
    progress: bool = True,
) -> Autoencoder:
    """Fit variational autoencoders to events, most of which are taken to be no outliers.

    Parameters
    ----------
    events:
        Weights of any sign, with a positive sum.
    features:
        Flat columns.
    objects:
        Kinds of objects, padded to fixed numbers: ``[Objects("jets", 10), Objects("met", 1, plain=())]``.
    network:
        Latent numbers, units and beta.
    scaling:
        How columns are made of order one: "moments" by mean and standard deviation; "ranks" by the normal score of
        their rank, which makes scores independent of increasing maps of single columns, but not of rotations.
    members:
        Networks with their own initial weights, batches and validation rows, whose mean score is the answer.
    folds:
        Each member trains one network a fold, and no known event is scored by one that saw it.
    validation:
        Fraction held out of training, by member.
    bootstrap:
        Each member trains on a Poisson bootstrap of the events.
    group:
        Integer column whose equal values stay together in splits, folds and bootstraps.
    training, seed, device, checkpoint, progress:
        See `nuinfer.train.minimise`.

    Raises
    ------
    ValueError
        for no events or a total weight that is not positive, nothing to see, columns that are not finite, logarithms of
        what is not positive, or objects that no event has.
    KeyError, TypeError
        for columns that are missing or of the wrong kind.

    Examples
    --------
    >>> rng = np.random.default_rng(1)
    >>> x = rng.normal(size=4000)
    >>> line = Events({"x": x, "y": x + 0.1 * rng.normal(size=4000)})
    >>> model = fit_autoencoder(line, ["x", "y"], network=VAE(latent=1, depth=0, beta=0.02), seed=1, progress=False,
    ...                         training=Training(epochs=20, batch=128, learning_rate=0.03))
    >>> on, off = model.score(Events({"x": [2.0, 1.0], "y": [2.0, -1.0]}))
    >>> bool(off > 50 * on)
    True
    """
    if not isinstance(network, VAE):
        raise TypeError(f"network: expected VAE, found {network!r}")
    positive_total("events", events.weight)
    used = selected(events)
    layout = Layout.fit(used, features, objects, scaling)
    inputs, weight = layout.inputs(used), mean_one(used.weight)
    resample = Resample(seed=seed, members=members, folds=folds, validation=validation, bootstrap=bootstrap)
    fitted = fit_networks(
        inputs, (weight,), used.key(group), resample, stack=stack_of(network, layout), loss=losses.nll,
        training=training, classes=("events",), draw=Normals(network.latent, seed), drawn=network.latent,
        standardise=standardisation(inputs, (weight,), ready=inputs.flat.shape[1], drawn=network.latent),
        device=device, checkpoint=checkpoint, label="autoencoder", progress=progress,
    )  # fmt: skip
    beyond = layout.beyond(used)
    for kind, fraction in zip(layout.objects, beyond, strict=True):
        if fraction:
            _log.info("objects %r: %.2g%% of the events have more than %d, of which the softest are not seen",
                      kind.name, 100 * fraction, kind.count)  # fmt: skip
    known = np.unique(used.key(group)) if folds > 1 else None
    return Autoencoder(layout, network, cast(Ensemble, fitted.model), resample, cast(History, fitted.history), beyond,
                       group, known, events.digest())  # fmt: skip
