"""Reads a runner's measurement, and holds the runner to the protocol of docs/measurement.md.

Runners are written in four languages. What one of them gets wrong (a clock in other units, samples
left out, a model timed before its outputs were checked) would be a wrong number that looks right,
so each measurement is checked again here, by the host and against the host's own clock.
"""

import json
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from edgeseed.core.errors import ArtifactError, SchemaVersionError
from edgeseed.core.files import read_json
from edgeseed.core.reading import read_record
from edgeseed.runtime.json_schema import json_schema
from edgeseed.runtime.latency import NS_PER_SECOND
from edgeseed.runtime.measurement import SCHEMA_VERSION, Measurement

DERIVED = {"Placement": ("share",), "Power": ("mean_w",)}
"""What `Measurement.to_dict` writes besides the fields."""
SCHEMA_FILE = Path(__file__).parent / "measurement.schema.json"

# Between two samples a runner looks at the clock and at its stopping rule: about a microsecond in
# Python. Below this mean, that is no longer small beside a run.
_MIN_MEAN_NS = 20_000
_MIN_COVERED = 0.5
# In a shorter span one interruption between two runs is most of it.
_MIN_SPAN_NS = NS_PER_SECOND
# A wrong unit is a factor of 1,000: it shows where an interruption or the loop's own microsecond
# could still explain a half.
_MIN_COVERED_AT_ALL = 0.01
_MIN_SPAN_AT_ALL_NS = NS_PER_SECOND // 4
# What is left of a run when the time is up, and a device that was busy with another.
_MAX_OF_LIMIT = 1.5
# Browsers round their clock, and the ends of a span are rounded apart.
_MAX_COVERED = 1.02
# Systems count processor time in ticks, and of other processes by a difference of two readings.
_CPU_CLOCK_NS = NS_PER_SECOND // 10
_CORES_OF_ROUNDING = 1.0
# The host's clock also sees a process start, files being read and lines travelling.
_MIN_HOST_SECONDS = 0.5
_MAX_OF_HOST = 1.10
_MIN_OF_HOST = 0.20
# A page tells of a stage by a post over the network, on a device whose cores are all measuring: it
# may come late, and the host's span is shorter by so much.
_LATE_SECONDS = 3.0


@dataclass
class Stages:
    """When each stage of a run began, by the host's clock."""

    clock: Callable[[], float] = time.monotonic
    seen: list[tuple[str, float]] = field(default_factory=list)

    def begin(self, name: str) -> None:
        """A runner said that a stage begins."""
        self.seen.append((name, self.clock()))

    @property
    def names(self) -> list[str]:
        """In the order in which they began."""
        return [name for name, _ in self.seen]

    def end(self) -> None:
        """The runner is done."""
        self.begin("end")

    def seconds(self, name: str) -> float | None:
        """Host's seconds from the start of a stage to the start of the next; None if not seen."""
        index = self.names.index(name) if name in self.names else len(self.seen)
        if index + 1 >= len(self.seen):
            return None
        return self.seen[index + 1][1] - self.seen[index][1]


def read_measurement(values: Any, *, what: str) -> Measurement:
    """A measurement from its JSON value.

    Args:
        values: as `json.loads` gave them.
        what: whose it is, for messages: `"the page's measurement"`.

    Raises:
        SchemaVersionError: If a newer edgeseed's runner wrote it.
        ArtifactError: If a field is missing, unknown, of another type, or cannot be true.
    """
    version = values.get("schema_version", 1) if isinstance(values, dict) else 1
    if type(version) is int and version > SCHEMA_VERSION:
        raise SchemaVersionError(
            f"{what} has schema version {version}, this edgeseed reads up to {SCHEMA_VERSION}; "
            "update edgeseed"
        )
    measurement = read_record(Measurement, values, what=what, derived=DERIVED)
    for breach in _impossible(measurement):
        raise ArtifactError(f"{what}: {breach}")
    return measurement


def read_measurement_file(path: str | Path) -> Measurement:
    """A measurement from a file that a runner wrote.

    Raises:
        UsageError: If there is no such file.
        ArtifactError: As `read_measurement`.
    """
    values = read_json(Path(path), what="a runner's measurement")
    return read_measurement(values, what=f"{path} (a runner's measurement)")


def check_conformance(measurement: Measurement, *, stages: Stages | None, what: str) -> None:
    """Hold a runner to the protocol.

    Args:
        measurement: what it wrote.
        stages: when its stages began, where the host saw them.
        what: the device, for messages.

    Raises:
        ArtifactError: If the runner broke the protocol: its numbers mean nothing then.
    """
    breaches = [
        *_coverage(measurement),
        *_limit_breaches(measurement),
        *_stage_breaches(measurement, stages),
    ]
    if breaches:
        raise ArtifactError(
            f"{what}: the runner {measurement.runner} did not measure as docs/measurement.md says: "
            f"{'; '.join(breaches)}"
        )


def _impossible(measurement: Measurement) -> list[str]:
    """What cannot be true of any measurement."""
    breaches = []
    if not measurement.samples_ns and measurement.reported is None:
        breaches.append("samples_ns is empty, and no statistics are reported in their place")
    if measurement.samples_ns and min(measurement.samples_ns) <= 0:
        breaches.append("samples_ns has a duration that is not above 0")
    reported = measurement.reported
    if reported is not None and (reported.n < 1 or reported.mean_ns <= 0):
        breaches.append("reported: n and mean_ns must be above 0")
    if min(measurement.elapsed_ns, measurement.load_ns, measurement.first_run_ns) < 0:
        breaches.append("elapsed_ns, load_ns or first_run_ns is below 0")
    if measurement.request is not None and measurement.request.threads < 1:
        breaches.append(f"request: threads={measurement.request.threads} is not above 0")
    breaches += _impossible_load(measurement)
    layers = measurement.layers
    if layers is not None:
        times = [layers.runs, layers.run_ns, *(layer.mean_ns for layer in layers.layers)]
        if not layers.layers or min(times) <= 0:
            breaches.append("layers: there must be some, and runs, run_ns and mean_ns be above 0")
    golden = measurement.golden
    if golden is not None:
        for name, error in golden.relative_error.items():
            if not error <= golden.tolerance:
                breaches.append(
                    f"it timed a model whose golden {name} is off by {error:.3g} (limit "
                    f"{golden.tolerance:.3g})"
                )
        if golden.n < 1 or not golden.relative_error:
            breaches.append("golden: it checked no photo or no output")
    elif not measurement.limitations:
        breaches.append("golden is absent, and limitations do not say so")
    return breaches


def _impossible_load(measurement: Measurement) -> list[str]:
    """Whether processors did more than there are of them, or less than nothing."""
    breaches = []
    for name in ("load_before", "load_during"):
        load = getattr(measurement, name)
        for what in ("other_cores", "stolen_cores", "load_average"):
            value = getattr(load, what)
            if value is not None and value < -_CORES_OF_ROUNDING:
                breaches.append(f"{name}: {what}={value:.3g} is below 0")
    cores, spent = measurement.machine.logical_cores, measurement.cpu_ns
    if spent is not None and (
        spent < 0 or (cores and spent > cores * measurement.elapsed_ns * 1.5 + _CPU_CLOCK_NS)
    ):
        breaches.append(
            f"cpu_ns: {spent / NS_PER_SECOND:.3g} s of processor time in "
            f"{measurement.elapsed_ns / NS_PER_SECOND:.3g} s on {cores} cores"
        )
    return breaches


def _coverage(measurement: Measurement) -> list[str]:
    """Whether the samples fill the time that they took."""
    samples = measurement.samples_ns
    if not samples:
        return []
    total, elapsed = sum(samples), measurement.elapsed_ns
    if total > elapsed * _MAX_COVERED:
        return [
            f"its samples take {total / NS_PER_SECOND:.3g} s together, longer than the "
            f"{elapsed / NS_PER_SECOND:.3g} s in which they ran: the two are in different units, "
            "or samples were added"
        ]
    slow_enough = elapsed / len(samples) >= _MIN_MEAN_NS and elapsed >= _MIN_SPAN_NS
    long_enough = elapsed >= _MIN_SPAN_AT_ALL_NS
    if (slow_enough and total < elapsed * _MIN_COVERED) or (
        long_enough and total < elapsed * _MIN_COVERED_AT_ALL
    ):
        return [
            f"its samples take {total / NS_PER_SECOND:.3g} s of the {elapsed / NS_PER_SECOND:.3g} s"
            " in which they ran: samples were dropped, or the two are in different units"
        ]
    return []


def _limit_breaches(measurement: Measurement) -> list[str]:
    """Whether the timed runs went on long after the time that the protocol gives them."""
    request = measurement.request
    if request is None or not measurement.samples_ns:
        return []
    elapsed = measurement.elapsed_ns / NS_PER_SECOND
    mean = elapsed / len(measurement.samples_ns)
    if elapsed - 2 * mean <= request.max_seconds * _MAX_OF_LIMIT:
        return []
    return [
        f"its timed runs took {elapsed:.3g} s, {request.protocol} ends after "
        f"{request.max_seconds:g} s: elapsed_ns is not in nanoseconds, or it kept no limit"
    ]


def _stage_breaches(measurement: Measurement, stages: Stages | None) -> list[str]:
    """Whether golden photos came first, and whether the clock runs as the host's does."""
    if stages is None or "warm-up" not in stages.names:
        return []
    names, breaches = stages.names, []
    before = names[: names.index("warm-up")]
    if "golden" not in before and measurement.golden is not None:
        breaches.append("it timed the model before it checked the golden photos")
    warm_up, timed = measurement.warm_up.seconds, measurement.elapsed_ns / NS_PER_SECOND
    # Apart where the host saw where one ends: a right warm-up would hide wrong timed runs.
    if "measure" in names:
        spans = [
            ("the warm-up", warm_up, stages.seconds("warm-up")),
            ("the timed runs", timed, stages.seconds("measure")),
        ]
    else:
        spans = [("warm-up and timed runs", warm_up + timed, stages.seconds("warm-up"))]
    return breaches + [
        f"by its clock, {what} took {said:.3g} s; here {host:.3g} s went by: its clock is not in "
        "the unit that the protocol asks for"
        for what, said, host in spans
        if host is not None and not _may_be(said, host)
    ]


def _may_be(said: float, host: float) -> bool:
    """Whether a span of `said` seconds can have been `host` seconds here."""
    if said > host * _MAX_OF_HOST + _LATE_SECONDS:
        return False
    return host < _MIN_HOST_SECONDS or said >= host * _MIN_OF_HOST


def schema() -> dict[str, Any]:
    """The JSON schema of `measurement.json`, for runners in other languages."""
    return json_schema(Measurement, title="edgeseed measurement", derived=DERIVED)


def schema_text() -> str:
    """`schema` as the published file has it."""
    return json.dumps(schema(), indent=1) + "\n"
