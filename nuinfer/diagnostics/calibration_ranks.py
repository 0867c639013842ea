r"""Simulation-based calibration: the truth falls among the draws of its posterior as one of them.

For theta from the prior, x simulated at theta and L draws from p(theta | x), the rank of theta among the draws is
uniform on 0 .. L, for each parameter and for any function of (theta, x).  Ranks piled up at both ends come from a
posterior that is too narrow, in the middle from one that is too wide, a slope from one that is shifted.

The converse does not hold: the prior in place of the posterior has uniform ranks in each function of theta alone.  The
rank of the log density q(theta | x), which is among the quantities here, depends on x too, and sees more; `tarp` and
`lc2st` see the prior.

Sources: Talts, Betancourt, Simpson, Vehtari, Gelman, arXiv:1804.06788; functions of data and parameters: Modrák,
Moon, Kim, Bürkner, Huurre, Faltejsková, Gelman, Vehtari, arXiv:2211.02383.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from .. import metrics
from ..events import Events
from ..records import Record
from .samplers import Sampler, drawn, log_densities, observations_of, truths
from .uniform import Band, Pull, band, chi2_p, pull, verdict

__all__ = ["SBC", "sbc"]

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]
#: A number for each point: theta (N, M, P) and N observations -> (N, M).
Quantity = Callable[[Floats, Events], Floats]


@dataclass(frozen=True, eq=False)
class SBC(Record):
    """The ranks of N simulations and what they say; made by `sbc`.

    Attributes
    ----------
    names:
        Of Q quantities: the parameters, ``log q``, and test quantities.
    ranks:
        (Q, N), of 0 .. ``draws``.
    draws:
        L, of each simulation.
    weight:
        Of the simulations (N,).
    chi2_p_values, ecdf_p_values:
        That the ranks of each quantity are uniform (Q,), by a chi-squared of their histogram (of as many bins as leave
        5 effective simulations each, with weights 100) and by the largest deviation of their distribution function.
    pulls:
        Mean and width of the pull behind the ranks of each quantity.
    """

    _KIND = "sbc"

    names: tuple[str, ...]
    ranks: Ints
    draws: int
    weight: Floats
    chi2_p_values: Floats
    ecdf_p_values: Floats
    pulls: tuple[Pull, ...]

    @property
    def p_value(self) -> float:
        """The smallest of all p-values times their number (Bonferroni): below 0.01, something is wrong."""
        each = np.concatenate([self.chi2_p_values, self.ecdf_p_values])
        return float(min(1.0, len(each) * each.min()))

    def ecdf(self, name: str, *, level: float = 0.95) -> Band:
        """The distribution function of the ranks of a quantity, with the band that holds all of it.

        Raises
        ------
        KeyError
            for a name that is not among the quantities.
        """
        if name not in self.names:
            raise KeyError(f"expected one of {', '.join(self.names)}, found {name!r}")
        return band(self.ranks[self.names.index(name)], self.draws, self.weight, level)

    def __str__(self) -> str:
        size = float(metrics.effective_size(self.weight))
        said = verdict(self.p_value, size, "ranks are uniform", "ranks are not uniform")
        head = f"SBC, {size:.0f} effective simulations of {self.draws} draws: p = {self.p_value:.2g}, {said}"
        rows = zip(self.names, self.chi2_p_values, self.ecdf_p_values, self.pulls, strict=True)
        return "\n".join([head, *(f"  {name}: {_said(name, *row)}" for name, *row in rows)])


def _said(name: str, chi2: float, ecdf: float, found: Pull) -> str:
    ps = f"p = {chi2:.2g} (histogram), {ecdf:.2g} (distribution function)"
    if name == "log q":
        return ps
    text = f"{ps}; pull {found.mean:+.3f} +- {found.mean_error:.3f}, width {found.width:.3f} +- {found.width_error:.3f}"
    return text + words(min(chi2, ecdf), found)


def words(p_value: float, found: Pull) -> str:
    """What a pull that is not standard says of the posterior."""
    if p_value > 0.01:
        return ""
    faults = []
    if abs(found.width - 1) > 3 * found.width_error:
        faults.append("too narrow" if found.width > 1 else "too wide")
    if abs(found.mean) > 3 * found.mean_error:
        faults.append("too low" if found.mean > 0 else "too high")
    return f": the posterior is {' and '.join(faults)}" if faults else ": the posterior has another shape"


def sbc(
    posterior: Sampler,
    simulations: Events,
    *,
    draws: int = 99,
    quantities: Mapping[str, Quantity] | None = None,
    density: bool = True,
    seed: int = 0,
) -> SBC:
    r"""Ranks of the true parameters among posterior draws, and whether they are uniform.

    Parameters
    ----------
    posterior:
        Anything with ``names``, ``draws`` and ``log_probs``: see `Sampler`.
    simulations:
        Events with the parameters' columns beside those of the observations, from the prior (or with the weights that
        lead there), that the posterior was not trained on.
    draws:
        L; L + 1 should have many divisors, as 100 has.
    quantities:
        Further functions of theta (N, M, P) and the observations, as arrays (N, M), whose ranks are looked at.  With
        the log likelihood among them SBC sees the prior in place of the posterior.
    density:
        Whether log q is one of the quantities.

    Raises
    ------
    KeyError
        for simulations without a parameter's column.
    ValueError
        for values that are not finite, or too few simulations for a histogram of the ranks.

    >>> from nuinfer.simulators import LinearGaussian
    >>> problem = LinearGaussian([[1.0]])
    >>> class Exact:
    ...     names = ("theta0",)
    ...     def draws(self, n, observations, *, seed=0):
    ...         mean, cov = problem.posterior(observations)
    ...         return mean[:, None] + cov[0, 0]**0.5 * np.random.default_rng(seed).normal(size=(len(mean), n, 1))
    ...     def log_probs(self, theta, observations):
    ...         mean, cov = problem.posterior(observations)
    ...         return -0.5 * (theta[..., 0] - mean) ** 2 / cov[0, 0]
    >>> sbc(Exact(), problem.simulate(500, seed=1)).p_value > 0.01
    True
    """
    theta, observations = truths(posterior, simulations), observations_of(posterior, simulations)
    found = drawn(posterior, draws, observations, seed)
    both = np.concatenate([theta[:, None], found], 1)
    named = dict(zip(posterior.names, np.moveaxis(both, 2, 0), strict=True))
    if density:
        named["log q"] = log_densities(posterior, both, observations)
    for name, function in (quantities or {}).items():
        named[name] = _checked(name, function(both, observations), both.shape[:2], named)
    ranks = np.stack([metrics.ranks(v[:, 1:], v[:, 0], seed=seed + i) for i, v in enumerate(named.values())])
    return _judged(tuple(named), ranks, draws, simulations.weight)


def _checked(name: str, values: Floats, shape: tuple[int, ...], taken: Mapping[str, Floats]) -> Floats:
    if name in taken:
        raise ValueError(f"quantities: expected names other than {', '.join(taken)}, found {name!r}")
    if np.shape(values) != shape:
        raise ValueError(f"quantity {name!r}: expected one number for each of theta {(*shape, 'P')}, shape {shape}, "
                         f"found {np.shape(values)}")  # fmt: skip
    return np.asarray(values, np.float64)


def _judged(names: tuple[str, ...], ranks: Ints, draws: int, weight: Floats) -> SBC:
    chi2 = np.array([chi2_p(r, draws, weight) for r in ranks])
    ecdf = np.array([band(r, draws, weight).p_value for r in ranks])
    return SBC(names, ranks, draws, weight, chi2, ecdf, tuple(pull(r, draws, weight) for r in ranks))
