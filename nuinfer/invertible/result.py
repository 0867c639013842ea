"""The result of a fit: invertible networks that draw theta, predict y, and lie in one file."""

from __future__ import annotations

import math
import os
from dataclasses import asdict, dataclass
from typing import cast

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from torch import Tensor

from .. import hashing, store
from ..density.columns import Columns, refuse
from ..density.flow_density import check_draws
from ..ensemble import Ensemble
from ..events import Events
from ..nets import State
from ..resample import Resample
from ..train import History
from .coupling import Coupling, CouplingStack, Sizes
from .losses import Discrepancy, Likelihood, Loss, loss_of

__all__ = ["Invertible"]

Floats = NDArray[np.float64]

_PIECE = 1 << 14  # rows in one evaluation


@dataclass(frozen=True, eq=False)
class Invertible:
    """Fitted invertible networks; made by `fit_invertible`.

    Attributes
    ----------
    parameters, observations:
        Their columns, with bounds and scales.
    network, loss, sizes, padding_noise:
        What was asked for.
    residual:
        Root mean square (M,) of y minus its prediction, in standard deviations of y: it has to be small for the draws
        to be right.
    history:
        Risks per epoch and member; those of held-out rows have the full weight of lambda_theta from the first epoch.
    """

    parameters: Columns
    observations: Columns
    network: Coupling
    loss: Loss
    sizes: Sizes
    padding_noise: float
    residual: Floats
    model: Ensemble
    resample: Resample
    history: History
    sample_digest: str = ""

    @property
    def names(self) -> tuple[str, ...]:
        """Of the parameters."""
        return self.parameters.names

    def draws(self, n: int, observations: Events, *, seed: int = 0) -> Floats:
        """``n`` draws of theta for each of N observations (N, n, P), each of a member drawn at random.

        Raises
        ------
        ValueError
            for n below 1, or observations that are not finite or outside their bounds.
        KeyError, TypeError
            for observations without the columns of y.
        """
        check_draws(n)
        y, s = scaled(self.observations, observations), self.sizes
        rng = np.random.default_rng(hashing.salt(seed, "invertible sample"))
        member = rng.integers(0, self.resample.members, len(y) * n)
        start = rng.standard_normal((len(y) * n, s.total))
        sigma = self.loss.sigma if isinstance(self.loss, Likelihood) else 0.0
        start[:, : s.observations] = np.repeat(y, n, axis=0) + sigma * start[:, : s.observations]
        start[:, s.total - s.right :] *= self.padding_noise
        found = self._mapped(torch.from_numpy(start), member)[:, : s.parameters]
        values = self.parameters.inverse(found)
        return np.stack([values[name] for name in self.names], 1).reshape(len(y), n, s.parameters)

    def sample(self, n: int, observation: Events, *, seed: int = 0) -> Events:
        """``n`` draws of theta for one observation, as events with one column a parameter.

        Raises
        ------
        ValueError
            for n below 1, more or fewer than one observation, or one that `draws` refuses.
        """
        if len(observation) != 1:
            raise ValueError(f"observation: expected one, found {len(observation)} rows; draws(n, observations) takes "
                             f"several")  # fmt: skip
        drawn = self.draws(n, observation, seed=seed)[0]
        return Events(dict(zip(self.names, drawn.T.copy(), strict=True)))

    def forward(self, theta: Events) -> Floats:
        """The prediction of y (N, M), in its units: the mean over members, for theta (N rows with its columns).

        Raises
        ------
        ValueError
            for parameters that are not finite or outside their bounds; ``KeyError`` for missing ones.
        """
        return np.asarray(self._forward(torch.from_numpy(scaled(self.parameters, theta))).mean(0))

    def log_probs(self, theta: ArrayLike, observations: Events) -> Floats:
        """Log densities (N, M) of M points of theta (N, M, P) for each of N observations; -inf outside the bounds.

        Only of networks fitted by `Likelihood` and without padding.

        Raises
        ------
        TypeError
            for other networks: their draws have no density in closed form.
        """
        if not isinstance(self.loss, Likelihood) or self.sizes.left or self.sizes.right:
            raise TypeError(
                f"log_probs: expected a network fitted with loss=Likelihood() and without padding (as many parameters "
                f"as observed and latent numbers), found {self.loss} and {self.sizes}; use draws, or fit_density with "
                f"a condition, which has a density"
            )
        points, y = np.asarray(theta, np.float64), torch.from_numpy(scaled(self.observations, observations))
        if points.ndim != 3 or points.shape[0] != len(y) or points.shape[2] != len(self.names):
            raise ValueError(f"theta: expected ({len(y)}, M, {len(self.names)}), found {points.shape}")
        return np.asarray([self._log_prob(torch.from_numpy(p), own) for p, own in zip(points, y, strict=True)])

    @torch.no_grad()
    def _log_prob(self, points: Tensor, y: Tensor) -> Floats:
        """Log densities (M,) of points (M, P) for y (O,)."""
        inside, sigma = self.parameters.inside(points), cast(Likelihood, self.loss).sigma
        t, slope = self.parameters.forward(torch.where(inside[:, None], points, self.parameters.middle()))
        found, det = self._stack().there(self._double(), t.expand(self.resample.members, -1, -1))
        pulls = torch.cat([(found[..., : len(y)] - y) / sigma, found[..., len(y) :]], -1)
        log_normal = -0.5 * (pulls.square() + math.log(2 * math.pi)).sum(-1) - len(y) * math.log(sigma)
        logs = (log_normal + det).logsumexp(0) - math.log(self.resample.members) + slope
        return np.asarray(torch.where(inside, logs, -torch.inf).numpy())

    @torch.no_grad()
    def _forward(self, t: Tensor) -> Floats:
        """Each member's prediction (K, N, M) of standardised theta (N, P)."""
        state, s, pieces = self._double(), self.sizes, []
        for part in torch.cat([t, t.new_zeros(len(t), s.left)], 1).split(_PIECE):
            found, _ = self._stack().there(state, part.expand(self.resample.members, -1, -1))
            pieces.append(found[..., : s.observations])
        named = [self.observations.inverse(member) for member in torch.cat(pieces, 1)]
        return np.stack([np.stack([each[name] for name in self.observations.names], 1) for each in named])

    @torch.no_grad()
    def _mapped(self, start: Tensor, member: NDArray[np.int64]) -> Tensor:
        """The inverse (R, D) of rows (R, D), each by its member."""
        found, state = torch.empty_like(start), self._double()
        for k in np.unique(member):
            own = {name: tensor[k : k + 1] for name, tensor in state.items()}
            for rows in torch.from_numpy(np.flatnonzero(member == k)).split(_PIECE):
                found[rows] = self._stack().back(own, start[rows][None])[0]
        return found

    def _stack(self) -> CouplingStack:
        return cast(CouplingStack, self.model.stack)

    def _double(self) -> State:
        """The state in float64."""
        return {name: tensor.double() for name, tensor in self.model.state.items()}

    def __repr__(self) -> str:
        members = self.resample.members
        return (
            f"Invertible({self.network.blocks} blocks, {type(self.loss).__name__}, {members} "
            f"member{'s' if members > 1 else ''}, ({', '.join(self.names)}) <-> ({', '.join(self.observations.names)}, "
            f"{self.sizes.latent} latent); residual {np.array2string(self.residual, precision=3)})"
        )

    # -- files ---------------------------------------------------------------------------------------------------------

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write everything to one safetensors file, atomically."""
        spec = {
            "parameters": self.parameters.to_json(), "observations": self.observations.to_json(),
            "network": asdict(self.network), "loss": {"type": type(self.loss).__name__, **asdict(self.loss)},
            "sizes": list(self.sizes), "padding_noise": self.padding_noise, "resample": vars(self.resample),
            "sample": self.sample_digest,
        }  # fmt: skip
        model = store.under("model.", self.model.arrays())
        store.save(path, "invertible", spec, {**model, "residual": self.residual, **self.history.arrays()})

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> Invertible:
        """Read what `save` wrote.

        Raises
        ------
        CorruptFile
            for a file that is damaged; ``ValueError`` for one of another kind; ``FileNotFoundError`` for none.
        """
        spec, arrays = store.load(path, "invertible")
        network, loss, sizes = Coupling(**spec["network"]), loss_of(spec["loss"]), Sizes(*spec["sizes"])
        stack = CouplingStack(network, sizes, backward=isinstance(loss, Discrepancy))
        parts = store.within("model.", arrays)
        return cls(
            Columns.from_json(spec["parameters"]), Columns.from_json(spec["observations"]), network, loss, sizes,
            spec["padding_noise"], arrays["residual"], Ensemble.of_arrays(stack, parts), Resample(**spec["resample"]),
            History.of_arrays(arrays), spec["sample"],
        )  # fmt: skip


def scaled(columns: Columns, events: Events) -> Floats:
    """The standardised columns (N, D) of events; outside their bounds they are refused."""
    values = torch.from_numpy(columns.read(events))
    for part, v in zip(columns.parts, values.unbind(-1), strict=True):
        refuse(~part.inside(v).numpy(), f"column {part.name!r}: expected values in ({part.low}, {part.high})",
               v.numpy(), "select the events, or give other bounds")  # fmt: skip
    return columns.forward(values)[0].numpy()
