r"""L-C2ST: whether the posterior is right at *this* observation.

A classifier d(theta, x) is trained to tell draws of the posterior at each simulation's x from the true theta.  At an
observation x_o a posterior that is right there leaves nothing to tell, d = 1/2 at all its draws, and

.. math:: t(x_o) = \frac1M \sum_{m=1}^{M} \left(d(\theta_m, x_o) - \tfrac12\right)^2, \quad \theta_m \sim q(\cdot | x_o)

measures how far it is from that.  What t is by chance alone, over-training included, comes from classifiers trained
after draw and truth have been exchanged in half of the simulations, at random: where the posterior is right, that
changes nothing.  All classifiers, that of the data and those of the null, are trained together.

Source: Linhart, Gramfort, Rodrigues, arXiv:2306.03580, algorithms 1 and 2.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray
from scipy import special

from ..events import Events
from ..features import Features, Inputs, Shape
from ..records import Record
from .samplers import Sampler, drawn, features_of, observations_of, truths

if TYPE_CHECKING:
    from ..ensemble import Ensemble
    from ..nets import Network
    from ..train import Training

__all__ = ["LC2ST", "lc2st"]

Floats = NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class LC2ST(Record):
    """Made by `lc2st`, for M observations.

    Attributes
    ----------
    statistic:
        t (M,), from 0 to 1/4.
    null:
        The same of T classifiers of exchanged labels (M, T).
    p_value:
        (1 + number of null values at least as large) / (1 + T), (M,): for each observation alone.
    """

    _KIND = "lc2st"

    statistic: Floats
    null: Floats
    p_value: Floats

    def __str__(self) -> str:
        lines = [f"L-C2ST, {self.null.shape[1]} permutations:"]
        for t, null, p in zip(self.statistic, self.null, self.p_value, strict=True):
            verdict = "no sign that the posterior is wrong here" if p > 0.01 else "the posterior is wrong here"
            lines.append(f"  t = {t:.4g} (by chance {np.mean(null):.4g} +- {np.std(null):.2g}), p = {p:.2g}: {verdict}")
        return "\n".join(lines)


def lc2st(
    posterior: Sampler,
    simulations: Events,
    observations: Events,
    *,
    features: Features | None = None,
    permutations: int = 100,
    draws: int = 1000,
    network: Network | None = None,
    training: Training | None = None,
    seed: int = 0,
    progress: bool = False,
) -> LC2ST:
    """A classifier two-sample test of the posterior at each of M observations.

    Parameters
    ----------
    posterior, simulations:
        As of `sbc`.
    observations:
        One row for each observation, which needs no parameters' columns.
    features:
        The columns of the observation that the classifier sees, flat and clouds; all of them, if not given.
    permutations:
        T, classifiers of the null; the smallest p-value is 1/(T + 1).
    draws:
        M, of the posterior at each observation.
    network, training:
        Of the classifiers; `MLP(width=32)`, or a small `DeepSet` where there are clouds.

    Raises
    ------
    KeyError, TypeError, ValueError
        for columns that are missing, of another kind or not finite, or too few permutations.
    """
    if permutations < 19:
        raise ValueError(f"permutations: expected at least 19, for p-values down to 0.05, found {permutations}")
    theta, x = truths(posterior, simulations), observations_of(posterior, simulations)
    seen = features_of(x) if features is None else features  # columns of the user's may be others than the posterior's
    false = drawn(posterior, 1, x, seed)[:, 0]
    joint = Inputs.concat([_joined(seen.tensors(simulations), t) for t in (false, theta)])
    model = _trained(joint, simulations.weight, permutations, network, training, seed, progress)
    at = drawn(posterior, draws, observations, seed + 1)
    found = np.stack([_statistics(model, seen, observations.select([i]), at[i]) for i in range(len(at))])
    extreme = (found[:, 1:] >= found[:, :1]).sum(1)
    return LC2ST(found[:, 0], found[:, 1:], (1 + extreme) / (1 + permutations))


def _joined(inputs: Inputs, theta: Floats) -> Inputs:
    """The inputs with the parameters as further flat columns."""
    import torch

    return Inputs(torch.cat([inputs.flat, torch.from_numpy(theta.astype(np.float32))], 1), inputs.clouds)


def _trained(
    joint: Inputs, weight: Floats, permutations: int, network: Network | None, training: Training | None, seed: int,
    progress: bool,
) -> Ensemble:  # fmt: skip
    """The classifier of the truth (numerator) against draws, and those of exchanged labels behind it."""
    from ..ensemble import Ensemble, fit_networks
    from ..losses import bce
    from ..nets import MLP, DeepSet, stack
    from ..resample import Resample

    n = len(weight)
    exchanged = np.random.default_rng([seed, 4]).random((permutations, n)) < 0.5
    true = np.concatenate([np.zeros((1, n), np.bool_), exchanged])  # of network 0 the draws, the first rows, are false
    label = np.concatenate([true, ~true], 1)
    both = np.tile(weight, 2)
    shape = Shape(joint.flat.shape[1], tuple((name, v.shape[1]) for name, (v, _) in joint.clouds.items()))
    small: Network = MLP(width=32, depth=2)
    if joint.clouds:
        small = DeepSet(width=32, latent=16, head=MLP(width=32, depth=2))
    resample = Resample(seed=seed, members=1 + permutations, validation=0)
    fitted = fit_networks(
        joint, (both * label, both * ~label), np.arange(2 * n), resample,
        stack=stack(network or small, shape), loss=bce, training=training or _training(2 * n),
        classes=("truth", "draws"), label="L-C2ST", progress=progress,
    )  # fmt: skip
    assert isinstance(fitted.model, Ensemble)
    return fitted.model


def _training(rows: int) -> Training:
    """Some 240 steps: fewer do not see a width that is 0.7 of what it should be, more learn the noise."""
    from ..train import Training

    steps = max(rows / 256, 1.0)
    return Training(epochs=int(np.clip(np.ceil(240 / steps), 5, 60)), batch=256, learning_rate=1e-2)


def _statistics(model: Ensemble, features: Features, observation: Events, theta: Floats) -> Floats:
    """t of each network, (1 + T,), at draws (M, P) of one observation."""
    repeated = features.tensors(observation).select(np.zeros(len(theta), np.int64))
    log = model.log(_joined(repeated, theta))
    return np.asarray(((special.expit(log) - 0.5) ** 2).mean(1))
