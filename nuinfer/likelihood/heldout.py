r"""Pseudo-experiments from simulation that nothing was trained on.

Event i of the held-out sample stands for :math:`w_i(\theta)` expected events at the true parameters :math:`\theta`, by
the simulation's own reweighting (oscillation probabilities, cross-section dials, flux).  A pseudo-experiment has

.. math:: N \sim \text{Poisson}\Big(\sum_i w_i(\theta)\Big)

events, each drawn with probability :math:`w_i / \sum_k w_k`, with replacement.  Event i then occurs
:math:`n_i \sim \text{Poisson}(w_i)` times, independently of the others, so that what a finite sample costs is known:

.. math:: \text{duplicates} = \sum_i \big(w_i - 1 + e^{-w_i}\big), \qquad
          n_{\text{eff}} = \frac{(\sum_i w_i)^2}{\sum_i w_i^2}.

All toys share the one held-out sample, and with it its fluctuation: their estimates move together by about
:math:`\sqrt{N / n_{\text{eff}}}` of the statistical error, however many toys there are.

Never draw toys with the learned ratios as weights.  They would follow the model that is fitted to them, errors of the
networks included, and cover by construction.

Source for negative weights: Nachman, Thaler, arXiv 2007.11586.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from ..errors import check_finite, closest
from ..events import Events
from ..features import Features
from ..nets import MLP, Network
from ..ratio import refine as refined_weights
from ..train import Training
from ..trees import Trees

__all__ = ["HeldOut", "Reuse"]

_log = logging.getLogger("nuinfer")

Floats = NDArray[np.float64]
Weight = Callable[[Events, Mapping[str, float]], ArrayLike]

_SHARED = 0.15  # of the statistical error: above this the common shift is worth a warning


@dataclass(frozen=True)
class Reuse:
    """How often a pseudo-experiment uses events of a finite held-out sample again; see `HeldOut.reuse`.

    Attributes
    ----------
    expected:
        N, the mean number of events of a pseudo-experiment.
    available:
        Events with a weight above 0.
    effective_size:
        (sum w)^2 / sum w^2 of the held-out sample.
    duplicates:
        The mean number of events of a pseudo-experiment that it already has.
    """

    expected: float
    available: int
    effective_size: float
    duplicates: float

    @property
    def fraction(self) -> float:
        """Duplicates over expected events."""
        return self.duplicates / self.expected if self.expected else 0.0

    @property
    def shared(self) -> float:
        """sqrt(N / effective size): the shift common to all toys, in units of the statistical error."""
        return float(np.sqrt(self.expected / self.effective_size)) if self.expected else 0.0

    def __str__(self) -> str:
        return (
            f"{self.expected:.6g} events expected from {self.available} held-out ones (effective size "
            f"{self.effective_size:.6g}): {self.duplicates:.3g} duplicates a toy ({100 * self.fraction:.2g}%), a shift "
            f"common to all toys of about {self.shared:.2g} of the statistical error"
        )


class HeldOut:
    """Draws pseudo-experiments from held-out simulation: what ``generate=`` of a mixture takes.

    Parameters
    ----------
    samples:
        Simulated events with the columns of the data, or several samples by name (one a process, say).  Nothing may
        have been trained on them.  They keep their ids, so that ratios with folds score a known event out of fold.
    weight:
        ``weight(events, values)`` (N,): how many events each stands for at the named true parameters, ``events.weight``
        included where it belongs to it.  One function, or one for each sample by name.
    refine:
        Features in which signed weights of the events become positive, w -> abs(w) E[sign w | x], once and before
        ``weight`` sees them (`nuinfer.ratio.refine`).  They need to hold what the data are fitted in, and what the
        factors in ``weight`` depend on.
    network, training, seed:
        Of that refinement.

    Examples
    --------
    >>> rng = np.random.default_rng(1)
    >>> simulated = {"S": Events({"x": rng.normal(1, 1, 50_000)}), "B": Events({"x": rng.normal(0, 2, 50_000)})}
    >>> toys = HeldOut(simulated, {"S": lambda e, at: np.full(len(e), 100 * at["mu"] / len(e)),
    ...                            "B": lambda e, at: np.full(len(e), 400 / len(e))})
    >>> print(toys.reuse({"mu": 1.0}))
    500 events expected from 100000 held-out ones (effective size 73529.4): 1.7 duplicates a toy (0.34%), a shift common
    to all toys of about 0.082 of the statistical error
    >>> len(toys({"mu": 1.0}, np.random.default_rng(2)))
    485

    Raises
    ------
    ValueError
        for no events, weights of a wrong shape, not finite or negative.
    TypeError, KeyError
        for a weight that cannot be called, or a sample without one.
    """

    def __init__(
        self,
        samples: Mapping[str, Events] | Events,
        weight: Weight | Mapping[str, Weight],
        *,
        refine: Features | Sequence[str] | None = None,
        network: Network | Trees = MLP(),  # noqa: B008 - a frozen spec
        training: Training = Training(),  # noqa: B008 - a frozen spec
        seed: int = 0,
    ) -> None:
        given = {"events": samples} if isinstance(samples, Events) else dict(samples)
        _check_samples(given)
        self.weight = _by_sample(weight, given)
        if refine is not None:
            features = Features.of(refine if isinstance(refine, Features) else list(refine))
            given = {
                name: refined_weights(events, features, network=network, training=training, seed=seed, progress=False)
                for name, events in given.items()
            }
        self.samples = given
        self._kept: tuple[dict[str, float], dict[str, Floats]] | None = None
        self._warned = False

    def __call__(self, values: Mapping[str, float], rng: np.random.Generator) -> Events:
        """The events of one pseudo-experiment at named parameters, of weight 1, a Poisson number of them."""
        if not self._warned:
            self._warn(self.reuse(values))
        drawn = []
        for name, summed in self._summed(values).items():
            total = float(summed[-1])
            # rounding may put a place at the very end, beyond the last event
            place = np.minimum(rng.random(rng.poisson(total)) * total, np.nextafter(total, 0))
            drawn.append(self.samples[name].select(np.searchsorted(summed, place, side="right")))
        return Events.concat(drawn).with_weight(1.0)

    def expected(self, values: Mapping[str, float]) -> dict[str, float]:
        """By sample, the expected number of events at named parameters."""
        return {name: float(summed[-1]) for name, summed in self._summed(values).items()}

    def reuse(self, values: Mapping[str, float]) -> Reuse:
        """How often events are used again at named parameters."""
        w = np.concatenate([self._weights(name, values) for name in self.samples])
        total, square = float(w.sum()), float(np.dot(w, w))
        duplicates = float(np.sum(w + np.expm1(-w)))
        return Reuse(total, int(np.count_nonzero(w)), total**2 / square if square else 0.0, duplicates)

    def _warn(self, reuse: Reuse) -> None:
        self._warned = True
        if reuse.shared > _SHARED:
            _log.warning(
                "held-out simulation: %s; toys repeat events, and what they say of coverage holds up to that shift: "
                "simulate more, or hold more out", reuse,
            )  # fmt: skip

    def _summed(self, values: Mapping[str, float]) -> dict[str, Floats]:
        """Cumulative weights by sample; kept for the next toy at the same parameters."""
        key, kept = {name: float(value) for name, value in values.items()}, self._kept
        if kept is None or kept[0] != key:
            kept = self._kept = key, {name: np.cumsum(self._weights(name, values)) for name in self.samples}
        return kept[1]

    def _weights(self, name: str, values: Mapping[str, float]) -> Floats:
        events = self.samples[name]
        found = np.asarray(self.weight[name](events, values), np.float64)
        if found.shape != (len(events),):
            raise ValueError(f"held-out sample {name!r}: expected a weight per event, ({len(events)},), found "
                             f"{found.shape}")  # fmt: skip
        check_finite(f"held-out sample {name!r}: weight", found)
        negative = np.flatnonzero(found < 0)
        if len(negative):
            raise ValueError(
                f"held-out sample {name!r}: expected weights from 0, found {len(negative)} of {len(found)} negative, "
                f"first at row {negative[0]} ({found[negative[0]]:.4g}); events cannot be drawn with negative "
                f"probability: refine=[columns] makes their weights positive (nuinfer.ratio.refine)"
            )
        return found

    def __getstate__(self) -> dict[str, Any]:
        # cumulative weights are worked out again where they are needed
        return {**self.__dict__, "_kept": None}

    def __repr__(self) -> str:
        sizes = ", ".join(f"{name} {len(events)}" for name, events in self.samples.items())
        return f"HeldOut({sizes} events)"


def _check_samples(samples: Mapping[str, Events]) -> None:
    if not samples:
        raise ValueError("held-out simulation: expected at least one sample, found none")
    for name, events in samples.items():
        if not isinstance(events, Events):
            raise TypeError(f"held-out sample {name!r}: expected Events, found {type(events).__name__}")
        if not len(events):
            raise ValueError(f"held-out sample {name!r}: expected events, found none")


def _by_sample(weight: Weight | Mapping[str, Weight], samples: Mapping[str, Events]) -> dict[str, Weight]:
    given = dict(weight) if isinstance(weight, Mapping) else dict.fromkeys(samples, weight)
    for name in given:
        if name not in samples:
            raise KeyError(f"weight: no sample {name!r}; {closest(name, samples)}")
    for name in samples:
        if name not in given:
            raise KeyError(f"held-out sample {name!r}: expected a weight for it; {closest(name, given)}")
        if not callable(given[name]):
            raise TypeError(f"held-out sample {name!r}: expected a function weight(events, values), found "
                            f"{type(given[name]).__name__}")  # fmt: skip
    return given
