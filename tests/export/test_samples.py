from pathlib import Path

import numpy as np
import pytest
from support.export import CLASSES, tiny_preprocess

from edgeseed.core.photos import open_photos
from edgeseed.export.samples import draw_samples


def test_no_photo_is_drawn_for_two_purposes(photos: Path, tmp_path: Path) -> None:
    samples = draw_samples(
        photos, tiny_preprocess(), classes=CLASSES, scratch=tmp_path, calibrate=True,
        max_calibration=10, seed=0,
    )  # fmt: skip
    assert samples.calibration is not None
    assert samples.reserve is not None
    assert len(samples.reserve) == 64 - 32 - 10
    first = samples.reserve.take(7)
    assert len(samples.reserve) == 15
    rest = samples.reserve.take(1000)
    assert len(samples.reserve) == 0
    assert len(samples.reserve.take(5)) == 0
    assert first.labels is None
    drawn = [samples.proof, samples.calibration, first, rest]
    assert [len(some) for some in drawn] == [32, 10, 7, 15]
    pixels = np.concatenate([some.pixels for some in drawn]).reshape(64, -1)
    preprocess, opened = tiny_preprocess(), open_photos(photos)
    everything = np.stack([preprocess.pixels(opened.image(i)) for i in range(64)]).reshape(64, -1)
    assert {row.tobytes() for row in pixels} == {row.tobytes() for row in everything}


def test_photos_that_float_models_are_compared_on_leave_no_reserve(
    photos: Path, tmp_path: Path
) -> None:
    samples = draw_samples(
        photos, tiny_preprocess(), classes=CLASSES, scratch=tmp_path, calibrate=False, seed=0
    )
    assert (samples.calibration, samples.reserve) == (None, None)


@pytest.mark.parametrize(("seen", "drawn"), [(149, None), (150, 40)])
def test_few_photos_are_not_divided_where_that_is_only_of_use(
    seen: int, drawn: int | None, photos: Path, tmp_path: Path
) -> None:
    some = tmp_path / "some"
    some.mkdir()
    files = sorted(photos.rglob("*.png"))
    for number in range(seen):
        (some / f"{number}.png").write_bytes(files[number % len(files)].read_bytes())
    samples = draw_samples(
        some, tiny_preprocess(), classes=CLASSES, scratch=tmp_path, calibrate=False,
        correcting=40, seed=0,
    )  # fmt: skip
    assert (None if samples.calibration is None else len(samples.calibration)) == drawn
    assert len(samples.proof) == seen - (drawn or 0)
