"""Makes the stored examples of each kind of saved result, tests/data/*: ``python tests/stored.py``.

They are what a later version has to read, so that those that are there stay: it makes what is missing.  A new kind
needs an entry below; what is saved in another way than before needs another example beside the old one, which still has
to be read, or, where the format's number is raised, a migration.  `test_store` knows what each of them holds from the
numbers below, in closed form: networks have weights set by hand, likelihoods are normal.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from iminuit.cost import Cost
from numpy.typing import ArrayLike, NDArray
from scipy import stats
from stored_anomaly import ANOMALY
from torch import Tensor, distributions

from nuinfer import MLP, Events, Ragged, Training, Trees, diagnostics, tasks
from nuinfer.density import MAF, NSF, Density, FlowMatching, fit_density
from nuinfer.ensemble import Ensemble
from nuinfer.intervals import (
    Contour,
    Coverage,
    CriticalValues,
    Impacts,
    LocalCoverage,
    Neyman,
    Profile,
    Toys,
    TrainingUncertainty,
    bounded_interval,
    contour,
    coverage,
    discovery,
    fit,
    fit_critical_values,
    impacts,
    limit_curve,
    local_coverage,
    minos,
    neyman,
    profile,
    throw_toys,
    training_uncertainty,
    upper_limit,
)
from nuinfer.invertible import Coupling, Invertible, fit_invertible
from nuinfer.likelihood import BinnedMixture, LogNormal, Mixture, Normal, Process, Template, Workspace
from nuinfer.nets import Scale, Standardise
from nuinfer.posterior import (
    CalibratedSets,
    FittedRate,
    Likelihood,
    Posterior,
    Prior,
    RatioPosterior,
    fit_likelihood,
    fit_posterior,
    fit_posterior_ratio,
    fit_rate,
    fit_truncated,
    simulate,
)
from nuinfer.ratio import (
    ClassRatio,
    LocalScore,
    ParametrisedRatio,
    Ratio,
    fit_class_ratio,
    fit_parametrised_ratio,
    fit_ratio,
    fit_score,
)
from nuinfer.train import History
from nuinfer.unfolding import (
    Binning,
    Check,
    Checks,
    Iteration,
    IterationChoice,
    MomentComparison,
    Profiled,
    Response,
    Sideband,
    Throws,
    Unfolded,
    cross_section,
    generative_unfolding,
    iterative_bayes,
    likelihood_unfolding,
    match_moments,
    unfold_throws,
)

DATA = Path(__file__).parent / "data"
Floats = NDArray[np.float64]
TINY: dict[str, Any] = {"network": MLP(width=2, depth=1, activation="relu"), "seed": 1, "progress": False,
                        "training": Training(epochs=1, batch=16)}  # fmt: skip


class Saved(Protocol):
    def save(self, path: Path, /) -> None: ...


# -- networks, by hand -------------------------------------------------------------------------------------------------


def sample(seed: int, n: int = 40) -> Events:
    """Any events with the columns that the fits need; what is learned of them is replaced."""
    rng = np.random.default_rng(seed)
    return Events({name: rng.normal(size=n) for name in ("x", "theta", "a", "b")})


def by_hand(model: Any, first: Floats, last: Floats, bias: Floats) -> Ensemble:
    """Networks of two units: outputs last (C, 2) relu(first (2, D) u) + bias (K, C), of u = (x - 1)/2 and the rest."""
    count, columns = model.networks, first.shape[1]
    state = {
        "layer.0.weight": _tensor(first, count), "layer.0.bias": torch.zeros(count, 1, 2),
        "layer.1.weight": _tensor(last, count),
        "layer.1.bias": torch.from_numpy(np.asarray(bias, np.float32)).reshape(count, 1, -1),
    }  # fmt: skip
    assert {name: t.shape for name, t in state.items()} == {name: t.shape for name, t in model.state.items()}
    plain = Scale.plain(columns)
    plain.mean[0], plain.scale[0] = 1.0, 2.0
    return Ensemble(model.stack, state, Standardise(plain, {}))


def _tensor(matrix: Floats, count: int) -> Tensor:
    return torch.from_numpy(np.asarray(matrix, np.float32)).expand(count, *np.shape(matrix)).contiguous()


BENT = np.array([[1.0], [-1.0]])  # relu(u), relu(-u)


def ratio(*, calibrated: bool = True) -> Ratio:
    """Log r = 2 (3 relu(u) - relu(-u) + b) of networks with b = 0, .1, .2, .3: two members, two folds."""
    options = TINY | {"members": 2, "folds": 2, "calibrate": "temperature"} if calibrated else TINY
    fitted = fit_ratio(sample(1), sample(2), ["x"], **options)
    bias = np.array([[0.0], [0.1], [0.2], [0.3]])[: fitted.model.networks]
    model = by_hand(fitted.model, BENT, np.array([[3.0, -1.0]]), bias)
    return replace(fitted, model=model, maps=np.full((4, 1), np.log(2.0)) if calibrated else fitted.maps)


def tree_ratio() -> Ratio:
    """One Newton step of size 1/2 from p = 1/2 where 30 of 40 are of one class: log r = +-1/2."""
    one, zero = (Events({"x": np.repeat([0.0, 1.0], n)}) for n in ([30, 10], [10, 30]))
    trees = Trees(iterations=1, leaves=2, min_leaf=5, learning_rate=0.5)
    return fit_ratio(one, zero, ["x"], network=trees, validation=0.0, seed=1, progress=False)


def parametrised_ratio() -> ParametrisedRatio:
    """Log r = 1.5 (u + v) + 1/4 with v = (theta - 1/2)/4, between -3 and 5."""
    fitted = fit_parametrised_ratio(sample(1), ["theta"], ["x"], reference=sample(2), **TINY)
    learned = fitted.learned
    model = by_hand(learned.model, np.array([[1.0, 1.0], [-1.0, -1.0]]), np.array([[1.5, -1.5]]), np.array([[0.25]]))
    centre, scale, low, high = (np.array([v]) for v in (0.5, 4.0, -3.0, 5.0))
    parameters = replace(fitted.parameters, centre=centre, scale=scale, low=low, high=high)
    return replace(fitted, learned=replace(learned, model=model), parameters=parameters)


def local_score() -> LocalScore:
    """t = (3 relu(u) x 2, (relu(-u) + 1) x 1/2) at (1, 2)."""
    fitted = fit_score(sample(1), ["a", "b"], ["x"], reference=[1.0, 2.0], joint_score=["a", "b"], **TINY)
    model = by_hand(fitted.learned.model, BENT, np.array([[3.0, 0.0], [0.0, 1.0]]), np.array([[0.0, 1.0]]))
    information = np.array([[2.0, 0.5], [0.5, 1.0]])
    learned = replace(fitted.learned, model=model)
    return replace(fitted, learned=learned, scale=np.array([2.0, 0.5]), information=information)


def class_ratio() -> ClassRatio:
    """Logits (0, u, 2 u) of classes with fractions 1/2, 1/4, 1/4, at the temperature 1/2 and without offsets."""
    samples = {name: sample(i, n) for i, (name, n) in enumerate({"A": 40, "B": 20, "C": 20}.items())}
    fitted = fit_class_ratio(samples, ["x"], calibrate="temperature", **TINY)
    rows = np.array([[0.0, 0.0], [1.0, -1.0], [2.0, -2.0]])
    learned = replace(fitted.learned, model=by_hand(fitted.learned.model, BENT, rows, np.zeros((1, 3))))
    return replace(fitted, learned=learned, maps=np.array([[2.0, 0.0, 0.0, 0.0]]))


# -- unfolding and tasks -----------------------------------------------------------------------------------------------


def simulation() -> Events:
    """Twelve events of weights 1 and 2; the last is a miss, the first a fake."""
    rows = np.arange(12)
    columns = {"y": 0.25 * rows, "pass_reco": rows < 11, "pass_truth": rows > 0}
    return Events(columns, weight=np.where(rows % 2, 2.0, 1.0), id=100 + rows)


def unfolded() -> Unfolded:
    """Two members of weights 1 + i/10 and 1 - i/20 for event i, two replicas of weights 1 and 3, one iteration."""
    rows = np.arange(12.0)
    weights = np.stack([1 + 0.1 * rows, 1 - 0.05 * rows])
    history = History(np.full((2, 2), 0.7), np.full((2, 2), 0.6), np.array([1e-3, 1e-4]), np.array([1, 0]))
    step = Iteration(weights, np.array([0.5, 0.25]), np.array([11.0, 12.0]), history, None)
    replicas = np.stack([np.ones(12), np.full(12, 3.0)])
    return Unfolded(simulation(), weights, replicas, (step,), 7, None, {"iterations": 1})


def squares(task: int, rng: np.random.Generator) -> dict[str, Any]:
    if task == 2:
        raise ArithmeticError("two is not done")
    return {"square": task**2, "powers": np.array([task, task**3], np.float64)}


def results() -> tasks.Results:
    """Squares and cubes of 0, 1 and 3; task 2 failed."""
    return tasks.run(squares, 4, seed=1, errors="record", progress=False)


# -- intervals, of normal likelihoods ----------------------------------------------------------------------------------


def correlated() -> Cost:
    """A and b at 1 and -1, of errors 1/2 and 2, with a correlation of 0.6."""
    return Normal(["a", "b"], [1.0, -1.0], covariance=[[0.25, 0.6], [0.6, 4.0]])


def profiled() -> Profile:
    return profile(correlated(), "a", np.linspace(-1, 3, 9))


def ellipse() -> Contour:
    return contour(correlated(), "a", "b", grid=(np.linspace(-1, 3, 9), np.linspace(-9, 7, 9)))


def pulled() -> Impacts:
    """Mu and lumi measured at 2 and 0 with the covariance ((2, 1/2), (1/2, 1)), and lumi at 0 +- 1 by itself too."""
    cost = Normal(["mu", "lumi"], [2.0, 0.0], covariance=[[2.0, 0.5], [0.5, 1.0]])
    return impacts(cost + Normal("lumi", 0.0, 1.0), "mu", groups={"beam": ["lumi"]})


def counted() -> Any:
    """25 events where 10 mu + 10 are expected."""
    model = BinnedMixture({"SR": {"S": Template(contents=[10.0], coefficient="mu"), "B": Template(contents=[10.0])}},
                          limits={"mu": (0, None)})  # fmt: skip
    return model({"SR": [25]})


def trained() -> TrainingUncertainty:
    """Answers of 0, 1 and 2 from three bootstraps around a fit of 1 +- 1/2."""
    return training_uncertainty(fit(Normal("mu", 1.0, 0.5)), [Normal("mu", k, 0.5) for k in (0.0, 1.0, 2.0)])


def flow() -> Density:
    """Of x in (0, 1), hardly trained."""
    events = Events({"x": np.linspace(0.01, 0.99, 40)})
    return fit_density(events, ["x"], bounds={"x": (0, 1)}, network=NSF(transforms=1, width=4, depth=1, bins=4),
                       members=2, training=Training(epochs=1, batch=20), validation=0.0, progress=False)  # fmt: skip


# -- posteriors: flows that are hardly moved from where they begin, a normal of the training rows' moments -------------

STILL = Training(epochs=1, batch=20, learning_rate=1e-12)
SMALL_FLOW: dict[str, Any] = {"network": NSF(transforms=1, width=4, depth=1, bins=4), "members": 2, "validation": 0.0,
                              "training": STILL, "progress": False}  # fmt: skip
PAIRS = Events({"t": np.linspace(-2, 4, 41), "x": np.linspace(3, 5, 41) ** 2})
NORMAL = {"t": distributions.Normal(1.0, 2.0)}


def shift_all(theta: NDArray[np.float64], rng: np.random.Generator) -> dict[str, NDArray[np.float64]]:
    return {"x": theta[:, 0] + rng.normal(size=len(theta))}


def shift(theta: NDArray[np.float64], rng: np.random.Generator) -> dict[str, NDArray[np.float64]]:
    if (theta[:, 0] > 3).any():
        raise ArithmeticError("too large")
    return {"x": theta[:, 0] + rng.normal(size=len(theta))}


def invertible() -> Invertible:
    """Of y = 2 t."""
    events = Events({"t": np.linspace(-1, 1, 40), "y": np.linspace(-2, 2, 40)})
    return fit_invertible(events, ["t"], ["y"], network=Coupling(blocks=2, width=4, depth=1), validation=0.0,
                          latent=1, padding=1, training=STILL, progress=False)  # fmt: skip


def rated() -> FittedRate:
    clouds = Events({"t": [0.0, 1.0, 2.0, 3.0], "n.x": Ragged.of([[0.0] * k for k in (1, 2, 3, 4)])})
    return fit_rate(clouds, ["t"], events="n",
                    network=MLP(width=2, depth=1), validation=0.0, training=STILL, seed=1, progress=False)  # fmt: skip


def neural_likelihood() -> Likelihood:
    return fit_likelihood(PAIRS, ["t"], ["x"], seed=1, **SMALL_FLOW)


def ratio_posterior() -> RatioPosterior:
    """The prior times the ratio of `parametrised_ratio`, whose parameter is theta."""
    fitted = fit_posterior_ratio(sample(1), {"theta": distributions.Normal(0.0, 1.0)}, ["x"], **TINY)
    return replace(fitted, ratio=parametrised_ratio())


# -- diagnostics: theta ~ N(0, 1), x = theta + N(0, 1), and its posterior N(x / 2, 1 / 2) ------------------------------


class Halved(Posterior):
    """Its draws lie at the middle of equal parts of its probability."""

    def __init__(self) -> None:
        self.prior = Prior.of({"mu": distributions.Normal(0.0, 1.0)})

    def draws(self, n: int, observations: Events, *, seed: int = 0) -> Floats:
        z = stats.norm.ppf((np.arange(n) + 0.5) / n)
        return np.asarray((observations.flat("x")[:, None] / 2 + np.sqrt(0.5) * z)[..., None])

    def log_probs(self, theta: ArrayLike, observations: Events) -> Floats:
        off = np.asarray(theta)[..., 0] - observations.flat("x")[:, None] / 2
        return np.asarray(-(off**2) - 0.5 * np.log(np.pi))


SHARES = (np.arange(60) + 0.5) / 60


def judged() -> Events:
    """60 simulations whose truths lie at as many even shares of their posteriors."""
    x = np.tile(np.linspace(-2, 2, 12), 5)
    return Events({"mu": x / 2 + np.sqrt(0.5) * stats.norm.ppf(SHARES), "x": x})


def replicated() -> diagnostics.Predictive:
    """Of theta itself in the place of x, with two replicas of three of weight 2."""
    return diagnostics.predictive(
        Halved(), Events({"x": [1.0]}), lambda theta, _: Events({"x": theta[:, 0]}, weight=1 + (np.arange(30) % 3 > 0)),
        draws=30,
    )  # fmt: skip


def weighted() -> diagnostics.Importance:
    def log_likelihood(theta: Floats) -> Floats:
        return np.asarray(stats.norm.logpdf(1.0, theta[:, 0], 1.0))

    return diagnostics.importance(Halved(), Events({"x": [1.0]}), log_likelihood, draws=50)


def covered() -> diagnostics.Coverage:
    return diagnostics.coverage(Halved(), judged(), levels=[0.5, 0.9], draws=199, by="x", regions=2)


DIAGNOSTICS: dict[str, Callable[[], Saved]] = {
    "sbc": lambda: diagnostics.sbc(Halved(), judged()), "pull": lambda: diagnostics.sbc(Halved(), judged()).pulls[0],
    "expected_coverage": covered, "coverage_region": lambda: covered().regions[0],
    "tarp": lambda: diagnostics.tarp(Halved(), judged(), references=np.full((60, 1), -100.0)),
    "predictive": replicated, "importance": weighted,
    "lc2st": lambda: diagnostics.LC2ST(np.array([0.1]), np.array([[0.0, 0.05, 0.2]]), np.array([0.5])),
    "out_of_distribution": lambda: diagnostics.out_of_distribution(np.linspace(-1, 1, 81)[:, None], [[0.0], [3.0]]),
    "calibrated_sets": lambda: CalibratedSets(Halved(), critical(), ("mu",), "waldo", 100),
}  # fmt: skip


# -- intervals ---------------------------------------------------------------------------------------------------------


def belt() -> Neyman:
    return neyman(Normal("mu", 0.5), {"mu": np.linspace(-2, 3, 6)}, toys=60, seed=1, cls=(0.68,), progress=False)


def toys() -> Toys:
    return throw_toys(Normal("mu", 0.0), {"mu": (-2.0, 2.0)}, toys=200, seed=1, interest=["mu"], progress=False)


def critical() -> CriticalValues:
    """At 68 %: 1 + 2 u, with u = (mu/2 - 1)/2; at 90 %: 2 log(1 + e) more, the softplus of the second output."""
    options = TINY | {"members": 1}
    found = fit_critical_values(toys(), cls=(0.68, 0.9), **options)
    model = by_hand(found.model, BENT, np.array([[1.0, -1.0], [0.0, 0.0]]), np.array([[0.0, 1.0]]))
    return replace(found, model=model, scale=(1.0, 2.0))


def covering() -> Coverage:
    truths = [{"mu": 0.0}, {"mu": 1.0}]
    return coverage(Normal("mu", 0.0), truths, interest=["mu"], toys=100, seed=1, progress=False)


def local() -> LocalCoverage:
    return local_coverage(lambda theta: np.ones(len(theta["mu"])), toys(), cl=0.68, cells=2, order=1)


# -- a workspace -------------------------------------------------------------------------------------------------------


def near() -> Any:
    """100 mu 1.1^lumi events of S, of a learned ratio, and 200 of the reference."""
    reference = Events({"x": np.linspace(-1, 3, 9)}, weight=np.linspace(1, 2, 9))
    model = Mixture(
        {"S": Process(yields=100, ratio=ratio(calibrated=False), coefficient="mu", norms={"lumi": 0.1}),
         "B": Process(yields=200)}, reference,
    )  # fmt: skip
    return model(Events({"x": [-1.0, 0.0, 2.0, 3.0]}))


def counts() -> Any:
    """Two bins: mu (10, 20) + b (30, 5), found 41 and 24."""
    model = BinnedMixture({"SR": {"S": Template(contents=[10.0, 20.0], coefficient="mu"),
                                  "B": Template(contents=[30.0, 5.0], coefficient="b")}})  # fmt: skip
    return model({"SR": [41, 24]})


def workspace() -> Workspace:
    return Workspace({"near": near(), "counts": counts()}, [Normal("lumi", 0.2), LogNormal("b", 1.0, 1.2)])


# -- unfolding in bins -------------------------------------------------------------------------------------------------


BLURRED = Events({"t": np.linspace(-1, 1, 40), "x": np.linspace(-1, 1, 40) + 0.1 * np.cos(np.arange(40.0))})
BRIEF: dict[str, Any] = {"training": Training(epochs=2, batch=20), "seed": 1, "progress": False}


def generative() -> Any:
    """Two members, two replicas, two iterations, of the smallest networks."""
    return generative_unfolding(
        BLURRED.keep(["x"]), BLURRED, reco=["x"], truth=["t"], network=MAF(transforms=1, width=2, depth=1), members=2,
        bootstrap=2, iterations=2, draws=1, classifier=MLP(width=2, depth=1),
        classifier_training=Training(epochs=2, batch=20), **BRIEF,
    )  # fmt: skip


def seen() -> Events:
    """Six events in two bins of t and three of x."""
    return Events({"t": [0.5, 0.5, 0.5, 1.5, 1.5, 1.5], "x": [0.5, 1.5, 0.5, 1.5, 2.5, 2.5]})


def tilted(events: Events, alpha: float) -> Events:
    return events.with_weight(events.weight * np.where(events["x"] < 1, 1.0, np.exp(0.1 * alpha)))


def unfolded_throw(data: Any, simulation: Events, background: Any, seed: int) -> Any:
    fixed = simulation.with_weight(np.maximum(simulation.weight, 0.5))  # so that no bin is empty
    own = Response.from_events(fixed, truth={"t": [0, 1, 2]}, reco={"x": [0, 1, 2, 3]})
    return iterative_bayes(data, own, iterations=2)


def fitted_bins() -> Any:
    """Two bins, a background that a sideband measures, a penalty."""
    events = Events({"t": [0.5, 0.5, 1.5, 1.5], "x": [0.4, 1.2, 1.4, 9.0]})
    own = Response.from_events(events, truth={"t": [0, 1, 2]}, reco={"x": [0, 1, 2]})
    off = Sideband(data=[12], background={"b": [10]})
    return likelihood_unfolding([10, 30], own, background={"b": [0, 5]}, norms={"b": 0.2}, sidebands={"off": off},
                                strength=0.1, order=1, minos_bins=[0])  # fmt: skip


def matched() -> Any:
    """Of the two bins of t three events each, which data make 4.5 and 7.5: weights 1.5 and 2.5."""
    data = Events({"x": [0.5] * 3 + [1.5] * 9}, id=np.arange(20, 32))
    return match_moments(data, seen(), reco={"far": "x > 1"}, truth={"high": "t > 1"}, bootstrap=3, seed=1)


def measured_cross_section() -> Any:
    """Twenty events of efficiency 1 over a flux of 1e-10, 1e20 POT and 1e30 targets."""
    own = Response.from_events(seen(), truth={"t": [0, 1, 2]}, reco={"x": [0, 1, 2, 3]})
    return cross_section(iterative_bayes([3.0, 9.0, 8.0], own), flux=1e-10, targets=1e30, exposure=1e20,
                         averaging="nominal", units={"t": "GeV"})  # fmt: skip


def verdicts() -> Checks:
    """One that failed, one that was not done."""
    return Checks(
        (Check("closure", False, 3.5, 1.0, "off by 3.5"), Check("coverage", None, np.nan, np.nan, "not done"))
    )


def response() -> Response:
    """Two truth bins, the second of which has slices of its own, three reco bins; a miss and a fake."""
    events = Events({"t": [0.5, 0.5, 1.5, 1.5, 1.5], "u": [0.5, 0.5, 0.5, 1.5, 9.0], "x": [0.5, 1.5, 1.5, 2.5, 0.5],
                     "pass_reco": [True, True, True, True, True], "pass_truth": [True, True, True, True, False]},
                    weight=[1.0, 2.0, 3.0, 4.0, 0.5])  # fmt: skip
    missed = Events({"t": [0.5], "u": [0.5], "x": [np.nan], "pass_reco": [False], "pass_truth": [True]}, weight=[0.25])
    truth = Binning("t", [0, 1, 2], [Binning("u", [0, 1]), Binning("u", [0, 1, np.inf])])
    return Response.from_events(Events.concat([events, missed]), truth=truth, reco={"x": [0, 1, 2, 3]})


MAKERS: dict[str, Callable[[], Saved]] = {
    "ratio": ratio, "tree_ratio": tree_ratio, "parametrised_ratio": parametrised_ratio, "local_score": local_score,
    "class_ratio": class_ratio, "unfolded": unfolded, "tasks_results": results, "profile": profiled,
    "contour": ellipse, "impacts": pulled, "neyman": belt, "toys": toys, "critical_values": critical,
    "confidence_set": lambda: critical().confidence_set(Normal("mu", 0.5), {"mu": np.linspace(-2, 2, 9)}, cl=0.68),
    "coverage": covering, "local_coverage": local, "fit": lambda: fit(correlated(), {"a": 0.0}),
    "density": flow, "invertible": invertible, "rate": rated, "likelihood": neural_likelihood,
    "posterior": lambda: fit_posterior(PAIRS, NORMAL, ["x"], **SMALL_FLOW),
    "likelihood_posterior": lambda: neural_likelihood().posterior(NORMAL), "ratio_posterior": ratio_posterior,
    "truncated_posterior": lambda: fit_truncated(shift_all, {"t": (-2.0, 4.0)}, Events({"x": [1.0]}), ["x"], rounds=2,
                                                 simulations=50, seed=1, epsilon=0.1, **SMALL_FLOW),
    "simulations": lambda: simulate(shift, {"t": (0.0, 4.0)}, 30, seed=1, vectorised=5, errors="record",
                                    progress=False),
    "minos": lambda: minos(correlated(), ["a", "b"]), "discovery": lambda: discovery(counted(), "mu"),
    "upper_limit": lambda: upper_limit(counted(), "mu"),
    "limit_curve": lambda: limit_curve(counted(), "mu", np.linspace(0.5, 4, 8)),
    "bounded_interval": lambda: bounded_interval(counted(), "mu"), "training_uncertainty": trained,
    "thrown": lambda: unfold_throws(unfolded_throw, [3.0, 9.0, 8.0], seen(), Throws(count=4, alone=2, seed=1,
                                    systematics={"tilt": tilted}), progress=False),
    "likelihood_unfolding": fitted_bins,
    "cross_section": measured_cross_section, "checks": verdicts, "check": lambda: verdicts()["closure"],
    "generative": generative,
    "flow_matching": lambda: fit_density(BLURRED, ["t"], condition=["x"],
                                         network=FlowMatching(width=4, depth=1), **BRIEF),
    "profiled": lambda: Profiled(unfolded(), ("jes",), np.array([[[0.0], [0.0]], [[0.5], [0.7]]]),
                                 np.array([[0.4], [0.8]]), np.full((2, 12), 1.5)),
    "matched_moments": matched,
    "moment_comparison": lambda: MomentComparison(np.array([1.0, -3.0]), np.diag([4.0, 9.0]), np.array([2.0, 4.0]),
                                                  1.25, 2, 0.55, 20),
    "iteration_choice": lambda: IterationChoice(2, True, np.array([0.1, 0.02, 1e-4]), np.array([0.01, 0.01, 3e-4])),
    "response": response,
    "spectrum": lambda: iterative_bayes([3.0, 9.0, 8.0], response(), iterations=2),
    **DIAGNOSTICS,
    **ANOMALY,
}  # fmt: skip


def main(folder: Path = DATA) -> None:
    """Write those that are missing."""
    files = {folder / f"{name}_format_1.safetensors": make for name, make in MAKERS.items()}
    for path, make in {**files, folder / "workspace_format_1": workspace}.items():
        if not path.exists():
            make().save(path)


if __name__ == "__main__":
    main()
