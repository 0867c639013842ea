"""Tikhonov and Wiener-SVD unfolding against linear algebra written out, numerical derivatives and their promises."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy import stats

from nuinfer.simulators import GaussianUnfolding
from nuinfer.unfolding import Binning, Response, Spectrum, scan_strength, tikhonov, wiener_svd

Floats = NDArray[np.float64]

DETECTOR = GaussianUnfolding.with_detector()
RECO = {"x0": np.linspace(-2.5, 3.0, 15)}
RESPONSE = Response.from_events(
    DETECTOR.simulation(20_000, seed=1), truth={"t0": np.linspace(-2.0, 2.5, 7)}, reco=RECO
)  # fmt: skip
MODEL = 1.2 * RESPONSE.truth_yield * (1 + 0.3 * np.sin(np.arange(6)))
EXPECTED = RESPONSE.fold(MODEL, fakes=True)
DATA = np.random.default_rng(2).poisson(EXPECTED).astype(float)
METHODS: dict[str, Callable[..., Spectrum]] = {
    "least squares": lambda d, r=RESPONSE, **o: tikhonov(d, r, strength=0.0, **o),
    "tikhonov": lambda d, r=RESPONSE, **o: tikhonov(d, r, strength=3.0, **o),
    "contents": lambda d, r=RESPONSE, **o: tikhonov(d, r, strength=1e-6, reference=np.ones(6), order=1, **o),
    "wiener": lambda d, r=RESPONSE, **o: wiener_svd(d, r, model=MODEL, **o),
    "wiener, order 0": lambda d, r=RESPONSE, **o: wiener_svd(d, r, model=MODEL, order=0, **o),
    "wiener, order 1": lambda d, r=RESPONSE, **o: wiener_svd(d, r, model=MODEL, order=1, **o),
}


def pieces(data: Floats, response: Response = RESPONSE) -> tuple[Floats, Floats, Floats]:
    """Signal, V^-1 and P."""
    return data - response.fakes, np.diag(1 / data), response.matrix


# -- all of them -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", METHODS)
def test_data_without_noise_unfold_to_smeared_truth(name: str) -> None:
    """u = A_C s for the data of any truth s, with the covariance of other data; without a penalty A_C is 1."""
    truth = RESPONSE.truth_yield * np.random.default_rng(3).uniform(0.5, 2.0, 6)
    found = METHODS[name](RESPONSE.fold(truth, fakes=True), covariance=EXPECTED)
    np.testing.assert_allclose(found.values, found.smear(truth), rtol=1e-7, atol=1e-6 * truth.max())
    is_unit = np.allclose(found.smearing, np.eye(6), atol=1e-8)
    assert is_unit == (name == "least squares")
    if not is_unit:
        assert np.abs(found.values / truth - 1).max() > 0.02


@pytest.mark.parametrize("name", METHODS)
def test_chi2_between_models_is_that_of_least_squares(name: str) -> None:
    """The bottom line: nothing is lost or gained for any model while no direction is filtered to nothing."""
    plain, found = METHODS["least squares"](DATA), METHODS[name](DATA)
    plain, found = (replace(s, covariances={"data": s.covariances["data"]}) for s in (plain, found))
    for model in (MODEL, 1.2 * RESPONSE.truth_yield, RESPONSE.truth_yield):
        expected = plain.chi2(model)
        assert found.chi2(model).value == pytest.approx(expected.value, rel=1e-5)
        assert found.chi2(model).dof == expected.dof == 6
    naive = replace(found, smearing=None)  # a comparison that forgets A_C
    if name != "least squares":
        assert abs(naive.chi2(MODEL).value / plain.chi2(MODEL).value - 1) > 0.01


@pytest.mark.parametrize("name", METHODS)
def test_covariances_are_those_of_numerical_derivatives(name: str) -> None:
    """By every content; Wiener's with its A_C held, at data whose least squares are its answer."""
    unfold = METHODS[name]
    found = unfold(DATA)
    smooth = DATA + RESPONSE.matrix @ (found.values - METHODS["least squares"](DATA).values)  # and the same residual

    def by_data(d: Floats) -> Floats:
        return unfold(d, covariance=DATA).values  # V is given

    slope = jacobian(by_data, DATA)
    np.testing.assert_allclose(found.covariances["data"], (slope * DATA) @ slope.T, rtol=1e-5, atol=1e-3)
    total = 0.0
    for content in ("both", "missed", "fakes"):
        value, variance = getattr(RESPONSE, content), getattr(RESPONSE, f"{content}_variance")

        def by_content(flat: Floats, content: str = content, value: Floats = value) -> Floats:
            other = replace(RESPONSE, **{content: flat.reshape(value.shape)})
            if "wiener" in name:
                return found.smear(tikhonov(smooth, other, strength=0.0, covariance=DATA).values)
            return unfold(DATA, other).values

        slope = jacobian(by_content, value.ravel())
        total = total + (slope * variance.ravel()) @ slope.T
    scale = np.sqrt(np.outer(np.diag(total), np.diag(total)))  # type: ignore[arg-type]
    np.testing.assert_allclose(found.covariances["simulation"] / scale, total / scale, atol=1e-4)


def jacobian(function: Callable[[Floats], Floats], at: Floats) -> Floats:
    rows = []
    for i, value in enumerate(at):
        up, down = at.copy(), at.copy()
        step = 1e-4 * max(abs(value), 1.0)
        up[i] += step
        down[i] -= step
        rows.append((function(up) - function(down)) / (2 * step))
    return np.array(rows).T


@pytest.mark.parametrize("name", METHODS)
def test_pulls_against_the_smeared_truth(name: str) -> None:
    """400 toys of the data with the expected covariance: pulls have mean 0 and width 1."""
    rng = np.random.default_rng(5)
    plain = replace(RESPONSE, both_variance=0 * RESPONSE.both, missed_variance=0 * RESPONSE.missed,
                    fakes_variance=0 * RESPONSE.fakes)  # fmt: skip
    runs = [METHODS[name](rng.poisson(EXPECTED), plain, covariance=EXPECTED) for _ in range(400)]
    pulls = np.array([(run.values - run.smear(MODEL)) / run.uncertainty for run in runs])
    np.testing.assert_allclose(pulls.mean(0), 0, atol=4.5 / 20)
    np.testing.assert_allclose(pulls.std(0), 1, atol=4.5 / np.sqrt(2 * 400))


# -- Tikhonov ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("order", [0, 1, 2, 3])
@pytest.mark.parametrize("strength", [0.0, 0.1, 30.0])
def test_tikhonov_is_the_minimum(order: int, strength: float) -> None:
    """By a QR solution of the stacked system, and the trace of A_C as degrees of freedom."""
    m, precision, p = pieces(DATA)
    root, x = np.sqrt(precision), RESPONSE.truth_yield
    penalty = np.sqrt(strength) * RESPONSE.truth.differences(order) / x
    expected = np.linalg.lstsq(np.concatenate([root @ p, penalty]), np.r_[root @ m, np.zeros(len(penalty))])[0]
    found = tikhonov(DATA, RESPONSE, strength=strength, order=order)
    np.testing.assert_allclose(found.values, expected, rtol=1e-7, atol=1e-4)
    assert found.settings["degrees"] == pytest.approx(np.trace(found.smearing))  # type: ignore[arg-type]
    assert found.settings["degrees"] <= 6 + 1e-9


def test_scan_is_what_each_strength_gives() -> None:
    m, precision, p = pieces(DATA)
    scan = scan_strength(DATA, RESPONSE)
    assert (np.diff(scan.strengths) > 0).all()
    assert (np.diff(scan.degrees) < 1e-9).all()
    assert scan.degrees[0] == pytest.approx(6, rel=1e-3)
    assert scan.degrees[-1] == pytest.approx(2, abs=1e-3)  # what differences of order 2 leave free
    for k in (40, 80, 100, 130):
        found = tikhonov(DATA, RESPONSE, strength=float(scan.strengths[k]))
        residual = m - p @ found.values
        smooth = RESPONSE.truth.differences(2) @ (found.values / RESPONSE.truth_yield)
        assert scan.chi2[k] == pytest.approx(residual @ precision @ residual, rel=1e-6)
        assert scan.penalty[k] == pytest.approx(smooth @ smooth, rel=1e-6)
        covariance = found.covariances["data"]
        rho = np.sqrt(1 - 1 / (np.diag(covariance) * np.diag(np.linalg.inv(covariance))))
        assert scan.correlation[k] == pytest.approx(rho.mean(), rel=1e-4)


def test_criteria_are_optimal() -> None:
    """rho: no strength of a fine scan has less correlation.  L-curve: curvature by circles through three points."""
    scan = scan_strength(DATA, RESPONSE)
    assert set(scan.best) == {"lcurve", "rho"}
    for name, best in scan.best.items():
        found = tikhonov(DATA, RESPONSE, strength=name)  # type: ignore[arg-type]
        assert found.settings["strength"] == pytest.approx(best)
        assert found.settings["criterion"] == name
        assert scan.strengths[0] < best < scan.strengths[-1]
    near = scan.strengths[np.abs(np.log(scan.strengths / scan.best["rho"])) < 3]
    lowest = np.interp(np.log(scan.best["rho"]), np.log(scan.strengths), scan.correlation)
    assert len(near) > 5
    assert lowest <= scan.correlation.min() + 1e-3
    points = np.log(np.stack([scan.chi2, scan.penalty], 1))
    a, b, c = points[:-2], points[1:-1], points[2:]
    u, v = b - a, c - b
    sides = np.linalg.norm(u, axis=1) * np.linalg.norm(v, axis=1) * np.linalg.norm(c - a, axis=1)
    bent = 2 * (u[:, 0] * v[:, 1] - u[:, 1] * v[:, 0]) / np.maximum(sides, 1e-30)
    inner = (scan.degrees[1:-1] > 2.05) & (scan.degrees[1:-1] < 5.5)
    top = scan.strengths[1:-1][np.argmax(np.where(inner, bent, -np.inf))]
    assert abs(np.log(scan.best["lcurve"] / top)) < 0.5
    # beyond it smoothness costs chi-squared, before it chi-squared costs smoothness
    less, more = (tikhonov(DATA, RESPONSE, strength=f * scan.best["lcurve"]).settings["degrees"] for f in (1e-4, 1e4))
    assert more < 2.1 < 5.9 < less


def test_rank_is_a_singular_value() -> None:
    """Order 0 has C = diag(1/x): ordinary singular values of V^-1/2 P diag(x), as in SVD unfolding."""
    _, precision, p = pieces(DATA)
    values = np.linalg.svd(np.sqrt(precision) @ p * RESPONSE.truth_yield)[1]
    for k in (1, 4, 6):
        found = tikhonov(DATA, RESPONSE, rank=k, order=0)
        assert found.settings["strength"] == pytest.approx(values[k - 1] ** 2, rel=1e-6)
    with pytest.raises(ValueError, match="expected more than the 2 directions that the penalty does not"):
        tikhonov(DATA, RESPONSE, rank=2)
    assert tikhonov(DATA, RESPONSE, rank=3).settings["criterion"] == "rank 3"


def test_more_truth_than_reco_bins_need_a_penalty() -> None:
    swapped = Response.from_events(
        DETECTOR.simulation(50_000, seed=1), truth={"t0": np.linspace(-2.0, 2.5, 12)},
        reco={"x0": np.linspace(-2.5, 3.0, 9)},
    )  # fmt: skip
    data = swapped.reco_yield
    with pytest.raises(ValueError, match="at most as many truth bins as reco bins without a penalty, found 11 and 8"):
        tikhonov(data, swapped, strength=0.0)
    for found in (tikhonov(data, swapped), wiener_svd(data, swapped)):
        np.testing.assert_allclose(found.values / swapped.truth_yield, 1, atol=0.35)
        assert np.linalg.matrix_rank(found.covariances["data"], tol=1e-6 * found.covariances["data"].max()) <= 8
        assert found.chi2(swapped.truth_yield).value < 1


# -- Wiener-SVD --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("order", [0, 1, 2])
def test_wiener_is_the_papers_formula(order: int) -> None:
    m, precision, p = pieces(DATA)
    q = np.sqrt(precision)
    smooth = RESPONSE.truth.differences(order)
    smooth = smooth.T @ smooth
    c = np.eye(6) if order == 0 else np.linalg.cholesky(smooth + 1e-4 * np.linalg.eigvalsh(smooth)[-1] * np.eye(6)).T
    u, d, vt = np.linalg.svd(q @ p @ np.linalg.inv(c), full_matrices=False)
    power = (vt @ c @ MODEL) ** 2
    w = d**2 * power / (d**2 * power + 1)
    inverse = np.linalg.inv(c)
    found = wiener_svd(DATA, RESPONSE, model=MODEL, order=order)
    np.testing.assert_allclose(found.settings["filter"], w, rtol=1e-6)
    np.testing.assert_allclose(found.values, inverse @ vt.T @ np.diag(w / d) @ u.T @ q @ m, rtol=1e-6)
    np.testing.assert_allclose(found.smearing, inverse @ vt.T @ np.diag(w) @ vt @ c, rtol=1e-5, atol=1e-7)


def test_the_filter_has_the_smallest_expected_error() -> None:
    """E |C (u - s)|^2 over toys of the model: any change of the filter by a common power makes it worse."""
    rng = np.random.default_rng(6)
    small = MODEL / 20
    expected = RESPONSE.fold(small)
    toys = expected + rng.normal(size=(4000, 14)) * np.sqrt(expected)
    plain = replace(RESPONSE, fakes=0 * RESPONSE.fakes)
    found = wiener_svd(expected, plain, model=small, order=0)
    w, a_c = np.array(found.settings["filter"]), found.smearing
    assert 0.02 < w.min() < 0.95
    unfolding = tikhonov(expected, plain, strength=0.0)
    _, precision, p = expected, np.diag(1 / expected), plain.matrix
    least = np.linalg.solve(p.T @ precision @ p, p.T @ precision) @ toys.T
    np.testing.assert_allclose(unfolding.values, small, rtol=1e-6)
    values, vectors = np.linalg.eigh(a_c)  # symmetric for order 0

    def error(power: float) -> float:
        matrix = (vectors * np.clip(values, 0, 1) ** power) @ vectors.T
        return float(((matrix @ least - small[:, None]) ** 2).sum(0).mean())

    errors = {power: error(power) for power in (0.0, 0.5, 0.8, 1.0, 1.25, 2.0)}
    assert min(errors, key=errors.__getitem__) in (0.8, 1.0, 1.25)
    assert errors[1.0] < 0.9 * errors[0.0]


def test_the_default_model_is_the_simulation_in_the_datas_exposure() -> None:
    found = wiener_svd(DATA, RESPONSE)
    scaled = RESPONSE.truth_yield * (DATA - RESPONSE.fakes).sum() / RESPONSE.both.sum()
    np.testing.assert_allclose(found.values, wiener_svd(DATA, RESPONSE, model=scaled).values, rtol=1e-12)


# -- options and bad input ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["tikhonov", "wiener"])
def test_correlated_data_and_backgrounds(name: str) -> None:
    """A given covariance and a background enter V: generalised least squares written out."""
    rng = np.random.default_rng(7)
    extra = rng.normal(size=(14, 14))
    covariance = np.diag(DATA) + extra @ extra.T
    background = 0.1 * DATA
    found = METHODS[name](DATA, background=background, covariance=covariance)
    m, precision, p = DATA - background - RESPONSE.fakes, np.linalg.inv(covariance), RESPONSE.matrix
    plain = tikhonov(DATA, RESPONSE, strength=0.0, background=background, covariance=covariance)
    expected = np.linalg.solve(p.T @ precision @ p, p.T @ precision @ m)
    np.testing.assert_allclose(plain.values, expected, rtol=1e-6)
    np.testing.assert_allclose(found.values, found.smear(expected), rtol=1e-6)
    np.testing.assert_allclose(
        plain.covariances["data"], np.linalg.inv(p.T @ precision @ p), rtol=1e-5, atol=1e-4
    )  # fmt: skip
    assert found.settings["fakes"] == "subtract"


@pytest.mark.parametrize(
    ("unfold", "message"),
    [
        (lambda: tikhonov(DATA, RESPONSE, strength="best"), "expected a number, 'lcurve' or 'rho', found 'best'"),
        (lambda: tikhonov(DATA, RESPONSE, strength=-1.0), "strength: expected a finite number from 0, found -1"),
        (lambda: tikhonov(DATA, RESPONSE, rank=7), "rank: expected a whole number from 1 to 6, found 7"),
        (lambda: tikhonov(DATA, RESPONSE, order=4), "expected an order from 0 to 3"),
        (lambda: tikhonov(DATA, RESPONSE, reference=np.zeros(6)), "reference: expected positive contents, found 0"),
        (lambda: tikhonov(DATA[:3], RESPONSE), "data: expected contents of Binning"),
        (
            lambda: tikhonov(DATA * (np.arange(14) != 5), RESPONSE),
            r"found none in 1 of 14 \(bin 5",
        ),
        (lambda: tikhonov(DATA, RESPONSE, covariance=np.ones((14, 14))), "expected one that has an inverse"),
        (lambda: wiener_svd(DATA, RESPONSE, model=MODEL[:3]), "model: expected contents"),
        (lambda: wiener_svd(DATA, RESPONSE, model=-MODEL), "model: expected positive contents"),
        (lambda: wiener_svd(DATA, RESPONSE, epsilon=0.0), "epsilon: expected a positive number, found 0"),
        (
            lambda: tikhonov(DATA[:2], blind(), strength=0.0),
            "found directions that neither does",
        ),
        (lambda: tikhonov(DATA[:2], blind(), order=1), "found directions that neither does"),
    ],
)
def test_bad_input_is_refused(unfold: Callable[[], Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        unfold()


def blind() -> Response:
    """Two truth bins that fold to the same, without a common line of differences."""
    both, empty = np.array([[5.0, 5.0], [5.0, 5.0]]), np.zeros(2)
    truth = Binning("a", [0, 1, 2], [Binning("b", [0, 1]), Binning("b", [0, 2])])
    return Response(truth, Binning("x", [0.0, 1.0, 2.0]), both, both, empty, empty, empty, empty)


def test_a_normal_distribution_of_chi2() -> None:
    """p-values of the truth over toys are uniform, through A_C."""
    rng = np.random.default_rng(8)
    found = [METHODS["wiener"](rng.poisson(EXPECTED), covariance=EXPECTED) for _ in range(300)]
    values = [replace(f, covariances={"data": f.covariances["data"]}).chi2(MODEL).p_value for f in found]
    assert stats.kstest(values, "uniform").pvalue > 1e-3
