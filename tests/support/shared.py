"""What is made once and read by all workers: bundles take seconds each."""

import fcntl
import os
from collections.abc import Callable
from pathlib import Path

import pytest


def make_once(factory: pytest.TempPathFactory, name: str, make: Callable[[Path], object]) -> Path:
    """A file or folder that the first worker that asks for it makes; nobody may change it.

    Args:
        factory: pytest's.
        name: Of the file or folder, the same in all workers.
        make: Writes it, at the path it is called with. What fails is tried again by the next.
    """
    path = shared_folder(factory) / name
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.with_name(f"{path.name}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not path.exists():
            make(path)
    return path


def shared_folder(factory: pytest.TempPathFactory) -> Path:
    """A folder of this run of pytest that all workers see."""
    root = factory.getbasetemp()
    if "PYTEST_XDIST_WORKER" in os.environ:
        root = root.parent  # each worker has a folder of its own in it
    folder = root / "shared"
    folder.mkdir(exist_ok=True)
    return folder
