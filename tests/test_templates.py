"""`nuinfer.likelihood.BinnedMixture` against the same model written out in numpy, closed forms, and pyhf."""

from __future__ import annotations

import copy
import json
import math
import subprocess
import sys
import warnings
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import cloudpickle
import hist
import numpy as np
import pytest
import torch
from iminuit import Minuit
from iminuit.cost import Cost
from numpy.typing import NDArray
from scipy import optimize, stats

import nuinfer as nu
from nuinfer.likelihood import (
    Binned,
    BinnedCost,
    BinnedMixture,
    Coefficient,
    LogNormal,
    NegativeDensity,
    Normal,
    ProcessSample,
    Template,
    from_pyhf,
    histogram,
    to_pyhf,
)
from nuinfer.likelihood.costs import asimov, parts, sample
from nuinfer.likelihood.gammas import NormalFactors, PoissonFactors

Floats = NDArray[np.float64]
Codes = dict[str, Any]
COUNTS = {"SR": np.array([62.0, 47.0, 0.0]), "CR": np.array([231.0, 170.0])}


def channels() -> dict[str, dict[str, Template]]:
    """Two channels that share nuisances, an interference, an empty bin of the data."""
    return {
        "SR": {
            "S": Template(contents=[12.0, 18.0, 0.5], variance=[0.4, 0.9, 0.01], coefficient="mu - sqrt(mu)",
                          norms={"theory": (0.85, 1.2)}, shapes={"jes": ([11.0, 18.5, 0.4], [13.5, 17.0, 0.6])}),
            "B": Template(contents=[50.0, 30.0, 2.0], variance=[4.0, 2.0, 0.1], norms={"jes": (0.95, 1.02),
                          "btag": 0.1}, shapes={"jes": ([48.0, 31.0, 2.1], [53.0, 28.0, 2.0])}),
            "fakes": Template(contents=[5.0, 6.0, 0.0], uncorrelated={"fakes_stat": [1.0, 2.0, 0.5]}),
        },
        "CR": {
            "B": Template(contents=[200.0, 150.0], variance=[16.0, 9.0], coefficient="k", norms={"btag": (0.95, 1.08)},
                          shapes={"jes": ([190.0, 155.0], [215.0, 147.0]), "scale": ([199, 148], [204, 151])}),
            "other": Template(contents=[20.0, 30.0], coefficient=1.5, free=["shape"]),
        },
    }  # fmt: skip


# -- the same, written out ---------------------------------------------------------------------------------------------


def even(a: float) -> float:
    return abs(a) if abs(a) > 1 else (15 * a**2 - 10 * a**4 + 3 * a**6) / 8


def norm(a: float, down: float, up: float, code: str) -> float:
    """G(a) from its definition, code 4 by solving for the polynomial."""
    if code == "log":
        return math.exp(0.5 * math.log(up / down) * a + 0.5 * math.log(up * down) * even(a))
    if code == "code1" or abs(a) >= 1:
        return float(up**a if a > 0 else down**-a)
    i = np.arange(1, 7)
    left = np.array([np.ones(6), (-1.0) ** i, i, -i * (-1.0) ** i, i * (i - 1), i * (i - 1) * (-1.0) ** i])
    right = [up - 1, down - 1, up * math.log(up), -down * math.log(down), up * math.log(up) ** 2,
             down * math.log(down) ** 2]  # fmt: skip
    return float(1 + np.linalg.solve(left, right) @ a**i)


def shape(a: float, nominal: Floats, down: Floats, up: Floats, code: str) -> Floats:
    """The content added, from the definition of code 4p and code 0."""
    above, below = up - nominal, nominal - down
    if code == "code0" or abs(a) >= 1:
        return a * (above if a > 0 else below)
    return a * ((above + below) / 2 + a * (above - below) / 16 * (15 + a**2 * (-10 + 3 * a**2)))


def expected_by_hand(parts: Mapping[str, Mapping[str, Template]], at: Mapping[str, float], codes: Codes) -> Any:
    """The contents of all channels, factors of bins that are in ``at`` included."""
    kind = codes.get("statistics", "lite")
    out = {}
    for channel, templates in parts.items():
        total = np.zeros(len(COUNTS[channel]))
        for process, t in templates.items():
            n = np.array(t.contents, float)
            each = n.copy()
            for name, (down, up) in t.shapes.items():
                each += shape(at[name], n, np.array(down, float), np.array(up, float),
                              codes.get("shape_interpolation", "code4p"))  # fmt: skip
            for name, pair in t.norms.items():
                each *= norm(at[name], *pair, codes.get("norm_interpolation", "code4"))  # type: ignore[misc,call-arg]
            each *= float(t.coefficient({k: torch.tensor(v, dtype=torch.float64) for k, v in at.items()}))  # type: ignore[operator]
            groups = [*t.uncorrelated, *t.free]
            if t.variance is not None:
                groups += {"lite": [f"staterror_{channel}"], "full": [f"gamma_{channel}_{process}"], "none": []}[kind]
            for name in groups:
                each *= [at.get(f"{name}[{b}]", 1.0) for b in range(len(n))]
            total += each
        out[channel] = total
    return out


def by_hand(parts: Mapping[str, Mapping[str, Template]], at: Mapping[str, float], codes: Codes) -> float:
    """-2 log L by scipy's densities, up to a constant."""
    value = 0.0
    for channel, mean in expected_by_hand(parts, at, codes).items():
        value -= 2 * stats.poisson(mean).logpmf(COUNTS[channel]).sum()
        counted = [t for t in parts[channel].values() if t.variance is not None]
        n, v = (np.sum([np.asarray(x, float) for x in each], 0) for each in
                ([t.contents for t in counted], [t.variance for t in counted]))  # fmt: skip
        if codes.get("statistics", "lite") == "lite":
            gamma = np.array([at[f"staterror_{channel}[{b}]"] for b in range(len(n))])
            value += (((1 - gamma) / (np.sqrt(v) / n)) ** 2).sum()
        for process, t in parts[channel].items():
            pairs = {name: np.asarray(s) for name, s in t.uncorrelated.items()}
            if codes.get("statistics") == "full" and t.variance is not None:
                pairs[f"gamma_{channel}_{process}"] = np.sqrt(np.asarray(t.variance))
            for name, sigma in pairs.items():
                for b, (n_b, s_b) in enumerate(zip(np.array(t.contents, float), sigma, strict=True)):
                    if n_b > 0 and s_b > 0:
                        tau = (n_b / s_b) ** 2
                        mean_b = tau * at[f"{name}[{b}]"]
                        value -= 2 * (tau * math.log(mean_b) - mean_b - math.lgamma(tau + 1))
    return value


OPTIONS: dict[str, Codes] = {
    "default": {},
    "full": {"statistics": "full"},
    "none": {"statistics": "none"},
    "code1": {"norm_interpolation": "code1"},
    "log": {"norm_interpolation": "log"},
    "code0": {"shape_interpolation": "code0"},
}


def points(model: BinnedMixture, seed: int = 3, count: int = 6) -> list[dict[str, float]]:
    """Parameters inside and outside one sigma, factors around 1."""
    rng = np.random.default_rng(seed)
    return [
        {
            name: float(rng.normal(0, 1.2)) if name in model.nuisances else float(abs(rng.normal(1.2, 0.15)))
            for name in model.names
        }
        for _ in range(count)
    ]


@pytest.mark.parametrize("case", OPTIONS)
def test_value_is_the_likelihood_written_out(case: str) -> None:
    model = BinnedMixture(channels(), **OPTIONS[case])
    cost = model(COUNTS)
    first, *rest = points(model)
    assert any(abs(v) > 1 for at in rest for name, v in at.items() if name in model.nuisances)
    for at in rest:
        exact = by_hand(channels(), at, OPTIONS[case]) - by_hand(channels(), first, OPTIONS[case])
        assert cost.at(at) - cost.at(first) == pytest.approx(exact, abs=1e-9)
    if case in ("default", "code1", "log", "code0"):
        # and another interpolation is another number
        other = OPTIONS["log" if case == "default" else "default"]
        away = [by_hand(channels(), at, other) - by_hand(channels(), at, OPTIONS[case]) for at in rest]
        assert np.abs(away).max() > 1e-3


@pytest.mark.parametrize("case", OPTIONS)
def test_gradient_is_the_finite_difference(case: str) -> None:
    model = BinnedMixture(channels(), **OPTIONS[case])
    cost = model(COUNTS)
    for at in points(model, count=3):
        vector = np.array([at[name] for name in model.names])
        slopes = [
            (cost(*(vector + step)) - cost(*(vector - step))) / 2e-5 for step in np.eye(len(vector)) * 1e-5
        ]  # fmt: skip
        assert cost.grad(*vector) == pytest.approx(slopes, rel=1e-5, abs=2e-5)


def test_names_are_interest_nuisances_and_factors() -> None:
    model = BinnedMixture(channels())
    assert model.interest == ("mu", "k")
    assert model.nuisances == ("theory", "jes", "btag", "scale")
    # no factor where content or deviation is 0
    assert model.gammas == (
        "staterror_SR[0]", "staterror_SR[1]", "staterror_SR[2]", "staterror_CR[0]", "staterror_CR[1]",
        "fakes_stat[0]", "fakes_stat[1]", "shape[0]", "shape[1]",
    )  # fmt: skip
    assert len(BinnedMixture(channels(), statistics="full").gammas) == 3 + 3 + 2 + 2 + 2
    cost = model(COUNTS)
    assert cost._parameters["staterror_SR[0]"] == (1e-10, 10.0)
    assert cost._parameters["shape[0]"] is None
    assert repr(cost) == "BinnedCost(5 bins; mu, k, theory, jes, btag, scale and 9 factors of bins)"
    assert "SR: S, B, fakes; CR: B, other; 5 bins; parameters mu, k" in repr(model)
    assert cost.ndata == 5 + 7


def test_contents_add_up_to_what_is_expected() -> None:
    model = BinnedMixture(channels())
    at = points(model)[0]
    each, total = model.contents(**at), model.expected(**at)
    for channel, exact in expected_by_hand(channels(), at, {}).items():
        assert total[channel] == pytest.approx(exact, rel=1e-12)
        assert sum(each[channel].values()) == pytest.approx(exact, rel=1e-12)
    bare = {name: v for name, v in at.items() if name not in model.gammas}
    assert model.expected(**bare)["CR"] == pytest.approx(expected_by_hand(channels(), bare, {})["CR"], rel=1e-12)
    assert abs(model.expected(**bare)["CR"] - total["CR"]).max() > 1


# -- closed forms ------------------------------------------------------------------------------------------------------


def test_counting_experiment_has_its_closed_form_significance() -> None:
    s, b = 10.0, 25.0
    model = BinnedMixture({"SR": {"S": Template(contents=[s], coefficient="mu"), "B": Template(contents=[b])}},
                          limits={"mu": (0, None)})  # fmt: skip
    cost = model.asimov(mu=1)
    fit = Minuit(cost, mu=0.3).migrad()
    exact = math.sqrt(2 * ((s + b) * math.log(1 + s / b) - s))
    assert math.sqrt(cost(0.0) - cost(fit.values["mu"])) == pytest.approx(exact, abs=1e-6)


def test_a_background_known_from_a_side_band_has_its_closed_form_significance() -> None:
    """On/off problem (Cowan et al. 1007.1727; Li, Ma): counts n on and m off of a background tau times larger."""
    n, m, tau = 40.0, 100.0, 4.0
    one = Template(contents=[1.0], coefficient="b")
    model = BinnedMixture({"on": {"S": Template(contents=[1.0], coefficient="s"), "B": one},
                           "off": {"B": Template(contents=[tau], coefficient="b")}})  # fmt: skip
    cost = model({"on": [n], "off": [m]})
    free = Minuit(cost, s=5, b=20)
    free.tol = 1e-6
    fixed = Minuit(cost, s=0, b=20)
    fixed.tol, fixed.fixed["s"] = 1e-6, True
    z = math.sqrt(fixed.migrad().fval - free.migrad().fval)
    total = n + m
    exact = math.sqrt(2 * (n * math.log(n * (1 + tau) / total) + m * math.log(m * (1 + tau) / (tau * total))))
    assert z == pytest.approx(exact, abs=1e-5)
    # and not what a background without uncertainty would give
    b = m / tau
    assert abs(z - math.sqrt(2 * (n * math.log(n / b) - (n - b)))) > 0.2


def test_barlow_beeston_lite_has_its_analytic_profile() -> None:
    """gamma^2 + gamma (mu s^2 - 1) - n s^2 = 0 in each bin (Conway, 1103.0354)."""
    content, variance, n = np.array([20.0, 8.0, 3.0]), np.array([9.0, 4.0, 1.0]), np.array([31.0, 5.0, 0.0])
    cost = BinnedMixture({"SR": {"B": Template(contents=content, variance=variance, coefficient="k")}})({"SR": n})
    for k in (0.7, 1.0, 1.6):
        mean, s2 = k * content, variance / content**2
        half = (mean * s2 - 1) / 2
        gamma = -half + np.sqrt(half**2 + n * s2)
        assert gamma.min() > 0
        assert cost.grad(k, *gamma)[1:] == pytest.approx(np.zeros(3), abs=1e-9)
        assert abs(cost.grad(k, 1, 1, 1)[1:]).max() > 1
        fit = Minuit(cost, k, 1, 1, 1)
        fit.fixed["k"] = True
        assert fit.migrad().fval == pytest.approx(cost(k, *gamma), abs=1e-3)


def test_barlow_beeston_full_has_its_analytic_profile() -> None:
    """Of one process gamma = (n + tau) / (mu + tau); of two the processes share a deviation by their variance."""
    content, variance, n = np.array([20.0, 8.0]), np.array([9.0, 4.0]), np.array([31.0, 0.0])
    t = Template(contents=content, variance=variance, coefficient="k")
    cost = BinnedMixture({"SR": {"B": t}}, statistics="full")({"SR": n})
    for k in (0.7, 1.6):
        tau = content**2 / variance
        assert cost.grad(k, *((n + tau) / (k * content + tau)))[1:] == pytest.approx([0, 0], abs=1e-9)
    two = BinnedMixture(
        {"SR": {"a": Template(contents=[20.0], variance=[9.0]), "b": Template(contents=[20.0], variance=[1.0])}},
        statistics="full",
    )({"SR": [50.0]})
    fit = Minuit(two, 1, 1).migrad()
    # d/dgamma_j: mu_j (1 - n/mu) + tau_j (1 - 1/gamma_j) = 0 of both
    a, b = fit.values
    pull = 20 * (1 - 50 / (20 * a + 20 * b))
    assert a == pytest.approx(1 / (1 + pull * 9 / 400), abs=1e-3)
    assert b == pytest.approx(1 / (1 + pull * 1 / 400), abs=1e-3)
    assert a - 1 > 5 * (b - 1) > 0


# -- Asimov data, pseudo-experiments, sums -----------------------------------------------------------------------------


@pytest.mark.parametrize("case", OPTIONS)
def test_asimov_has_its_minimum_where_it_was_made(case: str) -> None:
    model = BinnedMixture(channels(), **OPTIONS[case])
    at = points(model)[1]
    for cost in (model.asimov(**at), model(COUNTS).asimov(at)):
        assert cost.at(at) == pytest.approx(0.0, abs=1e-9)
        assert np.abs(cost.grad(*(at[name] for name in model.names))).max() < 1e-8
    assert model(COUNTS).at(at) > 1


def test_asimov_and_samples_of_a_sum_replace_every_part() -> None:
    model = BinnedMixture(channels())
    cost = model(COUNTS) + Normal(model.nuisances)
    at = points(model)[2]
    assert asimov(cost, at)(*(at[n] for n in model.names)) == pytest.approx(0.0, abs=1e-9)
    drawn = parts(sample(cost, at, np.random.default_rng(1)))
    assert isinstance(drawn[0], BinnedCost)
    assert not np.array_equal(drawn[0].counts, model(COUNTS).counts)


def test_pseudo_experiments_have_the_distributions_of_counts_and_outcomes() -> None:
    """Means and variances within 4.5 sigma over 1000 pseudo-experiments; whole numbers where they are counts."""
    model, rng, toys = BinnedMixture(channels()), np.random.default_rng(6), 1000
    at = points(model)[0]
    drawn = [model.sample(rng, **at) for _ in range(toys)]
    counts = np.array([one.counts for one in drawn])
    exact = np.concatenate(list(expected_by_hand(channels(), at, {}).values()))
    assert np.abs((counts.mean(0) - exact) / np.sqrt(exact / toys)).max() < 4.5
    assert np.abs((counts.var(0) - exact) / np.sqrt((2 * exact**2 + exact) / toys)).max() < 4.5
    normal, poisson = (np.array([one.constraints[k].observed for one in drawn]) for k in (0, 1))
    gamma = np.array([at[f"staterror_{c}"] for c in ("SR[0]", "SR[1]", "SR[2]", "CR[0]", "CR[1]")])
    sigma = np.sqrt([4.4, 2.9, 0.11, 16, 9]) / [62, 48, 2.5, 200, 150]
    assert np.abs((normal.mean(0) - gamma) / sigma * math.sqrt(toys)).max() < 4.5
    assert np.abs(normal.std(0) / sigma - 1).max() < 4.5 / math.sqrt(2 * toys)
    mean = np.array([25.0, 9.0]) * [at["fakes_stat[0]"], at["fakes_stat[1]"]]
    assert np.abs((poisson.mean(0) - mean) / np.sqrt(mean / toys)).max() < 4.5
    assert np.array_equal(poisson, np.round(poisson))


def test_costs_of_two_models_add_to_that_of_one() -> None:
    """Parameters of one name are one parameter; the constraints of factors are counted once each."""
    both = channels()
    one, two = BinnedMixture({"SR": both["SR"]}), BinnedMixture({"CR": both["CR"]})
    total = one(COUNTS["SR"]) + two(COUNTS["CR"]) + Normal("jes")
    joint = BinnedMixture(both)
    whole = joint(COUNTS) + Normal("jes")
    assert set(total._parameters) == set(whole._parameters)
    for at in points(joint):
        assert total(*(at[n] for n in total._parameters)) == pytest.approx(whole(*(at[n] for n in whole._parameters)))


def test_costs_travel_and_take_other_data() -> None:
    cost = BinnedMixture(channels())(COUNTS)
    at = [1.1, 1.0, 0.2, 0.3, -0.2, 0.1, *np.ones(9)]
    assert cloudpickle.loads(cloudpickle.dumps(cost))(*at) == cost(*at)
    other = cost.with_data({"SR": COUNTS["SR"] + 1, "CR": COUNTS["CR"]})
    assert other(*at) != cost(*at)
    assert other.data["SR"].tolist() == [63.0, 48.0, 1.0]


def test_fits_find_what_was_put_in() -> None:
    """Pulls of a factor k over 40 pseudo-experiments: mean within 4 sigma, width within 4 sigma of 1."""
    template = Template(contents=[200.0, 150.0], variance=[100.0, 60.0], coefficient="k", norms={"lumi": 0.02})
    model = BinnedMixture({"CR": {"B": template}})
    rng, pulls = np.random.default_rng(8), []
    for _ in range(40):
        cost = sample(model([0, 0]) + Normal("lumi"), {"k": 1.1, "lumi": 0.0}, rng)
        fit = Minuit(cost, 1, 0, 1, 1).migrad()
        assert fit.valid
        pulls.append((fit.values["k"] - 1.1) / fit.errors["k"])
    assert abs(np.mean(pulls)) < 4 / math.sqrt(40)
    assert abs(np.std(pulls) - 1) < 4 / math.sqrt(80)
    # without the templates' statistics the error is too small by more than that
    bare = BinnedMixture({"CR": {"B": template}}, statistics="none")([220, 165]) + Normal("lumi")
    assert fit.errors["k"] > 1.1 * Minuit(bare, 1, 0).migrad().errors["k"]


def test_templates_meet_a_covariance() -> None:
    """The contents are a prediction as any other, with the same gradient."""
    model, v = BinnedMixture(channels(), statistics="none"), np.diag([9.0, 4.0, 1.0, 16.0, 9.0]) + 1
    n = np.concatenate(list(COUNTS.values()))
    cost = Binned(model.mean, n, "gaussian", parameters=model.names, covariance=v)
    at = points(model)[0]
    away = n - np.concatenate(list(expected_by_hand(channels(), at, {"statistics": "none"}).values()))
    assert cost.at(at) == pytest.approx(float(away @ np.linalg.solve(v, away)), rel=1e-10)
    theta = np.array([at[name] for name in model.names])
    slopes = [(cost(*(theta + step)) - cost(*(theta - step))) / 2e-5 for step in np.eye(len(theta)) * 1e-5]
    assert cost.grad(*theta) == pytest.approx(slopes, rel=1e-5, abs=1e-4)


def test_reprs_say_what_is_there() -> None:
    assert repr(channels()["SR"]["S"]) == (
        "Template(3 bins, sum 30.5; Coefficient('mu - sqrt(mu)'); nuisances theory, jes)"
    )


# -- histograms and events ---------------------------------------------------------------------------------------------

EDGES = np.array([-np.inf, -1.0, 0.0, 1.0, np.inf])


def gauss_events(n: int, mean: float, seed: int, weight: float = 1.0) -> nu.Events:
    rng = np.random.default_rng(seed)
    return nu.Events({"x": rng.normal(mean, 1, n)}, weight=weight * rng.uniform(0.5, 1.5, n))


def test_from_events_fills_contents_variances_and_shapes() -> None:
    events, up, down = gauss_events(3000, 0.0, 1), gauss_events(3000, 0.2, 2, 1.3), gauss_events(2000, -0.2, 3)
    kept = ProcessSample(events=events, coefficient="k", norms={"rate": 0.1}, shapes={"jes": (down, up)})
    scaled = ProcessSample(events=events, yields=500.0, shapes={"jes": (down, up)})
    model = BinnedMixture.from_events({"kept": kept, "scaled": scaled}, "x", EDGES, channel="SR")
    assert model.names[:3] == ("k", "rate", "jes")

    def filled(e: nu.Events, w: Floats) -> Floats:
        return np.asarray(np.histogram(e["x"], EDGES, weights=w)[0])

    first, second = model.channels["SR"].values()
    assert first.nominal.values == pytest.approx(filled(events, events.weight))
    assert first.variance == pytest.approx(filled(events, events.weight**2))
    assert first.varied["jes"][1].values == pytest.approx(filled(up, up.weight))
    # with yields the shapes carry no rate
    assert second.nominal.values == pytest.approx(filled(events, events.weight * 500 / events.weight.sum()))
    assert second.variance == pytest.approx(filled(events, (events.weight * 500 / events.weight.sum()) ** 2))
    assert second.varied["jes"][0].values == pytest.approx(filled(down, down.weight * 500 / down.weight.sum()))
    assert second.varied["jes"][1].values.sum() == pytest.approx(500)
    assert first.varied["jes"][1].values.sum() == pytest.approx(up.weight.sum())
    data = histogram(gauss_events(400, 0.1, 5), lambda e: np.asarray(e["x"]), EDGES)
    assert model(data).counts.sum() == pytest.approx(data.values().sum())


def test_binned_and_unbinned_fits_of_the_same_events_agree() -> None:
    """With fine bins the estimate of mu is that of the exact unbinned likelihood, within a tenth of its error."""
    rng = np.random.default_rng(2)
    signal, background = nu.Events({"x": rng.normal(1, 0.5, 200_000)}), nu.Events({"x": rng.normal(0, 1.5, 200_000)})
    x = np.r_[rng.normal(1, 0.5, 300), rng.normal(0, 1.5, 2000)]
    samples = {"S": ProcessSample(events=signal, yields=300, coefficient="mu"),
               "B": ProcessSample(events=background, yields=2000)}  # fmt: skip
    edges = np.r_[-np.inf, np.linspace(-4, 4, 81), np.inf]
    model = BinnedMixture.from_events(samples, "x", edges, statistics="none")
    binned = Minuit(model(histogram(nu.Events({"x": x}), "x", edges)), 0.8).migrad()

    def exact(mu: float) -> float:
        rate = mu * 300 * stats.norm(1, 0.5).pdf(x) + 2000 * stats.norm(0, 1.5).pdf(x)
        return float(2 * mu * 300 - 2 * np.log(rate).sum())

    best = optimize.minimize_scalar(exact, bounds=(0.2, 2), method="bounded").x
    assert binned.values["mu"] == pytest.approx(best, abs=0.1 * binned.errors["mu"])
    one_bin = BinnedMixture.from_events(samples, "x", [-np.inf, np.inf], statistics="none")([len(x)])
    assert Minuit(one_bin, 0.8).migrad().errors["mu"] > 1.3 * binned.errors["mu"]


def test_histograms_of_two_dimensions_keep_their_shape() -> None:
    axes = (hist.axis.Regular(2, 0, 1, name="x"), hist.axis.Regular(3, 0, 1, name="y"))
    filled = hist.Hist(*axes, storage=hist.storage.Weight())
    filled.fill(*np.random.default_rng(1).random((2, 500)), weight=0.5)
    model = BinnedMixture({"SR": {"B": Template(contents=filled, coefficient="k")}})
    assert model.expected(k=2.0)["SR"] == pytest.approx(2 * filled.values())
    assert model.contents(k=2.0)["SR"]["B"].shape == (2, 3)
    assert len(model.gammas) == 6
    assert model(filled)(1.0, *np.ones(6)) == pytest.approx(0.0, abs=1e-10)


# -- what is refused ---------------------------------------------------------------------------------------------------


def of(*templates: Template, **options: Any) -> BinnedMixture:
    return BinnedMixture({"SR": {f"P{k}": t for k, t in enumerate(templates)}}, **options)


def shifted(shift: float) -> Any:
    return hist.Hist(hist.axis.Regular(2, shift, 1 + shift, name="x"), storage=hist.storage.Weight())


BAD: dict[str, tuple[Callable[[], Any], type[Exception], str]] = {
    "no channels": (lambda: BinnedMixture({}), ValueError, "at least one channel with at least one template"),
    "empty channel": (lambda: BinnedMixture({"SR": {}}), ValueError, "at least one channel with at least one template"),
    "not a template": (lambda: BinnedMixture({"SR": {"B": [1.0]}}),  # type: ignore[dict-item]
                       TypeError, "channel 'SR', process 'B': expected a Template, found list"),
    "lengths": (lambda: of(Template(contents=[1.0, 2.0]), Template(contents=[1.0])), ValueError,
                r"channel 'SR', process 'P1': expected bins of shape \(2,\), found \(1,\)"),
    "axes": (lambda: of(Template(contents=shifted(0)), Template(contents=shifted(0.1))), ValueError,
             "process 'P1': expected the bins of axis 0 to be 2 from 0 to 1"),
    "shape axes": (lambda: Template(contents=shifted(0), shapes={"jes": (shifted(0), shifted(0.1))}), ValueError,
                   r"shape 'jes' at \+1 sigma: expected the bins of axis 0 to be 2 from 0 to 1 .* found 2 from 0.1"),
    "shape lengths": (lambda: Template(contents=[1.0, 2.0], shapes={"jes": ([1.0], [2.0])}), ValueError,
                      r"shape 'jes' at -1 sigma: expected bins of shape \(2,\)"),
    "shape of one": (lambda: Template(contents=[1.0], shapes={"jes": [1.0]}),  # type: ignore[dict-item]
                     ValueError, "shape 'jes': expected a pair of contents"),
    "negative": (lambda: Template(contents=[1.0, -2.0]), ValueError,
                 "template: expected contents from 0, found 1 negative, first -2 in bin 1; merge bins"),
    "nan": (lambda: Template(contents=[1.0, np.nan]), ValueError, "template: expected finite values"),
    "negative shape": (lambda: Template(contents=[1.0], shapes={"jes": ([-1.0], [2.0])}), ValueError,
                       "shape 'jes' at -1 sigma: expected contents from 0"),
    "variance": (lambda: Template(contents=[1.0, 2.0], variance=[1.0]), ValueError, "expected 2 variances"),
    "deviation": (lambda: Template(contents=[1.0, 2.0], uncorrelated={"f": [1.0]}), ValueError,
                  "uncorrelated 'f': expected 2 deviations"),
    "norm": (lambda: Template(contents=[1.0], norms={"rate": (1.1, -0.1)}), ValueError,
             "norm 'rate': expected positive factors at -1 and"),
    "coefficient": (lambda: Template(contents=[1.0], coefficient="mu +"), ValueError, "found a syntax error"),
    "parameter and nuisance": (
        lambda: of(Template(contents=[1.0], coefficient="a"), Template(contents=[1.0], norms={"a": 0.1})), ValueError,
        "'a' is a parameter of a coefficient and a nuisance of something else as well"),
    "factor and nuisance": (
        lambda: of(Template(contents=[1.0], variance=[1.0], norms={"staterror_SR[0]": 0.1})), ValueError,
        r"'staterror_SR\[0\]' is a nuisance and a factor of a bin of something else as well"),
    "factors twice": (
        lambda: of(Template(contents=[1.0], uncorrelated={"f": [1.0]}), Template(contents=[1.0],
                   uncorrelated={"f": [1.0]})), ValueError, r"'f\[0\]' is a factor of a bin and a factor of a bin"),
    "factors of two channels": (
        lambda: BinnedMixture({c: {"B": Template(contents=[1.0], variance=[1.0], gammas="g")} for c in ("A", "B")}),
        ValueError, "gammas 'g': expected templates of one channel, found A, B"),
    "free factors": (
        lambda: BinnedMixture({"A": {"B": Template(contents=[1.0], free=["f"])},
                               "B": {"B": Template(contents=[1.0, 2.0], free=["f"])}}), ValueError,
        r"free factors 'f': expected channels of one number of bins, found \[1, 2\]"),
    "statistics": (lambda: of(Template(contents=[1.0]), statistics="half"), ValueError,
                   "expected statistics to be one of lite, full, none, found 'half'"),
    "norm code": (lambda: of(Template(contents=[1.0]), norm_interpolation="code2"), ValueError, "code4, code1, log"),
    "shape code": (lambda: of(Template(contents=[1.0]), shape_interpolation="code2"), ValueError, "code4p, code0"),
    "limits": (lambda: of(Template(contents=[1.0], coefficient="mu"), limits={"nu": (0, 1)}), KeyError,
               "limits: no parameter 'nu'"),
    "channels of data": (lambda: BinnedMixture(channels())({"SR": COUNTS["SR"]}), KeyError,
                         "expected the channels SR, CR, found SR"),
    "data without channels": (lambda: BinnedMixture(channels())(COUNTS["SR"]), ValueError,
                              "expected contents by channel, SR, CR"),
    "data length": (lambda: of(Template(contents=[1.0]))([1.0, 2.0]), ValueError,
                    r"data of SR: expected bins of shape \(1,\), found \(2,\)"),
    "data axes": (lambda: of(Template(contents=shifted(0)))(shifted(0.5)), ValueError, "data of SR: expected the bins"),
    "negative data": (lambda: of(Template(contents=[1.0]))([-1.0]), ValueError, "data of SR: expected contents from 0"),
    "unknown value": (lambda: BinnedMixture(channels()).expected(mu=1, jess=0), KeyError, "no parameter 'jess'"),
    "missing value": (lambda: BinnedMixture(channels()).asimov(mu=1), KeyError, "no value for the parameter 'k'"),
    "number of bins": (lambda: histogram(gauss_events(10, 0, 1), "x", 10), ValueError, "expected edges or a hist.axis"),
    "empty events": (
        lambda: BinnedMixture.from_events({"S": ProcessSample(events=gauss_events(0, 0, 1))}, "x", EDGES), ValueError,
        "process S: expected events, found an empty sample"),
    "factor widths": (lambda: NormalFactors(["a"], sigma=[0.0]), ValueError, "expected a positive sigma, found 0 for"),
    "factor counts": (lambda: PoissonFactors(["a"], [-1.0], scale=[1.0]), ValueError, "expected counts from 0"),
    "factor lengths": (lambda: PoissonFactors(["a"], [1.0], scale=[1.0, 2.0]), ValueError, "expected 1 values of"),
}  # fmt: skip


@pytest.mark.parametrize("case", BAD)
def test_bad_input_is_refused(case: str) -> None:
    make, kind, words = BAD[case]
    with pytest.raises(kind, match=words):
        make()


def test_contents_below_zero_are_named() -> None:
    cost = BinnedMixture(channels(), statistics="none")(COUNTS)
    with pytest.raises(NegativeDensity, match=r"channel CR, its bin 0, is not positive in 2 of 5 bins.*k = -3"):
        cost(1.0, -3.0, 0, 0, 0, 0, 1, 1, 1, 1)
    with pytest.raises(NegativeDensity, match=r"factor fakes_stat\[1\]: expected a positive factor, found 0; give it"):
        cost(1.0, 1.0, 0, 0, 0, 0, 1, 0, 1, 1)
    with pytest.raises(NegativeDensity, match="the content is not positive in 2 of 5 bins"):
        cost.asimov({"mu": 1, "k": -3, "theory": 0, "jes": 0, "btag": 0, "scale": 0})


# -- pyhf --------------------------------------------------------------------------------------------------------------


@pytest.fixture
def pyhf() -> Iterator[Any]:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # its own
        import pyhf as module

        default = torch.get_default_dtype()  # pyhf's torch changes it for everybody
        module.set_backend("numpy", precision="64b")
        yield module
        module.set_backend("numpy", precision="64b")
        torch.set_default_dtype(default)


def modifier(name: str, kind: str, data: Any = None) -> dict[str, Any]:
    return {"name": name, "type": kind, "data": data}


def workspace() -> dict[str, Any]:
    """Two channels with all kinds of modifiers, shared nuisances, an outcome away from 0."""
    signal = [modifier("mu", "normfactor"), modifier("lumi", "lumi"), modifier("theory", "normsys", {"lo": 0.85,
              "hi": 1.2}), modifier("jes", "histosys", {"lo_data": [1.5, 7.0, 6.0], "hi_data": [2.8, 8.5, 4.0]}),
              modifier("staterror_SR", "staterror", [0.2, 0.5, 0.3])]  # fmt: skip
    top = [modifier("k-top", "normfactor"), modifier("lumi", "lumi"), modifier("jes", "normsys", {"lo": 0.95,
           "hi": 1.02}), modifier("jes", "histosys", {"lo_data": [48, 31, 13.0], "hi_data": [53.0, 28, 12]}),
           modifier("btag", "normsys", {"lo": 0.9, "hi": 1.1}),
           modifier("staterror_SR", "staterror", [2.0, 1.5, 1.0])]  # fmt: skip
    fakes = [modifier("fakes_stat", "shapesys", [1.0, 2.0, 0.5]), modifier("fakes", "normsys", {"lo": 0.6, "hi": 1.5})]
    control = [modifier("k-top", "normfactor"), modifier("lumi", "lumi"), modifier("btag", "normsys", {"lo": 0.95,
               "hi": 1.08}), modifier("jes", "histosys", {"lo_data": [190, 155], "hi_data": [215.0, 147]}),
               modifier("staterror_CR", "staterror", [4.0, 3.0])]  # fmt: skip
    other = [modifier("theory", "normsys", {"lo": 0.9, "hi": 1.1}), modifier("other_stat", "shapesys", [3.0, 5.0])]
    parameters = [
        {"name": "lumi", "auxdata": [1.0], "sigmas": [0.03], "inits": [1.0], "bounds": [[0.5, 1.5]]},
        {"name": "jes", "auxdata": [0.3]},
    ]
    return {
        "channels": [
            {"name": "SR", "samples": [{"name": "signal", "data": [2.0, 8.0, 5.0], "modifiers": signal},
                                       {"name": "top", "data": [50.0, 30.0, 12.0], "modifiers": top},
                                       {"name": "fakes", "data": [5.0, 6.0, 0.0], "modifiers": fakes}]},
            {"name": "CR", "samples": [{"name": "top", "data": [200.0, 150.0], "modifiers": control},
                                       {"name": "other", "data": [20.0, 30.0], "modifiers": other}]},
        ],
        "observations": [{"name": "SR", "data": [60.0, 47.0, 19.0]}, {"name": "CR", "data": [230.0, 170.0]}],
        "measurements": [{"name": "m", "config": {"poi": "mu", "parameters": parameters}}],
        "version": "1.0.0",
    }  # fmt: skip


class Theirs:
    """pyhf's -2 log L and gradient of a workspace, by parameters' names."""

    def __init__(self, pyhf: Any, spec: Mapping[str, Any]) -> None:
        self.spec, self.pyhf = copy.deepcopy(dict(spec)), pyhf
        pyhf.schema.validate(self.spec, "workspace.json")
        pyhf.set_backend("pytorch", precision="64b")
        found = pyhf.Workspace(self.spec)
        self.model = found.model()
        self.data = torch.tensor(found.data(self.model), dtype=torch.float64)
        self.names = list(self.model.config.par_names)

    def __call__(self, at: Mapping[str, float]) -> tuple[float, dict[str, float]]:
        theta = torch.tensor([at.get(name, 1.0) for name in self.names], dtype=torch.float64, requires_grad=True)
        value = -2 * self.model.logpdf(theta, self.data)[0]
        (slope,) = torch.autograd.grad(value, theta)
        return float(value.detach()), dict(zip(self.names, slope.tolist(), strict=True))


def agree(cost: Cost, theirs: Theirs, points: list[dict[str, float]]) -> None:
    """Differences of the value to 1e-9 and gradients to 1e-8, at all points."""
    names = list(cost._parameters)
    first = theirs(points[0])[0] - cost(*(points[0][n] for n in names))
    for at in points:
        value, slope = theirs(at)
        theta = [at[n] for n in names]
        assert value - cost(*theta) == pytest.approx(first, abs=1e-9)
        assert cost.grad(*theta) == pytest.approx([slope[n] for n in names], rel=1e-8, abs=1e-8)


def test_an_imported_workspace_gives_the_answers_of_pyhf(pyhf: Any) -> None:
    found, theirs = from_pyhf(workspace()), Theirs(pyhf, workspace())
    # pyhf also has the factor of a bin without content, fixed
    assert set(theirs.names) - set(found.model.names) == {"fakes_stat[2]"}
    assert set(found.model.names) <= set(theirs.names)
    random = points(found.model, seed=5, count=8)
    assert max(abs(at["jes"]) for at in random) > 1.5
    agree(found.cost, theirs, [found.start, *random])
    assert found.poi == "mu"
    assert found.start["jes"] == 0.0
    assert found.cost._parameters["lumi"] == (0.5, 1.5)


def test_the_minimum_is_that_of_pyhf(pyhf: Any) -> None:
    """Both gradients, followed to their zero, end at one point: to 1e-6 in every parameter."""
    found, theirs = from_pyhf(workspace()), Theirs(pyhf, workspace())
    names = list(found.cost._parameters)
    fit = Minuit(found.cost, **found.start).migrad()
    assert fit.valid
    start = np.array(fit.values)
    ours = optimize.root(lambda t: found.cost.grad(*t), start, tol=1e-12).x

    def slope(theta: Floats) -> list[float]:
        each = theirs(dict(zip(names, theta, strict=True)))[1]
        return [each[n] for n in names]

    pyhfs = optimize.root(slope, start, tol=1e-12).x
    assert ours == pytest.approx(pyhfs, abs=1e-6)
    assert ours == pytest.approx(start, abs=0.02)
    # their own fit finds it too, to the precision of its minimiser
    pyhf.set_backend("numpy", pyhf.optimize.minuit_optimizer(tolerance=1e-3), precision="64b")
    model = pyhf.Workspace(theirs.spec).model()
    best = pyhf.infer.mle.fit(pyhf.Workspace(theirs.spec).data(model), model)
    assert best[model.config.poi_index] == pytest.approx(ours[names.index("mu")], abs=1e-2)


def plain() -> dict[str, dict[str, Template]]:
    """The channels of this file without what pyhf cannot say."""
    found = channels()
    s, other = found["SR"]["S"], found["CR"]["other"]
    found["SR"]["S"] = Template(contents=s.contents, variance=s.variance, coefficient="mu * lumi", norms=s.norms,
                                shapes=s.shapes)  # fmt: skip
    found["CR"]["other"] = Template(contents=other.contents, free=["shape"])
    return found


@pytest.mark.parametrize("statistics", ["lite", "full", "none"])
def test_an_exported_model_gives_the_same_answers_in_pyhf(pyhf: Any, statistics: Any) -> None:
    model = BinnedMixture(plain(), statistics=statistics, limits={"mu": (0, 5)})
    cost = model(COUNTS) + Normal(["theory", "jes"]) + Normal("btag", 0.4) + Normal("scale") + Normal("lumi", 1, 0.02)
    spec = json.loads(json.dumps(to_pyhf(cost, poi="mu", measurement="fit")))
    theirs = Theirs(pyhf, spec)
    random = points(model, seed=7)
    agree(cost, theirs, random)
    again = from_pyhf(spec, measurement="fit")
    for at in random:
        assert again.cost(*(at[n] for n in again.cost._parameters)) == pytest.approx(
            cost(*(at[n] for n in cost._parameters)), abs=1e-9
        )
    assert theirs.model.config.suggested_bounds()[theirs.names.index("mu")] == [0, 5]
    # the statistics matter at these points
    if statistics != "none":
        bare = BinnedMixture(plain(), statistics="none")
        assert abs(bare(COUNTS).at(random[1]) - model(COUNTS).at(random[1])) > 0.1


def test_outcomes_of_pseudo_experiments_are_exported(pyhf: Any) -> None:
    model = BinnedMixture(plain())
    cost = model(COUNTS) + Normal(model.nuisances) + Normal("lumi", 1, 0.02)
    toy = sample(cost, points(model)[0], np.random.default_rng(3))
    spec = to_pyhf(toy, poi="mu")
    assert {p["name"] for p in spec["measurements"][0]["config"]["parameters"]} >= {"staterror_SR", "fakes_stat", "jes"}
    agree(toy, Theirs(pyhf, spec), points(model))
    agree(from_pyhf(spec).cost, Theirs(pyhf, spec), points(model))


def exported(change: Callable[[dict[str, dict[str, Template]]], Any] | None = None, extra: Any = None,
             **options: Any) -> Any:  # fmt: skip
    parts = plain()
    if change is not None:
        change(parts)
    model = BinnedMixture(parts, **options)
    total = model(COUNTS) + Normal("lumi", 1, 0.02)
    return to_pyhf(total + (Normal(model.nuisances) if extra is None else extra), poi="mu")


def set_coefficient(source: Any) -> Callable[[dict[str, dict[str, Template]]], None]:
    def change(parts: dict[str, dict[str, Template]]) -> None:
        parts["CR"]["B"] = Template(contents=[200.0, 150.0], coefficient=source)

    return change


NUISANCES = ["theory", "jes", "btag", "scale"]
CANNOT: dict[str, tuple[Callable[[], Any], str]] = {
    "interference": (lambda: exported(set_coefficient("mu - sqrt(mu)"), Normal(NUISANCES[:3])),
                     r"coefficient of B in CR is 'mu - sqrt\(mu\)', and a workspace has products of different factors"),
    "square": (lambda: exported(set_coefficient("mu * mu"), Normal(NUISANCES[:3])), "products of different factors"),
    "number": (lambda: exported(set_coefficient(2.0), Normal(NUISANCES[:3])), "is 2.0, and a workspace has products"),
    "log": (lambda: exported(norm_interpolation="log"), "cannot say norm_interpolation='log'; build .* 'code4'"),
    "code0": (lambda: exported(shape_interpolation="code0"), "cannot say shape_interpolation='code0'"),
    "log-normal": (lambda: exported(extra=Normal(NUISANCES) + LogNormal("k")), "normal constraints only, found"),
    "width": (lambda: exported(extra=Normal(NUISANCES[:3]) + Normal("scale", sigma=2.0)),
              r"Normal\('scale'\) of unit width for the nuisance, found the width 2"),
    "no constraint": (lambda: exported(extra=Normal(NUISANCES[:3])), r"Normal\('scale'\) of unit width .* found none"),
    "two constraints": (lambda: exported(extra=Normal(NUISANCES) + Normal("jes")), "found two of 'jes'"),
    "another's": (lambda: exported(extra=Normal(NUISANCES) + Normal("jer")), "found another of 'jer'"),
    "correlated": (lambda: exported(extra=Normal(NUISANCES[2:]) + Normal(NUISANCES[:2], covariance=[[1, 0.2],
                   [0.2, 1]])), "no correlated constraints, found one of theory, jes"),
    "constrained factor": (lambda: exported(extra=Normal(NUISANCES) + Normal("k", 1)),
                           "a normal constraint of the factor 'lumi' and of no other, found 'k' with one"),
    "two models": (lambda: exported(extra=Normal(NUISANCES) + of(Template(contents=[1.0]))([1.0])),
                   "a cost with one BinnedCost, found 2"),
}  # fmt: skip


@pytest.mark.parametrize("case", CANNOT)
def test_what_pyhf_cannot_say_is_refused(case: str) -> None:
    make, words = CANNOT[case]
    with pytest.raises(ValueError, match=words):
        make()


def test_an_unknown_parameter_of_interest_is_refused() -> None:
    model = BinnedMixture({"SR": {"B": Template(contents=[1.0], coefficient="mu")}})
    with pytest.raises(KeyError, match="poi: no parameter 'mew'"):
        to_pyhf(model([1.0]), poi="mew")


def changed(change: Callable[[dict[str, Any]], Any]) -> dict[str, Any]:
    spec = workspace()
    change(spec)
    return spec


def first_sample(spec: dict[str, Any]) -> dict[str, Any]:
    return dict(spec["channels"][0]["samples"][0])


BROKEN: dict[str, tuple[Callable[[dict[str, Any]], Any], type[Exception], str]] = {
    "no observations": (lambda s: s.pop("observations"), ValueError, "found no 'observations'"),
    "modifier": (lambda s: first_sample(s)["modifiers"].append(modifier("a", "normsis")), ValueError,
                 "SR, signal: no modifier of type 'normsis'; closest: 'normsys'"),
    "twice": (lambda s: first_sample(s)["modifiers"].append(modifier("mu", "normfactor")), ValueError,
              "expected one normfactor of a name, found two of 'mu'"),
    "two staterrors": (lambda s: first_sample(s)["modifiers"].append(modifier("g", "staterror", [1.0, 1.0, 1.0])),
                       ValueError, "at most one staterror, found staterror_SR, g"),
    "sample twice": (lambda s: s["channels"][0]["samples"].append(first_sample(s)), ValueError, "found one twice"),
    "lumi": (lambda s: s["measurements"][0]["config"]["parameters"].pop(0), ValueError, "auxdata and sigmas of"),
    "sigmas": (lambda s: s["measurements"][0]["config"]["parameters"].append({"name": "staterror_SR", "sigmas": [1]}),
               ValueError, "the parameter 'staterror_SR' sets the width of its constraint anew"),
    "lengths": (lambda s: s["observations"][0].update(data=[1.0]), ValueError, "data of SR: expected bins of shape"),
}  # fmt: skip


@pytest.mark.parametrize("case", BROKEN)
def test_broken_workspaces_are_refused(case: str) -> None:
    change, kind, words = BROKEN[case]
    with pytest.raises(kind, match=words):
        from_pyhf(changed(change))


def test_an_unknown_measurement_is_refused() -> None:
    with pytest.raises(KeyError, match="no measurement 'n'"):
        from_pyhf(workspace(), measurement="n")


def test_fixed_parameters_and_odd_names_are_read() -> None:
    spec = workspace()
    spec["measurements"][0]["config"]["parameters"] += [{"name": "staterror_CR", "fixed": True},
                                                        {"name": "k-top", "inits": [1.2], "fixed": True}]  # fmt: skip
    found = from_pyhf(spec)
    assert found.fixed == ("k-top", "staterror_CR[0]", "staterror_CR[1]")
    assert found.start["k-top"] == 1.2
    assert "poi 'mu'; 3 fixed" in repr(found)
    source = found.model.channels["SR"]["signal"].coefficient
    assert isinstance(source, Coefficient)
    assert source.to_json() == "mu * lumi"  # a workspace of this package can keep it


def test_workspaces_are_read_and_written_without_pyhf() -> None:
    """In a process where it cannot be imported."""
    code = (
        "import sys; sys.modules['pyhf'] = None\n"
        "import json\n"
        "from nuinfer.likelihood import from_pyhf, to_pyhf\n"
        "found = from_pyhf(json.loads(sys.argv[1]))\n"
        "print(found.poi, to_pyhf(found.cost, poi='mu')['version'])"
    )
    out = subprocess.run(
        [sys.executable, "-c", code, json.dumps(workspace())], capture_output=True, text=True, check=True
    )
    assert out.stdout.split() == ["mu", "1.0.0"]
