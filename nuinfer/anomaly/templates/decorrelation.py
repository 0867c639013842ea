r"""Columns without their dependence on the mass, as far as the sidebands show it.

"linear" subtracts the mean, a polynomial of the mass: :math:`x - E[x|m]`.  "quantile" puts normal scores,
:math:`\Phi^{-1}(F(x|m))`, with quantiles of x that are polynomials of the mass; a column's whole distribution is then
the same at each mass, though how columns go together may not be.  Any column will do: the features, or a score.

Sources: Dolen, Harris, Marzani, Rappoccio, Tran, arXiv:1603.00027 (linear, "designed decorrelated taggers");
Koenker, Bassett, Econometrica 46 (1978) 33, and Moreno et al., arXiv:1908.08318 (quantiles as functions of the mass).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from scipy import special

from ...errors import check_finite
from ...events import Events, positive_total
from ...features import Features
from ...records import Record
from ..regions import Window
from .base import BackgroundTemplate, FittedTemplate, check_counts, check_sides, flat_of
from .sidebands import Sidebands

__all__ = ["Decorrelated", "Decorrelation", "fit_decorrelation"]

Floats = NDArray[np.float64]
Method = Literal["linear", "quantile"]

_SCORES = np.linspace(-2.5, 2.5, 41)  # normal scores of the quantiles
_PER_BIN = 500  # events of a bin of the mass, at least


@dataclass(frozen=True, eq=False)
class Decorrelation(Record):
    """A map of columns, given the mass; made by `fit_decorrelation`.

    Attributes
    ----------
    columns, resonance:
        What is mapped, and the column of the mass.
    method:
        "linear" or "quantile".
    centre, scale:
        Of the mass in the polynomials.
    coefficients:
        Of the mean (D, 1, degree + 1), or of each quantile (D, Q, degree + 1).
    """

    _KIND = "decorrelation"

    columns: tuple[str, ...]
    resonance: str
    method: str
    centre: float
    scale: float
    coefficients: Floats

    def transform(self, events: Events) -> Events:
        """The events with the columns mapped, under the same names.

        Raises
        ------
        KeyError, TypeError, ValueError
            for columns that are missing, ragged or not finite.
        """
        powers = _powers(_read(events, self.resonance), self.centre, self.scale, self.coefficients.shape[-1])
        found = {}
        for name, coefficients in zip(self.columns, self.coefficients, strict=True):
            values, at = _read(events, name), powers @ coefficients.T
            found[name] = values - at[:, 0] if self.method == "linear" else _scores(values, at)
        return events.with_columns(found)


def fit_decorrelation(
    events: Events, columns: Sequence[str], resonance: str, *, method: Method = "linear", degree: int = 1
) -> Decorrelation:
    """Learn how columns depend on the mass.

    Parameters
    ----------
    events:
        Background: the sidebands.
    columns:
        Flat ones.
    resonance:
        The column of the mass.
    method:
        "linear" or "quantile"; see the module.
    degree:
        Of the polynomials.

    Raises
    ------
    ValueError
        for another method or degree, masses that do not vary, too few events, a total weight that is not positive.
    KeyError, TypeError
        for columns that are missing or ragged.

    Examples
    --------
    >>> from nuinfer.simulators.resonance import Resonance
    >>> background = Resonance(features=1, correlation=2.0).background(5000, seed=1)
    >>> flat = fit_decorrelation(background, ["x0"], "m", method="quantile").transform(background)
    >>> [bool(abs(np.corrcoef(e["m"], e["x0"])[0, 1]) < 0.05) for e in (background, flat)]
    [False, True]
    """
    _check(method, degree)
    positive_total("events", events.weight)
    mass = _read(events, resonance)
    centre, scale = float(mass.mean()), float(mass.std())
    if not scale > 0:
        raise ValueError(f"column {resonance!r}: expected masses that vary, found {mass[:1].tolist()} throughout")
    powers = _powers(mass, centre, scale, degree + 1)
    fit = _means if method == "linear" else _quantiles
    found = np.stack([fit(_read(events, name), mass, powers, events.weight) for name in columns])
    return Decorrelation(tuple(columns), resonance, method, centre, scale, found)


@dataclass(frozen=True, kw_only=True)
class Decorrelated(BackgroundTemplate):
    """A template for features that have been decorrelated from the mass in the sidebands; flat ones.

    Parameters
    ----------
    template:
        What makes the reference, of the mapped features.
    method, degree:
        Of `fit_decorrelation`.
    extrapolate:
        Allow sidebands on one side only; the template has to allow it too.
    """

    template: BackgroundTemplate = field(default_factory=Sidebands)
    method: Method = "linear"
    degree: int = 1
    extrapolate: bool = False

    def __post_init__(self) -> None:
        """Check what is given."""
        _check(self.method, self.degree)

    def fit(
        self, events: Events, resonance: str, features: Features, window: Window, *, seed: int, folds: int = 1,
        device: str = "cpu", checkpoint: str | Path | None = None, progress: bool = True,
    ) -> FittedTemplate:  # fmt: skip
        """Learn the map, and the template behind it; see `BackgroundTemplate.fit`."""
        columns = flat_of(features, "Decorrelated")
        mass = _read(events, resonance)
        check_counts("events", mass, window, self.least)
        if not self.extrapolate:
            check_sides(window)
        own = fit_decorrelation(
            events.select(window.in_sidebands(mass)), columns, resonance, method=self.method, degree=self.degree
        )
        inner = self.template.mapped(own.transform).fit(
            own.transform(events), resonance, features, window, seed=seed, folds=folds, device=device,
            checkpoint=checkpoint, progress=progress,
        )  # fmt: skip
        score = inner.log_ratio
        return replace(
            inner, words=f"{_words(self)} {inner.words}", draw=None,
            transform=lambda given: inner.transform(own.transform(given)),
            log_ratio=None if score is None else lambda given: score(own.transform(given)),
        )  # fmt: skip


def _words(spec: Decorrelated) -> str:
    what = "mean" if spec.method == "linear" else "distribution, one at a time,"
    return (f"Features have lost the dependence of their {what} on the mass, as far as it is a polynomial of degree "
            f"{spec.degree} in the sidebands.")  # fmt: skip


# -- parts -------------------------------------------------------------------------------------------------------------


def _check(method: str, degree: int) -> None:
    if method not in ("linear", "quantile"):
        raise ValueError(f"method: expected 'linear' or 'quantile', found {method!r}")
    if isinstance(degree, bool) or not isinstance(degree, int) or degree < 1:
        raise ValueError(f"degree: expected an integer of at least 1, found {degree!r}")


def _read(events: Events, name: str) -> Floats:
    found = np.asarray(events.flat(name), np.float64)
    check_finite(f"column {name!r}", found)
    return found


def _powers(mass: Floats, centre: float, scale: float, terms: int) -> Floats:
    return np.vander((mass - centre) / scale, terms, increasing=True)


def _means(values: Floats, mass: Floats, powers: Floats, weight: Floats) -> Floats:
    """Coefficients (1, P) of the mean, by least squares."""
    inner = powers.T * weight @ powers
    return np.asarray(np.linalg.solve(inner, powers.T * weight @ values))[None]


def _quantiles(values: Floats, mass: Floats, powers: Floats, weight: Floats) -> Floats:
    """Coefficients (Q, P) of the quantiles: those in bins of the mass, by least squares weighted with the contents."""
    if (weight < 0).any():
        raise ValueError(
            f"events: expected weights from 0 for quantiles, found {np.count_nonzero(weight < 0)} negative"
        )
    order = np.argsort(mass, kind="stable")
    count = min(len(mass) // _PER_BIN, 60)
    if count <= powers.shape[1]:
        raise ValueError(f"events: expected at least {_PER_BIN * (powers.shape[1] + 1)} for quantiles as functions of "
                         f"the mass, found {len(mass)}; method='linear' needs fewer")  # fmt: skip
    bins = np.array_split(order, count)
    size = np.array([weight[rows].sum() for rows in bins])
    at = np.stack([weight[rows] @ powers[rows] for rows in bins]) / size[:, None]
    found = np.stack([_weighted_quantiles(values[rows], weight[rows]) for rows in bins])
    inner = at.T * size @ at
    return np.asarray(np.linalg.solve(inner, at.T * size @ found)).T


def _weighted_quantiles(values: Floats, weight: Floats) -> Floats:
    """Values (Q,) at the levels of the scores."""
    order = np.argsort(values, kind="stable")
    share = np.cumsum(weight[order]) - weight[order] / 2
    return np.asarray(np.interp(special.ndtr(_SCORES) * weight.sum(), share, values[order]))


def _scores(values: Floats, knots: Floats) -> Floats:
    """Normal scores (N,) of values between the knots (N, Q) of each, and linear beyond them."""
    knots = np.sort(knots, axis=1)
    cell = np.clip((knots <= values[:, None]).sum(1) - 1, 0, knots.shape[1] - 2)
    rows = np.arange(len(values))
    low, high = knots[rows, cell], knots[rows, cell + 1]
    # knots that coincide leave a step: half of it, of a column with equal values
    share = np.divide(values - low, high - low, out=np.full(len(values), 0.5), where=high > low)
    return np.asarray(_SCORES[cell] + share * (_SCORES[cell + 1] - _SCORES[cell]))
