"""Photos inside zip archives; parquet files and datasets are read in test_readers.py."""

import io
import pickle
import zipfile
from collections.abc import Mapping
from pathlib import Path

import pytest
from PIL import Image

from edgeseed.core.errors import DataError
from edgeseed.core.photos import open_photos


def photo(index: int, kind: str = "PNG", size: tuple[int, int] = (9, 8)) -> bytes:
    file = io.BytesIO()
    Image.new("RGB", size, (index * 7 % 256, 40, 90)).save(file, kind)
    return file.getvalue()


def write_zip(path: Path, files: Mapping[str, bytes]) -> Path:
    with zipfile.ZipFile(path, "w") as archive:
        for name, content in files.items():
            archive.writestr(name, content)
    return path


def test_a_common_folder_is_no_label_and_its_subfolders_are(tmp_path: Path) -> None:
    files = {f"all/{kind}/{index}.png": photo(index) for kind in ("cat", "dog") for index in (1, 2)}
    photos = open_photos(write_zip(tmp_path / "a.zip", files))
    assert photos.classes == ("cat", "dog")
    assert len(photos) == 4


def test_what_is_hidden_or_lies_beside_photos_is_no_photo(tmp_path: Path) -> None:
    files = {
        "a/0.png": photo(0), "a/1.png": photo(1), "a/0.json": b"{}", "__MACOSX/a/._0.png": b"x",
        ".hidden/2.png": photo(2),
    }  # fmt: skip
    photos = open_photos(write_zip(tmp_path / "a.zip", files))
    assert len(photos) == 2
    assert photos.num_sidecars == 1
    assert photos.skipped == ()


def test_a_photo_is_read_again_after_pickling_and_drafted(tmp_path: Path) -> None:
    files = {"0.jpg": photo(3, "JPEG", (800, 600)), "1.png": photo(1)}
    photos = open_photos(write_zip(tmp_path / "a.zip", files))
    again = pickle.loads(pickle.dumps(photos))
    assert again.image(0).tobytes() == photos.image(0).tobytes()
    assert photos.draft(0, 100).image.size == (200, 150)
    assert photos.draft(0, 100).size == (800, 600)


def test_a_photo_that_is_broken_is_named_with_its_archive(tmp_path: Path) -> None:
    photos = open_photos(write_zip(tmp_path / "a.zip", {"0.png": photo(0), "1.png": b"no photo"}))
    with pytest.raises(DataError, match=r"a\.zip: 1\.png"):
        photos.image(1)


def test_bytes_that_were_spoilt_in_the_archive_are_named(tmp_path: Path) -> None:
    path = write_zip(tmp_path / "a.zip", {"0.png": photo(0), "1.png": photo(1)})
    content = path.read_bytes()
    at = content.index(b"IHDR") + 6
    path.write_bytes(content[:at] + b"\xff\xff" + content[at + 2 :])
    photos = open_photos(path)
    with pytest.raises(DataError, match=r"a\.zip: 0\.png cannot be read \(Bad CRC-32"):
        photos.image(0)
    assert photos.image(1).size == (9, 8)


@pytest.mark.parametrize("kept", [10, -30])
def test_an_archive_that_was_cut_off_is_one_line(tmp_path: Path, kept: int) -> None:
    path = write_zip(tmp_path / "a.zip", {"0.png": photo(0)})
    path.write_bytes(path.read_bytes()[:kept])
    with pytest.raises(DataError, match=r"is not a whole zip archive .*copy it again"):
        open_photos(path)


def test_an_archive_without_photos_says_so(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"a\.zip"):
        open_photos(write_zip(tmp_path / "a.zip", {"notes.txt": b"none"}))
