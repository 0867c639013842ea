"""Results that are a few numbers, texts and arrays: saved and loaded field by field, as their types say."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import fields
from typing import Any, ClassVar, Self, get_type_hints

import numpy as np
from numpy.typing import NDArray

from .. import store

__all__ = ["Record"]

Arrays = dict[str, NDArray[Any]]


class Record:
    """A frozen dataclass with `save` and `load`.

    Its fields are floats, integers, booleans, texts, tuples of these, ``dict[str, float]``, arrays, or records.
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
                inner, own = value._parts()
                spec[name] = inner
                arrays |= {f"{name}.{key}": array for key, array in own.items()}
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


def _read(name: str, hint: Any, spec: Mapping[str, Any], arrays: Mapping[str, NDArray[Any]]) -> Any:
    """One field."""
    if isinstance(hint, type) and issubclass(hint, Record):
        own = {key.removeprefix(f"{name}."): array for key, array in arrays.items() if key.startswith(f"{name}.")}
        return hint._of(spec[name], own)
    if name not in spec:
        return float(arrays[name]) if hint is float else arrays[name]
    if name in arrays:
        return dict(zip(spec[name], arrays[name].tolist(), strict=True))
    if isinstance(spec[name], list):
        return hint(*spec[name]) if isinstance(hint, type) and hasattr(hint, "_fields") else tuple(spec[name])
    return spec[name]
