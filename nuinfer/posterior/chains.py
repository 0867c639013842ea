"""Markov chains and what they are worth: R-hat and effective sample sizes.

Source: Vehtari, Gelman, Simpson, Carpenter, Buerkner, arXiv 1903.08008.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import special, stats

__all__ = ["Chains", "effective_sizes", "split_rhat"]

Floats = NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class Chains:
    """Made by `nuinfer.posterior.samplers.run_chains`.

    Attributes
    ----------
    samples:
        Theta behind the warm-up (N, C, L, P): N observations, C chains of L sweeps, P parameters ``names``.
    log_density:
        Theirs (N, C, L).
    rhat, bulk_ess, tail_ess:
        Of each observation and parameter (N, P).
    acceptance:
        Of the trajectories of `HMC`, or of the jumps of `Slice` (N,); those are to change between modes, and a small
        fraction is no harm.
    limit:
        On R-hat.
    evaluations:
        Points at which the density was evaluated.
    """

    names: tuple[str, ...]
    samples: Floats
    log_density: Floats
    rhat: Floats
    bulk_ess: Floats
    tail_ess: Floats
    acceptance: Floats
    limit: float
    evaluations: int

    @property
    def converged(self) -> NDArray[np.bool_]:
        """Whether R-hat of all parameters is within the limit (N,)."""
        return np.asarray((self.rhat <= self.limit).all(1))  # NaN is not

    def draws(self, n: int) -> Floats:
        """``n`` draws (N, n, P), from sweeps as far apart as there are enough for.

        Raises
        ------
        ValueError
            for more draws than the chains have.
        """
        observations, chains, length, parameters = self.samples.shape
        needed = -(-n // chains)
        if needed > length or n < 1:
            raise ValueError(f"n: expected 1 .. {chains * length}, {chains} chains of {length}, found {n}")
        sweeps = (length - 1 - np.arange(needed) * length // needed)[::-1]
        return self.samples[:, :, sweeps].swapaxes(1, 2).reshape(observations, -1, parameters)[:, :n].copy()

    def __repr__(self) -> str:
        n, c, length, _ = self.samples.shape
        return (f"Chains({n} observation{'s' if n > 1 else ''} x {c} chains x {length} of {', '.join(self.names)}; "
                f"R-hat <= {self.rhat.max():.4g}, bulk ESS >= {self.bulk_ess.min():.4g}, tail ESS >= "
                f"{self.tail_ess.min():.4g}, acceptance {self.acceptance.mean():.3g}, {self.converged.sum()} of {n} "
                f"converged)")  # fmt: skip


# -- diagnostics -------------------------------------------------------------------------------------------------------


def split_rhat(samples: ArrayLike) -> Floats:
    r"""R-hat of chains (\*, C, L) of one number: the larger of the rank-normalised and the folded one, (\*).

    Each chain is cut in two halves.  With B the variance of their means times their length and W the mean of their
    variances, R-hat^2 = ((l - 1)/l W + B/l) / W.  NaN for draws that are all the same.

    >>> rng = np.random.default_rng(1)
    >>> even, apart = rng.normal(size=(4, 500)), rng.normal(size=(4, 500)) + [[0], [0], [0], [2]]
    >>> bool(split_rhat(even) < 1.01), bool(split_rhat(apart) > 1.2)
    (True, True)
    """
    x = _halves(samples)
    middle = np.median(x, axis=(-2, -1), keepdims=True)
    return np.maximum(_rhat(_normal_scores(x)), _rhat(_normal_scores(np.abs(x - middle))))


def effective_sizes(samples: ArrayLike) -> tuple[Floats, Floats]:
    r"""Bulk and tail effective sample sizes of chains (\*, C, L) of one number, each (\*).

    Bulk: of the rank-normalised draws, which tells the precision of the mean.  Tail: the smaller of those of the
    indicators below the 5% and the 95% quantile.

    >>> bulk, tail = effective_sizes(np.random.default_rng(1).normal(size=(4, 1000)))
    >>> bool(3000 < bulk < 5000), bool(3000 < tail < 5000)
    (True, True)
    """
    x = _halves(samples)
    tails = [_ess((x <= np.quantile(x, q, axis=(-2, -1), keepdims=True)).astype(np.float64)) for q in (0.05, 0.95)]
    return _ess(_normal_scores(x)), np.minimum(*tails)


def _halves(samples: ArrayLike) -> Floats:
    x = np.asarray(samples, np.float64)
    half = x.shape[-1] // 2 if x.ndim >= 2 else 0
    if half < 2:
        raise ValueError(f"samples: expected chains (*, C, L) of at least 4 draws, found {x.shape}")
    return np.concatenate([x[..., :half], x[..., -half:]], -2)


def _normal_scores(x: Floats) -> Floats:
    """Normal quantiles of the ranks among all draws of all chains (Vehtari et al., eq. 14)."""
    flat = x.reshape(*x.shape[:-2], -1)
    rank = stats.rankdata(flat, axis=-1)
    return np.asarray(special.ndtri((rank - 0.375) / (flat.shape[-1] + 0.25)).reshape(x.shape))


def _rhat(x: Floats) -> Floats:
    length, within = x.shape[-1], x.var(-1, ddof=1).mean(-1)
    between = x.mean(-1).var(-1, ddof=1)
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.asarray(np.sqrt((length - 1) / length + between / within))


def _ess(x: Floats) -> Floats:
    """Effective size of chains (*, C, L) by Geyer's initial monotone sequence (Vehtari et al., eqs. 10 and 11)."""
    chains, length = x.shape[-2:]
    centred = x - x.mean(-1, keepdims=True)
    spectrum = np.fft.rfft(centred, 2 * length, axis=-1)
    covariance = np.fft.irfft(np.abs(spectrum) ** 2, axis=-1)[..., :length].mean(-2) / length
    within = covariance[..., :1] * length / (length - 1)
    total = covariance[..., :1] + x.mean(-1).var(-1, ddof=1)[..., None]
    with np.errstate(divide="ignore", invalid="ignore"):
        correlation = 1 - (within - covariance) / total
    correlation[..., 0] = 1
    pairs = correlation[..., : length // 2 * 2].reshape(*correlation.shape[:-1], -1, 2).sum(-1)
    positive = np.cumprod(pairs > 0, axis=-1)
    tau = -1 + 2 * (np.minimum.accumulate(pairs, axis=-1) * positive).sum(-1)
    count = chains * length
    size = count / np.maximum(tau, 1 / math.log10(count))
    return np.asarray(np.where(total[..., 0] > 0, size, np.nan))
