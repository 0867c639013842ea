"""The Poisson deviance of bins, -2 log of the likelihood over that of the saturated model."""

from __future__ import annotations

import torch
from torch import Tensor

__all__ = ["poisson_deviance"]


def poisson_deviance(mean: Tensor, count: Tensor) -> Tensor:
    """2 sum [mu - n + n log(n / mu)] of mu and n (B,), exact in bins of n = 0; mu > 0 where n > 0, from 0 elsewhere."""
    seen = count > 0
    one = torch.ones_like(mean)
    # where nothing was seen the logarithm is of 1, so that neither it nor its gradient meets a 0
    ratio = torch.where(seen, count / torch.where(seen, mean, one), one)
    return 2 * (mean - count + count * torch.log(ratio)).sum()
