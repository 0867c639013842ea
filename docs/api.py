"""The public interface as text: ``make api`` writes it to docs/api.txt, and a test compares.

Each module's ``__all__``, with the signatures of functions, classes and public methods, and the public attributes.
"""

from __future__ import annotations

import importlib
import inspect
import pkgutil
from collections.abc import Iterator
from typing import Any, ForwardRef

import nuinfer


class _Bare(str):
    """Text whose repr is itself, so that annotations that are strings print without quotes."""

    __slots__ = ()

    def __repr__(self) -> str:
        return str(self)


def _bare(annotation: Any) -> Any:
    if isinstance(annotation, ForwardRef):
        annotation = annotation.__forward_arg__
    return _Bare(annotation) if isinstance(annotation, str) else annotation


def signature(thing: Any) -> str:
    """``(x: Floats, *, seed: int) -> Ratio``, or nothing where Python knows none."""
    try:
        found = inspect.signature(thing)
    except (TypeError, ValueError):
        return ""
    parameters = [p.replace(annotation=_bare(p.annotation)) for p in found.parameters.values()]
    return str(found.replace(parameters=parameters, return_annotation=_bare(found.return_annotation)))


def members(cls: type) -> Iterator[str]:
    """The public methods and attributes that a class defines, or inherits from a class of this package."""
    seen = (
        set(inspect.signature(cls).parameters)
        if hasattr(cls, "__dataclass_fields__") or issubclass(cls, tuple)
        else set()
    )
    for base in cls.__mro__:
        if not base.__module__.startswith("nuinfer"):
            continue
        for name, value in {**dict.fromkeys(inspect.get_annotations(base)), **vars(base)}.items():
            if name.startswith("_") or name in seen:
                continue
            seen.add(name)
            if isinstance(value, (staticmethod, classmethod)):
                yield f".{name}{signature(getattr(cls, name))}"
            elif inspect.isfunction(value):
                yield f".{name}{signature(value)}"
            else:
                yield f".{name}"


def modules() -> list[str]:
    """The modules and packages right below ``nuinfer``; what is inside a package is public through its ``__all__``."""
    found = pkgutil.iter_modules(nuinfer.__path__, "nuinfer.")
    return sorted(m.name for m in found if not m.name.rpartition(".")[2].startswith("_"))


def listing() -> str:
    """The whole interface, sorted by module and name."""
    lines = ["nuinfer: " + ", ".join(nuinfer.__all__)]
    for module in modules():
        loaded = importlib.import_module(module)
        for name in sorted(getattr(loaded, "__all__", [])):
            value = getattr(loaded, name)
            if inspect.ismodule(value):
                continue
            full = f"{module}.{name}"
            lines.append(full + (signature(value) if callable(value) else ""))
            if inspect.isclass(value):
                lines += sorted(full + member for member in members(value))
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    print(listing(), end="")
