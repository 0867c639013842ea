r"""OmniFold: unfolding by two density ratios, alternated.

The simulation's events i have truth t_i, reco x_i (where ``pass_reco``) and weight w_i; nu_i multiplies it, at first 1.
Iteration k:

1. *reco*: the ratio of the data (signal part) to the simulation at present, r(x) = D(x) / S_k(x), gives each
   reconstructed event the weight omega_i = nu_i r(x_i).
2. *truth*: nu_i <- E[omega | t_i], the ratio of the simulation weighted by w omega to that weighted by w.

The second step is fitted on one sample that carries both weights, not on two copies of it: an event counts with both of
its weights at the same point, so that what cancels between them makes no noise.

**Misses** (``pass_reco`` false) have no omega.  ``"conditional"``: step 2 uses reconstructed events, and misses get the
function nu(t) that they teach, E[omega | t]; this is D'Agostini's update with its division by the efficiency.
``"prior"``: misses enter step 2 with their weight of the iteration before, which slows convergence where the efficiency
is low, and keeps the reco rate from being the data's before convergence.

**Background and fakes.**  Background events enter step 1 as data with negative weight.  Fakes (``pass_truth`` false) do
too with ``"subtract"``, which keeps their absolute yield; with ``"scale"`` the data are weighted by the simulation's
purity p(x) = S_0 / (S_0 + F_0), learned, which keeps their fraction at each x.  Few fakes need many epochs: it is
trained for `nuinfer.unfolding.samples.PURITY_STEPS` steps at least.

**Rate.**  Ratios are absolute: after each step the weights are normalised so that the reconstructed signal's sum is
that of the data's signal part (with ``misses="prior"``: that of omega and the misses).

Sources: Andreassen, Komiske, Metodiev, Nachman, Thaler, arXiv 1911.09107 (method), arXiv 2105.04448 (misses and fakes);
D'Agostini, Nucl. Instrum. Meth. A 362 (1995) 487 (iterative Bayes, its binned limit).
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray

from ... import losses
from ...events import Events
from ...features import Features
from ...nets import MLP, DeepSet, Network
from ...resample import Resample
from ...train import Training
from ...trees import Trees
from ..measured import check_fakes
from ..samples import check_counts, check_factors, warn_of_shared_keys
from .result import Unfolded
from .steps import Fit, Refit, Run, SampleWeights, purity_of, tables

__all__ = ["omnifold"]

Floats = NDArray[np.float64]

#: Training of one step: a short schedule run to its end.  Stopping early, or going back to an epoch before the learning
#: rate has fallen, costs more accuracy of the weights than it saves (docs/performance.md).
TRAINING = Training(epochs=16, batch=1024, learning_rate=3e-3)


def omnifold(
    data: Events,
    simulation: Events,
    *,
    reco: Features | Sequence[str],
    truth: Features | Sequence[str],
    background: Events | None = None,
    misses: Literal["conditional", "prior"] = "conditional",
    fakes: Literal["subtract", "scale"] = "subtract",
    iterations: int = 3,
    members: int = 1,
    bootstrap: int = 0,
    refit: Literal["network", "last layer"] = "network",
    universes: ArrayLike | None = None,
    background_universes: ArrayLike | None = None,
    group: str | None = None,
    outside: float = 0.05,
    network: Network | Trees = MLP(),  # noqa: B008 - a frozen spec
    loss: losses.RatioLoss = "bce",
    validation: float = 0.0,
    training: Training = TRAINING,
    seed: int,
    device: str = "cpu",
    checkpoint: str | Path | None = None,
    progress: bool = True,
) -> Unfolded:
    """Unfold ``data`` with the detector that ``simulation`` went through.

    Parameters
    ----------
    data:
        Measured events with the reco columns; weights of any sign.  Where it has a column ``pass_reco``, the others
        are left out.
    simulation:
        Events with truth and reco columns, and boolean columns ``pass_reco``, ``pass_truth`` where there are misses or
        fakes.  A miss needs no finite reco columns, a fake no truth ones.
    reco, truth:
        What the networks of the two steps see: flat columns, or `Features` with clouds.
    background:
        Events with the reco columns whose sum of weights is what is expected in the data; subtracted.
    misses, fakes:
        See the module.
    iterations:
        How often the two steps alternate: more is less bias towards the simulation, and more noise.
    members:
        Replicas with their own initial weights, batches and validation split.  Their mean is the answer, its method
        variance theirs over K.
    bootstrap:
        So many further replicas, each on its own Poisson bootstrap of data, background and simulation: the statistical
        covariance.  All of them train together with the members.  Multiplicities are hashes of ids, so that data,
        background and simulation need ids of their own (those that are not given are).
    refit:
        What each of these replicas fits: the whole ``"network"``; or the ``"last layer"`` of a member's networks, which
        costs a small part of it and leaves out the noise of training (`nuinfer.last_layer`; `MLP` and `DeepSet` only).
        Two of them are trained nevertheless, and show how far training goes.
    universes, background_universes:
        Factors (events, bootstrap) of the weights of simulation and background, a column a replica: systematics that
        change weights alone, thrown together with the statistics and trained in the same batch.
    group:
        Integer column whose equal values (detector throws of one true event) stay together in splits and bootstraps.
        Data and background without it go by their ids.
    outside:
        The largest share of the data that may lie outside the range of everything that is simulated, background
        included, in a flat reco column: no event can be weighted to them, and their rate goes to others.
    network, loss, validation, training, device, progress:
        As in `fit_ratio`; networks start each iteration from the one before.  Of a ``DeepSet`` or ``Transformer``, a
        side without clouds uses the ``head``.
    seed:
        The same seed gives the same weights, to the bit, at a fixed number of threads.
    checkpoint:
        A folder; a run that was stopped continues from it and gives the same numbers.

    Returns
    -------
    Unfolded
        ``weights`` (members, events) that multiply ``simulation.weight``; 1 for events that pass neither selection.

    Raises
    ------
    ValueError
        for empty samples, totals that are not positive (of the simulation, or of the data after subtraction), columns
        that are not finite where their flag is true; universes of another shape, negative or not finite;
        ``KeyError``, ``TypeError`` for columns missing or of another kind, and for networks that cannot be refitted.
    NotConverged
        for replicas whose last layers do not converge.

    Examples
    --------
    >>> import numpy as np
    >>> rng = np.random.default_rng(1)
    >>> t, nature = rng.normal(0.2, 0.9, 4000), rng.normal(0, 1, 4000)
    >>> simulation = Events({"t": t, "x": t + rng.normal(0, 0.5, 4000)})
    >>> data = Events({"x": nature + rng.normal(0, 0.5, 4000)})
    >>> result = omnifold(data, simulation, reco=["x"], truth=["t"], iterations=2, seed=1, progress=False,
    ...                   network=MLP(width=16, depth=2), training=Training(epochs=8, batch=256))
    >>> bool(abs(np.average(t, weights=result.weights[0])) < 0.1)
    True
    """
    check_counts(iterations=iterations, members=members)
    check_counts(bootstrap=bootstrap, least=0)
    check_refit(refit, network)
    if bootstrap:
        warn_of_shared_keys(data, background, simulation, group)
    apart = refit == "last layer" and bootstrap > 0
    resample = Resample.with_replicas(seed=seed, members=members, replicas=bootstrap, validation=validation)
    fit = Fit(network, losses.by_name(loss), training, resample, device, checkpoint, progress)
    factors = _factors("universes", universes, len(simulation), members, bootstrap)
    varied = factors, background_universes
    start = functools.partial(prepared, data, simulation, background, reco, truth, misses, fakes, group, outside)
    if not apart:
        return unfolded(start(fit, *varied), iterations, group, factors).with_data(data, background)
    piloted = fit.piloted()
    found = unfolded(start(piloted), iterations, group)
    refits = Refit.of(piloted, resample)
    again = unfolded(start(refits, *varied), iterations, group, factors)
    _move_about_the_mean(again.replicas, found.weights, refits.own[members:])
    return replace(found, replicas=again.replicas).with_data(data, background)


def _move_about_the_mean(replicas: Floats, weights: Floats, own: Sequence[int]) -> None:
    """Replicas (R, events) of members' last layers, in place: the factors that change a member change the mean.

    Otherwise differences of members, which are the method's, would be in their spread.
    """
    mean = weights.mean(0)
    factors = np.divide(mean, weights, out=np.ones_like(weights), where=weights != 0)
    for replica, member in zip(replicas, own, strict=True):
        replica *= factors[member]


def unfolded(run: Run, iterations: int, group: str | None, factors: Floats | None = None) -> Unfolded:
    """The result of all iterations, with the factors (networks, events) in its replicas."""
    steps = tuple(run.iterate(number) for number in range(iterations))
    resample = run.fit.resample
    weights = run.full_weights(0, resample.plain)
    settings = run.settings(iterations)
    return Unfolded(run.sample.simulation, weights, run.replicas(factors), steps, resample.seed, group, settings)


def prepared(
    data: Events, simulation: Events, background: Events | None, reco: Features | Sequence[str],
    truth: Features | Sequence[str], misses: str, fakes: str, group: str | None, outside: float, fit: Fit,
    factors: Floats | None = None, background_universes: ArrayLike | None = None, make: Callable[..., Run] = Run,
) -> Run:  # fmt: skip
    """The state of all networks before the first iteration; errors as `omnifold`."""
    _check_rules(misses, fakes)
    reco, truth = Features.of(reco), Features.of(truth)
    sample, plain = tables(data, simulation, background, reco, truth, fakes, group, outside), fit.resample.plain
    others = _factors("background_universes", background_universes, sample.background, plain,
                      fit.resample.members - plain)  # fmt: skip
    own = SampleWeights.of(sample, factors, others)
    observed = own.observed
    if fakes == "scale" and len(sample.rows.fakes):
        observed = observed * purity_of(sample, own, fit, reco)
    return make(sample, own, fit, reco, truth, observed, misses, fakes)


def _factors(what: str, given: ArrayLike | None, events: int, members: int, replicas: int) -> Floats | None:
    """Factors (networks, events) of the weights, 1 for the members."""
    if given is None:
        return None
    found = np.asarray(given, np.float64)
    if found.shape != (events, replicas) or not replicas:
        raise ValueError(f"{what}: expected factors (events, bootstrap) = ({events}, {replicas}), found shape "
                         f"{found.shape}; give bootstrap= as many as universes")  # fmt: skip
    check_factors(what, found, "factors")
    return np.concatenate([np.ones((members, events)), found.T])


def check_refit(refit: str, network: Network | Trees) -> None:
    """Raise for another word, and for networks whose last layers are not known."""
    if refit not in ("network", "last layer"):
        raise ValueError(f"refit: expected 'network' or 'last layer', found {refit!r}")
    if refit == "last layer" and not isinstance(network, MLP | DeepSet):
        raise TypeError(f"refit='last layer': expected an MLP or a DeepSet, found {network!r}; take refit='network'")


def _check_rules(misses: str, fakes: str) -> None:
    if misses not in ("conditional", "prior"):
        raise ValueError(f"misses: expected 'conditional' or 'prior', found {misses!r}")
    check_fakes(fakes)
