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
from edgeseed.core.student import check_schema_version
from edgeseed.runtime.accuracy import Accuracy
from edgeseed.runtime.engine import Placement
from edgeseed.runtime.latency import Protocol
from edgeseed.runtime.machine import Load, Machine
from edgeseed.runtime.power import Power
from edgeseed.runtime.summary import Summary
from edgeseed.runtime.thermals import Thermals
from edgeseed.runtime.validity import Reason

SCHEMA_VERSION = 1
AGENT_RUNNER = "agent"
"""The Python agent: what measured where a file does not say."""


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
class WarmUpRun:
    """How the warm-up went."""

    runs: int
    seconds: float
    steady: bool


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class Golden:
    """The self-check before anything was timed: error by output, relative to its largest value."""

    n: int
    relative_error: dict[str, float]
    tolerance: float


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
    protocol: Protocol
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
    latency: Summary
    golden: Golden
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
    schema_version: int = SCHEMA_VERSION

    @property
    def valid(self) -> bool:
        """Whether the result counts."""
        return not any(reason.invalidates for reason in self.reasons)

    def to_dict(self) -> dict[str, Any]:
        """As JSON; `valid` is in it."""
        values: dict[str, Any] = to_plain(self)
        values["placement"] = self.placement.to_dict()
        if self.power is not None:
            values["power"] = self.power.to_dict()
        return {"schema_version": values.pop("schema_version"), "valid": self.valid, **values}

    @classmethod
    def from_dict(cls, values: Mapping[str, Any], *, source: Path) -> Self:
        """From `to_dict`'s form.

        Raises:
            SchemaVersionError: If a newer edgeseed wrote it.
            ArtifactError: If it is not a result, or its figures do not follow from its samples.
        """
        check_schema_version(values, supported=SCHEMA_VERSION, source=source)
        try:
            result = cls(**_typed(values))
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise ArtifactError(f"{source} is not a valid result ({error!r})") from error
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


def _typed(values: Mapping[str, Any]) -> dict[str, Any]:
    fields = {name: value for name, value in values.items() if name != "valid"}
    device, placement, thermals = fields["device"], fields["placement"], fields["thermals"]
    samples = tuple(int(sample) for sample in fields["samples_ns"])
    if not samples or min(samples) <= 0:
        raise ValueError("samples_ns must be positive")
    fields |= {
        "bundle": BundleFacts(**fields["bundle"]),
        "device": DeviceFacts(**{**device, "machine": Machine(**device["machine"])}),
        "engine": EngineRun(**fields["engine"]),
        "protocol": Protocol(**fields["protocol"]),
        "placement": Placement(*(placement[key] for key in ("requested", "actual", "nodes"))),
        "warm_up": WarmUpRun(**fields["warm_up"]),
        "latency": Summary.from_samples(samples),
        "golden": Golden(**fields["golden"]),
        "memory": MemoryUse(**fields["memory"]),
        "load_before": Load(**fields["load_before"]),
        "load_during": Load(**fields["load_during"]),
        "reasons": tuple(Reason(**reason) for reason in fields["reasons"]),
        "samples_ns": samples,
    }
    if fields["accuracy"] is not None:
        fields["accuracy"] = Accuracy.from_dict(fields["accuracy"])
    if fields["power"] is not None:
        power = {name: value for name, value in fields["power"].items() if name != "mean_w"}
        fields["power"] = Power(**power)
    if thermals is not None:
        fields["thermals"] = ThermalRun(
            before=Thermals(**thermals["before"]), after=Thermals(**thermals["after"])
        )
    return fields


def _check_figures(result: Result, values: Mapping[str, Any], source: Path) -> None:
    for name in ("p50", "p90", "p95", "p99"):
        written, follows = values["latency"][name]["value"], getattr(result.latency, name).value
        if not math.isclose(written, follows, rel_tol=1e-6):
            raise ArtifactError(
                f"{source}: its {name} is {written:.4g} ms, but its samples give {follows:.4g} ms; "
                "the file was edited, profile again"
            )
    if values["valid"] != result.valid:
        raise ArtifactError(f"{source}: `valid` contradicts its reasons; the file was edited")
