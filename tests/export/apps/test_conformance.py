import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from edgeseed.core.photos import decode
from edgeseed.core.preprocess import Preprocess, normalization
from edgeseed.export.apps.conformance import write_conformance_set
from edgeseed.export.apps.gallery import classify, read_gallery
from edgeseed.export.apps.reference import FAULTS, StoredPhoto, preprocess_photo

Description = dict[str, Any]
MOST_BYTES = 1_000_000


@pytest.fixture(scope="session")
def folder(conformance_set: Path) -> Path:
    return conformance_set


@pytest.fixture(scope="session")
def description(folder: Path) -> Description:
    found: Description = json.loads((folder / "conformance.json").read_text())
    return found


def preprocess_of(case: Description) -> Preprocess:
    sizes = dict(case["preprocess"])
    return Preprocess(**normalization(sizes.pop("channels")), **sizes)


def stored(folder: Path, case: Description) -> StoredPhoto:
    with Image.open(folder / case["file"]) as image:
        bands = {"L": "RGB", "LA": "RGBA"}.get(image.mode, image.mode)
        pixels = np.asarray(image.convert(bands))
    return StoredPhoto(
        pixels=pixels,
        alpha=case["alpha"],
        orientation=case["orientation"],
        profile=case["profile"],
    )


def test_the_set_travels_light(folder: Path) -> None:
    assert sum(file.stat().st_size for file in folder.rglob("*") if file.is_file()) < MOST_BYTES


def test_the_literal_specification_meets_every_photo(
    folder: Path, description: Description
) -> None:
    assert len(description["photos"]) >= 28
    for case in description["photos"]:
        expected = np.load(folder / case["expected"])
        found = preprocess_photo(stored(folder, case), preprocess_of(case))
        assert np.array_equal(found, expected), case["name"]


def test_every_mistake_is_caught_by_several_photos(description: Description) -> None:
    counts = dict.fromkeys(FAULTS, 0)
    for case in description["photos"]:
        for fault in case["catches"]:
            counts[fault] += 1
    # P3 and alpha have photos of their own.
    assert min(counts.values()) >= 1
    assert len(counts) == 10


def test_the_order_of_the_axes_is_no_mistake_where_there_is_one_channel(
    description: Description,
) -> None:
    grey = [case for case in description["photos"] if preprocess_of(case).channels == 1]
    assert len(grey) >= 2
    assert all("nhwc" not in case["catches"] for case in grey)


def test_files_with_exif_become_upright(folder: Path, description: Description) -> None:
    results = [np.load(folder / case["expected"]) for case in description["files"]]
    assert len(results) == 8
    # Seven of the eight turn or mirror the four colours.
    assert all(not np.array_equal(results[0], other) for other in results[1:])
    for case, expected in zip(description["files"], results, strict=True):
        photo = decode(folder / case["file"])
        assert np.array_equal(preprocess_of(case).pixels(photo), expected)


def test_the_gallerys_answers_are_those_of_python(folder: Path, description: Description) -> None:
    case = description["gallery"]
    gallery = read_gallery(folder / case["file"])
    answers = [classify(gallery, query) for query in np.load(folder / case["queries"])]
    assert [answer.index for answer in answers] == [given["index"] for given in case["answers"]]
    assert {answer.recognised for answer in answers} == {True, False}
    assert answers[-1].index is None


# Makes it once more, with a photo of twelve megapixels. Above, every expected tensor is computed.
@pytest.mark.slow
def test_the_set_is_the_same_each_time(folder: Path, tmp_path: Path) -> None:
    write_conformance_set(tmp_path)
    for file in folder.rglob("*.npy"):
        assert (tmp_path / file.relative_to(folder)).read_bytes() == file.read_bytes()
