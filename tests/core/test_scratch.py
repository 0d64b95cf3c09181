"""Temporary folders and half-written files of calls that were killed."""

import os
import signal
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

from edgeseed.core import scratch
from edgeseed.core.files import atomic_directory, atomic_file, check_writable
from edgeseed.core.processes import machine
from edgeseed.core.signals import ended_by_exception, ending_signals


@pytest.fixture(scope="module")
def gone() -> int:
    """The number of a process that has ended."""
    ended = subprocess.Popen([sys.executable, "-c", ""])
    ended.wait()
    return ended.pid


@pytest.fixture
def temporary(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    return tmp_path


def names(folder: Path) -> list[str]:
    return sorted(os.listdir(folder))  # noqa: PTH208 - hidden files too


def test_what_a_library_leaves_in_the_temporary_folder_goes_too(temporary: Path) -> None:
    with scratch.temporary_files_in_scratch():
        left = Path(tempfile.mkdtemp(suffix=".mlpackage"))
        (left / "weights").write_bytes(b"x")
        assert left.parent != temporary
        assert left.is_relative_to(temporary)
    assert names(temporary) == []
    assert tempfile.gettempdir() == str(temporary)


def test_a_scratch_folder_goes_with_its_block(temporary: Path) -> None:
    with scratch.scratch_folder() as folder:
        (folder / "pixels.npy").write_bytes(b"x")
        assert (folder.parent / "owner").read_text() == str(os.getpid())
    assert names(temporary) == []


def test_the_next_call_removes_what_killed_ones_left(temporary: Path, gone: int) -> None:
    others = [
        f"edgeseed-{machine()}-{os.getpid()}-living",
        f"edgeseed-00000000-{gone}-elsewhere",
        "edgeseed-unowned",
        "other",
    ]
    for name in (f"edgeseed-{machine()}-{gone}-killed", *others):
        (temporary / name).mkdir()
    (temporary / "edgeseed-older").mkdir()
    (temporary / "edgeseed-older/owner").write_text(str(gone))

    with scratch.scratch_folder():
        pass

    assert names(temporary) == sorted(others)


def test_a_half_written_file_of_a_killed_call_is_removed_by_the_next(
    tmp_path: Path, gone: int
) -> None:
    kept = [f".a.{machine()}-{os.getpid()}-00000000.tmp", f".a.00000000-{gone}-00000000.tmp"]
    for name in (f".a.{machine()}-{gone}-00000000.tmp", ".user.tmp", *kept):
        (tmp_path / name).write_bytes(b"half")
    (tmp_path / f".b.{machine()}-{gone}-00000000.tmp").mkdir()

    with atomic_file(tmp_path / "new") as temporary:
        temporary.write_bytes(b"whole")

    assert names(tmp_path) == sorted([*kept, ".user.tmp", "new"])


def test_a_folder_that_was_giving_way_comes_back(tmp_path: Path, gone: int) -> None:
    # Killed between two renames: the old one had gone, the new one was not there yet.
    (tmp_path / f".engine.{machine()}-{gone}-00000000.old").mkdir()
    (tmp_path / f".engine.{machine()}-{gone}-00000000.old/plan").write_bytes(b"old")
    (tmp_path / f".other.{machine()}-{gone}-00000000.old").mkdir()
    (tmp_path / "other").mkdir()

    with atomic_directory(tmp_path / "new"):
        pass

    assert names(tmp_path) == ["engine", "new", "other"]
    assert (tmp_path / "engine/plan").read_bytes() == b"old"


def test_a_place_is_tried_without_a_trace(tmp_path: Path) -> None:
    check_writable(tmp_path / "deep/result.json")
    assert names(tmp_path / "deep") == []


@pytest.mark.parametrize("number", ending_signals())
def test_a_signal_that_ends_a_call_lets_it_clean_up(number: signal.Signals) -> None:
    cleaned = []

    def call() -> None:
        with ended_by_exception():
            try:
                os.kill(os.getpid(), number)
                signal.pause()
            finally:
                cleaned.append(True)

    with pytest.raises(SystemExit) as ended:
        call()
    assert cleaned == [True]
    assert ended.value.code == 128 + number


def test_a_signal_that_nohup_ignores_stays_ignored() -> None:
    # `nohup edgeseed distill` was ended by the hang-up that it was to survive.
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        with ended_by_exception():
            assert signal.getsignal(signal.SIGHUP) == signal.SIG_IGN
            os.kill(os.getpid(), signal.SIGHUP)
    finally:
        signal.signal(signal.SIGHUP, before)
