"""SIGTERM and SIGHUP end a run as Ctrl-C does: by an exception, so that all is cleaned up."""

import contextlib
import signal
import threading
from collections.abc import Iterator
from types import FrameType

_NAMES = ("SIGTERM", "SIGHUP")  # Windows has no SIGHUP


@contextlib.contextmanager
def ended_by_exception() -> Iterator[None]:
    """In the block, both signals raise SystemExit with the shell's code, 128 and the number."""
    if threading.current_thread() is not threading.main_thread():
        yield  # Python hands signals to the main thread alone
        return
    numbers = [getattr(signal, name) for name in _NAMES if hasattr(signal, name)]

    def end(number: int, frame: FrameType | None) -> None:
        # Once: a second one must not interrupt the cleaning up.
        for each in numbers:
            signal.signal(each, signal.SIG_IGN)
        raise SystemExit(128 + number)

    before = {number: signal.signal(number, end) for number in numbers}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
