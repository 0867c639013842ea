"""Contents of bins from what users have: ``hist.Hist``, anything else that is UHI, or arrays.

A histogram brings its axes along; two of them that meet (data and prediction, a template and its variation) have to
have the same ones.  Arrays have none, and only their shape is compared.  Flow bins are never taken.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from .errors import check_finite

__all__ = ["Contents"]

Floats = NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class Contents:
    """Contents and variances (B,) of bins in C order, the shape that they had, and their axes where known.

    An axis is its edges (bins + 1,), or the tuple of its categories.
    """

    values: Floats
    variances: Floats | None
    shape: tuple[int, ...]
    axes: tuple[Any, ...] | None

    @classmethod
    def of(cls, what: str, given: Any, *, negative: bool = False) -> Contents:
        """From a histogram or an array, or `Contents` themselves; ``what`` is its name in errors.

        Raises
        ------
        ValueError
            for no bins, contents that are not finite, or below 0 where ``negative`` is not allowed.
        """
        if isinstance(given, Contents):
            return given
        is_histogram = hasattr(given, "values") and hasattr(given, "axes")
        found = np.asarray(given.values() if is_histogram else given, np.float64)
        if found.ndim == 0 or not found.size:
            raise ValueError(f"{what}: expected bin contents, a histogram or an array (bins,), found {found!r}")
        values = found.reshape(-1).copy()
        check_finite(what, values)
        if not negative:
            check_contents(what, values)
        spread = given.variances() if is_histogram else None
        variances = None if spread is None else np.asarray(spread, np.float64).reshape(-1).copy()
        axes = tuple(_axis(axis) for axis in given.axes) if is_histogram else None
        return cls(values, variances, found.shape, axes)

    def arrays(self) -> dict[str, NDArray[Any]]:
        """Names and arrays to save, beside `described`."""
        edges = {f"axis.{k}": a for k, a in enumerate(self.axes or ()) if not isinstance(a, tuple)}
        spread = {} if self.variances is None else {"variances": self.variances}
        return {"values": self.values.reshape(self.shape), **spread, **edges}

    def described(self) -> dict[str, Any]:
        """What JSON says of them: the categories of axes that have no edges."""
        axes = None if self.axes is None else [list(a) if isinstance(a, tuple) else None for a in self.axes]
        return {"axes": axes}

    @classmethod
    def of_arrays(cls, described: Mapping[str, Any], arrays: Mapping[str, NDArray[Any]]) -> Contents:
        """The inverse of `arrays` and `described`."""
        values, axes = arrays["values"], described["axes"]
        if axes is not None:
            axes = tuple(arrays[f"axis.{k}"] if names is None else tuple(names) for k, names in enumerate(axes))
        return cls(values.reshape(-1), arrays.get("variances"), values.shape, axes)

    def check_same(self, what: str, other: Contents) -> None:
        """Raise ``ValueError`` where ``other``, named ``what``, has other bins."""
        if other.shape != self.shape:
            raise ValueError(f"{what}: expected bins of shape {self.shape}, found {other.shape}")
        if self.axes is None or other.axes is None:
            return
        for k, (mine, found) in enumerate(zip(self.axes, other.axes, strict=True)):
            if not _same(mine, found):
                raise ValueError(f"{what}: expected the bins of axis {k} to be {_shown(mine)}, found {_shown(found)}; "
                                 f"fill all histograms with one axis")  # fmt: skip


def check_contents(what: str, values: Floats) -> None:
    """Raise ``ValueError`` for contents (B,) below 0."""
    bad = np.flatnonzero(values < 0)
    if len(bad):
        raise ValueError(f"{what}: expected contents from 0, found {len(bad)} negative, first {values[bad[0]]:g} in "
                         f"bin {bad[0]}; merge bins until the weights of each have a positive sum")  # fmt: skip


def variances(what: str, given: ArrayLike, bins: int, kind: str = "variances") -> Floats:
    """Variances (B,), or another ``kind`` of sizes, checked: as many as bins, finite, from 0."""
    found = np.asarray(given, np.float64).reshape(-1).copy()
    if len(found) != bins:
        raise ValueError(f"{what}: expected {bins} {kind}, one per bin, found {len(found)}")
    check_finite(f"{what}: {kind}", found)
    if (found < 0).any():
        raise ValueError(f"{what}: expected {kind} from 0, found {found.min():g} in bin {int(found.argmin())}")
    return found


def _axis(axis: Any) -> Any:
    edges = getattr(axis, "edges", None)
    discrete = bool(getattr(getattr(axis, "traits", None), "discrete", False))
    if edges is None or discrete:
        return tuple(axis)
    return np.asarray(edges, np.float64)


def _same(one: Any, other: Any) -> bool:
    if isinstance(one, tuple) or isinstance(other, tuple):
        return bool(isinstance(one, tuple) and isinstance(other, tuple) and one == other)
    finite = np.isfinite(one)
    if not np.array_equal(one[~finite], other[~finite]):
        return False
    # the edges of another program may differ by rounding, which is small beside the narrowest bin
    edges, found = one[finite], other[finite]
    tolerance = 1e-9 * np.diff(edges).min() if len(edges) > 1 else 0.0
    return bool(np.abs(edges - found).max(initial=0.0) <= tolerance)


def _shown(axis: Any) -> str:
    if isinstance(axis, tuple):
        return str(list(axis))
    return f"{len(axis) - 1} from {axis[0]:g} to {axis[-1]:g} [{', '.join(f'{e:g}' for e in axis[:4])}, ...]"
