r"""An unfolded spectrum beside a truth, another prior, or the iteration before.

**What they test.**  Closure, and a stress test of a truth s that was folded by the very response P which unfolds it,
are identities for a linear method: it gives U P s, and A_C s is the same by definition.  They test the code (fakes,
background, efficiency, A_C), and not whether the response is right.  Only pseudo-data of another generator, event by
event through the detector, test the response, which depends on the truth inside bins and in columns that bins do not
know.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import ArrayLike, NDArray

from ..spectrum import Spectrum
from .verdicts import USUAL, Check, largest, named, over

__all__ = ["closure", "iteration_effect", "prior_dependence", "stress"]

Floats = NDArray[np.float64]


def closure(
    found: Spectrum, truth: ArrayLike, *, sigma: ArrayLike | None = None, most: float = USUAL.closure
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
    worst, where = largest(through, found.binning)
    words = f"simulation unfolded as data is up to {worst:.2g} sigma from {_own(found)}, {where}; at most {most:g}"
    return Check("closure", worst <= most, worst, most, words + _itself(itself, found))


def stress(
    found: Spectrum, truth: ArrayLike, *, name: str = "", sigma: ArrayLike | None = None, level: float = USUAL.level,
    tolerance: float = USUAL.tolerance,
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

    A truth folded by the same response is an identity for a linear method, and tests the code alone: see the module.

    Where the covariance is that of replicas, chi-squared and p are those of `Spectrum.chi2`; of too few replicas there
    are none, and no verdict beyond the tolerance.
    """
    through, itself = _distances(found, truth, sigma)
    worst, where = largest(through, found.binning)
    distance = f"largest distance {worst:.2g} sigma, {where}" + _itself(itself, found)
    what = named("stress test", name)
    if not found.enough_draws:
        words = f"{found.draws:.0f} replicas are too few for a p-value; {distance}"
        return Check(what, True if worst <= tolerance else None, np.nan, level, words)
    chi2 = found.chi2(truth)
    words = (
        f"chi2 {chi2.value:.3g} for {chi2.dof} of {_own(found)}, p = {chi2.p_value:.2g} (level {level:g}); {distance}"
    )
    return Check(what, worst <= tolerance or chi2.p_value > level, chi2.p_value, level, words)


def prior_dependence(
    spectrum: Spectrum, other: Spectrum, *, name: str = "", most: float = USUAL.prior
) -> Check:  # fmt: skip
    """How far the same data move, unfolded with another prior, reference or model, in sigma of ``spectrum``."""
    spectrum.binning.check_same(named("prior", name), other.binning)
    worst, where = largest(over(other.values - spectrum.values, spectrum.uncertainty), spectrum.binning)
    words = f"moves by up to {worst:.2g} sigma, {where}; at most {most:g}"
    return Check(named("prior dependence", name), worst <= most, worst, most, words)


def iteration_effect(
    spectra: Sequence[ArrayLike], sigma: ArrayLike, *, most: float = USUAL.iteration
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
    moved = np.abs(over(np.diff(each, axis=0), np.asarray(sigma, np.float64))).max(1)
    last = float(moved[-1])
    words = f"the last of {len(each)} moves it by up to {last:.2g} sigma, at most {most:g}; by step " + ", ".join(
        f"{m:.2g}" for m in moved
    )
    return Check("iterations", last <= most, last, most, words)


def _distances(found: Spectrum, truth: ArrayLike, sigma: ArrayLike | None) -> tuple[Floats, Floats]:
    """From A_C x truth and from the truth, in sigma (B,)."""
    unit = found.uncertainty if sigma is None else np.asarray(sigma, np.float64)
    model = np.asarray(truth, np.float64)
    return over(found.values - found.smear(model), unit), over(found.values - model, unit)


def _own(found: Spectrum) -> str:
    return "its truth" if found.smearing is None else "A_C x its truth"


def _itself(pulls: Floats, found: Spectrum) -> str:
    if found.smearing is None:
        return ""
    worst, where = largest(pulls, found.binning)
    return f"; from the truth itself {worst:.2g} sigma, {where}"
