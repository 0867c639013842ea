"""Limits on a bump: those of pyhf, closed forms, toys; spurious signals and signals put in."""

from __future__ import annotations

import math
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import hist
import numpy as np
import pytest
from numpy.typing import NDArray
from scipy import optimize, special, stats

from nuinfer import NotConverged
from nuinfer.anomaly.bump import (
    BumpLikelihood,
    BumpLimits,
    Dijet,
    Exponential,
    GaussianPeak,
    SignalInjection,
    SpuriousSignal,
    TemplateBackground,
    fit_bump,
    fit_toys,
    limit_toys,
    scan_masses,
    signal_injection,
    spurious_signal,
    toy_limits,
    yield_limits,
)
from nuinfer.anomaly.bump.hypotheses import Measured, YieldTest
from nuinfer.anomaly.bump.limits import asymptotic_limits, log_cls

Floats = NDArray[np.float64]

EDGES = np.linspace(100.0, 200.0, 11)
BINS = np.stack([EDGES[:-1], EDGES[1:]], 1)
PEAK = GaussianPeak(6.0)
SIGNAL = PEAK.fractions(BINS, 140.0, PEAK.start)
MEAN = 200 * np.exp(-(BINS.mean(1) - 100) / 40)


def templates(counts: Floats) -> BumpLikelihood:
    """A prediction with an uncertain normalisation."""
    return BumpLikelihood.binned(counts, TemplateBackground(MEAN, EDGES, norm=0.1), PEAK, edges=EDGES)


def falling(counts: Floats) -> BumpLikelihood:
    """A free normalisation and slope."""
    return BumpLikelihood.binned(counts, Exponential(1), PEAK, edges=EDGES)


def drawn(seed: int, signal: float = 0.0) -> Floats:
    return np.random.default_rng(seed).poisson(MEAN + signal * SIGNAL).astype(float)


def counting(n: int, b: float) -> BumpLikelihood:
    """One bin, with a background that is known."""
    known = TemplateBackground([b], [0.0, 100.0], norm=1e-7)
    return BumpLikelihood.binned([max(n, 1)], known, GaussianPeak(1.0), edges=[0.0, 100.0]).with_counts([float(n)])


# -- in large samples --------------------------------------------------------------------------------------------------


@pytest.fixture
def pyhf() -> Iterator[Any]:
    torch = pytest.importorskip("torch")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # its own
        module = pytest.importorskip("pyhf")
        default = torch.get_default_dtype()  # pyhf's torch changes it for everybody
        module.set_backend("numpy", precision="64b")
        yield module
        module.set_backend("numpy", precision="64b")
        torch.set_default_dtype(default)


def workspace(counts: Floats, relative: float, spurious: float) -> dict[str, Any]:
    """`templates` for pyhf, whose sample without contents is the spurious signal."""
    norm = {"name": "norm", "type": "normsys", "data": {"hi": 1.1, "lo": 1 / 1.1}}
    scaled: list[dict[str, Any]] = [{"name": "mu", "type": "normfactor", "data": None}]
    scaled += [{"name": "lumi", "type": "lumi", "data": None}] if relative else []
    samples = [{"name": "signal", "data": SIGNAL.tolist(), "modifiers": scaled},
               {"name": "background", "data": MEAN.tolist(), "modifiers": [norm]}]  # fmt: skip
    if spurious:
        both = {"hi_data": (spurious * SIGNAL).tolist(), "lo_data": (-spurious * SIGNAL).tolist()}
        added = {"name": "spurious", "type": "histosys", "data": both}
        samples.append({"name": "spurious", "data": [0.0] * len(MEAN), "modifiers": [added]})
    parameters: list[dict[str, Any]] = [{"name": "mu", "bounds": [[0, 500]], "inits": [1.0]}]
    if relative:
        parameters.append({"name": "lumi", "auxdata": [1.0], "sigmas": [relative], "inits": [1.0],
                           "bounds": [[0.1, 2.0]]})  # fmt: skip
    return {"channels": [{"name": "c", "samples": samples}], "observations": [{"name": "c", "data": counts.tolist()}],
            "measurements": [{"name": "m", "config": {"poi": "mu", "parameters": parameters}}],
            "version": "1.0.0"}  # fmt: skip


@pytest.mark.parametrize(("signal", "relative", "spurious"), [(5, 0, 0), (25, 0.2, 0), (0, 0, 4), (5, 0.2, 4)])
def test_limits_are_those_of_pyhf(pyhf: Any, signal: float, relative: float, spurious: float) -> None:
    counts = drawn(3, signal)
    found = yield_limits(templates(counts), [140.0], exposure_error=relative, spurious=spurious)
    space = pyhf.Workspace(workspace(counts, relative, spurious))
    model = space.model(modifier_settings={"normsys": {"interpcode": "code1"}, "histosys": {"interpcode": "code0"}})
    data = space.data(model)

    def confidence(size: float) -> tuple[float, list[float]]:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            seen, expected = pyhf.infer.hypotest(size, data, model, return_expected_set=True)
        return float(seen), [float(e) for e in expected]

    # 0.001 of the limit is 1e-4 of CL_s, and pyhf's minima are good to 1e-5
    assert confidence(float(found.observed[0]))[0] == pytest.approx(0.05, abs=3e-5)
    for k, size in enumerate(found.expected[0].tolist()):
        assert confidence(size)[1][k] == pytest.approx(0.05, abs=3e-5)
    # without the nuisances the limits are others
    if relative or spurious:
        bare = yield_limits(templates(counts), [140.0])
        assert confidence(float(bare.observed[0]))[0] > 0.051


def test_limits_of_a_counting_experiment() -> None:
    b = 100.0
    for n in (80, 100, 115):

        def q(size: float, observed: float) -> float:
            best = max(observed - b, 0.0)
            if best >= size:
                return 0.0
            return 2 * ((size - best) + observed * math.log((best + b) / (size + b)))

        def confidence(size: float, n: int = n) -> float:
            return log_cls(q(size, n), math.sqrt(q(size, b))) - math.log(0.05)

        found = yield_limits(counting(n, b), [50.0])
        assert found.observed[0] == pytest.approx(optimize.brentq(confidence, 1.0, 200.0), rel=1e-5)
        assert found.best[0] == pytest.approx(max(n - b, 0), abs=1e-3)
        for sigma, size in zip((-2, -1, 0, 1, 2), found.expected[0], strict=True):
            root = math.sqrt(q(size, b))
            assert stats.norm.sf(root - sigma) / stats.norm.cdf(sigma) == pytest.approx(0.05, rel=1e-5)
            # of one Gaussian variable; sigma is the root of what is observed without a signal
            assert size == pytest.approx(10 * (sigma + stats.norm.isf(0.05 * stats.norm.cdf(sigma))), rel=0.15)


def test_limits_are_those_of_the_likelihood_module() -> None:
    pytest.importorskip("torch")
    from iminuit.cost import LeastSquares  # noqa: F401  (iminuit's costs are what nuinfer.intervals takes)

    from nuinfer.intervals import upper_limit
    from nuinfer.likelihood import Normal

    counts = 40.0 * MEAN
    likelihood = falling(np.round(counts))
    fit = fit_bump(likelihood, 140.0)
    same = upper_limit(Normal("S", fit.values["yield"], fit.errors["yield"]), "S")
    found = yield_limits(likelihood, [140.0])
    assert found.observed[0] == pytest.approx(same.observed, rel=0.01)  # as quadratic as -log L is
    np.testing.assert_allclose(found.expected[0], same.expected, rtol=0.02)


def test_expected_bands_are_where_limits_of_toys_are() -> None:
    likelihood = falling(20 * MEAN.round())
    toys = likelihood.sample(fit_bump(likelihood).values, 120, seed=5)
    limits = np.array([asymptotic_limits(YieldTest(likelihood.with_counts(n), 140.0), 0.95)[1] for n in toys])
    expected = yield_limits(likelihood, [140.0]).expected[0]
    for sigma, band in zip((-2, -1, 0, 1, 2), expected, strict=True):
        share = stats.norm.cdf(sigma)
        error = math.sqrt(share * (1 - share) / len(limits))
        assert abs((limits < band).mean() - share) < 4 * error
    # bands at the median -+ its sigma, as if limits were normal, are not
    sigma = fit_bump(likelihood, 140.0).errors["yield"]
    assert abs((limits < expected[2] - 2 * sigma).mean() - stats.norm.cdf(-2)) > 0.01


def test_units_systematics_and_signals() -> None:
    likelihood = falling(drawn(7))
    bare = yield_limits(likelihood, [130.0, 150.0])
    scaled = yield_limits(likelihood, [130.0, 150.0], exposure=[10.0, 20.0])
    np.testing.assert_allclose(scaled.observed * [10, 20], bare.observed, rtol=1e-6)
    np.testing.assert_allclose(scaled.expected * [[10], [20]], bare.expected, rtol=1e-6)
    assert bare.of_yields
    assert not scaled.of_yields
    wide = yield_limits(likelihood, [130.0, 150.0], exposure_error=0.2)
    assert (wide.expected > bare.expected).all()
    # a Gaussian signal: sqrt(q_A) = S / hypot(sigma, r S)
    root = bare.expected[:, 2] / 1.96
    np.testing.assert_allclose(wide.expected[:, 2], 1.96 * root / np.sqrt(1 - (0.2 * 1.96) ** 2), rtol=0.02)
    loose = yield_limits(likelihood, [130.0, 150.0], spurious=30.0)
    np.testing.assert_allclose(loose.expected[:, 2], 1.96 * np.hypot(root, 30.0), rtol=0.03)
    # a relative uncertainty of 60% excludes nothing
    assert np.isinf(yield_limits(likelihood, [130.0], exposure_error=0.6).expected[0, 2])
    # with a signal the observed limit is above what is expected without
    peak = yield_limits(falling(drawn(7, 150.0)), [140.0])
    assert peak.observed[0] > peak.expected[0, 4]
    assert peak.observed[0] > 150
    assert peak.excluded(1000.0).tolist() == [140.0]
    assert not len(peak.excluded([100.0]))
    # the tighter the confidence, the lower
    assert (yield_limits(likelihood, [130.0, 150.0], cl=0.9).observed < bare.observed).all()


def test_weighted_events_count_as_effective_ones() -> None:
    counts = drawn(8)
    halves = BumpLikelihood.binned(0.5 * counts, Exponential(1), PEAK, edges=EDGES, weighted=True,
                                   variance=0.25 * counts)  # fmt: skip
    whole, half = yield_limits(falling(counts), [140.0]), yield_limits(halves, [140.0])
    np.testing.assert_allclose(half.observed, 0.5 * whole.observed, rtol=1e-6)
    by_toys = toy_limits(halves, [140.0], toys=400, seed=1)
    assert abs(by_toys.expected[0, 2] - half.expected[0, 2]) < 4 * by_toys.expected_errors[0, 2]


# -- by toys -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("options", [{}, {"exposure_error": 0.15, "spurious": 25.0}])
def test_toys_give_the_asymptotic_limits_of_large_samples(options: dict[str, float]) -> None:
    likelihood = falling(np.round(10 * MEAN))
    large = yield_limits(likelihood, [140.0], **options)
    toys = toy_limits(likelihood, [140.0], toys=1500, seed=2, **options)
    assert toys.failed == 0
    assert abs(toys.observed - large.observed)[0] < 4 * toys.errors[0]
    assert (abs(toys.expected - large.expected)[0, 1:] < 4 * toys.expected_errors[0, 1:]).all()
    assert (toys.expected_errors[0, 1:] < 0.12 * toys.expected[0, 1:]).all()
    # paired: the limits without systematics are too low for toys with them
    if options:
        bare = yield_limits(likelihood, [140.0])
        assert ((toys.expected - bare.expected)[0, 2:] > 4 * toys.expected_errors[0, 2:]).any()


@pytest.mark.parametrize("n", [0, 3, 6])
def test_toys_give_the_exact_limits_of_few_counts(n: int) -> None:
    b = 3.0

    def exact(seen: int) -> float:
        return optimize.brentq(lambda s: stats.poisson.cdf(seen, s + b) / stats.poisson.cdf(seen, b) - 0.05, 0, 50)

    found = toy_limits(counting(n, b), [50.0], toys=5000, seed=3)
    assert abs(found.observed[0] - exact(n)) < 4 * found.errors[0]
    assert found.errors[0] < 0.08 * exact(n)
    # the median count is 3
    assert abs(found.expected[0, 2] - exact(3)) < 4 * found.expected_errors[0, 2]
    # in large samples one would say less, wrongly
    assert yield_limits(counting(3, b), [50.0]).observed[0] < exact(3) - 4 * found.expected_errors[0, 2]


def covered(experiments: int, size: float, spurious: float, seed: int) -> float:
    """Of experiments with a signal and 60 events without, how many have a limit above it (CL_s of it above 5%)."""
    rng, tests = np.random.default_rng(seed), 0
    likelihood = falling(np.round(MEAN / 10))
    mean = likelihood.expected(fit_bump(likelihood).values)
    for _ in range(experiments):
        delta = spurious * rng.standard_normal()
        counts = rng.poisson(mean + (size + delta) * PEAK.fractions(BINS, 140.0, PEAK.start))
        test = YieldTest(likelihood.with_counts(counts), 140.0, 0.0, spurious)
        search = limit_toys._Search(test, 300, rng, 0.05)
        search.add(size)
        tests += search.curves()[0][0, 0, 0] > special.ndtri(0.05)
    return tests / experiments


def test_limits_cover() -> None:
    # CL_s covers at least at its level
    assert covered(40, 20.0, 6.0, 1) >= 0.95 - 3 * math.sqrt(0.05 * 0.95 / 40)


@pytest.mark.slow
@pytest.mark.parametrize(("size", "spurious"), [(12.0, 0.0), (20.0, 6.0), (40.0, 0.0)])
def test_limits_cover_in_500_experiments(size: float, spurious: float) -> None:
    share = covered(500, size, spurious, 2)
    assert share >= 0.95 - 3 * math.sqrt(0.05 * 0.95 / 500)
    if size > 30:  # where an experiment without the signal would hardly look like one, CL_s is no longer generous
        assert share < 0.98


def test_toys_fluctuate_in_all_that_is_measured() -> None:
    likelihood = BumpLikelihood.binned(drawn(9, 60.0), TemplateBackground(MEAN, EDGES, norm=0.1), PEAK, edges=EDGES,
                                       constraints={"width_scale": (1.0, 0.1)})  # fmt: skip
    test = YieldTest(likelihood, 140.0, 0.1, 8.0)
    there = test.hypothesis(test.data, 50.0)
    toys, root = test.draw(there, 4000, np.random.default_rng(1)), 4000**0.5
    assert test.constrained == ("log_norm", "width_scale")
    np.testing.assert_allclose(toys.centres.std(0), [math.log(1.1), 0.1], rtol=0.05)
    np.testing.assert_allclose(toys.centres.mean(0), there.centres, atol=4 * 0.1 / root)
    np.testing.assert_allclose([toys.factor.std(), toys.shift.std()], [0.1, 8.0], rtol=0.05)
    np.testing.assert_allclose(toys.counts.mean(0), there.expected, atol=5 * there.expected.max() ** 0.5 / root)
    # q~ at the true size is a half chi2 of one degree
    q = test.statistic(toys, test.best(toys), np.full(4000, 50.0))
    assert not np.isnan(q).any()
    assert abs((q == 0).mean() - 0.5) < 4 * 0.5 / 4000**0.5 + 0.01
    assert abs((q > 2.706).mean() - 0.05) < 4 * math.sqrt(0.05 * 0.95 / 4000)
    # paired: with auxiliary measurements that are the same in all experiments it is not
    same = np.ones((4000, 1))
    frozen = Measured(toys.counts, same * there.centres, there.factor * same[:, 0], there.shift * same[:, 0])
    q = test.statistic(frozen, test.best(frozen), np.full(4000, 50.0))
    assert (q > 2.706).mean() < 0.04


def test_profiled_nuisances_of_the_yield_are_minimised() -> None:
    """The Gaussian term of T against both nuisances written out."""
    likelihood = falling(drawn(10, 100.0))
    relative, spurious, size = 0.2, 15.0, 60.0
    test = YieldTest(likelihood, 140.0, relative, spurious)

    def value(x: Floats) -> float:
        total = float(x[0] * size + x[1])
        fit = fit_bump(likelihood, 140.0, fixed={"yield": total}, errors=False)
        return fit.nll + 0.5 * ((x[0] - 1) / relative) ** 2 + 0.5 * (x[1] / spurious) ** 2

    best = optimize.minimize(value, [1.0, 0.0], method="Nelder-Mead", options={"xatol": 1e-4, "fatol": 1e-7})
    assert test.at(test.data, np.array([size])).nll[0] == pytest.approx(best.fun, abs=1e-5)
    there = test.hypothesis(test.data, size)
    np.testing.assert_allclose([there.factor, there.shift], best.x, rtol=0.01)


def test_seeds_and_records(tmp_path: Path) -> None:
    likelihood = falling(drawn(11))
    one, two, other = (toy_limits(likelihood, [130.0, 150.0], toys=150, seed=s, points=5) for s in (1, 1, 2))
    assert repr(one) == repr(two) != repr(other)
    spurious = spurious_signal(likelihood, [130.0, 150.0], MEAN, variance=0.1 * MEAN, seed=1)
    injected = signal_injection(likelihood, 140.0, [0.0, 20.0], toys=30, seed=1)
    for result in (one, yield_limits(likelihood, [130.0]), spurious, injected):
        result.save(tmp_path / "r.safetensors")
        again = type(result).load(tmp_path / "r.safetensors")
        assert repr(again) == repr(result)
    assert "95% CLs limits on yields" in repr(one)
    assert "observed" in repr(yield_limits(likelihood, np.linspace(120, 160, 12)))
    assert isinstance(one, BumpLimits)


def test_failed_fits_count_against_an_exclusion(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    likelihood = falling(drawn(12))
    good = toy_limits(likelihood, [140.0], toys=300, seed=1)
    real = YieldTest.statistic

    def lost(self, data, best, size, rows=None):  # type: ignore[no-untyped-def]
        q = real(self, data, best, size, rows)
        q[:2] = np.nan if len(q) == 300 else q[:2]
        return q

    monkeypatch.setattr(YieldTest, "statistic", lost)
    found = toy_limits(likelihood, [140.0], toys=300, seed=1)
    assert found.failed >= 10 * 2 * 2
    assert not found.observed[0] <= good.observed[0]
    assert np.isnan(found.expected[0, 0])  # two of 300 are more than 5% of 2.3%
    assert "count against an exclusion" in caplog.text

    def never(self, data, best, size, rows=None):  # type: ignore[no-untyped-def]
        return np.full(len(size), np.nan)

    monkeypatch.setattr(YieldTest, "statistic", never)
    with pytest.raises(NotConverged, match="mass 140"):
        yield_limits(likelihood, [140.0])


# -- spurious signals --------------------------------------------------------------------------------------------------

FINE = np.linspace(2000.0, 6000.0, 61)
MIDDLE = 0.5 * (FINE[1:] + FINE[:-1])
NARROW = GaussianPeak(relative_sigma=0.03)
CURVED = np.exp(9.5 - (MIDDLE - 2000) / 600 + 0.5 * ((MIDDLE - 2000) / 2500) ** 2)
MASSES = np.linspace(2300.0, 4500.0, 12)


def spectrum(shape: Any = None) -> BumpLikelihood:
    counts = np.random.default_rng(13).poisson(CURVED)
    return BumpLikelihood.binned(counts, shape or Exponential(1), NARROW, edges=FINE)


def test_a_shape_that_is_right_has_no_spurious_signal() -> None:
    found = spurious_signal(spectrum(Exponential(2)), MASSES, CURVED)
    assert found.accepted
    assert found.largest < 0.02 * found.sigma.min() + 1e-3  # of bins' contents at their middles
    assert "accepted" in found.verdict
    wrong = spurious_signal(spectrum(), MASSES, CURVED)
    assert not wrong.accepted
    assert "refused at" in repr(wrong)
    assert wrong.chi2 > 5 * found.chi2


def test_a_spurious_signal_is_the_bias_of_toys() -> None:
    likelihood = spectrum()
    found = spurious_signal(likelihood, MASSES, CURVED)
    toys = np.random.default_rng(14).poisson(CURVED, (800, 60)).astype(float)
    for k in np.argsort(-abs(found.ratio))[:3].tolist():
        fits = fit_toys(likelihood, toys, MASSES[k])
        yields = fits.value("yield")
        assert yields.mean() == pytest.approx(found.yields[k], abs=4 * found.sigma[k] / 800**0.5)
        assert yields.std() == pytest.approx(found.sigma[k], rel=4 / 1600**0.5)
        assert abs(found.yields[k]) > 10 * found.sigma[k] / 800**0.5  # paired: no bias is excluded


def test_errors_of_the_template_are_those_of_its_events() -> None:
    likelihood, size = spectrum(Exponential(2)), 8.0
    simulated = np.random.default_rng(15).poisson(size * CURVED, (150, 60))
    found = spurious_signal(likelihood, MASSES[::4], simulated[0] / size, variance=simulated[0] / size**2, seed=3)
    # of templates from other simulations
    yields = np.array([fit_toys(likelihood, simulated / size, m, errors=False).value("yield") for m in MASSES[::4]]).T
    np.testing.assert_allclose(found.template_errors, yields.std(0), rtol=4 * math.sqrt(1 / 400 + 1 / 300))
    np.testing.assert_allclose(found.template_errors, found.sigma / size**0.5, rtol=0.3)
    filled = hist.Hist(hist.axis.Variable(FINE), storage=hist.storage.Weight())
    filled.view().value, filled.view().variance = simulated[0] / size, simulated[0] / size**2
    same = spurious_signal(likelihood, MASSES[::4], filled, seed=3)
    assert repr(same) == repr(found)
    assert not found.resolved
    assert "too few events" in found.verdict
    wrong = spurious_signal(spectrum(), MASSES, simulated[0] / size, variance=simulated[0] / size**2)
    assert "too few events" not in wrong.verdict  # enough to see that it is wrong


def test_criteria() -> None:
    likelihood = spectrum(Exponential(2))
    few = np.random.default_rng(16).poisson(2 * CURVED) / 2  # fluctuates by 0.7 sigma
    plain = spurious_signal(likelihood, MASSES, few, variance=few / 2)
    assert not plain.accepted
    relaxed = spurious_signal(likelihood, MASSES, few, variance=few / 2, allowed=2.0)
    assert relaxed.passed.sum() > plain.passed.sum()
    np.testing.assert_allclose(relaxed.zeta, np.maximum(abs(relaxed.yields) - 2 * relaxed.template_errors, 0))
    large = spurious_signal(likelihood, MASSES, few, variance=few / 2, reference=50 * plain.sigma)
    assert large.accepted  # below a tenth of the signal
    np.testing.assert_allclose(large.tolerated, 5 * plain.sigma)
    np.testing.assert_allclose(plain.tolerated, 0.2 * plain.sigma)
    assert (plain.envelope() >= abs(plain.yields) - 1e-9).all()
    assert plain.envelope(1e6) == pytest.approx(abs(plain.ratio).max() * plain.sigma)
    # another shape's fit to the data is a template without errors
    other = fit_bump(spectrum(Dijet(3, energy=13000.0)))
    assert (spurious_signal(likelihood, MASSES, other).template_errors == 0).all()


def test_a_spurious_signal_widens_the_error_and_lowers_z() -> None:
    counts = drawn(17, 120.0)
    likelihood = falling(counts)
    bare, wide = scan_masses(likelihood, [130.0, 140.0]), scan_masses(likelihood, [130.0, 140.0], spurious=[0.0, 40.0])
    assert wide.z[0] == bare.z[0]
    assert wide.yields[1] == bare.yields[1]
    assert wide.errors[1] == pytest.approx(math.hypot(bare.errors[1], 40.0))
    sigma = bare.yields[1] / bare.z[1]
    assert wide.z[1] == pytest.approx(bare.yields[1] / math.hypot(sigma, 40.0), rel=0.05)
    # the p-value of the same statistic as the limits'
    test = YieldTest(likelihood, 140.0, 0.0, 40.0)
    best = test.best(test.data)
    assert wide.z[1] ** 2 == pytest.approx(2 * (best.start.nll[0] - best.nll[0]), abs=1e-4)


# -- signals put in ----------------------------------------------------------------------------------------------------


def test_signals_come_back() -> None:
    likelihood = falling(np.round(4 * MEAN))
    found = signal_injection(likelihood, 140.0, [0.0, 50.0, 100.0, 200.0], toys=600, seed=4)
    assert found.linear
    assert abs(found.pull).max() < 4 / 600**0.5 + 0.05
    np.testing.assert_allclose(found.width, 1.0, atol=4 / 1200**0.5)
    np.testing.assert_allclose(found.spread, found.sigma, rtol=4 / 1200**0.5)
    assert (found.failed == 0).all()
    # the fits are those of one toy after the other
    np.testing.assert_allclose(found.fitted, found.injected, atol=4 * found.errors.max())


def test_a_wrong_background_or_width_is_seen() -> None:
    likelihood = spectrum()
    biased = signal_injection(likelihood, 2900.0, [0.0, 200.0, 400.0], toys=300, seed=5, background=CURVED)
    expected = spurious_signal(likelihood, [2900.0], CURVED).yields[0]
    assert not biased.linear
    assert biased.offset == pytest.approx(expected, abs=4 * biased.offset_error)
    assert "BIASED" in repr(biased)
    wide = falling(np.round(4 * MEAN))
    narrow = BumpLikelihood.binned(wide.counts, Exponential(1), GaussianPeak(3.0), edges=EDGES)
    signals = [wide.expected({**fit_bump(wide).values, "yield": s}, 140.0) for s in (0.0, 300.0)]
    fits = [fit_toys(narrow, np.random.default_rng(6).poisson(mean, (200, 10)), 140.0) for mean in signals]
    gain = (fits[1].value("yield").mean() - fits[0].value("yield").mean()) / 300
    assert gain < 0.9  # half of the width: not all comes back


def test_bad_input_is_refused() -> None:
    likelihood, free = falling(drawn(18)), BumpLikelihood.unbinned(
        np.linspace(101, 199, 300), Exponential(1), PEAK, range=(100.0, 200.0)
    )  # fmt: skip
    tied = BumpLikelihood.binned(drawn(18), Exponential(1), PEAK, edges=EDGES, constraints={"yield": (0.0, 5.0)})
    for make, message in (
        (lambda: yield_limits(likelihood, [150.0, 140.0]), "rise"),
        (lambda: yield_limits(likelihood, [900.0]), "inside of the fit"),
        (lambda: yield_limits(likelihood, [140.0], cl=0.4), "between 0.5 and 1"),
        (lambda: yield_limits(likelihood, [140.0], exposure=0.0), "above 0"),
        (lambda: yield_limits(likelihood, [140.0], exposure=[1.0, 2.0]), "one for each mass"),
        (lambda: yield_limits(likelihood, [140.0], exposure_error=-0.1), "from 0"),
        (lambda: yield_limits(likelihood, [140.0], spurious=-1.0), "from 0"),
        (lambda: yield_limits(likelihood, [140.0], spurious=np.nan), "spurious"),
        (lambda: yield_limits(free, [140.0]), "one in bins"),
        (lambda: yield_limits(tied, [140.0]), "none on the yield"),
        (lambda: scan_masses(tied, [140.0], spurious=1.0), "no constraint on the yield"),
        (lambda: scan_masses(likelihood, [140.0], spurious=-1.0), "from 0"),
        (lambda: toy_limits(likelihood, [140.0], toys=50, seed=1), "at least 100 and 4"),
        (lambda: toy_limits(likelihood, [140.0], points=3, seed=1), "at least 100 and 4"),
        (lambda: yield_limits(likelihood, [140.0]).excluded([1.0, 2.0]), "one for each mass"),
        (lambda: spurious_signal(likelihood, [140.0], MEAN[:5]), "10 bins of the range"),
        (lambda: spurious_signal(likelihood, [140.0], MEAN, variance=MEAN, toys=3), "at least 20"),
        (lambda: spurious_signal(likelihood, [140.0], MEAN, of_sigma=0.0), "criteria above 0"),
        (lambda: spurious_signal(likelihood, [140.0], -MEAN), "from 0"),
        (lambda: signal_injection(likelihood, 140.0, [5.0], seed=1), "two different sizes"),
        (lambda: signal_injection(likelihood, 140.0, [0.0, 5.0], toys=3, seed=1), "at least 20"),
        (lambda: signal_injection(likelihood, 140.0, [0.0, -1e5], seed=1), "contents from 0"),
    ):
        with pytest.raises(ValueError, match=message):
            make()
    assert SignalInjection.__name__ != SpuriousSignal.__name__
