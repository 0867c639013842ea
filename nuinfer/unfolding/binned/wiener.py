r"""Wiener-SVD unfolding: each direction of the response is kept by its expected signal over noise.

The signal m (R,) of covariance V = (Q^T Q)^{-1} is whitened; with R = Q P, an invertible C (T, T) and
R C^{-1} = U D V^T, the filter of direction i and a model s of the truth are

.. math:: W_i = \frac{D_i^2 (V^T C s)_i^2}{D_i^2 (V^T C s)_i^2 + 1}, \qquad
          u = A_C\, C^{-1} V D^{-1} U^T Q m, \qquad A_C = C^{-1} V W V^T C,

which minimises the expected squared error in that basis and needs no strength.  u = A_C x truth for data without noise;
any model is compared through A_C, and no information on models is lost: while no W_i is zero, the chi-squared of A_C s
with the covariance of u is that of least squares.

C is the unit matrix (order 0) or made of differences of the contents, L^T L + e = C^T C; the number e makes it
invertible.  The response's own statistics are propagated with A_C as it is, since it is published with the spectrum.

Source: Tang, Li, Qian, Zhang, Zhang, arXiv 1705.03568.
"""

from __future__ import annotations

import functools
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import linalg

from ..measured import Counts, Fakes, Measured
from ..response import Response, reference_of
from ..spectrum import Origin, Spectrum, made_from
from .propagation import Derivative, Term, simulation_covariance

__all__ = ["wiener_svd"]

Floats = NDArray[np.float64]


def wiener_svd(
    data: Counts,
    response: Response,
    *,
    model: ArrayLike | None = None,
    order: int = 2,
    background: Counts = None,
    fakes: Fakes = "subtract",
    covariance: ArrayLike | None = None,
    epsilon: float = 1e-4,
) -> Spectrum:
    """Unfold binned data with the Wiener filter.

    Parameters
    ----------
    data, background, fakes, covariance:
        As in `Measured.of`; each bin needs a variance.
    model:
        s (T,), positive, the expected truth in the data's exposure.  None scales the simulation's truth to the data.
    order:
        Of the differences in C, 0 to 3.
    epsilon:
        e, in units of the largest eigenvalue of L^T L.

    Returns
    -------
    Spectrum
        In events, corrected for efficiency; ``settings["filter"]`` are the W_i, by falling D_i.

    Raises
    ------
    ValueError
        for other bins, a covariance without inverse, or a model that is not positive.

    Examples
    --------
    >>> from nuinfer import Events
    >>> events = Events({"t": [0.5, 0.5, 1.5, 1.5], "x": [0.4, 1.2, 1.4, 9.0]})
    >>> response = Response.from_events(events, truth={"t": [0, 1, 2]}, reco={"x": [0, 1, 2]})
    >>> found = wiener_svd(response.fold([2e6, 4e6]), response, order=0)
    >>> found.values.round(-3), found.smear([2e6, 4e6]).round(-3)
    (array([2000000., 4000000.]), array([2000000., 4000000.]))
    """
    measured = Measured.of(data, response, background=background, fakes=fakes, covariance=covariance)
    precision = measured.precision(response)
    signal = _model(model, response, measured)
    basis = _Basis.of(response, precision, order, epsilon)
    power = (basis.axes.T @ basis.weighting @ signal) ** 2
    keep = power / (basis.singular**2 * power + 1)  # W / D^2, which is finite where D is 0
    unfolding = basis.back(basis.singular * keep) @ basis.whitened.T
    smearing = basis.back(basis.singular**2 * keep) @ basis.axes.T @ basis.weighting
    derivative = basis.derivative(keep, unfolding, precision, response, measured)
    covariances = {name: unfolding @ c @ unfolding.T for name, c in measured.covariances.items()}
    covariances["simulation"] = simulation_covariance(derivative, response, measured)
    settings = {"method": "Wiener-SVD", "order": order, "fakes": fakes, "epsilon": epsilon,
                "filter": (basis.singular**2 * keep).tolist()}  # fmt: skip
    found = Spectrum(response.truth, unfolding @ measured.signal, covariances, smearing, settings=settings)
    again = functools.partial(
        wiener_svd, model=model, order=order, background=background, fakes=fakes, covariance=covariance, epsilon=epsilon
    )
    return made_from(found, Origin(
        method=again, data=data, response=response, background=background, covariance=covariance, prior="model",
    ))  # fmt: skip


@dataclass(frozen=True, eq=False)
class _Basis:
    """C (T, T) and its inverse, V (T, T), D (T,), and Q^T U (R, T); D is padded by 0 for fewer reco than truth bins."""

    weighting: Floats
    inverse: Floats
    axes: Floats
    singular: Floats
    whitened: Floats

    @classmethod
    def of(cls, response: Response, precision: Floats, order: int, epsilon: float) -> _Basis:
        if not epsilon > 0:
            raise ValueError(f"epsilon: expected a positive number, found {epsilon!r}")
        differences = response.truth.differences(order)
        smoothness = differences.T @ differences
        largest = float(np.linalg.eigvalsh(smoothness)[-1]) if smoothness.any() else 1.0
        size = response.truth.size
        total = smoothness + (0.0 if order == 0 else epsilon * largest) * np.eye(size)
        weighting = np.asarray(np.linalg.cholesky(total).T if order else np.eye(size), np.float64)
        inverse: Floats = linalg.solve_triangular(weighting, np.eye(size))
        root = np.linalg.cholesky(precision).T  # Q
        left, singular, axes = np.linalg.svd(root @ response.matrix @ inverse, full_matrices=False)
        missing = size - len(singular)
        if missing > 0:  # directions that no reco bin sees
            axes = np.concatenate([axes, linalg.null_space(axes).T])
            singular = np.r_[singular, np.zeros(missing)]
            left = np.concatenate([left, np.zeros((len(left), missing))], 1)
        return cls(weighting, inverse, axes.T, singular, root.T @ left)

    def back(self, factor: Floats) -> Floats:
        """C^-1 V diag(factor) (T, T)."""
        return np.asarray((self.inverse @ self.axes) * factor)

    def derivative(
        self, keep: Floats, unfolding: Floats, precision: Floats, response: Response, measured: Measured
    ) -> Derivative:
        """That of A_C times least squares, A_C held."""
        solved = np.divide(1.0, self.singular, out=np.zeros_like(keep), where=self.singular > 1e-12 * self.singular[0])
        plain = self.back(solved) @ self.whitened.T @ measured.signal
        residual = precision @ (measured.signal - response.matrix @ plain)
        left = self.back(keep) @ (self.inverse @ self.axes).T
        right = np.broadcast_to(residual[:, None], response.both.shape)
        # the truth folded by P: least squares' would bring its noise in, so that the filtered answer stands for it
        return Derivative([Term(left, right, unfolding @ measured.signal, unfolding)], unfolding)


def _model(model: ArrayLike | None, response: Response, measured: Measured) -> Floats:
    found = reference_of(model, response, "model")
    if model is not None:
        return found
    return np.asarray(found * (measured.signal.sum() / response.fold(found).sum()))
