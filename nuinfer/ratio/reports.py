r"""Whether ratios, scores and probabilities that depend on parameters or classes are to be trusted.

On events that no network was trained on, each has properties that an exact one fulfils:

- a parametrised ratio: of events at theta and events of the reference that borrow it, where r/(1 + r) predicts a
  fraction of the former, that is the fraction found, in each region of theta; and, at every theta,
  :math:`E_\mathrm{ref}[r(x|\theta)] = 1`;
- a score: the joint score has the mean :math:`E[t(x, z) | x]`, hence, where t(x) predicts a value, that mean;
- probabilities of classes: the same as the first, of each class against all others, and
  :math:`\sum_j \pi_j E_j[p_k/p_\mathrm{ref}] = 1`.

What is found is a pull, (found - predicted)/uncertainty, standard normal for the exact answer at any size of sample.

Sources: Cranmer, Pavez, Louppe, arXiv 1506.02169; Brehmer, Cranmer, Louppe, Pavez, arXiv 1805.00020 (the mean ratio);
Hermans, Begy, Louppe, arXiv 1903.04057 (the reference, reweighted, against the simulations).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy import special

from .. import metrics
from ..events import Events
from ..features import Features
from . import density_ratio
from .density_ratio import mean_ratio, report_of
from .parameters import Parameters, shown

__all__ = ["ClassReport", "ParametrisedReport", "Region", "ScoreCurve", "ScoreReport"]

Floats = NDArray[np.float64]
Log = Callable[[Events, Floats], Floats]


def _chi2(pulls: Floats) -> str:
    used = pulls[np.isfinite(pulls)]
    largest = float(np.abs(used).max()) if len(used) else 0.0
    return f"chi2 = {float(np.sum(used**2)):.1f} for {len(used)} bins, largest pull {largest:.1f}"


# -- functions of theta ------------------------------------------------------------------------------------------------


class Judged(NamedTuple):
    """What a report looks at: events at their own theta (N1, T), and events of the reference."""

    simulations: Events
    theta: Floats
    reference: Events
    group: str | None


class Region(NamedTuple):
    """A part of the space of theta; see `ParametrisedReport`.

    ``low``, ``high`` (T,) are the least and largest theta of its events and ``theta`` (T,) their median, where the mean
    of the ratio over the whole reference is ``mean_ratio`` +- ``mean_ratio_error``, 1 for an exact one.
    """

    low: Floats
    high: Floats
    theta: Floats
    reliability: metrics.Reliability
    mean_ratio: float
    mean_ratio_error: float

    @property
    def mean_ratio_pull(self) -> float:
        """(mean ratio - 1) / error."""
        return (self.mean_ratio - 1) / self.mean_ratio_error


@dataclass(frozen=True)
class ParametrisedReport:
    """What `ParametrisedRatio.report` found on events that the ratio should not have seen.

    Attributes
    ----------
    names:
        Of the T parameters.
    regions:
        Parts of the space of theta.  No event is in two of them, so that their reliability curves are independent; the
        mean ratios share the events of the reference.
    overall:
        The `~nuinfer.ratio.density_ratio.Report` of the ratio as one function of x and theta: its two-sample test
        compares (x, theta) of the simulations with x of the reference and a borrowed theta, reweighted.
    """

    names: tuple[str, ...]
    regions: tuple[Region, ...]
    overall: density_ratio.Report

    @property
    def pulls(self) -> Floats:
        """Those of all reliability curves, one region after the other: standard normal for an exact ratio."""
        return np.concatenate([region.reliability.pulls for region in self.regions])

    def __str__(self) -> str:
        lines = []
        for region in self.regions:
            ranges = zip(self.names, region.low, region.high, strict=True)
            where = ", ".join(f"{name} in [{low:.4g}, {high:.4g}]" for name, low, high in ranges)
            lines += [
                f"{where}:",
                f"  reliability: {_chi2(region.reliability.pulls)}",
                f"  mean ratio E_ref[r] = {region.mean_ratio:.4f} +- {region.mean_ratio_error:.4f} (exact: 1) at "
                f"{shown(self.names, region.theta)}",
            ]
        return "\n".join([*lines, "over all theta:", *(f"  {line}" for line in str(self.overall).splitlines())])


def parametrised_report(
    log: Log, parameters: Parameters, features: Features, judged: Judged, regions: int, bins: int, seed: int
) -> ParametrisedReport:
    """The report of ``log(events, theta)``."""
    if regions < 1:
        raise ValueError(f"regions: expected at least 1, found {regions}")
    one, theta, zero, group = judged
    partner = np.resize(np.random.default_rng(seed).permutation(len(one)), len(zero))
    borrowed = zero.with_weight(zero.weight * one.weight[partner])
    logs = log(one, theta), log(zero, theta[partner])
    cells = _cells(parameters.standard(theta), regions)
    found = [
        _region(log, zero, theta, mine, mine[partner], (logs, one.weight, borrowed.weight), bins) for mine in cells
    ]
    wide = Features([*features.flat, *(_column(name) for name in parameters.names)], **dict(features.clouds))
    known = group if group is not None and group in one and group in zero else None
    samples = _with_theta(one, parameters.names, theta), _with_theta(borrowed, parameters.names, theta[partner])
    overall = report_of(logs, *samples, wide, group=known, bins=bins, seed=seed)
    return ParametrisedReport(parameters.names, tuple(found), overall)


def _region(
    log: Log, reference: Events, theta: Floats, mine: NDArray[np.bool_], borrowing: NDArray[np.bool_],
    scored: tuple[tuple[Floats, Floats], Floats, Floats], bins: int,
) -> Region:  # fmt: skip
    """What the events ``mine`` (N1,), and those of the reference that borrow their theta, say."""
    logs, one, zero = scored
    for what, total in (("simulations", one[mine].sum()), ("reference", zero[borrowing].sum())):
        if not total > 0:
            where = f"from {theta[mine].min(0)} to {theta[mine].max(0)}"
            raise ValueError(f"{what}: expected a positive total weight in each region of theta, found {total:g} in "
                             f"that {where}; give more events, or fewer regions=")  # fmt: skip
    curve = metrics.reliability(
        logs[0][mine], logs[1][borrowing], weight_numerator=one[mine], weight_denominator=zero[borrowing], bins=bins
    )
    own = theta[mine]
    at = np.median(own, axis=0)
    mean, error = mean_ratio(np.exp(log(reference, at)), reference.weight)
    return Region(own.min(0), own.max(0), at, curve, mean, error)


def _cells(theta: Floats, count: int) -> list[NDArray[np.bool_]]:
    """Up to ``count`` parts of the rows (N,): the largest is halved where it is widest, if it is wide at all."""
    cells, done = [np.ones(len(theta), np.bool_)], 0
    while len(cells) < count and done < len(cells):
        cells.sort(key=np.count_nonzero, reverse=True)
        mine = cells[done]
        column = theta[:, int(np.argmax(np.ptp(theta[mine], axis=0)))]
        cut = np.median(column[mine])
        below = column < cut if (column[mine] < cut).any() else column <= cut
        if (below & mine).sum() in (0, mine.sum()):
            done += 1  # one theta only
            continue
        cells[done : done + 1] = [mine & below, mine & ~below]
        done = 0
    return sorted(cells, key=lambda mine: tuple(theta[mine].min(0)))


def _column(name: str) -> str:
    return f"parameter {name}"


def _with_theta(events: Events, names: tuple[str, ...], theta: Floats) -> Events:
    return events.with_columns(**{_column(name): column for name, column in zip(names, theta.T, strict=True)})


# -- scores ------------------------------------------------------------------------------------------------------------


class ScoreCurve(NamedTuple):
    """Means of the joint score in bins of the learned one.

    ``edges`` (B + 1,) in the learned score; ``predicted``, ``observed`` (B,) the weighted means of the learned and of
    the joint score; ``uncertainty`` (B,) of their difference.
    """

    edges: Floats
    predicted: Floats
    observed: Floats
    uncertainty: Floats

    @property
    def pulls(self) -> Floats:
        """(observed - predicted) / uncertainty (B,): standard normal for an exact score; NaN where all agree."""
        with np.errstate(divide="ignore", invalid="ignore"):  # without an uncertainty: NaN, or infinite
            return (self.observed - self.predicted) / self.uncertainty


@dataclass(frozen=True)
class ScoreReport:
    """What `LocalScore.report` found on events that it should not have seen.

    Attributes
    ----------
    curves:
        For each parameter the mean joint score in bins of the learned one.
    mean, mean_error:
        Of the learned score (T,), 0 at the reference for an exact one, and the sampling error.
    information:
        Fisher's information of one event (T, T) from these events; compare with `LocalScore.information`.
    """

    curves: Mapping[str, ScoreCurve]
    mean: Floats
    mean_error: Floats
    information: Floats

    def __str__(self) -> str:
        lines = []
        for j, (name, curve) in enumerate(self.curves.items()):
            lines += [
                f"{name}:",
                f"  joint score in bins of the learned one: {_chi2(curve.pulls)}",
                f"  mean score = {self.mean[j]:.4g} +- {self.mean_error[j]:.2g} (exact: 0)",
                f"  information of one event = {self.information[j, j]:.4g}",
            ]
        return "\n".join(lines)


def score_report(names: tuple[str, ...], weight: Floats, joint: Floats, learned: Floats, bins: int) -> ScoreReport:
    """The report of learned (N, T) against joint scores, whose own mean, that of a total weight, is taken away."""
    total = weight.sum()
    joint = joint - weight @ joint / total
    mean = weight @ learned / total
    error = np.sqrt(((weight[:, None] * (learned - mean)) ** 2).sum(0)) / total
    cross = np.einsum("n,nt,nu->tu", weight, joint, learned) / total
    curves = {name: _curve(weight, joint[:, j], learned[:, j], bins) for j, name in enumerate(names)}
    return ScoreReport(curves, np.asarray(mean), np.asarray(error), np.asarray((cross + cross.T) / 2))


def _curve(weight: Floats, joint: Floats, learned: Floats, bins: int) -> ScoreCurve:
    """Bins of equally many events; those without a net weight hold NaN."""
    if bins < 1:
        raise ValueError(f"bins: expected at least 1, found {bins}")
    edges = np.unique(np.quantile(learned, np.linspace(0, 1, bins + 1)))
    edges = edges if len(edges) > 1 else edges + np.array([-0.5, 0.5])
    inside = np.clip(np.searchsorted(edges, learned, side="right") - 1, 0, len(edges) - 2)

    def binned(values: Floats) -> Floats:
        return np.bincount(inside, values, minlength=len(edges) - 1).astype(np.float64)

    total = binned(weight)
    with np.errstate(divide="ignore", invalid="ignore"):  # a bin without net weight is NaN
        spread = np.sqrt(binned((weight * (joint - learned)) ** 2)) / np.abs(total)
        found = binned(weight * learned) / total, binned(weight * joint) / total, spread
    return ScoreCurve(edges, *(np.where(total == 0, np.nan, part) for part in found))


# -- classes -----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class ClassReport:
    """What `ClassRatio.report` found on events that the ratio should not have seen.

    Attributes
    ----------
    reliability:
        For each class the predicted against the observed fractions of it, among it and all others together, both with
        the same total weight.
    mean_ratio, mean_ratio_error:
        The mean over the training mixture of p_k/p_ref (K,), which is 1 for an exact ratio, and its sampling error.
    """

    reliability: Mapping[str, metrics.Reliability]
    mean_ratio: Floats
    mean_ratio_error: Floats

    @property
    def pulls(self) -> Floats:
        """Those of all reliability curves, one class after the other; the curves share events."""
        return np.concatenate([curve.pulls for curve in self.reliability.values()])

    def __str__(self) -> str:
        means = zip(self.reliability.items(), self.mean_ratio, self.mean_ratio_error, strict=True)
        return "\n".join(
            f"{name}: mean ratio {mean:.4f} +- {error:.4f} (exact: 1); reliability: {_chi2(curve.pulls)}"
            for (name, curve), mean, error in means
        )


def class_report(
    names: tuple[str, ...], fractions: Floats, logs: Sequence[Floats], weights: Sequence[Floats], bins: int
) -> ClassReport:
    """The report of log p_k/p_ref (N_j, K) of the events of each class j, whose weights have the sum pi_j."""
    log_q = [log + np.log(fractions) for log in logs]
    curves = {name: _one_against_rest(k, fractions, log_q, weights, bins) for k, name in enumerate(names)}
    mean, variance = np.zeros(len(names)), np.zeros(len(names))
    for log, own in zip(logs, weights, strict=True):
        r = np.exp(log)
        of_class = own @ r
        mean += of_class
        variance += (own[:, None] ** 2 * (r - of_class / own.sum()) ** 2).sum(0)
    return ClassReport(curves, mean, np.sqrt(variance))


def _one_against_rest(
    k: int, fractions: Floats, log_q: Sequence[Floats], weights: Sequence[Floats], bins: int
) -> metrics.Reliability:
    """Class k as numerator, all others as denominator: log (q_k / pi_k) - log ((1 - q_k) / (1 - pi_k))."""
    prior = special.logit(fractions[k])
    odds = [q[:, k] - special.logsumexp(np.delete(q, k, axis=1), axis=1) - prior for q in log_q]
    rest = [j for j in range(len(fractions)) if j != k]
    return metrics.reliability(
        odds[k], np.concatenate([odds[j] for j in rest]), weight_numerator=weights[k],
        weight_denominator=np.concatenate([weights[j] for j in rest]), bins=bins,
    )  # fmt: skip
