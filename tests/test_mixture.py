"""`nuinfer.likelihood.Mixture` against the same likelihood written out in numpy, event by event."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import cloudpickle
import numpy as np
import pytest
import torch
from iminuit import Minuit
from numpy.typing import NDArray
from scipy import stats

import nuinfer as nu
from nuinfer.likelihood import Coefficient, Mixture, NegativeDensity, Normal, Process
from nuinfer.likelihood.interpolation import basis, basis_slope, code4, code4_log_slope, log_factor

Floats = NDArray[np.float64]
REFERENCE = stats.norm(0, 2)


def ratio(mean: float, width: float) -> Callable[[nu.Events], Floats]:
    """log N(mean, width) / reference."""
    return lambda e: stats.norm(mean, width).logpdf(e["x"]) - REFERENCE.logpdf(e["x"])


def variation(mean: float, width: float, shifted: float, scaled: float) -> Callable[[nu.Events], Floats]:
    """log N(shifted, scaled) / N(mean, width)."""
    return lambda e: stats.norm(shifted, scaled).logpdf(e["x"]) - stats.norm(mean, width).logpdf(e["x"])


def processes() -> dict[str, Process]:
    """A signal and a background with two shapes, two norms, and one process of the reference's own density."""
    shift = (variation(0.5, 0.6, 0.4, 0.6), variation(0.5, 0.6, 0.63, 0.62))
    tilt = (variation(-0.5, 1.5, -0.6, 1.45), variation(-0.5, 1.5, -0.45, 1.6))
    scale = (variation(-0.5, 1.5, -0.55, 1.5), variation(-0.5, 1.5, -0.42, 1.5))
    return {
        "S": Process(yields=150, ratio=ratio(0.5, 0.6), coefficient="mu", norms={"theory": (0.9, 1.2)},
                     shapes={"shift": shift}),
        "B": Process(yields=800, ratio=ratio(-0.5, 1.5), norms={"rate": 0.05, "shift": (0.97, 1.02)},
                     shapes={"shift": scale, "tilt": tilt}),
        "other": Process(yields=50),
    }  # fmt: skip


def samples(n: int = 4000) -> tuple[nu.Events, nu.Events]:
    """Data and a weighted reference, some of its weights negative."""
    rng = np.random.default_rng(3)
    x = np.concatenate([rng.normal(0.5, 0.6, n // 6), rng.normal(-0.5, 1.5, n - n // 6)])
    r = rng.normal(0, 2, 2 * n)
    weight = rng.exponential(size=2 * n) + 0.2
    weight[rng.random(2 * n) < 0.05] *= -1
    return nu.Events({"x": x}), nu.Events({"x": r}, weight=weight)


# -- the same, written out ---------------------------------------------------------------------------------------------


def polynomial(down: Floats, up: Floats) -> Floats:
    """a_1 .. a_6 of HistFactory's code 4, (6, *), solved from its six conditions one by one."""
    i = np.arange(1, 7)
    left = np.array([np.ones(6), (-1.0) ** i, i, -i * (-1.0) ** i, i * (i - 1), i * (i - 1) * (-1.0) ** i])
    right = np.array([up - 1, down - 1, up * np.log(up), -down * np.log(down), up * np.log(up) ** 2,
                      down * np.log(down) ** 2])  # fmt: skip
    return np.tensordot(np.linalg.inv(left), right, 1)


def factor(a: float, down: Floats, up: Floats, how: str) -> Floats:
    """g(a) from g(-1) and g(+1)."""
    if how == "code4":
        if abs(a) > 1:
            return up**a if a > 0 else down**-a
        return 1 + sum(c * a ** (i + 1) for i, c in enumerate(polynomial(down, up)))
    even = abs(a) if abs(a) > 1 else (15 * a**2 - 10 * a**4 + 3 * a**6) / 8
    return np.exp(0.5 * np.log(up / down) * a + 0.5 * np.log(up * down) * even)


def densities(parts: Mapping[str, Process], events: nu.Events, at: Mapping[str, float], how: str) -> Floats:
    """s g (N, J)."""
    out = []
    for process in parts.values():
        s = np.exp(process.ratio(events)) if process.ratio else np.ones(len(events))  # type: ignore[operator]
        for name, (down, up) in process.shapes.items():
            s = s * factor(at[name], np.exp(down(events)), np.exp(up(events)), how)  # type: ignore[operator]
        out.append(s)
    return np.array(out).T


def by_hand(
    parts: Mapping[str, Process], data: nu.Events, reference: nu.Events, at: Mapping[str, float], how: str,
    nominal: bool = False,
) -> float:  # fmt: skip
    """-2 log L, the densities normalised on the reference."""
    w = reference.weight / reference.weight.sum()
    z = w @ densities(parts, reference, at, how)
    if nominal:
        z = z / (w @ densities(parts, reference, dict.fromkeys(at, 0.0), how))
    c = []
    for name, process in parts.items():
        nu_j = process.yields * (at["mu"] if name == "S" else 1.0)
        for nuisance, (down, up) in process.norms.items():  # type: ignore[misc]
            nu_j *= factor(at[nuisance], np.array(down), np.array(up), how)
        c.append(nu_j)
    rate = densities(parts, data, at, how) @ (np.array(c) / z)
    return float(2 * np.sum(c) - 2 * np.dot(data.weight, np.log(rate)))


def points(seed: int = 5) -> list[dict[str, float]]:
    """Parameters inside and outside one sigma."""
    rng = np.random.default_rng(seed)
    nominal = {"mu": 1.0, "theory": 0.0, "shift": 0.0, "rate": 0.0, "tilt": 0.0}
    out = [{name: v + rng.normal(0, 1.0) * (0.3 if name == "mu" else 1.0) for name, v in nominal.items()}
           for _ in range(6)]  # fmt: skip
    return [nominal, *out]


# -- value and gradient ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("how", ["log", "code4"])
@pytest.mark.parametrize("normalise", ["densities", "variations"])
def test_value_is_the_likelihood_written_out(how: Any, normalise: Any) -> None:
    data, reference = samples()
    parts = processes()
    model = Mixture(parts, reference, interpolation=how, normalise=normalise)
    assert model.names == ("mu", "theory", "shift", "rate", "tilt")
    cost = model(data)
    for at in points():
        exact = by_hand(parts, data, reference, at, how, nominal=normalise == "variations")
        assert cost.at(at) == pytest.approx(exact, abs=1e-5)
    # and the choices differ by more than that
    other = by_hand(parts, data, reference, points()[1], "code4" if how == "log" else "log")
    assert abs(cost.at(points()[1]) - other) > 1e-3


def test_float64_tables_are_exact_to_rounding() -> None:
    data, reference = samples()
    parts = processes()
    cost = Mixture(parts, reference, precision="float64")(data)
    for at in points():
        assert cost.at(at) == pytest.approx(by_hand(parts, data, reference, at, "log"), rel=1e-13)


@pytest.mark.parametrize("how", ["log", "code4"])
@pytest.mark.parametrize("normalise", ["densities", "variations"])
def test_gradient_equals_finite_differences(how: Any, normalise: Any) -> None:
    data, reference = samples(1000)
    model = Mixture(processes(), reference, interpolation=how, normalise=normalise, precision="float64")
    cost = model(data.with_weight(np.linspace(0.5, 1.5, len(data))))
    for at in points()[1:4]:
        values = np.array([at[name] for name in model.names])
        found = cost.grad(*values)
        for i in range(len(values)):
            step = 1e-5 * np.eye(len(values))[i]
            numeric = (cost(*(values + step)) - cost(*(values - step))) / 2e-5
            assert found[i] == pytest.approx(numeric, rel=1e-6, abs=2e-4)


def test_float32_gradient_agrees_with_float64() -> None:
    data, reference = samples()
    one, two = (Mixture(processes(), reference, precision=p)(data) for p in ("float32", "float64"))
    for at in points():
        values = [at[name] for name in one.names]
        np.testing.assert_allclose(one.grad(*values), two.grad(*values), rtol=1e-6, atol=1e-3)


def test_weight_two_is_the_event_twice_and_blocks_do_not_matter(monkeypatch: pytest.MonkeyPatch) -> None:
    data, reference = samples(600)
    model = Mixture(processes(), reference)
    twice = nu.Events.concat([data, data.select(slice(0, 100))])
    weight = np.ones(len(data))
    weight[:100] = 2
    at = points()[2]
    whole = model(data.with_weight(weight)).at(at)
    assert whole == pytest.approx(model(twice).at(at), abs=1e-9)
    assert model(data).at(at) != pytest.approx(whole, abs=1.0)
    monkeypatch.setattr("nuinfer.likelihood.table._BLOCK", 64)
    many = Mixture(processes(), reference)
    assert many(data.with_weight(weight)).at(at) == pytest.approx(whole, abs=1e-6)


# -- Asimov ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("how", ["log", "code4"])
def test_asimov_gives_back_what_was_injected(how: Any) -> None:
    _, reference = samples()
    model = Mixture(processes(), reference, interpolation=how, limits={"mu": (0, None)})
    truth = {"mu": 1.3, "theory": 0.4, "shift": -0.7, "rate": 0.5, "tilt": 1.2}
    constraints = sum((Normal(name).asimov(truth) for name in model.nuisances), start=model.asimov(**truth))
    assert np.abs(constraints.grad(*(truth[n] for n in model.names))).max() < 1e-3
    fit = Minuit(constraints, mu=1.0, theory=0.0, shift=0.0, rate=0.0, tilt=0.0)
    fit.tol = 1e-4  # the default stops at a distance to the minimum of 2e-4, a hundredth of sigma
    fit.migrad()
    assert fit.valid
    for name in model.names:
        assert fit.values[name] == pytest.approx(truth[name], abs=1e-3 * fit.errors[name] + 1e-6)
    # without the normalisation at every alpha it would not: the interpolated densities drift
    w = reference.weight / reference.weight.sum()
    drift = w @ densities(processes(), reference, truth, how) / (
        w @ densities(processes(), reference, dict.fromkeys(truth, 0.0), how))  # fmt: skip
    assert abs(drift[1] - 1) > 5e-4


def test_asimov_weights_sum_to_the_expected_number() -> None:
    _, reference = samples(500)
    model, at = Mixture(processes(), reference), points()[3]
    assert model.asimov(**at).table.weight.sum() == pytest.approx(model.expected(**at), rel=1e-9)
    direct = by_hand(processes(), nu.Events({"x": np.empty(0)}), reference, at, "log")
    assert 2 * model.expected(**at) == pytest.approx(direct, rel=1e-12)


# -- what is derived ---------------------------------------------------------------------------------------------------


def test_contributions_and_optimal_observable() -> None:
    data, reference = samples(500)
    for how in ("log", "code4"):
        model, at = Mixture(processes(), reference, interpolation=how, precision="float64"), points()[2]  # type: ignore[arg-type]
        share = model.contributions(data, **at)
        np.testing.assert_allclose(sum(share.values()), 1.0, rtol=1e-12)
        for name in model.names:
            up, down = dict(at), dict(at)
            up[name] += 1e-5
            down[name] -= 1e-5
            numeric = (model.log_rate(data, **up) - model.log_rate(data, **down)) / 2e-5
            np.testing.assert_allclose(model.optimal_observable(data, name, **at), numeric, atol=2e-8, rtol=1e-6)


@pytest.mark.parametrize("how", ["log", "code4"])
def test_expected_events_sum_to_the_yields_and_to_the_asimov_weights(how: Any) -> None:
    _, reference = samples(500)
    parts = processes()
    model = Mixture(parts, reference, interpolation=how)
    weight = reference.weight / reference.weight.sum()
    for at in points():
        each = model.expected_events(reference, **at)
        yields = model.yields(**at)
        assert list(each) == list(yields) == ["S", "B", "other"]
        for name, expected in yields.items():
            assert each[name].sum() == pytest.approx(expected, rel=1e-6)
        np.testing.assert_allclose(sum(each.values()), model.asimov(**at).table.weight, rtol=1e-9, atol=1e-12)
        by_hand = weight[:, None] * densities(parts, reference, at, how)  # normalised, they are the yields' shares
        for j, name in enumerate(parts):
            np.testing.assert_allclose(each[name], by_hand[:, j] / by_hand[:, j].sum() * yields[name], rtol=2e-5)
    away = points()[1]
    plain = Mixture(parts, reference, interpolation=how, normalise="variations").expected_events(reference, **away)
    mean = float(weight @ np.exp(ratio(0.5, 0.6)(reference)))
    assert plain["S"].sum() == pytest.approx(model.yields(**away)["S"] * mean, rel=1e-6)
    assert abs(mean - 1) > 1e-3
    with pytest.raises(ValueError, match="reference: expected a positive total weight"):
        model.expected_events(reference.with_weight(-np.abs(reference.weight)), **away)
    with pytest.raises(TypeError, match="expected Events"):
        model.expected_events(np.zeros(3), **away)  # type: ignore[arg-type]


def test_interference_through_positive_samples() -> None:
    """A rate (sqrt(mu) a + b)^2 of two amplitudes, from S, B and SBI with coefficients of either sign."""
    rng = np.random.default_rng(2)
    reference = nu.Events({"x": rng.normal(0, 2, 5000)})
    a, b = stats.norm(0.3, 1.0).pdf, stats.norm(-0.3, 1.5).pdf
    dense = np.linspace(-15, 15, 20001)
    parts = {"S": lambda x: a(x) ** 2, "B": lambda x: b(x) ** 2, "SBI": lambda x: (a(x) + b(x)) ** 2}
    norm = {name: np.trapezoid(f(dense), dense) for name, f in parts.items()}
    coefficient = {"S": "mu - sqrt(mu)", "B": "1 - sqrt(mu)", "SBI": "sqrt(mu)"}
    model = Mixture(
        {n: Process(yields=100 * norm[n], coefficient=coefficient[n], ratio=lambda e, f=f, n=n: np.log(
            f(e["x"]) / norm[n]) - REFERENCE.logpdf(e["x"])) for n, f in parts.items()},
        reference, normalise="variations", limits={"mu": (0, None)},
    )  # fmt: skip
    for mu in (0.0, 0.3, 1.0, 2.5):
        exact = np.log(100 * (np.sqrt(mu) * a(reference["x"]) + b(reference["x"])) ** 2)
        found = model.log_rate(reference, mu=mu) + REFERENCE.logpdf(reference["x"])
        np.testing.assert_allclose(found, exact, atol=1e-9)


def test_near_and_far_share_parameters_and_costs_travel() -> None:
    data, reference = samples(400)
    near = Mixture(processes(), reference)(data)
    far = Mixture({"B": processes()["B"]}, reference)(data.select(slice(0, 50)))
    both = near + far + Normal("shift")
    assert tuple(both._parameters) == ("mu", "theory", "shift", "rate", "tilt")
    at = points()[1]
    values = [at[name] for name in both._parameters]
    assert both(*values) == pytest.approx(near.at(at) + far.at(at) + at["shift"] ** 2)
    again = cloudpickle.loads(cloudpickle.dumps(far))
    assert again.at(at) == far.at(at)
    np.testing.assert_array_equal(again.grad(*(at[n] for n in far.names)), far.grad(*(at[n] for n in far.names)))


# -- interpolation -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("how", ["log", "code4"])
def test_interpolation_meets_its_points_smoothly(how: Any) -> None:
    down, up = torch.tensor(-0.2, dtype=torch.float64), torch.tensor(0.35, dtype=torch.float64)
    grid = torch.tensor([-1.0, 0.0, 1.0, 2.0, -3.0], dtype=torch.float64)
    found = log_factor(grid, down, up, how)
    np.testing.assert_allclose(found, [-0.2, 0.0, 0.35, 0.7, -0.6], atol=1e-14)
    for edge in (-1.0, 1.0):
        a = torch.tensor([edge - 1e-9, edge + 1e-9], dtype=torch.float64, requires_grad=True)
        (slope,) = torch.autograd.grad(log_factor(a, down, up, how).sum(), a, create_graph=True)
        (bend,) = torch.autograd.grad(slope.sum(), a)
        assert slope[0].item() == pytest.approx(slope[1].item(), abs=1e-7)
        assert bend[0].item() == pytest.approx(bend[1].item(), abs=1e-6)
    middle = torch.tensor(0.5, dtype=torch.float64)
    assert abs(log_factor(middle, down, up, "log") - torch.log(code4(middle, down, up))) > 1e-4
    p, q = basis(torch.tensor(0.5))
    assert (float(p), float(q)) == pytest.approx((0.5, (15 / 4 - 10 / 16 + 3 / 64) / 8))


def test_closed_form_slopes_are_those_of_autograd() -> None:
    rng = np.random.default_rng(2)
    down, up = torch.from_numpy(rng.normal(0, 0.3, (2, 50)))
    alpha = torch.linspace(-2.5, 2.5, 50, dtype=torch.float64, requires_grad=True)
    (slope,) = torch.autograd.grad(torch.log(code4(alpha, down, up)).sum(), alpha)
    found = code4_log_slope(alpha.detach(), down, up)
    np.testing.assert_allclose(found, slope, atol=1e-12)
    assert abs(found - (up - down) / 2).max() > 0.1
    for value, own in zip(basis(alpha), basis_slope(alpha.detach()), strict=True):
        np.testing.assert_allclose(own, torch.autograd.grad(value.sum(), alpha)[0], atol=1e-12)


# -- bad input ---------------------------------------------------------------------------------------------------------


def test_negative_density_names_event_and_parameters() -> None:
    data, reference = samples(300)
    cost = Mixture({"S": Process(yields=100, ratio=ratio(0.5, 0.6), coefficient="mu"),
                    "B": Process(yields=100, ratio=ratio(-0.5, 1.5))}, reference)(data)  # fmt: skip
    worst = int(np.argmax(stats.norm(0.5, 0.6).logpdf(data["x"]) - stats.norm(-0.5, 1.5).logpdf(data["x"])))
    with pytest.raises(NegativeDensity, match=r"lowest at row \d+ \(id -?\d+\).*mu = -1") as found:
        cost(-1.0)
    assert "limit the parameters" in str(found.value)
    assert f"of {len(data)} events" in str(found.value)
    assert worst >= 0
    root = Mixture({"S": Process(yields=100, coefficient="sqrt(mu)")}, reference)(data)
    with pytest.raises(NegativeDensity, match=r"mu = -0\.5"):
        root(-0.5)


def test_overlapping_names_and_wrong_parameters_are_refused() -> None:
    data, reference = samples(100)
    s = Process(yields=1.0, coefficient="mu")
    with pytest.raises(ValueError, match="found 'S' more than once"):
        Mixture([("S", s), ("S", s)], reference)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="'mu' is in a coefficient and a nuisance"):
        Mixture({"S": s, "B": Process(yields=1.0, norms={"mu": 0.1})}, reference)
    with pytest.raises(ValueError, match="at least one process"):
        Mixture({}, reference)
    with pytest.raises(KeyError, match="no parameter 'nu'; closest: 'mu'"):
        Mixture({"S": s}, reference, limits={"nu": (0, 1)})
    with pytest.raises(ValueError, match="interpolation to be one of"):
        Mixture({"S": s}, reference, interpolation="linear")  # type: ignore[arg-type]
    model = Mixture({"S": s}, reference)
    with pytest.raises(KeyError, match="no value for the parameter 'mu'"):
        model.expected()
    with pytest.raises(KeyError, match="no parameter 'mi'"):
        model.expected(mu=1.0, mi=2.0)
    with pytest.raises(KeyError, match="no parameter 'alpha'"):
        model.optimal_observable(data, "alpha", mu=1.0)


def test_tables_of_another_model_and_other_things_than_events_are_refused() -> None:
    data, reference = samples(100)
    s, b = Process(yields=10, ratio=ratio(0.5, 0.6), coefficient="mu"), Process(yields=20, ratio=ratio(-0.5, 1.5))
    table = Mixture({"S": s, "B": b}, reference).reference
    again = Mixture({"S": s, "B": b}, table)(data)
    assert again(1.0) == Mixture({"S": s, "B": b}, reference)(data)(1.0)
    with pytest.raises(
        ValueError, match=r"expected a table of the processes and shapes B, S, \| by 'log', found one of S"
    ):
        Mixture({"B": b, "S": s}, table)
    with pytest.raises(ValueError, match=r"by 'code4', found one of .* by 'log'"):
        Mixture({"S": s, "B": b}, table, interpolation="code4")
    with pytest.raises(TypeError, match="expected Events, found ndarray"):
        again.mixture(np.ones(3))  # type: ignore[arg-type]
    assert again.mixture.log_rate(nu.Events({"x": np.empty(0)}), mu=1.0).shape == (0,)


def test_limits_and_norms_take_any_kind_of_number() -> None:
    _, reference = samples(100)
    s = Process(yields=10, coefficient="mu", norms={"rate": np.float32(0.5)})  # type: ignore[dict-item]
    assert s.norms["rate"] == (0.5, 1.5)
    model = Mixture({"S": s}, reference, limits={"mu": (np.int64(0), np.inf)})
    assert model.limits == {"mu": (0.0, None)}
    assert model(reference)._parameters["mu"] == (0.0, np.inf)
    with pytest.raises(ValueError, match="expected lower < upper"):
        Mixture({"S": s}, reference, limits={"mu": (1, 0)})


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"yields": -1.0}, "yields from 0, found -1"),
        ({"yields": 1.0, "norms": {"a": (0.9, -0.1)}}, "norm 'a': expected positive factors"),
        ({"yields": 1.0, "norms": {"a": 1.5}}, "found -0.5 and 2.5"),
        ({"yields": 1.0, "shapes": {"a": ratio(0, 1)}}, "shape 'a': expected a pair"),
    ],
)
def test_bad_processes_are_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Process(**options)


def test_log_ratios_that_are_not_finite_or_of_other_length_are_refused() -> None:
    _, reference = samples(100)
    with pytest.raises(ValueError, match="process S: log ratio: expected finite values, found 1"):
        Mixture({"S": Process(yields=1, ratio=lambda e: np.where(np.arange(len(e)) == 3, np.nan, 0.0))}, reference)
    with pytest.raises(ValueError, match=r"process S: expected a log ratio per event, \(200,\), found \(2,\)"):
        Mixture({"S": Process(yields=1, ratio=lambda e: np.zeros(2))}, reference)


@pytest.fixture(scope="module")
def trained() -> dict[str, Any]:
    rng = np.random.default_rng(1)
    make = lambda mean, n, name="x": nu.Events({name: rng.normal(mean, 1, n)})  # noqa: E731
    s, b, ref, other, up = make(1, 300), make(-1, 300), make(0, 300), make(0, 301), make(1.1, 300)
    fit = lambda p, q: nu.fit_ratio(p, q, ["x"], seed=1, progress=False, network=nu.MLP(width=4, depth=1),  # noqa: E731
                                    training=nu.Training(epochs=1, batch=128))  # fmt: skip
    return {"S": fit(s, ref), "B": fit(b, ref), "B other": fit(b, other), "up": fit(up, s), "wrong": fit(up, b),
            "reference": ref}  # fmt: skip


def test_a_ratio_against_another_reference_is_refused(trained: dict[str, Any]) -> None:
    good = Mixture({"S": Process(yields=1, ratio=trained["S"]), "B": Process(yields=1, ratio=trained["B"])},
                   trained["reference"])  # fmt: skip
    assert good.expected() == 2
    with pytest.raises(ValueError, match="process B: its ratio was trained against another reference than that of S"):
        Mixture({"S": Process(yields=1, ratio=trained["S"]), "B": Process(yields=1, ratio=trained["B other"])},
                trained["reference"])  # fmt: skip
    with pytest.raises(ValueError, match="process S, shape 'a': expected variations trained against the nominal"):
        Mixture({"S": Process(yields=1, ratio=trained["S"], shapes={"a": (trained["up"], trained["wrong"])})},
                trained["reference"])  # fmt: skip


def test_data_without_the_columns_of_the_training_are_refused(trained: dict[str, Any]) -> None:
    model = Mixture({"S": Process(yields=1, ratio=trained["S"])}, trained["reference"])
    with pytest.raises(KeyError, match=r"process S: the events lack what its ratio was trained on: no column 'x'"):
        model(nu.Events({"y": np.zeros(3)}))


# -- coefficients ------------------------------------------------------------------------------------------------------


def test_coefficients_are_parsed_and_never_executed() -> None:
    f = Coefficient("2*a**2 - exp(-b/3) + pi")
    at = {"a": torch.tensor(1.5, dtype=torch.float64), "b": torch.tensor(0.6, dtype=torch.float64)}
    assert f.names == ("a", "b")
    assert float(f(at)) == pytest.approx(2 * 1.5**2 - np.exp(-0.2) + np.pi, rel=1e-14)
    assert Coefficient(lambda mu: mu**2).names == ("mu",)
    assert Coefficient(lambda mu: mu**2).to_json() is None
    assert float(Coefficient(2)({})) == 2.0
    for text, message in [
        ("__import__('os')", "no function '__import__'"),
        ("mu.real", "expected parameters, numbers"),
        ("mu +", "found a syntax error"),
        ("erf(mu)", "no function 'erf'"),
        ("[mu]", r"found '\[mu\]'"),
    ]:
        with pytest.raises(ValueError, match=message):
            Coefficient(text)
    with pytest.raises(TypeError, match="found list"):
        Coefficient([1])  # type: ignore[arg-type]
