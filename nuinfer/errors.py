"""What every room says when it has to refuse.

User mistakes raise ``ValueError``, ``TypeError``, ``KeyError`` or ``FileNotFoundError`` at the boundary, in sentences
that say what was expected, what was found and what to try.  Only a fit that did not converge has a class of its own.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable

import numpy as np
from numpy.typing import NDArray

__all__ = ["CorruptFile", "NotConverged"]


class NotConverged(RuntimeError):
    """A fit ended without an answer that can be trusted; the message says what to try."""


class CorruptFile(ValueError):
    """A saved file does not hold what was written into it."""


def closest(name: str, known: Iterable[str], most: int = 4) -> str:
    """A half-sentence naming the known names nearest to ``name``, for the end of an error message."""
    known = list(known)
    near = difflib.get_close_matches(name, known, n=most, cutoff=0.4)
    if near:
        return "closest: " + ", ".join(repr(n) for n in near)
    shown = ", ".join(repr(n) for n in known[:8]) + (", ..." if len(known) > 8 else "")
    return f"known: {shown}" if known else "there are none"


def missing(what: str, name: str, known: Iterable[str]) -> KeyError:
    """The error for a name that is not there: ``raise missing("column", "pmu", events.columns)``."""
    return KeyError(f"no {what} {name!r}; {closest(name, known)}")


def check_finite(what: str, values: NDArray[np.generic], rows: NDArray[np.int64] | None = None) -> None:
    """Raise ``ValueError`` with the count and the first rows where ``values`` (N,) or (N, D) is NaN or infinite.

    ``rows`` (N,) gives the row numbers to report where ``values`` is a selection.
    """
    if values.dtype.kind != "f":
        return
    with np.errstate(over="ignore", invalid="ignore"):
        if np.isfinite(np.sum(values, dtype=np.float64)):
            return  # a finite sum (the cheap test, no temporary) proves every term finite
    bad = ~np.isfinite(values)
    bad = bad if bad.ndim == 1 else bad.any(axis=tuple(range(1, bad.ndim)))
    if not bad.any():
        return
    first = np.flatnonzero(bad)[:5]
    at = first if rows is None else rows[first]
    found = ", ".join(str(values[i]) for i in first)
    raise ValueError(
        f"{what}: expected finite values, found {int(bad.sum())} of {len(values)} not finite, "
        f"first at rows {', '.join(map(str, at))} ({found}); select them away or mend them at the source"
    )
