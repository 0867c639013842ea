"""The five methods, and what their throws share: sources, selection, the flux that answers are carried to."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

import nuinfer as nu
from analyses.numu_cross_section import detector, generator, systematics
from analyses.numu_cross_section.flux import INTEGRAL
from nuinfer.density import NSF
from nuinfer.unfolding import (
    Binning,
    CrossSection,
    Response,
    Spectrum,
    Throws,
    cross_section,
    generative_unfolding,
    iterative_bayes,
    wiener_svd,
)

Floats = NDArray[np.float64]

P_EDGES = (
    [0.2, 0.4, 0.6, 1.0], [0.2, 0.4, 0.6, 1.0], [0.2, 0.5, 0.8, 1.4], [0.2, 0.5, 0.8, 1.1, 1.6],
    [0.2, 0.5, 0.8, 1.1, 1.4, 2.2], [0.2, 0.6, 0.9, 1.2, 1.5, 2.0, 3.0],
)  # fmt: skip
COS_EDGES = [-1.0, 0.0, 0.4, 0.7, 0.85, 0.95, 1.0]


def binning(name: str, split: Sequence[int] = (1,) * len(P_EDGES)) -> Binning:
    """Six slices of cos theta with momentum bins of their own, in "true" or "reco", each bin in ``split`` parts."""
    finer = [np.interp(np.arange(k * (len(e) - 1) + 1) / k, np.arange(len(e)), e)
             for e, k in zip(P_EDGES, split, strict=True)]  # fmt: skip
    return Binning(f"cos_{name}", COS_EDGES, [Binning(f"p_{name}", e) for e in finer])


#: Momentum twice as fine where there are events enough.
TRUTH, RECO = binning("true"), binning("reco", (1, 1, 2, 2, 2, 2))
#: Both binned methods in one throw: one response, and the correlation between them.
BOTH = Binning("method", [0, 1, 2], TRUTH)
ITERATIONS = 4
HIGH = ["p_reco", "cos_reco"]
HITS = nu.Features(HIGH, hits=["x", "y", "z", "q"])


@dataclass(frozen=True)
class Size:
    """How much is done."""

    pot: float = 1e20  # of the data: 15,000 selected events
    events: int = 150_000  # simulated interactions
    binned: int = 240  # throws of the binned methods,
    high: int = 80  # of OmniFold on momentum and angle,
    hits: int = 40  # of OmniFold on the hits,
    flow: int = 40  # of the flow, each of which is trained
    toys: int = 200
    members: int = 2
    hit_members: int = 2
    bootstrap: int = 40  # of the OmniFold that is checked
    epochs: int = 8
    batch: int = 1024
    flow_batch: int = 2048

    @classmethod
    def fast(cls) -> Size:
        """A small run, for tests."""
        return cls(pot=3e19, events=24_000, binned=40, high=24, hits=24, flow=24, toys=20, hit_members=1, bootstrap=20,
                   epochs=2, batch=512, flow_batch=1024)  # fmt: skip


@dataclass(frozen=True, eq=False)
class Samples:
    """The data, of model B; simulation and background of model A in the data's exposure."""

    data: nu.Events
    simulation: nu.Events
    background: nu.Events
    pot: float

    @classmethod
    def of(cls, size: Size, seed: int) -> Samples:
        simulation = detector.simulate("A", size.pot, seed, events=size.events)
        background = detector.background("A", size.pot, seed, events=size.events // 5)
        return cls(detector.pseudo_data("B", size.pot, seed + 1), simulation, background, size.pot)

    @property
    def selected(self) -> tuple[nu.Events, nu.Events]:
        """Simulation and background as a response takes them."""
        return detector.either(self.simulation), self.background.select(self.background["pass_reco"])

    def truth(self, model: str) -> Floats:
        """The expected events of a model in each bin, by quadrature (B,)."""
        per_bin = generator.binned(model, TRUTH) * TRUTH.widths
        return np.asarray(self.pot * INTEGRAL * detector.TARGETS * per_bin)


# -- in bins -----------------------------------------------------------------------------------------------------------


def response_of(simulation: nu.Events) -> Response:
    return Response.from_events(simulation, truth=TRUTH, reco=RECO)


def bayes(data: Any, response: Response, background: Any) -> Spectrum:
    return iterative_bayes(data, response, background=background, iterations=ITERATIONS, outside=0.01)


def wiener(data: Any, response: Response, background: Any) -> Spectrum:
    return wiener_svd(data, response, background=background, order=2)


def steps(data: Any, response: Response, background: Any) -> list[Floats]:
    """Iterative Bayes after each of six iterations."""
    return [
        iterative_bayes(data, response, background=background, iterations=k, outside=0.01).values for k in range(1, 7)
    ]


def other_priors(name: str, data: Any, response: Response, background: Any, other: Floats) -> dict[str, Spectrum]:
    """The same data with generator B as prior or model of the signal."""
    if name == "iterative Bayes":
        found = iterative_bayes(
            data, response, background=background, iterations=ITERATIONS, prior=other, outside=0.01
        )  # fmt: skip
    else:
        found = wiener_svd(data, response, background=background, order=2, model=other)
    return {"generator B": found}


BINNED = {"iterative Bayes": bayes, "Wiener-SVD": wiener}


def both(data: Any, simulation: nu.Events, background: Any, seed: int) -> Spectrum:
    """The two binned methods as one spectrum of events, so that a throw costs one response."""
    response, counts = response_of(simulation), RECO.fill(data)[0]
    found = [unfold(counts, response, background) for unfold in BINNED.values()]
    return Spectrum(BOTH, np.concatenate([one.values for one in found]), {"data": np.eye(BOTH.size)})


# -- without bins ------------------------------------------------------------------------------------------------------


def fold_options(size: Size, *, hits: bool = False) -> dict[str, Any]:
    """Of OmniFold on momentum and angle, or on the hits beside them; of a throw its last layers alone are fitted."""
    deep = nu.DeepSet(width=16, depth=2, latent=8, pool="mean", head=nu.MLP(width=32, depth=2))
    return {
        "reco": HITS if hits else HIGH, "truth": ["p_true", "cos_true"], "iterations": ITERATIONS,
        "members": size.hit_members if hits else size.members, "refit": "last layer",
        "network": deep if hits else nu.MLP(width=32, depth=2),
        "training": nu.Training(epochs=size.epochs, batch=size.batch),
    }  # fmt: skip


def omnifolded(samples: Samples, size: Size, seed: int, *, progress: bool = True) -> nu.Unfolded:
    """OmniFold on momentum and angle, its members those of the throws, with bootstraps: the events, to be checked."""
    simulation, background = samples.selected
    return nu.omnifold(samples.data, simulation, background=background, bootstrap=size.bootstrap, seed=seed,
                       progress=progress, **fold_options(size))  # fmt: skip


def generated(size: Size, data: Any, simulation: nu.Events, background: Any, seed: int) -> Spectrum:
    """p(p_true, cos_true | p_reco, cos_reco) by a flow, twice, once with the prior removed."""
    training = nu.Training(epochs=size.epochs + 2, batch=size.flow_batch, learning_rate=1e-2)
    return generative_unfolding(
        data, simulation, reco=HIGH, truth=["p_true", "cos_true"], background=background, iterations=2,
        bounds={"p_true": (0.0, None), "cos_true": (-1.0, 1.0)}, network=NSF(transforms=2, width=32),
        classifier=nu.MLP(width=32, depth=2), training=training, classifier_training=training,
        efficiency_training=training, seed=seed, progress=False,
    ).spectrum(TRUTH)  # fmt: skip


# -- what throws share -------------------------------------------------------------------------------------------------


def throws_of(count: int, seed: int) -> Throws:
    """Data, simulation and all five sources; throw k is the same universe in all methods."""
    return Throws(count=count, systematics=systematics.sources("A"), select=selection, seed=seed)


def selection(events: nu.Events) -> nu.Events:
    """What is left after the shifts: events that pass a selection, as background only what is reconstructed."""
    is_background = bool((events["interaction"] == detector.NEUTRAL_CURRENT).all())
    return events.select(events["pass_reco"]) if is_background else detector.either(events)


def to_nominal(samples: Samples, alphas: Floats) -> Floats:
    """Factors (K, B) that carry what is unfolded in each thrown flux to the nominal one (arXiv 2009.00552)."""
    signal = samples.simulation.select(samples.simulation["pass_truth"])
    shift = systematics.sources("A")["flux"]
    nominal = TRUTH.fill(signal)[0]
    return np.array([nominal / TRUTH.fill(shift(signal, alpha))[0] for alpha in alphas])


# -- cross-sections ----------------------------------------------------------------------------------------------------


def measured(spectrum: Spectrum, pot: float) -> CrossSection:
    """cm^2 / GeV / nucleon, averaged over the nominal flux."""
    return cross_section(
        spectrum, flux=INTEGRAL, targets=detector.TARGETS, exposure=pot, averaging="nominal",
        units={"p_true": "GeV", "cos_true": ""},
    )  # fmt: skip
