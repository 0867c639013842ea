"""Autoencoders against principal components, thresholds against order statistics, and what outliers depend on."""

from __future__ import annotations

import logging
from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from scipy import stats

from nuinfer import MLP, Events, Ragged, Training, Trees, fit_ratio, metrics
from nuinfer.anomaly.outliers import VAE, Autoencoder, Objects, Threshold, fit_autoencoder, rate_threshold
from nuinfer.anomaly.outliers.objects import Layout
from nuinfer.anomaly.outliers.result import stack_of
from nuinfer.features import Batch

Floats = NDArray[np.float64]

LINEAR = {"training": Training(epochs=200, batch=500, learning_rate=0.1, weight_decay=0.0), "validation": 0.0,
          "progress": False, "seed": 1}  # fmt: skip
QUICK = {"training": Training(epochs=10, batch=250, learning_rate=1e-2, clip=10.0), "progress": False, "seed": 1}


# -- linear networks are principal components --------------------------------------------------------------------------


def gaussian(n: int = 5000) -> tuple[Events, Floats, Floats]:
    """Five columns, the eigenvalues of their correlations, and the projections of standardised events on the axes."""
    rng = np.random.default_rng(1)
    turn = np.linalg.qr(rng.normal(size=(5, 5)))[0]
    x = rng.normal(size=(n, 5)) @ (np.diag([3, 2, 1, 0.5, 0.3]) @ turn)
    values, axes = np.linalg.eigh(np.corrcoef(x.T))
    standard = (x - x.mean(0)) / x.std(0)
    events = Events({f"x{i}": 10 * x[:, i] + i for i in range(5)})
    return events, values[::-1], np.asarray(standard @ axes[:, ::-1])


def test_an_autoencoder_without_noise_is_the_projection_on_principal_axes() -> None:
    events, _, t = gaussian()
    model = fit_autoencoder(events, list(events.columns), network=VAE(latent=2, depth=0, beta=0.0), **LINEAR)
    residual = 0.5 * np.square(t[:, 2:]).sum(1)
    np.testing.assert_allclose(model.score(events), residual, atol=0.02 * residual.std())
    one = 0.5 * np.square(t[:, 1:]).sum(1)  # of one axis less
    assert np.abs(model.score(events) - one).max() > residual.std()
    with pytest.raises(ValueError, match=r"by: expected 'reconstruction' or 'latent' of an autoencoder with beta=0"):
        model.score(events, "kl")


@pytest.mark.parametrize(("beta", "kept"), [(0.2, 3), (0.8, 2)])
def test_a_linear_one_is_probabilistic_principal_components(beta: float, kept: int) -> None:
    """Three latent numbers, of which the third is given up where its eigenvalue, 0.41, is below beta."""
    events, values, t = gaussian()
    model = fit_autoencoder(events, list(events.columns), network=VAE(latent=3, depth=0, beta=beta), **LINEAR)
    lam, inner = values[:kept], np.square(t[:, :kept])
    exact = {
        "reconstruction": 0.5 * (np.square(t[:, kept:]).sum(1) + (inner * (beta / lam) ** 2).sum(1)),
        "latent": (inner * (lam - beta) / lam**2).sum(1),
    }
    exact["kl"] = 0.5 * (exact["latent"] + (beta / lam - 1 - np.log(beta / lam)).sum())
    exact["elbo"] = exact["reconstruction"] + beta * exact["kl"]
    for by, truth in exact.items():
        off = np.sqrt(np.mean((model.score(events, by) - truth) ** 2))  # type: ignore[arg-type]
        assert off < 0.06 * truth.std(), by
    principal = 0.5 * np.square(t[:, kept:]).sum(1)  # without the shrinkage
    assert np.sqrt(np.mean((model.score(events) - principal) ** 2)) > 2 * np.sqrt(
        np.mean((model.score(events) - exact["reconstruction"]) ** 2)
    )
    # the bound at the minimum: beta/2 sum (1 + log lambda/beta) over kept axes, and half of the variance of the others
    risk = 0.5 * beta * (1 + np.log(lam / beta)).sum() + 0.5 * values[kept:].sum()
    assert model.history.train[-1, 0] == pytest.approx(risk, rel=0.02)


def test_weights_count() -> None:
    """Weighted events have the axes of the weighted covariance: here those of the second half alone."""
    rng = np.random.default_rng(2)
    n = 4000
    first = np.arange(n) < n // 2
    x, small = rng.normal(size=n), 0.2 * rng.normal(size=n)
    events = Events({"x": x, "y": np.where(first, -x, x) + small}, weight=np.where(first, 1e-6, 1.0))
    model = fit_autoencoder(events, ["x", "y"], network=VAE(latent=1, depth=0, beta=0.01),
                            **LINEAR | {"training": Training(epochs=40, batch=200, learning_rate=0.05)})  # fmt: skip
    score = model.score(events)
    assert np.median(score[first]) > 20 * np.median(score[~first])


# -- what an outlier is depends on the columns -------------------------------------------------------------------------


def sample(n: int, seed: int, *, shift: float = 0.0) -> tuple[Events, Events]:
    """Two correlated normal columns; and the same events with exp(x) in the place of x."""
    rng = np.random.default_rng(seed)
    x = rng.normal(-shift, 1, n)
    y = 0.6 * (x + shift) + 0.8 * rng.normal(size=n)
    return tuple(Events({"x": v, "y": y}, id=np.arange(n) + seed * n) for v in (x, np.exp(x)))  # type: ignore[return-value]


def test_outliers_depend_on_the_columns_and_a_ratio_does_not() -> None:
    """The hundredth with the largest scores is another one after an increasing map of one column."""
    pair = sample(8000, 1)
    network = VAE(latent=1, depth=0, beta=0.3)
    how = LINEAR | {"training": Training(epochs=30, batch=250, learning_rate=0.05)}
    models = [fit_autoencoder(e, ["x", "y"], network=network, **how) for e in pair]  # type: ignore[arg-type]
    for by in ("reconstruction", "latent", "elbo"):
        scores = [m.score(e, by) for m, e in zip(models, pair, strict=True)]  # type: ignore[arg-type]
        tops = [s > np.quantile(s, 0.99) for s in scores]
        assert (tops[0] & tops[1]).sum() < 0.75 * tops[0].sum()
        assert stats.spearmanr(*scores).statistic < 0.95
    other = sample(8000, 2, shift=1.0)
    areas, logs = [], []
    for one, zero in zip(other, pair, strict=True):
        # trees see no more than the order, but for where an edge lies between two events
        logs.append(fit_ratio(one, zero, ["x", "y"], network=Trees(), seed=1, progress=False).log(zero))
        ratio = fit_ratio(one, zero, ["x", "y"], network=MLP(width=32, depth=2), folds=2, seed=1, progress=False,
                          training=Training(epochs=10, batch=250))  # fmt: skip
        areas.append(metrics.roc_auc(ratio.log(one), ratio.log(zero)))
    assert stats.spearmanr(*logs).statistic > 0.99
    assert abs(areas[0].value - areas[1].value) < 3 * areas[0].null_sd
    # x and y given x: a distance of 1/0.8 in units of the width
    assert areas[0].value == pytest.approx(stats.norm.cdf(1.25 / np.sqrt(2)), abs=0.015)


def test_ranks_do_not_depend_on_maps_of_single_columns() -> None:
    pair = sample(4000, 3)
    how = {"network": VAE(latent=1, depth=0, beta=0.3)} | LINEAR
    how |= {"training": Training(epochs=30, batch=250, learning_rate=0.05)}
    ranks = [fit_autoencoder(e, ["x", "y"], scaling="ranks", **how).score(e) for e in pair]  # type: ignore[arg-type]
    assert stats.spearmanr(*ranks).statistic > 0.998
    moments = [fit_autoencoder(e, ["x", "y"], **how).score(e) for e in pair]  # type: ignore[arg-type]
    assert stats.spearmanr(*moments).statistic < 0.95


# -- thresholds --------------------------------------------------------------------------------------------------------


def test_threshold_accepts_what_was_asked_for() -> None:
    """Of exponential scores: the accepted fraction of other events is e^-t, of the mean and spread that are stated."""
    rng = np.random.default_rng(1)
    toys = [rate_threshold(rng.exponential(size=2000), 0.02) for _ in range(400)]
    true = np.exp([-toy.value for toy in toys])
    assert {toy.accepted for toy in toys} == {0.02}
    sd = np.sqrt(0.02 * 0.98 / 2000)
    assert toys[0].error == pytest.approx(sd, rel=1e-9)
    assert true.mean() == pytest.approx(0.02, abs=3.5 * sd / 20)
    assert true.std() == pytest.approx(sd, rel=0.12)
    inside = np.mean([toy.low < -np.log(0.02) < toy.high for toy in toys])
    assert inside == pytest.approx(0.683, abs=0.09)


def test_weighted_threshold() -> None:
    """Weights that depend on the score: the weighted fraction, and its spread."""
    rng = np.random.default_rng(2)
    true, errors, unweighted = [], [], []
    for _ in range(300):
        s = rng.exponential(1.25, 3000)  # of weight e^(-s/5): exponential of mean 1
        toy = rate_threshold(s, 0.05, weight=np.exp(-s / 5))
        true.append(np.exp(-toy.value))
        errors.append(toy.error)
        unweighted.append(np.exp(-rate_threshold(s, 0.05).value))
    assert np.mean(true) == pytest.approx(0.05, abs=4 * np.std(true) / np.sqrt(300))
    assert np.std(true) == pytest.approx(np.mean(errors), rel=0.15)
    assert np.mean(unweighted) < 0.03


def test_threshold_of_ties_and_signed_weights() -> None:
    found = rate_threshold([3.0, 3.0, 2.0, 1.0, 1.0, 0.0, 0.0, 0.0, 0.0, 0.0], 0.25)
    assert (found.value, found.accepted) == (3.0, 0.2)
    assert found.accepts([2.4, 3.0, 3.1]).tolist() == [False, True, True]
    # 1 of 8 is at or above 9, 2 at or above 8, and 1 again at or above 7: no more at any higher threshold, only from 9
    signed = rate_threshold(np.arange(10.0)[::-1], 0.2, weight=[1, 1, -1, 1, 1, 1, 1, 1, 1, 1])
    assert (signed.value, signed.accepted) == (9.0, 0.125)


def test_threshold_is_saved(tmp_path: Path) -> None:
    found = rate_threshold(np.arange(100.0), 0.1)
    found.save(tmp_path / "t.safetensors")
    assert vars(Threshold.load(tmp_path / "t.safetensors")) == vars(found)
    assert repr(found).startswith("Threshold(score >= 90, in (")


@pytest.mark.parametrize("rate", [0.0, 1.0, -0.1, 2.0, float("nan")])
def test_rates_that_are_none(rate: float) -> None:
    with pytest.raises(ValueError, match="rate: expected an accepted fraction between 0 and 1, found"):
        rate_threshold(np.arange(100.0), rate)


def test_refused_thresholds() -> None:
    with pytest.raises(ValueError, match="expected at least one event above the threshold, found"):
        rate_threshold(np.arange(100.0), 0.001)
    # what would accept nothing: ties, and a great weight, at the top
    with pytest.raises(ValueError, match=r"rate: expected one at which something passes, found 0\.3: the largest"):
        rate_threshold([3.0, 3.0, 2.0, 1.0], 0.3)
    with pytest.raises(ValueError, match=r"found 0\.5: the largest score, 1, is that of the fraction 1 of the weight"):
        rate_threshold(np.ones(100), 0.5)
    with pytest.raises(ValueError, match="something passes"):
        rate_threshold(np.arange(100.0), 0.5, weight=np.where(np.arange(100) == 99, 100.0, 1.0))
    with pytest.raises(ValueError, match="something passes"):  # less than nothing
        rate_threshold([3.0, 2.0, 1.0, 0.0], 0.4, weight=[-0.1, 2.0, 1.0, 1.0])
    with pytest.raises(ValueError, match="weight: expected events, found an empty sample"):
        rate_threshold([], 0.5)
    with pytest.raises(ValueError, match="score: expected finite values, found 1 of 2"):
        rate_threshold([1.0, np.nan], 0.6)
    with pytest.raises(ValueError, match=r"expected scores \(N,\) and weights \(N,\)"):
        rate_threshold([1.0, 2.0], 0.6, weight=[1.0])
    with pytest.raises(ValueError, match="score: expected finite values"):
        rate_threshold(np.arange(100.0), 0.1).accepts([np.inf])


# -- objects -----------------------------------------------------------------------------------------------------------

TRIGGER = (Objects("jets", 4), Objects("muons", 2), Objects("met", 1, plain=()))


def collisions(n: int, seed: int, *, jets: float = 2.0, scale: float = 20.0) -> Events:
    """Jets and muons in Poisson numbers with falling pT, and missing momentum."""
    rng = np.random.default_rng(seed)
    columns: dict[str, Ragged | Floats] = {}
    for name, mean in (("jets", jets), ("muons", 0.3)):
        counts = rng.poisson(mean, n)
        offsets = np.concatenate([[0], np.cumsum(counts)])
        total = offsets[-1]
        fields = {"pt": 5 + rng.exponential(scale, total), "eta": rng.normal(0, 1.5, total),
                  "phi": rng.uniform(-np.pi, np.pi, total)}  # fmt: skip
        columns |= {f"{name}.{field}": Ragged(values, offsets) for field, values in fields.items()}
    columns |= {"met.pt": 1 + rng.exponential(scale, n), "met.phi": rng.uniform(-np.pi, np.pi, n)}
    return Events(columns)


@pytest.fixture(scope="module")
def trigger() -> Autoencoder:
    return fit_autoencoder(collisions(4000, 1), objects=TRIGGER, network=VAE(latent=4), members=2, **QUICK)  # type: ignore[arg-type]


def test_layout() -> None:
    """What the network sees, by hand."""
    events = Events({
        "met.pt": [1.0, np.e], "met.phi": [0.0, np.pi / 2],
        "mu.pt": Ragged.of([[10.0, 30.0, 20.0], []]), "mu.phi": Ragged.of([[1.0, 3.0, 2.0], []]),
    })  # fmt: skip
    layout = Layout.fit(events, [], [Objects("mu", 2, plain=()), Objects("met", 1, plain=())], "moments")
    assert layout.names[:3] == ("mu[0].log pt", "mu[0].cos phi", "mu[0].sin phi")
    assert layout.masks == ("mu[0]", "mu[1]")
    assert layout.owners == (0, 0, 0, 1, 1, 1, 2, 2, 2)
    assert layout.beyond(events) == (0.5, 0.0)
    mean, sd = np.log([30, 20]).mean(), np.log([30, 20]).std()
    root = np.sqrt(2)
    first = [(np.log(30) - mean) / sd, root * np.cos(3), root * np.sin(3),
             (np.log(20) - mean) / sd, root * np.cos(2), root * np.sin(2), -1, root, 0, 1, 1]  # fmt: skip
    second = [0, 0, 0, 0, 0, 0, 1, 0, root, 0, 0]
    np.testing.assert_allclose(layout.inputs(events).flat, [first, second], atol=1e-6)


def test_what_is_not_there_plays_no_part(trigger: Autoencoder) -> None:
    """Neither the order of the entries, nor those behind the leading ones, nor a turn of 2 pi."""
    events = collisions(50, 2)
    jets = {f: events[f"jets.{f}"] for f in ("pt", "eta", "phi")}
    lists = {f: [r.values[a:b] for a, b in zip(r.offsets[:-1], r.offsets[1:], strict=True)] for f, r in jets.items()}
    changed = {}
    for f, rows in lists.items():
        more = {"pt": 0.01, "eta": 9.0, "phi": 0.3}[f]
        turn = 2 * np.pi if f == "phi" else 0.0
        changed[f"jets.{f}"] = Ragged.of(
            [np.concatenate([r[::-1] + turn, [more] * 2 if len(r) >= 4 else []]) for r in rows]
        )
    other = events.with_columns(changed)
    for by in ("reconstruction", "latent", "kl", "elbo"):
        np.testing.assert_allclose(trigger.score(other, by), trigger.score(events, by), rtol=1e-3, atol=1e-4)  # type: ignore[arg-type]
    leading = events.with_columns({"jets.pt": Ragged(2 * jets["pt"].values, jets["pt"].offsets)})
    assert (trigger.score(leading) != trigger.score(events)).mean() > 0.7


def test_masked_values_are_not_reconstructed(trigger: Autoencoder) -> None:
    """The errors of objects that are not there are 0, and the parts sum to the score."""
    events = collisions(200, 3)
    parts = trigger.errors(events)
    missing = events["jets.pt"].counts < 4
    assert (parts["jets[3].log pt"][missing] == 0).all()
    assert (parts["jets[3].log pt"][~missing] > 0).all()
    assert (parts["jets[3]"] > 0).all()
    np.testing.assert_allclose(sum(parts.values()), trigger.score(events), rtol=1e-6)


def test_outliers_of_a_trigger(trigger: Autoencoder) -> None:
    """Events with more and harder jets: by every score; and a threshold that holds on other events."""
    usual, odd = collisions(3000, 4), collisions(1000, 5, jets=5.0, scale=100.0)
    for by in ("reconstruction", "latent", "kl", "elbo"):
        area = metrics.roc_auc(trigger.score(odd, by), trigger.score(usual, by)).value  # type: ignore[arg-type]
        assert area > 0.8, by
    cut = trigger.threshold(usual, 0.02)
    again = cut.accepts(trigger.score(collisions(3000, 6))).mean()
    assert again == pytest.approx(0.02, abs=3.5 * np.sqrt(2) * cut.error)
    assert cut.accepts(trigger.score(odd)).mean() > 0.3


def test_events_without_any_object() -> None:
    """Only what is missing can be told: finite scores, the same for all of them."""
    events = collisions(1000, 7, jets=0.5)
    model = fit_autoencoder(events, objects=TRIGGER[:2], network=VAE(latent=2), **QUICK)  # type: ignore[arg-type]
    empty = (events["jets.pt"].counts == 0) & (events["muons.pt"].counts == 0)
    assert empty.sum() > 100
    score = model.score(events)
    assert np.isfinite(score).all()
    assert np.ptp(score[empty]) < 1e-5
    assert len(model.score(events.select(slice(0, 0)))) == 0


# -- members, folds, files ---------------------------------------------------------------------------------------------


def test_members_and_folds(trigger: Autoencoder) -> None:
    events = collisions(600, 8)
    assert trigger.members(events).shape == (2, 600)
    np.testing.assert_allclose(trigger.members(events).mean(0), trigger.score(events))
    assert trigger.means(events).shape == (2, 600, 4)
    folded = fit_autoencoder(events, objects=TRIGGER, network=VAE(latent=2), folds=3, **QUICK)  # type: ignore[arg-type]
    # an event's score by hand: the network of its own fold, which has not seen it; a stranger's: the mean
    layout, fold = folded.layout, folded.resample.fold_of(events.id)
    seen = torch.cat([layout.inputs(events).flat, torch.zeros(600, 2)], 1)[None].expand(3, -1, -1)
    stack = stack_of(folded.network, layout)
    mean, _ = stack.encoded(folded.model.state, seen[..., :-2])
    latent = mean.square().sum(-1).detach().numpy()
    np.testing.assert_allclose(folded.score(events, "latent"), latent[fold, np.arange(600)], rtol=1e-4)
    columns = {name: events[name] for name in events.columns}
    stranger = Events(columns, id=np.arange(600))
    np.testing.assert_allclose(folded.score(stranger, "latent"), latent.mean(0), rtol=1e-4)
    with pytest.raises(ValueError, match="means: expected an autoencoder without folds, found 3"):
        folded.means(events)  # of networks with other axes


def test_bootstrap_and_group() -> None:
    """Members that differ by their bootstraps alone; and copies of an event are scored out of fold together."""
    events = sample(400, 6)[0].with_columns({"run": np.arange(400) // 2})
    how = QUICK | {"network": VAE(latent=1)}
    plain, drawn = (fit_autoencoder(events, ["x", "y"], bootstrap=b, **how) for b in (False, True))  # type: ignore[arg-type]
    assert np.abs(plain.score(events) - drawn.score(events)).max() > 1e-3
    model = fit_autoencoder(events, ["x", "y"], group="run", folds=4, **how)  # type: ignore[arg-type]
    fold = model.resample.fold_of(events["run"])
    by_fold = [model.score(events.with_columns({"run": np.full(400, events["run"][fold == k][0])})) for k in range(4)]
    np.testing.assert_allclose(model.score(events), np.stack(by_fold)[fold, np.arange(400)], rtol=1e-6)
    with pytest.raises(KeyError, match="no column 'run'"):
        model.score(sample(10, 7)[0])


def test_the_risk_is_what_it_says() -> None:
    """In numpy, for one event and given noise."""
    events = collisions(300, 9)
    model = fit_autoencoder(events, objects=TRIGGER[:1], network=VAE(latent=2, depth=0, beta=0.7), **QUICK)  # type: ignore[arg-type]
    stack, noise = stack_of(model.network, model.layout), np.array([0.3, -1.1])
    x = model.layout.inputs(events).flat[:1].numpy().astype(float)[0]
    s = {name: t[0].double().numpy() for name, t in model.model.state.items()}
    code = s["encoder.weight"] @ x + s["encoder.bias"][0]
    mu, log_variance = code[:2], 10 * np.tanh(code[2:] / 10)
    out = s["decoder.weight"] @ (mu + np.exp(log_variance / 2) * noise) + s["decoder.bias"][0]
    v = len(model.layout.names)
    there = np.repeat(x[v:], 4)
    risk = 0.5 * there @ (x[:v] - out[:v]) ** 2 + (np.log1p(np.exp(out[v:])) - x[v:] * out[v:]).sum()
    risk += 0.7 * 0.5 * (mu**2 + np.exp(log_variance) - 1 - log_variance).sum()
    batch = Batch(torch.from_numpy(np.concatenate([x, noise])[None, None]).float())
    assert float(stack(model.model.state, batch)) == pytest.approx(-risk, rel=1e-5)


def test_saved_and_loaded(trigger: Autoencoder, tmp_path: Path) -> None:
    events = collisions(100, 10)
    trigger.save(tmp_path / "a.safetensors")
    again = Autoencoder.load(tmp_path / "a.safetensors")
    for by in ("reconstruction", "latent", "kl", "elbo"):
        np.testing.assert_array_equal(again.score(events, by), trigger.score(events, by))  # type: ignore[arg-type]
    assert repr(again) == repr(trigger)
    assert "of events have more jets" in repr(trigger)
    assert again.layout.objects == TRIGGER
    pair = sample(500, 4)[0]
    flat = fit_autoencoder(pair, ["x", "y"], scaling="ranks", folds=2, network=VAE(latent=1), **QUICK)  # type: ignore[arg-type]
    flat.save(tmp_path / "b.safetensors")
    np.testing.assert_array_equal(Autoencoder.load(tmp_path / "b.safetensors").score(pair), flat.score(pair))


def test_the_same_seed_and_a_checkpoint(tmp_path: Path) -> None:
    events = sample(500, 5)[0]
    how = {"network": VAE(latent=1), "checkpoint": tmp_path / "c.safetensors"} | QUICK
    one, two = (fit_autoencoder(events, ["x", "y"], **how).score(events) for _ in range(2))  # type: ignore[arg-type]
    np.testing.assert_array_equal(one, two)  # the second one is read
    again, other = (fit_autoencoder(events, ["x", "y"], **how | {"checkpoint": None, "seed": seed}).score(events)  # type: ignore[arg-type]
                    for seed in (1, 2))  # fmt: skip
    np.testing.assert_array_equal(one, again)
    assert (one != other).all()
    with pytest.raises(ValueError, match="belongs to another configuration"):
        fit_autoencoder(events, ["x", "y"], **how | {"network": VAE(latent=1, beta=0.3)})  # type: ignore[arg-type]


def test_softer_objects_are_told(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO, "nuinfer"):
        fit_autoencoder(collisions(300, 11), objects=TRIGGER, network=VAE(latent=1), **QUICK)  # type: ignore[arg-type]
    assert "objects 'jets'" in caplog.text
    assert "have more than 4, of which the softest are not seen" in caplog.text


# -- what is refused ---------------------------------------------------------------------------------------------------


def test_refused_specs() -> None:
    with pytest.raises(ValueError, match="VAE: expected latent to be an integer of at least 1, found 0"):
        VAE(latent=0)
    with pytest.raises(ValueError, match="VAE: expected a beta of at least 0, found -1"):
        VAE(beta=-1)
    with pytest.raises(ValueError, match="expected width to be an integer of at least 1"):
        VAE(width=0)
    with pytest.raises(ValueError, match="expected width to be an integer of at least 1"):
        VAE(width=0, depth=0)
    with pytest.raises(ValueError, match="expected activation one of"):
        VAE(activation="tanh", depth=0)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="Objects 'jets': expected a count of at least 1, found 0"):
        Objects("jets", 0)
    with pytest.raises(TypeError, match="expected a list of names as log, found the single string 'pt'"):
        Objects("jets", 2, log="pt")
    with pytest.raises(ValueError, match="expected at least one field, and each once"):
        Objects("jets", 2, plain=["pt"])


def test_refused_events() -> None:
    events = collisions(100, 12)

    def refused(kind: type[Exception], match: str, changed: Events, **how: object) -> None:
        with pytest.raises(kind, match=match):
            fit_autoencoder(changed, **{"objects": TRIGGER, "seed": 1} | how)  # type: ignore[arg-type]

    refused(ValueError, "expected at least one name, and each once, found", events, objects=())
    refused(ValueError, "and each once", events, objects=(TRIGGER[0], TRIGGER[0]))
    refused(TypeError, "features: expected a list of names", events, features="met.pt", objects=())
    refused(KeyError, "no column 'tracks.pt'", events, objects=[Objects("tracks", 3)])
    refused(KeyError, "no column 'x'", events, features=["x"])
    refused(TypeError, "column 'met.pt': expected a ragged column", events, objects=[Objects("met", 2, plain=())])
    refused(ValueError, "events: expected events, found an empty sample", events.select(slice(0, 0)))
    refused(ValueError, "expected a positive total weight", events.with_weight(np.zeros(100)))
    none = {name: Ragged(np.empty(0), np.zeros(101, np.int64)) for name in TRIGGER[0].columns}
    refused(ValueError, "objects 'jets': expected events that have some, found none in 100", events.with_columns(none))
    pt = events["jets.pt"]
    zero = events.with_columns({"jets.pt": Ragged(np.where(pt.values < 10, 0.0, pt.values), pt.offsets)})
    refused(ValueError, "column 'jets.pt': expected positive values, of which a logarithm is taken", zero)
    nan = events.with_columns({"met.phi": np.where(np.arange(100) == 3, np.nan, 0.0)})
    refused(ValueError, "column 'met.phi': expected finite values, found 1 of 100", nan)
    refused(ValueError, "scaling: expected 'moments' or 'ranks'", events, scaling="none")
    refused(TypeError, "objects: expected a list of Objects, found Objects", events, objects=TRIGGER[0])
    refused(TypeError, "objects: expected a list of Objects, found .'jets'", events, objects=["jets"])
    refused(TypeError, "network: expected VAE, found MLP", events, network=MLP())
    with pytest.raises(ValueError, match="by: expected one of reconstruction, latent, kl, elbo, found 'mse'"):
        fit_autoencoder(events, objects=TRIGGER, **QUICK).score(events, "mse")  # type: ignore[arg-type]


def test_what_was_always_there_is_not_missing_in_silence(trigger: Autoencoder) -> None:
    """Met was flat in the fit, and has no mask: an event without it would be scored as one with the mean of it."""
    events = collisions(3, 13)
    lists = {f"met.{field}": Ragged.of([[1.0], [], [2.0]]) for field in ("pt", "phi")}
    with pytest.raises(TypeError, match=r"column 'met\.pt': expected a flat column"):
        trigger.score(events.with_columns(lists))


def test_scores_that_overflow_are_refused() -> None:
    """Sentinels such as 1e30 leave the range of single precision: no score is infinite or NaN."""
    events = sample(300, 8)[0]
    model = fit_autoencoder(events, ["x", "y"], network=VAE(latent=1), **QUICK)  # type: ignore[arg-type]
    assert np.isfinite(model.score(Events({"x": [1e6], "y": [0.0]}))).all()
    for far in (1e30, 1e300):
        with pytest.raises(ValueError, match=r"single precision: .* found 1 of 2 not finite, first at rows 1"):
            model.score(Events({"x": [0.0, far], "y": [0.0, 0.0]}))
