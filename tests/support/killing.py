"""Kills real calls of the command line at random moments, and looks at what is left.

Calls are forked from a server that has imported all that they need: a call takes a second instead
of ten, and the moments fall into its work. The server is no process of tests: torch cannot train in
a fork of a process that has trained.
"""

import contextlib
import multiprocessing
import os
import random
import signal
import sys
import tempfile
import time
import traceback
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import pytest

from edgeseed.cli._main import main
from edgeseed.runtime.latency import PROTOCOLS, LatencyProtocol
from support.warm_up import warm_up_shortly

SIGNALS = (signal.SIGKILL, signal.SIGTERM, signal.SIGHUP)


_SERVER = multiprocessing.get_context("forkserver")
_SERVER.set_forkserver_preload(
    [
        "support.killing", "edgeseed.distill", "edgeseed.export", "edgeseed.runtime", "timm",
        "torch.export", "torch.onnx", "onnx", "onnxruntime", "onnxscript",
    ]
)  # fmt: skip


@dataclass(frozen=True)
class Call:
    """How a call ended.

    Attributes:
        code: Its exit code; minus the number of the signal that ended it.
        seconds: How long it ran.
        log: What it printed.
    """

    code: int
    seconds: float
    log: str


def run(
    words: Sequence[str], *, log: Path, environment: Mapping[str, str] | None = None,
    sign: signal.Signals | None = None, after: float = 0.0, limit: float = 600.0,
    protocols: Mapping[str, LatencyProtocol] | None = None,
) -> Call:  # fmt: skip
    """Runs `edgeseed WORDS`, and sends it a signal after some seconds, unless it has ended.

    Args:
        words: Of the call.
        log: Where what it prints goes.
        environment: Variables on top of this process's.
        sign: What to send; None for nothing.
        after: Seconds.
        limit: Seconds after which it is an error that the call has not ended.
        protocols: Of latency, for the call alone; agents that it packs warm up shortly then.
    """
    process = _SERVER.Process(
        target=_be_the_call, args=(list(words), log, dict(environment or {}), protocols or {})
    )
    began = time.monotonic()
    process.start()
    assert process.pid is not None
    sent = False
    while process.exitcode is None:
        seconds = time.monotonic() - began
        if sign is not None and not sent and seconds >= after:
            with contextlib.suppress(ProcessLookupError):  # it has just ended
                os.kill(process.pid, sign)
            sent = True
        if seconds > limit + (after if sign is not None else 0):
            process.kill()
            process.join()
            raise AssertionError(f"{' '.join(words)}: no end after {seconds:.0f} s")
        process.join(0.005)
    seconds = time.monotonic() - began
    return Call(process.exitcode, seconds, log.read_text(errors="replace"))


def _be_the_call(
    words: Sequence[str],
    log: Path,
    environment: Mapping[str, str],
    protocols: Mapping[str, LatencyProtocol],
) -> None:
    code = 70
    try:
        PROTOCOLS.update(protocols)
        if protocols:
            warm_up_shortly(pytest.MonkeyPatch())  # the process ends: nothing is put back
        os.setsid()  # a terminal of its own: pytest's is not touched
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            signal.signal(number, signal.default_int_handler if number == 2 else signal.SIG_DFL)
        descriptor = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
        for stream in (1, 2):
            os.dup2(descriptor, stream)
        # What pytest has put in their place would keep the text to itself.
        sys.stdout, sys.stderr = os.fdopen(1, "w"), os.fdopen(2, "w", buffering=1)
        os.environ.update(environment)
        tempfile.tempdir = os.environ.get("TMPDIR", tempfile.tempdir)
        main(list(words))
    except SystemExit as end:
        code = end.code if isinstance(end.code, int) else 1
    except BaseException:
        with contextlib.suppress(BaseException):
            os.write(2, traceback.format_exc().encode())
    finally:
        with contextlib.suppress(BaseException):
            sys.stdout.flush()
            sys.stderr.flush()
        os._exit(code)


def moments(count: int, *, longest: float, seed: int) -> list[float]:
    """Seconds after which to kill, a little beyond the end too."""
    generator = random.Random(seed)
    return [generator.uniform(0.0, 1.05 * longest) for _ in range(count)]


def leftovers(*folders: Path) -> list[str]:
    """What looks like ours and temporary in these folders, hidden files included."""
    return sorted(
        str(path)
        for folder in folders
        if folder.is_dir()
        for path in folder.iterdir()
        if path.name.startswith("edgeseed-") or path.name.endswith((".tmp", ".old"))
    )


def wait_until_empty(folder: Path, *, seconds: float) -> list[str]:
    """What is left in a folder after some patience: a device notices late that its host is gone."""
    deadline = time.monotonic() + seconds
    while (left := leftovers(folder)) and time.monotonic() < deadline:
        time.sleep(0.05)
    return left
