"""A phone over adb: the system's real client against a stand-in for the phone's side."""

import contextlib
import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from support import conformance
from support.fake_adbd import ADB, PHONE_ADDRESS, Phone, adb_server, connect
from support.fake_device import fake_measurement

from edgeseed.core.bundle import Bundle
from edgeseed.core.errors import ArtifactError, ConfigError, MissingDependencyError, WorkError
from edgeseed.runtime import profile, read_result
from edgeseed.runtime.devices import adb as adb_module
from edgeseed.runtime.devices import open_device
from edgeseed.runtime.devices.adb import AdbAddress, parse_address
from edgeseed.runtime.measurement import Request
from edgeseed.runtime.runners.browser.package import FILES

needs_adb = pytest.mark.skipif(ADB is None, reason="there is no adb here")


@pytest.mark.parametrize(
    ("text", "address"),
    [
        ("", AdbAddress()),
        ("R58M123", AdbAddress(serial="R58M123")),
        ("127.0.0.1:5555?unit=webgpu", AdbAddress(serial="127.0.0.1:5555", unit="webgpu")),
        ("?cool=0&cores=all", AdbAddress(cool=0, cores="all")),
        (
            "X?runner=app&app=org.example/edgeseed.shoes.BenchmarkActivity",
            AdbAddress(
                serial="X", runner="app", app="org.example/edgeseed.shoes.BenchmarkActivity"
            ),
        ),
    ],
)
def test_addresses_are_read(text: str, address: AdbAddress) -> None:
    assert parse_address(text) == address


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("?colour=red", "'colour' is none of its options"),
        ("?cool=soon", "cool=soon is not a number of seconds"),
        ("?cores=some", "neither big nor all"),
        ("-s x", "a serial number is written as"),
        ("?runner=app", "needs the app's benchmark"),
        ("?runner=/no/such/benchmark_model", "there is no such file"),
    ],
)
def test_an_address_that_does_not_fit_says_so(text: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        parse_address(text)


def test_the_name_in_results_has_no_options_in_it() -> None:
    assert open_device("adb:R58M?unit=webgpu").name == "adb:R58M"


# --------------------------------------------------------------------------- the real client


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    if ADB is None:
        pytest.skip("there is no adb here")
    with adb_server(tmp_path_factory.mktemp("home")):
        yield


@pytest.fixture
def phone(server: None, tmp_path: Path) -> Iterator[Phone]:
    phone = Phone(tmp_path / "phone")
    (tmp_path / "phone/settings/system.screen_off_timeout").write_text("60000\n")
    connect(phone)
    yield phone
    phone.close()
    subprocess.run(["adb", "disconnect", phone.serial], capture_output=True, check=False)


# Plays ONNX Runtime's benchmark program. The numbers are made up, the lines and the file of samples
# are those of onnxruntime/test/perftest/performance_runner.cc in microsoft/onnxruntime (MIT).
PERF_TEST = """#!/bin/sh
for last; do :; done
echo "Session creation time cost: 0.0508382 s"
echo "First inference time cost: 85 ms"
{body}
i=0; while [ $i -lt 200 ]; do echo "model,0.06,114634752,100,$i" >> "$last"; i=$((i+1)); done
echo "Total inference time cost: 12 s"
echo "Total inference requests: 200"
echo "Average inference time cost: 60 ms"
echo "Total inference run time: 12.01 s"
echo "Peak working set size: 114634752 bytes"
"""


def perf_test(folder: Path, body: str = "") -> Path:
    path = folder / "onnxruntime_perf_test"
    path.write_text(PERF_TEST.format(body=body))
    (folder / "libonnxruntime.so").write_bytes(b"a library")
    return path


# A test run in the background inherits an ignored SIGINT.
MAIN = (
    "import signal; signal.signal(signal.SIGINT, signal.default_int_handler);"
    "from edgeseed.cli import main; main()"
)


def put_back(phone: Phone, *, within: float = 60.0) -> bool:
    """Whether the phone is as it was, at the latest after some seconds."""
    deadline = time.monotonic() + within
    while time.monotonic() < deadline:
        if (
            phone.setting("global", "stay_on_while_plugged_in") == ""
            and phone.setting("system", "screen_off_timeout") == "60000"
            and phone.fixed_performance == "false"
            and phone.files() == []
        ):
            return True
        time.sleep(0.1)
    return False


def test_a_native_program_is_pushed_run_and_read(
    phone: Phone, bundle: Bundle, tmp_path: Path
) -> None:
    program = perf_test(tmp_path)
    out = tmp_path / "result.json"

    result = profile(bundle.path, device=f"adb:{phone.serial}?runner={program}", out=out)

    assert read_result(out) == result
    assert result.num_runs == 200
    assert result.mean_ms == pytest.approx(60)
    assert result.engine.runner == "onnxruntime_perf_test"
    assert result.golden is None
    assert result.accuracy is None
    assert result.load_ms == pytest.approx(50.8, abs=0.1)
    assert (result.device.machine.model, result.device.machine.cpu) == ("Fake 8", "Nobody N1")
    assert result.device.machine.architecture == "aarch64"
    assert result.device.machine.memory_mib == pytest.approx(7812.5)
    assert result.thermals is not None
    assert result.thermals.before.temperature_c == {"cpu": 24.0, "skin": 25.3, "battery": 28.0}
    assert result.state_before is not None
    assert result.state_before.facts["fixed performance"] == "on"
    limited = " ".join(reason.message for reason in result.reasons)
    assert "the runner compares no outputs" in limited
    assert "accuracy was not measured" in limited
    assert phone.log("taskset") == "taskset 2\n"  # core 1 is the fast one
    assert "fixed true" in phone.log("settings")
    assert put_back(phone)


def test_a_native_program_keeps_the_protocol_as_far_as_it_can(
    phone: Phone, bundle: Bundle, tmp_path: Path
) -> None:
    device = open_device(f"adb:{phone.serial}?runner={perf_test(tmp_path)}")
    job = conformance.job_for(bundle, engine="onnxruntime", unit="cpu")

    seen = conformance.hold(lambda b, j: device.measure(b, j, pixels=None), bundle, job)

    assert seen.measurement.golden is None
    assert seen.measurement.warm_up.steady is None


def test_a_program_without_samples_says_that_the_spread_is_unknown(
    phone: Phone, make_bundle: Any, tmp_path: Path
) -> None:
    # Lines of the real program: github.com/lp6m/yolov5s_android (MIT), README.
    program = tmp_path / "benchmark_model"
    program.write_text(
        "#!/bin/sh\n"
        "echo 'count=2 first=360262 curr=304586 min=304586 max=360262 avg=332424 std=27838'\n"
        "echo 'count=50 first=249042 curr=250889 min=247067 max=254474 avg=249684 std=1442'\n"
        "echo 'Inference timings in us: Init: 16242, First inference: 360262, "
        "Warmup (avg): 304586, Inference (avg): 249684'\n"
    )
    from edgeseed.runtime.runners.native import LiteRtBenchmarkModel

    out = subprocess.run(["sh", str(program)], capture_output=True, text=True, check=True).stdout
    run = LiteRtBenchmarkModel().read(out, "")

    assert run.samples_ns == []
    assert run.reported is not None
    assert (run.reported.n, run.reported.mean_ns) == (50, 249_684_000)
    assert run.reported.std_ns == 1_442_000
    assert (run.load_ns, run.first_run_ns) == (16_242_000, 360_262_000)
    assert run.warm_up_runs == 2
    with pytest.raises(ConfigError, match="benchmark_model runs litert or tflite bundles"):
        profile(
            make_bundle().path, device=f"adb:{phone.serial}?runner={program}",
            out=tmp_path / "r.json",
        )  # fmt: skip


def test_a_program_that_fails_is_told_and_the_phone_is_put_back(
    phone: Phone, bundle: Bundle, tmp_path: Path
) -> None:
    program = perf_test(tmp_path, body="echo 'no such provider: cpu'; exit 1")

    with pytest.raises(WorkError, match="did not finish: no such provider: cpu"):
        profile(bundle.path, device=f"adb:{phone.serial}?runner={program}", out=tmp_path / "r.json")

    assert put_back(phone)
    assert not (tmp_path / "r.json").exists()


def test_a_cable_that_is_pulled_in_mid_run_is_one_clear_line(
    phone: Phone, bundle: Bundle, tmp_path: Path
) -> None:
    program = perf_test(tmp_path, body="sleep 60")

    def pull() -> None:
        deadline = time.monotonic() + 120
        while not phone.log("taskset") and time.monotonic() < deadline:
            time.sleep(0.1)
        phone.unplug()

    threading.Thread(target=pull, daemon=True).start()

    with pytest.raises(WorkError, match="the phone is gone in the middle of the run"):
        profile(bundle.path, device=f"adb:{phone.serial}?runner={program}", out=tmp_path / "r.json")

    # No one can reach the phone any more: it puts its settings back by itself.
    assert put_back(phone)


# SIGINT and SIGTERM leave time to put it back; SIGKILL does not.
@pytest.mark.parametrize(
    "sign",
    [
        signal.SIGKILL,
        pytest.param(signal.SIGTERM, marks=pytest.mark.slow),
        pytest.param(signal.SIGINT, marks=pytest.mark.slow),
    ],
)
def test_a_phone_is_put_back_when_edgeseed_is_killed(
    phone: Phone, bundle: Bundle, tmp_path: Path, sign: signal.Signals
) -> None:
    program = perf_test(tmp_path, body="sleep 30")
    command = [
        sys.executable, "-c", MAIN, "profile", str(bundle.path), "--device",
        f"adb:{phone.serial}?runner={program}", "--out", str(tmp_path / "r.json"),
    ]  # fmt: skip
    with subprocess.Popen(command, stderr=subprocess.PIPE) as process:
        deadline = time.monotonic() + 60
        while phone.fixed_performance != "true" and time.monotonic() < deadline:
            time.sleep(0.1)
        time.sleep(0.5)
        assert phone.setting("system", "screen_off_timeout") == "1800000"
        process.send_signal(sign)
        process.wait(30)

    assert put_back(phone)


def reversed_ports(phone: Phone) -> str:
    command = ["adb", "-s", phone.serial, "reverse", "--list"]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()


# By SIGTERM the port is closed with all else that the test above puts back.
@pytest.mark.slow
@pytest.mark.parametrize(
    "sign", [signal.SIGKILL, pytest.param(signal.SIGTERM, marks=pytest.mark.slow)]
)
def test_the_phones_port_is_taken_back_when_edgeseed_is_killed(
    phone: Phone, bundle: Bundle, tmp_path: Path, sign: signal.Signals
) -> None:
    # After SIGKILL the phone's port stayed open until it was unplugged.
    for name in FILES["wasm"]:
        (tmp_path / name).write_bytes(b"nobody opens the page that asks for it")
    command = [
        sys.executable, "-c", MAIN, "profile", str(bundle.path), "--device",
        f"adb:{phone.serial}", "--ort-web", str(tmp_path), "--out", str(tmp_path / "r.json"),
    ]  # fmt: skip
    with subprocess.Popen(command, stderr=subprocess.PIPE) as process:
        deadline = time.monotonic() + 120
        while not phone.log("am") and time.monotonic() < deadline:
            time.sleep(0.1)
        assert "tcp:" in reversed_ports(phone)
        process.send_signal(sign)
        process.wait(60)

    deadline = time.monotonic() + 60
    while reversed_ports(phone) and time.monotonic() < deadline:
        time.sleep(0.1)
    assert reversed_ports(phone) == ""
    assert put_back(phone)


def test_a_warm_phone_is_waited_for_and_the_result_says_what_was_left(
    phone: Phone, bundle: Bundle, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(adb_module, "_COOL_POLL_SECONDS", 0.1)
    program = perf_test(tmp_path)
    phone.set_heat(battery_c=38.5, status=2)

    result = profile(
        bundle.path, device=f"adb:{phone.serial}?cool=1&runner={program}", out=tmp_path / "r.json"
    )

    messages = [reason.message for reason in result.reasons]
    assert any("still warm after 1 s of waiting: battery 38.5 °C" in text for text in messages)
    assert any("before the run: thermal status 2 (moderate)" in text for text in messages)
    assert not result.valid


@pytest.mark.slow
def test_a_phone_that_cools_down_is_measured_without_a_word(
    phone: Phone, bundle: Bundle, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(adb_module, "_COOL_POLL_SECONDS", 0.1)
    program = perf_test(tmp_path)
    phone.set_heat(battery_c=36.0, status=0)
    threading.Timer(2.0, lambda: phone.set_heat(battery_c=34.0, status=0)).start()

    result = profile(
        bundle.path, device=f"adb:{phone.serial}?runner={program}", out=tmp_path / "r.json"
    )

    assert not any("still warm" in reason.message for reason in result.reasons)
    assert result.thermals is not None
    assert result.thermals.before.temperature_c["battery"] == 34.0


def test_a_phone_without_fixed_performance_says_so(
    phone: Phone, bundle: Bundle, tmp_path: Path
) -> None:
    (phone.folder / "cmd-power-help").write_text("Power manager commands\n")

    result = profile(
        bundle.path, device=f"adb:{phone.serial}?runner={perf_test(tmp_path)}",
        out=tmp_path / "r.json",
    )  # fmt: skip

    assert result.state_before is not None
    assert result.state_before.facts["fixed performance"] == "not offered by this phone"
    assert phone.fixed_performance == ""


# --------------------------------------------------------------------------- which phone


@needs_adb
def test_a_phone_that_does_not_trust_this_computer_says_what_to_do(
    server: None, bundle: Bundle, tmp_path: Path
) -> None:
    phone = Phone(tmp_path / "stranger", trusts=False)
    with contextlib.suppress(subprocess.CalledProcessError):
        connect(phone)
    try:
        with pytest.raises(WorkError, match="unlock it and accept the question on its screen"):
            profile(bundle.path, device=f"adb:{phone.serial}", out=tmp_path / "r.json")
    finally:
        phone.close()
        subprocess.run(["adb", "disconnect", phone.serial], capture_output=True, check=False)


def test_of_two_phones_one_has_to_be_named(phone: Phone, bundle: Bundle, tmp_path: Path) -> None:
    second = Phone(tmp_path / "second")
    connect(second)
    try:
        with pytest.raises(WorkError, match=r"adb sees 2 phones; say which one: --device adb:"):
            profile(bundle.path, device="adb", out=tmp_path / "r.json")
    finally:
        second.close()
        subprocess.run(["adb", "disconnect", second.serial], capture_output=True, check=False)


def test_a_phone_that_is_not_there_is_told_with_those_that_are(
    phone: Phone, bundle: Bundle, tmp_path: Path
) -> None:
    with pytest.raises(WorkError, match=rf"adb sees no phone R58M; it sees {phone.serial}"):
        profile(bundle.path, device="adb:R58M", out=tmp_path / "r.json")


@pytest.mark.parametrize(
    ("listed", "remedy"),
    [
        ("", "adb sees no phone: connect one by USB"),
        ("R58M\toffline", "it does not answer: unplug it"),
        ("R58M\tno permissions (user in plugdev group; are your udev rules wrong?)", "udev rule"),
        ("R58M\trecovery", "start it normally"),
        ("R58M\thost", "adb says that it is 'host'"),
    ],
)
def test_a_phone_that_cannot_be_used_says_what_to_do(
    bundle: Bundle, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, listed: str, remedy: str
) -> None:
    (tmp_path / "bin").mkdir()
    (tmp_path / "bin/adb").write_text(
        f"#!/bin/sh\necho 'List of devices attached'\necho '{listed}'\n"
    )
    (tmp_path / "bin/adb").chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path / 'bin'}{os.pathsep}{os.environ['PATH']}")

    with pytest.raises(WorkError, match=remedy) as caught:
        profile(bundle.path, device="adb", out=tmp_path / "r.json")

    assert "\n" not in str(caught.value)


def test_a_machine_without_adb_says_what_to_install(
    bundle: Bundle, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))

    with pytest.raises(MissingDependencyError, match="install Android's platform-tools"):
        profile(bundle.path, device="adb", out=tmp_path / "r.json")


# --------------------------------------------------------------------------- the phone's browser


@pytest.mark.browser
@pytest.mark.slow
def test_the_phones_browser_measures_through_adb_reverse(
    phone: Phone, bundle: Bundle, instant: str, tmp_path: Path
) -> None:
    from support.chromium import CHROMIUM, WITHOUT_GPU, start_chromium

    if CHROMIUM is None:
        pytest.skip("there is no Chromium here")
    # The phone's localhost: adb listens there and brings each connection to this machine.
    rules = f"--host-resolver-rules=MAP 127.0.0.1 {PHONE_ADDRESS}"
    out = tmp_path / "r.json"
    with start_chromium(*WITHOUT_GPU, rules) as chromium:

        def play_the_user() -> None:
            # The engine may have to be fetched by npm before the page is opened.
            while "-d" not in (words := phone.log("am").split()):
                if done.wait(0.1):
                    return
            chromium.open(words[words.index("-d") + 1])

        done = threading.Event()
        threading.Thread(target=play_the_user, daemon=True).start()
        try:
            result = profile(bundle.path, device=f"adb:{phone.serial}", protocol=instant, out=out)
        finally:
            done.set()

    assert "android.intent.action.VIEW" in phone.log("am")
    assert result.engine.runner == "browser"
    assert result.device.machine.model == "Fake 8"
    assert result.golden is not None
    assert max(result.golden.relative_error.values()) < 1e-3
    assert result.accuracy is not None
    assert result.engine.settings["secure_context"] is True
    assert result.engine.settings["cross_origin_isolated"] is True
    assert read_result(out) == result
    assert put_back(phone)


APP = "org.example.shop/edgeseed.shoes.BenchmarkActivity"


def write_app_file(phone: Phone, name: str, text: str) -> None:
    folder = phone.folder / "apps/org.example.shop/files/shoes"
    folder.mkdir(parents=True, exist_ok=True)
    (folder / name).write_text(text)


@pytest.mark.parametrize("whose", ["this", "another"])
def test_the_apps_benchmark_is_started_and_bound_to_the_bundle(
    phone: Phone, bundle: Bundle, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, whose: str
) -> None:
    monkeypatch.setattr(adb_module, "_APP_POLL_SECONDS", 0.1)
    digest = bundle.digest if whose == "this" else "0" * 64
    request = Request(digest, "onnxruntime", 4, "quick", 128, 10.0, 100.0)
    measurement = fake_measurement([5_000_000] * 2000, runner="android-app", request=request)
    write_app_file(phone, "measurement.json", json.dumps(measurement.to_dict()))
    device = f"adb:{phone.serial}?runner=app&app={APP}"

    if whose == "this":
        result = profile(bundle.path, device=device, out=tmp_path / "r.json")
        assert result.engine.runner == "android-app"
        assert result.latency is not None
        assert "--es protocol quick --es engine cpu --ei threads 2" in phone.log("am")
    else:
        with pytest.raises(ArtifactError, match="the app holds another model"):
            profile(bundle.path, device=device, out=tmp_path / "r.json")
    assert put_back(phone)


def test_an_app_whose_benchmark_fails_is_told(
    phone: Phone, bundle: Bundle, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(adb_module, "_APP_POLL_SECONDS", 0.1)
    write_app_file(phone, "error.txt", "IllegalStateException: golden photos differ\nmore\n")

    with pytest.raises(WorkError, match="benchmark failed: IllegalStateException: golden photos"):
        profile(
            bundle.path, device=f"adb:{phone.serial}?runner=app&app={APP}", out=tmp_path / "r.json"
        )

    assert put_back(phone)
