"""Sends a job to a device and brings back what the agent saw."""

import contextlib
import json
import math
import shutil
import signal
import zipfile
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from edgeseed.core.bundle import ENGINES, MANIFEST, Bundle
from edgeseed.core.console import ProgressBar, progress
from edgeseed.core.errors import ArtifactError, EdgeseedError, GateError, WorkError
from edgeseed.core.scratch import scratch_folder
from edgeseed.core.signals import SIGNALLED
from edgeseed.runtime.agent import job_file
from edgeseed.runtime.agent._pack import pack_agent
from edgeseed.runtime.conformance import Stages, read_measurement
from edgeseed.runtime.device import Ended, LostAfterMeasuringError, Observation

_ERRORS: dict[str, type[EdgeseedError]] = {
    "artifact": ArtifactError,
    "golden": GateError,
    "engine": WorkError,
    "unexpected": WorkError,
}


class RunsAgents(Protocol):
    """What is asked of a device here; see `AgentDevice`."""

    @property
    def name(self) -> str:
        """What `--device` was."""
        ...

    def run_agent(self, work: Path, *, on_line: Callable[[str], None]) -> Ended:
        """Run the agent in a copy of the folder, and bring its result back."""
        ...


def dispatch(
    device: RunsAgents, bundle: Bundle, job: job_file.Job, *, pixels: NDArray[np.uint8] | None
) -> Observation:
    """Run `job` on `device`.

    Args:
        device: where.
        bundle: its files of role "ship" travel.
        job: what to measure.
        pixels: (N, 3, H, W) photos to run besides, or None.

    Raises:
        ArtifactError: If the bundle arrived changed.
        GateError: If the model does not give its golden outputs there; nothing was timed then.
        WorkError: If the device or the engine failed.
    """
    with scratch_folder() as work:
        _fill(work, bundle, job, pixels)
        with Listener(job, device.name, num_photos=0 if pixels is None else len(pixels)) as listen:
            try:
                ended = device.run_agent(work, on_line=listen)
            except EdgeseedError as error:
                raise _with_measurement(work / job_file.RESULT, device, error) from error
        raise_if_failed(device, ended, listen.error)
        return _read(
            work / job_file.RESULT, device, stages=listen.stages, wants_outputs=pixels is not None
        )


def _with_measurement(result: Path, device: RunsAgents, error: EdgeseedError) -> EdgeseedError:
    """The error, with the measurement if that had come back before it happened."""
    try:
        seen = _read(result, device, stages=Stages(), wants_outputs=False)
    except EdgeseedError:
        return error
    return LostAfterMeasuringError(str(error), measurement=seen.measurement)


def _fill(work: Path, bundle: Bundle, job: job_file.Job, pixels: NDArray[np.uint8] | None) -> None:
    job.write(work / job_file.JOB)
    fill_with_bundle(work, bundle, files=job.files, engine=job.engine, engines=("*",))
    if pixels is not None:
        np.savez(work / job_file.PHOTOS, pixels=pixels)


def fill_with_bundle(
    work: Path, bundle: Bundle, *, files: Iterable[str], engine: str | None, engines: Iterable[str]
) -> None:
    """Put the agent, the manifest and the bundle's files where the agent looks for them.

    Args:
        work: the folder that will travel.
        bundle: where they come from.
        files: paths in the bundle.
        engine: what the agent has to run the bundle with; None if it only builds.
        engines: patterns of what to take of the bundle's engines, which are not in the manifest.
    """
    pack_agent(work / job_file.AGENT, engine=engine)
    built = [
        path.relative_to(bundle.path).as_posix()
        for pattern in engines
        for path in (bundle.path / ENGINES).glob(f"*/{pattern}")
    ]
    for name in [MANIFEST, *files, *built]:
        destination = work / job_file.BUNDLE / name
        destination.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(bundle.path / name, destination)


class Listener:
    """Turns a runner's lines into progress, and remembers its error and its stages.

    Args:
        job: what the runner does.
        device_name: for the progress bar.
        num_photos: how many it will run besides.
    """

    def __init__(self, job: job_file.Job, device_name: str, *, num_photos: int) -> None:
        self.error: dict[str, str] | None = None
        self.stages = Stages()
        self._job = job
        self._where = device_name
        self._num_photos = num_photos
        self._stage = ""
        self._bar: ProgressBar | None = None
        self._stack = contextlib.ExitStack()

    def __enter__(self) -> "Listener":
        return self

    def __exit__(self, *error: object) -> None:
        self._stack.close()

    def __call__(self, line: str) -> None:
        """Takes in one line that the agent printed.

        A library there may print JSON of its own: what is no whole event of ours is passed over.
        """
        with contextlib.suppress(LookupError, TypeError, ValueError, ArithmeticError):
            self._take(parse_event(line))

    def _take(self, event: dict[str, Any]) -> None:
        if (error := error_of(event)) is not None:
            self.error = error
        elif event.get("event") == "stage":
            self.stages.begin(str(event["name"]))
        elif event.get("event") == "done":
            self.stages.end()
        elif event.get("event") == "progress":
            self._show(event["stage"], event)

    def _show(self, stage: str, event: dict[str, Any]) -> None:
        if stage == "warm-up":
            return  # a second or two, and how long it will take is not known
        if stage != self._stage:
            self._start(stage, event)
        if self._bar is not None:
            self._bar.advance(min(event["runs"], self._bar.total) - self._bar.done)

    def _start(self, stage: str, event: dict[str, Any]) -> None:
        self._stack.close()
        self._stage = stage
        if stage == "photos":
            bar = progress(f"photos on {self._where}", self._num_photos, "photos")
        else:
            expected = event["runs"] / event["seconds"] * self._job.min_seconds
            total = max(self._job.min_runs, math.ceil(expected))
            bar = progress(f"{self._job.protocol} on {self._where}", total, "runs")
        self._bar = self._stack.enter_context(bar)


def parse_event(line: str) -> dict[str, Any]:
    """One event; a line that is none (a library's chatter on stdout) is passed over."""
    try:
        event = json.loads(line)
    except json.JSONDecodeError:
        return {}
    return event if isinstance(event, dict) else {}


def error_of(event: dict[str, Any]) -> dict[str, str] | None:
    """What an event says of an error: its kind and message; None where it is no such event."""
    if event.get("event") != "error":
        return None
    said = str(event.get("message") or "it failed, and did not say why")
    return {"kind": str(event.get("kind")), "message": said}


def raise_if_failed(device: RunsAgents, ended: Ended, error: dict[str, str] | None) -> None:
    """Raise for what the agent refused, or for how it died."""
    if error is not None:
        kind = _ERRORS.get(error["kind"], WorkError)
        raise kind(f"{device.name}: {error['message']}")
    if ended.exit_code == 0:
        return
    last = ended.stderr.strip().rpartition("\n")[2] or "it wrote nothing to stderr"
    # Of a process that a signal ended, Python gives minus its number, a shell 128 and it.
    number = -ended.exit_code if ended.exit_code < 0 else ended.exit_code - SIGNALLED
    if number in {sign.value for sign in signal.Signals}:
        name = signal.Signals(number).name
        cause = ", as happens when memory runs out" if name == "SIGKILL" else ""
        raise WorkError(f"{device.name}: the agent was ended by {name}{cause}: {last}")
    raise WorkError(f"{device.name}: the agent ended with code {ended.exit_code}: {last}")


def _read(result: Path, device: RunsAgents, *, stages: Stages, wants_outputs: bool) -> Observation:
    try:
        text = (result / job_file.MEASUREMENT).read_text(encoding="utf-8")
        outputs = _load_outputs(result / job_file.OUTPUTS) if wants_outputs else None
        measurement = read_measurement(
            json.loads(text), what=f"{device.name}: the agent's measurement"
        )
        return Observation(measurement=measurement, outputs=outputs, stages=stages)
    except (OSError, ValueError, zipfile.BadZipFile) as error:
        raise WorkError(
            f"{device.name}: the agent ended well, but its result cannot be read ({error}); "
            "run again"
        ) from error


def _load_outputs(path: Path) -> dict[str, NDArray[np.float32]]:
    # Opened here: numpy leaves a file open that is no archive.
    with path.open("rb") as file, np.load(file) as archive:
        return {name: np.asarray(archive[name], dtype=np.float32) for name in archive.files}
