"""The functions psi of the truth and phi of the reco, and tables of them."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from ....errors import check_finite
from ....events import Events
from ....io.expressions import Expression, filled

__all__ = ["Basis", "Function", "Functions", "Table", "chunks", "squares"]

Floats = NDArray[np.float64]
Keys = NDArray[np.int64]

Function = str | Callable[[Events], ArrayLike]
Functions = Sequence[str] | Mapping[str, Function]

_NUMBERS = 1 << 21  # float64 in one chunk's temporaries


@dataclass(frozen=True, eq=False)
class Basis:
    """K functions of events: 1, and monomials of D standardised columns, or of expressions and callables as they are.

    Attributes
    ----------
    names:
        (K,): "1", "p", "p^2", "p*cos", ...
    sources:
        (D,) columns, expressions, or callables by their names.
    shift, scale:
        (D,): a source z enters as (z - shift) / scale, the simulation's mean and standard deviation under abs(weight).
    terms:
        (K,) tuples of the numbers of the sources that are multiplied.
    functions:
        The callables by name.
    """

    names: tuple[str, ...]
    sources: tuple[str, ...]
    shift: Floats
    scale: Floats
    terms: tuple[tuple[int, ...], ...]
    functions: Mapping[str, Function]

    @classmethod
    def of(cls, what: str, given: Functions, degree: int, events: Events) -> Basis:
        """Of column names, polynomials up to ``degree``; of a mapping, its functions.  Standardised by ``events``."""
        if isinstance(given, str) or not len(given):
            raise ValueError(f"{what}: expected column names, or functions by name, found {given!r}")
        if not isinstance(degree, int | np.integer) or degree < 1:
            raise ValueError(f"{what}: expected a degree of at least 1, found {degree!r}")
        if twice := sorted({name for name in given if list(given).count(name) > 1}):
            raise ValueError(f"{what}: expected names of their own, found {twice[0]!r} twice; name each column once")
        functions = dict(given) if isinstance(given, Mapping) else {name: name for name in given}
        highest = 1 if isinstance(given, Mapping) else degree
        sources = tuple(functions)
        counts = range(highest + 1)
        terms = tuple(t for n in counts for t in itertools.combinations_with_replacement(range(len(sources)), n))
        raw = cls(tuple(_term_name(sources, t) for t in terms), sources, np.zeros(len(sources)),
                  np.ones(len(sources)), terms, functions)  # fmt: skip
        return raw._standardised(what, events)

    def __len__(self) -> int:
        return len(self.terms)

    def _standardised(self, what: str, events: Events) -> Basis:
        size = np.abs(events.weight) / np.abs(events.weight).sum()
        shift, scale = np.zeros(len(self.sources)), np.ones(len(self.sources))
        for k, name in enumerate(self.sources):
            values = self._source(name, events)
            shift[k] = values[0] + size @ (values - values[0])  # precise where values vary little beside their size
            scale[k] = np.sqrt(size @ (values - shift[k]) ** 2)
            if not scale[k] > 0:
                raise ValueError(f"{what} {name!r}: expected values that vary in the simulation, found {values[0]:g} "
                                 f"throughout; a constant is among the functions already, leave it out")  # fmt: skip
        return replace(self, shift=shift, scale=scale)

    def _source(self, name: str, events: Events) -> Floats:
        """The values (N,) of a source; ``ValueError`` where they are not finite."""
        function = self.functions.get(name)
        if function is None:
            raise ValueError(f"function {name!r}: expected the callable, found a result that was loaded without; give "
                             f"it to load(..., functions={{{name!r}: ...}})")  # fmt: skip
        if isinstance(function, str):
            found = filled(Expression.parse(f"function {name!r}", function, events.__contains__)(events.flat),
                           len(events))  # fmt: skip
        else:
            found = function(events)
        values = np.asarray(found, np.float64)
        if values.shape != (len(events),):
            raise ValueError(f"function {name!r}: expected one number per event ({len(events)},), found shape "
                             f"{values.shape}")  # fmt: skip
        check_finite(f"function {name!r}" if name not in events else f"column {name!r}", values)
        return values

    def table(self, events: Events) -> Table:
        """The functions of events (N), to be worked out in chunks."""
        base = np.empty((len(self.sources), len(events)), np.float32)
        for k, name in enumerate(self.sources):
            base[k] = (self._source(name, events) - self.shift[k]) / self.scale[k]
        return Table(self.terms, base)

    def to_json(self) -> dict[str, Any]:
        """The form in which it is saved; callables are left out."""
        texts = {name: f for name, f in self.functions.items() if isinstance(f, str)}
        return {"names": self.names, "sources": self.sources, "terms": self.terms, "functions": texts}

    @classmethod
    def of_saved(
        cls, spec: Mapping[str, Any], shift: Floats, scale: Floats, functions: Mapping[str, Function]
    ) -> Basis:
        """The inverse of `to_json`, with the callables by name."""
        known = {name: f for name, f in functions.items() if name in spec["sources"]}
        terms = tuple(tuple(term) for term in spec["terms"])
        return cls(tuple(spec["names"]), tuple(spec["sources"]), shift, scale, terms, {**spec["functions"], **known})


def _term_name(sources: Sequence[str], term: tuple[int, ...]) -> str:
    powers = [(sources[k], len(list(same))) for k, same in itertools.groupby(term)]
    return "*".join(name if n == 1 else f"{name}^{n}" for name, n in powers) or "1"


@dataclass(frozen=True, eq=False)
class Table:
    """Functions (K, N) as their standardised sources (D, N), in single precision, and the terms to multiply."""

    terms: tuple[tuple[int, ...], ...]
    base: NDArray[np.float32]

    def __len__(self) -> int:
        return int(self.base.shape[1])

    @cached_property
    def _parents(self) -> tuple[tuple[int, int], ...]:
        """For each term but the first, the term that it multiplies by which source."""
        place = {term: k for k, term in enumerate(self.terms)}
        return tuple((place[term[:-1]], term[-1]) for term in self.terms[1:])

    def block(self, rows: slice | Keys) -> Floats:
        """(K, n) of some rows."""
        base = self.base[:, rows]
        found = np.empty((len(self.terms), base.shape[1]))
        found[0] = 1.0
        for k, (parent, source) in enumerate(self._parents, 1):
            np.multiply(found[parent], base[source], out=found[k])
        return found

    def take(self, rows: Keys) -> Table:
        """Of some rows."""
        return Table(self.terms, self.base[:, rows])

    def sums(self, weight: Floats) -> Floats:
        """Sums (..., K) of weights (..., N) times the functions."""
        found = np.zeros((*weight.shape[:-1], len(self.terms)))
        for rows in chunks(len(self), len(self.terms) + weight.size // max(len(self), 1)):
            found += weight[..., rows] @ self.block(rows).T
        return found

    def exponent(self, coefficients: Floats) -> Floats:
        """sum_a lambda_a psi_a (..., N) of coefficients (..., K)."""
        found = np.empty((*coefficients.shape[:-1], len(self)))
        for rows in chunks(len(self), len(self.terms)):
            found[..., rows] = coefficients @ self.block(rows)
        return found


def chunks(count: int, width: int) -> Iterator[slice]:
    """Slices of 0 .. count with about `_NUMBERS` numbers, at ``width`` a row."""
    step = max(1024, _NUMBERS // max(width, 1))
    return (slice(start, min(start + step, count)) for start in range(0, count, step))


def squares(contribution: Callable[[slice | Keys], Floats], width: int, key: Keys) -> Floats:
    """The covariance (K, K) of the sum of contributions (K, n): sum of squares over events, copies added up first."""
    order = np.argsort(key, kind="stable")
    first = np.flatnonzero(np.diff(key[order], prepend=key[order[:1]] - 1)) if len(key) else order
    total = np.zeros((width, width))
    if len(first) == len(key):
        for rows in chunks(len(key), 2 * width):
            part = contribution(rows)
            total += part @ part.T
        return total
    about = [rows.start for rows in chunks(len(key), 2 * width)]
    cuts = first[np.searchsorted(first, about, side="right") - 1]  # between two keys
    for start, stop in itertools.pairwise(np.unique([*cuts, len(key)])):
        starts = first[np.searchsorted(first, start) : np.searchsorted(first, stop)]
        part = np.add.reduceat(contribution(order[start:stop]), starts - start, axis=1)
        total += part @ part.T
    return total
