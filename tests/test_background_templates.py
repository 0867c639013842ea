"""Background templates against the exact density of the background in the signal region, p(x | m)."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy import special, stats

from nuinfer import MLP, Events, Features, Ragged, Training, metrics
from nuinfer.anomaly.bump import Exponential
from nuinfer.anomaly.regions import Window
from nuinfer.anomaly.templates import (
    Anode,
    BackgroundTemplate,
    Cathode,
    Decorrelated,
    Decorrelation,
    FittedTemplate,
    Latent,
    Salad,
    Sidebands,
    fit_decorrelation,
    fit_spectrum,
)
from nuinfer.density import MAF, NSF, FlowMatching
from nuinfer.ratio import two_sample_test
from nuinfer.simulators.resonance import Resonance

Floats = NDArray[np.float64]

WINDOW = Window(signal=(3.3, 3.7), sidebands=((2.9, 3.3), (3.7, 4.1)))
SIGNAL = WINDOW.signal
FEATURES = Features(["x0", "x1"])
EVENTS = 40_000  # of which 5,200 are in the signal region, 8,600 and 4,300 in the sidebands

FLAT = Resonance()
SHIFTED = Resonance(correlation=2.0)
WRONG = Resonance(correlation=1.0, background_mean=0.3)  # a simulation of SHIFTED

QUICK = Training(epochs=8, batch=256, average=1.0)
SMALL = {"network": NSF(transforms=1, width=16), "training": QUICK}
TINY = {"network": MAF(transforms=1, width=8), "training": Training(epochs=1, batch=512)}


def fitted(template: BackgroundTemplate, data: Events, *, window: Window = WINDOW, seed: int = 1, folds: int = 1,
           features: Features = FEATURES) -> FittedTemplate:  # fmt: skip
    return template.fit(data, "m", features, window, seed=seed, folds=folds, progress=False)


def matrix(events: Events) -> Floats:
    return np.stack([events["x0"], events["x1"]], 1)


@pytest.fixture(scope="module")
def shifted() -> Events:
    return SHIFTED.data(EVENTS, 0, seed=1)


@pytest.fixture(scope="module")
def cathode(shifted: Events) -> FittedTemplate:
    return fitted(Cathode(**SMALL), shifted)  # type: ignore[arg-type]


@pytest.fixture(scope="module")
def simulation() -> Events:
    return WRONG.background(2 * EVENTS, seed=6)


@pytest.fixture(scope="module")
def salad(shifted: Events, simulation: Events) -> FittedTemplate:
    spec = Salad(simulation=simulation, network=MLP(width=32, depth=2), training=QUICK)
    return fitted(spec, shifted)


# -- the problem -------------------------------------------------------------------------------------------------------


def test_the_exact_answers_are_those_of_samples() -> None:
    n = 100_000
    background = SHIFTED.background(n, seed=1, region=SIGNAL)
    signal = SHIFTED.signal(n, seed=1)
    signal = signal.select(WINDOW.in_signal(signal["m"]))
    mean, covariance = SHIFTED.moments(SIGNAL)
    x = matrix(background)
    assert np.abs(x.mean(0) - mean).max() < 4 * np.sqrt(covariance[0, 0] / n)
    assert np.abs(np.cov(x.T) - covariance).max() < 4 * covariance[0, 0] * np.sqrt(2 / n)
    score = metrics.roc_auc(SHIFTED.log_ratio(signal), SHIFTED.log_ratio(background))
    assert abs(score.value - SHIFTED.auc(SIGNAL)) < 4 * score.null_sd
    cut = np.quantile(SHIFTED.log_ratio(background), 0.99)
    passing = (SHIFTED.log_ratio(signal) > cut).mean()
    exact = SHIFTED.efficiencies([cut], SIGNAL)
    assert abs(exact[0][0] - 0.01) < 4 * np.sqrt(0.01 / n)
    assert abs(exact[1][0] - passing) < 4 * np.sqrt(0.25 / len(signal))
    assert SHIFTED.sic(SIGNAL, float(exact[0][0])) == pytest.approx(exact[1][0] / np.sqrt(exact[0][0]), rel=1e-6)


def test_ratios_reweight_one_sample_into_another() -> None:
    """E[r] = 1 over the denominator, and r turns its mean into the numerator's."""
    background = SHIFTED.background(100_000, seed=3)
    r = np.exp(SHIFTED.log_simulation(WRONG.background(100_000, seed=4), WRONG))
    assert abs(r.mean() - 1) < 4 * r.std() / np.sqrt(len(r))
    r = np.exp(SHIFTED.log_excess(background, 1000, 50))
    assert abs(r.mean() - 1) < 4 * r.std() / np.sqrt(len(r))
    assert r.std() > 0.1
    data = SHIFTED.data(100_000, 5000, seed=5, keep_truth=True)
    assert data["is_signal"].sum() == 5000
    peak = data.select(WINDOW.in_signal(data["m"]))
    own = background.select(WINDOW.in_signal(background["m"]))
    w = np.exp(SHIFTED.log_excess(own, 100_000, 5000))
    gap = peak["x0"].mean() - np.average(own["x0"], weights=w)
    assert abs(gap) < 4 * np.sqrt(2 * (w**2).mean() / len(own))
    assert peak["x0"].mean() - own["x0"].mean() > 0.3


def test_spectra_are_those_of_the_densities() -> None:
    edges = np.linspace(2.5, 5.0, 26)
    middle = (edges[1:] + edges[:-1]) / 2
    for events, density in ((FLAT.background(50_000, seed=1), FLAT.mass_background),
                            (FLAT.signal(50_000, seed=1), FLAT.mass_signal)):  # fmt: skip
        fine = np.linspace(edges[:-1], edges[1:], 201)
        mean = np.asarray(50_000 * np.trapezoid(density(fine), fine, axis=0))
        counts = np.histogram(events["m"], edges)[0]
        seen = mean > 10
        chi2 = ((counts - mean)[seen] ** 2 / mean[seen]).sum()
        assert stats.chi2.sf(chi2, seen.sum() - 1) > 0.001
    assert (FLAT.mass_background([2.0, 6.0]) == 0).all()
    assert middle.min() > 2.5


def test_problem_with_bad_numbers() -> None:
    with pytest.raises(ValueError, match="mass inside of the range"):
        Resonance(mass=6.0)
    with pytest.raises(ValueError, match="correlation: expected a number or 2"):
        Resonance(correlation=[1.0, 2.0, 3.0])
    with pytest.raises(ValueError, match="efficiency: expected one between 0 and 1"):
        FLAT.sic(SIGNAL, 1.0)


# -- the spectrum ------------------------------------------------------------------------------------------------------


def test_the_spectrum_is_interpolated() -> None:
    """The expected number in the signal region, within the error of the sidebands'; a straight line is too high."""
    data = FLAT.data(EVENTS, 500, seed=2, keep_truth=True)
    near = data.select(WINDOW.in_sidebands(data["m"]))
    spectrum = fit_spectrum(near.select(~near["is_signal"]), "m", WINDOW, Exponential(2))
    first, last = np.exp(-np.array(SIGNAL) / 0.6) / (np.exp(-2.5 / 0.6) - np.exp(-5.0 / 0.6))
    exact = EVENTS * (first - last)
    assert abs(spectrum.expected(SIGNAL) - exact) < 4 * 1.5 * np.sqrt(exact)
    assert np.isclose(near.sum_weights / 2, exact, rtol=0.05) is np.False_
    m = spectrum.sample(SIGNAL, n=5000, seed=1)
    assert ((m >= 3.3) & (m < 3.7)).all()
    shape = stats.truncexpon(b=0.4 / 0.6, loc=3.3, scale=0.6)
    assert stats.kstest(m, shape.cdf).pvalue > 0.001
    assert stats.kstest(m, "uniform", args=(3.3, 0.4)).pvalue < 1e-6
    numbers = [len(spectrum.sample(SIGNAL, seed=seed)) for seed in range(30)]
    assert abs(np.mean(numbers) - spectrum.expected(SIGNAL)) < 4 * np.sqrt(exact / 30)
    assert spectrum.p > 0.001


def test_a_weighted_spectrum() -> None:
    """Half of the weight is half of the spectrum."""
    data = FLAT.data(EVENTS, 0, seed=2)
    whole, half = (fit_spectrum(e, "m", WINDOW, Exponential(1)) for e in (data, data.with_weight(0.5)))
    assert half.expected(SIGNAL) == pytest.approx(whole.expected(SIGNAL) / 2, rel=1e-3)
    with pytest.raises(ValueError, match="contents"):
        fit_spectrum(data.with_weight(-1.0), "m", WINDOW, Exponential(1))


# -- the reference against the exact background ------------------------------------------------------------------------


def distance(found: FittedTemplate, problem: Resonance) -> float:
    """The greatest deviation of the reference's mean and covariance from the exact ones, in standard deviations.

    Of what a smooth interpolation knows: the reference's own, and that of the weaker sideband's 4,300 events, twice.
    """
    mean, covariance = problem.moments(SIGNAL)
    own = found.reference
    variance = 1 / own.effective_size + 2 / 4300
    away = metrics.weighted_mean(matrix(own), own.weight) - mean
    spread = metrics.weighted_covariance(matrix(own), own.weight) - covariance
    scale = covariance[0, 0]
    return float(max(np.abs(away).max() / np.sqrt(scale * variance),
                     np.abs(spread).max() / np.sqrt(2 * scale**2 * variance)))  # fmt: skip


def auc_against_exact(found: FittedTemplate, problem: Resonance) -> metrics.Score:
    """Of a classifier of 5,000 exact background events against 5,000 of the reference."""
    rows = np.random.default_rng(1).permutation(len(found.reference))[:5000]
    exact = problem.background(5000, seed=99, region=SIGNAL)
    test = two_sample_test(exact, found.reference.select(rows), FEATURES, seed=1, progress=False,
                           network=MLP(width=16, depth=2), training=Training(epochs=5, batch=256))  # fmt: skip
    return test.auc


def test_sidebands_are_the_background_where_features_do_not_move() -> None:
    data = FLAT.data(EVENTS, 0, seed=1)
    found = fitted(Sidebands(), data)
    assert distance(found, FLAT) < 4
    assert abs(auc_against_exact(found, FLAT).z) < 4
    assert found.spectrum is None
    assert found.log_ratio is None


def test_sidebands_fail_where_they_do(shifted: Events) -> None:
    """A balance of both sides mends the mean, not the spread; without it the mean is off too."""
    balanced, as_they_are = (fitted(Sidebands(balance=b), shifted) for b in (True, False))
    assert distance(balanced, SHIFTED) > 10
    assert auc_against_exact(balanced, SHIFTED).z > 15
    mean = metrics.weighted_mean(matrix(balanced.reference), balanced.reference.weight)
    assert np.abs(mean - SHIFTED.moments(SIGNAL)[0]).max() < 0.06
    mean = metrics.weighted_mean(matrix(as_they_are.reference))
    assert np.abs(mean - SHIFTED.moments(SIGNAL)[0]).max() > 0.2


def test_cathode_interpolates(cathode: FittedTemplate) -> None:
    assert distance(cathode, SHIFTED) < 4
    assert abs(auc_against_exact(cathode, SHIFTED).z) < 4
    assert len(cathode.reference) == pytest.approx(4 * cathode.reference.sum_weights, rel=0.01)
    assert WINDOW.in_signal(cathode.reference["m"]).all()


def test_cathode_where_features_do_not_move() -> None:
    assert distance(fitted(Cathode(**SMALL), FLAT.data(EVENTS, 0, seed=1)), FLAT) < 4  # type: ignore[arg-type]


def test_salad_corrects_a_wrong_simulation(salad: FittedTemplate, simulation: Events) -> None:
    """The simulation itself fails; so does a correction that does not know the mass."""
    assert distance(salad, SHIFTED) < 4
    assert abs(auc_against_exact(salad, SHIFTED).z) < 4.5
    inside = simulation.select(WINDOW.in_signal(simulation["m"]))
    assert distance(replace(salad, reference=inside), SHIFTED) > 8
    beside = simulation.select(WINDOW.in_sidebands(simulation["m"]))
    without = np.exp(SHIFTED.log_simulation(beside, WRONG)).mean() * inside.weight
    assert distance(replace(salad, reference=inside.with_weight(without)), SHIFTED) > 8
    expected = EVENTS * float(np.diff(-np.exp(-np.array(SIGNAL) / 0.6))[0]) / (np.exp(-2.5 / 0.6) - np.exp(-5 / 0.6))
    assert salad.reference.sum_weights == pytest.approx(expected, rel=0.06)


def test_salads_weights_are_the_exact_ratio(salad: FittedTemplate) -> None:
    """Their logarithms within a fifth of the spread of the exact ones."""
    exact = SHIFTED.log_simulation(salad.reference, WRONG)
    found = np.log(salad.reference.weight) - np.log(0.5)  # twice as many are simulated
    assert np.sqrt(np.mean((found - exact) ** 2)) < 0.2
    assert exact.std() > 0.35


def test_decorrelated_sidebands(shifted: Events) -> None:
    """A linear shift is what both ways take out: the mapped signal region is then like the mapped sidebands."""
    for method in ("linear", "quantile"):
        found = fitted(Decorrelated(method=method), shifted)
        exact = found.transform(SHIFTED.background(5000, seed=98, region=SIGNAL))
        test = two_sample_test(exact, found.reference.select(np.arange(5000)), FEATURES, seed=1, progress=False,
                               network=MLP(width=16, depth=2), training=Training(epochs=5, batch=256))  # fmt: skip
        assert abs(test.z) < 4
        assert found.words.startswith("Features have lost")


def test_salad_of_decorrelated_features(shifted: Events, simulation: Events) -> None:
    """The simulation goes through the same map."""
    spec = Decorrelated(template=Salad(simulation=simulation, network=MLP(width=16, depth=2), training=QUICK))
    found = fitted(spec, shifted)
    exact = found.transform(SHIFTED.background(20_000, seed=98, region=SIGNAL))
    mean = metrics.weighted_mean(matrix(found.reference), found.reference.weight)
    assert np.abs(mean - matrix(exact).mean(0)).max() < 0.1
    raw = simulation.select(WINDOW.in_signal(simulation["m"]))
    assert np.abs(matrix(raw).mean(0) - matrix(exact).mean(0)).max() > 0.2


# -- draws -------------------------------------------------------------------------------------------------------------


def test_draws_follow_the_mass(cathode: FittedTemplate) -> None:
    """E[x | m] in narrow slices of signal region and sidebands; what sidebands alone say is one number for all."""
    assert cathode.draw is not None
    for mass in (3.0, 3.5, 4.0):
        drawn = cathode.draw(np.full(4000, mass), 1)
        exact = SHIFTED.mean([mass])[0]
        assert np.abs(matrix(drawn).mean(0) - exact).max() < 0.12
    assert np.abs(SHIFTED.mean([3.0]) - SHIFTED.mean([4.0])).min() > 1


def test_pseudo_experiments(cathode: FittedTemplate, shifted: Events) -> None:
    assert cathode.spectrum is not None
    one = cathode.background((2.9, 4.1), seed=3)
    inside = np.count_nonzero((shifted["m"] >= 2.9) & (shifted["m"] < 4.1))
    assert abs(len(one) - inside) < 5 * np.sqrt(2 * inside)
    again, other = cathode.background((2.9, 4.1), seed=3), cathode.background((2.9, 4.1), seed=4)
    np.testing.assert_array_equal(one["x0"], again["x0"])
    assert len(np.intersect1d(one.id, other.id)) == 0
    assert len(cathode.background((2.9, 4.1), n=17, seed=3)) == 17
    own = shifted.select((shifted["m"] >= 2.9) & (shifted["m"] < 4.1)).select(np.arange(5000))
    test = two_sample_test(own, one.select(np.arange(5000)), Features(["m", "x0", "x1"]), seed=1, progress=False)
    assert abs(test.z) < 4
    with pytest.raises(TypeError, match="a template with a density to draw from"):
        fitted(Sidebands(), shifted).background((2.9, 4.1), seed=1)


def test_ids(cathode: FittedTemplate, salad: FittedTemplate, shifted: Events, simulation: Events) -> None:
    """Of drawn and simulated events they are their own; of sidebands those of the data."""
    taken = np.concatenate([shifted.id, simulation.id])
    for found in (cathode, salad):
        assert len(np.unique(found.reference.id)) == len(found.reference)
        assert len(np.intersect1d(found.reference.id, taken)) == 0
    inside = shifted.select(WINDOW.in_sidebands(shifted["m"]))
    np.testing.assert_array_equal(fitted(Sidebands(), shifted).reference.id, inside.id)


def test_bounded_features() -> None:
    """Reference events stay inside; the flow works in the probit of the feature, where it is a normal again."""
    data = SHIFTED.data(EVENTS, 0, seed=1)
    data = data.with_columns(x0=special.ndtr(data["x0"]))
    found = fitted(Cathode(bounds={"x0": (0, 1), "other": (0, None)}, **SMALL), data)  # type: ignore[arg-type]
    u = found.reference["x0"]
    assert 0 < u.min() < u.max() < 1
    back = found.reference.with_columns(x0=special.ndtri(u))
    assert distance(replace(found, reference=back), SHIFTED) < 4


def test_the_same_seed_gives_the_same(shifted: Events, tmp_path: Path) -> None:
    spec = Cathode(**TINY)  # type: ignore[arg-type]
    one, other, third = (
        spec.fit(shifted, "m", FEATURES, WINDOW, seed=seed, progress=False, checkpoint=tmp_path / name)
        for seed, name in ((1, "a"), (1, "b"), (2, "c"))
    )
    np.testing.assert_array_equal(one.reference["x1"], other.reference["x1"])
    assert not np.array_equal(one.reference["x1"][:100], third.reference["x1"][:100])
    assert not np.intersect1d(one.reference.id, third.reference.id).size


# -- latent space ------------------------------------------------------------------------------------------------------


def test_latent_features_are_normal_at_every_mass(shifted: Events) -> None:
    """In slices of fresh background, where the features themselves have moved."""
    found = fitted(Latent(template=Cathode(**SMALL)), shifted)  # type: ignore[arg-type]
    fresh = SHIFTED.background(12_000, seed=7, region=(2.9, 4.1))
    z = found.transform(fresh)
    for low in (2.9, 3.1, 3.3, 3.5, 3.7, 3.9):
        slice_ = (fresh["m"] >= low) & (fresh["m"] < low + 0.2)
        own, raw = (matrix(e)[slice_] for e in (z, fresh))
        # of the slice, and of the flow, which knows a slice by about the 2,000 events around it
        error = np.sqrt(1 / len(own) + 1 / 2000)
        assert np.abs(own.mean(0)).max() < 4 * error
        assert np.abs(own.var(0) - 1).max() < 4 * np.sqrt(2) * error
        assert np.abs(raw.mean(0) - SHIFTED.moments(SIGNAL)[0]).max() > 4 * error or low in (3.3, 3.5)
    assert np.abs(matrix(found.reference).mean(0)).max() < 4 / np.sqrt(len(found.reference))
    np.testing.assert_array_equal(z.id, fresh.id)
    np.testing.assert_array_equal(z["m"], fresh["m"])


def test_draws_become_normal_again(shifted: Events) -> None:
    """The map is the inverse of that which makes draws, so that here there is no error of the flow at all."""
    found = fitted(Latent(template=Cathode(**TINY)), shifted)  # type: ignore[arg-type]
    z = found.transform(found.background((2.9, 4.1), n=8000, seed=1))
    assert min(stats.kstest(z[name], "norm").pvalue for name in ("x0", "x1")) > 0.001
    assert stats.kstest(found.background((2.9, 4.1), n=8000, seed=1)["x0"], "norm").pvalue < 1e-6


def test_latent_spaces_need_one_map() -> None:
    with pytest.raises(ValueError, match="members=3"):
        Latent(template=Cathode(members=3))
    with pytest.raises(TypeError, match="Cathode with NSF or MAF"):
        Latent(template=Cathode(network=FlowMatching()))


# -- ANODE -------------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def excess() -> Events:
    return SHIFTED.data(EVENTS, 400, seed=9)


@pytest.fixture(scope="module")
def anode(excess: Events) -> FittedTemplate:
    spec = Anode(network=MAF(transforms=2, width=16), training=QUICK)
    return fitted(spec, excess, folds=2)


def test_anodes_ratio_is_the_exact_one(anode: FittedTemplate) -> None:
    """In a signal region with 7% of signal; a ratio of sidebands that does not know the mass is not."""
    fresh = SHIFTED.data(EVENTS, 400, seed=10)
    fresh = fresh.select(WINDOW.in_signal(fresh["m"]))
    assert anode.log_ratio is not None
    exact, found = SHIFTED.log_excess(fresh, EVENTS, 400), anode.log_ratio(fresh)
    assert np.corrcoef(exact, found)[0, 1] > 0.9
    assert np.sqrt(np.mean((found - exact) ** 2)) < 0.5 * exact.std()
    r = np.exp(anode.log_ratio(SHIFTED.background(10_000, seed=8, region=SIGNAL)))
    assert abs(r.mean() - 1) < 0.1
    # the density of all sidebands together, exactly
    beside = np.linspace(2.9, 4.1, 121)
    beside = beside[WINDOW.in_sidebands(beside)]
    logs = [SHIFTED.log_background(fresh.with_columns(m=np.full(len(fresh), m))) for m in beside]
    naive = SHIFTED.log_background(fresh) + exact - special.logsumexp(logs, 0, b=1 / len(beside))
    assert np.corrcoef(exact, naive)[0, 1] < 0.9


def test_without_a_signal_the_ratio_says_so(anode: FittedTemplate, shifted: Events) -> None:
    """And separates as the exact one does where there is one."""
    spec = Anode(network=MAF(transforms=2, width=16), training=QUICK)
    none = fitted(spec, shifted, folds=2)
    background = SHIFTED.background(5000, seed=12, region=SIGNAL)
    signal = SHIFTED.signal(5000, seed=12)
    signal = signal.select(WINDOW.in_signal(signal["m"]))
    assert none.log_ratio is not None
    assert anode.log_ratio is not None
    assert none.log_ratio(background).std() < 0.5
    auc = metrics.roc_auc(anode.log_ratio(signal), anode.log_ratio(background))
    assert auc.value > SHIFTED.auc(SIGNAL) - 0.04
    other = none.log_ratio(SHIFTED.background(5000, seed=13, region=SIGNAL))
    assert abs(metrics.roc_auc(none.log_ratio(background), other).z) < 4


def test_anode_scores_its_own_events_out_of_fold(anode: FittedTemplate, excess: Events) -> None:
    """A known event gets its own fold's density, and with another id perhaps that of the other."""
    own = excess.select(WINDOW.in_signal(excess["m"]))
    stranger = Events({name: own[name] for name in own.columns}, id=np.arange(len(own)))
    assert anode.log_ratio is not None
    known, unknown = anode.log_ratio(own), anode.log_ratio(stranger)
    assert np.abs(known - unknown).max() > 0.05
    # held-out densities of one's own data are no better than those of fresh data
    fresh = SHIFTED.data(EVENTS, 400, seed=11)
    fresh = fresh.select(WINDOW.in_signal(fresh["m"]))
    gap = known.mean() - anode.log_ratio(fresh).mean()
    assert abs(gap) < 4 * known.std() * np.sqrt(2 / len(own))


def test_anode_scores_events_beside_the_signal_region_as_in_it() -> None:
    """Features that do not depend on the mass have one distribution of scores; not with densities at masses where that
    of the data has learned nothing, nor where some events have the mean of all folds' densities."""
    spec = Anode(network=MAF(transforms=2, width=16), training=QUICK)
    data = FLAT.data(EVENTS, 0, seed=14)
    found = fitted(spec, data, folds=2)
    assert found.log_ratio is not None
    known = data.select(WINDOW.in_signal(data["m"]))
    new = [FLAT.background(20_000, seed=15, region=region) for region in (SIGNAL, WINDOW.sidebands[0])]
    scores = [found.log_ratio(events) for events in (known, *new)]
    for one, other in ((0, 1), (1, 2), (0, 2)):
        assert stats.ks_2samp(scores[one], scores[other]).pvalue > 0.001
    score = found.log_ratio.__self__  # type: ignore[attr-defined]
    at_their_mass = score.data.log_prob(new[1]) - score.background.density.log_prob(new[1])
    assert stats.ks_2samp(at_their_mass, scores[0]).pvalue < 1e-6


def test_anode_wants_folds(shifted: Events) -> None:
    with pytest.raises(ValueError, match="folds: expected at least 2, found 1"):
        fitted(Anode(), shifted)


# -- decorrelation -----------------------------------------------------------------------------------------------------


def test_a_spread_that_moves_needs_quantiles(tmp_path: Path) -> None:
    """x | m ~ N(0, m^2): normal scores are x / m; a subtracted mean changes nothing."""
    rng = np.random.default_rng(1)
    m = 2 + rng.exponential(1.0, 60_000)
    events = Events({"m": m, "x": m * rng.standard_normal(len(m))})
    near = events.select(m < 5)
    flat = {name: fit_decorrelation(near, ["x"], "m", method=name) for name in ("linear", "quantile")}
    found = flat["quantile"].transform(near)["x"]
    exact = near["x"] / near["m"]
    middle = np.abs(exact) < 2
    assert np.abs(found - exact)[middle].mean() < 0.03
    assert np.abs(found - exact)[~middle].mean() < 0.2  # linear beyond the last quantile
    assert np.abs(flat["linear"].transform(near)["x"] - exact)[middle].mean() > 0.3
    flat["quantile"].save(tmp_path / "d.safetensors")
    again = Decorrelation.load(tmp_path / "d.safetensors")
    np.testing.assert_array_equal(again.transform(near)["x"], found)


def test_a_mean_by_least_squares() -> None:
    rng = np.random.default_rng(2)
    m, w = rng.uniform(2, 3, 500), rng.normal(1.0, 0.5, 500)
    x = 1 + 2 * m - m**2
    flat = fit_decorrelation(Events({"m": m, "x": x}, weight=w), ["x"], "m", degree=2)
    assert np.abs(flat.transform(Events({"m": m, "x": x}))["x"]).max() < 1e-10
    straight = fit_decorrelation(Events({"m": m, "x": x}), ["x"], "m", degree=1)
    residual = straight.transform(Events({"m": m, "x": x}))["x"]
    np.testing.assert_allclose(residual, x - np.polyval(np.polyfit(m, x, 1), m), atol=1e-10)


def test_decorrelation_of_bad_input() -> None:
    events = Events({"m": np.linspace(2, 3, 100), "x": np.arange(100.0)})
    with pytest.raises(ValueError, match="method: expected 'linear' or 'quantile'"):
        fit_decorrelation(events, ["x"], "m", method="cubic")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="degree: expected an integer of at least 1"):
        fit_decorrelation(events, ["x"], "m", degree=0)
    with pytest.raises(ValueError, match="expected at least 1500 for quantiles"):
        fit_decorrelation(events, ["x"], "m", method="quantile")
    with pytest.raises(ValueError, match="weights from 0 for quantiles, found 1 negative"):
        fit_decorrelation(events.with_weight(np.where(events["x"] == 3, -1.0, 1.0)), ["x"], "m", method="quantile")
    with pytest.raises(ValueError, match="masses that vary"):
        fit_decorrelation(events.with_columns(m=np.ones(100)), ["x"], "m")
    with pytest.raises(KeyError, match="no column 'y'"):
        fit_decorrelation(events, ["y"], "m")


# -- bad input ---------------------------------------------------------------------------------------------------------


ONE_SIDED = Window(signal=SIGNAL, sidebands=((2.9, 3.3),))
EVERY = (
    Sidebands(),
    Cathode(**TINY),  # type: ignore[arg-type]
    Anode(**TINY),  # type: ignore[arg-type]
    Latent(template=Cathode(**TINY)),  # type: ignore[arg-type]
    Salad(simulation=WRONG.background(20_000, seed=6), network=MLP(width=8, depth=1), training=Training(epochs=1)),
    Decorrelated(),
)


@pytest.mark.parametrize("template", EVERY, ids=lambda t: type(t).__name__)
def test_refused_by_every_template(template: BackgroundTemplate, shifted: Events) -> None:
    few = shifted.select(~((shifted["m"] > 3.7) & (np.arange(len(shifted)) > 60)))
    with pytest.raises(ValueError, match=r"in the sideband \(3.7, 4.1\), found \d; .* Widen the sidebands"):
        fitted(template, few, folds=2)
    far = Window(signal=(13, 14), sidebands=((12, 13), (14, 15)))
    with pytest.raises(ValueError, match=r"in the signal region \(13.0, 14.0\), found none; .* from 2.5"):
        fitted(template, shifted, window=far, folds=2)
    with pytest.raises(ValueError, match="found them below it only; interpolation becomes extrapolation"):
        fitted(template, shifted, window=ONE_SIDED, folds=2)
    with pytest.raises(KeyError, match="no column 'mass'"):
        template.fit(shifted, "mass", FEATURES, WINDOW, seed=1, folds=2, progress=False)
    with pytest.raises(KeyError, match="no column 'y'"):
        fitted(template, shifted, features=Features(["x0", "y"]), folds=2)
    holes = shifted.with_columns(x0=np.where(WINDOW.in_signal(shifted["m"]), np.nan, shifted["x0"]))
    with pytest.raises(ValueError, match="column 'x0': expected finite values"):
        fitted(template, holes, folds=2)


@pytest.mark.parametrize("template", EVERY[1:5], ids=lambda t: type(t).__name__)
def test_refused_by_what_interpolates(template: BackgroundTemplate, shifted: Events) -> None:
    with pytest.raises(ValueError, match="other columns than the resonance variable 'm'"):
        fitted(template, shifted, features=Features(["x0", "m"]), folds=2)


TOLD = [
    Sidebands(extrapolate=True),
    Cathode(extrapolate=True, **TINY),  # type: ignore[arg-type]
    replace(EVERY[4], extrapolate=True),
    Decorrelated(template=Sidebands(extrapolate=True), extrapolate=True),
]


@pytest.mark.parametrize("template", TOLD, ids=lambda t: type(t).__name__)
def test_one_side_where_told(template: BackgroundTemplate, shifted: Events) -> None:
    one, both = (fitted(template, shifted, window=w) for w in (ONE_SIDED, WINDOW))
    assert len(one.reference) > 1000
    assert "on one side only" in one.words
    assert "on one side only" not in both.words


@pytest.mark.parametrize("template", [EVERY[1], EVERY[2], EVERY[3], EVERY[5]], ids=lambda t: type(t).__name__)
def test_clouds_are_refused_by_densities(template: BackgroundTemplate, shifted: Events) -> None:
    lists = Ragged(np.repeat(shifted["x0"], 2), np.arange(len(shifted) + 1) * 2)
    data = shifted.with_columns({"hits.q": lists})
    with pytest.raises(TypeError, match=r"expected flat columns for .*, found the clouds hits"):
        fitted(template, data, features=Features(["x0"], hits=["q"]), folds=2)


def test_clouds_are_taken_by_sidebands(shifted: Events) -> None:
    data = shifted.with_columns({"hits.q": Ragged(np.repeat(shifted["x0"], 2), np.arange(len(shifted) + 1) * 2)})
    found = fitted(Sidebands(), data, features=Features([], hits=["q"]))
    assert (found.reference["hits.q"].counts == 2).all()


def test_features_outside_their_bounds(shifted: Events) -> None:
    """In the signal region too, where no density is learned."""
    inside = shifted.select(shifted["x0"] > 0)
    lost = inside.with_columns(x0=np.where(np.arange(len(inside)) == np.argmax(WINDOW.in_signal(inside["m"])), -0.5,
                                           inside["x0"]))  # fmt: skip
    for kind in (Cathode, Anode):
        with pytest.raises(ValueError, match=r"column 'x0': expected values between 0.0 and None, found 1 of \d+"):
            fitted(kind(bounds={"x0": (0, None)}, **TINY), lost, folds=2)  # type: ignore[arg-type]
    found = fitted(Anode(bounds={"x0": (0, None)}, **TINY), inside, folds=2)  # type: ignore[arg-type]
    assert found.log_ratio is not None
    with pytest.raises(ValueError, match="column 'x0': expected values between"):
        found.log_ratio(lost)


def test_simulations_that_do_not_fit(shifted: Events, simulation: Events) -> None:
    with pytest.raises(KeyError, match="no column of the simulation 'x1'"):
        fitted(Salad(simulation=simulation.keep(["m", "x0"])), shifted)
    with pytest.raises(KeyError, match="no column of the simulation 'm'"):
        fitted(Salad(simulation=simulation.keep(["x1", "x0"])), shifted)
    with pytest.raises(ValueError, match=r"at least 100 simulated events in the sideband \(3.7, 4.1\), found 0"):
        fitted(Salad(simulation=simulation.select(simulation["m"] < 3.7)), shifted)
    with pytest.raises(ValueError, match="expected simulated events in the signal region"):
        fitted(Salad(simulation=simulation.select(~WINDOW.in_signal(simulation["m"]))), shifted)
    broken = simulation.with_columns(x0=np.where(simulation["m"] > 3.5, np.nan, simulation["x0"]))
    with pytest.raises(ValueError, match="column 'x0': expected finite values"):
        fitted(Salad(simulation=broken), shifted)


def test_other_bad_options(shifted: Events) -> None:
    with pytest.raises(ValueError, match="oversample: expected a positive number, found 0"):
        Cathode(oversample=0)
    signs = np.where(shifted["m"] < 3.3, -1.0, 1.0)
    with pytest.raises(ValueError, match="positive sum of weights in the sidebands below and above"):
        fitted(Sidebands(), shifted.with_weight(signs))
    with pytest.raises(ValueError, match="method: expected 'linear' or 'quantile'"):
        Decorrelated(method="other")  # type: ignore[arg-type]


def test_weights_of_the_data_count() -> None:
    """Events that move to the left weigh nothing, or do not exist: the same balance, the same reference."""
    data = FLAT.data(5000, 0, seed=1)
    weight = (data["x0"] > 0).astype(float)
    weighted, selected = (fitted(Sidebands(), e).reference for e in (data.with_weight(weight), data.select(weight > 0)))
    for events in (weighted, selected):
        below = events["m"] < 3.3
        assert events.weight[below].sum() == pytest.approx(events.weight[~below].sum())
    assert weighted.sum_weights == pytest.approx(selected.sum_weights)
    assert np.average(weighted["x1"], weights=weighted.weight) == pytest.approx(
        np.average(selected["x1"], weights=selected.weight))  # fmt: skip


# -- a study -----------------------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_large_samples() -> None:
    """The table of docs/reference/templates.md: defaults, 39,000 events in the sidebands, up to 20,000 compared."""
    data, exact = SHIFTED.data(120_000, 0, seed=1), SHIFTED.background(20_000, seed=99, region=SIGNAL)
    specs = {
        "Sidebands": Sidebands(),
        "Decorrelated": Decorrelated(),
        "Decorrelated, quantiles": Decorrelated(method="quantile"),
        "Cathode": Cathode(),
        "Salad": Salad(simulation=WRONG.background(240_000, seed=5)),
        "Latent": Latent(),
    }
    for name, spec in specs.items():
        found = fitted(spec, data)
        rows = np.random.default_rng(1).permutation(len(found.reference))[:20_000]
        auc = two_sample_test(
            found.transform(exact), found.reference.select(rows), FEATURES, seed=3, progress=False
        ).auc
        print(f"| {name} | {auc.value:.4f} +- {auc.null_sd:.4f} |")
        assert (abs(auc.value - 0.5) < 0.016) == (name != "Sidebands")
