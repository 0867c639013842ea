"""Shapes of backgrounds and signals against scipy's quadrature and differences."""

from __future__ import annotations

import hist
import numpy as np
import pytest
from scipy import integrate, stats

from nuinfer.anomaly.bump import (
    Bernstein,
    BreitWigner,
    CrystalBall,
    Dijet,
    Exponential,
    GaussianPeak,
    Polynomial,
    TemplateBackground,
    TemplateShape,
    UserPeak,
    UserShape,
)
from nuinfer.anomaly.bump.quadrature import bins_of, nodes, order_needed

EDGES = np.linspace(2000.0, 6000.0, 41)
BINS = bins_of(EDGES)
SPAN = (2000.0, 6000.0)
USER = UserShape(lambda x, n, k: n * (x / 2000.0) ** -k, {"n": 3.0, "k": 5.0}, {"n": (0.0, None)})
TEMPLATE = TemplateBackground(
    np.linspace(40.0, 10.0, 40), EDGES, {"tilt": np.linspace(44.0, 9.0, 40), "norm2": np.linspace(42.0, 10.5, 40)}
)
BACKGROUNDS = {
    "dijet3": (Dijet(3), [-5.0, 9.0, 4.0]),
    "dijet4": (Dijet(4), [-5.0, 9.0, 4.0, 0.3]),
    "dijet5": (Dijet(5), [-5.0, 9.0, 4.0, 0.3, 0.05]),
    "exponential": (Exponential(2), [1.0, -3.0, 0.2]),
    "bernstein": (Bernstein(4), [900.0, 500.0, 300.0, 50.0, 20.0]),
    "polynomial": (Polynomial(3), [900.0, -500.0, 100.0, 30.0]),
    "template": (TEMPLATE, [0.1, 0.7, -1.2]),
    "user": (USER, [2.0, 4.0]),
}
SIGNALS = {
    "gauss": GaussianPeak(relative_sigma=0.03),
    "crystal ball": CrystalBall(sigma=90.0, alpha_low=1.2, n_low=3.0, alpha_high=1.8, n_high=4.5),
    "breit-wigner": BreitWigner(gamma=120.0),
    "voigt": BreitWigner(relative_gamma=0.02, resolution=80.0),
    "template": TemplateShape(np.array([1.0, 4.0, 7.0, 3.0]), [2900.0, 2950.0, 3000.0, 3060.0, 3100.0], mass=3000.0),
    "stretched": TemplateShape([1.0, 4.0, 7.0, 3.0], [2900.0, 2950.0, 3000.0, 3060.0, 3100.0], 3000.0, stretch=True),
    "user": UserPeak(lambda x, m, r: np.exp(-0.5 * ((x - m) / (90.0 * r)) ** 2) * 7, 90.0, None, {"r": 1.0}),
}


@pytest.mark.parametrize("name", BACKGROUNDS)
def test_background_integrals_are_those_of_scipy(name: str) -> None:
    shape, theta = BACKGROUNDS[name][0].on(SPAN), np.array(BACKGROUNDS[name][1])
    found = shape.integrals(BINS, theta)
    exact = [
        integrate.quad(lambda x: shape.values(np.array([x]), theta)[0], *b, epsabs=0, epsrel=1e-11)[0] for b in BINS
    ]
    np.testing.assert_allclose(found, exact, rtol=1e-9)
    middle = shape.values(BINS.mean(1), theta) * np.diff(BINS)[:, 0]  # the density at the centre is not the integral
    assert name == "template" or np.abs(found / middle - 1).max() > 1e-5


@pytest.mark.parametrize("name", BACKGROUNDS)
def test_background_slopes_are_derivatives_and_broadcast(name: str) -> None:
    shape, theta = BACKGROUNDS[name][0].on(SPAN), np.array(BACKGROUNDS[name][1])
    x = BINS.mean(1)
    for value, slope in (
        (lambda t: shape.values(x, t), shape.slopes(x, theta)),
        (lambda t: shape.integrals(BINS, t), shape.integral_slopes(BINS, theta)),
    ):
        for k in range(len(theta)):
            step = np.zeros(len(theta))
            step[k] = 1e-5 * max(abs(theta[k]), 0.1)
            numeric = (value(theta + step) - value(theta - step)) / (2 * step[k])
            np.testing.assert_allclose(slope[:, k], numeric, rtol=1e-6, atol=1e-7 * np.abs(numeric).max())
        many = np.stack([theta, theta * 1.01])[:, None].repeat(3, 1)
        assert value(many).shape == (2, 3, 40)
        np.testing.assert_allclose(value(many)[1, 2], value(theta * 1.01), rtol=1e-12)
    assert shape.slopes(x, many).shape == shape.integral_slopes(BINS, many).shape == (2, 3, 40, len(theta))


@pytest.mark.parametrize("name", ["dijet3", "dijet4", "exponential", "bernstein", "polynomial", "template"])
def test_start_is_near_exact_contents(name: str) -> None:
    shape, theta = BACKGROUNDS[name][0].on(SPAN), np.array(BACKGROUNDS[name][1])
    # many events for the free ones; constrained nuisances stay near 0 only for few
    scale = 1e4 / shape.integrals(BINS, theta).sum()
    contents = scale * shape.integrals(BINS, theta)
    found = shape.integrals(BINS, shape.start(BINS, contents))
    flat = np.full(40, contents.mean())
    assert np.abs(found - contents).sum() < 0.2 * np.abs(flat - contents).sum() + 0.02 * contents.sum()
    assert (found > 0).all()


@pytest.mark.parametrize("name", SIGNALS)
def test_signals_are_normalised_and_integrate(name: str) -> None:
    peak = SIGNALS[name]
    phi = peak.start * np.array([1.002, 1.1])[: len(peak.names)]
    mass = 3100.0
    bins = bins_of(np.linspace(2700.0, 3500.0, 9))
    breaks = peak._own(np.zeros(1), mass, phi) if isinstance(peak, TemplateShape) else None
    found = peak.fractions(bins, mass, phi)
    for b, own in zip(bins, found, strict=True):
        at, weight = nodes(bins_of(np.linspace(*b, 2001)), 2)
        exact = float((peak.density(at.reshape(-1), mass, phi) * weight.reshape(-1)).sum())
        assert own == pytest.approx(exact, rel=1e-7 if breaks is None else 2e-3, abs=1e-12)
    everything = peak.fractions(np.array([[-1e7, 3100.0], [3100.0, 1e7]]), mass, phi) if name != "voigt" else None
    if everything is not None and name != "user":
        assert everything.sum() == pytest.approx(1.0, abs=2e-4 if name != "gauss" else 1e-12)


def test_voigt_and_user_peaks_are_normalised() -> None:
    for name in ("voigt", "user"):
        peak = SIGNALS[name]
        bins = bins_of(np.linspace(1000.0, 5200.0, 85))
        total = peak.fractions(bins, 3100.0, peak.start).sum()
        assert total == pytest.approx(1.0, abs=0.012 if name == "voigt" else 1e-9)  # Lorentzian tails: Gamma / pi dx
    gauss = GaussianPeak(sigma=90.0)
    np.testing.assert_allclose(
        SIGNALS["user"].fractions(bins, 3100.0, np.ones(1)), gauss.fractions(bins, 3100.0, np.ones(2)), atol=1e-9
    )


@pytest.mark.parametrize("name", SIGNALS)
def test_signal_slopes_are_derivatives(name: str) -> None:
    peak, mass = SIGNALS[name], 3100.0
    phi = peak.start * np.array([1.001, 1.05])[: len(peak.names)]
    bins = bins_of(np.linspace(2705.0, 3505.0, 13))
    x = bins.mean(1) + 3.3
    pairs = [(lambda p: peak.fractions(bins, mass, p), peak.fraction_slopes(bins, mass, phi))]
    if not isinstance(peak, TemplateShape):  # its density has steps
        pairs.append((lambda p: peak.density(x, mass, p), peak.density_slopes(x, mass, phi)))
    for value, slope in pairs:
        for k in range(len(phi)):
            step = np.zeros(len(phi))
            step[k] = 3e-6
            numeric = (value(phi + step) - value(phi - step)) / (2 * step[k])
            np.testing.assert_allclose(slope[:, k], numeric, rtol=1e-5, atol=2e-6 * np.abs(numeric).max())


def test_breit_wigner_against_scipy() -> None:
    peak = BreitWigner(gamma=200.0)
    total, _ = integrate.quad(
        lambda x: peak.density(np.array([x]), 1000.0, np.ones(2))[0], 0, 1e5, limit=500, points=[1000.0]
    )
    assert total == pytest.approx(1.0, abs=1e-6)
    exact, _ = integrate.quad(lambda x: peak.density(np.array([x]), 1000.0, np.ones(2))[0], 900, 1300)
    assert peak.fractions(np.array([[900.0, 1300.0]]), 1000.0, np.ones(2))[0] == pytest.approx(exact, rel=1e-9)


def test_crystal_ball_with_far_tails_is_a_gaussian() -> None:
    ball, gauss = CrystalBall(sigma=50.0, alpha_low=7.0, alpha_high=7.0), GaussianPeak(sigma=50.0)
    bins = bins_of(np.linspace(2800.0, 3200.0, 30))
    one = np.ones(2)
    np.testing.assert_allclose(ball.fractions(bins, 3000.0, one), gauss.fractions(bins, 3000.0, one), atol=1e-10)
    tail = CrystalBall(sigma=50.0, alpha_low=1.0).fractions(np.array([[2000.0, 2800.0]]), 3000.0, one)[0]
    assert tail > 100 * stats.norm.cdf(-4)


def test_template_moves_with_the_mass() -> None:
    h = hist.Hist(hist.axis.Regular(4, 80, 120))
    h.fill([85.0, 95.0, 95.0, 105.0])
    peak, one = TemplateShape(h, mass=100.0), np.ones(1)
    assert peak.fractions(np.array([[190.0, 200.0]]), 200.0, one).tolist() == [0.5]
    stretched = TemplateShape(h, mass=100.0, stretch=True)
    assert stretched.fractions(np.array([[180.0, 200.0]]), 200.0, one).tolist() == [0.5]
    assert stretched.width(200.0) == pytest.approx(2 * peak.width(200.0))


def test_order_of_nodes_follows_the_shape() -> None:
    shape, theta = Dijet(3), np.array([-5.0, 9.0, 4.0])
    fine = order_needed(lambda x: shape.values(x, theta), BINS)
    coarse = order_needed(lambda x: shape.values(x, theta), bins_of([2000.0, 4000.0, 6000.0]))
    assert 2 <= fine < coarse <= 32
    with pytest.raises(ValueError, match="finer bins"):
        order_needed(lambda x: np.exp(-(((x - 3000.0) / 20) ** 2)), bins_of([2000.0, 4000.0]))


def test_bad_shapes_are_refused() -> None:
    for make, message in (
        (lambda: Dijet(6), "3, 4 or 5"),
        (lambda: Dijet(energy=-1.0), "energy"),
        (lambda: Dijet().on((2000.0, 14000.0)), "between 0 and the energy"),
        (lambda: Bernstein(-1), "order"),
        (lambda: Exponential(0), "order"),
        (lambda: Polynomial(2).values(np.ones(1), np.ones(3)), "span"),
        (lambda: GaussianPeak(), "one of them"),
        (lambda: GaussianPeak(1.0, 2.0), "one of them"),
        (lambda: CrystalBall(sigma=1.0, n_low=1.0), "no integral"),
        (lambda: CrystalBall(sigma=1.0, alpha_high=-1.0), "no sign"),
        (lambda: TemplateShape([1.0, 2.0], [0.0, 1.0]), "expected 3"),
        (lambda: TemplateShape([0.0, 0.0], [0.0, 1.0, 2.0]), "positive sum"),
        (lambda: TemplateBackground([1.0, 0.0], [0.0, 1.0, 2.0]), "0 in 1 of 2"),
        (lambda: TemplateBackground([1.0, 2.0], [0.0, 2.0, 1.0]), "rise"),
        (lambda: TEMPLATE.integrals(np.array([[2050.0, 2150.0]]), np.zeros(3)), "across its edge"),
        (lambda: TEMPLATE.on((1000.0, 3000.0)), "inside of the prediction"),
        (lambda: UserShape(lambda x: x, {}), "found none"),
        (lambda: UserShape(lambda x, a: x, {"a": 1.0}, {"a": (2.0, None)}), "start between"),
    ):
        with pytest.raises(ValueError, match=message):
            make()
    with pytest.raises(KeyError, match="no parameter 'b'"):
        UserShape(lambda x, a: x, {"a": 1.0}, {"b": (2.0, None)})
