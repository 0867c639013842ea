"""Windows of the resonance variable."""

from __future__ import annotations

import itertools

import numpy as np
import pytest

from nuinfer.anomaly.regions import Window, sliding_windows


class TestWindow:
    def test_half_open(self) -> None:
        window = Window(signal=(2, 3), sidebands=((1, 2), (3, 4), (5, 6)))
        mass = [0.999, 1, 1.999, 2, 2.999, 3, 4, 4.5, 5, 6]
        assert window.in_signal(mass).tolist() == [False] * 3 + [True] * 2 + [False] * 5
        assert window.sideband_of(mass).tolist() == [-1, 0, 0, -1, -1, 1, -1, -1, 2, -1]
        assert (window.in_sidebands(mass) == (window.sideband_of(mass) >= 0)).all()
        assert window.range == (1.0, 6.0)

    def test_no_event_in_two(self) -> None:
        mass = np.linspace(0, 6, 601)
        window = Window(signal=(2.5, 3.5), sidebands=((0, 2.5), (3.5, 6)))
        assert (window.in_signal(mass).astype(int) + window.in_sidebands(mass) == (mass < 6)).all()

    def test_one_side_alone(self) -> None:
        assert Window(signal=(2, 3), sidebands=((3, 5),)).range == (2.0, 5.0)

    @pytest.mark.parametrize(
        ("signal", "sidebands", "message"),
        [
            ((2, 3), (), "sidebands: expected at least one"),
            ((2, 3), ((1, 2.5),), "overlaps the signal region"),
            ((2, 3), ((1, 4),), "overlaps the signal region"),
            ((2, 3), ((3, 4), (1, 2)), "expected ascending intervals"),
            ((2, 3), ((0, 1.5), (1, 2)), "expected ascending intervals"),
            ((3, 2), ((0, 1),), "signal: expected .low, high. with low < high"),
            ((2, np.inf), ((0, 1),), "signal: expected .low, high."),
            ((2, 3), ((1, 1),), "sidebands: expected .low, high."),
            ((2, 3, 4), ((0, 1),), "signal: expected .low, high."),
        ],
    )
    def test_bad(self, signal: tuple[float, float], sidebands: tuple[tuple[float, float], ...], message: str) -> None:
        with pytest.raises(ValueError, match=message):
            Window(signal=signal, sidebands=sidebands)


class TestSliding:
    def test_absolute(self) -> None:
        windows = sliding_windows((1, 11), width=1, step=0.5, sideband=2)
        assert len(windows) == 11
        assert windows[0] == Window(signal=(3, 4), sidebands=((1, 3), (4, 6)))
        assert np.allclose([w.signal[0] for w in windows], 3 + 0.5 * np.arange(11))
        assert windows[-1].range[1] == pytest.approx(11)

    def test_relative(self) -> None:
        windows = sliding_windows((2.7, 6.0), width=0.1, step=0.1, sideband=0.2, relative=True)
        assert windows[0].sidebands[0][0] == pytest.approx(2.7)
        for one, other in itertools.pairwise(windows):
            assert one.signal[1] / one.signal[0] == pytest.approx(1.1)
            assert other.signal[0] == pytest.approx(one.signal[1])
            assert one.sidebands[1][1] / one.sidebands[1][0] == pytest.approx(1.2)
        assert windows[-1].range[1] <= 6.0 < windows[-1].range[1] * 1.1

    def test_one_that_fits_exactly(self) -> None:
        assert len(sliding_windows((0, 0.3), width=0.1, step=0.1, sideband=0.1)) == 1

    @pytest.mark.parametrize("relative", [False, True])
    def test_neighbours_share_their_borders(self, relative: bool) -> None:
        """Exactly, and not but for rounding: the spectrum has no bins of width 1e-16."""
        size = (
            {"width": 0.1, "step": 0.1, "sideband": 0.15} if relative else {"width": 0.3, "step": 0.3, "sideband": 0.4}
        )
        windows = sliding_windows((2.5, 6.0), **size, relative=relative)
        assert len(windows) > 5
        for one, other in itertools.pairwise(windows):
            assert one.signal[1] == other.signal[0]

    @pytest.mark.parametrize(
        ("range", "options", "message"),
        [
            ((0, 2), {"width": 1, "step": 1, "sideband": 1}, "expected room for a window"),
            ((0, 9), {"width": 0, "step": 1, "sideband": 1}, "expected positive numbers"),
            ((0, 9), {"width": 0.1, "step": 0.1, "sideband": 0.1, "relative": True}, "expected positive masses"),
            ((9, 0), {"width": 1, "step": 1, "sideband": 1}, "range: expected .low, high."),
        ],
    )
    def test_bad(self, range: tuple[float, float], options: dict[str, float], message: str) -> None:
        with pytest.raises(ValueError, match=message):
            sliding_windows(range, **options)  # type: ignore[arg-type]
