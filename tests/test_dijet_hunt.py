"""The hunt in two jets: exact densities of the simulation, searches with and without a signal, shifted features.

Truths written here: densities by scipy's own, masses by numerical integration, and what a search has to find.
"""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy import integrate, special, stats

import nuinfer as nu
from analyses.dijet_hunt import __main__ as program
from analyses.dijet_hunt import simulation
from analyses.dijet_hunt.search import (
    SHIFT,
    WINDOW,
    Compared,
    Settings,
    blind_hunt,
    compare,
    constituent_data,
    constituent_hunt,
    largest_improvement,
    templates_of,
)
from analyses.dijet_hunt.search import Tests as Samples
from analyses.dijet_hunt.simulation import (
    BACKGROUND,
    BADLY,
    BADLY_SHARE,
    CLOUD,
    FEATURES,
    GROWTH,
    MASS,
    PEAK,
    RANGE,
    SIGNAL,
    SIGNAL_REGION,
    Constituents,
    Dijets,
    share_of,
    truth_of,
)
from nuinfer import Trees
from nuinfer.density import MAF

Floats = NDArray[np.float64]

PLAIN, SHIFTED = Dijets(), Dijets(shift=SHIFT)
SMALL = program.FAST


def latent(events: nu.Events, shift: float = 0.0) -> Floats:
    """u (N, 4), by another way: exponents of it are the features."""
    masses = [np.log(np.asarray(events[name]) - shift * events[MASS]) for name in FEATURES[:2]]
    return np.stack([*masses, *(np.log(events[n]) - np.log1p(-np.asarray(events[n])) for n in FEATURES[2:])], 1)


def logit_normal(x: Floats, mean: float, sigma: float) -> Floats:
    return np.asarray(stats.norm.pdf(special.logit(x), mean, sigma) / (x * (1 - x)))


# -- the simulation ----------------------------------------------------------------------------------------------------


def covariance() -> Floats:
    matrix = np.eye(4)
    matrix[np.triu_indices(4, 1)] = BACKGROUND.correlation
    return np.asarray((matrix + matrix.T - np.eye(4)) * np.outer(BACKGROUND.sigma, BACKGROUND.sigma))


@pytest.mark.parametrize("dijets", [PLAIN, SHIFTED], ids=["plain", "shifted"])
def test_densities_are_normalised(dijets: Dijets) -> None:
    """By draws of independent log-normal and logit-normal features, wide enough for both; at 3.5 TeV."""
    rng = np.random.default_rng(1)
    n, width = 200_000, (0.7, 1.0, 0.95, 1.05)
    centre = (np.log(0.11), np.log(0.16), -0.3, -0.5)
    u = rng.normal(centre, width, (n, 4))
    m = np.full(n, 3.5)
    masses, taus = np.exp(u[:, :2]), special.expit(u[:, 2:])
    q = np.prod([stats.lognorm.pdf(masses[:, k], width[k], scale=np.exp(centre[k])) for k in (0, 1)], 0)
    q *= np.prod([logit_normal(taus[:, k], centre[2 + k], width[2 + k]) for k in (0, 1)], 0)
    columns = [*(masses + dijets.shift * m[:, None]).T, *taus.T]
    events = nu.Events({MASS: m, **dict(zip(FEATURES, columns, strict=True))})
    for log in (dijets.log_background(events), dijets.log_signal(events)):
        weight = np.exp(log) / q
        error = weight.std() / np.sqrt(n)
        assert error < 0.03
        assert abs(weight.mean() - 1) < 4 * error
    wrong = np.exp(replace(dijets, shift=dijets.shift + 0.01).log_background(events)) / q
    assert wrong[(events["mJ1"] - dijets.shift * m) < 0.035].sum() == 0  # nothing below what the shift adds


@pytest.mark.parametrize("dijets", [PLAIN, SHIFTED], ids=["plain", "shifted"])
def test_background_follows_its_density(dijets: Dijets) -> None:
    events = dijets.draw_background(20_000, seed=2)
    away = latent(events, dijets.shift) - BACKGROUND.mean - np.log(events[MASS] / 3.5)[:, None] * np.array(GROWTH)
    for k in range(4):
        assert stats.kstest(away[:, k] / BACKGROUND.sigma[k], "norm").pvalue > 0.001
    square = np.einsum("ni,ij,nj->n", away, np.linalg.inv(covariance()), away)
    assert stats.kstest(square, stats.chi2(4).cdf).pvalue > 0.001
    matrix = covariance() / np.outer(BACKGROUND.sigma, BACKGROUND.sigma)
    assert np.corrcoef(away.T) == pytest.approx(matrix, abs=4 / np.sqrt(len(events)))
    assert abs(matrix - np.eye(4)).max() > 30 / np.sqrt(len(events))  # which is not that of independent features
    jacobian = latent(events, dijets.shift)
    found = dijets.log_background(events) - stats.multivariate_normal(np.zeros(4), covariance()).logpdf(away)
    taus = special.expit(jacobian[:, 2:])
    assert found == pytest.approx(-jacobian[:, :2].sum(1) - np.log(taus * (1 - taus)).sum(1), abs=1e-6)


def test_signal_follows_its_density() -> None:
    events = PLAIN.draw_signal(20_000, seed=3)
    u = latent(events)
    for k in range(4):

        def cdf(x: Floats, k: int = k) -> Floats:
            good, bad = (stats.norm.cdf(x, part.mean[k], part.sigma[k]) for part in (SIGNAL, BADLY))
            return np.asarray((1 - BADLY_SHARE) * good + BADLY_SHARE * bad)

        assert stats.kstest(u[:, k], cdf).pvalue > 0.001
        assert stats.kstest(u[:, k], stats.norm(SIGNAL.mean[k], SIGNAL.sigma[k]).cdf).pvalue < 1e-6  # without a tail
    shifted = SHIFTED.draw_signal(20_000, seed=3)
    assert shifted["mJ1"] - 0.1 * shifted[MASS] == pytest.approx(events["mJ1"], abs=1e-12)
    assert SHIFTED.log_ratio(shifted) == pytest.approx(PLAIN.log_ratio(events), abs=1e-6)


def test_masses_follow_theirs() -> None:
    def dijet(m: float) -> float:
        return float((1 - m / 13) ** 8 * (m / 13) ** -3.0)

    whole = integrate.quad(dijet, *RANGE)[0]
    assert share_of(SIGNAL_REGION)[0] == pytest.approx(integrate.quad(dijet, *SIGNAL_REGION)[0] / whole, rel=1e-6)
    assert simulation.mass_background(3.5) == pytest.approx(dijet(3.5) / whole, rel=1e-9)
    assert integrate.quad(lambda m: float(simulation.mass_signal(m)), *RANGE, points=[3.5])[0] == pytest.approx(1)
    m = PLAIN.draw_background(20_000, seed=4)[MASS]
    grid = np.linspace(*RANGE, 300)
    cumulative = [integrate.quad(dijet, RANGE[0], at)[0] / whole for at in grid]
    assert stats.kstest(m, lambda x: np.interp(x, grid, cumulative)).pvalue > 0.001
    for region in (RANGE, SIGNAL_REGION):
        m = PLAIN.draw_signal(20_000, seed=5, region=region)[MASS]
        parts = [(share, stats.norm(mean, sigma)) for share, mean, sigma in PEAK]
        norm = sum(share * (d.cdf(region[1]) - d.cdf(region[0])) for share, d in parts)
        assert stats.kstest(
            m, lambda x: sum(share * (d.cdf(x) - d.cdf(region[0])) for share, d in parts) / norm  # noqa: B023
        ).pvalue > 0.001  # fmt: skip


def test_the_excess_of_data() -> None:
    """Where there is no signal there is none to learn; the mean ratio of background is 1 less the signal's share."""
    events = PLAIN.draw_background(100_000, seed=6, region=SIGNAL_REGION)
    assert np.abs(PLAIN.log_excess(events, 1000, 0)).max() < 1e-12
    ratio = np.exp(PLAIN.log_excess(events, 1000, 2000))
    assert abs(ratio.mean() - 1) < 4 * ratio.std() / np.sqrt(len(events))


def test_constituents_have_the_jets_momentum_and_mass() -> None:
    events = Constituents().of(PLAIN.data(3000, 3000, seed=7, keep_truth=True), seed=7)
    truth, n = truth_of(events), len(events)
    column = {name: events[f"{CLOUD}.{name}"].values for name in ("pt", "d_eta", "d_phi", "jet", "log_pt", "log_dr")}
    owner = np.repeat(np.arange(n), events[f"{CLOUD}.pt"].counts)
    heavy = column["jet"] > 0
    for jet, mass in ((~heavy, events["mJ1"]), (heavy, events["mJ1"] + events["delta_mJ"])):
        sums = {name: np.bincount(owner[jet], value[jet], n) for name, value in {
            "pt": column["pt"], "eta": column["pt"] * column["d_eta"],
            "square": column["pt"] * (column["d_eta"] ** 2 + column["d_phi"] ** 2)}.items()}  # fmt: skip
        assert sums["pt"] == pytest.approx(np.ones(n))
        ratio = np.sqrt(sums["square"]) * events[MASS] / 2 / mass
        assert abs((ratio**2).mean() - 1) < 4 * (ratio**2).std() / np.sqrt(n)
        assert (ratio**2).std() < 0.5
        assert np.abs(sums["eta"]).mean() < 0.3 * np.sqrt(sums["square"]).mean()  # the axis is in the middle
        least = sums["square"] / np.maximum.reduceat(
            (column["d_eta"] ** 2 + column["d_phi"] ** 2)[jet], np.flatnonzero(np.diff(owner[jet], prepend=-1))
        )
        assert np.median(least[truth]) > 1.5 * np.median(least[~truth])  # the signal's prongs are more even
    far = np.log(np.hypot(column["d_eta"], column["d_phi"]) * (events[MASS] / 3.5)[owner])
    assert column["log_dr"] == pytest.approx(far)
    assert (events[f"{CLOUD}.pt"].counts >= 8).all()


# -- searches ----------------------------------------------------------------------------------------------------------


def test_the_blind_scan_finds_what_is_there_and_nothing_else() -> None:
    nothing, found = (blind_hunt(PLAIN.data(SMALL.background, n, seed=1), SMALL) for n in (0, 400))
    assert len(nothing.signal) == 11
    assert nothing.global_p.z < 3
    window, efficiency = found.best
    assert found.signal[window] == pytest.approx(SIGNAL_REGION)
    assert found.efficiencies[efficiency] < 1
    assert found.global_p.z > 5
    whole = found.z[window, 0]
    assert whole < 0.7 * found.z[window].max()  # the cut is what finds it
    assert not any(found.status)


@pytest.fixture(scope="module")
def without() -> dict[str, Compared]:
    """Shifted features, no signal."""
    data = SHIFTED.data(SMALL.background, 0, seed=1)
    names = ("Ideal", "Sidebands", "Latent", "Decorrelated")
    templates = templates_of(SMALL, SHIFTED)
    return {name: compare(name, templates[name], data, SMALL) for name in names}


def test_shifted_features_sculpt_but_in_the_latent_space(without: dict[str, Compared]) -> None:
    """CWoLa's score follows the mass.  So does that of a *perfect* template, as the features that it sees move; not in
    Cathode's latent space, nor where the dependence is taken away."""
    p = {name: one.hunt.sculpting_p[0] for name, one in without.items()}
    z = {name: np.abs(one.hunt.z[0, 1:]).max() for name, one in without.items()}
    assert p["Sidebands"] < 1e-10
    assert p["Ideal"] < 1e-3
    assert min(p["Latent"], p["Decorrelated"]) > 0.01
    assert max(z["Latent"], z["Decorrelated"]) < 3


def test_cwola_has_an_excess_of_nothing_with_shifted_features() -> None:
    """In 200,000 events without a signal; not with features that do not follow the mass."""
    settings = Settings(members=1, folds=3)
    for dijets, there in ((PLAIN, False), (SHIFTED, True)):
        data = dijets.data(settings.background, 0, seed=1)
        found = compare("Sidebands", templates_of(settings, dijets)["Sidebands"], data, settings).hunt
        assert (found.z[0, 1:].max() > 5) == there
        assert (found.sculpting_p[0] < 1e-20) == there
        assert (found.sculpting_p[0] < 0.01) == there


def test_cwola_fails_with_shifted_features_and_cathode_does_not() -> None:
    """S/B = 1.2% in 120,000 events."""
    settings = Settings(background=120_000, tests=40_000, passing=20, members=1, epochs=6, folds=3, batch=256)
    samples = Samples.of(settings, SHIFTED)
    data, templates = SHIFTED.data(settings.background, 220, seed=1), templates_of(settings, SHIFTED)
    found = {name: compare(name, templates[name], data, settings, samples).best for name in ("Sidebands", "Cathode")}
    exact = largest_improvement(*samples.exact, settings.passing).value
    assert found["Sidebands"].value < 2
    assert found["Cathode"].value > 0.4 * exact


def test_anode_in_a_hunt_is_fitted_on_either_side() -> None:
    """Its score of sideband events is one of the signal region's end: the spectrum after a cut is smooth."""
    data = PLAIN.data(SMALL.background, 0, seed=2)
    settings = replace(SMALL, epochs=4)
    found = compare("Anode", templates_of(settings, PLAIN)["Anode"], data, settings).hunt
    assert np.abs(found.z[0]).max() < 4
    assert found.gof[0].min() > 0.001
    assert not any(found.status)


def test_a_deep_set_finds_the_signal_in_constituents() -> None:
    settings = replace(SMALL, jets=6000, injected=450, epochs=8)
    found = constituent_hunt(settings, constituent_data(settings))
    assert found.z[0].max() > 5
    assert found.z[0, 1:].max() > found.z[0, 0]


def test_the_largest_improvement() -> None:
    rng = np.random.default_rng(1)
    signal, background = rng.normal(2, 1, 20_000), rng.normal(0, 1, 50_000)
    best = largest_improvement(signal, background, 500)
    cuts = np.linspace(0, stats.norm.isf(0.01), 200)
    assert best.value == pytest.approx((stats.norm.sf(cuts - 2) / np.sqrt(stats.norm.sf(cuts))).max(), rel=0.06)
    assert best.background >= 0.01
    assert best.value == pytest.approx(best.signal / np.sqrt(best.background))


# -- the program -------------------------------------------------------------------------------------------------------


def test_the_program(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    tiny = Settings(background=20_000, members=1, folds=2, efficiencies=(1.0, 0.2), trees=Trees(iterations=10),
                    flow=MAF(transforms=1, width=8), epochs=1, tests=4000, passing=50, strengths=(0.0, 300.0),
                    repeats=1, jets=3000, injected=100)  # fmt: skip
    monkeypatch.setattr(program, "FAST", tiny)
    program.main(["--fast", "--signals", "300", "--seed", "2", "--out", str(tmp_path)])
    text = capsys.readouterr().out
    numbers = json.loads((tmp_path / "results.json").read_text())["numbers"]
    assert {"blind.300.z", "templates.Anode.z", "shifted.Latent.improvement",
            "shifted.background.Sidebands.sculpting_p", "constituents.z.0.1"} <= set(numbers)  # fmt: skip
    assert "Templates in the window from 3.3 to 3.7 TeV, 300 signal events" in text
    page = (tmp_path / "index.html").read_text()
    assert page.count("<img") == 10
    assert page.count("<table>") == 7


def test_bad_options() -> None:
    for options, words in (
        (["--steps", "blind,guess"], "steps: expected some of blind,templates,shifted"),
        (["--signals", "0,-5"], "signals: expected numbers of events"),
        (["--signals", "many"], "found 'many'"),
        (["--signal", "-1"], "signal, toys: expected numbers from 0, found -1 and 0"),
    ):
        with pytest.raises(ValueError, match=words):
            program.parse(options)
    with pytest.raises(ValueError, match="background: expected at least 10,000 events, found 500"):
        program.settings_of(program.parse(["--background", "500"]))
    with pytest.raises(ValueError, match="passing: expected a number from 1 to below 1,000"):
        Settings(tests=1000, passing=1000)
    with pytest.raises(ValueError, match=r"shift: expected a number from 0, found -0\.1"):
        Dijets(shift=-0.1)
    with pytest.raises(ValueError, match="region: expected"):
        PLAIN.draw_background(10, 1, region=(2.0, 3.0))
    with pytest.raises(ValueError, match="n: expected a number of events from 0, found -1"):
        PLAIN.draw_background(-1, 1)
    with pytest.raises(ValueError, match="mean: expected at least 4"):
        Constituents(mean=1)
    with pytest.raises(KeyError, match="keep_truth=True"):
        Constituents().of(PLAIN.data(10, 1, 1), 1)


def test_the_window_is_one_of_the_blind_ones() -> None:
    assert any(window == WINDOW for window in Settings().windows)
    assert Settings().windows[-1].range[1] <= 6.0
