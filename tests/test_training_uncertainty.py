"""The uncertainty from the training of ratios: closed form for a linear answer, and the true spread of trainings."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import stats

import nuinfer as nu
from nuinfer.intervals import fit, training_uncertainty
from nuinfer.likelihood import Mixture, Normal, Process


def centred(value: np.ndarray) -> Normal:
    return Normal(["a", "b"], value, covariance=np.diag([0.04, 0.09]))


def test_spreads_combine_as_the_formula_says() -> None:
    """Costs whose minima are known: bootstraps with variance s^2 + m^2, plain members with m^2."""
    rng = np.random.default_rng(1)
    method, statistical = np.array([0.3, 0.1]), np.array([0.4, 0.2])
    plain = rng.normal(0, method, (60, 2))
    bootstraps = rng.normal(0, np.hypot(method, statistical), (60, 2))
    best = fit(centred(np.zeros(2)))
    found = training_uncertainty(best, map(centred, bootstraps), map(centred, plain))
    np.testing.assert_allclose(found.bootstraps, bootstraps, atol=1e-6)
    both = np.cov(bootstraps.T) - np.cov(plain.T)
    np.testing.assert_allclose(found.covariance, both + np.cov(plain.T) / 60, atol=1e-8)
    errors = np.array(list(found.errors.values()))
    relative = np.sqrt(2 / 60) * (statistical**2 + 2 * method**2) / statistical**2 / 2
    assert np.all(np.abs(errors / statistical - 1) < 4 * relative)
    np.testing.assert_allclose(found.total, best.covariance + found.covariance)
    alone = training_uncertainty(best, map(centred, bootstraps))
    assert all(alone.errors[n] > found.errors[n] for n in "ab")  # bootstraps alone are not too small
    assert "60 bootstraps and 60 plain members" in repr(found)


def test_bad_input() -> None:
    best = fit(centred(np.zeros(2)))
    with pytest.raises(ValueError, match="at least 2 bootstraps"):
        training_uncertainty(best, [centred(np.zeros(2))])
    with pytest.raises(ValueError, match="expected costs of a, b, found one of c"):
        training_uncertainty(best, [Normal("c"), Normal("c")])


def test_refits_keep_to_the_limits_of_the_fit() -> None:
    best = fit(Normal("mu", 0.4), limits={"mu": (0, None)})
    members = [Normal("mu", value) for value in (-1.0, -2.0, 0.3)]
    found = training_uncertainty(best, members, limits={"mu": (0, None)})
    np.testing.assert_allclose(found.bootstraps[:, 0], [0, 0, 0.3], atol=2e-3)
    assert training_uncertainty(best, members).bootstraps.min() < -1.9


# -- with networks -----------------------------------------------------------------------------------------------------

EDGE = stats.norm(0, 1.6)


def trained(seed: int, n: int, *, members: int, bootstrap: bool = False) -> tuple[Mixture, nu.Events]:
    """A signal at +1, a background at -1, and their ratios to a broad reference, from simulation of its own."""
    rng = np.random.default_rng(seed)
    make = lambda mean, width, size: nu.Events({"x": rng.normal(mean, width, size)})  # noqa: E731
    s, b, reference = make(1, 1, n), make(-1, 1, n), make(0, 1.6, n)
    ratios = [
        nu.fit_ratio(
            sample, reference, ["x"], members=members, bootstrap=bootstrap, validation=0.0, seed=seed, progress=False,
            network=nu.MLP(width=8, depth=2, activation="silu"), training=nu.Training(epochs=20, batch=128),
        )
        for sample in (s, b)
    ]  # fmt: skip
    model = Mixture(
        {"S": Process(yields=300, ratio=ratios[0], coefficient="mu"), "B": Process(yields=700, ratio=ratios[1])},
        nu.Events(
            {"x": np.asarray(EDGE.ppf((np.arange(4000) + 0.5) / 4000))}
        ),  # an exact reference: no noise of its own
    )
    return model, reference


def data() -> nu.Events:
    rng = np.random.default_rng(99)
    return nu.Events({"x": np.concatenate([rng.normal(1, 1, 300), rng.normal(-1, 1, 700)])})


def test_members_of_a_mixture_are_its_ratios_members() -> None:
    model, reference = trained(1, 400, members=3, bootstrap=True)
    observed = data()
    costs = list(model.members(observed, reference))
    assert len(costs) == 3
    single = [
        Mixture(
            {name: Process(yields=p.yields, coefficient=p.coefficient,
                           ratio=lambda e, p=p, k=k: p.ratio.members(e)[k])  # type: ignore[misc, union-attr]
             for name, p in model.processes.items()},
            reference,
        )(observed)
        for k in range(3)
    ]  # fmt: skip
    for one, other in zip(costs, single, strict=True):
        assert one(0.9) == pytest.approx(other(0.9), abs=1e-9)
    assert abs(costs[0](0.9) - costs[1](0.9)) > 1e-3
    best = fit(model(observed))
    found = training_uncertainty(best, costs)
    assert 0 < found.errors["mu"] < 3 * best.errors["mu"]
    exact = Mixture({"S": Process(yields=300, coefficient="mu")}, reference)
    with pytest.raises(ValueError, match="expected ratios of one number of members above 1"):
        exact.members(observed, reference)


@pytest.mark.slow
def test_the_uncertainty_is_the_spread_over_independent_trainings() -> None:
    """30 trainings on simulation of their own, against what one of them, with 30 bootstraps and 8 members, says."""
    n, trainings, observed = 3000, 30, data()
    answers = [fit(trained(100 + i, n, members=8)[0](observed)).values["mu"] for i in range(trainings)]
    truth = float(np.std(answers, ddof=1))
    stated = []
    for seed in (1, 2, 3):
        plain, reference = trained(seed, n, members=8)
        boots, _ = trained(seed, n, members=30, bootstrap=True)
        best = fit(plain(observed))
        found = training_uncertainty(best, boots.members(observed, reference), plain.members(observed, reference))
        stated.append(found.errors["mu"])
    print(f"\nspread of {trainings} trainings {truth:.4f}, stated {np.round(stated, 4)}, fit {best.errors['mu']:.4f}")
    # the spread of 30 has an error of 13%, a bootstrap variance of 30 members the same
    assert abs(np.mean(stated) / truth - 1) < 4 * 0.13 * np.sqrt(1 + 1 / 3)
    assert truth > 0.02 * best.errors["mu"]
