"""Results that are a few numbers, texts and arrays: saved and loaded field by field, as their types say."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import fields
from typing import Any, ClassVar, Self, get_args, get_type_hints

import numpy as np
from numpy.typing import NDArray

from . import store

__all__ = ["Record"]

Arrays = dict[str, NDArray[Any]]


class Record:
    """A frozen dataclass with `save` and `load`.

    Its fields are floats, integers, booleans, texts, None, tuples of these, ``dict[str, float]``, arrays, records, or
    tuples of records.
    """

    _KIND: ClassVar[str]

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write one file; ``load`` of the same class reads it."""
        store.save(path, self._KIND, *self._parts())

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> Self:
        """What `save` wrote.

        Raises
        ------
        FileNotFoundError, CorruptFile, ValueError
            as `nuinfer.store.load`.
        """
        return cls._of(*store.load(path, cls._KIND))

    def _parts(self) -> tuple[dict[str, Any], Arrays]:
        """Spec and arrays; floats are arrays, as they may be infinite."""
        spec: dict[str, Any] = {}
        arrays: Arrays = {}
        for field in fields(self):  # type: ignore[arg-type]
            name, value = field.name, getattr(self, field.name)
            if isinstance(value, Record):
                spec[name], own = value._parts()
                arrays |= store.under(f"{name}.", own)
            elif isinstance(value, tuple) and value and isinstance(value[0], Record):
                pairs = [record._parts() for record in value]
                spec[name] = [inner for inner, _ in pairs]
                for number, (_, own) in enumerate(pairs):
                    arrays |= store.under(f"{name}.{number}.", own)
            elif isinstance(value, dict):
                spec[name], arrays[name] = list(value), np.array(list(value.values()), np.float64)
            elif isinstance(value, float | np.ndarray):
                arrays[name] = np.asarray(value)
            else:
                spec[name] = value
        return spec, arrays

    @classmethod
    def _of(cls, spec: Mapping[str, Any], arrays: Mapping[str, NDArray[Any]]) -> Self:
        hints = get_type_hints(cls)
        return cls(**{f.name: _read(f.name, hints[f.name], spec, arrays) for f in fields(cls)})  # type: ignore[arg-type]


def _is_record(hint: Any) -> bool:
    return isinstance(hint, type) and issubclass(hint, Record)


def _read(name: str, hint: Any, spec: Mapping[str, Any], arrays: Mapping[str, NDArray[Any]]) -> Any:
    """One field."""
    inner = (get_args(hint) or (None,))[0]
    if _is_record(hint):
        return hint._of(spec[name], store.within(f"{name}.", arrays))
    if _is_record(inner):
        return tuple(inner._of(own, store.within(f"{name}.{number}.", arrays)) for number, own in enumerate(spec[name]))
    if name not in spec:
        return float(arrays[name]) if hint is float else arrays[name]
    if name in arrays:
        return dict(zip(spec[name], arrays[name].tolist(), strict=True))
    if isinstance(spec[name], list):
        return hint(*spec[name]) if isinstance(hint, type) and hasattr(hint, "_fields") else tuple(spec[name])
    return spec[name]
