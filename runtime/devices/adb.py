"""An Android phone over USB: `adb[:SERIAL][?runner=browser|app|FILE][&unit=U][&cool=SECONDS]`.

The system's `adb` reaches it. By default its own browser runs the model: `adb reverse` brings our
page to the phone's localhost, which is a secure context, so threads and WebGPU work without network
or installation. `?runner=FILE` pushes a native program (`onnxruntime_perf_test`, LiteRT's
`benchmark_model`) and reads what it prints. `?runner=app&app=PACKAGE/ACTIVITY` starts the benchmark
of the app that `edgeseed embed` writes.

Before: wait until the phone is cool (`cool`, 300 s at most), keep its screen on, and set its fixed
performance mode where it has one. All of it is put back by the phone itself as soon as the
connection ends, also when this program is killed or the cable is pulled.
"""

import contextlib
import dataclasses
import json
import secrets
import shlex
import subprocess
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Self
from urllib.parse import parse_qsl, urlsplit

import numpy as np
from numpy.typing import NDArray

from edgeseed.core.bundle import Bundle
from edgeseed.core.console import say, warn
from edgeseed.core.errors import ArtifactError, ConfigError, WorkError
from edgeseed.profiles import EngineFacts, Profile
from edgeseed.runtime import android
from edgeseed.runtime.agent.job_file import Job
from edgeseed.runtime.conformance import read_measurement
from edgeseed.runtime.device import Device, Observation
from edgeseed.runtime.devices._adb import Adb
from edgeseed.runtime.engine import Placement
from edgeseed.runtime.machine import Load, Machine, Memory
from edgeseed.runtime.measurement import Measurement, WarmUpRun
from edgeseed.runtime.runners.native import program_for

BROWSER, APP = "browser", "app"
WEB_UNITS = ("wasm", "webgpu")
TEMPORARY = "/data/local/tmp"
COOL_C = 35.0
"""Battery temperature to begin at; MLPerf Mobile lets phones cool between runs too."""
DEFAULT_COOL_SECONDS = 300
_COOL_POLL_SECONDS = 5
_APP_POLL_SECONDS = 2
_END = "edgeseed-end"
_OPTIONS = ("runner", "unit", "cool", "app", "ort-web", "cores")
_NO_OUTPUTS = (
    "the runner compares no outputs: golden photos, accuracy and agreement were not measured"
)


@dataclass(frozen=True, kw_only=True, slots=True)
class AdbAddress:
    """What follows `adb`.

    Attributes:
        serial: of the phone; None for the only one.
        runner: `browser`, `app` or the path of a native program.
        unit: compute unit; None for the runner's first.
        cool: seconds to wait for the phone to cool, at most.
        app: `PACKAGE/ACTIVITY` of the benchmark that `embed` wrote.
        ort_web: folder with onnxruntime-web; None for the pinned version.
        cores: `big` (native programs run on the fastest cluster) or `all`.
    """

    serial: str | None = None
    runner: str = BROWSER
    unit: str | None = None
    cool: int = DEFAULT_COOL_SECONDS
    app: str | None = None
    ort_web: str | None = None
    cores: str = "big"


def parse_address(text: str) -> AdbAddress:
    """Read `[SERIAL][?name=value&...]`.

    Raises:
        ConfigError: If a name is unknown or a value does not fit.
    """
    serial, _, query = text.partition("?")
    values = dict(parse_qsl(query, keep_blank_values=True))
    for name in values:
        if name not in _OPTIONS:
            raise ConfigError(
                f"--device adb: {name!r} is none of its options; they are: {', '.join(_OPTIONS)}"
            )
    if serial.startswith("-") or any(letter.isspace() for letter in serial):
        raise ConfigError(
            f"--device adb:{serial}: a serial number is written as `adb devices` does"
        )
    cool = values.get("cool", str(DEFAULT_COOL_SECONDS))
    if not (cool.isascii() and cool.isdigit() and int(cool) <= 3600):
        raise ConfigError(f"--device adb: cool={cool} is not a number of seconds from 0 to 3600")
    if values.get("cores", "big") not in ("big", "all"):
        raise ConfigError(f"--device adb: cores={values['cores']} is neither big nor all")
    address = AdbAddress(
        serial=serial or None,
        runner=values.get("runner", BROWSER),
        unit=values.get("unit"),
        cool=int(cool),
        app=values.get("app"),
        ort_web=values.get("ort-web"),
        cores=values.get("cores", "big"),
    )
    if address.runner == APP and "/" not in (address.app or ""):
        raise ConfigError(
            "--device adb?runner=app needs the app's benchmark: "
            "&app=PACKAGE/edgeseed.NAME.BenchmarkActivity"
        )
    if address.runner not in (BROWSER, APP) and not Path(address.runner).is_file():
        raise ConfigError(
            f"--device adb?runner={address.runner}: there is no such file; give browser, app, or "
            "the path of a native program"
        )
    return address


class AdbDevice(Device):
    """A phone, and what measures on it.

    Args:
        address: which phone, and by what.
    """

    kind = "adb"
    options: ClassVar[tuple[str, ...]] = ("ort-web",)

    def __init__(self, address: AdbAddress) -> None:
        self._address = address

    @classmethod
    def from_address(cls, address: str) -> Self:
        """See `parse_address`."""
        return cls(parse_address(address))

    @property
    def name(self) -> str:
        """`adb` or `adb:SERIAL`, without options."""
        return "adb" if self._address.serial is None else f"adb:{self._address.serial}"

    def engine_for(self, profile: Profile, target: str) -> EngineFacts:
        """The engine of the runner, with the profile's threads."""
        runner = self._address.runner
        known = [engine for engine in profile.engines if engine.target == target]
        threads = known[0].threads if known and profile.form_factor != "any" else 2
        if runner == BROWSER:
            if target != "onnx":
                raise ConfigError(
                    f"a phone's browser runs onnx bundles, this one is for {target}: export with "
                    "--target onnx"
                )
            name, unit = "onnxruntime-web", WEB_UNITS[0]
        elif runner == APP:
            name, unit = "onnxruntime", "cpu"
        else:
            name, unit = program_for(Path(runner).name, target=target).engine, "cpu"
        return EngineFacts(
            name=name,
            target=target,
            unit=self._address.unit or unit,
            precisions=("int8", "w8", "fp32", "fp16"),
            threads=threads,
        )

    def look(self) -> Machine:
        """What the phone is, without measuring anything.

        Raises:
            WorkError: If it cannot be reached; the message says what to do.
        """
        adb = Adb(self._address.serial)
        return android.read_machine(adb.shell, android.read_properties(adb.shell))

    def measure(self, bundle: Bundle, job: Job, *, pixels: NDArray[np.uint8] | None) -> Observation:
        """Prepare the phone, run the runner, and put the phone back as it was."""
        adb = Adb(self._address.serial)
        properties = android.read_properties(adb.shell)
        machine = android.read_machine(adb.shell, properties)
        with _prepared(adb) as prepared:
            settings = prepared.settings
            limitations = _wait_until_cool(adb, self._address.cool)
            before = android.read_heat(adb.shell)
            state_before = android.read_state(adb.shell, before, settings=settings)
            seen = self._run(adb, bundle, job, machine, prepared.folder, pixels)
            after = android.read_heat(adb.shell)
            state_after = android.read_state(adb.shell, after, settings=settings)
        if pixels is not None and seen.outputs is None:
            limitations.append("accuracy was not measured: the runner takes no photos")
        found = seen.measurement
        settings_of_runner = {**found.settings, **android.describe(properties)}
        measurement = dataclasses.replace(
            found,
            machine=machine,
            settings=settings_of_runner,
            state_before=state_before,
            state_after=state_after,
            thermals=(android.thermals_of(before), android.thermals_of(after)),
            limitations=[*found.limitations, *limitations],
            request=job.request(),
        )
        return dataclasses.replace(seen, measurement=measurement)

    def _run(
        self,
        adb: Adb,
        bundle: Bundle,
        job: Job,
        machine: Machine,
        folder: str,
        pixels: NDArray[np.uint8] | None,
    ) -> Observation:
        if self._address.runner == BROWSER:
            return self._run_browser(adb, bundle, job, pixels)
        if self._address.runner == APP:
            return self._run_app(adb, bundle, job)
        return self._run_program(adb, bundle, job, machine, folder)

    def _run_browser(
        self, adb: Adb, bundle: Bundle, job: Job, pixels: NDArray[np.uint8] | None
    ) -> Observation:
        from edgeseed.runtime.runners.browser import Serving, measure_in_browser

        if job.unit not in WEB_UNITS:
            raise ConfigError(f"a phone's browser has the units {', '.join(WEB_UNITS)}")
        stack = contextlib.ExitStack()

        def open_page(listening: Any) -> None:
            stack.enter_context(adb.reversed_port(f"tcp:{urlsplit(listening.url).port}"))
            adb.must("shell", f"am start -a android.intent.action.VIEW -d {_quoted(listening.url)}")
            say(f"{adb.name}: its browser opens the page; leave it in front")

        with stack:
            return measure_in_browser(
                bundle, job, pixels=pixels, name=adb.name, serving=Serving(), open_page=open_page,
                ort_web=self._address.ort_web, watch=adb.check_connected,
            )  # fmt: skip

    def _run_app(self, adb: Adb, bundle: Bundle, job: Job) -> Observation:
        component = str(self._address.app)
        package, _, activity = component.partition("/")
        # Of edgeseed.NAME.BenchmarkActivity: the module's benchmark writes to files/NAME.
        folder = activity.rsplit(".", 2)[-2] if activity.count(".") >= 1 else package
        adb.must(
            "shell",
            f"am start -n {_quoted(component)} --es protocol {_quoted(job.protocol)} "
            f"--es engine {_quoted(job.unit)} --ei threads {job.threads}",
        )
        reader = f"run-as {_quoted(package)} cat files/{_quoted(folder)}"
        deadline = time.monotonic() + 60 + 2 * job.max_seconds
        while time.monotonic() < deadline:
            time.sleep(_APP_POLL_SECONDS)
            adb.check_connected()
            text = adb.shell(f"{reader}/measurement.json")
            if text.strip():
                return Observation(measurement=_app_measurement(adb, text, bundle), outputs=None)
            error = adb.shell(f"{reader}/error.txt").strip()
            if error:
                raise WorkError(f"{adb.name}: the app's benchmark failed: {error.splitlines()[0]}")
        raise WorkError(
            f"{adb.name}: the app's benchmark wrote nothing; is it a debug build, and is its name "
            f"{component}?"
        )

    def _run_program(
        self, adb: Adb, bundle: Bundle, job: Job, machine: Machine, folder: str
    ) -> Observation:
        path = Path(self._address.runner)
        program = program_for(path.name, target=bundle.manifest.target)
        libraries = sorted(path.parent.glob("*.so"))
        names = [name for name in job.files if name.startswith(job.model)]
        adb.push([path, *libraries, *(bundle.path / name for name in names)], folder)
        adb.must("shell", f"chmod 755 {folder}/{_quoted(path.name)}")
        cores = android.big_cores(machine.max_frequency_mhz) if self._address.cores == "big" else []
        mask = f"taskset {sum(1 << core for core in cores):x} " if cores else ""
        samples = f"{folder}/samples.csv"
        command = program.command(
            f"{folder}/{path.name}", f"{folder}/{Path(job.model).name}", samples, job
        )
        say(f"{adb.name}: {program.name} runs for about {job.min_seconds:.0f} s")
        output = adb.shell(
            f"cd {folder} && LD_LIBRARY_PATH={folder} {mask}{command} 2>&1; echo {_END}",
            seconds=120 + 2 * job.max_seconds,
        )
        # The client tells a broken connection late, or as an empty output.
        if _END not in output:
            raise adb.lost()
        run = program.read(output.replace(_END, ""), adb.shell(f"cat {samples} 2>/dev/null"))
        unknown = Memory(None, None)
        return Observation(
            measurement=Measurement(
                machine=machine,
                engine_version=run.version,
                load_ns=run.load_ns,
                first_run_ns=run.first_run_ns,
                settings={"command": command, "cores": cores or "all"},
                placement=Placement(job.unit, job.unit, None),
                golden=None,
                samples_ns=run.samples_ns,
                elapsed_ns=run.elapsed_ns,
                cpu_ns=None,
                warm_up=WarmUpRun(run.warm_up_runs, 0.0, None),
                thermals=(None, None),
                load_before=Load(0.0, None, None, None),
                load_during=Load(run.elapsed_ns / 1e9, None, None, None),
                memory_before=unknown,
                memory_library=unknown,
                memory_model=Memory(None, run.peak_mib),
                power=None,
                power_unavailable="a phone's power is not read over adb",
                runner=program.name,
                limitations=[
                    _NO_OUTPUTS,
                    f"{program.name} does not tell which unit ran: {job.unit} is what was asked",
                ],
                reported=run.reported,
            ),
            outputs=None,
        )


def _app_measurement(adb: Adb, text: str, bundle: Bundle) -> Measurement:
    try:
        values = json.loads(text)
    except ValueError as error:
        raise ArtifactError(f"{adb.name}: the app's measurement is no JSON ({error})") from error
    measurement = read_measurement(values, what=f"{adb.name}: the app's measurement")
    found = measurement.request
    if found is None or found.bundle_digest != bundle.digest:
        raise ArtifactError(
            f"{adb.name}: the app holds another model than {bundle.path.name}; run `edgeseed "
            "embed` for this bundle and install the app again"
        )
    return measurement


def _quoted(text: str) -> str:
    return shlex.quote(text)


# --------------------------------------------------------------------------- before and after


@dataclass(frozen=True, kw_only=True, slots=True)
class _Prepared:
    """What was set on the phone, and a folder there that goes away with it."""

    settings: dict[str, str]
    folder: str


@contextlib.contextmanager
def _prepared(adb: Adb) -> Iterator[_Prepared]:
    """Keep the screen on and the clocks fixed; yields what was set, and puts all of it back.

    A shell on the phone waits for the end of its input and then puts everything back. Its input
    ends when we close it, when we are killed, and when the cable is pulled.
    """
    awake = adb.shell("settings get global stay_on_while_plugged_in").strip()
    timeout = adb.shell("settings get system screen_off_timeout").strip()
    folder = f"{TEMPORARY}/edgeseed-{secrets.token_hex(4)}"
    restore = [
        _put_back("global", "stay_on_while_plugged_in", awake),
        _put_back("system", "screen_off_timeout", timeout),
        f"rm -rf {folder}",
    ]
    settings = {"screen": "kept on"}
    if _has_fixed_performance(adb):
        restore.append("cmd power set-fixed-performance-mode-enabled false")
        settings["fixed performance"] = "on"
    else:
        settings["fixed performance"] = "not offered by this phone"
    # HUP and PIPE come with the end of the connection, and must not end this shell before its work.
    script = f"trap '' HUP PIPE TERM; cat > /dev/null; {'; '.join(restore)}"
    with subprocess.Popen(
        adb.command("shell", script),
        stdin=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        # Ctrl-C reaches the whole group: the guard must outlive it.
        start_new_session=True,
    ) as guard:
        try:
            adb.shell(f"mkdir -p {folder}")
            adb.shell("settings put global stay_on_while_plugged_in 7")
            adb.shell("settings put system screen_off_timeout 1800000")
            if settings["fixed performance"] == "on":
                adb.shell("cmd power set-fixed-performance-mode-enabled true")
            adb.shell("input keyevent KEYCODE_WAKEUP; wm dismiss-keyguard")
            yield _Prepared(settings=settings, folder=folder)
        finally:
            assert guard.stdin is not None
            guard.stdin.close()
            try:
                guard.wait(timeout=20)
            except subprocess.TimeoutExpired:
                guard.kill()
                warn(f"{adb.name}: the phone did not say that its settings are put back")


def _put_back(namespace: str, key: str, value: str) -> str:
    if value in ("", "null"):
        return f"settings delete {namespace} {key}"
    return f"settings put {namespace} {key} {_quoted(value)}"


def _has_fixed_performance(adb: Adb) -> bool:
    """Android 11 and newer, where the maker offers it: the help of `cmd power` names it then."""
    return "set-fixed-performance-mode-enabled" in adb.shell("cmd power help")


def _wait_until_cool(adb: Adb, limit_seconds: int) -> list[str]:
    """Wait for a cool battery and no thermal status; what is left of the heat, for the result."""
    deadline = time.monotonic() + limit_seconds
    said = False
    while True:
        heat = android.read_heat(adb.shell)
        warm = heat.battery_c is not None and heat.battery_c > COOL_C
        if not warm and not heat.status:
            return []
        if time.monotonic() >= deadline:
            return [
                f"it was still warm after {limit_seconds} s of waiting: battery "
                f"{heat.battery_c} °C (limit {COOL_C:g}), thermal status {heat.status}"
            ]
        if not said:
            say(f"{adb.name}: waiting for it to cool ({heat.battery_c} °C)")
            said = True
        time.sleep(_COOL_POLL_SECONDS)


DEVICE = AdbDevice
