"""What is called: data, simulation, response and nuisances in, `Profiled` out."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Literal, cast

from .... import losses
from ....events import Events
from ....features import Features
from ....likelihood.constraints import Constraint
from ....nets import MLP, Network
from ....resample import Resample
from ....train import Training
from ....trees import Trees
from ...samples import check_counts, warn_of_shared_keys
from ..result import Unfolded
from ..reweighting import TRAINING, prepared
from ..steps import Fit
from .efficiencies import warn_where_it_varies
from .model import Limits, check_misses, model_of
from .responses import Efficiency, Response
from .result import Profiled
from .run import ProfiledRun

__all__ = ["profiled_omnifold"]


def profiled_omnifold(
    data: Events,
    simulation: Events,
    *,
    reco: Features | Sequence[str],
    truth: Features | Sequence[str],
    response: Response,
    nuisances: Mapping[str, Constraint | None],
    nominal: Mapping[str, float],
    start: Mapping[str, float] | None = None,
    limits: Mapping[str, Limits] | None = None,
    acceptance: Response | None = None,
    efficiency: Efficiency | None = None,
    variations: Events | None = None,
    background: Events | None = None,
    misses: Literal["conditional", "prior"] = "conditional",
    fakes: Literal["subtract", "scale"] = "subtract",
    iterations: int = 5,
    members: int = 1,
    bootstrap: int = 0,
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
) -> Profiled:
    """Unfold ``data`` and fit the nuisances of the detector with it.

    Parameters
    ----------
    data, simulation, reco, truth:
        As in `omnifold`.  Data that do not tell the nuisances from the truth leave them to the constraints.
    response:
        W(x, y; theta), see the module: a differentiable function ``response(events, theta)`` of torch, theta (T, P) in
        the order of ``nuisances`` -> (T, N), 1 at ``nominal``; or a `ParametrisedRatio` of columns of x and y together,
        whose value at theta is divided by that at ``nominal``.  It is evaluated on the simulation's events that have
        truth and reco.  Fakes and background do not depend on theta.
    nuisances:
        What is fitted, with its constraint, None for none.  One that several share is given to each of them.  Where
        data have weights, or background is subtracted, the signal's yield counts as the number of data against it.
    nominal:
        theta_0 of the simulation.
    start:
        Before the first iteration, for all networks; by default the constraints' centres, of bootstraps those of their
        own outcomes (or the limit before them), and ``nominal`` without one.
    limits:
        (lower, upper) of nuisances, None for none.  What is common to the ratios' ranges in training is always one.
    acceptance:
        a(x; theta) = E[W | x] over reconstructed events, in the same forms; None for 1.  A mean of W that is not 1
        without it, over all or a part of the truth, is told to the log.  With it the weights times a, summed over
        ``pass_reco``, are the data's yield.
    efficiency:
        Beside an acceptance, where it or the response is learned, as ratios carry no rate: ``efficiency(theta)``, theta
        by name, is the fraction of the simulated truth that is reconstructed at theta over that at ``nominal``;
        ``lambda theta: 1.0`` where theta does not change it.
    variations:
        Simulated events at thetas of their own, in columns of the nuisances' names, with ``pass_reco`` and
        ``pass_truth`` as the simulation has them: what a response was learned from, misses included.  Without an
        acceptance they tell the log where theta changes the fraction that is reconstructed, by more than four sigma.
    background, misses, members, group, outside, network, loss, validation, training, seed, device, checkpoint, \
    progress:
        As in `omnifold`.
    fakes:
        As in `omnifold`; "scale", which is by the simulation as it is, for a start at ``nominal`` only.
    iterations:
        Nuisances take more than the truth alone: look at ``trajectory``.
    bootstrap:
        Replicas of data, simulation and constraints.

    Returns
    -------
    Profiled

    Raises
    ------
    ValueError
        for a response that is not positive and finite, not 1 at ``nominal``, or does not depend on a nuisance without
        constraint; values outside of the limits; constraints of other nuisances; an efficiency missing, or given where
        nothing is learned; variations without ``pass_reco``; scaled fakes with another start than ``nominal``; and as
        `omnifold`.
    KeyError
        for names that do not match; ``TypeError`` for other constraints, or a ratio without a gradient.
    NotConverged
        where the third step has no maximum.

    Examples
    --------
    >>> from nuinfer.likelihood import Normal
    >>> from nuinfer.simulators.profiled_gaussian import ProfiledGaussian
    >>> toy = ProfiledGaussian()
    >>> result = profiled_omnifold(
    ...     toy.data(4000, 1), toy.simulation(4000, 1), reco=["y1", "y2"], truth=["t"],
    ...     response=toy.response(), nuisances={"width": Normal("width", 1.5, 0.05)}, nominal={"width": 1.0},
    ...     network=MLP(width=16, depth=2), training=Training(epochs=8, batch=256), iterations=2, seed=1,
    ...     progress=False)
    >>> bool(abs(result.values["width"] - 1.5) < 0.1)
    True
    """
    check_counts(iterations=iterations, members=members)
    check_counts(bootstrap=bootstrap, least=0)
    model = model_of(response, acceptance, efficiency, nuisances, nominal, start, limits)
    check_misses(acceptance, misses)
    if variations is not None and acceptance is None:
        warn_where_it_varies(variations, simulation, model.names)
    if bootstrap:
        warn_of_shared_keys(data, background, simulation, group)
    resample = Resample.with_replicas(seed=seed, members=members, replicas=bootstrap, validation=validation)
    fit = Fit(network, losses.by_name(loss), training, resample, device, checkpoint, progress)
    run = cast(ProfiledRun, prepared(data, simulation, background, reco, truth, misses, fakes, group, outside, fit,
                                      make=partial(ProfiledRun, model)))  # fmt: skip
    steps = [run.iterate(number) for number in range(iterations)]
    run.warn()
    settings = run.settings(iterations) | {"nuisances": list(model.names)}
    found = Unfolded(simulation, run.full_weights(0, members), run.replicas(None), tuple(steps), seed, group, settings)
    return run.result(found.with_data(data, background))
