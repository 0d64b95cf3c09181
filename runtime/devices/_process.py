"""Runs a command and hands its lines on as they come."""

import subprocess
import tempfile
from collections.abc import Callable, Sequence

from edgeseed.runtime.device import Ended

_STDERR_BYTES = 4000


def stream(command: Sequence[str], *, on_line: Callable[[str], None]) -> Ended:
    """Run `command` to its end; it is killed if `on_line` raises or the user presses Ctrl-C."""
    # A file, not a pipe: a pipe that nobody reads would stop a talkative agent.
    with tempfile.TemporaryFile() as stderr:
        with subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=stderr,
            text=True,
            encoding="utf-8",
            errors="replace",
        ) as process:
            assert process.stdout is not None
            try:
                for line in process.stdout:
                    on_line(line)
                exit_code = process.wait()
            finally:
                process.kill()
        stderr.seek(0)
        end = stderr.read()[-_STDERR_BYTES:]
    return Ended(exit_code=exit_code, stderr=end.decode("utf-8", "replace"))
