"""Background toys of a hunt: samples without a signal, searched as the data are, with classifiers of their own.

Where a sample is from decides what the toys can tell.

- "shuffle": the data, their masses permuted.  Features and mass become independent, as they are assumed to be by a
  search with sidebands; the spectrum of all events stays what it is, so that an efficiency of 1 is not tested.
- "spectrum": the data, with masses drawn from the fit of the spectrum of all events.  The same, and the spectrum of all
  events fluctuates too.
- "simulation": given background events, each taken a Poisson number of times.
- "template": events drawn from a template's density p(x | m) at masses of its fitted spectrum.
"""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import Executor
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, get_args

import numpy as np
from numpy.typing import NDArray

from ... import hashing, tasks
from ...events import Events
from ...trees import Trees
from ..bump.fits import fit_bump
from ..bump.likelihoods import BumpLikelihood
from ..templates.base import FittedTemplate
from .results import HuntToys
from .search import Search

__all__ = ["ToySource", "hunt_toys"]

Floats = NDArray[np.float64]
ToySource = Literal["shuffle", "spectrum", "simulation", "template"]
Draw = Callable[[np.random.Generator], Events]

_WORDS = {
    "shuffle": "masses permuted among the events: hides any dependence of the features on the mass, leaves a signal's "
    "events in the sample, and keeps the spectrum of all events as it is, an excess included",
    "spectrum": "masses drawn from the fit of all events: hides any dependence of the features on the mass, a failure "
    "of the fitted function, and leaves a signal's events in the sample",
    "simulation": "background events of a simulation: hides whatever it does not describe, and the correlation of toys "
    "that share its events",
    "template": "events drawn from the template's density at masses of its fitted spectrum: hides what the density has "
    "not learned, and a failure of the fitted function",
}
_TOGETHER = 16  # networks, as in `classifiers`


def hunt_toys(
    search: Search, events: Events, *, toys: int, source: ToySource, simulation: Events | None = None, seed: int,
    executor: Executor | None = None, checkpoint: Path | None = None, progress: bool = True,
) -> HuntToys:  # fmt: skip
    """Search background toys, a few of them in one training, through `nuinfer.tasks`.

    Raises
    ------
    ValueError
        for an unknown source, one that lacks what it needs (a simulation, a template with a density, events that weigh
        0 or more), or an efficiency of 1 alone with "shuffle".
    TaskError
        where a toy cannot be searched.
    """
    if source not in get_args(ToySource):
        raise ValueError(f"toy_source: expected one of {', '.join(get_args(ToySource))}, found {source!r}")
    draw = _drawing(search, events, source, simulation, seed)
    many = 1 if isinstance(search.learner.network, Trees) else max(
        1, _TOGETHER // (search.learner.networks * len(search.windows)))  # fmt: skip
    sizes = [min(many, toys - start) for start in range(0, toys, many)]
    done = tasks.run(
        _Searched(search, draw), sizes, seed=hashing.salt(seed, "toys") >> 1, executor=executor, progress=progress,
        checkpoint=checkpoint, name=f"background toys, {source}, {events.digest()}",
    )  # fmt: skip
    found = [value for value in done.values if isinstance(value, dict)]
    p, z = (np.concatenate([np.asarray(value[name]) for value in found]) for name in ("p", "z"))
    if source == "shuffle":  # an efficiency of 1 selects the same events in each
        p[:, :, search.efficiencies == 1] = 1.0
    return HuntToys(source, _WORDS[source], p, z)


@dataclass(frozen=True, eq=False)
class _Searched:
    """A task: so many toys, together."""

    search: Search
    draw: Draw

    def __call__(self, toys: int, rng: np.random.Generator) -> dict[str, Floats]:
        """Their p and z (toys, W, E)."""
        samples = [self.draw(rng) for _ in range(toys)]
        found = self.search.run(samples, seed=int(rng.integers(2**62)), progress=False)
        return {name: np.stack([one.table(name) for one in found]) for name in ("p", "z")}


def _drawing(search: Search, events: Events, source: ToySource, simulation: Events | None, seed: int) -> Draw:
    if source == "simulation":
        return _of_simulation(simulation, len(events))
    if simulation is not None:
        raise ValueError(f"toy_simulation: expected none for toys by {source!r}, found events; "
                         f"toy_source='simulation' uses them")  # fmt: skip
    if source == "shuffle":
        if not (search.efficiencies < 1).any():
            raise ValueError("toy_source: expected an efficiency below 1 for shuffled masses, which leave the spectrum "
                             "of all events as it is; take 'spectrum'")  # fmt: skip
        return _Shuffled(events, search.resonance)
    if source == "spectrum":
        return _spectrum(search, events)
    return _of_template(search, events, seed)


@dataclass(frozen=True, eq=False)
class _Shuffled:
    events: Events
    resonance: str

    def __call__(self, rng: np.random.Generator) -> Events:
        mass = self.events.flat(self.resonance)
        return self.events.with_columns({self.resonance: mass[rng.permutation(len(mass))]})


@dataclass(frozen=True, eq=False)
class _Redrawn:
    """Masses in the fit's range are drawn anew from the fitted function."""

    events: Events
    resonance: str
    rows: NDArray[np.int64]
    at: Floats
    cumulative: Floats

    def __call__(self, rng: np.random.Generator) -> Events:
        mass = np.array(self.events.flat(self.resonance), np.float64)
        mass[self.rows] = np.interp(rng.random(len(self.rows)), self.cumulative, self.at)
        return self.events.with_columns({self.resonance: mass})


def _spectrum(search: Search, events: Events) -> _Redrawn:
    mass = np.asarray(events.flat(search.resonance), np.float64)
    low, high = float(search.edges[0]), float(search.edges[-1])
    rows = np.flatnonzero((mass >= low) & (mass < high))
    likelihood = BumpLikelihood.binned(np.histogram(mass[rows], search.edges)[0], search.background, edges=search.edges)
    fit = fit_bump(likelihood)
    fine = np.linspace(low, high, 2001)
    theta = np.array(list(fit.values.values()))
    contents = likelihood.background.integrals(np.stack([fine[:-1], fine[1:]], 1), theta, 4)
    cumulative = np.concatenate([[0.0], np.cumsum(contents)])
    return _Redrawn(events, search.resonance, rows, fine, cumulative / cumulative[-1])


@dataclass(frozen=True, eq=False)
class _Bootstrapped:
    """Copies of an event keep its id, so that no network is applied to a copy of what it was trained on."""

    simulation: Events
    mean: Floats

    def __call__(self, rng: np.random.Generator) -> Events:
        rows = np.repeat(np.arange(len(self.mean)), rng.poisson(self.mean))
        return self.simulation.select(rows).with_weight(1.0)


def _of_simulation(simulation: Events | None, events: int) -> _Bootstrapped:
    if simulation is None:
        raise ValueError("toy_simulation: expected background events for toys of a simulation, found none")
    if (simulation.weight < 0).any() or not simulation.sum_weights > 0:
        negative = int((simulation.weight < 0).sum())
        raise ValueError(f"toy_simulation: expected weights from 0, found {negative} negative ones of "
                         f"{len(simulation)}; refine them first (nuinfer.ratio.refine)")  # fmt: skip
    return _Bootstrapped(simulation, simulation.weight * (events / simulation.sum_weights))


@dataclass(frozen=True, eq=False)
class _Template:
    fitted: FittedTemplate
    range: tuple[float, float]

    def __call__(self, rng: np.random.Generator) -> Events:
        return self.fitted.background(self.range, seed=int(rng.integers(2**62))).with_weight(1.0)


def _of_template(search: Search, events: Events, seed: int) -> _Template:
    """Of the window with the widest range; its density is asked for beyond it where others reach further."""
    ranges = [window.range for window in search.windows]
    widest = search.windows[int(np.argmax([high - low for low, high in ranges]))]
    fitted = search.template.fit(
        events, search.resonance, search.features, widest, seed=hashing.salt(seed, "toy template") >> 1,
        folds=search.learner.folds, device=search.learner.device, progress=False,
    )  # fmt: skip
    if fitted.draw is None or fitted.spectrum is None:
        raise ValueError(f"toy_source: expected a template with a density for toys by 'template', found "
                         f"{type(search.template).__name__}; take Cathode, or another source")  # fmt: skip
    return _Template(fitted, (float(search.edges[0]), float(search.edges[-1])))
