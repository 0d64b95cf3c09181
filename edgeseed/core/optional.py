"""The one way to import a package that not every user has."""

import importlib
from types import ModuleType

from edgeseed.core.errors import MissingDependencyError


def require(module: str, *, extra: str, why: str) -> ModuleType:
    """Imports `module`, or says which command installs it.

    Args:
        module: The module to import, such as `tensorrt`.
        extra: The extra of edgeseed that brings it.
        why: What needs it, as the start of a sentence: `"--target tensorrt"`.

    Raises:
        MissingDependencyError: If it is not installed, or fails as it is imported.
    """
    try:
        return importlib.import_module(module)
    except ModuleNotFoundError as error:
        if error.name is None or error.name.partition(".")[0] != module.partition(".")[0]:
            raise
        raise MissingDependencyError(
            f"{why} needs {module}, which is not installed; install it: pip install "
            f"'edgeseed[{extra}]'"
        ) from error
