r"""Throws: the whole analysis again and again, with everything that is uncertain varied at once.

Throw k draws the knobs alpha of every systematic source from N(0, 1), or a universe of each set of weights, shifts
simulation and background by all of them, evaluates the selection anew, takes Poisson bootstraps of data, background and
simulation, and unfolds.  What comes out holds statistics, method and all systematics with their interplay; how far the
mean of the throws is from the nominal answer is `Thrown.shift`.

**Covariance, by source.**  The plain covariance of K spectra holds the chance correlations of their knobs too, of
1/sqrt(K) each.  The covariance of the knobs is known: it is 1.  A regression of the spectra on the k knobs,
:math:`u_j = \bar u + \sum_s G_s \alpha_{sj} + \epsilon_j`, gives

.. math:: C = \sum_s \left[\hat G_s \hat G_s^T - \Sigma\, \mathrm{tr}(A^T A)^{-1}_{ss}\right] + \Sigma, \qquad
    \Sigma = \frac{1}{K - 1 - k} \sum_j \epsilon_j \epsilon_j^T,

each source without what noise alone would give it, and the remainder :math:`\Sigma`: statistics, method, universes, and
curvature.  Without knobs it is the plain covariance.  Throws of one source alone, without bootstraps, are there on
request (``alone=``).

**Rank.**  K throws determine at most K - 1 - k directions of the remainder in B bins, and k more by the knobs.  With
fewer than bins C has no inverse, and any inverse is biased: `Thrown.words` says so, and by how much (Hartlap et al.,
astro-ph/0608064).

Sources: the multi-universe method of the accelerator neutrino experiments (e.g. MicroBooNE, arXiv 2001.04353); joint
bootstraps of data and simulation as in `omnifold`.
"""

from __future__ import annotations

import functools
import os
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Executor
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from scipy import linalg

from .. import hashing, losses, metrics, store, tasks
from ..events import Events, Ragged
from ..features import Features
from ..losses import RatioLoss
from ..nets import MLP, Network
from ..resample import Resample
from ..train import Training
from ..trees import Trees
from .binning import Binning, BinningLike, same_bins
from .measured import Counts
from .samples import check_counts, check_factors, key_of
from .spectrum import Spectrum
from .unbinned.reweighting import TRAINING, check_refit, omnifold, prepared, unfolded
from .unbinned.steps import PILOTS, Fit, Refit

__all__ = ["Source", "Thrown", "Throws", "omnifold_throws", "unfold_throws"]

Floats = NDArray[np.float64]
Sample = Literal["simulation", "background"]

#: A function of (events, alpha) that returns the shifted events, alpha a number, or an array (k,) where the function
#: has an attribute ``knobs`` of k names; or weights (events, universes) of the simulation.
Source = Callable[[Events, Any], Events] | NDArray[np.float64]

#: What unfolds: (data, simulation, background, seed) -> spectrum; the seed is for methods that draw random numbers.
Unfold = Callable[[Any, Events, Any, int], Spectrum]

_NOMINAL = -1


@dataclass(frozen=True, eq=False, kw_only=True)
class Throws:
    """What is varied, and how often.

    Parameters
    ----------
    count:
        K, the number of joint throws.
    systematics:
        Sources by name.  A function (events, alpha) -> events is applied to simulation and background; it may change
        weights, columns and flags, never the number or the order of rows, so that a bootstrap follows an event.  An
        array (events, universes) holds factors of the simulation's weights; each throw takes one of the universes.
    data, simulation:
        Whether to take Poisson bootstraps of the data, and of simulation and background.
    select:
        The selection, Events -> Events, evaluated after all shifts; it may leave rows out.
    alone:
        Further throws of each source alone, without bootstraps.
    group:
        Column whose equal values (detector throws of one true event) share their multiplicity.
    seed:
        Of everything that is drawn.

    Raises
    ------
    ValueError
        for a count below 2, nothing to vary, or universes that are not two-dimensional, finite and two at least.
    """

    count: int
    systematics: Mapping[str, Source] = field(default_factory=dict)
    data: bool = True
    simulation: bool = True
    select: Callable[[Events], Events] | None = None
    alone: int = 0
    group: str | None = None
    seed: int

    def __post_init__(self) -> None:
        for name, least in (("count", 2), ("alone", 0)):
            value = getattr(self, name)
            if not isinstance(value, int | np.integer) or value < least:
                raise ValueError(f"Throws: expected {name} to be a whole number of at least {least}, found {value!r}")
        if self.alone == 1:
            raise ValueError("Throws: expected alone to be 0 or at least 2 throws a source, found 1")
        if not (self.data or self.simulation or self.systematics):
            raise ValueError("Throws: expected something to vary, found no systematics and no bootstraps")
        for name, source in self.systematics.items():
            if not callable(source):
                _check_universes(name, np.asarray(source))

    def knobs(self, name: str) -> int:
        """How many numbers alpha a source takes; 0 for universes."""
        source = self.systematics[name]
        return len(getattr(source, "knobs", ("",))) if callable(source) else 0

    def alpha(self, number: int, name: str) -> Floats:
        """The knobs (k,) of a source in throw ``number``, which do not depend on what else is varied."""
        rng = np.random.default_rng(hashing.salt(self.seed, "alpha", name, number))
        return rng.standard_normal(self.knobs(name))

    def universe(self, number: int, name: str) -> int:
        """The universe of a set of weights in throw ``number``: each comes once before one comes again."""
        universes = np.asarray(self.systematics[name]).shape[1]
        turn, place = divmod(number, universes)
        rng = np.random.default_rng(hashing.salt(self.seed, "universe", name, turn))
        return int(rng.permutation(universes)[place])

    def varied(self, number: int, events: Events, sample: Sample, *, only: str | None = None) -> Events:
        """Simulation or background in throw ``number``, shifted and selected, without bootstrap.

        Raises
        ------
        ValueError
            for a source that returns weights that are not finite or of another sign, or another number of rows.
        """
        for name, source in self.systematics.items():
            if only in (None, name):
                events = self._shifted(number, name, source, events, sample)
        return events if self.select is None else self.select(events)

    def _shifted(self, number: int, name: str, source: Source, events: Events, sample: Sample) -> Events:
        if callable(source):
            alpha = self.alpha(number, name)
            shifted = source(events, float(alpha[0]) if len(alpha) == 1 and not hasattr(source, "knobs") else alpha)
            _check_shift(name, events, shifted)
            return shifted
        if sample == "background":
            return events
        factors = np.asarray(source)
        if len(factors) != len(events):
            raise ValueError(f"systematic {name!r}: expected weights (events, universes) of {len(events)} events, "
                             f"found {len(factors)}")  # fmt: skip
        return events.with_weight(events.weight * factors[:, self.universe(number, name)])

    def bootstrapped(self, number: int, events: Events) -> Events:
        """The events with the multiplicities of throw ``number`` in their weights."""
        times = hashing.poisson(key_of(events, self.group), self.seed, "bootstrap", number)
        return events.with_weight(events.weight * times)

    def fluctuated(self, number: int, data: Counts) -> Counts:
        """Bootstrapped events, or Poisson counts about the contents of bins."""
        if isinstance(data, Events):
            return self.bootstrapped(number, data)
        contents = np.asarray(data.values() if hasattr(data, "values") else data, np.float64)
        rng = np.random.default_rng(hashing.salt(self.seed, "data", number))
        return rng.poisson(contents).astype(np.float64)


@dataclass(frozen=True, eq=False)
class Thrown:
    """The spectra of all throws; made by `unfold_throws`.

    Attributes
    ----------
    nominal:
        The spectrum without any shift.
    spectra:
        (K, B).
    alphas:
        Knobs (K, k) by source.
    alone:
        Spectra (K', B) of throws of each source alone.
    left_out:
        Names of the nominal spectrum's covariances that the throws do not hold: "method" where they fit last layers.
    """

    nominal: Spectrum
    spectra: Floats
    alphas: dict[str, Floats]
    alone: dict[str, Floats]
    left_out: tuple[str, ...] = ()

    @property
    def covariance(self) -> Floats:
        """C (B, B), the sum of `sources`."""
        return np.asarray(sum(self.sources.values()))

    @property
    def shift(self) -> Floats:
        """The mean of the throws less the nominal spectrum (B,)."""
        return np.asarray(self.spectra.mean(0) - self.nominal.values)

    @property
    def rank(self) -> int:
        """Directions of C that the throws determine: at most K - 1, at most B."""
        return int(np.linalg.matrix_rank(_correlation(self.covariance), tol=1e-9))

    @functools.cached_property
    def _design(self) -> Floats:
        """Knobs (K, k) of all sources; ``ValueError`` for too many."""
        design = np.concatenate([np.empty((len(self.spectra), 0)), *self.alphas.values()], 1)
        count, knobs = design.shape
        if knobs and count < knobs + 3:
            raise ValueError(f"decomposition: expected more throws than knobs + 2 = {knobs + 2}, found {count}; throw "
                             f"more, or sources alone by alone=")  # fmt: skip
        return design

    @functools.cached_property
    def residuals(self) -> Floats:
        """What the k knobs do not explain in K throws, as K - k replicas (K - k, B) of mean 0 and covariance Sigma.

        Their directions are the orthogonal complement of the knobs among those of K throws that keep the mean at 0.
        """
        design = np.concatenate([np.ones((len(self.spectra), 1)), self._design], 1)
        rotated = linalg.qr(design)[0].T[design.shape[1] :] @ self.spectra  # (K - 1 - k, B), independent
        return np.asarray(linalg.helmert(len(rotated) + 1).T @ rotated)

    @functools.cached_property
    def sources(self) -> dict[str, Floats]:
        """Covariances (B, B) by source, from the regression on the knobs, and the "remainder"; they sum to C.

        Raises
        ------
        ValueError
            for too few throws of so many knobs: C is positive where tr (A^T A)^-1 is below 1.
        """
        names = [name for name, alpha in self.alphas.items() if alpha.shape[1]]
        noise = metrics.replica_covariance(self.residuals)
        design = self._design - self._design.mean(0)
        inverse = np.linalg.inv(design.T @ design)
        if (share := float(np.trace(inverse))) >= 1:  # of Sigma, which sources are given too much by
            count, knobs = design.shape
            raise ValueError(f"decomposition: {count} throws of {knobs} knobs know the sources too badly, noise in "
                             f"their sum is {share:.2g} times the remainder; throw more, about {3 * knobs}, or sources "
                             f"alone by alone=")  # fmt: skip
        slopes = inverse @ design.T @ (self.spectra - self.spectra.mean(0))  # (knobs, B)
        found, start = {}, 0
        for name in names:
            part = slice(start, start + self.alphas[name].shape[1])
            found[name] = slopes[part].T @ slopes[part] - noise * np.trace(inverse[part, part])
            start = part.stop
        return found | {"remainder": noise}

    @property
    def spectrum(self) -> Spectrum:
        """The nominal values with the covariances of the throws and what is left out of them; replicas: `residuals`."""
        covariances = self.sources | {name: self.nominal.covariances[name] for name in self.left_out}
        return replace(self.nominal, covariances=covariances, replicas=self.nominal.values + self.residuals)

    @property
    def words(self) -> str:
        """What the number of throws allows."""
        (count, knobs), bins = self._design.shape, self.spectra.shape[1]
        draws = count - knobs
        told = f"{count} throws of {bins} bins" + (f", {knobs} knobs" if knobs else "")
        if draws <= bins + 2:
            return (f"{told}: the covariance has rank {self.rank} and no unbiased inverse; throw at least "
                    f"{10 * bins + knobs}, or compare fewer bins")  # fmt: skip
        return (f"{told}: rank {self.rank}; the inverse of the covariance is too large by "
                f"{1 / metrics.hartlap(draws, bins) - 1:.1%} on average")  # fmt: skip

    def __repr__(self) -> str:
        return f"Thrown({', '.join([*self.alphas]) or 'statistics'}; {self.words})"

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write everything to one safetensors file, atomically."""
        spec, arrays = self.nominal.saved()
        arrays |= {"spectra": self.spectra}
        arrays |= {f"alpha.{i}": a for i, a in enumerate(self.alphas.values())}
        arrays |= {f"alone.{i}": a for i, a in enumerate(self.alone.values())}
        names = {"alphas": list(self.alphas), "alone": list(self.alone), "left_out": list(self.left_out)}
        store.save(path, "thrown", {"nominal": spec, **names}, arrays)

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> Thrown:
        """Read what `save` wrote; ``CorruptFile`` for a damaged file, ``ValueError`` for another kind."""
        spec, arrays = store.load(path, "thrown")
        alphas, alone = (
            {name: arrays[f"{key}.{i}"] for i, name in enumerate(spec[names])}
            for key, names in (("alpha", "alphas"), ("alone", "alone"))
        )
        left_out = tuple(spec.get("left_out", ()))  # files of before last layers have none
        return cls(Spectrum.of_saved(spec["nominal"], arrays), arrays["spectra"], alphas, alone, left_out)


def unfold_throws(
    unfold: Unfold,
    data: Counts,
    simulation: Events,
    throws: Throws,
    *,
    background: Counts = None,
    executor: Executor | None = None,
    checkpoint: str | Path | None = None,
    name: str = "throws",
    progress: bool = True,
) -> Thrown:
    """Unfold every throw.

    Parameters
    ----------
    unfold:
        (data, simulation, background, seed) -> `Spectrum`: any method, with its response filled from the simulation.
        The seed is another one in each throw.
    data, background:
        Events, or contents of bins; those of a background are shifted only as events.
    executor, checkpoint, name, progress:
        As in `nuinfer.tasks.run`: throws go to workers, and a run that was stopped goes on.

    Raises
    ------
    ValueError
        for a source that returns bad weights or other rows, or a method that changes its bins between throws.
    TaskError
        for a throw that fails; the cause is chained.

    Examples
    --------
    >>> from nuinfer.unfolding import Response, iterative_bayes
    >>> rng = np.random.default_rng(1)
    >>> t = rng.uniform(0, 2, 4000)
    >>> simulation, data = Events({"t": t, "x": t + rng.normal(0, 0.1, 4000)}), np.array([1000.0, 1100.0])
    >>> bins = {"truth": {"t": [0, 1, 2]}, "reco": {"x": [0, 1, 2]}}
    >>> norm = lambda events, alpha: events.with_weight(events.weight * np.exp(0.1 * alpha * (events["t"] > 1)))
    >>> unfold = lambda d, s, b, seed: iterative_bayes(d, Response.from_events(s, **bins))
    >>> throws = Throws(count=50, systematics={"norm": norm}, seed=1)
    >>> thrown = unfold_throws(unfold, data, simulation, throws, progress=False)
    >>> thrown.spectra.shape, list(thrown.sources)
    ((50, 2), ['norm', 'remainder'])
    """
    singles = [(number, source) for source in throws.systematics for number in range(throws.alone)]
    jobs = [*((number, "") for number in range(throws.count)), *singles]
    nominal = unfold(data, _selected(throws, simulation), _selected(throws, background), throws.seed)
    work = functools.partial(_unfolded, unfold, data, simulation, background, throws, nominal.binning)
    results = tasks.run(
        work, jobs, seed=throws.seed, executor=executor, checkpoint=checkpoint, name=name, progress=progress
    )
    spectra = results.stacked()["values"]
    starts = throws.count + throws.alone * np.arange(len(throws.systematics))
    alone = {name: spectra[i : i + throws.alone] for name, i in zip(throws.systematics, starts, strict=True)}
    return Thrown(nominal, spectra[: throws.count], _alphas(throws), alone if throws.alone else {})


def omnifold_throws(
    data: Events,
    simulation: Events,
    throws: Throws,
    bins: BinningLike,
    *,
    reco: Features | Sequence[str],
    truth: Features | Sequence[str],
    background: Events | None = None,
    misses: Literal["conditional", "prior"] = "conditional",
    fakes: Literal["subtract", "scale"] = "subtract",
    outside: float = 0.05,
    iterations: int = 3,
    members: int = 1,
    refit: Literal["network", "last layer"] = "network",
    network: Network | Trees = MLP(),  # noqa: B008 - a frozen spec
    loss: RatioLoss = "bce",
    training: Training = TRAINING,
    device: str = "cpu",
    executor: Executor | None = None,
    checkpoint: str | Path | None = None,
    progress: bool = True,
) -> Thrown:
    """`unfold_throws` by OmniFold: all throws as networks of one batched training where the inputs allow it.

    They do where every source changes weights alone and everything is bootstrapped.  Else, as for a shift of energies,
    each throw is fitted by itself, and goes through ``executor``; with ``refit="last layer"`` it is not trained then
    either, but takes the hidden layers of the nominal unfolding.

    Parameters
    ----------
    bins:
        Of the spectrum in truth: edges by column, or a `Binning`.
    reco, truth, background, misses, fakes, outside, iterations, members, refit, network, loss, training, device, \
    checkpoint, progress:
        As in `omnifold`; ``members`` make the nominal spectrum, a throw is one network, or the last layer of a member.

    Raises
    ------
    ValueError, TypeError, NotConverged
        as `omnifold` and `unfold_throws`.
    """
    check_refit(refit, network)
    check_counts(iterations=iterations, members=members)
    rules: dict[str, Any] = {"reco": reco, "truth": truth, "misses": misses, "fakes": fakes, "outside": outside}
    options = rules | {
        "iterations": iterations, "network": network, "loss": loss, "training": training, "device": device
    }  # fmt: skip
    binning, others = Binning.of(bins), _selected(throws, background)
    nominal = _selected(throws, simulation)
    universes = _universes(throws, simulation, nominal, background, others)
    if universes is not None:
        result = omnifold(
            data, nominal, background=others, members=members, bootstrap=throws.count, universes=universes[0],
            background_universes=universes[1], group=throws.group, seed=throws.seed, checkpoint=checkpoint,
            progress=progress, refit=refit, **options,
        )  # fmt: skip
        return _of_replicas(result.spectrum(binning), throws, refit)
    unfold: Unfold = functools.partial(_omnifolded, binning, members, throws.seed, options)
    if refit == "last layer":
        fit = Fit(network, losses.by_name(loss), training, _piloted(throws.seed, members), device, None, progress, {})
        unfold = _refolding(fit, iterations, rules, binning, data, nominal, others)
    thrown = unfold_throws(
        unfold, data, simulation, throws, background=background, executor=executor, checkpoint=checkpoint,
        progress=progress,
    )  # fmt: skip
    return replace(thrown, left_out=_left_out(thrown.nominal, refit))


def _of_replicas(spectrum: Spectrum, throws: Throws, refit: str) -> Thrown:
    """The throws that are the replicas of one unfolding."""
    nominal = replace(spectrum, replicas=spectrum.replicas[:0])
    return Thrown(nominal, spectrum.replicas, _alphas(throws), {}, _left_out(spectrum, refit))


def _left_out(nominal: Spectrum, refit: str) -> tuple[str, ...]:
    """Last layers have no noise of training: the nominal members have it, where there are some."""
    return ("method",) if refit == "last layer" and "method" in nominal.covariances else ()


def _omnifolded(
    binning: Binning, members: int, nominal: int, options: Mapping[str, Any], data: Events, simulation: Events,
    background: Events | None, seed: int,
) -> Spectrum:  # fmt: skip
    """One throw, of one network, or the nominal spectrum."""
    many = members if seed == nominal else 1
    result = omnifold(data, simulation, background=background, members=many, seed=seed, progress=False, **options)
    return result.spectrum(binning)


def _piloted(seed: int, members: int) -> Resample:
    """The nominal networks, and the pilots of their last layers."""
    return Resample.with_replicas(seed=seed, members=members, replicas=PILOTS, validation=0.0)


def _refolding(
    fit: Fit, iterations: int, rules: Mapping[str, Any], binning: Binning, data: Events, simulation: Events,
    background: Events | None,
) -> Unfold:  # fmt: skip
    """What unfolds throws by the last layers of the nominal networks, which are trained here."""
    run = prepared(data, simulation, background, group=None, fit=fit, **rules)
    trained = replace(unfolded(run, iterations, None), replicas=np.empty((0, len(simulation))))  # without the pilots
    return functools.partial(_refolded, trained.spectrum(binning), fit, iterations, rules)


def _refolded(
    nominal: Spectrum, fit: Fit, iterations: int, rules: Mapping[str, Any], data: Events, simulation: Events,
    background: Events | None, seed: int,
) -> Spectrum:  # fmt: skip
    """One throw, by the last layers of a member of ``fit``, or the nominal spectrum.

    What it moves that member by is added to the members' mean: differences of members are the method's, not a throw's.
    """
    if seed == fit.resample.seed:
        return nominal
    again = Refit.of(fit, Resample.with_replicas(seed=seed, members=1, replicas=0, validation=0.0), seed)
    run = prepared(data, simulation, background, group=None, fit=again, **rules)
    found = unfolded(run, iterations, None).spectrum(nominal.binning)
    return replace(found, values=found.values - nominal.members[again.own[0]] + nominal.values)


def _universes(
    throws: Throws, simulation: Events, nominal: Events, background: Events | None, others: Events | None
) -> tuple[Floats, Floats | None] | None:
    """Factors (events, K) of simulation and background, None where one batch cannot hold the throws."""
    if throws.alone or not (throws.data and throws.simulation):  # `omnifold` bootstraps everything
        return None
    factors = _weights_alone(throws, simulation, nominal, "simulation")
    if factors is None or background is None or others is None:
        return None if factors is None else (factors, None)
    more = _weights_alone(throws, background, others, "background")
    return None if more is None else (factors, more)


def _weights_alone(throws: Throws, events: Events, nominal: Events, sample: Sample) -> Floats | None:
    """Factors (events, K) of the nominal weights, None where a throw changes columns or rows."""
    factors = np.ones((len(nominal), throws.count))
    for number in range(throws.count):
        varied = throws.varied(number, events, sample)
        used = nominal.weight != 0
        if not _same_but_weights(varied, nominal) or np.any(varied.weight[~used]):  # no factor makes 0 anything else
            return None
        np.divide(varied.weight, nominal.weight, out=factors[:, number], where=used)
    return factors


def _same_but_weights(one: Events, other: Events) -> bool:
    """Whether ids and columns are equal; those that a source did not touch are the very same arrays."""
    if one.columns != other.columns or not np.array_equal(one.id, other.id):
        return False
    for name in one.columns:
        pair = [(c.values, c.offsets) if isinstance(c, Ragged) else (c,) for c in (one[name], other[name])]
        if not all(a is b or np.array_equal(a, b, equal_nan=a.dtype.kind == "f") for a, b in zip(*pair, strict=True)):
            return False
    return True


def _alphas(throws: Throws) -> dict[str, Floats]:
    return {name: np.stack([throws.alpha(k, name) for k in range(throws.count)]) for name in throws.systematics}


def _unfolded(
    unfold: Unfold, data: Counts, simulation: Events, background: Counts, throws: Throws, binning: Binning,
    task: tuple[int, str], rng: np.random.Generator,
) -> dict[str, Floats]:  # fmt: skip
    """The spectrum of a throw, joint for no name, else of one source alone."""
    number, only = task
    varied = throws.varied(number, simulation, "simulation", only=only or None)
    other = background
    if isinstance(background, Events):
        other = throws.varied(number, background, "background", only=only or None)
    if not only and throws.simulation:
        varied = throws.bootstrapped(number, varied)
        other = throws.bootstrapped(number, other) if isinstance(other, Events) else other
    counted = throws.fluctuated(number, data) if throws.data and not only else data
    found = unfold(counted, varied, other, hashing.salt(throws.seed, "method", number, only) >> 1)
    if not same_bins(found.binning, binning):
        raise ValueError(f"unfold: expected the bins {binning!r} in each throw, found {found.binning!r}")
    return {"values": found.values}


def _selected(throws: Throws, events: Any) -> Any:
    return throws.select(events) if throws.select is not None and isinstance(events, Events) else events


def _correlation(covariance: Floats) -> Floats:
    sigma = np.sqrt(np.diag(covariance))
    unit = np.where(sigma > 0, sigma, 1.0)
    return np.asarray(covariance / np.outer(unit, unit))


def _check_universes(name: str, factors: NDArray[Any]) -> None:
    if factors.ndim != 2 or factors.shape[1] < 2:
        raise ValueError(f"systematic {name!r}: expected a function, or weights (events, universes) of at least 2 "
                         f"universes, found shape {factors.shape}")  # fmt: skip
    check_factors(f"systematic {name!r}", factors, "weights")


def _check_shift(name: str, before: Events, after: Events) -> None:
    """Raise for other rows, and for weights that are not finite or changed their sign."""
    if not isinstance(after, Events) or len(after) != len(before):
        found = f"{len(after)} of {len(before)}" if isinstance(after, Events) else type(after).__name__
        raise ValueError(f"systematic {name!r}: expected the same events, shifted, found {found}; set pass_reco "
                         f"instead of leaving rows out, and select by select=")  # fmt: skip
    weight = after.weight
    bad = np.flatnonzero(~np.isfinite(weight) | (weight * before.weight < 0))
    if len(bad):
        raise ValueError(f"systematic {name!r}: expected finite weights of the same sign, found {len(bad)} of "
                         f"{len(after)} that are not, first {weight[bad[0]]:g} at row {bad[0]}")  # fmt: skip
