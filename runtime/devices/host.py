"""This machine."""

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Self

from edgeseed.core.errors import ConfigError, WorkError
from edgeseed.runtime.agent import job_file
from edgeseed.runtime.agent.device import AgentDevice
from edgeseed.runtime.device import Ended
from edgeseed.runtime.devices._process import stream


class HostDevice(AgentDevice):
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

    def probe(self, script: str) -> str:
        """See `AgentDevice.probe`."""
        done = subprocess.run(
            [sys.executable, "-c", script], capture_output=True, text=True, check=False
        )
        if done.returncode != 0:
            raise WorkError(f"host: {done.stderr.strip().rpartition(chr(10))[2]}")
        return done.stdout

    def run_agent(self, work: Path, *, on_line: Callable[[str], None]) -> Ended:
        """Run the agent in `work`, where everything is already."""
        return stream([sys.executable, str(work / job_file.AGENT), str(work)], on_line=on_line)


DEVICE = HostDevice
