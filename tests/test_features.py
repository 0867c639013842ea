"""`nuinfer.features`: every tensor against the columns that it was made of, event by event."""

from __future__ import annotations

import logging
import warnings
from pathlib import Path

import awkward as ak
import numpy as np
import pytest
import torch

from nuinfer import Events, Features, Ragged
from nuinfer.features import Batch, CloudBatch, Inputs, Shape

N = 60


def make(n: int = N, seed: int = 1) -> Events:
    rng = np.random.default_rng(seed)
    hits, tracks = np.append(0, np.cumsum(rng.poisson(2.0, n))), np.append(0, np.cumsum(rng.poisson(0.7, n)))
    return Events(
        {
            "pmu": rng.normal(size=n),
            "n": rng.integers(0, 9, n),
            "good": rng.random(n) < 0.7,
            "hits.x": Ragged(rng.normal(size=hits[-1]), hits),
            "hits.q": Ragged(rng.integers(0, 5, hits[-1]), hits),
            "trk.e": Ragged(rng.exponential(size=tracks[-1]), tracks),
        }
    )


EVENTS = make()
FEATURES = Features(["pmu", "n"], hits=["x", "q"], trk=["e"])
INPUTS = FEATURES.tensors(EVENTS)


def entries(events: Events, cloud: str, fields: list[str], event: int) -> np.ndarray:
    """The entries (n, F) of one event, from the columns."""
    columns = [events.ragged(f"{cloud}.{name}") for name in fields]
    lists = [c.values[c.offsets[event] : c.offsets[event + 1]] for c in columns]
    return np.stack(lists, axis=1).astype(np.float32)


# -- what a spec says -------------------------------------------------------------------------------------------------


def test_spec_names_columns_sizes_and_survives_json() -> None:
    assert FEATURES.columns == ("pmu", "n", "hits.x", "hits.q", "trk.e")
    assert FEATURES.shape == Shape(2, (("hits", 2), ("trk", 1)))
    assert Features.from_json(FEATURES.to_json()) == FEATURES
    assert Features.of(FEATURES) is FEATURES
    assert Features.of(["a", "b"]) == Features(["a", "b"])
    assert Features.of(["a", "b"]) != Features(["b", "a"])


def test_clouds_of_nested_records_keep_their_dots() -> None:
    nested = Features(**{"event.hits": ["x"]})
    assert nested.columns == ("event.hits.x",)
    assert Features.from_json(nested.to_json()) == nested


def test_bad_specs_are_refused() -> None:
    with pytest.raises(TypeError, match=r"flat columns: expected a list of names, found the single string 'pmu'"):
        Features("pmu")
    with pytest.raises(TypeError, match=r"hits: expected a list of names, found the single string 'x'.*\['x'\]"):
        Features(hits="x")
    with pytest.raises(ValueError, match="expected at least one column"):
        Features()
    with pytest.raises(ValueError, match=r"expected each column once, found \['a'\]"):
        Features(["a", "b", "a"])
    with pytest.raises(ValueError, match=r"found \['hits.x'\]"):
        Features(["hits.x"], hits=["x"])


# -- tensors ----------------------------------------------------------------------------------------------------------


def test_matrix_and_clouds_equal_the_columns() -> None:
    assert INPUTS.flat.dtype == torch.float32
    assert len(INPUTS) == N
    np.testing.assert_array_equal(INPUTS.flat[:, 0], EVENTS["pmu"].astype(np.float32))
    np.testing.assert_array_equal(INPUTS.flat[:, 1], EVENTS["n"].astype(np.float32))
    values, offsets = INPUTS.clouds["hits"]
    assert values.shape == (len(EVENTS["hits.x"].values), 2)
    np.testing.assert_array_equal(offsets, EVENTS["hits.x"].offsets)
    np.testing.assert_array_equal(values[:, 1], EVENTS["hits.q"].values)
    np.testing.assert_array_equal(INPUTS.clouds["trk"][0][:, 0], EVENTS["trk.e"].values.astype(np.float32))


def test_double_precision_and_flat_only() -> None:
    inputs = Features(["good", "pmu"]).tensors(EVENTS, dtype=np.float64)
    np.testing.assert_array_equal(inputs.flat, np.stack([EVENTS["good"], EVENTS["pmu"]], 1))
    assert not inputs.clouds


def test_awkward_records_make_the_same_tensors() -> None:
    again = FEATURES.tensors(Events(EVENTS.to_awkward()))
    assert torch.equal(again.flat, INPUTS.flat)
    for name, pair in INPUTS.clouds.items():
        assert all(torch.equal(a, b) for a, b in zip(again.clouds[name], pair, strict=True))
    assert ak.all(EVENTS.to_awkward()["hits", "x"] == Events(EVENTS.to_awkward()).to_awkward()["hits", "x"])


def test_where_allows_anything_outside_and_empties_it() -> None:
    where = EVENTS["good"]
    hole = np.where(where, EVENTS["pmu"], np.nan)
    hits = EVENTS["hits.x"]
    owner = np.repeat(np.arange(N), hits.counts)
    broken = EVENTS.with_columns(
        {"pmu": hole, "hits.x": Ragged(np.where(where[owner], hits.values, np.inf), hits.offsets)}
    )
    with pytest.raises(ValueError, match="pmu"):
        FEATURES.tensors(broken)
    inputs = FEATURES.tensors(broken, where=where)
    np.testing.assert_array_equal(inputs.flat[:, 0], np.where(where, EVENTS["pmu"], 0).astype(np.float32))
    values, offsets = inputs.clouds["hits"]
    np.testing.assert_array_equal(np.diff(offsets), np.where(where, hits.counts, 0))
    np.testing.assert_array_equal(values[:, 0], hits.values[where[owner]].astype(np.float32))
    np.testing.assert_array_equal(values[:, 1], EVENTS["hits.q"].values[where[owner]])


def test_selected_events_give_selected_tensors() -> None:
    rows = np.array([5, 3, 3, N - 1])
    one, other = FEATURES.tensors(EVENTS.select(rows)), INPUTS.select(rows)
    assert torch.equal(one.flat, other.flat)
    for name, pair in one.clouds.items():
        assert all(torch.equal(a, b) for a, b in zip(other.clouds[name], pair, strict=True))


def test_concat_is_the_concatenated_events() -> None:
    parts = EVENTS.select(slice(0, 7)), EVENTS.select(slice(7, 8)), EVENTS.select(slice(8, N))
    joined = Inputs.concat([FEATURES.tensors(part) for part in parts])
    assert torch.equal(joined.flat, INPUTS.flat)
    for name, pair in INPUTS.clouds.items():
        assert all(torch.equal(a, b) for a, b in zip(joined.clouds[name], pair, strict=True))


# -- batches ----------------------------------------------------------------------------------------------------------

ROWS = torch.from_numpy(np.random.default_rng(2).integers(0, N, (3, 11)))


def test_take_equals_a_loop_over_events() -> None:
    batch = INPUTS.take(ROWS)
    assert torch.equal(batch.flat, torch.stack([INPUTS.flat[r] for r in ROWS]))
    cloud = batch.clouds["hits"]
    for k in range(3):
        for b in range(11):
            expected = entries(EVENTS, "hits", ["x", "q"], int(ROWS[k, b]))
            np.testing.assert_array_equal(cloud.values[k][cloud.owner[k] == b], expected)
            assert cloud.counts()[k, b] == len(expected)
    fill = cloud.owner == cloud.size
    assert fill.any()
    assert not cloud.values[fill].any()


def test_padded_view_equals_a_loop_over_events() -> None:
    cloud = INPUTS.take(ROWS).clouds["trk"]
    values, mask = cloud.padded()
    longest = int(cloud.counts().max())
    assert values.shape == (3, 11, longest, 1)
    for k in range(3):
        for b in range(11):
            expected = entries(EVENTS, "trk", ["e"], int(ROWS[k, b]))
            np.testing.assert_array_equal(values[k, b][mask[k, b]], expected)
            np.testing.assert_array_equal(mask[k, b], np.arange(longest) < len(expected))
            assert not values[k, b][~mask[k, b]].any()


def test_span_members_and_expand_are_views_of_the_same_events() -> None:
    batch = INPUTS.span(50, 90)
    assert torch.equal(batch.flat[0], INPUTS.flat[50:])
    assert batch.clouds["hits"].size == N - 50
    many = batch.expand(4)
    assert many.flat.shape == (4, N - 50, 2)
    assert many.flat.data_ptr() == batch.flat.data_ptr()
    assert torch.equal(many.clouds["hits"].padded()[0][3], batch.clouds["hits"].padded()[0][0])
    part = INPUTS.take(ROWS).members(1, 3)
    assert torch.equal(part.flat, INPUTS.take(ROWS[1:]).flat)
    assert torch.equal(part.clouds["hits"].padded()[1], INPUTS.take(ROWS).clouds["hits"].padded()[1][1:])


@pytest.mark.parametrize("lists", [[[], [1.0], []], [[], [], []]])
def test_batches_without_entries_are_defined(lists: list[list[float]]) -> None:
    inputs = Features(hits=["x"]).tensors(Events({"hits.x": Ragged.of(lists)}))
    batch = inputs.take(torch.tensor([[0, 2], [2, 2]]))
    assert batch.flat.shape == (2, 2, 0)
    assert batch.clouds["hits"].values.shape == (2, 0, 1)
    assert batch.clouds["hits"].counts().tolist() == [[0, 0], [0, 0]]
    values, mask = batch.clouds["hits"].padded()
    assert values.shape == (2, 2, 1, 1)
    assert not mask.any()


def test_one_member_may_draw_only_empty_clouds() -> None:
    inputs = Features(hits=["x"]).tensors(Events({"hits.x": Ragged.of([[], [1.0, 2.0]])}))
    cloud = inputs.take(torch.tensor([[0, 0], [1, 0]])).clouds["hits"]
    assert cloud.counts().tolist() == [[0, 0], [2, 0]]
    assert isinstance(cloud, CloudBatch)
    assert isinstance(inputs.take(torch.tensor([[0]])), Batch)


# -- mapped from files ------------------------------------------------------------------------------------------------


def test_mapped_features_are_the_tensors_in_the_order_that_is_given(tmp_path: Path) -> None:
    parts = EVENTS.select(slice(0, 23)), EVENTS.select(slice(23, N))
    inputs, order = FEATURES.mapped(parts, tmp_path, seed=1)
    assert inputs.window
    np.testing.assert_array_equal(np.sort(order), np.arange(N))
    assert np.abs(np.corrcoef(order, np.arange(N))[0, 1]) < 0.5
    shuffled = INPUTS.select(order)
    assert torch.equal(inputs.flat, shuffled.flat)
    for name, pair in shuffled.clouds.items():
        assert all(torch.equal(a, b) for a, b in zip(inputs.clouds[name], pair, strict=True))
    assert not np.array_equal(FEATURES.mapped(parts, tmp_path, seed=2)[1], order)


def test_mapped_files_are_used_again_for_the_same_contents_only(tmp_path: Path) -> None:
    flat = Features(["pmu", "n"])
    first, _ = flat.mapped([EVENTS], tmp_path, seed=1)
    files = {path: path.stat().st_mtime_ns for path in tmp_path.iterdir()}
    assert len(files) == 1
    again, _ = flat.mapped([EVENTS.with_weight(2.0)], tmp_path, seed=1)
    assert {path: path.stat().st_mtime_ns for path in tmp_path.iterdir()} == files
    assert torch.equal(first.flat, again.flat)
    x = EVENTS["pmu"].copy()
    x[31] += 1e-3  # the same ids, one other number
    other, order = flat.mapped([EVENTS.with_columns(pmu=x)], tmp_path, seed=1)
    np.testing.assert_array_equal(other.flat[:, 0], x[order].astype(np.float32))
    assert len(list(tmp_path.iterdir())) == 2


def test_mapped_features_without_flat_columns_or_entries(tmp_path: Path) -> None:
    clouds = Features(hits=["x", "q"])
    inputs, order = clouds.mapped([EVENTS], tmp_path, seed=1)
    assert inputs.flat.shape == (N, 0)
    assert torch.equal(inputs.clouds["hits"][0], clouds.tensors(EVENTS).select(order).clouds["hits"][0])
    empty, _ = Features(h=["x"]).mapped([Events({"h.x": Ragged.of([[], []])})], tmp_path, seed=1)
    assert empty.clouds["h"][0].shape == (0, 1)
    assert empty.take(torch.tensor([[0, 1]])).clouds["h"].counts().tolist() == [[0, 0]]


def test_mapped_features_are_checked_too(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"column 'x'.*1 of 2 not finite"):
        Features(["x"]).mapped([Events({"x": [1.0, np.nan]})], tmp_path, seed=1)
    with pytest.raises(ValueError, match=r"column 'x' as float32.*1 of 2 not finite"):
        Features(["x"]).mapped([Events({"x": [1.0, 1e300]})], tmp_path, seed=1)
    assert not list(tmp_path.iterdir())  # nothing half-written is left


# -- bad input --------------------------------------------------------------------------------------------------------


def test_values_that_are_not_finite_are_refused_with_count_and_rows() -> None:
    x = EVENTS["pmu"].copy()
    x[[4, 9, 30]] = [np.nan, np.inf, -np.inf]
    with pytest.raises(
        ValueError, match=r"column 'pmu'.*3 of 60 not finite, first at rows 4, 9, 30 \(nan, inf, -inf\)"
    ):
        FEATURES.tensors(EVENTS.with_columns(pmu=x))
    where = np.arange(N) > 4
    with pytest.raises(ValueError, match=r"2 of 55 not finite, first at rows 9, 30"):
        FEATURES.tensors(EVENTS.with_columns(pmu=x), where=where)


def test_a_clouds_bad_value_is_reported_with_its_event() -> None:
    hits = EVENTS["hits.x"]
    event = int(np.flatnonzero(hits.counts)[3])
    values = hits.values.copy()
    values[hits.offsets[event]] = np.nan
    with pytest.raises(ValueError, match=rf"column 'hits.x'.*1 of {len(values)} not finite, first at rows {event} "):
        FEATURES.tensors(EVENTS.with_columns({"hits.x": Ragged(values, hits.offsets)}))


def test_numbers_beyond_single_precision_are_refused() -> None:
    events = Events({"x": np.array([1.0, 1e300]), "h.x": Ragged.of([[1e200], []])})
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with pytest.raises(ValueError, match=r"column 'x' as float32.*1 of 2 not finite, first at rows 1"):
            Features(["x"]).tensors(events)
        with pytest.raises(ValueError, match=r"column 'h.x' as float32"):
            Features(h=["x"]).tensors(events)
        assert Features(["x"]).tensors(events, dtype=np.float64).flat[1, 0] == 1e300


def test_missing_columns_name_the_closest() -> None:
    with pytest.raises(KeyError, match=r"no column 'pmuu'; closest: 'pmu'"):
        Features(["pmuu"]).tensors(EVENTS)
    with pytest.raises(KeyError, match=r"no column 'hits.y'; closest: .*'hits.x'"):
        Features(hits=["x", "y"]).tensors(EVENTS)


def test_ragged_and_flat_are_not_confused() -> None:
    with pytest.raises(TypeError, match=r"'hits.x': expected a flat column .* found a ragged one"):
        Features(["hits.x"]).tensors(EVENTS)
    events = Events({"hits.x": np.ones(3)})
    with pytest.raises(TypeError, match=r"'hits.x': expected a ragged column .* found a flat one"):
        Features(hits=["x"]).tensors(events)


def test_a_clouds_fields_have_one_length() -> None:
    events = Events({"h.x": Ragged.of([[1.0], []]), "h.y": Ragged.of([[], [1.0]])})
    with pytest.raises(ValueError, match="cloud 'h': expected fields of equal lengths in every event"):
        Features(h=["x", "y"]).tensors(events)


def test_columns_that_single_precision_rounds_away_are_named(caplog: pytest.LogCaptureFixture) -> None:
    times = np.random.default_rng(1).normal(0.0, 100.0, 1000)
    with caplog.at_level(logging.WARNING, logger="nuinfer"):
        Features(["t"]).tensors(Events({"t": times}))
        Features(["t"]).tensors(Events({"t": 1e18 * times}))  # energies in eV: only the relative precision counts
        Features(["t"]).tensors(Events({"t": np.full(1000, 1.7e9)}))  # constant
        assert not caplog.records
        Features(["t"]).tensors(Events({"t": 1.7e9 + times}))
        Features(["t"]).tensors(Events({"t": 1e-49 * times}))
    messages = [record.getMessage() for record in caplog.records]
    assert len(messages) == 2
    assert all("column 't': float32 rounds it to steps of" in m and "subtract an offset" in m for m in messages)
    assert "steps of 128," in messages[0]


def test_a_cloud_is_not_finite_by_its_fields_name() -> None:
    events = Events({"hits.q": Ragged.of([[1.0, 1e39]]), "hits.x": Ragged.of([[1.0, 2.0]])})
    with pytest.raises(ValueError, match=r"column 'hits.q' as float32"):
        Features(hits=["x", "q"]).tensors(events)


def test_rows_per_event() -> None:
    events = Events({"y": [1.0, 2.0], "hits.x": Ragged.of([[1.0, 2.0, 3.0], [4.0, 5.0]])})
    assert Features(["y"]).tensors(events).per_event == 1
    assert Features(["y"], hits=["x"]).tensors(events).per_event == 2.5
    assert Features(["y"], hits=["x"]).tensors(events.select(slice(0, 0))).per_event == 1
