"""What each feature is worth to a classifier: by how much the area under the ROC curve falls where it is shuffled.

Source: Breiman, Mach. Learn. 45 (2001) 5 (permutation importance).
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import torch
from numpy.typing import NDArray

from ... import hashing
from ...events import Events
from ...features import Features, Inputs
from .search import Found, Search, WindowFound, window_auc

__all__ = ["importance_of", "parts_of"]

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]


def parts_of(features: Features) -> tuple[str, ...]:
    """What is shuffled: each flat column, and each cloud as a whole."""
    return (*features.flat, *(name for name, _ in features.clouds))


def importance_of(
    search: Search, events: Events, found: Found, times: int, seed: int
) -> tuple[Floats, Floats]:  # fmt: skip
    """The fall of each window's AUC, and its standard error over ``times`` shuffles, (W, D); (W, 0) for none.

    A part is shuffled among the events of signal region and sidebands, which are scored by the networks of their own
    folds.
    """
    parts = parts_of(search.features)
    if times < 1:
        return np.empty((len(found.windows), 0)), np.empty((len(found.windows), 0))
    mean, error = np.full((2, len(found.windows), len(parts)), np.nan)
    for number, window in enumerate(found.windows):
        if window.scorer is not None:
            falls = _falls(search, events, window, times, seed)
            mean[number] = falls.mean(0)
            error[number] = falls.std(0, ddof=1) / np.sqrt(times) if times > 1 else np.nan
    return mean, error


def _falls(search: Search, events: Events, window: WindowFound, times: int, seed: int) -> Floats:
    """(times, D)."""
    assert window.scorer is not None
    mass = np.asarray(events.flat(search.resonance), np.float64)
    signal, sideband = window.window.in_signal(mass), window.window.in_sidebands(mass)
    rows = np.flatnonzero(signal | sideband)
    inputs, id = window.inputs.select(rows), events.id[rows]
    fold = window.scorer.folds_of(id)
    found = np.empty((times, len(parts_of(search.features))))
    for turn in range(times):
        order = hashing.permutation(len(rows), seed, "importance", turn)
        for part, changed in enumerate(_shuffled(inputs, order)):
            score = window.scorer.log(changed, id)
            found[turn, part] = window.auc.value - window_auc(
                score, fold, signal[rows], sideband[rows], search.learner).value  # fmt: skip
    return found


def _shuffled(inputs: Inputs, order: Ints) -> Iterator[Inputs]:
    """The inputs with one part after the other taken from other events."""
    index = torch.from_numpy(order)
    for column in range(inputs.flat.shape[1]):
        flat = inputs.flat.clone()
        flat[:, column] = inputs.flat[index, column]
        yield Inputs(flat, inputs.clouds)
    for cloud in inputs.clouds:
        other = inputs.select(order)
        yield Inputs(inputs.flat, {**inputs.clouds, cloud: other.clouds[cloud]})
