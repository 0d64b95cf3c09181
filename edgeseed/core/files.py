"""Files that are either whole or absent: written beside their place, synced, then renamed."""

import contextlib
import errno
import hashlib
import json
import os
import re
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from edgeseed.core.errors import ArtifactError, EdgeseedError, UsageError, WorkError
from edgeseed.core.processes import is_running, machine

# EFBIG: a limit on file sizes, of the shell (`ulimit -f`) or of the file system.
_NO_SPACE = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}


@contextlib.contextmanager
def disk_errors(path: Path) -> Iterator[None]:
    """Turns a full disk, and a place that may not be written, into one line that says so.

    Raises:
        WorkError: If the disk is full or `path` may not be written.
    """
    try:
        yield
    except (OSError, RuntimeError) as error:
        # torch's writer turns the disk's error into one of its own, which hides it.
        reason = _cause(error)
        if reason is None or isinstance(error, EdgeseedError):
            raise
        path = _shown(reason, path)
        if reason.errno in _NO_SPACE:
            raise WorkError(
                f"disk full while writing {path} ({reason.strerror}): nothing was written there; "
                "free some space and run again"
            ) from error
        if reason.errno in (errno.EACCES, errno.EPERM, errno.EROFS):
            raise WorkError(f"no permission to write {path}; choose another --out") from error
        raise


# What libraries in C++ make of an exhausted memory; none of them has a type of its own for it.
_NO_MEMORY = (
    "can't allocate memory",
    "bad_alloc",
    "bad allocation",
    "failed to allocate memory",
    os.strerror(errno.ENOMEM).lower(),
)


def raise_shortage(error: BaseException, doing: str) -> None:
    """Raises a line of its own if a library failed because the machine ran short.

    Converters and runtimes raise what their parts happen to raise. Who takes all of it for an
    answer on the network or the file asks here first: a full disk says nothing of either.

    Args:
        error: What the library raised.
        doing: What was done, for the line: "converting to ONNX".

    Raises:
        WorkError: If the disk is full or memory could not be had.
    """
    each: BaseException | None = error
    while each is not None:
        text = str(each)
        if (isinstance(each, OSError) and each.errno in _NO_SPACE) or (
            os.strerror(errno.ENOSPC) in text
        ):
            raise WorkError(
                f"disk full while {doing}; temporary files are in {_temporary_folder()}: free "
                "some space there, or set TMPDIR to a folder with more, and run again"
            ) from error
        lacks_memory = isinstance(each, MemoryError) or (
            isinstance(each, OSError) and each.errno == errno.ENOMEM
        )
        if lacks_memory or any(sign in text.lower() for sign in _NO_MEMORY):
            raise WorkError(
                f"out of memory while {doing}: end what else runs on this machine, or use one with "
                "more memory, and run again"
            ) from error
        each = each.__cause__ or (None if each.__suppress_context__ else each.__context__)


# `scratch_folder` has it too: a folder that is gone before the line is read.
_SCRATCH = re.compile(r"edgeseed-[0-9a-f]{8}-\d+-\w+")


def _temporary_folder() -> Path:
    """The system's, also where libraries' files go to a folder in it."""
    folder = Path(tempfile.gettempdir())
    ours = [each.parent for each in (folder, *folder.parents) if _SCRATCH.fullmatch(each.name)]
    return ours[-1] if ours else folder


def _cause(error: BaseException | None) -> OSError | None:
    while error is not None and not (isinstance(error, OSError) and error.errno is not None):
        error = error.__cause__ or error.__context__
    return error


def _shown(reason: OSError, path: Path) -> Path:
    """What could not be written: `path`, unless the error names a file that is not beside it."""
    if not isinstance(reason.filename, str) or Path(reason.filename).is_relative_to(path.parent):
        return path
    return Path(reason.filename)


def _make_parent(path: Path) -> None:
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
    except (FileExistsError, FileNotFoundError, NotADirectoryError) as error:
        raise UsageError(
            f"{path} cannot be made: {path.parent} is no folder and cannot become one "
            f"({error.strerror}); choose another --out"
        ) from error


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


# .NAME.MACHINE-PROCESS-RANDOM.tmp; the random part keeps two threads apart.
_TEMPORARY = re.compile(r"\.(.+)\.([0-9a-f]{8})-(\d+)-[0-9a-f]{8}\.(tmp|old)", re.DOTALL)


def _temporary(path: Path) -> Path:
    """A name beside `path` for what is not whole yet; what killed calls left there is removed."""
    sweep_temporaries(path.parent)
    number = f"{machine()}-{os.getpid()}-{os.urandom(4).hex()}"
    return path.with_name(f".{path.name}.{number}.tmp")


def sweep_temporaries(folder: Path) -> None:
    """Removes half-written files and folders of calls of this machine that were killed.

    A folder that was just giving way to a new one comes back, if the new one did not take its
    place.
    """
    with contextlib.suppress(OSError):  # it went away, or may not be listed
        for entry in list(os.scandir(folder)):
            left = _TEMPORARY.fullmatch(entry.name)
            if left is None or left[2] != machine() or is_running(int(left[3])):
                continue
            with contextlib.suppress(OSError):  # another call was faster, or it is another user's
                if left[4] == "old" and not (folder / left[1]).exists():
                    Path(entry.path).rename(folder / left[1])
                elif entry.is_dir(follow_symlinks=False):
                    shutil.rmtree(entry.path)
                else:
                    Path(entry.path).unlink()


def check_writable(path: Path) -> None:
    """Raises if `path` could not be written, by a file beside it: permissions alone do not tell.

    Raises:
        UsageError: If its folder cannot be made.
        WorkError: If the disk is full or the folder may not be written.
    """
    with disk_errors(path):
        _make_parent(path)
        probe = _temporary(path)
        try:
            probe.write_bytes(b"probe")
            _sync(probe)
        finally:
            probe.unlink(missing_ok=True)


@contextlib.contextmanager
def atomic_file(path: Path) -> Iterator[Path]:
    """Yields a temporary path; when the block ends well, it is synced and renamed to `path`.

    If the block fails, `path` is as it was before, and nothing is left beside it.

    Raises:
        WorkError: If the disk is full or the folder may not be written.
    """
    path = Path(path)
    with disk_errors(path):
        _make_parent(path)
        temporary = _temporary(path)
        try:
            yield temporary
            _sync(temporary)
            temporary.replace(path)
            if os.name == "posix":
                # Until its folder is synced, too, a loss of power may take the new name back.
                _sync(path.parent)
        finally:
            temporary.unlink(missing_ok=True)


@contextlib.contextmanager
def atomic_directory(path: Path, *, replace: bool = False) -> Iterator[Path]:
    """Yields a temporary folder; when the block ends well, it is synced and renamed to `path`.

    Args:
        path: Where the folder will be.
        replace: Whether a folder that is there already gives way (only once the new one is whole).

    Raises:
        UsageError: If `path` is a file, or a folder that is not empty and may not be replaced.
        WorkError: If the disk is full or the parent may not be written.
    """
    path = Path(path)
    occupied = path.exists() and not (path.is_dir() and not any(path.iterdir()))
    if occupied and not (replace and path.is_dir()):
        advice = " or remove it" if path.is_dir() else "; it is a file, and --out is a new folder"
        raise UsageError(f"{path} exists already; choose another --out{advice}")
    with disk_errors(path):
        _make_parent(path)
        temporary = _temporary(path)
        temporary.mkdir()
        try:
            temporary.chmod(0o755)
            yield temporary
            for file in temporary.rglob("*"):
                if file.is_file():
                    _sync(file)
            if path.exists():
                old = temporary.with_suffix(".old")
                path.rename(old)
                temporary.rename(path)
                shutil.rmtree(old)
            else:
                temporary.rename(path)
        finally:
            shutil.rmtree(temporary, ignore_errors=True)


def write_text(path: Path, text: str) -> None:
    """Writes `text` whole or not at all."""
    with atomic_file(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def write_json(path: Path, value: Any) -> None:
    """Writes indented JSON, whole or not at all. NaN and infinity, not being JSON, are refused."""
    write_text(path, json.dumps(value, indent=2, allow_nan=False, ensure_ascii=False) + "\n")


def read_json(path: Path, *, what: str) -> dict[str, Any]:
    """Reads a JSON file that holds an object, as all of ours do.

    Args:
        path: The file.
        what: What the file should be, for the message: `"a result"`.

    Raises:
        UsageError: If there is no such file.
        ArtifactError: If it is not JSON, or no object.
    """
    path = Path(path)
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise UsageError(f"{path} does not exist; {what} was expected there") from error
    except IsADirectoryError as error:
        raise UsageError(f"{path} is a folder; the file of {what} was expected") from error
    except OSError as error:
        raise UsageError(f"{path} cannot be read ({error.strerror})") from error
    except (ValueError, RecursionError) as error:
        # ValueError: no JSON, no UTF-8, or a number of thousands of digits.
        raise ArtifactError(
            f"{path} is not {what}: it is not valid JSON (truncated, or another kind of file)"
        ) from error
    if not isinstance(values, dict):
        raise ArtifactError(
            f"{path} is not {what}: it holds a {type(values).__name__}, not a JSON object"
        )
    return values


def append_jsonl(path: Path, value: Any) -> None:
    """Appends one JSON value as a line, so that a log read while it grows has whole lines."""
    with disk_errors(path), Path(path).open("a", encoding="utf-8") as file:
        file.write(json.dumps(value, allow_nan=False, ensure_ascii=False) + "\n")


def sha256_file(path: Path) -> str:
    """The hex SHA-256 of a file's bytes."""
    with Path(path).open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def readable_size(num_bytes: float) -> str:
    """Bytes as people read them, in powers of 1000 as shops and stores count."""
    for unit in ("B", "kB", "MB"):
        if num_bytes < 1000:
            return f"{num_bytes:.0f} {unit}" if unit == "B" else f"{num_bytes:.2f} {unit}"
        num_bytes /= 1000
    return f"{num_bytes:.2f} GB"
