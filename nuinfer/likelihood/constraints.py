r"""What auxiliary measurements say of the nuisance parameters, as costs to be added.

A constraint is the likelihood of a *global observable*: a number that another measurement gave, and that fluctuates in
pseudo-experiments as the data do.

.. math::
    \text{Normal:}\quad & (o - \alpha)^T V^{-1} (o - \alpha) \\
    \text{log-normal:}\quad & \left(\frac{\log (o/\alpha)}{\log\kappa}\right)^2 \\
    \text{Poisson:}\quad & 2\,[\tau\gamma - n + n \log (n/\tau\gamma)]

all of them -2 log L up to a constant, with minimum 0.  A nuisance without a constraint is free.

Source: HistFactory, CERN-OPEN-2012-016; Cranmer, Practical Statistics for the LHC, arXiv 1503.07622, section 4.
"""

from __future__ import annotations

import math
from abc import abstractmethod
from collections.abc import Mapping, Sequence
from typing import Any, Self

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from scipy import linalg
from torch import Tensor

from ..errors import check_finite
from .costs import DifferentiableCost, Limits, NegativeDensity, named

__all__ = ["Constraint", "LogNormal", "Normal", "Poisson", "TwoPoint"]

Floats = NDArray[np.float64]


class Constraint(DifferentiableCost):
    """The likelihood of one auxiliary measurement."""

    def __init__(self, names: Sequence[str], observed: ArrayLike, limits: Limits | None = None) -> None:
        if len(set(names)) != len(names) or not names:
            raise ValueError(f"constraint: expected different parameters, at least one, found {list(names)}")
        super().__init__(dict.fromkeys(names, limits))
        found = np.array(observed, np.float64)
        if found.size != len(names):
            raise ValueError(f"constraint of {', '.join(names)}: expected {len(names)} observed values, found "
                             f"{found.size}")  # fmt: skip
        self.observed: Floats = found.reshape(-1)
        check_finite(f"constraint of {', '.join(names)}: observed", self.observed)

    @property
    @abstractmethod
    def width(self) -> dict[str, float]:
        """The standard deviation that it gives each parameter alone, before any data."""

    @property
    @abstractmethod
    def centre(self) -> dict[str, float]:
        """The parameters at which it is smallest."""

    @abstractmethod
    def with_observed(self, observed: ArrayLike) -> Self:
        """The same measurement with another outcome."""

    @abstractmethod
    def expected(self, values: Mapping[str, float]) -> Floats:
        """The observable that is expected at these parameters: the Asimov value."""

    @abstractmethod
    def drawn(self, values: Mapping[str, float], rng: np.random.Generator) -> Floats:
        """An observable drawn at these parameters."""

    def asimov(self, values: Mapping[str, float]) -> Self:
        """The constraint whose outcome is the expected one."""
        return self.with_observed(self.expected(values))

    def sample(self, values: Mapping[str, float], rng: np.random.Generator) -> Self:
        """The constraint of a pseudo-experiment: its outcome drawn at these parameters."""
        return self.with_observed(self.drawn(values, rng))

    def _ndata(self) -> int:
        return len(self.observed)

    def _at(self, values: Mapping[str, float]) -> Floats:
        return np.array([named(values, name) for name in self.names])


class Normal(Constraint):
    """A normal constraint of one parameter, or of several with their covariance.

    Parameters
    ----------
    name:
        A parameter, or several.
    observed:
        The outcome: a number or (T,).
    sigma:
        The standard deviation of one parameter.
    covariance:
        (T, T) instead of ``sigma``.

    Examples
    --------
    >>> constraint = Normal("jes", sigma=2.0)
    >>> constraint(1.0), constraint.grad(1.0).tolist()
    (0.25, [0.5])

    Raises
    ------
    ValueError
        for a width that is not positive, a covariance that is not symmetric and positive definite, or a wrong shape.
    """

    def __init__(
        self,
        name: str | Sequence[str],
        observed: ArrayLike = 0.0,
        sigma: float | None = None,
        *,
        covariance: ArrayLike | None = None,
    ) -> None:
        names = [name] if isinstance(name, str) else list(name)
        count = len(names)
        start = np.broadcast_to(np.asarray(observed, np.float64), count) if np.ndim(observed) == 0 else observed
        super().__init__(names, start)
        if covariance is not None and sigma is not None:
            raise ValueError(f"Normal of {', '.join(names)}: give sigma or covariance, not both")
        if np.ndim(sigma or 0.0):
            raise ValueError(f"Normal of {', '.join(names)}: expected one sigma, found {sigma}; for several give "
                             f"covariance=np.diag(np.square(sigma))")  # fmt: skip
        width = 1.0 if sigma is None else float(sigma)
        if not 0 < width < math.inf:
            raise ValueError(f"Normal of {', '.join(names)}: expected a positive sigma, found {sigma}")
        v = np.eye(count) * width**2 if covariance is None else np.array(covariance, np.float64)
        self.covariance: Floats = v
        self._factor = _cholesky(names, v)
        precision = linalg.cho_solve((self._factor, True), np.eye(count))
        self._precision = torch.from_numpy((precision + precision.T) / 2)

    def tensor(self, theta: Tensor) -> Tensor:
        """(o - alpha)^T V^-1 (o - alpha)."""
        away = theta - torch.from_numpy(self.observed)
        return away @ (self._precision @ away)

    @property
    def width(self) -> dict[str, float]:
        """The square roots of the covariance's diagonal."""
        return dict(zip(self.names, np.sqrt(np.diag(self.covariance)).tolist(), strict=True))

    @property
    def centre(self) -> dict[str, float]:
        """The observed values."""
        return dict(zip(self.names, self.observed.tolist(), strict=True))

    def with_observed(self, observed: ArrayLike) -> Normal:
        """The same measurement with another outcome."""
        return Normal(self.names, np.reshape(observed, -1), covariance=self.covariance)

    def expected(self, values: Mapping[str, float]) -> Floats:
        """The parameters themselves."""
        return self._at(values)

    def drawn(self, values: Mapping[str, float], rng: np.random.Generator) -> Floats:
        """N(alpha, V)."""
        return np.asarray(self._at(values) + self._factor @ rng.standard_normal(len(self.names)))


class TwoPoint(Normal):
    """A comparison of two models, A at 0 and B at 1, taken as a nuisance of unit width.

    The width is a convention, not a measurement: nobody knows that the truth lies within it, nor on the line between
    the two.  So the data may pull such a nuisance but not shrink it, and reports say so.
    Source: Ghosh, Nachman, arXiv 2109.08159.

    Parameters
    ----------
    models:
        What is compared, for the report.
    """

    def __init__(self, name: str, models: tuple[str, str] = ("A", "B"), observed: float | ArrayLike = 0.0) -> None:
        super().__init__(name, observed)
        if len(models) != 2 or models[0] == models[1]:
            raise ValueError(f"TwoPoint of {name}: expected the names of two models, found {models}")
        self.models = (str(models[0]), str(models[1]))

    def with_observed(self, observed: ArrayLike) -> TwoPoint:
        """The same comparison about another point."""
        return TwoPoint(self.names[0], self.models, float(np.reshape(observed, -1)[0]))


def _cholesky(names: Sequence[str], covariance: Floats) -> Floats:
    count = len(names)
    if covariance.shape != (count, count):
        raise ValueError(f"Normal of {', '.join(names)}: expected a covariance ({count}, {count}), found "
                         f"{covariance.shape}")  # fmt: skip
    check_finite(f"Normal of {', '.join(names)}: covariance", covariance)
    scale = np.abs(covariance).max()
    if np.abs(covariance - covariance.T).max() > 1e-10 * scale:
        raise ValueError(f"Normal of {', '.join(names)}: expected a symmetric covariance")
    try:
        return np.asarray(linalg.cholesky(covariance, lower=True))
    except linalg.LinAlgError:
        least = float(linalg.eigvalsh(covariance)[0])
        raise ValueError(f"Normal of {', '.join(names)}: expected a positive definite covariance, found the "
                         f"eigenvalue {least:.3g}; drop parameters that others determine") from None  # fmt: skip


class LogNormal(Constraint):
    """A log-normal constraint of a positive factor: log(o / alpha) is normal with deviation log(kappa).

    Raises
    ------
    ValueError
        for ``observed`` not positive or ``kappa`` not above 1.
    """

    def __init__(self, name: str, observed: float | ArrayLike = 1.0, kappa: float = 1.1) -> None:
        super().__init__([name], observed, (0.0, None))
        if not kappa > 1 or not math.isfinite(kappa):
            raise ValueError(f"LogNormal of {name}: expected kappa above 1, such as 1.1 for 10%, found {kappa}")
        if not self.observed[0] > 0:
            raise ValueError(f"LogNormal of {name}: expected a positive observed factor, found {self.observed[0]}")
        self.kappa = float(kappa)

    def tensor(self, theta: Tensor) -> Tensor:
        """(log(o / alpha) / log kappa)^2."""
        _check_positive(self, theta)
        return (torch.log(theta[0] / self.observed[0]) / math.log(self.kappa)) ** 2

    @property
    def width(self) -> dict[str, float]:
        """o log(kappa), to first order."""
        return {self.names[0]: float(self.observed[0] * math.log(self.kappa))}

    @property
    def centre(self) -> dict[str, float]:
        """The observed factor."""
        return {self.names[0]: float(self.observed[0])}

    def with_observed(self, observed: ArrayLike) -> LogNormal:
        """The same measurement with another outcome."""
        return LogNormal(self.names[0], observed, self.kappa)

    def expected(self, values: Mapping[str, float]) -> Floats:
        """The factor itself."""
        return self._at(values)

    def drawn(self, values: Mapping[str, float], rng: np.random.Generator) -> Floats:
        """alpha kappa^N(0, 1)."""
        return np.asarray(self._at(values) * self.kappa ** rng.standard_normal(1))


class Poisson(Constraint):
    """A Poisson constraint of a positive factor gamma: a side count n of expectation scale x gamma.

    Parameters
    ----------
    observed:
        n, from 0; need not be whole (an Asimov count).
    scale:
        tau, the count expected at gamma = 1.

    Raises
    ------
    ValueError
        for a negative count or a scale that is not positive.
    """

    def __init__(self, name: str, observed: float | ArrayLike, scale: float) -> None:
        super().__init__([name], observed, (0.0, None))
        if not 0 < scale < math.inf or self.observed[0] < 0:
            raise ValueError(f"Poisson of {name}: expected a count from 0 and a positive scale, found "
                             f"{self.observed[0]} and {scale}")  # fmt: skip
        self.scale = float(scale)

    def tensor(self, theta: Tensor) -> Tensor:
        """2 [tau gamma - n + n log(n / (tau gamma))]."""
        _check_positive(self, theta)
        n, mean = float(self.observed[0]), self.scale * theta[0]
        return 2 * (mean - n + (n * torch.log(n / mean) if n else 0.0))

    @property
    def width(self) -> dict[str, float]:
        """sqrt(n) / tau, of one count where none was seen."""
        return {self.names[0]: math.sqrt(max(float(self.observed[0]), 1.0)) / self.scale}

    @property
    def centre(self) -> dict[str, float]:
        """n / tau."""
        return {self.names[0]: float(self.observed[0]) / self.scale}

    def with_observed(self, observed: ArrayLike) -> Poisson:
        """The same measurement with another outcome."""
        return Poisson(self.names[0], observed, self.scale)

    def expected(self, values: Mapping[str, float]) -> Floats:
        """tau gamma."""
        return self.scale * self._at(values)

    def drawn(self, values: Mapping[str, float], rng: np.random.Generator) -> Floats:
        """A Poisson number of mean tau gamma."""
        return rng.poisson(self.scale * self._at(values)).astype(np.float64)


def _check_positive(constraint: Any, theta: Tensor) -> None:
    value = float(theta.detach()[0])
    if not value > 0:
        kind = type(constraint).__name__
        raise NegativeDensity(f"{kind} of {constraint.names[0]}: expected a positive factor, found {value:.6g}; give "
                              f"it a lower limit above 0")  # fmt: skip
