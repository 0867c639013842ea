r"""Shapes of a smooth background: expected events per unit of x, with the normalisation among the parameters.

What to use when: `Dijet` for steeply falling spectra of two jets; `Exponential` for others that fall; `Bernstein` for a
narrow range, where the density has to stay positive; `Polynomial` for sidebands of little shape; `TemplateBackground`
for a prediction with a free normalisation and systematic variations; `UserShape` for any other.

====================  ==================================================================================
`Dijet`               :math:`p_0 (1-x)^{p_1} / x^{p_2 + p_3 \ln x + p_4 \ln^2 x}, \quad x = m/\sqrt{s}`
`Exponential`         :math:`\exp(c_0 + c_1 t + \dots + c_n t^n), \quad t \in [-1, 1]` over the span
`Bernstein`           :math:`\sum_k c_k \, b_{k,n}(u), \quad u \in [0, 1]` over the span, :math:`c_k \ge 0`
`Polynomial`          :math:`\sum_k c_k \, P_k(t) / W` of Legendre's, W the length of the span
`TemplateBackground`  :math:`e^{\nu} \, t(x) \prod_k (t_k^+(x) / t(x))^{\alpha_k}`
====================  ==================================================================================

The b's are Bernstein's polynomials over their integrals, so that the c's of `Bernstein` are numbers of events and add
up to all of them; so does :math:`c_0` of `Polynomial`.  Factors are logarithms (``log_p0``, ``log_norm``): they cannot
become negative, and numbers such as :math:`p_0 = 10^{-12}` are no parameters to fit.

In the first family the logarithm is linear in the parameters (`LogLinear`), in `Bernstein` and `Polynomial` the density
is (`Linear`): fits of many toys at once (`nuinfer.anomaly.bump.fit_toys`) make use of it.  Integrals over bins are in
closed form for `Linear` and for templates, by Gauss-Legendre nodes in each bin for the others.

Sources: CDF, arXiv 0812.4036 (dijet function); CMS, arXiv 1911.03947, ATLAS, arXiv 1910.08447 (its use).
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import ClassVar, Self

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import optimize, special

from ...errors import check_finite
from ...histograms import check_contents
from .quadrature import bins_of, integrate, nodes

__all__ = [
    "BackgroundShape",
    "Bernstein",
    "Dijet",
    "Exponential",
    "Linear",
    "LogLinear",
    "Polynomial",
    "TemplateBackground",
    "UserShape",
    "central_slopes",
]

Floats = NDArray[np.float64]
Limits = tuple[float | None, float | None]
Span = tuple[float, float]
#: x (N,) and the parameters, each (..., 1) -> densities (..., N).
Density = Callable[..., Floats]


def check_spec(name: str, given: object, kind: type) -> None:
    """Raise ``TypeError`` for anything but an instance of ``kind``, such as its name or a class."""
    if not isinstance(given, kind):
        found = f"the class {given.__name__}; call it, as in {given.__name__}(...)" if isinstance(given, type) else (
            f"{given!r:.60}" if isinstance(given, str) else type(given).__name__)  # fmt: skip
        raise TypeError(f"{name}: expected a {kind.__name__}, found {found}")


class BackgroundShape(ABC):
    """Events per unit of x as a function of x and P parameters theta, which come as (..., P)."""

    @property
    @abstractmethod
    def names(self) -> tuple[str, ...]:
        """Of the P parameters."""

    @property
    def limits(self) -> tuple[Limits, ...]:
        """(lower, upper) of each, None for none."""
        return ((None, None),) * len(self.names)

    @property
    def constraints(self) -> dict[str, tuple[float, float]]:
        """Centre and standard deviation of parameters that are known from elsewhere."""
        return {}

    @property
    def positive(self) -> bool:
        """Whether the density is above 0 for all parameters within the limits."""
        return True

    def on(self, span: Span) -> Self:
        """The shape over the range of a fit, (lower, upper), where it depends on it.

        Raises
        ------
        ValueError
            where it is not defined over it.
        """
        return self

    @abstractmethod
    def values(self, x: Floats, theta: Floats) -> Floats:
        """The density (..., N) at x (N,)."""

    @abstractmethod
    def slopes(self, x: Floats, theta: Floats) -> Floats:
        """Its derivatives (..., N, P)."""

    def integrals(self, bins: Floats, theta: Floats, order: int = 16) -> Floats:
        """Expected contents (..., B) of bins (B, 2); ``order`` nodes a bin where there is no closed form."""
        return integrate(lambda x: self.values(x, theta), bins, order)

    def integral_slopes(self, bins: Floats, theta: Floats, order: int = 16) -> Floats:
        """Their derivatives (..., B, P)."""
        at, weight = nodes(bins, order)
        slopes = self.slopes(at.reshape(-1), theta)
        return np.asarray((slopes.reshape(*slopes.shape[:-2], *at.shape, -1) * weight[..., None]).sum(-2))

    @abstractmethod
    def start(self, bins: Floats, counts: Floats) -> Floats:
        """Parameters (P,) to start a fit of contents (B,) from."""


# -- the logarithm is linear -------------------------------------------------------------------------------------------


class LogLinear(BackgroundShape):
    """log f = offset(x) + basis(x) theta."""

    @abstractmethod
    def basis(self, x: Floats) -> Floats:
        """(N, P) at x (N,)."""

    def offset(self, x: Floats) -> Floats:
        """(N,)."""
        return np.zeros(len(x))

    def log_values(self, x: Floats, theta: Floats) -> Floats:
        """The logarithm (..., N) of the density."""
        return np.asarray(self.offset(x) + theta @ self.basis(x).T)

    def values(self, x: Floats, theta: Floats) -> Floats:
        """The density (..., N) at x (N,)."""
        return np.exp(self.log_values(x, theta))

    def slopes(self, x: Floats, theta: Floats) -> Floats:
        """Its derivatives (..., N, P)."""
        return np.asarray(self.values(x, theta)[..., None] * self.basis(x))

    def start(self, bins: Floats, counts: Floats) -> Floats:
        """Least squares of log contents, in groups of bins with at least 10 events, weighted by their contents."""
        first = _groups(counts, 10.0)
        inside = bins.mean(1)
        wide, total = bins[:, 1] - bins[:, 0], np.add.reduceat(counts, first)
        weight = np.maximum(counts, 1e-3) / np.add.reduceat(np.maximum(counts, 1e-3), first)[_members(first, counts)]
        basis = np.add.reduceat(self.basis(inside) * weight[:, None], first)
        offset = np.add.reduceat(self.offset(inside) * weight, first)
        density = np.log(np.maximum(total, 0.5) / np.add.reduceat(wide, first))
        root = np.sqrt(np.maximum(total, 0.5))[:, None]
        rows, aims = [basis * root], [(density - offset) * root[:, 0]]
        for name, (centre, sigma) in self.constraints.items():
            unit = np.eye(len(self.names))[self.names.index(name)] / sigma
            rows.append(unit[None])
            aims.append(np.array([centre / sigma]))
        theta = _scaled_least_squares(np.concatenate(rows), np.concatenate(aims))
        return self._normed(theta, bins, counts)

    def _normed(self, theta: Floats, bins: Floats, counts: Floats) -> Floats:
        """With the total of the data, by the first parameter, which is the logarithm of a factor."""
        found = self.integrals(bins, theta, 4).sum()
        shift = np.zeros(len(theta))
        shift[0] = np.log(max(float(counts.sum()), 0.5) / found)
        return np.asarray(theta + shift)


@dataclass(frozen=True)
class Dijet(LogLinear):
    """The dijet function of 3, 4 or 5 parameters, ``log_p0``, ``p1`` ... of x = m / energy.

    Raises
    ------
    ValueError
        for other numbers of parameters, an energy that is not positive.

    Examples
    --------
    >>> shape = Dijet(3, energy=13000.0)
    >>> shape.values(np.array([1300.0]), np.array([0.0, 2.0, 1.0])).round(6).tolist()   # 0.9**2 / 0.1
    [8.1]
    """

    parameters: int = 4
    energy: float = 13000.0

    def __post_init__(self) -> None:
        """Check what is given."""
        if self.parameters not in (3, 4, 5):
            raise ValueError(f"parameters: expected 3, 4 or 5, found {self.parameters}")
        if not 0 < self.energy < np.inf:
            raise ValueError(f"energy: expected a positive one, that of the collisions, found {self.energy:g}")

    @property
    def names(self) -> tuple[str, ...]:
        """Of the parameters."""
        return ("log_p0", "p1", "p2", "p3", "p4")[: self.parameters]

    def on(self, span: Span) -> Self:
        """Itself; ``ValueError`` for a span that is not inside of (0, energy)."""
        if not 0 < span[0] < span[1] < self.energy:
            raise ValueError(f"range: expected masses between 0 and the energy {self.energy:g} of the dijet function, "
                             f"found {span[0]:g} to {span[1]:g}; is Dijet(energy=) in their unit?")  # fmt: skip
        return self

    def basis(self, x: Floats) -> Floats:
        """(N, P) at x (N,)."""
        log = np.log(x / self.energy)
        columns = [np.ones_like(log), np.log1p(-x / self.energy), -log, -(log**2), -(log**3)]
        return np.stack(columns[: self.parameters], -1)


@dataclass(frozen=True)
class _OfOrder(BackgroundShape):
    """Coefficients ``c0`` ... ``cn`` of functions over a span, which is the range of the fit where there is none."""

    order: int = 0
    span: Span | None = None
    least: ClassVar[int] = 0

    def __post_init__(self) -> None:
        """Check what is given."""
        _check_order(self.order, self.least)

    @property
    def names(self) -> tuple[str, ...]:
        """Of the coefficients."""
        return tuple(f"c{k}" for k in range(self.order + 1))

    def on(self, span: Span) -> Self:
        """Over the range of a fit, if it has no span."""
        return self if self.span is not None else replace(self, span=span)


@dataclass(frozen=True)
class Exponential(_OfOrder, LogLinear):
    """The exponential of a polynomial, ``c0`` ... ``cn``, of t from -1 to 1 over the span (None: the fit's range).

    For order 1 the decay constant is W / 2 c1, W the length of the span.

    Raises
    ------
    ValueError
        for an order below 1.
    """

    order: int = 1
    least: ClassVar[int] = 1

    def basis(self, x: Floats) -> Floats:
        """(N, P) at x (N,)."""
        return np.vander(_centred(x, self.span), self.order + 1, increasing=True)


@dataclass(frozen=True, eq=False)
class TemplateBackground(LogLinear):
    """A prediction in bins with a free normalisation and nuisance parameters of unit Gaussian constraints.

    Parameters
    ----------
    contents, edges:
        Of the prediction, (B,) and (B + 1,), positive.  Bins of the fit have to lie within single ones of these.
    variations:
        Contents (B,) at +1 sigma, by the name of the nuisance; between and beyond, powers of the ratio.
    norm:
        Relative uncertainty of the normalisation, None for a free one.

    Raises
    ------
    ValueError
        for contents that are not positive (named), wrong lengths.
    """

    contents: ArrayLike
    edges: ArrayLike
    variations: Mapping[str, ArrayLike] = field(default_factory=dict)
    norm: float | None = None

    def __post_init__(self) -> None:
        """Check, and keep arrays."""
        bins = bins_of(self.edges)
        contents = _positive("contents", self.contents, len(bins))
        found = {name: _positive(f"variation {name!r}", v, len(bins)) for name, v in self.variations.items()}
        for name, value in (("contents", contents), ("edges", np.asarray(self.edges, float)), ("variations", found)):
            object.__setattr__(self, name, value)

    @property
    def names(self) -> tuple[str, ...]:
        """``log_norm`` and the nuisances."""
        return ("log_norm", *self.variations)

    @property
    def constraints(self) -> dict[str, tuple[float, float]]:
        """Unit ones of the nuisances."""
        norm = {} if self.norm is None else {"log_norm": (0.0, float(np.log1p(self.norm)))}
        return {**norm, **dict.fromkeys(self.variations, (0.0, 1.0))}

    def on(self, span: Span) -> Self:
        """Itself; ``ValueError`` for a span that sticks out of the prediction."""
        low, high = np.asarray(self.edges)[[0, -1]]
        slack = 1e-9 * (high - low)
        if span[0] < low - slack or span[1] > high + slack:
            raise ValueError(f"range: expected one inside of the prediction's, {low:g} to {high:g}, found "
                             f"{span[0]:g} to {span[1]:g}")  # fmt: skip
        return self

    def basis(self, x: Floats) -> Floats:
        """(N, P) at x (N,)."""
        at, contents = self._bin(x), np.asarray(self.contents)
        ratios = [np.log(np.asarray(v) / contents)[at] for v in self.variations.values()]
        return np.stack([np.ones(len(x)), *ratios], -1)

    def offset(self, x: Floats) -> Floats:
        """(N,)."""
        return np.asarray(np.log(np.asarray(self.contents) / np.diff(np.asarray(self.edges)))[self._bin(x)])

    def _bin(self, x: Floats) -> NDArray[np.int64]:
        edges = np.asarray(self.edges)
        return np.clip(np.searchsorted(edges, x, side="right") - 1, 0, len(edges) - 2)

    def integrals(self, bins: Floats, theta: Floats, order: int = 1) -> Floats:
        """Expected contents (..., B): the density at the middle times the width, which is exact within one bin."""
        self._check_nested(bins)
        return np.asarray(self.values(bins.mean(1), theta) * (bins[:, 1] - bins[:, 0]))

    def _check_nested(self, bins: Floats) -> None:
        inner = np.asarray(self.edges)[1:-1]
        slack = 1e-9 * (bins[:, 1] - bins[:, 0])
        low, high = np.searchsorted(inner, bins[:, 0] + slack), np.searchsorted(inner, bins[:, 1] - slack)
        bad = np.flatnonzero(low != high)
        if len(bad):
            k = int(bad[0])
            raise ValueError(f"bins: expected each inside of one bin of the prediction, found {bins[k, 0]:g} to "
                             f"{bins[k, 1]:g} across its edge {inner[low[k]]:g}; fill both with one axis")  # fmt: skip


# -- the density is linear ---------------------------------------------------------------------------------------------


class Linear(BackgroundShape):
    """f = basis(x) theta."""

    @abstractmethod
    def basis(self, x: Floats) -> Floats:
        """(N, P) at x (N,)."""

    @abstractmethod
    def bin_basis(self, bins: Floats) -> Floats:
        """Its integrals (B, P) over bins (B, 2)."""

    def values(self, x: Floats, theta: Floats) -> Floats:
        """The density (..., N) at x (N,)."""
        return np.asarray(theta @ self.basis(x).T)

    def slopes(self, x: Floats, theta: Floats) -> Floats:
        """Its derivatives (..., N, P)."""
        basis = self.basis(x)
        return np.asarray(np.broadcast_to(basis, (*theta.shape[:-1], *basis.shape)))

    def integrals(self, bins: Floats, theta: Floats, order: int = 1) -> Floats:
        """Expected contents (..., B) of bins (B, 2), in closed form."""
        return np.asarray(theta @ self.bin_basis(bins).T)

    def integral_slopes(self, bins: Floats, theta: Floats, order: int = 1) -> Floats:
        """Their derivatives (..., B, P)."""
        basis = self.bin_basis(bins)
        return np.asarray(np.broadcast_to(basis, (*theta.shape[:-1], *basis.shape)))


@dataclass(frozen=True)
class Bernstein(_OfOrder, Linear):
    """Bernstein's polynomials of one order, ``c0`` ... ``cn``, numbers of events from 0, over the span.

    Examples
    --------
    >>> shape = Bernstein(2, span=(0.0, 1.0))
    >>> shape.integrals(np.array([[0.0, 1.0]]), np.array([10.0, 20.0, 30.0])).round(9).tolist()
    [60.0]

    Raises
    ------
    ValueError
        for an order below 0.
    """

    order: int = 3

    @property
    def limits(self) -> tuple[Limits, ...]:
        """From 0."""
        return ((0.0, None),) * (self.order + 1)

    def basis(self, x: Floats) -> Floats:
        """(N, P) at x (N,)."""
        n, k = self.order, np.arange(self.order + 1)
        low, high = _span(self.span)
        u = ((x - low) / (high - low))[:, None]
        return np.asarray((n + 1) * special.binom(n, k) * u**k * (1 - u) ** (n - k) / (high - low))

    def bin_basis(self, bins: Floats) -> Floats:
        """Its integrals (B, P): differences of incomplete beta functions."""
        k = np.arange(self.order + 1)
        low, high = _span(self.span)
        u = np.clip((bins - low) / (high - low), 0.0, 1.0)[..., None]
        cumulative = special.betainc(k + 1.0, self.order - k + 1.0, u)
        return np.asarray(cumulative[:, 1] - cumulative[:, 0])

    def start(self, bins: Floats, counts: Floats) -> Floats:
        """Least squares with coefficients from 0, then a little of each."""
        root = np.sqrt(counts + 1.0)
        found, _ = optimize.nnls(self.bin_basis(bins) / root[:, None], counts / root)
        floor = 1e-2 * max(float(counts.sum()), 1.0) / (self.order + 1)
        return np.asarray(np.maximum(found, floor), np.float64)


@dataclass(frozen=True)
class Polynomial(_OfOrder, Linear):
    """A polynomial of one order in Legendre's, ``c0`` ... ``cn``, numbers of events, over the span.

    ``c0`` is the number of all events over the span.  The density has to be positive over the bins: a fit that would
    leave this ends at the boundary, and says so.
    """

    order: int = 2

    @property
    def positive(self) -> bool:
        """Not by itself."""
        return False

    def basis(self, x: Floats) -> Floats:
        """(N, P) at x (N,)."""
        low, high = _span(self.span)
        return np.asarray(
            np.polynomial.legendre.legvander(_centred(x, self.span), self.order) / (high - low), np.float64
        )

    def bin_basis(self, bins: Floats) -> Floats:
        """Its integrals (B, P), from (2 k + 1) P_k = d/dt (P_{k+1} - P_{k-1})."""
        t = _centred(bins, self.span)
        leg = np.polynomial.legendre.legvander(t, self.order + 1)
        primitive = np.empty((*t.shape, self.order + 1))
        primitive[..., 0] = t
        for k in range(1, self.order + 1):
            primitive[..., k] = (leg[..., k + 1] - leg[..., k - 1]) / (2 * k + 1)
        return np.asarray(0.5 * (primitive[:, 1] - primitive[:, 0]))

    def start(self, bins: Floats, counts: Floats) -> Floats:
        """That of `Bernstein`, which is positive everywhere, as the same polynomial."""
        same = Bernstein(self.order, self.span)
        low, high = _span(self.span)
        x = 0.5 * (low + high) + 0.5 * (high - low) * np.polynomial.legendre.leggauss(self.order + 1)[0]
        return np.asarray(np.linalg.solve(self.basis(x), same.values(x, same.start(bins, counts))), np.float64)


# -- any other ---------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, eq=False)
class UserShape(BackgroundShape):
    """A shape of the user's own.

    Parameters
    ----------
    function:
        x (N,) and the parameters, one argument each of shape (..., 1) -> events per unit of x (..., N): ordinary numpy.
    parameters:
        The starting value by name.
    bounds:
        (lower, upper) by name, None for none.
    gradient:
        The same arguments -> derivatives (..., N, P).  None: central differences with steps of 1e-5 of a parameter (at
        least 1e-7), good to about ten digits.
    above_zero:
        Whether the function is positive for all parameters within the bounds.  Where it is not, fits watch where it
        reaches 0 in empty bins.

    Raises
    ------
    ValueError
        for no parameters, bounds that leave out the start; ``KeyError`` for bounds of unknown parameters.

    Examples
    --------
    >>> shape = UserShape(lambda x, n, slope: n * np.exp(-slope * x), {"n": 100.0, "slope": 1.0})
    >>> shape.values(np.array([0.0, 1.0]), np.array([[1.0, 0.0], [2.0, 0.0]])).tolist()
    [[1.0, 1.0], [2.0, 2.0]]
    """

    function: Density
    parameters: Mapping[str, float]
    bounds: Mapping[str, Limits] = field(default_factory=dict)
    gradient: Density | None = None
    above_zero: bool = True

    def __post_init__(self) -> None:
        """Check what is given."""
        if not self.parameters:
            raise ValueError("parameters: expected names with starting values, {'norm': 100.0}, found none")
        for name, (low, high) in self.bounds.items():
            if name not in self.parameters:
                raise KeyError(f"bounds: no parameter {name!r}; known: {', '.join(self.parameters)}")
            at = self.parameters[name]
            if (low is not None and at < low) or (high is not None and at > high):
                raise ValueError(f"parameters: expected {name!r} to start between {low} and {high}, found {at:g}")

    @property
    def names(self) -> tuple[str, ...]:
        """Of the parameters."""
        return tuple(self.parameters)

    @property
    def limits(self) -> tuple[Limits, ...]:
        """(lower, upper) of each, None for none."""
        return tuple(self.bounds.get(name, (None, None)) for name in self.names)

    @property
    def positive(self) -> bool:
        """As given."""
        return self.above_zero

    def values(self, x: Floats, theta: Floats) -> Floats:
        """The density (..., N) at x (N,)."""
        found = np.asarray(self.function(x, *np.moveaxis(theta, -1, 0)[..., None]), np.float64)
        return np.broadcast_to(found, (*theta.shape[:-1], len(x)))

    def slopes(self, x: Floats, theta: Floats) -> Floats:
        """Its derivatives (..., N, P)."""
        if self.gradient is None:
            return central_slopes(lambda t: self.values(x, t), theta)
        found = np.asarray(self.gradient(x, *np.moveaxis(theta, -1, 0)[..., None]), np.float64)
        return np.broadcast_to(found, (*theta.shape[:-1], len(x), theta.shape[-1]))

    def start(self, bins: Floats, counts: Floats) -> Floats:
        """As given."""
        return np.array(list(self.parameters.values()), np.float64)


def central_slopes(function: Callable[[Floats], Floats], theta: Floats, relative: float = 1e-5) -> Floats:
    """Derivatives (..., N, P) of a function (..., P) -> (..., N) by central differences."""
    columns = []
    for k in range(theta.shape[-1]):
        step = np.zeros_like(theta)
        step[..., k] = relative * np.maximum(np.abs(theta[..., k]), 1e-2)
        up, down = theta + step, theta - step
        columns.append((function(up) - function(down)) / (up - down)[..., k, None])
    return np.stack(columns, -1)


# -- parts -------------------------------------------------------------------------------------------------------------


def _groups(counts: Floats, least: float) -> NDArray[np.int64]:
    """First bins of groups of neighbours with at least so many events (or a fortieth of all) each."""
    first, total = [0], 0.0
    least = min(least, max(float(counts.sum()) / 8, 1.0))
    for k, count in enumerate(counts.tolist()):
        if total >= least:
            first.append(k)
            total = 0.0
        total += count
    if total < least and len(first) > 1:
        first.pop()
    return np.array(first)


def _members(first: NDArray[np.int64], counts: Floats) -> NDArray[np.int64]:
    return np.searchsorted(first, np.arange(len(counts)), side="right") - 1


def _scaled_least_squares(rows: Floats, aims: Floats) -> Floats:
    """Least squares with columns of unit length; directions that the rows do not know stay at 0."""
    scale = np.maximum(np.linalg.norm(rows, axis=0), 1e-300)
    return np.asarray(np.linalg.lstsq(rows / scale, aims, rcond=1e-10)[0] / scale)


def _span(span: Span | None) -> Span:
    if span is None:
        raise ValueError("span: expected (lower, upper), found None; give span=, or .on((lower, upper))")
    return span


def _centred(x: Floats, span: Span | None) -> Floats:
    """From -1 to 1 over the span."""
    low, high = _span(span)
    return np.asarray((2 * x - low - high) / (high - low))


def _check_order(order: int, least: int) -> None:
    if isinstance(order, bool) or not isinstance(order, int) or order < least:
        raise ValueError(f"order: expected an integer from {least}, found {order!r}")


def _positive(what: str, given: ArrayLike, bins: int) -> Floats:
    found = np.asarray(given, np.float64)
    if found.shape != (bins,):
        raise ValueError(f"{what}: expected {bins} contents, one per bin, found shape {found.shape}")
    check_finite(what, found)
    check_contents(what, found)
    empty = np.flatnonzero(found == 0)
    if len(empty):
        raise ValueError(f"{what}: expected positive contents, found 0 in {len(empty)} of {bins} bins, first bin "
                         f"{empty[0]}; merge bins, or leave them out of the range")  # fmt: skip
    return found


def names_unique(what: str, names: Sequence[str]) -> None:
    """Raise ``ValueError`` for a name that stands twice."""
    doubled = sorted({name for name in names if list(names).count(name) > 1})
    if doubled:
        raise ValueError(f"{what}: expected different names, found {', '.join(map(repr, doubled))} twice; rename those "
                         f"of the user's shape")  # fmt: skip
