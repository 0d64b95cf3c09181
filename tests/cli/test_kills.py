"""SIGKILL, SIGTERM and SIGHUP at random moments: nothing saved is lost, nothing is left over.

One moment of each kind by default. `EDGESEED_KILLS=50 pytest -m slow -n 0 -s FILE` takes 50 of each
kind and prints how the calls ended.
"""

import getpass
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file
from support.killing import SIGNALS, Call, leftovers, moments, run, wait_until_empty
from support.students import save_untrained_student

from edgeseed.core.bundle import read_bundle
from edgeseed.runtime import latency, read_result

KILLS = int(os.environ.get("EDGESEED_KILLS", "1"))
SIZE = 32
SSHD = shutil.which("sshd", path="/usr/sbin:/usr/local/sbin:/usr/bin")
ENDED = {signal.SIGKILL: {-9}, signal.SIGTERM: {143, 130, -15}, signal.SIGHUP: {129, 130, -1}}
"""Exit codes of a call that a signal ended; 130 is a training that saved its state.

In its first moment, before it listens, the signal ends it at once: a shell says 143 to that too.
"""

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not hasattr(os, "fork"), reason="this system cannot fork"),
    # Python warns of threads in what is forked; torch's are idle here.
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),
]
a_signal = pytest.mark.parametrize("sign", SIGNALS, ids=lambda sign: sign.name)


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Photos, a teacher, a student, a bundle of it, and an empty folder for temporary files.

    `seconds` holds how long a whole export takes.
    """
    root = tmp_path_factory.mktemp("kills")
    rng = np.random.default_rng(0)
    (root / "photos").mkdir()
    for index in range(64):
        pixels = rng.integers(0, 255, (SIZE, SIZE, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(root / f"photos/{index:02}.png")
    for name in ("test_resnet", "test_efficientnet"):
        save_untrained_student(root / f"{name}.safetensors", name, size=SIZE)
    (root / "tmp").mkdir()
    call = run(export_words(root, root / "kept"), log=root / "log", environment=here(root))
    assert call.code == 0, call.log
    (root / "seconds").write_text(str(call.seconds))
    return root


def here(root: Path) -> dict[str, str]:
    return {"TMPDIR": str(root / "tmp")}


def shortly(seconds: float, sign: signal.Signals, what: str) -> list[float]:
    return moments(KILLS, longest=seconds, seed=sum(what.encode()) + sign)


def report(
    capsys: pytest.CaptureFixture[str], what: str, ends: Counter[int], seconds: float
) -> None:
    with capsys.disabled():
        if KILLS > 1:
            codes = ", ".join(f"{code}: {count}" for code, count in sorted(ends.items()))
            print(f"\n{what}: exit codes {codes}; whole call {seconds:.1f} s")


def check_end(call: Call, sign: signal.Signals, root: Path, *places: Path) -> None:
    """It ended as the signal says or was done before; of two signals nothing is left at once."""
    assert call.code in {0, *ENDED[sign]}, call.log
    assert "Traceback" not in call.log
    if sign != signal.SIGKILL:
        assert leftovers(root / "tmp", *places) == [], call.log


# --------------------------------------------------------------------------- distill


def distill_words(root: Path, out: Path) -> list[str]:
    return [
        "distill", "--method", "regress", "--data", str(root / "photos"), "--out", str(out),
        "--teacher", str(root / "test_resnet.safetensors"), "--student", "test_efficientnet",
        "--devices", "cpu", "--epochs", "6", "--image-size", str(SIZE), "--batch-size", "16",
    ]  # fmt: skip


@pytest.fixture(scope="module")
def trained(world: Path) -> tuple[dict[str, torch.Tensor], float]:
    """What a run that nobody ends gives, and how long it takes."""
    out = world / "whole"
    call = run(distill_words(world, out), log=world / "log", environment=here(world))
    assert call.code == 0, call.log
    return load_file(out / "student.safetensors"), call.seconds


def saved_step(out: Path) -> int:
    if not (out / "state.pt").is_file():
        return 0
    return int(torch.load(out / "state.pt", weights_only=True)["step"])


@a_signal
def test_a_training_that_is_killed_goes_on_and_ends_alike(
    world: Path, trained: tuple[dict[str, torch.Tensor], float], sign: signal.Signals,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    expected, seconds = trained
    ends: Counter[int] = Counter()
    for number, moment in enumerate(shortly(seconds, sign, "distill")):
        out = world / f"run-{sign}-{number}"
        words = distill_words(world, out)
        killed = run(words, log=world / "log", environment=here(world), sign=sign, after=moment)
        ends[killed.code] += 1
        check_end(killed, sign, world, out, out.parent)
        step = saved_step(out)  # a state that is there is whole
        if killed.code != 0:
            resume = ["--resume"] if (out / "config.toml").is_file() else []
            then = run([*words, *resume], log=world / "log", environment=here(world))
            assert then.code == 0, then.log
            if step:
                assert f"going on after step {step} of 24" in then.log
        assert leftovers(world / "tmp", out, world) == []
        student = load_file(out / "student.safetensors")
        assert all(torch.equal(student[name], expected[name]) for name in expected)
        lines = (out / "metrics.jsonl").read_text().splitlines()
        steps = [json.loads(line)["step"] for line in lines]
        assert steps == sorted(set(steps))
        shutil.rmtree(out)
    report(capsys, f"distill, {sign.name}", ends, seconds)


# --------------------------------------------------------------------------- export


def export_words(root: Path, out: Path) -> list[str]:
    return [
        "export", str(root / "test_efficientnet.safetensors"), "--target", "onnx",
        "--precision", "fp32", "--calibration", str(root / "photos"), "--out", str(out),
    ]  # fmt: skip


@a_signal
def test_an_export_that_is_killed_leaves_a_whole_bundle_or_none(
    world: Path, sign: signal.Signals, capsys: pytest.CaptureFixture[str]
) -> None:
    seconds = float((world / "seconds").read_text())
    kept = read_bundle(world / "kept").digest
    ends: Counter[int] = Counter()
    for number, moment in enumerate(shortly(seconds, sign, "export")):
        out = world / f"bundle-{sign}-{number}"
        words = export_words(world, out)
        killed = run(words, log=world / "log", environment=here(world), sign=sign, after=moment)
        ends[killed.code] += 1
        check_end(killed, sign, world, world)
        if out.exists():
            read_bundle(out)  # every file has its digest
        else:
            then = run(words, log=world / "log", environment=here(world))
            assert then.code == 0, then.log
        assert read_bundle(out).digest == kept
        assert read_bundle(world / "kept").digest == kept
        if leftovers(world / "tmp", world):
            # The whole bundle was there before the signal: no call has followed that sweeps.
            then = run(["verify", str(out)], log=world / "log", environment=here(world))
            assert then.code == 0, then.log
        assert leftovers(world / "tmp", world) == []
        shutil.rmtree(out)
    report(capsys, f"export, {sign.name}", ends, seconds)


# --------------------------------------------------------------------------- profile by ssh


@dataclass(frozen=True)
class Board:
    """A real sshd on loopback, with a folder for temporary files of its own."""

    device: str
    path: str
    tmp: Path


@pytest.fixture(scope="module")
def board(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Board]:
    if SSHD is None:
        pytest.skip("there is no sshd here: openssh-server")
    folder = tmp_path_factory.mktemp("sshd")
    folder.chmod(0o700)
    for name in ("host", "user"):
        command = ["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(folder / name)]
        subprocess.run(command, check=True)
    shutil.copy(folder / "user.pub", folder / "authorized_keys")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = int(free.getsockname()[1])
    (folder / "config").write_text(
        f"Port {port}\nListenAddress 127.0.0.1\nHostKey {folder}/host\nPidFile none\nUsePAM no\n"
        f"AuthorizedKeysFile {folder}/authorized_keys\nStrictModes no\nMaxStartups 100\n"
        "PasswordAuthentication no\nPermitRootLogin yes\n"
    )
    public = (folder / "host.pub").read_text()
    (folder / "known_hosts").write_text(f"[127.0.0.1]:{port} {public}")
    (folder / "client").write_text(
        f"IdentityFile {folder}/user\nIdentitiesOnly yes\nUserKnownHostsFile {folder}/known_hosts\n"
        "GlobalKnownHostsFile /dev/null\n"
    )
    (folder / "bin").mkdir()
    (folder / "tmp").mkdir()
    scripts = {
        "ssh": f'exec {shutil.which("ssh")} -F {folder}/client "$@"',
        "python": f'export TMPDIR={folder}/tmp OMP_NUM_THREADS=1; exec {sys.executable} "$@"',
    }
    for name, script in scripts.items():
        (folder / "bin" / name).write_text(f"#!/bin/sh\n{script}\n")
        (folder / "bin" / name).chmod(0o755)
    Path("/run/sshd").mkdir(exist_ok=True)
    command = [SSHD, "-D", "-e", "-f", str(folder / "config")]
    with (folder / "log").open("w") as log, subprocess.Popen(command, stderr=log) as server:
        try:
            _wait_for(port)
            yield Board(
                f"ssh:{getpass.getuser()}@127.0.0.1:{port}?python={folder}/bin/python",
                f"{folder}/bin{os.pathsep}{os.environ['PATH']}",
                folder / "tmp",
            )
        finally:
            server.terminate()


def _wait_for(port: int) -> None:
    for _ in range(200):
        with socket.socket() as client:
            if client.connect_ex(("127.0.0.1", port)) == 0:
                return
        time.sleep(0.05)
    raise RuntimeError("sshd did not start")


SHORT = latency.LatencyProtocol("rapid", min_runs=8, min_seconds=0.3, max_seconds=5)


def profile_words(world: Path, board: Board, out: Path) -> list[str]:
    return [
        "profile", str(world / "kept"), "--device", board.device, "--protocol", "rapid",
        "--data", str(world / "photos"), "--out", str(out),
    ]  # fmt: skip


@pytest.fixture(scope="module")
def measured(world: Path, board: Board) -> tuple[Path, float]:
    """A result of a measurement that nobody ends, and how long it takes."""
    out = world / "kept.json"
    environment = {**here(world), "PATH": board.path}
    call = run(
        profile_words(world, board, out), log=world / "log", environment=environment,
        protocols={"rapid": SHORT},
    )  # fmt: skip
    assert call.code == 0, call.log
    return out, call.seconds


# A server and two measurements. In tests/runtime/devices/test_ssh.py an agent whose host is gone
# removes its folder, and what killed runs left is removed by the next.
@pytest.mark.slow
@pytest.mark.ssh
@a_signal
def test_a_measurement_by_ssh_that_is_killed_leaves_nothing_on_either_side(
    world: Path, board: Board, measured: tuple[Path, float], sign: signal.Signals,
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    monkeypatch.setitem(latency.PROTOCOLS, "rapid", SHORT)  # to read the results here
    environment = {**here(world), "PATH": board.path}
    kept, whole = measured
    before = kept.read_bytes()
    ends: Counter[int] = Counter()
    for number, moment in enumerate(shortly(whole, sign, "profile")):
        out = world / f"result-{sign}-{number}.json"
        killed = run(
            profile_words(world, board, out), log=world / "log", environment=environment,
            sign=sign, after=moment, protocols={"rapid": SHORT},
        )  # fmt: skip
        ends[killed.code] += 1
        check_end(killed, sign, world, world)
        if sign != signal.SIGKILL:
            assert wait_until_empty(board.tmp, seconds=20) == []
        if out.exists():
            read_result(out)
        then = run(
            profile_words(world, board, world / "next.json"),
            log=world / "log",
            environment=environment,
            protocols={"rapid": SHORT},
        )
        assert then.code == 0, then.log
        read_result(world / "next.json")
        (world / "next.json").unlink()
        out.unlink(missing_ok=True)
        assert leftovers(world / "tmp", world) == []
        assert wait_until_empty(board.tmp, seconds=20) == []
        assert kept.read_bytes() == before
    report(capsys, f"profile by ssh, {sign.name}", ends, whole)
