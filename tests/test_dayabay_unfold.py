"""The step `unfold` of the Daya Bay analysis: an exact response, the covariance it is given, and A_C x truth.

Truths written here: the model's own prediction; interactions by a direct integral over the antineutrino's energy; the
covariance of the reactor spectra in prompt bins by the model's derivatives; chi-squared of thrown data.
"""

from __future__ import annotations

import itertools
import json
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

pytest.importorskip("dayabay_data_official", reason="the extra 'data' is not installed")

from analyses.dayabay import __main__ as program
from analyses.dayabay import covariance, figures, fits, unfolding
from analyses.dayabay.ibd import Constants, cross_section
from analyses.dayabay.model import Model
from analyses.dayabay.release import ISOTOPES, OUT_OF_EQUILIBRIUM
from analyses.dayabay.unfolding import BINNED, EDGES, FINE, NEAR, Points, Problem, Size
from nuinfer import intervals
from nuinfer.unfolding import Spectrum

Floats = NDArray[np.float64]


@pytest.fixture(scope="module")
def model() -> Model:
    return Model()


@pytest.fixture(scope="module")
def found(model: Model) -> intervals.Fit:
    cost = fits.covariance_cost(model, covariance.systematic(model))
    return intervals.fit(cost, model.parameters.values(fits.free_names(model)))


@pytest.fixture(scope="module")
def oscillation(found: intervals.Fit) -> dict[str, float]:
    return {name: found.values[name] for name in fits.INTEREST}


@pytest.fixture(scope="module")
def problem(model: Model, found: intervals.Fit) -> Problem:
    at = [found.names.index(name) for name in fits.INTEREST]
    return Problem.of(model, found.values, found.covariance[np.ix_(at, at)])


@pytest.fixture(scope="module")
def best(model: Model, found: intervals.Fit) -> tuple[Floats, Floats]:
    """The fitted flux: the truth in fine bins, and the model's own signal."""
    return unfolding.fine_contents(model, found.values)[1], unfolding.signal(model, found.values)


def test_the_truth_of_the_reference_folds_to_the_prediction(
    model: Model, problem: Problem, oscillation: dict[str, float]
) -> None:
    """Of Huber and Mueller, to 1e-6 in each prompt bin; not of a flux that oscillates differently."""
    folded = problem.response.fold(problem.reference)
    assert np.abs(folded / unfolding.signal(model, oscillation) - 1).max() < 1e-6
    none = unfolding.signal(model, {**oscillation, **unfolding.NO_OSCILLATION})
    assert np.abs(folded / none - 1).min() > 3e-3
    assert (problem.response.missed > 0).all()
    assert not problem.response.both_variance.any()


def test_the_truth_is_the_integral_of_flux_times_cross_section(model: Model, problem: Problem) -> None:
    """By Gauss' rule over the antineutrino's energy itself, which the response never sees; not with moved edges.

    The first bin has the model's excess at threshold, the last one energies beyond the deposited ones.
    """
    inner = EDGES[1:-1]
    exact = np.array([_interactions(model, low, high) for low, high in itertools.pairwise(inner)])
    assert np.abs(problem.reference[1:-1] / exact - 1).max() < 1e-4
    moved = np.array([_interactions(model, low, high) for low, high in itertools.pairwise(inner + 0.01)])
    assert np.abs(moved / exact - 1).max() > 1e-2


def _interactions(model: Model, low: float, high: float) -> float:
    """Between two energies, in the near detectors without oscillation."""
    release, p = model.release, model.release.parameters
    constants = Constants.of(p["pdg2024"], p["ibd_constants"])
    parts = np.linspace(low, high, 6)  # the spectra's points are 0.05 MeV apart
    x, w = np.polynomial.legendre.leggauss(6)
    half, middle = np.diff(parts)[:, None] / 2, (parts[1:] + parts[:-1])[:, None] / 2
    energy, weight = (middle + half * x).ravel(), (half * w).ravel()
    cosine, by_cosine = np.polynomial.legendre.leggauss(8)
    sigma = sum(c * cross_section(energy, np.full_like(energy, x), constants)
                for x, c in zip(cosine, by_cosine, strict=True))  # fmt: skip
    spectra = np.array([np.exp(np.interp(energy, release.spectrum_energy, np.log(s))) for s in release.spectrum])
    graph = {n: np.interp(energy, release.nonequilibrium[0], y, left=0, right=0)
             for n, y in zip(OUT_OF_EQUILIBRIUM, release.nonequilibrium[1], strict=True)}  # fmt: skip
    grown = np.array([s * (1 + graph.get(name, 0 * energy)) for name, s in zip(ISOTOPES, spectra, strict=True)])
    exposure, fuel = (t.sum(1).numpy()[NEAR].sum(0) for t in (model.exposure, model.fuel_exposure))
    spent = np.array([np.interp(energy, release.spent_fuel[0], y, left=0, right=0) for y in release.spent_fuel[1]])
    flux = exposure @ model.fissions(model.nominal).numpy() @ grown
    flux = flux + (fuel @ spent) * (model.fraction.numpy() @ spectra)
    return float((sigma * flux) @ weight)


def test_another_flux_folds_to_its_prediction(problem: Problem, best: tuple[Floats, Floats]) -> None:
    """In narrow truth bins to 2e-4; in those of the result to a statistical error or so, and that is the price."""
    fine, signal = best
    sigma = np.sqrt(np.diag(problem.covariance))
    seen = problem.fine_truth > 0
    narrow = problem.fine[:, seen] @ (fine[seen] / problem.fine_truth[seen])
    assert np.abs(narrow / signal - 1).max() < 2e-4
    wide = problem.response.fold(unfolding.merged(fine))
    assert 0.1 < (np.abs(wide - signal) / sigma).max() < 0.7


@pytest.mark.parametrize("name", BINNED)
def test_noiseless_spectra_give_the_smeared_truth(name: str, problem: Problem, best: tuple[Floats, Floats]) -> None:
    """A_C x the fitted flux, bin by bin; neither that truth itself nor the smeared reference."""
    truth = unfolding.merged(best[0])
    data = problem.with_counts(problem.response.fold(truth))
    spectrum = BINNED[name](problem, data, problem.response)
    assert np.abs(spectrum.values / spectrum.smear(truth) - 1).max() < 1e-9
    for wrong in (truth, spectrum.smear(problem.reference)):
        assert (np.abs(spectrum.values - wrong) / spectrum.uncertainty).max() > 1


@pytest.mark.parametrize("name", BINNED)
def test_the_covariance_is_the_one_given(name: str, problem: Problem) -> None:
    """Statistics alone give far smaller errors, and four times the covariance twice the errors where A_C stays."""
    spectrum = BINNED[name](problem, problem.counts, problem.response)
    statistics = replace(problem, covariance=np.diag(problem.counts))
    bare = BINNED[name](statistics, problem.counts, problem.response)
    assert bare.uncertainty.sum() < 0.6 * spectrum.uncertainty.sum()
    if name == "iterative Bayes":  # its A_C does not depend on the covariance
        double = BINNED[name](replace(problem, covariance=4 * problem.covariance), problem.counts, problem.response)
        assert double.uncertainty == pytest.approx(2 * spectrum.uncertainty)


def test_both_sides_have_the_full_covariance(
    model: Model, problem: Problem, found: intervals.Fit, oscillation: dict[str, float]
) -> None:
    """The spectra's part in truth bins folds to that of the model's derivatives; the rest is in V."""
    groups = covariance.by_group(model, oscillation)
    spectra = np.diag(np.asarray(sum(unfolding.near(unfolding.near(groups[name]).T) for name in unfolding.SPECTRA)))
    seen = problem.fine_truth > 0
    matrix = problem.fine[:, seen] / problem.fine_truth[seen]
    narrow = unfolding.spectra_covariance(model, Points.of(model), FINE)[np.ix_(seen, seen)]
    assert np.abs(np.diag(matrix @ narrow @ matrix.T) / spectra - 1).max() < 0.01
    folded = problem.response.fold(problem.response.fold(problem.reference_covariance).T)
    assert np.abs(np.diag(folded) / spectra - 1).max() < 0.1  # bins of 0.25 MeV
    others = covariance.systematic(model, found.values, without=unfolding.SPECTRA)
    without = unfolding.measured_covariance(model, found.values)
    statistics = without - unfolding.near(unfolding.near(others).T)
    assert np.diag(statistics) == pytest.approx(problem.counts, rel=0.05)
    added = np.linalg.eigvalsh(problem.covariance - without)  # two parameters of the oscillation
    assert (added > -1e-9 * added[-1]).all()
    assert (added > 1e-6 * added[-1]).sum() <= 2
    full = unfolding.near(unfolding.near(covariance.systematic(model, found.values)).T)
    assert np.abs(np.diag(full) / np.diag(problem.covariance) - 1).min() > 0.1  # V is not all of it


def test_chi2_in_shape_is_right_on_average(problem: Problem) -> None:
    """Data thrown of the reference with both covariances: 24 of 25 bins, within 4 errors; not with V alone."""
    rng, toys = np.random.default_rng(1), 150
    truths = rng.multivariate_normal(problem.reference, problem.reference_covariance, toys, method="eigh")
    noise = rng.multivariate_normal(np.zeros(26), problem.covariance, toys, method="eigh")
    right, narrow = [], []
    for truth, shift in zip(truths, noise, strict=True):
        data = problem.with_counts(problem.response.fold(truth) + shift)
        spectrum = unfolding.wiener(problem, data, problem.response)
        right.append(unfolding.compared(spectrum, problem).chi2.value)
        narrow.append(unfolding.compared(spectrum, problem, problem.reference).chi2.value)
    assert abs(np.mean(right) - 24) < 4 * np.sqrt(2 * 24 / toys)
    assert np.mean(narrow) > 100


def test_a_shape_has_no_normalisation(problem: Problem) -> None:
    spectrum = unfolding.wiener(problem, problem.counts, problem.response)
    one = unfolding.compared(spectrum, problem)
    twice = unfolding.compared(replace(spectrum, values=2 * spectrum.values,
                                       covariances={"data": 4 * spectrum.covariance}), problem)  # fmt: skip
    assert twice.ratio == pytest.approx(one.ratio)
    assert twice.error == pytest.approx(one.error)
    assert twice.chi2.value == pytest.approx(one.chi2.value, rel=1e-6)
    assert twice.total == pytest.approx(2 * one.total)
    assert one.chi2.dof == 24
    before = unfolding.before_unfolding(problem)
    assert one.chi2.value <= before.chi2.value < 1.02 * one.chi2.value  # the Wiener filter loses no information


def test_drawn_events_are_the_response(problem: Problem) -> None:
    """Each content to an event, so that OmniFold's simulation has hardly a statistical error."""
    events = unfolding.drawn(problem, 20_000, seed=1)
    unit = problem.fine_truth.sum() / 20_000
    filled = problem.response.truth.fill(events)[0]
    assert np.abs(filled - problem.reference).max() < 30 * unit  # an event in each of some 26 cells, at random sign
    seen = events.select(events["pass_reco"])
    assert np.abs(problem.response.reco.fill(seen)[0] - problem.response.both.sum(1)).max() < 40 * unit
    assert events.sum_weights == pytest.approx(problem.fine_truth.sum())
    poisson = np.sqrt(problem.reference * unit)
    assert np.sqrt(np.mean(((filled - problem.reference) / poisson) ** 2)) < 0.5


def test_omnifold_finds_another_flux(problem: Problem, best: tuple[Floats, Floats]) -> None:
    """The fitted flux, nearer by a factor of 3 than the reference that it starts from, in the bins that are seen."""
    truth = unfolding.merged(best[0])
    found = unfolding.omnifolded(problem, problem.response.fold(truth), Size(events=20_000, members=2))
    inner = slice(1, 20)
    off, start = (np.sqrt(np.mean((v[inner] / truth[inner] - 1) ** 2)) for v in (found.values, problem.reference))
    assert off < start / 3
    assert found.values.sum() == pytest.approx(truth.sum(), rel=2e-3)


def test_bad_edges_are_told(model: Model, problem: Problem) -> None:
    for wrong in (np.array([1.8, 3.01, 13.2]), np.array([2.0, 3.0, 13.2]), np.array([1.8, 3.0, 9.0])):
        with pytest.raises(ValueError, match=r"edges: expected some of 1\.8, 1\.85"):
            unfolding.merged(problem.fine_truth, wrong)
    assert unfolding.merged(problem.fine_truth, FINE) == pytest.approx(problem.fine_truth)
    with pytest.raises(ValueError, match="edges: expected some that hold all energies"):
        Points.of(model, angles=2).place(np.array([3.0, 13.2]))


def test_the_step(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A small run: what is measured, its files, and the figure."""
    monkeypatch.setattr(sys, "argv", ["dayabay", "--steps", "unfold", "--fast", "--out", str(tmp_path)])
    program.main()
    numbers = json.loads((tmp_path / "results.json").read_text(encoding="utf-8"))["numbers"]
    value = {name: entry["value"] for name, entry in numbers.items()}
    assert value["unfold.chi2.before"] == pytest.approx(85.6, abs=0.2)
    assert value["unfold.chi2.Wiener-SVD"] == pytest.approx(85.3, abs=0.2)
    for name in (*BINNED, "OmniFold"):
        assert 0.94 < value[f"unfold.yield.{name}"] < 0.96
        assert 1.06 < value[f"unfold.excess.{name}"] < 1.10
    assert all(value[f"unfold.failed.{name}"] == 0 for name in BINNED)
    assert (tmp_path / "unfolded.png").exists()
    spectrum = Spectrum.load(tmp_path / "unfolded-wiener-svd.safetensors")
    assert spectrum.density[10] == pytest.approx(value["unfold.Wiener-SVD.10"])
    shown = capsys.readouterr().out
    assert "Checks of Wiener-SVD" in shown
    assert "FAIL" not in shown


def test_the_figure(problem: Problem) -> None:
    """Ratios and the band are those of the shapes."""
    spectra = {name: method(problem, problem.counts, problem.response) for name, method in BINNED.items()}
    shapes = {name: unfolding.compared(spectrum, problem) for name, spectrum in spectra.items()}
    main, ratio = figures.unfolded(spectra, shapes, problem.reference).figure.axes
    drawn = [np.asarray(c.lines[0].get_ydata()) for c in ratio.containers]  # type: ignore[attr-defined]
    for found, one in zip(drawn, shapes.values(), strict=True):
        assert found == pytest.approx(one.ratio)
    low, high = ratio.get_ylim()
    assert all(low < (one.ratio - one.error).min() and (one.ratio + one.error).max() < high for one in shapes.values())
    assert main.get_ylabel()
    assert ratio.get_xlabel() == "antineutrino energy (MeV)"
