"""`measurement.json`: what a runner saw on the device, before anything is concluded from it.

Every runner writes this record: the Python agent, the browser page, the benchmarks of the apps. The
host reads it, and nothing else travels back but the outputs of the photos. Times are whole
nanoseconds, memory is in MiB, temperatures in °C. `docs/measurement.md` says how a runner measures;
`runtime/measurement.schema.json` is this file as a JSON schema.

It runs on the device: Python 3.8 and the standard library. Reading is the host's, see records.py.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING

from edgeseed.runtime.engine import LayerTimes, Placement
from edgeseed.runtime.machine import Load, Machine, Memory
from edgeseed.runtime.power import Power
from edgeseed.runtime.thermals import Thermals

if TYPE_CHECKING:
    from typing import Any

SCHEMA_VERSION = 1
AGENT_RUNNER = "agent"
"""The Python agent: what measured where a file does not say."""


@dataclass(frozen=True)
class Request:
    """What the runner was asked for. It binds a file that an app wrote to its bundle.

    Attributes:
        bundle_digest: sha256 over the bundle's model files, as in the manifest and the result.
        engine: name of the engine, such as `onnxruntime`.
        threads: number of threads of the engine.
        protocol: name of the protocol, such as `quick`.
        min_runs, min_seconds, max_seconds: the protocol's limits.
    """

    bundle_digest: str
    engine: str
    threads: int
    protocol: str
    min_runs: int
    min_seconds: float
    max_seconds: float


@dataclass(frozen=True)
class WarmUpRun:
    """The untimed runs before the measurement.

    Attributes:
        runs: how many.
        seconds: how long they took.
        steady: whether the latency had settled; None where the warm-up has a fixed length.
    """

    runs: int
    seconds: float
    steady: bool | None


@dataclass(frozen=True)
class GoldenCheck:
    """The golden photos, run before anything is timed.

    Attributes:
        n: number of photos.
        relative_error: output -> largest difference of a photo over its largest expected value, of
            the worst photo.
        tolerance: the limit that the job had.
    """

    n: int
    relative_error: dict[str, float]
    tolerance: float


@dataclass(frozen=True)
class Reported:
    """Statistics that a runner without samples printed; None for what it did not print.

    Attributes:
        n: number of timed runs.
        mean_ns, std_ns, min_ns, max_ns: of a run, in nanoseconds.
        percentiles_ns: percent -> nanoseconds, such as `{"50": 5000000}`.
    """

    n: int
    mean_ns: int
    std_ns: int | None = None
    min_ns: int | None = None
    max_ns: int | None = None
    percentiles_ns: dict[str, int] = field(default_factory=dict)


@dataclass(frozen=True)
class DeviceState:
    """What a device's own tools say at one moment.

    Attributes:
        facts: name -> value, as the tools print them, such as `{"power mode": "15W"}`.
        throttling: one line for each limit in force at that moment, such as
            `under-voltage (vcgencmd get_throttled 0x50005)`. Empty where there is none.
    """

    facts: dict[str, str] = field(default_factory=dict)
    throttling: list[str] = field(default_factory=list)


@dataclass(frozen=True)
class ClockReading:
    """Clocks at one moment of the timed runs: seconds since their start, MHz by core or unit."""

    seconds: float
    mhz: dict[str, float]


@dataclass(frozen=True)
class Measurement:
    """One measurement by one runner.

    Attributes:
        machine: what the device is.
        engine_version: version of the engine's library.
        load_ns: opening the model, once.
        first_run_ns: the first inference after that, once.
        settings: what the engine was opened with, for the result file.
        placement: where the nodes are.
        golden: None where the runner cannot compare outputs; `limitations` says so then.
        samples_ns: every timed run, in order; empty only where `reported` stands in.
        elapsed_ns: from the start of the first sample to the end of the last.
        cpu_ns: CPU time of the process during the timed runs; None where it cannot be told.
        warm_up: how the warm-up went.
        thermals: before and after the timed runs.
        load_before, load_during: what else the machine did.
        memory_before, memory_library, memory_model: of the process: at its start, with the
            engine's library, with the model after the golden photos.
        power: energy of the timed runs; None where `power_unavailable` says why.
        clocks: during the timed runs, about once a second.
        state_before, state_after: what the device's own tools say.
        numpy: version, where there is one.
        runner: the program that measured: `agent`, `browser`, `benchmark_model` and so on. Numbers
            of two runners are not comparable.
        limitations: what this runner could not do or know, one line each.
        request: what was asked.
        reported: statistics of a runner that keeps no samples.
        layers: time of each layer, from runs of their own that are in no sample; None where the
            engine does not tell.
    """

    machine: Machine
    engine_version: str
    load_ns: int
    first_run_ns: int
    settings: dict[str, Any]
    placement: Placement
    golden: GoldenCheck | None
    samples_ns: list[int]
    elapsed_ns: int
    cpu_ns: int | None
    warm_up: WarmUpRun
    thermals: tuple[Thermals | None, Thermals | None]
    load_before: Load
    load_during: Load
    memory_before: Memory
    memory_library: Memory
    memory_model: Memory
    power: Power | None
    power_unavailable: str | None
    clocks: list[ClockReading] = field(default_factory=list)
    state_before: DeviceState | None = None
    state_after: DeviceState | None = None
    numpy: str | None = None
    runner: str = AGENT_RUNNER
    limitations: list[str] = field(default_factory=list)
    request: Request | None = None
    reported: Reported | None = None
    layers: LayerTimes | None = None
    schema_version: int = SCHEMA_VERSION

    def to_dict(self) -> dict[str, Any]:
        """As JSON, with the share of nodes and the mean power in it for people who read it."""
        values = asdict(self)
        values["placement"] = self.placement.to_dict()
        if self.power is not None:
            values["power"] = self.power.to_dict()
        return values
