"""The hunt for resonances of two muons: reading files, a known peak in a known continuum, and nothing in it.

Truths written here: masses that the simulation drew, its continuum's integral, and the peak's mass and yield.
"""

from __future__ import annotations

import itertools
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy import integrate, stats

import nuinfer as nu
from analyses.dimuon_hunt import __main__ as program
from analyses.dimuon_hunt import figures
from analyses.dimuon_hunt.muons import MUON, Flat, Lists, read_pairs
from analyses.dimuon_hunt.resonances import KNOWN, Resonance, parsed, vetoed
from analyses.dimuon_hunt.search import Hunted, LogPolynomial, MuonPeak, Search, hunt, joined, measured_resolution
from analyses.dimuon_hunt.simulation import Bump, Continuum, decayed, simulate, write_csv
from nuinfer.anomaly import log_p_of_z
from nuinfer.anomaly.bump import BumpLikelihood, fit_bump, scan_toys

Floats = NDArray[np.float64]

PEAK = MuonPeak(relative_sigma=0.012)
CONTINUUM = Continuum(30_000, 18.0, 45.0)
BUMP = Bump(28.0, 300)
SEARCH = Search(PEAK, (20.0, 42.0), toys=100, seed=5)


@pytest.fixture(scope="module")
def events() -> nu.Events:
    return simulate(CONTINUUM, [BUMP], like_sign=0.1, seed=1)


@pytest.fixture(scope="module")
def found(events: nu.Events) -> Hunted:
    return hunt(masses(events), replace(SEARCH, limits=False))


@pytest.fixture(scope="module")
def nothing() -> Hunted:
    return hunt(masses(simulate(CONTINUUM, seed=2)), SEARCH)


def four(events: nu.Events, k: int) -> Floats:
    return np.stack([events[f"{name}{k}"] for name in ("E", "px", "py", "pz")], 1)


def masses(events: nu.Events) -> Floats:
    """By another formula: m^2 = 2 m_mu^2 + 2 (E1 E2 - p1 p2)."""
    first, second = four(events, 1), four(events, 2)
    return np.asarray(np.sqrt(2 * MUON**2 + 2 * (first[:, 0] * second[:, 0] - (first[:, 1:] * second[:, 1:]).sum(1))))


# -- the simulation ----------------------------------------------------------------------------------------------------


def test_decays_have_the_mass_that_was_drawn() -> None:
    """And muons their own; directions in the rest frame are even, so that shares of the energy are too."""
    drawn = np.linspace(0.5, 90.0, 4000)
    first, second = decayed(drawn, np.random.default_rng(1))
    total = first + second
    assert np.sqrt(total[:, 0] ** 2 - (total[:, 1:] ** 2).sum(1)) == pytest.approx(drawn, rel=1e-9)
    for muon in (first, second):
        square = muon[:, 0] ** 2 - (muon[:, 1:] ** 2).sum(1)
        assert square == pytest.approx(np.full(len(drawn), MUON**2), abs=1e-8 * float(muon[:, 0].max()) ** 2)
    beta = np.sqrt((total[:, 1:] ** 2).sum(1)) / total[:, 0] * np.sqrt(1 - 4 * (MUON / drawn) ** 2)
    even = (2 * first[:, 0] / total[:, 0] - 1) / beta
    assert stats.kstest(even, stats.uniform(-1, 2).cdf).pvalue > 0.01


def test_the_continuum_is_the_power_law() -> None:
    counts = [((m >= 20) & (m < 30)).sum() for m in [CONTINUUM.draw(np.random.default_rng(3))]]
    share = integrate.quad(lambda m: m**-3, 20, 30)[0] / integrate.quad(lambda m: m**-3, 18, 45)[0]
    assert CONTINUUM.expected(20, 30) == pytest.approx(30_000 * share)
    assert abs(counts[0] - 30_000 * share) < 4 * np.sqrt(30_000 * share * (1 - share))


# -- files -------------------------------------------------------------------------------------------------------------


def test_csv_and_root_give_the_masses(events: nu.Events, tmp_path: Path) -> None:
    """Opposite charges by default, which are nine in ten; all of them and those of like sign on request."""
    write_csv(tmp_path / "pairs.csv", events)
    nu.io.write_root(tmp_path / "pairs.root", events)
    opposite = events["Q1"] * events["Q2"] < 0
    for path in (tmp_path / "pairs.csv", f"{tmp_path / 'pairs.root'}:events"):
        pairs = read_pairs(path)
        assert pairs.mass == pytest.approx(masses(events)[opposite], rel=1e-6)
        assert (pairs.read, pairs.pairs, pairs.selected) == (len(events), len(events), opposite.sum())
        assert read_pairs(path, charge="any").selected == len(events)
        same = read_pairs(path, charge="same")
        assert same.mass == pytest.approx(masses(events)[~opposite], rel=1e-6)
        assert read_pairs(path, unit=1e-3, charge="any").mass == pytest.approx(1e-3 * masses(events), rel=1e-6)


def test_columns_by_other_names_and_separators(tmp_path: Path) -> None:
    """Blanks around names, semicolons, text in columns that are not asked for."""
    path = tmp_path / "other.csv"
    path.write_text("kind; a ;b;c;d;e;f;g;h\nGG;5;3;0;4;5;-3;0;4\nGT;5;0;3;4;5;0;3;4\n", encoding="utf-8")
    pairs = read_pairs(path, Flat(tuple("abcdefgh")))
    assert pairs.mass == pytest.approx([6.0, 0.0], abs=1e-6)
    with pytest.raises(TypeError, match=r"expected numbers in column 'kind', found \['GG'\]"):
        read_pairs(path, Flat(("kind", *"bcdefgh")))


def test_lists_of_muons(tmp_path: Path) -> None:
    """The two of highest transverse momentum, wherever they are in the list; one muon makes no pair."""
    pt = [[5.0, 20.0, 30.0], [10.0], [], [8.0, 9.0]]
    eta = [[0.0, 1.0, -1.0], [0.0], [], [0.5, 0.5]]
    phi = [[0.0, 0.0, 2.0], [0.0], [], [0.0, np.pi]]
    charge = [[1, 1, -1], [1], [], [-1, -1]]
    columns: dict[str, Any] = {"pt": pt, "eta": eta, "phi": phi, "charge": charge}
    lists = nu.Events({f"Muon_{name}": nu.Ragged.of(value) for name, value in columns.items()})
    path = tmp_path / "lists.root"
    nu.io.write_root(path, lists)
    exact = np.sqrt([2 * 20 * 30 * (np.cosh(2) - np.cos(2)), 2 * 8 * 9 * 2.0])  # without the muon's mass
    assert read_pairs(path, charge="any").mass == pytest.approx(exact, rel=1e-3)
    assert read_pairs(path).mass == pytest.approx(exact[:1], rel=1e-3)
    assert (read_pairs(path).read, read_pairs(path).pairs) == (4, 2)
    named = Lists(("Muon_pt", "Muon_eta", "Muon_phi"))
    assert read_pairs(path, named).selected == 2
    with pytest.raises(ValueError, match="charge: expected columns of charges to ask for 'opposite'"):
        read_pairs(path, named, charge="opposite")
    nu.io.write_root(path, lists.select([1, 2]))
    with pytest.raises(ValueError, match="expected events with two muons, found none among 2"):
        read_pairs(path)


def test_bad_files_are_told(events: nu.Events, tmp_path: Path) -> None:
    few, path = events.select(slice(0, 20)), tmp_path / "bad.csv"
    one = [name for name in few.columns if not name.endswith("2")]
    write_csv(path, few.keep(one))
    with pytest.raises(KeyError, match=r"no columns E2, px2, py2, pz2; it has one muon only"):
        read_pairs(path)
    nu.io.write_root(tmp_path / "bad.root", few.keep(one))
    with pytest.raises(KeyError, match="it has one muon only"):
        read_pairs(tmp_path / "bad.root")
    with pytest.raises(ValueError, match="expected those of two muons"):
        Flat(("E1", "px1", "py1", "pz1"))
    write_csv(path, nu.Events({"x": np.ones(3)}))
    with pytest.raises(KeyError, match=r"expected columns E1, px1, .*its columns are x; name those of this file"):
        read_pairs(path)
    write_csv(path, few)
    with pytest.raises(KeyError, match="closest: 'px1'"):
        read_pairs(path, Flat(("E1", "px_1", "py1", "pz1", "E2", "px2", "py2", "pz2")))
    with pytest.raises(FileNotFoundError, match="no such file"):
        read_pairs(tmp_path / "none.csv")
    path.write_text("E1,px1\n1,2\n1,2,3\n", encoding="utf-8")
    with pytest.raises(ValueError, match="as many columns in each row"):
        read_pairs(path)


def test_bad_four_vectors_are_told(events: nu.Events, tmp_path: Path) -> None:
    """Spacelike or not finite, with their rows; the rounding of a table is none."""
    few, path = events.select(slice(0, 20)), tmp_path / "bad.csv"
    columns = {name: np.array(few[name], np.float64) for name in few.columns}
    write_csv(path, nu.Events({**columns, "E2": np.where(np.arange(20) == 7, 0.9 * columns["E2"], columns["E2"])}))
    with pytest.raises(ValueError, match=r"muon 2: expected E of at least \|p\|, found 1 of 20 .* first at row 7 "):
        read_pairs(path)
    write_csv(path, nu.Events(columns))
    text = path.read_text(encoding="utf-8").splitlines()
    broken = text[4].split(",")
    broken[0] = "nan"
    path.write_text("\n".join([*text[:4], ",".join(broken), *text[5:]]), encoding="utf-8")
    with pytest.raises(ValueError, match=r"muon 1: expected finite values, found 1 of 20 .* rows 3 "):
        read_pairs(path)
    write_csv(path, nu.Events({name: np.round(value, 3) for name, value in columns.items()}))
    assert read_pairs(path, charge="any").mass == pytest.approx(masses(few), rel=1e-3)
    write_csv(path, nu.Events({**columns, "Q1": np.ones(20), "Q2": -np.ones(20)}))
    with pytest.raises(ValueError, match="expected pairs of same charge, found none among 20"):
        read_pairs(path, charge="same")


# -- what is known -----------------------------------------------------------------------------------------------------


def test_resonances() -> None:
    named = {each.name: each.mass for each in KNOWN}
    assert named["J/psi"] == pytest.approx(3.0969)
    assert named["Z"] == pytest.approx(91.188)
    assert [each.name for each in sorted(KNOWN, key=lambda one: one.mass)] == [each.name for each in KNOWN]
    assert parsed("X:28:0.1, Y:40:0") == (Resonance("X", 28.0, 0.1), Resonance("Y", 40.0, 0.0))
    for wrong in ("X:28", "X:a:b"):
        with pytest.raises(ValueError, match="expected NAME:MASS:WIDTH"):
            parsed(wrong)
    with pytest.raises(ValueError, match="expected a positive mass"):
        parsed("X:-1:0")
    (region,) = vetoed([Resonance("X", 100.0, 1.6)], PEAK, 5.0)  # 1.2 of the resolution: 2.0 together
    assert region == pytest.approx((90.0, 110.0))
    assert vetoed(KNOWN, PEAK, 0.0) == []


def test_bins_and_segments_are_even_in_resolution() -> None:
    """Also where that grows; cores are side by side and hold all bins."""
    search = Search(MuonPeak(relative_sigma=0.01, growth=5e-4), (10.0, 100.0))
    edges, cores = search.edges(), search.cores()
    widths = np.array([search.peak.width(m) for m in edges[:-1]])
    assert np.diff(edges) == pytest.approx(0.4 * widths)
    assert search.peak.width(100.0) == pytest.approx(100 * np.hypot(0.01, 0.05))
    assert cores[0][0] == 10.0
    assert cores[-1][1] == edges[-1] <= 100.0
    assert all(a[1] == b[0] for a, b in itertools.pairwise(cores))
    for bad, match in (((0.0, 10.0), "range: expected 0 < lower < upper"), ((10.0, 10.5), "at least 10 widths")):
        with pytest.raises(ValueError, match=match):
            Search(PEAK, bad)
    with pytest.raises(ValueError, match="resolution: expected a relative one"):
        MuonPeak(sigma=1.0)
    with pytest.raises(ValueError, match="toys: expected at least 1"):
        replace(SEARCH, toys=0)


def test_a_power_law_is_a_polynomial_of_order_1() -> None:
    """Its exponent, from an expectation without noise, and the normalisation in closed form."""
    edges = SEARCH.edges()
    exact = np.array([CONTINUUM.expected(a, b) for a, b in itertools.pairwise(edges)])
    likelihood = BumpLikelihood.binned(np.round(1e4 * exact), LogPolynomial(1), edges=edges)
    fit = fit_bump(likelihood)
    assert fit.values["c1"] == pytest.approx(-3 * np.log(edges[-1] / edges[0]) / 2, rel=1e-4)
    assert fit.background == pytest.approx(1e4 * exact, rel=1e-4)


# -- the hunt ----------------------------------------------------------------------------------------------------------


def test_the_peak_is_found(found: Hunted) -> None:
    """At its mass, within 3 errors; its yield within 3; nowhere else; globally beyond all toys."""
    first = found.found[0]
    assert first.fit is not None
    mass, error = (first.mass * values["mass_scale"] for values in (first.fit.values, first.fit.errors))
    assert abs(mass - BUMP.mass) < 3 * error
    assert error < 0.1
    assert abs(first.fit.values["width_scale"] - 1) < 3 * first.fit.errors["width_scale"]
    assert abs(first.size - BUMP.events) < 3 * first.error + 10  # at a mass of the grid, up to a quarter sigma away
    assert first.z > 6
    assert first.bound
    assert found.p.is_bound
    assert all(other.z < 3.5 for other in found.found[1:])
    assert found.hunter is not None
    ((low, high),) = found.hunter.window
    assert low < BUMP.mass < high
    assert found.hunter_p[1]


def test_the_background_is_not_drawn_to_the_peak(found: Hunted) -> None:
    """Orders are chosen without it, and toys are of what is beside it: the known continuum, within 4 errors."""
    middle = (found.edges[1:] + found.edges[:-1]) / 2
    near = np.abs(middle - BUMP.mass) < 1.5
    low, high = found.edges[:-1][near][0], found.edges[1:][near][-1]
    exact = CONTINUUM.expected(low, high)
    assert found.expected()[near].sum() == pytest.approx(exact, abs=4 * np.sqrt(exact / 5))
    segment = next(each for each in found.segments if each.core[0] <= BUMP.mass < each.core[1])
    drawn_to = fit_bump(segment.likelihood).background[np.isin(segment.likelihood.bins[:, 0], found.edges[:-1][near])]
    assert drawn_to.sum() > found.expected()[near].sum() + 0.1 * BUMP.events


def test_nothing_is_found_where_there_is_nothing(nothing: Hunted) -> None:
    assert nothing.p.p > 0.02
    assert not nothing.p.is_bound
    assert nothing.hunter_p[0] > 0.02
    assert nothing.limits is not None
    inside = (nothing.limits.observed > nothing.limits.expected[:, 0]) & (
        nothing.limits.observed < nothing.limits.expected[:, 4])  # fmt: skip
    assert inside.mean() > 0.85
    assert all(each.choice.gof[each.choice.best] > 1e-3 for each in nothing.segments)


def test_global_p_values_are_uniform(nothing: Hunted) -> None:
    """Of other toys of the same backgrounds, over all segments; local ones are not."""
    other = np.max([scan_toys(each.likelihood, each.scan.masses, toys=300, seed=100 + k,
                              values=each.without.values).largest
                    for k, each in enumerate(nothing.segments)], axis=0)  # fmt: skip
    assert stats.ks_2samp(other, nothing.toys.largest).pvalue > 0.01
    assert stats.kstest(stats.norm.sf(other), "uniform").pvalue < 1e-6


def test_known_resonances_are_left_out(events: nu.Events) -> None:
    """A peak that is known is not found, and its bins are not fitted; without a veto it is named."""
    known = (Resonance("X", 28.0, 0.0),)
    quiet = hunt(masses(events), replace(SEARCH, known=known, toys=50, limits=False))
    assert quiet.scan.z.max() < 4
    assert np.abs(quiet.scan.masses - 28.0).min() >= 5 * 0.012 * 28.0
    assert not quiet.used()[(quiet.edges[:-1] > 27) & (quiet.edges[1:] < 29)].any()
    loud = hunt(masses(events), replace(SEARCH, known=known, veto=0.0, toys=50, limits=False))
    assert loud.found[0].known == "X"
    assert loud.scan.z.max() > 6


def test_what_cannot_be_searched_is_told(events: nu.Events) -> None:
    values = masses(events)
    with pytest.raises(ValueError, match=r"range: expected at least 30 events from 200 to 400 GeV, found 0"):
        hunt(values, replace(SEARCH, range=(200.0, 400.0)))
    everything = (Resonance("all", 30.0, 10.0),)
    with pytest.raises(ValueError, match=r"expected a segment with enough events, found none: .* 0 masses"):
        hunt(values, replace(SEARCH, known=everything))
    steep = Continuum(400, 20.0, 900.0, 8.0).draw(np.random.default_rng(4))
    part = hunt(steep, replace(SEARCH, range=(20.0, 120.0), orders=(1,), toys=20, limits=False))
    assert part.skipped
    assert part.skipped[-1][0][1] == part.edges[-1]
    assert "a background needs 20 bins" in part.skipped[-1][1]
    assert not part.used()[part.edges[:-1] > part.skipped[0][0][0]].any()


def test_the_resolution_is_measured(events: nu.Events) -> None:
    """From a guess of two thirds and of twice as much; a wide resonance or none is refused."""
    many = masses(simulate(CONTINUUM, [Bump(28.0, 3000)], seed=6))
    for guess in (0.008, 0.02):
        mass, mass_error, relative, error = measured_resolution(many, Resonance("X", 28.0, 0.0),
                                                                MuonPeak(relative_sigma=guess))  # fmt: skip
        assert abs(relative - BUMP.relative) < 3 * error
        assert error < 0.001
        assert abs(mass - BUMP.mass) < 3 * mass_error
    with pytest.raises(ValueError, match="whose width is small beside the resolution"):
        measured_resolution(masses(events), Resonance("X", 28.0, 2.0), PEAK)
    with pytest.raises(ValueError, match="expected X with more than 10 standard deviations"):
        measured_resolution(masses(events), Resonance("X", 35.0, 0.0), PEAK)


# -- the program -------------------------------------------------------------------------------------------------------


def test_the_program(events: nu.Events, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A file in, and what is found of it: numbers, page and figures."""
    nu.io.write_root(tmp_path / "pairs.root", events)
    out = tmp_path / "out"
    program.main([f"{tmp_path / 'pairs.root'}:events", "--range", "20", "42", "--fast", "--out", str(out)])
    numbers = json.loads((out / "results.json").read_text(encoding="utf-8"))["numbers"]
    value = {name: entry["value"] for name, entry in numbers.items()}
    assert value["events"] == len(events)
    assert abs(value["fitted_mass"] - BUMP.mass) < 3 * numbers["fitted_mass"]["uncertainty"]
    share = (events["Q1"] * events["Q2"] < 0).mean()
    assert abs(value["fitted_yield"] - share * BUMP.events) < 3 * numbers["fitted_yield"]["uncertainty"]
    assert value["global_p"] == pytest.approx(1 / 101)
    assert value["limit.observed"] > value["yield"]
    assert value["hunter.low"] < BUMP.mass < value["hunter.high"]
    for name in ("spectrum", "p_values", "excess", "toys", "limits"):
        assert (out / f"{name}.png").stat().st_size > 5000
        assert (out / f"{name}.pdf").exists()
    page = (out / "index.html").read_text(encoding="utf-8")
    assert "http" not in page.split("</style>")[1]
    shown = capsys.readouterr().out
    assert "The greatest excesses" in shown
    assert "none of 100 toys" in shown


def test_options(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("NUINFER_FAST", raising=False)
    assert program.layout(program.parse([])) is None
    named = program.layout(program.parse(["--columns", "a,b,c,d,e,f,g,h", "--charges", "q,r"]))
    assert named == Flat(tuple("abcdefgh"), ("q", "r"))
    assert program.layout(program.parse(["--lists", "pt,eta,phi", "--charges", "q"])) == Lists(
        ("pt", "eta", "phi"), "q"
    )
    with pytest.raises(ValueError, match="expected --columns or --lists, found both"):
        program.layout(program.parse(["--lists", "pt,eta,phi", "--columns", "a,b,c,d,e,f,g,h"]))
    assert program.parse(["--fast"]).toys == 100
    assert program.parse([]).toys == 1000


def test_figures_break_where_masses_were_left_out(found: Hunted, events: nu.Events) -> None:
    """Lines do not cross a veto; the spectrum's background is that of the hunt."""
    known = (Resonance("X", 33.0, 0.0),)
    gap = hunt(masses(events), replace(SEARCH, known=known, toys=20, limits=False))
    line = figures.p_values(gap).lines[0]
    x, y = (np.asarray(data, float) for data in (line.get_xdata(), line.get_ydata()))
    inside = (x > 31.1) & (x < 34.9)
    assert inside.any()
    assert np.isnan(y[inside]).all()
    assert np.isfinite(y[~inside]).all()
    drawn = figures.spectrum(found).patches[0].get_data().values  # type: ignore[attr-defined]
    assert drawn[found.used()] == pytest.approx(found.expected()[found.used()])
    with pytest.raises(ValueError, match="expected one with limits"):
        figures.limits(gap)


def test_an_excess_beyond_the_smallest_number_is_drawn(found: Hunted) -> None:
    """Of 46 standard deviations, as a known resonance that is not left out has, whose p-value is 0."""
    scan = found.scan
    loud = replace(found, scan=replace(scan, z=np.where(scan.z > 6, 46.0, scan.z), p=np.where(scan.z > 6, 0.0, scan.p)))
    ax = figures.p_values(loud)
    drawn = np.nanmin(np.asarray(ax.lines[0].get_ydata(), float))
    assert drawn == pytest.approx(log_p_of_z(46.0) / np.log(10))  # the axis is that of log10 p
    assert ax.get_ylim()[0] <= drawn


def test_joined_scans_keep_all_masses(found: Hunted) -> None:
    scan = joined([segment.scan for segment in found.segments])
    assert (np.diff(scan.masses) > 0).all()
    assert len(scan.masses) == sum(len(segment.scan.masses) for segment in found.segments)
    assert scan.masses[scan.best] == found.found[0].mass
