"""The analysis of an interference: its samples and models against exact answers, its statistics, a small run."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import nuinfer as nu
from analyses.interference import checks
from analyses.interference.coverage import Study, study
from analyses.interference.models import Exact, Learning, Target, constraint, exact_ratios, learn, mixture, targets
from analyses.interference.simulation import COEFFICIENTS, FRACTIONS, SAMPLES, Simulation
from nuinfer import intervals
from nuinfer.likelihood import Check, Mixture, Process, Report
from nuinfer.simulators import Interference

SMALL = Simulation(problem=Interference(dim=2), events=12_000, seed=3)
COLUMNS = SMALL.problem.columns
START = {"mu": 1.0, **dict.fromkeys(SMALL.problem.nuisances, 0.0)}


# -- samples -----------------------------------------------------------------------------------------------------------


def test_all_samples_are_one_with_other_weights() -> None:
    reference = SMALL.reference
    assert len(reference) == 12_000
    assert reference.sum_weights == pytest.approx(12_000)
    assert 0.02 < (reference.weight < 0).mean() < 0.05
    names = list(FRACTIONS)
    total = np.sum([FRACTIONS[name] * SMALL.sample(name).weight for name in names], 0)
    np.testing.assert_allclose(total, reference.weight, rtol=1e-12)  # the reference is the sum of its parts
    for name in names:
        events = SMALL.sample(name)
        np.testing.assert_array_equal(events.id, reference.id)
        assert np.abs(events.weight / reference.weight).max() <= 1 / FRACTIONS[name]


@pytest.mark.parametrize("moved", [{}, {"hardness": 1.0}, {"background": -1.0}, {"scale": 1.0}, {"resolution": 1.0}])
@pytest.mark.parametrize("name", SAMPLES)
def test_weighted_means_are_those_of_the_exact_densities(name: str, moved: dict[str, float]) -> None:
    axes = [np.linspace(-2, 5, 141), np.linspace(-3, 6, 141)]
    grid = np.stack(np.meshgrid(*axes, indexing="ij"), axis=-1)
    p = np.exp(SMALL.problem.log_density(name, grid, **moved))  # type: ignore[arg-type]
    p /= p.sum()
    events = SMALL.sample(name, **moved)  # type: ignore[arg-type]
    for f in (lambda x, y: x, lambda x, y: x * y, lambda x, y: np.cos(3 * x)):
        exact = (f(grid[..., 0], grid[..., 1]) * p).sum()
        terms = events.weight * (f(events["x0"], events["x1"]) - exact)
        assert abs(terms.sum()) < 4 * np.sqrt((terms**2).sum())


def test_norms_are_quotients_of_cross_sections() -> None:
    assert SMALL.norm("S", "signal") == pytest.approx((np.exp(-0.05), np.exp(0.05)))
    assert SMALL.norm("B", "hardness") == pytest.approx((1, 1))
    assert abs(SMALL.norm("SBI", "hardness")[1] - 1) > 1e-3


# -- models ------------------------------------------------------------------------------------------------------------


def test_exact_ratios_make_the_exact_likelihood_up_to_the_interpolation() -> None:
    problem = SMALL.problem
    reference = SMALL.reference.keep(COLUMNS)
    model = mixture(SMALL, exact_ratios(problem), reference)
    data = problem.data(1)
    cost, exact = model(data), Exact(problem, data)
    at = [START, {**START, "mu": 0.5}, {**START, "mu": 1.7}, {**START, "luminosity": 2.0}]
    pairs = np.array([[cost.at(values), exact.at(values)] for values in at])
    # the reference density drops out of differences; the means of the ratios over 12,000 events differ from 1 by a per
    # cent, where the data give the rate to 5%
    assert np.abs(np.diff(pairs[:, 0]) - np.diff(pairs[:, 1])).max() < 1.5
    assert np.ptp(pairs[:, 1]) > 15
    direct = 2 * problem.expected(mu=0.5) - 2 * problem.log_rate(data, mu=0.5).sum()
    assert exact.at(at[1]) == pytest.approx(direct)
    numeric = [
        (exact.at({**START, n: START[n] + 1e-5}) - exact.at({**START, n: START[n] - 1e-5})) / 2e-5 for n in START
    ]
    np.testing.assert_allclose(exact.grad(*START.values()), numeric, atol=1e-3)


def test_targets_have_files_of_their_own() -> None:
    names = [target.name for target in targets()]
    assert len(set(names)) == len(names) == 23
    assert Target("SBI", "hardness", -1.0).name == "SBI-hardness-down"


# -- the histogram -----------------------------------------------------------------------------------------------------


def test_pyhf_and_the_binned_mixture_agree() -> None:
    histogram = pytest.importorskip("analyses.interference.histogram")
    data = SMALL.problem.data(2)
    edges = histogram.bins(SMALL, "x0", 8)
    assert np.isinf(edges[[0, -1]]).all()
    counts = SMALL.sample("SBI").hist("x0", edges).values()
    assert np.abs(counts / counts.sum() - 1 / 8).max() < 2e-3
    theirs = histogram.PyhfCost(SMALL, data, "x0", edges)
    ours = histogram.templates(SMALL, "x0", edges, COEFFICIENTS)(np.histogram(data["x0"], edges)[0])
    ours = ours + constraint(SMALL.problem)
    points = [START, {**START, "mu": 0.4, "hardness": 1.5}, {**START, "mu": 2.0, "scale": -0.7, "luminosity": 0.3}]
    found = np.array([[theirs.at(p), ours(*(p[n] for n in ours._parameters))] for p in points])
    np.testing.assert_allclose(np.diff(found[:, 0]), np.diff(found[:, 1]), atol=1e-6)
    assert np.abs(np.diff(found[:, 0])).min() > 1


# -- statistics --------------------------------------------------------------------------------------------------------


def test_numbers_of_a_study_of_a_known_distribution() -> None:
    rng = np.random.default_rng(1)
    best = 1 + 0.2 * rng.standard_normal(4000)
    error = np.full(4000, 0.2)
    t = ((best - 1) / 0.2) ** 2
    found = Study(1.0, {"exact": best, "half": best}, {"exact": error, "half": error / 2}, {"exact": t, "half": 4 * t})
    exact, half = found.numbers("exact"), found.numbers("half")
    for entry in exact.values():
        assert abs(entry["value"] - entry["truth"]) <= 4 * entry["uncertainty"]
    assert half["width_ratio"]["value"] == 0.5
    assert half["pull_width"]["value"] > 1.9
    assert half["covers_68"]["value"] == pytest.approx(0.38, abs=0.03)  # erf(1/2 / sqrt 2)
    assert str(found.table()).count("\n") == 4


def test_a_report_as_tables_text_and_numbers() -> None:
    bad = Check("simulation closure", "mu", -0.3, 0.06, 0.0, 1.1e-6, True)
    good = Check("simulation closure", "signal", 0.01, 0.05, 0.0, 0.8)
    found = Report((bad, good, Check("mean ratio", "S", 1.0004, 0.001, 1.0, 0.7)), 0.01, ("samples share events",))
    assert checks.table(found).rows == [
        ["simulation closure", "2", "1", "mu", "-0.3 +- 0.06", "0", "1.1 x 10^-6"],
        ["mean ratio", "1", "0", "S", "1 +- 0.001", "1", "0.7"],
    ]
    text = checks.words(found)
    assert text.startswith("1 of 3 checks FAILED")
    assert "signal" not in text
    assert text.endswith("samples share events")
    page = checks.verdict(found).html()
    assert "p = 1.1 × 10<sup>−6</sup>" in page
    assert "look at the checks of the ratios" in page
    numbers = checks.numbers(found)
    assert numbers["checks.failed"]["value"] == 1
    assert numbers["checks.simulation closure.mu"] == {
        "value": -0.3, "uncertainty": 0.06, "truth": 0.0, "published": None}  # fmt: skip


@pytest.fixture(scope="module")
def learned(tmp_path_factory: pytest.TempPathFactory) -> Mixture:
    """A mixture learned from 12,000 events in two dimensions."""
    ratios = learn(SMALL, Learning(members=1, fast=True), tmp_path_factory.mktemp("ratios"))
    return mixture(SMALL, ratios, SMALL.reference.keep(COLUMNS).select(slice(0, None, 4)))


def without_interference(learned: Mixture) -> Mixture:
    processes = {
        name: Process(yields=learned.processes[name].yields, ratio=learned.processes[name].ratio, coefficient=c)
        for name, c in {"S": "mu", "B": 1.0}.items()
    }
    return Mixture(processes, SMALL.reference.keep(COLUMNS).select(slice(0, None, 4)), limits={"mu": (0, None)})


def test_a_small_study(learned: Mixture) -> None:
    """The bars of the slow study, loosened by 4 sigma of 20 toys and by the statistics of so small a simulation."""
    found = study(SMALL.problem, {"NSBI": learned}, toys=20, seed=1, progress=False)
    simulation = 2.5 * np.sqrt(SMALL.problem.expected() / len(SMALL.reference))  # sigmas of mu, generously
    for name, extra in (("exact", 0.0), ("NSBI", simulation)):
        numbers = found.numbers(name)
        assert abs(numbers["bias"]["value"]) < 0.1 + 4 * numbers["bias"]["uncertainty"] + extra
        assert abs(numbers["pull_width"]["value"] - 1) < 0.05 + 4 * numbers["pull_width"]["uncertainty"]
        assert abs(numbers["width_ratio"]["value"] - 1) < 0.05 + extra / 4
        for level in ("covers_68", "covers_95"):
            assert (
                abs(numbers[level]["value"] - numbers[level]["truth"]) < 4 * numbers[level]["uncertainty"] + extra / 4
            )
    assert np.corrcoef(found.best["exact"], found.best["NSBI"])[0, 1] > 0.7


def test_a_model_without_interference_fails_it(learned: Mixture) -> None:
    wrong = without_interference(learned)
    data = SMALL.problem.data(4)
    auxiliary = constraint(SMALL.problem)
    fit = intervals.fit(wrong(data) + auxiliary, {"mu": 1.0})
    right = intervals.fit(learned(data) + auxiliary, {"mu": 1.0})
    assert abs(fit.values["mu"] - 1) > 5 * fit.errors["mu"] > 0
    assert abs(right.values["mu"] - 1) < 4 * right.errors["mu"]


@pytest.mark.slow
def test_the_coverage_study(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Five dimensions, 200,000 events, 2,000 pseudo-experiments: the table of the documentation."""
    simulation = Simulation()
    ratios = learn(simulation, Learning(), tmp_path)
    reference = simulation.reference.keep(simulation.problem.columns).select(slice(0, None, 5))
    model = mixture(simulation, ratios, reference)
    found = study(simulation.problem, {"NSBI": model}, toys=2000, seed=1, executor=nu.processes(2), progress=False)
    with capsys.disabled():
        print(f"\n{found.table()}")
    numbers = found.numbers("NSBI")
    assert abs(numbers["bias"]["value"]) < 0.1
    assert abs(numbers["pull_width"]["value"] - 1) < 0.05
    assert abs(numbers["width_ratio"]["value"] - 1) < 0.05
    for level in ("covers_68", "covers_95"):
        assert abs(numbers[level]["value"] - numbers[level]["truth"]) < 2 * numbers[level]["uncertainty"]


# -- the whole ---------------------------------------------------------------------------------------------------------


def test_a_small_run_of_the_whole_analysis(fast_run: Any, tmp_path: Path) -> None:
    pytest.importorskip("pyhf")
    run = fast_run("interference", "--seed", "1")
    assert run.returncode == 0, run.stderr
    results = json.loads((tmp_path / "results.json").read_text())
    assert (results["format"], results["seed"]) == (1, 1)
    numbers = results["numbers"]
    for entry in numbers.values():
        assert set(entry) == {"value", "uncertainty", "truth", "published"}
    answers = ("exact", "exact ratios, interpolated", "NSBI", "histogram", "NSBI without nuisances")
    for name in answers:
        assert name in run.stdout
        mu = numbers[f"{name}.mu"]
        assert abs(mu["value"] - 1) < 4 * mu["uncertainty"]
        assert 0 < numbers[f"{name}.gradients"]["value"] < 60
    width = {name: numbers[f"{name}.mu"]["uncertainty"] for name in answers}
    assert width["exact ratios, interpolated"] == pytest.approx(width["exact"], rel=0.03)
    assert width["NSBI"] == pytest.approx(width["exact"], rel=0.15)
    assert width["histogram"] > 1.05 * width["exact"]
    assert width["NSBI without nuisances"] < 0.95 * width["NSBI"]
    parts = {name: numbers[f"NSBI.uncertainty.{name}"]["value"] for name in ("statistical", "norms", "shapes", "total")}
    assert parts["total"] == pytest.approx(width["NSBI"], rel=1e-3)
    # the error without nuisances, but where these are held at their best values and not at nominal ones
    assert parts["statistical"] == pytest.approx(width["NSBI without nuisances"], rel=0.1)
    assert 0 < min(parts["norms"], parts["shapes"]) < max(parts["norms"], parts["shapes"]) < parts["total"]
    assert numbers["checks.number"]["value"] == 61
    for name in ("mean ratio.S", "reliability.SBI", "variation.B, hardness = -1", "Asimov closure.mu",
                 "simulation closure.mu", "two-sample test.data and fitted mixture"):  # fmt: skip
        assert f"checks.{name}" in numbers
    assert "samples or reference share events" in run.stdout
    # the errors are those of weightings of the same events: independent samples would give mu to half of its error
    assert numbers["checks.simulation closure.mu"]["uncertainty"] < 0.15
    page = (tmp_path / "index.html").read_text()
    assert "samples or reference share events" in page
    assert page.count('src="data:image/png;base64,') == page.count("<img") == 5
    assert "http" not in page
