r"""What a model of histograms is made of: the template of a process, from bin contents or from weighted events.

A template is the content n (B,) of the bins of one channel, the variance of that content, and how both respond to the
parameters; see `nuinfer.likelihood.templates` for the formula.  Filled from events,

.. math:: n_b = \sum_{i \in b} w_i, \qquad \text{variance}_b = \sum_{i \in b} w_i^2 .
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import ArrayLike

from ..events import Events, positive_total
from ..histograms import Contents, variances
from .costs import Coefficient
from .mixture import factors

if TYPE_CHECKING:
    import hist

__all__ = ["Observable", "ProcessSample", "Template", "histogram"]

Observable = str | Sequence[str] | Callable[[Events], ArrayLike]


@dataclass(frozen=True, eq=False, repr=False, kw_only=True)
class Template:
    """A process in one channel: what it puts into the bins, and how that depends on the parameters.

    Parameters
    ----------
    contents:
        n_j (B,) where coefficient and norms are 1: a histogram or an array.
    variance:
        Of the contents (B,), their sum of squared weights; None for what a histogram says, or for no statistics.
    coefficient:
        f_j: text such as ``"mu - sqrt(mu)"``, a function of named tensors, or a number.
    norms:
        For each nuisance G(-1) and G(+1), or one number d for 1 - d and 1 + d.
    shapes:
        For each nuisance the contents at -1 and at +1 sigma, with the axes of the nominal.
    uncorrelated:
        For each name the deviations (B,) of the contents that are independent in each bin: factors ``name[b]`` with
        Poisson constraints, and none where content or deviation are 0.
    free:
        Names of factors ``name[b]``, one for each bin, without a constraint.
    gammas:
        The name of the factors that this template shares with others under "lite"; by default that of its channel.
    """

    contents: Any
    variance: ArrayLike | None = None
    coefficient: str | float | Callable[..., Any] | Coefficient = 1.0
    norms: Mapping[str, float | tuple[float, float]] = field(default_factory=dict)
    shapes: Mapping[str, tuple[Any, Any]] = field(default_factory=dict)
    uncorrelated: Mapping[str, ArrayLike] = field(default_factory=dict)
    free: Sequence[str] = ()
    gammas: str | None = None
    nominal: Contents = field(init=False)
    varied: Mapping[str, tuple[Contents, Contents]] = field(init=False)

    def __post_init__(self) -> None:
        found = Contents.of("template", self.contents)
        bins = len(found.values)
        spread = found.variances if self.variance is None else variances("template", self.variance, bins)
        sigma = {
            name: variances(f"uncorrelated {name!r}", v, bins, "deviations") for name, v in self.uncorrelated.items()
        }
        parsed = {
            "nominal": found,
            "variance": spread,
            "coefficient": self.coefficient if isinstance(self.coefficient, Coefficient)
            else Coefficient(self.coefficient),
            "norms": {name: factors(name, given) for name, given in self.norms.items()},
            "varied": {name: _varied(name, found, pair) for name, pair in self.shapes.items()},
            "uncorrelated": sigma,
            "free": tuple(self.free),
        }  # fmt: skip
        for name, value in parsed.items():
            object.__setattr__(self, name, value)

    def __repr__(self) -> str:
        nuisances = ", ".join(dict.fromkeys([*self.norms, *self.shapes])) or "none"
        n = self.nominal.values
        return f"Template({len(n)} bins, sum {n.sum():.6g}; {self.coefficient!r}; nuisances {nuisances})"


def _varied(name: str, nominal: Contents, pair: Any) -> tuple[Contents, Contents]:
    if not isinstance(pair, tuple | list) or len(pair) != 2:
        raise ValueError(f"shape {name!r}: expected a pair of contents, at -1 and +1 sigma, found {type(pair).__name__}"
                         )  # fmt: skip
    found = tuple(Contents.of(f"shape {name!r} at {sign} sigma", p) for sign, p in zip(("-1", "+1"), pair, strict=True))
    for sign, one in zip(("-1", "+1"), found, strict=True):
        nominal.check_same(f"shape {name!r} at {sign} sigma", one)
    return found[0], found[1]


@dataclass(frozen=True, eq=False, kw_only=True)
class ProcessSample:
    """Weighted events of a process and of its variations, of which `BinnedMixture.from_events` fills templates.

    Parameters
    ----------
    events:
        The nominal events.
    yields:
        nu_j, as of a `nuinfer.likelihood.Process`: nominal and varied events are each scaled to this total, so that the
        shapes carry no rate and the norms do.  None: weights are expected numbers as they are, and a varied sample
        brings its rate along.
    coefficient, norms:
        As of a `Template`.
    shapes:
        For each nuisance the events at -1 and at +1 sigma: the same with varied weights or columns, or others.
    """

    events: Events
    yields: float | None = None
    coefficient: str | float | Callable[..., Any] | Coefficient = 1.0
    norms: Mapping[str, float | tuple[float, float]] = field(default_factory=dict)
    shapes: Mapping[str, tuple[Events, Events]] = field(default_factory=dict)

    def template(self, name: str, observable: Observable, bins: Any) -> Template:
        """The `Template` of this process, whose variance is the nominal events' sum of squared weights."""

        def filled(what: str, events: Events) -> hist.Hist[Any]:
            positive_total(f"process {name}{what}", events.weight)
            return histogram(events if self.yields is None else events.scaled_to(self.yields), observable, bins)

        return Template(
            contents=filled("", self.events),
            coefficient=self.coefficient,
            norms=self.norms,
            shapes={
                shape: (filled(f", {shape} at -1", down), filled(f", {shape} at +1", up))
                for shape, (down, up) in self.shapes.items()
            },
        )


def histogram(events: Events, observable: Observable, bins: Any) -> hist.Hist[Any]:
    """The weighted histogram of an observable.

    Parameters
    ----------
    observable:
        A flat column, several, or a function of `Events` that gives (N,), such as a classifier's output.
    bins:
        Edges or a ``hist.axis``, for several columns a list of them.  Events outside are not counted: let the first and
        last edges be infinite to count them.

    Raises
    ------
    ValueError
        for a number of bins, whose range would differ from sample to sample.
    """
    each = bins if isinstance(observable, Sequence) and not isinstance(observable, str) else [bins]
    if any(isinstance(one, int | np.integer) for one in (each if isinstance(each, Sequence) else [each])):
        raise ValueError(f"bins: expected edges or a hist.axis, found the number {bins}; its range would differ from "
                         f"sample to sample")  # fmt: skip
    if callable(observable):
        events = events.with_columns({"observable": np.asarray(observable(events), np.float64)})
        return events.hist("observable", bins)
    return events.hist(observable, bins)
