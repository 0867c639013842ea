"""Names of a package that load their modules when they are first used, so that light ones do not wait for torch."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Callable, Collection, Mapping

__all__ = ["names_of"]


def names_of(
    package: str, where: Mapping[str, str], modules: Collection[str] = ()
) -> tuple[Callable[[str], object], Callable[[], list[str]]]:
    """``__getattr__`` and ``__dir__`` of a package, given the module of each name, and further modules below it.

    >>> import nuinfer.unfolding
    >>> "Response" in dir(nuinfer.unfolding)
    True
    """

    def get(name: str) -> object:
        if name in modules:
            return importlib.import_module(f"{package}.{name}")
        if name not in where:
            raise AttributeError(f"module {package!r} has no attribute {name!r}")
        value = getattr(importlib.import_module(f"{package}.{where[name]}"), name)
        setattr(sys.modules[package], name, value)  # the next look-up does not come here
        return value

    return get, lambda: sorted({*where, *modules})
