"""Photos that a list names."""

from pathlib import Path

import pytest
from PIL import Image

from edgeseed.core.errors import DataError
from edgeseed.core.photos import open_photos


def write(place: Path, name: str, text: str, *, photos: tuple[str, ...] = ("a", "b", "c")) -> Path:
    for index, photo in enumerate(photos):
        path = place / f"in/{photo}.png"
        path.parent.mkdir(exist_ok=True)
        Image.new("RGB", (8 + index, 9), (index * 40, 9, 9)).save(path)
    (place / name).write_text(text, encoding="utf-8")
    return place / name


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("a.txt", "# a note\nin/c.png\tdog\n\nin/a.png\tcat\r\n"),
        ("a.csv", 'note,file_name,label\n"x, y",in/c.png,dog\n,in/a.png,cat\n'),
        ("a.tsv", "Path\tClass\nin/c.png\tdog\nin/a.png\tcat\n"),
    ],
)
def test_photos_come_in_the_lists_order_with_their_labels(
    tmp_path: Path, name: str, text: str
) -> None:
    photos = open_photos(write(tmp_path, name, text))
    assert [photos.image(index).size[0] for index in range(2)] == [10, 8]
    assert photos.classes == ("cat", "dog")
    assert photos.labels is not None
    assert photos.labels.tolist() == [1, 0]


def test_labels_are_left_out_where_they_are_not_wanted(tmp_path: Path) -> None:
    path = write(tmp_path, "a.txt", "in/a.png\tcat\nin/b.png\tdog\n")
    assert open_photos(path, labels=False).labels is None


def test_some_photos_without_a_label_are_counted(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = write(tmp_path, "a.txt", "in/a.png\tcat\nin/b.png\nin/c.png\tdog\n")
    assert open_photos(path).labels is None
    assert "1 of 3 photos have no label: no labels are taken" in capsys.readouterr().err
    with pytest.raises(DataError, match=r"1 of 3 photos have none, such as in/b\.png"):
        open_photos(path, labels=True)


def test_a_file_that_is_no_photo_is_skipped_and_named(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    names = tuple(f"p{index:02}" for index in range(20))
    lines = [f"in/{name}.png\t{'cat' if index % 2 else 'dog'}" for index, name in enumerate(names)]
    path = write(tmp_path, "a.txt", "\n".join([*lines, "in/gone.png\tdog"]), photos=names)
    photos = open_photos(path)
    assert len(photos) == 20
    assert [item.path for item in photos.skipped] == ["in/gone.png"]
    assert photos.labels is not None
    assert len(photos.labels) == 20


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("a.txt", "", "names no photo; it should hold one a line"),
        ("a.txt", "# nothing but a note\n", "names no photo"),
        ("a.txt", "in/a.png\nin/a.png\n", "names 1 photos twice; each may be there once"),
        ("a.txt", "nowhere.png\n", "only files that are not images .*No such file"),
        ("a.txt", "a\0b\n", "holds a zero byte: it is no list of photos"),
        ("a.csv", "name,size\na,1\n", "has the columns 'name', 'size'; one named path"),
        ("a.csv", 'path\n"unclosed', "is no whole table"),
    ],
)
def test_a_list_that_is_none_is_one_line(
    tmp_path: Path, name: str, text: str, message: str
) -> None:
    with pytest.raises(DataError, match=message):
        open_photos(write(tmp_path, name, text))


def test_bytes_that_are_no_text_are_one_line(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_bytes(b"\xff\xfe\xff")
    with pytest.raises(DataError, match="cannot be read as a list of photos"):
        open_photos(tmp_path / "a.txt")


def test_a_set_is_the_same_wherever_its_list_lies(tmp_path: Path) -> None:
    digests = set()
    for place in ("one", "two"):
        (tmp_path / place).mkdir()
        path = write(tmp_path / place, "a.txt", "in/a.png\nin/b.png\n")
        digests.add(open_photos(path).fingerprint)
    assert len(digests) == 1
