"""The result of a profiled unfolding: the truth's weights, the nuisances and the response at them."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import ArrayLike, NDArray

from .... import store
from ....events import Events
from ....features import Features
from ....nets import Network
from ....train import Training
from ....trees import Trees
from ...binning import BinningLike
from ...spectrum import Spectrum
from ..result import Unfolded

if TYPE_CHECKING:
    from ...checks import Checks, Thresholds

__all__ = ["Profiled"]

Floats = NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class Profiled:
    """An unfolding with fitted nuisances; made by `profiled_omnifold`.

    Attributes
    ----------
    unfolded:
        Weights of the truth, nu alone: they do not contain W, so that its own `check` refuses; there is one here.
    names:
        Of the P nuisances.
    trajectory:
        (iterations + 1, members, P): the nuisances of each member, where they started and after each iteration.
    nuisance_replicas:
        (replicas, P): those of the bootstraps.
    response:
        (members, events): W at the fitted nuisances, 1 for events without truth or reco.
    """

    unfolded: Unfolded
    names: tuple[str, ...]
    trajectory: Floats
    nuisance_replicas: Floats
    response: Floats

    @property
    def nuisances(self) -> Floats:
        """The fitted nuisances of each member (members, P)."""
        return np.asarray(self.trajectory[-1])

    @property
    def values(self) -> dict[str, float]:
        """The members' mean, by name."""
        return dict(zip(self.names, self.nuisances.mean(0).tolist(), strict=True))

    @property
    def folded(self) -> Floats:
        """Weights (members, events), nu W, of what is *reconstructed*: with them the simulation looks like the data.

        Those of ``unfolded`` alone leave it with the detector that was simulated: compare the data with these.
        """
        return np.asarray(self.unfolded.weights * self.response)

    @property
    def covariance(self) -> Floats:
        """Of the nuisances (P, P), by the bootstraps: data, simulation, constraints, and the noise of one network.

        Raises
        ------
        ValueError
            with fewer than two of them.
        """
        if len(self.nuisance_replicas) < 2:
            raise ValueError(f"covariance of the nuisances: expected bootstraps, found {len(self.nuisance_replicas)}; "
                             f"give bootstrap= of 20 or more")  # fmt: skip
        found: Floats = np.atleast_2d(np.cov(self.nuisance_replicas, rowvar=False))
        return found

    @property
    def errors(self) -> dict[str, float]:
        """The roots of the covariance's diagonal, by name."""
        return dict(zip(self.names, np.sqrt(np.diag(self.covariance)).tolist(), strict=True))

    def spectrum(self, bins: BinningLike, *, iteration: int | None = None, reconstructed: bool = False) -> Spectrum:
        """As `Unfolded.spectrum`: its statistical covariance contains the nuisances."""
        return self.unfolded.spectrum(bins, iteration=iteration, reconstructed=reconstructed)

    def check(
        self, *, truth: BinningLike, reco: BinningLike, features: Features | list[str] | None = None,
        closed: Profiled | Unfolded | None = None,
        pseudo_data: Mapping[str, tuple[Profiled | Unfolded, ArrayLike]] | None = None,
        pseudo_experiments: tuple[Sequence[Profiled | Unfolded | Spectrum], ArrayLike] | None = None,
        priors: Mapping[str, Profiled | Unfolded] | None = None, network: Network | Trees | None = None,
        training: Training | None = None, seed: int = 0, data: Events | None = None,
        background: Events | None = None, thresholds: Thresholds | None = None,
    ) -> Checks:  # fmt: skip
        """As `Unfolded.check`, with the data in reco beside the simulation weighted by `folded`, nu W.

        Others may be profiled too.

        Raises
        ------
        ValueError
            without data where the result does not know them, as one that was loaded; and as the checks.
        """
        from ...checks import Thresholds, check_events

        known, data, background = self.unfolded._known(data, background)
        experiments = None if pseudo_experiments is None else (
            [run if isinstance(run, Spectrum) else _plain(run) for run in pseudo_experiments[0]], pseudo_experiments[1]
        )  # fmt: skip
        return check_events(
            known, data, folded=replace(known, weights=self.folded), background=background, truth=truth, reco=reco,
            features=Features.from_json(known.settings["reco"]) if features is None else features,
            closed=None if closed is None else _plain(closed), pseudo_experiments=experiments, network=network,
            training=training, seed=seed,
            pseudo_data={name: (_plain(run), own) for name, (run, own) in (pseudo_data or {}).items()},
            priors={name: _plain(run) for name, run in (priors or {}).items()}, group=known.group,
            thresholds=thresholds or Thresholds(),
        )  # fmt: skip

    def __repr__(self) -> str:
        errors = self.errors if len(self.nuisance_replicas) > 1 else {}
        moved = ", ".join(
            f"{name} {start:.4g} -> {self.values[name]:.4g}" + (f" +- {errors[name]:.2g}" if errors else "")
            for name, start in zip(self.names, self.trajectory[0].mean(0), strict=True)
        )
        return f"Profiled({moved}; {self.unfolded!r})"

    # -- files ---------------------------------------------------------------------------------------------------------

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write everything but the simulation to one safetensors file."""
        spec, arrays = self.unfolded.saved()
        own = {"nuisances.trajectory": self.trajectory, "nuisances.replicas": self.nuisance_replicas,
               "nuisances.response": self.response}  # fmt: skip
        store.save(path, "profiled unfolding", {"unfolded": spec, "names": list(self.names)}, {**arrays, **own})

    @classmethod
    def load(cls, path: str | os.PathLike[str], simulation: Events) -> Profiled:
        """Read what `save` wrote, for the same simulation, in the same order.

        Raises
        ------
        CorruptFile
            for a damaged file; ``ValueError`` for a simulation with other ids or weights, or a file of another kind.
        """
        spec, arrays = store.load(path, "profiled unfolding")
        own = [arrays.pop(f"nuisances.{name}") for name in ("trajectory", "replicas", "response")]
        unfolded = Unfolded.of_saved(spec["unfolded"], arrays, simulation, path)
        return cls(unfolded, tuple(spec["names"]), *own)


def _plain(run: Profiled | Unfolded) -> Unfolded:
    """The truth's weights of a profiled result; others as they are."""
    return run.unfolded if isinstance(run, Profiled) else run
