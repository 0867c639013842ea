"""Log density ratios by boosted trees: scikit-learn's histogram gradient boosting, one network number after the other.

Where the classes are different events, a boosted classifier with each class scaled to the same total weight gives
f = log p1/p0.  Where one sample carries both weights, as in OmniFold's second step, a boosted Poisson regression of
w1/w0 with weights w0 does: its deviance is the maximum-likelihood-classifier loss of `nuinfer.losses`, with one row an
event.

With signed weights boosting fails silently, so they are refused, or factorised::

    p1(x)/p0(x) = (q1(x)/q0(x)) (E1[s | x] / E0[s | x]) / (E1[s] / E0[s]),      q in abs(w), s = sign w.

Columns are binned here, once: half of the edges at even quantiles, half at quantiles even in the log odds, so that the
tails, where weights are largest, are not one bin each.  scikit-learn sees bin numbers (its own weighted quantiles cost
more than growing the trees), and events in the same bins are evaluated once.

Fitted trees are kept as arrays of nodes, saved as such, and evaluated by scikit-learn's own predictor.

Source: Friedman, Ann. Statist. 29 (2001) 1189; Ke et al., LightGBM, NeurIPS 2017.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from scipy import special

from .resample import Resample

__all__ = ["Forest", "Trees", "fit_forest"]

_log = logging.getLogger("nuinfer")

Floats = NDArray[np.float64]


@dataclass(frozen=True, kw_only=True)
class Trees:
    """Histogram gradient boosting for flat columns: fast for few columns, one member after the other.

    Parameters
    ----------
    iterations, learning_rate:
        At most so many trees, each added with this factor.
    leaves, min_leaf, l2, bins:
        Leaves of a tree, fewest events of a leaf, regularisation of leaf values, histogram bins of a column.
    patience:
        Boosting stops after so many trees without a better validation risk; None never stops early.
    signed:
        What to do with negative weights: "refuse" them, or "factorised" (see the module), which raises where a mean
        sign is not positive.
    """

    iterations: int = 60
    leaves: int = 16
    learning_rate: float = 0.15
    min_leaf: int = 100
    l2: float = 0.0
    bins: int = 255
    patience: int | None = 10
    signed: Literal["refuse", "factorised"] = "refuse"

    def __post_init__(self) -> None:
        for name in ("iterations", "leaves", "min_leaf", "patience"):
            value = getattr(self, name)
            if value is not None and (not isinstance(value, int) or value < 1):
                raise ValueError(f"Trees: expected {name} to be an integer of at least 1, found {value!r}")
        if not (self.learning_rate > 0 and self.l2 >= 0):
            raise ValueError(
                f"Trees: expected a positive learning_rate and l2 of at least 0, found {self.learning_rate} and "
                f"{self.l2}"
            )
        if not 2 <= self.bins <= 255:
            raise ValueError(f"Trees: expected bins from 2 to 255, found {self.bins}")
        if self.signed not in ("refuse", "factorised"):
            raise ValueError(f"Trees: expected signed to be 'refuse' or 'factorised', found {self.signed!r}")


@dataclass(frozen=True)
class Boost:
    """One boosted sum: ``baseline`` + the leaf values of all ``trees`` (structured arrays of nodes)."""

    baseline: float
    trees: tuple[NDArray[Any], ...]

    def __call__(self, x: Floats) -> Floats:
        """The sum (N,) at x (N, D) float64."""
        from sklearn.ensemble._hist_gradient_boosting.predictor import TreePredictor

        none = np.zeros((0, 8), np.uint32)
        index = np.zeros(x.shape[1], np.uint32)
        total = np.full(len(x), self.baseline)
        for nodes in self.trees:
            total += TreePredictor(nodes, none, none).predict(x, none, index, 1)
        return total


@dataclass(frozen=True)
class Forest:
    """The log ratios of K networks by boosting; ``signs`` holds (numerator, denominator) boosts of P(w > 0 | x)."""

    edges: tuple[Floats, ...]  # of the bins of each column
    ratios: tuple[Boost, ...]
    signs: tuple[tuple[Boost, Boost, float], ...] = ()

    @property
    def networks(self) -> int:
        """How many networks it holds."""
        return len(self.ratios)

    def log(self, x: Floats, networks: Sequence[int] | None = None) -> Floats:
        """Log ratios (K, N) at x (N, D)."""
        codes, place = _distinct(_codes(x, self.edges))
        wanted = range(self.networks) if networks is None else networks
        return np.stack([self._one(n, codes, place)[place] for n in wanted])

    def _one(self, network: int, x: Floats, place: NDArray[np.int64] | slice) -> Floats:
        value = self.ratios[network](x)
        if not self.signs:
            return value
        numerator, denominator, offset = self.signs[network]
        one, other = (np.log(_mean_sign(boost, x, place)) for boost in (numerator, denominator))
        return np.asarray(value + one - other - offset)

    def arrays(self) -> dict[str, NDArray[Any]]:
        """Names and arrays to save: the nodes field by field, the tree each begins, the boosts' baselines."""
        boosts = list(self.ratios) + [boost for one, other, _ in self.signs for boost in (one, other)]
        nodes = np.concatenate([tree for boost in boosts for tree in boost.trees])
        counts = [[len(tree) for tree in boost.trees] for boost in boosts]
        fields = {f"nodes.{name}": np.ascontiguousarray(nodes[name]) for name in nodes.dtype.names or ()}
        return fields | {
            "trees": np.array([n for boost in counts for n in boost], np.int64),
            "boosts": np.array([len(boost) for boost in counts], np.int64),
            "baselines": np.array([boost.baseline for boost in boosts]),
            "sign_offsets": np.array([offset for *_, offset in self.signs], np.float64),
            "edges": np.concatenate(self.edges),
            "edge_counts": np.array([len(edges) for edges in self.edges], np.int64),
        }

    @classmethod
    def of_arrays(cls, arrays: Mapping[str, NDArray[Any]]) -> Forest:
        """The inverse of `arrays`."""
        from sklearn.ensemble._hist_gradient_boosting.common import PREDICTOR_RECORD_DTYPE

        nodes = np.zeros(len(arrays["nodes.value"]), PREDICTOR_RECORD_DTYPE)
        for name in nodes.dtype.names or ():
            nodes[name] = arrays[f"nodes.{name}"]
        trees = np.split(nodes, np.cumsum(arrays["trees"])[:-1])
        ends = np.cumsum(arrays["boosts"])
        boosts = [
            Boost(float(base), tuple(trees[end - count : end]))
            for base, count, end in zip(arrays["baselines"], arrays["boosts"], ends, strict=True)
        ]
        offsets = arrays["sign_offsets"]
        count = len(boosts) // 3 if len(offsets) else len(boosts)
        pairs = zip(boosts[count::2], boosts[count + 1 :: 2], offsets, strict=True) if len(offsets) else ()
        edges = tuple(np.split(arrays["edges"], np.cumsum(arrays["edge_counts"])[:-1]))
        return cls(edges, tuple(boosts[:count]), tuple((one, other, float(offset)) for one, other, offset in pairs))


def _mean_sign(boost: Boost, x: Floats, place: NDArray[np.int64] | slice) -> Floats:
    """E[sign | x] = 2 P(w > 0 | x) - 1 of distinct x; raises where it is not positive, for the rows ``place`` of x."""
    mean = np.tanh(boost(x) / 2)
    bad = np.flatnonzero(~(mean > 0)[place])
    if len(bad):
        raise ValueError(
            f"Trees: expected a positive mean sign of the weights everywhere, found {mean[place][bad[0]]:.3g} at row "
            f"{bad[0]} and {len(bad)} rows in all; the density is negative there as far as the trees can tell: use a "
            f"network"
        )
    return mean


def fit_forest(
    x: Floats, weights: tuple[Floats, Floats], key: NDArray[np.int64], resample: Resample, trees: Trees, *, threads: int
) -> Forest:
    """Boost the log ratio of each network of ``resample``.

    Parameters
    ----------
    x:
        Columns (N, D).
    weights:
        Numerator and denominator weights, each (N,) or (networks, N).
    key:
        What ``resample`` hashes (N,).

    Raises
    ------
    ValueError
        for negative weights unless ``trees.signed`` is "factorised", and where a mean sign is not positive.
    """
    edges = tuple(_bin_edges(column, trees.bins) for column in x.T)
    codes = _codes(x, edges)
    ratios, signs = [], []
    for network in range(resample.networks):
        w1, w0 = (np.asarray(w[network] if w.ndim == 2 else w, np.float64) for w in weights)
        train = resample.times(network, key, held_out=False)
        held = resample.times(network, key, held_out=True)
        _check_totals(network, ("numerator", w1), ("denominator", w0), train)
        signed = bool((w1 < 0).any() or (w0 < 0).any())
        if signed and trees.signed == "refuse":
            raise ValueError(
                f"Trees: expected weights that are not negative, found {int((w1 < 0).sum() + (w0 < 0).sum())} negative "
                f"ones, on which boosting fails silently; use a network such as MLP(), or Trees(signed='factorised')"
            )
        with _threads(threads):
            ratios.append(_boost_ratio(codes, np.abs(w1), np.abs(w0), train, held, trees, network))
            if signed:
                one, other = (_boost_sign(codes, w, train, held, trees, network) for w in (w1, w0))
                offset = np.log(np.dot(w1, train) / np.dot(np.abs(w1), train))
                offset -= np.log(np.dot(w0, train) / np.dot(np.abs(w0), train))
                signs.append((one, other, float(offset)))
    if ratios and not any(len(tree) > 1 for boost in ratios for tree in boost.trees):
        _log.warning("no tree found a split, so the ratio is 1: %d rows may be too few for min_leaf=%d; try "
                     "a smaller one, or a network", len(x), trees.min_leaf)  # fmt: skip
    return Forest(edges, tuple(ratios), tuple(signs))


_SAMPLE = 1 << 20  # rows that quantiles are taken from


def _bin_edges(column: NDArray[Any], bins: int) -> Floats:
    """At most ``bins - 1`` edges between distinct values of a column (N,)."""
    some = np.sort(column[:: len(column) // _SAMPLE + 1].astype(np.float64))
    distinct = some[np.concatenate([[True], np.diff(some) > 0])]
    if len(distinct) > bins:
        even = np.arange(1, bins // 2) / (bins // 2)
        farthest = np.log(2 * len(some))
        odds = special.expit(np.linspace(-farthest, farthest, bins - 1 - len(even)))
        place = np.unique((np.concatenate([even, odds]) * (len(some) - 1)).astype(np.int64))
        distinct = np.unique(some[np.concatenate([place, [len(some) - 1]])])
    return np.asarray((distinct[:-1] + distinct[1:]) / 2)


def _codes(x: NDArray[Any], edges: Sequence[Floats]) -> Floats:
    """Bin numbers (N, D), as the floats that scikit-learn takes."""
    codes = np.empty(x.shape)
    for i, e in enumerate(edges):
        codes[:, i] = np.searchsorted(e, x[:, i])
    return codes


def _distinct(codes: Floats) -> tuple[Floats, NDArray[np.int64] | slice]:
    """The distinct rows of bin numbers, and where each row is among them.

    For at most 8 columns, which one integer of 64 bits holds; with more, all rows as they are.
    """
    if codes.shape[1] > 8:
        return codes, slice(None)
    packed = np.zeros(len(codes), np.uint64)
    for column in codes.T:
        packed = packed * np.uint64(256) + column.astype(np.uint64)
    _, first, place = np.unique(packed, return_index=True, return_inverse=True)
    return np.ascontiguousarray(codes[first]), place


def _check_totals(network: int, one: tuple[str, Floats], other: tuple[str, Floats], train: Any) -> None:
    for name, weight in (one, other):
        total = float(np.dot(weight, train))
        if not total > 0:
            raise ValueError(
                f"{name}: expected a positive total weight in the training rows of every network, found {total:g} for "
                f"network {network}; use more events, fewer folds or another validation fraction"
            )


def _threads(count: int) -> Any:
    from threadpoolctl import threadpool_limits

    return threadpool_limits(count)


def _settings(trees: Trees, network: int, validated: bool) -> dict[str, Any]:
    return {
        "learning_rate": trees.learning_rate, "max_iter": trees.iterations, "max_leaf_nodes": trees.leaves,
        "min_samples_leaf": trees.min_leaf, "l2_regularization": trees.l2, "max_bins": trees.bins,
        "early_stopping": validated and trees.patience is not None, "n_iter_no_change": trees.patience or 10,
        "random_state": network, "tol": 0.0,
    }  # fmt: skip


def _boost_ratio(x: Floats, w1: Floats, w0: Floats, train: Any, held: Any, trees: Trees, network: int) -> Boost:
    from sklearn.ensemble import HistGradientBoostingClassifier, HistGradientBoostingRegressor

    settings = _settings(trees, network, bool(held.any()))
    both = (w1 > 0) & (w0 > 0)
    if both.any() and bool((w0 > 0)[w1 > 0].all()):
        # one sample with two weights: regress their ratio, normalised so that its mean is 1
        scale = np.dot(w0, train) / np.dot(w1, train)
        target = np.divide(w1, w0, out=np.zeros_like(w1), where=w0 > 0) * scale
        model = HistGradientBoostingRegressor(loss="poisson", **settings)
        return _fitted(model, x, target, w0, train, held)
    rows = [np.flatnonzero(w > 0) for w in (w1, w0)]
    index = np.concatenate(rows)
    label = np.repeat([1, 0], [len(r) for r in rows])
    weight = np.concatenate([w[r] / np.dot(w, train) for w, r in zip((w1, w0), rows, strict=True)])
    model = HistGradientBoostingClassifier(**settings)
    return _fitted(model, x[index], label, weight * len(index), train[index], held[index])


def _boost_sign(x: Floats, weight: Floats, train: Any, held: Any, trees: Trees, network: int) -> Boost:
    from sklearn.ensemble import HistGradientBoostingClassifier

    used = np.flatnonzero((weight != 0) & ((train > 0) | (held > 0)))
    label = (weight[used] > 0).astype(int)
    if label.min() == label.max():  # one sign only: P(w > 0 | x) is 1 or 0 everywhere
        return Boost(40.0 if label[0] else -40.0, ())
    model = HistGradientBoostingClassifier(**_settings(trees, network, bool(held.any())))
    return _fitted(model, x[used], label, np.abs(weight[used]), train[used], held[used])


def _fitted(model: Any, x: Floats, y: Any, weight: Floats, train: Any, held: Any) -> Boost:
    rows = np.flatnonzero((train > 0) & (weight > 0))
    checks = np.flatnonzero((held > 0) & (weight > 0))
    held_out: dict[str, Any] = {}
    if model.early_stopping:
        held_out = {"X_val": x[checks], "y_val": y[checks], "sample_weight_val": weight[checks] * held[checks]}
    model.fit(x[rows], y[rows], weight[rows] * train[rows], **held_out)
    trees = tuple(stage[0].nodes for stage in model._predictors)
    return Boost(float(np.ravel(model._baseline_prediction)[0]), trees)
