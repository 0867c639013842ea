r"""The throws of everything at once, through all five methods.

Throw k is one universe: the same knobs of the five sources, the same bootstraps of data, simulation and background, the
selection made anew, whatever unfolds it.  How it is unfolded is what differs:

- iterative Bayes, Wiener-SVD: with the response of the throw;
- OmniFold, on momentum and angle and on the hits: last layers of the nominal networks, fitted to the throw
  (``refit="last layer"``).  They leave out the noise of training, which the nominal result's members add as "method";
- flow: trained anew, with initial weights and batches of its own, which are so among what is thrown.

Each answer is carried from the thrown flux to the nominal one, bin by bin (`unfolding.to_nominal`).

Covariances are those of `nuinfer.unfolding.Thrown`: of a regression on the nine knobs and of its residuals, which are
as K - 9 replicas, by which chi-squared is scaled.
"""

from __future__ import annotations

from concurrent.futures import Executor
from dataclasses import replace
from functools import partial

import numpy as np
from numpy.typing import NDArray

from analyses.numu_cross_section import unfolding
from analyses.numu_cross_section.unfolding import BINNED, RECO, TRUTH, Samples, Size
from nuinfer.unfolding import Spectrum, Thrown, omnifold_throws, unfold_throws

Floats = NDArray[np.float64]


def thrown(
    samples: Samples, size: Size, seed: int, *, executor: Executor | None = None, progress: bool = True
) -> dict[str, Thrown]:
    """Every method's throws about its own nominal spectrum, in the nominal flux."""
    plain = without_hits(samples)
    found = in_bins(plain, size, seed, executor, progress)
    found |= {
        "OmniFold": refolded(plain, size, seed, executor, progress, hits=False),
        "OmniFold, hits": refolded(samples, size, seed, executor, progress, hits=True),
        "flow": unfold_throws(
            partial(unfolding.generated, size), plain.data, plain.simulation, unfolding.throws_of(size.flow, seed),
            background=plain.background, executor=executor, name="flow", progress=progress,
        ),
    }  # fmt: skip
    return {name: in_nominal_flux(samples, one) for name, one in found.items()}


def without_hits(samples: Samples) -> Samples:
    """The flat columns, which are quicker to send to other processes."""
    data, simulation, background = (
        part.keep([name for name in part.columns if not name.startswith("hits.")])
        for part in (samples.data, samples.simulation, samples.background)
    )
    return Samples(data, simulation, background, samples.pot)


def in_bins(
    samples: Samples, size: Size, seed: int, executor: Executor | None, progress: bool
) -> dict[str, Thrown]:  # fmt: skip
    """The binned methods, both in one throw; the nominal spectra with the smearing matrices of their own."""
    found = unfold_throws(
        unfolding.both, samples.data, samples.simulation, unfolding.throws_of(size.binned, seed),
        background=samples.background, executor=executor, name="binned", progress=progress,
    )  # fmt: skip
    simulation, background = samples.selected
    response, counts = unfolding.response_of(simulation), RECO.fill(samples.data)[0]
    return {
        name: replace(found, nominal=unfold(counts, response, background), spectra=part)
        for (name, unfold), part in zip(BINNED.items(), np.split(found.spectra, 2, axis=1), strict=True)
    }


def refolded(
    samples: Samples, size: Size, seed: int, executor: Executor | None, progress: bool, *, hits: bool
) -> Thrown:  # fmt: skip
    """OmniFold, whose throws fit last layers."""
    return omnifold_throws(
        samples.data, samples.simulation, unfolding.throws_of(size.hits if hits else size.high, seed), TRUTH,
        background=samples.background, executor=executor, progress=progress,
        **unfolding.fold_options(size, hits=hits),
    )  # fmt: skip


def in_nominal_flux(samples: Samples, found: Thrown) -> Thrown:
    """Each throw's spectrum in the flux over which the cross-section is averaged."""
    return replace(found, spectra=found.spectra * unfolding.to_nominal(samples, found.alphas["flux"]))


def by_source(spectrum: Spectrum) -> dict[str, float]:
    """Relative uncertainty of the total by source; minus the root where a regression gives less than nothing."""
    sums = {name: float(covariance.sum()) for name, covariance in spectrum.covariances.items()}
    return {name: float(np.sign(v) * np.sqrt(abs(v)) / spectrum.values.sum()) for name, v in sums.items()}


def side_by_side(one: Thrown, other: Thrown) -> tuple[float, float]:
    """Of the totals in the universes that both have: the correlation, and the first's spread over the second's."""
    count = min(len(one.spectra), len(other.spectra))
    a, b = (t.spectra[:count].sum(1) / t.nominal.values.sum() for t in (one, other))
    return float(np.corrcoef(a, b)[0, 1]), float(a.std() / b.std())
