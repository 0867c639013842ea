"""A hunt for a resonance by weak supervision: `hunt` -> `Hunt`.

In each window a classifier learns the signal region against the sidebands (or another template of the background).
Whatever the fraction of a signal, the ratio that it learns is a monotone function of that of signal to background, if
the background's features have one density in both (classification without labels, CWoLa).  The events with the highest
scores are kept, the spectrum of what is kept is fitted beside the signal region, and the excess in it is counted.

Sources: Metodiev, Nachman, Thaler, arXiv 1708.02949; Collins, Howe, Nachman, arXiv 1902.02634; ATLAS, arXiv 2005.02983;
Finke et al., arXiv 2309.13111 (trees).
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from concurrent.futures import Executor
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from ...events import Events
from ...features import Features
from ...nets import MLP, Network
from ...train import Training
from ...trees import Trees
from ..bump.shapes import BackgroundShape
from ..regions import Interval, Window
from ..templates.base import BackgroundTemplate
from ..templates.sculpting import Sculpting, sculpting_of_cuts
from ..templates.sidebands import Sidebands
from .classifiers import Crossing, Learner
from .importance import importance_of
from .results import Hunt, HuntToys
from .search import Found, Search, WindowFound, whole
from .toys import ToySource, hunt_toys

__all__ = ["hunt"]

Floats = NDArray[np.float64]

#: What is trained for unless told: networks stop on held-out events, as there is little to learn.
TRAINING = Training(epochs=20, batch=1024, patience=5)


def hunt(
    events: Events,
    *,
    resonance: str,
    features: Features | Sequence[str],
    windows: Sequence[Window] | Window,
    background: BackgroundShape,
    template: BackgroundTemplate = Sidebands(),  # noqa: B008 - a frozen spec
    network: Network | Trees = MLP(width=32, depth=2),  # noqa: B008 - a frozen spec
    members: int = 3,
    folds: int = 5,
    crossing: Crossing = "crossed",
    efficiencies: Sequence[float] = (1.0, 0.1, 0.01),
    range: Interval | None = None,
    bins: int = 50,
    fewest: int = 20,
    validation: float = 0.2,
    training: Training = TRAINING,
    importance: int = 0,
    toys: int = 0,
    toy_source: ToySource = "spectrum",
    toy_simulation: Events | None = None,
    allow_resonance: bool = False,
    seed: int,
    device: str = "cpu",
    executor: Executor | None = None,
    checkpoint: str | os.PathLike[str] | None = None,
    progress: bool = True,
) -> Hunt:
    """Search for a resonance in windows, with classifiers that have not seen what they score.

    Parameters
    ----------
    events:
        The data, each of weight 1.
    resonance:
        The flat column in which a signal is a peak.
    features:
        What classifiers see; not the resonance, unless ``allow_resonance``.
    windows:
        Signal regions with their sidebands, as `sliding_windows` makes them.
    background:
        The function that is fitted to the spectrum of selected events, with the signal region left out.
    template:
        What the signal region is compared with: `Sidebands`, `Cathode`, `Salad`, `Anode`, or one in their latent
        spaces.
    network, training, validation, device:
        As `nuinfer.fit_ratio`.
    members, folds:
        Each event is scored by the mean ratio of ``members`` networks, which were trained without its fold.
    crossing:
        "crossed": trained on all other folds.  The folds' counts are then correlated, for which the background's error
        makes up.  "sequential": on earlier folds only, which leaves the first one out, trains on half of the events,
        and has counts that are Poisson's without any correction.
    efficiencies:
        Fractions of the sidebands to keep, set fold by fold.
    range, bins:
        Of the spectrum; by default from the lowest to the highest sideband, in 50 bins, and borders at all signal
        regions.
    fewest:
        Sideband events that have to pass each efficiency.
    importance:
        How often each feature is shuffled, to see what it is worth; 0 for never.
    toys, toy_source, toy_simulation:
        Background toys, each with its own classifiers, for the global p-value, and what they are made of (see
        `nuinfer.anomaly.hunting.toys`).
    seed:
        The same seed gives the same hunt.
    executor:
        Where toys run; see `nuinfer.tasks.run`.
    checkpoint:
        A folder, from which the hunt goes on where it was interrupted.

    Returns
    -------
    Hunt

    Raises
    ------
    ValueError, TypeError, KeyError
        for windows without events in signal region or sidebands, more folds than their events can fill, the resonance
        among the features, efficiencies outside (0, 1] or with too few sideband events, events that do not weigh 1.
    NotConverged
        for a risk that is not finite.  A fit that fails is named in ``status`` instead.

    Examples
    --------
    >>> from nuinfer.anomaly.bump import Exponential
    >>> from nuinfer.anomaly.regions import Window
    >>> rng = np.random.default_rng(1)
    >>> mass = np.concatenate([rng.exponential(3.0, 6000) % 6, rng.normal(3, 0.1, 60)])
    >>> x = np.concatenate([rng.normal(0, 1, 6000), rng.normal(2.5, 0.3, 60)])
    >>> window = Window(signal=(2.7, 3.3), sidebands=((1.5, 2.7), (3.3, 4.5)))
    >>> found = hunt(Events({"m": mass, "x": x}), resonance="m", features=["x"], windows=window, range=(0, 6),
    ...              background=Exponential(1), network=Trees(min_leaf=20), efficiencies=[1, 0.05], seed=1,
    ...              members=1, progress=False)
    >>> bool(found.z[0, 1] > found.z[0, 0] > 0), found.sculpting[0].passed()
    (True, True)
    """
    learner = Learner(network=network, members=members, folds=folds, crossing=crossing, validation=validation,
                      training=training, device=device)  # fmt: skip
    search = Search.checked(
        resonance, features, windows, background=background, template=template, learner=learner,
        efficiencies=efficiencies, range=range, bins=bins, fewest=fewest, allow_resonance=allow_resonance,
    )  # fmt: skip
    for name, value, least in (("importance", importance, 0), ("toys", toys, 0), ("seed", seed, None)):
        whole(name, value, least)
    folder = None if checkpoint is None else Path(checkpoint)
    if folder is not None:
        folder.mkdir(parents=True, exist_ok=True)
    (found,) = search.run([events], seed=seed, checkpoint=folder, progress=progress)
    result = _result(search, events, found, importance, seed)
    if not toys:
        return result
    return result.with_toys(hunt_toys(
        search, events, toys=toys, source=toy_source, simulation=toy_simulation, seed=seed, executor=executor,
        checkpoint=None if folder is None else folder / "toys", progress=progress,
    ))  # fmt: skip


def _result(search: Search, events: Events, found: Found, importance: int, seed: int) -> Hunt:
    tables = {name: found.table(name) for name in ("observed", "expected", "error", "p", "z", "gof")}
    spectra = {name: np.array([[getattr(c, name) for c in w.counts] for w in found.windows])
               for name in ("counts", "background", "band")}  # fmt: skip
    worth, worth_error = importance_of(search, events, found, importance, seed)
    sidebands = [(n, *band) for n, window in enumerate(search.windows) for band in window.sidebands]
    shape = tables["p"].shape
    return Hunt(
        resonance=search.resonance, features=search.features.columns,
        signal=np.array([window.signal for window in search.windows], np.float64),
        sidebands=np.array(sidebands, np.float64), efficiencies=search.efficiencies,
        template=tuple(window.words for window in found.windows), network=repr(search.learner.network),
        crossing=search.learner.crossing, members=search.learner.members, folds=search.learner.folds, seed=seed,
        digest=events.digest(), mass=np.asarray(events.flat(search.resonance), np.float64), fold=found.fold,
        scores=np.stack([window.score for window in found.windows]),
        level=np.stack([window.level for window in found.windows]),
        thresholds=np.stack([window.cuts.score for window in found.windows]), edges=search.edges, **spectra,
        observed=tables["observed"], expected=tables["expected"], errors=tables["error"], p=tables["p"], z=tables["z"],
        gof=tables["gof"], status=tuple(c.status for window in found.windows for c in window.counts),
        auc=np.array([window.auc.value for window in found.windows]),
        auc_error=np.array([window.auc.null_sd for window in found.windows]),
        sculpting=_sculpting(search, events, found, seed), importance=worth, importance_error=worth_error,
        toys=HuntToys("", "", np.empty((0, *shape)), np.empty((0, *shape))),
    )  # fmt: skip


def _sculpting(search: Search, events: Events, found: Found, seed: int) -> tuple[Sculpting, ...]:
    """Whether what passes follows the mass, in the sidebands of each window."""
    cuts = np.flatnonzero(search.efficiencies < 1)
    if not len(cuts):
        return ()
    mass = np.asarray(events.flat(search.resonance), np.float64)
    return tuple(_sculpted(search, window, mass, cuts, seed) for window in found.windows)


def _sculpted(search: Search, found: WindowFound, mass: Floats, cuts: NDArray[np.int64], seed: int) -> Sculpting:
    rows = np.flatnonzero(found.window.in_sidebands(mass) & np.isfinite(found.score))
    passes = found.level[rows] > cuts[:, None]
    return sculpting_of_cuts(
        passes, mass[rows], efficiencies=search.efficiencies[cuts], exclude=found.window, seed=seed
    )
