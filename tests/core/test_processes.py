"""Which process something belongs to."""

import os
import re
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from edgeseed.core import processes
from edgeseed.core.processes import is_running, machine


@pytest.fixture(autouse=True)
def asked_anew() -> Iterator[None]:
    machine.cache_clear()
    yield
    machine.cache_clear()  # or later tests would take what they left for another machine's


def test_a_process_is_told_from_one_that_has_ended() -> None:
    ended = subprocess.Popen([sys.executable, "-S", "-c", ""])
    ended.wait()
    assert is_running(os.getpid())
    assert is_running(1)
    assert not is_running(ended.pid)


def test_a_number_that_no_process_can_have_is_left_alone() -> None:
    # What belongs to it is not removed: who knows whose it is.
    assert is_running(2**80)


def test_a_machine_is_told_from_another_and_from_itself_before_a_restart(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen = [machine()]
    assert re.fullmatch("[0-9a-f]{8}", seen[0])
    monkeypatch.setattr(socket, "gethostname", lambda: "another")
    machine.cache_clear()
    seen.append(machine())
    (tmp_path / "boot").write_text("after a restart", encoding="ascii")
    (tmp_path / "pid").symlink_to("pid:[1]")
    monkeypatch.setattr(processes, "_BOOT", tmp_path / "boot")
    monkeypatch.setattr(processes, "_NAMESPACE", tmp_path / "pid")
    machine.cache_clear()
    seen.append(machine())
    assert len(set(seen)) == 3


def test_a_system_without_proc_has_a_name_too(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(processes, "_BOOT", tmp_path / "none")
    assert re.fullmatch("[0-9a-f]{8}", machine())
