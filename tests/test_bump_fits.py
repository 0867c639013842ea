"""Fits of spectra against scipy's and iminuit's on formulae written here, and against exact answers."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import hist
import numpy as np
import pytest
from iminuit import Minuit
from numpy.typing import NDArray
from scipy import integrate, stats

from nuinfer import NotConverged
from nuinfer.anomaly.bump import (
    Bernstein,
    BumpFit,
    BumpLikelihood,
    Dijet,
    Exponential,
    FitGoodness,
    GaussianPeak,
    Polynomial,
    TemplateBackground,
    ToyFits,
    UserShape,
    WindowCounts,
    fit_bump,
    fit_goodness,
    fit_toys,
    newton,
    profile_yield,
    window_counts,
)
from nuinfer.anomaly.bump.quadrature import bins_of

Floats = NDArray[np.float64]

EDGES = np.linspace(2000.0, 6000.0, 61)
BINS = bins_of(EDGES)
PEAK = GaussianPeak(relative_sigma=0.03)
SHAPE = Dijet(3)


def falling(events: float) -> Floats:
    theta = np.array([0.0, 10.0, 5.0])
    contents = SHAPE.integrals(BINS, theta)
    return events * contents / contents.sum()


def drawn(events: float, seed: int, signal: float = 0.0, mass: float = 3500.0) -> Floats:
    mean = falling(events) + signal * PEAK.fractions(BINS, mass, PEAK.start)
    return np.random.default_rng(seed).poisson(mean).astype(float)


def binned(counts: Floats, shape=SHAPE, **options) -> BumpLikelihood:
    return BumpLikelihood.binned(counts, shape, PEAK, edges=EDGES, **options)


def test_fit_is_that_of_iminuit_on_the_formula() -> None:
    counts = drawn(2e4, 1, signal=150.0)

    def twice_nll(log_p0: float, p1: float, p2: float, size: float) -> float:
        total = 0.0
        x = BINS / 13000.0
        fine = x[:, :1] + (x[:, 1:] - x[:, :1]) * (np.arange(64) + 0.5) / 64  # midpoints
        b = (np.exp(log_p0) * (1 - fine) ** p1 / fine**p2).mean(1) * np.diff(BINS)[:, 0]
        s = np.diff(stats.norm.cdf(EDGES, 3500.0, 0.03 * 3500.0))
        mu = np.maximum(b + size * s, 1e-9)
        total = mu - counts + np.where(counts > 0, counts * np.log(np.maximum(counts, 1) / mu), 0)
        return float(2 * total.sum())

    fit = fit_bump(binned(counts), 3500.0)
    own = [fit.values[name] for name in ("log_p0", "p1", "p2", "yield")]
    minuit = Minuit(twice_nll, *own)
    minuit.errordef, minuit.strategy, minuit.tol = 1.0, 2, 1e-4
    minuit.migrad(ncall=20000)
    minuit.hesse()
    assert abs(2 * fit.nll - minuit.fval) < 1e-3 * 1
    assert 2 * fit.nll == pytest.approx(twice_nll(*own), abs=2e-3)
    assert fit.values["yield"] == pytest.approx(minuit.values["size"], abs=0.02 * minuit.errors["size"])
    assert fit.errors["yield"] == pytest.approx(minuit.errors["size"], rel=0.02)
    assert abs(fit.values["yield"] - 150) < 4 * fit.errors["yield"]
    assert fit.chi2 == pytest.approx(2 * fit.nll)
    assert fit.ndf == 60 - 4
    assert fit.fixed == ("mass_scale", "width_scale")
    alone = fit_bump(binned(counts))
    assert alone.nll - fit.nll > 8  # without the signal it is not described


@pytest.mark.parametrize(
    "shape",
    [Dijet(3), Dijet(4), Dijet(5), Exponential(2), Exponential(3), Bernstein(6), Polynomial(6)],
    ids=lambda s: f"{type(s).__name__}",
)
@pytest.mark.parametrize("events", [3e2, 1e4, 3e6])
def test_fits_of_falling_spectra_work_from_defaults(shape, events: float) -> None:
    likelihood = binned(drawn(events, 2), shape)
    fit = fit_bump(likelihood)
    free = [k for k, name in enumerate(fit.names) if fit.errors[name] > 0 and name not in fit.at_limit]
    # the gradient of an independent value vanishes, in units of the errors with all others held
    inner = np.linalg.pinv(fit.covariance[np.ix_(free, free)], rcond=1e-14)
    for k, each in zip(free, np.diag(inner) ** -0.5, strict=True):
        name = fit.names[k]
        up, down = (nll_of(likelihood, {**fit.values, name: fit.values[name] + s * 0.02 * each}) for s in (1, -1))
        assert "density" in fit.at_limit or abs(up - down) / 0.04 < 2e-2, name
    assert fit.valid
    assert fit.edm < 1e-4


def nll_of(likelihood: BumpLikelihood, values: dict[str, float], mass: float | None = None) -> float:
    mu, n = likelihood.expected(values, mass), likelihood.counts
    return float(np.sum(mu - n + np.where(n > 0, n * np.log(np.maximum(n, 1) / np.maximum(mu, 1e-300)), 0)))


def test_asimov_data_give_their_parameters_back() -> None:
    likelihood = binned(drawn(1e4, 3, signal=100.0))
    truth = {"log_p0": 1.0, "p1": 9.0, "p2": 5.0, "yield": 80.0}
    for asimov in (likelihood.asimov(truth, 3500.0), unbinned_asimov(truth)):
        fit = fit_bump(asimov, 3500.0)
        for name, value in truth.items():
            assert fit.values[name] == pytest.approx(value, abs=2e-3 * fit.errors[name])
        assert fit.expected.sum() == pytest.approx(likelihood.expected(truth, 3500.0).sum())


def unbinned_asimov(truth: dict[str, float]) -> BumpLikelihood:
    points = np.random.default_rng(0).uniform(2000, 6000, 500)
    return BumpLikelihood.unbinned(points, SHAPE, PEAK, range=(2000.0, 6000.0)).asimov(truth, 3500.0)


def events_of(mean: float, seed: int, signal: int = 0) -> Floats:
    """x of a falling exponential of slope 1/800 from 2000 to 6000, and a peak."""
    rng = np.random.default_rng(seed)
    u = rng.random(rng.poisson(mean))
    x = 2000 - 800 * np.log(1 - u * (1 - np.exp(-5)))
    return np.concatenate([x, rng.normal(3500, 105, signal)])


def test_unbinned_fit_is_that_of_iminuit_on_the_formula() -> None:
    x = events_of(3000, 4, 60)
    likelihood = BumpLikelihood.unbinned(x, Exponential(1), PEAK, range=(2000.0, 6000.0))
    fit = fit_bump(likelihood, 3500.0)

    def nll(c0: float, c1: float, size: float) -> float:
        b = np.exp(c0 + c1 * (x - 4000) / 2000)
        total = np.exp(c0) * 2000 * (np.exp(c1) - np.exp(-c1)) / c1
        inside = np.diff(stats.norm.cdf([2000, 6000], 3500, 105))[0]
        return float(total + size * inside - np.log(b + size * stats.norm.pdf(x, 3500, 105)).sum())

    own = [fit.values[name] for name in ("c0", "c1", "yield")]
    minuit = Minuit(nll, *own)
    minuit.errordef, minuit.strategy = 0.5, 2
    minuit.migrad()
    assert fit.nll == pytest.approx(minuit.fval, abs=1e-5)
    assert fit.nll == pytest.approx(nll(*own), abs=1e-7)
    for name, value, error in zip(("c0", "c1", "yield"), minuit.values, minuit.errors, strict=True):
        assert fit.values[name] == pytest.approx(value, abs=5e-3 * error)
        assert fit.errors[name] == pytest.approx(error, rel=1e-2)


def test_binned_fits_with_fine_bins_are_unbinned_ones() -> None:
    x = events_of(3000, 5, 80)
    options = {"range": (2000.0, 6000.0), "exclude": [(2800.0, 3000.0)]}
    free = BumpLikelihood.unbinned(x, Exponential(1), PEAK, **options)
    exact = fit_bump(free, 3500.0)
    fine, wide = (fit_bump(free.in_bins(np.linspace(2000, 6000, k)), 3500.0) for k in (2001, 11))
    assert fine.values["yield"] == pytest.approx(exact.values["yield"], abs=0.02 * exact.errors["yield"])
    assert fine.errors["yield"] == pytest.approx(exact.errors["yield"], rel=0.01)
    assert wide.errors["yield"] > 1.1 * exact.errors["yield"]  # bins of four widths have lost something
    q = {fit.mass: fit_bump(free).nll - exact.nll for fit in [exact]}[3500.0]
    q_fine = fit_bump(free.in_bins(np.linspace(2000, 6000, 2001))).nll - fine.nll
    assert q_fine == pytest.approx(q, abs=0.05)
    assert len(free.points) < len(x)  # the excluded ones


def test_events_in_excluded_regions_change_nothing() -> None:
    counts = drawn(1e4, 6)
    blind = counts.copy()
    blind[(EDGES[:-1] >= 3000) & (EDGES[:-1] < 3400)] += 1000
    gap = [(3000.0, 3400.0), (5000.0, 5100.0)]
    one, two = fit_bump(binned(counts, exclude=gap)), fit_bump(binned(blind, exclude=gap))
    assert (one.values == two.values and (~one.used).sum() == 8 + 0) or (~one.used).sum() > 6
    assert fit_bump(binned(blind)).nll > one.nll + 1000
    assert np.isnan(one.pulls[~one.used]).all()
    assert np.isfinite(one.pulls[one.used]).all()


def test_pulls_band_and_covariance_are_what_toys_show() -> None:
    likelihood = binned(drawn(5e3, 7, signal=60.0))
    truth = fit_bump(likelihood, 3500.0)
    toys = likelihood.sample(truth.values, 400, seed=8, mass=3500.0)
    found = fit_toys(likelihood, toys, 3500.0)
    pulls = (found.value("yield") - truth.values["yield"]) / found.error("yield")
    assert abs(pulls.mean()) < 4 / 400**0.5
    assert abs(pulls.std() - 1) < 4 / 800**0.5
    expected = np.array([likelihood.expected(dict(zip(found.names, v, strict=True)), 3500.0) for v in found.values])
    spread = expected.std(0)
    np.testing.assert_allclose(spread[:30], truth.band[:30], rtol=0.2)  # 4 sigma of 400
    wrong = np.sqrt(truth.expected)  # Poisson's own, which is no error of a fit
    assert np.median(wrong[:30] / truth.band[:30]) > 2
    assert np.nanmean(truth.pulls**2) < 2


@pytest.mark.parametrize(
    ("shape", "events", "mass"),
    [
        (Dijet(4), 1e5, 3000.0),
        (Dijet(4), 3e3, None),
        (Dijet(3), 1e3, 2600.0),
        (Exponential(2), 500.0, 3000.0),
        (Bernstein(4), 2e3, 3000.0),
        (Polynomial(3), 2e3, 3000.0),
        (UserShape(lambda x, n, k: n * np.exp(-k * (x / 2000 - 1)), {"n": 10.0, "k": 2.0}), 2e3, 3000.0),
    ],
    ids=lambda v: str(v)[:9],
)
def test_batched_fits_reach_the_minima_of_iminuit(shape, events: float, mass: float | None) -> None:
    flat = isinstance(shape, Bernstein | Polynomial)
    mean = falling(events) if not flat else events * np.exp(-BINS.mean(1) / 2500) / np.exp(-BINS.mean(1) / 2500).sum()
    toys = np.random.default_rng(9).poisson(mean, (40, 60)).astype(float)
    likelihood = binned(toys[0], shape)
    found = fit_toys(likelihood, toys, mass)
    assert found.converged.all()
    for k in range(8):
        own = Minimum(binned(toys[k], shape), mass, dict(zip(found.names, found.values[k], strict=True)))
        # no better point near, by an independent function and without gradients
        assert 2 * abs(found.nll[k] - own.at) < 1e-6
        assert 2 * (found.nll[k] - own.best) < 1e-5
        fit = fit_bump(binned(toys[k], shape), mass)
        assert abs(2 * (found.nll[k] - fit.nll)) < 1e-6
        for name in found.names:
            if name not in fit.at_limit and fit.errors[name] > 0:
                k_name = found.names.index(name)
                assert found.values[k, k_name] == pytest.approx(fit.values[name], abs=0.01 * fit.errors[name])
    flatter = fit_toys(likelihood, toys, mass, fixed={found.names[1]: found.values[:, 1].mean() * 1.3}, errors=False)
    assert np.median(2 * (flatter.nll - found.nll)) > 0.5  # a parameter that is held elsewhere is another fit


class Minimum:
    """-log L at a point, and the least in random directions around it."""

    def __init__(self, likelihood: BumpLikelihood, mass: float | None, values: dict[str, float]) -> None:
        self.at = nll_of(likelihood, values, mass)
        fit = fit_bump(likelihood, mass)
        free = [name for name in fit.names if fit.errors[name] > 0]
        rng, index = np.random.default_rng(1), [fit.names.index(name) for name in free]
        root = np.linalg.cholesky(fit.covariance[np.ix_(index, index)] + 1e-30 * np.eye(len(index)))
        trials = [1e-2 * root @ rng.normal(size=len(free)) for _ in range(30)]
        moved = [{**values, **{n: values[n] + d for n, d in zip(free, step, strict=True)}} for step in trials]
        self.best = min(nll_of(likelihood, v, mass) for v in moved)


def test_negative_yields_end_where_the_density_does() -> None:
    counts = falling(2e4).round()
    counts[(EDGES[:-1] > 3300) & (EDGES[:-1] < 3700)] = 0.0
    fit = fit_bump(binned(counts), 3500.0)
    assert fit.at_limit == ("yield",)
    assert fit.values["yield"] < 0
    inside = (EDGES[:-1] > 3300) & (EDGES[:-1] < 3700)
    assert fit.expected.min() > 0
    assert fit.expected[inside].min() < 1e-4
    # no yield below has a density, and those above are worse
    s = PEAK.fractions(BINS, 3500.0, PEAK.start)
    assert (fit.background + (fit.values["yield"] * 1.01) * s).min() < 0
    nearer = profile_yield(binned(counts), 3500.0, [fit.values["yield"] * 0.95, fit.values["yield"] * 0.8])
    assert fit.nll < nearer[0] < nearer[1]
    bounded = fit_bump(binned(counts, limits={"yield": (0.0, None)}), 3500.0)
    assert bounded.at_limit == ("yield",)
    assert bounded.values["yield"] == pytest.approx(0.0, abs=1e-3)
    assert bounded.nll == pytest.approx(fit_bump(binned(counts)).nll, abs=1e-5)


def test_barrier_reaches_constrained_minima_of_toys() -> None:
    toys = np.random.default_rng(10).poisson(falling(300.0), (300, 60)).astype(float)
    found = fit_toys(binned(toys[0]), toys, 3600.0, refit=False)
    assert found.converged.all()
    assert 10 < found.at_limit.sum() < 300
    s = PEAK.fractions(BINS, 3600.0, PEAK.start)
    for k in np.flatnonzero(found.at_limit)[:6]:
        values = dict(zip(found.names, found.values[k], strict=True))
        likelihood = binned(toys[k])
        mu = likelihood.expected(values, 3600.0)
        assert mu.min() > 0
        yields = values["yield"] * np.array([0.999, 0.99, 0.9, 0.5])
        profile = profile_yield(likelihood, 3600.0, yields)
        assert found.nll[k] < profile[0] + 1e-6
        assert (np.diff(profile) > 0).all()
    assert s.max() > 0.1


def test_constraints_and_nuisances() -> None:
    counts = drawn(2e4, 11, signal=400.0)
    likelihood = binned(counts, constraints={"width_scale": (1.0, 0.2), "mass_scale": (1.0, 0.02)})
    fit = fit_bump(likelihood, 3520.0)
    assert fit.errors["width_scale"] < 0.2
    assert fit.errors["mass_scale"] < 0.02
    assert fit.values["mass_scale"] == pytest.approx(3500 / 3520, abs=4 * fit.errors["mass_scale"])
    tight = fit_bump(binned(counts, constraints={"width_scale": (1.3, 1e-4)}), 3500.0)
    assert tight.values["width_scale"] == pytest.approx(1.3, abs=1e-4)
    held = fit_bump(binned(counts), 3500.0, fixed={"width_scale": 1.3})
    assert tight.values["yield"] == pytest.approx(held.values["yield"], abs=1e-3 * held.errors["yield"])
    assert tight.nll == pytest.approx(held.nll, abs=1e-3)
    free = fit_bump(binned(counts, free=["mass_scale"]), 3500.0)
    assert "mass_scale" not in free.fixed
    assert "width_scale" in free.fixed
    assert free.errors["yield"] >= fit_bump(binned(counts), 3500.0).errors["yield"]
    # one that the data do not know about has the error of its constraint, and a background's pulls the fit
    unknown = fit_bump(binned(drawn(2e4, 11), constraints={"width_scale": (1.0, 0.1)}), 3500.0, fixed={"yield": 0.0})
    assert unknown.errors["width_scale"] == pytest.approx(0.1, rel=1e-3)
    pulled = fit_bump(binned(counts, constraints={"p2": (9.0, 1e-3)}))
    assert pulled.values["p2"] == pytest.approx(9.0, abs=0.01)
    assert pulled.nll > fit_bump(binned(counts)).nll + 5


def test_batched_fits_know_nuisances() -> None:
    likelihood = binned(drawn(2e4, 12, 300.0), constraints={"width_scale": (1.0, 0.1), "mass_scale": (1.0, 0.01)})
    toys = likelihood.sample(fit_bump(likelihood, 3500.0).values, 50, seed=13, mass=3500.0)
    found = fit_toys(likelihood, toys, 3500.0)
    assert found.converged.all()
    for k in range(5):
        fit = fit_bump(likelihood.with_counts(toys[k]), 3500.0)
        assert abs(2 * (found.nll[k] - fit.nll)) < 2e-6
        np.testing.assert_allclose(found.values[k], list(fit.values.values()), atol=2e-3 * max(fit.errors.values()))
        assert found.error("yield")[k] == pytest.approx(fit.errors["yield"], rel=0.02)


def test_template_with_systematics_is_its_gaussian_limit() -> None:
    edges = np.linspace(0.0, 10.0, 11)
    prediction = np.full(10, 4e4)
    tilt = prediction * (1 + 0.01 * np.linspace(-1, 1, 10))
    shape = TemplateBackground(prediction, edges, {"tilt": tilt})
    data = prediction * 0.95 * (1 + 0.02 * np.linspace(-1, 1, 10))
    likelihood = BumpLikelihood.binned(prediction, shape, edges=edges).with_counts(data)
    fit = fit_bump(likelihood)
    # of a tilt of 2 sigma, whose statistical error is s, 1 / (1 + s^2) remains
    s2 = 1 / (0.01**2 * 0.95 * np.sum(prediction * np.linspace(-1, 1, 10) ** 2))
    assert fit.values["tilt"] == pytest.approx(2 / (1 + s2), rel=0.02)
    assert fit.errors["tilt"] == pytest.approx(np.sqrt(s2 / (1 + s2)), rel=0.02)
    assert np.exp(fit.values["log_norm"]) == pytest.approx(0.95, abs=0.002)
    assert fit.ndf == 9
    held = fit_bump(
        BumpLikelihood.binned(prediction, TemplateBackground(prediction, edges, norm=0.01), edges=edges).with_counts(
            data
        )
    )
    assert held.values["log_norm"] > np.log(0.95)
    assert held.chi2 > 25


def test_profile_of_the_yield() -> None:
    likelihood = binned(drawn(2e4, 14, 200.0))
    best = fit_bump(likelihood, 3500.0)
    size, error = best.values["yield"], best.errors["yield"]
    yields = size + error * np.array([-2.0, -1.0, 0.0, 1.0, 2.0])
    twice = 2 * (profile_yield(likelihood, 3500.0, yields) - best.nll)
    np.testing.assert_allclose(twice, [4, 1, 0, 1, 4], rtol=0.1, atol=1e-5)
    one = fit_bump(likelihood, 3500.0, fixed={"yield": float(yields[1])}, errors=False)
    assert 2 * (one.nll - best.nll) == pytest.approx(twice[1], abs=1e-5)
    assert np.isnan(one.covariance[0, 0])
    with pytest.raises(NotConverged, match="negative there"):
        profile_yield(likelihood, 3500.0, [-1e6])


def test_weighted_data() -> None:
    rng = np.random.default_rng(15)
    h = hist.Hist(hist.axis.Variable(EDGES), storage=hist.storage.Weight())
    x = events_of(2e4, 16)
    h.fill(x, weight=np.full(len(x), 0.25))
    with pytest.raises(ValueError, match="weighted=True"):
        BumpLikelihood.binned(h, Exponential(1), PEAK)
    light = fit_bump(BumpLikelihood.binned(h, Exponential(1), PEAK, weighted=True), 3500.0)
    counts = BumpLikelihood.binned(np.histogram(x, EDGES)[0], Exponential(1), PEAK, edges=EDGES)
    full = fit_bump(counts, 3500.0)
    # one weight for all: exactly the counts' fit in other units
    assert light.values["yield"] == pytest.approx(0.25 * full.values["yield"], abs=1e-3 * light.errors["yield"])
    assert light.errors["yield"] == pytest.approx(0.25 * full.errors["yield"], rel=1e-3)
    assert light.chi2 == pytest.approx(full.chi2, abs=1e-4)
    # different weights: errors are right where those of the sums alone are not
    pulls, naive = [], []
    for _ in range(60):
        x = events_of(2e3, int(rng.integers(2**31)))
        w = np.random.default_rng(len(x)).choice([0.2, 3.0], len(x))
        h = hist.Hist(hist.axis.Regular(30, 2000, 6000), storage=hist.storage.Weight())
        h.fill(x, weight=w)
        fit = fit_bump(BumpLikelihood.binned(h, Exponential(1), PEAK, weighted=True), 3300.0)
        wrong = fit_bump(BumpLikelihood.binned(h.values().round(), Exponential(1), PEAK, edges=h.axes[0].edges), 3300.0)
        pulls.append(fit.values["yield"] / fit.errors["yield"])
        naive.append(wrong.values["yield"] / wrong.errors["yield"])
    assert abs(np.std(pulls) - 1) < 0.35
    assert np.std(naive) > 1.3
    x = events_of(2e3, 17)
    free = BumpLikelihood.unbinned(
        x, Exponential(1), PEAK, range=(2000.0, 6000.0), weights=np.full(len(x), 0.5), weighted=True
    )
    one = BumpLikelihood.unbinned(x, Exponential(1), PEAK, range=(2000.0, 6000.0))
    a, b = fit_bump(free, 3500.0), fit_bump(one, 3500.0)
    assert a.errors["yield"] == pytest.approx(0.5 * b.errors["yield"], rel=1e-3)


def test_goodness_of_small_counts_needs_toys() -> None:
    likelihood = binned(drawn(300.0, 18))
    fit = fit_bump(likelihood)
    found = fit_goodness(likelihood, fit, toys=400, seed=19)
    again = fit_goodness(likelihood, fit, toys=400, seed=19)
    assert (found.toys == again.toys).all()
    assert 0.01 < found.p < 1
    assert fit.chi2 == found.chi2
    assert abs(found.toys.mean() - fit.ndf) > 5
    bad = drawn(300.0, 18)
    bad[30:34] += 8
    assert fit_goodness(binned(bad), fit_bump(binned(bad)), toys=200, seed=1).p < 0.02
    large = binned(drawn(1e6, 20))
    assert fit_goodness(large, fit_bump(large), toys=300, seed=2).p == pytest.approx(fit_bump(large).p, abs=0.13)


def test_window_counts() -> None:
    counts = drawn(2e4, 21, signal=250.0)
    likelihood = binned(counts)
    windows = [(float(EDGES[k]), float(EDGES[k + 4])) for k in range(3, 40)]
    found = window_counts(likelihood, windows)
    best = found.windows[found.z.argmax()]
    assert best[0] < 3500 < best[1]
    assert found.z.max() > 4
    k = int(found.z.argmax())
    outside = fit_bump(binned(counts, exclude=[tuple(best)]))
    inside = ~outside.used
    assert found.expected[k] == pytest.approx(outside.background[inside].sum(), rel=1e-8)
    assert found.observed[k] == counts[inside].sum()
    assert found.errors[k] > outside.band[inside].max()  # of the sum, not of one bin
    np.testing.assert_allclose(found.z, found.asymptotic, atol=0.1)
    # without a signal p-values are uniform, and those that forget the fit's error are not
    p, naive = [], []
    for seed in range(150):
        one = window_counts(binned(drawn(2e4, 1000 + seed)), [(float(EDGES[2]), float(EDGES[14]))])
        p.append(stats.norm.sf(one.asymptotic[0]))
        naive.append(stats.norm.sf((one.observed[0] - one.expected[0]) / one.expected[0] ** 0.5))
    assert stats.kstest(p, "uniform").pvalue > 0.01
    assert stats.kstest(naive, "uniform").pvalue < 0.01
    points = BumpLikelihood.unbinned(events_of(3000, 22, 60), Exponential(1), range=(2000.0, 6000.0))
    free = window_counts(points, [(3333.0, 3666.0)])
    assert free.observed[0] == ((points.points >= 3333) & (points.points < 3666)).sum()


def test_results_are_saved(tmp_path: Path) -> None:
    likelihood = binned(drawn(1e4, 23))
    fit = fit_bump(likelihood, 3500.0)
    found = fit_toys(likelihood, likelihood.sample(fit_bump(likelihood).values, 5, seed=1), 3500.0)
    for k, result in enumerate(
        (fit, found, fit_goodness(likelihood, fit, toys=5, seed=1), window_counts(likelihood, [(3000.0, 3200.0)]))
    ):
        result.save(tmp_path / f"{k}.safetensors")
        again = type(result).load(tmp_path / f"{k}.safetensors")
        assert repr(again) == repr(result)
    assert isinstance(found, ToyFits)
    assert isinstance(fit, BumpFit)
    again = BumpFit.load(tmp_path / "0.safetensors")
    assert again.values == fit.values
    assert (again.pulls == fit.pulls).all()
    assert again.p == fit.p
    assert {FitGoodness, WindowCounts}


def test_bad_input_is_refused() -> None:
    counts, good = drawn(1e4, 24), binned(drawn(1e4, 24))
    few = BumpLikelihood.unbinned([2500.0, 3000.0, 4000.0], SHAPE, range=(2000.0, 6000.0))
    cases: list[tuple[Callable[[], object], str]] = [
        (lambda: binned(counts + 0.5), "not whole"),
        (lambda: binned(-counts), "from 0"),
        (lambda: binned(counts * np.nan), "NaN|not finite|nan"),
        (lambda: binned(0 * counts), "found none"),
        (lambda: BumpLikelihood.binned(counts, SHAPE), "edges"),
        (lambda: BumpLikelihood.binned(counts, SHAPE, edges=EDGES[::-1]), "rise"),
        (lambda: BumpLikelihood.binned(counts, SHAPE, edges=EDGES[:-1]), "expected 61"),
        (lambda: BumpLikelihood.binned(counts, SHAPE, edges=EDGES + 9000), "energy"),
        (lambda: binned(counts, range=(1.0, 2.0)), "found none of those"),
        (lambda: binned(counts, range=(3000.0, 2000.0)), "lower, upper"),
        (lambda: binned(counts, exclude=[(0.0, 1e5)]), "outside of the excluded"),
        (lambda: binned(counts, exclude=[(2080.0, 5990.0)]), "at least as many bins"),
        (lambda: binned(counts, constraints={"p1": (1.0, 0.0)}), "positive width"),
        (lambda: binned(counts, UserShape(lambda x, a: a + 0 * x, {"yield": 1.0})), "twice"),
        (lambda: BumpLikelihood.unbinned([2500.0, np.nan], SHAPE, range=(2000.0, 6000.0)), "finite|NaN"),
        (lambda: BumpLikelihood.unbinned([2500.0], SHAPE, range=(2000.0, 6000.0), weights=[2.0]), "weighted=True"),
        (lambda: BumpLikelihood.unbinned([1.0], SHAPE, range=(2000.0, 6000.0)), "found none"),
        (lambda: fit_bump(good, 1000.0), "inside of the fit"),
        (lambda: fit_bump(good, -5.0), "positive"),
        (lambda: fit_bump(BumpLikelihood.binned(counts, SHAPE, edges=EDGES), 3000.0), "with a signal"),
        (lambda: fit_bump(good, fixed={"p1": np.inf}), "finite"),
        (lambda: fit_toys(good, counts), "toys, 60"),
        (lambda: fit_toys(good, np.zeros((2, 60))), "found none in 2 toys"),
        (lambda: fit_toys(good, -np.ones((2, 60))), "from 0"),
        (lambda: fit_toys(good, counts[None], 3000.0, fixed={"yield": [1.0, 2.0]}), "one yield"),
        (lambda: fit_toys(few, counts[None]), "in bins"),
        (lambda: fit_goodness(good, fit_bump(good), toys=0, seed=1), "at least 1"),
        (lambda: window_counts(good, []), "at least one"),
        (lambda: window_counts(good, [(2010.0, 2300.0)]), "borders of bins"),
        (lambda: window_counts(good, [(2000.0, float(EDGES[4]))]), "both sides"),
    ]  # fmt: skip
    for make, message in cases:
        with pytest.raises(ValueError, match=message):
            make()
    for make in (
        lambda: binned(counts, constraints={"p9": (1.0, 1.0)}),
        lambda: binned(counts, free=["width"]),
        lambda: fit_bump(good, fixed={"yield": 1.0}),
        lambda: fit_toys(good, counts[None], fixed={"q": 1.0}),
        lambda: good.expected({"p1": 1.0}),
    ):
        with pytest.raises(KeyError, match=r"no parameter|expected one of"):
            make()


@pytest.mark.parametrize(
    "function",
    [
        lambda x, a, b: np.exp(a + b) + 0 * x,
        lambda x, a, b: np.exp(a * b) + 0 * x,
        lambda x, a, b: np.exp(a) + 0 * b * x,
    ],
    ids=["sum", "saddle", "no effect"],
)
def test_fit_that_fails_is_named_and_never_a_number(function, caplog: pytest.LogCaptureFixture) -> None:
    # two parameters that are one have no covariance
    likelihood = binned(drawn(1e3, 25), UserShape(function, {"a": 0.0, "b": 0.0}))
    with pytest.raises(NotConverged, match=r"did not converge: .*; try"):
        fit_bump(likelihood)
    assert not fit_bump(likelihood, allow_unconverged=True).valid
    assert "did not converge" in caplog.text


def test_contents_too_small_to_be_numbers() -> None:
    # the log of contents is no number's: the mean basis of a bin is that of the ratios within it
    bins = bins_of(np.linspace(20.0, 46.0, 80))
    shape, order, columns = Exponential(1, span=(20, 46)), 4, np.ones(2, bool)
    theta, scale = np.array([5.0, -40.0]), np.eye(2)
    basis = [newton._LogLinearRates(shape, bins, order, theta - [down, 0], columns, scale)._mean for down in (0, 2000)]
    np.testing.assert_allclose(basis[1], basis[0], rtol=1e-12)
    middle = bins.mean(1)
    cut = np.where(middle < 30, np.random.default_rng(1).poisson(3e5 / middle**2), 0)
    with pytest.raises(NotConverged, match="fewer parameters"):  # no warning of numpy's before
        fit_bump(BumpLikelihood.binned(cut, Exponential(4), GaussianPeak(0.3), edges=np.linspace(20, 46, 80)))


def test_no_torch_is_loaded() -> None:
    code = (
        "import sys, numpy as np; from nuinfer.anomaly.bump import *; from nuinfer.anomaly import bump; "
        "e = np.linspace(0., 10., 21); l = bump.BumpLikelihood.binned(np.arange(40, 0, -2), bump.Exponential(1), "
        "bump.GaussianPeak(1.), edges=e); bump.scan_masses(l, [4., 5.]); bump.scan_toys(l, [4., 5.], toys=3); "
        "print([m for m in ('torch', 'sklearn', 'matplotlib') if m in sys.modules])"
    )
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert found.stdout.strip() == "[]"


def test_integral_of_the_signal_is_not_that_of_the_range() -> None:
    """A yield counts all events of a signal, also those beyond the range."""
    likelihood = binned(drawn(1e5, 26))
    edge = fit_bump(likelihood.asimov({**fit_bump(likelihood).values, "yield": 300.0}, 2000.0), 2000.0)
    assert edge.values["yield"] == pytest.approx(300, rel=0.01)
    assert edge.signal.sum() == pytest.approx(150, rel=0.01)
    inside, _ = integrate.quad(lambda x: stats.norm.pdf(x, 2000, 60), 2000, 6000, points=[2000, 2100])
    assert edge.signal.sum() / 300 == pytest.approx(inside, rel=0.01)


def test_negative_yields_without_bins_end_where_the_density_does() -> None:
    x = events_of(1500, 30)
    x = x[(x < 3350) | (x > 3650)]
    likelihood = BumpLikelihood.unbinned(x, Exponential(1), PEAK, range=(2000.0, 6000.0))
    fit = fit_bump(likelihood, 3500.0)
    assert fit.at_limit == ("yield",)
    at = np.linspace(2000, 6000, 4001)
    theta, phi = np.array([fit.values["c0"], fit.values["c1"]]), PEAK.start
    b, s = likelihood.background.values(at, theta), PEAK.density(at, 3500.0, phi)
    assert (b + fit.values["yield"] * s).min() > -2e-2 * b.min()  # the grid is a quarter of a width
    assert (b + 1.05 * fit.values["yield"] * s).min() < 0
    nearer = [fit_bump(likelihood, 3500.0, fixed={"yield": fit.values["yield"] * k}).nll for k in (0.98, 0.9, 0.5)]
    assert fit.nll < nearer[0] < nearer[1] < nearer[2] < fit_bump(likelihood).nll
    fine = fit_bump(likelihood.in_bins(np.linspace(2000, 6000, 401)), 3500.0)
    assert fine.values["yield"] == pytest.approx(fit.values["yield"], rel=0.03)


def test_coefficients_at_their_limits_are_named() -> None:
    fit = fit_bump(binned(drawn(1e5, 31), Bernstein(5)))
    assert "c2" in fit.at_limit
    assert fit.values["c2"] == pytest.approx(0.0, abs=1e-3)
    assert fit.errors["c2"] == 0.0
    assert "c2" in repr(fit).splitlines()[0]
    toys = fit_toys(binned(drawn(1e5, 31), Bernstein(5)), drawn(1e5, 31)[None])
    assert toys.at_limit.all()
    assert toys.values[0].min() >= 0
