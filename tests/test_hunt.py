"""The hunt: folds, thresholds, counts, what it finds and what it refuses.

Masses fall as exp(-m / 3) from 0 to 5; features are normal, whatever the mass is, unless a test says otherwise.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy import special, stats

from nuinfer.anomaly.bump import BumpLikelihood, Exponential, window_counts
from nuinfer.anomaly.hunting import Hunt, Ideal, excess_p, hunt, sidak
from nuinfer.anomaly.hunting.classifiers import Joined, Learner, Problem, fit_problems
from nuinfer.anomaly.hunting.counting import count_window, crossed_error, passed, spectrum_edges, thresholds_of
from nuinfer.anomaly.regions import Window, sliding_windows
from nuinfer.anomaly.templates import Sidebands
from nuinfer.events import Events, Ragged
from nuinfer.features import Features
from nuinfer.nets import MLP, DeepSet
from nuinfer.resample import Resample
from nuinfer.train import Training
from nuinfer.trees import Trees

Floats = NDArray[np.float64]

WINDOW = Window(signal=(2.0, 3.0), sidebands=((1.0, 2.0), (3.0, 4.0)))
TREES = Trees(iterations=15, leaves=6, min_leaf=20, patience=None)
SMALL: dict[str, Any] = {
    "resonance": "m", "features": ["x", "y"], "windows": WINDOW, "background": Exponential(1), "range": (0, 5),
    "bins": 25, "network": TREES, "members": 1, "folds": 3, "seed": 1, "progress": False,
}  # fmt: skip


def masses(n: int, rng: np.random.Generator) -> Floats:
    return np.asarray(-3 * np.log1p(-rng.random(n) * -np.expm1(-5 / 3)))


def sample(n: int, seed: int, signal: int = 0) -> Events:
    """Background, and behind it a signal at 2.5 with x, y around 2."""
    rng = np.random.default_rng(seed)
    mass = np.concatenate([masses(n, rng), rng.normal(2.5, 0.1, signal)])
    x, y = (np.concatenate([rng.normal(0, 1, n), rng.normal(2, 0.5, signal)]) for _ in range(2))
    return Events({"m": mass, "x": x, "y": y})


@pytest.fixture(scope="module")
def events() -> Events:
    return sample(8000, 1, signal=150)


@pytest.fixture(scope="module")
def found(events: Events) -> Hunt:
    windows = sliding_windows((0.5, 4.5), width=1.0, step=0.5, sideband=1.0)
    return hunt(events, **{**SMALL, "windows": windows, "efficiencies": [1, 0.1, 0.02]}, importance=2)


class TestFolds:
    def test_networks_never_saw_what_they_score(self) -> None:
        """Of each network's training and held-out rows, none is in the fold that it scores, nor of another problem."""
        ids, problem = np.arange(3000) * 7, np.repeat([0, 1, 2], 1000).astype(np.int16)
        joined = Joined(seed=3, members=2, folds=4, problems=3, validation=0.2).about(ids, problem)
        rows, fold = np.arange(3000), Resample(seed=3, folds=4).fold_of(ids)
        seen = np.zeros(joined.networks, int)
        for j in range(3):
            for k in range(4):
                for network in joined.numbers(j, k):
                    train, held = (joined.times(network, rows, held_out=h).astype(bool) for h in (False, True))
                    assert not (train & held).any()
                    assert ((train | held) == ((problem == j) & (fold != k))).all()
                    seen[network] += 1
        assert (seen == 1).all()

    def test_sequential_networks_saw_earlier_folds_only(self) -> None:
        ids = np.arange(2000)
        joined = Joined(seed=3, members=2, folds=4, problems=1, validation=0.2, first=1).about(
            ids, np.zeros(2000, np.int16))  # fmt: skip
        fold = Resample(seed=3, folds=4).fold_of(ids)
        for k in (1, 2, 3):
            for network in joined.numbers(0, k):
                assert (joined.counted(network, ids).astype(bool) == (fold < k)).all()

    def test_a_problem_alone_and_among_others(self) -> None:
        """Trees of one problem are the same whether others are trained beside it or not."""
        parts, learner = [], Learner(network=TREES, folds=2, validation=0.0)
        for seed in (1, 2):
            rng = np.random.default_rng(seed)
            inputs = [Features(["x"]).tensors(Events({"x": rng.normal(s, 1, 400)})) for s in (0.5, 0.0)]
            ids = [np.arange(400) + 1000 * k for k in (2 * seed, 2 * seed + 1)]
            parts.append(Problem.of("p", (inputs[0], np.ones(400), ids[0]), (inputs[1], np.ones(400), ids[1])))
        alone, both = (fit_problems(p, Features(["x"]).shape, learner, seed=1) for p in (parts[1:], parts))
        at = parts[1]
        assert np.allclose(alone[0].log(at.inputs, at.id), both[1].log(at.inputs, at.id))

    def test_all_folds_are_scored(self, found: Hunt) -> None:
        assert np.isfinite(found.scores).all()
        assert np.bincount(found.fold).min() > 0.9 * len(found.mass) / 3

    def test_sequential_leaves_the_first_fold_out(self, events: Events) -> None:
        part = hunt(events, **SMALL, crossing="sequential", efficiencies=[1, 0.1])
        assert (np.isnan(part.scores[0]) == (part.fold == 0)).all()
        assert not part.mask(0, 1.0)[part.fold == 0].any()
        assert part.mask(0, 1.0)[part.fold > 0].all()
        assert part.z[0, 1] > 4  # and the signal is there


class TestThresholds:
    @pytest.mark.parametrize("ties", [False, True])
    def test_stated_efficiency_in_each_fold(self, ties: bool) -> None:
        rng = np.random.default_rng(1)
        n, folds, efficiencies = 10_000, 4, np.array([1.0, 0.3, 0.01])
        score = rng.integers(0, 5, n).astype(float) if ties else rng.normal(size=n)
        fold, side, tie = rng.integers(0, folds, n).astype(np.int16), rng.random(n) < 0.5, rng.random(n)
        cuts = thresholds_of("w", score, tie, fold, side, efficiencies, folds, 1)
        level = passed(cuts, score, tie, fold)
        for e, efficiency in enumerate(efficiencies):
            for k in range(folds):
                rows = side & (fold == k)
                assert (level[rows] > e).sum() == round(efficiency * rows.sum())
            assert level[level > e].min() == e + 1  # who passes a tighter cut passes the looser one

    def test_of_a_hunt(self, found: Hunt) -> None:
        for number, window in enumerate(found.windows):
            side = window.in_sidebands(found.mass)
            for efficiency in found.efficiencies:
                for k in range(3):
                    rows = side & (found.fold == k)
                    assert found.mask(number, efficiency)[rows].sum() == round(efficiency * rows.sum())


class TestCounts:
    def test_as_window_counts(self, found: Hunt) -> None:
        """The same numbers as the bump engine's, where folds add nothing (an efficiency of 1)."""
        windows = found.windows
        counts, _ = np.histogram(found.mass, found.edges)
        engine = window_counts(BumpLikelihood.binned(counts, Exponential(1), edges=found.edges),
                               [w.signal for w in windows])  # fmt: skip
        assert np.allclose(found.observed[:, 0], engine.observed)
        assert np.allclose(found.expected[:, 0], engine.expected, rtol=1e-6)
        assert np.allclose(found.errors[:, 0], engine.errors, rtol=1e-4)
        assert np.allclose(found.p[:, 0], engine.p, rtol=1e-3)
        assert found.status == ("",) * 9

    def test_what_crossed_folds_add(self) -> None:
        """The covariance of two folds that select by each other's fluctuations, by simulation of many cells."""
        rng, efficiency, cells = np.random.default_rng(1), 0.2, 400
        a, b = rng.normal(size=(2, 20_000, cells))
        cut = -special.ndtri(efficiency)
        total = (a * (b > cut)).sum(1) + (b * (a > cut)).sum(1)
        variance = total.var() / (2 * efficiency * cells)  # over that of independent folds
        expected = (crossed_error(100.0, 0.0, efficiency) ** 2 + 100) / 100
        assert variance == pytest.approx(expected, abs=4 * expected * np.sqrt(2 / 20_000))
        assert expected > 1.3
        assert crossed_error(100.0, 3.0, 1.0) == 3.0

    def test_excess_p_is_that_of_a_gamma_mean(self) -> None:
        b, sigma, n = 10.0, 2.0, 17
        m, tau = (b / sigma) ** 2, b / sigma**2
        means = stats.gamma.ppf((np.arange(20_000) + 0.5) / 20_000, m + 1, scale=1 / tau)
        assert excess_p(n, b, sigma) == pytest.approx(stats.poisson.sf(n - 1, means).mean(), rel=2e-4)
        assert excess_p(0, b, sigma) == 1
        random = excess_p(np.full(2000, n), b, sigma, ties="random", seed=1)
        assert random.min() > excess_p(n + 1, b, sigma)
        assert random.max() < excess_p(n, b, sigma)

    def test_edges_have_the_borders(self) -> None:
        edges = spectrum_edges((0, 5), [WINDOW, Window(signal=(2.47, 2.53), sidebands=((1, 2),))], 25)
        assert {2.0, 2.47, 2.53, 3.0} <= set(edges.tolist())
        assert (np.diff(edges) > 0.04).all()
        assert edges[0] == 0
        assert edges[-1] == 5

    def test_a_fit_that_fails_is_named(self) -> None:
        rng = np.random.default_rng(1)
        inside = rng.uniform(2, 3, 20)
        nothing = count_window(inside, np.linspace(0, 5, 26), WINDOW, Exponential(1))
        assert nothing.observed == 20
        assert np.isnan([nothing.p, nothing.z, nothing.expected]).all()
        assert nothing.status.startswith("no fit: ")

    def test_a_fit_at_a_limit_is_named(self, monkeypatch: pytest.MonkeyPatch) -> None:
        from nuinfer.anomaly.bump import Bernstein

        rng = np.random.default_rng(1)
        steep = rng.exponential(0.15, 3000)
        limited = count_window(steep[steep < 5], np.linspace(0, 5, 26), WINDOW, Bernstein(3))
        assert "at a limit" in limited.status
        assert np.isnan(limited.p)
        assert np.isnan(limited.z)


class TestFinding:
    def test_the_signal(self, found: Hunt) -> None:
        assert found.best[0] == 1
        assert found.p[found.best] < 1e-6
        assert found.z[1, 0] < found.z[1, 1:].min() - 3
        assert found.z[1, 1:].min() > 5
        assert found.auc[1] > 0.5 + 2 * found.auc_error[1]

    def test_selected_events(self, found: Hunt, events: Events) -> None:
        kept = found.selected(events, 1, 0.02)
        assert set(kept.columns) == {"m", "x", "y", "score"}
        assert len(kept) == found.mask(1, 0.02).sum()
        truth = np.isin(kept.id, events.id[8000:])
        assert truth.sum() > 0.6 * 150
        with pytest.raises(ValueError, match="expected the 8150 events of the hunt"):
            found.selected(events.select(slice(0, 100)), 1, 0.02)
        with pytest.raises(ValueError, match="expected one of"):
            found.mask(1, 0.5)

    def test_importance(self, found: Hunt) -> None:
        """Both features tell the signal; in a copy of the problem, one is noise."""
        assert found.importance.shape == (3, 2)
        assert (found.importance[1] > 0.002).all()
        rng = np.random.default_rng(2)
        mass = masses(4000, rng)
        wanted = ((mass >= 2) & (mass < 3)) * 1.5
        told = Events({"m": mass, "x": rng.normal(wanted), "y": rng.normal(size=4000)})
        worth = hunt(told, **SMALL, efficiencies=[1, 0.1], importance=2)
        assert worth.importance[0, 0] > 0.15 > 0.02 > abs(worth.importance[0, 1])

    def test_sculpting_is_seen(self, found: Hunt) -> None:
        assert found.sculpting_p[1] > 0.001
        assert found.sculpting[1].bins[:, 0].min() >= 1.0
        rng = np.random.default_rng(3)
        mass = masses(6000, rng)
        follows = Events({"m": mass, "x": rng.normal(3 * np.abs(mass - 2.2)), "y": rng.normal(size=6000)})
        carved = hunt(follows, **SMALL, efficiencies=[0.1])
        assert carved.sculpting_p[0] < 1e-6
        assert "THE SCORE FOLLOWS THE MASS in windows [0]" in repr(carved)

    def test_networks_of_all_windows_train_together(self, events: Events) -> None:
        windows = sliding_windows((0.5, 4.5), width=1.0, step=0.5, sideband=1.0)
        options = {**SMALL, "windows": windows, "network": MLP(width=16, depth=2), "folds": 2, "members": 2}
        part = hunt(events, **options, training=Training(epochs=8, batch=128), efficiencies=[0.05])
        assert part.best[0] == 1
        assert part.z[1, 0] > 5

    def test_weighted_reference(self, events: Events) -> None:
        """Background events from elsewhere, whose weights give them the right shape; without weights it is wrong."""
        rng = np.random.default_rng(4)
        mass, x = masses(9000, rng), rng.normal(0, 1.3, 9000)
        weight = stats.norm.pdf(x) / stats.norm.pdf(x, scale=1.3)
        other = Events({"m": mass, "x": x, "y": rng.normal(size=9000)}, weight=weight)
        data = sample(8000, 5)
        x, inside = np.abs(data["x"]), WINDOW.in_signal(data["m"])

        def gap(reference: Events) -> float:
            """By how much the mean score of narrow x exceeds that of wide x; exact: 0, or log 1.3 and more."""
            score = hunt(data, **SMALL, template=Ideal(reference), efficiencies=[1, 0.1]).scores[0]
            return float(score[inside & (x < 0.5)].mean() - score[inside & (x > 1.5)].mean())

        assert abs(gap(other)) < 0.2 < 0.4 < gap(other.with_weight(1.0))

    def test_ragged_events(self) -> None:
        """Clouds of 2 to 6 numbers: those of the signal are shifted by 1.5."""
        rng = np.random.default_rng(6)
        mass = np.concatenate([masses(3000, rng), rng.normal(2.5, 0.1, 150)])
        counts = rng.integers(2, 7, 3150)
        values = rng.normal(size=counts.sum()) + np.repeat(np.arange(3150) >= 3000, counts) * 1.5
        data = Events({"m": mass, "hits.q": Ragged(values, np.concatenate([[0], np.cumsum(counts)]))})
        options = {**SMALL, "features": Features(hits=["q"]), "network": DeepSet(width=16, latent=8), "folds": 2}
        part = hunt(data, **options, training=Training(epochs=10, batch=128), efficiencies=[0.05], importance=1)
        assert part.z[0, 0] > 4
        assert part.importance.shape == (1, 1)
        assert part.importance[0, 0] > 0


class TestResult:
    def test_sidak(self, found: Hunt) -> None:
        assert sidak(0.01, 27) == pytest.approx(1 - 0.99**27, rel=1e-12)
        assert sidak(1e-20, 27) == pytest.approx(27e-20)
        assert sidak(1.0, 3) == 1.0
        bound = found.global_p
        assert bound.is_bound
        assert bound.tests == 9
        assert "upper bound" in bound.words
        assert bound.p == pytest.approx(-np.expm1(9 * np.log1p(-found.p[found.best])))
        assert "<=" in repr(bound)

    def test_sidak_is_exact_for_independent_tests(self) -> None:
        p = np.random.default_rng(1).random((4000, 27)).min(1)
        assert stats.kstest([sidak(float(v), 27) for v in p], "uniform").pvalue > 0.01
        assert stats.kstest(p, "uniform").pvalue < 1e-6

    def test_save(self, found: Hunt, tmp_path: Path) -> None:
        found.save(tmp_path / "hunt.safetensors")
        again = Hunt.load(tmp_path / "hunt.safetensors")
        assert repr(again) == repr(found)
        assert again.windows == found.windows
        assert (again.level == found.level).all()
        assert again.status == found.status
        assert (again.mask(1, 0.02) == found.mask(1, 0.02)).all()
        assert again.table() == found.table()
        assert len(found.table()) == 9

    def test_what_plots_need(self, found: Hunt) -> None:
        assert found.counts.shape == found.background.shape == found.band.shape == (3, 3, len(found.edges) - 1)
        assert np.allclose(found.counts[:, 0], np.histogram(found.mass, found.edges)[0])
        edges, mean, error = found.profile(1, bins=10)
        assert len(edges) == 11
        assert np.isfinite(mean).all()
        assert (error > 0).all()
        at = (found.mass >= edges[3]) & (found.mass < edges[4])
        assert mean[3] == pytest.approx(found.scores[1][at].mean())

    def test_same_seed_same_hunt(self, events: Events) -> None:
        one, other, third = (hunt(events, **{**SMALL, "seed": seed}, efficiencies=[0.1]) for seed in (5, 5, 6))
        assert (one.scores == other.scores).all()
        assert not (one.scores == third.scores).all()

    def test_order_of_events_does_not_matter(self, events: Events) -> None:
        turned = events.select(np.arange(len(events))[::-1])
        one, other = (hunt(e, **SMALL, efficiencies=[0.1]) for e in (events, turned))
        assert (one.fold == other.fold[::-1]).all()
        assert one.observed == pytest.approx(other.observed, abs=3)

    def test_goes_on_from_a_checkpoint(self, events: Events, tmp_path: Path) -> None:
        options = {**SMALL, "network": MLP(width=8, depth=1), "folds": 2}
        short = {"training": Training(epochs=3, batch=256), "efficiencies": [0.1]}
        one, other = (hunt(events, **options, **short, checkpoint=tmp_path / "a") for _ in range(2))
        assert (one.scores == other.scores).all()
        assert (tmp_path / "a" / "training-000.safetensors").exists()


class TestRefusals:
    @pytest.mark.parametrize(
        ("options", "message"),
        [
            ({"features": ["x", "m"]}, "features: expected columns other than the resonance 'm'"),
            ({"efficiencies": [0.0, 0.1]}, "efficiencies: expected fractions above 0 and up to 1"),
            ({"efficiencies": [1.1]}, "efficiencies: expected fractions above 0 and up to 1"),
            ({"efficiencies": []}, "efficiencies: expected fractions"),
            ({"efficiencies": [0.0005]}, "window 0 .signal region 2 to 3.: expected at least 20 sideband events"),
            ({"windows": Window(signal=(5.5, 6), sidebands=((3, 5.5),)), "range": None}, "window 0 .*found 0 and "),
            ({"windows": Window(signal=(2, 3), sidebands=((-3, -1),)), "range": None}, "window 0 .*found .* and 0 of"),
            ({"folds": 1}, "folds: expected an integer of at least 2"),
            ({"folds": 4000}, "expected events of the signal region in each of 4000 folds"),
            ({"members": 0}, "members: expected an integer of at least 1"),
            ({"crossing": "both"}, "crossing: expected 'crossed' or 'sequential'"),
            ({"range": (2, 5)}, "range: expected .low, high. with room on both sides"),
            ({"bins": 2}, "bins: expected an integer of at least 4"),
            ({"toys": 2, "toy_source": "dice"}, "toy_source: expected one of shuffle"),
            ({"toys": 2, "toy_source": "simulation"}, "toy_simulation: expected background events"),
            ({"toys": 2, "toy_source": "template"}, "expected a template with a density"),
            ({"toys": 2, "toy_source": "shuffle", "efficiencies": [1]}, "expected an efficiency below 1"),
        ],
    )
    def test_bad_values(self, events: Events, options: dict[str, Any], message: str) -> None:
        with pytest.raises(ValueError, match=message):
            hunt(events, **{**SMALL, "efficiencies": [0.1], **options})

    def test_bad_types(self, events: Events) -> None:
        with pytest.raises(TypeError, match="windows: expected Window"):
            hunt(events, **{**SMALL, "windows": [(2, 3)]})
        with pytest.raises(ValueError, match="events: expected those that weigh 1"):
            hunt(events.with_weight(2.0), **SMALL)
        with pytest.raises(KeyError, match="no column 'z'"):
            hunt(events, **{**SMALL, "features": ["z"]})

    def test_one_sideband(self, events: Events) -> None:
        one = Window(signal=(2, 3), sidebands=((1, 2),))
        with pytest.raises(ValueError, match="expected sidebands on both sides"):
            hunt(events, **{**SMALL, "windows": one}, efficiencies=[0.1])
        part = hunt(events, **{**SMALL, "windows": one}, efficiencies=[0.1], template=Sidebands(extrapolate=True))
        assert np.isfinite(part.p).all()

    def test_the_resonance_where_told(self, events: Events) -> None:
        """It is a bad idea: the classifier finds the signal region, and the test of sculpting says so."""
        part = hunt(events, **{**SMALL, "features": ["m", "x"]}, allow_resonance=True, efficiencies=[0.1])
        assert part.auc[0] > 0.95
