"""Label lists: drawn per class, the same for a seed, saved, refused where they teach nothing."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from edgeseed.core.errors import DataError, UsageError
from edgeseed.core.photos import PhotoSet, open_photos, photos_from_arrays
from edgeseed.distill.data.labels import (
    choose_labels,
    draw_share,
    labels_of,
    photo_names,
    save_labels,
    split_labelled,
)


def _photos(*counts: int) -> PhotoSet:
    labels = np.repeat(np.arange(len(counts)), counts)
    labels = np.random.default_rng(0).permutation(labels).astype(np.int64)
    pixels = np.zeros((len(labels), 4, 4), np.uint8)
    classes = tuple(f"class{index}" for index in range(len(counts)))
    return photos_from_arrays(pixels, labels, name="some", classes=classes)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for name in ("ant", "bee"):
        (tmp_path / "data" / name).mkdir(parents=True)
        for index in range(6):
            Image.new("RGB", (4, 4)).save(tmp_path / "data" / name / f"{name}_{index}.png")
    return tmp_path / "data"


def test_a_share_takes_that_share_of_each_class() -> None:
    photos = _photos(100, 300, 50)
    chosen = choose_labels(photos, "10%", seed=0)
    assert np.bincount(labels_of(photos)[chosen.indices]).tolist() == [10, 30, 5]
    assert chosen.description == "10% of each class, seed 0"


def test_a_number_takes_that_many_of_each_class() -> None:
    photos = _photos(100, 300, 50)
    chosen = choose_labels(photos, "7pc", seed=0)
    assert np.bincount(labels_of(photos)[chosen.indices]).tolist() == [7, 7, 7]


def test_all_labels_are_all_labels() -> None:
    assert choose_labels(_photos(3, 1), "100%", seed=0).indices.tolist() == [0, 1, 2, 3]


def test_the_seed_decides_the_draw() -> None:
    photos = _photos(200, 200)
    first, second, other = (choose_labels(photos, "10%", seed=seed) for seed in (1, 1, 2))
    assert np.array_equal(first.indices, second.indices)
    assert not np.array_equal(first.indices, other.indices)


def test_a_saved_list_is_read_back_whatever_the_seed(folder: Path, tmp_path: Path) -> None:
    photos = open_photos(folder)
    chosen = choose_labels(photos, "50%", seed=3)
    path = tmp_path / "labels.txt"
    save_labels(path, photos, chosen)
    lines = path.read_text().splitlines()
    assert lines[0].startswith("#")
    assert lines[1].startswith("ant/ant_")
    again = choose_labels(photos, str(path), seed=99)
    assert np.array_equal(again.indices, chosen.indices)


def test_lists_of_named_sets_hold_numbers(tmp_path: Path) -> None:
    photos = open_photos("digits")
    chosen = choose_labels(photos, "2pc", seed=0)
    save_labels(tmp_path / "labels.txt", photos, chosen)
    again = choose_labels(photos, str(tmp_path / "labels.txt"), seed=0)
    assert np.array_equal(again.indices, chosen.indices)


def test_lists_of_bare_file_names_are_read_as_simclr_publishes_them(
    folder: Path, tmp_path: Path
) -> None:
    path = tmp_path / "1percent.txt"
    path.write_text("bee_2.png\nant_0.png\n\n")
    photos = open_photos(folder)
    chosen = choose_labels(photos, str(path), seed=0)
    assert labels_of(photos)[chosen.indices].tolist() == [0, 1]


def test_missing_photos_in_a_list_are_named(folder: Path, tmp_path: Path) -> None:
    path = tmp_path / "list.txt"
    path.write_text("ant/ant_0.png\nbee/nothing.png\nbee/bee_0.png\n")
    with pytest.raises(DataError, match=r"names 1 photo that .* has not: bee/nothing\.png"):
        choose_labels(open_photos(folder), str(path), seed=0)


@pytest.mark.parametrize(
    "write",
    [
        lambda names, folder: "\ufeff" + "\r\n".join(names),
        lambda names, folder: "\n".join(name.replace("/", "\\") for name in names),
        lambda names, folder: "\n".join(f"./{name}" for name in names),
        lambda names, folder: "\n".join(f"{folder}/{name}" for name in names),
        lambda names, folder: "\n".join(f"{folder.name}/{name}" for name in names),
    ],
    ids=["BOM and CRLF", "backslashes", "dots", "whole paths", "with the folder"],
)
def test_a_list_is_read_however_its_paths_are_written(
    folder: Path, tmp_path: Path, write: Callable[[list[str], Path], str]
) -> None:
    # Photos that exist were "not there".
    path = tmp_path / "list.txt"
    path.write_text(write(["ant/ant_3.png", "bee/bee_4.png"], folder), encoding="utf-8", newline="")
    photos = open_photos(folder)
    chosen = choose_labels(photos, str(path), seed=0)
    assert [photo_names(photos)[index] for index in chosen.indices] == [
        "ant/ant_3.png", "bee/bee_4.png",
    ]  # fmt: skip


STRANGE = ("#1.png", " blank .png", '"quoted".png', "line\nbreak.png", "sep\u2028arator.png",
           "bytes\udce9.png", "e\u0301.png", "back\\slash.png")  # fmt: skip


def test_photos_of_any_name_survive_a_list(folder: Path, tmp_path: Path) -> None:
    # A photo called "#1.png" was read as a comment, and one whose name is no text ended the run.
    for name in STRANGE:
        Image.new("RGB", (4, 4)).save(folder / "ant" / "new.png")
        (folder / "ant/new.png").rename(folder / "ant" / name)
    (folder / "#class").mkdir()
    Image.new("RGB", (4, 4)).save(folder / "#class/a.png")
    photos = open_photos(folder)
    chosen = choose_labels(photos, "100%", seed=0)
    assert len(chosen.indices) == 12 + len(STRANGE) + 1
    save_labels(tmp_path / "labels.txt", photos, chosen)
    again = choose_labels(photos, str(tmp_path / "labels.txt"), seed=0)
    assert np.array_equal(again.indices, chosen.indices)


def test_a_list_of_a_mac_names_the_same_photos(folder: Path, tmp_path: Path) -> None:
    Image.new("RGB", (4, 4)).save(folder / "ant/caf\u00e9.png")
    (tmp_path / "list.txt").write_text("ant/cafe\u0301.png\nbee/bee_0.png\n", encoding="utf-8")
    chosen = choose_labels(open_photos(folder), str(tmp_path / "list.txt"), seed=0)
    assert len(chosen.indices) == 2


def test_a_photo_that_is_kept_to_test_on_is_no_missing_one(folder: Path, tmp_path: Path) -> None:
    split = split_labelled(folder, seed=0)
    tested = photo_names(split.test)[0]
    path = tmp_path / "list.txt"
    path.write_text(f"{tested}\nbee/bee_0.png\nant/ant_0.png\n")
    with pytest.raises(DataError, match=r"keeps to test on: .*; use the --seed with which"):
        choose_labels(split.train, str(path), seed=0, held_out=split.held_out)


def test_a_bare_name_that_two_folders_have_is_told_so(folder: Path, tmp_path: Path) -> None:
    for name in ("ant", "bee"):
        Image.new("RGB", (4, 4)).save(folder / name / "same.png")
    (tmp_path / "list.txt").write_text("same.png\nant_0.png\n")
    with pytest.raises(DataError, match=r"several folders of .* have: same\.png; write them with"):
        choose_labels(open_photos(folder), str(tmp_path / "list.txt"), seed=0)


@pytest.mark.parametrize(
    ("text", "message"),
    [("# nothing\n", "names no photo"), ("ant/ant_0.png\n", "of one class only")],
)
def test_lists_that_teach_nothing_are_refused(
    folder: Path, tmp_path: Path, text: str, message: str
) -> None:
    path = tmp_path / "list.txt"
    path.write_text(text)
    with pytest.raises(DataError, match=message):
        choose_labels(open_photos(folder), str(path), seed=0)


def test_a_share_of_too_few_photos_says_the_way_out() -> None:
    with pytest.raises(DataError, match=r"class class1 has 20 photos.*larger share, or 5pc"):
        choose_labels(_photos(500, 20), "1%", seed=0)


def test_more_labels_than_a_class_has_says_how_many_it_has() -> None:
    with pytest.raises(DataError, match=r"class class1 has 3 photos; use at most 3pc"):
        choose_labels(_photos(50, 3), "5pc", seed=0)


def test_what_is_no_list_at_all_is_refused() -> None:
    photos = _photos(10, 10)
    for wrong in ("ten", "0%", "150%", "0pc", "missing.txt"):
        with pytest.raises(UsageError, match="labels"):
            choose_labels(photos, wrong, seed=0)


def test_a_drawn_share_leaves_every_class_on_the_other_side() -> None:
    labels = np.array([0] * 10 + [1] * 2 + [2], dtype=np.int64)
    drawn, rest = draw_share(labels, share=0.9, seed=0)
    assert np.bincount(labels[drawn], minlength=3).tolist() == [9, 1, 0]
    assert np.bincount(labels[rest], minlength=3).tolist() == [1, 1, 1]
    assert sorted([*drawn, *rest]) == list(range(13))
