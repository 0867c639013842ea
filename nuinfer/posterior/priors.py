r"""Priors: named parameters, a normalised density on a box that may be open, draws that belong to a seed.

.. math:: p(\theta) = \prod_b p_b(\theta_b), \qquad \int p(\theta)\, d\theta = 1

One block b is the distribution of one parameter or the joint one of several.  All of it is worked out in float64,
whatever the type of the distribution that came in, and drawing leaves torch's own generator as it was.

What to use when:

==========================================  ===========================================================================
``{"a": (0, 1), "b": (-3, 3)}``             a flat density in a box
``{"a": (0, 1), "b": Normal(0.0, 1.0)}``    independent parameters, one distribution of `torch.distributions` each
``Prior.of(joint, names=["a", "b"])``       one joint distribution: MultivariateNormal, Independent, sbi's BoxUniform
                                            and MultipleIndependent, TransformedDistribution, mixtures
``prior.restricted(inside)``                any of these where a condition holds: cuts, truncated rounds (TSNPE)
==========================================  ===========================================================================

Priors that cannot be normalised or drawn from are refused: simulations are draws from the prior, so an improper one
has no simulations.  Discrete parameters are refused as well, since posteriors here are densities.

Source of the truncated prior: Deistler, Goncalves, Macke, arXiv 2210.04815 (truncated proposals).
"""

from __future__ import annotations

import copy
import math
import weakref
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeAlias

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from torch import Tensor
from torch import distributions as td
from torch.distributions import constraints

from .. import hashing

__all__ = ["Prior", "PriorLike", "Truncated"]

Floats = NDArray[np.float64]
Bound = tuple[float | None, float | None]
Inside = Callable[[Floats], NDArray[np.bool_]]
PriorLike: TypeAlias = "Prior | Mapping[str, tuple[float, float] | td.Distribution] | td.Distribution"

_PROBES = 256  # draws that a new distribution is looked at with
_QUANTILES = 4096  # draws whose quantiles cut the axis into pieces for the integral of an unknown density
_PILOT = 10_000  # draws that the acceptance of a truncation is counted with
_AT_ONCE = 100_000  # draws that a condition, a network perhaps, is asked of in one call
_FORMAT = 1
_KNOWN: dict[str, tuple[str, ...]] = {
    "Beta": ("concentration1", "concentration0"), "Cauchy": ("loc", "scale"), "Exponential": ("rate",),
    "Gamma": ("concentration", "rate"), "Gumbel": ("loc", "scale"), "HalfCauchy": ("scale",), "HalfNormal": ("scale",),
    "InverseGamma": ("concentration", "rate"), "Laplace": ("loc", "scale"), "LogNormal": ("loc", "scale"),
    "MultivariateNormal": ("loc", "covariance_matrix"), "Normal": ("loc", "scale"), "Pareto": ("scale", "alpha"),
    "StudentT": ("df", "loc", "scale"), "Uniform": ("low", "high"), "Weibull": ("scale", "concentration"),
}  # fmt: skip


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
    blocks: tuple[_Block, ...]

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
        if isinstance(prior, Prior):
            if names is not None and tuple(names) != prior.names:
                raise ValueError(f"names: expected {list(prior.names)}, those of the prior, found {list(names)}")
            return prior
        if isinstance(prior, Mapping):
            return _by_name(prior, names)
        if names is None or isinstance(names, str):
            raise ValueError(f"names: expected a list of the parameters' names for a joint {type(prior).__name__}, "
                             f"found {names!r}; Prior.of(distribution, names=[...])")  # fmt: skip
        return _joined(tuple(names), _opened("prior", prior))

    @property
    def dim(self) -> int:
        """The number of parameters P."""
        return len(self.names)

    def sample(self, n: int, *, seed: int) -> Floats:
        """``n`` draws (n, P), functions of the seed alone."""
        if n != int(n) or n < 0:
            raise ValueError(f"n: expected a whole number of draws from 0, found {n}")
        with torch.no_grad(), _seeded(seed, "prior"):
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
        if theta.shape[-1:] != (self.dim,):
            raise ValueError(f"theta: expected (*, {self.dim}) for {', '.join(self.names)}, found {tuple(theta.shape)}")
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
        if all(type(_core(block.original)) is td.Uniform for block in self.blocks):
            low, high = (torch.tensor([b[i] for b in self.bounds], dtype=torch.float32) for i in (0, 1))
            return td.Independent(td.Uniform(low, high), 1)
        if len(self.blocks) == 1 and self.blocks[0].original.event_shape == (self.dim,):
            single: td.Distribution = _converted(self.blocks[0].original, torch.float32)
            return single
        return _Joint(self)

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
            found = Prior.of(distribution, None if isinstance(distribution, (Prior, Mapping)) else spec["names"])
            _check_same(spec, found)
            return found
        unknown = [block["type"] for block in blocks if block["family"] == "user"]
        if unknown:
            raise ValueError(f"prior: {', '.join(unknown)} over {', '.join(spec['names'])} is not a distribution whose "
                             f"parameters a file holds; give the whole prior again, distribution=")  # fmt: skip
        return _joined(tuple(spec["names"]), [_Block.of("prior", _from_json(block)) for block in blocks])

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
        if values.shape[-1:] != (self.dim,):
            raise ValueError(f"theta: expected (*, {self.dim}) for {', '.join(self.names)}, found {values.shape}")
        bad = int(np.isnan(values).any(-1).sum())
        if bad:
            raise ValueError(f"theta: expected numbers, found NaN in {bad} of {values[..., 0].size} points")
        return values


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
        parts, have, drawn = [np.empty((0, self.dim))], 0, 0
        while have < n:
            size = min(int(1.2 * (n - have) / self.acceptance) + 64, _AT_ONCE)
            theta = self.base.sample(size, seed=int(hashing.bits(np.array([len(parts)]), seed, "truncated")[0] >> 1))
            parts.append(theta[_asked(self.inside, theta)])
            have, drawn = have + len(parts[-1]), drawn + size
            # 50 or more expected: half of that is 4e-5 improbable
            if drawn * self.floor > 50 and have < 0.5 * self.floor * drawn:
                raise ValueError(_too_few(have, drawn, self.floor))
        return np.concatenate(parts)[:n]

    def tensor(self, theta: Tensor) -> Tensor:
        r"""The log density of tensors (\*, P): the base's less log a, -inf where the condition fails."""
        logs = self.base.tensor(theta)
        flat = theta.detach().to("cpu", torch.float64).reshape(-1, self.dim).numpy()
        held = np.zeros(len(flat), np.bool_)
        reachable = torch.isfinite(logs.detach()).reshape(-1).numpy()
        held[reachable] = _asked(self.inside, flat[reachable])
        mask = torch.from_numpy(held).reshape(logs.shape).to(logs.device)
        return torch.where(mask, logs - math.log(self.acceptance), -math.inf)

    def distribution(self) -> td.Distribution:
        """The truncated prior as a ``torch`` distribution of (P,) in float32."""
        return _Joint(self)

    def to_json(self) -> dict[str, Any]:
        """The base, and the acceptance; the condition is code, which no file holds."""
        return {"format": _FORMAT, "base": self.base.to_json(), "acceptance": self.acceptance,
                "acceptance_error": self.acceptance_error, "floor": self.floor}  # fmt: skip

    def _shown(self) -> str:
        return f"{self.base._shown()}; acceptance {self.acceptance:.4g} +- {self.acceptance_error:.2g}"


def _truncated(base: Prior, inside: Inside, seed: int, floor: float) -> Truncated:
    if not 0 < floor < 1:
        raise ValueError(f"floor: expected an acceptance between 0 and 1, found {floor}")
    kept = int(_asked(inside, base.sample(_PILOT, seed=seed)).sum())
    share = kept / _PILOT
    if share < floor:
        raise ValueError(_too_few(kept, _PILOT, floor))
    error = math.sqrt(share * (1 - share) / _PILOT)
    return Truncated(base.names, base.bounds, base.blocks, base, inside, share, error, floor)


# -- blocks ------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, eq=False)
class _Block:
    """One distribution of ``width`` parameters, in float64 where that can be done.

    ``anchor`` (width,) is a point inside: densities are worked out there in place of points outside, so that gradients
    stay finite.
    """

    original: td.Distribution = field(repr=False)
    double: td.Distribution = field(repr=False)
    dtype: torch.dtype
    width: int
    low: Tensor
    high: Tensor
    anchor: Tensor

    @classmethod
    def of(cls, what: str, distribution: Any) -> _Block:
        """A block of a distribution that was checked to be a proper density of finite width."""
        _check_distribution(what, distribution)
        width = _width(what, distribution)
        _check_edges(what, distribution)
        draws = _drawn(what, distribution, width)
        low, high = _edges(what, distribution, width)
        double, dtype = _evaluable(distribution, draws)
        # the middle one of the draws along the first parameter: away from the edges
        anchor = draws[draws[:, 0].argsort()[len(draws) // 2]]
        block = cls(distribution, double, dtype, width, low, high, anchor)
        _check_density(what, block, draws)
        return block

    @property
    def bounds(self) -> tuple[Bound, ...]:
        pairs = zip(self.low.tolist(), self.high.tolist(), strict=True)
        return tuple((None if a == -math.inf else a, None if b == math.inf else b) for a, b in pairs)

    @property
    def known(self) -> bool:
        return type(_core(self.original)).__name__ in _KNOWN and _is_torch(_core(self.original))

    def sample(self, n: int) -> Tensor:
        return self.double.sample(torch.Size([n])).double().reshape(n, self.width)

    def log_prob(self, theta: Tensor) -> Tensor:
        inside = ((theta >= self.low) & (theta <= self.high)).all(-1)
        logs = self._raw(torch.where(inside[..., None], theta, self.anchor))
        # densities of, say, log-normals are NaN at 0 itself, where their limit is 0
        edge = ((theta == self.low) | (theta == self.high)).any(-1)
        return torch.where(inside & ~(edge & logs.isnan()), logs, -math.inf)

    def _raw(self, theta: Tensor) -> Tensor:
        """The log density (...) of points (..., width) that are inside."""
        if self.double.event_shape:
            # some distributions, as sbi's, take matrices only
            flat = theta.reshape(-1, self.width).to(self.dtype)
            return self.double.log_prob(flat).double().reshape(theta.shape[:-1])
        if self.double.batch_shape:
            return self.double.log_prob(theta.to(self.dtype)).double().sum(-1)
        return self.double.log_prob(theta[..., 0].to(self.dtype)).double()

    def shown(self, names: Sequence[str]) -> list[str]:
        core = _core(self.original)
        head = names[0] if len(names) == 1 else f"({', '.join(names)})"
        if not self.known:
            return [f"{head} ~ {type(self.original).__name__}"]
        if type(core) is td.Uniform:
            ends = zip(names, self.low.tolist(), self.high.tolist(), strict=True)
            return [f"{name} ~ Uniform({a:.7g}, {b:.7g})" for name, a, b in ends]
        values = [f"{key} {_short(_parameter(core, key).squeeze())}" for key in _KNOWN[type(core).__name__]]
        return [f"{head} ~ {type(core).__name__}({', '.join(values)})"]

    def to_json(self) -> dict[str, Any]:
        if self.known:
            return _to_json(self.original)
        point = self.anchor
        return {"family": "user", "type": type(self.original).__name__, "point": point.tolist(),
                "log_prob": float(self.log_prob(point))}  # fmt: skip


def _by_name(prior: Mapping[str, Any], names: Sequence[str] | None) -> Prior:
    if names is not None and tuple(names) != tuple(prior):
        raise ValueError(f"names: expected {list(prior)}, those of the prior, found {list(names)}; leave names= out")
    blocks = []
    for name, value in prior.items():
        what = f"prior of {name!r}"
        blocks += [_Block.of(what, value if isinstance(value, td.Distribution) else _box(what, value))]
        if blocks[-1].width != 1:
            raise ValueError(f"{what}: expected a distribution of one number, found one of {blocks[-1].width}; "
                             f"Prior.of(joint, names=[...]) takes a joint distribution of all")  # fmt: skip
    return _joined(tuple(prior), blocks)


def _joined(names: tuple[str, ...], blocks: Sequence[_Block]) -> Prior:
    wrong = [name for name in names if not isinstance(name, str) or not name]
    if wrong or len(set(names)) != len(names) or not names:
        raise ValueError(f"names: expected different non-empty names of at least one parameter, found {list(names)}")
    width = sum(block.width for block in blocks)
    if width != len(names):
        raise ValueError(f"names: expected {width}, one per dimension of the prior, found {len(names)}: {list(names)}")
    bounds = tuple(bound for block in blocks for bound in block.bounds)
    return Prior(names, bounds, tuple(blocks))


def _opened(what: str, distribution: Any) -> list[_Block]:
    """The blocks of a joint distribution: those of its list for sbi's MultipleIndependent, else one."""
    parts = getattr(distribution, "dists", None)
    if isinstance(distribution, td.Distribution) and isinstance(parts, (list, tuple)):
        return [_Block.of(f"{what}, part {i}", part) for i, part in enumerate(parts)]
    return [_Block.of(what, distribution)]


def _box(what: str, value: Any) -> td.Distribution:
    advice = "expected (low, high) or a torch distribution"
    if isinstance(value, (str, bytes)) or not isinstance(value, (Sequence, np.ndarray, Tensor)):
        fix = "; leave a fixed parameter out and set it in the simulator" if np.isscalar(value) else ""
        hint = "; scipy's are not taken, torch.distributions has most of them" if hasattr(value, "rvs") else fix
        raise TypeError(f"{what}: {advice}, found {type(value).__name__} {value!r}{hint}")
    if len(value) != 2:
        raise ValueError(f"{what}: {advice}, found {len(value)} entries {value!r}")
    try:
        low, high = (torch.tensor(float(edge), dtype=torch.float64) for edge in value)
    except (TypeError, ValueError):
        raise TypeError(f"{what}: {advice}, found {value!r}") from None
    _check_box(what, low, high)
    return td.Uniform(low, high)


def _check_box(what: str, low: Tensor, high: Tensor) -> None:
    if not (torch.isfinite(low).all() and torch.isfinite(high).all()):
        raise ValueError(f"{what}: expected finite edges, found ({_short(low)}, {_short(high)}): a flat prior without "
                         f"an end is improper; give a finite box, or a distribution such as Normal")  # fmt: skip
    if not (low < high).all():
        raise ValueError(f"{what}: expected low < high, found ({_short(low)}, {_short(high)})")


# -- what a distribution has to be -------------------------------------------------------------------------------------


def _check_distribution(what: str, distribution: Any) -> None:
    if not isinstance(distribution, td.Distribution):
        hint = "; scipy's are not taken, torch.distributions has most of them" if hasattr(distribution, "rvs") else ""
        raise TypeError(f"{what}: expected a torch distribution, found {type(distribution).__name__}{hint}")
    if _discrete(distribution):
        raise ValueError(
            f"{what}: expected a continuous distribution, found the discrete {type(distribution).__name__}: a "
            f"posterior here is a density, and a choice has none; infer it by one posterior per value and their "
            f"evidence, or by a continuous parameter that it stands for"
        )


def _discrete(distribution: td.Distribution) -> bool:
    try:
        return bool(distribution.support.is_discrete)  # type: ignore[union-attr]
    except NotImplementedError:
        return False  # a support that is not stated: refused where the bounds are asked for


def _width(what: str, distribution: td.Distribution) -> int:
    event, batch = distribution.event_shape, distribution.batch_shape
    if len(event) + len(batch) > 1:
        raise ValueError(f"{what}: expected a distribution of one number or of (P,), found event shape {tuple(event)} "
                         f"and batch shape {tuple(batch)}; td.Independent(distribution, 1) makes dimensions one "
                         f"event")  # fmt: skip
    return int((*event, *batch, 1)[0])


def _check_edges(what: str, distribution: td.Distribution) -> None:
    core = _core(distribution)
    if type(core) is td.Uniform:
        _check_box(what, core.low, core.high)


def _drawn(what: str, distribution: td.Distribution, width: int) -> Tensor:
    """Draws (n, width) that are finite, or an error."""
    kind = type(distribution).__name__
    try:
        with _seeded(0, "probe"):
            draws = distribution.sample(torch.Size([_PROBES]))
    except (NotImplementedError, AttributeError) as error:
        raise ValueError(f"{what}: expected a distribution that can be sampled, found {kind}, whose sample raises "
                         f"{type(error).__name__}: improper priors have no simulations; give a normalised "
                         f"distribution") from error  # fmt: skip
    draws = torch.as_tensor(draws).detach().double().reshape(_PROBES, -1)
    if draws.shape[1] != width:
        raise ValueError(f"{what}: expected draws of {width} numbers, which is the event shape that {kind} states, "
                         f"found {draws.shape[1]}; for a condition, use restricted(inside) of its base")  # fmt: skip
    bad = int((~torch.isfinite(draws)).any(-1).sum())
    if bad:
        raise ValueError(f"{what}: expected finite draws, found {bad} of {_PROBES} from {kind} that are not; are its "
                         f"parameters finite?")  # fmt: skip
    return draws


def _check_density(what: str, block: _Block, draws: Tensor) -> None:
    kind = type(block.original).__name__
    with torch.no_grad():
        logs = block.log_prob(draws)
    bad = int((~torch.isfinite(logs)).sum())
    if bad:
        raise ValueError(
            f"{what}: expected a finite density at draws of {kind}, found {bad} of {len(draws)} without, first at "
            f"{_short(draws[int((~torch.isfinite(logs)).nonzero()[0])])}; bounds {block.bounds}: do support, sample "
            f"and log_prob agree?"
        )
    if block.width == 1 and not block.known:
        total = _integral(block)
        if not abs(total - 1) < 0.02:
            raise ValueError(f"{what}: expected a normalised density, found that of {kind}, which integrates to "
                             f"{total:.3g} over its own draws; normalise its log_prob")  # fmt: skip


def _integral(block: _Block) -> float:
    """The integral of a density of one number: Gauss and Legendre's rule between quantiles of its draws."""
    with torch.no_grad(), _seeded(0, "quantiles"):
        draws = np.sort(block.sample(_QUANTILES).numpy()[:, 0])
    edges = np.concatenate([draws[:1], draws[8:-8:8], draws[-1:]])
    nodes, weights = np.polynomial.legendre.leggauss(12)
    half, middle = np.diff(edges) / 2, (edges[1:] + edges[:-1]) / 2
    points = torch.from_numpy(middle[:, None] + half[:, None] * nodes)
    with torch.no_grad():
        density = block.log_prob(points[..., None]).exp().numpy()
    return float((density * weights * half[:, None]).sum())


# -- bounds ------------------------------------------------------------------------------------------------------------


def _edges(what: str, distribution: td.Distribution, width: int) -> tuple[Tensor, Tensor]:
    """The ends (width,) of the support, infinite where it has none."""
    try:
        low, high = _box_of(distribution)
    except _NoBox as found:
        raise ValueError(
            f"{what}: expected a support that is a box (an interval, a half-line or the real line for each "
            f"parameter), found {found} of {type(distribution).__name__}; give a prior over a box and cut it with "
            f"prior.restricted(inside), or drop the parameters that others fix"
        ) from None
    return low.detach().double().expand(width).clone(), high.detach().double().expand(width).clone()


class _NoBox(Exception):
    """A support that is no box of intervals."""


def _box_of(d: td.Distribution) -> tuple[Tensor, Tensor]:
    """The ends of the support, which broadcast to batch and event shape."""
    if isinstance(d, td.Independent):
        return _box_of(d.base_dist)
    if isinstance(d, td.MixtureSameFamily):
        shape = d.component_distribution.batch_shape + d.component_distribution.event_shape
        low, high = (end.expand(shape) for end in _box_of(d.component_distribution))
        axis = len(d.batch_shape)
        return low.amin(axis), high.amax(axis)
    if getattr(type(d), "support", None) is vars(td.TransformedDistribution)["support"]:
        return _mapped(d)
    if isinstance(d, td.VonMises):  # torch states the real line, and draws from one turn of it
        return torch.tensor(-math.pi, dtype=torch.float64), torch.tensor(math.pi, dtype=torch.float64)
    flow = getattr(d, "transform", None)
    if isinstance(flow, td.Transform) and hasattr(d, "base"):  # zuko's flows map from the parameters to the base
        return _box_of_constraint(flow.domain)
    try:
        return _box_of_constraint(d.support)
    except NotImplementedError:
        raise _NoBox("no stated support") from None


def _box_of_constraint(c: Any) -> tuple[Tensor, Tensor]:
    if isinstance(c, constraints.independent):
        return _box_of_constraint(c.base_constraint)
    if hasattr(c, "cseq") and hasattr(c, "lengths"):
        ends = [[e.double().expand(n) for e in _box_of_constraint(part)]
                for part, n in zip(c.cseq, c.lengths, strict=True)]  # fmt: skip
        return torch.cat([low for low, _ in ends]), torch.cat([high for _, high in ends])
    if c is constraints.real or c is constraints.real_vector:
        return torch.tensor(-math.inf), torch.tensor(math.inf)
    low, high = getattr(c, "lower_bound", None), getattr(c, "upper_bound", None)
    if low is None and high is None:
        raise _NoBox(f"the constraint {c}")
    return torch.as_tensor(-math.inf if low is None else low), torch.as_tensor(math.inf if high is None else high)


def _mapped(d: Any) -> tuple[Tensor, Tensor]:
    """The ends of a transformed support; torch's own has the transform's codomain, which can be larger."""
    low, high = (end.double() for end in _box_of(d.base_dist))
    for transform in d.transforms:
        low, high = _through(transform, low, high)
    return low, high


def _through(transform: Any, low: Tensor, high: Tensor) -> tuple[Tensor, Tensor]:
    if isinstance(transform, td.IndependentTransform):
        return _through(transform.base_transform, low, high)
    if isinstance(transform, td.ComposeTransform):
        for part in transform.parts:
            low, high = _through(part, low, high)
        return low, high
    if isinstance(transform, td.SigmoidTransform):  # torch's own stops one rounding short of 0 and 1
        return torch.sigmoid(low), torch.sigmoid(high)
    if transform.domain.event_dim == 0 and transform.bijective:
        ends = _converted(transform, torch.float64)(torch.stack(torch.broadcast_tensors(low, high)))
        if not ends.isnan().any():
            return ends.amin(0), ends.amax(0)
    return _box_of_constraint(transform.codomain)


# -- precision ---------------------------------------------------------------------------------------------------------


class _Box(td.Uniform):
    """A flat density on [low, high], both ends included, -inf outside also where arguments are not validated."""

    def log_prob(self, value: Tensor) -> Tensor:
        inside = (value >= self.low) & (value <= self.high)
        return torch.where(inside, -torch.log(self.high - self.low), -math.inf)


def _evaluable(distribution: td.Distribution, draws: Tensor) -> tuple[td.Distribution, torch.dtype]:
    """The distribution in float64, or as it is where, say, a network inside it cannot be made so."""
    one = torch.Size([1])
    with torch.no_grad(), _seeded(0, "types"):
        try:
            double: td.Distribution = _converted(distribution, torch.float64)
            points = draws if distribution.event_shape or distribution.batch_shape else draws[:, 0]
            if double.log_prob(points).dtype == double.sample(one).dtype == torch.float64:
                return double, torch.float64
        except (RuntimeError, TypeError, ValueError, AttributeError):
            pass
        return distribution, torch.as_tensor(distribution.sample(one)).dtype


def _converted(thing: Any, dtype: torch.dtype, made: dict[int, Any] | None = None) -> Any:
    """A copy of a distribution, and of all distributions and transforms in it, whose numbers are of ``dtype``.

    ``made`` has the copies so far by the id of the original: a transform and its inverse know each other.
    """
    made = {} if made is None else made
    if isinstance(thing, Tensor):
        return thing.detach().to(dtype) if thing.is_floating_point() else thing.detach()
    if isinstance(thing, torch.nn.Module):
        return copy.deepcopy(thing).to(dtype)
    if isinstance(thing, td.Distribution) and _is_torch(thing) and type(thing).__name__ in _KNOWN:
        return _rebuilt(thing, dtype)
    if type(thing) in (list, tuple):
        return type(thing)(_converted(part, dtype, made) for part in thing)
    if not isinstance(thing, (td.Distribution, td.Transform, constraints.Constraint)):
        return thing
    if id(thing) not in made:
        new = made[id(thing)] = copy.copy(thing)
        # weak references are a transform's memory of its inverse, which torch makes again
        new.__dict__.update({name: None if isinstance(value, weakref.ref) else _converted(value, dtype, made)
                             for name, value in vars(thing).items()})  # fmt: skip
        if isinstance(new, td.Distribution):
            new._validate_args = False
    return made[id(thing)]


def _rebuilt(d: td.Distribution, dtype: torch.dtype) -> td.Distribution:
    values = {name: _parameter(d, name).to(dtype) for name in _KNOWN[type(d).__name__]}
    kind: Any = _Box if type(d) is td.Uniform and dtype == torch.float64 else type(d)
    made: td.Distribution = kind(**values, validate_args=False)
    return made


def _parameter(d: td.Distribution, name: str) -> Tensor:
    """A parameter in float64; a covariance from its Cholesky factor where that came in."""
    if name == "covariance_matrix" and name not in vars(d):
        factor: Tensor = d.scale_tril.detach().double()  # type: ignore[attr-defined]
        return factor @ factor.mT
    value: Tensor = getattr(d, name)
    return value.detach().double()


def _core(d: td.Distribution) -> td.Distribution:
    """What `Independent` wraps, to any depth."""
    while isinstance(d, td.Independent):
        d = d.base_dist
    return d


def _is_torch(d: td.Distribution) -> bool:
    return type(d).__module__.startswith("torch.distributions")


# -- JSON --------------------------------------------------------------------------------------------------------------


def _to_json(d: td.Distribution) -> dict[str, Any]:
    if isinstance(d, td.Independent):
        return {"family": "Independent", "base": _to_json(d.base_dist), "dimensions": d.reinterpreted_batch_ndims}
    name = type(d).__name__
    return {"family": name, "parameters": {key: _parameter(d, key).tolist() for key in _KNOWN[name]}}


def _from_json(spec: Mapping[str, Any]) -> td.Distribution:
    if spec["family"] == "Independent":
        return td.Independent(_from_json(spec["base"]), spec["dimensions"])
    if spec["family"] not in _KNOWN:
        raise ValueError(f"prior: expected a distribution among {', '.join(_KNOWN)}, found {spec['family']!r}; "
                         f"update nuinfer")  # fmt: skip
    values = {key: torch.tensor(value, dtype=torch.float64) for key, value in spec["parameters"].items()}
    made: td.Distribution = getattr(td, spec["family"])(**values)
    return made


def _check_same(spec: Mapping[str, Any], found: Prior) -> None:
    """That a prior given again is the one that was saved."""
    mine = found.to_json()
    for key in ("names", "bounds"):
        if mine[key] != spec[key]:
            raise ValueError(f"distribution: expected a prior with the {key} {spec[key]}, found {mine[key]}")
    if len(mine["blocks"]) != len(spec["blocks"]):
        raise ValueError(f"distribution: expected {len(spec['blocks'])} parts, found {len(mine['blocks'])}")
    for one, other, block in zip(spec["blocks"], mine["blocks"], found.blocks, strict=True):
        same = one == other
        if one["family"] == "user" == other["family"]:
            again = float(block.log_prob(torch.tensor(one["point"], dtype=torch.float64)))
            same = one["type"] == other["type"] and math.isclose(again, one["log_prob"], rel_tol=1e-5, abs_tol=1e-5)
        if not same:
            raise ValueError(f"distribution: expected the prior that was saved ({one}), found {other}")


def _truncated_from(spec: Mapping[str, Any], base: Prior, inside: Inside | None) -> Truncated:
    if inside is None:
        raise ValueError(f"prior: {base} was truncated by a condition, which no file holds; give it again, inside=")
    saved = {key: spec[key] for key in ("acceptance", "acceptance_error", "floor")}
    again = _truncated(base, inside, 1, spec["floor"])
    error = math.hypot(saved["acceptance_error"], again.acceptance_error) + 1 / _PILOT
    if abs(again.acceptance - saved["acceptance"]) > 5 * error:
        raise ValueError(f"inside: expected the condition that was saved, with acceptance {saved['acceptance']:.4g}, "
                         f"found one with {again.acceptance:.4g}")  # fmt: skip
    return Truncated(base.names, base.bounds, base.blocks, base, inside, **saved)


# -- small steps -------------------------------------------------------------------------------------------------------


class _seeded:
    """Torch's generator at a place of its own, put back afterwards."""

    def __init__(self, seed: int, purpose: str) -> None:
        if isinstance(seed, bool) or not isinstance(seed, (int, np.integer)) or seed < 0:
            raise ValueError(f"seed: expected a non-negative integer, found {seed!r}")
        self.start = hashing.salt("posterior", purpose, int(seed)) >> 1

    def __enter__(self) -> None:
        self.before = torch.random.get_rng_state()
        torch.default_generator.manual_seed(self.start)

    def __exit__(self, *error: object) -> None:
        torch.random.set_rng_state(self.before)


class _Joint(td.Distribution):
    """A prior as a torch distribution of (P,) in float32, for sbi."""

    arg_constraints: dict[str, constraints.Constraint] = {}  # noqa: RUF012 (torch's own form)

    def __init__(self, prior: Prior) -> None:
        self.prior = prior
        super().__init__(torch.Size(), torch.Size([prior.dim]), validate_args=False)

    @property
    def support(self) -> constraints.Constraint:
        parts = [_constraint(low, high) for low, high in self.prior.bounds]
        return constraints.independent(constraints.cat(parts, -1), 1)

    def sample(self, sample_shape: Any = torch.Size()) -> Tensor:  # noqa: B008
        shape = torch.Size(sample_shape)
        # as any torch distribution, a function of torch's generator
        seed = int(torch.randint(2**62, ()))
        return torch.from_numpy(self.prior.sample(shape.numel(), seed=seed)).float().reshape(*shape, self.prior.dim)

    def log_prob(self, value: Tensor) -> Tensor:
        return self.prior.tensor(value)

    @property
    def mean(self) -> Tensor:
        return torch.from_numpy(self.prior.sample(10_000, seed=0).mean(0)).float()

    @property
    def variance(self) -> Tensor:
        return torch.from_numpy(self.prior.sample(10_000, seed=0).var(0)).float()


def _constraint(low: float | None, high: float | None) -> constraints.Constraint:
    if low is None:
        return constraints.real if high is None else constraints.less_than(high)
    return constraints.greater_than(low) if high is None else constraints.interval(low, high)


def _asked(inside: Inside, theta: Floats) -> NDArray[np.bool_]:
    mask = np.asarray(inside(theta))
    if mask.shape != (len(theta),) or mask.dtype != np.bool_:
        raise ValueError(f"inside: expected booleans ({len(theta)},) for theta {theta.shape}, found {mask.dtype} "
                         f"{mask.shape}")  # fmt: skip
    return mask


def _too_few(kept: int, drawn: int, floor: float) -> str:
    return (f"truncated prior: expected an acceptance of at least {floor:g}, found {kept} of {drawn} draws inside; "
            f"widen the region, give a base prior nearer to it (a smaller box), or a lower floor=")  # fmt: skip


def _short(value: Tensor) -> str:
    if value.ndim == 0:
        return f"{value.item():.7g}"
    return "[" + ", ".join(_short(part) for part in value) + "]"
