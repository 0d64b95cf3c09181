"""Folders of runs in the system's temporary folder: each has an owner, and goes when that is gone.

A run that is killed cannot clean up. The next one does: what it finds of an owner that is gone.
"""

import contextlib
import os
import shutil
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

from edgeseed.core.files import disk_errors

PREFIX = "edgeseed-"
OWNER = "owner"
# A folder without an owner is of an older edgeseed, or of a run that is just about to name itself.
_UNOWNED_SECONDS = 24 * 3600


@contextlib.contextmanager
def work_folder() -> Iterator[Path]:
    """A new folder that is removed in the end; what earlier runs left behind is removed first.

    Raises:
        WorkError: If the disk is full or may not be written.
    """
    sweep()
    with (
        disk_errors(Path(tempfile.gettempdir())),
        tempfile.TemporaryDirectory(prefix=PREFIX, ignore_cleanup_errors=True) as folder,
    ):
        (Path(folder) / OWNER).write_text(str(os.getpid()))
        work = Path(folder) / "work"
        work.mkdir()
        yield work


def sweep(parent: Path | None = None) -> list[Path]:
    """Remove this user's folders whose owners are gone; returns them."""
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
    try:
        owner = int((folder / OWNER).read_text())
    except (OSError, ValueError):
        return time.time() - folder.stat().st_mtime > _UNOWNED_SECONDS
    return not _is_running(owner)


def _is_running(process: int) -> bool:
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True
