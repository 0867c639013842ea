"""An unfolded spectrum in bins: the one result of every method, with its covariance by source and what it smears.

Regularised answers are biased towards their prior.  Where that is linear, or is made linear at the data, it is told by
the *additional smearing matrix* A_C: a model s is compared with the spectrum as A_C s, `Spectrum.chi2` does so, and no
model is ever to be compared without it (Tang, Li, Qian, Zhang, Zhang, arXiv 1705.03568).
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import special

from .. import metrics, store
from .binning import Binning
from .response import Response

if TYPE_CHECKING:
    import hist

__all__ = ["Chi2", "Spectrum"]

Floats = NDArray[np.float64]


class Chi2(NamedTuple):
    """A chi-squared, its degrees of freedom, and the probability of a larger one."""

    value: float
    dof: int
    p_value: float


@dataclass(frozen=True, eq=False)
class Spectrum:
    """An unfolded spectrum of B bins, in events.

    Attributes
    ----------
    binning:
        The bins; arrays below are in their order.
    values:
        (B,).
    covariances:
        Covariances (B, B) by source, independent of each other: "data", "simulation", "background", and by their names
        those of systematics; of `omnifold` "statistical" (data and simulation, over bootstrap replicas) and "method"
        (of the members' mean).  A source that is not known is not there.
    smearing:
        The additional smearing matrix A_C (B, B); None where a method has none.
    members, replicas:
        Spectra of an ensemble's members (K, B) and of replicas (R, B); none for binned methods.
    corrected:
        Whether the efficiency is in it.  Of a binned method it always is.
    settings:
        How it was made.
    """

    binning: Binning
    values: Floats
    covariances: Mapping[str, Floats]
    smearing: Floats | None = None
    members: Floats = field(default_factory=lambda: np.empty((0, 0)))
    replicas: Floats = field(default_factory=lambda: np.empty((0, 0)))
    corrected: bool = True
    settings: dict[str, Any] = field(default_factory=dict)

    @property
    def covariance(self) -> Floats:
        """The sum (B, B) over all sources; ``ValueError`` without any."""
        if not self.covariances:
            raise ValueError("no covariance without replicas: unfold with bootstrap=R replicas, or members=K > 1 for "
                             "the method's part alone")  # fmt: skip
        return np.asarray(sum(self.covariances.values()))

    @property
    def uncertainty(self) -> Floats:
        """Square roots (B,) of the covariance's diagonal."""
        return np.sqrt(np.diag(self.covariance))

    @property
    def density(self) -> Floats:
        """Values (B,) divided by the bins' widths."""
        return np.asarray(self.values / self.binning.widths)

    @property
    def names(self) -> tuple[str, ...]:
        """The columns of the bins."""
        return self.binning.names

    @property
    def edges(self) -> tuple[Floats, ...]:
        """Edges, one array a column, of bins that are a grid; ``ValueError`` of others."""
        if self.binning.grid is None:
            raise ValueError(f"{self.binning!r}: expected a grid for edges by column, found slices with edges of their "
                             f"own; use binning.cells")  # fmt: skip
        return self.binning.grid

    # -- comparisons

    def smear(self, model: ArrayLike) -> Floats:
        """A_C x model (..., B): what a model's truth would have been unfolded to; the model itself without A_C."""
        found = np.asarray(model, np.float64)
        if found.shape[-1:] != self.values.shape:
            raise ValueError(f"model: expected {len(self.values)} bins, found shape {found.shape}")
        return found if self.smearing is None else np.asarray(found @ self.smearing.T)

    def chi2(self, model: ArrayLike, *, covariance: ArrayLike | None = None) -> Chi2:
        """Chi-squared (u - A_C s)^T C^+ (u - A_C s) of a model's truth s (B,).

        C is the covariance of all sources, and ``covariance`` (B, B) of the model is added.  Where regularisation has
        taken directions away, C has no inverse; directions of less than 1e-12 of its largest correlation are left out
        and do not count as degrees of freedom.

        Raises
        ------
        ValueError
            for a model of other bins, or no covariance.
        """
        difference = self.values - self.smear(model)
        total = self.covariance + (0.0 if covariance is None else np.asarray(covariance, np.float64))
        value, dof = quadratic_form(difference, total)
        return Chi2(value, dof, float(special.chdtrc(dof, value)))

    def positive(self) -> Spectrum:
        """With the nearest covariance without negative eigenvalues for each source: to be drawn, source by source.

        A source's covariance from a regression on throws scatters about the true one, and may come out below 0 where
        the source does little; the sum of all sources grows by what was below.
        """
        return replace(self, covariances={name: _positive(c) for name, c in self.covariances.items()})

    def corrected_for_efficiency(self, response: Response) -> Spectrum:
        """Divided by the efficiency of each bin.

        Raises
        ------
        ValueError
            for a spectrum that is corrected already, as those of binned methods are, or a response of other bins.
        """
        if self.corrected:
            raise ValueError("efficiency: expected a spectrum of reconstructed truth, found one that is corrected "
                             "already; dividing twice would overestimate it")  # fmt: skip
        self.binning.check_same("response", response.truth)
        factor = 1 / response.efficiency
        outer = np.outer(factor, factor)
        return replace(
            self, values=self.values * factor, covariances={n: c * outer for n, c in self.covariances.items()},
            members=self.members * factor if self.members.size else self.members,
            replicas=self.replicas * factor if self.replicas.size else self.replicas, corrected=True,
        )  # fmt: skip

    # -- elsewhere

    def hist(self) -> hist.Hist[Any]:
        """The same as ``hist.Hist`` with ``Weight`` storage, the variances being the covariance's diagonal.

        Bins that are no grid become one axis of bin numbers.
        """
        import hist as histlib

        grid = self.binning.grid
        if grid is None:
            axes: list[Any] = [histlib.axis.Integer(0, self.binning.size, name="bin", flow=False)]
        else:
            axes = [histlib.axis.Variable(e, name=n) for n, e in zip(self.names, grid, strict=True)]
        filled: hist.Hist[Any] = histlib.Hist(*axes, storage=histlib.storage.Weight())
        view: Any = filled.view()
        view["value"] = self.values.reshape(self.binning.shape)
        view["variance"] = np.diag(self.covariance).reshape(self.binning.shape)
        return filled

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write everything to one safetensors file, atomically."""
        store.save(path, "spectrum", *self.saved())

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> Spectrum:
        """Read what `save` wrote; ``CorruptFile`` for a damaged file, ``ValueError`` for another kind."""
        return cls.of_saved(*store.load(path, "spectrum"))

    def saved(self) -> tuple[dict[str, Any], dict[str, NDArray[Any]]]:
        """Spec and arrays, for a file that holds more."""
        spec = {"binning": self.binning.to_json(), "sources": list(self.covariances), "corrected": self.corrected,
                "settings": self.settings}  # fmt: skip
        arrays = {"values": self.values, "members": self.members, "replicas": self.replicas}
        arrays |= {f"covariance.{i}": c for i, c in enumerate(self.covariances.values())}
        return spec, arrays | ({} if self.smearing is None else {"smearing": self.smearing})

    @classmethod
    def of_saved(cls, spec: Mapping[str, Any], arrays: Mapping[str, NDArray[Any]]) -> Spectrum:
        """The inverse of `saved`."""
        covariances = {name: arrays[f"covariance.{i}"] for i, name in enumerate(spec["sources"])}
        return cls(
            Binning.from_json(spec["binning"]), arrays["values"], covariances, arrays.get("smearing"),
            arrays["members"], arrays["replicas"], spec["corrected"], spec["settings"],
        )  # fmt: skip

    def __repr__(self) -> str:
        total = f"{self.values.sum():.6g}"
        if self.covariances:
            total += f" +- {np.sqrt(self.covariance.sum()):.3g}"
        return (f"Spectrum({self.binning!r}; total {total}; sources {', '.join(self.covariances) or 'none'}"
                f"{'' if self.corrected else '; not corrected for efficiency'})")  # fmt: skip


def of_replicas(
    binning: Binning, members: Floats, replicas: Floats, *, corrected: bool = True, settings: dict[str, Any]
) -> Spectrum:
    """The spectrum of an ensemble: the mean of its members (K, B), covariances from replicas (R, B) and members."""
    covariances = {}
    if len(replicas) > 1:
        covariances["statistical"] = metrics.replica_covariance(replicas)
    if len(members) > 1:
        covariances["method"] = metrics.replica_covariance(members) / len(members)
    return Spectrum(binning, members.mean(0), covariances, None, members, replicas, corrected, settings)


def _positive(covariance: Floats) -> Floats:
    values, vectors = np.linalg.eigh(covariance)
    return np.asarray((vectors * np.maximum(values, 0.0)) @ vectors.T)


def quadratic_form(difference: Floats, covariance: Floats, *, smallest: float = 1e-12) -> tuple[float, int]:
    """d^T C^+ d and the rank of C (B, B), in units of its diagonal; smaller eigenvalues than ``smallest`` are left out.

    Bins without variance have to agree exactly, else the form is infinite.
    """
    sigma = np.sqrt(np.diag(covariance))
    if (sigma == 0).any() and np.abs(difference[sigma == 0]).max() > 0:
        return np.inf, int((sigma > 0).sum())
    seen = sigma > 0
    scaled, unit = difference[seen] / sigma[seen], np.outer(sigma[seen], sigma[seen])
    values, vectors = np.linalg.eigh(covariance[np.ix_(seen, seen)] / unit)
    kept = values > smallest * values[-1]
    return float((((vectors.T @ scaled)[kept]) ** 2 / values[kept]).sum()), int(kept.sum())
