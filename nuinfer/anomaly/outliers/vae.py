r"""The variational autoencoder, and its scores.

An encoder gives for standardised x a normal density of L latent numbers z, :math:`N(\mu_j, \sigma_j^2)`, and a decoder
a reconstruction :math:`\hat x(z)`, and for objects that may be missing logits of their being there, with masks m.  Both
minimise

.. math:: \frac12 \sum_k m_k (x_k - \hat x_k(z))^2 + \sum_o H(m_o, \hat m_o) + \beta\, K, \qquad
          K = \frac12 \sum_j \left(\mu_j^2 + \sigma_j^2 - 1 - \log \sigma_j^2\right)

with z = mu + sigma epsilon drawn anew each epoch, the cross-entropy H, and K the divergence from N(0, 1).  Minus that,
over :math:`\beta`, is the evidence lower bound of a decoder with normal errors of variance :math:`\beta`, in units of
the columns' variances (masks count :math:`1/\beta` times): what varies less than that is not worth a latent number.
With beta = 0 there is no noise and no K: an autoencoder.

==================  ==================================================================================================
score               of an event
==================  ==================================================================================================
"reconstruction"    the first two sums, at z = mu
"latent"            :math:`\sum_j \mu_j^2`, which needs the encoder alone, as in a trigger
"kl"                K
"elbo"              reconstruction + beta K
==================  ==================================================================================================

**Linear networks** (depth 0) have the exact minimum of probabilistic principal components: with eigenvalues
:math:`\lambda_j` and axes :math:`u_j` of the columns' covariance, those of the L largest that exceed beta are kept,

.. math:: \sum_j \mu_j^2 = \sum_j \frac{\lambda_j - \beta}{\lambda_j^2} (u_j x)^2, \quad
          \sigma_j^2 = \frac{\beta}{\lambda_j}, \quad
          |x - \hat x|^2 = \sum_j \frac{\beta^2}{\lambda_j^2} (u_j x)^2 + |x_\perp|^2

and for beta = 0 the reconstruction is the projection on the principal axes.

Sources: Kingma, Welling, arXiv 1312.6114; Higgins et al., ICLR 2017 (beta); Tipping, Bishop, J. R. Stat. Soc. B 61
(1999) 611, and Lucas, Tucker, Grosse, Norouzi, arXiv 1911.02469 (linear networks); Cerri, Nguyen, Pierini, Spiropulu,
Vlimant, arXiv 1811.10276 (outliers in a trigger); Govorkova et al., arXiv 2108.03986 (the score of the means alone).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray
from scipy import special
from torch import Tensor

from ... import hashing, nets
from ...features import Batch, Shape
from ...nets import MLP, Stack, State
from ...store import under, within
from ...train import Draw, Drawn

__all__ = ["VAE", "AutoencoderStack", "Evaluated", "Kind", "Normals"]

Kind = Literal["reconstruction", "latent", "kl", "elbo"]
KINDS: tuple[Kind, ...] = ("reconstruction", "latent", "kl", "elbo")

_LARGEST = 10.0  # log of a latent variance


@dataclass(frozen=True, kw_only=True)
class VAE:
    """``latent`` numbers between an encoder and a decoder of ``depth`` x ``width`` units; depth 0 is linear.

    >>> VAE(latent=3)
    VAE(latent=3, width=32, depth=2, beta=0.1, activation='silu')
    """

    latent: int = 8
    width: int = 32
    depth: int = 2
    beta: float = 0.1
    activation: nets.Activation = "silu"

    def __post_init__(self) -> None:
        if not isinstance(self.latent, int) or self.latent < 1:
            raise ValueError(f"VAE: expected latent to be an integer of at least 1, found {self.latent!r}")
        if not (math.isfinite(self.beta) and self.beta >= 0):
            raise ValueError(f"VAE: expected a beta of at least 0, found {self.beta!r}")
        MLP(width=self.width, depth=self.depth or 1, activation=self.activation)  # which says what is wrong

    def part(self, inputs: int, outputs: int) -> Stack:
        """Encoder or decoder."""
        if self.depth == 0:
            return _Linear(inputs, outputs)
        return nets.stack(MLP(width=self.width, depth=self.depth, activation=self.activation), Shape(inputs), outputs)


class _Linear(Stack):
    """K linear maps."""

    def __init__(self, inputs: int, outputs: int) -> None:
        self.inputs, self.outputs = inputs, outputs

    def initial(self, seed: int, members: Sequence[int]) -> State:
        shape = (self.outputs, self.inputs)
        drawn = [torch.randn(shape, generator=nets.generator(seed, k)) * self.inputs**-0.5 for k in members]
        return {"weight": torch.stack(drawn), "bias": torch.zeros(len(members), 1, self.outputs)}

    def __call__(self, state: State, batch: Batch, *, training: bool = False) -> Tensor:
        return torch.baddbmm(state["bias"], batch.flat, state["weight"].transpose(1, 2))


class AutoencoderStack(Stack):
    """K autoencoders.

    A batch has V values, M masks, and behind them the L normal numbers of `Normals`; the output (K, B) is minus what
    is minimised.

    Parameters
    ----------
    spec:
        What is trained.
    owners:
        For each value the number of its mask, ``masks`` for those that are always there (V,).
    masks:
        Their number M.
    """

    def __init__(self, spec: VAE, owners: Sequence[int], masks: int) -> None:
        self.spec, self.values, self.masks = spec, len(owners), masks
        self.owners = torch.tensor(list(owners), dtype=torch.long)
        seen = self.values + masks
        self.parts = {"encoder": spec.part(seen, 2 * spec.latent), "decoder": spec.part(spec.latent, seen)}

    def initial(self, seed: int, members: Sequence[int]) -> State:
        """Those of both parts."""
        state: State = {}
        for name, part in self.parts.items():
            state |= under(f"{name}.", part.initial(hashing.salt(seed, name) >> 1, members))
        return state

    def __call__(self, state: State, batch: Batch, *, training: bool = False) -> Tensor:
        """Minus the risk (K, B)."""
        seen, noise = batch.flat.split([self.values + self.masks, self.spec.latent], -1)
        mean, log_variance = self.encoded(state, seen, training=training)
        beta = self.spec.beta
        z = mean + torch.exp(0.5 * log_variance) * noise if beta else mean
        risk = self.errors(state, seen, z, training=training).sum(-1)
        return -(risk + beta * divergence(mean, log_variance)) if beta else -risk

    def encoded(self, state: State, seen: Tensor, *, training: bool = False) -> tuple[Tensor, Tensor]:
        """Means and logarithms of variances (K, B, L) of the latent numbers, for values and masks (K, B, V + M)."""
        raw = self._part("encoder", state, seen, training)
        mean, spread = raw.chunk(2, -1)
        return mean, _LARGEST * torch.tanh(spread / _LARGEST)

    def errors(self, state: State, seen: Tensor, z: Tensor, *, training: bool = False) -> Tensor:
        """Halves of squared errors, and cross-entropies of the masks, (K, B, V + M)."""
        found = self._part("decoder", state, z, training)
        values, mask = seen.split([self.values, self.masks], -1)
        there = torch.cat([mask, torch.ones_like(values[..., :1])], -1)[..., self.owners.to(mask.device)]
        square = 0.5 * there * (values - found[..., : self.values]).square()
        logits = found[..., self.values :]
        entropy = torch.nn.functional.softplus(logits) - mask * logits
        return torch.cat([square, entropy], -1)

    def _part(self, name: str, state: State, flat: Tensor, training: bool) -> Tensor:
        found = self.parts[name](within(f"{name}.", state), Batch(flat), training=training)
        return found[..., None] if found.ndim == 2 else found  # one column

    def describe(self) -> str:
        """The spec and the sizes."""
        return f"{self.spec} of {self.values} values and {self.masks} masks {tuple(self.owners.tolist())}"


def divergence(mean: Tensor, log_variance: Tensor) -> Tensor:
    """K of latent numbers (..., L) -> (...)."""
    return 0.5 * (mean.square() + torch.exp(log_variance) - 1 - log_variance).sum(-1)


class Evaluated(Stack):
    """The same networks with other outputs, without noise: scores (K, B, 3), latent means, or errors of each column.

    The scores are reconstruction, latent and K.
    """

    def __init__(self, stack: AutoencoderStack, what: Literal["scores", "means", "errors"]) -> None:
        self.stack, self.what = stack, what

    def initial(self, seed: int, members: Sequence[int]) -> State:
        """That of the stack."""
        return self.stack.initial(seed, members)

    def __call__(self, state: State, batch: Batch, *, training: bool = False) -> Tensor:
        """Outputs (K, B, C)."""
        seen = batch.flat[..., : self.stack.values + self.stack.masks]
        mean, log_variance = self.stack.encoded(state, seen)
        if self.what == "means":
            return mean
        errors = self.stack.errors(state, seen, mean)
        if self.what == "errors":
            return errors
        return torch.stack([errors.sum(-1), mean.square().sum(-1), divergence(mean, log_variance)], -1)


class Normals(Draw):
    """Standard normal numbers of (row, network, epoch)."""

    def __init__(self, count: int, seed: int) -> None:
        self.count, self.seed = count, seed

    def __call__(self, rows: Tensor, networks: NDArray[np.int64], epoch: int | None) -> Drawn:
        """Columns (S, K, B, count)."""
        found = np.empty((*rows.shape, self.count))
        for k, network in enumerate(networks):
            keys = rows[:, k].numpy()[..., None] * self.count + np.arange(self.count)
            labels = ("autoencoder", self.seed, int(network), "held out" if epoch is None else epoch)
            found[:, k] = special.ndtri(hashing.uniform(keys.reshape(-1), *labels) + 2.0**-54).reshape(keys.shape)
        return Drawn(torch.from_numpy(found.astype(np.float32)))

    def describe(self) -> str:
        """Number and seed."""
        return f"{self.count} normal numbers, seed {self.seed}"
