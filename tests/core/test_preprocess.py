"""The preprocessing against its literal version, and both against Pillow."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image, ImageOps

from edgeseed.core.errors import ArtifactError
from edgeseed.core.preprocess import Preprocess, normalization
from edgeseed.export.apps.reference import (
    FAULTS,
    StoredPhoto,
    over_white,
    premultiply,
    preprocess_photo,
    upright,
    yuv_to_rgb,
)

INTERPOLATIONS = ("nearest", "bilinear", "bicubic")


def pixels(width: int, height: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)


@pytest.mark.parametrize("interpolation", INTERPOLATIONS)
@settings(max_examples=60, deadline=None)
@given(
    width=st.integers(1, 130),
    height=st.integers(1, 130),
    image_size=st.integers(1, 40),
    border=st.integers(0, 12),
    seed=st.integers(0, 1000),
)
def test_python_and_the_literal_specification_give_the_same_bytes(
    interpolation, width, height, image_size, border, seed
):
    if max(width, height) > 25 * min(width, height):
        return
    preprocess = Preprocess(
        image_size=image_size, resize=image_size + border, interpolation=interpolation
    )
    photo = pixels(width, height, seed)
    expected = preprocess_photo(StoredPhoto(pixels=photo), preprocess)
    assert np.array_equal(preprocess.pixels(Image.fromarray(photo)), expected)


@pytest.mark.parametrize("channels", [1, 3])
@settings(max_examples=60, deadline=None)
@given(
    photo_width=st.integers(1, 130),
    photo_height=st.integers(1, 130),
    image_size=st.integers(1, 40),
    width=st.integers(1, 60),
    border=st.integers(0, 12),
    interpolation=st.sampled_from(INTERPOLATIONS),
)
def test_other_inputs_are_those_of_the_literal_specification(
    channels, photo_width, photo_height, image_size, width, border, interpolation
):
    if max(photo_width, photo_height) > 25 * min(photo_width, photo_height):
        return
    if max(image_size, width) > 25 * min(image_size, width):
        return
    preprocess = Preprocess(
        image_size=image_size, width=width, resize=image_size + border,
        interpolation=interpolation, **normalization(channels),
    )  # fmt: skip
    photo = pixels(photo_width, photo_height)
    found = preprocess.pixels(Image.fromarray(photo))
    assert found.shape == (channels, image_size, width)
    assert np.array_equal(found, preprocess_photo(StoredPhoto(pixels=photo), preprocess))


def test_the_box_that_a_photo_covers_has_the_inputs_shape():
    square = Preprocess(image_size=32, resize=36)
    assert square.box == (36, 36)
    wide = Preprocess(image_size=32, width=48, resize=36)
    assert wide.box == (36, 54)
    assert wide.box_text == "36 pixels of height and 54 of width"


@pytest.mark.parametrize("interpolation", INTERPOLATIONS)
def test_black_and_white_noise_is_clipped_as_pillow_clips_it(interpolation):
    photo = (pixels(53, 41) > 127).astype(np.uint8) * 255
    preprocess = Preprocess(image_size=30, resize=37, interpolation=interpolation)
    expected = preprocess_photo(StoredPhoto(pixels=photo), preprocess)
    assert np.array_equal(preprocess.pixels(Image.fromarray(photo)), expected)


def test_a_tall_photo_is_resized_width_first_by_every_pillow():
    # Pillow 13 alone resizes the height first where it shrinks much more: other bytes.
    photo = Image.fromarray(pixels(31, 110))
    preprocess = Preprocess(image_size=24, resize=27)
    new = (27, 96)
    in_order = photo.resize((27, 110), Image.Resampling.BILINEAR).resize(
        new, Image.Resampling.BILINEAR
    )
    left, top = (27 - 24) // 2, (96 - 24) // 2
    expected = np.asarray(in_order.crop((left, top, left + 24, top + 24))).transpose(2, 0, 1)
    assert np.array_equal(preprocess.pixels(photo), expected)


def test_alpha_over_white_is_pillows_for_every_colour_and_opacity():
    colors, opacity = np.meshgrid(np.arange(256, dtype=np.uint8), np.arange(256, dtype=np.uint8))
    rgba = np.stack([colors, colors, colors, opacity], axis=-1)
    image = Image.fromarray(rgba)
    white = Image.new("RGBA", image.size, "white")
    expected = np.asarray(Image.alpha_composite(white, image).convert("RGB"))
    assert np.array_equal(over_white(rgba[..., :3], opacity, premultiplied=False), expected)
    multiplied = premultiply(rgba[..., :3], opacity)
    assert np.array_equal(over_white(multiplied, opacity, premultiplied=True), expected)


@pytest.mark.parametrize("orientation", range(1, 9))
def test_orientations_are_pillows(orientation):
    image = Image.fromarray(pixels(7, 5))
    image.getexif()[0x112] = orientation
    assert np.array_equal(
        upright(pixels(7, 5), orientation), np.asarray(ImageOps.exif_transpose(image))
    )


def test_full_range_bt601_is_jpegs_conversion():
    photo = pixels(16, 12)
    y, cb, cr = (np.asarray(plane) for plane in Image.fromarray(photo).convert("YCbCr").split())
    planes = (plane[::2, ::2] for plane in (cb, cr))
    ours = yuv_to_rgb(y, *planes, matrix="bt601", range_="full")
    halved = [plane[::2, ::2].repeat(2, axis=0).repeat(2, axis=1) for plane in (cb, cr)]
    merged = Image.merge("YCbCr", [Image.fromarray(plane) for plane in (y, *halved)])
    difference = np.subtract(ours, np.asarray(merged.convert("RGB")), dtype=np.int64)
    assert np.abs(difference).max() <= 1


@pytest.mark.parametrize("matrix", ["bt601", "bt709"])
def test_video_range_spans_black_to_white(matrix):
    luma = np.array([[16, 235]], np.uint8)
    grey = np.array([[128]], np.uint8)
    rgb = yuv_to_rgb(luma, grey, grey, matrix=matrix, range_="video")
    assert rgb.tolist() == [[[0, 0, 0], [255, 255, 255]]]


@pytest.mark.parametrize("fault", FAULTS)
def test_each_known_mistake_changes_a_photo_that_can_show_it(fault):
    photo = StoredPhoto(
        pixels=np.dstack([pixels(61, 47), pixels(61, 47, seed=1)[..., 0]]),
        alpha="straight",
        orientation=6,
        profile="display-p3",
    )
    preprocess = Preprocess(image_size=24, resize=27)
    right = preprocess_photo(photo, preprocess)
    assert not np.array_equal(right, preprocess_photo(photo, preprocess, fault=fault))


def test_pixels_are_resized_by_the_shorter_side_and_cut_from_the_middle():
    photo = Image.new("RGB", (40, 20))
    photo.paste((255, 0, 0), (10, 0, 30, 20))
    pixels = Preprocess(image_size=10, resize=10, interpolation="nearest").pixels(photo)
    assert pixels.shape == (3, 10, 10)
    assert (pixels[0] == 255).all()
    assert (pixels[1:] == 0).all()


@pytest.mark.parametrize("size", [(1, 500), (500, 1), (3, 3), (33, 32), (32, 33)])
def test_any_photo_gives_the_size_that_was_asked_for(size):
    pixels = Preprocess(image_size=32, resize=33).pixels(Image.new("RGB", size))
    assert pixels.shape == (3, 32, 32)


def test_normalize_is_the_formula():
    preprocess = Preprocess(image_size=2, resize=2, mean=(0.1, 0.2, 0.3), std=(0.5, 0.25, 1.0))
    pixels = np.array([[[0]], [[51]], [[255]]], np.uint8)
    expected = [(0 - 0.1) / 0.5, (0.2 - 0.2) / 0.25, (1 - 0.3) / 1.0]
    assert np.allclose(preprocess.normalize(pixels).ravel(), expected, atol=1e-6)


def test_a_preprocess_block_survives_a_round_trip():
    preprocess = Preprocess(image_size=24, resize=27, interpolation="bicubic", std=(0.5, 0.5, 0.5))
    assert Preprocess.from_dict(preprocess.to_dict()) == preprocess


@pytest.mark.parametrize(
    "change",
    [{"color": "BGR"}, {"std": [0, 1, 1]}, {"resize": 1}, {"x": 1}, {"interpolation": "magic"}],
)
def test_a_preprocess_block_that_makes_no_sense_is_refused(change):
    values = {**Preprocess(image_size=24, resize=27).to_dict(), **change}
    with pytest.raises(ArtifactError):
        Preprocess.from_dict(values)
