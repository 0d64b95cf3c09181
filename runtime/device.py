"""The contract of a kind of device: a place where a bundle is measured.

A kind is one file in `devices/`, which ends with `DEVICE = MyDevice`. A device brings files there,
starts a runner (the program that measures) and brings its measurement back. Most run the Python
agent: they are an `AgentDevice` (runtime/agent/device.py). Others bring a runner of their own, such
as a page for a browser; then they write `measure` themselves.
"""

import abc
from dataclasses import dataclass
from typing import ClassVar, Self

import numpy as np
from numpy.typing import NDArray

from edgeseed.core.bundle import Bundle
from edgeseed.core.errors import ConfigError, WorkError
from edgeseed.profiles import EngineFacts, Profile
from edgeseed.runtime.agent.job_file import Job
from edgeseed.runtime.conformance import Stages
from edgeseed.runtime.engines import ENGINES
from edgeseed.runtime.measurement import Measurement


@dataclass(frozen=True, kw_only=True, slots=True)
class Ended:
    """How the agent's process ended: its exit code, and the last lines of its stderr."""

    exit_code: int
    stderr: str


@dataclass(frozen=True, kw_only=True, slots=True)
class Observation:
    """What came back from a device.

    Attributes:
        measurement: what the runner measured.
        outputs: output name -> (N, ...) outputs on the job's photos; None without photos.
        stages: when the runner's stages began, by this machine's clock; None where they were not
            watched.
    """

    measurement: Measurement
    outputs: dict[str, NDArray[np.float32]] | None
    stages: Stages | None = None


class LostAfterMeasuringError(WorkError):
    """A device failed after it had measured: the measurement came back, the rest did not.

    Attributes:
        measurement: what came back.
    """

    def __init__(self, message: str, *, measurement: Measurement) -> None:
        super().__init__(message)
        self.measurement = measurement


class Device(abc.ABC):
    """A place where a bundle is measured.

    Attributes:
        kind: the plug-in's name, and the first part of `--device KIND:ADDRESS`.
        options: options of the command line that only this kind has, such as `lan` for `--lan`;
            `open_device` adds them to the address as `?lan=1`.
    """

    kind: ClassVar[str]
    options: ClassVar[tuple[str, ...]] = ()

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
        """The value of `--device`, for the result."""

    def engine_for(self, profile: Profile, target: str) -> EngineFacts:
        """The engine, unit and threads for bundles of `target`: what the profile says.

        Raises:
            ConfigError: If there is none; the message says what to export for.
        """
        engine = profile.engine_for(target)
        if engine.name not in ENGINES.names():
            raise ConfigError(
                f"profile {profile.name} runs {engine.target} bundles with {engine.name}, an "
                f"engine that this edgeseed does not have; it has: {', '.join(ENGINES.names())}"
            )
        return engine

    @abc.abstractmethod
    def measure(self, bundle: Bundle, job: Job, *, pixels: NDArray[np.uint8] | None) -> Observation:
        """Measures a bundle on the device.

        Args:
            bundle: the bundle; only its files of role "ship" are sent.
            job: what to measure, and for how long.
            pixels: (N, C, H, W) photos whose outputs are wanted as well, or None.

        Raises:
            ArtifactError: If the bundle arrived changed.
            GateError: If the model does not give its golden outputs there; then nothing was timed.
            WorkError: If the device or the engine failed.
        """
