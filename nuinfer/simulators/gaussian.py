r"""Gaussian functions with a total: products, quotients and convolutions stay in the family.

.. math:: f(x) = T \, \frac{\exp(-\tfrac12 (x - m)^T C^{-1} (x - m))}{\sqrt{\det 2\pi C}}

A density is one of total 1, a rate one of total T, an efficiency one of a given height.
Source: any text on Gaussian identities, e.g. Petersen, Pedersen, The Matrix Cookbook (2012), section 8.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import linalg, special

from .. import hashing
from ..errors import check_finite
from ..events import Events

__all__ = ["Gaussian"]

Floats = NDArray[np.float64]


@dataclass(frozen=True, eq=False, init=False)
class Gaussian:
    r"""A Gaussian function in D dimensions: total times the normal density N(mean, covariance).

    Parameters
    ----------
    mean:
        A number (D = 1) or (D,).
    covariance:
        The *covariance*, not the standard deviation: a number (times the unit matrix) or (D, D).
    total:
        The integral; positive.

    Raises
    ------
    ValueError
        for shapes that do not fit, a covariance that is not symmetric and positive definite, or a total that is not
        positive.

    Examples
    --------
    >>> product = Gaussian(0.0, 1.0).times(Gaussian(2.0, 1.0))
    >>> product
    Gaussian(mean=[1], covariance=[[0.5]], total=0.10377687)
    >>> product.over(Gaussian(2.0, 1.0))
    Gaussian(mean=[0], covariance=[[1]], total=1)
    """

    mean: Floats
    covariance: Floats
    total: float
    _factor: Floats = field(repr=False)

    def __init__(self, mean: ArrayLike, covariance: ArrayLike = 1.0, *, total: float = 1.0) -> None:
        m = np.atleast_1d(np.asarray(mean, np.float64))
        c = np.asarray(covariance, np.float64)
        c = c * np.eye(m.size) if c.ndim == 0 else c
        if m.ndim != 1 or c.shape != (m.size, m.size):
            raise ValueError(f"Gaussian: expected mean (D,) and covariance (D, D), found {m.shape} and {c.shape}")
        check_finite("mean", m)
        if not (0 < total < np.inf):
            raise ValueError(f"Gaussian: expected a positive total, found {total}")
        for name, value in (("mean", m), ("covariance", c), ("total", float(total)), ("_factor", cholesky(c))):
            if isinstance(value, np.ndarray):
                value = value.copy()
                value.flags.writeable = False
            object.__setattr__(self, name, value)

    @classmethod
    def peak(cls, height: float, mean: ArrayLike, covariance: ArrayLike = 1.0) -> Gaussian:
        r"""The one with the given value at its mean: ``peak(0.9, 1.0, 4.0)`` is :math:`0.9\,e^{-(x - 1)^2/8}`."""
        unit = cls(mean, covariance)
        return unit.scaled(height / unit.height)

    @property
    def dim(self) -> int:
        """The number of dimensions D."""
        return len(self.mean)

    @property
    def sd(self) -> Floats:
        """The standard deviation of each component (D,)."""
        return np.sqrt(np.diag(self.covariance))

    @property
    def height(self) -> float:
        """The value at the mean."""
        return float(np.exp(self.log_density(self.mean[None]))[0])

    def __repr__(self) -> str:
        mean, covariance = (_short(part) for part in (self.mean, self.covariance))
        return f"Gaussian(mean={mean}, covariance={covariance}, total={self.total:.8g})"

    def log_density(self, x: ArrayLike) -> Floats:
        r"""The log of the function, total included: (\*, D) -> (\*).  In one dimension (N,) are N points."""
        d = points(x, self.dim) - self.mean
        standard = linalg.solve_triangular(self._factor, d.reshape(-1, self.dim).T, lower=True)
        log_volume = np.log(np.diag(self._factor)).sum() + self.dim * np.log(2 * np.pi) / 2
        return np.asarray((np.log(self.total) - log_volume - (standard**2).sum(0) / 2).reshape(d.shape[:-1]))

    def density(self, x: ArrayLike) -> Floats:
        r"""The function, total included: (\*, D) -> (\*).  In one dimension (N,) are N points."""
        return np.exp(self.log_density(x))

    def scaled(self, factor: float) -> Gaussian:
        """The function times a positive number."""
        return Gaussian(self.mean, self.covariance, total=self.total * factor)

    def smeared(self, noise: ArrayLike) -> Gaussian:
        """The convolution with N(0, noise), noise (D, D): N(m, C + noise)."""
        return Gaussian(self.mean, self.covariance + np.asarray(noise, np.float64), total=self.total)

    def times(self, other: Gaussian) -> Gaussian:
        r"""The product of two Gaussian functions.

        .. math:: C = (A^{-1} + B^{-1})^{-1}, \quad m = C (A^{-1} a + B^{-1} b), \quad T = T_a T_b N(a; b, A + B)
        """
        p, q = _inverse(self.covariance), _inverse(other.covariance)
        c = _inverse(p + q)
        total = self.smeared(other.covariance).density(other.mean[None])[0] * other.total
        return Gaussian(c @ (p @ self.mean + q @ other.mean), c, total=float(total))

    def over(self, other: Gaussian) -> Gaussian:
        r"""The quotient of two Gaussian functions, where it is one: ``a.times(b).over(b)`` is ``a``.

        Raises
        ------
        ValueError
            where :math:`A^{-1} - B^{-1}` is not positive definite: the quotient grows without bound.
        """
        p, q = _inverse(self.covariance), _inverse(other.covariance)
        if linalg.eigvalsh(p - q)[0] <= 0:
            raise ValueError(
                f"expected a quotient of Gaussians that falls off, found one that grows without bound: {self} is "
                f"not narrower than {other} in every direction"
            )
        c = _inverse(p - q)
        mean = c @ (p @ self.mean - q @ other.mean)
        back = Gaussian(mean, c + other.covariance).density(other.mean[None])[0] * other.total
        return Gaussian(mean, c, total=float(self.total / back))

    def sample(self, n: int, seed: int | np.random.Generator) -> Floats:
        """``n`` independent draws of the normalised density (n, D)."""
        normal = np.random.default_rng(seed).standard_normal((n, self.dim))
        return np.asarray(self.mean + normal @ self._factor.T)

    def bin_probabilities(self, edges: ArrayLike | Sequence[ArrayLike]) -> Floats:
        """The integral over each bin of the normalised density: edges (B + 1,), or D such arrays -> (B1, ..., BD).

        What lies outside the edges is not in it, so that the sum is below 1.  By the normal cumulative distribution,
        and for two correlated dimensions by Gauss-Legendre quadrature over the first (finite edges only).

        Raises
        ------
        ValueError
            for edges that do not rise or are too many or few; for correlated components in more than two dimensions.

        >>> Gaussian(0.0, 1.0).bin_probabilities([-1, 0, 1]).round(4).tolist()
        [0.3413, 0.3413]
        """
        axes = _edges(edges, self.dim)
        if np.array_equal(self.covariance, np.diag(np.diag(self.covariance))):
            parts = [np.diff(special.ndtr((e - m) / s)) for e, m, s in zip(axes, self.mean, self.sd, strict=True)]
            return np.asarray(np.einsum(",".join("abcdefgh"[: self.dim]) + "->" + "abcdefgh"[: self.dim], *parts))
        if self.dim > 2:
            raise ValueError(f"bin probabilities of correlated components: expected D <= 2, found {self.dim}")
        return self._correlated(*axes)

    def _correlated(self, first: Floats, second: Floats) -> Floats:
        """Two dimensions: the marginal of x0 at the nodes of its bins times the conditional probability in x1."""
        if not np.isfinite(first).all():
            raise ValueError("bin probabilities of correlated components: expected finite edges on the first axis")
        node, share = np.polynomial.legendre.leggauss(48)
        half = np.diff(first)[:, None] / 2
        x0 = (first[:-1, None] + half) + half * node
        slope = self.covariance[0, 1] / self.covariance[0, 0]
        sd = np.sqrt(self.covariance[1, 1] - slope * self.covariance[0, 1])
        centre = self.mean[1] + slope * (x0 - self.mean[0])
        inside = np.diff(special.ndtr((second - centre[..., None]) / sd), axis=-1)
        marginal = Gaussian(self.mean[0], self.covariance[0, 0]).density(x0[..., None])
        return np.asarray(np.einsum("bk,bkc->bc", half * share * marginal, inside))


# -- shared by the simulators ------------------------------------------------------------------------------------------


def cholesky(covariance: Floats) -> Floats:
    """The lower factor of a symmetric, positive definite matrix, else ``ValueError``."""
    check_finite("covariance", covariance)
    if not np.allclose(covariance, covariance.T, rtol=1e-9, atol=1e-12 * np.abs(covariance).max()):
        raise ValueError(f"covariance: expected a symmetric matrix, found {covariance.tolist()}")
    try:
        return np.asarray(linalg.cholesky(covariance, lower=True))
    except linalg.LinAlgError:
        found = linalg.eigvalsh(covariance)[0]
        raise ValueError(f"covariance: expected a positive definite matrix, found an eigenvalue {found:.3g}") from None


def points(x: ArrayLike, dim: int) -> Floats:
    r"""Points (\*, D); where D is 1, a number or (N,) are points without their last axis."""
    values = np.asarray(x, np.float64)
    values = values[..., None] if dim == 1 and values.ndim < 2 else values
    if values.ndim == 0 or values.shape[-1] != dim:
        raise ValueError(f"expected points of shape (*, {dim}), found {np.shape(x)}")
    return values


def matrix_of(x: Events | ArrayLike, name: str, dim: int) -> Floats:
    """Points (*, D) from an array, or from the columns ``name0``, ``name1``, ... of events."""
    if isinstance(x, Events):
        return np.stack([x.flat(f"{name}{i}").astype(np.float64) for i in range(dim)], axis=-1)
    return points(x, dim)


def columns_of(name: str, values: Floats) -> dict[str, Floats]:
    """Columns ``name0``, ``name1``, ... from values (N, D)."""
    return {f"{name}{i}": np.ascontiguousarray(values[:, i]) for i in range(values.shape[1])}


def generator(purpose: str, seed: int) -> np.random.Generator:
    """Random numbers of (purpose, seed): samples of different purposes are independent at the same seed."""
    if seed < 0:
        raise ValueError(f"seed: expected an integer from 0, found {seed}")
    return np.random.default_rng([hashing.salt(purpose), seed])


def count(what: str, n: int) -> int:
    """A number of events, checked."""
    if n != int(n) or n < 0:
        raise ValueError(f"{what}: expected a whole number of events from 0, found {n}")
    return int(n)


def signs(rng: np.random.Generator, probability: ArrayLike, n: int) -> Floats:
    """Weights ±1/(1 - 2a), negative with probability a < 1/2 (a number or (n,)): their expectation is 1."""
    a = np.broadcast_to(np.asarray(probability, np.float64), (n,))
    return np.asarray(np.where(rng.random(n) < a, -1.0, 1.0) / (1 - 2 * a))


def check_negative(probability: float) -> None:
    """Refuse a share of negative weights that would cancel the sample."""
    if not 0 <= probability < 0.5:
        raise ValueError(f"negative: expected a probability in [0, 0.5), found {probability}; at 0.5 all would cancel")


def _inverse(matrix: Floats) -> Floats:
    inverse = linalg.inv(matrix)
    return np.asarray((inverse + inverse.T) / 2)


def _short(array: Floats) -> str:
    text = np.array2string(array, separator=", ", formatter={"float_kind": lambda v: f"{v:.6g}"}, threshold=100)
    return " ".join(text.split())


def _edges(edges: ArrayLike | Sequence[ArrayLike], dim: int) -> list[Floats]:
    each = [edges] if dim == 1 and np.ndim(edges[0]) == 0 else list(edges)  # type: ignore[index, arg-type]
    axes = [np.asarray(e, np.float64) for e in each]
    if len(axes) != dim or any(e.ndim != 1 or len(e) < 2 or not (np.diff(e) > 0).all() for e in axes):
        raise ValueError(f"edges: expected {dim} array(s) of rising bin edges, found {len(axes)}: {edges!r}")
    return axes
