"""A job is sent, and what comes back is read: with devices that only pretend."""

import dataclasses
import json
import shutil
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from support.fake_device import fake_measurement

from edgeseed.core.bundle import Bundle
from edgeseed.core.errors import ArtifactError, EdgeseedError, GateError, WorkError
from edgeseed.runtime.agent import job_file
from edgeseed.runtime.agent.dispatch import (
    Listener,
    dispatch,
    error_of,
    parse_event,
    raise_if_failed,
)
from edgeseed.runtime.agent.job_file import Job
from edgeseed.runtime.device import Ended, LostAfterMeasuringError

JOB = Job(
    engine="onnxruntime", model="model.onnx", unit="cpu", threads=1, protocol="instant",
    min_runs=8, min_seconds=0.1, max_seconds=5, golden_tolerance=1e-3, files={"model.onnx": ""},
)  # fmt: skip


@dataclasses.dataclass
class Pretender:
    """A device that runs no agent: `act` writes into the folder and may print lines."""

    act: Callable[[Path, Callable[[str], None]], None] = lambda work, say: None
    ended: Ended = dataclasses.field(default_factory=lambda: Ended(exit_code=0, stderr=""))
    name: str = "pretender"
    seen: list[str] = dataclasses.field(default_factory=list)

    def run_agent(self, work: Path, *, on_line: Callable[[str], None]) -> Ended:
        self.seen = sorted(
            path.relative_to(work).as_posix() for path in work.rglob("*") if path.is_file()
        )
        self.act(work, on_line)
        return self.ended


def write_result(work: Path, *, outputs: bool = False) -> None:
    (work / job_file.RESULT).mkdir()
    text = json.dumps(fake_measurement([5_000_000] * 8).to_dict())
    (work / job_file.RESULT / job_file.MEASUREMENT).write_text(text)
    if outputs:
        np.savez(work / job_file.RESULT / job_file.OUTPUTS, embedding=np.ones((2, 3)))


def say(*events: dict[str, Any]) -> Callable[[Path, Callable[[str], None]], None]:
    def act(work: Path, on_line: Callable[[str], None]) -> None:
        for event in events:
            on_line(json.dumps(event))
        write_result(work)

    return act


def test_the_agent_the_job_and_the_asked_files_travel(bundle: Bundle) -> None:
    device = Pretender(lambda work, on_line: write_result(work, outputs=True))
    seen = dispatch(device, bundle, JOB, pixels=np.zeros((2, 3, 16, 16), np.uint8))
    assert device.seen == [
        "agent.pyz", "bundle/manifest.json", "bundle/model.onnx", "job.json", "photos.npz",
    ]  # fmt: skip
    assert seen.measurement.samples_ns == [5_000_000] * 8
    assert seen.outputs is not None
    assert seen.outputs["embedding"].dtype == np.float32


def test_without_photos_no_outputs_are_asked_for(bundle: Bundle) -> None:
    device = Pretender(say({"event": "stage", "name": "golden"}, {"event": "done"}))
    seen = dispatch(device, bundle, JOB, pixels=None)
    assert "photos.npz" not in device.seen
    assert seen.outputs is None
    assert seen.stages is not None
    assert seen.stages.names == ["golden", "end"]


@pytest.mark.parametrize(
    ("kind", "expected"),
    [("artifact", ArtifactError), ("golden", GateError), ("engine", WorkError),
     ("unexpected", WorkError), ("of tomorrow", WorkError)],
)  # fmt: skip
def test_what_the_agent_refuses_is_raised_as_its_kind(
    bundle: Bundle, kind: str, expected: type[EdgeseedError]
) -> None:
    device = Pretender(say({"event": "error", "kind": kind, "message": "no"}))
    with pytest.raises(expected, match="pretender: no"):
        dispatch(device, bundle, JOB, pixels=None)


@pytest.mark.parametrize(
    ("ended", "message"),
    [
        (Ended(exit_code=3, stderr="first\nlast\n"), "the agent ended with code 3: last"),
        (Ended(exit_code=3, stderr=""), "the agent ended with code 3: it wrote nothing to stderr"),
        (Ended(exit_code=-signal.SIGTERM, stderr="x"), "the agent was ended by SIGTERM: x"),
        (
            Ended(exit_code=128 + 9, stderr="x"),
            "ended by SIGKILL, as happens when memory runs out: x",
        ),
    ],
)
def test_how_an_agent_died_is_told(ended: Ended, message: str) -> None:
    with pytest.raises(WorkError, match=message):
        raise_if_failed(Pretender(), ended, None)
    raise_if_failed(Pretender(), Ended(exit_code=0, stderr="a warning"), None)


def spoil(name: str, content: bytes) -> Callable[[Path, Callable[[str], None]], None]:
    def act(work: Path, on_line: Callable[[str], None]) -> None:
        write_result(work, outputs=True)
        (work / job_file.RESULT / name).write_bytes(content)

    return act


@pytest.mark.parametrize(
    "act",
    [
        lambda work, on_line: None,
        spoil(job_file.MEASUREMENT, b"{"),
        spoil(job_file.OUTPUTS, b"PK\x03\x04"),
        lambda work, on_line: write_result(work),
    ],
    ids=["nothing", "cut off", "broken outputs", "no outputs"],
)
def test_a_result_that_cannot_be_read_says_run_again(bundle: Bundle, act: Any) -> None:
    with pytest.raises(WorkError, match=r"its result cannot be read .*run again"):
        dispatch(Pretender(act), bundle, JOB, pixels=np.zeros((2, 3, 16, 16), np.uint8))


def test_a_device_that_is_lost_after_measuring_loses_no_measurement(bundle: Bundle) -> None:
    def act(work: Path, on_line: Callable[[str], None]) -> None:
        write_result(work)
        raise WorkError("the cable was pulled")

    with pytest.raises(LostAfterMeasuringError, match="the cable was pulled") as caught:
        dispatch(Pretender(act), bundle, JOB, pixels=None)
    assert caught.value.measurement.samples_ns == [5_000_000] * 8


def test_a_device_that_is_lost_before_is_its_own_error(bundle: Bundle) -> None:
    def act(work: Path, on_line: Callable[[str], None]) -> None:
        shutil.rmtree(work / job_file.BUNDLE)
        raise WorkError("the cable was pulled")

    with pytest.raises(WorkError, match="the cable was pulled") as caught:
        dispatch(Pretender(act), bundle, JOB, pixels=None)
    assert not isinstance(caught.value, LostAfterMeasuringError)


@pytest.mark.parametrize("line", ["", "chatter", "[1]", "3", '{"event": '])
def test_a_librarys_chatter_is_no_event(line: str) -> None:
    assert parse_event(line) == {}


def test_an_event_without_an_error_has_none_and_an_error_has_words() -> None:
    assert error_of({"event": "done"}) is None
    assert error_of({"event": "error"}) == {
        "kind": "None", "message": "it failed, and did not say why",
    }  # fmt: skip


@pytest.mark.parametrize(
    "event",
    [
        {"event": "stage"}, {"event": "progress"}, {"event": "progress", "stage": "timed"},
        {"event": "progress", "stage": "timed", "runs": 1, "seconds": 0},
        {"event": "progress", "stage": "timed", "runs": "x", "seconds": 1}, {"event": []},
    ],
)  # fmt: skip
def test_events_that_are_not_whole_are_passed_over(event: dict[str, Any]) -> None:
    with Listener(JOB, "pretender", num_photos=0) as listen:
        listen(json.dumps(event))
    assert listen.error is None
