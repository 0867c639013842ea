"""A Gaussian problem of unfolding with its samples, for the tests of methods that unfold events."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

from nuinfer import Events
from nuinfer.simulators import Gaussian, GaussianUnfolding


@dataclass(frozen=True)
class Samples:
    """Samples of ``n`` simulated true events, and the recursion from their moments."""

    problem: GaussianUnfolding
    n: int = 20_000
    seed: int = 1

    @cached_property
    def simulation(self) -> Events:
        return self.problem.simulation(self.n, self.seed)

    @cached_property
    def data(self) -> Events:
        return self.problem.data(self.n, self.seed)

    @cached_property
    def background(self) -> Events | None:
        return None if self.problem.background_density is None else self.problem.background(self.n, self.seed)

    @cached_property
    def states(self) -> list[Gaussian]:
        return self.problem.sample_recursion(4, self.simulation, self.data, self.background)
