r"""An unfolded spectrum in bins: the one result of every method, with its covariance by source and what it smears.

Regularised answers are biased towards their prior.  Where that is linear, or is made linear at the data, it is told by
the *additional smearing matrix* A_C: a model s is compared with the spectrum as A_C s, `Spectrum.chi2` does so, and no
model is ever to be compared without it (Tang, Li, Qian, Zhang, Zhang, arXiv 1705.03568).

**Covariances of replicas.**  The inverse of a covariance from n replicas is too large by (n - 1)/(n - p - 2) on
average, p its rank, and the form with it is no chi-squared but Hotelling's T^2.  `Spectrum.chi2` divides by that factor
(Hartlap, Simon, Schneider, astro-ph/0608064), so that a right model has p on average, and takes its probability from
Fisher's distribution.  Of a sum C of covariances only some of which, C_i, are of n_i replicas or members, and others
exact, n is the effective number, rounded down,

.. math:: n = 1 + \frac{p + p^2}{\sum_i \big[\mathrm{tr}\,(C_i C^+)^2 + (\mathrm{tr}\, C_i C^+)^2\big] / (n_i - 1)}

(Krishnamoorthy, Yu, Stat. Prob. Lett. 66 (2004) 161): n_i where all is of replicas, and infinite where nothing
is.  It is n_i as well where n_i is at most p + 2, and more than nine tenths of the variance of a combination of bins
are of those, or all n_i - 1 directions of the replicas are there but C has no variance in others: directions that so
few have not seen would count as known.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Executor
from dataclasses import dataclass, field, replace
from functools import partial
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import special

from .. import metrics, store
from .binning import Binning
from .measured import Counts, contents
from .response import Response, reference_of

if TYPE_CHECKING:
    import hist

    from .checks import Checks, Thresholds

__all__ = ["Chi2", "Spectrum"]

Floats = NDArray[np.float64]

#: Of a combination of bins, the share of its variance that may be of no more draws than degrees of freedom + 2.
_MOST = 0.9

#: Data in reco bins and the response -> the unfolded spectrum; background and options are the function's own.
Unfold = Callable[[Counts, Response], "Spectrum"]


class Chi2(NamedTuple):
    """A chi-squared, its degrees of freedom, and the probability of a larger one."""

    value: float
    dof: int
    p_value: float


@dataclass(frozen=True, eq=False, kw_only=True)
class Origin:
    """What a spectrum was unfolded from, by reference, and how to unfold again.

    Attributes
    ----------
    method:
        ``method(data, response)``, all options as they were.
    data, response, background, covariance:
        As in `Measured.of`.
    prior:
        The method's name of its prior, "" for none.
    iterations:
        The spectrum (T,) after each.
    expected:
        Counts (R,) expected in the data, where their variances are to be used; None for those of the data.
    """

    method: Callable[..., Spectrum]
    data: Counts
    response: Response
    background: Counts = None
    covariance: ArrayLike | None = None
    prior: str = ""
    iterations: tuple[Floats, ...] = ()
    expected: Floats | None = None

    def with_variances(self) -> Origin:
        """With the variances of data that are weighted as their covariance, which contents alone would lose."""
        if self.covariance is not None:
            return self
        found, variance = contents("data", self.data, self.response.reco)
        if variance is None or np.allclose(variance, found):
            return self
        return replace(self, method=partial(self.method, covariance=variance), covariance=variance)

    def from_prior(self, name: str, prior: ArrayLike) -> Spectrum:
        """The same data from another prior, reference or model (T,); ``ValueError`` where the method has none."""
        if not self.prior:
            raise ValueError(f"priors: expected spectra, found contents of {name!r}; unfold the same data with it")
        given = reference_of(prior, self.response, f"prior {name!r}")
        return partial(self.method, **{self.prior: given})(self.data, self.response)


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

    Of a binned method it knows, in memory and until it is changed, what it was unfolded from, for `check`.  What is
    made from it, by ``replace``, `positive`, a copy or a file, does not: the method would not give that again.
    """

    binning: Binning
    values: Floats
    covariances: Mapping[str, Floats]
    smearing: Floats | None = None
    members: Floats = field(default_factory=lambda: np.empty((0, 0)))
    replicas: Floats = field(default_factory=lambda: np.empty((0, 0)))
    corrected: bool = True
    settings: dict[str, Any] = field(default_factory=dict)
    _origin: Origin | None = field(default=None, init=False)  # not of ``init``, so that ``replace`` leaves it out

    def __getstate__(self) -> dict[str, Any]:
        return {**vars(self), "_origin": None}  # data do not travel with their spectrum

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

        C is the covariance of all sources, and ``covariance`` (B, B) of the model, taken as exact, is added.  Where
        regularisation has taken directions away, C has no inverse; directions of less than 1e-12 of its largest
        correlation are left out and do not count as degrees of freedom.

        Of replicas the value has Hartlap's factor in it, and the probability is that of Hotelling's T^2: see the
        module.  `nuinfer.metrics.chi2` of ``covariance`` has neither.

        Raises
        ------
        ValueError
            for a model of other bins, no covariance, or one of no more replicas than degrees of freedom + 2.
        """
        total = self.covariance + (0.0 if covariance is None else np.asarray(covariance, np.float64))
        return compared(self.values - self.smear(model), total, self._estimated())

    @property
    def draws(self) -> float:
        """The effective number of replicas behind the covariance, see the module; infinite where it is of none."""
        return effective_draws(self.covariance, self._estimated())

    @property
    def enough_draws(self) -> bool:
        """Whether the covariance is of enough replicas for `chi2`: more than its rank + 2."""
        return self.draws > len(whitening(self.covariance)) + 2

    def _estimated(self, *, method: bool = False) -> list[tuple[Floats, int]]:
        """The covariances (B, B) that are of replicas or members, and of how many; of ``method`` alone on request."""
        found = []
        if len(self.replicas) > 1 and not method:
            found.append((metrics.replica_covariance(self.replicas), len(self.replicas)))
        if "method" in self.covariances and len(self.members) > 1:
            found.append((self.covariances["method"], len(self.members)))
        return found

    def check(
        self,
        *,
        models: Mapping[str, ArrayLike] | None = None,
        pseudo_data: Mapping[str, tuple[Counts, ArrayLike]] | None = None,
        priors: Mapping[str, Spectrum | ArrayLike] | None = None,
        iterations: Sequence[ArrayLike] | None = None,
        toys: int = 500,
        seed: int = 0,
        data: Counts = None,
        response: Response | None = None,
        unfold: Unfold | None = None,
        background: Counts = None,
        covariance: ArrayLike | None = None,
        executor: Executor | None = None,
        thresholds: Thresholds | None = None,
        progress: bool = True,
    ) -> Checks:
        """All checks of `nuinfer.unfolding.check`, with what this spectrum was unfolded from.

        Parameters
        ----------
        models, pseudo_data, toys, seed, executor, thresholds, progress:
            As there.
        priors:
            By name, another prior, reference or model (T,) from which to unfold the same data, or what was unfolded.
        iterations:
            The spectrum after each; None for those of the method itself.
        data, response, unfold, background, covariance:
            As there, of a spectrum that was loaded, copied or changed, and of one with nuisances; none of a spectrum as
            a binned method returns it.

        Raises
        ------
        ValueError
            for a spectrum that does not know what it was unfolded from, and as the checks.

        Examples
        --------
        >>> from nuinfer import Events
        >>> from nuinfer.unfolding import iterative_bayes
        >>> events = Events({"t": [0.5, 0.5, 1.5, 1.5], "x": [0.4, 1.2, 1.4, 9.0]})
        >>> response = Response.from_events(events, truth={"t": [0, 1, 2]}, reco={"x": [0, 1, 2]})
        >>> found = iterative_bayes([1e4, 3e4], response, iterations=100)
        >>> print(found.check(models={"flat": [3e4, 3e4]}, toys=0)["bottom line"].passed)
        True
        """
        from .checks import Thresholds, check  # below this room: nothing here depends on it

        given = (data, response, unfold, background, covariance)
        origin = self._from(data, response, unfold, background, covariance)
        found = {n: p if isinstance(p, Spectrum) else origin.from_prior(n, p) for n, p in (priors or {}).items()}
        own = origin.iterations if all(g is None for g in given) else ()
        return check(
            self, origin.data, origin.response, origin.method, background=origin.background,
            covariance=origin.covariance, models=models, pseudo_data=pseudo_data, priors=found,
            iterations=own if iterations is None else iterations, toys=toys, seed=seed, executor=executor,
            expected=origin.expected, thresholds=thresholds or Thresholds(), progress=progress,
        )  # fmt: skip

    def _from(
        self, data: Counts, response: Response | None, unfold: Unfold | None, background: Counts,
        covariance: ArrayLike | None,
    ) -> Origin:  # fmt: skip
        """What is given, or what is known."""
        if data is not None and response is not None and unfold is not None:
            return Origin(method=unfold, data=data, response=response, background=background, covariance=covariance)
        if any(g is not None for g in (data, response, unfold, background, covariance)):
            raise ValueError("check: expected data=, response= and unfold= together, with background= and covariance= "
                             "where there are any, or none of them; a part of them would not be what was "
                             "unfolded")  # fmt: skip
        if self._origin is None:
            raise ValueError("check: expected a spectrum as a binned method returns it, found one that does not know "
                             "what it was unfolded from (loaded, copied, changed, or with nuisances or sidebands); "
                             "give data=, response=, unfold=, and background= and covariance= where there are "
                             "any")  # fmt: skip
        return self._origin.with_variances()

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


def made_from(spectrum: Spectrum, origin: Origin) -> Spectrum:
    """The same, which knows what it was unfolded from."""
    found = replace(spectrum)
    object.__setattr__(found, "_origin", origin)
    return found


def quadratic_form(difference: Floats, covariance: Floats, *, smallest: float = 1e-12) -> tuple[float, int]:
    """d^T C^+ d and the rank of C (B, B), in units of its diagonal; smaller eigenvalues than ``smallest`` are left out.

    Bins without variance have to agree exactly, else the form is infinite.
    """
    sigma = np.sqrt(np.diag(covariance))
    if (sigma == 0).any() and np.abs(difference[sigma == 0]).max() > 0:
        return np.inf, int((sigma > 0).sum())
    whitened = whitening(covariance, smallest=smallest) @ difference
    return float((whitened**2).sum()), len(whitened)


def compared(difference: Floats, covariance: Floats, estimated: Sequence[tuple[Floats, int]]) -> Chi2:
    """The chi-squared of a difference (B,), where parts of the covariance (B, B) are of replicas: see the module."""
    value, dof = quadratic_form(difference, covariance)
    draws = effective_draws(covariance, estimated)
    if not np.isfinite(draws):
        return Chi2(value, dof, float(special.chdtrc(dof, value)))
    return Chi2(metrics.hartlap(int(draws), dof) * value, dof, metrics.hotelling(value, int(draws), dof))


def effective_draws(total: Floats, estimated: Sequence[tuple[Floats, int]]) -> float:
    """The number of replicas, rounded down, behind a sum of covariances parts of which are of so many."""
    root = whitening(total)
    p, spread = len(root), 0.0
    singular = p < np.count_nonzero(np.diag(total))
    for own, count in estimated:  # a part is at most the whole, up to what `positive` and rounding change
        share = np.clip(np.linalg.eigvalsh(root @ own @ root.T), 0.0, 1.0)
        few = singular and np.linalg.matrix_rank(own, hermitian=True) >= count - 1
        if count <= p + 2 and (few or share.max(initial=0.0) > _MOST):
            return float(count)
        spread += ((share**2).sum() + share.sum() ** 2) / (count - 1)
    return float(np.floor(1 + (p + p**2) / spread + 1e-6)) if spread > 0 else np.inf


def whitening(covariance: Floats, *, smallest: float = 1e-12) -> Floats:
    """W (p, B) of W^T W = C^+, p the rank of C (B, B), as `quadratic_form` counts it."""
    sigma = np.sqrt(np.diag(covariance))
    seen = np.flatnonzero(sigma > 0)
    if not len(seen):
        return np.zeros((0, len(sigma)))
    unit = np.outer(sigma[seen], sigma[seen])
    values, vectors = np.linalg.eigh(covariance[np.ix_(seen, seen)] / unit)
    kept = values > smallest * values[-1]
    found = np.zeros((int(kept.sum()), len(sigma)))
    found[:, seen] = (vectors[:, kept] / np.sqrt(values[kept])).T / sigma[seen]
    return found
