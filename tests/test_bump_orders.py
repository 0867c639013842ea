"""The choice of the background's order: chosen as often as theory says, and the envelope of several shapes."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy import stats

from nuinfer.anomaly.bump import (
    BackgroundShape,
    Bernstein,
    BumpLikelihood,
    Dijet,
    Exponential,
    GaussianPeak,
    Polynomial,
    TemplateBackground,
    choose_order,
    fit_bump,
    fit_toys,
    orders,
    profile_envelope,
    profile_yield,
)

Floats = NDArray[np.float64]

EDGES = np.linspace(2000.0, 6000.0, 41)
PEAK = GaussianPeak(relative_sigma=0.04)
FAMILIES: dict[str, list[BackgroundShape]] = {
    "dijet": [Dijet(3), Dijet(4), Dijet(5)],
    "exponential": [Exponential(1), Exponential(2), Exponential(3)],
    "polynomial": [Polynomial(2), Polynomial(3), Polynomial(4)],
    "bernstein": [Bernstein(2), Bernstein(3), Bernstein(4)],
}
#: Of the first shape of each family, with coefficients far from where the density is 0.
TRUTHS = {
    "dijet": {"log_p0": 1.0, "p1": 5.0, "p2": 4.0},
    "exponential": {"c0": 6.0, "c1": -2.0},
    "polynomial": {"c0": 20_000.0, "c1": -9000.0, "c2": 3000.0},
    "bernstein": {"c0": 10_000.0, "c1": 6000.0, "c2": 4000.0},
}


def truth(family: str) -> Floats:
    """20,000 events expected."""
    shape = FAMILIES[family][0].on((2000.0, 6000.0))
    bins = np.stack([EDGES[:-1], EDGES[1:]], 1)
    mean = shape.integrals(bins, np.array(list(TRUTHS[family].values())))
    return np.asarray(mean * 20_000 / mean.sum())


def likelihood_of(counts: Floats, shape: BackgroundShape) -> BumpLikelihood:
    return BumpLikelihood.binned(counts, shape, PEAK, edges=EDGES)


def deviances(family: str, mean: Floats, toys: int, seed: int) -> Floats:
    """-2 log L (K, T) of all shapes for toys."""
    counts = np.random.default_rng(seed).poisson(mean, (toys, len(mean))).astype(float)
    likelihood = likelihood_of(counts[0], FAMILIES[family][0])
    fits = [fit_toys(likelihood.with_background(shape), counts, errors=False) for shape in FAMILIES[family]]
    assert all(not len(fit.failed) for fit in fits)
    return np.array([2 * fit.nll for fit in fits])


@pytest.mark.parametrize("family", list(FAMILIES))
def test_tests_have_their_size(family: str) -> None:
    toys = 1000
    found = deviances(family, truth(family), toys, seed=1)
    gain = found[0] - found[1]
    assert stats.kstest(gain, stats.chi2(1).cdf).pvalue > 0.01  # the exact law, in large samples
    free, bins = len(FAMILIES[family][1].names), len(EDGES) - 1
    f = gain / (found[1] / (bins - free))
    assert stats.kstest(f, stats.f(1, bins - free).cdf).pvalue > 0.01
    # two more parameters are chi2 of two degrees, and no other
    assert stats.kstest(found[0] - found[2], stats.chi2(2).cdf).pvalue > 0.01
    assert stats.kstest(found[0] - found[2], stats.chi2(1).cdf).pvalue < 1e-10
    # the first is chosen but for the size of the test, or P(chi2 > 2) by AIC
    for alpha in (0.05, stats.chi2.sf(2, 1)):
        wrong = (stats.chi2.sf(gain, 1) < alpha).mean()
        assert abs(wrong - alpha) < 4 * math.sqrt(alpha * (1 - alpha) / toys)


def test_choices_are_those_of_the_deviances() -> None:
    counts = np.random.default_rng(2).poisson(truth("dijet")).astype(float)
    family = FAMILIES["dijet"]
    found = choose_order(likelihood_of(counts, Exponential(4)), family)
    fits = [fit_bump(likelihood_of(counts, shape)) for shape in family]
    np.testing.assert_allclose(found.deviance, [2 * fit.nll for fit in fits], atol=1e-5)
    assert found.parameters.tolist() == [3, 4, 5]
    assert found.ndf.tolist() == [37, 36, 35]
    assert found.ratio_p[0] == pytest.approx(stats.chi2.sf(found.deviance[0] - found.deviance[1], 1))
    gain = found.deviance[1] - found.deviance[2]
    assert found.f_p[1] == pytest.approx(stats.f.sf(gain / (found.chi2[2] / 35), 1, 35))
    assert np.isnan([found.ratio_p[2], found.f_p[2]]).all()
    np.testing.assert_allclose(found.aic, found.deviance + 2 * found.parameters)
    np.testing.assert_allclose(found.aicc - found.aic, [2 * 3 * 4 / 36, 2 * 4 * 5 / 35, 2 * 5 * 6 / 34])
    np.testing.assert_allclose(found.bic - found.deviance, found.parameters * math.log(40))
    assert "Dijet(3)" in repr(found)


@pytest.mark.parametrize("criterion", ["likelihood-ratio", "f-test", "aic", "aicc", "bic"])
def test_the_true_order_is_chosen(criterion: orders.Criterion) -> None:
    middle = (EDGES[1:] + EDGES[:-1]) / 2
    curved = truth("exponential") * np.exp(0.6 * ((middle - 4000) / 2000) ** 2)  # order 2
    family = [Exponential(k) for k in (1, 2, 3, 4)]
    picked = []
    for seed in range(40):
        counts = np.random.default_rng(seed).poisson(curved).astype(float)
        picked.append(choose_order(likelihood_of(counts, family[0]), family, criterion=criterion).best)
    wrong = np.mean(np.array(picked) > 1)
    size = {"bic": stats.chi2.sf(math.log(40), 1), "aic": 0.157 + 0.05, "aicc": 0.157}.get(criterion, 0.05)
    assert min(picked) == 1  # order 1 is refused always
    assert wrong < size + 4 * math.sqrt(size * (1 - size) / 40)


def test_a_bad_fit_is_named() -> None:
    middle = (EDGES[1:] + EDGES[:-1]) / 2
    counts = np.random.default_rng(3).poisson(truth("exponential") * (1 + 0.3 * np.sin(middle / 150))).astype(float)
    found = choose_order(likelihood_of(counts, Exponential(1)), FAMILIES["exponential"])
    assert not found.describes
    assert "DOES NOT DESCRIBE" in repr(found)
    # the F-test forgives, the likelihood ratio does not
    assert (found.f_p[:2] > found.ratio_p[:2]).all()
    good = np.random.default_rng(4).poisson(truth("exponential")).astype(float)
    assert choose_order(likelihood_of(good, Exponential(1)), FAMILIES["exponential"]).describes


def test_constrained_parameters_are_not_counted() -> None:
    mean = truth("exponential")
    tilt = TemplateBackground(mean, EDGES, {"tilt": mean * np.linspace(1.1, 0.9, 40)})
    counts = np.random.default_rng(5).poisson(mean).astype(float)
    found = choose_order(likelihood_of(counts, tilt), [tilt, Exponential(1)], criterion="aicc")
    assert found.parameters.tolist() == [1, 2]
    assert found.ndf.tolist() == [39, 38]


def test_events_without_bins() -> None:
    x = 2000 + np.random.default_rng(6).exponential(700, 3000)
    free = BumpLikelihood.unbinned(x, Exponential(3), PEAK, range=(2000.0, 6000.0))
    family = FAMILIES["exponential"]
    exact = choose_order(free, family)
    binned = choose_order(free.in_bins(np.linspace(2000, 6000, 1001)), family)
    np.testing.assert_allclose(exact.ratio_p[:2], binned.ratio_p[:2], atol=0.03)
    assert exact.best == binned.best
    n = (x < 6000).sum()
    np.testing.assert_allclose(np.diff(exact.bic - exact.deviance), math.log(n))


def test_other_backgrounds_keep_what_they_can() -> None:
    counts = np.random.default_rng(7).poisson(truth("dijet")).astype(float)
    likelihood = BumpLikelihood.binned(counts, Dijet(4), PEAK, edges=EDGES, exclude=[(3000.0, 3500.0)],
                                       constraints={"p2": (4.0, 0.1), "width_scale": (1.0, 0.1)}, free=["mass_scale"],
                                       limits={"p3": (0.0, None), "yield": (0.0, None)})  # fmt: skip
    other = likelihood.with_background(Exponential(2))
    assert other.constraints == {"width_scale": (1.0, 0.1)}
    assert other.limits == {"yield": (0.0, None)}
    assert other.free == ("mass_scale",)
    assert (other.used == likelihood.used).all()
    assert likelihood.with_background(Dijet(5)).constraints == likelihood.constraints
    tilted = TemplateBackground(truth("dijet"), EDGES, norm=0.1)
    assert likelihood.with_background(tilted).constraints["log_norm"] == (0.0, pytest.approx(math.log(1.1)))
    assert set(likelihood.with_background(tilted).with_background(Dijet(3)).constraints) == {"width_scale"}


# -- the envelope ------------------------------------------------------------------------------------------------------


def test_envelope() -> None:
    counts = np.random.default_rng(8).poisson(truth("exponential")).astype(float)
    likelihood, family = likelihood_of(counts, Exponential(1)), [Exponential(1), Exponential(2), Dijet(3)]
    yields = np.linspace(-250, 250, 51)
    found = profile_envelope(likelihood, family, 3500.0, yields)
    curves = np.array([2 * profile_yield(likelihood.with_background(s), 3500.0, yields) for s in family])
    curves += np.array([[2.0], [3.0], [3.0]])
    np.testing.assert_allclose(found.curves, curves - curves.min(), atol=1e-5)
    np.testing.assert_allclose(found.least, found.curves.min(0))
    # of one shape it is the profile
    one = profile_envelope(likelihood, family[:1], 3500.0, yields)
    fit = fit_bump(likelihood, 3500.0)
    low, high = one.interval()
    assert one.best == pytest.approx(fit.values["yield"], abs=5.01)
    assert (low, high) == (pytest.approx(fit.values["yield"] - fit.errors["yield"], abs=3),
                           pytest.approx(fit.values["yield"] + fit.errors["yield"], abs=3))  # fmt: skip
    assert found.interval(3.84)[0] < found.interval()[0] < found.interval()[1] < found.interval(3.84)[1]
    # a great penalty leaves the shape with the fewest parameters
    dear = profile_envelope(likelihood, family, 3500.0, yields, penalty=1e3)
    assert (dear.which == 0).all()
    np.testing.assert_allclose(dear.least, one.least, atol=1e-6)
    assert len(set(found.which.tolist())) > 1
    assert "YieldEnvelope" in repr(found)
    with pytest.raises(ValueError, match="take more yields"):
        profile_envelope(likelihood, family, 3500.0, [0.0, 5.0, 10.0]).interval()


@pytest.mark.slow
def test_envelope_covers_where_one_shape_does_not() -> None:
    """With a curved truth: the straight shape is biased, the envelope is not."""
    middle = (EDGES[1:] + EDGES[:-1]) / 2
    curved = truth("exponential") * np.exp(0.25 * ((middle - 4000) / 2000) ** 2)
    yields, family = np.linspace(-600, 600, 81), [Exponential(1), Exponential(2)]
    inside = np.zeros((2, 300), bool)
    for k in range(300):
        counts = np.random.default_rng(k).poisson(curved).astype(float)
        likelihood = likelihood_of(counts, family[0])
        for j, shapes in enumerate((family, family[:1])):
            low, high = profile_envelope(likelihood, shapes, 3500.0, yields).interval()
            inside[j, k] = low <= 0 <= high
    error = math.sqrt(0.683 * 0.317 / 300)
    assert abs(inside[0].mean() - 0.683) < 4 * error
    assert inside[1].mean() < 0.683 - 4 * error


def test_records_and_bad_input(tmp_path: Path) -> None:
    counts = np.random.default_rng(9).poisson(truth("dijet")).astype(float)
    likelihood, family = likelihood_of(counts, Dijet(3)), FAMILIES["dijet"]
    for result in (choose_order(likelihood, family), profile_envelope(likelihood, family, 3500.0, [-50.0, 0.0, 50.0])):
        result.save(tmp_path / "r.safetensors")
        again = type(result).load(tmp_path / "r.safetensors")
        assert repr(again) == repr(result)
    for make, message in (
        (lambda: choose_order(likelihood, []), "found none"),
        (lambda: choose_order(likelihood, family, criterion="best"), "expected one of likelihood-ratio"),  # type: ignore[arg-type]
        (lambda: choose_order(likelihood, family, alpha=2.0), "between 0 and 1"),
        (lambda: choose_order(likelihood, [Dijet(4), Dijet(3)]), "nested"),
        (lambda: choose_order(likelihood, [Dijet(3), Polynomial(3)]), "nested"),
        (lambda: profile_envelope(likelihood, family, 3500.0, [0.0, 1.0]), "at least three"),
        (lambda: profile_envelope(likelihood, [], 3500.0, [0.0, 1.0, 2.0]), "shapes"),
        (lambda: profile_envelope(likelihood, family, 3500.0, [0.0, 1.0, 2.0], penalty=-1.0), "from 0"),
    ):
        with pytest.raises(ValueError, match=message):
            make()
    assert choose_order(likelihood, [Dijet(3), Polynomial(3)], criterion="bic").best == 0
