"""Injected signals: what a hunt learns against theory, its efficiency, its limits."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy import special, stats

from nuinfer import metrics
from nuinfer.anomaly.bump import Exponential
from nuinfer.anomaly.hunting import Ideal, InjectionLimits, InjectionScan, hunt, injection_scan
from nuinfer.anomaly.hunting.injection import _Count, _crossing, _falling, improvement
from nuinfer.anomaly.regions import Window
from nuinfer.events import Events
from nuinfer.nets import MLP
from nuinfer.tasks import TaskError
from nuinfer.train import Training
from nuinfer.trees import Trees

Floats = NDArray[np.float64]

WINDOW = Window(signal=(2.0, 3.0), sidebands=((1.0, 2.0), (3.0, 4.0)))
TREES = Trees(iterations=15, leaves=6, min_leaf=20, patience=None)
OPTIONS: dict[str, Any] = {
    "resonance": "m", "features": ["x", "y"], "windows": WINDOW, "range": (0, 5), "bins": 25, "network": TREES,
    "members": 1, "folds": 3, "seed": 1, "progress": False,
}  # fmt: skip


def background(n: int, seed: int) -> Events:
    rng = np.random.default_rng(seed)
    mass = -3 * np.log1p(-rng.random(n) * -np.expm1(-5 / 3))
    return Events({"m": mass, "x": rng.normal(size=n), "y": rng.normal(size=n)})


def peak(n: int, seed: int, shift: float = 1.5) -> Events:
    """At 2.5, with x and y around ``shift``: at each mass t ~ N(-+ d^2/2, d^2), d = sqrt 2 shift."""
    rng = np.random.default_rng(seed)
    return Events({"m": rng.normal(2.5, 0.1, n), "x": rng.normal(shift, 1, n), "y": rng.normal(shift, 1, n)})


class TestTheory:
    @staticmethod
    def _auc(data: Events, truth: NDArray[np.bool_], score: Floats, fold: NDArray[np.int16]) -> tuple[float, float]:
        """Of signal against background in the signal region: by the score (mean over folds), and by the exact ratio."""
        inside, exact, found = WINDOW.in_signal(data["m"]), data["x"] + data["y"], []
        for k in np.unique(fold):
            one, zero = (inside & (truth == label) & (fold == k) for label in (True, False))
            found.append([metrics.roc_auc(s[one], s[zero]).value for s in (score, exact)])
        mean = np.mean(found, axis=0)
        return float(mean[0]), float(mean[1])

    def _learned(self, n: int, signal: int, options: dict[str, Any]) -> tuple[float, float]:
        data = Events.concat([background(n, 1), peak(signal, 2, shift=1.0)])
        found = hunt(data, **{**OPTIONS, **options}, background=Exponential(1), efficiencies=[0.1])
        return self._auc(data, np.arange(len(data)) >= n, found.scores[0], found.fold)

    def test_the_optimal_classifier(self) -> None:
        """With 45% of signal in the signal region and none beside it, within 0.01 of the best (slow: 0.005)."""
        network = {"network": MLP(width=16, depth=1), "folds": 2, "training": Training(epochs=10, batch=256)}
        learned, best = self._learned(20_000, 3000, network)
        assert best == pytest.approx(special.ndtr(1.0), abs=4 * 0.006)
        assert best - 0.01 < learned < best + 0.003

    @pytest.mark.slow
    @pytest.mark.parametrize("signal", [3000, 15_000])
    def test_the_optimal_classifier_within_half_a_percent(self, signal: int) -> None:
        network = {"network": MLP(width=16, depth=2), "folds": 3, "members": 2, "training": Training(batch=512)}
        learned, best = self._learned(100_000, signal, network)
        assert best - 0.005 < learned < best + 0.002

    @pytest.mark.slow
    def test_nothing_to_learn(self) -> None:
        """As much signal beside the signal region as in it: half an area, to 0.005."""
        n = 200_000
        data = background(n, 1)
        rng = np.random.default_rng(3)
        some = rng.random(n) < 0.3  # a second kind of event, of the same masses
        data = data.with_columns({name: data[name] + some for name in ("x", "y")})
        network = {"network": MLP(width=16, depth=2), "training": Training(epochs=10, batch=512)}
        found = hunt(data, **{**OPTIONS, **network}, background=Exponential(1), efficiencies=[0.1])
        assert abs(found.auc[0] - 0.5) < 0.005
        assert found.z[0, 0] < 3


@pytest.fixture(scope="module")
def scan() -> InjectionScan:
    return injection_scan(
        background(6000, 1), peak(2000, 2), [0, 50, 150, 400], **OPTIONS, shape=Exponential(1), repeats=3,
        efficiencies=[1, 0.1, 0.03], supervised=True,
    )  # fmt: skip


class TestScan:
    def test_efficiency_depends_on_the_strength(self, scan: InjectionScan) -> None:
        """With little signal it passes as background does; with more, the classifier finds it."""
        exact = special.ndtr(1.5 * np.sqrt(2) - stats.norm.isf(0.1))  # of the exact ratio, where 10% of background pass
        little, much = scan.efficiency[1, 0, 1], scan.efficiency[3, 0, 1]
        assert np.isnan(scan.efficiency[0]).all()
        assert little < much - 0.1
        assert 0.7 * exact < much < exact + 4 * np.sqrt(exact * (1 - exact) / 1200)

    def test_significance_rises(self, scan: InjectionScan) -> None:
        z = scan.significance
        assert z.shape == (4, 1, 3)
        assert (np.abs(z[0]) < 3).all()
        assert z[3, 0, 1] > z[2, 0, 1] > z[0, 0, 1]
        assert z[3, 0, 1] > z[3, 0, 0] + 3

    def test_improvement(self, scan: InjectionScan) -> None:
        """The supervised curve is the exact one; the weakly supervised ones are below, and better with more signal."""
        at = np.argmin(np.abs(scan.signal_efficiency - 0.5))
        exact = 0.5 / np.sqrt(special.ndtr(-1.5 * np.sqrt(2)))
        assert scan.supervised[0, at] == pytest.approx(exact, rel=0.25)
        assert scan.improvement[3, :, 0, at].mean() < 1.1 * exact
        assert scan.improvement[3, :, 0, at].mean() > scan.improvement[1, :, 0, at].mean() + 0.3
        assert np.isnan(scan.improvement[0]).all()

    def test_improvement_of_the_exact_score(self) -> None:
        rng = np.random.default_rng(1)
        score = np.concatenate([rng.normal(2, 1, 40_000), rng.normal(size=400_000)])
        value, error = improvement(score, np.arange(440_000) < 40_000)
        grid = np.linspace(0.02, 1.0, 50)[4:-2]
        exact = grid / np.sqrt(stats.norm.sf(2 + stats.norm.isf(grid)))
        pull = (value[4:-2] - exact) / error[4:-2]
        assert np.abs(pull).max() < 4
        assert np.sqrt(np.mean(pull**2)) > 0.2

    def test_strength_is_recovered(self, scan: InjectionScan) -> None:
        """A hunt of data with 200 signal events, whose excess is divided by nothing: the strength with that excess."""
        data = Events.concat([background(6000, 5), peak(200, 6)])
        found = hunt(data, **OPTIONS, background=Exponential(1), efficiencies=[1, 0.1, 0.03])
        excess = float(found.observed[0, 1] - found.expected[0, 1])
        estimate = scan.estimate(excess, 0, 1)
        error = float(np.hypot(found.errors[0, 1], np.sqrt(found.observed[0, 1])))
        steep = 0.7  # of passing events per injected one
        assert estimate == pytest.approx(200, abs=4 * error / steep)
        assert excess / 0.1 > 3 * estimate  # dividing by the background's efficiency does not do
        assert scan.estimate(-5.0, 0, 1) == 0
        assert np.isnan(scan.estimate(1e6, 0, 1))

    def test_limits(self, scan: InjectionScan) -> None:
        limits = scan.limits()
        assert limits.expected.shape == (1, 3, 5)
        assert (np.diff(limits.expected[0, 1]) >= 0).all()
        assert limits.expected[0, 1, 2] < limits.expected[0, 0, 2]  # selection helps
        assert limits.observed[0, 1] == pytest.approx(limits.expected[0, 1, 2])
        # without retraining: the efficiency of the strongest signal for all, which promises too much
        share = scan.passing[3].mean(0) / scan.injected[3].mean()
        constant = replace(scan, passing=scan.injected[..., None, None] * share)
        assert constant.limits().expected[0, 1, 2] < 0.8 * limits.expected[0, 1, 2]
        assert limits.cross_section(10.0, 0.5)[0] == pytest.approx(limits.observed / 5)

    def test_limits_without_a_fit(self, scan: InjectionScan) -> None:
        """One repetition whose fit failed is left out; where all failed there is no limit, and none is shown."""
        expected, errors = scan.expected.copy(), scan.errors.copy()
        expected[0, 1, 0, 1] = errors[0, 1, 0, 1] = np.nan
        expected[0, :, 0, 2] = errors[0, :, 0, 2] = np.nan
        limits = replace(scan, expected=expected, errors=errors).limits()
        assert np.isfinite(limits.expected[0, 1, 2])
        assert np.isnan(limits.expected[0, 2]).all()
        assert "efficiency number 2" not in repr(limits)

    def test_limits_rise_with_what_is_observed(self, scan: InjectionScan) -> None:
        data = hunt(background(6000, 7), **OPTIONS, background=Exponential(1), efficiencies=[1, 0.1, 0.03])
        found = [
            scan.limits(replace(data, observed=data.expected + extra * data.errors)).observed[0, 1]
            for extra in (-2, 0, 1, 2)
        ]
        assert (np.diff(found) > 0).all()
        with pytest.raises(ValueError, match="hunt: expected one of 1 windows"):
            scan.limits(hunt(background(6000, 7), **OPTIONS, background=Exponential(1), efficiencies=[0.1]))

    def test_limit_of_a_constant_efficiency_is_that_of_counting(self) -> None:
        """CLs of n = 0 is exp(-nu), whatever the background: a limit of -ln 0.05 / efficiency."""
        strengths = np.linspace(0, 40, 81)
        passing = 0.2 * strengths[:, None]
        count = _Count(3.0, 1.0)
        cls = count.at_most(0, passing).mean(1) / count.at_most(0, np.zeros(1))[0]
        assert _crossing(strengths, cls, 0.05) == pytest.approx(-np.log(0.05) / 0.2, rel=1e-6)
        assert _crossing(strengths[:10], cls[:10], 0.05) == np.inf

    def test_falling(self) -> None:
        assert _falling(np.array([1.0, 0.5, 0.7, 0.1])).tolist() == [1.0, 0.6, 0.6, 0.1]
        assert _falling(np.array([0.0, 1.0, 2.0])).tolist() == [1.0] * 3

    def test_save(self, scan: InjectionScan, tmp_path: Path) -> None:
        scan.save(tmp_path / "scan.safetensors")
        again = InjectionScan.load(tmp_path / "scan.safetensors")
        assert repr(again) == repr(scan)
        assert len(again.table()) == 12
        limits = scan.limits()
        limits.save(tmp_path / "limits.safetensors")
        assert repr(InjectionLimits.load(tmp_path / "limits.safetensors")) == repr(limits)

    def test_into_data_with_the_background_known(self) -> None:
        """No bootstrap of the background, and an ideal template: better than sidebands."""
        found = injection_scan(
            background(3000, 1), peak(500, 2), [150], **OPTIONS, shape=Exponential(1), repeats=1, bootstrap=False,
            efficiencies=[0.1], template=Ideal(background(30_000, 3)),
        )  # fmt: skip
        assert found.significance[0, 0, 0] > 4

    @pytest.mark.parametrize(
        ("strengths", "options", "message"),
        [
            ([0, 2000], {}, "signal: expected events for the largest strength"),
            ([5, 2], {}, "strengths: expected mean numbers"),
            ([-1, 2], {}, "strengths: expected mean numbers"),
            ([], {}, "strengths: expected mean numbers"),
            ([1], {"repeats": 0}, "repeats: expected an integer of at least 1"),
            ([1], {"features": ["m"]}, "features: expected columns other than the resonance"),
        ],
    )
    def test_bad(self, strengths: list[float], options: dict[str, Any], message: str) -> None:
        with pytest.raises(ValueError, match=message):
            injection_scan(background(500, 1), peak(2000, 2), strengths, **{**OPTIONS, **options},
                           shape=Exponential(1))  # fmt: skip

    def test_more_that_is_bad(self, scan: InjectionScan) -> None:
        with pytest.raises(ValueError, match="signal: expected events that weigh 1"):
            injection_scan(background(500, 1), peak(100, 2).with_weight(2.0), [1], **OPTIONS, shape=Exponential(1))
        with pytest.raises(KeyError, match="no column 'y'"):
            injection_scan(background(500, 1), peak(100, 2).keep(["m", "x"]), [1], **OPTIONS, shape=Exponential(1))
        with pytest.raises(TaskError, match=r"window 0 .* sideband events"):
            injection_scan(background(500, 1), peak(100, 2), [1], **OPTIONS, shape=Exponential(1),
                           efficiencies=[0.001])  # fmt: skip
        some = replace(scan, strengths=scan.strengths + 1)
        with pytest.raises(ValueError, match="strengths: expected 0 among them"):
            some.limits()
        with pytest.raises(ValueError, match="level: expected a confidence level"):
            scan.limits(level=95)
        with pytest.raises(ValueError, match="luminosity, acceptance"):
            scan.limits().cross_section(-1)
