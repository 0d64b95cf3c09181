"""Files and folders are whole or absent."""

import errno
import json
import os
from pathlib import Path

import pytest

from edgeseed.core import files
from edgeseed.core.errors import (
    UsageError,
    WorkError,
)


def test_a_failed_write_leaves_the_old_file_and_nothing_else(tmp_path: Path) -> None:
    path = tmp_path / "a.json"
    files.write_json(path, {"old": 1})
    with pytest.raises(ValueError, match="JSON"):
        files.write_json(path, {"new": float("nan")})
    assert json.loads(path.read_text()) == {"old": 1}
    assert os.listdir(tmp_path) == ["a.json"]  # noqa: PTH208 - hidden files too


@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EDQUOT, errno.EFBIG])
def test_a_full_disk_is_one_line_and_nothing_is_left(
    tmp_path: Path, code: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_args: object, **_kwargs: object) -> None:
        raise OSError(code, "No space left on device")

    monkeypatch.setattr(Path, "write_bytes", full)
    with (
        pytest.raises(WorkError, match="disk full while writing"),
        files.atomic_file(tmp_path / "a") as temporary,
    ):
        temporary.write_bytes(b"x")
    assert list(tmp_path.iterdir()) == []


def test_a_really_full_disk_is_found() -> None:
    full = Path("/dev/full")
    if not full.exists():
        pytest.skip("this system has no /dev/full")
    with pytest.raises(WorkError, match="disk full"), files.disk_errors(full):
        full.write_bytes(b"x" * 100)


def test_a_full_disk_is_found_behind_a_librarys_own_error(tmp_path: Path) -> None:
    # torch.save: "RuntimeError: unexpected pos", raised while it cleans up after the disk's error.
    def save() -> None:
        try:
            raise OSError(errno.ENOSPC, "No space left on device")
        finally:
            raise RuntimeError("unexpected pos")

    with pytest.raises(WorkError, match="disk full"), files.disk_errors(tmp_path):
        save()


@pytest.mark.parametrize(
    ("error", "line"),
    [
        (OSError(errno.ENOSPC, "No space left on device"), "disk full while converting; temporary"),
        (RuntimeError("filesystem error: No space left on device [/tmp/x]"), "disk full while"),
        (MemoryError(), "out of memory while converting"),
        (RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried"), "out of memory"),
        (RuntimeError("std::bad_alloc"), "out of memory"),
        (OSError(errno.ENOMEM, "Cannot allocate memory"), "out of memory"),
    ],
    ids=["disk", "disk of C++", "memory", "memory of torch", "memory of C++", "memory of a fork"],
)
def test_a_machine_that_ran_short_is_said_so_behind_a_librarys_error(
    error: Exception, line: str
) -> None:
    def convert() -> None:
        try:
            raise error
        except Exception as cause:
            raise RuntimeError("a pass failed") from cause

    with pytest.raises(RuntimeError, match="a pass failed") as failed:
        convert()
    with pytest.raises(WorkError, match=line):
        files.raise_shortage(failed.value, "converting")


def test_a_librarys_own_refusal_is_no_shortage() -> None:
    files.raise_shortage(RuntimeError("operator not implemented"), "converting")


def test_other_errors_pass_through(tmp_path: Path) -> None:
    with pytest.raises(RuntimeError, match="mine"), files.disk_errors(tmp_path):
        raise RuntimeError("mine")


@pytest.mark.parametrize("below", ["file/new", "file/deep/new"])
def test_a_file_where_a_folder_should_be_is_one_line(tmp_path: Path, below: str) -> None:
    (tmp_path / "file").write_text("x")
    with (
        pytest.raises(UsageError, match=r"cannot be made: .* is no folder .* choose another --out"),
        files.atomic_file(tmp_path / below),
    ):
        pass


def test_a_folder_appears_whole_or_not_at_all(tmp_path: Path) -> None:
    with (
        pytest.raises(ZeroDivisionError),
        files.atomic_directory(tmp_path / "out") as folder,
    ):
        (folder / "half").write_text(str(1 / 0))
    assert list(tmp_path.iterdir()) == []
    with files.atomic_directory(tmp_path / "out") as folder:
        (folder / "whole").write_text("x")
    assert (tmp_path / "out/whole").read_text() == "x"


def test_a_folder_in_use_is_not_overwritten_unless_asked(tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    (tmp_path / "out/mine").write_text("x")
    with (
        pytest.raises(UsageError, match="exists already"),
        files.atomic_directory(tmp_path / "out"),
    ):
        pass
    with files.atomic_directory(tmp_path / "out", replace=True) as folder:
        (folder / "new").write_text("y")
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["new"]
    assert [path.name for path in tmp_path.iterdir()] == ["out"]
