"""What the host asks of the agent, and how the agent talks back.

Both sides use this file: it runs on the device (Python 3.8) and on the host. The conversation is

```text
work/                        made by the host, brought to the device
  agent.pyz  job.json  photos.npz (optional)
  bundle/                    the bundle's files of role "ship"
  result/                    made by the agent
    measurement.json  outputs.npz (when there were photos)
    engine/ (when the job was to build one)
```

and one JSON object a line on the agent's standard output: `{"event": "stage" | "progress" |
"error" | "done", ...}`.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING

from edgeseed.runtime.measurement import Request

if TYPE_CHECKING:
    from pathlib import Path
    from typing import Any

SCHEMA_VERSION = 1
AGENT = "agent.pyz"
JOB = "job.json"
BUNDLE = "bundle"
PHOTOS = "photos.npz"
RESULT = "result"
MEASUREMENT = "measurement.json"
OUTPUTS = "outputs.npz"
BUILD_JOB = "build_job.json"
ENGINE = "engine"
WHOLE = "whole"
"""Empty; it is sent last."""
OWNER = "owner"
"""Process of the agent that works in the folder; without it the folder is left over."""


@dataclass(frozen=True)
class BuildJob:
    """One TensorRT engine to build; it stands in `build_job.json`, in place of `job.json`.

    Attributes:
        files: sha256 of each file in the bundle, by path.
    """

    files: dict[str, str]
    schema_version: int = SCHEMA_VERSION

    def write(self, path: Path) -> None:
        """Write as JSON."""
        path.write_text(json.dumps(asdict(self), indent=1), encoding="utf-8")

    @classmethod
    def read(cls, path: Path) -> BuildJob:
        """Read what `write` wrote."""
        return cls(**_values(path))


@dataclass(frozen=True)
class Job:
    """One measurement: which engine, on which unit, for how long.

    Attributes:
        engine: module name below edgeseed.runtime.engines.
        model: path of the model inside the bundle.
        unit: compute unit to ask the engine for.
        threads: threads of the engine.
        protocol: name of the protocol.
        min_runs, min_seconds, max_seconds: the protocol's limits.
        golden_tolerance: largest error of a golden output, relative to its largest value.
        files: sha256 of each file in the bundle, by path.
        bundle_digest: of the model's files together.
    """

    engine: str
    model: str
    unit: str
    threads: int
    protocol: str
    min_runs: int
    min_seconds: float
    max_seconds: float
    golden_tolerance: float
    files: dict[str, str]
    bundle_digest: str = ""
    schema_version: int = SCHEMA_VERSION

    def write(self, path: Path) -> None:
        """Write as JSON."""
        path.write_text(json.dumps(asdict(self), indent=1), encoding="utf-8")

    def request(self) -> Request:
        """What of it a measurement keeps."""
        return Request(
            bundle_digest=self.bundle_digest,
            engine=self.engine.replace("_", "-"),
            threads=self.threads,
            protocol=self.protocol,
            min_runs=self.min_runs,
            min_seconds=self.min_seconds,
            max_seconds=self.max_seconds,
        )

    @classmethod
    def read(cls, path: Path) -> Job:
        """Read what `write` wrote. Host and agent are built together, so versions must agree."""
        return cls(**_values(path))


def _values(path: Path) -> dict[str, Any]:
    values: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    found = values.get("schema_version")
    if found != SCHEMA_VERSION:
        raise ValueError(f"the job has schema {found}, this agent reads {SCHEMA_VERSION}")
    return values
