r"""The last layer of trained networks, fitted anew to other weights of the same events.

A bootstrap replica, or a systematic variation, changes the weights of a fit a little, and its answer with them.  A
network f(x) = a . h(x) + b whose last hidden layer h was learned from the nominal weights need not be trained again:
its last layer alone is fitted to the replica's weights, by Newton's method, to the minimum over :math:`\delta` of

.. math:: R_k(f + \delta \cdot \phi) - g \cdot \delta + \tfrac{\lambda}{2} |\delta|^2, \qquad \phi = (h, 1),

with the replica's risk R_k and the gradient g of the nominal risk at :math:`\delta = 0`, which training has left:
nominal weights give back the nominal network.  The penalty stands for the directions in which a network that is
trained for a finite time hardly moves; directions whose eigenvalue of the nominal Hessian is below a hundredth of
:math:`\lambda` are left out.

**Pilots.**  How far training goes is learned from a few replicas that are trained: :math:`\lambda` is the one with
which their last layers, fitted anew, come nearest to them in the mean square of the outputs; `LastLayer.explained` is
the share of what they differ from the nominal network by that is met so.  The rest is the noise of training anew
(initial weights, order of batches), which is lost: it is small where the schedule runs to its end, and the members of
the nominal fit show it.

The cost of a replica is that of a few passes over a matrix (events, directions), a handful of columns where x has one
dimension, some fifty where it has four, instead of a training.  How well replicas made so agree with trained ones is
measured in docs/performance.md and docs/validation.md.

Sources: the infinitesimal jackknife, Jaeckel (Bell Labs memorandum MM 72-1215-11, 1972), for networks Koh, Liang,
arXiv 1703.04730; last layers as generalised linear models, Kristiadi, Hein, Hennig, arXiv 2002.10118.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import ArrayLike, NDArray

from .ensemble import Ensemble, Heads
from .errors import NotConverged
from .features import Inputs
from .losses import Loss, derivatives

__all__ = ["LastLayer"]

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]
#: Rows, outputs (M, n), and last hidden layers with a one behind (M, n, H + 1).
Piece = tuple[slice, Floats, Floats]

_log = logging.getLogger("nuinfer")

_RIDGES = 10.0 ** np.arange(-4.0, 0.1, 0.5)  # what pilots choose from, of the mean eigenvalue of the Hessian
_RIDGE = 1e-2  # without them
_LITTLE = 0.25  # explained
_LEFT_OUT = 1e-2  # of the penalty: such a direction would keep 1% of its response
_DECREMENT = 1e-10  # of the mean loss; sampling noise moves it by some (directions) / (events)
_PASSES = 60
_KEPT = 1 << 28  # bytes of hidden layers that stay in memory


@dataclass(frozen=True)
class _Directions:
    """Of one member: ``basis`` (H + 1, r), in which Hessian plus penalty is 1; ``gradient`` and ``penalty`` (r,)."""

    basis: Floats
    gradient: Floats
    penalty: Floats


@dataclass(frozen=True)
class _Hessian:
    """Of one member's nominal risk: eigenvalues (H + 1,), eigenvectors in columns, and the gradient."""

    values: Floats
    vectors: Floats
    gradient: Floats

    def directions(self, ridge: float) -> _Directions:
        """With a penalty of ``ridge`` times the mean eigenvalue."""
        penalty = ridge * max(float(self.values.mean()), np.finfo(np.float64).tiny)
        kept = self.values > _LEFT_OUT * penalty
        basis = self.vectors[:, kept] / np.sqrt(self.values[kept] + penalty)
        return _Directions(basis, self.gradient @ basis, penalty / (self.values[kept] + penalty))


@dataclass(frozen=True)
class LastLayer:
    """What the last layers of M trained networks can change by, and how much the nominal weights hold them; by `of`.

    Attributes
    ----------
    ridge:
        The penalty, of the mean eigenvalue of the Hessian.
    explained:
        The share of the pilots' mean squared difference from their members that last layers explain; NaN without any.
    """

    model: Ensemble
    loss: Loss
    members: tuple[_Directions, ...]
    ridge: float
    explained: float

    @classmethod
    def of(
        cls, model: Ensemble, inputs: Inputs, weights: tuple[ArrayLike, ArrayLike], loss: Loss, *, members: int
    ) -> LastLayer:
        """The networks of a fit, and its class weights (N,) or (networks, N), multiplicities included.

        The first ``members`` networks are the nominal ones; those behind them are pilots, which take turns at them.
        Where last layers explain less than a quarter of the pilots, which are mostly noise of training then, it is
        logged as information.

        Raises
        ------
        TypeError
            for networks without a last layer that is known: trees, transformers and users' modules.
        """
        nominal = model.part(0, members)
        shares = _shares(weights[0], model.networks, len(inputs)), _shares(weights[1], model.networks, len(inputs))
        hessians = _hessians(nominal, inputs, shares, loss)
        pilots = model.networks - members
        if not pilots:
            return cls(nominal, loss, tuple(h.directions(_RIDGE) for h in hessians), _RIDGE, np.nan)
        own = np.tile(np.arange(pilots) % members, len(_RIDGES))
        tried = [hessians[m].directions(ridge) for m, ridge in zip(own, np.repeat(_RIDGES, pilots), strict=True)]
        again = tuple(np.tile(share[members:], (len(_RIDGES), 1)) for share in shares)
        found = _refitted(nominal, inputs, (again[0], again[1]), loss, own, tried).log(inputs)
        size = np.abs(shares[0][0]) + np.abs(shares[1][0])
        trained, before = model.part(members, model.networks).log(inputs), nominal.log(inputs)[own[:pilots]]
        left = ((found.reshape(len(_RIDGES), pilots, -1) - trained) ** 2 @ size).sum(1)
        best = int(np.argmin(left))
        explained = float(1 - left[best] / ((before - trained) ** 2 @ size).sum())
        if explained < _LITTLE:
            _log.info(
                "last layers explain %.0f%% of what %d trained replicas differ by from the nominal networks: the rest "
                "is noise of training, which members show, or is lost; a few trained replicas tell which",
                100 * explained, pilots,
            )  # fmt: skip
        ridge = float(_RIDGES[best])
        return cls(nominal, loss, tuple(h.directions(ridge) for h in hessians), ridge, explained)

    def refit(self, inputs: Inputs, weights: tuple[ArrayLike, ArrayLike], own: ArrayLike) -> Heads:
        """Networks for the class weights (K, N), multiplicities included; ``own`` (K,) says whose hidden layers.

        Raises
        ------
        NotConverged
            where Newton's method does not end: the weights are too far from the nominal ones.
        """
        own = np.asarray(own, np.int64)
        shares = _shares(weights[0], len(own), len(inputs)), _shares(weights[1], len(own), len(inputs))
        return _refitted(self.model, inputs, shares, self.loss, own, [self.members[m] for m in own])


def _refitted(
    model: Ensemble, inputs: Inputs, shares: tuple[Floats, Floats], loss: Loss, own: Ints, directions: list[_Directions]
) -> Heads:
    """Each network's last layer at the minimum of its risk, in its own directions."""
    searches = [_Search(d, np.zeros(len(d.penalty))) for d in directions]
    active, (used, place) = list(range(len(own))), np.unique(own, return_inverse=True)
    pieces = _pieces(model.select(used), inputs)
    for _ in range(_PASSES):
        for k, total in _sums(pieces, shares, loss, place, searches, active).items():
            searches[k].proceed(total)
        active = [k for k in active if not searches[k].done]
        if not active:
            return Heads(model, own, np.stack([s.directions.basis @ s.delta for s in searches]))
    raise NotConverged(
        f"last layer: {len(active)} of {len(own)} replicas did not converge in {_PASSES} passes; their weights are too "
        f"far from the nominal ones, train them instead"
    )


def _hessians(model: Ensemble, inputs: Inputs, shares: tuple[Floats, Floats], loss: Loss) -> list[_Hessian]:
    slopes, (one, zero) = derivatives(loss), shares
    width = 1 + model.stack.last_layer(model.state)[0].shape[-1]
    sums = [_Sums.zeros(width) for _ in range(model.networks)]
    for rows, f, phi in model.hidden(inputs):
        for member, total in enumerate(sums):
            w1, w0 = one[member, rows], zero[member, rows]
            value, first, _ = slopes(f[member], w1, w0)
            _, _, second = slopes(f[member], np.abs(w1), np.abs(w0))  # positive with any signs
            total.add(phi[member], value, first, second)
    return [_Hessian(*np.linalg.eigh(total.hessian), total.gradient) for total in sums]


@dataclass(frozen=True)
class _Pieces:
    """Hidden layers that are evaluated again at each pass."""

    model: Ensemble
    inputs: Inputs

    def __iter__(self) -> Iterator[Piece]:
        return self.model.hidden(self.inputs)


def _pieces(model: Ensemble, inputs: Inputs) -> Iterable[Piece]:
    """The same at each pass, from memory where they are small."""
    size = 8 * len(inputs) * model.networks * model.stack.last_layer(model.state)[0].shape[-1]
    return list(model.hidden(inputs)) if size < _KEPT else _Pieces(model, inputs)


def _sums(
    pieces: Iterable[Piece], shares: tuple[Floats, Floats], loss: Loss, own: Ints, searches: list[_Search],
    active: list[int],
) -> dict[int, _Sums]:  # fmt: skip
    """Risk, gradient and Hessian of the replicas that are still on their way."""
    slopes, (one, zero) = derivatives(loss), shares
    sums = {k: _Sums.zeros(len(searches[k].delta)) for k in active}
    for rows, f, phi in pieces:
        projected: dict[int, Floats] = {}
        for k in active:
            m, directions = int(own[k]), searches[k].directions
            if id(directions) not in projected:
                projected[id(directions)] = phi[m] @ directions.basis
            at = projected[id(directions)]
            sums[k].add(at, *slopes(f[m] + at @ searches[k].delta, one[k, rows], zero[k, rows]))
    return sums


@dataclass
class _Sums:
    """Sums over rows of a risk, its gradient and its Hessian."""

    risk: float
    gradient: Floats
    hessian: Floats

    @classmethod
    def zeros(cls, width: int) -> _Sums:
        return cls(0.0, np.zeros(width), np.zeros((width, width)))

    def add(self, phi: Floats, value: Floats, first: Floats, second: Floats) -> None:
        """Rows phi (n, r), with the loss and its derivatives (n,)."""
        self.risk += float(value.sum())
        self.gradient += first @ phi
        self.hessian += (phi * second[:, None]).T @ phi


@dataclass
class _Search:
    """Newton's method for one replica, with halved steps where the penalised risk rises."""

    directions: _Directions
    delta: Floats
    done: bool = False
    best: float = np.inf
    step: Floats = field(default_factory=lambda: np.zeros(0))

    def proceed(self, sums: _Sums) -> None:
        """Take the next step, given the sums at ``delta``."""
        gradient, penalty = self.directions.gradient, self.directions.penalty
        risk = float(sums.risk - gradient @ self.delta + 0.5 * penalty @ self.delta**2)
        slope = sums.gradient - gradient + penalty * self.delta
        if not risk <= self.best + _DECREMENT:  # also where it is not finite
            self.step = self.step / 2
            self.delta = self.delta - self.step
            return
        self.best = risk
        value, vector = np.linalg.eigh(sums.hessian + np.diag(penalty))
        # signed weights can bend the risk downwards; the absolute value descends there too
        self.step = -vector @ ((vector.T @ slope) / np.maximum(np.abs(value), 0.1))
        self.delta = self.delta + self.step
        self.done = bool(-0.5 * slope @ self.step < _DECREMENT)


def _shares(weight: ArrayLike, networks: int, rows: int) -> Floats:
    """Weights (networks, rows), each network's divided by their sum."""
    found = np.broadcast_to(np.asarray(weight, np.float64), (networks, rows))
    return np.asarray(found / found.sum(1, keepdims=True))
