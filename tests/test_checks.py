"""`nuinfer.likelihood.report`: an exact model passes, and each way of being wrong fails the check made for it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy import stats

import nuinfer as nu
from nuinfer.likelihood import Mixture, Normal, Process, TwoPoint, report
from nuinfer.likelihood.checks import Check, _by_reference, _fails, _pull

Floats = NDArray[np.float64]
Log = Callable[[nu.Events], Floats]
S, B, REFERENCE = stats.norm(0.8, 0.7), stats.norm(-0.4, 1.3), stats.norm(0, 2)
UP, DOWN = stats.norm(-0.3, 1.35), stats.norm(-0.5, 1.25)
AT = {"mu": 1.0, "tilt": 0.0, "rate": 0.0}
CONSTRAINTS = (Normal("tilt"), Normal("rate"))


def log_ratio(one: Any, other: Any) -> Log:
    return lambda events: np.asarray(one.logpdf(events["x"]) - other.logpdf(events["x"]))


def model(reference: nu.Events, *, s: Log | None = None, up: Log | None = None) -> Mixture:
    """Signal and background, with a shape and a norm of the background; exact, or with another ratio or variation."""
    shapes = {"tilt": (log_ratio(DOWN, B), up or log_ratio(UP, B))}
    return Mixture(
        {
            "S": Process(yields=300, ratio=s or log_ratio(S, REFERENCE), coefficient="mu"),
            "B": Process(yields=900, ratio=log_ratio(B, REFERENCE), norms={"rate": 0.05}, shapes=shapes),
        },
        reference,
    )


def simulation(seed: int, n: int = 8000) -> dict[str, nu.Events]:
    rng = np.random.default_rng(seed)

    def drawn(density: Any, size: int = n) -> nu.Events:
        x = density.rvs(size, random_state=rng)
        weight = rng.exponential(size=size) + 0.3
        weight[rng.random(size) < 0.03] *= -0.5  # a few of them negative, of the same density
        return nu.Events({"x": x}, weight=weight)

    data = nu.Events({"x": np.concatenate([S.rvs(300, random_state=rng), B.rvs(900, random_state=rng)])})
    return {"S": drawn(S), "B": drawn(B), "reference": drawn(REFERENCE, 2 * n), "up": drawn(UP), "down": drawn(DOWN),
            "data": data}  # fmt: skip


def checked(found: dict[str, nu.Events], mixture: Mixture, **options: Any) -> nu.likelihood.Report:
    return report(
        mixture, found["reference"], {"S": found["S"], "B": found["B"]}, at=AT, constraints=CONSTRAINTS,
        varied={"B": {"tilt": (found["down"], found["up"])}}, **options,
    )  # fmt: skip


def test_an_exact_model_passes() -> None:
    for seed in range(1, 4):
        found = simulation(seed)
        answer = checked(found, model(found["reference"]))
        assert not answer.failed, str(answer)
        assert len(answer.checks) == 2 + 2 + 4 + 3 + 3
        assert str(answer).startswith("all 14 checks passed (p above 0.00071 each)")
    p = np.array([check.p for check in answer.checks if check.error])
    assert len(p) == 11
    assert p.min() > 1e-4


@pytest.mark.parametrize(
    ("wrong", "kinds"),
    [
        ("norm", {"mean ratio of S"}),
        ("shape", {"reliability of S", "simulation closure of mu"}),
        ("variation", {"variation of B, tilt = +1"}),
        ("variation norm", {"mean variation of B, tilt = +1"}),
    ],
)
def test_each_wrong_model_fails_its_check(wrong: str, kinds: set[str]) -> None:
    found = simulation(7)
    exact, up = log_ratio(S, REFERENCE), log_ratio(UP, B)
    models: dict[str, dict[str, Log]] = {
        "norm": {"s": lambda e: exact(e) + 0.1},
        # a signal that is too wide: it takes events of the background
        "shape": {"s": log_ratio(stats.norm(0.8, 0.95), REFERENCE)},
        "variation": {"up": log_ratio(DOWN, B)},
        "variation norm": {"up": lambda e: up(e) + 0.1},
    }
    answer = checked(found, model(found["reference"], **models[wrong]))  # type: ignore[arg-type]
    failed = {f"{check.kind} of {check.subject}" for check in answer.failed}
    assert kinds <= failed
    assert "FAILED" in str(answer)
    for kind in kinds:
        assert f"FAILED  {kind}" in str(answer)
    untouched = {"mean ratio of B", "reliability of B", "mean variation of B, tilt = -1", "variation of B, tilt = -1"}
    assert not untouched & failed


def test_the_error_of_the_simulation_closure_is_its_spread() -> None:
    """Over independent samples the bias has the spread that each of them states: 16 seeds, two parameters."""
    pulls = []
    for seed in range(16):
        found = simulation(100 + seed, n=800)
        checks = checked(found, model(found["reference"])).checks
        pulls.append([c.value / c.error for c in checks if c.kind == "simulation closure" and c.subject != "rate"])
    values = np.array(pulls)
    assert np.all(np.abs(values.mean(0)) < 4 / np.sqrt(len(values)))
    assert np.all(np.abs(values.std(0) - 1) < 4 / np.sqrt(2 * len(values)))


SMEARED = 0.4
PARTON = {name: stats.norm(d.mean(), np.sqrt(d.var() - SMEARED**2)) for name, d in
          (("S", S), ("B", B), ("reference", REFERENCE))}  # fmt: skip


def weighted(seed: int, n: int) -> dict[str, nu.Events]:
    """One sample, and signal and background as weights of its events, known before a detector blurs them."""
    rng = np.random.default_rng(seed)
    z = PARTON["reference"].rvs(n, random_state=rng)
    events = nu.Events({"x": z + rng.normal(0, SMEARED, n)}, weight=rng.choice([1.0, 1.0, 1.0, -0.3], n))
    factor = {name: np.exp(PARTON[name].logpdf(z) - PARTON["reference"].logpdf(z)) for name in "SB"}
    return {"reference": events, **{name: events.with_weight(events.weight * f) for name, f in factor.items()}}


def closures(found: dict[str, nu.Events], mixture: Mixture) -> Floats:
    """Bias and error of each parameter but the rate (P, 2)."""
    checks = report(mixture, found["reference"], {name: found[name] for name in "SB"}, at=AT, constraints=CONSTRAINTS)
    return np.array([(c.value, c.error) for c in checks.checks
                     if c.kind == "simulation closure" and c.subject != "rate"])  # fmt: skip


def test_weights_of_the_same_events_fluctuate_together() -> None:
    """Over 20 samples the bias has the spread that each states; taken for independent samples it would not."""
    found = [weighted(200 + seed, 1500) for seed in range(20)]
    every = np.array([closures(one, model(one["reference"])) for one in found])
    pulls = every[..., 0] / every[..., 1]
    assert np.all(np.abs(pulls.mean(0)) < 4 / np.sqrt(len(pulls)))
    assert np.all(np.abs(pulls.std(0) - 1) < 4 / np.sqrt(2 * len(pulls)))
    renamed = {  # the same weights, on events that are said to be others
        name: nu.Events({"x": events["x"]}, weight=events.weight, id=np.arange(len(events)) + 10_000 * k)
        for k, (name, events) in enumerate(found[0].items())
    }
    alone = closures(renamed, model(renamed["reference"]))
    np.testing.assert_allclose(alone[:, 0], every[0, :, 0])
    assert np.all(alone[:, 1] > 2 * every[0, :, 1])
    assert np.all(alone[:, 1] > 2 * every[..., 0].std(0))
    notes = ["samples or reference share events" in str(checked_plain(one)) for one in (found[0], renamed)]
    assert notes == [True, False]


def checked_plain(found: dict[str, nu.Events]) -> nu.likelihood.Report:
    return report(model(found["reference"]), found["reference"], {name: found[name] for name in "SB"}, at=AT,
                  constraints=CONSTRAINTS)  # fmt: skip


def test_biases_that_independent_samples_would_hide_are_seen_in_weighted_ones() -> None:
    """A signal 20% too wide: 3,000 events weighted show its bias of mu."""
    found = weighted(5, 3000)
    wide = log_ratio(stats.norm(0.8, 0.84), REFERENCE)
    mixture = model(found["reference"], s=wide)
    answer = report(mixture, found["reference"], {name: found[name] for name in "SB"}, at=AT, constraints=CONSTRAINTS)
    assert "simulation closure of mu" in {f"{check.kind} of {check.subject}" for check in answer.failed}
    assert not checked_plain(found).failed


@pytest.mark.parametrize("interpolation", ["log", "code4"])
@pytest.mark.parametrize("normalise", ["densities", "variations"])
def test_changes_with_a_reference_event_are_finite_differences(interpolation: Any, normalise: Any) -> None:
    found = simulation(4, n=300)
    mixture = Mixture(model(found["reference"]).processes, found["reference"], interpolation=interpolation,
                      normalise=normalise, precision="float64")  # fmt: skip
    at, own = {"mu": 1.4, "tilt": 0.6, "rate": -0.3}, mixture.reference
    table = mixture.table(found["data"])
    changes = _by_reference(mixture, table, at)

    def pull(row: int, factor: float) -> Floats:
        weight = own.weight.clone()
        weight[row] *= factor
        return _pull(mixture.with_reference(own.weighted(weight)), table, at)

    for row in (0, 7, 123):
        numeric = (pull(row, 1 + 1e-5) - pull(row, 1 - 1e-5)) / 2e-5
        np.testing.assert_allclose(changes[row], numeric, atol=1e-6 * np.abs(changes).max())
    assert np.abs(changes).max() > 1e-3


def test_data_of_another_model_are_told_from_the_mixture() -> None:
    found = simulation(3)
    mixture = model(found["reference"])
    good = checked(found, mixture, data=found["data"], fitted=AT, features=["x"], seed=1)
    assert good.checks[-1].kind == "two-sample test"
    assert not good.checks[-1].failed
    strange = nu.Events({"x": np.random.default_rng(1).normal(0.6, 0.5, 1200)})
    bad = checked(found, mixture, data=strange, fitted=AT, features=["x"], seed=1)
    assert bad.checks[-1].failed
    assert "do not quote the interval" in str(bad)
    with pytest.raises(ValueError, match="expected the parameters fitted to the data"):
        checked(found, mixture, data=found["data"])
    with pytest.raises(ValueError, match="expected features="):
        checked(found, mixture, data=found["data"], fitted=AT)


def test_notes_name_what_is_free_unchecked_or_a_convention() -> None:
    found = simulation(2, n=500)
    mixture = model(found["reference"])
    answer = report(mixture, found["reference"], {"B": found["B"]}, at=AT, constraints=[TwoPoint("tilt", ("A", "B"))])
    text = str(answer)
    assert "free nuisances, which only the data determine: rate" in text
    assert "tilt compares A and B: a shrunken pull of it is no smaller uncertainty" in text
    assert "processes without a sample, not checked: S" in text
    assert "variations without varied samples, not checked: tilt of B" in text
    assert "simulation closure" not in text  # it needs all processes


def test_bad_input() -> None:
    found = simulation(2, n=500)
    mixture, reference = model(found["reference"]), found["reference"]
    with pytest.raises(KeyError, match="no process 'C'"):
        report(mixture, reference, {"C": found["S"]}, at=AT)
    with pytest.raises(KeyError, match="process B: no shape 'rate'; known: 'tilt'"):
        report(mixture, reference, {"B": found["B"]}, at=AT, varied={"B": {"rate": (found["up"], found["down"])}})
    with pytest.raises(KeyError, match="expected the nominal sample of B among samples"):
        report(mixture, reference, {}, at=AT, varied={"B": {"tilt": (found["up"], found["down"])}})
    with pytest.raises(KeyError, match="no value for the parameter 'rate'"):
        report(mixture, reference, {}, at={"mu": 1.0, "tilt": 0.0})
    twin = Mixture({"S": Process(yields=10, coefficient="a + b")}, reference)
    with pytest.raises(ValueError, match=r"do not determine '[ab]'"):
        report(twin, reference, {}, at={"a": 0.5, "b": 0.5})


def test_a_sample_without_events_is_named() -> None:
    found = simulation(1, n=200)
    found["S"] = found["S"].select(np.arange(0))
    with pytest.raises(ValueError, match="sample of S"):
        checked(found, model(found["reference"]))


def test_a_closure_that_is_no_number_fails() -> None:
    nan = float("nan")
    assert _fails(Check("simulation closure", "mu", nan, 1.0, 0.0, nan), 1e-3, 0.1)
    assert not _fails(Check("simulation closure", "mu", 0.05, 0.01, 0.0, 1e-6), 1e-3, 0.1)
