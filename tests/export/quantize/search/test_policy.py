"""How many photos serve a purpose: as many pixels at any size, within limits."""

import dataclasses

import numpy as np
import pytest

from edgeseed.export.quantize.ranges.observers import METHODS
from edgeseed.export.quantize.search.policy import POLICY, PhotoCount
from edgeseed.export.samples import Photos


@pytest.mark.parametrize(
    ("side", "expected"), [(224, 64), (112, 256), (32, 256), (448, 64), (158, 128)]
)
def test_smaller_photos_are_more_up_to_a_limit(side: int, expected: int) -> None:
    count = PhotoCount(pixels=64 * 224 * 224, least=64, most=256)
    photos = Photos(pixels=np.zeros((1, 3, side, side), np.uint8))
    assert count.of(photos) == expected


def test_limits_of_all_counts_make_sense() -> None:
    counts = [
        value for field in dataclasses.fields(POLICY)
        if isinstance(value := getattr(POLICY, field.name), PhotoCount)
    ]  # fmt: skip
    assert len(counts) > 5
    for count in counts:
        assert 0 < count.least <= count.most
        # At 224 pixels the least is what the pixels say.
        assert count.pixels // 224**2 == count.least


def test_what_is_tried_first_is_there() -> None:
    assert POLICY.first in METHODS
