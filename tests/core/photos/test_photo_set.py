from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from edgeseed.core.photos import (
    open_photos,
    photos_from_arrays,
)


def save(path: Path, image: Image.Image, **options: Any) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    image.save(path, **options)
    return path


def photo(
    color: tuple[int, int, int] = (200, 30, 60), size: tuple[int, int] = (12, 8)
) -> Image.Image:
    return Image.new("RGB", size, color)


def test_subset_keeps_photos_and_labels_together() -> None:
    pixels = np.arange(5 * 4, dtype=np.uint8).reshape(5, 2, 2)
    photos = photos_from_arrays(pixels, np.arange(5), name="five").subset([4, 1]).subset([1])
    assert photos.labels is not None
    assert photos.labels.tolist() == [1]
    assert photos.image(0).getpixel((0, 0)) == (4, 4, 4)


def _gradient(width: int, height: int) -> Image.Image:
    y, x = np.mgrid[:height, :width]
    pixels = np.stack([x * 255 / width, y * 255 / height, (x + y) % 64], axis=2)
    return Image.fromarray(pixels.astype(np.uint8))


def test_a_draft_of_a_large_jpeg_is_smaller_and_looks_the_same(tmp_path: Path) -> None:
    _gradient(1200, 900).save(tmp_path / "a.jpg", quality=95)
    photos = open_photos(tmp_path)
    draft, whole = photos.draft(0, 100), photos.image(0)
    assert draft.size == whole.size == (1200, 900)
    assert draft.image.size == (150, 113)
    small = [np.asarray(image.resize((50, 50))).astype(int) for image in (draft.image, whole)]
    assert np.abs(small[0] - small[1]).mean() < 2


def test_no_side_of_a_draft_is_below_what_was_asked_for(tmp_path: Path) -> None:
    _gradient(1600, 210).save(tmp_path / "a.jpg")
    assert open_photos(tmp_path).draft(0, 100).image.size == (800, 105)


def test_a_photo_is_never_a_draft(tmp_path: Path) -> None:
    # Evaluation, calibration and export must see the pixels that an app sees.
    _gradient(1200, 900).save(tmp_path / "a.jpg")
    photos = open_photos(tmp_path)
    photos.draft(0, 32)
    assert photos.image(0).size == (1200, 900)
    with Image.open(tmp_path / "a.jpg") as image:
        assert np.array_equal(np.asarray(photos.image(0)), np.asarray(image))


@pytest.mark.parametrize("orientation", [1, 3, 6, 8])
def test_a_draft_is_upright_and_so_is_its_size(tmp_path: Path, orientation: int) -> None:
    exif = Image.Exif()
    exif[0x112] = orientation
    _gradient(800, 400).save(tmp_path / "a.jpg", exif=exif)
    photos = open_photos(tmp_path)
    draft, whole = photos.draft(0, 60), photos.image(0)
    assert draft.size == whole.size
    assert draft.image.size == (whole.width // 4, whole.height // 4)


@pytest.mark.parametrize("mode", ["L", "CMYK"])
def test_grey_and_cmyk_are_drafted_as_rgb(tmp_path: Path, mode: str) -> None:
    _gradient(800, 400).convert(mode).save(tmp_path / "a.jpg")
    draft = open_photos(tmp_path).draft(0, 60)
    assert (draft.image.mode, draft.image.size) == ("RGB", (200, 100))


def test_a_set_whose_files_went_away_is_described_without_hashes(tmp_path: Path) -> None:
    for index in range(3):
        save(tmp_path / f"{index}.png", photo(size=(8 + index, 8)))
    opened = open_photos(tmp_path)
    (tmp_path / "1.png").unlink()
    assert opened.description.keys() == {"name", "fingerprint", "num_photos"}
