r"""Pseudo-experiments of every unfolding method: are pulls of width one, where the method says what it unfolds to?

A pull is (u - e)/sigma, e being what the method makes of expectations: A_C x truth, or the exact recursion.  Of N
pulls in B bins the bars are those of the widths w_b: a mean within 5% of one, and p > 0.001 of
:math:`\chi^2 = \sum_b 2N (w_b - 1)^2` with B degrees of freedom.  How often intervals hold the truth itself is told
beside its bias, without a bar, as regularised answers are biased.  The tables of docs/validation.md are what
``pytest -m slow -s tests/test_pseudo_experiments.py`` prints.

Samples are those of `GaussianUnfolding.with_detector` with Poisson numbers of events: fakes are 15% of the simulated
signal, background is 20% of the data's, the rate is 1.2.  Two kinds of pseudo-experiments:

- *joint*: data, simulation and background are all new in each, and sigma has all sources.
- *data*: counts fluctuate about P x truth, with the exact response P, and sigma is that of the data
  (`nuinfer.unfolding.pseudo_experiments`).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cache, cached_property, partial
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy import stats
from test_likelihood_unfolding import toys

from nuinfer import MLP, Events, Training, omnifold, tasks
from nuinfer.density import MAF, FlowMatching
from nuinfer.likelihood import Normal
from nuinfer.simulators import Gaussian, GaussianUnfolding
from nuinfer.simulators.profiled_gaussian import ProfiledGaussian
from nuinfer.unfolding import (
    Binning,
    PseudoExperiments,
    Response,
    Spectrum,
    generative_unfolding,
    iterative_bayes,
    likelihood_unfolding,
    match_moments,
    pseudo_experiments,
    tikhonov,
    wiener_svd,
)
from nuinfer.unfolding.unbinned.profiled import profiled_omnifold

Floats = NDArray[np.float64]
Unfold = Callable[..., Spectrum]

TOY = replace(GaussianUnfolding.with_detector(), counts="poisson")
NARROW = (-np.inf, -1.5, -1.0, -0.5, 0.0, 0.5, 1.0, 1.5, np.inf)  # as wide as the smearing
BROAD = (-np.inf, -1.0, 0.0, 1.0, np.inf)
MIDDLE = (-np.inf, -1.0, -0.5, 0.0, 0.5, 1.0, np.inf)  # where 1,000 events are all there is
RECO = {"x0": np.array([-np.inf, -2.0, -1.5, -1.0, -0.5, 0.0, 0.5, 1.0, 1.5, 2.0, 2.5, np.inf])}
COUNT = 500
PROCESSES = 2


# -- what is counted ---------------------------------------------------------------------------------------------------


def of_pulls(
    binning: Binning, truth: Floats, values: Floats, expected: Floats, sigma: Floats, target: str
) -> PseudoExperiments:
    """Of values (N, B); what is expected, and sigma, may be the same for all."""
    same = (np.broadcast_to(a, values.shape) for a in (expected, sigma))
    return PseudoExperiments(binning, truth, values, *same, 0.6827, target)


def widths(found: PseudoExperiments) -> Floats:
    return np.asarray(found.pulls.std(0, ddof=1))


def p_value(found: PseudoExperiments) -> float:
    away = (widths(found) - 1) * np.sqrt(2 * len(found))
    return float(stats.chi2.sf((away**2).sum(), len(away)))


def row(name: str, found: PseudoExperiments) -> str:
    """A row of the table: widths, mean pulls, both coverages, bias/sigma."""
    w, mean = widths(found), found.pulls.mean(0)
    largest = mean[np.abs(mean).argmax()], found.bias[np.abs(found.bias).argmax()]
    return (f"| {name} | {found.target} | {len(found)} | {w.mean():.3f} | {w.min():.3f} to {w.max():.3f} | "
            f"{p_value(found):.2g} | {largest[0]:+.2f} | {100 * found.covered.mean():.1f} | "
            f"{100 * found.truth_covered.mean():.1f} | {largest[1]:+.2f} |")  # fmt: skip


def passed(found: PseudoExperiments) -> bool:
    return abs(widths(found).mean() - 1) < 0.05 and p_value(found) > 1e-3


def report(name: str, *studies: PseudoExperiments) -> None:
    print("\n" + "\n".join(row(name, found) for found in studies))  # the table of docs/validation.md


# -- samples -----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Samples:
    """One pseudo-experiment: all of it new."""

    n: int
    seed: int

    @cached_property
    def simulation(self) -> Events:
        return TOY.simulation(self.n, self.seed)

    @cached_property
    def data(self) -> Events:
        return TOY.data(self.n, self.seed)

    @cached_property
    def background(self) -> Events:
        return TOY.background(self.n, self.seed, oversample=4)


def yields(density: Gaussian | None, n: int, edges: Any) -> Floats:
    assert density is not None
    return n * density.total * density.bin_probabilities(edges)


@dataclass(frozen=True)
class Population:
    """What a simulation of n true events, and its data, are expected to be in bins."""

    n: int
    edges: tuple[float, ...]

    @property
    def bins(self) -> dict[str, Any]:
        return {"truth": {"t0": np.array(self.edges)}, "reco": RECO}

    @cached_property
    def truth(self) -> Floats:
        return yields(TOY.unfolded(), self.n, self.edges)

    @cached_property
    def response(self) -> Response:
        """Of truth and reco that are jointly Gaussian; the first axis ends at nine, where nothing is."""
        seen = TOY.recursion(0)[0]
        v, both_names = seen.covariance[0, 0], [np.clip(self.edges, -9, 9), RECO["x0"]]
        joint = Gaussian([seen.mean[0]] * 2, [[v, v], [v, v + np.asarray(TOY.smearing)[0, 0]]], total=seen.total)
        both = yields(joint, self.n, both_names).T
        missed = yields(TOY.prior, self.n, self.edges) - both.sum(0)
        fakes = yields(TOY.reco_fakes(), self.n, RECO["x0"])
        binnings = (Binning.of(self.bins[name]) for name in ("truth", "reco"))
        return Response(*binnings, both, both, missed, missed, fakes, fakes)

    @cached_property
    def background(self) -> Floats:
        return yields(TOY.reco_background(), self.n, RECO["x0"])

    @cached_property
    def data(self) -> Floats:
        parts = (TOY.reco_data(), TOY.reco_data_fakes())
        return self.background + sum(yields(part, self.n, RECO["x0"]) for part in parts)


# -- methods in bins ---------------------------------------------------------------------------------------------------


def by_likelihood(data: Any, response: Response, **options: Any) -> Spectrum:
    return likelihood_unfolding(data, response, **options).spectrum


#: Edges and method.  Without regularisation, bins as narrow as the smearing leave errors of a third to four fifths,
#: to which the propagation of the simulation's, of first order, does not apply.
BINNED: dict[str, tuple[tuple[float, ...], Unfold]] = {
    "iterative Bayes, 4 iterations": (NARROW, partial(iterative_bayes, iterations=4)),
    "Wiener-SVD": (NARROW, wiener_svd),
    "Tikhonov": (NARROW, partial(tikhonov, strength=30.0)),
    "least squares": (BROAD, partial(tikhonov, strength=0.0)),
    "likelihood": (BROAD, by_likelihood),
    "likelihood, penalised": (NARROW, partial(by_likelihood, strength=30.0)),
}
#: The simulation's covariance of these is that of u about A_C x truth with the A_C that came with u; of the others it
#: is that of u, and A_C moves too.
OWN = ("Wiener-SVD", "likelihood", "likelihood, penalised")


def joint(
    edges: tuple[float, ...], unfold: Unfold, *, n: int = 20_000, count: int = COUNT, sources: tuple[str, ...] = ()
) -> tuple[PseudoExperiments, PseudoExperiments]:
    """Against the method's answer for expected contents, and against the truth through each one's own A_C.

    ``sources`` of the covariance, all of them for none.
    """
    population, values, sigma, smeared = Population(n, edges), [], [], []
    for seed in range(count):
        one = Samples(n, seed)
        response = Response.from_events(one.simulation, **population.bins)
        found = unfold(one.data, response, background=one.background)
        variance = sum(np.diag(found.covariances[name]) for name in sources or found.covariances)
        values.append(found.values)
        sigma.append(np.sqrt(variance))
        smeared.append(found.smear(population.truth))
    exact = unfold(population.data, population.response, background=population.background).values
    each = np.array(values), np.array(sigma)
    binning, truth = population.response.truth, population.truth
    return (of_pulls(binning, truth, each[0], exact, each[1], "expected contents"),
            of_pulls(binning, truth, each[0], np.array(smeared), each[1], "own A_C x truth"))  # fmt: skip


def test_the_statistics_and_the_machinery() -> None:
    """Normal numbers pass, and 10% too wide ones do not; 200 small experiments pass, and without a source do not."""
    numbers = np.random.default_rng(1).normal(size=(COUNT, 8))
    binning, zero = Binning.of({"t": np.arange(9.0)}), np.zeros(8)
    right, wrong = (of_pulls(binning, zero, scale * numbers, zero, np.ones(8), "0") for scale in (1.0, 1.1))
    assert passed(right)
    assert abs(right.covered.mean() - 0.6827) < 4 * np.sqrt(0.22 / numbers.size)
    assert not passed(wrong)
    np.testing.assert_allclose(widths(wrong), 1.1 * widths(right))
    usual = {"edges": BROAD, "unfold": partial(iterative_bayes, iterations=3), "n": 4000, "count": 200}
    found, _ = joint(**usual)
    assert abs(widths(found).mean() - 1) < 4 / np.sqrt(2 * 200 * 4) + 0.02
    assert np.abs(found.pulls.mean(0)).max() < 4 / np.sqrt(200) + 0.05
    assert p_value(found) > 1e-3
    assert not passed(joint(**usual, sources=("data", "background"))[0])


@pytest.mark.slow
@pytest.mark.parametrize("method", BINNED)
def test_binned_methods_with_their_simulation(method: str) -> None:
    """Joint pseudo-experiments, 20,000 true events of simulation; the data's part alone is too small."""
    studies = joint(*BINNED[method])
    report(f"{method}; joint", *studies)
    assert passed(studies[method in OWN])
    assert not passed(joint(*BINNED[method], count=100, sources=("data",))[method in OWN])


@pytest.mark.slow
@pytest.mark.parametrize("method", BINNED)
def test_binned_methods_with_an_exact_response(method: str) -> None:
    """A_C x truth: data alone fluctuate.  The truth itself is not what regularised answers scatter about."""
    edges, unfold = BINNED[method]
    population = Population(20_000, edges)
    options = {"simulation": False} if "likelihood" in method else {}
    found = pseudo_experiments(
        partial(unfold, background=population.background, **options), population.response, population.truth,
        background=population.background, toys=COUNT, seed=1, progress=False,
    )  # fmt: skip
    report(f"{method}; data", found)
    assert passed(found)
    assert (np.abs(found.pulls.mean(0)) < 0.15).all()
    assert (np.abs(found.bias).max() > 0.2) == (edges is NARROW)


# -- weighted events and generators ------------------------------------------------------------------------------------


def each_of(function: Callable[[int], Floats | dict[str, Floats]], seeds: range) -> dict[str, Floats]:
    """What a function of the seed gives, for all of them."""
    executor = tasks.processes(PROCESSES) if PROCESSES > 1 else None
    run = tasks.run(lambda seed, rng: function(seed), seeds, seed=1, executor=executor, progress=False)
    return run.stacked()


@dataclass(frozen=True)
class Learned:
    """Pseudo-experiments (N, B) of one network each, and variances (M, B) of M others by 50 bootstraps.

    Of 50 bootstraps alone sigma would scatter by 10%, which widens pulls: all get the root of the mean variance.
    """

    values: Floats
    variances: Floats
    methods: Floats

    @property
    def sigma(self) -> Floats:
        return np.sqrt(self.variances.mean(0))

    @classmethod
    def of(cls, unfold: Callable[..., Spectrum], n: int, count: int = COUNT, bootstrapped: int = 40) -> Learned:
        def one(seed: int) -> Floats:
            return unfold(Samples(n, 1000 + seed)).values

        spread = cls.spread(unfold, n, bootstrapped)
        return cls(each_of(one, range(count))["value"], spread["statistical"], spread["method"])

    @staticmethod
    def spread(unfold: Callable[..., Spectrum], n: int, bootstrapped: int, **options: Any) -> dict[str, Floats]:
        """Variances by source (M, B), of 2 members and 50 bootstraps."""

        def many(seed: int) -> dict[str, Floats]:
            found = unfold(Samples(n, 10_000 + seed), members=2, bootstrap=50, **options)
            return {name: np.diag(found.covariances[name]) for name in ("statistical", "method")}

        return each_of(many, range(bootstrapped))

    def pulls(self, iteration: int, n: int, edges: tuple[float, ...]) -> PseudoExperiments:
        """Against the exact recursion in bins, and beside it the truth."""
        exact, truth = (yields(TOY.unfolded(k), n, edges) for k in (iteration, None))
        return of_pulls(Binning.of({"t0": np.array(edges)}), truth, self.values, exact, self.sigma, "recursion")


def by_omnifold(one: Samples, **options: Any) -> Spectrum:
    training = Training(epochs=8, batch=512, learning_rate=3e-3)
    found = omnifold(
        one.data, one.simulation, reco=["x0"], truth=["t0"], background=one.background, iterations=3, seed=one.seed,
        network=MLP(width=16, depth=2), training=training, progress=False, **options,
    )  # fmt: skip
    return found.spectrum({"t0": np.array(NARROW)})


@pytest.fixture(scope="module", params=["network", "last layer"])
def learned(request: pytest.FixtureRequest) -> Learned:
    """Of both kinds of replicas."""
    found = trained()
    if request.param == "network":
        return found
    spread = Learned.spread(by_omnifold, 2000, 40, refit="last layer")
    # one network of each pseudo-experiment has twice the variance of the mean of two, which such replicas leave out
    return replace(found, variances=spread["statistical"] + 2 * spread["method"], methods=spread["method"])


@cache
def trained() -> Learned:
    return Learned.of(by_omnifold, n=2000)


@pytest.mark.slow
def test_omnifold(learned: Learned) -> None:
    """500 joint pseudo-experiments of 2,000 true events: widths; the mean pull is the networks' bias."""
    found = learned.pulls(3, 2000, NARROW)
    report("OmniFold, 3 iterations; joint", found)
    assert passed(found)
    assert not passed(replace(found, sigma=np.broadcast_to(np.sqrt(learned.methods.mean(0)), found.sigma.shape)))


@pytest.mark.slow
def test_replicas_of_omnifold_spread_like_independent_experiments(learned: Learned) -> None:
    """The median bin within 5% of the spread of 200, and no bin beyond four of its standard errors."""
    for count in (200, COUNT):
        ratio = learned.sigma / learned.values[:count].std(0, ddof=1)
        print(f"\nOmniFold: bootstraps / spread of {count}: {ratio.round(3)}, median {np.median(ratio):.3f}")
        assert abs(np.median(ratio) - 1) < 0.05
        assert (np.abs(1 / ratio - 1) < 4 / np.sqrt(2 * (count - 1))).all()
    method = np.sqrt(learned.methods.mean(0)) / learned.values.std(0, ddof=1)
    assert (method < 0.6).all()  # the method's part alone is too small


CLASSIFIER = Training(epochs=8, batch=256, learning_rate=3e-3)
EFFICIENCY = Training(epochs=60, batch=128, learning_rate=5e-3)  # some 500 steps, which the tail of few events needs


def by_draws(network: Any, training: Training, one: Samples, **options: Any) -> Spectrum:
    found = generative_unfolding(
        one.data, one.simulation, reco=["x0"], truth=["t0"], background=one.background, iterations=2, seed=one.seed,
        network=network, classifier=MLP(width=16, depth=2), training=training, classifier_training=CLASSIFIER,
        efficiency_training=EFFICIENCY, progress=False, **options,
    )  # fmt: skip
    return found.spectrum({"t0": np.array(MIDDLE)})


#: Network, and epochs.
GENERATORS = {
    "flow": (MAF(transforms=1, width=16), 10),
    "flow matching": (FlowMatching(width=16, depth=2, steps=8), 20),
}


@pytest.mark.slow
@pytest.mark.parametrize("network", GENERATORS)
def test_generative(network: str) -> None:
    """500 joint pseudo-experiments of 1,000 true events, 2 iterations; sigma of 20 others.

    Flow matching misses the aim: its errors are 5% too large (docs/validation.md), which is held here.
    """
    spec, epochs = GENERATORS[network]
    training = Training(epochs=epochs, batch=128, learning_rate=1e-2)
    study = Learned.of(partial(by_draws, spec, training), n=1000, bootstrapped=20)
    found = study.pulls(2, 1000, MIDDLE)
    report(f"generative ({network}), 2 iterations; joint", found)
    print("bootstraps / spread", (study.sigma / study.values.std(0, ddof=1)).round(3))
    if network == "flow":
        assert passed(found)
    else:
        assert 0.92 < widths(found).mean() < 0.98
    assert not passed(replace(found, sigma=np.broadcast_to(np.sqrt(study.methods.mean(0)), found.sigma.shape)))


@pytest.mark.slow
def test_moment_matching() -> None:
    """Against the truth itself, as the log ratio of Gaussians is quadratic; each with its own sigma."""
    n, binning = 5000, Binning.of({"t0": np.array(NARROW)})
    values, sigma, data_only = [], [], []
    for seed in range(COUNT):
        one = Samples(n, seed)
        found = match_moments(
            one.data, one.simulation, reco=["x0"], truth=["t0"], background=one.background, seed=1
        ).spectrum(binning)  # fmt: skip
        values.append(found.values)
        sigma.append(found.uncertainty)
        data_only.append(np.sqrt(np.diag(found.covariances["data"])))
    truth = yields(TOY.unfolded(), n, NARROW)
    study = of_pulls(binning, truth, np.array(values), truth, np.array(sigma), "truth")
    report("moment matching; joint", study)
    assert passed(study)
    assert not passed(replace(study, sigma=np.array(data_only)))


# -- with nuisances ----------------------------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize("size", [0.05, 0.15])
def test_likelihood_with_nuisances(size: float) -> None:
    """A systematic, a normalisation and a sideband; all auxiliary outcomes fluctuate with the counts.

    A systematic of 15% is too much for a covariance of first order: the widths scale with the pulled parameter.
    """
    pulls, nuisances, p_values = toys(COUNT, seed=2, size=size)
    binning, zero = Binning.of({"t": np.arange(pulls.shape[1] + 1.0)}), np.zeros(pulls.shape[1])
    found = of_pulls(binning, zero, pulls, zero, np.ones(1), "truth")
    report(f"likelihood, systematic of {100 * size:.0f}%; data", found)
    print("widths of nuisances", nuisances.std(0, ddof=1).round(3))
    assert stats.kstest(p_values, "uniform").pvalue > 1e-3
    np.testing.assert_allclose(nuisances.std(0, ddof=1), 1, atol=4 / np.sqrt(2 * COUNT))
    if size < 0.1:
        assert passed(found)
    else:
        assert 1.0 < widths(found).mean() < 1.1


PROFILED = ProfiledGaussian(width=1.0, simulated_width=1.5)  # W of the wider simulation has a small variance
CONSTRAINT = (1.0, 0.1)  # the centre fluctuates about it
SPECTRUM = Binning.of({"t": np.array([-np.inf, -0.5, 0.0, 0.5, 1.0, 1.5, 2.0, np.inf])})


def by_profiling(seed: int, centre: float, **options: Any) -> Any:
    rng = np.random.default_rng([7, seed])
    simulation, data = PROFILED.simulation(rng.poisson(4000), seed), PROFILED.data(rng.poisson(2000), seed)
    return profiled_omnifold(
        data, simulation, reco=["y1", "y2"], truth=["t"], response=PROFILED.response(), nominal={"width": 1.5},
        nuisances={"width": Normal("width", centre, CONSTRAINT[1])}, start={"width": 1.5},
        iterations=3, network=MLP(width=16, depth=2), training=Training(epochs=16, batch=256, learning_rate=3e-3),
        seed=seed, progress=False, **options,
    )  # fmt: skip


@pytest.mark.slow
def test_profiled_omnifold() -> None:
    """200 joint pseudo-experiments of 2,000 data and 4,000 simulated events: the spectrum, and the width.

    All start from the simulation's width: the constraint's centre, where they would start otherwise, is another one in
    each experiment, but not in each bootstrap, and three iterations remember it.
    """

    def one(seed: int) -> Floats:
        found = by_profiling(1000 + seed, np.random.default_rng([8, seed]).normal(*CONSTRAINT))
        return np.r_[found.spectrum(SPECTRUM).values, found.values["width"]]

    def many(seed: int) -> Floats:
        found = by_profiling(10_000 + seed, CONSTRAINT[0], bootstrap=50)
        return np.r_[np.diag(found.spectrum(SPECTRUM).covariances["statistical"]), found.covariance[0, 0]]

    values, sigma = each_of(one, range(200))["value"], np.sqrt(each_of(many, range(20))["value"].mean(0))
    state = PROFILED.iterate(3, {"width": CONSTRAINT}, events=2000)[3]
    exact, truth = (2000 * g.bin_probabilities(SPECTRUM.edges) for g in (state.truth, PROFILED.truth))
    found = of_pulls(SPECTRUM, truth, values[:, :-1], exact, sigma[:-1], "recursion")
    report("profiled OmniFold, 3 iterations; joint", found)
    pulls = (values[:, -1] - state.width) / sigma[-1]
    print(f"width: mean pull {pulls.mean():+.3f}, width of pulls {pulls.std(ddof=1):.3f}, sigma {sigma[-1]:.4f}")
    assert passed(found)
    assert abs(pulls.std(ddof=1) - 1) < 4 / np.sqrt(2 * 200)
    assert sigma[-1] < 0.7 * CONSTRAINT[1]  # the data tell the width, not the constraint alone
