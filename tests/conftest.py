"""What all tests share: one thread each, so that two workers do not fight over two cores."""

import gc
import os

os.environ.setdefault("OMP_NUM_THREADS", "1")


def pytest_collection_finish() -> None:
    """Takes what imports have made out of the garbage collector's sight.

    torch, timm and onnx are a million objects, and each full collection looked at all of them. That
    was a tenth of an export, and nine tenths of a conversion by coremltools, which asks for one.
    """
    gc.collect()
    gc.freeze()
