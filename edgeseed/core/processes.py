"""Which process something belongs to, so that what a killed one left can be told and removed."""

import contextlib
import functools
import hashlib
import os
import socket
from pathlib import Path

_BOOT = Path("/proc/sys/kernel/random/boot_id")
_NAMESPACE = Path("/proc/self/ns/pid")


@functools.cache
def machine() -> str:
    """Eight hex digits for where numbers of processes mean the same.

    That is one machine between two starts, and one container: two of these may share a folder.
    """
    facts = [socket.gethostname()]
    with contextlib.suppress(OSError):  # not Linux
        facts += [_BOOT.read_text(encoding="ascii"), str(_NAMESPACE.readlink())]
    return hashlib.sha256("\n".join(facts).encode()).hexdigest()[:8]


def is_running(process: int) -> bool:
    """Whether a process of this machine still runs, whoever started it."""
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except (PermissionError, OverflowError):
        return True
    return True
