r"""The last layer of trained networks, fitted anew to other weights of the same events.

A bootstrap replica, or a systematic variation, changes the weights of a fit a little, and its answer with them.  A
network f(x) = a . h(x) + b whose last hidden layer h was learned from the nominal weights need not be trained again:
its last layer alone is fitted to the replica's weights, by Newton's method, to the minimum over :math:`\delta` of

.. math:: R_k(f + \delta \cdot \phi) - g \cdot \delta + \tfrac{\lambda}{2} |\delta|^2, \qquad \phi = (h, 1),

with the replica's risk R_k and the gradient g of the nominal risk at :math:`\delta = 0`, which training has left:
nominal weights give back the nominal network.  The penalty stands for the directions in which a network that is
trained for a finite time does not move, :math:`\lambda = 10^{-3}` of the mean eigenvalue of the Hessian of the nominal
risk; directions whose eigenvalue is below a hundredth of :math:`\lambda` are left out.

The cost of a replica is that of a few passes over a matrix (events, directions), a handful of columns where x has one
dimension, some fifty where it has four, instead of a training.  What is lost is the noise of training anew (initial
weights, order of batches), which is small where the schedule runs to its end; the members of the nominal fit show it.
How well replicas made so agree with trained ones is measured in docs/performance.md.

Sources: the infinitesimal jackknife, Jaeckel (Bell Labs memorandum MM 72-1215-11, 1972), for networks Koh, Liang,
arXiv 1703.04730; last layers as generalised linear models, Kristiadi, Hein, Hennig, arXiv 2002.10118.
"""

from __future__ import annotations

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

_RIDGE = 1e-3  # of the mean eigenvalue
_LEFT_OUT = 1e-2  # of the penalty: such a direction would keep 1% of its response
_DECREMENT = 1e-10  # of the mean loss; sampling noise moves it by some (directions) / (events)
_PASSES = 60


@dataclass(frozen=True)
class _Directions:
    """Of one member: ``basis`` (H + 1, r), in which Hessian plus penalty is 1; ``gradient`` and ``penalty`` (r,)."""

    basis: Floats
    gradient: Floats
    penalty: Floats


@dataclass(frozen=True)
class LastLayer:
    """What the last layers of M trained networks can change by, and how much the nominal weights hold them; by `of`."""

    model: Ensemble
    loss: Loss
    members: tuple[_Directions, ...]

    @classmethod
    def of(cls, model: Ensemble, inputs: Inputs, weights: tuple[ArrayLike, ArrayLike], loss: Loss) -> LastLayer:
        """The networks of a fit, and its class weights (N,) or (M, N), multiplicities included.

        Raises
        ------
        TypeError
            for networks without a last layer that is known: trees, transformers and users' modules.
        """
        slopes = derivatives(loss)
        one, zero = (_shares(w, model.networks, len(inputs)) for w in weights)
        width = 1 + model.stack.last_layer(model.state)[0].shape[-1]
        sums = [_Sums.zeros(width) for _ in range(model.networks)]
        for rows, f, phi in model.hidden(inputs):
            for member, total in enumerate(sums):
                w1, w0 = one[member, rows], zero[member, rows]
                value, first, _ = slopes(f[member], w1, w0)
                _, _, second = slopes(f[member], np.abs(w1), np.abs(w0))  # positive with any signs
                total.add(phi[member], value, first, second)
        return cls(model, loss, tuple(_directions(total) for total in sums))

    def refit(self, inputs: Inputs, weights: tuple[ArrayLike, ArrayLike], own: ArrayLike) -> Heads:
        """Networks for the class weights (K, N), multiplicities included; ``own`` (K,) says whose hidden layers.

        Raises
        ------
        NotConverged
            where Newton's method does not end: the weights are too far from the nominal ones.
        """
        own = np.asarray(own, np.int64)
        shares = _shares(weights[0], len(own), len(inputs)), _shares(weights[1], len(own), len(inputs))
        searches = [_Search(self.members[m], np.zeros(len(self.members[m].penalty))) for m in own]
        active = list(range(len(own)))
        for _ in range(_PASSES):
            for k, total in self._sums(inputs, shares, own, searches, active).items():
                searches[k].proceed(total)
            active = [k for k in active if not searches[k].done]
            if not active:
                break
        else:
            raise NotConverged(
                f"last layer: {len(active)} of {len(own)} replicas did not converge in {_PASSES} passes; their weights "
                f"are too far from the nominal ones, train them instead"
            )
        shift = np.stack([s.directions.basis @ s.delta for s in searches])
        return Heads(self.model, own, shift)

    def _sums(
        self, inputs: Inputs, shares: tuple[Floats, Floats], own: Ints, searches: list[_Search], active: list[int]
    ) -> dict[int, _Sums]:
        """Risk, gradient and Hessian of the replicas that are still on their way."""
        slopes, (one, zero) = derivatives(self.loss), shares
        sums = {k: _Sums.zeros(len(searches[k].delta)) for k in active}
        for rows, f, phi in self.model.hidden(inputs):
            projected = {m: phi[m] @ self.members[m].basis for m in {int(own[k]) for k in active}}
            for k in active:
                m = int(own[k])
                at = f[m] + projected[m] @ searches[k].delta
                sums[k].add(projected[m], *slopes(at, one[k, rows], zero[k, rows]))
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


def _directions(total: _Sums) -> _Directions:
    value, vector = np.linalg.eigh(total.hessian)
    penalty = _RIDGE * max(float(value.mean()), np.finfo(np.float64).tiny)
    kept = value > _LEFT_OUT * penalty
    basis = vector[:, kept] / np.sqrt(value[kept] + penalty)
    return _Directions(basis, total.gradient @ basis, penalty / (value[kept] + penalty))


def _shares(weight: ArrayLike, networks: int, rows: int) -> Floats:
    """Weights (networks, rows), each network's divided by their sum."""
    found = np.broadcast_to(np.asarray(weight, np.float64), (networks, rows))
    return np.asarray(found / found.sum(1, keepdims=True))
