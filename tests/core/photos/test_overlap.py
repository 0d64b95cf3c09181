from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from edgeseed.core.photos import (
    Mark,
    PhotoSet,
    Shared,
    count_shared_by_hash,
    open_photos,
    overlap,
    shared_photos,
)
from edgeseed.core.photos.decoding import Draft


def save(path: Path, image: Image.Image, **options: Any) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    image.save(path, **options)
    return path


def test_copies_are_found_under_any_name_and_neighbours_are_not(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
    for index in range(6):
        # As large as a photo, and all of one size: BMP does not compress.
        pixels = rng.integers(0, 255, (128, 128, 3), np.uint8)
        copied = save(tmp_path / "one" / f"{index}.bmp", Image.fromarray(pixels)).read_bytes()
        if index < 4:
            (tmp_path / "two" / f"copy-{index}.bmp").write_bytes(copied)
        else:
            (tmp_path / "two" / f"other-{index}.bmp").write_bytes(copied[:54] + copied[:53:-1])
    one, two = open_photos(tmp_path / "one"), open_photos(tmp_path / "two")
    assert shared_photos(two, one) == Shared(4, 6)
    assert shared_photos(one, one) == Shared(6, 6)
    assert shared_photos(two.subset([4, 5]), one) == Shared(0, 2)
    digits = open_photos("digits")
    assert shared_photos(digits, one) == Shared(0, len(digits))
    # The same without the other set.
    assert count_shared_by_hash(two, [one.photo_hashes]) == Shared(4, 6)
    assert count_shared_by_hash(two.subset([4, 5]), [one.photo_hashes]) == Shared(0, 2)
    assert count_shared_by_hash(digits, [one.photo_hashes]) == Shared(0, len(digits))


@pytest.mark.parametrize("one_size", [False, True])
def test_hashes_tell_which_share_of_other_photos_is_known(
    monkeypatch: pytest.MonkeyPatch, *, one_size: bool
) -> None:
    monkeypatch.setattr(overlap, "_MOST_HASHES", 64)
    rng = np.random.default_rng(0)
    sizes = [4 if one_size else int(rng.integers(1, 40)) for _ in range(800)]
    source = _Bytes([rng.bytes(size * 16) for size in sizes])
    everything = PhotoSet(
        name="all", source=source, indices=np.arange(800), fingerprint="all"
    )  # fmt: skip
    learnt = everything.subset(rng.permutation(600))
    hashes = learnt.photo_hashes
    assert len(hashes) == 64 * 16
    assert hashes == learnt.subset(rng.permutation(600)).photo_hashes
    new = everything.subset(np.arange(600, 800))
    found = count_shared_by_hash(new, [hashes])
    assert found.count == 0
    assert found.num_compared > 5
    # A third of these is new; of a sample of some tens, give or take a seventh.
    mixed = count_shared_by_hash(everything.subset(rng.permutation(np.r_[200:800])), [hashes])
    assert mixed.count / mixed.num_compared == pytest.approx(2 / 3, abs=0.15)
    assert mixed.num_compared > 30
    assert count_shared_by_hash(learnt, [hashes]) == Shared(64, 64)


def test_several_lists_of_hashes_know_what_any_of_them_knows() -> None:
    digits = open_photos("digits")
    halves = [digits.subset(np.arange(0, 300)), digits.subset(np.arange(300, 450))]
    photo_hashes = [half.photo_hashes for half in halves]
    assert count_shared_by_hash(digits.subset(np.arange(600)), photo_hashes) == Shared(450, 600)
    assert count_shared_by_hash(digits, []) == Shared(0, 0)


class _Bytes:
    """Photos that are only bytes."""

    def __init__(self, contents: list[bytes]) -> None:
        self.contents = contents

    def image(self, index: int, channels: int = 3) -> Image.Image:
        raise NotImplementedError

    def draft(self, index: int, side: int, channels: int = 3) -> Draft:
        raise NotImplementedError

    def mark(self, index: int) -> Mark:
        return Mark(len(self.contents[index]), lambda: self.contents[index])
