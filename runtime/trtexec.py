"""What NVIDIA's `trtexec` says of its own measurements: its log, and the file of `--exportTimes`.

For comparing with numbers that others publish, and with our own. Not every two logs compare: by
default, TensorRT 11's `trtexec` leaves out the copies to and from the GPU and uses CUDA graphs, and
that of 10 does neither. The file of raw times is to be preferred: it has every sample.
"""

import dataclasses
import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from edgeseed.core.errors import ArtifactError

_BANNER = re.compile(r"&&&& (\w+) TensorRT\.trtexec \[TensorRT v(\d+)\]")
_STAMP = re.compile(r"^\[[\d/]+-[\d:]+\] \[(\w)\] ?")
_THROUGHPUT = re.compile(r"Throughput: ([\d.]+) qps")
_METRIC = re.compile(r"^([A-Z][\w -]*?): (min = .*)$")
_VALUE = re.compile(r"(min|max|mean|median|percentile\((\d+(?:\.\d+)?)%\)) = ([\d.]+) ms")
_COMMAND = re.compile(r"#\s*(\S*trtexec\S*.*)$")
_SIX_DIGITS = 100_000


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class Metric:
    """One line of the summary, in milliseconds."""

    min_ms: float
    max_ms: float
    mean_ms: float
    median_ms: float
    percentiles_ms: Mapping[float, float]
    """By percent; up to TensorRT 8.4 only the 99th."""


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class TrtexecLog:
    """A log.

    Attributes:
        version: TensorRT's, such as `10.3.0`; None where the log was cut.
        command: what was called; None where the log was cut.
        passed: whether it ended well; None where the end is missing.
        throughput_qps: batches a second.
        metrics: by name, such as `Latency`, `GPU Compute Time`, `H2D Latency`.
        warnings: as trtexec gave them, such as of clocks that were not stable.
    """

    version: str | None
    command: str | None
    passed: bool | None
    throughput_qps: float
    metrics: Mapping[str, Metric]
    warnings: tuple[str, ...]


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class TrtexecTimes:
    """The samples of `--exportTimes`, in milliseconds and in the order they ran."""

    latency_ms: tuple[float, ...]
    """In, compute and out."""
    compute_ms: tuple[float, ...]
    h2d_ms: tuple[float, ...]
    d2h_ms: tuple[float, ...]


def parse_log(text: str) -> TrtexecLog:
    """Read a log.

    Raises:
        ArtifactError: If it has no summary: the build failed, or the log was cut.
    """
    version = command = passed = None
    throughput: float | None = None
    metrics: dict[str, Metric] = {}
    warnings: list[str] = []
    for raw in text.splitlines():
        banner = _BANNER.search(raw)
        if banner is not None:
            version = _version(int(banner[2]))
            passed = {"PASSED": True, "FAILED": False}.get(banner[1], passed)
            called = _COMMAND.search(raw)
            command = command or (called[1].strip() if called else None)
            continue
        level, line = _unstamped(raw)
        if level == "W":
            _add_warning(warnings, line)
        match = _THROUGHPUT.search(line)
        throughput = float(match[1]) if match else throughput
        metric = _METRIC.match(line)
        if metric is not None:
            metrics[metric[1]] = _metric(metric[2])
    if throughput is None or not metrics:
        raise ArtifactError(
            "the log has no performance summary: trtexec failed, or the log was cut; look for "
            "[E] lines, or give a whole log"
        )
    return TrtexecLog(
        version=version, command=command, passed=passed, throughput_qps=throughput,
        metrics=metrics, warnings=tuple(warnings),
    )  # fmt: skip


def read_times(path: Path) -> TrtexecTimes:
    """Read a file of `--exportTimes`.

    Raises:
        ArtifactError: If it is none.
    """
    try:
        samples: list[dict[str, Any]] = json.loads(path.read_text(encoding="utf-8"))
        columns = {
            name: tuple(float(sample[f"{name}Ms"]) for sample in samples)
            for name in ("latency", "compute", "h2d", "d2h")
        }
        if not samples:
            raise ValueError("it has no samples")
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ArtifactError(
            f"{path} is not what trtexec --exportTimes writes ({error!r})"
        ) from error
    return TrtexecTimes(**{f"{name}_ms": values for name, values in columns.items()})


def _version(number: int) -> str:
    """`8400` -> 8.4.0, `100300` -> 10.3.0: the digits were widened with TensorRT 10."""
    base = 10_000 if number >= _SIX_DIGITS else 1_000
    return f"{number // base}.{number % base // 100}.{number % 100}"


def _unstamped(line: str) -> tuple[str, str]:
    match = _STAMP.match(line)
    return ("", line.strip()) if match is None else (match[1], line[match.end() :].rstrip())


def _add_warning(warnings: list[str], line: str) -> None:
    """A warning begins with `*`, and what is indented belongs to it."""
    if line.startswith("*"):
        warnings.append(line.lstrip("* "))
    elif warnings and line.startswith(" "):
        warnings[-1] += " " + line.strip()


def _metric(text: str) -> Metric:
    values: dict[str, float] = {}
    percentiles: dict[float, float] = {}
    for name, percent, value in _VALUE.findall(text):
        if percent:
            percentiles[float(percent)] = float(value)
        else:
            values[f"{name}_ms"] = float(value)
    return Metric(percentiles_ms=percentiles, **values)
