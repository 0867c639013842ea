r"""Constraints of the factors gamma that a template's finite simulation puts on its bins, many at once.

Beeston and Barlow: the true content of a bin is gamma times the simulated one, which is itself a measurement.

.. math::
    \text{full, one per bin and process:}\quad & 2\,[\tau\gamma - m + m \log (m/\tau\gamma)], \qquad
        \tau = n^2 / \sum w^2 \\
    \text{"lite", one per bin:}\quad & \Big(\frac{m - \gamma}{\sigma}\Big)^2, \qquad
        \sigma^2 = \sum_j \sum w_j^2 \Big/ \Big(\sum_j n_j\Big)^2

with tau the number of unweighted events that know as much, and m the outcome (tau, or 1).

Sources: Barlow, Beeston, Comput. Phys. Commun. 77 (1993) 219; Conway, arXiv 1103.0354; HistFactory, CERN-OPEN-2012-016.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Literal, NamedTuple

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from torch import Tensor

from .constraints import Constraint
from .costs import NegativeDensity
from .deviance import poisson_deviance
from .samples import Template

__all__ = ["Group", "NormalFactors", "PoissonFactors", "Row", "Statistics", "grouped", "rows_of"]

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]
Statistics = Literal["lite", "full", "none"]
LIMITS = (1e-10, 10.0)  # as in pyhf, so that both look for a minimum in the same place


class NormalFactors(Constraint):
    """Independent normal constraints of several factors, each with its deviation sigma (T,); ``observed`` is 1 each.

    >>> float(NormalFactors(["g[0]", "g[1]"], sigma=[0.1, 0.2])(1.1, 1.0))  # doctest: +ELLIPSIS
    1.0...
    """

    def __init__(self, names: Sequence[str], observed: ArrayLike | None = None, *, sigma: ArrayLike) -> None:
        super().__init__(names, np.ones(len(names)) if observed is None else observed, LIMITS)
        self.sigma = _positive("NormalFactors", names, "sigma", sigma)

    def tensor(self, theta: Tensor) -> Tensor:
        """sum ((m - gamma) / sigma)^2."""
        return torch.square((theta - torch.from_numpy(self.observed)) / torch.from_numpy(self.sigma)).sum()

    @property
    def width(self) -> dict[str, float]:
        """Each sigma."""
        return dict(zip(self.names, self.sigma.tolist(), strict=True))

    @property
    def centre(self) -> dict[str, float]:
        """The outcomes."""
        return dict(zip(self.names, self.observed.tolist(), strict=True))

    def with_observed(self, observed: ArrayLike) -> NormalFactors:
        """The same with other outcomes."""
        return NormalFactors(self.names, observed, sigma=self.sigma)

    def expected(self, values: Mapping[str, float]) -> Floats:
        """The factors themselves."""
        return self._at(values)

    def drawn(self, values: Mapping[str, float], rng: np.random.Generator) -> Floats:
        """N(gamma, sigma)."""
        return rng.normal(self._at(values), self.sigma)


class PoissonFactors(Constraint):
    """Independent Poisson constraints of several factors: counts ``observed`` of expectation ``scale`` x gamma, (T,).

    Without ``observed`` the counts are the scales.
    """

    def __init__(self, names: Sequence[str], observed: ArrayLike | None = None, *, scale: ArrayLike) -> None:
        super().__init__(names, np.asarray(scale, np.float64) if observed is None else observed, LIMITS)
        self.scale = _positive("PoissonFactors", names, "scale", scale)
        if (self.observed < 0).any():
            raise ValueError(f"PoissonFactors: expected counts from 0, found {self.observed.min():g} for "
                             f"{names[int(self.observed.argmin())]}")  # fmt: skip

    def tensor(self, theta: Tensor) -> Tensor:
        """2 sum [tau gamma - m + m log(m / (tau gamma))]."""
        bad = torch.nonzero(~(theta.detach() > 0))[:, 0]
        if len(bad):
            first = int(bad[0])
            raise NegativeDensity(f"factor {self.names[first]}: expected a positive factor, found "
                                  f"{float(theta.detach()[first]):.6g}; give it a lower limit above 0")  # fmt: skip
        return poisson_deviance(theta * torch.from_numpy(self.scale), torch.from_numpy(self.observed))

    @property
    def width(self) -> dict[str, float]:
        """sqrt(m) / tau, of one count where none was seen."""
        found = np.sqrt(np.maximum(self.observed, 1.0)) / self.scale
        return dict(zip(self.names, found.tolist(), strict=True))

    @property
    def centre(self) -> dict[str, float]:
        """m / tau."""
        return dict(zip(self.names, (self.observed / self.scale).tolist(), strict=True))

    def with_observed(self, observed: ArrayLike) -> PoissonFactors:
        """The same with other outcomes."""
        return PoissonFactors(self.names, observed, scale=self.scale)

    def expected(self, values: Mapping[str, float]) -> Floats:
        """tau gamma."""
        return self.scale * self._at(values)

    def drawn(self, values: Mapping[str, float], rng: np.random.Generator) -> Floats:
        """Poisson numbers of mean tau gamma."""
        return rng.poisson(self.scale * self._at(values)).astype(np.float64)


def _positive(kind: str, names: Sequence[str], what: str, given: ArrayLike) -> Floats:
    found = np.array(given, np.float64).reshape(-1)
    if len(found) != len(names):
        raise ValueError(f"{kind}: expected {len(names)} values of {what}, one per factor, found {len(found)}")
    if not (np.isfinite(found).all() and (found > 0).all()):
        bad = int(np.flatnonzero(~(np.isfinite(found) & (found > 0)))[0])
        raise ValueError(f"{kind}: expected a positive {what}, found {found[bad]:g} for {names[bad]}")
    return found


# -- which template has which ------------------------------------------------------------------------------------------


class Row(NamedTuple):
    """One template of the model, and the cells that are its bins."""

    channel: str
    process: str
    template: Template
    cells: slice


class Group(NamedTuple):
    """Factors of bins: their names, how they are constrained, and by row which bin has which (-1 for none).

    ``sigma`` of normal constraints, ``scale`` of Poisson ones, neither of free factors.
    """

    names: tuple[str, ...]
    places: dict[int, Ints]
    sigma: Floats | None = None
    scale: Floats | None = None


def rows_of(channels: Mapping[str, Mapping[str, Template]]) -> list[Row]:
    """All templates, with the cells that are theirs."""
    found, start = [], 0
    for channel, templates in channels.items():
        for process, template in templates.items():
            size = len(template.nominal.values)
            found.append(Row(channel, process, template, slice(start, start + size)))
            start += size
    return found


def _named_bins(name: str, used: NDArray[np.bool_]) -> tuple[tuple[str, ...], Ints]:
    """Names of the factors of the bins that have one, and for each bin (B,) which, or -1."""
    places = np.where(used, np.cumsum(used) - 1, -1)
    return tuple(f"{name}[{b}]" for b in np.flatnonzero(used)), places


def _shared_group(name: str, rows: Mapping[int, Row]) -> Group:
    """One factor per bin of all these templates together: Barlow-Beeston "lite"."""
    channels = {row.channel for row in rows.values()}
    if len(channels) > 1:
        raise ValueError(f"gammas {name!r}: expected templates of one channel, found {', '.join(sorted(channels))}; "
                         f"give the factors of each channel a name of their own")  # fmt: skip
    total = np.sum([row.template.nominal.values for row in rows.values()], 0)
    variance = np.sum([np.asarray(row.template.variance) for row in rows.values()], 0)
    used = (total > 0) & (variance > 0)
    names, places = _named_bins(name, used)
    return Group(names, dict.fromkeys(rows, places), sigma=np.sqrt(variance[used]) / total[used])


def _own_group(name: str, place: int, content: Floats, sigma: Floats) -> Group:
    """One factor per bin of one template, with a Poisson constraint."""
    used = (content > 0) & (sigma > 0)
    names, places = _named_bins(name, used)
    return Group(names, {place: places}, scale=(content[used] / sigma[used]) ** 2)


def grouped(rows: Sequence[Row], statistics: Statistics) -> Iterator[Group]:
    """All factors of bins, in the order of their parameters."""
    numbered = dict(enumerate(rows))
    counted = {k: row for k, row in numbered.items() if row.template.variance is not None}
    if statistics == "lite":
        label = {k: row.template.gammas or f"staterror_{row.channel}" for k, row in counted.items()}
        for name in dict.fromkeys(label.values()):
            yield _shared_group(name, {k: row for k, row in counted.items() if label[k] == name})
    if statistics == "full":
        for k, row in counted.items():
            sigma = np.sqrt(np.asarray(row.template.variance))
            yield _own_group(f"gamma_{row.channel}_{row.process}", k, row.template.nominal.values, sigma)
    for k, row in numbered.items():
        for name, given in row.template.uncorrelated.items():
            yield _own_group(name, k, row.template.nominal.values, np.asarray(given))
    for name in dict.fromkeys(name for row in rows for name in row.template.free):
        yield _free_group(name, {k: row for k, row in numbered.items() if name in row.template.free})


def _free_group(name: str, rows: Mapping[int, Row]) -> Group:
    sizes = {len(row.template.nominal.values) for row in rows.values()}
    if len(sizes) > 1:
        raise ValueError(f"free factors {name!r}: expected channels of one number of bins, found {sorted(sizes)}")
    names, places = _named_bins(name, np.ones(sizes.pop(), bool))
    return Group(names, dict.fromkeys(rows, places))
