"""`result.json`: one bundle, measured once on one device by one protocol.

The raw samples are the result; every other latency figure in the file follows from them, and
reading a file checks that it does.
"""

import dataclasses
import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Self

from edgeseed.core.config import to_plain
from edgeseed.core.errors import ArtifactError
from edgeseed.core.files import atomic_file, read_json
from edgeseed.core.reading import read_record
from edgeseed.core.student import check_schema_version
from edgeseed.runtime.accuracy import Accuracy
from edgeseed.runtime.conformance import DERIVED
from edgeseed.runtime.engine import LayerTimes, Placement
from edgeseed.runtime.latency import LatencyProtocol
from edgeseed.runtime.machine import Load, Machine
from edgeseed.runtime.measurement import (
    AGENT_RUNNER,
    ClockReading,
    DeviceState,
    GoldenCheck,
    Reported,
    WarmUpRun,
)
from edgeseed.runtime.power import Power
from edgeseed.runtime.summary import NS_PER_MS, Summary
from edgeseed.runtime.thermals import Thermals
from edgeseed.runtime.validity import Reason

SCHEMA_VERSION = 1


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class BundleFacts:
    """Which model it was."""

    folder: str
    """The bundle folder's own name."""
    name: str
    target: str
    precision: str
    digest: str
    """Of the model's files: equal digests are the same model."""
    size_bytes: int
    """Of the model's files together."""
    student_sha256: str
    embedding_dim: int
    num_classes: int | None


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class DeviceFacts:
    """Where it ran."""

    device: str
    """As `--device` named it."""
    profile: str
    title: str
    machine: Machine


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class EngineRun:
    """What ran it."""

    name: str
    version: str
    threads: int
    settings: dict[str, Any]
    runner: str = AGENT_RUNNER
    """The program that measured: `agent`, `browser` and so on. Those of two are not comparable."""


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class MemoryUse:
    """Resident memory of the agent's process in MiB; None where the system does not tell."""

    python_mib: float | None
    """Python and numpy alone."""
    library_mib: float | None
    """With the engine's library."""
    peak_mib: float | None
    """The most it ever was, with the model running."""


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class ThermalRun:
    """Thermals before and after."""

    before: Thermals
    after: Thermals


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class Result:
    """What `edgeseed profile` measured. Times in ms where the name says so."""

    bundle: BundleFacts
    device: DeviceFacts
    engine: EngineRun
    protocol: LatencyProtocol
    placement: Placement
    """Requested against actual compute unit."""
    load_ms: float
    """Opening the model in a fresh process, its file in the system's cache; n = 1."""
    first_run_ms: float
    """The first inference after that; n = 1."""
    warm_up: WarmUpRun
    elapsed_s: float
    cpu_ms: float | None
    """CPU time an image, of all threads: moved far less than p90 by what else runs there. None
    where the runner cannot tell."""
    latency: Summary | None
    """None where the runner keeps no samples: `reported` has what it printed, and the spread is
    unknown."""
    golden: GoldenCheck | None
    """None where the runner cannot compare outputs."""
    memory: MemoryUse
    accuracy: Accuracy | None
    """None when there were no photos."""
    power: Power | None
    power_unavailable: str | None
    """Why there is no power figure."""
    thermals: ThermalRun | None
    load_before: Load
    load_during: Load
    seed: int
    measured_at: str
    """UTC, ISO 8601."""
    environment: dict[str, Any]
    """Of the host that asked: versions and commit."""
    reasons: tuple[Reason, ...]
    samples_ns: tuple[int, ...]
    """Every timed run, in order."""
    reported: Reported | None = None
    """Statistics of a runner that keeps no samples."""
    clocks: tuple[ClockReading, ...] = ()
    """During the timed runs, about once a second."""
    state_before: DeviceState | None = None
    """What the device's own tools said before the timed runs, and after."""
    state_after: DeviceState | None = None
    layers: LayerTimes | None = None
    """Time of each layer, from runs of their own; None where the engine does not tell."""
    schema_version: int = SCHEMA_VERSION

    @property
    def valid(self) -> bool:
        """Whether the result counts."""
        return not any(reason.invalidates for reason in self.reasons)

    @property
    def mean_ms(self) -> float:
        """Mean latency, which every runner tells."""
        if self.latency is not None:
            return self.latency.mean
        assert self.reported is not None
        return self.reported.mean_ns / NS_PER_MS

    @property
    def num_runs(self) -> int:
        """Timed runs."""
        if self.latency is not None:
            return self.latency.n
        assert self.reported is not None
        return self.reported.n

    @property
    def energy_mj(self) -> float | None:
        """Energy of one inference in mJ: of the whole board or package, whatever else it did."""
        return None if self.power is None else self.power.mean_w * self.mean_ms

    def to_dict(self) -> dict[str, Any]:
        """As JSON; `valid` is in it."""
        values: dict[str, Any] = to_plain(self)
        values["placement"] = self.placement.to_dict()
        if self.power is not None:
            values["power"] = self.power.to_dict()
            values["energy_mj"] = self.energy_mj
        return {"schema_version": values.pop("schema_version"), "valid": self.valid, **values}

    @classmethod
    def from_dict(cls, values: Mapping[str, Any], *, source: Path) -> Self:
        """From `to_dict`'s form.

        Raises:
            SchemaVersionError: If a newer edgeseed wrote it.
            ArtifactError: If it is not a result, or its figures do not follow from its samples.
        """
        if not isinstance(values, dict):
            raise ArtifactError(f"{source} is not a result of `edgeseed profile`")
        check_schema_version(values, supported=SCHEMA_VERSION, source=source)
        fields = {name: value for name, value in values.items() if name not in _FOLLOWING}
        result = read_record(cls, fields, what=str(source), derived=DERIVED)
        _check_figures(result, values, source)
        return result

    def write(self, path: str | Path) -> None:
        """Write `result.json`, whole or not at all."""
        # The samples go on one line: indented, a million of them are a million lines.
        values = self.to_dict()
        samples = json.dumps(values.pop("samples_ns"), separators=(",", ":"))
        text = json.dumps(values, indent=2, allow_nan=False, ensure_ascii=False)
        assert text.endswith("\n}")
        with atomic_file(Path(path)) as temporary:
            temporary.write_text(f'{text[:-2]},\n  "samples_ns": {samples}\n}}\n', encoding="utf-8")


def read_result(path: str | Path) -> Result:
    """Read a `result.json`.

    Raises:
        UsageError: If there is no such file.
        SchemaVersionError: If a newer edgeseed wrote it.
        ArtifactError: If it is truncated, of another kind, or was edited.
    """
    path = Path(path)
    return Result.from_dict(read_json(path, what="a result of `edgeseed profile`"), source=path)


_FOLLOWING = {"valid", "energy_mj"}
"""Entries of a result's file that follow from others."""


def _check_figures(result: Result, values: Mapping[str, Any], source: Path) -> None:
    """What a file says twice must agree: it was edited otherwise."""
    if not result.samples_ns:
        if result.latency is not None or result.reported is None:
            raise ArtifactError(f"{source}: it has figures, and no samples that they follow from")
    elif min(result.samples_ns) <= 0:
        raise ArtifactError(f"{source}: samples_ns has a duration that is not above 0")
    else:
        _check_percentiles(result, source)
    if "valid" in values and values["valid"] != result.valid:
        raise ArtifactError(f"{source}: `valid` contradicts its reasons; the file was edited")


def _check_percentiles(result: Result, source: Path) -> None:
    follows, written = Summary.from_samples(result.samples_ns), result.latency
    if written is None or written.n != follows.n:
        raise ArtifactError(f"{source}: its latency is not of its samples; the file was edited")
    for name in ("p50", "p90", "p95", "p99"):
        said, found = getattr(written, name).value, getattr(follows, name).value
        if not math.isclose(said, found, rel_tol=1e-6):
            raise ArtifactError(
                f"{source}: its {name} is {said:.4g} ms, but its samples give {found:.4g} ms; "
                "the file was edited, profile again"
            )
