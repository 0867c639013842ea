"""`nuinfer.events`: each method against a loop over events, in plain Python."""

from __future__ import annotations

import pickle
from collections.abc import Callable, Sequence
from typing import Any

import awkward as ak
import hist
import numpy as np
import pytest
from scipy import stats

import nuinfer as nu
from nuinfer import Events, Ragged
from nuinfer.events import positive_total

RNG = np.random.default_rng(20)


def make(n: int = 200, seed: int = 1, first: int = 0) -> Events:
    """Events with flat, boolean and ragged columns, a cloud, a lone ragged column, signed weights, own ids."""
    rng = np.random.default_rng(seed)
    counts, tracks = rng.poisson(2.0, n), rng.poisson(1.0, n)
    hits = np.append(0, np.cumsum(counts))
    return Events(
        {
            "x": rng.normal(size=n),
            "n": rng.integers(0, 9, n),
            "good": rng.random(n) < 0.5,
            "hits.x": Ragged(rng.normal(size=hits[-1]), hits),
            "hits.q": Ragged(rng.integers(0, 5, hits[-1]), hits),
            "track": Ragged(rng.normal(size=tracks.sum()).astype(np.float32), np.append(0, np.cumsum(tracks))),
        },
        weight=rng.normal(1, 1, n),
        id=np.arange(first, first + n) * 7 - 50,
    )


def as_lists(events: Events) -> list[dict[str, Any]]:
    """One dictionary per event: the naive picture that everything is compared with."""
    rows: list[dict[str, Any]] = []
    for i in range(len(events)):
        row: dict[str, Any] = {"weight": float(events.weight[i]), "id": int(events.id[i])}
        for name in events:
            column = events[name]
            if isinstance(column, Ragged):
                row[name] = column.values[column.offsets[i] : column.offsets[i + 1]].tolist()
            else:
                row[name] = column[i].item()
        rows.append(row)
    return rows


EVENTS = make()
ROWS = as_lists(EVENTS)
MASK = RNG.random(len(EVENTS)) < 0.3
PICKED = RNG.integers(-len(EVENTS), len(EVENTS), 500)


# -- construction ------------------------------------------------------------------------------------------------------


def test_ragged_of_lists() -> None:
    lists = [[1.0, 2.0], [], [3.0], [], []]
    column = Ragged.of(lists)
    assert [column.values[a:b].tolist() for a, b in zip(column.offsets, column.offsets[1:], strict=False)] == lists
    assert column.counts.tolist() == [2, 0, 1, 0, 0]
    assert column.rows == 5
    assert column.offsets.dtype == np.int64
    assert Ragged.of([]).rows == 0
    assert Ragged.of([[], []]).counts.tolist() == [0, 0]
    assert Ragged.of([[1, 2], [], [3]]).values.dtype.kind == "i"


def test_defaults() -> None:
    events = Events({"x": [1.5, 2.5], "k": np.array([1, 2], np.int16)})
    assert events.weight.tolist() == [1.0, 1.0]
    assert (events.weight.dtype, events.id.dtype) == (np.float64, np.int64)
    assert events["k"].dtype == np.int16
    assert (len(events), events.columns, list(events)) == (2, ("x", "k"), ["x", "k"])
    assert "x" in events
    assert "y" not in events
    assert nu.Events is Events


def test_events_of_weights_alone() -> None:
    assert len(Events({}, weight=[1.0, 2.0])) == 2
    assert len(Events({}, id=[1, 2, 3])) == 3


def test_other_byte_order_is_turned() -> None:
    events = Events({"x": np.array([1.5, -2.0], ">f4")}, weight=np.array([1, 2], ">f8"), id=np.array([1, 2], ">i4"))
    assert events["x"].dtype == np.dtype(np.float32)
    assert events["x"].tolist() == [1.5, -2.0]
    assert events.weight.dtype.isnative
    assert events.id.tolist() == [1, 2]


def test_content_ids_follow_contents_and_rows() -> None:
    x = np.arange(1000.0)
    same, other = Events({"x": x}).id, Events({"x": x + 1}).id
    assert np.array_equal(Events({"x": x.copy()}).id, same)
    assert len(np.unique(same)) == 1000
    assert not np.isin(same, other).any()
    assert not np.isin(same, Events({"y": x}).id).any()
    hits = Ragged(x, np.array([0, 400, 1000]))
    assert not np.isin(Events({"h": hits}).id, Events({"h": Ragged(x, np.array([0, 500, 1000]))}).id).any()


def test_construction_shares_memory() -> None:
    x, values, offsets = np.arange(5.0), np.arange(7), np.array([0, 1, 1, 4, 7, 7])
    weight, ids = np.ones(5), np.arange(5)
    events = Events({"x": x, "h.a": Ragged(values, offsets)}, weight=weight, id=ids)
    pairs = [(events["x"], x), (events["h.a"].values, values), (events["h.a"].offsets, offsets)]
    assert all(np.shares_memory(a, b) for a, b in [*pairs, (events.weight, weight), (events.id, ids)])
    x[0] = 9.0  # the user's own array stays theirs to write
    assert x.flags.writeable


def test_a_cloud_shares_its_offsets_and_others_do_not() -> None:
    offsets = np.array([0, 2, 3])
    columns = {name: Ragged(np.arange(3.0), offsets.copy()) for name in ("h.x", "h.y", "k.x")}
    columns["h.z"] = Ragged(np.arange(3.0), np.array([0, 1, 3]))
    events = Events(columns)
    assert events["h.x"].offsets is events["h.y"].offsets
    assert events["h.x"].offsets is not events["h.z"].offsets
    assert events["h.z"].counts.tolist() == [1, 2]


# -- frozen ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "made",
    [
        EVENTS,
        EVENTS.select(MASK),
        EVENTS.select(slice(3, 50)),
        EVENTS.with_columns(y=np.ones(200)),
        EVENTS.with_weight(2.0),
        EVENTS.bootstrap(seed=1),
        Events.concat([EVENTS, EVENTS]),
        pickle.loads(pickle.dumps(EVENTS)),
        Events(EVENTS.to_awkward()),
    ],
    ids=["made", "mask", "slice", "with_columns", "with_weight", "bootstrap", "concat", "pickle", "awkward"],
)
def test_everything_is_read_only(made: Events) -> None:
    parts = [made.weight, made.id]
    for name in made:
        parts += list(made[name]) if isinstance(made[name], Ragged) else [made[name]]
    for part in parts:
        with pytest.raises(ValueError, match="read-only"):
            part[:1] = 0


def test_attributes_are_frozen() -> None:
    for name in ("weight", "id", "_columns", "anything"):
        with pytest.raises(
            AttributeError, match=f"frozen: use with_columns or with_weight instead of setting {name!r}"
        ):
            setattr(EVENTS, name, 1)
    with pytest.raises(AttributeError, match="'weight' cannot be deleted"):
        del EVENTS.weight
    with pytest.raises(TypeError, match="does not support item assignment"):
        EVENTS["x"] = 1  # type: ignore[index]


def test_pickle() -> None:
    again = pickle.loads(pickle.dumps(EVENTS))
    assert as_lists(again) == ROWS
    assert again["hits.x"].offsets is again["hits.q"].offsets


def test_repr() -> None:
    text = repr(Events({"x": [1, 2], "h": Ragged.of([[1.0], []])}, weight=[1, 3]))
    assert text == "Events(2 events: x int64, h ragged float64; sum of weights 4, effective size 1.6)"
    assert repr(Events({}, weight=[1])) == "Events(1 events: no columns; sum of weights 1, effective size 1)"
    assert "(20 columns)" in repr(Events({f"x{i}": [1] for i in range(20)}))


# -- what is in it -----------------------------------------------------------------------------------------------------


def test_flat_and_ragged() -> None:
    assert EVENTS.flat("x") is EVENTS["x"]
    assert EVENTS.ragged("hits.x") is EVENTS["hits.x"]
    with pytest.raises(TypeError, match=r"'hits.x': expected a flat column .* found a ragged one with \d+ values"):
        EVENTS.flat("hits.x")
    with pytest.raises(TypeError, match="'x': expected a ragged column"):
        EVENTS.ragged("x")
    with pytest.raises(KeyError, match=r"no column 'hit.x'; closest: 'hits.x'"):
        EVENTS["hit.x"]


def test_key() -> None:
    assert EVENTS.key() is EVENTS.id
    assert EVENTS.key("n").tolist() == EVENTS["n"].tolist()
    assert EVENTS.key("n").dtype == np.int64
    with pytest.raises(TypeError, match="group column 'x': expected integers, found float64"):
        EVENTS.key("x")
    with pytest.raises(TypeError, match=r"'hits.q': expected a flat column"):
        EVENTS.key("hits.q")


def test_sum_and_effective_size() -> None:
    weights = [row["weight"] for row in ROWS]
    assert EVENTS.sum_weights == pytest.approx(sum(weights), rel=1e-12)
    assert EVENTS.effective_size == pytest.approx(sum(weights) ** 2 / sum(w * w for w in weights), rel=1e-12)
    assert Events({}, weight=np.full(10, 3.0)).effective_size == pytest.approx(10)
    assert Events({}, weight=[0.0, 0.0]).effective_size == 0.0
    assert Events({}, weight=[]).sum_weights == 0.0


# -- select ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("rows", "expected"),
    [
        (MASK, [row for row, keep in zip(ROWS, MASK, strict=True) if keep]),
        (MASK.tolist(), [row for row, keep in zip(ROWS, MASK, strict=True) if keep]),
        (PICKED, [ROWS[i] for i in PICKED]),
        (PICKED.astype(np.int16), [ROWS[i] for i in PICKED]),
        (np.array([3, 250 - 256 + 10], np.uint8), [ROWS[3], ROWS[4]]),
        ([5, 5, 2], [ROWS[5], ROWS[5], ROWS[2]]),
        ([], []),
        (np.zeros(200, bool), []),
        (slice(None), ROWS),
        (slice(10, 50), ROWS[10:50]),
        (slice(-5, None), ROWS[-5:]),
        (slice(50, 10), []),
        (slice(190, 999), ROWS[190:999]),
        (slice(3, 100, 7), ROWS[3:100:7]),
        (slice(None, None, -1), ROWS[::-1]),
        (slice(0, 0), []),
    ],
)
def test_select_is_the_loop(rows: Any, expected: list[dict[str, Any]]) -> None:
    selected = EVENTS.select(rows)
    assert as_lists(selected) == expected
    assert selected.columns == EVENTS.columns
    assert selected["hits.x"].offsets is selected["hits.q"].offsets
    assert all(selected[name].offsets[0] == 0 for name in ("hits.x", "track"))
    assert [selected[n].dtype for n in ("x", "n", "good")] == [EVENTS[n].dtype for n in ("x", "n", "good")]


def test_a_slice_copies_nothing() -> None:
    part = EVENTS.select(slice(20, 180)).select(slice(10, 100))
    for name in ("x", "n", "good"):
        assert np.shares_memory(part[name], EVENTS[name])
    assert np.shares_memory(part["hits.q"].values, EVENTS["hits.q"].values)
    assert np.shares_memory(part.weight, EVENTS.weight)
    assert np.shares_memory(part.id, EVENTS.id)
    assert as_lists(part) == ROWS[30:120]


@pytest.mark.parametrize(
    ("rows", "error", "message"),
    [
        (np.ones(199, bool), ValueError, r"one boolean per event \(200\), found 199"),
        ([200], IndexError, "numbers below 200, found 200 to 200"),
        ([-201], IndexError, "numbers below 200"),
        ([0.5], TypeError, "expected booleans or integers, found float64"),
        (["x"], TypeError, "expected booleans or integers"),
        ([[0, 1]], ValueError, r"one dimension, found shape \(1, 2\)"),
        (3, ValueError, r"one dimension, found shape \(\)"),
    ],
)
def test_select_refuses(rows: Any, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        EVENTS.select(rows)


# -- columns and weights -----------------------------------------------------------------------------------------------


def test_keep() -> None:
    kept = EVENTS.keep(["track", "x"])
    assert kept.columns == ("track", "x")
    assert as_lists(kept) == [{k: row[k] for k in ("weight", "id", "track", "x")} for row in ROWS]
    assert kept["x"] is EVENTS["x"]
    with pytest.raises(KeyError, match="no column 'y'"):
        EVENTS.keep(["y"])


def test_with_columns() -> None:
    y = RNG.normal(size=200)
    hits = EVENTS["hits.x"]
    more = EVENTS.with_columns({"hits.t": Ragged(hits.values * 2, hits.offsets.copy())}, y=y, n=np.zeros(200))
    expected = [
        {**row, "hits.t": [2 * v for v in row["hits.x"]], "y": float(v), "n": 0.0}
        for row, v in zip(ROWS, y, strict=True)
    ]
    assert as_lists(more) == expected
    assert more.columns == (*EVENTS.columns, "hits.t", "y")
    assert "y" not in EVENTS
    assert np.shares_memory(more["x"], EVENTS["x"])
    assert np.shares_memory(more["y"], y)
    assert more["hits.t"].offsets is more["hits.x"].offsets
    with pytest.raises(ValueError, match=r"one length, found y 3, \(weight\) 200"):
        EVENTS.with_columns(y=[1, 2, 3])
    with pytest.raises(ValueError, match="one length, found h 1"):
        EVENTS.with_columns(h=Ragged.of([[1]]))


def test_with_weight() -> None:
    weight = RNG.normal(size=200)
    other = EVENTS.with_weight(weight)
    assert as_lists(other) == [{**row, "weight": w} for row, w in zip(ROWS, weight, strict=True)]
    assert other["x"] is EVENTS["x"]
    assert np.shares_memory(other.weight, weight)
    assert EVENTS.with_weight(2).weight.tolist() == [2.0] * 200
    with pytest.raises(ValueError, match=r"one length, found \(weight\) 3, \(id\) 200"):
        EVENTS.with_weight([1, 2, 3])
    with pytest.raises(
        ValueError, match=r"weight: expected finite values, found 1 of 200 not finite, first at rows 7 \(nan\)"
    ):
        EVENTS.with_weight(np.where(np.arange(200) == 7, np.nan, 1.0))
    with pytest.raises(ValueError, match="expected finite"):
        EVENTS.with_weight(np.inf)


def test_scaled_to() -> None:
    scaled = EVENTS.scaled_to(12.5)
    assert scaled.sum_weights == pytest.approx(12.5, rel=1e-12)
    np.testing.assert_allclose(scaled.weight / EVENTS.weight, 12.5 / EVENTS.sum_weights)
    assert EVENTS.scaled_to(0.0).sum_weights == 0.0


@pytest.mark.parametrize(
    ("weight", "message"),
    [
        ([], "expected events, found an empty sample"),
        ([0.0, 0.0], "found 2 weights that are all zero"),
        ([1.0, -3.0, 1.0], "found -1 from 3 events, 1 of them negative"),
    ],
)
def test_a_total_that_is_not_positive_is_refused(weight: Sequence[float], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Events({}, weight=weight).scaled_to(1.0)
    with pytest.raises(ValueError, match=f"simulation: .*{message}"):
        positive_total("simulation", np.array(weight))
    assert positive_total("x", np.array([3.0, -1.0])) == 2.0


# -- splits, folds, bootstraps -----------------------------------------------------------------------------------------

MANY = Events({"parent": np.arange(100_000) // 5}, id=np.arange(100_000))


@pytest.mark.parametrize("fractions", [0.25, [0.25, 0.75], [0.1, 0.2, 0.7], [0.5, 0.0, 0.5], 1.0])
def test_split_has_the_fractions(fractions: Any) -> None:
    parts = MANY.split(fractions, seed=3)
    given = np.array([fractions, 1 - fractions] if np.isscalar(fractions) else fractions)
    sizes = np.array([len(part) for part in parts])
    assert len(parts) == len(given)
    sigma = np.sqrt(len(MANY) * given * (1 - given))
    assert np.all(np.abs(sizes - len(MANY) * given) <= 4 * sigma)
    together = np.concatenate([part.id for part in parts])
    assert np.array_equal(np.sort(together), MANY.id)  # each event in exactly one part
    assert all(np.all(np.diff(part.id) > 0) for part in parts)  # in their order


def test_other_seeds_split_otherwise() -> None:
    one, other = (set(MANY.split(0.5, seed=seed)[0].id.tolist()) for seed in (1, 2))
    assert abs(len(one & other) - 25_000) < 4 * np.sqrt(1e5 * 3 / 16)  # independent: a quarter is in both


def test_split_follows_the_id_through_a_selection() -> None:
    a, _ = MANY.split(0.3, seed=5)
    order = RNG.permutation(len(MANY))[:30_000]
    b, _ = MANY.select(order).split(0.3, seed=5)
    assert set(b.id.tolist()) == set(a.id.tolist()) & set(order.tolist())


@pytest.mark.parametrize("fractions", [[0.5, 0.6], -0.1, 1.5, [0.5], []])
def test_split_refuses_other_fractions(fractions: Any) -> None:
    with pytest.raises(ValueError, match="fractions that are not negative and sum to 1"):
        MANY.split(fractions, seed=1)


def test_folds_partition() -> None:
    folds = MANY.folds(5, seed=1)
    counts = np.bincount(folds, minlength=5)
    assert counts.sum() == len(MANY)
    assert stats.chisquare(counts).pvalue > 1e-4
    order = RNG.permutation(len(MANY))
    assert np.array_equal(MANY.select(order).folds(5, seed=1), folds[order])
    assert not np.array_equal(MANY.folds(5, seed=2), folds)
    for k in (1, 0):
        with pytest.raises(ValueError, match=f"at least 2 folds, found {k}"):
            MANY.folds(k, seed=1)


def test_split_folds_and_bootstrap_are_independent() -> None:
    """The same seed for all three must not make a fold prefer the events of a split."""
    in_a = np.isin(MANY.id, MANY.split(0.5, seed=1)[0].id)
    table = np.array([np.bincount(MANY.folds(4, seed=1)[in_a == side], minlength=4) for side in (True, False)])
    assert stats.chi2_contingency(table).pvalue > 1e-4
    times = MANY.bootstrap(seed=1).weight
    assert abs(np.corrcoef(times, in_a)[0, 1]) * np.sqrt(len(MANY)) < 4


@pytest.mark.parametrize("member", [0, 3])
def test_bootstrap_is_poisson(member: int) -> None:
    times = MANY.bootstrap(seed=2, member=member).weight
    n = len(MANY)
    assert np.array_equal(times, times.astype(int))
    assert abs(times.mean() - 1) < 4 / np.sqrt(n)
    assert abs(times.var() - 1) < 4 * np.sqrt(3 / n)  # the fourth central moment of Poisson(1) is 4
    assert not np.array_equal(times, MANY.bootstrap(seed=2, member=member + 1).weight)
    assert not np.array_equal(times, MANY.bootstrap(seed=3, member=member).weight)


def test_bootstrap_multiplies_signed_weights_and_keeps_rows() -> None:
    replica = EVENTS.bootstrap(seed=1)
    times = EVENTS.with_weight(1.0).bootstrap(seed=1).weight
    np.testing.assert_array_equal(replica.weight, EVENTS.weight * times)
    assert np.array_equal(replica.id, EVENTS.id)
    assert replica["hits.x"] is EVENTS["hits.x"]
    assert (times == 0).any()


def test_bootstrap_is_stable_under_select_reorder_concat() -> None:
    times = dict(zip(MANY.id.tolist(), MANY.bootstrap(seed=4).weight.tolist(), strict=True))
    order = RNG.permutation(len(MANY))[:20_000]
    for other in (MANY.select(order), Events.concat([MANY.select(order[:50]), MANY])):
        assert other.bootstrap(seed=4).weight.tolist() == [times[i] for i in other.id.tolist()]


def test_bootstrap_gives_the_variance_of_a_sum() -> None:
    """Over 400 replicas, the variance of the sum of weights is sum w^2; its relative error is sqrt(2 / 400)."""
    sums = [EVENTS.bootstrap(seed=9, member=k).sum_weights for k in range(400)]
    assert np.var(sums) / (EVENTS.weight**2).sum() == pytest.approx(1.0, abs=4 * np.sqrt(2 / 400))


def test_group_keeps_copies_together() -> None:
    parent = MANY["parent"]

    def per_parent(values: np.ndarray) -> int:
        return max(len(set(values[5 * i : 5 * i + 5].tolist())) for i in range(2000))

    a, _ = MANY.split(0.4, seed=1, group="parent")
    assert per_parent(np.isin(MANY.id, a.id)) == 1
    assert per_parent(MANY.folds(3, seed=1, group="parent")) == 1
    assert per_parent(MANY.bootstrap(seed=1, group="parent").weight) == 1
    assert abs(len(a) / 5 - 8000) < 4 * np.sqrt(20_000 * 0.24)
    # without it they are torn apart
    assert per_parent(np.isin(MANY.id, MANY.split(0.4, seed=1)[0].id)) == 2
    assert per_parent(MANY.folds(3, seed=1)) > 1
    assert per_parent(MANY.bootstrap(seed=1).weight) > 1
    # a group is hashed as an id of that value would be
    assert np.array_equal(MANY.folds(3, seed=1, group="parent"), Events({}, id=parent).folds(3, seed=1))


# -- concat ------------------------------------------------------------------------------------------------------------


def test_concat_is_the_loop() -> None:
    parts = [make(50, 2), make(0, 3), make(30, 4, first=50).select(slice(5, 25))]
    joined = Events.concat(parts)
    assert as_lists(joined) == [row for part in parts for row in as_lists(part)]
    assert joined["hits.x"].offsets is joined["hits.q"].offsets
    other = parts[2].keep(["track", "hits.q", "hits.x", "good", "n", "x"])  # another order of the columns
    assert as_lists(Events.concat([parts[0], other])) == as_lists(parts[0]) + as_lists(parts[2])
    assert Events.concat(parts[:1]) is parts[0]


def test_concat_undoes_a_cut_in_slices() -> None:
    pieces = [EVENTS.select(slice(i, i + 13)) for i in range(0, 200, 13)]
    assert as_lists(Events.concat(pieces)) == ROWS


def test_concat_refuses() -> None:
    with pytest.raises(ValueError, match="at least one Events"):
        Events.concat([])
    with pytest.raises(ValueError, match=r"parts 0 and 1 differ in \['x'\]"):
        Events.concat([EVENTS, EVENTS.keep(EVENTS.columns[1:])])
    with pytest.raises(TypeError, match="column 'h': expected it flat or ragged in all parts, found both"):
        Events.concat([Events({"h": [1.0]}), Events({"h": Ragged.of([[1.0]])})])


# -- hist --------------------------------------------------------------------------------------------------------------


def test_hist_is_numpys_with_signed_weights() -> None:
    edges = np.array([-2.0, -0.5, 0.0, 0.3, 2.0])
    filled = EVENTS.hist("x", edges)
    values = np.histogram(EVENTS["x"], edges, weights=EVENTS.weight)[0]
    squares = np.histogram(EVENTS["x"], edges, weights=EVENTS.weight**2)[0]
    np.testing.assert_allclose(filled.values(), values, rtol=1e-12, atol=1e-12)
    np.testing.assert_allclose(filled.variances(), squares, rtol=1e-12)
    assert filled.axes[0].name == "x"
    assert not np.allclose(values, np.histogram(EVENTS["x"], edges)[0])


def test_hist_in_two_dimensions() -> None:
    edges = (np.linspace(-1, 1, 5), np.arange(10) - 0.5)
    filled = EVENTS.hist(["x", "n"], edges)
    expected = np.histogram2d(EVENTS["x"], EVENTS["n"], edges, weights=EVENTS.weight)[0]
    np.testing.assert_allclose(filled.values(), expected, rtol=1e-12, atol=1e-12)
    assert filled.axes.name == ("x", "n")
    assert EVENTS.hist(["x", "n"], 4).values().shape == (4, 4)


def test_hist_by_number_of_bins_holds_every_event() -> None:
    for name in ("x", "n", "good"):
        assert EVENTS.hist(name, 7).values().sum() == pytest.approx(EVENTS.sum_weights, rel=1e-12)
    assert Events({"x": [3.0, 3.0]}).hist("x", 5).values().sum() == 2
    assert Events({"x": [1e9, 1e9 + 1]}).hist("x", 5).values().sum() == 2
    with_nan = Events({"x": [0.0, 1.0, np.nan]}).hist("x", 2)
    assert with_nan.values().sum() == 2
    assert with_nan.values(flow=True).sum() == 3  # counted in the overflow, not dropped


def test_hist_with_axes_of_ones_own() -> None:
    axis = hist.axis.Regular(6, -3, 3, name="mine")
    assert EVENTS.hist("x", axis).axes[0] == axis
    both = EVENTS.hist(["x", "n"], [axis, 3])
    assert both.axes[0] == axis
    assert both.values(flow=True).sum() == pytest.approx(EVENTS.sum_weights)


def test_hist_of_a_ragged_column_is_the_loop() -> None:
    edges = np.linspace(-3, 3, 9)
    pairs = [(v, row["weight"]) for row in ROWS for v in row["hits.x"]]
    values, weights = np.array(pairs).T
    filled = EVENTS.hist("hits.x", edges)
    np.testing.assert_allclose(filled.values(), np.histogram(values, edges, weights=weights)[0], atol=1e-12)
    # together with its cloud, and with a flat column, which repeats
    triples = np.array([(v, q, row["x"], row["weight"]) for row in ROWS
                        for v, q in zip(row["hits.x"], row["hits.q"], strict=True)])  # fmt: skip
    bins = [edges, np.arange(6) - 0.5, np.linspace(-2, 2, 4)]
    expected = np.histogramdd(triples[:, :3], bins, weights=triples[:, 3])[0]
    np.testing.assert_allclose(EVENTS.hist(["hits.x", "hits.q", "x"], bins).values(), expected, atol=1e-12)


@pytest.mark.parametrize(
    "part", [MASK, slice(3, 90), slice(None, None, 2), [5, 3]], ids=["mask", "slice", "step", "rows"]
)
def test_a_cloud_stays_one_through_a_selection(part: Any) -> None:
    """Its columns still share their offsets: one list of records, one histogram."""
    selected = EVENTS.select(part)
    assert selected.to_awkward().hits.fields == ["x", "q"]
    total = sum(row["weight"] * len(row["hits.x"]) for row in as_lists(selected))
    for other in (selected, selected.with_weight(selected.weight).select(slice(0, None))):
        assert other.hist(["hits.x", "hits.q"], 4).values().sum() == pytest.approx(total)


def test_hist_refuses() -> None:
    with pytest.raises(ValueError, match=r"one cloud in a histogram, found other lengths in \['hits.x', 'track'\]"):
        EVENTS.hist(["hits.x", "track"], 3)
    with pytest.raises(ValueError, match=r"one entry per column \(2\), found 3"):
        EVENTS.hist(["x", "n"], [3, 3, 3])
    with pytest.raises(KeyError, match="no column 'y'"):
        EVENTS.hist("y")


# -- awkward -----------------------------------------------------------------------------------------------------------


def test_awkward_and_back() -> None:
    array = EVENTS.to_awkward()
    assert array.fields == ["weight", "id", "x", "n", "good", "track", "hits"]
    assert array.hits.fields == ["x", "q"]
    expected = [
        {
            **{k: row[k] for k in ("weight", "id", "x", "n", "good", "track")},
            "hits": [{"x": x, "q": q} for x, q in zip(row["hits.x"], row["hits.q"], strict=True)],
        }
        for row in ROWS
    ]
    assert array.to_list() == expected
    again = Events(array[["x", "n", "good", "hits", "track"]], weight=array.weight, id=array.id)
    assert as_lists(again) == [{k: row[k] for k in ("weight", "id", *again.columns)} for row in ROWS]
    assert again["hits.x"].offsets is again["hits.q"].offsets


def test_awkward_shares_memory() -> None:
    array = EVENTS.to_awkward()
    assert np.shares_memory(ak.to_numpy(array.x), EVENTS["x"])
    assert np.shares_memory(ak.to_numpy(ak.flatten(array.hits.x)), EVENTS["hits.x"].values)


def test_columns_named_weight_or_id_win() -> None:
    events = Events({"weight": [5.0], "id": [9]}, weight=[2.0], id=[1])
    assert events.to_awkward().to_list() == [{"weight": 5.0, "id": 9}]


def test_fields_of_unequal_lengths_become_lists_of_their_own() -> None:
    events = Events({"h.a": Ragged.of([[1], []]), "h.b": Ragged.of([[1], [2]])}, id=[1, 2])
    assert events.to_awkward()["h.a"].to_list() == [[1], []]
    assert events.to_awkward()["h.b"].to_list() == [[1], [2]]


def test_nested_records_and_single_columns_come_in() -> None:
    nested = ak.Array([{"mu": {"p": 1.0, "dir": {"z": 0.5}}, "n": 1}, {"mu": {"p": 2.0, "dir": {"z": 0.6}}, "n": 2}])
    events = Events(nested)
    assert events.columns == ("mu.p", "mu.dir.z", "n")
    assert events["mu.dir.z"].tolist() == [0.5, 0.6]
    single = Events({"a": ak.Array([[1, 2], []]), "b": ak.Array([1.0, 2.0]), "mu": nested.mu})
    assert single.columns == ("a", "b", "mu.p", "mu.dir.z")
    assert single["a"].counts.tolist() == [2, 0]


@pytest.mark.parametrize(
    "array",
    [
        ak.Array(np.arange(6.0).reshape(3, 2)),
        ak.to_regular(ak.Array([[0.0, 1.0], [2.0, 3.0], [4.0, 5.0]])),
        ak.Array([[9.0], [0.0, 1.0], [2.0, 3.0], [4.0, 5.0]])[1:],
        ak.Array([[4.0, 5.0], [2.0, 3.0], [0.0, 1.0]])[::-1],
        ak.mask(ak.Array([[0.0, 1.0], [2.0, 3.0], [4.0, 5.0]]), [True, True, True]),
        ak.Array([[0.0, 1.0], [2.0, 3.0], [4.0, 5.0, 6.0]])[:, :2],
    ],
    ids=["numpy", "regular", "sliced", "reversed", "masked-none", "inner-slice"],
)
def test_awkward_layouts(array: ak.Array) -> None:
    column = Events({"a": array}).ragged("a")
    assert column.values.tolist() == [0, 1, 2, 3, 4, 5]
    assert column.offsets.tolist() == [0, 2, 4, 6]


def test_awkward_selections_of_records() -> None:
    array = EVENTS.to_awkward()
    cut = array[MASK]
    cut = ak.with_field(cut, cut.hits[cut.hits.x > 0], "hits")
    events = Events(cut[["x", "hits"]])
    expected = [row for row, keep in zip(ROWS, MASK, strict=True) if keep]
    assert events["x"].tolist() == [row["x"] for row in expected]
    kept = [[v for v in row["hits.x"] if v > 0] for row in expected]
    assert events["hits.x"].counts.tolist() == [len(v) for v in kept]
    assert events["hits.x"].values.tolist() == [v for each in kept for v in each]


@pytest.mark.parametrize(
    "array",
    [
        ak.mask(ak.Array([1.0, 2.0, 3.0]), [True, False, True]),
        ak.mask(ak.Array([[1.0], [2.0], []]), [True, False, True]),
        ak.Array([[1.0, None], [], [2.0]]),
        ak.Array([1, None, 3]),
    ],
    ids=["flat-mask", "list-mask", "inner-none", "none"],
)
def test_none_is_refused(array: ak.Array) -> None:
    with pytest.raises(ValueError, match=r"column 'a': expected a value in every place, found None; use ak.fill_none"):
        Events({"a": array})


def test_awkward_refused_otherwise() -> None:
    with pytest.raises(ValueError, match="'a': expected at most one list per event, found lists within lists"):
        Events({"a": ak.Array([[[1.0]], [[2.0, 3.0]]])})
    with pytest.raises(TypeError, match="awkward array of records"):
        Events(ak.Array([1.0, 2.0]))
    with pytest.raises(TypeError, match="'s': expected numbers"):
        Events({"s": ak.Array(["a", "b"])})


def test_empty_events_do_everything() -> None:
    empty = EVENTS.select(slice(0, 0))
    assert as_lists(Events.concat([empty, empty])) == []
    assert [len(part) for part in empty.split(0.5, seed=1)] == [0, 0]
    assert len(empty.folds(3, seed=1)) == len(empty.bootstrap(seed=1)) == 0
    assert empty.hist("x", 3).values().tolist() == [0, 0, 0]
    assert len(empty.to_awkward()) == 0
    assert as_lists(EVENTS.select(MASK).select(np.zeros(MASK.sum(), bool))) == []


# -- bad input ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("make_it", "error", "message"),
    [
        (lambda: Events({}), ValueError, "at least one column, a weight or an id"),
        (lambda: Events({"x": [1, 2], "y": [1]}), ValueError, "one length, found x 2, y 1"),
        (lambda: Events({"x": [1, 2]}, weight=[1]), ValueError, r"found x 2, \(weight\) 1"),
        (lambda: Events({"x": [1, 2]}, id=[1]), ValueError, r"found x 2, \(id\) 1"),
        (lambda: Events({"x": [1]}, weight=2.0), ValueError, r"weight: .* found shape \(\)"),
        (lambda: Events({"x": [1]}, weight=[[1]]), ValueError, r"weight: .* found shape \(1, 1\)"),
        (lambda: Events({"x": [1, 2]}, weight=[1, np.inf]), ValueError, r"1 of 2 not finite, first at rows 1 \(inf\)"),
        (lambda: Events({"x": [1]}, id=[0.5]), TypeError, "id: expected integers, found float64"),
        (lambda: Events({"x": np.ones((2, 3))}), ValueError, r"'x': .* found shape \(2, 3\); give each component"),
        (lambda: Events({"x": 3.0}), ValueError, r"'x': .* found shape \(\)"),
        (lambda: Events({"x": ["a"]}), TypeError, "'x': expected numbers or booleans"),
        (lambda: Events({"x": [1 + 2j]}), TypeError, "found complex128"),
        (lambda: Events({"x": np.array([None])}), TypeError, "found object"),
        (lambda: Events({"x": np.ma.array([1, 2], mask=[0, 1])}), TypeError, "'x': .* found a masked array"),
        (lambda: Events({"x": [1]}, weight=np.ma.array([1], mask=[1])), TypeError, "weight: .* found a masked array"),
        (lambda: Events({"x": [1]}, id=np.ma.array([1], mask=[1])), TypeError, "id: .* found a masked array"),
        (lambda: Events({"x": Ragged(np.ma.array([1]), [0, 1])}), TypeError, "column 'x': .* found a masked array"),
        (lambda: Events({"x": Ragged([1, 2], [0, 1])}), ValueError, "rise from 0 to the number of values, 2"),
        (lambda: Events({"x": Ragged([1, 2], [1, 2])}), ValueError, "found them from 1 to 2"),
        (lambda: Events({"x": Ragged([1, 2], [0, 2, 1, 2])}), ValueError, "offsets that rise"),
        (lambda: Events({"x": Ragged([1, 2], [0.0, 2.0])}), TypeError, "integer offsets"),
        (lambda: Events({"x": Ragged([1, 2], [])}), TypeError, "integer offsets"),
        (lambda: Events({"x": Ragged(np.ones((2, 2)), [0, 2])}), ValueError, r"found shape \(2, 2\)"),
    ],
)  # fmt: skip
def test_bad_input_is_refused(make_it: Callable[[], Events], error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        make_it()


def test_unsigned_offsets_that_fall_are_refused() -> None:
    with pytest.raises(ValueError, match="offsets that rise"):
        Events({"x": Ragged(np.arange(3), np.array([0, 2, 1, 3], np.uint64))})


def test_ids_beyond_int64_are_refused() -> None:
    assert Events({}, id=np.array([2**63 - 1], np.uint64)).id.tolist() == [2**63 - 1]
    with pytest.raises(ValueError, match=r"id: .*int64"):
        Events({"x": [1.0]}, id=np.array([2**63], np.uint64))


def test_the_count_and_first_rows_of_what_is_not_finite() -> None:
    weight = np.ones(1000)
    weight[[10, 20, 30, 40, 50, 60]] = np.nan
    with pytest.raises(ValueError, match="found 6 of 1000 not finite, first at rows 10, 20, 30, 40, 50 "):
        Events({}, weight=weight)


def test_finite_weights_whose_sum_overflows_are_finite() -> None:
    from nuinfer.errors import check_finite

    check_finite("x", np.array([1e308, 1e308, 1e308]))
    with pytest.raises(ValueError, match=r"x: .* 1 of 2 not finite, first at rows 17 \(\[nan"):
        check_finite("x", np.array([[1.0, 2.0], [np.nan, 1.0]]), rows=np.array([3, 17]))


def test_a_digest_stands_for_ids_and_weights_in_their_order() -> None:
    events = Events({"x": np.arange(4.0)}, weight=[1.0, 2.0, -1.0, 0.5], id=[5, 6, 7, 8])
    same = Events({"y": np.zeros(4)}, weight=[1.0, 2.0, -1.0, 0.5], id=[5, 6, 7, 8])
    assert events.digest() == same.digest()
    assert len(events.digest()) == 16
    others = [
        events.with_weight([1.0, 2.0, -1.0, 0.25]),
        Events({}, weight=events.weight, id=[5, 6, 7, 9]),
        events.select(slice(0, 3)),
        events.select(slice(None, None, -1)),
    ]
    assert len({e.digest() for e in (events, *others)}) == 5
