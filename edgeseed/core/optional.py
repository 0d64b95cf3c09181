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
    package = module.partition(".")[0]
    try:
        return importlib.import_module(module)
    except (ImportError, OSError) as error:  # OSError: of its own libraries that do not load
        if isinstance(error, ModuleNotFoundError) and error.name in (package, module):
            raise MissingDependencyError(
                f"{why} needs {module}, which is not installed; install it: pip install "
                f"'edgeseed[{extra}]'"
            ) from error
        reason = " ".join(str(error).split())[:160] or type(error).__name__
        raise MissingDependencyError(
            f"{why} needs {module}, which is installed and cannot be imported ({reason}); install "
            f"it anew: pip install --force-reinstall 'edgeseed[{extra}]'"
        ) from error
