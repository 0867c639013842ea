r"""Conditional densities by flow matching: p(y | x) of more columns than a normalizing flow is comfortable with.

A velocity field v moves a standard normal z to a draw of y: along the path with fixed ends z and y

.. math:: y_\phi = \cos\phi\, z + \sin\phi\, y, \qquad
          \frac{d y_\phi}{d\phi} = u = -\sin\phi\, z + \cos\phi\, y, \qquad 0 \le \phi \le \pi/2

(the variance-preserving path: for standardised y the network sees numbers of order one at every phi), the mean of u
over all paths through a point is the velocity that carries the whole distribution.  That mean is the minimum of

.. math:: R = \sum_i \frac{w_i}{T}\, E_{\phi, z}\, \tfrac12 \left| v(y_{i\phi}, \phi, x_i) - u_i \right|^2

with phi uniform and z normal, drawn anew each epoch: a regression, without Jacobians.  A draw is the solution of
dy/dphi = v from z at phi = 0 to phi = pi/2, and its density follows from the divergence,

.. math:: \log q(y \mid x) = \log N(z; 0, 1) - \int_0^{\pi/2} \nabla \cdot v(y_\phi, \phi, x)\, d\phi

The network has three parts: v = F + G y_phi + sum_h c_h(phi) L_h (x, y_phi), with F and G, component by component, of a
residual perceptron, and matrices L_h beside harmonics c_h of phi; of a density that is Gaussian given x, with a mean
linear in x, the last one is nearly the whole velocity.

**Accuracy of the solution.**  Runge-Kutta of fourth order in u, phi = pi/2 (1 - (1 - u)^2), at ``steps`` equal steps:
they shrink towards the end, where narrow densities turn sharply.  For a Gaussian conditional density of standard
deviation c (of a standardised column) and the exact velocity, the relative error of the draws' standard deviation is

=====  =======  =======  =======  ========
steps  c = 0.5  c = 0.2  c = 0.1  c = 0.05
=====  =======  =======  =======  ========
8      4e-6     8e-5     5e-4     4e-4
16     6e-7     1e-5     5e-5     2e-4
32     5e-8     7e-7     4e-6     2e-5
=====  =======  =======  =======  ========

and log q, two standard deviations from the mean, is off by 4e-6, 6e-5, 3e-4 and 1e-3 at 16 steps, a sixteenth of that
at 32.  What the network has not learned is more.

Sources: Lipman, Chen, Ben-Hamu, Nickel, Le, arXiv 2210.02747 (flow matching; eqs. 9, 18-19 the variance-preserving
path); Albergo, Vanden-Eijnden, arXiv 2209.15571 (the trigonometric path); Wildberger, Dax, Buchholz, Green, Macke,
Schoelkopf, arXiv 2305.17161 (as posterior); Grathwohl, Chen, Bettencourt, Sutskever, Duvenaud, arXiv 1810.01367 (log
density by the divergence).
"""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from scipy import special
from torch import Tensor

from ... import hashing, losses, nets, store
from ...density.columns import Bounds, Columns
from ...density.flow_density import check_draws
from ...ensemble import Ensemble, Fitted, fit_networks, network_of, spec_of, standardisation
from ...events import Events, positive_total
from ...features import Batch, Features, Inputs, Shape
from ...nets import MLP, DeepSet, Network, Stack, State
from ...resample import Resample
from ...train import Draw, Drawn, History, Training

__all__ = ["FlowMatching", "FlowMatchingDensity", "fit_flow_matching"]

Floats = NDArray[np.float64]
Keys = NDArray[np.int64]

_END = math.pi / 2
_HARMONICS = 4  # of phi, that the network sees
_CLOCK = 2 * _HARMONICS + 1
_PIECE = 1 << 13  # rows in one evaluation


@dataclass(frozen=True, kw_only=True)
class FlowMatching:
    """A velocity field: a residual perceptron of ``depth`` x ``width``, solved in ``steps`` Runge-Kutta steps.

    >>> FlowMatching(width=64)
    FlowMatching(width=64, depth=3, steps=16, activation='silu')
    """

    width: int = 128
    depth: int = 3
    steps: int = 16
    activation: nets.Activation = "silu"

    def __post_init__(self) -> None:
        self.perceptron()
        if not isinstance(self.steps, int) or self.steps < 1:
            raise ValueError(f"FlowMatching: expected steps to be an integer of at least 1, found {self.steps!r}")

    def perceptron(self) -> MLP:
        """The network of the velocity."""
        return MLP(width=self.width, depth=self.depth, activation=self.activation, residual=True)


class VelocityStack(Stack):
    """K velocity fields of ``targets`` standardised columns, given ``context`` numbers.

    A batch has the columns of x (or what ``embedding`` sums up), those of y, and those that `_Paths` draws: phi and z.
    """

    def __init__(self, spec: FlowMatching, targets: int, context: int, embedding: Stack | None = None) -> None:
        self.spec, self.targets, self.context, self.embedding = spec, targets, context, embedding
        self.field = nets.stack(spec.perceptron(), Shape(context + targets + _CLOCK), 2 * targets)

    def initial(self, seed: int, members: Sequence[int]) -> State:
        """Of the perceptron and of the embedding."""
        own = {f"field.{name}": t for name, t in self.field.initial(seed, members).items()}
        own["linear"] = torch.zeros(len(members), _CLOCK * (self.context + self.targets), self.targets)
        inner = self.embedding.initial(seed, members) if self.embedding is not None else {}
        return own | {f"embedding.{name}": tensor for name, tensor in inner.items()}

    def trainable(self, state: State) -> tuple[str, ...]:
        """All of the field's, and those of the embedding."""
        inner = self.embedding.trainable(_of(state, "embedding.")) if self.embedding is not None else ()
        return (
            "linear",
            *(name for name in state if name.startswith("field.")),
            *(f"embedding.{name}" for name in inner),
        )

    def __call__(self, state: State, batch: Batch, *, training: bool = False) -> Tensor:
        """Minus half of the squared error of the velocity (K, B)."""
        d = self.targets
        x, y, phi, z = batch.flat.split([batch.flat.shape[-1] - 2 * d - 1, d, 1, d], -1)
        given = self.given(state, Batch(x, batch.clouds), training=training)
        sine, cosine = torch.sin(phi), torch.cos(phi)
        found = self.velocity(state, cosine * z + sine * y, phi, given, training=training)
        off: Tensor = found - (cosine * y - sine * z)
        return -0.5 * off.square().sum(-1)

    def given(self, state: State, batch: Batch, *, training: bool = False) -> Tensor:
        """What the field is conditioned on (K, B, C), of a batch with the columns of x alone."""
        if self.embedding is None:
            return batch.flat
        found = self.embedding(_of(state, "embedding."), batch, training=training)
        return found[..., None] if found.ndim == 2 else found

    def velocity(self, state: State, y: Tensor, phi: Tensor, given: Tensor, *, training: bool = False) -> Tensor:
        """The velocity (K, B, D) at y (K, B, D) and phi (K, B, 1)."""
        angles = phi * torch.arange(1, _HARMONICS + 1, dtype=phi.dtype, device=phi.device)
        clock = torch.cat([torch.ones_like(phi), torch.cos(angles), torch.sin(angles)], -1)
        seen = torch.cat([given, y], -1)
        joint = Batch(torch.cat([seen, clock], -1))
        shift, slope = self.field(_of(state, "field."), joint, training=training).chunk(2, -1)
        products = (clock[..., :, None] * seen[..., None, :]).flatten(2)
        return torch.baddbmm(shift + slope * y, products, state["linear"])

    def reseed(self, seeds: Callable[[], Sequence[int]]) -> None:
        """Offered to the embedding."""
        if self.embedding is not None:
            self.embedding.reseed(seeds)

    def describe(self) -> str:
        """The spec, the sizes, and the embedding."""
        inner = "" if self.embedding is None else f" of {self.embedding.describe()}"
        return f"{self.spec} of {self.targets} columns given {self.context} numbers{inner}"


class _Paths(Draw):
    """phi, uniform on (0, pi/2), and z, normal, of (row, network, epoch)."""

    def __init__(self, targets: int, seed: int) -> None:
        self.targets, self.seed = targets, seed

    def __call__(self, rows: Tensor, networks: Keys, epoch: int | None) -> Drawn:
        """Columns (S, K, B, 1 + D)."""
        count = 1 + self.targets
        found = np.empty((*rows.shape, count))
        for k, network in enumerate(networks):
            keys = rows[:, k].numpy()[..., None] * count + np.arange(count)
            labels = ("flow matching", self.seed, int(network), "held out" if epoch is None else epoch)
            found[:, k] = (hashing.uniform(keys.reshape(-1), *labels) + 2.0**-54).reshape(keys.shape)
        found[..., :1] *= _END
        found[..., 1:] = special.ndtri(found[..., 1:])
        return Drawn(torch.from_numpy(found))

    def describe(self) -> str:
        """Sizes and seed."""
        return f"paths of {self.targets} columns, seed {self.seed}"


def solved(velocity: Callable[[Tensor, float], Tensor], start: Tensor, steps: int, *, backward: bool = False) -> Tensor:
    """The end of dy/dphi = velocity(y, phi), from phi = 0 to pi/2 or back, by ``steps`` steps of fourth order."""

    def slope(y: Tensor, u: float) -> Tensor:
        return 2 * _END * (1 - u) * velocity(y, _END * (1 - (1 - u) ** 2))

    y, h = start, (-1.0 if backward else 1.0) / steps
    for number in range(steps):
        u = (1.0 if backward else 0.0) + number * h
        k1 = slope(y, u)
        k2 = slope(y + 0.5 * h * k1, u + 0.5 * h)
        k3 = slope(y + 0.5 * h * k2, u + 0.5 * h)
        k4 = slope(y + h * k3, u + h)
        y = y + h / 6 * (k1 + 2 * k2 + 2 * k3 + k4)
    return y


def _of(state: State, prefix: str) -> State:
    return {name.removeprefix(prefix): tensor for name, tensor in state.items() if name.startswith(prefix)}


# -- what conditional densities are trained on, flows and velocity fields ----------------------------------------------


@dataclass(frozen=True)
class ConditionalRows:
    """N rows (x, y): the columns of x, and behind them those of y, unbounded and standardised."""

    targets: Columns
    condition: Features
    embedding: Network | None
    summaries: int
    inputs: Inputs
    key: Keys

    @classmethod
    def of(
        cls, events: Events, columns: Sequence[str], condition: Features, *, bounds: Mapping[str, Bounds],
        embedding: Network | None, summaries: int, key: Keys, seed: int,
    ) -> ConditionalRows:  # fmt: skip
        """Of all ``events``; raises for columns that do not fit, as `nuinfer.density.fit_density` does."""
        targets = Columns.of(columns, bounds, ())
        both = sorted(set(condition.columns) & set(targets.names))
        if both:
            raise ValueError(f"condition: expected other columns than those of the density, found {', '.join(both)} in "
                             f"both; given itself a column is known")  # fmt: skip
        if not isinstance(summaries, int) or summaries < 1:
            raise ValueError(f"summaries: expected an integer of at least 1, found {summaries!r}")
        values = targets.read(events)
        targets = targets.fitted(values, events.weight, seed)
        scaled = targets.forward(torch.from_numpy(values))[0].float()
        x = condition.tensors(events)
        inputs = Inputs(torch.cat([x.flat, scaled], 1), x.clouds)
        if embedding is None and condition.clouds:
            embedding = DeepSet(head=MLP(width=64, depth=1))
        return cls(targets, condition, embedding, summaries, inputs, key)

    def fit(
        self, stack: Stack, weights: Floats, resample: Resample, *, training: Training, draw: Draw | None = None,
        drawn: int = 0, warm: Fitted | None = None, device: str = "cpu", checkpoint: Path | None = None,
        label: str = "density", progress: bool = True,
    ) -> Fitted:  # fmt: skip
        """Train the networks of ``stack`` on rows with ``weights`` (N,), or (networks, N)."""
        mean = weights.mean(-1, keepdims=True)
        scales = standardisation(self.inputs, (weights / mean,), ready=len(self.targets.parts), drawn=drawn)
        return fit_networks(
            self.inputs, (weights / mean,), self.key, resample, stack=stack, loss=losses.nll, training=training,
            classes=("events",), draw=draw, standardise=scales, device=device, checkpoint=checkpoint, warm=warm,
            label=label, progress=progress,
        )  # fmt: skip

    def velocity_stack(self, network: FlowMatching) -> VelocityStack:
        """Velocity fields for these rows."""
        return velocity_stack(network, self.targets, self.condition, self.embedding, self.summaries)

    def fit_velocity(self, network: FlowMatching, weights: Floats, resample: Resample, **options: Any) -> Fitted:
        """`fit` of velocity fields."""
        d = len(self.targets.parts)
        return self.fit(self.velocity_stack(network), weights, resample, draw=_Paths(d, resample.seed), drawn=1 + d,
                        **options)  # fmt: skip


def velocity_stack(
    network: FlowMatching, targets: Columns, condition: Features, embedding: Network | None, summaries: int
) -> VelocityStack:
    """The stack of a spec."""
    if embedding is None:
        return VelocityStack(network, len(targets.parts), len(condition.flat))
    return VelocityStack(network, len(targets.parts), summaries, nets.stack(embedding, condition.shape, summaries))


# -- the density -------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, eq=False)
class FlowMatchingDensity:
    """A fitted density q(y | x); made by `fit_flow_matching`.

    Attributes
    ----------
    targets:
        The columns y with their bounds and scales; ``columns`` has their names.
    condition:
        The columns x.
    sum_weights:
        Of the training events.
    history:
        Risks per epoch and member.
    """

    targets: Columns
    condition: Features
    network: FlowMatching
    embedding: Network | None
    summaries: int
    model: Ensemble
    resample: Resample
    sum_weights: float
    history: History

    @property
    def columns(self) -> tuple[str, ...]:
        """The names of the columns y."""
        return self.targets.names

    # -- samples

    def draws(self, n: int, condition: Events, *, seed: int = 0) -> Floats:
        """``n`` draws (N, n, D) of y for each of N events x, each of a member drawn at random.

        Raises
        ------
        ValueError
            for n below 1; ``KeyError``, ``TypeError`` for events without the columns of x.
        """
        check_draws(n)
        rng = np.random.default_rng(hashing.salt(seed, "flow matching sample"))
        owner = np.repeat(np.arange(len(condition)), n)
        member = rng.integers(0, self.model.networks, len(owner))
        z = torch.from_numpy(rng.standard_normal((len(owner), len(self.columns)))).float()
        t = torch.empty(z.shape, dtype=torch.float64)
        for k in range(self.model.networks):
            rows = np.flatnonzero(member == k)
            given = self._contexts(condition, k)
            for part in np.split(rows, range(_PIECE, len(rows), _PIECE)):
                t[part] = self._solved(k, z[part], given[:, owner[part]]).double()
        found = self.targets.inverse(t)
        return np.stack([found[name] for name in self.columns], -1).reshape(len(condition), n, len(self.columns))

    def sample(self, n: int, condition: Events, *, seed: int = 0) -> Events:
        """``n`` events with the columns y for ``n`` events x, one draw for each, or for one event x.

        Raises
        ------
        ValueError
            for n below 1, or a condition of another length.
        """
        check_draws(n)
        if len(condition) not in (1, n):
            raise ValueError(f"condition: expected {n} events or one, found {len(condition)}")
        each = n if len(condition) == 1 else 1
        values = self.draws(each, condition, seed=seed).reshape(n, len(self.columns))
        return Events({name: np.ascontiguousarray(values[:, i]) for i, name in enumerate(self.columns)})

    @torch.no_grad()
    @nets.single_precision()
    def _solved(self, k: int, z: Tensor, given: Tensor) -> Tensor:
        """Standardised y (B, D) of z (B, D)."""
        state, stack = self._state(k, torch.float32), self._stack

        def velocity(y: Tensor, phi: float) -> Tensor:
            return stack.velocity(state, y, y.new_full((*y.shape[:2], 1), phi), given)

        return solved(velocity, z[None], self.network.steps)[0]

    # -- densities

    def log_prob(self, events: Events) -> Floats:
        """The log of the members' mean density, log q(y | x) (N,); -inf outside the bounds.

        The divergence is exact, by as many gradients as there are columns at each of 4 ``steps`` evaluations.

        Raises
        ------
        KeyError, TypeError, ValueError
            for events without the columns of y or x, or not finite in them.
        """
        return self._mean(self.targets.read(events), events, np.arange(len(events)))

    def log_probs(self, y: ArrayLike, condition: Events) -> Floats:
        """Log densities (N, M) of M points y (N, M, D) for each of N events x."""
        values = np.asarray(y, np.float64)
        if values.ndim != 3 or values.shape[0] != len(condition) or values.shape[2] != len(self.columns):
            raise ValueError(f"y: expected ({len(condition)}, M, {len(self.columns)}), M points of "
                             f"{', '.join(self.columns)} for each of {len(condition)} events, found "
                             f"{values.shape}")  # fmt: skip
        owner = np.repeat(np.arange(len(condition)), values.shape[1])
        checked = self.targets.checked(values.reshape(-1, values.shape[2]))
        return self._mean(checked, condition, owner).reshape(values.shape[:2])

    def _mean(self, values: Floats, condition: Events, owner: Keys) -> Floats:
        logs = np.stack([self._logs(k, values, condition, owner) for k in range(self.model.networks)])
        return np.asarray(special.logsumexp(logs, axis=0) - math.log(len(logs)))

    def _logs(self, k: int, values: Floats, condition: Events, owner: Keys) -> Floats:
        """Log densities (R,) of one member at values (R, D), row r with the condition ``owner[r]``."""
        v = torch.from_numpy(np.ascontiguousarray(values))
        inside = self.targets.inside(v)
        t, slope = self.targets.forward(torch.where(inside[:, None], v, self.targets.middle()))
        given, logs = self._contexts(condition, k).double(), []
        for start in range(0, max(len(t), 1), _PIECE):
            part = slice(start, start + _PIECE)
            logs.append(self._backward(k, t[part], given[:, owner[part]]))
        return torch.where(inside, torch.cat(logs) + slope, -torch.inf).numpy()

    def _backward(self, k: int, t: Tensor, given: Tensor) -> Tensor:
        """Log density (B,) of standardised y (B, D): back to z, with the divergence along the way."""
        state, stack, d = self._state(k, torch.float64), self._stack, t.shape[1]

        def velocity(joint: Tensor, phi: float) -> Tensor:
            with torch.enable_grad():
                y = joint[..., :d].detach().requires_grad_()
                v = stack.velocity(state, y, y.new_full((*y.shape[:2], 1), phi), given)
                total = [torch.autograd.grad(v[..., i].sum(), y, retain_graph=True)[0][..., i] for i in range(d)]
            return torch.cat([v.detach(), torch.stack(total, -1).sum(-1, keepdim=True)], -1)

        start = torch.cat([t, t.new_zeros(len(t), 1)], 1)[None]
        end = solved(velocity, start, self.network.steps, backward=True)[0]
        return end[:, d] - 0.5 * (end[:, :d].square() + math.log(2 * math.pi)).sum(-1)

    @property
    def _stack(self) -> VelocityStack:
        return cast(VelocityStack, self.model.stack)

    def _state(self, k: int, dtype: torch.dtype) -> State:
        return {name: tensor[k : k + 1].to(dtype) for name, tensor in self.model.state.items()}

    @torch.no_grad()
    @nets.single_precision()
    def _contexts(self, condition: Events, k: int) -> Tensor:
        """What member k is given (1, N, C) for N events x."""
        x, scales = self.condition.tensors(condition), self.model.standardise.first(len(self.condition.flat))
        state, spans = self._state(k, torch.float32), range(0, max(len(condition), 1), _PIECE)
        return torch.cat([self._stack.given(state, scales(x.span(a, a + _PIECE))) for a in spans], 1)

    def __repr__(self) -> str:
        return (
            f"FlowMatchingDensity({self.model.networks} member{'s' if self.model.networks > 1 else ''}, "
            f"q({', '.join(self.columns)} | {', '.join(self.condition.columns)}); sum of weights "
            f"{self.sum_weights:.6g})"
        )

    # -- files

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write everything to one safetensors file, atomically."""
        store.save(path, "flow matching density", *self.saved())

    @classmethod
    def load(cls, path: str | os.PathLike[str], *, module: Any = None) -> FlowMatchingDensity:
        """Read what `save` wrote; ``module`` makes the embedding where it was a user's own.

        Raises
        ------
        CorruptFile
            for a file that is damaged; ``ValueError`` for one of another kind; ``FileNotFoundError`` for none.
        """
        return cls.of_saved(*store.load(path, "flow matching density"), module=module)

    def saved(self) -> tuple[dict[str, Any], dict[str, NDArray[Any]]]:
        """The JSON and the arrays that a file holds."""
        spec = {
            "targets": self.targets.to_json(), "condition": self.condition.to_json(), "network": asdict(self.network),
            "embedded": self.embedding is not None, "summaries": self.summaries,
            "embedding": None if self.embedding is None else spec_of(self.embedding),
            "resample": vars(self.resample), "sum_weights": self.sum_weights,
        }  # fmt: skip
        return spec, {f"model.{n}": a for n, a in self.model.arrays().items()} | self.history.arrays()

    @classmethod
    def of_saved(
        cls, spec: Mapping[str, Any], arrays: Mapping[str, NDArray[Any]], *, module: Any = None
    ) -> FlowMatchingDensity:
        """The inverse of `saved`."""
        targets, condition = Columns.from_json(spec["targets"]), Features.from_json(spec["condition"])
        network = FlowMatching(**spec["network"])
        embedding = cast(Network, network_of(spec["embedding"], module)) if spec["embedded"] else None
        stack = velocity_stack(network, targets, condition, embedding, spec["summaries"])
        model = Ensemble.of_arrays(stack, {n[6:]: a for n, a in arrays.items() if n.startswith("model.")})
        return cls(targets, condition, network, embedding, spec["summaries"], model, Resample(**spec["resample"]),
                   spec["sum_weights"], History.of_arrays(arrays))  # fmt: skip


def fit_flow_matching(
    events: Events,
    columns: Sequence[str],
    *,
    condition: Features | Sequence[str],
    bounds: Mapping[str, Bounds] | None = None,
    network: FlowMatching = FlowMatching(),
    embedding: Network | None = None,
    summaries: int = 16,
    members: int = 1,
    validation: float = 0.0,
    bootstrap: bool = False,
    group: str | None = None,
    training: Training = Training(epochs=60, batch=512, average=2.0),  # noqa: B008 - a frozen spec
    seed: int = 0,
    device: str = "cpu",
    checkpoint: str | Path | None = None,
    progress: bool = True,
) -> FlowMatchingDensity:
    """Learn the density q(y | x) of weighted events by flow matching.

    Parameters
    ----------
    events:
        Weights of any sign, with a positive sum.
    columns, condition, bounds, embedding, summaries, members, validation, bootstrap, group, seed, device, checkpoint:
        As in `nuinfer.density.fit_density`; columns are continuous, and there is always a condition.
    network:
        The velocity field and how it is solved.
    training:
        Each epoch has paths of its own, so that many epochs do not overfit as those of a flow do.

    Raises
    ------
    ValueError
        for no events, a total weight that is not positive, columns that are not finite, constant or outside their
        bounds, or a condition that has a column of y; ``KeyError``, ``TypeError`` for columns that are missing or of
        the wrong kind.

    Examples
    --------
    >>> from nuinfer.simulators import LinearGaussian
    >>> problem = LinearGaussian([[1.0]], noise=0.25)  # theta ~ N(0, 1), x = theta + N(0, 0.25)
    >>> q = fit_flow_matching(problem.simulate(4000, 1), ["theta0"], condition=["x0"], seed=1, progress=False,
    ...                       network=FlowMatching(width=32, depth=2), training=Training(epochs=20, batch=128))
    >>> draws = q.draws(2000, Events({"x0": [1.0]}), seed=1)[0]  # the posterior is N(0.8, 0.2)
    >>> bool(abs(draws.mean() - 0.8) < 0.1), bool(abs(draws.var() - 0.2) < 0.05)
    (True, True)
    """
    total = positive_total("events", events.weight)
    rows = ConditionalRows.of(events, columns, Features.of(condition), bounds=bounds or {}, embedding=embedding,
                              summaries=summaries, key=events.key(group), seed=seed)  # fmt: skip
    resample = Resample(seed=seed, members=members, validation=validation, bootstrap=bootstrap)
    fitted = rows.fit_velocity(network, events.weight, resample, training=training, device=device, progress=progress,
                               checkpoint=Path(checkpoint) if checkpoint is not None else None,
                               label="flow matching")  # fmt: skip
    return FlowMatchingDensity(
        rows.targets, rows.condition, network, rows.embedding, rows.summaries, cast(Ensemble, fitted.model), resample,
        total, cast(History, fitted.history),
    )  # fmt: skip
