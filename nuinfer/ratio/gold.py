"""Can the gold be right?  What has to hold of joint ratios and joint scores, and of the theta that they belong to.

A column of numbers does not tell whether it is the joint ratio r or its inverse, or the score of a density or that of
an event weight.  Its means do: with s = r/(1 + r), under the numerator (1) and the denominator (0),

    E_1[1 - s] = E_0[s],     E_1[s] >= E_0[s],     E_1[t] = 0 and E_1[t theta] = 0

for the exact joint ratio r and joint score t.  Sums that vanish in one event only are not checked here.

`check_same_density` compares the theta of two samples: a loss with the joint ratio weighs both classes at one theta, so
that a theta that is more frequent in one of them biases the answer by the log of that ratio.
"""

from __future__ import annotations

import logging

import numpy as np
from numpy.typing import NDArray
from scipy import special

from ..events import Events

Floats = NDArray[np.float64]
Keys = NDArray[np.int64]

_SIGMA = 5.0
_P_VALUE = 1e-6

_log = logging.getLogger("nuinfer")


def moments(values: Floats, weight: Floats, key: Keys) -> tuple[Floats, Floats]:
    """Weighted means (M,) of values (N, M) and their sampling errors; rows of one key are copies of one event."""
    total = weight.sum()
    mean = weight @ values / total
    parents, number = np.unique(key, return_inverse=True)
    off = weight[:, None] * (values - mean)
    by_parent = np.stack([np.bincount(number, column, len(parents)) for column in off.T], 1)
    return np.asarray(mean), np.asarray(np.sqrt((by_parent**2).sum(0)) / total)


def check_joint_ratio(one: Events, zero: Events, log_ratio: tuple[Floats, Floats], group: str | None) -> None:
    """Warn of a joint ratio (N1,), (N0,) whose means contradict it; ``ValueError`` for one that is upside down."""
    (up, up_error), (low, low_error), (rest, rest_error) = (
        tuple(float(m[0]) for m in moments(special.expit(sign * f)[:, None], e.weight, e.key(group)))
        for e, f, sign in ((one, log_ratio[0], 1), (zero, log_ratio[1], 1), (one, log_ratio[0], -1))
    )
    if low - up > _SIGMA * np.hypot(up_error, low_error):
        raise ValueError(
            f"joint ratio: expected p(x, z | theta)/p(x, z | ref), found r/(1 + r) of mean {up:.4g} in the simulations "
            f"and {low:.4g} in the reference, where it has to be the smaller one; the column may be the inverse"
        )
    error = np.hypot(rest_error, low_error)
    if abs(rest - low) > _SIGMA * error:
        _log.warning(
            "joint ratio: 1/(1 + r) has mean %.4g in the simulations and r/(1 + r) %.4g in the reference, %.1f "
            "standard deviations apart, where they are equal for the ratio of two normalised densities; is it one, and "
            "at the theta of its row?", rest, low, abs(rest - low) / error,
        )  # fmt: skip


def check_joint_score(events: Events, names: tuple[str, ...], theta: Floats, score: Floats, group: str | None) -> None:
    """Warn of a joint score (N, T) that has a mean, or a correlation with theta (N, T); both standardised."""
    size = score.shape[1]
    products = (score[:, :, None] * theta[:, None, :]).reshape(len(score), -1)
    mean, error = moments(np.concatenate([score, products], 1), events.weight, events.key(group))
    pull = np.abs(mean) / np.where(error > 0, error, np.inf)
    worst = int(np.argmax(pull))
    if pull[worst] > _SIGMA:
        j, k = (worst, None) if worst < size else divmod(worst - size, size)
        what = f"of {names[j]!r}" if k is None else f"of {names[j]!r} times theta {names[k]!r}"
        _log.warning(
            "joint score: the mean %s over the simulations is %.1f standard deviations from 0, which is that of the "
            "score of a normalised density at each theta; the gradient of the log of an event weight becomes one by "
            "subtracting that of the log of its sum", what, pull[worst],
        )  # fmt: skip


def check_same_density(
    one: Events, zero: Events, names: tuple[str, ...], theta: tuple[Floats, Floats], group: str | None
) -> None:
    """``ValueError`` where a weighted Kolmogorov-Smirnov test sees two distributions of a parameter (p < 1e-6)."""
    for j, name in enumerate(names):
        distance, p_value = kolmogorov_smirnov(
            *((t[:, j], e.weight, e.key(group)) for t, e in zip(theta, (one, zero), strict=True))
        )
        if p_value < _P_VALUE:
            raise ValueError(
                f"reference: expected {name!r} to have the weighted density that it has in the simulations, found "
                f"distributions that differ by up to {distance:.3g} (p = {p_value:.1g}); with a joint ratio that would "
                f"bias the answer: draw both from one distribution, and where weights depend on theta, in both"
            )


def kolmogorov_smirnov(first: tuple[Floats, Floats, Keys], second: tuple[Floats, Floats, Keys]) -> tuple[float, float]:
    """The largest distance of two weighted distribution functions, of (values, weights, keys) each, and its p-value.

    A sample's effective size is the one for which the largest variance of its distribution function is 1/(4 n).
    """
    at = np.unique(np.concatenate([first[0], second[0]]))
    (f, m), (g, n) = (_distribution(at, *sample) for sample in (first, second))
    distance = float(np.abs(f - g).max())
    return distance, float(special.kolmogorov(np.sqrt(m * n / (m + n)) * distance))


def _distribution(at: Floats, values: Floats, weight: Floats, key: Keys) -> tuple[Floats, float]:
    """The weighted distribution function at ``at`` and the effective size."""
    order = np.argsort(values)
    upto = np.searchsorted(values[order], at, side="right")
    total = weight.sum()
    below, square = (np.concatenate([[0.0], np.cumsum(w[order])])[upto] for w in (weight / total, weight**2 / total**2))
    copies = np.bincount(np.unique(key, return_inverse=True)[1], weight)
    shared = max(float((copies**2).sum() / (weight**2).sum()), 1.0)
    variance = (1 - 2 * below) * square + below**2 * square[-1]
    return below, 1 / (4 * shared * float(variance.max()))
