"""Photos in a folder of any nesting; class folders are labels.

What cannot be read is skipped, counted and listed, and is an error once it is more than a tenth.
"""

import os
import stat
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NoReturn

import numpy as np
from PIL import Image

from edgeseed.core.console import progress
from edgeseed.core.errors import DataError
from edgeseed.core.photos.accounting import (
    SIDECARS,
    Skipped,
    class_folders,
    judge_skipped,
)
from edgeseed.core.photos.decoding import Draft, decode, decode_draft, reason_of
from edgeseed.core.photos.overlap import Mark, sample_file
from edgeseed.core.photos.photo_set import PhotoSet, fingerprint_of

_SIGNATURES = (
    b"\xff\xd8\xff", b"\x89PNG\r\n\x1a\n", b"GIF87a", b"GIF89a", b"BM", b"II*\0", b"MM\0*",
    b"P1", b"P2", b"P3", b"P4", b"P5", b"P6", b"qoif", b"\0\0\0\x0cjP",
)  # fmt: skip
_TAIL_BYTES = 64


class Files:
    """Files under one folder; the names are one object, which loader workers share."""

    def __init__(self, root: Path, names: Iterable[str]) -> None:
        encoded = [os.fsencode(name) for name in names]
        self.root = root
        self._joined = b"".join(encoded)
        self._ends = np.cumsum([len(name) for name in encoded], dtype=np.int64)

    def __len__(self) -> int:
        return len(self._ends)

    def name(self, index: int) -> str:
        """Path below the folder."""
        start = int(self._ends[index - 1]) if index else 0
        return os.fsdecode(self._joined[start : int(self._ends[index])])

    def image(self, index: int, channels: int = 3) -> Image.Image:
        """The photo at `index`, upright, 8-bit RGB."""
        return decode(self.root / self.name(index), channels=channels)

    def draft(self, index: int, side: int, channels: int = 3) -> Draft:
        """As `image`, but a JPEG may come smaller."""
        return decode_draft(self.root / self.name(index), side=side, channels=channels)

    def mark(self, index: int) -> Mark:
        """What tells copies of it, without decoding."""
        path = self.root / self.name(index)
        try:
            size = path.stat().st_size
        except OSError as error:
            raise DataError(f"{path} cannot be read: {reason_of(error)}") from error
        return Mark(size, lambda: sample_file(path, start=0, size=size))


def _walk(root: Path) -> list[str]:
    """Relative paths of all visible files below `root`, sorted; follows links, but no loops."""
    seen: set[tuple[int, int]] = set()
    found: list[str] = []
    for folder, folders, files in os.walk(root, followlinks=True, onerror=_refuse):
        try:
            status = Path(folder).stat()
        except OSError as error:
            _refuse(error)
        if (status.st_dev, status.st_ino) in seen:
            folders.clear()
            continue
        seen.add((status.st_dev, status.st_ino))
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        relative = os.path.relpath(folder, root)
        found += [
            name if relative == "." else f"{relative}{os.sep}{name}"
            for name in files
            if not name.startswith(".")
        ]
    return sorted(found)


def _refuse(error: OSError) -> NoReturn:
    # How many photos it holds is unknown, so they cannot be counted as skipped; a class that went
    # missing would shift the numbers of all others.
    raise DataError(
        f"{error.filename} cannot be listed: {reason_of(error)}; make it readable, or move it away"
    ) from error


def check_file(path: Path) -> str | None:
    """Why a file is no usable photo, or None. Decodes only what looks suspicious."""
    try:
        # Opening a pipe would wait for whoever writes into it.
        if not stat.S_ISREG(path.stat().st_mode):
            return "not a regular file"
        with path.open("rb") as file:
            head = file.read(16)
            size = file.seek(0, os.SEEK_END)
            file.seek(max(0, size - _TAIL_BYTES))
            tail = file.read()
    except OSError as error:
        return error.strerror or "cannot be opened"
    if not head:
        return "empty file"
    if head[4:12] in (b"ftypheic", b"ftypheix", b"ftypmif1"):
        return "HEIC, which Pillow does not read: convert it to JPEG"
    looks_whole = (head.startswith(b"\xff\xd8\xff") and b"\xff\xd9" in tail) or (
        head.startswith(b"\x89PNG") and b"IEND" in tail
    )
    if looks_whole:
        return None
    known = head.startswith(_SIGNATURES) or head[8:12] == b"WEBP" or head[4:8] == b"ftyp"
    try:
        decode(path)
    except DataError as error:
        return str(error).rpartition(": ")[2] if known else "not an image"
    return None


def open_folder(root: Path, *, labels: bool | None) -> PhotoSet:
    """Opens a folder of photos.

    Args:
        root: The folder, of any nesting.
        labels: As `open_photos` takes it.

    Raises:
        DataError: If there is no photo, more than a tenth is broken, or labels lack.
    """
    names = _walk(root)
    with (
        ThreadPoolExecutor() as pool,
        progress(f"checking {root.name}", len(names), "files") as bar,
    ):
        reasons = []
        for reason in pool.map(check_file, (root / name for name in names)):
            reasons.append(reason)
            bar.advance()
    good = [name for name, reason in zip(names, reasons, strict=True) if reason is None]
    bad = [Skipped(n, r) for n, r in zip(names, reasons, strict=True) if r is not None]
    broken = [item for item in bad if Path(item.path).suffix.lower() not in SIDECARS]
    labelled = class_folders(str(root), good, labels=labels, folders=_visible_folders(root))
    skipped = (*broken, *labelled.strays)
    judge_skipped(str(root), num_used=len(labelled.kept), skipped=skipped)
    good = [good[index] for index in labelled.kept]
    sizes = [(root / name).stat().st_size for name in good]
    return PhotoSet(
        name=str(root),
        source=Files(root, good),
        indices=np.arange(len(good), dtype=np.int64),
        fingerprint=fingerprint_of(
            Path(name).as_posix() + f" {size}" for name, size in zip(good, sizes, strict=True)
        ),
        labels=labelled.targets,
        classes=labelled.classes,
        skipped=skipped,
        num_sidecars=len(bad) - len(broken),
    )


def _visible_folders(root: Path) -> list[str]:
    return [path.name for path in root.iterdir() if path.is_dir() and path.name[0] != "."]
