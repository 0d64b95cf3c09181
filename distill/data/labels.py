"""Which photos are for learning and which for testing; and lists of a few labels.

Everything here is drawn per class and by a seed, so that the same call gives the same photos on
every machine.
"""

import dataclasses
import json
import posixpath
import re
import unicodedata
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from edgeseed.core.console import count_of, warn
from edgeseed.core.errors import DataError, UsageError
from edgeseed.core.files import atomic_file
from edgeseed.core.photos import PhotoSet, open_photos, shared_photos

Indices = npt.NDArray[np.int64]
_TEST_SHARE = 0.2
_LISTED = 5


@dataclass(frozen=True, kw_only=True)
class Split:
    """Labelled photos to learn from and to test on.

    Attributes:
        train: To learn from.
        test: To test on; its labels count the classes as `train` does.
        classes: Class names.
        description: Where the test photos came from, for the result.
    """

    train: PhotoSet
    test: PhotoSet
    classes: tuple[str, ...]
    description: str

    @property
    def held_out(self) -> PhotoSet | None:
        """The test photos where they are a share of the same set, else None."""
        is_share = self.test.whole != "" and self.test.whole == self.train.whole
        return self.test if is_share else None


def split_labelled(
    data: str | Path, *, test_data: str | Path | None = None, seed: int = 0
) -> Split:
    """Opens labelled photos and their test photos.

    Args:
        data: Class folders or a named set, as `open_photos` takes them.
        test_data: The same for the test photos. Without it, a named set's own test split is used,
            else a fifth of `data`, drawn per class.
        seed: Of that draw.

    Raises:
        DataError: If there are no labels, fewer than two classes, or test classes that `data`
        lacks.
    """
    photos = open_photos(data, labels=True)
    classes = _classes_of(photos)
    if test_data is not None:
        test = _count_classes_as(classes, open_photos(test_data, labels=True), data)
        return Split(train=photos, test=test, classes=classes, description=f"test data {test_data}")
    own = photos.test()
    if own is not None:
        return Split(
            train=photos, test=own, classes=classes, description=f"its own test split {own.name}"
        )
    _check_two_each(photos)
    test_indices, train_indices = draw_share(labels_of(photos), share=_TEST_SHARE, seed=seed)
    return Split(
        train=photos.subset(train_indices),
        test=photos.subset(test_indices),
        classes=classes,
        description=f"a random fifth of {data}, per class, seed {seed}",
    )


def check_apart(train: PhotoSet, test: PhotoSet) -> None:
    """Tells test photos that were learnt from: kNN finds each of them, 100 % of nothing.

    Raises:
        DataError: If the two are the same photos.
    """
    shared = shared_photos(test, train)
    if shared.count == shared.num_compared and len(train) == len(test):
        raise DataError(
            f"the test photos, {test.name}, are those that are learnt from, {train.name}: what was "
            "learnt by heart would be measured; give other test data, or leave it out"
        )
    if shared.count:
        warn(
            f"{shared.count} of {count_of(shared.num_compared, 'test photo')} that were compared "
            f"are copies of photos of {train.name} that are learnt from: the accuracy is too high"
        )


def _check_two_each(photos: PhotoSet) -> None:
    labels, counts = np.unique(labels_of(photos), return_counts=True)
    lonely = [_class_name(photos, int(label)) for label in labels[counts < 2]]
    if lonely:
        raise DataError(
            f"{photos.name}: class {_some(lonely)} has one photo, and two are needed, to learn and "
            "to test; add photos, remove the class, or give test data"
        )


def labels_of(photos: PhotoSet) -> Indices:
    """The (N,) class indices of labelled photos."""
    assert photos.labels is not None
    return photos.labels


def _classes_of(photos: PhotoSet) -> tuple[str, ...]:
    labels = labels_of(photos)
    classes = photos.classes or tuple(str(index) for index in range(int(labels.max()) + 1))
    if len(np.unique(labels)) < 2:
        raise DataError(
            f"{photos.name} has photos of one class only; two classes are needed to tell apart"
        )
    return classes


def _count_classes_as(classes: Sequence[str], test: PhotoSet, data: str | Path) -> PhotoSet:
    """Test photos whose labels index `classes`: two folder trees may not hold the same folders."""
    names = test.classes or tuple(str(index) for index in range(int(labels_of(test).max()) + 1))
    unknown = [name for name in names if name not in classes]
    if unknown:
        raise DataError(
            f"{test.name} has the classes {_some(unknown)}, which {data} has not; use the same "
            "class folders in both"
        )
    number = np.array([classes.index(name) for name in names], dtype=np.int64)
    return relabelled(test, labels=number[labels_of(test)], classes=tuple(classes))


def relabelled(photos: PhotoSet, *, labels: Indices, classes: tuple[str, ...]) -> PhotoSet:
    """The same photos under other labels."""
    return dataclasses.replace(photos, labels=labels, classes=classes)


def labels_as(classes: Sequence[str] | None, photos: PhotoSet) -> Indices:
    """The (N,) labels of photos as numbers of `classes`, by name; -1 for a class that is not there.

    A teacher's classes need not be in the order of the photos' folders: taken by number, labels
    would mean something else to it.

    Args:
        classes: Such as a teacher's; None keeps the photos' own numbers.
        photos: Labelled photos; without class names their numbers are kept as well.
    """
    labels = labels_of(photos)
    if classes is None or photos.classes is None or tuple(classes) == photos.classes:
        return labels
    unknown = [name for name in photos.classes if name not in classes]
    if unknown:
        warn(
            f"{photos.name}: labels of the classes {_some(unknown)} are left out: not the teacher's"
        )
    numbers = [classes.index(name) if name in classes else -1 for name in photos.classes]
    return np.array(numbers, dtype=np.int64)[labels]


def _some(names: Sequence[str]) -> str:
    more = f" and {len(names) - _LISTED} more" if len(names) > _LISTED else ""
    return ", ".join(names[:_LISTED]) + more


def draw_share(labels: Indices, *, share: float, seed: int) -> tuple[Indices, Indices]:
    """Draws a share of each class; a class keeps at least one photo on the other side.

    Returns:
        The drawn indices and the rest, each sorted.
    """
    generator = np.random.default_rng(seed)
    drawn = []
    for label in np.unique(labels):
        members = generator.permutation(np.flatnonzero(labels == label))
        count = min(max(round(share * len(members)), 1), len(members) - 1)
        drawn.append(members[:count])
    chosen = np.sort(np.concatenate(drawn)).astype(np.int64)
    return chosen, np.setdiff1d(np.arange(len(labels), dtype=np.int64), chosen)


# --------------------------------------------------------------------------- a few labels


@dataclass(frozen=True, kw_only=True)
class LabelList:
    """Which photos may be used with their labels.

    Attributes:
        indices: Into the photos they were chosen from, sorted.
        description: How they were chosen.
    """

    indices: Indices
    description: str


def choose_labels(
    photos: PhotoSet, labels: str, *, seed: int, held_out: PhotoSet | None = None
) -> LabelList:
    """Chooses photos whose labels may be used.

    Args:
        photos: Labelled photos.
        labels: A share per class ("1%", "10%", "100%"), a number per class ("5pc"), or a file
            that `save_labels` wrote: one photo a line, as SimCLR's lists.
        seed: Of the draw; a file needs none.
        held_out: Photos that were kept to test on, for the message where a file names one.

    Raises:
        UsageError: If `labels` is none of these.
        DataError: If a class has too few photos, or the file names photos that are not there.
    """
    share = re.fullmatch(r"(\d+(?:\.\d+)?)\s*%", labels)
    if share:
        return _choose_share(photos, float(share[1]) / 100, text=labels, seed=seed)
    number = re.fullmatch(r"(\d+)pc", labels)
    if number:
        return _choose_number(photos, int(number[1]), seed=seed)
    path = Path(labels)
    if not _is_file(path):
        raise UsageError(
            f"labels {labels[:80]!r} is neither a share (1%), nor a number per class (5pc), nor a "
            "file"
        )
    return _read_labels(photos, path, held_out)


def _is_file(path: Path) -> bool:
    try:
        return path.is_file()
    except OSError:  # such as too long a name
        return False


def _choose_share(photos: PhotoSet, share: float, *, text: str, seed: int) -> LabelList:
    if not 0 < share <= 1:
        raise UsageError(f"labels {text} must be more than 0% and at most 100%")
    targets = labels_of(photos)
    counts = {int(label): int((targets == label).sum()) for label in np.unique(targets)}
    smallest = min(counts, key=lambda label: counts[label])
    if round(share * counts[smallest]) < 1:
        raise DataError(
            f"labels {text} of {photos.name}: class {_class_name(photos, smallest)} has "
            f"{counts[smallest]} photos, less than one would be left; use a larger share, or 5pc "
            "for five photos of each class"
        )
    chosen = {label: round(share * count) for label, count in counts.items()}
    return LabelList(
        indices=_draw(targets, chosen, seed=seed), description=f"{text} of each class, seed {seed}"
    )


def _choose_number(photos: PhotoSet, number: int, *, seed: int) -> LabelList:
    if number < 1:
        raise UsageError("labels 0pc must be at least 1pc: one photo of each class")
    targets = labels_of(photos)
    for label in np.unique(targets):
        count = int((targets == label).sum())
        if count < number:
            raise DataError(
                f"labels {number}pc of {photos.name}: class {_class_name(photos, int(label))} has "
                f"{count} photos; use at most {count}pc"
            )
    chosen = {int(label): number for label in np.unique(targets)}
    return LabelList(
        indices=_draw(targets, chosen, seed=seed),
        description=f"{number} of each class, seed {seed}",
    )


def _draw(targets: Indices, numbers: dict[int, int], *, seed: int) -> Indices:
    generator = np.random.default_rng(seed)
    drawn = [
        generator.permutation(np.flatnonzero(targets == label))[:number]
        for label, number in numbers.items()
    ]
    return np.sort(np.concatenate(drawn)).astype(np.int64)


def _class_name(photos: PhotoSet, label: int) -> str:
    return str(label) if photos.classes is None else photos.classes[label]


def photo_names(photos: PhotoSet) -> list[str]:
    """What each photo is called in a label list: its path below the folder, or its number."""
    name = getattr(photos.source, "name", None)
    if name is None:
        return [str(index) for index in photos.indices]
    return [Path(name(int(index))).as_posix() for index in photos.indices]


def save_labels(path: Path, photos: PhotoSet, chosen: LabelList) -> None:
    """Writes a label list: a comment that says how it was chosen, then one photo a line.

    A name that a reader would take for something else, such as one with a line break or a "#" at
    its begin, is written as a JSON string.
    """
    names = photo_names(photos)
    lines = [
        f"# {' '.join(photos.name.split())}: {chosen.description}",
        *(_as_line(names[index]) for index in chosen.indices),
    ]
    with atomic_file(path) as temporary:
        # Names of files may be bytes that are no text at all.
        temporary.write_bytes(("\n".join(lines) + "\n").encode("utf-8", "surrogateescape"))


def _as_line(name: str) -> str:
    is_plain = name == name.strip() and len(name.splitlines()) == 1 and name[0] not in '#"'
    return name if is_plain else json.dumps(name)


def _read_lines(path: Path) -> list[str]:
    text = path.read_bytes().decode("utf-8", "surrogateescape").removeprefix("\ufeff")
    lines = (line.strip() for line in text.split("\n"))
    return [_as_name(line) for line in lines if line and not line.startswith("#")]


def _as_name(line: str) -> str:
    if line[0] != '"':
        return line
    try:
        return str(json.loads(line))
    except ValueError:
        return line


def _read_labels(photos: PhotoSet, path: Path, held_out: PhotoSet | None) -> LabelList:
    wanted = _read_lines(path)
    if not wanted:
        raise DataError(f"{path} names no photo; it should hold one a line")
    names = photo_names(photos)
    numbers = _numbers_by_name(names)
    found = [_find(name, numbers, photos.name) for name in wanted]
    missing = [name for name, number in zip(wanted, found, strict=True) if number is None]
    if missing:
        raise DataError(_why_missing(missing, names, photos, path, held_out))
    chosen = np.unique(np.array(found, dtype=np.int64))
    present = np.unique(labels_of(photos)[chosen])
    if len(present) < 2:
        raise DataError(f"{path} names photos of one class only; two classes are needed")
    return LabelList(indices=chosen, description=f"the list {path}")


def _find(name: str, numbers: Mapping[str, int], root: str) -> int | None:
    """The photo of a line, however its path was written."""
    posix = name.replace("\\", "/")
    folder = root.replace("\\", "/").rstrip("/")
    for form in (name, posix, unicodedata.normalize("NFC", posix)):
        plain = posixpath.normpath(form)
        below = (plain.removeprefix(f"{start}/") for start in (folder, posixpath.basename(folder)))
        for candidate in (form, plain, *below):
            if candidate in numbers:
                return numbers[candidate]
    return None


def _why_missing(
    missing: Sequence[str], names: Sequence[str], photos: PhotoSet, path: Path,
    held_out: PhotoSet | None,
) -> str:  # fmt: skip
    """What is wrong with lines that name no photo of the set, each kind in its own words."""
    tested = {} if held_out is None else _numbers_by_name(photo_names(held_out))
    in_test = [name for name in missing if _find(name, tested, photos.name) is not None]
    if in_test:
        return (
            f"{path} names {count_of(len(in_test), 'photo')} that {photos.name} keeps to test on: "
            f"{_some(in_test)}; use the --seed with which the list was made, or give --test-data"
        )
    bare = Counter(name.rpartition("/")[2] for name in names)
    doubtful = [name for name in missing if bare[name] > 1]
    if doubtful:
        return (
            f"{path} names {count_of(len(doubtful), 'photo')} that several folders of "
            f"{photos.name} have: {_some(doubtful)}; write them with their folder"
        )
    broken = {skipped.path for skipped in photos.skipped}
    unreadable = [name for name in missing if name in broken]
    if unreadable:
        return (
            f"{path} names {count_of(len(unreadable), 'photo')} of {photos.name} that cannot be "
            f"read: {_some(unreadable)}; replace them, or take them from the list"
        )
    return (
        f"{path} names {count_of(len(missing), 'photo')} that {photos.name} has not: "
        f"{_some(missing)}; give the list of these photos, with paths as they are below that "
        "folder"
    )


def _numbers_by_name(names: list[str]) -> dict[str, int]:
    """Index by path, and by bare file name where that is unique: SimCLR's lists have no folders.

    Also by the path in Unicode's composed form: a Mac may have written the other one.
    """
    numbers = {name: index for index, name in enumerate(names)}
    for index, name in enumerate(names):
        numbers.setdefault(unicodedata.normalize("NFC", name), index)
    bare = [name.rpartition("/")[2] for name in names]
    counts = Counter(bare)
    for index, name in enumerate(bare):
        if counts[name] == 1:
            numbers.setdefault(name, index)
    return numbers
