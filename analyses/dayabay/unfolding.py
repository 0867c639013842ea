r"""The spectrum of antineutrinos that the near halls' prompt energies imply: an exact response, and three unfoldings.

**Truth**: inverse beta decays in the near halls (EH1, EH2; all periods) that there would be without oscillation, by the
antineutrino's energy in T bins: spectra at production times the cross-section, in the exposure of the data.  **Reco**:
the R = 26 prompt-energy bins of the fit.  Oscillation at fitted parameters is part of the response: those that vanish
are missed.

**Response**, without simulated events: with the weights w_q and energies E_q of a quadrature over deposited energy and
angle, in the bin b of deposited energy and the truth bin t, the exposure T and the spectrum S of a reactor r, the
survival P and the response D of a detector d,

.. math:: n_{it} = \sum_{d, b} D_{d,ib}\, c_{db} \sum_{q \in b, t} w_q \sum_r T_{rd} P_{rd}(E_q) S_r(E_q),

where c brings the sum over q to the counts that `Model.counts` expects in the bin, so that what the truth of the
reference (Huber, Mueller) folds to is what the model predicts.  Without P the same sum is the truth.  Another flux has
another shape inside the truth bins, which a response in bins does not know.

**Covariance** V of the 26 counts: statistics, 3 / (1/n + 2/mu), and all constrained parameters but those of the reactor
spectra; of the oscillation that of its fit, taken as independent of the counts (the near halls are in it).
What Huber and Mueller do not know of their spectra is not an error of the measurement, but of the model that it is
compared with: a covariance in truth bins, which goes through A_C.  Both together are the model's full covariance.

**OmniFold** takes events: `drawn` from the fine response, E_nu even within 0.05 MeV and the prompt energy within its
bin, since the data are no finer; the data are as many points in each bin, weighted to the counts without backgrounds.
Such points do not fluctuate as 5 million events do, so that its covariance is that of drawing and boosting alone; that
of the measurement is about what iterative Bayes has, its limit in bins.

Sources: Daya Bay Collaboration, Chin. Phys. C 45 (2021) 073001 (an unfolding with their own data and definitions); Tang
et al., arXiv 1705.03568 (A_C); Huber, 1106.0687; Mueller et al., 1101.2663.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from scipy import stats

import nuinfer as nu
from nuinfer.unfolding import Binning, Response, Spectrum, iterative_bayes, omnifold, wiener_svd
from nuinfer.unfolding.checks import Checks, check
from nuinfer.unfolding.spectrum import Chi2, quadratic_form

from . import covariance
from .figures import probability
from .flux import between, exponential, linear
from .ibd import Constants, cross_section, jacobian, neutrino_energy
from .model import Model
from .parameters import SITE_OF, SITES
from .release import DETECTORS, ISOTOPES, OUT_OF_EQUILIBRIUM

Floats = NDArray[np.float64]
Values = Mapping[str, float]

FINE = np.round(np.linspace(1.8, 13.2, 229), 10)  # MeV
EDGES = np.array([1.8, *np.arange(2.25, 8.01, 0.25), 13.2])
SPECTRA = ("spectrum_uncorrelated", "spectrum_correlated")  # what is uncertain in Huber's and Mueller's
NO_OSCILLATION = {"sin2_2theta13": 0.0, "sin2_2theta12": 0.0}
NEAR = np.array([i for i, d in enumerate(DETECTORS) if d in SITES["EH1"] + SITES["EH2"]])
ITERATIONS = 8


@dataclass(frozen=True)
class Size:
    """How much is done: pseudo-experiments, and how often OmniFold is run, with how many events each time."""

    toys: int = 400
    events: int = 100_000
    members: int = 4

    @classmethod
    def fast(cls) -> Size:
        """A small run, for tests."""
        return cls(toys=40, events=10_000, members=2)


# -- the detector and the data -----------------------------------------------------------------------------------------


@dataclass(frozen=True, eq=False)
class Points:
    """A quadrature over deposited energy and angle, with breaks at the edges of deposited and of fine true energy.

    Attributes
    ----------
    energy, weight:
        (Q,) antineutrino energies in MeV, and weights in cm^2 MeV: cross-section and dE/dE_e are in them.
    bin:
        (Q,) the bin of deposited energy, of 240.
    """

    energy: Floats
    weight: Floats
    bin: NDArray[np.int64]

    @classmethod
    def of(cls, model: Model, *, angles: int = 8) -> Points:
        p, edges = model.release.parameters, model.release.fine_edges
        constants = Constants.of(p["pdg2024"], p["ibd_constants"])
        parts = [_of_angle(edges, x, w, constants) for x, w in zip(*np.polynomial.legendre.leggauss(angles),
                                                                   strict=True)]  # fmt: skip
        energy, weight, at = (np.concatenate(each) for each in zip(*parts, strict=True))
        return cls(energy, weight, at)

    def place(self, edges: Floats) -> NDArray[np.int64]:
        """The truth bin (Q,) of each; of those below the threshold, whose weight is 0, the first."""
        found = np.searchsorted(edges, self.energy, side="right") - 1
        outside = (found < 0) | (found >= len(edges) - 1)
        if self.weight[outside].any():
            raise ValueError(f"edges: expected some that hold all energies from threshold to {self.energy.max():.4g} "
                             f"MeV, found {edges[0]:g} to {edges[-1]:g}")  # fmt: skip
        return np.where(outside, 0, found)


def _of_angle(edges: Floats, cosine: float, share: float, c: Constants) -> tuple[Floats, Floats, NDArray[np.int64]]:
    """Energies, weights and bins at one cosine of the positron's angle, 3 Gauss points in each part."""
    inside = FINE[FINE > 1.82]  # above the threshold
    positron = inside - c.delta
    for _ in range(8):  # Newton: where true energy has these edges
        cos = np.full_like(positron, cosine)
        positron = positron - (neutrino_energy(positron, cos, c) - inside) / jacobian(positron, cos, c)
    breaks = np.unique(np.concatenate([[c.electron], edges - c.electron, positron]))
    breaks = breaks[(breaks >= c.electron) & (breaks <= edges[-1] - c.electron)]  # from the positron's mass
    x, w = np.polynomial.legendre.leggauss(3)
    half, middle = np.diff(breaks)[:, None] / 2, (breaks[1:] + breaks[:-1])[:, None] / 2
    at, weight = (middle + half * x).ravel(), (half * w).ravel() * share
    cos = np.full_like(at, cosine)
    energy = neutrino_energy(at, cos, c)
    return (
        energy,
        weight * cross_section(energy, cos, c) * jacobian(at, cos, c),
        (np.searchsorted(edges, at + c.electron, side="right") - 1),
    )


def rates(model: Model, points: Points, values: Values) -> tuple[Floats, Floats]:
    """Inverse beta decays (4, Q) in the near detectors of the points, with and without oscillation."""
    here = model.values(torch.tensor(list(values.values()), dtype=torch.float64), tuple(values))
    emitted = _emitted(model, points, here)
    exposure, fuel = (t.sum(1).numpy()[NEAR] for t in (model.exposure, model.fuel_exposure * here["spent_fuel"]))
    survived, whole = np.zeros((2, len(NEAR), *points.energy.shape))
    for r, (own, spent) in enumerate(zip(*emitted, strict=True)):
        each = (exposure[:, r, None] * own + fuel[:, r, None] * spent) * points.weight
        whole += each
        length = model.release.baseline[NEAR, r, None] / 1e3
        survived += each * probability(length / points.energy, model, values)
    return survived, whole


def _emitted(model: Model, points: Points, here: Mapping[str, torch.Tensor]) -> tuple[Floats, Floats]:
    """Spectra (6, Q) of each reactor for a unit of exposure, and of its spent fuel for one of its own."""
    release, energy = model.release, points.energy
    f, free = model.fissions(here).numpy(), here["nonequilibrium"].numpy()
    isotopes = exponential(energy, release.spectrum_energy, release.spectrum)
    i, t = between(energy, release.nodes)
    node = here["spectrum"].numpy()
    correction = np.exp(node[i] * (1 - t) + node[i + 1] * t)
    rows = [ISOTOPES.index(name) for name in OUT_OF_EQUILIBRIUM]
    extra = isotopes[rows] * linear(energy, *release.nonequilibrium)
    own = np.tensordot(f, isotopes, 1) * correction + np.tensordot(free * f[:, rows], extra, 1)
    spent = np.tensordot(model.fraction.numpy(), isotopes, 1) * linear(energy, *release.spent_fuel)
    return own, spent


def fine_contents(model: Model, values: Values, points: Points | None = None) -> tuple[Floats, Floats]:
    """What is reconstructed (26, 228) of the fine truth bins, and the truth (228,).

    ``values`` are of the oscillation, and of the flux where it is not that of Huber and Mueller; the detectors
    stay nominal.
    """
    points = points or Points.of(model)
    survived, whole = rates(model, points, values)
    response = model._nominal_response.numpy()[NEAR]
    both = np.einsum("dib,dbt->it", response, _cells(points, survived, _counts(model, values)))
    return both, _cells(points, whole, _counts(model, {**values, **NO_OSCILLATION})).sum((0, 1))


def _cells(points: Points, found: Floats, total: Floats) -> Floats:
    """Decays (4, 240, 228) by deposited energy and fine truth bin from (4, Q), brought to totals (4, 240)."""
    rows, bins = total.shape[1], len(FINE) - 1
    cell = points.bin * bins + points.place(FINE)
    each = np.array([np.bincount(cell, own, rows * bins) for own in found]).reshape(len(found), rows, bins)
    sums = each.sum(-1)
    return each * np.divide(total, sums, out=np.zeros_like(sums), where=sums > 0)[..., None]


def _counts(model: Model, values: Values) -> Floats:
    """Counts (4, 240) in deposited energy of the near detectors, all periods."""
    here = model.values(torch.tensor(list(values.values()), dtype=torch.float64), tuple(values))
    with torch.no_grad():
        return model.counts(here).sum(1).numpy()[NEAR]


def merged(fine: Floats, edges: Floats = EDGES) -> Floats:
    """Fine truth bins (*, 228) summed up to those of ``edges``, which are some of `FINE`."""
    at = np.searchsorted(FINE, edges - 1e-6)
    if not np.allclose(FINE[np.minimum(at, len(FINE) - 1)], edges) or at[0] != 0 or at[-1] != len(FINE) - 1:
        raise ValueError(f"edges: expected some of {FINE[0]:g}, {FINE[1]:g}, ... {FINE[-1]:g} with both ends, found "
                         f"{edges}")  # fmt: skip
    return np.add.reduceat(fine, at[:-1], axis=-1)


@dataclass(frozen=True, eq=False)
class Problem:
    """What is unfolded: counts and expected background (26,), their covariance V, and the response.

    Attributes
    ----------
    fine, fine_truth:
        The response's contents in fine truth bins.
    reference:
        Its truth (T,): Huber and Mueller.
    reference_covariance:
        (T, T), of the uncertainties of their spectra.
    """

    response: Response
    counts: Floats
    background: Floats
    covariance: Floats
    fine: Floats
    fine_truth: Floats
    reference: Floats
    reference_covariance: Floats

    @classmethod
    def of(cls, model: Model, values: Values, errors: Floats | None = None) -> Problem:
        """At fitted values of all free parameters; ``errors`` (2, 2) is the covariance of the oscillation's two."""
        oscillation = {name: values[name] for name in ("sin2_2theta13", "dm2_32")}
        points = Points.of(model)
        fine, truth = fine_contents(model, oscillation, points)
        counts, background = near(model.observed.numpy()), near(_background(model))
        return cls(
            exact_response(fine, truth, model.release.edges), counts, background,
            measured_covariance(model, values, errors), fine, truth, merged(truth), spectra_covariance(model, points),
        )  # fmt: skip

    def with_counts(self, signal: Floats) -> Floats:
        """Data (26,) of a signal."""
        return np.asarray(signal + self.background)


def near(counts: Floats) -> Floats:
    """The sum (*, 26) over near detector-periods of (*, 546)."""
    each = counts.reshape(*counts.shape[:-1], len(SITE_OF), -1)
    return np.asarray(each[..., np.array(SITE_OF) < 2, :].sum(-2))


def _background(model: Model) -> Floats:
    with torch.no_grad():
        return model.background(model.nominal).flatten().numpy()


def exact_response(fine: Floats, truth: Floats, reco: Floats, edges: Floats = EDGES) -> Response:
    """A response without statistics of its own."""
    both, total = merged(fine, edges), merged(truth, edges)
    missed = total - both.sum(0)
    none = np.zeros(len(both))
    return Response(Binning("energy", edges), Binning("prompt", reco), both, np.zeros_like(both), missed,
                    np.zeros_like(missed), none, none)  # fmt: skip


# -- uncertainties -----------------------------------------------------------------------------------------------------


def measured_covariance(model: Model, values: Values, errors: Floats | None = None) -> Floats:
    """V (26, 26) of the near halls' counts, without the uncertainties of the reactor spectra."""
    systematic = near(near(covariance.systematic(model, values, without=SPECTRA)).T)
    counts, expected = near(model.observed.numpy()), near(_predicted(model, values))
    slope = _oscillation_slope(model, values)
    fitted = 0.0 if errors is None else slope.T @ errors @ slope
    total = systematic + fitted + np.diag(3 / (1 / counts + 2 / expected))
    return np.asarray((total + total.T) / 2)


def _oscillation_slope(model: Model, values: Values) -> Floats:
    """Derivatives (2, 26) of the counts in the amplitude and the splitting."""
    rows = []
    for name, step in (("sin2_2theta13", 1e-3), ("dm2_32", 1e-5)):
        up, down = (near(_predicted(model, {**values, name: values[name] + sign * step})) for sign in (1, -1))
        rows.append((up - down) / (2 * step))
    return np.array(rows)


def _predicted(model: Model, values: Values) -> Floats:
    with torch.no_grad():
        return model.predict(torch.tensor(list(values.values()), dtype=torch.float64), tuple(values)).numpy()


def signal(model: Model, values: Values) -> Floats:
    """Decays (26,) that the model expects in the near halls' prompt bins, without backgrounds."""
    return np.asarray(near(_predicted(model, values) - _background(model)))


def spectra_covariance(model: Model, points: Points, edges: Floats = EDGES) -> Floats:
    """(T, T): what the uncertainties of Huber's and Mueller's spectra are in truth bins, correlated and not."""
    release = model.release
    per_fission = model.fissions(model.nominal).numpy()  # (6, 4)
    exposure = model.exposure.sum(1).numpy()[NEAR].sum(0)  # (6,)
    weight = points.weight * exponential(points.energy, release.spectrum_energy, release.spectrum)
    weight = weight * (exposure @ per_fission)[:, None]  # (4, Q)
    i, t = between(points.energy, release.spectrum_energy)
    place = points.place(edges)
    bins, knots = len(edges) - 1, len(release.spectrum_energy)
    common, total = np.zeros(bins), np.zeros((bins, bins))
    for own, apart, together in zip(weight, release.uncorrelated, release.correlated, strict=True):
        slope = np.zeros(bins * knots)
        for at, share in ((i, 1 - t), (i + 1, t)):
            slope += np.bincount(place * knots + at, own * share, bins * knots)
        total += (slope.reshape(bins, knots) * apart) @ (slope.reshape(bins, knots) * apart).T
        common += slope.reshape(bins, knots) @ together
    return np.asarray(total + np.outer(common, common))


# -- methods -----------------------------------------------------------------------------------------------------------


def bayes(
    problem: Problem, data: Floats, response: Response, iterations: int = ITERATIONS, prior: Floats | None = None
) -> Spectrum:
    """Iterative Bayes; ``prior`` (T,) is the reference where it is None."""
    return iterative_bayes(data, response, background=problem.background, covariance=problem.covariance,
                           iterations=iterations, prior=prior)  # fmt: skip


def wiener(problem: Problem, data: Floats, response: Response, prior: Floats | None = None) -> Spectrum:
    """The Wiener filter of second differences for a truth ``prior`` (T,), that of the reference where it is None."""
    return wiener_svd(data, response, background=problem.background, covariance=problem.covariance, order=2,
                      model=prior)  # fmt: skip


BINNED: Mapping[str, Callable[..., Spectrum]] = {"iterative Bayes": bayes, "Wiener-SVD": wiener}


def checked(
    name: str, problem: Problem, models: Mapping[str, Floats], size: Size, *,
    pseudo_data: Mapping[str, tuple[Floats, Floats]] | None = None, seed: int = 1,
) -> Checks:  # fmt: skip
    """All checks of a binned method; pseudo-experiments are of the first of the models, with V.

    ``pseudo_data`` are signals (26,) and their truths (T,) whose shape inside bins is another than the response's.
    """
    trials = {key: (problem.with_counts(signal), truth) for key, (signal, truth) in (pseudo_data or {}).items()}
    method, counts, response = BINNED[name], problem.counts, problem.response
    steps = [bayes(problem, counts, response, k).values for k in range(1, ITERATIONS + 1)]
    flat = problem.reference * np.exp(-0.1 * (np.arange(len(problem.reference)) / len(problem.reference) - 0.5))
    return check(
        method(problem, counts, response), counts, response, lambda data, own: method(problem, data, own),
        background=problem.background, covariance=problem.covariance, models=models, pseudo_data=trials,
        priors={"tilted by 10%": method(problem, counts, response, prior=flat)},
        iterations=steps if name == "iterative Bayes" else (), toys=size.toys, seed=seed, progress=False,
    )  # fmt: skip


def drawn(problem: Problem, events: int, seed: int) -> nu.Events:
    """Simulated events of the reference, with energy, prompt and pass_reco; their weights sum up to its truth.

    Every (sum / events)-th of the cumulative contents of fine truth and reco bins is taken, from a random start: each
    content is right to one event.
    """
    missed = problem.fine_truth - problem.fine.sum(0)
    cells = np.maximum(np.vstack([problem.fine, missed]), 0).T.ravel()  # truth bin by truth bin; rounding at threshold
    rng = np.random.default_rng(seed)
    at = (np.arange(events) + rng.uniform()) / events * cells.sum()
    cell = np.minimum(np.searchsorted(np.cumsum(cells), at, side="right"), len(cells) - 1)
    truth, reco = np.divmod(cell, len(problem.fine) + 1)
    seen = reco < len(problem.fine)
    edges = problem.response.reco.edges
    row = np.where(seen, reco, 0)
    energy = FINE[truth] + rng.uniform(size=events) * np.diff(FINE)[truth]
    prompt = edges[row] + rng.uniform(size=events) * np.diff(edges)[row]
    return nu.Events({"energy": energy, "prompt": prompt, "pass_reco": seen},
                     weight=np.full(events, cells.sum() / events))  # fmt: skip


def points_of(signal: Floats, edges: Floats, each: int) -> nu.Events:
    """Data: ``each`` points spread evenly over every prompt bin, with its signal (26,) as weight."""
    within = (np.arange(each) + 0.5) / each
    prompt = (edges[:-1, None] + np.diff(edges)[:, None] * within).ravel()
    return nu.Events({"prompt": prompt}, weight=np.repeat(signal / each, each))


def omnifolded(problem: Problem, signal: Floats, size: Size, seed: int = 1) -> Spectrum:
    """OmniFold of a signal (26,), the mean of ``members`` runs, each of events drawn anew.

    It has as many iterations as iterative Bayes.  Its covariance "method" is that of the mean over the runs: of drawing
    and boosting, not of the data.  Boosted trees take the place of networks, which are too smooth for weights that
    change by a tenth within 0.7 MeV and are to be good to half a per cent.
    """
    bins = problem.response.truth
    data = points_of(signal, problem.response.reco.edges, max(size.events // 52, 100))
    runs = [
        omnifold(data, drawn(problem, size.events, seed + k), reco=["prompt"], truth=["energy"], network=nu.Trees(),
                 iterations=ITERATIONS, seed=seed + k, progress=False).spectrum(bins).values
        for k in range(size.members)
    ]  # fmt: skip
    own = {"method": nu.metrics.replica_covariance(np.array(runs)) / len(runs)}
    return Spectrum(bins, np.mean(runs, 0), own, settings={"method": "OmniFold", "iterations": ITERATIONS})


# -- shape -------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, eq=False)
class Shape:
    """A spectrum normalised to 1 over a model normalised to 1, both (B,), with uncertainties of each, and chi-squared.

    ``ratio`` has the error ``error`` of the measurement and ``model_error`` of the model; ``total`` is that of the
    yields.
    """

    ratio: Floats
    error: Floats
    model_error: Floats
    chi2: Chi2
    total: float


def shape(values: Floats, own: Floats, model: Floats, of_model: Floats) -> Shape:
    """Compare contents (B,) of covariance (B, B) with a model and its covariance, whatever the normalisation."""
    u, g = values / values.sum(), model / model.sum()
    apart, also = _normalised(u, own / values.sum() ** 2), _normalised(g, of_model / model.sum() ** 2)
    value, dof = quadratic_form(u - g, apart + also)
    dof = min(dof, len(u) - 1)
    return Shape(u / g, np.sqrt(np.diag(apart)) / g, np.sqrt(np.diag(also)) / g,
                 Chi2(value, dof, float(stats.chi2.sf(value, dof))), float(values.sum() / model.sum()))  # fmt: skip


def _normalised(share: Floats, own: Floats) -> Floats:
    slope = np.eye(len(share)) - share[:, None]
    return np.asarray(slope @ own @ slope.T)


def compared(spectrum: Spectrum, problem: Problem, model: Floats | None = None) -> Shape:
    """An unfolded spectrum with Huber's and Mueller's, or with a ``model`` without an uncertainty, through A_C."""
    if model is not None:
        return shape(spectrum.values, spectrum.covariance, spectrum.smear(model), np.zeros((len(model),) * 2))
    smeared = spectrum.smear(spectrum.smear(problem.reference_covariance).T)
    return shape(spectrum.values, spectrum.covariance, spectrum.smear(problem.reference), smeared)


def before_unfolding(problem: Problem) -> Shape:
    """The same in prompt bins."""
    response = problem.response
    folded = response.fold(response.fold(problem.reference_covariance).T)
    return shape(problem.counts - problem.background, problem.covariance, response.fold(problem.reference), folded)


def excess(
    spectrum: Spectrum, problem: Problem, low: float = 5.0, high: float = 6.5
) -> tuple[float, float, float]:  # fmt: skip
    """The share of the spectrum between two edges in MeV over that of A_C x reference; errors of both."""
    inside = ((EDGES[:-1] >= low - 1e-9) & (EDGES[1:] <= high + 1e-9)).astype(np.float64)
    groups = np.stack([inside, 1 - inside])
    smeared = spectrum.smear(spectrum.smear(problem.reference_covariance).T)
    found = shape(groups @ spectrum.values, groups @ spectrum.covariance @ groups.T,
                  groups @ spectrum.smear(problem.reference), groups @ smeared @ groups.T)  # fmt: skip
    return float(found.ratio[0]), float(found.error[0]), float(found.model_error[0])
