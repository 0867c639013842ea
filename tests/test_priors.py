"""Priors: densities against scipy's, draws against their exact moments, and the refusals."""

from __future__ import annotations

import dataclasses
import json
import math
import pickle

import numpy as np
import pytest
import torch
from scipy import stats
from torch import distributions as td

from nuinfer.posterior.priors import Prior, Truncated

# a distribution of one number, and the same by scipy
ONE = {
    "uniform": (td.Uniform(-1.0, 3.0), stats.uniform(-1, 4)),
    "normal": (td.Normal(0.5, 2.0), stats.norm(0.5, 2)),
    "lognormal": (td.LogNormal(0.25, 0.5), stats.lognorm(0.5, scale=np.exp(0.25))),
    "halfnormal": (td.HalfNormal(2.0), stats.halfnorm(scale=2)),
    "exponential": (td.Exponential(2.0), stats.expon(scale=0.5)),
    "gamma": (td.Gamma(2.5, 2.0), stats.gamma(2.5, scale=0.5)),
    "beta": (td.Beta(2.0, 3.0), stats.beta(2, 3)),
    "cauchy": (td.Cauchy(1.0, 2.0), stats.cauchy(1, 2)),
    "halfcauchy": (td.HalfCauchy(2.0), stats.halfcauchy(scale=2)),
    "laplace": (td.Laplace(1.0, 2.0), stats.laplace(1, 2)),
    "studentt": (td.StudentT(3.0, 1.0, 2.0), stats.t(3, 1, 2)),
    "weibull": (td.Weibull(2.0, 1.5), stats.weibull_min(1.5, scale=2)),
    "gumbel": (td.Gumbel(1.0, 2.0), stats.gumbel_r(1, 2)),
    "pareto": (td.Pareto(2.0, 3.0), stats.pareto(3, scale=2)),
    "inversegamma": (td.InverseGamma(3.0, 2.0), stats.invgamma(3, scale=2)),
    "shifted": (
        td.TransformedDistribution(td.Uniform(0.0, 1.0), [td.AffineTransform(1.0, -2.0)]),
        stats.uniform(-1, 2),
    ),
}


@pytest.fixture(params=ONE)
def one(request):
    distribution, exact = ONE[request.param]
    return Prior.of({"a": distribution}), exact


@pytest.fixture(scope="module")
def covariance():
    return np.array([[1.0, 0.6], [0.6, 2.0]])


# -- densities and draws -----------------------------------------------------------------------------------------------


def test_the_density_is_scipys(one):
    prior, exact = one
    x = exact.ppf(np.linspace(0.01, 0.99, 9))
    np.testing.assert_allclose(prior.log_prob(x[:, None]), exact.logpdf(x), rtol=0, atol=1e-11)


def test_draws_follow_the_density(one):
    # Kolmogorov and Smirnov's p on 4,000 draws; 15 cases at a fixed seed: p > 1e-4 fails a right one in 1 of 700 seeds
    prior, exact = one
    draws = prior.sample(4000, seed=1)
    assert draws.shape == (4000, 1)
    assert draws.dtype == np.float64
    assert stats.kstest(draws[:, 0], exact.cdf).pvalue > 1e-4
    assert stats.kstest(draws[:, 0] + 0.2 * draws[:, 0].std(), exact.cdf).pvalue < 1e-4 or not np.isfinite(exact.std())


def test_bounds_are_the_support(one):
    prior, exact = one
    for bound, end in zip(prior.bounds[0], exact.support(), strict=True):
        assert (math.inf if bound is None else abs(bound)) == pytest.approx(abs(end), abs=1e-12)
    for end, step in zip(exact.support(), (-0.1, 0.1), strict=True):
        if np.isfinite(end):
            assert prior.log_prob([[end + step]]).tolist() == [-np.inf]
            assert not np.isnan(prior.log_prob([[end]])).any()


def test_a_box_has_its_edges_and_their_exact_density():
    prior = Prior.of({"a": (0, 0.1), "b": [1, 3]})
    for edges in (np.array([1, 3]), torch.tensor([1, 3])):
        assert Prior.of({"a": (0, 0.1), "b": edges}).bounds == prior.bounds
    assert prior.bounds == ((0.0, 0.1), (1.0, 3.0))  # 0.1, not its float32
    corners = np.array([[0.0, 1.0], [0.1, 3.0], [0.05, 2.0]])
    np.testing.assert_allclose(prior.log_prob(corners), -np.log(0.2), rtol=1e-14)
    assert prior.contains([[0.1, 3.0], [np.nextafter(0.1, 1), 2.0], [0.05, np.inf]]).tolist() == [True, False, False]


def test_joint_priors_have_the_density_of_all(covariance):
    mean = np.array([1.0, -1.0])
    exact = stats.multivariate_normal(mean, covariance)
    normal = td.MultivariateNormal(torch.tensor(mean).float(), torch.tensor(covariance).float())
    prior = Prior.of(normal, names=["a", "b"])
    theta = prior.sample(20_000, seed=3)
    np.testing.assert_allclose(prior.log_prob(theta[:9]), exact.logpdf(theta[:9]), atol=1e-6)  # 0.6 in float32
    pull = np.sqrt(len(theta)) * (theta.mean(0) - mean) / np.sqrt(np.diag(covariance))
    assert np.abs(pull).max() < 4
    # error of a correlation r: (1 - r^2) / sqrt(n)
    r = 0.6 / np.sqrt(2)
    assert abs(np.corrcoef(theta.T)[0, 1] - r) < 4 * (1 - r**2) / np.sqrt(len(theta)) < 0.1 * r


def test_independent_and_batches_are_products():
    theta = np.array([[0.3, 0.4], [1.0, 2.0]])
    expected = stats.norm.logpdf(theta).sum(1)
    normal = td.Normal(torch.zeros(2), torch.ones(2))
    for joint in (normal, td.Independent(normal, 1)):
        np.testing.assert_allclose(Prior.of(joint, names=["a", "b"]).log_prob(theta), expected, rtol=1e-13)


def test_mixtures():
    # 0.25 U(0, 1) + 0.75 U(2, 4)
    uniforms = td.Uniform(torch.tensor([0.0, 2.0]), torch.tensor([1.0, 4.0]))
    prior = Prior.of(td.MixtureSameFamily(td.Categorical(torch.tensor([0.25, 0.75])), uniforms), names=["a"])
    assert prior.bounds == ((0.0, 4.0),)
    np.testing.assert_allclose(np.exp(prior.log_prob([[0.5], [1.5], [3.0]])), [0.25, 0.0, 0.375], atol=1e-7)


def test_transformed_joint_ones_have_transformed_bounds():
    box = td.Independent(td.Uniform(torch.zeros(2), torch.ones(2)), 1)
    moved = td.TransformedDistribution(box, [td.AffineTransform(torch.tensor([1.0, 2.0]), torch.tensor([2.0, -4.0]))])
    prior = Prior.of(moved, names=["a", "b"])  # torch says that its support is the plane
    assert prior.bounds == ((1.0, 3.0), (-2.0, 2.0))
    np.testing.assert_allclose(np.exp(prior.log_prob([[2.0, 0.0], [0.9, 0.0]])), [1 / 8, 0])


def test_sigmoid_and_turns_have_their_whole_range():
    logit = td.TransformedDistribution(td.Normal(0.0, 1.0), [td.SigmoidTransform(), td.AffineTransform(-1.0, 3.0)])
    assert Prior.of({"a": logit}).bounds == ((-1.0, 2.0),)
    assert Prior.of({"a": td.VonMises(0.0, 1.0)}).bounds == ((-math.pi, math.pi),)


def test_a_flow_serves_as_prior():
    zuko = pytest.importorskip("zuko")
    torch.manual_seed(1)
    flow = zuko.flows.MAF(2, hidden_features=(8,))()
    prior = Prior.of(flow, names=["a", "b"])
    theta = prior.sample(5, seed=1)
    expected = flow.log_prob(torch.tensor(theta).float()).detach()
    np.testing.assert_allclose(prior.log_prob(theta), expected, atol=1e-5)


# -- seeds and precision -----------------------------------------------------------------------------------------------


def test_draws_belong_to_the_seed_and_leave_torch_alone():
    torch.manual_seed(5)
    prior = Prior.of({"a": (0, 1), "b": td.Gamma(2.0, 1.0), "c": td.Kumaraswamy(1.0, 2.0)}).restricted(_all)
    first = prior.sample(10, seed=1)
    after = torch.rand(3)
    torch.manual_seed(5)
    assert torch.equal(torch.rand(3), after)  # as if nothing had been drawn
    np.testing.assert_array_equal(prior.sample(10, seed=1), first)
    assert not np.isin(prior.sample(10, seed=2), first).any()
    assert prior.sample(0, seed=1).shape == (0, 3)


def _all(theta):
    return np.ones(len(theta), np.bool_)


def test_tensors_keep_their_type_and_have_the_gradient():
    prior = Prior.of({"a": td.Normal(1.0, 2.0), "b": td.Exponential(3.0)})
    theta = torch.tensor([[2.0, 0.5], [0.0, -1.0]], requires_grad=True)
    logs = prior.tensor(theta)
    assert logs.dtype == torch.float32
    assert logs[1] == -math.inf
    logs[0].backward()
    # -(a - 1) / 4 and -3; nothing, and no NaN, from the point outside
    np.testing.assert_allclose(theta.grad, [[-0.25, -3.0], [0.0, 0.0]], atol=1e-7)
    assert prior.tensor(theta.double()).dtype == torch.float64


def test_shapes_are_kept():
    prior = Prior.of({"a": (0, 1), "b": td.Normal(0.0, 1.0)})
    theta = np.full((3, 4, 2), 0.5)
    assert prior.log_prob(theta).shape == (3, 4)
    assert prior.log_prob([0.5, 0.5]).shape == ()
    columns = prior.events(theta[0])
    assert list(columns) == ["a", "b"]
    assert columns["a"].shape == (4,)


def test_float64_where_float32_would_be_wrong():
    # a shift of 1e-9 in units of the width cannot be seen in float32
    prior = Prior.of({"a": td.Normal(1e3, 1.0)})
    slope = prior.log_prob([[1001.0 + 1e-7]]) - prior.log_prob([[1001.0]])
    assert slope[0] == pytest.approx(-1e-7, rel=1e-2)


def test_priors_travel():
    prior = Prior.of({"a": (0, 1), "b": td.Gamma(2.0, 1.0)})
    again = pickle.loads(pickle.dumps(prior))
    np.testing.assert_array_equal(again.sample(4, seed=1), prior.sample(4, seed=1))
    assert Prior.of(prior) is prior


# -- sbi ---------------------------------------------------------------------------------------------------------------


def test_sbi_takes_the_distribution_and_gives_its_own():
    utils = pytest.importorskip("sbi.utils")
    from sbi.utils.sbiutils import mcmc_transform
    from sbi.utils.user_input_checks import process_prior

    several = utils.MultipleIndependent(
        [td.Gamma(torch.ones(1), torch.ones(1)), td.MultivariateNormal(torch.ones(2), torch.eye(2))]
    )
    box = utils.BoxUniform(torch.zeros(3), torch.tensor([1.0, 2.0, 3.0]))
    for distribution in (several, box):
        prior = Prior.of(distribution, names=["a", "b", "c"])
        theirs, dim, numpy = process_prior(prior.distribution())
        assert dim == 3
        assert not numpy
        theta = torch.from_numpy(prior.sample(5, seed=1)).float()
        torch.testing.assert_close(theirs.log_prob(theta), distribution.log_prob(theta), atol=1e-5, rtol=1e-5)
        assert theirs.log_prob(-theta)[0] == -math.inf
        inside = mcmc_transform(theirs).inv(torch.randn(100, 3))
        assert torch.isfinite(theirs.log_prob(inside)).all()
    assert Prior.of(several, names=["a", "b", "c"]).bounds == ((0.0, None), (None, None), (None, None))
    assert Prior.of(box, names=["a", "b", "c"]).bounds == ((0.0, 1.0), (0.0, 2.0), (0.0, 3.0))


def test_the_distribution_draws_by_torchs_generator():
    joint = Prior.of({"a": (0, 1), "b": td.Normal(0.0, 1.0)}).distribution()
    torch.manual_seed(1)
    first = joint.sample((4,))
    assert first.dtype == torch.float32
    assert not torch.equal(joint.sample((4,)), first)
    torch.manual_seed(1)
    assert torch.equal(joint.sample((4,)), first)
    assert joint.sample().shape == (2,)


# -- truncation --------------------------------------------------------------------------------------------------------


def test_truncation_is_the_density_inside_over_its_content():
    # a unit normal beyond 1: content 0.1587, mean of the rest pdf(1) / 0.1587 = 1.525
    prior = Prior.of({"a": td.Normal(0.0, 1.0)}).restricted(lambda theta: theta[:, 0] > 1)
    content = stats.norm.sf(1)
    assert prior.acceptance_error == pytest.approx(np.sqrt(content * (1 - content) / 1e4), rel=0.05)
    assert abs(prior.acceptance - content) < 4 * prior.acceptance_error
    draws = prior.sample(20_000, seed=1)[:, 0]
    exact = stats.truncnorm(1, np.inf)
    assert stats.kstest(draws, exact.cdf).pvalue > 1e-4 > stats.kstest(draws, stats.norm.cdf).pvalue
    assert abs(prior.log_prob([[1.5]])[0] - exact.logpdf(1.5)) < 4 * prior.log_error
    assert prior.log_prob([[0.5]]).tolist() == [-np.inf]
    np.testing.assert_array_equal(prior.sample(50, seed=2), prior.sample(50, seed=2))


def test_truncation_says_its_acceptance_and_refuses_a_small_one():
    base = Prior.of({"a": (0, 1)})
    prior = base.restricted(lambda theta: theta[:, 0] < 0.25)
    assert repr(prior).startswith("Truncated(a ~ Uniform(0, 1); acceptance 0.2")
    with pytest.raises(ValueError, match=r"acceptance of at least 0.001, found . of 10000 draws inside; widen"):
        base.restricted(lambda theta: theta[:, 0] < 1e-5)
    with pytest.raises(ValueError, match=r"inside: expected booleans \(10000,\)"):
        base.restricted(lambda theta: theta < 0.5)
    with pytest.raises(ValueError, match="floor: expected an acceptance between 0 and 1"):
        base.restricted(lambda theta: theta[:, 0] < 0.5, floor=0.0)


def test_few_draws_of_a_small_part_are_no_error_by_chance():
    prior = Prior.of({"a": (0, 1)}).restricted(lambda theta: theta[:, 0] < 0.002)
    assert all(prior.sample(1, seed=seed)[0, 0] < 0.002 for seed in range(40))
    # the same prior, if its condition turns out never to hold, does not draw for ever
    never = dataclasses.replace(prior, inside=lambda theta: np.zeros(len(theta), np.bool_))
    with pytest.raises(ValueError, match=r"expected an acceptance of at least 0\.001, found 0 of"):
        never.sample(1, seed=1)


def test_the_condition_is_not_asked_outside_the_base():
    def inside(theta):
        assert ((theta >= 0) & (theta <= 1)).all()
        return theta[:, 0] < 0.5

    prior = Prior.of({"a": (0, 1)}).restricted(inside)
    assert np.isneginf(prior.log_prob([[-5.0], [7.0]])).all()
    assert prior.tensor(torch.tensor([[0.1]])).item() == pytest.approx(math.log(2), abs=0.05)


# -- JSON --------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", [name for name in ONE if name != "shifted"])
def test_known_priors_come_back_from_json(name):
    prior = Prior.of({"a": ONE[name][0], "b": (0, 0.1)})
    again = Prior.from_json(_through_text(prior.to_json()))
    theta = prior.sample(20, seed=1)
    np.testing.assert_array_equal(again.sample(20, seed=1), theta)
    np.testing.assert_array_equal(again.log_prob(theta), prior.log_prob(theta))
    assert again.bounds == prior.bounds
    assert repr(again) == repr(prior)


def test_joint_priors_come_back_from_json(covariance):
    for joint in (
        td.MultivariateNormal(torch.zeros(2), torch.tensor(covariance).float()),
        td.MultivariateNormal(torch.zeros(2).double(), scale_tril=torch.linalg.cholesky(torch.tensor(covariance))),
        td.Independent(td.Uniform(torch.zeros(2), torch.ones(2)), 1),
    ):
        prior = Prior.of(joint, names=["a", "b"])
        again = Prior.from_json(_through_text(prior.to_json()))
        theta = prior.sample(20, seed=1)
        np.testing.assert_allclose(again.log_prob(theta), prior.log_prob(theta), rtol=1e-12)


def test_unknown_priors_are_asked_for_and_known_again():
    mine = {"a": td.Kumaraswamy(2.0, 1.5), "b": (0, 1)}
    spec = _through_text(Prior.of(mine).to_json())
    with pytest.raises(ValueError, match="Kumaraswamy over a, b is not a distribution whose parameters a file holds"):
        Prior.from_json(spec)
    assert Prior.from_json(spec, distribution=mine).names == ("a", "b")
    with pytest.raises(ValueError, match="expected the prior that was saved"):
        Prior.from_json(spec, distribution={"a": td.Kumaraswamy(2.0, 1.6), "b": (0, 1)})
    with pytest.raises(ValueError, match="expected a prior with the bounds"):
        Prior.from_json(spec, distribution={"a": td.Kumaraswamy(2.0, 1.5), "b": (0, 2)})
    with pytest.raises(ValueError, match="expected format 1, found 2"):
        Prior.from_json({**spec, "format": 2})


def test_truncated_priors_ask_for_their_condition():
    def inside(theta):
        return theta[:, 0] < 0.25

    prior = Prior.of({"a": (0, 1)}).restricted(inside)
    spec = _through_text(prior.to_json())
    again = Prior.from_json(spec, inside=inside)
    assert isinstance(again, Truncated)
    assert again.acceptance == prior.acceptance
    with pytest.raises(ValueError, match="truncated by a condition, which no file holds"):
        Prior.from_json(spec)
    with pytest.raises(ValueError, match="expected the condition that was saved"):
        Prior.from_json(spec, inside=lambda theta: theta[:, 0] < 0.5)
    whole = _through_text(prior.base.to_json())
    with pytest.raises(ValueError, match="expected the prior that was saved, without a condition"):
        Prior.from_json(whole, distribution=prior)
    with pytest.raises(ValueError, match="n: expected a whole number of draws from 0, found -1"):
        prior.sample(-1, seed=1)
    assert prior.sample(0, seed=1).shape == (0, 1)


def _through_text(spec):
    return json.loads(json.dumps(spec, allow_nan=False))


# -- refusals ----------------------------------------------------------------------------------------------------------


class _Flat(td.Distribution):
    """A 'flat' prior as users write it: a density of 1 everywhere."""

    arg_constraints: dict = {}  # noqa: RUF012
    support = td.constraints.real

    def __init__(self, width=0, draw=True):
        self.draw = draw
        super().__init__(torch.Size(), torch.Size([width] if width else []), validate_args=False)

    def sample(self, shape=()):
        if not self.draw:
            raise NotImplementedError
        return 10 * torch.rand(*shape, *self.event_shape)

    def log_prob(self, value):
        return torch.zeros_like(value)


class _Unstated(_Flat):
    """Draws of several numbers, which the event shape does not say."""

    def sample(self, shape=()):
        return torch.rand(*shape, 2)


class _Ball(_Flat):
    support = td.constraints.simplex


@pytest.mark.parametrize(
    ("prior", "error", "message"),
    [
        ({"a": (0, np.inf)}, ValueError, r"prior of 'a': expected finite edges, found \(0, inf\): .* improper"),
        ({"a": (-np.inf, np.inf)}, ValueError, "improper"),
        ({"a": (0, np.nan)}, ValueError, "expected finite edges"),
        ({"a": (1, 1)}, ValueError, r"expected low < high, found \(1, 1\)"),
        ({"a": (2, 1)}, ValueError, "expected low < high"),
        ({"a": (1, 2, 3)}, ValueError, "found 3 entries"),
        ({"a": 0.5}, TypeError, "leave a fixed parameter out"),
        ({"a": "flat"}, TypeError, r"expected \(low, high\) or a torch distribution"),
        ({"a": ("0", "one")}, TypeError, r"expected \(low, high\)"),
        ({"a": stats.norm(0, 1)}, TypeError, "scipy's are not taken"),
        ({"a": td.Poisson(3.0)}, ValueError, "expected a continuous distribution, found the discrete Poisson"),
        ({"a": td.MultivariateNormal(torch.zeros(2), torch.eye(2))}, ValueError, "expected a distribution of one"),
        ({"a": _Flat()}, ValueError, "expected a normalised density, found that of _Flat, which integrates to 9.99"),
        ({"a": _Flat(draw=False)}, ValueError, "whose sample raises NotImplementedError: improper priors have no"),
        ({"a": _Unstated()}, ValueError, "expected draws of 1 numbers, which is the event shape .* found 2"),
        ({"a": _Ball()}, ValueError, "expected a support that is a box"),
        ({"a": td.Uniform(0.0, math.inf, validate_args=False)}, ValueError, "improper"),
        ({"a": td.Normal(0.0, math.inf)}, ValueError, "expected finite draws, found 256 of 256"),
        ({}, ValueError, "different non-empty names of at least one parameter, found"),
        ({"": (0, 1)}, ValueError, "different non-empty names"),
    ],
)
def test_what_is_no_prior_is_refused(prior, error, message):
    with pytest.raises(error, match=message):
        Prior.of(prior)


@pytest.mark.parametrize(
    ("joint", "names", "message"),
    [
        (td.Dirichlet(torch.ones(3)), ["a", "b", "c"], "expected a support that is a box .* found the constraint"),
        (td.Normal(torch.zeros(2), torch.ones(2)), ["a"], "names: expected 2, one per dimension of the prior, found 1"),
        (td.Normal(torch.zeros(2), torch.ones(2)), ["a", "a"], "different non-empty names"),
        (td.Normal(torch.zeros(2), torch.ones(2)), None, "names: expected a list of the parameters' names for a"),
        (td.Normal(torch.zeros(2), torch.ones(2)), "ab", "names: expected a list of the parameters' names"),
        (td.Normal(torch.zeros(2, 2), torch.ones(2, 2)), ["a", "b"], r"found event shape \(\) and batch shape \(2, 2"),
        (td.Independent(td.Uniform(torch.zeros(2), torch.tensor([1.0, math.inf])), 1), ["a", "b"], "improper"),
        ({"a": (0, 1), "b": (0, 1)}, ["b", "a"], "leave names= out"),
        (Prior.of({"a": (0, 1)}), ["b"], "names: expected"),
    ],
)
def test_what_is_no_joint_prior_is_refused(joint, names, message):
    with pytest.raises(ValueError, match=message):
        Prior.of(joint, names)


def test_wrong_points_are_refused():
    prior = Prior.of({"a": (0, 1), "b": (0, 1)})
    with pytest.raises(ValueError, match=r"theta: expected \(\*, 2\) for a, b, found \(3,\)"):
        prior.log_prob([1.0, 2.0, 3.0])
    with pytest.raises(ValueError, match="found NaN in 1 of 2 points"):
        prior.log_prob([[0.5, np.nan], [0.5, 0.5]])
    with pytest.raises(ValueError, match="seed: expected a non-negative integer"):
        prior.sample(3, seed=-1)
    with pytest.raises(ValueError, match="n: expected a whole number"):
        prior.sample(-3, seed=1)
    with pytest.raises(TypeError, match="expected a torch distribution, found"):
        Prior.of(stats.norm(0, 1), names=["a"])
