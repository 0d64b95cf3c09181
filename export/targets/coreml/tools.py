"""coremltools, wrapped once: imported late, untyped beyond this file, and quiet."""

import contextlib
import importlib.util
import io
import logging
import sys
import warnings
from collections.abc import Iterator
from types import ModuleType

from edgeseed.core.errors import MissingDependencyError
from edgeseed.core.optional import require


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Holds back what coremltools prints while it imports, converts and saves.

    Off a Mac it logs a line for each of Apple's runtimes that is not there, warns that this torch
    is newer than the one it was tested with, and draws four progress bars for a few seconds of
    work. Errors are exceptions, and pass.
    """
    logger = logging.getLogger("coremltools")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings(), contextlib.redirect_stderr(io.StringIO()):
            warnings.simplefilter("ignore")
            yield
    finally:
        logger.setLevel(level)


@contextlib.contextmanager
def errors_logged() -> Iterator[list[str]]:
    """What coremltools logs as errors meanwhile: where it was as it raised one."""
    logged: list[str] = []
    listener = logging.Handler(logging.ERROR)
    listener.emit = lambda record: logged.append(record.getMessage())  # type: ignore[method-assign]
    logger = logging.getLogger("coremltools")
    logger.addHandler(listener)
    try:
        yield logged
    finally:
        logger.removeHandler(listener)


def load_coremltools(why: str) -> ModuleType:
    """The coremltools module, imported quietly.

    Args:
        why: What needs it, as the start of a sentence: `"--target coreml"`.

    Raises:
        MissingDependencyError: If coremltools is not installed, or this is Windows.
    """
    if sys.platform == "win32":
        raise MissingDependencyError(
            f"{why} needs coremltools, which does not exist for Windows; "
            "do this on Linux, on macOS, or in the Windows Subsystem for Linux"
        )
    with quiet():
        return require("coremltools", extra="coreml", why=why)


def is_available() -> bool:
    """Whether coremltools is installed; looks without importing it."""
    return importlib.util.find_spec("coremltools") is not None
