from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from edgeseed.core.errors import DataError, UnknownNameError
from edgeseed.core.photos import (
    open_photos,
)


def save(path: Path, image: Image.Image, **options: Any) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    image.save(path, **options)
    return path


def photo(
    color: tuple[int, int, int] = (200, 30, 60), size: tuple[int, int] = (12, 8)
) -> Image.Image:
    return Image.new("RGB", size, color)


def test_a_file_given_as_a_folder_is_an_error(tmp_path: Path) -> None:
    path = save(tmp_path / "a.png", photo())
    with pytest.raises(DataError, match="is a file; give the folder"):
        open_photos(path)


def test_a_missing_folder_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="does not exist"):
        open_photos(tmp_path / "nowhere")


def test_a_name_that_is_nearly_right_gets_the_nearest() -> None:
    with pytest.raises(UnknownNameError, match="did you mean 'digits'"):
        open_photos("digit")


def test_too_few_photos_is_an_error(tmp_path: Path) -> None:
    save(tmp_path / "a.png", photo())
    with pytest.raises(DataError, match="holds 1 photos, at least 5"):
        open_photos(tmp_path, min_count=5)


def test_digits_have_a_train_and_a_test_split_that_share_no_scan() -> None:
    train = open_photos("digits")
    test = train.test()
    assert test is not None
    assert (len(train), len(test)) == (1347, 450)
    assert test.fingerprint == open_photos("digits:test").fingerprint
    assert train.image(0).size == (8, 8)
    assert train.classes == tuple("0123456789")
