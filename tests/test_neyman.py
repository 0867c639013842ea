"""The Neyman construction against acceptance regions worked out without toys: by formula, or by enumerating counts."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from scipy import optimize, stats
from torch import Tensor

import nuinfer as nu
from nuinfer.intervals.construction import Neyman, neyman
from nuinfer.intervals.covering import Coverage, coverage
from nuinfer.intervals.likelihood_ratio import LikelihoodRatio
from nuinfer.likelihood import DifferentiableCost, HeldOut, Mixture, NegativeDensity, Normal, Poisson, Process
from nuinfer.tasks import TaskError

Floats = NDArray[np.float64]
PHYSICAL = {"mu": (0.0, None)}
TOYS = 200


class Counting(DifferentiableCost):
    """n events where s mu + b are expected, b a number or a parameter."""

    def __init__(self, n: float, s: float = 1.0, b: float | str = 3.0) -> None:
        names: dict[str, Any] = {"mu": (0.0, None)}
        super().__init__(names | ({b: (0.0, None)} if isinstance(b, str) else {}))
        self.n, self.s, self.b = float(n), s, b

    def tensor(self, theta: Tensor) -> Tensor:
        mean = self.s * theta[0] + (theta[1] if isinstance(self.b, str) else self.b)
        if not float(mean.detach()) > 0:
            raise NegativeDensity(f"expected counts above 0, found {float(mean.detach())}")
        return 2 * (mean - (self.n * torch.log(mean) if self.n else 0.0))

    def sample(self, values: Mapping[str, float], rng: np.random.Generator) -> Counting:
        b = values[self.b] if isinstance(self.b, str) else self.b
        return Counting(rng.poisson(self.s * values["mu"] + b), self.s, self.b)

    def _ndata(self) -> int:
        return 1


class Circle(DifferentiableCost):
    """Normal measurements of sin(delta) and sign cos(delta), ``sign`` an ordering of two values."""

    def __init__(self, seen: tuple[float, float], sigma: float = 0.4, ordered: bool = False) -> None:
        super().__init__({"delta": None} | ({"order": None} if ordered else {}))
        self.seen, self.sigma, self.ordered = seen, sigma, ordered

    def tensor(self, theta: Tensor) -> Tensor:
        sign = theta[1] if self.ordered else 1.0
        x, y = torch.sin(theta[0]), sign * torch.cos(theta[0]) * 0.7 + (0.3 * sign if self.ordered else 0.0)
        return ((x - self.seen[0]) ** 2 + (y - self.seen[1]) ** 2) / self.sigma**2

    def sample(self, values: Mapping[str, float], rng: np.random.Generator) -> Circle:
        x, y = self.means(values)
        return Circle((x + self.sigma * rng.normal(), y + self.sigma * rng.normal()), self.sigma, self.ordered)

    def _ndata(self) -> int:
        return 2

    def means(self, values: Mapping[str, float]) -> tuple[float, float]:
        sign = values["order"] if self.ordered else 1.0
        shift = 0.3 * sign if self.ordered else 0.0
        return math.sin(values["delta"]), sign * math.cos(values["delta"]) * 0.7 + shift


def within(found: Any, exact: Any, p: Any, count: int, sigmas: float = 4.0) -> bool:
    """Fractions of ``count`` toys against probabilities p, in binomial deviations."""
    spread = np.sqrt(np.maximum(np.asarray(p) * (1 - np.asarray(p)), 1 / count) / count)
    return bool(np.all(np.abs(np.asarray(found) - np.asarray(exact)) < sigmas * spread + 1.5 / count))


# -- a Gaussian with its mean not below 0 ------------------------------------------------------------------------------


def edges(mu: float, c: float) -> tuple[float, float]:
    """The x with t(x; mu) <= c: t = (x - mu)^2 for x >= 0, (x - mu)^2 - x^2 below."""
    low = mu - math.sqrt(c)
    if low < 0:
        low = (mu * mu - c) / (2 * mu) if mu > 0 else -math.inf
    return low, mu + math.sqrt(c)


def bounded_cdf(mu: float, c: float) -> float:
    low, high = edges(mu, c)
    return float(stats.norm.cdf(high - mu) - stats.norm.cdf(low - mu))


def bounded_critical(mu: float, cl: float) -> float:
    return float(optimize.brentq(lambda c: bounded_cdf(mu, c) - cl, 1e-9, 30))


def bounded_limit(x: float, cl: float) -> float:
    """Feldman and Cousins' upper limit."""
    t = lambda mu: (x - mu) ** 2 - (x**2 if x < 0 else 0.0)  # noqa: E731
    return float(optimize.brentq(lambda mu: t(mu) - bounded_critical(mu, cl), 1e-6 + max(x, 0), x + 6 if x > 0 else 6))


@pytest.fixture(scope="module")
def bounded() -> Neyman:
    """One value seen at 0."""
    return neyman(Normal("mu", 0.0), {"mu": [0.0, 0.5, 1.2, 2.0, 4.0]}, limits=PHYSICAL, toys=TOYS, cls=(0.68, 0.9),
                  seed=1, progress=False)  # fmt: skip


def test_feldman_cousins_with_a_boundary(bounded: Neyman) -> None:
    """c lies where the exact distribution of t has its quantile, within 4 binomial errors; that of chi2 does not."""
    for cl in (0.68, 0.9):
        value = bounded.critical(cl).value
        reached = [bounded_cdf(mu, c) for mu, c in zip(bounded.grid["mu"], value, strict=True)]
        assert within(reached, cl, cl, TOYS)
    naive = [bounded_cdf(mu, stats.chi2.ppf(0.68, 1)) for mu in bounded.grid["mu"]]
    assert not within(naive, 0.68, 0.68, TOYS)
    # their published table: seen 0, at 90% the upper limit is 1.64
    assert bounded_limit(0.0, 0.9) == pytest.approx(1.64, abs=0.005)
    low, high = bounded.interval(0.9)[0]
    assert low == 0.0
    # t - c taken as linear from 1.2 to 2; an error of c of 0.35 moves the limit by dc / (2 mu)
    assert high == pytest.approx(1.64, abs=4 * 0.35 / (2 * 1.64))


def test_the_error_of_critical_values_is_that_of_order_statistics(bounded: Neyman) -> None:
    """At mu = 4 the exact value lies in the 68% interval about twice in three: here within 4 half-widths."""
    value, low, high = bounded.critical(0.9)
    assert (low <= value).all()
    assert (value <= high).all()
    assert abs(value[-1] - stats.chi2.ppf(0.9, 1)) < 2 * (high[-1] - low[-1])
    # half-width: sqrt(cl (1 - cl) / n) over the density of chi2
    exact = math.sqrt(0.9 * 0.1 / TOYS) / stats.chi2(1).pdf(stats.chi2.ppf(0.9, 1))
    assert 0.4 < (high[-1] - low[-1]) / 2 / exact < 2.5


def test_p_values_agree_with_the_exact_ones_and_with_acceptance(bounded: Neyman) -> None:
    p, error = bounded.p_values()
    exact = [1 - bounded_cdf(mu, mu**2) if mu else 1.0 for mu in bounded.grid["mu"]]
    assert within(p, exact, exact, TOYS)
    assert (error[1:] > 0).all()
    for cl in (0.5, 0.68, 0.9):
        np.testing.assert_array_equal(bounded.accepted(cl), p > 1 - cl)


def test_belt_is_the_acceptance_region(bounded: Neyman) -> None:
    """The best fits max(x, 0) of accepted toys span max(x_1, 0) to x_2, whose ends few toys reach."""
    belt = bounded.belt(0.9)
    for mu, (low, high) in zip(bounded.grid["mu"], belt, strict=True):
        first, last = edges(mu, bounded_critical(mu, 0.9))
        assert low == pytest.approx(max(first, 0.0), abs=0.25)
        assert high == pytest.approx(last, abs=0.25)


def test_coverage_of_the_asymptotic_interval_is_mapped(bounded: Neyman) -> None:
    found = bounded.coverage(0.68)
    exact = [bounded_cdf(mu, stats.chi2.ppf(0.68, 1)) for mu in bounded.grid["mu"]]
    assert within(found.value, exact, exact, TOYS)
    assert exact[0] > 0.83  # half of the toys have t = 0
    assert (found.error > 0).all()


def test_constructed_intervals_cover_where_asymptotic_ones_do_not(bounded: Neyman, tmp_path: Path) -> None:
    """At the limit, 68%: the construction within 4 binomial errors of cl (its own c has one as well), chi2 far above.

    Half of the toys have t = 0 there, and the chi2 quantile covers (1 + 0.68) / 2.
    """
    given: Any = {"interest": ["mu"], "limits": PHYSICAL, "cls": (0.68,), "toys": 300, "seed": 5, "progress": False}
    made = coverage(Normal("mu", 0.0), {"mu": 0.0}, intervals=bounded, **given)
    naive = coverage(Normal("mu", 0.0), {"mu": 0.0}, **given)
    assert abs(made.away()[0, 0]) < 4 * math.sqrt(1 + 300 / TOYS)
    assert naive.away()[0, 0] > 4
    assert within(naive.covered, 0.84, 0.84, 300)
    # best fits are max(x, 0), of mean phi(0)
    assert abs(naive.bias[0, 0] - stats.norm.pdf(0)) < 4 * naive.bias_error[0, 0]
    assert "0: 8" in str(naive)
    naive.save(tmp_path / "c.safetensors")
    again = Coverage.load(tmp_path / "c.safetensors")
    assert str(again) == str(naive)
    assert repr(again).startswith("Coverage(mu at 1 points, 300 toys each; farthest from 0.68: ")


def test_one_sided_is_the_upper_limit(bounded: Neyman) -> None:
    """q~ at cl = 0.9, one seen at 0.7: mu is rejected where Phi(x - mu) < 0.1, up to where mu < 1.98."""
    found = neyman(Normal("mu", 0.7), {"mu": [0.0, 0.4, 1.9, 2.6]}, limits=PHYSICAL, toys=120, cls=(0.9,),
                   ordering="one-sided", seed=2, progress=False)  # fmt: skip
    p = found.p_values().value
    # at mu below the best fit, t = 0 and p = 1; above, t is monotone in x, so that p = Phi(x - mu)
    exact = np.where(found.grid["mu"] < 0.7, 1.0, stats.norm.cdf(0.7 - found.grid["mu"]))
    assert within(p, exact, exact, 120)
    assert found.accepted(0.9).tolist()[:2] == [True, True]
    assert not found.accepted(0.9)[-1]
    assert found.coverage(0.9).value[2] == pytest.approx(0.9, abs=4 * math.sqrt(0.09 / 120))
    two = neyman(Normal("mu", 0.7), {"mu": [0.0, 2.1]}, limits=PHYSICAL, toys=60, cls=(0.9,), seed=2, progress=False)
    assert two.p_values().value[0] < 0.5  # two-sided, mu = 0 is disfavoured


# -- counts ------------------------------------------------------------------------------------------------------------


def count_t(n: Floats, mu: float, b: float = 3.0) -> Floats:
    best = np.maximum(n, b)
    return np.asarray(2 * (mu + b - best + n * np.log(best / (mu + b))))


def count_p(seen: int, mu: Floats) -> Floats:
    """P(t >= that of the count seen) at each mu (M,), by enumeration."""
    n = np.arange(60.0)
    t, chance = count_t(n, mu[:, None]), stats.poisson.pmf(n, mu[:, None] + 3)
    return np.asarray((chance * (t >= t[:, seen, None] - 1e-9)).sum(1))


def test_feldman_cousins_table_of_counts() -> None:
    """Background 3, 90%: p-values equal those of enumerated counts, and the table's intervals come out."""
    for seen, (low, high) in {4: (0.0, 5.60), 5: (0.0, 6.99), 6: (0.15, 8.47)}.items():  # their table IV
        fine = np.arange(0, 10, 0.005)
        inside = fine[count_p(seen, fine) > 0.1]
        assert (inside[0], inside[-1]) == (pytest.approx(low, abs=0.01), pytest.approx(high, abs=0.01))
    grid = np.array([0.0, 3.0, 5.0, 6.0])
    built = neyman(Counting(4), {"mu": grid}, toys=150, cls=(0.9,), seed=3, progress=False)
    np.testing.assert_allclose(built.observed, count_t(np.array(4.0), grid), atol=2e-3)
    exact = count_p(4, grid)
    assert within(built.p_values().value, exact, exact, 150)
    # and the chi2 p-values are not these
    assert not within(stats.chi2.sf(built.observed, 1), exact, exact, 150)
    found = built.interval(0.9)
    assert len(found) == 1
    assert found[0, 0] == 0.0
    assert 5.0 <= found[0, 1] <= 6.0


def on_off(n: Any, m: Any, mu: float | None, tau: float) -> Floats:
    """min over b (and mu >= 0 where None) of -2 log L of n ~ P(mu + b), m ~ P(tau b), in closed form."""
    n, m = np.asarray(n, np.float64), np.asarray(m, np.float64)
    if mu is None:
        free, none = n * tau > m, on_off(n, m, 0.0, tau)
        return np.where(free, _two(n, m, n, m), none)
    # the root of the quadratic that d/db = 0 gives
    k = n + m - (1 + tau) * mu
    b = (k + np.sqrt(k * k + 4 * (1 + tau) * m * mu)) / (2 * (1 + tau))
    return _two(n, m, mu + b, tau * b)


def _two(n: Floats, m: Floats, first: Floats, second: Floats) -> Floats:
    from scipy.special import xlogy

    return np.asarray(2 * (first - xlogy(n, first) + second - xlogy(m, second)))


def test_nuisance_of_the_on_off_problem() -> None:
    """Toys at the profiled background; p-values equal those of enumerated pairs of counts at that background."""
    tau, seen = 0.5, (12.0, 2.0)
    cost = Counting(seen[0], b="b") + Poisson("b", seen[1], scale=tau)
    grid = [0.5, 5.0, 14.0]
    built = neyman(cost, {"mu": grid}, toys=120, cls=(0.68, 0.9), seed=4, progress=False)
    n, m = np.meshgrid(np.arange(60.0), np.arange(60.0), indexing="ij")
    for i, mu in enumerate(grid):
        k = sum(seen) - (1 + tau) * mu
        b = (k + math.sqrt(k * k + 4 * (1 + tau) * seen[1] * mu)) / (2 * (1 + tau))
        assert built.truths["b"][i] == pytest.approx(b, abs=0.02)
        t = on_off(n, m, mu, tau) - on_off(n, m, None, tau)
        at = float(t[int(seen[0]), int(seen[1])])
        assert built.observed[i] == pytest.approx(at, abs=2e-3)
        weight = stats.poisson(mu + b).pmf(n) * stats.poisson(tau * b).pmf(m)
        exact = weight[t >= at - 1e-6].sum()
        assert within(built.p_values().value[i], exact, exact, 120)
        # without the fluctuation of the side count p would be another
        alone = stats.poisson(mu + b).pmf(np.arange(60.0))
        frozen = alone[t[:, 2] >= at - 1e-6].sum()
        if i == 0:
            assert not within(frozen, exact, exact, 120)


# -- a mixture with its exact generator --------------------------------------------------------------------------------


def rate(a: float, norm: float = 0.2) -> float:
    """The factor of a rate with a nuisance: its logarithm between those of 1 - norm and 1 + norm, smooth at 0."""
    odd, even = 0.5 * math.log((1 + norm) / (1 - norm)), 0.5 * math.log((1 + norm) * (1 - norm))
    q = abs(a) if a * a > 1 else (15 * a**2 - 10 * a**4 + 3 * a**6) / 8
    return math.exp(odd * a + even * q)


def generate(values: Mapping[str, float], rng: np.random.Generator) -> nu.Events:
    signal = rng.normal(0, 0.5, rng.poisson(20 * values["mu"]))
    return nu.Events({"x": np.concatenate([signal, rng.uniform(-4, 4, rng.poisson(60 * rate(values["a"])))])})


def reference() -> Floats:
    return np.random.default_rng(7).uniform(-4, 4, 2000)


def mixture() -> Any:
    """A narrow signal on a broad background whose rate has a nuisance of 20%."""
    log_s = lambda e: stats.norm(0, 0.5).logpdf(e["x"]) + math.log(8)  # noqa: E731
    model = Mixture({"S": Process(yields=20, ratio=log_s, coefficient="mu"), "B": Process(yields=60, norms={"a": 0.2})},
                    nu.Events({"x": reference()}), limits={"mu": (0, None)})  # fmt: skip
    return model(generate({"mu": 1.0, "a": 0.5}, np.random.default_rng(8)), generate=generate) + Normal("a")


def mixture_t(mu: float, x: Floats, outcome: float, *, profiled: bool = True) -> float:
    """t of the mixture by scipy: the signal's density relative to the reference, of mean 1 there; b the rate."""
    density = stats.norm(0, 0.5).pdf(x) / stats.norm(0, 0.5).pdf(reference()).mean()

    def value(mu: float, a: float) -> float:
        b = 60 * rate(a)
        return float(2 * (20 * mu + b) - 2 * np.log(20 * mu * density + b).sum() + (a - outcome) ** 2)

    if not profiled:
        least: Any = optimize.minimize_scalar(lambda m: value(m, outcome), bounds=(0, 9), method="bounded")
        return value(mu, outcome) - float(least.fun)
    fixed: Any = optimize.minimize_scalar(lambda a: value(mu, a), bounds=(-5, 5), method="bounded",
                                          options={"xatol": 1e-8})  # fmt: skip
    best: Any = optimize.minimize(lambda v: value(*v), (max(mu, 0.1), 0.0), method="L-BFGS-B", tol=1e-12,
                                  bounds=[(0, None), (None, None)])  # fmt: skip
    return float(fixed.fun) - min(float(best.fun), float(fixed.fun))


def test_mixture_with_its_exact_generator() -> None:
    """Every toy has the data of its own random numbers, and the t that scipy finds for them, within MIGRAD's tolerance.

    t without the nuisance, or with its outcome where the nuisance is, would be another.
    """
    cost = mixture()
    built = neyman(cost, {"mu": [0.5, 1.0, 1.5]}, toys=10, cls=(0.68,), seed=5, progress=False)

    def drawn(row: Floats, rng: np.random.Generator) -> dict[str, float]:
        x, outcome = generate({"mu": row[0], "a": row[1]}, rng)["x"], row[1] + rng.normal()
        wrong = mixture_t(row[0], x, outcome, profiled=False)
        return {"t": mixture_t(row[0], x, outcome), "frozen": wrong, "unmoved": mixture_t(row[0], x, row[1])}

    rows = np.repeat(np.stack([built.truths["mu"], built.truths["a"]], 1), 10, 0)
    exact = nu.tasks.run(drawn, list(rows), seed=5, progress=False).stacked()
    np.testing.assert_allclose(built.toys.ravel(), exact["t"], atol=2e-3)
    assert np.mean(np.abs(exact["frozen"] - exact["t"]) > 0.02) > 0.5
    assert np.mean(np.abs(exact["unmoved"] - exact["t"]) > 0.02) > 0.5
    assert len(np.unique(built.best)) == built.best.size
    # nuisances of the toys follow the data: more signal, less background
    assert (np.diff(built.truths["a"]) < 0).all()
    found = coverage(cost, {"mu": 1.0, "a": 0.0}, interest=["mu"], toys=60, seed=6, progress=False)
    assert (np.abs(found.away()) < 4).all()
    assert abs(found.pull_width[0, 0] - 1) < 4 * found.pull_error[0, 0] + 0.05
    assert abs(found.pull_mean[0, 0]) < 4 / math.sqrt(60) + 0.1


@pytest.mark.slow
def test_held_out_simulation_stands_for_the_generator() -> None:
    """400 toys of 80 events from 40,000 held-out ones: coverage and bias as of the exact generator, within 4 sigma.

    The shift that all toys share is sqrt(80 / 40,000) = 0.045 of the error.
    """
    cost, rng = mixture(), np.random.default_rng(11)
    parts = tuple(cost)
    parts_out = {"S": nu.Events({"x": rng.normal(0, 0.5, 20_000)}), "B": nu.Events({"x": rng.uniform(-4, 4, 20_000)})}
    model = parts[0].mixture

    def background(events: nu.Events, at: Mapping[str, float]) -> Floats:
        return np.full(len(events), model.expected(mu=0.0, a=at["a"]) / len(events))

    held = HeldOut(parts_out, {"S": lambda e, at: np.full(len(e), 20 * at["mu"] / len(e)), "B": background})
    assert held.reuse({"mu": 1.0, "a": 0.0}).shared < 0.06
    drawn = model(nu.Events({"x": np.zeros(1)}), generate=held) + Normal("a")
    given: Any = {"interest": ["mu"], "toys": 400, "seed": 12, "progress": False}
    found = coverage(drawn, {"mu": 1.0, "a": 0.5}, **given)
    exact = coverage(cost, {"mu": 1.0, "a": 0.5}, **given)
    assert (np.abs(found.covered - exact.covered) < 4 * np.hypot(found.covered_error, exact.covered_error)).all()
    error = np.hypot(found.bias_error, exact.bias_error)[0, 0] + 0.06 * found.bias_error[0, 0] * 20
    assert abs(found.bias - exact.bias)[0, 0] < 4 * error
    assert (np.abs(found.away()) < 4).all()


@pytest.mark.slow
def test_a_local_cluster_of_processes_gives_the_same() -> None:
    distributed = pytest.importorskip("distributed")
    cost = Poisson("g", 5, scale=4.0) + Normal("g", 1.0, 0.5)
    with (
        distributed.LocalCluster(n_workers=2, threads_per_worker=1, dashboard_address=None) as cluster,
        distributed.Client(cluster) as client,
    ):
        found = run(cost, executor=client.get_executor())
    np.testing.assert_array_equal(found.toys, run(cost).toys)


# -- circles and hypotheses --------------------------------------------------------------------------------------------


def test_periodic_parameters_are_fitted_around_the_circle() -> None:
    """t equals the minimum over a fine scan of the circle, wherever the fit starts; p as well."""
    cost, period = Circle((0.2, 0.65)), {"delta": (0.0, 2 * math.pi)}
    fine = np.linspace(0, 2 * math.pi, 20001)
    scan = ((np.sin(fine) - 0.2) ** 2 + (0.7 * np.cos(fine) - 0.65) ** 2) / 0.16
    grid = np.linspace(0, 2 * math.pi, 7)
    built = neyman(cost, {"delta": grid}, toys=12, cls=(0.68,), periodic=period, seed=6, progress=False)
    expected = ((np.sin(grid) - 0.2) ** 2 + (0.7 * np.cos(grid) - 0.65) ** 2) / 0.16 - scan.min()
    np.testing.assert_allclose(built.observed, expected, atol=2e-3)
    assert (built.best >= 0).all()
    assert (built.best <= 2 * math.pi).all()
    # one interval across the closing point
    (low, high), = built.interval(0.68)  # fmt: skip
    assert low < 2 * math.pi < high < 3 * math.pi
    part = neyman(cost, {"delta": [0.0, 0.3]}, toys=12, cls=(0.68,), periodic=period, seed=6, progress=False)
    assert part.interval(0.68).tolist() == [[0.0, 0.3]]  # nobody looked at the rest of the circle
    # started at the far side, one start would not always do for a cost with two minima
    statistic = LikelihoodRatio(interest=("delta",), periodic=period)
    for start in (0.1, math.pi, 5.0):
        assert statistic.best({"delta": start}, cost).value == pytest.approx(scan.min(), abs=2e-3)


class Ellipse(DifferentiableCost):
    """Normal measurements of 9 sin(d) and 0.7 cos(d): d and pi - d are hard to tell apart."""

    def __init__(self, seen: Floats, *, limited: bool = False) -> None:
        super().__init__({"d": (0.0, 2 * math.pi) if limited else None})
        self.seen, self.limited = seen, limited

    def tensor(self, theta: Tensor) -> Tensor:
        return (9 * torch.sin(theta[0]) - self.seen[0]) ** 2 + (0.7 * torch.cos(theta[0]) - self.seen[1]) ** 2

    def sample(self, values: Mapping[str, float], rng: np.random.Generator) -> Ellipse:
        mean = np.array([9 * math.sin(values["d"]), 0.7 * math.cos(values["d"])])
        return Ellipse(mean + rng.standard_normal(2), limited=self.limited)

    def _ndata(self) -> int:
        return 2


def test_both_minima_of_a_circle_are_looked_at() -> None:
    """t equals that of a fine scan for every toy; starts at the truth and opposite to it miss some by over 0.05."""
    fine, rng = np.linspace(0, 2 * math.pi, 20001), np.random.default_rng(1)
    statistic = LikelihoodRatio(interest=("d",), periodic={"d": (0.0, 2 * math.pi)})
    opposite = LikelihoodRatio(interest=("d",), starts=[{"d": 0.5 + math.pi}])
    missed = 0
    for _ in range(40):
        toy = Ellipse(np.zeros(2)).sample({"d": 0.5}, rng)
        scan = (9 * np.sin(fine) - toy.seen[0]) ** 2 + (0.7 * np.cos(fine) - toy.seen[1]) ** 2
        t = toy.at({"d": 0.5}) - scan.min()
        assert statistic({"d": 0.5}, toy) == pytest.approx(t, abs=1e-3)
        missed += opposite({"d": 0.5}, toy) < t - 0.05
    assert missed > 0


def test_a_circle_whose_cost_has_the_period_as_limits() -> None:
    """The same numbers as without them, across 0 too."""
    options: Any = {"periodic": {"d": (0.0, 2 * math.pi)}, "toys": 9, "cls": (0.68,), "seed": 1, "progress": False}
    seen, grid = np.array([0.3, 1.5]), {"d": [0.0, 1.5, 2 * math.pi]}
    free, limited = (neyman(Ellipse(seen, limited=one), grid, **options) for one in (False, True))
    np.testing.assert_allclose(limited.toys, free.toys, atol=1e-4)
    np.testing.assert_allclose(limited.observed, free.observed, atol=1e-4)
    counted: Any = {"interest": ["d"], "periodic": options["periodic"], "toys": 8, "seed": 2, "progress": False}
    found = [coverage(Ellipse(seen, limited=one), {"d": 0.02}, **counted) for one in (False, True)]
    np.testing.assert_allclose(found[1].pull_width, found[0].pull_width, atol=1e-3)


class Octants(DifferentiableCost):
    """Two minima, at about -1 and +1, the latter deeper by ``tilt``."""

    def __init__(self, tilt: float) -> None:
        super().__init__({"s": None})
        self.tilt = tilt

    def tensor(self, theta: Tensor) -> Tensor:
        return 40 * (theta[0] ** 2 - 1) ** 2 - 0.5 * self.tilt * theta[0]

    def _ndata(self) -> int:
        return 1


def test_more_starts_find_the_other_minimum() -> None:
    """From -0.9 the fit ends at -1; with a start in the other octant it ends where the scan has its minimum."""
    fine, cost = np.linspace(-2, 2, 40001), Octants(3.0)
    scan = 40 * (fine**2 - 1) ** 2 - 1.5 * fine
    at = 40 * (0.81 - 1) ** 2 + 1.5 * 0.9
    alone = LikelihoodRatio(interest=("s",))({"s": -0.9}, cost)
    found = LikelihoodRatio(interest=("s",), starts=[{"s": 0.9}])({"s": -0.9}, cost)
    assert found == pytest.approx(at - scan.min(), abs=1e-4)
    assert alone == pytest.approx(at - scan[fine < 0].min(), abs=1e-4)
    assert found - alone > 2.9


def test_discrete_hypotheses_are_minimised_over_in_every_fit() -> None:
    cost, options = Circle((0.4, -0.5), ordered=True), {"order": (-1.0, 1.0)}
    fine = np.linspace(0, 2 * math.pi, 20001)

    def scan(order: float, seen: tuple[float, float] = (0.4, -0.5)) -> Floats:
        return ((np.sin(fine) - seen[0]) ** 2 + (order * (0.7 * np.cos(fine) + 0.3) - seen[1]) ** 2) / 0.16

    least = min(scan(1.0).min(), scan(-1.0).min())
    period = {"delta": (0.0, 2 * math.pi)}
    statistic = LikelihoodRatio(interest=("delta",), periodic=period, discrete=options)
    for delta in (0.5, 2.0, 4.0):
        at = min(
            ((math.sin(delta) - 0.4) ** 2 + (o * (0.7 * math.cos(delta) + 0.3) + 0.5) ** 2) / 0.16 for o in (-1, 1)
        )
        assert statistic({"delta": delta, "order": 1.0}, cost) == pytest.approx(at - least, abs=2e-3)
    # the ordering itself as the parameter of interest: the set holds hypotheses
    built = neyman(cost, {"order": [-1.0, 1.0]}, toys=30, cls=(0.68,), periodic=period, discrete=options, seed=7,
                   progress=False)  # fmt: skip
    np.testing.assert_allclose(built.observed, [scan(-1.0).min() - least, scan(1.0).min() - least], atol=2e-3)
    assert built.interval(0.68).tolist() in ([[-1.0, -1.0]], [[-1.0, -1.0], [1.0, 1.0]], [[1.0, 1.0]])
    with pytest.raises(ValueError, match="expected some of the discrete values"):
        neyman(cost, {"order": [0.0, 1.0]}, toys=60, cls=(0.68,), discrete=options, seed=7)


class OneOrder(Circle):
    """No density at orders above ``most``."""

    most = 0.0

    def tensor(self, theta: Tensor) -> Tensor:
        if float(theta[1].detach()) > self.most:
            raise NegativeDensity(f"no density at order {float(theta[1].detach()):g}")
        return super().tensor(theta)


def test_a_hypothesis_without_a_fit_is_left_out(caplog: pytest.LogCaptureFixture) -> None:
    """t is that of the other one, and the log says so; where none is left, the fit fails."""
    cost, fine = OneOrder((0.4, -0.5), ordered=True), np.linspace(0, 2 * math.pi, 20001)
    value = lambda d: ((np.sin(d) - 0.4) ** 2 + (0.5 - 0.7 * np.cos(d) - 0.3) ** 2) / 0.16  # noqa: E731
    statistic = LikelihoodRatio(interest=("delta",), periodic={"delta": (0.0, 2 * math.pi)},
                                discrete={"order": (-1.0, 1.0)})  # fmt: skip
    found = statistic({"delta": 2.0, "order": 1.0}, cost)
    assert found == pytest.approx(value(2.0) - value(fine).min(), abs=1e-3)
    assert "no fit with order = 1, which is left out: no density at order 1" in caplog.text
    assert "order = -1," not in caplog.text
    cost.most = -2.0
    with pytest.raises(NegativeDensity, match="no density at order -1"):
        statistic({"delta": 2.0, "order": 1.0}, cost)


def test_critical_values_next_to_failed_toys() -> None:
    """At points of the grid the value there; between them infinite where one of the two is."""
    built = neyman(Normal(["a", "b"], [0.0, 0.0], covariance=np.eye(2)), {"a": [0.0, 1.0, 2.0], "b": [0.0, 1.0]},
                   toys=20, cls=(0.68,), seed=1, progress=False)  # fmt: skip
    toys = built.toys.copy()
    toys[2, :10] = math.inf  # a = 1, b = 0
    built = replace(built, toys=toys)
    table = built.critical(0.68).value.reshape(3, 2)
    assert math.isinf(table[1, 0])
    for i, a in enumerate((0.0, 1.0, 2.0)):
        for j, b in enumerate((0.0, 1.0)):
            assert built.at({"a": a, "b": b}, 0.68) == table[i, j]
    assert built.at({"a": 0.5, "b": 1.0}, 0.68) == pytest.approx((table[0, 1] + table[1, 1]) / 2)
    assert built.at({"a": 0.0, "b": 0.25}, 0.68) == pytest.approx(0.75 * table[0, 0] + 0.25 * table[0, 1])
    for place in ({"a": 0.5, "b": 0.0}, {"a": 1.0, "b": 0.9}, {"a": 1.5, "b": 0.5}):
        assert math.isinf(built.at(place, 0.68))


def test_two_parameters_of_interest_make_a_region() -> None:
    """A correlated Gaussian: t is chi2 of 2 degrees, the region an ellipse."""
    v = np.array([[1.0, 0.6], [0.6, 1.0]])
    built = neyman(Normal(["a", "b"], [0.0, 0.0], covariance=v), {"a": [-2.0, 0.0, 2.0], "b": [0.0, 1.5]},
                   toys=100, cls=(0.68,), seed=8, progress=False)  # fmt: skip
    points = np.stack(np.meshgrid(built.grid["a"], built.grid["b"], indexing="ij"), -1).reshape(-1, 2)
    exact = np.einsum("pi,ij,pj->p", points, np.linalg.inv(v), points)
    np.testing.assert_allclose(built.observed, exact, atol=2e-3)
    assert within(built.coverage(0.68).value, 0.68, 0.68, 100)
    assert built.accepted(0.68).reshape(built.shape).tolist() == [
        [False, False], [True, False], [False, False]]  # fmt: skip
    assert built.at({"a": 0.5, "b": 0.2}, 0.68) == pytest.approx(stats.chi2.ppf(0.68, 2), rel=0.5)
    with pytest.raises(ValueError, match="expected one parameter of interest, found a, b"):
        built.interval(0.68)


# -- where and how it runs ---------------------------------------------------------------------------------------------


def run(cost: Any, **more: Any) -> Neyman:
    options: Any = {"toys": 40, "cls": (0.68,), "seed": 9, "progress": False, **more}
    return neyman(cost, {"g": [0.5, 1.0, 2.0]}, **options)


def test_workers_do_not_change_the_numbers() -> None:
    cost = Poisson("g", 5, scale=4.0) + Normal("g", 1.0, 0.5)
    here = run(cost)
    there = run(cost, executor=nu.processes(2))
    np.testing.assert_array_equal(there.toys, here.toys)
    np.testing.assert_array_equal(there.best, here.best)
    assert not np.array_equal(run(cost, seed=10).toys, here.toys)


def test_a_dask_cluster_gives_the_same() -> None:
    distributed = pytest.importorskip("distributed")
    cost = Poisson("g", 5, scale=4.0) + Normal("g", 1.0, 0.5)
    with (
        distributed.LocalCluster(n_workers=1, threads_per_worker=2, processes=False, dashboard_address=None) as cluster,
        distributed.Client(cluster) as client,
    ):
        found = run(cost, executor=client.get_executor())
    np.testing.assert_array_equal(found.toys, run(cost).toys)


class Stops(Poisson):
    """Dies after a number of draws, as a killed job does."""

    left = 10**9

    def sample(self, values: Mapping[str, float], rng: np.random.Generator) -> Poisson:
        Stops.left -= 1
        if Stops.left < 0:
            raise RuntimeError("killed")
        return super().sample(values, rng)


def test_killed_and_resumed_is_the_same(tmp_path: Path) -> None:
    cost = Stops("g", 5, scale=4.0)
    whole = run(cost)
    Stops.left = 71
    with pytest.raises(TaskError, match="killed"):
        run(cost, checkpoint=tmp_path, chunk=10)
    assert len(list(tmp_path.glob("chunk-*"))) == 7  # of 12; one draw was the trial before the toys
    Stops.left = 51
    again = run(cost, checkpoint=tmp_path, chunk=10)
    np.testing.assert_array_equal(again.toys, whole.toys)
    assert Stops.left == 0  # 50 toys and the trial, no more
    Stops.left = 10**9
    with pytest.raises(ValueError, match="is of another run"):
        run(cost, checkpoint=tmp_path, chunk=10, ordering="one-sided")


def flat(theta: Mapping[str, float], cost: Any) -> float:
    return float((cost.observed[0] - theta["mu"]) ** 2)


def test_a_checkpoint_of_another_model_is_refused(tmp_path: Path) -> None:
    """Toys of sigma 1 are not those of sigma 3, though parameters, seed and statistic are the same."""
    given: Any = {"toys": 20, "seed": 1, "progress": False}
    for name, statistic in (("ratio", None), ("own", flat)):
        run: Any = {"cls": (0.68,), "statistic": statistic, "checkpoint": tmp_path / name, **given}
        first = neyman(Normal("mu", 0.0), {"mu": [0.0, 1.0]}, **run)
        again = neyman(Normal("mu", 0.0), {"mu": [0.0, 1.0]}, **run)
        np.testing.assert_array_equal(again.toys, first.toys)
        with pytest.raises(ValueError, match="is of another run"):
            neyman(Normal("mu", 0.0, 3.0), {"mu": [0.0, 1.0]}, **run)
    run = {"interest": ["mu"], "checkpoint": tmp_path / "c", **given}
    coverage(Normal("mu", 0.0), {"mu": 0.0}, **run)
    with pytest.raises(ValueError, match="is of another run"):
        coverage(Normal("mu", 0.0, 3.0), {"mu": 0.0}, **run)


def test_a_checkpoint_knows_the_signal_at_its_absence(tmp_path: Path) -> None:
    """Toys without signal, best fits mostly at 0: another efficiency of the signal is another run all the same."""
    given: Any = {"toys": 12, "cls": (0.68,), "seed": 1, "progress": False, "checkpoint": tmp_path}
    neyman(Counting(1), {"mu": [0.0, 2.0]}, **given)
    with pytest.raises(ValueError, match="is of another run"):
        neyman(Counting(1, s=1.01), {"mu": [0.0, 2.0]}, **given)


def test_saved_and_loaded(bounded: Neyman, tmp_path: Path) -> None:
    bounded.save(tmp_path / "n.safetensors")
    again = Neyman.load(tmp_path / "n.safetensors")
    assert (
        repr(again) == repr(bounded) == "Neyman(mu: 5 points, 200 toys each, two-sided; 0 of 1000 toys without a fit)"
    )
    np.testing.assert_array_equal(again.interval(0.9), bounded.interval(0.9))
    np.testing.assert_array_equal(again.belt(0.68), bounded.belt(0.68))
    assert again.best_fit == bounded.best_fit


class Falls(Poisson):
    """Its fits fail for the largest counts."""

    def tensor(self, theta: Tensor) -> Tensor:
        if self.observed[0] >= 12:
            raise NegativeDensity("no density")
        return super().tensor(theta)

    def with_observed(self, observed: Any) -> Falls:
        return Falls(self.names[0], observed, self.scale)


def test_failed_fits_are_counted_and_widen(caplog: pytest.LogCaptureFixture) -> None:
    """P(n >= 12 | 8) = 11%: they count as t = infinity, so that the quantile at 68% may rise, and never falls."""
    cost = Falls("g", 8, scale=8.0)
    with pytest.raises(nu.NotConverged, match=r"the fits of \d+ of 60 toys failed, more than most_failed=0.01"):
        neyman(cost, {"g": [1.0]}, toys=60, cls=(0.68,), seed=1, progress=False)
    built = neyman(cost, {"g": [1.0]}, toys=60, cls=(0.68,), seed=1, most_failed=0.5, progress=False)
    assert abs(built.failed[0] / 60 - stats.poisson(8).sf(11)) < 4 * math.sqrt(0.1 / 60)
    assert "they count as t = infinity" in caplog.text
    finite = np.sort(built.toys[np.isfinite(built.toys)])
    assert built.critical(0.68).value[0] > finite[math.ceil(0.68 * len(finite)) - 1]
    assert f"{built.failed[0]} of 60 toys without a fit" in repr(built)


def test_a_statistic_of_ones_own() -> None:
    """(x - mu)^2 of a Gaussian, without fits: chi2 exactly."""
    built = neyman(Normal("mu", 0.3), {"mu": [0.0, 1.0]}, toys=400, cls=(0.68,), seed=2, progress=False,
                   statistic=lambda theta, cost: float((cost.observed[0] - theta["mu"]) ** 2))  # fmt: skip
    np.testing.assert_allclose(built.observed, [0.09, 0.49])
    assert within(built.coverage(0.68).value, 0.68, 0.68, 400)
    with pytest.raises(ValueError, match="belt: expected best fits"):
        built.belt(0.68)


def test_nuisances_can_be_given() -> None:
    cost = Normal(["mu", "a"], [1.0, 0.0], covariance=[[1, 0.5], [0.5, 1]]) + Normal("a")
    fixed = neyman(cost, {"mu": [0.0, 1.0]}, toys=60, cls=(0.68,), nuisances={"a": 0.7}, seed=1, progress=False)
    assert fixed.truths["a"].tolist() == [0.7, 0.7]
    made = neyman(cost, {"mu": [0.0, 1.0]}, toys=60, cls=(0.68,), nuisances=lambda p: {"a": p["mu"] / 2}, seed=1,
                  progress=False)  # fmt: skip
    assert made.truths["a"].tolist() == [0.0, 0.5]
    with pytest.raises(KeyError, match="no value for the parameter 'a'"):
        neyman(cost, {"mu": [0.0]}, toys=60, cls=(0.68,), nuisances={}, seed=1)
    with pytest.raises(KeyError, match="nuisances: no parameter 'b'; known: 'mu', 'a'"):
        neyman(cost, {"mu": [0.0]}, toys=60, cls=(0.68,), nuisances={"b": 1.0}, seed=1)


# -- bad input ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "kind", "words"),
    [
        ({"grid": {"nu": [0.0]}}, KeyError, "no parameter 'nu'; closest: 'mu'"),
        ({"grid": {}}, ValueError, "at least one parameter of interest"),
        ({"grid": {"mu": [1.0, 0.0]}}, ValueError, "expected rising values"),
        ({"grid": {"mu": [-1.0, 0.0]}}, ValueError, "within the limits 0 to inf, found -1 to 0"),
        ({"toys": 10, "cls": (0.95,)}, ValueError, "expected at least 59 for a critical value at 0.95"),
        ({"cls": (95,)}, ValueError, "between 0 and 1"),
        ({"toys": 60.5}, TypeError, "expected a whole number"),
        ({"limits": {"nu": (0, 1)}}, KeyError, "no parameter 'nu'"),
        ({"periodic": {"mu": (0.0, 1.0)}}, ValueError, "expected lower < upper and no limits"),
        ({"ordering": "both"}, ValueError, "'two-sided' or 'one-sided'"),
        ({"starts": [{"m": 1.0}]}, KeyError, "no parameter 'm'"),
        ({"statistic": lambda theta, cost: 0.0, "ordering": "one-sided"}, ValueError, "belong to the likelihood ratio"),
    ],
)
def test_bad_constructions_are_refused(options: dict[str, Any], kind: type[Exception], words: str) -> None:
    given: Any = {"grid": {"mu": [0.0, 1.0]}, "toys": 60, "cls": (0.68,), "limits": PHYSICAL, "seed": 1, **options}
    with pytest.raises(kind, match=words):
        neyman(Normal("mu", 0.0), given.pop("grid"), progress=False, **given)


def test_fewest_toys_are_enough() -> None:
    """What the message asks for is taken, one less is not."""
    for cl, least in ((0.68, 9), (0.9, 29), (0.95, 59)):
        neyman(Normal("mu", 0.0), {"mu": [0.0]}, toys=least, cls=(cl,), seed=1, progress=False)
        with pytest.raises(ValueError, match=f"expected at least {least} "):
            neyman(Normal("mu", 0.0), {"mu": [0.0]}, toys=least - 1, cls=(cl,), seed=1, progress=False)


def test_a_cost_that_cannot_draw_data_says_so() -> None:
    model = Mixture({"S": Process(yields=5, coefficient="mu")}, nu.Events({"x": np.zeros(3)}), limits={"mu": (0, None)})
    with pytest.raises(TypeError, match="expected a mixture called with generate="):
        neyman(model(nu.Events({"x": np.zeros(4)})), {"mu": [1.0]}, toys=60, cls=(0.68,), seed=1, progress=False)


def test_bad_coverage_is_refused() -> None:
    given: Any = {"interest": ["mu"], "toys": 10, "seed": 1, "progress": False}
    with pytest.raises(KeyError, match="no value for the parameter 'mu'"):
        coverage(Normal("mu", 0.0), {"m": 1.0}, **given)
    with pytest.raises(ValueError, match="at least one point"):
        coverage(Normal("mu", 0.0), [], **given)
    with pytest.raises(ValueError, match="expected 'profile', a Neyman or CriticalValues"):
        coverage(Normal("mu", 0.0), {"mu": 1.0}, intervals="minos", **given)
    with pytest.raises(ValueError, match="one-sided"):
        coverage(Normal("mu", 0.0), {"mu": 1.0}, ordering="one-sided", periodic={"mu": (0.0, 1.0)}, **given)


def test_critical_values_of_another_statistic_are_refused(bounded: Neyman) -> None:
    """Those of one ordering, or without the limits, say nothing of the other; spelling does not matter."""
    given: Any = {"interest": ["mu"], "toys": 10, "cls": (0.68,), "seed": 1, "progress": False}
    cost, grid, more = Normal("mu", 0.0), {"mu": [0.0, 1.0]}, {"toys": 20, "cls": (0.68,), "seed": 1, "progress": False}
    upper: Any = neyman(cost, grid, ordering="one-sided", **more)  # type: ignore[arg-type]
    own: Any = neyman(cost, grid, statistic=flat, **more)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="found different ordering one-sided and two-sided; pass the same options"):
        coverage(cost, {"mu": 0.0}, intervals=upper, **given)
    with pytest.raises(ValueError, match=r"found different limits \{'mu': \[0.0, None\]\} and \{\}"):
        coverage(cost, {"mu": 0.0}, intervals=bounded, **given)
    with pytest.raises(ValueError, match="critical values are of a statistic of your own, the toys of a likelihood"):
        coverage(cost, {"mu": 0.0}, intervals=own, **given)
    assert coverage(cost, {"mu": 0.0}, intervals=upper, ordering="one-sided", **given).toys == 10
    assert coverage(cost, {"mu": 0.0}, intervals=bounded, limits={"mu": (0, math.inf)}, **given).toys == 10


def test_errors_do_not_depend_on_units() -> None:
    """100 events for mu = 1e-3 have an error of 1e-4, and 10 in units of 1e-5."""
    for s in (1e5, 1.0):
        statistic, best = LikelihoodRatio(interest=("mu",)).prepared(Counting(100, s=s), {"mu": 110 / s})
        found = statistic.tested(best, Counting(100, s=s), errors=True).best
        assert found.values["mu"] * s == pytest.approx(97, rel=1e-4)
        assert found.errors["mu"] * s == pytest.approx(10, rel=1e-3)
