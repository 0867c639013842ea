"""`nuinfer.ratio`: ratios as functions of theta, scores and mixtures of classes, against closed forms.

The toy has a latent variable, z = theta + N(0, 1), seen as x = z + N(0, 1): p(x | theta) = N(theta, 2), and the joint
ratio and score are those of z.  The yardstick of a log ratio is Q as in test_ratio.py, n E[s (1 - s) (f - log r)^2],
the chi-squared of its error for n training events: some ten for a good fit of a function of x and theta, hundreds for
none.
"""

from __future__ import annotations

import functools
import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from scipy import optimize, special, stats
from torch import Tensor, nn

from nuinfer import MLP, DeepSet, Events, Features, Ragged, Training, Trees, losses, metrics, nets, train
from nuinfer.features import Batch
from nuinfer.ratio import (
    ClassRatio,
    LocalScore,
    ParametrisedRatio,
    TwoSample,
    fit_class_ratio,
    fit_parametrised_ratio,
    fit_ratio,
    fit_score,
)
from nuinfer.ratio.classes import _temperature
from nuinfer.ratio.draws import Design, Pairing, Reweighting
from nuinfer.ratio.gold import check_joint_ratio, kolmogorov_smirnov
from nuinfer.ratio.learned import Reordered, network_outputs
from nuinfer.ratio.parameters import Parameters, with_gradient
from nuinfer.ratio.reports import Judged, parametrised_report, score_report
from nuinfer.resample import Resample
from nuinfer.simulators import LinearGaussian

Floats = NDArray[np.float64]

N = 3000
BOX = {"theta": (-1.5, 1.5)}
SMALL = MLP(width=24, depth=2)
TRAIN = Training(epochs=12, batch=256, learning_rate=1e-2)
SHORT = Training(epochs=2, batch=64)


def latent(n: int, seed: int, *, reference: bool = False) -> Events:
    """Events at theta from the box, or at theta = 0 with another theta beside them, and what is known of z."""
    rng = np.random.default_rng([seed, reference])
    theta = rng.uniform(-1.5, 1.5, n)
    z = rng.normal(0 * theta if reference else theta)
    x = z + rng.normal(size=n)
    return Events({"theta": theta, "x": x, "z": z, "joint": np.exp(theta * z - theta**2 / 2), "t": z - theta})


def broad(n: int, seed: int) -> Events:
    """Events of a generator that covers every theta, z ~ N(0, 1.5^2)."""
    rng = np.random.default_rng(seed)
    z = rng.normal(0, 1.5, n)
    return Events({"z": z, "x": z + rng.normal(size=n)})


def weight(events: Events, theta: Tensor) -> Tensor:
    """The weight that makes `broad` a sample of theta, times a rate that depends on it."""
    z = torch.from_numpy(events["z"])
    return torch.exp(-((z - theta[:, :1]) ** 2) / 2 + z**2 / (2 * 1.5**2) + 0.3 * theta[:, :1])


def log_ratio(events: Events) -> Floats:
    """Exact, at the events' own theta, to theta = 0."""
    x, theta = events["x"], events["theta"]
    return np.asarray(x * theta / 2 - theta**2 / 4)


def score(events: Events) -> Floats:
    return np.asarray((events["x"] - events["theta"]) / 2)[:, None]


TEST = Events.concat([latent(2000, 1001), latent(2000, 1002, reference=True)])
AT = {"theta": TEST["theta"]}


def cost(log: Floats, n: int = 2 * N, exact: Floats | None = None) -> float:
    """Q for n training events, on a test sample that is half numerator and half denominator."""
    exact = log_ratio(TEST) if exact is None else exact
    s = special.expit(exact)
    return n * float(np.mean(s * (1 - s) * (log - exact) ** 2))


def rms(found: Floats, exact: Floats) -> float:
    return float(np.sqrt(np.mean((found - exact) ** 2)))


def fit(loss: Any = "bce", seed: int = 1, *, simulations: Events | None = None, **options: Any) -> ParametrisedRatio:
    """A fit to the toy with the columns that a loss needs."""
    one = latent(N, seed) if simulations is None else simulations
    columns = {
        "joint_ratio": "joint" if loss in ("alice", "rolr", "alices", "rascal") else None,
        "joint_score": ["t"] if loss in ("cascal", "alices", "rascal") else None,
    }
    options = {"network": SMALL, "training": TRAIN, "seed": seed, "progress": False, **columns} | options
    reference = options.pop("reference", latent(N, seed + 50, reference=True))
    return fit_parametrised_ratio(one, ["theta"], ["x"], reference=reference, loss=loss, **options)


def fit_weighted(loss: Any = "bce", seed: int = 1, events: Events | None = None, **options: Any) -> ParametrisedRatio:
    """A fit to one sample with a weight function."""
    sample = broad(N, seed) if events is None else events
    options = {"network": SMALL, "training": TRAIN, "seed": seed, "progress": False, "weight": weight, "prior": BOX,
               "reference": {"theta": 0.0}} | options  # fmt: skip
    return fit_parametrised_ratio(sample, ["theta"], ["x"], loss=loss, **options)


@functools.cache
def fitted(loss: Any, seed: int = 1) -> ParametrisedRatio:
    """Fits that several tests look at."""
    return fit(loss, seed)


@functools.cache
def shuffled() -> ParametrisedRatio:
    """The wrong one: theta has nothing to do with its event."""
    one = latent(N, 1)
    return fit(simulations=one.with_columns(theta=np.random.default_rng(1).permutation(one["theta"])))


# -- the answer -------------------------------------------------------------------------------------------------------


def test_log_ratio_and_score_of_events_at_many_theta() -> None:
    ratio = fitted("bce")
    assert cost(ratio.log(TEST, AT)) < 40
    assert rms(ratio.score(TEST, AT), score(TEST)) < 0.35
    assert cost(np.zeros(len(TEST))) > 150
    assert cost(shuffled().log(TEST, AT)) > 100
    assert rms(shuffled().score(TEST, AT), score(TEST)) > 0.6


def test_two_parameters() -> None:
    problem = LinearGaussian([[1.0, 0.5], [0.0, 1.0]], noise=1.5)
    simulations, reference = problem.simulate(5000, 1), problem.sample_at([0.0, 0.0], 5000, 2)
    ratio = fit_parametrised_ratio(
        simulations, ["theta0", "theta1"], ["x0", "x1"], reference=reference, network=MLP(width=32, depth=2),
        training=Training(epochs=15, batch=256), seed=1, progress=False,
    )  # fmt: skip
    test = problem.simulate(3000, 3)
    theta = np.stack([test["theta0"], test["theta1"]], 1)
    x = np.stack([test["x0"], test["x1"]], 1)
    exact = problem.log_likelihood(x, theta) - problem.log_likelihood(x, np.zeros(2))
    found = ratio.log(test, theta)
    assert cost(found, 10_000, exact) < 120  # a quadratic form in four variables has 15 parameters
    assert cost(np.zeros(3000), 10_000, exact) > 800
    slope = (x - theta @ problem.matrix.T) @ problem.matrix / 1.5
    assert rms(ratio.score(test, theta), slope) < 0.4
    assert rms(np.zeros((3000, 2)), slope) > 0.8
    by_name = {"theta0": test["theta0"], "theta1": test["theta1"]}
    np.testing.assert_array_equal(ratio.log(test, by_name), found)
    assert rms(ratio.log(test, theta[:, ::-1]), exact) > 3 * rms(found, exact)  # the order of names matters


def test_the_marginal_as_reference() -> None:
    """p(x) of a uniform theta is the difference of two normal distribution functions."""
    ratio = fit(reference="marginal")
    x, theta = TEST["x"], TEST["theta"]
    marginal = (special.ndtr((x + 1.5) / np.sqrt(2)) - special.ndtr((x - 1.5) / np.sqrt(2))) / 3
    exact = stats.norm.logpdf(x, theta, np.sqrt(2)) - np.log(marginal)
    assert cost(ratio.log(TEST, AT), exact=exact) < 30
    assert cost(np.zeros(len(x)), exact=exact) > 100
    assert cost(log_ratio(TEST), exact=exact) > 60  # the other reference
    assert ratio.reference == "marginal"


def test_joint_ratio_and_score_save_events() -> None:
    """The same sizes and seeds: a factor of two in Q and more, where it measures three to six."""
    logs = {loss: np.mean([cost(fitted(loss, s).log(TEST, AT)) for s in (1, 2)]) for loss in ("bce", "alice", "alices")}
    assert logs["alice"] < 0.5 * logs["bce"]
    assert logs["alices"] < 0.7 * logs["alice"]
    scores = {loss: np.mean([rms(fitted(loss, s).score(TEST, AT), score(TEST)) for s in (1, 2)]) for loss in logs}
    assert scores["alices"] < 0.5 * scores["bce"]


def test_the_score_alone_helps() -> None:
    ratio = fit("cascal")
    assert rms(ratio.score(TEST, AT), score(TEST)) < 0.5 * rms(fitted("bce").score(TEST, AT), score(TEST))
    assert cost(ratio.log(TEST, AT)) < cost(fitted("bce").log(TEST, AT))


@pytest.mark.parametrize("loss", ["rolr", "rascal"])
def test_squared_errors_of_the_ratio(loss: str) -> None:
    ratio = fit(loss)
    assert cost(ratio.log(TEST, AT)) < 40
    assert rms(ratio.score(TEST, AT), score(TEST)) < 0.35


def test_a_wrong_joint_ratio_is_believed() -> None:
    """The losses do use it: shuffled, it is no better than nothing."""
    one, zero = latent(N, 1), latent(N, 51, reference=True)
    wrong = one.with_columns(joint=np.random.default_rng(1).permutation(one["joint"]))
    assert cost(fit("alice", simulations=wrong, reference=zero).log(TEST, AT)) > 40


@pytest.mark.parametrize("loss", ["bce", "alices"])
def test_one_sample_with_the_weights_of_every_theta(loss: str) -> None:
    ratio = fit_weighted(loss, points=128, validation=0.0, training=Training(epochs=8, batch=256, learning_rate=1e-2))
    assert cost(ratio.log(TEST, AT), N) < 20
    assert rms(ratio.score(TEST, AT), score(TEST)) < (0.25 if loss == "bce" else 0.12)
    assert cost(np.zeros(len(TEST)), N) > 75
    assert ratio.reference == {"theta": 0.0}
    # the sum of the weights at the reference; shapes do not know of rates
    own = weight(broad(N, 1), torch.zeros(1, 1, dtype=torch.float64)).sum()
    assert ratio.yields.denominator == pytest.approx(float(own), rel=1e-12)


def test_with_weights_the_class_is_known_and_bce_is_alice() -> None:
    one, two = (fit_weighted(loss, events=broad(500, 1), training=SHORT).log(TEST, AT) for loss in ("bce", "alice"))
    np.testing.assert_array_equal(one, two)


def test_weights_and_the_marginal() -> None:
    x, theta = TEST["x"], TEST["theta"]
    marginal = (special.ndtr((x + 1.5) / np.sqrt(2)) - special.ndtr((x - 1.5) / np.sqrt(2))) / 3
    exact = stats.norm.logpdf(x, theta, np.sqrt(2)) - np.log(marginal)
    ratio = fit_weighted(reference="marginal")
    assert cost(ratio.log(TEST, AT), N, exact) < 15
    assert cost(log_ratio(TEST), N, exact) > 30


def share(x: Floats, theta: Floats | float) -> Floats:
    """Of negative weights, at x and theta."""
    return np.asarray(0.3 * special.expit(3 * x * theta))


def signed(events: Events, theta: Tensor) -> Tensor:
    """Weights times -2 with probability p, and times (1 + 2 p)/(1 - p) else: the same densities."""
    p = torch.from_numpy(share(events["x"], theta.numpy()))
    sign = torch.where(torch.from_numpy(events["u"]) < p, -2.0, (1 + 2 * p) / (1 - p))
    return weight(events, theta) * sign


def test_signed_weights_of_theta() -> None:
    """The share of negative events depends on x and theta, so that absolute values have another ratio."""
    events = broad(2 * N, 1).with_columns(u=np.random.default_rng(1).random(2 * N))
    ratio = fit_weighted(events=events, weight=signed, training=Training(epochs=8, batch=256, learning_rate=5e-3))
    x, theta = TEST["x"], TEST["theta"]
    excess = np.log((1 + 4 * share(x, theta)) / (1 + 4 * share(x, 0.0)))  # E|sign| = 1 + 4 p
    absolute = log_ratio(TEST) + excess - np.mean(excess)
    found = ratio.log(TEST, AT)
    assert cost(found) < 20
    assert cost(absolute) > 60
    assert cost(found, exact=absolute) > 60


def test_the_estimate_of_a_thousand_events_is_the_exact_one() -> None:
    """x ~ N(theta, 2): the exact estimate is the mean, its error sqrt(2 / 1000)."""
    x = np.random.default_rng(7).normal(0.4, np.sqrt(2), 1000)
    events, sigma = Events({"x": x}), np.sqrt(2 / 1000)

    def estimate(ratio: ParametrisedRatio) -> float:
        batch = ratio.features.tensors(events).span(0, 1000)

        def value(theta: Floats) -> tuple[float, Floats]:
            at = torch.tensor(theta, requires_grad=True)
            total = -ratio.tensor(batch, at).double().sum()
            (slope,) = torch.autograd.grad(total, at)
            return float(total.detach()), slope.numpy()

        found = optimize.minimize(value, np.zeros(1), jac=True, method="L-BFGS-B", bounds=[(-1.5, 1.5)])
        return float(found.x[0])

    assert abs(estimate(fitted("alices")) - x.mean()) < sigma
    assert abs(estimate(shuffled()) - x.mean()) > 3 * sigma


# -- gold that cannot be right -----------------------------------------------------------------------------------------


def tilted(n: int, seed: int) -> Events:
    """A reference whose theta is not uniform: density (1 + theta / 3) / 3."""
    rng = np.random.default_rng(seed)
    events = latent(2 * n, seed, reference=True)
    return events.select(rng.random(2 * n) < 0.5 + events["theta"] / 6)


def test_a_reference_with_another_density_of_theta_is_refused() -> None:
    """Unseen, log r would be off by log (1 + theta / 3), +-0.4 at the ends; weights that undo it are accepted."""
    one, zero = latent(1000, 1), tilted(1000, 2)
    message = "expected 'theta' to have the weighted density.* differ by up to 0.* draw both from one distribution"
    with pytest.raises(ValueError, match=message):
        fit("alice", simulations=one, reference=zero, training=SHORT)
    mended = zero.with_weight(1 / (1 + zero["theta"] / 3))
    assert np.isfinite(fit("alice", simulations=one, reference=mended, training=SHORT).log(TEST, AT)).all()
    with pytest.raises(ValueError, match=message):
        fit("alice", simulations=one.with_weight(1 + one["theta"] / 3), reference=mended, training=SHORT)
    fit("bce", simulations=one, reference=zero, training=SHORT)  # which borrows theta


def test_the_weighted_kolmogorov_smirnov_test_has_its_size() -> None:
    """Without weights the asymptotic p-value of scipy; with weights and copies at most 5 % of p-values below 5 %."""
    rng = np.random.default_rng(1)
    a, b = rng.normal(size=400), rng.normal(0.2, 1, 300)
    ids = np.arange(400)
    expected = stats.ks_2samp(a, b, method="asymp")
    distance, p = kolmogorov_smirnov((a, np.ones(400), ids), (b, np.ones(300), ids[:300]))
    assert distance == pytest.approx(expected.statistic, rel=1e-12)
    assert p == pytest.approx(special.kolmogorov(np.sqrt(400 * 300 / 700) * distance), rel=1e-9)
    found: dict[str, list[float]] = {"weights": [], "copies": [], "apart": []}
    ones, ids = np.ones(300), np.arange(300)
    for _ in range(300):
        u, v = rng.uniform(size=(2, 300))
        heavy, four = 5.0 * (rng.random(300) < 0.2), (np.repeat(u, 4), np.ones(1200))
        firsts = {"weights": (u, heavy, ids), "copies": (*four, np.repeat(ids, 4)), "apart": (*four, np.arange(1200))}
        for name, first in firsts.items():
            found[name].append(kolmogorov_smirnov(first, (v, ones, ids))[1])
    sizes = {name: float(np.mean(np.array(p) < 0.05)) for name, p in found.items()}
    sigma = np.sqrt(0.05 * 0.95 / 300)
    assert max(sizes["weights"], sizes["copies"]) < 0.05 + 3 * sigma
    assert min(sizes["weights"], sizes["copies"]) > 0.005
    assert sizes["apart"] > 0.1  # copies that are counted as events


@pytest.mark.parametrize("group", [None, "parent"])
def test_joint_ratios_that_contradict_themselves(group: str | None, caplog: pytest.LogCaptureFixture) -> None:
    one, zero = (latent(1000, 1, reference=r).with_columns(parent=np.arange(1000)) for r in (False, True))
    options: dict[str, Any] = {"training": Training(epochs=1, batch=512), "group": group}

    def changed(f: Any) -> tuple[Events, Events]:
        return one.with_columns(joint=f(one["joint"])), zero.with_columns(joint=f(zero["joint"]))

    with caplog.at_level(logging.WARNING, logger="nuinfer"):
        fit("alices", simulations=one, reference=zero, **options)
        assert not caplog.text
        for f in (lambda r: 3 * r, lambda r: r * one["theta"] ** 2 + 0.01):
            simulations, reference = changed(f)
            fit("alice", simulations=simulations, reference=reference, **options)
            assert "joint ratio: 1/(1 + r) has mean 0." in caplog.text
            caplog.clear()
        simulations, reference = changed(lambda r: 1 / r)
        with pytest.raises(ValueError, match="where it has to be the smaller one; the column may be the inverse"):
            fit("alice", simulations=simulations, reference=reference, **options)


def test_copies_of_one_event_are_no_evidence(caplog: pytest.LogCaptureFixture) -> None:
    """Thirty copies of 40 events: 2.5 standard deviations that would be 14."""
    one, zero = latent(40, 3), latent(40, 3, reference=True)
    joint = [np.log(e["joint"]) for e in (one, zero)]
    copies = [Events({"parent": np.repeat(np.arange(40), 30)}, id=np.arange(1200)) for _ in joint]
    shift = 0.25
    with caplog.at_level(logging.WARNING, logger="nuinfer"):
        logs = tuple(np.repeat(j + shift, 30) for j in joint)
        check_joint_ratio(copies[0], copies[1], (logs[0], logs[1]), "parent")
        assert not caplog.text
        check_joint_ratio(copies[0], copies[1], (logs[0], logs[1]), None)
        assert "joint ratio" in caplog.text


@pytest.mark.parametrize("loss", ["cascal", "alices"])
@pytest.mark.parametrize("extra", [lambda e: 0.3 + 0 * e["theta"], lambda e: 0.4 * e["theta"]], ids=["mean", "slope"])
def test_joint_scores_with_a_mean_are_said(loss: str, extra: Any, caplog: pytest.LogCaptureFixture) -> None:
    """What the gradient of log W(theta) adds where it was not subtracted."""
    one, zero = latent(1000, 1), latent(1000, 1, reference=True)
    with caplog.at_level(logging.WARNING, logger="nuinfer"):
        options: dict[str, Any] = {"reference": zero, "training": Training(epochs=1, batch=512)}
        fit(loss, simulations=one, **options)
        assert not caplog.text
        fit(loss, simulations=one.with_columns(t=one["t"] + extra(one)), **options)
    assert "joint score: the mean of 'theta'" in caplog.text


# -- the score at one theta -------------------------------------------------------------------------------------------

LINE = Events({"x": np.linspace(-2.5, 2.5, 101)})


def test_sally_is_the_exact_score() -> None:
    """E[z - theta | x] = (x - theta) / 2, and the information of one event is 1/2."""
    options: dict[str, Any] = {"network": SMALL, "training": TRAIN, "seed": 1, "progress": False, "folds": 2}
    at = latent(N, 1, reference=True)
    found = fit_score(at, ["theta"], ["x"], reference={"theta": 0.0}, joint_score=["z"], **options)
    exact = LINE["x"][:, None] / 2
    # least squares: the residual t - t(x) has variance 1/2, so that a fit of about 10 parameters has this error
    assert rms(found.score(LINE), exact) < 3 * np.sqrt(0.5 * 10 / N)
    assert rms(0 * exact, exact) > 0.7
    assert found.information[0, 0] == pytest.approx(0.5, abs=0.065)  # 4 sqrt(var(z x / 2) / N) = 0.063
    weighted = fit_score(broad(N, 1), ["theta"], ["x"], reference=[0.0], weight=weight, **options)
    assert rms(weighted.score(LINE), exact) < 4 * np.sqrt(0.5 * 10 / N)
    theta = {"theta": 0.1}
    np.testing.assert_allclose(found.log(LINE, theta), 0.1 * LINE["x"] / 2 - 0.1**2 / 4, atol=0.02)
    batch = Features(["x"]).tensors(LINE).span(0, len(LINE))
    np.testing.assert_allclose(found.tensor(batch).numpy(), found.score(LINE), atol=1e-5)


def test_the_information_of_noise_is_none() -> None:
    """A joint score that has nothing to do with x: what networks learn of it is noise, and no information."""
    rng, n = np.random.default_rng(1), 400
    events = Events({name: rng.normal(size=n) for name in ("x", "y", "a", "b")})
    options: dict[str, Any] = {"reference": [0.0, 0.0], "joint_score": ["a", "b"], "validation": 0.0, "seed": 1,
                               "training": Training(epochs=30, batch=64, learning_rate=3e-2)}  # fmt: skip
    found, blind = (
        fit_score(events, ["a", "b"], ["x", "y"], network=MLP(width=64, depth=2), progress=False, folds=f, **options)
        for f in (3, 1)
    )
    learned = np.mean(found.score(events) ** 2)
    assert np.abs(found.information).max() < 4 * np.sqrt(learned / n) < learned
    np.testing.assert_array_equal(found.information, found.information.T)
    assert blind.information.trace() > 0.03  # over the training events, as its description says


def test_the_information_is_over_held_out_events() -> None:
    """The mean over each member's own held-out events of z t(x), with signed weights."""
    at = latent(400, 1, reference=True)
    at = at.with_weight(np.where(np.arange(400) % 7 == 0, -0.5, 1.0))
    found = make_score(events=at, members=2, validation=0.4)
    members, top, total = found.members(at)[..., 0], 0.0, 0.0
    centred = at["z"] - np.average(at["z"], weights=at.weight)
    for member in range(2):
        held = found.resample.times(member, at.id, held_out=True) * at.weight
        top, total = top + held @ (centred * members[member]), total + held.sum()
    assert found.information[0, 0] == pytest.approx(top / total, rel=1e-5)
    assert abs(found.information[0, 0] / np.average(found.score(at)[:, 0] ** 2, weights=at.weight) - 1) > 0.05


def test_the_local_family_is_of_second_order_in_the_mean_only() -> None:
    """x ~ N(0, (1 + s)^2): t = x^2 - 1 and I = 2 at s = 0, where log p(0) changes by -log(1 + s), not -s - s^2."""
    x = np.random.default_rng(1).normal(size=N)
    events = Events({"x": x, "t": x**2 - 1})
    found = fit_score(events, ["s"], ["x"], reference=[0.0], joint_score=["t"], network=SMALL, training=TRAIN, seed=1,
                      progress=False, folds=2)  # fmt: skip
    s, grid = 0.2, np.linspace(-3, 3, 201)
    family = s * (grid**2 - 1) - s**2
    central = np.abs(grid) < 2.5
    np.testing.assert_allclose(found.log(Events({"x": grid}), [s])[central], family[central], atol=0.25)
    exact = stats.norm.logpdf(grid, 0, 1 + s) - stats.norm.logpdf(grid)
    assert abs(found.log(Events({"x": [0.0]}), [s])[0] - exact[100]) > 0.03
    # in the mean, -s^2 against -s^2 + 5/3 s^3
    density = stats.norm.pdf(grid) / stats.norm.pdf(grid).sum()
    assert abs(density @ family - density @ exact) < 2 * s**3


def test_signed_weights_of_a_score() -> None:
    """Negative weights are more frequent at large z; their absolute values would have another mean of z given x."""
    at = latent(2 * N, 1, reference=True)
    p = share(at["z"], 1.0)
    sign = np.where(np.random.default_rng(1).random(2 * N) < p, -2.0, (1 + 2 * p) / (1 - p))
    training = Training(epochs=6, batch=256, learning_rate=5e-3)
    found = fit_score(at.with_weight(sign), ["theta"], ["x"], reference=[0.0], joint_score=["z"], seed=1,
                      training=training, progress=False, network=SMALL)  # fmt: skip
    line = Events({"x": np.linspace(-2, 2, 41)})
    exact = line["x"] / 2
    assert rms(found.score(line)[:, 0], exact) < 0.12  # 3 sqrt(0.5 * 4 * 4 / (2 N)): sign^2 is 4 on average
    # E[(1 + 4 p) z | x] / E[1 + 4 p | x] by quadrature, centred
    z = np.linspace(-6, 6, 1001)
    density = stats.norm.pdf(z) * (1 + 4 * share(z, 1.0)) * stats.norm.pdf(line["x"][:, None] - z)
    absolute = density @ z / density.sum(1) - np.average(z, weights=stats.norm.pdf(z) * (1 + 4 * share(z, 1.0)))
    assert rms(absolute, exact) > 0.12


def test_sally_of_two_parameters() -> None:
    problem = LinearGaussian([[1.0, 0.5], [0.0, 1.0]], noise=1.0)
    events = problem.sample_at([0.0, 0.0], N, 1)
    rng = np.random.default_rng(1)
    x = np.stack([events["x0"], events["x1"]], 1)
    exact = x @ problem.matrix
    joint = exact + rng.normal(size=exact.shape)  # what a latent variable adds, of mean zero given x
    events = events.with_columns(a=joint[:, 0], b=joint[:, 1])
    found = fit_score(
        events, ["a", "b"], ["x0", "x1"], reference=[0.0, 0.0], joint_score=["a", "b"], network=SMALL, training=TRAIN,
        seed=1, progress=False, members=2,
    )  # fmt: skip
    assert found.members(events).shape == (2, N, 2)
    assert rms(found.score(events), exact) < 0.25
    assert rms(0 * exact, exact) > 1
    np.testing.assert_allclose(found.information, problem.matrix.T @ problem.matrix, atol=0.2)


# -- classes ----------------------------------------------------------------------------------------------------------

MEANS, SIZES = {"low": -1.5, "mid": 0.0, "high": 1.5}, (2000, 4000, 1000)
PI = np.array(SIZES) / sum(SIZES)


def gaussians(seed: int = 1, sizes: tuple[int, ...] = SIZES) -> dict[str, Events]:
    rng = np.random.default_rng(seed)
    return {name: Events({"x": rng.normal(m, 1, n)}) for (name, m), n in zip(MEANS.items(), sizes, strict=True)}


def posterior(x: Floats, pi: Floats = PI) -> Floats:
    """Exact class probabilities."""
    logs = stats.norm.logpdf(x[:, None], list(MEANS.values()), 1) + np.log(pi)
    return np.asarray(special.softmax(logs, axis=1))


def fit_classes(samples: Mapping[str, Events] | None = None, **options: Any) -> ClassRatio:
    options = {"network": SMALL, "training": TRAIN, "seed": 1, "progress": False} | options
    return fit_class_ratio(gaussians() if samples is None else samples, ["x"], **options)


@pytest.mark.parametrize("options", [{}, {"members": 2, "folds": 2, "calibrate": "temperature", "bootstrap": False}])
def test_class_probabilities_and_mixtures(options: Any) -> None:
    """The error of a probability is that of about ten parameters over 7000 events."""
    ratio, x = fit_classes(**options), LINE["x"]
    exact, sigma = posterior(x), np.sqrt(10 * 0.25 / 7000)
    assert rms(ratio.probabilities(LINE), exact) < 2 * sigma
    assert rms(PI + 0 * exact, exact) > 10 * sigma
    factors = {"low": 0.2, "high": 3.0}
    p = np.array([0.2, 1.0, 3.0])
    log = np.log(exact @ p) - np.log(PI @ p)
    assert rms(ratio.log(LINE, factors), log) < 0.05
    assert rms(0 * log, log) > 0.4
    np.testing.assert_allclose(ratio.log(LINE, p), ratio.log(LINE, factors), rtol=1e-12)
    np.testing.assert_allclose(ratio.log(LINE, 7 * p), ratio.log(LINE, p), atol=1e-12)  # of shapes
    np.testing.assert_allclose(ratio.log(LINE, np.ones(3)), 0, atol=1e-6)
    one_class = ratio.log(LINE, [0, 0, 1])
    np.testing.assert_allclose(ratio.log_ratios(LINE)[:, 2], one_class, atol=1e-6)
    np.testing.assert_allclose(ratio.fractions, PI)


def test_a_mixture_is_a_function_of_theta() -> None:
    """Survival: P_k = 1 - theta sin^2(phi + k)."""
    ratio = fit_classes()
    phases = torch.tensor([0.3, 1.3, 2.3], dtype=torch.float64)
    bound = ratio.of(["strength", "phase"], lambda t: 1 - t[:, :1] * torch.sin(t[:, 1:] + phases) ** 2)
    at = {"strength": 0.8, "phase": 0.2}
    p = 1 - 0.8 * np.sin(0.2 + phases.numpy()) ** 2
    np.testing.assert_allclose(bound.log(LINE, at), ratio.log(LINE, p), rtol=1e-12)
    assert rms(bound.log(LINE, at), np.log(posterior(LINE["x"]) @ p) - np.log(PI @ p)) < 0.05
    slope = bound.score(LINE, at)
    for j, name in enumerate(at):
        up, down = (bound.log(LINE, {**at, name: at[name] + h}) for h in (1e-5, -1e-5))
        np.testing.assert_allclose(slope[:, j], (up - down) / 2e-5, atol=1e-6)
    batch = ratio.features.tensors(LINE).span(0, len(LINE))
    theta = torch.tensor([0.8, 0.2], dtype=torch.float64, requires_grad=True)
    found = bound.tensor(batch, theta)
    np.testing.assert_allclose(found.detach(), bound.log(LINE, at), atol=1e-6)
    (total,) = torch.autograd.grad(found.sum(), theta)
    np.testing.assert_allclose(total, slope.sum(0), rtol=1e-4)
    many = ratio.tensor(batch, torch.from_numpy(np.stack([p, np.ones(3)])))
    np.testing.assert_allclose(many[0].detach(), ratio.log(LINE, p), atol=1e-6)
    assert many.shape == (2, len(LINE))


def test_class_weights_are_weights() -> None:
    """Weight 2 is the event twice, 0 its absence: within half a sigma, where 1 is many away."""
    network = lambda: nn.Linear(1, 3)  # noqa: E731 - the exact model of Gaussians of one width
    training = Training(epochs=60, batch=4096, learning_rate=0.1, weight_decay=0.0)
    options: dict[str, Any] = {"network": network, "training": training, "validation": 0.0}
    samples, extra = gaussians(sizes=(1500, 1500, 1500)), Events({"x": np.random.default_rng(5).normal(1, 1, 1500)})
    copies = Events({"x": extra["x"]}, id=np.arange(1500))

    def probabilities(*parts: Events) -> Floats:
        return fit_classes({**samples, "high": Events.concat([samples["high"], *parts])}, **options).probabilities(LINE)

    sigma = np.sqrt(0.25 * 4 / 6000)
    twice, doubled = probabilities(extra.with_weight(2.0)), probabilities(extra, copies)
    np.testing.assert_allclose(twice, doubled, atol=0.5 * sigma)
    once = probabilities(extra)
    assert np.abs(once - twice).max() > 4 * sigma
    cancelled = probabilities(extra, copies.with_weight(-1.0))
    np.testing.assert_allclose(cancelled, probabilities(extra.with_weight(0.0)), atol=0.5 * sigma)
    assert np.abs(once - cancelled).max() > 4 * sigma


def test_negative_factors_are_allowed_where_the_density_is_positive() -> None:
    ratio = fit_classes()
    log = ratio.log(LINE, {"mid": 2.0, "low": -0.02})
    assert np.isfinite(log).all()
    with pytest.raises(ValueError, match=r"expected a positive density at every event, found -.* at row 0 and "):
        ratio.log(LINE, {"low": -1.0})


def test_every_method_refuses_a_density_that_is_not_positive() -> None:
    ratio = make_classes()
    bound = ratio.of(["low"], lambda t: torch.cat([t, torch.ones(len(t), 2, dtype=torch.float64)], 1))
    batch = ratio.features.tensors(LINE).span(0, len(LINE))
    bad, good = torch.tensor([-50.0]), torch.tensor([1.5])
    calls: list[Any] = [
        lambda t: bound.log(LINE, t.numpy()), lambda t: bound.score(LINE, t.numpy()), lambda t: bound.tensor(batch, t),
        lambda t: ratio.tensor(batch, torch.cat([t, torch.ones(2)])),
        lambda t: ratio.tensor(batch, torch.ones(2, 3) * torch.cat([t, torch.ones(2)])),
    ]  # fmt: skip
    for call in calls:
        with pytest.raises(ValueError, match=r"expected a positive density at every event, found -.* the total is -"):
            call(bad)
        assert np.isfinite(np.asarray(call(good).detach() if isinstance(call(good), Tensor) else call(good))).all()
    for theta in (torch.zeros(2), torch.zeros(5, 1), torch.zeros(101, 1, 1)):
        with pytest.raises(ValueError, match=r"theta: expected a tensor \(1,\) or \(101, 1\) of low, found"):
            bound.tensor(batch, theta)


def test_probabilities_that_are_known_are_not_computed_again(monkeypatch: pytest.MonkeyPatch) -> None:
    ratio = make_classes(members=2, folds=2)
    bound = ratio.of(["low"], lambda t: torch.cat([t, torch.ones(len(t), 2, dtype=torch.float64)], 1))
    expected = bound.log(LINE, [2.0]), bound.score(LINE, [2.0]), ratio.log(LINE, [2.0, 1.0, 1.0])
    q = ratio.probabilities(LINE)
    with monkeypatch.context() as patch:
        patch.setattr(ClassRatio, "members", None)  # the network
        found = (
            bound.log(LINE, [2.0], probabilities=q), bound.score(LINE, [2.0], probabilities=q),
            ratio.log(LINE, [2.0, 1.0, 1.0], probabilities=q),
        )  # fmt: skip
    for one, other in zip(found, expected, strict=True):
        np.testing.assert_array_equal(one, other)
    with pytest.raises(ValueError, match=r"probabilities: expected those of the events, \(101, 3\), found \(100, 3\)"):
        bound.log(LINE, [2.0], probabilities=q[:100])


def test_a_temperature_undoes_one() -> None:
    """Logits that are twice too steep, with offsets: the least cross-entropy has half the slope, without them."""
    samples = gaussians(sizes=(20_000, 40_000, 10_000))
    x, k = np.concatenate([e["x"] for e in samples.values()]), np.repeat(np.arange(3), [20_000, 40_000, 10_000])
    offsets = np.array([0.5, -0.3, 0.0])
    found = _temperature(2 * np.log(posterior(x)) + offsets, np.eye(3)[k] / len(x))
    assert found[0] == pytest.approx(0.5, abs=0.02)
    np.testing.assert_allclose(found[1:] - found[3], -0.5 * (offsets - offsets[2]), atol=0.04)


def test_a_temperature_is_applied() -> None:
    ratio = make_classes(calibrate="temperature", members=2)
    raw = ratio.learned.model.log(ratio.features.tensors(LINE))
    expected = np.log(special.softmax(raw * ratio.maps[:, None, :1] + ratio.maps[:, None, 1:], -1))
    np.testing.assert_allclose(ratio.members(LINE), expected, rtol=1e-10)
    assert np.abs(expected - special.log_softmax(raw, -1)).max() > 0.05
    batch = ratio.features.tensors(LINE).span(0, len(LINE))
    at = torch.tensor([2.0, 1.0, 0.5])
    np.testing.assert_allclose(ratio.tensor(batch, at).detach(), ratio.log(LINE, at.numpy()), atol=1e-6)


FEW: dict[str, Any] = {
    "samples": functools.partial(fit, simulations=latent(800, 1), reference=latent(800, 51, reference=True)),
    "weights": functools.partial(fit_weighted, events=broad(800, 1)),
}

# -- ensembles --------------------------------------------------------------------------------------------------------


def test_members_folds_and_their_mean() -> None:
    one = latent(600, 1)
    ratio = fit(simulations=one, reference=latent(600, 2, reference=True), members=2, folds=2, training=SHORT)
    new = latent(100, 9)
    events = Events.concat([one.select(slice(0, 100)), new])
    theta = {"theta": 0.7}
    members = ratio.members(events, theta)
    assert members.shape == (2, 200)
    np.testing.assert_allclose(ratio.log(events, theta), np.log(np.exp(members).mean(0)), rtol=1e-10)
    columns = ratio.parameters.standard(np.full((200, 1), 0.7))
    each = ratio.learned.model.log(ratio.learned.inputs(events, columns)).reshape(2, 2, 200)
    fold = ratio.resample.fold_of(events.id)
    own = np.where(fold == 0, each[:, 0], each[:, 1])
    np.testing.assert_allclose(members[:, :100], own[:, :100], rtol=1e-12)
    np.testing.assert_allclose(members[:, 100:], np.log(np.exp(each).mean(1))[:, 100:], rtol=1e-10)
    assert np.abs(members[:, :100] - np.log(np.exp(each).mean(1))[:, :100]).max() > 1e-3
    slope = ratio.score(events, theta)[:, 0]
    up, down = (ratio.log(events, {"theta": 0.7 + h}) for h in (1e-2, -1e-2))
    np.testing.assert_allclose(slope, (up - down) / 2e-2, atol=2e-3)


@pytest.mark.parametrize("kind", ["score", "classes"])
def test_known_events_get_the_networks_of_their_own_fold(kind: str) -> None:
    """The other members of an ensemble, and unknown events, get the mean over folds."""
    one = latent(300, 1, reference=True) if kind == "score" else gaussians(sizes=(100, 100, 100))["mid"]
    result: Any = make_score(members=2, folds=2) if kind == "score" else make_classes(members=2, folds=2)
    events = Events.concat([e.keep(["x"]) for e in (one, latent(100, 9))])
    raw = result.learned.model.log(result.features.tensors(events)).reshape(2, 2, len(events), -1)
    fold = result.resample.fold_of(events.id)
    each = raw * result.scale if kind == "score" else special.softmax(raw, -1)
    own = np.where((fold == 0)[:, None], each[:, 0], each[:, 1])
    members = result.members(events) if kind == "score" else np.exp(result.members(events))
    known = len(one)
    np.testing.assert_allclose(members[:, :known], own[:, :known], rtol=1e-10)
    np.testing.assert_allclose(members[:, known:], each.mean(1)[:, known:], rtol=1e-10)
    assert np.abs(members - each.mean(1))[:, :known].max() > 1e-3
    answer = result.score(events) if kind == "score" else result.probabilities(events)
    np.testing.assert_allclose(answer, members.mean(0), rtol=1e-10)


def test_bootstraps_are_other_fits() -> None:
    weighted = functools.partial(fit_weighted, events=broad(300, 1), training=SHORT)
    for make, answer in (*ANSWERS.values(), (weighted, ANSWERS["ratio"][1])):
        plain, bootstrapped = (answer(make(bootstrap=b)) for b in (False, True))
        assert np.abs(plain - bootstrapped).max() > 0.01


def test_reweighting_uses_other_thetas_each_epoch() -> None:
    """All of the design within count / 64 epochs; the same ones for the validation of every epoch."""
    events, theta = broad(500, 1), np.random.default_rng(1).uniform(-1, 1, (192, 1))
    parameters = Parameters.of(["theta"], theta)
    design = Design.of(parameters, theta, weight, events, np.zeros(1), score=False, positive=False)
    draw = Reweighting(events, weight, design, Resample(seed=1), joint=False, score=False)
    rows, networks = torch.arange(500)[None, None].expand(4, 2, 500), np.arange(2)
    seen = [set(draw(rows, networks, epoch).columns.reshape(-1).tolist()) for epoch in (0, 1, 2)]
    assert [len(s) for s in seen] == [64, 64, 64]
    assert len(seen[0] | seen[1] | seen[2]) == 192
    held = draw(rows, networks, None)
    assert torch.equal(held.columns, draw(rows, networks, None).columns)
    # the numerator's weight is that of the theta beside it
    at = torch.from_numpy(theta)[[int(np.argmin(np.abs(parameters.standard(theta)[:, 0] - v)))
                                  for v in held.columns[0, 0, :5, 0].tolist()]]  # fmt: skip
    exact = weight(events, at)
    expected = exact[torch.arange(5), torch.arange(5)] * 500 / exact.sum(1)
    np.testing.assert_allclose(held.factors[0][0, 0, :5], expected, rtol=1e-10)


def test_held_out_rows_are_scored_by_their_own_network() -> None:
    for network in (SMALL, lambda: nn.Linear(1, 1)):
        found = fit_score(latent(300, 1, reference=True), ["theta"], ["x"], reference=[0.0], joint_score=["z"],
                          training=SHORT, seed=1, progress=False, network=network, members=3)  # fmt: skip
        inputs = found.features.tensors(TEST)
        for n in range(3):
            one = network_outputs(found.learned.model, inputs, n)
            np.testing.assert_allclose(one, found.learned.model.log(inputs)[n], atol=1e-6)


@pytest.mark.parametrize("make", FEW.values(), ids=FEW)
def test_the_same_seed_gives_the_same_bits_and_member_k_is_itself(make: Any) -> None:
    training = Training(epochs=3, batch=128)
    one, two, more, other = (
        make(members=m, seed=s, training=training, validation=0.3).members(TEST, AT)
        for m, s in ((2, 1), (2, 1), (4, 1), (2, 2))
    )
    np.testing.assert_array_equal(one, two)
    np.testing.assert_allclose(one, more[:2], atol=5e-4)
    assert np.abs(one - other).max() > 0.01
    assert np.std(more, 0).min() > 0


def test_tensor_is_the_differentiable_twin() -> None:
    ratio = fitted("alices")
    batch = ratio.features.tensors(TEST).span(0, len(TEST))
    batch.flat.requires_grad_()
    theta = torch.tensor(TEST["theta"][:, None], requires_grad=True)
    found = ratio.tensor(batch, theta)
    np.testing.assert_allclose(found.detach(), ratio.log(TEST, AT), atol=1e-5)
    slope, by_x = torch.autograd.grad(found.sum(), (theta, batch.flat))
    np.testing.assert_allclose(slope, ratio.score(TEST, AT), atol=1e-4)
    assert rms(by_x[0, :, 0].numpy(), TEST["theta"] / 2) < 0.2
    single = ratio.tensor(batch, torch.tensor([0.3]))
    np.testing.assert_allclose(single.detach(), ratio.log(TEST, [0.3]), atol=1e-5)
    with pytest.raises(ValueError, match=r"expected a tensor \(1,\) or \(B, 1\) of theta, found \(3,\)"):
        ratio.tensor(batch, torch.zeros(3))


def test_calibrated_ratios_have_no_gradient() -> None:
    ratio = fit(calibrate="monotone", members=2)
    assert cost(ratio.log(TEST, AT)) < 40
    batch = ratio.features.tensors(TEST).span(0, 10)
    for call in (lambda: ratio.score(TEST, AT), lambda: ratio.tensor(batch, torch.zeros(1))):
        with pytest.raises(TypeError, match="expected a ratio without calibration, found 'monotone'"):
            call()


# -- is it good? ------------------------------------------------------------------------------------------------------


class ExactRatio(ParametrisedRatio):
    """The toy's own log ratio, to theta = 0 or to the marginal; ``slope`` 1 is right."""

    slope = 1.0

    def log(self, events: Events, theta: Any) -> Floats:
        x, t = events["x"], self.parameters.read(theta, len(events))[:, 0]
        if self.reference == "marginal":
            marginal = (special.ndtr((x + 1.5) / np.sqrt(2)) - special.ndtr((x - 1.5) / np.sqrt(2))) / 3
            return np.asarray(stats.norm.logpdf(x, t, np.sqrt(2)) - np.log(marginal))
        return np.asarray(self.slope * x * t / 2 - t**2 / 4)


class SteepRatio(ExactRatio):
    slope = 1.6


def with_signs(events: Events, seed: int) -> Events:
    """A tenth of the weights negative, whatever x and theta."""
    return events.with_weight(np.where(np.random.default_rng([seed, 7]).random(len(events)) < 0.1, -1.0, 1.2))


def reports(kind: str, cls: type[ExactRatio], count: int) -> list[Any]:
    """Reports of independent samples on a ratio that was not fitted."""
    reference: dict[str, Any] = {"samples": "sample", "signed": "sample", "weights": {"theta": 0.0}}
    ratio = cls(**{**vars(make_ratio()), "reference": reference.get(kind, "marginal")})
    found = []
    for s in range(100, 100 + count):
        one, zero = latent(1500, s), latent(1500, s, reference=True)
        if kind == "signed":
            one, zero = with_signs(one, s), with_signs(zero, s + 1000)
        if kind.startswith("weights"):
            found.append(ratio.report(broad(3000, s), weight=weight, prior=BOX, seed=s))
        else:
            found.append(ratio.report(one, None if kind == "marginal" else zero, seed=s))
    return found


@pytest.fixture
def no_two_sample_test(monkeypatch: pytest.MonkeyPatch) -> None:
    """Reports without their trainings, for many of them."""
    same = TwoSample(metrics.Score(0.5, 1.0), metrics.Score(0.5, 1.0))
    monkeypatch.setattr("nuinfer.ratio.density_ratio.two_sample_test", lambda *a, **k: same)


@pytest.mark.parametrize("kind", ["samples", "signed", "marginal", "weights", "weights, marginal"])
def test_the_exact_ratio_passes_its_report(kind: str, no_two_sample_test: None) -> None:
    """600 pulls of reliability: 10 bins of two normalised samples have 9 degrees of freedom, a width of 0.95."""
    found = reports(kind, ExactRatio, 15)
    pulls = np.concatenate([r.pulls for r in found])
    assert len(pulls) == 15 * 4 * 10
    assert abs(pulls.mean()) < 4 / np.sqrt(600)
    assert pulls.std() == pytest.approx(np.sqrt(0.9), abs=4 / np.sqrt(2 * 600))
    # the mean ratios of one report share their events; its weights fluctuate, so that errors of the tails are small
    means = np.array([[region.mean_ratio_pull for region in r.regions] for r in found])
    assert np.abs(means.mean(0)).max() < 4 * 1.2 / np.sqrt(15)
    assert 0.3 < means.std() < 1.5


def test_a_ratio_that_is_too_steep_fails_its_report(no_two_sample_test: None) -> None:
    """Where theta is far from the reference, log r is wrong by 0.6 x theta / 2."""
    for report in reports("samples", SteepRatio, 3):
        chi2 = [float(np.sum(region.reliability.pulls**2)) for region in report.regions]
        assert chi2[0] + chi2[-1] > 20 + 5 * np.sqrt(40)
        assert max(abs(region.mean_ratio_pull) for region in report.regions) > 2.5


def test_regions_of_theta_and_the_text_of_a_report() -> None:
    ratio = ExactRatio(**vars(make_ratio()))
    one, zero = latent(2000, 5), latent(2000, 5, reference=True)
    report = ratio.report(one, zero, regions=3, bins=5)
    assert len(report.regions) == 3
    theta = np.concatenate([[r.low[0], r.high[0]] for r in report.regions])
    assert (np.diff(theta) > 0).all()
    assert (theta[0], theta[-1]) == (one["theta"].min(), one["theta"].max())
    inside = [(one["theta"] >= r.low[0]) & (one["theta"] <= r.high[0]) for r in report.regions]
    assert sum(i.sum() for i in inside) == 2000
    for region, mine in zip(report.regions, inside, strict=True):
        np.testing.assert_allclose(region.theta, np.median(one["theta"][mine]))
        r = np.exp(zero["x"] * region.theta / 2 - region.theta**2 / 4)
        assert region.mean_ratio == pytest.approx(r.mean())
        assert region.mean_ratio_error == pytest.approx(r.std() / np.sqrt(2000))
    assert abs(report.overall.two_sample.z) < 4  # of x and theta, out of fold
    assert report.overall.two_sample_before.z > 4
    text = str(report)
    for part in ("theta in [-1.", "  reliability: chi2 = ", "  mean ratio E_ref[r] = ", "  two-sample test: AUC"):
        assert part in text
    grid = one.with_columns(theta=np.round(one["theta"]))  # a grid of three values has three regions
    assert [r.theta[0] for r in ratio.report(grid, zero, regions=9).regions] == [-1.0, 0.0, 1.0]


def test_the_two_sample_test_of_a_report_sees_theta() -> None:
    """x alone has no difference: r depends on the product of x and theta."""
    flat = ExactRatio(**{**vars(make_ratio()), "reference": "marginal"})
    flat = type("Flat", (ExactRatio,), {"log": lambda self, events, theta: np.zeros(len(events))})(**vars(flat))
    report = flat.report(latent(3000, 5))
    assert report.overall.two_sample.z > 4
    assert np.abs(report.pulls).max() < 6  # with every r = 1 there is one bin, and its fraction is right


def test_a_fitted_ratio_passes_and_one_of_shuffled_theta_does_not() -> None:
    one, zero = latent(6000, 71), latent(6000, 71, reference=True)
    good, bad = (ratio.report(one, zero) for ratio in (fitted("alices"), shuffled()))
    assert np.sum(good.pulls**2) < 40 + 5 * np.sqrt(80)
    assert abs(good.overall.two_sample.z) < 4
    assert bad.overall.two_sample.z > 4
    assert fit_two_parameters().report(*two_parameters(1500, 9), regions=4).regions[0].low.shape == (2,)


def two_parameters(n: int, seed: int) -> tuple[Events, Events]:
    problem = LinearGaussian([[1.0, 0.5], [0.0, 1.0]], noise=1.5)
    return problem.simulate(n, seed), problem.sample_at([0.0, 0.0], n, seed + 1)


def fit_two_parameters() -> ParametrisedRatio:
    one, zero = two_parameters(300, 1)
    return fit_parametrised_ratio(
        one, ["theta0", "theta1"], ["x0", "x1"], reference=zero, network=SMALL, training=SHORT, seed=1, progress=False
    )


def test_reports_refuse_what_they_cannot_judge() -> None:
    ratio, one = make_ratio(), latent(100, 1)
    with pytest.raises(ValueError, match="report: expected events of the reference too"):
        ratio.report(one)
    with pytest.raises(ValueError, match="weight and prior: expected both or neither"):
        ratio.report(broad(100, 1), weight=weight)
    with pytest.raises(ValueError, match="weight: expected none for a ratio to a sample of events, found a function"):
        ratio.report(broad(100, 1), weight=weight, prior=BOX)
    with pytest.raises(ValueError, match="reference: expected none beside weight=, which gives it, found Events"):
        ratio.report(broad(100, 1), one, weight=weight, prior=BOX)
    with pytest.raises(ValueError, match="regions: expected at least 1, found 0"):
        ratio.report(one, one, regions=0)
    with pytest.raises(KeyError, match="no column 'theta'"):
        ratio.report(broad(100, 1), one)
    with pytest.raises(KeyError, match="no sample of the class 'mid'"):
        make_classes().report({"low": LINE, "high": LINE})
    with pytest.raises(KeyError, match="no class 'extra'"):
        make_classes().report({**gaussians(), "extra": LINE})
    with pytest.raises(ValueError, match=r"expected joint_score=.*or weight=.*found neither"):
        make_score().report(one)
    with pytest.raises(ValueError, match="bins: expected at least 1, found 0"):
        make_score().report(one, joint_score=["t"], bins=0)


class ExactScore(LocalScore):
    slope, offset = 1.0, 0.0

    def score(self, events: Events) -> Floats:
        return np.asarray(self.slope * events["x"][:, None] / 2 + self.offset)


def test_the_exact_score_passes_its_report_and_others_do_not() -> None:
    """E[z | x] = x / 2, in 10 bins of 40 samples; a slope of 1.3 is seen in the tails, an offset in the mean."""
    exact = ExactScore(**vars(make_score()))
    found = [exact.report(latent(1500, s, reference=True), joint_score=["z"]) for s in range(40)]
    pulls = np.concatenate([r.curves["theta"].pulls for r in found])
    assert abs(pulls.mean()) < 4 / np.sqrt(400)
    assert pulls.std() == pytest.approx(1, abs=4 / np.sqrt(800))
    means = np.array([r.mean[0] / r.mean_error[0] for r in found])
    assert means.std() == pytest.approx(1, abs=4 / np.sqrt(80))
    assert abs(means.mean()) < 4 / np.sqrt(40)
    information = np.array([r.information[0, 0] for r in found])
    assert information.mean() == pytest.approx(0.5, abs=4 * information.std() / np.sqrt(40))
    by_weight = exact.report(broad(3000, 3), weight=weight)
    assert np.sum(by_weight.curves["theta"].pulls ** 2) < 10 + 5 * np.sqrt(20)
    for part in (
        "theta:\n  joint score in bins of the learned one: chi2 = ",
        "(exact: 0)",
        "information of one event = ",
    ):
        assert part in str(by_weight)
    for name, value in (("slope", 1.3), ("offset", 0.1)):
        wrong = type("Wrong", (ExactScore,), {name: value})(**vars(exact))
        report = wrong.report(latent(3000, 1, reference=True), joint_score=["z"])
        assert np.sum(report.curves["theta"].pulls ** 2) > 10 + 5 * np.sqrt(20)
        assert (abs(report.mean[0]) > 4 * report.mean_error[0]) == (name == "offset")


class ExactClasses(ClassRatio):
    mean = 0.0

    def log_ratios(self, events: Events) -> Floats:
        return np.asarray(np.log(posterior(events["x"] + self.mean)) - np.log(PI))


def test_exact_probabilities_pass_their_report_and_others_do_not() -> None:
    """Whatever the totals of the samples that judge; events of a detector that is shifted by 0.2 fail."""
    exact = ExactClasses(**vars(fit_classes(training=Training(epochs=1))))
    samples = [gaussians(seed, (800, 800, 800)) for seed in range(20)]
    found = [exact.report({k: e.with_weight(3.0) if k == "low" else e for k, e in s.items()}) for s in samples]
    pulls = np.array([r.pulls for r in found])
    assert pulls.shape == (20, 30)
    assert abs(pulls.mean()) < 4 / np.sqrt(600)
    # the curves of three classes share events: 200 pulls are independent
    assert pulls.std() == pytest.approx(np.sqrt(0.9), abs=4 / np.sqrt(2 * 200))
    means = np.array([(r.mean_ratio - 1) / r.mean_ratio_error for r in found])
    assert means.std() == pytest.approx(1, abs=4 / np.sqrt(2 * 20))
    shifted = type("Shifted", (ExactClasses,), {"mean": 0.2})(**vars(exact))
    report = shifted.report(gaussians(50, (2000, 2000, 2000)))
    assert np.sum(report.pulls**2) > 30 + 5 * np.sqrt(60 * 3)
    assert np.abs((report.mean_ratio - 1) / report.mean_ratio_error).max() > 4
    assert str(report).startswith("low: mean ratio ")
    assert "(exact: 1); reliability: chi2 = " in str(report)


# -- samples larger than memory ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["bce", "alices", "weights", "score", "classes"])
def test_features_mapped_from_files_give_as_good_an_answer(kind: str, tmp_path: Path) -> None:
    """Rows, weights, theta and targets are shuffled alike: were one of them not, nothing would be learned."""
    cache, ensemble = tmp_path / "cache", {"members": 2, "folds": 2}
    if kind == "score":
        at = latent(N, 1, reference=True)
        options: dict[str, Any] = {"reference": [0.0], "joint_score": ["z"], "network": SMALL, "training": TRAIN,
                                   "seed": 1, "progress": False, "cache": cache}  # fmt: skip
        local = fit_score(at, ["theta"], ["x"], **options, **ensemble)
        assert rms(local.score(LINE)[:, 0], LINE["x"] / 2) < 3 * np.sqrt(0.5 * 10 / N)
        assert local.information[0, 0] == pytest.approx(0.5, abs=0.065)
        held = fit_score(at, ["theta"], ["x"], **options)
        assert held.information[0, 0] == pytest.approx(0.5, abs=4 * 0.9 / np.sqrt(0.2 * N))  # sd(z x / 2) = 0.87
    elif kind == "classes":
        classes = fit_classes(cache=cache, **ensemble)
        assert rms(classes.probabilities(LINE), posterior(LINE["x"])) < 2 * np.sqrt(10 * 0.25 / 7000)
    else:
        training = Training(epochs=8, batch=256, learning_rate=1e-2)
        make = functools.partial(fit_weighted, training=training) if kind == "weights" else functools.partial(fit, kind)
        assert cost(make(cache=cache, validation=0.1, **ensemble).log(TEST, AT)) < 60
    assert list(cache.iterdir())


def test_a_reordered_draw_draws_the_same_for_the_same_event() -> None:
    rng = np.random.default_rng(1)
    theta = rng.normal(size=(40, 1))
    draw = Pairing(theta, np.arange(40) >= 25, np.ones(25), np.arange(25), rng.normal(size=(40, 2)), Resample(seed=1))
    order = rng.permutation(40)
    rows, networks = torch.arange(40)[None, None], np.arange(1)
    plain, moved = draw(torch.from_numpy(order)[None, None], networks, 3), Reordered(draw, order)(rows, networks, 3)
    for one, other in zip((plain.columns, *plain.factors, *plain.targets),
                          (moved.columns, *moved.factors, *moved.targets), strict=True):  # fmt: skip
        assert torch.equal(one, other)
    assert not torch.equal(plain.columns, draw(rows, networks, 3).columns)
    assert Reordered(draw, order).describe() != Reordered(draw, order[::-1].copy()).describe()
    assert Reordered.of(draw, None) is draw


# -- what the loop is given --------------------------------------------------------------------------------------------


def test_partners_are_of_the_networks_own_part_and_new_each_epoch() -> None:
    rng = np.random.default_rng(1)
    m, n = 400, 1000
    theta, lending, key = rng.normal(size=(n, 1)), rng.normal(1, 1, m), rng.permutation(m) + 7
    resample = Resample(seed=3, members=2, folds=2, validation=0.3, bootstrap=True)
    pairing = Pairing(theta, np.arange(n) >= m, lending, key, np.empty((n, 0)), resample)
    rows, networks = torch.from_numpy(rng.integers(0, n, (3, 4, 5000))), np.arange(4)
    table = torch.from_numpy(theta.astype(np.float32))[:, 0]
    place = {float(value): i for i, value in enumerate(table.tolist())}
    for epoch in (0, None):
        drawn = pairing(rows, networks, epoch)
        own = rows < m
        assert torch.equal(drawn.columns[..., 0][own], table[rows][own])
        assert torch.equal(drawn.factors[1][own], torch.ones(int(own.sum())))
        assert drawn.columns.shape == (3, 4, 5000, 1)
        for k in range(4):
            sources = np.array([place[v] for v in drawn.columns[:, k, :, 0][~own[:, k]].tolist()])
            assert sources.max() < m
            times = resample.times(k, key, held_out=epoch is None)
            assert (times[sources] > 0).all()
            factor = drawn.factors[1][:, k][~own[:, k]].numpy()
            mean = np.dot(lending, times) / np.count_nonzero(times)
            np.testing.assert_allclose(factor, (lending * times)[sources] / mean, rtol=1e-5)
            # the theta that is lent has the distribution of the lenders: weighted means agree within 4 sigma
            exact = np.dot(lending * times, theta[:m, 0]) / np.dot(lending, times)
            spread = np.std(factor * (theta[sources, 0] - exact)) / np.sqrt(len(np.unique(rows[:, k][~own[:, k]])))
            assert abs(np.mean(factor * (theta[sources, 0] - exact))) < 4 * spread
    same, other, held = (pairing(rows, networks, e).columns for e in (0, 1, None))
    assert torch.equal(same, pairing(rows, networks, 0).columns)
    borrowed = rows >= m
    assert (same == other)[..., 0][borrowed].float().mean() < 0.05
    assert torch.equal(held, pairing(rows, networks, None).columns)
    alone = pairing(rows[:, 2:3], np.array([2]), 0).columns
    assert torch.equal(alone[:, 0], same[:, 2])


def test_theta_alone_tells_nothing_of_the_class() -> None:
    """Without x the ratio is 1, whatever the distribution of theta and the weights that depend on it."""
    rng = np.random.default_rng(1)
    theta = rng.exponential(size=4000)
    one = Events({"theta": theta, "x": rng.normal(size=4000)}, weight=1 + theta)
    zero = Events({"x": rng.normal(size=4000)})
    ratio = fit_parametrised_ratio(
        one, ["theta"], ["x"], reference=zero, network=SMALL, training=Training(epochs=10, batch=256), seed=1,
        progress=False,
    )  # fmt: skip
    test = Events({"x": rng.normal(size=2000)})
    found = ratio.log(test, {"theta": rng.exponential(size=2000)})
    assert cost(found, 8000, np.zeros(2000)) < 40
    # the size of what would be learned if partners were drawn without their weights: r = (1 + theta) / 2
    assert cost(np.log((1 + theta[:2000]) / 2), 8000, np.zeros(2000)) > 300


NETWORKS: dict[str, tuple[Any, Features]] = {
    "MLP": (MLP(width=5, depth=2), Features(["a", "theta"])),
    "residual": (MLP(width=5, depth=3, residual=True, activation="gelu"), Features(["a", "theta"])),
    "DeepSet": (DeepSet(width=5, latent=3, head=MLP(width=5, depth=2)), Features(["a", "theta"], hits=["q"])),
    "module": (lambda: nn.Sequential(nn.Linear(2, 5), nn.Tanh(), nn.Linear(5, 1)), Features(["a", "theta"])),
}


@pytest.mark.parametrize("name", NETWORKS)
def test_gradients_of_losses_of_gradients(name: str) -> None:
    """The training's double backward pass equals finite differences of the loss, in double precision."""
    network, features = NETWORKS[name]
    rng = np.random.default_rng(1)
    clouds = {"hits.q": [[1.0], [0.5, 2.0], [], [0.1], [1.0, 1.0], [3.0]]} if features.clouds else {}
    columns = {k: Ragged.of(v) for k, v in clouds.items()}
    events = Events({"a": rng.normal(size=6), "theta": rng.normal(size=6), **columns})
    batch = features.tensors(events, dtype=np.float64).span(0, 6)
    stack = nets.stack(network, features.shape)
    state = {k: t.double().requires_grad_() for k, t in stack.initial(1, [0]).items()}
    weights = tuple(torch.from_numpy(rng.uniform(0.5, 1.5, (1, 6))) for _ in range(4))
    loss = losses.Scored(losses.alice, 3, 0.7)

    def value(current: dict[str, Tensor]) -> Tensor:
        return loss(
            train.outputs_of(stack.twice(), current, Batch(batch.flat, batch.clouds), 1, training=True), weights
        ).sum()

    found = torch.autograd.grad(value(state), list(state.values()))
    for (key, tensor), gradient in zip(state.items(), found, strict=True):
        index = tuple(0 for _ in tensor.shape)
        ends = []
        for step in (1e-5, -1e-5):
            moved = {k: t.detach().clone() for k, t in state.items()}
            moved[key][index] += step
            ends.append(float(value({k: t.requires_grad_() for k, t in moved.items()}).detach()))
        assert float(gradient[index]) == pytest.approx((ends[0] - ends[1]) / 2e-5, rel=1e-5, abs=1e-9), key


def test_a_cloud_and_its_parameters() -> None:
    """theta shifts each of the particles: a DeepSet with the score's loss learns sum_i x_i theta - n theta^2 / 2."""
    rng = np.random.default_rng(1)

    def sample(n: int, at: Floats) -> Events:
        counts = rng.integers(1, 4, n)
        owner = np.repeat(np.arange(n), counts)
        values = rng.normal(at[owner])
        offsets = np.concatenate([[0], np.cumsum(counts)])
        t = np.bincount(owner, values - at[owner], n)
        return Events({"hits.x": Ragged(values, offsets), "theta": at, "t": t})

    simulations, test = (sample(n, rng.uniform(-1, 1, n)) for n in (1500, 1000))
    ratio = fit_parametrised_ratio(
        simulations, ["theta"], Features(hits=["x"]), reference=sample(1500, np.zeros(1500)), loss="cascal",
        joint_score=["t"], network=DeepSet(width=16, latent=8, head=SMALL), training=Training(epochs=8, batch=64),
        seed=1, progress=False,
    )  # fmt: skip
    assert rms(ratio.score(test, {"theta": test["theta"]})[:, 0], test["t"]) < 0.6
    assert rms(np.zeros(1000), test["t"]) > 1.3


def test_gradients_of_weight_functions() -> None:
    events, theta = broad(50, 1), np.array([0.4])
    value, gradient = with_gradient(weight, events, theta)
    exact = weight(events, torch.tensor([[0.4]], dtype=torch.float64))[0]
    np.testing.assert_allclose(value, exact, rtol=1e-12)
    np.testing.assert_allclose(gradient[:, 0], exact.numpy() * (events["z"] - 0.4 + 0.3), rtol=1e-12)


# -- files ------------------------------------------------------------------------------------------------------------


def make_ratio(**options: Any) -> ParametrisedRatio:
    return fit(simulations=latent(300, 1), reference=latent(300, 2, reference=True), training=SHORT, **options)


def make_score(events: Events | None = None, **options: Any) -> LocalScore:
    sample = latent(300, 1, reference=True) if events is None else events
    return fit_score(sample, ["theta"], ["x"], reference=[0.0], joint_score=["z"],
                     training=SHORT, seed=1, progress=False, **options)  # fmt: skip


def make_classes(**options: Any) -> ClassRatio:
    return fit_classes(gaussians(sizes=(100, 100, 100)), training=SHORT, **options)


ANSWERS: dict[str, tuple[Any, Any]] = {
    "ratio": (make_ratio, lambda r: r.log(TEST, AT)),
    "score": (make_score, lambda r: r.score(TEST)),
    "classes": (make_classes, lambda r: r.probabilities(TEST)),
}


@pytest.mark.parametrize("kind", ANSWERS)
@pytest.mark.parametrize("own", [False, True], ids=["spec", "module"])
def test_saved_and_loaded_answers_are_equal_to_the_bit(kind: str, own: bool, tmp_path: Path) -> None:
    make, answer = ANSWERS[kind]
    sizes = {"ratio": (2, 1), "score": (1, 1), "classes": (1, 3)}[kind]
    network = (lambda: nn.Linear(*sizes)) if own else SMALL
    calibrate = {} if kind == "score" else {"calibrate": "temperature"}
    result = make(network=network, members=2, folds=2, bootstrap=True, **calibrate)
    path, again = tmp_path / "a.safetensors", tmp_path / "b.safetensors"
    result.save(path)
    loaded = type(result).load(path, module=network if own else None)
    np.testing.assert_array_equal(answer(loaded), answer(result))
    assert own or repr(loaded) == repr(result)
    assert loaded.resample == result.resample
    assert loaded.features == result.features
    np.testing.assert_array_equal(loaded.history.train, result.history.train)
    loaded.save(again)
    assert again.read_bytes() == path.read_bytes()
    others = [cls for cls in (ParametrisedRatio, LocalScore, ClassRatio) if cls is not type(result)]
    for cls in others:
        with pytest.raises(ValueError, match="expected a file of kind"):
            cls.load(path)


def test_repr_says_what_it_is() -> None:
    text = repr(fit_weighted(events=broad(300, 1), training=SHORT, members=2, folds=2))
    assert text.startswith("ParametrisedRatio(MLP, 2 members x 2 folds, columns x; Parameters(theta in [-1.")
    assert text.endswith("reference {'theta': 0.0}; loss bce)")
    assert repr(make_classes()) == "ClassRatio(MLP, 1 members, columns x; classes low 0.333, mid 0.333, high 0.333)"
    assert "LocalScore(MLP, 1 members, columns x; at theta = 0, one event's error " in repr(make_score())


@pytest.mark.parametrize("make", FEW.values(), ids=FEW)
def test_a_checkpoint_is_resumed(make: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path, options = tmp_path / "c.safetensors", {"training": Training(epochs=3, batch=256), "loss": "bce"}
    whole = make(**options)
    with monkeypatch.context() as patch:
        real, calls = train._Loop._validate, []

        def dying(loop: Any) -> Any:
            calls.append(1)
            if len(calls) == 3:
                raise KeyboardInterrupt
            return real(loop)

        patch.setattr(train._Loop, "_validate", dying)
        with pytest.raises(KeyboardInterrupt):
            make(checkpoint=path, **options)
    np.testing.assert_array_equal(make(checkpoint=path, **options).log(TEST, AT), whole.log(TEST, AT))
    with pytest.raises(ValueError, match="belongs to another configuration"):
        make(checkpoint=path, **{**options, "training": Training(epochs=4, batch=256)})


@pytest.mark.parametrize("kind", ANSWERS)
def test_a_checkpoint_of_mapped_rows_is_resumed(kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    make, answer = ANSWERS[kind]
    options = {"cache": tmp_path / "cache", "folds": 2, "checkpoint": tmp_path / "c.safetensors"}
    whole = answer(make(**{**options, "checkpoint": None}))
    with monkeypatch.context() as patch:
        real, calls = train._Loop._validate, []

        def dying(loop: Any) -> Any:
            calls.append(1)
            if len(calls) == 2:
                raise KeyboardInterrupt
            return real(loop)

        patch.setattr(train._Loop, "_validate", dying)
        with pytest.raises(KeyboardInterrupt):
            make(**options)
    np.testing.assert_array_equal(answer(make(**options)), whole)
    with pytest.raises(ValueError, match="belongs to another configuration"):
        make(**{**options, "cache": None})  # rows in another order


def test_no_events_have_no_answers() -> None:
    none, ensemble = TEST.select(slice(0, 0)), {"members": 2, "folds": 2}
    ratio, local, classes = make_ratio(**ensemble), make_score(**ensemble), make_classes(**ensemble)
    assert ratio.log(none, [0.0]).shape == (0,)
    assert ratio.score(none, [0.0]).shape == (0, 1)
    assert local.score(none).shape == (0, 1)
    assert local.members(none).shape == (2, 0, 1)
    assert local.log(none, [0.1]).shape == (0,)
    assert classes.log(none, [1.0, 2.0, 1.0]).shape == (0,)
    assert ratio.names == local.names == ("theta",)


# -- bad input --------------------------------------------------------------------------------------------------------

ONE, ZERO = latent(100, 1), latent(100, 2, reference=True)
BAD = np.where(np.arange(100) == 5, np.nan, ONE["theta"])
NEGATIVE = np.where(np.arange(100) == 5, -1.0, ONE["joint"])


@pytest.mark.parametrize(
    ("changed", "error", "message"),
    [
        ({"theta": ["thta"]}, KeyError, "no column 'thta'; closest: 'theta'"),
        ({"theta": "theta"}, TypeError, r"expected a list of names.*write \['theta'\]"),
        ({"theta": []}, ValueError, "theta: expected at least one name"),
        ({"simulations": ONE.with_columns(theta=BAD)}, ValueError, r"'theta': .* 1 of 100 not finite.* rows 5 \(nan\)"),
        ({"simulations": ONE.with_columns(theta=np.ones(100))}, ValueError, "expected values of 'theta' that differ"),
        ({"features": ["x", "theta"]}, ValueError, "found the parameters theta among them"),
        ({"reference": {"theta": 0.0}}, ValueError, "expected Events or 'marginal'.*a point of theta needs weight="),
        ({"reference": ZERO.with_weight(0.0)}, ValueError, "reference: expected a positive total weight"),
        ({"loss": "mse"}, ValueError, "loss: expected one of bce, cascal, alice, alices, rolr, rascal, found 'mse'"),
        ({"loss": "sally"}, ValueError, "found 'sally'; for the score at one theta: fit_score"),
        ({"loss": "alice"}, ValueError, "loss 'alice': expected joint_ratio=.*'bce' does without"),
        ({"loss": "alices", "joint_ratio": "joint"}, ValueError, "loss 'alices': expected joint_score="),
        ({"joint_ratio": "joint"}, ValueError, "joint_ratio: given, but loss 'bce' does not use it"),
        ({"loss": "cascal", "joint_score": ["t", "z"]}, ValueError, "joint_score: expected one column for each of"),
        ({"loss": "cascal", "joint_score": "t"}, TypeError, r"joint_score: expected a list of columns.*write \['t'\]"),
        ({"loss": "alice", "joint_ratio": "joint", "reference": ZERO.keep(["x", "joint"])}, KeyError,
         "no column 'theta'; with a joint ratio"),
        ({"loss": "alice", "joint_ratio": "joint", "reference": ZERO.with_columns(theta=10 + ZERO["theta"])},
         ValueError, "expected theta from the distribution of the simulations, found 100 of 100"),
        ({"loss": "alice", "joint_ratio": "joint", "simulations": ONE.with_columns(joint=NEGATIVE)}, ValueError,
         "joint ratio: expected positive values, found -1 at row 5 and 1 such"),
        ({"loss": "alice", "joint_ratio": "joint", "reference": ZERO.with_columns(joint=BAD)}, ValueError,
         "reference: column 'joint': expected finite values"),
        ({"loss": "alice", "joint_ratio": "joint", "reference": "marginal"}, ValueError, "found 'marginal', to which"),
        ({"loss": "cascal", "joint_score": ["t"], "calibrate": "temperature"}, ValueError, "calibrate: expected None"),
        ({"calibrate": "temperature", "validation": 0.0}, ValueError, "validation fraction above 0"),
        ({"score_weight": -1.0}, ValueError, "score_weight: expected a positive number, found -1.0"),
        ({"network": Trees()}, TypeError, "expected one that is differentiable, such as MLP.*found Trees"),
        ({"weight": weight}, ValueError, "weight and prior: expected both or neither"),
        ({"group": "parent"}, KeyError, "no column 'parent'"),
        ({"prior": BOX}, ValueError, "weight and prior: expected both or neither"),
    ],
)  # fmt: skip
def test_bad_samples_are_refused(changed: dict[str, Any], error: Any, message: str) -> None:
    options = {"simulations": ONE, "theta": ["theta"], "features": ["x"], "reference": ZERO, "seed": 1,
               "training": SHORT, "progress": False} | changed  # fmt: skip
    with pytest.raises(error, match=message):
        fit_parametrised_ratio(**options)


def steep(events: Events, theta: Tensor) -> Tensor:
    return weight(events, theta) - 0.3


@pytest.mark.parametrize(
    ("changed", "error", "message"),
    [
        ({"reference": {"theta": 2.0}}, ValueError, "expected a point within the prior, found {'theta': 2.0}"),
        ({"reference": {"tehta": 0.0}}, KeyError, "no parameter 'theta'; closest: 'tehta'"),
        ({"reference": ZERO}, ValueError, "expected, with weight=, a point of theta or 'marginal', found Events"),
        ({"prior": {"theta": (1.0, -1.0)}}, ValueError, "prior: expected finite low < high"),
        ({"prior": {"eta": (0, 1)}}, KeyError, "no parameter in the prior 'theta'"),
        ({"prior": {**BOX, "eta": (0, 1)}}, KeyError, "no parameter 'eta'; closest: 'theta'"),
        ({"points": 7}, ValueError, "points: expected a whole number of at least 8 .*, found 7"),
        ({"points": 16.0}, ValueError, "points: expected a whole number of at least 8 .*, found 16.0"),
        ({"prior": np.zeros((5, 2))}, ValueError, r"prior: expected a box, or points \(M, 1\)"),
        ({"weight": lambda e, t: weight(e, t).T}, ValueError, r"expected the shape \(T, N\) = \(1, 100\).*\(100, 1\)"),
        ({"weight": lambda e, t: weight(e, t).detach().numpy()}, TypeError, "expected .* torch tensor .* ndarray"),
        ({"weight": lambda e, t: weight(e, t).detach(), "loss": "alices"}, ValueError, "a differentiable function"),
        ({"weight": lambda e, t: weight(e, t) / 0}, ValueError, "weight at theta = .*: expected finite values"),
        ({"weight": lambda e, t: -weight(e, t)}, ValueError, "weight at theta = .*: expected a positive sum"),
        ({"weight": steep, "loss": "rolr"}, ValueError, "expected positive weights for a loss with the joint ratio"),
        ({"joint_ratio": "joint", "loss": "alice"}, ValueError, "joint_ratio: expected none beside weight="),
    ],
)  # fmt: skip
def test_bad_weight_functions_are_refused(changed: dict[str, Any], error: Any, message: str) -> None:
    options = {"events": broad(100, 1), "training": SHORT, "points": 8} | changed
    with pytest.raises(error, match=message):
        fit_weighted(options.pop("loss", "bce"), **options)


@pytest.mark.parametrize(
    ("theta", "error", "message"),
    [
        ({}, KeyError, "no parameter 'theta'"),
        ({"theta": 0.0, "eta": 1.0}, KeyError, "no parameter 'eta'; closest: 'theta'"),
        ({"theta": np.zeros(3)}, ValueError, "expected a number or 4000 of them"),
        ([0.0, 1.0], ValueError, r"a vector \(1,\) of theta, or one row for each event, \(4000, 1\), found .*\(2,\)"),
        (np.nan, ValueError, "theta: expected finite values"),
    ],
)
def test_bad_theta_is_refused(theta: Any, error: Any, message: str) -> None:
    with pytest.raises(error, match=message):
        fitted("bce").log(TEST, theta)


def test_theta_outside_of_the_training_is_said(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING, logger="nuinfer"):
        fitted("bce").log(TEST, {"theta": 1.5})
        assert not caplog.text
        fitted("bce").log(TEST, {"theta": 2.5})
    assert "theta: 'theta' = 2.5 is outside of the range in training, -1.49" in caplog.text


def test_a_tensor_outside_of_the_training_is_said_once(caplog: pytest.LogCaptureFixture) -> None:
    ratio = fit_weighted(events=broad(300, 1), training=SHORT, points=8)
    assert (ratio.parameters.low, ratio.parameters.high) == (np.array([-1.5]), np.array([1.5]))  # the box, all of it
    batch = ratio.features.tensors(LINE).span(0, len(LINE))
    with caplog.at_level(logging.WARNING, logger="nuinfer"):
        ratio.tensor(batch, torch.tensor([1.5]))
        assert not caplog.text
        for _ in range(3):
            ratio.tensor(batch, torch.tensor([2.5], requires_grad=True))
    assert [r.getMessage() for r in caplog.records] == [
        "theta: 'theta' = 2.5 is outside of the range in training, -1.5 to 1.5; the ratio is extrapolated there"
    ]


def test_weights_that_leave_few_events_are_said(caplog: pytest.LogCaptureFixture) -> None:
    """The effective size of N(0, 1.5^2) as a sample of N(theta, 1) falls as exp(-4 theta^2 / 14)."""
    with caplog.at_level(logging.WARNING, logger="nuinfer"):
        fit_weighted(training=SHORT, events=broad(500, 1), points=8)
        assert not caplog.text
        wide = {"theta": (-1.0, 6.0)}
        ratio = fit_weighted(training=SHORT, events=broad(500, 1), points=8, prior=wide)
    assert "weight: the effective size of the 500 events is " in caplog.text
    assert ratio.parameters.high[0] > 5


def test_a_net_weight_below_zero_is_said(caplog: pytest.LogCaptureFixture) -> None:
    one = latent(3000, 1)
    bad = one.with_weight(np.where(one["x"] > 1.5, -1.0, 1.0))
    with caplog.at_level(logging.WARNING, logger="nuinfer"):
        fit(simulations=bad, training=Training(epochs=2, batch=128))
        assert "the net weight of the numerator is negative by" in caplog.text
        caplog.clear()
        x = gaussians(sizes=(2000, 2000, 2000))
        low = x["low"].with_weight(np.where(x["low"]["x"] < -2, -1.0, 1.0))
        fit_classes({**x, "low": low}, training=Training(epochs=2, batch=128))
        assert "the net weight of the class 'low' is negative by" in caplog.text


def test_bad_scores_and_classes_are_refused() -> None:
    options: dict[str, Any] = {"seed": 1, "training": SHORT, "progress": False}
    with pytest.raises(ValueError, match=r"expected joint_score=.*or weight=.*found neither"):
        fit_score(ZERO, ["theta"], ["x"], reference=[0.0], **options)
    with pytest.raises(ValueError, match="found both"):
        fit_score(ZERO, ["theta"], ["x"], reference=[0.0], joint_score=["z"], weight=weight, **options)
    with pytest.raises(ValueError, match="joint score of 'theta': expected finite values that differ"):
        fit_score(ZERO.with_columns(z=0.0 * ZERO["z"]), ["theta"], ["x"], reference=[0.0], joint_score=["z"], **options)
    with pytest.raises(ValueError, match="expected one column for each of theta, found"):
        fit_score(ZERO, ["theta"], ["x"], reference=[0.0], joint_score=["z", "x"], **options)
    with pytest.raises(TypeError, match=r"joint_score: expected a list of columns.*write \['z'\]"):
        fit_score(ZERO, ["theta"], ["x"], reference=[0.0], joint_score="z", **options)
    with pytest.raises(TypeError, match="samples: expected a mapping of class names to Events, found list"):
        fit_class_ratio([ONE, ZERO], ["x"], **options)  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="found Trees, which have neither a gradient in theta nor more than one output"):
        fit_class_ratio({"a": ONE, "b": ZERO}, ["x"], network=Trees(), **options)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="expected at least two classes, found 1"):
        fit_class_ratio({"a": ONE}, ["x"], **options)
    with pytest.raises(ValueError, match="sample 'b': expected events, found an empty sample"):
        fit_class_ratio({"a": ONE, "b": ONE.select(slice(0, 0))}, ["x"], **options)
    with pytest.raises(ValueError, match="calibrate: expected None or 'temperature'"):
        fit_class_ratio({"a": ONE, "b": ZERO}, ["x"], calibrate="monotone", **options)  # type: ignore[arg-type]
    ratio = make_classes()
    with pytest.raises(KeyError, match="no class 'hihg'; closest: 'high'"):
        ratio.log(LINE, {"hihg": 1.0})
    with pytest.raises(ValueError, match=r"factors: expected one for each of low, mid, high, \(3,\)"):
        ratio.log(LINE, [1.0, 2.0])
    with pytest.raises(ValueError, match=r"expected a function of theta \(101, 1\) that returns a tensor \(101, 3\)"):
        ratio.of(["a"], lambda t: t).log(LINE, [0.0])


def test_a_parametrised_ratio_at_one_theta_is_the_ratio_of_two_samples() -> None:
    """Within what both fits may err: the sum of their two Q."""
    rng = np.random.default_rng(3)
    numerator = Events({"x": rng.normal(1.0, np.sqrt(2), N)})
    plain = fit_ratio(
        numerator, latent(N, 4, reference=True), ["x"], network=SMALL, training=TRAIN, seed=1, progress=False
    )
    at = TEST.with_columns(theta=np.ones(len(TEST)))
    exact = log_ratio(at)
    for log in (plain.log(TEST), fitted("bce").log(TEST, {"theta": 1.0})):
        assert cost(log, exact=exact) < 60
    assert cost(fitted("bce").log(TEST, {"theta": -1.0}), exact=exact) > 300


def test_a_region_without_reference_says_so() -> None:
    """Four regions cannot share three events of the reference; of enough events the report is made."""
    rng = np.random.default_rng(3)
    theta = np.linspace(-1, 1, 400)[:, None]
    one, zero = Events({"x": rng.normal(theta[:, 0])}), Events({"x": rng.normal(size=400)})
    parameters = Parameters.of(["m"], theta)

    def log(events: Events, at: Any) -> Any:
        m = np.atleast_2d(at)[:, 0]
        return events["x"] * m - m**2 / 2

    few = Judged(one, theta, zero.select(np.arange(3)), None)
    with pytest.raises(ValueError, match=r"reference: expected a positive total weight .* region .* fewer regions="):
        parametrised_report(log, parameters, Features(["x"]), few, 4, 5, 0)
    found = parametrised_report(log, parameters, Features(["x"]), Judged(one, theta, zero, None), 4, 5, 0)
    assert len(found.regions) == 4


def test_pulls_of_a_score_that_is_the_joint_one_are_no_numbers() -> None:
    same, weight = np.arange(5.0)[:, None] - 2, np.ones(5)
    assert np.isnan(score_report(("a",), weight, same, same, 3).curves["a"].pulls).all()
    assert np.isfinite(score_report(("a",), weight, same, same + 1, 3).curves["a"].pulls).all()
