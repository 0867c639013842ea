"""What a figure takes: entries of results and plain arrays, checked once before anything is drawn."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray

from ..errors import check_finite, missing

__all__: list[str] = []

Floats = NDArray[np.float64]
Scale = Literal["linear", "log"]


def has_entry(source: object, name: str) -> bool:
    if isinstance(source, Mapping):
        return name in source
    # a method (as ndarray.size is not, but tuple.count is) is not data
    return hasattr(source, name) and not callable(getattr(source, name))


def entry(source: object, name: str) -> Any:
    if has_entry(source, name):
        return source[name] if isinstance(source, Mapping) else getattr(source, name)
    known = source if isinstance(source, Mapping) else (part for part in dir(source) if not part.startswith("_"))
    raise missing("entry", name, map(str, known))


def numbers(what: str, values: Any, length: int, of: str) -> Floats:
    array = np.asarray(values, np.float64)
    if array.shape != (length,):
        raise ValueError(f"{what}: expected one number for each of {length} {of}, found shape {array.shape}")
    check_finite(what, array)
    return array


def checked_edges(edges: ArrayLike) -> Floats:
    array = np.asarray(edges, np.float64)
    if array.ndim != 1 or len(array) < 2:
        raise ValueError(f"edges: expected at least 2 bin edges, shape (B + 1,), found shape {array.shape}")
    check_finite("edges", array)
    if (np.diff(array) <= 0).any():
        at = int(np.flatnonzero(np.diff(array) <= 0)[0])
        raise ValueError(f"edges: expected rising numbers, found {array[at]:g} before {array[at + 1]:g} at {at}")
    return array


def checked_variances(covariance: ArrayLike, bins: int) -> Floats:
    """The variances (B,) of a covariance (B, B) or of variances (B,)."""
    matrix = np.asarray(covariance, np.float64)
    if matrix.shape not in ((bins,), (bins, bins)):
        raise ValueError(f"covariance: expected shape ({bins}, {bins}), or variances ({bins},), found {matrix.shape}")
    check_finite("covariance", matrix)
    variances = np.diag(matrix) if matrix.ndim == 2 else matrix
    not_negative("variances", variances)
    if matrix.ndim == 2 and np.abs(matrix - matrix.T).max() > 1e-6 * variances.max():
        raise ValueError(f"covariance: expected a symmetric matrix, found C[a, b] and C[b, a] that differ by up to "
                         f"{np.abs(matrix - matrix.T).max():g}")  # fmt: skip
    return variances


def not_negative(what: str, values: Floats) -> None:
    if (values < 0).any():
        at = np.flatnonzero(values < 0)
        raise ValueError(f"{what}: expected none below 0, found {len(at)}, first in bin {at[0]} ({values[at[0]]:g})")


def check_scale(what: str, scale: Scale, values: Floats, needs: str) -> None:
    if scale not in ("linear", "log"):
        raise ValueError(f"{what}: expected 'linear' or 'log', found {scale!r}")
    if scale == "log" and not (values > 0).any():
        raise ValueError(f"{what}='log': expected {needs}, found at most {values.max():g}; use 'linear'")


def divided(numerator: Floats, denominator: Floats) -> Floats:
    """The quotient, NaN (which is not drawn) where the denominator is 0."""
    return np.asarray(np.divide(numerator, denominator, out=np.full(numerator.shape, np.nan), where=denominator != 0))


def thousands(number: float) -> str:
    """A number of events with thin spaces between thousands."""
    return f"{number:,.0f}".replace(",", "\u2009")


def answers(what: str, given: object, most: int) -> dict[str, Any]:
    """One result, or several by label, as a mapping; the label of a single one is empty."""
    if not isinstance(given, Mapping):
        return {"": given}
    if not 1 <= len(given) <= most:
        raise ValueError(f"{what}: expected 1 to {most} results by label, found {len(given)}")
    return {str(label): result for label, result in given.items()}


def checked_levels(cls: Sequence[float]) -> list[float]:
    """Confidence levels, from low to high."""
    if not len(cls) or not all(0 < cl < 1 for cl in cls):
        raise ValueError(f"cls: expected confidence levels between 0 and 1, such as (0.68, 0.95), found {cls!r}")
    return sorted(set(map(float, cls)))


def percent(cl: float) -> str:
    """A confidence level as text: 68%, 95.45%."""
    return f"{100 * cl:.4g}%"


def measured(value: float, down: float, up: float) -> str:
    """A value and its errors, to two digits of the smaller error: 1.05 ± 0.20, or 1.05 with +0.20 over -0.18."""
    small = min(down, up)
    if not (np.isfinite([value, down, up]).all() and small > 0):
        return f"{value:.3g}".replace("-", "\u2212")
    digits = 1 - math.floor(math.log10(float(f"{small:.1e}")))
    text = [f"{round(part, digits) + 0.0:.{max(digits, 0)}f}" for part in (value, up, down)]
    if text[1] == text[2]:
        return f"{text[0]} ± {text[1]}".replace("-", "\u2212")
    centre, above, below = (rf"\mathregular{{{part}}}" for part in (text[0], f"+{text[1]}", f"-{text[2]}"))
    return f"${centre}^{{{above}}}_{{{below}}}$".replace("-", "\u2212")


def segments(intervals: Floats) -> str:
    """Intervals (n, 2) as text; what is open to infinity is so."""
    if not len(intervals):
        return "none"
    return " and ".join(f"[{_end(low)}, {_end(high)}]" for low, high in intervals.tolist())


def _end(value: float) -> str:
    if math.isinf(value):
        return r"$\infty$" if value > 0 else r"$-\infty$"
    return f"{value:.3g}".replace("-", "\u2212")
