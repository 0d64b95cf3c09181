"""The literal preprocessing against ours, and both against Pillow."""

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image, ImageOps

from edgeseed.core.preprocess import Interpolation, Preprocess, normalization
from edgeseed.export.apps.reference import (
    FAULTS,
    Fault,
    Matrix,
    StoredPhoto,
    over_white,
    premultiply,
    preprocess_photo,
    upright,
    yuv_to_rgb,
)

INTERPOLATIONS: tuple[Interpolation, ...] = ("nearest", "bilinear", "bicubic")


def pixels(width: int, height: int, seed: int = 0) -> npt.NDArray[np.uint8]:
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
    interpolation: Interpolation, width: int, height: int, image_size: int, border: int, seed: int
) -> None:
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
    channels: int,
    photo_width: int,
    photo_height: int,
    image_size: int,
    width: int,
    border: int,
    interpolation: Interpolation,
) -> None:
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


@pytest.mark.parametrize("interpolation", INTERPOLATIONS)
def test_black_and_white_noise_is_clipped_as_pillow_clips_it(interpolation: Interpolation) -> None:
    photo = (pixels(53, 41) > 127).astype(np.uint8) * 255
    preprocess = Preprocess(image_size=30, resize=37, interpolation=interpolation)
    expected = preprocess_photo(StoredPhoto(pixels=photo), preprocess)
    assert np.array_equal(preprocess.pixels(Image.fromarray(photo)), expected)


def test_a_tall_photo_is_resized_width_first_by_every_pillow() -> None:
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


def test_alpha_over_white_is_pillows_for_every_colour_and_opacity() -> None:
    colors, opacity = np.meshgrid(np.arange(256, dtype=np.uint8), np.arange(256, dtype=np.uint8))
    rgba = np.stack([colors, colors, colors, opacity], axis=-1)
    image = Image.fromarray(rgba)
    white = Image.new("RGBA", image.size, "white")
    expected = np.asarray(Image.alpha_composite(white, image).convert("RGB"))
    assert np.array_equal(over_white(rgba[..., :3], opacity, premultiplied=False), expected)
    multiplied = premultiply(rgba[..., :3], opacity)
    assert np.array_equal(over_white(multiplied, opacity, premultiplied=True), expected)


@pytest.mark.parametrize("orientation", range(1, 9))
def test_orientations_are_pillows(orientation: int) -> None:
    image = Image.fromarray(pixels(7, 5))
    image.getexif()[0x112] = orientation
    assert np.array_equal(
        upright(pixels(7, 5), orientation), np.asarray(ImageOps.exif_transpose(image))
    )


def test_full_range_bt601_is_jpegs_conversion() -> None:
    photo = pixels(16, 12)
    y, cb, cr = (np.asarray(plane) for plane in Image.fromarray(photo).convert("YCbCr").split())
    planes = (plane[::2, ::2] for plane in (cb, cr))
    ours = yuv_to_rgb(y, *planes, matrix="bt601", range_="full")
    halved = [plane[::2, ::2].repeat(2, axis=0).repeat(2, axis=1) for plane in (cb, cr)]
    merged = Image.merge("YCbCr", [Image.fromarray(plane) for plane in (y, *halved)])
    difference = np.subtract(ours, np.asarray(merged.convert("RGB")), dtype=np.int64)
    assert np.abs(difference).max() <= 1


@pytest.mark.parametrize("matrix", ["bt601", "bt709"])
def test_video_range_spans_black_to_white(matrix: Matrix) -> None:
    luma = np.array([[16, 235]], np.uint8)
    grey = np.array([[128]], np.uint8)
    rgb = yuv_to_rgb(luma, grey, grey, matrix=matrix, range_="video")
    assert rgb.tolist() == [[[0, 0, 0], [255, 255, 255]]]


@pytest.mark.parametrize("fault", FAULTS)
def test_each_known_mistake_changes_a_photo_that_can_show_it(fault: Fault) -> None:
    photo = StoredPhoto(
        pixels=np.dstack([pixels(61, 47), pixels(61, 47, seed=1)[..., 0]]),
        alpha="straight",
        orientation=6,
        profile="display-p3",
    )
    preprocess = Preprocess(image_size=24, resize=27)
    right = preprocess_photo(photo, preprocess)
    assert not np.array_equal(right, preprocess_photo(photo, preprocess, fault=fault))
