r"""Draws that belong to a seed, and rejection: draws of a density restricted to where a condition holds.

.. math:: p(\theta \mid \text{inside}) = p(\theta)\, 1[\text{inside}(\theta)] / a, \qquad
          a = P(\text{inside}) \approx k / n \pm \sqrt{a (1 - a) / n}
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import numpy as np
import torch
from numpy.typing import NDArray

from ... import hashing

Floats = NDArray[np.float64]
Inside = Callable[[Floats], NDArray[np.bool_]]

PILOT = 10_000  # draws that the acceptance of a truncation is counted with
_AT_ONCE = 100_000  # draws that a condition, a network perhaps, is asked of in one call


@contextmanager
def seeded(seed: int, purpose: str) -> Iterator[None]:
    """Torch's generator at a place of its own, put back afterwards.

    Raises
    ------
    ValueError
        for a seed that is no whole number from 0.
    """
    if isinstance(seed, bool) or not isinstance(seed, (int, np.integer)) or seed < 0:
        raise ValueError(f"seed: expected a non-negative integer, found {seed!r}")
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(hashing.salt("posterior", purpose, int(seed)) >> 1)
        yield


def held(inside: Inside, theta: Floats) -> NDArray[np.bool_]:
    """Whether the condition holds at points (n, P) -> (n,); ``ValueError`` where it gives anything but booleans."""
    mask = np.asarray(inside(theta))
    if mask.shape != (len(theta),) or mask.dtype != np.bool_:
        raise ValueError(f"inside: expected booleans ({len(theta)},) for theta {theta.shape}, found {mask.dtype} "
                         f"{mask.shape}")  # fmt: skip
    return mask


def counted(theta: Floats, inside: Inside, floor: float) -> tuple[float, float]:
    """The share of draws (n, P) at which the condition holds, and its binomial error.

    Raises
    ------
    ValueError
        where it is below ``floor``.
    """
    kept, drawn = int(held(inside, theta).sum()), len(theta)
    share = kept / drawn
    if share < floor:
        raise ValueError(_too_few(kept, drawn, floor))
    return share, math.sqrt(share * (1 - share) / drawn)


def rejection(
    draw: Callable[[int, int], Floats], inside: Inside, n: int, *, seed: int, acceptance: float, floor: float
) -> Floats:
    """``n`` draws at which the condition holds, of those that ``draw(size, seed)`` (size, P) gives.

    Raises
    ------
    ValueError
        where clearly fewer than ``floor`` of the draws are inside.
    """
    parts: list[Floats] = []
    have, drawn = 0, 0
    while have < n or not parts:
        size = min(int(1.2 * (n - have) / acceptance) + 64, _AT_ONCE)
        theta = draw(size, int(hashing.bits(np.array([len(parts) + 1]), seed, "truncated")[0] >> 1))
        parts.append(theta[held(inside, theta)])
        have, drawn = have + len(parts[-1]), drawn + size
        # 50 or more expected: half of that is 4e-5 improbable
        if drawn * floor > 50 and have < 0.5 * floor * drawn:
            raise ValueError(_too_few(have, drawn, floor))
    return np.concatenate(parts)[:n]


def check_again(acceptance: float, error: float, saved: tuple[float, float]) -> None:
    """Raise ``ValueError`` where an acceptance is not the one that was saved with its error, within 5 sigma."""
    both = math.hypot(saved[1], error) + 1 / PILOT
    if abs(acceptance - saved[0]) > 5 * both:
        raise ValueError(f"inside: expected the condition that was saved, with acceptance {saved[0]:.4g}, found one "
                         f"with {acceptance:.4g}")  # fmt: skip


def _too_few(kept: int, drawn: int, floor: float) -> str:
    return (f"truncated prior: expected an acceptance of at least {floor:g}, found {kept} of {drawn} draws inside; "
            f"widen the region, give a base prior nearer to it (a smaller box), or a lower floor=")  # fmt: skip
