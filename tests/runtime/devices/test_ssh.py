"""ssh against a stand-in on PATH that runs commands here, and against a real sshd on loopback."""

import getpass
import io
import os
import shutil
import socket
import subprocess
import sys
import tarfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from edgeseed.core.bundle import Bundle, read_bundle
from edgeseed.core.errors import ConfigError, MissingDependencyError, WorkError
from edgeseed.runtime import build, profile
from edgeseed.runtime.devices import open_device
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
        ("pi@[fe80::1]:22", SshAddress(host="[fe80::1]", user="pi", port=22)),
    ],
)
def test_addresses_are_read(text: str, address: SshAddress) -> None:
    assert parse_address(text) == address


@pytest.mark.parametrize(
    "text",
    ["", "@host", "-oProxyCommand=touch /tmp/x", "a b", "host:", "host;rm -rf /", "u@-h", "h?py=3"],
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
    assert found == {"deep", "deep/engine.plan", "empty", "job.json"}
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

    assert result.latency.n >= 8
    assert result.accuracy is not None
    assert result.accuracy.n == 12
    assert result.device.device.startswith("ssh:")


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
