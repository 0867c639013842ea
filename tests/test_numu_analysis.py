"""The cross-section analysis: its bins, the flux of its throws, and a small run of the whole."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from analyses.numu_cross_section import detector, generator, unfolding
from analyses.numu_cross_section.flux import Flux
from analyses.numu_cross_section.unfolding import RECO, TRUTH, Samples, Size


@pytest.fixture(scope="module")
def samples() -> Samples:
    return Samples.of(Size(pot=1e19, events=10_000), 1)


def test_reco_bins_halve_those_of_truth_where_there_are_events_enough() -> None:
    assert (TRUTH.size, RECO.size) == (24, 42)
    edges = [sorted({round(float(e), 9) for e in s.edges}) for s in RECO.inner or ()]
    for k, (fine, coarse) in enumerate(zip(edges, unfolding.P_EDGES, strict=True)):
        assert set(coarse) <= set(fine)
        assert len(fine) - 1 == (len(coarse) - 1) * (1 if k < 2 else 2)


def test_throws_are_carried_to_the_nominal_flux(samples: Samples) -> None:
    """The factors are 1 for the nominal flux, and undo norm and shape of another, as quadrature has them."""
    np.testing.assert_allclose(unfolding.to_nominal(samples, np.zeros((2, 3))), 1, rtol=1e-12)
    alpha = np.array([[1.0, -1.0, 0.5]])
    ratio = Flux.of(alpha[0]).integral() / Flux.of(np.zeros(3)).integral()
    found = unfolding.to_nominal(samples, alpha)[0]
    exact = generator.binned("A", TRUTH) / (generator.binned("A", TRUTH, flux=Flux.of(alpha[0])) * ratio)
    # a ratio of the same events with two weights, of which each bin has some hundred
    np.testing.assert_allclose(found, exact, rtol=0.02)
    assert np.abs(found - 1).max() > 0.05


def test_the_selection_keeps_what_a_response_takes(samples: Samples) -> None:
    simulation, background = (unfolding.selection(part) for part in (samples.simulation, samples.background))
    assert (simulation["pass_truth"] | simulation["pass_reco"]).all()
    assert background["pass_reco"].all()
    assert len(background) < len(samples.background)
    assert len(detector.either(samples.simulation)) == len(simulation)


def test_a_small_run_of_the_whole_analysis(fast_run: Any, tmp_path: Path) -> None:
    run = fast_run("numu_cross_section")
    assert run.returncode == 0, run.stderr
    results = json.loads((tmp_path / "results.json").read_text())
    assert (results["format"], results["seed"]) == (1, 1)
    numbers = results["numbers"]
    for name in ("iterative Bayes", "Wiener-SVD"):
        assert numbers[f"p.B.{name}"]["value"] > 1e-3
        found = numbers[f"events.{name}"]
        assert abs(found["value"] - found["truth"]) < 4 * found["uncertainty"]
    for name in ("OmniFold", "OmniFold, hits", "flow"):
        assert abs(numbers[f"events.{name}"]["value"] / numbers[f"events.{name}"]["truth"] - 1) < 0.06
    assert "Checks of Wiener-SVD" in run.stdout
    page = (tmp_path / "index.html").read_text()
    assert page.count('src="data:image/png;base64,') == page.count("<img") == 11
    assert "http" not in page
