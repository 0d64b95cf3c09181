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


def ending_code(error: BaseException) -> int | None:
    """The exit code of a call that a signal or Ctrl-C ended, whatever came of it afterwards.

    An exception may be raised at any line, also while a library takes its own state down, and that
    library's error is then what comes out (torch: "Trying to pop empty mode stack").

    Args:
        error: What came out.

    Returns:
        128 and the number of the signal, or None if neither was the beginning of it.
    """
    seen: set[int] = set()
    each: BaseException | None = error
    while each is not None and id(each) not in seen:
        seen.add(id(each))
        if isinstance(each, KeyboardInterrupt):
            return SIGNALLED + signal.SIGINT
        if isinstance(each, SystemExit) and isinstance(each.code, int) and each.code > SIGNALLED:
            return each.code
        each = each.__cause__ or each.__context__
    return None
