"""BumpHunter against plain loops with scipy's Poisson numbers, and its p-values against uniform ones."""

from __future__ import annotations

import itertools
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import hist
import numpy as np
import pytest
from numpy.typing import NDArray
from scipy import stats

from nuinfer.anomaly.bump.bump_hunter import BumpHunt, bump_hunt
from nuinfer.anomaly.bump.hunter_scan import Table
from nuinfer.anomaly.significance import log_poisson_p, z_of_p
from nuinfer.plots import bumps

Floats = NDArray[np.float64]
ROOT = Path(__file__).parent.parent

BINS = 30
FALLING = 200 * np.exp(-np.arange(BINS) / 5)  # 200 to 0.6 a bin: large counts, and a tail of zeros and ones
ROUNDED = FALLING.round()


def local_p(n: float, b: float, mode: str) -> float:
    """One window, as pyBumpHunter defines it."""
    above = float(stats.poisson.sf(n - 1, b)) if n > b > 0 else 1.0
    below = float(stats.poisson.cdf(n, b)) if n < b else 1.0
    return {"excess": above, "deficit": below, "both": min(above, below)}[mode]


def statistic(
    counts: Sequence[Floats], expected: Sequence[Floats], widths: Sequence[tuple[int, int]], *, mode: str = "excess",
    sideband: int | None = None, width_step: int = 1, scan_step: Any = 1,
) -> float:  # fmt: skip
    """The largest -log p of all windows, by a loop over everything."""
    shape, margin, best = counts[0].shape, sideband or 0, 0.0
    for width in itertools.product(*(range(low, high + 1, width_step) for low, high in widths)):
        steps = [{"full": w, "half": max(1, w // 2)}.get(scan_step, scan_step) for w in width]
        places = [range(margin, b - margin - w + 1, s) for b, w, s in zip(shape, width, steps, strict=True)]
        for corner in itertools.product(*places):
            box = tuple(slice(c, c + w) for c, w in zip(corner, width, strict=True))
            inside = [(n[box].sum(), b[box].sum()) for n, b in zip(counts, expected, strict=True)]
            if sideband is not None:
                inside = [(n, b * (N.sum() - n) / (B.sum() - b))
                          for (n, b), N, B in zip(inside, counts, expected, strict=True)]  # fmt: skip
            sides = ("excess", "deficit") if mode == "both" else (mode,)
            best = max(best, *(-sum(np.log(local_p(n, b, side)) for n, b in inside) for side in sides))
    return best


def poisson(expected: Floats, count: int, seed: int = 1) -> NDArray[Any]:
    return np.random.default_rng(seed).poisson(expected, (count, *expected.shape))


# -- the statistic -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("mode", ["excess", "deficit", "both"])
@pytest.mark.parametrize(
    "options", [{}, {"scan_step": "half", "width_step": 2}, {"scan_step": "full"}, {"scan_step": 3}]
)
def test_the_statistic_is_that_of_a_plain_loop(mode: Any, options: dict[str, Any]) -> None:
    toys = poisson(FALLING, 12)
    found = bump_hunt(toys[0], FALLING, widths=(2, 7), mode=mode, pseudo_data=toys, **options)
    wanted = [statistic([toy], [FALLING], [(2, 7)], mode=mode, **options) for toy in toys]
    assert found.toys == pytest.approx(wanted, rel=1e-9)
    assert found.statistic == pytest.approx(wanted[0], rel=1e-9)


def test_windows_on_one_side_only_are_none() -> None:
    """Where no window has an excess p is 1 and t is 0, whatever the deficits are."""
    few = np.floor(FALLING / 2)
    found = bump_hunt(few, FALLING, widths=(1, 3), pseudo_data=poisson(FALLING, 50))
    assert (found.statistic, found.local_p, found.local_z, found.p_value) == (0.0, 1.0, 0.0, 1.0)
    assert np.isfinite([found.z, found.z_lower, found.p_upper]).all()
    assert bump_hunt(few, FALLING, widths=(1, 3), mode="deficit", pseudo_data=poisson(FALLING, 50)).local_z > 5


def test_counts_beyond_the_tables_are_as_exact() -> None:
    """Toys with a signal of up to 40 standard deviations, at 1e-300 and below where a plain loop has no number."""
    toys = poisson(FALLING, 6)
    toys[:, 12] += np.array([0, 60, 120, 250, 1000, 5000])
    found = bump_hunt(toys[-1], FALLING, widths=(1, 2), pseudo_data=toys)
    assert found.toys[:4] == pytest.approx([statistic([t], [FALLING], [(1, 2)]) for t in toys[:4]], rel=1e-9)
    assert found.toys[4:] == pytest.approx(-log_poisson_p(toys[4:, 12], FALLING[12]), rel=1e-12)
    assert found.bins == (slice(12, 13),)
    assert found.local_z > 80
    assert found.statistic == found.toys[-1]


@pytest.mark.parametrize("tail", ["excess", "deficit"])
@pytest.mark.parametrize("b", [0.001, 0.7, 5.0, 15.99, 16.0, 17.3, 1e3, 2e5])
def test_tables_are_exact(tail: Any, b: float) -> None:
    means = np.array([b, b / 7])
    table, sign = Table.of(means, tail), 1 if tail == "excess" else -1
    n = sign * (table.start[:, None] + np.arange(table.log_p.shape[1]))
    for row, mean, log_p in zip(n, means, table.log_p, strict=True):
        there = (row >= 0) & np.isfinite(log_p)
        there[0] = False
        assert log_p[there] == pytest.approx(log_poisson_p(row[there], mean, tail=tail), rel=1e-10, abs=1e-12)
        assert log_p[0] == 0.0
        assert (np.diff(log_p[np.isfinite(log_p)]) < 0).all()


@pytest.mark.parametrize("mode", ["excess", "both"])
def test_rectangles(mode: Any) -> None:
    expected = np.outer(FALLING[:9], np.linspace(0.3, 0.02, 7))
    toys = poisson(expected, 8)
    found = bump_hunt(toys[0], expected, widths=((1, 3), (2, 4)), mode=mode, pseudo_data=toys)
    assert found.toys == pytest.approx(
        [statistic([t], [expected], [(1, 3), (2, 4)], mode=mode) for t in toys], rel=1e-9
    )
    toys[0, 4:6, 1:4] += 25
    found = bump_hunt(toys[0], expected, widths=((1, 3), (2, 4)), mode=mode, pseudo_data=toys)
    assert found.bins == (slice(4, 6), slice(1, 4))
    assert found.window == ((4.0, 6.0), (1.0, 4.0))


def test_boxes() -> None:
    expected = np.full((4, 5, 3), 2.5)
    toys = poisson(expected, 4)
    found = bump_hunt(toys[0], expected, widths=(1, 2), pseudo_data=toys)
    assert found.toys == pytest.approx([statistic([t], [expected], [(1, 2)] * 3) for t in toys], rel=1e-9)


@pytest.mark.parametrize("mode", ["excess", "deficit", "both"])
def test_channels_multiply(mode: Any) -> None:
    one, two = FALLING[:16], 3 * FALLING[4:20]
    pseudo = {"ee": poisson(one, 10, 1), "mm": poisson(two, 10, 2)}
    data = {name: toys[0] for name, toys in pseudo.items()}
    found = bump_hunt(data, {"ee": one, "mm": two}, widths=(1, 4), mode=mode, pseudo_data=pseudo)
    pairs = zip(pseudo["ee"], pseudo["mm"], strict=True)
    wanted = [statistic(pair, [one, two], [(1, 4)], mode=mode) for pair in pairs]
    assert found.toys == pytest.approx(wanted, rel=1e-9)
    # not the sum of spectra
    both = data["ee"] + data["mm"]
    assert found.statistic != pytest.approx(statistic([both], [one + two], [(1, 4)], mode=mode), rel=1e-3)


@pytest.mark.parametrize("mode", ["excess", "deficit", "both"])
@pytest.mark.parametrize("sideband", [0, 4])
def test_sidebands(mode: Any, sideband: int) -> None:
    toys = poisson(FALLING, 12)
    options: dict[str, Any] = {"mode": mode, "sideband": sideband}
    found = bump_hunt(toys[0], FALLING, widths=(2, 7), pseudo_data=toys, **options)
    assert found.toys == pytest.approx([statistic([t], [FALLING], [(2, 7)], **options) for t in toys], rel=1e-9)
    scaled = bump_hunt(toys[0], 0.7 * FALLING, widths=(2, 7), pseudo_data=toys, **options)
    assert scaled.toys == pytest.approx(found.toys, rel=1e-8)  # the normalisation does not enter
    fixed = bump_hunt(toys[0], 0.7 * FALLING, widths=(2, 7), mode=mode, pseudo_data=toys)
    assert np.abs(fixed.toys - found.toys).max() > 1


def test_sidebands_in_channels_and_planes() -> None:
    expected = np.outer(FALLING[:6], np.linspace(0.3, 0.1, 5))
    pseudo = {"a": poisson(expected, 6, 1), "b": poisson(2 * expected, 6, 2)}
    data, spectra = {k: v[0] for k, v in pseudo.items()}, {"a": expected, "b": 2 * expected}
    found = bump_hunt(data, spectra, widths=(1, 2), sideband=1, pseudo_data=pseudo)
    pairs = zip(pseudo["a"], pseudo["b"], strict=True)
    wanted = [statistic(p, list(spectra.values()), [(1, 2)] * 2, sideband=1) for p in pairs]
    assert found.toys == pytest.approx(wanted, rel=1e-9)


def test_a_small_expectation_beside_a_large_sum_keeps_its_digits() -> None:
    """Of 1e12 events before, differences of cumulative sums leave 1e-4 of an expectation of 1e-3."""
    expected = np.array([1e12, 1e6, 1.0, 1e-3, 1e-3])
    data = np.array([1e12, 1e6, 1, 0, 2])
    found = bump_hunt(data, expected, widths=(1, 1), pseudo_data=data[None])
    assert found.statistic == pytest.approx(-log_poisson_p(2, 1e-3).item(), rel=1e-12)


@pytest.mark.parametrize("mode", ["excess", "both"])
def test_too_many_events_for_tables(mode: Any) -> None:
    """The same from tables as without: up to 3e9 events in a window, whose table would have 600,000 places."""
    expected = FALLING * 1e6
    toys = poisson(expected, 40)
    wanted = [statistic([toy], [expected], [(2, 5)], mode=mode) for toy in toys[:8]]
    toys[8, 12:14] += 100_000  # 17 standard deviations
    found = bump_hunt(toys[8], expected, widths=(2, 5), mode=mode, pseudo_data=toys)
    assert found.toys[:8] == pytest.approx(wanted, rel=1e-6)
    exact = -log_poisson_p(toys[8, 12:14].sum(), expected[12:14].sum()).item()
    assert [found.statistic, found.toys[8]] == pytest.approx([exact, exact], rel=1e-12)
    few = poisson(FALLING, 200)
    tables = bump_hunt(few[0], FALLING, widths=(2, 5), mode=mode, pseudo_data=few)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("nuinfer.anomaly.bump.hunter_scan._PLACES", 1)
        none = bump_hunt(few[0], FALLING, widths=(2, 5), mode=mode, pseudo_data=few)
    assert none.toys == pytest.approx(tables.toys, rel=1e-11)
    assert none.log_p == pytest.approx(tables.log_p, rel=1e-11)


# -- p-values ----------------------------------------------------------------------------------------------------------


def p_values(
    count: int, of: Callable[[NDArray[Any]], BumpHunt], toys: int = 1500, seed: int = 7
) -> tuple[Floats, Floats]:
    """Global and best local p-values of background-only spectra, against one set of toys."""
    data = np.random.default_rng(seed).poisson(FALLING, (count, BINS))
    found = of(np.concatenate([data, np.random.default_rng(seed + 1).poisson(FALLING, (toys, BINS))]))
    t, null = found.toys[:count], found.toys[count:]
    return (1 + (null >= t[:, None] * (1 - 1e-9)).sum(1)) / (1 + toys), np.exp(-t)


@pytest.mark.parametrize("mode", ["excess", "deficit", "both"])
def test_background_alone_has_uniform_global_p_values(mode: Any) -> None:
    """1,500 spectra: a KS p-value; the local ones of the best window are not uniform by far."""
    p, local = p_values(1500, lambda toys: bump_hunt(toys[0], FALLING, widths=(2, 6), mode=mode, pseudo_data=toys))
    assert stats.kstest(p, "uniform").pvalue > 0.01
    assert stats.kstest(local, "uniform").pvalue < 1e-30


def test_each_global_p_value_comes_from_toys_of_its_own() -> None:
    """The whole function, 200 times, with and without a floating normalisation that is 30% off."""
    data = poisson(FALLING, 200, 3)
    for options, scale in (({}, 1.0), ({"sideband": 0}, 1.3)):
        p = [
            bump_hunt(each, scale * FALLING, widths=(2, 5), toys=200, seed=k, **options).p_value
            for k, each in enumerate(data)
        ]
        assert stats.kstest(p, "uniform").pvalue > 0.01
    off = [bump_hunt(d, 1.3 * FALLING, widths=(2, 5), mode="deficit", toys=100, seed=1).p_value for d in data[:40]]
    assert np.median(off) < 0.05  # the wrong normalisation, held


def test_the_wrong_tail_is_not_uniform() -> None:
    """P(N > n) in place of P(N >= n), and toys of another width, fail the same test."""
    data, null = poisson(FALLING, 400, 1), poisson(FALLING, 400, 2)
    one = np.array([statistic([d], [FALLING], [(1, 1)]) for d in data])
    other = np.array([statistic([d - 1], [FALLING], [(1, 1)]) for d in null])
    p = (1 + (other >= one[:, None]).sum(1)) / 401
    assert stats.kstest(p, "uniform").pvalue < 1e-6
    narrow = bump_hunt(null[0], FALLING, widths=(6, 6), pseudo_data=null).toys
    p = (1 + (narrow >= one[:, None]).sum(1)) / 401
    assert stats.kstest(p, "uniform").pvalue < 1e-6


def test_systematics_make_global_p_values_larger_and_right() -> None:
    """A normalisation known to 20%, in data and toys; without it among the toys, most spectra are called bumps."""
    rng = np.random.default_rng(5)
    data = rng.poisson(FALLING * np.exp(0.2 * rng.normal(size=(200, 1))))

    def vary(rng: np.random.Generator, n: int) -> Floats:
        return np.asarray(FALLING * np.exp(0.2 * rng.normal(size=(n, 1))))

    one = [bump_hunt(d, FALLING, widths=(2, 6), toys=200, systematics=vary, seed=k).p_value for k, d in enumerate(data)]
    assert stats.kstest(one, "uniform").pvalue > 0.01
    held = [bump_hunt(d, FALLING, widths=(2, 6), toys=200, seed=k).p_value for k, d in enumerate(data[:100])]
    assert np.mean(np.array(held) < 0.05) > 0.15


def test_a_signal_is_found_where_it_is() -> None:
    data = poisson(FALLING, 1)[0] + np.round(40 * np.exp(-0.5 * (np.arange(BINS) - 15.0) ** 2))
    edges = np.linspace(1000, 4000, BINS + 1)
    found = bump_hunt(data, FALLING, edges=edges, widths=(2, 6), seed=1)
    (low, high) = found.window[0]
    assert low < 2550 < high
    assert found.signal == pytest.approx(100, abs=4 * found.signal_error)
    strength, error = found.strength(50 * np.exp(-0.5 * (np.arange(BINS) - 15.0) ** 2))
    assert strength == pytest.approx(0.8, abs=3 * error)
    inside = found.bins[0]
    assert found.observed[found.best, 0] == data[inside].sum()
    assert found.expected[found.best, 0] == pytest.approx(FALLING[inside].sum())


# -- bounds ------------------------------------------------------------------------------------------------------------


def test_no_toy_exceeding_is_a_bound_never_zero() -> None:
    data = np.round(FALLING)
    data[15] += 200
    found = bump_hunt(data, FALLING, widths=(1, 4), toys=999, seed=1)
    assert found.is_bound
    assert found.p_value == 1 / 1000
    assert found.p_upper == pytest.approx(1 - 0.05 ** (1 / 999))  # (1 - p)^999 = 5%
    assert found.z == pytest.approx(z_of_p(0.001))
    assert 2 < found.z_lower < found.z < 4
    assert "none of 999 toys" in str(found)


def test_uncertainty_of_a_global_p_value() -> None:
    """The standard deviation over 200 sets of 500 toys, whose own error is 5%; the bound covers 95%."""
    data = poisson(FALLING, 1)[0]
    truth = bump_hunt(data, FALLING, widths=(2, 4), toys=40_000, seed=0).p_value
    each = [bump_hunt(data, FALLING, widths=(2, 4), toys=500, seed=k) for k in range(1, 201)]
    assert np.std([e.p_value for e in each]) == pytest.approx(each[0].p_error, rel=0.2)
    assert 0.90 < np.mean([e.p_upper >= truth for e in each]) <= 1.0
    assert np.mean([e.p_value for e in each]) == pytest.approx(truth, abs=4 * each[0].p_error / np.sqrt(200) + 0.002)


def test_seeds_and_numbers_of_toys() -> None:
    data = poisson(FALLING, 1)[0]
    one, again, other, more = (
        bump_hunt(data, FALLING, widths=(2, 4), toys=n, seed=s).toys
        for n, s in ((200, 1), (200, 1), (200, 2), (400, 1))
    )
    assert (one == again).all()
    assert (one != other).any()
    assert (more[:200] == one).all()


def test_toys_come_in_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    """Blocks and chunks only bound the memory: the same toys, the same statistics."""
    data = poisson(FALLING, 1)[0]
    whole = [bump_hunt(data, FALLING, widths=(2, 4), toys=500, seed=1, sideband=s).toys for s in (False, 0)]
    monkeypatch.setattr("nuinfer.anomaly.bump.hunter_spectra._CELLS", 70 * BINS)
    monkeypatch.setattr("nuinfer.anomaly.bump.hunter_scan._CHUNK", 33)
    monkeypatch.setattr("nuinfer.anomaly.bump.hunter_scan._CELLS", 500)
    parts = [bump_hunt(data, FALLING, widths=(2, 4), toys=500, seed=1, sideband=s).toys for s in (False, 0)]
    assert all((w == p).all() for w, p in zip(whole, parts, strict=True))


# -- histograms and files ----------------------------------------------------------------------------------------------


def test_histograms_bring_their_edges() -> None:
    edges = np.geomspace(100, 400, BINS + 1)
    data, expected = hist.Hist.new.Var(edges).Int64(), hist.Hist.new.Var(edges).Weight()
    data[:] = poisson(FALLING, 1)[0]
    expected[:] = np.stack([FALLING, FALLING / 10], 1)
    found = bump_hunt(data, expected, widths=(2, 4), toys=100, seed=1)
    plain = bump_hunt(data.values(), FALLING, edges=edges, widths=(2, 4), toys=100, seed=1)
    assert found.window == plain.window
    assert (found.toys == plain.toys).all()
    pairs = np.stack([edges[:-1], edges[1:]], 1)
    assert bump_hunt(data.values(), FALLING, edges=pairs, toys=10, seed=1).axes[0].tolist() == edges.tolist()


@pytest.mark.parametrize("planes", [False, True])
def test_saved_and_read_again(tmp_path: Path, planes: bool) -> None:
    expected = np.outer(FALLING[:6], [1.0, 0.5, 0.2]) if planes else FALLING
    data = {"a": poisson(expected, 1)[0], "b": poisson(expected, 1, 2)[0]}
    found = bump_hunt(data, {"a": expected, "b": expected}, widths=(1, 2), toys=50, seed=1, sideband=0)
    found.save(tmp_path / "hunt.safetensors")
    again = BumpHunt.load(tmp_path / "hunt.safetensors")
    assert str(again) == str(found)
    assert again.window == found.window
    assert again.channels == ("a", "b")
    assert (again.counts == found.counts).all()
    assert [a.tolist() for a in again.axes] == [a.tolist() for a in found.axes]


def test_neither_torch_nor_scipy_is_loaded() -> None:
    """Either takes longer to import than a scan of 10,000 toys."""
    code = """
import sys
import numpy as np
from nuinfer.anomaly.bump.bump_hunter import bump_hunt
found = bump_hunt(np.full(60, 100), np.full(60, 100.0) + np.arange(60) / 100, widths=(2, 6), seed=1, toys=1000)
found.p_value, found.z
print(sorted({'torch', 'scipy', 'matplotlib', 'hist', 'iminuit'} & set(sys.modules)))
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT)
    assert done.stdout.strip() == "[]"


def test_significances_do_not_load_torch() -> None:
    code = "import sys, nuinfer.anomaly.significance; print(sorted({'torch', 'matplotlib'} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT)
    assert done.stdout.strip() == "[]"


# -- bad input ---------------------------------------------------------------------------------------------------------


def hunt(observed: Any = ROUNDED, expected: Any = FALLING, **options: Any) -> BumpHunt:
    return bump_hunt(observed, expected, **{"toys": 10, "seed": 1, "widths": (1, 2), **options})


def replaced(values: Floats, at: Any, value: float) -> Floats:
    values = values.copy()
    values[at] = value
    return values


def weighted() -> Any:
    filled = hist.Hist.new.Reg(3, 0, 1).Weight()
    filled[:] = np.array([[4.0, 9.0], [5.0, 9.0], [6.0, 9.0]])
    return filled


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        (lambda: hunt(expected=replaced(FALLING, [3, 7], 0.0), edges=10.0 * np.arange(BINS + 1)),
         r"expected something in every bin, found 2 bins of 0, first bin 3, \[30, 40\].*merge it with its neighbours"),
        (lambda: hunt(expected=replaced(FALLING, 3, -1.0)), "expected: expected contents from 0, found 1 negative"),
        (lambda: hunt(expected=replaced(FALLING, 3, np.nan)), "expected: expected finite values"),
        (lambda: hunt(replaced(FALLING.round(), 3, np.inf)), "observed: expected finite values"),
        (lambda: hunt(FALLING), "observed: expected counts, whole numbers from 0.*drawn by weight"),
        (lambda: hunt(weighted(), weighted()), "found a weighted histogram"),
        (lambda: hunt(FALLING.round()[:-1]), r"observed: expected bins of shape \(30,\), found \(29,\)"),
        (lambda: hunt(edges=np.arange(BINS)), "expected 31 edges of 30 bins"),
        (lambda: hunt(edges=replaced(np.arange(BINS + 1.0), 4, 1.5)), "expected rising numbers, found 3 and then 1.5"),
        (lambda: hunt(edges=np.stack([np.arange(BINS), np.arange(BINS) + 1.5], 1)),
         r"each bin to begin where the one before ends, found \[0, 1.5\] and then \[1, 2.5\]"),
        (lambda: hunt(edges=(np.arange(BINS + 1), np.arange(4))), "expected one array an axis, 1, found 2"),
        (lambda: hunt(widths=(2, 31)), "widths: expected at most the 30 bins that are scanned, found 31"),
        (lambda: hunt(widths=(2, 25), sideband=4), "at most the 22 bins that are scanned, found 25"),
        (lambda: hunt(widths=(3, 2)), "expected 1 <= least <= most"),
        (lambda: hunt(widths=(0, 2)), "expected 1 <= least <= most"),
        (lambda: hunt(widths=(1.5, 2)), "widths: expected whole numbers"),
        (lambda: hunt(widths=(1, 30), sideband=0), "leaves no bins beside it"),
        (lambda: hunt(sideband=15), "leaves some of 30 to scan, found 15"),
        (lambda: hunt(width_step=0), "width_step: expected whole numbers from 1"),
        (lambda: hunt(scan_step="third"), "scan_step: expected 'full', 'half' or a whole number"),
        (lambda: hunt(scan_step=(1, 1)), "scan_step: expected one value, or 1, one an axis, found 2"),
        (lambda: hunt(mode="bump"), "mode: expected 'excess', 'deficit' or 'both'"),
        (lambda: hunt(seed=None), "expected seed=, found None"),
        (lambda: hunt(toys=0), "toys: expected a whole number from 1"),
        (lambda: hunt(pseudo_data=np.zeros((5, 29))), r"expected toys \(toys, 30\), found \(5, 29\)"),
        (lambda: hunt(pseudo_data=np.full((5, 30), 0.5)), "pseudo_data: expected counts, whole numbers"),
        (lambda: hunt(systematics=lambda rng, n: FALLING), r"expected expectations of shape \(10, 30\)"),
        (lambda: hunt(systematics=lambda rng, n: np.full((n, 30), -1.0)), "systematics: expected expectations from 0"),
        (lambda: hunt({"a": FALLING.round()}, {"b": FALLING}), r"expected the channels \['a'\], found \['b'\]"),
        (lambda: hunt({"a": FALLING.round(), "b": FALLING[:9].round()}, {"a": FALLING, "b": FALLING[:9]}),
         r"observed of channel 'b': expected bins of shape \(30,\), found \(9,\)"),
        (lambda: hunt({"a": FALLING.round()}, {"a": FALLING}, pseudo_data=np.zeros((5, 30))),
         r"pseudo_data: expected a mapping of the channels \['a'\]"),
        (lambda: hunt().strength(FALLING[1:]), r"signal: expected bins of shape \(1, 30\)"),
        (lambda: hunt().strength(np.zeros(BINS)), "signal: expected some in the window"),
    ],
)  # fmt: skip
def test_bad_input_is_named(wrong: Callable[[], Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        wrong()


def test_one_channel_and_none() -> None:
    with pytest.raises(TypeError, match="a mapping of channels for both or for none"):
        hunt({"a": FALLING.round()}, FALLING)


# -- figures -----------------------------------------------------------------------------------------------------------


def test_figures_show_the_window() -> None:
    data = {"a": FALLING.round(), "b": FALLING.round()}
    data["b"][10:12] += 40
    edges = np.linspace(100, 400, BINS + 1)
    found = bump_hunt(data, {"a": FALLING, "b": FALLING}, edges=edges, widths=(2, 3), toys=50, seed=1, sideband=0)
    (low, high), scale = found.window[0], found.expected[found.best] / FALLING[found.bins].sum()
    assert (low, high) == (200.0, 220.0)
    main, below = bumps.bump_hunter(found, channel="b", xlabel="m (GeV)")
    assert [panel.patches[0].get_x() for panel in (main, below)] == [low, low]
    assert main.patches[-1].get_data().values == pytest.approx(scale[1] * FALLING)  # as normalised beside the window
    assert below.patches[-1].get_data().values[10:12].min() > 3
    lines = bumps.bump_windows(found).collections[0].get_segments()
    assert len(lines) == np.count_nonzero(found.log_p)
    assert lines[-1].tolist() == pytest.approx(np.array([[low, found.statistic], [high, found.statistic]])
                                               / [1, np.log(10)])  # fmt: skip
    assert "p <" in bumps.bump_toys(found).get_legend().get_texts()[1].get_text()


def test_figures_refuse_what_they_cannot_show() -> None:
    plane = bump_hunt(np.full((3, 4), 5.0), np.full((3, 4), 5.5), widths=(1, 2), toys=20, seed=1)
    line = hunt()
    assert bumps.bump_map(plane).patches[0].get_width() in (1.0, 2.0)
    for wrong, message in (
        (lambda: bumps.bump_hunter(plane), "expected one in 1 dimensions, found 2; use bump_map"),
        (lambda: bumps.bump_map(line), "expected one in 2 dimensions, found 1; use bump_hunter"),
        (lambda: bumps.bump_hunter(line, channel="a"), "channel: expected one of"),
        (lambda: bumps.bump_windows(line, axis=1), "axis: expected 0 to 0, found 1"),
    ):
        with pytest.raises(ValueError, match=message):
            wrong()
