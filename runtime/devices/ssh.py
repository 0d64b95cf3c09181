"""A board or computer that OpenSSH reaches: `ssh:[USER@]HOST[:PORT][?python=PATH&install=venv]`.

The system's own `ssh` is used, so that `~/.ssh/config`, keys, agents and jump hosts work as they
do by hand. Nothing is asked: a host key that is not known, or a key that is not accepted, is an
error that says what to do once by hand. The device needs Python 3.8 or newer with numpy and the
engine; `?python=` names the one to use, such as that of a virtual environment. `?install=venv`
makes a throw-away environment there for this run, with numpy and the engine from the index that the
device's pip is set to; without it nothing is ever installed.
"""

import io
import os
import re
import secrets
import shlex
import shutil
import subprocess
import tarfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Self
from urllib.parse import parse_qsl

from edgeseed.core.console import say, warn
from edgeseed.core.errors import ConfigError, MissingDependencyError, WorkError
from edgeseed.core.processes import is_running, machine
from edgeseed.runtime.agent import job_file
from edgeseed.runtime.agent.device import AgentDevice
from edgeseed.runtime.device import Ended
from edgeseed.runtime.devices._process import stream
from edgeseed.runtime.engines import ENGINES

_ADDRESS = re.compile(
    r"(?:(?P<user>[A-Za-z0-9_][A-Za-z0-9_.-]*)@)?"
    r"(?P<host>[A-Za-z0-9_](?:[A-Za-z0-9_.-]*[A-Za-z0-9_])?|\[[0-9A-Fa-f:.]+\])"
    r"(?::(?P<port>\d{1,5}))?"
    r"(?:\?(?P<options>[^?\s]+))?"
)
_CONNECT_SECONDS = 15
_TRANSFER_SECONDS = 600
_REMOVE_SECONDS = 30
_OPTIONS = (
    "-T",
    "-o", "BatchMode=yes",
    "-o", f"ConnectTimeout={_CONNECT_SECONDS}",
    "-o", "ServerAliveInterval=10",
    "-o", "ServerAliveCountMax=3",
)  # fmt: skip
_SSH_FAILED = 255
_SSH_PORT = 22

# Python, because the device has it in any case; tar and mktemp differ between systems. The mark
# parts what these print from what a chatty .bashrc printed before.
_MARK = b"\0edgeseed\0"
_PRINT_MARK = 'sys.stdout.buffer.write(b"\\0edgeseed\\0"); sys.stdout.flush()'
# Folders of runs whose agent is gone or never came, as killed hosts and broken links leave them.
# Those that wait for their host, to be worked in or to be fetched, are listed for this host to say
# whether the process that sent them still runs.
_SWEEP = """
def left(folder):
    if os.stat(folder).st_uid != os.getuid():
        return False
    try:
        with open(os.path.join(folder, "owner")) as file:
            os.kill(int(file.read()), 0)
        return False
    except ProcessLookupError:
        return True
    except (OSError, ValueError):
        return time.time() - os.stat(folder).st_mtime > 600
def works(folder):
    try:
        with open(os.path.join(folder, "owner")) as file:
            os.kill(int(file.read()), 0)
        return True
    except (OSError, ValueError):
        return False
def sender(folder):
    if os.stat(folder).st_uid != os.getuid() or works(folder):
        return None
    with open(os.path.join(folder, "sender")) as file:
        machine, process = file.read().split()
    return process if machine == sys.argv[1] else None
waiting = []
for old in glob.glob(os.path.join(tempfile.gettempdir(), "edgeseed-*")):
    try:
        if os.path.isdir(old) and not os.path.islink(old):
            if left(old):
                shutil.rmtree(old, ignore_errors=True)
            elif sender(old):
                waiting.append("%s %s" % (sender(old), old))
    except (OSError, ValueError):
        pass
"""
_RECEIVE = f"""
import glob, os, shutil, sys, tarfile, tempfile, time
{_SWEEP}
folder = os.path.join(tempfile.gettempdir(), sys.argv[3])
os.mkdir(folder, 0o700)
try:
    with open(os.path.join(folder, "sender"), "w") as file:
        file.write(" ".join(sys.argv[1:3]))
    with tarfile.open(fileobj=sys.stdin.buffer, mode="r|") as archive:
        archive.extractall(folder)
    os.stat(os.path.join(folder, "{job_file.WHOLE}"))
    {_PRINT_MARK}
    print(folder)
    print("\\n".join(waiting))
    sys.stdout.flush()
except BaseException:
    # A full disk must not stay full; and a host that was ended sends half, or does not listen.
    shutil.rmtree(folder, ignore_errors=True)
    raise
"""
_SEND = f"""
import sys, tarfile
{_PRINT_MARK}
with tarfile.open(fileobj=sys.stdout.buffer, mode="w|") as archive:
    archive.add(sys.argv[1] + "/result", "result")
"""
# An agent that still runs, or a copy that has not yet begun, would write the folder anew: whatever
# has the folder's name among its words is ended first. The first line tells this script from those.
_REMOVE = """# edgeseed remover
import glob, os, shutil, signal, sys, tempfile, time
def users(name):
    found = []
    for path in glob.glob("/proc/[0-9]*/cmdline"):
        try:
            with open(path, "rb") as file:
                words = file.read()
        except OSError:
            continue
        if name.encode() in words and b"# edgeseed remover" not in words:
            found.append(int(path.split("/")[2]))
    return found
for name in sys.argv[1:]:
    folder = os.path.join(tempfile.gettempdir(), name)
    begun = time.time()
    while True:
        others = users(os.path.basename(name))
        patient = time.time() - begun < 5
        for number in others:
            try:
                os.kill(number, signal.SIGTERM if patient else signal.SIGKILL)
            except OSError:
                pass
        shutil.rmtree(folder, ignore_errors=True)
        if not others and not os.path.exists(folder) or time.time() - begun > 10:
            break
        time.sleep(0.1)
"""

_INSTALL = f"""
import subprocess, sys
folder, *packages = sys.argv[1:]
subprocess.run([sys.executable, "-m", "venv", folder], check=True, stdout=sys.stderr)
install = [folder + "/bin/python", "-m", "pip", "install", "--quiet", "--no-cache-dir"]
subprocess.run(install + packages, check=True, stdout=sys.stderr)
{_PRINT_MARK}
"""

# What ssh says -> what to do about it. `{at}` is the destination.
_REMEDIES = (
    ("REMOTE HOST IDENTIFICATION HAS CHANGED",
     "its host key is not the one in known_hosts: if the device was set up anew, forget the old "
     "one with `ssh-keygen -R {known}` and connect once by hand"),
    ("Host key verification failed",
     "its host key is not known: connect once by hand, `ssh {port}{at}`, and compare the "
     "fingerprint"),
    ("Permission denied",
     "it does not accept your key: install it with `ssh-copy-id {port}{at}`"),
    ("Could not resolve hostname",
     "there is no host of this name: check the spelling, or add it to ~/.ssh/config"),
    ("Connection refused",
     "it is on, but no SSH server answers: start sshd there, or give its port, ssh:{at}:PORT"),
    ("timed out", "it does not answer: is it on, and in this network?"),
    ("No route to host", "it does not answer: is it on, and in this network?"),
)  # fmt: skip


@dataclass(frozen=True, kw_only=True, slots=True)
class SshAddress:
    """Where to connect to, and which Python to use there."""

    host: str
    user: str | None = None
    port: int | None = None
    python: str = "python3"
    install: bool = False
    """Whether to make a throw-away environment with numpy and the engine there."""

    @property
    def destination(self) -> str:
        """What `ssh` calls it."""
        host = self.host.strip("[]")
        return host if self.user is None else f"{self.user}@{host}"


def parse_address(text: str) -> SshAddress:
    """Read `[USER@]HOST[:PORT][?python=PATH&install=venv]`.

    Raises:
        ConfigError: If it is not of that form.
    """
    match = _ADDRESS.fullmatch(text)
    if match is None:
        raise ConfigError(_not_understood(text))
    port = None if match["port"] is None else int(match["port"])
    if port is not None and not 0 < port < 65536:
        raise ConfigError(f"--device ssh:{text}: port {port} is not between 1 and 65535")
    options = dict(parse_qsl(match["options"] or "", keep_blank_values=True))
    if not set(options) <= {"python", "install"} or (match["options"] and not options):
        raise ConfigError(_not_understood(text))
    if options.get("install", "venv") != "venv":
        raise ConfigError(f"--device ssh:{text}: install={options['install']} is not venv")
    if not options.get("python", "python3"):
        raise ConfigError(_not_understood(text))
    return SshAddress(
        host=match["host"],
        user=match["user"],
        port=port,
        python=options.get("python", "python3"),
        install="install" in options,
    )


def _not_understood(text: str) -> str:
    return (
        f"--device ssh:{text} is not understood; write "
        "ssh:[USER@]HOST[:PORT][?python=PATH&install=venv], such as ssh:pi@raspberrypi"
    )


class SshDevice(AgentDevice):
    """Copies the work folder there, runs the agent, and copies the result back.

    Args:
        address: where.
        options: further options for `ssh`; the user's are in ~/.ssh/config.
    """

    kind = "ssh"

    def __init__(self, address: SshAddress, *, options: tuple[str, ...] = ()) -> None:
        self._address = address
        self._options = options

    @classmethod
    def from_address(cls, address: str) -> Self:
        """See `parse_address`."""
        return cls(parse_address(address))

    @property
    def name(self) -> str:
        """`ssh:USER@HOST`, as it was given, without the Python."""
        port = "" if self._address.port is None else f":{self._address.port}"
        return f"ssh:{self._address.destination}{port}"

    def run_agent(self, work: Path, *, on_line: Callable[[str], None]) -> Ended:
        """Copy, run, copy back; the folder on the device is removed also after an error."""
        folder, left = self._send(work)
        try:
            agent = f"{folder}/{job_file.AGENT}"
            python = self._address.python
            if self._address.install:
                python = self._install(folder, _engine_packages(work))
            ended = stream(self._command(*_told_of_signals(python, agent, folder)), on_line=on_line)
            if ended.exit_code == _SSH_FAILED:
                raise self._lost(ended.stderr)
            if ended.exit_code == 0:
                _unpack(self._call(_SEND, folder), work)
            return ended
        finally:
            self._remove(folder, *left)

    def _send(self, work: Path) -> tuple[str, list[str]]:
        """Copy a folder there; returns where it lies, and what killed calls of ours left."""
        name = f"edgeseed-{secrets.token_hex(6)}"
        sender = (machine(), str(os.getpid()), name)
        try:
            told = self._call(_RECEIVE, *sender, sends=_packed(work)).decode().splitlines()
        except Exception:
            raise  # it was never made, or has removed itself
        except BaseException:
            # Ctrl-C or a signal: all may have arrived, and nobody is told where.
            self._remove(name)
            raise
        return told[0], _of_killed_calls(told[1:])

    def _install(self, folder: str, engine: Sequence[str]) -> str:
        """Make an environment in the work folder, which goes away with it; returns its Python.

        Args:
            folder: The work folder.
            engine: The engine's packages.
        """
        packages = ("numpy", *engine)
        say(f"{self.name}: installing {' and '.join(packages)} into a throw-away environment there")
        environment = f"{folder}/venv"
        self._call(_INSTALL, environment, *packages)
        return f"{environment}/bin/python"

    def probe(self, script: str) -> str:
        """See `AgentDevice.probe`."""
        return self._call(f"import sys\n{_PRINT_MARK}\n{script}").decode()

    def _command(self, *remote: str) -> list[str]:
        port = [] if self._address.port is None else ["-p", str(self._address.port)]
        line = " ".join(shlex.quote(word) for word in remote)
        return ["ssh", *_OPTIONS, *self._options, *port, "--", self._address.destination, line]

    def _call(self, script: str, *arguments: str, sends: bytes = b"") -> bytes:
        """Run a few lines of Python there; bytes in, bytes out."""
        command = self._command(self._address.python, "-c", script, *arguments)
        try:
            done = subprocess.run(
                command, input=sends, capture_output=True, timeout=_TRANSFER_SECONDS, check=False
            )
        except FileNotFoundError as error:
            raise MissingDependencyError(
                f"{self.name}: there is no ssh on this machine; install the OpenSSH client"
            ) from error
        except subprocess.TimeoutExpired as error:
            raise WorkError(
                f"{self.name}: copying took more than {_TRANSFER_SECONDS} s; the link is too slow"
            ) from error
        if done.returncode != 0:
            raise self._lost(done.stderr.decode("utf-8", "replace"), code=done.returncode)
        return done.stdout.partition(_MARK)[2]

    def _remove(self, folder: str, *left: str) -> None:
        """Remove folders there, also if a signal comes in the middle of it."""
        try:
            self._remove_once(folder, *left)
        except Exception:
            raise
        except BaseException:
            self._remove_once(folder, *left)
            raise

    def _remove_once(self, folder: str, *left: str) -> None:
        command = self._command(self._address.python, "-c", _REMOVE, folder, *left)
        try:
            done = subprocess.run(
                command, capture_output=True, timeout=_REMOVE_SECONDS, check=False
            )
        except subprocess.TimeoutExpired:
            # What was measured is here: a slow clean-up must not take it along.
            warn(f"{self.name}: removing {folder} there takes long; the next run removes it")
            return
        if done.returncode != 0:
            warn(f"{self.name}: {folder} may be left there; the next run removes it")

    def _lost(self, stderr: str, *, code: int = _SSH_FAILED) -> WorkError:
        """The error for what ssh or the device's Python said, with the remedy if it is known."""
        at, host, port = self._address.destination, self._address.host, self._address.port
        host = host.strip("[]")
        facts = {
            "at": at,
            "port": "" if port is None else f"-p {port} ",
            # As known_hosts writes it.
            "known": host if port in (None, _SSH_PORT) else f"'[{host}]:{port}'",
        }
        for sign, remedy in _REMEDIES if code == _SSH_FAILED else ():
            if sign in stderr:
                return WorkError(f"{self.name}: {remedy.format(**facts)}")
        last = stderr.strip().rpartition("\n")[2] or "it said nothing"
        if code in (126, 127):
            return WorkError(
                f"{self.name}: no {self._address.python} there ({last}); name another with "
                f"--device {self.name}?python=PATH"
            )
        return WorkError(f"{self.name}: the connection or the copying failed: {last}")


def _told_of_signals(*words: str) -> tuple[str, ...]:
    """A command whose exit code is 128 and the number where a signal ended it.

    ssh says 255 for that, as for a lost connection, unless a shell stays in between.
    """
    return "sh", "-c", f"{' '.join(map(shlex.quote, words))}; exit $?"


def _of_killed_calls(waiting: Sequence[str]) -> list[str]:
    """Of the folders there that calls of this machine sent, those whose call is gone."""
    rows = (line.partition(" ") for line in waiting if " " in line)
    return [folder for process, _, folder in rows if not is_running(int(process))]


def _engine_packages(work: Path) -> tuple[str, ...]:
    """What pip installs for the engine of a job; nothing for a job that builds one."""
    job = work / job_file.JOB
    if not job.is_file():
        return ()
    packages: tuple[str, ...] = ENGINES.load(job_file.Job.read(job).engine).packages
    return packages


def _packed(work: Path) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as archive:
        archive.add(work, ".")
        # The last: with it, all has arrived.
        archive.addfile(tarfile.TarInfo(job_file.WHOLE))
    return buffer.getvalue()


def _unpack(archive: bytes, work: Path) -> None:
    """Unpack what came from the device, which is not trusted to stay within the folder.

    Files and folders alone, and none outside. (`tarfile`'s own filter came with Python 3.11.4;
    Debian 12 has 3.11.2.)
    """
    root = work.resolve()
    try:
        with tarfile.open(fileobj=io.BytesIO(archive)) as opened:
            for member in opened:
                path = (root / member.name).resolve()
                content = opened.extractfile(member) if member.isfile() else None
                if not path.is_relative_to(root) or (content is None and not member.isdir()):
                    raise tarfile.TarError(f"{member.name} is no file or folder within it")
                (path if content is None else path.parent).mkdir(parents=True, exist_ok=True)
                if content is not None:
                    with content, path.open("wb") as file:
                        shutil.copyfileobj(content, file)
    except (tarfile.TarError, OSError, ValueError) as error:  # a zero byte in a name is the last
        raise WorkError(f"what came back from the device cannot be unpacked ({error})") from error


DEVICE = SshDevice
