"""SIGTERM and SIGHUP end a call as Ctrl-C does: by an exception, so that all is cleaned up."""

import contextlib
import signal
import threading
from collections.abc import Iterator
from types import FrameType

SIGNALLED = 128
"""What a shell adds to the number of the signal that ended a program."""
_NAMES = ("SIGTERM", "SIGHUP")  # Windows has no SIGHUP


def ending_signals() -> list[signal.Signals]:
    """The two, but for those that whoever started us wants to be ignored, such as nohup."""
    numbers = [getattr(signal, name) for name in _NAMES if hasattr(signal, name)]
    return [number for number in numbers if signal.getsignal(number) != signal.SIG_IGN]


@contextlib.contextmanager
def ended_by_exception() -> Iterator[None]:
    """In the block, both signals raise SystemExit with the shell's code, 128 and the number."""
    if threading.current_thread() is not threading.main_thread():
        yield  # Python hands signals to the main thread alone
        return
    numbers = ending_signals()

    def end(number: int, frame: FrameType | None) -> None:
        # Once: a second one must not interrupt the cleaning up.
        for each in numbers:
            signal.signal(each, signal.SIG_IGN)
        raise SystemExit(SIGNALLED + number)

    before = {number: signal.signal(number, end) for number in numbers}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
