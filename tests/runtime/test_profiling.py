import contextlib
import dataclasses
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from support.fake_device import FakeDevice, fake_machine, fake_measurement

from edgeseed.core.bundle import Bundle
from edgeseed.core.errors import (
    ArtifactError,
    ConfigError,
    EdgeseedError,
    GateError,
    UnknownNameError,
    UsageError,
    WorkError,
)
from edgeseed.runtime import profile, profile_in_turns, profiling, read_result
from edgeseed.runtime.agent import job_file
from edgeseed.runtime.device import Ended
from edgeseed.runtime.engine import Placement
from edgeseed.runtime.measurement import Request
from edgeseed.runtime.ranking import rank

STEADY = [5_000_000] * 2000


def test_a_bundle_is_profiled_on_this_machine(bundle: Bundle, instant: str, tmp_path: Path) -> None:
    result = profile(bundle.path, protocol=instant, out=tmp_path / "result.json")

    assert read_result(tmp_path / "result.json") == result
    assert result.device.device == "host"
    assert result.engine.name == "onnxruntime"
    assert result.placement.actual == "cpu"
    assert result.latency is not None
    assert result.latency.n >= 8
    assert result.golden is not None
    assert max(result.golden.relative_error.values()) < 1e-4
    assert result.accuracy is not None
    assert (result.accuracy.n, result.accuracy.agreement) == (12, None)
    assert result.accuracy.top1 is not None
    assert result.bundle.size_bytes == bundle.model_path.stat().st_size
    assert result.bundle.folder == "tiny-fp32"


def test_only_files_that_ship_travel_to_the_device(bundle: Bundle, tmp_path: Path) -> None:
    device = FakeDevice(fake_measurement(STEADY))

    profile(bundle.path, device=device, out=tmp_path / "result.json")

    assert set(device.jobs[0].files) == {
        "model.onnx",
        "golden/inputs.npy",
        "golden/model.npz",
    }


def test_a_result_that_exists_is_not_written_over(bundle: Bundle, tmp_path: Path) -> None:
    # The measurement before was gone without a word.
    out = tmp_path / "r.json"
    out.write_text("an hour of measuring")
    device = FakeDevice(fake_measurement(STEADY))

    with pytest.raises(UsageError, match=r"r\.json exists already; choose another --out or rem"):
        profile(bundle.path, device=device, out=out)

    assert out.read_text() == "an hour of measuring"
    assert not device.jobs


def test_too_many_threads_are_warned_of(
    bundle: Bundle, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    device = FakeDevice(fake_measurement(STEADY))

    profile(bundle.path, device=device, threads=64, out=tmp_path / "r.json")

    assert "warning: too-many-threads: 64 threads on 4 usable cores" in capsys.readouterr().err


def test_the_profile_chooses_engine_unit_and_threads(bundle: Bundle, tmp_path: Path) -> None:
    device = FakeDevice(fake_measurement(STEADY))

    profile(bundle.path, device=device, device_profile="raspberry-pi-5", out=tmp_path / "r.json")
    profile(bundle.path, device=device, threads=2, unit="xnnpack", out=tmp_path / "r2.json")

    found = [(job.engine, job.unit, job.threads) for job in device.jobs]
    assert found == [("onnxruntime", "cpu", 4), ("onnxruntime", "xnnpack", 2)]


def test_a_model_that_rounds_may_differ_more_from_its_golden_outputs(
    make_bundle: Any, tmp_path: Path
) -> None:
    device = FakeDevice(fake_measurement(STEADY))

    for precision in ("fp32", "fp16", "int8"):
        bundle = make_bundle(precision, precision=precision)
        profile(bundle.path, device=device, out=tmp_path / f"{precision}.json")

    assert [job.golden_tolerance for job in device.jobs] == [1e-3, 5e-2, 5e-2]


def test_a_throttled_run_is_written_and_does_not_count(bundle: Bundle, tmp_path: Path) -> None:
    ramp = np.linspace(5e6, 7e6, 2000).astype(int).tolist()

    result = profile(
        bundle.path, device=FakeDevice(fake_measurement(ramp)), out=tmp_path / "result.json"
    )

    assert not result.valid
    assert "throttled" in {reason.code for reason in result.reasons}
    assert not read_result(tmp_path / "result.json").valid


def test_a_run_on_the_wrong_unit_does_not_count(bundle: Bundle, tmp_path: Path) -> None:
    placement = Placement("xnnpack", "cpu", None)
    device = FakeDevice(fake_measurement(STEADY, placement=placement))

    result = profile(bundle.path, device=device, unit="xnnpack", out=tmp_path / "r.json")

    assert [reason.code for reason in result.reasons] == ["wrong-unit"]


@pytest.mark.parametrize(
    ("kind", "error"),
    [("artifact", ArtifactError), ("golden", GateError), ("engine", WorkError)],
)
def test_what_the_agent_refuses_is_raised_and_nothing_is_written(
    bundle: Bundle, tmp_path: Path, kind: str, error: type[Exception]
) -> None:
    line = {"event": "error", "kind": kind, "message": "it says why"}
    device = FakeDevice(None, lines=[line], ended=Ended(exit_code=1, stderr=""))

    with pytest.raises(error, match="fake: it says why"):
        profile(bundle.path, device=device, out=tmp_path / "result.json")

    assert not (tmp_path / "result.json").exists()


def test_an_agent_that_was_killed_is_told_by_its_last_line(bundle: Bundle, tmp_path: Path) -> None:
    device = FakeDevice(None, ended=Ended(exit_code=-9, stderr="warning\nout of memory\n"))

    with pytest.raises(WorkError, match="ended by SIGKILL, as happens when memory runs out: out"):
        profile(bundle.path, device=device, out=tmp_path / "result.json")


def test_an_agent_that_leaves_no_result_is_an_error(bundle: Bundle, tmp_path: Path) -> None:
    with pytest.raises(WorkError, match="its result cannot be read"):
        profile(bundle.path, device=FakeDevice(None), out=tmp_path / "result.json")


def test_chatter_of_a_library_on_stdout_is_passed_over(bundle: Bundle, tmp_path: Path) -> None:
    class Chatty(FakeDevice):
        def run_agent(self, work: Path, *, on_line: Any) -> Ended:
            on_line("Loading plugins ...\n")
            on_line("[1, 2]\n")
            on_line('{"event": "progress", "stage": "measure", "runs": 64, "seconds": 1.0}\n')
            on_line('{"event": "progress", "stage": "measure", "runs": 9999, "seconds": 2.0}\n')
            return super().run_agent(work, on_line=on_line)

    result = profile(bundle.path, device=Chatty(fake_measurement(STEADY)), out=tmp_path / "r.json")

    assert result.valid


def test_a_bundle_with_one_byte_changed_is_refused(bundle: Bundle, tmp_path: Path) -> None:
    content = bytearray(bundle.model_path.read_bytes())
    content[len(content) // 2] ^= 1
    bundle.model_path.write_bytes(bytes(content))

    with pytest.raises(ArtifactError, match=r"model\.onnx was changed after the export"):
        profile(bundle.path, out=tmp_path / "result.json")


def test_a_bundle_that_changes_on_the_way_is_refused_by_the_device(
    bundle: Bundle, instant: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from edgeseed.runtime.devices.host import HostDevice

    arrive = HostDevice.run_agent

    def damaged(self: HostDevice, work: Path, *, on_line: Any) -> Ended:
        model = work / job_file.BUNDLE / "model.onnx"
        model.write_bytes(model.read_bytes()[:-1])
        return arrive(self, work, on_line=on_line)

    monkeypatch.setattr(HostDevice, "run_agent", damaged)

    with pytest.raises(ArtifactError, match=r"host: model\.onnx differs on the device"):
        profile(bundle.path, protocol=instant, out=tmp_path / "result.json")


def test_a_model_that_is_not_the_bundles_is_never_benchmarked(
    make_bundle: Any, instant: str, tmp_path: Path
) -> None:
    # A bundle that was sealed again after its model was swapped: only its golden outputs tell.
    from edgeseed.core.bundle import seal_bundle

    right, wrong = make_bundle("right"), make_bundle("wrong", seed=1)
    right.model_path.write_bytes(wrong.model_path.read_bytes())
    seal_bundle(right.path, dataclasses.replace(right.manifest, files={}))

    with pytest.raises(GateError, match="does not give its golden outputs"):
        profile(right.path, protocol=instant, out=tmp_path / "result.json")


def test_unknown_names_suggest_the_nearest(bundle: Bundle, tmp_path: Path) -> None:
    out = tmp_path / "result.json"

    with pytest.raises(UnknownNameError, match="did you mean 'quick'"):
        profile(bundle.path, protocol="quik", out=out)
    with pytest.raises(UnknownNameError, match="did you mean 'host'"):
        profile(bundle.path, device="hosst", out=out)
    with pytest.raises(UnknownNameError, match="did you mean 'raspberry-pi-5'"):
        profile(bundle.path, device_profile="raspberry-pi", out=out)


def test_a_profile_without_an_engine_for_the_bundle_says_what_to_export(
    bundle: Bundle, tmp_path: Path
) -> None:
    with pytest.raises(ConfigError, match=r"runs no onnx bundle; export .*: coreml"):
        profile(bundle.path, device_profile="iphone-15-pro", out=tmp_path / "result.json")


def test_no_thread_is_too_few(bundle: Bundle, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="threads=0"):
        profile(bundle.path, threads=0, out=tmp_path / "result.json")


def test_a_folder_that_is_no_bundle_is_a_usage_error(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="edgeseed export"):
        profile(tmp_path, out=tmp_path / "result.json")


def test_a_unit_that_this_machine_lacks_is_refused(bundle: Bundle, tmp_path: Path) -> None:
    with pytest.raises(WorkError, match="has no unit 'qnn'; it has"):
        profile(bundle.path, unit="qnn", out=tmp_path / "result.json")


def test_a_profiles_name_never_becomes_the_machines(bundle: Bundle, tmp_path: Path) -> None:
    # An x86 server was reported as "Google Pixel 8", and the result was valid.
    device = FakeDevice(fake_measurement(STEADY, machine=fake_machine(architecture="x86_64")))

    result = profile(bundle.path, device=device, device_profile="pixel-8", out=tmp_path / "r.json")

    assert not result.valid
    assert [reason.code for reason in result.reasons] == ["wrong-device"]
    assert result.device.title == "Fake Board"


@pytest.mark.parametrize(("model", "title"), [(None, "fake"), ("Pixel 8", "Pixel 8")])
def test_another_device_is_not_called_this_machine(
    bundle: Bundle, tmp_path: Path, model: str | None, title: str
) -> None:
    # A phone's browser tells no model, and its numbers were headed "This machine".
    device = FakeDevice(fake_measurement(STEADY, machine=fake_machine(model=model)))

    result = profile(bundle.path, device=device, out=tmp_path / "r.json")

    assert result.device.title == title


# --------------------------------------------------------------------------- nothing is lost


def test_a_place_that_cannot_be_written_is_found_before_the_measurement(
    bundle: Bundle, tmp_path: Path
) -> None:
    (tmp_path / "file").write_text("")
    device = FakeDevice(fake_measurement(STEADY))

    with pytest.raises(UsageError, match="cannot be made"):
        profile(bundle.path, device=device, out=tmp_path / "file" / "r.json")

    assert device.jobs == []


def test_the_result_of_another_run_at_the_same_time_is_not_overwritten(
    bundle: Bundle, tmp_path: Path
) -> None:
    out = tmp_path / "r.json"

    class Slow(FakeDevice):
        def run_agent(self, work: Path, *, on_line: Any) -> Ended:
            out.write_text("of the other run")
            return super().run_agent(work, on_line=on_line)

    (tmp_path / "r.measurement.json").write_text("kept before")

    with pytest.raises(UsageError, match=r"exists already.* kept in .*r\.measurement\.2\.json"):
        profile(bundle.path, device=Slow(fake_measurement(STEADY)), out=out)

    assert out.read_text() == "of the other run"
    assert (tmp_path / "r.measurement.json").read_text() == "kept before"
    assert (tmp_path / "r.measurement.2.json").is_file()


def test_a_measurement_is_kept_when_what_follows_fails(
    bundle: Bundle, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*arguments: object, **named: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(profiling, "score", full)
    device = FakeDevice(fake_measurement(STEADY))
    out = tmp_path / "r.json"

    with pytest.raises(WorkError, match=r"The measurement is kept in .*r\.measurement\.json"):
        profile(bundle.path, device=device, out=out)

    monkeypatch.undo()
    kept = tmp_path / "r.measurement.json"
    digest = bundle.digest
    values = json.loads(kept.read_text())
    request = Request(digest, "onnxruntime", 1, "quick", 128, 10.0, 100.0)
    kept.write_text(json.dumps({**values, "request": dataclasses.asdict(request)}))
    result = profile(bundle.path, measurement=kept, out=out)
    assert result.samples_ns == tuple(STEADY)
    assert result.device.device == "file:r.measurement.json"
    assert read_result(out) == result


@pytest.mark.parametrize(
    ("digest", "message"),
    [("0" * 64, "was measured with another bundle"), (None, "does not say which bundle")],
)
def test_a_measurement_of_another_bundle_is_refused(
    bundle: Bundle, tmp_path: Path, digest: str | None, message: str
) -> None:
    request = None if digest is None else Request(digest, "coreml", 1, "quick", 128, 10.0, 100.0)
    measurement = fake_measurement(STEADY, request=request)
    (tmp_path / "m.json").write_text(json.dumps(measurement.to_dict()))

    with pytest.raises(ArtifactError, match=message):
        profile(bundle.path, measurement=tmp_path / "m.json", out=tmp_path / "r.json")


def write_measurement(bundle: Bundle, path: Path, **changes: Any) -> Path:
    """A file of a runner on the fake board that measured this bundle."""
    request = Request(bundle.digest, "onnxruntime", 1, "quick", 128, 10.0, 100.0)
    values = fake_measurement(STEADY, request=request).to_dict()
    path.write_text(json.dumps({**values, **changes}))
    return path


def test_a_file_does_not_set_the_limit_of_its_own_golden_errors(
    bundle: Bundle, tmp_path: Path
) -> None:
    # An error of 90 % with `tolerance: 10` beside it made a valid result, without a word.
    golden = {"n": 4, "relative_error": {"embedding": 0.9}, "tolerance": 10}
    file = write_measurement(bundle, tmp_path / "m.json", golden=golden)

    with pytest.raises(ArtifactError, match=r"golden embedding is off by 0\.9 \(limit 0\.001\)"):
        profile(bundle.path, measurement=file, out=tmp_path / "r.json")

    assert not (tmp_path / "r.json").exists()


@pytest.mark.parametrize("change", [{"min_runs": 3}, {"min_seconds": 0}, {"protocol": "mine"}])
def test_a_file_does_not_set_the_limits_of_a_protocol(
    bundle: Bundle, tmp_path: Path, change: dict[str, Any]
) -> None:
    # Three runs under the name of a protocol that asks for 1,024 were valid.
    request = Request(bundle.digest, "onnxruntime", 1, "quick", 128, 10.0, 100.0)
    request = dataclasses.replace(request, **change)
    file = write_measurement(bundle, tmp_path / "m.json", request=dataclasses.asdict(request))

    with pytest.raises(ArtifactError, match=r"measured by a protocol .* which is none of"):
        profile(bundle.path, measurement=file, out=tmp_path / "r.json")


def test_a_file_of_outputs_or_threads_that_there_are_not_is_refused(
    bundle: Bundle, tmp_path: Path
) -> None:
    golden = {"n": 4, "relative_error": {"banana": 0.0}, "tolerance": 0.001}
    file = write_measurement(bundle, tmp_path / "m.json", golden=golden)
    with pytest.raises(ArtifactError, match="an output 'banana', and the bundle has embedding"):
        profile(bundle.path, measurement=file, out=tmp_path / "r.json")

    request = Request(bundle.digest, "onnxruntime", -4, "quick", 128, 10.0, 100.0)
    file = write_measurement(bundle, tmp_path / "m.json", request=dataclasses.asdict(request))
    with pytest.raises(ArtifactError, match="threads=-4 is not above 0"):
        profile(bundle.path, measurement=file, out=tmp_path / "r.json")


@pytest.mark.parametrize("content", [None, b"", b"PK broken", b"\x93NUMPY"])
def test_a_bundle_without_readable_golden_outputs_is_one_line(
    bundle: Bundle, tmp_path: Path, content: bytes | None
) -> None:
    file = write_measurement(bundle, tmp_path / "m.json")
    golden = bundle.path / "golden/model.npz"
    golden.unlink()
    if content is not None:
        golden.write_bytes(content)

    with pytest.raises(EdgeseedError, match=r"golden/model\.npz"):
        profile(bundle.path, measurement=file, out=tmp_path / "r.json")


def test_a_number_without_an_end_is_no_traceback(bundle: Bundle, tmp_path: Path) -> None:
    for name, value in [("load_ns", 10**400), ("samples_ns", [10**400])]:
        file = write_measurement(bundle, tmp_path / "m.json", **{name: value})

        with pytest.raises(ArtifactError, match=rf"{name} (is|has) a number of hundreds of digits"):
            profile(bundle.path, measurement=file, out=tmp_path / "r.json")


def test_what_a_file_cannot_answer_is_not_passed_over(bundle: Bundle, tmp_path: Path) -> None:
    file = write_measurement(bundle, tmp_path / "m.json")

    with pytest.raises(ConfigError, match="and data, threads cannot change it"):
        profile(bundle.path, measurement=file, data="digits", threads=2, out=tmp_path / "r.json")


def test_files_of_one_device_are_ranked_together_whatever_they_are_called(
    bundle: Bundle, tmp_path: Path
) -> None:
    results = [
        profile(
            bundle.path,
            measurement=write_measurement(bundle, tmp_path / f"{name}.m.json"),
            out=tmp_path / f"{name}.json",
        )
        for name in ("fp32", "int8")
    ]

    assert len(rank(results).groups) == 1


def test_threads_that_no_device_has_are_refused(bundle: Bundle, tmp_path: Path) -> None:
    # The engine took all of the machine's memory before it made the first of them.
    device = FakeDevice(fake_measurement(STEADY))

    with pytest.raises(ConfigError, match="threads=99999999 is not from 1 to 1024"):
        profile(bundle.path, device=device, threads=99_999_999, out=tmp_path / "r.json")

    assert device.jobs == []


def test_bundles_are_measured_in_turns(make_bundle: Any, tmp_path: Path) -> None:
    first, second = make_bundle("first"), make_bundle("second")
    device = FakeDevice(fake_measurement(STEADY))

    results = profile_in_turns(
        [first.path, second.path], repeat=2, device=device, out=tmp_path / "turns"
    )

    assert [result.bundle.folder for result in results] == ["first", "second"] * 2
    assert sorted(path.name for path in (tmp_path / "turns").iterdir()) == [
        "first-1.json", "first-2.json", "second-1.json", "second-2.json",
    ]  # fmt: skip
    with pytest.raises(UsageError, match=r"first-1\.json exists already"):
        profile_in_turns([first.path], repeat=1, device=device, out=tmp_path / "turns")
    with pytest.raises(UsageError, match="two bundles are called first"):
        profile_in_turns([first.path] * 2, repeat=1, device=device, out=tmp_path / "other")


@pytest.mark.parametrize(
    "sign",
    [
        signal.SIGTERM,
        pytest.param(signal.SIGHUP, marks=pytest.mark.slow),
        pytest.param(signal.SIGINT, marks=pytest.mark.slow),
    ],
)
def test_a_run_that_is_ended_leaves_nothing_here(
    bundle: Bundle, tmp_path: Path, sign: signal.Signals
) -> None:
    (tmp_path / "tmp").mkdir()
    with measuring(bundle, tmp_path) as process:
        process.send_signal(sign)
        code = process.wait(30)

    assert code == (130 if sign == signal.SIGINT else 128 + sign)
    assert list((tmp_path / "tmp").iterdir()) == []
    assert not (tmp_path / "r.json").exists()


@pytest.mark.slow
def test_what_a_killed_run_left_is_removed_by_the_next(
    bundle: Bundle, instant: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "tmp").mkdir()
    with measuring(bundle, tmp_path) as process:
        process.kill()
        process.wait(30)
    assert list((tmp_path / "tmp").iterdir()) != []

    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "tmp"))
    profile(bundle.path, protocol=instant, out=tmp_path / "next.json")

    assert list((tmp_path / "tmp").iterdir()) == []


# A test run in the background inherits an ignored SIGINT, and one behind nohup an ignored SIGHUP.
MAIN = (
    "import signal; signal.signal(signal.SIGINT, signal.default_int_handler);"
    "signal.signal(signal.SIGHUP, signal.SIG_DFL);"
    "from edgeseed.cli import main; main()"
)


@contextlib.contextmanager
def measuring(bundle: Bundle, folder: Path) -> Iterator[subprocess.Popen[bytes]]:
    """A process in the middle of a measurement on this machine."""
    command = [
        sys.executable, "-c", MAIN, "profile", str(bundle.path), "--out",
        str(folder / "r.json"), "--protocol", "normal",
    ]  # fmt: skip
    environment = {**os.environ, "TMPDIR": str(folder / "tmp")}
    with subprocess.Popen(command, env=environment, stderr=subprocess.DEVNULL) as process:
        deadline = time.monotonic() + 60
        while not list((folder / "tmp").glob("edgeseed-*/work/result")):
            assert time.monotonic() < deadline
            time.sleep(0.05)
        time.sleep(0.5)
        yield process
