r"""Is an unfolded spectrum to be trusted?  Checks with a verdict, a figure and words, one by one or all at once.

For a binned result u with the additional smearing matrix A_C, the covariance C, the response P, the signal m in the
data and its covariance V:

- *closure*: the simulation unfolded as data gives its own truth t, that is u = A_C t;
- *stress test*: pseudo-data of another truth give A_C times that truth, and how far u is from the truth itself is told;
- *bottom line*: for models a, b and d = a - b,

  .. math:: (A_C d)^T C^+ (A_C d) \le (P d)^T V^{-1} (P d),

  and the same with u - A_C a and m - P a: unfolding cannot make models, or a model and the data, differ more than they
  do before it.  It holds for any linear method, so that where it does not, C is too small or A_C was forgotten;
- *refolded chi-squared*: P u with fakes and background describes the data;
- *coverage*: of pseudo-experiments, how often u +- sigma holds A_C t, in each bin;
- *prior dependence*, *iterations*: how far another prior or the last iteration moves u, in sigma.

Of events with weights, as `omnifold` gives them: the effective size that they leave, a classifier two-sample test of
the weighted simulation against the data, chi-squared in reco bins; closure, stress test, prior dependence and
iterations as above.

A p-value fails below its level, each check by itself: of n checks of a right answer about n times the level fail.
Biases that are significant, and yet small against the uncertainty, pass.

Sources: Cousins, May, Sun, arXiv 1607.07038 (bottom line); Tang, Li, Qian, Zhang, Zhang, arXiv 1705.03568 (A_C);
Lopez-Paz, Oquab, arXiv 1610.06545 (two-sample test).
"""

from __future__ import annotations

import itertools
import os
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Executor
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import special, stats

from .. import metrics, tasks
from ..errors import check_finite
from ..events import Events, flag
from ..records import Record
from .binning import Binning, BinningLike
from .measured import Counts, Measured, contents
from .response import Response, reference_of
from .spectrum import Spectrum, quadratic_form

if TYPE_CHECKING:
    from ..features import Features
    from ..nets import Network
    from ..train import Training
    from ..trees import Trees
    from .unbinned.result import Unfolded

__all__ = [
    "Check",
    "Checks",
    "PseudoExperiments",
    "Thresholds",
    "bottom_line",
    "check",
    "check_events",
    "closure",
    "coverage",
    "effective_size",
    "iteration_effect",
    "prior_dependence",
    "pseudo_experiments",
    "refolded_chi2",
    "reweighted_chi2",
    "stress",
    "two_sample",
]

Floats = NDArray[np.float64]
#: Data in reco bins and the response -> the unfolded spectrum; background and options are the function's own.
Unfold = Callable[[Counts, Response], Spectrum]


@dataclass(frozen=True, kw_only=True)
class Thresholds:
    """What passes.

    Attributes
    ----------
    closure, closure_of_events:
        Largest distance from A_C times the simulation's own truth, in sigma; of weighted events, whose networks have a
        noise of their own.
    level:
        Smallest p-value.
    tolerance:
        Largest distance from A_C times a truth, in sigma, that passes whatever its p-value.
    bottom_line:
        Largest factor by which models may differ more after unfolding than before, less 1: for a V of observed counts
        and a C of expected ones.
    coverage:
        Largest distance of a bin's coverage from the nominal one that passes whatever its p-value.
    prior, iteration:
        Largest movement in sigma.
    effective_size:
        Smallest effective size of the weighted simulation, in units of that before.
    """

    closure: float = 0.1
    closure_of_events: float = 0.5
    level: float = 0.001
    tolerance: float = 0.3
    bottom_line: float = 0.05
    coverage: float = 0.03
    prior: float = 1.0
    iteration: float = 1.0
    effective_size: float = 0.1


_USUAL = Thresholds()


@dataclass(frozen=True)
class Check(Record):
    """One check: its verdict (None where nothing can be decided), the figure found, what it is compared with, words."""

    _KIND = "unfolding check"

    name: str
    passed: bool | None
    value: float
    threshold: float
    words: str

    def __str__(self) -> str:
        return f"{_VERDICT[self.passed]}  {self.name}: {self.words}"


_VERDICT = {True: "passed ", False: "FAILED ", None: "no bar "}


@dataclass(frozen=True, repr=False)
class Checks(Record):
    """Several checks, to be printed.

    >>> print(Checks((Check("closure", True, 0.01, 0.1, "0.01 sigma"), Check("bottom line", None, 0.0, 1.0, "none"))))
    1 of 1 checks passed
      passed   closure: 0.01 sigma
      no bar   bottom line: none
    """

    _KIND = "unfolding checks"

    checks: tuple[Check, ...]

    @property
    def failed(self) -> tuple[Check, ...]:
        """Those that failed."""
        return tuple(c for c in self.checks if c.passed is False)

    @property
    def undecided(self) -> tuple[Check, ...]:
        """Those without a verdict."""
        return tuple(c for c in self.checks if c.passed is None)

    def __getitem__(self, name: str) -> Check:
        """The check of this name; ``KeyError`` without one."""
        for found in self.checks:
            if found.name == name:
                return found
        raise KeyError(f"no check {name!r}; known: {', '.join(c.name for c in self.checks)}")

    def __len__(self) -> int:
        return len(self.checks)

    def raise_if_failed(self) -> None:
        """Raise ``RuntimeError`` with the words of all checks that failed, if there are any."""
        if self.failed:
            lines = "\n".join(f"  {c}" for c in self.failed)
            raise RuntimeError(f"{len(self.failed)} of {len(self)} checks of the unfolding failed; do not quote the "
                               f"result before you know why\n{lines}")  # fmt: skip

    def __repr__(self) -> str:
        decided = len(self) - len(self.undecided)
        head = f"{decided - len(self.failed)} of {decided} checks passed"
        order: list[bool | None] = [False, True, None]
        return "\n".join([head, *(f"  {c}" for c in sorted(self.checks, key=lambda c: order.index(c.passed)))])

    __str__ = __repr__


# -- a spectrum beside a truth -----------------------------------------------------------------------------------------


def closure(
    found: Spectrum, truth: ArrayLike, *, sigma: ArrayLike | None = None, most: float = _USUAL.closure
) -> Check:  # fmt: skip
    """The simulation's own expectation, unfolded as data, gives A_C times its truth (B,); nothing fluctuates in it.

    Parameters
    ----------
    sigma:
        (B,), the unit; None for the uncertainty of ``found``, in the exposure of the simulation.
    most:
        Largest distance in sigma.
    """
    through, itself = _distances(found, truth, sigma)
    worst, where = _worst(through, found.binning)
    words = f"simulation unfolded as data is up to {worst:.2g} sigma from {_own(found)}, {where}; at most {most:g}"
    return Check("closure", worst <= most, worst, most, words + _itself(itself, found))


def stress(
    found: Spectrum, truth: ArrayLike, *, name: str = "", sigma: ArrayLike | None = None, level: float = _USUAL.level,
    tolerance: float = _USUAL.tolerance,
) -> Check:  # fmt: skip
    """Pseudo-data of another truth (B,), unfolded, against A_C times that truth, by chi-squared.

    Parameters
    ----------
    found:
        The unfolded pseudo-data: another truth folded by the same response, or the events of another generator, whose
        response may differ inside bins; its covariance is that of the pseudo-data's own statistics.
    name:
        Of the truth.
    sigma:
        (B,), the unit of distances; None for the uncertainty of ``found``.
    level, tolerance:
        It fails where p is below the level and the largest distance above the tolerance.

    Where the covariance is that of n replicas, p is that of Hotelling's T^2, F-distributed with B and n - B degrees of
    freedom; with n of at most B there is none, and no verdict beyond the tolerance.
    """
    through, itself = _distances(found, truth, sigma)
    chi2, p, (worst, where) = found.chi2(truth), _p_value(found, truth), _worst(through, found.binning)
    words = f"chi2 {chi2.value:.3g} for {chi2.dof} of {_own(found)}, " + (
        f"{len(found.replicas)} replicas are too few for a p-value" if p is None
        else f"p = {p:.2g} (level {level:g})"
    ) + f"; largest distance {worst:.2g} sigma, {where}"  # fmt: skip
    passed = True if worst <= tolerance else None if p is None else p > level
    value = np.nan if p is None else p
    return Check(_named("stress test", name), passed, value, level, words + _itself(itself, found))


def _p_value(found: Spectrum, truth: ArrayLike) -> float | None:
    """Of chi-squared; of Hotelling's T^2 where the covariance is that of n replicas, None for too few of them."""
    chi2, n = found.chi2(truth), len(found.replicas)
    if n < 2:
        return chi2.p_value
    if n <= found.binning.size:  # the covariance has no inverse, whatever its rank
        return None
    return metrics.hotelling(chi2.value, n, chi2.dof)


def prior_dependence(
    spectrum: Spectrum, other: Spectrum, *, name: str = "", most: float = _USUAL.prior
) -> Check:  # fmt: skip
    """How far the same data move, unfolded with another prior, reference or model, in sigma of ``spectrum``."""
    spectrum.binning.check_same(_named("prior", name), other.binning)
    worst, where = _worst(_over(other.values - spectrum.values, spectrum.uncertainty), spectrum.binning)
    words = f"moves by up to {worst:.2g} sigma, {where}; at most {most:g}"
    return Check(_named("prior dependence", name), worst <= most, worst, most, words)


def iteration_effect(
    spectra: Sequence[ArrayLike], sigma: ArrayLike, *, most: float = _USUAL.iteration
) -> Check:  # fmt: skip
    """How far the last iteration moved the spectrum (B,) after it, in sigma (B,); at least two spectra.

    Raises
    ------
    ValueError
        for fewer than two spectra.
    """
    each = np.array([np.asarray(s, np.float64) for s in spectra])
    if len(each) < 2:
        raise ValueError(f"spectra: expected those after at least 2 iterations, found {len(each)}")
    moved = np.abs(_over(np.diff(each, axis=0), np.asarray(sigma, np.float64))).max(1)
    last = float(moved[-1])
    words = f"the last of {len(each)} moves it by up to {last:.2g} sigma, at most {most:g}; by step " + ", ".join(
        f"{m:.2g}" for m in moved
    )
    return Check("iterations", last <= most, last, most, words)


def _distances(found: Spectrum, truth: ArrayLike, sigma: ArrayLike | None) -> tuple[Floats, Floats]:
    """From A_C x truth and from the truth, in sigma (B,)."""
    unit = found.uncertainty if sigma is None else np.asarray(sigma, np.float64)
    model = np.asarray(truth, np.float64)
    return _over(found.values - found.smear(model), unit), _over(found.values - model, unit)


def _over(difference: Floats, sigma: Floats) -> Floats:
    """Quotient; a bin without uncertainty has to agree, up to rounding."""
    check_finite("unfolded contents", np.atleast_1d(difference).reshape(-1))
    beyond = np.where(np.abs(difference) > 1e-9, np.inf, 0.0)
    return np.divide(difference, sigma, out=beyond, where=np.broadcast_to(sigma > 0, difference.shape))


def _worst(pulls: Floats, binning: Binning) -> tuple[float, str]:
    k = int(np.argmax(np.abs(pulls)))
    return float(np.abs(pulls[k])), f"in bin {k} ({binning.label(k)})"


def _own(found: Spectrum) -> str:
    return "its truth" if found.smearing is None else "A_C x its truth"


def _itself(pulls: Floats, found: Spectrum) -> str:
    if found.smearing is None:
        return ""
    worst, where = _worst(pulls, found.binning)
    return f"; from the truth itself {worst:.2g} sigma, {where}"


def _named(kind: str, name: str) -> str:
    return f"{kind}, {name}" if name else kind


# -- in reco space -----------------------------------------------------------------------------------------------------


def bottom_line(
    spectrum: Spectrum, data: Counts, response: Response, models: Mapping[str, ArrayLike], *, background: Counts = None,
    covariance: ArrayLike | None = None, tolerance: float = _USUAL.bottom_line,
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
    covariance: ArrayLike | None = None, unfold: Unfold | None = None, toys: int = 200, level: float = _USUAL.level,
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
        data then: p is no larger than that of R degrees of freedom, which no right answer exceeds.  Without ``unfold``
        p is from chi-squared with R - tr(A_C) degrees of freedom, R - T without A_C: exact for least squares, an
        approximation otherwise.

    Raises
    ------
    ValueError
        for a spectrum that folds to no positive counts where V is to follow from them.
    """
    fold = _Fold.of(spectrum, response, background, covariance)
    chi2 = fold.chi2(contents("data", data, response.reco)[0], spectrum.values)
    kept = len(spectrum.values) if spectrum.smearing is None else float(np.trace(spectrum.smearing))
    dof = response.reco.size - kept
    if unfold is not None:
        by_toys = _toy_p_value(chi2, fold, spectrum.values, unfold, toys, seed, executor, progress)
        p = min(by_toys, float(stats.chi2.sf(chi2, response.reco.size)))
        words = (f"chi2 {chi2:.3g} of {response.reco.size} reco bins, p = {p:.2g}, {by_toys:.2g} by {toys} toys (level "
                 f"{level:g})")  # fmt: skip
        return Check("refolded chi2", p > level, p, level, words)
    if dof < 0.5:
        return Check("refolded chi2", None, chi2, level, f"chi2 {chi2:.3g}, no degrees of freedom are left")
    p = float(stats.chi2.sf(chi2, dof))
    words = f"chi2 {chi2:.3g} for {dof:.3g} degrees of freedom, p = {p:.2g} (level {level:g})"
    return Check("refolded chi2", p > level, p, level, words)


def _toy_p_value(
    chi2: float, fold: _Fold, truth: Floats, unfold: Unfold, toys: int, seed: int, executor: Executor | None,
    progress: bool,
) -> float:  # fmt: skip
    def toy(_: object, rng: np.random.Generator) -> float:
        thrown = fold.thrown(truth, rng)
        return fold.chi2(thrown, unfold(thrown, fold.response).values)

    found = tasks.run(toy, toys, seed=seed, executor=executor, name="refolded chi2", progress=progress)
    thrown = np.asarray(found.stacked()["value"], np.float64)
    p = float((1 + (thrown >= chi2).sum()) / (1 + toys))
    if (thrown >= chi2).any() or not thrown.var() > 0:
        return p
    scale = thrown.var() / thrown.mean()
    return min(p, float(stats.gamma.sf(chi2, thrown.mean() / scale, scale=scale)))


@dataclass(frozen=True, eq=False)
class _Fold:
    """Data expected of a truth, and how they fluctuate."""

    response: Response
    background: Floats
    scaled: bool
    covariance: Floats | None

    @classmethod
    def of(
        cls, spectrum: Spectrum | None, response: Response, background: Counts, covariance: ArrayLike | None,
        fakes: str = "subtract",
    ) -> _Fold:  # fmt: skip
        rule = fakes if spectrum is None else spectrum.settings.get("fakes", "subtract")
        own = (
            np.zeros(response.reco.size) if background is None else contents("background", background, response.reco)[0]
        )
        given = None if covariance is None else np.asarray(covariance, np.float64)
        matrix = np.diag(given) if given is not None and given.ndim == 1 else given
        return cls(response, own, rule == "scale", matrix)

    def expected(self, truth: ArrayLike) -> Floats:
        """(R,)."""
        folded, r = self.response.fold(truth), self.response
        if not self.scaled:
            return folded + r.fakes + self.background
        signal = r.both.sum(1)
        return np.where(signal > 0, folded * r.reco_yield / np.where(signal > 0, signal, 1), r.fakes) + self.background

    def chi2(self, data: Floats, truth: Floats) -> float:
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


# -- pseudo-experiments ------------------------------------------------------------------------------------------------


@dataclass(frozen=True, eq=False)
class PseudoExperiments:
    """What N unfolded pseudo-experiments of a truth (B,) gave.

    Attributes
    ----------
    values, smeared, sigma:
        (N, B): u, the truth through that toy's A_C, and the uncertainty by the data's statistics.
    cl:
        Of the intervals u +- z sigma that are counted.
    """

    binning: Binning
    truth: Floats
    values: Floats
    smeared: Floats
    sigma: Floats
    cl: float

    def __len__(self) -> int:
        return len(self.values)

    @property
    def pulls(self) -> Floats:
        """(u - A_C t) / sigma (N, B): of mean 0 and deviation 1."""
        return _over(self.values - self.smeared, self.sigma)

    @property
    def covered(self) -> Floats:
        """The fraction (B,) of intervals that hold A_C t."""
        return self._within(self.pulls)

    @property
    def truth_covered(self) -> Floats:
        """The fraction (B,) that hold the truth itself, which regularised answers are biased from."""
        return self._within(_over(self.values - self.truth, self.sigma))

    @property
    def bias(self) -> Floats:
        """Mean of u - t, in units of the mean sigma (B,)."""
        return np.asarray((self.values.mean(0) - self.truth) / self.sigma.mean(0))

    def error(self, covered: ArrayLike) -> Floats:
        """Binomial error (B,) of fractions (B,), of one more toy either way where none or all are."""
        share = (np.asarray(covered, np.float64) * len(self) + 1) / (len(self) + 2)
        return np.asarray(np.sqrt(share * (1 - share) / len(self)))

    def _within(self, pulls: Floats) -> Floats:
        return np.asarray((np.abs(pulls) <= special.ndtri((1 + self.cl) / 2)).mean(0))

    def __repr__(self) -> str:
        return (f"PseudoExperiments({len(self)} of {self.binning!r}; coverage of A_C x truth {self.covered.min():.3g} "
                f"to {self.covered.max():.3g}, nominal {self.cl:.3g})")  # fmt: skip


def pseudo_experiments(
    unfold: Unfold, response: Response, truth: ArrayLike, *, toys: int = 500, background: Counts = None,
    fakes: str = "subtract", covariance: ArrayLike | None = None, cl: float = 0.6827, seed: int,
    executor: Executor | None = None, checkpoint: str | os.PathLike[str] | None = None, progress: bool = True,
) -> PseudoExperiments:  # fmt: skip
    """Unfold pseudo-experiments of a truth, which fluctuate as the data do; the response is taken as exact.

    Parameters
    ----------
    unfold:
        ``unfold(data, response)``: contents (R,), and the response given here.
    truth:
        (B,), positive, in the exposure of the data.
    background, fakes:
        What else is expected in the data, and what ``unfold`` does about fakes.
    covariance:
        V of Gaussian fluctuations (R, R), or variances (R,); None for Poisson counts.
    cl:
        Between 0 and 1.

    The uncertainty is that of the source "data" where the covariance is given by source, for neither the simulation
    nor systematics fluctuate; otherwise it is the whole one.

    Raises
    ------
    ValueError
        for a truth of other bins or not positive, fewer than 2 toys; ``TaskError`` where ``unfold`` fails.

    >>> from nuinfer import Events
    >>> from nuinfer.unfolding import tikhonov
    >>> events = Events({"t": [0.5, 0.5, 1.5, 1.5], "x": [0.4, 1.2, 1.4, 9.0]})
    >>> response = Response.from_events(events, truth={"t": [0, 1, 2]}, reco={"x": [0, 1, 2]})
    >>> found = pseudo_experiments(lambda d, r: tikhonov(d, r, strength=0.0), response, [4e4, 9e4], toys=200, seed=1,
    ...                            progress=False)
    >>> len(found), bool((abs(found.covered - 0.683) < 0.1).all())  # three binomial errors
    (200, True)
    """
    if not toys >= 2:
        raise ValueError(f"toys: expected at least 2, found {toys}")
    if not 0 < cl < 1:
        raise ValueError(f"cl: expected a number between 0 and 1, found {cl}")
    model, fold = reference_of(truth, response, "truth"), _Fold.of(None, response, background, covariance, fakes)

    def toy(_: object, rng: np.random.Generator) -> dict[str, Floats]:
        found = unfold(fold.thrown(model, rng), response)
        own = found.covariances.get("data")
        variance = np.diag(found.covariance if own is None else own)
        return {"values": found.values, "smeared": found.smear(model), "sigma": np.sqrt(variance)}

    run = tasks.run(
        toy, toys, seed=seed, executor=executor, checkpoint=checkpoint, name="pseudo-experiments", progress=progress
    )
    each = run.stacked()
    return PseudoExperiments(response.truth, model, each["values"], each["smeared"], each["sigma"], cl)


def coverage(
    found: PseudoExperiments, *, level: float = _USUAL.level, tolerance: float = _USUAL.coverage
) -> tuple[Check, Check]:  # fmt: skip
    """Two checks: the coverage of A_C x truth in each bin, with its binomial p-value; and that of the truth, no bar.

    The smallest p-value of B bins counts B times.  It fails where that is below the level, and the coverage further
    than ``tolerance`` from nominal, on either side.
    """
    counts, bins = np.rint(found.covered * len(found)).astype(int), found.binning.size
    each = np.array([stats.binomtest(int(k), len(found), found.cl).pvalue for k in counts])
    away = np.abs(found.covered - found.cl) > tolerance
    k = int(np.argmin(np.where(away, each, 2.0) if away.any() else each))
    p, value, error = min(1.0, bins * float(each[k])), found.covered[k], found.error(found.covered)[k]
    width = found.pulls.std(0)
    words = (f"{len(found)} pseudo-experiments, of A_C x truth at {found.cl:.3g}: {value:.3f} +- {error:.3f} in bin "
             f"{k} ({found.binning.label(k)}), p = {p:.2g} of {bins} bins (level {level:g}); mean "
             f"{found.covered.mean():.3f}, widths of pulls {width.min():.3g} to {width.max():.3g}")  # fmt: skip
    low = int(np.argmin(found.truth_covered))
    itself = (f"mean {found.truth_covered.mean():.3f}, down to {found.truth_covered[low]:.3f} in bin {low} "
              f"({found.binning.label(low)}), where bias/sigma is {found.bias[low]:+.2g}; largest |bias|/sigma "
              f"{np.abs(found.bias).max():.2g}")  # fmt: skip
    return (
        Check("coverage", p > level or not away[k], p, level, words),
        Check("coverage of the truth itself", None, float(found.truth_covered.mean()), found.cl, itself),
    )


# -- weighted events ---------------------------------------------------------------------------------------------------


def effective_size(unfolded: Unfolded, *, least: float = _USUAL.effective_size) -> Check:
    """The effective size of the weighted truth over that of the simulation, of the member with the smallest."""
    where = flag(unfolded.simulation, "pass_truth")
    own = unfolded.simulation.weight[where]
    before = float(metrics.effective_size(own))
    after = metrics.effective_size(unfolded.weights[:, where] * own)
    share = float(after.min() / before)
    words = (f"{after.min():.0f} effective events of {before:.0f} before, {share:.2g}, at least {least:g}; largest "
             f"weight {float(unfolded.weights[:, where].max()):.3g}")  # fmt: skip
    return Check("effective size", share >= least, share, least, words)


def two_sample(
    unfolded: Unfolded, data: Events, features: Features | list[str], *, background: Events | None = None,
    level: float = _USUAL.level, network: Network | Trees | None = None, training: Training | None = None,
    group: str | None = None, seed: int,
) -> Check:  # fmt: skip
    """Whether a classifier can tell the data from the weighted simulation (with its fakes) and background, in reco.

    The AUC out of fold against its deviation for equal samples.  The weights were learned from the same data, so that p
    leans towards 1: a small one says more than its number.

    Raises
    ------
    KeyError, ValueError
        for features that a sample has not, or that are not finite.
    """
    from ..features import Features  # torch, which checks in bins do without
    from ..ratio import two_sample_test

    features = Features.of(features)
    own = [*features.columns, *([] if group is None else [group])]
    seen = data.select(flag(data, "pass_reco"))
    expected = _reco(unfolded).keep(own)
    if background is not None:
        expected = Events.concat([expected, background.select(flag(background, "pass_reco")).keep(own)])
    test = two_sample_test(
        seen, expected, features, network=network, training=training, group=group, seed=seed, progress=False
    ).auc
    p = float(special.ndtr(-test.z))
    words = f"AUC {test.value:.4f} +- {test.null_sd:.4f} (equal: 0.5), p = {p:.2g} (level {level:g})"
    return Check("two-sample test", p > level, p, level, words)


def reweighted_chi2(
    unfolded: Unfolded, data: Events, bins: BinningLike, *, background: Events | None = None,
    level: float = _USUAL.level,
) -> Check:  # fmt: skip
    """The weighted simulation (with its fakes) and background against the data, in reco bins.

    Variances are sums of squared weights of all of them, and R bins count as R degrees of freedom although the weights
    were learned from the same data: p leans towards 1, and a small one says more than its number.
    """
    binning = Binning.of(bins)
    parts = [data.select(flag(data, "pass_reco")), _reco(unfolded)]
    parts += [] if background is None else [background.select(flag(background, "pass_reco"))]
    filled = [binning.fill(events) for events in parts]
    difference = filled[0][0] - sum(values for values, _ in filled[1:])
    variance = np.asarray(sum(v for _, v in filled))
    chi2, dof = quadratic_form(difference, np.diag(variance))
    p = float(stats.chi2.sf(chi2, dof))
    worst, where = _worst(_over(difference, np.sqrt(variance)), binning)
    words = f"chi2 {chi2:.3g} for {dof} bins, p = {p:.2g} (level {level:g}); largest pull {worst:.2g}, {where}"
    return Check("refolded chi2", p > level, p, level, words)


def _reco(unfolded: Unfolded) -> Events:
    """Reconstructed events with the mean weight of the members."""
    own = unfolded.simulation
    return own.with_weight(own.weight * unfolded.weights.mean(0)).select(flag(own, "pass_reco"))


# -- all at once -------------------------------------------------------------------------------------------------------


def check(
    spectrum: Spectrum, data: Counts, response: Response, unfold: Unfold, *, background: Counts = None,
    covariance: ArrayLike | None = None, models: Mapping[str, ArrayLike] | None = None,
    pseudo_data: Mapping[str, tuple[Counts, ArrayLike]] | None = None, priors: Mapping[str, Spectrum] | None = None,
    iterations: Sequence[ArrayLike] = (), toys: int = 500, seed: int = 0, executor: Executor | None = None,
    thresholds: Thresholds = _USUAL, progress: bool = True,
) -> Checks:  # fmt: skip
    """All checks of a binned result; those that lack an input are listed without a verdict.

    Parameters
    ----------
    spectrum:
        What ``unfold(data, response)`` gave.
    data, background, covariance:
        As they were unfolded: see `Measured.of`.
    unfold:
        ``unfold(data, response)``, with the same background and options.
    models:
        Truths (B,) by name in the exposure of the data.  Each is folded by the response and unfolded (stress test), and
        all are compared before and after unfolding (bottom line).  Pseudo-experiments are thrown of the first, without
        any of the simulation's truth.
    pseudo_data:
        By name, other data with their truth (B,), as of another generator: events, or contents (R,) with fakes and
        background, for stress tests.
    priors:
        By name, the same data unfolded with another prior, reference or model.
    iterations:
        The spectrum after each iteration.
    toys:
        Pseudo-experiments; as many again for the refolded chi-squared.  0 leaves them out.

    Raises
    ------
    ValueError
        as the checks one by one.
    """
    t, truths, fold = thresholds, dict(models or {}), _Fold.of(spectrum, response, background, covariance)
    spectrum.binning.check_same("response", response.truth)
    own = response.truth_yield
    found = [closure(unfold(fold.expected(own), response), own, most=t.closure)]
    trials = {name: (fold.expected(s), s) for name, s in truths.items()} | dict(pseudo_data or {})
    for name, (pseudo, s) in trials.items():
        found.append(stress(unfold(pseudo, response), s, name=name, sigma=spectrum.uncertainty, level=t.level,
                            tolerance=t.tolerance))  # fmt: skip
    found += [] if trials else [_left_out("stress test", "models= or pseudo_data=")]
    found.append(
        bottom_line(spectrum, data, response, truths, background=background, covariance=covariance,
                    tolerance=t.bottom_line) if truths else _left_out("bottom line", "models=")
    )  # fmt: skip
    found.append(refolded_chi2(spectrum, data, response, background=background, covariance=covariance, level=t.level,
                               unfold=unfold if toys else None, toys=toys, seed=seed, executor=executor,
                               progress=progress))  # fmt: skip
    if toys:
        runs = pseudo_experiments(unfold, response, next(iter(truths.values()), own), toys=toys, background=background,
                                  covariance=covariance, fakes=spectrum.settings.get("fakes", "subtract"),
                                  seed=seed + 1, executor=executor, progress=progress)  # fmt: skip
        found += coverage(runs, level=t.level, tolerance=t.coverage)
    else:
        found.append(_left_out("coverage", "toys="))
    return Checks((*found, *_movements(spectrum, priors or {}, iterations, t)))


def check_events(
    unfolded: Unfolded, data: Events, *, truth: BinningLike, reco: BinningLike, features: Features | list[str],
    background: Events | None = None, closed: Unfolded | None = None,
    pseudo_data: Mapping[str, tuple[Unfolded, ArrayLike]] | None = None, priors: Mapping[str, Unfolded] | None = None,
    network: Network | Trees | None = None, training: Training | None = None, group: str | None = None, seed: int = 0,
    thresholds: Thresholds = _USUAL,
) -> Checks:  # fmt: skip
    """All checks of an unbinned result; those that lack an input are listed without a verdict.

    Parameters
    ----------
    data, background:
        As they were unfolded.
    truth, reco:
        Bins in which truth and reco are compared.
    features, network, training, group:
        Of the two-sample test.
    closed:
        The simulation unfolded as data: its ``pass_reco`` events, by the same simulation.
    pseudo_data:
        By name, other data unfolded, with their truth (B,) in these bins.
    priors:
        By name, the same data unfolded by another simulation.

    Uncertainties are those of the replicas, or of the members alone where there are none.

    Raises
    ------
    ValueError
        where there are neither replicas nor members, and as the checks one by one.
    """
    t, binning = thresholds, Binning.of(truth)
    spectrum = unfolded.spectrum(binning)
    sigma = spectrum.uncertainty
    found = [
        effective_size(unfolded, least=t.effective_size),
        two_sample(unfolded, data, features, background=background, level=t.level, network=network, training=training,
                   group=group, seed=seed),
        reweighted_chi2(unfolded, data, reco, background=background, level=t.level),
    ]  # fmt: skip
    if closed is None:
        found.append(_left_out("closure", "closed="))
    else:
        simulation = closed.simulation
        own = binning.fill(simulation.select(flag(simulation, "pass_truth")))[0]
        there = sigma * np.abs(own / spectrum.values)  # the same relative uncertainty, in the simulation's exposure
        found.append(closure(closed.spectrum(binning), own, sigma=there, most=t.closure_of_events))
    for name, (other, s) in (pseudo_data or {}).items():
        found.append(stress(other.spectrum(binning), s, name=name, sigma=sigma, level=t.level, tolerance=t.tolerance))
    found += [] if pseudo_data else [_left_out("stress test", "pseudo_data=")]
    steps = [unfolded.spectrum(binning, iteration=k).values for k in range(len(unfolded.iterations))]
    others = {name: other.spectrum(binning) for name, other in (priors or {}).items()}
    return Checks((*found, *_movements(spectrum, others, steps, t)))


def _movements(
    spectrum: Spectrum, priors: Mapping[str, Spectrum], iterations: Sequence[ArrayLike], t: Thresholds
) -> list[Check]:
    found = [prior_dependence(spectrum, other, name=name, most=t.prior) for name, other in priors.items()]
    found += [] if priors else [_left_out("prior dependence", "priors=")]
    if len(iterations) > 1:
        return [*found, iteration_effect(iterations, spectrum.uncertainty, most=t.iteration)]
    return [*found, _left_out("iterations", "iterations= of at least 2")]


def _left_out(name: str, needs: str) -> Check:
    return Check(name, None, np.nan, np.nan, f"not done; it needs {needs}")
