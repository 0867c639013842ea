"""`result.check()`: what a result knows of its data, what is compared through a method, and chi-squared of replicas."""

from __future__ import annotations

import copy
import functools
import pickle
import subprocess
import sys
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy import stats

from nuinfer import MLP, Events, Training, hashing, metrics
from nuinfer.simulators import Gaussian, GaussianUnfolding
from nuinfer.unfolding import (
    Binning,
    Response,
    Spectrum,
    Unfolded,
    checks,
    generative_unfolding,
    iterative_bayes,
    likelihood_unfolding,
    tikhonov,
    wiener_svd,
)
from nuinfer.unfolding.unbinned.result import Iteration

Floats = NDArray[np.float64]

DETECTOR = GaussianUnfolding.with_detector()
TRUTH, RECO = Binning("t0", np.linspace(-2.0, 2.5, 7)), Binning("x0", np.linspace(-2.5, 3.0, 15))
SIMULATION = DETECTOR.simulation(40_000, seed=1)
RESPONSE = Response.from_events(SIMULATION, truth=TRUTH, reco=RECO)
OWN = RESPONSE.truth_yield
MODEL = 1.2 * OWN * (1 + 0.2 * np.sin(np.arange(6)))
MODELS = {"model": MODEL, "tilted": OWN * np.linspace(0.8, 1.6, 6)}
BACKGROUND = 150.0 * np.ones(14)
EXPECTED = RESPONSE.fold(MODEL, fakes=True) + BACKGROUND
DATA = np.random.default_rng(2).poisson(EXPECTED).astype(float)


# -- chi-squared of replicas -------------------------------------------------------------------------------------------


def of_replicas(rng: np.random.Generator, n: int, exact: Floats | None = None) -> Spectrum:
    """Five Gaussian bins about 0 with the covariance of n replicas, and an exact one."""
    root = np.tril(np.ones((5, 5)))
    values, *replicas = rng.normal(size=(n + 1, 5)) @ root.T
    covariances = {"statistical": metrics.replica_covariance(replicas)}
    if exact is not None:
        values = values + rng.multivariate_normal(np.zeros(5), exact)
        covariances["other"] = exact
    return Spectrum(Binning("t", np.arange(6.0)), values, covariances, replicas=np.array(replicas))


def test_chi2_of_replicas_is_unbiased_and_uniform() -> None:
    """The plain form is 60% too large at 20 replicas, and its p-values are not uniform."""
    rng = np.random.default_rng(1)
    runs = [of_replicas(rng, 20) for _ in range(600)]
    found = [s.chi2(np.zeros(5)) for s in runs]
    plain = np.array([metrics.chi2(s.values, s.covariance) for s in runs])
    values = np.array([c.value for c in found])
    assert abs(values.mean() - 5) < 4 * values.std() / np.sqrt(600)
    assert abs(plain.mean() - 5) > 10 * plain.std() / np.sqrt(600)
    assert stats.kstest([c.p_value for c in found], "uniform").pvalue > 1e-3
    assert stats.kstest(stats.chi2.sf(plain, 5), "uniform").pvalue < 1e-9
    assert {s.draws for s in runs} == {20.0}


@pytest.mark.parametrize("given", [True, False])
def test_chi2_of_replicas_and_an_exact_covariance(given: bool) -> None:
    """In the spectrum, or of the model: neither the number of replicas nor an infinite one is the effective one."""
    rng, exact, root = np.random.default_rng(2), 0.3 * np.eye(5), np.tril(np.ones((5, 5)))
    runs = [of_replicas(rng, 12, exact) for _ in range(800)]
    if given:
        found = [s.chi2(np.zeros(5)) for s in runs]
    else:
        runs = [replace(s, covariances={"statistical": s.covariances["statistical"]}) for s in runs]
        found = [s.chi2(np.zeros(5), covariance=exact) for s in runs]
    assert stats.kstest([c.p_value for c in found], "uniform").pvalue > 1e-3
    plain = np.array([metrics.chi2(s.values, s.covariances["statistical"] + exact) for s in runs])
    assert stats.kstest(stats.chi2.sf(plain, 5), "uniform").pvalue < 1e-6
    assert stats.kstest([metrics.hotelling(v, 12, 5) for v in plain], "uniform").pvalue < 1e-6
    share = np.linalg.solve(root @ root.T + exact, root @ root.T)  # by hand, of the exact covariance
    number = 1 + 399 * 30 / (np.trace(share @ share) + np.trace(share) ** 2)
    assert number > 600
    assert of_replicas(rng, 400, exact).draws == pytest.approx(number, rel=0.1)


def test_chi2_without_replicas_is_the_plain_one() -> None:
    found = tikhonov(DATA, RESPONSE, strength=0.0, background=BACKGROUND)
    plain = metrics.chi2(found.values - MODEL, found.covariance)
    assert found.chi2(MODEL).value == pytest.approx(plain, rel=1e-9)
    assert found.chi2(MODEL).p_value == pytest.approx(stats.chi2.sf(plain, 6), rel=1e-9)
    assert found.draws == np.inf


def test_chi2_of_members() -> None:
    """The noise of K members is known from K of them."""
    rng = np.random.default_rng(3)
    members = rng.normal(size=(12, 5))
    own = metrics.replica_covariance(members) / 12
    found = Spectrum(Binning("t", np.arange(6.0)), members.mean(0), {"method": own}, members=members)
    assert found.draws == 12
    assert found.chi2(np.zeros(5)).p_value == pytest.approx(
        metrics.hotelling(float(metrics.chi2(found.values, found.covariance)), 12, 5)
    )


def test_chi2_of_too_few_replicas_is_refused() -> None:
    with pytest.raises(ValueError, match="Hartlap factor: expected more than bins"):
        of_replicas(np.random.default_rng(1), 7).chi2(np.zeros(5))
    few = of_replicas(np.random.default_rng(1), 4)
    filled = replace(few, covariances={**few.covariances, "rounding": 1e-3 * np.eye(5)})
    assert few.draws == filled.draws == 4  # what the replicas have not seen is not known to be small
    assert not filled.enough_draws
    assert replace(few, covariances={**few.covariances, "other": 30 * np.eye(5)}).enough_draws


# -- a spectrum knows its data -----------------------------------------------------------------------------------------

METHODS: dict[str, tuple[Any, dict[str, Any]]] = {
    "iterative Bayes": (iterative_bayes, {"iterations": 5}),
    "scaled fakes": (iterative_bayes, {"fakes": "scale"}),
    "least squares": (tikhonov, {"strength": 0.0, "covariance": EXPECTED}),
    "Tikhonov": (tikhonov, {"strength": 30.0}),
    "Wiener-SVD": (wiener_svd, {"order": 1}),
}


@pytest.mark.parametrize("name", METHODS)
def test_check_of_a_spectrum_repeats_nothing(name: str) -> None:
    """The same words as `check` with everything given again."""
    method, options = METHODS[name]
    spectrum = method(DATA, RESPONSE, background=BACKGROUND, **options)
    found = spectrum.check(models=MODELS, priors={"tilted": MODELS["tilted"]}, toys=20, progress=False)
    prior = {"Tikhonov": "reference", "least squares": "reference", "Wiener-SVD": "model"}.get(name, "prior")
    steps = [method(DATA, RESPONSE, background=BACKGROUND, **{**options, "iterations": k}).values
             for k in range(1, 1 + options.get("iterations", 4))] if method is iterative_bayes else []  # fmt: skip
    expected = checks.check(
        spectrum, DATA, RESPONSE, lambda d, r: method(d, r, background=BACKGROUND, **options), background=BACKGROUND,
        covariance=options.get("covariance"), models=MODELS, iterations=steps, toys=20, progress=False,
        priors={"tilted": method(DATA, RESPONSE, background=BACKGROUND, **options, **{prior: MODELS["tilted"]})},
    )  # fmt: skip
    assert str(found) == str(expected)
    assert {c.name for c in found.undecided} <= {"coverage of the truth itself", "iterations"}
    if name != "scaled fakes":  # of which these data are not
        found.raise_if_failed()


def test_what_was_bound_shares_its_mistakes() -> None:
    """Without fakes closure closes, and models come back: identities.  Events of another generator tell."""
    wrong = replace(RESPONSE, fakes=0 * RESPONSE.fakes)
    other = DETECTOR.simulation(50_000, seed=5)
    truth = TRUTH.fill(other.select(other["pass_truth"]))[0]
    pseudo = RECO.fill(other.select(other["pass_reco"]))[0]
    runs = {}
    for name, response in (("right", RESPONSE), ("wrong", wrong)):
        scaled = replace(response, fakes=1.25 * response.fakes)  # the exposure of the other one
        spectrum = iterative_bayes(pseudo, scaled)
        runs[name] = spectrum.check(models=MODELS, pseudo_data={"other": (pseudo, truth)}, toys=0)
    assert not runs["right"].failed, str(runs["right"])
    assert runs["wrong"]["closure"].passed
    assert runs["wrong"]["stress test, model"].passed
    assert runs["wrong"]["stress test, other"].passed is False


def derived(spectrum: Spectrum, tmp: Any) -> dict[str, Spectrum]:
    spectrum.save(tmp / "spectrum")
    return {
        "replaced": replace(spectrum, values=2 * spectrum.values),
        "positive": spectrum.positive(),
        "copied": copy.copy(spectrum),
        "pickled": pickle.loads(pickle.dumps(spectrum)),
        "loaded": Spectrum.load(tmp / "spectrum"),
        "reconstructed": replace(spectrum, corrected=False).corrected_for_efficiency(RESPONSE),
    }


def test_what_was_changed_does_not_know(tmp_path: Any) -> None:
    """And says what to give; with it, it is checked, and found wrong where it is."""
    spectrum = tikhonov(DATA, RESPONSE, strength=0.0, background=BACKGROUND)
    found = derived(spectrum, tmp_path)
    for other in found.values():
        with pytest.raises(ValueError, match="does not know what it was unfolded from"):
            other.check(models=MODELS)

    def unfold(d: Any, r: Response) -> Spectrum:
        return tikhonov(d, r, strength=0.0, background=BACKGROUND)

    given: dict[str, Any] = {"data": DATA, "response": RESPONSE, "unfold": unfold, "background": BACKGROUND, "toys": 0}
    assert str(found["loaded"].check(models=MODELS, **given)) == str(spectrum.check(models=MODELS, toys=0))
    assert found["replaced"].check(models=MODELS, **given)["bottom line"].passed is False
    with pytest.raises(ValueError, match="data=, response= and unfold= together"):
        spectrum.check(background=BACKGROUND)
    with pytest.raises(ValueError, match="expected spectra, found contents of 'flat'"):
        spectrum.check(priors={"flat": np.ones(6)}, **given)
    with pytest.raises(ValueError, match="prior 'flat': expected positive contents"):
        spectrum.check(priors={"flat": np.zeros(6)}, toys=0)


def test_data_do_not_travel_with_their_spectrum() -> None:
    events = Events({"x0": np.zeros(200_000)})
    assert len(pickle.dumps(iterative_bayes(RECO.fill(events)[0] + DATA, RESPONSE))) < 20_000


def test_weighted_data_keep_their_variances() -> None:
    """Events that count 5 times, some of them: as Poisson counts they would not describe themselves."""
    rng = np.random.default_rng(4)
    centres = (RECO.edges[:-1] + RECO.edges[1:]) / 2
    events = Events({"x0": np.repeat(centres, rng.poisson(EXPECTED / 5))})
    events = events.with_weight(np.full(len(events), 5.0))
    spectrum = tikhonov(events, RESPONSE, strength=0.0, background=BACKGROUND)
    spectrum.check(models=MODELS, toys=100, progress=False).raise_if_failed()
    wrong = checks.check(spectrum, events, RESPONSE, lambda d, r: tikhonov(d, r, strength=0.0, background=BACKGROUND),
                         background=BACKGROUND, models=MODELS, toys=100, progress=False)  # fmt: skip
    assert "refolded chi2" in {c.name for c in wrong.failed}


def test_likelihood_unfolding_is_checked_where_it_can_be_fitted_again() -> None:
    """Also with empty bins, whose expected counts have a variance; with nuisances it says that it cannot."""
    few = replace(RESPONSE, **{n: f * getattr(RESPONSE, n) for n, f in
                               (("both", 0.002), ("missed", 0.002), ("fakes", 0.0))})  # fmt: skip
    model = 0.002 * MODEL
    rng = np.random.default_rng(5)
    data = rng.poisson(few.fold(model) + 0.05).astype(float)
    assert (data == 0).any()
    found = likelihood_unfolding(data, few, background={"one": np.full(14, 0.02), "two": np.full(14, 0.03)},
                                 strength=1.0, simulation=False)  # fmt: skip
    done = found.spectrum.check(models={"model": model, "tilted": 0.002 * MODELS["tilted"]}, toys=0)
    assert not done.failed, str(done)
    assert done["bottom line"].value <= 1 + 1e-6
    small = replace(found.spectrum, covariances={n: c / 2 for n, c in found.spectrum.covariances.items()})
    line = checks.bottom_line(small, data, few, {"model": model, "other": 2 * model},
                              background=np.full(14, 0.05), covariance=found.folded["data"])  # fmt: skip
    assert line.passed is False
    with_norm = likelihood_unfolding(DATA, RESPONSE, background=BACKGROUND, norms={"background": 0.1})
    with pytest.raises(ValueError, match="with nuisances or sidebands"):
        with_norm.spectrum.check()


# -- weighted events: through the method -------------------------------------------------------------------------------

EVENTS, EVENTS_BACKGROUND = DETECTOR.data(40_000, seed=1), DETECTOR.background(40_000, seed=1)
OTHERS = {
    "shifted": GaussianUnfolding(truth=Gaussian(0.2, 1.0), efficiency=DETECTOR.efficiency, rate=1.2,
                                 fake_density=DETECTOR.fake_density, background_density=DETECTOR.background_density),
    "wider": GaussianUnfolding(truth=Gaussian(0.0, 1.2), efficiency=DETECTOR.efficiency, rate=1.2,
                               fake_density=DETECTOR.fake_density, background_density=DETECTOR.background_density),
}  # fmt: skip


def times(events: Events, replica: int) -> Floats:
    return hashing.poisson(events.key(None), 1, "bootstrap", replica).astype(float)


def in_bins(data: Events, background: Events, response: Response, iterations: int = 4) -> Floats:
    """Weights of OmniFold's binned limit for each truth bin (T,)."""
    return iterative_bayes(RECO.fill(data)[0] - RECO.fill(background)[0], response, iterations=iterations).values / (
        response.truth_yield
    )


def binned_omnifold(
    data: Events, background: Events, *, replicas: int = 0, data_fluctuate: bool = True, iterations: int = 4
) -> Unfolded:
    """An `Unfolded` whose weights are iterative Bayes', replica by replica, and so exact."""
    place = TRUTH.index(SIMULATION, SIMULATION["pass_truth"])

    def weights(values: Floats) -> Floats:
        return np.where(place >= 0, values[np.maximum(place, 0)], 1.0)

    rows = []
    for k, response in enumerate(Response.bootstraps(SIMULATION, replicas, truth=TRUTH, reco=RECO, seed=1)):
        varied = [e.with_weight(e.weight * times(e, k)) if data_fluctuate else e for e in (data, background)]
        rows.append(weights(in_bins(*varied, response)) * times(SIMULATION, k))
    steps = tuple(
        Iteration(weights(in_bins(data, background, RESPONSE, k))[None], np.zeros(1), np.ones(1), None, None)
        for k in (range(1, iterations + 1) if replicas else [iterations])
    )
    found = np.array(rows).reshape(replicas, len(SIMULATION))
    settings = {"reco": {"flat": ["x0"], "clouds": {}}}
    return Unfolded(SIMULATION, steps[-1].weights, found, steps, seed=1, settings=settings)


@functools.cache
def unfolded_data() -> Unfolded:
    return binned_omnifold(EVENTS, EVENTS_BACKGROUND, replicas=80).with_data(EVENTS, EVENTS_BACKGROUND)


@functools.cache
def pseudo_data() -> dict[str, tuple[Unfolded, Floats]]:
    found = {}
    for name, toy in OTHERS.items():
        data, background = toy.data(40_000, seed=3), toy.background(40_000, seed=3)
        truth = 48_000 * np.diff(stats.norm.cdf(TRUTH.edges, *(toy.truth.mean[0], toy.truth.covariance[0, 0] ** 0.5)))
        found[name] = (binned_omnifold(data, background).with_data(data, background), truth)
    return found


def line(unfolded: Unfolded, **options: Any) -> checks.Check:
    others = {name: other for name, (other, _) in pseudo_data().items()}
    return checks.bottom_line_of_events(unfolded, others, truth=TRUTH, reco=RECO, **options)


def shrunk(unfolded: Unfolded, factor: float) -> Unfolded:
    """With replicas that deviate less, in each truth bin."""
    own = unfolded.weights.mean(0)
    return replace(unfolded, replicas=own + factor * (unfolded.replicas - own)).with_data(EVENTS, EVENTS_BACKGROUND)


def test_bottom_line_through_the_method() -> None:
    """The simulation's statistics make it easier: chi-squared after is 0.6 to 1 times that before."""
    found = line(unfolded_data())
    assert found.passed, str(found)
    assert 0.5 < found.value < 1.1
    assert "of 3 pairs" in found.words


def test_bottom_line_fails_what_is_too_sure() -> None:
    """Replicas at half their distance, and those that forgot to fluctuate the data."""
    half = line(shrunk(unfolded_data(), 0.5))
    assert half.passed is None
    assert "noise of a single member" in half.words
    pair = np.concatenate([unfolded_data().weights] * 2)
    others = {n: replace(o, weights=np.concatenate([o.weights] * 2)).with_data(*o.seen)  # type: ignore[misc]
              for n, (o, _) in pseudo_data().items()}  # fmt: skip

    def known(unfolded: Unfolded) -> checks.Check:
        own = replace(unfolded, weights=pair).with_data(EVENTS, EVENTS_BACKGROUND)
        return checks.bottom_line_of_events(own, others, truth=TRUTH, reco=RECO)

    assert known(unfolded_data()).passed
    failed = known(shrunk(unfolded_data(), 0.5))
    assert failed.passed is False
    assert failed.value == pytest.approx(4 * line(unfolded_data()).value, rel=1e-6)
    fixed = binned_omnifold(EVENTS, EVENTS_BACKGROUND, replicas=80, data_fluctuate=False)
    assert known(fixed).passed is False


def test_bottom_line_subtracts_the_noise_of_members() -> None:
    """Pseudo-data equal to the data, unfolded by noisy members: all that differs is noise, which is no failure."""
    rng, own = np.random.default_rng(6), unfolded_data()
    place = np.maximum(TRUTH.index(SIMULATION, SIMULATION["pass_truth"]), 0)
    spread = own.spectrum(TRUTH).uncertainty / own.spectrum(TRUTH).values

    def noisy(seed: int) -> Unfolded:
        rng = np.random.default_rng(seed)
        shift = 1 + 0.5 * spread * rng.normal(size=(4, 6))
        return replace(own, weights=own.weights * shift[:, place]).with_data(EVENTS, EVENTS_BACKGROUND)

    values = []
    for seed in rng.integers(1 << 30, size=12):
        found = checks.bottom_line_of_events(
            noisy(int(seed)), {"again": noisy(int(seed) + 1)}, truth=TRUTH, reco=RECO
        )  # fmt: skip
        values.append(found.passed)
    assert values.count(True) >= 11
    one, two = (replace(noisy(k), weights=noisy(k).weights[:1]).with_data(EVENTS, EVENTS_BACKGROUND) for k in (1, 2))
    assert checks.bottom_line_of_events(one, {"again": two}, truth=TRUTH, reco=RECO).passed is None


def test_bottom_line_tells_what_it_lacks() -> None:
    own = unfolded_data()
    assert "more replicas than 8, found 5" in line(replace(own, replicas=own.replicas[:5]).with_data(*own.seen)).words  # type: ignore[misc]
    assert "the data does not" in line(replace(own)).words
    assert line(own).passed
    wide = Binning("x0", np.linspace(-9.0, 9.0, 300))
    others = {name: other for name, (other, _) in pseudo_data().items()}
    empty = checks.bottom_line_of_events(own, others, truth=TRUTH, reco=wide)
    assert empty.passed is None
    assert "merge bins" in empty.words
    alien = replace(own, simulation=DETECTOR.simulation(len(SIMULATION) // 2, seed=9)).with_data(EVENTS)
    with pytest.raises(ValueError, match="pseudo-data 'alien': expected data unfolded by the same simulation"):
        checks.bottom_line_of_events(own, {"alien": alien}, truth=TRUTH, reco=RECO)


def test_coverage_of_spectra_by_hand() -> None:
    """Pulls of Gaussian spectra have width 1 though their expectation is not known, with few of them too."""
    rng, bins = np.random.default_rng(7), Binning("t", np.arange(4.0))
    sigma = np.array([1.0, 2.0, 5.0])
    widths = []
    for _ in range(300):
        values = 100 + sigma * rng.normal(size=(4, 3))
        spectra = [Spectrum(bins, v, {"statistical": np.diag(sigma**2)}) for v in values]
        found = checks.of_spectra(spectra, np.full(3, 100.0))
        np.testing.assert_allclose(found.values - found.smeared, (values - values.mean(0)) * np.sqrt(4 / 3))
        widths.append((found.pulls**2).mean())
    assert abs(np.mean(widths) - 1) < 4 * np.std(widths) / np.sqrt(300)
    with pytest.raises(ValueError, match="expected at least 2 spectra, found 1"):
        checks.of_spectra(spectra[:1], np.ones(3))
    with pytest.raises(ValueError, match="truth: expected 3 bins"):
        checks.of_spectra(spectra, np.ones(4))


@functools.cache
def experiments() -> tuple[Spectrum, ...]:
    """Of Poisson counts about the data's expectation, at the bins' centres."""
    rng, at = np.random.default_rng(8), (RECO.edges[:-1] + RECO.edges[1:]) / 2
    expected = RECO.fill(EVENTS)[0]
    toys = [Events({"x0": np.repeat(at, rng.poisson(expected))}) for _ in range(200)]
    return tuple(binned_omnifold(toy, EVENTS_BACKGROUND, iterations=4).spectrum(TRUTH) for toy in toys)


def test_coverage_of_replicas() -> None:
    """Theirs are too wide by the simulation's statistics, which toys of one simulation have not; half is too narrow."""
    truth = 48_000 * np.diff(stats.norm.cdf(TRUTH.edges))
    sigma = unfolded_data().spectrum(TRUTH).uncertainty
    right = checks.of_spectra(experiments(), truth, sigma=sigma)
    assert checks.coverage(right, wide=True)[0].passed
    assert 0.68 < right.covered.mean() < 0.9
    half = checks.of_spectra(experiments(), truth, sigma=sigma / 2)
    assert checks.coverage(half, wide=True)[0].passed is False
    twice = checks.of_spectra(experiments(), truth, sigma=2 * sigma)
    assert checks.coverage(twice, wide=True)[0].passed
    assert checks.coverage(twice)[0].passed is False
    assert "of the mean of all at 0.683" in checks.coverage(right)[0].words


FAST: dict[str, Any] = {"network": MLP(width=16, depth=2), "training": Training(epochs=2, batch=2048)}


def test_check_of_unfolded_events(tmp_path: Any) -> None:
    """All of them, with the data it knows; those of replicas that are too close fail where they should."""
    own, truth = unfolded_data(), 48_000 * np.diff(stats.norm.cdf(TRUTH.edges))
    options: dict[str, Any] = {
        "truth": TRUTH, "reco": RECO, "pseudo_experiments": (experiments(), truth), **FAST,
        "pseudo_data": pseudo_data(),
    }  # fmt: skip
    found = own.check(**options)
    assert {c.name for c in found.undecided} == {"closure", "coverage of the truth itself", "prior dependence"}
    assert not {"bottom line", "coverage", "effective size", "iterations"} & {c.name for c in found.failed}, str(found)
    wrong = shrunk(own, 0.3).check(**options)
    assert wrong["coverage"].passed is False
    own.save(tmp_path / "unfolded")
    loaded = Unfolded.load(tmp_path / "unfolded", SIMULATION)
    with pytest.raises(ValueError, match="check: expected data="):
        loaded.check(truth=TRUTH, reco=RECO)
    with pytest.raises(ValueError, match="features= of the two-sample test"):
        replace(loaded, settings={}).with_data(EVENTS).check(truth=TRUTH, reco=RECO)
    again = loaded.check(data=EVENTS, background=EVENTS_BACKGROUND, **options)
    assert str(again) == str(found)


# -- draws -------------------------------------------------------------------------------------------------------------


def test_check_of_draws() -> None:
    """All are there, and what cannot be done says why; half of the replicas' distance fails the bottom line."""
    short = Training(epochs=2, batch=256, learning_rate=5e-3)
    simulation = DETECTOR.simulation(3000, seed=1)
    options: dict[str, Any] = {"reco": ["x0"], "truth": ["t0"], "iterations": 1, "draws": 1, "training": short,
                               "classifier_training": short, "progress": False, "seed": 1}  # fmt: skip
    data, background = DETECTOR.data(3000, seed=1), DETECTOR.background(3000, seed=1)
    own = generative_unfolding(data, simulation, background=background, bootstrap=14, **options)
    own = own.with_data(data, background)
    assert own.seen == (data, background)
    assert replace(own).seen is None
    shifted = OTHERS["shifted"]
    other = shifted.data(3000, seed=2), shifted.background(3000, seed=2)
    pseudo = generative_unfolding(other[0], simulation, background=other[1], **options).with_data(*other)
    truth = 3600 * np.diff(stats.norm.cdf(TRUTH.edges, 0.2, 1.0))
    fresh = DETECTOR.simulation(2000, seed=3)
    found = own.check(truth=TRUTH, reco=RECO, simulation=fresh, pseudo_data={"shifted": (pseudo, truth)},
                      pseudo_experiments=([own, pseudo], truth), priors={"same": own})  # fmt: skip
    assert found["calibration"].value == own.calibration(fresh).p_value
    by_hand = replace(own.spectrum(TRUTH), values=pseudo.spectrum(TRUTH).values).chi2(truth)
    assert found["stress test, shifted"].value == pytest.approx(by_hand.p_value)  # with the covariance of the data
    assert found["prior dependence, same"].passed
    assert "draws are no weights" in found["two-sample test"].words
    assert {c.name for c in found.checks} >= {"bottom line", "coverage", "closure", "iterations"}
    without = own.check(truth=TRUTH, reco=RECO)
    assert "simulation= that was not trained on" in without["calibration"].words


def test_checks_in_bins_do_not_load_torch() -> None:
    code = """
import sys
from nuinfer import Events
from nuinfer.unfolding import Response, iterative_bayes
events = Events({"t": [0.5, 0.5, 1.5, 1.5], "x": [0.4, 1.2, 1.4, 9.0]})
response = Response.from_events(events, truth={"t": [0, 1, 2]}, reco={"x": [0, 1, 2]})
found = iterative_bayes([1e4, 3e4], response).check(models={"flat": [3e4, 3e4]}, toys=2, progress=False)
print("torch" in sys.modules, len(found))
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["False", "8"]
