"""A device that has Python: the agent goes there, measures, and its files come back."""

import abc
from collections.abc import Callable
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from edgeseed.core.bundle import Bundle
from edgeseed.runtime.agent.dispatch import dispatch
from edgeseed.runtime.agent.job_file import Job
from edgeseed.runtime.device import Device, Ended, Observation


class AgentDevice(Device):
    """A device that runs the Python agent."""

    def measure(self, bundle: Bundle, job: Job, *, pixels: NDArray[np.uint8] | None) -> Observation:
        """Send the agent, run it, and read what it wrote."""
        return dispatch(self, bundle, job, pixels=pixels)

    @abc.abstractmethod
    def probe(self, script: str) -> str:
        """What a few lines of Python print there, with the Python that would run the agent.

        Raises:
            WorkError: If the device cannot be reached, or they fail.
        """

    @abc.abstractmethod
    def run_agent(self, work: Path, *, on_line: Callable[[str], None]) -> Ended:
        """Bring the folder `work` there, run the agent in it, and bring `work/result` back.

        Args:
            work: the folder that agent/job_file.py draws; it is self-contained.
            on_line: called with each line of the agent's standard output as it comes.

        Raises:
            WorkError: If the device cannot be reached; the message says how to reach it.
        """
