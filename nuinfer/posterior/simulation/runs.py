"""Runs of a simulator at draws of theta: theta and its weight, chunks, and their results put together."""

from __future__ import annotations

import json
import logging
import os
from collections.abc import Mapping, Sequence
from concurrent.futures import Executor
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from ... import hashing
from ...events import Events
from ...tasks import TaskError, run
from ..priors import Prior, PriorLike
from ..priors.prior import named
from .chunks import ADVICE, Form, Simulator, Stopped, Work
from .outputs import Wrong, joined
from .result import Simulations, decoded, failures_of, failures_shown

__all__ = ["simulate"]

_log = logging.getLogger("nuinfer")

Floats = NDArray[np.float64]
Errors = Literal["raise", "record"]

_ROWS = 1000  # of one call of a vectorised simulator, unless n is large


def simulate(
    simulator: Simulator,
    prior: PriorLike,
    n: int,
    *,
    seed: int,
    vectorised: bool | int = True,
    theta: Form = "array",
    columns: Sequence[str] | None = None,
    names: Sequence[str] | None = None,
    proposal: PriorLike | None = None,
    executor: Executor | None = None,
    cache: str | os.PathLike[str] | None = None,
    chunk: int | None = None,
    name: str = "",
    errors: Errors = "raise",
    in_flight: int | None = None,
    progress: bool = True,
) -> Simulations:
    """Draw ``n`` theta from the prior and simulate an observation at each.

    Parameters
    ----------
    simulator:
        ``simulator(theta, rng)``, which draws from the ``numpy.random.Generator`` rng only (``rng.integers(2**63)``
        seeds other libraries).  It returns an array, a mapping, or `Events`.

        *Vectorised*, theta (B, P): an array (B, D), or (B,); a mapping from names to arrays (B,), (B, D), or, ragged,
        `Ragged`, awkward arrays or lists of B arrays (k,) or (k, D); an awkward array of B records; events of B rows.

        *Per call*, theta (P,): an array (D,) or a number; a mapping from names to numbers, or, ragged, to arrays (k,)
        or (k, D); events of one row.

        Components become columns ``name[0]``, ... of flat arrays, clouds ``name.x0``, ... of ragged ones; mappings
        within a mapping are clouds, ``{"hits": {"x": ..., "q": ...}}``.
    prior:
        See `Prior.of`.
    n:
        The number of simulations.
    vectorised:
        True for a simulator of many theta at once; a number B for one that takes at most B; False for one theta.
    theta:
        ``"array"``, or ``"mapping"`` for theta as a dict from names to arrays (B,), or to numbers.
    columns:
        Names for an array's D components; x0, x1, ... if left out.
    names:
        Of the parameters, for a joint prior without names.
    proposal:
        Another prior of the same names that theta is drawn from.  The events' weights are then p(theta) / q(theta), and
        a fit takes them from there: do not give it the proposal once more.
    executor, in_flight, progress:
        As in `nuinfer.tasks.run`, e.g. ``nuinfer.processes(4)``.
    cache:
        A folder for finished chunks: the same call takes them up after a kill.  Theta, the simulator's name and the
        options are compared, not its code: ``name`` is a label for what they do not tell.
    chunk:
        Simulations of one task and file.  Left out: at most 256 chunks, and 1,000 rows in each call or more.  Random
        numbers belong to a call, so for ``vectorised=True`` they change with it; not for a number or False.
    errors:
        ``"raise"`` stops at a chunk with failures: a simulator that raises, or output that is not finite; the message
        has their number and the first theta.  ``"record"`` goes on, and keeps them in `Simulations.failures`.  A call
        for many theta that raises is repeated in halves until the theta is found; where no half raises again, it failed
        by chance, and all its rows count as failed.

    Raises
    ------
    TaskError
        where simulations fail under ``errors="raise"``, or all of them.
    ValueError, TypeError
        for output of the wrong number of rows, other columns than before, or of no numbers.

    Examples
    --------
    >>> def scatter(theta, rng):
    ...     return theta + 0.1 * rng.normal(size=theta.shape)
    >>> simulations = simulate(scatter, {"a": (0, 1), "b": (-1, 1)}, 500, seed=1, progress=False)
    >>> simulations.events.columns, len(simulations), simulations.messages
    (('a', 'b', 'x0', 'x1'), 500, ())

    A cloud whose length carries the rate:

    >>> def decays(theta, rng):
    ...     return {"hits.t": rng.exponential(theta[1], rng.poisson(theta[0]))}
    >>> prior = {"rate": (5, 20), "lifetime": (1, 3)}
    >>> simulate(decays, prior, 50, vectorised=False, seed=1, progress=False).events["hits.t"].rows
    50
    """
    prior = Prior.of(prior, names)
    if errors not in ("raise", "record") or theta not in ("array", "mapping"):
        raise ValueError(f"expected errors 'raise' or 'record' and theta 'array' or 'mapping', found {errors!r} and "
                         f"{theta!r}")  # fmt: skip
    points, weight = _points(prior, proposal, _whole("n", n), seed)
    rows, size = _sizes(vectorised, chunk, len(points))
    work = Work(simulator, prior.names, rows, theta, _checked_names(columns), seed, errors == "raise")
    tasks = [(first, points[first : first + size]) for first in range(0, len(points), size)]
    options = {"seed": seed, "executor": executor, "checkpoint": cache, "chunk": 1, "name": work.label(name),
               "in_flight": in_flight, "progress": progress}  # fmt: skip
    values = _through(work, tasks, options)
    return _gathered(values, points, weight, prior, work)


def _points(prior: Prior, proposal: PriorLike | None, n: int, seed: int) -> tuple[Floats, Floats]:
    """Theta (n, P) and its weights (n,)."""
    if proposal is None:
        return prior.sample(n, seed=seed), np.ones(n)
    other = named(proposal, prior.names)
    if other.names != prior.names:
        raise ValueError(f"proposal: expected the prior's parameters {', '.join(prior.names)}, in that order, found "
                         f"{', '.join(other.names)}")  # fmt: skip
    theta = other.sample(n, seed=seed)
    logs = prior.log_prob(theta)
    outside = int(np.isneginf(logs).sum())
    if outside:
        raise ValueError(f"proposal: expected draws inside the prior, found {outside} of {n} outside, which would have "
                         f"the weight 0; proposal.restricted(prior.contains) cuts them off")  # fmt: skip
    return theta, np.exp(logs - other.log_prob(theta))


def check_covered(weight: Floats) -> None:
    """Raise ``ValueError`` where prior over proposal (N,) has a mean below 1: it misses a part of the prior."""
    mean, error = float(weight.mean()), float(weight.std()) / max(len(weight), 1) ** 0.5
    if 1 - mean > 5 * error + 0.01:
        raise ValueError(
            f"proposal: expected one that covers the prior, found a mean of prior over proposal of {mean:.3g} +- "
            f"{error:.2g}, not 1: it covers about that share; give the narrower prior, or a wider proposal"
        )


def _sizes(vectorised: bool | int, chunk: int | None, n: int) -> tuple[int, int]:
    """Rows of one call, 0 for one theta without the axis of rows, and simulations of one chunk."""
    least = -(-n // 256)
    wanted = None if chunk is None else _whole("chunk", chunk)
    if vectorised is False:
        return 0, wanted or least
    if vectorised is True:
        size = wanted or min(n, max(_ROWS, least))
        return size, size
    rows = _whole("vectorised", vectorised)
    if wanted is not None and wanted % rows:
        raise ValueError(f"chunk: expected a multiple of vectorised={rows}, the rows of one call, found {wanted}")
    return rows, wanted or rows * -(-least // rows)


def _through(work: Work, tasks: Sequence[Any], options: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    """What the chunks gave, with errors as they are meant for the user."""
    try:
        values = run(work, tasks, **options).values
    except TaskError as error:
        cause = error.__cause__
        if isinstance(cause, Wrong):
            raise cause.kind(cause.text) from cause
        if isinstance(cause, Stopped):
            kept = "" if options["checkpoint"] is None else f"; the chunks before are in {options['checkpoint']}"
            raise TaskError(f"{cause}{kept}") from cause
        raise
    return [value for value in values if isinstance(value, dict)]


def _gathered(
    values: Sequence[Mapping[str, Any]], points: Floats, weight: Floats, prior: Prior, work: Work
) -> Simulations:
    """All chunks together; ``TaskError`` where no simulation is left."""
    failed = np.concatenate([value["failed"] for value in values]).astype(np.int64)
    messages = tuple(text for value in values for text in json.loads(value["messages"].tobytes()))
    failures = failures_of(prior.names, points[failed], failed)
    shown = failures_shown(prior.names, failures, messages)
    if len(failed) == len(points):
        raise TaskError(f"simulate: all of {len(points)} simulations failed, first: {shown}")
    if len(failed) and work.stop:  # those of a cache that was filled under errors="record"
        raise TaskError(f"simulate: {len(failed)} of {len(points)} simulations failed, first: {shown}; {ADVICE}")
    if len(failed):
        _log.warning("%d of %d simulations failed, first: %s", len(failed), len(points), shown)
    made = _together(values)
    rows = made.id
    # of the first theta too, so that rounds with several priors or proposals, and one seed, have different ids
    ids = hashing.bits(rows, work.seed, "simulation", points[0].tolist()).view(np.int64)
    columns = {**prior.events(points[rows]), **{name: made[name] for name in made}}
    return Simulations(Events(columns, weight=weight[rows] * made.weight, id=ids), prior, failures, messages, work.seed)


def _together(values: Sequence[Mapping[str, Any]]) -> Events:
    try:
        return joined([decoded(value) for value in values if "id" in value])
    except Wrong as wrong:
        raise wrong.kind(wrong.text) from wrong


def _whole(what: str, value: Any) -> int:
    if isinstance(value, bool) or not isinstance(value, (int, np.integer)) or value < 1:
        raise ValueError(f"{what}: expected a whole number from 1, found {value!r}")
    return int(value)


def _checked_names(columns: Sequence[str] | None) -> tuple[str, ...] | None:
    if columns is None:
        return None
    if isinstance(columns, str) or not all(isinstance(name, str) for name in columns):
        raise TypeError(f"columns: expected a list of names, found {columns!r}")
    if len(set(columns)) != len(columns):
        raise ValueError(f"columns: expected different names, found {list(columns)}")
    return tuple(columns)
