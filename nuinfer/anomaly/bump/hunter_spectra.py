"""What a scan is given: spectra and their expectations, checked once, and the toys that go with them.

Shapes: T toys, *bins along the axes.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ...errors import check_finite
from ...histograms import Contents

__all__: list[str] = []

Floats = NDArray[np.float64]

#: (generator, n) -> expectations (n, *bins) of n toys, by channel where there are several: a draw of the systematics.
Draws = Callable[[np.random.Generator, int], Any]

_CELLS = 1 << 22  # bins x toys at a time: 32 MB of counts


@dataclass(frozen=True, eq=False)
class Spectra:
    """Checked spectra (*bins) of each channel, and the edges of each axis."""

    names: tuple[str, ...]
    observed: tuple[Floats, ...]
    expected: tuple[Floats, ...]
    edges: tuple[Floats, ...]

    @classmethod
    def of(cls, observed: Any, expected: Any, edges: Any) -> Spectra:
        pairs = _channels(observed, expected)
        spectra = {name: _spectrum(name, *pair) for name, pair in pairs.items()}
        (_, (n, _)), *others = spectra.items()
        for name, (own, _) in others:
            n.check_same(_label("observed", name), own)
        at = _edges(n, edges)
        for name, (_, b) in spectra.items():
            _check_expected(_label("expected", name), b.values.reshape(b.shape), at)
        observed, expected = zip(*((n.values.reshape(n.shape), b.values.reshape(b.shape))
                                   for n, b in spectra.values()), strict=True)  # fmt: skip
        return cls(tuple(spectra), observed, expected, at)

    @property
    def bins(self) -> tuple[int, ...]:
        return self.observed[0].shape

    def toys(self, given: Any) -> list[NDArray[Any]]:
        """Toys of a user's own (T, *bins), by channel."""
        found = [np.asarray(each, np.float64) for each in self._by_channel("pseudo_data", given)]
        for name, each in zip(self.names, found, strict=True):
            what = _label("pseudo_data", name)
            if each.shape[1:] != self.bins or not len(each) or len(each) != len(found[0]):
                raise ValueError(f"{what}: expected toys (toys, {', '.join(map(str, self.bins))}), found {each.shape}")
            check_finite(what, each.reshape(-1))
            _check_whole(what, each)
        return [each.astype(np.int64) for each in found]

    def drawn(
        self, count: int, seed: int | None, systematics: Draws | None, sideband: bool
    ) -> Iterator[list[NDArray[Any]]]:
        """Toys (n, *bins) by channel, so many at a time that memory is bounded."""
        if seed is None:
            raise ValueError("toys are drawn at random: expected seed=, found None")
        streams = np.random.default_rng(seed).spawn(len(self.names) + 1)
        size = max(1, _CELLS // (int(np.prod(self.bins)) * len(self.names)))
        for first in range(0, count, size):
            n = min(size, count - first)
            means = self.expected if systematics is None else self._varied(systematics, streams[-1], n)
            yield [
                _multinomial(rng, mean, n, own) if sideband else rng.poisson(mean, (n, *self.bins))
                for rng, mean, own in zip(streams[:-1], means, self.observed, strict=True)
            ]

    def _varied(self, systematics: Draws, rng: np.random.Generator, n: int) -> list[Floats]:
        found = [np.asarray(each, np.float64) for each in self._by_channel("systematics", systematics(rng, n))]
        for name, each in zip(self.names, found, strict=True):
            what = _label("systematics", name)
            if each.shape != (n, *self.bins):
                raise ValueError(f"{what}: expected expectations of shape {(n, *self.bins)}, found {each.shape}")
            check_finite(what, each.reshape(-1))
            if each.min() < 0:
                raise ValueError(f"{what}: expected expectations from 0, found {each.min():g}; vary their logarithm, "
                                 "or draw anew where one is negative")  # fmt: skip
        return found

    def _by_channel(self, what: str, given: Any) -> list[Any]:
        if self.names == ("",):
            return [given]
        if not isinstance(given, Mapping) or set(given) != set(self.names):
            found = sorted(given) if isinstance(given, Mapping) else type(given).__name__
            raise ValueError(f"{what}: expected a mapping of the channels {sorted(self.names)}, found {found}")
        return [given[name] for name in self.names]


def _multinomial(rng: np.random.Generator, mean: Floats, n: int, own: Floats) -> NDArray[Any]:
    """Toys (n, *bins) with the total of ``own`` (*bins), of one mean (*bins) or of each toy's (n, *bins)."""
    flat = mean.reshape(-1, own.size)
    share = flat / flat.sum(1, keepdims=True)
    return rng.multinomial(int(own.sum()), share, size=n).reshape(n, *own.shape)


def _label(what: str, channel: str) -> str:
    return f"{what} of channel {channel!r}" if channel else what


def _channels(observed: Any, expected: Any) -> dict[str, tuple[Any, Any]]:
    maps = isinstance(observed, Mapping), isinstance(expected, Mapping)
    if maps[0] != maps[1]:
        raise TypeError("observed, expected: expected a mapping of channels for both or for none, found one of "
                        f"{type(observed).__name__} and {type(expected).__name__}")  # fmt: skip
    if not maps[0]:
        return {"": (observed, expected)}
    if set(observed) != set(expected) or not observed:
        raise ValueError(f"expected: expected the channels {sorted(observed)}, found {sorted(expected)}")
    return {str(name): (observed[name], expected[name]) for name in observed}


def _spectrum(name: str, observed: Any, expected: Any) -> tuple[Contents, Contents]:
    what = _label("observed", name)
    n, b = Contents.of(what, observed), Contents.of(_label("expected", name), expected)
    b.check_same(what, n)
    if n.variances is not None and not np.allclose(n.variances, n.values):
        raise ValueError(f"{what}: expected counts, found a weighted histogram (variances that are not its contents); "
                         "p-values of a window are Poisson ones")  # fmt: skip
    _check_whole(what, n.values)
    return n, b


def _check_whole(what: str, values: Floats) -> None:
    bad = np.flatnonzero((values < 0) | (values != np.floor(values)))
    if len(bad):
        raise ValueError(f"{what}: expected counts, whole numbers from 0, found {len(bad)} others, first "
                         f"{values.reshape(-1)[bad[0]]:g}; p-values of a window are Poisson ones, so weighted events "
                         "have to be counted, or drawn by weight")  # fmt: skip


def _check_expected(what: str, values: Floats, edges: tuple[Floats, ...]) -> None:
    bad = np.argwhere(values <= 0)
    if len(bad):
        at = " x ".join(f"[{e[i]:g}, {e[i + 1]:g}]" for e, i in zip(edges, bad[0], strict=True))
        raise ValueError(f"{what}: expected something in every bin, found {len(bad)} bins of 0, first bin "
                         f"{', '.join(map(str, bad[0]))}, {at}; an event there would be impossible: merge it with its "
                         "neighbours, leave it out of the range, or state what is expected")  # fmt: skip


def checked_toys(toys: int) -> int:
    """How many toys are wanted."""
    if not isinstance(toys, int | np.integer) or isinstance(toys, bool) or toys < 1:
        raise ValueError(f"toys: expected a whole number from 1, found {toys!r}; toys of your own are pseudo_data=")
    return int(toys)


def _edges(n: Contents, edges: Any) -> tuple[Floats, ...]:
    """The edges of each axis: the histogram's, those given, or the numbers of the bins."""
    if n.axes is not None:
        if edges is not None:
            raise ValueError("edges: expected None, as the histograms have axes of their own")
        for k, axis in enumerate(n.axes):
            if isinstance(axis, tuple):
                raise ValueError(f"observed: expected axes with edges, found categories on axis {k}; make each of them "
                                 "a channel")  # fmt: skip
        given: Sequence[Any] = n.axes
    elif edges is None:
        given = [np.arange(bins + 1.0) for bins in n.shape]
    else:
        given = edges if isinstance(edges, tuple) and np.ndim(edges[0]) else (edges,)
    if len(given) != len(n.shape):
        raise ValueError(f"edges: expected one array an axis, {len(n.shape)}, found {len(given)}")
    return tuple(_rising(k, axis, bins) for k, (axis, bins) in enumerate(zip(given, n.shape, strict=True)))


def _rising(axis: int, given: Any, bins: int) -> Floats:
    what, found = f"edges of axis {axis}", np.asarray(given, np.float64)
    if found.shape == (bins, 2):
        check_finite(what, found)
        apart = np.flatnonzero(found[1:, 0] != found[:-1, 1])
        if len(apart):
            at = apart[0]
            raise ValueError(f"{what}: expected each bin to begin where the one before ends, found "
                             f"[{found[at, 0]:g}, {found[at, 1]:g}] and then [{found[at + 1, 0]:g}, "
                             f"{found[at + 1, 1]:g}]; sort the bins, and leave no gaps and overlaps")  # fmt: skip
        found = np.append(found[:, 0], found[-1, 1])
    if found.shape != (bins + 1,):
        raise ValueError(f"{what}: expected {bins + 1} edges of {bins} bins, found shape {found.shape}")
    check_finite(what, found)
    falls = np.flatnonzero(np.diff(found) <= 0)
    if len(falls):
        raise ValueError(f"{what}: expected rising numbers, found {found[falls[0]]:g} and then "
                         f"{found[falls[0] + 1]:g}; sort the bins together with their contents")  # fmt: skip
    return found
