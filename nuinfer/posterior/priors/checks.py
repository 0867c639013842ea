"""What a distribution has to be to serve as a prior: continuous, proper, of a finite width, possible to draw from."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch import distributions as td

from .families import core
from .sampling import seeded

_PROBES = 256  # draws that a new distribution is looked at with


def check_distribution(what: str, distribution: Any) -> None:
    """Raise ``TypeError`` for anything but a torch distribution, ``ValueError`` for a discrete one."""
    if not isinstance(distribution, td.Distribution):
        raise TypeError(f"{what}: expected a torch distribution, found {type(distribution).__name__}"
                        f"{_hint(distribution)}")  # fmt: skip
    if _discrete(distribution):
        raise ValueError(
            f"{what}: expected a continuous distribution, found the discrete {type(distribution).__name__}: a "
            f"posterior here is a density, and a choice has none; infer it by one posterior per value and their "
            f"evidence, or by a continuous parameter that it stands for"
        )


def _hint(value: Any) -> str:
    """What to try in place of a distribution of another package, or of a number."""
    if hasattr(value, "rvs"):
        return "; scipy's are not taken, torch.distributions has most of them"
    return "; leave a fixed parameter out and set it in the simulator" if np.isscalar(value) else ""


def _discrete(distribution: td.Distribution) -> bool:
    try:
        return bool(distribution.support.is_discrete)  # type: ignore[union-attr]
    except NotImplementedError:
        return False  # a support that is not stated: refused where the bounds are asked for


def width_of(what: str, distribution: td.Distribution) -> int:
    """The number of parameters; ``ValueError`` for a matrix of them."""
    event, batch = distribution.event_shape, distribution.batch_shape
    if len(event) + len(batch) > 1:
        raise ValueError(f"{what}: expected a distribution of one number or of (P,), found event shape {tuple(event)} "
                         f"and batch shape {tuple(batch)}; td.Independent(distribution, 1) makes dimensions one "
                         f"event")  # fmt: skip
    return int((*event, *batch, 1)[0])


def check_edges(what: str, distribution: td.Distribution) -> None:
    """Raise ``ValueError`` for a flat density without an end or a width."""
    flat = core(distribution)
    if type(flat) is td.Uniform:
        _check_box(what, flat.low, flat.high)


def probed(what: str, distribution: td.Distribution, width: int) -> Tensor:
    """256 draws (n, width); ``ValueError`` where there are none, or others than finite numbers of that width."""
    kind = type(distribution).__name__
    try:
        with seeded(0, "probe"):
            draws = distribution.sample(torch.Size([_PROBES]))
    except (NotImplementedError, AttributeError) as error:
        raise ValueError(f"{what}: expected a distribution that can be sampled, found {kind}, whose sample raises "
                         f"{type(error).__name__}: improper priors have no simulations; give a normalised "
                         f"distribution") from error  # fmt: skip
    draws = torch.as_tensor(draws).detach().double().reshape(_PROBES, -1)
    if draws.shape[1] != width:
        raise ValueError(f"{what}: expected draws of {width} numbers, which is the event shape that {kind} states, "
                         f"found {draws.shape[1]}; for a condition, use restricted(inside) of its base")  # fmt: skip
    bad = int((~torch.isfinite(draws)).any(-1).sum())
    if bad:
        raise ValueError(f"{what}: expected finite draws, found {bad} of {_PROBES} from {kind} that are not; are its "
                         f"parameters finite?")  # fmt: skip
    return draws


def box(what: str, value: Any) -> td.Distribution:
    """The flat density between (low, high).

    Raises
    ------
    TypeError
        for anything but two numbers.
    ValueError
        for edges that are infinite, or not in order.
    """
    advice = "expected (low, high) or a torch distribution"
    if isinstance(value, (str, bytes)) or not isinstance(value, (Sequence, np.ndarray, Tensor)):
        raise TypeError(f"{what}: {advice}, found {type(value).__name__} {value!r}{_hint(value)}")
    if len(value) != 2:
        raise ValueError(f"{what}: {advice}, found {len(value)} entries {value!r}")
    try:
        low, high = (torch.tensor(float(edge), dtype=torch.float64) for edge in value)
    except (TypeError, ValueError):
        raise TypeError(f"{what}: {advice}, found {value!r}") from None
    _check_box(what, low, high)
    return td.Uniform(low, high)


def _check_box(what: str, low: Tensor, high: Tensor) -> None:
    if not (torch.isfinite(low).all() and torch.isfinite(high).all()):
        raise ValueError(f"{what}: expected finite edges, found ({short(low)}, {short(high)}): a flat prior without "
                         f"an end is improper; give a finite box, or a distribution such as Normal")  # fmt: skip
    if not (low < high).all():
        raise ValueError(f"{what}: expected low < high, found ({short(low)}, {short(high)})")


def short(value: Tensor) -> str:
    """Numbers with seven digits."""
    if value.ndim == 0:
        return f"{value.item():.7g}"
    return "[" + ", ".join(short(part) for part in value) + "]"
