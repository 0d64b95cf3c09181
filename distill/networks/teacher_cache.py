"""A teacher's embeddings of views that come again, in memory or in a folder that runs share.

A view of a bank has the same pixels each time it comes: same crop, same colours, same partner in
mixup. So the answer to it is the same as well, and the teacher need not look twice. Nothing else is
ever answered from here.

The folder holds `cache.json`, which says for which teacher, photos and seed the answers are, and
one array of float32 for each kind of view, (K, N, D + 1): K views of N photos, D numbers and a
checksum. A row whose checksum does not fit is unknown. So a process may die while it writes, a new
array of zeros holds no answer, and several processes may write at once: all would write the same.
"""

import errno
import hashlib
import json
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from edgeseed.core.config import to_plain
from edgeseed.core.errors import ArtifactError, ConfigError, UsageError
from edgeseed.core.files import disk_errors, read_json, write_json
from edgeseed.distill.batch import ReplayedViews

CACHE_FILE = "cache.json"
_LARGEST_DIM = 1_000_000
"""Of an embedding; the largest of timm's networks have some thousands of values."""
SCHEMA_VERSION = 1
_CHECKSUM_OF_ZEROS = np.uint32(0x9E3779B9)
"""Not zero, so that a row of a new array is not taken for an answer."""
_ZEROS = bytes(2**20)
_NOT_SUPPORTED = {errno.EOPNOTSUPP, errno.EINVAL, errno.ENOSYS}

Floats = npt.NDArray[np.float32]


@dataclass(frozen=True, kw_only=True, slots=True)
class ViewKey:
    """All that the pixels of one view depend on, beside the photos and the seed.

    Attributes:
        number: Its place among the views of a photo.
        crop: How it is cut and coloured.
        canvas: Side of the canvas that it is cut from, in pixels.
        blended: Global batch and number of processes where mixup blends the batch, else None:
            which photos meet in a batch depends on both.
    """

    number: int
    crop: Mapping[str, Any]
    canvas: int
    blended: tuple[int, int] | None = None

    @property
    def file_name(self) -> str:
        """Of its array; two views that differ in anything have different names."""
        text = json.dumps(to_plain(self), sort_keys=True)
        return f"view-{self.number}-{hashlib.sha256(text.encode()).hexdigest()[:12]}"


class TeacherCache:
    """Embeddings by view, photo and kind of view.

    Args:
        num_photos: N.
        num_views: K, after how many passes views repeat.
        folder: Where the answers are kept; None keeps them in memory.
        views: The kinds of views by their place in the batch; needed with a folder.
    """

    def __init__(
        self,
        *,
        num_photos: int,
        num_views: int,
        folder: Path | None = None,
        views: Mapping[int, ViewKey] | None = None,
    ) -> None:
        self.num_photos = num_photos
        self.num_views = num_views
        self.num_known = self.num_asked = 0
        self._folder = folder
        self._views = dict(views or {})
        self._arrays: dict[int, Floats] = {}

    def get(self, replayed: ReplayedViews, view: int) -> Tensor | None:
        """The (B, D) embeddings on the host, or None unless all of them are known."""
        self.num_asked += len(replayed.photos)
        if view not in self._arrays and not self._reopen(view):
            return None
        rows = self._arrays[view][replayed.number, replayed.photos]
        if not bool(_is_whole(rows).all()):
            return None
        self.num_known += len(rows)
        return torch.from_numpy(np.ascontiguousarray(rows[:, :-1]))

    def put(self, replayed: ReplayedViews, view: int, embeddings: Tensor) -> None:
        """Keeps (B, D) embeddings; answers that are there stay as they are.

        Raises:
            WorkError: If the disk has no room for all answers.
        """
        values = embeddings.detach().float().cpu().numpy()
        if view not in self._arrays:
            self._arrays[view] = self._open(view, values.shape[1])
        array, photos = self._arrays[view], replayed.photos
        unknown = ~_is_whole(array[replayed.number, photos])
        rows = np.empty((int(unknown.sum()), values.shape[1] + 1), np.float32)
        rows[:, :-1] = values[unknown]
        # As bits, and compared as bits: taken for a float it may be NaN, which equals nothing.
        rows.view(np.uint32)[:, -1] = _checksums(rows)
        array[replayed.number, photos[unknown]] = rows

    def _reopen(self, view: int) -> bool:
        """Opens an array that another run began."""
        if self._folder is None:
            return False
        described = self._folder / f"{self._views[view].file_name}.json"
        if not described.is_file():
            return False
        width = read_json(described, what="a kind of view").get("dim")
        if type(width) is not int or not 1 <= width <= _LARGEST_DIM:
            raise ArtifactError(
                f"{described} is broken: dim is {width!r}, not a number of values; give another "
                "--teacher-cache"
            )
        self._arrays[view] = self._open(view, width)
        return True

    def _open(self, view: int, dim: int) -> Floats:
        shape = (self.num_views, self.num_photos, dim + 1)
        if self._folder is None:
            return np.zeros(shape, np.float32)
        key = self._views[view]
        described = self._folder / f"{key.file_name}.json"
        if not described.is_file():
            write_json(described, {**to_plain(key), "dim": dim})
        path = described.with_suffix(".f32")
        num_bytes = 4 * int(np.prod(shape))
        with disk_errors(path):
            _allocate(path, num_bytes)
        # Views are the first axis: a bank of more views begins with those of a smaller one.
        return np.memmap(path, np.float32, mode="r+", shape=shape)


def _checksums(rows: Floats) -> npt.NDArray[np.uint32]:
    sums = rows[:, :-1].view(np.uint32).sum(axis=1, dtype=np.uint32)
    return np.asarray(sums + _CHECKSUM_OF_ZEROS, dtype=np.uint32)


def _is_whole(rows: Floats) -> npt.NDArray[np.bool_]:
    rows = np.ascontiguousarray(rows)
    return np.asarray(rows[:, -1:].view(np.uint32)[:, 0] == _checksums(rows))


def _allocate(path: Path, num_bytes: int) -> None:
    """Makes the file at least this long, with its room on the disk taken at once.

    A file with holes would end the process by a signal where the disk is full.
    """
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o644)
    try:
        missing = num_bytes - os.fstat(descriptor).st_size
        if missing <= 0:
            return
        try:
            os.posix_fallocate(descriptor, 0, num_bytes)
        except (AttributeError, OSError) as error:
            # macOS has no such call, and some file systems do not take it.
            if isinstance(error, OSError) and error.errno not in _NOT_SUPPORTED:
                raise
            os.lseek(descriptor, 0, os.SEEK_END)
            while missing > 0:
                missing -= os.write(descriptor, _ZEROS[:missing])
    finally:
        os.close(descriptor)


# --------------------------------------------------------------------------- the folder


@dataclass(frozen=True, kw_only=True, slots=True)
class CacheKey:
    """What all answers of a folder depend on: with another of these they would be wrong.

    Attributes:
        teacher: SHA-256 of the teacher's weights.
        preprocess: Its input.
        precision: Of its matrix products.
        photos: Fingerprint of the photos.
        num_photos: How many there are.
        seed: Of the views.
    """

    teacher: str
    preprocess: Mapping[str, Any]
    precision: str
    photos: str
    num_photos: int
    seed: int


_NAMES = {
    "teacher": "the teacher's weights", "preprocess": "the teacher's input",
    "precision": "the teacher's precision", "photos": "the photos",
    "num_photos": "the number of photos", "seed": "the seed",
}  # fmt: skip


def open_cache_folder(folder: Path, key: CacheKey) -> None:
    """Begins a cache, or makes sure that the one in the folder is for the same teacher and photos.

    Raises:
        ConfigError: If it is for others; the message says what differs.
        UsageError: If the folder holds something else.
        ArtifactError: If a newer edgeseed wrote it, or it is broken.
    """
    path = folder / CACHE_FILE
    if not path.is_file():
        if folder.exists() and (not folder.is_dir() or _is_occupied(folder)):
            raise UsageError(
                f"--teacher-cache {folder} is not empty and holds no teacher's answers (no "
                f"{CACHE_FILE}); give a new folder"
            )
        write_json(path, {"schema_version": SCHEMA_VERSION, "key": to_plain(key)})
        return
    values = read_json(path, what="a teacher cache")
    known = values.get("key")
    if not isinstance(known, dict) or values.get("schema_version") != SCHEMA_VERSION:
        raise ArtifactError(
            f"{path} is no teacher cache of this edgeseed (schema version {SCHEMA_VERSION}); give "
            "another --teacher-cache"
        )
    differing = [
        f"{_NAMES[name]} ({_short(known.get(name))} there, {_short(value)} now)"
        for name, value in to_plain(key).items()
        if known.get(name) != value
    ]
    if differing:
        raise ConfigError(
            f"--teacher-cache {folder} holds answers of another run: {'; '.join(differing)} "
            "differ; give a new folder, or remove this one"
        )


def _is_occupied(folder: Path) -> bool:
    # Another process of the same run may be writing cache.json: under a hidden name, until it is.
    return any(not path.name.startswith(".") for path in folder.iterdir())


def _short(value: Any) -> str:
    if isinstance(value, str) and len(value) > 12:
        return f"{value[:8]}…"
    if isinstance(value, Mapping):
        return ", ".join(f"{name} {item}" for name, item in value.items())
    return str(value)
