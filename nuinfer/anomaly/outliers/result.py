"""A fitted autoencoder: scores, thresholds, what makes an event an outlier, and its file."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from ... import store
from ...ensemble import Ensemble
from ...errors import check_finite
from ...events import Events
from ...ratio.learned import key_of, shares
from ...resample import Resample
from ...train import History
from .objects import Layout
from .thresholds import Threshold, rate_threshold
from .vae import KINDS, VAE, AutoencoderStack, Evaluated, Kind

__all__ = ["Autoencoder"]

Floats = NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class Autoencoder:
    """Fitted autoencoders; made by `fit_autoencoder`.

    Attributes
    ----------
    layout:
        Columns, objects and scales.
    network:
        What was asked for.
    beyond:
        For each kind of objects, the fraction of the training events with more of them than are seen.
    history:
        Risks per epoch and network.
    """

    layout: Layout
    network: VAE
    model: Ensemble
    resample: Resample
    history: History
    beyond: tuple[float, ...] = ()
    group: str | None = None
    known: NDArray[np.int64] | None = None
    sample_digest: str = ""

    def score(self, events: Events, by: Kind = "reconstruction") -> Floats:
        """The mean of the members' scores (N,): "reconstruction", "latent", "kl" or "elbo".

        Known events are scored by the networks of their own fold where there are folds, others by the mean of all.

        Raises
        ------
        ValueError
            for another score, one of the divergence where beta is 0, or columns that are not finite, or so large that
            scores are not.
        KeyError, TypeError
            for columns that are missing or of the wrong kind.
        """
        return np.asarray(self.members(events, by).mean(0))

    def members(self, events: Events, by: Kind = "reconstruction") -> Floats:
        """Each member's score (K, N)."""
        if by not in KINDS:
            raise ValueError(f"by: expected one of {', '.join(KINDS)}, found {by!r}")
        beta = self.network.beta
        if by in ("kl", "elbo") and not beta:
            raise ValueError(f"by: expected 'reconstruction' or 'latent' of an autoencoder with beta=0, found {by!r}")
        error, square, divergence = np.moveaxis(self._evaluated(events, "scores"), -1, 0)
        each = {"reconstruction": error, "latent": square, "kl": divergence, "elbo": error + beta * divergence}
        return np.asarray(each[by])

    def means(self, events: Events) -> Floats:
        """The latent means (K, N, L) of each member, which has axes of its own.

        Raises
        ------
        ValueError
            with folds, whose networks have axes of their own too; and as `score`.
        """
        if self.resample.folds > 1:
            raise ValueError(f"means: expected an autoencoder without folds, found {self.resample.folds}, each "
                             f"with latent axes of its own")  # fmt: skip
        return self._evaluated(events, "means")

    def errors(self, events: Events) -> dict[str, Floats]:
        """What each column adds to the score "reconstruction" (N,), by name: what makes an event an outlier."""
        found = self._evaluated(events, "errors").mean(0)
        return dict(zip((*self.layout.names, *self.layout.masks), found.T.copy(), strict=True))

    def threshold(self, events: Events, rate: float, by: Kind = "reconstruction") -> Threshold:
        """The threshold that accepts a fraction ``rate`` of the weight of ``events``: see `rate_threshold`.

        Give events that the networks were not trained on, or an autoencoder with folds.
        """
        return rate_threshold(self.score(events, by), rate, weight=events.weight)

    def _evaluated(self, events: Events, what: Literal["scores", "means", "errors"]) -> Floats:
        """Outputs (K, N, C) of each member, by the networks of each event's own fold."""
        inputs, stack = self.layout.inputs(events), Evaluated(stack_of(self.network, self.layout), what)
        found = Ensemble(stack, self.model.state, self.model.standardise.first(inputs.flat.shape[1])).log(inputs)
        check_finite("outputs of the networks, in single precision", np.abs(found).max((0, 2)))
        r = self.resample
        if r.folds == 1:
            return found
        known = np.empty(0, np.int64) if self.known is None else self.known
        share = shares(r, key_of(events, self.group), known)
        return np.asarray(np.einsum("mfn,mfnc->mnc", share, found.reshape(r.members, r.folds, *found.shape[1:])))

    def __repr__(self) -> str:
        r = self.resample
        folds = f" x {r.folds} folds" if r.folds > 1 else ""
        kinds = [f"{o.count} {o.name}" for o in self.layout.objects]
        more = [f"{100 * f:.2g}% of events have more {o.name}"
                for o, f in zip(self.layout.objects, self.beyond, strict=False) if f]  # fmt: skip
        return (f"Autoencoder({self.network}, {r.members} member{'s' if r.members > 1 else ''}{folds}, "
                f"{', '.join([*self.layout.flat, *kinds])}{''.join(f'; {text}' for text in more)})")  # fmt: skip

    # -- files

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write everything to one safetensors file, atomically."""
        spec = {"layout": self.layout.to_json(), "network": asdict(self.network), "resample": vars(self.resample),
                "beyond": list(self.beyond), "group": self.group, "sample": self.sample_digest}  # fmt: skip
        scales = {name: tensor.numpy() for name, tensor in self.layout.scales.arrays().items()}
        known = {} if self.known is None else {"known": self.known}
        store.save(path, "anomaly autoencoder", spec, {
            **store.under("model.", self.model.arrays()), **store.under("scales.", scales), **known,
            **self.history.arrays(),
        })  # fmt: skip

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> Autoencoder:
        """Read what `save` wrote.

        Raises
        ------
        CorruptFile
            for a file that is damaged; ``ValueError`` for one of another kind; ``FileNotFoundError`` for none.
        """
        spec, arrays = store.load(path, "anomaly autoencoder")
        return cls._of(spec, arrays)

    @classmethod
    def _of(cls, spec: Mapping[str, Any], arrays: Mapping[str, NDArray[Any]]) -> Autoencoder:
        layout, network = Layout.from_json(spec["layout"], store.within("scales.", arrays)), VAE(**spec["network"])
        model = Ensemble.of_arrays(stack_of(network, layout), store.within("model.", arrays))
        return cls(layout, network, model, Resample(**spec["resample"]), History.of_arrays(arrays),
                   tuple(spec["beyond"]), spec["group"], arrays.get("known"), spec["sample"])  # fmt: skip


def stack_of(network: VAE, layout: Layout) -> AutoencoderStack:
    """The networks of a spec for a layout."""
    return AutoencoderStack(network, layout.owners, len(layout.masks))
