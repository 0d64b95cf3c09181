"""Plug-ins found by file name: one file in the right folder is a new method or target."""

import ast
import difflib
import importlib
import importlib.util
import pkgutil
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from edgeseed.core.errors import UnknownNameError


def unknown_name(kind: str, name: str, names: Iterable[str]) -> UnknownNameError:
    """The error for a name that no table holds: suggests the nearest and lists all."""
    known = sorted(names)
    nearest = difflib.get_close_matches(name.lower(), known, n=1, cutoff=0.5)
    suggestion = f"; did you mean {nearest[0]!r}?" if nearest else ";"
    return UnknownNameError(f"unknown {kind} {name!r}{suggestion} known: {', '.join(known)}")


class Registry:
    """The plug-ins of one package.

    A plug-in is a module whose name does not start with `_`; `queue_kl.py` is called `queue-kl`.
    It holds its object under one agreed attribute, such as `METHOD`.

    Args:
        package: Full name of the package that holds the plug-ins.
        attribute: The name under which each module holds its plug-in.
        kind: What a plug-in is called in messages, such as `"method"`.
    """

    def __init__(self, package: str, *, attribute: str, kind: str) -> None:
        self.package = package
        self.attribute = attribute
        self.kind = kind

    def _paths(self) -> list[str]:
        spec = importlib.util.find_spec(self.package)
        assert spec is not None
        assert spec.submodule_search_locations is not None
        return list(spec.submodule_search_locations)

    def names(self) -> tuple[str, ...]:
        """All names, sorted. Imports none of them."""
        found = (module.name for module in pkgutil.iter_modules(self._paths()))
        return tuple(sorted(name.replace("_", "-") for name in found if not name.startswith("_")))

    def summary(self, name: str) -> str:
        """The first line of the plug-in's docstring, read without importing it."""
        return self.docstring(name).partition("\n")[0]

    def docstring(self, name: str) -> str:
        """The plug-in's docstring, read without importing it."""
        self._check(name)
        stem = name.replace("-", "_")
        for folder in map(Path, self._paths()):
            for path in (folder / f"{stem}.py", folder / stem / "__init__.py"):
                if path.is_file():
                    return ast.get_docstring(ast.parse(path.read_text(encoding="utf-8"))) or ""
        return ""

    def load(self, name: str) -> Any:
        """Imports one plug-in and returns its object.

        Raises:
            UnknownNameError: If there is no plug-in of this name.
        """
        self._check(name)
        module = importlib.import_module(f"{self.package}.{name.replace('-', '_')}")
        return getattr(module, self.attribute)

    def _check(self, name: str) -> None:
        if name not in self.names():
            raise unknown_name(self.kind, name, self.names())
