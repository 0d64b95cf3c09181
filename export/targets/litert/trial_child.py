"""Runs a grey photo through the LiteRT file on stdin: what `trial.py` starts.

It is run by its path and imports nothing of edgeseed, and so no torch: a third of a second.
"""

import contextlib
import importlib
import os
import sys

import numpy as np

REFUSED = 3
"""Exit code where LiteRT raised; its message is on stdout."""
_GREY = 128


def run(content: bytes) -> None:
    """Loads a file, runs it once, and reads what comes out."""
    model = importlib.import_module("ai_edge_litert.interpreter").Interpreter(
        model_content=content, num_threads=1
    )
    model.allocate_tensors()
    for each in model.get_input_details():
        model.set_tensor(each["index"], np.full(each["shape"], _GREY, each["dtype"]))
    model.invoke()
    for each in model.get_output_details():
        model.get_tensor(each["index"])
    if model.get_signature_list():
        runner = model.get_signature_runner()
        runner.get_input_details()
        runner.get_output_details()


def _limit_memory(most_bytes: int) -> None:
    # Not every system has limits, or lets them be set.
    with contextlib.suppress(ImportError, ValueError, OSError):
        import resource

        resource.setrlimit(resource.RLIMIT_AS, (most_bytes, most_bytes))


def _main() -> None:
    _limit_memory(int(sys.argv[1]))
    try:
        run(sys.stdin.buffer.read())
    except Exception as error:  # whatever it raises is the answer
        print((str(error).strip().splitlines() or [type(error).__name__])[0], flush=True)
        # Not by way of destructors: those of a half-made interpreter may end it otherwise.
        os._exit(REFUSED)


if __name__ == "__main__":
    _main()
