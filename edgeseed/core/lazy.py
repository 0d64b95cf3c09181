"""Public names that are imported when first used, so that `import edgeseed.x` stays light."""

import importlib
from collections.abc import Callable, Mapping
from typing import Any


def attach(package: str, names: Mapping[str, str]) -> tuple[Callable[[str], Any], list[str]]:
    """Makes a module's `__getattr__` and `__all__` out of `{"name": ".module:attribute"}`.

    Args:
        package: The `__name__` of the package that offers the names.
        names: Public name -> where it lives, relative to `package`.

    Returns:
        `(__getattr__, __all__)`, to be assigned in the package's `__init__.py`.
    """

    def __getattr__(name: str) -> Any:  # noqa: N807 - the hook of PEP 562
        if name not in names:
            raise AttributeError(f"module {package!r} has no attribute {name!r}")
        module, attribute = names[name].split(":")
        return getattr(importlib.import_module(module, package), attribute)

    return __getattr__, sorted(names)
