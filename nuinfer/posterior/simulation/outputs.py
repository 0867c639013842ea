"""What simulators return: arrays, mappings, awkward arrays or events, read as columns of `Events`."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ...events import Events, Ragged, offsets_of

Array = NDArray[Any]
Ints = NDArray[np.int64]


class Wrong(Exception):
    """Output that no run can use; ``kind`` is the error that the user gets."""

    def __init__(self, kind: type[Exception], text: str) -> None:
        super().__init__(kind, text)
        self.kind, self.text = kind, text


def read_output(result: Any, rows: Ints, columns: tuple[str, ...] | None, *, single: bool) -> Events:
    """The output for ``rows`` as events whose ids are the rows."""
    if isinstance(result, Events):
        _check_rows({"its events": len(result)}, len(rows), single)
        return Events({name: result[name] for name in result}, weight=result.weight, id=rows)
    try:
        found = dict(_leaves(result, columns, single))
        lengths = {name: column.rows if isinstance(column, Ragged) else len(column) for name, column in found.items()}
        _check_rows(lengths, len(rows), single)
        return Events(found, id=rows)
    except (TypeError, ValueError) as error:
        raise Wrong(type(error), f"simulator: {error}") from error


def _check_rows(lengths: Mapping[str, int], rows: int, single: bool) -> None:
    if not lengths:
        raise Wrong(ValueError, "simulator: expected at least one column, found an empty mapping")
    name, length = next(((k, v) for k, v in lengths.items() if v != rows), ("", rows))
    if length == rows:
        return
    advice = ("vectorised=False calls it with one theta" if not single else
              "events of several rows are a cloud of one pseudo-experiment: return {'hits.x': values}")  # fmt: skip
    raise Wrong(ValueError, f"simulator: expected {rows} rows, one per theta, found {length} in {name}; {advice}")


def _leaves(result: Any, columns: tuple[str, ...] | None, single: bool) -> Iterator[tuple[str, Any]]:
    """The named columns of an output."""
    if isinstance(result, Mapping):
        for name, value in result.items():
            yield from _nested(name, value, single)
        return
    if _is_awkward(result) and result.fields:
        yield from _opened(Events(_one_record(result) if single else result))
        return
    array = _numbers("array", result)
    if array.ndim > (1 if single else 2):
        raise ValueError(f"expected an array {'(D,)' if single else '(B, D)'}, found {array.shape}; return a mapping "
                         f"from names to arrays or to lists of arrays for more")  # fmt: skip
    table = np.reshape(array, (1, -1)) if single else array[:, None] if array.ndim == 1 else np.atleast_2d(array)
    names = columns or tuple(f"x{j}" for j in range(table.shape[1]))
    if len(names) != table.shape[1]:
        raise ValueError(f"expected {len(names)} components, {', '.join(names)}, found {table.shape[1]}")
    yield from zip(names, table.T.copy(), strict=True)


def _nested(name: Any, value: Any, single: bool) -> Iterator[tuple[str, Any]]:
    if not isinstance(name, str) or not name:
        raise TypeError(f"expected columns' names, found the key {name!r}")
    if isinstance(value, Mapping):
        for inner, part in value.items():
            yield from _nested(f"{name}.{inner}", part, single)
    elif isinstance(value, Ragged):
        yield name, value
    elif _is_awkward(value):
        yield from _opened(Events({name: value[None] if single else value}))
    elif single:
        yield from _of_one(name, _numbers(f"column {name!r}", value))
    elif isinstance(value, (list, tuple)) and any(np.ndim(part) for part in map(_plain, value)):
        yield from _lists(name, [_numbers(f"column {name!r}", part) for part in value])
    else:
        yield from _of_many(name, _numbers(f"column {name!r}", value))


def _of_one(name: str, array: Array) -> Iterator[tuple[str, Any]]:
    """A number is flat, a list of numbers ragged."""
    if array.ndim:
        yield from _lists(name, [array])
    else:
        yield name, array[None]


def _of_many(name: str, array: Array) -> Iterator[tuple[str, Any]]:
    if array.ndim > 2 or not array.ndim:
        raise ValueError(f"column {name!r}: expected (B,) or (B, D), found {array.shape}; clouds are lists of B arrays")
    if array.ndim == 1:
        yield name, array.copy()  # the simulator may write its next answer into the same memory
    else:
        yield from ((f"{name}[{j}]", part.copy()) for j, part in enumerate(array.T))


def _lists(name: str, parts: Sequence[Array]) -> Iterator[tuple[str, Any]]:
    """Ragged columns of one array (k,) or (k, D) per row."""
    shapes = {part.shape[1:] for part in parts}
    if len(shapes) > 1 or not all(0 < part.ndim < 3 for part in parts):
        raise ValueError(f"column {name!r}: expected arrays (k,), or (k, D) of one D, found "
                         f"{', '.join(sorted({str(part.shape) for part in parts})[:4])}; an empty one is "
                         f"numpy.empty((0, D))")  # fmt: skip
    values, offsets = np.concatenate(parts), offsets_of(np.array([len(part) for part in parts]))
    if values.ndim == 1:
        yield name, Ragged(values, offsets)
    else:
        yield from ((f"{name}.x{j}", Ragged(np.ascontiguousarray(part), offsets)) for j, part in enumerate(values.T))


def _opened(events: Events) -> Iterator[tuple[str, Any]]:
    return ((name, events[name]) for name in events)


def _is_awkward(value: Any) -> bool:
    return type(value).__module__.partition(".")[0] == "awkward"


def _one_record(result: Any) -> Any:
    """An awkward record, or an array of one column's lists, as an array of one event."""
    import awkward as ak

    if not isinstance(result, ak.Record):
        return result[None]
    row = result.layout.at
    return ak.Array(result.layout.array[row : row + 1])


def _plain(value: Any) -> Any:
    """Tensors as arrays."""
    return value.detach().cpu().numpy() if type(value).__module__.partition(".")[0] == "torch" else value


def _numbers(what: str, value: Any) -> Array:
    try:
        array = np.asarray(_plain(value))
    except ValueError:  # lists of several lengths
        raise ValueError(f"{what}: expected one shape, found lists of several; a ragged column is a list of arrays in "
                         f"a mapping, {{'hits.x': [...]}}") from None  # fmt: skip
    if array.dtype.kind not in "biuf" or np.ma.isMaskedArray(value):
        raise TypeError(f"{what}: expected numbers or booleans, found {type(value).__name__} of {array.dtype}")
    return array


def not_finite(events: Events) -> dict[int, str]:
    """The rows with numbers that are not finite, and which."""
    bad: dict[int, str] = {}
    for name in events:
        column = events[name]
        values = column.values if isinstance(column, Ragged) else column
        if values.dtype.kind != "f" or np.isfinite(values).all():
            continue
        places = np.flatnonzero(~np.isfinite(values))
        rows = np.searchsorted(column.offsets, places, "right") - 1 if isinstance(column, Ragged) else places
        for row, place in zip(rows.tolist(), places.tolist(), strict=True):
            bad.setdefault(row, f"output not finite: column {name!r} has {values[place]}")
    return bad


def joined(parts: Sequence[Events]) -> Events:
    """All simulations, of which each has to have the same columns."""
    try:
        return Events.concat(parts)
    except (TypeError, ValueError):
        kinds = [{name: "ragged" if isinstance(part[name], Ragged) else "flat" for name in part} for part in parts]
        other = next(i for i, kind in enumerate(kinds) if kind != kinds[0])
        text = (f"simulator: expected the same columns from each call, found {_kinds(kinds[0])} for simulation "
                f"{parts[0].id[0]} and {_kinds(kinds[other])} for simulation {parts[other].id[0]}")  # fmt: skip
    raise Wrong(ValueError, text)


def _kinds(kinds: Mapping[str, str]) -> str:
    return ", ".join(f"{name} ({kind})" for name, kind in kinds.items())
