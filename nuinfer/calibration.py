r"""Calibration of log ratios on held-out events: smooth, strictly monotone maps of f.

    temperature:  g(f) = f / T
    monotone:     g(f) = a + \sum_j e^{c_j} H_j(f),        H_j' = the hat function of knot j

The second is a quadratic spline with a continuous, positive slope: knots at quantiles of f, a constant slope outside
them, and a ridge on the differences of the c_j that pulls it towards a straight line.  Slopes stay within e^-5 to
e^5, and a term of c_j^2 / 2 over the effective size (a normal prior of unit width on c_j) keeps few events from making
them steep.  Both minimise the weighted cross-entropy of held-out events and start at the identity.  The steps of an
isotonic regression would give infinite logs.

Sources: Guo, Pleiss, Sun, Weinberger, arXiv 1706.04599 (temperature); Cranmer, Pavez, Louppe, arXiv 1506.02169 (why a
calibrated classifier is all that a likelihood ratio needs).
"""

from __future__ import annotations

from typing import Literal

import numpy as np
from numpy.typing import NDArray
from scipy import optimize, special

from .errors import NotConverged

__all__ = ["Calibration", "apply", "fit_calibration"]

Calibration = Literal["temperature", "monotone"]
Floats = NDArray[np.float64]

_KNOTS = 8
_STEEPEST = 5.0  # largest log slope: an output that carries next to nothing must not be blown up without end
_RIDGE = 1e-3  # weight of the squared second differences of the log slopes, against a risk of order one


def _hats(f: Floats, knots: Floats) -> Floats:
    """H_j(f) (J, N): integrals of hat functions from the first knot; the outer ones go on with slope 1."""
    out = np.empty((len(knots), len(f)))
    for j in range(len(knots)):
        total = np.zeros(len(f))
        if j:
            width = knots[j] - knots[j - 1]
            t = np.clip(f - knots[j - 1], 0, width)
            total += t * t / (2 * width)
        if j + 1 < len(knots):
            width = knots[j + 1] - knots[j]
            t = np.clip(f - knots[j], 0, width)
            total += t - t * t / (2 * width)
        out[j] = total
    out[0] += np.minimum(f - knots[0], 0)
    out[-1] += np.maximum(f - knots[-1], 0)
    return out


def apply(kind: Calibration, parameters: Floats, f: Floats) -> Floats:
    """g(f) (N,) for the parameters that `fit_calibration` gave."""
    if kind == "temperature":
        return np.asarray(f * np.exp(parameters[0]))
    knots, offset, slopes = parameters[:_KNOTS], parameters[_KNOTS], parameters[_KNOTS + 1 :]
    return np.asarray(offset + np.exp(slopes) @ _hats(f, knots))


def fit_calibration(kind: Calibration, f: Floats, numerator: Floats, denominator: Floats) -> Floats:
    """The parameters of a map, from held-out log ratios f (N,) with numerator and denominator weights (N,), any sign.

    Raises
    ------
    ValueError
        for an unknown kind or a class without positive total weight.
    NotConverged
        where the fit ends without an answer.
    """
    if kind not in ("temperature", "monotone"):
        raise ValueError(f"calibrate: expected 'temperature', 'monotone' or None, found {kind!r}")
    totals = numerator.sum(), denominator.sum()
    if min(totals) <= 0:
        raise ValueError(f"calibration: expected positive total weights in the held-out rows, found {totals}")
    w1, w0 = numerator / totals[0], denominator / totals[1]
    if kind == "temperature":
        basis, knots, offset = f[None], np.empty(0), None
    else:
        knots = np.unique(np.quantile(f, np.linspace(0.01, 0.99, _KNOTS)))
        if len(knots) < _KNOTS:  # f hardly varies, as where both classes agree: spread the knots around it
            knots = np.linspace(knots[0] - 0.5, knots[-1] + 0.5, _KNOTS)
        basis, offset = _hats(f, knots), knots[0]
    size = min(w.sum() ** 2 / np.dot(w, w) for w in (numerator, denominator))
    found = _minimise(basis, w1, w0, offset, 0.5 / size)
    return np.concatenate([knots, found])


def _minimise(basis: Floats, w1: Floats, w0: Floats, offset: float | None, level: float) -> Floats:
    """Parameters (offset if there is one, then log slopes) with the least penalised cross-entropy, by L-BFGS."""
    free = 0 if offset is None else 1
    bend = np.diff(np.eye(len(basis)), 2, axis=0) if len(basis) > 2 else np.zeros((0, len(basis)))
    penalty = _RIDGE * (bend.T @ bend) + level * np.eye(len(basis))

    def risk(parameters: Floats) -> tuple[float, Floats]:
        slopes = np.exp(parameters[free:])
        g = slopes @ basis + (parameters[0] if free else 0.0)
        s = special.expit(g)
        down = w0 * s - w1 * (1 - s)
        value = np.dot(w1 + w0, np.logaddexp(0, g)) - np.dot(w1, g)
        smooth = penalty @ parameters[free:]
        gradient = slopes * (basis @ down) + 2 * smooth
        return float(value + parameters[free:] @ smooth), np.concatenate([[down.sum()] * free, gradient])

    start = np.zeros(free + len(basis))
    bounds = [(None, None)] * free + [(-_STEEPEST, _STEEPEST)] * len(basis)
    if free:
        start[0] = offset
    found = optimize.minimize(risk, start, jac=True, method="L-BFGS-B", bounds=bounds,
                             options={"maxiter": 500, "ftol": 1e-13})  # fmt: skip
    if not np.isfinite(found.fun):
        raise NotConverged("the calibration's risk is not finite; signed weights may outweigh the positive ones where "
                           "the ratio is large: calibrate=None, or more held-out events")  # fmt: skip
    return np.asarray(found.x)
