"""Other Pythons of this machine, which play a device's."""

import os
import shutil
import subprocess
import zipfile
from collections.abc import Callable, Mapping
from functools import cache
from pathlib import Path

from edgeseed.runtime.agent import job_file
from edgeseed.runtime.device import Ended
from edgeseed.runtime.devices._process import stream
from edgeseed.runtime.devices.host import HostDevice

VARIABLE = "EDGESEED_PYTHONS"
"""Interpreters that have numpy and onnxruntime, with `:` between them."""


@cache
def find_python(minor: int) -> str | None:
    """A Python 3.`minor` with numpy and onnxruntime; None where there is none."""
    named = os.environ.get(VARIABLE, "").split(os.pathsep)
    here = [shutil.which(f"python3.{minor}")]
    pyenv = sorted((Path.home() / ".pyenv" / "versions").glob(f"3.{minor}.*/bin/python"))
    check = "import sys, numpy, onnxruntime; print(sys.version_info[1])"
    for python in [*named, *here, *map(str, pyenv)]:
        if not python or not Path(python).is_file():
            continue
        done = subprocess.run([python, "-c", check], capture_output=True, text=True, check=False)
        if done.returncode == 0 and done.stdout.strip() == str(minor):
            return python
    return None


class HostWithAgent(HostDevice):
    """This machine, with another Python or with an agent that was changed.

    Args:
        python: the interpreter.
        changes: what to replace in a file of the agent, by its path there; to plant faults.
    """

    def __init__(self, python: str, changes: Mapping[str, tuple[str, str]] | None = None) -> None:
        self._python = python
        self._changes = changes or {}

    def run_agent(self, work: Path, *, on_line: Callable[[str], None]) -> Ended:
        """See `AgentDevice.run_agent`."""
        agent = work / job_file.AGENT
        if self._changes:
            _replace(agent, self._changes)
        return stream([self._python, str(agent), str(work)], on_line=on_line)


def _replace(archive: Path, changes: Mapping[str, tuple[str, str]]) -> None:
    with zipfile.ZipFile(archive) as read:
        files = {name: read.read(name).decode() for name in read.namelist()}
    for name, (old, new) in changes.items():
        assert files[name].count(old) == 1, f"{old!r} is not once in {name}"
        files[name] = files[name].replace(old, new)
    with zipfile.ZipFile(archive, "w") as write:
        for name, text in files.items():
            write.writestr(name, text)
