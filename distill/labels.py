"""Which photos are for learning and which for testing; and lists of a few labels.

Everything here is drawn per class and by a seed, so that the same call gives the same photos on
every machine.
"""

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from edgeseed.core.errors import DataError
from edgeseed.core.photos import PhotoSet, open_photos

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
        DataError: If there are no labels, fewer than two classes, or test classes that `data` lacks.
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
    test_indices, train_indices = draw_share(labels_of(photos), share=_TEST_SHARE, seed=seed)
    if len(test_indices) == 0:
        raise DataError(
            f"{data} has too few photos a class to hold a fifth out for testing; give test data"
        )
    return Split(
        train=photos.subset(train_indices),
        test=photos.subset(test_indices),
        classes=classes,
        description=f"a random fifth of {data}, per class, seed {seed}",
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
            f"{test.name} has the classes {_some(unknown)}, which {data} has not; use the same class folders in both"
        )
    number = np.array([classes.index(name) for name in names], dtype=np.int64)
    return relabelled(test, labels=number[labels_of(test)], classes=tuple(classes))


def relabelled(photos: PhotoSet, *, labels: Indices, classes: tuple[str, ...]) -> PhotoSet:
    """The same photos under other labels."""
    return dataclasses.replace(photos, labels=labels, classes=classes)


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
