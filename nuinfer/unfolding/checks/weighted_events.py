r"""Events with weights, or with draws of their truth: what is left of their number, the data in reco, the bottom line.

**Bottom line without A_C.**  The smearing of OmniFold and of generative methods is a map, not a matrix, and to estimate
it column by column would take an unfolding for each bin.  Instead of models through A_C, *pseudo-data* are compared
through the method itself: with the signals m_a, m_b of two samples of data in reco bins, and what was unfolded from
them, u_a and u_b,

.. math:: (u_a - u_b)^T C^+ (u_a - u_b) \le (m_a - m_b)^T V^{-1} (m_a - m_b),

with the same fluctuations on both sides, so that for a method linear between the two nothing is approximate: for
u = U m, C is at least U V U^T.  V is the variance of data and background alone, while C, of bootstrap replicas, has
the simulation's statistics and the noise of one network as well; a C that is too small by less than those goes unseen.
Reco bins have to be fine enough to hold what the method used, for what they do not show counts as gained.

The members' noise adds to the left side; its mean tr(C^+ N), N the sum of the two "method" covariances, is subtracted.
The verdict allows three deviations of that noise and of the replicas' covariance, whose forms scatter by
sqrt(2 / (n - p)), beside the tolerance, which is for methods that are not linear.
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy import sparse, special, stats

from ... import metrics
from ...events import Events, flag
from ..binning import Binning, BinningLike
from ..measured import contents
from ..samples import key_of
from ..spectrum import Spectrum, quadratic_form, whitening
from .verdicts import USUAL, Check, largest, left_out, over

if TYPE_CHECKING:
    from ...features import Features
    from ...nets import Network
    from ...train import Training
    from ...trees import Trees
    from ..generative.result import GenerativeUnfolding
    from ..unbinned.result import Unfolded

__all__ = ["bottom_line_of_events", "effective_size", "reweighted_chi2", "two_sample"]

Floats = NDArray[np.float64]


def effective_size(unfolded: Unfolded, *, least: float = USUAL.effective_size) -> Check:
    """The effective size of the weighted truth over that of the simulation, of the member with the smallest."""
    where = flag(unfolded.simulation, "pass_truth")
    own = unfolded.simulation.weight[where]
    before = float(metrics.effective_size(own))
    after = metrics.effective_size(unfolded.weights[:, where] * own)
    share = float(after.min() / before)
    words = (f"{after.min():.0f} effective events of {before:.0f} before, {share:.2g}, at least {least:g}; largest "
             f"weight {float(unfolded.weights[:, where].max()):.3g}")  # fmt: skip
    return Check("effective size", share >= least, share, least, words)


def two_sample(
    unfolded: Unfolded, data: Events, features: Features | list[str], *, background: Events | None = None,
    level: float = USUAL.level, network: Network | Trees | None = None, training: Training | None = None,
    group: str | None = None, seed: int,
) -> Check:  # fmt: skip
    """Whether a classifier can tell the data from the weighted simulation (with its fakes) and background, in reco.

    The AUC out of fold against its deviation for equal samples.  The weights were learned from the same data, so that p
    leans towards 1: a small one says more than its number.

    Parameters
    ----------
    group:
        Integer column whose equal values are copies of one event, as detector throws are; None for the result's.  Data
        and background without it go by their ids.  Copies stay in one fold, and the deviation is that of as many events
        as there are effective groups: an upper bound, reached where the copies of an event all look the same.

    Raises
    ------
    KeyError, ValueError
        for features that a sample has not, or that are not finite.
    """
    from ...features import Features  # torch, which checks in bins do without
    from ...ratio import two_sample_test

    features, group = Features.of(features), _group_of(unfolded, group)
    samples = [data, _with_mean(unfolded)] + ([] if background is None else [background])
    seen, *others = (_seen(events, features, group) for events in samples)
    expected = Events.concat(others)
    test = two_sample_test(
        seen, expected, features, network=network, training=training, group=group, seed=seed, progress=False
    ).auc
    sd = test.null_sd * _of_copies(seen, expected, group)
    p = float(special.ndtr((0.5 - test.value) / sd))
    words = f"AUC {test.value:.4f} +- {sd:.4f} (equal: 0.5), p = {p:.2g} (level {level:g})"
    return Check("two-sample test", p > level, p, level, words)


def _group_of(unfolded: Unfolded, group: str | None) -> str | None:
    """The column given, or the result's; ``KeyError`` for a simulation without it."""
    found = unfolded.group if group is None else group
    unfolded.simulation.key(found)
    return found


def _seen(events: Events, features: Features, group: str | None) -> Events:
    """What the two-sample test needs of the reconstructed events; those without the group's column go by their ids."""
    found = events.select(flag(events, "pass_reco"))
    key = {} if group is None else {group: key_of(found, group)}
    return found.keep(features.columns).with_columns(key)


def _of_copies(one: Events, other: Events, group: str | None) -> float:
    """How much wider a difference of two means is at most, because copies of one event fluctuate together."""
    weights = [(e.weight, np.bincount(_numbers(e, group), e.weight)) for e in (one, other)]
    single, joint = (sum(1 / float(metrics.effective_size(w[k])) for w in weights) for k in (0, 1))
    return float(np.sqrt(joint / single))


def _numbers(events: Events, group: str | None) -> NDArray[np.int64]:
    """For each row (N,) the number of its event, from 0: copies have the same."""
    return np.asarray(np.unique(key_of(events, group), return_inverse=True)[1], np.int64)


def reweighted_chi2(
    unfolded: Unfolded, data: Events, bins: BinningLike, *, background: Events | None = None,
    level: float = USUAL.level, group: str | None = None,
) -> Check:  # fmt: skip
    """The weighted simulation (with its fakes) and background against the data, in reco bins.

    Covariances are sums of squares of what the events contribute to the bins, copies of one event (equal ``group`` or
    id, as in `two_sample`) added up first.  R bins count as R degrees of freedom although the weights were learned from
    the same data: p leans towards 1, and a small one says more than its number.
    """
    binning, group = Binning.of(bins), _group_of(unfolded, group)
    samples = [data, _with_mean(unfolded)] + ([] if background is None else [background])
    filled = [_filled(events.select(flag(events, "pass_reco")), binning, group) for events in samples]
    difference = filled[0][0] - np.asarray(sum(values for values, _ in filled[1:]))
    covariance = np.asarray(sum(c for _, c in filled))
    chi2, dof = quadratic_form(difference, covariance)
    p = float(stats.chi2.sf(chi2, dof))
    worst, where = largest(over(difference, np.sqrt(np.diag(covariance))), binning)
    words = f"chi2 {chi2:.3g} for {dof} bins, p = {p:.2g} (level {level:g}); largest pull {worst:.2g}, {where}"
    return Check("refolded chi2", p > level, p, level, words)


def _filled(events: Events, binning: Binning, group: str | None) -> tuple[Floats, Floats]:
    """Contents (R,) and their covariance (R, R), to which an event contributes all its copies at once."""
    index = binning.index(events)
    inside = np.flatnonzero(index >= 0)
    event = _numbers(events, group)[inside]
    shape = (len(events), binning.size)
    each = sparse.csr_array((events.weight[inside], (event, index[inside])), shape=shape)
    return np.asarray(each.sum(0), np.float64).reshape(-1), np.asarray((each.T @ each).toarray(), np.float64)


def _with_mean(unfolded: Unfolded) -> Events:
    """The simulation with the mean weight of the members."""
    return unfolded.simulation.with_weight(unfolded.simulation.weight * unfolded.weights.mean(0))


# -- the bottom line ---------------------------------------------------------------------------------------------------


def bottom_line_of_events(
    unfolded: Unfolded | GenerativeUnfolding, others: Mapping[str, Unfolded | GenerativeUnfolding], *,
    truth: BinningLike, reco: BinningLike, tolerance: float = USUAL.bottom_line_of_events,
) -> Check:  # fmt: skip
    """No two samples of data differ more after unfolding than before it: see the module.

    Parameters
    ----------
    unfolded:
        The data, with replicas, whose covariance is C.
    others:
        Pseudo-data by name, unfolded by the same simulation and options, in the exposure of the data.  All know their
        data: as the method returns them, or by ``with_data``.
    truth, reco:
        Bins.
    tolerance:
        The largest ratio of chi-squared after to before that passes is 1 + tolerance, within three errors.

    There is no verdict, and words why, without replicas, and without the variance of a reco bin.

    Raises
    ------
    ValueError
        for another simulation.
    """
    unknown = [name for name, other in {"the data": unfolded, **others}.items() if other.seen is None]
    if not others or unknown:
        return left_out("bottom line", f"pseudo_data= that know their data, by with_data(); {unknown[0]} does not"
                        if unknown else "pseudo_data=")  # fmt: skip
    _check_simulation(unfolded, others)
    spectrum, bins = unfolded.spectrum(truth), Binning.of(reco)
    c = spectrum.covariances.get("statistical")
    if c is None or len(spectrum.replicas) <= len(spectrum.values) + 2:
        return left_out("bottom line", f"more replicas than {len(spectrum.values) + 2}, found {len(spectrum.replicas)}")
    points = {"data": _point(unfolded, spectrum, bins)}
    points |= {name: _point(other, other.spectrum(truth), bins) for name, other in others.items()}
    variance = points["data"].variance
    empty = [r for r in np.flatnonzero(~(variance > 0)) if np.ptp([p.signal[r] for p in points.values()]) > 0]
    if empty:
        return left_out("bottom line", f"data in each reco bin, and there are none in bin {empty[0]} "
                        f"({bins.label(int(empty[0]))}); merge bins")  # fmt: skip
    return _bottom_line(points, c, len(spectrum.replicas), tolerance)


class _Point(NamedTuple):
    """Data: their signal in reco (R,), its variance, what is unfolded (B,), the covariance of the method's noise."""

    signal: Floats
    variance: Floats
    unfolded: Floats
    noise: Floats | None


def _point(result: Unfolded | GenerativeUnfolding, spectrum: Spectrum, bins: Binning) -> _Point:
    data, background = result.seen or (None, None)
    signal, variance = contents("data", data, bins)
    found = np.zeros(bins.size) if variance is None else variance
    if background is not None:
        expected, spread = contents("background", background, bins)
        signal, found = signal - expected, found + (0.0 if spread is None else spread)
    return _Point(signal, found, spectrum.values, spectrum.covariances.get("method"))


def _check_simulation(unfolded: object, others: Mapping[str, object]) -> None:
    """Raise for weights of other events than those of the data; draws have no simulation."""
    own = getattr(unfolded, "simulation", None)
    for name, other in others.items():
        their = getattr(other, "simulation", None)
        if (own is None) != (their is None) or (
            own is not None and their is not None and not np.array_equal(own.id, their.id)
        ):
            raise ValueError(f"pseudo-data {name!r}: expected data unfolded by the same simulation and method, found "
                             f"another; they are to be compared through one and the same unfolding")  # fmt: skip


def _bottom_line(points: Mapping[str, _Point], c: Floats, replicas: int, tolerance: float) -> Check:
    """Of the pair whose chi-squared exceeds what is allowed by most, in units of its error."""
    root = whitening(c)
    p = len(root)
    factor, variance = metrics.hartlap(replicas, p), points["data"].variance
    known, found = True, []
    for (one, a), (other, b) in itertools.combinations(points.items(), 2):
        noises = [n for n in (a.noise, b.noise) if n is not None]
        known = known and len(noises) == 2
        noise = root @ sum(noises, start=np.zeros_like(c)) @ root.T
        d = root @ (a.unfolded - b.unfolded)
        after = factor * float(d @ d - np.trace(noise))
        before = float((np.divide((a.signal - b.signal) ** 2, variance, where=variance > 0, out=0 * variance)).sum())
        squares = factor**2 * (4 * float(d @ noise @ d) + 2 * float(np.trace(noise @ noise)))
        error = float(np.sqrt(squares + 2 * after**2 / (replicas - p)))
        found.append(((after - (1 + tolerance) * before) / max(error, 1e-300), one, other, after, before, error))
    excess, one, other, after, before, error = max(found)
    ratio = after / before if before > 1e-9 else np.nan
    found_words = (f"{ratio:.3g} +- {error / before:.2g} times that before" if before > 1e-9 else
                   f"{after:.3g} +- {error:.2g}, and there is no difference before")  # fmt: skip
    words = (f"chi2 between {one} and {other} after unfolding is {found_words}, the most telling of {len(found)} "
             f"pairs; at most {1 + tolerance:g} within 3 errors")  # fmt: skip
    passed: bool | None = excess <= 3
    if not passed and not known:
        passed, words = None, f"{words}; the noise of a single member is not known: unfold with members= above 1"
    elif not passed:
        words += "; is the covariance too small?"
    return Check("bottom line", passed, ratio, 1 + tolerance, words)
