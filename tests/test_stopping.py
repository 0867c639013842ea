"""`nuinfer.unfolding.unbinned.stopping`: the held-out divergence against the exact one of the recursion's Gaussians."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pytest
from scipy import special, stats

from nuinfer import MLP, Events, Training, Trees
from nuinfer.simulators import Gaussian, GaussianUnfolding
from nuinfer.unfolding import IterationChoice, choose_iterations

TRAIN = Training(epochs=8, batch=512, learning_rate=3e-3, patience=None)
SMALL = MLP(width=16, depth=2)
N = 20_000
FAR = GaussianUnfolding(prior=Gaussian(0.6, 0.64))  # several iterations from the truth
DETECTOR = replace(GaussianUnfolding.with_detector(), prior=Gaussian(0.6, 0.64))


def choose(problem: GaussianUnfolding, n: int = N, seed: int = 1, **options: Any) -> IterationChoice:
    usual = {"reco": ["x0"], "truth": ["t0"], "network": SMALL, "training": TRAIN, "seed": 1, "progress": False}
    if problem.background_density is not None:
        usual["background"] = problem.background(n, seed)
    return choose_iterations(problem.data(n, seed), problem.simulation(n, seed), **(usual | options))


def jensen_shannon(one: Gaussian, other: Gaussian) -> float:
    """By quadrature of two Gaussians in one dimension, both normalised."""
    x = np.linspace(-12, 12, 20_001)
    p, q = (g.density(x) / g.total for g in (one, other))
    m = (p + q) / 2
    with np.errstate(divide="ignore", invalid="ignore"):
        parts = [np.where(f > 0, f * np.log(f / m), 0.0) for f in (p, q)]
    return float(0.5 * np.sum(parts) * (x[1] - x[0]))


def expected(problem: GaussianUnfolding, n: int, seed: int, count: int) -> np.ndarray:
    """G_k of the recursion from the samples' own moments; its states are of the reconstructed truth."""
    background = None if problem.background_density is None else problem.background(n, seed)
    samples = problem.simulation(n, seed), problem.data(n, seed), background
    states, noise = problem.sample_recursion(count, *samples), problem.response.noise
    data = problem._signal(*samples)
    return np.array([jensen_shannon(data, state.smeared(noise)) for state in states])


@pytest.mark.parametrize("problem", [FAR, DETECTOR], ids=["shape", "detector"])
def test_divergences_are_those_of_the_exact_recursion(problem: GaussianUnfolding) -> None:
    choice = choose(problem)
    exact = expected(problem, N, 1, len(choice.divergence) - 1)
    # in sigma of the held-out events; the networks lose what they fit of the noise, about p / 2N = 5e-4 for the tens of
    # effective parameters of these, out of which the reco steps' share is less
    away = choice.divergence - exact
    assert (away < 4 * choice.error).all()
    assert (away > -4 * choice.error - 5e-4).all()
    assert choice.divergence[0] > 10 * choice.error[0]
    assert abs(choice.divergence[0] - exact[1]) > 5 * choice.error[0]  # one iteration off would be seen


def test_the_choice_is_where_the_exact_divergence_meets_the_noise() -> None:
    choice = choose(FAR)
    assert choice.found
    assert choice.iterations == len(choice.divergence) - 1
    assert choice.divergence[-1] < choice.error[-1]
    assert (choice.divergence[:-1] >= choice.error[:-1]).all()
    exact = expected(FAR, N, 1, 8)
    # where the exact one is below the noise of training and events, and not before it is below 20 times that
    assert exact[choice.iterations] < 1e-3 < exact[0]
    assert choice.iterations >= 2  # one iteration leaves what held-out events see
    assert "no longer tell data and simulation apart" in choice.words


def test_the_error_is_the_spread_over_samples() -> None:
    found = [choose(FAR, n=2_000, seed=seed, most=1) for seed in range(24)]
    first = np.array([c.divergence[0] for c in found])
    stated = np.mean([c.error[0] for c in found])
    # of 24, known to 15%; networks add their own noise to that of the events
    assert abs(np.log(first.std(ddof=1) / stated)) < 3 * 0.15


def test_equal_samples_need_one_iteration_and_say_so() -> None:
    same = GaussianUnfolding(prior=Gaussian(0.0, 1.0))
    choice = choose(same, n=5_000)
    assert (choice.iterations, choice.found, len(choice.divergence)) == (1, True, 1)
    assert "as it is" in choice.words
    # an evaluation on the training events would find a difference here
    inside = choose(same, n=5_000, training=Training(epochs=60, batch=128, learning_rate=1e-2, patience=None))
    assert inside.divergence[0] < inside.error[0]


def test_members_are_averaged_and_seeds_repeat() -> None:
    one, again = (choose(FAR, n=2_000, most=2) for _ in range(2))
    assert np.array_equal(one.divergence, again.divergence)
    three = choose(FAR, n=2_000, most=2, members=3)
    assert three.error[0] < 1.1 * one.error[0]
    assert abs(three.divergence[0] - one.divergence[0]) < 4 * one.error[0]


def test_most_ends_the_search() -> None:
    choice = choose(FAR, most=1)
    assert (choice.iterations, choice.found, len(choice.divergence)) == (1, False, 2)
    assert "raise most=" in choice.words


def exact_on_grid(misses: Literal["conditional", "prior"], iteration: int) -> float:
    """Of the data's signal and the reconstructed truth of the recursion by quadrature, in population."""
    grid = DETECTOR.on_grid(iteration, misses=misses)
    x = np.linspace(-10, 10, 2001)
    p = DETECTOR.reco_data().density(x)
    q = stats.norm.pdf(x[:, None], grid.axes[0], np.sqrt(DETECTOR.response.noise[0, 0])) @ grid.reconstructed[iteration]
    p, q = p / p.sum(), q / q.sum()
    return float(0.5 * np.sum([special.rel_entr(f, (p + q) / 2) for f in (p, q)]))


def test_misses_of_the_prior_are_slower() -> None:
    """As the recursion with that rule, and not as the other one, which is 4 errors less."""
    choice, other = (choose(DETECTOR, n=16_000, most=1, misses=rule) for rule in ("prior", "conditional"))
    exact = np.array([exact_on_grid("prior", k) for k in (0, 1)])
    assert exact[0] == pytest.approx(jensen_shannon(DETECTOR.reco_data(), DETECTOR.reco_simulation()), rel=1e-6)
    assert (abs(choice.divergence - exact) < 4 * choice.error).all()
    conditional = exact_on_grid("conditional", 1)
    assert choice.divergence[1] - conditional > 4 * choice.error[1]
    assert abs(other.divergence[1] - conditional) < 4 * other.error[1]


def test_scaled_fakes_are_those_of_the_exact_recursion() -> None:
    """Of data that have the simulation's fraction of fakes; the purity is steep, and takes more training."""
    problem = replace(DETECTOR, data_fakes="proportional")
    long = Training(epochs=12, batch=64, learning_rate=5e-3, patience=None)
    choice = choose(problem, n=4_000, most=1, fakes="scale", training=long)
    exact = expected(problem, 4_000, 1, 1)
    assert (abs(choice.divergence - exact) < 4 * choice.error).all()
    assert abs(choice.divergence[0] - exact[1]) > 4 * choice.error[0]
    wrong = choose(problem, n=4_000, most=1)  # fakes subtracted as the simulation has them
    assert abs(wrong.divergence[0] - exact[0]) > 10 * wrong.error[0]


@pytest.mark.parametrize("rule", ["prior", "scale"])
def test_trees_find_the_same(rule: str) -> None:
    options = {"misses": "prior"} if rule == "prior" else {"fakes": "scale"}
    choice = choose(DETECTOR, n=4_000, most=1, network=MLP(), **options)
    forest = choose(DETECTOR, n=4_000, most=1, network=Trees(iterations=30, leaves=4, signed="factorised"), **options)
    assert (abs(choice.divergence - forest.divergence) < 4 * np.hypot(choice.error, forest.error)).all()
    assert choice.divergence[0] > 5 * choice.error[0]


def test_events_of_one_group_fluctuate_together() -> None:
    n = 2_000
    simulation, data = FAR.simulation(n, 1), FAR.data(n, 1)
    twice = [Events.concat([e, e]) for e in (simulation, data)]
    numbers = [np.tile(np.arange(n) + start, 2) for start in (0, n)]
    simulation, data = (e.with_columns(pair=k) for e, k in zip(twice, numbers, strict=True))
    options: dict[str, Any] = {"reco": ["x0"], "truth": ["t0"], "network": SMALL, "most": 1, "seed": 1,
                               "progress": False}  # fmt: skip
    options["training"] = replace(TRAIN, epochs=TRAIN.epochs // 2)  # as many steps
    paired = choose_iterations(data, simulation, group="pair", **options)
    single = choose(FAR, n=n, most=1)
    assert 0.8 < paired.error[0] / single.error[0] < 1.25  # not less by sqrt(2)


def test_shared_ids_are_told(caplog: pytest.LogCaptureFixture) -> None:
    choose(FAR, n=500, most=1)
    assert not caplog.records
    simulation, data = FAR.simulation(500, 1), FAR.data(500, 1)
    same = Events({"x0": data["x0"]}, id=simulation.id)
    choose_iterations(
        same, simulation, reco=["x0"], truth=["t0"], network=SMALL, training=TRAIN, seed=1, most=1, progress=False
    )
    assert "choice of iterations: data and simulation share 500 ids" in caplog.text
    assert "fluctuating together" in caplog.text


def test_saved_and_loaded(tmp_path: Path) -> None:
    choice = IterationChoice(2, True, np.array([0.1, 0.01, 1e-5]), np.array([1e-3, 1e-3, 1e-4]))
    choice.save(tmp_path / "choice.safetensors")
    loaded = IterationChoice.load(tmp_path / "choice.safetensors")
    assert repr(loaded) == repr(choice)
    assert np.array_equal(loaded.divergence, choice.divergence)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"folds": 1}, "folds: expected a whole number of at least 2, found 1"),
        ({"most": 0}, "most: expected a whole number of at least 1, found 0"),
        ({"members": 1.5}, "members: expected a whole number of at least 1, found 1.5"),
        ({"misses": "none"}, "misses: expected 'conditional' or 'prior'"),
    ],
)
def test_bad_options_are_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        choose(FAR, n=500, **options)


def test_a_fold_without_signal_is_refused() -> None:
    simulation, data = FAR.simulation(2_000, 1), FAR.data(3, 1)
    with pytest.raises(ValueError, match=r"folds: expected signal in each of 5 folds"):
        choose_iterations(
            data, simulation, reco=["x0"], truth=["t0"], network=SMALL, training=TRAIN, seed=1, progress=False
        )
