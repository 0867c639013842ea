r"""The extended unbinned likelihood of a mixture of processes, from density ratios to one reference.

With processes j of coefficient :math:`c_j(\theta) = \nu_j f_j(\theta) \prod_k G_{jk}(\alpha_k)`, learned ratios
:math:`s_j = p_j/p_{ref}` and shape variations :math:`g_{jk}(x; \alpha_k)`, the expected rate over the reference is

.. math:: \lambda(x \mid \theta) = \sum_j \frac{c_j(\theta)}{Z_j(\alpha)}\, s_j(x) \prod_k g_{jk}(x; \alpha_k),
          \qquad Z_j(\alpha) = E_{ref}\Big[s_j \prod_k g_{jk}(\alpha_k)\Big],

and the likelihood of weighted events is

.. math:: -2 \log L = 2 \sum_j c_j(\theta) - 2 \sum_i w_i \log \lambda(x_i \mid \theta).

The products of interpolated shapes drift away from unit norm, so that Z is needed at every :math:`\alpha`; with it the
Asimov data, which are the reference events weighted by :math:`\lambda`, give back the injected parameters exactly.  The
coefficients f may be negative, as those of an interference learned from positive samples; the rate must not.

With interpolation "log" (`nuinfer.likelihood.interpolation`) all variations of an event are one matrix, A (events x
processes, 2 x nuisances) in float32: log g = A (p, q).  Value and gradient read it once, in blocks that stay in the
cache, with sums in float64.

Sources: ATLAS, arXiv 2412.01600 and 2412.01548; Barlow, Extended maximum likelihood, NIM A297 (1990) 496.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from numbers import Real
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from torch import Tensor

from ..errors import check_finite, closest
from ..events import Events, positive_total
from ..ratio import Ratio
from .costs import Coefficient, DifferentiableCost, Limits, checked_limits, named
from .interpolation import Interpolation, log_factor, odd_even
from .table import Table, log_rates

__all__ = ["Mixture", "Process", "UnbinnedCost"]

Floats = NDArray[np.float64]
LogRatio = Ratio | Callable[[Events], ArrayLike]
Generator = Callable[[Mapping[str, float], np.random.Generator], Events]
Precision = Literal["float32", "float64"]


@dataclass(frozen=True, eq=False, kw_only=True)
class Process:
    """A class of events: how many, how they depend on the parameters, and what their density is.

    Parameters
    ----------
    yields:
        nu_j, the number of events expected where coefficient and norms are 1.
    ratio:
        log p_j/p_ref: a `Ratio`, or a function of `Events` that gives (N,); None for the reference's own density.
    coefficient:
        f_j: text such as ``"mu - sqrt(mu)"``, a function of named tensors, or a number.
    norms:
        For each nuisance G(-1) and G(+1), or one number for 1 - d and 1 + d.
    shapes:
        For each nuisance the log ratios log g(x; -1) and log g(x; +1) to the nominal density of this process.
    """

    yields: float
    ratio: LogRatio | None = None
    coefficient: str | float | Callable[..., Any] | Coefficient = 1.0
    norms: Mapping[str, float | tuple[float, float]] = field(default_factory=dict)
    shapes: Mapping[str, tuple[LogRatio, LogRatio]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if not (np.isfinite(self.yields) and self.yields >= 0):
            raise ValueError(f"Process: expected yields from 0, found {self.yields}; a sign belongs to the coefficient")
        if not isinstance(self.coefficient, Coefficient):
            object.__setattr__(self, "coefficient", Coefficient(self.coefficient))
        pairs = {name: factors(name, given) for name, given in self.norms.items()}
        object.__setattr__(self, "norms", pairs)
        for name, pair in self.shapes.items():
            if not isinstance(pair, tuple | list) or len(pair) != 2:
                raise ValueError(f"shape {name!r}: expected a pair of log ratios, at -1 and +1 sigma, found {pair!r}")


def factors(name: str, given: float | tuple[float, float]) -> tuple[float, float]:
    """G(-1) and G(+1) of a norm, checked; ``ValueError`` for factors that are not positive."""
    down, up = (1 - given, 1 + given) if isinstance(given, Real) else (float(v) for v in given)  # type: ignore[union-attr]
    if not (0 < down < np.inf and 0 < up < np.inf):
        raise ValueError(f"norm {name!r}: expected positive factors at -1 and +1 sigma, found {down:g} and {up:g}")
    return float(down), float(up)


class Mixture:
    """The model: processes on one reference; called with data it is a cost for iminuit.

    Parameters
    ----------
    processes:
        By name.
    reference:
        Weighted events of the reference density, which normalise the interpolated densities and make the Asimov data.
        Give events that the ratios were trained on only where the ratios have folds.  A `Table` of them, which another
        mixture of the same processes made, does too.
    interpolation:
        "log" or "code4", for norms and shapes (`nuinfer.likelihood.interpolation`).
    normalise:
        "densities" divides each density by its mean over the reference at every alpha; "variations" by its mean
        relative to that at alpha = 0, which leaves the nominal ratios as they are.
    limits:
        (lower, upper) of parameters, None for none.
    precision:
        Of the matrix of variations; "float64" doubles its memory.

    Examples
    --------
    >>> import numpy as np
    >>> rng = np.random.default_rng(1)
    >>> reference = Events({"x": rng.normal(0, 2, 20_000)})
    >>> def gauss(mean, width):  # log N(mean, width) / N(0, 2)
    ...     return lambda e: -0.5 * ((e["x"] - mean) / width) ** 2 + 0.5 * (e["x"] / 2) ** 2 - np.log(width / 2)
    >>> model = Mixture(
    ...     {"S": Process(yields=100, ratio=gauss(0.0, 0.5), coefficient="mu"),
    ...      "B": Process(yields=900, norms={"rate": 0.1})}, reference)
    >>> model.names, float(round(model.expected(mu=1.0, rate=0.0), 9))
    (('mu', 'rate'), 1000.0)
    >>> cost = model.asimov(mu=1.0, rate=0.0)
    >>> bool(np.abs(cost.grad(1.0, 0.0)).max() < 1e-9)  # the injected parameters are the minimum
    True

    Raises
    ------
    ValueError, TypeError, KeyError
        for no processes, a name that is parameter and nuisance at once, ratios trained against different references,
        columns that the reference has not, log ratios that are not finite.
    """

    def __init__(
        self,
        processes: Mapping[str, Process],
        reference: Events | Table,
        *,
        interpolation: Interpolation = "log",
        normalise: Literal["densities", "variations"] = "densities",
        limits: Mapping[str, Limits] | None = None,
        precision: Precision = "float32",
    ) -> None:
        if isinstance(processes, Sequence):
            processes = _by_name(processes)
        if not processes:
            raise ValueError("Mixture: expected at least one process, found none")
        for option, value, allowed in (
            ("interpolation", interpolation, ("log", "code4")),
            ("normalise", normalise, ("densities", "variations")),
            ("precision", precision, ("float32", "float64")),
        ):
            if value not in allowed:
                raise ValueError(f"Mixture: expected {option} to be one of {', '.join(allowed)}, found {value!r}")
        self.processes, self.interpolation, self.normalise = dict(processes), interpolation, normalise
        self.precision: Precision = precision
        check_references(self.processes)
        nuisances = [name for p in processes.values() for name in (*p.norms, *p.shapes)]
        self.nuisances = tuple(dict.fromkeys(nuisances))
        self.shapes = tuple(dict.fromkeys(name for p in processes.values() for name in p.shapes))
        coefficients = [c.names for c in self._coefficients]
        self.interest = tuple(dict.fromkeys(name for names in coefficients for name in names))
        both = set(self.interest) & set(self.nuisances)
        if both:
            raise ValueError(f"Mixture: {sorted(both)[0]!r} is in a coefficient and a nuisance as well; give one of "
                             f"them another name")  # fmt: skip
        self.limits = checked_limits(limits, self.names)
        self._norms = [self._norm_tensors(p) for p in self.processes.values()]
        self.reference = self._own(reference) if isinstance(reference, Table) else self.table(reference)
        positive_total("reference", self.reference.weight.numpy())
        self._start = self.reference.means(torch.zeros(len(self.shapes), dtype=torch.float64))

    @property
    def _coefficients(self) -> list[Coefficient]:
        return [p.coefficient for p in self.processes.values()]  # type: ignore[misc]

    @property
    def names(self) -> tuple[str, ...]:
        """The parameters: those of the coefficients, then the nuisances."""
        return self.interest + self.nuisances

    def __call__(self, data: Events, *, generate: Generator | None = None) -> UnbinnedCost:
        """-2 log L of the events, each counted by its weight.

        A weight of 2 counts as two events: errors are those of as many events as the weights sum to, not of a weighted
        sample of data.

        ``generate(values, rng)`` draws the events of a pseudo-experiment at named parameters, the Poisson fluctuation
        of their number included.  It has to be an exact generator or `held-out simulation <HeldOut>`, never the
        mixture itself: toys from the learned ratios cover by construction.
        """
        return UnbinnedCost(self, self.table(data), generate)

    def asimov(self, **values: float) -> UnbinnedCost:
        """The cost of the Asimov data at these parameters: the reference, weighted by the rate there."""
        rate = self._rate(self.reference, self._theta(values))
        total = float(self.reference.weight.sum())
        return UnbinnedCost(self, self.reference.weighted(self.reference.weight * rate / total))

    def expected(self, **values: float) -> float:
        """The number of events expected at these parameters."""
        return float(self.coefficients(self._theta(values)).sum())

    def yields(self, **values: float) -> dict[str, float]:
        """The coefficients c_j by process: expected events, those of an interference with their sign."""
        return dict(zip(self.processes, self.coefficients(self._theta(values)).tolist(), strict=True))

    def log_rate(self, events: Events, **values: float) -> Floats:
        """log of lambda(x)/p_ref(x) (N,): the sum over processes, yields included."""
        return np.asarray(np.log(self._rate(self.table(events), self._theta(values)).numpy()))

    def contributions(self, events: Events, **values: float) -> dict[str, Floats]:
        """By process, its share (N,) of each event's rate; they sum to 1 and may be negative."""
        table, theta = self.table(events), self._theta(values)
        each = self._each(table, theta)
        share = (each / each.sum(1, keepdim=True)).numpy()
        return {name: share[:, j] for j, name in enumerate(self.processes)}

    def expected_events(self, reference: Events, **values: float) -> dict[str, Floats]:
        """By process, how many events (N,) each event of a sample of the reference density stands for.

        w_i c_j s_ij g_ij / (Z_j sum w): over the mixture's own reference they sum to `yields` (with normalise
        "variations" times the mean of the nominal ratio), over another sample up to its statistics, an interference
        with its sign; over the processes, to the weights of the Asimov data.

        Raises
        ------
        ValueError
            for a sample without positive total weight.
        """
        each = self._each(self.table(reference), self._theta(values)).numpy()
        each = each * (reference.weight / positive_total("reference", reference.weight))[:, None]
        return {name: each[:, j] for j, name in enumerate(self.processes)}

    def scores(self, events: Events | Table, **values: float) -> Floats:
        """d log lambda(x) / d theta (N, T) at these parameters: the optimal observables of all of them.

        Weighted events whose mean score at theta is not 0 do not come from the mixture at theta.
        """
        table = self._own(events) if isinstance(events, Table) else self.table(events)
        theta = self._theta(values)
        slopes = torch.autograd.functional.jacobian(lambda at: self.scales(at)[1], theta)
        with torch.no_grad():
            _, scale, alpha = self.scales(theta)
            each = table.densities(alpha)
            total = each.T @ slopes
            for k, name in enumerate(self.shapes):
                total[:, self.names.index(name)] += scale @ (each * table.log_slope(alpha, k))
            return np.asarray((total / (scale @ each)[:, None]).numpy())

    def optimal_observable(self, events: Events, name: str, **values: float) -> Floats:
        """d log lambda(x) / d name (N,), at these parameters: the locally most powerful observable."""
        if name not in self.names:
            raise KeyError(f"no parameter {name!r}; {closest(name, self.names)}")
        return self.scores(events, **values)[:, self.names.index(name)]

    def members(self, data: Events, reference: Events, *, generate: Generator | None = None) -> Iterator[UnbinnedCost]:
        """The costs of the K members of the ratios, each a mixture of its own in the place of their mean.

        Member k of each ratio goes with member k of the others; ratios of one member and functions are in all of them.
        The spread of their answers is the method's uncertainty, and the training statistics' too where the members are
        bootstraps (`nuinfer.intervals.training_uncertainty`).

        Raises
        ------
        ValueError
            where no ratio has members, or their numbers differ.
        """
        memo = _Members([data, reference])
        counts = {r.resample.members for p in self.processes.values() for r in learned(p)} - {1}
        if len(counts) != 1:
            raise ValueError(f"members: expected ratios of one number of members above 1, found "
                             f"{sorted(counts) or 'ratios of one member, or functions'}")  # fmt: skip
        return (self._member(memo, k, reference)(data, generate=generate) for k in range(counts.pop()))

    def _member(self, memo: _Members, k: int, reference: Events) -> Mixture:
        processes = {
            name: replace(p, ratio=None if p.ratio is None else memo.of(p.ratio, k),
                          shapes={n: (memo.of(low, k), memo.of(high, k)) for n, (low, high) in p.shapes.items()})
            for name, p in self.processes.items()
        }  # fmt: skip
        return self.with_reference(reference, processes)

    def with_reference(self, reference: Events | Table, processes: Mapping[str, Process] | None = None) -> Mixture:
        """The same model, or with other processes, normalised on another sample of the reference density."""
        return Mixture(
            processes or self.processes, reference, interpolation=self.interpolation, normalise=self.normalise,
            limits=self.limits, precision=self.precision,
        )  # fmt: skip

    # -- the parts -----------------------------------------------------------------------------------------------------

    def table(self, events: Events) -> Table:
        """What a cost needs of events: log ratios (J, N), log variations, weights."""
        if not isinstance(events, Events):
            raise TypeError(f"Mixture: expected Events, found {type(events).__name__}; make them of your columns: "
                            f"nu.Events({{'x': x}})")  # fmt: skip
        log_s = np.stack([evaluated(name, p.ratio, events) for name, p in self.processes.items()])
        size = (len(self.processes), 2, len(self.shapes), len(events))
        varied = np.zeros(size, self.precision)
        for j, (name, process) in enumerate(self.processes.items()):
            for k, shape in enumerate(self.shapes):
                if shape in process.shapes:
                    low, high = (evaluated(f"{name}, {shape}", r, events) for r in process.shapes[shape])
                    pair = odd_even(low, high) if self.interpolation == "log" else (low, high)
                    varied[j, :, k] = pair
        return Table.of(log_s, varied, events.weight, events.id, self.interpolation, events.digest(), self._columns)

    @property
    def _columns(self) -> tuple[str, ...]:
        """What the columns of a table are: processes, then shapes."""
        return (*self.processes, "", *self.shapes)

    def _own(self, table: Table) -> Table:
        """A table, refused where another model made it."""
        if (table.columns, table.interpolation) != (self._columns, self.interpolation):
            shown = [", ".join(name or "|" for name in names) for names in (self._columns, table.columns)]
            raise ValueError(f"Mixture: expected a table of the processes and shapes {shown[0]} by "
                             f"{self.interpolation!r}, found one of {shown[1]} by {table.interpolation!r}")  # fmt: skip
        return table

    def coefficients(self, theta: Tensor) -> Tensor:
        """c_j (J,) at theta (T,), differentiable."""
        by_name = dict(zip(self.names, theta, strict=True))
        alpha = torch.stack([by_name[n] for n in self.nuisances]) if self.nuisances else theta.new_zeros(0)
        found = []
        for process, coefficient, norms in zip(self.processes.values(), self._coefficients, self._norms, strict=True):
            rows, down, up = norms
            factor = log_factor(alpha[rows], down, up, self.interpolation).sum() if len(rows) else theta.new_zeros(())
            found.append(process.yields * coefficient(by_name) * torch.exp(factor))
        return torch.stack(found)

    def scales(self, theta: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """c_j (J,), c_j / Z_j (J,) and the alpha of the shapes (S,), differentiable."""
        c, alpha = self.coefficients(theta), self._alpha(theta)
        means = self._means(alpha)
        if self.normalise == "variations":
            means = means / self._start
        return c, c / means, alpha

    def _alpha(self, theta: Tensor) -> Tensor:
        at = [self.names.index(name) for name in self.shapes]
        return theta[at] if at else theta.new_zeros(0)

    def _means(self, alpha: Tensor) -> Tensor:
        """Z (J,) at alpha; without shapes it is the same everywhere."""
        return self.reference.means(alpha) if self.shapes else self._start

    def _norm_tensors(self, process: Process) -> tuple[Tensor, Tensor, Tensor]:
        rows = torch.tensor([self.nuisances.index(name) for name in process.norms], dtype=torch.long)
        pairs = np.log(np.array([process.norms[name] for name in process.norms], np.float64).reshape(-1, 2))
        return rows, torch.from_numpy(pairs[:, 0].copy()), torch.from_numpy(pairs[:, 1].copy())

    def _theta(self, values: Mapping[str, float]) -> Tensor:
        for name in values:
            if name not in self.names:
                raise KeyError(f"no parameter {name!r}; {closest(name, self.names)}")
        return torch.tensor([named(values, name) for name in self.names], dtype=torch.float64)

    def _each(self, table: Table, theta: Tensor) -> Tensor:
        _, scale, alpha = self.scales(theta)
        return (table.densities(alpha) * scale[:, None]).T

    @torch.no_grad()
    def _rate(self, table: Table, theta: Tensor) -> Tensor:
        _, scale, alpha = self.scales(theta)
        found = torch.cat([scale.new_zeros(0), *(scale @ block.densities(alpha) for block in table.blocks())])
        table.check_positive(found, self.names, theta)
        return found

    def __repr__(self) -> str:
        return (f"Mixture({', '.join(self.processes)}; parameters {', '.join(self.names)}; reference of "
                f"{len(self.reference)} events)")  # fmt: skip


def learned(process: Process) -> list[Ratio]:
    """The learned ratios of a process."""
    every = [process.ratio, *(ratio for pair in process.shapes.values() for ratio in pair)]
    return [ratio for ratio in every if isinstance(ratio, Ratio)]


class _Members:
    """The members' log ratios (K, N) of a few samples, each evaluated once."""

    def __init__(self, samples: list[Events]) -> None:
        self.samples = samples
        self.found: dict[tuple[int, int], Floats] = {}

    def of(self, ratio: LogRatio, k: int) -> LogRatio:
        """Member k as a function of one of the samples."""
        if not isinstance(ratio, Ratio) or ratio.resample.members == 1:
            return ratio
        return lambda events: self._values(ratio, events)[k]

    def _values(self, ratio: Ratio, events: Events) -> Floats:
        key = id(ratio), next(i for i, sample in enumerate(self.samples) if sample is events)
        if key not in self.found:
            self.found[key] = ratio.members(events)
        return self.found[key]


def _by_name(processes: Sequence[Any]) -> dict[str, Process]:
    """Pairs of names and processes as a mapping; two of one name are refused."""
    names = [name for name, _ in processes]
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        raise ValueError(f"Mixture: expected different names of processes, found {twice[0]!r} more than once")
    return dict(processes)


def evaluated(name: str, ratio: LogRatio | None, events: Events) -> Floats:
    """The log ratio (N,) of events, checked; 0 for the reference's own density."""
    if ratio is None:
        return np.zeros(len(events))
    try:
        found = ratio.log(events) if isinstance(ratio, Ratio) else ratio(events)
    except KeyError as error:
        raise KeyError(f"process {name}: the events lack what its ratio was trained on: {error.args[0]}") from error
    values = np.asarray(found, np.float64)
    if values.shape != (len(events),):
        raise ValueError(f"process {name}: expected a log ratio per event, ({len(events)},), found {values.shape}")
    check_finite(f"process {name}: log ratio", values)
    return values


def check_references(processes: Mapping[str, Process]) -> None:
    """Refuse ratios whose denominators are not one sample, and variations of another nominal sample."""
    trained = {name: p.ratio for name, p in processes.items() if isinstance(p.ratio, Ratio)}
    first = next(iter(trained.items()), None)
    for name, ratio in trained.items():
        if first is not None and ratio.samples.denominator != first[1].samples.denominator:
            raise ValueError(
                f"process {name}: its ratio was trained against another reference than that of {first[0]} "
                f"({ratio.samples.denominator} and {first[1].samples.denominator}); train all against one sample"
            )
        for shape, pair in processes[name].shapes.items():
            for varied in pair:
                if isinstance(varied, Ratio) and varied.samples.denominator != ratio.samples.numerator:
                    raise ValueError(
                        f"process {name}, shape {shape!r}: expected variations trained against the nominal sample of "
                        f"{name} ({ratio.samples.numerator}), found {varied.samples.denominator}"
                    )


class UnbinnedCost(DifferentiableCost):
    """-2 log L of events under a `Mixture`; made by calling it."""

    def __init__(self, mixture: Mixture, table: Table, generate: Generator | None = None) -> None:
        super().__init__({name: mixture.limits.get(name) for name in mixture.names})
        self.mixture, self.table, self.generate = mixture, table, generate

    def asimov(self, values: Mapping[str, float]) -> UnbinnedCost:
        """The cost of the reference, weighted by the rate at these parameters."""
        found = self.mixture.asimov(**{name: named(values, name) for name in self.names})
        return UnbinnedCost(self.mixture, found.table, self.generate)

    def sample(self, values: Mapping[str, float], rng: np.random.Generator) -> UnbinnedCost:
        """The cost of the events that ``generate`` draws at these parameters.

        Raises
        ------
        TypeError
            without ``generate``.
        """
        if self.generate is None:
            raise TypeError("pseudo-experiments: expected a mixture called with generate=, an exact generator or "
                            "held-out simulation, found none; the learned ratios cannot stand in for it")  # fmt: skip
        return self.mixture(self.generate(values, rng), generate=self.generate)

    def tensor(self, theta: Tensor) -> Tensor:
        """2 sum_j c_j - 2 sum_i w_i log lambda_i.

        Raises
        ------
        NegativeDensity
            naming the event and the parameters, where the rate is not positive at an event.
        """
        c, scale, alpha = self.mixture.scales(theta)
        return 2 * c.sum() - 2 * log_rates(self.table, scale, alpha, self.names, theta)

    def _ndata(self) -> float:
        return float("inf")

    def __repr__(self) -> str:
        return f"UnbinnedCost({len(self.table)} events; {', '.join(self.names)})"
