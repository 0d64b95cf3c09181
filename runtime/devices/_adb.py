"""The system's adb client: which phone, commands on it, and its errors in plain words."""

import contextlib
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

from edgeseed.core.errors import MissingDependencyError, WorkError

_SECONDS = 30
_TRANSFER_SECONDS = 600
# What `adb devices` calls a phone that is there and cannot be used -> what to do about it.
_STATES = {
    "unauthorized": "it does not trust this computer yet: unlock it and accept the question on "
    "its screen",
    "offline": "it does not answer: unplug it and plug it in again, or restart adb by "
    "`adb kill-server`",
    "no permissions": "this user may not open its USB device: add the udev rule that "
    "developer.android.com/studio/run/device names, and plug it in again",
    "recovery": "it is in recovery mode: start it normally",
    "sideload": "it is in sideload mode: start it normally",
    "bootloader": "it is in its bootloader: start it normally",
}
_NO_PHONE = "connect one by USB and turn on USB debugging in its developer options"
# What the client says when a phone went away in the middle of something.
_GONE = ("device not found", "not found", "device offline", "no devices/emulators", "closed",
         "connection reset", "protocol fault")  # fmt: skip


_TAKE_BACK = "import subprocess, sys; sys.stdin.read(); subprocess.run(sys.argv[1:], timeout=20)"


class Adb:
    """One phone, by its serial number.

    Args:
        serial: as `adb devices` lists it; None for the only one.

    Raises:
        MissingDependencyError: If there is no adb.
        WorkError: If there is no such phone, or it cannot be used; the message says what to do.
    """

    def __init__(self, serial: str | None) -> None:
        if shutil.which("adb") is None:
            raise MissingDependencyError(
                "--device adb needs adb, which is not on the PATH; install Android's platform-tools"
            )
        self.serial = _choose(serial)
        self.name = f"adb:{self.serial}"

    def command(self, *words: str) -> list[str]:
        """A client's command line for this phone."""
        return ["adb", "-s", self.serial, *words]

    def shell(self, line: str, *, seconds: float = _SECONDS) -> str:
        """Standard output of a line on the phone, whatever its exit code was.

        Raises:
            WorkError: If the phone went away.
        """
        done = self._run("shell", line, seconds=seconds)
        self._check_there(done)
        return done.stdout.replace("\r\n", "\n")

    def must(self, *words: str, seconds: float = _SECONDS) -> str:
        """Standard output of a client's command that has to succeed.

        Raises:
            WorkError: If it fails; its last line is told.
        """
        done = self._run(*words, seconds=seconds)
        if done.returncode != 0:
            self._check_there(done)
            raise WorkError(f"{self.name}: `adb {words[0]}` failed: {_last_line(done)}")
        return done.stdout

    def push(self, files: list[Path], folder: str) -> None:
        """Copy files into a folder on the phone."""
        self.must("push", *map(str, files), folder + "/", seconds=_TRANSFER_SECONDS)

    @contextlib.contextmanager
    def reversed_port(self, port: str) -> Iterator[None]:
        """Bring connections to the phone's `port`, such as `tcp:8000`, to that of this machine.

        A process of its own takes it back at the end of the block, and as well when this one is
        killed: it waits for the end of a pipe.
        """
        self.must("reverse", port, port)
        command = [sys.executable, "-c", _TAKE_BACK, *self.command("reverse", "--remove", port)]
        with subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
            start_new_session=True,
        ) as guard:  # fmt: skip
            assert guard.stdin is not None
            try:
                yield
            finally:
                guard.stdin.close()
                try:
                    guard.wait(_SECONDS)
                except subprocess.TimeoutExpired:  # the phone is gone, and the port with it
                    guard.kill()

    def check_connected(self) -> None:
        """Raise if the phone is gone."""
        done = self._run("get-state", seconds=_SECONDS)
        if done.returncode != 0 or done.stdout.strip() != "device":
            raise self.lost()

    def _run(self, *words: str, seconds: float) -> subprocess.CompletedProcess[str]:
        try:
            return subprocess.run(
                self.command(*words), stdin=subprocess.DEVNULL, capture_output=True, text=True,
                encoding="utf-8", errors="replace", timeout=seconds, check=False,
            )  # fmt: skip
        except subprocess.TimeoutExpired as error:
            raise WorkError(
                f"{self.name}: `adb {words[0]}` took more than {seconds:.0f} s; is the phone awake?"
            ) from error

    def _check_there(self, done: subprocess.CompletedProcess[str]) -> None:
        text = done.stderr.lower()
        if done.returncode != 0 and any(sign in text for sign in _GONE):
            raise self.lost()

    def lost(self) -> WorkError:
        """The error for a phone that went away."""
        return WorkError(
            f"{self.name}: the phone is gone in the middle of the run: was it unplugged? Its "
            "settings are put back by itself; connect it and run again"
        )


def _choose(serial: str | None) -> str:
    states = _devices()
    if serial is None:
        if not states:
            raise WorkError(f"adb sees no phone: {_NO_PHONE}")
        if len(states) > 1:
            raise WorkError(
                f"adb sees {len(states)} phones; say which one: "
                + " or ".join(f"--device adb:{name}" for name in states)
            )
        serial = next(iter(states))
    if serial not in states:
        seen = f"it sees {', '.join(states)}" if states else _NO_PHONE
        raise WorkError(f"adb sees no phone {serial}; {seen}")
    state = states[serial]
    if state != "device":
        remedy = next((text for sign, text in _STATES.items() if state.startswith(sign)), None)
        raise WorkError(f"adb:{serial}: {remedy or f'adb says that it is {state!r}'}")
    return serial


def _devices() -> dict[str, str]:
    """Serial number -> state, as `adb devices` lists them."""
    try:
        done = subprocess.run(
            ["adb", "devices"], stdin=subprocess.DEVNULL, capture_output=True, text=True,
            timeout=_SECONDS, check=False,
        )  # fmt: skip
    except subprocess.TimeoutExpired as error:
        raise WorkError("`adb devices` does not answer; run `adb kill-server`") from error
    if done.returncode != 0:
        raise WorkError(f"`adb devices` failed: {_last_line(done)}")
    rows = (line.split("\t", 1) for line in done.stdout.splitlines() if "\t" in line)
    return {serial: state.strip() for serial, state in rows}


def _last_line(done: subprocess.CompletedProcess[str]) -> str:
    text = (done.stderr.strip() or done.stdout.strip()).rpartition("\n")[2]
    return text or "it said nothing"
