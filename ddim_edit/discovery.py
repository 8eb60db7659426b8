"""Find what the modules of a package register, so that adding one more is adding a module."""

import pkgutil
from collections.abc import Callable, Collection, Mapping
from importlib import import_module
from types import MappingProxyType, ModuleType
from typing import Any


def find_entries(
    package: ModuleType, attribute: str, order: Callable[[Any], int], without: Collection[str] = ()
) -> Mapping[str, Any]:
    """Return what each module of a package defines under one name, by the entries' own `name`, in their order.

    Args:
        package: whose modules are imported.
        attribute: the name that all of them define.
        order: returns an entry's place.
        without: modules that register nothing.
    """
    found: list[Any] = []
    # Reading the names of files, not a list of modules, is what makes a new entry a single file.
    for info in pkgutil.iter_modules(package.__path__):
        if info.name not in without:
            found.append(getattr(import_module(f"{package.__name__}.{info.name}"), attribute))
    return MappingProxyType({entry.name: entry for entry in sorted(found, key=order)})
