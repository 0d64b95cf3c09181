"""The seam between `edgeseed embed` and an app platform.

A platform is one folder here, `export/apps/<name>/`, whose `__init__.py` ends with
`PLATFORM = MyPlatform()`. It brings a folder `template/` of real source files and writes the few
files that hold a bundle's numbers. Everything else (model, labels, golden photos, conformance set,
digests) is put there by `run.py`, which knows no platform by name.
"""

import abc
import pkgutil
from collections.abc import Mapping
from pathlib import Path
from typing import ClassVar

from edgeseed.core.registry import Registry
from edgeseed.export.apps.contents import ModelFacts


class _Platforms(Registry):
    """The folders of this package; its files are machinery."""

    def names(self) -> tuple[str, ...]:
        modules = pkgutil.iter_modules(self._paths())
        return tuple(sorted(module.name for module in modules if module.ispkg))


PLATFORMS = _Platforms("edgeseed.export.apps", attribute="PLATFORM", kind="platform")


class Platform(abc.ABC):
    """Where an app runs, and in which language its module is."""

    name: ClassVar[str]
    targets: ClassVar[tuple[str, ...]]
    """Export targets that it runs, the recommended first."""
    template: ClassVar[Path]
    """Source files that every module of the platform holds.

    In them, and in their paths, `edgeseedmodule` stands for the module's name and `EdgeseedModule`
    for the same with a capital, so that the template compiles as it is.
    """
    assets: ClassVar[str]
    """Folder inside the module for the model, labels, golden photos and the conformance set."""

    @abc.abstractmethod
    def constants(self, facts: ModelFacts) -> Mapping[str, str]:
        """Generated sources that hold the model's facts: path (as in the template) -> text."""

    @abc.abstractmethod
    def readme(self, facts: ModelFacts) -> str:
        """The module's README.md: how an app uses it, in five minutes."""

    def templates(self, facts: ModelFacts) -> tuple[Path, ...]:
        """Folders of source files; further ones where targets need sources of their own."""
        del facts
        return (self.template,)

    def advice(self, facts: ModelFacts) -> str | None:
        """What would serve the platform better than this bundle, for a warning; None if nothing."""
        del facts
        return None
