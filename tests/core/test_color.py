import io

import numpy as np
import pytest
from PIL import Image, ImageCms

from edgeseed.core.color import (
    LINEAR_MAX,
    display_p3_to_srgb,
    encoding_table,
    identify_profile,
    linear_table,
    srgb_to_linear,
)
from edgeseed.core.photos import decode
from edgeseed.export.apps.conformance import display_p3_profile

STRONG = np.stack(np.meshgrid(*[np.arange(0, 256, 51, dtype=np.uint8)] * 3), axis=-1).reshape(
    6, 36, 3
)


def srgb_profile() -> bytes:
    return ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()


def png(pixels: np.ndarray, profile: bytes | None) -> bytes:
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "png", icc_profile=profile)
    return file.getvalue()


def test_no_value_lies_so_near_a_border_that_the_last_bit_of_a_power_decides() -> None:
    # Every language computes the tables with its own pow().
    light = np.array([LINEAR_MAX * srgb_to_linear(v / 255) for v in range(256)])
    steps = np.array([LINEAR_MAX * srgb_to_linear((v - 0.5) / 255) for v in range(1, 256)])
    assert np.abs((light % 1) - 0.5).min() > 1e-4
    assert np.abs(steps - np.rint(steps)).min() > 1e-4


def test_encoding_undoes_linearising() -> None:
    assert np.array_equal(encoding_table()[linear_table()], np.arange(256))


def test_greys_are_the_same_in_both_spaces() -> None:
    greys = np.arange(256, dtype=np.uint8)[:, None].repeat(3, axis=1)
    assert np.array_equal(display_p3_to_srgb(greys), greys)


def test_conversion_agrees_with_littlecms_within_a_level() -> None:
    source = ImageCms.ImageCmsProfile(io.BytesIO(display_p3_profile()))
    converted = ImageCms.profileToProfile(
        Image.fromarray(STRONG),
        source,
        ImageCms.createProfile("sRGB"),
        renderingIntent=ImageCms.Intent.RELATIVE_COLORIMETRIC,
    )
    difference = np.subtract(np.asarray(converted), display_p3_to_srgb(STRONG), dtype=np.int64)
    assert np.abs(difference).max() <= 1


def test_profiles_are_known_by_their_numbers() -> None:
    assert identify_profile(display_p3_profile()) == "display-p3"
    assert identify_profile(srgb_profile()) == "srgb"
    # The name alone says nothing.
    assert identify_profile(srgb_profile().replace(b"sRGB", b"P3P3")) in ("srgb", "other")


@pytest.mark.parametrize("content", [b"", b"nonsense", b"\0" * 200, display_p3_profile()[:180]])
def test_a_broken_profile_counts_as_none(content: bytes) -> None:
    assert identify_profile(content) == "other"
    if content:
        assert np.array_equal(np.asarray(decode(png(STRONG, content))), STRONG)


def test_a_photo_in_display_p3_is_decoded_as_srgb() -> None:
    # Pillow took its values for sRGB: an iPhone's photo lost its saturation without a word.
    photo = decode(png(STRONG, display_p3_profile()))
    assert np.array_equal(np.asarray(photo), display_p3_to_srgb(STRONG))
    assert not np.array_equal(np.asarray(photo), STRONG)


def test_a_decoded_photo_that_is_saved_again_says_nothing_of_a_profile() -> None:
    # Golden photos are: an app would have converted their colours a second time.
    file = io.BytesIO()
    decode(png(STRONG, display_p3_profile())).save(file, "png")
    assert b"iCCP" not in file.getvalue()


def test_an_srgb_profile_changes_nothing() -> None:
    assert np.array_equal(np.asarray(decode(png(STRONG, srgb_profile()))), STRONG)


def test_colours_are_converted_before_they_are_laid_over_white() -> None:
    alpha = np.full((*STRONG.shape[:2], 1), 128, np.uint8)
    photo = decode(png(np.concatenate([STRONG, alpha], axis=-1), display_p3_profile()))
    opaque = np.concatenate([display_p3_to_srgb(STRONG), alpha], axis=-1)
    assert np.array_equal(np.asarray(photo), np.asarray(decode(png(opaque, None))))
