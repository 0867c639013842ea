r"""How the simulation's own statistics reach a binned answer, to first order and exactly so.

An unfolded spectrum u (T,) depends on the simulated contents n_rt, m_t, F_r (`nuinfer.unfolding.Response`) through the
response's columns P_t, the truth yields N_t where the prior is the simulation's, and the signal that is unfolded.  The
derivative by the column c of P has, for every method here, the form

.. math:: \frac{\partial u}{\partial P_{rc}} = \sum_j \big( A^j_{tc} B^j_{rc} - s^j_c W^j_{tr} \big),

so that sums over columns factorise: matrix products of T x R, never an array of T x R x T.  With independent contents
of variance v (sums of squared weights) the covariance follows from the chain rule

.. math:: \partial P_{rc} / \partial n_{sc} = (\delta_{rs} - P_{rc}) / N_c, \qquad
          \partial P_{rc} / \partial m_c = -P_{rc} / N_c.

Source: the error propagation of Adye, arXiv 1105.1160, with the response's part.
"""

from __future__ import annotations

import functools
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ..measured import Measured
from ..response import Response

__all__ = ["Derivative", "Term", "simulation_covariance"]

Floats = NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class Term:
    """One term of the derivative by P: ``left`` A (B, T), ``right`` B (R, T), ``scale`` s (T,), ``whole`` W (B, R)."""

    left: Floats
    right: Floats
    scale: Floats
    whole: Floats


@dataclass(frozen=True, eq=False)
class Derivative:
    """Of an unfolded spectrum (B,): by P, by the signal m (B, R), and by the truth yields N (B, T) if it has them."""

    terms: Sequence[Term]
    by_signal: Floats
    by_truth: Floats | None = None


def simulation_covariance(derivative: Derivative, response: Response, measured: Measured) -> Floats:
    """Covariance (B, B) of the unfolded spectrum from the simulation's statistics."""
    p, total = response.matrix, response.truth_yield
    # a content moves u by: -sum_j s_j W_j / N, the same for all truth bins but for s_j; J q; and left, right pairs
    wholes = [(-term.scale / total, term.whole) for term in derivative.terms]
    wholes.append((np.ones(len(total)), derivative.by_signal * measured.by_signal))
    common = _sum((term.whole @ p) * (term.scale / total) for term in derivative.terms)  # (B, T)
    missed = common - _sum(term.left * ((term.right * p).sum(0) / total) for term in derivative.terms)
    if derivative.by_truth is not None:
        missed = missed + derivative.by_truth
    pairs = [(term.left, term.right / total) for term in derivative.terms]
    pairs.append((missed, np.ones_like(p)))
    found = _of_wholes(wholes, response.both_variance) + _of_pairs(pairs, response.both_variance)
    mixed = _mixed(wholes, pairs, response.both_variance)
    fakes = derivative.by_signal * measured.by_fakes
    found += mixed + mixed.T + (missed * response.missed_variance) @ missed.T
    return np.asarray(found + (fakes * response.fakes_variance) @ fakes.T)


def _of_wholes(wholes: Sequence[tuple[Floats, Floats]], v: Floats) -> Floats:
    """sum_c W(c) diag(v_c) W(c)^T with W(c) = sum_j a_j[c] W_j."""
    return _sum(one @ _sum(other * (v @ (a * b)) for b, other in wholes).T for a, one in wholes)


def _of_pairs(pairs: Sequence[tuple[Floats, Floats]], v: Floats) -> Floats:
    """The same with W(c) = sum_l A_l[:, c] B_l[:, c]^T."""
    return _sum(left @ _sum(other * (right * v * also).sum(0) for other, also in pairs).T for left, right in pairs)


def _mixed(wholes: Sequence[tuple[Floats, Floats]], pairs: Sequence[tuple[Floats, Floats]], v: Floats) -> Floats:
    """What the two have in common, once."""
    return _sum(_sum(whole @ (v * right * a) for a, whole in wholes) @ left.T for left, right in pairs)


def _sum(parts: Iterable[Floats]) -> Floats:
    return functools.reduce(np.add, parts)
