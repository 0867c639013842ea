r"""The excess near 5 MeV: the near halls' prompt spectrum beside that of Huber and Mueller, in shape.

**Expectation** in the 26 bins: :math:`\mu = N s + b`, with s the model's inverse beta decays for Huber's and Mueller's
spectra at the fitted oscillation, b the backgrounds, and N such that the totals agree: the rate, 5% below the
prediction, does not enter.  The *free spectrum* is the fit's own instead, with its 19 nodes.

**Systematics**: the covariance V of all constrained parameters, those of Huber's and Mueller's spectra among them, at
flux N, and that of the fitted oscillation.  What it does to the shape is written in its eigenvectors,

.. math:: \mu_i(\alpha) = \mu_i \, e^{\nu + \sum_k \alpha_k m_{ik}}, \qquad
          m m^T = P \, \frac{V}{\mu \mu^T} \, P^T, \qquad P = 1 - \frac{\mathbf{1} \mu^T}{\sum \mu}

with unit normal :math:`\alpha_k`, and a free normalisation :math:`\nu`.  Fits profile all of them; expectations of toys
are drawn with them.  *Statistics alone* means :math:`\alpha = 0` in both.

**A window** without a shape of a signal, as in the collaboration's papers: what chi-squared of the shape loses where
the k bins of a window of 2 MeV are left out has k degrees of freedom.

Sources: Daya Bay Collaboration, arXiv 1508.04233, 1607.05378, 1904.07812 (the excess, with 217, 621 and 1,958 days).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

import numpy as np
import torch
from numpy.typing import NDArray
from scipy import stats

from nuinfer.anomaly.bump import (
    BumpFit,
    BumpHunt,
    BumpLikelihood,
    BumpScan,
    GaussianPeak,
    GlobalP,
    TemplateBackground,
    bump_hunt,
    fit_bump,
    global_p_toys,
    gross_vitells,
    scan_masses,
    scan_toys,
)
from nuinfer.anomaly.significance import z_of_p

from . import covariance, fits, unfolding
from .model import Model

Floats = NDArray[np.float64]
Values = Mapping[str, float]

# 2 sigma to either side are the window of 2 MeV that the papers slide over the spectrum
PEAK = GaussianPeak(sigma=0.5)
ENERGIES = np.arange(2.0, 8.01, 0.25)  # MeV: half a width apart
WIDTHS = (2, 12)  # bins of a window of BumpHunter: 0.5 to 3 MeV, and more at the wide bins of both ends
WINDOW = 2.0  # MeV
PUBLISHED = {"window": 6.3, "shape": 5.3}  # standard deviations, arXiv 1904.07812


@dataclass(frozen=True)
class Effort:
    """How many toys of a scan of energies, of BumpHunter, and of the test of the shape."""

    scans: int = 3000
    hunts: int = 20_000
    shapes: int = 2000

    @classmethod
    def fast(cls) -> Effort:
        """A small run, for tests."""
        return cls(scans=200, hunts=1000, shapes=200)


@dataclass(frozen=True, eq=False)
class Prompt:
    """Prompt energies and their expectation, the same in total.

    Attributes
    ----------
    edges, counts, expected:
        (27,), (26,), (26,).
    modes:
        m (26, K): what a standard deviation of each direction of the systematics adds to the logarithm.
    norm:
        N, of the inverse beta decays.
    nodes:
        (26, L): derivatives of the logarithm in the free nodes of the spectrum; none for Huber's and Mueller's.
    """

    edges: Floats
    counts: Floats
    expected: Floats
    modes: Floats
    norm: float
    nodes: Floats

    @classmethod
    def of(cls, model: Model, values: Values, errors: Floats, *, free: bool = False) -> Prompt:
        """With Huber's and Mueller's spectra, or the fitted ones; ``errors`` (2, 2) of the fitted oscillation.

        ``values`` are all fitted parameters.
        """
        oscillation = {name: values[name] for name in fits.INTEREST}
        signal = unfolding.signal(model, values if free else oscillation)
        with torch.no_grad():
            background = unfolding.near(model.background(model.nominal).flatten().numpy())
        counts = unfolding.near(model.observed.numpy())
        norm = float((counts - background).sum() / signal.sum())
        flat = dict.fromkeys(model.parameters.groups["spectrum"].names, float(np.log(norm)))
        here = dict(values) if free else {**oscillation, **flat}
        whole = unfolding.near(unfolding.near(covariance.systematic(model, here)).T)
        slope = norm * _slopes(model, oscillation, dict(zip(fits.INTEREST, (1e-3, 1e-5), strict=True)))
        expected = norm * signal + background
        modes = shape_modes(whole + slope.T @ errors @ slope, expected)
        nodes = norm * _slopes(model, values, dict.fromkeys(flat, 1e-3)) if free else np.zeros((0, len(counts)))
        return cls(model.release.edges, counts, expected, modes, norm, (nodes / expected).T)

    @property
    def covariance(self) -> Floats:
        """Of the counts (26, 26): statistics of the expectation, and systematics of the shape."""
        moved = self.expected[:, None] * self.modes
        return np.asarray(np.diag(self.expected) + moved @ moved.T)

    def likelihood(self, *, systematics: bool = True, free: tuple[str, ...] = ()) -> BumpLikelihood:
        """The expectation and a Gaussian peak; ``free`` are of its mass_scale and width_scale."""
        moved = {f"systematic_{k}": self.expected * np.exp(mode) for k, mode in enumerate(self.modes.T)}
        background = TemplateBackground(self.expected, self.edges, moved if systematics else {})
        return BumpLikelihood.binned(self.counts, background, PEAK, edges=self.edges, free=free)

    def draws(self, rng: np.random.Generator, count: int) -> Floats:
        """Expectations (count, 26) with all systematics."""
        return np.asarray(self.expected * np.exp(rng.normal(size=(count, self.modes.shape[1])) @ self.modes.T))

    def toys(self, count: int, *, seed: int, systematics: bool = True) -> Floats:
        """Contents (count, 26)."""
        rng = np.random.default_rng(seed)
        mean = self.draws(rng, count) if systematics else np.broadcast_to(self.expected, (count, len(self.expected)))
        return np.asarray(rng.poisson(mean), np.float64)


def _slopes(model: Model, values: Values, steps: Values) -> Floats:
    """Derivatives (T, 26) of the inverse beta decays in the parameters that have a step, by central differences."""
    rows = []
    for name, step in steps.items():
        up, down = (unfolding.signal(model, {**values, name: values[name] + sign * step}) for sign in (1, -1))
        rows.append((up - down) / (2 * step))
    return np.array(rows)


def shape_modes(whole: Floats, expected: Floats) -> Floats:
    """m (B, K), the greatest first, of a covariance (B, B) about an expectation, less its part in the normalisation."""
    apart = np.eye(len(expected)) - expected / expected.sum()
    size, vectors = np.linalg.eigh(apart @ (whole / np.outer(expected, expected)) @ apart.T)
    kept = np.flatnonzero(size > 1e-9 * size[-1])[::-1]
    return np.asarray(vectors[:, kept] * np.sqrt(size[kept]))


# -- a peak ------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, eq=False)
class Peak:
    """A scan of energies, how improbable its greatest excess is anywhere, and the peak with its own energy and width.

    ``toys`` is None where there are none; ``crossings`` is Gross's and Vitells's upper bound, None without an excess.
    """

    scan: BumpScan
    toys: GlobalP | None
    crossings: GlobalP | None
    fit: BumpFit | None

    @property
    def local_z(self) -> float:
        return float(self.scan.z[self.scan.best])

    @property
    def energy(self) -> float:
        return float(self.scan.masses[self.scan.best])


def peak(prompt: Prompt, *, toys: int = 0, seed: int = 1, systematics: bool = True) -> Peak:
    """Scan the spectrum for a peak; without systematics neither fits nor toys know of them."""
    likelihood = prompt.likelihood(systematics=systematics)
    scan = scan_masses(likelihood, ENERGIES)
    drawn = prompt.toys(toys, seed=seed, systematics=systematics) if toys else None
    by_toys = None if drawn is None else global_p_toys(scan, scan_toys(likelihood, ENERGIES, toys=drawn, seed=seed))
    found = Peak(scan, by_toys, None, None)
    if found.local_z < 3:
        return found
    own = fit_bump(prompt.likelihood(systematics=systematics, free=("mass_scale", "width_scale")), found.energy)
    return replace(found, crossings=gross_vitells(scan, likelihood), fit=own)


# -- a window ----------------------------------------------------------------------------------------------------------


def hunt(prompt: Prompt, *, toys: int, seed: int = 1, systematics: bool = True) -> BumpHunt:
    """BumpHunter with a floating normalisation; its statistic is of Poisson's law alone, its toys are not."""
    return bump_hunt(prompt.counts, prompt.expected, edges=prompt.edges, widths=WIDTHS, sideband=0, toys=toys,
                     systematics=prompt.draws if systematics else None, seed=seed)  # fmt: skip


@dataclass(frozen=True)
class Window:
    """What chi-squared of the shape loses without the bins between two energies."""

    low: float
    high: float
    chi2: float
    dof: int

    @property
    def z(self) -> float:
        """One-sided, as a p-value of chi-squared is quoted."""
        return float(z_of_p(stats.chi2.sf(self.chi2, self.dof)))


def shape_chi2(prompt: Prompt, use: NDArray[np.bool_] | None = None) -> float:
    """Chi-squared of some of the bins, the normalisation fitted to them."""
    use = np.ones(len(prompt.counts), bool) if use is None else use
    n, mu = prompt.counts[use], prompt.expected[use]
    weight = np.linalg.inv(prompt.covariance[np.ix_(use, use)])
    left = n - (mu @ weight @ n) / (mu @ weight @ mu) * mu
    return float(left @ weight @ left)


def whole(prompt: Prompt) -> Window:
    """The shape of the whole spectrum; a free one has as many degrees of freedom less as nodes."""
    dof = len(prompt.counts) - 1 - prompt.nodes.shape[1]
    return Window(float(prompt.edges[0]), float(prompt.edges[-1]), shape_chi2(prompt), dof)


def windows(prompt: Prompt) -> list[Window]:
    """All windows of neighbouring bins that are 2 MeV wide."""
    found, full = [], shape_chi2(prompt)
    for low in prompt.edges[:-1].tolist():
        inside = (prompt.edges[:-1] > low - 1e-9) & (prompt.edges[1:] < low + WINDOW + 1e-9)
        high = float(prompt.edges[1:][inside].max(initial=low))
        if high > low + WINDOW - 1e-6:
            found.append(Window(low, high, full - shape_chi2(prompt, ~inside), int(inside.sum())))
    return found


def share(prompt: Prompt, low: float, high: float) -> tuple[float, float]:
    """Counts over expectation between two edges, less 1, and the statistical error; systematics are not in it."""
    inside = (prompt.edges[:-1] > low - 1e-9) & (prompt.edges[1:] < high + 1e-9)
    n, mu = prompt.counts[inside].sum(), prompt.expected[inside].sum()
    return float(n / mu - 1), float(np.sqrt(n) / mu)
