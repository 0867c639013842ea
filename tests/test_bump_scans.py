"""Scans over masses, and global p-values: uniform without a signal, and equal to those of toys."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy import optimize, stats

from nuinfer import NotConverged
from nuinfer.anomaly import log_p_of_z
from nuinfer.anomaly.bump import (
    BumpLikelihood,
    BumpScan,
    Dijet,
    Exponential,
    GaussianPeak,
    GlobalP,
    ToyScans,
    fit_bump,
    fit_toys,
    global_p_toys,
    gross_vitells,
    mass_grid,
    scan_masses,
    scan_toys,
    scans,
    yield_covariance,
)

Floats = NDArray[np.float64]

EDGES = np.linspace(2000.0, 6000.0, 61)
MIDDLE = 0.5 * (EDGES[1:] + EDGES[:-1])
PEAK = GaussianPeak(relative_sigma=0.03)
MASSES = mass_grid(PEAK, 2200.0, 4500.0)
MEAN = 2e4 * np.exp(-MIDDLE / 700) / np.exp(-MIDDLE / 700).sum()


def drawn(seed: int, signal: float = 0.0, mass: float = 3500.0) -> Floats:
    mean = MEAN + signal * PEAK.fractions(np.stack([EDGES[:-1], EDGES[1:]], 1), mass, PEAK.start)
    return np.random.default_rng(seed).poisson(mean).astype(float)


def likelihood_of(counts: Floats) -> BumpLikelihood:
    return BumpLikelihood.binned(counts, Dijet(3), PEAK, edges=EDGES)


@pytest.fixture(scope="module")
def likelihood() -> BumpLikelihood:
    return likelihood_of(drawn(1))


@pytest.fixture(scope="module")
def scan(likelihood: BumpLikelihood) -> BumpScan:
    return scan_masses(likelihood, MASSES)


@pytest.fixture(scope="module")
def toys(likelihood: BumpLikelihood) -> ToyScans:
    return scan_toys(likelihood, MASSES, toys=1500, seed=2, signed=True)


def test_local_p_values_are_uniform_and_the_least_of_them_is_not(toys: ToyScans) -> None:
    p = stats.norm.sf(toys.z)
    for k in (0, 10, 20, 30, 40):
        assert stats.kstest(p[:, k], "uniform").pvalue > 0.01
        # two-sided ones, or those without a fit of the background, are not
        assert stats.kstest(stats.norm.sf(np.abs(toys.z[:, k])), "uniform").pvalue < 1e-10
    assert not len(toys.failed)
    # the local p-value of the greatest excess, quoted as a global one
    assert stats.kstest(stats.norm.sf(toys.largest), "uniform").pvalue < 1e-100


def test_global_p_values_are_uniform(scan: BumpScan, toys: ToyScans, likelihood: BumpLikelihood) -> None:
    fresh = scan_toys(likelihood, MASSES, toys=300, seed=3)
    p = [(toys.largest >= z).mean() for z in fresh.largest]
    assert stats.kstest(p, "uniform").pvalue > 0.01
    found = global_p_toys(scan, toys)
    assert found.p == ((toys.largest >= scan.z.max()).sum() + 1) / 1501
    assert found.trials > 3
    assert found.error == pytest.approx(math.sqrt(found.p * (1 - found.p) / 1500))
    assert found.p < found.p_upper < found.p + 3 * found.error
    assert not found.is_bound


def test_scans_of_toys_are_those_of_iminuit(likelihood: BumpLikelihood, toys: ToyScans) -> None:
    counts = likelihood.sample(fit_bump(likelihood).values, 1500, seed=2)
    for k in range(3):
        own = scan_masses(likelihood.with_counts(counts[k]), MASSES[::6])
        # 1e-6 in q is 1e-6 / 2 r in r, and r may be small
        q = np.sign(own.z) * own.z**2
        np.testing.assert_allclose(np.sign(toys.z[k, ::6]) * toys.z[k, ::6] ** 2, q, atol=2e-6)
    one_sided = scan_toys(likelihood, MASSES, toys=counts[:200])
    np.testing.assert_allclose(one_sided.z, np.maximum(toys.z[:200], 0.0), atol=1e-4)
    again = scan_toys(likelihood, MASSES[::6], toys=20, seed=2)
    np.testing.assert_allclose(again.z, np.maximum(toys.z[:20, ::6], 0), atol=1e-3)
    assert (scan_toys(likelihood, MASSES[::6], toys=20, seed=2).z == again.z).all()
    assert (scan_toys(likelihood, MASSES[::6], toys=20, seed=3).z != again.z).any()


def test_yields_are_unbiased_and_a_signal_is_found(likelihood: BumpLikelihood) -> None:
    truth = {**fit_bump(likelihood).values, "yield": 120.0}
    counts = likelihood.sample(truth, 600, seed=4, mass=3500.0)
    found = fit_toys(likelihood, counts, 3500.0)
    pull = (found.value("yield") - 120.0) / found.error("yield")
    assert abs(pull.mean()) < 4 / 600**0.5
    assert abs(pull.std() - 1) < 4 / 1200**0.5
    assert (found.value("yield") / found.error("yield")).mean() > 2.5  # paired: no signal assumed
    scanned = scan_toys(likelihood, MASSES, toys=counts)
    best = MASSES[scanned.z.argmax(1)]
    assert abs(np.median(best) - 3500) < 60
    one = scan_masses(likelihood_of(drawn(5, 250.0)), MASSES)
    assert abs(one.masses[one.best] - 3500) < 105
    assert abs(one.yields[one.best] - 250) < 4 * one.errors[one.best]
    assert one.z.max() == pytest.approx(one.yields[one.best] / one.errors[one.best], rel=0.15)


def ratios(
    scan: BumpScan, toys: ToyScans, crossings: float, level: float, at: list[float]
) -> list[tuple[float, float]]:
    """Gross and Vitells over toys, and the relative error of the toys, at greatest excesses."""
    found = []
    for z in at:
        p = (toys.largest >= z).mean()
        formula = stats.norm.sf(z) + crossings * math.exp(-0.5 * (z * z - level * level))
        found.append((formula / p, math.sqrt((1 - p) / p / len(toys.z))))
    return found


def check_gross_vitells(
    scan: BumpScan, toys: ToyScans, few: ToyScans, likelihood: BumpLikelihood, at: list[float]
) -> None:
    for source in (few, likelihood):
        found = gross_vitells(scan, source)
        for ratio, error in ratios(scan, toys, found.crossings, found.level, at):
            assert abs(ratio - 1) < max(0.2, 2 * error)
    # the local p-value is none
    assert all(stats.norm.sf(z) / (toys.largest >= z).mean() < 0.3 for z in at)


def excess(scan: BumpScan, size: float = 3.0) -> BumpScan:
    """The scan with an excess of 3 sigma, or another, somewhere."""
    z = scan.z.copy()
    z[7] = size
    return BumpScan(**{**vars(scan), "z": z, "p": stats.norm.sf(z)})


def test_gross_vitells_is_what_toys_say(scan: BumpScan, toys: ToyScans, likelihood: BumpLikelihood) -> None:
    few = ToyScans(**{**vars(toys), "z": toys.z[:200]})
    check_gross_vitells(excess(scan), toys, few, likelihood, [2.3, 2.6])
    by_toys, by_likelihood = gross_vitells(excess(scan), toys), gross_vitells(excess(scan), likelihood)
    spread = by_toys.error / math.exp(-4.5)
    assert by_toys.crossings == pytest.approx(by_likelihood.crossings, abs=4 * spread)
    assert by_toys.p == pytest.approx(stats.norm.sf(3.0) + by_toys.crossings * math.exp(-4.5), rel=1e-12)
    own = gross_vitells(excess(scan))  # from the data alone
    assert 0 < own.crossings < 12
    assert not own.coarse


def test_a_significance_whose_p_is_too_small_to_be_a_number(scan: BumpScan, likelihood: BumpLikelihood) -> None:
    """exp(-Z^2 / 2) underflows at 38.6; the global Z keeps the logarithm of the trials."""
    crossings = gross_vitells(excess(scan), likelihood).crossings
    for z in (30.0, 60.0):
        found = gross_vitells(excess(scan, z), likelihood)
        log_p = np.logaddexp(log_p_of_z(z), np.log(crossings) - z**2 / 2)
        exact = optimize.brentq(lambda x, y=log_p: log_p_of_z(x) - y, z - 1, z)
        assert found.z == pytest.approx(exact, rel=1e-10)
        assert z - 0.2 < found.z < z
    assert found.p == 0
    assert found.trials == pytest.approx(1 + crossings * np.sqrt(2 * np.pi) * 60, rel=1e-3)  # Mills's ratio


@pytest.mark.slow
def test_gross_vitells_is_what_20000_toys_say(scan: BumpScan, likelihood: BumpLikelihood) -> None:
    many = scan_toys(likelihood, MASSES, toys=20_000, seed=6)
    few = scan_toys(likelihood, MASSES, toys=300, seed=7, signed=True)
    assert not len(many.failed)
    check_gross_vitells(excess(scan), many, few, likelihood, [2.3, 2.6, 3.0, 3.3, 3.6])
    for ratio, error in ratios(scan, many, gross_vitells(excess(scan), likelihood).crossings, 0.0, [2.6, 3.0, 3.5]):
        assert ratio > 1 - 3 * error  # it is a bound


def test_coarse_grids_are_named(likelihood: BumpLikelihood, caplog: pytest.LogCaptureFixture) -> None:
    coarse = excess(scan_masses(likelihood, MASSES[::5]))
    assert coarse.coarse
    assert gross_vitells(coarse, likelihood).coarse
    assert "half a width" in caplog.text
    assert "COARSE" in repr(gross_vitells(coarse, likelihood))
    assert not scan_masses(likelihood, MASSES[:4]).coarse


def test_covariance_of_yields_is_that_of_toys(likelihood: BumpLikelihood, toys: ToyScans) -> None:
    at = MASSES[[5, 6, 9, 20]]
    counts = likelihood.sample(fit_bump(likelihood).values, 1500, seed=2)
    yields = np.array([fit_toys(likelihood, counts, m, errors=False).value("yield") for m in at])
    expected = yield_covariance(likelihood, at, fit_bump(likelihood).values)
    root = np.sqrt(np.diag(expected))
    np.testing.assert_allclose(np.corrcoef(yields), expected / np.outer(root, root), atol=4 / 1500**0.5)
    np.testing.assert_allclose(yields.std(1), root, rtol=4 / 3000**0.5 + 0.02)


def test_no_toy_beyond_gives_a_bound(scan: BumpScan, toys: ToyScans) -> None:
    z = scan.z.copy()
    z[3] = 6.5
    found = global_p_toys(BumpScan(**{**vars(scan), "z": z, "p": stats.norm.sf(z)}), toys)
    assert found.is_bound
    assert found.beyond == 0
    assert found.p_upper == pytest.approx(3 / 1500, rel=0.01)  # -ln 0.05 = 2.996
    assert found.z_lower == pytest.approx(stats.norm.isf(found.p_upper))
    assert found.p == pytest.approx(1 / 1501)
    assert "p < " in repr(found)
    deficit = BumpScan(**{**vars(scan), "z": -np.abs(scan.z) - 0.1, "p": stats.norm.sf(-np.abs(scan.z) - 0.1)})
    assert global_p_toys(deficit, scan_of_zeros(toys)).p == 1.0


def scan_of_zeros(toys: ToyScans) -> ToyScans:
    return ToyScans(**{**vars(toys), "z": np.zeros_like(toys.z)})


def test_all_toys_beyond_is_a_finite_significance() -> None:
    peak = GaussianPeak(1.0)
    given = BumpLikelihood.binned([60, 44, 33, 28, 17, 13, 9, 8], Exponential(1), peak, edges=np.arange(9.0))
    masses = [3.0, 4.0, 5.0]
    every = scan_toys(given, masses, toys=[[160, 4, 133, 280, 170, 13, 9, 80]] * 5)
    found = global_p_toys(scan_masses(given, masses), every)
    assert (found.beyond, found.p, found.p_upper) == (5, 1.0, 1.0)
    assert found.z == found.z_lower == pytest.approx(-stats.norm.ppf(5 / 6))


def test_failed_fits_are_named(
    likelihood: BumpLikelihood, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    real = scans.solve

    def half(batch, counts, start=None, yields=None):  # type: ignore[no-untyped-def]
        found = real(batch, counts, start, yields)
        if batch.mass == MASSES[4]:
            found.converged[0] = False
        return found

    monkeypatch.setattr(scans, "solve", half)
    mended = scan_toys(likelihood, MASSES[3:6], toys=10, seed=8, signed=True)
    assert mended.refitted == 1
    monkeypatch.undo()
    np.testing.assert_allclose(mended.z, scan_toys(likelihood, MASSES[3:6], toys=10, seed=8, signed=True).z, atol=1e-4)

    def refuse(of, mass=None, **options):  # type: ignore[no-untyped-def]
        if mass == MASSES[4]:
            raise NotConverged("no")
        return fit_bump(of, mass, **options)

    monkeypatch.setattr(scans, "solve", half)
    monkeypatch.setattr(scans, "fit_bump", refuse)
    lost = scan_toys(likelihood, MASSES[3:6], toys=10, seed=8, signed=True)
    assert lost.failed.tolist() == [[0, 1]]
    assert lost.largest[0] == math.inf  # it counts as beyond
    assert "fits of toys failed" in caplog.text


def test_failed_masses_are_no_number(likelihood: BumpLikelihood, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(of, mass=None, **options):  # type: ignore[no-untyped-def]
        found = fit_bump(of, mass, **options)
        return found if mass != MASSES[4] else type(found)(**{**vars(found), "valid": False})

    monkeypatch.setattr(scans, "fit_bump", fail)
    with pytest.raises(NotConverged, match=f"none at {MASSES[4]:g}"):
        scan_masses(likelihood, MASSES[3:6])
    found = scan_masses(likelihood, MASSES[3:6], allow_unconverged=True)
    assert np.isnan(found.z).tolist() == [False, True, False]
    assert found.failed.tolist() == [MASSES[4]]
    assert found.best != 1
    with pytest.raises(ValueError, match="found none at"):
        gross_vitells(found, likelihood)


def test_scans_without_bins_are_those_with_fine_ones() -> None:
    rng = np.random.default_rng(9)
    u = rng.random(2000)
    x = np.concatenate([2000 - 800 * np.log(1 - u * (1 - np.exp(-5))), rng.normal(3500, 105, 60)])
    free = BumpLikelihood.unbinned(x, Exponential(1), PEAK, range=(2000.0, 6000.0))
    masses = np.array([2500.0, 3000.0, 3500.0])
    exact = scan_masses(free, masses)
    fine = scan_masses(free.in_bins(np.linspace(2000, 6000, 801)), masses)
    wide = scan_masses(free.in_bins(np.linspace(2000, 6000, 9)), masses)
    np.testing.assert_allclose(fine.z, exact.z, atol=0.06)
    assert abs(wide.z - exact.z).max() > 0.3
    assert exact.z[2] > 3


def test_little_background_is_named() -> None:
    thin = likelihood_of(np.random.default_rng(10).poisson(MEAN / 150).astype(float))
    found = scan_masses(thin, [2500.0, 5300.0])
    assert found.sparse.tolist() == [5300.0]
    assert "with little background" in repr(found)


def test_nuisances_widen_the_yield(likelihood: BumpLikelihood) -> None:
    counts = drawn(11, 300.0)
    options = {"constraints": {"width_scale": (1.0, 0.3)}}
    loose = BumpLikelihood.binned(counts, Dijet(3), PEAK, edges=EDGES, **options)
    one, two = scan_masses(likelihood_of(counts), [3500.0]), scan_masses(loose, [3500.0])
    assert two.errors[0] > one.errors[0]
    assert two.z[0] >= one.z[0] - 1e-6
    held = scan_masses(loose, [3500.0], fixed={"width_scale": 1.0})
    assert held.z[0] == pytest.approx(one.z[0], abs=1e-4)
    both = scan_toys(loose, [3400.0, 3500.0], toys=50, seed=1, signed=True)
    assert not len(both.failed)


def test_results_are_saved(scan: BumpScan, toys: ToyScans, likelihood: BumpLikelihood, tmp_path: Path) -> None:
    results = (scan, toys, global_p_toys(scan, toys), gross_vitells(excess(scan), likelihood))
    for result in results:
        result.save(tmp_path / "r.safetensors")
        again = type(result).load(tmp_path / "r.safetensors")
        assert repr(again) == repr(result)
    assert isinstance(again, GlobalP)


def test_bad_input_is_refused(scan: BumpScan, toys: ToyScans, likelihood: BumpLikelihood) -> None:
    one_sided = ToyScans(**{**vars(toys), "signed": False})
    free = BumpLikelihood.unbinned(np.linspace(2000, 5000, 300), Exponential(1), PEAK, range=(2000.0, 6000.0))
    for make, message in (
        (lambda: scan_masses(likelihood, [3000.0, 2500.0]), "rise"),
        (lambda: scan_masses(likelihood, [3000.0, np.nan]), "masses"),
        (lambda: scan_masses(likelihood, [9000.0]), "inside of the fit"),
        (lambda: scan_masses(likelihood, MASSES, fixed={"yield": 0.0}), "other than the yield"),
        (lambda: scan_masses(BumpLikelihood.binned(drawn(1), Dijet(3), edges=EDGES), MASSES), "with a signal"),
        (lambda: scan_toys(likelihood, MASSES, toys=0), "at least 1"),
        (lambda: scan_toys(free, MASSES, toys=5), "in bins"),
        (lambda: scan_toys(likelihood, MASSES, toys=drawn(1)), "toys, 60"),
        (lambda: global_p_toys(scan_masses(likelihood, MASSES[:3]), toys), "same 3 masses"),
        (lambda: gross_vitells(scan, one_sided, level=0.0), "one-sided"),
        (lambda: gross_vitells(scan, likelihood, level=1.0), "expected 0"),
        (lambda: gross_vitells(scan, toys, level=9.0), "below the greatest"),
        (lambda: gross_vitells(scan_masses(likelihood, [3000.0])), "found one"),
        (lambda: mass_grid(PEAK, 3000.0, 2000.0), "low < high"),
    ):
        with pytest.raises(ValueError, match=message):
            make()
    with pytest.raises(KeyError, match="no parameter"):
        scan_masses(likelihood, MASSES, fixed={"slope": 0.0})
