"""Between this library, sbi and ArviZ: posteriors that either side's diagnostics take.

- `to_sbi`: a posterior of this library as one of sbi's, for ``run_sbc``, ``run_tarp``, ``check_sbc``, ``LC2ST``,
  ``pairplot`` and whatever else takes a posterior.
- `from_sbi`: one of sbi's as a `Posterior`, for `nuinfer.diagnostics`, the plots and the confidence sets.
- `to_arviz`: draws as ArviZ's InferenceData, where arviz is installed.

In sbi an observation is a vector.  That of a posterior with flat features are these columns, in their order; where
there are clouds, x is a row number of ``observations``.

Source: Boelts, Deistler et al., arXiv 2411.17337 (the sbi package).
"""

from __future__ import annotations

import importlib
import warnings
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from torch import Tensor

from ..density.flow_density import check_draws
from ..events import Events
from .base import Posterior, thetas_of
from .priors import Prior, PriorLike

__all__ = ["SbiPosterior", "from_sbi", "to_arviz", "to_sbi"]

Floats = NDArray[np.float64]
Singles = NDArray[np.float32]


def to_sbi(posterior: Posterior, columns: Sequence[str] | None = None, *, observations: Events | None = None) -> Any:
    """A posterior of this library as an ``sbi.inference.posteriors.base_posterior.NeuralPosterior``.

    Its draws come from torch's global generator by way of a seed, as sbi's do: ``torch.manual_seed`` repeats them.

    sbi works with float32: draws and log densities are rounded to it, to 7 digits, and what comes in is float32 too.
    Rounding may put theta upon or beyond a bound of the prior, such as 1.2, which is 1.20000005 in float32.  Draws are
    rounded to the inside, and ``log_prob`` takes the bound in float32 for the last point inside: only there it is not
    -inf where that of the posterior itself is.  Parameters far from 0 beside their width (a time of day in ns) lose
    digits: shift and scale them before.

    Parameters
    ----------
    posterior:
        Any.
    columns:
        The flat columns that a vector x stands for; those of ``features`` where the posterior has them.
    observations:
        Where there are clouds: N observations, of which x (B, 1) holds row numbers.

    Raises
    ------
    TypeError
        for a posterior of clouds without ``observations``.
    """
    if observations is None:
        columns = _flat_columns(posterior) if columns is None else tuple(columns)
    return _wrapper()(posterior, columns, observations)


def _flat_columns(posterior: Posterior) -> tuple[str, ...]:
    features = getattr(posterior, "features", None)
    if features is None:
        raise TypeError(f"columns: expected the columns that sbi's x stands for, found none, and "
                        f"{type(posterior).__name__} does not tell them; give columns=")  # fmt: skip
    if features.clouds:
        raise TypeError(f"observations: expected the events that x numbers, since the clouds "
                        f"{', '.join(name for name, _ in features.clouds)} are no vectors; found none")  # fmt: skip
    return tuple(features.flat)


def _wrapper() -> Any:
    """The class, made when it is first needed: sbi is imported nowhere else."""
    from sbi.inference.posteriors.base_posterior import NeuralPosterior as Base  # type: ignore[import-untyped]

    class Handed(Base):  # type: ignore[misc]
        """A posterior of nuinfer."""

        def __init__(self, posterior: Posterior, columns: tuple[str, ...] | None, observations: Events | None) -> None:
            self.inner, self.columns, self.observations = posterior, columns, observations
            self.edges = _Edges.of(posterior.prior)
            super().__init__(lambda theta, x: self.log_prob(theta, x), device="cpu")

        def sample(self, sample_shape: Any = (), x: Any = None, show_progress_bars: bool = True, **_: Any) -> Tensor:
            """Draws (*sample_shape, P) for one x."""
            return self.sample_batched(sample_shape, self._x_else_default_x(x), show_progress_bars).squeeze(-2)

        def sample_batched(self, sample_shape: Any, x: Tensor, show_progress_bars: bool = True, **_: Any) -> Tensor:
            """Draws (*sample_shape, B, P) for each of B x."""
            shape = torch.Size(sample_shape)
            seed = int(torch.randint(0, 2**62, ()).item())
            drawn = self.inner.draws(shape.numel(), self._events(x), seed=seed)
            return self.edges.rounded(drawn).transpose(0, 1).reshape(*shape, *drawn.shape[::2])

        def log_prob(self, theta: Tensor, x: Tensor | None = None, **_: Any) -> Tensor:
            """Log densities (M,) of theta (M, P) at one x."""
            points = self.edges.inside(torch.atleast_2d(theta)[None])
            return torch.from_numpy(self.inner.log_probs(points, self._events(self._x_else_default_x(x)))[0]).float()

        def log_prob_batched(self, theta: Tensor, x: Tensor, **_: Any) -> Tensor:
            """Log densities (*, B) of theta (*, B, P), one x for each of the last B."""
            points = self.edges.inside(theta.reshape(-1, *theta.shape[-2:]).transpose(0, 1))
            logs = torch.from_numpy(self.inner.log_probs(points, self._events(x))).float()
            return logs.T.reshape(theta.shape[:-1])

        def _events(self, x: Tensor) -> Events:
            rows = torch.atleast_2d(torch.as_tensor(x)).double().numpy()
            if self.observations is not None:
                return _numbered(self.observations, rows)
            if rows.ndim != 2 or rows.shape[1] != len(self.columns or ()):
                raise ValueError(f"x: expected (B, {len(self.columns or ())}) for {', '.join(self.columns or ())}, "
                                 f"found {tuple(rows.shape)}")  # fmt: skip
            return Events(dict(zip(self.columns or (), rows.T.copy(), strict=True)))

    return Handed


class _Edges(NamedTuple):
    """The first and the last number (P,) inside of the prior's bounds, of float64 and of float32."""

    low: Floats
    high: Floats
    low32: Singles
    high32: Singles

    @classmethod
    def of(cls, prior: Prior) -> _Edges:
        """Those of a prior, infinite where it has no bound."""
        low = np.array([-np.inf if a is None else a for a, _ in prior.bounds], np.float64)
        high = np.array([np.inf if b is None else b for _, b in prior.bounds], np.float64)
        up, down = np.nextafter(low, np.inf), np.nextafter(high, -np.inf)
        first, last = np.where(np.isfinite(low), up, low), np.where(np.isfinite(high), down, high)
        low32, high32 = first.astype(np.float32), last.astype(np.float32)
        low32 = np.where(low32 < first, np.nextafter(low32, np.float32(np.inf)), low32)
        high32 = np.where(high32 > last, np.nextafter(high32, np.float32(-np.inf)), high32)
        return cls(first, last, low32, high32)

    def rounded(self, theta: Floats) -> Tensor:
        """Theta in float32, still inside."""
        return torch.from_numpy(np.clip(theta.astype(np.float32), self.low32, self.high32))

    def inside(self, theta: Tensor) -> Floats:
        """Theta in float64, that which float32 cannot tell from a bound moved inside of it."""
        points = theta.detach().double().numpy()
        single = points.astype(np.float32)
        points = np.where(single == self.low.astype(np.float32), np.maximum(points, self.low), points)
        return np.asarray(np.where(single == self.high.astype(np.float32), np.minimum(points, self.high), points))


def _numbered(observations: Events, rows: Floats) -> Events:
    numbers = rows[:, 0]
    if (
        rows.shape[1] != 1
        or (numbers != np.round(numbers)).any()
        or not ((numbers >= 0) & (numbers < len(observations))).all()
    ):
        raise ValueError(f"x: expected row numbers (B, 1) of the {len(observations)} observations, found "
                         f"{rows[:3].tolist()}")  # fmt: skip
    return observations.select(numbers.astype(np.int64))


@dataclass(frozen=True, eq=False)
class SbiPosterior(Posterior):
    """A posterior of sbi as one of this library; made by `from_sbi`.

    Attributes
    ----------
    inner:
        The posterior of sbi.
    prior:
        Names and density of theta.
    columns:
        The flat columns that make the vector x, in its order.
    """

    inner: Any
    prior: Prior
    columns: tuple[str, ...]
    _shared: dict[str, Any] = field(default_factory=dict, repr=False)

    def draws(self, n: int, observations: Events, *, seed: int = 0) -> Floats:
        """``n`` draws (N, n, P) for each of N observations; torch's global generator is left as it was."""
        check_draws(n)
        x = self._x(observations)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            if len(x) == 1:
                drawn = self.inner.sample((n,), x=x, show_progress_bars=False)[:, None]
            else:
                drawn = self.inner.sample_batched((n,), x=x, show_progress_bars=False)
        found: Floats = drawn.transpose(0, 1).double().numpy()
        return found

    def log_probs(self, theta: ArrayLike, observations: Events) -> Floats:
        """Log densities (N, M) of points (N, M, P), as sbi gives them, one observation after the other."""
        values = torch.from_numpy(thetas_of(theta, self.names, len(observations))).float()
        x = self._x(observations)
        each = [self.inner.log_prob(points, x=one[None]) for points, one in zip(values, x, strict=True)]
        found: Floats = torch.stack(each).detach().double().numpy()
        return found

    def _x(self, observations: Events) -> Tensor:
        return torch.from_numpy(np.stack([np.asarray(observations.flat(n), np.float32) for n in self.columns], 1))


def from_sbi(
    posterior: Any, prior: PriorLike, columns: Sequence[str], names: Sequence[str] | None = None
) -> SbiPosterior:
    """A posterior of sbi as one of this library.

    Parameters
    ----------
    posterior:
        What ``inference.build_posterior()`` gave.
    prior:
        The prior with names for its parameters, in the order of theta; ``names`` where it is a joint distribution.
    columns:
        The flat columns of an observation, in the order of x.

    Raises
    ------
    TypeError
        for something that does not sample.
    """
    if not hasattr(posterior, "sample") or not hasattr(posterior, "log_prob"):
        raise TypeError(f"posterior: expected one of sbi's, with sample and log_prob, found {type(posterior).__name__}")
    if isinstance(columns, str):
        raise TypeError(f"columns: expected a list of names, found the single string {columns!r}")
    return SbiPosterior(posterior, Prior.of(prior, names), tuple(columns))


def to_arviz(
    draws: Events | ArrayLike, names: Sequence[str] | None = None, *, observation: Events | None = None
) -> Any:
    """Draws as ArviZ's InferenceData (a DataTree from arviz 1 on).

    Parameters
    ----------
    draws:
        Events as `Posterior.sample` gives them, one chain; or an array (chains, n, P) or (n, P) with ``names``.
    observation:
        Its flat columns go into the group of observed data.

    Raises
    ------
    ModuleNotFoundError
        where arviz is not installed: the extra ``arviz``.
    """
    posterior = _chains(draws, names)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", FutureWarning)  # arviz 0.23 announces its next version at import
            arviz = importlib.import_module("arviz")
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError("to_arviz: expected the package arviz, found none; pip install 'nuinfer[arviz]'",
                                  name="arviz") from error  # fmt: skip
    groups: dict[str, Any] = {"posterior": posterior}
    if observation is not None:
        groups["observed_data"] = {name: observation[name] for name in observation.columns
                                   if isinstance(observation[name], np.ndarray)}  # fmt: skip
    if int(arviz.__version__.split(".")[0]) < 1:
        return arviz.from_dict(**groups)
    return arviz.from_dict(groups)


def _chains(draws: Events | ArrayLike, names: Sequence[str] | None) -> dict[str, Floats]:
    """Name -> (chains, n)."""
    if isinstance(draws, Events):
        return {name: np.asarray(draws.flat(name), np.float64)[None] for name in names or draws.columns}
    values = np.asarray(draws, np.float64)
    values = values[None] if values.ndim == 2 else values
    if names is None or values.ndim != 3 or values.shape[2] != len(names):
        raise ValueError(f"draws: expected (chains, n, P) or (n, P) and P names, found {np.shape(draws)} and {names}")
    return {name: values[..., i] for i, name in enumerate(names)}
