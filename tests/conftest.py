"""What all tests share: one thread each, so that two workers do not fight over two cores."""

import gc
import os
from pathlib import Path

import pytest

os.environ.setdefault("OMP_NUM_THREADS", "1")
# Nobody pulls the plug on tests: thousands of files need not be on the disk before the next line
# runs. Processes that tests start do wait.
os.fsync = lambda fd: None


def pytest_collection_finish() -> None:
    """Takes what imports have made out of the garbage collector's sight.

    torch, timm and onnx are a million objects, and each full collection looked at all of them. That
    was a tenth of an export, and nine tenths of a conversion by coremltools, which asks for one.
    """
    _forget_what_is_alive()


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_setup(item: pytest.Item) -> None:
    """Does so again where a file of tests begins: what the one before imported is there to stay.

    Each measurement of a latency collects first, and took a second late in a run of all tests.
    """
    if _last_file != [item.path]:
        _last_file[:] = [item.path]
        _forget_what_is_alive()


_last_file: list[Path] = []


def _forget_what_is_alive() -> None:
    gc.collect()
    gc.freeze()
