"""Build a bundle's TensorRT engine where it will run: `edgeseed build`."""

import dataclasses
import shutil
from pathlib import Path
from typing import Any

from edgeseed.core.bundle import ENGINES, Bundle, read_bundle
from edgeseed.core.console import say
from edgeseed.core.errors import ArtifactError, UsageError, WorkError
from edgeseed.core.files import atomic_directory
from edgeseed.core.scratch import scratch_folder
from edgeseed.core.signals import ended_by_exception
from edgeseed.runtime.agent import job_file
from edgeseed.runtime.agent.device import AgentDevice
from edgeseed.runtime.agent.dispatch import (
    error_of,
    fill_with_bundle,
    parse_event,
    raise_if_failed,
)
from edgeseed.runtime.device import Device
from edgeseed.runtime.devices import open_device
from edgeseed.runtime.engine import EngineError
from edgeseed.runtime.tensorrt_engines import ENGINE_FILE, RECORD_FILE, Record, sha256

_TARGET = "tensorrt"
# An earlier build's timings travel along; its engine, which is large, does not.
_HELPFUL = (RECORD_FILE, "*.cache")


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class BuildResult:
    """What `build` made."""

    engine: str
    """Path of the engine."""
    device: str
    record: Record
    """What it was built from and for."""

    def to_dict(self) -> dict[str, Any]:
        """As JSON."""
        return dataclasses.asdict(self)


def build(bundle: str | Path, *, device: str | Device = "host") -> BuildResult:
    """Builds the engine of a TensorRT bundle on a device, and keeps it in the bundle.

    The device needs its own TensorRT and Python 3.8, nothing else. The engine lies in
    `engines/NAME/` with its papers, beside those of other devices; an earlier one of the same GPU
    and TensorRT is replaced. The bundle stays verifiable: engines are not sealed by its manifest.

    Args:
        bundle: A folder made by `edgeseed export --target tensorrt`.
        device: `host`, or `KIND:ADDRESS` such as `ssh:nvidia@jetson`.

    Returns:
        Where the engine is, and what it belongs to.

    Raises:
        UsageError: If the bundle is not for TensorRT.
        ArtifactError: If the bundle is broken, or the engine arrived damaged.
        WorkError: If there is no GPU or TensorRT on the device, or TensorRT refuses the network.
    """
    opened = read_bundle(bundle)
    if opened.manifest.target != _TARGET:
        raise UsageError(
            f"{bundle} is a bundle for {opened.manifest.target}, which has nothing to build; "
            "export with --target tensorrt"
        )
    place = open_device(device) if isinstance(device, str) else device
    if not isinstance(place, AgentDevice):
        raise UsageError(
            f"--device {place.name} runs no TensorRT; engines are built on host or over ssh"
        )
    with ended_by_exception(), scratch_folder() as work:
        _fill(work, opened)
        say(f"building {opened.path} on {place.name}; it takes minutes")
        _run(place, work)
        record, built = _read(work / job_file.RESULT / job_file.ENGINE)
        destination = opened.path / ENGINES / record.name
        with atomic_directory(destination, replace=True) as kept:
            shutil.copytree(built, kept, dirs_exist_ok=True)
    return BuildResult(engine=str(destination / ENGINE_FILE), device=place.name, record=record)


def _fill(work: Path, bundle: Bundle) -> None:
    files = {
        name: entry.sha256
        for name, entry in bundle.manifest.files.items()
        if entry.role == "ship" and not name.startswith("golden/")
    }
    job_file.BuildJob(files=files).write(work / job_file.BUILD_JOB)
    fill_with_bundle(work, bundle, files=files, engine=None, engines=_HELPFUL)


def _run(device: AgentDevice, work: Path) -> None:
    error: dict[str, str] | None = None

    def listen(line: str) -> None:
        nonlocal error
        error = error_of(parse_event(line)) or error

    ended = device.run_agent(work, on_line=listen)
    raise_if_failed(device, ended, error)


def _read(folder: Path) -> tuple[Record, Path]:
    try:
        record = Record.read(folder / RECORD_FILE)
    except EngineError as error:
        raise WorkError(f"the device built no engine: {error}") from error
    engine = folder / ENGINE_FILE
    if not engine.is_file() or sha256(engine) != record.engine_sha256:
        raise ArtifactError(
            f"{ENGINE_FILE} came back damaged; check the connection and the disk, and build again"
        )
    return record, folder
