"""This machine."""

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import IO, Self

from edgeseed.core.errors import ConfigError
from edgeseed.runtime.agent import _job
from edgeseed.runtime.devices._device import Device, Ended

_STDERR_CHARACTERS = 4000


class HostDevice(Device):
    """Runs the agent in a process of its own, with the Python that runs edgeseed.

    A process of its own keeps torch, its threads and its memory out of the measurement.
    """

    kind = "host"

    @classmethod
    def from_address(cls, address: str) -> Self:
        """The host has no address."""
        if address:
            raise ConfigError(f"--device host takes no address, found {address!r}; write: host")
        return cls()

    @property
    def name(self) -> str:
        """Always `host`."""
        return self.kind

    def run_agent(self, work: Path, *, on_line: Callable[[str], None]) -> Ended:
        """Run the agent in `work`, where everything is already."""
        log = work / "agent.log"
        with log.open("w", encoding="utf-8") as stderr:
            exit_code = _run([sys.executable, str(work / _job.AGENT), str(work)], stderr, on_line)
        return Ended(exit_code=exit_code, stderr=log.read_text("utf-8")[-_STDERR_CHARACTERS:])


def _run(command: list[str], stderr: IO[str], on_line: Callable[[str], None]) -> int:
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=stderr, text=True, encoding="utf-8"
    ) as process:
        assert process.stdout is not None
        try:
            for line in process.stdout:
                on_line(line)
            return process.wait()
        finally:
            process.kill()  # only still alive when on_line raised or the user pressed Ctrl-C


DEVICE = HostDevice
