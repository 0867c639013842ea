r"""Counting in windows: what is seen against what the sidebands of each lead one to expect.

The background is fitted with the window left out, and integrated over it: :math:`b \pm \sigma_b`.  The significance of
n events is that of an on/off experiment with :math:`m = (b/\sigma_b)^2` events in a sideband :math:`\tau =
b/\sigma_b^2` times as large, whose p-value is exact for the counting part, :math:`I_{1/(1+\tau)}(n, m + 1)` (Z_Bi),
and asymptotically :math:`\sqrt{2 \ln \lambda}` with b profiled (Li, Ma).  No shape of a signal is assumed; what of the
signal is in the sidebands makes b greater.

Sources: Cousins, Linnemann, Tucker, arXiv physics/0702156; Li and Ma, Astrophys. J. 272 (1983) 317.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import special

from ...records import Record
from ..significance import asymptotic_z, z_of_p
from .fits import fit_bump
from .likelihoods import BumpLikelihood, Interval

__all__ = ["WindowCounts", "window_counts"]

Floats = NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class WindowCounts(Record):
    """Counts in W windows.

    Attributes
    ----------
    windows:
        (W, 2), lower and upper end.
    observed:
        (W,), the counts.
    expected, errors:
        (W,), the background from the sidebands' fit and its standard deviation.
    p, z:
        (W,), the one-sided p-value (exact for counting) and its significance; not corrected for the number of windows.
    asymptotic:
        (W,), the signed significance by the likelihood ratio.
    gof:
        (W,), the p-value of the sidebands' chi2: a fit that does not describe them predicts nothing.
    """

    _KIND = "bump window counts"

    windows: Floats
    observed: Floats
    expected: Floats
    errors: Floats
    p: Floats
    z: Floats
    asymptotic: Floats
    gof: Floats

    def __repr__(self) -> str:
        k = int(np.argmax(self.z))
        return (f"WindowCounts({len(self.z)} windows; greatest in {self.windows[k, 0]:g} to {self.windows[k, 1]:g}: "
                f"{self.observed[k]:g} for {self.expected[k]:.4g} +- {self.errors[k]:.3g}, "
                f"Z = {self.z[k]:.2f})")  # fmt: skip


def window_counts(likelihood: BumpLikelihood, windows: Sequence[Interval]) -> WindowCounts:
    """Count in each window against the fit of the background to everything else.

    Parameters
    ----------
    likelihood:
        Its signal is not used; events that weigh 1.
    windows:
        (lower, upper) of each, at borders of bins where there are bins.

    Returns
    -------
    WindowCounts

    Raises
    ------
    NotConverged
        as `fit_bump`.
    ValueError
        for no windows, a window across a bin's inside or outside of the range, weights, or windows that leave no
        sidebands on one of their sides.

    Examples
    --------
    >>> from nuinfer.anomaly.bump import BumpLikelihood, Exponential
    >>> edges = np.linspace(0.0, 10.0, 51)
    >>> contents = np.random.default_rng(1).poisson(100 * np.exp(-edges[1:] / 4))
    >>> contents[25:28] += 20
    >>> counts = window_counts(BumpLikelihood.binned(contents, Exponential(1), edges=edges), [(2.0, 2.6), (5.0, 5.6)])
    >>> counts.windows[counts.z.argmax()].tolist(), bool(counts.z.max() > 4)
    ([5.0, 5.6], True)
    """
    if not len(windows):
        raise ValueError("windows: expected (lower, upper) of at least one, found none")
    if (likelihood.scale != 1).any():
        raise ValueError("likelihood: expected events that weigh 1 for counting, found weights; use scan_masses")
    rows = np.array([_counted(likelihood, float(low), float(high)) for low, high in windows])
    observed, expected, errors, gof = rows.T
    off, tau = (expected / errors) ** 2, expected / errors**2
    p = np.where(observed > 0, special.betainc(np.maximum(observed, 1e-300), off + 1, 1 / (1 + tau)), 1.0)
    asymptotic = asymptotic_z(observed, expected, sigma=errors)
    # a p-value below the smallest number has its Z from the large counts that it takes
    z = np.where(p > 0, z_of_p(p), asymptotic)
    return WindowCounts(np.array(windows, np.float64), observed, expected, errors, p, z, asymptotic, gof)


def _counted(likelihood: BumpLikelihood, low: float, high: float) -> tuple[float, float, float, float]:
    """Observed and expected, its error, and the p-value of the sidebands' chi2."""
    observed, cells = likelihood.observed(low, high)
    rest = likelihood.excluding(low, high)
    used = rest.bins[rest.used]
    if not ((used[:, 1] <= low + 1e-9 * (high - low)).any() and (used[:, 0] >= high - 1e-9 * (high - low)).any()):
        raise ValueError(f"windows: expected sidebands on both sides of ({low:g}, {high:g}), found those from "
                         f"{used[0, 0]:g} to {used[-1, 1]:g}")  # fmt: skip
    fit = fit_bump(rest)
    theta = np.array(list(fit.values.values()))
    expected = float(rest.background.integrals(cells, theta, max(rest.order, 8)).sum())
    slope = rest.background.integral_slopes(cells, theta, max(rest.order, 8)).sum(0)
    return observed, expected, float(np.sqrt(max(slope @ fit.covariance @ slope, 1e-12 * expected**2))), fit.p
