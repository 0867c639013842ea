r"""Posteriors from a ratio: ``fit_posterior_ratio`` -> `RatioPosterior`, p(theta | x) = prior(theta) r(x | theta).

The ratio of each theta to the marginal, r = p(x | theta) / p(x), is that of a classifier between pairs (theta, x) of
the simulations and pairs whose theta was shuffled (`nuinfer.ratio.fit_parametrised_ratio`).  It is a classification,
which clouds of hits and any network can do, and needs no density of x.  For independent events

.. math:: \log L(\theta) = \sum_e w_e \log r(x_e \mid \theta) + \Big(\sum_e w_e\Big) \log \mu(\theta) - \mu(\theta)

as in `nuinfer.posterior.likelihoods`: the marginals p(x_e) are constants.

**Balance.**  From few simulations a ratio is often too sure of itself.  ``balance=100`` adds the penalty of
`nuinfer.losses.Balanced`, and its posteriors become wider rather than too narrow.

Sources: Hermans, Begy, Louppe, arXiv 1903.04057 (ratios to the marginal); Delaunoy, Hermans, Rozet, Wehenkel, Louppe,
arXiv 2208.13624 (balance); Hermans et al., arXiv 2110.06581 (overconfidence).
"""

from __future__ import annotations

import os
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from .. import store
from ..events import Events
from ..features import Batch, Features, Inputs
from ..nets import MLP, Network
from ..ratio import ParametrisedRatio, fit_parametrised_ratio
from ..ratio.learned import Learned
from ..ratio.parameters import column_values
from ..train import Training
from .likelihoods import (
    Rate,
    Terms,
    as_table,
    check_rate,
    loaded_rate,
    reordered,
    saved_rate,
)
from .neural import refuse_outside
from .priors import Inside, Prior, PriorLike
from .samplers import LogDensity, SampledPosterior, Sampler, Sampling, Slice

__all__ = ["RatioPosterior", "fit_posterior_ratio"]

Floats = NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class RatioPosterior(SampledPosterior):
    """prior x ratio; made by `fit_posterior_ratio`, or of any ratio to a reference that does not depend on theta.

    Attributes
    ----------
    prior:
        Of the parameters; not necessarily what the simulations were drawn from.
    ratio:
        log p(x | theta) / p(x | ref), of an observation or of one of its events.  With folds all of their networks are
        averaged, also for events of the training: an observation is none of them, and its id says nothing.
    events:
        The cloud whose entries are independent events, None where an observation is one row.
    rate:
        The number of events expected, a function of theta; None for the shapes alone.
    sampler, allow_unconverged:
        See `nuinfer.posterior.samplers`.
    """

    prior: Prior
    ratio: ParametrisedRatio
    events: str | None = None
    rate: Rate | None = None
    sampler: Sampler = field(default_factory=Slice)
    allow_unconverged: bool = False

    def __post_init__(self) -> None:
        if set(self.prior.names) != set(self.ratio.names):
            raise ValueError(f"prior: expected the parameters {', '.join(self.ratio.names)}, found "
                             f"{', '.join(self.prior.names)}")  # fmt: skip
        _check_events(self.ratio.features, self.events, self.rate)
        check_rate(self.rate, self.ratio.names)

    @property
    def features(self) -> Features | None:
        """The columns of an observation; None where it is a cloud of events, whose weights may be another."""
        return self.ratio.features if self.events is None else None

    def likelihood_of(self, observations: Events) -> LogDensity:
        """theta (N, C, P), in the prior's order, -> log r (N, C), and for events the sum over them and the rate."""
        terms = Terms.of(observations, self.ratio.features.flat, self.events)
        inputs = self.ratio.features.tensors(terms.rows)

        def log_ratio(theta: Tensor) -> Tensor:
            found = terms.totals(lambda rows, at: self.ratio.tensor(_batch(inputs, rows), at), theta)
            return found if self.rate is None else found + terms.extended(self.rate, theta)

        return reordered(log_ratio, self.prior.names, self.ratio.names)

    def __repr__(self) -> str:
        what = "" if self.events is None else f", each event in {self.events!r}"
        rate = "" if self.rate is None else f", rate {self.rate!r}"
        return f"RatioPosterior({self.prior!r}, {self.ratio!r}{what}{rate}, {self.sampler!r})"

    # -- files ---------------------------------------------------------------------------------------------------------

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write everything to one safetensors file, atomically; of a rate that is a user's function only the place."""
        spec, arrays = self.ratio._saved()
        rate, more = saved_rate(self.rate)
        whole = {"ratio": {**self.ratio.learned.spec(), **spec}, "events": self.events, "rate": rate}
        store.save(path, "ratio posterior", {**whole, **self.sampling.to_json()},
                   {**store.under("ratio:", {**self.ratio.learned.arrays(), **arrays}), **more})  # fmt: skip

    @classmethod
    def load(
        cls, path: str | os.PathLike[str], *, module: Any = None, rate: Rate | None = None,
        prior: PriorLike | None = None, inside: Inside | None = None,
    ) -> RatioPosterior:  # fmt: skip
        """Read what `save` wrote; a network, rate, prior or condition of one that was a user's is given again.

        Raises
        ------
        CorruptFile
            for a file that is damaged; ``ValueError`` for one of another kind, or what has to be given again;
            ``FileNotFoundError`` for none.
        """
        spec, arrays = store.load(path, "ratio posterior")
        own = store.within("ratio:", arrays)
        ratio = ParametrisedRatio._loaded(Learned.of(spec["ratio"], own, module), spec["ratio"], own)
        rest, found = Sampling.from_json(spec, prior, inside), loaded_rate(spec["rate"], arrays, rate)
        return cls(rest.prior, ratio, spec["events"], found, rest.sampler, rest.allow_unconverged)


def _check_events(features: Features, events: str | None, rate: Rate | None) -> None:
    if events is not None and features.clouds:
        raise ValueError(f"events: expected None for a ratio that sees clouds, found {events!r}; what is seen of each "
                         f"entry of a cloud is flat")  # fmt: skip
    if rate is not None and events is None:
        raise ValueError("rate: expected events=, the cloud whose length it is the mean of, found none")
    if rate is not None and not callable(rate):
        raise TypeError(f"rate: expected a function of theta (B, P) -> (B,), found {type(rate).__name__}; fit_rate "
                        f"learns one")  # fmt: skip


def _batch(inputs: Inputs, rows: Tensor) -> Batch:
    """The rows (B,) as a batch of one member."""
    return inputs.take(rows[None]) if inputs.clouds else Batch(inputs.flat.index_select(0, rows)[None])


def fit_posterior_ratio(
    simulations: Events,
    prior: PriorLike,
    features: Features | list[str],
    *,
    events: str | None = None,
    rate: Rate | None = None,
    balance: float = 0.0,
    network: Network = MLP(),  # noqa: B008 - a frozen spec
    members: int = 1,
    folds: int = 1,
    validation: float = 0.1,
    bootstrap: bool = False,
    group: str | None = None,
    training: Training = Training(epochs=50, batch=256),  # noqa: B008 - a frozen spec
    sampler: Sampler = Slice(),  # noqa: B008 - a frozen spec
    allow_unconverged: bool = False,
    seed: int = 0,
    device: str = "cpu",
    checkpoint: str | Path | None = None,
    cache: str | Path | None = None,
    progress: bool = True,
) -> RatioPosterior:
    """Learn the ratio p(x | theta)/p(x) from simulations, for a posterior by Markov chains.

    Parameters
    ----------
    simulations:
        One row a simulated experiment, or, with ``events``, one row an event at its theta; theta from the prior, or
        from another distribution that covers it.  Weights of any sign.
    prior:
        ``{"a": (0, 1), "b": Normal(0.0, 1.0)}``, a `Prior`, or see `Prior.of`.
    features:
        The columns x, flat ones and clouds.
    events, rate:
        As in `nuinfer.posterior.likelihoods.fit_likelihood`; the events' columns are flat.
    balance:
        Factor of the penalty that makes posteriors from few simulations cautious; 100 is usual, 0 leaves it out.
    sampler, allow_unconverged:
        See `nuinfer.posterior.samplers`.
    network, members, folds, validation, bootstrap, group, training, seed, device, checkpoint, cache, progress:
        As in `nuinfer.ratio.fit_parametrised_ratio`.

    Raises
    ------
    ValueError
        for simulations outside the prior's support (count and first rows), a rate without ``events``, columns that are
        not finite, theta that does not vary, a total weight that is not positive, an improper prior.
    KeyError, TypeError
        for columns that are missing or of the wrong kind.

    Examples
    --------
    >>> from nuinfer.simulators import LinearGaussian
    >>> from torch.distributions import Normal
    >>> problem = LinearGaussian([[1.0]], noise=0.25)  # theta ~ N(0, 1), x = theta + N(0, 0.25)
    >>> posterior = fit_posterior_ratio(
    ...     problem.simulate(4000, 1), {"theta0": Normal(0.0, 1.0)}, ["x0"], network=MLP(width=16, depth=2),
    ...     training=Training(epochs=10, batch=128, learning_rate=0.01), sampler=Slice(sweeps=20), seed=1,
    ...     progress=False)
    >>> draws = posterior.sample(640, Events({"x0": [1.0]}), seed=1)["theta0"]  # exact: N(0.8, 0.2)
    >>> bool(abs(draws.mean() - 0.8) < 0.15), bool(abs(draws.var() - 0.2) < 0.08)
    (True, True)
    """
    found, seen = Prior.of(prior), Features.of(features)
    _check_events(seen, events, rate)
    table, group = as_table(simulations, found.names, seen.flat, events, group)
    refuse_outside(column_values("simulations", table, found.names), found)
    ratio = fit_parametrised_ratio(
        table, found.names, seen, reference="marginal", balance=balance, network=network, members=members, folds=folds,
        validation=validation, bootstrap=bootstrap, group=group, training=training, seed=seed, device=device,
        checkpoint=checkpoint, cache=cache, progress=progress,
    )  # fmt: skip
    return RatioPosterior(found, ratio, events, rate, sampler, allow_unconverged)
