"""What was found and is not used: counted, named and limited, the same way for every reader.

Of every set: files found = photos used + `skipped` + `num_sidecars`.
"""

import dataclasses
import os
from collections import Counter
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from edgeseed.core.console import count_of, warn
from edgeseed.core.errors import DataError
from edgeseed.core.names import check_class_names

MAX_BROKEN_SHARE = 0.10
"""Of what looks like photos; more than this is an error instead of a warning."""
_LISTED = 5
# Files that lie beside photos by custom; they are passed over without being counted as broken.
SIDECARS = frozenset(
    [
        ".csv", ".db", ".html", ".ini", ".json", ".jsonl", ".lock", ".log", ".md", ".parquet",
        ".py", ".toml", ".tsv", ".txt", ".xml", ".xmp", ".yaml", ".yml",
    ]
)  # fmt: skip


@dataclasses.dataclass(frozen=True, slots=True)
class Skipped:
    """A photo, or what looks like one, that is not used, and why."""

    path: str
    reason: str


def reasons_in_words(reasons: Sequence[str], *, most: int = 3) -> str:
    """The first different reasons, how often each occurs, and how many more there are.

    Args:
        reasons: One for each photo that is not used, alike or not.
        most: How many different ones are written out.
    """
    named = list(Counter(reasons).items())[:most]
    words = [reason if count == 1 else f"{reason} ({count} times)" for reason, count in named]
    left = len(reasons) - sum(count for _, count in named)
    return "; ".join([*words, *([f"and {left} more"] if left else [])])


def judge_skipped(source: str, *, num_used: int, skipped: Sequence[Skipped]) -> None:
    """Warns of what is skipped, and refuses a set of which too much is.

    Args:
        source: What the set is called.
        num_used: Photos that are used.
        skipped: What is not; sidecars are not among these.

    Raises:
        DataError: If no photo is left, or more than a tenth is skipped.
    """
    listing = "; ".join(f"{item.path}: {item.reason}" for item in skipped[:_LISTED])
    listing += f"; and {len(skipped) - _LISTED} more" if len(skipped) > _LISTED else ""
    if num_used == 0:
        found = f"only files that are not images ({listing})" if skipped else "no image at all"
        raise DataError(f"{source} holds {found}; give photos (JPEG, PNG, WebP, TIFF, BMP, GIF)")
    total = num_used + len(skipped)
    if len(skipped) > MAX_BROKEN_SHARE * total:
        raise DataError(
            f"{source}: {len(skipped)} of {total} files cannot be used as photos, more than "
            f"{MAX_BROKEN_SHARE:.0%} ({listing}); remove or replace them"
        )
    if skipped:
        warn(f"{source}: {len(skipped)} of {total} files skipped ({listing})")


@dataclasses.dataclass(frozen=True, slots=True)
class ClassLabels:
    """What class folders say of the photos in them.

    Attributes:
        kept: (N,) which photos are used; all of them without labels.
        targets: (N,) class indices of these, or None.
        classes: Class names, or None.
        strays: Photos that lie beside the class folders.
    """

    kept: npt.NDArray[np.int64]
    targets: npt.NDArray[np.int64] | None = None
    classes: tuple[str, ...] | None = None
    strays: tuple[Skipped, ...] = ()


def class_folders(
    source: str,
    names: Sequence[str],
    *,
    labels: bool | None,
    separator: str = os.sep,
    folders: Sequence[str] = (),
) -> ClassLabels:
    """Labels from the first folder level, as in ImageFolder: `root/CLASS/.../photo.jpg`.

    A few photos beside class folders are skipped: without a class they cannot be used where labels
    are, and to drop all labels for them would train some methods without any.

    Args:
        source: What the set is called.
        names: Paths of the photos below its root.
        labels: As `open_photos` takes it.
        separator: Of folders in `names`.
        folders: All folders of the first level: one without photos is named.

    Raises:
        DataError: If labels are demanded and lack, or a class name has a line break.
    """
    everything = ClassLabels(np.arange(len(names), dtype=np.int64))
    if labels is False:
        return everything
    tops = [name.split(separator, 1)[0] if separator in name else None for name in names]
    counts = Counter(top for top in tops if top is not None)
    classes = tuple(sorted(counts))
    strays = [name for name, top in zip(names, tops, strict=True) if top is None]
    too_many = len(strays) > MAX_BROKEN_SHARE * len(names)
    if len(classes) < 2 or too_many:
        problem = _no_labels(classes, num_strays=len(strays), total=len(names))
        if labels:
            advice = (
                "add a folder of another class"
                if classes and not strays
                else f"lay it out as {source}/CLASS/photo.jpg"
            )
            raise DataError(f"{source}: labels were asked for, but it holds {problem}; {advice}")
        if classes and strays:
            warn(f"{source} holds {problem}: no labels are taken from its folders")
        return everything
    check_class_names(classes, source=source)
    empty = sorted(set(folders) - set(classes))
    if empty:
        warn(f"{source}: no photo in {', '.join(empty[:_LISTED])}: not taken as a class")
    number = {name: index for index, name in enumerate(classes)}
    kept = np.array([index for index, top in enumerate(tops) if top is not None], dtype=np.int64)
    targets = np.array([number[top] for top in tops if top is not None], dtype=np.int64)
    reason = "lies beside the class folders, in none of them"
    return ClassLabels(kept, targets, classes, tuple(Skipped(name, reason) for name in strays))


def _no_labels(classes: tuple[str, ...], *, num_strays: int, total: int) -> str:
    if total == 0:
        return "no photo"
    if num_strays == 0:
        return f"one class folder, {classes[0]}"
    if not classes:
        return "photos that lie in no class folder"
    return f"{count_of(num_strays, 'photo')} of {total} that lie in no class folder"
