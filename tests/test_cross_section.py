"""Cross-sections: dimensions, the exact flux-averaged truth, which flux, ratios, norm and shape."""

from __future__ import annotations

from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import hist
import numpy as np
import pytest
from numpy.typing import NDArray
from scipy import stats

from analyses.numu_cross_section import detector, generator, systematics
from analyses.numu_cross_section.detector import TARGETS
from analyses.numu_cross_section.flux import E_MAX, E_MIN, NOMINAL, Flux
from nuinfer import Events
from nuinfer.errors import CorruptFile
from nuinfer.unfolding import (
    Binning,
    Response,
    Spectrum,
    Throws,
    iterative_bayes,
    tikhonov,
    unfold_throws,
    wiener_svd,
)
from nuinfer.unfolding.cross_sections import (
    CrossSection,
    Integrated,
    cross_section,
    flux_integral,
    spectrum_ratio,
)

Floats = NDArray[np.float64]

POT = 3e20
WHOLE = Binning.of({"p_true": [0.0, 0.3, 0.6, 5.1], "cos_true": [-1.0, 0.6, 1.0]})
SLICES = Binning(
    "cos_true", [-1.0, 0.5, 0.9, 1.0],
    [Binning("p_true", [0.2, 0.5, 0.8]), Binning("p_true", [0.2, 0.6, 1.0, 2.0]), Binning("p_true", [0.4, 1.0, 2.0])],
)  # fmt: skip
UNITS = {"p_true": "GeV", "cos_true": ""}
LINE = Binning("p", [0.0, 1.0, 3.0, 3.5])


def spectrum(values: Any = (50.0, 60.0, 20.0), bins: Binning = LINE, **more: Any) -> Spectrum:
    found = np.asarray(values, np.float64)
    return Spectrum(bins, found, **({"covariances": {"data": np.diag(found)}} | more))


def measured(found: Spectrum | None = None, **more: Any) -> CrossSection:
    usual: dict[str, Any] = {"flux": 2e-3, "targets": 1e4, "exposure": 5.0, "averaging": "nominal"}
    return cross_section(spectrum() if found is None else found, **(usual | more))


@cache
def sample() -> Events:
    """Interactions of model A, weighted to the exact rate per POT and nucleon."""
    return generator.generate("A", 200_000, 5)


def of_flux(flux: Flux, events: Events, bins: Binning) -> Floats:
    """Interactions per POT and nucleon (B,) in the sample, had the flux been this one."""
    energy = events["enu"]
    return bins.fill(events, events.weight * flux.density(energy) / NOMINAL.density(energy))[0]


# -- numbers and units -------------------------------------------------------------------------------------------------


def test_a_counting_experiment_by_hand() -> None:
    found = measured(units={"p": "GeV"})
    np.testing.assert_allclose(found.values, np.array([50, 60 / 2, 20 / 0.5]) / (2e-3 * 1e4 * 5.0), rtol=1e-14)
    np.testing.assert_allclose(found.uncertainty, np.sqrt([50, 60, 20]) / 100 / [1, 2, 0.5], rtol=1e-14)
    assert found.units == "cm^2 / GeV / nucleon"
    assert found.names == ("p",)
    total = found.integrated()
    assert total == Integrated(pytest.approx(1.3), pytest.approx(np.sqrt(130) / 100), {"data": pytest.approx(0.013)})
    np.testing.assert_allclose(found.hist().values(), found.values)
    np.testing.assert_allclose(found.hist().variances(), found.uncertainty**2)


@pytest.mark.parametrize(
    ("change", "factor"),
    [({"flux": 2e-3 * 1e4}, 1e-4), ({"flux": 2e-3 / 7, "exposure": 35.0}, 1.0), ({"targets": 5e3}, 2.0)],
    ids=["per m^2 instead of cm^2", "per livetime instead of POT", "per proton-neutron pair"],
)
def test_a_change_of_units_is_a_factor(change: dict[str, float], factor: float) -> None:
    np.testing.assert_allclose(measured(**change).values, measured().values * factor, rtol=1e-13)
    np.testing.assert_allclose(measured(**change).covariance, measured().covariance * factor**2, rtol=1e-13)


def test_momenta_in_mev_give_a_thousandth_per_mev_and_the_same_total() -> None:
    fine = Binning("p", LINE.edges * 1000)
    mev, gev = measured(spectrum(bins=fine), units={"p": "MeV"}), measured(units={"p": "GeV"})
    np.testing.assert_allclose(mev.values * 1000, gev.values, rtol=1e-13)
    assert mev.integrated().value == pytest.approx(gev.integrated().value, rel=1e-13)
    assert mev.integrated().uncertainty == pytest.approx(gev.integrated().uncertainty, rel=1e-13)


def test_it_is_differential_in_what_is_asked_for() -> None:
    two = spectrum(np.arange(1.0, 7.0), WHOLE)
    widths = np.diff(WHOLE.cells, axis=2)[..., 0]
    both, one, none = (measured(two, differential=d) for d in (None, ["p_true"], []))
    np.testing.assert_allclose(both.values * widths.prod(1), none.values, rtol=1e-14)
    np.testing.assert_allclose(one.values * widths[:, 0], none.values, rtol=1e-14)
    assert [c.units for c in (both, one, none)] == [
        "cm^2 / [p_true] / [cos_true] / nucleon", "cm^2 / [p_true] / nucleon", "cm^2 / nucleon",
    ]  # fmt: skip
    assert measured(two, units=UNITS).units == "cm^2 / GeV / nucleon"
    assert measured(two, units=UNITS, area="m^2", target="argon").units == "m^2 / GeV / argon"
    assert {round(c.integrated().value, 12) for c in (both, one, none)} == {0.21}


def test_an_overflow_bin_is_refused_or_left_undivided() -> None:
    over = spectrum((50.0, 60.0), Binning("p", [0.0, 1.0, np.inf]))
    with pytest.raises(ValueError, match=r"without an end \(bin 1 \(1 <= p < inf\)\); give them edges"):
        measured(over)
    np.testing.assert_allclose(measured(over, differential=()).values, [0.5, 0.6])


# -- the exact truth ---------------------------------------------------------------------------------------------------


def test_noiseless_total_is_the_exact_flux_average() -> None:
    """The rate over all of phase space is a quadrature in (E, Q2), the average in bins one in (p, cos, E)."""
    rate = float(generator.rates("A").sum())
    inside = generator.binned("A", WHOLE) * WHOLE.widths
    events = POT * TARGETS * rate * inside / inside.sum()  # the shape from one, the absolute number from the other
    found = cross_section(
        spectrum(events, WHOLE), flux=float(NOMINAL.integral()), targets=TARGETS, exposure=POT, averaging="nominal",
        units=UNITS,
    )  # fmt: skip
    np.testing.assert_allclose(found.values, generator.binned("A", WHOLE), rtol=1e-3)  # p up to 5.1 with few points
    assert found.integrated().value == pytest.approx(0.7183e-38, rel=1e-4)  # of the model's table
    assert found.units == "cm^2 / GeV / nucleon"


@pytest.mark.parametrize("bins", [WHOLE, SLICES], ids=["grid", "slices"])
def test_events_give_the_exact_average_in_bins(bins: Binning) -> None:
    rate, squares = bins.fill(sample())
    scale = POT * TARGETS
    found = cross_section(
        spectrum(rate * scale, bins, covariances={"simulation": np.diag(squares) * scale**2}),
        flux=_flux_hist(400), targets=TARGETS, exposure=POT, averaging="nominal", units=UNITS,
    )  # fmt: skip
    exact = generator.binned("A", bins)
    assert found.chi2(exact).p_value > 1e-4
    assert found.chi2(generator.binned("B", bins)).p_value < 1e-10
    wrong = cross_section(
        spectrum(rate * scale, bins, covariances={"simulation": np.diag(squares) * scale**2}), flux=_flux_hist(400),
        targets=TARGETS, exposure=POT, averaging="nominal", differential=["p_true"],
    )  # fmt: skip
    assert wrong.chi2(exact).p_value < 1e-10


def _flux_hist(bins: int) -> Any:
    edges = np.linspace(E_MIN, E_MAX, bins + 1)
    filled = hist.Hist(hist.axis.Variable(edges, name="enu"), storage=hist.storage.Double())
    filled.view()[:] = NOMINAL.integral(edges[:-1], edges[1:])
    return filled


def test_flux_from_histogram_density_and_number_agree() -> None:
    exact, edges = float(NOMINAL.integral()), np.linspace(E_MIN, E_MAX, 2001)
    assert flux_integral(_flux_hist(37)) == pytest.approx(exact, rel=1e-12)
    density = (NOMINAL.density((edges[1:] + edges[:-1]) / 2), edges)
    assert flux_integral(density) == pytest.approx(exact, rel=1e-5)  # midpoints
    assert flux_integral(exact) == exact
    part = float(NOMINAL.integral(0.5, 2.0))
    assert flux_integral(density, low=0.5, high=2.0) == pytest.approx(part, rel=1e-5)
    assert flux_integral(_flux_hist(480), low=0.5, high=2.0) == pytest.approx(part, rel=1e-5)


def test_bad_fluxes() -> None:
    filled = _flux_hist(4)
    filled.view(flow=True)[-1] = 1e-10
    with pytest.raises(ValueError, match="no content in under- and overflow"):
        flux_integral(filled)
    for wrong, message in [
        (0.0, "flux: expected a positive"), (np.nan, "flux: expected a positive"), (([1.0, -1], [0, 1, 2]), "from 0"),
        (([1.0, np.nan], [0, 1, 2]), "finite"), (([1.0, 1.0], [0, 1]), r"edges \(E \+ 1,\)"),
        (([0.0, 0.0], [0, 1, 2]), "flux: expected a positive"),
        (hist.Hist.new.Reg(2, 0, 1).Reg(2, 0, 1).Double(), "one axis, found 2"),
    ]:  # fmt: skip
        with pytest.raises(ValueError, match=message):
            flux_integral(wrong)
    with pytest.raises(TypeError, match="a pair"):
        flux_integral((1.0, 2.0, 3.0))
    with pytest.raises(ValueError, match="found a number"):
        flux_integral(1.0, low=0.5)
    with pytest.raises(ValueError, match="inside of the edges, 0 to 2, found 1 to 3"):
        flux_integral(([1.0, 1.0], [0, 1, 2]), low=1.0, high=3.0)


# -- which flux --------------------------------------------------------------------------------------------------------


def _throws(number: int, bins: Binning) -> tuple[Floats, Floats, Floats]:
    """Knobs, integrals (R,) and rates (R, B) of thrown fluxes."""
    alphas = np.random.default_rng(11).standard_normal((number, 3))
    fluxes = [Flux.of(alpha) for alpha in alphas]
    events = sample().select(slice(0, 20_000))
    integrals = np.array([float(f.integral()) for f in fluxes])
    return alphas, integrals, np.array([of_flux(f, events, bins) for f in fluxes])


THROWN = Binning("p_true", [0.2, 0.4, 0.6, 0.8, 1.0, 1.5, 2.5])


def test_real_and_nominal_flux_mean_what_they_say() -> None:
    """A world with another flux, seen without noise by a perfect detector."""
    real = Flux(normalisation=1.0, peak=2.0, tilt=-1.0)
    rates = {flux: of_flux(flux, sample(), THROWN) for flux in (NOMINAL, real)}
    usual: dict[str, Any] = {"targets": TARGETS, "exposure": POT, "flux": 1.0}
    truth = {f: rates[f] / f.integral() / THROWN.widths for f in rates}
    assert np.abs(truth[real] / truth[NOMINAL] - 1).max() > 0.04
    seen = spectrum(rates[real] * POT * TARGETS, THROWN)
    own = cross_section(seen, **(usual | {"flux": float(real.integral())}), averaging="real")
    np.testing.assert_allclose(own.values, truth[real], rtol=1e-12)
    # what unfolding with the real flux's response, per truth of the nominal flux, makes of the same data
    back = spectrum(seen.values * rates[NOMINAL] / rates[real], THROWN)
    nominal = cross_section(back, **(usual | {"flux": float(NOMINAL.integral())}), averaging="nominal")
    np.testing.assert_allclose(nominal.values, truth[NOMINAL], rtol=1e-12)
    assert "averaged over the nominal flux;" in repr(nominal)
    assert "averaged over the real flux; the flux's shape is not in the covariance;" in repr(own)


def test_only_nominal_averaging_covers_the_shape_of_the_flux() -> None:
    """Koch and Dolan: over worlds of other fluxes, against the model in the nominal one."""
    _, integrals, rates = _throws(400, THROWN)
    central = of_flux(NOMINAL, sample().select(slice(0, 20_000)), THROWN)
    flat = np.diag((0.01 * central) ** 2)  # a statistical uncertainty of 1%
    model = central / NOMINAL.integral() / THROWN.widths
    made: dict[str, Any] = {"targets": 1.0, "exposure": 1.0, "flux": float(NOMINAL.integral())}
    # the same data, unfolded by each throw's response: to nominal truth, or, with a perfect detector, not at all
    back = spectrum(central, THROWN, covariances={"flux": np.cov((central**2 / rates).T), "data": flat},
                    replicas=central**2 / rates)  # fmt: skip
    nominal = cross_section(back, **made, averaging="nominal")
    still = np.tile(central, (400, 1))
    own = cross_section(
        spectrum(central, THROWN, covariances={"data": flat, "flux": np.zeros((6, 6))}, replicas=still), **made,
        averaging="real", replica_flux=integrals, replica_sources=["flux"],
    )  # fmt: skip
    assert list(nominal.covariances) == ["flux", "data"]
    assert list(own.covariances) == ["data", "throws"]
    expected = np.var(float(NOMINAL.integral()) / integrals, ddof=1) * np.outer(model, model)
    np.testing.assert_allclose(own.covariances["throws"], expected, rtol=1e-9)
    # other worlds: the measurement in the nominal one moved by their fluxes, and noise
    rng = np.random.default_rng(12)
    worlds = rates[:200] * (1 + 0.01 * rng.standard_normal((200, 6)))
    values = {}
    for name, found in (("nominal", nominal), ("real", own)):
        moved = [cross_section(spectrum(w, THROWN), **made, averaging="nominal").values for w in worlds]
        values[name] = np.mean([_chi2(m - model, found.covariance) for m in moved])
    sigma = np.sqrt(2 * 6 / 200)
    # a linear covariance of log-normal variations: 10% of 6 more is allowed
    assert abs(values["nominal"] - 6) < 4 * sigma + 0.6
    assert values["real"] > 6 + 10 * sigma  # the shape is missing
    assert np.sqrt(own.integrated().variances["throws"]) / own.integrated().value == pytest.approx(0.05, rel=0.5)


def test_throws_of_the_whole_analysis() -> None:
    """Spectra of shifted simulation are in the real flux; the two recipes put the flux where it belongs."""
    simulation = detector.either(detector.simulate("A", POT, 9, hits=False, events=20_000))
    signal = simulation.select(simulation["pass_truth"])
    reco = {"p_reco": THROWN.edges}

    def unfold(data: Any, events: Events, background: Any, seed: int) -> Spectrum:
        response = Response.from_events(events, truth=THROWN, reco=reco)
        return iterative_bayes(data, response, iterations=4)

    throws = Throws(
        count=60, systematics={"flux": systematics.sources("A")["flux"]}, data=False, simulation=False, seed=1
    )
    data = Binning.of(reco).fill(simulation.select(simulation["pass_reco"]))[0]
    thrown = unfold_throws(unfold, data, simulation, throws, progress=False)
    fluxes = [Flux.of(alpha) for alpha in thrown.alphas["flux"]]
    made: dict[str, Any] = {"flux": float(NOMINAL.integral()), "targets": TARGETS, "exposure": POT}
    nominal = THROWN.fill(signal)[0]
    factor = nominal / np.array([of_flux(f, signal, THROWN) for f in fluxes])
    integrals = np.array([float(f.integral()) for f in fluxes])
    naive = cross_section(thrown.spectrum, **made, averaging="nominal")
    divided = replace(thrown, spectra=thrown.spectra * (made["flux"] / integrals)[:, None]).spectrum
    real = cross_section(divided, **made, averaging="real")
    extrapolated = replace(thrown, spectra=thrown.spectra * factor).spectrum
    right = cross_section(extrapolated, **made, averaging="nominal")
    spread = {c: c.integrated().uncertainty / c.integrated().value for c in (naive, real, right)}
    assert spread[naive] < 0.01  # the flux is all but missing
    # of 60 throws, known to 9%; those of the knobs' own covariance scatter less
    assert spread[real] == pytest.approx(np.std(made["flux"] / integrals, ddof=1), rel=0.35)
    assert spread[right] == pytest.approx(np.std(factor @ nominal / nominal.sum(), ddof=1), rel=0.35)
    relative = np.sqrt(np.diag(right.decomposed().shape)) / right.values
    assert relative.max() > 2 * (np.sqrt(np.diag(real.decomposed().shape)) / real.values).max()
    assert set(right.covariances) == {"flux", "remainder"}


def _chi2(difference: Floats, covariance: Floats) -> float:
    return float(difference @ np.linalg.solve(covariance, difference))


def test_a_flux_that_both_sides_share_cancels_replica_by_replica() -> None:
    """Truth that follows the flux, divided by that flux: only what is independent stays."""
    rng = np.random.default_rng(3)
    flux, noise = 1 + 0.1 * rng.standard_normal(500), 1 + 0.01 * rng.standard_normal((500, 3))
    mean = np.array([50.0, 60.0, 20.0])
    replicas = mean * flux[:, None] * noise
    found = spectrum(mean, covariances={"all": np.cov(replicas.T)}, replicas=replicas)
    own = measured(found, averaging="real", replica_flux=2e-3 * flux)
    np.testing.assert_allclose(own.replicas, mean / 100 / LINE.widths * noise, rtol=1e-12)
    relative = own.uncertainty / own.values
    np.testing.assert_allclose(relative, 0.01, rtol=4 / np.sqrt(2 * 500))
    assert (measured(found).uncertainty / measured(found).values > 0.08).all()
    assert own.settings["replica_sources"] == ["all"]


def test_normalisations_are_sources_of_their_own() -> None:
    found = measured(normalisation={"flux normalisation": 0.05, "targets": 0.01})
    assert list(found.covariances) == ["data", "flux normalisation", "targets"]
    np.testing.assert_allclose(found.covariances["flux normalisation"], 0.0025 * np.outer(found.values, found.values))
    total = found.integrated()
    assert total.uncertainty == pytest.approx(np.sqrt(0.013 + (0.05**2 + 0.01**2) * 1.3**2))


# -- smearing ----------------------------------------------------------------------------------------------------------


@cache
def _regularised() -> tuple[Spectrum, Floats, Floats]:
    """A regularised spectrum of noiseless data of another truth, that truth, and the simulation's."""
    rng = np.random.default_rng(7)
    t = rng.exponential(1.0, 40_000)
    events = Events({"p": t, "x": t + 0.2 * rng.standard_normal(40_000)})
    bins = Binning("p", [0.0, 0.3, 0.8, 1.2, 2.2, 4.0])
    response = Response.from_events(events.select(t < 4), truth=bins, reco={"x": np.linspace(-0.5, 4.5, 11)})
    truth = response.truth_yield * np.array([1.2, 0.9, 1.1, 1.0, 0.7])
    found = tikhonov(response.fold(truth), response, strength=10.0)
    return found, truth, response.truth_yield


def test_a_c_acts_on_cross_sections() -> None:
    found, truth, prior = _regularised()
    sigma = measured(found)
    model = truth / 100 / sigma.widths
    assert found.smearing is not None
    assert np.abs(found.smearing - np.eye(5)).max() > 0.01  # it does something
    # the spectrum is affine in the truth: the same constant in both
    np.testing.assert_allclose(sigma.smear(model), found.smear(truth) / 100 / sigma.widths, rtol=1e-12)
    for events in (truth, prior):
        assert sigma.chi2(events / 100 / sigma.widths) == pytest.approx(found.chi2(events), rel=1e-6)
    plain = CrossSection(sigma.binning, sigma.values, sigma.covariances, found.smearing, "nominal", "", sigma.widths)
    assert not np.allclose(plain.smear(model), sigma.smear(model), rtol=0.02)  # A_C without the widths is another
    np.testing.assert_allclose(measured(found, differential=()).smearing, found.smearing)


def test_a_cross_section_through_the_detector_is_the_exact_one_smeared() -> None:
    """Noiseless data of model B, unfolded by a simulation of A: the result is A_C times the quadrature of B."""
    simulation = detector.either(detector.simulate("A", POT, 9, hits=False, events=60_000))
    truth = Binning("cos_true", SLICES.edges, [
        Binning("p_true", edges) for edges in ([0.2, 0.45, 0.9], [0.2, 0.6, 1.0, 2.0], [0.2, 0.8, 1.4, 2.5])
    ])  # fmt: skip
    reco = Binning("cos_reco", SLICES.edges, [
        Binning("p_reco", edges) for edges in ([0.2, 0.4, 0.5, 0.7, 1.2], *2 * [[0.2, 0.4, 0.6, 0.9, 1.2, 4.0]])
    ])  # fmt: skip
    response = Response.from_events(simulation, truth=truth, reco=reco)
    exact = {model: generator.binned(model, truth) for model in "AB"}
    events = exact["B"] * truth.widths * POT * TARGETS * NOMINAL.integral()
    data = response.fold(events, fakes=True)
    found = cross_section(
        wiener_svd(data, response), flux=float(NOMINAL.integral()), targets=TARGETS, exposure=POT,
        averaging="nominal", units=UNITS,
    )  # fmt: skip
    np.testing.assert_allclose(found.values, found.smear(exact["B"]), rtol=1e-8)
    assert np.abs(found.values / exact["B"] - 1).max() > 0.005  # what A_C is for
    assert found.chi2(exact["B"]).value < 1e-6
    assert found.chi2(exact["A"]).p_value < 1e-6
    assert found.chi2(exact["B"] * response.efficiency).p_value < 1e-6  # the efficiency is in it


def test_few_replicas_count_as_they_do_in_the_spectrum() -> None:
    throws = np.random.default_rng(1).normal([50.0, 60.0, 20.0], 4.0, (12, 3))
    found = spectrum(covariances={"throws": np.cov(throws.T)}, replicas=throws)
    model = np.array([52.0, 55.0, 24.0])
    result = measured(found)
    scaled, expected = result.chi2(model * result.values / found.values), found.chi2(model)
    np.testing.assert_allclose(scaled, expected, rtol=1e-9)
    # without the factor and the p-value of 12 throws it would be
    plain = _chi2(found.values - model, found.covariance)
    assert scaled.value < 0.8 * plain


def test_a_models_covariance_is_added() -> None:
    found = measured()
    model = found.values * 1.1
    wide = np.outer(model, model) * 0.1**2
    assert found.chi2(model, covariance=wide).value < 0.5 * found.chi2(model).value
    assert found.chi2(found.values).p_value == 1.0


# -- norm and shape ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("bins", [LINE, SLICES], ids=["line", "slices"])
def test_norm_and_shape(bins: Binning) -> None:
    rng = np.random.default_rng(2)
    root = rng.standard_normal((bins.size, bins.size))
    found = measured(spectrum(rng.uniform(50, 90, bins.size), bins, covariances={"data": root @ root.T}))
    norm, shape, mixed = found.decomposed()
    np.testing.assert_allclose(norm + shape + mixed, found.covariance, rtol=1e-12, atol=1e-16)
    w, total = found.widths, found.integrated()
    np.testing.assert_allclose(shape @ w, 0, atol=1e-12 * np.abs(shape).max())  # no norm left in the shape
    assert w @ norm @ w == pytest.approx(total.uncertainty**2)
    assert w @ mixed @ w == pytest.approx(0.0, abs=1e-12 * total.uncertainty**2)
    assert np.linalg.matrix_rank(norm) == 1
    assert np.linalg.eigvalsh(shape)[0] > -1e-12 * np.abs(shape).max()
    assert found.decomposed("data").shape == pytest.approx(shape)


def test_shape_is_the_covariance_of_normalised_throws() -> None:
    """To first order: throws divided by their own total, times the nominal one; the formula without widths fails."""
    rng = np.random.default_rng(4)
    found = measured(spectrum(covariances={"data": np.array([[4.0, 1, 0], [1, 9, -2], [0, -2, 1]])}))
    throws = rng.multivariate_normal(found.values, 1e-4 * found.covariance, 200_000)
    fixed = throws * (found.integrated().value / (throws @ found.widths))[:, None]
    sigma = np.sqrt(2 / 200_000)
    expected = found.decomposed().shape
    scale = np.sqrt(np.outer(np.diag(expected), np.diag(expected)))
    assert (np.abs(1e4 * np.cov(fixed.T) - expected) < 5 * sigma * scale).all()
    f = found.values / found.values.sum()
    project = np.eye(3) - np.outer(f, np.ones(3))
    assert (np.abs(project @ found.covariance @ project.T - expected) > 20 * sigma * scale).any()


def test_a_pure_normalisation_has_no_shape() -> None:
    found = measured(normalisation={"flux normalisation": 0.05})
    norm, shape, mixed = found.decomposed("flux normalisation")
    np.testing.assert_allclose(norm, found.covariances["flux normalisation"], rtol=1e-12)
    assert np.abs([shape, mixed]).max() < 1e-12 * norm.max()
    with pytest.raises(KeyError, match="no source 'flux'; known: 'data', 'flux normalisation'"):
        found.decomposed("flux")
    with pytest.raises(ValueError, match="positive one to compare shapes with, found -"):
        measured(spectrum((-1.0, -2.0, 1.0), covariances={"data": np.eye(3)})).decomposed()


# -- ratios ------------------------------------------------------------------------------------------------------------


def _pair(size: int = 2000, common: float = 0.1, own: float = 0.01) -> tuple[Spectrum, Spectrum]:
    """Two samples whose throws share a variation of each bin."""
    rng = np.random.default_rng(21)
    shared = 1 + common * rng.standard_normal((size, 3))
    pair = []
    for mean in (np.array([50.0, 60.0, 20.0]), np.array([100.0, 80.0, 60.0])):
        replicas = mean * shared * (1 + own * rng.standard_normal((size, 3)))
        pair.append(spectrum(mean, covariances={"statistical": np.cov(replicas.T)}, replicas=replicas))
    return pair[0], pair[1]


def test_throws_in_common_cancel_in_a_ratio() -> None:
    one, other = (measured(s) for s in _pair())
    found = spectrum_ratio(one, other, cross="replicas")
    np.testing.assert_allclose(found.values, one.values / other.values)
    relative = found.uncertainty / found.values
    np.testing.assert_allclose(relative, np.sqrt(2) * 0.01, rtol=4 / np.sqrt(2 * 2000))
    alone = spectrum_ratio(one, other, cross="none")
    np.testing.assert_allclose(alone.uncertainty / alone.values, np.sqrt(2) * 0.1, rtol=0.1)
    # to first order with the cross-covariance that the replicas have
    cross = np.cov(np.hstack([one.replicas, other.replicas]).T)[:3, 3:]
    linear = spectrum_ratio(one, other, cross=cross)
    np.testing.assert_allclose(linear.uncertainty, found.uncertainty, rtol=0.05)
    np.testing.assert_allclose(linear.joint, found.joint, rtol=1e-9)
    np.testing.assert_allclose(linear.joint[:3, 3:], cross)
    assert found.replicas.shape == (2000, 3)


def test_a_ratio_of_spectra_is_one_of_cross_sections() -> None:
    one, other = _pair(50)
    events, sigmas = (spectrum_ratio(*p, cross="replicas") for p in ((one, other), (measured(one), measured(other))))
    np.testing.assert_allclose(events.values, sigmas.values, rtol=1e-13)
    np.testing.assert_allclose(events.covariance, sigmas.covariance, rtol=1e-9)


def test_to_first_order_by_hand() -> None:
    one, other = spectrum([2.0, 3.0, 4.0]), spectrum([4.0, 4.0, 4.0])
    found = spectrum_ratio(one, other, cross=np.diag([1.0, 2.0, 0.0]))
    r = one.values / other.values
    expected = r**2 * (1 / one.values + 1 / other.values - 2 * np.array([1.0, 2.0, 0.0]) / one.values / other.values)
    np.testing.assert_allclose(found.covariance, np.diag(expected), atol=1e-15)


def test_a_common_normalisation_cancels() -> None:
    norm = {"flux normalisation": 0.05, "exposure": 0.02}
    one, other = measured(normalisation=norm), measured(spectrum([80.0, 90.0, 100.0]), normalisation=norm)
    statistical = spectrum_ratio(measured(), measured(spectrum([80.0, 90.0, 100.0])), cross="none")
    found = spectrum_ratio(one, other, cross="none", common=list(norm))
    np.testing.assert_allclose(found.covariance, statistical.covariance, rtol=1e-9, atol=1e-15)
    part = spectrum_ratio(one, other, cross="none", common=["exposure"])
    extra = 2 * 0.05**2 * np.outer(part.values, part.values)
    np.testing.assert_allclose(part.covariance, statistical.covariance + extra, rtol=1e-9, atol=1e-15)
    throws = [measured(s, normalisation=norm) for s in _pair(50)]
    both = spectrum_ratio(*throws, cross="replicas", common=["exposure"])
    plain = spectrum_ratio(*(measured(s) for s in _pair(50)), cross="replicas")
    np.testing.assert_allclose(both.covariance - plain.covariance, 2 * 0.05**2 * np.outer(both.values, both.values))


def test_a_ratio_is_compared_through_both_matrices() -> None:
    found, truth, prior = _regularised()
    ratio = spectrum_ratio(found, spectrum(prior, found.binning), cross="none")
    assert found.smearing is not None
    difference = ratio.values - found.smearing @ truth / prior
    assert ratio.chi2(truth, prior).value == pytest.approx(_chi2(difference, ratio.covariance), rel=1e-6)
    exact = stats.chi2.sf(ratio.chi2(truth, prior).value, 5)
    assert ratio.chi2(truth, prior).p_value == pytest.approx(exact)
    assert "SpectrumRatio(Binning(p: 5, 5 bins); 0." in repr(ratio)


@pytest.mark.parametrize("cross", ["replicas", "none", "matrix"])
def test_chi2_of_a_ratio_of_few_replicas(cross: str) -> None:
    """Of Gaussian replicas over known denominators, or over ones with which all cancels but a part: Fisher's F."""
    rng, mean, below, n = np.random.default_rng(8), np.array([50.0, 60.0, 20.0]), np.array([100.0, 80.0, 60.0]), 12
    width = np.linalg.cholesky(np.array([[4.0, 1.0, 0.0], [1.0, 5.0, 1.0], [0.0, 1.0, 2.0]]))
    p_values, plain, values = [], [], []
    for _ in range(1500):
        measured_, *draws = mean + rng.standard_normal((n + 1, 3)) @ width.T
        replicas = np.array(draws)
        one = spectrum(measured_, covariances={"statistical": np.cov(replicas.T)}, replicas=replicas)
        known = np.tile(below, (n, 1))
        other = spectrum(below, covariances={"statistical": np.zeros((3, 3))}, replicas=known)
        ratio = spectrum_ratio(one, other, cross=np.zeros((3, 3)) if cross == "matrix" else cross)  # type: ignore[arg-type]
        found = ratio.chi2(mean, below)
        p_values.append(found.p_value)
        values.append(found.value)
        difference = ratio.values - mean / below
        plain.append(stats.chi2.sf(difference @ np.linalg.solve(ratio.covariance, difference), 3))
    assert stats.kstest(p_values, "uniform").pvalue > 0.01
    assert stats.kstest(plain, "uniform").pvalue < 1e-6
    # T^2 (n - p - 2) / (n - 1) has mean p
    assert np.mean(values) == pytest.approx(3, abs=4 * np.std(values) / np.sqrt(len(values)))


def test_few_replicas_beside_known_directions() -> None:
    """Five replicas of eight bins and three known directions: C has no variance in the last one, which nobody knows."""
    rng = np.random.default_rng(3)
    replicas = rng.standard_normal((5, 8))
    known = 30 * rng.standard_normal((8, 3))
    binning = Binning("p", np.arange(9.0))
    covariances = {"flux": known @ known.T, "statistical": np.cov(replicas.T)}
    found = spectrum(np.ones(8), binning, covariances=covariances, replicas=replicas)
    assert found.draws == 5
    assert not found.enough_draws
    exact = covariances | {"floor": 100 * np.eye(8)}  # with variance everywhere little is of replicas
    assert spectrum(np.ones(8), binning, covariances=exact, replicas=replicas).enough_draws
    many = rng.standard_normal((200, 2)) @ rng.standard_normal((2, 8))  # regularised to two directions: that is known
    regular = spectrum(np.ones(8), binning, covariances={"statistical": np.cov(many.T)}, replicas=many)
    assert regular.draws == 200


def test_replicas_behind_a_ratio() -> None:
    one, other = _pair(8, common=0.1, own=0.05)
    pairs = np.hstack([one.replicas, other.replicas])
    ratio = spectrum_ratio(one, other, cross="replicas")
    assert [count for _, count in ratio.estimated] == [8]
    np.testing.assert_allclose(ratio.estimated[0][0], ratio.covariance)
    linear = spectrum_ratio(one, other, cross=np.cov(pairs.T)[:3, 3:])
    assert [count for _, count in linear.estimated] == [8]
    np.testing.assert_allclose(linear.estimated[0][0], linear.covariance)
    apart = spectrum_ratio(one, other, cross="none")
    assert [count for _, count in apart.estimated] == [8, 8]
    np.testing.assert_allclose(apart.estimated[0][0] + apart.estimated[1][0], apart.covariance)
    few = [replace(s, replicas=s.replicas[:5]) for s in (one, other)]
    with pytest.raises(ValueError, match="replicas"):
        spectrum_ratio(*few, cross="replicas").chi2(one.values, other.values)


def test_bad_ratios() -> None:
    one, other = _pair(20)
    with pytest.raises(ValueError, match="other edges"):
        spectrum_ratio(one, spectrum((1.0, 2.0), Binning("p", [0, 1, 2])), cross="none")
    with pytest.raises(ValueError, match="same units, found 'events' and 'cm"):
        spectrum_ratio(one, measured(other), cross="none")
    with pytest.raises(ValueError, match="over the same flux, found 'nominal' and 'real'"):
        spectrum_ratio(measured(one), measured(other, averaging="real"), cross="none")
    with pytest.raises(ValueError, match=r"positive denominator, found 0 in bin 1 \(1 <= p < 3\)"):
        spectrum_ratio(one, spectrum([1.0, 0.0, 2.0]), cross="none")
    with pytest.raises(ValueError, match="by the same throws, found 20 and 0"):
        spectrum_ratio(one, spectrum(), cross="replicas")
    with pytest.raises(ValueError, match="'replicas', 'none' or a matrix, found 'both'"):
        spectrum_ratio(one, other, cross="both")
    with pytest.raises(ValueError, match=r"\(3, 3\), found shape \(2, 2\)"):
        spectrum_ratio(one, other, cross=np.eye(2))
    with pytest.raises(ValueError, match="negative eigenvalues"):
        spectrum_ratio(one, other, cross=1e3 * np.eye(3))
    with pytest.raises(KeyError, match="no normalisation 'flux'"):
        spectrum_ratio(measured(one), measured(other), cross="none", common=["flux"])
    with pytest.raises(ValueError, match="expected 3 bins"):
        spectrum_ratio(one, other, cross="none").chi2([1.0], [2.0])
    broken = Spectrum(LINE, other.values, other.covariances, replicas=-other.replicas)
    with pytest.raises(ValueError, match="found replica 0 with -"):
        spectrum_ratio(one, broken, cross="replicas")


# -- bad input, files --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"averaging": "mean"}, ValueError, "averaging: expected 'nominal' or 'real', found 'mean'"),
        ({"targets": 0.0}, ValueError, "targets: expected a positive"),
        ({"exposure": np.inf}, ValueError, "exposure: expected a positive"),
        ({"normalisation": {"data": 0.1}}, ValueError, "has a source of that name already"),
        ({"normalisation": {"flux": -0.1}}, ValueError, "a relative uncertainty from 0"),
        ({"differential": ["q"]}, KeyError, "no column of the bins 'q'"),
        ({"units": {"q": "GeV"}}, KeyError, "no column of a differential cross-section 'q'"),
        ({"replica_flux": [1.0, 1.0]}, ValueError, "expected none with averaging='nominal'"),
        ({"replica_flux": [1.0], "averaging": "real"}, ValueError, "at least 2 replicas, found 0"),
        ({"replica_sources": ["data"]}, ValueError, "with replicas, found none"),
    ],
)
def test_bad_input(change: dict[str, Any], error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        measured(**change)


def test_what_is_not_corrected_for_efficiency_is_refused() -> None:
    with pytest.raises(ValueError, match="found one of reconstructed truth; use spectrum"):
        measured(spectrum(corrected=False))
    with pytest.raises(ValueError, match="spectrum: expected finite values"):
        measured(spectrum((1.0, np.nan, 2.0)))


def test_the_flux_is_not_counted_twice() -> None:
    thrown = spectrum(covariances={"flux": np.eye(3)}, replicas=np.random.default_rng(1).uniform(1, 2, (4, 3)))
    with pytest.raises(ValueError, match="in the spectrum's source 'flux' already and would be counted twice"):
        measured(thrown, normalisation={"Flux normalisation": 0.05})
    with pytest.raises(ValueError, match="in replica_flux already"):
        measured(thrown, averaging="real", replica_flux=np.ones(4), normalisation={"flux size": 0.05})
    for wrong, message in (([1.0, 2.0], r"each of 4 replicas"), ([1, 1, 1, -1.0], "positive integrals, found -1")):
        with pytest.raises(ValueError, match=message):
            measured(thrown, averaging="real", replica_flux=wrong)
    with pytest.raises(KeyError, match="no source of the spectrum 'fluxes'"):
        measured(thrown, averaging="real", replica_flux=np.ones(4), replica_sources=["fluxes"])


def test_saved_and_loaded(tmp_path: Path) -> None:
    found = measured(
        spectrum(smearing=np.eye(3) + 0.1, members=np.ones((2, 3)), replicas=np.arange(12.0).reshape(4, 3)),
        averaging="real", replica_flux=[1.0, 2.0, 3.0, 4.0], normalisation={"targets": 0.01}, units={"p": "GeV"},
    )  # fmt: skip
    path = tmp_path / "sigma.safetensors"
    found.save(path)
    again = CrossSection.load(path)
    for name in ("values", "smearing", "widths", "members", "replicas"):
        np.testing.assert_array_equal(getattr(again, name), getattr(found, name))
    assert list(again.covariances) == ["throws", "targets"]
    np.testing.assert_array_equal(again.covariance, found.covariance)
    assert (again.units, again.averaging, again.settings) == (found.units, "real", found.settings)
    assert repr(again) == repr(found)
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(CorruptFile, match="cut short"):
        CrossSection.load(path)
    spectrum().save(path)
    with pytest.raises(ValueError, match="kind 'cross section', found one of kind 'spectrum'"):
        CrossSection.load(path)


def test_without_covariances_there_are_values_only() -> None:
    found = measured(spectrum(covariances={}))
    assert "total 1.3; averaged" in repr(found)
    with pytest.raises(ValueError, match="no covariance"):
        found.integrated()
