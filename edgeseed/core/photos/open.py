"""`open_photos`: from what a user writes after `--data` to a `PhotoSet`."""

import dataclasses
import functools
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from edgeseed.core.errors import DataError
from edgeseed.core.photos.folder import open_folder
from edgeseed.core.photos.joined import join_photos
from edgeseed.core.photos.lists import SUFFIXES, open_list
from edgeseed.core.photos.packed import (
    HUGGING_FACE,
    is_parquet,
    open_hugging_face,
    open_parquet,
    open_zip,
)
from edgeseed.core.photos.photo_set import PhotoSet, photos_from_arrays
from edgeseed.core.photos.shards import are_shards, open_shards
from edgeseed.core.registry import unknown_name


def _open_digits(split: str, folder: str | None) -> PhotoSet:
    """The 1,797 scans of handwritten digits, 8x8 grey, that scikit-learn ships (UCI, CC BY 4.0).

    The first three quarters are the train split. The scans are in the order of collection, so the
    last quarter is mostly by other writers.
    """
    if folder is not None:
        raise DataError("digits ships with scikit-learn and takes no folder; write just: digits")
    pixels, labels = _read_digits()
    border = len(pixels) * 3 // 4
    part = slice(0, border) if split == "train" else slice(border, None)
    return photos_from_arrays(
        pixels[part].copy(),
        labels[part].copy(),
        name="digits" if split == "train" else "digits:test",
        classes=tuple(str(digit) for digit in range(10)),
        open_test=functools.partial(_open_digits, "test", None) if split == "train" else None,
    )


@functools.cache  # a compressed table of text, which an evaluation asks for twice
def _read_digits() -> tuple[npt.NDArray[np.uint8], npt.NDArray[np.int64]]:
    """All scans, (N, 8, 8), and their digits; nobody may change them."""
    from sklearn.datasets import load_digits

    digits: Any = load_digits()
    pixels = np.rint(digits.images * (255.0 / 16.0)).astype(np.uint8)
    return pixels, digits.target.astype(np.int64)


_SHOWN = 200
_NAMED = {"digits": _open_digits}


def open_photos(
    source: str | Path | Sequence[str | Path], *, labels: bool | None = None, min_count: int = 1
) -> PhotoSet:
    """Opens a set of photos.

    Args:
        source: A folder of any nesting (class folders are labels); tar shards, as a folder of
            them or a pattern (`train-{000..127}.tar`, also `https://` and `s3://`); `digits`, whose
            test split is `digits:test`; a zip archive; a list of paths (.txt, .csv, .tsv); parquet
            files; a Hugging Face dataset, `hf:NAME[:SPLIT]`. Several of these as a list, or with
            commas between them.
        labels: True demands labels, False ignores class folders, None takes them if they are there.
        min_count: The least number of photos that makes sense for the caller.

    Raises:
        DataError: If it does not exist, holds no photo or too few, has more than a tenth broken
            files, or lacks the labels that were asked for.
        UnknownNameError: If it is neither a folder nor a known name.
    """
    parts = _parts(source)
    if not parts:
        raise DataError("no set of photos is named; give a folder, or one of the other kinds")
    try:
        opened = [_open(part, labels=labels) for part in parts]
    except OSError as error:  # too long a name, or a folder that may not be looked into
        raise DataError(
            f"{str(source)[:_SHOWN]}: it cannot be opened ({error.strerror or error})"
        ) from error
    photos = opened[0] if len(opened) == 1 else join_photos(",".join(parts), opened, labels=labels)
    if len(photos) < min_count:
        raise DataError(
            f"{source} holds {len(photos)} photos, at least {min_count} are needed; add more"
        )
    return photos


def _parts(source: str | Path | Sequence[str | Path]) -> list[str]:
    """The sets that a name or a list of names means."""
    if not isinstance(source, str):
        return [str(source)] if isinstance(source, Path) else [str(part) for part in source]
    # A comma may belong to a folder's name, or to a pattern of shards such as a-{0,1}.tar.
    if "," not in source or "{" in source or Path(source).exists():
        return [source]
    return [part.strip() for part in source.split(",") if part.strip()] or [source]


def _open(source: str, *, labels: bool | None) -> PhotoSet:
    name, is_test, _ = source.partition(":test") if source.endswith(":test") else (source, "", "")
    name, _, folder = name.partition("=")
    if name in _NAMED and not Path(source).is_dir():
        photos = _NAMED[name]("test" if is_test else "train", folder or None)
        return (
            photos
            if labels is not False
            else dataclasses.replace(photos, labels=None, classes=None)
        )
    if are_shards(source):
        return open_shards(source, labels=labels)
    if source.startswith(HUGGING_FACE):
        return open_hugging_face(source, labels=labels)
    path = Path(source)
    if is_parquet(source) and path.exists():
        return open_parquet(path, labels=labels)
    if path.is_dir():
        return open_folder(path, labels=labels)
    if path.is_file() and path.suffix.lower() == ".zip":
        return open_zip(path, labels=labels)
    if path.is_file() and path.suffix.lower() in SUFFIXES:
        return open_list(path, labels=labels)
    if path.exists():
        raise DataError(
            f"{source} is a file; give the folder that holds the photos, or a .zip, .tar, "
            ".parquet, or a list of paths (.txt, .csv)"
        )
    if os.sep in source or "." in source:
        raise DataError(
            f"{source} does not exist; give a folder of photos, or one of: {', '.join(_NAMED)}"
        )
    raise unknown_name("data set or folder", source, _NAMED)
