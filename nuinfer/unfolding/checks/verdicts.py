"""What a check says: a verdict, a figure, what it is compared with, and words; and what passes."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ...errors import check_finite
from ...records import Record
from ..binning import Binning

__all__ = ["Check", "Checks", "Thresholds"]

Floats = NDArray[np.float64]


@dataclass(frozen=True, kw_only=True)
class Thresholds:
    """What passes.

    Attributes
    ----------
    closure, closure_of_events:
        Largest distance from A_C times the simulation's own truth, in sigma; of weighted events, whose networks have a
        noise of their own.
    level:
        Smallest p-value.
    tolerance:
        Largest distance from A_C times a truth, in sigma, that passes whatever its p-value.
    bottom_line:
        Largest factor by which models may differ more after unfolding than before, less 1: for a V of observed counts
        and a C of expected ones.
    bottom_line_of_events:
        The same of weighted events and of draws, whose covariance is of replicas.
    coverage:
        Largest distance of a bin's coverage from the nominal one that passes whatever its p-value.
    prior, iteration:
        Largest movement in sigma.
    effective_size:
        Smallest effective size of the weighted simulation, in units of that before.
    """

    closure: float = 0.1
    closure_of_events: float = 0.5
    level: float = 0.001
    tolerance: float = 0.3
    bottom_line: float = 0.05
    bottom_line_of_events: float = 0.1
    coverage: float = 0.03
    prior: float = 1.0
    iteration: float = 1.0
    effective_size: float = 0.1


#: The defaults.
USUAL = Thresholds()

#: The largest share of toys that may fail: those that are left are no fair sample, and coverage is off by up to it.
MOST_FAILED = 0.03


@dataclass(frozen=True)
class Check(Record):
    """One check: its verdict (None where nothing can be decided), the figure found, what it is compared with, words."""

    _KIND = "unfolding check"

    name: str
    passed: bool | None
    value: float
    threshold: float
    words: str

    def __str__(self) -> str:
        return f"{_VERDICT[self.passed]}  {self.name}: {self.words}"


_VERDICT = {True: "passed ", False: "FAILED ", None: "no bar "}


@dataclass(frozen=True, repr=False)
class Checks(Record):
    """Several checks, to be printed.

    >>> print(Checks((Check("closure", True, 0.01, 0.1, "0.01 sigma"), Check("bottom line", None, 0.0, 1.0, "none"))))
    1 of 1 checks passed
      passed   closure: 0.01 sigma
      no bar   bottom line: none
    """

    _KIND = "unfolding checks"

    checks: tuple[Check, ...]

    @property
    def failed(self) -> tuple[Check, ...]:
        """Those that failed."""
        return tuple(c for c in self.checks if c.passed is False)

    @property
    def undecided(self) -> tuple[Check, ...]:
        """Those without a verdict."""
        return tuple(c for c in self.checks if c.passed is None)

    def __getitem__(self, name: str) -> Check:
        """The check of this name; ``KeyError`` without one."""
        for found in self.checks:
            if found.name == name:
                return found
        raise KeyError(f"no check {name!r}; known: {', '.join(c.name for c in self.checks)}")

    def __len__(self) -> int:
        return len(self.checks)

    def raise_if_failed(self) -> None:
        """Raise ``RuntimeError`` with the words of all checks that failed, if there are any."""
        if self.failed:
            lines = "\n".join(f"  {c}" for c in self.failed)
            raise RuntimeError(f"{len(self.failed)} of {len(self)} checks of the unfolding failed; do not quote the "
                               f"result before you know why\n{lines}")  # fmt: skip

    def __repr__(self) -> str:
        decided = len(self) - len(self.undecided)
        head = f"{decided - len(self.failed)} of {decided} checks passed"
        order: list[bool | None] = [False, True, None]
        return "\n".join([head, *(f"  {c}" for c in sorted(self.checks, key=lambda c: order.index(c.passed)))])

    __str__ = __repr__


# -- what checks are made of -------------------------------------------------------------------------------------------


def over(difference: Floats, sigma: Floats) -> Floats:
    """Quotient; a bin without uncertainty has to agree, up to rounding."""
    check_finite("unfolded contents", np.atleast_1d(difference).reshape(-1))
    beyond = np.where(np.abs(difference) > 1e-9, np.inf, 0.0)
    return np.divide(difference, sigma, out=beyond, where=np.broadcast_to(sigma > 0, difference.shape))


def largest(pulls: Floats, binning: Binning) -> tuple[float, str]:
    """The largest of pulls (B,), whatever its sign, and where it is."""
    k = int(np.argmax(np.abs(pulls)))
    return float(np.abs(pulls[k])), f"in bin {k} ({binning.label(k)})"


def named(kind: str, name: str) -> str:
    """The name of a check of something that has a name of its own."""
    return f"{kind}, {name}" if name else kind


def left_out(name: str, needs: str) -> Check:
    """A check that was not done."""
    return Check(name, None, np.nan, np.nan, f"not done; it needs {needs}")
