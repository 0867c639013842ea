r"""The likelihood of bin contents under any differentiable prediction.

With contents n, prediction :math:`\mu(\theta)` and a systematic covariance C:

.. math::
    \text{"poisson":}\quad & 2 \sum_b \big[\mu_b - n_b + n_b \log (n_b/\mu_b)\big] \\
    \text{"cnp":}\quad & (n - \mu)^T \big[C + D\big]^{-1} (n - \mu), \qquad
        D_{bb} = \frac{3}{1/n_b + 2/\mu_b} \\
    \text{"gaussian":}\quad & (n - \mu)^T \big[C + \text{diag}(v)\big]^{-1} (n - \mu)

"cnp" is the combination of Neyman's and Pearson's variances whose minimum has, to first order, the bias of neither; it
is what takes the place of the Poisson likelihood where systematics come as a covariance.  In an empty bin D is
:math:`\mu/2`, with which the term is :math:`2\mu`, as the Poisson likelihood's.

A covariance is the same as nuisances with linear effects, profiled: with :math:`C = A A^T` the minimum over alpha of
:math:`(n - \mu - A\alpha)^T D^{-1} (n - \mu - A\alpha) + \alpha^T\alpha` is the covariance form (Sherman, Morrison,
Woodbury).  The determinant of a covariance that moves with theta is left out, as these statistics are defined.

Sources: Baker, Cousins, NIM 221 (1984) 437; Ji, Gu, Qian, Wei, Zhang, arXiv 1903.07185.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from scipy import linalg
from torch import Tensor

from ..errors import check_finite
from ..histograms import Contents, variances
from .costs import DifferentiableCost, Limits, NegativeDensity, checked_limits, named
from .deviance import poisson_deviance

__all__ = ["Binned"]

Floats = NDArray[np.float64]
Statistic = Literal["poisson", "cnp", "gaussian"]
Predict = Callable[[Tensor], Tensor]


class Binned(DifferentiableCost):
    """-2 log L of bin contents, for a prediction that torch can differentiate.

    Parameters
    ----------
    predict:
        theta (T,) -> expected contents (B,), float64 tensors; differentiable.
    data:
        Contents (B,): a histogram (flattened in C order) or an array.
    statistic:
        "poisson", "cnp" or "gaussian".
    parameters:
        The names of theta's T elements, in order.
    covariance:
        (B, B), of the systematics; for "cnp" and "gaussian".
    variance:
        (B,), the statistical variances v of "gaussian", such as ``data.variances()`` of a weighted histogram.
    fractional:
        Whether the covariance is relative to the prediction: C_ij = F_ij mu_i mu_j.
    frozen_at:
        Parameters at which the prediction in the covariance is taken; None for those of each step.  (Daya Bay's fits
        freeze it.)
    limits:
        (lower, upper) of parameters, None for none.

    Examples
    --------
    >>> flux = torch.tensor([30.0, 60.0, 20.0], dtype=torch.float64)
    >>> def predict(theta):
    ...     return theta[0] * flux + 5
    >>> cost = Binned(predict, [37, 60, 27], parameters=["scale"])
    >>> round(cost(1.0), 4), cost.grad(1.0).round(4).tolist()
    (0.6629, [2.6022])
    >>> cost.asimov({"scale": 1.2})(1.2)
    0.0

    Raises
    ------
    ValueError, TypeError, KeyError
        for wrong lengths, negative or NaN contents, a covariance with "poisson", one that is not symmetric and positive
        definite, limits or frozen values of unknown parameters.
    """

    def __init__(
        self,
        predict: Predict,
        data: Any,
        statistic: Statistic = "poisson",
        *,
        parameters: Sequence[str],
        covariance: ArrayLike | None = None,
        variance: ArrayLike | None = None,
        fractional: bool = False,
        frozen_at: Mapping[str, float] | None = None,
        limits: Mapping[str, Limits] | None = None,
    ) -> None:
        _check_names(parameters)
        given = checked_limits(limits, parameters)
        super().__init__({name: given.get(name) for name in parameters})
        _check_options(statistic, covariance, variance, fractional, frozen_at)
        self.predict, self.statistic, self.fractional, self.limits = predict, statistic, fractional, given
        found = Contents.of("data", data, negative=statistic == "gaussian")
        bins = len(found.values)
        self.covariance: Floats | None = None if covariance is None else _covariance(covariance, bins)
        self.variance: Floats | None = None if variance is None else variances("data", variance, bins)
        self.frozen_at = None if frozen_at is None else dict(frozen_at)
        self._set(found)

    def _set(self, data: Contents) -> None:
        """Take the data, and factorise the covariance where it stays the same."""
        self.data, self._n = data, torch.from_numpy(data.values)
        self._frozen: Tensor | None = None
        if self.statistic == "gaussian" and not self.fractional:
            self._frozen = _factor(self._spread(self._n), "covariance with variances")
        elif self.frozen_at is not None:
            self._frozen = self._factor_at(self._theta(self.frozen_at))

    def tensor(self, theta: Tensor) -> Tensor:
        """-2 log L at theta (T,).

        Raises
        ------
        NegativeDensity
            naming the bin and the parameters, where the prediction has to be positive and is not.
        ValueError
            where ``predict`` gives another number of bins.
        """
        mean = self._mean(theta)
        if self.statistic == "poisson":
            return poisson_deviance(mean, self._n)
        factor = self._frozen if self._frozen is not None else self._factor_of(mean, theta)
        return _chi2(factor, self._n - mean)

    def expected(self, values: Mapping[str, float]) -> Floats:
        """The contents expected at these parameters, in the shape of the data."""
        with torch.no_grad():
            return np.array(self._mean(self._theta(values)).numpy()).reshape(self.data.shape)

    def with_data(self, data: Any) -> Binned:
        """The same with other contents."""
        found = Contents.of("data", data, negative=self.statistic == "gaussian")
        self.data.check_same("data", found)
        other = copy.copy(self)
        other._set(replace(self.data, values=found.values, variances=found.variances))
        return other

    def asimov(self, values: Mapping[str, float]) -> Binned:
        """The cost of the contents expected at these parameters."""
        return self.with_data(self.expected(values))

    def sample(self, values: Mapping[str, float], rng: np.random.Generator) -> Binned:
        """The cost of contents drawn at these parameters.

        "poisson" draws counts; "gaussian" from N(mu, C + diag v); "cnp" counts of an expectation from N(mu, C).

        Raises
        ------
        ValueError
            where the expectation drawn for "cnp" is negative.
        """
        mean = self.expected(values).reshape(-1)
        if self.statistic != "poisson":
            mean = self._thrown(mean, values, rng)
        found = mean if self.statistic == "gaussian" else rng.poisson(mean).astype(np.float64)
        return self.with_data(found.reshape(self.data.shape))

    def _thrown(self, mean: Floats, values: Mapping[str, float], rng: np.random.Generator) -> Floats:
        """The expectation (B,) with the fluctuations that are normal."""
        if self.covariance is None and self.variance is None:
            return mean
        # the systematic part alone may be singular: a square root by eigenvalues takes that too
        spread = self._systematic(torch.from_numpy(mean)).numpy().copy()
        if self.variance is not None:
            spread += np.diag(self.variance)
        size, axes = linalg.eigh(spread)
        found = np.asarray(mean + axes @ (np.sqrt(np.clip(size, 0, None)) * rng.standard_normal(len(mean))))
        if self.statistic == "cnp" and (found < 0).any():
            worst = int(found.argmin())
            raise ValueError(f"pseudo-experiment: the covariance threw a negative expectation, {found[worst]:.4g} in "
                             f"bin {worst} at {_at(values)}; merge bins, or use statistic='gaussian'")  # fmt: skip
        return found

    # -- the parts -----------------------------------------------------------------------------------------------------

    def _theta(self, values: Mapping[str, float]) -> Tensor:
        return torch.tensor([named(values, name) for name in self.names], dtype=torch.float64)

    def _mean(self, theta: Tensor) -> Tensor:
        mean = self.predict(theta)
        if not isinstance(mean, Tensor):
            raise TypeError(f"predict: expected a tensor of bin contents, found {type(mean).__name__}; write it with "
                            f"torch, so that it has a gradient")  # fmt: skip
        if mean.numel() != len(self._n):
            raise ValueError(f"predict: expected {len(self._n)} bins, as the data have, found {tuple(mean.shape)}")
        mean = mean.reshape(-1).double()
        self._check_positive(mean, theta)
        return mean

    def _check_positive(self, mean: Tensor, theta: Tensor) -> None:
        if self.statistic == "gaussian":
            good = torch.isfinite(mean)
        else:
            good = (mean > 0) | ((mean == 0) & (self._n == 0) & (self.statistic == "poisson"))
        if not bool(good.all()):
            raise negative_bin("the prediction", mean, good, self.names, theta)

    def _systematic(self, mean: Tensor) -> Tensor:
        """C (B, B) at a prediction (B,)."""
        if self.covariance is None:
            return torch.zeros(len(mean), len(mean), dtype=torch.float64)
        c = torch.from_numpy(self.covariance)
        return c * mean * mean[:, None] if self.fractional else c

    def _spread(self, mean: Tensor) -> Tensor:
        """C and the statistical variances: (B, B), or the variances (B,) alone where there is no covariance."""
        statistical = self._statistical(mean)
        if self.covariance is None:
            return statistical
        return self._systematic(mean) + torch.diag(statistical)

    def _statistical(self, mean: Tensor) -> Tensor:
        if self.statistic == "gaussian":
            return torch.zeros_like(mean) if self.variance is None else torch.from_numpy(self.variance)
        n = self._n
        # 3 / (1/n + 2/mu) without dividing by a count of zero
        return torch.where(n > 0, 3 * n * mean / (mean + 2 * n), mean / 2)

    def _factor_of(self, mean: Tensor, theta: Tensor) -> Tensor:
        return _factor(self._spread(mean), f"covariance at {_listed(self.names, theta)}")

    def _factor_at(self, theta: Tensor) -> Tensor:
        with torch.no_grad():
            return self._factor_of(self._mean(theta), theta)

    def _ndata(self) -> int:
        return len(self._n)

    def __repr__(self) -> str:
        return f"Binned({len(self._n)} bins, {self.statistic}; {', '.join(self.names)})"


def _factor(spread: Tensor, what: str) -> Tensor:
    """The lower Cholesky factor of (B, B), or the roots of (B,)."""
    if spread.ndim == 1:
        if not bool((spread > 0).all()):
            raise ValueError(f"{what}: expected positive variances, found {float(spread.min()):.3g} in bin "
                             f"{int(spread.argmin())}; merge bins, or use statistic='poisson'")  # fmt: skip
        return torch.sqrt(spread)
    factor: Tensor
    factor, failed = torch.linalg.cholesky_ex(spread)
    if int(failed):
        least = float(torch.linalg.eigvalsh(spread.detach())[0])
        raise ValueError(f"{what}: expected a positive definite matrix, found the eigenvalue {least:.3g}; add the "
                         f"statistical variances, or merge bins that others determine")  # fmt: skip
    return factor


def _chi2(factor: Tensor, away: Tensor) -> Tensor:
    if factor.ndim == 1:
        return torch.square(away / factor).sum()
    white = torch.linalg.solve_triangular(factor, away[:, None], upper=False)
    return torch.square(white).sum()


def _covariance(given: ArrayLike, bins: int) -> Floats:
    found = np.array(given, np.float64)
    if found.shape != (bins, bins):
        raise ValueError(f"covariance: expected ({bins}, {bins}), the number of bins, found {found.shape}")
    check_finite("covariance", found)
    away = np.abs(found - found.T).max()
    if away > 1e-10 * np.abs(found).max():
        raise ValueError(f"covariance: expected a symmetric matrix, found elements that differ by {away:.3g}")
    least = float(linalg.eigvalsh(found)[0])
    # a few systematics make a covariance of low rank; the statistical part mends that, but not a negative eigenvalue
    if least < -1e-9 * np.abs(found).max():
        raise ValueError(f"covariance: expected no negative eigenvalue, found {least:.3g}; was it rounded, or "
                         f"assembled from inconsistent parts?")  # fmt: skip
    return (found + found.T) / 2


def _check_names(parameters: Sequence[str]) -> None:
    if isinstance(parameters, str) or not parameters or len(set(parameters)) != len(parameters):
        raise ValueError(f"Binned: expected different names of parameters, at least one, found {parameters!r}")


def _check_options(
    statistic: str, covariance: object, variance: object, fractional: bool, frozen_at: Mapping[str, float] | None
) -> None:
    """Refuse combinations that have no meaning."""
    if statistic not in ("poisson", "cnp", "gaussian"):
        raise ValueError(f"Binned: expected statistic to be one of poisson, cnp, gaussian, found {statistic!r}")
    if statistic == "poisson" and covariance is not None:
        raise ValueError("Binned: a Poisson likelihood has no covariance; use statistic='cnp', or make the systematics "
                         "parameters of predict, with a Normal constraint each")  # fmt: skip
    if statistic != "gaussian" and variance is not None:
        raise ValueError(f"Binned: {statistic!r} takes its variances from the counts; variance= is for 'gaussian'")
    if statistic == "gaussian" and covariance is None and variance is None:
        raise ValueError("Binned: 'gaussian' expects a covariance, or variance=, such as data.variances(), or both")
    if fractional and covariance is None:
        raise ValueError("Binned: fractional=True expects a covariance")
    if frozen_at is not None and (statistic == "poisson" or (statistic == "gaussian" and not fractional)):
        raise ValueError("Binned: frozen_at= is for covariances that depend on the prediction: 'cnp', or fractional")


def negative_bin(what: str, mean: Tensor, good: Tensor, names: Sequence[str], theta: Tensor) -> NegativeDensity:
    """The error that names the worst bin of ``mean`` (B,) and the parameters; ``good`` (B,) says which are right."""
    bad = torch.nonzero(~good)[:, 0]
    worst = int(bad[torch.argmin(torch.nan_to_num(mean.detach()[bad], nan=-torch.inf))])
    lowest = float(mean.detach()[worst])
    return NegativeDensity(
        f"{what} is not positive in {len(bad)} of {len(mean)} bins, lowest in bin {worst}: {lowest:.4g}, "
        f"at {_listed(names, theta)}; limit the parameters to where it is positive"
    )


def _listed(names: Sequence[str], theta: Tensor) -> str:
    return _at(dict(zip(names, theta.detach().tolist(), strict=True)))


def _at(values: Mapping[str, float]) -> str:
    return ", ".join(f"{name} = {value:.6g}" for name, value in values.items())
