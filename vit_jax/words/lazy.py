"""Packages whose public names are imported when they are asked for."""

import importlib
import sys
from collections.abc import Callable, Mapping, Sequence
from typing import Any


def face(
    package: str, homes: Mapping[str, Sequence[str]], modules: Sequence[str] = ()
) -> tuple[Callable[[str], Any], Callable[[], list[str]], list[str]]:
    """`__getattr__`, `__dir__` and `__all__` of a package (PEP 562).

    Args:
        package: its `__name__`.
        homes: module below the package -> the names that are taken from it.
        modules: those that are public themselves, under the last part of their name.
    """
    home_of = {name: home for home, names in homes.items() for name in names}
    module_of = {module.rpartition('.')[2]: module for module in modules}
    public = sorted([*home_of, *module_of])

    def get(name: str) -> Any:
        if name in home_of:
            module = importlib.import_module(f'{package}.{home_of[name]}')
            return getattr(module, name)
        if name in module_of:
            return importlib.import_module(f'{package}.{module_of[name]}')
        raise AttributeError(f'module {package!r} has no attribute {name!r}')

    return get, lambda: sorted({*vars(sys.modules[package]), *public}), public
