"""Photos in a folder of any nesting; class folders are labels.

What cannot be read is skipped, counted and listed, and is an error once it is more than a tenth.
"""

import os
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import numpy.typing as npt
from PIL import Image

from edgeseed.core.console import progress, warn
from edgeseed.core.errors import DataError
from edgeseed.core.photos.decoding import Draft, decode, decode_draft, reason_of
from edgeseed.core.photos.overlap import Mark, sample_file
from edgeseed.core.photos.photo_set import MAX_BROKEN_SHARE, PhotoSet, Skipped, fingerprint_of

_LISTED = 5
# Files that lie beside photos by custom; they are passed over without being counted as broken.
SIDECARS = frozenset(
    [
        ".csv",
        ".db",
        ".html",
        ".ini",
        ".json",
        ".jsonl",
        ".lock",
        ".log",
        ".md",
        ".parquet",
        ".py",
        ".toml",
        ".tsv",
        ".txt",
        ".xml",
        ".xmp",
        ".yaml",
        ".yml",
    ]
)
_SIGNATURES = (
    b"\xff\xd8\xff", b"\x89PNG\r\n\x1a\n", b"GIF87a", b"GIF89a", b"BM", b"II*\0", b"MM\0*",
    b"P1", b"P2", b"P3", b"P4", b"P5", b"P6", b"qoif", b"\0\0\0\x0cjP",
)  # fmt: skip
_TAIL_BYTES = 64


class _Files:
    """Files under one folder; the names are one object, which loader workers share."""

    def __init__(self, root: Path, names: Iterable[str]) -> None:
        encoded = [os.fsencode(name) for name in names]
        self.root = root
        self._joined = b"".join(encoded)
        self._ends = np.cumsum([len(name) for name in encoded], dtype=np.int64)

    def __len__(self) -> int:
        return len(self._ends)

    def name(self, index: int) -> str:
        start = int(self._ends[index - 1]) if index else 0
        return os.fsdecode(self._joined[start : int(self._ends[index])])

    def image(self, index: int) -> Image.Image:
        return decode(self.root / self.name(index))

    def draft(self, index: int, side: int) -> Draft:
        return decode_draft(self.root / self.name(index), side=side)

    def mark(self, index: int) -> Mark:
        path = self.root / self.name(index)
        try:
            size = path.stat().st_size
        except OSError as error:
            raise DataError(f"{path} cannot be read: {reason_of(error)}") from error
        return Mark(size, lambda: sample_file(path, start=0, size=size))


def _walk(root: Path) -> Iterator[str]:
    """Relative paths of all visible files below `root`, sorted; follows links, but no loops."""
    seen: set[tuple[int, int]] = set()
    found: list[str] = []
    for folder, folders, files in os.walk(root, followlinks=True):
        status = Path(folder).stat()
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
    return iter(sorted(found))


def _check_file(path: Path) -> str | None:
    """Why a file is no usable photo, or None. Decodes only what looks suspicious."""
    try:
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
    names = list(_walk(root))
    with (
        ThreadPoolExecutor() as pool,
        progress(f"checking {root.name}", len(names), "files") as bar,
    ):
        reasons = []
        for reason in pool.map(_check_file, (root / name for name in names)):
            reasons.append(reason)
            bar.advance()
    good = [name for name, reason in zip(names, reasons, strict=True) if reason is None]
    skipped = [Skipped(n, r) for n, r in zip(names, reasons, strict=True) if r is not None]
    broken = [item for item in skipped if Path(item.path).suffix.lower() not in SIDECARS]
    _judge(root, num_good=len(good), broken=broken)
    sizes = [(root / name).stat().st_size for name in good]
    classes, targets = _class_folders(root, good, labels=labels)
    return PhotoSet(
        name=str(root),
        source=_Files(root, good),
        indices=np.arange(len(good), dtype=np.int64),
        fingerprint=fingerprint_of(
            Path(name).as_posix() + f" {size}" for name, size in zip(good, sizes, strict=True)
        ),
        labels=targets,
        classes=classes,
        skipped=tuple(skipped),
    )


def _judge(root: Path, *, num_good: int, broken: list[Skipped]) -> None:
    listing = "; ".join(f"{item.path}: {item.reason}" for item in broken[:_LISTED])
    listing += f"; and {len(broken) - _LISTED} more" if len(broken) > _LISTED else ""
    if num_good == 0:
        found = f"only files that are not images ({listing})" if broken else "no image at all"
        raise DataError(
            f"{root} holds {found}; give a folder with photos (JPEG, PNG, WebP, TIFF, BMP, GIF)"
        )
    total = num_good + len(broken)
    if len(broken) > MAX_BROKEN_SHARE * total:
        raise DataError(
            f"{root}: {len(broken)} of {total} files cannot be read as photos, more than "
            f"{MAX_BROKEN_SHARE:.0%} ({listing}); remove or replace them"
        )
    if broken:
        warn(f"{root}: {len(broken)} of {total} files skipped ({listing})")


def _class_folders(
    root: Path, names: list[str], *, labels: bool | None
) -> tuple[tuple[str, ...] | None, npt.NDArray[np.int64] | None]:
    """Labels from the first folder level, as in ImageFolder: `root/CLASS/.../photo.jpg`."""
    if labels is False:
        return None, None
    tops = [name.split(os.sep, 1)[0] if os.sep in name else None for name in names]
    classes = tuple(sorted({top for top in tops if top is not None}))
    if None in tops or len(classes) < 2:
        if labels:
            found = (
                "photos that lie in no class folder"
                if None in tops
                else f"one class folder, {', '.join(classes)}"
            )
            raise DataError(
                f"{root}: labels were asked for, but it holds {found}; lay it out as "
                f"{root}/CLASS/photo.jpg"
            )
        return None, None
    number = {name: index for index, name in enumerate(classes)}
    return classes, np.array([number[top] for top in tops if top is not None], dtype=np.int64)
