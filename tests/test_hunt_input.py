"""What hunts, windows and scans say of bad input, and of fits that fail."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from scipy import stats
from stored_anomaly import hunt_record, injection

import nuinfer.anomaly.hunting.search
from nuinfer import Events, Trees
from nuinfer.anomaly import Cathode, bump_hunt, hunt, injection_scan, sliding_windows
from nuinfer.anomaly.bump import (
    Bernstein,
    BumpLikelihood,
    Dijet,
    Exponential,
    GaussianPeak,
    scan_masses,
)
from nuinfer.anomaly.hunting import Hunt
from nuinfer.anomaly.regions import Window

RNG = np.random.default_rng(1)
MASS, X = RNG.exponential(3.0, 1500) % 6, RNG.normal(size=1500)
EVENTS, SIGNAL = Events({"m": MASS, "x": X}), Events({"m": RNG.normal(3, 0.1, 300), "x": RNG.normal(2.5, 0.3, 300)})
WINDOW = Window(signal=(2.7, 3.3), sidebands=((1.5, 2.7), (3.3, 4.5)))
SEARCH: dict[str, Any] = {"resonance": "m", "features": ["x"], "windows": WINDOW, "network": Trees(min_leaf=20),
                          "folds": 2, "members": 1, "efficiencies": [1, 0.1], "bins": 20, "seed": 1,
                          "progress": False}  # fmt: skip


def searched(events: Any = EVENTS, **options: Any) -> Hunt:
    return hunt(events, **{**SEARCH, "background": Exponential(1), **options})


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"windows": None}, TypeError, "windows: expected Window.*, found None"),
        ({"background": "dijet"}, TypeError, "background: expected a BackgroundShape, found 'dijet'"),
        ({"background": Exponential}, TypeError, r"found the class Exponential; call it, as in Exponential\(...\)"),
        ({"template": "cathode"}, TypeError, "template: expected a BackgroundTemplate, found 'cathode'"),
        ({"template": Cathode}, TypeError, "template: expected a BackgroundTemplate, found the class Cathode"),
        ({"events": {"m": MASS, "x": X}}, TypeError, "events: expected nuinfer.Events, found dict"),
        ({"events": EVENTS.select(slice(0, 0))}, ValueError, "events: expected some, found none"),
        ({"events": EVENTS.with_columns(m=np.where(MASS > 5, np.nan, MASS))}, ValueError, "column 'm': .* not finite"),
        ({"folds": 5000}, ValueError, "in each of 5000 folds, found 1[0-9][0-9] events, none of them in 4[89]"),
        ({"range": 5}, ValueError, "range: expected .low, high.*found 5"),
        ({"toys": -1}, ValueError, "toys: expected an integer of at least 0, found -1"),
        ({"importance": -1}, ValueError, "importance: expected an integer of at least 0"),
        ({"seed": None}, ValueError, "seed: expected an integer, found None"),
    ],
)
def test_hunts_say_what_is_wrong(options: dict[str, Any], error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message) as raised:
        searched(**options)
    assert len(str(raised.value)) < 400


def test_too_small_efficiencies_are_refused_before_the_training(monkeypatch: pytest.MonkeyPatch) -> None:
    def train(*_: object, **__: object) -> None:
        raise AssertionError("trained")

    monkeypatch.setattr(nuinfer.anomaly.hunting.search, "fit_problems", train)
    with pytest.raises(AssertionError, match="trained"):
        searched()
    with pytest.raises(ValueError, match=r"window 0 .*at least 20 sideband events.*efficiency of 0\.01"):
        searched(efficiencies=[1, 0.01])


def test_failed_fits_are_named() -> None:
    """A dijet function has no values below 0: the reason is in the repr, and there is no Z."""
    found = searched(range=(-1, 6), background=Dijet(3))
    assert np.isnan(found.z).all()
    assert "2 of 2 tests WITHOUT A FIT" in repr(found)
    assert "the first of them: no fit: range: expected masses between 0" in repr(found)


def test_repr_has_the_significance_of_its_p() -> None:
    p = hunt_record().p.min()
    assert f"smallest p = {p:.3g} (Z = {stats.norm.isf(p):.2f})" in repr(replace(hunt_record(), z=hunt_record().z + 1))


def test_windows_of_a_hunt() -> None:
    for window in (-1, 1):  # the last one is not that before the first
        with pytest.raises(ValueError, match=f"window: expected a number from 0 to 0, found {window}"):
            hunt_record().mask(window, 0.5)


@pytest.mark.parametrize("sidebands", [None, (), (2, 3), "ab"])
def test_sidebands_are_pairs(sidebands: Any) -> None:
    with pytest.raises(ValueError, match="sidebands: expected"):
        Window(signal=(3, 4), sidebands=sidebands)


def test_widths_are_numbers() -> None:
    with pytest.raises(ValueError, match="expected positive numbers, found 'a'"):
        sliding_windows((1, 4), width="a", step=0.1, sideband=0.1)  # type: ignore[arg-type]


def test_signals_that_no_window_sees_are_refused() -> None:
    """As one in GeV, where the data are in TeV."""
    options = {**SEARCH, "shape": Exponential(1), "repeats": 1}
    with pytest.raises(ValueError, match=r"some signal region \(2.7 to 3.3\), found none of 300, whose 'm' goes from"):
        injection_scan(EVENTS, SIGNAL.with_columns(m=1000 * SIGNAL["m"]), [0, 20], **options)
    with pytest.raises(TypeError, match="hunt: expected a Hunt, found Events"):
        injection().limits(EVENTS)  # type: ignore[arg-type]


def test_scans_name_limits_and_failures() -> None:
    counts = np.random.default_rng(1).poisson(0.3 * np.exp(-np.arange(110) / 10))
    sparse = BumpLikelihood.binned(counts, Bernstein(4), GaussianPeak(sigma=1.6), edges=np.linspace(105, 160, 111))
    scan = scan_masses(sparse, [125.0, 150.0])
    assert f"the background's {', '.join(scan.background.at_limit)} at a limit" in repr(scan)
    assert scan.background.at_limit
    assert "1 with the yield at a limit" in repr(replace(scan, at_limit=np.array([True, False])))
    none = replace(scan, z=np.full(2, np.nan))
    assert "2 failed" in repr(none)
    with pytest.raises(ValueError, match="scan: expected a fit that succeeded, found none at 2 masses"):
        _ = none.best
    with pytest.raises(ValueError, match="masses: expected at least one, found none"):
        scan_masses(sparse, [])


def test_bumps_need_shapes_and_numbers() -> None:
    with pytest.raises(TypeError, match="background: expected a BackgroundShape, found 'exp'"):
        BumpLikelihood.binned([5, 4, 3], "exp", edges=[0, 1, 2, 3])  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="signal: expected a SignalShape, found the class GaussianPeak"):
        BumpLikelihood.binned([5, 4, 3], Exponential(1), GaussianPeak, edges=[0, 1, 2, 3])  # type: ignore[arg-type]
    with pytest.raises(ValueError, match=r"sideband: expected a number of bins.*found True; 0 normalises"):
        bump_hunt([5, 4, 3, 4], [4.0, 4, 4, 4], sideband=True, toys=10, seed=1)
