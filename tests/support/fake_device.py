"""A device that measures nothing, for tests: it answers what it was told to answer."""

import dataclasses
import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from edgeseed.runtime.agent import job_file
from edgeseed.runtime.agent.device import AgentDevice
from edgeseed.runtime.device import Ended
from edgeseed.runtime.engine import LayerTime, LayerTimes, Placement
from edgeseed.runtime.machine import Load, Machine, Memory
from edgeseed.runtime.measurement import GoldenCheck, Measurement, WarmUpRun
from edgeseed.runtime.thermals import Thermals

MS = 1_000_000
ENDED_WELL = Ended(exit_code=0, stderr="")


def fake_machine(**changes: Any) -> Machine:
    """A calm four-core board, with `changes` to its facts."""
    machine = Machine(
        model="Fake Board",
        cpu="Fake A76",
        architecture="aarch64",
        system="Linux",
        python="3.8.18",
        logical_cores=4,
        usable_cores=4,
        cpu_quota=None,
        memory_mib=8192.0,
        governors=["performance"],
        frequency_mhz={"cpu0": 2400.0},
        container=None,
        virtual_machine=None,
        max_frequency_mhz={"cpu0": 2400.0},
    )
    return dataclasses.replace(machine, **changes)


def fake_layers(*times_us: int) -> LayerTimes:
    """Convolutions that take so many microseconds each, and a MatMul of 10."""
    layers = [LayerTime(f"conv_{i}", "Conv", "cpu", 1000 * us) for i, us in enumerate(times_us)]
    layers.append(LayerTime("head", "MatMul", "cpu", 10_000))
    return LayerTimes(20, 1000 * sum(times_us) + 20_000, layers)


def fake_measurement(samples_ns: Sequence[int], **changes: Any) -> Measurement:
    """What an agent on a calm four-core board would write, with `changes` to its fields."""
    quiet = Load(10.0, 0.0, 0.0, 0.1)
    thermals = Thermals({"cpu": 45.0}, 0)
    measurement = Measurement(
        machine=fake_machine(),
        numpy=np.__version__,
        engine_version="0",
        load_before=quiet,
        load_during=quiet,
        memory_before=Memory(30.0, 30.0),
        memory_library=Memory(60.0, 60.0),
        memory_model=Memory(80.0, 90.0),
        load_ns=40 * MS,
        first_run_ns=12 * MS,
        placement=Placement("cpu", "cpu", {"cpu": 90}),
        settings={},
        golden=GoldenCheck(4, {"embedding": 1e-7}, 1e-3),
        samples_ns=list(samples_ns),
        elapsed_ns=sum(samples_ns),
        cpu_ns=sum(samples_ns),
        warm_up=WarmUpRun(100, 1.0, True),
        thermals=(thermals, thermals),
        power=None,
        power_unavailable="a fake uses no power",
    )
    return dataclasses.replace(measurement, **changes)


class FakeDevice(AgentDevice):
    """Writes a planted measurement where the agent would, or fails as told.

    Args:
        measurement: what the agent would have measured; None for an agent that dies.
        outputs: what the model would have answered to the photos; by default the mean of each
            channel as the embedding.
        lines: what the agent would have printed.
        ended: how its process would have ended.
    """

    kind = "fake"

    def __init__(
        self,
        measurement: Measurement | None,
        *,
        outputs: Mapping[str, NDArray[np.float32]] | None = None,
        lines: Sequence[Mapping[str, Any]] = (),
        ended: Ended = ENDED_WELL,
    ) -> None:
        self._measurement = measurement
        self._outputs = outputs
        self._lines = lines
        self._ended = ended
        self.jobs: list[job_file.Job] = []
        self.probed = ""

    @classmethod
    def from_address(cls, address: str) -> Self:
        """A device whose agent dies at once."""
        return cls(None)

    @property
    def name(self) -> str:
        """Always `fake`."""
        return self.kind

    def probe(self, script: str) -> str:
        """What it was told to answer."""
        return self.probed

    def run_agent(self, work: Path, *, on_line: Callable[[str], None]) -> Ended:
        """Answer; the job is kept in `jobs`."""
        self.jobs.append(job_file.Job.read(work / job_file.JOB))
        for line in self._lines:
            on_line(json.dumps(line) + "\n")
        result = work / job_file.RESULT
        result.mkdir()
        if self._measurement is not None:
            text = json.dumps(self._measurement.to_dict())
            (result / job_file.MEASUREMENT).write_text(text, encoding="utf-8")
        if (work / job_file.PHOTOS).exists():
            with np.load(work / job_file.PHOTOS) as archive:
                means = archive["pixels"].mean(axis=(2, 3), dtype=np.float32)
            outputs: dict[str, Any] = {**(self._outputs or {"embedding": means})}
            np.savez(result / job_file.OUTPUTS, **outputs)
        return self._ended


DEVICE = FakeDevice
