"""ssh against a stand-in on PATH that runs commands here, and against a real sshd on loopback."""

import getpass
import io
import json
import os
import shutil
import socket
import subprocess
import sys
import tarfile
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from support import conformance

from edgeseed.core.bundle import Bundle, read_bundle
from edgeseed.core.errors import ConfigError, GateError, MissingDependencyError, WorkError
from edgeseed.core.processes import machine
from edgeseed.doctor import doctor
from edgeseed.runtime import build, compare, profile, read_result
from edgeseed.runtime.agent import job_file
from edgeseed.runtime.agent.job_file import Job
from edgeseed.runtime.devices import open_device
from edgeseed.runtime.devices import ssh as ssh_module
from edgeseed.runtime.devices.ssh import (
    SshAddress,
    SshDevice,
    _packed,
    _unpack,
    parse_address,
)


@pytest.mark.parametrize(
    ("text", "address"),
    [
        ("raspberrypi", SshAddress(host="raspberrypi")),
        ("pi@10.0.0.5", SshAddress(host="10.0.0.5", user="pi")),
        ("nv@orin.local:2222", SshAddress(host="orin.local", user="nv", port=2222)),
        (
            "pi@rpi?python=/home/pi/venv/bin/python",
            SshAddress(host="rpi", user="pi", python="/home/pi/venv/bin/python"),
        ),
        ("rpi?python=py&install=venv", SshAddress(host="rpi", python="py", install=True)),
        ("pi@[fe80::1]:22", SshAddress(host="[fe80::1]", user="pi", port=22)),
    ],
)
def test_addresses_are_read(text: str, address: SshAddress) -> None:
    assert parse_address(text) == address


@pytest.mark.parametrize(
    "text",
    [
        "",
        "@host",
        "-oProxyCommand=touch /tmp/x",
        "a b",
        "host:",
        "host;rm -rf /",
        "u@-h",
        "h?py=3",
        "h?",
        "h?python=",
    ],
)
def test_an_address_that_is_none_says_how_to_write_it(text: str) -> None:
    with pytest.raises(ConfigError, match=r"write ssh:\[USER@\]HOST"):
        parse_address(text)


def test_a_port_that_is_none_is_refused() -> None:
    with pytest.raises(ConfigError, match="port 70000"):
        parse_address("host:70000")


def test_the_name_in_results_has_no_python_in_it() -> None:
    device = open_device("ssh:pi@rpi:2222?python=/home/pi/venv/bin/python")

    assert device.name == "ssh:pi@rpi:2222"


# --------------------------------------------------------------------------- a stand-in


STAND_IN = """#!/bin/sh
printf '%s\\n' "$*" >> "$SSH_LOG"
while [ "$1" != "--" ]; do shift; done
shift 2
echo "Welcome to the board"
export TMPDIR="$SSH_TMP"
exec sh -c "$1"
"""


class Board:
    """A directory that plays the device: its ssh, its /tmp, and a log of what was asked."""

    def __init__(self, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.bin, self.tmp, self.log = folder / "bin", folder / "tmp", folder / "log"
        self.bin.mkdir()
        self.tmp.mkdir()
        self.install(STAND_IN)
        monkeypatch.setenv("PATH", f"{self.bin}{os.pathsep}{os.environ['PATH']}")
        monkeypatch.setenv("SSH_LOG", str(self.log))
        monkeypatch.setenv("SSH_TMP", str(self.tmp))

    def install(self, script: str) -> None:
        (self.bin / "ssh").write_text(script)
        (self.bin / "ssh").chmod(0o755)

    def fail(self, stderr: str, code: int = 255) -> None:
        self.install(f"#!/bin/sh\ncat > /dev/null\necho '{stderr}' >&2\nexit {code}\n")


@pytest.fixture
def board(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Board:
    (tmp_path / "board").mkdir()
    return Board(tmp_path / "board", monkeypatch)


def here(**changes: Any) -> SshDevice:
    return SshDevice(SshAddress(host="rpi", user="pi", python=sys.executable, **changes))


def test_a_bundle_is_profiled_over_ssh_and_nothing_is_left_there(
    board: Board, bundle: Bundle, instant: str, tmp_path: Path
) -> None:
    result = profile(bundle.path, device=here(), protocol=instant, out=tmp_path / "result.json")

    assert result.device.device == "ssh:pi@rpi"
    assert result.latency is not None
    assert result.latency.n >= 8
    assert result.accuracy is not None
    assert list(board.tmp.iterdir()) == []
    assert "BatchMode=yes" in board.log.read_text()
    assert "StrictHostKeyChecking" not in board.log.read_text()


def test_what_the_agent_refuses_is_told_and_nothing_is_left_there(
    board: Board, bundle: Bundle, instant: str, tmp_path: Path
) -> None:
    with pytest.raises(WorkError, match=r"ssh:pi@rpi: this build of onnxruntime has no unit 'qnn'"):
        profile(
            bundle.path, device=here(), unit="qnn", protocol=instant, out=tmp_path / "result.json"
        )

    assert list(board.tmp.iterdir()) == []


def tool(board: Board, name: str, script: str) -> None:
    """Put a program on the board's PATH."""
    (board.bin / name).write_text(f"#!/bin/sh\n{script}\n")
    (board.bin / name).chmod(0o755)


# NVIDIA's forum and jetson_stats pull request 894: a Jetson Orin Nano under JetPack 6 and an AGX
# Orin under JetPack 7, shortened.
JETPACK_6 = (
    "RAM 1898/7620MB (lfb 7x4MB) CPU [3%@729,1%@729,0%@729,0%@729,0%@729,0%@729] "
    "EMC_FREQ 0%@2133 GR3D_FREQ 10%@1300 cpu@45.2C gpu@44.1C VDD_IN 4500mW/4480mW "
    "VDD_CPU_GPU_CV 600mW/590mW VDD_SOC 1400mW/1390mW"
)
JETPACK_7 = (
    "07-25-2026 09:08:28 RAM 20642/62817MB (lfb 1x2MB) CPU [23%@2201,10%@2201] EMC_FREQ 3%@3199 "
    "GR3D_FREQ 0%@[1300,1300] cpu@52.968C/52.968C VDD_GPU_SOC 5139mW/5139mW/5139mW "
    "VDD_CPU_CV 3268mW/3268mW/3268mW VIN_SYS_5V0 5500mW/5500mW/5500mW"
)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("line", "watts", "rails"),
    [
        # The board's own input rail, which holds the others.
        (JETPACK_6, 4.5, {"VDD_IN"}),
        # AGX Orin has none: its three rails do not hold each other.
        # tests/runtime/test_tegrastats.py reads its lines without a run.
        pytest.param(
            JETPACK_7,
            13.907,
            {"VDD_GPU_SOC", "VDD_CPU_CV", "VIN_SYS_5V0"},
            marks=pytest.mark.slow,
        ),
    ],
)
def test_a_jetsons_power_clocks_and_mode_are_read_during_the_run(
    board: Board, bundle: Bundle, after_a_whole_warm_up: str, tmp_path: Path, line: str,
    watts: float, rails: set[str],
) -> None:  # fmt: skip
    tool(board, "tegrastats", f'trap "exit 0" TERM\nwhile :; do echo "{line}"; sleep 0.02; done')
    tool(board, "nvpmodel", 'echo "NV Power Mode: 15W"; echo 0')
    tool(board, "jetson_clocks", 'echo "GPU MinFreq=306000000 MaxFreq=624750000 CurrentFreq=3"')

    protocol = after_a_whole_warm_up
    result = profile(bundle.path, device=here(), protocol=protocol, out=tmp_path / "r.json")

    assert result.power is not None
    assert result.power.source == "tegrastats"
    assert set(result.power.energy_j) == rails
    assert result.power.mean_w == pytest.approx(watts)
    assert len(result.power.rails_w) == 3
    assert result.energy_mj == pytest.approx(watts * result.mean_ms)
    assert result.state_before is not None
    assert result.state_before.facts == {"power mode": "15W", "GPU clock": "not pinned"}
    assert any("gpu0" in reading.mhz for reading in result.clocks)
    assert read_result(tmp_path / "r.json") == result


@pytest.mark.slow
def test_the_agent_over_ssh_keeps_the_protocol(board: Board, bundle: Bundle) -> None:
    def measure(bundle: Bundle, job: Any) -> Any:
        return here().measure(bundle, job, pixels=None)

    job = conformance.job_for(bundle, engine="onnxruntime", unit="cpu")
    seen = conformance.hold(measure, bundle, job)

    assert seen.stages is not None
    assert seen.stages.seconds("measure") is not None
    conformance.plant_wrong_golden_outputs(bundle)
    assert conformance.refuses_a_wrong_model(
        measure, read_bundle(bundle.path),
        conformance.job_for(read_bundle(bundle.path), engine="onnxruntime", unit="cpu"),
    )  # fmt: skip


@pytest.mark.slow
def test_two_power_modes_are_not_ranked_together(
    board: Board, bundle: Bundle, instant: str, tmp_path: Path
) -> None:
    for mode in ("15W", "MAXN"):
        tool(board, "nvpmodel", f'echo "NV Power Mode: {mode}"; echo 0')
        profile(bundle.path, device=here(), protocol=instant, out=tmp_path / f"{mode}.json")

    with pytest.raises(ConfigError, match="device's power mode 15W and MAXN"):
        compare([tmp_path / "15W.json", tmp_path / "MAXN.json"], fail_if="p50>+5%")


@pytest.mark.parametrize(
    ("bits", "limits"),
    [
        pytest.param("0x0", [], marks=pytest.mark.slow),  # less than in the next
        # It was under-voltage and throttled some time since boot, not now.
        pytest.param("0x50000", [], marks=pytest.mark.slow),
        ("0x50005", ["under-voltage now", "throttled now"]),
        # Another bit of the same number.
        pytest.param(
            "0x80008", ["the soft temperature limit is active now"], marks=pytest.mark.slow
        ),
    ],
)
def test_a_raspberry_pis_throttling_bits_are_read(
    board: Board, bundle: Bundle, instant: str, tmp_path: Path, bits: str, limits: list[str]
) -> None:
    tool(board, "vcgencmd", f'[ "$1" = get_throttled ] && echo throttled={bits}')

    result = profile(bundle.path, device=here(), protocol=instant, out=tmp_path / "r.json")

    assert result.state_before is not None
    assert result.state_before.facts["get_throttled"] == bits
    found = [limit.partition(" (")[0] for limit in result.state_before.throttling]
    assert found == limits
    told = [reason for reason in result.reasons if reason.message.startswith("the device says")]
    assert len(told) == 2 * len(limits)  # before and after
    assert all(reason.code == "throttled" and reason.invalidates for reason in told)


def test_what_throttled_during_the_run_alone_is_seen_by_the_bits_since_boot(
    board: Board, bundle: Bundle, instant: str, tmp_path: Path
) -> None:
    count = tmp_path / "count"
    script = f'echo x >> {count}; [ "$(wc -l < {count})" -gt 2 ] && echo throttled=0x40000 '
    tool(board, "vcgencmd", f"{script}|| echo throttled=0x0")

    result = profile(bundle.path, device=here(), protocol=instant, out=tmp_path / "r.json")

    assert result.state_after is not None
    assert result.state_after.throttling == [
        "throttled during the run (vcgencmd get_throttled 0x40000)"
    ]


@pytest.mark.slow
def test_a_slow_clean_up_does_not_take_the_measurement_along(
    board: Board, bundle: Bundle, instant: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    # It was a traceback, and the measurement was gone.
    monkeypatch.setattr(ssh_module, "_REMOVE_SECONDS", 0.2)
    slow = STAND_IN.replace(
        'exec sh -c "$1"', 'case "$1" in *rmtree*) sleep 2;; esac\nexec sh -c "$1"'
    )
    board.install(slow.replace("import glob", "import glob"))

    result = profile(bundle.path, device=here(), protocol=instant, out=tmp_path / "r.json")

    assert read_result(tmp_path / "r.json") == result
    assert "takes long; the next run removes it" in capsys.readouterr().err


@pytest.mark.slow
def test_what_killed_runs_left_on_the_device_is_removed_by_the_next(
    board: Board, bundle: Bundle, instant: str, tmp_path: Path
) -> None:
    dead, alive, new = (board.tmp / f"edgeseed-{name}" for name in ("dead", "alive", "new"))
    for folder, owner in ((dead, "999999999"), (alive, str(os.getpid())), (new, None)):
        folder.mkdir()
        (folder / "model.onnx").write_bytes(b"a user's model")
        if owner is not None:
            (folder / "owner").write_text(owner)
    (board.tmp / "other").mkdir()

    profile(bundle.path, device=here(), protocol=instant, out=tmp_path / "r.json")

    # One is running, one may be just arriving, one is none of ours.
    assert sorted(path.name for path in board.tmp.iterdir()) == [
        "edgeseed-alive", "edgeseed-new", "other",
    ]  # fmt: skip


@pytest.mark.slow
def test_a_folder_that_waits_for_a_killed_call_is_removed_by_the_next(
    board: Board, bundle: Bundle, instant: str, tmp_path: Path
) -> None:
    # Between copying, measuring and fetching, no process there owns it: it stayed ten minutes.
    ended = subprocess.Popen(["true"])
    ended.wait()
    senders = {
        "killed": f"{machine()} {ended.pid}",
        "running": f"{machine()} {os.getpid()}",
        "elsewhere": f"00000000 {ended.pid}",
    }
    for name, sender in senders.items():
        (board.tmp / f"edgeseed-{name}").mkdir()
        (board.tmp / f"edgeseed-{name}/sender").write_text(sender)

    profile(bundle.path, device=here(), protocol=instant, out=tmp_path / "r.json")

    left = sorted(path.name for path in board.tmp.iterdir())
    assert left == ["edgeseed-elsewhere", "edgeseed-running"]


def test_an_agent_whose_host_is_gone_removes_its_folder(
    board: Board, bundle: Bundle, tmp_path: Path
) -> None:
    # The host is killed without a chance to clean up; the connection breaks with it.
    code = (
        "import sys; from edgeseed.runtime import profile;"
        "from edgeseed.runtime.devices.ssh import SshDevice, SshAddress;"
        "device = SshDevice(SshAddress(host='rpi', user='pi', python=sys.executable));"
        f"profile({str(bundle.path)!r}, device=device, protocol='normal', "
        f"out={str(tmp_path / 'r.json')!r})"
    )
    with subprocess.Popen([sys.executable, "-c", code], stderr=subprocess.DEVNULL) as host:
        deadline = time.monotonic() + 60
        while not list(board.tmp.glob("edgeseed-*/result")) and time.monotonic() < deadline:
            time.sleep(0.05)
        time.sleep(0.5)
        host.kill()
    deadline = time.monotonic() + 20
    while list(board.tmp.iterdir()) and time.monotonic() < deadline:
        time.sleep(0.1)

    assert list(board.tmp.iterdir()) == []


@pytest.mark.slow
def test_numpy_and_the_engine_are_installed_only_when_asked(
    board: Board, bundle: Bundle, instant: str, tmp_path: Path
) -> None:
    # A Python that makes an environment which is this one: no index is asked by a test.
    fake = tmp_path / "python"
    installer = (
        f'[ "$2" = pip ] && echo "$*" >> {tmp_path}/pip.log && exit 0\nexec {sys.executable} "$@"\n'
    )
    (tmp_path / "installed-python").write_text(f"#!/bin/sh\n{installer}")
    (tmp_path / "installed-python").chmod(0o755)
    fake.write_text(
        "#!/bin/sh\n"
        'if [ "$2" = venv ]; then mkdir -p "$3/bin" && '
        f'cp {tmp_path}/installed-python "$3/bin/python"; exit 0; fi\n'
        f'export PYTHONEXECUTABLE="$0"; exec {sys.executable} "$@"\n'
    )
    fake.chmod(0o755)
    script = ssh_module._INSTALL.replace("sys.executable", repr(str(fake)))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(ssh_module, "_INSTALL", script)
        device = SshDevice(SshAddress(host="rpi", user="pi", python=str(fake), install=True))
        result = profile(bundle.path, device=device, protocol=instant, out=tmp_path / "r.json")

    assert result.latency is not None
    assert "install --quiet --no-cache-dir numpy onnxruntime" in (tmp_path / "pip.log").read_text()
    assert list(board.tmp.iterdir()) == []


@pytest.mark.parametrize(
    ("engine", "packages"), [("onnxruntime", ("onnxruntime",)), ("litert", ("ai-edge-litert",))]
)
def test_the_packages_of_the_jobs_own_engine_are_installed(
    engine: str, packages: tuple[str, ...], tmp_path: Path
) -> None:
    job = Job(
        engine=engine, model="model", unit="cpu", threads=1, protocol="quick", min_runs=1,
        min_seconds=1, max_seconds=1, golden_tolerance=1, files={},
    )  # fmt: skip
    job.write(tmp_path / job_file.JOB)

    assert ssh_module._engine_packages(tmp_path) == packages


def test_doctor_looks_into_a_board(board: Board) -> None:
    (board.tmp / "edgeseed-old").mkdir()
    device = f"ssh:pi@rpi?python={sys.executable}"

    diagnosis = doctor(device, device_profile="raspberry-pi-5")

    checks = {check.name: check for check in diagnosis.checks}
    assert checks["python"].found.startswith(sys.version.split()[0])
    assert checks["numpy"].status == checks["onnxruntime"].status == "ok"
    assert "CPU" in checks["onnxruntime"].found
    assert checks["leftovers"].found.startswith("1 folders of earlier runs")
    # This machine is no Raspberry Pi.
    assert checks["profile"].status == "broken"
    assert not diagnosis.healthy


def test_doctor_names_what_a_board_lacks(monkeypatch: pytest.MonkeyPatch) -> None:
    found: dict[str, Any] = {
        "python": "3.6.9", "executable": "/usr/bin/python3", "numpy": None, "onnxruntime": None,
        "tensorrt": None, "units": [], "folder": "/tmp", "free_gb": 0.1, "left": 0,
        "architecture": "aarch64", "model": "NVIDIA Jetson Nano",
    }  # fmt: skip
    monkeypatch.setattr(SshDevice, "probe", lambda self, script: json.dumps(found))

    diagnosis = doctor("ssh:nano")

    checks = {check.name: check for check in diagnosis.checks}
    assert "--device ssh:nano?python=PATH" in checks["python"].fix
    assert "--device ssh:nano?install=venv" in checks["numpy"].fix
    assert checks["disk"].status == "broken"
    assert not diagnosis.healthy


@pytest.mark.parametrize(
    ("stderr", "remedy"),
    [
        ("pi@rpi: Permission denied (publickey).", "ssh-copy-id pi@rpi"),
        ("Host key verification failed.", "connect once by hand, `ssh pi@rpi`"),
        ("@ WARNING: REMOTE HOST IDENTIFICATION HAS CHANGED! @", "ssh-keygen -R rpi"),
        ("ssh: Could not resolve hostname rpi: Name or service not known", "check the spelling"),
        ("ssh: connect to host rpi port 22: Connection refused", "start sshd there"),
        ("ssh: connect to host rpi port 22: Connection timed out", "is it on"),
        ("kex_exchange_identification: read: reset", "kex_exchange_identification"),
    ],
)
def test_an_error_of_ssh_says_what_to_do(
    board: Board, bundle: Bundle, tmp_path: Path, stderr: str, remedy: str
) -> None:
    board.fail(stderr)

    with pytest.raises(WorkError) as caught:
        profile(bundle.path, device=here(), out=tmp_path / "result.json")

    assert remedy in str(caught.value)
    assert str(caught.value).startswith("ssh:pi@rpi: ")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("stderr", "remedy"),
    [
        ("Permission denied (publickey).", "ssh-copy-id -p 2222 pi@rpi"),
        ("Host key verification failed.", "by hand, `ssh -p 2222 pi@rpi`"),
        ("REMOTE HOST IDENTIFICATION HAS CHANGED!", "ssh-keygen -R '[rpi]:2222'"),
    ],
)
def test_a_remedy_names_the_port_of_the_device(
    board: Board, bundle: Bundle, tmp_path: Path, stderr: str, remedy: str
) -> None:
    # ssh-copy-id without it talks to another server, or to none.
    board.fail(stderr)

    with pytest.raises(WorkError) as caught:
        profile(bundle.path, device=here(port=2222), out=tmp_path / "result.json")

    assert remedy in str(caught.value)


def test_an_agent_that_a_signal_ended_is_no_lost_connection(
    board: Board, bundle: Bundle, tmp_path: Path
) -> None:
    python = tmp_path / "python"
    dying = f'case "$1" in *agent.pyz) kill -9 $$;; esac\nexec {sys.executable} "$@"'
    python.write_text(f"#!/bin/sh\n{dying}\n")
    python.chmod(0o755)
    device = SshDevice(SshAddress(host="rpi", user="pi", python=str(python)))

    with pytest.raises(WorkError, match="agent was ended by SIGKILL, as happens when memory runs"):
        profile(bundle.path, device=device, out=tmp_path / "result.json")

    assert list(board.tmp.iterdir()) == []


def test_a_device_without_python_says_how_to_name_one(
    board: Board, bundle: Bundle, tmp_path: Path
) -> None:
    board.fail("sh: 1: python3: not found", code=127)

    with pytest.raises(WorkError, match=r"--device ssh:pi@rpi\?python=PATH"):
        profile(bundle.path, device=here(), out=tmp_path / "result.json")


def test_a_connection_that_breaks_in_the_middle_is_an_error(
    board: Board, bundle: Bundle, tmp_path: Path
) -> None:
    board.install(
        STAND_IN.replace(
            'exec sh -c "$1"',
            """
case "$1" in *agent.pyz*) echo 'client_loop: send disconnect: Broken pipe' >&2; exit 255;; esac
exec sh -c "$1"
""",
        )
    )

    with pytest.raises(WorkError, match="connection or the copying failed: client_loop"):
        profile(bundle.path, device=here(), out=tmp_path / "result.json")

    assert list(board.tmp.iterdir()) == []


def test_a_machine_without_ssh_says_what_to_install(
    bundle: Bundle, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))

    with pytest.raises(MissingDependencyError, match="install the OpenSSH client"):
        profile(bundle.path, device=here(), out=tmp_path / "result.json")


def _link() -> tarfile.TarInfo:
    link = tarfile.TarInfo("link")
    link.type, link.linkname = tarfile.SYMTYPE, "/etc/passwd"
    return link


@pytest.mark.parametrize(
    "member", [tarfile.TarInfo("../outside"), tarfile.TarInfo("/outside"), _link()]
)
def test_an_archive_that_climbs_out_of_its_folder_is_refused(
    tmp_path: Path, member: tarfile.TarInfo
) -> None:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as archive:
        archive.addfile(member)
    (tmp_path / "work").mkdir()
    with pytest.raises(WorkError, match=f"cannot be unpacked .{member.name} is no file or folder"):
        _unpack(buffer.getvalue(), tmp_path / "work")
    assert [path.name for path in tmp_path.rglob("*")] == ["work"]


@pytest.mark.parametrize("name", ["a\0b", "x/../../y", "."])
def test_a_hostile_name_in_an_archive_is_an_error_of_ours(tmp_path: Path, name: str) -> None:
    member = tarfile.TarInfo("harmless")
    member.pax_headers = {"path": name}
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", format=tarfile.PAX_FORMAT) as archive:
        archive.addfile(member)
    (tmp_path / "work").mkdir()
    with pytest.raises(WorkError, match="cannot be unpacked"):
        _unpack(buffer.getvalue(), tmp_path / "work")
    assert [path.name for path in tmp_path.rglob("*")] == ["work"]


def test_what_came_back_is_unpacked(tmp_path: Path) -> None:
    (tmp_path / "there/deep").mkdir(parents=True)
    (tmp_path / "there/deep/engine.plan").write_bytes(b"engine")
    (tmp_path / "there/empty").mkdir()
    (tmp_path / "here").mkdir()
    (tmp_path / "here/job.json").write_text("{}")
    _unpack(_packed(tmp_path / "there"), tmp_path / "here")
    found = {str(path.relative_to(tmp_path / "here")) for path in (tmp_path / "here").rglob("*")}
    assert found == {"deep", "deep/engine.plan", "empty", "job.json", "whole"}
    assert (tmp_path / "here/deep/engine.plan").read_bytes() == b"engine"


# --------------------------------------------------------------------------- the real thing


SSHD = shutil.which("sshd", path="/usr/sbin:/usr/local/sbin:/usr/bin")
needs_sshd = pytest.mark.skipif(SSHD is None, reason="there is no sshd here: openssh-server")


def keygen(path: Path) -> Path:
    command = ["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(path)]
    subprocess.run(command, check=True)
    return path


@pytest.fixture
def sshd(tmp_path: Path) -> Iterator[tuple[int, Path]]:
    """A real server on loopback: its port, and the folder with its keys."""
    folder = tmp_path / "sshd"
    folder.mkdir(mode=0o700)
    host, user = keygen(folder / "host"), keygen(folder / "user")
    shutil.copy(user.with_suffix(".pub"), folder / "authorized_keys")
    (folder / "authorized_keys").chmod(0o600)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = int(free.getsockname()[1])
    (folder / "config").write_text(
        f"Port {port}\nListenAddress 127.0.0.1\nHostKey {host}\nPidFile none\nUsePAM no\n"
        f"AuthorizedKeysFile {folder}/authorized_keys\nStrictModes no\n"
        "PasswordAuthentication no\nPermitRootLogin yes\n"
    )
    Path("/run/sshd").mkdir(exist_ok=True)
    command = [str(SSHD), "-D", "-e", "-f", str(folder / "config")]
    with (folder / "log").open("w") as log, subprocess.Popen(command, stderr=log) as server:
        try:
            _wait_for(port)
            yield port, folder
        finally:
            server.terminate()


def _wait_for(port: int) -> None:
    for _ in range(100):
        with socket.socket() as client:
            if client.connect_ex(("127.0.0.1", port)) == 0:
                return
        time.sleep(0.05)
    raise RuntimeError("sshd did not start")


def connect(
    sshd: tuple[int, Path], *, known: bool = True, key: str = "user", python: str = sys.executable
) -> SshDevice:
    port, folder = sshd
    hosts = folder / "known_hosts"
    public = (folder / "host.pub").read_text()
    hosts.write_text(f"[127.0.0.1]:{port} {public}" if known else "")
    options = ("-F", "none", "-i", str(folder / key), "-o", f"UserKnownHostsFile={hosts}",
               "-o", "GlobalKnownHostsFile=/dev/null", "-o", "IdentitiesOnly=yes")  # fmt: skip
    address = SshAddress(host="127.0.0.1", user=getpass.getuser(), port=port, python=python)
    return SshDevice(address, options=options)


@pytest.mark.ssh
@needs_sshd
def test_a_bundle_is_profiled_through_a_real_server(
    sshd: tuple[int, Path], bundle: Bundle, instant: str, tmp_path: Path
) -> None:
    out = tmp_path / "result.json"

    result = profile(bundle.path, device=connect(sshd), protocol=instant, out=out)

    assert result.latency is not None
    assert result.latency.n >= 8
    assert result.accuracy is not None
    assert result.accuracy.n == 12
    assert result.device.device.startswith("ssh:")


@pytest.mark.ssh
@pytest.mark.slow
@needs_sshd
@pytest.mark.skipif(
    "EDGESEED_ARM64_USERLAND" not in os.environ,
    reason="EDGESEED_ARM64_USERLAND names no userland of benchmarks/arm_numerics.py",
)
def test_an_arm_interpreter_behind_a_real_server_gives_the_golden_outputs(
    sshd: tuple[int, Path], bundle: Bundle, instant: str, tmp_path: Path
) -> None:
    # Emulated: it says what is computed, and nothing of speed.
    python = os.environ["EDGESEED_ARM64_USERLAND"] + "/python"
    device = connect(sshd, python=python)
    before = set(Path(tempfile.gettempdir()).glob("edgeseed-*"))

    result = profile(
        bundle.path, device=device, device_profile="generic-arm", protocol=instant,
        out=tmp_path / "r.json",
    )  # fmt: skip

    assert result.device.machine.architecture == "aarch64"
    assert result.golden is not None
    assert max(result.golden.relative_error.values()) < 1e-5
    assert result.accuracy is not None
    assert result.accuracy.top1 is not None
    assert set(Path(tempfile.gettempdir()).glob("edgeseed-*")) <= before
    conformance.plant_wrong_golden_outputs(bundle)
    with pytest.raises(GateError, match="does not give its golden outputs"):
        profile(bundle.path, device=device, protocol=instant, out=tmp_path / "wrong.json")


# A build without a server is in tests/runtime/test_tensorrt_build.py, a server without one above.
@pytest.mark.slow
@pytest.mark.ssh
@needs_sshd
def test_an_engine_is_built_and_profiled_through_a_real_server(
    sshd: tuple[int, Path], tensorrt_bundle: Any, nvidia: Any, instant: str, tmp_path: Path
) -> None:
    bundle = tensorrt_bundle()
    device = connect(sshd, python=str(nvidia.python(tmp_path / "python")))

    built = build(bundle.path, device=device)

    assert built.device.startswith("ssh:")
    assert Path(built.engine).stat().st_size == built.record.size_bytes
    read_bundle(bundle.path)
    result = profile(
        bundle.path, device=device, device_profile="jetson-agx-orin", protocol=instant,
        out=tmp_path / "result.json",
    )  # fmt: skip
    assert result.engine.settings["gpu"] == "Orin"


@pytest.mark.ssh
@needs_sshd
def test_an_unknown_host_key_is_never_accepted(
    sshd: tuple[int, Path], bundle: Bundle, tmp_path: Path
) -> None:
    with pytest.raises(WorkError, match="its host key is not known: connect once by hand"):
        profile(bundle.path, device=connect(sshd, known=False), out=tmp_path / "result.json")


@pytest.mark.ssh
@needs_sshd
def test_a_changed_host_key_is_never_accepted(
    sshd: tuple[int, Path], bundle: Bundle, tmp_path: Path
) -> None:
    device = connect(sshd)
    other = keygen(tmp_path / "other").with_suffix(".pub").read_text()
    (sshd[1] / "known_hosts").write_text(f"[127.0.0.1]:{sshd[0]} {other}")

    with pytest.raises(WorkError, match=r"not the one in known_hosts.*ssh-keygen -R"):
        profile(bundle.path, device=device, out=tmp_path / "result.json")


@pytest.mark.ssh
@needs_sshd
def test_a_key_that_is_not_accepted_says_how_to_install_it(
    sshd: tuple[int, Path], bundle: Bundle, tmp_path: Path
) -> None:
    keygen(sshd[1] / "stranger")

    with pytest.raises(WorkError, match="ssh-copy-id"):
        profile(bundle.path, device=connect(sshd, key="stranger"), out=tmp_path / "result.json")


@pytest.mark.skipif(not Path("/proc/self/cmdline").exists(), reason="needs Linux's /proc")
@pytest.mark.parametrize("listens", [True, pytest.param(False, marks=pytest.mark.slow)])
def test_what_would_write_a_removed_folder_anew_is_ended_first(
    tmp_path: Path, listens: bool
) -> None:
    # Its agent still ran, or the copy had not begun: the folder came back after it was removed.
    name = f"edgeseed-{tmp_path.name}"
    writer = (
        "import os, signal, sys, time\n"
        f"signal.signal(signal.SIGTERM, signal.SIG_{'DFL' if listens else 'IGN'})\n"
        "while True:\n"
        "    os.makedirs(sys.argv[1], exist_ok=True)\n"
        "    open(os.path.join(sys.argv[1], 'owner'), 'w').close()\n"
        "    print('there', flush=True)\n"
        "    time.sleep(0.01)\n"
    )
    folder = tmp_path / name
    with subprocess.Popen(
        [sys.executable, "-c", writer, str(folder)], stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "there\n"
        done = subprocess.run(
            [sys.executable, "-c", ssh_module._REMOVE, name],
            env={**os.environ, "TMPDIR": str(tmp_path)}, check=False,
        )  # fmt: skip
        alive = process.poll() is None
        process.kill()
    assert done.returncode == 0
    assert not alive
    assert not folder.exists()


@pytest.mark.parametrize("ending", [SystemExit(143), KeyboardInterrupt()])
def test_a_signal_while_the_folder_is_removed_does_not_leave_it(
    ending: BaseException, monkeypatch: pytest.MonkeyPatch
) -> None:
    # It came in the last tenth of a second of a run that had all: the folder stayed on the board.
    device = SshDevice(parse_address("board"))
    asked: list[str] = []

    def removing(*folders: str) -> None:
        asked.extend(folders)
        if len(asked) == 1:
            raise ending

    monkeypatch.setattr(device, "_remove_once", removing)
    with pytest.raises(type(ending)):
        device._remove("/tmp/edgeseed-1")
    assert asked == ["/tmp/edgeseed-1"] * 2
