"""The cross-section analysis: flux, generator, detector, systematics and throws, each against exact answers."""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache, partial

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy import integrate, stats
from scipy.special import expit, logit

import nuinfer as nu
from analyses.numu_cross_section import detector, generator, systematics, unfolding
from analyses.numu_cross_section.flux import CORRELATION, E_MAX, E_MIN, INTEGRAL, NOMINAL, Flux
from analyses.numu_cross_section.generator import MODELS, MUON, NUCLEON, PION, Model
from analyses.numu_cross_section.unfolding import Samples, Size
from nuinfer.unfolding import Binning, Throws, omnifold_throws

Floats = NDArray[np.float64]

A, B = MODELS["A"], MODELS["B"]
EDGES = (
    [0.2, 0.3, 0.4, 0.6], [0.2, 0.4, 0.5, 0.8], [0.2, 0.4, 0.6, 0.8, 1.2], [0.2, 0.4, 0.6, 0.8, 1.0, 1.4],
    [0.2, 0.5, 0.8, 1.1, 1.4, 2.2], [0.2, 0.6, 0.9, 1.2, 1.5, 2.0, 3.0],
)  # fmt: skip
BINS = Binning("cos_true", [-1, 0, 0.4, 0.7, 0.85, 0.95, 1], [Binning("p_true", edges) for edges in EDGES])
SHIFTS: dict[str, dict[str, float]] = {
    "axial_mass": {"axial_mass": 1.0}, "two_nucleon": {"two_nucleon": 1.0}, "resonance": {"resonance": -1.0},
    "low_q2": {"low_q2": 1.5}, "all": {"axial_mass": 0.5, "two_nucleon": -1.0, "resonance": 1.0, "low_q2": -1.0},
}  # fmt: skip
COLUMNS = (*detector.TRUTH, *detector.RECO, "pass_truth", "pass_reco", *detector.LATENT)


@pytest.fixture(scope="module")
def events() -> nu.Events:
    """Interactions of model A."""
    return generator.generate("A", 300_000, 1)


@pytest.fixture(scope="module")
def exact() -> Callable[[Model, Flux], Floats]:
    """Interactions per POT and nucleon in each bin, by quadrature."""
    return lru_cache(lambda model, flux: generator.binned(model, BINS, flux=flux) * BINS.widths * flux.integral())


@pytest.fixture(scope="module")
def seen() -> nu.Events:
    """Simulated events, at 4e19 POT by weight."""
    return detector.simulate("A", 4e19, 3, events=40_000)


def p_value(expected: Floats, found: nu.Events, bins: Binning = BINS) -> float:
    """Of chi2 of the weights in bins, which are independent: absolute rates, no normalisation."""
    contents, squares = bins.fill(found)
    return float(stats.chi2.sf(((contents - expected) ** 2 / squares).sum(), bins.size))


def within(found: float, expected: float, sigma: float, limit: float = 4.0) -> bool:
    return bool(abs(found - expected) < limit * sigma)


# -- the flux ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("flux", [NOMINAL, Flux(1.0, 0.0, 0.0), Flux(0.0, 2.0, 0.0), Flux(-1.0, -1.5, 2.0)])
def test_flux_integrals_are_those_of_its_density(flux: Flux) -> None:
    for low, high in ((E_MIN, E_MAX), (0.5, 1.1)):
        expected = integrate.quad(lambda e: float(flux.density(e)), low, high, epsrel=1e-11, epsabs=0)[0]
        assert flux.integral(low, high) == pytest.approx(expected, rel=1e-9, abs=0)
    assert (flux.density([0.1, 5.5]) == 0).all()


def test_flux_knobs_are_what_they_say() -> None:
    e = np.array([0.5, 0.8, 2.0])
    assert NOMINAL.integral() == pytest.approx(INTEGRAL, rel=1e-12, abs=0)
    np.testing.assert_allclose(Flux(normalisation=2.0).density(e), np.exp(0.1) * NOMINAL.density(e))
    np.testing.assert_allclose(Flux(tilt=1.0).density(e), (e / 0.8) ** 0.1 * NOMINAL.density(e))
    # all energies scaled: phi(E) dE = phi_0(E / s) dE / s
    np.testing.assert_allclose(Flux(peak=1.0).density(e), NOMINAL.density(e / np.exp(0.02)) / np.exp(0.02))


def test_flux_knobs_are_correlated() -> None:
    draws = np.random.default_rng(1).standard_normal((20_000, 3))
    found = np.array([(f.normalisation, f.peak, f.tilt) for f in map(Flux.of, draws)])
    assert np.abs(np.cov(found.T) - CORRELATION).max() < 5 * np.sqrt(2 / 20_000)


# -- cross-sections ----------------------------------------------------------------------------------------------------


def _gammas() -> tuple[NDArray[np.complex128], NDArray[np.complex128]]:
    """gamma^mu (4, 4, 4) and gamma^5, Dirac's representation."""
    pauli = np.array([[[0, 1], [1, 0]], [[0, -1j], [1j, 0]], [[1, 0], [0, -1]]])
    zero = np.kron(np.diag([1, -1]), np.eye(2)).astype(complex)
    gamma = np.stack([zero, *(np.kron([[0, 1], [-1, 0]], s) for s in pauli)])
    return gamma, 1j * gamma[0] @ gamma[1] @ gamma[2] @ gamma[3]


def _by_traces(energy: float, q2: float, axial_mass: float) -> float:
    """d sigma/dQ^2 of nu n -> mu p from the amplitude: traces of Dirac matrices over all spins."""
    gamma, five = _gammas()
    metric = np.diag([1.0, -1, -1, -1])
    muon = energy - q2 / (2 * NUCLEON)
    p = np.sqrt(muon**2 - MUON**2)
    cosine = (2 * energy * muon - MUON**2 - q2) / (2 * energy * p)
    k, target = np.array([energy, 0, 0, energy]), np.array([NUCLEON, 0, 0, 0])
    out = np.array([muon, p * np.sqrt(1 - cosine**2), 0, p * cosine])
    q = k - out
    slash = {name: np.einsum("m,mij->ij", metric @ v, gamma) for name, v in
             {"k": k, "out": out, "target": target, "final": target + q, "q": q}.items()}  # fmt: skip
    ge = (1 + q2 / 0.71) ** -2
    tau = q2 / (4 * NUCLEON**2)
    f1, f2 = ge * (1 + 4.706 * tau) / (1 + tau), ge * 3.706 / (1 + tau)
    ga = 1.267 / (1 + q2 / axial_mass**2) ** 2
    gp = 2 * NUCLEON**2 * ga / (PION**2 + q2)
    tensor = (gamma @ slash["q"] - slash["q"] @ gamma) / 2  # -i sigma^{mu nu} q_nu
    vector = f1 * gamma - f2 / (2 * NUCLEON) * tensor
    hadron = vector - ga * gamma @ five - gp / NUCLEON * q[:, None, None] * five
    lepton = gamma @ (np.eye(4) - five)
    bar = [gamma[0] @ v.conj().transpose(0, 2, 1) @ gamma[0] for v in (lepton, hadron)]
    one = np.eye(4)
    leptons = np.einsum("ij,mjk,kl,nli->mn", slash["out"] + MUON * one, lepton, slash["k"], bar[0])
    hadrons = np.einsum("ij,mjk,kl,nli->mn", slash["final"] + NUCLEON * one, hadron, slash["target"] + NUCLEON * one,
                        bar[1])  # fmt: skip
    squared = np.einsum("mn,ma,nb,ab->", leptons, metric, metric, hadrons).real / 2 / 2  # G^2/2, neutron's spins
    return float(generator.G2 * squared / (16 * np.pi * (2 * NUCLEON * energy) ** 2))


@pytest.mark.parametrize(("energy", "q2"), [(0.4, 0.05), (0.7, 0.3), (1.0, 0.9), (3.0, 0.01), (3.0, 2.5)])
def test_quasi_elastic_is_the_square_of_the_amplitude(energy: float, q2: float) -> None:
    found = float(generator.llewellyn_smith(energy, q2, 1.05))
    assert found == pytest.approx(_by_traces(energy, q2, 1.05), rel=1e-9, abs=0)
    assert found != pytest.approx(_by_traces(energy, q2, 1.0), rel=1e-4, abs=0)


def test_line_shapes_are_densities_with_their_cumulative_and_quantile() -> None:
    for kind in range(3):
        for q2 in (0.02, 0.5, 3.0):
            w2 = np.linspace(-2.0, 4.5, 200_001)
            at = np.full_like(w2, q2)
            density = generator.line_density(kind, w2, at, A)
            summed = integrate.cumulative_trapezoid(density, w2, initial=0)
            np.testing.assert_allclose(summed, generator.line_cumulative(kind, w2, at, A), atol=1e-4)
            level = np.linspace(0.001, 0.999, 999)
            found = generator.line_quantile(kind, level, at[:999], A)
            np.testing.assert_allclose(generator.line_cumulative(kind, found, at[:999], A), level, atol=1e-12)


def test_phase_space_is_that_of_real_angles() -> None:
    rng = np.random.default_rng(2)
    energy, q2 = rng.uniform(0.2, 5, 20_000), rng.uniform(0, 3, 20_000)
    w2 = rng.uniform(0, 4, 20_000)
    q0 = (w2 - A.target**2 + q2) / (2 * A.target)
    muon = energy - q0
    real = (muon > MUON) & (q0 > A.binding)
    p = np.sqrt(np.where(real, muon**2 - MUON**2, 1.0))
    real &= np.abs(2 * energy * muon - MUON**2 - q2) <= 2 * energy * p
    low, high = generator.phase_space(energy, q2, A)
    assert 0.1 < real.mean() < 0.9
    assert np.array_equal(real, (w2 > low) & (w2 < high))


@pytest.mark.parametrize("name", ["A", "B"])
def test_rates_by_two_quadratures_in_different_variables(name: str) -> None:
    # (p, cos, E) with the Jacobian, against (E, Q^2) with the line shapes integrated in closed form
    p, c = np.geomspace(1e-3, E_MAX, 25), np.append(1 - np.geomspace(2, 1e-4, 17), 1.0)
    (x, wx), (y, wy) = (generator._nodes(edges[:-1], edges[1:], 4) for edges in (p, c))
    found = generator.differential(name, x.ravel()[:, None], y.ravel(), points=100)
    found = np.einsum("kpc,p,c->k", found, wx.ravel(), wy.ravel()) * INTEGRAL
    np.testing.assert_allclose(found, generator.rates(name), rtol=5e-4)
    assert np.abs(found / generator.rates("B" if name == "A" else "A") - 1).max() > 0.05


def test_bin_averages_have_converged() -> None:
    p, c = [[0.2, 0.4], [0.6, 0.8], [2.0, 3.0]], [[-1, 0], [0.8, 0.9], [0.98, 1]]
    fine = generator.bin_average("A", p, c, points=600, inner=20)
    np.testing.assert_allclose(generator.bin_average("A", p, c), fine, rtol=1e-4)


def test_total_cross_sections_have_thresholds_and_models_differ() -> None:
    threshold = ((NUCLEON + PION + MUON) ** 2 - A.target**2) / (2 * A.target)
    assert generator.total(generator.RESONANCE, threshold - 0.01, A) == 0
    assert generator.total(generator.RESONANCE, threshold + 0.1, A) > 0
    # 1.267^2 + 1 at Q^2 = 0 for high energies, but for the muon's mass
    assert generator.llewellyn_smith(50.0, 0.0, 1.0) == pytest.approx(
        generator.G2 / (2 * np.pi) * 2.605, rel=2e-3, abs=0
    )
    shares = [generator.rates(name) / generator.rates(name).sum() for name in "AB"]
    assert np.abs(shares[0] - shares[1]).max() > 0.02


# -- generated events --------------------------------------------------------------------------------------------------


def test_kinematics_are_those_of_four_vectors(events: nu.Events) -> None:
    muon = detector.vectors(events, "muon")
    p = np.linalg.norm(muon, axis=1)
    q0, q = events["enu"] - np.hypot(p, MUON), np.array([0, 0, 1]) * events["enu"][:, None] - muon
    np.testing.assert_allclose(p, events["p_true"], atol=1e-12)
    np.testing.assert_allclose(muon[:, 2] / p, events["cos_true"], atol=1e-12)
    np.testing.assert_allclose(q0, events["q0"], atol=1e-9)
    np.testing.assert_allclose((q**2).sum(1) - q0**2, events["q2"], atol=1e-9)
    np.testing.assert_allclose((A.target + q0) ** 2 - (q**2).sum(1), events["w"] ** 2, atol=1e-9)
    assert q0.min() >= A.binding - 1e-9
    azimuth = np.arctan2(muon[:, 1], muon[:, 0])
    assert stats.kstest(azimuth, stats.uniform(-np.pi, 2 * np.pi).cdf).pvalue > 1e-4


def test_hadrons_conserve_energy_and_the_resonance_momentum_too(events: nu.Events) -> None:
    found = {name: detector.vectors(events, name) for name in ("muon", "proton", "second", "pion")}
    kinetic = {name: np.hypot(np.linalg.norm(found[name], axis=1), NUCLEON) - NUCLEON for name in ("proton", "second")}
    nuclear = events["interaction"] < generator.RESONANCE
    np.testing.assert_allclose((kinetic["proton"] + kinetic["second"])[nuclear], events["q0"][nuclear] - A.binding,
                               atol=1e-9)  # fmt: skip
    pion = np.linalg.norm(found["pion"], axis=1)
    both = (pion > 0) & (kinetic["proton"] > 0)
    energy = np.hypot(events["p_true"], MUON) + kinetic["proton"] + NUCLEON + np.hypot(pion, PION)
    np.testing.assert_allclose(energy[both], events["enu"][both] + A.target, atol=1e-9)
    sums = found["muon"] + found["proton"] + found["pion"] - np.array([0, 0, 1]) * events["enu"][:, None]
    assert np.abs(sums[both]).max() < 1e-9
    resonances = int((~nuclear).sum())
    for number, share in ((both.sum(), 162 / 228), (((pion > 0) & ~both).sum(), 22 / 228)):
        assert within(number / resonances, share, np.sqrt(share * (1 - share) / resonances))
    assert (pion[nuclear] == 0).all()


def test_classes_and_energies_have_the_distributions_of_the_integrals(events: nu.Events) -> None:
    rates, edges = generator.rates(A), np.array([E_MIN, 0.4, 0.6, 0.8, 1.0, 1.3, 1.7, 2.5, E_MAX])
    assert events.sum_weights == pytest.approx(rates.sum(), rel=1e-12, abs=0)
    for kind in range(3):
        rows = events["interaction"] == kind
        assert within(rows.mean(), rates[kind] / rates.sum(), np.sqrt(rows.mean() * (1 - rows.mean()) / len(events)))
        e, weight = generator._nodes(edges[:-1], edges[1:], 40)
        expected = (weight * NOMINAL.density(e) * generator.total(kind, e, A)).sum(1) / rates[kind] * rows.sum()
        found = np.histogram(events["enu"][rows], edges)[0]
        flat = NOMINAL.integral(edges[:-1], edges[1:]) / INTEGRAL * rows.sum()  # of the flux, without a cross-section
        good, bad = (stats.chi2.sf(((found - e) ** 2 / e).sum(), len(found) - 1) for e in (expected, flat))
        assert good > 1e-4
        assert bad < 1e-10


def test_momentum_transfer_has_the_cross_sections_distribution() -> None:
    edges = np.array([0.001, 0.02, 0.05, 0.1, 0.2, 0.4, 0.7, 1.2, 2.5])
    drawn = generator.generate(B, 100_000, 4)
    log, weight = generator._nodes(np.log(E_MIN), np.log(E_MAX), 200)
    e, (q2, inner) = np.exp(log), generator._nodes(edges[:-1], edges[1:], 30)
    for kind in range(3):
        density = generator.dsigma_dq2(kind, e[:, None, None], q2, B) * inner
        expected = np.einsum("e,ebq->b", weight * e * NOMINAL.density(e), density) / generator.rates(B).sum() * 1e5
        found = np.histogram(drawn["q2"][drawn["interaction"] == kind], edges)[0]
        assert stats.chi2.sf(((found - expected) ** 2 / expected).sum(), len(found)) > 1e-4


def test_muons_have_the_double_differential_cross_section(
    events: nu.Events, exact: Callable[[Model, Flux], Floats]
) -> None:
    assert p_value(exact(A, NOMINAL), events) > 1e-4
    assert p_value(exact(B, NOMINAL), events) < 1e-20


@pytest.mark.parametrize("name", SHIFTS)
def test_weights_of_a_knob_give_the_other_models_cross_section(
    name: str, events: nu.Events, exact: Callable[[Model, Flux], Floats]
) -> None:
    to = A.shifted(**SHIFTS[name])
    weighted = events.with_weight(events.weight * generator.weight_factor(events, A, to=to))
    assert p_value(exact(to, NOMINAL), weighted) > 1e-4
    assert p_value(exact(to, NOMINAL), events) < 1e-6  # without the weights
    expected = generator.rates(to).sum()
    assert within(weighted.sum_weights, expected, np.std(weighted.weight) * np.sqrt(len(events)))


def test_weights_equal_events_generated_at_the_knobs_values(events: nu.Events) -> None:
    to, flux = A.shifted(**SHIFTS["all"]), Flux.of([0.5, -1.0, 1.0])
    made = generator.generate(to, 300_000, 11, flux=flux)
    factor = generator.weight_factor(events, A, to=to, flux=flux)
    for names in (("q2", [0.02, 0.1, 0.3, 0.8, 2.0], "w", [0.6, 0.9, 1.0, 1.15, 1.3, 1.8]),
                  ("enu", [0.2, 0.6, 1.0, 1.8, 5.0], "p_true", [0.0, 0.3, 0.7, 1.2, 3.0])):  # fmt: skip
        bins = Binning.of({names[0]: names[1], names[2]: names[3]})
        other, variance = bins.fill(made)
        full = other > 0
        for weight, right in ((factor, True), (np.ones(len(events)), False)):
            contents, squares = bins.fill(events, events.weight * weight)
            chi2 = ((contents - other)[full] ** 2 / (squares + variance)[full]).sum()
            assert (stats.chi2.sf(chi2, full.sum()) > 1e-4) == right


def test_flux_weights_give_the_cross_section_times_the_other_flux(
    events: nu.Events, exact: Callable[[Model, Flux], Floats]
) -> None:
    flux = Flux(1.0, 2.0, -1.5)
    weighted = events.with_weight(events.weight * generator.weight_factor(events, A, flux=flux))
    assert p_value(exact(A, flux), weighted) > 1e-4
    assert p_value(exact(A, flux), events) < 1e-6


def test_same_seed_same_interactions(events: nu.Events) -> None:
    first, again, other = (generator.generate("B", 2_000, seed) for seed in (5, 5, 6))
    assert all(np.array_equal(first[name], again[name]) for name in first.columns)
    assert not np.isin(first["enu"], other["enu"]).any()
    assert np.array_equal(first.id, again.id)


def test_generator_refuses_what_it_cannot_do(events: nu.Events) -> None:
    with pytest.raises(KeyError, match="expected one of A, B, found 'C'"):
        generator.generate("C", 10, 1)
    with pytest.raises(ValueError, match="expected n of at least 1"):
        generator.generate("A", 0, 1)
    with pytest.raises(ValueError, match="expected the fermi and binding of"):
        generator.weight_factor(events, "A", to="B")
    with pytest.raises(ValueError, match=r"two arrays \(B, 2\)"):
        generator.bin_average("A", [0.2, 0.4], [0, 1])
    with pytest.raises(ValueError, match="rising momenta from 0"):
        generator.bin_average("A", [[0.2, np.inf]], [[0, 1]])
    with pytest.raises(ValueError, match="from -1 to 1"):
        generator.bin_average("A", [[0.2, 0.3]], [[0, 1.1]])
    with pytest.raises(ValueError, match="columns p_true and cos_true, found q2"):
        generator.binned("A", Binning.of({"q2": [0, 1]}))


# -- tracks and hits ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", detector.TRACKS)
def test_range_is_the_inverse_of_energy(name: str) -> None:
    track, momentum = detector.TRACKS[name], np.array([0.05, 0.2, 0.5, 2.0])
    kinetic = 1e3 * (np.hypot(momentum, track.mass) - track.mass)
    np.testing.assert_allclose(track.energy(track.range(momentum)), kinetic, rtol=1e-9)


def test_distance_to_the_wall() -> None:
    vertex = np.tile([100.0, 50.0, 1000.0], (4, 1))
    half = np.sqrt(0.5)
    direction = np.array([[0, 0, 1.0], [-1.0, 0, 0], [0, half, half], [0, -half, -half]])
    np.testing.assert_allclose(detector.to_wall(vertex, direction), [37, 100, 37 / half, 50 / half])


@pytest.mark.parametrize(("momentum", "start"), [(0.4, 500.0), (1.5, 500.0), (1.5, 1000.0)])
def test_hits_sum_to_the_energy_that_is_lost_inside(momentum: float, start: float) -> None:
    n, track = 4_000, detector.MUON_TRACK
    vertex = np.tile([128.0, 116.0, start], (n, 1))
    hits, counts = detector.hits_of(track, np.tile([0, 0, momentum], (n, 1)), vertex, np.random.default_rng(3))
    reach = float(track.range(np.array(momentum)))
    length = min(reach, 1037 - start)
    lost = float(track.energy(np.array(reach)) - track.energy(np.array(reach - length)))
    steps = min(int(np.ceil(length / 10)), 30)
    assert (counts == steps).all()
    charge, size = hits[:, 3].reshape(n, steps), hits[:, 4].reshape(n, steps)
    np.testing.assert_allclose(size.sum(1), length)
    spread = charge.sum(1).std()
    assert within(charge.sum(1).mean(), lost, spread / np.sqrt(n))
    assert spread < 0.09 * lost
    edges = reach - length / steps * np.arange(steps + 1)
    each = -np.diff(track.energy(np.maximum(edges, 0)))
    assert (np.abs(charge.mean(0) - each) < 5 * 0.08 * each / np.sqrt(n)).all()
    z = hits[:, 2].reshape(n, steps)
    middle = start + length / steps * (np.arange(steps) + 0.5)
    assert (np.abs(z.mean(0) - middle) < 5 * 0.3 / np.sqrt(n)).all()


def test_scattering_grows_along_the_track_as_it_is_written() -> None:
    n, track = 20_000, detector.MUON_TRACK
    hits, counts = detector.hits_of(track, np.tile([0, 0, 3.0], (n, 1)), np.tile([128.0, 116.0, 100.0], (n, 1)),
                                    np.random.default_rng(4))  # fmt: skip
    x = hits[:, 0].reshape(n, counts[0]) - 128
    step = hits[0, 4]
    energy = track.energy(track.range(np.array(3.0)) - step * (np.arange(5) + 0.5)) * 1e-3 + MUON
    angle = 0.0136 / (energy - MUON**2 / energy) * np.sqrt(step / 14)
    # slope after k steps: sum of angles; the place in the middle of step k is half of that step's slope beyond the last
    arms = np.tril(np.arange(5)[:, None] - np.arange(5) + 0.5)
    expected = np.sqrt(((arms * step * angle) ** 2).sum(1) + 0.3**2)
    np.testing.assert_allclose(x[:, :5].std(0), expected, rtol=5 / np.sqrt(2 * n) + 2e-3)
    assert expected[4] > 2 * expected[0]


def test_visible_energy_is_the_sum_of_charges(seen: nu.Events) -> None:
    hits = seen.ragged("hits.q")
    owner = np.repeat(np.arange(len(seen)), hits.counts)
    np.testing.assert_allclose(np.bincount(owner, hits.values), seen["e_visible"], rtol=1e-5)
    assert hits.counts.min() >= 1
    assert hits.counts.max() <= 60
    assert 15 < hits.counts.mean() < 35
    assert len({seen.ragged(f"hits.{name}").offsets.tobytes() for name in detector.HITS}) == 1


# -- what is measured --------------------------------------------------------------------------------------------------


def test_found_fraction_is_the_efficiency(seen: nu.Events) -> None:
    inside = (seen["p_reco"] > detector.P_MIN) & (seen["e_visible"] > detector.E_VISIBLE_MIN) & seen["fiducial_reco"]
    index = Binning.of({"p_true": [0.15, 0.25, 0.35, 0.5, 1.0], "cos_true": [-1, 0.3, 0.8, 1]}).index(seen)
    expected = 0.92 * (1 - np.exp(-((seen["p_true"] / 0.25) ** 2))) * (0.8 + 0.2 * seen["cos_true"])
    np.testing.assert_allclose(expected, seen["efficiency"])
    pulls = []
    for cell in range(12):
        rows = (index == cell) & inside
        variance = (expected[rows] * (1 - expected[rows])).sum()
        pulls.append((seen["pass_reco"][rows].sum() - expected[rows].sum()) / np.sqrt(variance))
    assert np.abs(pulls).max() < 4
    assert not seen["pass_reco"][~inside].any()
    flat = seen["pass_reco"][inside].mean()
    assert abs(seen["pass_reco"][inside & (seen["p_true"] < 0.3)].mean() - flat) > 0.1  # it depends on the momentum


def test_resolutions_are_the_stated_ones() -> None:
    n = 20_000
    for p, length_at_least in ((0.3, 0.0), (3.0, 200.0)):
        names = {f"{name}_{axis}": np.zeros(n) for name in detector.TRACKS for axis in "xyz"}
        columns = names | {"muon_x": np.full(n, 0.6 * p), "muon_z": np.full(n, 0.8 * p)}
        found = detector.observe(nu.Events(columns), 7)
        contained = found["contained"]
        rows = contained if p == 0.3 else ~contained
        assert rows.mean() > 0.5
        pull = np.log(found["p_reco"] / p)
        if p == 0.3:
            assert within(pull[rows].std(), 0.03, 0.03 / np.sqrt(2 * rows.sum()))
        else:  # exiting tracks are measured by their length, of which the hits know
            size = found.ragged("hits.length")
            length = np.bincount(np.repeat(np.arange(n), size.counts), size.values)
            pull = pull / np.hypot(0.10, 0.12 * np.sqrt(100 / np.maximum(length, 20.0)))
            assert within(pull[rows].std(), 1.0, 1 / np.sqrt(2 * rows.sum()))
            long = rows & (length > length_at_least)
            sigma = 0.02 / np.hypot(1, 0.02) * 0.6  # two projected angles move cos theta by sin theta times one of them
            assert within(found["cos_reco"][long].std(), sigma, sigma / np.sqrt(2 * long.sum()), 6.0)
        assert within(pull[rows].mean(), 0.0, pull[rows].std() / np.sqrt(rows.sum()))


def test_truth_is_the_fiducial_volumes_cross_section(seen: nu.Events, exact: Callable[[Model, Flux], Floats]) -> None:
    pot = 4e19
    signal = seen.select(seen["pass_truth"])
    expected = pot * detector.TARGETS * exact(A, NOMINAL)
    assert p_value(expected, signal) > 1e-4
    assert p_value(expected, seen) < 1e-20  # with what is outside of the fiducial volume
    assert seen.sum_weights == pytest.approx(pot * generator.rates("A").sum() * detector.TARGETS_ACTIVE, rel=1e-9)


def test_signal_fakes_and_misses_are_all_there(seen: nu.Events) -> None:
    truth, reco = seen["pass_truth"], seen["pass_reco"]
    assert (seen["p_true"][truth] > 0.2).all()
    assert 0.7 < reco[truth].mean() < 0.9
    assert 0.01 < (~truth)[reco].mean() < 0.1
    assert len(detector.either(seen)) == (truth | reco).sum() < len(seen)
    assert all(np.isfinite(seen[name]).all() for name in COLUMNS)


def test_numbers_are_poisson_and_hits_optional() -> None:
    full, bare = (detector.simulate("B", 1e19, 8, hits=hits) for hits in (True, False))
    assert [name for name in full.columns if "." not in name] == list(bare.columns) == list(COLUMNS)
    assert all(np.array_equal(full[name], bare[name]) for name in COLUMNS)
    assert (full.weight == 1).all()
    numbers = [len(detector.simulate("A", 1e18, seed, hits=False)) for seed in range(20)]
    mean = 1e18 * generator.rates("A").sum() * detector.TARGETS_ACTIVE
    assert within(float(np.mean(numbers)), mean, np.sqrt(mean / 20))
    assert 0.3 < np.var(numbers) / mean < 2.5


def test_background_is_pions_taken_for_muons() -> None:
    found = detector.background("A", 2e20, 9, events=20_000, hits=False)
    expected = 0.35 * 2e20 * generator.rates("A")[2] * detector.TARGETS_ACTIVE * (162 + 22) / 228
    assert within(found.sum_weights / expected, 1.0, np.sqrt((44 / 228) / len(found)))
    assert not found["pass_truth"].any()
    assert (found["interaction"] == detector.NEUTRAL_CURRENT).all()
    assert np.isnan(found["p_true"]).all()
    share = found["pass_reco"].mean()
    assert 0.05 < share < 0.5
    assert found["efficiency"].max() < 0.92 * 0.8


def test_pseudo_data_are_what_is_selected_of_both() -> None:
    data = detector.pseudo_data("B", 2e19, 10)
    simulated, pions = (f("B", 2e19, 77, events=20_000, hits=False) for f in (detector.simulate, detector.background))
    expected = sum(part.weight[part["pass_reco"]].sum() for part in (simulated, pions))
    variance = sum((part.weight[part["pass_reco"]] ** 2).sum() for part in (simulated, pions))
    assert data["pass_reco"].all()
    assert (data.weight == 1).all()
    assert within(len(data), expected, np.sqrt(expected + variance))
    assert 0 < (data["interaction"] == 3).mean() < 0.1


def test_samples_refuse_bad_exposures() -> None:
    for pot in (0.0, -1.0, np.nan, 1e24):
        with pytest.raises(ValueError, match="pot: expected from 0 to"):
            detector.simulate("A", pot, 1)
    with pytest.raises(ValueError, match="at least one event"):
        detector.simulate("A", 1.0, 1)


# -- systematics -------------------------------------------------------------------------------------------------------


def test_five_sources_that_do_nothing_at_zero_and_stay_positive(seen: nu.Events) -> None:
    found = systematics.sources("A")
    assert list(found) == ["flux", "cross_section", "two_nucleon", "detector_scale", "efficiency"]
    for source in found.values():
        same = source(seen, np.zeros(len(source.knobs)))
        np.testing.assert_allclose(same.weight, seen.weight, rtol=1e-12)
        assert np.array_equal(same["pass_reco"], seen["pass_reco"])
        for name in COLUMNS:
            np.testing.assert_allclose(same[name], seen[name], rtol=1e-12)
        for alpha in (-5.0, 5.0):
            moved = source(seen, np.full(len(source.knobs), alpha))
            assert (moved.weight > 0).all()
            assert np.array_equal(moved.id, seen.id)
            assert not np.array_equal(moved.weight, seen.weight) or (moved["pass_reco"] != seen["pass_reco"]).any()


def test_sources_accept_a_number_or_one_for_each_knob(seen: nu.Events) -> None:
    found = systematics.sources("A")
    one, same = found["two_nucleon"](seen, 1.0), found["two_nucleon"](seen, [1.0])
    assert np.array_equal(one.weight, same.weight)
    pairs = seen["interaction"] == generator.TWO_NUCLEON
    np.testing.assert_allclose(one.weight / seen.weight, np.where(pairs, np.exp(0.4), 1.0))
    with pytest.raises(ValueError, match="flux: expected 3 finite numbers"):
        found["flux"](seen, 1.0)
    with pytest.raises(ValueError, match="efficiency: expected 1 finite number"):
        found["efficiency"](seen, np.nan)


def test_scale_shifts_and_selects_anew(seen: nu.Events) -> None:
    moved = systematics.sources("A")["detector_scale"](seen, 2.0)
    factor = np.where(seen["contained"], np.exp(0.02), np.exp(0.06))
    np.testing.assert_allclose(moved["p_reco"], seen["p_reco"] * factor)
    np.testing.assert_allclose(moved["e_visible"], seen["e_visible"] * np.exp(0.04))
    for name, scale in (("q", 0.04), ("x", 0.02), ("length", 0.02)):
        np.testing.assert_allclose(moved[f"hits.{name}"].values, seen[f"hits.{name}"].values * np.exp(scale), rtol=1e-5)
    above = (moved["p_reco"] > 0.2) & (moved["e_visible"] > 100)
    expected = (seen["draw"] < seen["efficiency"]) & above & seen["fiducial_reco"]
    assert np.array_equal(moved["pass_reco"], expected)
    gained = moved["pass_reco"] & ~seen["pass_reco"]
    assert gained.sum() > 10
    assert (seen["p_reco"][gained & (seen["e_visible"] > 100)] < 0.2).all()
    assert np.array_equal(moved["pass_truth"], seen["pass_truth"])


def test_efficiency_shift_finds_as_many_as_its_logit_says(seen: nu.Events) -> None:
    source = systematics.sources("A")["efficiency"]
    up, down = source(seen, 1.0)["pass_reco"], source(seen, -1.0)["pass_reco"]
    assert (up | seen["pass_reco"] == up).all()  # what was found stays found
    assert (down & seen["pass_reco"] == down).all()
    inside = (seen["p_reco"] > detector.P_MIN) & (seen["e_visible"] > detector.E_VISIBLE_MIN) & seen["fiducial_reco"]
    for alpha, found in ((1.0, up), (-1.0, down)):
        expected = expit(logit(seen["efficiency"]) + 0.25 * alpha)[inside]
        sigma = np.sqrt((expected * (1 - expected)).sum())
        assert within(found[inside].sum(), expected.sum(), sigma)
        assert not within(seen["pass_reco"][inside].sum(), expected.sum(), sigma)


def test_sources_applied_in_any_order_shift_all_at_once(seen: nu.Events) -> None:
    alpha = {"flux": [0.5, -1.0, 1.0], "cross_section": [1.0, -1.0, 0.5], "two_nucleon": 1.0, "detector_scale": -1.5,
             "efficiency": 1.0}  # fmt: skip
    found = systematics.sources("A")
    there, back = seen, seen
    for name, value in alpha.items():
        there = found[name](there, value)
    for name, value in reversed(alpha.items()):
        back = found[name](back, value)
    assert np.array_equal(there["pass_reco"], back["pass_reco"])
    np.testing.assert_allclose(there.weight, back.weight, rtol=1e-12)
    to = A.shifted(axial_mass=1.0, resonance=-1.0, low_q2=0.5, two_nucleon=1.0)
    factor = generator.weight_factor(seen, A, to=to, flux=Flux.of([0.5, -1.0, 1.0]))
    np.testing.assert_allclose(there.weight, seen.weight * factor, rtol=1e-12)
    for name in ("detector_scale", "efficiency"):  # neither alone selects these
        assert not np.array_equal(found[name](seen, alpha[name])["pass_reco"], there["pass_reco"])


def test_single_knobs_are_the_sources_one_by_one(seen: nu.Events) -> None:
    found = systematics.single_knobs("A")
    assert [k for source in systematics.sources("A").values() for k in source.knobs] == list(found)
    assert len(found) == 9
    alpha = {"axial_mass": 1.0, "resonance": -1.0, "low_q2": 0.5}
    moved = seen
    for knob, value in alpha.items():
        moved = found[knob](moved, value)
        assert not np.array_equal(found[knob](seen, value).weight, seen.weight)
    np.testing.assert_allclose(moved.weight, systematics.sources("A")["cross_section"](seen, [1, -1, 0.5]).weight)


def test_samples_of_neighbouring_seeds_share_no_random_numbers() -> None:
    simulated, pions = detector.simulate("A", 1e18, 4, hits=False), detector.background("A", 1e19, 3, hits=False)
    assert not np.isin(pions["draw"], simulated["draw"]).any()
    assert not np.isin(pions["enu"], simulated["enu"]).any()
    assert np.isin(simulated["draw"], detector.simulate("A", 1e18, 4, hits=False)["draw"]).all()


# -- throws ------------------------------------------------------------------------------------------------------------


NORMALISATION = 2.0  # standard deviations of the flux's normalisation, its shape as it is


@pytest.fixture(scope="module")
def signal() -> Samples:
    """Without background and fakes, whose yields would follow the flux while the data do not."""
    samples = Samples.of(Size(pot=1e19, events=10_000), 1)
    simulated = samples.simulation.select(samples.simulation["pass_truth"])
    simulated = simulated.select(unfolding.TRUTH.index(simulated) >= 0)  # what is beyond the bins is a fake to them
    return Samples(samples.data, detector.either(simulated), samples.background, samples.pot)


def knobs_of(alpha: float) -> Floats:
    """The flux's knobs (3,) that move its normalisation alone."""
    return np.asarray(np.linalg.solve(np.linalg.cholesky(CORRELATION), [alpha, 0.0, 0.0]), np.float64)


def normalised(events: nu.Events, alpha: float) -> nu.Events:
    return systematics.sources("A")["flux"](events, knobs_of(alpha))


def binned_pair(samples: Samples) -> tuple[Floats, Floats]:
    one, other = (unfolding.both(samples.data, simulation, None, 1) for simulation in pair(samples))
    return one.values, other.values


def flow_pair(samples: Samples) -> tuple[Floats, Floats]:
    unfold = partial(unfolding.generated, Size(epochs=1, flow_batch=1024), samples.data)
    one, other = (unfold(simulation, None, 1) for simulation in pair(samples))
    return one.values, other.values


def folded_pair(samples: Samples, *, hits: bool) -> tuple[Floats, Floats]:
    """By last layers of one network, in a throw whose knob is ours."""
    size = Size(members=1, hit_members=1, epochs=1, batch=512)
    throws = Throws(count=2, systematics={"flux": lambda e, alpha: normalised(e, NORMALISATION)}, data=False,
                    simulation=False, seed=1)  # fmt: skip
    options = unfolding.fold_options(size, hits=hits) | {"iterations": 2}
    found = omnifold_throws(samples.data, samples.simulation, throws, unfolding.TRUTH, progress=False, **options)
    return found.nominal.values, found.spectra[0]


def pair(samples: Samples) -> tuple[nu.Events, nu.Events]:
    return samples.simulation, normalised(samples.simulation, NORMALISATION)


METHODS: dict[str, Callable[[Samples], tuple[Floats, Floats]]] = {
    "binned": binned_pair, "OmniFold": partial(folded_pair, hits=False),
    "OmniFold, hits": partial(folded_pair, hits=True), "flow": flow_pair,
}  # fmt: skip


@pytest.mark.parametrize("method", METHODS)
def test_the_flux_normalisation_moves_each_cross_section_by_its_exact_factor(method: str, signal: Samples) -> None:
    """Events are what they were, and the flux they are divided by grows: u exp(-0.05 alpha), in every bin."""
    nominal, shifted = METHODS[method](signal)
    factors = unfolding.to_nominal(signal, knobs_of(NORMALISATION)[None])
    carried = shifted.reshape(-1, unfolding.TRUTH.size) * factors
    exact = nominal.reshape(carried.shape) * np.exp(-0.05 * NORMALISATION)
    size = np.abs(exact).max()
    np.testing.assert_allclose(carried, exact, rtol=1e-6)
    assert np.abs(shifted - exact.ravel()).max() > 0.05 * size  # in the thrown flux
    assert np.abs(nominal - exact.ravel()).max() > 0.05 * size  # by a method that does not know of it
