"""Nothing vanishes: what was found is what is used and what is counted, by every reader."""

import io
import os
import tarfile
import zipfile
from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
from PIL import Image

from edgeseed.core.errors import DataError
from edgeseed.core.photos import PhotoSet, open_photos
from edgeseed.core.photos.accounting import reasons_in_words


def photo(index: int) -> bytes:
    file = io.BytesIO()
    Image.new("RGB", (9 + index % 5, 8), (index * 7 % 256, 40, 90)).save(file, "PNG")
    return file.getvalue()


def write_folder(place: Path, files: Mapping[str, bytes]) -> Path:
    for name, content in files.items():
        path = place / "photos" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
    return place / "photos"


def write_tar(place: Path, files: Mapping[str, bytes]) -> Path:
    with tarfile.open(place / "photos.tar", "w") as tar:
        for name, content in files.items():
            member = tarfile.TarInfo(name)
            member.size = len(content)
            tar.addfile(member, io.BytesIO(content))
    return place / "photos.tar"


def write_zip(place: Path, files: Mapping[str, bytes]) -> Path:
    with zipfile.ZipFile(place / "photos.zip", "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in files.items():
            archive.writestr(f"photos/{name}", content)
    return place / "photos.zip"


READERS: dict[str, Callable[[Path, Mapping[str, bytes]], Path]] = {
    "folder": write_folder,
    "tar": write_tar,
    "zip": write_zip,
}

# Names as cameras, phones and people give them, some of which readers have lost.
NAMES = (
    "plain.png", "IMG_2024.05.01.png", "IMG_2024.05.02.png", "IMG_2024.05.03.png", "no dots .png",
    "UPPER.PNG", "a b.png", "\u00e9t\u00e9.png", "sub/plain.png", "sub/deep.er/plain.png",
    "quote's.png", "x.tar.png",
)  # fmt: skip


@pytest.mark.parametrize("reader", READERS)
def test_all_that_was_found_is_used_or_counted(tmp_path: Path, reader: str) -> None:
    files = {name: photo(index) for index, name in enumerate(NAMES)}
    files |= {f"more/{index}.png": photo(index) for index in range(30)}
    files |= {"more/readme.txt": b"words", "list.csv": b"a,b", "more/movie.mp4": b"no photo at all"}
    photos = open_photos(READERS[reader](tmp_path, files), labels=False)
    assert len(photos) + len(photos.skipped) + photos.num_sidecars == len(files)
    assert len(photos) == len(NAMES) + 30
    assert photos.num_sidecars == 2
    assert [item.path.rpartition("/")[2] for item in photos.skipped] == ["movie.mp4"]
    sizes = sorted(photos.image(index).size for index in range(len(photos)))
    assert sizes == sorted(
        Image.open(io.BytesIO(files[name])).size for name in files if name.lower().endswith("png")
    )


@pytest.mark.parametrize("reader", READERS)
def test_too_many_files_that_are_no_photos_are_an_error_that_names_some(
    tmp_path: Path, reader: str
) -> None:
    files = {f"{index}.png": photo(index) for index in range(8)} | {"a.mp4": b"x", "b.mp4": b"x"}
    with pytest.raises(DataError, match=r"2 of 10 files cannot be used .*more than 10%.*a\.mp4"):
        open_photos(READERS[reader](tmp_path, files))


# ------------------------------------------------------------------ labels


def class_photos(*classes: str, per_class: int = 10) -> dict[str, bytes]:
    names = [f"{name}/{index}.png" for name in classes for index in range(per_class)]
    return {name: photo(index) for index, name in enumerate(names)}


def test_a_stray_photo_is_skipped_and_the_labels_stay(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    # One photo beside class folders dropped all labels, so that kd and crd trained without them.
    photos = open_photos(write_folder(tmp_path, class_photos("cat", "dog") | {"a.png": photo(0)}))
    assert photos.classes == ("cat", "dog")
    assert photos.labels is not None
    assert len(photos) == len(photos.labels) == 20
    assert [item.path for item in photos.skipped] == ["a.png"]
    assert "a.png: lies beside the class folders" in capsys.readouterr().err


def test_a_stray_photo_is_used_where_labels_are_not(tmp_path: Path) -> None:
    files = class_photos("cat", "dog") | {"a.png": photo(0)}
    assert len(open_photos(write_folder(tmp_path, files), labels=False)) == 21


def test_many_photos_beside_folders_are_no_strays_and_it_is_said(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    files = class_photos("2023", "2024") | {f"{index}.png": photo(index) for index in range(9)}
    photos = open_photos(write_folder(tmp_path, files))
    assert photos.labels is None
    assert len(photos) == 29
    assert "9 photos of 29 that lie in no class folder: no labels" in capsys.readouterr().err
    with pytest.raises(DataError, match="labels were asked for, but it holds 9 photos of 29"):
        open_photos(tmp_path / "photos", labels=True)


def test_labels_of_one_folder_or_of_nothing_are_refused_with_a_fix(tmp_path: Path) -> None:
    write_folder(tmp_path / "one", class_photos("cat"))
    with pytest.raises(DataError, match="one class folder, cat; add a folder of another class"):
        open_photos(tmp_path / "one/photos", labels=True)
    (tmp_path / "none").mkdir()
    with pytest.raises(DataError, match=r"it holds no photo; lay it out as .*CLASS/photo\.jpg"):
        open_photos(tmp_path / "none", labels=True)


def test_a_class_folder_without_photos_is_named(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    root = write_folder(tmp_path, class_photos("cat", "dog"))
    (root / "fox").mkdir()
    assert open_photos(root).classes == ("cat", "dog")
    assert "no photo in fox: not taken as a class" in capsys.readouterr().err


def test_a_folder_that_cannot_be_listed_is_an_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # os.walk passes over it without a word: a class was gone, and the others had its numbers.
    root = write_folder(tmp_path, class_photos("cat", "dog", "fox"))
    scan = os.scandir

    def scandir(path: str) -> object:
        if str(path).endswith("dog"):
            raise PermissionError(13, "Permission denied", str(path))
        return scan(path)

    monkeypatch.setattr(os, "scandir", scandir)
    with pytest.raises(DataError, match=r"dog cannot be listed: Permission denied; make it read"):
        open_photos(root)


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="no named pipes here")
def test_a_pipe_among_photos_is_skipped_not_waited_for(tmp_path: Path) -> None:
    root = write_folder(tmp_path, {f"{index}.png": photo(index) for index in range(20)})
    os.mkfifo(root / "pipe")
    assert [item.reason for item in open_photos(root).skipped] == ["not a regular file"]


# ------------------------------------------------------------------ labels in shards


def labelled_tar(place: Path, labels: Mapping[str, str]) -> PhotoSet:
    files: dict[str, bytes] = {}
    for index, (name, label) in enumerate(labels.items()):
        files |= {f"{name}.png": photo(index), f"{name}.cls": label.encode()}
    return open_photos(write_tar(place, files))


def list_of(labels: npt.NDArray[np.int64] | None) -> list[int]:
    assert labels is not None
    return [int(label) for label in labels]


def test_labels_with_gaps_become_as_many_classes_as_occur(tmp_path: Path) -> None:
    # A label of a million millions took 22 GB for class names.
    photos = labelled_tar(tmp_path, {"a": "1000000000000", "b": "7", "c": "1000000000000"})
    assert photos.classes == ("7", "1000000000000")
    assert list_of(photos.labels) == [1, 0, 1]


def test_labels_may_be_names(tmp_path: Path) -> None:
    photos = labelled_tar(tmp_path, {"a": "dog", "b": "cat", "c": "dog"})
    assert photos.classes == ("cat", "dog")
    assert list_of(photos.labels) == [1, 0, 1]


def test_names_with_several_dots_keep_their_own_labels(tmp_path: Path) -> None:
    photos = labelled_tar(tmp_path, {"2024.05.01": "0", "2024.05.02": "1", "2024.05.03": "0"})
    assert len(photos) == 3
    assert list_of(photos.labels) == [0, 1, 0]


def test_labels_that_lie_apart_from_their_photos_are_found(tmp_path: Path) -> None:
    files = {"a.cls": b"1", "b.cls": b"0"} | {"a.png": photo(0), "b.png": photo(1)}
    assert list_of(open_photos(write_tar(tmp_path, files)).labels) == [1, 0]


def test_some_photos_without_a_label_are_named(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    files = {"a.png": photo(0), "a.cls": b"0", "b.png": photo(1)}
    assert open_photos(write_tar(tmp_path, files)).labels is None
    assert "1 of 2 photos have no .cls beside them, such as b.png" in capsys.readouterr().err


def test_masks_belong_to_the_sample_of_their_photo(tmp_path: Path) -> None:
    files = {"a.png": photo(0), "a.mask.png": photo(1), "a.json": b"{}", "a.npy": b"x"}
    photos = open_photos(write_tar(tmp_path, files))
    assert (len(photos), photos.num_sidecars) == (1, 3)


def test_links_and_repeated_names_in_a_tar_are_counted(tmp_path: Path) -> None:
    with tarfile.open(tmp_path / "a.tar", "w") as tar:
        for index in range(30):
            member = tarfile.TarInfo(f"{index % 29}.png")
            member.size = len(photo(index))
            tar.addfile(member, io.BytesIO(photo(index)))
        link = tarfile.TarInfo("link.png")
        link.type, link.linkname = tarfile.SYMTYPE, "0.png"
        tar.addfile(link)
    photos = open_photos(tmp_path / "a.tar")
    assert len(photos) == 29
    assert sorted(item.path for item in photos.skipped) == ["a.tar/0.png", "a.tar/link.png"]


def test_a_member_that_claims_to_be_huge_is_not_read(tmp_path: Path) -> None:
    path = write_tar(tmp_path, {f"{index}.png": photo(index) for index in range(20)})
    huge = tarfile.TarInfo("huge.png")
    huge.size = 2**30
    with path.open("r+b") as file:
        with tarfile.open(path) as tar:
            tar.getmembers()
            end = tar.offset
        file.seek(end)
        file.write(huge.tobuf())
        file.truncate(end + tarfile.BLOCKSIZE + huge.size + 2 * tarfile.BLOCKSIZE)  # a hole
    photos = open_photos(path)
    assert len(photos) == 20
    assert "too large for a photo" in photos.skipped[0].reason


def test_one_reason_of_many_photos_is_told_once_and_counted() -> None:
    # The same line was printed three times, "and 1344 more".
    assert reasons_in_words(["too large"] * 1347) == "too large (1347 times)"
    assert reasons_in_words(["a: empty", "b: empty"]) == "a: empty; b: empty"
    assert reasons_in_words(["a", "b", "b", "c", "d", "e"]) == "a; b (2 times); c; and 2 more"
