"""Photos that a list names: a text file with one path a line, or a table with a column of paths."""

import csv
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np

from edgeseed.core.console import progress, warn
from edgeseed.core.errors import DataError
from edgeseed.core.photos.accounting import Skipped, judge_skipped
from edgeseed.core.photos.folder import Files, check_file
from edgeseed.core.photos.photo_set import PhotoSet, fingerprint_of

SUFFIXES = (".txt", ".csv", ".tsv")
_PATHS = ("path", "file", "file_name", "filename", "image", "photo")
_LABELS = ("label", "class", "target", "category")


def open_list(path: Path, *, labels: bool | None) -> PhotoSet:
    """Opens the photos that a list names.

    Args:
        path: A text file: a path a line, and behind a tab its class, if there is one; or a table
            (.csv, .tsv) whose first line names the columns, one of them `path` or `file_name`, and
            perhaps `label`. Paths start at the list's folder.
        labels: As `open_photos` takes it.

    Raises:
        DataError: If it is no such list, names a photo twice, or as for a folder.
    """
    rows = _read_rows(path)
    names = [name for name, _ in rows]
    repeated = len(names) - len(set(names))
    if repeated:
        raise DataError(f"{path} names {repeated} photos twice; each may be there once")
    with ThreadPoolExecutor() as pool, progress(f"checking {path.name}", len(rows), "files") as bar:
        reasons = []
        for reason in pool.map(check_file, (path.parent / name for name in names)):
            reasons.append(reason)
            bar.advance()
    skipped = [Skipped(n, r) for n, r in zip(names, reasons, strict=True) if r is not None]
    judge_skipped(str(path), num_used=len(names) - len(skipped), skipped=skipped)
    used = [row for row, reason in zip(rows, reasons, strict=True) if reason is None]
    lacking = [name for name, label in used if not label]
    if labels and lacking:
        raise DataError(
            f"{path}: labels were asked for, but {len(lacking)} of {len(used)} photos have none, "
            f"such as {lacking[0]}"
        )
    if lacking and len(lacking) < len(used) and labels is None:
        warn(f"{path}: {len(lacking)} of {len(used)} photos have no label: no labels are taken")
    classes = None
    if labels is not False and not lacking:
        classes = tuple(sorted({label for _, label in used}))
    number = {name: index for index, name in enumerate(classes or ())}
    sizes = [(path.parent / name).stat().st_size for name, _ in used]
    return PhotoSet(
        name=str(path),
        source=Files(path.parent, [name for name, _ in used]),
        indices=np.arange(len(used), dtype=np.int64),
        fingerprint=fingerprint_of(
            f"{Path(name).as_posix()} {size}" for (name, _), size in zip(used, sizes, strict=True)
        ),
        labels=None
        if classes is None
        else np.array([number[label] for _, label in used], dtype=np.int64),
        classes=classes,
        skipped=tuple(skipped),
    )


def _read_rows(path: Path) -> list[tuple[str, str]]:
    """Path and label of each line; the label is empty where there is none."""
    try:
        text = path.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"{path} cannot be read as a list of photos ({error})") from error
    if "\0" in text:
        raise DataError(f"{path} holds a zero byte: it is no list of photos")
    lines = [line for line in text.split("\n") if line.strip()]
    if path.suffix == ".txt":
        parts = [line.strip("\r").partition("\t") for line in lines if not line.startswith("#")]
        rows = [(name.strip(), label.strip()) for name, _, label in parts]
    else:
        rows = _read_table(path, text)
    if not rows:
        raise DataError(f"{path} names no photo; it should hold one a line")
    return rows


def _read_table(path: Path, text: str) -> list[tuple[str, str]]:
    delimiter = "\t" if path.suffix == ".tsv" else ","
    try:
        table = csv.DictReader(text.splitlines(), delimiter=delimiter, strict=True)
        columns = {(name or "").strip().lower(): name for name in table.fieldnames or ()}
        paths = next((columns[name] for name in _PATHS if name in columns), None)
        if paths is None:
            raise DataError(
                f"{path} has the columns {', '.join(map(repr, columns))}; one named path or "
                "file_name is expected"
            )
        label = next((columns[name] for name in _LABELS if name in columns), None)
        return [
            ((row[paths] or "").strip(), "" if label is None else (row[label] or "").strip())
            for row in table
        ]
    except csv.Error as error:
        raise DataError(f"{path} is no whole table ({error})") from error
