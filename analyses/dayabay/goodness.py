r"""Does the prediction describe the shape of the prompt spectrum at all?  NPLM with kernels, in 26 bins.

The reference is the expectation in its bins, without a statistical error of its own, and the data are counts in the
same bins: so that the kernel test is made of its parts here, where `nuinfer.anomaly.goodness.goodness_of_fit` wants a
reference with more events than the data's five million.  Functions of energy are evaluated at the middles of bins;
kernels are half a standard deviation of the spectrum wide, 0.8 MeV: wider ones could not tell what 19 free nodes leave.

Nuisance parameters are the systematics of the shape, with unit normals, a free rate, and, over the free spectrum, its
19 nodes without a constraint: they are fitted again to each toy, as they were to the data.  What they add to the
logarithm is projected on the functions of the test, by least squares under the expectation.  Toys have all systematics,
whether the projection holds them or not.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from nuinfer.anomaly.goodness import GoodnessOfFit, KernelFit
from nuinfer.anomaly.goodness.kernel import KernelTest, Tested
from nuinfer.anomaly.goodness.nuisances import Nuisances
from nuinfer.anomaly.goodness.null import chi_square
from nuinfer.anomaly.goodness.result import KernelRatio
from nuinfer.anomaly.goodness.rows import Pseudo
from nuinfer.events import Events

from .bumps import Prompt

Floats = NDArray[np.float64]

COLUMN = "prompt"
KERNELS = KernelFit(width=0.5)
FREE = 10.0  # standard deviations of the logarithm at a node: no constraint


def shape_test(
    prompt: Prompt, *, toys: int, seed: int = 1, systematics: bool = True, spec: KernelFit = KERNELS
) -> GoodnessOfFit:  # fmt: skip
    """The test of the prompt spectrum in shape; without systematics neither fits nor toys know of them."""
    test = kernel_test(prompt, spec, systematics=systematics)
    data = _run(test, prompt.counts[None])
    null = _run(test, prompt.toys(toys, seed=seed, systematics=systematics)).t
    good = null[np.isfinite(null)]
    total = (data.coefficients + test.nuisances.coefficients(data.nu))[0]
    return GoodnessOfFit(
        float(data.t[0]), good, len(null) - len(good), *chi_square(good), float(prompt.counts.sum()),
        float(prompt.expected.sum()), dict(zip(test.nuisances.names, data.nu[0].tolist(), strict=True)),
        KernelRatio((COLUMN,), test.basis, total),
    )  # fmt: skip


def kernel_test(prompt: Prompt, spec: KernelFit, *, systematics: bool = True) -> KernelTest:
    """The functions of energy, and the nuisance parameters as such functions."""
    rows, basis = spec.prepare(middles(prompt)[:, None], prompt.expected, np.random.default_rng(1))
    phi = basis(rows.x)
    modes = prompt.modes if systematics else prompt.modes[:, :0]
    names = [*(f"systematic {k}" for k in range(modes.shape[1])), *(f"node {k}" for k in range(prompt.nodes.shape[1]))]
    first = _projected(phi, prompt.expected, np.concatenate([modes, prompt.nodes], 1))
    sd = np.concatenate([np.ones(modes.shape[1]), np.full(prompt.nodes.shape[1], FREE)])
    known = Nuisances(tuple(names), first, np.zeros_like(first), sd)
    rate = _projected(phi, prompt.expected, np.ones((len(phi), 1)))[0]
    return KernelTest(spec, (COLUMN,), rows, basis, known.with_rate(rate), phi)


def middles(prompt: Prompt) -> Floats:
    """Energies (26,) that stand for the bins."""
    return np.asarray((prompt.edges[1:] + prompt.edges[:-1]) / 2)


def learned(prompt: Prompt, found: GoodnessOfFit) -> Floats:
    """n over the reference's (26,), with the nuisances."""
    return np.exp(found.log_ratio(Events({COLUMN: middles(prompt)})))


def _projected(phi: Floats, weight: Floats, functions: Floats) -> Floats:
    """Coefficients (K, r) of functions (N, K)."""
    root = np.sqrt(weight)[:, None]
    return np.asarray(np.linalg.lstsq(phi * root, functions * root, rcond=None)[0].T)


def _run(test: KernelTest, counts: Floats) -> Tested:
    """Counts (T, 26) tested."""
    return test(Pseudo(test.rows.weight[None], counts, (), np.zeros((len(counts), len(test.nuisances)))))
