"""Pseudo-experiments: how often the intervals of an unfolding hold what they should."""

from __future__ import annotations

import os
from collections.abc import Sequence
from concurrent.futures import Executor
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import special, stats

from ... import tasks
from ..binning import Binning
from ..measured import Counts
from ..response import Response, reference_of
from ..spectrum import Spectrum, Unfold
from .forward import Fold, Toys
from .verdicts import USUAL, Check, over

__all__ = ["PseudoExperiments", "coverage", "of_spectra", "pseudo_experiments"]

Floats = NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class PseudoExperiments:
    """What N unfolded pseudo-experiments of a truth (B,) gave.

    Attributes
    ----------
    values, smeared, sigma:
        (N, B): u, the truth through that toy's A_C, and the uncertainty by the data's statistics.  Of results without
        A_C "smeared" is what all the pseudo-experiments say of it: see `of_spectra`.
    cl:
        Of the intervals u +- z sigma that are counted.
    target:
        What ``smeared`` is, in words.
    failures:
        What is to be said of those that could not be unfolded, which are not among the N; and ``too_few``, whether they
        are more than a verdict allows.
    """

    binning: Binning
    truth: Floats
    values: Floats
    smeared: Floats
    sigma: Floats
    cl: float
    target: str = "A_C x truth"
    failures: str = ""
    too_few: bool = False

    def __len__(self) -> int:
        return len(self.values)

    @property
    def pulls(self) -> Floats:
        """(u - A_C t) / sigma (N, B): of mean 0 and deviation 1."""
        return over(self.values - self.smeared, self.sigma)

    @property
    def covered(self) -> Floats:
        """The fraction (B,) of intervals that hold A_C t."""
        return self._within(self.pulls)

    @property
    def truth_covered(self) -> Floats:
        """The fraction (B,) that hold the truth itself, which regularised answers are biased from."""
        return self._within(over(self.values - self.truth, self.sigma))

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
        return (f"PseudoExperiments({len(self)} of {self.binning!r}; coverage of {self.target} "
                f"{self.covered.min():.3g} to {self.covered.max():.3g}, nominal {self.cl:.3g})")  # fmt: skip


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
        for a truth of other bins or not positive, fewer than 2 toys.
    TaskError
        where ``unfold`` fails for all toys but one; of fewer failures the result keeps count.

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
    model, fold = reference_of(truth, response, "truth"), Fold.of(None, response, background, covariance, fakes)

    def toy(_: object, rng: np.random.Generator) -> dict[str, Floats]:
        found = unfold(fold.thrown(model, rng), response)
        own = found.covariances.get("data")
        variance = np.diag(found.covariance if own is None else own)
        return {"values": found.values, "smeared": found.smear(model), "sigma": np.sqrt(variance)}

    run = tasks.run(
        toy, toys, seed=seed, executor=executor, checkpoint=checkpoint, name="pseudo-experiments", errors="record",
        progress=progress,
    )  # fmt: skip
    each = Toys.of(run)
    if each.done < 2:
        raise tasks.TaskError(f"pseudo-experiments: expected at least 2 that can be unfolded, found "
                              f"{each.done}{each.words}")  # fmt: skip
    values, smeared, sigma = (each.values[name] for name in ("values", "smeared", "sigma"))
    return PseudoExperiments(
        response.truth, model, values, smeared, sigma, cl, failures=each.words, too_few=each.too_few
    )


def of_spectra(
    spectra: Sequence[Spectrum], truth: ArrayLike, *, sigma: ArrayLike | None = None, cl: float = 0.6827
) -> PseudoExperiments:  # fmt: skip
    r"""Pseudo-experiments of one truth that are unfolded already, by a method that knows no A_C, as weighted events.

    What such a method makes of the truth is the expectation of u, for which the mean of the N pseudo-experiments is
    taken; ``smeared`` is :math:`u_i - \sqrt{N / (N - 1)}\, (u_i - \bar u)`, so that u - smeared has the variance of u.
    The coverage is thus that of the covariance.  The bias is in the coverage of the truth itself.

    Parameters
    ----------
    spectra:
        N of them in the same bins, from independent data; with a simulation of their own each where ``sigma`` has the
        simulation's statistics in it.
    truth:
        (B,), in the exposure of the data.
    sigma:
        (B,), the uncertainty; None for that of each spectrum.

    Raises
    ------
    ValueError
        for fewer than 2 spectra, other bins, or no uncertainty.
    """
    if len(spectra) < 2:
        raise ValueError(f"pseudo-experiments: expected at least 2 spectra, found {len(spectra)}")
    binning, model = spectra[0].binning, np.asarray(truth, np.float64)
    for number, spectrum in enumerate(spectra):
        binning.check_same(f"pseudo-experiment {number}", spectrum.binning)
    if model.shape != (binning.size,):
        raise ValueError(f"truth: expected {binning.size} bins, found shape {model.shape}")
    values = np.stack([s.values for s in spectra])
    unit = np.stack([s.uncertainty if sigma is None else np.asarray(sigma, np.float64) for s in spectra])
    smeared = values - np.sqrt(len(values) / (len(values) - 1)) * (values - values.mean(0))
    return PseudoExperiments(binning, model, values, smeared, unit, cl, "the mean of all")


def coverage(
    found: PseudoExperiments, *, level: float = USUAL.level, tolerance: float = USUAL.coverage, wide: bool = False
) -> tuple[Check, Check]:  # fmt: skip
    """Two checks: the coverage of A_C x truth in each bin, with its binomial p-value; and that of the truth, no bar.

    The smallest p-value of B bins counts B times.  It fails where that is below the level, and the coverage further
    than ``tolerance`` from nominal, on either side; with ``wide``, below it only.  There is no verdict where more than
    3% of the pseudo-experiments could not be unfolded.
    """
    counts, bins = np.rint(found.covered * len(found)).astype(int), found.binning.size
    side = "less" if wide else "two-sided"
    each = np.array([stats.binomtest(int(k), len(found), found.cl, side).pvalue for k in counts])
    away = (found.cl - found.covered if wide else np.abs(found.covered - found.cl)) > tolerance
    k = int(np.argmin(np.where(away, each, 2.0) if away.any() else each))
    p, value, error = min(1.0, bins * float(each[k])), found.covered[k], found.error(found.covered)[k]
    width = found.pulls.std(0)
    words = (f"{len(found)} pseudo-experiments, of {found.target} at {found.cl:.3g}: {value:.3f} +- {error:.3f} in bin "
             f"{k} ({found.binning.label(k)}), p = {p:.2g} of {bins} bins (level {level:g}); mean "
             f"{found.covered.mean():.3f}, widths of pulls {width.min():.3g} to {width.max():.3g}"
             f"{found.failures}")  # fmt: skip
    low = int(np.argmin(found.truth_covered))
    itself = (f"mean {found.truth_covered.mean():.3f}, down to {found.truth_covered[low]:.3f} in bin {low} "
              f"({found.binning.label(low)}), where bias/sigma is {found.bias[low]:+.2g}; largest |bias|/sigma "
              f"{np.abs(found.bias).max():.2g}")  # fmt: skip
    return (
        Check("coverage", None if found.too_few else p > level or not bool(away[k]), p, level, words),
        Check("coverage of the truth itself", None, float(found.truth_covered.mean()), found.cl, itself),
    )
