"""Diagnostics against posteriors that are exact, and against ones that are wrong in a known way."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest
from scipy import stats

from nuinfer import Events, diagnostics, metrics
from nuinfer.diagnostics import uniform
from nuinfer.events import Ragged
from nuinfer.nets import MLP, DeepSet
from nuinfer.simulators import Gaussian, LinearGaussian
from nuinfer.train import Training

PROBLEM = LinearGaussian()
NAMES = ("theta0", "theta1")


@dataclass(frozen=True)
class Wrong:
    """The exact posterior, its width times ``scale``, moved by ``shift`` standard deviations; or the prior."""

    scale: float = 1.0
    shift: float = 0.0
    only_prior: bool = False
    problem: LinearGaussian = PROBLEM

    @property
    def names(self) -> tuple[str, ...]:
        return tuple(f"theta{i}" for i in range(self.problem.prior.dim))

    @property
    def prior(self) -> Any:
        @dataclass(frozen=True)
        class Prior:
            density: Gaussian

            def log_prob(self, theta: Any) -> Any:
                return self.density.log_density(theta)

        return Prior(self.problem.prior)

    def moments(self, observations: Events) -> tuple[Any, Any]:
        mean, covariance = self.problem.posterior(observations)
        if self.only_prior:
            return np.zeros_like(mean), self.problem.prior.covariance
        return mean + self.shift * np.sqrt(np.diag(covariance)), self.scale**2 * covariance

    def draws(self, n: int, observations: Events, *, seed: int = 0) -> Any:
        mean, covariance = self.moments(observations)
        noise = np.random.default_rng([seed, 99]).normal(size=(len(mean), n, mean.shape[1]))
        return mean[:, None] + noise @ np.linalg.cholesky(covariance).T

    def log_probs(self, theta: Any, observations: Events) -> Any:
        mean, covariance = self.moments(observations)
        density = stats.multivariate_normal(np.zeros(mean.shape[1]), covariance)
        return np.atleast_1d(density.logpdf(theta - mean[:, None])).reshape(theta.shape[:2])


EXACT = Wrong()
NARROW, WIDE, SHIFTED, PRIOR = Wrong(0.7), Wrong(1.4), Wrong(shift=0.5), Wrong(only_prior=True)


def simulations(n: int = 1000, seed: int = 1) -> Events:
    return PROBLEM.simulate(n, seed=seed)


# -- the tests of uniform ranks ----------------------------------------------------------------------------------------


def test_bands_hold_uniform_ranks_as_often_as_they_say() -> None:
    rng = np.random.default_rng(1)
    found = [uniform.band(rng.integers(0, 100, 200), 99, np.ones(200), 0.9) for _ in range(300)]
    outside = sum(bool(((b.value < b.low - 1e-12) | (b.value > b.high + 1e-12)).any()) for b in found)
    assert abs(outside - 30) < 4 * np.sqrt(300 * 0.1 * 0.9) + 3  # + 3: counts are discrete
    assert stats.kstest([b.p_value for b in found], "uniform").pvalue > 1e-4
    # pointwise intervals of the same level, in the place of the band, leave it far more often
    low, high = (stats.binom.ppf(q, 200, found[0].at) / 200 for q in (0.05, 0.95))
    assert sum(bool(((b.value < low) | (b.value > high)).any()) for b in found) > 100


def test_bands_of_weighted_ranks() -> None:
    """Ranks drawn from a slope, with the weights that undo it: uniform; without the weights they are not."""
    rng = np.random.default_rng(2)
    p_values, chi2 = [], []
    for _ in range(100):
        u = rng.beta(2, 1, 600)
        u = np.concatenate([u[:300], rng.random(300)])  # half of them even, so that weights are bounded
        ranks = (100 * u).astype(np.int64)
        weight = 1 / (u + 0.5)
        p_values.append(uniform.band(ranks, 99, weight, 0.95).p_value)
        chi2.append(uniform.chi2_p(ranks, 99, weight))
    for p in (p_values, chi2):
        assert stats.kstest(p, "uniform").pvalue > 1e-4
    assert uniform.band(ranks, 99, np.ones(600), 0.95).p_value < 0.01


def test_pulls_from_ranks() -> None:
    rng = np.random.default_rng(3)
    for mean, width in ((0.0, 1.0), (0.5, 1.0), (0.0, 1.4), (-0.3, 0.7)):
        share = stats.norm.cdf(mean + width * rng.normal(size=20000))
        for draws in (9, 99):  # without bias from few draws
            found = uniform.pull(rng.binomial(draws, share), draws, np.ones(20000))
            assert abs(found.mean - mean) < 4 * found.mean_error < 0.1
            assert abs(found.width - width) < 4 * found.width_error < 0.15


# -- simulation-based calibration --------------------------------------------------------------------------------------


def test_sbc_of_the_exact_posterior_over_seeds() -> None:
    found = [diagnostics.sbc(EXACT, simulations(300, seed), seed=seed) for seed in range(60)]
    for part in ("chi2_p_values", "ecdf_p_values"):
        p = np.array([getattr(sbc, part) for sbc in found])
        assert p.shape == (60, 3)
        for column in p.T:
            assert stats.kstest(column, "uniform").pvalue > 1e-4
    pulls = np.array([(q.mean / q.mean_error, (q.width - 1) / q.width_error) for s in found for q in s.pulls[:2]])
    assert abs(pulls.mean()) < 0.4
    assert abs(pulls.std() - 1) < 0.25


def test_sbc_says_what_is_wrong() -> None:
    right = diagnostics.sbc(EXACT, simulations())
    assert right.names == (*NAMES, "log q")
    assert right.ranks.shape == (3, 1000)
    assert right.p_value > 0.01
    assert "ranks are uniform" in str(right)
    for wrong, words in ((NARROW, "too narrow"), (WIDE, "too wide"), (SHIFTED, "too high")):
        found = diagnostics.sbc(wrong, simulations())
        assert found.p_value < 1e-3
        assert "theta0: p" in str(found)
        assert words in str(found)
    pull = diagnostics.sbc(NARROW, simulations()).pulls[0]
    assert abs(pull.width - 1 / 0.7) < 4 * pull.width_error


def test_sbc_passes_the_prior_unless_a_quantity_depends_on_the_data() -> None:
    def likelihood(theta: Any, observations: Events) -> Any:
        x = np.stack([observations.flat(name) for name in observations.columns], 1)
        return PROBLEM.log_likelihood(x[:, None], theta)

    assert diagnostics.sbc(PRIOR, simulations()).p_value > 0.01
    assert diagnostics.sbc(PRIOR, simulations(), quantities={"log L": likelihood}).p_value < 1e-6
    assert diagnostics.sbc(EXACT, simulations(), quantities={"log L": likelihood}).p_value > 0.01


def test_weights_of_a_proposal_are_honoured() -> None:
    """theta from N(0.5, 1.2^2) with the weights that lead to the prior."""
    proposal = LinearGaussian(prior=Gaussian([0.5, 0.5], 1.44))
    events = proposal.simulate(4000, seed=4)
    theta = np.stack([events.flat(name) for name in NAMES], 1)
    weighted = events.with_weight(np.exp(PROBLEM.prior.log_density(theta) - proposal.prior.log_density(theta)))
    assert diagnostics.sbc(EXACT, weighted).p_value > 0.01
    assert diagnostics.sbc(EXACT, events).p_value < 0.01  # without the weights
    assert diagnostics.sbc(NARROW, weighted).p_value < 0.01
    found = diagnostics.coverage(EXACT, weighted, draws=99)
    assert (np.abs(found.observed - found.levels) < 4 * found.error).all()
    assert found.p_value > 0.01
    assert diagnostics.tarp(EXACT, weighted).p_value > 0.01


def test_signed_weights_that_cancel_are_absent() -> None:
    """Simulations of another model with weights +1, and as many others of it with -1."""

    def moved(seed: int) -> Events:
        events = simulations(1000, seed)
        return events.with_columns(theta0=events.flat("theta0") + 0.5)

    good, more = simulations(3000, seed=22), moved(23)
    both = Events.concat([good, more, moved(24).with_weight(-1.0)])
    assert diagnostics.sbc(EXACT, both).p_value > 0.01
    assert diagnostics.tarp(EXACT, both).p_value > 0.01
    assert diagnostics.sbc(EXACT, Events.concat([good, more])).p_value < 0.01


def test_bad_simulations_are_refused() -> None:
    events = simulations(50)
    with pytest.raises(KeyError, match="no parameter column 'theta1'"):
        diagnostics.sbc(EXACT, events.keep(["theta0", "x0"]))
    with pytest.raises(ValueError, match="expected columns of observations"):
        diagnostics.sbc(EXACT, events.keep(NAMES))
    with pytest.raises(ValueError, match="simulations: column 'theta0': expected finite"):
        diagnostics.sbc(EXACT, events.with_columns(theta0=np.full(50, np.nan)))
    with pytest.raises(ValueError, match="positive total weight"):
        diagnostics.sbc(EXACT, events.with_weight(-1.0))
    with pytest.raises(ValueError, match="quantity 'q': expected one number"):
        diagnostics.sbc(EXACT, events, quantities={"q": lambda theta, x: theta})
    with pytest.raises(ValueError, match="divisor of draws"):
        diagnostics.sbc(EXACT, events, draws=100)
    with pytest.raises(KeyError, match="expected one of theta0, theta1, log q, found 'mu'"):
        diagnostics.sbc(EXACT, events).ecdf("mu")

    class Short(Wrong):
        def draws(self, n: int, observations: Events, *, seed: int = 0) -> Any:
            return super().draws(n, observations, seed=seed)[:, 1:]

    with pytest.raises(ValueError, match=r"posterior.draws: expected shape \(50, 99, 2\)"):
        diagnostics.sbc(Short(), events)


# -- coverage ----------------------------------------------------------------------------------------------------------


def test_coverage_of_exact_and_wrong_posteriors() -> None:
    """With a width times s, the region of content c of two parameters covers 1 - (1 - c)^(s^2)."""
    events = simulations(4000, seed=5)
    for posterior in (EXACT, NARROW, WIDE):
        found = diagnostics.coverage(posterior, events)
        expected = 1 - (1 - found.levels) ** posterior.scale**2
        assert (np.abs(found.observed - expected) < 4 * found.error + 0.004).all()  # + bias of 199 draws
        central = 2 * stats.norm.cdf(posterior.scale * stats.norm.ppf((1 + found.levels) / 2)) - 1
        assert (np.abs(found.central - central) < 4 * found.central_error + 0.004).all()
        assert found.central.shape == (2, 10)
        assert (found.p_value > 0.01) == (posterior is EXACT)
    assert "too high: under-confident" in str(found)
    assert "too low: over-confident" in str(diagnostics.coverage(NARROW, events))
    assert diagnostics.coverage(PRIOR, events).p_value > 0.01  # which the prior passes


def test_coverage_is_unbiased_for_any_number_of_draws() -> None:
    events = simulations(4000, seed=6)
    found = diagnostics.coverage(EXACT, events, draws=9, levels=[0.33, 0.68, 0.95])
    assert (np.abs(found.observed - found.levels) < 4 * found.error).all()


def test_local_coverage_sees_what_the_average_hides() -> None:
    """A posterior too narrow where x0 > 0 and too wide elsewhere covers on average."""

    class Mixed(Wrong):
        def draws(self, n: int, observations: Events, *, seed: int = 0) -> Any:
            mean, _ = self.moments(observations)
            return mean[:, None] + self._scale(observations) * (
                super().draws(n, observations, seed=seed) - mean[:, None]
            )

        def log_probs(self, theta: Any, observations: Events) -> Any:
            mean, _ = self.moments(observations)
            return super().log_probs(mean[:, None] + (theta - mean[:, None]) / self._scale(observations), observations)

        def _scale(self, observations: Events) -> Any:
            return np.where(observations.flat("x0") > 0, 0.8, 1.3)[:, None, None]

    found = diagnostics.coverage(Mixed(), simulations(4000, seed=7), by="x0", regions=2, levels=[0.68])
    low, high = found.regions
    assert low.observed[0] > 0.68 + 5 * low.error[0]
    assert high.observed[0] < 0.68 - 5 * high.error[0]
    assert abs(found.observed[0] - 0.68) < abs(high.observed[0] - 0.68) / 2
    assert low.high <= high.low
    assert low.size == pytest.approx(2000, abs=2)
    exact = diagnostics.coverage(EXACT, simulations(4000, seed=7), by="x0", regions=4)
    assert all((np.abs(part.observed - exact.levels) < 4.5 * part.error).all() for part in exact.regions)
    assert "x0 in [" in str(exact)


def test_errors_where_all_or_none_are_covered() -> None:
    """Not 0, but those of a binomial number of few simulations."""
    for seed in range(20):
        found = diagnostics.coverage(EXACT, simulations(12, seed), levels=[0.05, 0.95], by="x0", regions=2)
        for value, error, n in ((found.observed, found.error, 12), (found.central, found.central_error, 12),
                                *((part.observed, part.error, part.size) for part in found.regions)):  # fmt: skip
            share = np.clip(value, 0, 1)
            least = np.sqrt((n * share + 1) * (n * (1 - share) + 1) / n) / (n + 2)
            assert (error >= least * (1 - 1e-9)).all()
        assert (np.abs(found.observed - found.levels) < 4 * found.error).all()


def test_few_simulations_decide_nothing() -> None:
    few = simulations(30)
    for test in (diagnostics.sbc, diagnostics.coverage, diagnostics.tarp):
        found: Any = test(EXACT, few)
        assert found.p_value > 0.01
        assert "too few simulations to decide, 50 are the least" in str(found)
        gross: Any = test(Wrong(shift=8.0), few)  # which is seen nevertheless
        assert "too few" not in str(gross)
        assert "too few" not in str(test(EXACT, simulations(60)))
    assert "too few simulations" in str(diagnostics.coverage(Wrong(shift=8.0), simulations(5)))
    with pytest.raises(ValueError, match="simulations: expected at least 20, from which reference points are chosen"):
        diagnostics.tarp(EXACT, simulations(5))


def test_bad_levels_are_refused() -> None:
    with pytest.raises(ValueError, match="levels: expected contents between 0 and 1"):
        diagnostics.coverage(EXACT, simulations(50), levels=[68])
    with pytest.raises(KeyError, match="no column 'y'"):
        diagnostics.coverage(EXACT, simulations(50), by="y")


# -- TARP --------------------------------------------------------------------------------------------------------------


def test_tarp_over_seeds() -> None:
    p = [diagnostics.tarp(EXACT, simulations(300, seed), seed=seed).p_value for seed in range(60)]
    assert stats.kstest(p, "uniform").pvalue > 1e-4


def test_tarp_catches_the_prior_by_references_that_depend_on_x() -> None:
    events = simulations()
    right = diagnostics.tarp(EXACT, events)
    assert right.p_value > 0.01
    assert "on the diagonal" in str(right)
    assert (np.abs(right.coverage - right.levels) < 4.5 * right.error + 1e-9).all()
    for wrong in (PRIOR, NARROW, WIDE, SHIFTED):
        assert diagnostics.tarp(wrong, events).p_value < 0.01
    assert diagnostics.tarp(PRIOR, events).p_value < 1e-3
    even = np.random.default_rng(1).normal(size=(1000, 2))
    assert diagnostics.tarp(PRIOR, events, references=even).p_value > 0.01  # do not depend on x: blind
    tied = diagnostics.tarp(PRIOR, events, references=lambda x: np.stack([x.flat("x0"), x.flat("x1")], 1))
    assert tied.p_value < 1e-3  # the smallest that there is
    assert diagnostics.tarp(NARROW, events).area < -0.005 < diagnostics.tarp(WIDE, events).area


def test_tarp_sees_the_prior_where_the_mean_says_nothing() -> None:
    """x = theta^2 + noise: E[theta | x] = 0 at each x, and the posterior has two modes."""
    rng = np.random.default_rng(8)
    theta = rng.normal(size=3000)
    events = Events({"theta0": theta, "x": theta**2 + 0.05 * rng.normal(size=3000)})

    class Root(Wrong):
        names = ("theta0",)  # type: ignore[assignment]

        def draws(self, n: int, observations: Events, *, seed: int = 0) -> Any:
            """By rejection from the prior on a grid."""
            grid = np.linspace(-4, 4, 4001)
            log = -0.5 * grid**2 - 0.5 * ((observations.flat("x")[:, None] - grid**2) / 0.05) ** 2
            total = np.cumsum(np.exp(log - log.max(1, keepdims=True)), 1)
            u = np.random.default_rng(seed).random((len(total), n))
            found = [grid[np.searchsorted(t / t[-1], v)] for t, v in zip(total, u, strict=True)]
            return np.array(found)[..., None] + 0.002 * (
                np.random.default_rng(seed + 1).random((len(total), n, 1)) - 0.5
            )

    class Flat(Root):
        def draws(self, n: int, observations: Events, *, seed: int = 0) -> Any:
            return np.random.default_rng(seed).normal(size=(len(observations), n, 1))

    assert diagnostics.tarp(Root(), events).p_value > 0.01
    assert diagnostics.tarp(Flat(), events).p_value < 1e-3


def test_bad_references_are_refused() -> None:
    with pytest.raises(ValueError, match=r"references: expected points of shape \(50, 2\), found \(50,\)"):
        diagnostics.tarp(EXACT, simulations(50), references=np.zeros(50))


# -- L-C2ST ------------------------------------------------------------------------------------------------------------

LONGER = Training(epochs=15, batch=64, learning_rate=1e-2)
BRIEF = Training(epochs=5, batch=64, learning_rate=1e-2)
QUICK: dict[str, Any] = {"permutations": 19, "draws": 200}


def test_lc2st_catches_what_is_wrong_at_one_observation() -> None:
    events, observed = simulations(1000, seed=9), simulations(2, seed=10).keep(["x0", "x1", "x2"])
    right = diagnostics.lc2st(EXACT, events, observed, **QUICK)
    assert right.statistic.shape == (2,)
    assert right.null.shape == (2, 19)
    assert (right.p_value > 0.05).all()
    assert "no sign" in str(right)
    for wrong in (PRIOR, SHIFTED, NARROW):
        assert (diagnostics.lc2st(wrong, events, observed, **QUICK).p_value == 0.05).any(), wrong
    assert (diagnostics.lc2st(PRIOR, events, observed, **QUICK).p_value == 0.05).all()


def test_lc2st_null_is_uniform_over_seeds() -> None:
    ranks = []
    for seed in range(30):
        events, observed = simulations(150, seed), simulations(1, seed + 500)
        found = diagnostics.lc2st(EXACT, events, observed, permutations=19, draws=100, seed=seed, training=BRIEF)
        ranks.append(round(20 * float(found.p_value[0])) - 1)
    assert metrics.rank_uniformity(np.array(ranks), 19, bins=4) > 1e-4


def clouds(n: int, seed: int) -> Events:
    """theta ~ N(0, 1), a flat column x0 and 10 entries each of N(theta, 1): the posterior is known."""
    rng = np.random.default_rng(seed)
    theta = rng.normal(size=n)
    entries = theta[:, None] + rng.normal(size=(n, 10))
    hits = Ragged(entries.ravel(), np.arange(n + 1) * 10)
    return Events({"theta0": theta, "x0": theta + rng.normal(size=n), "hits.y": hits})


@dataclass(frozen=True)
class CloudPosterior:
    use_hits: bool = True
    names: tuple[str, ...] = ("theta0",)

    def draws(self, n: int, observations: Events, *, seed: int = 0) -> Any:
        y = observations.ragged("hits.y").values.reshape(-1, 10)
        total, size = (y.sum(1), 10) if self.use_hits else (0.0, 0)
        mean, sd = (observations.flat("x0") + total) / (2 + size), (2 + size) ** -0.5
        return mean[:, None, None] + sd * np.random.default_rng(seed).normal(size=(len(y), n, 1))

    def log_probs(self, theta: Any, observations: Events) -> Any:
        return np.zeros(theta.shape[:2])


def test_flat_and_ragged_observations() -> None:
    events, observed = clouds(400, 11), clouds(1, 12)
    for posterior, wrong in ((CloudPosterior(), False), (CloudPosterior(False), True)):
        assert (diagnostics.tarp(posterior, events).p_value < 0.01) == wrong
        small = DeepSet(width=16, latent=8, head=MLP(width=16, depth=1))
        found = diagnostics.lc2st(posterior, events, observed, network=small, training=LONGER, **QUICK)
        assert (found.p_value[0] == 0.05) == wrong
    with pytest.raises(ValueError, match="permutations: expected at least 19"):
        diagnostics.lc2st(CloudPosterior(), events, observed, permutations=5)
    with pytest.raises(ValueError, match=r"expected ragged columns named CLOUD\.FIELD"):
        diagnostics.lc2st(CloudPosterior(), Events({"theta0": [0.0, 1.0], "q": Ragged.of([[1.0], [2.0]])}), observed)


# -- C2ST --------------------------------------------------------------------------------------------------------------


def test_c2st_of_shifted_gaussians_is_the_exact_one() -> None:
    rng = np.random.default_rng(13)
    for delta in (0.0, 1.0, 3.0):
        first, second = rng.normal(size=(500, 2)), rng.normal([delta, 0.0], 1.0, (500, 2))
        found = diagnostics.c2st(first, second)
        exact = stats.norm.cdf(delta / 2)
        assert abs(found.value - exact) < 4 * np.sqrt(exact * (1 - exact) / 1000) + 0.01  # + what over-training costs
        assert found.null_sd == pytest.approx(0.5 / np.sqrt(1000), rel=0.05) or delta > 0


def test_c2st_is_invariant_under_a_change_of_scale_and_sees_shapes() -> None:
    rng = np.random.default_rng(14)
    first = rng.normal(size=(1000, 2))
    second = rng.normal(size=(1000, 2)) * np.array([1.0, 0.3])
    found = diagnostics.c2st(first, second).value
    assert found > 0.68  # exact: 0.744; a linear classifier gives 0.5
    assert diagnostics.c2st(1e4 * first + 7, 1e4 * second + 7).value == pytest.approx(found, abs=0.02)


def test_c2st_agrees_with_scikit_learn() -> None:
    """The definition of sbibm: MLPClassifier in five folds, z-scored by the first sample."""
    from sklearn.model_selection import KFold, cross_val_score
    from sklearn.neural_network import MLPClassifier

    rng = np.random.default_rng(25)
    first = rng.normal(size=(500, 2))
    second = rng.normal(size=(500, 2)) @ np.array([[1.0, 0.8], [0.0, 0.6]])  # correlated: equal mean and widths
    scaled = (np.concatenate([first, second]) - first.mean(0)) / first.std(0, ddof=1)
    classifier = MLPClassifier(hidden_layer_sizes=(20, 20), max_iter=10_000, random_state=1)
    folds = KFold(5, shuffle=True, random_state=1)
    reference = cross_val_score(classifier, scaled, np.repeat([0, 1], 500), cv=folds).mean()
    assert reference > 0.6
    # both see the same points: their difference is a part of the sampling error of either, 0.016
    assert abs(diagnostics.c2st(first, second).value - reference) < 0.032


def test_c2st_refuses() -> None:
    good = np.random.default_rng(1).normal(size=(100, 2))
    with pytest.raises(ValueError, match=r"expected samples \(N1, D\) and \(N2, D\), found \(100, 2\) and \(100, 1\)"):
        diagnostics.c2st(good, good[:, :1])
    with pytest.raises(ValueError, match="column 1 of the first sample constant"):
        diagnostics.c2st(good * [1, 0], good)
    with pytest.raises(ValueError, match="second sample: expected finite"):
        diagnostics.c2st(good, np.where(good > 0, np.nan, good))
    with pytest.raises(ValueError, match="twice as many points as folds"):
        diagnostics.c2st(good[:5], good)


# -- predictive checks -------------------------------------------------------------------------------------------------


def simulate(theta: Any, rng: np.random.Generator) -> dict[str, Any]:
    x = PROBLEM.predict(theta) + 0.5 * rng.normal(size=(len(theta), 3))
    return {f"x{i}": column for i, column in enumerate(x.T)}


def test_predictive_check_of_a_model_that_fits_and_of_one_that_does_not() -> None:
    good = simulations(1, seed=15).keep(["x0", "x1", "x2"])
    found = diagnostics.predictive(EXACT, good, simulate)
    assert found.names == ("x0", "x1", "x2")
    assert found.replicas.shape == (1000, 3)
    assert found.p_value > 0.01
    assert (found.p_values > 0.01).all()
    assert "is like its replicas" in str(found)
    # three numbers from two parameters: this combination is nobody's prediction
    bad = Events({"x0": [0.0], "x1": [0.0], "x2": [5.0]})
    assert diagnostics.predictive(EXACT, bad, simulate).p_value < 0.01
    own = diagnostics.predictive(EXACT, bad, simulate, statistics={"sum": lambda e: e.flat("x0") + e.flat("x2")})
    assert own.names == ("sum",)
    assert own.p_values[0] < 0.2


def test_predictive_p_values_are_uniform_where_theta_is_not_fitted() -> None:
    """The prior predictive distribution: an observation from it has the p-values of a rank."""
    p = []
    for seed in range(200):
        observation = simulations(1, seed=seed).keep(["x0", "x1", "x2"])
        found = diagnostics.predictive(PRIOR, observation, simulate, draws=99, seed=seed)
        p.append([*found.p_values, found.p_value])
    for column in np.array(p).T:
        assert stats.kstest(column - 0.005, "uniform").pvalue > 1e-4


def test_weights_of_replicas_count() -> None:
    """Replicas of N(0, 2^2) with the weights that make them N(0, 1): 2 has a p-value of 0.0455, not 0.32."""

    def wide(theta: Any, rng: np.random.Generator) -> Events:
        x = 2 * rng.normal(size=len(theta))
        return Events({"x": x}, weight=7 * np.exp(-0.375 * x**2))

    def heavy(theta: Any, rng: np.random.Generator) -> Events:
        return wide(theta, rng).with_weight(1.0)

    observed = Events({"x": [2.0], "x0": [0.0], "x1": [0.0], "x2": [0.0]})
    only: dict[str, Any] = {"statistics": {"x": lambda e: e.flat("x")}, "draws": 20_000}
    found = diagnostics.predictive(EXACT, observed, wide, **only)
    exact, size = 2 * stats.norm.sf(2), float(metrics.effective_size(found.weight))
    assert abs(found.p_values[0] - exact) < 4 * np.sqrt(2 * exact / size)
    assert abs(found.p_value - exact) < 4 * np.sqrt(2 * exact / size)
    assert abs(diagnostics.predictive(EXACT, observed, heavy, **only).p_values[0] - 2 * stats.norm.sf(1)) < 0.02
    assert f"{size:.0f} effective replicas" in str(found)
    assert "expected" in str(found)
    assert abs(float(str(found).split(" +- ")[1].split(",")[0]) - 1) < 0.05  # the width of N(0, 1)
    far = diagnostics.predictive(EXACT, observed.with_columns(x=[50.0]), wide, **only)
    assert far.p_values[0] == pytest.approx(2 / (1 + size))  # no more than as many replicas can say
    with pytest.raises(ValueError, match="simulator: expected rows of a positive total weight, found -7"):
        diagnostics.predictive(EXACT, observed, lambda t, rng: wide(t, rng).with_weight(-7 / len(t)), **only)


def test_p_values_of_weighted_and_signed_replicas() -> None:
    """An observation of N(0, 1)^2 among weighted replicas of N(0, 1.5^2)^2, and among others that cancel."""

    def proposed(theta: Any, rng: np.random.Generator) -> Events:
        x = 1.5 * rng.normal(size=(len(theta), 2))
        return Events({"x": x[:, 0], "y": x[:, 1]}, weight=np.exp(-0.5 * (1 - 1 / 2.25) * (x**2).sum(1)))

    def signed(theta: Any, rng: np.random.Generator) -> Events:
        x, sign = rng.normal(size=(len(theta), 2)), np.ones(len(theta))
        x[: len(x) // 2] += 3
        sign[: len(x) // 4] = -1.0  # half of the moved ones, which undo the other half
        return Events({"x": x[:, 0], "y": x[:, 1]}, weight=sign)

    statistics = {name: (lambda e, name=name: e.flat(name)) for name in ("x", "y")}
    even, rng = stats.norm.ppf((np.arange(150) + 0.5) / 150), np.random.default_rng(3)
    pairs = np.stack([rng.permutation(even), rng.permutation(even)], 1)
    for simulator in (proposed, signed):
        p = []
        for seed, (x, y) in enumerate(pairs):
            observed = Events({"x": [x], "y": [y], "x0": [0.0], "x1": [0.0], "x2": [0.0]})
            found = diagnostics.predictive(PRIOR, observed, simulator, statistics=statistics, draws=400, seed=seed)
            p.append([*found.p_values, found.p_value])
        for column in np.array(p).T:
            assert stats.kstest(column, "uniform").pvalue > 1e-3


def test_predictive_check_of_clouds_and_bad_simulators() -> None:
    observed = clouds(1, 16)
    found = diagnostics.predictive(
        CloudPosterior(), observed, lambda theta, rng: clouds(len(theta), 17).keep(["x0", "hits.y"]), draws=50
    )
    assert found.names == ("x0", "number of hits", "mean of hits.y", "spread of hits.y")
    with pytest.raises(ValueError, match="simulator: expected 50 rows"):
        diagnostics.predictive(CloudPosterior(), observed, lambda theta, rng: clouds(3, 1), draws=50)
    with pytest.raises(KeyError, match="expected the columns of the observation, found none named x0, x1, x2"):
        diagnostics.predictive(EXACT, simulations(1), lambda theta, rng: {"y": theta[:, 0]})
    with pytest.raises(ValueError, match="expected one row, found 2"):
        diagnostics.predictive(EXACT, simulations(2), simulate)
    with pytest.raises(ValueError, match="statistic 's': expected one number"):
        diagnostics.predictive(EXACT, simulations(1), simulate, statistics={"s": lambda e: 1.0})
    with pytest.raises(
        ValueError, match=r"statistic 's': .* found an array of shape \(1, 3\); of several numbers a row"
    ):
        diagnostics.predictive(EXACT, simulations(1), simulate, statistics={"s": lambda e: np.zeros((len(e), 3))})
    with pytest.raises(ValueError, match="statistic 's': expected one number for each of 1 rows, found Ragged"):
        diagnostics.predictive(CloudPosterior(), observed, lambda theta, rng: clouds(len(theta), 17), draws=50,
                               statistics={"s": lambda e: e.ragged("hits.y")})  # fmt: skip


# -- importance weights ------------------------------------------------------------------------------------------------


def test_importance_weights_and_the_evidence() -> None:
    observed = simulations(1, seed=18).keep(["x0", "x1", "x2"])
    x = np.array([[observed.flat(name)[0] for name in observed.columns]])
    exact = float(PROBLEM.marginal.log_density(x)[0])

    def likelihood(theta: Any) -> Any:
        return PROBLEM.log_likelihood(x, theta)

    right = diagnostics.importance(EXACT, observed, likelihood)
    assert right.efficiency == pytest.approx(1)
    assert right.log_evidence == pytest.approx(exact, abs=1e-6)
    mean, covariance = PROBLEM.posterior(x)
    for posterior, usable in ((WIDE, True), (SHIFTED, True), (NARROW, False)):
        found = diagnostics.importance(posterior, observed, likelihood)
        assert found.efficiency < 0.9
        assert (found.pareto_k < 0.5) == usable
        if usable:
            assert abs(found.log_evidence - exact) < 4 * found.log_evidence_error < 0.2
            weighted = metrics.weighted_mean(found.theta, found.weights)
            error = np.sqrt(np.diag(covariance) / found.effective_size)
            assert (np.abs(weighted - mean[0]) < 5 * error).all()
            drawn = found.resampled(5000, seed=1)
            assert abs(drawn.flat("theta0").mean() - mean[0, 0]) < 5 * error[0] + 4 * np.sqrt(covariance[0, 0] / 5000)
    assert "carry all the weight" in str(diagnostics.importance(Wrong(0.3), observed, likelihood))
    assert found.events().sum_weights == pytest.approx(1)


def test_pareto_shapes_of_exact_tails() -> None:
    rng = np.random.default_rng(19)
    for k in (0.2, 0.5, 0.9):
        found = [diagnostics.pareto_k(np.log(stats.genpareto(k).rvs(20000, random_state=rng))) for _ in range(20)]
        # 425 in the tail: the maximum-likelihood error is (1 + k)/sqrt(425); drawn towards 1/2 by 10 of 435
        assert abs(np.mean(found) - k - (0.5 - k) * 10 / 435) < 4 * (1 + k) / np.sqrt(425 * 20) + 0.02
    assert diagnostics.pareto_k(np.zeros(100)) == -np.inf
    with pytest.raises(ValueError, match="expected at least 25"):
        diagnostics.pareto_k(np.zeros(10))


def test_bad_likelihoods_are_refused() -> None:
    observed = simulations(1)
    with pytest.raises(ValueError, match=r"log_likelihood: expected shape \(10000,\)"):
        diagnostics.importance(EXACT, observed, lambda theta: theta)
    with pytest.raises(ValueError, match="finite somewhere, found 10000 of 10000 NaN"):
        diagnostics.importance(EXACT, observed, lambda theta: np.full(len(theta), np.nan))
    with pytest.raises(ValueError, match="expected one row"):
        diagnostics.importance(EXACT, simulations(2), lambda theta: np.zeros(len(theta)))
    without: Any = CloudPosterior()
    with pytest.raises(TypeError, match=r"expected one with a prior .* found CloudPosterior without"):
        diagnostics.importance(without, clouds(1, 1), lambda theta: np.zeros(len(theta)))


# -- outliers ----------------------------------------------------------------------------------------------------------


def test_conformal_p_values_are_uniform_for_any_distribution() -> None:
    rng = np.random.default_rng(20)
    made = rng.standard_t(3, size=(200, 400, 4)) ** 3  # long tails, far from Gaussian
    found = [diagnostics.out_of_distribution(m[1:], m[0], seed=i) for i, m in enumerate(made)]
    for part in ("distance_p_value", "neighbour_p_value"):
        p = np.array([getattr(f, part)[0] for f in found])
        assert stats.kstest(p, "uniform").pvalue > 1e-4
    assert np.mean([f.p_value[0] < 0.1 for f in found]) < 0.1 + 4 * np.sqrt(0.09 / 200)


def test_outliers_outside_and_in_a_hole() -> None:
    rng = np.random.default_rng(21)
    angle = rng.uniform(0, 2 * np.pi, 2000)
    ring = np.stack([np.cos(angle), np.sin(angle)], 1) + 0.05 * rng.normal(size=(2000, 2))
    found = diagnostics.out_of_distribution(ring, [[1.0, 0.0], [3.0, 0.0], [0.0, 0.0]])
    assert (found.p_value < 0.01).tolist() == [False, True, True]
    assert found.distance_p_value[2] > 0.9  # the middle of the ring is not far from its mean
    assert found.simulations == 1000
    assert "NOT like the simulations" in str(found)


def test_bad_summaries_are_refused() -> None:
    good = np.random.default_rng(1).normal(size=(100, 2))
    with pytest.raises(ValueError, match=r"expected \(N, S\) of simulations and \(M, S\)"):
        diagnostics.out_of_distribution(good, [1.0, 2.0, 3.0])
    with pytest.raises(ValueError, match="at least 40 simulations, found 5 of 20"):
        diagnostics.out_of_distribution(good[:20], good)
    with pytest.raises(ValueError, match="summaries of the observations: expected finite"):
        diagnostics.out_of_distribution(good, [[np.nan, 0.0]])
    with pytest.raises(ValueError, match="expected at least one that varies, found all 2 constant"):
        diagnostics.out_of_distribution(np.ones((100, 2)), [[1.0, 2.0]])
    assert diagnostics.out_of_distribution(good * [1, 0], [[0.0, 0.0]]).p_value[0] > 0.01  # one that does not
