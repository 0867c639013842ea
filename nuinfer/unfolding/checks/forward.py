"""In reco bins: what is expected of a truth, models before and after unfolding, and the answer beside the data."""

from __future__ import annotations

import itertools
from collections.abc import Mapping
from concurrent.futures import Executor
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import stats

from ... import metrics, tasks
from ..measured import Counts, Measured, contents
from ..response import Response
from ..spectrum import Spectrum, Unfold, quadratic_form
from .verdicts import MOST_FAILED, USUAL, Check

__all__ = ["Fold", "Toys", "bottom_line", "refolded_chi2"]

Floats = NDArray[np.float64]


def bottom_line(
    spectrum: Spectrum, data: Counts, response: Response, models: Mapping[str, ArrayLike], *, background: Counts = None,
    covariance: ArrayLike | None = None, tolerance: float = USUAL.bottom_line,
) -> Check:  # fmt: skip
    """No two models, nor a model and the data, differ more after unfolding, through A_C, than before it.

    Parameters
    ----------
    data, background, covariance:
        As they were unfolded: see `Measured.of`.
    models:
        Truths (B,) by name, in the exposure of the data.
    tolerance:
        The largest ratio of chi-squared after to before that passes is 1 + tolerance.

    Of the covariance the sources count that are known in reco bins, data and background, where it is given by source.
    The inverse of one that is of replicas is unbiased by Hartlap's factor.

    Raises
    ------
    ValueError
        for no model, models of other bins, data without an inverse covariance, or too few replicas.
    """
    if not models:
        raise ValueError("models: expected at least one truth by name, found none")
    fakes = spectrum.settings.get("fakes", "subtract")
    measured = Measured.of(data, response, background=background, fakes=fakes, covariance=covariance)
    precision, own = measured.precision(response), _same_sources(spectrum, measured)
    replicas = len(spectrum.replicas)
    factor = metrics.hartlap(replicas, len(own)) if replicas > 1 else 1.0
    points = {name: (response.fold(s), spectrum.smear(s)) for name, s in models.items()}
    points["data"] = (measured.signal, spectrum.values)
    ratios = {}
    for one, other in itertools.combinations(points, 2):
        folded, smeared = (a - b for a, b in zip(points[one], points[other], strict=True))
        ratios[one, other] = _ratio(factor * quadratic_form(smeared, own)[0], float(folded @ precision @ folded))
    (one, other), most = max(ratios.items(), key=lambda item: item[1])
    words = (f"chi2 between {one} and {other} after unfolding is {most:.3g} times that before, the largest of "
             f"{len(ratios)} pairs; at most {1 + tolerance:g}")  # fmt: skip
    advice = "" if most <= 1 + tolerance else "; is the covariance too small, or A_C forgotten?"
    return Check("bottom line", most <= 1 + tolerance, most, 1 + tolerance, words + advice)


def _same_sources(spectrum: Spectrum, measured: Measured) -> Floats:
    """The covariance (B, B) of the sources that the data have in reco bins, or of all where they are not known."""
    known = [name for name in measured.covariances if name in spectrum.covariances]
    if not known:
        return spectrum.covariance
    return np.asarray(sum(spectrum.covariances[name] for name in known))


def _ratio(after: float, before: float) -> float:
    if before > 1e-9:
        return after / before
    return np.inf if after > 1e-6 else 0.0  # models that fold to the same must be smeared to the same


def refolded_chi2(
    spectrum: Spectrum, data: Counts, response: Response, *, background: Counts = None,
    covariance: ArrayLike | None = None, unfold: Unfold | None = None, toys: int = 200, level: float = USUAL.level,
    seed: int = 0, executor: Executor | None = None, progress: bool = True,
) -> Check:  # fmt: skip
    """P u with fakes and background against the data.

    Parameters
    ----------
    covariance:
        V of the data (R, R), or variances (R,); None for those of Poisson counts: P u with fakes and background.
    unfold:
        With it p is by ``toys``: counts about P u, or Gaussian with V, unfolded in the same way, which takes the
        freedom of the fit into account.  Where no toy is as far, p is the tail of the gamma distribution with the toys'
        mean and variance, if that is smaller.  Toys share a mistake of ``unfold``, and have chi-squared as large as the
        data then: p is no larger than that of R degrees of freedom, which no right answer exceeds.  Toys that
        ``unfold`` cannot do are left out and counted; above 3% of them only R degrees of freedom can fail the answer,
        and else there is no verdict.  Without ``unfold`` p is from chi-squared with R - tr(A_C) degrees of freedom,
        R - T without A_C: exact for least squares, an approximation otherwise.

    Raises
    ------
    ValueError
        for a spectrum that folds to no positive counts where V is to follow from them.
    """
    fold = Fold.of(spectrum, response, background, covariance)
    chi2 = fold.chi2(contents("data", data, response.reco)[0], spectrum.values)
    kept = len(spectrum.values) if spectrum.smearing is None else float(np.trace(spectrum.smearing))
    dof = response.reco.size - kept
    if unfold is not None:
        found = _thrown_chi2(fold, spectrum.values, unfold, toys, seed, executor, progress)
        most = float(stats.chi2.sf(chi2, fold.bins))
        by_toys = _toy_p_value(chi2, found.values.get("value", np.empty(0)))
        p = min(by_toys, most)
        words = (f"chi2 {chi2:.3g} of {fold.bins} reco bins, p = {p:.2g}, {by_toys:.2g} by {found.done} toys (level "
                 f"{level:g}){found.words}")  # fmt: skip
        return Check("refolded chi2", None if most > level and found.too_few else p > level, p, level, words)
    if dof < 0.5:
        return Check("refolded chi2", None, chi2, level, f"chi2 {chi2:.3g}, no degrees of freedom are left")
    p = float(stats.chi2.sf(chi2, dof))
    words = f"chi2 {chi2:.3g} for {dof:.3g} degrees of freedom, p = {p:.2g} (level {level:g})"
    return Check("refolded chi2", p > level, p, level, words)


def _thrown_chi2(
    fold: Fold, truth: Floats, unfold: Unfold, toys: int, seed: int, executor: Executor | None, progress: bool
) -> Toys:
    def toy(_: object, rng: np.random.Generator) -> float:
        thrown = fold.thrown(truth, rng)
        return fold.chi2(thrown, unfold(thrown, fold.response).values)

    return Toys.of(tasks.run(toy, toys, seed=seed, executor=executor, name="refolded chi2", errors="record",
                             progress=progress))  # fmt: skip


def _toy_p_value(chi2: float, thrown: Floats) -> float:
    """Of the chi-squared of toys (N,)."""
    p = float((1 + (thrown >= chi2).sum()) / (1 + len(thrown)))
    if len(thrown) < 2 or (thrown >= chi2).any() or not thrown.var() > 0:
        return p
    scale = thrown.var() / thrown.mean()
    return min(p, float(stats.gamma.sf(chi2, thrown.mean() / scale, scale=scale)))


@dataclass(frozen=True, eq=False)
class Toys:
    """Arrays (N, ...) of the toys that were unfolded, the number of those that were not, and why the first was not."""

    values: dict[str, Floats]
    done: int
    failed: int
    first: str

    @classmethod
    def of(cls, run: tasks.Results) -> Toys:
        """With the failures that it recorded."""
        values = run.stacked(skip_failures=True) if len(run.done) else {}
        first = run.failures[0].message if run.failures else ""
        return cls(values, len(run.done), len(run.failures), first)

    @property
    def too_few(self) -> bool:
        """Whether more failed than a verdict allows."""
        return self.failed > MOST_FAILED * (self.done + self.failed)

    @property
    def words(self) -> str:
        """About the failures, to be added to what is said of the others."""
        if not self.failed:
            return ""
        verdict = f", and more than {MOST_FAILED:.0%} give no verdict" if self.too_few else ""
        return f"; {self.failed} of {self.done + self.failed} toys failed ({self.first}){verdict}"


@dataclass(frozen=True, eq=False)
class Fold:
    """Data expected of a truth, and how they fluctuate: made by `Fold.of`.

    Attributes
    ----------
    background:
        (R,).
    scaled:
        Whether fakes follow the signal.
    covariance:
        Of the data (R, R); None for Poisson counts.
    """

    response: Response
    background: Floats
    scaled: bool
    covariance: Floats | None

    @classmethod
    def of(
        cls, spectrum: Spectrum | None, response: Response, background: Counts, covariance: ArrayLike | None,
        fakes: str = "subtract",
    ) -> Fold:  # fmt: skip
        """As they were unfolded; the rule for fakes is the spectrum's where there is one."""
        rule = fakes if spectrum is None else spectrum.settings.get("fakes", "subtract")
        own = (
            np.zeros(response.reco.size) if background is None else contents("background", background, response.reco)[0]
        )
        given = None if covariance is None else np.asarray(covariance, np.float64)
        matrix = np.diag(given) if given is not None and given.ndim == 1 else given
        return cls(response, own, rule == "scale", matrix)

    @property
    def bins(self) -> int:
        """R."""
        return self.response.reco.size

    def expected(self, truth: ArrayLike) -> Floats:
        """(R,)."""
        folded, r = self.response.fold(truth), self.response
        if not self.scaled:
            return folded + r.fakes + self.background
        signal = r.both.sum(1)
        return np.where(signal > 0, folded * r.reco_yield / np.where(signal > 0, signal, 1), r.fakes) + self.background

    def chi2(self, data: Floats, truth: Floats) -> float:
        """Of data (R,) about what is expected of a truth (T,)."""
        expected = self.expected(truth)
        if self.covariance is not None:
            return quadratic_form(data - expected, self.covariance)[0]
        if (bad := np.flatnonzero((expected <= 0) & ((expected < 0) | (data != 0)))).size:
            raise ValueError(f"refolded: expected positive counts of each reco bin, found {expected[bad[0]]:.3g} in "
                             f"bin {bad[0]} ({self.response.reco.label(int(bad[0]))}) beside {data[bad[0]]:g} in the "
                             f"data; merge bins, or give covariance=")  # fmt: skip
        return float(np.sum(np.divide((data - expected) ** 2, expected, out=np.zeros_like(data), where=expected > 0)))

    def thrown(self, truth: ArrayLike, rng: np.random.Generator) -> Floats:
        """Counts (R,) of a pseudo-experiment."""
        expected = self.expected(truth)
        if self.covariance is None:
            return rng.poisson(expected).astype(np.float64)
        return rng.multivariate_normal(expected, self.covariance, method="eigh")
