"""A prior and its restriction: named parameters, a density of blocks, draws, JSON."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from torch import Tensor
from torch import distributions as td

from .blocks import Block, Bound, blocks_by_name, blocks_of_joint
from .families import converted, core
from .sampling import PILOT, Floats, Inside, check_again, counted, held, rejection, seeded
from .supports import Joint

__all__ = ["Prior", "PriorLike", "Truncated"]

PriorLike: TypeAlias = "Prior | Mapping[str, tuple[float, float] | td.Distribution] | td.Distribution"

_FORMAT = 1


@dataclass(frozen=True, eq=False, repr=False)
class Prior:
    """The density of P named parameters; made by `Prior.of`.

    Attributes
    ----------
    names:
        Of the P parameters.
    bounds:
        The support of each, (low, high), None where it has no end.

    Examples
    --------
    >>> prior = Prior.of({"a": (0, 2), "b": td.Normal(0.0, 1.0)})
    >>> prior
    Prior(a ~ Uniform(0, 2), b ~ Normal(loc 0, scale 1))
    >>> prior.bounds
    ((0.0, 2.0), (None, None))
    >>> prior.sample(1000, seed=1).shape
    (1000, 2)
    >>> prior.log_prob([[1.0, 0.0], [3.0, 0.0]]).round(4).tolist()
    [-1.6121, -inf]
    """

    names: tuple[str, ...]
    bounds: tuple[Bound, ...]
    blocks: tuple[Block, ...]

    @classmethod
    def of(cls, prior: PriorLike, names: Sequence[str] | None = None) -> Prior:
        """The prior of a box, of distributions by name, or of one joint distribution.

        Parameters
        ----------
        prior:
            A mapping from names to (low, high) or to a distribution of one number; one ``torch`` distribution of P
            numbers, which takes ``names``; or a `Prior`, which is given back.
        names:
            Of the parameters, for a joint distribution, in its order.

        Raises
        ------
        TypeError
            for anything else: objects that are no ``torch.distributions.Distribution``.
        ValueError
            for an improper prior (infinite edges, a distribution that cannot be sampled, a density that does not
            integrate to 1), a box without a width, discrete parameters, a support that is no box, wrong names.
        """
        if isinstance(prior, (Prior, Mapping)):
            own = prior.names if isinstance(prior, Prior) else tuple(prior)
            if names is not None and tuple(names) != own:
                raise ValueError(f"names: expected {list(own)}, those of the prior, found {list(names)}; leave names= "
                                 f"out")  # fmt: skip
            return prior if isinstance(prior, Prior) else _joined(own, blocks_by_name(prior))
        if names is None or isinstance(names, str):
            raise ValueError(f"names: expected a list of the parameters' names for a joint {type(prior).__name__}, "
                             f"found {names!r}; Prior.of(distribution, names=[...])")  # fmt: skip
        return _joined(tuple(names), blocks_of_joint(prior))

    @property
    def dim(self) -> int:
        """The number of parameters P."""
        return len(self.names)

    def sample(self, n: int, *, seed: int) -> Floats:
        """``n`` draws (n, P), functions of the seed alone."""
        _check_number(n)
        with torch.no_grad(), seeded(seed, "prior"):
            parts = [block.sample(int(n)) for block in self.blocks]
        return np.asarray(torch.cat(parts, -1).numpy(), np.float64)

    def log_prob(self, theta: ArrayLike) -> Floats:
        r"""The log density (\*) of points (\*, P); -inf outside the support.

        Raises
        ------
        ValueError
            for points of another dimension, or NaN.
        """
        values = self._points(theta)
        with torch.no_grad():
            return np.asarray(self.tensor(torch.from_numpy(values)).numpy(), np.float64)

    def tensor(self, theta: Tensor) -> Tensor:
        r"""The same of tensors (\*, P), worked out in float64, given in theta's type; differentiable inside."""
        self._check_shape(theta.shape)
        parts = theta.to("cpu", torch.float64).split([block.width for block in self.blocks], -1)
        total = sum((b.log_prob(part) for b, part in zip(self.blocks, parts, strict=True)), torch.zeros(()))
        return torch.as_tensor(total).to(theta)

    def contains(self, theta: ArrayLike) -> NDArray[np.bool_]:
        r"""Whether points (\*, P) have a density above 0."""
        return np.asarray(self.log_prob(theta) > -np.inf)

    def events(self, theta: ArrayLike) -> dict[str, Floats]:
        """Points (n, P) as columns by name, for `nuinfer.Events`."""
        values = self._points(theta)
        if values.ndim != 2:
            raise ValueError(f"theta: expected (n, {self.dim}), found {values.shape}")
        return {name: np.ascontiguousarray(values[:, i]) for i, name in enumerate(self.names)}

    def restricted(self, inside: Inside, *, seed: int = 0, floor: float = 1e-3) -> Truncated:
        """The prior where ``inside(theta)``, (n, P) -> (n,) booleans, holds: see `Truncated`.

        Its acceptance is counted on 10,000 draws of ``seed``.

        Raises
        ------
        ValueError
            where the acceptance is below ``floor``, or ``inside`` gives no booleans (n,).
        """
        return _truncated(self, inside, seed, floor)

    def distribution(self) -> td.Distribution:
        """The prior as a ``torch`` distribution of (P,) in float32, which is what sbi takes."""
        if all(type(core(block.original)) is td.Uniform for block in self.blocks):
            low, high = (torch.tensor([b[i] for b in self.bounds], dtype=torch.float32) for i in (0, 1))
            return td.Independent(td.Uniform(low, high), 1)
        if len(self.blocks) == 1 and self.blocks[0].original.event_shape == (self.dim,):
            single: td.Distribution = converted(self.blocks[0].original, torch.float32)
            return single
        return Joint(self)

    def to_json(self) -> dict[str, Any]:
        """The prior as JSON; a distribution that is not a known one as ``"user"``, with a point to know it again by."""
        return {"format": _FORMAT, "names": list(self.names), "bounds": [list(b) for b in self.bounds],
                "blocks": [block.to_json() for block in self.blocks]}  # fmt: skip

    @staticmethod
    def from_json(
        spec: Mapping[str, Any], *, distribution: PriorLike | None = None, inside: Inside | None = None
    ) -> Prior:
        """The prior that `to_json` told of.

        ``distribution``, the same whole prior again, is needed where a part of it is ``"user"``; ``inside`` where it
        was truncated, unless ``distribution`` is the truncated prior itself, which one truncated twice needs.

        Raises
        ------
        ValueError
            where they are missing, or are others than those of ``spec``.
        """
        if spec.get("format") != _FORMAT:
            raise ValueError(f"prior: expected format {_FORMAT}, found {spec.get('format')}; update nuinfer")
        if "base" in spec and isinstance(distribution, Truncated):
            inside, distribution = inside or distribution.inside, distribution.base
        if "base" in spec:
            return _truncated_from(spec, Prior.from_json(spec["base"], distribution=distribution), inside)
        blocks = spec["blocks"]
        if distribution is not None:
            return _again(spec, distribution)
        unknown = [block["type"] for block in blocks if block["family"] == "user"]
        if unknown:
            raise ValueError(f"prior: {', '.join(unknown)} over {', '.join(spec['names'])} is not a distribution whose "
                             f"parameters a file holds; give the whole prior again, distribution=")  # fmt: skip
        return _joined(tuple(spec["names"]), [Block.from_json(block) for block in blocks])

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self._shown()})"

    def _shown(self) -> str:
        parts, start = [], 0
        for block in self.blocks:
            names = self.names[start : start + block.width]
            parts += block.shown(names)
            start += block.width
        return ", ".join(parts)

    def _points(self, theta: ArrayLike) -> Floats:
        values = np.array(theta, np.float64)
        self._check_shape(values.shape)
        bad = int(np.isnan(values).any(-1).sum())
        if bad:
            raise ValueError(f"theta: expected numbers, found NaN in {bad} of {values[..., 0].size} points")
        return values

    def _check_shape(self, shape: Sequence[int]) -> None:
        if tuple(shape[-1:]) != (self.dim,):
            raise ValueError(f"theta: expected (*, {self.dim}) for {', '.join(self.names)}, found {tuple(shape)}")


@dataclass(frozen=True, eq=False, repr=False)
class Truncated(Prior):
    r"""A prior restricted to where a condition holds; made by `Prior.restricted`.

    .. math:: p(\theta \mid \text{inside}) = p(\theta)\, 1[\text{inside}(\theta)] / a, \qquad
              a = P(\text{inside}) \approx k / n

    Drawn by rejection.  The acceptance a is counted on n draws of the base, so that log densities have one common
    error, ``log_error``; that is a constant of theta, and no matter to a posterior.

    Attributes
    ----------
    base, inside:
        The prior and the condition, (n, P) -> (n,) booleans.
    acceptance, acceptance_error:
        The share of the base's draws that is inside, and its binomial error.
    floor:
        The acceptance below which drawing raises.

    Examples
    --------
    >>> disc = Prior.of({"a": (-1, 1), "b": (-1, 1)}).restricted(lambda theta: (theta**2).sum(1) < 1)
    >>> abs(disc.acceptance - np.pi / 4) < 4 * disc.acceptance_error
    True
    >>> bool((disc.sample(100, seed=1) ** 2).sum(1).max() < 1)
    True
    """

    base: Prior
    inside: Inside
    acceptance: float
    acceptance_error: float
    floor: float = 1e-3

    @property
    def log_error(self) -> float:
        """The standard error of all log densities together, from the count of the acceptance."""
        return self.acceptance_error / self.acceptance

    def sample(self, n: int, *, seed: int) -> Floats:
        """``n`` draws (n, P) by rejection from the base.

        Raises
        ------
        ValueError
            where clearly fewer than ``floor`` of the base's draws are inside.
        """
        _check_number(n)
        return rejection(
            lambda size, own: self.base.sample(size, seed=own), self.inside, int(n),
            seed=seed, acceptance=self.acceptance, floor=self.floor,
        )  # fmt: skip

    def tensor(self, theta: Tensor) -> Tensor:
        r"""The log density of tensors (\*, P): the base's less log a, -inf where the condition fails."""
        logs = self.base.tensor(theta)
        flat = theta.detach().to("cpu", torch.float64).reshape(-1, self.dim).numpy()
        mask = torch.isfinite(logs.detach()).reshape(-1).numpy().copy()  # where the base has a density
        mask[mask] = held(self.inside, flat[mask])
        kept = torch.from_numpy(mask).reshape(logs.shape).to(logs.device)
        return torch.where(kept, logs - math.log(self.acceptance), -math.inf)

    def distribution(self) -> td.Distribution:
        """The truncated prior as a ``torch`` distribution of (P,) in float32."""
        return Joint(self)

    def to_json(self) -> dict[str, Any]:
        """The base, and the acceptance; the condition is code, which no file holds."""
        return {"format": _FORMAT, "base": self.base.to_json(), "acceptance": self.acceptance,
                "acceptance_error": self.acceptance_error, "floor": self.floor}  # fmt: skip

    def _shown(self) -> str:
        return f"{self.base._shown()}; acceptance {self.acceptance:.4g} +- {self.acceptance_error:.2g}"


def named(prior: PriorLike, names: Sequence[str]) -> Prior:
    """The prior, of which a joint distribution without names of its own takes ``names``."""
    return Prior.of(prior, None if isinstance(prior, (Prior, Mapping)) else names)


def _check_number(n: int) -> None:
    if n != int(n) or n < 0:
        raise ValueError(f"n: expected a whole number of draws from 0, found {n}")


def _joined(names: tuple[str, ...], blocks: Sequence[Block]) -> Prior:
    """The prior of blocks one behind the other, with names that were checked."""
    wrong = [name for name in names if not isinstance(name, str) or not name]
    if wrong or len(set(names)) != len(names) or not names:
        raise ValueError(f"names: expected different non-empty names of at least one parameter, found {list(names)}")
    width = sum(block.width for block in blocks)
    if width != len(names):
        raise ValueError(f"names: expected {width}, one per dimension of the prior, found {len(names)}: {list(names)}")
    bounds = tuple(bound for block in blocks for bound in block.bounds)
    return Prior(names, bounds, tuple(blocks))


def _truncated(base: Prior, inside: Inside, seed: int, floor: float) -> Truncated:
    """The restriction, with its acceptance on draws of ``seed``."""
    if not 0 < floor < 1:
        raise ValueError(f"floor: expected an acceptance between 0 and 1, found {floor}")
    share, error = counted(base.sample(PILOT, seed=seed), inside, floor)
    return Truncated(base.names, base.bounds, base.blocks, base, inside, share, error, floor)


def _again(spec: Mapping[str, Any], distribution: PriorLike) -> Prior:
    """A prior given again, which has to be the one that was saved."""
    found = named(distribution, spec["names"])
    if isinstance(found, Truncated):
        raise ValueError(f"distribution: expected the prior that was saved, without a condition, found {found}")
    mine = found.to_json()
    for key in ("names", "bounds"):
        if mine[key] != spec[key]:
            raise ValueError(f"distribution: expected a prior with the {key} {spec[key]}, found {mine[key]}")
    if len(found.blocks) != len(spec["blocks"]):
        raise ValueError(f"distribution: expected {len(spec['blocks'])} parts, found {len(found.blocks)}")
    for saved, block in zip(spec["blocks"], found.blocks, strict=True):
        if not block.is_saved(saved):
            raise ValueError(f"distribution: expected the prior that was saved ({saved}), found {block.to_json()}")
    return found


def _truncated_from(spec: Mapping[str, Any], base: Prior, inside: Inside | None) -> Truncated:
    """The restriction that was saved, by the same condition."""
    if inside is None:
        raise ValueError(f"prior: {base} was truncated by a condition, which no file holds; give it again, inside=")
    saved = {key: spec[key] for key in ("acceptance", "acceptance_error", "floor")}
    again = _truncated(base, inside, 1, spec["floor"])
    check_again(again.acceptance, again.acceptance_error, (saved["acceptance"], saved["acceptance_error"]))
    return Truncated(base.names, base.bounds, base.blocks, base, inside, **saved)
