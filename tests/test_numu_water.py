"""The analysis of GiBUU's events on oxygen: its detector, its model, its statistics, and a small run of the whole."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from km3net_testdata import data_path

import nuinfer as nu
from analyses import report
from analyses.numu_water import detector, model
from analyses.numu_water.__main__ import BINS, agreement

FILE = data_path("gibuu/EventOutput.Pert.00000001.root")


@pytest.fixture(scope="module")
def events() -> nu.Events:
    return detector.truth(nu.read_root(f"{FILE}:RootTuple", detector.BRANCHES, weight="weight"))


def particle(**columns: float) -> nu.Events:
    """40,000 copies of one true event, without pion or neutron unless said."""
    n = 40_000
    known = {"pmu": 20.0, "angle": 5.0, "evis": 9.0, "pion": 0.0, "pion_angle": 0.0, "neutrons": 0.0} | columns
    flags = {"background": bool(known.pop("background", False))}
    return nu.Events({name: np.full(n, value) for name, value in {**known, **flags}.items()})


# -- the file ----------------------------------------------------------------------------------------------------------


def test_weights_are_the_cross_sections_of_the_generators_own_table(events: nu.Events) -> None:
    table = Path(FILE).with_name("neutrino_absorption_cross_section_ALL.dat").read_text().splitlines()
    total, quasi_elastic, delta, high, single_pion, deep, two_nucleon = map(float, table[1].split()[1:8])
    process = events["process"]
    groups = {
        total: process > 0,
        quasi_elastic: process == 1,
        delta: process == 2,
        high: (process > 2) & (process < 32),
        single_pion: (process == 32) | (process == 33),
        deep: process == 34,
        two_nucleon: process == 35,
    }
    for expected, which in groups.items():
        weight = events.weight[which]
        assert abs(weight.sum() - expected) < 4 * np.sqrt((weight**2).sum())
    assert len(events) == 4755
    assert (events.weight < 0).sum() == 5


def test_truth_of_a_hand_made_event() -> None:
    lists = {
        "barcode": [[2212, 111, -211, 211, 2112, 421], []],
        "Px": [[0.0, 3.0, 0.0, 0.3, 0.0, 0.0], []],
        "Py": [[0.0, 0.0, 1.0, 0.4, 0.0, 0.0], []],
        "Pz": [[0.4, 4.0, 0.0, 0.0, 1.2, 2.0], []],
        "E": [[0.5, 5.1, 1.1, 0.9, 1.3, 3.0], []],
    }
    lepton = {"lepOut_Px": [0.0, 3.0], "lepOut_Py": [3.0, 0.0], "lepOut_Pz": [4.0, 4.0], "lepOut_E": [5.0, 5.0]}
    flat = {name: np.array(value) for name, value in lepton.items()}
    generated = nu.Events(
        {name: nu.Ragged.of(value) for name, value in lists.items()}
        | flat
        | {"lepIn_E": np.array([10.0, 20.0]), "evType": np.array([34, 1])}
    )
    found = detector.truth(generated)
    # kinetic energies 0.5 - 0.3, 1.1 - sqrt(0.21), 0.9 - sqrt(0.56); total energies of the pi0 and the D0
    visible = 0.2 + (1.1 - np.sqrt(0.21)) + (0.9 - np.sqrt(0.56)) + 5.1 + 3.0
    np.testing.assert_allclose(found["evis"], [visible, 0.0], atol=1e-12)
    np.testing.assert_allclose(found["neutrons"], [0.8, 0.0], atol=1e-12)
    np.testing.assert_allclose(found["pion"], [1.0, 0.0])
    np.testing.assert_allclose(found["pion_angle"], [90.0, 0.0])
    np.testing.assert_allclose(found["angle"], np.degrees(np.arctan2(3, 4)))
    np.testing.assert_allclose(found["q2"], [20.0, 40.0])
    np.testing.assert_allclose(found["y"], [0.5, 0.75])
    assert found["pi0"].tolist() == [1, 0]
    assert found["pass_truth"].tolist() == [False, False]  # beyond 20 degrees


def test_signal_background_and_fakes_are_disjoint_and_defined_by_the_truth(events: nu.Events) -> None:
    signal, background = events["pass_truth"], events["background"]
    assert not (signal & background).any()
    assert events["pi0"][background].min() == 3
    assert events["pi0"][signal].max() == 2
    assert events["pmu"][signal].min() > 3
    assert events["angle"][signal].max() < 20
    for name, edges in BINS.items():  # the bins take in the whole signal region
        assert edges[0] <= events[name][signal].min() <= events[name][signal].max() <= edges[-1]


# -- the detector ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("pmu", "angle", "background"), [(20.0, 5.0, False), (8.0, 12.0, False), (20.0, 5.0, True)])
def test_found_fraction_is_the_efficiency(pmu: float, angle: float, background: bool) -> None:
    thrown = detector.throw(particle(pmu=pmu, angle=angle, background=background), throws=1, seed=1)
    expected = 0.9 * (1 - np.exp(-pmu / 4)) * np.exp(-((angle / 30) ** 2)) * (0.6 if background else 1.0)
    sigma = np.sqrt(expected * (1 - expected) / len(thrown))
    assert abs(thrown["pass_reco"].mean() - expected) < 4 * sigma


def test_measurements_are_unbiased_and_of_the_stated_resolution() -> None:
    thrown = detector.throw(particle(angle=12.0, neutrons=2.0), throws=1, seed=2)
    found = thrown.select(thrown["pass_reco"])
    n = len(found)
    stated = {
        "pmu_reco": (20.0, 20 * np.hypot(0.06, 0.05)),
        "evis_reco": (9.0 + 0.3 * 2.0, np.sqrt(0.01 + 0.16 * 9 + (0.08 * 9) ** 2)),
    }
    for name, (mean, sd) in stated.items():
        assert abs(found[name].mean() - mean) < 4 * sd / np.sqrt(n)
        assert abs(found[name].std() / sd - 1) < 4 / np.sqrt(2 * n)
    # two projected angles of standard deviation s: <angle^2> = 12^2 + 2 s^2 exactly, its variance 4 s^2 12^2 + 4 s^4
    s = np.hypot(0.5, 3.0 / 20.0)
    sigma = np.sqrt((4 * s**2 * 12**2 + 4 * s**4) / n)
    assert abs((found["angle_reco"] ** 2).mean() - 144 - 2 * s**2) < 4 * sigma


def test_a_pion_is_taken_for_a_lost_muon_one_time_in_ten() -> None:
    thrown = detector.throw(particle(angle=120.0, pion=10.0, pion_angle=4.0), throws=1, seed=3)
    lost = 1 - 0.9 * (1 - np.exp(-5.0)) * np.exp(-16.0)
    found = thrown["pass_reco"]
    assert abs(found.mean() - 0.1 * lost) < 4 * np.sqrt(0.1 * 0.9 / len(thrown))
    sd = 10 * np.hypot(0.06, 0.025)
    assert abs(thrown["pmu_reco"][found].mean() - 10) < 4 * sd / np.sqrt(found.sum())


def test_throws_keep_parents_together_and_the_rate(events: nu.Events) -> None:
    half, other = events.split(0.5, seed=1)
    thrown = detector.throw(half, throws=5, seed=1)
    parents, copies = np.unique(thrown["parent"], return_counts=True)
    assert (copies == 5).all()
    assert np.array_equal(parents, np.sort(half["parent"]))
    assert not np.isin(parents, other["parent"]).any()
    assert len(half) + len(other) == len(np.unique(events["parent"])) == 4755
    assert thrown.sum_weights == pytest.approx(half.sum_weights, rel=1e-12)
    times = thrown.bootstrap(seed=1, group="parent").weight / thrown.weight
    assert np.ptp(times.reshape(-1, 5), axis=1).max() < 1e-12
    assert np.isnan(thrown["pmu_reco"][~thrown["pass_reco"]]).all()
    assert np.isfinite(thrown["pmu_reco"][thrown["pass_reco"]]).all()


def test_same_seed_same_events(events: nu.Events) -> None:
    first, again, other = (detector.throw(events, throws=2, seed=seed) for seed in (7, 7, 8))
    for name in [*detector.RECO, "pass_reco"]:
        np.testing.assert_array_equal(first[name], again[name])
    assert (first["pass_reco"] != other["pass_reco"]).any()


# -- the model and the statistics --------------------------------------------------------------------------------------


def test_the_other_model_is_the_documented_function() -> None:
    inputs = {
        "y": np.array([0.5, 0.0, 0.5, 0.5, 0.5, 0.5, 0.0]),
        "q2": np.array([1e9, 1e9, 0.0, 1e9, 1e9, 1e9, 0.0]),
        "process": np.array([34, 34, 1, 2, 33, 35, 2]),
        "background": np.array([False] * 6 + [True]),
    }
    expected = [1.05, 1.05 * 1.3, 1.05 * 1.25, 1.05 * 1.3, 1.05 * 1.3, 1.05 * 1.5, 1.05]
    weight = np.array([1.0, 2.0, -1.0, 1.0, 1.0, 1.0, 1.0])
    found = model.other_model(nu.Events(inputs, weight=weight))
    np.testing.assert_allclose(found.weight, weight * expected, rtol=1e-12)


def test_the_other_model_changes_shape_and_rate_of_every_spectrum(events: nu.Events) -> None:
    signal = events.select(events["pass_truth"])
    factor = model.factor(signal)
    assert 0.5 < factor.min() < factor.max() < 3
    for name, edges in BINS.items():
        before, after = (
            signal.with_weight(w).hist(name, edges).values() for w in (signal.weight, signal.weight * factor)
        )
        assert (before > 0).all()
        assert np.ptp(after / before) > 0.3
        assert nu.metrics.triangular_discriminator(before, after) > 3e-3


def test_p_values_are_uniform_for_gaussian_replicas_and_small_for_a_shift() -> None:
    rng = np.random.default_rng(1)
    mixing = rng.normal(size=(6, 6))
    found = [agreement(mixing @ rng.normal(size=6), rng.normal(size=(20, 6)) @ mixing.T) for _ in range(400)]
    chi2, p_values = np.array(found).T
    assert abs(p_values.mean() - 0.5) < 4 / np.sqrt(12 * 400)
    assert abs((p_values < 0.1).mean() - 0.1) < 4 * np.sqrt(0.09 / 400)
    # 20 replicas in 6 bins: the variance of a Hartlap-corrected chi2 is 30, that of a chi2 of 6 degrees is 12
    assert abs(chi2.mean() - 6) < 4 * chi2.std() / 20
    assert agreement(mixing @ np.full(6, 5.0), rng.normal(size=(20, 6)) @ mixing.T)[1] < 1e-3


def test_report_refuses_what_is_no_number_and_escapes_text() -> None:
    assert report.number(1, 2.0, truth=3) == {"value": 1.0, "uncertainty": 2.0, "truth": 3.0, "published": None}
    with pytest.raises(ValueError, match="expected finite numbers"):
        report.number(1.0, float("nan"))
    table = report.Table("a < b", ["", "n"], [["x", "10"], ["long", "5"]])
    assert str(table).splitlines() == ["a < b", "       n", "--------", "x     10", "long   5"]
    assert "a &lt; b" in table.html()


# -- the whole ---------------------------------------------------------------------------------------------------------


def test_a_small_run_of_the_whole_analysis(fast_run: Any, tmp_path: Path) -> None:
    run = fast_run("numu_water", "--seed", "1")
    assert run.returncode == 0, run.stderr
    assert "chi2" in run.stdout
    assert "Hartlap" in run.stdout
    results = json.loads((tmp_path / "results.json").read_text())
    assert (results["format"], results["seed"]) == (1, 1)
    assert {"nuinfer", "torch", "numpy"} <= set(results["versions"])
    numbers = results["numbers"]
    for entry in numbers.values():
        assert set(entry) == {"value", "uncertainty", "truth", "published"}
    for name, edges in BINS.items():
        bins = [numbers[f"{name}.bin{at}"] for at in range(len(edges) - 1)]
        assert all(b["value"] > 0 and 0 < b["uncertainty"] < b["value"] for b in bins)
        total = numbers[f"{name}.total"]
        assert total["value"] == pytest.approx(sum(b["value"] for b in bins))
        assert total["truth"] == pytest.approx(sum(b["truth"] for b in bins))
        assert abs(total["value"] - total["truth"]) < 4 * total["uncertainty"]
        assert numbers[f"{name}.p_value"]["value"] > 1e-4
        assert all((tmp_path / f"{name}{suffix}").stat().st_size > 5000 for suffix in (".png", ".pdf"))
    # the simulation left as it is would keep the discriminators; momentum's is hardly above the statistical 4.5e-3
    for name in ("angle", "evis"):
        assert numbers[f"{name}.triangular_after"]["value"] < 0.6 * numbers[f"{name}.triangular_before"]["value"]
    page = (tmp_path / "index.html").read_text()
    assert page.count('src="data:image/png;base64,') == page.count("<img") == 4
    assert "http" not in page
    assert "<td>evis</td>" in page
