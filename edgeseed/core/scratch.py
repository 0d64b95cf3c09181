"""Folders in the system's temporary folder: each has an owner, and goes when that is gone.

A call that is killed cannot clean up. The next one does: what it finds of an owner that is gone.
"""

import contextlib
import os
import re
import shutil
import tempfile
import threading
import time
from collections.abc import Iterator
from pathlib import Path

from edgeseed.core.files import disk_errors
from edgeseed.core.processes import is_running, machine

PREFIX = "edgeseed-"
OWNER = "owner"
"""File with the number of the process that works in the folder; boards read it too."""
_NAME = re.compile(rf"{PREFIX}([0-9a-f]{{8}})-(\d+)-\w+")
# A folder without an owner is of an older edgeseed, or of a device's run.
_UNOWNED_SECONDS = 24 * 3600
_ONE_AT_A_TIME = threading.RLock()


@contextlib.contextmanager
def scratch_folder() -> Iterator[Path]:
    """A new folder that is removed in the end; what killed calls left behind is removed first.

    Raises:
        WorkError: If the disk is full or may not be written.
    """
    sweep()
    # In the name too: between two system calls there may be no file yet.
    prefix = f"{PREFIX}{machine()}-{os.getpid()}-"
    with (
        disk_errors(Path(tempfile.gettempdir()) / PREFIX.rstrip("-")),
        tempfile.TemporaryDirectory(prefix=prefix, ignore_cleanup_errors=True) as folder,
    ):
        (Path(folder) / OWNER).write_text(str(os.getpid()))
        work = Path(folder) / "work"
        work.mkdir()
        yield work


@contextlib.contextmanager
def temporary_files_in_scratch() -> Iterator[None]:
    """What libraries write to the temporary folder meanwhile goes to one that is removed.

    coremltools keeps a copy of each model until the process ends, and for good where that is killed
    or leaves by `os._exit`, as workers of a pool do.

    Raises:
        WorkError: If the disk is full or may not be written.
    """
    # One at a time: the temporary folder is the whole process's.
    with _ONE_AT_A_TIME, scratch_folder() as folder:
        before, tempfile.tempdir = tempfile.tempdir, str(folder)
        try:
            yield
        finally:
            tempfile.tempdir = before


def sweep(parent: Path | None = None) -> list[Path]:
    """Removes this user's folders whose owners are gone; returns them."""
    parent = parent or Path(tempfile.gettempdir())
    removed = []
    for folder in parent.glob(f"{PREFIX}*"):
        with contextlib.suppress(OSError):  # another user's, or gone meanwhile
            if folder.is_dir() and not folder.is_symlink() and _is_left(folder):
                shutil.rmtree(folder)
                removed.append(folder)
    return removed


def _is_left(folder: Path) -> bool:
    if hasattr(os, "getuid") and folder.stat().st_uid != os.getuid():
        return False
    named = _NAME.fullmatch(folder.name)
    if named is not None and named[1] == machine():
        return not is_running(int(named[2]))
    try:
        owner = int((folder / OWNER).read_text())
    except (OSError, ValueError):
        return time.time() - folder.stat().st_mtime > _UNOWNED_SECONDS
    # A name of another machine: numbers of processes mean something else there.
    return named is None and not is_running(owner)
