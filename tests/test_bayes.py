"""Iterative Bayes against the exact recursion, numerical derivatives and the spread of toys."""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import hist
import numpy as np
import pytest
from numpy.typing import NDArray
from scipy import stats

from nuinfer import Events
from nuinfer.simulators import GaussianUnfolding
from nuinfer.simulators.gaussian import Gaussian
from nuinfer.unfolding import Binning, Response, iterate_bayes, iterative_bayes

Floats = NDArray[np.float64]

DETECTOR = GaussianUnfolding.with_detector()
TRUTH, RECO = {"t0": np.linspace(-2.5, 2.5, 7)}, {"x0": np.linspace(-3.0, 3.0, 11)}


def response_of(n: int = 20_000, seed: int = 1) -> Response:
    return Response.from_events(DETECTOR.simulation(n, seed=seed), truth=TRUTH, reco=RECO)


@dataclass(frozen=True)
class Exact:
    """A problem without statistics: one weighted event in each cell of a fine grid (t, x), bins as fine as the cells.

    Sums over bins are then integrals, exact to rounding for Gaussians: h is far below the smearing.
    """

    problem: GaussianUnfolding
    cells: int

    @property
    def edges(self) -> Floats:
        return np.linspace(-6.0, 6.0, self.cells + 1)

    @property
    def at(self) -> Floats:
        """The middles (cells^D, D)."""
        middle = (self.edges[1:] + self.edges[:-1]) / 2
        axes = np.meshgrid(*[middle] * self.problem.dim, indexing="ij")
        return np.stack([a.ravel() for a in axes], 1)

    def bins(self, name: str) -> Binning:
        return Binning.of({f"{name}{i}": self.edges for i in range(self.problem.dim)})

    def contents(self, density: Any) -> Floats:
        """Per bin; of several densities their sum."""
        return np.asarray(density.density(self.at) * np.diff(self.edges)[0] ** self.problem.dim)

    def response(self) -> Response:
        """Without fakes of its own statistics; what is smeared out of the grid is missed."""
        problem, size = self.problem, len(self.at)
        truth, cell = self.contents(problem.prior), np.diff(self.edges)[0] ** problem.dim
        smear = Gaussian(np.zeros(problem.dim), np.asarray(problem.smearing))
        kernel = smear.density(self.at[:, None] - self.at) * cell  # (x, t)
        both = kernel * (truth * problem.efficiency_at(self.at))
        fakes = problem.reco_fakes()
        fake = np.zeros(size) if fakes is None else self.contents(fakes)
        return Response(self.bins("t"), self.bins("x"), both, both, truth - both.sum(0), truth, fake, fake)

    def moments(self, spectrum: Floats) -> tuple[Floats, Floats, float]:
        total = spectrum.sum()
        mean = spectrum @ self.at / total
        centred = self.at - mean
        return mean, (centred.T * spectrum) @ centred / total, float(total)


TWO = GaussianUnfolding(
    truth=Gaussian([0.0, 0.3], [[1.0, 0.4], [0.4, 0.8]]), prior=Gaussian([0.2, 0.0], [[0.81, 0.0], [0.0, 1.0]]),
    smearing=[[0.25, 0.1], [0.1, 0.3]], efficiency=Gaussian.peak(0.9, [1.0, 0.0], [[4.0, 0.5], [0.5, 5.0]]),
    fake_density=Gaussian([-1.5, 0.0], [[0.25, 0.0], [0.0, 0.5]], total=0.15),
    background_density=Gaussian([2.0, -1.0], [[0.16, 0.0], [0.0, 0.5]], total=0.2), rate=1.2,
)  # fmt: skip


# -- the exact recursion -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("problem", "cells"), [(DETECTOR, 120), (TWO, 24)], ids=["1D", "2D"])
def test_every_iteration_is_the_exact_recursion(problem: GaussianUnfolding, cells: int) -> None:
    """Mean, covariance and rate, with efficiency, fakes, background and 1.2 times the rate, each of which matters."""
    exact = Exact(problem, cells)
    response = exact.response()
    fakes, background = problem.reco_data_fakes(), problem.reco_background()
    assert fakes is not None
    assert background is not None
    expected = exact.contents(background)
    data = exact.contents(problem.reco_data()) + exact.contents(fakes) + expected
    for k in (1, 2, 4):
        found = iterative_bayes(data, response, background=expected, iterations=k)
        mean, covariance, total = exact.moments(found.values)
        state = problem.unfolded(k)
        np.testing.assert_allclose(mean, state.mean, atol=2e-5)
        np.testing.assert_allclose(covariance, state.covariance, atol=2e-5)
        assert total == pytest.approx(state.total, rel=2e-5)
        for wrong in (
            iterative_bayes(data, response, iterations=k),
            iterative_bayes(data, replace(response, fakes=0 * response.fakes), background=expected, iterations=k),
            iterative_bayes(data, replace(response, missed=0 * response.missed), background=expected, iterations=k),
        ):
            other, _, rate = exact.moments(wrong.values)
            assert abs(rate / state.total - 1) > 0.02 or np.abs(other - state.mean).max() > 0.02


def test_scaled_fakes_follow_the_data() -> None:
    """Fakes in proportion to the data: the exact recursion again, which subtraction misses."""
    problem = GaussianUnfolding.with_detector(data_fakes="proportional")
    exact = Exact(problem, 120)
    fakes, background = problem.reco_data_fakes(), problem.reco_background()
    assert fakes is not None
    assert background is not None
    expected = exact.contents(background)
    data = exact.contents(problem.reco_data()) + exact.contents(fakes) + expected
    state = problem.unfolded(3)
    scaled, subtracted = (
        exact.moments(iterative_bayes(data, exact.response(), background=expected, iterations=3, fakes=f).values)
        for f in ("scale", "subtract")  # type: ignore[arg-type]
    )
    np.testing.assert_allclose(scaled[0], state.mean, atol=2e-5)
    assert scaled[2] == pytest.approx(state.total, rel=2e-5)
    assert abs(subtracted[2] / state.total - 1) > 1e-3


def test_four_dimensions_are_products_of_one() -> None:
    """Where prior, response and data are products over columns, so is every iteration: coarse bins, to rounding."""
    rng = np.random.default_rng(3)
    ones, signals = [], []
    for i in range(4):
        both = rng.gamma(2.0, size=(4, 3)) + 3 * np.eye(4, 3)
        size = (np.zeros(3), np.zeros(3), np.zeros(4), np.zeros(4))
        ones.append(Response(Binning(f"t{i}", np.arange(4.0)), Binning(f"x{i}", np.arange(5.0)), both, both, *size))
        missed = both.sum(0) * rng.uniform(0.2, 1.0, 3)
        ones[-1] = replace(ones[-1], missed=missed)
        signals.append(both @ rng.uniform(0.5, 2.0, 3))

    def product(parts: list[Floats]) -> Floats:
        return functools.reduce(np.kron, parts)

    both, truth = product([r.both for r in ones]), product([r.truth_yield for r in ones])
    bins = [Binning.of({f"{n}{i}": np.arange(k + 1.0) for i in range(4)}) for n, k in (("t", 3), ("x", 4))]
    joint = Response(bins[0], bins[1], both, both, truth - both.sum(0), truth, np.zeros(256), np.zeros(256))
    data = product(signals)
    for k in (1, 3):
        each = [iterative_bayes(m, r, iterations=k).values for m, r in zip(signals, ones, strict=True)]
        np.testing.assert_allclose(iterative_bayes(data, joint, iterations=k).values, product(each), rtol=1e-10)
    assert np.abs(product(each) / truth - 1).max() > 0.1


def numerical(function: Callable[[Floats], Floats], at: Floats) -> Floats:
    """The Jacobian (B, N) by central differences."""
    rows = []
    for i, value in enumerate(at):
        step = 1e-5 * max(abs(value), 1.0)
        up, down = at.copy(), at.copy()
        up[i] += step
        down[i] -= step
        rows.append((function(up) - function(down)) / (2 * step))
    return np.array(rows).T


# -- the covariance ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("prior", [None, np.linspace(1.0, 2.0, 6)], ids=["simulation", "given"])
@pytest.mark.parametrize("fakes", ["subtract", "scale"])
@pytest.mark.parametrize("iterations", [1, 2, 5])
def test_covariances_are_those_of_numerical_derivatives(iterations: int, fakes: Any, prior: Any) -> None:
    """By every content of data, background and simulation: data, background and the simulation's parts to 1e-6."""
    response = response_of(3000)
    rng = np.random.default_rng(2)
    data = rng.poisson(1.3 * response.reco_yield + 30).astype(float)
    background = rng.gamma(9, 3.0, len(data))
    options: dict[str, Any] = {"iterations": iterations, "fakes": fakes, "prior": prior}
    filled = hist.Hist(hist.axis.Variable(RECO["x0"], name="x0"), storage=hist.storage.Weight())
    filled.view()["value"], filled.view()["variance"] = background, 0.3 * background  # type: ignore[index]
    found = iterative_bayes(data, response, background=filled, **options)

    def by_data(d: Floats) -> Floats:
        return iterative_bayes(d, response, background=background, **options).values

    jacobian = numerical(by_data, data)
    np.testing.assert_allclose(found.covariances["data"], (jacobian * data) @ jacobian.T, rtol=1e-6, atol=1e-6)
    expected = (jacobian * 0.3 * background) @ jacobian.T
    np.testing.assert_allclose(found.covariances["background"], expected, rtol=1e-6, atol=1e-6)
    purity = response.purity if fakes == "scale" else np.ones(len(data))
    smearing = (jacobian / purity) @ response.matrix  # by the signal, not by the data
    np.testing.assert_allclose(found.smearing, smearing, rtol=1e-5, atol=1e-7)
    total = 0.0
    for name in ("both", "missed", "fakes"):
        value, variance = getattr(response, name), getattr(response, f"{name}_variance")

        def by_content(flat: Floats, name: str = name, value: Floats = value) -> Floats:
            other = replace(response, **{name: flat.reshape(value.shape)})
            return iterative_bayes(data, other, background=background, **options).values

        slope = numerical(by_content, value.ravel())
        total = total + (slope * variance.ravel()) @ slope.T
    np.testing.assert_allclose(found.covariances["simulation"], total, rtol=1e-5, atol=1e-6)


def test_the_original_formula_is_half_of_the_error() -> None:
    """2,000 toys of the data: the spread is the covariance, and M of the last iteration alone gives much less."""
    response = response_of()
    rng = np.random.default_rng(4)
    expected = response.reco_yield
    toys = np.array([iterative_bayes(rng.poisson(expected), response, iterations=6).values for _ in range(2000)])
    found = iterative_bayes(expected, response, iterations=6)
    spread, sigma = toys.std(0, ddof=1), np.sqrt(np.diag(found.covariances["data"]))
    np.testing.assert_allclose(spread / sigma, 1, atol=5 / np.sqrt(2 * 2000))
    correlation = np.corrcoef(toys, rowvar=False)
    exact = found.covariances["data"] / np.outer(sigma, sigma)
    assert np.abs(correlation - exact).max() < 5 / np.sqrt(2000)
    *_, last = (step for step, _ in zip(iterate_bayes(expected - response.fakes, response, response.truth_yield),
                                        range(6), strict=False))  # fmt: skip
    original = np.sqrt(np.diag((last.unfolding * expected) @ last.unfolding.T))
    assert np.median(original / spread) < 0.75


def test_the_simulations_part_is_its_spread() -> None:
    """400 independent simulations, the same data: pulls of their spread, with weights that are not 1."""
    rng = np.random.default_rng(5)
    data = response_of(20_000, 999).reco_yield
    runs = []
    for seed in range(400):
        simulation = DETECTOR.simulation(2000, seed=seed)
        weighted = simulation.with_weight(10 * rng.gamma(1.0, 1.0, len(simulation)))
        runs.append(iterative_bayes(data, Response.from_events(weighted, truth=TRUTH, reco=RECO), iterations=3,
                                    fakes="scale"))  # fmt: skip
    spread = np.std([run.values for run in runs], 0, ddof=1)
    sigma = np.sqrt(np.mean([np.diag(run.covariances["simulation"]) for run in runs], 0))
    # first order in contents of some 20 weighted events, so to 10% beyond the statistics of the spread
    np.testing.assert_allclose(spread / sigma, 1, atol=0.1 + 4 / np.sqrt(2 * 400))


# -- smearing, and what goes in ----------------------------------------------------------------------------------------


def test_smearing_is_exact_for_the_data_and_linear_around() -> None:
    response = response_of()
    model = response.truth_yield * np.linspace(0.7, 1.4, 6)
    found = iterative_bayes(response.fold(model, fakes=True), response, iterations=3)
    np.testing.assert_allclose(found.smear(model), found.values, rtol=1e-9)
    assert found.chi2(model).value < 1e-9
    assert np.abs(found.values / model - 1).max() > 0.01
    near = model * (1 + 0.01 * np.sin(np.arange(6)))
    moved = iterative_bayes(response.fold(near, fakes=True), response, iterations=3).values
    change = moved - found.values
    np.testing.assert_allclose(found.smear(near) - found.values, change, atol=0.02 * np.abs(change).max())


def test_chi2_of_the_truth_is_a_chi2() -> None:
    """300 toys of a truth that is not the prior, compared through A_C."""
    response = response_of(200_000)
    scale = 0.02
    model = scale * response.truth_yield * np.linspace(0.8, 1.3, 6)
    small = replace(response, **{n: scale * getattr(response, n) for n in ("both", "missed", "fakes")})
    small = replace(small, **{n: 0 * getattr(response, n) for n in ("both_variance", "missed_variance",
                                                                    "fakes_variance")})  # fmt: skip
    rng = np.random.default_rng(6)
    expected = small.fold(model, fakes=True)
    found = [iterative_bayes(rng.poisson(expected), small, iterations=4).chi2(model) for _ in range(300)]
    assert {f.dof for f in found} == {6}
    assert stats.kstest([f.p_value for f in found], "uniform").pvalue > 1e-3
    wrong = [iterative_bayes(rng.poisson(expected), small, iterations=4).chi2(scale * response.truth_yield)
             for _ in range(20)]  # fmt: skip
    assert np.median([f.p_value for f in wrong]) < 1e-6


def test_events_histograms_and_arrays_are_the_same_data() -> None:
    response = response_of()
    data, background = DETECTOR.data(5000, seed=7), DETECTOR.background(5000, seed=7, oversample=3)
    counts = np.histogram(data["x0"], RECO["x0"])[0]
    other = np.histogram(background["x0"], RECO["x0"], weights=background.weight)[0]
    filled = hist.Hist(hist.axis.Variable(RECO["x0"], name="x0")).fill(data["x0"])
    runs = [
        iterative_bayes(data, response, background=background, fakes="scale"),
        iterative_bayes(filled, response, background=other, fakes="scale"),
        iterative_bayes(counts, response, background=background, fakes="scale", covariance=counts.astype(float)),
        iterative_bayes(counts, response, background=background, fakes="scale", covariance=np.diag(counts)),
    ]
    for run in runs[1:]:
        np.testing.assert_allclose(run.values, runs[0].values, rtol=1e-12)
        np.testing.assert_allclose(run.covariances["data"], runs[0].covariances["data"], rtol=1e-12)
    assert np.diag(runs[0].covariances["background"]).min() > 0
    assert not runs[1].covariances["background"].any()  # contents without variances


def changed(**options: Any) -> Callable[[], Any]:
    response = response_of(3000)
    data = response.reco_yield.copy()
    return lambda: iterative_bayes(**({"data": data, "response": response} | options))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"data": np.ones(7)}, "data: expected contents of Binning.*found 7 bins"),
        ({"data": np.full(10, np.nan)}, "data: expected finite values"),
        ({"data": np.full(10, 1e-3)}, "expected a positive yield, found"),
        ({"background": np.full(10, 1e9)}, "expected a positive yield, found"),
        (
            {"background": np.r_[1e3, np.zeros(9)]},
            r"negative spectrum in .* truth bins, .*down to -997 in reco bin 0 \(-3 <= x0 < -2.4\)",
        ),
        ({"iterations": 0}, "iterations: expected a whole number of at least 1"),
        ({"iterations": 1.5}, "iterations: expected a whole number of at least 1"),
        ({"fakes": "ignore"}, "fakes: expected 'subtract' or 'scale', found 'ignore'"),
        ({"prior": np.ones(5)}, "prior: expected contents"),
        ({"prior": np.r_[0.0, np.ones(5)]}, "prior: expected positive contents, found 0 in bin 0"),
        ({"covariance": np.ones((10, 9))}, "covariance: expected"),
        ({"covariance": np.triu(np.ones((10, 10)))}, "expected a symmetric matrix"),
        ({"covariance": 1 - 2 * np.eye(10)}, "expected no negative eigenvalue"),
        (
            {"data": hist.Hist(hist.axis.Regular(10, 0, 1, name="x0")).fill([0.5])},
            r"data: expected the bins of axis 0 to be 10 from -3 to 3 .* found 10 from 0 to 1",
        ),
        (
            {"data": hist.Hist(*[hist.axis.Regular(n, 0, 1, name=f"x{n}") for n in (2, 5)])},
            r"data: expected bins of shape \(10,\), found \(2, 5\)",
        ),
    ],
)
def test_bad_input_is_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        changed(**options)()
    with pytest.raises(TypeError, match="data: expected events, a histogram or an array"):
        changed(data={"x0": [1.0]})()


def test_data_outside_the_simulations_reach_are_refused_or_reported() -> None:
    events = Events({"t": [0.5, 0.5, 1.5], "x": [0.5, 1.5, 1.5]})
    response = Response.from_events(events, truth={"t": [0, 1, 2]}, reco={"x": [0, 1, 2, 3]})
    with pytest.raises(ValueError, match=r"found the fraction 0\.1 outside"):
        iterative_bayes([40.0, 50.0, 10.0], response)
    found = iterative_bayes([40.0, 50.0, 10.0], response, outside=0.2)
    assert found.settings["outside"] == pytest.approx(0.1)
    assert found.values.sum() == pytest.approx(90)
