"""Parameters theta: their names and range, and event weights that are a function of them.

A `WeightFunction` is what a simulator with reweighting gives: the weight w_i(theta) of each event, differentiable in
theta.  One sample then stands for the density p(x | theta) of every theta at once, each event with the joint ratio and
the joint score

    r_i(theta) = w_i(theta) / W(theta) * W(ref) / w_i(ref),     t_i(theta) = grad log w_i(theta) - grad log W(theta),

W(theta) being the sum of the weights, so that both are of normalised densities.
"""

from __future__ import annotations

import logging
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
import torch.quasirandom
from numpy.typing import ArrayLike, NDArray
from torch import Tensor

from .. import hashing
from ..errors import check_finite, missing
from ..events import Events

__all__ = ["Parameters", "WeightFunction"]

_log = logging.getLogger("nuinfer")

Floats = NDArray[np.float64]

_LEAST = 8  # points in a box: fewer do not show a function of theta
_EDGE = 0.01  # of the range in training: so far beyond it theta counts as within

#: ``weight(events, theta)``: theta (T, D) in float64 -> (T, N), the weight of each event at each theta, made of torch
#: operations on ``theta``.
WeightFunction = Callable[[Events, Tensor], Tensor]

#: A box, name -> (low, high), or points (M, D) that were drawn from a prior.
Prior = Mapping[str, tuple[float, float]] | ArrayLike


@dataclass(frozen=True, eq=False)
class Parameters:
    """Names and range of theta in training, and the units in which a network sees it.

    Attributes
    ----------
    names:
        Of the T parameters, in order.
    centre, scale:
        Mean and standard deviation (T,) in training: a network sees (theta - centre) / scale.
    low, high:
        Least and largest values (T,) in training; those of the prior's box where there is one.
    """

    names: tuple[str, ...]
    centre: Floats
    scale: Floats
    low: Floats
    high: Floats
    _said: list[bool] = field(default_factory=list, init=False, repr=False)

    @classmethod
    def of(cls, names: Sequence[str], values: Floats, box: tuple[Floats, Floats] | None = None) -> Parameters:
        """Those of training values (M, T), or of the ``box`` that they fill; ``ValueError`` where one does not vary."""
        scale = values.std(0)
        for name, s, column in zip(names, scale, values.T, strict=True):
            if not s > 1e-12 * np.abs(column).max():
                raise ValueError(f"theta: expected values of {name!r} that differ, found {column[0]:g} in all events; "
                                 f"a parameter that does not vary is none")  # fmt: skip
        low, high = (values.min(0), values.max(0)) if box is None else box
        return cls(tuple(names), values.mean(0), scale, low, high)

    def standard(self, theta: Floats) -> Floats:
        """(theta - centre) / scale."""
        return np.asarray((theta - self.centre) / self.scale)

    def read(self, theta: Mapping[str, Any] | ArrayLike, rows: int) -> Floats:
        """Theta (rows, T) for so many events, with a warning where it is outside of the training's range."""
        values = points(theta, self.names, rows)
        self._warn(values)
        return values

    def _warn(self, values: Floats) -> bool:
        """Log where theta (N, T) is outside of the range in training, and say whether it is."""
        edge = _EDGE * (self.high - self.low)
        outside = (values < self.low - edge) | (values > self.high + edge)
        if not outside.any():
            return False
        j = int(np.argmax(outside.any(0)))
        _log.warning(
            "theta: %r = %.6g is outside of the range in training, %.6g to %.6g; the ratio is extrapolated there",
            self.names[j], values[outside[:, j], j][0], self.low[j], self.high[j],
        )  # fmt: skip
        return True

    def _warn_once(self, theta: Tensor) -> None:
        """The same of a tensor, the first time only: a minimiser evaluates it hundreds of times."""
        if not self._said and self._warn(np.atleast_2d(theta.cpu().double().numpy())):
            self._said.append(True)

    def tensor(self, theta: Tensor) -> Tensor:
        """The standardised theta (..., T) of a tensor, in float64 and differentiable."""
        check_tensor(theta, self.names)
        self._warn_once(theta.detach())
        return (theta.double() - theta.new_tensor(self.centre, dtype=torch.float64)) / theta.new_tensor(
            self.scale, dtype=torch.float64
        )

    def arrays(self) -> dict[str, Floats]:
        """Names and arrays to save."""
        return {f"theta.{name}": getattr(self, name) for name in ("centre", "scale", "low", "high")}

    @classmethod
    def of_arrays(cls, names: Sequence[str], arrays: Mapping[str, NDArray[Any]]) -> Parameters:
        """The inverse of `arrays`."""
        return cls(tuple(names), *(arrays[f"theta.{name}"] for name in ("centre", "scale", "low", "high")))

    def __repr__(self) -> str:
        ranges = zip(self.names, self.low, self.high, strict=True)
        return "Parameters(" + ", ".join(f"{name} in [{low:.4g}, {high:.4g}]" for name, low, high in ranges) + ")"


def check_tensor(theta: Tensor, names: tuple[str, ...], rows: int | None = None) -> None:
    """``ValueError`` for a theta that is neither (T,) nor (B, T), with B the number of ``rows`` where that is known."""
    fits = theta.ndim in (1, 2) and theta.shape[-1] == len(names)
    if not fits or (theta.ndim == 2 and rows not in (None, len(theta))):
        size = "B" if rows is None else rows
        raise ValueError(f"theta: expected a tensor ({len(names)},) or ({size}, {len(names)}) of {', '.join(names)}, "
                         f"found {tuple(theta.shape)}")  # fmt: skip


def names_of(theta: Sequence[str]) -> tuple[str, ...]:
    """The checked names of parameters."""
    if isinstance(theta, str):
        raise TypeError(f"theta: expected a list of names, found the single string {theta!r}; write [{theta!r}]")
    if not theta or len(set(theta)) < len(theta):
        raise ValueError(f"theta: expected at least one name, each once, found {list(theta)}")
    return tuple(theta)


def points(theta: Mapping[str, Any] | ArrayLike, names: tuple[str, ...], rows: int) -> Floats:
    """Theta (rows, T) from a mapping of numbers or columns (rows,), a vector (T,), or a matrix (rows, T).

    Raises
    ------
    KeyError, ValueError
        for names that are missing or unknown, other shapes, or values that are not finite.
    """
    if isinstance(theta, Mapping):
        for name in names:
            if name not in theta:
                raise missing("parameter", name, theta)
        for name in theta:
            if name not in names:
                raise missing("parameter", name, names)
        columns = [np.asarray(theta[name], np.float64) for name in names]
        shapes = {column.shape for column in columns}
        if not shapes <= {(), (rows,)}:
            raise ValueError(f"theta: expected a number or {rows} of them for each parameter, found shapes {shapes}")
        values = np.stack([np.broadcast_to(column, (rows,)) for column in columns], 1)
    else:
        array = np.asarray(theta, np.float64)
        if array.ndim == 0 and len(names) == 1:
            array = array[None]
        if array.shape not in ((len(names),), (rows, len(names))):
            raise ValueError(
                f"theta: expected a mapping, a vector ({len(names)},) of {', '.join(names)}, or one row for each "
                f"event, ({rows}, {len(names)}), found an array {array.shape}"
            )
        values = np.broadcast_to(array, (rows, len(names)))
    check_finite("theta", values)
    return values


def columns_of(what: str, names: Sequence[str]) -> tuple[str, ...]:
    """The names of an option's columns; ``TypeError`` for a single string."""
    if isinstance(names, str):
        raise TypeError(f"{what}: expected a list of columns, found the single string {names!r}; write [{names!r}]")
    return tuple(names)


def column_values(what: str, events: Events, names: Sequence[str]) -> Floats:
    """The finite flat columns of these names as a matrix (N, T)."""
    values = np.stack([events.flat(name).astype(np.float64) for name in names], 1)
    for name, column in zip(names, values.T, strict=True):
        check_finite(f"{what}: column {name!r}", column)
    return values


# -- weights that are functions of theta -------------------------------------------------------------------------------


def box_of(prior: Mapping[str, tuple[float, float]], names: tuple[str, ...]) -> tuple[Floats, Floats]:
    """Its lower and upper corner (T,)."""
    low, high = np.array([prior[name] for name in names], np.float64).T
    return low, high


def drawn_from(prior: Prior, names: tuple[str, ...], count: int, seed: int) -> Floats:
    """Points (M, T): ``count`` of a scrambled Sobol sequence in a box, or those that are given."""
    if not isinstance(prior, Mapping):
        values = np.asarray(prior, np.float64)
        if values.ndim != 2 or values.shape[1] != len(names) or len(values) < 2:
            raise ValueError(f"prior: expected a box, or points (M, {len(names)}) with M of at least 2, found "
                             f"{values.shape}")  # fmt: skip
        check_finite("prior", values)
        return values
    for name in names:
        if name not in prior:
            raise missing("parameter in the prior", name, prior)
    for name in prior:
        if name not in names:
            raise missing("parameter", name, names)
    if not isinstance(count, int | np.integer) or count < _LEAST:
        raise ValueError(f"points: expected a whole number of at least {_LEAST} that fill the prior's box, found "
                         f"{count!r}")  # fmt: skip
    low, high = box_of(prior, names)
    if not (np.isfinite(low) & np.isfinite(high) & (low < high)).all():
        raise ValueError(f"prior: expected finite low < high for each parameter, found {dict(prior)}")
    engine = torch.quasirandom.SobolEngine(len(names), scramble=True, seed=hashing.salt(seed, "prior") >> 1)
    return np.asarray(low + (high - low) * engine.draw(int(count), dtype=torch.float64).numpy())


def weights_at(weight: WeightFunction, events: Events, theta: Floats) -> Tensor:
    """The weights (N,) at one theta (T,), in float64."""
    with torch.no_grad():
        return _one(weight, events, torch.from_numpy(theta[None]))


def with_gradient(weight: WeightFunction, events: Events, theta: Floats) -> tuple[Tensor, Tensor]:
    """The weights (N,) at one theta (T,), and their gradient (N, T).

    v -> sum_i v_i grad w_i is linear in v, so that its gradient in v has each event's derivative: one pass for each
    parameter.  (Torch's forward mode is ten times slower, for its operations in Python.)
    """
    at = torch.tensor(theta[None], requires_grad=True)
    with torch.enable_grad():
        value = _one(weight, events, at)
        if not value.requires_grad:
            raise ValueError("weight: expected a differentiable function of theta, found one whose result has no "
                             "gradient; make it of torch operations on theta")  # fmt: skip
        probe = torch.ones_like(value, requires_grad=True)
        (total,) = torch.autograd.grad(value, at, probe, create_graph=True)
        parts = [torch.autograd.grad(part, probe, retain_graph=True)[0] for part in total[0]]
    return value.detach(), torch.stack(parts, 1)


def _one(weight: WeightFunction, events: Events, theta: Tensor) -> Tensor:
    with warnings.catch_warnings():  # the columns of Events are read-only, and theirs is no danger here
        warnings.filterwarnings("ignore", "The given NumPy array is not writable")
        found = weight(events, theta)
    if not isinstance(found, Tensor):
        raise TypeError(f"weight: expected a function that returns a torch tensor (T, N), found {type(found).__name__}")
    if tuple(found.shape) != (len(theta), len(events)):
        raise ValueError(
            f"weight: expected the shape (T, N) = {(len(theta), len(events))} for theta {tuple(theta.shape)} and "
            f"{len(events)} events, found {tuple(found.shape)}"
        )
    return found[0].double()


def checked_total(values: Tensor, at: str, positive: bool) -> float:
    """The sum of the weights (N,) at one theta; ``ValueError`` where they are not what a ratio can be made of."""
    check_finite(f"weight at {at}", values.numpy())
    total = float(values.sum())
    if not total > 0:
        raise ValueError(f"weight at {at}: expected a positive sum over the events, found {total:g}")
    bad = torch.nonzero(values <= 0) if positive else values.new_empty(0)
    if len(bad):
        row = int(bad[0])
        raise ValueError(f"weight at {at}: expected positive weights for a loss with the joint ratio, found "
                         f"{float(values[row]):g} at row {row} and {len(bad)} such rows; use 'bce'")  # fmt: skip
    return total


def shown(names: tuple[str, ...], theta: Floats) -> str:
    """``a = 1, b = 2``."""
    return ", ".join(f"{name} = {value:.6g}" for name, value in zip(names, theta, strict=True))
