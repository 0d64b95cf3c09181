"""Photos inside files of other kinds: zip archives, parquet files, Hugging Face datasets.

A photo is read from its place, in any order, as one of a folder is.
"""

import collections
import json
import lzma
import os
import struct
import threading
import zipfile
import zlib
from collections.abc import Sequence
from pathlib import Path, PurePosixPath
from typing import Any, cast

import numpy as np
import numpy.typing as npt
from PIL import Image

from edgeseed.core.console import progress
from edgeseed.core.errors import DataError
from edgeseed.core.optional import require
from edgeseed.core.photos.accounting import (
    SIDECARS,
    Skipped,
    class_folders,
    judge_skipped,
)
from edgeseed.core.photos.decoding import Draft, decode, decode_draft
from edgeseed.core.photos.overlap import Mark, sample_bytes
from edgeseed.core.photos.photo_set import PhotoSet, fingerprint_of
from edgeseed.core.photos.shards import IMAGE_SUFFIXES, MAX_PHOTO_BYTES

HUGGING_FACE = "hf:"
"""What the name of a Hugging Face dataset starts with."""
_PARQUET = ".parquet"
_KEPT_GROUPS = 2
# What zipfile and its decompressors raise of broken bytes; pyarrow's errors are among these.
_UNREADABLE = (
    OSError, ValueError, RuntimeError, LookupError, EOFError, zipfile.BadZipFile, zlib.error,
    lzma.LZMAError, struct.error,
)  # fmt: skip


class _Packed:
    """Photos by name, size and bytes. Survives pickling and forks: files are opened where read."""

    def __init__(self, source: str, names: Sequence[str], sizes: Sequence[int]) -> None:
        self._source = source
        self._names = list(names)
        self._sizes = np.array(sizes, dtype=np.int64)
        self._opened: tuple[int, Any] | None = None
        self._lock = threading.Lock()

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_opened": None, "_lock": None}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state, _lock=threading.Lock())

    def __len__(self) -> int:
        return len(self._names)

    def name(self, index: int) -> str:
        """As label lists and messages have it."""
        return self._names[index]

    def image(self, index: int, channels: int = 3) -> Image.Image:
        """The photo at `index`, upright, 8-bit RGB."""
        return decode(
            self._read(index), name=f"{self._source}: {self.name(index)}", channels=channels
        )

    def draft(self, index: int, side: int, channels: int = 3) -> Draft:
        """As `image`, but a JPEG may come smaller."""
        return decode_draft(
            self._read(index), side=side, name=f"{self._source}: {self.name(index)}",
            channels=channels,
        )  # fmt: skip

    def mark(self, index: int) -> Mark:
        """What tells copies of it, without decoding."""
        return Mark(int(self._sizes[index]), lambda: sample_bytes(self._read(index)))

    def _read(self, index: int) -> bytes:
        with self._lock:
            # A fork shares the place in an open file with its parent, so each opens its own.
            if self._opened is None or self._opened[0] != os.getpid():
                self._opened = (os.getpid(), self._open())
            try:
                return self._read_from(self._opened[1], index)
            except _UNREADABLE as error:
                raise DataError(
                    f"{self._source}: {self.name(index)} cannot be read "
                    f"({' '.join(str(error).split())[:160]})"
                ) from error

    def _open(self) -> Any:
        raise NotImplementedError

    def _read_from(self, opened: Any, index: int) -> bytes:
        raise NotImplementedError


# --------------------------------------------------------------------------- zip


class _Zip(_Packed):
    def __init__(
        self, path: Path, members: Sequence[str], names: Sequence[str], sizes: Any
    ) -> None:
        super().__init__(str(path), names, sizes)
        self._members = list(members)

    def _open(self) -> zipfile.ZipFile:
        return zipfile.ZipFile(self._source)

    def _read_from(self, opened: zipfile.ZipFile, index: int) -> bytes:
        return opened.read(self._members[index])


def open_zip(path: Path, *, labels: bool | None) -> PhotoSet:
    """Opens the photos of a zip archive; class folders in it are labels.

    Args:
        path: The archive.
        labels: As `open_photos` takes it.

    Raises:
        DataError: If it is no whole archive or encrypted, or as for a folder.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            members = [item for item in archive.infolist() if not item.is_dir()]
    except _UNREADABLE as error:
        raise DataError(f"{path} is not a whole zip archive ({error}); copy it again") from error
    visible = [item for item in members if not _is_hidden(item.filename)]
    if any(item.flag_bits & 1 for item in visible):
        raise DataError(f"{path} is encrypted; unpack it into a folder")
    root = _common_root([item.filename for item in visible])
    photos, skipped, num_sidecars = [], [], 0
    for item in sorted(visible, key=lambda item: item.filename):
        name = item.filename.removeprefix(root)
        suffix = PurePosixPath(name).suffix.lower()
        if suffix in SIDECARS:
            num_sidecars += 1
        elif item.file_size > MAX_PHOTO_BYTES:
            skipped.append(Skipped(name, "too large for a photo"))
        elif suffix.removeprefix(".") not in IMAGE_SUFFIXES:
            skipped.append(Skipped(name, "no image"))
        else:
            photos.append((item, name))
    names = [name for _, name in photos]
    labelled = class_folders(str(path), names, labels=labels, separator="/")
    judge_skipped(str(path), num_used=len(labelled.kept), skipped=[*skipped, *labelled.strays])
    kept = [photos[index] for index in labelled.kept]
    sizes = [item.file_size for item, _ in kept]
    names = [name for _, name in kept]
    return PhotoSet(
        name=str(path),
        source=_Zip(path, [item.filename for item, _ in kept], names, sizes),
        indices=np.arange(len(kept), dtype=np.int64),
        # As of a folder: a zip of a folder is the same set.
        fingerprint=fingerprint_of(
            f"{name} {size}" for name, size in zip(names, sizes, strict=True)
        ),
        labels=labelled.targets,
        classes=labelled.classes,
        skipped=(*skipped, *labelled.strays),
        num_sidecars=num_sidecars,
    )


def _is_hidden(member: str) -> bool:
    return any(part[:1] == "." or part == "__MACOSX" for part in PurePosixPath(member).parts)


def _common_root(members: Sequence[str]) -> str:
    """The one folder that holds all members, as most programs write a zip of a folder."""
    tops = {member.partition("/")[0] for member in members if "/" in member}
    is_common = len(tops) == 1 and all("/" in member for member in members)
    return f"{next(iter(tops))}/" if is_common else ""


# --------------------------------------------------------------------------- tables of photos


class _Parquet(_Packed):
    """Photos in a column; the row groups read last are kept."""

    def __init__(
        self, files: Sequence[Path], column: str, rows: npt.NDArray[np.int64],
        names: Sequence[str], sizes: Any,
    ) -> None:  # fmt: skip
        super().__init__(str(files[0].parent if len(files) > 1 else files[0]), names, sizes)
        self._files = [str(path) for path in files]
        self._column = column
        self._rows = rows
        """(N, 3): file, row group and row in it."""

    def _open(self) -> Any:
        return collections.OrderedDict[tuple[int, int], Any]()

    def _read_from(self, opened: Any, index: int) -> bytes:
        file, group, row = (int(value) for value in self._rows[index])
        if (file, group) not in opened:
            parquet: Any = require("pyarrow.parquet", extra="parquet", why="reading parquet files")
            with parquet.ParquetFile(self._files[file]) as table:
                column = table.read_row_group(group, columns=[self._column]).column(0)
            opened[file, group] = column
            while len(opened) > _KEPT_GROUPS:
                opened.popitem(last=False)
        return cast(bytes, _bytes_of(opened[file, group][row].as_py()))


def is_parquet(source: str) -> bool:
    """Whether a set's name means parquet files: one, or a folder of nothing else."""
    path = Path(source)
    if path.is_dir():
        names = [item.name for item in path.iterdir() if not item.name.startswith(".")]
        others = [name for name in names if Path(name).suffix.lower() not in SIDECARS]
        return not others and any(name.endswith(_PARQUET) for name in names)
    return source.endswith(_PARQUET)


def open_parquet(path: Path, *, labels: bool | None) -> PhotoSet:
    """Opens the photos in a column of parquet files, as Hugging Face publishes sets.

    Args:
        path: A file, or a folder of them.
        labels: As `open_photos` takes it. They are in the column `label`.

    Raises:
        MissingDependencyError: If pyarrow is not installed.
        DataError: If a file is broken or holds no photos, or labels lack.
    """
    parquet: Any = require("pyarrow.parquet", extra="parquet", why="reading parquet files")
    files = sorted(path.glob(f"*{_PARQUET}")) if path.is_dir() else [path]
    rows: list[tuple[int, int, int]] = []
    names: list[str] = []
    sizes: list[int] = []
    targets: list[Any] = []
    skipped: list[Skipped] = []
    classes: tuple[str, ...] | None = None
    column = label = ""
    with progress("indexing", len(files), "files") as bar:
        for number, file in enumerate(files):
            try:
                with parquet.ParquetFile(file) as table:
                    column, label = _columns(table.schema_arrow, file)
                    classes = _class_names(table.schema_arrow, label) or classes
                    wanted = [column, label] if label else [column]
                    for group in range(table.num_row_groups):
                        found = table.read_row_group(group, columns=wanted)
                        for row, value in enumerate(found.column(column).to_pylist()):
                            name = f"{file.name}/{len(names) + len(skipped):06}"
                            content = _bytes_of(value)
                            if not content:
                                skipped.append(Skipped(name, "the row holds no photo"))
                                continue
                            rows.append((number, group, row))
                            names.append(name)
                            sizes.append(len(content))
                            targets.append(found.column(label)[row].as_py() if label else None)
            except _UNREADABLE as error:
                if isinstance(error, DataError):
                    raise
                raise DataError(
                    f"{file} is not a whole parquet file ({' '.join(str(error).split())[:160]}); "
                    "fetch it again"
                ) from error
            bar.advance()
    judge_skipped(str(path), num_used=len(names), skipped=skipped)
    indices, known = _table_labels(str(path), targets, classes, labels=labels)
    return PhotoSet(
        name=str(path),
        source=_Parquet(files, column, np.array(rows, dtype=np.int64), names, sizes),
        indices=np.arange(len(names), dtype=np.int64),
        fingerprint=fingerprint_of(
            f"{name} {size}" for name, size in zip(names, sizes, strict=True)
        ),
        labels=indices,
        classes=known,
        skipped=tuple(skipped),
    )


def _bytes_of(value: Any) -> bytes | None:
    """A photo is bytes, or a record with `bytes`, as the datasets library writes it."""
    found = value.get("bytes") if isinstance(value, dict) else value
    return found if isinstance(found, bytes) else None


def _columns(schema: Any, file: Path) -> tuple[str, str]:
    """The columns of photos and of labels; the latter is empty where there is none."""
    names = list(schema.names)
    photos = next((name for name in ("image", "img", "photo", "bytes") if name in names), None)
    if photos is None:
        raise DataError(
            f"{file} has the columns {', '.join(names[:8])}; photos are expected in one named image"
        )
    return photos, next((name for name in ("label", "labels", "class") if name in names), "")


def _class_names(schema: Any, label: str) -> tuple[str, ...] | None:
    """The names of numbered classes, from what the datasets library leaves in the file."""
    try:
        described = json.loads((schema.metadata or {})[b"huggingface"])
        names = described["info"]["features"][label]["names"]
    except (KeyError, TypeError, ValueError):
        return None
    return tuple(map(str, names)) if isinstance(names, list) else None


def _table_labels(
    source: str, values: Sequence[Any], classes: tuple[str, ...] | None, *, labels: bool | None
) -> tuple[npt.NDArray[np.int64] | None, tuple[str, ...] | None]:
    """Class indices from a column of numbers or names.

    Raises:
        DataError: If labels are demanded and lack, or a number has no name.
    """
    lacking = sum(value is None for value in values)
    if labels is False or lacking:
        if labels:
            raise DataError(
                f"{source}: labels were asked for, but {lacking} of {len(values)} photos have none"
            )
        return None, None
    if classes is not None and all(isinstance(value, int) for value in values):
        if min(values) < 0 or max(values) >= len(classes):
            raise DataError(
                f"{source} names {len(classes)} classes, and labels go from {min(values)} to "
                f"{max(values)}"
            )
        return np.array(values, dtype=np.int64), classes
    kinds = {type(value) for value in values}
    if len(kinds) != 1 or not kinds <= {int, str}:
        raise DataError(f"{source}: labels are neither all numbers nor all names")
    occurring = sorted(set(values))
    number = {value: index for index, value in enumerate(occurring)}
    targets = np.array([number[value] for value in values], dtype=np.int64)
    return targets, tuple(map(str, occurring))


# --------------------------------------------------------------------------- datasets


class _Dataset(_Packed):
    """A split of a Hugging Face dataset, which maps its files into memory itself."""

    def __init__(
        self, source: str, split: Any, column: str, indices: Sequence[int], names: Sequence[str],
        sizes: Any,
    ) -> None:  # fmt: skip
        super().__init__(source, names, sizes)
        self._split = split
        self._column = column
        self._places = list(indices)

    def _open(self) -> Any:
        return self._split

    def _read_from(self, opened: Any, index: int) -> bytes:
        return cast(bytes, _content(opened[self._places[index]][self._column]))


def _content(value: Any) -> bytes | None:
    if isinstance(value, dict) and not value.get("bytes") and value.get("path"):
        path = Path(value["path"])
        return path.read_bytes() if path.is_file() else None
    return _bytes_of(value)


def open_hugging_face(source: str, *, labels: bool | None) -> PhotoSet:
    """Opens a Hugging Face dataset.

    Args:
        source: `hf:NAME[:SPLIT]`, of the hub or a folder that `save_to_disk` wrote. Without a
            split, `train`.
        labels: As `open_photos` takes it.

    Raises:
        MissingDependencyError: If the datasets library is not installed.
        DataError: If there is no such set or split, it has no photos, or labels lack.
    """
    datasets: Any = require("datasets", extra="datasets", why=f"--data {source}")
    name, _, wanted = source.removeprefix(HUGGING_FACE).partition(":")
    try:
        found = (
            datasets.load_from_disk(name)
            if Path(name).is_dir() and any(Path(name).rglob("state.json"))
            else datasets.load_dataset(name)
        )
        split = found[wanted or "train"] if isinstance(found, dict) else found
    except (OSError, ValueError, KeyError, RuntimeError) as error:
        raise DataError(
            f"{source} cannot be opened ({' '.join(str(error).split())[:200]}); it is "
            "hf:NAME[:SPLIT] of a set on the hub, or of a folder made by save_to_disk"
        ) from error
    columns = [key for key, kind in split.features.items() if isinstance(kind, datasets.Image)]
    if not columns:
        raise DataError(f"{source} has no column of images: {', '.join(split.features)}")
    column = columns[0]
    split = split.cast_column(column, datasets.Image(decode=False))
    label = next((key for key in ("label", "labels", "class") if key in split.features), "")
    photos, skipped = [], []
    with progress("indexing", len(split), "photos") as bar:
        for index, value in enumerate(split[column]):
            content = _content(value)
            if content is None:
                skipped.append(Skipped(f"{index:06}", "the row holds no photo"))
            else:
                photos.append((index, len(content)))
            bar.advance()
    judge_skipped(source, num_used=len(photos), skipped=skipped)
    all_labels = list(split[label]) if label else [None] * len(split)
    targets, classes = _table_labels(
        source,
        [all_labels[index] for index, _ in photos],
        tuple(split.features[label].names) if hasattr(split.features.get(label), "names") else None,
        labels=labels,
    )
    names = [f"{index:06}" for index, _ in photos]
    sizes = [size for _, size in photos]
    return PhotoSet(
        name=source,
        source=_Dataset(source, split, column, [index for index, _ in photos], names, sizes),
        indices=np.arange(len(photos), dtype=np.int64),
        fingerprint=fingerprint_of(
            f"{name} {size}" for name, size in zip(names, sizes, strict=True)
        ),
        labels=targets,
        classes=classes,
        skipped=tuple(skipped),
    )
