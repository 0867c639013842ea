"""What a test of goodness of fit found: p-value, toys, and where the data disagree."""

from __future__ import annotations

import math
from abc import abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, Self

import numpy as np
from numpy.typing import NDArray
from scipy import stats

from ... import store
from ...events import Events
from ...features import Features
from ...records import Arrays, Record
from ..significance import log_chi2_p, z_of_log_p, z_of_p
from .basis import Basis
from .rows import positions

if TYPE_CHECKING:
    from ...ensemble import Ensemble

__all__ = ["GoodnessOfFit", "KernelRatio", "LearnedRatio", "NetworkRatio"]

Floats = NDArray[np.float64]

_COMPATIBLE = 0.01  # p-value above which the toys pass for a chi2
_ENOUGH = 10  # toys beyond, from which on their share is precise enough


class LearnedRatio(Record):
    """A learned log n(x)/n_ref(x)."""

    _KIND = "goodness ratio"

    @abstractmethod
    def log(self, events: Events) -> Floats:
        """log n(x)/n_ref(x) (N,), with the rate."""

    @classmethod
    def _of(cls, spec: Mapping[str, Any], arrays: Mapping[str, NDArray[Any]]) -> Self:
        """That of the form that was saved."""
        if cls is LearnedRatio:
            form: Any = {"kernel": KernelRatio, "network": NetworkRatio}[spec["form"]]
            return form._of(spec, arrays)  # type: ignore[no-any-return]
        return super()._of(spec, arrays)


@dataclass(frozen=True, eq=False)
class KernelRatio(LearnedRatio):
    """A sum of the functions of ``basis`` of the flat ``columns``, with coefficients (r,)."""

    columns: tuple[str, ...]
    basis: Basis
    coefficients: Floats
    form: str = "kernel"

    def log(self, events: Events) -> Floats:
        """log n(x)/n_ref(x) (N,)."""
        x = positions(events, self.columns)
        return np.concatenate([np.empty(0), *(part @ self.coefficients for _, part in self.basis.pieces(x))])


@dataclass(frozen=True, eq=False)
class NetworkRatio(LearnedRatio):
    """A network's output plus ``offset``, over the reference at ``profiled`` (nothing without nuisances)."""

    features: Features
    network: Any
    model: Ensemble
    offset: float
    profiled: KernelRatio | None = None
    form: str = "network"

    def log(self, events: Events) -> Floats:
        """log n(x)/n_ref(x) (N,)."""
        found = self.model.log(self.features.tensors(events))[0] + self.offset
        return np.asarray(found if self.profiled is None else found + self.profiled.log(events))

    def _parts(self) -> tuple[dict[str, Any], Arrays]:
        from ...ensemble import spec_of

        spec = {"form": self.form, "features": self.features.to_json(), "network": spec_of(self.network)}
        arrays = store.under("model.", self.model.arrays()) | {"offset": np.asarray(self.offset)}
        if self.profiled is not None:
            spec["profiled"], own = self.profiled._parts()
            arrays |= store.under("profiled.", own)
        return spec, arrays

    @classmethod
    def _of(cls, spec: Mapping[str, Any], arrays: Mapping[str, NDArray[Any]]) -> Self:
        from ...ensemble import model_of, network_of

        features, network = Features.from_json(spec["features"]), network_of(spec["network"])
        model: Any = model_of(network, features.shape, store.within("model.", arrays))
        reference = None
        if "profiled" in spec:
            reference = KernelRatio._of(spec["profiled"], store.within("profiled.", arrays))
        return cls(features, network, model, float(arrays["offset"]), reference)


@dataclass(frozen=True, eq=False)
class GoodnessOfFit(Record):
    """Made by `goodness_of_fit`.

    Attributes
    ----------
    t:
        The statistic of the data.
    toys:
        That of the toys (T,), those whose fit converged.
    failed:
        How many did not; they count as beyond.
    dof, dof_error, compatibility:
        Of a chi2 through the toys, and the p-value of the toys' compatibility with it, fitted to one half of them.
    observed, expected:
        Events in the data, and of the reference.
    nuisances:
        Their values that fit the data best without the log-ratio, in standard deviations; "rate" is the logarithm of a
        free rate.
    ratio:
        What `log_ratio` calls.
    """

    _KIND = "goodness of fit"

    t: float
    toys: Floats
    failed: int
    dof: float
    dof_error: float
    compatibility: float
    observed: float
    expected: float
    nuisances: dict[str, float]
    ratio: LearnedRatio

    def log_ratio(self, events: Events) -> Floats:
        """The learned log n(x)/n_ref(x) at each event (N,): where, and by how much, the data disagree.

        It includes the rate; n_ref is the nominal reference.
        """
        return self.ratio.log(events)

    @property
    def beyond(self) -> int:
        """How many toys are at least at t, failed ones among them."""
        return int((self.toys >= self.t).sum()) + self.failed

    @property
    def p_toys(self) -> float:
        """(1 + beyond) / (1 + toys)."""
        return (self.beyond + 1) / (len(self.toys) + self.failed + 1)

    @property
    def p_upper(self) -> float:
        """The bound at 95% confidence on the share of toys beyond (Clopper-Pearson)."""
        count = len(self.toys) + self.failed
        return float(stats.beta.ppf(0.95, self.beyond + 1, count - self.beyond)) if self.beyond < count else 1.0

    @property
    def log_p_chi2(self) -> float:
        """The logarithm of the chi2's tail above t."""
        return float(log_chi2_p(max(self.t, 0.0), self.dof))

    @property
    def p_chi2(self) -> float:
        """The chi2's tail above t."""
        return math.exp(self.log_p_chi2)

    @property
    def z_chi2(self) -> float:
        """The significance of the chi2's tail."""
        return float(z_of_log_p(self.log_p_chi2))

    @property
    def compatible(self) -> bool:
        """Whether the toys pass for a chi2, and none failed."""
        return self.compatibility > _COMPATIBLE and not self.failed

    @property
    def valid(self) -> Literal["toys", "chi2", "bound"]:
        """Which p-value holds.

        ``"toys"`` where at least 10 are beyond, else ``"chi2"`` where they are compatible with it, else ``"bound"``:
        only `p_upper` is known, and more toys are needed.
        """
        if self.beyond >= _ENOUGH:
            return "toys"
        return "chi2" if self.compatible else "bound"

    @property
    def p(self) -> float:
        """The p-value that holds, see `valid`."""
        return {"toys": self.p_toys, "chi2": self.p_chi2, "bound": self.p_upper}[self.valid]

    @property
    def z(self) -> float:
        """The significance of `p`, a lower bound where that is an upper one."""
        if self.valid == "chi2":
            return self.z_chi2
        count = len(self.toys) + self.failed
        return float(z_of_p(min(self.p, count / (count + 1))))  # Z of p = 1 is -inf

    def __repr__(self) -> str:
        sign = {"toys": ("=", "="), "chi2": ("=", "="), "bound": ("<", ">")}[self.valid]
        fails = f", {self.failed} failed" if self.failed else ""
        return (
            f"GoodnessOfFit(t = {self.t:.2f}, p {sign[0]} {self.p:.3g}, Z {sign[1]} {self.z:.2f} ({self._word()}); "
            f"{self.observed:g} events, {self.expected:.6g} expected; {len(self.toys)} toys{fails}, chi2 of "
            f"{self.dof:.1f} +- {self.dof_error:.1f} dof, compatibility p = {self.compatibility:.2g})"
        )

    def _word(self) -> str:
        if self.valid == "toys":
            return f"of {self.beyond} toys beyond"
        if self.valid == "chi2":
            return "of the chi2 through the toys"
        return "95% bound; the toys are no chi2, take more of them"
