"""What a device is: a place where the agent runs."""

import abc
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar, Self


@dataclass(frozen=True, kw_only=True, slots=True)
class Ended:
    """How the agent's process ended: its exit code, and the end of what it wrote to stderr."""

    exit_code: int
    stderr: str


class Device(abc.ABC):
    """A place where the agent runs.

    Attributes:
        kind: the plug-in's name, and the first part of `--device KIND:ADDRESS`.
    """

    kind: ClassVar[str]

    @classmethod
    @abc.abstractmethod
    def from_address(cls, address: str) -> Self:
        """The device at `address`, the empty text when `--device` had none. Connects to nothing.

        Raises:
            ConfigError: If the address does not fit this kind.
        """

    @property
    @abc.abstractmethod
    def name(self) -> str:
        """What `--device` was, to be written into the result."""

    @abc.abstractmethod
    def run_agent(self, work: Path, *, on_line: Callable[[str], None]) -> Ended:
        """Bring the folder `work` there, run the agent in it, and bring `work/result` back.

        Args:
            work: the folder that agent/_job.py draws; it is self-contained.
            on_line: called with each line of the agent's standard output as it comes.

        Raises:
            WorkError: If the device cannot be reached; the message says how to reach it.
        """
