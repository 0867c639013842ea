"""The fit: simulations in standardised columns, noise for z and the padding, all members in the one loop."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import cast

import numpy as np
import torch
from numpy.typing import NDArray
from scipy import special
from torch import Tensor

from .. import hashing
from ..density.columns import Bounds, Columns
from ..ensemble import Ensemble, fit_networks, standardisation
from ..events import Events, positive_total
from ..features import Inputs
from ..ratio.learned import selected
from ..resample import Resample
from ..train import Draw, Drawn, History, Training, digest
from .coupling import Coupling, CouplingStack, Sizes
from .losses import Discrepancy, Loss, check_positive, risk
from .result import Invertible, scaled

__all__ = ["fit_invertible"]

_log = logging.getLogger("nuinfer")

Floats = NDArray[np.float64]

_LATE = 0.002  # what the loss of the backward draws begins with, as a fraction of half of its weight
_UNEXPLAINED = 0.1  # root mean square of y - prediction in standard deviations of y that is worth a warning


def fit_invertible(
    simulations: Events,
    parameters: Sequence[str],
    observations: Sequence[str],
    *,
    latent: int | None = None,
    padding: int = 0,
    padding_noise: float = 0.05,
    bounds: Mapping[str, Bounds] | None = None,
    network: Coupling = Coupling(),  # noqa: B008 - a frozen spec
    loss: Loss = Discrepancy(),  # noqa: B008 - a frozen spec
    members: int = 1,
    validation: float = 0.1,
    training: Training = Training(epochs=60, batch=256, learning_rate=5e-3, clip=10.0),  # noqa: B008 - a frozen spec
    seed: int = 0,
    device: str = "cpu",
    checkpoint: str | Path | None = None,
    progress: bool = True,
) -> Invertible:
    """Fit [y, z] = f(theta) with bijective networks f.

    Parameters
    ----------
    simulations:
        One row a simulation: theta drawn from the prior, and its y.  Weights of any sign, with a positive sum.
    parameters, observations:
        The flat columns of theta and y.  y has to be a function of theta: give the simulator's noise among the
        parameters.
    latent:
        How many numbers z has; None: as many as theta has more than y, and at least one.
    padding:
        Zeros beyond those that make both sides equally long: a wider network is a more flexible one.
    padding_noise:
        Standard deviation of what stands for the zeros in training, where theta has 1.
    bounds:
        ``{"column": (low, high)}`` of parameters and observations, None for no bound: draws never lie outside
        (`nuinfer.density.columns` has the transforms).
    network:
        Blocks, and the perceptrons in them.
    loss:
        ``Discrepancy`` as in arXiv 1808.04730, or ``Likelihood`` as in arXiv 2101.10763.
    members:
        Networks with their own initial weights, batches and validation rows; draws come from all equally.
    validation:
        Fraction held out of training, by member.
    training, seed, device, checkpoint, progress:
        See `nuinfer.train.minimise`.  A discrepancy compares the rows of a batch: below some 100 it is noisy, and its
        time grows with the batch squared.

    Raises
    ------
    ValueError
        for no simulations, a total weight that is not positive, columns that are not finite, constant or outside their
        bounds, a column on both sides, or a latent or padding that is not a whole number.
    KeyError, TypeError
        for columns that are missing or of the wrong kind.

    Examples
    --------
    >>> from nuinfer.invertible import Likelihood
    >>> from nuinfer.simulators import LinearGaussian
    >>> sims = LinearGaussian([[1.0]], noise=0.25).simulate(2000, seed=1)  # x = theta + noise
    >>> sims = sims.with_columns({"noise": sims["x0"] - sims["theta0"]})
    >>> inn = fit_invertible(sims, ["theta0", "noise"], ["x0"], network=Coupling(blocks=2, width=16), loss=Likelihood(),
    ...                      training=Training(epochs=30, batch=100, learning_rate=0.01), seed=1, progress=False)
    >>> draws = inn.sample(2000, Events({"x0": [1.0]}), seed=1)["theta0"]  # the posterior is N(0.8, 0.2)
    >>> bool(abs(draws.mean() - 0.8) < 0.1), bool(abs(draws.std() - 0.2**0.5) < 0.1)
    (True, True)
    """
    theta, y = _columns(parameters, observations, bounds or {})
    sizes = Sizes.of(len(theta.names), len(y.names), latent, padding)
    check_positive("fit_invertible", "padding_noise", padding_noise)
    positive_total("simulations", simulations.weight)
    used = selected(simulations)
    theta, y = (c.fitted(c.read(used), used.weight, seed) for c in (theta, y))
    flat = np.concatenate([scaled(theta, used), scaled(y, used)], 1).astype(np.float32)
    weight = used.weight * (len(used) / used.weight.sum())
    paired = isinstance(loss, Discrepancy)
    stack = CouplingStack(network, sizes, backward=paired)
    resample = Resample(seed=seed, members=members, validation=validation)
    inputs, drawn = Inputs(torch.from_numpy(flat)), sizes.latent + sizes.left + sizes.right
    fitted = fit_networks(
        inputs, (weight,), used.id, resample, stack=stack, loss=risk(loss, sizes, padding_noise), training=training,
        classes=("simulations",), drawn=drawn,
        standardise=standardisation(inputs, (weight,), ready=flat.shape[1], drawn=drawn),
        draw=_Noise(sizes, padding_noise, weight if paired else None, training.epochs, seed), device=device,
        checkpoint=checkpoint, label="invertible", progress=progress,
    )  # fmt: skip
    model, history = cast(Ensemble, fitted.model), cast(History, fitted.history)
    made = Invertible(theta, y, network, loss, sizes, padding_noise, np.zeros(len(y.names)), model, resample, history,
                      simulations.digest())  # fmt: skip
    return replace(made, residual=_residual(made, used))


def _columns(
    parameters: Sequence[str], observations: Sequence[str], bounds: Mapping[str, Bounds]
) -> tuple[Columns, Columns]:
    both = sorted(set(parameters) & set(observations))
    if both and not isinstance(parameters, str) and not isinstance(observations, str):
        raise ValueError(f"observations: expected other columns than the parameters, found {', '.join(both)} in both")
    seen = {name: pair for name, pair in bounds.items() if name in observations}
    rest = {name: pair for name, pair in bounds.items() if name not in seen}
    return Columns.of(parameters, rest, ()), Columns.of(observations, seen, ())


class _Noise(Draw):
    """z and the padding of the rows of a step; targets: the relative weight and how far the loss of theta has come."""

    def __init__(self, sizes: Sizes, scale: float, relative: Floats | None, epochs: int, seed: int) -> None:
        self.sizes, self.scale, self.epochs, self.seed = sizes, scale, epochs, seed
        self.relative = None if relative is None else torch.from_numpy(relative)

    def __call__(self, rows: Tensor, networks: NDArray[np.int64], epoch: int | None) -> Drawn:
        """Columns (S, K, B, latent + padding of both sides)."""
        count = self.sizes.latent + self.sizes.left + self.sizes.right
        label = "held out" if epoch is None else epoch
        found = np.empty((*rows.shape, count))
        for k, network in enumerate(networks):
            keys = rows[:, k].numpy()[..., None] * count + np.arange(count)
            uniform = hashing.uniform(keys.reshape(-1), "invertible", self.seed, int(network), label) + 2.0**-54
            found[:, k] = special.ndtri(uniform).reshape(keys.shape)
        found[..., self.sizes.latent :] *= self.scale
        if self.relative is None:
            return Drawn(torch.from_numpy(found))
        come = 1.0 if epoch is None else min(1.0, 2 * _LATE ** (1 - (epoch + 1) / self.epochs))
        return Drawn(torch.from_numpy(found), targets=(self.relative[rows], torch.full(rows.shape, come)))

    def describe(self) -> str:
        """Sizes and scale, and a digest of the weights."""
        weights = "" if self.relative is None else f", weights {digest(self.relative)}, {self.epochs} epochs"
        return f"normal noise for {self.sizes}, padding of {self.scale:g}{weights}"


def _residual(made: Invertible, simulations: Events) -> Floats:
    """Root mean square of the standardised residuals (M,); a warning where y is not the function of theta."""
    predicted = made.forward(simulations)
    found = Events(dict(zip(made.observations.names, predicted.T.copy(), strict=True)))
    off = scaled(made.observations, found) - scaled(made.observations, simulations)
    size = np.abs(simulations.weight)
    rms = np.asarray(np.sqrt(size @ np.square(off) / size.sum()))
    if (rms > _UNEXPLAINED).any():
        worst = int(rms.argmax())
        _log.warning(
            "the parameters explain column %r but for %.2f of its standard deviation; draws of an invertible network "
            "are right only where y is a function of theta: give the simulator's noise among the parameters, train "
            "for longer, or use fit_density", made.observations.names[worst], rms[worst],
        )  # fmt: skip
    return rms
