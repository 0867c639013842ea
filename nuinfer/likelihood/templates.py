r"""The likelihood of histograms: templates of processes, with norm, shape and finite-simulation systematics.

The content expected in a bin b of a channel is a sum over processes j,

.. math::
    \mu_b = \sum_j f_j(\theta) \prod_k G_{jk}(\alpha_k) \prod \gamma_{jb}\,
            \Big[ n_{jb} + \sum_k \Delta_{jkb}(\alpha_k) \Big],

with coefficients f as those of a `nuinfer.likelihood.Process`, norms G and shapes Delta that interpolate between -1, 0
and +1 sigma, and factors gamma for the statistics of the templates.  This is HistFactory's model, whose defaults are
the defaults here: code 4 for norms, code 4p for shapes, one gamma per bin with a normal constraint.

Contents n with their variances (sums of squared weights) come as histograms or arrays, or from weighted events.

Sources: Cranmer, Lewis, Moneta, Shibata, Verkerke, HistFactory, CERN-OPEN-2012-016 (2012); Heinrich, Feickert, Stark,
Cranmer, pyhf, JOSS 6 (2021) 2823; Barlow, Beeston, Comput. Phys. Commun. 77 (1993) 219.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ..errors import closest
from ..histograms import Contents
from .binned import negative_bin
from .constraints import Constraint
from .costs import Coefficient, DifferentiableCost, Limits, checked_limits, named
from .expectation import Expectation, NormCode, Norms, ShapeCode, Shapes, deviance, mean
from .gammas import LIMITS, Group, NormalFactors, PoissonFactors, Statistics, grouped, rows_of
from .samples import Observable, ProcessSample, Template

__all__ = ["BinnedCost", "BinnedMixture"]

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]


class BinnedMixture:
    """The model of one or more channels of histograms; called with data it is a cost for iminuit.

    Parameters
    ----------
    channels:
        By name, the templates of each channel by process.  Parameters of one name are one parameter.
    statistics:
        Of the templates that have a variance.  "lite": one factor ``staterror_CHANNEL[b]`` per bin, with a normal
        constraint; "full": one ``gamma_CHANNEL_PROCESS[b]`` per bin and process, with a Poisson constraint; "none".
    norm_interpolation:
        "code4" (HistFactory's), "code1" (exponential, with a kink at 0) or "log" (`nuinfer.likelihood.interpolation`).
    shape_interpolation:
        "code4p" (HistFactory's) or "code0" (linear, with a kink at 0).
    limits:
        (lower, upper) of parameters, None for none.

    Notes
    -----
    The constraints of the factors that belong to templates are part of the cost, since they say how good these
    templates are; those of the nuisances are added, once for all costs that share them:
    ``model(data) + Normal("jes")``.  A second cost of the same templates would count the factors' constraints twice:
    put both channels into one model, or use ``statistics="none"`` there.

    Examples
    --------
    >>> model = BinnedMixture({"SR": {
    ...     "S": Template(contents=[2.0, 8.0], coefficient="mu"),
    ...     "B": Template(contents=[50.0, 20.0], variance=[4.0, 1.0], norms={"rate": 0.1})}})
    >>> model.names
    ('mu', 'rate', 'staterror_SR[0]', 'staterror_SR[1]')
    >>> model.expected(mu=1, rate=0)["SR"].tolist()
    [52.0, 28.0]
    >>> cost = model({"SR": [55, 31]})
    >>> round(cost(1.0, 0.0, 1.0, 1.0), 4)
    0.4804
    >>> model.asimov(mu=1, rate=0)(1.0, 0.0, 1.0, 1.0)
    0.0

    Raises
    ------
    ValueError, KeyError
        for no channels, templates of other bins in one channel, a name that is used for two things, an unknown option
        or limits of unknown parameters.
    """

    def __init__(
        self,
        channels: Mapping[str, Mapping[str, Template]],
        *,
        statistics: Statistics = "lite",
        norm_interpolation: NormCode = "code4",
        shape_interpolation: ShapeCode = "code4p",
        limits: Mapping[str, Limits] | None = None,
    ) -> None:
        _check_channels(channels)
        for option, value, allowed in (
            ("statistics", statistics, ("lite", "full", "none")),
            ("norm_interpolation", norm_interpolation, ("code4", "code1", "log")),
            ("shape_interpolation", shape_interpolation, ("code4p", "code0")),
        ):
            if value not in allowed:
                raise ValueError(f"BinnedMixture: expected {option} to be one of {', '.join(allowed)}, found {value!r}")
        self.channels = {name: dict(templates) for name, templates in channels.items()}
        self.statistics: Statistics = statistics
        self.norm_interpolation: NormCode = norm_interpolation
        self.shape_interpolation: ShapeCode = shape_interpolation
        self.rows = rows_of(self.channels)
        self.groups = [group for group in grouped(self.rows, statistics) if group.names]
        templates = [row.template for row in self.rows]
        self.interest = _unique(name for t in templates for name in _coefficient(t).names)
        self.nuisances = _unique(name for t in templates for name in (*t.norms, *t.varied))
        self.gammas = _names(self.groups)
        _check_clashes(self)
        self.limits = checked_limits(limits, self.names)
        self._prepare()

    @property
    def names(self) -> tuple[str, ...]:
        """The parameters: those of the coefficients, the nuisances, then the factors of bins."""
        return self.interest + self.nuisances + self.gammas

    @property
    def constraints(self) -> tuple[Constraint, ...]:
        """What the cost holds on the factors of bins, with the outcomes of the simulation itself."""
        normal = [group for group in self.groups if group.sigma is not None]
        poisson = [group for group in self.groups if group.scale is not None]
        found: list[Constraint] = []
        if normal:
            found.append(NormalFactors(_names(normal), sigma=np.concatenate([np.asarray(g.sigma) for g in normal])))
        if poisson:
            found.append(PoissonFactors(_names(poisson), scale=np.concatenate([np.asarray(g.scale) for g in poisson])))
        return tuple(found)

    @classmethod
    def from_events(
        cls,
        samples: Mapping[str, ProcessSample],
        observable: Observable,
        bins: Any,
        *,
        channel: str = "events",
        statistics: Statistics = "lite",
        norm_interpolation: NormCode = "code4",
        shape_interpolation: ShapeCode = "code4p",
        limits: Mapping[str, Limits] | None = None,
    ) -> BinnedMixture:
        """One channel of templates filled from weighted events.

        Parameters
        ----------
        observable, bins:
            As for `histogram`, which also fills the data.
        channel:
            Its name.  Several channels are one model by ``BinnedMixture({**one.channels, **other.channels})``.
        """
        templates = {name: sample.template(name, observable, bins) for name, sample in samples.items()}
        return cls(
            {channel: templates}, statistics=statistics, norm_interpolation=norm_interpolation,
            shape_interpolation=shape_interpolation, limits=limits,
        )  # fmt: skip

    def __call__(self, data: Any) -> BinnedCost:
        """-2 log L of the contents of every channel, by name; of one channel also without its name."""
        return BinnedCost(self, self._counts(data), self.constraints)

    def asimov(self, **values: float) -> BinnedCost:
        """The cost of the Asimov data at these parameters; factors of bins are 1 where they are not given."""
        self.theta(values)  # refuses names that are not its own
        return self._empty().asimov(values)

    def sample(self, rng: np.random.Generator, /, **values: float) -> BinnedCost:
        """The cost of a pseudo-experiment: counts, and the outcomes that constrain the factors, drawn."""
        self.theta(values)
        return self._empty().sample(values, rng)

    def expected(self, **values: float) -> dict[str, Floats]:
        """The contents expected in each channel; factors of bins are 1 where they are not given."""
        with torch.no_grad():
            return self.split(self.mean(self.theta(values)).numpy())

    def contents(self, **values: float) -> dict[str, dict[str, Floats]]:
        """What each process puts into the bins of each channel: the stack of a figure."""
        parts = [part.numpy() for part in self._divided(self.theta(values))]
        each = self._expectation.forward(*parts).cells
        found: dict[str, dict[str, Floats]] = {channel: {} for channel in self.channels}
        for row in self.rows:
            found[row.channel][row.process] = each[row.cells].reshape(row.template.nominal.shape).copy()
        return found

    # -- the parts -----------------------------------------------------------------------------------------------------

    def theta(self, values: Mapping[str, float]) -> Tensor:
        """The vector (T,) of named parameters; factors of bins are 1 where they are not given."""
        for name in values:
            if name not in self.names:
                raise KeyError(f"no parameter {name!r}; {closest(name, self.names)}")
        return torch.tensor(self.filled(values), dtype=torch.float64)

    def filled(self, values: Mapping[str, float]) -> list[float]:
        """The values in order, those of other costs left out, factors of bins 1 where they are not given."""
        return [float(values.get(n, 1.0)) if n in self._gamma_set else named(values, n) for n in self.names]

    def mean(self, theta: Tensor) -> Tensor:
        """Contents of all bins (B,), the channels one after the other, at theta (T,); differentiable once."""
        return mean(self._expectation, *self._divided(theta))

    def _divided(self, theta: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """The coefficient of each template (R,), the nuisances and the factors of bins."""
        start, end = len(self.interest), len(self.interest) + len(self.nuisances)
        by_name = dict(zip(self.interest, theta[:start].unbind(0), strict=True))
        scale = torch.stack([one(by_name) for one in self._coefficients])[self._coefficient_of]
        return scale, theta[start:end], theta[end:]

    def split(self, values: Floats) -> dict[str, Floats]:
        """Contents of all bins (B,) as one array per channel, in the shape of its histograms."""
        return {
            name: np.array(values[self._starts[name]]).reshape(_first(templates).nominal.shape)
            for name, templates in self.channels.items()
        }

    def _prepare(self) -> None:
        """The constant arrays."""
        self._gamma_set = frozenset(self.gammas)
        sizes = {name: len(_first(templates).nominal.values) for name, templates in self.channels.items()}
        ends = np.cumsum(list(sizes.values())).tolist()
        self._starts = {name: slice(end - size, end) for (name, size), end in zip(sizes.items(), ends, strict=True)}
        self._bins = int(ends[-1])
        by_source = {_coefficient(row.template).source: _coefficient(row.template) for row in self.rows}
        self._coefficients = list(by_source.values())
        order = {source: k for k, source in enumerate(by_source)}
        self._coefficient_of = torch.tensor([order[_coefficient(row.template).source] for row in self.rows])
        self._expectation = Expectation(
            nominal=np.concatenate([row.template.nominal.values for row in self.rows]),
            shapes=self._all_shapes(),
            norms=self._all_norms(),
            layers=tuple(self._factor_layers()),
            first=np.array([row.cells.start for row in self.rows]),
            row=np.repeat(np.arange(len(self.rows)), [sizes[row.channel] for row in self.rows]),
            bin=np.concatenate([np.arange(self._bins)[self._starts[row.channel]] for row in self.rows]),
            bins=self._bins,
        )

    def _all_shapes(self) -> Shapes:
        used = [name for name in self.nuisances if any(name in row.template.varied for row in self.rows)]
        ends = np.zeros((2, self.rows[-1].cells.stop, len(used)))
        for row in self.rows:
            for name, pair in row.template.varied.items():
                for sign in (0, 1):
                    ends[sign, row.cells, used.index(name)] = pair[sign].values - row.template.nominal.values
        return Shapes.of(ends[0], ends[1], self._places(used), self.shape_interpolation)

    def _all_norms(self) -> Norms:
        used = [name for name in self.nuisances if any(name in row.template.norms for row in self.rows)]
        logs = np.zeros((2, len(self.rows), len(used)))
        for k, row in enumerate(self.rows):
            for name, pair in row.template.norms.items():
                logs[:, k, used.index(name)] = np.log(pair)
        return Norms.of(logs[0], logs[1], self._places(used), self.norm_interpolation)

    def _places(self, nuisances: Sequence[str]) -> Ints:
        return np.array([self.nuisances.index(name) for name in nuisances], np.int64)

    def _factor_layers(self) -> list[Ints]:
        """For every cell the places of its factors among the gammas, a layer (C,) each; their number for none."""
        none, start = len(self.gammas), 0
        layers: list[Ints] = []
        for group in self.groups:
            for place, which in group.places.items():
                cells = self.rows[place].cells
                layer = next((one for one in layers if (one[cells] == none).all()), None)
                if layer is None:
                    layer = np.full(self.rows[-1].cells.stop, none, np.int64)
                    layers.append(layer)
                layer[cells] = np.where(which >= 0, start + which, none)
            start += len(group.names)
        return layers

    def _empty(self) -> BinnedCost:
        return BinnedCost(self, np.zeros(self._bins), self.constraints)

    def _counts(self, data: Any) -> Floats:
        """Contents of all bins (B,) of the data, checked against the templates."""
        if not isinstance(data, Mapping):
            if len(self.channels) > 1:
                raise ValueError(f"data: expected contents by channel, {', '.join(self.channels)}, found "
                                 f"{type(data).__name__}")  # fmt: skip
            data = {next(iter(self.channels)): data}
        for name in (*data, *self.channels):
            if name not in self.channels or name not in data:
                raise KeyError(f"data: expected the channels {', '.join(self.channels)}, found {', '.join(data)}")
        found = {name: Contents.of(f"data of {name}", data[name]) for name in self.channels}
        for name, contents in found.items():
            for template in self.channels[name].values():
                template.nominal.check_same(f"data of {name}", contents)
        return np.concatenate([contents.values for contents in found.values()])

    def __repr__(self) -> str:
        shown = "; ".join(f"{name}: {', '.join(templates)}" for name, templates in self.channels.items())
        more = f" and {len(self.gammas)} factors of bins" if self.gammas else ""
        names = ", ".join(self.interest + self.nuisances)
        return f"BinnedMixture({shown}; {self._bins} bins; parameters {names}{more})"


def _unique(names: Iterator[str]) -> tuple[str, ...]:
    return tuple(dict.fromkeys(names))


def _names(groups: Sequence[Group]) -> tuple[str, ...]:
    return tuple(name for group in groups for name in group.names)


def _first(templates: Mapping[str, Template]) -> Template:
    return next(iter(templates.values()))


def _coefficient(template: Template) -> Coefficient:
    found = template.coefficient
    return found if isinstance(found, Coefficient) else Coefficient(found)


def _check_channels(channels: Mapping[str, Mapping[str, Template]]) -> None:
    if not channels or not all(channels.values()):
        raise ValueError("BinnedMixture: expected at least one channel with at least one template, as in "
                         "{'SR': {'S': Template(...)}}")  # fmt: skip
    for name, templates in channels.items():
        for process, template in templates.items():
            if not isinstance(template, Template):
                raise TypeError(f"channel {name!r}, process {process!r}: expected a Template, found "
                                f"{type(template).__name__}; templates are given by channel and process")  # fmt: skip
            _first(templates).nominal.check_same(f"channel {name!r}, process {process!r}", template.nominal)


def _check_clashes(model: BinnedMixture) -> None:
    """A name is one thing only: parameter of a coefficient, nuisance, or factor of a bin."""
    kinds = {
        "a parameter of a coefficient": model.interest,
        "a nuisance": model.nuisances,
        "a factor of a bin": model.gammas,
    }
    seen: dict[str, str] = {}
    for kind, names in kinds.items():
        for name in names:
            if name in seen:
                raise ValueError(f"BinnedMixture: {name!r} is {seen[name]} and {kind} of something else as well; give "
                                 f"one of them another name")  # fmt: skip
            seen[name] = kind


class BinnedCost(DifferentiableCost):
    """-2 log L of counts under a `BinnedMixture`, with the constraints of the factors of bins; made by calling it."""

    def __init__(self, mixture: BinnedMixture, counts: Floats, constraints: Sequence[Constraint]) -> None:
        default = dict.fromkeys(mixture.gammas, LIMITS)
        constrained = {name for constraint in constraints for name in constraint.names}
        limits = {**{n: limits for n, limits in default.items() if n in constrained}, **mixture.limits}
        super().__init__({name: limits.get(name) for name in mixture.names})
        self.mixture, self.counts, self.constraints = mixture, counts, tuple(constraints)
        order = {name: k for k, name in enumerate(mixture.names)}
        self._at = [torch.tensor([order[name] for name in c.names]) for c in self.constraints]

    def tensor(self, theta: Tensor) -> Tensor:
        """The Poisson terms of all bins, and the constraints' terms.

        Raises
        ------
        NegativeDensity
            naming the bin and the parameters, where the content expected is not positive.
        """
        terms = [c.tensor(theta[at]) for c, at in zip(self.constraints, self._at, strict=True)]

        def check(mean: Floats) -> None:
            self._check(mean, theta)

        parts = self.mixture._divided(theta)
        return sum(terms, start=deviance(self.mixture._expectation, *parts, self.counts, check))

    def _check(self, mean: Floats, theta: Tensor) -> None:
        """Raise for the lowest content (B,) where it is not positive (NaN included), or below 0 in an empty bin."""
        good = (mean > 0) | ((mean == 0) & (self.counts == 0))
        if not good.all():
            worst = int(np.argmin(np.where(good, np.inf, np.nan_to_num(mean, nan=-np.inf))))
            what = f"the content of {self._place(worst)}"
            raise negative_bin(what, torch.from_numpy(mean), torch.from_numpy(good), self.names, theta)

    @property
    def data(self) -> dict[str, Floats]:
        """The counts by channel."""
        return self.mixture.split(self.counts)

    def with_data(self, data: Any) -> BinnedCost:
        """The same with other counts."""
        return self._with(self.mixture._counts(data), self.constraints)

    def asimov(self, values: Mapping[str, float]) -> BinnedCost:
        """The cost of what is expected at these parameters, outcomes of the constraints included."""
        at = self._filled(values)
        return self._with(self._mean(at), [c.asimov(at) for c in self.constraints])

    def sample(self, values: Mapping[str, float], rng: np.random.Generator) -> BinnedCost:
        """The cost of a pseudo-experiment: counts and outcomes of the constraints drawn."""
        at = self._filled(values)
        counts = rng.poisson(self._mean(at)).astype(np.float64)
        return self._with(counts, [c.sample(at, rng) for c in self.constraints])

    def _with(self, counts: Floats, constraints: Sequence[Constraint]) -> BinnedCost:
        """The same with other outcomes; the rest stays, since toys are many."""
        found = copy.copy(self)
        found.counts, found.constraints = counts, tuple(constraints)
        return found

    def _filled(self, values: Mapping[str, float]) -> dict[str, float]:
        return dict(zip(self.names, self.mixture.filled(values), strict=True))

    def _mean(self, values: Mapping[str, float]) -> Floats:
        with torch.no_grad():
            theta = self.mixture.theta(values)
            mean = self.mixture.mean(theta)
            if not bool((mean >= 0).all()):
                raise negative_bin("the content", mean, mean >= 0, self.names, theta)
        return np.array(mean.numpy())

    def _place(self, place: int) -> str:
        """A bin by its channel."""
        for name, where in self.mixture._starts.items():
            if place < where.stop:
                return f"channel {name}, its bin {place - where.start},"
        raise IndexError(place)

    def _ndata(self) -> int:
        return len(self.counts) + sum(int(c.ndata) for c in self.constraints)

    def __repr__(self) -> str:
        m = self.mixture
        more = f" and {len(m.gammas)} factors of bins" if m.gammas else ""
        return f"BinnedCost({len(self.counts)} bins; {', '.join(m.interest + m.nuisances)}{more})"
