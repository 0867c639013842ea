"""K densities of standardised columns that are evaluated as one: what all kinds of them have in common."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Sequence
from typing import ClassVar

from torch import Tensor

from ..features import Batch
from ..nets import Stack, State
from ..store import under, within
from ..train import Draw

__all__ = ["DensityStack", "LogDensities"]

_INNER = "embedding."


class DensityStack(Stack):
    """K densities of ``targets`` standardised columns y, given ``context`` numbers.

    A batch has the flat columns of x, then those of y, then those that `draw` adds in training; the outputs (K, B) are
    what training maximises.

    Parameters
    ----------
    spec:
        What is trained.
    targets:
        Columns of y, standardised.
    context:
        Numbers that the density is given: the flat columns before those of y, or the outputs of ``embedding``.
    embedding:
        A stack for the flat columns before those of y and the clouds, with ``context`` outputs; None for no clouds.
    """

    drawn = 0  # columns that `draw` adds
    quick: ClassVar[bool] = True  # whether log q costs no more than a draw does

    def __init__(self, spec: object, targets: int, context: int, embedding: Stack | None = None) -> None:
        self.spec, self.targets, self.context, self.embedding = spec, targets, context, embedding

    @abstractmethod
    def own(self, seed: int, members: Sequence[int]) -> State:
        """The initial state without that of the embedding."""

    @abstractmethod
    def log_prob(self, state: State, y: Tensor, given: Tensor, *, training: bool = False) -> Tensor:
        """Log q (K, B) of standardised y (K, D, B), for numbers ``given`` (K, C, B)."""

    @abstractmethod
    def inverse(self, state: State, z: Tensor, given: Tensor) -> Tensor:
        """Standardised y (B, D) of standard normal z (B, D) and ``given`` (1, C, B), for one member."""

    def draw(self, seed: int) -> Draw | None:
        """What completes the rows in training, None for nothing."""
        return None

    def given(self, state: State, batch: Batch, *, training: bool = False) -> Tensor:
        """The numbers (K, C, B) that the density is given, of a batch without y."""
        if self.embedding is None:
            return batch.flat.transpose(1, 2)
        found = self.embedding(within(_INNER, state), batch, training=training)
        return found[:, None] if found.ndim == 2 else found.transpose(1, 2)

    def log_density(self, state: State, batch: Batch, *, training: bool = False) -> Tensor:
        """Log q (K, B) of a batch with the columns of x and y."""
        before = batch.flat.shape[-1] - self.targets
        given = self.given(state, Batch(batch.flat[..., :before], batch.clouds), training=training)
        return self.log_prob(state, batch.flat[..., before:].transpose(1, 2), given, training=training)

    def initial(self, seed: int, members: Sequence[int]) -> State:
        """That of `own`, and that of the embedding."""
        inner = self.embedding.initial(seed, members) if self.embedding is not None else {}
        return self.own(seed, members) | under(_INNER, inner)

    def trainable(self, state: State) -> tuple[str, ...]:
        """All but what the embedding calls buffers."""
        inner = self.embedding.trainable(within(_INNER, state)) if self.embedding is not None else ()
        return (*(n for n in state if not n.startswith(_INNER)), *(f"{_INNER}{name}" for name in inner))

    def reseed(self, seeds: Callable[[], Sequence[int]]) -> None:
        """Offered to the embedding."""
        if self.embedding is not None:
            self.embedding.reseed(seeds)

    def describe(self) -> str:
        """The spec, the sizes, and the embedding."""
        inner = "" if self.embedding is None else f" of {self.embedding.describe()}"
        return f"{self.spec} of {self.targets} columns given {self.context} numbers{inner}"


class LogDensities(Stack):
    """The same networks with log q as output, where training maximises something else."""

    def __init__(self, stack: DensityStack) -> None:
        self.stack = stack

    def initial(self, seed: int, members: Sequence[int]) -> State:
        """That of the stack."""
        return self.stack.initial(seed, members)

    def __call__(self, state: State, batch: Batch, *, training: bool = False) -> Tensor:
        """Log q (K, B)."""
        return self.stack.log_density(state, batch, training=training)
