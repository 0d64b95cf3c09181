"""Several sets as one; readers of files are joined in test_readers.py."""

import numpy as np
import numpy.typing as npt
import pytest

from edgeseed.core.errors import DataError
from edgeseed.core.photos import PhotoSet, photos_from_arrays
from edgeseed.core.photos.joined import join_photos


def some(
    count: int, *, name: str, classes: tuple[str, ...] | None = None, seed: int = 0
) -> PhotoSet:
    pixels: npt.NDArray[np.uint8] = np.random.default_rng(seed).integers(
        0, 256, (count, 6, 7, 3), np.uint8
    )
    labels = None if classes is None else np.arange(count, dtype=np.int64) % len(classes)
    return photos_from_arrays(pixels, labels, name=name, classes=classes)


def test_photos_come_in_the_order_of_the_sets() -> None:
    one, two = some(3, name="one"), some(4, name="two", seed=1)
    both = join_photos("both", [one, two], labels=None)
    assert len(both) == 7
    for index in range(7):
        expected = one.image(index) if index < 3 else two.image(index - 3)
        assert both.image(index).tobytes() == expected.tobytes()
    assert both.draft(5, 4).size == two.draft(2, 4).size
    assert both.mark(4).num_bytes == two.mark(1).num_bytes
    assert both.labels is None


def test_photos_of_a_part_are_those_that_the_part_has() -> None:
    one = some(5, name="one").subset(np.array([4, 2]))
    both = join_photos("both", [one, some(1, name="two", seed=1)], labels=None)
    assert both.image(1).tobytes() == some(5, name="one").image(2).tobytes()
    assert both.source.name(1) == "one/2"  # type: ignore[attr-defined]  # what label lists ask


def test_classes_of_one_name_are_one_class() -> None:
    parts = [
        some(3, name="one", classes=("dog", "owl")), some(2, name="two", classes=("cat", "dog")),
    ]  # fmt: skip
    both = join_photos("both", parts, labels=None)
    assert both.classes == ("cat", "dog", "owl")
    assert both.labels is not None
    assert [both.classes[label] for label in both.labels] == ["dog", "owl", "dog", "cat", "dog"]


def test_sets_of_which_only_some_have_labels_are_an_error_unless_none_are_asked_for() -> None:
    parts = [some(2, name="bare"), some(2, name="named", classes=("a", "b"))]
    with pytest.raises(DataError, match="both: bare has no labels, and the others have"):
        join_photos("both", parts, labels=None)
    assert join_photos("both", parts, labels=False).labels is None


def test_the_fingerprint_tells_the_sets_and_their_order() -> None:
    one, two = some(2, name="one"), some(2, name="two", seed=1)
    digests = {
        join_photos("x", parts, labels=None).fingerprint
        for parts in ([one, two], [two, one], [one], [one, one])
    }
    assert len(digests) == 4
