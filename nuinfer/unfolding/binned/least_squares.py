r"""Least squares with Tikhonov's penalty, which SVD unfolding and TUnfold are: linear, and so exact in all it says.

With the signal m (R,), its covariance V, the response P (efficiency in it), a reference x (T,) and differences L of a
given order between neighbouring bins,

.. math:: \chi^2(u) = (m - Pu)^T V^{-1} (m - Pu) + \tau\, |C u|^2, \qquad C = L\, \mathrm{diag}(1/x).

What is smooth is thus the ratio to the reference; by default it is the simulation's truth.  The minimum is u = U m with
U = H^{-1} P^T V^{-1}, H = P^T V^{-1} P + \tau C^T C; the additional smearing matrix is A_C = U P, and without a penalty
it is the unit matrix.

**The strength** \tau.  *L-curve*: where the curve of log chi-squared
of the data and log of the penalty bends most.  *rho*: where the mean
global correlation of the bins, :math:`\rho_t = \sqrt{1 - 1/(K_{tt} K^{-1}_{tt})}` with K the covariance of u, is
smallest.  *Rank k* as in SVD unfolding: the square of the k-th largest generalised singular value of (V^{-1/2} P, C);
about k directions keep their data.  One decomposition serves all strengths: with X^T (N + c C^T C) X = 1 and
X^T N X = diag(a), N = P^T V^{-1} P, the answer is X diag(1 / (a + (\tau/c) (1 - a))) X^T P^T V^{-1} m.

Sources: Hoecker, Kartvelishvili, hep-ph/9509307 (SVD, rank); Schmitt, arXiv 1205.6201 (TUnfold: L-curve, rho).
"""

from __future__ import annotations

import functools
from dataclasses import dataclass
from typing import Literal, get_args

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import interpolate, linalg, signal

from ..measured import Counts, Fakes, Measured
from ..response import Response, reference_of
from ..spectrum import Origin, Spectrum, made_from
from .propagation import Derivative, Term, simulation_covariance

__all__ = ["Criterion", "StrengthScan", "scan_strength", "tikhonov"]

Floats = NDArray[np.float64]
Criterion = Literal["lcurve", "rho"]

_POINTS = 161  # of a scan, over sixteen decades


@dataclass(frozen=True, eq=False)
class StrengthScan:
    """The same data unfolded with many strengths (S,).

    Attributes
    ----------
    strengths:
        Rising.
    chi2, penalty:
        Of the data, and the squared length of C u (S,).
    curvature:
        Of the L-curve (S,), positive where it bends towards the origin.
    correlation:
        Mean global correlation (S,).
    degrees:
        Effective degrees of freedom (S,), the trace of A_C.
    best:
        The strength by each criterion.
    """

    strengths: Floats
    chi2: Floats
    penalty: Floats
    curvature: Floats
    correlation: Floats
    degrees: Floats
    best: dict[str, float]


def tikhonov(
    data: Counts,
    response: Response,
    *,
    strength: float | Criterion = "lcurve",
    rank: int | None = None,
    order: int = 2,
    reference: ArrayLike | None = None,
    background: Counts = None,
    fakes: Fakes = "subtract",
    covariance: ArrayLike | None = None,
) -> Spectrum:
    """Unfold binned data by penalised least squares.

    Parameters
    ----------
    data, background, fakes, covariance:
        As in `Measured.of`; the covariance has to have an inverse, so that each bin needs a variance.
    strength:
        tau, 0 for plain least squares, or how to choose it.
    rank:
        Choose the strength as in SVD unfolding instead: between 1 and the number of truth bins.
    order:
        Of the differences, 0 to 3: `Binning.differences`.
    reference:
        x (T,), positive, whose ratio to the spectrum is to be smooth; None for the simulation's truth, ones for the
        contents themselves.

    Returns
    -------
    Spectrum
        In events, corrected for efficiency; ``covariances`` by "data", "background", "simulation", all at this
        strength; ``settings`` has the strength and the effective degrees of freedom.

    Raises
    ------
    ValueError
        for other bins, a covariance without inverse (bins named), a singular problem without a penalty (as with more
        truth than reco bins), or an unknown criterion.

    Examples
    --------
    >>> from nuinfer import Events
    >>> events = Events({"t": [0.5, 0.5, 1.5, 1.5], "x": [0.4, 1.2, 1.4, 9.0]})
    >>> response = Response.from_events(events, truth={"t": [0, 1, 2]}, reco={"x": [0, 1, 2]})
    >>> tikhonov([10.0, 30.0], response, strength=0.0).values.round(6)
    array([20., 40.])
    """
    problem = _Problem.of(data, response, order, reference, background, fakes, covariance)
    tau, criterion = _strength(problem, strength, rank)
    if tau == 0:
        problem.check_regular()
    inverse = problem.inverse(tau)
    unfolding = inverse @ problem.projected
    values = unfolding @ problem.measured.signal
    derivative = problem.derivative(tau, inverse, unfolding, values, from_simulation=reference is None)
    covariances = {name: unfolding @ c @ unfolding.T for name, c in problem.measured.covariances.items()}
    covariances["simulation"] = simulation_covariance(derivative, response, problem.measured)
    smearing = unfolding @ response.matrix
    settings = {"method": "Tikhonov", "strength": tau, "criterion": criterion, "order": order, "fakes": fakes,
                "degrees": float(np.trace(smearing))}  # fmt: skip
    again = functools.partial(
        tikhonov, strength=strength, rank=rank, order=order, reference=reference, background=background, fakes=fakes,
        covariance=covariance,
    )  # fmt: skip
    return made_from(Spectrum(response.truth, values, covariances, smearing, settings=settings), Origin(
        method=again, data=data, response=response, background=background, covariance=covariance, prior="reference",
    ))  # fmt: skip


def scan_strength(
    data: Counts,
    response: Response,
    *,
    order: int = 2,
    reference: ArrayLike | None = None,
    background: Counts = None,
    fakes: Fakes = "subtract",
    covariance: ArrayLike | None = None,
) -> StrengthScan:
    """What each strength does to these data; arguments as in `tikhonov`."""
    return _Problem.of(data, response, order, reference, background, fakes, covariance).scan()


@dataclass(frozen=True, eq=False)
class _Problem:
    """The signal, V^-1, P^T V^-1 (T, R), C^T C, and the decomposition X, a, c of the module."""

    response: Response
    measured: Measured
    precision: Floats
    projected: Floats
    reference: Floats
    smoothness: Floats  # L^T L
    vectors: Floats
    shares: Floats  # a, rising
    balance: float

    @classmethod
    def of(
        cls, data: Counts, response: Response, order: int, reference: ArrayLike | None, background: Counts,
        fakes: Fakes, covariance: ArrayLike | None,
    ) -> _Problem:  # fmt: skip
        measured = Measured.of(data, response, background=background, fakes=fakes, covariance=covariance)
        precision = measured.precision(response)
        x = reference_of(reference, response)
        differences = response.truth.differences(order)
        smoothness = differences.T @ differences
        penalty = smoothness / np.outer(x, x)
        projected = response.matrix.T @ precision
        normal = projected @ response.matrix
        balance = float(np.trace(normal) / np.trace(penalty)) if penalty.any() else 1.0
        try:
            shares, vectors = linalg.eigh(normal, normal + balance * penalty)
        except linalg.LinAlgError as error:
            raise ValueError(
                f"response: expected the data or the penalty to determine each of {response.truth.size} truth bins, "
                f"found directions that neither does ({response.reco.size} reco bins, differences of order {order}); "
                f"use order=0, or fewer truth bins"
            ) from error
        shares = np.clip(shares, 0.0, 1.0)
        return cls(response, measured, precision, projected, x, smoothness, vectors, shares, balance)

    def check_regular(self) -> None:
        """Raise where least squares alone has no answer."""
        truth, reco = self.response.truth.size, self.response.reco.size
        if truth > reco:
            raise ValueError(f"response: expected at most as many truth bins as reco bins without a penalty, found "
                             f"{truth} and {reco}; use strength= above 0, or fewer truth bins")  # fmt: skip
        worst = int(np.argmin(self.shares))
        if self.shares[worst] < 1e-12:
            top = int(np.argmax(np.abs(self.vectors[:, worst]) / self.reference))
            raise ValueError(f"response: expected truth bins that the data can tell apart, found a combination that "
                             f"folds to nothing, largest in bin {top} ({self.response.truth.label(top)}); use "
                             f"strength= above 0, or fewer truth bins")  # fmt: skip

    def filtered(self, tau: float) -> Floats:
        """1 / (a + (tau/c) (1 - a)), by direction."""
        return np.asarray(1 / (self.shares + tau / self.balance * (1 - self.shares)))

    def inverse(self, tau: float) -> Floats:
        """H^-1 (T, T)."""
        return (self.vectors * self.filtered(tau)) @ self.vectors.T

    def derivative(
        self, tau: float, inverse: Floats, unfolding: Floats, values: Floats, *, from_simulation: bool
    ) -> Derivative:
        """By the response at this strength; a reference from the simulation moves with it."""
        response, x = self.response, self.reference
        residual = self.precision @ (self.measured.signal - response.matrix @ values)
        right = np.broadcast_to(residual[:, None], response.both.shape)
        terms = [Term(inverse, right, values, unfolding)]
        if not from_simulation:
            return Derivative(terms, unfolding)
        # d(C^T C) u by x_c, with C^T C = D K D, D = 1/x
        pulled = self.smoothness @ (values / x) / x**2
        by_truth = np.diag(pulled) + (self.smoothness / x[:, None]) * (values / x**2)
        return Derivative(terms, unfolding, tau * inverse @ by_truth)

    # -- choosing the strength

    def singular(self) -> Floats:
        """Squares of the generalised singular values, falling; infinite where the penalty does not reach."""
        open_ = 1 - self.shares
        reached = open_ > 1e-10  # rounding of directions that the penalty does not reach
        squares = np.divide(self.balance * self.shares, open_, out=np.full_like(open_, np.inf), where=reached)
        return np.asarray(squares[::-1])

    def scan(self) -> StrengthScan:
        """Sixteen decades about the singular values that are not 0 or infinite."""
        squares = self.singular()
        inner = squares[(squares > 1e-12 * self.balance) & np.isfinite(squares) & (squares < 1e12 * self.balance)]
        middle = float(np.exp(np.log(inner).mean())) if len(inner) else self.balance
        strengths = middle * np.logspace(-8, 8, _POINTS)
        chi2, penalty = self._curve(strengths)
        correlation = self._correlation(strengths)
        filters = np.stack([self.filtered(tau) * self.shares for tau in strengths])
        curvature = _curvature(np.log(strengths), np.log(chi2), np.log(penalty))
        best = {"lcurve": _corner(strengths, curvature, filters.sum(1)), "rho": _lowest(strengths, correlation)}
        return StrengthScan(strengths, chi2, penalty, curvature, correlation, filters.sum(1), best)

    def _curve(self, strengths: Floats) -> tuple[Floats, Floats]:
        """chi2 of the data and |C u|^2 for each strength."""
        m = self.measured.signal
        at = self.vectors.T @ (self.projected @ m)
        coordinates = np.stack([self.filtered(tau) * at for tau in strengths])
        constant = m @ self.precision @ m
        chi2 = constant - 2 * coordinates @ at + (coordinates**2) @ self.shares
        penalty = (coordinates**2) @ (1 - self.shares) / self.balance
        return np.maximum(chi2, 1e-12 * constant), np.maximum(penalty, 1e-300)

    def _correlation(self, strengths: Floats) -> Floats:
        """The mean global correlation; covariance and its inverse are diagonal between X and X^-1."""
        inverse = linalg.inv(self.vectors)
        variances = np.stack([self.filtered(tau) ** 2 * np.maximum(self.shares, 1e-14) for tau in strengths])
        product = (variances @ (self.vectors**2).T) * ((1 / variances) @ inverse**2)
        return np.asarray(np.sqrt(np.clip(1 - 1 / product, 0.0, 1.0)).mean(1))


def _curvature(at: Floats, x: Floats, y: Floats) -> Floats:
    """Of the curve (x, y) as a function of ``at`` (S,), by splines."""
    xs, ys = interpolate.CubicSpline(at, x), interpolate.CubicSpline(at, y)
    x1, x2, y1, y2 = xs(at, 1), xs(at, 2), ys(at, 1), ys(at, 2)
    return np.asarray((x1 * y2 - y1 * x2) / np.maximum(x1**2 + y1**2, 1e-30) ** 1.5)


def _corner(strengths: Floats, curvature: Floats, degrees: Floats) -> float:
    """The strength of the highest peak of the curvature.

    A peak, and not the maximum: towards no penalty the curvature tends to a number that means nothing.  Where the
    effective degrees of freedom stand still, the curve does too, and its curvature is that of rounding.
    """
    share = (degrees - degrees[-1]) / max(degrees[0] - degrees[-1], 1e-30)
    inside = np.flatnonzero((share > 0.01) & (share < 0.99))
    if len(inside) < 3:
        return float(strengths[int(np.argmax(curvature))])
    bent, at = curvature[inside], np.log(strengths[inside])
    peaks, _ = signal.find_peaks(bent, prominence=0.02 * np.ptp(bent))
    top = int(peaks[np.argmax(bent[peaks])]) if len(peaks) else int(np.argmax(bent))
    if top in (0, len(at) - 1):
        return float(np.exp(at[top]))
    return _peak(at[top - 1 : top + 2], -bent[top - 1 : top + 2])


def _peak(at: Floats, values: Floats) -> float:
    """exp of the position of the minimum of the parabola through three points."""
    a, b, _ = np.polyfit(at - at[1], values, 2)
    return float(np.exp(at[1] + np.clip(-b / (2 * a), at[0] - at[1], at[2] - at[1])))


def _lowest(strengths: Floats, values: Floats) -> float:
    """The position of the minimum, between the points of the scan."""
    k = int(np.argmin(values))
    if k in (0, len(values) - 1):
        return float(strengths[k])
    return _peak(np.log(strengths[k - 1 : k + 2]), values[k - 1 : k + 2])


def _strength(problem: _Problem, strength: float | Criterion, rank: int | None) -> tuple[float, str]:
    if rank is not None:
        truth = problem.response.truth.size
        if not isinstance(rank, int | np.integer) or not 1 <= rank <= truth:
            raise ValueError(f"rank: expected a whole number from 1 to {truth}, found {rank!r}")
        square = float(problem.singular()[rank - 1])
        if not np.isfinite(square):
            free = int((~np.isfinite(problem.singular())).sum())
            raise ValueError(f"rank: expected more than the {free} directions that the penalty does not reach, found "
                             f"{rank}")  # fmt: skip
        return square, f"rank {rank}"
    if isinstance(strength, str):
        if strength not in get_args(Criterion):
            raise ValueError(f"strength: expected a number, 'lcurve' or 'rho', found {strength!r}")
        return problem.scan().best[strength], strength
    if not 0 <= strength < np.inf:
        raise ValueError(f"strength: expected a finite number from 0, found {strength!r}")
    return float(strength), "given"
