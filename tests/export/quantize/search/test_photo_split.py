from pathlib import Path

import numpy as np
import pytest

from edgeseed.core.photos import photos_from_arrays
from edgeseed.core.preprocess import Preprocess
from edgeseed.export.quantize.search.photo_split import PhotoSplit
from edgeseed.export.samples import Photos, Reserve

SIZE = 8


def numbered(first: int, count: int) -> np.ndarray:
    """(count, 8, 8, 3) photos, each of one value: its number, high byte and low byte."""
    numbers = np.arange(first, first + count)
    pixels = np.stack([numbers // 250, numbers % 250, 0 * numbers], axis=1).astype(np.uint8)
    return np.broadcast_to(pixels[:, None, None, :], (count, SIZE, SIZE, 3)).copy()


def numbers_of(photos: Photos | None) -> set[int]:
    if photos is None:
        return set()
    return {250 * int(p[0, 0, 0]) + int(p[1, 0, 0]) for p in np.asarray(photos.pixels)}


def divide(
    given: int, left: int, tmp_path: Path, *, gate_limit: float = 0.98, learning: bool = False
) -> PhotoSplit:
    photos = Photos(pixels=np.ascontiguousarray(numbered(0, given).transpose(0, 3, 1, 2)))
    others = photos_from_arrays(numbered(given, max(1, left)), None, name="others")
    preprocess = Preprocess(image_size=SIZE, resize=SIZE)
    reserve = Reserve(others, np.arange(left), preprocess, tmp_path)
    return PhotoSplit.divide(photos, reserve, gate_limit=gate_limit, learning=learning)


@pytest.mark.parametrize("learning", [False, True])
@pytest.mark.parametrize("given", [1, 16, 100, 512, 1200])
@pytest.mark.parametrize("left", [0, 40, 700, pytest.param(3000, marks=pytest.mark.slow)])
def test_no_photo_has_two_uses_but_those_that_rank(
    given: int, left: int, learning: bool, tmp_path: Path
) -> None:
    split = divide(given, left, tmp_path, learning=learning)
    assert split.reserve is not None
    uses = [
        numbers_of(split.calibration),
        numbers_of(split.held_out),
        numbers_of(split.acceptance),
        numbers_of(split.reserve.take(len(split.reserve))),
    ]
    assert sum(len(use) for use in uses) == given + left
    assert set.union(*uses) == set(range(given + left))
    ranking = numbers_of(split.ranking)
    assert uses[1] <= ranking <= uses[0] | uses[1]


def test_agreement_is_counted_on_as_many_photos_as_tell_the_gate(tmp_path: Path) -> None:
    # At 98 %, a standard error of a quarter of 2 % takes 784 photos; at 90 %, 144, of which those
    # that rank are more.
    counts = {
        gate_limit: len(numbers_of(divide(512, 3000, tmp_path, gate_limit=gate_limit).acceptance))
        for gate_limit in (0.98, 0.9, 1.0)
    }
    assert counts == {0.98: 784, 0.9: 512, 1.0: 2048}


def test_where_fewer_are_left_than_rank_nothing_is_taken_from_them(tmp_path: Path) -> None:
    split = divide(512, 300, tmp_path)
    assert split.acceptance is None
    assert split.reserve is not None
    assert len(split.reserve) == 300


def test_half_is_left_to_be_learnt_on(tmp_path: Path) -> None:
    split = divide(100, 2000, tmp_path, gate_limit=1.0, learning=True)
    assert split.reserve is not None
    assert len(split.reserve) >= 1000


def test_without_further_photos_there_are_none() -> None:
    photos = Photos(pixels=np.zeros((40, 3, SIZE, SIZE), np.uint8))
    split = PhotoSplit.divide(photos, None, gate_limit=0.98, learning=False)
    assert (split.acceptance, split.reserve) == (None, None)
    assert (len(split.calibration), len(split.held_out), len(split.ranking)) == (30, 10, 40)
