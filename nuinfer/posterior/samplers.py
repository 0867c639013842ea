r"""Markov chains on a density that can be evaluated, for all chains of all observations in one batched call.

What to use when:

- `Slice`: slice sampling along the axes of the whitened density (Neal), with nothing to tune and no gradient needed.
- `HMC`: Hamiltonian Monte Carlo on the gradient of torch; for more than about ten parameters.

Parameters with bounds are sampled as unbounded t(theta), by the transforms of `nuinfer.density.columns`, whose
log density is log p(theta) - log abs(dt/dtheta).

**Start.**  Draws of a start distribution g that covers the density p (the prior) are resampled with the weights p/g.
Where these leave too few of them, p is reached in steps g^(1 - b) p^b with b rising from 0 to 1, so chosen that half
of the particles survive each step (sequential Monte Carlo).  Chains so begin in every mode, by its content.

**Moves.**  A sweep of `Slice` is one update along each axis, one of `HMC` a trajectory.  Both then try jumps
theta + c (theta_a - theta_b) between two points of an archive, accepted by Metropolis' rule, with which chains change
between modes.  Axes, widths, step sizes and archive come from the warm-up and are fixed afterwards, as a Markov chain
demands.

**Convergence.**  Split R-hat of rank-normalised draws, and bulk and tail effective sample sizes.  R-hat is about
(1 + 2/m)^(1/2), m being the effective draws of a whole chain: a limit on it asks each chain for so many.  Chains that
miss it are lengthened, up to a factor, and then refused.

Sources: Neal, Ann. Stat. 31 (2003) 705 (slice sampling); ter Braak, Stat. Comput. 16 (2006) 239 (jumps by differences);
Del Moral, Doucet, Jasra, J. R. Stat. Soc. B 68 (2006) 411 (tempered start); Neal, arXiv 1206.1901, and Hoffman, Gelman,
arXiv 1111.4246 (HMC, dual averaging); Vehtari, Gelman, Simpson, Carpenter, Buerkner, arXiv 1903.08008 (R-hat, effective
sizes); Vats, Knudson, arXiv 1812.09384 (R-hat and effective sizes).
"""

from __future__ import annotations

import logging
import math
from abc import abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from torch import Tensor

from .. import hashing
from ..density.columns import Column
from ..errors import NotConverged
from ..events import Events
from .base import Posterior, thetas_of
from .chains import Chains, effective_sizes, split_rhat
from .moves import HMCKernel, Kernel, SliceKernel
from .priors import Inside, Prior, PriorLike

__all__ = ["HMC", "SampledPosterior", "Slice", "run_chains"]

_log = logging.getLogger("nuinfer")

Floats = NDArray[np.float64]

#: theta (N, C, P) of N observations in float64 -> log densities (N, C), up to a constant of each observation.
LogDensity = Callable[[Tensor], Tensor]

_PER_CHAIN = 4  # particles of a tempered start
_MOST_STAGES = 100  # temperatures of a start
_HALF_LINE, _UNIT = Column("half line", 0.0, None), Column("unit", 0.0, 1.0)


class Start(Protocol):
    """A distribution that covers the density: a `Prior`."""

    @property
    def names(self) -> tuple[str, ...]:
        """Of the P parameters."""

    @property
    def bounds(self) -> tuple[tuple[float | None, float | None], ...]:
        """The support of each, None for no end."""

    def sample(self, n: int, *, seed: int) -> Floats:
        """Draws (n, P)."""

    def tensor(self, theta: Tensor) -> Tensor:
        """Log densities (...) of theta (..., P)."""


@dataclass(frozen=True, kw_only=True)
class _Run:
    """What all samplers have.

    Parameters
    ----------
    chains:
        C, of each observation.
    start:
        Draws of the start distribution that are resampled.
    warmup:
        Sweeps that adapt and are dropped.
    sweeps:
        The least length of a chain behind them.
    longer:
        Chains that have not converged are lengthened up to this factor.
    rhat:
        The largest split R-hat of a converged run; 1.05 asks for an effective size of about 20 C.
    """

    chains: int = 32
    start: int = 1000
    warmup: int = 20
    sweeps: int = 100
    longer: int = 8
    rhat: float = 1.05

    def __post_init__(self) -> None:
        for name, least in (("chains", 4), ("start", 10), ("warmup", 4), ("sweeps", 10), ("longer", 1)):
            value = getattr(self, name)
            if not isinstance(value, int) or value < least:
                raise ValueError(f"{type(self).__name__}: expected {name} to be an integer of at least {least}, found "
                                 f"{value!r}")  # fmt: skip
        if self.start < self.chains or not self.rhat > 1:
            raise ValueError(f"{type(self).__name__}: expected start >= chains and rhat > 1, found start="
                             f"{self.start}, chains={self.chains}, rhat={self.rhat}")  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class Slice(_Run):
    """Slice sampling along the axes of the whitened density, stepping out and shrinking."""

    def begin(self, walk: Walk) -> Kernel:
        """The moves of a walk."""
        return SliceKernel(walk)


@dataclass(frozen=True, kw_only=True)
class HMC(_Run):
    """Hamiltonian Monte Carlo with a diagonal metric and a step size by dual averaging.

    Parameters
    ----------
    warmup:
        As above; the step size needs some hundred trajectories.
    steps:
        The largest number of leapfrog steps of a trajectory; each has a random number from 1 to this.
    acceptance:
        Aim of the step size.
    """

    warmup: int = 100
    steps: int = 10
    acceptance: float = 0.8

    def __post_init__(self) -> None:
        super().__post_init__()
        if not isinstance(self.steps, int) or self.steps < 1 or not 0 < self.acceptance < 1:
            raise ValueError(f"HMC: expected steps >= 1 and acceptance in (0, 1), found {self.steps!r} and "
                             f"{self.acceptance!r}")  # fmt: skip

    def begin(self, walk: Walk) -> Kernel:
        """The moves of a walk."""
        return HMCKernel(walk, self.steps, self.acceptance)


Sampler = Slice | HMC


def run_chains(
    log_density: LogDensity,
    start: Start,
    n: int,
    *,
    sampler: Sampler = Slice(),
    observations: int = 1,
    seed: int,
    allow_unconverged: bool = False,
) -> Chains:
    """Draw from a density of P parameters for each of N observations.

    Parameters
    ----------
    log_density:
        theta (N, C, P), a float64 tensor inside the bounds of ``start``, -> (N, C) up to a constant of each
        observation, for any C; -inf where there is no density.  In torch and differentiable for `HMC`.
    start:
        A distribution that covers the density, and whose bounds are its own: the prior.
    n:
        Draws that are wanted of each observation; ``chains.draws(n)`` has them.
    observations:
        N.
    seed:
        The same seed gives the same chains, for the same observations together.
    allow_unconverged:
        Log a warning where R-hat is too large, instead of raising.

    Raises
    ------
    NotConverged
        where R-hat is above the sampler's limit after chains ``longer`` times as long, or no start was found.
    ValueError
        for n or observations below 1, a log density of another shape, or one that is NaN or +inf.

    Examples
    --------
    >>> from nuinfer.posterior.priors import Prior
    >>> chains = run_chains(lambda theta: -theta[..., 0], Prior.of({"t": (0.0, 20.0)}), 2000, seed=1)
    >>> bool(abs(chains.draws(2000).mean() - 1.0) < 0.1)  # an exponential
    True
    """
    for what, value in (("n", n), ("observations", observations)):
        if not isinstance(value, int | np.integer) or value < 1:
            raise ValueError(f"{what}: expected a whole number of at least 1, found {value!r}")
    walk = Walk(Target(log_density, start, int(observations)), sampler, hashing.salt(seed, "chains"))
    walk.begin()
    kernel = sampler.begin(walk)
    for half in (False, True):  # the second half knows the density's axes from the first
        states = [kernel.sweep(tune=True) for _ in range(sampler.warmup // 2)]
        kernel.settle(torch.cat(states[len(states) // 2 :], 1) if half else torch.cat([walk.archive, *states], 1))
    length = max(sampler.sweeps, -(-int(n) // sampler.chains))
    found = walk.record(kernel, length)
    while not found.converged.all() and found.samples.shape[2] * 2 <= length * sampler.longer:
        found = walk.record(kernel, found.samples.shape[2], found)
    _check(found, sampler, allow_unconverged)
    return found


def _check(chains: Chains, sampler: Sampler, allow: bool) -> None:
    bad = np.flatnonzero(~chains.converged)
    if not len(bad):
        return
    worst = int(np.argmax(np.where(np.isnan(chains.rhat), np.inf, chains.rhat).max(1)))
    found = ", ".join(f"{name} {r:.3g}" for name, r in zip(chains.names, chains.rhat[worst], strict=True))
    said = (
        f"the chains of {len(bad)} of {len(chains.samples)} observations have not converged, the worst is observation "
        f"{worst}: split R-hat {found}, expected at most {sampler.rhat:g}, after {chains.samples.shape[2]} sweeps of "
        f"{sampler.chains} chains; use more chains or sweeps, or look at chains.samples: several modes that chains "
        f"seldom leave are well sampled only by many chains (allow_unconverged=True takes the draws as they are)"
    )
    if not allow:
        raise NotConverged(said)
    _log.warning("%s", said)


# -- the density, unbounded and tempered -------------------------------------------------------------------------------


class _Box:
    """Theta of unbounded t (..., P) and back, for all parameters at once: those with bounds of one kind together."""

    def __init__(self, bounds: Sequence[tuple[float | None, float | None]]) -> None:
        self.low, self.high = (
            torch.tensor([sign * math.inf if pair[i] is None else pair[i] for pair in bounds], dtype=torch.float64)
            for i, sign in ((0, -1), (1, 1))
        )
        low, high = self.low.isfinite(), self.high.isfinite()
        self.one_sided = torch.where(low & ~high, 1.0, torch.where(high & ~low, -1.0, 0.0)).double()
        self.half, self.both = (self.one_sided != 0).nonzero()[:, 0], (low & high).nonzero()[:, 0]
        self.edge = torch.where(low, self.low, self.high)[self.half]
        self.width = (self.high - self.low)[self.both]
        self.least = torch.nextafter(self.low, torch.tensor(math.inf, dtype=torch.float64))
        self.most = torch.nextafter(self.high, torch.tensor(-math.inf, dtype=torch.float64))

    def values(self, t: Tensor) -> Tensor:
        """Theta of t, strictly inside the bounds."""
        v = t
        if len(self.half):
            sign = self.one_sided[self.half]  # -log(high - v) is minus what log(v - low) is of -v
            v = v.index_copy(-1, self.half, self.edge + sign * _HALF_LINE.inverse(sign * t[..., self.half]))
        if len(self.both):
            v = v.index_copy(-1, self.both, self.low[self.both] + self.width * _UNIT.inverse(t[..., self.both]))
        return torch.clamp(v, self.least, self.most)

    def unbounded(self, v: Tensor) -> Tensor:
        """The inverse of `values`."""
        t = v
        if len(self.half):
            sign = self.one_sided[self.half]
            t = t.index_copy(-1, self.half, sign * _HALF_LINE.forward(sign * (v[..., self.half] - self.edge))[0])
        if len(self.both):
            share = ((v[..., self.both] - self.low[self.both]) / self.width).clamp(2.0**-1000, 1 - 2.0**-53)
            t = t.index_copy(-1, self.both, _UNIT.forward(share)[0])
        return t

    def slope(self, t: Tensor) -> Tensor:
        """log abs(det dt/dtheta), by t: theta itself has lost it where rounding puts it on a bound."""
        total = -(self.one_sided * t).sum(-1)
        if len(self.both):
            constant = 0.5 * math.log(2 * math.pi) * len(self.both) - float(torch.log(self.width).sum())
            total = total + 0.5 * t[..., self.both].square().sum(-1) + constant
        return total


class Target:
    """The log density of unbounded t (N, C, P), at power ``beta`` (N, 1) between the start's and its own."""

    def __init__(self, log_density: LogDensity, start: Start, observations: int) -> None:
        self.log_density, self.start, self.observations = log_density, start, observations
        self.box = _Box(start.bounds)
        self.beta: Tensor | None = None
        self.points = 0

    def __call__(self, t: Tensor) -> Tensor:
        v = self.box.values(t)
        found = self.own(v)
        if self.beta is not None:
            base = self.start.tensor(v)
            found = torch.where(torch.isfinite(base), base + self.beta * (found - base), -torch.inf)
        return found - self.box.slope(t)

    def own(self, v: Tensor) -> Tensor:
        """The density asked for, checked (N, C)."""
        found = self.log_density(v)
        self.points += v.shape[0] * v.shape[1]
        if tuple(found.shape) != tuple(v.shape[:2]):
            raise ValueError(f"log_density: expected the shape {tuple(v.shape[:2])} for theta {tuple(v.shape)}, found "
                             f"{tuple(found.shape)}")  # fmt: skip
        bad = torch.isnan(found) | (found == torch.inf)
        if bad.any():
            i, j = (int(k) for k in bad.nonzero()[0])
            at = ", ".join(f"{n} = {float(x):.6g}" for n, x in zip(self.start.names, v[i, j], strict=True))
            raise ValueError(f"log_density: expected finite numbers or -inf, found {float(found[i, j])} for "
                             f"observation {i} at {at}")  # fmt: skip
        return found.double()

    def check_gradient(self, t: Tensor) -> None:
        """``TypeError`` for a density that torch cannot differentiate."""
        with torch.enable_grad():
            if not self.own(self.box.values(t.detach()).requires_grad_()).requires_grad:
                raise TypeError("HMC: expected a log density that is differentiable in theta, found one without a "
                                "gradient; make it of torch operations, or use Slice()")  # fmt: skip


# -- a walk ------------------------------------------------------------------------------------------------------------


class Walk:
    """Where the chains are: ``t`` (N, C, P) and the log densities there, ``logs`` (N, C)."""

    def __init__(self, target: Target, sampler: Sampler, seed: int) -> None:
        self.target, self.sampler = target, sampler
        self.rng = torch.Generator().manual_seed(seed >> 1)
        self.first = int(seed % (1 << 31))
        self.t, self.logs, self.archive = torch.empty(0), torch.empty(0), torch.empty(0)

    def uniform(self, *shape: int) -> Tensor:
        """Uniform numbers in [0, 1)."""
        return torch.rand(*shape, generator=self.rng, dtype=torch.float64)

    def normal(self, *shape: int) -> Tensor:
        """Standard normal numbers."""
        return torch.randn(*shape, generator=self.rng, dtype=torch.float64)

    @torch.no_grad()
    def begin(self) -> None:
        """Put C chains in place, and twice a few times as many particles into the archive."""
        particles = _PER_CHAIN * self.sampler.chains
        target, draws = self.target, self.target.start.sample(self.sampler.start, seed=self.first)
        v = torch.from_numpy(draws)
        weight = target.own(v.expand(target.observations, *v.shape)) - target.start.tensor(v)
        self._check_start(weight)
        beta = _next_beta(weight, torch.zeros(len(weight), 1, dtype=torch.float64), min(particles, len(v) / 2))
        picked = _resampled(beta * weight, particles, self.uniform(len(weight), 1))
        self.t = target.box.unbounded(v)[picked]
        for _ in range(_MOST_STAGES):
            if bool((beta == 1).all()):
                break
            beta = self._stage(beta)
        else:
            raise NotConverged(f"no start was found: {_MOST_STAGES} steps from the start distribution do not reach the "
                               f"density; start nearer to it")  # fmt: skip
        target.beta, self.archive = None, self.t
        order = self.uniform(*self.t.shape[:2]).argsort(1)[:, : self.sampler.chains]
        self.t = self.t.gather(1, order[..., None].expand(-1, -1, self.t.shape[2]))
        self.logs = target(self.t)

    def _check_start(self, weight: Tensor) -> None:
        none = torch.isneginf(weight).all(1)
        if none.any():
            raise NotConverged(
                f"no start was found: the density of {int(none.sum())} of {len(weight)} observations, first of number "
                f"{int(none.nonzero()[0])}, is zero at all {self.sampler.start} draws of the start distribution; raise "
                f"start=, or look whether the observation can come from this model at all"
            )

    def _stage(self, beta: Tensor) -> Tensor:
        """Move the particles at power ``beta``, and resample them for the next."""
        self.target.beta = beta
        self.logs = self.target(self.t)
        self.archive = self.t
        kernel = SliceKernel(self)
        for _ in range(2):
            kernel.sweep(tune=True)
        v = self.target.box.values(self.t)
        weight = self.target.own(v) - self.target.start.tensor(v)
        following = _next_beta(weight, beta, weight.shape[1] / 2)
        picked = _resampled((following - beta) * weight, weight.shape[1], self.uniform(len(weight), 1))
        self.t = self.t.gather(1, picked[..., None].expand_as(self.t))
        return following

    def record(self, kernel: Kernel, length: int, before: Chains | None = None) -> Chains:
        """``length`` sweeps, behind those of ``before``."""
        kept, logs = [], []
        for _ in range(length):
            t = kernel.sweep()
            kept.append(self.target.box.values(t).numpy())
            logs.append((self.logs + self.target.box.slope(t)).numpy())
        samples, density = np.stack(kept, 2), np.stack(logs, 2)
        if before is not None:
            samples = np.concatenate([before.samples, samples], 2)
            density = np.concatenate([before.log_density, density], 2)
        return self._chains(samples, density, kernel)

    def _chains(self, samples: Floats, density: Floats, kernel: Kernel) -> Chains:
        each = np.moveaxis(samples, -1, 1)
        return Chains(
            self.target.start.names, samples, density, split_rhat(each), *effective_sizes(each),
            kernel.accepted.numpy().copy(), self.sampler.rhat, self.target.points,
        )  # fmt: skip


def _next_beta(weight: Tensor, beta: Tensor, least: float) -> Tensor:
    """The largest power (N, 1), up to 1, that leaves an effective size of ``least`` of the log weights (N, K).

    Particles without density count as lost at any power; where more than that are lost, the rest has to do.
    """
    alive = torch.isfinite(weight).sum(1, keepdim=True)
    aim = torch.minimum(torch.full_like(beta, least), alive * 0.9)
    low, high = beta.clone(), torch.ones_like(beta)
    done = _size((high - beta) * weight) >= aim
    for _ in range(50):
        middle = (low + high) / 2
        enough = _size((middle - beta) * weight) >= aim
        low, high = torch.where(enough, middle, low), torch.where(enough, high, middle)
    return torch.where(done, torch.ones_like(beta), low.clamp_min(1e-12))


def _size(logs: Tensor) -> Tensor:
    """Kish's effective size of log weights (N, K), (N, 1)."""
    found: Tensor = 2 * logs.logsumexp(1, keepdim=True) - (2 * logs).logsumexp(1, keepdim=True)
    return found.exp()


def _resampled(logs: Tensor, count: int, offset: Tensor) -> Tensor:
    """Rows (N, count) drawn by log weights (N, K), systematically: each as often as its share, rounded."""
    edges = torch.softmax(logs, 1).cumsum(1)
    at = (torch.arange(count, dtype=torch.float64) + offset) / count
    return torch.searchsorted(edges, at * edges[:, -1:]).clamp(max=logs.shape[1] - 1)


# -- posteriors that are sampled so ------------------------------------------------------------------------------------


class Sampling(NamedTuple):
    """What a sampled posterior has beside its likelihood, and how that is saved."""

    prior: Prior
    sampler: Sampler
    allow_unconverged: bool

    def to_json(self) -> dict[str, Any]:
        """A mapping with the keys prior, sampler and allow_unconverged."""
        sampler = {"type": type(self.sampler).__name__, **vars(self.sampler)}
        return {"prior": self.prior.to_json(), "sampler": sampler, "allow_unconverged": self.allow_unconverged}

    @classmethod
    def from_json(cls, spec: Mapping[str, Any], prior: PriorLike | None, inside: Inside | None) -> Sampling:
        """The inverse; prior and condition as of `Prior.from_json`."""
        options = {name: value for name, value in spec["sampler"].items() if name != "type"}
        sampler = (HMC if spec["sampler"]["type"] == "HMC" else Slice)(**options)
        found = Prior.from_json(spec["prior"], distribution=prior, inside=inside)
        return cls(found, sampler, bool(spec["allow_unconverged"]))


class SampledPosterior(Posterior):
    """A posterior prior x likelihood that can be evaluated: its draws are Markov chains.

    Its log densities have no norm: they are right up to a constant of each observation.  That of an observation without
    events, in a likelihood without a rate, is the prior.
    """

    sampler: Sampler
    allow_unconverged: bool

    @property
    def sampling(self) -> Sampling:
        """Prior and sampler."""
        return Sampling(self.prior, self.sampler, self.allow_unconverged)

    @abstractmethod
    def likelihood_of(self, observations: Events) -> LogDensity:
        """theta (N, C, P) -> the log likelihood (N, C) of N observations, in torch, up to a constant of each."""

    def chains(self, n: int, observations: Events, *, seed: int = 0) -> Chains:
        """The chains behind ``draws``, with their diagnostics.

        Raises
        ------
        NotConverged
            as `run_chains`.
        """
        likelihood = self.likelihood_of(observations)

        def log_density(theta: Tensor) -> Tensor:
            return likelihood(theta) + self.prior.tensor(theta)

        return run_chains(
            log_density, self.prior, n, sampler=self.sampler, observations=len(observations), seed=seed,
            allow_unconverged=self.allow_unconverged,
        )  # fmt: skip

    def draws(self, n: int, observations: Events, *, seed: int = 0) -> Floats:
        """``n`` draws (N, n, P) of theta for each of N observations; raises as `chains`."""
        return self.chains(n, observations, seed=seed).draws(n)

    def log_probs(self, theta: ArrayLike, observations: Events) -> Floats:
        """log prior + log likelihood (N, M) of theta (N, M, P), without norm; -inf outside the prior."""
        values = thetas_of(theta, self.names, len(observations))
        prior = self.prior.log_prob(values)
        inside = np.isfinite(prior)
        # the likelihood is not asked about points where it was never trained
        safe = np.where(inside[..., None], values, self.prior.sample(1, seed=0)[0])
        with torch.no_grad():
            found = self.likelihood_of(observations)(torch.from_numpy(safe)).numpy()
        return np.where(inside, prior + found, -np.inf)
