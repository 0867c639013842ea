r"""How many iterations: until events that were held out no longer tell the data from the weighted simulation.

The reco step of iteration k + 1 learns the ratio r(x) of the data D to the simulation S_k after k iterations.  With
p = r / (1 + r) and both normalised to one,

.. math:: G_k = \tfrac12 \left( E_D[\log 2 p(x)] + E_{S_k}[\log 2 (1 - p(x))] \right)

is the Jensen-Shannon divergence of D and S_k where r is exact, and less where it is not (the excess of the binary
cross-entropy).  Evaluated on events that the network did not see, it falls below zero once what is left of the
difference is smaller than the noise of the training: what another iteration would follow then are fluctuations.  The
choice is the first k with

.. math:: G_k < \mathrm{sd}(G_k),

the discrepancy principle of inverse problems.  It asks whether the *reco* is described.  What the detector hides cannot
be seen there: the bias of a choice towards the simulation is a matter of stress tests
(`nuinfer.unfolding.check_events`).

Each of F folds has a network that sees neither the data nor the simulation of its fold, in both steps of all
iterations; G_k is out of fold for every event.  All train together.

Sources: Morozov, Soviet Math. Dokl. 7 (1966) 414 (discrepancy principle); Andreassen et al., arXiv 1911.09107
(OmniFold); Lin, IEEE Trans. Inf. Theory 37 (1991) 145 (the divergence).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from ... import losses
from ...events import Events
from ...features import Features
from ...nets import MLP, Network
from ...records import Record
from ...resample import Resample
from ...train import Training
from ...trees import Trees
from ..samples import check_counts, warn_of_shared_keys
from .reweighting import TRAINING, prepared
from .steps import Fit, Run

__all__ = ["IterationChoice", "choose_iterations"]

Floats = NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class IterationChoice(Record):
    """The held-out divergence of data and weighted simulation, before the first iteration and after each.

    Attributes
    ----------
    iterations:
        The choice, at least 1; the last tried where none fulfils the criterion.
    found:
        Whether one does.
    divergence, error:
        G_k and its standard deviation (k,), for k = 0, 1, ... iterations done.
    """

    _KIND = "choice of iterations"

    iterations: int
    found: bool
    divergence: Floats
    error: Floats

    @property
    def words(self) -> str:
        """The choice and why."""
        done = len(self.divergence) - 1
        if not self.found:
            return (f"after {done} iterations held-out events still tell data and simulation apart, G = "
                    f"{self.divergence[-1]:.2g} +- {self.error[-1]:.1g}; raise most=")  # fmt: skip
        if done == 0:
            return (f"held-out events do not tell the data from the simulation as it is, G = {self.divergence[0]:.2g} "
                    f"+- {self.error[0]:.1g}: 1 iteration")  # fmt: skip
        many = "iteration" if done == 1 else "iterations"
        return (f"after {done} {many} held-out events no longer tell data and simulation apart: G = "
                f"{self.divergence[-1]:.2g} +- {self.error[-1]:.1g}, before {self.divergence[-2]:.2g} +- "
                f"{self.error[-2]:.1g}")  # fmt: skip

    def __repr__(self) -> str:
        return f"IterationChoice({self.iterations}: {self.words})"


def choose_iterations(
    data: Events,
    simulation: Events,
    *,
    reco: Features | Sequence[str],
    truth: Features | Sequence[str],
    background: Events | None = None,
    misses: Literal["conditional", "prior"] = "conditional",
    fakes: Literal["subtract", "scale"] = "subtract",
    most: int = 10,
    folds: int = 5,
    members: int = 1,
    group: str | None = None,
    outside: float = 0.05,
    network: Network | Trees = MLP(),  # noqa: B008 - a frozen spec
    loss: losses.RatioLoss = "bce",
    training: Training = TRAINING,
    seed: int,
    device: str = "cpu",
    checkpoint: str | Path | None = None,
    progress: bool = True,
) -> IterationChoice:
    """Iterate `omnifold` on folds until held-out events no longer tell the data from the weighted simulation.

    Parameters
    ----------
    most:
        Iterations to try at most.
    folds, members:
        Networks of each step: each member has one a fold, which does not see it.  Divergences are means of members.
    data, simulation, reco, truth, background, misses, fakes, group, outside, network, loss, training, seed, device, \
    checkpoint:
        As in `omnifold`; give what the unfolding will have.  Weighted simulation of 10,000 events or more is described
        as well by four fifths of it.

    Raises
    ------
    ValueError
        for fewer than 2 folds or no iterations, a fold that leaves no signal, and as `omnifold`.

    Examples
    --------
    >>> rng = np.random.default_rng(1)
    >>> t, nature = rng.normal(0.3, 0.8, 4000), rng.normal(0, 1, 4000)
    >>> simulation = Events({"t": t, "x": t + rng.normal(0, 0.5, 4000)})
    >>> data = Events({"x": nature + rng.normal(0, 0.5, 4000)})
    >>> choice = choose_iterations(data, simulation, reco=["x"], truth=["t"], most=6, seed=1, progress=False,
    ...                            network=MLP(width=16, depth=2), training=Training(epochs=8, batch=256))
    >>> choice.found, 1 <= choice.iterations <= 3, bool(choice.divergence[0] > 5 * choice.error[0])
    (True, True, True)
    """
    check_counts(most=most, members=members)
    check_counts(folds=folds, least=2)
    warn_of_shared_keys(data, background, simulation, group, what="choice of iterations",
                        effect="which count as fluctuating together")  # fmt: skip
    resample = Resample(seed=seed, members=members, folds=folds, validation=0.0, plain=members)
    fit = Fit(network, losses.by_name(loss), training, resample, device, checkpoint, progress)
    run = prepared(data, simulation, background, reco, truth, misses, fakes, group, outside, fit)
    divergence: list[float] = []
    error: list[float] = []
    while not divergence or (len(divergence) <= most and divergence[-1] >= error[-1]):
        done = len(divergence)
        present = run.present
        step1, omega = run.reco_step(done)
        value, sd = held_out_divergence(run, present, step1.log(run.reco_inputs))
        divergence.append(value)
        error.append(sd)
        if value >= sd and done < most:
            run.truth_step(done, omega)
    done = len(divergence) - 1
    return IterationChoice(max(done, 1), divergence[-1] < error[-1], np.array(divergence), np.array(error))


def held_out_divergence(run: Run, present: Floats, logs: Floats) -> tuple[float, float]:
    """G and its standard deviation: log ratios (networks, rows) of the observed and the signal rows, out of fold.

    Weights of the simulation are ``present`` (networks, signal), and those of the observed rows the run's; each fold is
    normalised by itself, and the mean over folds weighs them by their data.
    """
    resample, key = run.fit.resample, run.reco_key
    rows = np.arange(len(key))
    number, network_of = resample.fold_of(key), np.arange(resample.members)[:, None] * resample.folds
    own = network_of + number  # (members, rows): the network that has not seen the row
    log = logs[own, rows]
    many = len(run.sample.observed_weight)
    observed = np.broadcast_to(run.observed, (resample.networks, many))[own[:, :many], rows[:many]]
    simulated = present[own[:, many:], rows[many:] - many]
    # log 2p and log 2(1 - p), without overflow
    gains = np.log(2) - np.logaddexp(0, np.concatenate([-log[:, :many], log[:, many:]], 1))
    parts = (observed, gains[:, :many], number[:many]), (simulated, gains[:, many:], number[many:])
    share = _fold_sums(observed, number[:many], resample.folds)
    share = share / share.sum(1, keepdims=True)
    value, terms = 0.0, []
    for weight, gain, fold in parts:
        total = _fold_sums(weight, fold, resample.folds)
        if not (total > 0).all():
            raise ValueError(f"folds: expected signal in each of {resample.folds} folds, found "
                             f"{total.min():g} in one; give fewer folds, or more events")  # fmt: skip
        mean = _fold_sums(weight * gain, fold, resample.folds) / total
        value += 0.5 * float((share * mean).sum(1).mean())
        factor = 0.5 * share / total
        each = np.take_along_axis(factor, np.tile(fold, (len(gain), 1)), 1) * weight
        terms.append((each * (gain - np.take_along_axis(mean, np.tile(fold, (len(gain), 1)), 1))).mean(0))
    # events of one key (a group, or an event's throws) fluctuate together
    _, same = np.unique(key, return_inverse=True)
    return value, float(np.sqrt((np.bincount(same, np.concatenate(terms)) ** 2).sum()))


def _fold_sums(values: Floats, fold: NDArray[np.int16], folds: int) -> Floats:
    """Sums (members, folds) of values (members, rows)."""
    return np.stack([np.bincount(fold, row, folds) for row in values])
