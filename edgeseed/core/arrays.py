"""Arrays of numbers in .npy and .npz files, read so that a broken file is one clear error."""

import contextlib
import struct
import tokenize
import zipfile
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from edgeseed.core.errors import ArtifactError

# What numpy and zipfile raise of bytes that are not theirs; numpy parses headers as Python.
_BROKEN = (
    ArithmeticError, EOFError, LookupError, MemoryError, NotImplementedError, OSError, RuntimeError,
    SyntaxError, TypeError, ValueError, struct.error, tokenize.TokenError, zipfile.BadZipFile,
    zlib.error,
)  # fmt: skip


@contextlib.contextmanager
def _one_line(path: Path) -> Iterator[None]:
    try:
        yield
    except _BROKEN as error:
        reason = " ".join(str(error).split())[:160] or type(error).__name__
        raise ArtifactError(
            f"{path} cannot be read as arrays ({reason}); copy it again or make it anew"
        ) from error


def read_array(path: Path) -> npt.NDArray[Any]:
    """The array of an .npy file. Nothing in it is run.

    Raises:
        ArtifactError: If the file is missing or broken.
    """
    with _one_line(path), path.open("rb") as file:
        array = np.load(file, allow_pickle=False)
        if not isinstance(array, np.ndarray):
            raise ValueError("it holds several arrays")
        return array


def read_arrays(path: Path) -> dict[str, npt.NDArray[Any]]:
    """The arrays of an .npz file by name. Nothing in it is run.

    Raises:
        ArtifactError: If the file is missing or broken.
    """
    # Opened here: numpy leaves the file open where it is no archive.
    with _one_line(path), path.open("rb") as file:
        archive = np.load(file, allow_pickle=False)
        if isinstance(archive, np.ndarray):
            raise ValueError("it holds one array")
        with archive:
            return {name: archive[name] for name in archive.files}
