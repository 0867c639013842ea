r"""Is a mixture to be trusted?  `report`: what its ratios must fulfil, checked on simulation that they have not seen.

With the reference weights w and the samples of the processes, an exact model has

- mean ratios: E_ref[s_j] = 1 for every process, E_j[g_jk(+-1)] = 1 for every variation of it;
- reliability: where s_j predicts a fraction of process j, that is the fraction found; likewise for each variation
  against its varied sample (the reweighting closure of a nuisance);
- Asimov closure: on the weighted reference the minimum is at the injected parameters;
- simulation closure: on the samples themselves, weighted to the injected parameters, it is there too.  The step of
  Newton from the injected parameters is delta = -H^-1 g, with a sampling error, H^-1 V H^-1, where V is the sum over
  events of the squared change of g with the event's weight, in the samples and in the reference that normalises, so
  that a bias of the ratios is told from the statistics of the samples;
- the data cannot be told from the fitted mixture, by a classifier two-sample test.

Samples that are weightings of the same events (known by their ids, `Events.id`) fluctuate together.  V takes that into
account: it adds up what an event changes wherever it occurs, before it squares.  The other errors are those of
independent samples.  For samples that share events they are too large: chi2 per bin of the reliability is then below 1
for an exact model, and the closure, which sees biases several times smaller, is the check to look at.

Each check has a p-value.  It fails below ``level`` divided by the number of checks; those of a bias fail only where it
is larger than ``tolerance`` of the parameter's uncertainty as well, since any bias is significant in a sample large
enough.

Sources: ATLAS, arXiv 2412.01600, section 6; Lopez-Paz, Oquab, arXiv 1610.06545.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
from iminuit.cost import Cost
from numpy.typing import NDArray
from scipy import special, stats
from torch import Tensor

from .. import metrics
from ..errors import closest
from ..events import Events, positive_total
from ..features import Features
from ..ratio import two_sample_test
from .constraints import Constraint, TwoPoint
from .costs import asimov, named, summed
from .mixture import LogRatio, Mixture, UnbinnedCost, evaluated, learned
from .table import Table

__all__ = ["Check", "Report", "report"]

Floats = NDArray[np.float64]
Varied = Mapping[str, Mapping[str, tuple[Events, Events]]]


class Check(NamedTuple):
    """One check: what of, the figure found with its error, what an exact model has, the p-value, and whether it failed.

    ``error`` is 0 and ``p`` is 1 where there is no statistical uncertainty.
    """

    kind: str
    subject: str
    value: float
    error: float
    exact: float
    p: float
    failed: bool = False

    def __str__(self) -> str:
        error = f" +- {self.error:.4g}" if self.error else ""
        p = f", p = {self.p:.2g}" if self.error or self.p < 1 else ""
        return f"{self.kind} of {self.subject}: {self.value:.5g}{error} (exact: {self.exact:g}{p})"


@dataclass(frozen=True)
class Report:
    """What `report` found: all checks, and what to know besides."""

    checks: tuple[Check, ...]
    level: float
    notes: tuple[str, ...] = ()

    @property
    def failed(self) -> tuple[Check, ...]:
        """The checks that failed."""
        return tuple(check for check in self.checks if check.failed)

    def __str__(self) -> str:
        failed = self.failed
        head = (
            f"all {len(self.checks)} checks passed (p above {self.level:.2g} each)" if not failed
            else f"{len(failed)} of {len(self.checks)} checks FAILED (p below {self.level:.2g})"
        )  # fmt: skip
        lines = [head, *(f"FAILED  {check}\n        {_ADVICE[check.kind]}" for check in failed)]
        lines += [f"passed  {check}" for check in self.checks if not check.failed]
        return "\n".join([*lines, *(f"note    {note}" for note in self.notes)])


_ADVICE = {
    "mean ratio": "the ratio does not keep its norm, which a mixture that normalises densities divides out; a sign "
    "that it needs longer training, more events or members, or calibration",
    "mean variation": "the variation does not keep its norm, which a mixture that normalises densities divides out; a "
    "sign that it needs longer training, more events or members",
    "reliability": "predicted and found fractions differ: calibrate the ratio, or train it better",
    "variation": "the varied sample is not what the reweighted nominal one is: train the variation better",
    "Asimov closure": "the minimum on the weighted reference is elsewhere: the model is not what it generates",
    "simulation closure": "a fit to simulation at these parameters is biased: look at the checks of the ratios",
    "two-sample test": "the data can be told from the fitted mixture: something is in them that the model has not; do "
    "not quote the interval before you know what",
}


def report(
    mixture: Mixture,
    reference: Events,
    samples: Mapping[str, Events],
    *,
    at: Mapping[str, float],
    constraints: Sequence[Constraint] = (),
    varied: Varied | None = None,
    data: Events | None = None,
    fitted: Mapping[str, float] | None = None,
    features: Features | list[str] | None = None,
    bins: int = 10,
    level: float = 0.01,
    tolerance: float = 0.1,
    seed: int = 0,
) -> Report:
    """Check a mixture on simulation, and against the data.

    Parameters
    ----------
    reference:
        Events of the reference density.
    samples:
        By process, nominal simulation: events that the ratios were not trained on, or ratios with folds.  They may be
        weightings of the same events, where these have the same ids.
    at:
        The parameters of the Asimov and simulation closure, such as nominal ones.
    constraints:
        Of the nuisances: without them a parameter may not be determined.
    varied:
        By process and nuisance, samples at -1 and +1 sigma.
    data, fitted:
        Observed events, and the parameters fitted to them, for the two-sample test.
    features:
        What the two-sample test sees; the columns of the learned ratios by default.
    bins:
        Of the reliability curves.
    level:
        The probability that an exact model fails any check.
    tolerance:
        Largest bias that passes although it is significant, in units of the parameter's uncertainty.

    Raises
    ------
    KeyError
        for a process or nuisance that the mixture has not, or a parameter without a value.
    ValueError
        for a sample without positive total weight, data without fitted parameters, or parameters that data and
        constraints do not determine.
    NegativeDensity
        for ``at`` outside of the model's domain, or so close to its edge that differences of the gradient leave it.
    """
    _check_names(mixture, samples, varied or {})
    found = [
        *_ratio_checks(mixture, reference, samples, bins),
        *_variation_checks(mixture, samples, varied or {}, bins),
        *_closure_checks(mixture, samples, at, constraints),
    ]
    if data is not None:
        found.append(_data_check(mixture, reference, data, fitted, features, seed))
    each = level / len(found)
    judged = [check._replace(failed=_fails(check, each, tolerance)) for check in found]
    return Report(tuple(judged), each, tuple(_notes(mixture, samples, varied or {}, constraints)))


def _fails(check: Check, level: float, tolerance: float) -> bool:
    biased = not check.kind.endswith("closure") or not abs(check.value) <= tolerance  # NaN included
    return not check.p > level and biased


def _check_names(mixture: Mixture, samples: Mapping[str, Events], varied: Varied) -> None:
    for name in (*samples, *varied):
        if name not in mixture.processes:
            raise KeyError(f"no process {name!r}; {closest(name, mixture.processes)}")
    for name, events in samples.items():
        positive_total(f"sample of {name}", events.weight)
    for name, pairs in varied.items():
        for nuisance in pairs:
            if nuisance not in mixture.processes[name].shapes:
                raise KeyError(f"process {name}: no shape {nuisance!r}; "
                               f"{closest(nuisance, mixture.processes[name].shapes)}")  # fmt: skip
        if name not in samples:
            raise KeyError(f"varied: expected the nominal sample of {name} among samples, found none")


def _notes(
    mixture: Mixture, samples: Mapping[str, Events], varied: Varied, constraints: Sequence[Constraint]
) -> Iterator[str]:
    constrained = {name for constraint in constraints for name in constraint.names}
    free = [name for name in mixture.nuisances if name not in constrained]
    if free:
        yield f"free nuisances, which only the data determine: {', '.join(free)}"
    for constraint in constraints:
        if isinstance(constraint, TwoPoint):
            yield (f"{constraint.names[0]} compares {' and '.join(constraint.models)}: a shrunken pull of it is no "
                   f"smaller uncertainty")  # fmt: skip
    if _share_events(mixture.reference.id, *(events.id for events in samples.values())):
        yield ("samples or reference share events: the errors of the simulation closure are right for that; those of "
               "reliability and variations are of independent samples, and too large")  # fmt: skip
    unseen = [name for name in mixture.processes if name not in samples]
    if unseen:
        yield f"processes without a sample, not checked: {', '.join(unseen)}"
    left = [
        f"{n} of {name}" for name, p in mixture.processes.items() for n in p.shapes if n not in varied.get(name, {})
    ]
    if left:
        yield f"variations without varied samples, not checked: {', '.join(left)}"


def _share_events(*ids: NDArray[np.int64]) -> bool:
    each = [np.unique(part) for part in ids]
    return len(np.unique(np.concatenate(each))) < sum(map(len, each))


# -- ratios ------------------------------------------------------------------------------------------------------------


def _ratio_checks(mixture: Mixture, reference: Events, samples: Mapping[str, Events], bins: int) -> Iterator[Check]:
    for name, process in mixture.processes.items():
        log_s = evaluated(name, process.ratio, reference)
        yield _mean("mean ratio", name, log_s, reference)
        if name in samples and process.ratio is not None:
            own = evaluated(name, process.ratio, samples[name])
            yield _reliability("reliability", name, (own, samples[name]), (log_s, reference), bins)


def _variation_checks(mixture: Mixture, samples: Mapping[str, Events], varied: Varied, bins: int) -> Iterator[Check]:
    for name, pairs in varied.items():
        for nuisance, events in pairs.items():
            ratios = mixture.processes[name].shapes[nuisance]
            for end, ratio, shifted in zip(("-1", "+1"), ratios, events, strict=True):
                yield from _one_variation(f"{name}, {nuisance} = {end}", ratio, samples[name], shifted, bins)


def _one_variation(subject: str, ratio: LogRatio, nominal: Events, shifted: Events, bins: int) -> Iterator[Check]:
    log_g = evaluated(subject, ratio, nominal)
    yield _mean("mean variation", subject, log_g, nominal)
    own = evaluated(subject, ratio, shifted)
    yield _reliability("variation", subject, (own, shifted), (log_g, nominal), bins)


def _mean(kind: str, subject: str, log_r: Floats, events: Events) -> Check:
    """The weighted mean of exp(log_r) and its error."""
    total, r = positive_total(subject, events.weight), np.exp(log_r)
    mean = float(np.dot(events.weight, r)) / total
    error = float(np.sqrt(np.sum((events.weight * (r - mean)) ** 2))) / total
    # a constant ratio of 1 has no error, up to rounding
    p = 2 * float(stats.norm.sf(abs(mean - 1) / error)) if error > 1e-12 else float(abs(mean - 1) < 1e-9)
    return Check(kind, subject, mean, error, 1.0, p)


def _reliability(
    kind: str, subject: str, numerator: tuple[Floats, Events], denominator: tuple[Floats, Events], bins: int
) -> Check:
    """chi2 per bin of the reliability curve, whose classes keep their total: one degree of freedom fewer than bins."""
    (one, first), (other, second) = numerator, denominator
    curve = metrics.reliability(one, other, weight_numerator=first.weight, weight_denominator=second.weight, bins=bins)
    pulls = curve.pulls[np.isfinite(curve.pulls)]
    free = max(len(pulls) - 1, 1)
    chi2 = float(np.sum(pulls**2))
    return Check(kind, subject, chi2 / free, np.sqrt(2 / free), 1.0, float(stats.chi2.sf(chi2, free)))


# -- the minimum -------------------------------------------------------------------------------------------------------


def _closure_checks(
    mixture: Mixture, samples: Mapping[str, Events], at: Mapping[str, float], constraints: Sequence[Constraint]
) -> Iterator[Check]:
    values = {name: named(at, name) for name in mixture.names}
    cost = asimov(summed([mixture.asimov(**values), *constraints]), at)
    names = tuple(cost._parameters)
    theta = np.array([named(at, name) for name in names])
    inverse = _covariance(cost, theta, names)
    sigma = np.sqrt(np.diag(inverse))
    step = -inverse @ cost.grad(*theta) / 2
    for name, bias, width in zip(names, step, sigma, strict=True):
        # the minimum is found to the rounding of float32 tables
        yield Check("Asimov closure", name, bias / width, 0.0, 0.0, float(abs(bias / width) < 1e-3))
    if set(samples) == set(mixture.processes):
        yield from _simulation_checks(mixture, samples, values, names, inverse)


def _simulation_checks(
    mixture: Mixture, samples: Mapping[str, Events], values: Mapping[str, float], names: Sequence[str], inverse: Floats
) -> Iterator[Check]:
    """Newton's step on the weighted samples, in sigma of the parameters, with its sampling error."""
    place = [names.index(name) for name in mixture.names]
    sigma, rows = np.sqrt(np.diag(inverse))[place], inverse[np.ix_(place, place)]
    tables = _weighted_tables(mixture, samples, values)
    step = rows @ _pull(mixture, Table.concat(tables), values)
    error = np.sqrt(np.diag(rows @ _spread(mixture, tables, values) @ rows))
    for name, bias, width in zip(mixture.names, step / sigma, error / sigma, strict=True):
        p = 2 * float(stats.norm.sf(abs(bias) / width)) if width > 1e-12 else float(abs(bias) < 1e-3)
        yield Check("simulation closure", name, float(bias), float(width), 0.0, p)


def _weighted_tables(mixture: Mixture, samples: Mapping[str, Events], values: Mapping[str, float]) -> list[Table]:
    """The samples, each weighted to the events expected of its process."""
    expected = mixture.yields(**values)
    return [
        mixture.table(events.with_weight(events.weight * (expected[name] / positive_total(name, events.weight))))
        for name, events in samples.items()
    ]


def _pull(mixture: Mixture, table: Table, values: Mapping[str, float]) -> Floats:
    """-g/2 (T,): half the slope of 2 log L."""
    cost = UnbinnedCost(mixture, table)
    return np.asarray(-0.5 * cost.grad(*(values[name] for name in cost.names)))


def _spread(mixture: Mixture, tables: Sequence[Table], values: Mapping[str, float]) -> Floats:
    """The covariance (T, T) of the pull from the statistics of samples and reference, totals fixed.

    It is the sum over ids of the squared change of the pull with the weight of that event, wherever it occurs: of
    weightings of the same events the fluctuations largely cancel.
    """
    parts = [_by_sample(mixture, table, values) for table in tables]
    parts.append(_by_reference(mixture, Table.concat(tables), values))
    ids = np.concatenate([table.id for table in (*tables, mixture.reference)])
    first, place = np.unique(ids, return_inverse=True)
    changes = np.zeros((len(first), len(mixture.names)))
    np.add.at(changes, place, np.concatenate(parts))
    return np.asarray(changes.T @ changes)


def _by_sample(mixture: Mixture, table: Table, values: Mapping[str, float]) -> Floats:
    """How the pull changes (N, T) with each event of a sample: the scores, less their mean since the total is fixed."""
    weight, score = table.weight.numpy(), mixture.scores(table, **values)
    total = weight.sum()
    return np.asarray(weight[:, None] * (score - (weight @ score / total if total else 0.0)))


def _by_reference(mixture: Mixture, table: Table, values: Mapping[str, float]) -> Floats:
    """How the pull of a table changes (N, T) with each event of the reference, through the means that normalise."""
    own, theta = mixture.reference, torch.tensor([values[name] for name in mixture.names], dtype=torch.float64)
    alpha = theta[[mixture.names.index(name) for name in mixture.shapes]]
    terms = torch.cat([*_densities(own, alpha), own.density])  # (J (S + 2), N)
    weight = own.weight / own.weight.sum()
    means = terms @ weight
    slopes = torch.autograd.functional.jacobian(_PullOfMeans(mixture, table, theta, alpha), means)
    return np.asarray((slopes @ ((terms - means[:, None]) * weight)).T.numpy())


def _densities(table: Table, alpha: Tensor) -> list[Tensor]:
    """s g, and its slopes in the alphas, (J, N) each."""
    each = table.densities(alpha)
    return [each, *(each * table.log_slope(alpha, k) for k in range(table.shapes))]


class _PullOfMeans:
    """The pull (T,), up to a constant, as a function of means over the reference: of s g, its slopes, and s."""

    def __init__(self, mixture: Mixture, table: Table, theta: Tensor, alpha: Tensor) -> None:
        self.count, self.weight, self.densities = len(mixture.processes), table.weight, _densities(table, alpha)
        self.c, self.nominal = mixture.coefficients(theta), mixture.normalise == "variations"
        self.slopes: Tensor = torch.autograd.functional.jacobian(mixture.coefficients, theta)  # (J, T)
        at = [mixture.names.index(name) for name in mixture.shapes]
        self.place = torch.eye(len(theta), dtype=torch.float64)[at]  # (S, T)

    def __call__(self, means: Tensor) -> Tensor:
        z, *varied, start = means.split(self.count)
        norm = (start if self.nominal else 1) / z
        scale, each = self.c * norm, self.densities[0]
        drift = torch.stack([v / z for v in varied], 1) if varied else z.new_zeros(len(z), 0)
        slopes = self.slopes * norm[:, None] - scale[:, None] * (drift @ self.place)
        part = self.weight / (scale @ each)
        shapes = torch.stack([scale @ (v @ part) for v in self.densities[1:]]) if varied else z.new_zeros(0)
        found: Tensor = (each @ part) @ slopes + shapes @ self.place
        return found


def _covariance(cost: Cost, theta: Floats, names: Sequence[str]) -> Floats:
    """The inverse of half the Hessian of -2 log L, by differences of the gradient."""
    count, size = len(theta), 1e-3 * np.maximum(np.abs(theta), 1.0)
    rows = [(cost.grad(*(theta + d)) - cost.grad(*(theta - d))) for d in np.diag(size)]
    hessian = np.array(rows) / (4 * size[:, None])
    values, vectors = np.linalg.eigh((hessian + hessian.T) / 2)
    if not values[0] > 1e-10 * values[-1]:
        worst = names[int(np.argmax(np.abs(vectors[:, 0])))]
        raise ValueError(f"report: data and constraints do not determine {worst!r} (an eigenvalue {values[0]:.3g} of "
                         f"the Hessian of {count} parameters); give it a constraint, or other parameters")  # fmt: skip
    return np.asarray((vectors / values) @ vectors.T)


# -- the data ----------------------------------------------------------------------------------------------------------


def _data_check(
    mixture: Mixture,
    reference: Events,
    data: Events,
    fitted: Mapping[str, float] | None,
    features: Features | list[str] | None,
    seed: int,
) -> Check:
    if fitted is None:
        raise ValueError("report: expected the parameters fitted to the data in fitted=, found none")
    values = {name: named(fitted, name) for name in mixture.names}
    rate = np.exp(mixture.log_rate(reference, **values))
    expected = reference.with_weight(reference.weight * rate)
    test = two_sample_test(data, expected, features or _features(mixture), seed=seed, progress=False)
    auc = test.auc
    return Check(
        "two-sample test", "data and fitted mixture", auc.value, auc.null_sd, 0.5, float(special.ndtr(-test.z))
    )


def _features(mixture: Mixture) -> Features:
    for process in mixture.processes.values():
        for ratio in learned(process):
            return ratio.features
    raise ValueError("report: expected features= for the two-sample test, since no ratio of the mixture is learned")
