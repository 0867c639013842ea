"""Does the reference describe the data?  The test as one function."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from concurrent.futures import Executor
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from ... import tasks
from ...errors import NotConverged
from ...events import Events
from ...features import Features
from .basis import Scaling, width_of
from .kernel import KernelFit, KernelTest
from .nuisances import Nuisances, learned
from .null import chi_square
from .result import GoodnessOfFit, KernelRatio, LearnedRatio, NetworkRatio
from .rows import Null, Pseudo, Rows, positions

if TYPE_CHECKING:
    from ...nets import Network
    from ...train import Training
    from .network import NetworkTest

__all__ = ["NetworkFit", "goodness_of_fit"]

Floats = NDArray[np.float64]
Variations = Mapping[str, tuple[Events, Events]]

_BATCH = 50  # toys of a task
_LEAST = 20  # toys
_NETWORK_BINS = 50  # in one kernel's width


@dataclass(frozen=True, kw_only=True)
class NetworkFit:
    """How the log-ratio is fitted with networks.

    Parameters
    ----------
    bound:
        B, the largest absolute weight or bias.
    network:
        A spec of `nuinfer.nets`; by default ``MLP(width=4, depth=1)``.
    steps:
        A multiple of 100; with all rows at once where they are few, as they are for one flat column, else with 8,192.
    training:
        Another training, in batches; then ``steps`` plays no part.

    Raises
    ------
    ValueError
        for a bound that is not positive, or another number of steps.
    """

    bound: float = 3.0
    network: Network | None = None
    steps: int = 2000
    training: Training | None = None

    def __post_init__(self) -> None:
        if not 0 < self.bound < math.inf:
            raise ValueError(f"NetworkFit: expected a positive bound, found {self.bound}")
        if not isinstance(self.steps, int) or self.steps < 100 or self.steps % 100:
            raise ValueError(f"NetworkFit: expected a multiple of 100 steps, found {self.steps!r}")


def goodness_of_fit(
    data: Events,
    reference: Events,
    features: Features | Sequence[str],
    *,
    method: KernelFit | NetworkFit | None = None,
    nuisances: Variations | None = None,
    rate: bool = True,
    null: Null = None,
    toys: int = 300,
    seed: int = 1,
    executor: Executor | None = None,
    checkpoint: str | Path | None = None,
    progress: bool = True,
) -> GoodnessOfFit:
    r"""Does the reference describe the data?  The likelihood ratio of the best smooth correction, with toys.

    Parameters
    ----------
    data:
        Events of weight 1.
    reference:
        Weighted events whose weights sum to the number of events that is expected in the data; as many as there can be,
        ten times the data or more.  Weights of both signs need ``null``; so do a few points with great weights, such as
        the expected contents of bins at their middles, which are taken as exact.
    features:
        The columns to look at; flat ones, where it is not a network.
    method:
        `KernelFit` (by default) or `NetworkFit`.
    nuisances:
        By name, the reference at plus and at minus one standard deviation of a nuisance parameter: other events, or the
        same with other weights (``reference.with_weight(...)``), which have less noise.  With their own rates.
    rate:
        Whether the number of events is part of the test; False compares shapes.
    null:
        What toys are drawn from: events of the reference held apart, or a function of a generator that gives the data
        of one toy (and draws nuisance parameters from their constraints).  None draws them from the reference, and
        bootstraps it for each toy.
    toys:
        How many, at least 20.
    executor, checkpoint:
        As of `nuinfer.tasks.run`.

    Raises
    ------
    KeyError, TypeError, ValueError
        for columns that are missing, of the wrong kind, constant or not finite; no data, or data of other weights; a
        reference without weight, or, without ``null``, of fewer effective events than are expected in the data;
        weights that toys cannot be drawn by.
    NotConverged
        where the fit of the data fails, or that of all toys.

    >>> from nuinfer.simulators.exponential_bump import ExponentialBump
    >>> problem = ExponentialBump(excess=90.0, mean=0.2)
    >>> data, reference = problem.data(seed=1), problem.reference(20_000, seed=2)
    >>> found = goodness_of_fit(data, reference, ["x"], toys=40, progress=False)
    >>> found.valid, bool(found.z > 2)
    ('chi2', True)
    >>> bool(0.1 < found.log_ratio(Events({"x": [0.2]}))[0] < 0.4)                 # at the peak: 0.44, smoothed
    True
    """
    method = KernelFit() if method is None else method
    _check_types(data, reference, method, seed)
    features = Features.of(features)
    _check(data, reference, features, method, nuisances or {}, null, toys)
    rng = np.random.default_rng([seed, 1])
    test: KernelTest | NetworkTest
    if isinstance(method, KernelFit):
        test = _kernel_test(method, features, reference, nuisances or {}, rate, rng)
    else:
        test = _network_test(method, features, reference, nuisances or {}, rate, rng)
    t, nu, ratio = _observed(test, data, np.random.default_rng([seed, 2]))
    if not math.isfinite(t):
        raise NotConverged("the fit of the data did not converge; try a larger ridge (or a smaller bound), or wider "
                           "kernels, and look for data far from all reference events")  # fmt: skip
    known = _known(test)
    label = f"goodness of fit {data.digest()} {reference.digest()} {features} {method} {rate} {sorted(nuisances or {})}"
    found = tasks.run(
        _Toys(test, null, nu, len(data) if _scales(test) else test.rows.total), _sizes(toys), seed=seed,
        executor=executor, checkpoint=checkpoint, chunk=1, name=label, progress=progress,
    )  # fmt: skip
    every = np.concatenate([np.asarray(value) for value in found.values])
    good = every[np.isfinite(every)]
    if len(good) < 4:
        raise NotConverged(f"{len(every) - len(good)} of {len(every)} toys did not converge; try a larger ridge (or a "
                           f"smaller bound), or wider kernels")  # fmt: skip
    null_law = chi_square(good)
    return GoodnessOfFit(
        t, good, len(every) - len(good), *null_law, data.sum_weights, reference.sum_weights,
        dict(zip(known.names, nu.tolist(), strict=True)), ratio,
    )  # fmt: skip


# -- the test ----------------------------------------------------------------------------------------------------------


def _kernel_test(
    spec: KernelFit, features: Features, reference: Events, nuisances: Variations, rate: bool, rng: np.random.Generator
) -> KernelTest:
    columns = features.flat
    rows, basis = spec.prepare(positions(reference, columns), reference.weight, rng)
    phi = basis(rows.x)
    pairs = [tuple((positions(e, columns), e.weight) for e in pair) for pair in nuisances.values()]
    scale = np.abs(rows.weight).sum() / np.abs(reference.weight).sum()
    known = learned(basis, phi, rows.weight * scale, tuple(nuisances), pairs, spec.ridge)  # type: ignore[arg-type]
    if not rate:
        known = known.with_rate(np.abs(rows.weight) @ phi / np.abs(rows.weight).sum())
    return KernelTest(spec, columns, rows, basis, known, phi)


def _network_test(
    spec: NetworkFit, features: Features, reference: Events, nuisances: Variations, rate: bool, rng: np.random.Generator
) -> NetworkTest:
    import torch

    from ...features import Inputs
    from .network import NetworkTest

    x = positions(reference, features.flat) if not features.clouds else np.zeros((len(reference), 0))
    if x.shape[1] == 1:
        scaling = Scaling.of(x, reference.weight)
        width = width_of(scaling(x), reference.weight, KernelFit().quantile, rng) * float(scaling.sd[0])
        rows = Rows.of(x, reference.weight, width / _NETWORK_BINS)
        inputs = Inputs(torch.from_numpy(rows.x.astype(np.float32)))
    else:
        rows, inputs = Rows.of(x, reference.weight), features.tensors(reference)
    profile = None
    if nuisances:
        kernel = _kernel_test(KernelFit(), features, reference, nuisances, rate, rng)
        profile = replace(kernel, rows=rows, phi=kernel.basis(rows.x))
    return NetworkTest(spec, features, rows, inputs, profile, rate)


def _known(test: Any) -> Nuisances:
    if isinstance(test, KernelTest):
        return test.nuisances
    none = np.zeros((0, 0))
    return Nuisances((), none, none, np.zeros(0)) if test.profile is None else test.profile.nuisances


def _scales(test: Any) -> bool:
    """Whether a test compares shapes without a nuisance parameter for the rate."""
    return not isinstance(test, KernelTest) and test.profile is None and not test.rate


def _observed(test: Any, data: Events, rng: np.random.Generator) -> tuple[float, Floats, LearnedRatio]:
    """t, nu-hat (K,), and the learned ratio."""
    pseudo = Pseudo(test.rows.weight[None], None, (data,), np.zeros((1, len(_known(test)))))
    if isinstance(test, KernelTest):
        found = test(pseudo)
        total = (found.coefficients + test.nuisances.coefficients(found.nu))[0]
        return float(found.t[0]), found.nu[0], KernelRatio(test.columns, test.basis, total)
    tested, model, offset = test.trained(pseudo, rng)
    profiled, shift = None, float(offset[0])
    if test.profile is not None:
        inner = test.profile
        own = inner.nuisances.coefficients(tested.nu)[0]
        profiled = KernelRatio(inner.columns, inner.basis, own)
    elif not test.rate:
        shift += math.log(len(data) / test.rows.total)
    ratio = NetworkRatio(test.features, test.network, model, shift, profiled)
    return float(tested.t[0]), tested.nu[0], ratio


# -- toys --------------------------------------------------------------------------------------------------------------


def _sizes(toys: int) -> list[int]:
    """The toys of each task."""
    return [min(_BATCH, toys - start) for start in range(0, toys, _BATCH)]


@dataclass(frozen=True, eq=False)
class _Toys:
    """A batch of toys at nuisance parameters nu (K,), with ``total`` events expected before their effect."""

    test: Any
    null: Null
    nu: Floats
    total: float

    def __call__(self, size: int, rng: np.random.Generator) -> Floats:
        return np.asarray(self.test(self._drawn(size, rng), rng).t)

    def _drawn(self, size: int, rng: np.random.Generator) -> Pseudo:
        rows, known = self.test.rows, _known(self.test)
        if callable(self.null):
            events = tuple(_checked_toy(self.null(rng)) for _ in range(size))
            return Pseudo(rows.weight[None], None, events, np.zeros((size, len(known))))
        aux = known.measured(self.nu, size, rng)
        scale = self.total / rows.total
        if self.null is None:
            factor = scale * self._factor(self._phi())
            return Pseudo(rows.bootstrapped(size, rng), rows.drawn(factor, size, rng), (), aux)
        return Pseudo(rows.weight[None], None, self._from_pool(self.null, size, rng), aux)

    def _phi(self) -> Floats:
        test = self.test if isinstance(self.test, KernelTest) else self.test.profile
        return np.zeros((len(self.test.rows), 0)) if test is None else test.phi

    def _factor(self, phi: Floats) -> Floats:
        """How much more is expected at nu, at functions (N, r)."""
        known = _known(self.test)
        if not len(known):
            return np.ones(len(phi))
        return np.asarray(np.exp(phi @ known.coefficients(self.nu[None])[0]))

    def _from_pool(self, pool: Events, size: int, rng: np.random.Generator) -> tuple[Events, ...]:
        kernel = self.test if isinstance(self.test, KernelTest) else self.test.profile
        mean = pool.weight * (self.total / pool.sum_weights)
        if kernel is not None and len(kernel.nuisances):
            mean = mean * self._factor(kernel.basis(positions(pool, kernel.columns)))
        rows = (np.repeat(np.arange(len(pool)), rng.poisson(mean)) for _ in range(size))
        return tuple(pool.select(r).with_weight(1.0) for r in rows)


def _checked_toy(events: object) -> Events:
    if not isinstance(events, Events):
        raise TypeError(f"null: expected a function that gives Events, found that it gives {type(events).__name__}")
    return events


# -- input -------------------------------------------------------------------------------------------------------------


def _check_types(data: object, reference: object, method: object, seed: object) -> None:
    for what, given in (("data", data), ("reference", reference)):
        if not isinstance(given, Events):
            raise TypeError(f"{what}: expected Events, found {type(given).__name__}; Events({{'x': values}}) makes "
                            f"some")  # fmt: skip
    if not isinstance(method, KernelFit | NetworkFit):
        raise TypeError(f"method: expected KernelFit(...) or NetworkFit(...), found {method!r}")
    if isinstance(seed, bool) or not isinstance(seed, int | np.integer) or seed < 0:
        raise ValueError(f"seed: expected a whole number from 0, found {seed!r}")


def _check(
    data: Events, reference: Events, features: Features, method: KernelFit | NetworkFit, nuisances: Variations,
    null: Null, toys: int,
) -> None:  # fmt: skip
    if features.clouds and (isinstance(method, KernelFit) or nuisances):
        raise TypeError("features: expected flat columns, of kernels and of nuisance parameters, found clouds; use "
                        "NetworkFit(network=DeepSet(...)) without nuisances")  # fmt: skip
    for what, events in (("data", data), ("reference", reference)):
        if not len(events):
            raise ValueError(f"{what}: expected events, found none")
        features.check(events)
    if null is None and not (data.weight == 1).all():
        raise ValueError("data: expected events of weight 1, as toys are Poisson; found others: give toys of the same "
                         "kind with null=")  # fmt: skip
    _check_reference(reference, null)
    for name, pair in nuisances.items():
        if len(pair) != 2 or not all(isinstance(e, Events) and e.sum_weights > 0 for e in pair):
            raise ValueError(f"nuisance {name!r}: expected two references of positive total weight, at plus and at "
                             f"minus one sigma, found {pair!r}")  # fmt: skip
        for events in pair:
            features.check(events)
    if isinstance(toys, bool) or not isinstance(toys, int | np.integer) or toys < _LEAST:
        raise ValueError(f"toys: expected a whole number of at least {_LEAST}, found {toys!r}")


def _check_reference(reference: Events, null: Null) -> None:
    total, size = reference.sum_weights, reference.effective_size
    if not total > 0:
        raise ValueError(f"reference: expected a positive total weight, the number of events that is expected in the "
                         f"data, found {total:g}")  # fmt: skip
    if null is None and size < total:  # toys are drawn from it, and bootstrap it
        raise ValueError(
            f"reference: expected more events than it expects in the data, better ten times as many, found {size:.6g} "
            f"effective events for {total:.6g}; weights sum to the expected number: reference.scaled_to(number); an "
            f"exact reference, bins with expected contents, needs null="
        )
    drawn = {"reference": reference} if null is None else {"null": null} if isinstance(null, Events) else {}
    for what, events in drawn.items():
        if (events.weight < 0).any():
            raise ValueError(f"{what}: toys cannot be drawn by negative weights, found {(events.weight < 0).sum()}; "
                             f"give null= a sample without them, or a function that makes data")  # fmt: skip
        if not events.sum_weights > 0:
            raise ValueError(f"{what}: expected a positive total weight, found {events.sum_weights:g}")
    if not (null is None or isinstance(null, Events) or callable(null)):
        raise TypeError(f"null: expected Events, a function of a generator, or None, found {type(null).__name__}")
