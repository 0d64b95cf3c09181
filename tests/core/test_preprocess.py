"""Photos become the tensor that a model gets; export/apps/test_reference.py holds it to Pillow."""

import numpy as np
import pytest
from PIL import Image

from edgeseed.core.errors import ArtifactError
from edgeseed.core.preprocess import Preprocess


def test_the_box_that_a_photo_covers_has_the_inputs_shape() -> None:
    square = Preprocess(image_size=32, resize=36)
    assert square.box == (36, 36)
    wide = Preprocess(image_size=32, width=48, resize=36)
    assert wide.box == (36, 54)
    assert wide.box_text == "36 pixels of height and 54 of width"


def test_pixels_are_resized_by_the_shorter_side_and_cut_from_the_middle() -> None:
    photo = Image.new("RGB", (40, 20))
    photo.paste((255, 0, 0), (10, 0, 30, 20))
    pixels = Preprocess(image_size=10, resize=10, interpolation="nearest").pixels(photo)
    assert pixels.shape == (3, 10, 10)
    assert (pixels[0] == 255).all()
    assert (pixels[1:] == 0).all()


@pytest.mark.parametrize("size", [(1, 500), (500, 1), (3, 3), (33, 32), (32, 33)])
def test_any_photo_gives_the_size_that_was_asked_for(size: tuple[int, int]) -> None:
    pixels = Preprocess(image_size=32, resize=33).pixels(Image.new("RGB", size))
    assert pixels.shape == (3, 32, 32)


def test_normalize_is_the_formula() -> None:
    preprocess = Preprocess(image_size=2, resize=2, mean=(0.1, 0.2, 0.3), std=(0.5, 0.25, 1.0))
    pixels = np.array([[[0]], [[51]], [[255]]], np.uint8)
    expected = [(0 - 0.1) / 0.5, (0.2 - 0.2) / 0.25, (1 - 0.3) / 1.0]
    assert np.allclose(preprocess.normalize(pixels).ravel(), expected, atol=1e-6)


def test_a_preprocess_block_survives_a_round_trip() -> None:
    preprocess = Preprocess(image_size=24, resize=27, interpolation="bicubic", std=(0.5, 0.5, 0.5))
    assert Preprocess.from_dict(preprocess.to_dict()) == preprocess


@pytest.mark.parametrize(
    "change",
    [{"color": "BGR"}, {"std": [0, 1, 1]}, {"resize": 1}, {"x": 1}, {"interpolation": "magic"}],
)
def test_a_preprocess_block_that_makes_no_sense_is_refused(
    change: dict[str, str] | dict[str, list[int]] | dict[str, int],
) -> None:
    values = {**Preprocess(image_size=24, resize=27).to_dict(), **change}
    with pytest.raises(ArtifactError):
        Preprocess.from_dict(values)
