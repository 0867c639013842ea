r"""Can two samples be told apart?  The classifier two-sample test (C2ST) on plain points, as the benchmarks define it.

A classifier is trained to separate the two samples; the fraction that it gets right, on points that it has not seen, is
0.5 where their densities agree and 1 where they are disjoint:

.. math:: \mathrm{C2ST} = \tfrac12 + \tfrac14 \int |p(\theta) - q(\theta)|\, d\theta

for the best classifier there is.  The definition is that of the package ``sbibm``: columns divided by the standard
deviation of the first sample, two hidden layers of 10 D relu units, accuracy in five folds.  Here all folds are
trained together, with a learning rate that falls to zero, in a few seconds instead of minutes.  For 10,000 points in 2
and 5 dimensions the two agree within 0.01 (docs/guide/diagnostics.md has the table); in more, what either finds depends
on how much it overfits.

Sources: Lopez-Paz, Oquab, arXiv:1610.06545; Lueckmann, Boelts, Greenberg, Goncalves, Macke, arXiv:2101.04653.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import ArrayLike, NDArray

from ..errors import check_finite
from ..metrics import Score, two_sample_accuracy
from ..resample import Resample

if TYPE_CHECKING:
    from ..train import Training

__all__ = ["c2st"]

Floats = NDArray[np.float64]
Keys = NDArray[np.int64]


def c2st(
    first: ArrayLike, second: ArrayLike, *, seed: int = 1, folds: int = 5, training: Training | None = None
) -> Score:
    """The classifier two-sample score of ``first`` (N1, D) and ``second`` (N2, D): the balanced accuracy in folds.

    Parameters
    ----------
    first, second:
        Two samples of the same columns; the first, a reference where there is one, gives the scale.
    seed:
        Of the folds, the initial weights and the batches.
    folds:
        Each point is judged by the network that was trained without its fold.
    training:
        How the networks are trained; the default agrees with ``sbibm`` in 2 and 5 dimensions with 10,000 points.

    Returns
    -------
    nuinfer.metrics.Score
        ``value``, 0.5 for samples that cannot be told apart, with its standard deviation if they were alike,
        ``null_sd``, and ``z``.

    Raises
    ------
    ValueError
        for samples of different columns, values that are not finite, columns that are constant in the first sample, or
        fewer points than folds.

    >>> rng = np.random.default_rng(1)
    >>> score = c2st(rng.normal(0, 1, (500, 2)), rng.normal(2, 1, (500, 2)))
    >>> 0.89 < score.value < 0.95                                               # exact: 0.921
    True
    """
    one, two = _standardised(np.asarray(first, np.float64), np.asarray(second, np.float64), folds)
    label = np.repeat([1.0, 0.0], [len(one), len(two)])
    rng = np.random.default_rng(seed)
    key = np.concatenate([rng.permutation(len(s)) % folds for s in (one, two)])  # folds of as many of either sample
    resample = _Folds(seed=seed, folds=folds, validation=0.0)
    logs = _out_of_fold(np.concatenate([one, two]), label, key, resample, training)
    return two_sample_accuracy(logs[label == 1], logs[label == 0])


def _standardised(first: Floats, second: Floats, folds: int) -> tuple[Floats, Floats]:
    if first.ndim != 2 or second.ndim != 2 or first.shape[1] != second.shape[1]:
        raise ValueError(f"c2st: expected samples (N1, D) and (N2, D), found {first.shape} and {second.shape}")
    if folds < 2 or min(len(first), len(second)) < 2 * folds:
        raise ValueError(f"c2st: expected at least 2 folds, and twice as many points as folds in each sample, found "
                         f"{folds} folds of {len(first)} and {len(second)} points")  # fmt: skip
    check_finite("c2st: first sample", first)
    check_finite("c2st: second sample", second)
    mean, scale = first.mean(0), first.std(0, ddof=1)
    if not (scale > 0).all():
        raise ValueError(f"c2st: expected columns that vary, found column {int(np.argmin(scale))} of the first sample "
                         f"constant; leave it out")  # fmt: skip
    return (first - mean) / scale, (second - mean) / scale


@dataclass(frozen=True, kw_only=True)
class _Folds(Resample):
    """A key is a fold: network n sees the others."""

    def times(self, network: int, key: Keys, *, held_out: bool) -> NDArray[np.uint8]:
        own = key == network
        return np.asarray(own if held_out else ~own, np.uint8)


def _out_of_fold(rows: Floats, label: Floats, key: Keys, resample: _Folds, training: Training | None) -> Floats:
    """Log ratios (N,) of all rows by the networks that have not seen them."""
    import torch

    from ..ensemble import Ensemble
    from ..features import Inputs, Shape
    from ..losses import bce
    from ..nets import MLP, Scale, Standardise, single_precision, stack
    from ..train import Risk, Training, minimise

    columns = rows.shape[1]
    inputs = Inputs(torch.from_numpy(rows.astype(np.float32)))
    networks = stack(MLP(width=10 * columns, depth=2, activation="relu"), Shape(columns))
    weights = tuple(torch.from_numpy(w.astype(np.float32)) for w in (label, 1 - label))
    batch = min(1000, max(200, len(rows) // 20))  # 16 steps an epoch, where there are enough points
    how = training or Training(epochs=100, batch=batch, learning_rate=1e-2, weight_decay=0.0)
    with single_precision():
        start = networks.initial(resample.seed, range(resample.networks))
        risk = Risk(bce, weights, key, resample, ("first", "second"))
        state = minimise(networks, start, inputs, risk, how, label="c2st", progress=False).state
    plain = Standardise(Scale.plain(columns), {})
    each = Ensemble(networks, state, plain).log(inputs)
    return np.asarray(each[key, np.arange(len(key))])
