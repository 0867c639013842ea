r"""Linear-Gaussian inference: everything that an inference can be asked for, in closed form.

.. math:: \theta \sim N(m_0, P_0), \qquad x = A\theta + b + n, \quad n \sim N(0, C)

Posterior, evidence, maximum likelihood and profile follow from linear algebra; e.g. Bishop, Pattern Recognition and
Machine Learning (2006), eqs. 2.113 to 2.117; Cowan, Statistical Data Analysis (1998), chapter 7.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import linalg

from ..errors import check_finite
from ..events import Events
from .gaussian import Gaussian, columns_of, count, generator, matrix_of, points

__all__ = ["LinearGaussian"]

Floats = NDArray[np.float64]


@dataclass(frozen=True, eq=False, init=False)
class LinearGaussian:
    r"""x = A theta + b + N(0, C) with the prior N(m0, P0); columns ``theta0``, ... and ``x0``, ...

    Parameters
    ----------
    matrix:
        A, (D, T) for D observables and T parameters.
    offset:
        b, a number or (D,).
    noise:
        C, a number (times the unit matrix) or (D, D).
    prior:
        N(m0, P0) in T dimensions; a standard normal if left out.

    Examples
    --------
    >>> problem = LinearGaussian([[1.0]], noise=0.25)
    >>> mean, covariance = problem.posterior([[1.0]])
    >>> mean.tolist(), covariance.round(12).tolist()
    ([[0.8]], [[0.2]])
    >>> problem.simulate(1000, seed=1).columns
    ('theta0', 'x0')
    """

    matrix: Floats
    offset: Floats
    noise: Gaussian = field(repr=False)
    prior: Gaussian

    def __init__(
        self,
        matrix: ArrayLike = ((1.0, 0.5), (0.0, 1.0), (0.5, -0.5)),
        *,
        offset: ArrayLike = 0.0,
        noise: ArrayLike = 0.25,
        prior: Gaussian | None = None,
    ) -> None:
        a = np.array(matrix, np.float64)
        if a.ndim != 2:
            raise ValueError(f"matrix: expected (D, T) for D observables and T parameters, found {a.shape}")
        check_finite("matrix", a)
        start = Gaussian(np.zeros(a.shape[1]), 1.0) if prior is None else prior
        if start.dim != a.shape[1]:
            raise ValueError(f"prior: expected {a.shape[1]} parameters, found {start.dim}")
        b = np.broadcast_to(np.asarray(offset, np.float64), (a.shape[0],))
        a.flags.writeable = False
        parts = {"matrix": a, "offset": b, "noise": Gaussian(np.zeros(len(b)), noise), "prior": start}
        for name, value in parts.items():
            object.__setattr__(self, name, value)

    def simulate(self, n: int, seed: int) -> Events:
        """``n`` draws of the joint density p(theta) p(x | theta): columns ``theta0``, ..., ``x0``, ..."""
        rng = generator("linear joint", seed)
        theta = self.prior.sample(count("n", n), rng)
        x = self.predict(theta) + self.noise.sample(n, rng)
        return Events({**columns_of("theta", theta), **columns_of("x", x)})

    def sample_at(self, theta: ArrayLike, n: int, seed: int) -> Events:
        """``n`` draws of p(x | theta) at one theta (T,): columns ``x0``, ..."""
        mean = self.predict(np.reshape(points(theta, self.prior.dim), (-1, self.prior.dim)))
        if len(mean) != 1:
            raise ValueError(f"theta: expected one point ({self.prior.dim},), found {len(mean)}")
        return Events(columns_of("x", mean + self.noise.sample(count("n", n), generator("linear at", seed))))

    def predict(self, theta: ArrayLike) -> Floats:
        r"""A theta + b: (\*, T) -> (\*, D)."""
        return np.asarray(points(theta, self.prior.dim) @ self.matrix.T + self.offset)

    def log_likelihood(self, x: Events | ArrayLike, theta: ArrayLike) -> Floats:
        r"""The log of p(x | theta): (\*, D) and (\*, T), which broadcast -> (\*)."""
        return self.noise.log_density(self._x(x) - self.predict(theta))

    @property
    def marginal(self) -> Gaussian:
        """The evidence p(x) = N(A m0 + b, C + A P0 A^T).

        The likelihood-to-evidence ratio is ``log_likelihood(x, theta) - marginal.log_density(x)``.
        """
        spread = self.matrix @ self.prior.covariance @ self.matrix.T
        return Gaussian(self.predict(self.prior.mean[None])[0], _even(spread + self.noise.covariance))

    def posterior(self, x: Events | ArrayLike) -> tuple[Floats, Floats]:
        r"""Mean (\*, T) and covariance (T, T) of p(theta | x), for x (\*, D).

        .. math:: K = P_0 A^T (A P_0 A^T + C)^{-1}, \quad m = m_0 + K (x - A m_0 - b), \quad P = (1 - K A) P_0
        """
        evidence = self.marginal
        gain = linalg.solve(evidence.covariance, self.matrix @ self.prior.covariance, assume_a="pos").T
        mean = self.prior.mean + (self._x(x) - evidence.mean) @ gain.T
        return mean, _even(self.prior.covariance - gain @ self.matrix @ self.prior.covariance)

    def maximum_likelihood(self, x: Events | ArrayLike) -> tuple[Floats, Floats]:
        r"""The maximum-likelihood estimate (\*, T) and its covariance (T, T), for x (\*, D).

        .. math:: V = (A^T C^{-1} A)^{-1}, \qquad \hat\theta = V A^T C^{-1} (x - b)

        Raises
        ------
        ValueError
            where A does not determine all parameters (its rank is below T).
        """
        rank = int(np.linalg.matrix_rank(self.matrix))
        if rank < self.prior.dim:
            raise ValueError(
                f"maximum likelihood: expected a matrix of rank {self.prior.dim}, found rank {rank} of shape "
                f"{self.matrix.shape}: some combination of the parameters is not measured; use the posterior"
            )
        weighted = linalg.solve(self.noise.covariance, self.matrix, assume_a="pos")
        covariance = _even(linalg.inv(self.matrix.T @ weighted))
        return (self._x(x) - self.offset) @ weighted @ covariance, covariance

    def profile(self, x: Events | ArrayLike, component: int, values: ArrayLike) -> Floats:
        r"""-2 log of the profile likelihood ratio of one parameter: x (\*, D), values (V,) -> (\*, V).

        .. math:: q(v) = -2 \log \frac{\max_{\theta_c = v} L(\theta)}{L(\hat\theta)}
                       = \frac{(v - \hat\theta_c)^2}{V_{cc}}
        """
        self._check_component(component)
        best, covariance = self.maximum_likelihood(x)
        shift = np.asarray(values, np.float64) - best[..., component, None]
        return np.asarray(shift**2 / covariance[component, component])

    def profiled(self, x: Events | ArrayLike, component: int, values: ArrayLike) -> Floats:
        r"""The conditional maximum, where one parameter is held: x (\*, D), values (V,) -> (\*, V, T).

        .. math:: \hat{\hat\theta}(v) = \hat\theta + V_{\cdot c}\,(v - \hat\theta_c)/V_{cc}
        """
        self._check_component(component)
        best, covariance = self.maximum_likelihood(x)
        shift = np.asarray(values, np.float64) - best[..., component, None]
        return np.asarray(
            best[..., None, :] + shift[..., None] * covariance[component] / covariance[component, component]
        )

    def _x(self, x: Events | ArrayLike) -> Floats:
        return matrix_of(x, "x", len(self.offset))

    def _check_component(self, component: int) -> None:
        if not 0 <= component < self.prior.dim:
            raise ValueError(f"component: expected 0 .. {self.prior.dim - 1}, found {component}")


def _even(matrix: Floats) -> Floats:
    """The symmetric part, free of the rounding of products."""
    return np.asarray((matrix + matrix.T) / 2)
