"""Two mixed samples: closed forms of Gaussians and of reducible densities, and samples that do not differ."""

from __future__ import annotations

import logging
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy import special, stats

from nuinfer import MLP, Events, Training, Trees, metrics
from nuinfer.anomaly.mixtures import (
    Fractions,
    Kappa,
    MixedAuc,
    Mixtures,
    _auc,
    _smallest,
    _Tail,
    fit_mixtures,
    fractions_of_kappas,
    ratio_limit,
    unmix,
)

Floats = NDArray[np.float64]

F1, F2 = 0.7, 0.3
SHIFT = 1.0  # signal N(+1, 1), background N(-1, 1) in x, and y without any difference
AREA = float(stats.norm.cdf(2 * SHIFT / np.sqrt(2)))
QUICK = {"network": MLP(width=32, depth=2), "training": Training(epochs=12, batch=512), "validation": 0.0,
         "progress": False}  # fmt: skip


def pure(n: int, seed: int, *, signal: bool) -> Events:
    rng = np.random.default_rng([seed, signal])
    return Events({"x": rng.normal(SHIFT if signal else -SHIFT, 1.0, n), "y": rng.normal(size=n)})


def mixed(n: int, fraction: float, seed: int) -> Events:
    """n events, the fraction itself without fluctuations."""
    signal = round(n * fraction)
    return Events.concat([pure(signal, seed, signal=True), pure(n - signal, seed, signal=False)])


def ratio_at(x: Floats) -> Floats:
    """The exact p1/p2."""
    odds = np.exp(2 * SHIFT * x)
    return np.asarray((F1 * odds + 1 - F1) / (F2 * odds + 1 - F2))


@pytest.fixture(scope="module")
def found() -> Mixtures:
    return fit_mixtures(mixed(30_000, F1, 1), mixed(30_000, F2, 2), ["x", "y"], fractions=(F1, F2), seed=1, **QUICK)


# -- the score ---------------------------------------------------------------------------------------------------------


def test_the_area_is_the_optimal_one(found: Mixtures) -> None:
    """Of signal against background, though neither was seen by itself; to 0.005."""
    one, zero = pure(200_000, 11, signal=True), pure(200_000, 12, signal=False)
    area = metrics.roc_auc(found.score(one), found.score(zero)).value
    assert area == pytest.approx(AREA, abs=0.005)
    assert area < AREA + 3 * np.sqrt(1 / 12 / 100_000)
    other = metrics.roc_auc(one["y"], zero["y"]).value  # a score that has nothing to do with it
    assert abs(other - AREA) > 0.4


def test_the_area_without_labels_tells_that_with_them(found: Mixtures) -> None:
    assert found.auc.value == pytest.approx(0.5 + (F1 - F2) * (AREA - 0.5), abs=4 * found.auc.error)
    area, error = found.signal_auc()
    assert area == pytest.approx(AREA, abs=4 * error)
    assert abs(found.signal_auc((0.9, 0.1))[0] - AREA) > 10 * error
    least, most = found.bounds.area
    assert found.auc.value - 4 * found.auc.error < least < AREA < most
    assert found.auc.z > 20
    assert found.auc.p < 1e-50


def test_the_error_of_the_area() -> None:
    """DeLong's, over samples scored by the exact ratio."""
    areas, errors = [], []
    for seed in range(200):
        rng, k = np.random.default_rng(seed), np.zeros(400, np.int16)
        s = [rng.normal(np.where(rng.random(400) < f, SHIFT, -SHIFT), 1.0) for f in (0.95, 0.05)]
        auc = _auc(s, [np.ones(400)] * 2, [k, k], 1)
        areas.append(auc.value)
        errors.append(auc.error)
    assert 0.85 < np.std(areas) / np.mean(errors) < 1.15  # 3 standard deviations of a spread of 200
    assert np.std(areas) < 0.85 * metrics.roc_auc(*s).null_sd  # which the error of equal samples is not


def test_equal_fractions_teach_nothing() -> None:
    same = fit_mixtures(mixed(10_000, 0.5, 3), mixed(10_000, 0.5, 4), ["x", "y"], seed=1, **QUICK)
    assert abs(same.auc.value - 0.5) < 3 * same.auc.null_sd
    assert same.auc.p > 1e-3
    assert same.bounds.first == 0
    assert same.bounds.second == 1
    assert same.bounds.difference == 0
    assert same.bounds.area[1] == 1
    assert "nothing was learned" in same.explain()
    with pytest.raises(ValueError, match="state fractions"):
        same.log_signal_ratio(mixed(10, 0.5, 1))


def test_p_values_without_a_difference() -> None:
    """Thirty pairs of samples: limits below 1, and Z beyond 1.64, are rare (5%; 3 standard deviations)."""
    z, least = [], []
    for seed in range(30):
        pair = [mixed(600, 0.5, 100 + 2 * seed + i) for i in (0, 1)]
        toy = fit_mixtures(*pair, ["x", "y"], seed=seed, **QUICK | {"training": Training(epochs=4, batch=128)})
        z.append(toy.auc.z)
        least.append(min(toy.kappa12.bound, toy.kappa21.bound))
    assert np.sum(np.array(z) > 1.64) <= 5
    assert np.sum(np.array(least) < 1) <= 5
    assert max(z) < 4


def test_weights_make_up_for_an_efficiency() -> None:
    """The first sample thinned in y, with weights that make up for it: the score does not look at y."""
    first, second = mixed(20_000, F1, 5), mixed(10_000, F2, 6)
    efficiency = 0.2 + 0.8 * stats.norm.cdf(2 * first["y"])
    kept = np.random.default_rng(7).random(20_000) < efficiency
    first = first.select(kept).with_weight(1 / efficiency[kept])
    at = Events({"x": np.zeros(2), "y": np.array([-1.0, 1.0])})
    found = fit_mixtures(first, second, ["x", "y"], seed=1, **QUICK)
    assert abs(np.diff(found.score(at))[0]) < 0.3
    assert found.auc.value == pytest.approx(0.5 + (F1 - F2) * (AREA - 0.5), abs=4 * found.auc.error)
    plain = fit_mixtures(first.with_weight(np.ones(len(first))), second, ["x", "y"], seed=1, **QUICK)
    assert np.diff(plain.score(at))[0] > 0.6


def test_log_signal_ratio(found: Mixtures, caplog: pytest.LogCaptureFixture) -> None:
    """Where the samples determine it, it is 2x."""
    x = np.linspace(-0.8, 0.8, 9)
    at = Events({"x": x, "y": np.zeros(9)})
    np.testing.assert_allclose(found.log_signal_ratio(at), 2 * SHIFT * x, atol=0.25)
    assert np.abs(found.score(at) - 2 * SHIFT * x).max() > 0.5  # that of the samples is another
    np.testing.assert_array_equal(found.log_signal_ratio(at, (F1, F2)), found.log_signal_ratio(at))
    with caplog.at_level(logging.WARNING, "nuinfer"):
        far = found.log_signal_ratio(at, (0.51, 0.49))
    np.testing.assert_array_equal(found.log_signal_ratio(at, np.array([F1, F2])), found.log_signal_ratio(at))  # type: ignore[arg-type]
    assert np.isposinf(far[-1])
    assert np.isneginf(far[0])
    assert "of 9 events p1/p2 is not what the fractions 0.51 and 0.49 allow" in caplog.text


# -- fractions ---------------------------------------------------------------------------------------------------------


def test_kappas_of_gaussians(found: Mixtures) -> None:
    """Irreducible at infinity: the tail has the exact ratio there, above the infimum, and the limit holds."""
    exact = (1 - F1) / (1 - F2), F2 / F1
    for kappa, infimum, sign in ((found.kappa12, exact[0], -1), (found.kappa21, exact[1], 1)):
        # the exact ratio of the tail of the same share, in x
        def share(t: float, f: float, sign: int = sign) -> float:
            return float(f * stats.norm.sf(sign * t - sign * SHIFT) + (1 - f) * stats.norm.sf(sign * t + sign * SHIFT))

        t = np.linspace(-5, 5, 20_001)
        both = np.array([0.5 * (share(v, F1) + share(v, F2)) for v in t[::20]])
        edge = t[::20][np.abs(both - kappa.share).argmin()]
        tail = (share(edge, F1) / share(edge, F2)) ** -sign
        assert kappa.value == pytest.approx(tail, abs=3.5 * kappa.error)
        assert infimum < tail < infimum + 0.05
        assert infimum < kappa.bound < 0.6
        assert kappa.other > 50
        assert 1 <= kappa.tails <= 15


def test_fractions_and_bounds(found: Mixtures) -> None:
    estimate, bounds = found.fractions(), found.bounds
    # the tail is not at infinity: by up to 0.05 in kappa
    assert estimate.first == pytest.approx(F1, abs=4 * estimate.first_error + 0.03)
    assert estimate.second == pytest.approx(F2, abs=4 * estimate.second_error + 0.03)
    assert 0 < estimate.first_error < 0.05
    assert 0.45 < bounds.first < F1
    assert F2 < bounds.second < 0.55
    assert 0.2 < bounds.difference < F1 - F2
    assert found.allows((F1, F2))
    assert found.allows((1.0, 0.0))
    assert not found.allows((0.6, 0.4))
    text = found.explain()
    assert "the fractions differ." in text
    assert "With the stated fractions 0.7 and 0.3" in text
    assert "EXCLUDED" not in text
    assert "THEY ARE EXCLUDED at 95%" in replace(found, stated=(0.6, 0.4)).explain()


def triangular(n: int, fraction: float, rng: np.random.Generator) -> tuple[Floats, Floats]:
    """Signal 2x, background uniform, on (0, 1): inf S/B = 0, inf B/S = 1/2; thinned, with weights."""
    signal = round(n * fraction)
    x = np.concatenate([np.sqrt(rng.random(signal)), rng.random(n - signal)])
    keep = 0.5 + 0.5 * x
    x = x[rng.random(n) < keep]
    return x, 1 / (0.5 + 0.5 * x)


@pytest.mark.parametrize("seed", [1, 2, 3])
def test_kappas_of_reducible_densities_with_weights(seed: int) -> None:
    """By x itself as the score.  Without the weights the ratios would be the same, the shares not."""
    rng = np.random.default_rng(seed)
    f1, f2 = 0.8, 0.2
    one, two = (triangular(400_000, f, rng) for f in (f1, f2))
    low = _smallest(one, two, 0.0125, 50, 1.0)
    high = _smallest((-two[0], two[1]), (-one[0], one[1]), 0.0125, 50, -1.0)
    exact = (1 - f1) / (1 - f2), (1 + f2) / (1 + f1)
    for kappa, infimum, slope in ((low, exact[0], 1.6), (high, exact[1], 0.5)):
        # the mean over a tail [0, t] of a ratio that rises by about slope t
        assert infimum - 3.5 * kappa.error < kappa.value < infimum + slope * kappa.share + 3.5 * kappa.error
        assert infimum < kappa.bound < infimum + 0.12
    f = np.array(fractions_of_kappas(low.value, high.value, background=0.5))
    up = np.abs(f - fractions_of_kappas(low.value, high.value + high.error, background=0.5))
    right = np.abs(f - fractions_of_kappas(low.value + low.error, high.value, background=0.5))
    assert (np.abs(f - (f1, f2)) < 3.5 * np.hypot(up, right) + 0.03).all()  # a tail's mean is above its infimum
    naive = fractions_of_kappas(low.value, high.value)  # mutually irreducible they are not
    assert naive[1] > f2 + 0.25
    # and what holds anyway does
    assert 1 - low.bound < f1
    assert high.bound > f2


def test_fractions_of_kappas() -> None:
    """Against the definition, and NaN where nothing is known."""
    f1, f2, a, b = 0.75, 0.15, 0.2, 0.3
    k12 = (f1 * a + 1 - f1) / (f2 * a + 1 - f2)
    k21 = (f2 + (1 - f2) * b) / (f1 + (1 - f1) * b)
    np.testing.assert_allclose(fractions_of_kappas(k12, k21, signal=a, background=b), (f1, f2), rtol=1e-12)
    assert abs(fractions_of_kappas(k12, k21)[0] - f1) > 0.01
    assert np.isnan(fractions_of_kappas(1.0, 1.0)).all()
    # one is 1 where the other one is: with equal fractions
    assert np.isnan(fractions_of_kappas([1.0, 0.5, 1.2], [0.5, 1.0, 0.1])).all()
    assert fractions_of_kappas([0.2, 0.3], [0.1, 0.2])[0].shape == (2,)
    with pytest.raises(ValueError, match="background: expected a reducibility factor from 0 to below 1, found 1"):
        fractions_of_kappas(0.5, 0.5, background=1.0)


def test_tails_that_tell_nothing_leave_the_fractions_open(found: Mixtures) -> None:
    """A rare, narrow signal: kappa21 is known, and kappa12, near 1, is not.  Not 0 +- 0."""
    rng = np.random.default_rng(1)
    signal = np.arange(2000) < 160
    one = (np.where(signal, rng.normal(5, 0.1, 2000), rng.normal(size=2000)), np.ones(2000))
    two = (rng.normal(size=2000), np.ones(2000))
    low, high = _smallest(one, two, 0.0125, 50, 1.0), _smallest((-two[0], two[1]), (-one[0], one[1]), 0.0125, 50, -1.0)
    assert (low.value, low.bound) == (1.0, 1.0)
    assert high.bound < 0.2
    for replicas in (np.empty((0, 2)), np.array([[0.9, 0.1], [1.0, 0.1]])):
        rare = replace(found, kappa12=low, kappa21=high, replicas=replicas)
        estimate = rare.fractions()
        assert np.isnan([estimate.first, estimate.second, estimate.first_error, estimate.second_error]).all()
        assert "If somewhere there is background without signal" not in rare.explain()
        assert rare.bounds.second == high.bound
    assert "If somewhere there is background without signal" in found.explain()


def test_bounds_of_the_area_where_nothing_is_learned(found: Mixtures) -> None:
    """Out-of-fold linear scores in 20 columns of one density: 1/2 is left out in at most half of 5%.

    By the error of given scores it would be in 11%.
    """
    fold, ones, left_out = np.arange(400) % 5, np.ones(400), 0
    nothing = Kappa(1.0, 0.0, 1.0, 1.0, np.inf, 400.0, 400.0, 3)
    for seed in range(400):
        x = np.random.default_rng(seed).normal(size=(2, 400, 20))
        slope = np.stack([x[0][fold != k].mean(0) - x[1][fold != k].mean(0) for k in range(5)])
        scores = [np.einsum("nd,nd->n", each, slope[fold]) for each in x]
        auc = _auc(scores, [ones] * 2, [fold.astype(np.int16)] * 2, 5)
        least, most = replace(found, auc=auc, kappa12=nothing, kappa21=nothing).bounds.area
        left_out += not least <= 0.5 <= most
    assert left_out / 400 < 0.025 + 3 * np.sqrt(0.025 * 0.975 / 400)


def test_limits_cover() -> None:
    """Of ratios of two Poisson means, in units: exact up to discreteness, never below the level."""
    rng = np.random.default_rng(1)
    for m1, m0, over in ((2.0, 8.0, 0.11), (300.0, 600.0, 0.02)):
        n1, n0 = rng.poisson(m1, 20_000).astype(float), rng.poisson(m0, 20_000).astype(float)
        one, other = (_Tail(n / 1000, n, np.full(20_000, 1 / 1000), 1000.0) for n in (n1, n0))
        for level in (0.8413, 0.95):
            covered = np.mean(ratio_limit(one, other, level) >= m1 / m0)
            assert level - 0.008 < covered < level + over


def test_limits_with_weights() -> None:
    """Weights of two sizes: the effective counts cover, the numbers of events would not."""
    rng = np.random.default_rng(2)
    covered = [0, 0]
    for _ in range(2000):
        w = [np.where(rng.random(rng.poisson(m)) < 0.1, 10.0, 1.0) for m in (40, 80)]
        own = [np.array([x.sum()]) for x in w]
        square = [np.array([(x * x).sum()]) for x in w]
        tails = [_Tail(s, s * s / q, q / s, 1e3) for s, q in zip(own, square, strict=True)]
        plain = [_Tail(s, np.array([float(len(x))]), s / len(x), 1e3) for s, x in zip(own, w, strict=True)]
        for i, pair in enumerate((tails, plain)):
            covered[i] += int(ratio_limit(*pair, 0.95)[0] >= 0.5)
    assert covered[0] / 2000 > 0.93
    assert covered[1] / 2000 < 0.9


def test_few_events() -> None:
    """Below the least number nothing is claimed."""
    rng = np.random.default_rng(1)
    one, two = (rng.normal(1, 1, 60), np.ones(60)), (rng.normal(-1, 1, 60), np.ones(60))
    assert _smallest(one, two, 0.01, 50, 1.0).bound < 1
    nothing = _smallest(one, two, 0.01, 61, 1.0)
    assert (nothing.value, nothing.bound, nothing.error, nothing.tails) == (1.0, 1.0, 0.0, 0)


def test_bootstrapped_members() -> None:
    """The spread of the replicas is the counts' error and that of the training, and trees serve."""
    pair = mixed(6_000, 0.9, 5), mixed(6_000, 0.1, 6)
    quick = {"validation": 0.0, "progress": False, "folds": 2, "seed": 2}
    found = fit_mixtures(*pair, ["x"], network=Trees(), members=8, bootstrap=True, **quick)
    plain = fit_mixtures(*pair, ["x"], network=Trees(), **quick)
    assert found.replicas.shape == (8, 2)
    assert plain.replicas.shape == (0, 2)
    assert found.replicas.std(0).min() > 0
    both = found.fractions(), plain.fractions()
    assert both[0].first == pytest.approx(0.9, abs=0.05)
    # one of the trainings alone, without the bootstraps of the counts, is half of it
    assert 0.9 < both[0].first_error / both[1].first_error < 3


def test_unmixed_densities() -> None:
    """In a column that no classifier has seen."""
    rng = np.random.default_rng(1)

    def sample(fraction: float) -> Events:
        signal = np.arange(40_000) < round(40_000 * fraction)
        return Events({"z": np.where(signal, rng.exponential(1.0, 40_000), 3 + rng.normal(size=40_000))},
                      weight=np.full(40_000, 2.0))  # fmt: skip

    signal, background = unmix(sample(F1), sample(F2), (F1, F2))
    for events, mean in ((signal, 1.0), (background, 3.0)):
        assert events.sum_weights == pytest.approx(1.0)
        error = np.sqrt(np.sum((events.weight * (events["z"] - mean)) ** 2))
        assert events.weight @ events["z"] == pytest.approx(mean, abs=4 * error)
        assert abs(F1 * 1 + (1 - F1) * 3 - mean) > 10 * error  # the first sample itself


# -- files, and what is refused ----------------------------------------------------------------------------------------


def test_saved_and_loaded(found: Mixtures, tmp_path: Path) -> None:
    at = mixed(100, 0.5, 9)
    found.save(tmp_path / "m.safetensors")
    again = Mixtures.load(tmp_path / "m.safetensors")
    np.testing.assert_array_equal(again.score(at), found.score(at))
    assert again.explain() == found.explain()
    assert repr(again) == repr(found)
    assert again.ratio.samples == found.ratio.samples
    for record in (found.auc, found.kappa12, found.fractions()):
        record.save(tmp_path / "r.safetensors")
        assert type(record).load(tmp_path / "r.safetensors") == record or vars(
            type(record).load(tmp_path / "r.safetensors")
        ) == vars(record)
    assert {type(r) for r in (found.auc, found.kappa12, found.fractions())} == {MixedAuc, Kappa, Fractions}
    unstated = replace(found, stated=None)
    unstated.save(tmp_path / "u.safetensors")
    assert Mixtures.load(tmp_path / "u.safetensors").stated is None


def test_stated_fractions_do_not_replace_wrong_ones(found: Mixtures) -> None:
    for fractions in ((), (0.3, 0.7), (0.7,)):
        with pytest.raises(ValueError, match=r"fractions: expected \(f1, f2\) with 0 <= f2 < f1 <= 1, found \("):
            found.signal_auc(fractions)  # type: ignore[arg-type]


def test_out_of_fold(found: Mixtures) -> None:
    """An event of the fit is scored by its own fold's network."""
    own = mixed(30_000, F1, 1).select(slice(0, 50))
    stranger = Events({name: own[name] for name in own.columns}, id=np.arange(50))
    assert (found.score(own) != found.score(stranger)).all()
    members = found.ratio.members(own)
    np.testing.assert_allclose(found.score(own), special.logsumexp(members, axis=0))


def test_refused() -> None:
    one, two = mixed(100, 0.6, 1), mixed(100, 0.4, 2)
    for fractions in ((0.3, 0.3), (0.2, 0.5), (1.2, 0.1), (0.5, -0.1), (0.5, float("nan"))):
        with pytest.raises(ValueError, match=r"fractions: expected \(f1, f2\) with 0 <= f2 < f1 <= 1, found"):
            fit_mixtures(one, two, ["x"], fractions=fractions, seed=1)
        with pytest.raises(ValueError, match="exchange the samples"):
            unmix(one, two, fractions)
    with pytest.raises(ValueError, match="second: expected events, found an empty sample"):
        fit_mixtures(one, two.select(np.zeros(100, bool)), ["x"], seed=1)
    with pytest.raises(ValueError, match="first: expected a positive total weight"):
        fit_mixtures(one.with_weight(np.zeros(100)), two, ["x"], seed=1)
    with pytest.raises(KeyError, match="no column 'xx'"):
        fit_mixtures(one, two, ["xx"], seed=1)
    with pytest.raises(ValueError, match="folds: expected an integer of at least 2, found 1"):
        fit_mixtures(one, two, ["x"], folds=1, seed=1)
    few = mixed(6, 0.5, 3)
    with pytest.raises(ValueError, match=r"first: expected a positive total weight in each of the 5 folds, found 0 in"):
        fit_mixtures(few, two, ["x"], seed=1, progress=False)
    grouped = [each.with_columns({"run": np.arange(100) % 3}) for each in (one, two)]
    with pytest.raises(ValueError, match="use more events or groups, or fewer folds"):
        fit_mixtures(*grouped, ["x"], group="run", seed=1, progress=False)
    with pytest.raises(ValueError, match="level: expected a confidence between 0 and 1, found 1"):
        fit_mixtures(one, two, ["x"], level=1.0, seed=1)
    with pytest.raises(ValueError, match="least: expected a number of events of at least 1"):
        fit_mixtures(one, two, ["x"], least=0, seed=1)
