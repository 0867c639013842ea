"""Bins and the binned response, against counts made by hand and the exact multinomial."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from scipy import stats

from nuinfer import Events
from nuinfer.simulators import GaussianUnfolding
from nuinfer.unfolding import Binning, Response

RNG = np.random.default_rng(1)
GRID = Binning.of({"p": [0.0, 0.5, 1.0, 3.0], "cos": [-1.0, 0.0, 1.0]})
SLICES = Binning(
    "cos", [-1.0, 0.0, 0.8, 1.0],
    [Binning("p", [0.0, 3.0]), Binning("p", [0.0, 0.5, 1.0, 3.0]), Binning("p", [0.2, 1.0, 2.0])],
)  # fmt: skip
EDGES = np.linspace(-2.5, 2.5, 6)


def points(n: int = 2000) -> dict[str, Any]:
    return {"p": RNG.uniform(-0.5, 3.5, n), "cos": RNG.uniform(-1.2, 1.2, n)}


# -- bins --------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("binning", [GRID, SLICES], ids=["grid", "slices"])
def test_each_event_lies_in_the_cell_of_its_number(binning: Binning) -> None:
    columns = points()
    index = binning.index(columns)
    values = np.stack([columns[name] for name in binning.names], 1)
    low, high = np.moveaxis(binning.cells, 2, 0)
    inside = ((values[:, None] >= low) & (values[:, None] < high)).all(2)  # (N, B)
    assert (inside.sum(1) <= 1).all()
    np.testing.assert_array_equal(index, np.where(inside.any(1), inside.argmax(1), -1))
    assert set(index) == {-1, *range(binning.size)}


def test_a_grid_is_numbered_as_numpy_does() -> None:
    columns = points()
    index = GRID.index(columns)
    counts = np.histogram2d(columns["p"], columns["cos"], [GRID.edges, GRID.inner[0].edges])[0]  # type: ignore[index]
    np.testing.assert_array_equal(np.bincount(index[index >= 0], minlength=6), counts.ravel())
    assert GRID.shape == (3, 2)
    assert GRID.grid is not None
    same = Binning("p", GRID.edges, [Binning("cos", [-1.0, 0.0, 1.0]) for _ in range(3)])
    assert same.shape == (3, 2)
    np.testing.assert_array_equal(same.index(columns), index)
    assert SLICES.grid is None
    assert SLICES.shape == (6,)


def test_the_last_bin_holds_its_upper_edge_and_edges_may_be_infinite() -> None:
    assert GRID.index({"p": [3.0, 3.0, 0.5], "cos": [1.0, 1.1, -1.0]}).tolist() == [5, -1, 2]
    over = Binning("p", [0.0, 1.0, np.inf])
    assert over.index({"p": [-1.0, 0.5, 1e300]}).tolist() == [-1, 0, 1]
    assert over.widths.tolist() == [1.0, np.inf]
    again = Binning.from_json(over.to_json())
    assert again.edges[-1] == np.inf


def test_widths_are_volumes() -> None:
    np.testing.assert_allclose(GRID.widths, np.outer([0.5, 0.5, 2.0], [1.0, 1.0]).ravel())
    np.testing.assert_allclose(SLICES.widths, [3.0, 0.4, 0.4, 1.6, 0.16, 0.2])
    assert SLICES.label(4) == "0.8 <= cos < 1, 0.2 <= p < 1"


def test_fill_sums_weights_and_squares() -> None:
    columns = points(500)
    weight = RNG.normal(1, 1, 500)
    index = SLICES.index(columns)
    sums, squares = SLICES.fill(Events(columns, weight=weight))
    np.testing.assert_allclose(sums, [weight[index == b].sum() for b in range(6)])
    np.testing.assert_allclose(squares, [(weight[index == b] ** 2).sum() for b in range(6)])
    np.testing.assert_allclose(SLICES.fill(Events(columns), weight)[0], sums)


@pytest.mark.parametrize("order", [0, 1, 2, 3])
def test_differences_vanish_on_polynomials_along_each_column(order: int) -> None:
    """Those of order k of polynomials of degree k - 1 vanish; of degree k they are k! along a line."""
    grid = Binning.of({"a": np.arange(6.0), "b": np.arange(7.0)})
    a, b = np.moveaxis(grid.cells.mean(2), 1, 0)
    matrix = grid.differences(order)
    if order == 0:
        np.testing.assert_array_equal(matrix, np.eye(30))
        return
    assert len(matrix) == (5 - order) * 6 + 5 * (6 - order)
    for x in (a, b):
        np.testing.assert_allclose(matrix @ x ** (order - 1), 0, atol=1e-9)
        found = np.abs(matrix @ x**order)
        assert set(np.round(found, 6)) == {0.0, float(np.prod(np.arange(1, order + 1)))}
    lines = SLICES.differences(1)
    assert np.count_nonzero(lines, 1).tolist() == [2, 2, 2]  # inside the second slice and the third
    assert np.flatnonzero(np.abs(lines).sum(0)).tolist() == [1, 2, 3, 4, 5]


@pytest.mark.parametrize("binning", [GRID, SLICES], ids=["grid", "slices"])
def test_bins_survive_json(binning: Binning) -> None:
    again = Binning.from_json(binning.to_json())
    assert again.names == binning.names
    np.testing.assert_array_equal(again.cells, binning.cells)
    binning.check_same("again", again)


@pytest.mark.parametrize(
    ("make", "error", "message"),
    [
        (lambda: Binning("p", [1.0, 1.0]), ValueError, "bins of 'p': expected rising edges"),
        (lambda: Binning("p", [[0.0, 1.0]]), ValueError, "bins of 'p': expected rising edges"),
        (lambda: Binning("p", [0, 1, 2], [Binning("q", [0, 1])]), ValueError, "expected 2 inner binnings, one a bin"),
        (lambda: Binning("p", [0, 1], Binning("p", [0, 1])), ValueError, "expected each column once"),
        (
            lambda: Binning("p", [0, 1, 2], [Binning("q", [0, 1]), Binning("r", [0, 1])]),
            ValueError, "expected the same columns in each",
        ),
        (lambda: Binning.of({}), ValueError, "expected edges of at least one column"),
        (lambda: Binning.of([0, 1, 2]), TypeError, "expected a Binning or edges by column"),  # type: ignore[arg-type]
        (lambda: GRID.index({"p": [0.5, np.nan], "cos": [0.0, 0.0]}), ValueError, "found 1 of 2 not finite, .*rows 1"),
        (lambda: GRID.index(Events({"p": [0.5]})), KeyError, "cos"),
        (lambda: GRID.differences(4), ValueError, "expected an order from 0 to 3, found 4"),
        (lambda: GRID.check_same("model", SLICES), ValueError, "model: expected the bins Binning.*found Binning"),
    ],
)  # fmt: skip
def test_bad_bins_are_refused(make: Any, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        make()


# -- the response ------------------------------------------------------------------------------------------------------


def simulated(n: int = 20_000, seed: int = 1) -> Events:
    return GaussianUnfolding.with_detector().simulation(n, seed=seed)


def test_the_response_is_the_histogram_of_the_events() -> None:
    simulation = simulated()
    simulation = simulation.with_weight(np.random.default_rng(2).gamma(4, 0.25, len(simulation)))
    reco = np.linspace(-3, 3, 9)
    found = Response.from_events(simulation, truth={"t0": EDGES}, reco={"x0": reco})
    t, x, w = simulation["t0"], simulation["x0"], simulation.weight
    in_truth = simulation["pass_truth"] & (t >= EDGES[0]) & (t <= EDGES[-1])
    in_reco = simulation["pass_reco"] & (x >= reco[0]) & (x <= reco[-1])
    both, only_truth, only_reco = in_truth & in_reco, in_truth & ~in_reco, in_reco & ~in_truth
    assert min(both.sum(), only_truth.sum(), only_reco.sum()) > 100
    for power, two, miss, fake in (
        (1, found.both, found.missed, found.fakes),
        (2, found.both_variance, found.missed_variance, found.fakes_variance),
    ):
        expected = np.histogram2d(x[both], t[both], [reco, EDGES], weights=w[both] ** power)[0]
        np.testing.assert_allclose(two, expected)
        np.testing.assert_allclose(miss, np.histogram(t[only_truth], EDGES, weights=w[only_truth] ** power)[0])
        np.testing.assert_allclose(fake, np.histogram(x[only_reco], reco, weights=w[only_reco] ** power)[0])
    np.testing.assert_allclose(found.matrix.sum(0), found.efficiency)
    np.testing.assert_allclose(found.migration.sum(0), 1)
    np.testing.assert_allclose(found.fold(found.truth_yield, fakes=True), found.reco_yield)
    np.testing.assert_allclose(found.purity, found.both.sum(1) / found.reco_yield)


def test_the_efficiency_is_the_exact_one() -> None:
    """eps(t) averaged over narrow bins, within binomial errors; without the misses it would be 1."""
    problem = GaussianUnfolding.with_detector()
    found = Response.from_events(problem.simulation(100_000, seed=3), truth={"t0": EDGES}, reco={"x0": [-50.0, 50.0]})
    events = problem.simulation(400_000, seed=4)
    t = events["t0"][events["pass_truth"]]
    place = np.digitize(t, EDGES) - 1
    exact = np.array([problem.efficiency_at(t[place == b][:, None]).mean() for b in range(5)])
    pulls = (found.efficiency - exact) / np.sqrt(exact * (1 - exact) / found.truth_yield)
    assert stats.chi2.sf((pulls**2).sum(), 5) > 1e-4
    assert (found.efficiency < 0.95).all()


def test_matrix_covariance_is_the_spread_of_the_matrix() -> None:
    """For weighted events, over 2,000 bootstraps of the events; the multinomial formula of weights 1 would fail."""
    rng = np.random.default_rng(5)
    t = rng.choice(2, 3000)
    x = np.where(rng.random(3000) < 0.3, 1 - t, t) + rng.choice([0, 2], 3000, p=[0.8, 0.2])  # 2 and 3: missed
    events = Events({"t": t + 0.5, "x": x + 0.5}, weight=rng.gamma(0.5, 2.0, 3000))
    bins: dict[str, Any] = {"truth": {"t": [0, 1, 2]}, "reco": {"x": [0, 1, 2]}}
    found = Response.from_events(events, **bins)
    replicas = np.array([r.matrix for r in Response.bootstraps(events, 2000, seed=1, **bins)])
    for column in (0, 1):
        exact, spread = found.matrix_covariance(column), np.cov(replicas[:, :, column], rowvar=False)
        sigma = np.sqrt(np.diag(exact))
        np.testing.assert_allclose(np.sqrt(np.diag(spread)) / sigma, 1, atol=5 / np.sqrt(2 * 2000))
        correlation = exact[0, 1] / sigma.prod()
        assert abs(spread[0, 1] / sigma.prod() - correlation) < 5 / np.sqrt(2000)
        p, n = found.matrix[:, column], found.truth_yield[column]
        assert (np.sqrt(p * (1 - p) / n) / sigma < 0.9).all()


def test_universes_are_responses_of_weighted_events() -> None:
    simulation = simulated(2000)
    factors = np.random.default_rng(1).gamma(9, 1 / 9, (len(simulation), 3))
    bins: dict[str, Any] = {"truth": {"t0": EDGES}, "reco": {"x0": EDGES}}
    several = list(Response.universes(simulation, factors, **bins))
    assert len(several) == 3
    for factor, found in zip(factors.T, several, strict=True):
        alone = Response.from_events(simulation.with_weight(simulation.weight * factor), **bins)
        np.testing.assert_array_equal(found.both, alone.both)
        np.testing.assert_array_equal(found.fakes_variance, alone.fakes_variance)
    with pytest.raises(ValueError, match=r"weights: expected \(events, universes\) with 2\d+ events"):
        Response.universes(simulation, factors.T, **bins)
    with pytest.raises(ValueError, match="weights: expected finite ones, found 1"):
        Response.universes(simulation, np.where(factors == factors[0, 0], np.nan, factors), **bins)


def test_a_response_is_saved(tmp_path: Path) -> None:
    found = Response.from_events(simulated(2000), truth={"t0": EDGES}, reco={"x0": EDGES})
    found.save(tmp_path / "r.safetensors")
    again = Response.load(tmp_path / "r.safetensors")
    for name, value in found.arrays().items():
        np.testing.assert_array_equal(getattr(again, name), value)
    assert repr(again) == repr(found)
    assert "5 truth bins in t0, 5 reco bins in x0; efficiency 0." in repr(found)


def events_with(**changes: Any) -> Events:
    columns = {"t": [0.5, 1.5, 0.5, 1.5], "x": [0.5, 1.5, 1.5, 9.0]} | changes
    weight = columns.pop("weight", None)
    return Events({name: np.asarray(values) for name, values in columns.items()}, weight=weight)


@pytest.mark.parametrize(
    ("events", "message"),
    [
        (events_with(t=[0.5] * 4), r"positive truth yield .*found 1 of 2 without \(bin 1 \(1 <= t < 2\): 0\)"),
        (events_with(x=[0.5, 9.0, 1.5, 9.0]), r"positive reconstructed truth yield .*bin 1 \(1 <= t < 2\): 0"),
        (events_with(x=[9.0] * 4), "4 in truth bins, 0 in reco bins, none in both"),
        (events_with(pass_reco=[True, False, True, True], pass_truth=[True, False, True, True]),
         "found 1 of 4 with neither pass_truth nor pass_reco, first at rows \\[1\\]"),
        (events_with(weight=[3.0, 3.0, -1.0, 1.0]), "found 1 negative, first -1 in reco bin 1"),
        (events_with(t=[0.5, np.nan, 0.5, 1.5]), "column 't': expected finite values, found 1 of 4"),
    ],
)  # fmt: skip
def test_bad_simulations_are_refused(events: Events, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Response.from_events(events, truth={"t": [0, 1, 2]}, reco={"x": [0, 1, 2]})


def test_columns_of_a_side_matter_only_where_its_flag_is_true() -> None:
    events = events_with(
        t=[0.5, 1.5, np.nan, 1.5, 0.5], x=[0.5, 1.5, 1.5, 0.5, np.nan],
        pass_truth=[True, True, False, True, True], pass_reco=[True, True, True, True, False],
    )  # fmt: skip
    found = Response.from_events(events, truth={"t": [0, 1, 2]}, reco={"x": [0, 1, 2]})
    assert found.fakes.tolist() == [0, 1]
    assert found.missed.tolist() == [1, 0]
    wrong = events.with_columns(pass_reco=np.ones(5))
    with pytest.raises(TypeError, match="column 'pass_reco': expected booleans"):
        Response.from_events(wrong, truth={"t": [0, 1, 2]}, reco={"x": [0, 1, 2]})
