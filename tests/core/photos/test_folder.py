import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from edgeseed.core.errors import DataError
from edgeseed.core.photos import (
    open_photos,
)
from edgeseed.core.photos.folder import Files


def save(path: Path, image: Image.Image, **options: Any) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    image.save(path, **options)
    return path


def photo(
    color: tuple[int, int, int] = (200, 30, 60), size: tuple[int, int] = (12, 8)
) -> Image.Image:
    return Image.new("RGB", size, color)


def test_a_folder_of_any_nesting_is_read_in_a_fixed_order(tmp_path: Path) -> None:
    for name in ("b/2.png", "b/1.png", "a/c/3.jpg", "4.webp"):
        save(tmp_path / name, photo())
    photos = open_photos(tmp_path)
    assert isinstance(photos.source, Files)
    assert [photos.source.name(index) for index in range(4)] == [
        "4.webp",
        "a/c/3.jpg",
        "b/1.png",
        "b/2.png",
    ]
    assert photos.labels is None


def test_class_folders_are_labels(tmp_path: Path) -> None:
    for name in ("dog/1.png", "cat/1.png", "cat/x/2.png"):
        save(tmp_path / name, photo())
    photos = open_photos(tmp_path, labels=True)
    assert photos.classes == ("cat", "dog")
    assert photos.labels is not None
    assert photos.labels.tolist() == [0, 0, 1]
    assert open_photos(tmp_path, labels=False).labels is None


def test_labels_that_are_not_there_are_an_error(tmp_path: Path) -> None:
    save(tmp_path / "1.png", photo())
    with pytest.raises(DataError, match=r"lie in no class folder.*CLASS/photo\.jpg"):
        open_photos(tmp_path, labels=True)


def test_one_class_folder_is_no_labelling(tmp_path: Path) -> None:
    save(tmp_path / "cat/1.png", photo())
    with pytest.raises(DataError, match="one class folder, cat"):
        open_photos(tmp_path, labels=True)


def test_hidden_files_and_sidecars_are_passed_over(tmp_path: Path) -> None:
    save(tmp_path / "1.png", photo())
    for name in (".DS_Store", "labels.csv", ".git/config", "notes.txt"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text("x")
    assert len(open_photos(tmp_path)) == 1


def test_an_image_without_a_suffix_is_a_photo(tmp_path: Path) -> None:
    save(tmp_path / "1", photo(), format="PNG")
    assert len(open_photos(tmp_path)) == 1


def test_link_loops_end(tmp_path: Path) -> None:
    save(tmp_path / "a/1.png", photo())
    (tmp_path / "a/loop").symlink_to(tmp_path)
    assert len(open_photos(tmp_path)) == 1


def test_a_few_broken_files_are_skipped_counted_and_listed(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    whole = save(tmp_path / "00.jpg", photo(size=(64, 64)))
    for index in range(1, 30):
        (tmp_path / f"{index:02}.jpg").write_bytes(whole.read_bytes())
    (tmp_path / "truncated.jpg").write_bytes(whole.read_bytes()[:-200])
    (tmp_path / "text.jpg").write_text("not an image at all")
    photos = open_photos(tmp_path)
    assert len(photos) == 30
    assert {item.path for item in photos.skipped} == {"truncated.jpg", "text.jpg"}
    message = capsys.readouterr().err
    assert "2 of 32 files skipped" in message
    assert "text.jpg: not an image" in message


def test_more_than_a_tenth_broken_is_an_error(tmp_path: Path) -> None:
    for index in range(8):
        save(tmp_path / f"{index}.png", photo())
    (tmp_path / "broken.png").write_bytes(b"\x89PNG\r\n\x1a\nrest")
    with pytest.raises(DataError, match=r"1 of 9 files.*more than 10%.*broken\.png"):
        open_photos(tmp_path)


def test_a_truncated_png_is_found_without_its_end_marker(tmp_path: Path) -> None:
    noise = np.random.default_rng(0).integers(0, 255, (64, 64, 3), np.uint8)
    whole = save(tmp_path / "a.png", Image.fromarray(noise)).read_bytes()
    for index in range(10):
        (tmp_path / f"{index}.png").write_bytes(whole)
    (tmp_path / "cut.png").write_bytes(whole[: len(whole) // 2])
    assert [item.path for item in open_photos(tmp_path).skipped] == ["cut.png"]


def test_heic_says_what_to_do(tmp_path: Path) -> None:
    (tmp_path / "a.heic").write_bytes(b"\0\0\0\x18ftypheic" + b"\0" * 100)
    with pytest.raises(DataError, match="convert it to JPEG"):
        open_photos(tmp_path)


@pytest.mark.parametrize("content", [{}, {"readme.txt": "x"}])
def test_a_folder_without_photos_is_an_error(tmp_path: Path, content: dict[str, str]) -> None:
    for name, text in content.items():
        (tmp_path / name).write_text(text)
    with pytest.raises(DataError, match="no image at all"):
        open_photos(tmp_path)


def test_a_file_that_goes_away_is_named(tmp_path: Path) -> None:
    path = save(tmp_path / "a.png", photo())
    photos = open_photos(tmp_path)
    path.unlink()
    with pytest.raises(DataError, match=r"a\.png"):
        photos.image(0)


def test_strange_file_names_survive(tmp_path: Path) -> None:
    for name in ("ä b.png", "new\nline.png", "#%?.png"):
        save(tmp_path / name, photo())
    photos = pickle.loads(pickle.dumps(open_photos(tmp_path)))
    assert [photos.image(index).size for index in range(3)] == [(12, 8)] * 3


def test_fingerprint_follows_the_content_not_the_place(tmp_path: Path) -> None:
    for root in ("one", "two"):
        save(tmp_path / root / "x/a.png", photo())
    one, two = open_photos(tmp_path / "one"), open_photos(tmp_path / "two")
    assert one.fingerprint == two.fingerprint
    save(tmp_path / "two/x/b.png", photo())
    assert open_photos(tmp_path / "two").fingerprint != one.fingerprint
