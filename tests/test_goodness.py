"""Goodness of fit by a learned likelihood ratio: an exact minimum, a null that is a chi2, and faults that are found."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy import optimize, stats

from nuinfer import MLP, DeepSet, Events, Features, NotConverged
from nuinfer.anomaly.goodness import GoodnessOfFit, KernelFit, NetworkFit, fitting, goodness_of_fit, network
from nuinfer.anomaly.goodness.kernel import KernelTest
from nuinfer.anomaly.goodness.null import chi_square, fitted_dof
from nuinfer.anomaly.goodness.rows import Pseudo, Rows
from nuinfer.events import Ragged
from nuinfer.plots.goodness import goodness_ratio, goodness_toys
from nuinfer.simulators.exponential_bump import ExponentialBump

Floats = NDArray[np.float64]

NULL = ExponentialBump()
TAIL, BULK = ExponentialBump(excess=10.0, mean=0.8), ExponentialBump(excess=90.0, mean=0.2)
BROAD = ExponentialBump(excess=90.0, shape="broad")


def prepared(
    reference: Events, spec: KernelFit | None = None, nuisances: Mapping[str, Any] | None = None, columns: str = "x"
) -> KernelTest:
    rng = np.random.default_rng(1)
    return fitting._kernel_test(spec or KernelFit(), Features(columns.split()), reference, nuisances or {}, True, rng)


def pseudo(test: KernelTest, *data: Events) -> Pseudo:
    return Pseudo(test.rows.weight[None], None, data, np.zeros((len(data), len(test.nuisances))))


@pytest.fixture(scope="module")
def reference() -> Events:
    return NULL.reference(100_000, seed=1)


@pytest.fixture(scope="module")
def kernel(reference: Events) -> KernelTest:
    return prepared(reference)


@pytest.fixture(scope="module")
def toys(kernel: KernelTest) -> Floats:
    return fitting._Toys(kernel, None, np.zeros(0), NULL.expected)(250, np.random.default_rng(2))


# -- the problem with an exact answer ----------------------------------------------------------------------------------


@pytest.mark.parametrize(("problem", "published"), [(TAIL, 4.8), (BULK, 5.6), (BROAD, 4.5)])
def test_the_exact_significance_is_the_published_one(problem: ExponentialBump, published: float) -> None:
    assert problem.z() == pytest.approx(published, abs=0.05)


def test_the_exact_distribution_is_that_of_toys() -> None:
    problem = ExponentialBump(expected=50.0, excess=6.0, mean=0.3, sd=0.03)
    null = np.array([problem.log_ratio(ExponentialBump(expected=50.0).data(seed)).sum() for seed in range(2000)])
    other = np.array([problem.log_ratio(problem.data(seed)).sum() for seed in range(500)])
    p = (null > np.median(other)).mean()
    exact = stats.norm.sf(problem.z())
    # of the null's toys, and of the median, p(1-p)/n at a slope of order one
    assert abs(p - exact) < 4 * np.sqrt(exact / 2000 + exact**2 * 4 / 500)
    assert exact < 0.1 * stats.norm.sf(0.5 * problem.z())


def test_the_simulators_rate_integrates_to_its_totals() -> None:
    x = np.linspace(0, 4, 400_001)
    for problem in (TAIL, BROAD):
        total = np.trapezoid(problem.rate(x), x)
        assert total == pytest.approx(problem.expected + problem.excess, rel=1e-6)
    assert NULL.z() == 0.0
    assert (NULL.log_ratio([0.1, 2.0]) == 0).all()
    with pytest.raises(ValueError, match="positive"):
        ExponentialBump(slope=-1.0)
    with pytest.raises(ValueError, match="'peak' or 'broad'"):
        ExponentialBump(shape="wide")  # type: ignore[arg-type]


# -- the minimum -------------------------------------------------------------------------------------------------------


def by_scipy(phi: Floats, w: Floats, data: Floats, q: Floats, loss: str) -> float:
    """t at the minimum that a general minimiser finds."""

    def value(g: Floats) -> tuple[float, Floats]:
        f, d = phi @ g, data @ g
        if loss == "likelihood":
            return w @ np.expm1(f) - d.sum() + g @ q @ g / 2, (w * np.exp(f)) @ phi - data.sum(0) + q @ g
        up, down = np.logaddexp(0, f), np.logaddexp(0, -d)
        slope = 2 * (w / (1 + np.exp(-f))) @ phi - 2 * (1 / (1 + np.exp(d))) @ data
        return 2 * (w @ up + down.sum()) + g @ q @ g / 2, slope + q @ g

    scale = np.sqrt(np.diag(q) + w.sum())  # of order one in each direction
    found = optimize.minimize(
        lambda u: (value(u / scale)[0], value(u / scale)[1] / scale), np.zeros(len(q)), jac=True, method="BFGS",
        options={"gtol": 1e-7, "maxiter": 3000},
    )  # fmt: skip
    g = found.x / scale
    return float(-2 * (w @ np.expm1(phi @ g) - (data @ g).sum()))


@pytest.mark.parametrize("loss", ["likelihood", "logistic"])
def test_the_minimum_is_that_of_a_general_minimiser(loss: Any) -> None:
    reference = NULL.reference(4000, seed=3)
    test = prepared(reference, KernelFit(loss=loss, quantile=0.9))
    for data in (BULK.data(seed=4), NULL.data(seed=5)):
        exact = by_scipy(test.phi, test.rows.weight, test.basis(data["x"][:, None]), test.penalty, loss)
        assert test(pseudo(test, data)).t[0] == pytest.approx(exact, abs=1e-4)


def test_many_experiments_at_once_are_each_alone(kernel: KernelTest) -> None:
    data = [NULL.data(seed=6), BULK.data(seed=7), TAIL.data(seed=8)]
    together = kernel(pseudo(kernel, *data)).t
    assert [kernel(pseudo(kernel, one)).t[0] for one in data] == pytest.approx(together, abs=1e-6)


def test_fine_bins_are_as_good_as_events(reference: Events, kernel: KernelTest) -> None:
    rows = Rows.of(reference["x"][:, None], reference.weight)
    events = replace(kernel, rows=rows, phi=kernel.basis(rows.x))
    wide = Rows.of(reference["x"][:, None], reference.weight, 0.1)
    coarse = replace(kernel, rows=wide, phi=kernel.basis(wide.x))
    data = pseudo(kernel, BULK.data(seed=9), NULL.data(seed=10))
    exact = events(replace(data, weight=rows.weight[None])).t
    assert len(kernel.rows) < 6000
    assert np.abs(kernel(data).t - exact).max() < 1e-3
    assert np.abs(coarse(replace(data, weight=wide.weight[None])).t - exact).max() > 0.1


def test_a_weight_of_two_is_an_event_twice(kernel: KernelTest) -> None:
    rng = np.random.default_rng(11)
    x, times = rng.exponential(1 / 8, 5000), rng.integers(0, 3, 5000)
    step = 1e-3
    one = Rows.of(x[:, None], np.asarray(0.4 * times, np.float64), step)
    two = Rows.of(np.repeat(x, times)[:, None], np.full(int(times.sum()), 0.4), step)
    tests = [replace(kernel, rows=rows, phi=kernel.basis(rows.x)) for rows in (one, two)]
    data = BULK.data(seed=12)
    first, second = (test(pseudo(test, data)).t[0] for test in tests)
    assert first == pytest.approx(second, abs=1e-4)


# -- the null distribution ---------------------------------------------------------------------------------------------


def test_the_toys_are_a_chi2_and_data_without_fault_are_like_them(kernel: KernelTest, toys: Floats) -> None:
    law = chi_square(toys)
    assert law.compatibility > 0.01
    assert 8 < law.dof < 18
    data = kernel(pseudo(kernel, *(NULL.data(seed) for seed in range(100, 220)))).t
    assert stats.ks_2samp(data, toys).pvalue > 0.01
    assert stats.kstest(data, "chi2", args=(law.dof,)).pvalue > 0.01
    wrong = kernel(pseudo(kernel, *(BROAD.data(seed) for seed in range(60)))).t
    assert stats.ks_2samp(wrong, toys).pvalue < 1e-6


def test_without_bootstraps_a_small_reference_gives_too_small_toys() -> None:
    # two reference events for each of the data: the difference has 1.5 times the variance of the data
    small = prepared(NULL.reference(4000, seed=13), KernelFit(quantile=0.9))
    rng = np.random.default_rng(14)
    boot = fitting._Toys(small, None, np.zeros(0), NULL.expected)(150, rng)
    counts = small.rows.drawn(np.ones(len(small.rows)), 150, rng)
    fixed = small(Pseudo(small.rows.weight[None], counts, (), np.zeros((150, 0)))).t
    # over references too, as the bootstrap averages over them
    truth = []
    for seed in range(20):
        other = prepared(NULL.reference(4000, seed=seed + 100), KernelFit(quantile=0.9))
        truth.append(other(pseudo(other, *(NULL.data(10 * seed + k) for k in range(5)))).t)
    mean = np.mean(truth)
    error = np.std(np.mean(truth, 1)) / np.sqrt(20)
    assert abs(boot.mean() - mean) < 4 * np.hypot(error, boot.std() / np.sqrt(150))
    assert mean - fixed.mean() > 4 * np.hypot(error, fixed.std() / np.sqrt(150))


def test_the_degrees_of_freedom_are_those_of_maximum_likelihood() -> None:
    t = np.random.default_rng(15).chisquare(9.0, 400)
    law = chi_square(t)
    best = optimize.minimize_scalar(lambda k: -stats.chi2.logpdf(t, k).sum(), bounds=(1, 30), method="bounded").x
    assert law.dof == pytest.approx(best, abs=1e-3)
    assert abs(law.dof - 9) < 4 * law.error
    assert law.compatibility > 0.01
    assert chi_square(np.random.default_rng(16).normal(30, 1, 400)).compatibility < 1e-6
    assert chi_square(np.append(t, -50.0)).compatibility == 0.0
    assert fitted_dof(np.array([1.0, -0.5, 3.0])) == pytest.approx(7 / 6)


# -- what it finds -----------------------------------------------------------------------------------------------------


def test_a_bump_is_found_and_where_it_is(reference: Events) -> None:
    data = ExponentialBump(excess=150.0, mean=0.3, sd=0.05).data(seed=17)
    found = goodness_of_fit(data, reference, ["x"], toys=100, seed=3, progress=False)
    assert found.valid == "chi2"
    assert found.z > 5
    assert found.p == pytest.approx(stats.chi2.sf(found.t, found.dof))
    x = np.linspace(0.02, 0.5, 25)
    learned = found.log_ratio(Events({"x": x}))
    exact = ExponentialBump(excess=150.0, mean=0.3, sd=0.05).log_ratio(x)
    # the statistics of some 80 events in a kernel's width there, about 0.15
    assert np.abs(learned - exact).max() < 0.5
    assert abs(x[learned.argmax()] - 0.3) < 0.05
    assert np.abs(0.0 - exact).max() > 0.6


def test_data_without_fault_are_not_found(reference: Events) -> None:
    found = goodness_of_fit(NULL.data(seed=18), reference, ["x"], toys=60, progress=False)
    assert found.valid == "toys"
    assert found.p > 0.05
    assert found.p == (found.beyond + 1) / 61
    assert found.observed == len(NULL.data(seed=18))
    assert found.expected == pytest.approx(2000)


def test_the_rate_counts_unless_told(reference: Events) -> None:
    more = reference.scaled_to(2400.0)
    data = NULL.data(seed=19)
    with_rate, shape = (
        goodness_of_fit(data, more, ["x"], rate=rate, toys=60, progress=False) for rate in (True, False)
    )
    pull = 2 * (len(data) * np.log(len(data) / 2400) - len(data) + 2400)
    assert with_rate.z > 5
    assert shape.p > 0.05
    assert shape.nuisances["rate"] == pytest.approx(np.log(len(data) / 2400), abs=1e-3)
    assert with_rate.t - shape.t == pytest.approx(pull, rel=0.1)
    assert with_rate.log_ratio(reference).mean() == pytest.approx(shape.log_ratio(reference).mean(), abs=0.03)


def test_a_correlation_is_found_that_no_margin_shows() -> None:
    rng = np.random.default_rng(20)
    flat = rng.normal(size=(20_000, 2))
    turned = rng.normal(size=(1000, 2)) @ np.linalg.cholesky([[1, 0.3], [0.3, 1]]).T
    reference = Events({"a": flat[:, 0], "b": flat[:, 1]}, weight=np.full(20_000, 0.05))
    data = Events({"a": turned[:, 0], "b": turned[:, 1]})
    spec = KernelFit(centres=60)
    found = goodness_of_fit(data, reference, ["a", "b"], method=spec, toys=40, progress=False)
    assert found.z > 3
    alone = goodness_of_fit(data, reference, ["a"], method=spec, toys=40, progress=False)
    assert alone.z < 3


# -- nuisance parameters -----------------------------------------------------------------------------------------------

SLOPE, RATE = 0.04, 0.1


def log_slope(x: Floats, nu: float) -> Floats:
    """log n(x | nu)/n(x | 0) for slope 8 (1 + 0.04 nu) and e^(0.1 nu) times the rate."""
    return np.asarray(np.log1p(SLOPE * nu) - SLOPE * nu * 8 * x + RATE * nu)


def at_slope(nu: float, seed: int) -> Events:
    rng = np.random.default_rng([seed, 99])
    return Events({"x": rng.exponential(1 / (8 * (1 + SLOPE * nu)), rng.poisson(2000 * np.exp(RATE * nu)))})


@pytest.fixture(scope="module")
def sloping(reference: Events) -> KernelTest:
    pair = tuple(reference.with_weight(reference.weight * np.exp(log_slope(reference["x"], nu))) for nu in (1, -1))
    return prepared(reference, nuisances={"slope": pair})


def test_the_references_of_a_nuisance_parameter_are_learned(sloping: KernelTest) -> None:
    x = np.linspace(0.0, 0.6, 13)
    for nu in (1.0, -1.0, 0.5):
        learned = sloping.basis(x[:, None]) @ sloping.nuisances.coefficients(np.array([[nu]]))[0]
        assert learned == pytest.approx(log_slope(x, nu), abs=3e-3)


@pytest.mark.parametrize("nu", [1.0, -1.0])
def test_a_nuisance_parameter_within_its_error_is_no_fault(kernel: KernelTest, sloping: KernelTest, nu: float) -> None:
    toys = fitting._Toys(sloping, None, np.zeros(1), NULL.expected)(200, np.random.default_rng(21))
    law = chi_square(toys)
    data = [at_slope(nu, seed) for seed in range(100)]
    found = sloping(pseudo(sloping, *data))
    assert law.compatibility > 0.01
    assert stats.kstest(found.t, "chi2", args=(law.dof,)).pvalue > 0.01
    assert abs(found.nu.mean() - nu) < 4 * found.nu.std() / 10 + 0.05  # its constraint pulls it by 4%
    ignored = kernel(pseudo(kernel, *data)).t
    assert stats.kstest(ignored, "chi2", args=(law.dof,)).pvalue < 1e-6


def test_a_bump_is_found_beside_a_nuisance_parameter(reference: Events) -> None:
    up, down = (reference.with_weight(reference.weight * np.exp(log_slope(reference["x"], nu))) for nu in (1, -1))
    bump = np.random.default_rng(23).normal(0.35, 0.05, 150)
    data = Events.concat([at_slope(1.0, 22), Events({"x": bump})])
    for method in (KernelFit(), NetworkFit(bound=20.0, steps=600)):
        found = goodness_of_fit(
            data, reference, ["x"], method=method, nuisances={"slope": (up, down)}, toys=20, seed=1, progress=False
        )
        assert list(found.nuisances) == ["slope"]
        assert found.t > found.toys.max()


# -- networks ----------------------------------------------------------------------------------------------------------


def test_a_network_finds_a_broad_excess(reference: Events, tmp_path: Path) -> None:
    problem = ExponentialBump(excess=200.0, shape="broad")
    data = problem.data(seed=24)
    found = goodness_of_fit(data, reference, ["x"], method=NetworkFit(steps=600), toys=20, seed=1, progress=False)
    assert found.t > 2 * found.toys.max()
    assert found.beyond == 0
    x = np.linspace(0.05, 0.6, 12)
    assert found.log_ratio(Events({"x": x})) == pytest.approx(problem.log_ratio(x), abs=0.4)
    assert np.abs(problem.log_ratio(x)).max() > 0.7
    # the constant is at its maximum: the corrected reference has the rate of the data
    rate = reference.weight @ np.exp(found.log_ratio(reference))
    assert rate == pytest.approx(len(data), rel=2e-3)
    model = found.ratio.model  # type: ignore[attr-defined]
    assert max(float(t.abs().max()) for t in model.state.values()) <= 3.0
    found.save(tmp_path / "network.safetensors")
    again = GoodnessOfFit.load(tmp_path / "network.safetensors")
    assert (again.log_ratio(data) == found.log_ratio(data)).all()
    assert repr(again) == repr(found)


def test_a_network_without_the_rate_sees_shapes(reference: Events) -> None:
    more = reference.scaled_to(2600.0)
    t = [goodness_of_fit(NULL.data(25), more, ["x"], method=NetworkFit(bound=3.0, steps=400), rate=rate, toys=20,
                         progress=False).t for rate in (True, False)]  # fmt: skip
    assert t[0] > 100
    assert t[1] < 40


def correlated(n: int, rho: float, seed: int, weight: float = 1.0) -> Events:
    a, b = np.linalg.cholesky([[1, rho], [rho, 1]]) @ np.random.default_rng([seed, 20]).normal(size=(2, n))
    return Events({"a": a, "b": b}, weight=np.full(n, weight))


@pytest.mark.parametrize("size", [8_000, 20_000], ids=["all rows at once", "in batches"])
def test_a_network_finds_a_correlation(size: int) -> None:
    """Which no margin shows; the learned ratio is that of two normal densities."""
    reference, rho = correlated(size, 0.0, 1, 800 / size), 0.5
    spec = NetworkFit(network=MLP(width=6, depth=1), steps=200)
    data, null = correlated(800, rho, 2), correlated(800, 0.0, 3)
    found = goodness_of_fit(data, reference, ["a", "b"], method=spec, toys=20, progress=False)
    assert found.beyond == 0
    assert found.z > 3
    a, b = reference["a"], reference["b"]
    exact = -0.5 * np.log(1 - rho**2) - ((a**2 + b**2) * rho**2 - 2 * rho * a * b) / (2 * (1 - rho**2))
    near = a**2 + b**2 < 4
    assert np.corrcoef(found.log_ratio(reference)[near], exact[near])[0, 1] > 0.85
    assert reference.weight @ np.exp(found.log_ratio(reference)) == pytest.approx(800, rel=0.02)
    if size > 8_000:
        return
    t = goodness_of_fit(null, reference, ["a", "b"], method=spec, toys=20, progress=False).t
    assert found.toys.min() / 2 < t < 1.5 * found.toys.max()
    alone = goodness_of_fit(data, reference, ["a"], method=spec, toys=20, progress=False)
    assert alone.t < 1.5 * alone.toys.max()


def clouds(n: int, mean: float, seed: int, weight: float = 1.0) -> Events:
    """Five to fifteen particles an event; those of one event share a shift, or not."""
    rng = np.random.default_rng([seed, 30])
    counts = rng.integers(5, 16, n)
    q = rng.normal(size=counts.sum()) + np.repeat(mean * rng.normal(size=n), counts)
    return Events(
        {"hits.q": Ragged(q / np.sqrt(1 + mean**2), np.concatenate([[0], np.cumsum(counts)]))},
        weight=np.full(n, weight),
    )


def test_a_network_of_clouds_finds_what_particles_of_an_event_share() -> None:
    """One by one the particles have the same density in both."""
    reference = clouds(2000, 0.0, 1, 0.1)
    deep = DeepSet(width=6, depth=1, latent=4, pool="mean", head=MLP(width=6, depth=1))
    spec = NetworkFit(bound=0.5, network=deep, steps=100)
    features = Features([], hits=["q"])
    found, same = (goodness_of_fit(clouds(200, mean, 2), reference, features, method=spec, toys=20, progress=False)
                   for mean in (0.5, 0.0))  # fmt: skip
    assert found.beyond == 0
    assert found.z > 3
    assert same.t < 1.5 * same.toys.max()


def test_a_network_without_limit_says_which_bound_to_take(reference: Events, monkeypatch: pytest.MonkeyPatch) -> None:
    """The risk of a deep set with bound 3 overflowed."""

    def overflow(*args: Any) -> Any:
        raise NotConverged("the risk of networks [0] is not finite in epoch 2")

    monkeypatch.setattr(network, "_whole", overflow)
    with pytest.raises(NotConverged, match=r"up to bound=3; take a smaller one, such as 0.75") as error:
        goodness_of_fit(NULL.data(25), reference, ["x"], method=NetworkFit(), toys=20, progress=False)
    assert "not finite in epoch 2" in str(error.value.__cause__)


# -- toys --------------------------------------------------------------------------------------------------------------


def test_toys_of_a_generator_and_of_a_sample_apart_agree_with_the_reference(reference: Events, toys: Floats) -> None:
    data = NULL.data(seed=26)
    apart = NULL.reference(50_000, seed=27)
    for null in (NULL.draw, apart):
        found = goodness_of_fit(data, reference, ["x"], null=null, toys=80, seed=2, progress=False)
        assert stats.ks_2samp(found.toys, toys).pvalue > 0.01
    wrong = goodness_of_fit(data, reference, ["x"], null=BROAD.draw, toys=40, seed=2, progress=False)
    assert stats.ks_2samp(wrong.toys, toys).pvalue < 1e-4


def test_a_run_is_resumed_and_repeated(reference: Events, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fitting, "_BATCH", 10)
    data = NULL.data(seed=28)

    def run(seed: int = 1, checkpoint: Path | None = None) -> GoodnessOfFit:
        return goodness_of_fit(data, reference, ["x"], toys=30, seed=seed, checkpoint=checkpoint, progress=False)

    first = run(checkpoint=tmp_path)
    assert (run(checkpoint=tmp_path).toys == first.toys).all()
    assert (run().toys == first.toys).all()
    assert (run(seed=2).toys != first.toys).any()
    with pytest.raises(ValueError, match="checkpoint"):
        run(seed=2, checkpoint=tmp_path)


def test_weights_of_both_signs(kernel: KernelTest, reference: Events) -> None:
    # half of the events twice, and a part of those taken back: the same density
    rng = np.random.default_rng(29)
    sign = np.where(rng.random(len(reference)) < 0.2, -1.0, 1.0)
    signed = reference.with_weight(reference.weight * sign / 0.6)
    data = [NULL.data(seed=30), BULK.data(seed=31)]
    with pytest.raises(ValueError, match="null= a sample"):
        goodness_of_fit(data[0], signed, ["x"], toys=20, progress=False)
    found = [goodness_of_fit(one, signed, ["x"], null=NULL.draw, toys=40, progress=False) for one in data]
    assert found[0].p > 0.02
    assert found[1].p < 0.1
    assert stats.ks_2samp(found[0].toys, kernel(pseudo(kernel, *(NULL.data(s) for s in range(60)))).t).pvalue > 0.001


# -- the result --------------------------------------------------------------------------------------------------------


def made(found: GoodnessOfFit, **changes: Any) -> GoodnessOfFit:
    return replace(found, **changes)


def test_the_result_says_which_p_value_holds(reference: Events, tmp_path: Path) -> None:
    found = goodness_of_fit(BULK.data(seed=32), reference, ["x"], toys=40, progress=False)
    inside = made(found, t=float(np.median(found.toys)))
    assert inside.valid == "toys"
    assert inside.p == pytest.approx((inside.beyond + 1) / 41)
    far = made(found, t=60.0, compatibility=0.5)
    assert far.valid == "chi2"
    assert far.z == pytest.approx(stats.norm.isf(stats.chi2.sf(60.0, far.dof)), rel=1e-6)
    bound = made(far, compatibility=1e-4)
    assert bound.valid == "bound"
    assert bound.p == pytest.approx(1 - 0.05 ** (1 / 40))
    assert "95% bound" in repr(bound)
    assert made(far, failed=1).valid == "bound"
    assert made(far, failed=1).beyond == 1
    assert made(far, t=5000.0).z > 60  # where p is no longer a number
    found.save(tmp_path / "fit.safetensors")
    again = GoodnessOfFit.load(tmp_path / "fit.safetensors")
    assert repr(again) == repr(found)
    assert (again.toys == found.toys).all()
    assert (again.log_ratio(reference) == found.log_ratio(reference)).all()


def test_a_reference_ten_times_too_large_has_a_finite_significance(reference: Events) -> None:
    """The chi2's tail is below 1e-800."""
    found = goodness_of_fit(NULL.data(25), reference.scaled_to(20_000.0), ["x"], toys=20, progress=False)
    assert found.t > 4000
    assert found.p_chi2 == 0
    assert 50 < found.z_chi2 < np.sqrt(found.t)
    assert np.isfinite(found.z)


def test_the_figures_show_what_was_found(reference: Events) -> None:
    data = BULK.data(seed=36)
    found = goodness_of_fit(data, reference, ["x"], toys=40, progress=False)
    ax: Any = goodness_toys(found)
    assert ax.lines[-1].get_xdata()[0] == found.t
    assert f"{found.p:.2g}" in ax.get_legend().get_texts()[-1].get_text()
    edges = np.linspace(0, 0.6, 13)
    ratio: Any = goodness_ratio(found, data, reference, "x", edges)[1]
    drawn = ratio.patches[-1].get_data().values
    middle = found.log_ratio(Events({"x": (edges[1:] + edges[:-1]) / 2}))
    assert drawn == pytest.approx(np.exp(middle), abs=0.05)
    with pytest.raises(ValueError, match="bins: expected at least 2"):
        goodness_toys(found, bins=1)
    with pytest.raises(ValueError, match="reference events of positive weight in each bin"):
        goodness_ratio(found, data, reference, "x", [0.0, 1.0, 50.0, 60.0])


def test_an_exact_reference_in_bins_goes_with_toys() -> None:
    edges = np.linspace(0.0, 1.2, 121)
    middle, mean = (edges[1:] + edges[:-1]) / 2, 1e6 * -np.diff(np.exp(-8 * edges))
    exact = Events({"x": middle}, weight=mean)
    assert exact.effective_size < 1e-3 * exact.sum_weights

    def contents(rng: np.random.Generator, signal: float = 0.0) -> Events:
        n = rng.poisson(mean + signal * np.diff(stats.norm.cdf(edges, 0.3, 0.02)))
        return Events({"x": middle[n > 0]}, weight=n[n > 0])

    given: dict[str, Any] = {"null": contents, "toys": 40, "progress": False}
    rng = np.random.default_rng(1)
    found = goodness_of_fit(contents(rng), exact, ["x"], **given)
    assert 0.01 < found.p < 0.99
    assert goodness_of_fit(contents(rng, 4000.0), exact, ["x"], **given).z > 4
    with pytest.raises(ValueError, match="needs null="):
        goodness_of_fit(Events({"x": middle}), exact, ["x"], toys=40, progress=False)


# -- bad input ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("changes", "error", "message"),
    [
        ({"data": Events({"x": np.zeros(0)})}, ValueError, "data: expected events, found none"),
        ({"reference": NULL.reference(1000, seed=1)}, ValueError, "found 1000 effective events for 2000"),
        ({"features": ["y"]}, KeyError, "no column 'y'"),
        ({"data": Events({"x": [0.1, np.nan]})}, ValueError, "found 1 of 2 not finite"),
        ({"data": Events({"x": [0.1]}, weight=[2.0])}, ValueError, "data: expected events of weight 1"),
        ({"reference": NULL.reference(5000, 1).with_weight(-0.4)}, ValueError, "positive total weight"),
        ({"reference": Events({"x": np.ones(5000)}, weight=np.full(5000, 0.4))}, ValueError, "feature 0 constant"),
        ({"toys": 5}, ValueError, "toys: expected a whole number of at least 20"),
        ({"null": 3}, TypeError, "null: expected Events"),
        ({"null": lambda rng: 3}, Exception, "gives int"),
        ({"nuisances": {"a": (NULL.reference(9, 1),)}}, ValueError, "nuisance 'a': expected two references"),
        ({"features": Features(["x"], hits=["q"])}, TypeError, "found clouds"),
        ({"data": np.ones(5)}, TypeError, "data: expected Events, found ndarray"),
        ({"method": "kernel"}, TypeError, "method: expected KernelFit.* found 'kernel'"),
        ({"seed": None}, ValueError, "seed: expected a whole number from 0, found None"),
    ],
)
def test_bad_input_is_refused(changes: Mapping[str, Any], error: type[Exception], message: str) -> None:
    given = {"data": NULL.data(seed=33), "reference": NULL.reference(5000, seed=34), "features": ["x"], **changes}
    with pytest.raises(error, match=message):
        goodness_of_fit(**{"progress": False, "toys": 20, **given})


def test_bad_specs_are_refused() -> None:
    for wrong in ({"quantile": 1.0}, {"width": -1.0}, {"ridge": 0.0}, {"centres": 0}, {"loss": "hinge"}):
        with pytest.raises(ValueError, match="KernelFit: expected"):
            KernelFit(**wrong)
    with pytest.raises(ValueError, match="NetworkFit: expected a positive bound"):
        NetworkFit(bound=0.0)
    with pytest.raises(ValueError, match="NetworkFit: expected a multiple of 100 steps"):
        NetworkFit(steps=50)


def test_fits_that_fail_are_named(reference: Events, monkeypatch: pytest.MonkeyPatch) -> None:
    data = NULL.data(seed=35)
    call = KernelTest.__call__

    def failing(self: KernelTest, given: Pseudo, rng: Any = None) -> Any:
        found = call(self, given, rng)
        return (
            replace(found, t=np.where(np.arange(len(found.t)) < bad, np.nan, found.t))
            if given.counts is not None
            else found
        )

    monkeypatch.setattr(KernelTest, "__call__", failing)
    bad = 3
    found = goodness_of_fit(data, reference, ["x"], toys=30, progress=False)
    assert found.failed == 3
    assert len(found.toys) == 27
    assert found.beyond >= 3
    assert "3 failed" in repr(found)
    bad = 30
    with pytest.raises(NotConverged, match="30 of 30 toys did not converge"):
        goodness_of_fit(data, reference, ["x"], toys=30, progress=False)
    monkeypatch.setattr(
        KernelTest, "__call__", lambda self, given, rng=None: replace(call(self, given), t=np.array([np.nan]))
    )
    with pytest.raises(NotConverged, match="the fit of the data did not converge"):
        goodness_of_fit(data, reference, ["x"], toys=30, progress=False)


# -- the benchmark -----------------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_the_published_power_is_reached() -> None:
    """Median Z of the default over 12 references and 60 data sets each; the published 2.4, 2.8, 3.0 at least."""
    z: list[list[Floats]] = [[], [], []]
    every = []
    for seed in range(12):
        test = prepared(NULL.reference(200_000, seed=1000 + seed))
        toys = fitting._Toys(test, None, np.zeros(0), NULL.expected)(200, np.random.default_rng(seed))
        every.append(toys)
        dof = fitted_dof(toys)
        for own, problem in zip(z, (TAIL, BULK, BROAD), strict=True):
            t = test(pseudo(test, *(problem.data(60 * seed + k) for k in range(60)))).t
            own.append(np.asarray(stats.norm.isf(stats.chi2.sf(t, dof))))
    law = chi_square(np.concatenate(every))
    medians = [float(np.median(own)) for own in z]
    print(f"\nmedian Z {np.round(medians, 2)}, dof {law.dof:.1f}, compatibility {law.compatibility:.2f}")
    assert law.compatibility > 0.01
    assert medians[0] > 2.4
    assert medians[1] > 2.8
    assert medians[2] > 3.0
    # and no better than the test that knows the signal
    assert all(own < problem.z() for own, problem in zip(medians, (TAIL, BULK, BROAD), strict=True))
